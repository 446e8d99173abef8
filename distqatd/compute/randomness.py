"""Dropout that depends on the request: the same seed draws the same numbers on any replica."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from distqatd.base.rng import stable_seed

T = TypeVar("T")


class SeededForward:
    """Runs forwards with torch's generators seeded, and left as they were found.

    The first run finds out whether the stage draws at all; if it does not, later runs are plain
    calls, because saving and restoring a generator costs more than a small layer.
    """

    def __init__(self, device: torch.device, *parts: object) -> None:
        """Seed with `parts` (run seed, stage name) besides what each request brings."""
        self._device = device
        self._parts = parts
        self._draws: bool | None = None

    def __call__(self, run: Callable[[], T], rng_seed: int) -> T:
        """Return `run()`, seeded."""
        if self._draws is False:
            return run()
        with self._seeded(stable_seed(*self._parts, rng_seed)):
            before = self._states()
            result = run()
            after = self._states()
        if self._draws is None:
            self._draws = not all(map(torch.equal, before, after))
        return result

    @contextmanager
    def _seeded(self, seed: int) -> Iterator[None]:
        devices = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            # Not torch.manual_seed: it seeds, and would not restore, every other device too.
            torch.default_generator.manual_seed(seed)
            if devices:
                torch.cuda.manual_seed(seed)
            yield

    def _states(self) -> list[torch.Tensor]:
        states = [torch.get_rng_state()]
        if self._device.type == "cuda":
            states.append(torch.cuda.get_rng_state(self._device))
        return states
