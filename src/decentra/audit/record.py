"""Entries with their fields, and a round of them: what each cites can be looked up, and only ``seq`` orders them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from decentra import derive
from decentra.audit.ground import Ground
from decentra.types import PeerId
from decentra.wire.codec import Signed, pack
from decentra.wire.entry import Entry, Parsed
from decentra.wire.reader import Malformed

Fields = Mapping[str, Any]


@dataclass(frozen=True)
class Record:
    """A verified entry. ``body`` is None where no transcript holds it, or where it is none of its kind; there are no
    ``fields`` then."""

    entry: Entry
    body: bytes | None = field(repr=False)
    fields: Fields = field(default_factory=dict, repr=False, compare=False)

    @property
    def author(self) -> PeerId:
        return self.entry.author

    @property
    def kind(self) -> str:
        return self.entry.kind

    @property
    def place(self) -> tuple[int, int]:
        """Where its author signed it, among all that it signed in the session."""
        return self.entry.boot, self.entry.seq

    def __getitem__(self, name: str) -> Any:
        return self.fields.get(name)


def cited_in(value: object) -> Iterator[Signed]:
    """Every entry in a decoded field, at the first level."""
    if isinstance(value, Signed):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from cited_in(item)


class Round:
    """The verified entries of one round of a session, whoever signed them."""

    def __init__(self, ground: Ground, number: int, records: Iterable[Record]) -> None:
        self.ground, self.number = ground, number
        self.records = sorted(records, key=lambda record: (record.author, record.place, record.entry.hash))
        self._by_hash = {record.entry.hash: record for record in self.records}
        self._by_kind: dict[str, list[Record]] = defaultdict(list)
        self._by_author: dict[tuple[PeerId, str], list[Record]] = defaultdict(list)
        self._places: dict[PeerId, dict[tuple[int, int], Record]] = defaultdict(dict)
        for record in self.records:
            self._places[record.author].setdefault(record.place, record)
            if record.body is not None:
                self._by_kind[record.kind].append(record)
                self._by_author[record.author, record.kind].append(record)
        self._cited: dict[bytes, Record | None] = {}
        self._rosters: dict[tuple[PeerId, bytes], Record | None] = {}
        self._certified: dict[tuple[bytes, str, bytes], bytes | None] = {}

    def of(self, *kinds: str) -> list[Record]:
        """The entries of some kinds whose bodies are here, by author and in the order in which each signed."""
        if len(kinds) == 1:
            return self._by_kind.get(kinds[0], [])
        found = [record for kind in kinds for record in self._by_kind.get(kind, ())]
        return sorted(found, key=lambda record: (record.author, record.place))

    def find(self, hashed: bytes) -> Record | None:
        """The entry of this round with a hash."""
        return self._by_hash.get(hashed)

    def cited(self, record: Record, name: str) -> tuple[Record | None, ...]:
        """The entries that a field cites, of whatever round; None in the place of one that no member signed, or whose
        body is none of its kind. They are read from the citing body, so that nothing depends on what else is here."""
        return tuple(self._read(signed) for signed in cited_in(record[name]))

    def _read(self, signed: Signed) -> Record | None:
        hashed = sha256(signed.entry).digest()
        known = self._by_hash.get(hashed)
        if known is not None and known.body is not None:
            return known
        if hashed not in self._cited:
            self._cited[hashed] = self._verified(signed)
        return self._cited[hashed]

    def _verified(self, signed: Signed) -> Record | None:
        try:
            entry = Parsed.read(signed).entry
            ours = entry.session == self.ground.session and entry.author in self.ground.members
            if ours and self.ground.check(entry.author, entry.signature, entry.signed_bytes):
                return as_record(self.ground, entry, signed.body)
        except Malformed:
            pass  # a citation of what is no entry is a violation of its own
        return None

    def earlier(self, record: Record, *kinds: str) -> list[Record]:
        """What the same author signed before it in this round, of some kinds."""
        found = [one for kind in kinds for one in self._by_author.get((record.author, kind), ())]
        return [one for one in found if one.place < record.place]

    def between(self, first: Record, last: Record) -> tuple[Record, ...] | None:
        """Everything that an author signed from one entry to another of its; None where any of it is missing, or the
        two are of different boots: what is not here may be what binds it otherwise."""
        if first.place[0] != last.place[0]:
            return None
        places = self._places[last.author]
        if last.place[1] - first.place[1] >= len(places):
            return None
        found = [places.get((last.place[0], seq)) for seq in range(first.place[1], last.place[1] + 1)]
        logged = [one for one in found if one is not None and (one.body is not None or not self._logs(one.kind))]
        return tuple(logged) if len(logged) == len(found) else None

    def _logs(self, kind: str) -> bool:
        message = self.ground.spec.messages.get(kind)
        return message is None or message.log_body

    def endorsement(self, author: PeerId, context: bytes) -> Record | None:
        """An author's endorsement of a context."""
        endorsed = self._by_author.get((author, f"{self.ground.spec.name}.endorse"), ())
        return next((one for one in endorsed if one["context"] == context), None)

    # ── contexts ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def roster(self, author: PeerId, context: bytes) -> Record | None:
        """The roster under which an author acts in a context, by its own word: its endorsement cites what opened it.

        Nobody else's word counts, or a liar could put an honest peer under a roster that it never saw.
        """
        if (author, context) not in self._rosters:
            self._rosters[author, context] = self._roster(author, context)
        return self._rosters[author, context]

    def _roster(self, author: PeerId, context: bytes) -> Record | None:
        for endorsed in self._by_author.get((author, f"{self.ground.spec.name}.endorse"), ()):
            if endorsed["context"] == context:
                opened = self.find(endorsed.entry.after)
                if opened is not None and opened.kind.endswith(".context"):
                    opened = self.find(opened.entry.after)
                if opened is not None and opened.kind == "rendezvous.roster" and opened.body is not None:
                    return opened
        return None

    def proposers(self, roster: Record) -> tuple[PeerId, ...]:
        """The members of a roster in the order in which they propose, from the roster's own proposer on."""
        members = [peer for peer in self.ground.order(self.number) if peer in roster["members"]]
        if roster.author not in members:
            return tuple(members)
        start = members.index(roster.author)
        return (*members[start:], *members[:start])

    # ── votes ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def quorum_view(self, cited: Iterable[Record | None], kind: str, like: Record, value: bytes, roster: Record) -> int:
        """The view in which t members of a roster gave this vote for a value, as the cited entries show; -1 where that
        is not what they are."""
        hashed = derive.vote_value(like["context"], like["topic"], value)
        views, signers = set(), set()
        for one in cited:
            if one is None or one.kind != kind or one.body is None or one.author not in roster["members"]:
                return -1
            if one.entry.round != self.number:
                return -1
            if (one["context"], one["topic"], one["value"]) != (like["context"], like["topic"], hashed):
                return -1
            views.add(one["view"])
            signers.add(one.author)
        if len(views) != 1 or len(signers) < self.ground.quorum(len(roster["members"])):
            return -1
        view: int = views.pop()
        return view

    def certified(self, context: bytes, topic: str, roster: Record) -> bytes | None:
        """The value of a topic that t members of a roster committed to in one view; None where none shows, or where
        more peers lie than the charter allows and two do."""
        place = (context, topic, roster.entry.hash)
        if place not in self._certified:
            self._certified[place] = self._count(context, topic, roster)
        return self._certified[place]

    def _count(self, context: bytes, topic: str, roster: Record) -> bytes | None:
        votes: dict[tuple[int, bytes], set[PeerId]] = defaultdict(set)
        for commit in self.of("certify.commit"):
            if (commit["context"], commit["topic"]) == (context, topic) and commit.author in roster["members"]:
                votes[commit["view"], commit["value"]].add(commit.author)
        most = self.ground.quorum(len(roster["members"]))
        agreed = {value for (_, value), voters in votes.items() if len(voters) >= most}
        if len(agreed) != 1:
            return None
        hashed = agreed.pop()
        for record in self.of("certify.propose", "certify.certificate", "certify.lock"):
            if (record["context"], record["topic"]) == (context, topic):
                value: bytes = record["value"]
                if derive.vote_value(context, topic, value) == hashed:
                    return value
        return None


def as_record(ground: Ground, entry: Entry, body: bytes | None) -> Record:
    """An entry with the fields that its body holds. Raises Malformed where the body is none of its kind."""
    if body is None:
        return Record(entry, None)
    return Record(entry, body, as_fields(ground, entry.kind, body))


def as_fields(ground: Ground, kind: str, body: bytes) -> Fields:
    """The fields of a body, by name. Raises Malformed where it is none of its kind."""
    return ground.codec.fields(kind, body)


def packed(record: Record) -> bytes:
    """The record as a transcript holds it."""
    return pack((record.entry.packed, record.body or b""))
