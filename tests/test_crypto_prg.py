"""Masks: they are AES-CTR at any offset, they cancel, and they hide."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from decentra.crypto import prg
from decentra.crypto.prg import CHUNK, Mask, apply_masks
from decentra.crypto.ring import Ring, encode

DTYPES = st.sampled_from([np.uint16, np.uint32])
KEYS = st.binary(min_size=32, max_size=32)
MASKS = st.lists(st.builds(Mask, KEYS, st.sampled_from([1, -1])), max_size=5)
SIZES = st.one_of(st.integers(0, 100), st.sampled_from([CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 7]))

CHI_SQUARE_255 = 377.0781
"""The value that χ² with 255 degrees of freedom exceeds with probability 1e-6."""


def _naive(key: bytes, dtype: type[np.unsignedinteger[Any]], size: int, offset: int = 0) -> NDArray[Any]:
    """Elements offset.. of the keystream, by making all of it in one go."""
    width = np.dtype(dtype).itemsize
    stream = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor().update(bytes((offset + size) * width))
    return np.frombuffer(stream, dtype=f"<u{width}")[offset:].astype(dtype)


@given(DTYPES, MASKS, SIZES, st.integers(0, 70), st.integers(0, 2**32))
def test_masks_are_the_sum_of_naive_keystreams(
    dtype: type[np.unsignedinteger[Any]], masks: list[Mask], size: int, offset: int, seed: int
) -> None:
    vector = np.random.default_rng(seed).integers(0, 2**16, size).astype(dtype)
    expected = vector.copy()
    for key, sign in masks:
        stream = _naive(key, dtype, size, offset)
        expected = expected + stream if sign == 1 else expected - stream
    apply_masks(vector, masks, offset)
    np.testing.assert_array_equal(vector, expected)


@given(DTYPES, MASKS, st.integers(1, CHUNK + 100), st.data())
def test_masking_slices_is_masking_the_whole(
    dtype: type[np.unsignedinteger[Any]], masks: list[Mask], size: int, data: st.DataObject
) -> None:
    whole, sliced = np.zeros(size, dtype), np.zeros(size, dtype)
    apply_masks(whole, masks)
    bounds = sorted({0, size, *data.draw(st.lists(st.integers(0, size), max_size=4))})
    for start, end in pairwise(bounds):
        apply_masks(sliced[start:end], masks, start)
    np.testing.assert_array_equal(whole, sliced)


@given(DTYPES, st.lists(KEYS, max_size=4), SIZES, st.integers(0, 2**60))
def test_opposite_signs_cancel(
    dtype: type[np.unsignedinteger[Any]], keys: list[bytes], size: int, offset: int
) -> None:
    vector = np.arange(size).astype(dtype)
    apply_masks(vector, [Mask(key, 1) for key in keys], offset)
    apply_masks(vector, [Mask(key, -1) for key in reversed(keys)], offset)
    np.testing.assert_array_equal(vector, np.arange(size).astype(dtype))


@given(KEYS, st.integers(0, 2**62))
def test_both_widths_read_the_same_bytes(key: bytes, offset: int) -> None:
    narrow, wide = np.zeros(64, np.uint16), np.zeros(32, np.uint32)
    apply_masks(narrow, [Mask(key, 1)], 2 * offset)
    apply_masks(wide, [Mask(key, 1)], offset)
    np.testing.assert_array_equal(narrow.astype("<u2").view("<u4"), wide)


def test_the_counter_carries_beyond_32_and_64_bits() -> None:
    """A slice across a carry equals the blocks that ECB gives for those counters."""
    key = bytes(range(32))
    for power in (32, 64):
        block = 2**power - 1
        cipher = Cipher(algorithms.AES256(key), modes.ECB()).encryptor()
        stream = b"".join(cipher.update((block + i).to_bytes(16, "big")) for i in range(3))
        vector = np.zeros(12, np.uint32)
        apply_masks(vector, [Mask(key, 1)], block * 4)
        np.testing.assert_array_equal(vector, np.frombuffer(stream, "<u4"))


def test_what_cannot_be_masked_is_refused() -> None:
    good = Mask(bytes(32), 1)
    read_only = np.zeros(4, np.uint32)
    read_only.flags.writeable = False
    for vector in (
        np.zeros(4, np.int32),
        np.zeros(4, np.uint64),
        np.zeros(4, np.float32),
        np.zeros(4, ">u4"),
        np.zeros((2, 2), np.uint32),
        np.zeros(8, np.uint32)[::2],
        read_only,
    ):
        with pytest.raises(ValueError, match="masks go on"):
            apply_masks(vector, [good])
    for mask, offset, words in (
        (Mask(bytes(16), 1), 0, "32 bytes"),
        (Mask(bytes(32), 0), 0, "sign"),
        (Mask(bytes(32), 2), 0, "sign"),
        (good, -1, "offset"),
        (good, 2**130, "keystream"),
    ):
        vector = np.zeros(4, np.uint32)
        with pytest.raises(ValueError, match=words):
            apply_masks(vector, [good, mask], offset)
        assert not vector.any()


def _chi_square(vector: NDArray[Any]) -> float:
    """The worst χ² of the vector's byte positions against uniform."""
    rows = vector.view(np.uint8).reshape(vector.size, -1)
    expected = vector.size / 256
    counts = [np.bincount(column, minlength=256) for column in rows.T]
    return float(max(((count - expected) ** 2 / expected).sum() for count in counts))


def _masked_update(width: int) -> NDArray[Any]:
    """An ordinary update, encoded and masked for a roster of four, under fixed seeds."""
    ring = Ring(width)
    update = np.random.default_rng(1).standard_normal(100_000).astype(np.float32) * 0.01
    out = np.empty(update.size + 1, ring.dtype)
    encode([update], [0.1], ring=ring, n=4, seed=bytes(32), out=out)
    apply_masks(out, [Mask(bytes([k]) * 32, sign) for k, sign in ((1, 1), (2, 1), (3, -1), (4, -1))])
    return out


@pytest.mark.parametrize("width", [16, 32])
def test_a_masked_update_looks_uniform(width: int) -> None:
    assert _chi_square(_masked_update(width)) < CHI_SQUARE_255


@pytest.mark.parametrize("width", [16, 32])
def test_the_test_of_uniformity_fails_without_a_keystream(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def zeros(stream: prg.Keystream, buffer: memoryview, size: int) -> None:
        buffer[:size] = bytes(size)

    monkeypatch.setattr(prg.Keystream, "fill", zeros)
    assert _chi_square(_masked_update(width)) > CHI_SQUARE_255
