"""Sketches and inner products of shares: exact, unbiased, hidden, and what wraps around is caught."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from decentra.crypto.shares import combine, gram, sketch
from decentra.crypto.shares.decoding import Undecided, correctable, decode
from decentra.crypto.shares.field61 import PRIME, Matrix, from_signed, signed
from decentra.crypto.shares.polynomials import lagrange
from decentra.crypto.shares.quanta import MAX_RADIUS, clip
from decentra.crypto.shares.sharing import Sharing
from decentra.crypto.shares.sketch import BUCKETS, ROWS, SIZE, as_elements, sketch_integers
from decentra.crypto.shares.streams import uniform
from decentra.robust import shared
from decentra.robust.exact import weigh_gram
from sharing import BEACON, SMALL, SMALLER, dealt, secret, vector

LENGTHS = st.sampled_from([0, 1, 2, 37, 700])


def naive(values: list[int], beacon: bytes) -> list[int]:
    """The sketch of integers, a number at a time, by this module's own reading of the keystream."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    from decentra.crypto.hashing import expand

    out = []
    for row in range(ROWS):
        key = expand(beacon, "decentra/shares/sketch", row)
        stream = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor().update(bytes(2 * len(values)))
        buckets = [0] * BUCKETS
        for j, value in enumerate(values):
            word = int.from_bytes(stream[2 * j : 2 * j + 2], "little")
            buckets[word % BUCKETS] += -value if word & 512 else value
        out += buckets
    return out


def plain_gram(vectors: list[NDArray[np.int64]], sharing: Sharing, beacon: bytes = BEACON) -> list[list[int]]:
    """The matrix in integers, from sketches of each slot."""
    sketched = [[sketch_integers(row, beacon) for row in combine.slot_rows(x, sharing)] for x in vectors]
    return [
        [sum(int(p) * int(q) for a, b in zip(x, y, strict=True) for p, q in zip(a, b, strict=True)) for y in sketched]
        for x in sketched
    ]


# ── the sketch ───────────────────────────────────────────────────────────────────────────────────────────────────────


@given(LENGTHS, st.integers(0, 2**32), st.binary(min_size=32, max_size=32))
@settings(max_examples=30)
def test_a_sketch_of_integers_and_one_of_elements_are_one_map(length: int, seed: int, beacon: bytes) -> None:
    values = vector(seed, length, (1 << 59) - 1)
    integers = sketch_integers(values, beacon)
    assert integers.tolist() == naive(values.tolist(), beacon)
    found = sketch.sketch([from_signed(values)], length, beacon)
    assert found.shape == (1, SIZE)
    np.testing.assert_array_equal(found[0], as_elements(integers))


@given(LENGTHS, st.lists(st.integers(0, 700), max_size=3), st.integers(0, 2**32))
@settings(max_examples=30)
def test_sketches_of_slices_add_up_in_any_cut(length: int, cuts: list[int], seed: int) -> None:
    row, key = uniform(bytes(32), length), bytes([seed % 256]) * 32
    whole = sketch.sketch([row, key], length, BEACON)
    total = np.zeros((2, SIZE), dtype=np.uint64)
    for low, high in pairwise(sorted({0, length, *(cut for cut in cuts if cut <= length)})):
        part = sketch.sketch([row[low:high], key], high - low, BEACON, start=low)
        total = (total + part) % np.uint64(PRIME)
    np.testing.assert_array_equal(whole, total)


