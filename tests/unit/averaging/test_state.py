"""Late joiners: state from several donors, some of which leave, stall or lie."""

import asyncio

import pytest
import torch

from distqatd.averaging import manifest as manifests
from distqatd.averaging import serving
from distqatd.averaging.manifest import Manifest
from distqatd.averaging.offers import Wanted
from distqatd.averaging.state import Donors, fetch_state, pack
from distqatd.base.errors import CheckpointError, RemoteProtocolError
from distqatd.base.events import EventLog
from distqatd.compute.payload import to_wire
from distqatd.compute.results import Snapshot
from distqatd.optim.digest import digest
from distqatd.wire.payload import Message, TensorSpec, WireTensor
from tests.support.averaging_swarm import FixedClock, on_virtual_time
from tests.support.inline_executor import InlineExecutor
from tests.support.memory_rpc import MemoryNetwork


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "CHUNK_BYTES", 1000)


def snapshot(outer_step: int = 3, seed: int = 0, size: int = 5001) -> Snapshot:
    generator = torch.Generator().manual_seed(seed)
    anchor = torch.randn(size, generator=generator)
    momentum = torch.randn(size - 7, generator=generator)
    tensors = {"anchor": anchor, "momentum": momentum}
    meta = {"int_buffers": {"seen": 9}}
    return Snapshot(outer_step, digest(anchor), "layout", tensors, meta)


class Stage:
    """Donors with given snapshots, and a joiner."""

    def __init__(self, held: list[Snapshot]) -> None:
        self.network = MemoryNetwork()
        self.joiner = self.network.peer("joiner")
        self.events = EventLog(FixedClock())
        self.executor = InlineExecutor()
        self.sources = []
        self.donors = []
        self.executors = []
        for index, one in enumerate(held):
            rpc = self.network.peer(f"peer{index}")
            self.executors.append(InlineExecutor())
            donors = Donors(rpc, self.executors[-1])
            uid = f"tail.0.{index}.0"
            donors.attach(uid, lambda one=one: one)
            self.donors.append(donors)
            self.sources.append((uid, rpc.peer_id))

    async def fetch(self, **options: object) -> Snapshot:
        return await fetch_state(self.joiner, self.sources, self.events, self.executor, **options)

    def dropped(self) -> dict[str, str]:
        told = [e for e in self.events.since() if e.kind == "state.donor_dropped"]
        return {e.fields["donor"]: e.fields["reason"] for e in told}

    def chunks_by_donor(self) -> dict[str, int]:
        asked = [target for _, target, method in self.network.calls if method == "state.chunk"]
        return {peer: asked.count(peer) for peer in set(asked)}


def assert_same(found: Snapshot, wanted: Snapshot) -> None:
    assert found.outer_step == wanted.outer_step
    assert found.anchor_digest == wanted.anchor_digest
    assert found.layout_digest == wanted.layout_digest
    assert found.meta == wanted.meta
    assert found.tensors.keys() == wanted.tensors.keys()
    for name, tensor in wanted.tensors.items():
        assert torch.equal(found.tensors[name], tensor)


def corrupt_chunks(stage: Stage, index: int) -> None:
    """Make a donor answer every chunk with the right number of wrong bytes."""
    rpc = stage.network.peer(f"peer{index}")
    serve = rpc.served["state.chunk"].handler

    async def lie(caller, message: Message) -> Message:
        answer = await serve(caller, message)
        data = bytearray(answer.tensors[0].data)
        data[0] ^= 1
        return Message({}, (WireTensor(answer.tensors[0].spec, memoryview(data)),))

    rpc.serve("state.chunk", lie)


def test_state_comes_from_all_donors_and_is_the_same_bit_for_bit() -> None:
    async def scenario() -> None:
        stage = Stage([snapshot()] * 3)
        assert_same(await stage.fetch(), snapshot())
        assert set(stage.chunks_by_donor()) == {"peer0", "peer1", "peer2"}
        assert sum(stage.chunks_by_donor().values()) == 41
        assert stage.dropped() == {}

    on_virtual_time(scenario())


