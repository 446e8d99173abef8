"""Pure functions that whole swarms call over and over with the same arguments, remembered.

Every machine of a simulation verifies the same signatures of the same records; in one process
that is a fifth of the time. What they return does not change, so nothing else does.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager

from distqatd.dht import proofs, record
from distqatd.identity import keys

_verify = functools.lru_cache(maxsize=65_536)(keys.verify)
_peer_id_of = functools.lru_cache(maxsize=4096)(keys.peer_id_of)


@contextmanager
def remembered() -> Iterator[None]:
    """Remember signatures and peer ids; tests that replaced the functions keep theirs."""
    originals = (record.verify, record.peer_id_of, proofs.verify)
    if record.verify is keys.verify:
        record.verify, record.peer_id_of, proofs.verify = _verify, _peer_id_of, _verify  # type: ignore[attr-defined]
    try:
        yield
    finally:
        record.verify, record.peer_id_of, proofs.verify = originals  # type: ignore[attr-defined]
