"""Whom to probe next, what is known of the probe under way, and how well this peer itself is.

The order is random and round-robin, so that everyone is probed within 2n − 1 periods (SWIM, section 4.3). Who is under
suspicion is probed out of turn, once an incarnation and every other period at most: c+1 members must have seen for
themselves that it does not answer, and one lap would be long for that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from decentra.gossip.draws import Draws
from decentra.gossip.limits import MOST_HEALTH
from decentra.types import PeerId


@dataclass
class Probe:
    """One probe: its number, whom others were asked to probe for us, and who of them said that they got no answer."""

    subject: PeerId
    number: int
    answered: bool = False
    proxies: frozenset[PeerId] = frozenset()
    nacks: set[PeerId] = field(default_factory=set)


class Order:
    """The order of probing: laps through all others, each shuffled anew, and who is to be confirmed between."""

    def __init__(self, others: Sequence[PeerId], draws: Draws) -> None:
        self._others, self._draws = others, draws
        self._lap: list[PeerId] = []
        self._confirm: dict[PeerId, None] = {}
        self._confirmed = False

    def confirm(self, peer: PeerId) -> None:
        """Probe a peer out of turn."""
        self._confirm[peer] = None

    def next(self, wanted: Callable[[PeerId], bool], doubtful: Callable[[PeerId], bool]) -> PeerId | None:
        """The next to probe: of those to confirm, who still is doubtful; else of the lap, who is wanted; else None."""
        if not self._confirmed:
            while self._confirm:
                peer = next(iter(self._confirm))
                del self._confirm[peer]
                if doubtful(peer):
                    self._confirmed = True
                    return peer
        self._confirmed = False
        for _ in range(2):
            while self._lap:
                peer = self._lap.pop()
                if wanted(peer):
                    return peer
            self._lap = list(self._draws.shuffled(self._others))
        return None


class Health:
    """Lifeguard's local health multiplier: how far this peer's own slowness explains that others don't answer."""

    __slots__ = ("score",)

    def __init__(self) -> None:
        self.score = 0

    def note(self, change: int) -> None:
        """Better below 0, worse above."""
        self.score = min(MOST_HEALTH, max(0, self.score + change))

    def stretched(self, seconds: float) -> float:
        """A time, as long as this peer's health makes it."""
        return seconds * (1 + self.score)
