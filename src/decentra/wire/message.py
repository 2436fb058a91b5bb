"""Messages as machines see them: frozen, typed, constructed valid, and verified before anyone acts on them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from decentra.errors import LocalError, RemoteError
from decentra.spec import FieldType, MessageSpec
from decentra.types import PeerId
from decentra.wire.codec import Codec, Malformed, Signed
from decentra.wire.entry import EVERYONE, Checker, Entry, Parsed

MAX_DEPTH = 3
"""Entries cite entries: a proposal shows holdings, a roster shows statements. Nothing honest nests deeper."""


@dataclass(frozen=True)
class Message:
    """The base of every message: a frozen dataclass whose fields are the spec's, in the spec's order."""

    kind: ClassVar[str]


@dataclass(frozen=True)
class Verified:
    """A message that the member ``sender`` signed in this session; ``signed`` are its bytes, to be cited to others."""

    entry: Entry
    message: Message
    signed: Signed
    sender: PeerId = field(init=False, repr=False, compare=False)
    body_hash: bytes = field(init=False, repr=False, compare=False)
    """The hash of the body: what a context lists for a deal, and a holding for a list of slices."""

    def __post_init__(self) -> None:
        # Fields of its own rather than the entry's, since machines look at them again and again.
        object.__setattr__(self, "sender", self.entry.author)
        object.__setattr__(self, "body_hash", self.entry.body)


class Registry:
    """The messages of a protocol: one class a kind, encoded and decoded as the specs say.

    Raises:
        LocalError: a class's fields are not those of its spec, or a kind has no class; a defect of this library.
    """

    def __init__(self, messages: Mapping[str, MessageSpec], classes: Iterable[type[Message]]) -> None:
        self.codec = Codec(messages)
        self._classes = {cls.kind: cls for cls in classes}
        if set(self._classes) != set(messages):
            raise LocalError(f"messages without a class, or the reverse: {sorted(set(self._classes) ^ set(messages))}")
        for kind, cls in self._classes.items():
            named, specified = [f.name for f in fields(cls)], [name for name, _ in messages[kind].fields]
            if named != specified:
                raise LocalError(f"{cls.__name__} has the fields {named}, the spec of {kind} says {specified}")

    def encode(self, message: Message) -> bytes:
        """The canonical body of a message; entries that it cites travel as they were signed."""
        values = tuple(_unwrap(getattr(message, each.name)) for each in fields(message))
        return self.codec.encode(message.kind, values)

    def verify(self, signed: Signed, session: bytes, check: Checker, sender: PeerId | None = None) -> Verified:
        """Turn bytes into a verified message, with everything that it cites.

        Args:
            signed: the packed entry and its body.
            session: the session that the entry must belong to.
            check: tells whether a member's signature is valid.
            sender: who delivered it, for blame where no author can be told.

        Raises:
            RemoteError: under SCHEMA for what cannot be read, SESSION, or SIGNATURE; blames the deliverer, since an
                invalid signature accuses no one else.
        """
        return self._verify(signed, session, check, sender, MAX_DEPTH)

    def _verify(self, signed: Signed, session: bytes, check: Checker, sender: PeerId | None, depth: int) -> Verified:
        if depth == 0:
            raise RemoteError(sender, "SCHEMA", f"entries nest deeper than {MAX_DEPTH}")
        try:
            parsed = Parsed.read(signed)
            entry = parsed.entry
            values = self.codec.decode(entry.kind, parsed.body)
        except Malformed as error:
            raise RemoteError(sender, "SCHEMA", str(error)) from error
        if entry.session != session:
            raise RemoteError(
                sender,
                "SESSION",
                f"the entry is of another session, by its own word of epoch {entry.epoch}; compare charters",
            )
        if not check(entry.author, entry.signature, entry.signed_bytes):
            raise RemoteError(sender, "SIGNATURE", f"no valid signature of member {entry.author} is on a {entry.kind}")
        if not self.codec.cites(entry.kind):
            made: Any = self._classes[entry.kind](*values)
            return Verified(entry, made, signed)

        def settle(field: FieldType, value: object) -> object:
            if isinstance(value, Signed):
                return self._verify(value, session, check, sender, depth - 1)
            if field.inner is not None and field.cites and isinstance(value, tuple):
                if field.name == "map":
                    return tuple((key, settle(field.inner, item)) for key, item in value)
                return tuple(settle(field.inner, item) for item in value)
            return value

        specified = (field for _, field in self.codec.spec(entry.kind).fields)
        message: Any = self._classes[entry.kind](*map(settle, specified, values))
        return Verified(entry, message, signed)


def _unwrap(value: object) -> object:
    if isinstance(value, Verified):
        return value.signed
    if isinstance(value, tuple):
        return tuple(_unwrap(item) for item in value)
    return value


def addressed_to(entry: Entry, peer: PeerId) -> bool:
    """Whether a peer may act on an entry: it names that peer or everyone."""
    return entry.receiver in (EVERYONE, bytes(peer))
