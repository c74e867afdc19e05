"""Ed25519, documents and key files, for the vectors alone: slow, and its secrets leak through time."""

import base64
import copy
import hashlib
import json


# ---- Ed25519 (RFC 8032), in affine coordinates -------------------------------------------------

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
IDENTITY = (0, 1)


def add(a, b):
    (x1, y1), (x2, y2) = a, b
    product = D * x1 * x2 * y1 * y2 % P
    inverse = pow((1 + product) * (1 - product), -1, P)
    x = (x1 * y2 + x2 * y1) * (1 - product) * inverse
    y = (y1 * y2 + x1 * x2) * (1 + product) * inverse
    return x % P, y % P


def multiply(scalar, point):
    result = IDENTITY
    while scalar:
        if scalar & 1:
            result = add(result, point)
        point = add(point, point)
        scalar >>= 1
    return result


def from_y(y, odd):
    """The point with this y whose x is odd or even; None if there is none."""
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    if (x * x - square) % P:
        return None
    return (P - x if x % 2 != odd and x else x), y


BASE = from_y(4 * pow(5, -1, P) % P, 0)


def encode(point):
    return (point[1] | (point[0] & 1) << 255).to_bytes(32, "little")


def torsion_point():
    """A point of order 8."""
    y = 2
    while True:
        point = from_y(y, 0)
        if point:
            small = multiply(L, point)
            if multiply(4, small) != IDENTITY:
                return small
        y += 1


def scalar_of(digest):
    return int.from_bytes(digest, "little") % L


class Key:
    def __init__(self, name, offset=None):
        """`offset`: a point of small order that is added to the public key, which makes it one of
        mixed order."""
        self.seed = hashlib.sha256(b"phaseboot vector key " + name.encode()).digest()
        digest = hashlib.sha512(self.seed).digest()
        self.secret = int.from_bytes(digest[:32], "little") & (2**254 - 8) | 2**254
        self.prefix = digest[32:]
        point = multiply(self.secret, BASE)
        self.public = encode(add(point, offset) if offset else point)
        self.id = key_id(self.public)

    def challenge(self, r, message):
        return scalar_of(hashlib.sha512(r + self.public + message).digest())

    def sign(self, message, extra=b""):
        nonce = scalar_of(hashlib.sha512(self.prefix + extra + message).digest())
        r = encode(multiply(nonce, BASE))
        s = (nonce + self.challenge(r, message) * self.secret) % L
        return r + s.to_bytes(32, "little")


def key_id(public):
    return hashlib.sha256(public).hexdigest()[:16]


# ---- documents ---------------------------------------------------------------------------------


def b64(data):
    return base64.b64encode(data).decode()


def canonical(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def text(value):
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def signature(key, data, keyid=None):
    return {"keyid": keyid or key.id, "sig": b64(key.sign(hashlib.sha256(data).digest()))}


def envelope(content, keys, data=None):
    """The document as a dict, for further damage."""
    data = canonical(content) if data is None else data
    document = copy.deepcopy(content)
    document["signatures"] = [signature(key, data) for key in keys]
    document["signed"] = {"data": b64(data)}
    return document


def signed(content, keys, data=None):
    return text(envelope(content, keys, data))


def artifact(name, size):
    return {"hash": "sha256:" + hashlib.sha256(name.encode()).hexdigest(), "size": size, "urls": [name]}


MISSING = object()


def changed(content, **fields):
    """`a__b=1` sets content["a"]["b"]; MISSING removes."""
    content = copy.deepcopy(content)
    for path, value in fields.items():
        *parents, last = path.split("__")
        at = content
        for name in parents:
            at = at[name]
        if value is MISSING:
            del at[last]
        else:
            at[last] = value
    return content


def replaced(document, old, new):
    old, new = old.encode(), new if isinstance(new, bytes) else new.encode()
    assert document.count(old) == 1, (old, document.count(old))
    return document.replace(old, new)


# ---- key files ---------------------------------------------------------------------------------


def hexadecimal(key):
    return key.public.hex() + "\n"


def pem(key):
    der = bytes.fromhex("302a300506032b6570032100") + key.public
    return f"-----BEGIN PUBLIC KEY-----\n{b64(der)}\n-----END PUBLIC KEY-----\n"


def openssh(key, comment="someone@host"):
    blob = b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + key.public
    return f"ssh-ed25519 {b64(blob)} {comment}\n"


def files(*contents):
    """Key files, named a.pub, b.pub and so on. bytes are written as base64."""
    named = []
    for letter, content in zip("abcdefgh", contents):
        if isinstance(content, Key):
            content = hexadecimal(content)
        form = {"base64": b64(content)} if isinstance(content, bytes) else {"text": content}
        named.append({"file": f"{letter}.pub", **form})
    return named
