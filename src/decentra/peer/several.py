"""The network runtime of a peer with several sessions on one port, behind the same calls as any peer's.

All sessions share the I/O thread, the sockets and the pool; each has its chain, its journal rows and its transcript.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import ClassVar, Protocol

from decentra.charter.charter import Charter
from decentra.crypto.keys import Identity
from decentra.driver.session import Done, Session, Vector, session_name
from decentra.driver.site import Opened, Site
from decentra.driver.tally import Counts
from decentra.errors import DecentraError, LocalError
from decentra.machine.state import SharedState
from decentra.peer import beacon
from decentra.peer.clock import LoopClock
from decentra.peer.config import Config
from decentra.peer.journal import SqliteJournal
from decentra.peer.pool import ThreadPool
from decentra.peer.prepared import Ended, Prepared
from decentra.peer.runtime import SETTLE_SECONDS, START_DEADLINE, Peer, resolve
from decentra.peer.secrets import keeps_for
from decentra.peer.status import EVERY, Status, observe
from decentra.peer.witness import Witness
from decentra.transport.shared import SharedTransport
from decentra.transport.zeromq import ZeroMQTransport
from decentra.types import PeerId, TensorSpec
from decentra.wire.entry import ZERO


class Rounds(Protocol):
    """What has a peer's sessions play a round one after the other: a `Mixer` or a `Bucketer`."""

    sessions: tuple[Session, ...]

    @property
    def busy(self) -> bool: ...
    @property
    def number(self) -> int: ...
    @property
    def awaited(self) -> tuple[PeerId, ...]: ...
    @property
    def flushed(self) -> bool: ...
    def open(self) -> None: ...
    def begin(self, vector: Vector, done: Done) -> None: ...
    def cancel(self, error: DecentraError) -> None: ...
    def leave(self) -> None: ...
    def close(self) -> None: ...


