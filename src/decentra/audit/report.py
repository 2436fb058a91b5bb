"""What an audit came to: the verdict, what shows it, and what no transcript can show."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from decentra.audit.archive import Unreadable
from decentra.audit.findings import Finding, Missing, Verdict, Violation
from decentra.audit.ground import Ground

BEYOND = (
    "that noise was really drawn, or any other randomness",
    "that what a peer put into its update is what its data gives",
    "when anything was sent: clocks are nowhere signed",
)
"""What no transcript shows, whoever reads it."""

NOTHING = "no file that was given holds an entry: there is nothing to judge"


_UNSEEN = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
"""Categories of characters that are not seen, that move a terminal's cursor, or turn the writing around them."""


def visible(text: str) -> str:
    """A text in which every character that is not seen is written as its number: what others signed may hold any.

    >>> visible("a\\u202eb")
    'a\\\\u202eb'
    """
    return "".join(f"\\u{ord(char):04x}" if unicodedata.category(char) in _UNSEEN else char for char in text)


@dataclass(frozen=True)
class SessionReport:
    """One session: an epoch of a charter.

    Attributes:
        session: its name, 32 bytes.
        ground: its charter and spec; None where none of the charters that were given is its.
        entries: the entries of it that were given, each counted once, with what they cite.
        unsigned: how many of them carry no signature of the member that they name; these accuse nobody.
        rounds: the rounds that its members signed anything in.
        findings: violations, and what is missing.
    """

    session: bytes
    ground: Ground | None
    entries: int
    unsigned: int
    rounds: tuple[int, ...]
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Report:
    """What an audit came to.

    Attributes:
        sessions: by name.
        read: entries that were read, with those that stand in several transcripts.
        garbled: entries that could not be read; they accuse nobody.
        unreadable: transcripts that could not be read to their end.
    """

    sessions: tuple[SessionReport, ...]
    read: int
    garbled: int
    unreadable: tuple[Unreadable, ...]

    @property
    def violations(self) -> tuple[Violation, ...]:
        return tuple(one for each in self.sessions for one in each.findings if isinstance(one, Violation))

    @property
    def missing(self) -> tuple[Missing, ...]:
        return tuple(one for each in self.sessions for one in each.findings if isinstance(one, Missing))

    @property
    def verdict(self) -> Verdict:
        """A violation where there is one; else undecided where anything is missing or could not be read, or nothing
        was there to judge."""
        if self.violations:
            return Verdict.VIOLATION
        judged = [each for each in self.sessions if each.ground is not None and each.rounds]
        doubtful = any(each.ground is None or each.unsigned for each in self.sessions)
        if not judged or doubtful or self.missing or self.garbled or self.unreadable:
            return Verdict.UNDECIDED
        return Verdict.CLEAN

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON has it."""
        return {
            "verdict": self.verdict.value,
            "entries_read": self.read,
            "garbled": self.garbled,
            "unreadable": [{"path": str(one.path), "why": one.why} for one in self.unreadable],
            "sessions": [_session(each) for each in self.sessions],
            "no_transcript_shows": list(BEYOND),
        }


def _session(each: SessionReport) -> Mapping[str, Any]:
    ground = each.ground
    return {
        "session": each.session.hex(),
        "group": None if ground is None else ground.charter.group.name,
        "epoch": None if ground is None else ground.epoch,
        "protocol": None if ground is None else ground.spec.name,
        "entries": each.entries,
        "unsigned": each.unsigned,
        "rounds": list(each.rounds),
        "violations": [
            {
                "clause": one.clause,
                "who": one.who.hex(),
                "says": one.says,
                "round": one.round,
                "evidence": [record.entry.hash.hex() for record in one.evidence],
            }
            for one in each.findings
            if isinstance(one, Violation)
        ],
        "missing": [
            {"what": one.what, "whose": None if one.whose is None else one.whose.hex(), "round": one.round}
            for one in each.findings
            if isinstance(one, Missing)
        ],
    }
