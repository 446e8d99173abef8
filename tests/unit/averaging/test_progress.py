"""How far an exchange is: counted by owner, and who is behind named while it lasts."""

import asyncio

import pytest
import torch

from distqatd.averaging.messages import Ready
from distqatd.averaging.plan import Terms, make_plan
from distqatd.averaging.progress import SliceProgress, progress_of
from distqatd.averaging.reduce import ReduceTable
from distqatd.base.ids import PeerId, make_uid
from tests.support.averaging_swarm import STAGE, Swarm, gifts, on_virtual_time

UIDS = [make_uid(STAGE, index) for index in range(3)]
ENTRIES = [(Ready(uid, STAGE, 0, "a", 1, 6000, 0.0, {}), PeerId(uid)) for uid in UIDS]
PLAN = make_plan("r", ENTRIES, Terms(24.0, 12.0, 0.5, "fp32", chunk_bytes=4096))


def test_chunks_and_bytes_are_counted_for_each_owner() -> None:
    found = progress_of(PLAN, {UIDS[0]: 2, UIDS[1]: 1}, ())
    assert found.slices[0] == SliceProgress(UIDS[0], 2, 2, 8192, 8192)
    assert found.slices[1] == SliceProgress(UIDS[1], 1, 2, 4096, 8192)
    assert found.num_bytes == 24_000
    assert found.bytes_done == 12_288
    assert found.waits_for == (UIDS[1], UIDS[2])
    assert progress_of(PLAN, {}, (UIDS[2],)).waits_for == (UIDS[2],)


def test_a_member_is_late_when_others_have_sent_a_chunk_and_it_has_not() -> None:
    table = ReduceTable(PLAN, 0)
    start, stop = table.chunks[0]
    table.add(0, 0, torch.zeros(stop - start))
    assert table.late() == ()  # only our own values are there: nobody is behind the others
    table.add(1, 0, torch.zeros(stop - start))
    assert table.late() == (UIDS[2],)
    table.add(2, 0, torch.zeros(stop - start))
    assert table.late() == ()


def test_an_exchange_that_hangs_says_on_whom_to_leader_and_member_alike() -> None:
    async def scenario() -> None:
        async with Swarm(3) as swarm:
            late = swarm.order()[2]
            swarm.network.delay("averaging.chunk", 5.0, to=late.rpc.peer_id)
            running = asyncio.ensure_future(swarm.round(gifts(3, 30_000)))
            await asyncio.sleep(2.0)
            for replica in swarm.order()[:2]:
                [wait] = replica.averager.waiting()
                assert wait.progress is not None
                assert wait.progress.waits_for == (late.uid,)
                assert 0 < wait.progress.bytes_done < wait.progress.num_bytes == 120_000
                assert {each.owner for each in wait.progress.slices} == {*UIDS}
            await running
            assert not any(replica.averager.waiting() for replica in swarm.replicas)

    on_virtual_time(scenario())


@pytest.mark.parametrize("num", [2, 4])
def test_a_round_that_is_over_has_no_progress(num: int) -> None:
    async def scenario() -> None:
        async with Swarm(num) as swarm:
            await swarm.round(gifts(num))
            assert not any(replica.averager.waiting() for replica in swarm.replicas)

    on_virtual_time(scenario())
