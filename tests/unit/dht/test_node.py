"""The whole DHT on simulated machines."""

import asyncio

import pytest

from distqatd.base.errors import LocalProtocolError, RecordError
from distqatd.dht.limits import DhtLimits
from distqatd.net.address import Address
from tests.support.dht_swarm import DhtSwarm, simulate

KEY = "run/r/stage/0"


def test_a_node_alone_keeps_its_own_records() -> None:
    async def scenario(swarm: DhtSwarm) -> None:
        (node,) = await swarm.grow(1)
        assert await node.dht.store(KEY, "a", b"v", ttl_s=10) == 1
        assert await node.values(KEY) == ["v"]
        assert await node.dht.remove(KEY, "a") == 1
        assert await node.values(KEY) == []

    simulate(scenario)


def test_a_node_that_was_never_started_knows_nobody_and_can_be_stopped() -> None:
    async def scenario(swarm: DhtSwarm) -> None:
        node = swarm.node()
        assert node.dht.num_peers == 0
        with pytest.raises(LocalProtocolError, match="before it is started"):
            _ = node.dht.stats
        await node.dht.stop()

    simulate(scenario)


def test_what_one_stores_all_others_get() -> None:
    async def scenario(swarm: DhtSwarm) -> None:
        nodes = await swarm.grow(12)
        for node in nodes:
            assert await node.dht.store(KEY, "s", node.host.ip.encode(), ttl_s=30) >= 8
        everybody = sorted(node.host.ip for node in nodes)
        for node in nodes:
            assert await node.values(KEY) == everybody

    simulate(scenario)


def test_a_record_expires_everywhere_at_its_ttl() -> None:
    async def scenario(swarm: DhtSwarm) -> None:
        nodes = await swarm.grow(6)
        await nodes[0].dht.store(KEY, "s", b"v", ttl_s=5)
        await asyncio.sleep(4.5)
        assert [await node.values(KEY) for node in nodes[1:]] == [["v"]] * 5
        await asyncio.sleep(0.8)
        assert [await node.values(KEY) for node in nodes] == [[]] * 6

    simulate(scenario)


def test_an_announced_record_outlives_its_ttl_many_times_and_dies_with_its_publisher() -> None:
    async def scenario(swarm: DhtSwarm) -> None:
        nodes = await swarm.grow(6)
        nodes[1].dht.announce(KEY, "s", b"v", ttl_s=6)
        for _ in range(20):
            await asyncio.sleep(3)
            assert await nodes[4].values(KEY) == ["v"]
        swarm.sim.lose_power(nodes[1].host)
        await asyncio.sleep(7)
        assert await nodes[4].values(KEY) == []

    simulate(scenario)


def test_a_changed_value_is_published_at_once() -> None:
    async def scenario(swarm: DhtSwarm) -> None:
        nodes = await swarm.grow(6)
        nodes[1].dht.announce(KEY, "s", b"old", ttl_s=600)
        await asyncio.sleep(1)
        nodes[1].dht.announce(KEY, "s", b"new", ttl_s=600)
        await asyncio.sleep(0.5)
        assert await nodes[4].values(KEY) == ["new"]

    simulate(scenario)


def test_a_value_that_changes_faster_than_it_can_be_written_ends_at_the_last_one() -> None:
    async def scenario(swarm: DhtSwarm) -> None:
        nodes = await swarm.grow(6)
        for number in range(50):
            nodes[1].dht.announce(KEY, "s", b"%d" % number, ttl_s=600)
            await asyncio.sleep(0.01)
        await asyncio.sleep(1)
        assert await nodes[4].values(KEY) == ["49"]

    simulate(scenario)


def test_withdrawing_removes_a_record_within_a_second() -> None:
    async def scenario(swarm: DhtSwarm) -> None:
        nodes = await swarm.grow(6)
        nodes[1].dht.announce(KEY, "s", b"v", ttl_s=600)
        await asyncio.sleep(1)
        nodes[1].dht.withdraw(KEY, "s")
        await asyncio.sleep(0.5)
        assert await nodes[4].values(KEY) == []
        assert nodes[1].dht.stats.num_announced == 0

    simulate(scenario)


