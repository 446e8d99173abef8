"""Random datagrams at one node: no error escapes, nothing grows, everybody is served afterwards.

`DISTQAT_FUZZ_CASES` sets how many (2000 by default).
"""

import asyncio
import os
import tracemalloc
from typing import Any

import msgpack
import pytest

from distqatd.base.rng import Rng, seeded_rng
from distqatd.dht.datagram import REPLY, REQUEST, seal
from distqatd.dht.messages import FIND, HELLO, STORE
from distqatd.dht.record import Record
from distqatd.identity.keys import Identity
from tests.support.dht_attacker import DOMAIN, Attacker
from tests.support.dht_swarm import SWARM_KEY, DhtSwarm, simulate

NUM_CASES = int(os.environ.get("DISTQAT_FUZZ_CASES", "2000"))
MEMBERS = [Identity.generate(seeded_rng("fuzz", number)) for number in range(20)]
KEY = "fuzzed"


def junk(rng: Rng, depth: int = 0) -> Any:
    leaves = [None, True, -1, 1.5, 2**63, "x" * 5, "x" * 200]
    leaves += [rng.randbytes(length) for length in (0, 1, 8, 16, 20, 32, 300)]
    if depth < 3 and rng.random() < 0.2:
        return [junk(rng, depth + 1) for _ in range(rng.randrange(4))]
    if rng.random() < 0.05:
        return {"value": 1}
    return rng.choice(leaves)


def plausible(rng: Rng, kind: Any, member: Identity) -> list[Any]:
    fields = Record.sign(member, DOMAIN, (KEY, "s"), b"v", seq=1, ttl_s=60).wire(60)
    if rng.random() < 0.5:
        fields[rng.randrange(7)] = junk(rng)
    known: dict[Any, list[Any]] = {
        HELLO: [rng.randbytes(16), rng.randbytes(4), rng.randrange(70_000)],
        FIND: [rng.randbytes(20), rng.random() < 0.5, rng.choice([b"", bytes(8)]), b"", b""],
        STORE: [rng.randbytes(8), KEY.encode(), fields],
    }
    return known.get(kind, [junk(rng)])


def fuzzed(rng: Rng, key: bytes) -> bytes:
    """Return noise, or a sealed body that is nearly right, some of them with one bit flipped."""
    if rng.random() < 0.2:
        return rng.randbytes(rng.randrange(400))
    member = rng.choice(MEMBERS)
    kind = rng.choice([HELLO, FIND, STORE, 0, -1, b"x", 7])
    if rng.random() < 0.4:
        rest = [junk(rng) for _ in range(rng.randrange(6))]
    else:
        rest = plausible(rng, kind, member)
    body = msgpack.packb([member.public_key, kind, *rest] if rng.random() < 0.9 else junk(rng))
    packet = seal(key, rng.choice([REQUEST, REQUEST, REPLY]), rng.randbytes(8), body[:1207])
    if rng.random() < 0.1:
        flipped = bytearray(packet)
        flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
        return bytes(flipped)
    return packet


@pytest.mark.parametrize("key", [b"x" * 32, SWARM_KEY], ids=["stranger", "member"])
def test_noise_harms_nobody(key: bytes) -> None:
    async def scenario(swarm: DhtSwarm) -> None:
        nodes = await swarm.grow(6)
        victim = nodes[1]
        await nodes[2].dht.store("good", "s", b"v", ttl_s=3000)
        attacker = await Attacker.enter(swarm, key=key)
        rng = seeded_rng("fuzz", key)
        datagrams = [fuzzed(rng, key) for _ in range(NUM_CASES)]
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        for number, datagram in enumerate(datagrams):
            attacker.send(victim, datagram)
            attacker.received.clear()
            if number % 20 == 0:
                await asyncio.sleep(0.02)
        await asyncio.sleep(10)
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert after - before < 1_000_000
        assert victim.dht.num_peers in {5, 6}
        assert victim.server.storage.num_records <= 1
        assert len(victim.server.protocol.calls) <= 1
        assert [await node.values("good") for node in nodes] == [["v"]] * 6
        assert await victim.dht.store("after", "s", b"v", ttl_s=60) >= 6

    simulate(scenario)
