"""Names of things as types, so that a peer id is never passed where a stage is meant."""

import re
from typing import NewType

from distqatd.base.errors import IdentityError

PeerId = NewType("PeerId", str)
"""sha256 of a peer's public key (SPKI DER) in lowercase base32 without padding: 52 characters."""

ExpertUid = NewType("ExpertUid", str)
"""One replica of one stage, `{stage}.0.{index}.0`, for example `tail.0.1.0`."""

RunId = NewType("RunId", str)
"""Names one training run inside a swarm; DHT keys start with `run/<run id>/`."""

StageIndex = NewType("StageIndex", int)
"""Position of a stage in the model pipeline, from 0."""

_UID = re.compile(r"^([a-z0-9_]{1,32})\.0\.(\d{1,6})\.0$")
_PEER_ID = re.compile(r"^[a-z2-7]{52}$")

_TREES = (
    "alder ash aspen bay beech birch box cedar cherry cypress elder elm fig fir hazel holly "
    "hornbeam juniper larch laurel lime maple myrtle oak olive pear pine plum rowan spruce "
    "willow yew"
).split()


def make_uid(stage: str, index: int) -> ExpertUid:
    """Return the uid of replica `index` of `stage`."""
    return ExpertUid(f"{stage}.0.{index}.0")


def parse_uid(uid: str) -> tuple[str, int]:
    """Split a uid into stage name and replica index.

    Raises:
        IdentityError: the text is not `{stage}.0.{index}.0`.
    """
    match = _UID.match(uid)
    if match is None:
        raise IdentityError(f"{uid!r} is not an expert uid; expected STAGE.0.INDEX.0")
    return match[1], int(match[2])


def parse_peer_id(text: str) -> PeerId:
    """Check that `text` has the form of a peer id.

    Raises:
        IdentityError: it has not.
    """
    if not _PEER_ID.match(text):
        raise IdentityError(f"{text!r} is not a peer id; expected 52 characters a-z, 2-7")
    return PeerId(text)


def nickname(peer_id: PeerId) -> str:
    """Return a short name people can say, such as `alder-7f3a`; never used to identify."""
    number = int.from_bytes(peer_id[:8].encode(), "big")
    return f"{_TREES[number % len(_TREES)]}-{peer_id[-4:]}"
