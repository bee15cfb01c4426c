#!/usr/bin/python3
"""Keys, documents, digests, signatures and capabilities a second time, with Debian's
python3-cryptography, against what `test_keys vectors` prints: random values are opened here."""
import hashlib
import hmac
import struct
import subprocess
import sys

try:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
except ImportError:
    print("skipped: python3-cryptography is not installed")
    sys.exit(77)


def hkdf(key, info):
    prk = hmac.new(b"\0" * 32, key, hashlib.sha256).digest()
    return hmac.new(prk, info + b"\1", hashlib.sha256).digest()


def sha(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def u32(v):
    return struct.pack("<I", v)


def u64(v):
    return struct.pack("<Q", v)


def crc32c(data):
    c = 0xFFFFFFFF
    for b in data:
        c ^= b
        for _ in range(8):
            c = c >> 1 ^ (0x82F63B78 if c & 1 else 0)
    return c ^ 0xFFFFFFFF


def node(leaves):
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return sha(b"\x11", node(leaves[:k]), node(leaves[k:]))


def root(n):
    lines = [sha(b"\x10", u32(5), b"path%d" % i, u64(i + 1), u64((i + 1) * 10), bytes([i + 1]) * 32)
             for i in range(n)]
    return sha(b"\x12", u64(n), node(lines) if n else b"")


got = {k: bytes.fromhex(v) for k, v in (line.split(" ") for line in subprocess.run(
    [sys.argv[1], "vectors"], capture_output=True, check=True, text=True).stdout.splitlines())}
one, two, four, six = (bytes([i]) * 32 for i in (1, 2, 4, 6))
bad = []


def same(name, want):
    if got.pop(name) != want:
        bad.append(name)


w = got.pop("wrapped")
parent, own = b"col/case-7", b"body-1"
aad = b"\1\3\0\0" + u32(3) + u32(len(parent)) + parent + u32(len(own)) + own
if w[:8] != aad[:8] or AESGCM(hkdf(one, b"mikura wrap key 1\3")).decrypt(w[8:20], w[20:], aad) != two:
    bad.append("wrapped")
body = b"mikurakm" + u32(1) + u32(0) + u64(1234567) + one + u32(0)
same("master", body + u32(crc32c(body)))
same("fingerprint", sha(hkdf(one, b"mikura fingerprint 1")))
d = got.pop("doc")
if AESGCM(hkdf(four, b"mikura doc key 1" + d[4:20])).decrypt(
        b"\0" * 12, d[20:], b"\1\2\0\0" + d[4:20] + u32(8) + b"identity") != b"a case document":
    bad.append("doc")
same("chunkdigest", hmac.new(hkdf(two, b"mikura chunk digest 1"), u32(1048576) + b"\xaa" * 32 + u32(5) +
                             b"\xbb" * 32, hashlib.sha256).digest())
same("manifest", hmac.new(hkdf(four, b"mikura manifest mac 1"), u32(8) + b"identity" + b"manifest",
                          hashlib.sha256).digest())
for i in range(6):
    same(f"root{i}", root(i))
private = Ed25519PrivateKey.from_private_bytes(six)
public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
key_id = sha(b"mikura ed25519 key 1", public)[:16]
same("public", public)
same("keyid", key_id)
uri = b"mikura://node/computed/c1"
cap = (b"\1\0" + struct.pack("<H", len(uri)) + u32(2) + b"\1" * 16 + key_id + b"\2" * 16 + u64(77) + u32(2) +
       u32(0) + u64(5) + u64(1000000) + uri + b"\3" * 16 + b"\x09" * 16)
same("capability", cap + private.sign(b"mikura capability 1\0" + cap))
print(f"differing: {bad}, unknown: {sorted(got)}")
sys.exit(1 if bad or got else 0)
