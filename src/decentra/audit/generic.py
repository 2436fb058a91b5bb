"""The rules that follow from any spec: form, roles, order, and one message where the spec allows one.

A rule looks at what was signed and at nothing else. Each finds the author itself at fault, by its own signature.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import sha256

from decentra.audit.archive import Link
from decentra.audit.findings import Finding, Missing, Violation
from decentra.audit.ground import Ground
from decentra.audit.record import Record, Round, as_record, cited_in
from decentra.types import PeerId
from decentra.wire.codec import Signed
from decentra.wire.entry import ZERO, Entry, Parsed
from decentra.wire.reader import Malformed

DISTINCT: Mapping[str, tuple[str, ...]] = {
    "round": (),
    "view": ("topic", "view"),
    "receiver": ("topic",),
    "slice": ("slice",),
    "part": ("view", "state", "part"),
    "list": ("view", "peers"),
    "author": ("author",),
    "bucket": ("bucket",),
    "pair": ("dealer", "receiver"),
}
"""By how often a spec allows a message: the fields that tell two allowed ones apart. One a session is one a boot: who
starts again may say it again."""

MOST = 16_384
"""Entries of one author, round and kind that are judged. An honest one that hands a large common state to 63 others
signs half as many, and of any other kind far fewer."""


def admit(
    ground: Ground,
    entries: Iterable[tuple[Entry, bytes | None]],
    number: int,
    unsigned: Callable[[Entry], None] = lambda entry: None,
) -> tuple[list[Record], list[Finding]]:
    """The entries that members signed, as records, and what their form alone shows.

    SIGNATURE accuses nobody whose signature is not there: what nobody signed is left out. SCHEMA and SESSION are what a
    member did sign, of a kind, body or topic that the spec does not know, or for another epoch than the session's; each
    is found once. Nobody hides what it signed behind more that it signs: what says the same again counts once, and a
    kind's limit is its own, so that who exceeds it has said two things in one place.

    Args:
        unsigned: told every entry without the signature of the member that it names.
    """
    records: list[Record] = []
    findings: dict[tuple[str, PeerId], Finding] = {}
    of = Counter[tuple[PeerId, str]]()
    said: set[tuple[PeerId, str, bytes, bytes]] = set()
    for entry, body in entries:
        author, kind = entry.author, entry.kind
        if author not in ground.members or not ground.check(author, entry.signature, entry.signed_bytes):
            unsigned(entry)
            continue
        word = (author, kind, entry.body, entry.receiver)
        of[author, kind] += word not in said
        if word in said or of[author, kind] > MOST:
            continue
        said.add(word)
        message, record, flaw = ground.spec.messages.get(kind), Record(entry, None), ""
        if entry.epoch != ground.epoch:
            wrong = f"signed for epoch {entry.epoch} in the session of epoch {ground.epoch}"
            findings.setdefault(("SESSION", author), violation("SESSION", Record(entry, body), wrong))
        if message is None or message.datagram:
            flaw = f"signed a {kind!r}, which the spec does not know"
        elif body is None and message.log_body:
            findings.setdefault((kind, author), Missing(f"the body of a {kind}", author, number))
        else:
            try:
                record = as_record(ground, entry, body)
            except Malformed as error:
                flaw = f"signed a body that is no {kind}: {error}"
        if record["topic"] is not None and record["topic"] not in ground.topics:
            flaw, record = f"votes on {record['topic'][:40]!r}, which no round votes on", Record(entry, None)
        if flaw:
            findings.setdefault(("SCHEMA", author), Violation("SCHEMA", author, flaw, number, (Record(entry, body),)))
        records.append(record)
    beyond = [
        Missing(f"a judgement of every {kind}: {MOST} a round are looked at", author, number)
        for (author, kind), count in of.items()
        if count > MOST
    ]
    return records, [*findings.values(), *beyond]


def citations(round_: Round) -> Iterator[Finding]:
    """SIGNATURE: who cites an entry vouches that its author signed it, since a receiver verifies before it cites."""
    cites = round_.ground.codec.cites
    for record in round_.records:
        for name, value in record.fields.items() if cites(record.kind) else ():
            for signed in cited_in(value):
                known = round_.find(sha256(signed.entry).digest())
                sound = known is not None and sha256(signed.body).digest() == known.entry.body
                if not sound and (flaw := _unsigned(round_.ground, signed)):
                    yield violation("SIGNATURE", record, f"cites in {name!r} of its {record.kind} {flaw}")


def _unsigned(ground: Ground, signed: Signed) -> str:
    """What is wrong with an entry that somebody cites; empty where a member of this session signed it."""
    try:
        entry = Parsed.read(signed).entry
    except Malformed as error:
        return f"what is no entry: {error}"
    if entry.session != ground.session:
        return "an entry of another session"
    if entry.author not in ground.members or not ground.check(entry.author, entry.signature, entry.signed_bytes):
        return "an entry that no member signed"
    return ""


def roles(round_: Round) -> Iterator[Finding]:
    """ROLE: messages go to members, and none to its own author."""
    for record in round_.records:
        receiver = record.entry.receiver
        if receiver and (PeerId(receiver) not in round_.ground.members or receiver == record.author):
            yield violation("ROLE", record, f"addressed its {record.kind!r} to who is no other member")


def order(round_: Round, opens: Mapping[str, tuple[str, ...]]) -> Iterator[Finding]:
    """ORDER: ``after`` names an entry that can have opened the phase, of the same round.

    Args:
        opens: by kind of message, the kinds of entry that may open its phase; "" where there may be none.
    """
    for record in round_.records:
        if record.kind not in opens:
            continue
        allowed, after = opens[record.kind], record.entry.after
        if after == ZERO:
            if "" not in allowed:
                yield violation("ORDER", record, f"signed a {record.kind} that names nothing which opened its phase")
            continue
        opened = round_.find(after)
        if opened is None:
            yield Missing(f"the entry that opened the phase of a {record.kind}", record.author, round_.number)
        elif opened.kind not in allowed:
            said = f"names a {opened.kind!r} as what opened the phase of its {record.kind}"
            yield violation("ORDER", record, said, opened)


def once(round_: Round, clauses: Mapping[str, str]) -> Iterator[Finding]:
    """EQUIVOCATION: two different messages where the spec allows one.

    Args:
        clauses: by kind, the clause of the protocol that says so.
    """
    seen: dict[tuple[object, ...], Record] = {}
    for record in round_.records:
        allowed = round_.ground.spec.messages.get(record.kind)
        if allowed is None or allowed.once not in (*DISTINCT, "session"):
            continue
        if allowed.once == "session":
            place: tuple[object, ...] = (record.entry.boot,)
        elif record.body is not None:
            place = tuple(record[name] for name in DISTINCT[allowed.once] if name in record.fields)
        elif not allowed.log_body:
            place = (record.entry.after,)  # of the one phase that this entry opened
        else:
            continue
        if allowed.once == "receiver":
            place = (*place, record.entry.receiver)
        first = seen.setdefault((record.author, record.kind, *place), record)
        if first.entry.body != record.entry.body:
            clause = clauses.get(record.kind, "EQUIVOCATION")
            yield violation(clause, record, f"signed two different {record.kind} where one is allowed", first)


def chains(links: Iterable[Link], record: Callable[[Link], Record]) -> Iterator[Finding]:
    """FORK, CHAIN and REPLAY, over all that the members signed in a session, by author, boot and number.

    A gap is nobody's fault: the entry behind it cites the one before, and that one is missing.

    Args:
        record: the entry at a place.
    """
    last: list[Link] = []
    """What the author signed under the number before, all of it."""
    for link in links:
        known = last[0] if last and last[0].author == link.author else None
        if known is not None and (known.boot, known.seq) == (link.boot, link.seq):
            said = f"signed two entries as number {link.seq} of boot {link.boot}"
            yield violation("FORK", record(link), said, record(known))
            last.append(link)
            continue
        if known is not None and 0 < link.round < known.round:
            said = f"signed in round {link.round} after it had signed in round {known.round}"
            yield violation("REPLAY", record(link), said, record(known))
        follows = known is not None and (known.boot, known.seq + 1) == (link.boot, link.seq)
        if (link.seq == 1) != (link.prev == ZERO):
            said = "names an entry before the first" if link.seq == 1 else f"names none before number {link.seq}"
            yield violation("CHAIN", record(link), f"{said} of boot {link.boot}")
        elif known is not None and follows and link.prev not in {one.hash for one in last}:
            said = f"names another entry before number {link.seq} of boot {link.boot} than the one it signed"
            yield violation("CHAIN", record(link), said, record(known))
        elif link.seq > 1 and not follows:
            yield Missing(f"entry {link.seq - 1} of boot {link.boot}", link.author, link.round)
        last = [link]


def violation(clause: str, record: Record, says: str, *beside: Record) -> Violation:
    """A violation by a record's author, which that record shows, with those beside it."""
    return Violation(clause, record.author, says, record.entry.round, (*beside, record))
