"""The error tree: who has to act when something goes wrong.

Every error is one sentence that says whose fault it is, which clause was broken, and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Self

from decentra.types import PeerId

_EVIDENT = 0.65
"""How alike two words must be to ask "did you mean": below the 0.75 of one slip in a word of four letters, and below
the 2/3 of one in three."""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that a typing slip would have turned into ``word``, if there is one."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=_EVIDENT)
    return close[0] if close else None


def did_you_mean(word: str, known: Iterable[str], otherwise: str) -> str:
    """The mend of an unknown word: the nearest that is known, as a question, or else what ``otherwise`` says.

    >>> did_you_mean("medina", ["mean", "median"], "choose of mean, median")
    "did you mean 'median'?"
    """
    near = nearest(word, known)
    return otherwise if near is None else f"did you mean {near!r}?"


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
        peer: who broke it; None where nobody can be named for it.
        clause: the id of the broken clause, such as ``SA-3`` or a generic rule such as ``SCHEMA``.
    """

    def __init__(self, peer: PeerId | None, clause: str, message: str) -> None:
        super().__init__(f"{'an unnamed peer' if peer is None else f'peer {peer}'} broke {clause}: {message}")
        self.peer = peer
        self.clause = clause
        self.reason = message


class Unavailable(DecentraError):
    """Waiting failed: nobody broke a clause, but somebody did not answer in time.

    Attributes:
        waited_for: the peers that did not answer.
        seconds: how long the wait lasted; 0 where it was over at once, since it could not succeed any more.
    """

    def __init__(self, waited_for: Iterable[PeerId], seconds: float, what: str, mend: str) -> None:
        self.waited_for = tuple(waited_for)
        self.seconds = seconds
        self._what, self._mend = what, mend
        names = ", ".join(str(peer) for peer in self.waited_for)
        if seconds:
            said = f"waited {seconds:.1f} s for {what} from {names or 'the group'}"
        else:
            said = f"without {names} nothing comes of {what}" if names else f"nothing comes of {what}"
        super().__init__(f"{said}; {mend}")

    def because(self, reason: str) -> Self:
        """The same error with what is known of why nobody answered."""
        known = type(self)(self.waited_for, self.seconds, self._what, f"{self._mend} ({reason})")
        known.spent = self.spent
        return known


class Underway(Unavailable):
    """The group is in the middle of its training: there is no common beginning to agree on any more, and this peer
    comes in at the next round."""


class Amended(Unavailable):
    """The group's charter was amended while a round was still gathering: it begins again in the next epoch."""


class Behind(Unavailable):
    """The others are in a later round, and this peer can go there at once.

    Attributes:
        round: the number of that round.
    """

    round = 0

    @classmethod
    def of(cls, waited_for: Iterable[PeerId], what: str, round: int) -> Self:
        error = cls(waited_for, 0.0, what, f"they are in round {round}, where this peer goes too")
        error.round = round
        return error

    def because(self, reason: str) -> Self:
        known = super().because(reason)
        known.round = self.round
        return known
