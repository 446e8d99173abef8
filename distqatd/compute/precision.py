"""The arithmetic of a stage: fp32, or forward and backward in 16 bits around fp32 parameters.

Parameters, their gradients, optimizers, anchors and everything that is averaged, saved or digested
stay float32. In `bf16` and `fp16-mixed` torch's autocast runs matrix products and convolutions in
16 bits, and what would lose too much in float32. Outputs leave a stage in the dtype that its last
operation gave, so that cutting a model into stages changes no bit.
"""

import math
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from distqatd.base.decision import Decision
from distqatd.base.errors import DeviceUnavailable

_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16-mixed": torch.float16}


@dataclass(frozen=True, slots=True)
class Precision:
    """How a device computes.

    Attributes:
        name: fp32, bf16 or fp16-mixed.
        device_type: cpu, cuda or mps.
    """

    name: str = "fp32"
    device_type: str = "cpu"

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context in which a stage runs forward."""
        dtype = _DTYPES[self.name]
        return nullcontext() if dtype is None else torch.autocast(self.device_type, dtype=dtype)


def in_float32(tensors: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """Return outputs as the loss wants them: 16-bit tensors in float32, others as they are."""
    return tuple(t.float() if t.is_floating_point() else t for t in tensors)


SLOW = 4.0
"""16 bits that take so many times as long as float32 are worth a warning."""

_NUM_TRIALS = 3


def check_precision(name: str, device: torch.device) -> Decision[float]:
    """Try the operations that models are made of, forward and backward.

    Returns:
        How many times as long as in float32 they take; CPUs without instructions for a type
        compute in it all the same. The reason says what to do where that is above SLOW.

    Raises:
        DeviceUnavailable: this device, or this build of torch, does not have one in 16 bits.
    """
    precision = Precision(name, device.type)
    if _DTYPES[name] is None:
        return Decision(1.0, "fp32 works on every device")
    try:
        took_s = _try(precision, device)
    except RuntimeError as error:
        raise DeviceUnavailable(
            f"data.precision {name!r} does not work on {device} with torch {torch.__version__}: "
            f"{str(error).splitlines()[0]}; use bf16 or fp32, or another --device"
        ) from error
    times = took_s / _try(Precision("fp32", device.type), device)
    if times < SLOW:
        return Decision(times, f"{name} works on {device}")
    reason = f"{name} takes {times:.0f} times as long as fp32 on {device}; use another precision"
    return Decision(times, reason)


def _try(precision: Precision, device: torch.device) -> float:
    """Return the seconds of the fastest of a few trials."""
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.Flatten(),
        nn.Linear(16 * 64, 16),
        nn.LayerNorm(16),
    ).to(device)
    inputs = torch.zeros((16, 1, 8, 8), device=device)
    best_s = math.inf
    for _ in range(_NUM_TRIALS):
        began = time.perf_counter()
        with precision.autocast():
            outputs: Tensor = model(inputs)
        outputs.float().sum().backward()  # type: ignore[no-untyped-call]
        sum(float(p.grad.sum()) for p in model.parameters() if p.grad is not None)  # waits for it
        best_s = min(best_s, time.perf_counter() - began)
    return best_s
