"""The clauses of mesh that signed entries show."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import partial

from decentra import derive
from decentra.audit.findings import Finding
from decentra.audit.generic import violation
from decentra.audit.record import Record, Round
from decentra.audit.rules import reduce, survivors
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
            yield violation("ME-4", record, "relayed an update that is not certified", *_show(round_, record, roster))


def results(round_: Round) -> Iterator[Finding]:
    """Of results under one certificate, what more peers than may lie signed alike is right, and any other is not."""
    alike: dict[tuple[object, ...], list[Record]] = defaultdict(list)
    for record in round_.of(RESULT):
        alike[record["context"], record["survivors"], record["weight"], record["root"]].append(record)
    for record in round_.of(RESULT):
        roster = round_.roster(record.author, record["context"])
        certified = None if roster is None else round_.certified(record["context"], "survivors", roster)
        if roster is None or certified is None:
            continue
        if record["survivors"] != derive.vote_value(record["context"], "survivors", certified):
            said = "signed a result of other survivors than are certified"
            yield violation("ME-6", record, said, *_show(round_, record, roster))
            continue
        place = (record["context"], record["survivors"])
        for (*where, weight, root), others in alike.items():
            signers = {one.author: one for one in others}
            if tuple(where) != place or (weight, root) == (record["weight"], record["root"]):
                continue
            if len(signers) > round_.ground.c:
                said = "signed another result than more peers than may lie"
                yield violation("ME-6", record, said, roster, *signers.values())


def _show(round_: Round, record: Record, roster: Record) -> tuple[Record, ...]:
    """What shows which survivors are certified: t commits to them, and a proposal of their value."""
    votes = [
        one
        for one in round_.of("certify.commit", PROPOSE)
        if (one["context"], one["topic"]) == (record["context"], "survivors")
    ]
    return (roster, *votes)


def outcomes(round_: Round) -> Iterator[Finding]:
    """An outcome that is proposed is the hash of a result that it shows more peers than may lie to have signed."""
    for record in round_.of(PROPOSE):
        if record["topic"] != "outcome" or record["value"] == reduce.LOST or record["locked"]:
            continue
        roster = round_.roster(record.author, record["context"])
        certified = None if roster is None else round_.certified(record["context"], "survivors", roster)
        if roster is None or certified is None:
            continue
        digest = derive.vote_value(record["context"], "survivors", certified)
        shown = [one for one in round_.cited(record, "shown") if one is not None and one.kind == RESULT]
        values = {
            derive.outcome_value(record["context"], digest, one["weight"], (one["root"],))
            for one in shown
            if (one["context"], one["survivors"]) == (record["context"], digest)
        }
        signers = {one.author for one in shown if one.author in roster["members"]}
        whole = len(shown) == len(tuple(round_.cited(record, "shown")))
        if values != {record["value"]} or not whole or len(signers) <= round_.ground.c:
            said = "proposed an outcome that no c + 1 results which it shows give"
            yield violation("ME-7", record, said, *_show(round_, record, roster))


RULES: Mapping[str, Callable[[Round], Iterator[Finding]]] = {
    "ME-1": partial(reduce.one_context, clauses=SHARED),
    "ME-3": holdings,
    "ME-4": relays,
    "ME-6": results,
    "ME-7": outcomes,
}
