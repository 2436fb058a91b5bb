"""The clauses of certify: who proposes, what is prepared and committed, and what binds a voter later."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from decentra import derive
from decentra.audit.findings import Finding, Missing
from decentra.audit.generic import violation
from decentra.audit.record import Record, Round
from decentra.audit.rules.survivors import FAIL, gives, owners_of

PROPOSE, PREPARE, COMMIT = "certify.propose", "certify.prepare", "certify.commit"
LOCK, CERTIFICATE = "certify.lock", "certify.certificate"

OPENS: Mapping[str, tuple[str, ...]] = {
    PREPARE: (PROPOSE,),
    COMMIT: (PROPOSE, ""),
    LOCK: (PROPOSE, ""),
    CERTIFICATE: (PROPOSE, ""),
    PROPOSE: (PROPOSE, ""),
}
"""What may open the phase of each message: the proposal that it answers, or the latest that its author knew."""

CLAUSES = {PROPOSE: "CE-1", PREPARE: "CE-2", COMMIT: "CE-4", LOCK: "CE-6", CERTIFICATE: "CE-5"}

Key = tuple[bytes, str]


def _key(record: Record) -> Key:
    return record["context"], record["topic"]


def proposer(round_: Round) -> Iterator[Finding]:
    """CE-1: a view's proposal comes from its proposer: of the survivors in the roster's order, then owners first."""
    for record in round_.of(PROPOSE):
        roster = round_.roster(record.author, record["context"])
        if roster is None:
            continue
        turns = round_.proposers(roster)
        if record["topic"] != "survivors":
            certified = round_.certified(record["context"], "survivors", roster)
            if certified is None or certified == FAIL:
                continue
            owners = owners_of(certified)
            turns = (*(one for one in turns if one in owners), *(one for one in turns if one not in owners))
        if not turns or turns[record["view"] % len(turns)] != record.author:
            said = f"proposed {record['topic']!r} in view {record['view']}, which is not its own"
            yield violation("CE-1", record, said, roster)


def monotonic(round_: Round) -> Iterator[Finding]:
    """CE-2 and CE-4: nobody votes in a view below one that it acted in."""
    latest: dict[tuple[bytes, Key], Record] = {}
    for vote in round_.of(PREPARE, COMMIT):
        place = (vote.author, _key(vote))
        known = latest.get(place)
        if known is not None and vote["view"] < known["view"]:
            clause = "CE-2" if vote.kind == PREPARE else "CE-4"
            said = f"voted in view {vote['view']} of {vote['topic']!r} after it had acted in view {known['view']}"
            yield violation(clause, vote, said, known)
        else:
            latest[place] = vote


def prepares(round_: Round) -> Iterator[Finding]:
    """CE-2 and CE-3: a prepare is for what the proposal that it answers proposes, and that is what its entries give;
    or, where its author is locked, what t others prepared since."""
    for vote in round_.of(PREPARE):
        shown = round_.find(vote.entry.after)
        if shown is None or shown.kind != PROPOSE:
            continue  # missing, or a matter of order
        if shown.body is None:
            continue
        value = shown["value"]
        if (_key(shown), shown["view"]) != (_key(vote), vote["view"]) or vote["value"] != derive.vote_value(
            vote["context"], vote["topic"], value
        ):
            yield violation("CE-2", vote, "prepared another value than the proposal that it answers has", shown)
            continue
        roster = round_.roster(vote.author, vote["context"])
        if roster is None:
            continue
        seen = round_.quorum_view(round_.cited(shown, "locked"), PREPARE, vote, value, roster)
        lock = _lock(round_, vote)
        if lock is not None:
            if lock["value"] != vote["value"] and not lock["view"] < seen < vote["view"]:
                since = round_.between(lock, vote)
                if since is None:
                    yield _gap(vote)
                    continue
                said = f"prepared another value than it was locked on since view {lock['view']}"
                yield violation("CE-3", vote, said, shown, *since[:-1])
        elif not 0 <= seen < vote["view"] and vote["topic"] == "survivors":
            given = gives(round_, roster, shown)
            if given is None:
                yield Missing("a holding that a proposal shows", shown.author, round_.number)
            elif not given:
                endorsed = round_.endorsement(vote.author, vote["context"])
                since = None if endorsed is None else round_.between(endorsed, vote)
                if since is None:
                    yield _gap(vote)
                    continue
                said = "prepared survivors that the shown holdings do not give"
                yield violation("CE-2", vote, said, shown, *since[:-1])


def _lock(round_: Round, record: Record) -> Record | None:
    """What an author was locked on when it signed: its commit of the latest view until then. It may be of a view that
    it had not come to, or of this one: t prepares bind whoever sees them."""
    before = [one for one in round_.earlier(record, COMMIT) if _key(one) == _key(record)]
    return max(before, key=lambda one: int(one["view"]), default=None)


def _gap(vote: Record) -> Missing:
    """What is not here may be a commit that binds the voter otherwise."""
    return Missing("what its author signed before a vote", vote.author, vote.entry.round)


def proposals(round_: Round) -> Iterator[Finding]:
    """CE-2 of a proposer: the survivors that it proposes are what the holdings that it shows give."""
    for record in round_.of(PROPOSE):
        roster = round_.roster(record.author, record["context"])
        if roster is None or record["topic"] != "survivors" or record["locked"]:
            continue
        if gives(round_, roster, record) is False:
            yield violation("CE-2", record, "proposed survivors that the holdings it shows do not give", roster)


def certificates(round_: Round) -> Iterator[Finding]:
    """CE-5: a certificate is t commits of its value, in one view, by distinct members of the roster."""
    for record in round_.of(CERTIFICATE):
        roster = round_.roster(record.author, record["context"])
        if roster is None:
            continue
        if round_.quorum_view(round_.cited(record, "commits"), COMMIT, record, record["value"], roster) < 0:
            said = "handed over a certificate that too few have signed, or not for its value"
            yield violation("CE-5", record, said, roster)


def locks(round_: Round) -> Iterator[Finding]:
    """CE-6: what a peer shows as its lock is one, and is what it committed to; and it proposes nothing else."""
    for record in round_.of(LOCK, PROPOSE):
        roster = round_.roster(record.author, record["context"])
        if roster is None:
            continue
        name = "prepares" if record.kind == LOCK else "locked"
        seen = round_.quorum_view(round_.cited(record, name), PREPARE, record, record["value"], roster)
        if record[name] and seen < 0:
            yield violation("CE-6", record, "shows a lock that is none: t prepares of one view make it", roster)
            continue
        held = _lock(round_, record)
        if held is not None and seen < held["view"]:
            did = "showed" if record.kind == LOCK else "proposed on"
            yield violation("CE-6", record, f"{did} an older lock than its own of view {held['view']}", held)


RULES: Mapping[str, Callable[[Round], Iterator[Finding]]] = {
    "CE-1": proposer,
    "CE-2": prepares,
    "CE-3": prepares,
    "CE-4": monotonic,
    "": proposals,
    "CE-5": certificates,
    "CE-6": locks,
}
