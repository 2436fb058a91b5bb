"""Fixed point: exact sums, unbiased rounding, and refusals instead of wrap-around."""

from __future__ import annotations

import math
import os
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from decentra.crypto.prg import CHUNK, Keystream, Mask, apply_masks
from decentra.crypto.ring import DecodeError, Encoded, Ring, decode, encode
from decentra.errors import LocalError

WIDTHS = st.sampled_from([16, 32])
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
RANGES = st.floats(2.0**-126, 2.0**127)
SHAPES = st.lists(st.integers(0, 5), max_size=3).map(tuple)
SEEDS = st.binary(min_size=32, max_size=32)
TINY = float(np.finfo(np.float32).tiny)


@st.composite
def _tensors(draw: st.DrawFn, count: int | None = None) -> list[NDArray[np.float32]]:
    shapes = draw(st.lists(SHAPES, min_size=count or 0, max_size=count or 4))
    made = []
    for shape in shapes:
        size = math.prod(shape)
        values = draw(st.lists(FLOATS, min_size=size, max_size=size))
        made.append(np.array(values, np.float32).reshape(shape))
    return made


def _vector(ring: Ring, tensors: list[NDArray[np.float32]]) -> NDArray[Any]:
    return np.full(sum(tensor.size for tensor in tensors) + 1, 7, ring.dtype)


def _signed(ring: Ring, out: NDArray[Any]) -> list[int]:
    return [int(q) for q in out.view(ring.signed)]


@pytest.mark.parametrize(
    ("width", "n", "limit"), [(16, 64, 511), (16, 3, 10922), (16, 32767, 1), (32, 64, 33554431), (32, 1, 2**31 - 1)]
)
def test_the_limit_is_the_largest_that_cannot_wrap(width: int, n: int, limit: int) -> None:
    assert Ring(width).limit(n) == limit
    assert n * limit < 2 ** (width - 1) <= n * (limit + 1)