class SeveralSessions(Peer):
    """One peer whose ``average`` is a round in one session after the other, all on one port."""

    what: ClassVar[str]
    """What its sessions play together, with its article left out."""

    # ── what a kind of group adds ────────────────────────────────────────────────────────────────────────────────────

    @abstractmethod
    def _rounds_of(self, site: Site) -> Rounds:
        """What plays this peer's part."""

    @abstractmethod
    def _sessions(self) -> int:
        """How many sessions this peer has at a time, with that of the drawing."""

    # ── what there is of every session ───────────────────────────────────────────────────────────────────────────────

    @property
    def transcript(self) -> Path:
        """The folder in which each session's transcript is written."""
        return self.folder.transcripts

    @property
    def counts(self) -> Counts:
        told = [session.driver.tally.read() for session in self._played.sessions]
        told.append(Counts(kept=sum(journal.spent for journal in self._journals.values())))
        return Counts(*(sum(getattr(one, name.name) for one in told) for name in fields(Counts)))

    def prepare(
        self, specs: Sequence[TensorSpec], *, state: SharedState | None = None, fingerprint: bytes = ZERO
    ) -> Prepared:
        """Raises LocalError: what a later session takes is known when the one before it has ended, and no sooner."""
        raise LocalError(f"a {self.what} can't begin ahead of its update; average without preparing")

    # ── opening and leaving ──────────────────────────────────────────────────────────────────────────────────────────

    def _open(
        self, identity: Identity, config: Config, witness: Witness | None, before: Session | None = None
    ) -> None:
        self._journals: dict[bytes, SqliteJournal] = {}
        self._charters: dict[bytes, Charter] = {}
        self._seen = b""
        """The later charter that was told of last."""
        self._transcripts = self.folder.transcripts_of(identity.id, config, self._sessions())
        self._start_loop()
        pool = ThreadPool(self._later)
        self._release.callback(self._close_journals)
        self._release.callback(pool.close)
        self._call(lambda: self._listen(identity, config, witness, pool), START_DEADLINE)
        self._release.callback(self._write_transcript)
        self._release.callback(self._finish_journals)
        self._release.callback(pool.close)
        self._release.callback(lambda: self._call(self._close_ports, START_DEADLINE))

    def _listen(self, identity: Identity, config: Config, witness: Witness | None, pool: ThreadPool) -> None:
        """On the I/O thread: open the port, and take part in the drawing of the beacon."""
        shared = SharedTransport()
        self._transport = ZeroMQTransport(
            self._loop,
            identity.id,
            identity.curve_secret,
            {member.id: member.curve for member in self.charter.members},
            config.peer.bind,
            config.addresses(self.charter, identity.id, str(self.folder.config)),
            shared.on_receive if witness is None else witness.wrap(shared.on_receive),
            partial(self._on_way, shared),
        )
        shared.carry(self._transport)
        name = self.charter.hash
        with ExitStack() as undo:
            undo.callback(shared.close)
            site = Site(
                identity=identity,
                clock=LoopClock(self._loop),
                transport=shared,
                pool=pool,
                random=os.urandom,
                journal=self._open_journal,
                keep=lambda draw: beacon.save(self.folder.beacon, name, draw),
                kept=beacon.load(self.folder.beacon, name),
                attend=lambda session: session.attend(os.urandom(32), self._on_double),
                log=self._log,
                keeps=keeps_for(self.folder.secrets, config.transcripts.keep_secrets),
                witness=None if witness is None else witness.update,
            )
            self._shared, self._played = shared, self._rounds_of(site)
            self._played.open()
            undo.pop_all()
        self._tell_status()

    def _open_journal(self, charter: Charter) -> Opened:
        session = session_name(charter)
        journal = SqliteJournal(
            self.folder.journal,
            session,
            self._later,
            self._on_broken,
            heard=self._transcripts.heard(session, charter),
            most=self._transcripts.most_own,
        )
        self._journals[session], self._charters[session] = journal, charter
        return Opened(journal, journal.boot, journal.last_round)

    def _close_ports(self) -> None:
        self._played.close()
        self._shared.close()

    def _finish_journals(self) -> None:
        for journal in self._journals.values():
            journal.finish()

    def _close_journals(self) -> None:
        for journal in self._journals.values():
            journal.close()

    def _write_transcript(self) -> None:
        try:
            for session, journal in self._journals.items():
                self._transcripts.write(session, self._charters[session], journal.log())
        except LocalError as error:
            if self._broken is None:
                raise
            self._log.error("%s", error)  # the caller has had the first error already, and it tells more

    def _go_over(self) -> bool:
        """Say where the folder's charter was amended: an epoch has one drawing, for another the peer starts again."""
        try:
            found = self.folder.load_charter()
        except LocalError:
            return False  # it is being replaced, or its owner took it away; what runs does not need it
        if found.hash not in (self.charter.hash, self._seen):
            self._seen, epoch = found.hash, found.group.epoch
            self._log.warning("the folder has a charter for epoch %d; start this peer again to go over to it", epoch)
        return False

    @property
    def _removed(self) -> LocalError | None:
        return None

    def _say_leave(self) -> None:
        self._played.cancel(LocalError(f"it left the group; the next {self.what} goes on without it"))
        self._played.leave()

    def _flushed(self, now: float) -> bool:
        idle = all(journal.idle for journal in self._journals.values())
        return (self._opened + SETTLE_SECONDS < now or bool(self._played.sessions)) and idle and self._played.flushed

    # ── on the I/O thread ────────────────────────────────────────────────────────────────────────────────────────────

    def _begin(self, vector: Vector, future: Future[Ended]) -> None:
        try:
            self._played.begin(vector, partial(resolve, future))
        except DecentraError as error:
            resolve(future, error)

    def _awaited(self) -> tuple[tuple[PeerId, ...], str]:
        return self._played.awaited, f"a {self.what}" if self._played.sessions else "the epoch's beacon"

    def _tell_status(self) -> None:
        if self._closed or self._broken is not None:
            return
        if self._played.sessions:
            self._observe().write(self.folder.status)
        self._loop.call_later(EVERY, self._tell_status)

    def _observe(self) -> Status:
        """What this peer knows of the members of its groups; of the others it knows nothing."""
        played, now = self._played, self._loop.time()
        told = [
            observe(session, self._transport, self._up, now, self._completed, self._failed)
            for session in played.sessions
        ]
        members = {member.id: member for one in told for member in one.members}
        return replace(
            told[0],
            group=self.charter.group.name,
            round=played.number,
            busy=played.busy,
            waiting_for=tuple(sorted(self.charter.member(peer).name for peer in played.awaited)),
            patience=max(one.patience for one in told),
            members=tuple(members[one] for one in sorted(members)),
        )

    def _on_way(self, shared: SharedTransport, peer: PeerId, up: bool, reason: str) -> None:
        (self._up.add if up else self._up.discard)(peer)
        shared.on_link(peer, up, reason)

    def _fall_silent(self, error: LocalError) -> None:
        error.spent = self._played.busy  # the update may have left before, and then never leaves again
        self._broken = error
        self._log.error("%s", error)
        self._shared.close()
        self._settle(error)

    def _cancel(self, prepared: Prepared | None = None) -> None:
        self._played.cancel(LocalError(f"its owner interrupted it; the next {self.what} goes on without it"))
