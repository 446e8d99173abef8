"""A stage as one flat vector: the form in which anchors are averaged, digested and sent.

Two forms of the same state, both float32 on the CPU:

- N, `num_elements`: parameters, then floating-point buffers, each in name order. Anchors,
  snapshots and digests have this form. The first P = `num_params` elements are parameters.
- X, `num_exchanged`: N, then the squared mean of every BatchNorm channel. Contributions have
  this form, because a weighted mean of X gives the statistics of the pooled data:
  var = E[var] + (E[mean^2] - E[mean]^2). With one contributor the bracket is exactly 0, so
  a lone replica keeps its statistics bit for bit. Ranges come last: see below.

Ranges: persistent floating-point buffers whose own name is `range_min` or `range_max`, as
fake-quantizers register them to observe values. The smallest minimum and the largest maximum of
all contributors count; +inf and -inf mean that nothing was seen. They are the end of both forms, in
X with the sign of the minima turned, so that of all of them the largest counts.

Integer buffers (`num_batches_tracked`) travel apart, as numbers.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from distqatd.base.errors import CheckpointError, ComputeError

Kind = Literal["param", "other", "mean", "var", "min", "max"]

RANGE_MIN = "range_min"
RANGE_MAX = "range_max"

_FLOATS = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True, slots=True)
class FlatEntry:
    """Where one tensor lies in the flat vector: elements `offset` to `offset + numel`."""

    name: str
    shape: tuple[int, ...]
    offset: int
    kind: Kind

    @property
    def numel(self) -> int:
        """Return the number of elements."""
        return int(torch.Size(self.shape).numel())


class FlatLayout:
    """The fixed order in which the state of one stage lies in a flat vector.

    Built from the names and shapes of a module's parameters and persistent buffers, so that every
    replica of a stage has the same layout; `digest` tells whether two have. Holds no tensors.

    Attributes:
        entries: parameters first, then buffers, each sorted by (kind, name).
        num_params: elements of parameters, P.
        num_elements: elements of the flat vector, N.
        num_averaged: elements of a contribution that are averaged; the others are ranges.
        num_exchanged: elements of a contribution, X >= N.
        int_names: names of scalar integer buffers, sorted.
    """

    def __init__(self, module: nn.Module) -> None:
        """Read names, shapes and kinds from `module`.

        Raises:
            ComputeError: a parameter or buffer is float64 or complex, which fp32 cannot carry.
        """
        self.entries = tuple(_entries(module))
        self.int_names = tuple(sorted(_int_buffers(module)))
        self.num_params = sum(e.numel for e in self.entries if e.kind == "param")
        self.num_elements = sum(e.numel for e in self.entries)
        self._means = [e for e in self.entries if e.kind == "mean"]
        self._vars = [e for e in self.entries if e.kind == "var"]
        self._mins = [e for e in self.entries if e.kind == "min"]
        self._maxs = [e for e in self.entries if e.kind == "max"]
        self._num_plain = self.num_elements - sum(e.numel for e in self._mins + self._maxs)
        num_means = sum(e.numel for e in self._means)
        self.num_averaged = self._num_plain + num_means
        self.num_exchanged = self.num_elements + num_means

    def digest(self) -> str:
        """Return a sha256 in hex over names, shapes, kinds and order."""
        lines = [f"{e.kind} {e.name} {'x'.join(map(str, e.shape))}" for e in self.entries]
        lines += [f"int {name}" for name in self.int_names]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    @torch.no_grad()
    def gather(self, module: nn.Module) -> Tensor:
        """Copy the state of `module` into a new flat vector (N, float32, CPU)."""
        tensors = dict(_state(module))
        flat = torch.empty(self.num_elements)
        for entry, view in zip(self.entries, self._views(flat), strict=True):
            view.copy_(tensors[entry.name])
        return flat

    @torch.no_grad()
    def scatter(self, module: nn.Module, flat: Tensor) -> None:
        """Copy a flat vector (N) into the parameters and buffers of `module`, in place."""
        self._check(flat, self.num_elements)
        tensors = dict(_state(module))
        for entry, view in zip(self.entries, self._views(flat), strict=True):
            tensors[entry.name].copy_(view)

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """Return name -> view of a flat vector (N) in the tensor's shape; shares its memory."""
        self._check(flat, self.num_elements)
        return {e.name: v for e, v in zip(self.entries, self._views(flat), strict=True)}

    def to_exchange(self, flat: Tensor) -> Tensor:
        """Return a new vector of form X from one of form N, ready to be averaged."""
        self._check(flat, self.num_elements)
        squares = self._section(flat, self._means).square()
        lows, highs = self._section(flat, self._mins), self._section(flat, self._maxs)
        return torch.cat([flat[: self._num_plain], squares, -lows, highs])

    def from_exchange(self, mean: Tensor) -> Tensor:
        """Return a new vector of form N from an average of form X: pooled BatchNorm variances.

        Multiplies and adds are separate operations, so that every machine gets the same bits.
        """
        self._check(mean, self.num_exchanged)
        plain, ranges = mean[: self._num_plain], mean[self.num_averaged :].clone()
        num_mins = sum(e.numel for e in self._mins)
        ranges[:num_mins].neg_()
        flat = torch.cat([plain, ranges])
        squares = mean[self._num_plain : self.num_averaged]
        spread = squares - self._section(flat, self._means).square()
        # Rounding can push a spread that is really 0 below it; a variance never shrinks by that.
        self._section(flat, self._vars).add_(spread.clamp_(min=0.0))
        return flat

    def take_over(self, local: Tensor, anchor: Tensor, own_share: float) -> None:
        """Have the buffers of `local` follow those of `anchor`, both of form N; in place.

        Ranges widen to hold both. Running statistics stay: they are of what this replica sees, and
        their mean over replicas is what the anchor has. Others keep `own_share` of themselves.
        """
        others = [e for e in self.entries if e.kind == "other"]
        own = self._section(local, others)
        own.mul_(own_share).add_(self._section(anchor, others) * (1 - own_share))
        for entries, pick in ((self._mins, torch.minimum), (self._maxs, torch.maximum)):
            held = self._section(local, entries)
            pick(held, self._section(anchor, entries), out=held)

    def is_sound(self, values: Tensor) -> bool:
        """Return whether a vector of form X is finite, but for ranges of nothing."""
        averaged, ranges = values[: self.num_averaged], values[self.num_averaged :]
        return bool(averaged.isfinite().all()) and bool((ranges < torch.inf).all())

    def gather_ints(self, module: nn.Module) -> dict[str, int]:
        """Return the values of the scalar integer buffers."""
        buffers = _int_buffers(module)
        return {name: int(buffers[name]) for name in self.int_names}

    @torch.no_grad()
    def scatter_ints(self, module: nn.Module, values: Mapping[str, int]) -> None:
        """Set the scalar integer buffers; names that `values` lacks are left alone."""
        for name, buffer in _int_buffers(module).items():
            if name in values:
                buffer.fill_(values[name])

    def _views(self, flat: Tensor) -> Iterator[Tensor]:
        for entry in self.entries:
            yield flat[entry.offset : entry.offset + entry.numel].view(entry.shape)

    def _section(self, flat: Tensor, entries: list[FlatEntry]) -> Tensor:
        """Return the contiguous view that covers `entries`: kinds lie one after the other."""
        if not entries:
            return flat[:0]
        return flat[entries[0].offset : entries[-1].offset + entries[-1].numel]

    def _check(self, flat: Tensor, num_expected: int) -> None:
        if flat.shape != (num_expected,):
            raise CheckpointError(
                f"flat vector has shape {tuple(flat.shape)}, this stage needs ({num_expected},)"
            )


