"""Decoding: the truth where few lie, a verdict where too many do, never a third polynomial."""

from __future__ import annotations

import random as stdlib_random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decentra.crypto.shares import opening
from decentra.crypto.shares.decoding import Decoded, Undecided, correctable, decode
from decentra.crypto.shares.field61 import PRIME, Elements
from decentra.crypto.shares.opening import open_vectors
from decentra.crypto.shares.polynomials import evaluate, interpolate, trimmed
from decentra.crypto.shares.sharing import Sharing
from sharing import SHARINGS, SMALLER

NUMBERS = st.integers(0, PRIME - 1)


@st.composite
def _words(draw: st.DrawFn) -> tuple[dict[int, int], list[int], int, int, set[int]]:
    """Values of some of up to 64 holders, their polynomial, its degree, how many may lie, and who does."""
    count = draw(st.one_of(st.integers(1, 16), st.sampled_from([32, 64])))
    degree = draw(st.integers(0, count - 1))
    liars = draw(st.integers(0, count - degree - 1))
    rng = stdlib_random.Random(draw(st.integers(0, 2**32)))
    true = [rng.randrange(PRIME) for _ in range(degree + 1)]
    points = rng.sample(range(1, 65), count)
    wrong = set(rng.sample(points, draw(st.integers(0, liars))))
    values = {x: evaluate(true, x) for x in points}
    if draw(st.booleans()) and len(wrong) > 1:  # they agree on another polynomial, near to the true one
        others = trimmed([(a + rng.randrange(PRIME)) % PRIME for a in true])
        values |= {x: evaluate(others, x) for x in wrong}
    else:
        values |= {x: (values[x] + rng.randrange(1, PRIME)) % PRIME for x in wrong}
    wrong = {x for x in wrong if values[x] != evaluate(true, x)}
    return values, true, degree, liars, wrong


@given(_words())
@settings(max_examples=300)
def test_lies_within_the_promise_are_corrected_and_named_or_seen(
    case: tuple[dict[int, int], list[int], int, int, set[int]],
) -> None:
    values, true, degree, liars, wrong = case
    most = correctable(len(values), degree, liars)
    if most < 0 or len(wrong) > most:
        with pytest.raises(Undecided):
            decode(values, degree, liars)
    else:
        found = decode(values, degree, liars)
        assert found == Decoded(tuple(trimmed(list(true))), tuple(sorted(wrong)))
        assert found.at(99) == evaluate(true, 99)


@given(SHARINGS)
def test_what_the_protocol_promises_follows_from_n_c_and_l(sharing: Sharing) -> None:
    n, c = sharing.n, sharing.c
    assert correctable(n, sharing.degree, c) == c  # whatever is linear is corrected and named
    assert correctable(n, sharing.product_degree, c) >= 0  # lies about products are seen
    assert (correctable(n, sharing.product_degree, c) == c) == sharing.names_liars
    for silent in range(c + 1):  # those that are silent are of the c
        assert correctable(n - silent, sharing.degree, c - silent) == c - silent


def test_liars_that_agree_on_a_polynomial_one_value_short_of_the_truth_do_not_carry_it() -> None:
    """n = 3c + 1, degree 2c: with c lies the nearest polynomial is a liar's, so nothing may be corrected there."""
    n, c = 10, 3
    true = [5, 0, 0, 1, 0, 0, 2]
    values = {x: evaluate(true, x) for x in range(1, n + 1)}
    others = interpolate(tuple(range(1, 8)), [values[1], values[2], values[3], values[4], 1, 2, 3])
    values |= {x: evaluate(others, x) for x in (5, 6, 7)}
    for x in (5, 6, 7):
        assert values[x] != evaluate(true, x)
    with pytest.raises(Undecided, match="all but 0 of 10"):
        decode(values, 2 * c, c)
    assert decode({x: value for x, value in values.items() if x not in (5, 6, 7)}, 2 * c, 0).at(0) == 5


def test_zero_and_constants_are_polynomials_too() -> None:
    assert decode(dict.fromkeys(range(1, 6), 0), 2, 1) == Decoded((), ())
    assert decode({1: 7, 2: 7, 3: 9, 4: 7, 5: 7}, 1, 1) == Decoded((7,), (3,))
    assert decode({1: 0, 2: 0, 3: 9, 4: 0, 5: 0}, 0, 2) == Decoded((), (3,))
    assert decode({3: 4}, 0, 0) == Decoded((4,), ())


def test_what_is_no_word_is_refused() -> None:
    for values, degree, liars in (({1: PRIME}, 0, 0), ({1: -1}, 0, 0), ({-1: 1}, 0, 0), ({PRIME: 1}, 0, 0)):
        with pytest.raises(ValueError, match="not in the field"):
            decode(values, degree, liars)
    for degree, liars in ((-1, 0), (0, -1)):
        with pytest.raises(ValueError, match="0 or more"):
            decode({1: 1}, degree, liars)
    with pytest.raises(Undecided, match="it takes 4"):
        decode({1: 1, 2: 2, 3: 3}, 2, 1)
    with pytest.raises(Undecided, match="it takes 1"):
        decode({}, 0, 0)


