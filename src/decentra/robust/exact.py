"""Rules over integers, for peers that have to agree to the bit: no float decides anything that rounding could turn.

Updates come in fixed point, as a protocol carries them. Inner products and sums are exact; weights and mixtures come
from the exact Gram matrix by IEEE steps in a fixed order, are turned into small integers, and what they are applied to
stays integer until one last rounding. So the result depends on nothing but the updates: not on the machine, nor on its
linear algebra, nor on threads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decentra.errors import LocalError
from decentra.robust.catalogue import Composition, exact_rules, find, whole
from decentra.robust.geometry import about, mixed
from decentra.robust.rule import CoordinateRule, Gram, GramRule

COLUMNS = 1 << 14
"""Columns worked on at a time: n of them in int64 are 8 MiB at n = 64."""
HALF = 16
"""Bits of a half number: products of halves, and 2^14 of them, are far below 2^53, so that float64 sums are exact."""
PARTS = 1 << 16
"""The most that integer weights sum to."""


@dataclass(frozen=True)
class Exact:
    """What came of integer updates.

    Attributes:
        total: (d,), of the updates' dtype: n times the aggregate, rounded half to even. The unit is a sum's, so that it
            is read as the sum of n updates is.
        weights: the integer weight of each update; None for rules that look at each coordinate by itself.
    """

    total: NDArray[Any] = field(repr=False)
    weights: tuple[int, ...] | None


def aggregate(rows: Sequence[NDArray[Any]], rule: str, f: int) -> NDArray[Any]:
    """n times the aggregate of n integer updates, rounded half to even: what ``weigh`` gives, without the weights."""
    return weigh(rows, rule, f).total


def weigh(rows: Sequence[NDArray[Any]], rule: str, f: int) -> Exact:
    """Aggregate integer updates of which f may be false, the same on every machine.

    Args:
        rows: n updates, (d,) each, int16 or int32, in the order of their ids; they are not written to. n times any
            number in them is within the dtype.
        rule: a name of ``catalogue.exact_rules()``.
        f: how many may be false.

    Raises:
        LocalError: a rule that there is not, is not exact or does not fit n and f; rows of unlike lengths or dtypes.
    """
    composition = find(rule)
    if composition.why_not_alike is not None:
        raise LocalError(f"{composition.why_not_alike}; choose of {', '.join(exact_rules())}")
    f = whole("f", f)
    problem = composition.misfit(len(rows), f) if len(rows) else "there are no updates to aggregate"
    if problem is not None:
        raise LocalError(problem)
    if len({(row.shape, row.dtype) for row in rows}) != 1 or rows[0].dtype not in (np.int16, np.int32):
        raise LocalError("integer updates are of one length, and all int16 or all int32")
    n = len(rows)
    gram = _gram(rows, origin=composition.origin) if composition.needs_geometry else np.zeros((n, n))
    gram, mixtures, denominator = _mixed(composition, gram, f)
    total = np.empty_like(rows[0])
    if isinstance(composition.rule, CoordinateRule):
        _coordinates(rows, composition.rule, f, mixtures, denominator, total)
        return Exact(total, None)
    weights, parts = _weighed(composition.rule, gram, mixtures, denominator, f)
    for low, block in _blocks(rows):
        total[low : low + block.shape[1]] = _rounded(n * (weights @ block), parts)
    return Exact(total, tuple(int(weight) for weight in weights))


def weigh_gram(exact: Sequence[Sequence[int]], rule: str, f: int) -> tuple[tuple[int, ...], int]:
    """The weights that a rule gives updates of which only the inner products are known, as integers over one sum.

    Args:
        exact: (n, n), symmetric: Python integers, of any size that float64 holds.
        rule: a name of ``catalogue.exact_rules()`` of a rule that weighs whole updates about no origin.
        f: how many may be false.

    Raises:
        LocalError: another rule, or one that does not fit n and f; a matrix that is not square.
    """
    composition = find(rule)
    if composition.why_not_alike is not None:
        raise LocalError(f"{composition.why_not_alike}; choose of {', '.join(exact_rules())}")
    n, f = len(exact), whole("f", f)
    problem = composition.misfit(n, f) if n else "there are no updates to weigh"
    if problem is not None:
        raise LocalError(problem)
    if not isinstance(composition.rule, GramRule) or composition.origin:
        raise LocalError(f"{composition.name} gives no weights with a sum of 1 from inner products alone")
    if any(len(row) != n for row in exact):
        raise LocalError(f"inner products of {n} updates are {n} rows of {n}")
    gram = _about_central(np.array([[int(value) for value in row] for row in exact], dtype=object)).astype(np.float64)
    gram, mixtures, denominator = _mixed(composition, gram, f)
    weights, parts = _weighed(composition.rule, gram, mixtures, denominator, f)
    return tuple(int(weight) for weight in weights), parts


def _mixed(composition: Composition, gram: Gram, f: int) -> tuple[Gram, NDArray[Any], int]:
    """What the steps before a rule make: the inner products of the mixtures, these in integers, and their denominator.

    What is decided is of what is applied.
    """
    mixtures, denominator = np.eye(len(gram), dtype=np.int64), 1
    for step in composition.steps:
        counts, parts = _integers(step.mixtures(gram, f))
        gram = mixed(gram, counts / parts)
        mixtures, denominator = counts @ mixtures, denominator * parts
    return gram, mixtures, denominator


def _weighed(
    rule: GramRule, gram: Gram, mixtures: NDArray[Any], denominator: int, f: int
) -> tuple[NDArray[Any], int]:
    """A rule's weights of the updates that mixtures are made of, and what they are parts of."""
    weights, parts = _weights(rule.weights(gram, f))
    return weights @ mixtures, parts * denominator


