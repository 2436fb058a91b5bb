"""How far the others have come, as their messages show, and what of it is kept for a later round of this peer's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from decentra.protocols.rendezvous.messages import Leave, Ready
from decentra.types import PeerId
from decentra.wire.message import Verified

AHEAD = 4
"""Messages of a later round that are kept for a peer: before a roster names this peer, nobody sends it more."""

_GATHERING = "rendezvous."
"""How the kinds of the messages begin by which a round finds its roster; any other is of a round that has it."""


class Others:
    """The other members.

    Args:
        peers: who they are.
        collude: how many members may lie together, the charter's c.

    Attributes:
        left: the word of each that has left; it counts for every later round, until the peer speaks again.
        ahead: of each peer the readiness for the latest round: it takes part in no earlier one any more.
    """

    def __init__(self, peers: Iterable[PeerId], collude: int) -> None:
        self._collude = collude
        self.left: dict[PeerId, Verified] = {}
        self.ahead: dict[PeerId, Verified] = {}
        self._ready: dict[PeerId, tuple[int, float]] = {}
        """Of each peer the latest round that it was ready for, and when this peer heard it."""
        self._gave: dict[PeerId, tuple[int, float]] = {}
        """Of each peer the latest round that it gave an update in, and when this peer heard it."""
        self._rounds = dict.fromkeys(peers, 0)
        """The latest round that each peer signed something in."""
        self._begun = dict.fromkeys(self._rounds, 0)
        """The latest round that each peer knows a roster of."""
        self._kept: dict[PeerId, list[Verified]] = {}

    def heard(self, verified: Verified, now: float) -> None:
        """A new message of a peer's came."""
        peer, message, number = verified.sender, verified.message, verified.entry.round
        if isinstance(message, Leave):
            self.left[peer] = verified
            return
        self.left.pop(peer, None)
        if isinstance(message, Ready):
            self._ready[peer] = number, now
        if number > self._rounds[peer]:
            self._rounds[peer] = number
            if isinstance(message, Ready):
                self.ahead[peer] = verified
        if number > self._begun[peer] and not message.kind.startswith(_GATHERING):
            self._begun[peer] = number

    def gave(self, verified: Verified, now: float) -> None:
        """A peer's update is on its way: its slices are signed."""
        self._gave.setdefault(verified.sender, (0, now))
        if verified.entry.round > self._gave[verified.sender][0]:
            self._gave[verified.sender] = verified.entry.round, now

    def keep(self, verified: Verified) -> None:
        """Keep a few messages of the latest round that a peer has reached; this peer may have to catch up with it."""
        queue, number = self._kept.setdefault(verified.sender, []), verified.entry.round
        if queue and queue[0].entry.round < number:
            queue.clear()
        behind = bool(queue) and queue[0].entry.round > number  # an honest peer never goes back
        if len(queue) < AHEAD and not behind:
            queue.append(verified)

    def kept(self, peer: PeerId) -> tuple[Verified, ...]:
        """What is kept of a peer's."""
        return tuple(self._kept.get(peer, ()))

    def take(self) -> list[Verified]:
        """Everything that was kept, to be kept no more."""
        kept, self._kept = self._kept, {}
        return [verified for queue in kept.values() for verified in queue]

    def ready(self, number: int) -> list[float]:
        """When this peer heard of each that was ready for a round."""
        return [when for at, when in self._ready.values() if at == number]

    def given(self, number: int) -> list[float]:
        """When this peer heard of each that gave an update in a round."""
        return [when for at, when in self._gave.values() if at == number]

    @property
    def round(self) -> int:
        """The latest round that more than c of them have signed something in: one of these is honest."""
        return self._vouched(self._rounds)

    @property
    def begun(self) -> int:
        """The latest round that more than c of them take part in, so that it has a roster already."""
        return self._vouched(self._begun)

    def _vouched(self, rounds: Mapping[PeerId, int]) -> int:
        latest = sorted(rounds.values(), reverse=True)
        return latest[self._collude] if len(latest) > self._collude else 0
