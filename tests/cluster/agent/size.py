"""tests/cluster/agent/size.py - what a large slide and very many small files are made of.

  size.py slide SIDE_TILES FILE   an Aperio-like BigTIFF, SIDE_TILES x SIDE_TILES tiles of 1 MiB; sparse: each 97th is random
  size.py slices N CLEAN FOLDER   N copies of the DICOM file CLEAN, each with pixels of its own
"""
import os
import random
import struct
import sys

TILE = 1024


def slide(side, path):
    n, w = side * side, side * TILE
    text = b'Aperio Image Library v11.2.1\r\n%dx%d (1024x1024)|AppMag = 40|MPP = 0.25\0' % (w, w)
    count = 12
    text_at = 16 + 8 + count * 20 + 8
    offsets_at = (text_at + len(text) + 15) // 16 * 16
    tiles_at = (offsets_at + 16 * n + 4095) // 4096 * 4096
    tags = [(254, 4, 1, 0), (256, 4, 1, w), (257, 4, 1, w), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1),
            (270, 2, len(text), text_at), (277, 3, 1, 1), (322, 4, 1, TILE), (323, 4, 1, TILE),
            (324, 16, n, offsets_at), (325, 16, n, offsets_at + 8 * n)]
    rng = random.Random(1)
    with open(path, 'wb') as f:
        f.write(struct.pack('<2sHHHQQ', b'II', 43, 8, 0, 16, count))
        for t in tags:
            f.write(struct.pack('<HHQQ', *t))
        f.write(struct.pack('<Q', 0) + text)
        f.seek(offsets_at)
        f.write(struct.pack('<%dQ' % n, *(tiles_at + i * TILE * TILE for i in range(n))))
        f.write(struct.pack('<%dQ' % n, *[TILE * TILE] * n))
        for i in range(0, n, 97):
            f.seek(tiles_at + i * TILE * TILE)
            f.write(rng.randbytes(TILE * TILE))
        f.truncate(tiles_at + n * TILE * TILE)


def slices(n, clean, folder):
    with open(clean, 'rb') as f:
        data = f.read()
    for i in range(n):
        sub = os.path.join(folder, '%03d' % (i // 1000))
        if i % 1000 == 0:
            os.makedirs(sub)
        with open(os.path.join(sub, '%06d.dcm' % i), 'wb') as f:
            f.write(data[:-8] + b'%08d' % i)


if __name__ == '__main__':
    if sys.argv[1] == 'slide':
        slide(int(sys.argv[2]), sys.argv[3])
    else:
        slices(int(sys.argv[2]), sys.argv[3], sys.argv[4])