def _blocks(rows: Sequence[NDArray[Any]]) -> Iterator[tuple[int, NDArray[Any]]]:
    """Columns of all rows in int64, and where they begin."""
    length = len(rows[0])
    room = np.empty((len(rows), min(COLUMNS, max(1, length))), np.int64)
    for low in range(0, length, COLUMNS):
        block = room[:, : min(COLUMNS, length - low)]
        for index, row in enumerate(rows):
            block[index] = row[low : low + COLUMNS]
        yield low, block


def _gram(rows: Sequence[NDArray[Any]], origin: bool) -> Gram:
    """Inner products, each rounded once from the exact integer: about zero, or about the row that half of all are
    nearest to, so that nobody can put others' distances below the last place by being far away.

    A difference of two rows is below 2^32 in magnitude. It is taken as two halves: their products summed over a block
    are exact in float64, whatever order a library sums in, and blocks are summed in Python's integers.
    """
    n = len(rows)
    exact = np.zeros((n, n), dtype=object)
    for _, block in _blocks(rows):
        if not origin:
            block -= block[0].copy()
        high = (block + (1 << (HALF - 1))) >> HALF
        low = (block - (high << HALF)).astype(np.float64)
        if high.any():
            upper = high.astype(np.float64)
            cross = _whole(upper @ low.T)
            exact += _whole(upper @ upper.T) * (1 << 2 * HALF) + (cross + cross.T) * (1 << HALF)
        exact += _whole(low @ low.T)
    return (exact if origin else _about_central(exact)).astype(np.float64)


def _about_central(exact: NDArray[Any]) -> NDArray[Any]:
    """Inner products in Python's integers about the row that half of all are nearest to."""
    squares = np.diagonal(exact)
    squared = squares[:, None] + squares[None, :] - 2 * exact
    n = len(exact)
    return about(exact, min(range(n), key=lambda index: (sum(sorted(squared[index])[: n // 2 + 1]), index)))


def _whole(products: NDArray[Any]) -> NDArray[Any]:
    """Exact float64 sums as Python's integers."""
    return products.astype(np.int64).astype(object)


def _integers(mixtures: NDArray[Any]) -> tuple[NDArray[Any], int]:
    """Mixtures as integers over one denominator: exactly, where shares are of as many as there are rows or fewer, and
    otherwise rounded down, so that nothing that was clipped is longer for it."""
    for parts in range(1, mixtures.shape[1] + 1):
        whole = np.rint(mixtures * parts)
        if np.abs(whole - mixtures * parts).max() < 1e-9:
            return whole.astype(np.int64), parts
    return np.floor(mixtures * (PARTS // 2)).astype(np.int64), PARTS // 2


def _weights(weights: NDArray[Any]) -> tuple[NDArray[Any], int]:
    """Weights as integers with a sum of at most 2^16, equal ones equal, and that sum."""
    if not np.isfinite(weights).all() or weights.min() < 0 or not weights.max() > 0:
        raise LocalError("weights that are none, below 0 or not finite; a defect of the rule")
    whole = np.rint(weights / weights.max() * (PARTS // len(weights))).astype(np.int64)
    return whole, int(whole.sum())


def _coordinates(
    rows: Sequence[NDArray[Any]],
    rule: CoordinateRule,
    f: int,
    mixtures: NDArray[Any],
    denominator: int,
    total: NDArray[Any],
) -> None:
    plain = denominator == 1 and np.array_equal(mixtures, np.eye(len(rows), dtype=np.int64))
    for low, block in _blocks(rows):
        picked = rule.select(block if plain else mixtures @ block, f)
        summed = picked[0].copy()
        for row in picked[1:]:
            np.add(summed, row, out=summed)
        total[low : low + block.shape[1]] = _rounded(len(rows) * summed, len(picked) * denominator)


def _rounded(numerator: NDArray[Any], denominator: int) -> NDArray[Any]:
    """numerator / denominator, rounded half to even; int64, denominator above 0."""
    if denominator == 1:
        return numerator
    below, rest = np.divmod(numerator, denominator)
    twice = 2 * rest
    return np.asarray(below + ((twice > denominator) | ((twice == denominator) & (below & 1 == 1))))