def test_a_withdrawn_record_can_be_announced_again() -> None:
    async def scenario(swarm: DhtSwarm) -> None:
        nodes = await swarm.grow(4)
        nodes[1].dht.announce(KEY, "s", b"v", ttl_s=600)
        await asyncio.sleep(1)
        nodes[1].dht.withdraw(KEY, "s")
        nodes[1].dht.announce(KEY, "s", b"v", ttl_s=600)
        await asyncio.sleep(1)
        assert await nodes[3].values(KEY) == ["v"]

    simulate(scenario)


def test_leaving_writes_tombstones_in_bounded_time() -> None:
    async def scenario(swarm: DhtSwarm) -> None:
        nodes = await swarm.grow(6)
        nodes[1].dht.announce(KEY, "s", b"v", ttl_s=600)
        await nodes[1].dht.store("other", "s", b"v", ttl_s=600)
        await asyncio.sleep(1)
        began_s = swarm.sim.now_s
        await nodes[1].leave()
        assert swarm.sim.now_s - began_s < 1
        assert await nodes[4].values(KEY) == []
        assert await nodes[4].values("other") == []

    simulate(scenario)


def test_leaving_a_dead_network_is_bounded_too() -> None:
    async def scenario(swarm: DhtSwarm) -> None:
        nodes = await swarm.grow(6)
        nodes[1].dht.announce(KEY, "s", b"v", ttl_s=600)
        await asyncio.sleep(1)
        swarm.sim.partition([nodes[1].host])
        began_s = swarm.sim.now_s
        await nodes[1].leave()
        assert swarm.sim.now_s - began_s <= swarm.limits.stop_timeout_s + 0.1

    simulate(scenario)


@pytest.mark.parametrize("skew_s", [-100_000.0, 300.0, 100_000.0])
def test_a_wrong_wall_clock_changes_nothing(skew_s: float) -> None:
    async def scenario(swarm: DhtSwarm) -> None:
        await swarm.grow(4)
        odd = swarm.node(skew_s=skew_s)
        await odd.start([swarm.nodes[0].address])
        await odd.dht.store(KEY, "s", b"v", ttl_s=10)
        await asyncio.sleep(9)
        assert await swarm.nodes[2].values(KEY) == ["v"]
        await asyncio.sleep(1.5)
        assert await swarm.nodes[2].values(KEY) == []

    simulate(scenario)


@pytest.mark.parametrize("skew_s", [0.0, -7200.0])
def test_a_restarted_publisher_replaces_its_former_records_even_if_its_clock_ran_back(
    skew_s: float,
) -> None:
    async def scenario(swarm: DhtSwarm) -> None:
        nodes = await swarm.grow(6)
        await nodes[1].dht.store(KEY, "s", b"before", ttl_s=600)
        host = nodes[1].host
        host.crash()
        host._boot()
        host.clock.skew_s = skew_s
        again = swarm.node(host=host)
        await again.start([nodes[0].address])
        assert await again.dht.store(KEY, "s", b"after", ttl_s=600) >= 5
        assert await nodes[3].values(KEY) == ["after"]

    simulate(scenario)


def test_a_record_stored_while_alone_reaches_those_who_come_later() -> None:
    async def scenario(swarm: DhtSwarm) -> None:
        first = swarm.node()
        await first.start()
        first.dht.announce(KEY, "s", b"v", ttl_s=600)
        await asyncio.sleep(5)
        later = await swarm.grow(15)
        await asyncio.sleep(5)
        assert [await node.values(KEY) for node in later] == [["v"]] * 15

    simulate(scenario)


def test_two_islands_with_the_same_initial_peers_merge() -> None:
    async def scenario(swarm: DhtSwarm) -> None:
        hubs = [swarm.node(), swarm.node()]
        both = [hub.address for hub in hubs]
        islands = [[hub] for hub in hubs]
        swarm.sim.partition([hubs[0].host], [hubs[1].host])
        for hub in hubs:
            await hub.start(both)
        for number in range(10):
            node = swarm.node()
            swarm.sim.partition([node.host], [each.host for each in islands[1 - number % 2]])
            assert await node.start(both) == 1
            islands[number % 2].append(node)
        islands[0][2].dht.announce(KEY, "s", b"one", ttl_s=600)
        islands[1][2].dht.announce(KEY, "s", b"two", ttl_s=600)
        await asyncio.sleep(20)
        assert [await island[1].values(KEY) for island in islands] == [["one"], ["two"]]
        assert islands[0][1].dht.unreachable[0].address == hubs[1].address
        swarm.sim.heal()
        await asyncio.sleep(45)
        for node in swarm.nodes:
            assert await node.values(KEY) == ["one", "two"]
        assert [node.dht.unreachable for node in swarm.nodes] == [()] * 12
        assert min(node.dht.num_peers for node in swarm.nodes) >= 9

    simulate(scenario)


