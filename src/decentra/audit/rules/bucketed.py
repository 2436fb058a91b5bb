"""The clauses of bucketed that signed entries show, of the session in which the buckets' means are combined.

Who is in which bucket follows from the beacon in its charter. What a bucket's own session certified is in another one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from decentra.audit.findings import Finding, Missing
from decentra.audit.generic import violation
from decentra.audit.record import Record, Round
from decentra.audit.rules import evaluated, reduce, survivors
from decentra.audit.rules.certify import PROPOSE
from decentra.types import PeerId

MEAN, HOLDING, RELAY, RESULT = "bucketed.mean", "bucketed.holding", "bucketed.relay", "bucketed.result"

CLAUSES = {"bucketed.endorse": "BU-1", MEAN: "BU-1", HOLDING: "BU-4", RELAY: "BU-5", RESULT: "BU-7"}

ROSTER = ("rendezvous.roster",)

OPENS: Mapping[str, tuple[str, ...]] = {
    "bucketed.endorse": ROSTER,
    "bucketed.endorsed": ROSTER,
    MEAN: ROSTER,
    HOLDING: ROSTER,
    RELAY: (PROPOSE, ""),
    RESULT: (PROPOSE, ""),
}

SHARED = reduce.Clauses(MEAN, "BU-1", "BU-4", "BU-8")

NONE = bytes(32)
"""The root of who has no mean."""


def _corrupt(round_: Round) -> int:
    return round_.ground.charter.bucket_corrupt


def _bucket(round_: Round, peer: PeerId) -> tuple[PeerId, ...]:
    return next((bucket for bucket in round_.ground.buckets.values() if peer in bucket), ())


def _is_stated(round_: Round, record: Record, bucket: Sequence[PeerId]) -> bool:
    """Whether a mean is stated of so many members of a bucket that two of them are honest."""
    members = set(record["members"])
    return len(members) == len(record["members"]) >= _corrupt(round_) + 2 and members <= set(bucket)


def means(round_: Round) -> Iterator[Finding]:
    """BU-2: a mean is of enough members of its author's bucket; and what more of that state alike than may lie of all
    is what its session certified, and any other is not.

    More than may lie of a bucket would not do: there may be more in one, by the luck of the draw.
    """
    c = round_.ground.c
    alike: dict[tuple[object, ...], dict[bytes, dict[PeerId, Record]]] = defaultdict(lambda: defaultdict(dict))
    for record in round_.of(MEAN):
        bucket = _bucket(round_, record.author)
        if not (_is_stated(round_, record, bucket) if record["members"] else record["root"] == NONE):
            yield violation("BU-2", record, "stated a mean of others than enough members of its bucket")
        elif record["members"]:
            alike[record["context"], bucket][record.entry.body][record.author] = record
    for stated in alike.values():
        for hashed, others in stated.items():
            if len(others) <= c:
                continue
            for record in (one for other, said in stated.items() if other != hashed for one in said.values()):
                said_so = tuple(others.values())[: c + 1]
                yield violation("BU-2", record, "stated another mean than more of its bucket than may lie", *said_so)


def holdings(round_: Round) -> Iterator[Finding]:
    """BU-4: a holding names buckets of the epoch, of each a statement that more of its members made alike than may lie,
    and as whole none but those."""
    signed: dict[bytes, dict[PeerId, Record]] = defaultdict(dict)
    for record in round_.of(MEAN):
        signed[record.entry.body][record.author] = record
    for record in round_.of(HOLDING):
        if not survivors.is_of_buckets(round_, record):
            yield violation("BU-4", record, "signed a holding of what is none of its epoch's buckets")
            continue
        roster = round_.roster(record.author, record["context"])
        if roster is None:
            continue
        for name, hashed in record["stated"]:
            yield from _stated(round_, record, roster, round_.ground.buckets[name], signed.get(hashed, {}))


def _stated(
    round_: Round, record: Record, roster: Record, bucket: tuple[PeerId, ...], signed: Mapping[PeerId, Record]
) -> Iterator[Finding]:
    """Whether more of a bucket than may lie can have made the statement that a holding names: whoever has made another
    one as well lies, and no more than c of all do.

    Args:
        signed: who signed that statement.
    """
    c, asked = _corrupt(round_), [peer for peer in bucket if peer in roster["members"]]
    beside = next(iter(signed.values()), None)
    sound = beside is None or (beside["context"] == record["context"] and _is_stated(round_, beside, bucket))
    if beside is not None and not sound:
        yield violation("BU-4", record, "names as a bucket's mean what states none of it", roster, beside)
        return
    told = {one.author: one for one in round_.of(MEAN) if one["context"] == record["context"]}
    so, silent = [peer for peer in asked if peer in signed], [peer for peer in asked if peer not in told]
    lying = c + 1 - len(so) - len(silent)
    if len(asked) <= c or lying > round_.ground.c:
        said = "names a statement that none of its bucket made"
        yield violation("BU-4", record, said, roster, *(told[peer] for peer in asked if peer in told))
    elif lying > 0:
        who, whose = round_.ground.name(record.author), round_.ground.name(bucket[0])
        yield Missing(f"who made the statement of the bucket of {whose} that {who} names", bucket[0], round_.number)


def relays(round_: Round) -> Iterator[Finding]:
    """BU-5: what is relayed is a mean that the certificate names, under the root that was stated of it."""
    stated = {record.entry.body: record for record in round_.of(MEAN)}
    for record in round_.of(RELAY):
        roster = round_.roster(record.author, record["context"])
        certified = None if roster is None else round_.certified(record["context"], "survivors", roster)
        parts = None if certified is None else survivors.read(certified)
        if roster is None or parts is None:
            continue
        hashed = dict(zip(parts[0], parts[2], strict=False)).get(record["bucket"])
        mean = None if hashed is None else stated.get(hashed)
        shown = evaluated.agreeing(round_, record, roster)
        if hashed is None:
            yield violation("BU-5", record, "relayed a mean that is not certified", *shown)
        elif mean is None:
            yield Missing("the statement of a certified mean", record["bucket"], round_.number)
        elif mean["root"] != record["root"]:
            yield violation("BU-5", record, "relayed another mean than is certified", *shown, mean)


RULES: Mapping[str, Callable[[Round], Iterator[Finding]]] = {
    "BU-1": partial(reduce.one_context, clauses=SHARED),
    "BU-2": means,
    "BU-4": holdings,
    "BU-5": relays,
    "BU-7": partial(evaluated.results, clause="BU-7"),
    "BU-8": partial(evaluated.outcomes, clause="BU-8"),
}
