"""One peer's mixings in an epoch: its group along each axis of the grid, and a round in one after the other.

Each group is a session of its own; what one certified for this peer is what it brings to the next. A peer whose group
failed has nothing to bring, and stays away from the rest of that mixing (``specs/group-gossip/README.md``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from decentra.charter.charter import Charter
from decentra.driver.epoch import Epoch, Play
from decentra.driver.session import Done, Session, Vector
from decentra.driver.site import Site
from decentra.errors import DecentraError, LocalError, RemoteError, Unavailable
from decentra.gossip import schedule
from decentra.gossip.group import group_charter
from decentra.gossip.schedule import TRIES, Grid
from decentra.types import MixingResult, RoundId, RoundResult
from decentra.wire.entry import ZERO


@dataclass
class _Mixing(Play):
    """A mixing that is on.

    Attributes:
        rounds: what each axis gave.
        held: what the last of them weighs, in units.
    """

    rounds: list[RoundResult] = field(default_factory=list)
    held: int = 0


class Mixer(Epoch[_Mixing]):
    """One peer on a grid. All calls and callbacks are on the driver's thread.

    Args:
        charter: the large one, with terms for a grid; its Policy must hold.
        site: where this peer's sessions run.

    Raises:
        LocalError: the charter is unsound or has no grid, or this peer is no member.
    """

    played, needed = "a mixing", "a quorum of the drawers that the charter names has to run"

    def __init__(self, charter: Charter, site: Site) -> None:
        if charter.groups is None:
            raise LocalError("this charter has no table [groups]: its members are one group; open a plain peer")
        super().__init__(charter, site)
        self.grid: Grid = schedule.grid(len(charter.members), charter.groups.size, charter.protocol.c)
        self.place = 0

    def check(self, vector: Vector) -> None:
        if vector.shared is not None:
            raise LocalError("a mixing has no common state, as its groups hold different means; average parameters")

    def play(self, vector: Vector, now: float, done: Done) -> _Mixing:
        return _Mixing(vector, now, now, done)

    def open_sessions(self, beacon: bytes) -> Sequence[Session]:
        order = schedule.places(self.name, beacon, self.charter.ids)
        self.place = order.index(self.me)
        opened = []
        for axis in range(self.grid.axes):
            (mine,) = (group for group in schedule.groups(self.grid, axis) if self.place in group)
            members = [order[place] for place in mine]
            derived = group_charter(self.charter, self.name, beacon, axis, self.grid, members)
            opened.append(self._site.session(derived, before=axis))
        return opened

    def session_of(self, mixing: _Mixing) -> Session:
        return self.sessions[len(mixing.rounds)]

    # ── a round along each axis ──────────────────────────────────────────────────────────────────────────────────────

    def start(self, mixing: _Mixing) -> None:
        axis = len(mixing.rounds)
        session = self.sessions[axis]
        if axis == 0:
            mixing.number = mixing.number if mixing.tries else self.upcoming
            vector = replace(mixing.vector, fingerprint=partial(self._fingerprint, mixing.vector))
        elif schedule.mixing_of(session.upcoming) > mixing.number:
            self.end(mixing, _too_late(mixing.number))
            return
        else:
            vector = self._aggregate(mixing, axis)
        mixing.tries += 1
        try:
            session.begin(vector, partial(self._ended, mixing), schedule.first_round(mixing.number))
        except LocalError as error:  # the caller's mistake, and said before anything was
            self._on = None
            mixing.done(error)

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
                self.end(mixing, ended)
            else:
                self._site.clock.call_later(0.0, partial(self._again, mixing))
            return
        mixing.held = schedule.held(self.grid, axis, ended.total_weight)
        mixing.rounds.append(ended)
        mixing.tries, mixing.since = 0, self._site.clock.now()
        if mixing.cancelled is not None and axis + 1 < self.grid.axes:
            self.end(mixing, mixing.cancelled)
        elif axis + 1 < self.grid.axes:
            self.start(mixing)
        else:
            self._finish(mixing, ended)

    def _again(self, mixing: _Mixing) -> None:
        if self._on is mixing:
            self.start(mixing)

    def _finish(self, mixing: _Mixing, last: RoundResult) -> None:
        rounds = tuple(mixing.rounds)
        self._on = None
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

    def end(self, mixing: _Mixing, error: DecentraError) -> None:
        """This peer weighs nothing in the rest of the mixing, and says so, that no later group of it waits for it."""
        axis, self._on = len(mixing.rounds), None
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
