"""Strict positional MessagePack, compiled from the specs.

A body is one array with the message's fields in the spec's order: no maps, no floats, every length capped. Plain
MessagePack accepts several encodings of one value; ``wire.reader`` takes the shortest only, and only what the field
has room for (``specs/wire/README.md``). Whatever is malformed raises ``Malformed`` and costs its sender, never the
receiver.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgpack

from decentra.spec import FieldType, MessageSpec
from decentra.types import PeerId
from decentra.wire.frame import ENTRY_LIMIT
from decentra.wire.reader import Malformed, Reader

MAX_ENTRY = 512
"""Bytes in one packed entry: its fields are fixed but for the kind, the numbers and the receiver, and sum to less."""

MIN_ENTRY = 245
"""Bytes in the shortest entry, with an empty kind: no list of entries can announce more than its bytes can hold."""

MAX_BODY = ENTRY_LIMIT - MAX_ENTRY
"""Bytes in one body, so that it fits one frame beside its entry. The largest honest one is a roster at m = 64 that
leaves out 21 and cites 22 statements for each: half of this. A proposal that shows 64 holdings has 0.3 MiB."""

MAX_DEPTH = 8
"""Arrays within arrays in a value without a schema."""

__all__ = ["MAX_BODY", "MAX_ENTRY", "Codec", "Malformed", "Signed", "pack", "read_signed", "unpack"]


@dataclass(frozen=True, slots=True)
class Signed:
    """A packed entry and its body, as they travel and as a certificate cites them."""

    entry: bytes
    body: bytes


def pack(value: object) -> bytes:
    """MessagePack of a value made of ints, bytes, text and tuples."""
    packed: bytes = msgpack.packb(value, use_bin_type=True)
    return packed


def unpack(raw: bytes, limit: int) -> Any:
    """The value that ``raw`` encodes, arrays as tuples, where no spec says what it must be.

    For small values: what it builds is larger than its bytes by the cost of a Python object each.

    Raises:
        Malformed: too long, nested deeper than 8, not canonical, left-over bytes, or anything but arrays, natural
            numbers, bytes and text.
    """
    reader = Reader(raw, limit)
    value = _any(reader, limit, MAX_DEPTH)
    reader.end("the value")
    return value


def _any(reader: Reader, limit: int, depth: int) -> object:
    match reader.comes():
        case "natural":
            return reader.natural((1 << 64) - 1, "a number")
        case "bytes":
            return reader.binary(0, limit, "bytes")
        case "text":
            return reader.text(limit, "a text")
        case _:
            count = reader.array(limit, "an array")
            if depth == 0:
                raise Malformed(f"arrays nest deeper than {MAX_DEPTH}")
            return tuple(_any(reader, limit, depth - 1) for _ in range(count))


_peer = lru_cache(maxsize=1024)(PeerId)
"""One object a peer, however often its id is read: maps of shares name everybody in every message."""

Read = Callable[[Reader], object]


def _reads(field: FieldType, what: str) -> Read:
    """What reads the Python value of one field."""
    cap = field.cap
    match field.name:
        case "uint":
            return lambda reader: reader.natural(cap, what)
        case "text":
            return lambda reader: reader.text(cap, what)
        case "bytes":
            return lambda reader: reader.binary(0, cap, what)
        case "peer":
            return lambda reader: _peer(reader.binary(32, 32, what))
        case "entry":
            return lambda reader: read_signed(reader, what)
        case "list" if field.inner is not None:
            item = _reads(field.inner, what)
            return lambda reader: tuple([item(reader) for _ in range(reader.array(cap, what))])
        case "map" if field.inner is not None:
            value = _reads(field.inner, what)
            return lambda reader: _read_map(cap, value, reader, what)
        case _:
            return lambda reader: reader.binary(cap, cap, what)


def _read_map(cap: int, value: Read, reader: Reader, what: str) -> tuple[tuple[PeerId, object], ...]:
    pairs: list[tuple[PeerId, object]] = []
    for _ in range(reader.array(cap, what)):
        _pair(reader, what)
        key = _peer(reader.binary(32, 32, what))
        if pairs and key <= pairs[-1][0]:
            raise Malformed(f"{what}: the peers must be in ascending order, each once")
        pairs.append((key, value(reader)))
    return tuple(pairs)


def read_signed(reader: Reader, what: str) -> Signed:
    """A packed entry beside its body, as certificates and transcripts hold them. Raises Malformed."""
    _pair(reader, what)
    return Signed(reader.binary(MIN_ENTRY, MAX_ENTRY, what), reader.binary(0, MAX_BODY, what))


def _pair(reader: Reader, what: str) -> None:
    if reader.array(2, what) != 2:
        raise Malformed(f"{what}: an array of 2 is expected")


def _plain(field: FieldType, value: object) -> object:
    """What MessagePack is to encode for one field's Python value; a value of another type is a defect of the caller."""
    match field.name, value:
        case "entry", Signed():
            return (value.entry, value.body)
        case "list", tuple() if field.inner is not None:
            inner = field.inner
            return tuple(_plain(inner, item) for item in value)
        case "map", tuple() if field.inner is not None:
            return tuple(_plain_pair(field.inner, pair) for pair in value)
        case "uint", int() if not isinstance(value, bool):
            return value
        case "text", str():
            return value
        case "bytes" | "hash" | "peer" | "key" | "share" | "statement", bytes():
            return value
        case _:
            raise Malformed(f"a {field.name} can't hold a {type(value).__name__}")


