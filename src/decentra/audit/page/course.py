"""The course of a session: what is kept of each round while it is judged, so that a page can show it.

However many rounds there are, what is kept stays small: a strip of all rounds, whose neighbours are merged when there
are too many, and the details of the first, the last, and those in which a clause was broken.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntFlag

from decentra.audit.findings import Finding, Violation
from decentra.audit.ground import Ground
from decentra.audit.page.detail import Detail, Ending, Lane, detailed
from decentra.audit.record import Round
from decentra.types import PeerId

MOST_COLUMNS = 480
"""Columns of a strip: at two pixels each it is as wide as a screen."""
MOST_SESSIONS = 16
"""Sessions whose course is kept; a run has one an epoch."""
EDGE = 2
"""Rounds of which the details are kept at the beginning, and at the end."""
MOST_BROKEN = 12
"""Rounds with a violation of which the details are kept, the first ones."""
class Seen(IntFlag):
    """What a member came to in a round, the weightier the higher."""

    SIGNED = 1
    SUMMED = 2
    LEFT_OUT = 4
    MISSING = 8
    BROKE = 16


@dataclass(frozen=True)
class Column:
    """One round of a strip, or several neighbours. ``seen`` has what each member came to, ``sizes`` the bytes that each
    signed, ``endings`` how often the rounds ended in each way."""

    first: int
    last: int
    seen: tuple[int, ...]
    sizes: tuple[int, ...]
    endings: tuple[int, ...]

    def with_next(self, other: Column) -> Column:
        return Column(
            self.first,
            other.last,
            tuple(one | two for one, two in zip(self.seen, other.seen, strict=True)),
            tuple(one + two for one, two in zip(self.sizes, other.sizes, strict=True)),
            tuple(one + two for one, two in zip(self.endings, other.endings, strict=True)),
        )


@dataclass(frozen=True)
class Tally:
    """What a member came to in all rounds."""

    entries: int = 0
    size: int = 0
    rounds: int = 0
    summed: int = 0
    left_out: int = 0

    def plus(self, lane: Lane, came: Seen) -> Tally:
        return Tally(
            self.entries + lane.entries,
            self.size + lane.size,
            self.rounds + bool(lane.entries),
            self.summed + (Seen.SUMMED in came),
            self.left_out + (Seen.LEFT_OUT in came),
        )


class Course:
    """A session, round by round."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.rounds = 0
        self.width = 1
        """Rounds that a column holds; the last may hold fewer."""
        self.tallies = [Tally() for _ in ground.members]
        """By member, in the charter's order."""
        self._columns: list[Column] = []
        self._first: list[Detail] = []
        self._last: deque[Detail] = deque(maxlen=EDGE)
        self._broken: dict[int, Detail] = {}

    def details(self) -> tuple[Detail, ...]:
        """The rounds that are kept in full, each once, in order."""
        kept = {one.number: one for one in (*self._first, *self._last, *self._broken.values())}
        return tuple(kept[number] for number in sorted(kept))

    def take(self, detail: Detail, broke: bool) -> None:
        """Keep what a page shows of a round. One that comes again, since a chain is broken in it, counts once.

        Args:
            broke: whether a clause was broken in it.
        """
        if not self._columns or detail.number > self._columns[-1].last:
            self._count(detail)
            edge = self._first if len(self._first) < EDGE else self._last
            edge.append(detail)
        if broke and len(self._broken) < MOST_BROKEN:
            self._broken.setdefault(detail.number, detail)

    def _count(self, detail: Detail) -> None:
        seen = [_came(peer, lane, detail) for peer, lane in zip(self.ground.members, detail.lanes, strict=True)]
        self.tallies = [
            tally.plus(lane, came) for tally, lane, came in zip(self.tallies, detail.lanes, seen, strict=True)
        ]
        endings = tuple(int(one is detail.ending) for one in Ending)
        sizes = tuple(lane.size for lane in detail.lanes)
        column = Column(detail.number, detail.number, tuple(map(int, seen)), sizes, endings)
        if self.rounds % self.width:
            self._columns[-1] = self._columns[-1].with_next(column)
        else:
            self._columns.append(column)
        self.rounds += 1
        if len(self._columns) > MOST_COLUMNS and self.rounds % (2 * self.width) == 0:
            pairs = zip(self._columns[::2], self._columns[1::2], strict=True)
            self._columns, self.width = [one.with_next(two) for one, two in pairs], 2 * self.width

    def strip(self, findings: Sequence[Finding]) -> list[Column]:
        """The columns, with who broke a clause in them and of whom something is missing."""
        marks: dict[int, dict[int, int]] = {}
        places = {peer: place for place, peer in enumerate(self.ground.members)}
        for one in findings:
            mark = Seen.BROKE if isinstance(one, Violation) else Seen.MISSING
            whose = one.who if isinstance(one, Violation) else one.whose
            if whose in places:
                of_round = marks.setdefault(one.round, {})
                of_round[places[whose]] = of_round.get(places[whose], 0) | mark
        numbers, at, marked = sorted(marks), 0, []
        for column in self._columns:
            seen = list(column.seen)
            while at < len(numbers) and numbers[at] <= column.last:
                for place, more in marks[numbers[at]].items():
                    seen[place] |= more
                at += 1
            marked.append(replace(column, seen=tuple(seen)))
        return marked


def _came(peer: PeerId, lane: Lane, detail: Detail) -> Seen:
    """What a member came to in a round, of what the round itself tells."""
    came = Seen.SIGNED if lane.entries else Seen(0)
    if detail.ending is Ending.SUMMED and peer in detail.summed:
        came |= Seen.SUMMED
    return came | Seen.LEFT_OUT if peer in detail.left_out else came


class Courses:
    """The courses of an audit's sessions: give ``watch`` to the auditor."""

    def __init__(self) -> None:
        self._of: dict[bytes, Course] = {}

    def watch(self, round_: Round, found: Sequence[Finding]) -> None:
        """Take in a round that was judged."""
        session = round_.ground.session
        if session in self._of or len(self._of) < MOST_SESSIONS:
            broke = any(isinstance(one, Violation) for one in found)
            self.add(round_.ground).take(detailed(round_), broke)

    def add(self, ground: Ground) -> Course:
        """The course of a session, begun where it is not yet."""
        return self._of.setdefault(ground.session, Course(ground))

    def of(self, session: bytes) -> Course | None:
        """A session's course; None where none of it was judged, or too many sessions came before."""
        return self._of.get(session)
