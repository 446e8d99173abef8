"""A member of the swarm that breaks its rules: right key, right signature, all else wrong."""

import asyncio
from collections.abc import Callable
from typing import Any

from msgpack import unpackb

from distqatd.base.rng import seeded_rng
from distqatd.dht.datagram import REPLY, REQUEST, pack, seal, unseal
from distqatd.dht.messages import FIND, HELLO, Find, Hello
from distqatd.dht.node import verifier_for
from distqatd.identity.keys import Identity
from tests.sim.host import Host
from tests.support.dht_swarm import PORT, SWARM_KEY, DhtNode, DhtSwarm

DOMAIN = verifier_for(SWARM_KEY).domain

Answer = Callable[[list[Any]], list[Any] | None]


class Attacker(asyncio.DatagramProtocol):
    """Sends what it likes; answers HELLO honestly and other requests with `answer(fields)`."""

    def __init__(
        self, host: Host, answer: Answer | None = None, key: bytes = SWARM_KEY, port: int = PORT
    ) -> None:
        self.host = host
        self.identity: Identity = host.identity
        self.key = key
        self.port = port
        self.answer = answer
        self.received: list[tuple[int, bytes, list[Any]]] = []
        self.received_bytes = 0
        self.reply_bytes = 0
        self.rng = seeded_rng("attacker", host.ip)

    @classmethod
    async def enter(cls, swarm: DhtSwarm, answer: Answer | None = None, **options: Any) -> Any:
        """Open a socket on a new machine."""
        attacker = cls(swarm.sim.host(), answer, **options)
        await attacker.host.transport.datagrams(attacker.host.ip, attacker.port, attacker)
        return attacker

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def send(self, node: DhtNode, datagram: bytes) -> None:
        """Send raw bytes."""
        self.transport.sendto(datagram, (node.host.ip, node.port))

    def request(self, node: DhtNode, *fields: Any, sender: bytes | None = None) -> None:
        """Send a sealed request with any fields."""
        body = pack([sender or self.identity.public_key, *fields])
        self.send(node, seal(self.key, REQUEST, self.rng.randbytes(8), body))

    def introduce(self, node: DhtNode) -> None:
        """Ask something harmless, so that the node proves us and takes us into its table."""
        body = Find(bytes(20), values=False).pack(self.identity.public_key)
        self.send(node, seal(self.key, REQUEST, self.rng.randbytes(8), body))

    async def token(self, node: DhtNode) -> bytes:
        """Get a write token as anybody may."""
        self.introduce(node)
        await asyncio.sleep(0.5)
        replies = [fields for kind, _, fields in self.received if kind == REPLY]
        token: bytes = next(fields[1] for fields in reversed(replies) if len(fields) == 6)
        return token

    def replies(self) -> list[list[Any]]:
        """Return the fields of all replies so far."""
        return [fields for kind, _, fields in self.received if kind == REPLY]

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.received_bytes += len(data)
        kind, message_id, body = unseal(self.key, data)
        self.reply_bytes += len(data) if kind == REPLY else 0
        fields = unpackb(body)
        self.received.append((kind, message_id, fields))
        if kind != REQUEST:
            return
        if fields[1] == HELLO:
            signed = Hello(*fields[2:]).signed_bytes(DOMAIN, fields[0])
            reply: list[Any] | None = [self.identity.sign(signed)]
        else:
            reply = self.answer(fields) if self.answer is not None else None
        if reply is not None:
            body = pack([self.identity.public_key, *reply])
            self.transport.sendto(seal(self.key, REPLY, message_id, body), addr)


def naming(entries: Any) -> Answer:
    """Return an answer to FIND that names these contacts."""

    def answer(fields: list[Any]) -> list[Any] | None:
        return [b"t" * 8, entries, b"", b"", []] if fields[1] == FIND else None

    return answer
