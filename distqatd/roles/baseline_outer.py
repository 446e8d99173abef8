"""The outer steps of the baseline: one replica, in plain torch."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from distqatd.config.schedules import OuterRule
from distqatd.config.sections import OuterOptimConfig, StageConfig
from distqatd.models.registry import check_pipeline
from distqatd.models.units import Stage
from distqatd.optim.fragments import cut

Parts = dict[str, tuple[slice, ...]]
"""Where each fragment lies in a parameter, flattened, by the parameter's name."""


def parts_of(model: Stage, pipeline: Sequence[StageConfig], num_fragments: int) -> Parts:
    """Return the fragments of an unsplit model: those of each of its stages."""
    params = dict(model.named_parameters())
    parts: Parts = {}
    for resolved in check_pipeline(pipeline):
        prefixes = tuple(f"units.{unit.name}." for unit in resolved.units)
        names = sorted(name for name in params if name.startswith(prefixes))
        sizes = [params[name].numel() for name in names]
        spans, first = cut(sizes, num_fragments), 0
        for name, size in zip(names, sizes, strict=True):
            parts[name] = tuple(
                slice(max(start - first, 0), min(max(stop - first, 0), size))
                for start, stop in spans
            )
            first += size
    return parts


class Outer:
    """DiLoCo's outer step for one replica: Nesterov SGD, or Adam, over a copy of the parameters.

    Written out, because `torch.optim` fuses multiply and add, which rounds differently on
    different machines; the swarm does not, and this must give its bits.
    """

    def __init__(
        self, model: nn.Module, config: OuterOptimConfig, parts: Parts | None = None
    ) -> None:
        """Copy the parameters; without `parts` there are no fragments."""
        self._config = config
        self._params = dict(model.named_parameters())
        self._parts = parts or {}
        self._anchor = {n: p.detach().reshape(-1).clone() for n, p in self._params.items()}
        self._first = {name: torch.zeros_like(anchor) for name, anchor in self._anchor.items()}
        self._second = {name: torch.zeros_like(anchor) for name, anchor in self._anchor.items()}

    @torch.no_grad()
    def step(self, rule: OuterRule, fragment: int | None, count: int) -> None:
        """Take the outer step of a fragment, None: of all; `adopt` has the model take it over.

        Args:
            rule: how sgd takes it.
            fragment: which.
            count: which step of the fragment this is, from 1.
        """
        for name, part in self._ranges(fragment):
            anchor = self._anchor[name]
            gradient = anchor[part] - self._params[name].reshape(-1)[part]
            if rule.is_warm_start:
                update = gradient * rule.lr
            elif self._config.type == "adam":
                update = self._adam(name, part, gradient, count)
            else:
                update = self._sgd(name, part, gradient, rule)
            anchor[part] -= update

    @torch.no_grad()
    def adopt(self, fragment: int | None, own_share: float) -> None:
        """Mix a fragment of the anchor into the model; `own_share` 0 makes it that."""
        for name, part in self._ranges(fragment):
            local = self._params[name].reshape(-1).clone()
            anchor = self._anchor[name][part]
            mixed = local[part] * own_share + anchor * (1 - own_share)
            local[part] = mixed if own_share else anchor
            self._params[name].copy_(local.view_as(self._params[name]))

    def _ranges(self, fragment: int | None) -> Iterator[tuple[str, slice]]:
        for name in self._params:
            yield name, slice(None) if fragment is None else self._parts[name][fragment]

    def _sgd(self, name: str, part: slice, gradient: Tensor, rule: OuterRule) -> Tensor:
        momentum = self._first[name][part].mul_(rule.momentum).add_(gradient)
        nesterov = self._config.sgd_nesterov
        return (gradient + momentum * rule.momentum if nesterov else momentum) * rule.lr

    def _adam(self, name: str, part: slice, gradient: Tensor, count: int) -> Tensor:
        one, two = self._config.adam_betas
        first = self._first[name][part].mul_(one).add_(gradient * (1 - one))
        second = self._second[name][part].mul_(two).add_(gradient * gradient * (1 - two))
        root = (second / (1 - two**count)).sqrt() + self._config.adam_eps
        return first / (1 - one**count) * self._config.adam_lr / root
