"""Vectors of the envelope: JSON, base64, signatures."""

import base64
import copy
import hashlib
import json

from making.signing import (
    IDENTITY, Key, L, MISSING, P, artifact, b64, canonical, changed, encode, envelope, files, replaced, signature,
    signed, text, torsion_point,
)
from making.suite import GOOD, MANIFEST, MEBIBYTE, ROOT, STRANGER, manifest, vector


def what_is_accepted():
    vector("accepted", "A manifest signed by the one trusted key.", GOOD)
    vector("accepted-kind", "A manifest may say its kind.", signed(manifest(kind="manifest"), [ROOT]))
    full = manifest(
        artifacts__rootfs=artifact("rootfs", 68719476736),
        artifacts__dtbs={"broadcom/bcm2711-rpi-4-b.dtb": artifact("rpi4", 1), "a+b,c_d.dtb": artifact("other", 2)},
        artifacts__kernel__ipfs="bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi",
    )
    full["artifacts"]["kernel"]["urls"] += ["https://mirror.example/kernel", "//mirror.example/kernel", "../kernel?a=b"]
    vector("accepted-every-field", "Root file system, device trees, ipfs and mirrors are understood.", signed(full, [ROOT]))
    least = manifest(created_at=MISSING, expires_at=MISSING, cmdline=MISSING)
    vector("accepted-fewest-fields", "created_at, expires_at and cmdline are optional.", signed(least, [ROOT]))
    nothing = dict(created_at=None, expires_at=None, cmdline=None, artifacts__rootfs=None, artifacts__dtbs=None, artifacts__kernel__ipfs=None)
    vector("accepted-null", "null in an optional field is the same as no such field.", signed(manifest(**nothing), [ROOT]))
    unknown = manifest(note={"a": [1, None, True]}, artifacts__kernel__signer="x", artifacts__firmware=7)
    vector("accepted-unknown-fields", "Unknown fields of a manifest are passed over.", signed(unknown, [ROOT]))
    vector("accepted-later-minor-version", "Every version 0.x is understood.", signed(manifest(version="0.9.1"), [ROOT]))
    vector("accepted-not-canonical", "Readers take signed.data as it is, also if it is not canonical JSON.",
           signed(MANIFEST, [ROOT], json.dumps(MANIFEST, indent=1).encode()))
    exotic = manifest(cmdline="name=\u00fc\U0001f600 a/b\\c\"d\"")
    document = envelope(exotic, [ROOT])
    outer = json.dumps(document, sort_keys=True, ensure_ascii=True).replace("/", "\\/").replace("cmdline", "\\u0063mdline")
    vector("accepted-copy-spelt-otherwise", "The copy outside is compared as values: order, white space and escapes do not matter.",
           outer.encode())
    vector("accepted-largest-numbers", "Whole numbers from -(2^53-1) to 2^53-1 are numbers.",
           signed(manifest(manifest_version=2**53 - 1, note=[1 - 2**53, 0, 2**53 - 1]), [ROOT]))
    vector("accepted-other-signed-fields", "Whatever stands beside data in signed is passed over.",
           text(changed(envelope(MANIFEST, [ROOT]), signed__role="targets")))


