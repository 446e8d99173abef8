"""Tensors and gradients in messages."""

from torch import Tensor

from distqatd.base.errors import RemoteProtocolError
from distqatd.compute.payload import from_wire, to_wire
from distqatd.wire.payload import Message, WireTensor


def read_tensors(message: Message) -> tuple[Tensor, ...]:
    """Return a message's tensors in order."""
    return tuple(from_wire(tensor) for tensor in message.tensors)


def wired(tensors: tuple[Tensor, ...]) -> tuple[WireTensor, ...]:
    """Return tensors as they travel, named by their place."""
    return tuple(to_wire(str(i), tensor) for i, tensor in enumerate(tensors))


def pack_gradients(grads: tuple[Tensor | None, ...]) -> Message:
    """Pack gradients; integer inputs have none and leave their place out."""
    named = [(str(i), grad) for i, grad in enumerate(grads) if grad is not None]
    return Message({}, tuple(to_wire(name, grad) for name, grad in named))


def read_gradients(reply: Message, num_outputs: int) -> tuple[Tensor | None, ...]:
    """Return a gradient for each output, None where the reply has none."""
    grads = {tensor.spec.name: from_wire(tensor) for tensor in reply.tensors}
    if any(name not in {str(i) for i in range(num_outputs)} for name in grads):
        raise RemoteProtocolError(f"gradients for {sorted(grads)}, there are {num_outputs} outputs")
    return tuple(grads.get(str(i)) for i in range(num_outputs))
