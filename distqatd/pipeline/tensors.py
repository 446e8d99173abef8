"""Tensors in messages, as they are: data, labels, and what an evaluation passes on."""

from torch import Tensor

from distqatd.compute.payload import from_wire, to_wire
from distqatd.wire.payload import Message, WireTensor


def read_tensors(message: Message) -> tuple[Tensor, ...]:
    """Return a message's tensors in order."""
    return tuple(from_wire(tensor) for tensor in message.tensors)


def wired(tensors: tuple[Tensor, ...]) -> tuple[WireTensor, ...]:
    """Return tensors as they travel, named by their place."""
    return tuple(to_wire(str(i), tensor) for i, tensor in enumerate(tensors))
