"""Weights from inner products alone: the rule's own, in small integers, none of which lays an update bare."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentra.errors import LocalError
from decentra.robust import exact, shared
from decentra.robust.catalogue import find, names

NAMES = shared.shared_rules()
SIZES = st.sampled_from([(4, 1, 1), (5, 1, 1), (7, 2, 2), (10, 3, 3), (10, 2, 3), (16, 3, 5), (12, 0, 3)])


def products(updates: np.ndarray) -> list[list[int]]:  # type: ignore[type-arg]
    whole = updates.astype(object)
    return [[int(entry) for entry in row] for row in whole @ whole.T]


def test_the_rules_are_these() -> None:
    assert NAMES == ("multi_krum", "mda", "nnm+krum", "nnm+multi_krum", "nnm+geometric_median", "nnm+mda")
    assert shared.DEFAULT in NAMES


@pytest.mark.parametrize("name", NAMES)
@given(SIZES, st.integers(0, 2**32), st.sampled_from([1, 1000, 1 << 28]), st.integers(0, 3))
def test_weights_stay_within_their_bounds(
    name: str, size: tuple[int, int, int], seed: int, most: int, far: int
) -> None:
    n, f, c = size
    rng = np.random.default_rng(seed)
    updates = rng.integers(-most, most + 1, (n, 6))
    updates[: min(far, f)] = updates[-1] if far % 2 else most
    weights = shared.weigh(products(updates), name, f, c)
    assert len(weights) == n and all(type(weight) is int and weight >= 0 for weight in weights)
    assert 1 <= sum(weights) <= 2**16
    assert max(weights) * (n - f) <= sum(weights)
    assert sum(weight > 0 for weight in weights) >= max(n - f, c + 2)
    assert math.gcd(*weights) == 1 or sum(weights) > n * n


@pytest.mark.parametrize("name", NAMES)
def test_they_are_those_that_the_rule_gives_in_the_clear(name: str) -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        updates = rng.integers(-1000, 1001, (11, 30)).astype(np.int32)
        updates[:2] += 3000
        clear = exact.aggregate(list(updates), name, 2)
        weights = shared.weigh(products(updates), name, 2, 2)
        assert weights[0] == weights[1] == 0
        summed = (np.array(weights)[:, None] * updates).sum(axis=0)
        given_ = [round(Fraction(11 * int(value), sum(weights))) for value in summed]  # half to even
        within = 11 * 4000 * 12 / 2**16 if "geometric" in name else 0
        assert np.abs(np.array(given_) - clear).max() <= within


@given(st.integers(-20, 20), st.integers(0, 2**32))
def test_only_distances_count_and_no_scale(shift: int, seed: int) -> None:
    updates = np.random.default_rng(seed).integers(-9, 10, (7, 40))
    weights = shared.weigh(products(updates), "nnm+multi_krum", 2, 2)
    assert shared.weigh(products(8 * updates), "nnm+multi_krum", 2, 2) == weights
    assert shared.weigh(products(updates + shift), "nnm+multi_krum", 2, 2) == weights
    scaled = [[8 * entry for entry in row] for row in products(updates)]  # as a sketch's matrix is
    assert shared.weigh(scaled, "nnm+multi_krum", 2, 2) == weights


def test_distances_of_a_quantum_tell_beside_the_longest_that_there_are() -> None:
    """A common direction of 2^27 a coordinate; what tells updates apart is 1."""
    updates = np.full((7, 4), 1 << 27) + np.eye(7, 4, dtype=np.int64)
    updates[5] += 2
    updates[6] -= 2
    weights = shared.weigh(products(updates), "multi_krum", 2, 2)
    assert weights == (1, 1, 1, 1, 1, 0, 0)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("krum", "nearly all the weight.*choose nnm\\+krum or nnm\\+multi_krum"),
        ("geometric_median", "nearly all the weight.*choose nnm\\+geometric_median"),
        ("trimmed_mean", "single coordinates"),
        ("nnm+median", "single coordinates"),
        ("bulyan", "single coordinates"),
        ("mean", "secagg"),
        ("nnm+mean", "bounds nothing"),
        ("arc+multi_krum", "parts of no sum"),
        ("smea", "eigenvalues"),
        ("caf", "eigenvalues"),
        ("fltrust", "own reference"),
        ("centered_clipping", "own reference"),
    ],
)
def test_rules_that_cannot_run_on_shares_are_refused_with_what_can(rule: str, words: str) -> None:
    with pytest.raises(LocalError, match=words) as caught:
        shared.weigh([[1] * 9] * 9, rule, 2, 2)
    assert "choose" in str(caught.value)
    assert shared.misfit(rule, 9, 2, 2) is not None


def test_every_rule_by_name_runs_or_is_refused_in_words() -> None:
    for name in (*names(), *(f"nnm+{name}" for name in names() if name != "bulyan" and not find(name).reference)):
        said = shared.misfit(name, 11, 2, 2)
        assert (said is None) == (name in NAMES)


def test_too_few_for_two_honest_ones_or_for_the_rule_are_refused() -> None:
    assert shared.misfit("multi_krum", 4, 1, 1) is None
    assert "f ≤ 1" in str(shared.misfit("multi_krum", 5, 2, 2))
    assert "lower f" in str(shared.misfit("multi_krum", 8, 4, 1))
    for n, f, c in ((3, 1, 1), (0, 0, 1), (2, 0, 1)):
        with pytest.raises(LocalError):
            shared.weigh([[1] * n] * n, "multi_krum", f, c)
    with pytest.raises(LocalError, match="4 rows of 4"):
        shared.weigh([[1] * 4] * 3 + [[1]], "multi_krum", 1, 1)
    with pytest.raises(LocalError, match="whole number"):
        shared.weigh([[1] * 4] * 4, "multi_krum", 1.0, 1)  # type: ignore[arg-type]


# ── small integers ───────────────────────────────────────────────────────────────────────────────────────────────────


@st.composite
def _parts(draw: st.DrawFn) -> tuple[list[int], int]:
    """Parts of which none is more than 1 / (n − f) of their sum, many of them at that bound."""
    n = draw(st.integers(3, 64))
    f = draw(st.integers(0, n - 3))
    if draw(st.booleans()):
        high = draw(st.integers(1, 2**40))
        parts = [high] * (n - f) + [0] * f
        if f:  # what one gives up, another gets
            given_up = draw(st.integers(0, high // 2))
            parts[0], parts[-1] = high - given_up, given_up
        return parts, f
    parts = [draw(st.integers(2**39, 2**40)) for _ in range(n)]
    f = max(f, (n + 1) // 2)
    return (parts, f) if max(parts) * (n - f) <= sum(parts) else ([1] * n, f)


@given(_parts())
def test_rounding_is_half_even_and_the_bound_holds_all_the_same(case: tuple[list[int], int]) -> None:
    parts, f = case
    n, total = len(parts), sum(parts)
    weights = shared.bounded(parts, total, f, 0)
    assert 1 <= sum(weights) <= 2**16 and max(weights) * (n - f) <= sum(weights)
    common = math.gcd(*parts)
    if total // common <= 2**16:
        assert list(weights) == [part // common for part in parts]
    else:
        for part, weight in zip(parts, weights, strict=True):
            plain = round(Fraction(part * (2**16 - n), total))
            assert plain - n <= weight <= plain  # cut, by as much as rounding can have carried others down


def test_a_weight_that_rounding_alone_carries_above_its_bound_is_cut() -> None:
    parts = [884107995872, 703325743718, 20460256196, 133650443145, 26671552813]
    assert max(parts) * 2 <= sum(parts)
    rounded = [round(Fraction(part * (2**16 - 5), sum(parts))) for part in parts]
    assert rounded[0] == 32766 and 2 * rounded[0] > sum(rounded)
    assert shared.bounded(parts, sum(parts), 3, 0) == (32765, *rounded[1:])


def test_weights_that_would_lay_an_update_bare_are_refused() -> None:
    with pytest.raises(LocalError, match="more than 1/3"):
        shared.bounded([4, 3, 3, 1], 11, 1, 1)
    with pytest.raises(LocalError, match="fewer than 4"):
        shared.bounded([1, 1, 1, 0], 3, 1, 2)
    for parts, total in (([1, 1], 3), ([-1, 2], 1), ([0, 0], 0)):
        with pytest.raises(LocalError, match="defect of the rule"):
            shared.bounded(parts, total, 0, 0)
    with pytest.raises(LocalError, match="defect"):
        shared.bounded([1, 1], 2, 2, 0)
