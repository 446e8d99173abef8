"""What travels between two stages: activations there and gradients back, in the link's codec.

The codec of a link is the run's choice (`quant.wire`), so a receiver knows what must come and
refuses anything else. Integer tensors, the data itself and labels always travel as they are.

Message: tensors are named by their place. `forms` has, for each encoded place, the dtype that was
encoded, an exponent and the shape: values are decoded * 2^exponent.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from distqatd.base.errors import NonFinite, RemoteProtocolError
from distqatd.compute.payload import from_wire, to_wire
from distqatd.config.quant import QuantConfig
from distqatd.optim.codecs import Codec, codec
from distqatd.wire.fields import need
from distqatd.wire.limits import MAX_NDIM, MAX_TENSORS
from distqatd.wire.payload import Message

_FLOATS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_NAMES = {dtype: name for name, dtype in _FLOATS.items()}
_MAX_EXPONENT = 100
_FP16_EXPONENT = 14
"""fp16 values are scaled to peaks from 2^14 on: gradients are far below what it can hold."""


@dataclass(frozen=True, slots=True)
class Form:
    """What an encoded tensor was: its dtype and shape; decoded values are times 2^exponent."""

    dtype: str
    exponent: int
    shape: tuple[int, ...]

    def body(self) -> list[Any]:
        """Return the form as it travels."""
        return [self.dtype, self.exponent, *self.shape]

    @classmethod
    def read(cls, value: object) -> Self:
        """Check and return a form.

        Raises:
            RemoteProtocolError: it is none.
        """
        if not isinstance(value, list) or not 2 <= len(value) <= 2 + MAX_NDIM:
            raise RemoteProtocolError(f"the form of a tensor is {str(value)[:40]!r}")
        dtype, exponent, *shape = value
        is_sound = (
            isinstance(dtype, str)
            and dtype in _FLOATS
            and all(type(number) is int for number in value[1:])
            and abs(exponent) <= _MAX_EXPONENT
            and all(size >= 0 for size in shape)
        )
        if not is_sound:
            raise RemoteProtocolError(f"the form of a tensor is {str(value)[:40]!r}")
        return cls(dtype, exponent, tuple(shape))


@dataclass(frozen=True, slots=True)
class Parcels:
    """Tensors as they travel, by place; the gradient of an integer input leaves its place out."""

    tensors: Mapping[int, Tensor]
    forms: Mapping[int, Form]

    @classmethod
    def read(cls, message: Message) -> Self:
        """Check names and forms of a message's tensors and return them; nothing is decoded.

        Raises:
            RemoteProtocolError: a name is no place, or taken; or a form is of no tensor.
        """
        tensors = {_place(tensor.spec.name): from_wire(tensor) for tensor in message.tensors}
        if len(tensors) != len(message.tensors):
            raise RemoteProtocolError("two tensors of a message have one place")
        given = need(message.body, "forms", dict) if "forms" in message.body else {}
        forms = {_place(name): Form.read(value) for name, value in given.items()}
        if not forms.keys() <= tensors.keys():
            raise RemoteProtocolError(f"forms of {sorted(forms)}, tensors are {sorted(tensors)}")
        return cls(tensors, forms)

    def message(self, body: dict[str, Any], more: Sequence[Tensor] = ()) -> Message:
        """Return these, and `more` tensors behind them as they are, as a message."""
        named = [*self.tensors.items(), *enumerate(more, start=len(self.tensors))]
        tensors = tuple(to_wire(str(place), tensor) for place, tensor in named)
        if self.forms:
            body = body | {"forms": {str(i): form.body() for i, form in self.forms.items()}}
        return Message(body, tensors)

    def cut(self, num_tensors: int) -> "tuple[Parcels, tuple[Tensor, ...]]":
        """Return the first `num_tensors` places, and the tensors behind them, which have no form.

        Raises:
            RemoteProtocolError: a place is missing, or there are too few of them.
        """
        places = sorted(self.tensors)
        if places != list(range(len(places))) or not 0 <= num_tensors <= len(places):
            raise RemoteProtocolError(f"{num_tensors} tensors wanted, places are {places[:8]}")
        if any(place >= num_tensors for place in self.forms):
            raise RemoteProtocolError("a label came encoded")
        front = {place: self.tensors[place] for place in places[:num_tensors]}
        return Parcels(front, self.forms), tuple(self.tensors[i] for i in places[num_tensors:])


NOTHING = Parcels({}, {})
"""The gradients of a step that is vetoed."""


class Link:
    """One link of a route and its codec; on any device, to be used on the device's thread."""

    def __init__(self, way: Codec | None = None) -> None:
        """Take the codec of floating-point tensors; None leaves them as they are."""
        self._codec = way

    @torch.no_grad()
    def pack(self, tensors: Sequence[Tensor | None]) -> Parcels:
        """Encode tensors, detached.

        Raises:
            NonFinite: one has NaN or infinite values, which a codec would hide.
        """
        present = {i: tensor.detach() for i, tensor in enumerate(tensors) if tensor is not None}
        if self._codec is None:
            return Parcels(present, {})
        forms = {i: self._form(t) for i, t in present.items() if t.is_floating_point()}
        encoded = {
            i: _encode(self._codec, tensor, forms[i]) if i in forms else tensor
            for i, tensor in present.items()
        }
        return Parcels(encoded, forms)

    @torch.no_grad()
    def unpack(self, parcels: Parcels, num_tensors: int) -> tuple[Tensor | None, ...]:
        """Decode what came; None at a place that was left out.

        Raises:
            RemoteProtocolError: it is not what this link carries.
        """
        if any(place >= num_tensors for place in parcels.tensors):
            raise RemoteProtocolError(f"tensors {sorted(parcels.tensors)}, not {num_tensors}")
        found = {place: self._decode(parcels, place) for place in parcels.tensors}
        return tuple(found.get(place) for place in range(num_tensors))

    def unpack_all(self, parcels: Parcels) -> tuple[Tensor, ...]:
        """Decode what came without a gap, see `Parcels.cut`.

        Raises:
            RemoteProtocolError: it is not what this link carries.
        """
        return tuple(self._decode(parcels, place) for place in range(len(parcels.tensors)))

    def _form(self, tensor: Tensor) -> Form:
        peak = float(tensor.abs().amax()) if tensor.numel() else 0.0
        if not math.isfinite(peak):
            raise NonFinite("activations or gradients have NaN or infinite values; abort the step")
        exponent = 0
        if self._codec is not None and self._codec.name == "fp16" and peak:
            # frexp: peak = m * 2^e with m in [0.5, 1). A power of two changes no digit.
            wanted = math.frexp(peak)[1] - 1 - _FP16_EXPONENT
            exponent = max(-_MAX_EXPONENT, min(_MAX_EXPONENT, wanted))
        dtype = _NAMES.get(tensor.dtype)
        if dtype is None:
            raise RemoteProtocolError(f"{tensor.dtype} cannot be encoded")
        return Form(dtype, exponent, tuple(tensor.shape))

    def _decode(self, parcels: Parcels, place: int) -> Tensor:
        tensor, form = parcels.tensors[place], parcels.forms.get(place)
        must_have = self._codec is not None and tensor.is_floating_point()
        if (form is None and must_have) or (form is not None and self._codec is None):
            raise RemoteProtocolError(f"tensor {place} is not in the codec of this link")
        if form is None or self._codec is None:
            return tensor
        # Exactly as many bytes as the shape needs, so a decoding is 8 times larger at most.
        flat = self._codec.decode(tensor, math.prod(form.shape))
        scaled = flat if not form.exponent else flat * 2.0**form.exponent
        return scaled.view(form.shape).to(_FLOATS[form.dtype])


