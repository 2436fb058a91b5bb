"""One peer's sessions that an epoch's beacon gives: a bucket and the combining, or its groups on a grid.

Until the beacon is drawn a round waits for it; then it is played in the sessions that follow from it, one after the
other. What is common to both is here: one play at a time, the wait, and how it is ended from outside.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

from decentra.charter.charter import Charter
from decentra.charter.policy import Policy
from decentra.driver.drawing import Drawing
from decentra.driver.session import Done, Session, Vector
from decentra.driver.site import Site
from decentra.errors import DecentraError, LocalError, Unavailable
from decentra.gossip import schedule
from decentra.gossip.schedule import TRIES
from decentra.transport.virtual import Handle
from decentra.types import PeerId


@dataclass
class Play:
    """What is on: a round in buckets, or a mixing.

    Attributes:
        vector: what the caller brought.
        began: when, by the driver's clock; ``since`` when the session that is on did.
        done: told how it ended, once.
        number: which of the epoch it is, from 0, as this peer's first session has it.
        tries: rounds begun in the session that is on.
        cancelled: why the caller wants no more of it.
    """

    vector: Vector
    began: float
    since: float
    done: Done
    number: int = 0
    tries: int = 0
    cancelled: DecentraError | None = None


P = TypeVar("P", bound=Play)


class Epoch(ABC, Generic[P]):
    """One peer's part in an epoch. All calls and callbacks are on the driver's thread.

    Args:
        charter: the group's; its Policy must hold.
        site: where this peer's sessions run.

    Raises:
        LocalError: the charter is unsound, or this peer is no member.
    """

    played: ClassVar[str]
    """What the caller starts, as messages say it."""
    needed: ClassVar[str]
    """Who has to run for the beacon to be drawn."""

    def __init__(self, charter: Charter, site: Site) -> None:
        Policy(charter).check()
        charter.member(site.identity.id)
        self.charter, self.me, self._site = charter, site.identity.id, site
        self.name = charter.hash
        self.sessions: tuple[Session, ...] = ()
        """This peer's, in the order in which a play goes through them; none before the beacon is there."""
        self._next = 0
        self._on: P | None = None
        self._overdue: Handle | None = None
        self._broken: LocalError | None = None
        """Why it can take no part in the drawing any more, and so in nothing."""
        self.drawing = Drawing(charter, self.name, site, self._drawn, self._stopped_drawing)

    # ── what is played ───────────────────────────────────────────────────────────────────────────────────────────────

    @abstractmethod
    def check(self, vector: Vector) -> None:
        """Raises LocalError for a vector that can't be played here."""

    @abstractmethod
    def play(self, vector: Vector, now: float, done: Done) -> P:
        """What begins now."""

    @abstractmethod
    def open_sessions(self, beacon: bytes) -> Sequence[Session]:
        """The sessions that the beacon gives this peer."""

    @abstractmethod
    def session_of(self, play: P) -> Session:
        """The session that a play is in."""

    @abstractmethod
    def start(self, play: P) -> None:
        """Begin in the first session."""

    @abstractmethod
    def end(self, play: P, error: DecentraError) -> None:
        """This peer has no result."""

    # ── common steps ─────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def patience(self) -> float:
        """Seconds that a play waits for the epoch's beacon: the drawing, and one more try."""
        terms = self.charter.rounds
        return 2 * (terms.ready_deadline + 8 * terms.phase_deadline)

    @property
    def busy(self) -> bool:
        """Whether a play is on."""
        return self._on is not None

    @property
    def number(self) -> int:
        """The play that is on, or the last one, from 1; 0 before the first."""
        return self._next if self._on is None else self._on.number + 1

    @property
    def awaited(self) -> tuple[PeerId, ...]:
        """Which other peers it waits for now."""
        if not self.sessions:
            return self.drawing.awaited
        return () if self._on is None else self.session_of(self._on).driver.awaited

    @property
    def flushed(self) -> bool:
        """Whether everybody who can be reached has acknowledged everything."""
        return all(session.driver.flushed for session in self.sessions)

    @property
    def upcoming(self) -> int:
        """The next play: of this peer's own, or the one that the others are in, as any of its sessions shows."""
        rounds = (session.driver.others.round for session in self.sessions)
        return max(self._next, *(schedule.mixing_of(number) for number in rounds))

    def open(self) -> None:
        """Take part in the drawing of the beacon, or take it from what was kept."""
        self.drawing.open()

    def begin(self, vector: Vector, done: Done) -> None:
        """Start; ``done`` is called once, with the result or with why this peer has none.

        Raises:
            LocalError: one is on already, or the vector is not one that can be played; or the beacon was not drawn,
                since what this peer said of it could not be kept.
        """
        if self._broken is not None:
            raise self._broken
        if self.busy:
            raise LocalError(f"{self.played} is on already; wait for its result before you start another")
        self.check(vector)
        now = self._site.clock.now()
        self._on = play = self.play(vector, now, done)
        if self.sessions:
            self.start(play)
        else:
            self._overdue = self._site.clock.call_later(self.patience, self._no_beacon)

    def cancel(self, error: DecentraError) -> None:
        """End the play that is on, if any, from this side."""
        play = self._on
        if play is None:
            return
        play.cancelled = error
        if self.sessions and (session := self.session_of(play)).busy:
            session.driver.cancel(error)
        else:
            self.end(play, error)

    def leave(self) -> None:
        """Tell the others of every session not to wait for this peer any more."""
        for session in self.sessions:
            session.leave()

    def close(self) -> None:
        self.drawing.close()
        if self._overdue is not None:
            self._overdue.cancel()
        for session in self.sessions:
            session.driver.close()

    # ── the beacon ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _drawn(self, beacon: bytes) -> None:
        self.sessions = tuple(self.open_sessions(beacon))
        self._next = max(-(-session.round.number // TRIES) for session in self.sessions)
        if self._overdue is not None:
            self._overdue.cancel()
        if self._on is not None:
            self._on.since = self._site.clock.now()
            self.start(self._on)

    def _stopped_drawing(self, error: LocalError) -> None:
        error.spent = False
        if self.sessions:
            return  # it has the beacon
        self._broken = error
        if self._on is not None:
            self.end(self._on, error)

    def _no_beacon(self) -> None:
        if self._on is not None and not self.sessions:
            what = f"the beacon of epoch {self.charter.group.epoch}"
            error = Unavailable(self.drawing.awaited, self.patience, what, f"{self.needed}; start them")
            error.spent = False
            self.end(self._on, error)
