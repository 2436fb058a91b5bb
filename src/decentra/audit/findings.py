"""What an audit finds: violations, each with the entries that show it, and what is missing to tell."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from decentra.types import PeerId

if TYPE_CHECKING:
    from decentra.audit.record import Record


class Verdict(StrEnum):
    """What an audit comes to; a violation weighs more than what is missing beside it."""

    CLEAN = "clean"
    VIOLATION = "violation"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Violation:
    """A clause that a peer broke, by its own signature.

    Attributes:
        clause: the clause's id in the spec, or the name of a generic rule.
        who: the peer that broke it.
        says: what it did, as a sentence that goes on from its name.
        round: the round in which it did.
        evidence: the entries that show it by themselves, to anyone who has the charter and the spec.
    """

    clause: str
    who: PeerId
    says: str
    round: int
    evidence: tuple[Record, ...] = field(repr=False)


@dataclass(frozen=True)
class Missing:
    """Something that a signed entry cites and that no transcript holds: without it some clause can't be told.

    Attributes:
        what: what is missing, as a noun.
        whose: who had it when it signed: its author, or the author of what cites it, where that can be told.
        round: the round of the entry that cites it.
    """

    what: str
    whose: PeerId | None
    round: int


Finding = Violation | Missing
