"""The exchange with many chunks: order of arrival, faults, strangers."""

import asyncio
from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distqatd.averaging.butterfly import Butterfly, Fault
from distqatd.averaging.memory import ChunkMemory, empty_vector
from distqatd.averaging.messages import CHUNK, Ready
from distqatd.averaging.packing import Packing
from distqatd.averaging.plan import Plan, Terms, make_plan
from distqatd.averaging.reduce import ReduceTable, weighted_mean
from distqatd.averaging.robust import RobustButterfly
from distqatd.base.errors import RemoteProtocolError, RoundAborted
from distqatd.base.ids import PeerId, make_uid
from distqatd.compute.payload import to_wire
from distqatd.optim.codecs import codec
from distqatd.wire.payload import Message, TensorSpec
from tests.support.averaging_swarm import on_virtual_time
from tests.support.inline_executor import InlineExecutor
from tests.support.memory_rpc import MemoryNetwork


def plan_for(
    samples: list[int], size: int, name: str = "fp32", bandwidths: list[float] | None = None
) -> Plan:
    terms = Terms(24.0, 12.0, 0.5, name, chunk_bytes=4096)
    entries = []
    for index, number in enumerate(samples):
        uid, bandwidth = make_uid("tail", index), bandwidths[index] if bandwidths else 0.0
        ready = Ready(uid, "tail", 0, "a", number, size, bandwidth, {})
        entries.append((ready, PeerId(f"peer{index}")))
    return make_plan("r", entries, terms)


class Ring:
    """The butterflies of one plan, wired together; robust ones if there are `limits`."""

    def __init__(
        self, plan: Plan, values: list[torch.Tensor], cost_s: float = 0.0, **limits: Any
    ) -> None:
        self.network = MemoryNetwork()
        self.flies = []
        for index, member in enumerate(plan.members):
            rpc = self.network.peer(member.peer_id)
            fly = (RobustButterfly if limits else Butterfly)(
                rpc,
                InlineExecutor(cost_s),
                Packing(codec(plan.codec)),
                plan,
                member.uid,
                values[index],
                memory := ChunkMemory(),
                error_feedback=True,
            )
            if isinstance(fly, RobustButterfly):
                fly.limit(**limits)
            self.flies.append(fly)
            rpc.serve(CHUNK, self._handler(plan, fly), max_bytes=1 << 20, sink=memory.sink)

    def _handler(self, plan: Plan, fly: Butterfly):
        async def handle(caller, message: Message) -> Message:
            index = plan.index_of(message.body["from"])
            return await fly.answer(index, message.body, message)

        return handle

    async def run(self, timeout_s: float = 20.0) -> list[Fault | None]:
        async with asyncio.TaskGroup() as tasks:
            runs = [tasks.create_task(fly.run(timeout_s)) for fly in self.flies]
        return [run.result() for run in runs]


def values_for(num: int, size: int) -> list[torch.Tensor]:
    return [torch.randn(size, generator=torch.Generator().manual_seed(i)) for i in range(num)]


def oracle(values: list[torch.Tensor], samples: list[int]) -> torch.Tensor:
    mean = torch.zeros_like(values[0])
    for value, number in zip(values, samples, strict=True):
        if number:
            mean = mean + value * (number / sum(samples))
    return mean


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=6),
    st.integers(1, 30_000),
    st.sampled_from(["fp32", "fp16", "bf16", "int8", "int4"]),
    st.lists(st.floats(0, 2), min_size=6, max_size=6),
    st.lists(st.sampled_from([1.0, 5.0]), min_size=6, max_size=6),
)
def test_many_chunks_arrive_in_any_order_and_all_hold_the_same_bits(
    samples: list[int], size: int, name: str, delays_s: list[float], bandwidths: list[float]
) -> None:
    samples[-1] += 1
    plan = plan_for(samples, size, name, bandwidths[: len(samples)])
    values = values_for(len(samples), size)

    async def scenario() -> Ring:
        ring = Ring(plan, values)
        for index, delay_s in enumerate(delays_s):
            ring.network.delay(CHUNK, delay_s, to=f"peer{index}")
        assert await ring.run() == [None] * len(samples)
        return ring

    ring = on_virtual_time(scenario())
    for fly in ring.flies:
        assert torch.equal(fly.mean, ring.flies[0].mean)
    if name == "fp32":
        assert torch.equal(ring.flies[0].mean, oracle(values, samples))
    moved = sum(fly.bytes_sent for fly in ring.flies)
    senders = sum(1 for number in samples if number)
    chunks = [
        stop - start for index in range(len(samples)) for start, stop in plan.chunks_of(index)
    ]
    assert moved <= (senders + len(samples)) * sum(map(codec(name).num_bytes, chunks))


