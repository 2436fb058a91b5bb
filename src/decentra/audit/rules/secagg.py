"""The clauses of secagg that signed entries show: what is masked once, and whose secrets are shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

from decentra import derive
from decentra.audit.findings import Finding
from decentra.audit.generic import violation
from decentra.audit.record import Round
from decentra.audit.rules import reduce, survivors
from decentra.audit.rules.certify import PROPOSE

CLAUSES = {
    "secagg.deal": "SA-1",
    "secagg.context": "SA-2",
    "secagg.endorse": "SA-2",
    "secagg.masked": "SA-4",
    "secagg.again": "SA-10",
    "secagg.holding": "SA-11",
    "secagg.unmask": "SA-7",
    "secagg.sum": "SA-8",
    "secagg.beacon": "SA-12",
    "secagg.part": "SA-10",
    "secagg.checked": "SA-13",
}

ROSTER = ("rendezvous.roster",)

OPENS: Mapping[str, tuple[str, ...]] = {
    "secagg.deal": ROSTER,
    "secagg.context": ROSTER,
    "secagg.endorse": ("secagg.context",),
    "secagg.endorsed": ROSTER,
    "secagg.masked": ROSTER,
    "secagg.holding": ROSTER,
    "secagg.again": ROSTER,
    **{f"secagg.{name}": (PROPOSE, "") for name in ("unmask", "sum", "beacon", "part", "checked")},
}

SHARED = reduce.Clauses("secagg.masked", "SA-2", "SA-11", "SA-9")


def one_secret(round_: Round) -> Iterator[Finding]:
    """SA-3: of one member a peer shows the self seed's share or the mask key's, and never both."""
    shown: dict[tuple[bytes, bytes], set[str]] = {}
    for record in round_.of("secagg.unmask"):
        for name in ("self_shares", "key_shares"):
            for peer, _ in record[name]:
                kinds = shown.setdefault((record.author, peer), set())
                kinds.add(name)
                if len(kinds) > 1:
                    said = f"showed both shares of {round_.ground.name(peer)}, of its self seed and of its mask key"
                    yield violation("SA-3", record, said)
                    kinds.clear()


def floor(round_: Round) -> Iterator[Finding]:
    """SA-6: who proposes survivors proposes t of them at least."""
    for record in round_.of(PROPOSE):
        roster, parts = round_.roster(record.author, record["context"]), survivors.read(record["value"])
        if record["topic"] != "survivors" or roster is None or parts is None:
            continue
        least = round_.ground.quorum(len(roster["members"]))
        if len(set(parts[0])) < least:
            yield violation("SA-6", record, f"proposed {len(parts[0])} survivors, where the floor is {least}", roster)


def certified_unmask(round_: Round) -> Iterator[Finding]:
    """SA-7: shares are shown under the certificate of the survivors, of those that it names."""
    for record in round_.of("secagg.unmask"):
        roster = round_.roster(record.author, record["context"])
        certified = None if roster is None else round_.certified(record["context"], "survivors", roster)
        if roster is None or certified is None:
            continue
        parts = survivors.read(certified)
        commits = [one for one in round_.of("certify.commit") if one["topic"] == "survivors"]
        if record["survivors"] != derive.vote_value(record["context"], "survivors", certified):
            yield violation("SA-7", record, "showed shares under other survivors than are certified", roster, *commits)
        elif certified == survivors.FAIL:
            yield violation("SA-7", record, "showed shares in a round that is certified as failed", roster, *commits)
        elif parts is not None:
            dropped = tuple(peer for peer in roster["members"] if peer not in parts[0])
            if tuple(peer for peer, _ in record["key_shares"]) != dropped:
                yield violation("SA-3", record, "showed mask keys of others than those who dropped", roster, *commits)
            elif tuple(peer for peer, _ in record["self_shares"]) != parts[0]:
                yield violation("SA-7", record, "showed not one share of every survivor's self seed", roster, *commits)


def beacons(round_: Round) -> Iterator[Finding]:
    """SA-12: shares of the beacon are shown under the certificate of the outcome, one of every survivor."""
    for record in round_.of("secagg.beacon"):
        roster = round_.roster(record.author, record["context"])
        if roster is None:
            continue
        outcome = round_.certified(record["context"], "outcome", roster)
        certified = round_.certified(record["context"], "survivors", roster)
        parts = None if certified is None else survivors.read(certified)
        if outcome is None or parts is None:
            continue
        commits = [one for one in round_.of("certify.commit") if one["topic"] == "outcome"]
        if record["outcome"] != outcome:
            yield violation("SA-12", record, "showed shares of the beacon under another outcome", roster, *commits)
        elif tuple(peer for peer, _ in record["shares"]) != parts[0]:
            yield violation("SA-12", record, "showed not one share of every survivor's part of the beacon", *commits)


RULES: Mapping[str, Callable[[Round], Iterator[Finding]]] = {
    "SA-2": partial(reduce.one_context, clauses=SHARED),
    "SA-3": one_secret,
    "SA-6": floor,
    "SA-7": certified_unmask,
    "SA-9": partial(reduce.outcomes, clauses=SHARED),
    "SA-11": partial(reduce.holdings, clauses=SHARED),
    "SA-12": beacons,
}
