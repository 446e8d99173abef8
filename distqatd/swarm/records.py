"""What peers publish in the DHT: small msgpack maps, checked field by field when read.

Keys: `run/<run>/joining`, `run/<run>/stage/<i>` (experts), `run/<run>/trainers`,
`run/<run>/leases` (client duty), `run/<run>/mirror` (checkpoints) and `peers`. A record a peer
cannot parse is skipped, never an error: it was written by somebody else, maybe by a newer version.
"""

from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Self

import msgpack

from distqatd.base.errors import RecordError
from distqatd.base.ids import ExpertUid, PeerId, RunId

JOINING = "joining"
SERVING = "serving"
DRAINING = "draining"
STATES = (JOINING, SERVING, DRAINING)
"""States of an expert, in the order it goes through them."""

DRAINED = "drained"
"""What a daemon calls an expert of its own that has left; nobody publishes it."""

MAX_STAGE_BITS = 53
"""Stages of which a record can tell something in one number."""

MAX_TEXT = 128
MAX_ITEMS = 16


def joining_key(run_id: RunId) -> str:
    """Return the key under which joiners claim a slot."""
    return f"run/{run_id}/joining"


def stage_key(run_id: RunId, stage_index: int) -> str:
    """Return the key of the experts that serve a stage."""
    return f"run/{run_id}/stage/{stage_index}"


def trainers_key(run_id: RunId) -> str:
    """Return the key of the run's trainers and their metrics."""
    return f"run/{run_id}/trainers"


def leases_key(run_id: RunId) -> str:
    """Return the key of the client-duty lease."""
    return f"run/{run_id}/leases"


def mirror_key(run_id: RunId) -> str:
    """Return the key of the daemons that give checkpoints to experts nobody else serves."""
    return f"run/{run_id}/mirror"


PEERS_KEY = "peers"


@dataclass(frozen=True, slots=True)
class _Record:
    """Base: packs to a msgpack list in field order, behind a version byte."""

    VERSION: ClassVar[int] = 1

    def pack(self) -> bytes:
        """Return the record's bytes for the DHT."""
        data: bytes = msgpack.packb([self.VERSION, *asdict(self).values()])
        return data

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read and check a record.

        Raises:
            RecordError: other version, wrong number or type of fields, or a text too long.
        """
        try:
            values = msgpack.unpackb(data, max_array_len=64, max_map_len=0, max_ext_len=0)
        except (ValueError, msgpack.UnpackException) as error:
            raise RecordError(f"{cls.__name__}: not msgpack: {error}") from error
        if not isinstance(values, list) or values[:1] != [cls.VERSION]:
            raise RecordError(f"{cls.__name__}: not a version {cls.VERSION} record")
        names = fields(cls)
        if len(values) != len(names) + 1:
            raise RecordError(f"{cls.__name__}: {len(values) - 1} fields, expected {len(names)}")
        return cls(
            **{
                field.name: _checked(cls.__name__, field.name, field.type, value)
                for field, value in zip(names, values[1:], strict=True)
            }
        )


def _checked(record: str, name: str, kind: Any, value: Any) -> Any:
    """Return `value` as the field's type, or raise RecordError."""
    if kind is tuple or str(kind).startswith("tuple"):
        if isinstance(value, list) and len(value) <= MAX_ITEMS and all(map(_is_text, value)):
            return tuple(value)
    elif kind in (str, PeerId, ExpertUid) and _is_text(value):
        return value
    elif kind is float and type(value) in (int, float) and value == value:
        return float(value)
    elif kind in (int, bool) and type(value) is kind and -(2**53) <= value <= 2**53:
        return value
    raise RecordError(f"{record}.{name}: {str(value)[:40]!r} is not acceptable")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= MAX_TEXT and value.isprintable()


@dataclass(frozen=True, slots=True)
class PeerRecord(_Record):
    """Under `peers`: who a peer is and where it answers."""

    addresses: tuple[str, ...]
    roles: tuple[str, ...]
    version: str
    boot_epoch: int


@dataclass(frozen=True, slots=True)
class ExpertRecord(_Record):
    """Under a stage's key, or under `joining` with an empty uid before a slot is chosen.

    Attributes:
        samples_per_s: of computing, waiting not counted; 0.0 until measured.
        memory_free: bytes its device has left beside it; 0 if unknown.
        memory_used: bytes the expert takes; 0 if unknown.
        is_pinned: its machine's owner chose the stage: others do not move it.
        unfit: bit i is set if stage i of the pipeline does not fit into its machine's memory, even
            in the place of the stage that it holds.
    """

    uid: str
    state: str
    addresses: tuple[str, ...]
    boot_epoch: int
    outer_step: int
    inner_step: int
    anchor_digest: str
    samples_per_s: float
    session: int
    memory_free: int = 0
    memory_used: int = 0
    is_pinned: bool = False
    unfit: int = 0


@dataclass(frozen=True, slots=True)
class TrainerRecord(_Record):
    """Under `trainers`: what a trainer does, and how it goes.

    Attributes:
        link_bytes: bytes of a step's tensors on all links of its route, both ways, smoothed.
        loss_scale: in fp16; 0.0 otherwise.
    """

    addresses: tuple[str, ...]
    boot_epoch: int
    pipeline: int
    route: tuple[str, ...]
    step: int
    outer_step: int
    loss: float
    samples_per_s: float
    num_samples: int
    num_replayed: int
    first_step_unix_s: float
    link_bytes: int = 0
    loss_scale: float = 0.0


@dataclass(frozen=True, slots=True)
class LeaseRecord(_Record):
    """Under `leases`: who does the client's duty, and how the run stands.

    Attributes:
        term: grows with every holder; of two records the one with the higher term counts.
        next_batch: batches below it may have been lent.
        eval_outer_step: of the anchor that `eval_*` are about; -1 if none was evaluated.
        overflows: steps that all stages dropped because gradients of one overflowed fp16.
    """

    addresses: tuple[str, ...]
    boot_epoch: int
    term: int
    next_batch: int
    num_pipelines: int
    num_gaps: int
    committed: int
    replayed: int
    lost: int
    duplicated: int
    is_finished: bool
    finished_unix_s: float
    eval_loss: float
    eval_accuracy: float
    eval_return: float = -1.0
    eval_outer_step: int = -1
    overflows: int = 0


@dataclass(frozen=True, slots=True)
class MirrorRecord(_Record):
    """Under `mirror`: who gives the stages of a checkpoint, as the states `mirror/<stage>`.

    Attributes:
        outer_step: of the checkpoint; all of its stages are at it.
        config_digest: of the run; a mirror of another configuration is of no use.
    """

    addresses: tuple[str, ...]
    boot_epoch: int
    outer_step: int
    config_digest: str


def mirror_state(stage: str) -> str:
    """Return the name under which a mirror serves a stage."""
    return f"mirror/{stage}"
