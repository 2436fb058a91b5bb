"""The clauses that mesh and bucketed share: a result that all evaluate on a certified set, an outcome that results
show."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from decentra import derive
from decentra.audit.findings import Finding
from decentra.audit.generic import violation
from decentra.audit.record import Record, Round
from decentra.audit.rules.certify import PROPOSE
from decentra.audit.rules.reduce import LOST


def _results(round_: Round) -> list[Record]:
    return round_.of(f"{round_.ground.spec.name}.result")


def results(round_: Round, clause: str) -> Iterator[Finding]:
    """Of results under one certificate, what more peers than may lie signed alike is right, and any other is not."""
    alike: dict[tuple[object, ...], list[Record]] = defaultdict(list)
    for record in _results(round_):
        alike[record["context"], record["survivors"], record["weight"], record["root"]].append(record)
    for record in _results(round_):
        roster = round_.roster(record.author, record["context"])
        certified = None if roster is None else round_.certified(record["context"], "survivors", roster)
        if roster is None or certified is None:
            continue
        if record["survivors"] != derive.vote_value(record["context"], "survivors", certified):
            said = "signed a result of other survivors than are certified"
            yield violation(clause, record, said, *agreeing(round_, record, roster))
            continue
        place = (record["context"], record["survivors"])
        for (*where, weight, root), others in alike.items():
            signers = {one.author: one for one in others}
            if tuple(where) != place or (weight, root) == (record["weight"], record["root"]):
                continue
            if len(signers) > round_.ground.c:
                said = "signed another result than more peers than may lie"
                yield violation(clause, record, said, roster, *signers.values())


def agreeing(round_: Round, record: Record, roster: Record) -> tuple[Record, ...]:
    """What shows which survivors are certified: t commits to them, and a proposal of their value."""
    votes = [
        one
        for one in round_.of("certify.commit", PROPOSE)
        if (one["context"], one["topic"]) == (record["context"], "survivors")
    ]
    return (roster, *votes)


def outcomes(round_: Round, clause: str) -> Iterator[Finding]:
    """An outcome that is proposed is the hash of a result that it shows more peers than may lie to have signed."""
    for record in round_.of(PROPOSE):
        if record["topic"] != "outcome" or record["value"] == LOST or record["locked"]:
            continue
        roster = round_.roster(record.author, record["context"])
        certified = None if roster is None else round_.certified(record["context"], "survivors", roster)
        if roster is None or certified is None:
            continue
        digest = derive.vote_value(record["context"], "survivors", certified)
        kind = f"{round_.ground.spec.name}.result"
        shown = [one for one in round_.cited(record, "shown") if one is not None and one.kind == kind]
        values = {
            derive.outcome_value(record["context"], digest, one["weight"], (one["root"],))
            for one in shown
            if (one["context"], one["survivors"]) == (record["context"], digest)
        }
        signers = {one.author for one in shown if one.author in roster["members"]}
        whole = len(shown) == len(tuple(round_.cited(record, "shown")))
        if values != {record["value"]} or not whole or len(signers) <= round_.ground.c:
            said = "proposed an outcome that no c + 1 results which it shows give"
            yield violation(clause, record, said, *agreeing(round_, record, roster))
