"""Every reply of the API, which is also what `distqatctl --json` prints.

A reply names its own shape in `schema`, such as `distqat.status/v1`; a field is only ever added
within a version. Durations end in `_s` (seconds), instants in `_unix_s` (seconds since the Unix
epoch, UTC), sizes in `_bytes`. This module needs nothing but pydantic, so a client can import it.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

TrainingState = Literal["waiting", "training", "averaging", "paused", "finished"]
"""`waiting`: no complete pipeline yet. `averaging`: a round is open."""

PeerState = Literal["starting", "joining", "serving", "draining", "drained", "stopping", "lost"]
"""Where a daemon is in its life, as it says itself; `lost` is what others say about it.

One that is drained still runs, without experts, until it is resumed or stopped.
"""

Reachability = Literal["unknown", "loopback", "private", "public", "unreachable"]
"""From where peers have reached this daemon; `unknown` until one has."""

StageState = Literal["ok", "gap"]
"""A gap is a stage without a serving expert: nothing trains until it is filled."""

FieldValue = str | int | float | bool | None


class Part(BaseModel):
    """A piece of a reply: immutable, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Reply(Part):
    """A whole reply; subclasses fix `schema_id`, which travels as `schema`."""

    schema_id: str = Field("", alias="schema")

    def to_json(self, *, indent: int | None = None) -> str:
        """Return the reply as it travels."""
        return self.model_dump_json(by_alias=True, indent=indent)


class ErrorReply(Reply):
    """Why a request failed: a stable code, what to tell people, what a command exits with."""

    schema_id: Literal["distqat.error/v1"] = Field("distqat.error/v1", alias="schema")
    code: str
    message: str
    exit_code: int = 1


class SwarmInfo(Part):
    """The swarm this daemon belongs to."""

    name: str
    swarm_id: str
    open: bool


class RunBrief(Part):
    """The run that the swarm works on."""

    run_id: str
    name: str
    config_digest: str


class OwnPeer(Part):
    """The daemon that answers."""

    peer_id: str
    nickname: str
    roles: tuple[str, ...]
    addresses: tuple[str, ...]
    reachability: Reachability
    uptime_s: float
    state: PeerState
    version: str
    pid: int


class Gap(Part):
    """A stage nobody serves, why, and the command that helps."""

    stage: str
    reason: str
    suggestion: str


class Eval(Part):
    """The anchor of an outer step on all validation samples; `mean_return` is of an episode."""

    loss: float
    accuracy: float | None
    mean_return: float | None = None
    outer_step: int | None = None


class Training(Part):
    """How the run goes, as this daemon knows it.

    `loss` is the newest mean over pipelines, of training; `eval` the newest of an anchor.
    """

    state: TrainingState
    outer_step: int
    outer_steps: int
    inner_step: int
    loss: float | None
    samples_per_s: float
    num_pipelines: int
    eval: Eval | None = None


class StageExpert(Part):
    """One replica of a stage; `anchor_digest` is sha256 of its parameters at `outer_step`."""

    uid: str
    peer_id: str
    nickname: str
    state: str
    outer_step: int
    anchor_digest: str


class Stage(Part):
    """One stage of the model and who serves it; draining replicas are on their way out.

    `replicas_identical` is None until two serving replicas have reported the same outer step.
    """

    name: str
    num_replicas: int
    state: StageState
    last_outer_step_age_s: float | None
    replicas_identical: bool | None
    experts: tuple[StageExpert, ...]
    num_draining: int = 0


class Syncs(Part):
    """What outer steps have cost an expert since it serves.

    `seconds` is how long steps were held back for rounds, `aborted` ones included; `mbit_per_s` is
    the rate at which the last one sent, waiting included.
    """

    committed: int = 0
    aborted: int = 0
    seconds: float = 0.0
    bytes_sent: int = 0
    mbit_per_s: float = 0.0


class HostedExpert(Part):
    """An expert that runs inside this daemon."""

    uid: str
    stage: str
    state: str
    outer_step: int
    inner_step: int
    samples_per_s: float
    memory_bytes: int
    syncs: Syncs = Syncs()