def documents_that_are_none():
    vector("size-one-mebibyte", "A document of exactly 1 MiB is read.", GOOD, pad_to=MEBIBYTE)
    vector("size-one-byte-more", "One byte more than 1 MiB is refused before parsing.", GOOD, "too-large", pad_to=MEBIBYTE + 1)
    vector("size-before-syntax", "The size counts before the syntax.", b"<html>", "too-large", pad_to=MEBIBYTE + 1)
    vector("empty", "An empty document is malformed.", b"", "malformed")
    vector("white-space-only", "White space alone is malformed.", b" \n\t\r\n", "malformed")
    vector("html", "A web page in place of a manifest is malformed.",
           b"<!DOCTYPE html>\n<html><title>Welcome to the hotel</title></html>\n", "malformed")
    for name, content in [("array", b"[]"), ("null", b"null"), ("string", b'"manifest"')]:
        vector(f"json-{name}", "A JSON value that is no object is malformed.", content, "malformed")

    vector("json-duplicate-key-outside", "A key that stands twice in the outer object is refused, also with equal values.",
           replaced(GOOD, '"cmdline": "quiet"', '"cmdline": "quiet",\n  "cmdline": "quiet"'), "malformed")
    vector("json-duplicate-key-escaped", "The same key in another spelling is the same key.",
           replaced(GOOD, '"cmdline": "quiet"', '"cmdline": "quiet",\n  "cmd\\u006cine": "quiet"'), "malformed")
    vector("json-duplicate-key-nested", "A key that stands twice in a nested object is refused.",
           replaced(GOOD, '"size": 96301,', '"size": 96301, "size": 96301,'), "malformed")
    vector("json-duplicate-key-in-signed", "A key that stands twice in the object signed is refused.",
           replaced(GOOD, '"signed": {', '"signed": {"data": "e30=",'), "malformed")
    data = replaced(canonical(MANIFEST), '"cmdline":"quiet"', '"cmdline":"quiet","cmdline":"quiet"')
    vector("json-duplicate-key-in-data", "A key that stands twice inside signed.data is refused, although it is signed.",
           signed(MANIFEST, [ROOT], data), "malformed")
    vector("json-duplicate-key-in-unknown", "A key that stands twice in a field that is passed over is refused all the same.",
           replaced(signed(manifest(note={"a": 1}), [ROOT]), '"a": 1', '"a": 1, "a": 1'), "malformed")
    vector("json-trailing-data", "Nothing but white space may follow the document.", GOOD + b"{}", "malformed")
    vector("json-trailing-zero-byte", "A zero byte after the document is no white space.", GOOD + b"\0", "malformed")
    vector("json-trailing-comma", "A comma before a closing brace is no JSON.",
           replaced(GOOD, '"cmdline": "quiet",', '"cmdline": "quiet",,'), "malformed")
    vector("json-byte-order-mark", "A byte order mark is no JSON.", b"\xef\xbb\xbf" + GOOD, "malformed")
    vector("json-comment", "A comment is no JSON.", b"// manifest\n" + GOOD, "malformed")
    vector("json-no-utf8", "Bytes that are no UTF-8 are refused, wherever they stand.",
           replaced(signed(manifest(note="x"), [ROOT]), '"note": "x"', b'"note": "\xff"'), "malformed")
    vector("json-overlong-utf8", "An overlong form is no UTF-8.",
           replaced(signed(manifest(note="x"), [ROOT]), '"note": "x"', b'"note": "\xc1\xb8"'), "malformed")
    for name, escape, shows in [
        ("high-surrogate", "\\ud800", "The first half of a surrogate pair alone is no character."),
        ("last-high-surrogate", "\\udbff", "Nor is this first half."),
        ("low-surrogate", "\\udc00", "The second half of a surrogate pair alone is no character."),
        ("last-low-surrogate", "\\udfff", "Nor is this second half."),
        ("surrogate-and-letter", "\\ud800\\u0041", "The first half before another character is no character."),
        ("two-high-surrogates", "\\ud800\\ud800", "Two first halves are no character."),
        ("short-escape", "\\u00g0", "An escape has four hexadecimal digits."),
        ("signed-escape", "\\u+041", "An escape has no sign."),
        ("unknown-escape", "\\a", "An escape that nobody knows."),
        ("capital-escape", "\\U0041", "Escapes are in small letters."),
    ]:
        vector(f"json-{name}", shows, replaced(signed(manifest(note="x"), [ROOT]), '"note": "x"', f'"note": "{escape}"'), "malformed")
    noted = signed(manifest(note="\U00010000\U0010ffff\ud7ff\ue000"), [ROOT])
    vector("json-surrogate-pairs", "Surrogate pairs are characters, in either spelling.",
           replaced(noted, "\U00010000\U0010ffff\ud7ff\ue000", "\\uD800\\udc00\\udbff\\uDFFF\\ud7ff\\ue000"))
    vector("json-no-colon", "A key without a colon is no JSON.", replaced(GOOD, '"cmdline": "quiet"', '"cmdline" "quiet"'), "malformed")
    vector("json-cut-off", "A document that breaks off.", GOOD[:-3], "malformed")
    vector("json-key-without-quotes", "A key without quotes is no JSON.", replaced(GOOD, '"cmdline": "quiet"', 'cmdline: "quiet"'), "malformed")
    vector("json-other-space", "A no-break space is no white space.", b"\xc2\xa0" + GOOD, "malformed")
    vector("json-raw-control-character", "A control character in a string must be escaped.",
           replaced(signed(manifest(note="x"), [ROOT]), '"note": "x"', '"note": "\x01"'), "malformed")
    numbers = [
        ("fraction", "7.0", "A number with a fraction is refused, also where it is zero."),
        ("exponent", "7e0", "A number with an exponent is refused."),
        ("negative-zero", "-0", "-0 is refused: readers do not agree whether it is 0."),
        ("leading-zero", "07", "A number with a leading zero is no JSON."),
        ("plus", "+7", "A number with a plus is no JSON."),
        ("too-large", "9007199254740992", "2^53 is refused: some readers cannot tell it from the next."),
        ("too-small", "-9007199254740992", "-2^53 is refused: some readers cannot tell it from the next."),
        ("far-too-large", "18446744073709551616", "2^64 is refused, and not taken for 0."),
        ("nan", "NaN", "NaN is no JSON."),
    ]
    for name, number, shows in numbers:
        noted = canonical(manifest(note=1))
        data = replaced(noted, '"note":1', f'"note":{number}')
        document = replaced(signed(manifest(note=1), [ROOT], data), '"note": 1', f'"note": {number}')
        vector(f"number-{name}", shows, document, "malformed")
    data = replaced(canonical(manifest(note=1)), '"note":1', '"note":1.0')
    vector("number-fraction-in-data", "Numbers inside signed.data are held to the same rule.",
           signed(manifest(note=1), [ROOT], data), "malformed")
    for name, shape in [("arrays", lambda inner: [inner]), ("objects", lambda inner: {"a": inner})]:
        for depth, verdict in [(32, "accepted"), (33, "malformed")]:
            nested = shape(1)
            for _ in range(depth - 2):
                nested = shape(nested)
            vector(f"nesting-{name}-{depth}", "Objects and arrays may be 32 deep, the outermost counted.",
                   json.dumps(envelope(manifest(note=nested), [ROOT])).encode(), verdict)
    vector("nesting-50000", "Very deep nesting is refused, and not followed.", b"[" * 50000, "malformed")


