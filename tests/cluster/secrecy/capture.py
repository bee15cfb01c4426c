"""tests/cluster/secrecy/capture.py - what goes over loopback, for ports [FIRST, LAST]: TCP payloads, one after the other.

  capture.py FIRST LAST OUT    until SIGTERM; OUT.control takes port LAST, OUT the others
Prints `ready` when the socket listens. At the end: packets, bytes, and what the kernel dropped. A packet
socket instead of tcpdump: no package, and no privileges beyond CAP_NET_RAW.
"""
import signal
import socket
import struct
import sys

SOL_PACKET, PACKET_STATISTICS, PACKET_OUTGOING = 263, 6, 4
SO_RCVBUFFORCE = 33
ETH_P_ALL = 3

first, last, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
try:
    s.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 512 << 20)
except OSError:
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 512 << 20)
s.bind(('lo', 0))
s.settimeout(0.2)
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
print('ready', flush=True)
packets = kept = 0
buf = bytearray(1 << 18)
with open(out, 'wb') as plain, open(out + '.control', 'wb') as control:
    while True:
        try:
            n, address = s.recvfrom_into(buf)
        except BlockingIOError:
            break  # asked to stop, and all that came before is read
        except socket.timeout:
            n = 0
        if stop:
            s.setblocking(False)
        if n == 0:
            continue
        if address[2] == PACKET_OUTGOING:
            continue  # loopback shows each packet twice
        ip = 14
        if buf[12:14] == b'\x08\x00' and buf[ip + 9] == 6:
            end = ip + struct.unpack_from('>H', buf, ip + 2)[0]
            if end == ip:  # a length over 65535, of a segmentation offload
                end = n
            tcp = ip + (buf[ip] & 15) * 4
        elif buf[12:14] == b'\x86\xdd' and buf[ip + 6] == 6:
            end, tcp = n, ip + 40
        else:
            continue
        a, b = struct.unpack_from('>HH', buf, tcp)
        if not (first <= a <= last or first <= b <= last):
            continue
        payload = memoryview(buf)[tcp + (buf[tcp + 12] >> 4) * 4:min(end, n)]
        packets += 1
        kept += len(payload)
        (control if last in (a, b) else plain).write(payload)
seen, dropped = struct.unpack('II', s.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
print('%d packets, %d bytes, %d dropped of %d' % (packets, kept, dropped, seen), flush=True)
sys.exit(1 if dropped else 0)
