"""State transfer over real sockets while the donors average, and while one of them dies."""

import asyncio

import pytest
import torch

from distqatd.averaging.manifest import CHUNK_BYTES
from distqatd.averaging.roster import Member
from distqatd.averaging.serving import CHUNK
from distqatd.averaging.state import fetch_state
from distqatd.compute.results import Snapshot
from distqatd.optim.digest import digest
from tests.integration.averaging.test_loopback import Peers, attempt, gift

pytestmark = pytest.mark.integration

NUM = 8 * (CHUNK_BYTES // 4) + 3  # 32 MiB and a bit, twice: 18 chunks


def held():
    tensors = {name: torch.randn(NUM) for name in ("anchor", "momentum")}
    return Snapshot(4, digest(tensors["anchor"]), "layout", tensors, {})


class Watch:
    """Counts the chunks that donors are asked for; may run something at one of them."""

    def __init__(self, donors):
        self.num = 0
        self.at, self.then = -1, None
        for donor in donors:
            serve = donor.donors._on_chunk
            donor.pool.serve(CHUNK, self._counting(serve))

    def _counting(self, serve):
        async def handler(caller, message):
            self.num += 1
            if self.num == self.at:
                await self.then()
            return await serve(caller, message)

        return handler


def offer(donors, snapshot):
    for donor in donors:
        donor.donors.attach(donor.uid, lambda: snapshot)
    return [(donor.uid, donor.peer_id) for donor in donors]


async def test_a_donor_killed_in_the_middle_costs_only_its_chunks_in_flight():
    async with Peers(4) as peers:
        *donors, joiner = peers
        snapshot, watch = held(), Watch(donors)
        sources = offer(donors, snapshot)
        watch.at, watch.then = 8, donors[0].pool.close
        found = await fetch_state(joiner.pool, sources, joiner.events, joiner.executor)
        assert found.anchor_digest == snapshot.anchor_digest
        assert torch.equal(found.tensors["momentum"], snapshot.tensors["momentum"])
        told = joiner.events.since()
        # The call may still try to reach the dead one when its chunks are taken over; and on a
        # busy machine a healthy donor may be slow, too.
        num_taken_over = sum(event.kind == "state.chunk_taken_over" for event in told)
        assert watch.num <= 18 + 2 + num_taken_over
        dropped = {event.fields["donor"] for event in told if event.kind == "state.donor_dropped"}
        assert dropped <= {donors[0].uid}


async def test_state_is_given_while_its_donors_are_in_a_round():
    async with Peers(3) as peers:
        *donors, joiner = peers
        joiner.averager.detach(joiner.uid)
        sources = offer(donors, held())
        exchanging, loaded = asyncio.Event(), asyncio.Event()
        members = tuple(Member(donor.uid, donor.peer_id, 0, "anchor") for donor in donors)
        for donor in donors:
            serve = donor.averager._service._on_chunk

            async def hold(caller, message, serve=serve):
                exchanging.set()
                await loaded.wait()
                return await serve(caller, message)

            donor.pool.serve("averaging.chunk", hold, max_bytes=1 << 24)
            donor.averager.attach(donor.uid, "tail", lambda: members)
        async with asyncio.TaskGroup() as tasks:
            rounds = [tasks.create_task(attempt(d, gift(i))) for i, d in enumerate(donors)]
            await exchanging.wait()
            found = await fetch_state(joiner.pool, sources, joiner.events, joiner.executor)
            assert not any(task.done() for task in rounds)
            loaded.set()
        assert found.outer_step == 4
        assert len({task.result().digest for task in rounds}) == 1
