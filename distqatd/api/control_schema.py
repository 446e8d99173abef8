"""Replies about what daemons are told to do, and why they do it; rules as in `schema`."""

from typing import Literal

from pydantic import Field

from distqatd.api.schema import Part, Reply

Kind = Literal["drain", "resume", "reassign"]
JobState = Literal["running", "done", "failed"]
Verdict = Literal["ok", "warning", "error"]


class OrderRequest(Part):
    """Body of `POST /v1/jobs`: what to do, and where.

    `peer` is a nickname, a peer id or its beginning, or the uid of one expert; empty is the daemon
    that is asked. `stage` goes with reassign, `auto` instead of it: what the swarm needs most.
    """

    kind: Kind
    peer: str = Field("", max_length=128)
    stage: str = Field("", max_length=64)
    auto: bool = False
    deadline_s: float = Field(120.0, ge=0, le=86400)
    force: bool = False


class Job(Reply):
    """`POST /v1/jobs` and `GET /v1/jobs/N`: an operation, which runs whoever watches it.

    `exit_code` is what a command that waited for it exits with; `code` names the error, if any.
    """

    schema_id: Literal["distqat.job/v1"] = Field("distqat.job/v1", alias="schema")
    number: int
    kind: Kind
    what: str
    peer_id: str
    nickname: str
    state: JobState
    progress: str
    message: str
    code: str
    exit_code: int
    deadline_s: float
    started_unix_s: float
    seconds: float


class Jobs(Reply):
    """`GET /v1/jobs`: the operations that this daemon remembers, oldest first."""

    schema_id: Literal["distqat.jobs/v1"] = Field("distqat.jobs/v1", alias="schema")
    jobs: tuple[Job, ...]


class Move(Part):
    """One expert that should serve another stage, and why."""

    uid: str
    peer_id: str
    nickname: str
    from_stage: str
    to_stage: str
    reason: str


class Moves(Reply):
    """`GET /v1/moves`: what `reassign --auto` would do now; nothing is done."""

    schema_id: Literal["distqat.moves/v1"] = Field("distqat.moves/v1", alias="schema")
    moves: tuple[Move, ...]
    reason: str


class Reason(Part):
    """Why something was done last: `kind` is placement, route, round, move, drain or gap."""

    kind: str
    subject: str
    text: str
    time_unix_s: float


class Why(Reply):
    """`GET /v1/why`: a daemon's newest reasons, the newest first."""

    schema_id: Literal["distqat.why/v1"] = Field("distqat.why/v1", alias="schema")
    peer_id: str
    nickname: str
    reasons: tuple[Reason, ...]


class Ping(Reply):
    """`GET /v1/ping`: the way to a peer; bandwidth is None unless it was measured.

    `clock_ahead_s` is how far the peer's wall clock is ahead of ours.
    """

    schema_id: Literal["distqat.ping/v1"] = Field("distqat.ping/v1", alias="schema")
    peer_id: str
    nickname: str
    rtt_s: float
    jitter_s: float
    up_bytes_per_s: float | None
    down_bytes_per_s: float | None
    clock_ahead_s: float


class Check(Part):
    """One thing that was looked at, and what to do if it is not well."""

    name: str
    verdict: Verdict
    detail: str
    fix: str = ""


class Doctor(Reply):
    """`GET /v1/doctor`, and what `distqatctl doctor` makes of it."""

    schema_id: Literal["distqat.doctor/v1"] = Field("distqat.doctor/v1", alias="schema")
    checks: tuple[Check, ...]
