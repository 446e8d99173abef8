"""What voters answer to a leader, as fields and as events of its ballot."""

from collections.abc import Mapping
from typing import Any

from distqatd.averaging.ballots import Answer, Promised, Refused, VoterId
from distqatd.averaging.messages import take_chosen
from distqatd.averaging.proposer import Acceptance, Event, Promise, Refusal
from distqatd.averaging.speech import (
    need_ballot,
    read_ballot,
    read_value,
    write_ballot,
    write_value,
)
from distqatd.wire.fields import need


def write_answer(answer: Answer, *, holds: bool = False) -> dict[str, Any]:
    """Return an answer as fields; `holds` is whether we have the data of the promised value."""
    if isinstance(answer, Refused):
        return {"refused": write_ballot(answer.promised)}
    if isinstance(answer, Promised):
        accepted, value = write_ballot(answer.accepted_in), write_value(answer.value)
        return {"accepted": accepted, "holds": holds, "was": value}
    return {}


def read_promise(body: Mapping[str, Any], voter: VoterId) -> Event:
    """Return what a voter said to PLAN or PREPARE.

    Raises:
        RemoteProtocolError: it cannot be read.
    """
    if (other := _other(body)) is not None:
        return other
    return Promise(
        voter,
        read_ballot(body, "accepted"),
        read_value(body, "was"),
        holds=need(body, "holds", bool),
    )


def read_acceptance(body: Mapping[str, Any], voter: VoterId) -> Event:
    """Return what a voter said to ACCEPT.

    Raises:
        RemoteProtocolError: it cannot be read.
    """
    return _other(body) or Acceptance(voter)


def _other(body: Mapping[str, Any]) -> Event | None:
    if "refused" in body:
        return Refusal(need_ballot(body, "refused"))
    return take_chosen(body) if "value" in body else None
