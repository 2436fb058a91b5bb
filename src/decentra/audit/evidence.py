"""Evidence: of all that shows a violation, a few entries that show it by themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from decentra.audit.findings import Finding, Violation
from decentra.audit.record import Record, Round

MOST_TRIES = 300
"""How often a round is judged again for one violation; what convinces by then is its evidence."""

Judge = Callable[[Round], Sequence[Finding]]


def portable(violation: Violation, round_: Round, judge: Judge) -> Violation:
    """The same violation with evidence that convinces who has nothing but it, the charter and the spec.

    The entries that a rule names are tried first, with those that say under which roster their authors acted; else all
    of the round, less whatever can be left out. What is kept was judged again by itself, so that it convinces.
    """
    named = dict.fromkeys(violation.evidence)
    for record in violation.evidence:
        named |= dict.fromkeys(_grounds(record, round_))
    if _convinces(tuple(named), violation, round_, judge):
        return replace(violation, evidence=_least(tuple(named), violation, round_, judge))
    return replace(violation, evidence=_least(tuple(round_.records), violation, round_, judge))


def _grounds(record: Record, round_: Round) -> list[Record]:
    """What puts an author under a context: its endorsement, and what that cites."""
    found = []
    for endorsed in round_.of(f"{round_.ground.spec.name}.endorse"):
        if endorsed.author == record.author and endorsed["context"] == record["context"]:
            opened: Record | None = endorsed
            while opened is not None and opened not in found:
                found.append(opened)
                opened = round_.find(opened.entry.after)
    return found


def _convinces(kept: Sequence[Record], violation: Violation, round_: Round, judge: Judge) -> bool:
    found = judge(Round(round_.ground, round_.number, kept))
    same = (violation.clause, violation.who, violation.evidence[-1].entry.hash)
    return any(
        isinstance(one, Violation) and (one.clause, one.who, one.evidence[-1].entry.hash) == same for one in found
    )


def _least(kept: Sequence[Record], violation: Violation, round_: Round, judge: Judge) -> tuple[Record, ...]:
    """Leave out whatever the violation shows without, in ever smaller pieces (after Zeller and Hildebrandt 2002)."""
    size, tries = max(1, len(kept) // 2), 0
    while tries < MOST_TRIES:
        at, left_out = 0, False
        while at < len(kept) and tries < MOST_TRIES:
            tries += 1
            tried = (*kept[:at], *kept[at + size :])
            if _convinces(tried, violation, round_, judge):
                kept, left_out = tried, True
            else:
                at += size
        if size == 1 and not left_out:
            return tuple(kept)
        size = size if left_out and size == 1 else max(1, size // 2)
    return tuple(kept)
