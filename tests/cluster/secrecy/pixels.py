"""tests/cluster/secrecy/pixels.py - the bytes of a file that are a picture of somebody: DICOM PixelData, TIFF tiles and
strips, JPEG scans, PNG IDAT; of what is none of these (a video) all of it. What is left out is what may be in clear:
headers, tags, names."""
import struct


def jpeg(data):
    at, out = 2, []
    while at + 4 <= len(data):
        if data[at] != 0xff:
            at += 1
            continue
        marker = data[at + 1]
        if marker in (0xff, 0x00, 0x01) or 0xd0 <= marker <= 0xd8:
            at += 1 if marker == 0xff else 2
            continue
        if marker == 0xd9:
            break
        n = struct.unpack_from('>H', data, at + 2)[0]
        at += 2 + n
        if marker == 0xda:
            start = at
            while at + 1 < len(data) and not (data[at] == 0xff and data[at + 1] != 0 and not 0xd0 <= data[at + 1] <= 0xd7):
                at += 1
            out.append(data[start:at])
    return b''.join(out)


def png(data):
    at, out = 8, []
    while at + 8 <= len(data):
        n, kind = struct.unpack_from('>I4s', data, at)
        if kind == b'IDAT':
            out.append(data[at + 8:at + 8 + n])
        at += 12 + n
    return b''.join(out)


def tiff(data):
    e = '<' if data[:2] == b'II' else '>'
    big = struct.unpack_from(e + 'H', data, 2)[0] == 43
    word, count_n, entry, inline = ('Q', 8, 20, 8) if big else ('I', 4, 12, 4)
    sizes = {1: (1, 'B'), 2: (1, 'B'), 3: (2, 'H'), 4: (4, 'I'), 7: (1, 'B'), 13: (4, 'I'), 16: (8, 'Q'), 18: (8, 'Q')}
    todo, done, out = [struct.unpack_from(e + word, data, 8 if big else 4)[0]], set(), []
    while todo:
        at = todo.pop()
        if at == 0 or at in done:
            continue
        done.add(at)
        n = struct.unpack_from(e + ('Q' if big else 'H'), data, at)[0]
        at += 8 if big else 2
        tags = {}
        for i in range(n):
            p = at + i * entry
            tag, kind = struct.unpack_from(e + 'HH', data, p)
            count = struct.unpack_from(e + word, data, p + 4)[0]
            if kind not in sizes:
                continue
            size, code = sizes[kind]
            where = p + 4 + count_n
            if size * count > inline:
                where = struct.unpack_from(e + word, data, where)[0]
            if tag in (273, 279, 324, 325, 330):
                tags[tag] = struct.unpack_from('%s%d%s' % (e, count, code), data, where)
        todo.append(struct.unpack_from(e + word, data, at + n * entry)[0])
        todo.extend(tags.get(330, ()))
        for offsets, lengths in ((324, 325), (273, 279)):
            for o, m in zip(tags.get(offsets, ()), tags.get(lengths, ())):
                out.append(data[o:o + m])
    return b''.join(out)


def dicom(path):
    """None: a document or an index, without pixels."""
    import pydicom
    d = pydicom.dcmread(path, force=True)
    for name in ('PixelData', 'FloatPixelData', 'DoubleFloatPixelData'):
        if name in d:
            return d[name].value
    return None


def of(path):
    with open(path, 'rb') as f:
        data = f.read()
    if data[128:132] == b'DICM' or path.endswith('.dcm'):  # before TIFF: a DICOM file may begin as one
        return dicom(path)
    if data[:2] == b'\xff\xd8':
        return jpeg(data)
    if data[:4] == b'\x89PNG':
        return png(data)
    if data[:4] in (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+'):
        return tiff(data)
    return data
