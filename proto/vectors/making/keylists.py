"""Vectors of key lists: rotation, revocation, and the two kinds of documents."""

from making.signing import (
    IDENTITY, Key, MISSING, b64, canonical, changed, encode, envelope, files, hexadecimal, replaced, signed, text,
)
from making.suite import GOOD, MANIFEST, MEBIBYTE, OTHER, RELEASE, ROOT, SECOND, STRANGER, THIRD, vector

LIST = {
    "kind": "keys",
    "version": "0.1",
    "keys_version": 3,
    "threshold": 1,
    "created_at": "2026-11-01T00:00:00Z",
    "expires_at": "2027-11-01T00:00:00Z",
    "keys": [{"key": b64(RELEASE.public), "id": "release-2026"}],
    "revoked": [],
}


def key_list(**fields):
    return changed(LIST, **fields)


def entry(key, **fields):
    return {"key": b64(key.public), **fields}


def key_lists():
    listed = signed(LIST, [ROOT])
    new, old = signed(MANIFEST, [RELEASE]), GOOD
    vector("keys-rotation", "A key that only the key list names may sign manifests.", new, keys_json=listed)
    vector("keys-rotation-old-key", "A root that the list does not name no longer signs manifests.", old, "not-trusted", keys_json=listed)
    vector("keys-rotation-without-list", "Without the list the new key is a stranger.", new, "not-trusted")
    vector("keys-root-listed", "A root that the list names signs manifests.", old,
           keys_json=signed(key_list(keys=[entry(RELEASE), entry(ROOT)]), [ROOT]))
    vector("keys-fewest-fields", "id, limits and times are optional.", new,
           keys_json=signed(key_list(created_at=MISSING, expires_at=MISSING, keys=[entry(RELEASE)]), [ROOT]))
    vector("keys-null-times", "null in the times of a list is the same as no such field.", new,
           keys_json=signed(key_list(created_at=None, expires_at=None), [ROOT]))
    vector("keys-unknown-field", "Unknown fields of a list are passed over, except in its keys.", new, keys_json=signed(key_list(note=1), [ROOT]))
    two = key_list(threshold=2, keys=[entry(RELEASE), entry(OTHER), entry(THIRD)])
    vector("keys-threshold-reached", "The list's own threshold counts for manifests.",
           signed(MANIFEST, [RELEASE, OTHER]), keys_json=signed(two, [ROOT]))
    vector("keys-threshold-not-reached", "One of the two that the list asks for.", new, "not-trusted", keys_json=signed(two, [ROOT]))
    roots = files(ROOT, SECOND, THIRD)
    pairs = key_list(keys=[entry(RELEASE), entry(OTHER)])
    vector("keys-policy-threshold", "What a provider serves cannot lower what the policy asks for.", new, "not-trusted",
           keys_json=signed(pairs, [ROOT, SECOND]), keys=roots, policy={"threshold": 2})
    vector("keys-policy-threshold-reached", "As many listed keys as the policy asks for.", signed(MANIFEST, [RELEASE, OTHER]),
           keys_json=signed(pairs, [ROOT, SECOND]), keys=roots, policy={"threshold": 2})
    vector("keys-policy-threshold-not-reached", "A list that too few roots signed.", new, "keys-not-trusted",
           keys_json=listed, keys=roots, policy={"threshold": 2})
    vector("keys-root-threshold", "Lists may need more roots than manifests need signatures.", new, "keys-not-trusted",
           keys_json=listed, keys=roots, policy={"root_threshold": 2})
    vector("keys-root-threshold-reached", "As many as root_threshold says.", new,
           keys_json=signed(LIST, [ROOT, THIRD]), keys=roots, policy={"root_threshold": 2})
    vector("keys-signed-by-listed-key", "A key that is only in the list cannot sign lists.", new, "keys-not-trusted",
           keys_json=signed(LIST, [RELEASE]))
    vector("keys-stranger", "A list signed by a stranger.", new, "keys-not-trusted", keys_json=signed(LIST, [STRANGER]))
    vector("keys-stranger-good-manifest", "A list that nobody trusts refuses manifests that would be fine without it.", old,
           "keys-not-trusted", keys_json=signed(LIST, [STRANGER]))
    vector("keys-unsigned", "A list without signatures.", new, "keys-not-trusted", keys_json=text(LIST))
    vector("keys-unsigned-allowed", "A policy that allows unsigned manifests does not allow unsigned lists.", new, "keys-not-trusted",
           keys_json=text(LIST), policy={"allow_unsigned": True})
    own = {"algorithm": "ed25519", "key_id": "00", "signature": "00"}
    vector("keys-foreign-signature", "plasmd's form of signature on a list.", new, "keys-not-trusted", keys_json=text({**LIST, "signatures": [own]}))
    tampered = canonical(key_list(keys=[entry(STRANGER)]))
    document = changed(envelope(LIST, [ROOT]), signed__data=b64(tampered), keys=[entry(STRANGER)])
    vector("keys-tampered", "A list that was changed after it was signed.", signed(MANIFEST, [STRANGER]), "keys-not-trusted", keys_json=text(document))
    vector("keys-copy", "The copy outside a list must equal what was signed.", new, "keys-malformed",
           keys_json=text(changed(envelope(LIST, [ROOT]), keys_version=4)))
    vector("keys-html", "A web page in place of a list: a provider that has none says so.", old, "keys-malformed", keys_json=b"<html></html>\n")
    vector("keys-empty", "An empty list document.", old, "keys-malformed", keys_json=b"")
    vector("keys-one-mebibyte", "A list of exactly 1 MiB is read.", new, keys_json=listed, keys_pad_to=MEBIBYTE)
    vector("keys-too-large", "A list above 1 MiB.", new, "keys-malformed", keys_json=listed, keys_pad_to=MEBIBYTE + 1)
    vector("keys-duplicate-json-key", "Duplicate JSON keys in a list.", new, "keys-malformed",
           keys_json=replaced(listed, '"threshold": 1,', '"threshold": 1, "threshold": 1,'))
    vector("keys-before-manifest", "The list is judged before the manifest.", b"<html>", "keys-not-trusted", keys_json=signed(LIST, [STRANGER]))

    bad = [
        ("version-1", {"version": "1.0"}, "a later major version"),
        ("kind-missing", {"kind": MISSING}, "no kind"),
        ("kind-manifest", {"kind": "manifest"}, "the kind of a manifest"),
        ("keys-version-zero", {"keys_version": 0}, "keys_version 0"),
        ("keys-version-missing", {"keys_version": MISSING}, "no keys_version"),
        ("threshold-zero", {"threshold": 0}, "a threshold of 0"),
        ("threshold-missing", {"threshold": MISSING}, "no threshold"),
        ("threshold-above-keys", {"threshold": 2}, "a threshold above the number of keys"),
        ("no-keys", {"keys": []}, "no key"),
        ("keys-missing", {"keys": MISSING}, "no field keys"),
        ("keys-object", {"keys": {}}, "keys that are no array"),
        ("key-string", {"keys": [b64(RELEASE.public)]}, "a key that is no object"),
        ("key-short", {"keys": [{"key": b64(RELEASE.public[:31])}]}, "a key of 31 bytes"),
        ("key-hex", {"keys": [{"key": RELEASE.public.hex()}]}, "a key in hexadecimal"),
        ("key-unpadded", {"keys": [{"key": b64(RELEASE.public).rstrip("=")}]}, "a key in base64 without padding"),
        ("key-small-order", {"keys": [entry(RELEASE), {"key": b64(encode(IDENTITY))}]}, "a key of small order"),
        ("key-no-point", {"keys": [{"key": b64(b"\2" + bytes(31))}]}, "a key that is no point"),
        ("key-twice", {"keys": [entry(RELEASE, id="a"), entry(RELEASE, id="b")]}, "the same key under two ids"),
        ("entry-twice", {"keys": [entry(RELEASE), entry(RELEASE)]}, "the same entry twice"),
        ("id-twice", {"keys": [entry(RELEASE, id="a"), entry(OTHER, id="a")]}, "one id for two keys"),
        ("id-fingerprint", {"keys": [entry(RELEASE, id=OTHER.id)]}, "an id that looks like a fingerprint"),
        ("id-fingerprint-in-capitals", {"keys": [entry(RELEASE, id="0123456789ABCDEF")]}, "one in capitals"),
        ("id-own-fingerprint", {"keys": [entry(RELEASE, id=RELEASE.id)]}, "an id that is the key's own fingerprint, spelt out"),
        ("id-bad", {"keys": [entry(RELEASE, id="a b")]}, "an id with a space"),
        ("id-empty", {"keys": [entry(RELEASE, id="")]}, "an empty id"),
        ("id-long", {"keys": [entry(RELEASE, id="a" * 65)]}, "an id of 65 letters"),
        ("entry-unknown-field", {"keys": [entry(RELEASE, not_afer="2026-01-01T00:00:00Z")]}, "a misspelt limit"),
        ("entry-channels-empty", {"keys": [entry(RELEASE, channels=[])]}, "an empty list of channels"),
        ("entry-channels-string", {"keys": [entry(RELEASE, channels="stable")]}, "channels that are no array"),
        ("entry-channels-bad", {"keys": [entry(RELEASE, channels=["../x"])]}, "a channel that is no channel name"),
        ("entry-time-bad", {"keys": [entry(RELEASE, not_after="soon")]}, "a time that is none"),
        ("keys-65", {"keys": [entry(Key(f"listed {n}")) for n in range(65)]}, "65 keys"),
        ("revoked-65", {"revoked": [f"{n:016x}" for n in range(65)]}, "65 revoked ids"),
        ("revoked-missing", {"revoked": MISSING}, "no field revoked"),
        ("entry-null", {"keys": [entry(RELEASE, not_after=None)]}, "a limit that is null"),
        ("revoked-string", {"revoked": STRANGER.id}, "revoked that is no array"),
        ("revoked-name", {"revoked": ["release-2025"]}, "a revoked name, which may mean another key tomorrow"),
        ("revoked-capitals", {"revoked": ["0123456789ABCDEF"]}, "a revoked fingerprint in capitals"),
        ("revoked-number", {"revoked": [7]}, "a revoked number"),
        ("revoked-and-named", {"revoked": [RELEASE.id]}, "a key that is both named and revoked"),
        ("expires-bad", {"expires_at": "soon"}, "an expiry that is no time"),
    ]
    for name, fields, shows in bad:
        vector(f"keys-bad-{name}", f"A list that its roots signed is held to its bounds: {shows}.", new, "keys-malformed",
               keys_json=signed(key_list(**fields), [ROOT]))
    vector("keys-at-64", "64 keys and 64 revoked ids are read.", new,
           keys_json=signed(key_list(keys=[entry(RELEASE)] + [entry(Key(f"listed {n}")) for n in range(63)],
                                     revoked=[f"{n:016x}" for n in range(64)]), [ROOT]))

    vector("keys-manifest-as-list", "A manifest in the place of the list.", old, "keys-malformed", keys_json=GOOD)
    vector("keys-list-as-manifest", "A list in the place of the manifest.", listed, "malformed")
    vector("keys-list-as-manifest-unsigned", "A list in the place of an unsigned manifest.", text(LIST), "malformed", policy={"allow_unsigned": True})
    both = {**MANIFEST, **{name: LIST[name] for name in ("keys_version", "threshold", "keys", "revoked")}}
    vector("keys-chimera-manifest", "Without a kind a document with the fields of both is a manifest.", signed(both, [ROOT]))
    vector("keys-chimera-manifest-as-list", "Such a document is no list.", old, "keys-malformed", keys_json=signed(both, [ROOT]))
    both = signed({**both, "kind": "keys"}, [ROOT])
    vector("keys-chimera-list", "With kind keys it is a list.", new, keys_json=both)
    vector("keys-chimera-list-as-manifest", "And no manifest.", both, "malformed")

    pair = files(ROOT, SECOND)
    vector("keys-revoked-root", "A root that the list revokes signs no manifest.", signed(MANIFEST, [SECOND]), "not-trusted", keys=pair,
           keys_json=signed(key_list(revoked=[SECOND.id]), [ROOT]))
    vector("keys-revoked-stranger", "A list may revoke keys that nobody here knows.", new, keys_json=signed(key_list(revoked=[STRANGER.id]), [ROOT]))
    vector("keys-self-revoked-root", "A root that revokes itself does not count towards the list that says so.", new, "keys-not-trusted",
           keys_json=signed(key_list(revoked=[ROOT.id]), [ROOT]))
    vector("keys-self-revoked-root-of-two", "Enough roots remain.", new, keys=pair,
           keys_json=signed(key_list(revoked=[SECOND.id]), [ROOT, SECOND]))
    vector("keys-self-revoked-root-threshold", "Too few roots remain.", new, "keys-not-trusted",
           keys=roots, policy={"root_threshold": 2}, keys_json=signed(key_list(revoked=[SECOND.id]), [ROOT, SECOND]))
    seen = {"keys_version": 3, "revoked": [SECOND.id]}
    vector("keys-record-revoked-root", "A root that the list seen last revoked cannot sign the next one.", new, "keys-not-trusted", keys=pair,
           keys_json=signed(key_list(keys_version=4), [SECOND]), record=seen)
    vector("keys-record-revoked-root-of-two", "Nor can it help another to reach the threshold.", new, "keys-not-trusted", keys=roots,
           keys_json=signed(key_list(keys_version=4), [ROOT, SECOND]), record=seen, policy={"root_threshold": 2})
    vector("keys-record-revoked-listed", "A newer list, signed by others, may name it again.", signed(MANIFEST, [SECOND]), keys=pair,
           keys_json=signed(key_list(keys_version=4, keys=[entry(SECOND)]), [ROOT]), record=seen)

    for name, field, shows in [
        ("entry-channel-other", {"channels": ["beta"]}, "a key for another channel"),
        ("entry-time-at", {"not_after": "2026-11-15T00:00:00Z"}, "a key at its not_after"),
    ]:
        vector(f"keys-{name}", f"Limits in the list hold: {shows}.", new, "not-trusted", keys_json=signed(key_list(keys=[entry(RELEASE, **field)]), [ROOT]))
    vector("keys-entry-limits", "Within its limits a listed key counts.", new,
           keys_json=signed(key_list(keys=[entry(RELEASE, id="release", channels=["beta", "stable"], not_after="2026-11-15T00:00:01Z")]), [ROOT]))
    vector("keys-root-past-not-after", "A root at its not-after cannot sign lists.", new, "keys-not-trusted",
           keys=files("not-after: 2026-11-15T00:00:00Z\n" + hexadecimal(ROOT)), keys_json=listed)
    vector("keys-root-of-other-channel", "A root that is limited to another channel cannot sign lists.", new, "keys-not-trusted",
           keys=files("channels: beta\n" + hexadecimal(ROOT)), keys_json=listed)

    vector("keys-expired-at", "At its expires_at a list has expired.", new, "keys-expired", keys_json=signed(key_list(expires_at="2026-11-15T00:00:00Z"), [ROOT]))
    vector("keys-expired-one-second-before", "One second before it has not.", new, keys_json=signed(key_list(expires_at="2026-11-15T00:00:01Z"), [ROOT]))
    timeless = signed(key_list(expires_at=MISSING), [ROOT])
    vector("keys-no-expiry", "A list without expires_at does not expire.", new, keys_json=timeless)
    vector("keys-no-expiry-required", "The policy may ask that lists expire.", new, "keys-expired", keys_json=timeless, policy={"require_expiry": True})
    vector("keys-expired-floor", "The build time is a floor for lists too.", new, "keys-expired", keys_json=signed(key_list(expires_at="2026-11-15T00:00:00Z"), [ROOT]),
           clock="1970-01-01T00:00:07Z", build_time="2026-11-15T00:00:00Z")
    vector("keys-rolled-back-record", "A list older than the one that this machine has seen.", new, "keys-rolled-back", keys_json=listed, record={"keys_version": 4})
    vector("keys-record-equal", "The same list again.", new, keys_json=listed, record={"keys_version": 3})
    vector("keys-record-lower", "A newer list.", new, keys_json=listed, record={"keys_version": 2})
    vector("keys-rolled-back-policy", "A list older than the policy wants.", new, "keys-rolled-back", keys_json=listed, policy={"min_keys_version": 4})
    vector("keys-policy-equal", "The oldest list that the policy wants.", new, keys_json=listed, policy={"min_keys_version": 3})
    vector("keys-missing-record", "A machine that has seen a list does without none.", old, "keys-missing", record={"keys_version": 3})
    vector("keys-missing-policy", "A policy may ask for a list.", old, "keys-missing", policy={"min_keys_version": 1})
    vector("keys-missing-unsigned-allowed", "Also where unsigned manifests are allowed.", text(MANIFEST), "keys-missing",
           policy={"min_keys_version": 1, "allow_unsigned": True})
    vector("keys-record-without-lists", "A machine that has seen no list needs none.", old, record={"manifests": {"stable/x86_64": 7}})
    vector("keys-expired-before-rolled-back", "Expired and rolled back: the expiry is named.", new, "keys-expired",
           keys_json=signed(key_list(expires_at="2026-11-15T00:00:00Z"), [ROOT]), record={"keys_version": 4})
    vector("keys-then-manifest-rolled-back", "With a good list the manifest is held to everything else.", new, "rolled-back", keys_json=listed,
           record={"keys_version": 3, "manifests": {"stable/x86_64": 8}})


