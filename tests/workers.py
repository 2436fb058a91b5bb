"""Workers that train one small model by distributed SGD with momentum, some of them liars: ByzFL's protocol.

Each honest worker keeps a momentum m ← βm + (1 − β)(g + λθ) of gradients on batches of its own examples and sends it; a
liar sends what its attack makes of the honest ones; all move by one rule: θ ← θ − lr · F(m_1 … m_n). So does ByzFL's
benchmark (byzfl 0.0.11, ``benchmark.default_config``, ``fed_framework.client``), whose constants these are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decentra.robust.attacks import Attack, Mimic, Poisoning

Array = NDArray[Any]
Rule = Callable[[Array, Array], Array]
"""What all make of the rows that were sent, and of the aggregate before it; shapes (n, d) and (d,) to (d,)."""

RATE, DECAY, MOMENTUM, BATCH, STEPS = 0.1, 1e-4, 0.9, 25, 800
SETTLE_EVERY = 10
"""Steps that an attack's factor is kept before it is searched for anew: momenta of 0.9 change as slowly."""


CLASSES, HIDDEN = 10, 32


@dataclass(frozen=True)
class Digits:
    """Pictures of digits, float32 of shape (m, pixels), and which they are: those to learn from, and the test's."""

    inputs: Array
    labels: Array
    test_inputs: Array
    test_labels: Array

    @classmethod
    def split(cls, pictures: Array, labels: Array, tested: int) -> Digits:
        """Keep the last ``tested`` of each digit, in the order given, for the test; standardise by what is learned."""
        held = np.concatenate([np.flatnonzero(labels == digit)[-tested:] for digit in range(CLASSES)])
        learned = np.setdiff1d(np.arange(len(labels)), held)
        mean, deviation = pictures[learned].mean(), pictures[learned].std()
        inputs = ((pictures - mean) / deviation).astype(np.float32)
        return cls(inputs[learned], labels[learned], inputs[held], labels[held])


class Model:
    """One hidden layer of rectifiers and a softmax, as a vector θ; gradients of many workers at once."""

    def __init__(self, pixels: int, hidden: int = HIDDEN) -> None:
        self._shapes = ((pixels, hidden), (hidden,), (hidden, CLASSES), (CLASSES,))
        self.d = sum(int(np.prod(shape)) for shape in self._shapes)

    def begin(self, rng: np.random.Generator) -> Array:
        """θ with weights of variance 2 / inputs (He et al. 2015), float32."""
        theta = np.zeros(self.d, dtype=np.float32)
        for part in self._parts(theta)[::2]:
            part[:] = rng.normal(0.0, np.sqrt(2 / len(part)), size=part.shape)
        return theta

    def gradients(self, theta: Array, inputs: Array, labels: Array) -> Array:
        """Of the mean cross-entropy of each worker's batch: (h, b, pixels) and (h, b) to (h, d)."""
        first, bias, second, other = self._parts(theta)
        h, b, _ = inputs.shape
        hidden = np.maximum(inputs @ first + bias, 0)
        errors = hidden @ second + other
        errors = np.exp(errors - errors.max(axis=2, keepdims=True))
        errors /= errors.sum(axis=2, keepdims=True)
        errors[np.arange(h)[:, None], np.arange(b), labels] -= 1
        errors /= b
        below = (errors @ second.T) * (hidden > 0)
        by_part = (
            inputs.transpose(0, 2, 1) @ below, below.sum(axis=1), hidden.transpose(0, 2, 1) @ errors, errors.sum(axis=1)
        )  # fmt: skip
        return np.concatenate([part.reshape(h, -1) for part in by_part], axis=1)

    def accuracy(self, theta: Array, inputs: Array, labels: Array) -> float:
        first, bias, second, other = self._parts(theta)
        guessed = np.argmax(np.maximum(inputs @ first + bias, 0) @ second + other, axis=1)
        return float((guessed == labels).mean())

    def _parts(self, theta: Array) -> list[Array]:
        parts, start = [], 0
        for shape in self._shapes:
            stop = start + int(np.prod(shape))
            parts.append(theta[start:stop].reshape(shape))
            start = stop
        return parts


