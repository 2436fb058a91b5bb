"""Lies in rounds of shamir-gram."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from scenes import DEALT, ENDED, IN_SHARES, SLICED, STANDING, START, TOLD, TRIED, WEIGHED, WORDS, Line, Log

from decentra import derive
from decentra.protocols.shamir_gram.verdicts import Checked
from decentra.types import PeerId, RoundId
from lies.common import OTHER, Lie, Twist, body_hash, instead, second, unbound
from lies.updates import says_of_updates

Fields = dict[str, Any]

DEAL: Mapping[str, Any] = {
    "roots": (OTHER,) * IN_SHARES,
    "beacon_hash": OTHER,
    "beacon_share_hashes": (OTHER,) * IN_SHARES,
    "sealed": (OTHER,) * IN_SHARES,
}


def raised(elements: bytes, *places: int, by: int = 1) -> bytes:
    """Elements of which some are others."""
    words = [elements[at : at + 8] for at in range(0, len(elements), 8)]
    for place in places:
        words[place] = (int.from_bytes(words[place], "little") + by).to_bytes(8, "little")
    return b"".join(words)


def replaced(log: Log, old: bytes, new: bytes) -> None:
    """Have everybody say another hash, or value, where it said an old one."""

    def other(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(other, value))
        return value.replace(old, new) if isinstance(value, bytes) else value

    for chain in log.chains.values():
        for line in chain:
            line.fields = {name: other(value) for name, value in line.fields.items()}


def certified(log: Log, topic: str, value: bytes) -> None:
    """Have everybody vote for another value of a topic."""
    said = log.find("certify.propose", topic=topic).fields
    before = derive.vote_value(said["context"], topic, said["value"])
    replaced(log, said["value"], value)
    replaced(log, before, derive.vote_value(said["context"], topic, value))


# ── of deals ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def holds_another_deal(log: Log) -> Line:
    """A peer holds another deal of its own than it signed."""
    says_of_updates(log, "deal", **DEAL)
    return says_of_updates(log, "holding", held=((log.ids[2], OTHER),))


def no_part(log: Log) -> Line:
    """A dealer signs shares of its part of the beacon that are those of no part, and all others show them."""
    deal, roster = log.find("shamir-gram.deal", log.ids[2]), log.find("rendezvous.roster")
    shares = {who: bytes([place]) * 31 + b"\1" for place, who in enumerate(log.ids)}
    place = (log.session, RoundId(1, 1), roster.fields["view"], log.ids, deal.who)
    hashes = tuple(derive.share_hash(*place, who, "beacon", share) for who, share in shares.items())
    hashed = body_hash(log, deal)
    deal.fields = {**deal.fields, "beacon_share_hashes": hashes}
    said = log.find("certify.propose", topic="survivors").fields["value"]
    replaced(log, hashed, body_hash(log, deal))
    given = log.find("certify.propose", topic="survivors").fields
    before, after = (derive.vote_value(given["context"], "survivors", value) for value in (said, given["value"]))
    replaced(log, before, after)
    for line in log.all("shamir-gram.beacon"):
        shown = tuple((who, shares[line.who] if who == deal.who else share) for who, share in line.fields["shares"])
        line.fields = {**line.fields, "shares": shown}
    return deal


def other_share(log: Log, said: Fields) -> Fields:
    (first, _), *rest = said["shares"]
    return {"shares": ((first, OTHER[:-1] + b"\0"), *rest)}


OF_DEALS = (
    Lie("shamir-gram/bad-SG-1-two-endorsements", START, second("shamir-gram.endorse", context=OTHER)),
    Lie("shamir-gram/bad-SG-1-two-deals", DEALT, second("shamir-gram.deal", roots=(OTHER,) * IN_SHARES)),
    Lie(
        "shamir-gram/bad-SG-1-under-another-context",
        START,
        lambda log: says_of_updates(log, "deal", **{**DEAL, "context": OTHER}),
    ),
    Lie(
        "shamir-gram/bad-SG-2-of-another-roster",
        START,
        lambda log: says_of_updates(log, "deal", **{**DEAL, "sealed": (OTHER,)}),
    ),
    Lie("shamir-gram/bad-SG-2-no-part-of-the-beacon", TOLD, no_part),
    Lie("shamir-gram/bad-SG-3-not-the-deal-that-it-signed", START, holds_another_deal),
    Lie(
        "shamir-gram/bad-SG-3-a-stranger",
        START,
        lambda log: says_of_updates(log, "holding", held=tuple(sorted(((log.ids[2], OTHER), (PeerId(OTHER), OTHER))))),
    ),
    Lie(
        "shamir-gram/bad-SG-4-under-another-certificate",
        TOLD,
        instead("shamir-gram.beacon", lambda log, said: {"certificate": OTHER}),
    ),
    Lie(
        "shamir-gram/bad-SG-4-not-every-survivor",
        TOLD,
        instead("shamir-gram.beacon", lambda log, said: {"shares": said["shares"][1:]}),
    ),
    Lie("shamir-gram/bad-SG-4-not-the-share-it-was-dealt", TOLD, instead("shamir-gram.beacon", other_share)),
)

# ── of checks ────────────────────────────────────────────────────────────────────────────────────────────────────────


def no_polynomial(log: Log) -> Line:
    """What all holders tell of one dealer's deal is on no polynomial of its degree."""
    for place, line in enumerate(log.all("shamir-gram.check")):
        line.fields = {**line.fields, "degrees": raised(line.fields["degrees"], 2, by=place**3)}
    return log.find("shamir-gram.deal", log.ids[2])


