"""The outer optimisers: what a round's mean does to the parameters that all peers share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Protocol

import numpy as np

from decentra.errors import LocalError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# 1 MiB of float32: the scratch of a step, small enough to stay in the second-level cache.
CHUNK = 1 << 18


class Outer(Protocol):
    """An outer optimiser, the same to the bit on every machine: IEEE +, −, ×, ÷ and √ on float32, one at a time."""

    @property
    def slots(self) -> int:
        """How many arrays a step needs beside the parameters, each as long as they are."""
        ...

    def begin(self, slots: Sequence[NDArray[np.float32]]) -> None:
        """Fill the arrays as they are before the first step."""
        ...

    def can_hold(self, slots: Sequence[NDArray[np.float32]]) -> bool:
        """Whether arrays of finite numbers, from another peer, are such as steps come to."""
        ...

    def step(
        self, common: NDArray[np.float32], slots: Sequence[NDArray[np.float32]], update: NDArray[np.float32]
    ) -> None:
        """Apply one round's mean in place.

        Args:
            common: x, float32, one dimension; changed.
            slots: `slots` arrays as long as x; changed.
            update: Δ, float32, as long as x; only read.

        Raises:
            LocalError: the arrays do not fit each other, or this thread's floating point is not IEEE's.
        """
        ...


class Terms(Protocol):
    """What a charter says of the outer optimiser, for all tensors or for those of one pattern; None is the default."""

    @property
    def outer(self) -> str | None:
        """``sgd``, the default, or ``adam``."""
        ...

    @property
    def outer_lr(self) -> float:
        """The outer learning rate."""
        ...

    @property
    def outer_momentum(self) -> float:
        """The outer momentum μ; in Adam β₁."""
        ...

    @property
    def nesterov(self) -> bool:
        """Whether the momentum of SGD is Nesterov's."""
        ...

    @property
    def outer_beta2(self) -> float | None:
        """β₂ of Adam, 0.99 by default."""
        ...

    @property
    def outer_tau(self) -> float | None:
        """τ of Adam, 0.001 by default."""
        ...


class TensorTerms(Protocol):
    """What a charter says of the tensors of one pattern, where that differs from all others; None where it doesn't."""

    @property
    def outer_lr(self) -> float | None: ...

    @property
    def outer_momentum(self) -> float | None: ...


def _check_rates(lr: float, momentum: float) -> None:
    if not (math.isfinite(lr) and 0 < np.float32(lr) < np.inf):
        raise LocalError(f"the outer learning rate is {lr}: set the charter's outer_lr to a number above 0")
    if not 0 <= np.float32(momentum) < 1:
        raise LocalError(f"the outer momentum is {momentum}: set the charter's outer_momentum to 0 ≤ μ < 1")


@dataclass(frozen=True)
class OuterSGD:
    """SGD on pseudo-gradients (DiLoCo, Douillard et al. 2023, algorithm 1).

    For each coordinate, with Δ the mean of (common − local) parameters, m the momentum, x the common parameter,
    and fl(·) one rounding to the nearest float32, ties to even, in exactly this order:

        without momentum (μ = 0)    with momentum        with Nesterov momentum
                                    m ← fl(μ·m)          m ← fl(μ·m)
                                    m ← fl(m + Δ)        m ← fl(m + Δ)
                                                         s ← fl(μ·m)
                                                         s ← fl(Δ + s)
        s ← fl(lr·Δ)                s ← fl(lr·m)         s ← fl(lr·s)
        x ← fl(x − s)               x ← fl(x − s)        x ← fl(x − s)

    lr and μ are first rounded to float32. lr = 1 and μ = 0 is plain averaging of the peers' parameters (local SGD).

    Attributes:
        lr: the outer learning rate, above 0.
        momentum: μ, 0 ≤ μ < 1.
        nesterov: look ahead by μ·m, as DiLoCo does.

    Raises:
        LocalError: a number outside its range.
    """

    lr: float
    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        _check_rates(self.lr, self.momentum)

    @property
    def slots(self) -> int:
        """The momentum, where μ > 0."""
        return int(np.float32(self.momentum) != 0)

    def begin(self, slots: Sequence[NDArray[np.float32]]) -> None:
        for slot in slots:
            slot.fill(0)

    def can_hold(self, slots: Sequence[NDArray[np.float32]]) -> bool:
        return True

    def step(
        self, common: NDArray[np.float32], slots: Sequence[NDArray[np.float32]], update: NDArray[np.float32]
    ) -> None:
        _check_arrays(self, common, slots, update)
        lr, mu = np.float32(self.lr), np.float32(self.momentum)
        scratch = np.empty(min(CHUNK, common.size), np.float32)
        with np.errstate(over="ignore", under="ignore"):
            for start in range(0, common.size, CHUNK):
                part = slice(start, start + CHUNK)
                x, delta = common[part], update[part]
                s = scratch[: x.size]
                if not slots:
                    np.multiply(delta, lr, out=s)
                else:
                    m = slots[0][part]
                    np.multiply(m, mu, out=m)
                    np.add(m, delta, out=m)
                    if self.nesterov:
                        np.multiply(m, mu, out=s)
                        np.add(delta, s, out=s)
                        np.multiply(s, lr, out=s)
                    else:
                        np.multiply(m, lr, out=s)
                np.subtract(x, s, out=x)