def _state(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield parameters (a shared one once) and persistent floating-point buffers by name."""
    yield from module.named_parameters()
    persistent = module.state_dict(keep_vars=True)
    for name, buffer in module.named_buffers():
        if name in persistent and (buffer.is_floating_point() or buffer.is_complex()):
            yield name, buffer


def _int_buffers(module: nn.Module) -> dict[str, Tensor]:
    """Return persistent scalar integer buffers; larger ones are constants such as index tables."""
    persistent = module.state_dict(keep_vars=True)
    return {
        name: buffer
        for name, buffer in module.named_buffers()
        if name in persistent and buffer.ndim == 0 and not buffer.is_floating_point()
    }


def _statistics(module: nn.Module) -> dict[str, Kind]:
    """Return which buffers are running statistics or ranges, and of what."""
    ranges: dict[str, Kind] = {RANGE_MIN: "min", RANGE_MAX: "max"}
    kinds: dict[str, Kind] = {
        name: ranges[own]
        for name, _ in module.named_buffers()
        if (own := name.rpartition(".")[2]) in ranges
    }
    for prefix, child in module.named_modules():
        if isinstance(child, _NormBase) and child.running_mean is not None:
            dot = f"{prefix}." if prefix else ""
            kinds[f"{dot}running_mean"] = "mean"
            kinds[f"{dot}running_var"] = "var"
    return kinds


def _entries(module: nn.Module) -> Iterator[FlatEntry]:
    order: tuple[Kind, ...] = ("param", "other", "mean", "var", "min", "max")
    statistics = _statistics(module)
    params = {name for name, _ in module.named_parameters()}
    found: list[tuple[int, str, tuple[int, ...]]] = []
    for name, tensor in _state(module):
        if tensor.dtype not in _FLOATS:
            raise ComputeError(f"{name} is {tensor.dtype}; a stage holds float32, bf16 or fp16")
        kind: Kind = "param" if name in params else statistics.get(name, "other")
        found.append((order.index(kind), name, tuple(tensor.shape)))
    offset = 0
    for rank, name, shape in sorted(found):
        entry = FlatEntry(name, shape, offset, order[rank])
        yield entry
        offset += entry.numel
