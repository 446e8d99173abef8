"""Transfers of plain bytes, as a mirror makes them: slots, donors that leave, goes on, progress."""

import asyncio
import hashlib

import pytest

from distqatd.averaging import manifest as manifests
from distqatd.averaging.manifest import ALL, StateBytes
from distqatd.averaging.offers import Wanted
from distqatd.averaging.serving import MAX_STATES_HELD, StateServer
from distqatd.averaging.transfer import StateFetch, fetch
from distqatd.base.errors import CheckpointError
from distqatd.base.events import EventLog
from distqatd.wire.payload import TensorSpec
from tests.support.averaging_swarm import FixedClock, on_virtual_time
from tests.support.memory_rpc import MemoryNetwork

CHUNK = 1000
NUM_CHUNKS = 40


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(manifests, "CHUNK_BYTES", CHUNK)


def state(outer_step=3, seed=0, num_chunks=NUM_CHUNKS, **meta):
    anchor = b"".join(hashlib.sha256(b"%d %d" % (seed, i)).digest() for i in range(32 * num_chunks))
    anchor = anchor[: num_chunks * CHUNK]
    spec = TensorSpec("anchor", "uint8", (len(anchor),), len(anchor))
    digest = hashlib.sha256(anchor).hexdigest()
    return StateBytes(outer_step, digest, "layout", meta, (spec,), (memoryview(anchor),))


class Swarm:
    """Donors of one state, and joiners; the link of a donor takes `chunk_s` a chunk."""

    def __init__(self, num_donors, one=None, num_slots=4, chunk_s=0.1):
        self.net = MemoryNetwork()
        self.state = one or state()
        self.donors = []
        for index in range(num_donors):
            server = StateServer(self.net.peer(f"d{index}"), num_slots=num_slots)
            server.offer(f"full.0.{index}.0", lambda _: self.state)
            self.donors.append((f"full.0.{index}.0", f"d{index}"))
        self.net.delay("state.chunk", chunk_s)
        self.events = {}

    def joiner(self, name="j"):
        self.events[name] = EventLog(FixedClock())
        return self.net.peer(name), self.events[name]

    async def fetch(self, name="j", **options):
        rpc, events = self.joiner(name)
        return await fetch(rpc, self.donors, events, **options)

    def asked(self, target=None):
        """Return how many chunks were asked for, of one donor or of all."""
        chunks = [peer for _, peer, method in self.net.calls if method == "state.chunk"]
        return len(chunks) if target is None else chunks.count(target)

    def told(self, kind, name="j"):
        return [event for event in self.events[name].since() if event.kind == kind]


def same(found, wanted):
    return [bytes(data) for data in found.data] == [bytes(data) for data in wanted.data]


def test_bytes_arrive_in_the_memory_that_the_joiner_gives():
    async def scenario():
        swarm = Swarm(2)
        memory = bytearray(NUM_CHUNKS * CHUNK)
        found = await swarm.fetch(allocate=lambda _: memoryview(memory))
        assert memory == bytes(swarm.state.data[0])
        assert found.specs == swarm.state.specs
        assert swarm.asked() == NUM_CHUNKS

    on_virtual_time(scenario())


def test_a_donor_killed_in_the_middle_costs_only_its_chunks_in_flight():
    async def scenario():
        swarm = Swarm(3)

        def kill(_, target, method):
            if method == "state.chunk" and swarm.asked("d1") == 5:
                swarm.net.cut("d1")

        swarm.net.on_call = kill
        assert same(await swarm.fetch(), swarm.state)
        assert swarm.asked() <= NUM_CHUNKS + 2
        [dropped] = swarm.told("state.donor_dropped")
        assert dropped.fields["donor"] == "full.0.1.0"

    on_virtual_time(scenario())


