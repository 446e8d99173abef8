"""Randomness as a seam: everything that draws takes a `random.Random`."""

import hashlib
import random

Rng = random.Random
"""What components ask for: the system source in production, a seeded one in simulation."""


def system_rng() -> Rng:
    """Return a generator backed by the operating system, fit for nonces and tokens."""
    return random.SystemRandom()


def seeded_rng(*parts: object) -> Rng:
    """Return a generator that depends only on `parts`, the same on every machine and version."""
    return random.Random(stable_seed(*parts))


def stable_seed(*parts: object) -> int:
    """Hash `parts` to a 63-bit seed by sha256, so that it never depends on PYTHONHASHSEED."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
