"""What trainers and the data server of a machine say to each other, and where they meet.

trainer                              data server
  ── hello {version} ────────────────►
  ◄─ welcome {slots, ...} + memory ───   or refuse {reason}
  ── want {key, end} ────────────────►   the batch, and where its lease ends
  ◄─ ready {key, slot} ───────────────   or fail {key, reason}
  ── done {slot} ────────────────────►
  ◄─ bye {reason} ────────────────────   it ends in order
"""

import hashlib
import json
import os
import sys
from dataclasses import dataclass
from typing import Any, Self

from distqatd import __version__
from distqatd.base.decision import Decision
from distqatd.base.errors import RemoteProtocolError
from distqatd.config.data import BUILT_IN
from distqatd.config.sections import Config, DataConfig, DataServerConfig
from distqatd.wire.fields import need

HELLO, WELCOME, REFUSE = "hello", "welcome", "refuse"
WANT, READY, FAIL, DONE = "want", "ready", "fail", "done"
BYE = "bye"

END_LINE = b"end\n"
"""What the parent writes to a data server that shall say good-bye and end."""

MAX_NUMBER = 1 << 62
MAX_RING_BYTES = 1 << 40


@dataclass(frozen=True, slots=True)
class Job:
    """What a data server is started with.

    Attributes:
        data: the run's data section.
        seed: the run's seed.
        batch_size: samples in a batch.
        server: this machine's settings.
        folder: where a file may stand in for memory.
    """

    data: DataConfig
    seed: int
    batch_size: int
    server: DataServerConfig
    folder: str

    def to_json(self) -> str:
        """Return the job as one line."""
        parts = {"data": self.data.model_dump(mode="json")}
        server = self.server.model_dump(mode="json")
        numbers = {"seed": self.seed, "batch_size": self.batch_size, "folder": self.folder}
        return json.dumps({**parts, "server": server, **numbers})

    @classmethod
    def from_json(cls, line: str) -> Self:
        """Read what `to_json` gave."""
        values = json.loads(line)
        data = DataConfig.model_validate(values["data"])
        server = DataServerConfig.model_validate(values["server"])
        return cls(data, values["seed"], values["batch_size"], server, values["folder"])


@dataclass(frozen=True, slots=True)
class Welcome:
    """What a trainer is told: the shape of the ring, and how much there is for validation."""

    num_slots: int
    slot_bytes: int
    num_validation_batches: int

    def packet(self) -> dict[str, Any]:
        """Return it as it travels."""
        sizes = {"slots": self.num_slots, "slot_bytes": self.slot_bytes}
        return {"do": WELCOME, **sizes, "validation": self.num_validation_batches}

    @classmethod
    def read(cls, packet: dict[str, Any]) -> Self:
        """Check and return it.

        Raises:
            RemoteProtocolError: a field is missing or cannot be.
        """
        made = cls(*(need(packet, name, int) for name in ("slots", "slot_bytes", "validation")))
        if made.num_slots < 1 or made.slot_bytes < 1 or made.num_validation_batches < 1:
            raise RemoteProtocolError(f"a ring cannot be like this: {made}")
        if made.num_slots * made.slot_bytes > MAX_RING_BYTES:
            raise RemoteProtocolError(f"a ring of {made.num_slots * made.slot_bytes} bytes")
        return made


def meeting_place(config: Config) -> str:
    """Return the name of the socket: the same for all daemons of a run, user and version."""
    job = Job(config.data, config.seed, config.diloco.batch_size, DataServerConfig(), folder="")
    digest = hashlib.sha256(f"{__version__} {job.to_json()}".encode()).hexdigest()
    return f"distqat-data-{os.getuid()}-{digest[:32]}"


def named_data(data: DataConfig) -> tuple[str, ...]:
    """Return what a run reads of files or the network: nothing, if all comes with DistQat."""
    names = () if data.dataset_name in BUILT_IN else (data.dataset_name,)
    return (*names, *filter(None, [data.tokenizer]))


def wants_server(config: Config, *, is_ours: bool) -> Decision[bool]:
    """Decide whether batches are prepared by a data server on this machine.

    Args:
        config: of the run and this machine.
        is_ours: whether this machine's owner named the data.
    """
    data, mode = config.data, config.data_server.mode
    if mode == "off":
        return Decision(value=False, reason="data_server.mode is off")
    if sys.platform != "linux":
        return Decision(value=False, reason="a data server needs Linux")
    named = named_data(data)
    if named and not is_ours:
        return Decision(value=False, reason=f"{', '.join(named)} was not given on this machine")
    asked = _asked_for(data, mode)
    if asked:
        return Decision(value=True, reason=asked)
    if not named:
        reason = f"{data.dataset_name} is in memory: nothing is won by preparing it elsewhere"
        return Decision(value=False, reason=reason)
    return Decision(value=True, reason=f"{', '.join(named)} is read and decoded once for all")


def _asked_for(data: DataConfig, mode: str) -> str:
    """Return what asks for a server, wherever the data is; empty: nothing does."""
    if data.transform is not None:
        return f"data.transform is {data.transform}"
    if data.num_workers:
        return f"data.num_workers is {data.num_workers}"
    return "data_server.mode is on" if mode == "on" else ""
