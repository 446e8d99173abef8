"""Walking the sections: every field by its dotted path, and what it expects in words."""

import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from distqatd.config.section import Section
from distqatd.config.sections import Config

_WORDS: Mapping[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
    dict[str, Any]: "a mapping",
}
_BOUNDS = (
    ("ge", "from {}"),
    ("gt", "above {}"),
    ("le", "up to {}"),
    ("lt", "below {}"),
    ("pattern", "matching `{}`"),
)


@dataclass(frozen=True, slots=True)
class Leaf:
    """One field that holds a value, not a section; `path` is dotted: `diloco.inner_steps`."""

    path: str
    info: FieldInfo

    @property
    def annotation(self) -> Any:
        """Return the type without `None` and without what `Annotated` adds."""
        return plain_type(self.info.annotation)

    @property
    def optional(self) -> bool:
        """Return whether null is a value of this field."""
        return type(None) in get_args(self.info.annotation)

    @property
    def is_text(self) -> bool:
        """Return whether the value is text as typed: strings, paths and named choices."""
        return self.annotation in (str, Path) or get_origin(self.annotation) is Literal

    @property
    def is_text_list(self) -> bool:
        """Return whether the value is a list of text."""
        return bool(self.annotation == tuple[str, ...])

    @property
    def default(self) -> Any:
        """Return the default as the models hold it."""
        return self.info.get_default(call_default_factory=True)


def plain_type(annotation: Any) -> Any:
    """Strip `Annotated[...]` and `| None` from a type."""
    if get_origin(annotation) is Annotated:
        return plain_type(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        rest = [kind for kind in get_args(annotation) if kind is not type(None)]
        return plain_type(rest[0]) if len(rest) == 1 else annotation
    return annotation


def section_type(model: type[BaseModel], key: str) -> type[Section] | None:
    """Return the section that field `key` of `model` is, None if it holds a value."""
    info = model.model_fields.get(key)
    kind = None if info is None else info.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


def leaves(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[Leaf]:
    """Yield every field of `model` and its sections that holds a value, in order."""
    for name, info in model.model_fields.items():
        section = section_type(model, name)
        if section is None:
            yield Leaf(f"{prefix}{name}", info)
        else:
            yield from leaves(section, f"{prefix}{name}.")


def find_leaf(path: str) -> Leaf | None:
    """Return the field at a dotted path, None when there is none or it is a section."""
    return next((leaf for leaf in leaves() if leaf.path == path), None)


def model_at(location: tuple[int | str, ...]) -> type[BaseModel] | None:
    """Return the model that holds the keys at `location`; numbers index a list of models."""
    model: type[BaseModel] = Config
    for part in location:
        if isinstance(part, int):
            continue
        info = model.model_fields.get(part)
        inner = None if info is None else _inner_model(info.annotation)
        if inner is None:
            return None
        model = inner
    return model


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    annotation = plain_type(annotation)
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def expected(leaf: Leaf) -> str:
    """Say in words what a field takes, for errors and for the reference: `a number above 0`."""
    bounds = [
        text.format(getattr(item, name))
        for name, text in _BOUNDS
        for item in leaf.info.metadata
        if getattr(item, name, None) is not None
    ]
    words = " ".join([_words(leaf.annotation), *bounds])
    return f"{words}, or null" if leaf.optional else words


def _words(annotation: Any) -> str:
    annotation = plain_type(annotation)
    if get_origin(annotation) is Literal:
        return "one of " + ", ".join(str(choice) for choice in get_args(annotation))
    if get_origin(annotation) is tuple:
        kinds = get_args(annotation)
        many = "a list of" if kinds[-1] is Ellipsis else f"{len(kinds)} values, each"
        return f"{many} {_words(kinds[0])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "sections, each with " + ", ".join(annotation.model_fields)
    return _WORDS.get(annotation, str(annotation))