def base64_forms():
    # Lengths and letters that need padding and hold both letters that base64url spells otherwise.
    content = manifest(cmdline="quiet \u00ff\u00ff\u00ff ~~~???>>>")
    while len(canonical(content)) % 3 != 1:
        content["cmdline"] += "?"
    good = envelope(content, [ROOT])
    data, sig = good["signed"]["data"], good["signatures"][0]["sig"]
    number = 0
    while "+" not in sig or "/" not in sig:
        number += 1
        sig = b64(ROOT.sign(hashlib.sha256(canonical(content)).digest(), bytes([number])))
    good["signatures"][0]["sig"] = sig
    assert "+" in data and "/" in data and data.endswith("==")
    vector("base64", "The document that the next ones are made of.", text(good))
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    forms = [
        ("unpadded", "base64 without its padding is refused", lambda t: t.rstrip("=")),
        ("half-padded", "base64 with less padding than it needs is refused", lambda t: t[:-1]),
        ("overpadded", "base64 with more padding than it needs is refused", lambda t: t + "="),
        ("stray-bits", "base64 whose unused bits are not zero is refused", lambda t: t[:-3] + letters[letters.index(t[-3]) + 1] + "=="),
        ("line-break", "base64 with a line break is refused", lambda t: t[:64] + "\n" + t[64:]),
        ("final-line-break", "base64 with a line break behind it is refused", lambda t: t + "\n"),
        ("url-alphabet", "base64url is refused", lambda t: t.replace("+", "-").replace("/", "_")),
    ]
    for name, shows, damage in forms:
        vector(f"base64-{name}-in-data", f"In signed.data, {shows}.", text(changed(good, signed__data=damage(data))), "malformed")
        document = copy.deepcopy(good)
        document["signatures"][0]["sig"] = damage(sig)
        vector(f"base64-{name}-in-sig", f"In a signature, {shows}.", text(document), "malformed")


