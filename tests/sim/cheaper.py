"""Pure functions that whole swarms call over and over with the same arguments, remembered.

Every machine of a simulation verifies the same signatures of the same records, reads the same
data set, and says the digest of the same configuration. What these return does not change.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from distqatd.config import run as run_config
from distqatd.config.data import DataConfig
from distqatd.config.sections import Config
from distqatd.daemon import compute_roles, node
from distqatd.data.batches import Dataset, open_dataset
from distqatd.dht import proofs, record
from distqatd.identity import keys

_verify = functools.lru_cache(maxsize=65_536)(keys.verify)
_peer_id_of = functools.lru_cache(maxsize=4096)(keys.peer_id_of)
_datasets: dict[tuple[str, int, int], Dataset] = {}
_digests: dict[int, tuple[Config, str]] = {}


def _open_dataset(config: DataConfig, seed: int, batch_size: int) -> Dataset:
    """Return a data set, read once; it never changes."""
    key = (config.model_dump_json(), seed, batch_size)
    if key not in _datasets:
        _datasets[key] = open_dataset(config, seed, batch_size)
    return _datasets[key]


def _run_digest(config: Config) -> str:
    """Return the digest of a configuration, which nobody changes in place."""
    known = _digests.get(id(config))
    if known is None or known[0] is not config:
        known = _digests[id(config)] = (config, run_config.run_digest(config))
    return known[1]


@contextmanager
def remembered() -> Iterator[None]:
    """Remember what pure functions return while a simulation runs."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (record, proofs):
            if module.verify is keys.verify:  # else a test has replaced it
                patch.setattr(module, "verify", _verify)
        patch.setattr(record, "peer_id_of", _peer_id_of)
        patch.setattr(node, "run_digest", _run_digest)
        patch.setattr(compute_roles, "open_dataset", _open_dataset)
        yield
    _digests.clear()