def test_a_transfer_that_all_donors_left_goes_on_with_new_ones():
    async def scenario():
        swarm = Swarm(2)
        rpc, events = swarm.joiner()
        transfer = StateFetch(rpc, events, Wanted())

        def kill(_, __, method):
            if method == "state.chunk" and swarm.asked() == 20:
                swarm.net.cut("d0")
                swarm.net.cut("d1")

        swarm.net.on_call = kill
        with pytest.raises(CheckpointError, match="chunks missing"):
            await transfer.fetch(swarm.donors)
        server = StateServer(swarm.net.peer("new"))
        server.offer("full.0.9.0", lambda _: swarm.state)
        found = await transfer.fetch([("full.0.9.0", "new")])
        assert same(found, swarm.state)
        assert swarm.asked() <= NUM_CHUNKS + 4

    on_virtual_time(scenario())


def test_another_state_does_not_go_on_with_what_is_here():
    async def scenario():
        swarm = Swarm(1)
        rpc, events = swarm.joiner()
        transfer = StateFetch(rpc, events, Wanted())
        swarm.net.on_call = lambda *_: swarm.asked() == 20 and swarm.net.cut("d0")
        with pytest.raises(CheckpointError):
            await transfer.fetch(swarm.donors)
        swarm.net.on_call = lambda *_: None
        swarm.net.heal("d0")
        swarm.state = state(4, seed=1)
        assert same(await transfer.fetch(swarm.donors), swarm.state)

    on_virtual_time(scenario())


def test_faster_donors_give_more_and_the_slow_one_does_not_hold_up_the_end():
    async def scenario():
        swarm = Swarm(3)
        swarm.net.delay("state.chunk", 6.0, to="d0")
        began = asyncio.get_running_loop().time()
        assert same(await swarm.fetch(), swarm.state)
        assert asyncio.get_running_loop().time() - began < 5.0
        assert swarm.asked("d0") <= 2
        assert swarm.told("state.chunk_taken_over")
        assert not swarm.told("state.donor_dropped")

    on_virtual_time(scenario())


def test_a_full_donor_is_asked_again_when_it_said_and_everybody_gets_the_state():
    async def scenario():
        swarm = Swarm(1, num_slots=2)
        done = []

        async def join(name):
            assert same(await swarm.fetch(name), swarm.state)
            done.append(name)

        async with asyncio.TaskGroup() as tasks:
            for number in range(6):
                tasks.create_task(join(f"j{number}"))
                await asyncio.sleep(0.01)
        # In the order in which they came, two at a time.
        assert [sorted(done[i : i + 2]) for i in (0, 2, 4)] == [
            ["j0", "j1"],
            ["j2", "j3"],
            ["j4", "j5"],
        ]
        refused = swarm.asked() - 6 * NUM_CHUNKS
        assert 0 < refused < 60
        assert "upload slots in use" in swarm.told("state.donor_busy", "j5")[0].fields["reason"]
        assert not any(swarm.told("state.donor_dropped", f"j{i}") for i in range(6))

    on_virtual_time(scenario())


def test_a_joiner_goes_to_the_donor_that_has_a_free_slot():
    async def scenario():
        swarm = Swarm(2, num_slots=1)
        swarm.net.delay("state.chunk", 2.0)
        async with asyncio.TaskGroup() as tasks:
            rpc, events = swarm.joiner("first")
            tasks.create_task(fetch(rpc, swarm.donors[:1], events))
            await asyncio.sleep(0.5)
            second = tasks.create_task(swarm.fetch("second"))
        assert same(second.result(), swarm.state)

    on_virtual_time(scenario())


@pytest.mark.parametrize("retry_after", [1e9, -1.0, 0.0, float("nan")])
def test_what_a_donor_says_about_coming_back_is_bounded(retry_after):
    async def scenario():
        swarm = Swarm(1, one=state(num_chunks=2))
        rpc = swarm.net.peer("d0")
        served, refusals = rpc.served["state.chunk"].handler, []

        async def refuse(caller, message):
            if len(refusals) < 3:
                refusals.append(1)
                body = {"retry_after": retry_after, "reason": "no"}
                return type(message)(body)
            return await served(caller, message)

        rpc.serve("state.chunk", refuse)
        began = asyncio.get_running_loop().time()
        assert same(await swarm.fetch(), swarm.state)
        assert asyncio.get_running_loop().time() - began < 35.0

    on_virtual_time(scenario())


