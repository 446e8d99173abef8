"""Checkpoints without a daemon: what a folder holds, and one of them as a single file.

`distqatctl checkpoint list` and `export` run these in a process of their own.
"""

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from distqatd.api.checkpoint_schema import CheckpointEntry, Checkpoints, Exported, LeftOut
from distqatd.base.errors import CheckpointError
from distqatd.checkpoint.manifest import MANIFEST_FILE, StageEntry
from distqatd.checkpoint.reading import (
    Checkpoint,
    Fault,
    folder_name,
    look,
    newest_good,
    published_steps,
    verify,
)
from distqatd.checkpoint.store import read_run_config
from distqatd.checkpoint.tensor_file import TensorFile, TensorWriter
from distqatd.compute import torchao
from distqatd.compute.integers import integer_metadata, integer_tensors
from distqatd.compute.payload import from_wire, to_wire
from distqatd.compute.stages import build_trained_stage
from distqatd.config.run import load_run
from distqatd.config.sections import Config
from distqatd.models.units import Stage
from distqatd.optim.flat import FlatLayout
from distqatd.quant.packed import PackedForm
from distqatd.quant.prepare import is_quantizer_state
from distqatd.wire.payload import TensorSpec, WireTensor

EXPORT_FILE = "model.safetensors"
"""What an export into a folder is called: where transformers look."""

_FLOAT_BYTES = 4

Named = tuple[TensorSpec, memoryview]

Form = Literal["plain", "packed", "torchao"]
"""How weights are written: full precision, our packed integers, or as torchao's tensors."""


@dataclass(frozen=True, slots=True)
class _Content:
    """What goes into a file.

    Attributes:
        tensors: with their bytes.
        metadata: beside them.
        left: of a form that has no place for all, modules and why.
    """

    tensors: list[Named]
    metadata: Mapping[str, str]
    left: tuple[LeftOut, ...] = ()


def list_checkpoints(root: Path) -> Checkpoints:
    """Verify all checkpoints in a folder; blocking, as slow as the disk.

    Raises:
        CheckpointError: there is no such folder.
    """
    if not root.is_dir():
        raise CheckpointError(f"{root} is not a folder")
    good, faults = look(root)
    entries = [*map(_entry, good), *map(_fault_entry, faults)]
    entries.sort(key=lambda entry: -entry.outer_step)
    return Checkpoints(folder=str(root), checkpoints=tuple(entries))


def _entry(checkpoint: Checkpoint) -> CheckpointEntry:
    manifest = checkpoint.manifest
    return CheckpointEntry(
        outer_step=manifest.outer_step,
        folder=str(checkpoint.folder),
        state="ok",
        published_unix_s=manifest.published_unix_s,
        num_bytes=manifest.num_bytes,
        num_batches=len(manifest.batches),
    )


def _fault_entry(fault: Fault) -> CheckpointEntry:
    return CheckpointEntry(
        outer_step=fault.outer_step,
        folder=str(fault.folder),
        state="corrupt",
        reason=fault.reason,
    )


def export(
    source: Path, target: Path, outer_step: int | None = None, *, form: Form = "plain"
) -> Exported:
    """Write the parameters of all stages into one safetensors file, by their names in the model.

    Names are those of transformers and torchvision where the model is theirs. Parameters are the
    committed ones, float32, also where training rounds them; there is no optimizer state in it,
    nor what quantizers learned, unless weights are written as the integers they are rounded to.

    Args:
        source: a folder of checkpoints, or one checkpoint.
        target: the file, or a folder to write `model.safetensors` into.
        outer_step: of the checkpoint to take; the newest good one by default.
        form: `packed`: integers as `compute.integers` reads them; `torchao`: as torchao does.

    Raises:
        CheckpointError: no such checkpoint, it is corrupt, the target is there already, or torchao
            is not installed.
        UnknownModel: the model is not on this machine.
    """
    checkpoint = find_checkpoint(source, outer_step)
    content = _CONTENTS[form](checkpoint, load_run(Config(), read_run_config(checkpoint)))
    tensors = sorted(content.tensors, key=lambda named: named[0].name)
    file = target / EXPORT_FILE if target.is_dir() else target
    metadata = {
        "format": "pt",
        "run": checkpoint.manifest.run,
        "outer_step": str(checkpoint.manifest.outer_step),
        **content.metadata,
    }
    _write(file, tensors, metadata)
    return Exported(
        file=str(file),
        run=checkpoint.manifest.run,
        outer_step=checkpoint.manifest.outer_step,
        num_tensors=len(tensors),
        num_bytes=file.stat().st_size,
        left=content.left,
    )


def find_checkpoint(source: Path, outer_step: int | None) -> Checkpoint:
    """Return the checkpoint that is meant, verified: one, that of a step, or the newest good one.

    Raises:
        CheckpointError: there is none, or it is corrupt.
    """
    if (source / MANIFEST_FILE).exists():
        return verify(source)
    if outer_step is not None:
        if outer_step in published_steps(source):
            return verify(source / folder_name(outer_step))
        raise CheckpointError(f"{source} has no checkpoint of outer step {outer_step}")
    found, faults = newest_good(source)
    if found is None:
        reasons = "".join(f"\n  {fault.reason}" for fault in faults)
        raise CheckpointError(f"{source} has no good checkpoint{reasons}")
    return found


