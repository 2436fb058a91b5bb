"""Arithmetic mod 2^61 − 1 on arrays: it is that of Python's integers, whatever the cuts, and streams are uniform."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from decentra.crypto import prg
from decentra.crypto.hashing import expand
from decentra.crypto.shares import field61, polynomials, quanta, streams
from decentra.crypto.shares.field61 import PRIME, Elements, Matrix
from decentra.crypto.shares.streams import Rows, Stream, uniform

EDGES = (0, 1, 2, PRIME - 1, PRIME - 2, 1 << 60, (1 << 60) - 1, (1 << 31) - 1, 1 << 31, (1 << 42) - 1, PRIME >> 1)
NUMBERS = st.one_of(st.integers(0, PRIME - 1), st.sampled_from(EDGES))
VECTORS = st.lists(NUMBERS, max_size=20)
KEYS = st.binary(min_size=32, max_size=32)
SIZES = st.sampled_from([0, 1, 7, field61.COLUMNS - 1, field61.COLUMNS + 1, 2 * field61.DOT_TERMS + 5])


def elements(values: Sequence[int]) -> Elements:
    return np.array(values, dtype=np.uint64)


def drawn(seed: int, *shape: int) -> Elements:
    """Random elements, the extremes of the field among them."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, PRIME, shape, dtype=np.uint64)
    values[rng.random(shape) < 0.2] = PRIME - 1
    values[rng.random(shape) < 0.1] = 0
    return values


@given(st.lists(st.tuples(NUMBERS, NUMBERS), max_size=20))
def test_sums_differences_and_products_are_those_of_integers(numbers: list[tuple[int, int]]) -> None:
    one, two = elements([a for a, _ in numbers]), elements([b for _, b in numbers])
    assert field61.add(one, two).tolist() == [(a + b) % PRIME for a, b in numbers]
    assert field61.subtract(one, two).tolist() == [(a - b) % PRIME for a, b in numbers]
    assert field61.negate(one).tolist() == [-a % PRIME for a, _ in numbers]
    assert field61.multiply(one, two).tolist() == [a * b % PRIME for a, b in numbers]
    for scalar in (b for _, b in numbers[:3]):
        assert field61.multiply(one, scalar).tolist() == [a * scalar % PRIME for a, _ in numbers]
    assert field61.dot(one, two) == sum(a * b for a, b in numbers) % PRIME


@given(st.lists(st.integers(0, 2**64 - 1), max_size=20))
def test_any_word_is_reduced(words: list[int]) -> None:
    assert field61.reduce(elements(words)).tolist() == [word % PRIME for word in words]


@given(st.lists(st.one_of(st.integers(-(PRIME >> 1), PRIME >> 1), st.sampled_from([0, PRIME >> 1, -(PRIME >> 1)]))))
def test_signed_integers_come_back(numbers: list[int]) -> None:
    there = field61.from_signed(np.array(numbers, dtype=np.int64))
    assert there.tolist() == [number % PRIME for number in numbers]
    assert field61.to_signed(there).tolist() == numbers == [field61.signed(value) for value in there.tolist()]