def test_a_long_transfer_tells_how_far_it_is():
    async def scenario():
        swarm = Swarm(1, chunk_s=1.0)
        await swarm.fetch()
        told = [event.fields for event in swarm.told("state.progress")]
        assert len(told) == pytest.approx(4, abs=1)
        assert [one["chunks"] for one in told] == sorted(one["chunks"] for one in told)
        assert all(one["of"] == NUM_CHUNKS for one in told)
        assert told[0]["seconds_left"] > told[-1]["seconds_left"]

    on_virtual_time(scenario())


def test_who_asks_for_all_parts_gets_what_was_trained_longest():
    async def scenario():
        swarm = Swarm(2)
        for index, inner_step in enumerate((7, 0)):
            server = StateServer(swarm.net.peer(f"d{index}"))
            one = state(inner_step=inner_step)
            server.offer(f"full.0.{index}.0", lambda _, one=one: one)
        found = await swarm.fetch(wanted=Wanted(ALL))
        assert found.meta["inner_step"] == 7

    on_virtual_time(scenario())


def test_who_only_looks_at_newer_states_neither_takes_one_away_nor_is_refused():
    async def scenario():
        swarm = Swarm(1, chunk_s=3.0)
        async with asyncio.TaskGroup() as tasks:
            first = tasks.create_task(swarm.fetch("first"))
            await asyncio.sleep(4.0)
            for number in range(2 * MAX_STATES_HELD):
                swarm.state = state(4 + number, seed=number)
                rpc, events = swarm.joiner(f"look{number}")
                offers = await StateFetch(rpc, events, Wanted()).offers(swarm.donors)
                assert offers[0].manifest.outer_step == 4 + number
        assert first.result().outer_step == 3

    on_virtual_time(scenario())


def test_a_joiner_that_has_its_state_makes_room_for_the_next_one():
    """A stage whose rounds take seconds has a new state whenever it is asked."""

    async def scenario():
        swarm = Swarm(1, num_slots=2 * MAX_STATES_HELD)
        for number in range(2 * MAX_STATES_HELD):
            swarm.state = state(4 + number, seed=number)
            assert (await swarm.fetch(f"j{number}")).outer_step == 4 + number

    on_virtual_time(scenario())


def test_no_more_states_are_held_than_may_be_while_all_are_fetched():
    async def scenario():
        swarm = Swarm(1, num_slots=2 * MAX_STATES_HELD, chunk_s=3.0)
        async with asyncio.TaskGroup() as tasks:
            for number in range(MAX_STATES_HELD):
                swarm.state = state(4 + number, seed=number)
                tasks.create_task(swarm.fetch(f"j{number}"))
                await asyncio.sleep(4.0)  # the first chunk has been asked for
            swarm.state = state(100)
            with pytest.raises(CheckpointError, match="older states are being fetched"):
                await swarm.fetch("late")
        assert (await swarm.fetch("later")).outer_step == 100

    on_virtual_time(scenario())


def test_hashing_goes_on_where_a_joiner_that_gave_up_had_it_stop():
    async def scenario():
        net, hashed, one = MemoryNetwork(), [], state()

        async def slowly(work):
            await asyncio.sleep(1.0)
            hashed.append(1)
            return work()

        server = StateServer(net.peer("d"))
        server.offer("full", lambda _: one, slowly)
        events = EventLog(FixedClock())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(25.0):
                await fetch(net.peer("j"), [("full", "d")], events)
        assert 20 < len(hashed) < NUM_CHUNKS
        await fetch(net.peer("j"), [("full", "d")], events)
        assert len(hashed) == NUM_CHUNKS

    on_virtual_time(scenario())
