"""What a checkpoint consists of: `manifest.json`, which describes all other files in its folder."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from distqatd.base.errors import CheckpointError
from distqatd.base.intervals import IntervalSet

SCHEMA = "distqat.checkpoint/v1"
MANIFEST_FILE = "manifest.json"
RUN_FILE = "run.json"
"""The run-wide configuration, byte for byte as peers digest it (`config.run.dump_run`)."""

MAX_MANIFEST_BYTES = 16 << 20

_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file of a checkpoint: its size and the sha256 of all its bytes, in hex."""

    num_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class StageEntry:
    """One stage of a checkpoint.

    Attributes:
        name: of the stage, as in the pipeline.
        anchor_digest: as in the snapshot it was made from.
        layout_digest: as in the snapshot it was made from.
        meta: the snapshot's plain values: counters, integer buffers, the book of batches.
    """

    name: str
    anchor_digest: str
    layout_digest: str
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def file(self) -> str:
        """Return the name of the file with the stage's tensors."""
        return f"{self.name}.safetensors"

    def check(self) -> None:
        """Check that the book of batches is one.

        Raises:
            CheckpointError: it is not.
        """
        len(self.batches)

    @property
    def batches(self) -> IntervalSet:
        """Return the batches that are in the stage's anchor.

        Raises:
            CheckpointError: the book of batches is not one.
        """
        try:
            return IntervalSet.read(self.meta.get("batches", []))
        except ValueError as error:
            raise CheckpointError(f"stage {self.name} has no book of batches: {error}") from error


@dataclass(frozen=True, slots=True)
class Manifest:
    """Describes a set of stages at one outer step.

    Attributes:
        run: name of the run.
        outer_step: at which all stages are.
        config_digest: `config.run.resume_digest` of the run.
        published_unix_s: when, by the clock of the machine that wrote it.
        stages: in pipeline order.
        files: all files of the folder but the manifest itself.
    """

    run: str
    outer_step: int
    config_digest: str
    published_unix_s: float
    stages: tuple[StageEntry, ...]
    files: Mapping[str, FileEntry]

    @property
    def num_bytes(self) -> int:
        """Return the bytes of all files it describes."""
        return sum(entry.num_bytes for entry in self.files.values())

    @property
    def batches(self) -> IntervalSet:
        """Return the batches that are in the anchor of every stage: those that count."""
        common = self.stages[0].batches if self.stages else IntervalSet()
        for stage in self.stages[1:]:
            common = common.common(stage.batches)
        return common

    def stage(self, name: str) -> StageEntry:
        """Return the stage of that name.

        Raises:
            CheckpointError: there is none.
        """
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise CheckpointError(f"outer step {self.outer_step} of {self.run} has no stage {name}")

    def to_json(self) -> bytes:
        """Return the manifest as it is written; its last field is the sha256 of the others."""
        values = {"schema": SCHEMA, **asdict(self), "batches": self.batches.to_list()}
        values["sha256"] = _seal(values)
        return json.dumps(values, indent=1, sort_keys=True).encode()

    @classmethod
    def parse(cls, data: bytes) -> "Manifest":
        """Read and check what `to_json` wrote.

        Raises:
            CheckpointError: it was written by another version, or is not what was written.
        """
        try:
            values = json.loads(data)
            schema, sealed = values["schema"], values.pop("sha256")
            if schema != SCHEMA:
                raise CheckpointError(f"the manifest is {schema!r}, this version reads {SCHEMA}")
            if _seal(values) != sealed:
                raise CheckpointError("the manifest is corrupt: its sha256 is another")
            return cls._read(values)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CheckpointError(f"the manifest is not readable: {error!r}") from error

    @classmethod
    def _read(cls, values: Mapping[str, Any]) -> "Manifest":
        files = {name: FileEntry(**entry) for name, entry in values["files"].items()}
        for name in files:
            if _FILE_NAME.fullmatch(name) is None:
                raise CheckpointError(f"the manifest names a file {name[:40]!r}")
        stages = tuple(StageEntry(**stage) for stage in values["stages"])
        missing = [stage.file for stage in stages if stage.file not in files]
        if missing:
            raise CheckpointError(f"the manifest lacks {', '.join(missing)}")
        return cls(
            values["run"],
            values["outer_step"],
            values["config_digest"],
            values["published_unix_s"],
            stages,
            files,
        )


def _seal(values: Mapping[str, Any]) -> str:
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
