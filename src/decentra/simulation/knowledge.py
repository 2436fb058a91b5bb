"""What a coalition of c can compute: whose masks come off with the shares that are out, and which sums are left.

It is given more than it gets: every masked vector whole, and every share that any honest peer showed to anyone. An
honest vector under a context is y = x + PRG(b) ± Σ PRG(k); b is known to who holds t of its shares, k to who holds t
shares of either end's mask key, or is an end. What can be computed then is the sum over a set of honest peers whose b
are all known, and whose k are all known or cancel: a connected part of the graph whose edges are the unknown k.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from decentra.derive import quorum
from decentra.types import PeerId

Judge = Callable[[str, PeerId | None, str], None]


@dataclass(frozen=True)
class Masking:
    """A peer's update, masked under a context."""

    peer: PeerId
    context: bytes
    update: str
    roster: tuple[PeerId, ...]


Member = tuple[PeerId, str]
"""Whose update, and which of that peer's."""

Computes = Callable[[frozenset[PeerId]], Iterable[frozenset[Member]]]
"""Gives the sets of honest updates whose sums a coalition can compute."""


class Knowledge:
    """Everything that has left honest peers and says something of their vectors.

    Args:
        peers: everybody.
        c: how many collude.
        liars: who surely does; as many more are taken as c allows, whichever learn most.
    """

    def __init__(self, peers: Sequence[PeerId], c: int, liars: frozenset[PeerId]) -> None:
        self._peers, self._c, self._liars = tuple(peers), c, liars
        self._masked: dict[bytes, dict[PeerId, Masking]] = defaultdict(dict)
        self._shown: dict[tuple[bytes, str, PeerId], set[PeerId]] = defaultdict(set)

    def masked(self, masking: Masking) -> None:
        """A masked vector has left."""
        self._masked[masking.context].setdefault(masking.peer, masking)

    def shown(self, context: bytes, kind: str, dealer: PeerId, by: PeerId) -> None:
        """An honest peer showed its share of one of a dealer's secrets: ``self`` or ``key``."""
        self._shown[context, kind, dealer].add(by)

    def coalitions(self) -> Iterable[frozenset[PeerId]]:
        """Every coalition of c with all liars in it."""
        rest = [peer for peer in self._peers if peer not in self._liars]
        for more in combinations(rest, max(0, self._c - len(self._liars))):
            yield self._liars | frozenset(more)

    def known(
        self, context: bytes, kind: str, dealer: PeerId, coalition: frozenset[PeerId], roster: Sequence[PeerId]
    ) -> bool:
        """Whether a coalition can rebuild a secret: of the shares that are out, and its own."""
        holders = self._shown.get((context, kind, dealer), frozenset()) | coalition.intersection(roster)
        return len(holders) >= quorum(len(roster), self._c)

    def sums(self, coalition: frozenset[PeerId]) -> list[frozenset[Member]]:
        """The sets of honest updates whose sums a coalition can compute, context by context."""
        found: list[frozenset[Member]] = []
        for context, maskings in self._masked.items():
            roster = next(iter(maskings.values())).roster
            honest = [peer for peer in roster if peer not in coalition]
            bare = {peer for peer in honest if self.known(context, "self", peer, coalition, roster)}
            if not bare:
                continue
            keys = {peer for peer in honest if self.known(context, "key", peer, coalition, roster)}
            hidden = frozenset(peer for peer in honest if peer not in keys)  # their pairs hide each other
            parts = [frozenset({peer}) for peer in honest if peer in keys]
            for part in (*parts, *([hidden] if hidden else [])):
                if part <= bare and part <= maskings.keys():
                    found.append(frozenset((peer, maskings[peer].update) for peer in part))
        return found

    def judge(self, violated: Judge, computes: Computes | None = None) -> None:
        """No lone update, and no two different sums over one update, can be computed.

        Args:
            violated: told what can.
            computes: gives the sets of updates whose sums a coalition computes, in place of counting its shares.
        """
        if not self._shown:
            return
        for coalition in self.coalitions():
            sums = list((computes or self.sums)(coalition))
            for one in sums:
                if len(one) < 2:
                    (peer, _), *_ = one
                    violated("SA-6", peer, "its update alone can be computed from what is out")
            for first, second in combinations(sums, 2):
                if first != second and first & second:
                    violated("SA-4", None, "two different sums over one update can be computed from what is out")