def test_a_donor_that_dies_half_way_is_named_and_the_others_finish() -> None:
    async def scenario() -> None:
        stage = Stage([snapshot()] * 3)

        def watch(_: str, target: str, method: str) -> None:
            if stage.chunks_by_donor().get("peer1", 0) == 5:
                stage.network.cut("peer1")

        stage.network.on_call = watch
        assert_same(await stage.fetch(), snapshot())
        assert list(stage.dropped()) == ["tail.0.1.0"]
        assert stage.chunks_by_donor()["peer1"] <= 6  # one was on its way

    on_virtual_time(scenario())


def test_a_corrupt_chunk_names_its_donor_and_is_fetched_again_elsewhere() -> None:
    async def scenario() -> None:
        stage = Stage([snapshot()] * 3)
        corrupt_chunks(stage, 2)
        assert_same(await stage.fetch(), snapshot())
        assert list(stage.dropped()) == ["tail.0.2.0"]
        assert "corrupt" in stage.dropped()["tail.0.2.0"]

    on_virtual_time(scenario())


def test_a_chunk_of_a_donor_that_stalls_is_taken_over_by_another() -> None:
    async def scenario() -> None:
        stage = Stage([snapshot()] * 3)
        stage.network.delay("state.chunk", 1000.0, to="peer0")
        began = asyncio.get_running_loop().time()
        assert_same(await stage.fetch(), snapshot())
        assert asyncio.get_running_loop().time() - began < 5.0
        [told] = [e for e in stage.events.since() if e.kind == "state.chunk_taken_over"]
        assert told.fields["slow"] == "tail.0.0.0"

    on_virtual_time(scenario())


def test_when_every_donor_fails_the_error_says_why_for_each() -> None:
    async def scenario() -> None:
        stage = Stage([snapshot()] * 3)
        for index in range(3):
            corrupt_chunks(stage, index)
        with pytest.raises(CheckpointError, match="41 of 41 chunks missing") as caught:
            await stage.fetch()
        for uid, _ in stage.sources:
            assert uid in str(caught.value)

    on_virtual_time(scenario())


def test_the_newest_state_wins_and_of_several_the_one_most_donors_hold() -> None:
    async def scenario() -> None:
        old, right, odd = snapshot(2, 0), snapshot(3, 1), snapshot(3, 2)
        stage = Stage([old, odd, right, right])
        assert_same(await stage.fetch(), right)
        assert set(stage.chunks_by_donor()) == {"peer2", "peer3"}

    on_virtual_time(scenario())


def test_a_transfer_goes_on_while_the_donors_take_outer_steps() -> None:
    async def scenario() -> None:
        now = [snapshot(3, 1)]
        stage = Stage([])
        rpc = stage.network.peer("peer0")
        donors = Donors(rpc, InlineExecutor())
        donors.attach("tail.0.0.0", lambda: now[0])
        stage.sources = [("tail.0.0.0", rpc.peer_id)]
        stage.network.delay("state.chunk", 1.0)
        async with asyncio.TaskGroup() as tasks:
            first = tasks.create_task(stage.fetch())
            await asyncio.sleep(3.0)
            now[0] = snapshot(4, 2)
            second = tasks.create_task(stage.fetch())
        assert_same(first.result(), snapshot(3, 1))
        assert_same(second.result(), snapshot(4, 2))

    on_virtual_time(scenario())


def test_digests_are_computed_once_and_snapshots_are_let_go() -> None:
    async def scenario() -> None:
        stage = Stage([snapshot()])
        executor = stage.executors[0]
        await stage.fetch()
        await stage.fetch()
        assert executor.num_run == 41
        assert stage.donors[0].num_held("tail.0.0.0") == 1
        await asyncio.sleep(2 * serving.HOLD_S + 1)
        assert stage.donors[0].num_held("tail.0.0.0") == 0

    on_virtual_time(scenario())


def test_an_anchor_that_is_not_what_the_manifest_says_is_refused() -> None:
    async def scenario() -> None:
        good = snapshot()
        bad = Snapshot(3, "0" * 64, "layout", good.tensors, good.meta)
        with pytest.raises(CheckpointError, match="its manifest says 000000000000"):
            await Stage([bad] * 3).fetch()

    on_virtual_time(scenario())


