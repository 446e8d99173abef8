"""Data sets by name, and what a name that is none of them means: a path here, or one of the Hub."""

from collections.abc import Callable

from distqatd.base.errors import ConfigError
from distqatd.config.sections import DataConfig
from distqatd.data.cartpole import open_cartpole
from distqatd.data.digits import open_digits
from distqatd.data.hub import is_hub_name
from distqatd.data.karate import open_karate
from distqatd.data.local import find_path
from distqatd.data.order import Split, held_out, whole
from distqatd.data.source import Source
from distqatd.data.spoken import open_spoken
from distqatd.data.tables import open_rows
from distqatd.data.text import open_python_sources

SOURCES: dict[str, Callable[[DataConfig], Source]] = {
    "cartpole": open_cartpole,
    "digits": open_digits,
    "karate": open_karate,
    "python_sources": open_python_sources,
    "spoken": open_spoken,
}
"""Data sets that need no file and no network, by name."""


def open_splits(config: DataConfig) -> tuple[Split, Split]:
    """Open what `config` names, as training and validation splits.

    Raises:
        ConfigError: no such data set or file, or it does not fit the section.
    """
    training = _open(config)
    limit = config.max_validation_samples
    if config.validation_split is None:
        kept, trained = held_out(
            training,
            config.dataset_name,
            config.validation_fraction,
            limit,
            in_order=config.streaming,
        )
        return trained, kept
    if config.dataset_name in SOURCES:
        raise ConfigError(
            f"data.validation_split {config.validation_split!r}: {config.dataset_name} has no "
            "splits; leave it out and set data.validation_fraction"
        )
    other = config.model_copy(update={"dataset_split": config.validation_split})
    return whole(training), whole(_open(other), limit)


def _open(config: DataConfig) -> Source:
    name = config.dataset_name
    if name in SOURCES:
        if config.streaming:
            raise ConfigError(f"data.streaming: {name} is no stream; leave it out")
        return SOURCES[name](config)
    if find_path(name) is None and not is_hub_name(name):
        raise ConfigError(
            f"data.dataset_name {name!r} is neither one of {', '.join(sorted(SOURCES))} nor a "
            "file or folder on this machine nor the name of a Hugging Face data set"
        )
    return open_rows(config)
