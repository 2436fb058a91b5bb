"""The one encoding of a charter that is hashed: sorted lines of path, type and value (``specs/charter/README.md``)."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Any

from decentra.charter.toml import Section, shown


def encode(terms: Mapping[str, Any]) -> bytes:
    """The canonical text of values under their paths, as UTF-8."""
    return "".join(f"{line}\n" for line in sorted(f"{path} {_leaf(value)}" for path, value in terms.items())).encode()


def leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The values under ``path``, each with its own path; an absent one has none. Free text in a path is hexadecimal."""
    match value:
        case None:
            return
        case Section():
            for name in type(value).model_fields:
                yield from leaves(f"{path}.{name}", getattr(value, name))
        case tuple():
            for index, item in enumerate(value):
                yield from leaves(f"{path}.{index}", item)
        case Mapping():
            for key, item in value.items():
                yield from leaves(f"{path}.{key.encode().hex()}", item)
        case _:
            yield path, value


def _leaf(value: Any) -> str:
    """A value with its type's letter; a number as IEEE 754 binary64 in hexadecimal, so that no formatter has a say."""
    match value:
        case bool():
            return f"t {'yes' if value else 'no'}"
        case int():
            return f"i {value}"
        case float():
            return f"f {struct.pack('>d', value + 0.0).hex()}"  # + 0.0 makes −0 a 0
        case bytes():
            return f"b {value.hex()}"
        case _:
            return f"s {value.encode().hex()}"


def told(value: Any) -> str:
    """A value for people, cut to a line."""
    match value:
        case None:
            return "absent"
        case bytes():
            return f"{value.hex()[:8]}…"
        case _:
            return shown(value)


def readable(path: str) -> str:
    """A path for people: ids and name patterns as they know them."""
    table, _, rest = path.partition(".")
    if table == "members":
        who, _, field = rest.partition(".")
        return f"member {who[:8]}'s {field}"
    if path.startswith("protocol.ranges."):
        pattern = bytes.fromhex(path.removeprefix("protocol.ranges.")).decode()
        return f"protocol.ranges.{pattern!r}"
    return path
