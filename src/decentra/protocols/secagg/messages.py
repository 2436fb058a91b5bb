"""The messages of ``specs/secagg``, field by field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from decentra.types import PeerId
from decentra.wire.message import Message


@dataclass(frozen=True)
class Deal(Message):
    """My mask key, the hashes of my self seed and of every share, and every receiver's shares, sealed to it."""

    kind: ClassVar[str] = "secagg.deal"
    view: int
    mask_public: bytes
    self_hash: bytes
    self_share_hashes: tuple[bytes, ...]
    key_share_hashes: tuple[bytes, ...]
    sealed: tuple[bytes, ...]


@dataclass(frozen=True)
class Context(Message):
    """The deals that this view's context is made of, by hash, in roster order."""

    kind: ClassVar[str] = "secagg.context"
    view: int
    deals: tuple[bytes, ...]


@dataclass(frozen=True)
class Endorse(Message):
    """I opened and checked my share of every deal under this context."""

    kind: ClassVar[str] = "secagg.endorse"
    context: bytes


@dataclass(frozen=True)
class Masked(Message):
    """The roots of my masked vector's slices in roster order; the receiver's own is the blob beside this."""

    kind: ClassVar[str] = "secagg.masked"
    context: bytes
    roots: tuple[bytes, ...]


@dataclass(frozen=True)
class Again(Message):
    """My part of a slice whose owner is silent, for you who take it over, as the blob beside this."""

    kind: ClassVar[str] = "secagg.again"
    context: bytes
    slice: int
    root: bytes


@dataclass(frozen=True)
class Holding(Message):
    """Of this slice I have these peers' parts whole, each under this hash of its list of roots."""

    kind: ClassVar[str] = "secagg.holding"
    context: bytes
    slice: int
    held: tuple[tuple[PeerId, bytes], ...]


@dataclass(frozen=True)
class Unmask(Message):
    """My shares of the survivors' self seeds, and of the mask keys of who dropped, under this certified set."""

    kind: ClassVar[str] = "secagg.unmask"
    context: bytes
    survivors: bytes
    self_shares: tuple[tuple[PeerId, bytes], ...]
    key_shares: tuple[tuple[PeerId, bytes], ...]


@dataclass(frozen=True)
class SliceSum(Message):
    """The sum of a slice of mine, as the blob beside this."""

    kind: ClassVar[str] = "secagg.sum"
    context: bytes
    slice: int
    root: bytes


MESSAGES = (Deal, Context, Endorse, Masked, Again, Holding, Unmask, SliceSum)
