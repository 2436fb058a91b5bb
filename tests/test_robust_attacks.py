"""Attacks: what each promises of its rows, for all honest updates; what it is settled against; how it is asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from decentra.errors import LocalError
from decentra.robust import aggregate
from decentra.robust.attacks import (
    Alie,
    Attack,
    Backdoor,
    Dissensus,
    Equivocation,
    Inf,
    Ipm,
    LabelFlip,
    Mimic,
    MinMax,
    MinSum,
    Nan,
    SignFlip,
    Spectral,
    attack,
    attacks,
)

Array = NDArray[Any]

NUMBERS = st.floats(-100, 100, width=32).map(lambda value: 0.0 if abs(value) < 1e-3 else value)
SHAPES = array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=7)
HONEST = st.sampled_from([np.float32, np.float64]).flatmap(lambda dtype: arrays(dtype, SHAPES, elements=NUMBERS))
COUNTS = st.integers(0, 4)
FINITE: tuple[Attack, ...] = (
    Alie(), Ipm(), SignFlip(), Mimic(), MinMax(), MinSum(), Equivocation(), Dissensus(), Spectral()
)  # fmt: skip
EVERY: tuple[Attack, ...] = (*FINITE, Nan(), Inf())
DIRECTIONS = ("deviation", "mean", "sign")


def named(attack: Attack) -> str:
    return attack.name


def near(honest: Array) -> float:
    """What rounding may do to a number made of these."""
    return float(np.finfo(honest.dtype).eps) * (1.0 + float(np.abs(honest).max(initial=0.0))) * 64


def means_with(honest: Array) -> Any:
    """The mean of honest and false rows, which every row moves."""
    return lambda rows: np.concatenate([honest, rows]).mean(axis=0)


def medians_with(honest: Array) -> Any:
    return lambda rows: np.median(np.concatenate([honest, rows]), axis=0)


# ── all of them ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("attack", EVERY, ids=named)
@given(honest=HONEST, count=COUNTS)
def test_rows_have_the_honest_updates_shape_and_type_and_leave_them_alone(
    attack: Attack, honest: Array, count: int
) -> None:
    before = honest.copy()
    honest.flags.writeable = False
    rows = attack.rows(honest, count)
    assert rows.shape == (count, honest.shape[1]) and rows.dtype == honest.dtype
    assert np.array_equal(honest, before)
    assert not np.shares_memory(rows, honest)


@pytest.mark.parametrize("attack", EVERY, ids=named)
@given(honest=HONEST, count=COUNTS)
def test_the_same_arguments_make_the_same_rows(attack: Attack, honest: Array, count: int) -> None:
    first = attack.rows(honest, count, means_with(honest), np.random.default_rng(7))
    again = attack.rows(honest.copy(), count, means_with(honest), np.random.default_rng(7))
    assert np.array_equal(first, again, equal_nan=True)


@pytest.mark.parametrize("attack", FINITE, ids=named)
@given(honest=HONEST, count=COUNTS)
def test_rows_are_finite_where_the_attack_is_not_about_that(attack: Attack, honest: Array, count: int) -> None:
    assert np.isfinite(attack.rows(honest, count, medians_with(honest))).all()


@pytest.mark.parametrize("attack", EVERY, ids=named)
@given(honest=HONEST, count=st.integers(1, 4))
def test_a_settled_attack_needs_the_rule_no_more(attack: Attack, honest: Array, count: int) -> None:
    rule = medians_with(honest)
    settled = attack.settle(honest, count, rule)
    assert settled.settle(honest, count) == settled
    assert np.array_equal(settled.rows(honest, count), attack.rows(honest, count, rule), equal_nan=True)


@pytest.mark.parametrize("attack", FINITE, ids=named)
def test_no_coordinates_make_rows_of_none(attack: Attack) -> None:
    honest = np.zeros((3, 0), dtype=np.float32)
    assert attack.rows(honest, 2, means_with(honest)).shape == (2, 0)


@pytest.mark.parametrize("attack", [Nan(), Inf()], ids=named)
def test_no_coordinates_have_none_that_could_be_no_number(attack: Attack) -> None:
    assert attack.rows(np.zeros((3, 0), dtype=np.float32), 2).shape == (2, 0)


@pytest.mark.parametrize("attack", (Alie(), MinMax(), MinSum(), Mimic(), Dissensus()), ids=named)
@given(honest=HONEST.map(lambda rows: rows[:1]), count=st.integers(1, 3))
def test_of_one_honest_peer_there_is_no_spread_to_hide_in(attack: Attack, honest: Array, count: int) -> None:
    assert np.array_equal(attack.rows(honest, count), np.repeat(honest, count, axis=0))


@pytest.mark.parametrize("attack", EVERY, ids=named)
@pytest.mark.parametrize(
    ("honest", "count"),
    [
        ([[0.0, 1.0]], 1),
        ([np.zeros(3), np.ones(3)], 1),
        (None, 1),
        (np.zeros((2, 3)), 1.0),
        (np.zeros((2, 3)), None),
        (np.zeros((0, 3)), 1),
        (np.zeros(3), 1),
        (np.zeros((2, 3), dtype=np.int64), 1),
        (np.array([[0.0, np.nan]]), 1),
        (np.array([[0.0, np.inf]]), 1),
        (np.zeros((2, 3)), -1),
    ],
    ids=[
        "lists", "arrays", "nothing", "half-a-liar", "no-count", "none", "a-vector", "whole-numbers", "nan", "inf",
        "fewer-than-no-liars",
    ],
)
def test_what_no_attack_can_be_made_of_is_refused(attack: Attack, honest: Array, count: int) -> None:
    with pytest.raises(LocalError):
        attack.rows(honest, count)


def test_wide_updates_come_to_the_same_as_their_parts() -> None:
    # 70,000 columns are three blocks.
    honest = np.random.default_rng(5).normal(size=(4, 70_000)).astype(np.float32)
    whole = Alie(z=1.0).rows(honest, 1)[0]
    parts = [Alie(z=1.0).rows(honest[:, start : start + 999], 1)[0] for start in range(0, 70_000, 999)]
    assert np.array_equal(whole, np.concatenate(parts))
    left = np.linalg.svd(honest - honest.mean(axis=0), full_matrices=False)[0]
    assert Mimic().settle(honest, 1).target == int(np.argmax(np.abs(left[:, 0])))


# ── one by one ───────────────────────────────────────────────────────────────────────────────────────────────────────


@given(honest=HONEST, count=st.integers(1, 4), z=st.floats(-5, 5))
def test_alie_lies_z_deviations_below_the_mean(honest: Array, count: int, z: float) -> None:
    rows = Alie(z=z).rows(honest, count)
    expected = honest.mean(axis=0, dtype=float) - z * honest.std(axis=0, dtype=float)
    assert np.allclose(rows, expected, rtol=0, atol=near(honest) * (1 + abs(z)))


def test_alie_without_a_rule_takes_the_papers_z() -> None:
    # 50 peers, 24 of them liars: ⌊50/2 + 1⌋ − 24 = 2 honest ones farther out, Φ⁻¹(24/26) = 1.4261.
    settled = Alie().settle(np.zeros((26, 1)), 24)
    assert settled.z is not None and abs(settled.z - 1.4261) < 1e-4


@given(honest=HONEST, count=COUNTS, epsilon=st.one_of(st.none(), st.floats(0, 100)))
def test_ipm_never_agrees_with_the_mean(honest: Array, count: int, epsilon: float | None) -> None:
    rows = Ipm(epsilon).rows(honest, count, medians_with(honest)).astype(float)
    assert (rows @ honest.mean(axis=0, dtype=float) <= 0).all()


@given(honest=HONEST, scale=st.floats(0.1, 10))
def test_a_sign_flip_is_the_mean_reversed(honest: Array, scale: float) -> None:
    rows = SignFlip(scale).rows(honest, 2)
    assert np.allclose(rows, -scale * honest.mean(axis=0, dtype=float), rtol=1e-6, atol=near(honest))


@given(honest=HONEST, count=st.integers(1, 4), target=st.none() | st.integers(0, 6))
def test_mimic_copies_an_honest_row(honest: Array, count: int, target: int | None) -> None:
    chosen = Mimic(target if target is None else target % len(honest)).settle(honest, count)
    assert chosen.target is not None and (chosen.rows(honest, count) == honest[chosen.target]).all()


@given(honest=HONEST)
def test_mimic_chooses_who_is_farthest_out_along_the_direction_of_largest_variance(honest: Array) -> None:
    target = Mimic().settle(honest, 1).target
    centred = honest - honest.mean(axis=0, dtype=float)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    if len(values) > 1 and values[-1] - values[-2] < 1e-3 * values[-1]:
        return  # there is no one such direction
    out = np.abs(centred @ vectors[:, -1])
    assert target is not None and out[target] >= out.max() * (1 - 1e-4) - near(honest)


@pytest.mark.parametrize("direction", DIRECTIONS)
@given(honest=HONEST)
def test_min_max_goes_as_far_as_honest_updates_are_apart_and_no_farther(direction: str, honest: Array) -> None:
    def reach(row: Array) -> float:
        return float(np.linalg.norm(honest - row, axis=1).max())

    mean, row = honest.mean(axis=0, dtype=float), MinMax(direction).rows(honest, 1)[0].astype(float)
    most = max(reach(each) for each in honest.astype(float))
    assert reach(row) <= most + near(honest)
    assert np.array_equal(row, mean.astype(honest.dtype)) or reach(mean + (row - mean) * 1.01) > most - near(honest)


@pytest.mark.parametrize("direction", DIRECTIONS)
@given(honest=HONEST)
def test_min_sum_goes_as_far_as_the_outermost_honest_update_and_no_farther(direction: str, honest: Array) -> None:
    def reach(row: Array) -> float:
        return float(np.sqrt(((honest.astype(float) - row) ** 2).sum()))

    mean, row = honest.mean(axis=0, dtype=float), MinSum(direction).rows(honest, 1)[0].astype(float)
    most = max(reach(each) for each in honest.astype(float))
    assert reach(row) <= most + near(honest)
    assert np.array_equal(row, mean.astype(honest.dtype)) or reach(mean + (row - mean) * 1.01) > most - near(honest)


@pytest.mark.parametrize("make", [MinMax, MinSum])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_slightly_larger_scale_breaks_the_bound(make: type[MinMax] | type[MinSum], direction: str) -> None:
    honest = np.random.default_rng(3).normal(1.0, 1.0, size=(8, 50))
    mean, row = honest.mean(axis=0), make(direction).rows(honest, 1)[0]
    norm = (np.linalg.norm, np.max) if make is MinMax else (np.linalg.norm, lambda all: np.sqrt((all**2).sum()))

    def reach(point: Array) -> float:
        return float(norm[1](norm[0](honest - point, axis=1)))

    most = max(reach(each) for each in honest)
    assert reach(mean + (row - mean) * (1 - 1e-9)) <= most < reach(mean + (row - mean) * (1 + 1e-6))


@given(honest=HONEST, part=st.floats(0.01, 1), seed=st.integers(0, 9))
def test_what_is_no_number_is_in_as_many_coordinates_as_asked_for(honest: Array, part: float, seed: int) -> None:
    for each in (Nan(part), Inf(part)):
        row = each.rows(honest, 1, rng=np.random.default_rng(seed))[0]
        assert (~np.isfinite(row)).sum() == max(1, round(part * len(row)))
        honestly = honest.mean(axis=0, dtype=float)[np.isfinite(row)]
        assert np.allclose(row[np.isfinite(row)], honestly, rtol=1e-6, atol=near(honest))


@given(honest=HONEST, count=st.integers(1, 4))
def test_an_equivocator_tells_two_halves_what_no_mean_of_the_two_shows(honest: Array, count: int) -> None:
    attack = Equivocation(Ipm(2.0))
    first, second = attack.rows(honest, count), attack.others(honest, count)
    mean = honest.mean(axis=0, dtype=float)
    assert np.array_equal(first, Ipm(2.0).rows(honest, count)) and second.dtype == first.dtype
    assert np.allclose((first.astype(float) + second) / 2, mean, rtol=0, atol=8 * near(honest))
    assert not mean.any() or not np.array_equal(first, second)
    assert attack.others(honest, 0).shape == (0, honest.shape[1])


@given(honest=HONEST, count=st.integers(1, 4), data=st.data())
def test_dissensus_undoes_what_honest_neighbours_do(honest: Array, count: int, data: st.DataObject) -> None:
    """With equal weights the neighbours' pulls and the liars' cancel, so the receiver stays where it is."""
    h = len(honest)
    pairs = st.tuples(st.integers(0, h - 1), st.integers(0, h - 1)).filter(lambda pair: pair[0] != pair[1])
    links = tuple(data.draw(st.lists(pairs, max_size=8))) if h > 1 else ()
    receiver = data.draw(st.integers(0, h - 1))
    neighbours = sorted({a + b - receiver for a, b in links if receiver in (a, b)})
    rows = Dissensus(receiver, links).rows(honest, count).astype(float)
    pull = (honest[neighbours].astype(float) - honest[receiver]).sum(axis=0) + (rows - honest[receiver]).sum(axis=0)
    assert np.allclose(pull, 0, atol=near(honest) * 8)


def test_spectral_pushes_both_sides_of_a_bridge_apart() -> None:
    """Two triangles with one link between: each side is told what lies beyond itself, away from the other side."""
    links = ((0, 1), (1, 2), (0, 2), (3, 4), (4, 5), (3, 5), (2, 3))
    honest = np.array([[-1.0], [-1.0], [-1.0], [1.0], [1.0], [1.0]])
    for receiver in range(6):
        told = Spectral(receiver, links).rows(honest, 1)[0]
        assert np.sign(told - honest[receiver]) == np.sign(honest[receiver])
    assert np.array_equal(Spectral(0, links, epsilon=0.0).rows(honest, 1)[0], honest[0])


@pytest.mark.parametrize("make", [Dissensus, Spectral])
def test_who_is_not_there_can_be_told_nothing(make: type[Dissensus] | type[Spectral]) -> None:
    with pytest.raises(LocalError, match="no honest peer 3"):
        make(3).rows(np.zeros((3, 2)), 1)
    with pytest.raises(LocalError, match="no honest peer 9"):
        make(0, ((1, 9),)).rows(np.zeros((3, 2)), 1)


# ── settled against the rule ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("open_attack", [Alie(), Ipm(), MinMax(), MinSum()], ids=named)
@given(honest=HONEST, count=st.integers(1, 3))
def test_what_is_searched_for_moves_the_rule_at_least_as_far_as_what_the_papers_name(
    open_attack: Attack, honest: Array, count: int
) -> None:
    rule, mean = medians_with(honest), honest.mean(axis=0, dtype=float)

    def moved(attack: Attack) -> float:
        return float(np.linalg.norm(rule(attack.rows(honest, count)).astype(float) - mean))

    searched = open_attack.settle(honest, count, rule)
    tried = {
        Alie: [Alie(0.25 * 2**k) for k in range(7)],
        Ipm: [Ipm(0.1 * 2**k) for k in range(7)],
        MinMax: [MinMax(direction) for direction in DIRECTIONS],
        MinSum: [MinSum(direction) for direction in DIRECTIONS],
    }[type(open_attack)]
    assert moved(searched) >= max(moved(each) for each in tried) - near(honest)


def test_a_mean_is_moved_farther_the_larger_the_factor_and_a_median_is_not() -> None:
    honest = np.random.default_rng(1).normal(1.0, 0.3, size=(8, 30))
    against_mean = Ipm().settle(honest, 2, means_with(honest)).epsilon
    against_median = Alie().settle(honest, 2, medians_with(honest)).z
    assert against_mean is not None and against_mean > 6.4
    assert against_median is not None and against_median < 16


def test_a_rule_that_gives_no_number_is_not_thought_to_be_moved() -> None:
    honest = np.random.default_rng(1).normal(size=(5, 4))

    def rule(rows: Array) -> Array:
        return np.full(4, np.nan) if np.abs(rows).max() > 3 else means_with(honest)(rows)

    assert np.abs(Alie().rows(honest, 1, rule)).max() <= 3


# ── on data ──────────────────────────────────────────────────────────────────────────────────────────────────────────


LABELS = st.integers(2, 12).flatmap(
    lambda n: st.tuples(st.just(n), arrays(np.int64, st.integers(0, 9), elements=st.integers(0, n - 1)))
)


@given(LABELS)
def test_labels_flipped_twice_are_what_they_were(drawn: tuple[int, Array]) -> None:
    classes, labels = drawn
    inputs, before, flip = np.zeros((len(labels), 2)), labels.copy(), LabelFlip(classes)
    same, flipped = flip.poison(inputs, labels, np.random.default_rng(0))
    assert same is inputs and np.array_equal(labels, before)
    assert np.array_equal(flipped + labels, np.full(len(labels), classes - 1))
    assert np.array_equal(flip.poison(inputs, flipped, np.random.default_rng(0))[1], labels)


@given(part=st.floats(0, 1), m=st.integers(0, 20), seed=st.integers(0, 5))
def test_a_backdoor_teaches_its_target_where_its_trigger_is_and_nothing_elsewhere(
    part: float, m: int, seed: int
) -> None:
    inputs = np.random.default_rng(seed).uniform(0, 0.5, size=(m, 4, 4)).astype(np.float32)
    labels = np.arange(m) % 7 + 1
    inputs.flags.writeable = labels.flags.writeable = False
    attack = Backdoor(target=0, features=(0, 5), value=1.0, part=part)
    poisoned, taught = attack.poison(inputs, labels, np.random.default_rng(seed))
    changed = taught == 0
    assert changed.sum() == round(part * m) and poisoned.dtype == inputs.dtype
    assert np.array_equal(poisoned[~changed], inputs[~changed]) and np.array_equal(taught[~changed], labels[~changed])
    assert np.array_equal(poisoned[changed], attack.triggered(inputs[changed]))
    assert (poisoned[changed].reshape(-1, 16)[:, [0, 5]] == 1.0).all()


def test_data_that_an_attack_does_not_fit_is_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(LocalError, match="number of classes"):
        LabelFlip(3).poison(np.zeros((2, 1)), np.array([0, 3]), rng)
    with pytest.raises(LocalError, match="one label for each"):
        LabelFlip(3).poison(np.zeros((2, 1)), np.array([0]), rng)
    with pytest.raises(LocalError, match=r"0\.\.1"):
        Backdoor(features=(2,)).poison(np.zeros((4, 2)), np.zeros(4, dtype=int), rng)
    with pytest.raises(LocalError, match="part"):
        Backdoor(part=1.5)
    with pytest.raises(LocalError, match="target is -1"):
        Backdoor(target=-1)
    with pytest.raises(LocalError, match="labels are an array, not list"):
        LabelFlip(3).poison(np.zeros((2, 1)), [0, 1], rng)  # type: ignore[arg-type]
    with pytest.raises(LocalError, match="inputs are an array, not list"):
        LabelFlip(3).poison([[0.0], [1.0]], np.array([0, 1]), rng)  # type: ignore[arg-type]
    with pytest.raises(LocalError, match="whole numbers, not float64"):
        LabelFlip(3).poison(np.zeros((2, 1)), np.array([0.0, 1.0]), rng)
    with pytest.raises(LocalError, match="uint8 can't hold 299"):
        LabelFlip(300).poison(np.zeros((2, 1)), np.array([0, 1], np.uint8), rng)
    with pytest.raises(LocalError, match="uint8 can't hold 256"):
        Backdoor(target=256, features=(0,)).poison(np.zeros((2, 1)), np.array([0, 1], np.uint8), rng)
    for value in (0.5, -1.0, 256.0, float("nan")):
        with pytest.raises(LocalError, match="uint8 can't hold the trigger's"):
            Backdoor(features=(0,), value=value).triggered(np.zeros((2, 1), np.uint8))


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int32, np.int64])
def test_labels_and_pictures_of_small_whole_numbers_stay_of_their_type(dtype: type) -> None:
    labels, inputs, rng = np.array([0, 9, 4], dtype), np.zeros((3, 2), np.uint8), np.random.default_rng(0)
    flipped = LabelFlip().poison(inputs, labels, rng)[1]
    assert flipped.tolist() == [9, 0, 5] and flipped.dtype == dtype
    shown, taught = Backdoor(target=7, features=(1,), value=255, part=1.0).poison(inputs, labels, rng)
    assert shown.tolist() == [[0, 255]] * 3 and taught.tolist() == [7] * 3
    assert shown.dtype == np.uint8 and taught.dtype == dtype


# ── by name ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_attack_is_listed_with_its_source_and_parameters() -> None:
    listed = {known.name: known for known in attacks()}
    assert {each.name for each in EVERY} | {"label_flip", "backdoor"} == set(listed)
    assert all(known.source for known in listed.values()) and len(listed) == len(attacks())
    assert {known.name for known in listed.values() if known.on == "models"} == {"dissensus", "spectral"}
    assert listed["alie"].parameters == {"z": None} and listed["label_flip"].on == "data"


@pytest.mark.parametrize("made", EVERY, ids=named)
def test_an_attack_is_had_by_its_name(made: Attack) -> None:
    assert attack(made.name) == made


def test_an_attack_is_had_with_parameters() -> None:
    assert attack("ipm", epsilon=0.5) == replace(Ipm(), epsilon=0.5)


@pytest.mark.parametrize(
    ("name", "parameters", "said"),
    [
        ("alei", {}, "did you mean 'alie'"),
        ("min-max", {}, "did you mean 'min_max'"),
        ("zzz", {}, "choose alie, ipm, .*, dissensus, spectral$"),
        ("label-flip", {}, "did you mean 'label_flip'"),
        (None, {}, "by its name, not by NoneType; choose alie"),
        (["alie"], {}, "by its name, not by list; choose alie"),
        ("nan", {"prat": 0.5}, "did you mean 'part'"),
        ("sign_flip", {"x": 1.0}, "has no parameter 'x'; choose scale"),
        ("label_flip", {}, "on data"),
        ("ipm", {"epsilno": 1.0}, "did you mean 'epsilon'"),
        ("min_max", {"direction": "up"}, "deviation, mean, sign"),
        ("nan", {"part": 0.0}, r"\(0, 1\]"),
    ],
)
def test_a_wrong_name_is_told_the_nearest_right_one(name: str, parameters: dict[str, Any], said: str) -> None:
    with pytest.raises(LocalError, match=said):
        attack(name, **parameters)


def test_a_copy_of_nobody_is_refused() -> None:
    with pytest.raises(LocalError, match="0 to 2"):
        Mimic(3).rows(np.zeros((3, 2)), 1)


def test_whom_an_attack_is_about_is_a_whole_number_and_what_it_tells_another_attacks() -> None:
    with pytest.raises(LocalError, match=r"target is a whole number, not 1\.0"):
        attack("mimic", target=1.0).rows(np.zeros((3, 2)), 1)
    with pytest.raises(LocalError, match="whole number, not 'a'"):
        attack("dissensus", receiver="a").rows(np.zeros((3, 2)), 1)
    with pytest.raises(LocalError, match="hand in one, not 'ipm'"):
        attack("equivocation", of="ipm")


@pytest.mark.parametrize("made", [np.zeros(3), 1.0, aggregate(np.zeros((5, 2)), "median", 1)], ids=["3", "1", "object"])
def test_a_rule_that_gives_no_update_is_refused(made: Any) -> None:
    with pytest.raises(LocalError, match=r"evaluate gives .* not an update of shape \(2,\); .*\.value"):
        Alie().rows(np.zeros((4, 2)), 1, lambda rows: made)
