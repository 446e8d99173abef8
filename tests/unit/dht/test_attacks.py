"""What breaks stock kademlia 2.2.3 must not break us: each case is one of its known failures.

docs/kademlia.md lists them. "Member" means whoever holds the swarm's datagram key.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from distqatd.base.rng import seeded_rng
from distqatd.dht.contact import Contact
from distqatd.dht.datagram import REPLY, REQUEST, pack, seal
from distqatd.dht.limits import MAX_DATAGRAM, DhtLimits
from distqatd.dht.messages import AMPLIFICATION, FIND, HELLO, STORE, Find, Status
from distqatd.dht.record import Record, key_id
from distqatd.identity.keys import Identity
from tests.support.dht_attacker import DOMAIN, Attacker, naming
from tests.support.dht_swarm import SWARM_KEY, DhtSwarm, simulate

KEY = "run/r/stage/0"
RNG = seeded_rng("attacks")
ALICE = Identity.generate(RNG)
LOOPBACK = b"\x7f\x00\x00\x01"

Attack = Callable[[DhtSwarm, Attacker], Awaitable[None]]


def record(identity: Identity, *, seq: int = 1, value: bytes = b"v", key: str = KEY) -> Record:
    return Record.sign(identity, DOMAIN, (key, "s"), value, seq=seq, ttl_s=600)


def survive(attack: Attack, *, answer: Any = None, **options: Any) -> None:
    """Run an attack on a swarm of five and check that all of them serve as before."""

    async def scenario(swarm: DhtSwarm) -> None:
        nodes = await swarm.grow(5)
        await nodes[0].dht.store(KEY, "mine", b"good", ttl_s=3000)
        attacker = await Attacker.enter(swarm, answer)
        await attack(swarm, attacker)
        for number, node in enumerate(nodes):
            began_s = swarm.sim.now_s
            assert "good" in await node.values(KEY)
            await node.dht.store("other", f"{number}", b"v", ttl_s=600)
            assert not node.server.transport.is_closing()
            assert swarm.sim.now_s - began_s < 5.0
        assert len(await nodes[3].values("other")) == 5

    simulate(scenario, limits=DhtLimits(**options))


async def in_the_tables(swarm: DhtSwarm, attacker: Attacker) -> None:
    """Let every node take the attacker in, and use it."""
    for node in swarm.nodes:
        attacker.introduce(node)
    await asyncio.sleep(1)
    assert all(node.dht.num_peers == 5 for node in swarm.nodes)
    for node in swarm.nodes:
        await node.values("nothing there")


@pytest.mark.parametrize(
    "entries",
    [
        [[b"p" * 32, LOOPBACK, 99999]],
        [[b"p" * 32, LOOPBACK, "x"]],
        [[b"p" * 32, None, None]],
        [[b"p" * 32, b"nonexistent.invalid", 80]],
        7,
        [[1, 2, 3, 4]],
        {"x": 1},
        [[b"p" * 32, b"\x00" * 15 + b"\x01", 5000]],
        [[b"p" * 32, LOOPBACK, 80]],
        [[b"p" * 32, b"\xff\xff\xff\xff", 80]],
        [[b"p" * 32, b"\xe0\x00\x00\x01", 80]],
        [[b"\x01", LOOPBACK, 80]],
        [[RNG.randbytes(32), b"\x0a\x63" + RNG.randbytes(2), 80] for _ in range(20)],
    ],
    ids=[
        "port 99999",
        "port is text",
        "address is nil",
        "address is a host name",
        "contacts are a number",
        "contact of four numbers",
        "contacts are a map",
        "IPv6 loopback to an IPv4 node",
        "loopback to a remote node",
        "broadcast",
        "multicast",
        "short key",
        "twenty peers that do not exist",
    ],
)
def test_a_hostile_contact_list_closes_no_socket_and_fails_no_lookup(entries: Any) -> None:
    survive(in_the_tables, answer=naming(entries))


def test_ids_that_are_equal_as_numbers_cannot_be_made_and_do_not_confuse_the_table() -> None:
    async def attack(swarm: DhtSwarm, attacker: Attacker) -> None:
        for sender in (b"\x01", b"\x00\x01", *(bytes(length) + b"\x01" for length in range(60))):
            attacker.request(swarm.nodes[1], FIND, bytes(20), False, b"", b"", sender=sender)
        await asyncio.sleep(1)
        table = swarm.nodes[1].server.protocol.router
        assert len(table.buckets) == 1
        assert len(table) <= 5

    survive(attack)


@pytest.mark.parametrize(
    "reply",
    [
        [b"t" * 8, [], b"d" * 8, b"", [[1]]],
        [b"t" * 8, [], b"d" * 8, b"n" * 8, []],
        [b"t" * 8, [], b"d" * 8, b"", [record(ALICE, key="another key").wire(9)]],
        [b"t" * 8, [], "text", b"", []],
        [b"t" * 900, [], b"", b"", []],
        [],
        [7],
    ],
    ids=[
        "value is a list",
        "pages without end",
        "record of another key",
        "text for a digest",
        "token of 900 bytes",
        "nothing",
        "a number",
    ],
)
def test_a_hostile_answer_fails_nobodys_get(reply: list[Any]) -> None:
    def answer(fields: list[Any]) -> list[Any] | None:
        return reply if fields[1] == FIND else None

    survive(in_the_tables, answer=answer)


def test_nobody_overwrites_anothers_record() -> None:
    async def attack(swarm: DhtSwarm, attacker: Attacker) -> None:
        victim = swarm.nodes[1]
        token = await attacker.token(victim)
        real = victim.server.storage[key_id(KEY)][0].record
        junk: list[list[Any]] = [[1, 2], real.wire(600)]
        junk[1][1] = b"evil"
        higher = real.wire(600)
        higher[2] += 1
        stolen = record(attacker.identity).wire(600)
        stolen[4] = real.publisher
        for fields in (*junk, higher, stolen):
            attacker.request(victim, STORE, token, KEY.encode(), fields)
        await asyncio.sleep(0.5)
        assert [held.record for held in victim.server.storage[key_id(KEY)]] == [real]
        statuses = [fields[1] for fields in attacker.replies() if len(fields) == 3]
        assert set(statuses) == {Status.REFUSED, Status.STALE}

    survive(attack)


def test_a_store_without_a_token_of_this_address_is_refused() -> None:
    async def attack(swarm: DhtSwarm, attacker: Attacker) -> None:
        victim = swarm.nodes[1]
        other = await Attacker.enter(swarm)
        token = await other.token(victim)
        for wrong in (token, bytes(8)):
            fields = record(attacker.identity).wire(600)
            attacker.request(victim, STORE, wrong, KEY.encode(), fields)
        await asyncio.sleep(0.5)
        assert [fields[1] for fields in attacker.replies()] == [Status.BAD_TOKEN] * 2
        assert victim.server.storage.num_records == 1

    survive(attack)


def test_a_ttl_over_an_hour_is_refused_even_if_its_publisher_signed_it() -> None:
    async def attack(swarm: DhtSwarm, attacker: Attacker) -> None:
        victim = swarm.nodes[1]
        token = await attacker.token(victim)
        day = Record(KEY, "s", b"v", attacker.identity.public_key, 1, 86_400_000, b"")
        signature = attacker.identity.sign(day.signed_bytes(DOMAIN))
        fields = [b"s", b"v", 1, 86_400_000, attacker.identity.public_key, signature, 1000]
        attacker.request(victim, STORE, token, KEY.encode(), fields)
        await asyncio.sleep(0.5)
        assert victim.server.storage.num_records == 1

    survive(attack)


def test_deep_nesting_is_dropped() -> None:
    async def attack(swarm: DhtSwarm, attacker: Attacker) -> None:
        victim = swarm.nodes[1]
        for _ in range(20):
            attacker.send(victim, seal(SWARM_KEY, REQUEST, b"12345678", b"\x91" * 1200))
        await asyncio.sleep(0.5)
        assert victim.dht.stats.datagrams_dropped >= 20

    survive(attack)


def test_a_value_over_the_limit_is_not_stored() -> None:
    async def attack(swarm: DhtSwarm, attacker: Attacker) -> None:
        victim = swarm.nodes[1]
        token = await attacker.token(victim)
        fields = record(attacker.identity).wire(600)
        fields[1] = b"v" * 701
        attacker.request(victim, STORE, token, KEY.encode(), fields)
        await asyncio.sleep(0.5)
        assert victim.server.storage.num_records == 1

    survive(attack)


def test_a_stranger_gets_no_answer_at_all() -> None:
    async def attack(swarm: DhtSwarm, _: Attacker) -> None:
        stranger = await Attacker.enter(swarm, key=b"x" * 32)
        for fields in ([HELLO, b"n" * 16, LOOPBACK, 80], [FIND, bytes(20), True, b"", b""]):
            stranger.request(swarm.nodes[1], *fields)
        stranger.send(swarm.nodes[1], b"")
        stranger.send(swarm.nodes[1], RNG.randbytes(1200))
        await asyncio.sleep(2)
        assert stranger.received_bytes == 0
        assert swarm.nodes[1].dht.num_peers == 4

    survive(attack)


def test_an_unproven_address_gets_at_most_three_times_what_it_sent() -> None:
    async def attack(swarm: DhtSwarm, attacker: Attacker) -> None:
        victim = swarm.nodes[1]
        for number in range(10):
            await swarm.nodes[number % 5].dht.store(KEY, f"big{number}", b"v" * 700, ttl_s=600)
        sender = attacker.identity.public_key
        short = pack([sender, FIND, key_id(KEY), True, b"", b"", b""])
        for body in (short, Find(key_id(KEY), values=True).pack(sender)):
            before = attacker.reply_bytes
            datagram = seal(SWARM_KEY, REQUEST, attacker.rng.randbytes(8), body)
            attacker.send(victim, datagram)
            await asyncio.sleep(1)
            assert 0 < attacker.reply_bytes - before <= AMPLIFICATION * len(datagram)

    survive(attack)


def test_no_datagram_is_ever_longer_than_1232_bytes() -> None:
    async def attack(swarm: DhtSwarm, attacker: Attacker) -> None:
        for number in range(20):
            key = "k" * 128
            await swarm.nodes[number % 5].dht.store(key, f"{number:096}", b"v" * 700, ttl_s=600)
        assert len(await swarm.nodes[2].dht.get(key)) == 20
        body = Find(key_id(key), values=True).pack(attacker.identity.public_key)
        attacker.send(swarm.nodes[1], seal(SWARM_KEY, REQUEST, b"12345678", body))
        await asyncio.sleep(1)
        assert attacker.received_bytes <= 3 * MAX_DATAGRAM
        assert attacker.replies()[0][5], "a full page still has a record in it"

    survive(attack)


def test_a_spoofed_sender_never_becomes_a_contact() -> None:
    async def attack(swarm: DhtSwarm, attacker: Attacker) -> None:
        victim = swarm.nodes[1]
        for number in range(200):
            key = Identity.generate(seeded_rng("spoofed", number)).public_key
            attacker.request(victim, FIND, bytes(20), False, b"", b"", b"", sender=key)
        await asyncio.sleep(0.1)
        limits = swarm.limits
        assert len(victim.server.protocol.proofs) <= limits.max_proofs_per_source
        assert attacker.received_bytes < 200 * 1000
        await asyncio.sleep(20)
        assert victim.dht.num_peers <= 5

    survive(attack)


def test_a_proof_made_for_one_address_is_worth_nothing_at_another() -> None:
    async def attack(swarm: DhtSwarm, attacker: Attacker) -> None:
        other = await Attacker.enter(swarm)
        victim = swarm.nodes[1]
        attacker.identity = other.identity
        attacker.introduce(victim)
        await asyncio.sleep(1)
        elsewhere = Contact(other.identity.public_key, other.host.ip, other.port)
        known = victim.server.protocol.router.find(elsewhere.id)
        assert known.endpoint == (attacker.host.ip, attacker.port)
        other.introduce(victim)
        await asyncio.sleep(1)
        assert victim.server.protocol.router.find(elsewhere.id).endpoint == known.endpoint

    survive(attack)


def test_a_newcomer_is_not_handed_the_whole_store() -> None:
    async def attack(swarm: DhtSwarm, attacker: Attacker) -> None:
        victim = swarm.nodes[1]
        for number in range(200):
            await swarm.nodes[0].dht.store(f"key{number}", "s", b"v", ttl_s=600)
        sent = victim.dht.stats.datagrams_sent
        attacker.introduce(victim)
        await asyncio.sleep(2)
        assert victim.dht.stats.datagrams_sent - sent < 10

    survive(attack)


def test_a_flood_of_stores_stops_at_the_quotas_and_displaces_nothing() -> None:
    async def attack(swarm: DhtSwarm, attacker: Attacker) -> None:
        victim = swarm.nodes[1]
        token = await attacker.token(victim)
        identities = itertools.cycle(Identity.generate(seeded_rng("m", n)) for n in range(40))
        for number in range(800):
            key = f"junk{number}"
            fields = record(next(identities), key=key).wire(600)
            attacker.request(victim, STORE, token, key.encode(), fields)
        await asyncio.sleep(1)
        assert victim.server.storage.num_records <= 1 + 100
        await asyncio.sleep(10)

    survive(attack, records_per_source=100, datagrams_per_s=300.0)


def test_one_noisy_source_does_not_use_up_the_budget_of_others() -> None:
    async def attack(swarm: DhtSwarm, attacker: Attacker) -> None:
        victim = swarm.nodes[1]
        for _ in range(500):
            attacker.introduce(victim)
        await asyncio.sleep(0.2)
        assert victim.dht.stats.datagrams_limited > 300
        assert await swarm.nodes[2].dht.store("now", "s", b"v", ttl_s=60) == 5

    survive(attack, datagrams_per_s=50.0)


def test_strangers_do_not_use_up_the_budget_of_the_address_they_forge() -> None:
    async def attack(swarm: DhtSwarm, _: Attacker) -> None:
        victim, friend = swarm.nodes[1], swarm.nodes[2]
        forged = seal(b"x" * 32, REQUEST, b"12345678", b"b" * 100)
        for _ in range(1000):
            victim.server.protocol.datagram_received(forged, (friend.host.ip, friend.port))
        assert victim.dht.stats.datagrams_limited == 0

    survive(attack, datagrams_per_s=50.0)


def test_a_reply_nobody_asked_for_is_dropped() -> None:
    async def attack(swarm: DhtSwarm, attacker: Attacker) -> None:
        victim = swarm.nodes[1]
        body = pack([attacker.identity.public_key, b"t" * 8, [], b"", b"", []])
        for _ in range(50):
            attacker.send(victim, seal(SWARM_KEY, REPLY, attacker.rng.randbytes(8), body))
        await asyncio.sleep(0.5)
        assert victim.dht.stats.datagrams_dropped >= 50

    survive(attack)


def test_a_reply_from_another_address_counts_only_after_a_proof_there() -> None:
    async def attack(swarm: DhtSwarm, _: Attacker) -> None:
        victim = swarm.nodes[1]
        asked = await Attacker.enter(swarm)
        front = await Attacker.enter(swarm)
        front.identity = asked.identity
        asked.transport.sendto = front.transport.sendto
        proven = await victim.server.prove((asked.host.ip, asked.port))
        assert proven is None
        await asyncio.sleep(1)
        contact = victim.server.protocol.router.find(
            Contact(asked.identity.public_key, "10.0.0.1", 1).id
        )
        assert contact.endpoint == (front.host.ip, front.port)

    survive(attack)


def test_a_contact_that_also_speaks_from_elsewhere_is_not_proven_over_and_over() -> None:
    async def attack(swarm: DhtSwarm, attacker: Attacker) -> None:
        victim = swarm.nodes[1]
        await in_the_tables(swarm, attacker)
        other = await Attacker.enter(swarm)
        other.identity = attacker.identity
        for _ in range(20):
            other.introduce(victim)
            await asyncio.sleep(0.2)
        assert [fields for kind, _, fields in other.received if kind == REQUEST] == []

    survive(attack, answer=naming([]))


def test_a_member_that_answers_for_another_key_is_struck_off() -> None:
    async def attack(swarm: DhtSwarm, attacker: Attacker) -> None:
        await in_the_tables(swarm, attacker)
        attacker.identity = ALICE
        for _ in range(3):
            for node in swarm.nodes:
                await node.values("nothing there")
        table = swarm.nodes[1].server.protocol.router
        assert table.find(Contact(attacker.host.identity.public_key, "10.0.0.1", 1).id) is None

    survive(attack, answer=naming([]))


def test_a_holder_that_keeps_serving_an_expired_record_convinces_nobody_who_held_it() -> None:
    async def attack(swarm: DhtSwarm, attacker: Attacker) -> None:
        publisher = swarm.nodes[2]
        await publisher.dht.store("short", "s", b"ghost", ttl_s=5)
        held = publisher.server.storage[key_id("short")][0].record
        attacker.answer = lambda fields: (
            [b"t" * 8, [], b"d" * 8, b"", [held.wire(5)]] if fields[1] == FIND else None
        )
        await in_the_tables(swarm, attacker)
        await asyncio.sleep(6)
        for node in swarm.nodes:
            assert await node.values("short") == []

    survive(attack)


def test_a_typo_is_an_error_here_and_not_a_remote_call() -> None:
    async def attack(swarm: DhtSwarm, _: Attacker) -> None:
        protocol = swarm.nodes[0].server.protocol
        with pytest.raises(AttributeError):
            protocol.statz  # noqa: B018
        assert not hasattr(protocol, "find_value")

    survive(attack)
