"""What every vector is made of: keys, a manifest, and the lists that the sections add to."""

from making.signing import Key, artifact, changed, files, signed

EXITS = {
    "accepted": 0,
    "too-large": 12,
    "malformed": 12,
    "outer-differs": 12,
    "unknown-version": 12,
    "keys-malformed": 12,
    "no-trust": 13,
    "unsigned": 13,
    "foreign-signature": 13,
    "not-trusted": 13,
    "keys-not-trusted": 13,
    "other-arch": 14,
    "other-channel": 14,
    "channel-not-allowed": 14,
    "expired": 14,
    "rolled-back": 14,
    "keys-missing": 14,
    "keys-expired": 14,
    "keys-rolled-back": 14,
}
MEBIBYTE = 1 << 20

ROOT, SECOND, THIRD = Key("root"), Key("second"), Key("third")
STRANGER, RELEASE, OTHER = Key("stranger"), Key("release"), Key("other")

VECTORS = []
DOCUMENTS = {}

MANIFEST = {
    "version": "0.1",
    "manifest_version": 7,
    "channel": "stable",
    "arch": "x86_64",
    "created_at": "2026-11-01T00:00:00Z",
    "expires_at": "2026-12-01T00:00:00Z",
    "artifacts": {"kernel": artifact("kernel", 14186432), "initramfs": artifact("initramfs", 96301)},
    "cmdline": "quiet",
}


def stored(name, content, pad_to):
    if content is None:
        return None
    same = [known for known, bytes_ in DOCUMENTS.items() if bytes_ == content]
    if same:
        name = same[0]
    assert DOCUMENTS.get(name, content) == content, name
    DOCUMENTS[name] = content
    return {"file": f"documents/{name}", **({"pad_to": pad_to} if pad_to else {})}


def vector(name, shows, document, verdict="accepted", *, keys_json=None, keys=None, policy=None, build_time=None,
           arch="x86_64", channel="stable", clock="2026-11-15T00:00:00Z", record=None, packed=None, pad_to=None, keys_pad_to=None,
           packed_pad_to=None):
    assert name not in [vector["name"] for vector in VECTORS], name
    if isinstance(record, dict):
        record = {"manifests": {}, "keys_version": 0, "revoked": [], **record}
    VECTORS.append({
        "name": name,
        "shows": shows,
        "document": stored(f"{name}.json", document, pad_to),
        "keys_json": stored(f"{name}.keys.json", keys_json, keys_pad_to),
        "trust": {
            "keys": files(ROOT) if keys is None else keys,
            "policy": policy,
            "keys_json": stored(f"{name}.packed.json", packed, packed_pad_to),
            "build_time": build_time,
        },
        "arch": arch,
        "channel": channel,
        "clock": clock,
        "record": record,
        "verdict": verdict,
        "exit": EXITS[verdict],
    })


def manifest(**fields):
    return changed(MANIFEST, **fields)


GOOD = signed(MANIFEST, [ROOT])