def test_contributions_are_not_modified_also_between_experts_of_one_daemon() -> None:
    plan = plan_for([1, 2, 3], 5000)
    values = values_for(3, 5000)

    async def scenario() -> None:
        ring = Ring(plan, values)
        local = ring.network.peer("peer0")
        for fly in ring.flies:
            fly._rpc = local  # every call is dispatched without a copy

        async def handle(caller, message: Message) -> Message:
            target = plan.index_of(message.body["to"])
            sender = plan.index_of(message.body["from"])
            return await ring.flies[target].answer(sender, message.body, message)

        local.serve(CHUNK, handle, max_bytes=1 << 20)
        here = tuple(replace(member, peer_id=PeerId("peer0")) for member in plan.members)
        for fly in ring.flies:
            fly._plan = replace(plan, members=here)
        assert await ring.run() == [None] * 3
        assert all(torch.equal(fly.mean, oracle(values, [1, 2, 3])) for fly in ring.flies)

    on_virtual_time(scenario())
    assert all(torch.equal(a, b) for a, b in zip(values, values_for(3, 5000), strict=True))


def test_a_peer_sends_no_more_than_two_vectors() -> None:
    async def scenario() -> None:
        plan = plan_for([1] * 4, 40_960)
        ring = Ring(plan, values_for(4, 40_960))
        await ring.run()
        for fly in ring.flies:
            assert fly.bytes_sent == pytest.approx(2 * 3 / 4 * 40_960 * 4, rel=0.01)

    on_virtual_time(scenario())


def test_the_order_of_arrival_does_not_matter_in_the_mean() -> None:
    parts = {i: torch.tensor([10.0 ** (3 * i), 1e-3, 7.7]) for i in range(4)}
    weights = {0: 0.1, 1: 0.2, 2: 0.3, 3: 0.4}
    means = []
    for order in permutations(range(4)):
        means.append(torch.empty(3))
        weighted_mean({i: parts[i] for i in order}, weights, means[-1], torch.empty(5))
    assert all(torch.equal(mean, means[0]) for mean in means)


def test_a_member_that_is_silent_is_blamed_by_those_who_miss_its_values() -> None:
    async def scenario() -> None:
        plan = plan_for([1, 1, 1], 6000)
        ring = Ring(plan, values_for(3, 6000))

        async def silent(caller, message: Message) -> Message:
            await asyncio.sleep(1000.0)
            return Message({})

        ring.network.peer("peer1").serve(CHUNK, silent, max_bytes=1 << 20)
        ring.flies[1]._rpc = MemoryNetwork().peer("nobody")
        faults = await ring.run(5.0)
        for index in (0, 2):
            assert faults[index].blamed == ("tail.0.1.0",)

    on_virtual_time(scenario())


def test_a_lost_member_ends_the_exchange_at_once() -> None:
    async def scenario() -> None:
        plan = plan_for([1, 1], 6000)
        ring = Ring(plan, values_for(2, 6000))
        ring.network.delay(CHUNK, 10.0)
        loop = asyncio.get_running_loop()
        loop.call_later(1.0, ring.flies[0].fail, "tail.0.1.0", "reset")
        began = loop.time()
        fault = await ring.flies[0].run(15.0)
        assert fault == Fault(("tail.0.1.0",), "reset")
        assert loop.time() - began == pytest.approx(1.0)

    on_virtual_time(scenario())


