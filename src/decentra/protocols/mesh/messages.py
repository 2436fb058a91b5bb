"""The messages of ``specs/mesh``, field by field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from decentra.protocols import slices
from decentra.types import PeerId
from decentra.wire.message import Verified


class Endorse(slices.Endorse):
    kind: ClassVar[str] = "mesh.endorse"


class Endorsed(slices.Endorsed):
    kind: ClassVar[str] = "mesh.endorsed"


@dataclass(frozen=True)
class Update(slices.Given):
    """My update, whole, as the blob beside this: the same to everybody."""

    kind: ClassVar[str] = "mesh.update"
    root: bytes


@dataclass(frozen=True)
class Holding(slices.InContext):
    """Of these peers I have the update whole, each with the hash of the message that it signed for it."""

    kind: ClassVar[str] = "mesh.holding"
    held: tuple[tuple[PeerId, bytes], ...]


@dataclass(frozen=True)
class Relay(slices.InContext):
    """You lack this author's certified update: here is what it signed, and the blob beside this."""

    kind: ClassVar[str] = "mesh.relay"
    author: PeerId
    update: Verified


class Result(slices.Result):
    kind: ClassVar[str] = "mesh.result"


MESSAGES = (Endorse, Endorsed, Update, Holding, Relay, Result)
