"""The clauses of allreduce that signed entries show."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

from decentra.audit.findings import Finding
from decentra.audit.record import Round
from decentra.audit.rules import reduce
from decentra.audit.rules.certify import PROPOSE

CLAUSES = {
    "allreduce.endorse": "AR-1",
    "allreduce.slices": "AR-1",
    "allreduce.again": "AR-2",
    "allreduce.holding": "AR-3",
    "allreduce.sum": "AR-4",
}

ROSTER = ("rendezvous.roster",)

OPENS: Mapping[str, tuple[str, ...]] = {
    "allreduce.endorse": ROSTER,
    "allreduce.endorsed": ROSTER,
    "allreduce.slices": ROSTER,
    "allreduce.holding": ROSTER,
    "allreduce.again": ROSTER,
    "allreduce.sum": (PROPOSE, ""),
}

SHARED = reduce.Clauses("allreduce.slices", "AR-1", "AR-3", "AR-5")

RULES: Mapping[str, Callable[[Round], Iterator[Finding]]] = {
    "AR-1": partial(reduce.one_context, clauses=SHARED),
    "AR-3": partial(reduce.holdings, clauses=SHARED),
    "AR-5": partial(reduce.outcomes, clauses=SHARED),
}
