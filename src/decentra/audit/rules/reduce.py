"""The clauses that secagg and allreduce share: one context, true holdings, an outcome that is what the sums give."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from decentra import derive
from decentra.audit.findings import Finding, Missing
from decentra.audit.generic import violation
from decentra.audit.record import Record, Round
from decentra.audit.rules import survivors

LOST = b"lost"
MOST_WEIGHTS = 1 << 12
"""Total weights that are tried for an outcome: its hash covers the weight, which no message carries."""


@dataclass(frozen=True)
class Clauses:
    """The ids under which a protocol has these clauses, and the kind of its message with the slices' roots."""

    slices: str
    context: str
    holding: str
    outcome: str


def one_context(round_: Round, clauses: Clauses) -> Iterator[Finding]:
    """Whatever a peer signs under a context is under the one that it endorsed."""
    name = round_.ground.spec.name
    endorsed: dict[bytes, Record] = {record.author: record for record in round_.of(f"{name}.endorse")}
    contexts = {(record.author, record["context"]) for record in round_.of(f"{name}.endorse")}
    for record in round_.records:
        own = endorsed.get(record.author)
        if "context" not in record.fields or (record.author, record["context"]) in contexts:
            continue
        if own is None:
            yield Missing("the endorsement of a context", record.author, round_.number)
        else:
            said = f"signed a {record.kind} under another context than it endorsed"
            yield violation(clauses.context, record, said, own)


def holdings(round_: Round, clauses: Clauses) -> Iterator[Finding]:
    """A holding is of a slice of the roster, names members of it, its author first of all, and their lists truly."""
    lists: dict[bytes, list[Record]] = defaultdict(list)
    for record in round_.of(clauses.slices):
        lists[record.author].append(record)
    for record in round_.of(f"{round_.ground.spec.name}.holding"):
        held = dict(record["held"])
        roster = round_.roster(record.author, record["context"])
        if roster is not None:
            known = set(held) <= set(roster["members"])
            if not record["slice"] < len(roster["members"]) or not known or record.author not in held:
                yield violation(clauses.holding, record, "signed a holding that is of no slice of its round", roster)
                continue
        yield from held_truly(round_, record, lists, clauses.holding, "list")


def held_truly(
    round_: Round, record: Record, signed: Mapping[bytes, Sequence[Record]], clause: str, what: str
) -> Iterator[Finding]:
    """A holding names what its author signed itself; where it names what another did not, either may lie.

    Args:
        signed: of each member what it signed that can be held.
        what: what that is.
    """
    for peer, hashed in record["held"]:
        if not signed.get(peer) or any(one.entry.body == hashed for one in signed[peer]):
            continue
        if peer == record.author:
            said = f"holds another {what} of its own than it signed"
            yield violation(clause, record, said, signed[peer][0])
        else:
            other, holder = round_.ground.name(peer), round_.ground.name(record.author)
            yield Missing(f"whether {other} signed the {what} that {holder} says to hold", peer, round_.number)


def outcomes(round_: Round, clauses: Clauses) -> Iterator[Finding]:
    """An outcome that is proposed is the hash of what the sums that it shows are, with a weight in its bounds."""
    charter = round_.ground.charter
    for record in round_.of("certify.propose"):
        if record["topic"] != "outcome" or record["value"] == LOST or record["locked"]:
            continue
        roster = round_.roster(record.author, record["context"])
        certified = None if roster is None else round_.certified(record["context"], "survivors", roster)
        parts = None if certified is None else survivors.read(certified)
        if roster is None or certified is None or parts is None:
            continue
        shown = round_.cited(record, "shown")
        sums = [one for one in shown if one is not None and one.kind == f"{round_.ground.spec.name}.sum"]
        whole = len(sums) == len(shown) == len(roster["members"])
        if not whole or [one["slice"] for one in sums] != list(range(len(sums))):
            yield violation(clauses.outcome, record, "proposed an outcome without one sum of every slice", roster)
            continue
        digest = derive.vote_value(record["context"], "survivors", certified)
        count, roots = len(parts[0]), tuple(one["root"] for one in sums)
        weights = range(count, count * charter.protocol.max_weight + 1)
        values = (derive.outcome_value(record["context"], digest, weight, roots) for weight in weights[:MOST_WEIGHTS])
        if record["value"] in values:
            continue
        if len(weights) > MOST_WEIGHTS:
            yield Missing("the total weight of an outcome", None, round_.number)
        else:
            said = "proposed an outcome that the sums it shows do not give"
            yield violation(clauses.outcome, record, said, *sums)
