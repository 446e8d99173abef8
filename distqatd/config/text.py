"""Values from text: YAML with line numbers, and single values from a shell."""

import re
from collections.abc import Iterator
from typing import Any

import yaml

from distqatd.base.errors import ConfigError
from distqatd.config.tree import Leaf

_FLOAT = re.compile(r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)[eE][-+]?[0-9]+$")
_NULLS = frozenset({"", "null", "none", "~"})
_MAX_FILE_BYTES = 1 << 20


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, but `4e-4` is a number (YAML 1.2), not text (YAML 1.1)."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def parse_scalar(text: str) -> Any:
    """Read one YAML value from a shell: `3`, `4e-4`, `true`, `[a, b]`, `{x: 1}`, text.

    Raises:
        ConfigError: the text is not YAML.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506  a subclass of SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{text!r} is not a YAML value; quote text with special signs") from error


def parse_for(leaf: Leaf | None, text: str) -> Any:
    """Read a value for one field: text stays as typed, lists of text may be comma lists."""
    if leaf is not None and leaf.optional and text.lower() in _NULLS:
        return None
    if leaf is not None and leaf.is_text:
        return text
    is_list = text.startswith("[") and text.endswith("]")  # and not an address, [::1]:29700
    if leaf is not None and leaf.is_text_list and not is_list:
        return [part.strip() for part in text.split(",") if part.strip()]
    return parse_scalar(text)


def parse_file(text: str, name: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Read a YAML file; return its values and, for every dotted path in it, `name:line`.

    Raises:
        ConfigError: not YAML, a key twice, a key that is no text, or not a mapping.
    """
    if len(text) > _MAX_FILE_BYTES:
        raise ConfigError(f"{name}: larger than {_MAX_FILE_BYTES} bytes; is this a config file?")
    try:
        return _load(text, name)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{name}:{line}: not valid YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{name}: not valid YAML: {error}") from error


def _load(text: str, name: str) -> tuple[dict[str, Any], dict[str, str]]:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return {}, {}
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(f"{name}: expected `key: value` lines at the top level")
        origins = {path: f"{name}:{line}" for path, line in _lines(node, "", name)}
        return dict(loader.construct_document(node)), origins
    finally:
        loader.dispose()


def _lines(node: yaml.Node, prefix: str, name: str) -> Iterator[tuple[str, int]]:
    """Yield each dotted path below `node` with its line, from 1."""
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield f"{prefix}{index}", item.start_mark.line + 1
            yield from _lines(item, f"{prefix}{index}.", name)
    if not isinstance(node, yaml.MappingNode):
        return
    seen: set[str] = set()
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise ConfigError(f"{name}:{line}: a key must be text")
        if key.value in seen:
            raise ConfigError(f"{name}:{line}: {prefix}{key.value} is given twice; keep one")
        seen.add(key.value)
        yield f"{prefix}{key.value}", line
        yield from _lines(value, f"{prefix}{key.value}.", name)