def packed_lists():
    new, old = signed(MANIFEST, [RELEASE]), GOOD
    pair = files(ROOT, SECOND)

    def version(number, signer=ROOT, **fields):
        return signed(key_list(keys_version=number, **fields), [signer])

    vector("packed", "A packed list speaks where none is served.", new, packed=version(3))
    vector("packed-old-key", "Roots that it does not name sign no manifests.", old, "not-trusted", packed=version(3))
    vector("packed-demanded", "A packed list is enough where one is demanded.", new, packed=version(3), record={"keys_version": 3})
    vector("packed-served-newer", "A served list that is newer speaks.", signed(MANIFEST, [OTHER]),
           packed=version(3), keys_json=version(4, keys=[entry(OTHER)]))
    vector("packed-served-newer-only", "And then the packed one does not.", new, "not-trusted", packed=version(3), keys_json=version(4, keys=[entry(OTHER)]))
    vector("packed-served-same", "A served list of the same version is fine.", new, packed=version(3), keys_json=version(3))
    vector("packed-served-older", "A served list that is older than the packed one is refused.", new, "keys-rolled-back",
           packed=version(3), keys_json=version(2))
    vector("packed-served-bad", "A served list that is refused is not made good by the packed one.", new, "keys-not-trusted",
           packed=version(3), keys_json=version(4, STRANGER))
    vector("packed-html", "A packed list that is no envelope is an error from the start.", old, "no-trust", packed=b"<html>")
    vector("packed-too-large", "So is one above 1 MiB.", old, "no-trust", packed=version(3), packed_pad_to=MEBIBYTE + 1)
    vector("packed-manifest", "A packed manifest is no list.", old, "keys-malformed", packed=GOOD)
    vector("packed-stranger", "A packed list that no root signed is not trusted.", new, "keys-not-trusted", packed=version(3, STRANGER))
    vector("packed-stranger-served-good", "A served list is not refused for a packed one that nobody trusts.", new,
           packed=version(9, STRANGER), keys_json=version(3))
    vector("packed-below-record", "A packed list older than one that was seen, and none served.", new, "keys-rolled-back",
           packed=version(3), record={"keys_version": 4})
    vector("packed-below-record-served-good", "With a newer one served, all is well.", new, packed=version(3), keys_json=version(4), record={"keys_version": 4})
    past = dict(expires_at="2026-11-14T00:00:00Z")
    vector("packed-expired", "A packed list expires like any other.", new, "keys-expired", packed=version(3, **past))
    vector("packed-expired-served-newer", "A served list that is newer stands in for it.", new, packed=version(3, **past), keys_json=version(4))
    vector("packed-expired-served-older", "An expired packed list still says how old a served one may be.", new, "keys-rolled-back",
           packed=version(3, **past), keys_json=version(2))
    vector("packed-revokes-signer", "A root that the packed list revokes cannot sign a newer one.", new, "keys-not-trusted", keys=pair,
           packed=version(3, revoked=[SECOND.id]), keys_json=version(4, SECOND))
    vector("packed-signer-past-not-after", "Nor does the end of the key that signed a packed list lift what it says.", new, "keys-rolled-back",
           keys=files("not-after: 2026-11-14T00:00:00Z\n" + hexadecimal(ROOT), SECOND), packed=version(3), keys_json=version(2, SECOND))
    vector("packed-newer-than-record", "A newer packed list does not take back what the record has.", new, "keys-not-trusted", keys=pair,
           packed=version(4), keys_json=version(5, SECOND), record={"keys_version": 3, "revoked": [SECOND.id]})
    vector("packed-older-than-record", "Nor does a newer list that was seen take back what an older packed one says.", new, "keys-not-trusted",
           keys=pair, packed=version(3, revoked=[SECOND.id]), keys_json=version(5, SECOND), record={"keys_version": 4})
    vector("packed-no-expiry-revokes-signer", "A packed list that the policy refuses for want of an expiry still revokes.", new, "keys-not-trusted",
           keys=pair, packed=version(3, revoked=[SECOND.id], expires_at=MISSING), keys_json=version(4, SECOND), policy={"require_expiry": True})
    vector("packed-below-policy-revokes-signer", "So does one that is older than the policy wants.", new, "keys-not-trusted", keys=pair,
           packed=version(3, revoked=[SECOND.id]), keys_json=version(4, SECOND), policy={"min_keys_version": 4})
    vector("packed-revoked-signer", "A packed list is believed no more than others: here a revoked root signed it.", new, keys=pair,
           packed=version(9, SECOND), keys_json=version(4), record={"keys_version": 3, "revoked": [SECOND.id]})
    vector("packed-revokes-another", "Other roots can.", new, keys=pair, packed=version(3, revoked=[SECOND.id]), keys_json=version(4))
    vector("packed-expired-revokes-signer", "Revocations do not expire.", new, "keys-not-trusted", keys=pair,
           packed=version(3, revoked=[SECOND.id], **past), keys_json=version(4, SECOND))
