"""One round as a page shows it: who signed what in which phase, who voted for what, and how it ended."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from decentra import derive
from decentra.audit.ground import Ground
from decentra.audit.record import Record, Round
from decentra.audit.rules import shares, survivors
from decentra.audit.rules.certify import CERTIFICATE, COMMIT, LOCK, PREPARE, PROPOSE
from decentra.audit.rules.reduce import LOST
from decentra.types import PeerId

MOST_STEPS = 40
"""Steps of a member in a round; an honest one takes some twenty."""
MOST_BALLOTS = 24
"""Rows of votes of a round; where all goes well it has three."""
MOST_ENDED = 16
"""Members' words that end a round, of those that are quoted."""
MOST_CONTEXTS = 4
"""Contexts of a round that are looked at; honest members endorse one."""

TOPICS = ("survivors", "checked", "geometry", "outcome", "verdict")
STANDS = b"stands"
"""The verdict that changes nothing (``specs/secagg``)."""

VOTE, ANY, UNKNOWN = "vote", "any", "unknown"

Agreed = Mapping[tuple[bytes, str], tuple[bytes, Record]]
"""By context and topic: the certified value, and the roster that certified it."""
Row = tuple[bytes, str, int, bytes]
"""A context, topic and view, and the hash of a value that is voted on."""


class Ending(StrEnum):
    """How a round ended, as far as the given entries show."""

    SUMMED = "summed"
    LOST = "lost"
    FAILED = "failed"
    ENDED = "ended"
    OPEN = "open"


@dataclass(frozen=True)
class Step:
    """What a member signed, once or several times in a row: the phase and kind, and the place of the first in its log.
    ``hashes`` are of the first of them."""

    phase: str
    kind: str
    about: str
    boot: int
    seq: int
    times: int
    hashes: tuple[bytes, ...]


@dataclass(frozen=True)
class Lane:
    """A member in a round: its steps in the order in which it signed them, those left out, and how much it signed."""

    steps: tuple[Step, ...]
    more: int
    entries: int
    size: int


@dataclass(frozen=True)
class Ballot:
    """Who voted for a value of a topic in a view."""

    topic: str
    view: int
    value: str
    proposed: tuple[PeerId, ...]
    prepared: tuple[PeerId, ...]
    committed: tuple[PeerId, ...]
    certified: bool


@dataclass(frozen=True)
class Ended:
    """A member's word that ends a round: the clause, whom it blames, and why."""

    who: PeerId
    clause: str
    blamed: tuple[PeerId, ...]
    reason: str


@dataclass(frozen=True)
class Detail:
    """A round in full. ``summed`` are those whose updates are certified, ``left_out`` the others of its roster."""

    number: int
    ending: Ending
    summed: tuple[PeerId, ...]
    left_out: tuple[PeerId, ...]
    lanes: tuple[Lane, ...]
    ballots: tuple[Ballot, ...]
    more_ballots: int
    ended: tuple[Ended, ...]


def detailed(round_: Round) -> Detail:
    """A round with all that is shown of it."""
    members = round_.ground.members
    by_author: dict[PeerId, list[Record]] = {peer: [] for peer in members}
    for record in round_.records:
        by_author[record.author].append(record)
    agreed = _agreed(round_)
    ending, summed, left_out = _came(round_, agreed)
    ballots, more_ballots = _ballots(round_, agreed)
    ended = round_.of("rendezvous.abort")[:MOST_ENDED]
    return Detail(
        round_.number,
        ending,
        summed,
        left_out,
        tuple(_lane(round_, by_author[peer]) for peer in members),
        ballots,
        more_ballots,
        tuple(Ended(one.author, one["clause"], tuple(one["blamed"]), one["reason"]) for one in ended),
    )


def _contexts(round_: Round) -> list[tuple[bytes, Record]]:
    """The contexts that most endorsed, each with a roster that it was endorsed under."""
    endorsed, rosters = defaultdict[bytes, set[PeerId]](set), dict[bytes, Record]()
    for one in round_.of(f"{round_.ground.spec.name}.endorse"):
        roster = round_.roster(one.author, one["context"])
        if roster is not None:
            endorsed[one["context"]].add(one.author)
            rosters.setdefault(one["context"], roster)
    first = sorted(endorsed, key=lambda context: len(endorsed[context]), reverse=True)
    return [(context, rosters[context]) for context in first[:MOST_CONTEXTS]]


def _agreed(round_: Round) -> Agreed:
    return {
        (context, topic): (value, roster)
        for context, roster in _contexts(round_)
        for topic in TOPICS
        if (value := round_.certified(context, topic, roster)) is not None
    }


