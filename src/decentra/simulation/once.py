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
        self._names = {kind: tuple(field.name for field in fields(cls)) for kind, cls in self._classes.items()}
        self._known: dict[tuple[bytes, bytes, int], Verified] = {}
        self._plain = {kind: not any(f.cites for _, f in own.codec.spec(kind).fields) for kind in own.codec.kinds}

    def encode(self, message: Message) -> bytes:
        """The canonical body. The check that a receiver would read it is left to the first receiver."""
        body = pack(tuple([_bare(getattr(message, name)) for name in self._names[message.kind]]))
        if len(body) > MAX_BODY:
            raise Malformed(f"a {message.kind} of {len(body)} bytes")
        return body

    def _verify(self, signed: Signed, session: bytes, check: Checker, sender: PeerId | None, depth: int) -> Verified:
        known = self._known.get((signed.entry, signed.body, 0)) or self._known.get((signed.entry, signed.body, depth))
        if known is None:
            known = super()._verify(signed, session, check, sender, depth)
            least = 0 if self._plain[known.message.kind] else depth  # what cites nothing is as sound at any depth
            self._known[signed.entry, signed.body, least] = known
        return known


def _bare(value: Any) -> object:
    if type(value) is Verified:
        return (value.signed.entry, value.signed.body)
    if type(value) is tuple:
        return tuple([_bare(item) for item in value])
    return value
