"""One running peer's place among its group's epochs: the charter that it plays under, and what came after it."""

from __future__ import annotations

import logging
import time

from decentra.charter.amend import changed_terms
from decentra.charter.charter import Charter
from decentra.crypto.keys import Identity
from decentra.driver.session import Session
from decentra.errors import Amended, LocalError
from decentra.peer.charters import FolderCharters
from decentra.peer.config import Config, PeerFolder
from decentra.peer.door import Door


class Epochs:
    """What a peer knows of later charters while its session of one epoch lives.

    Everything but ``found`` is for the peer's I/O thread.

    Attributes:
        removed: why this peer begins no round any more, where the group has removed it.
        door: answers who is not of this epoch.
    """

    def __init__(self, folder: PeerFolder, charter: Charter, session: Session, log: logging.Logger) -> None:
        self._folder, self._charter, self._session, self._log = folder, charter, session, log
        self.removed: LocalError | None = None
        self._charters = FolderCharters(folder, session.me, charter, self._on_amended, self._on_removed, log)
        self.door = Door(folder, session.me, self._charters, time.monotonic, self._charters.take, self._see, log)
        self._seen: tuple[bytes, ...] = ()
        """The charter and the configuration in the folder when they were last looked at."""

    def open(self) -> None:
        """The session is open: take part in what travels between epochs."""
        self._session.succeed(self._charters)

    def look(self) -> None:
        """See what came into the folder by other hands, and tell the others of it."""
        self._see()
        self.door.look()

    def leave_for(self, charter: Charter) -> None:
        """This peer is about to begin a later epoch: tell everyone of it, and those that it removes all of it."""
        self._see()
        succession = self._session.driver.succession
        if succession is not None:
            succession.farewell([peer for peer in self._charter.ids if peer not in charter.ids])

    def found(self) -> tuple[Identity, Charter, Config] | None:
        """The folder's charter, where it came from this epoch's by amendments, and this peer can go over to it."""
        folder = self._folder
        try:
            seen = tuple(file.read_bytes() for file in (folder.charter, folder.config))
        except OSError:
            return None  # it is being replaced, or its owner took it away; what runs needs neither
        if seen == self._seen:
            return None
        self._seen = seen
        try:
            identity, charter, config = folder.ready()
            if charter.hash == self._charter.hash:
                return None
            if self._charter.hash not in [old.hash for old in folder.lineage.ancestors(charter)]:
                raise LocalError(f"{folder.charter} does not come from the charter that this peer began with")
            if changed := changed_terms(self._charter, charter):
                told = "; ".join(changed[:3])
                raise LocalError(f"epoch {charter.group.epoch} has other terms ({told}); start the program again")
        except LocalError as error:
            self._log.warning("this peer stays in epoch %d: %s", self._charter.group.epoch, error)
            return None
        return identity, charter, config

    def _see(self) -> None:
        succession = self._session.driver.succession
        if self._charters.look() and succession is not None:
            succession.announce()

    def _on_amended(self, charter: Charter) -> None:
        """The folder has a later charter: a round that nothing has left for yet is begun again under it."""
        if changed_terms(self._charter, charter):
            return  # a training loop has read the terms; `found` says so
        try:
            self._folder.reachable(self._session.me, charter, self._charter.members)
        except LocalError:
            return
        self._session.driver.give_way(_amended_to(charter))

    def _on_removed(self, charter: Charter) -> None:
        """The group goes on without this peer. A round that has a roster still ends, since the others count on it."""
        by = ", ".join(sorted(one.name for one in charter.members if one.id in charter.signatures))
        self.removed = LocalError(
            f"epoch {charter.group.epoch} of {charter.group.name!r} removes this peer, by an amendment that {by} signed"
            f" (charter {charter.hash.hex()[:8]}); rounds go on without it: talk to them"
        )
        self._log.error("%s", self.removed)
        self._session.driver.give_way(_amended_to(charter))


def _amended_to(charter: Charter) -> Amended:
    return Amended((), 0.0, "this round", f"the group begins epoch {charter.group.epoch}, where it is begun again")