def _came(round_: Round, agreed: Agreed) -> tuple[Ending, tuple[PeerId, ...], tuple[PeerId, ...]]:
    """How a round ended, who is in its sum, and who of its roster is not."""
    for (context, topic), (value, roster) in agreed.items():
        parts = survivors.read(value) if topic == "survivors" else None
        if topic == "survivors" and value == survivors.FAIL:
            return Ending.FAILED, (), ()
        if parts is not None:
            outcome, _ = agreed.get((context, "outcome"), (None, roster))
            ending = Ending.OPEN if outcome is None else Ending.LOST if outcome == LOST else Ending.SUMMED
            weighed, _ = agreed.get((context, "geometry"), (b"", roster))
            summed = shares.weighed(weighed) or survivors.counted(round_, parts)
            return ending, summed, tuple(peer for peer in roster["members"] if peer not in summed)
    return (Ending.ENDED if round_.of("rendezvous.abort") else Ending.OPEN), (), ()


def phase_of(record: Record, ground: Ground) -> str:
    """The phase that the spec gives a message; for a vote, that of its topic."""
    message = ground.spec.messages.get(record.kind)
    if message is None:
        return UNKNOWN
    if message.phase == VOTE:
        topic = record["topic"]
        return topic if topic in dict(ground.spec.phases) else VOTE
    return message.phase


def _lane(round_: Round, records: Sequence[Record]) -> Lane:
    steps, more = list[Step](), 0
    for record in records:
        phase, hashed = phase_of(record, round_.ground), record.entry.hash
        kind = record.kind if phase == UNKNOWN else record.kind.rpartition(".")[2]
        step = Step(phase, kind, _about(record), *record.place, 1, (hashed,))
        last = steps[-1] if steps else None
        if last is not None and (last.phase, last.kind, last.about) == (phase, kind, step.about):
            steps[-1] = replace(last, times=last.times + 1, hashes=(*last.hashes, hashed)[:MOST_STEPS])
        elif len(steps) < MOST_STEPS:
            steps.append(step)
        else:
            more += 1
    size = sum(len(record.entry.packed) + len(record.body or b"") for record in records)
    return Lane(tuple(steps), more, len(records), size)


def _about(record: Record) -> str:
    """What tells apart two messages of a kind; of a first view nothing is said."""
    return f"view {record['view']}" if record["view"] else ""


def _ballots(round_: Round, agreed: Agreed) -> tuple[tuple[Ballot, ...], int]:
    """The votes of a round, by context, topic, view and value, and how many rows are left out: never a certified one,
    and of the others those with the fewest votes."""
    rows: dict[Row, dict[str, dict[PeerId, None]]] = {}
    values: dict[bytes, bytes] = {}
    for record in round_.of(PROPOSE, LOCK, CERTIFICATE):
        values[derive.vote_value(record["context"], record["topic"], record["value"])] = record["value"]
    for record in round_.of(PROPOSE, PREPARE, COMMIT):
        context, topic, value = record["context"], record["topic"], record["value"]
        hashed = derive.vote_value(context, topic, value) if record.kind == PROPOSE else value
        votes = rows.setdefault((context, topic, record["view"], hashed), {PROPOSE: {}, PREPARE: {}, COMMIT: {}})
        votes[record.kind][record.author] = None
    certified = {derive.vote_value(context, topic, value) for (context, topic), (value, _) in agreed.items()}

    def weight(row: Row) -> tuple[bool, int, int]:
        return row[3] in certified, len(rows[row][COMMIT]), len(rows[row][PREPARE])

    def place(row: Row) -> tuple[int, str, int, bytes]:
        _, topic, view, hashed = row
        return TOPICS.index(topic) if topic in TOPICS else len(TOPICS), topic, view, hashed

    kept = sorted(sorted(rows, key=weight, reverse=True)[:MOST_BALLOTS], key=place)
    ballots = []
    for row in kept:
        _, topic, view, hashed = row
        proposed, prepared, committed = (tuple(rows[row][kind]) for kind in (PROPOSE, PREPARE, COMMIT))
        told = _value(round_, topic, values.get(hashed), hashed)
        ballots.append(Ballot(topic, view, told, proposed, prepared, committed, hashed in certified))
    return tuple(ballots), len(rows) - len(kept)


def _value(round_: Round, topic: str, value: bytes | None, hashed: bytes) -> str:
    """A value that is voted on, for people."""
    if value is None:
        return f"value {hashed.hex()[:8]}, whose proposal was not given"
    if topic == "survivors":
        parts = survivors.read(value)
        if parts is not None:
            return f"in the sum: {', '.join(round_.ground.name(peer) for peer in survivors.counted(round_, parts))}"
        return "the round fails" if value == survivors.FAIL else "what is no set of survivors"
    if topic in ("checked", "geometry") and value == shares.UNDECIDED:
        return "who lies can't be told"
    if topic == "checked":
        proved = ", ".join(round_.ground.name(peer) for peer in shares.proved(value))
        return f"proved to lie: {proved}" if proved else "nobody is proved to lie"
    if topic == "geometry":
        return f"counted: {', '.join(round_.ground.name(peer) for peer in shares.weighed(value))}"
    if topic == "outcome":
        return "the round is lost" if value == LOST else f"outcome {value.hex()[:8]}"
    if topic == "verdict":
        return "the sums stand" if value == STANDS else f"sums are repaired ({value.hex()[:8]})"
    return f"value {hashed.hex()[:8]}"