def test_a_round_that_ended_answers_whoever_still_waits() -> None:
    async def scenario() -> None:
        plan = plan_for([1, 1], 6000)
        fly = Ring(plan, values_for(2, 6000)).flies[0]
        start, stop = plan.chunks_of(0)[0]
        message = Message({"chunk": 0}, (to_wire("values", torch.zeros(stop - start)),))
        asyncio.get_running_loop().call_later(1.0, fly.close, "given up")
        with pytest.raises(RoundAborted, match="given up"):
            await fly.answer(1, message.body, message)

    on_virtual_time(scenario())


def test_requests_that_do_not_fit_the_plan_are_refused() -> None:
    table = ReduceTable(plan_for([1, 1, 0], 6000), 0)
    with pytest.raises(RemoteProtocolError, match="chunk 9"):
        table.check(1, 9, has_values=True)
    with pytest.raises(RemoteProtocolError):
        table.check(1, 0, has_values=False)
    with pytest.raises(RemoteProtocolError):
        table.check(2, 0, has_values=True)
    with pytest.raises(RemoteProtocolError, match="1024 fp32 values"):
        table.add(1, 0, torch.zeros(5))
    with pytest.raises(RemoteProtocolError):
        table.add(1, 0, torch.zeros(1024, dtype=torch.float64))


def test_a_contribution_that_comes_twice_counts_once() -> None:
    table = ReduceTable(plan_for([1, 1], 6000), 0)
    assert not table.add(1, 0, torch.ones(1024))
    assert not table.add(1, 0, torch.zeros(1024))
    assert table.missing() == ("tail.0.0.0", "tail.0.1.0")
    assert table.add(0, 0, torch.ones(1024))
    assert bool((table.take_chunk(0)[1] == 1).all())
    assert not table.add(1, 0, torch.ones(1024))


def test_a_plan_for_another_vector_is_refused() -> None:
    async def scenario() -> None:
        with pytest.raises(RemoteProtocolError, match="6000 elements, we have 7"):
            Ring(plan_for([1], 6000), [torch.zeros(7)])

    on_virtual_time(scenario())


def test_buffers_are_used_again_up_to_a_bound() -> None:
    memory = ChunkMemory(8192)
    spec = TensorSpec("values", "uint8", (4096,), 4096)
    first, second, third = (memory.sink(spec) for _ in range(3))
    for buffer in (first, second, third):
        memory.give_back(buffer)
    again = [memory.sink(spec) for _ in range(3)]
    assert {id(first), id(second)} == {id(buffer) for buffer in again[:2]}
    assert all(id(again[2]) != id(buffer) for buffer in (first, second, third))


@pytest.mark.parametrize("num_values", [1, 3_000_000])
def test_a_vector_of_any_size_can_be_written(num_values: int) -> None:
    vector = empty_vector(num_values)
    vector.fill_(1.5)
    assert vector.shape == (num_values,)
    assert float(vector.double().sum()) == 1.5 * num_values


def test_statistics_travel_exactly_and_what_rounding_takes_is_known() -> None:
    size, num_coded = 9000, 6000
    plan = replace(plan_for([1, 3, 0], size, "int4"), num_coded=num_coded)
    values = values_for(3, size)

    async def scenario() -> Ring:
        ring = Ring(plan, values)
        assert await ring.run() == [None] * 3
        return ring

    ring = on_virtual_time(scenario())
    exact = oracle(values, [1, 3, 0])
    assert torch.equal(ring.flies[0].mean[num_coded:], exact[num_coded:])
    assert not torch.equal(ring.flies[0].mean[:num_coded], exact[:num_coded])
    for index, fly in enumerate(ring.flies[:2]):
        own = plan.members[index]
        assert fly.rest is not None
        assert not fly.rest[own.start : own.stop].any()
        sent = torch.ones(num_coded, dtype=torch.bool)
        sent[own.start : own.stop] = False
        assert 0 < float(fly.rest[sent].abs().mean()) < 0.2
    assert ring.flies[2].rest is not None
    assert torch.equal(ring.flies[2].rest, values[2][:num_coded])
