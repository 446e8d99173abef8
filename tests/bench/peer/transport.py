"""hivemind's p2p between two processes, driven by the transport bench.

Tensors travel over its binary streams, which is the fastest it offers: its own expert calls cut
them into protobuf messages on top. Small requests are its unary protobuf calls.
"""

import asyncio
import json
import os
import subprocess
import sys
import time

os.environ.setdefault("HIVEMIND_LOGLEVEL", "ERROR")

from hivemind.p2p import P2P, PeerID
from hivemind.proto.dht_pb2 import FindRequest, FindResponse

STREAM, PING = "bench-stream", "bench-ping"


def say(**fields):
    print(json.dumps(fields), flush=True)


async def serve():
    p2p = await P2P.create()

    async def stream(_, reader, writer):
        while True:
            size = int.from_bytes(await reader.readexactly(8), "little")
            if not size:
                break
            await reader.readexactly(size)
        writer.write(b"k")
        await writer.drain()
        writer.close()

    async def ping(request, _):
        return FindResponse(results=[], peer=None) if not request.keys else _answer(request)

    await p2p.add_binary_stream_handler(STREAM, stream)
    await p2p.add_protobuf_handler(PING, ping, FindRequest)
    say(id=p2p.peer_id.to_base58(), maddrs=[str(m) for m in await p2p.get_visible_maddrs()])
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await p2p.shutdown()


def _answer(request):
    response = FindResponse()
    response.results.add(value=request.keys[0])
    return response


class Client:
    def __init__(self, p2p, server):
        self.p2p, self.server = p2p, server

    async def stream(self, num_bytes, count):
        data = bytes(num_bytes)
        _, reader, writer = await self.p2p.call_binary_stream_handler(self.server, STREAM)
        began = time.perf_counter()
        for _ in range(count):
            writer.write(num_bytes.to_bytes(8, "little"))
            writer.write(data)
            await writer.drain()
        writer.write(bytes(8))
        await reader.readexactly(1)
        seconds = time.perf_counter() - began
        writer.close()
        return {"seconds": seconds}

    async def ping(self, num_bytes, count):
        request, times = FindRequest(keys=[bytes(num_bytes)]), []
        for _ in range(count):
            began = time.perf_counter()
            await self.p2p.call_protobuf_handler(self.server, PING, request, FindResponse)
            times.append(time.perf_counter() - began)
        return {"seconds": times}


def start_server():
    """Start the other end in a process of its own."""
    return subprocess.Popen(
        [sys.executable, __file__, "serve"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


async def drive(child):
    server = json.loads(child.stdout.readline())
    p2p = await P2P.create(initial_peers=server["maddrs"])
    client = Client(p2p, PeerID.from_base58(server["id"]))
    say(ready=True)
    while line := await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline):
        request = json.loads(line)
        say(**await getattr(client, request.pop("do"))(**request))
    await p2p.shutdown()
    child.stdin.close()
    child.wait(10)


asyncio.run(serve() if sys.argv[1:] == ["serve"] else drive(start_server()))
