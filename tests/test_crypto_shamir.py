"""Sharing: any t shares give everything, fewer nothing."""

from __future__ import annotations

import random as stdlib_random
from collections.abc import Callable
from itertools import combinations
from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentra.crypto.field import PRIME, draw_secret, element, element_bytes
from decentra.crypto.shamir import combine, extend, lagrange_at_zero, split
from decentra.errors import LocalError

ELEMENTS = st.one_of(st.integers(0, PRIME - 1), st.sampled_from([0, 1, PRIME - 1])).map(element_bytes)


def _source(seed: int) -> Callable[[int], bytes]:
    return stdlib_random.Random(seed).randbytes


@st.composite
def _deals(draw: st.DrawFn) -> tuple[bytes, int, tuple[bytes, ...], list[int]]:
    """A secret, its threshold, its shares and a choice of at least threshold of their x."""
    count = draw(st.integers(2, 12))
    threshold = draw(st.integers(2, count))
    secret = draw(ELEMENTS)
    shares = split(secret, threshold, count, _source(draw(st.integers(0, 2**32))))
    chosen = draw(st.permutations(range(1, count + 1)))[: draw(st.integers(threshold, count))]
    return secret, threshold, shares, list(chosen)


@given(_deals())
def test_any_threshold_of_shares_gives_the_secret_and_every_share(
    deal: tuple[bytes, int, tuple[bytes, ...], list[int]],
) -> None:
    secret, threshold, shares, chosen = deal
    held = {x: shares[x - 1] for x in chosen}
    assert combine(held, threshold) == secret
    assert extend(held, threshold, len(shares)) == shares


@given(_deals(), ELEMENTS)
def test_one_share_fewer_leaves_every_secret_possible(
    deal: tuple[bytes, int, tuple[bytes, ...], list[int]], other: bytes
) -> None:
    """For any other secret there is a polynomial through it and the t − 1 shares, so they determine nothing."""
    _, threshold, shares, chosen = deal
    xs = chosen[: threshold - 1]
    missing = next(x for x in range(1, 14) if x not in xs)
    points = {0: element(other)} | {x: element(shares[x - 1]) for x in xs}
    fitting = sum(
        y * prod((missing - a) * pow(b - a, -1, PRIME) for a in points if a != b) for b, y in points.items()
    )
    held = {x: shares[x - 1] for x in xs} | {missing: element_bytes(fitting)}
    assert combine(held, threshold) == other


def test_every_subset_of_the_round_size_in_use_agrees() -> None:
    secret = draw_secret(_source(1))
    shares = split(secret, 4, 7, _source(2))
    for xs in combinations(range(1, 8), 4):
        held = {x: shares[x - 1] for x in xs}
        assert combine(held, 4) == secret
        assert extend(held, 4, 7) == shares


def test_64_peers_share_and_extend() -> None:
    secret = draw_secret(_source(3))
    shares = split(secret, 43, 64, _source(4))
    held = {x: shares[x - 1] for x in stdlib_random.Random(5).sample(range(1, 65), 43)}
    assert combine(held, 43) == secret
    assert extend(held, 43, 64) == shares


@given(_deals(), st.data())
def test_a_changed_share_shows_in_the_extension(
    deal: tuple[bytes, int, tuple[bytes, ...], list[int]], data: st.DataObject
) -> None:
    """Blame: an extension from any t shares equals the deal only if those t were dealt."""
    secret, threshold, shares, chosen = deal
    held = {x: shares[x - 1] for x in sorted(chosen)[:threshold]}
    victim = data.draw(st.sampled_from(sorted(held)))
    held[victim] = element_bytes(element(held[victim]) + data.draw(st.integers(1, PRIME - 1)))
    assert combine(held, threshold) != secret
    assert extend(held, threshold, len(shares)) != shares


def test_shares_beyond_the_threshold_are_not_used() -> None:
    """The verdict depends on the lowest x alone, so that all peers who hold the same shares reach the same."""
    secret = draw_secret(_source(10))
    shares = split(secret, 3, 5, _source(11))
    held = {5: element_bytes(1), 4: element_bytes(2), 3: shares[2], 1: shares[0], 2: shares[1]}
    assert combine(held, 3) == secret
    assert extend(held, 3, 5) == shares


@given(st.sets(st.integers(1, 64), min_size=1, max_size=20))
def test_lagrange_weights_rebuild_powers(points: set[int]) -> None:
    """The weights give f(0) for every monomial below the number of points: 1 for x^0, 0 for the others."""
    xs = tuple(points)
    weights = lagrange_at_zero(xs)
    for power in range(len(xs)):
        assert sum(w * x**power for w, x in zip(weights, xs, strict=True)) % PRIME == (1 if power == 0 else 0)


def test_lagrange_weights_are_kept() -> None:
    assert lagrange_at_zero((1, 5, 9)) is lagrange_at_zero((1, 5, 9))
    with pytest.raises(ValueError, match="invertible"):
        lagrange_at_zero((1, 1))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({4: None}, "3 shares give"),
        ({0: bytes(32)}, "1..1024"),
        ({-1: bytes(32)}, "1..1024"),
        ({1025: bytes(32)}, "1..1024"),
        ({4: PRIME.to_bytes(32, "little")}, "canonical"),
        ({4: b"\xff" * 32}, "canonical"),
        ({4: bytes(31)}, "32 bytes"),
        ({9: bytes(33)}, "32 bytes"),
    ],
)
def test_shares_that_cannot_be_are_refused(change: dict[int, bytes | None], words: str) -> None:
    shares = split(draw_secret(_source(6)), 3, 5, _source(7))
    held: dict[int, bytes | None] = {x: shares[x - 1] for x in (1, 3, 4)}
    changed = {x: share for x, share in (held | change).items() if share is not None}
    for rebuild in (lambda: combine(changed, 3), lambda: extend(changed, 3, 5)):
        with pytest.raises(ValueError, match=words):
            rebuild()


@pytest.mark.parametrize(("threshold", "count"), [(1, 3), (0, 3), (4, 3), (2, 1025)])
def test_a_threshold_that_protects_nothing_is_refused(threshold: int, count: int) -> None:
    with pytest.raises(ValueError, match="threshold"):
        split(bytes(32), threshold, count, _source(8))
    with pytest.raises(ValueError, match="threshold"):
        extend({x: bytes(32) for x in range(1, 8)}, threshold, count)


def test_a_threshold_below_two_combines_nothing() -> None:
    for threshold in (1, 0, -1):
        with pytest.raises(ValueError, match="threshold"):
            combine({1: bytes(32)}, threshold)


def test_a_secret_that_is_not_canonical_is_refused() -> None:
    for secret in (PRIME.to_bytes(32, "little"), bytes(31), b"\xff" * 32):
        with pytest.raises(ValueError, match="field element"):
            split(secret, 2, 3, _source(9))


def test_drawing_rejects_above_the_prime_and_clears_the_top_bit() -> None:
    tape = [b"\xff" * 32, PRIME.to_bytes(32, "little"), b"\x05" * 31 + b"\x80"]
    assert draw_secret(lambda _: tape.pop(0)) == b"\x05" * 31 + b"\x00"
    assert not tape


def test_a_broken_source_is_refused_rather_than_waited_for() -> None:
    with pytest.raises(LocalError, match="repeats"):
        draw_secret(lambda _: b"\xff" * 32)
    with pytest.raises(LocalError, match="31 bytes"):
        draw_secret(lambda _: bytes(31))
    with pytest.raises(LocalError, match="repeats"):
        split(bytes(32), 2, 3, lambda _: b"\xff" * 32)