def test_pieces_and_carries_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many small pieces, taken over into integers after every second one; the largest numbers there are."""
    row = np.full(1000, PRIME - 1, dtype=np.uint64)
    whole = sketch.sketch([row, bytes(32)], 1000, BEACON)
    integers = sketch_integers(np.full(1000, 2**62, dtype=np.int64), BEACON)
    monkeypatch.setattr(sketch, "PIECE", 16)
    monkeypatch.setattr(sketch, "_EXACT_PIECES", 2)
    np.testing.assert_array_equal(whole, sketch.sketch([row, bytes(32)], 1000, BEACON))
    assert integers.tolist() == sketch_integers(np.full(1000, 2**62, dtype=np.int64), BEACON).tolist()


def test_what_is_counted_in_floating_point_stays_exact() -> None:
    assert sketch._EXACT_PIECES * sketch.PIECE * (2**31 - 1) < 2**53


@pytest.mark.parametrize("sharing", SMALL, ids=str)
def test_sketches_of_shares_are_shares_of_the_sketch(sharing: Sharing) -> None:
    d = 101
    played = dealt(sharing, [vector(peer, d) for peer in range(2)])
    sketches = played.sketches()
    some = sharing.points[-sharing.degree - 1 :]
    slots = Matrix(lagrange(some, sharing.secret_points)).apply([sketches[x - 1].reshape(-1) for x in some])
    for peer, x in enumerate(played.vectors):
        for slot, row in enumerate(combine.slot_rows(x, sharing)):
            found = slots[slot].reshape(2, SIZE)[peer]
            np.testing.assert_array_equal(found, as_elements(sketch_integers(row, BEACON)))


@pytest.mark.parametrize("slots", [1, 3])
def test_the_matrix_is_unbiased_and_within_its_deviation(slots: int) -> None:
    """Over 400 beacons: the mean is 8⟨x, y⟩ to five standard errors, and the spread no more than its bound."""
    sharing = Sharing(10, 1, slots)
    x = vector(1, 600, 1000)
    y = x // 2 + vector(2, 600, 1000)
    errors = []
    for run in range(400):
        found = plain_gram([x, y], sharing, run.to_bytes(32, "little"))
        errors.append([found[0][1] - 8 * int(x @ y), found[0][0] - 8 * int(x @ x)])
    bounds = [8 * math.sqrt(2 / SIZE) * np.linalg.norm(x) * np.linalg.norm(other) for other in (y, x)]
    for column, bound in zip(np.array(errors).T, bounds, strict=True):
        assert abs(column.mean()) < 5 * bound / math.sqrt(len(errors))
        assert 0.3 * bound < column.std() < 1.1 * bound


def test_what_cannot_be_sketched_is_refused() -> None:
    for beacon in (b"", bytes(33)):
        with pytest.raises(ValueError, match="a beacon has 32 bytes"):
            sketch.sketch([], 0, beacon)
        with pytest.raises(ValueError, match="a beacon has 32 bytes"):
            sketch_integers(np.zeros(1, np.int64), beacon)
    with pytest.raises(ValueError, match="shape"):
        sketch.sketch([np.zeros(4, np.uint64)], 3, BEACON)
    with pytest.raises(ValueError, match="one vector of int64"):
        sketch_integers(np.zeros(1), BEACON)


# ── the matrix ───────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.integers(1, 5), st.integers(0, 2**32))
@settings(max_examples=20)
def test_products_are_those_of_integers(count: int, seed: int) -> None:
    sketches = np.random.default_rng(seed).integers(0, PRIME, (count, SIZE), dtype=np.uint64)
    sketches[0] = PRIME - 1
    expected = [
        sum(int(a) * int(b) for a, b in zip(sketches[i], sketches[j], strict=True)) % PRIME
        for i, j in gram.pairs(count)
    ]
    assert gram.products(sketches).tolist() == expected


@pytest.mark.parametrize("sharing", [*SMALL, Sharing(32, 10), Sharing(32, 5, 6)], ids=str)
def test_the_opened_matrix_is_the_sketch_s_to_the_integer(sharing: Sharing) -> None:
    vectors = [vector(peer, 50, 1 << 24) for peer in range(sharing.n)]
    opened = gram.open_gram(dealt(sharing, vectors).words(), sharing.n, sharing)
    assert opened.wrong == ()
    assert [list(row) for row in opened.gram] == plain_gram(vectors, sharing)


@given(SMALLER, st.data())
@settings(max_examples=40)
def test_a_lie_about_products_is_named_or_fails_the_round(sharing: Sharing, data: st.DataObject) -> None:
    """c holders lie, each about other entries: named from 4c + 2l − 1 on, never unseen."""
    vectors = [vector(peer, 9) for peer in range(3)]
    words = dealt(sharing, vectors).words()
    honest = gram.open_gram(words, 3, sharing).gram
    liars = data.draw(st.permutations(sharing.points))[: data.draw(st.integers(1, sharing.c))]
    for liar in liars:
        place = data.draw(st.integers(0, 5))
        words[liar][place] = (int(words[liar][place]) + data.draw(st.integers(1, PRIME - 1))) % PRIME
    if sharing.names_liars:
        assert gram.open_gram(words, 3, sharing) == gram.OpenedGram(honest, tuple(sorted(liars)))
    elif correctable(sharing.n, sharing.product_degree, sharing.c) == 0:
        with pytest.raises(Undecided):
            gram.open_gram(words, 3, sharing)
    else:
        try:
            assert gram.open_gram(words, 3, sharing) == gram.OpenedGram(honest, tuple(sorted(liars)))
        except Undecided:
            assert len(liars) > correctable(sharing.n, sharing.product_degree, sharing.c)


@pytest.mark.parametrize("sharing", [Sharing(4, 1), Sharing(16, 2, 4)], ids=str)
def test_what_is_opened_beside_the_slots_sum_is_the_zero_sharings(sharing: Sharing) -> None:
    """Without them the polynomial, and each slot of it, would depend on the vectors alone."""
    vectors = [vector(peer, 20) for peer in range(2)]
    played = dealt(sharing, vectors)
    bare = {peer + 1: gram.products(one) for peer, one in enumerate(played.sketches())}
    hidden = []
    for run in range(2):
        zeros = [gram.deal_zero(3, sharing, secret(peer, run)) for peer in range(sharing.c + 1)]
        hidden.append({x: gram.hidden(word, [zero[x - 1] for zero in zeros], sharing) for x, word in bare.items()})
    found = [
        decode({x: int(word[1]) for x, word in words.items()}, sharing.product_degree, sharing.c)
        for words in (bare, *hidden)
    ]
    sums = {sum(one.at(place) for place in sharing.secret_points) % PRIME for one in found}
    assert {signed(value) for value in sums} == {plain_gram(vectors, sharing)[0][1]}
    for power in range(1, sharing.product_degree + 1):
        assert len({one.polynomial[power] for one in found}) == 3
    if sharing.slots > 1:
        assert len({one.at(0) for one in found}) == 3


def test_what_is_no_matrix_is_refused() -> None:
    sharing = Sharing(4, 1)
    words = {x: np.zeros(3, np.uint64) for x in sharing.points}
    for changed, says in (({5: words[1]}, "no peer's"), ({2: words[1][:2]}, "shape"), ({2: words[1] - 1}, "not below")):
        with pytest.raises(ValueError, match=says):
            gram.open_gram(words | changed, 2, sharing)
    with pytest.raises(ValueError, match="shape"):
        gram.products(np.zeros((2, SIZE - 1), np.uint64))
    zero = np.zeros(4, np.uint64)
    gram.hidden(words[1], [zero, zero], sharing)
    for zeros in ([], [zero]):
        with pytest.raises(ValueError, match="2 sharings of zero or more"):
            gram.hidden(words[1], zeros, sharing)
    with pytest.raises(ValueError, match="shape"):
        gram.hidden(words[1], [zero, words[1]], sharing)


# ── is it one? ───────────────────────────────────────────────────────────────────────────────────────────────────────

THIRTEEN = Sharing(13, 3)


def honest_vectors(count: int, d: int = 4000) -> list[NDArray[np.int64]]:
    """Near to one another, with some noise; lengths about 2^26."""
    common = vector(99, d, 1 << 20)
    return [clip(common + vector(peer, d, 1 << 19), MAX_RADIUS) for peer in range(count)]


def opened(vectors: list[NDArray[np.int64]]) -> gram.Gram:
    """The matrix as the field has it: signed representatives of the integers mod p."""
    return tuple(tuple(signed(entry) for entry in row) for row in plain_gram(vectors, THIRTEEN))


def wrapping(d: int, kind: str) -> NDArray[np.int64]:
    """Vectors whose squares are small mod p though they are long."""
    out = np.zeros(d, dtype=np.int64)
    if kind == "2^31":
        out[d // 2] = 1 << 31  # 2^62 is 2
    elif kind == "near p":
        out[d // 2] = signed(PRIME - (1 << 31))
    elif kind == "a root":
        root = pow(3, (PRIME + 1) // 4, PRIME)  # of 3 or −3, since p is 3 mod 4
        out[d // 2] = signed(root)
    else:  # eight times the sum of these squares is about 2^61, which is 1
        whole, rest = divmod(PRIME, 8)
        squares = _squares_up_to(whole + (rest > 0))
        out[: len(squares)] = squares
    return out


def _squares_up_to(target: int) -> list[int]:
    """Integers whose squares sum to nearly the target: greedy from the largest."""
    out = []
    while target > 100 and len(out) < 8:
        out.append(math.isqrt(target))
        target -= out[-1] ** 2
    return out


@pytest.mark.parametrize("kind", ["2^31", "near p", "a root", "several"])
def test_what_wraps_around_looks_nearest_without_the_checks_and_is_out_with_them(kind: str) -> None:
    vectors = honest_vectors(THIRTEEN.n)
    vectors[4] = wrapping(vectors[0].size, kind)
    found = opened(vectors)
    assert 0 <= abs(found[4][4]) < found[0][0] // 1000  # it says that it is short
    if kind == "2^31":  # and so, about zero, that it is nearest to all
        distances = [[row[i] + found[j][j] - 2 * row[j] for j in range(THIRTEEN.n)] for i, row in enumerate(found)]
        assert found[4][4] == 16 and min(range(THIRTEEN.n), key=lambda i: found[i][i]) == 4
        assert any(distance < 0 for distance in distances[4])  # nearer than nothing
        parts, _ = weigh_gram(found, "krum", 3)
        assert parts[4] > 0  # a rule without the checks takes it, and nobody else
    out = gram.implausible(found, MAX_RADIUS, 3)
    assert out == (4,)
    left = [i for i in range(THIRTEEN.n) if i not in out]
    weights = shared.weigh([[found[i][j] for j in left] for i in left], "multi_krum", 3, THIRTEEN.c)
    assert sum(weights) == len(left) - 3


@pytest.mark.parametrize("liars", [1, 2, 3])
def test_no_honest_vector_is_out_for_false_ones(liars: int) -> None:
    vectors = honest_vectors(THIRTEEN.n)
    for place in range(liars):
        vectors[place] = wrapping(vectors[0].size, "2^31")
        vectors[place][place] = 1 << 20
    assert gram.implausible(opened(vectors), MAX_RADIUS, 3) == tuple(range(liars))


def test_a_vector_that_is_too_long_is_out_by_its_square() -> None:
    vectors = honest_vectors(THIRTEEN.n)
    exactly = np.zeros(vectors[0].size, dtype=np.int64)
    exactly[7] = MAX_RADIUS
    vectors[3], vectors[5] = exactly, 2 * exactly
    found = opened(vectors)
    assert found[3][3] == 8 * MAX_RADIUS**2 and found[5][5] == 32 * MAX_RADIUS**2 - PRIME * (found[5][5] < 0)
    assert gram.implausible(found, MAX_RADIUS, 3) == (5,)
    assert gram.largest_square(MAX_RADIUS) == 12 * MAX_RADIUS**2 < 2**60


def test_the_bounds_of_the_checks_are_where_they_say() -> None:
    most = gram.largest_square(10)
    assert most == 1200
    assert gram.implausible(((most,),), 10, 0) == ()
    assert gram.implausible(((most + 1,),), 10, 0) == (0,) == gram.implausible(((-1,),), 10, 0)
    assert gram.implausible(((4, 6), (6, 9)), 10, 0) == ()  # equality
    assert gram.implausible(((4, 7), (7, 9)), 10, 0) == (0, 1)
    assert gram.implausible(((4, -7), (-7, 9)), 10, 1) == ()  # not more than f
    with pytest.raises(ValueError, match="f = -1"):
        gram.implausible(((0,),), 10, -1)


@given(st.integers(0, 2**32), st.integers(2, 8), st.sampled_from([1, 40, 900]))
@settings(max_examples=30)
def test_honest_vectors_are_plausible(seed: int, count: int, d: int) -> None:
    """Any within R, also long ones: Cauchy's inequality holds of integers, whatever the sketch does."""
    vectors = [clip(vector(seed + peer, d, (1 << 31) - 1), MAX_RADIUS) for peer in range(count)]
    found = opened(vectors)
    assert [list(row) for row in found] == plain_gram(vectors, THIRTEEN)
    if all(found[i][i] <= gram.largest_square(MAX_RADIUS) for i in range(count)):
        assert gram.implausible(found, MAX_RADIUS, 0) == ()
    assert d == 40 or all(found[i][i] <= gram.largest_square(MAX_RADIUS) for i in range(count))