def shows_another(log: Log) -> Line:
    """A peer shows a blob that its dealer did not sign for it."""
    vote = log.find("certify.commit", log.ids[2], "survivors")
    given = {"context": vote.fields["context"], "certificate": vote.fields["value"], "root": OTHER}
    line = log.add(log.ids[2], "shamir-gram.shown", dealer=log.ids[0], after=vote.after, **given)
    line.fields["receiver"] = log.ids[2]  # in the message; that of the entry is everybody
    return line


def proved_by_a_blob(log: Log) -> Line:
    """One holder's word on a dealer fits no others', and it shows its blob: the dealer is certified to have lied."""
    liar, check = log.ids[2], log.find("shamir-gram.check", log.ids[0])
    check.fields = {**check.fields, "degrees": raised(check.fields["degrees"], 2)}
    others = tuple(who for who in log.ids if who != liar)
    certified(log, "checked", Checked(others, others, others, (liar,)).pack())
    return log.find("shamir-gram.check", liar)


OF_CHECKS = (
    Lie(
        "shamir-gram/bad-SG-5-not-an-element-each",
        TOLD,
        instead("shamir-gram.check", lambda log, said: {"degrees": said["degrees"][8:]}),
    ),
    Lie(
        "shamir-gram/bad-SG-5-no-elements",
        TOLD,
        instead("shamir-gram.check", lambda log, said: {"zeros": b"\xff" * len(said["zeros"])}),
    ),
    Lie("shamir-gram/bad-SG-5-two-checks", TOLD, second("shamir-gram.check", zeros=bytes(8 * IN_SHARES))),
    Lie("shamir-gram/bad-SG-6-no-polynomial", TOLD, no_polynomial),
    Lie(
        "shamir-gram/bad-SG-6-what-fits-nobody-s-word",
        TOLD,
        instead("shamir-gram.check", lambda log, said: {"degrees": raised(said["degrees"], 0, 1)}),
    ),
    Lie("shamir-gram/bad-SG-6-proved-by-what-was-shown", STANDING, proved_by_a_blob),
    Lie("shamir-gram/bad-SG-6-shows-what-was-not-dealt", TOLD, shows_another),
    Lie(
        "shamir-gram/bad-SG-6-not-what-the-checks-give",
        STANDING,
        lambda log: unbound(1, "checked", value=without_one(log))(log),
    ),
    Lie("shamir-gram/bad-SG-6-undecided-for-nothing", STANDING, unbound(1, "checked", value=b"undecided")),
)


def without_one(log: Log) -> bytes:
    """What checks come to, less a dealer that nobody has proved to lie."""
    given = Checked.unpack(log.find("certify.propose", topic="checked").fields["value"])
    return replace(given, dealers=given.dealers[1:]).pack()


# ── of words, and of the sum ─────────────────────────────────────────────────────────────────────────────────────────


def no_short_vector(log: Log) -> Line:
    """By all holders' words a dealer's vector is longer than any may be."""
    diagonal = sum(IN_SHARES - place for place in range(2))
    for line in log.all("shamir-gram.gram"):
        line.fields = {**line.fields, "word": shifted(line.fields["word"], diagonal)}
    return log.find("shamir-gram.deal", log.ids[2])


