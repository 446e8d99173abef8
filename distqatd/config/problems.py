"""What is wrong with a configuration, for people: where, which key, what it expects."""

import difflib
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from distqatd.base.errors import ConfigError
from distqatd.config.tree import expected, find_leaf, leaves, model_at

_ELSEWHERE: Mapping[str, str] = {
    "initial_peers": "it is called network.join here",
    "announce_maddrs": "it is called network.announce here",
    "host_maddrs": "it is called network.host and network.port here",
    "num_servers": "it is called compute.num_experts here",
    "refresh_period": "it is called telemetry.metrics_every here",
    "store_ip_addresses_path": "initial peers are written to logs/EXPERIMENT_PREFIX; remove it",
    "wandb_entity": "W&B reads it from the environment variable WANDB_ENTITY; remove it",
    "wandb_run_id": "every daemon finds the run through the swarm; remove it",
}
"""Keys of the original documents that mean something else, or nothing, here."""


def config_error(error: ValidationError, origins: Mapping[str, str]) -> ConfigError:
    """Turn pydantic's error into ours: one line per problem, each naming source and key.

    What pydantic says about a container is dropped when it also complains about its inside.
    """
    details = error.errors(include_url=False)
    inner = {detail["loc"][:depth] for detail in details for depth in range(len(detail["loc"]))}
    found = [_line(detail, origins) for detail in details if detail["loc"] not in inner]
    lines = list(dict.fromkeys(found))
    if len(lines) == 1:
        return ConfigError(lines[0])
    head = f"{len(lines)} problems in the configuration"
    return ConfigError("\n  ".join([head, *lines]))


def _line(detail: ErrorDetails, origins: Mapping[str, str]) -> str:
    location = detail["loc"]
    path = ".".join(str(part) for part in location)
    where = origin_of(path, origins)
    if detail["type"] == "extra_forbidden":
        return f"{where}: unknown key {path}{_advice(location)}"
    if detail["type"] == "missing":
        return f"{where}: {path} is missing"
    return f"{where}: {path}: {_complaint(path, detail)}"


def origin_of(path: str, origins: Mapping[str, str]) -> str:
    """Return where `path`, or the nearest thing around or inside it, was written."""
    around = path
    while around:
        if around in origins:
            return origins[around]
        around = around.rpartition(".")[0]
    inside = [origin for key, origin in origins.items() if key.startswith(f"{path}.")]
    return inside[0] if inside else "defaults"


def _complaint(path: str, detail: ErrorDetails) -> str:
    if detail["type"] == "value_error" and isinstance(detail["input"], Mapping):
        return detail["msg"].removeprefix("Value error, ")  # keys that do not go together
    given = f"{_shown(detail['input'])} is given"
    leaf = find_leaf(path)
    if leaf is not None:
        return f"expected {expected(leaf)}; {given}"
    model = model_at(detail["loc"])
    if model is not None and detail["type"] in {"model_type", "value_error"}:
        return f"expected a section with the keys {', '.join(model.model_fields)}; {given}"
    return f"{detail['msg'].removeprefix('Value error, ')}; {given}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _advice(location: tuple[int | str, ...]) -> str:
    """Say what to write instead of an unknown key; also finds keys in the wrong section."""
    key = str(location[-1])
    if key in _ELSEWHERE:
        return f": {_ELSEWHERE[key]}"
    model = model_at(location[:-1])
    siblings = [] if model is None else list(model.model_fields)
    near = difflib.get_close_matches(key, siblings, 1)
    if near:
        return f"; did you mean {near[0]}?"
    moved = [leaf.path for leaf in leaves() if leaf.path.rpartition(".")[2] == key]
    if moved:
        return f"; did you mean {' or '.join(moved)}?"
    return f"; known here: {', '.join(siblings)}"
