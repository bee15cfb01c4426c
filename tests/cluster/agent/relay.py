"""tests/cluster/agent/relay.py - a line that breaks: relays to gateways, each connection reset after so many bytes.

The cut falls anywhere, within a TLS record or a message: nothing is known of what passes. A process of its own;
words on its standard input: `cut BYTES N` (connections live for 0..2 BYTES on the way up, N more times), `stop` (all
connections end, none is accepted), `go`, `count` (prints: bytes up, cuts made, connections).
"""
import asyncio
import random
import socket
import struct
import sys


class Relay:
    def __init__(self, seed):
        self.random = random.Random(seed)
        self.up = self.cuts = self.connections = 0
        self.mean = self.left = 0
        self.stopped = False
        self.live = set()

    def budget(self):
        if self.left <= 0:
            return None
        return self.random.randrange(1, 2 * self.mean)

    async def pump(self, reader, writer, cut, counts):
        try:
            while True:
                data = await reader.read(65536)
                if not data:
                    break
                if counts:
                    self.up += len(data)
                    if cut['left'] is not None and self.left > 0:
                        if len(data) >= cut['left']:
                            writer.write(data[:cut['left']])
                            self.left -= 1
                            self.cuts += 1
                            break
                        cut['left'] -= len(data)
                writer.write(data)
                await writer.drain()
        except (ConnectionError, OSError):
            pass
        cut['end'].set()

    async def serve(self, reader, writer, port):
        if self.stopped:
            self.reset(writer)
            return
        try:
            there, there_w = await asyncio.open_connection('127.0.0.1', port)
        except OSError:
            self.reset(writer)
            return
        self.connections += 1
        cut = {'left': self.budget(), 'end': asyncio.Event()}
        pair = (writer, there_w)
        self.live.add(pair)
        tasks = [asyncio.create_task(self.pump(reader, there_w, cut, True)),
                 asyncio.create_task(self.pump(there, writer, cut, False))]
        await cut['end'].wait()
        self.live.discard(pair)
        for t in tasks:
            t.cancel()
        for w in pair:
            self.reset(w)

    @staticmethod
    def reset(writer):
        s = writer.get_extra_info('socket')
        try:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
        except OSError:
            pass
        writer.transport.abort()

    async def words(self):
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while True:
            line = (await reader.readline()).decode().split()
            if not line:
                return
            if line[0] == 'cut':
                self.mean, self.left = int(line[1]), int(line[2])
            elif line[0] == 'stop':
                self.stopped = True
                for pair in list(self.live):
                    for w in pair:
                        self.reset(w)
            elif line[0] == 'go':
                self.stopped = False
            print('%d %d %d' % (self.up, self.cuts, self.connections), flush=True)

    async def run(self, ports):
        for mine, to in ports:
            await asyncio.start_server(lambda r, w, to=to: self.serve(r, w, to), '127.0.0.1', mine)
        print('ready', flush=True)
        await self.words()


if __name__ == '__main__':
    asyncio.run(Relay(int(sys.argv[1])).run([tuple(map(int, a.split(':'))) for a in sys.argv[2:]]))
