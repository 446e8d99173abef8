"""Replies about checkpoints; the rules are those of `schema`."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from distqatd.api.schema import Part, Reply


class CheckpointEntry(Part):
    """A published checkpoint. `reason` says why a corrupt one is; most else is unknown then."""

    outer_step: int
    folder: str
    state: Literal["ok", "corrupt"]
    reason: str = ""
    published_unix_s: float | None = None
    num_bytes: int = 0
    num_batches: int = 0


class Checkpoints(Reply):
    """What a folder of checkpoints holds, newest first; every byte of it was read and checked."""

    schema_id: Literal["distqat.checkpoints/v1"] = Field("distqat.checkpoints/v1", alias="schema")
    folder: str
    checkpoints: tuple[CheckpointEntry, ...]


class Mirror(Reply):
    """The param mirror of a daemon.

    Attributes:
        folder: where it keeps checkpoints.
        outer_step: of the newest one; -1 if there is none.
        activity: what it does now; `idle` between two.
        asked: a checkpoint was asked for and is yet to come.
        number: how many attempts have ended.
        ok: how the last one did.
        text: what came of it.
    """

    schema_id: Literal["distqat.mirror/v1"] = Field("distqat.mirror/v1", alias="schema")
    folder: str
    outer_step: int
    activity: str
    asked: bool
    number: int
    ok: bool
    text: str


class LeftOut(Part):
    """Modules that an export has not as they were trained, and why."""

    reason: str
    modules: tuple[str, ...]


class Exported(Reply):
    """A checkpoint as one file of tensors under their names in the whole model."""

    schema_id: Literal["distqat.exported/v1"] = Field("distqat.exported/v1", alias="schema")
    file: str
    run: str
    outer_step: int
    num_tensors: int
    num_bytes: int
    left: tuple[LeftOut, ...] = ()


class Sampled(Reply):
    """Images that were drawn from the model of a checkpoint, as one PNG file."""

    schema_id: Literal["distqat.sampled/v1"] = Field("distqat.sampled/v1", alias="schema")
    file: str
    run: str
    outer_step: int
    num_images: int


class KeepRequest(BaseModel):
    """Body of `POST /v1/mirror`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
