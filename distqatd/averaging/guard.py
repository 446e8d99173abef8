"""Which ballots a voter looks at: a peer must not speak for others, nor use the numbers up."""

from distqatd.averaging.ballots import Ballot, Voter
from distqatd.base.errors import RemoteProtocolError
from distqatd.net.rpc import Caller

MAX_JUMP = 1 << 20
"""So far above the promised one a ballot may be; honest leaders go up one by one."""


def leads(ballot: Ballot, caller: Caller) -> bool:
    """Return whether a ballot is that of an expert on the caller's peer."""
    return ballot.leader.partition("@")[2] == caller.peer_id


def check_ballot(ballot: Ballot, voter: Voter, caller: Caller) -> None:
    """Check a ballot before a voter reacts to it.

    Raises:
        RemoteProtocolError: it is another peer's, or so high that few would be left above it.
    """
    if not leads(ballot, caller):
        raise RemoteProtocolError(f"{caller.peer_id} speaks for ballot {ballot}")
    promised = voter.promised.number if voter.promised is not None else 0
    if ballot.number > promised + MAX_JUMP:
        raise RemoteProtocolError(f"ballot {ballot} is far above the promised {promised}")
