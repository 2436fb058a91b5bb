"""The messages of ``specs/shamir-gram``, field by field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from decentra.protocols import slices
from decentra.types import PeerId


class Endorse(slices.Endorse):
    kind: ClassVar[str] = "shamir-gram.endorse"


class Endorsed(slices.Endorsed):
    kind: ClassVar[str] = "shamir-gram.endorsed"


@dataclass(frozen=True)
class Deal(slices.Given):
    """My update, shared: the root of each receiver's blob in roster order, the receiver's own beside this; and my part
    of the beacon, by the hashes of it and of its shares, and these sealed to their receivers."""

    kind: ClassVar[str] = "shamir-gram.deal"
    roots: tuple[bytes, ...]
    beacon_hash: bytes
    beacon_share_hashes: tuple[bytes, ...]
    sealed: tuple[bytes, ...]


@dataclass(frozen=True)
class Holding(slices.InContext):
    """Of these peers I have what they dealt me whole and well formed, each with the hash of its deal."""

    kind: ClassVar[str] = "shamir-gram.holding"
    held: tuple[tuple[PeerId, bytes], ...]


@dataclass(frozen=True)
class Certified(slices.InContext):
    """A message that follows from what a vote of this context settled, whose hash this is."""

    certificate: bytes


@dataclass(frozen=True)
class Beacon(Certified):
    """My shares of the survivors' parts of the beacon, now that these are certified."""

    kind: ClassVar[str] = "shamir-gram.beacon"
    shares: tuple[tuple[PeerId, bytes], ...]


@dataclass(frozen=True)
class Check(Certified):
    """The combinations by the beacon of what each survivor dealt me, in roster order: 8 bytes each of its vector's
    share, and of its sharing of zero."""

    kind: ClassVar[str] = "shamir-gram.check"
    degrees: bytes
    zeros: bytes


@dataclass(frozen=True)
class Shown(Certified):
    """What this dealer dealt that receiver, as the blob beside this: one of the two lied, and I show which."""

    kind: ClassVar[str] = "shamir-gram.shown"
    dealer: PeerId
    receiver: PeerId
    root: bytes


@dataclass(frozen=True)
class Gram(Certified):
    """My share of every inner product of the vectors that stand, hidden by the sharings of zero that do: 8 bytes
    each."""

    kind: ClassVar[str] = "shamir-gram.gram"
    word: bytes


@dataclass(frozen=True)
class Part(Certified):
    """My share of the weighted sum: the roots of its slices in their owners' order, the receiver's own beside this."""

    kind: ClassVar[str] = "shamir-gram.part"
    roots: tuple[bytes, ...]


@dataclass(frozen=True)
class Slice(Certified):
    """The weighted sum's slice that is mine, opened, as the blob beside this."""

    kind: ClassVar[str] = "shamir-gram.slice"
    root: bytes


@dataclass(frozen=True)
class Told(Certified):
    """The combinations of my own share of the sum, a slice each, by coefficients that follow from all slices' roots,
    which ``key`` is the hash of."""

    kind: ClassVar[str] = "shamir-gram.told"
    key: bytes
    values: bytes


MESSAGES = (Endorse, Endorsed, Deal, Holding, Beacon, Check, Shown, Gram, Part, Slice, Told)
