"""Vectors of what a machine packs: thresholds, key files, limits of keys, the policy."""

import hashlib

from making.signing import (
    Key, MISSING, P, b64, canonical, encode, envelope, files, from_y, hexadecimal, openssh, pem, signed, text,
    torsion_point,
)
from making.suite import GOOD, MANIFEST, ROOT, SECOND, STRANGER, THIRD, manifest, vector


def thresholds():
    three = files(ROOT, SECOND, THIRD)
    two = {"threshold": 2}
    vector("threshold-reached", "Two of three.", signed(MANIFEST, [ROOT, THIRD]), keys=three, policy=two)
    vector("threshold-exceeded", "Three of three where two are needed.", signed(MANIFEST, [ROOT, SECOND, THIRD]), keys=three, policy=two)
    vector("threshold-not-reached", "One of three where two are needed.", signed(MANIFEST, [SECOND]), "not-trusted", keys=three, policy=two)
    vector("threshold-same-signature-twice", "The same signature twice is one voice.",
           signed(MANIFEST, [ROOT, ROOT]), "not-trusted", keys=three, policy=two)
    digest = hashlib.sha256(canonical(MANIFEST)).digest()
    again = envelope(MANIFEST, [ROOT, ROOT])
    again["signatures"][1] = {"keyid": "another", "sig": b64(ROOT.sign(digest, b"another nonce"))}
    vector("threshold-two-signatures-of-one-key", "Two different signatures by one key are one voice.",
           text(again), "not-trusted", keys=three, policy=two)
    vector("threshold-with-stranger", "A stranger is no voice.", signed(MANIFEST, [ROOT, STRANGER]), "not-trusted", keys=three, policy=two)
    vector("threshold-key-in-two-files", "The same key in two files, in two forms, is one voice.",
           signed(MANIFEST, [ROOT, ROOT]), "not-trusted", keys=files(ROOT, pem(ROOT), SECOND), policy=two)
    vector("threshold-key-twice-in-a-file", "The same key twice in one file is one voice.",
           signed(MANIFEST, [ROOT]), "not-trusted", keys=files(hexadecimal(ROOT) + openssh(ROOT) + hexadecimal(SECOND)), policy=two)
    vector("threshold-above-keys", "A threshold that the packed keys can never reach is an error from the start.",
           signed(MANIFEST, [ROOT]), "no-trust", keys=files(ROOT, pem(ROOT)), policy=two)
    vector("root-threshold", "root_threshold counts for manifests that roots sign.", signed(MANIFEST, [ROOT]), "not-trusted",
           keys=three, policy={"root_threshold": 2})
    vector("root-threshold-reached", "As many roots as it says.", signed(MANIFEST, [ROOT, SECOND]), keys=three, policy={"root_threshold": 2})
    vector("root-threshold-above-keys", "A root_threshold that the packed keys can never reach.", GOOD, "no-trust", policy={"root_threshold": 2})


