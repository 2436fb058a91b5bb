"""The auditor on shamir-gram: over real machines of which one lies, nobody honest is accused whatever becomes of the
logs, and whoever lies is found under its clause, or it is said why not; what it derives is what machines derive."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beside import SPECS, program
from decentra.audit import Report, Verdict
from decentra.audit.auditor import Auditor
from decentra.audit.ground import Ground
from decentra.audit.rules import BOOKS, shares
from decentra.crypto.keys import Identity
from decentra.crypto.shares.field61 import PRIME
from decentra.crypto.shares.gram import products
from decentra.protocols.rendezvous.messages import Roster
from decentra.protocols.shamir_gram import verdicts
from decentra.protocols.shamir_gram.held import derive_held
from decentra.protocols.shamir_gram.messages import (
    Beacon,
    Check,
    Deal,
    Endorse,
    Gram,
    Holding,
    Part,
    Slice,
    Told,
)
from decentra.protocols.shamir_gram.terms import Terms
from decentra.types import PeerId, RoundId
from decentra.wire.codec import Signed, pack, unpack
from decentra.wire.entry import ZERO, Chain, parse
from helpers import OTHER, also, at, change, kill, lie
from overhearing import damaged
from sharing import dealt as dealt_vectors
from sharing import vector as integers
from test_shamir_gram import Group, dealing, deals, explicit, made_of, twisted

SIZES = [(4, 1), (5, 1), (7, 2), (9, 2)]

Setup = Callable[[Group, int], None]
"""Has a peer lie."""

# ── lies over real machines ──────────────────────────────────────────────────────────────────────────────────────────


def sends(kind: str, twist: Callable[[Any], Any]) -> Setup:
    return lambda group, place: lie(group.sim.peers[place], kind, twist)


def dies(phase: str) -> Setup:
    """Its process is gone as soon as it enters a phase: that is no lie."""
    return lambda group, place: at(group.sim.peers[place], phase, lambda machine: kill(group.sim.peers[place]))


def tells(**changes: Callable[[tuple[int, ...]], tuple[int, ...]]) -> Setup:
    """Its check is false, and it shows its blob."""

    def tell(machine: Any, then: Callable[..., None], value: Any) -> None:
        then(replace(value, **{name: change_(getattr(value, name)) for name, change_ in changes.items()}))

    return lambda group, place: made_of(group.sim.peers[place], tell_check=tell)


def one_more(values: tuple[int, ...]) -> tuple[int, ...]:
    return ((values[0] + 1) % PRIME, *values[1:])


def all_more(values: tuple[int, ...]) -> tuple[int, ...]:
    return tuple((value + 1) % PRIME for value in values)


def denies(everybody: bool) -> Setup:
    """It says that it lacks the deal of one other, or of all."""

    def setup(group: Group, place: int) -> None:
        other = group.ids[(place + 1) % group.n]

        def taken_in(machine: Any, then: Callable[..., None], dealer: PeerId, value: object) -> None:
            if not everybody and dealer != other:
                then(dealer, value)

        made_of(group.sim.peers[place], taken_in=taken_in)

    return setup


def nobody(n: int, position: int) -> list[int]:
    return [place for place in range(n) if place not in (position, (position + 1) % n)]


DEALS_FALSELY: Mapping[str, Setup] = {
    "a false share": lambda group, place: deals(group.sim.peers[place], explicit, 0),
    "no polynomials": lambda group, place: deals(group.sim.peers[place], nobody, 1),
    "a vector that wraps around": lambda group, place: dealing(group.sim.peers[place], [1 << 31, 0, 0, 0, 0, 0]),
}

FOUND: Mapping[str, tuple[Setup, str]] = {
    "endorses twice": (sends(Endorse.kind, also(lambda message: replace(message, context=OTHER))), "SG-1"),
    "two deals": (sends(Deal.kind, also(lambda message: replace(message, beacon_hash=OTHER))), "SG-1"),
    "a deal of another context": (sends(Deal.kind, change(context=OTHER)), "SG-1"),
    "a deal of another roster": (sends(Deal.kind, change(sealed=())), "SG-2"),
    "another beacon": (sends(Deal.kind, change(beacon_hash=OTHER)), "SG-2"),
    "a holding of a stranger": (sends(Holding.kind, change(held=((PeerId(OTHER), OTHER),))), "SG-3"),
    "two holdings": (sends(Holding.kind, also(lambda message: replace(message, held=message.held[:1]))), "SG-3"),
    "shares of another beacon": (sends(Beacon.kind, change(certificate=OTHER)), "SG-4"),
    "no shares of the beacon": (sends(Beacon.kind, change(shares=())), "SG-4"),
    "a short check": (sends(Check.kind, change(degrees=b"short")), "SG-5"),
    "two checks": (sends(Check.kind, also(lambda message: replace(message, zeros=message.degrees))), "SG-5"),
    "a false share": (DEALS_FALSELY["a false share"], "SG-6"),
    "no polynomials": (DEALS_FALSELY["no polynomials"], "SG-6"),
    "a false check that it defends": (tells(degrees=one_more), "SG-6"),
    "false checks": (tells(degrees=all_more), "SG-6"),
    "an empty word": (sends(Gram.kind, change(word=b"")), "SG-7"),
    "two words": (sends(Gram.kind, also(lambda message: replace(message, word=bytes(len(message.word))))), "SG-7"),
    "a vector that wraps around": (DEALS_FALSELY["a vector that wraps around"], "SG-8"),
    "parts of nothing": (sends(Part.kind, change(roots=())), "SG-9"),
    "a slice of another sum": (sends(Slice.kind, change(certificate=OTHER)), "SG-10"),
    "two slices": (sends(Slice.kind, also(lambda message: replace(message, root=OTHER))), "SG-10"),
    "tells of no slice": (sends(Told.kind, change(values=b"")), "SG-11"),
    "tells falsely": (sends(Told.kind, twisted("values")), "SG-11"),
}
"""By what a peer does, the clause under which it is found at any size."""

NAMED: Mapping[str, tuple[Setup, str]] = {
    "a false word": (sends(Gram.kind, twisted("word", (2,))), "SG-8"),
}
"""The same from n = 4c + 2l − 1 on: below nobody can tell who told a false word."""

NOT_TOLD: Mapping[str, Setup] = {
    "nothing": lambda group, place: None,
    "denies one deal": denies(False),
    "denies all deals": denies(True),
    "a false check that it does not defend": sends(Check.kind, twisted("zeros")),
    "dies before the beacon": dies("beacon"),
    "dies before the checks": dies("check"),
    "dies before the words": dies("gram"),
    "dies before the sum": dies("combine"),
}
"""What is nobody's lie, or either of two peers'."""

ALL: Mapping[str, Setup] = {**NOT_TOLD, **{name: setup for name, (setup, _) in (FOUND | NAMED).items()}}


@dataclass(frozen=True)
class Left:
    """What a round left: the ground of its session, what everybody signed, and who lied."""

    ground: Ground
    entries: tuple[Signed, ...]
    identity: Identity

    @property
    def liar(self) -> PeerId:
        return self.identity.id


@cache
def played(size: tuple[int, int], what: str) -> Left:
    group, place = Group(*size), 1
    ALL[what](group, place)
    group.play(but=[place])
    entries = {one.entry: one for peer in group.sim.peers for one in peer.journal.entries}
    return Left(Ground.of(group.sim.charter), tuple(entries.values()), group.sim.peers[place].identity)


def judged(ground: Ground, entries: Iterable[Signed]) -> Report:
    auditor = Auditor(grounds=[ground])
    try:
        auditor.add(entries)
        return auditor.judge()
    finally:
        auditor.close()


@pytest.mark.parametrize("what", FOUND)
@pytest.mark.parametrize("size", SIZES)
def test_who_lies_is_found_under_its_clause_with_evidence_that_convinces_alone(
    size: tuple[int, int], what: str
) -> None:
    left, (_, clause) = played(size, what), FOUND[what]
    report = judged(left.ground, left.entries)
    assert {one.who for one in report.violations} == {left.liar}
    assert clause in {one.clause for one in report.violations}
    for one in report.violations:
        shown = [Signed(record.entry.packed, record.body or b"") for record in one.evidence]
        again = judged(left.ground, shown)
        assert (one.clause, one.who) in {(other.clause, other.who) for other in again.violations}


@pytest.mark.parametrize("what", NAMED)
@pytest.mark.parametrize("size", SIZES)
def test_a_false_word_is_found_where_it_can_be_told(size: tuple[int, int], what: str) -> None:
    left, (_, clause) = played(size, what), NAMED[what]
    report = judged(left.ground, left.entries)
    n, c = size
    told = {(clause, left.liar)} if n >= 4 * c + 1 else set()
    assert {(one.clause, one.who) for one in report.violations} == told


@pytest.mark.parametrize("what", NOT_TOLD)
@pytest.mark.parametrize("size", SIZES)
def test_what_is_no_lie_or_either_of_two_accuses_nobody(size: tuple[int, int], what: str) -> None:
    left = played(size, what)
    report = judged(left.ground, left.entries)
    assert not report.violations
    undecided = what == "a false check that it does not defend"
    assert report.verdict is (Verdict.UNDECIDED if undecided else Verdict.CLEAN), report.missing
    if undecided and size[0] > 4 * size[1]:
        assert {one.whose for one in report.missing} == {left.liar}


SHARE = st.sampled_from((1.0, 0.9, 0.5))


@given(
    st.sampled_from(SIZES), st.sampled_from(sorted(ALL)), st.integers(0, 1 << 20), *(SHARE,) * 3
)
@settings(max_examples=150)
def test_nobody_honest_is_accused_whatever_becomes_of_the_logs(
    size: tuple[int, int], what: str, seed: int, kept: float, whole: float, sound: float
) -> None:
    left = played(size, what)
    report = judged(left.ground, damaged(left.entries, random.Random(seed), kept, whole, sound))
    assert {one.who for one in report.violations} <= {left.liar}, report.violations


@given(st.sampled_from(SIZES), st.sampled_from(sorted(ALL)), st.data())
@settings(max_examples=100)
def test_nobody_is_accused_by_whoever_keeps_all_of_some_peers_words_back(
    size: tuple[int, int], what: str, data: st.DataObject
) -> None:
    left = played(size, what)
    gone = data.draw(st.sets(st.sampled_from(left.ground.members)))
    kept = [one for one in left.entries if parse(one.entry).author not in gone]
    report = judged(left.ground, kept)
    assert {one.who for one in report.violations} <= {left.liar}


def test_what_a_liar_signs_under_a_roster_of_its_own_accuses_nobody_else() -> None:
    """It endorses the others' context under another roster, in which all their values lie on other points."""
    left = played((9, 2), "nothing")
    ground, me = left.ground, left.identity.id
    own = {parse(one.entry).kind: one for one in left.entries if parse(one.entry).author == me}
    rosters = [one for one in left.entries if parse(one.entry).kind == Roster.kind]
    members = [peer for peer in ground.members if peer != min(set(ground.members) - {me})]
    fields = ground.codec.decode(Roster.kind, rosters[0].body)
    body = ground.codec.encode(Roster.kind, (ground.order(1).index(me), tuple(members), *fields[2:]))
    chain, number = Chain(left.identity, ground.session, 2), RoundId(1, 1)
    roster = chain.sign(number, Roster.kind, body, ZERO)
    made = [Signed(roster.packed, body)]
    for kind in (Endorse.kind, Check.kind, Gram.kind, Told.kind):
        after = roster.hash if kind == Endorse.kind else ZERO
        made.append(Signed(chain.sign(number, kind, own[kind].body, after).packed, own[kind].body))
    # The liar's own endorsement is left out, so that it acts under the roster that it made.
    entries = [one for one in left.entries if one != own[Endorse.kind]]
    report = judged(ground, [*entries, *made])
    assert {one.who for one in report.violations} == {me}


