"""Rules over integers: the exact value, rounded once, and the same whatever does the arithmetic."""

from __future__ import annotations

import math
import types
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from decentra.errors import LocalError
from decentra.robust import CoordinateRule, aggregate, exact, subsets
from decentra.robust.catalogue import check, exact_rules, find

NAMES = exact_rules()


@st.composite
def integers(draw: st.DrawFn, name: str) -> tuple[NDArray[Any], int]:
    """Updates in the ring's words: n times the largest stays within; small ones, and ones at the limit."""
    f = draw(st.sampled_from([f for f in range(3) if find(name).fewest(f) <= 11]))
    n = draw(st.integers(max(find(name).fewest(f), f + 1), 11))
    dtype = draw(st.sampled_from([np.int16, np.int32]))
    most = int(np.iinfo(dtype).max) // n
    size = draw(st.sampled_from([3, 1000, most]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    updates = rng.integers(-min(size, most), min(size, most) + 1, (n, draw(st.integers(1, 6))))
    updates[: draw(st.integers(0, f))] = draw(st.sampled_from([-most, most]))
    return updates.astype(dtype), f


def weights(updates: NDArray[Any], name: str, f: int) -> list[int] | None:
    """What updates are multiplied with; None for rules that look at each coordinate by itself."""
    rule = find(name)
    if isinstance(rule.rule, CoordinateRule):
        return None
    rows = list(updates)
    gram = exact._gram(rows, origin=rule.origin) if rule.needs_geometry else np.zeros((len(rows), len(rows)))
    made_of, total = exact._made_of(gram, rule, f)
    found: list[int] = made_of[0].tolist()
    assert len(made_of) == 1 and ("arc" in name or sum(found) == total)
    return found


def half_even(value: Fraction) -> int:
    return round(value)


@pytest.mark.parametrize("name", NAMES)
def test_the_total_is_the_exact_value_rounded_once(name: str) -> None:
    """Against fractions, with the weights that the rule found, and for coordinates against sorting."""

    @given(integers(name))
    def holds(case: tuple[NDArray[Any], int]) -> None:
        updates, f = case
        n = len(updates)
        before = updates.copy()
        found = exact.aggregate(list(updates), name, f)
        assert np.array_equal(updates, before) and found.dtype == updates.dtype
        weighed = weights(updates, name, f)
        if weighed is not None and "arc" not in name:
            for column, value in enumerate(found):
                summed = sum(weight * int(row[column]) for weight, row in zip(weighed, updates, strict=True))
                assert int(value) == half_even(Fraction(n * summed, sum(weighed)))
        if name == "trimmed_mean":
            kept = np.sort(updates.astype(np.int64), axis=0)[f : n - f]
            assert [half_even(Fraction(n * int(s), n - 2 * f)) for s in kept.sum(axis=0)] == found.tolist()

    holds()


@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_rule_in_floating_point_too(name: str) -> None:
    """On updates without ties, where rounding decides nothing."""
    rng = np.random.default_rng(4)
    updates = rng.integers(-(10**7), 10**7, (11, 300)).astype(np.int32)
    updates[9:] = rng.integers(3 * 10**7, 4 * 10**7, (2, 300))
    found = exact.aggregate(list(updates), name, 2) / 11
    assert found == pytest.approx(aggregate(updates.astype(np.float64), name, 2).value, abs=3e-3 * 10**7)
    if "geometric" not in name and "arc" not in name:
        assert found == pytest.approx(aggregate(updates.astype(np.float64), name, 2).value, abs=0.51)


@pytest.mark.parametrize("name", ["krum", "multi_krum", "mda", "nnm+trimmed_mean", "bulyan"])
@pytest.mark.parametrize("far", [0, 6])
def test_two_quanta_tell_beside_a_liar_at_the_limit(name: str, far: int) -> None:
    rng = np.random.default_rng(6)
    updates = rng.integers(-2, 3, (11, 40_000)).astype(np.int32)
    updates[far] = (2**31 - 1) // 11
    updates[far + 1, :1000] += 40  # near, and yet farther than any other
    weighed = weights(updates, name, 2)
    if weighed is not None:
        assert weighed[far] == 0 == weighed[far + 1]
    honest = np.delete(updates, [far, far + 1], axis=0)
    assert (np.abs(exact.aggregate(list(updates), name, 2) / 11) <= np.abs(honest).max()).all()


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("geometric_median")])
def test_a_copy_of_the_medoid_but_for_a_quantum_is_weighed_all_the_same(name: str) -> None:
    """It lay at a distance of less than nothing, by rounding, and at none at all: weights were NaN."""
    rng = np.random.default_rng(7)
    n, f, most = 10, 3, (2**31 - 1) // 10
    for _ in range(40):
        honest = np.rint(rng.normal(size=(n - 1, 3000)) * most / 50 + most / 100).astype(np.int32)
        apart = np.linalg.norm(honest[:, None].astype(float) - honest[None], axis=2).sum(axis=1)
        liar = honest[int(np.argmin(apart))].copy()
        liar[0] += 1
        found = exact.aggregate([*honest, liar], name, f)
        assert np.linalg.norm(found / n - honest.mean(axis=0)) < np.linalg.norm(honest[0])