def _plain_pair(inner: FieldType, pair: object) -> object:
    match pair:
        case (bytes(key), value):
            return (key, _plain(inner, value))
        case _:
            raise Malformed("a map holds pairs of a peer and a value")


class Codec:
    """Encodes and decodes the bodies of every message that the given specs name.

    >>> from decentra import spec
    >>> codec = Codec(spec.load("secagg").messages)
    >>> codec.decode("secagg.endorse", codec.encode("secagg.endorse", (bytes(32),))) == (bytes(32),)
    True
    """

    def __init__(self, messages: Mapping[str, MessageSpec]) -> None:
        self._messages = dict(messages)
        self._reads = {
            kind: tuple(_reads(field, f"{kind}.{name}") for name, field in spec.fields)
            for kind, spec in messages.items()
        }
        self._names = {kind: tuple(name for name, _ in spec.fields) for kind, spec in messages.items()}
        self._citing = {kind for kind, spec in messages.items() if any(field.cites for _, field in spec.fields)}

    @property
    def kinds(self) -> Iterable[str]:
        return self._messages.keys()

    def spec(self, kind: str) -> MessageSpec:
        """The spec of one kind. Raises Malformed where the specs name no such kind."""
        try:
            return self._messages[kind]
        except KeyError:
            raise Malformed(f"the spec names no message {kind[:40]!r}") from None

    def cites(self, kind: str) -> bool:
        """Whether messages of a kind hold entries of others."""
        return kind in self._citing

    def fields(self, kind: str, body: bytes) -> dict[str, Any]:
        """The values of one body by the names of its fields. Raises Malformed."""
        return dict(zip(self._names.get(kind, ()), self.decode(kind, body), strict=True))

    def encode(self, kind: str, values: tuple[object, ...]) -> bytes:
        """The canonical body of one message, checked as a receiver would. Raises Malformed where a receiver would."""
        fields = self.spec(kind).fields
        if len(values) != len(fields):
            raise Malformed(f"{kind} has {len(fields)} fields, {len(values)} were given")
        plain = tuple(_plain(field, value) for (_, field), value in zip(fields, values, strict=True))
        try:
            body = pack(plain)
        except (OverflowError, ValueError) as error:
            raise Malformed(f"{kind}: a number or a text has no encoding ({error})") from error
        self.decode(kind, body)
        return body

    def decode(self, kind: str, body: bytes) -> tuple[object, ...]:
        """The field values of one body, in the spec's order. Raises Malformed."""
        self.spec(kind)
        fields, reader = self._reads[kind], Reader(body, MAX_BODY)
        count = reader.array(len(fields), kind)
        if count != len(fields):
            raise Malformed(f"{kind} has {len(fields)} fields, {count} came")
        values = tuple([read(reader) for read in fields])
        reader.end(kind)
        return values
