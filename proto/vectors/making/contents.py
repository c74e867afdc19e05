"""Vectors of what a manifest says, and whether this machine may boot it."""

import copy

from making.signing import MISSING, artifact, canonical, changed, envelope, signature, signed, text
from making.suite import GOOD, MANIFEST, ROOT, STRANGER, manifest, vector


def copies():
    good = envelope(MANIFEST, [ROOT])
    for name, fields, shows in [
        ("cmdline", {"cmdline": "init=/bin/sh"}, "another value"),
        ("version-number", {"manifest_version": 8}, "another number"),
        ("type", {"manifest_version": "7"}, "a number as a string"),
        ("added", {"note": 1}, "a field more, also one that is passed over"),
        ("added-null", {"note": None}, "a field more that is null"),
        ("kind-added", {"kind": "manifest"}, "a kind that was not signed"),
        ("removed", {"cmdline": MISSING}, "a field less"),
        ("nested", {"artifacts__kernel__size": 1}, "another value further in"),
        ("nested-added", {"artifacts__kernel__ipfs": "Qm"}, "a field more further in"),
        ("array-longer", {"artifacts__kernel__urls": ["kernel", "http://mirror.example/kernel"]}, "a URL more"),
        ("time-spelt-otherwise", {"created_at": "2026-11-01T00:00:00.0Z"}, "the same time spelt otherwise"),
        ("capitals", {"channel": "Stable"}, "another letter case"),
    ]:
        vector(f"copy-{name}", f"The copy outside must equal what was signed: {shows}.", text(changed(good, **fields)), "outer-differs")
    two = manifest(artifacts__kernel__urls=["a", "b"])
    vector("copy-array-order", "The order of an array counts.",
           text(changed(envelope(two, [ROOT]), artifacts__kernel__urls=["b", "a"])), "outer-differs")
    vector("copy-absent", "A document without the copy is refused.",
           text({name: good[name] for name in ("signatures", "signed")}), "outer-differs")
    inside = changed(MANIFEST, signatures=[])
    vector("copy-signatures-inside", "signatures inside signed.data has no copy outside.",
           signed(MANIFEST, [ROOT], canonical(inside)), "outer-differs")
    vector("data-array", "signed.data that is no object equals no copy.", signed(MANIFEST, [ROOT], b"[]"), "outer-differs")
    vector("data-empty", "signed.data that is empty is no JSON.", signed(MANIFEST, [ROOT], b""), "malformed")
    vector("data-trailing", "signed.data is one JSON value and no more.", signed(MANIFEST, [ROOT], canonical(MANIFEST) + b"x"), "malformed")
    vector("data-byte-order-mark", "signed.data has no byte order mark.",
           signed(MANIFEST, [ROOT], b"\xef\xbb\xbf" + canonical(MANIFEST)), "malformed")