@given(st.integers(1, 9), st.integers(1, 9), SIZES, st.integers(0, 2**32), st.data())
def test_a_matrix_product_is_that_of_integers_in_any_cut(
    m: int, k: int, width: int, seed: int, data: st.DataObject
) -> None:
    matrix, columns = drawn(seed, m, k), drawn(seed + 1, k, width)
    ready = Matrix(matrix.tolist())
    whole = ready.apply(columns)
    some = sorted({0, width - 1, width // 2, *data.draw(st.lists(st.integers(0, width), max_size=3))})
    for index in (index for index in some if 0 <= index < width):
        column = columns[:, index].tolist()
        expected = [sum(a * b for a, b in zip(row, column, strict=True)) % PRIME for row in matrix.tolist()]
        assert whole[:, index].tolist() == expected
    cuts = sorted({0, width, *data.draw(st.lists(st.integers(0, width), max_size=3))})
    parts = [ready.apply(columns[:, low:high]) for low, high in pairwise(cuts)]
    np.testing.assert_array_equal(whole, np.concatenate(parts, axis=1) if parts else whole)
    np.testing.assert_array_equal(whole, ready.apply(list(columns)))


def test_the_largest_numbers_fill_the_exact_part_of_a_float_and_no_more() -> None:
    """682 products of the largest limbs, three times: one more would leave 2^53."""
    k = field61.MAX_TERMS
    worst = int("1" * field61.LIMB_BITS, 2)
    assert 3 * k * worst**2 < 2**53 <= 3 * (k + 1) * 2**42
    assert field61.DOT_TERMS * worst**2 < 2**53
    columns = np.full((k, 3), PRIME - 1, dtype=np.uint64)
    assert Matrix([[PRIME - 1] * k]).apply(columns).tolist() == [[k] * 3]
    assert field61.dot(np.full(5000, PRIME - 1, np.uint64), np.full(5000, PRIME - 1, np.uint64)) == 5000
    with pytest.raises(ValueError, match=r"1\.\.682"):
        Matrix([[1] * (k + 1)])


def test_shapes_that_do_not_fit_are_refused() -> None:
    for rows in ([], [[]], [[1], [1, 2]]):
        with pytest.raises(ValueError, match="rows of one length"):
            Matrix(rows)
    with pytest.raises(ValueError, match="2 columns, there are 3"):
        Matrix([[1, 2]]).apply(drawn(0, 3, 4))
    with pytest.raises(ValueError, match="one length"):
        field61.dot(drawn(0, 3), drawn(0, 4))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([1, 2], "list"),
        (np.zeros(2, np.int64), "int64"),
        (np.zeros(2, np.float64), "float64"),
        (np.zeros(2, ">u8"), "uint64, it is"),
        (np.zeros((1, 2), np.uint64), "shape"),
        (np.zeros(3, np.uint64), "shape"),
        (np.array([0, PRIME], np.uint64), "not below"),
        (np.array([2**64 - 1, 0], np.uint64), "not below"),
    ],
)
def test_what_is_no_vector_of_elements_is_refused(values: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        field61.check_elements(values, "a share", (2,))


@given(VECTORS)
def test_bytes_are_read_back(values: list[int]) -> None:
    data = field61.to_bytes(elements(values))
    assert data == b"".join(value.to_bytes(8, "little") for value in values)
    for given_as in (data, bytearray(data), memoryview(data)):
        assert field61.from_bytes(given_as, len(values)).tolist() == values


def test_bytes_that_are_not_canonical_are_refused() -> None:
    with pytest.raises(ValueError, match="has 16 bytes, this has 15"):
        field61.from_bytes(bytes(15), 2)
    with pytest.raises(ValueError, match="not below"):
        field61.from_bytes(PRIME.to_bytes(8, "little"), 1)
    with pytest.raises(ValueError, match="not below"):
        field61.from_bytes(bytes(8) + b"\xff" * 8, 2)


@pytest.mark.parametrize("beyond", [(PRIME >> 1) + 1, -(PRIME >> 1) - 1, 2**63 - 1, -(2**63)])
def test_signed_numbers_without_an_element_are_refused(beyond: int) -> None:
    with pytest.raises(ValueError, match="beyond"):
        field61.from_signed(np.array([0, beyond], dtype=np.int64))
    with pytest.raises(ValueError, match="int16, int32 or int64"):
        field61.from_signed(np.zeros(2))


# ── streams ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def naive(key: bytes, start: int, count: int) -> list[int]:
    words = np.zeros(4 * (start + count), np.uint16)
    prg.apply_masks(words, [prg.Mask(key, 1)])
    return [int(word) & PRIME for word in words.astype("<u2").view("<u8")[start:]]


@given(KEYS, st.integers(0, 100), st.integers(0, 50))
def test_a_stream_is_the_low_bits_of_the_keystream_at_any_place(key: bytes, start: int, count: int) -> None:
    assert uniform(key, count, start).tolist() == naive(key, start, count)


@given(KEYS, st.integers(0, 2**40), st.lists(st.sampled_from([0, 1, 5, streams.PIECE, streams.PIECE + 1]), max_size=4))
def test_a_stream_is_the_same_in_any_cut(key: bytes, start: int, cuts: list[int]) -> None:
    whole = uniform(key, sum(cuts), start)
    stream, place = Stream(key, start), 0
    for count in cuts:
        piece = np.empty(count, np.uint64)
        stream.fill(piece)
        np.testing.assert_array_equal(piece, whole[place : place + count])
        place += count


def test_the_number_p_is_drawn_again_in_its_place_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Words of 61 ones don't come by themselves: some are put there, also where p comes again from HKDF."""
    key, forced = bytes(range(32)), {3, 4, streams.PIECE + 2}
    plain = uniform(key, 2 * streams.PIECE)
    original, places = prg.Keystream.fill, iter((0, streams.PIECE))

    def ones(stream: prg.Keystream, buffer: memoryview, size: int) -> None:
        original(stream, buffer, size)
        first = next(places)
        for place in forced:
            if first <= place < first + size // 8:
                buffer[8 * (place - first) : 8 * (place - first) + 8] = b"\xff" * 8

    seen: list[tuple[Any, ...]] = []

    def again(key: bytes, label: str, *context: Any, length: int) -> bytes:
        seen.append(context)
        return b"\xff" * length if context == (4, 0) else expand(key, label, *context, length=length)

    monkeypatch.setattr(prg.Keystream, "fill", ones)
    monkeypatch.setattr(streams, "expand", again)
    found = uniform(key, 2 * streams.PIECE)
    assert seen == [(3, 0), (4, 0), (4, 1), (streams.PIECE + 2, 0)]
    assert np.flatnonzero(found != plain).tolist() == sorted(forced)
    for place, tries in ((3, 0), (4, 1), (streams.PIECE + 2, 0)):
        drawn_again = expand(key, streams.AGAIN_LABEL, place, tries, length=8)
        assert int(found[place]) == int.from_bytes(drawn_again, "little") & PRIME < PRIME


def test_streams_look_uniform() -> None:
    """χ² of every byte, with 255 degrees of freedom; the highest has 5 bits."""
    values = uniform(b"\x07" * 32, 100_000)
    for shift, kinds, most in (*((shift, 256, 377.1) for shift in range(0, 56, 8)), (56, 32, 85.0)):
        counts = np.bincount(((values >> np.uint64(shift)) & np.uint64(0xFF)).astype(np.intp), minlength=kinds)
        assert counts.size == kinds
        assert float(((counts - values.size / kinds) ** 2 / (values.size / kinds)).sum()) < most


def test_keys_and_places_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        uniform(bytes(31), 1)
    with pytest.raises(ValueError, match="keystream"):
        uniform(bytes(32), 1, -1)


@given(st.integers(0, 40), st.integers(1, 17), st.integers(0, 2**30))
def test_rows_are_read_in_pieces_whether_they_are_arrays_or_streams(length: int, columns: int, start: int) -> None:
    key, array = b"\x01" * 32, drawn(length, length)
    read = Rows([array, key], length, start)
    pieces = [(low, piece.copy()) for low, piece in read.pieces(columns)]
    assert [low for low, _ in pieces] == list(range(0, length, columns))
    whole = np.concatenate([piece for _, piece in pieces], axis=1) if pieces else np.empty((2, 0), np.uint64)
    np.testing.assert_array_equal(whole, np.stack([array, uniform(key, length, start)]))


def test_rows_that_are_none_are_refused() -> None:
    for row, words in ((bytes(16), "16 bytes"), (drawn(0, 3), "shape"), (np.full(4, PRIME, np.uint64), "not below")):
        with pytest.raises(ValueError, match=words):
            Rows([drawn(0, 4), row], 4)


# ── polynomials ──────────────────────────────────────────────────────────────────────────────────────────────────────

POINTS = st.lists(st.integers(0, PRIME - 1), min_size=1, max_size=9, unique=True).map(tuple)


@given(POINTS, st.data())
def test_a_polynomial_goes_through_its_values(points: tuple[int, ...], data: st.DataObject) -> None:
    values = [data.draw(NUMBERS) for _ in points]
    found = polynomials.interpolate(points, values)
    assert len(found) <= len(points) and (not found or found[-1])
    assert [polynomials.evaluate(found, x) for x in points] == values
    at = tuple(data.draw(st.lists(NUMBERS, max_size=3)))
    for place, row in zip(at, polynomials.lagrange(points, at), strict=True):
        weighted = sum(weight * value for weight, value in zip(row, values, strict=True))
        assert weighted % PRIME == polynomials.evaluate(found, place)


@given(POINTS, st.data())
def test_parities_are_zero_on_low_degrees_and_on_nothing_else(points: tuple[int, ...], data: st.DataObject) -> None:
    degree = data.draw(st.integers(0, len(points) - 1))
    values = [data.draw(NUMBERS) for _ in points]
    rows = polynomials.parity(points, degree)
    assert len(rows) == len(points) - degree - 1
    zero = all(sum(a * b for a, b in zip(row, values, strict=True)) % PRIME == 0 for row in rows)
    assert zero == (len(polynomials.interpolate(points, values)) <= degree + 1)
    low = polynomials.interpolate(points[: degree + 1], values[: degree + 1])
    for row in rows:
        assert sum(a * polynomials.evaluate(low, x) for a, x in zip(row, points, strict=True)) % PRIME == 0


@given(st.lists(NUMBERS, max_size=6), st.lists(NUMBERS, max_size=4))
def test_division_leaves_a_rest_of_lower_degree(above: list[int], below: list[int]) -> None:
    above, below = polynomials.trimmed(above), polynomials.trimmed(below)
    if below:
        quotient, rest = polynomials.divide(above, below)
        assert len(rest) < len(below)
        assert polynomials.difference(above, polynomials.product(quotient, below)) == rest


def test_equal_points_are_refused() -> None:
    for call in (polynomials.weights_below, lambda points: polynomials.lagrange(points, (0,))):
        with pytest.raises(ValueError, match="invertible"):
            call((1, 2, 1))


# ── quanta ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.lists(st.integers(-(2**31) + 1, 2**31 - 1), max_size=30), st.sampled_from([1, 1000]))
def test_a_norm_is_exact(values: list[int], times: int) -> None:
    vector = np.tile(np.array(values, dtype=np.int64), times)
    assert quanta.squared_norm(vector) == times * sum(value**2 for value in values)


@given(st.lists(st.integers(-(2**31) + 1, 2**31 - 1), max_size=30), st.integers(1, quanta.MAX_RADIUS))
def test_what_is_clipped_is_no_longer_than_r_and_hardly_shorter(values: list[int], radius: int) -> None:
    vector = np.array(values, dtype=np.int64)
    before = vector.copy()
    clipped = quanta.clip(vector, radius)
    quanta.check_norm(clipped, radius)
    assert np.array_equal(vector, before) and clipped is not vector
    length = quanta.squared_norm(vector) ** 0.5
    if length <= radius:
        assert np.array_equal(clipped, vector)
    else:
        assert np.abs(clipped - vector * (radius / length)).max() <= 1 + 1e-6
        assert (np.abs(clipped) <= np.abs(vector)).all()


def test_a_vector_longer_than_r_is_refused_by_one_quantum() -> None:
    radius = quanta.MAX_RADIUS
    exactly = np.array([radius, 0], dtype=np.int64)
    quanta.check_norm(exactly, radius)
    for vector in ([radius, 1], [radius + 1, 0], [-radius, 1]):
        with pytest.raises(ValueError, match="clip it first"):
            quanta.check_norm(np.array(vector, dtype=np.int64), radius)
    for bad in (0, -1, 1 << 28):
        with pytest.raises(ValueError, match="2\\^28"):
            quanta.check_norm(exactly, bad)
    for beyond in (1 << 31, -(1 << 31), -(2**63)):
        with pytest.raises(ValueError, match="2\\^31"):
            quanta.squared_norm(np.array([beyond], dtype=np.int64))
    vectors: tuple[NDArray[Any], ...] = (np.zeros(2, np.int32), np.zeros((1, 2), np.int64))
    for vector_of_another_kind in vectors:
        with pytest.raises(ValueError, match="one vector of int64"):
            quanta.squared_norm(vector_of_another_kind)
