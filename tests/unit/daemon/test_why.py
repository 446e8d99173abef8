from dataclasses import dataclass

import pytest

from distqatd.base.errors import RemoteProtocolError
from distqatd.base.reasons import Reason
from distqatd.daemon.why import MAX_TOLD, WHY, ask_why, own_reasons, serve_why
from distqatd.wire.payload import Message
from tests.support.contexts import World
from tests.support.memory_rpc import MemoryNetwork


@dataclass
class Round:
    stage: str
    outer_step: int
    outcome: str = "committed"
    reason: str = "all here"
    ended_unix_s: float = 5.0


def test_the_last_round_of_each_stage_is_told_among_the_reasons_newest_first():
    context = World().context("a" * 52)
    context.reasons.note("placement", "back.0.0.0", "back has no expert", 1.0)
    context.reasons.note("move", "front.0.1.0", "from back.0.0.0: gap", 9.0)
    found = own_reasons(context, [Round("back", 1, ended_unix_s=4.0), Round("back", 2)])
    assert [(each.kind, each.time_unix_s) for each in found] == [
        ("move", 9.0),
        ("round", 5.0),
        ("placement", 1.0),
    ]
    assert found[1].text == "outer step 2 committed: all here"


async def test_a_peers_reasons_come_as_they_were_and_not_more_than_is_useful():
    net = MemoryNetwork()
    reasons = tuple(Reason("move", f"e{i}", "because", float(i)) for i in range(MAX_TOLD + 9))
    serve_why(net.peer("p"), lambda: reasons)
    assert await ask_why(net.peer("u"), "p") == reasons[:MAX_TOLD]


@pytest.mark.parametrize("told", [None, "text", [["move"]], [["a", "b", "c", "d"]], [7]])
async def test_an_answer_that_makes_no_sense_is_refused(told):
    net = MemoryNetwork()

    async def answer(_, __):
        return Message({"reasons": told})

    net.peer("p").serve(WHY, answer)
    with pytest.raises(RemoteProtocolError):
        await ask_why(net.peer("u"), "p")
