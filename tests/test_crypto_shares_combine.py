"""The weighted sum on shares: exact to the integer, false slices and holders named, and no longer than it may be."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from decentra.crypto.hashing import expand
from decentra.crypto.shares import combine, gram
from decentra.crypto.shares.checks import OPENED_LABEL
from decentra.crypto.shares.combine import Judged, combined, fits_gram, judge_slices, open_slice, told
from decentra.crypto.shares.decoding import Undecided, decode
from decentra.crypto.shares.field61 import PRIME, Elements, signed
from decentra.crypto.shares.polynomials import lagrange
from decentra.crypto.shares.quanta import MAX_RADIUS
from decentra.crypto.shares.sharing import Sharing
from decentra.crypto.shares.sketch import sketch_integers
from decentra.crypto.shares.streams import uniform
from sharing import BEACON, SHARINGS, SMALL, SMALLER, Round, dealt, vector, whole

LATER = bytes(range(32))
"""A beacon drawn after slices are published."""


def slices(length: int, count: int) -> list[tuple[int, int]]:
    return list(pairwise([length * index // count for index in range(count + 1)]))


def shares_of(played: Round, weights: list[int]) -> list[Elements]:
    count = len(played.vectors)
    return [
        combined(played.bodies(peer)[:count], weights, played.elements) for peer in range(played.sharing.n)
    ]


def published(sharing: Sharing, shares: list[Elements], bounds: list[tuple[int, int]], d: int) -> NDArray[np.int64]:
    parts = []
    for low, high in bounds:
        words = {peer + 1: share[low:high] for peer, share in enumerate(shares)}
        coordinates = min(d, high * sharing.slots) - min(d, low * sharing.slots)
        parts.append(open_slice(words, high - low, coordinates, sharing).values)
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


@given(SHARINGS, st.sampled_from([0, 1, 5, 33]), st.integers(0, 2**32), st.data())
@settings(max_examples=50)
def test_the_sum_is_exact_whoever_owns_which_slice(sharing: Sharing, d: int, seed: int, data: st.DataObject) -> None:
    count = min(sharing.n, 5)
    vectors = [vector(seed + peer, d, MAX_RADIUS) for peer in range(count)]
    weights = data.draw(st.lists(st.integers(0, (1 << 16) // count), min_size=count, max_size=count).filter(any))
    played = dealt(sharing, vectors)
    shares, bounds = shares_of(played, weights), slices(sharing.elements(d), data.draw(st.integers(1, sharing.n)))
    found = published(sharing, shares, bounds, d)
    expected = sum(weight * x for weight, x in zip(weights, vectors, strict=True))
    assert found.dtype == np.int64 and np.array_equal(found, expected)
    tellings = {peer + 1: told(share, bounds, LATER) for peer, share in enumerate(shares)}
    assert judge_slices(tellings, found, bounds, sharing, LATER) == Judged((), ())
    assert combine.beyond(found, weights, MAX_RADIUS) is None


@given(SMALLER, st.data())
def test_holders_that_send_false_shares_of_a_slice_are_named(sharing: Sharing, data: st.DataObject) -> None:
    d = 11
    vectors = [vector(peer, d) for peer in range(3)]
    shares = shares_of(dealt(sharing, vectors), [1, 2, 3])
    length = sharing.elements(d)
    liars = data.draw(st.permutations(range(sharing.n)))[: data.draw(st.integers(0, sharing.c))]
    for liar in liars:
        place = data.draw(st.integers(0, length - 1))
        shares[liar][place] = (int(shares[liar][place]) + data.draw(st.integers(1, PRIME - 1))) % PRIME
    found = open_slice({peer + 1: share for peer, share in enumerate(shares)}, length, d, sharing)
    assert found.wrong == tuple(sorted(liar + 1 for liar in liars))
    assert np.array_equal(found.values, vectors[0] + 2 * vectors[1] + 3 * vectors[2])


@given(SMALLER, st.data())
def test_false_slices_and_false_tellings_are_told_apart(sharing: Sharing, data: st.DataObject) -> None:
    d = 40
    vectors = [vector(peer, d) for peer in range(2)]
    shares = shares_of(dealt(sharing, vectors), [3, 1])
    bounds = slices(sharing.elements(d), min(sharing.n, 5))
    found = published(sharing, shares, bounds, d)
    tellings = {peer + 1: list(told(share, bounds, LATER)) for peer, share in enumerate(shares)}
    false = set()
    for place in data.draw(st.lists(st.integers(0, d - 1), max_size=3, unique=True)):
        found[place] += data.draw(st.sampled_from([1, -1, 1 << 40]))
        element = place // sharing.slots
        false.add(next(index for index, (low, high) in enumerate(bounds) if low <= element < high))
    liars = data.draw(st.permutations(sharing.points))[: data.draw(st.integers(0, sharing.c))]
    for liar in liars:
        number = data.draw(st.integers(0, len(bounds) - 1))
        tellings[liar][number] = (tellings[liar][number] + data.draw(st.integers(1, PRIME - 1))) % PRIME
    judged = judge_slices(tellings, found, bounds, sharing, LATER)
    assert judged == Judged(tuple(sorted(false)), tuple(sorted(liars)))


def test_a_false_slice_made_for_another_beacon_is_seen() -> None:
    """Two coordinates changed so that one beacon's combination stays: the next beacon's does not."""
    sharing, d = Sharing(4, 1), 6
    vectors = [vector(peer, d) for peer in range(2)]
    shares = shares_of(dealt(sharing, vectors), [1, 1])
    bounds = slices(d, 1)
    tellings = {
        beacon: {x + 1: told(one, bounds, beacon) for x, one in enumerate(shares)} for beacon in (BEACON, LATER)
    }
    first, second = (int(value) for value in uniform(expand(BEACON, OPENED_LABEL), 2))
    found = published(sharing, shares, bounds, d)
    found[0] = signed(int(found[0]) + second)
    found[1] = signed(int(found[1]) - first)
    assert judge_slices(tellings[BEACON], found, bounds, sharing, BEACON) == Judged((), ())
    assert judge_slices(tellings[LATER], found, bounds, sharing, LATER) == Judged((0,), ())


@pytest.mark.parametrize("sharing", SMALL, ids=str)
def test_a_share_of_the_sum_follows_from_the_sum_and_any_c_shares(sharing: Sharing) -> None:
    """So showing it tells nothing that publishing the sum does not."""
    d = sharing.slots
    vectors = [vector(peer, d) for peer in range(3)]
    shares = shares_of(dealt(sharing, vectors), [1, 1, 2])
    total = [int(value) % PRIME for value in vectors[0] + vectors[1] + 2 * vectors[2]]
    for start in range(sharing.n):
        known = tuple((start + step) % sharing.n + 1 for step in range(sharing.c))
        values = [*total, *(int(shares[x - 1][0]) for x in known)]
        for x, row in zip(sharing.points, lagrange((*sharing.secret_points, *known), sharing.points), strict=True):
            assert sum(a * b for a, b in zip(row, values, strict=True)) % PRIME == int(shares[x - 1][0])


def test_too_many_lies_or_too_few_holders_are_undecided() -> None:
    sharing, d = Sharing(7, 2), 5
    shares = shares_of(dealt(sharing, [vector(peer, d) for peer in range(2)]), [1, 1])
    words = {peer + 1: share for peer, share in enumerate(shares)}
    for liar in (1, 2, 3):
        words[liar] = words[liar] ^ np.uint64(liar)
    with pytest.raises(Undecided):
        open_slice(words, d, d, sharing)
    with pytest.raises(Undecided, match="wait for more"):
        open_slice({x: words[x] for x in (4, 5, 6, 7)}, d, d, sharing)
    assert open_slice({x: words[x] for x in (4, 5, 6, 7)}, d, d, sharing, liars=0).wrong == ()
    with pytest.raises(Undecided):
        judge_slices(dict.fromkeys((1, 2), (0,)), np.zeros(d, np.int64), [(0, d)], sharing, LATER)


def test_a_coordinate_beyond_what_vectors_within_r_give_is_found() -> None:
    most = 7 * 1000
    total = np.array([0, most, -most, 5], dtype=np.int64)
    assert combine.beyond(total, [3, 4, 0], 1000) is None
    for place, value in ((0, most + 1), (2, -most - 1), (3, -(2**63)), (1, 2**63 - 1)):
        changed = total.copy()
        changed[place] = value
        assert combine.beyond(changed, [3, 4, 0], 1000) == place
    assert combine.beyond(np.empty(0, np.int64), [1], 1) is None
    far = np.zeros(3 * combine.WIDE, dtype=np.int64)
    far[2 * combine.WIDE + 1] = 8
    assert combine.beyond(far, [7], 1) == 2 * combine.WIDE + 1


# ── the sum and the matrix ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("sharing", SMALL, ids=str)
def test_an_honest_sum_is_as_long_as_the_matrix_says(sharing: Sharing) -> None:
    vectors = [vector(peer, 31, 1 << 24) for peer in range(sharing.n)]
    played = dealt(sharing, vectors)
    opened = gram.open_gram(played.words(), sharing.n, sharing).gram
    weights = [peer % 3 + 1 for peer in range(sharing.n)]
    total = sum(weight * x for weight, x in zip(weights, vectors, strict=True))
    assert fits_gram(np.asarray(total), weights, opened, sharing, BEACON)
    for place in (0, 30):
        changed = np.array(total)
        changed[place] += 1
        assert not fits_gram(changed, weights, opened, sharing, BEACON)


def test_what_wraps_around_where_nobody_else_has_anything_passes_every_other_check_and_not_this() -> None:
    """A coordinate of 2^31 that all others leave at 0, in buckets of its own: Cauchy's inequality holds of it, it looks
    short, and its part of the sum stays within Σw · R. In integers the sum is longer than the matrix says."""
    sharing, f, d = Sharing(16, 3), 3, 40
    vectors = [vector(peer, d, 1 << 20) for peer in range(sharing.n)]
    liar = np.zeros(d, dtype=np.int64)
    liar[0] = 1 << 31
    alone = next(beacon for beacon in (bytes([run]) * 32 for run in range(256)) if _alone(beacon, d))
    for x in vectors:
        x[0] = 0
    vectors[5] = liar
    opened = gram.open_gram(dealt(sharing, vectors).words(alone), sharing.n, sharing).gram
    assert opened[5][5] == 16
    assert gram.implausible(opened, MAX_RADIUS, f) == ()
    weights = [1] * sharing.n
    total = np.asarray(sum(vectors))
    assert combine.beyond(total, weights, MAX_RADIUS) is None
    assert not fits_gram(total, weights, opened, sharing, alone)
    assert fits_gram(total - liar, [int(peer != 5) for peer in range(sharing.n)], opened, sharing, alone)


def _alone(beacon: bytes, d: int) -> bool:
    """Whether coordinate 0 shares its bucket with no other, in any row."""
    first, rest = np.zeros(d, np.int64), 1 << np.arange(d, dtype=np.int64)
    first[0], rest[0] = 1, 0
    mine = sketch_integers(first, beacon)
    return not any(one and other for one, other in zip(mine, sketch_integers(rest, beacon), strict=True))


@pytest.mark.parametrize("weights", [[], [0, 0], [-1, 2], [1 << 16, 1]])
def test_weights_that_could_wrap_are_refused(weights: list[int]) -> None:
    with pytest.raises(ValueError, match="weights are integers"):
        combined([np.zeros(1, np.uint64)] * len(weights), weights, 1)
    with pytest.raises(ValueError, match="weights are integers"):
        combine.beyond(np.zeros(1, np.int64), weights, 1)
    with pytest.raises(ValueError, match="weights are integers"):
        fits_gram(np.zeros(1, np.int64), weights, ((0,) * len(weights),) * len(weights), Sharing(4, 1), BEACON)


def test_what_does_not_fit_together_is_refused() -> None:
    sharing = Sharing(4, 1)
    row, words = np.zeros(3, np.uint64), {x: np.zeros(3, np.uint64) for x in sharing.points}
    with pytest.raises(ValueError, match="1 vectors and 2 weights"):
        combined([row], [1, 1], 3)
    with pytest.raises(ValueError, match="shape"):
        combined([row], [1], 4)
    for coordinates in (-1, 2, 4):
        with pytest.raises(ValueError, match="coordinates are not"):
            open_slice(words, 3, coordinates, sharing)
    with pytest.raises(ValueError, match="no peer's"):
        open_slice(words | {5: row}, 3, 3, sharing)
    for bounds in ([(0, 2)], [(0, 1), (2, 3)], [(0, 2), (1, 3)], [(1, 3)], [(0, 4)], [(0, 3), (3, 2)], []):
        with pytest.raises(ValueError, match="follow one another"):
            told(row, bounds, LATER)
    total = np.zeros(3, np.int64)
    with pytest.raises(ValueError, match="an element for each"):
        judge_slices({1: (0, 0)}, total, [(0, 3)], sharing, LATER)
    for wrong in (total.astype(np.int32), total[None]):
        with pytest.raises(ValueError, match="one vector of int64"):
            combine.slot_rows(wrong, sharing)
    with pytest.raises(ValueError, match="2 vectors and 1 weights"):
        fits_gram(total, [1], ((0, 0), (0, 0)), sharing, BEACON)


def test_a_stream_and_its_elements_weigh_the_same() -> None:
    sharing, d = Sharing(7, 2), 50
    played = dealt(sharing, [vector(peer, d) for peer in range(7)])
    for peer in range(7):
        expanded = [whole(row, d + 1)[:-1] for row in played.held[peer]]
        np.testing.assert_array_equal(
            combined(played.bodies(peer), [1, 0, 2, 0, 3, 0, 9], d), combined(expanded, [1, 0, 2, 0, 3, 0, 9], d)
        )
    found = decode({peer + 1: int(shares_of(played, [1] * 7)[peer][0]) for peer in range(7)}, 2, 2)
    assert found.at(0) == sum(int(x[0]) for x in played.vectors) % PRIME
