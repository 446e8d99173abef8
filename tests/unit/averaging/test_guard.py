"""A peer cannot promise, accept or tell for others, use ballots up, or push promises out."""

import pytest

from distqatd.averaging import messages
from distqatd.averaging.ballots import Ballot, Voter, voter_id
from distqatd.averaging.guard import MAX_JUMP, check_ballot, leads
from distqatd.averaging.ledger import MAX_STEPS
from distqatd.averaging.records import Committed
from distqatd.base.errors import RemoteProtocolError, RoundAborted
from distqatd.base.ids import PeerId
from distqatd.net.rpc import Caller
from distqatd.wire.payload import Message
from tests.support.averaging_swarm import STAGE, Swarm, gifts, on_virtual_time

CALLER = Caller(PeerId("peer1"), 1, ("expert",))


def test_a_ballot_is_its_leaders_alone() -> None:
    assert leads(Ballot(1, "tail.0.1.0@peer1"), CALLER)
    with pytest.raises(RemoteProtocolError, match="speaks for"):
        check_ballot(Ballot(1, "tail.0.1.0@peer2"), Voter(), CALLER)


def test_a_ballot_far_above_the_promised_one_is_refused() -> None:
    high = Ballot(MAX_JUMP + 7, "tail.0.1.0@peer1")
    with pytest.raises(RemoteProtocolError, match="far above"):
        check_ballot(high, Voter(), CALLER)
    check_ballot(high, Voter(promised=Ballot(7, "tail.0.0.0@peer0")), CALLER)


def test_steps_that_an_expert_is_not_at_do_not_push_out_what_it_has_promised() -> None:
    async def scenario() -> None:
        async with Swarm(2) as swarm:
            victim, other = swarm.replicas
            mine = [1, voter_id(other.uid, other.rpc.peer_id)]
            body = {"to": victim.uid, "stage": STAGE, "anchor": "anchor", "ballot": mine}
            ask = other.rpc.call
            peer = victim.rpc.peer_id
            for step in range(1, MAX_STEPS + 3):
                message = Message({**body, "step": step})
                with pytest.raises(RoundAborted, match="is at outer step 0"):
                    await ask(peer, messages.PREPARE, message, timeout_s=1.0)
            answer = await ask(peer, messages.PREPARE, Message({**body, "step": 0}), timeout_s=1.0)
            assert answer.body["accepted"] is None
            outcomes = await swarm.round(gifts(2))
            assert all(isinstance(outcome, Committed) for outcome in outcomes), outcomes

    on_virtual_time(scenario())
