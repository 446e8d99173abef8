"""Reading fields out of a message body that a peer wrote."""

from collections.abc import Mapping
from typing import Any, TypeVar

from distqatd.base.errors import RemoteProtocolError

T = TypeVar("T")


def need(body: Mapping[str, Any], name: str, kind: type[T]) -> T:
    """Return the field of that name and type; an int is taken where a float is expected.

    Raises:
        RemoteProtocolError: it is missing or of another type.
    """
    value = body.get(name)
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        shown = str(value)[:40]
        raise RemoteProtocolError(f"field {name!r} is {shown!r}, expected {kind.__name__}")
    return value