def envelopes():
    good = envelope(MANIFEST, [ROOT])
    sig = base64.b64decode(good["signatures"][0]["sig"])

    def with_signature(entry):
        return text(changed(good, signatures=[entry]))

    for length in (0, 32, 63, 65):
        vector(f"signature-of-{length}-bytes", "A signature has 64 bytes.",
               with_signature({"keyid": ROOT.id, "sig": b64((sig + b"\0")[:length])}), "malformed")
    vector("signature-bad-beside-good", "One malformed signature spoils the document, whatever stands beside it.",
           text(changed(good, signatures=good["signatures"] + [{"keyid": "x", "sig": "AAAA"}])), "malformed")
    vector("signature-in-hex", "A signature in hexadecimal is not 64 bytes of base64.",
           with_signature({"keyid": ROOT.id, "sig": sig.hex()}), "malformed")
    vector("signature-number", "sig is a string.", with_signature({"keyid": ROOT.id, "sig": 7}), "malformed")
    vector("signature-without-sig", "An entry of signatures has a sig.", with_signature({"keyid": ROOT.id}), "malformed")
    vector("signature-no-object", "An entry of signatures is an object.", with_signature(b64(sig)), "malformed")
    vector("signatures-no-array", "signatures is an array.", text(changed(good, signatures={})), "malformed")
    many = [signature(STRANGER, bytes([number])) for number in range(31)]
    vector("signatures-32", "32 signatures are read.", text(changed(good, signatures=many + good["signatures"])))
    vector("signatures-33", "33 signatures are refused.",
           text(changed(good, signatures=many + [signature(STRANGER, b"32")] + good["signatures"])), "malformed")
    vector("signed-without-signatures", "signed.data that nobody signed is not trusted.",
           text(changed(good, signatures=[])), "not-trusted")
    vector("signed-without-signatures-field", "The same without the field signatures.",
           text(changed(good, signatures=MISSING)), "not-trusted")
    vector("signed-without-signatures-unsigned-allowed", "A policy that allows unsigned manifests still holds a document with signed.data to it.",
           text(changed(good, signatures=[])), "not-trusted", policy={"allow_unsigned": True})
    vector("signatures-without-signed", "Signatures need the bytes that they sign.", text(changed(good, signed=MISSING)), "malformed")
    vector("signed-null", "signed is an object.", text(changed(good, signed=None)), "malformed")
    vector("signed-data-missing", "signed has data.", text(changed(good, signed={})), "malformed")
    vector("signed-data-number", "signed.data is a string.", text(changed(good, signed__data=7)), "malformed")
    vector("signatures-null", "null in signatures is the same as no signature.", text(changed(good, signatures=None)), "not-trusted")