def contents():
    vector("version-1", "A later major version of the protocol is refused.", signed(manifest(version="1.0"), [ROOT]), "unknown-version")
    vector("version-00", "00.1 is not 0.1.", signed(manifest(version="00.1"), [ROOT]), "unknown-version")
    vector("version-first", "The version counts before all other fields.",
           signed({"version": "1.0", "kernel": "elsewhere"}, [ROOT]), "unknown-version")
    bad = [
        ("version-missing", {"version": MISSING}, "version is missing"),
        ("version-number", {"version": 1}, "version is no string"),
        ("kind-unknown", {"kind": "Manifest"}, "the kind is unknown"),
        ("kind-null", {"kind": None}, "the kind is null"),
        ("manifest-version-zero", {"manifest_version": 0}, "manifest_version is 0"),
        ("manifest-version-negative", {"manifest_version": -1}, "manifest_version is negative"),
        ("manifest-version-string", {"manifest_version": "7"}, "manifest_version is a string"),
        ("manifest-version-missing", {"manifest_version": MISSING}, "manifest_version is missing"),
        ("channel-path", {"channel": "../stable"}, "the channel has a slash"),
        ("channel-dot", {"channel": ".stable"}, "the channel begins with a dot"),
        ("channel-empty", {"channel": ""}, "the channel is empty"),
        ("channel-long", {"channel": "a" * 65}, "the channel has 65 letters"),
        ("arch-number", {"arch": 64}, "the architecture is a number"),
        ("arch-missing", {"arch": MISSING}, "the architecture is missing"),
        ("expires-no-time", {"expires_at": "soon"}, "expires_at is no time"),
        ("expires-no-zone", {"expires_at": "2026-12-01T00:00:00"}, "expires_at has no zone"),
        ("expires-no-day", {"expires_at": "2027-02-29T00:00:00Z"}, "expires_at is no day of the calendar"),
        ("expires-hour-24", {"expires_at": "2026-12-01T24:00:00Z"}, "expires_at has an hour 24"),
        ("expires-offset-24", {"expires_at": "2026-12-01T00:00:00+24:00"}, "expires_at has an offset of a day"),
        ("expires-offset-minute-60", {"expires_at": "2026-12-01T00:00:00+01:60"}, "expires_at has an offset with a minute 60"),
        ("expires-before-1970", {"expires_at": "1969-12-31T23:59:59Z"}, "expires_at is before 1970"),
        ("expires-before-1970-by-offset", {"expires_at": "1970-01-01T00:00:00+00:01"}, "expires_at is before 1970 in UTC"),
        ("expires-number", {"expires_at": 1796083200}, "expires_at is a number"),
        ("created-no-time", {"created_at": "yesterday"}, "created_at is no time"),
        ("cmdline-control", {"cmdline": "a\nb"}, "the command line has a line break"),
        ("cmdline-delete", {"cmdline": "a\x7fb"}, "the command line has U+007F"),
        ("cmdline-c1-control", {"cmdline": "a\u0085b"}, "the command line has U+0085"),
        ("cmdline-long", {"cmdline": "\u00fc" * 2048 + "x"}, "the command line has 4097 bytes"),
        ("cmdline-number", {"cmdline": 1}, "the command line is a number"),
        ("artifacts-missing", {"artifacts": MISSING}, "artifacts is missing"),
        ("artifacts-array", {"artifacts": []}, "artifacts is an array"),
        ("kernel-missing", {"artifacts__kernel": MISSING}, "the kernel is missing"),
        ("initramfs-missing", {"artifacts__initramfs": MISSING}, "the initramfs is missing"),
        ("hash-md5", {"artifacts__kernel__hash": "md5:" + "00" * 16}, "the hash is not SHA-256"),
        ("hash-short", {"artifacts__kernel__hash": "sha256:" + "00" * 31}, "the hash is too short"),
        ("hash-capitals", {"artifacts__kernel__hash": "sha256:" + "AB" * 32}, "the hash is in capitals"),
        ("hash-letters", {"artifacts__kernel__hash": "sha256:" + "0g" * 32}, "the hash is not hexadecimal"),
        ("hash-missing", {"artifacts__kernel__hash": MISSING}, "the hash is missing"),
        ("size-zero", {"artifacts__initramfs__size": 0}, "the size is 0"),
        ("size-above-limit", {"artifacts__initramfs__size": 68719476737}, "the size is above 64 GiB"),
        ("size-string", {"artifacts__initramfs__size": "5"}, "the size is a string"),
        ("urls-empty", {"artifacts__kernel__urls": []}, "there is no URL"),
        ("urls-string", {"artifacts__kernel__urls": "kernel"}, "urls is a string"),
        ("urls-number", {"artifacts__kernel__urls": [7]}, "a URL is a number"),
        ("urls-33", {"artifacts__kernel__urls": ["kernel"] * 33}, "there are 33 URLs"),
        ("url-empty", {"artifacts__kernel__urls": [""]}, "a URL is empty"),
        ("url-space", {"artifacts__kernel__urls": ["a b"]}, "a URL has a space"),
        ("url-not-ascii", {"artifacts__kernel__urls": ["k\u00fc"]}, "a URL is not ASCII"),
        ("url-long", {"artifacts__kernel__urls": ["a" * 2049]}, "a URL has 2049 bytes"),
        ("rootfs", {"artifacts__rootfs": {"hash": "sha256:00"}}, "the root file system is malformed"),
        ("dtbs-array", {"artifacts__dtbs": []}, "dtbs is an array"),
        ("dtb-absolute", {"artifacts__dtbs": {"/b.dtb": artifact("d", 1)}}, "a device tree's name begins with a slash"),
        ("dtb-climbs", {"artifacts__dtbs": {"a/../b.dtb": artifact("d", 1)}}, "a device tree's name climbs"),
        ("dtb-empty-part", {"artifacts__dtbs": {"a//b.dtb": artifact("d", 1)}}, "a part of a device tree's name is empty"),
        ("dtb-empty", {"artifacts__dtbs": {"": artifact("d", 1)}}, "a device tree's name is empty"),
        ("dtb-space", {"artifacts__dtbs": {"a b.dtb": artifact("d", 1)}}, "a device tree's name has a space"),
        ("dtb-long", {"artifacts__dtbs": {"a" * 129: artifact("d", 1)}}, "a device tree's name has 129 letters"),
        ("dtb-size", {"artifacts__dtbs": {"b.dtb": artifact("d", 0)}}, "a device tree is empty"),
        ("dtbs-257", {"artifacts__dtbs": {f"{n}.dtb": artifact("d", 1) for n in range(257)}}, "there are 257 device trees"),
        ("ipfs-number", {"artifacts__kernel__ipfs": 7}, "ipfs is a number"),
        ("ipfs-space", {"artifacts__kernel__ipfs": "Qm Qm"}, "ipfs has a space"),
        ("ipfs-long", {"artifacts__kernel__ipfs": "Q" * 129}, "ipfs has 129 bytes"),
    ]
    for name, fields, shows in bad:
        vector(f"content-{name}", f"Signed, and outside the bounds all the same: {shows}.", signed(manifest(**fields), [ROOT]), "malformed")
    good = [
        ("cmdline-4096", {"cmdline": "\u00fc" * 2048}, "a command line of 4096 bytes"),
        ("channel-64", {"channel": "a" * 64}, "a channel of 64 letters"),
        ("urls-32", {"artifacts__kernel__urls": ["a" * 2048] * 32}, "32 URLs of 2048 bytes"),
        ("dtb-128", {"artifacts__dtbs": {"a" * 64 + "/" + "b" * 63: artifact("d", 1)}}, "a device tree's name of 128 letters"),
        ("ipfs-128", {"artifacts__kernel__ipfs": "Q" * 128}, "ipfs of 128 bytes"),
        ("size-1", {"artifacts__kernel__size": 1}, "an artifact of one byte"),
        ("dtbs-256", {"artifacts__dtbs": {f"{n}.dtb": artifact("d", 1) for n in range(256)}}, "256 device trees"),
    ]
    for name, fields, shows in good:
        vector(f"content-at-{name}", f"At the bound: {shows}.", signed(manifest(**fields), [ROOT]), channel=fields.get("channel", "stable"))