def _encode(way: Codec, tensor: Tensor, form: Form) -> Tensor:
    flat = tensor.reshape(-1).float()
    return way.encode(flat if not form.exponent else flat * 2.0**-form.exponent)


def _place(name: object) -> int:
    if not isinstance(name, str) or not name.isdecimal() or len(name) > 4:
        raise RemoteProtocolError(f"a tensor is called {str(name)[:40]!r}, not by its place")
    if int(name) >= MAX_TENSORS or name != str(int(name)):
        raise RemoteProtocolError(f"a tensor is called {name!r}, not by its place")
    return int(name)


class Links:
    """The links of a pipeline: `behind(i)` is the one from stage i to the next, or the trainer."""

    def __init__(self, links: Sequence[Link] = ()) -> None:
        """Take the link behind each stage; where there is none, tensors travel as they are."""
        self._links = tuple(links)

    def behind(self, position: int) -> Link:
        """Return the link behind a stage; -1 is the trainer, whose data is never encoded."""
        return self._links[position] if 0 <= position < len(self._links) else Link()


def make_links(quant: QuantConfig, stages: Sequence[str]) -> Links:
    """Return the links of a pipeline as the run's configuration wants them.

    Args:
        quant: of the run.
        stages: names of the stages, in order.
    """
    names = [quant.wire_behind(stage) for stage in stages]
    ways = [None if name == "fp32" else codec(name, _block_size(quant, name)) for name in names]
    return Links([Link(way) for way in ways])


DEFAULT_BLOCK_SIZE = {"int8": 256, "int4": 64}
"""Smaller than for pseudo-gradients: activations have outliers."""


def _block_size(quant: QuantConfig, name: str) -> int | None:
    return quant.wire_block_size or DEFAULT_BLOCK_SIZE.get(name)
