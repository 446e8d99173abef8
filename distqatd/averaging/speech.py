"""Ballots and values as plain fields, for messages and for the ledger; checked when read."""

from collections.abc import Mapping
from typing import Any

from distqatd.averaging.ballots import Ballot, StepKey, Value, VoterId
from distqatd.averaging.roster import MAX_MEMBERS
from distqatd.base.errors import RemoteProtocolError
from distqatd.wire.fields import need

MAX_BALLOT = 1 << 53
MAX_TEXT = 256
"""Characters of a voter's id, a stage's name, a round's id or a digest at most."""


def write_ballot(ballot: Ballot | None) -> list[Any] | None:
    """Return what `read_ballot` reads."""
    return None if ballot is None else [ballot.number, ballot.leader]


def read_ballot(body: Mapping[str, Any], name: str) -> Ballot | None:
    """Return the field as a ballot, None if it is null.

    Raises:
        RemoteProtocolError: it is missing or neither.
    """
    if name in body and body[name] is None:
        return None
    fields = need(body, name, list)
    if len(fields) != 2 or type(fields[0]) is not int or not 0 < fields[0] < MAX_BALLOT:
        raise RemoteProtocolError(f"field {name!r} is not a ballot")
    return Ballot(fields[0], _text(fields[1], name))


def need_ballot(body: Mapping[str, Any], name: str) -> Ballot:
    """Return the field as a ballot.

    Raises:
        RemoteProtocolError: it is not one.
    """
    ballot = read_ballot(body, name)
    if ballot is None:
        raise RemoteProtocolError(f"field {name!r} has no ballot")
    return ballot


def write_value(value: Value | None) -> dict[str, Any] | None:
    """Return what `read_value` reads."""
    if value is None:
        return None
    return {
        "stage": value.key.stage,
        "step": value.key.outer_step,
        "anchor": value.key.anchor_digest,
        "round": value.round_id,
        "members": list(value.members),
        "digest": value.digest,
    }


def read_value(body: Mapping[str, Any], name: str) -> Value | None:
    """Return the field as a value, None if it is null.

    Raises:
        RemoteProtocolError: it is missing or neither.
    """
    if name in body and body[name] is None:
        return None
    fields = need(body, name, dict)
    key = StepKey(
        _text(fields.get("stage"), "stage"),
        need(fields, "step", int),
        _text(fields.get("anchor"), "anchor"),
    )
    members = read_voters(fields, "members")
    if not members:
        raise RemoteProtocolError(f"field {name!r} is a value without members")
    round_id = _text(fields.get("round"), "round")
    return Value(key, round_id, members, _text(fields.get("digest"), "digest"))


def need_value(body: Mapping[str, Any], name: str) -> Value:
    """Return the field as a value.

    Raises:
        RemoteProtocolError: it is not one.
    """
    value = read_value(body, name)
    if value is None:
        raise RemoteProtocolError(f"field {name!r} has no value")
    return value


def read_voters(body: Mapping[str, Any], name: str) -> tuple[VoterId, ...]:
    """Return the field as voters: sorted, each once.

    Raises:
        RemoteProtocolError: it is not, or there are more than MAX_MEMBERS.
    """
    voters = tuple(_text(voter, name) for voter in need(body, name, list))
    if len(voters) > MAX_MEMBERS or list(voters) != sorted(set(voters)):
        raise RemoteProtocolError(f"field {name!r} is not a sorted list of voters")
    return voters


def _text(value: Any, name: str) -> str:
    if type(value) is not str or len(value) > MAX_TEXT:
        raise RemoteProtocolError(f"field {name!r} is not a short text")
    return value