# ── what is derived is what machines derive ──────────────────────────────────────────────────────────────────────────

PEERS = tuple(PeerId(bytes([place + 1]) * 32) for place in range(20))
ROSTERS = st.sampled_from([(4, 1), (5, 1), (7, 2), (9, 2), (16, 2), (16, 3), (13, 4)])
RULE = "nnm+multi_krum"


def numbers_of(n: int, c: int) -> shares.Numbers:
    numbers = shares.Numbers.of(PEERS[:n], c, RULE)
    assert numbers is not None
    return numbers


@given(ROSTERS)
def test_a_rosters_numbers_are_the_machines(size: tuple[int, int]) -> None:
    numbers, terms = numbers_of(*size), Terms(*size, 9)
    assert numbers.sharing == terms.sharing
    assert numbers.fewest == (terms.fewest_dealers, terms.fewest_holders)


@given(st.integers(0, 70), st.integers(-1, 30))
def test_a_roster_that_can_share_nothing_has_no_numbers(n: int, c: int) -> None:
    order = tuple(PeerId(bytes([place]) * 32) for place in range(n))
    assert (shares.Numbers.of(order, c, RULE) is None) == (not c >= 1 or n > 64 or n < 3 * c + 1)
    assert shares.Numbers.of((*order, *order[:1]), 1, RULE) is None or not order


