#!/usr/bin/env python3
"""Runs every vector of index.json through a verifier written from ../MANIFEST.md alone.

    python3 check.py [INDEX]       "N passed, 0 failed"; exit 1 if any failed

It shares no line with make.py and none with phaseboot, so that what they agree on is the
protocol's. The sections named are MANIFEST.md's. Python 3.8 or newer, standard library only.
"""

import base64
import binascii
import hashlib
import json
import os
import re
import sys

MEBIBYTE = 1048576
EXITS = {
    "accepted": 0,
    "too-large": 12, "malformed": 12, "outer-differs": 12, "unknown-version": 12, "keys-malformed": 12,
    "no-trust": 13, "unsigned": 13, "foreign-signature": 13, "not-trusted": 13, "keys-not-trusted": 13,
    "other-arch": 14, "other-channel": 14, "channel-not-allowed": 14, "expired": 14, "rolled-back": 14,
    "keys-missing": 14, "keys-expired": 14, "keys-rolled-back": 14,
}


class Bad(Exception):
    """Something is not as the protocol says; the message is for people."""


class Verdict(Exception):
    pass


def need(condition, reason):
    if not condition:
        raise Bad(reason)


# ---- Section 1: JSON, base64 -------------------------------------------------------------------

SPACE = re.compile(r"[ \t\n\r]*")
NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?![0-9.eE])")
PLAIN = re.compile(r'[^"\\\x00-\x1f]*')
ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


class Reader:
    """JSON as section 1 wants it. Written by hand: json.loads takes more than that."""

    def __init__(self, data):
        try:
            self.text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise Bad("no UTF-8") from error
        self.at = 0

    def document(self):
        value = self.value(0)
        need(self.at == len(self.text), "data after the end")
        return value

    def peek(self):
        self.at = SPACE.match(self.text, self.at).end()
        return self.text[self.at:self.at + 1]

    def take(self, wanted):
        need(self.text.startswith(wanted, self.at), f"expected {wanted!r}")
        self.at += len(wanted)

    def value(self, depth):
        start = self.peek()
        if start == "{":
            value = self.object(depth + 1)
        elif start == "[":
            value = self.array(depth + 1)
        elif start == '"':
            value = self.string()
        elif start in ("t", "f", "n"):
            word, value = {"t": ("true", True), "f": ("false", False), "n": ("null", None)}[start]
            self.take(word)
        else:
            number = NUMBER.match(self.text, self.at)
            need(number and number.group() != "-0", "no value, or no whole number")
            self.at = number.end()
            value = int(number.group())
            need(abs(value) < 2**53, "number out of range")
        self.peek()
        return value

    def object(self, depth):
        need(depth <= 32, "too deep")
        self.take("{")
        members = {}
        if self.peek() != "}":
            while True:
                self.peek()
                key = self.string()
                need(key not in members, "a key twice")
                self.peek()
                self.take(":")
                members[key] = self.value(depth)
                if self.peek() != ",":
                    break
                self.at += 1
        self.take("}")
        return members

    def array(self, depth):
        need(depth <= 32, "too deep")
        self.take("[")
        items = []
        if self.peek() != "]":
            while True:
                items.append(self.value(depth))
                if self.peek() != ",":
                    break
                self.at += 1
        self.take("]")
        return items

    def string(self):
        self.take('"')
        parts = []
        while True:
            plain = PLAIN.match(self.text, self.at)
            parts.append(plain.group())
            self.at = plain.end()
            if self.text.startswith('"', self.at):
                self.at += 1
                return "".join(parts)
            self.take("\\")
            letter = self.text[self.at:self.at + 1]
            if letter == "u":
                parts.append(self.escape())
            else:
                need(letter in ESCAPES and letter, "no escape")
                parts.append(ESCAPES[letter])
                self.at += 1

    def escape(self):
        unit = self.unit()
        if 0xD800 <= unit < 0xDC00:
            self.take("\\")
            low = self.unit()
            need(0xDC00 <= low < 0xE000, "half a surrogate pair")
            unit = 0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00)
        need(not 0xD800 <= unit < 0xE000, "half a surrogate pair")
        return chr(unit)

    def unit(self):
        self.take("u")
        digits = self.text[self.at:self.at + 4]
        need(re.fullmatch("[0-9a-fA-F]{4}", digits), "no escape")
        self.at += 4
        return int(digits, 16)