@dataclass(frozen=True)
class OuterAdam:
    """Adam on pseudo-gradients (FedAdam; Reddi et al. 2021, "Adaptive federated optimization", algorithm 2).

    For each coordinate, with Δ the mean of (common − local) parameters, first m = 0 and v = fl(τ·τ), in this order:

        m ← fl(β₁·m)           v ← fl(β₂·v)               s ← fl(√v)
        s ← fl(fl(1−β₁)·Δ)     s ← fl(Δ·Δ)                s ← fl(s + τ)
        m ← fl(m + s)          s ← fl(fl(1−β₂)·s)         s ← fl(m ÷ s)
                               v ← fl(v + s)              s ← fl(lr·s)
                                                          x ← fl(x − s)

    As in the paper there is no bias correction: τ keeps first steps small.

    Attributes:
        lr: the outer learning rate, above 0.
        beta1: 0 ≤ β₁ < 1.
        beta2: 0 ≤ β₂ < 1.
        tau: τ, above 0: how far the method adapts; a larger one is closer to SGD.

    Raises:
        LocalError: a number outside its range.
    """

    lr: float
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3

    def __post_init__(self) -> None:
        _check_rates(self.lr, self.beta1)
        if not 0 <= np.float32(self.beta2) < 1:
            raise LocalError(f"β₂ of the outer Adam is {self.beta2}: set the charter's outer_beta2 to 0 ≤ β₂ < 1")
        if not (math.isfinite(self.tau) and 0 < np.float32(self.tau) * np.float32(self.tau) < np.inf):
            raise LocalError(f"τ of the outer Adam is {self.tau}: set the charter's outer_tau to a number above 0")

    @property
    def slots(self) -> int:
        """m and v."""
        return 2

    def begin(self, slots: Sequence[NDArray[np.float32]]) -> None:
        m, v = slots
        m.fill(0)
        v.fill(np.float32(self.tau) * np.float32(self.tau))

    def can_hold(self, slots: Sequence[NDArray[np.float32]]) -> bool:
        return not slots[1].size or bool(slots[1].min() >= 0)

    def step(
        self, common: NDArray[np.float32], slots: Sequence[NDArray[np.float32]], update: NDArray[np.float32]
    ) -> None:
        _check_arrays(self, common, slots, update)
        lr, tau = np.float32(self.lr), np.float32(self.tau)
        decays = tuple((np.float32(beta), np.float32(1) - np.float32(beta)) for beta in (self.beta1, self.beta2))
        scratch = np.empty(min(CHUNK, common.size), np.float32)
        with np.errstate(over="ignore", under="ignore"):
            for start in range(0, common.size, CHUNK):
                part = slice(start, start + CHUNK)
                x, delta, m, v = common[part], update[part], slots[0][part], slots[1][part]
                s = scratch[: x.size]
                np.multiply(m, decays[0][0], out=m)
                np.multiply(delta, decays[0][1], out=s)
                np.add(m, s, out=m)
                np.multiply(v, decays[1][0], out=v)
                np.multiply(delta, delta, out=s)
                np.multiply(s, decays[1][1], out=s)
                np.add(v, s, out=v)
                np.sqrt(v, out=s)
                np.add(s, tau, out=s)
                np.divide(m, s, out=s)
                np.multiply(s, lr, out=s)
                np.subtract(x, s, out=x)


PLAIN = OuterSGD(1.0)
"""The mean itself: of buffers, and of the first rounds where the charter warms up."""


def chosen(terms: Terms, tensors: Mapping[str, TensorTerms], name: str) -> Outer:
    """The outer optimiser of a tensor.

    Args:
        terms: those of all tensors.
        tensors: by a glob over names, terms that differ. Of those that fit the longest decides, and of equally long
            ones the last in the alphabet, as with ranges.

    Raises:
        LocalError: a number outside its range.
    """
    fitting = [pattern for pattern in tensors if fnmatchcase(name, pattern)]
    own = tensors[max(fitting, key=lambda pattern: (len(pattern), pattern))] if fitting else None
    lr = terms.outer_lr if own is None or own.outer_lr is None else own.outer_lr
    momentum = terms.outer_momentum if own is None or own.outer_momentum is None else own.outer_momentum
    if terms.outer != "adam":
        return OuterSGD(lr, momentum, terms.nesterov)
    numbers = {"beta2": terms.outer_beta2, "tau": terms.outer_tau}
    return OuterAdam(lr, momentum, **{name: value for name, value in numbers.items() if value is not None})


def _check_arrays(
    outer: Outer, common: NDArray[np.float32], slots: Sequence[NDArray[np.float32]], update: NDArray[np.float32]
) -> None:
    if {array.shape for array in (common, update, *slots)} != {common.shape[:1]} or len(slots) != outer.slots:
        raise LocalError(
            f"an outer step takes one-dimensional arrays of one length, and {outer.slots} of them beside the parameters"
        )
    refuse_flushing()


def refuse_flushing() -> None:
    """Refuse a thread that flushes subnormal numbers to zero: its peers would hold other bits.

    ``torch.set_flush_denormal(True)`` does that to numpy too, and so does loading a library built with -ffast-math.

    Raises:
        LocalError: half the smallest normal float32, doubled, is not that number again.
    """
    smallest = np.full(1, np.finfo(np.float32).smallest_normal, np.float32)
    with np.errstate(under="ignore"):
        doubled = (smallest * np.float32(0.5)) * np.float32(2)
    if doubled[0] != smallest[0]:
        raise LocalError(
            "this thread flushes subnormal numbers to zero, so its parameters would differ from its peers': "
            "call torch.set_flush_denormal(False) before training"
        )
