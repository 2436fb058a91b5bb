"""Degree checks and checks of zero: a bad deal or a lying holder is found, an honest one never, and nothing is told."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentra.crypto.hashing import expand
from decentra.crypto.shares import checks, gram
from decentra.crypto.shares.checks import Verdict, combinations, judge_degree, judge_zero
from decentra.crypto.shares.decoding import Undecided, correctable, decode
from decentra.crypto.shares.field61 import PRIME, Elements
from decentra.crypto.shares.polynomials import lagrange
from decentra.crypto.shares.sharing import Sharing
from decentra.crypto.shares.streams import uniform
from sharing import BEACON, IN_USE, SMALL, SMALLER, Round, dealt, secret, vector, whole

FINE = Verdict(False, ())
PAIRS = 6


def round_of(sharing: Sharing, d: int = 9) -> Round:
    return dealt(sharing, [vector(peer, d) for peer in range(sharing.n)])


def column(values: list[tuple[int, ...]], dealer: int) -> dict[int, int]:
    """What every holder told of one dealer."""
    return {peer + 1: told[dealer] for peer, told in enumerate(values)}


def change(played: Round, dealer: int, holder: int, place: int) -> None:
    """The dealer gives a holder another element."""
    share = whole(played.held[holder][dealer], played.sharing.length(played.d)).copy()
    share[place] = (int(share[place]) + 1) % PRIME
    played.held[holder][dealer] = share


@pytest.mark.parametrize("sharing", IN_USE[:-1], ids=str)
def test_honest_deals_pass(sharing: Sharing) -> None:
    values = round_of(sharing).degree_values()
    assert all(judge_degree(column(values, dealer), sharing) == FINE for dealer in range(sharing.n))


@given(SMALLER, st.sampled_from([0, 1, 9]), st.data())
def test_holders_that_lie_and_shares_that_differ_are_named(sharing: Sharing, d: int, data: st.DataObject) -> None:
    played = round_of(sharing, d)
    wrong = data.draw(st.permutations(range(sharing.n)))[: data.draw(st.integers(0, sharing.c))]
    length = sharing.length(d)
    for holder in wrong:
        change(played, 0, holder, data.draw(st.integers(0, length - 1)))  # the blind counts as well
    values = played.degree_values()
    assert judge_degree(column(values, 0), sharing) == Verdict(False, tuple(sorted(x + 1 for x in wrong)))
    for dealer in range(1, sharing.n):
        assert judge_degree(column(values, dealer), sharing) == FINE


@given(SMALLER, st.data())
def test_a_deal_that_more_than_c_honest_holders_do_not_agree_on_is_its_dealers_fault(
    sharing: Sharing, data: st.DataObject
) -> None:
    """Shares on a polynomial of one degree more, which only the check sees."""
    played, length = round_of(sharing), sharing.length(9)
    extra = uniform(b"\x09" * 32, length)
    rows = lagrange(tuple(range(1, sharing.degree + 3)), sharing.points)
    held = [whole(played.held[peer][2], length) for peer in range(sharing.n)]
    base = [*held[: sharing.degree + 1], extra]
    for peer in range(sharing.n):
        made = [sum(w * int(one[k]) for w, one in zip(rows[peer], base, strict=True)) % PRIME for k in range(length)]
        played.held[peer][2] = np.array(made, np.uint64)
    values = column(played.degree_values(), 2)
    assert judge_degree(values, sharing) == Verdict(True, ())
    # up to c liars that say what they like change nothing
    for liar in data.draw(st.permutations(sharing.points))[: sharing.c - 1]:
        values[liar] = data.draw(st.integers(0, PRIME - 1))
    assert judge_degree(values, sharing) == Verdict(True, ())


def test_at_3c_plus_1_liars_make_honest_holders_of_a_bad_deal_suspects_who_then_show_it() -> None:
    """Why being named wrong is a suspicion: c liars, one of them the dealer, choose whom the honest agree with."""
    sharing, c = Sharing(10, 3), 3
    played = round_of(sharing)
    for holder in (3, 4, 5):  # honest, with a bad share each; 7, 8, 9 lie
        change(played, 7, holder, 0)
    values = column(played.degree_values(), 7)
    agreeing = (4, 5, 6, 7)  # points of c + 1 honest holders, three of them with bad shares
    for liar in (8, 9, 10):
        row = lagrange(agreeing, (liar,))[0]
        values[liar] = sum(weight * values[x] for weight, x in zip(row, agreeing, strict=True)) % PRIME
    verdict = judge_degree(values, sharing)
    assert verdict == Verdict(False, (1, 2, 3)) and len(verdict.suspects) == c
    # point 1 shows the share that the dealer signed: it gives what it told, so the dealer is out
    shown = checks.degree_values([played.held[0][7]], sharing.length(9), BEACON)
    assert shown == (values[1],)


@pytest.mark.parametrize("sharing", SMALL, ids=str)
def test_missing_holders_are_gaps_and_never_a_dealers_fault(sharing: Sharing) -> None:
    values = column(round_of(sharing).degree_values(), 1)
    silent = sharing.points[: sharing.c]
    some = {x: value for x, value in values.items() if x not in silent}
    assert judge_degree(some, sharing, liars=0) == FINE
    if correctable(len(some), sharing.degree, sharing.c) >= 0:
        assert judge_degree(some, sharing) == FINE
    some[sharing.n] = (some[sharing.n] + 1) % PRIME
    if correctable(len(some), sharing.degree, sharing.c) < 1:
        with pytest.raises(Undecided):
            judge_degree(some, sharing)
    if sharing.c > 1:  # one of the c lies, so that c − 1 are silent
        some = {x: value for x, value in values.items() if x >= sharing.c}
        some[sharing.n] = (some[sharing.n] + 1) % PRIME
        assert judge_degree(some, sharing, liars=1) == Verdict(False, (sharing.n,))


def test_what_is_told_of_an_honest_deal_depends_on_the_blind_alone() -> None:
    """The polynomial that the values lie on is uniform: another blind gives any other one, for the same vector."""
    sharing, d = Sharing(16, 2, 4), 9
    polynomials = []
    for run in range(2):
        played = dealt(sharing, [vector(0, d)] * sharing.n, run)
        polynomials.append(decode(column(played.degree_values(), 0), sharing.degree, 0).polynomial)
    slots = [[int(value) for value in uniform(expand(secret(0, run), "decentra/shares/blind"), 4)] for run in range(2)]
    key = expand(BEACON, checks.DEGREE_LABEL)
    coefficients = [int(value) for value in uniform(key, 3)]
    for polynomial, blind in zip(polynomials, slots, strict=True):
        for slot, place in enumerate(sharing.secret_points):
            told = sum(a * x**power for power, a in enumerate(polynomial) for x in [place]) % PRIME
            mine = [int(value) for value in vector(0, d)[slot::4]]
            expected = sum(a * b for a, b in zip(coefficients, mine, strict=False)) + blind[slot]
            assert told == expected % PRIME
    assert all(a != b for a, b in zip(*polynomials, strict=True))


@given(st.integers(0, 60), st.lists(st.integers(0, 60), max_size=3), st.booleans())
def test_combinations_of_slices_add_up(length: int, cuts: list[int], stream: bool) -> None:
    row = uniform(b"\x03" * 32, length)
    bounds = sorted({0, length, *(cut for cut in cuts if cut <= length)})
    parts = [
        combinations([b"\x03" * 32 if stream else row[low:high]], high - low, BEACON, checks.OPENED_LABEL, start=low)[0]
        for low, high in pairwise(bounds)
    ]
    coefficients = uniform(expand(BEACON, checks.OPENED_LABEL), length)
    expected = sum(int(a) * int(b) for a, b in zip(row, coefficients, strict=True)) % PRIME
    assert sum(parts) % PRIME == expected
    assert combinations([row], length, BEACON, checks.OPENED_LABEL) == (expected,)
    if length:
        blinded = (expected + (1 - int(coefficients[-1])) * int(row[-1])) % PRIME
        assert combinations([row], length, BEACON, checks.OPENED_LABEL, blinded=True) == (blinded,)


def test_labels_and_beacons_give_unlike_coefficients() -> None:
    row = uniform(b"\x03" * 32, 5)
    labels = (checks.DEGREE_LABEL, checks.ZERO_LABEL, checks.OPENED_LABEL)
    told = {combinations([row], 5, beacon, label) for label in labels for beacon in (BEACON, bytes(32))}
    assert len(told) == 6


def test_what_cannot_be_checked_is_refused() -> None:
    sharing = Sharing(4, 1)
    values = column(round_of(sharing).degree_values(), 0)
    for beacon in (b"", bytes(31), bytes(33)):
        with pytest.raises(ValueError, match="a beacon has 32 bytes"):
            combinations([], 0, beacon, checks.DEGREE_LABEL)
    for changed in ({0: 1}, {5: 1}, {-1: 1}):
        for judge in (judge_degree, judge_zero):
            with pytest.raises(ValueError, match="no peer's"):
                judge(values | changed, sharing)
    for value in (PRIME, -1):
        with pytest.raises(ValueError, match="not in the field"):
            judge_degree(values | {1: value}, sharing)
    with pytest.raises(ValueError, match="its blind"):
        checks.degree_values([], 0, BEACON)
    with pytest.raises(ValueError, match="shape"):
        checks.degree_values([np.zeros(4, np.uint64)], 5, BEACON)


# ── sharings of zero ─────────────────────────────────────────────────────────────────────────────────────────────────


def zeros_of(sharing: Sharing, count: int = PAIRS) -> list[Elements]:
    return [gram.deal_zero(count, sharing, secret(peer)) for peer in range(sharing.n)]


def told_of_zeros(sharing: Sharing, zeros: list[Elements]) -> list[tuple[int, ...]]:
    return [
        gram.zero_values([zero[peer] for zero in zeros], zeros[0].shape[1] - 1, BEACON) for peer in range(sharing.n)
    ]


@pytest.mark.parametrize("sharing", IN_USE, ids=str)
def test_honest_sharings_of_zero_pass_and_are_zero(sharing: Sharing) -> None:
    zeros = zeros_of(sharing, 3)
    values = told_of_zeros(sharing, zeros)
    assert all(judge_zero(column(values, dealer), sharing) == FINE for dealer in range(sharing.n))
    for element in range(4):
        found = decode({x: int(zeros[0][x - 1][element]) for x in sharing.points}, sharing.product_degree, sharing.c)
        assert checks.slot_sum(found, sharing) == 0
        assert sharing.slots == 1 or found.at(0) != 0  # its single slots are anything


@pytest.mark.parametrize("sharing", IN_USE, ids=str)
def test_free_values_and_polynomials_of_slot_sum_zero_are_one_to_one(sharing: Sharing) -> None:
    """D free values, D degrees of freedom; the free ones come back as the shares of the first D points."""
    rows = gram.zero_matrix(sharing)
    degree = sharing.product_degree
    assert len(rows) == sharing.n
    for index in range(degree):
        assert rows[index] == tuple(int(other == index) for other in range(degree))
    for free in range(degree):
        found = decode({x: rows[x - 1][free] for x in sharing.points}, degree, sharing.c)
        assert checks.slot_sum(found, sharing) == 0


@given(SMALLER, st.data())
def test_who_hides_with_something_else_than_zero_is_found(sharing: Sharing, data: st.DataObject) -> None:
    zeros = zeros_of(sharing)
    place = data.draw(st.integers(0, PAIRS))  # the last is the blind
    zeros[0][:, place] = (zeros[0][:, place] + np.uint64(1)) % np.uint64(PRIME)  # a constant more
    verdict = judge_zero(column(told_of_zeros(sharing, zeros), 0), sharing)
    assert verdict == Verdict(True, ())


@given(SMALLER, st.data())
def test_a_false_share_of_zero_is_named_where_it_can_be(sharing: Sharing, data: st.DataObject) -> None:
    zeros, holder = zeros_of(sharing), data.draw(st.integers(0, sharing.n - 1))
    zeros[1][holder, 0] = (int(zeros[1][holder, 0]) + 1) % PRIME
    values = told_of_zeros(sharing, zeros)
    assert judge_zero(column(values, 0), sharing) == FINE
    if correctable(sharing.n, sharing.product_degree, sharing.c) >= 1:
        assert judge_zero(column(values, 1), sharing) == Verdict(False, (holder + 1,))
    else:
        with pytest.raises(Undecided):
            judge_zero(column(values, 1), sharing)


def test_what_is_no_sharing_of_zero_is_refused() -> None:
    sharing = Sharing(4, 1)
    with pytest.raises(ValueError, match="32 bytes"):
        gram.deal_zero(1, sharing, b"")
    with pytest.raises(ValueError, match="no -1 entries"):
        gram.deal_zero(-1, sharing, bytes(32))
    with pytest.raises(ValueError, match="shape"):
        gram.zero_values([np.zeros(4, np.uint64)], 4, BEACON)