def signatures():
    good = envelope(MANIFEST, [ROOT])
    data = canonical(MANIFEST)
    digest = hashlib.sha256(data).digest()

    def with_sig(sig):
        return text(changed(good, signatures=[{"keyid": ROOT.id, "sig": b64(sig)}]))

    vector("stranger", "A signature by a key that is not trusted counts for nothing.", signed(MANIFEST, [STRANGER]), "not-trusted")
    vector("stranger-beside-trusted", "A stranger's signature does no harm.", signed(MANIFEST, [STRANGER, ROOT]))
    vector("stranger-with-trusted-keyid", "keyid proves nothing.",
           text(changed(good, signatures=[signature(STRANGER, data, ROOT.id)])), "not-trusted")
    vector("keyid-wrong", "keyid is not signed: every trusted key is tried.", text(changed(good, signatures=[signature(ROOT, data, "nobody")])))
    vector("keyid-missing", "keyid is for people, and may be missing.",
           text(changed(good, signatures=[{"sig": good["signatures"][0]["sig"]}])))
    vector("stranger-unsigned-allowed", "A policy that allows unsigned manifests does not allow badly signed ones.",
           signed(MANIFEST, [STRANGER]), "not-trusted", policy={"allow_unsigned": True})
    flipped = bytearray(data)
    flipped[10] ^= 1
    vector("data-changed", "A changed bit in signed.data.", text(changed(good, signed__data=b64(flipped))), "not-trusted")
    vector("data-no-json-and-changed", "What is not signed is not parsed: the signature counts first.",
           text(changed(good, signed__data=b64(b"{"))), "not-trusted")
    sig = bytearray(ROOT.sign(digest))
    sig[0] ^= 1
    vector("signature-r-changed", "A changed bit in the first half of a signature.", with_sig(sig), "not-trusted")
    sig = bytearray(ROOT.sign(digest))
    sig[32] ^= 1
    vector("signature-s-changed", "A changed bit in the second half of a signature.", with_sig(sig), "not-trusted")
    vector("signature-over-data", "A signature over the data in place of its SHA-256.", with_sig(ROOT.sign(data)), "not-trusted")
    vector("signature-over-hex-digest", "A signature over the hexadecimal SHA-256.",
           with_sig(ROOT.sign(hashlib.sha256(data).hexdigest().encode())), "not-trusted")
    vector("signature-of-zeros", "A signature of 64 zero bytes.", with_sig(bytes(64)), "not-trusted")

    sig = ROOT.sign(digest)
    larger = sig[:32] + (int.from_bytes(sig[32:], "little") + L).to_bytes(32, "little")
    vector("strict-s-plus-l", "S must be below the group order: S + L verifies in lax readers only (RFC 8032, section 5.1.7).",
           with_sig(larger), "not-trusted")
    # R = identity and S = k a: the equation holds, and the signature says nothing about a nonce.
    for name, r, shows in [
        ("strict-small-order-r", encode(IDENTITY), "An R of small order, with which the equation holds."),
        ("strict-non-canonical-r", (P + 1).to_bytes(32, "little"), "An R of small order in a spelling that is not canonical."),
    ]:
        s = ROOT.challenge(r, digest) * ROOT.secret % L
        vector(name, shows, with_sig(r + s.to_bytes(32, "little")), "not-trusted")

    # The key has a part of order 8, and the signer knows nothing of it: the equation holds when
    # multiplied by the cofactor, and without only if 8 divides the challenge.
    mixed = Key("mixed order", torsion_point())
    number = 0
    found = {}
    while len(found) < 2:
        sig = mixed.sign(digest, bytes([number]))
        found.setdefault(mixed.challenge(sig[:32], digest) % 8 == 0, sig)
        number += 1
    vector("strict-cofactored", "A signature that only verifies when multiplied by the cofactor, by a key of mixed order.",
           with_sig(found[False]), "not-trusted", keys=files(mixed))
    vector("strict-cofactorless", "The same key with a signature for which the equation holds as it stands: it counts.",
           with_sig(found[True]), keys=files(mixed))
