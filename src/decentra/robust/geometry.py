"""The Gram matrix of updates, and what can be read from one.

``torch.cdist`` in float32 is wrong for models that lie near one another, and an uncentred Gram matrix gives negative
squares. Here rows are taken relative to one of them, products of a block are summed in the updates' own precision and
blocks in float64. That tells distances well wherever they are not tiny beside the distance to that one row. Where they
are, as when somebody put that row far away, or where squares leave the range of the type, it is done over in float64
about the coordinate-wise median, which no minority moves out of the others' range.

On small matrices everything is one IEEE operation at a time in a fixed order, so that whoever has the same matrix
comes to the same weights, on any machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decentra.robust.coordinates import Median, mean
from decentra.robust.rows import Rows
from decentra.robust.rule import Gram

BLOCKS_A_TASK = 16
"""Blocks whose products are summed by one thread: sums are taken in the same order however many threads there are."""

_TELLING = 2.0**-10
"""The least share that a distance may have of the products that it is the difference of: with what rounding leaves of
24 bits in a block's sum, it is then known to about a thousandth."""
_DOUBLED = 2.0**-20
"""The same share, where numbers are float64: a distance is then known to ten digits."""


class Gramian:
    """A Gram matrix in the making.

    Attributes:
        gram: (n, n), float64.
        scale: what the updates were multiplied with, a power of two, so that no square overflows.
    """

    def __init__(self, rows: Rows, executor: Executor | None = None) -> None:
        self._rows, self._executor = rows, executor
        self.scale = 1.0
        self.gram = self._sum(inner_products, about_first=True)
        if rows.n > 1 and not self._telling():
            self._again()

    def _sum(self, inner: Callable[[NDArray[Any]], Gram], about_first: bool = False) -> Gram:
        """The sum of a block's products over all blocks."""
        rows, blocks = self._rows, list(self._rows.blocks())
        first = rows.chosen([0])

        def task(start: int) -> Gram:
            total = np.zeros((rows.n, rows.n))
            room = np.empty((rows.n, rows.columns), rows.dtype)
            for low, high in blocks[start : start + BLOCKS_A_TASK]:
                block, middle = room[:, : high - low], None
                if about_first:
                    middle = np.empty((1, high - low), rows.dtype)
                    first.fill(middle, low)
                with np.errstate(all="ignore"):
                    rows.fill(block, low, None if middle is None else middle[0])
                    total += inner(block)
            return total

        gram = np.zeros((rows.n, rows.n))
        starts = range(0, len(blocks), BLOCKS_A_TASK)
        for part in map(task, starts) if self._executor is None else self._executor.map(task, starts):
            gram += part
        return np.asarray((gram + gram.T) / 2)

    def _telling(self) -> bool:
        """Whether the matrix tells near rows apart: half of all distances lie well above what rounding may hide."""
        gram, single = self.gram, self._rows.dtype == np.float32
        squares = np.diagonal(gram)
        if not np.isfinite(gram).all():
            return False
        largest = float(squares.max())
        if not (1e-25 if single else 1e-280) < largest < (1e35 if single else 1e300):
            return not self._differs() if largest == 0 else False
        share = _TELLING if single else _DOUBLED
        doubt = share * (squares[:, None] + squares[None, :])
        apart = ~np.eye(len(gram), dtype=np.bool_)
        near = np.sort(np.where(apart, squared_distances(gram) - doubt, np.inf), axis=1)
        return bool((near[:, (len(gram) - 1) // 2 - (len(gram) == 2)] > 0).all())

    def _differs(self) -> bool:
        """Whether any two rows differ at all."""
        rows = self._rows
        room = np.empty((rows.n, rows.columns), rows.dtype)
        for low, high in rows.blocks():
            block = room[:, : high - low]
            rows.fill(block, low)
            if (block[1:] != block[0]).any():
                return True
        return False

    def _again(self) -> None:
        """Once more, in float64, about the median, and at a scale at which the largest number is about one."""
        rows, largest = self._rows, 0.0
        room = np.empty((rows.n, rows.columns), rows.dtype)
        for low, high in rows.blocks():
            block = room[:, : high - low]
            rows.fill(block, low)
            largest = max(largest, float(block.max(initial=0.0)), -float(block.min(initial=0.0)))
        if not 1e-120 < largest < 1e120:
            self.scale = math.ldexp(1.0, -max(-1000, min(1000, math.frexp(largest)[1]))) if largest else 1.0

        def about_median(block: NDArray[Any]) -> Gram:
            block = np.multiply(block, self.scale, dtype=np.float64)
            middle = np.empty(block.shape[1])
            mean(Median().select(block.copy(), 0), True, middle)
            np.subtract(block, middle, out=block)
            return inner_products(block)

        self.gram = self._sum(about_median)


def strips(n: int, width: int) -> Iterator[slice]:
    """Columns in strips whose products with or among n rows a linear algebra library leaves to one thread.

    OpenBLAS does so up to 2^18 multiplications; what it cuts up further comes out in other last bits by the number of
    cores. In strips it does not, and sums in float32 are short.
    """
    step = max(16, (1 << 18) // (n * n) // 16 * 16)
    for low in range(0, width, step):
        yield slice(low, low + step)


def inner_products(block: NDArray[Any]) -> Gram:
    """The inner products of a block's rows, (n, n), float64, summed over strips in float64."""
    total = np.zeros((len(block), len(block)))
    for strip in strips(len(block), block.shape[1]):
        total += block[:, strip] @ block[:, strip].T
    return total


def mix_rows(mixtures: NDArray[Any], block: NDArray[Any]) -> NDArray[Any]:
    """Mixtures of a block's rows: (m, n) times (n, width), of the block's dtype."""
    made = np.empty((len(mixtures), block.shape[1]), block.dtype)
    for strip in strips(len(block), block.shape[1]):
        np.matmul(mixtures, block[:, strip], out=made[:, strip])
    return made


def squared_distances(gram: Gram) -> Gram:
    """‖x_i − x_j‖² from inner products: (n, n), not negative, symmetric, zeros on the diagonal."""
    squares = np.diagonal(gram)
    squared = np.maximum(squares[:, None] + squares[None, :] - 2 * gram, 0.0)
    np.fill_diagonal(squared, 0.0)
    return np.asarray(squared)


def about(gram: Gram, index: int) -> Gram:
    """The inner products of x_i − x_k for row k: (n, n)."""
    column = gram[:, index]
    return np.asarray(gram - column[:, None] - column[None, :] + gram[index, index])


def distances_to(gram: Gram, weights: NDArray[Any]) -> NDArray[Any]:
    """‖x_i − z‖ for the point z = Σ w_i x_i, Σ w_i = 1: (n,). About a row near z no far one drowns the others."""
    towards = ordered_matmul(gram, weights)
    squares = np.diagonal(gram) - 2 * towards + math.fsum(weights * towards)
    return np.asarray(np.sqrt(np.maximum(squares, 0.0)))


def ordered_matmul(one: NDArray[Any], other: NDArray[Any]) -> NDArray[Any]:
    """A matrix product in a fixed order of sums, unlike a library's: (m, k) times (k, n) or (k,)."""
    total = np.zeros((one.shape[0], *other.shape[1:]))
    for index in range(one.shape[1]):
        column = one[:, index]
        total += column.reshape(-1, *[1] * (other.ndim - 1)) * other[index]
    return total


def gram_of_mixtures(gram: Gram, mixtures: NDArray[Any]) -> Gram:
    """The inner products of mixtures of rows: M G Mᵀ."""
    whole = ordered_matmul(ordered_matmul(mixtures, gram), np.ascontiguousarray(mixtures.T))
    return np.asarray((whole + whole.T) / 2)


def ranked(scores: NDArray[Any]) -> list[int]:
    """Indices by (score, index): rows come in the order of their ids, so that ties are broken by these."""
    return [int(index) for index in np.argsort(scores, kind="stable")]


def equal_weights(chosen: list[int], n: int) -> NDArray[Any]:
    """1/m for each of m rows, 0 for the others."""
    weights = np.zeros(n)
    weights[chosen] = 1.0 / len(chosen)
    return weights