def test_another_swarm_behind_an_initial_peer_is_reported_and_not_joined() -> None:
    async def scenario(swarm: DhtSwarm) -> None:
        stranger = swarm.node(key=b"x" * 32)
        await stranger.start()
        node = swarm.node()
        assert await node.start([stranger.address]) == 0
        await asyncio.sleep(100)
        assert (node.dht.num_peers, stranger.dht.num_peers) == (0, 0)
        (unreachable,) = node.dht.unreachable
        assert unreachable.address == stranger.address
        assert "another swarm" in unreachable.reason
        silent = [e for e in node.events.since() if e.kind == "dht.initial_peer.silent"]
        assert len(silent) == 1
        assert stranger.dht.stats.datagrams_sent == 0

    simulate(scenario)


def test_an_initial_peer_may_be_ourselves_or_come_late() -> None:
    async def scenario(swarm: DhtSwarm) -> None:
        node, late = swarm.node(), swarm.node()
        assert await node.start([node.address, late.address]) == 0
        await asyncio.sleep(60)
        await late.start()
        await asyncio.sleep(40)
        assert (node.dht.num_peers, late.dht.num_peers) == (1, 1)

    simulate(scenario)


def test_an_initial_peer_that_restarts_under_a_new_key_is_found_again() -> None:
    async def scenario(swarm: DhtSwarm) -> None:
        hub, node = await swarm.grow(2)
        await hub.leave()
        fresh_host = swarm.sim.host(ip="10.9.9.9")
        hub.host.identity = fresh_host.identity
        again = swarm.node(host=hub.host)
        await again.start()
        await asyncio.sleep(90)
        again.dht.announce(KEY, "s", b"v", ttl_s=60)
        await asyncio.sleep(1)
        assert await node.values(KEY) == ["v"]

    simulate(scenario)


def test_a_node_cut_off_for_minutes_finds_back_without_its_initial_peer() -> None:
    async def scenario(swarm: DhtSwarm) -> None:
        nodes = await swarm.grow(6)
        swarm.sim.lose_power(nodes[0].host)
        swarm.sim.partition([nodes[5].host])
        for _ in range(30):
            await asyncio.sleep(5)
            await nodes[5].values(KEY)
            await nodes[1].values(KEY)
        assert nodes[5].dht.num_peers == 0
        swarm.sim.heal([nodes[5].host])
        nodes[1].dht.announce(KEY, "s", b"v", ttl_s=600)
        await asyncio.sleep(60)
        assert await nodes[5].values(KEY) == ["v"]

    simulate(scenario)


def test_a_silent_death_costs_a_get_two_timeouts_at_most_and_is_then_forgotten() -> None:
    async def scenario(swarm: DhtSwarm) -> None:
        nodes = await swarm.grow(5)
        await nodes[1].dht.store(KEY, "s", b"v", ttl_s=600)
        timeout_s = nodes[3].server.protocol.calls.round_trip.timeout_s
        began_s = swarm.sim.now_s
        await nodes[3].values(KEY)
        healthy_s = swarm.sim.now_s - began_s
        swarm.sim.lose_power(nodes[2].host)
        began_s = swarm.sim.now_s
        assert await nodes[3].values(KEY) == ["v"]
        assert swarm.sim.now_s - began_s <= healthy_s + 2 * timeout_s
        for _ in range(3):
            await asyncio.sleep(5)
            await nodes[3].values(KEY)
        assert nodes[3].dht.num_peers == 3

    simulate(scenario)


@pytest.mark.parametrize("seed", range(3))
def test_a_third_of_all_datagrams_may_be_lost(seed: int) -> None:
    async def scenario(swarm: DhtSwarm) -> None:
        nodes = await swarm.grow(8)
        for node in nodes:
            node.dht.announce(KEY, "s", node.host.ip.encode(), ttl_s=30)
        await asyncio.sleep(60)
        seen = [await node.values(KEY) for node in nodes]
        assert [len(values) for values in seen] == [8] * 8

    simulate(scenario, seed=seed, loss=0.3)


