"""The messages of ``specs/allreduce``, field by field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from decentra.types import PeerId
from decentra.wire.message import Message


@dataclass(frozen=True)
class Endorse(Message):
    """I take part under this context."""

    kind: ClassVar[str] = "allreduce.endorse"
    context: bytes


@dataclass(frozen=True)
class Slices(Message):
    """The roots of my vector's slices in roster order; the receiver's own is the blob beside this."""

    kind: ClassVar[str] = "allreduce.slices"
    context: bytes
    roots: tuple[bytes, ...]


@dataclass(frozen=True)
class Again(Message):
    """My part of a slice whose owner is silent, for you who take it over, as the blob beside this."""

    kind: ClassVar[str] = "allreduce.again"
    context: bytes
    slice: int
    root: bytes


@dataclass(frozen=True)
class Holding(Message):
    """Of this slice I have these peers' parts whole, each under this hash of its list of roots."""

    kind: ClassVar[str] = "allreduce.holding"
    context: bytes
    slice: int
    held: tuple[tuple[PeerId, bytes], ...]


@dataclass(frozen=True)
class SliceSum(Message):
    """The sum of a slice of mine, as the blob beside this."""

    kind: ClassVar[str] = "allreduce.sum"
    context: bytes
    slice: int
    root: bytes


MESSAGES = (Endorse, Slices, Again, Holding, SliceSum)
