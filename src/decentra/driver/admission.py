"""What a driver lets in from the others: entries that they signed for this peer, each once and never an older one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache

from decentra.errors import RemoteError
from decentra.protocols.rendezvous.messages import Leave
from decentra.transfer.entries import WINDOW_ENTRIES
from decentra.types import PeerId
from decentra.wire.codec import Signed
from decentra.wire.entry import Checker
from decentra.wire.message import Registry, Verified, addressed_to

REMEMBERED = 1024
"""Signatures that a peer remembers to have checked: those of a round of 64, at half a kibibyte each."""


class Admission:
    """Verifies what neighbours deliver, and remembers how far each has come in its chain.

    Args:
        me: whose door it is.
        others: who may knock.
        registry: the messages of the charter's protocol.
        session: what every entry must belong to.
        check: tells whether a member's signature is valid.
        heard: told each entry that a neighbour signed, once; also what is refused as behind others of its author, since
            that is what shows a fork. It raises RemoteError for what is not to be let in.
    """

    def __init__(
        self,
        me: PeerId,
        others: Iterable[PeerId],
        registry: Registry,
        session: bytes,
        check: Checker,
        heard: Callable[[Verified], None],
    ) -> None:
        self._me, self._registry, self._session, self._check, self._heard = me, registry, session, check, heard
        self._latest = dict.fromkeys(others, (-1, -1))
        """Boot and number of the latest entry of each peer."""
        self._recent: dict[PeerId, deque[bytes]] = {peer: deque(maxlen=WINDOW_ENTRIES) for peer in self._latest}
        """The hashes of each peer's latest entries, as many as it may have in flight without knowing that they came."""
        self._again: dict[PeerId, set[bytes]] = {peer: set() for peer in self._latest}
        """Those that a peer may send once more, since this one began their link anew."""

    def admit(self, peer: PeerId, parts: tuple[bytes, ...]) -> tuple[Verified, bool]:
        """An entry of the peer's own, for this one, and whether it is new: later than all that the peer signed before.

        Raises:
            RemoteError: whatever is not, but for what this peer made the other repeat by beginning their link anew.
        """
        if len(parts) != 2:
            raise RemoteError(peer, "SCHEMA", f"it sent a message of {len(parts)} parts; an entry and its body are two")
        verified = self._registry.verify(Signed(*parts), self._session, self._check, peer)
        entry = verified.entry
        if entry.author != peer or not addressed_to(entry, self._me):
            raise RemoteError(peer, "ROLE", f"it delivered a {entry.kind} that is not its own or not for this peer")
        if entry.round == 0 and not isinstance(verified.message, Leave):
            raise RemoteError(peer, "SCHEMA", f"it signed a {entry.kind} for no round")
        place = (entry.boot, entry.seq)
        if place > self._latest[peer]:
            self._latest[peer] = place
            self._recent[peer].append(entry.hash)
            self._heard(verified)
            return verified, True
        if entry.hash not in self._again[peer]:
            if entry.hash not in self._recent[peer]:
                self._heard(verified)
            raise RemoteError(peer, "REPLAY", "it is behind what it signed before: a clone, or a restored disk")
        self._again[peer].remove(entry.hash)
        return verified, False

    def begin_anew(self, peer: PeerId) -> None:
        """The link to a peer begins anew from this side: what the peer does not know to have come, it sends again."""
        self._again[peer] = set(self._recent[peer])


def memberships(publics: Mapping[PeerId, bytes], verify: Callable[[bytes, bytes, bytes], bool]) -> Checker:
    """A checker of signatures for a charter's members: their Ed25519 keys, and how to verify under one.

    It remembers its last answers, since a vote comes by itself and again in the certificates of all who hold it.
    """

    @lru_cache(maxsize=REMEMBERED)
    def check(author: PeerId, signature: bytes, message: bytes) -> bool:
        public = publics.get(author)
        return public is not None and verify(public, signature, message)

    return check