def equal(one, other):
    """Equality of JSON values; in Python 1 == True."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


def unbase64(text):
    need(isinstance(text, str), "base64 that is no string")
    try:
        data = base64.b64decode(text.encode(), validate=True)
    except (binascii.Error, ValueError) as error:
        raise Bad("no base64") from error
    need(base64.b64encode(data).decode() == text, "base64 in another spelling")
    return data


class Envelope:
    def __init__(self, document):
        need(len(document) <= MEBIBYTE, "too large")
        self.copy = Reader(document).document()
        need(isinstance(self.copy, dict), "no object")
        listed = self.copy.pop("signatures", None)
        listed = [] if listed is None else listed
        need(isinstance(listed, list), "signatures is no array")
        self.unsigned = self.foreign = False
        self.data, self.signatures = None, []
        if "signed" not in self.copy:
            self.unsigned = not listed
            self.foreign = all(isinstance(entry, dict) and "sig" not in entry and "signature" in entry for entry in listed)
            need(self.unsigned or self.foreign, "signatures without signed")
            return
        signed = self.copy.pop("signed")
        need(isinstance(signed, dict), "signed is no object")
        self.data = unbase64(signed.get("data"))
        need(len(listed) <= 32, "too many signatures")
        for entry in listed:
            need(isinstance(entry, dict), "a signature is no object")
            signature = unbase64(entry.get("sig"))
            need(len(signature) == 64, "a signature is not 64 bytes")
            self.signatures.append(signature)

    def content(self):
        """Step 13, and the same of a list."""
        if self.data is None:
            return self.copy
        content = Reader(self.data).document()
        if not equal(content, self.copy):
            raise Verdict("outer-differs")
        return content


# ---- Section 3: keys ---------------------------------------------------------------------------

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = (-121665 * pow(121666, P - 2, P)) % P
ROOT_OF_MINUS_ONE = pow(2, (P - 1) // 4, P)


def decode_point(data):
    """RFC 8032, section 5.1.3, in extended coordinates."""
    number = int.from_bytes(data, "little")
    sign, y = number >> 255, number & ((1 << 255) - 1)
    if y >= P:
        return None
    u, v = (y * y - 1) % P, (D * y * y + 1) % P
    x = u * v**3 * pow(u * v**7, (P - 5) // 8, P) % P
    if (v * x * x + u) % P == 0:
        x = x * ROOT_OF_MINUS_ONE % P
    if (v * x * x - u) % P or (x == 0 and sign):
        return None
    if x & 1 != sign:
        x = P - x
    return x, y, 1, x * y % P


def encode_point(point):
    x, y, z, _ = point
    inverse = pow(z, P - 2, P)
    return ((y * inverse % P) | (x * inverse % P & 1) << 255).to_bytes(32, "little")


def plus(p, q):
    a = (p[1] - p[0]) * (q[1] - q[0]) % P
    b = (p[1] + p[0]) * (q[1] + q[0]) % P
    c = 2 * p[3] * q[3] * D % P
    d = 2 * p[2] * q[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P


def times(number, point):
    result = (0, 1, 1, 0)
    for bit in bin(number)[2:]:
        result = plus(result, result)
        if bit == "1":
            result = plus(result, point)
    return result


def is_small_order(point):
    x, y, z, _ = times(8, point)
    return x == 0 and y == z


BASE = decode_point(bytes.fromhex("58" + "66" * 31))


def is_valid(signature, key, digest):
    r, s = signature[:32], int.from_bytes(signature[32:], "little")
    point = decode_point(r)
    if s >= L or point is None or is_small_order(point):
        return False
    x, y, z, t = decode_point(key)
    k = int.from_bytes(hashlib.sha512(r + key + digest).digest(), "little") % L
    return encode_point(plus(times(s, BASE), times(k, (-x % P, y, z, -t % P)))) == r


class Key:
    def __init__(self, data, name=None, channels=None, not_after=None):
        need(len(data) == 32, "a key is not 32 bytes")
        point = decode_point(data)
        need(point is not None and not is_small_order(point), "no key, or a weak one")
        need(name is None or is_id(name) and not re.fullmatch("[0-9A-Fa-f]{16}", name), "no id")
        need(channels is None or 1 <= len(channels) <= 64 and all(map(is_channel, channels)), "no channels")
        self.data = data
        self.fingerprint = hashlib.sha256(data).hexdigest()[:16]
        self.id = self.fingerprint if name is None else name
        self.channels = channels
        self.not_after = None if not_after is None else time(not_after)

    def said(self):
        return self.id, self.channels, self.not_after


def distinct(keys):
    """The same key once; refused where nobody could tell which is meant."""
    kept = []
    for key in keys:
        same = False
        for other in kept:
            if key.data == other.data:
                need(key.said() == other.said(), "one key with two sets of attributes")
                same = True
            else:
                need(key.id != other.id, "two keys, one name")
        if not same:
            kept.append(key)
    return kept


def counting(envelope, keys, clock, channel, revoked):
    """The keys that count; channel None: a key list."""
    digest = hashlib.sha256(envelope.data).digest()
    counted = []
    for key in keys:
        barred = (
            key.channels is not None and channel not in key.channels
            or key.not_after is not None and clock >= key.not_after
            or key.fingerprint in revoked
        )
        if not barred and any(is_valid(signature, key.data, digest) for signature in envelope.signatures):
            counted.append(key)
    return counted


def packed_keys(files):
    keys = []
    for file in files:
        if file["file"].endswith(".pub"):
            content = base64.b64decode(file["base64"]) if "base64" in file else file["text"].encode()
            keys += key_file(padded(content, file))
    keys = distinct(keys)
    need(len(keys) <= 64, "too many keys")
    return keys


PEM_BEGIN, PEM_END = "-----BEGIN PUBLIC KEY-----", "-----END PUBLIC KEY-----"
SPKI = bytes.fromhex("302a300506032b6570032100")
OPENSSH = bytes.fromhex("0000000b") + b"ssh-ed25519" + bytes.fromhex("00000020")


# Unicode's property White_Space; Python's str.strip takes more.
WHITE_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"


def key_file(content):
    need(len(content) <= 65536, "too long")
    if len(content) == 32:
        return [Key(content)]
    try:
        lines = [line.strip(WHITE_SPACE) for line in content.decode("utf-8").split("\n")]
    except UnicodeDecodeError as error:
        raise Bad("neither 32 bytes nor text") from error
    keys, said = [], {}
    while lines:
        line = lines.pop(0)
        attribute = re.fullmatch(r"([A-Za-z][A-Za-z-]*):(.*)", line)
        if not line or line.startswith("#"):
            continue
        if attribute:
            name, value = attribute.group(1), attribute.group(2).strip(WHITE_SPACE)
            need(name in ("id", "channels", "not-after") and name not in said, "attribute unknown or twice")
            said[name] = value
            continue
        if line == PEM_BEGIN:
            need(PEM_END in lines, "PEM without end")
            end = lines.index(PEM_END)
            data = unbase64("".join(lines[:end]))
            del lines[:end + 1]
            need(data.startswith(SPKI), "no Ed25519 key")
            data = data[len(SPKI):]
        elif re.split("[ \t]+", line)[0] == "ssh-ed25519":
            data = unbase64((re.split("[ \t]+", line) + [None])[1])
            need(data.startswith(OPENSSH), "no Ed25519 key")
            data = data[len(OPENSSH):]
        elif re.fullmatch("[0-9a-fA-F]{64}", line):
            data = bytes.fromhex(line)
        else:
            data = unbase64(line)
        channels = said.get("channels")
        channels = None if channels is None else [name.strip(WHITE_SPACE) for name in channels.split(",")]
        keys.append(Key(data, said.get("id"), channels, said.get("not-after")))
        said = {}
    need(not said, "attribute without key")
    need(keys, "no key")
    return keys


# ---- Section 2: fields -------------------------------------------------------------------------


def is_channel(name):
    return isinstance(name, str) and re.fullmatch(r"(?!\.)[A-Za-z0-9._-]{1,64}", name) is not None


def is_id(name):
    return isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name) is not None


def is_fingerprint(text):
    return isinstance(text, str) and re.fullmatch("[0-9a-f]{16}", text) is not None


def is_number(value, least=1, most=2**53 - 1):
    return type(value) is int and least <= value <= most


TIME = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.[0-9]+)?"
    r"(?:[Zz]|([+-])([0-9]{2}):([0-9]{2}))")


def time(text):
    """Seconds since 1970."""
    parts = TIME.fullmatch(text) if isinstance(text, str) else None
    need(parts, "no time")
    year, month, day, hour, minute, second = map(int, parts.groups()[:6])
    is_leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    months = [31, 29 if is_leap else 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
    need(1 <= month <= 12 and 1 <= day <= months[month - 1] and hour < 24 and minute < 60 and second <= 60, "no time")
    days = year * 365 + (year + 3) // 4 - (year + 99) // 100 + (year + 399) // 400 + sum(months[:month - 1]) + day - 1
    seconds = (days - 719528) * 86400 + hour * 3600 + minute * 60 + second
    if parts.group(7):
        hours, minutes = int(parts.group(8)), int(parts.group(9))
        need(hours < 24 and minutes < 60, "no offset")
        seconds += (-1 if parts.group(7) == "+" else 1) * (hours * 3600 + minutes * 60)
    need(seconds >= 0, "before 1970")
    return seconds


def times_of(content):
    for name in ("created_at", "expires_at"):
        if content.get(name) is not None:
            time(content[name])


def kind_of(content):
    """Steps 14 and 15 as far as they are the same for both kinds."""
    need(isinstance(content, dict), "no object")
    version = content.get("version")
    need(isinstance(version, str), "version is no string")
    if version != "0" and not version.startswith("0."):
        raise Verdict("unknown-version")
    kind = content.get("kind", "manifest")
    need(kind in ("manifest", "keys"), "unknown kind")
    return kind


def check_manifest(content):
    need(is_number(content.get("manifest_version")), "manifest_version")
    need(is_channel(content.get("channel")), "channel")
    need(isinstance(content.get("arch"), str), "arch")
    times_of(content)
    cmdline = content.get("cmdline")
    if cmdline is not None:
        need(isinstance(cmdline, str) and len(cmdline.encode()) <= 4096, "cmdline")
        need(not re.search("[\x00-\x1f\x7f-\x9f]", cmdline), "cmdline")
    artifacts = content.get("artifacts")
    need(isinstance(artifacts, dict), "artifacts")
    check_artifact(artifacts.get("kernel"))
    check_artifact(artifacts.get("initramfs"))
    if artifacts.get("rootfs") is not None:
        check_artifact(artifacts["rootfs"])
    dtbs = artifacts.get("dtbs")
    if dtbs is not None:
        need(isinstance(dtbs, dict) and len(dtbs) <= 256, "dtbs")
        for name, artifact in dtbs.items():
            need(len(name) <= 128, "dtb name")
            need(all(re.fullmatch(r"(?!\.)[A-Za-z0-9._,+-]+", part) for part in name.split("/")), "dtb name")
            check_artifact(artifact)


def check_artifact(artifact):
    need(isinstance(artifact, dict), "artifact")
    digest = artifact.get("hash")
    need(isinstance(digest, str) and re.fullmatch("sha256:[0-9a-f]{64}", digest), "hash")
    need(is_number(artifact.get("size", artifact.get("size_bytes")), 1, 64 << 30), "size")
    urls = artifact["urls"] if "urls" in artifact else [artifact.get("download_url")]
    need(isinstance(urls, list) and 1 <= len(urls) <= 32, "urls")
    for url in urls:
        need(isinstance(url, str) and re.fullmatch("[\x21-\x7e]{1,2048}", url), "url")
    ipfs = artifact.get("ipfs")
    need(ipfs is None or isinstance(ipfs, str) and re.fullmatch("[A-Za-z0-9]{1,128}", ipfs), "ipfs")


class KeyList:
    def __init__(self, content):
        self.version = content.get("keys_version")
        need(is_number(self.version), "keys_version")
        times_of(content)
        entries = content.get("keys")
        need(isinstance(entries, list) and 1 <= len(entries) <= 64, "keys")
        self.keys = []
        for entry in entries:
            need(isinstance(entry, dict) and set(entry) <= {"key", "id", "channels", "not_after"}, "a key entry")
            need(isinstance(entry.get("channels", []), list), "channels")
            for name in ("id", "channels", "not_after"):
                need(name not in entry or entry[name] is not None, "null in a key entry")
            self.keys.append(Key(unbase64(entry.get("key")), entry.get("id"), entry.get("channels"), entry.get("not_after")))
        need(len({key.data for key in self.keys}) == len(self.keys), "a key twice")
        distinct(self.keys)
        self.threshold = content.get("threshold")
        need(is_number(self.threshold, 1, len(self.keys)), "threshold")
        self.revoked = content.get("revoked")
        need(isinstance(self.revoked, list) and len(self.revoked) <= 64 and all(map(is_fingerprint, self.revoked)), "revoked")
        need(not any(key.fingerprint in self.revoked for key in self.keys), "named and revoked")


# ---- Section 9: the policy, as far as it decides about documents -------------------------------

PARAMETERS = ["phase." + name for name in (
    "append", "cache", "channel", "clientid", "debug", "kaslr", "kexec", "log", "mode", "nowrite", "onfail", "provider",
    "proxy", "timeout")]
PIN = re.compile("sha256//[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=")


def is_strings(value):
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


POLICY = {
    "threshold": (1, lambda value: is_number(value)),
    "root_threshold": (0, lambda value: is_number(value)),
    "allow_unsigned": (False, lambda value: isinstance(value, bool)),
    "channels": ([], lambda value: is_strings(value)),
    "min_manifest_version": (0, lambda value: is_number(value, 0)),
    "min_keys_version": (0, lambda value: is_number(value, 0)),
    "require_expiry": (False, lambda value: isinstance(value, bool)),
    "require_kernel_keyring": (False, lambda value: isinstance(value, bool)),
    "settable": ([], lambda value: is_strings(value) and set(value) <= set(PARAMETERS)),
    "inherit": ([], lambda value: is_strings(value)),
    "on_fail": ("retry", lambda value: value in ("retry", "shell", "reboot", "poweroff")),
    "leases": ("keep", lambda value: value in ("keep", "release")),
    "rollback_record": ("optional", lambda value: value in ("optional", "required")),
    "damaged_record": ("refuse", lambda value: value in ("refuse", "replace")),
    "cache": ("on", lambda value: isinstance(value, str)),
    "record_name": (None, lambda value: isinstance(value, str) and re.fullmatch("[a-z0-9-]{1,32}", value)),
    "tls_roots": ([], lambda value: is_strings(value)),
    "tls_pins": ([], lambda value: is_strings(value) and all(map(PIN.fullmatch, value))),
}


def policy_of(given):
    policy = {name: default for name, (default, _) in POLICY.items()}
    for name, value in (given or {}).items():
        need(name in POLICY and POLICY[name][1](value), f"policy: {name}")
        policy[name] = value
    policy["root_threshold"] = policy["root_threshold"] or policy["threshold"]
    need(policy["root_threshold"] >= policy["threshold"], "policy: root_threshold")
    need(policy["damaged_record"] == "refuse" or policy["min_manifest_version"] >= 1, "policy: damaged_record")
    return policy


# ---- Section 6: the order of verification ------------------------------------------------------


def expired(content, policy, clock):
    end = content.get("expires_at")
    return policy["require_expiry"] if end is None else time(end) <= clock


class Trust:
    """Step 0."""

    def __init__(self, given, clock, packed):
        self.policy = policy_of(given["policy"])
        self.roots = packed_keys(given["keys"])
        self.clock = max(time(clock), time(given["build_time"] or "1970-01-01T00:00:00Z"))
        self.threshold = self.policy["root_threshold"]
        need(len(self.roots) >= self.threshold or self.policy["allow_unsigned"], "too few keys")
        self.packed = packed
        if packed is not None:
            Envelope(packed)


def verify(vector, document, keys_json, packed):
    record = vector["record"] or {"manifests": {}, "keys_version": 0, "revoked": []}
    try:
        trust = Trust(vector["trust"], vector["clock"], packed)
    except Bad as error:
        raise Verdict("no-trust") from error
    policy = trust.policy
    if len(document) > MEBIBYTE:
        raise Verdict("too-large")
    signing, threshold, revoked = authority(trust, record, keys_json)

    try:
        envelope = Envelope(document)
        if envelope.unsigned:
            if not policy["allow_unsigned"]:
                raise Verdict("unsigned")
        elif envelope.foreign:
            raise Verdict("foreign-signature")
        elif len(counting(envelope, signing, trust.clock, vector["channel"], revoked)) < threshold:
            raise Verdict("not-trusted")
        content = envelope.content()
        need(kind_of(content) == "manifest", "no manifest")
        check_manifest(content)
    except Bad as error:
        raise Verdict("malformed") from error
    arch = "arm64" if content["arch"] == "aarch64" else content["arch"]
    channel = content["channel"]
    if arch != vector["arch"]:
        raise Verdict("other-arch")
    if channel != vector["channel"]:
        raise Verdict("other-channel")
    if policy["channels"] and channel not in policy["channels"]:
        raise Verdict("channel-not-allowed")
    if expired(content, policy, trust.clock):
        raise Verdict("expired")
    if content["manifest_version"] < max(policy["min_manifest_version"], record["manifests"].get(f"{channel}/{arch}", 0)):
        raise Verdict("rolled-back")


def authority(trust, record, served):
    """Steps 2 to 8: the keys that sign manifests, how many must, and the revoked ones among them."""
    lowest = max(trust.policy["min_keys_version"], record["keys_version"])
    revoked = set(record["revoked"])
    if served is None and trust.packed is None:
        if lowest > 0:
            raise Verdict("keys-missing")
        return trust.roots, trust.threshold, revoked
    if served is not None and trust.packed is not None:
        try:
            packed, _ = read_list(trust.packed, trust, revoked, clock=-1)
            lowest, revoked = max(lowest, packed.version), revoked | set(packed.revoked)
        except Verdict:
            pass
    listed, content = read_list(trust.packed if served is None else served, trust, revoked, trust.clock)
    if expired(content, trust.policy, trust.clock):
        raise Verdict("keys-expired")
    if listed.version < lowest:
        raise Verdict("keys-rolled-back")
    return listed.keys, max(listed.threshold, trust.policy["threshold"]), set()


def read_list(document, trust, revoked, clock):
    """Steps 3 to 6."""
    try:
        envelope = Envelope(document)
        if envelope.data is None or len(counting(envelope, trust.roots, clock, None, revoked)) < trust.threshold:
            raise Verdict("keys-not-trusted")
        try:
            content = envelope.content()
            need(kind_of(content) == "keys", "no key list")
        except Verdict as verdict:
            raise Bad(str(verdict)) from verdict
        listed = KeyList(content)
    except Bad as error:
        raise Verdict("keys-malformed") from error
    if len(counting(envelope, trust.roots, clock, None, revoked | set(listed.revoked))) < trust.threshold:
        raise Verdict("keys-not-trusted")
    return listed, content


# ---- the vectors -------------------------------------------------------------------------------


def load(folder, named):
    if named is None:
        return None
    with open(os.path.join(folder, named["file"]), "rb") as file:
        return padded(file.read(), named)


def padded(content, named):
    return content + b" " * (named.get("pad_to", 0) - len(content))


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    path = sys.argv[1] if len(sys.argv) > 1 else os.path.join(here, "index.json")
    with open(path, encoding="utf-8") as file:
        vectors = json.load(file)["vectors"]
    folder, failed = os.path.dirname(path), 0
    for vector in vectors:
        try:
            verify(vector, *(load(folder, named) for named in
                             (vector["document"], vector["keys_json"], vector["trust"]["keys_json"])))
            verdict = "accepted"
        except Verdict as reached:
            verdict = str(reached)
        if (verdict, EXITS[verdict]) != (vector["verdict"], vector["exit"]):
            failed += 1
            print(f"{vector['name']}: {verdict} (exit {EXITS[verdict]}), expected {vector['verdict']} (exit {vector['exit']})")
    print(f"{len(vectors) - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
