"""Rules over integers, for peers that have to agree to the bit: no float decides anything that rounding could turn.

Updates come in fixed point, as a protocol carries them. Inner products and sums are exact; weights and mixtures come
from the exact Gram matrix by IEEE steps in a fixed order, are turned into small integers, and what they are applied to
stays integer until one last rounding. So the result depends on nothing but the updates: not on the machine, nor on its
linear algebra, nor on threads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decentra.errors import LocalError
from decentra.robust.catalogue import Composition, exact_rules, find, whole
from decentra.robust.geometry import about, gram_of_mixtures
from decentra.robust.rule import CoordinateRule, Gram, GramRule

COLUMNS = 1 << 14
"""Columns worked on at a time: n of them in int64 are 8 MiB at n = 64."""
HALF = 16
"""Bits of a half number: products of halves, and 2^14 of them, are far below 2^53, so that float64 sums are exact."""
PARTS = 1 << 16
"""The most that integer weights sum to."""


def aggregate(rows: Sequence[NDArray[Any]], rule: str, f: int) -> NDArray[Any]:
    """Aggregate integer updates of which f may be false, the same on every machine.

    Unlike ``decentra.robust.aggregate`` it takes encoded updates, as a protocol has them, and gives n times their
    aggregate: the unit is a sum's, so that it is read as the sum of n updates is.

    Args:
        rows: n updates, (d,) each, int16 or int32, in the order of their ids; they are not written to. n times any
            number in them is within the dtype.
        rule: a name of ``catalogue.exact_rules()``.
        f: how many may be false.

    Returns:
        n times the aggregate, rounded half to even: (d,), of the updates' dtype.

    Raises:
        LocalError: a rule that there is not, is not exact or does not fit n and f; rows of unlike lengths or dtypes.
    """
    f = whole("f", f)
    composition = _fitting(rows, rule, f)
    n, last = len(rows), composition.rule
    gram = _gram(rows, origin=composition.origin) if composition.needs_geometry else np.zeros((n, n))
    made_of, parts = _made_of(gram, composition, f)
    plain = parts == 1 and np.array_equal(made_of, np.eye(n, dtype=np.int64))
    total = np.empty_like(rows[0])
    for low, block in _blocks(rows):
        mixed = block if plain else made_of @ block
        picked = last.select(mixed, f) if isinstance(last, CoordinateRule) else mixed
        summed = picked[0].copy()
        for row in picked[1:]:
            np.add(summed, row, out=summed)
        total[low : low + block.shape[1]] = _rounded(n * summed, len(picked) * parts)
    return total


def _fitting(rows: Sequence[NDArray[Any]], rule: str, f: int) -> Composition:
    """The rule of this name. Raises LocalError where it is not exact, or does not fit these rows."""
    composition = find(rule)
    if composition.why_not_alike is not None:
        raise LocalError(f"{composition.why_not_alike}; choose of {', '.join(exact_rules())}")
    problem = composition.misfit(len(rows), f) if len(rows) else "there are no updates to aggregate"
    if problem is not None:
        raise LocalError(problem)
    if len({(row.shape, row.dtype) for row in rows}) != 1 or rows[0].dtype not in (np.int16, np.int32):
        raise LocalError("integer updates are of one length, and all int16 or all int32")
    return composition


def _made_of(gram: Gram, composition: Composition, f: int) -> tuple[NDArray[Any], int]:
    """What the rule makes of rows before it looks at coordinates, as integers over one denominator.

    Args:
        gram: (n, n), the rows' inner products; zeros where the rule needs none.

    Returns:
        (m, n), int64: a row for each mixture that a coordinate rule works on, or the one row of a Gram rule's weights;
        and the denominator, which for weights is their sum.
    """
    made_of, denominator = np.eye(len(gram), dtype=np.int64), 1
    for step in composition.steps:
        counts, parts = _integers(step.mixtures(gram, f))
        gram = gram_of_mixtures(gram, counts / parts)  # what is decided is of what is applied
        made_of, denominator = counts @ made_of, denominator * parts
    if isinstance(composition.rule, GramRule):
        weights, parts = _weights(composition.rule.weights(gram, f))
        made_of, denominator = weights[None, :] @ made_of, denominator * parts
    return made_of, denominator


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
    (weights,), parts = _made_of(gram, composition, f)
    return tuple(int(weight) for weight in weights), parts


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


def _rounded(numerator: NDArray[Any], denominator: int) -> NDArray[Any]:
    """numerator / denominator, rounded half to even; int64, denominator above 0."""
    if denominator == 1:
        return numerator
    below, rest = np.divmod(numerator, denominator)
    twice = 2 * rest
    return np.asarray(below + ((twice > denominator) | ((twice == denominator) & (below & 1 == 1))))

