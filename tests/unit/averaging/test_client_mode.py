"""Members that nobody can connect to: they bring and get their part, and own no slice."""

import asyncio
from typing import Any

import pytest
import torch

from distqatd.averaging.looking import Places
from distqatd.averaging.records import Committed
from distqatd.base.ids import PeerId, make_uid
from tests.support.averaging_swarm import STAGE, Swarm, gifts, on_virtual_time


async def committed_by(swarm: Swarm, size: int = 5000) -> list[Committed]:
    outcomes = await swarm.round(gifts(len(swarm.replicas), size))
    assert all(isinstance(outcome, Committed) for outcome in outcomes), outcomes
    assert all(torch.equal(outcome.mean, outcomes[0].mean) for outcome in outcomes)
    return outcomes


@pytest.mark.parametrize("robust", [{}, {"robust": "centered_clip"}])
@pytest.mark.parametrize("callers", [[0], [1], [3], [0, 2], [1, 2, 3]])
def test_members_in_client_mode_commit_the_same_bits(
    callers: list[int], robust: dict[str, Any]
) -> None:
    async def scenario() -> None:
        async with Swarm(4, **robust) as swarm:
            hidden = {swarm.only_calls(index).rpc.peer_id for index in callers}
            await committed_by(swarm)
            for replica in swarm.replicas:
                record = replica.averager.rounds[-1]
                assert len(record.members) == 4
                owns = record.shares[replica.uid] > 0
                assert owns == (replica.rpc.peer_id not in hidden)
            asked = {callee for _, callee, method in swarm.network.calls if "chunk" in method}
            assert not asked & hidden
            assert "(client mode)" in record.slicing

    on_virtual_time(scenario())


def test_one_that_comes_late_is_waited_for_although_nobody_can_call_it() -> None:
    async def scenario() -> None:
        async with Swarm(3) as swarm:
            swarm.only_calls(1)
            outcomes = await swarm.round(gifts(3), [0.0, 5.0, 0.0])
            assert {len(outcome.members) for outcome in outcomes} == {3}

    on_virtual_time(scenario())


def test_digests_are_compared_without_waiting_for_who_cannot_be_asked() -> None:
    async def scenario() -> None:
        async with Swarm(4) as swarm:
            for index in (2, 3):
                swarm.only_calls(index)
            outcomes = await committed_by(swarm)
            began = asyncio.get_running_loop().time()
            async with asyncio.TaskGroup() as tasks:
                asking = [
                    tasks.create_task(
                        replica.averager.exchange_digest(replica.uid, 1, outcomes[0].digest)
                    )
                    for replica in swarm.replicas
                ]
            agreed = [task.result() for task in asking]
            assert asyncio.get_running_loop().time() - began < 0.1
            assert [len(found.holders) for found in agreed] == [4, 4, 3, 3]
            assert not any(found.silent for found in agreed)

    on_virtual_time(scenario())


def test_who_can_be_connected_to_leads_first() -> None:
    uids = [make_uid(STAGE, index) for index in range(4)]
    peers = {uid: PeerId(uid) for uid in uids}
    callers = frozenset(uids[:2])
    for step in range(20):
        order = Places(peers, callers).order(STAGE, step, shunned=[uids[3]])
        assert order[0] == uids[2]
        assert set(order[1:3]) == callers
        assert order[3] == uids[3]