def shifted(word: bytes, place: int) -> bytes:
    """A word with so much more at a place that no sum of it is a square of a short vector."""
    value = (int.from_bytes(word[8 * place : 8 * place + 8], "little") + (1 << 60)) % ((1 << 61) - 1)
    return word[: 8 * place] + value.to_bytes(8, "little") + word[8 * place + 8 :]


def fewer(name: str, by: int = 8) -> Callable[[Log, Fields], Fields]:
    return lambda log, said: {name: said[name][by:]}


def slices_but_one(log: Log) -> Line:
    shown = log.find("certify.propose", topic="outcome").fields["shown"]
    return unbound(1, "outcome", shown=shown[1:])(log)


def another(name: str) -> Callable[[Log, Fields], Fields]:
    return lambda log, said: {name: OTHER}


def raises(name: str, place: int) -> Callable[[Log, Fields], Fields]:
    """One element of a field is another."""
    return lambda log, said: {name: raised(said[name], place)}


def twice(kind: str, **changes: Any) -> Twist:
    return second(f"shamir-gram.{kind}", **changes)


OF_WORDS = (
    Lie("shamir-gram/bad-SG-7-two-words", WORDS, twice("gram", word=bytes(8 * IN_SHARES * (IN_SHARES + 1) // 2))),
    Lie("shamir-gram/bad-SG-7-not-every-pair", WORDS, instead("shamir-gram.gram", fewer("word"))),
    Lie("shamir-gram/bad-SG-7-under-other-checks", WORDS, instead("shamir-gram.gram", another("certificate"))),
    Lie("shamir-gram/bad-SG-8-a-false-word", WORDS, instead("shamir-gram.gram", raises("word", 3))),
    Lie("shamir-gram/bad-SG-8-no-short-vector", WORDS, no_short_vector),
    Lie("shamir-gram/bad-SG-8-not-what-the-words-give", WEIGHED, unbound(1, "geometry", value=b"undecided")),
)

OF_SUMS = (
    Lie("shamir-gram/bad-SG-9-two-parts", SLICED, twice("part", roots=(OTHER,) * IN_SHARES)),
    Lie("shamir-gram/bad-SG-9-not-of-every-slice", SLICED, instead("shamir-gram.part", fewer("roots", 1))),
    Lie("shamir-gram/bad-SG-10-two-slices", TRIED, twice("slice", root=OTHER)),
    Lie("shamir-gram/bad-SG-10-of-another-sum", SLICED, instead("shamir-gram.slice", another("certificate"))),
    Lie("shamir-gram/bad-SG-11-two-tellings", TRIED, twice("told", values=bytes(8 * IN_SHARES))),
    Lie("shamir-gram/bad-SG-11-not-of-every-slice", TRIED, instead("shamir-gram.told", fewer("values"))),
    Lie("shamir-gram/bad-SG-11-what-fits-nobody-s-word", TRIED, instead("shamir-gram.told", raises("values", 1))),
    Lie("shamir-gram/bad-SG-12-not-what-the-slices-give", ENDED, unbound(1, "outcome", value=OTHER)),
    Lie("shamir-gram/bad-SG-12-without-every-slice", ENDED, slices_but_one),
)

OF_SHAMIR_GRAM = (*OF_DEALS, *OF_CHECKS, *OF_WORDS, *OF_SUMS)

# ── of which nobody can tell ─────────────────────────────────────────────────────────────────────────────────────────


def dealt_or_told(log: Log) -> None:
    """A holder's word on a dealer fits no others': either lied."""
    check = log.find("shamir-gram.check", log.ids[0])
    check.fields = {**check.fields, "zeros": raised(check.fields["zeros"], 2)}


def of_other_slices(log: Log) -> None:
    """A holder tells of other slices than are here: it lies, or who owns one has signed two."""
    log.find("shamir-gram.told", log.ids[2]).fields["key"] = OTHER


def holds_what_is_not_signed(log: Log) -> None:
    """A holder says that it holds a deal which its author, as far as the logs show, did not sign."""
    own = says_of_updates(log, "deal", **DEAL)
    log.add(log.ids[0], own.kind, after=own.after, **own.fields)
    says_of_updates(log, "holding", held=tuple(sorted(((own.who, body_hash(log, own)), (log.ids[0], OTHER)))))

