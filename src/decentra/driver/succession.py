"""How a group's later charters travel: each peer says which it holds last, and who lacks one is handed the next.

One word serves both sides. Who hears of a later charter than its own answers with its own, and who hears of an earlier
one hands over what came after it; so a peer that was away for three epochs is led through all three by any one
neighbour. A charter is checked by its owner (`Charters`), link by link, whoever hands it over.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from decentra.driver.fittings import Neighbour
from decentra.errors import RemoteError
from decentra.gossip.allowance import Allowance
from decentra.gossip.halves import Halves, of_epochs
from decentra.transfer import Handed, Holds
from decentra.transport.virtual import Handle, Scheduler
from decentra.types import EpochName, PeerId
from decentra.wire.frame import ADDRESSES_LIMIT, CHARTER_LIMIT

ANSWERS_A_SECOND, ANSWERS_AT_ONCE = 1.0, 8.0
"""Charters that a neighbour is handed, or may hand over: one is 40 KiB for 64 members, and checked in milliseconds."""

NEXT = 1.0
"""Seconds before another neighbour is asked for a charter, where the first gave none."""

AGAIN = 5.0
"""Seconds after which a peer says again what it certified, where others still differ from it."""


class Successor(NamedTuple):
    """A charter in force after another one, as it travels, and where this peer knows its members to be."""

    text: bytes
    addresses: bytes
    epoch: int


class Charters(Protocol):
    """The charters that a peer keeps."""

    @property
    def lineage(self) -> Sequence[bytes]:
        """The hashes of those that it holds, the oldest first, each verified to be in force after the one before."""
        ...

    @property
    def newest(self) -> EpochName:
        """The last of them."""
        ...

    def after(self, charter: bytes) -> Successor | None:
        """What came after a charter of the lineage."""
        ...

    def take(self, peer: PeerId, charter: bytes, addresses: bytes) -> bool:
        """Check a charter that a neighbour hands over, and keep it; whether it is a new one.

        Raises:
            RemoteError: it is not in force as the next one of the lineage.
        """
        ...


class Succession:
    """One peer's part in it, for as long as its session lives.

    Args:
        epoch: this session's, with its charter's whole hash.
        session: its name, 32 bytes.
        charters: what this peer holds.
        links: the ways to the others.
        clock: when another one is asked.
        halves: told what others certified.
        log: where a charter that was taken is told of.
    """

    def __init__(
        self,
        epoch: EpochName,
        session: bytes,
        charters: Charters,
        links: Callable[[], dict[PeerId, Neighbour]],
        clock: Scheduler,
        halves: Halves,
        log: logging.Logger,
    ) -> None:
        self._epoch, self._session, self._charters, self._links = epoch, session, charters, links
        self._clock, self.halves, self._log = clock, halves, log
        self._answers = Allowance(ANSWERS_A_SECOND, ANSWERS_AT_ONCE)
        self._taken = Allowance(ANSWERS_A_SECOND, ANSWERS_AT_ONCE)
        self._ahead: dict[PeerId, None] = {}
        """Who says to hold a later charter, and was not asked for it yet."""
        self._asking: Handle | None = None
        self._stood = -AGAIN
        self._liars: set[PeerId] = set()
        self._abroad: dict[PeerId, EpochName] = {}
        """Who speaks for another session, and which charter it holds."""

    @property
    def ahead(self) -> tuple[PeerId, ...]:
        """Who is in a later epoch than this session's, whose charter this peer holds too."""
        lineage = self._charters.lineage
        later = (peer for peer, other in self._abroad.items() if of_epochs(self._epoch, other, lineage) == "there")
        return tuple(sorted(later))

    def announce(self) -> None:
        """Tell everyone which charter this peer holds."""
        for peer in self._links():
            self._tell(peer)

    def farewell(self, gone: Sequence[PeerId]) -> None:
        """Hand those that it removes what comes after this epoch's charter: soon nobody listens to them any more."""
        found = self._charters.after(self._epoch.charter)
        for peer in gone:
            if found is not None:
                self._hand(peer, found)

    def met(self, peer: PeerId) -> None:
        """The way to a neighbour is open, where this peer has anything to tell it."""
        if self._charters.newest != self._epoch or self.halves.last[0]:
            self._tell(peer)

    def elsewhere(self, peer: PeerId) -> None:
        """A neighbour greeted from another session: it may lack a charter, or have a later one."""
        if self._answers.spend(peer, self._clock.now()):
            self._tell(peer)

    def holds(self, peer: PeerId, said: Holds) -> None:
        """A neighbour said which charter it holds, and what it certified."""
        if said.session == self._session:
            self._abroad.pop(peer, None)
            self.halves.heard(peer, said.round, said.outcome)
            self._say_where_it_stands()
        else:
            self._abroad[peer] = said.epoch
        newest = self._charters.newest
        if said.epoch == newest:
            return
        found = self._charters.after(said.epoch.charter)
        if found is not None:
            if self._answers.spend(peer, self._clock.now()):
                self._hand(peer, found)
        elif said.epoch.number > newest.number and peer not in self._liars:
            self._ahead[peer] = None
            if self._asking is None:
                self._ask()

    def handed(self, peer: PeerId, given: Handed) -> None:
        """A neighbour hands over a charter.

        Raises:
            RemoteError: it is not what comes after those that this peer holds.
        """
        if peer in self._liars or not self._taken.spend(peer, self._clock.now()):
            return
        try:
            new = self._charters.take(peer, given.charter, given.addresses)
        except RemoteError:
            self._liars.add(peer)
            raise
        if new:
            self._log.info("peer %s handed over the charter of epoch %d", peer, self._charters.newest.number)
            self.announce()

    def _say_where_it_stands(self) -> None:
        """Two halves have met: this peer says in which it is, since others may not have heard it."""
        now = self._clock.now()
        if self.halves.split.verdict != "one" and now - self._stood >= AGAIN:
            self._stood = now
            self.announce()

    def close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()

    def _ask(self) -> None:
        """Ask one of those who hold a later charter, by telling it of this peer's; and the next one a little later."""
        self._asking = None
        if self._ahead:
            peer = next(iter(self._ahead))
            del self._ahead[peer]
            self._tell(peer)
            self._asking = self._clock.call_later(NEXT, self._ask)

    def _hand(self, peer: PeerId, found: Successor) -> None:
        if len(found.text) > CHARTER_LIMIT:
            self._log.warning("the charter of epoch %d is too large to travel; hand its file on", found.epoch)
            return
        addresses = found.addresses if len(found.addresses) <= ADDRESSES_LIMIT else b""
        if addresses != found.addresses:
            self._log.warning("the charter of epoch %d travels without its members' addresses, too large", found.epoch)
        self._links()[peer].hand(found.text, addresses, found.epoch)

    def _tell(self, peer: PeerId) -> None:
        self._links()[peer].tell(self._charters.newest, *self.halves.last)
