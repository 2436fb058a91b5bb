"""The clauses of shamir-gram that signed entries show.

Shares, slices and what suspects show are blobs, and in no log. Deals, holdings, shares of the beacon, checks, words and
tellings are: from these follows what may be certified, and who told what fits nobody else's word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain

from decentra.audit.findings import Finding
from decentra.audit.record import Round
from decentra.audit.rules import reduce
from decentra.audit.rules.certify import PROPOSE
from decentra.audit.rules.shamir_gram import checks, deals, sums, words
from decentra.audit.rules.shamir_gram.settled import BEACON, CHECK, DEAL, GRAM, HOLDING, PART, SHOWN, SLICE, TOLD

CLAUSES = {
    "shamir-gram.endorse": "SG-1",
    DEAL: "SG-1",
    HOLDING: "SG-3",
    BEACON: "SG-4",
    CHECK: "SG-5",
    SHOWN: "SG-6",
    GRAM: "SG-7",
    PART: "SG-9",
    SLICE: "SG-10",
    TOLD: "SG-11",
}

ROSTER = ("rendezvous.roster",)

OPENS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("shamir-gram.endorse", "shamir-gram.endorsed", DEAL, HOLDING), ROSTER),
    **dict.fromkeys((BEACON, CHECK, SHOWN, GRAM, PART, SLICE, TOLD), (PROPOSE, "")),
}

SHARED = reduce.Clauses(DEAL, "SG-1", "SG-3", "SG-12")


def _one_by_one(round_: Round, rules: Sequence[Callable[[Round], Iterator[Finding]]]) -> Iterator[Finding]:
    return chain.from_iterable(rule(round_) for rule in rules)


RULES: Mapping[str, Callable[[Round], Iterator[Finding]]] = {
    "SG-1": partial(reduce.one_context, clauses=SHARED),
    "SG-2": deals.deals,
    "SG-3": deals.holdings,
    "SG-4": deals.beacons,
    "SG-5": checks.checks,
    "SG-6": partial(_one_by_one, rules=(checks.truth_of_checks, checks.shown, checks.proposed_checks)),
    "SG-7": words.words,
    "SG-8": partial(_one_by_one, rules=(words.truth_of_words, words.proposed_geometry)),
    "SG-9": sums.parts,
    "SG-10": sums.slices,
    "SG-11": partial(_one_by_one, rules=(sums.tellings, sums.truth_of_tellings)),
    "SG-12": sums.outcomes,
}
