"""Logs of which nobody can tell who lies, or what is missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from scenes import MASKED, SHARED, START, SUMMED, TOLD, TRIED, Log, cast, file_of, honest

from decentra.wire.entry import ZERO, parse
from lies.certify import against_its_lock
from lies.common import OTHER, body_hash
from lies.shares import dealt_or_told, holds_what_is_not_signed, of_other_slices
from lies.sums import holds, own_list
from lies.updates import in_one_bucket, says_of_updates, states


def gap() -> bytes:
    """One entry of one peer is not there."""
    log = honest("secagg", START)
    entries = log.signed()
    at = entries.index(next(one for one in entries if parse(one.entry).seq == 2))
    return file_of(log.charter, [*entries[:at], *entries[at + 1 :]])


def forged() -> bytes:
    """The last entry of one peer carries a signature that is none: it accuses nobody, and least of all its author."""
    log = honest("secagg", START)
    log.chains[log.ids[2]][-1].forged = True
    return file_of(log.charter, log.signed())


def another_charter() -> bytes:
    """The charter in the file is another group's than the entries' session has."""
    log = honest("secagg", START)
    charter, _ = cast("secagg", (("group__name", "another"),))
    return file_of(charter, log.signed())


def cut() -> bytes:
    """The file ends in the middle of an entry, and the chain before it is whole."""
    log = honest("secagg", START)
    return file_of(log.charter, log.signed())[:-40]


def nothing() -> bytes:
    """A charter, and no entry."""
    return file_of(cast("secagg")[0], [])


def withheld_commit() -> bytes:
    """A peer prepares another value than before, and what it signed between is not all there: it may be bound so."""
    log = honest("secagg", SUMMED)
    liar = against_its_lock(log).who
    at = [line for who in log.ids for line in log.chains[who]].index(log.find("certify.commit", liar, "outcome"))
    entries = log.signed()
    return file_of(log.charter, [*entries[:at], *entries[at + 1 :]])


def word_against_word() -> bytes:
    """A holder says that it holds a list which its author, as far as the logs show, did not sign: either may lie."""
    log = honest("secagg", MASKED)
    holds(log, own_list(log), (log.ids[3], OTHER))
    return file_of(log.charter, log.signed())


def two_words_of_a_mean() -> bytes:
    """A holder names a statement that one of a bucket made and the others, as far as the logs show, did not: either it
    or one of them lies."""
    log = honest("bucketed", START)
    first, *rest = in_one_bucket(log)
    line = states(log, first)
    for who in rest:
        states(log, who, members=(), root=ZERO)
    stated = ((first, body_hash(log, line)),)
    says_of_updates(log, "holding", stated=stated, whole=())
    return file_of(log.charter, log.signed())


def of_shares(part: int, twist: Callable[[Log], None]) -> bytes:
    """A round of shamir-gram up to some part, in which one peer's word does not fit another's."""
    log = honest(SHARED, part)
    twist(log)
    return file_of(log.charter, log.signed())


UNDECIDED: Mapping[str, Callable[[], bytes]] = {
    "wire/undecided-a-gap": gap,
    "wire/undecided-a-forged-entry": forged,
    "wire/undecided-another-charter": another_charter,
    "wire/undecided-cut-short": cut,
    "wire/undecided-no-entry": nothing,
    "certify/undecided-a-withheld-commit": withheld_commit,
    "secagg/undecided-word-against-word": word_against_word,
    "bucketed/undecided-who-stated-it": two_words_of_a_mean,
    "shamir-gram/undecided-word-against-word": partial(of_shares, START, holds_what_is_not_signed),
    "shamir-gram/undecided-who-dealt-it-or-told": partial(of_shares, TOLD, dealt_or_told),
    "shamir-gram/undecided-of-other-slices": partial(of_shares, TRIED, of_other_slices),
}