# ── whole vectors ────────────────────────────────────────────────────────────────────────────────────────────────────


def _shared(sharing: Sharing, degree: int, length: int, seed: int) -> tuple[dict[int, Elements], list[list[int]]]:
    rng = stdlib_random.Random(seed)
    polynomials = [[rng.randrange(PRIME) for _ in range(degree + 1)] for _ in range(length)]
    return (
        {x: np.array([evaluate(one, x) for one in polynomials], np.uint64) for x in sharing.points},
        polynomials,
    )


@given(SMALLER, st.booleans(), st.sampled_from([0, 1, 3, 20]), st.integers(0, 2**32), st.integers(1, 30), st.data())
def test_a_vector_opens_element_by_element_whoever_lies_where(
    sharing: Sharing, linear: bool, length: int, seed: int, chunk: int, data: st.DataObject
) -> None:
    """Liars lie in other elements each, so that none shows them all; nothing hangs on how elements are cut."""
    degree = sharing.degree if linear else sharing.product_degree
    words, polynomials = _shared(sharing, degree, length, seed)
    most = correctable(sharing.n, degree, sharing.c)
    liars = data.draw(st.permutations(sharing.points))[: data.draw(st.integers(0, most))]
    lied = set()
    for liar in liars:
        for place in data.draw(st.lists(st.integers(0, length - 1), max_size=3, unique=True)) if length else ():
            words[liar][place] = (int(words[liar][place]) + data.draw(st.integers(1, PRIME - 1))) % PRIME
            lied.add(liar)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opening, "CHUNK", chunk)
        found = open_vectors(words, length, degree, sharing.c, sharing.secret_points)
    assert found.wrong == tuple(sorted(lied))
    for row, place in zip(found.values, sharing.secret_points, strict=True):
        assert row.tolist() == [evaluate(one, place) for one in polynomials]


@given(SMALLER, st.integers(0, 2**32), st.data())
def test_a_vector_with_more_lies_than_can_be_named_is_undecided(
    sharing: Sharing, seed: int, data: st.DataObject
) -> None:
    """Between 3c + 2l − 1 and 4c + 2l − 1 holders: products. All c lie, and it is seen."""
    degree, length = sharing.product_degree, 4
    words, _ = _shared(sharing, degree, length, seed)
    for liar in data.draw(st.permutations(sharing.points))[: sharing.c]:
        words[liar][2] = (int(words[liar][2]) + data.draw(st.integers(1, PRIME - 1))) % PRIME
    if sharing.names_liars:
        assert len(open_vectors(words, length, degree, sharing.c, (0,)).wrong) == sharing.c
    elif correctable(sharing.n, degree, sharing.c) < sharing.c:
        with pytest.raises(Undecided):
            open_vectors(words, length, degree, sharing.c, (0,))


def test_who_is_named_counts_no_more_among_those_who_may_lie() -> None:
    """n = 3c + 2: one lie about products is corrected at a time, so liars in different elements are named in turn."""
    sharing = Sharing(8, 2)
    assert correctable(8, sharing.product_degree, 2) == 1
    words, polynomials = _shared(sharing, sharing.product_degree, 4, 1)
    words[3][0] ^= np.uint64(1)
    words[6][2] ^= np.uint64(1)
    found = open_vectors(words, 4, sharing.product_degree, 2, (0,))
    assert found.wrong == (3, 6) and found.values[0].tolist() == [one[0] for one in polynomials]
    words[6][0] ^= np.uint64(5)  # both in the first
    with pytest.raises(Undecided):
        open_vectors(words, 4, sharing.product_degree, 2, (0,))


def test_holders_may_be_missing_up_to_the_promise() -> None:
    sharing = Sharing(10, 3)
    words, polynomials = _shared(sharing, 3, 5, 1)
    words[2][4] ^= np.uint64(1)
    some = {x: words[x] for x in (1, 2, 3, 5, 7, 8, 9, 10)}
    found = open_vectors(some, 5, 3, 1, (0,))
    assert found.wrong == (2,) and found.values[0].tolist() == [one[0] for one in polynomials]
    with pytest.raises(Undecided):
        open_vectors({x: words[x] for x in (1, 2, 3, 4, 5, 6)}, 5, 3, 3, (0,))
    found = open_vectors({x: words[x] for x in (1, 3, 4, 5)}, 5, 3, 0, (0,))
    assert found.values[0].tolist() == [one[0] for one in polynomials]


def test_words_that_are_none_are_refused() -> None:
    words, _ = _shared(Sharing(4, 1), 1, 3, 1)
    for word, says in ((words[1][:2], "shape"), (np.full(3, PRIME, np.uint64), "not below"), (np.zeros(3), "float64")):
        with pytest.raises(ValueError, match=says):
            open_vectors(words | {2: word}, 3, 1, 1, (0,))