def _plain(checkpoint: Checkpoint, config: Config) -> _Content:
    tensors: list[Named] = []
    for stage_config in config.model_pipeline.pipeline:
        entry = checkpoint.manifest.stage(stage_config.stage)
        stage, _ = build_trained_stage(config, stage_config, "meta")
        tensors += _stage_tensors(checkpoint, entry, stage)
    return _Content(tensors, {})


def _packed(checkpoint: Checkpoint, config: Config) -> _Content:
    forms: dict[str, PackedForm] = {}
    tensors: list[Named] = []
    for stage in trained_stages(checkpoint, config):
        found, made = integer_tensors(stage)
        forms |= made
        tensors += _named(found)
    return _Content(tensors, integer_metadata(read_run_config(checkpoint), forms))


def _torchao(checkpoint: Checkpoint, config: Config) -> _Content:
    state: dict[str, Tensor] = {}
    left: dict[str, list[str]] = {}
    for stage in trained_stages(checkpoint, config):
        converted = torchao.convert(stage)
        state |= converted.state
        for module, reasons in converted.left.items():
            for reason in reasons:
                left.setdefault(reason, []).append(module)
    tensors, metadata = torchao.flatten(state)
    found = (LeftOut(reason=reason, modules=tuple(names)) for reason, names in left.items())
    return _Content([*_named(tensors)], metadata, tuple(found))


_CONTENTS: Mapping[Form, Callable[[Checkpoint, Config], _Content]] = {
    "plain": _plain,
    "packed": _packed,
    "torchao": _torchao,
}


def trained_stages(checkpoint: Checkpoint, config: Config) -> Iterator[Stage]:
    """Yield all stages with the committed state, their quantizers in place.

    Raises:
        CheckpointError: another version of the program laid them out.
    """
    for stage_config in config.model_pipeline.pipeline:
        entry = checkpoint.manifest.stage(stage_config.stage)
        stage, _ = build_trained_stage(config, stage_config)
        layout = _checked_layout(checkpoint, entry, stage)
        anchor = _anchor(checkpoint, entry)
        spec = TensorSpec("anchor", "float32", (layout.num_elements,), anchor.nbytes)
        layout.scatter(stage, from_wire(WireTensor(spec, anchor)))
        layout.scatter_ints(stage, entry.meta.get("int_buffers", {}))
        yield stage


def _named(tensors: Mapping[str, Tensor]) -> Iterable[Named]:
    wired = (to_wire(name, tensor) for name, tensor in tensors.items())
    return ((each.spec, each.data) for each in wired)


def _checked_layout(checkpoint: Checkpoint, entry: StageEntry, stage: Stage) -> FlatLayout:
    layout = FlatLayout(stage)
    if layout.digest() != entry.layout_digest:
        raise CheckpointError(
            f"stage {entry.name} of {checkpoint.folder} has layout {entry.layout_digest[:12]}, "
            f"this version's has {layout.digest()[:12]}; export it with the version that wrote it"
        )
    return layout


def _anchor(checkpoint: Checkpoint, entry: StageEntry) -> memoryview:
    file = TensorFile(checkpoint.folder / entry.file)
    names = [spec.name for spec in file.layout.specs]
    return file.data[names.index("anchor")]


def _stage_tensors(checkpoint: Checkpoint, entry: StageEntry, stage: Stage) -> Iterator[Named]:
    layout = _checked_layout(checkpoint, entry, stage)
    anchor = _anchor(checkpoint, entry)
    for part in layout.entries:
        if is_quantizer_state(part.name):
            continue
        begin, num_bytes = part.offset * _FLOAT_BYTES, part.numel * _FLOAT_BYTES
        spec = TensorSpec(stage.global_name(part.name), "float32", part.shape, num_bytes)
        yield spec, anchor[begin : begin + num_bytes]
    counts = entry.meta.get("int_buffers", {})
    for name in layout.int_names:
        data = memoryview(struct.pack("<q", counts[name]))
        yield TensorSpec(stage.global_name(name), "int64", (), data.nbytes), data


def _write(file: Path, tensors: list[Named], metadata: dict[str, str]) -> None:
    """Write a file beside its place and move it there when it is whole."""
    if file.exists():
        raise CheckpointError(f"{file} is there already; name another file, or remove it")
    part = file.with_name(f".{file.name}.part")
    try:
        part.unlink(missing_ok=True)
        writer = TensorWriter(part, [spec for spec, _ in tensors], metadata)
        for target, (_, data) in zip(writer.data, tensors, strict=True):
            target[:] = data
        writer.close()
        part.rename(file)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise CheckpointError(f"{file} cannot be written: {error.strerror}") from error
