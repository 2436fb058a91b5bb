"""Strict positional MessagePack, compiled from the specs.

A body is one array with the message's fields in the spec's order: no maps, no floats, every length capped. Decoding
checks the types, encodes again and compares the bytes, since plain MessagePack accepts several encodings of one value
(``specs/wire/README.md``). Whatever is malformed raises ``Malformed`` and costs its sender, never the receiver.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgpack

from decentra.errors import DecentraError
from decentra.spec import FieldType, MessageSpec
from decentra.types import PeerId

MAX_BODY = 1 << 20
"""Bytes in one body: the largest honest one is a proposal at n = 64 that shows 64 holdings of 4.4 KiB each."""

MAX_ENTRY = 512
"""Bytes in one packed entry: its fields are fixed but for the kind, and sum to less."""


class Malformed(DecentraError):
    """Bytes that are not the canonical encoding of any message of the spec; the caller knows whom to blame."""


@dataclass(frozen=True)
class Signed:
    """A packed entry and its body, as they travel and as a certificate cites them."""

    entry: bytes
    body: bytes


def pack(value: object) -> bytes:
    """MessagePack of a value made of ints, bytes, text and tuples."""
    packed: bytes = msgpack.packb(value, use_bin_type=True)
    return packed


def unpack(raw: bytes, limit: int) -> Any:
    """The value that ``raw`` encodes, arrays as tuples; anything but arrays, ints, bytes and text is refused.

    Raises:
        Malformed: too long, not MessagePack, holds a map, float, nil, boolean or extension, or bytes are left over.
    """
    if len(raw) > limit:
        raise Malformed(f"{len(raw)} bytes where {limit} are allowed")
    try:
        value = msgpack.unpackb(
            raw,
            raw=False,
            use_list=False,
            strict_map_key=True,
            max_map_len=0,
            max_ext_len=0,
            max_array_len=min(len(raw), 4096),
            max_bin_len=len(raw),
            max_str_len=4096,
        )
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise Malformed(f"not strict MessagePack ({type(error).__name__})") from error
    return value


def _bytes(value: object, least: int, most: int, what: str) -> bytes:
    if type(value) is not bytes or not least <= len(value) <= most:
        raise Malformed(f"{what}: {least} to {most} bytes are expected")
    return value


def _array(value: object, most: int, what: str) -> tuple[object, ...]:
    if type(value) is not tuple or len(value) > most:
        raise Malformed(f"{what}: an array of at most {most} is expected")
    return value


def _read(field: FieldType, value: object, what: str) -> object:
    """The Python value of one decoded field."""
    match field.name:
        case "uint":
            if type(value) is not int or not 0 <= value <= field.cap:
                raise Malformed(f"{what}: a whole number of at most {field.cap} is expected")
            return value
        case "text":
            if type(value) is not str or len(value.encode("utf-8", "surrogatepass")) > field.cap:
                raise Malformed(f"{what}: a text of at most {field.cap} bytes is expected")
            return value
        case "bytes":
            return _bytes(value, 0, field.cap, what)
        case "peer":
            return PeerId(_bytes(value, 32, 32, what))
        case "entry":
            pair = _array(value, 2, what)
            if len(pair) != 2:
                raise Malformed(f"{what}: an entry and its body are expected")
            return Signed(_bytes(pair[0], 1, MAX_ENTRY, what), _bytes(pair[1], 0, MAX_BODY, what))
        case "list" if field.inner is not None:
            return tuple(_read(field.inner, item, what) for item in _array(value, field.cap, what))
        case "map" if field.inner is not None:
            return _read_map(field, field.inner, value, what)
        case _:
            return _bytes(value, field.cap, field.cap, what)


def _read_map(field: FieldType, inner: FieldType, value: object, what: str) -> tuple[tuple[PeerId, object], ...]:
    pairs: list[tuple[PeerId, object]] = []
    for item in _array(value, field.cap, what):
        pair = _array(item, 2, what)
        if len(pair) != 2:
            raise Malformed(f"{what}: pairs are expected")
        key = PeerId(_bytes(pair[0], 32, 32, what))
        if pairs and key <= pairs[-1][0]:
            raise Malformed(f"{what}: the peers must be in ascending order, each once")
        pairs.append((key, _read(inner, pair[1], what)))
    return tuple(pairs)


def _plain(field: FieldType, value: Any) -> object:
    """What MessagePack is to encode for one field's Python value."""
    match field.name:
        case "entry":
            return (value.entry, value.body)
        case "list" if field.inner is not None:
            return tuple(_plain(field.inner, item) for item in value)
        case "map" if field.inner is not None:
            return tuple((bytes(key), _plain(field.inner, item)) for key, item in value)
        case "uint" | "text":
            return value
        case _:
            return bytes(value)


class Codec:
    """Encodes and decodes the bodies of every message that the given specs name.

    >>> from decentra import spec
    >>> codec = Codec(spec.load("secagg").messages)
    >>> codec.decode("secagg.endorse", codec.encode("secagg.endorse", (bytes(32),))) == (bytes(32),)
    True
    """

    def __init__(self, messages: Mapping[str, MessageSpec]) -> None:
        self._messages = dict(messages)

    @property
    def kinds(self) -> Iterable[str]:
        return self._messages.keys()

    def spec(self, kind: str) -> MessageSpec:
        """The spec of one kind. Raises Malformed where the specs name no such kind."""
        try:
            return self._messages[kind]
        except KeyError:
            raise Malformed(f"the spec names no message {kind[:40]!r}") from None

    def encode(self, kind: str, values: tuple[object, ...]) -> bytes:
        """The canonical body of one message, checked as a receiver would. Raises Malformed where a receiver would."""
        fields = self.spec(kind).fields
        if len(values) != len(fields):
            raise Malformed(f"{kind} has {len(fields)} fields, {len(values)} were given")
        body = pack(tuple(_plain(field, value) for (_, field), value in zip(fields, values, strict=True)))
        self._parse(kind, body)
        return body

    def decode(self, kind: str, body: bytes) -> tuple[object, ...]:
        """The field values of one body, in the spec's order. Raises Malformed."""
        fields, values = self.spec(kind).fields, self._parse(kind, body)
        if pack(tuple(_plain(field, value) for (_, field), value in zip(fields, values, strict=True))) != body:
            raise Malformed(f"{kind}: the encoding is not the canonical one")
        return values

    def _parse(self, kind: str, body: bytes) -> tuple[object, ...]:
        fields = self.spec(kind).fields
        raw = _array(unpack(body, MAX_BODY), len(fields), kind)
        if len(raw) != len(fields):
            raise Malformed(f"{kind} has {len(fields)} fields, {len(raw)} came")
        return tuple(_read(field, value, f"{kind}.{name}") for (name, field), value in zip(fields, raw, strict=True))
