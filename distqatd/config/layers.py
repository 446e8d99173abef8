"""One source of values each: a preset or file, the environment, `--set` and flags."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from distqatd.base.errors import ConfigError
from distqatd.config.text import parse_file, parse_for
from distqatd.config.tree import find_leaf

ENV_PREFIX = "DISTQAT_"
ENV_ALIASES: Mapping[str, str] = {"DISTQAT_JOIN": "network.join", "INITIAL_PEERS": "network.join"}
"""Variables that are not named after a field; the second is the original documents'."""

OTHER_ENV = frozenset({"DISTQAT_SOCKET", "DISTQAT_STATE_DIR"})
"""`DISTQAT_*` variables of the programs that are not configuration fields."""


@dataclass(frozen=True, slots=True)
class Layer:
    """Values of one source as a nested mapping, and where each dotted path was written."""

    name: str
    values: Mapping[str, Any]
    origins: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Override:
    """One value given by hand, and how: `--set diloco.inner_steps=3`, `--port`."""

    path: str
    value: Any
    origin: str


def presets() -> dict[str, str]:
    """Return the text of the configurations that come with DistQat, by name."""
    folder = resources.files("distqatd.config").joinpath("presets")
    if not folder.is_dir():
        return {}
    found = sorted(folder.iterdir(), key=lambda entry: entry.name)
    return {
        entry.name.removesuffix(".yaml"): entry.read_text("utf-8")
        for entry in found
        if entry.name.endswith(".yaml")
    }


def is_preset(name: str) -> bool:
    """Return whether `name` has the form of a preset's name: no folder and no suffix."""
    return "/" not in name and "." not in name


def source_layer(name: str) -> Layer:
    """Read a preset by its name, or a YAML file by its path.

    Raises:
        ConfigError: there is no such preset or file, or it is not readable YAML.
    """
    if is_preset(name):
        known = presets()
        if name in known:
            return Layer(name, *parse_file(known[name], f"preset {name}"))
        if not Path(name).is_file():
            raise ConfigError(_no_preset(name, known))
    return Layer(name, *parse_file(_read(Path(name).expanduser()), name))


def _no_preset(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), 1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"--config {name}: no such preset or file; {hint}presets are {', '.join(known)}"


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a text file in UTF-8") from error


def env_layer(env: Mapping[str, str]) -> Layer:
    """Take the values that the environment gives: `DISTQAT_DILOCO__INNER_STEPS=200`.

    Two underscores go one section down. `DISTQAT_JOIN` and `INITIAL_PEERS` name initial peers.
    """
    overrides = []
    for name in sorted(env):
        path = ENV_ALIASES.get(name, "")
        if not path and name.startswith(ENV_PREFIX) and name not in OTHER_ENV:
            path = name.removeprefix(ENV_PREFIX).lower().replace("__", ".")
        if path and env[name]:
            overrides.append(Override(path, parse_for(find_leaf(path), env[name]), f"${name}"))
    return override_layer("environment", overrides)


def set_override(text: str) -> Override:
    """Read the argument of `--set`: `diloco.inner_steps=200`.

    Raises:
        ConfigError: there is no `=`, or the value is not YAML.
    """
    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        raise ConfigError(f"--set {text}: expected KEY=VALUE, for example diloco.inner_steps=200")
    path = path.strip()
    return Override(path, parse_for(find_leaf(path), value), f"--set {path}")


def override_layer(name: str, overrides: Iterable[Override]) -> Layer:
    """Nest dotted overrides into one layer; a later one wins.

    Raises:
        ConfigError: one override is inside a value that another one gives.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for override in overrides:
        *parents, last = override.path.split(".")
        inner = values
        for parent in parents:
            inner = inner.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"{override.origin}: {parent} is already given as a value")
        inner[last] = override.value
        origins[override.path] = override.origin
    return Layer(name, values, origins)
