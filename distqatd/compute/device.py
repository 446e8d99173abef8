"""Which device an expert computes on."""

import torch

from distqatd.base.decision import Decision
from distqatd.base.errors import DeviceUnavailable


def pick_device(name: str) -> Decision[torch.device]:
    """Return the device called `name`: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.

    Raises:
        DeviceUnavailable: this machine has no such device; the message says what it has.
    """
    available = available_devices()
    if name == "auto":
        best = available[0]
        return Decision(
            torch.device(best), f"auto: {best} is the fastest of {', '.join(available)}"
        )
    if name == "cuda" and "cuda:0" in available:
        return Decision(torch.device("cuda:0"), "the first CUDA device, as asked for")
    if name not in available:
        raise DeviceUnavailable(
            f"device {name!r} is not on this machine, which has {', '.join(available)}; "
            f"use --device auto or one of these"
        )
    return Decision(torch.device(name), "as asked for")


def available_devices() -> tuple[str, ...]:
    """Return what this machine and this build of torch can compute on, fastest first."""
    cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    mps = ("mps",) if torch.backends.mps.is_available() else ()
    return (*(f"cuda:{index}" for index in range(cuda)), *mps, "cpu")
