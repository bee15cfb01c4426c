#!/usr/bin/python3
"""Tree digests and the chunk key's use, computed a second time without our code, against what
`test_crypto vectors` prints."""
import hashlib
import hmac
import struct
import subprocess
import sys

MIB = 1 << 20


def node(leaves):
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return hashlib.sha256(b"\1" + node(leaves[:k]) + node(leaves[k:])).digest()


def tree(data):
    leaves = [hashlib.sha256(b"\0" + data[i:i + MIB]).digest()
              for i in range(0, max(len(data), 1), MIB)]
    return hashlib.sha256(b"\2" + struct.pack("<Q", len(data)) + node(leaves)).hexdigest()


def pattern(n):
    return bytes((i * 7 + i // 251) & 255 for i in range(n))


def chunk(n):
    """Seal pattern(n) with openssl's command line? It has no GCM; so AES-CTR: GCM's text is CTR from
    counter 2, which checks key, nonce and order; the tags are checked by the flips in test_crypto."""
    ident = (struct.pack("<I", 1) + bytes(range(16)) + struct.pack("<I", 5) + bytes(range(16, 32)) +
             struct.pack("<I", n))
    prk = hmac.new(b"\0" * 32, bytes([0x42]) * 32, hashlib.sha256).digest()
    key = hmac.new(prk, b"mikura chunk key 1" + ident + b"\1", hashlib.sha256).digest()
    out = b""
    data = pattern(n)
    for b in range(0, n, 65536):
        iv = struct.pack(">QII", 0, b // 65536, 2)
        out += subprocess.run(["openssl", "enc", "-aes-256-ctr", "-K", key.hex(), "-iv", iv.hex()],
                              input=data[b:b + 65536], capture_output=True, check=True).stdout
    return hashlib.sha256(out).hexdigest()


want = {}
for n in (0, 1, MIB - 1, MIB, MIB + 1, 3 * MIB, 5 * MIB + 17, 8 * MIB):
    want[f"tree {n}"] = tree(pattern(n))
for n in (1, 65536, 65537, 200000):
    want[f"chunk {n}"] = chunk(n)
got = dict(line.rsplit(" ", 1) for line in subprocess.run(
    [sys.argv[1], "vectors"], capture_output=True, check=True, text=True).stdout.splitlines())
bad = [k for k in want if got.get(k) != want[k]]
print(f"{len(want)} vectors, differing: {bad}")
sys.exit(1 if bad or set(got) != set(want) else 0)
