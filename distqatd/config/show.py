"""A configuration for people and programs: YAML that loads again, JSON, and a JSON schema."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from pydantic import BaseModel

from distqatd.config.load import Loaded
from distqatd.config.problems import origin_of
from distqatd.config.run import run_digest
from distqatd.config.sections import RUN_WIDE, Config
from distqatd.config.tree import leaves, section_type

HIDDEN = "dq1:(hidden)"
"""What is shown of an invite: it may hold the swarm's secret."""

DEFAULT_ORIGIN = "default"


def shown_values(config: Config) -> dict[str, Any]:
    """Return all values as JSON types, without secrets."""
    values: dict[str, Any] = config.model_dump(mode="json")
    join = [HIDDEN if "dq1:" in text else text for text in config.network.join]
    values["network"]["join"] = join
    return values


def value_origins(loaded: Loaded) -> dict[str, str]:
    """Return for every field where its value came from; `default` if no source gave it."""
    found = {leaf.path: origin_of(leaf.path, loaded.origins) for leaf in leaves()}
    return {k: DEFAULT_ORIGIN if v == "defaults" else v for k, v in found.items()}


def as_yaml(loaded: Loaded, *, origins: bool = False) -> str:
    """Return the configuration as a YAML file; with `origins`, a comment says where from."""
    where = value_origins(loaded) if origins else {}
    return "".join(_yaml_lines(Config, shown_values(loaded.config), "", where))


def _yaml_lines(
    model: type[BaseModel], values: Mapping[str, Any], path: str, where: Mapping[str, str]
) -> Iterator[str]:
    indent = "  " * path.count(".")
    for key, value in values.items():
        section = section_type(model, key)
        if section is not None:
            yield f"{indent}{key}:\n"
            yield from _yaml_lines(section, value, f"{path}{key}.", where)
            continue
        origin = where.get(f"{path}{key}")
        yield f"{indent}{key}: {_flow(value)}{f'  # {origin}' if origin else ''}\n"


def _flow(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=1 << 20, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def as_json(loaded: Loaded) -> dict[str, Any]:
    """Return the configuration, the origin of every value and the run's digest for programs."""
    return {
        "schema": "distqat.config/v1",
        "values": shown_values(loaded.config),
        "origins": value_origins(loaded),
        "run_wide": list(RUN_WIDE),
        "run_digest": run_digest(loaded.config),
    }


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a configuration file, for editors."""
    schema = Config.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def to_text(value: Mapping[str, Any]) -> str:
    """Return a JSON object as indented text."""
    return json.dumps(value, indent=2)
