"""The messages that rounds have in common, those that reduce vectors slice by slice, and the result that all evaluate;
a protocol gives each its own kind."""

from __future__ import annotations

from dataclasses import dataclass

from decentra.types import PeerId
from decentra.wire.message import Message, Verified


@dataclass(frozen=True)
class InContext(Message):
    """A message that counts under one context only."""

    context: bytes


@dataclass(frozen=True)
class Endorse(InContext):
    """I take part under this context."""


@dataclass(frozen=True)
class Endorsed(InContext):
    """Everybody in the roster endorsed this context: here is each endorsement, for you to whom one did not come."""

    endorsements: tuple[Verified, ...]


@dataclass(frozen=True)
class Given(InContext):
    """My update leaves with this."""


@dataclass(frozen=True)
class Slices(Given):
    """The roots of my vector's slices in roster order; the receiver's own is the blob beside this."""

    roots: tuple[bytes, ...]


@dataclass(frozen=True)
class OfSlice(InContext):
    """A message about one slice, by its place in the roster; a peer has one of a kind for each."""

    slice: int


@dataclass(frozen=True)
class Again(OfSlice):
    """My part of a slice whose owner is silent, for you who take it over, as the blob beside this."""

    root: bytes


@dataclass(frozen=True)
class Holding(OfSlice):
    """Of this slice I have these peers' parts whole, each under this hash of its list of roots."""

    held: tuple[tuple[PeerId, bytes], ...]


@dataclass(frozen=True)
class SliceSum(OfSlice):
    """The sum of a slice of mine, as the blob beside this."""

    root: bytes


@dataclass(frozen=True)
class Result(InContext):
    """Under the certificate of the survivors with this hash the rule gives a result of this weight and root."""

    survivors: bytes
    weight: int
    root: bytes
