"""What all peers of a run must share: its canonical bytes, their digest, and differences."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from distqatd.base.errors import ConfigError
from distqatd.config.problems import config_error
from distqatd.config.sections import RUN_WIDE, Config

MAX_RUN_BYTES = 64 << 10
"""Bytes of a run's configuration at most; a larger one is refused before it is parsed."""

_FROM_SWARM = "the run's configuration from the swarm"


def dump_run(config: Config) -> bytes:
    """Return the run-wide part as canonical JSON: sorted keys, no spaces, UTF-8.

    Raises:
        ConfigError: a stage option is NaN or infinite, or the result is over MAX_RUN_BYTES.
    """
    values = config.model_dump(mode="json", include=set(RUN_WIDE))
    try:
        text = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except ValueError as error:
        raise ConfigError(f"model_pipeline.pipeline: a stage option is unusable: {error}") from None
    if len(text) > MAX_RUN_BYTES:
        raise ConfigError(f"the run's configuration has {len(text)} bytes, above {MAX_RUN_BYTES}")
    return text.encode()


def run_digest(config: Config) -> str:
    """Return the SHA-256 of the run-wide part in hex; equal means: fit for the same run."""
    return hashlib.sha256(dump_run(config)).hexdigest()


def resume_digest(config: Config) -> str:
    """Return a digest of what a run shares with the checkpoints that it may continue.

    That is all of the run-wide part but how long it goes on: a run that is over may be resumed
    with more outer steps.
    """
    diloco = config.diloco.model_copy(update={"outer_steps": 1})
    return run_digest(config.model_copy(update={"diloco": diloco}))


def load_run(config: Config, data: bytes) -> Config:
    """Return `config` with its run-wide part replaced by what `dump_run` of a peer gave.

    Raises:
        ConfigError: too large, not JSON, or not exactly a valid run-wide part.
    """
    values = _parse(data)
    if set(values) != set(RUN_WIDE):
        wrong = sorted(set(values) ^ set(RUN_WIDE))
        raise ConfigError(
            f"{_FROM_SWARM}: {', '.join(wrong)} missing or unknown; do both sides run the same "
            "version of distqatd?"
        )
    merged = {**config.model_dump(exclude=set(RUN_WIDE)), **values}
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        raise config_error(error, dict.fromkeys(RUN_WIDE, _FROM_SWARM)) from error


def _parse(data: bytes) -> dict[str, Any]:
    if len(data) > MAX_RUN_BYTES:
        raise ConfigError(f"{_FROM_SWARM}: {len(data)} bytes, above {MAX_RUN_BYTES}")
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{_FROM_SWARM}: not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{_FROM_SWARM}: not a JSON object")
    return values


def run_differences(ours: Config, theirs: Config) -> tuple[str, ...]:
    """Name each run-wide value that differs: `diloco.inner_steps: 50 here, 200 there`."""
    mine, other = (
        dict(_flat(config.model_dump(mode="json", include=set(RUN_WIDE))))
        for config in (ours, theirs)
    )
    return tuple(
        f"{path}: {mine.get(path, 'nothing')} here, {other.get(path, 'nothing')} there"
        for path in sorted(mine.keys() | other.keys())
        if mine.get(path) != other.get(path)
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            yield from _flat({str(i): item for i, item in enumerate(value)}, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
