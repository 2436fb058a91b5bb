"""Which clauses the others broke: said a bounded number of times, and who goes on breaking them is cut for a while."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from decentra.types import PeerId

MOST_FAULTS = 16
"""Faults of a peer that are not forgiven yet, after which it is cut. A lie costs its round and leaves one or a few; a
peer that runs under another charter greets with one every ten seconds."""

FORGIVEN_AFTER = 5.0
"""Seconds after which one fault is forgiven."""

CUT_FIRST = 30.0
"""Seconds for which a peer is cut the first time; doubled with every further one."""

CUT_MOST = 600.0
"""Seconds for which a peer is cut at most: who mends its peer is heard again without a call to every other owner."""


@dataclass
class _Record:
    faults: float = 0.0
    since: float = 0.0
    cuts: int = 0


class Conduct:
    """What is held against each neighbour."""

    def __init__(self, others: Iterable[PeerId]) -> None:
        self._records = {peer: _Record() for peer in others}
        self._said: Counter[tuple[PeerId | None, str]] = Counter()
        self.cut: set[PeerId] = set()
        """Who is cut at this moment."""

    def count(self, peer: PeerId | None, clause: str) -> int:
        """One more fault under a clause, of somebody who may have no name; how many of its kind there were."""
        self._said[peer, clause] += 1
        return self._said[peer, clause]

    def exhausted(self, peer: PeerId, now: float) -> float | None:
        """A fault came over the peer's own connection. For how many seconds it is cut now; None where it isn't."""
        record = self._records[peer]
        record.faults = max(0.0, record.faults - (now - record.since) / FORGIVEN_AFTER) + 1
        record.since = now
        if record.faults < MOST_FAULTS or peer in self.cut:
            return None
        record.faults, record.cuts = 0.0, record.cuts + 1
        self.cut.add(peer)
        return float(min(CUT_FIRST * 2 ** (record.cuts - 1), CUT_MOST))


def worth_saying(count: int) -> bool:
    """Whether a fault of its kind is told: the first, and then each time that there are twice as many."""
    return count & (count - 1) == 0
