"""Two halves of a group that each think themselves the group: that they differ, and which one goes on.

Two rosters of one charter share more than c members, so halves can't both certify results while at most c members lie;
and a charter has one successor in force. What is left is a half that the group has gone on without, and a group in
which more than c lied or were restored from a copy. Both show when members of the two meet: each says which charter it
holds and what it certified last. The machine is pure, and counts members' own words only.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal

from decentra import derive
from decentra.types import EpochName, PeerId

Verdict = Literal["one", "here", "there", "neither", "open"]
"""Which goes on: there are no two, this peer's half, the other one, none of them, or too few were heard to say."""

REMEMBERED = 256
"""Rounds whose outcome is remembered: halves that lived apart for longer are told apart by a later one."""


def of_outcomes(here: Collection[PeerId], there: Collection[PeerId], members: int, c: int) -> Verdict:
    """Which of two halves goes on that certified different outcomes for one round under one charter.

    Args:
        here: who stands for this peer's outcome, itself included.
        there: who stands for the other; nobody is in both.
        members: of the charter.
        c: how many of them may lie.
    """
    if len(there) <= c:
        return "one"  # so many may lie, and what they say changes nothing
    quorum, unheard = derive.quorum(members, c), members - len(here) - len(there)
    if len(here) >= quorum:
        return "here"
    if len(there) >= quorum:
        return "there"
    return "neither" if max(len(here), len(there)) + unheard < quorum else "open"


def of_epochs(here: EpochName, there: EpochName, lineage: Sequence[bytes]) -> Verdict:
    """Which of two epochs goes on: the later, where each charter between them has the quorum of the one before it.

    Args:
        here, there: with their charters' whole hashes.
        lineage: the charters that this peer holds, each verified to be in force after the one before it.
    """
    if here == there:
        return "one"
    if here.charter in lineage and there.charter in lineage:
        return "here" if lineage.index(here.charter) > lineage.index(there.charter) else "there"
    return "open" if there.number > here.number else "neither"


@dataclass(frozen=True)
class Split:
    """What stands between two halves at one moment.

    Attributes:
        verdict: which goes on.
        round: the latest round whose outcome they differ in; 0 where they don't.
        here, there: who stands for either outcome, ascending.
    """

    verdict: Verdict
    round: int = 0
    here: tuple[PeerId, ...] = ()
    there: tuple[PeerId, ...] = ()


@dataclass
class Halves:
    """What this peer certified, and what others say that they did.

    Attributes:
        me: this peer.
        members: everyone in the charter.
        c: how many of them may lie together.
    """

    me: PeerId
    members: tuple[PeerId, ...]
    c: int
    _own: OrderedDict[int, bytes] = field(default_factory=OrderedDict)
    _said: dict[PeerId, tuple[int, bytes]] = field(default_factory=dict)

    def certified(self, number: int, outcome: bytes) -> None:
        """This peer has a round's certified outcome."""
        self._own[number] = outcome
        if len(self._own) > REMEMBERED:
            self._own.popitem(last=False)

    def follow(self, before: Halves) -> None:
        """Carry on what was certified in an earlier epoch."""
        self._own = before._own.copy()

    def forget(self) -> None:
        """This peer stands for nothing any more, and takes over what the others have."""
        self._own.clear()

    @property
    def last(self) -> tuple[int, bytes]:
        """The last certified round and its outcome; 0 and zeros for none."""
        return next(reversed(self._own.items())) if self._own else (0, bytes(32))

    def heard(self, peer: PeerId, number: int, outcome: bytes) -> None:
        """A member of this session said what it certified last; 0 for nothing."""
        if peer in self.members and peer != self.me:
            self._said[peer] = number, outcome

    @property
    def split(self) -> Split:
        """Whether there are two halves, as far as this peer has heard, and which goes on."""
        against: dict[tuple[int, bytes], list[PeerId]] = {}
        here = [self.me]
        for peer, (number, outcome) in sorted(self._said.items()):
            if number in self._own:
                (here if self._own[number] == outcome else against.setdefault((number, outcome), [])).append(peer)
        if not against:
            return Split("one")
        (number, _), there = max(against.items(), key=lambda one: (len(one[1]), one[0]))
        verdict = of_outcomes(here, there, len(self.members), self.c)
        return Split("one") if verdict == "one" else Split(verdict, number, tuple(sorted(here)), tuple(there))