def test_half_of_all_nodes_may_die_at_once() -> None:
    async def scenario(swarm: DhtSwarm) -> None:
        nodes = await swarm.grow(40)
        keys = [f"key/{number}" for number in range(20)]
        for number, key in enumerate(keys):
            await nodes[number].dht.store(key, "s", b"v", ttl_s=3000)
        for node in nodes[20:]:
            node.dead = True
            swarm.sim.lose_power(node.host)
        found = 0
        for number, key in enumerate(keys):
            found += await nodes[(number + 7) % 20].values(key) == ["v"]
        assert found == 20

    simulate(scenario)


def test_more_records_than_fit_one_datagram_come_in_pages() -> None:
    async def scenario(swarm: DhtSwarm) -> None:
        nodes = await swarm.grow(5)
        for number in range(30):
            await nodes[number % 5].dht.store(KEY, f"s{number}", b"v" * 600, ttl_s=600)
        assert [len(await node.dht.get(KEY)) for node in nodes] == [30] * 5

    simulate(scenario)


def test_many_keys_are_found_from_anywhere_in_a_larger_swarm() -> None:
    async def scenario(swarm: DhtSwarm) -> None:
        nodes = await swarm.grow(60)
        for number in range(30):
            holders = await nodes[number].dht.store(f"key/{number}", "s", b"v", ttl_s=600)
            assert holders >= 8
        for number in range(30):
            assert await nodes[-number].values(f"key/{number}") == ["v"]

    simulate(scenario)


def test_what_is_too_long_is_refused_before_anything_is_sent() -> None:
    async def scenario(swarm: DhtSwarm) -> None:
        (node,) = await swarm.grow(1)
        with pytest.raises(RecordError, match="701"):
            node.dht.announce(KEY, "s", b"v" * 701, ttl_s=10)
        with pytest.raises(RecordError, match="ttl"):
            await node.dht.store(KEY, "s", b"v", ttl_s=4000)

    simulate(scenario)


def test_a_cancelled_get_leaves_nothing_behind() -> None:
    async def scenario(swarm: DhtSwarm) -> None:
        nodes = await swarm.grow(5)
        nodes[1].running.cancel()
        swarm.sim.partition([nodes[1].host])
        for _ in range(20):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await nodes[1].dht.get(KEY)
        await asyncio.sleep(10)
        assert len(nodes[1].server.protocol.calls) == 0

    simulate(scenario)


def test_a_name_that_does_not_resolve_is_reported() -> None:
    async def scenario(swarm: DhtSwarm) -> None:
        node = swarm.node()
        swarm.sim.loop.getaddrinfo = _no_such_name  # type: ignore[method-assign]
        assert await node.start([Address("no.such.host", 1), Address("2001:db8::1", 2)]) == 0
        reasons = [peer.reason for peer in node.dht.unreachable]
        assert reasons == [
            "no.such.host does not resolve",
            "2001:db8::1 is IPv6 and we listen on IPv4 only",
        ]

    simulate(scenario)


async def _no_such_name(*_: object, **__: object) -> list[object]:
    raise OSError("no such name")


def test_idle_nodes_send_less_than_one_datagram_a_second() -> None:
    async def scenario(swarm: DhtSwarm) -> None:
        nodes = await swarm.grow(8)
        await asyncio.sleep(30)
        before = sum(node.dht.stats.datagrams_sent for node in nodes)
        await asyncio.sleep(600)
        sent = sum(node.dht.stats.datagrams_sent for node in nodes) - before
        assert sent / 8 / 600 < 1.0

    simulate(scenario)


def test_the_same_seed_gives_the_same_run() -> None:
    async def scenario(swarm: DhtSwarm) -> list[object]:
        nodes = await swarm.grow(6)
        nodes[1].dht.announce(KEY, "s", b"v", ttl_s=6)
        await asyncio.sleep(30)
        return [node.dht.stats for node in nodes]

    assert simulate(scenario, loss=0.1) == simulate(scenario, loss=0.1)


def test_fewer_replicas_can_be_asked_for() -> None:
    async def scenario(swarm: DhtSwarm) -> None:
        nodes = await swarm.grow(10)
        assert await nodes[3].dht.store(KEY, "s", b"v", ttl_s=600) <= 4
        assert await nodes[7].values(KEY) == ["v"]

    simulate(scenario, limits=DhtLimits(replicas=3))