def dirichlet(labels: Array, workers: int, alpha: float, rng: np.random.Generator) -> list[Array]:
    """Each digit's examples go to workers in parts drawn from a Dirichlet(α, …, α) (Hsu et al. 2019).

    It is drawn anew while somebody has less than a batch.
    """
    while True:
        silos: list[list[Array]] = [[] for _ in range(workers)]
        for digit in range(CLASSES):
            of_it = np.flatnonzero(labels == digit)
            cuts = np.cumsum(rng.dirichlet(np.full(workers, alpha)))[:-1]
            for silo, part in zip(silos, np.split(of_it, (cuts * len(of_it)).astype(int)), strict=True):
                silo.append(part)
        drawn = [np.concatenate(silo) for silo in silos]
        if min(map(len, drawn)) >= BATCH:
            return drawn


def similar(labels: Array, workers: int, gamma: float, rng: np.random.Generator) -> list[Array]:
    """A part γ of the examples is dealt out at random and the rest sorted by digit: 1 is i.i.d. (Karimireddy 2020)."""
    mixed = rng.permutation(len(labels))
    alike, rest = np.split(mixed, [int(gamma * len(mixed))])
    rest = rest[np.argsort(labels[rest], kind="stable")]
    both = zip(np.array_split(alike, workers), np.array_split(rest, workers), strict=True)
    return [np.concatenate(pair) for pair in both]


def train(
    digits: Digits,
    silos: Sequence[Array],
    rule: Rule,
    liars: int,
    attack: Attack | Poisoning | None,
    seed: int,
    steps: int = STEPS,
) -> float:
    """The accuracy on the test after some steps; without an attack the liars send nothing.

    Batches are drawn from a worker's examples with replacement. Mimic copies whom it chooses by the first gradients of
    whole silos, and liars that poison data have all examples to do it with. A model that is not finite any more is
    lost, and guesses zero.
    """
    rng, h = np.random.default_rng([seed, 1]), len(silos)
    model, inputs, labels = Model(digits.inputs.shape[1]), digits.inputs, digits.labels
    theta = model.begin(rng)
    if isinstance(attack, Mimic):
        whole = [model.gradients(theta, inputs[silo][None], labels[silo][None]) for silo in silos]
        attack = attack.settle(np.concatenate(whole), liars)
    elif isinstance(attack, Poisoning):
        falsified = attack.poison(inputs, labels, rng)
        silos = [*silos, *[np.arange(len(labels), 2 * len(labels))] * liars]
        inputs, labels = np.concatenate([inputs, falsified[0]]), np.concatenate([labels, falsified[1]])

    sent = np.zeros((h + (0 if attack is None else liars), model.d), dtype=np.float32)
    honest, trained = sent[:h], sent[: len(silos)]
    aggregate = np.zeros(model.d, dtype=np.float32)

    def tried(rows: Array) -> Array:
        sent[h:] = rows
        return rule(sent, aggregate)

    with np.errstate(over="ignore", invalid="ignore"):
        for step in range(steps):
            batch = _batch(silos, rng)
            gradients = model.gradients(theta, inputs[batch], labels[batch]) + np.float32(DECAY) * theta
            trained *= np.float32(MOMENTUM)
            trained += np.float32(1 - MOMENTUM) * gradients
            if not np.isfinite(trained).all():
                break
            if isinstance(attack, Attack):
                if step % SETTLE_EVERY == 0:
                    settled = attack.settle(honest, liars, tried)
                sent[h:] = settled.rows(honest, liars, rng=rng)
            aggregate = np.array(rule(sent, aggregate), dtype=np.float32)
            theta -= np.float32(RATE) * aggregate
        return model.accuracy(theta, digits.test_inputs, digits.test_labels)


def _batch(silos: Sequence[Array], rng: np.random.Generator) -> Array:
    """Places of a batch of each worker, (workers, ``BATCH``)."""
    drawn = rng.random((len(silos), BATCH))
    return np.stack([silo[(places * len(silo)).astype(int)] for silo, places in zip(silos, drawn, strict=True)])