def key_files():
    forms = [
        ("raw", ROOT.public, "32 raw bytes"),
        ("hex", hexadecimal(ROOT), "hexadecimal"),
        ("hex-in-capitals", hexadecimal(ROOT).upper(), "hexadecimal in capitals"),
        ("base64", b64(ROOT.public) + "\n", "base64"),
        ("pem", pem(ROOT), "PEM with a SubjectPublicKeyInfo"),
        ("openssh", openssh(ROOT), "OpenSSH's one line"),
        ("openssh-no-comment", openssh(ROOT, "").strip(), "OpenSSH's line without a comment"),
        ("crlf", "# key\r\n\r\n" + hexadecimal(ROOT).strip() + "\r\n", "lines that end in CR LF"),
    ]
    for name, content, shows in forms:
        vector(f"key-file-{name}", f"A key file: {shows}.", GOOD, keys=files(content))
    several = "# two people\n\n" + hexadecimal(SECOND) + openssh(ROOT)
    vector("key-file-several", "Several keys in one file, with a comment and an empty line.", GOOD, keys=files(several))
    vector("key-file-several-pem", "Several PEM blocks in one file.", GOOD, keys=files(pem(SECOND) + pem(ROOT)))
    vector("key-file-named-otherwise", "Only files that end in .pub hold keys.", signed(MANIFEST, [SECOND]), "not-trusted",
           keys=[*files(ROOT), {"file": "second.key", "text": hexadecimal(SECOND)}])
    order = torsion_point()
    for name, content, shows in [
        ("other-space", "\u2003" + hexadecimal(ROOT).strip() + "\u00a0\n\u3000\n", "Unicode's white space around lines is passed over"),
        ("attribute-space", "id:a\nchannels:\tbeta ,\u00a0stable \n" + hexadecimal(ROOT), "and around the parts of an attribute"),
    ]:
        vector(f"key-file-{name}", f"A key file: {shows}.", GOOD, keys=files(content))
    bad = [
        ("separator", "\x1c\n" + hexadecimal(ROOT), "U+001C, which is no white space"),
        ("zero-width-space", "\u200b\n" + hexadecimal(ROOT), "U+200B, which is no white space"),
        ("attribute-in-capitals", "ID: a\n" + hexadecimal(ROOT), "an attribute in capitals"),
        ("space-before-colon", "id : a\n" + hexadecimal(ROOT), "a space before the colon"),
        ("no-key", "# nobody\n", "a file without a key"),
        ("words", "hello world\n", "a line that is no key"),
        ("short", ROOT.public.hex()[:-2] + "\n", "a key that is too short"),
        ("rsa", "ssh-rsa AAAAB3NzaC1yc2E= someone\n", "a key that is not Ed25519"),
        ("openssh-alone", "ssh-ed25519\n", "OpenSSH's word without a key"),
        ("openssh-other", "ssh-ed25519 " + b64(b"\0\0\0\x0bssh-ed448--\0\0\0\x20" + ROOT.public) + "\n", "OpenSSH's line around another kind of key"),
        ("pem-other", pem(ROOT).replace("MCowBQYDK2Vw", "MCowBQYDK2Vu"), "a PEM block with an X25519 key"),
        ("pem-cut-off", pem(ROOT)[:-10] + "\n", "a PEM block that does not end"),
        ("private", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "a private key"),
        ("base64-unpadded", b64(ROOT.public).rstrip("=") + "\n", "base64 without padding"),
        ("no-point", "02" + "00" * 31 + "\n", "32 bytes that are no point of the curve"),
        ("small-order", "01" + "00" * 31 + "\n", "the identity, for which anybody can sign"),
        ("order-8", encode(order).hex() + "\n", "a point of order 8"),
        ("small-order-not-canonical", (P + 1).to_bytes(32, "little").hex() + "\n", "the identity in another spelling"),
        ("not-canonical", (P + 3).to_bytes(32, "little").hex() + "\n", "a point whose y is not below 2^255-19"),
        ("unknown-attribute", "chanels: beta\n" + hexadecimal(ROOT), "an attribute that nobody knows"),
        ("attribute-twice", "id: a\nid: b\n" + hexadecimal(ROOT), "an attribute that stands twice before a key"),
        ("attribute-without-key", hexadecimal(ROOT) + "channels: beta\n", "an attribute without a key after it"),
        ("no-channels", "channels:\n" + hexadecimal(ROOT), "an empty list of channels"),
        ("bad-channel", "channels: stable, ../x\n" + hexadecimal(ROOT), "a channel that is no channel name"),
        ("bad-time", "not-after: soon\n" + hexadecimal(ROOT), "a time that is none"),
        ("bad-id", "id: a b\n" + hexadecimal(ROOT), "an id that is none"),
        ("fingerprint-id", "id: 0123456789abcdef\n" + hexadecimal(ROOT), "an id that looks like a fingerprint"),
        ("fingerprint-id-in-capitals", "id: 0123456789ABCDEF\n" + hexadecimal(ROOT), "an id that looks like a fingerprint in capitals"),
    ]
    assert from_y(3, 0) is not None
    for name, content, shows in bad:
        vector(f"key-file-bad-{name}", f"A key file that cannot be followed refuses everything: {shows}.",
               GOOD, "no-trust", keys=files(ROOT, content))
    many = [Key(f"listed {n}") for n in range(63)] + [ROOT, SECOND]
    vector("key-file-64", "64 keys are read.", GOOD, keys=files("".join(map(hexadecimal, many[:64]))))
    vector("key-file-65", "65 keys are refused, over all files.", GOOD, "no-trust", keys=files("".join(map(hexadecimal, many[:64])), SECOND))
    for length, verdict in [(65536, "accepted"), (65537, "no-trust")]:
        padded = [{"file": "a.pub", "text": hexadecimal(ROOT), "pad_to": length}]
        vector(f"key-file-of-{length}-bytes", "A key file has at most 64 KiB.", GOOD, verdict, keys=padded)
    limited = "channels: beta\n" + hexadecimal(ROOT)
    vector("key-file-two-limits", "The same key with two different limits: nobody can say which one holds.",
           GOOD, "no-trust", keys=files(ROOT, limited))
    vector("key-file-id-twice", "Two keys with one id: nobody can say which one a revocation means.",
           GOOD, "no-trust", keys=files("id: a\n" + hexadecimal(ROOT), "id: a\n" + hexadecimal(SECOND)))
    vector("no-key", "Without a key nothing is ever accepted.", GOOD, "no-trust", keys=[])


