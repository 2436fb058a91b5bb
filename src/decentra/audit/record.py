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
        for record in self.records:
            self._by_kind[record.kind].append(record)

    def of(self, *kinds: str) -> list[Record]:
        """The entries of some kinds whose bodies are here, by author and in the order in which each signed."""
        found = [record for kind in kinds for record in self._by_kind.get(kind, ()) if record.body is not None]
        return found if len(kinds) == 1 else sorted(found, key=lambda record: (record.author, record.place))

    def find(self, hashed: bytes) -> Record | None:
        """The entry of this round with a hash."""
        return self._by_hash.get(hashed)

    def cited(self, record: Record, name: str) -> tuple[Record | None, ...]:
        """The entries that a field cites; None in the place of one that is no verified entry of this round."""
        return tuple(self.find(sha256(signed.entry).digest()) for signed in cited_in(record[name]))

    def elsewhere(self, record: Record, name: str) -> Iterator[Record]:
        """The entries of other rounds that a field cites and that members signed, by themselves."""
        for signed in cited_in(record[name]):
            try:
                entry = Parsed.read(signed).entry
                known = entry.session == self.ground.session and entry.round != self.number
                if known and self.ground.check(entry.author, entry.signature, entry.signed_bytes):
                    yield as_record(self.ground, entry, signed.body)
            except Malformed:
                continue  # a citation of what is no entry is a violation of its own

    def earlier(self, record: Record, *kinds: str) -> list[Record]:
        """What the same author signed before it in this round, of some kinds."""
        return [one for one in self.of(*kinds) if one.author == record.author and one.place < record.place]

    # ── contexts ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def roster(self, author: PeerId, context: bytes) -> Record | None:
        """The roster under which an author acts in a context, by its own word: its endorsement cites what opened it.

        Nobody else's word counts, or a liar could put an honest peer under a roster that it never saw.
        """
        for endorsed in self.of(f"{self.ground.spec.name}.endorse"):
            if endorsed.author == author and endorsed["context"] == context:
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
    names = (name for name, _ in ground.codec.spec(entry.kind).fields)
    return Record(entry, body, dict(zip(names, ground.codec.decode(entry.kind, body), strict=True)))


def packed(record: Record) -> bytes:
    """The record as a transcript holds it."""
    return pack((record.entry.packed, record.body or b""))
