"""The clauses of rendezvous that signed entries show: one readiness, one model, rosters by their rules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from decentra.audit.findings import Finding, Missing
from decentra.audit.generic import violation
from decentra.audit.record import Record, Round

ROSTER = "rendezvous.roster"

OPENS: Mapping[str, tuple[str, ...]] = {}
"""Nothing opens a round's first phase, and what ends one ends any."""

CLAUSES = {"rendezvous.ready": "RV-1", ROSTER: "RV-3", "rendezvous.abort": "RV-7"}
"""Which clause allows a message once."""

CODES = frozenset(
    ("SCHEMA", "SESSION", "SIGNATURE", "ROLE", "EQUIVOCATION", "REPLAY", "CHARTER", "DIGEST", "DEADLINE", "LOCAL")
)
"""What an abort may name beside the clauses of the spec (``specs/wire``)."""


def same_model(round_: Round) -> Iterator[Finding]:
    """RV-2: who endorses a context trains the model that its roster names, as its own readiness said."""
    ready = {record.author: record for record in round_.of("rendezvous.ready")}
    for endorsed in round_.of(f"{round_.ground.spec.name}.endorse"):
        roster, said = round_.roster(endorsed.author, endorsed["context"]), ready.get(endorsed.author)
        if roster is None or said is None:
            continue  # what opened the endorsement is missed where the order is held
        if (said["fingerprint"], said["layout"]) != (roster["fingerprint"], roster["layout"]):
            yield violation("RV-2", endorsed, "endorsed a roster of another model than it was ready with", said, roster)


def proposer(round_: Round) -> Iterator[Finding]:
    """RV-3: a view's roster comes from its proposer."""
    turns = round_.ground.order(round_.number)
    for roster in round_.of(ROSTER):
        if turns[roster["view"] % len(turns)] != roster.author:
            yield violation("RV-3", roster, f"offered a roster in view {roster['view']}, which is not its own")
        elif roster.author not in roster["members"]:
            yield violation("ROLE", roster, "offered a roster that it is not in itself")


def cites(round_: Round) -> Iterator[Finding]:
    """RV-4: a roster cites why each member that it leaves out is left out."""
    for roster in round_.of(ROSTER):
        shown = round_.cited(roster, "citations")
        for peer in round_.ground.members:
            if peer not in roster["members"] and not _excused(round_, roster, peer, shown):
                said = f"leaves out {round_.ground.name(peer)} and cites nothing that shows why"
                yield violation("RV-4", roster, said)


def _excused(round_: Round, roster: Record, peer: bytes, shown: tuple[Record | None, ...]) -> bool:
    absent = set()
    for one in shown:
        if one is None or one.body is None:
            continue
        own, here = one.author == peer, one.entry.round == round_.number
        if own and one.kind == "rendezvous.leave" and one.entry.round <= round_.number:
            return True
        if own and one.kind == "rendezvous.ready" and one.entry.round > round_.number:
            return True
        if own and here and one.kind == "rendezvous.abort":
            return True
        if own and here and one.kind == "rendezvous.ready":
            return bool((one["fingerprint"], one["layout"]) != (roster["fingerprint"], roster["layout"]))
        if here and one.kind == "rendezvous.absent" and peer in one["peers"]:
            absent.add(one.author)
    return len(absent) > round_.ground.c


def floor(round_: Round) -> Iterator[Finding]:
    """RV-5: a roster is an ascending list of members, and at least as many as the charter's floor."""
    least = round_.ground.charter.roster_floor
    for roster in round_.of(ROSTER):
        chosen = roster["members"]
        if list(chosen) != sorted(set(chosen)) or not set(chosen) <= set(round_.ground.members):
            yield violation("RV-5", roster, "offered a roster that is no ascending list of members, each once")
        elif len(chosen) < least:
            yield violation("RV-5", roster, f"offered a roster of {len(chosen)}, where the floor is {least}")


def abort(round_: Round) -> Iterator[Finding]:
    """RV-7: who ends a round and blames somebody names a clause that there is, and members. Who ends it because another
    did repeats that one's clause, and blames nobody."""
    known = CODES | round_.ground.spec.clauses.keys()
    for ended in round_.of("rendezvous.abort"):
        blamed = set(ended["blamed"])
        if blamed and (ended["clause"] not in known or not blamed <= set(round_.ground.members)):
            yield violation("RV-7", ended, f"ended a round by {ended['clause'][:40]!r}, or blames who is no member")


def rosters_are_here(round_: Round) -> Iterator[Finding]:
    """What is missing to tell: a roster whose members acted and which no transcript holds."""
    for endorsed in round_.of(f"{round_.ground.spec.name}.endorse"):
        opened = round_.find(endorsed.entry.after)
        if opened is not None and round_.roster(endorsed.author, endorsed["context"]) is None:
            yield Missing("the roster of a context", endorsed.author, round_.number)


RULES: Mapping[str, Callable[[Round], Iterator[Finding]]] = {
    "RV-2": same_model,
    "RV-3": proposer,
    "RV-4": cites,
    "RV-5": floor,
    "RV-7": abort,
    "": rosters_are_here,
}
