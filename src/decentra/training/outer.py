"""The outer optimiser: what a round's mean does to the parameters that all peers share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from decentra.errors import LocalError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# 1 MiB of float32: the scratch of a step, small enough to stay in the second-level cache.
CHUNK = 1 << 18


@dataclass(frozen=True)
class OuterSGD:
    """SGD on pseudo-gradients, the same to the bit on every machine (DiLoCo, Douillard et al. 2023, algorithm 1).

    For each coordinate, with Δ the mean of (common − local) parameters, m the momentum, x the common parameter,
    and fl(·) one rounding to the nearest float32, ties to even, in exactly this order:

        without momentum (μ = 0)    with momentum        with Nesterov momentum
                                    m ← fl(μ·m)          m ← fl(μ·m)
                                    m ← fl(m + Δ)        m ← fl(m + Δ)
                                                         s ← fl(μ·m)
                                                         s ← fl(Δ + s)
        s ← fl(lr·Δ)                s ← fl(lr·m)         s ← fl(lr·s)
        x ← fl(x − s)               x ← fl(x − s)        x ← fl(x − s)

    lr and μ are first rounded to float32. lr = 1 and μ = 0 is plain averaging of the peers' parameters.

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
        if not (math.isfinite(self.lr) and 0 < np.float32(self.lr) < np.inf):
            raise LocalError(f"the outer learning rate is {self.lr}: set the charter's outer_lr to a number above 0")
        if not 0 <= np.float32(self.momentum) < 1:
            raise LocalError(f"the outer momentum is {self.momentum}: set the charter's outer_momentum to 0 ≤ μ < 1")

    @property
    def keeps_momentum(self) -> bool:
        """Whether a step needs a momentum array beside the parameters."""
        return bool(np.float32(self.momentum) != 0)

    def step(
        self, common: NDArray[np.float32], momentum: NDArray[np.float32] | None, update: NDArray[np.float32]
    ) -> None:
        """Apply one round's mean in place.

        Args:
            common: x, float32, one dimension; changed.
            momentum: m, float32, as long as x, changed; None exactly where `keeps_momentum` is False.
            update: Δ, float32, as long as x; only read.

        Raises:
            LocalError: the arrays do not fit each other, or this thread's floating point is not IEEE's.
        """
        lengths = {array.shape for array in (common, update, momentum) if array is not None}
        if len(lengths) != 1 or common.ndim != 1 or (momentum is None) == self.keeps_momentum:
            raise LocalError("an outer step takes one-dimensional arrays of one length, with momentum only where μ > 0")
        refuse_flushing()
        lr, mu = np.float32(self.lr), np.float32(self.momentum)
        scratch = np.empty(min(CHUNK, common.size), np.float32)
        with np.errstate(over="ignore", under="ignore"):
            for start in range(0, common.size, CHUNK):
                part = slice(start, start + CHUNK)
                x, delta = common[part], update[part]
                s = scratch[: x.size]
                if momentum is None:
                    np.multiply(delta, lr, out=s)
                else:
                    m = momentum[part]
                    np.multiply(m, mu, out=m)
                    np.add(m, delta, out=m)
                    if self.nesterov:
                        np.multiply(m, mu, out=s)
                        np.add(delta, s, out=s)
                        np.multiply(s, lr, out=s)
                    else:
                        np.multiply(m, lr, out=s)
                np.subtract(x, s, out=x)


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