def test_liars_that_are_each_far_from_one_peer_cost_little() -> None:
    """They make 2^f sets of one diameter; all were tried."""
    n, f = 48, 16
    rng = np.random.default_rng(1)
    honest = rng.normal(size=(n - f, 2000))
    honest -= honest.mean(axis=0)
    apart = np.linalg.norm(honest[:, None] - honest[None], axis=2)
    farthest = np.unravel_index(int(np.argmax(apart)), apart.shape)
    alone = [index for index in range(n - f) if index not in farthest][:f]
    updates = 1000 * np.concatenate([honest, -0.9 * honest[alone]])
    tried = 0

    def counted(*given: object) -> float:
        nonlocal tried
        tried += 1
        return math.fsum(*given)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subsets, "math", types.SimpleNamespace(fsum=counted))
        weighed = weights(updates.astype(np.int32), "mda", f)
    assert weighed is not None and sum(weight > 0 for weight in weighed) == n - f
    assert tried == subsets.MOST_COVERS


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("arc+")])
def test_what_is_clipped_by_much_is_no_longer_for_rounding(name: str) -> None:
    """A factor of half a step was rounded up to one, so that a liar counted twice what the rule had looked at."""
    updates = np.full((4, 50), 8100, np.int32) + np.arange(4, dtype=np.int32)[:, None]
    updates[0] = 8101 * 64_900
    assert (exact.aggregate(list(updates), name, 1) / 4).max() <= 8104


def test_rounding_is_half_to_even() -> None:
    numerator = np.array([-7, -6, -5, -3, -2, -1, 0, 1, 2, 3, 5, 6, 7])
    assert exact._rounded(numerator, 2).tolist() == [-4, -3, -2, -2, -1, 0, 0, 0, 1, 2, 2, 3, 4]
    assert exact._rounded(numerator, 4).tolist() == [round(Fraction(int(value), 4)) for value in numerator]


@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=6, max_size=6))
def test_inner_products_are_exact(values: list[int]) -> None:
    rows = np.array(values, np.int32).reshape(3, 2)
    whole = [[sum(int(a) * int(b) for a, b in zip(one, other, strict=True)) for other in rows] for one in rows]
    assert np.array_equal(exact._gram(list(rows), origin=True), np.array(whole, dtype=object).astype(np.float64))


def test_what_peers_cannot_evaluate_alike_is_refused() -> None:
    rows = [np.zeros(3, np.int32)] * 5
    for name, says in {
        "smea": "eigenvalues",
        "caf": "eigenvalues",
        "fltrust": "own reference",
        "sign_majority": "signs",
        "nnm+arc+krum": "2 steps",
        "arc+arc+median": "2 steps",
        "nnm+mean": "bounds nothing",
        "arc+nnm+nnm+median": "3 steps",
    }.items():
        with pytest.raises(LocalError, match=says):
            exact.aggregate(rows, name, 1)
    with pytest.raises(LocalError, match="lower f to 2"):
        exact.aggregate(rows, "krum", 3)
    with pytest.raises(LocalError, match="all int16 or all int32"):
        exact.aggregate([np.zeros(3)] * 3, "krum", 1)
    with pytest.raises(LocalError, match="one length"):
        exact.aggregate([*rows, np.zeros(2, np.int32)], "krum", 1)
    with pytest.raises(LocalError, match="no updates"):
        exact.aggregate([], "krum", 1)


def test_all_exact_rules_fit_eleven_updates_with_two_false() -> None:
    assert all(check(name, 11, 2) is None for name in NAMES)
    assert {"nnm+trimmed_mean", "arc+nnm+trimmed_mean"} <= set(NAMES)
    assert {"smea", "sign_majority", "arc+nnm+krum"}.isdisjoint(NAMES)