@given(ROSTERS, st.data())
def test_holdings_give_the_machines_survivors(size: tuple[int, int], data: st.DataObject) -> None:
    n, c = size
    names = st.sampled_from(PEERS[:n])
    full = {peer: bytes(peer[:1]) * 32 for peer in PEERS[:n]}
    held = {}
    for peer in data.draw(st.sets(names, min_size=n - 2)):
        lacks, other = data.draw(st.sets(names, max_size=3)), data.draw(st.sets(names, max_size=2))
        held[peer] = {one: OTHER if one in other else full[one] for one in PEERS[:n] if one not in lacks}
    numbers, terms = numbers_of(n, c), Terms(n, c, 9)
    mine = derive_held(PEERS[:n], c, (terms.fewest_dealers, terms.fewest_holders), held)
    expected = None if mine is None or len(held) < numbers.least else mine.pack()
    assert shares.held_by_all(numbers, held) == expected


def on_polynomial(sharing: Any, degree: int, rng: random.Random, zero: bool) -> list[int]:
    """Values at the points 1 … n of a polynomial of a degree; of one whose slots sum to 0."""
    values, slots = [rng.randrange(PRIME) for _ in range(degree + 1)], sharing.secret_points
    if zero:
        powers = [sum(pow(point, power, PRIME) for point in slots) % PRIME for power in range(degree + 1)]
        rest = sum(value * power for value, power in zip(values[1:], powers[1:], strict=True))
        values[0] = -rest * pow(powers[0], -1, PRIME) % PRIME
    return [sum(value * pow(x, power, PRIME) for power, value in enumerate(values)) % PRIME for x in sharing.points]


