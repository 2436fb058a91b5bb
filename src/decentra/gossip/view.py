"""What this peer knows of one member: everyone's highest word on it, and the status that follows.

What is known is a set of maxima, one for the subject's own word and one for each author's suspicion (MB-3), so it does
not depend on the order in which statements come, nor on repetition; peers that heard the same know the same. Only
whether a suspicion's time has run out is each peer's own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from decentra.gossip.limits import CONFIRMATIONS, SUSPICION_FLOOR, SUSPICION_STRETCH
from decentra.gossip.statements import Statement, Word
from decentra.types import PeerId

Status = Literal["unknown", "up", "suspected", "down", "left"]
"""Nothing was heard of it yet; up; up, with suspicions; excluded by c+1 suspicions (MB-5); gone by its own word."""

AWAY: tuple[Status, ...] = ("down", "left")
"""Whom nobody need wait for."""


class Member:
    """One member as this peer sees it.

    Attributes:
        word: the member's own highest word; None before one was heard.
        since: when its status last changed.
        enough: when c+1 suspicions of its incarnation were known first; None where they are not.
        lapsed: whether they were held for the suspicion's time; never before there are enough.
        confirmed: the incarnation that this peer was last asked, by a suspicion, to probe out of turn; −1 for none.
    """

    __slots__ = ("_later", "_suspicions", "confirmed", "enough", "lapsed", "since", "word")

    def __init__(self, word: Statement | None = None) -> None:
        self.word = word
        self._suspicions: Mapping[PeerId, Statement] = _NONE
        self._later: Mapping[PeerId, Statement] = _NONE
        self.since = 0.0
        self.enough: float | None = None
        self.lapsed = False
        self.confirmed = -1

    @property
    def incarnation(self) -> int:
        """The incarnation that the member signed last; 0 before one was heard."""
        return 0 if self.word is None else self.word.incarnation

    @property
    def status(self) -> Status:
        if self.word is not None and self.word.word is Word.LEFT:
            return "left"
        if self.lapsed:
            return "down"
        if self._suspicions:
            return "suspected"
        return "unknown" if self.word is None else "up"

    @property
    def suspicions(self) -> Mapping[PeerId, Statement]:
        """The suspicions that count, by author: of the incarnation that the member signed last. One of a later
        incarnation, which was not heard of yet, waits for it; one of an earlier is void (MB-6)."""
        return self._suspicions

    @property
    def held(self) -> int:
        """Suspicions that are kept, also those that do not count now."""
        return len(self._suspicions) + len(self._later)

    def news(self, statement: Statement) -> bool:
        """Whether a statement on this member would change what is known."""
        if statement.word is Word.SUSPECT:
            known = self._later.get(statement.author) or self._suspicions.get(statement.author)
            return statement.incarnation >= (self.incarnation if known is None else known.incarnation + 1)
        return self.word is None or statement.rank > self.word.rank

    def heed(self, statement: Statement) -> bool:
        """Take a verified statement in; whether it was news."""
        if not self.news(statement):
            return False
        if statement.word is Word.SUSPECT:
            current = self.incarnation
            known = {**self._suspicions, **self._later, statement.author: statement}
        elif statement.incarnation > self.incarnation:
            current = statement.incarnation
            known = {author: one for author, one in self._later.items() if one.incarnation >= current}
            self.word, self.enough, self.lapsed = statement, None, False
        else:
            self.word = statement
            return True
        self._suspicions = {author: one for author, one in known.items() if one.incarnation == current}
        self._later = {author: one for author, one in known.items() if one.incarnation > current}
        return True


_NONE: Mapping[PeerId, Statement] = {}
"""What most members are suspected of."""


def suspicion_time(n: int, c: int, beyond: int) -> float:
    """Seconds for which c+1 suspicions must be known before they exclude, with so many more known.

    Lifeguard's max − (max−min)·log(C+1)/log(K+1), its C counted from c+1 on: fewer say nothing that liars can't say, so
    the subject has the whole floor to refute after an honest peer has spoken.

    >>> [round(suspicion_time(8, 2, beyond), 1) for beyond in (0, 1, 2)]
    [30.0, 14.2, 5.0]
    """
    floor = SUSPICION_FLOOR * max(1.0, math.log10(n))
    full = confirmations(n, c)
    if beyond >= full:
        return floor
    return floor * (SUSPICION_STRETCH - (SUSPICION_STRETCH - 1) * math.log(beyond + 1) / math.log(full + 1))


def confirmations(n: int, c: int) -> int:
    """Suspicions beyond c+1 after which no more are asked for: as many as honest peers can give without any liar."""
    return min(CONFIRMATIONS, max(0, n - 2 * c - 2))