def limits():
    beta, both = "channels: beta\n", "channels: beta , stable\n"
    later = "not-after: 2027-01-01T00:00:00Z\n"
    vector("limit-channel-other", "A key for another channel does not count.", GOOD, "not-trusted", keys=files(beta + hexadecimal(ROOT)))
    vector("limit-channel-same", "A key for this channel counts.", GOOD, keys=files(both + hexadecimal(ROOT)))
    vector("limit-channel-of-the-machine", "The channel that the machine wants decides, not the one that the manifest names.",
           signed(manifest(channel="beta"), [ROOT]), "not-trusted", keys=files(beta + hexadecimal(ROOT)))
    vector("limit-channel-threshold", "A key for another channel is no voice towards the threshold.",
           signed(MANIFEST, [ROOT, SECOND]), "not-trusted",
           keys=files(ROOT, beta + hexadecimal(SECOND)), policy={"threshold": 2})
    first = beta + "id: tester\n# then\n\n" + hexadecimal(SECOND) + hexadecimal(ROOT)
    vector("limit-next-key-only", "Attributes hold for the next key of the file and no other.", GOOD, keys=files(first))
    vector("limit-next-key", "Comments and empty lines do not come between attributes and their key.",
           signed(MANIFEST, [SECOND]), "not-trusted", keys=files(first))
    for name, form in [("pem", pem), ("openssh", openssh), ("base64", lambda key: b64(key.public) + "\n")]:
        vector(f"limit-{name}", "Attributes work before every form of key that is text.",
               GOOD, "not-trusted", keys=files(beta + form(ROOT)))
    vector("limit-second-pem", "Attributes between two PEM blocks are for the second.",
           GOOD, "not-trusted", keys=files(pem(SECOND) + beta + pem(ROOT)))
    vector("limit-time-before", "One second before not-after a key counts.", signed(manifest(expires_at=MISSING), [ROOT]),
           keys=files(later + hexadecimal(ROOT)), clock="2026-12-31T23:59:59Z")
    vector("limit-time-at", "At not-after a key no longer counts.", signed(manifest(expires_at=MISSING), [ROOT]), "not-trusted",
           keys=files(later + hexadecimal(ROOT)), clock="2027-01-01T00:00:00Z")
    vector("limit-time-floor", "The build time is a floor for not-after too.", signed(manifest(expires_at=MISSING), [ROOT]), "not-trusted",
           keys=files(later + hexadecimal(ROOT)), clock="1970-01-01T00:00:07Z", build_time="2027-01-01T00:00:00Z")


def policies():
    bad = [
        ("unknown-field", {"treshold": 2}, "a field that nobody knows"),
        ("threshold-zero", {"threshold": 0}, "a threshold of 0"),
        ("root-threshold-zero", {"root_threshold": 0}, "a threshold of 0 for lists"),
        ("root-threshold-null", {"root_threshold": None}, "null, which is no number"),
        ("channels-null", {"channels": None}, "null, which is no array"),
        ("threshold-string", {"threshold": "1"}, "a threshold that is a string"),
        ("settable-unknown", {"settable": ["phase.trust"]}, "a parameter that nobody knows"),
        ("channels-string", {"channels": "stable"}, "channels that are no array"),
        ("allow-unsigned-number", {"allow_unsigned": 0}, "a number for a truth value"),
        ("keyring-string", {"require_kernel_keyring": "yes"}, "a string for a truth value"),
        ("negative-version", {"min_manifest_version": -1}, "a negative version"),
        ("rollback-record-unknown", {"rollback_record": "perhaps"}, "a rule for the record that nobody knows"),
        ("cache-number", {"cache": 1}, "a cache that is a number"),
        ("tls-roots-string", {"tls_roots": "ca.pem"}, "TLS roots that are no array"),
        ("tls-pins-short", {"tls_pins": ["sha256//AAAA"]}, "a pin that is too short"),
        ("on-fail-unknown", {"on_fail": "panic"}, "a reaction that nobody knows"),
        ("leases-unknown", {"leases": "renew"}, "a treatment of leases that nobody knows"),
        ("root-threshold-lower", {"threshold": 2, "root_threshold": 1}, "a threshold for roots below the one for all"),
        ("damaged-record-loosens", {"damaged_record": "replace"}, "a damaged record that nothing stands in for"),
        ("damaged-record-unknown", {"damaged_record": "forget"}, "a treatment of damage that nobody knows"),
        ("record-name-path", {"record_name": "../seen"}, "a name of a record with other characters"),
    ]
    for name, policy, shows in bad:
        vector(f"policy-bad-{name}", f"A policy that cannot be followed refuses everything: {shows}.", GOOD, "no-trust", policy=policy)
    every = {
        "threshold": 1, "root_threshold": 1, "allow_unsigned": False, "channels": ["stable"],
        "min_manifest_version": 7, "min_keys_version": 0, "require_expiry": True,
        "require_kernel_keyring": True, "settable": ["phase.provider", "phase.channel", "phase.proxy", "phase.clientid"], "inherit": ["console"],
        "on_fail": "reboot", "leases": "release",
        "rollback_record": "optional", "damaged_record": "replace", "cache": "off", "record_name": "acme-2",
        "tls_roots": [], "tls_pins": [],
    }
    vector("policy-every-field", "Every field that a policy can have.", GOOD, policy=every)
