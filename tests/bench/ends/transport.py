"""The receiving end of the transport bench: `raw`, `ssl`, or our pool, `plain` or `tls`."""

import socket
import sys

from distqatd.net.rpc import Caller
from distqatd.wire.payload import Message, TensorSpec
from tests.bench import links, raw
from tests.bench.children import say

PUT = "bench.put"
ECHO = "bench.echo"


def serve_raw(*, secure: bool, slot_bytes: int) -> None:
    context = links.tls(links.SERVER).server if secure else None
    with socket.create_server(("127.0.0.1", 0)) as listener:
        say(port=listener.getsockname()[1])
        raw.serve(listener, context, slot_bytes)


async def serve_pool(*, secure: bool, slot_bytes: int) -> None:
    slots = [memoryview(bytearray(slot_bytes)) for _ in range(raw.MOST_SLOTS)]

    def place(spec: TensorSpec) -> memoryview:
        return slots[int(spec.name)][: spec.nbytes]

    async def put(_: Caller, __: Message) -> Message:
        return Message({})

    async def echo(_: Caller, message: Message) -> Message:
        return Message(message.body)

    async with links.running_pool(links.SERVER, secure=secure) as (pool, address):
        pool.serve(PUT, put, max_bytes=2 * slot_bytes, sink=place)
        pool.serve(ECHO, echo)
        say(port=address.port)
        await links.parent_is_gone()


def main() -> None:
    kind, slot_bytes = sys.argv[1], int(sys.argv[2])
    if kind in {"raw", "ssl"}:
        serve_raw(secure=kind == "ssl", slot_bytes=slot_bytes)
        return
    with links.loop() as runner:
        runner.run(serve_pool(secure=kind == "tls", slot_bytes=slot_bytes))


if __name__ == "__main__":
    main()
