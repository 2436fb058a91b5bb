"""What a holding of mesh names (ME-3): of its author and others the updates that it has whole."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from decentra.protocols.agreed import Named
from decentra.protocols.mesh.messages import Holding
from decentra.types import PeerId
from decentra.wire.message import Verified


def read_holding(verified: Verified, context: bytes) -> Named | None:
    """What a holding under this context names; None where the entry is no such holding: who holds has its own."""
    message = verified.message
    if not isinstance(message, Holding) or message.context != context:
        return None
    held = dict(message.held)
    return held if verified.sender in held else None


def holdings(shown: Iterable[Verified], roster: Collection[PeerId], context: bytes) -> dict[PeerId, Named]:
    """Of each author in the roster the first holding that it shows."""
    held: dict[PeerId, Named] = {}
    for verified in shown:
        read = read_holding(verified, context)
        if read is not None and verified.sender in roster:
            held.setdefault(verified.sender, read)
    return held
