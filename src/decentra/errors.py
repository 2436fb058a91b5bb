"""The error tree: who has to act when something goes wrong.

Every error is one sentence that says whose fault it is, which clause was broken, and what to do next.
"""

from __future__ import annotations

from collections.abc import Iterable

from decentra.types import PeerId


class DecentraError(Exception):
    """The root of everything that decentra raises.

    Attributes:
        spent: whether this peer's update of the round that failed has left it, masked, and may not be sent again.
            Where nobody knows better it counts as spent, unless this peer itself refused before anything was sent.
    """

    spent: bool = True


class LocalError(DecentraError):
    """You: a configuration, an argument or a call that this peer cannot honour."""

    spent: bool = False


class RemoteError(DecentraError):
    """A peer broke a clause of a spec.

    Attributes:
        peer: who broke it; None where the sender could not be authenticated.
        clause: the id of the broken clause, such as ``SA-3`` or a generic rule such as ``SCHEMA``.
    """

    def __init__(self, peer: PeerId | None, clause: str, message: str) -> None:
        super().__init__(f"{'an unknown sender' if peer is None else f'peer {peer}'} broke {clause}: {message}")
        self.peer = peer
        self.clause = clause
        self.reason = message


class Unavailable(DecentraError):
    """Waiting failed: nobody broke a clause, but somebody did not answer in time.

    Attributes:
        waited_for: the peers that did not answer.
        seconds: how long the wait lasted.
    """

    def __init__(self, waited_for: Iterable[PeerId], seconds: float, what: str, mend: str) -> None:
        self.waited_for = tuple(waited_for)
        self.seconds = seconds
        self._what, self._mend = what, mend
        names = ", ".join(str(peer) for peer in self.waited_for) or "the group"
        super().__init__(f"waited {seconds:.1f} s for {what} from {names}; {mend}")

    def because(self, reason: str) -> Unavailable:
        """The same error with what is known of why nobody answered."""
        return Unavailable(self.waited_for, self.seconds, self._what, f"{self._mend} ({reason})")


class Underway(Unavailable):
    """The group is in the middle of its training: there is no common beginning to agree on any more, and this peer
    comes in at the next round."""