def test_a_donor_that_does_not_answer_holds_up_a_joiner_for_seconds_only() -> None:
    async def scenario() -> None:
        stage = Stage([snapshot()] * 3)
        stage.network.delay("state.manifest", 1000.0, to="peer1")
        began = asyncio.get_running_loop().time()
        assert_same(await stage.fetch(), snapshot())
        assert asyncio.get_running_loop().time() - began < 6.0

    on_virtual_time(scenario())


def test_nobody_to_ask_and_nobody_who_has_it_are_clear_errors() -> None:
    async def scenario() -> None:
        with pytest.raises(CheckpointError, match="none asked"):
            await Stage([]).fetch()
        stage = Stage([snapshot()])
        stage.donors[0].detach("tail.0.0.0")
        with pytest.raises(CheckpointError, match=r"no expert tail\.0\.0\.0"):
            await stage.fetch()
        stage = Stage([snapshot()])
        with pytest.raises(CheckpointError, match="at most 100 fit"):
            await stage.fetch(wanted=Wanted(max_bytes=100))
        with pytest.raises(CheckpointError, match="its state has layout layout, ours is other"):
            await stage.fetch(wanted=Wanted(layout_digest="other"))

    on_virtual_time(scenario())


def test_a_transfer_ends_when_nothing_moves_however_long_it_may_take_while_it_does() -> None:
    async def scenario() -> None:
        stage = Stage([snapshot()])
        stage.network.delay("state.chunk", 5.0)
        assert_same(await stage.fetch(stall_s=20.0), snapshot())
        stage.network.delay("state.chunk", 100.0)
        with pytest.raises(CheckpointError, match="no new chunk of the state for 20 s"):
            await stage.fetch(stall_s=20.0)

    on_virtual_time(scenario())


def _message(**changes: object) -> Message:
    one = pack(snapshot(size=300))
    digests = bytes(32 * len(manifests.chunks_of(one.specs)))
    good = manifests.make_manifest(one, digests).to_message()
    return Message({**good.body, **changes}, good.tensors)


def test_a_manifest_survives_the_wire() -> None:
    message = _message()
    assert Manifest.from_message(message, 1 << 20).to_message().body == message.body


@pytest.mark.parametrize(
    "changes",
    [
        {"tensors": []},
        {"tensors": [["anchor", "float32", [300]]]},
        {"tensors": [["anchor", "float32", [300], 1201]]},
        {"tensors": [["anchor", "pickle", [300], 1200]]},
        {"tensors": [["b", "float32", [1], 4], ["a", "float32", [1], 4]]},
        {"tensors": [["anchor", "float32", [-1], -4]]},
        {"tensors": [["anchor", "float32", ["x"], 4]]},
        {"tensors": [["anchor", "float32", [3000], 12000]]},
        {"outer_step": "3"},
        {"meta": []},
    ],
)
def test_a_manifest_that_does_not_hold_together_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(RemoteProtocolError):
        Manifest.from_message(_message(**changes), 1 << 20)


def test_chunks_cover_every_byte_once() -> None:
    specs = [TensorSpec("a", "uint8", (n,), n) for n in (0, 1, 999, 1000, 1001, 2500)]
    for index, spec in enumerate(specs):
        own = [c for c in manifests.chunks_of(specs) if c.tensor == index]
        covered = [byte for chunk in own for byte in range(chunk.start, chunk.stop)]
        assert covered == list(range(spec.nbytes))


def test_a_state_may_hold_other_types_than_float32() -> None:
    async def scenario() -> None:
        one = snapshot()
        tensors = {**one.tensors, "cursor": torch.arange(5), "empty": torch.empty(0)}
        full = Snapshot(3, one.anchor_digest, "layout", tensors, one.meta)
        assert to_wire("cursor", tensors["cursor"]).spec.dtype == "int64"
        assert_same(await Stage([full] * 2).fetch(), full)

    on_virtual_time(scenario())