class Duty(Part):
    """Who holds the client's duty: that client lends batches and finds trainers for pipelines.

    `term` grows whenever another client takes over, or the same one after a restart.
    """

    peer_id: str
    nickname: str
    term: int


class Status(Reply):
    """`GET /v1/status`: this daemon, the swarm and the run. `degraded` says what is not well."""

    schema_id: Literal["distqat.status/v1"] = Field("distqat.status/v1", alias="schema")
    swarm: SwarmInfo
    run: RunBrief | None
    peer: OwnPeer
    training: Training | None
    stages: tuple[Stage, ...]
    gaps: tuple[Gap, ...]
    experts: tuple[HostedExpert, ...]
    degraded: tuple[str, ...]
    client: Duty | None = None


class Peer(Part):
    """Another daemon; bytes count this daemon's own traffic with it."""

    peer_id: str
    nickname: str
    roles: tuple[str, ...]
    addresses: tuple[str, ...]
    experts: tuple[str, ...]
    state: PeerState
    rtt_s: float | None
    bytes_in: int
    bytes_out: int
    last_seen_unix_s: float


class Peers(Reply):
    """`GET /v1/peers`: everyone this daemon knows, itself left out."""

    schema_id: Literal["distqat.peers/v1"] = Field("distqat.peers/v1", alias="schema")
    peers: tuple[Peer, ...]


class Hop(Part):
    """One stage of a route."""

    stage: str
    uid: str
    peer_id: str
    nickname: str


class Pipeline(Part):
    """A trainer and the route it uses; `link_bytes` are those of one step on all its links."""

    trainer_peer_id: str
    trainer: str
    hops: tuple[Hop, ...]
    inner_step: int
    loss: float | None
    samples_per_s: float
    link_bytes: int = 0
    loss_scale: float | None = None


class Pipelines(Reply):
    """`GET /v1/pipelines`: the routes in use and the stages nobody serves."""

    schema_id: Literal["distqat.pipelines/v1"] = Field("distqat.pipelines/v1", alias="schema")
    pipelines: tuple[Pipeline, ...]
    gaps: tuple[Gap, ...]
    client: Duty | None = None


class Event(Reply):
    """One line of `GET /v1/events`; `number` grows by one per event of the daemon's life."""

    schema_id: Literal["distqat.event/v1"] = Field("distqat.event/v1", alias="schema")
    number: int
    time_unix_s: float
    kind: str
    fields: dict[str, FieldValue]
    degraded: bool


class Batches(Part):
    """What became of the batches; `lost` and `duplicated` stay 0, `overflowed` were run again."""

    committed: int = 0
    replayed: int = 0
    lost: int = 0
    duplicated: int = 0
    overflowed: int = 0


class RunInfo(Reply):
    """`GET /v1/run`: configuration and progress of the run, totals over all pipelines.

    `inner_steps` counts committed inner steps, `samples_per_s` is the mean since the first one.
    `finished` turns true once every outer step is done and `eval` is there to stay.
    """

    schema_id: Literal["distqat.run/v1"] = Field("distqat.run/v1", alias="schema")
    run_id: str
    name: str
    config: dict[str, Any]
    config_digest: str
    state: TrainingState
    outer_step: int
    outer_steps: int
    inner_steps: int
    samples_per_s: float
    first_step_unix_s: float | None
    finished: bool
    eval: Eval | None
    batches: Batches


class Invite(Reply):
    """`GET /v1/invite`: holds the swarm secret unless the swarm is open; unix socket only."""

    schema_id: Literal["distqat.invite/v1"] = Field("distqat.invite/v1", alias="schema")
    text: str
    command: str


class Version(Reply):
    """What `distqatctl version --json` prints."""

    schema_id: Literal["distqat.version/v1"] = Field("distqat.version/v1", alias="schema")
    version: str
    python: str


class Stopping(Reply):
    """`POST /v1/stop`: the daemon has begun to stop."""

    schema_id: Literal["distqat.stopping/v1"] = Field("distqat.stopping/v1", alias="schema")
    peer_id: str
    reason: str
