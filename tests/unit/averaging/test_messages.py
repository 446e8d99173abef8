"""What peers say survives the wire; what does not fit is refused."""

import pytest

from distqatd.averaging.ballots import Ballot, Learn, StepKey, Value
from distqatd.averaging.messages import (
    MAX_INT_BUFFERS,
    Ready,
    Verdict,
    Vote,
    take_batches,
    take_ints,
    take_uid,
    take_uids,
)
from distqatd.base.errors import RemoteProtocolError
from distqatd.base.intervals import IntervalSet
from distqatd.wire.fields import need
from distqatd.wire.payload import pack_body, unpack_body

BATCHES = IntervalSet(((0, 8), (40, 41)))
READY = Ready("tail.0.1.0", "tail", 3, "anchor", 64, 1000, 2.5e6, {"seen": 3}, BATCHES)
VOTE = Vote("round", "tail.0.1.0", "", ("tail.0.2.0",), "silent")
VOTERS = ("tail.0.0.0@a", "tail.0.1.0@b")
CHOSEN = Learn(Ballot(3, VOTERS[1]), Value(StepKey("tail", 2, "anchor"), "round", VOTERS, "digest"))
VERDICT = Verdict("round", "3 of 3", ("tail.0.2.0",), CHOSEN)


@pytest.mark.parametrize("message", [READY, VOTE, VERDICT])
def test_messages_survive_the_wire(message: Ready | Vote | Verdict) -> None:
    body = unpack_body(pack_body(message.to_body()))
    assert type(message).from_body(body) == message


@pytest.mark.parametrize("message", [READY, VOTE, VERDICT])
def test_every_field_is_needed_and_of_one_type(message: Ready | Vote | Verdict) -> None:
    for key in message.to_body():
        body = message.to_body()
        body[key] = object()
        with pytest.raises(RemoteProtocolError):
            type(message).from_body(body)
        del body[key]
        with pytest.raises(RemoteProtocolError):
            type(message).from_body(body)


@pytest.mark.parametrize(
    "change", [{"samples": -1}, {"numel": 0}, {"bandwidth": float("nan")}, {"bandwidth": -1.0}]
)
def test_a_ready_out_of_range_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(RemoteProtocolError):
        Ready.from_body({**READY.to_body(), **change})


def test_a_true_is_not_a_number_and_an_int_is_a_float() -> None:
    with pytest.raises(RemoteProtocolError):
        need({"n": True}, "n", int)
    assert need({"x": 3}, "x", float) == 3.0


def test_lists_and_names_are_bounded() -> None:
    with pytest.raises(RemoteProtocolError):
        take_uid({"to": "x" * 65}, "to")
    with pytest.raises(RemoteProtocolError):
        take_uids({"blamed": ["x"] * 257}, "blamed")
    with pytest.raises(RemoteProtocolError):
        take_ints({"ints": dict.fromkeys(map(str, range(MAX_INT_BUFFERS + 1)), 1)}, "ints")
    with pytest.raises(RemoteProtocolError, match="batches"):
        take_batches({"batches": list(range(2 * 2049))}, "batches")
    with pytest.raises(RemoteProtocolError, match="batches"):
        take_batches({"batches": [4, 2]}, "batches")


def test_long_reasons_are_cut() -> None:
    vote = Vote("round", "tail.0.1.0", "", (), "x" * 10_000)
    assert len(Vote.from_body(vote.to_body()).reason) == 300