def machines():
    vector("other-arch", "A manifest for arm64 on x86_64.", signed(manifest(arch="arm64"), [ROOT]), "other-arch")
    vector("other-arch-x86", "A manifest for x86_64 on arm64.", GOOD, "other-arch", arch="arm64")
    vector("other-arch-unknown", "An architecture that nobody knows is another one.", signed(manifest(arch="riscv64"), [ROOT]), "other-arch")
    vector("other-arch-capitals", "Letter case counts in architectures.", signed(manifest(arch="X86_64"), [ROOT]), "other-arch")
    for name in ("arm64", "aarch64"):
        vector(f"arch-{name}", "arm64 and aarch64 are the same.", signed(manifest(arch=name), [ROOT]), arch="arm64")
    vector("other-channel", "A manifest of another channel.", signed(manifest(channel="beta"), [ROOT]), "other-channel")
    vector("other-channel-capitals", "Letter case counts in channels.", GOOD, "other-channel", channel="Stable")
    vector("channel-not-allowed", "The wanted channel, which the policy does not allow.", GOOD, "channel-not-allowed",
           policy={"channels": ["lts", "beta"]})
    vector("channel-allowed", "A channel that the policy names.", GOOD, policy={"channels": ["lts", "stable"]})

    vector("expired-at", "At expires_at a manifest has expired.", GOOD, "expired", clock="2026-12-01T00:00:00Z")
    vector("expired-one-second-before", "One second before it has not.", GOOD, clock="2026-11-30T23:59:59Z")
    vector("expired-offset", "Times may have an offset: this one is 2026-11-30T23:00:00Z.",
           signed(manifest(expires_at="2026-12-01T00:30:00+01:30"), [ROOT]), "expired", clock="2026-11-30T23:00:00Z")
    vector("expired-offset-before", "The same one second before.",
           signed(manifest(expires_at="2026-12-01T00:30:00+01:30"), [ROOT]), clock="2026-11-30T22:59:59Z")
    vector("expired-fraction", "Fractions of a second are dropped.",
           signed(manifest(expires_at="2026-12-01T00:00:00.999Z"), [ROOT]), "expired", clock="2026-12-01T00:00:00Z")
    vector("expired-small-letters", "RFC 3339 allows t and z.",
           signed(manifest(expires_at="2026-12-01t00:00:00z"), [ROOT]), "expired", clock="2026-12-01T00:00:00Z")
    vector("expired-leap-second", "Second 60 is the first second of the next minute.",
           signed(manifest(expires_at="2026-12-31T23:59:60Z"), [ROOT]), clock="2026-12-31T23:59:59Z")
    timeless = signed(manifest(expires_at=MISSING), [ROOT])
    vector("no-expiry-required", "The policy may ask that manifests expire.", timeless, "expired", policy={"require_expiry": True})
    vector("no-expiry-null-required", "null is no expiry.", signed(manifest(expires_at=None), [ROOT]), "expired", policy={"require_expiry": True})
    vector("expiry-required", "Those that do are fine.", GOOD, policy={"require_expiry": True})
    vector("created-in-the-future", "created_at is for people.", signed(manifest(created_at="2099-01-01T00:00:00Z"), [ROOT]))
    vector("clock-1970-expired", "The build time is a floor for a clock that starts in 1970.", GOOD, "expired",
           clock="1970-01-01T00:00:07Z", build_time="2026-12-01T00:00:00Z")
    vector("clock-1970", "With an earlier build time the same manifest is fine.", GOOD,
           clock="1970-01-01T00:00:07Z", build_time="2026-11-30T23:59:59Z")
    vector("clock-1970-no-floor", "Without a build time the clock is believed.", GOOD, clock="1970-01-01T00:00:07Z")
    vector("clock-after-floor", "A clock above the floor is believed.", GOOD, "expired",
           clock="2026-12-01T00:00:00Z", build_time="2026-11-01T00:00:00Z")

    vector("rollback-policy", "Older than the policy wants.", GOOD, "rolled-back", policy={"min_manifest_version": 8})
    vector("rollback-policy-equal", "The lowest version that the policy wants.", GOOD, policy={"min_manifest_version": 7})
    seen = lambda version, at="stable/x86_64": {"manifests": {at: version}}
    vector("rollback-record-higher", "Older than what this machine has seen.", GOOD, "rolled-back", record=seen(8))
    vector("rollback-record-equal", "The same version again.", GOOD, record=seen(7))
    vector("rollback-record-lower", "Newer than what this machine has seen.", GOOD, record=seen(6))
    vector("rollback-record-largest", "The record takes every version.", GOOD, "rolled-back", record=seen(2**53 - 1))
    vector("rollback-record-other-channel", "What was seen of another channel does not count.", GOOD, record=seen(8, "beta/x86_64"))
    vector("rollback-record-other-arch", "What was seen of another architecture does not count.", GOOD, record=seen(8, "stable/arm64"))
    vector("rollback-record-aarch64", "The record names arm64 and aarch64 alike.",
           signed(manifest(arch="aarch64"), [ROOT]), "rolled-back", arch="arm64", record=seen(8, "stable/arm64"))
    vector("rollback-record-and-policy", "The higher of policy and record counts.", GOOD, "rolled-back",
           policy={"min_manifest_version": 8}, record=seen(3))

    old = dict(expires_at="2026-01-01T00:00:00Z", manifest_version=1)
    low = {"min_manifest_version": 2}
    vector("order-copy-before-version", "The copy counts before the version.",
           text(changed(envelope(manifest(version="1.0"), [ROOT]), cmdline="x")), "outer-differs")
    vector("order-trust-before-copy", "Signatures count before the copy.",
           text(changed(envelope(MANIFEST, [STRANGER]), cmdline="x")), "not-trusted")
    vector("order-content-before-arch", "The bounds count before the architecture.",
           signed(manifest(arch="arm64", cmdline="\n"), [ROOT]), "malformed")
    vector("order-arch-first", "Other architecture, other channel, expired and rolled back: the architecture is named.",
           signed(manifest(arch="arm64", channel="beta", **old), [ROOT]), "other-arch", policy=low)
    vector("order-channel-second", "Other channel, expired and rolled back: the channel is named.",
           signed(manifest(channel="beta", **old), [ROOT]), "other-channel", policy=low)
    vector("order-policy-third", "Channel not allowed, expired and rolled back: the policy is named.",
           signed(manifest(**old), [ROOT]), "channel-not-allowed", policy={**low, "channels": ["beta"]})
    vector("order-expiry-fourth", "Expired and rolled back: the expiry is named.", signed(manifest(**old), [ROOT]), "expired", policy=low)


