"""Training with liars among the workers, on real digits: a robust rule keeps what the mean loses."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from decentra.robust import aggregate
from decentra.robust.attacks import Backdoor, LabelFlip, Nan, attack
from workers import BATCH, Digits, Model, dirichlet, similar, train

HONEST, LIARS = 8, 2
STEPS, SEEDS = 200, (0, 1)
POINTS = 0.03
ATTACKS = ("alie", "ipm", "sign_flip", "mimic", "min_max")
ROBUST = "nnm+trimmed_mean"


@cache
def digits() -> Digits:
    """The 1,797 pictures of 8 × 8 that come with scikit-learn, 40 of each digit for the test."""
    pictures, labels = load_digits(return_X_y=True)
    return Digits.split(pictures, labels, tested=40)


def aggregated(rule: str, rows: NDArray[Any], before: NDArray[Any]) -> NDArray[Any]:
    value: NDArray[Any] = aggregate(rows, rule, LIARS).value
    return value


@cache
def accuracy(rule: str, against: str | None) -> float:
    """What 8 workers, their data dealt out at random, come to beside two liars, if there are any; mean of seeds."""

    def once(seed: int) -> float:
        silos = similar(digits().labels, HONEST, 1.0, np.random.default_rng([seed, 0]))
        return train(digits(), silos, partial(aggregated, rule), LIARS, against and attack(against), seed, STEPS)

    return float(np.mean([once(seed) for seed in SEEDS]))


@pytest.mark.parametrize("against", ATTACKS)
def test_two_liars_of_ten_cost_nnm_before_the_trimmed_mean_three_points_at_most(against: str) -> None:
    assert accuracy("mean", None) > 0.85
    assert accuracy(ROBUST, against) >= accuracy("mean", None) - POINTS


@pytest.mark.parametrize("against", ["alie", "ipm"])
def test_the_mean_fails_where_they_choose_how_far_they_go(against: str) -> None:
    assert accuracy("mean", against) < accuracy("mean", None) - 5 * POINTS


def test_rows_that_are_no_numbers_cost_a_robust_rule_nothing_and_the_mean_is_not_robust() -> None:
    silos = similar(digits().labels, HONEST, 1.0, np.random.default_rng(0))
    left = train(digits(), silos, partial(aggregated, ROBUST), LIARS, Nan(), 0, 50)
    assert left >= train(digits(), silos, partial(aggregated, ROBUST), LIARS, None, 0, 50) - POINTS
    plain = partial(np.mean, axis=0)
    assert train(digits(), silos, lambda rows, before: plain(rows), LIARS, Nan(), 0, 50) < 0.2


def test_flipped_labels_cost_a_robust_rule_little() -> None:
    silos = similar(digits().labels, HONEST, 1.0, np.random.default_rng(0))
    assert train(digits(), silos, partial(aggregated, ROBUST), LIARS, LabelFlip(), 0, STEPS) > 0.85


def test_a_backdoor_opens_under_the_mean() -> None:
    """The trigger works: what is taught with it is learned, and only by who was taught."""
    trigger = Backdoor(target=0, features=(0, 7, 56), value=5.0, part=1.0)
    silos = similar(digits().labels, HONEST, 1.0, np.random.default_rng(0))
    others = digits().test_labels != 0
    shown = trigger.triggered(digits().test_inputs[others])
    told = Digits(digits().inputs, digits().labels, shown, np.zeros(int(others.sum()), dtype=np.int64))
    opened = train(told, silos, partial(aggregated, "mean"), LIARS, trigger, 0, STEPS)
    closed = train(told, silos, partial(aggregated, "mean"), LIARS, None, 0, STEPS)
    assert opened > 0.9 and closed < 0.2


# ── what the figures rest on ─────────────────────────────────────────────────────────────────────────────────────────


def test_gradients_are_those_of_the_loss() -> None:
    model, rng = Model(3, hidden=4), np.random.default_rng(0)
    theta = model.begin(rng).astype(np.float64)
    inputs, labels = rng.normal(size=(2, 5, 3)), rng.integers(0, 10, size=(2, 5))

    def loss(theta: NDArray[Any], worker: int) -> float:
        first, bias, second, other = model._parts(theta)
        scores = np.maximum(inputs[worker] @ first + bias, 0) @ second + other
        scores -= np.log(np.exp(scores).sum(axis=1, keepdims=True))
        return float(-scores[np.arange(5), labels[worker]].mean())

    gradients = model.gradients(theta, inputs, labels)
    for index in range(model.d):
        step = np.zeros(model.d)
        step[index] = 1e-6
        for worker in range(2):
            slope = (loss(theta + step, worker) - loss(theta - step, worker)) / 2e-6
            assert abs(slope - gradients[worker, index]) < 1e-6


@pytest.mark.parametrize("alpha", [0.5, 1.0, 100.0])
def test_a_dirichlet_split_deals_everything_out_once(alpha: float) -> None:
    labels = digits().labels
    silos = dirichlet(labels, HONEST, alpha, np.random.default_rng(0))
    assert np.array_equal(np.sort(np.concatenate(silos)), np.arange(len(labels)))
    assert min(map(len, silos)) >= BATCH


@pytest.mark.parametrize("gamma", [0.0, 0.33, 1.0])
def test_a_similar_split_deals_everything_out_once_and_shares_as_much_as_it_says(gamma: float) -> None:
    labels = digits().labels
    silos = similar(labels, HONEST, gamma, np.random.default_rng(0))
    assert np.array_equal(np.sort(np.concatenate(silos)), np.arange(len(labels)))
    most = np.mean([np.bincount(labels[silo]).max() / len(silo) for silo in silos])
    assert (most > 0.6) == (gamma == 0.0) and (most < 0.25) == (gamma == 1.0)


def test_a_run_is_the_same_again() -> None:
    silos = similar(digits().labels, HONEST, 1.0, np.random.default_rng(0))
    first, again = (
        train(digits(), silos, partial(aggregated, ROBUST), LIARS, attack("alie"), 3, 30) for _ in range(2)
    )
    assert first == again
