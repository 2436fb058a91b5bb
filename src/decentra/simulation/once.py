"""A registry that reads and verifies each signed message once for a whole simulated group.

All peers of a group hold the same charter, so what one of them finds of an entry's bytes every other one would find as
well. Only what verified is kept: a refusal is found anew by each, since it names who delivered it.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from decentra.protocols.catalogue import registry
from decentra.types import PeerId
from decentra.wire.codec import MAX_BODY, Malformed, Signed, pack
from decentra.wire.entry import Checker
from decentra.wire.message import Message, Registry, Verified


class SharedRegistry(Registry):
    """The messages of a protocol, each read once."""

    def __init__(self, protocol: str) -> None:
        own = registry(protocol)
        self.codec, self._classes = own.codec, own._classes
        self._known: dict[tuple[bytes, bytes, int], Verified] = {}
        self._plain = {kind: not any(f.cites for _, f in own.codec.spec(kind).fields) for kind in own.codec.kinds}

    def encode(self, message: Message) -> bytes:
        """The canonical body. The check that a receiver would read it is left to the first receiver."""
        values = tuple(_bare(getattr(message, field.name)) for field in fields(message))
        body = pack(values)
        if len(body) > MAX_BODY:
            raise Malformed(f"a {message.kind} of {len(body)} bytes")
        return body

    def _verify(self, signed: Signed, session: bytes, check: Checker, sender: PeerId | None, depth: int) -> Verified:
        known = self._known.get((signed.entry, signed.body, depth)) or self._known.get((signed.entry, signed.body, 0))
        if known is None:
            known = super()._verify(signed, session, check, sender, depth)
            least = 0 if self._plain[known.message.kind] else depth  # what cites nothing is as sound at any depth
            self._known[signed.entry, signed.body, least] = known
        return known


def _bare(value: Any) -> object:
    if isinstance(value, Verified):
        return (value.signed.entry, value.signed.body)
    if isinstance(value, tuple):
        return tuple([_bare(item) for item in value])
    return value
