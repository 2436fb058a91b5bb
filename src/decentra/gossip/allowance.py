"""What a neighbour may cost this peer in a second: a token bucket for each."""

from __future__ import annotations

from decentra.types import PeerId


class Allowance:
    """What each neighbour may make this peer spend, on signatures say: so much a second, and so much at once."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst
        self._left: dict[PeerId, tuple[float, float]] = {}

    def spend(self, peer: PeerId, now: float, cost: float = 1.0) -> bool:
        """Take the cost from a member's allowance; False, and nothing taken, where it does not suffice."""
        left, at = self._left.get(peer, (self._burst, now))
        left = min(self._burst, left + (now - at) * self._rate)
        enough = left >= cost
        self._left[peer] = (left - cost if enough else left, now)
        return enough