@st.composite
def told(draw: st.DrawFn) -> tuple[shares.Numbers, dict[PeerId, shares.Values], dict[shares.Pair, verdicts.Shown]]:
    """Checks of some holders, some of them false, and what was shown of some of the pairs."""
    n, c = draw(ROSTERS)
    numbers, rng = numbers_of(n, c), random.Random(draw(st.integers(0, 1 << 20)))
    sharing = numbers.sharing
    rows = [
        (on_polynomial(sharing, sharing.degree, rng, False), on_polynomial(sharing, sharing.product_degree, rng, True))
        for _ in range(n)
    ]
    places = st.integers(0, n - 1)
    for _ in range(draw(st.integers(0, 2 * c + 1))):
        dealer, holder, of = draw(places), draw(places), draw(st.integers(0, 1))
        rows[dealer][of][holder] = (rows[dealer][of][holder] + 1) % PRIME
    silent = draw(st.sets(places, max_size=c))
    values = {
        PEERS[h]: (tuple(row[0][h] for row in rows), tuple(row[1][h] for row in rows))
        for h in range(n)
        if h not in silent
    }
    blobs: dict[shares.Pair, verdicts.Shown] = {}
    for dealer, holder in shares.judge(numbers, PEERS[:n], values).suspects:
        own = tuple(of[PEERS.index(dealer)] for of in values[holder])
        found = draw(st.sampled_from(["unshown", "none", "as told", "other"]))
        if found != "unshown":
            blobs[dealer, holder] = {"none": None, "as told": own}.get(found, (own[0] ^ 1, own[1]))  # type: ignore[assignment]
    return numbers, values, blobs