@given(st.data(), WIDTHS, st.integers(1, 500), SEEDS)
def test_every_coordinate_is_within_a_quantum_and_the_limit(
    data: st.DataObject, width: int, n: int, seed: bytes
) -> None:
    ring, tensors = Ring(width), data.draw(_tensors())
    max_weight = data.draw(st.integers(1, (2 ** (width - 1) - 1) // n))
    weight = data.draw(st.integers(1, max_weight))
    ranges = data.draw(st.lists(RANGES, min_size=len(tensors), max_size=len(tensors)))
    out, before = _vector(ring, tensors), [tensor.copy() for tensor in tensors]
    counts = encode(
        tensors, ranges, ring=ring, n=n, weight=weight, max_weight=max_weight, seed=seed, out=out
    )
    *whole, last = _signed(ring, out)
    assert last == weight
    assert all(np.array_equal(a, b) for a, b in zip(tensors, before, strict=True))
    qmax, flat = ring.limit(n), [(float(x), r) for t, r in zip(tensors, ranges, strict=True) for x in t.flat]
    for q, (x, limit) in zip(whole, flat, strict=True):
        exact = min(max(x / limit, -1.0), 1.0) * (qmax * weight / max_weight)
        assert abs(q) <= math.ceil(qmax * weight / max_weight) <= qmax
        assert abs(q - exact) <= 1 + 2**-20
    assert counts == Encoded(sum(abs(x) > limit for x, limit in flat), sum(q != 0 for q in whole))


@given(WIDTHS, st.one_of(st.just(1), st.integers(1, 500)), RANGES, SEEDS)
def test_what_lies_on_the_grid_or_beyond_the_range_is_not_randomised(
    width: int, n: int, limit: float, seed: bytes
) -> None:
    ring = Ring(width)
    top = np.float32(limit)
    if float(top) < limit:
        top = np.nextafter(top, np.float32(np.inf))
    tensors = [np.array([0.0, -0.0, top, -top, 3.4e38, -3.4e38], np.float32)]
    out, qmax = _vector(ring, tensors), ring.limit(n)
    encode(tensors, [limit], ring=ring, n=n, seed=seed, out=out)
    assert _signed(ring, out) == [0, 0, qmax, -qmax, qmax, -qmax, 1]


@pytest.mark.parametrize("width", [16, 32])
@pytest.mark.parametrize("numerator", [1, 2**19, 2**19 + 1, 2**20 - 1, 12345])
def test_rounding_up_happens_exactly_as_often_as_the_fraction_says(
    width: int, numerator: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All 2^20 values of the noise once: of coordinates m + a / 2^20 exactly a are rounded up, whatever the sign."""
    count, position = 2**20, 0

    def every(stream: Keystream, buffer: memoryview, size: int) -> None:
        nonlocal position
        words = np.arange(position, position + size // 4, dtype=np.int64) % count
        buffer[:size] = ((words - count // 2) * 2**12).astype("<i4").tobytes()
        position += size // 4

    monkeypatch.setattr(Keystream, "fill", every)
    ring = Ring(width)
    for sign in (1, -1):
        position = 0
        value = np.float32(sign * numerator / 2**20)  # ±a / 2^20 of a quantum, the range being qmax quanta
        out = np.empty(count + 1, ring.dtype)
        encode([np.full(count, value)], [ring.limit(4)], ring=ring, n=4, seed=bytes(32), out=out)
        assert int(out[:-1].view(ring.signed).sum(dtype=np.int64)) == sign * numerator


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_worst_noise_does_not_push_a_coordinate_at_its_range_beyond_the_limit(
    n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """qmax · 2^21 / range · range may come out one unit too high: the widest ring leaves the least room for that."""

    def highest(stream: Keystream, buffer: memoryview, size: int) -> None:
        buffer[:size] = b"\xff\xff\xff\x7f" * (size // 4)

    monkeypatch.setattr(Keystream, "fill", highest)
    ring, out = Ring(32), np.empty(2, np.uint32)
    for k in range(1000):
        limit = 1 + k / 1024
        encode([np.array([limit], np.float32)], [limit], ring=ring, n=n, seed=bytes(32), out=out)
        assert int(out[0]) == ring.limit(n)


@given(WIDTHS, st.floats(-1.0, 1.0, width=32), SEEDS)
def test_the_mean_of_many_roundings_is_the_value(width: int, value: float, seed: bytes) -> None:
    """Bernstein's inequality at 1e-9 for the real noise."""
    ring, count, n = Ring(width), 20_000, 8
    out = np.empty(count + 1, ring.dtype)
    encode([np.full(count, value, np.float32)], [1.0], ring=ring, n=n, seed=seed, out=out)
    exact = value * ring.limit(n)
    fraction = exact - math.floor(exact)
    room = math.sqrt(2 * fraction * (1 - fraction) * 21.5 / count) + 15 / count + 2**-20
    assert abs(float(out[:-1].view(ring.signed).mean(dtype=np.float64)) - exact) <= room


@given(st.data(), WIDTHS, st.integers(2, 6), st.booleans())
def test_masked_sums_are_the_sums_of_what_was_encoded(
    data: st.DataObject, width: int, n: int, weighted: bool
) -> None:
    """All peers' vectors under cancelling masks add up mod 2^w to Σq and ΣW, exactly, and decode to the mean."""
    ring, max_weight = Ring(width), 5 if weighted else 1
    tensors = data.draw(_tensors())
    ranges = data.draw(st.lists(st.floats(0.01, 100.0), min_size=len(tensors), max_size=len(tensors)))
    weights = data.draw(st.lists(st.integers(1, max_weight), min_size=n, max_size=n))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    total, exact = np.zeros_like(_vector(ring, tensors)), np.zeros(_vector(ring, tensors).size, np.int64)
    for i, weight in enumerate(weights):
        own = [np.asarray(rng.standard_normal(t.shape) * r, np.float32) for t, r in zip(tensors, ranges, strict=True)]
        out = _vector(ring, own)
        encode(own, ranges, ring=ring, n=n, weight=weight, max_weight=max_weight, seed=rng.bytes(32), out=out)
        exact += out.view(ring.signed)
        pairs = [(min(i, j), max(i, j), 1 if i < j else -1) for j in range(n) if j != i]
        apply_masks(out, [Mask(bytes([low, high]) * 16, sign) for low, high, sign in pairs])
        total += out
    np.testing.assert_array_equal(total.view(ring.signed), exact)
    shapes = [tensor.shape for tensor in tensors]
    means, weight = decode(total, ranges, shapes, ring=ring, n=n, survivors=n, max_weight=max_weight)
    assert weight == sum(weights)
    assert [mean.shape for mean in means] == shapes
    expected = exact[:-1] / ring.limit(n) * max_weight / weight
    flat = np.concatenate([mean.ravel() / limit for mean, limit in zip(means, ranges, strict=True)] + [np.empty(0)])
    np.testing.assert_allclose(flat, expected, rtol=1e-6, atol=1e-30)


@given(st.data(), WIDTHS, SEEDS)
def test_the_residual_becomes_exactly_what_was_cut(data: st.DataObject, width: int, seed: bytes) -> None:
    ring, tensors = Ring(width), data.draw(_tensors())
    tensors = [np.asarray(tensor / 2, np.float32) for tensor in tensors]  # so that the sum stays in float32
    ranges = data.draw(st.lists(RANGES, min_size=len(tensors), max_size=len(tensors)))
    rest = [data.draw(st.sampled_from([0.0, 1.0, -0.25, 1e-30])) * tensor for tensor in tensors]
    rest = [np.asarray(tensor, np.float32) for tensor in rest]
    sums = [np.add(t, r, dtype=np.float64) for t, r in zip(tensors, rest, strict=True)]
    out = _vector(ring, tensors)
    counts = encode(tensors, ranges, ring=ring, n=4, seed=seed, out=out, residual=rest)
    for total, left, limit in zip(sums, rest, ranges, strict=True):
        np.testing.assert_array_equal(left, (total - np.clip(total, -limit, limit)).astype(np.float32))
    assert counts.clipped == sum(
        int((np.abs(total) > limit).sum()) for total, limit in zip(sums, ranges, strict=True)
    )
    again = _vector(ring, tensors)
    if all((total.astype(np.float32) == total).all() for total in sums):
        encode([total.astype(np.float32) for total in sums], ranges, ring=ring, n=4, seed=seed, out=again)
        np.testing.assert_array_equal(out, again)


def test_an_update_within_range_is_clipped_where_its_residual_carries_it_beyond() -> None:
    ring, residual = Ring(16), [np.array([0.5, -0.75, 0.25], np.float32)]
    out = np.empty(4, ring.dtype)
    tensor = np.array([0.75, -0.75, 0.75], np.float32)
    assert encode([tensor], [1.0], ring=ring, n=64, seed=bytes(32), out=out, residual=residual) == Encoded(2, 3)
    assert _signed(ring, out) == [511, -511, 511, 1]
    np.testing.assert_array_equal(residual[0], np.array([0.25, -0.5, 0.0], np.float32))


def test_chunks_and_layouts_change_nothing() -> None:
    """A long tensor, the same in pieces, and the same stored in another order give the same bytes."""
    ring, d = Ring(32), 2 * CHUNK + 12
    tensor = np.random.default_rng(3).standard_normal(d).astype(np.float32)
    outs = []
    for tensors in (
        [tensor],
        [tensor[:5], tensor[5 : CHUNK + 1], tensor[CHUNK + 1 :]],
        [tensor.reshape(4, -1)],
        [np.asfortranarray(tensor.reshape(4, -1))],
    ):
        residual = [np.zeros_like(part) for part in tensors]
        out = np.empty(d + 1, ring.dtype)
        encode(tensors, [1.0] * len(tensors), ring=ring, n=8, seed=bytes(32), out=out, residual=residual)
        outs.append((out.tobytes(), b"".join(part.tobytes("C") for part in residual)))
    assert len(set(outs)) == 1
    assert any(outs[0][1])


def test_nothing_at_all_has_a_weight() -> None:
    ring = Ring(16)
    out = np.empty(1, ring.dtype)
    assert encode([], [], ring=ring, n=3, weight=2, max_weight=2, seed=bytes(32), out=out) == Encoded(0, 0)
    assert decode(out, [], [], ring=ring, n=3, survivors=1, max_weight=2) == ((), 2)


def test_seeds_change_the_rounding_and_nothing_else_does() -> None:
    ring, tensor = Ring(16), np.full(1000, 0.1234, np.float32)
    outs = []
    for seed in (bytes(32), bytes(32), os.urandom(32)):
        outs.append(np.empty(1001, ring.dtype))
        encode([tensor], [1.0], ring=ring, n=3, seed=seed, out=outs[-1])
    assert np.array_equal(outs[0], outs[1])
    assert not np.array_equal(outs[0], outs[2])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["tensor", "residual"])
@pytest.mark.parametrize("index", [0, CHUNK, CHUNK + 9])
def test_a_value_that_is_no_number_is_refused_before_anything_is_written(
    value: float, where: str, index: int
) -> None:
    ring = Ring(32)
    tensors = [np.full(3, 9.0, np.float32), np.zeros(CHUNK + 10, np.float32)]
    residual = [np.ones(3, np.float32), np.zeros(CHUNK + 10, np.float32)]
    (tensors if where == "tensor" else residual)[1][index] = value
    out = _vector(ring, tensors)
    with pytest.raises(LocalError, match="tensor 1 holds NaN or infinity"):
        encode(tensors, [1.0, 1.0], ring=ring, n=4, seed=bytes(32), out=out, residual=residual)
    assert (out == 7).all()
    assert (residual[0] == 1).all()


def _refused(words: str, **changes: Any) -> None:
    """One argument of a sound call changed."""
    ring = Ring(16)
    sound: dict[str, Any] = {
        "tensors": [np.zeros(3, np.float32)],
        "ranges": [1.0],
        "ring": ring,
        "n": 4,
        "seed": bytes(32),
        "out": np.zeros(4, ring.dtype),
    }
    encode(**sound)
    with pytest.raises(LocalError, match=words):
        encode(**(sound | changes))


def test_weights_and_sums_that_could_wrap_are_refused() -> None:
    _refused("weight 0 lies outside", weight=0)
    _refused("weight 3 lies outside", weight=3, max_weight=2)
    _refused("weights up to 0", max_weight=0)
    _refused("weights up to 8192", max_weight=8192, out=np.zeros(4, np.uint16))
    _refused("cannot be summed", n=2**15)
    _refused("cannot be summed", n=0)
    with pytest.raises(LocalError, match="16 or 32"):
        Ring(24)


def test_arguments_that_do_not_fit_are_refused() -> None:
    read_only = np.zeros(4, np.uint16)
    read_only.flags.writeable = False
    fixed = np.zeros(3, np.float32)
    fixed.flags.writeable = False
    _refused("32 bytes", seed=bytes(16))
    _refused("1 tensors and 2 ranges", ranges=[1.0, 1.0])
    for limit in (0.0, -1.0, math.nan, math.inf, TINY / 2, 1e39):
        _refused("range of tensor 0", ranges=[limit])
    for out in (np.zeros(3, np.uint16), np.zeros(4, np.uint32), np.zeros(4, np.int16), np.zeros(8, np.uint16)[::2]):
        _refused("vector must be", out=out)
    _refused("read-only", out=read_only)
    _refused("float64", tensors=[np.zeros(3)])
    _refused("residuals", residual=[])
    _refused("residual of tensor 0", residual=[np.zeros((3, 1), np.float32)])
    _refused("residual of tensor 0", residual=[fixed])
    _refused("leaves float32", tensors=[np.full(3, 3e38, np.float32)], residual=[np.full(3, 3e38, np.float32)])


# Decoding


@given(st.data(), WIDTHS, st.integers(1, 12), st.integers(1, 9))
def test_a_sum_is_refused_exactly_beyond_what_honest_peers_can_give(
    data: st.DataObject, width: int, n: int, max_weight: int
) -> None:
    """A survivor gives at most ⌈qmax · w / max_weight⌉; the bound allows that for any weights with the same sum."""
    ring = Ring(width)
    survivors = data.draw(st.integers(1, n))
    weights = data.draw(st.lists(st.integers(1, max_weight), min_size=survivors, max_size=survivors))
    qmax, weight = ring.limit(n), sum(weights)
    honest = sum(-(-qmax * w // max_weight) for w in weights)
    bound = (qmax * weight + survivors * (max_weight - 1)) // max_weight
    assert honest <= bound

    def decoded(*values: int) -> tuple[tuple[NDArray[np.float32], ...], int]:
        total = np.array([value % 2**width for value in values], ring.dtype)
        shape = (len(values) - 1,)
        return decode(total, [1.0], [shape], ring=ring, n=n, survivors=survivors, max_weight=max_weight)

    assert decoded(honest, -honest, weight)[1] == weight
    for worst in (min(bound, 2 ** (width - 1) - 1), -min(bound, 2 ** (width - 1))):
        decoded(0, worst, weight)
    for worse in (bound + 1, -bound - 1):
        if -(2 ** (width - 1)) <= worse < 2 ** (width - 1):
            with pytest.raises(DecodeError, match="refuse the result"):
                decoded(0, worse, weight)
    for wrong in (survivors - 1, survivors * max_weight + 1, 0, -1):
        with pytest.raises(DecodeError, match="total weight"):
            decoded(0, wrong)


def test_the_most_negative_sum_is_refused_not_folded() -> None:
    """−2^15 has no positive twin in int16: taking its magnitude there would pass the check."""
    ring = Ring(16)
    total = np.array([2**15, 4], ring.dtype)
    with pytest.raises(DecodeError, match="tensor 0"):
        decode(total, [1.0], [()], ring=ring, n=4, survivors=4, max_weight=1)


def test_a_coordinate_out_of_range_in_a_later_chunk_is_found() -> None:
    ring, d = Ring(32), CHUNK + 5
    total = np.zeros(d + 1, ring.dtype)
    total[-1] = 3
    total[CHUNK + 2] = 3 * ring.limit(3) + 1
    with pytest.raises(DecodeError, match="tensor 1"):
        decode(total, [1.0, 1.0], [(2,), (d - 2,)], ring=ring, n=3, survivors=3, max_weight=1)


def test_decoding_arguments_that_do_not_fit_are_refused() -> None:
    ring = Ring(16)
    sound: dict[str, Any] = {"ranges": [1.0], "shapes": [(3,)], "ring": ring, "n": 4, "survivors": 4, "max_weight": 1}
    total = np.array([1, 2, 3, 4], ring.dtype)
    decode(total, **sound)
    changes: list[dict[str, Any]] = [
        {"survivors": 0}, {"survivors": 5}, {"ranges": []}, {"ranges": [0.0]}, {"shapes": [(4,)]}, {"max_weight": 0},
    ]  # fmt: skip
    for change in changes:
        with pytest.raises(LocalError):
            decode(total, **(sound | change))
    with pytest.raises(LocalError, match="uint16"):
        decode(total.astype(np.uint32), **sound)


def test_encoding_needs_little_memory_whatever_the_size() -> None:
    ring, d = Ring(32), 2_000_000
    tensor, residual, out = np.zeros(d, np.float32), np.zeros(d, np.float32), np.empty(d + 1, ring.dtype)
    tensor[::7] = 3.0
    tracemalloc.start()
    encode([tensor], [1.0], ring=ring, n=8, seed=bytes(32), out=out, residual=[residual])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20
