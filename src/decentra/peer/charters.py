"""The charters of a peer's folder while the peer runs: it sees new ones there, and puts there those it is handed."""

from __future__ import annotations

import logging
from collections.abc import Callable

from decentra.charter import Charter, toml
from decentra.charter.amend import judge
from decentra.driver.succession import Successor
from decentra.errors import LocalError, RemoteError
from decentra.peer.addresses import Addresses
from decentra.peer.config import PeerFolder
from decentra.types import EpochName, PeerId

_HANDED = "the charter that it handed over"


class FolderCharters:
    """What a running peer knows of its folder's charters (``driver.succession.Charters``); on its I/O thread only.

    Args:
        folder: the peer's.
        me: this peer.
        charter: the one that its session began with, verified.
        amended: told of each later one in force, once the folder has it.
        removed: told of the one that this peer is no member of any more; the folder keeps what it has.
    """

    def __init__(
        self,
        folder: PeerFolder,
        me: PeerId,
        charter: Charter,
        amended: Callable[[Charter], None],
        removed: Callable[[Charter], None],
        log: logging.Logger,
    ) -> None:
        self._folder, self._me, self._log = folder, me, log
        self._amended, self._removed = amended, removed
        self.chain = [*reversed(folder.lineage.history(charter)), charter]
        """Those that it holds, the oldest first."""
        self._hashes = [one.hash for one in self.chain]
        self._seen = self._mark()

    @property
    def lineage(self) -> tuple[bytes, ...]:
        return tuple(self._hashes)

    @property
    def newest(self) -> EpochName:
        return EpochName(self.chain[-1].group.epoch, self._hashes[-1])

    def after(self, charter: bytes) -> Successor | None:
        if charter not in self._hashes[:-1]:
            return None
        found = self.chain[self._hashes.index(charter) + 1]
        addresses = self._folder.addresses_known(found)
        return Successor(found.to_toml().encode(), addresses.to_toml().encode(), found.group.epoch)

    def take(self, peer: PeerId, charter: bytes, addresses: bytes) -> bool:
        """See `Charters.take`. A folder that can't be written keeps what it had, and the log says why."""
        old = self.chain[-1]
        try:
            new = Charter.parse(charter.decode(), _HANDED).without_stale_signatures()
            known = Addresses.parse(addresses.decode(), "the addresses that it handed over")
            if new.hash not in self._hashes:
                toml.raise_problems(_HANDED, judge(old, new))
        except (LocalError, UnicodeDecodeError) as error:
            raise RemoteError(peer, "CHARTER", str(error)) from error
        if new.hash in self._hashes:
            self._learn(peer, known)
            return False
        if self._me not in new.ids:
            self._add(new)
            self._removed(new)
            return True
        try:
            self._keep(peer, old, new, known)
        except LocalError as error:
            self._log.error("the charter of epoch %d can't be kept: %s", new.group.epoch, error)
            return False
        self._add(new)
        self._amended(new)
        return True

    def look(self) -> bool:
        """Whether a later charter has come into the folder by somebody else's hand."""
        mark = self._mark()
        if mark == self._seen or mark is None:
            return False
        self._seen = mark
        try:
            later = self._folder.lineage.since(self.chain[-1])
        except LocalError:
            return False  # it is told, where this peer would go over to it
        for new in later:
            self._add(new)
        if later:
            self._amended(later[-1])
        return bool(later)

    def _add(self, charter: Charter) -> None:
        self.chain.append(charter)
        self._hashes.append(charter.hash)

    def _learn(self, peer: PeerId, known: Addresses) -> None:
        """Addresses beside a charter that is there already: the first who handed it over may not have known them."""
        try:
            self._folder.keep_addresses(peer, known, self.chain[-1])
        except LocalError as error:
            self._log.warning("addresses that peer %s told can't be kept: %s", peer, error)

    def _keep(self, peer: PeerId, old: Charter, new: Charter, known: Addresses) -> None:
        text = toml.read_text(self._folder.charter, "the peer goes on with the one that it has")
        there = Charter.parse(text, str(self._folder.charter)).hash
        if there not in (old.hash, new.hash):
            raise LocalError(f"{self._folder.charter} is another one than this peer runs with")
        self._folder.keep_addresses(peer, known, new)
        if there == old.hash:  # else its owner was quicker
            self._folder.lineage.adopt(old, text, new)
        self._seen = self._mark()

    def _mark(self) -> tuple[int, int, int] | None:
        """What tells one state of the file from another without reading it; None while there is none."""
        try:
            found = self._folder.charter.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size