@given(told(), st.data())
@settings(max_examples=150)
def test_what_a_machine_makes_of_checks_is_what_they_may_give(
    case: tuple[shares.Numbers, dict[PeerId, shares.Values], dict[shares.Pair, verdicts.Shown]], data: st.DataObject
) -> None:
    numbers, values, blobs = case
    order = numbers.order
    table = verdicts.Table(Terms(len(order), numbers.c, 9), order, order, order, RULE)
    judged_ = verdicts.derive_checked(table, values, blobs)
    given_ = verdicts.UNDECIDED if judged_.value is None else judged_.value.pack()
    assert shares.may_give(numbers, order, order, values, given_)
    assert not shares.may_give(numbers, order, order, values, given_ + b"x")
    found = shares.judge(numbers, order, values)
    if judged_.value is None:
        return
    assert shares.may_give(numbers, order, order, values, verdicts.UNDECIDED) == bool(found.suspects)
    name = data.draw(st.sampled_from(["dealers", "zeros", "holders", "proved"]))
    peer = data.draw(st.sampled_from(order))
    some = {*getattr(judged_.value, name)} ^ {peer}
    other = replace(judged_.value, **{name: tuple(one for one in order if one in some)})
    if shares.may_give(numbers, order, order, values, other.pack()):
        # It takes a suspect pair to explain another value, and it is the value of what that pair's blob may show.
        assert any(peer in pair for pair in found.suspects)


def test_two_peers_are_not_proved_by_one_blob() -> None:
    numbers = numbers_of(5, 1)
    order, rng = numbers.order, random.Random(1)
    rows = [on_polynomial(numbers.sharing, 1, rng, False) for _ in order]
    zeros = [on_polynomial(numbers.sharing, 2, rng, True) for _ in order]
    rows[0][3] = (rows[0][3] + 1) % PRIME
    values = {
        peer: (tuple(row[h] for row in rows), tuple(row[h] for row in zeros)) for h, peer in enumerate(order)
    }
    assert shares.judge(numbers, order, values).suspects == ((order[0], order[3]),)

    def may(proved: Sequence[int], uncounted: Sequence[int]) -> bool:
        stand = tuple(peer for place, peer in enumerate(order) if place not in proved)
        counted = tuple(peer for place, peer in enumerate(order) if place not in (*proved, *uncounted))
        value = verdicts.Checked(stand, stand, counted, tuple(order[place] for place in proved))
        return shares.may_give(numbers, order, order, values, value.pack())

    assert may([0], []) and may([3], []) and may([], [3])
    assert not may([], []) and not may([0, 3], []) and not may([0], [3]) and not may([1], []) and not may([], [2])


@given(st.sampled_from(SIZES), st.integers(0, 1 << 20), st.data())
@settings(max_examples=20)
def test_what_words_give_is_what_a_machine_makes_of_them(
    size: tuple[int, int], seed: int, data: st.DataObject
) -> None:
    n, c = size
    numbers = numbers_of(n, c)
    order, sharing = numbers.order, numbers.sharing
    length = data.draw(st.sampled_from([1 << 10, 1 << 20, 1 << 31]))
    vectors = [integers(seed + place, 4, length if place == 0 else 1 << 16) for place in range(n)]
    held = dealt_vectors(sharing, vectors)
    words = {order[h]: products(sketched) for h, sketched in enumerate(held.sketches())}
    for place in data.draw(st.sets(st.integers(0, n - 1), max_size=c)):
        words[order[place]] = words[order[place]].copy()
        words[order[place]][data.draw(st.integers(0, words[order[place]].size - 1))] ^= np.uint64(1)
    for place in data.draw(st.sets(st.integers(0, n - 1), max_size=1)):
        del words[order[place]]
    table = verdicts.Table(Terms(n, c, 4), order, order, order, RULE)
    mine = verdicts.derive_geometry(table, verdicts.Checked(order, order, order, ()), words)
    said = {peer: word.tobytes() for peer, word in words.items()}
    opened = shares.open_words(numbers, shares.Checked(order, order, order, ()), said)
    assert opened.value == (None if mine is None else mine.value.pack())
    if opened.value is not None:
        assert set(shares.proved(opened.value)) == {*opened.wrong, *opened.out}
        assert shares.weighed(opened.value) == tuple(peer for peer in order if peer not in {*opened.wrong, *opened.out})


