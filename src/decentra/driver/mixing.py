"""One peer's mixings in an epoch: its group along each axis of the grid, and a round in one after the other.

Each group is a session of its own; what one certified for this peer is what it brings to the next. A peer whose group
failed has nothing to bring, and stays away from the rest of that mixing (``specs/group-gossip/README.md``).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial

from decentra.charter.charter import Charter
from decentra.charter.policy import Policy
from decentra.driver.drawing import Drawing
from decentra.driver.session import Done, Session, Vector
from decentra.driver.site import Site
from decentra.errors import DecentraError, LocalError, RemoteError, Unavailable
from decentra.gossip import schedule
from decentra.gossip.group import group_charter
from decentra.gossip.schedule import TRIES, Grid
from decentra.transport.virtual import Handle
from decentra.types import MixingResult, PeerId, RoundId, RoundResult
from decentra.wire.entry import ZERO


@dataclass
class _Mixing:
    """A mixing that is on.

    Attributes:
        vector: what the caller brought.
        began: when, by the driver's clock; ``since`` when the axis that is on did.
        done: told how it ended, once.
        number: which mixing of the epoch it is, from 0, as this peer's group along the first axis has it.
        tries: rounds begun along the axis that is on.
        rounds: what each axis gave.
        held: what the last of them weighs, in units.
    """

    vector: Vector
    began: float
    since: float
    done: Done
    number: int = 0
    tries: int = 0
    rounds: list[RoundResult] = field(default_factory=list)
    held: int = 0
    cancelled: DecentraError | None = None


class Mixer:
    """One peer on a grid. All calls and callbacks are on the driver's thread.

    Args:
        charter: the large one, with terms for a grid; its Policy must hold.
        site: where this peer's sessions run.

    Raises:
        LocalError: the charter is unsound or has no grid, or this peer is no member.
    """

    def __init__(self, charter: Charter, site: Site) -> None:
        Policy(charter).check()
        charter.member(site.identity.id)
        if charter.groups is None:
            raise LocalError("this charter has no table [groups]: its members are one group; open a plain peer")
        self.charter, self.me, self._site = charter, site.identity.id, site
        self.grid: Grid = schedule.grid(len(charter.members), charter.groups.size, charter.protocol.c)
        self.name = charter.hash
        self.sessions: tuple[Session, ...] = ()
        """This peer's groups, one an axis; none before the beacon is there."""
        self.place = 0
        self._next = 0
        self._mixing: _Mixing | None = None
        self._overdue: Handle | None = None
        self._broken: LocalError | None = None
        """Why it can take no part in the drawing any more, and so in nothing."""
        self.drawing = Drawing(charter, self.name, site, self._drawn, self._stopped_drawing)

    @property
    def patience(self) -> float:
        """Seconds that a mixing waits for the epoch's beacon: the drawers' round, and one more try."""
        terms = self.charter.rounds
        return 2 * (terms.ready_deadline + 8 * terms.phase_deadline)

    @property
    def busy(self) -> bool:
        """Whether a mixing is on."""
        return self._mixing is not None

    @property
    def number(self) -> int:
        """The mixing that is on, or the last one, from 1; 0 before the first."""
        return self._next if self._mixing is None else self._mixing.number + 1

    @property
    def awaited(self) -> tuple[PeerId, ...]:
        """Which other peers it waits for now."""
        if not self.sessions:
            return self.drawing.awaited
        return () if self._mixing is None else self.sessions[len(self._mixing.rounds)].driver.awaited

    @property
    def flushed(self) -> bool:
        """Whether everybody who can be reached has acknowledged everything."""
        return all(session.driver.flushed for session in self.sessions)

    def open(self) -> None:
        """Take part in the drawing of the beacon, or take it from what was kept."""
        self.drawing.open()

    def begin(self, vector: Vector, done: Done) -> None:
        """Start a mixing; ``done`` is called once, with a `MixingResult` or with why this peer has none.

        Raises:
            LocalError: one is on already, or the vector is not one that a mixing allows; or the beacon was not drawn,
                since what this peer said of it could not be kept.
        """
        if self._broken is not None:
            raise self._broken
        if self.busy:
            raise LocalError("a mixing is on already; wait for its result before you start another")
        if vector.shared is not None:
            raise LocalError("a mixing has no common state, as its groups hold different means; average parameters")
        now = self._site.clock.now()
        self._mixing = _Mixing(vector, now, now, done)
        if self.sessions:
            self._play(self._mixing)
        else:
            self._overdue = self._site.clock.call_later(self.patience, self._no_beacon)

    def cancel(self, error: DecentraError) -> None:
        """End the mixing that is on, if any, from this side."""
        mixing = self._mixing
        if mixing is None:
            return
        mixing.cancelled = error
        if self.sessions and (session := self.sessions[len(mixing.rounds)]).busy:
            session.driver.cancel(error)
        else:
            self._fail(mixing, error)

    def leave(self) -> None:
        """Tell the others of every group not to wait for this peer any more."""
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
        order = schedule.places(self.name, beacon, self.charter.ids)
        self.place = order.index(self.me)
        opened = []
        for axis in range(self.grid.axes):
            (mine,) = (group for group in schedule.groups(self.grid, axis) if self.place in group)
            members = [order[place] for place in mine]
            derived = group_charter(self.charter, self.name, beacon, axis, self.grid, members)
            opened.append(self._site.session(derived, before=axis))
        self.sessions = tuple(opened)
        self._next = max(-(-session.round.number // TRIES) for session in opened)
        if self._overdue is not None:
            self._overdue.cancel()
        if self._mixing is not None:
            self._mixing.since = self._site.clock.now()
            self._play(self._mixing)

    def _stopped_drawing(self, error: LocalError) -> None:
        error.spent = False
        if self.sessions:
            return  # it has the beacon
        self._broken = error
        if self._mixing is not None:
            self._fail(self._mixing, error)

    def _no_beacon(self) -> None:
        mixing = self._mixing
        if mixing is not None and not self.sessions:
            mend = "a quorum of the drawers that the charter names has to run; start them"
            what = f"the beacon of epoch {self.charter.group.epoch}"
            error = Unavailable(self.drawing.awaited, self.patience, what, mend)
            error.spent = False
            self._fail(mixing, error)

    # ── a round along each axis ──────────────────────────────────────────────────────────────────────────────────────

    def _play(self, mixing: _Mixing) -> None:
        axis = len(mixing.rounds)
        session = self.sessions[axis]
        if axis == 0:
            mixing.number = mixing.number if mixing.tries else self._upcoming
            vector = replace(mixing.vector, fingerprint=partial(self._fingerprint, mixing.vector))
        elif schedule.mixing_of(session.upcoming) > mixing.number:
            self._fail(mixing, _too_late(mixing.number))
            return
        else:
            vector = self._aggregate(mixing, axis)
        mixing.tries += 1
        try:
            session.begin(vector, partial(self._ended, mixing), schedule.first_round(mixing.number))
        except LocalError as error:  # the caller's mistake, and said before anything was
            self._mixing = None
            mixing.done(error)

    @property
    def _upcoming(self) -> int:
        """The next mixing: of this peer's own, or the one that the others are in, as any of its groups shows."""
        rounds = (session.driver.others.round for session in self.sessions)
        return max(self._next, *(schedule.mixing_of(number) for number in rounds))

    def _fingerprint(self, vector: Vector, round_id: RoundId) -> bytes:
        model = vector.fingerprint if isinstance(vector.fingerprint, bytes) else ZERO
        return schedule.fingerprint(model, schedule.mixing_of(round_id.number))

    def _aggregate(self, mixing: _Mixing, axis: int) -> Vector:
        """What this peer brings along a later axis: its last group's mean, and its part of what that weighs."""
        values, most = mixing.rounds[-1].values, self.charter.protocol.max_weight
        weight = schedule.weight(self.grid, axis, self.place, mixing.held, most)
        number = schedule.first_round(mixing.number)
        mark = self._fingerprint(mixing.vector, RoundId(self.charter.group.epoch, number))
        return Vector(values, mixing.vector.specs, weight, mark)

    def _ended(self, mixing: _Mixing, ended: RoundResult | DecentraError) -> None:
        axis = len(mixing.rounds)
        if axis == 0:
            mixing.number = schedule.mixing_of(self.sessions[0].round.number)
            self._next = mixing.number + 1
        if isinstance(ended, DecentraError):
            waited = self._site.clock.now() - mixing.since
            final = ended.spent or mixing.cancelled is not None or isinstance(ended, LocalError)
            if final or mixing.tries >= TRIES or waited >= self.charter.rounds.ready_deadline:
                self._fail(mixing, ended)
            else:
                self._site.clock.call_later(0.0, partial(self._again, mixing))
            return
        mixing.held = schedule.held(self.grid, axis, ended.total_weight)
        mixing.rounds.append(ended)
        mixing.tries, mixing.since = 0, self._site.clock.now()
        if mixing.cancelled is not None and axis + 1 < self.grid.axes:
            self._fail(mixing, mixing.cancelled)
        elif axis + 1 < self.grid.axes:
            self._play(mixing)
        else:
            self._finish(mixing, ended)

    def _again(self, mixing: _Mixing) -> None:
        if self._mixing is mixing:
            self._play(mixing)

    def _finish(self, mixing: _Mixing, last: RoundResult) -> None:
        rounds = tuple(mixing.rounds)
        self._mixing = None
        mixing.done(
            MixingResult(
                round=RoundId(self.charter.group.epoch, mixing.number + 1),
                values=last.values,
                participants=last.participants,
                dropped=last.dropped,
                total_weight=last.total_weight,
                digest=last.digest,
                bytes_sent=sum(one.bytes_sent for one in rounds),
                bytes_received=sum(one.bytes_received for one in rounds),
                seconds=self._site.clock.now() - mixing.began,
                transcript_head=last.transcript_head,
                clipped=sum(one.clipped for one in rounds),
                beacon=last.beacon,
                rounds=rounds,
                weight=mixing.held / self.grid.unit,
            )
        )

    def _fail(self, mixing: _Mixing, error: DecentraError) -> None:
        """This peer weighs nothing in the rest of the mixing, and says so, that no later group of it waits for it."""
        axis, self._mixing = len(mixing.rounds), None
        if not self.sessions:
            mixing.done(error)
            return
        reached = schedule.mixing_of(self.sessions[axis].round.number)
        if axis and isinstance(error, LocalError) and reached > mixing.number:
            error = _too_late(mixing.number)
        for later in range(axis + 1, self.grid.axes):
            self._stay_away(mixing, later)
        told = _told(error, f"its group along axis {axis + 1} of {self.grid.axes} failed")
        told.spent = error.spent or axis > 0
        self._site.log.warning("%s", told)
        mixing.done(told)

    def _stay_away(self, mixing: _Mixing, axis: int) -> None:
        """Begin a later group's round and end it at once: its members hear that it goes on without this peer."""
        session, first = self.sessions[axis], schedule.first_round(mixing.number)
        if session.upcoming <= first:
            session.begin(replace(mixing.vector, weight=1, residual=None), lambda ended: None, first)
            session.driver.cancel(LocalError("it has no aggregate to bring; the round goes on without it"))


def _too_late(mixing: int) -> Unavailable:
    mend = "its members are in a later mixing, which this peer takes part in next"
    return Unavailable((), 0.0, f"mixing {mixing + 1} in this peer's group", mend)


def _told(error: DecentraError, where: str) -> DecentraError:
    """The error with where in a mixing it struck, and what that means."""
    said = f"{where}, so this peer weighs nothing in the rest of this mixing and takes part again in the next"
    match error:
        case Unavailable():
            return error.because(said)
        case RemoteError(peer=peer, clause=clause, reason=reason):
            return RemoteError(peer, clause, f"{reason}; {said}")
        case _:
            return error
