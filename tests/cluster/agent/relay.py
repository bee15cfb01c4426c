"""tests/cluster/agent/relay.py - a line that breaks: relays to gateways that reset connections in the middle of a flow.

The cut falls anywhere, within a TLS record or a message: nothing is known of what passes. A process of its own;
words on its standard input: `cut BYTES` (a connection over which bytes flow is reset after 1..BYTES more of them on the
way up), `stop` (all connections end, none is accepted), `go`, `count`; all print: bytes up, cuts made, connections.
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
        self.within = []  # cuts that are wished for and not yet on a connection
        self.stopped = False
        self.live = set()

    async def pump(self, reader, writer, cut, counts):
        try:
            while True:
                data = await reader.read(65536)
                if not data:
                    break
                if counts:
                    if cut['left'] is None and self.within and len(data) > 1000:
                        cut['left'] = self.random.randrange(1, self.within.pop())
                    if cut['left'] is not None:
                        if len(data) >= cut['left']:
                            self.up += cut['left']
                            writer.write(data[:cut['left']])
                            self.cuts += 1
                            cut['left'] = None
                            break
                        cut['left'] -= len(data)
                    self.up += len(data)
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
        cut = {'left': None, 'end': asyncio.Event()}
        pair = (writer, there_w)
        self.live.add(pair)
        tasks = [asyncio.create_task(self.pump(reader, there_w, cut, True)),
                 asyncio.create_task(self.pump(there, writer, cut, False))]
        await cut['end'].wait()
        if cut['left'] is not None:  # it ended before: another one instead
            self.within.append(cut['left'] + 1)
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
                self.within.append(int(line[1]))
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