def plasmds_form():
    def file(name):
        return {"filename": name, "size_bytes": 5, "hash": "sha256:" + "ab" * 32, "download_url": f"/stable/x86_64/{name}"}

    plain = {
        "manifest_version": 1, "version": "0.1.0", "channel": "stable", "arch": "x86_64",
        "created_at": "2026-11-01T00:00:00+00:00", "expires_at": "2026-12-01T00:00:00+00:00",
        "artifacts": {"kernel": file("vmlinuz"), "initramfs": file("initramfs.img"), "dtb-rpi4": file("rpi4.dtb")},
        "signatures": [],
    }
    lax = {"allow_unsigned": True}
    vector("unsigned", "plasmd's own manifest carries no signature.", text(plain), "unsigned")
    vector("unsigned-allowed", "The policy may allow it.", text(plain), policy=lax)
    vector("unsigned-allowed-no-key", "Then no key is needed either.", text(plain), policy=lax, keys=[])
    vector("unsigned-allowed-expired", "All that does not need a signature holds.", text(plain), "expired", policy=lax, clock="2026-12-01T00:00:00Z")
    vector("unsigned-allowed-other-arch", "Also the architecture.", text(plain), "other-arch", policy=lax, arch="arm64")
    vector("unsigned-allowed-rolled-back", "Also the record.", text(plain), "rolled-back", policy=lax, record={"manifests": {"stable/x86_64": 2}})
    vector("unsigned-allowed-malformed", "Also the bounds.", text(changed(plain, artifacts__kernel=MISSING)), "malformed", policy=lax)
    vector("unsigned-no-field", "A manifest without the field signatures is unsigned too.", text(MANIFEST), "unsigned")
    own = {"algorithm": "ed25519", "key_id": "00" * 16, "signature": "00" * 64, "signed_at": "2026-11-01T00:00:00+00:00"}
    foreign = text({**plain, "signatures": [own]})
    vector("foreign-signature", "plasmd's own form of signature says nothing about which bytes it covers.", foreign, "foreign-signature")
    vector("foreign-signature-unsigned-allowed", "A document with a signature is held to it.", foreign, "foreign-signature", policy=lax)
    vector("foreign-signature-with-signed", "Beside signed, a signature without sig is malformed.",
           text(changed(envelope(MANIFEST, [ROOT]), signatures=[own])), "malformed")
    vector("foreign-signature-beside-ours", "Both forms mixed are neither.",
           text({**plain, "signatures": [own, signature(ROOT, b"")]}), "malformed")
    vector("signed-with-plasmds-artifacts", "Signed, plasmd's names for size and URL are understood as well.",
           signed(manifest(artifacts__kernel=file("vmlinuz")), [ROOT]))
