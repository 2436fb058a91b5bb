"""The messages of ``specs/secagg``, field by field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from decentra.protocols import slices
from decentra.types import PeerId
from decentra.wire.message import Message


@dataclass(frozen=True)
class Deal(Message):
    """My mask key, the hashes of my other secrets and of every share, and each receiver's shares, sealed to it."""

    kind: ClassVar[str] = "secagg.deal"
    view: int
    mask_public: bytes
    self_hash: bytes
    beacon_hash: bytes
    self_share_hashes: tuple[bytes, ...]
    key_share_hashes: tuple[bytes, ...]
    beacon_share_hashes: tuple[bytes, ...]
    sealed: tuple[bytes, ...]


@dataclass(frozen=True)
class Context(Message):
    """The deals that this view's context is made of, by hash, in roster order."""

    kind: ClassVar[str] = "secagg.context"
    view: int
    deals: tuple[bytes, ...]


class Endorse(slices.Endorse):
    """I opened and checked my share of every deal under this context."""

    kind = "secagg.endorse"


class Endorsed(slices.Endorsed):
    """Everybody in the roster endorsed this context: here is each endorsement, for you to whom one did not come."""

    kind = "secagg.endorsed"


class Masked(slices.Slices):
    """The roots of my masked vector's slices in roster order; the receiver's own is the blob beside this."""

    kind = "secagg.masked"


class Again(slices.Again):
    """My part of a slice whose owner is silent, for you who take it over, as the blob beside this."""

    kind = "secagg.again"


class Holding(slices.Holding):
    """Of this slice I have these peers' parts whole, each under this hash of its list of roots."""

    kind = "secagg.holding"


@dataclass(frozen=True)
class Unmask(Message):
    """My shares of the survivors' self seeds, and of the mask keys of who dropped, under this certified set."""

    kind: ClassVar[str] = "secagg.unmask"
    context: bytes
    survivors: bytes
    self_shares: tuple[tuple[PeerId, bytes], ...]
    key_shares: tuple[tuple[PeerId, bytes], ...]


class SliceSum(slices.SliceSum):
    """The sum of a slice of mine, as the blob beside this."""

    kind = "secagg.sum"


@dataclass(frozen=True)
class Beacon(Message):
    """My shares of the survivors' parts of the beacon, now that this outcome is certified."""

    kind: ClassVar[str] = "secagg.beacon"
    context: bytes
    outcome: bytes
    shares: tuple[tuple[PeerId, bytes], ...]

    @property
    def certificate(self) -> bytes:
        """What has to be certified before it is sent."""
        return self.outcome


@dataclass(frozen=True)
class Part(slices.OfSlice):
    """My part of a slice whose sum you recompute, as the blob beside this."""

    kind: ClassVar[str] = "secagg.part"
    root: bytes


@dataclass(frozen=True)
class Checked(slices.OfSlice):
    """I recomputed this slice, and its sum hashes to this; to zero where these peers' parts are lacking."""

    kind: ClassVar[str] = "secagg.checked"
    root: bytes
    lacking: tuple[PeerId, ...]


MESSAGES = (Deal, Context, Endorse, Endorsed, Masked, Again, Holding, Unmask, SliceSum, Beacon, Part, Checked)
