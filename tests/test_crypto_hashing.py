"""Hashing: the encoding has one reading, and keys are HKDF."""

from __future__ import annotations

import hashlib
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentra.crypto.hashing import MAX_EXPAND, digest, encode_parts, expand

PARTS = st.lists(st.one_of(st.binary(max_size=40), st.text(max_size=20), st.integers(0, 2**70)), max_size=5)


def _typed(label: str, parts: list[bytes | str | int]) -> list[tuple[type, bytes | str | int]]:
    return [(type(part), part) for part in (label, *parts)]


def _read(encoded: bytes) -> list[tuple[type, bytes | str | int]]:
    """Decodes; that this exists and gives the input back is what makes the encoding injective."""
    items: list[tuple[type, bytes | str | int]] = []
    while encoded:
        size = int.from_bytes(encoded[1:9], "little")
        tag, body, encoded = encoded[:1], encoded[9 : 9 + size], encoded[9 + size :]
        if tag == b"b":
            items.append((bytes, body))
        elif tag == b"s":
            items.append((str, body.decode()))
        else:
            items.append((int, int.from_bytes(body, "little")))
    return items


@given(st.text(max_size=20), PARTS)
def test_the_encoding_can_be_read_back(label: str, parts: list[bytes | str | int]) -> None:
    assert _read(encode_parts(label, *parts)) == _typed(label, parts)


@given(PARTS, PARTS)
def test_digests_differ_where_parts_differ(one: list[bytes | str | int], other: list[bytes | str | int]) -> None:
    assert (digest("l", *one) == digest("l", *other)) == (_typed("l", one) == _typed("l", other))


def test_moving_a_boundary_or_changing_a_type_changes_the_digest() -> None:
    digests = [digest("a", "bc"), digest("ab", "c"), digest("abc"), digest("a", b"bc"), digest("a", "b", "c")]
    numbers = [digest("a", 1), digest("a", b"\x01"), digest("a", "1"), digest("a", 0), digest("a", b""), digest("a")]
    assert len(set(digests + numbers)) == len(digests) + len(numbers)


@given(st.text(max_size=8), PARTS)
def test_the_digest_is_sha256_of_the_encoding(label: str, parts: list[bytes | str | int]) -> None:
    assert digest(label, *parts) == hashlib.sha256(encode_parts(label, *parts)).digest()


@given(st.binary(max_size=64))
def test_a_view_hashes_like_its_bytes(body: bytes) -> None:
    assert digest("a", memoryview(body)) == digest("a", bytearray(body)) == digest("a", body)


def test_an_array_of_any_shape_hashes_like_its_bytes() -> None:
    for array in (np.arange(6, dtype=np.uint32).reshape(2, 3), np.empty((0, 3), np.uint16), np.array(7, np.uint32)):
        assert digest("a", array.data) == digest("a", array.tobytes())


def test_what_has_no_single_encoding_is_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        digest("a", -1)
    with pytest.raises(TypeError, match="bool"):
        digest("a", True)
    with pytest.raises(TypeError, match="float"):
        digest("a", cast(Any, 1.0))
    with pytest.raises(ValueError, match="contiguous"):
        digest("a", np.arange(6, dtype=np.uint8)[::2].data)


def test_keys_under_different_labels_contexts_and_keys_differ() -> None:
    key = bytes(32)
    derived = [expand(key, "a"), expand(key, "b"), expand(key, "a", 0), expand(key, "a", ""), expand(b"\x01" * 32, "a")]
    assert len(set(derived)) == len(derived)
    assert all(len(value) == 32 for value in derived)


@given(st.integers(1, 300))
def test_a_shorter_key_is_the_start_of_a_longer_one(length: int) -> None:
    assert expand(b"key", "a", length=300)[:length] == expand(b"key", "a", length=length)


@pytest.mark.parametrize("length", [0, -1, MAX_EXPAND + 1])
def test_a_length_that_hkdf_cannot_give_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="HKDF"):
        expand(b"key", "a", length=length)
    assert len(expand(b"key", "a", length=MAX_EXPAND)) == MAX_EXPAND