@given(st.binary(max_size=100), ROSTERS)
def test_what_is_no_value_of_a_vote_is_read_as_none(raw: bytes, size: tuple[int, int]) -> None:
    numbers = numbers_of(*size)
    for kind in (shares.Checked, shares.Geometry):
        assert kind.read(raw, numbers) is None
    assert shares.proved(raw) == shares.weighed(raw) == ()


def test_the_book_of_shamir_gram_holds_every_clause_of_it() -> None:
    assert {f"SG-{number}" for number in range(1, 13)} <= BOOKS["shamir-gram"].clauses
    assert {clause for _, clause in (FOUND | NAMED).values()} == {f"SG-{n}" for n in range(1, 12)}


# ── whatever is signed ───────────────────────────────────────────────────────────────────────────────────────────────

program(SPECS / "make_transcripts.py")
SCENES, LIES = sys.modules["scenes"], sys.modules["lies.shares"]

def other_deal(log: Any) -> bytes:
    """The certified survivors, but for the hash of a deal."""
    value: bytes = log.find("certify.propose", topic="survivors").fields["value"]
    return value.replace(unpack(value, 8192)[2][0], OTHER)  # type: ignore[index]


@pytest.mark.parametrize("value", [lambda log: b"fail", other_deal, lambda log: pack(((), (), ()))])
def test_who_proposes_survivors_that_the_shown_holdings_do_not_give_is_found(value: Callable[[Any], bytes]) -> None:
    log = SCENES.honest("shamir-gram", SCENES.DEALT)
    liar = sys.modules["lies.common"].unbound(len(log.ids), "survivors", value=value(log))(log).who
    found = {(one.clause, one.who) for one in judged(Ground.of(log.charter), log.signed()).violations}
    assert found == {("CE-2", liar)}


SOME = st.lists(st.integers(0, 4), max_size=6)
"""Places of a roster, of any number and in any order."""


@st.composite
def certified_nonsense(draw: st.DrawFn, ids: Sequence[PeerId], topic: str) -> bytes:
    """A value of a vote that no shown words give."""
    peers = [tuple(ids[place] for place in draw(SOME)) for _ in range(4)]
    if topic == "survivors":
        hashes = tuple(draw(st.lists(st.just(OTHER), min_size=len(peers[0]), max_size=len(peers[0]))))
        return draw(st.sampled_from([pack((peers[0], peers[1], hashes)), pack((peers[0], peers[1], ())), b"fail"]))
    if topic == "checked":
        return draw(st.sampled_from([pack(tuple(peers)), pack(tuple(map(tuple, map(sorted, peers)))), b"undecided"]))
    weights = tuple(draw(st.lists(st.integers(-1, 1 << 20), min_size=len(peers[0]), max_size=len(peers[0]))))
    return draw(st.sampled_from([pack((OTHER, peers[0], weights, peers[1], peers[2])), pack((OTHER, *peers))]))


@given(st.data())
@settings(max_examples=60)
def test_whatever_all_members_sign_or_certify_it_never_raises(data: st.DataObject) -> None:
    log = SCENES.honest("shamir-gram")
    for topic in data.draw(st.sets(st.sampled_from(["survivors", "checked", "geometry"]))):
        LIES.certified(log, topic, data.draw(certified_nonsense(log.ids, topic)))
    lines = [line for chain in log.chains.values() for line in chain if line.kind.startswith("shamir-gram.")]
    for line in data.draw(st.lists(st.sampled_from(lines), max_size=12)):
        name, old = data.draw(st.sampled_from(sorted(line.fields.items(), key=lambda item: item[0])))
        if isinstance(old, tuple):
            line.fields = {**line.fields, name: old[: data.draw(st.integers(0, 5))]}
        elif len(old) == 32:
            line.fields = {**line.fields, name: data.draw(st.sampled_from([OTHER, *log.ids]))}
        else:
            line.fields = {**line.fields, name: data.draw(st.binary(max_size=16) | st.just(bytes(len(old))))}
    report = judged(Ground.of(log.charter), log.signed())
    assert report.read and not report.garbled
