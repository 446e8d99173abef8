"""Buffers that a forward changes (BatchNorm statistics), saved, restored and swapped as one."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Saved = tuple[Tensor, ...]


class BufferState:
    """The persistent buffers of a module, in one fixed order.

    Holds the tensors themselves (looking them up costs as much as copying them), so the module
    may not be moved to another device afterwards.
    """

    def __init__(self, module: nn.Module) -> None:
        persistent = module.state_dict(keep_vars=True)
        self._slots = [
            (child, name)
            for prefix, child in module.named_modules()
            for name, _ in child.named_buffers(recurse=False)
            if _joined(prefix, name) in persistent
        ]
        self._tensors = tuple(getattr(child, name) for child, name in self._slots)

    def save(self) -> Saved:
        """Return copies of all buffers."""
        return tuple(tensor.clone() for tensor in self._tensors)

    @torch.no_grad()
    def restore(self, saved: Saved) -> None:
        """Write saved values back in place. No graph that used the buffers may be alive."""
        for tensor, value in zip(self._tensors, saved, strict=True):
            tensor.copy_(value)

    @contextmanager
    def swapped(self, saved: Saved) -> Iterator[None]:
        """Put copies of `saved` in place of the buffers for a while; the buffers stay untouched.

        Swapped, not restored in place: graphs of other microbatches hold the buffers, and
        autograd refuses to go backward through a tensor that was written to.
        """
        self._set(tuple(value.clone() for value in saved))
        try:
            yield
        finally:
            self._set(self._tensors)

    def _set(self, tensors: Saved) -> None:
        for (child, name), tensor in zip(self._slots, tensors, strict=True):
            setattr(child, name, tensor)


def _joined(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name
