"""A disk in memory for unit tests and simulations."""

from collections.abc import Awaitable, Callable
from typing import Any


class MemoryDisk:
    """Implements `distqatd.base.disk.Disk`; `content` survives what the test calls a crash.

    `on_write` is awaited before each write; what it raises, a cancellation too, loses the write.
    """

    def __init__(self, content: dict[str, Any] | None = None, name: str = "document") -> None:
        self.content = {} if content is None else content
        self.name = name
        self.num_writes = 0
        self.on_write: Callable[[], Awaitable[None]] | None = None

    async def read(self) -> bytes | None:
        return self.content.get(self.name)

    async def write(self, data: bytes) -> None:
        if self.on_write is not None:
            await self.on_write()
        self.num_writes += 1
        self.content[self.name] = data
