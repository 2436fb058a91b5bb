"""The clauses of mesh that signed entries show."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import partial

from decentra.audit.findings import Finding
from decentra.audit.generic import violation
from decentra.audit.record import Record, Round
from decentra.audit.rules import evaluated, reduce, survivors
from decentra.audit.rules.certify import PROPOSE

UPDATE, HOLDING, RELAY, RESULT = "mesh.update", "mesh.holding", "mesh.relay", "mesh.result"

CLAUSES = {"mesh.endorse": "ME-1", UPDATE: "ME-1", HOLDING: "ME-3", RELAY: "ME-4", RESULT: "ME-6"}

ROSTER = ("rendezvous.roster",)

OPENS: Mapping[str, tuple[str, ...]] = {
    "mesh.endorse": ROSTER,
    "mesh.endorsed": ROSTER,
    UPDATE: ROSTER,
    HOLDING: ROSTER,
    RELAY: (PROPOSE, ""),
    RESULT: (PROPOSE, ""),
}

SHARED = reduce.Clauses(UPDATE, "ME-1", "ME-3", "ME-7")


def holdings(round_: Round) -> Iterator[Finding]:
    """A holding names members of the roster, its author first of all, and what these signed."""
    signed: dict[bytes, list[Record]] = defaultdict(list)
    for record in round_.of(UPDATE):
        signed[record.author].append(record)
    for record in round_.of(HOLDING):
        held = dict(record["held"])
        roster = round_.roster(record.author, record["context"])
        if roster is not None and not ({record.author} <= set(held) <= set(roster["members"])):
            yield violation("ME-3", record, "signed a holding that is of no updates of its round", roster)
            continue
        yield from reduce.held_truly(round_, record, signed, "ME-3", "update")


def relays(round_: Round) -> Iterator[Finding]:
    """What is relayed is the update that the certificate of the survivors names."""
    for record in round_.of(RELAY):
        shown = next(iter(round_.cited(record, "update")), None)
        if shown is None:
            continue  # nobody signed it, which is SIGNATURE
        if shown.kind != UPDATE or shown.author != record["author"] or shown.entry.round != round_.number:
            yield violation("ME-4", record, "relayed what is no update of whom it names")
            continue
        roster = round_.roster(record.author, record["context"])
        certified = None if roster is None else round_.certified(record["context"], "survivors", roster)
        parts = None if certified is None else survivors.read(certified)
        if roster is None or parts is None:
            continue
        if (shown.author, shown.entry.body) not in zip(parts[0], parts[2], strict=False):
            agreed = evaluated.agreeing(round_, record, roster)
            yield violation("ME-4", record, "relayed an update that is not certified", *agreed)


RULES: Mapping[str, Callable[[Round], Iterator[Finding]]] = {
    "ME-1": partial(reduce.one_context, clauses=SHARED),
    "ME-3": holdings,
    "ME-4": relays,
    "ME-6": partial(evaluated.results, clause="ME-6"),
    "ME-7": partial(evaluated.outcomes, clause="ME-7"),
}
