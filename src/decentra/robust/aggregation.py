"""``aggregate``: one rule over many updates."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decentra.errors import LocalError
from decentra.robust.catalogue import DEFAULT, Composition, find, whole
from decentra.robust.coordinates import is_finite, mean
from decentra.robust.geometry import Gramian, about, gram_of_mixtures, mix_rows, ordered_matmul, squared_distances
from decentra.robust.rows import Result, Rows
from decentra.robust.rule import CoordinateRule, GramRule, Invariant

_DOWN = 2.0**-16
"""What numbers near the end of their type are multiplied with, so that sums of 2^15 of them stay within it."""


@dataclass(frozen=True)
class Diagnostics:
    """What a rule saw.

    Attributes:
        rule: its name.
        f: how many of the updates that it used might be false: those rejected count as false.
        rejected: ids of updates with NaN or infinity in them, which were left out.
        distances: ‖x_i − x_j‖ between the updates in the caller's order, float64, NaN for one rejected; None where the
            rule had no need of them.
        kappa: of the rule's proved bound for these n and f; None where there is none of that form.
    """

    rule: str
    f: int
    rejected: tuple[Hashable, ...]
    distances: NDArray[Any] | None = field(repr=False)
    kappa: float | None


@dataclass(frozen=True)
class Aggregation:
    """What came of updates.

    Attributes:
        value: the aggregate, of the form, dtypes and device of an update.
        weights: what each update counted for, float64, in the caller's order, 0 for one rejected; None for rules that
            look at each coordinate by itself. A reference has what they lack of 1, for rules that have one.
        diagnostics: what the rule saw.
    """

    value: Any
    weights: NDArray[Any] | None
    diagnostics: Diagnostics


def aggregate(
    updates: Any,
    rule: str | Composition = DEFAULT,
    f: int | None = None,
    *,
    ids: Sequence[Any] | None = None,
    reference: Any = None,
    radius: float | None = None,
    threads: int = 1,
) -> Aggregation:
    """Aggregate updates of which f may be false, by a robust rule.

    >>> import numpy as np
    >>> honest = np.array([[0.9, 2.0], [1.0, 2.1], [1.1, 1.9]], np.float32)
    >>> aggregate([*honest, np.array([1e9, -1e9], np.float32)], "trimmed_mean", f=1).value
    array([1.05, 1.95], dtype=float32)

    The same bytes come out whatever the order of updates (given ids), the tensors that they are cut into, and the
    number of threads. Updates are never written to. Beside the result it takes some 4 MB a thread. Peers on different
    machines, which must agree to the bit, take `decentra.robust.exact.aggregate`, on integers.

    Args:
        updates: an (n, d) array or tensor; n arrays or tensors of one shape; or n lists of such, a model's tensors.
            numpy or torch; float64, float32, float16 or bfloat16. The last two are worked on in float32.
        rule: a name of ``rules()``, steps before it joined with ``+``.
        f: how many updates may be false, 0 ≤ f < n; it has to be said, as at 0 every rule trusts all. Those with NaN
            or infinity in them are left out and count as such.
        ids: whose each update is: distinct, and of a kind that can be sorted. They break ties. By default its place.
        reference: an update's like, for rules that measure against one.
        radius: to which a rule clips, in units of the updates, for rules that do.
        threads: how many work at once, each on columns of its own.

    Raises:
        LocalError: a rule that there is not, or that n, f, the reference or the radius don't fit; updates of unlike
            shapes or dtypes; ids that are not distinct; more than f updates with NaN or infinity in them.
    """
    if f is None:
        raise LocalError("how many updates may be false? Hand in f; at f = 0 every rule trusts all of them")
    f = whole("f", f)
    composition = (rule if isinstance(rule, Composition) else find(rule)).clipping(radius)
    rows = Rows(updates)
    order = _order(rows.n, ids)
    _check(composition, rows.n, f, reference)
    ordered, told = rows.chosen(order), list(order) if ids is None else [ids[index] for index in order]
    against = None if reference is None else Rows([reference], "the reference")
    with _workers(threads) as executor:
        run = _Run(ordered, composition, f, against, executor)
        bad: list[int] = []
        try:
            run.go()
        except _NotFinite:
            bad = _not_finite(ordered)
            if against is not None and _not_finite(against):
                raise LocalError("the reference has NaN or infinity in it; hand in a finite one") from None
            if len(bad) > f:
                named = ", ".join(str(told[index]) for index in bad)
                raise LocalError(
                    f"{len(bad)} of {rows.n} updates have NaN or infinity in them, more than f = {f}: {named}"
                ) from None
            kept = [index for index in range(rows.n) if index not in bad]
            run = _Run(ordered.chosen(kept), composition, f - len(bad), against, executor)
            run.go(finite=True)
    places = [place for index, place in enumerate(order) if index not in bad]
    return Aggregation(
        value=run.result.value,
        weights=None if run.weights is None else _spread(run.weights[: len(places)], places, rows.n, 0.0),
        diagnostics=Diagnostics(
            rule=composition.name,
            f=run.f,
            rejected=tuple(told[index] for index in bad),
            distances=None if run.squared is None else _spread(np.sqrt(run.squared), places, rows.n, np.nan),
            kappa=composition.kappa(len(places), run.f),
        ),
    )


def _order(n: int, ids: Sequence[Any] | None) -> list[int]:
    """Places in the order of ids."""
    if ids is None:
        return list(range(n))
    if not isinstance(ids, Sequence):
        raise LocalError(f"ids are a list, one for each update, not {type(ids).__name__}")
    if len(ids) != n:
        raise LocalError(f"there are {len(ids)} ids for {n} updates; hand in one each")
    try:
        order = sorted(range(n), key=lambda index: ids[index])
    except TypeError as error:
        raise LocalError(f"ids cannot be sorted ({error}); hand in ids of one kind") from error
    if any(ids[one] == ids[other] for one, other in pairwise(order)):
        raise LocalError("ids of updates are distinct, and some are alike; nobody aggregates two updates of one peer")
    return order


def _check(rule: Composition, n: int, f: int, reference: Any) -> None:
    problem = rule.misfit(n, f)
    if problem is None and rule.reference and reference is None:
        problem = f"{rule.name} measures against a reference: hand one in, your own update or the last aggregate"
    if problem is None and not rule.reference and reference is not None:
        problem = f"{rule.name} measures against no reference; leave it out"
    if problem is not None:
        raise LocalError(problem)


@contextmanager
def _workers(threads: int) -> Iterator[Executor | None]:
    threads = whole("threads", threads)
    if threads < 1:
        raise LocalError(f"{threads} threads do no work; hand in 1 or more, of {os.cpu_count()} cores here")
    if threads == 1:
        yield None
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="decentra-robust") as executor:
        yield executor


class _NotFinite(Exception):
    """Some update may have NaN or infinity in it."""


def _not_finite(rows: Rows) -> list[int]:
    """Which rows have NaN or infinity in them."""
    bad = np.zeros(rows.n, np.bool_)
    room = np.empty((rows.n, rows.columns), rows.dtype)
    for low, high in rows.blocks():
        block = room[:, : high - low]
        rows.fill(block, low)
        bad |= ~np.isfinite(block).all(axis=1)
    return [int(index) for index in np.flatnonzero(bad)]


def _spread(values: NDArray[Any], places: list[int], n: int, missing: float) -> NDArray[Any]:
    """Values of the rows that were used, in their order, where the caller has them."""
    spread = np.full((n,) * values.ndim, missing)
    spread[np.ix_(*[places] * values.ndim)] = values
    return spread


class _Run:
    """One rule over rows in the order of their ids, all of them finite, or else `_NotFinite`."""

    def __init__(
        self, rows: Rows, rule: Composition, f: int, reference: Rows | None, executor: Executor | None
    ) -> None:
        self.rows, self.rule, self.f = rows, rule, f
        self.seen = rows if reference is None else rows.beside(reference)
        """The updates, and the reference after them."""
        self.executor = executor
        self.result: Result = rows.result()
        self.squared: NDArray[Any] | None = None
        self.weights: NDArray[Any] | None = None

    def go(self, finite: bool = False) -> None:
        mixtures = self._mixtures(finite) if self.rule.needs_geometry else None
        if isinstance(self.rule.rule, CoordinateRule):
            self._coordinates(mixtures, finite)
            return
        if mixtures is None:
            mixtures = self._weigh(np.zeros((self.seen.n, self.seen.n)), self.rule)[None, :]
        self.weights = mixtures[0]
        self._sum(mixtures[0], finite)

    def _mixtures(self, finite: bool) -> NDArray[Any]:
        """What each row is made of that the rule works on; of a Gram rule the one row of its weights."""
        seen = self.seen.and_origin() if self.rule.origin else self.seen
        found = Gramian(seen, self.executor)
        if not finite and not np.isfinite(found.gram).all():
            raise _NotFinite
        gram, rule = found.gram, self.rule
        if rule.origin:
            gram = about(gram, seen.n - 1)[:-1, :-1]
        if rule.rule.radius is not None and found.scale != 1:
            rule = rule.clipping(rule.rule.radius * found.scale)
        self.squared = squared_distances(gram)[: self.rows.n, : self.rows.n] / found.scale / found.scale
        mixtures: NDArray[Any] = np.eye(self.seen.n)
        for step in rule.steps:
            made = step.mixtures(gram, self.f)
            gram, mixtures = gram_of_mixtures(gram, made), ordered_matmul(made, mixtures)
        if isinstance(rule.rule, CoordinateRule):
            return mixtures
        return ordered_matmul(self._weigh(gram, rule)[None, :], mixtures)

    def _weigh(self, gram: NDArray[Any], rule: Composition) -> NDArray[Any]:
        if not isinstance(rule.rule, GramRule):
            raise LocalError(f"{rule.name} weighs no updates; a defect of decentra")
        return rule.rule.weights(gram, self.f)

    def _each_block(self, rows: Rows, task: Callable[[NDArray[Any], int], None]) -> None:
        """Do this with memory for every block of columns, on as many threads as there are."""
        blocks = list(rows.blocks())

        def some(start: int) -> None:
            room = np.empty((rows.n, rows.columns), rows.dtype)
            for low, high in blocks[start : start + 4]:
                task(room[:, : high - low], low)

        starts = range(0, len(blocks), 4)
        for _ in map(some, starts) if self.executor is None else self.executor.map(some, starts):
            pass

    def _coordinates(self, mixtures: NDArray[Any] | None, finite: bool) -> None:
        """A coordinate rule, on the rows or on mixtures of them."""
        rule, f, dtype = self.rule.rule, self.f, self.rows.dtype
        if not isinstance(rule, CoordinateRule):
            raise LocalError(f"{self.rule.name} looks at no coordinates; a defect of decentra")
        ordered = rule.ordered
        centre = 0 if mixtures is None else int(np.argmax(mixtures.sum(axis=0)))
        affine = mixtures is not None and np.allclose(mixtures.sum(axis=1), 1.0, rtol=0, atol=1e-12)
        made = None if mixtures is None else mixtures.astype(dtype)

        def value(block: NDArray[Any], out: NDArray[Any]) -> None:
            if made is None:
                mean(rule.select(block, f), ordered, out)
                return
            middle = block[centre].copy() if affine else None
            if middle is not None:  # where rows are equal, so are mixtures of the differences, to the bit
                np.subtract(block, middle, out=block)
            mean(rule.select(mix_rows(made, block), f), ordered, out)
            if middle is not None:
                np.add(out, middle, out=out)

        def task(block: NDArray[Any], low: int) -> None:
            out = np.empty(block.shape[1], dtype)
            self.rows.fill(block, low)
            if not is_finite(block):
                if not finite and not np.isfinite(block).all():
                    raise _NotFinite
                down = _DOWN if Invariant.SCALE in rule.invariants else 1.0
                np.multiply(block, down, out=block)
                value(block, out)
                np.divide(out, down, out=out)
            else:
                value(block, out)
            self.result.write(out, low)

        self._each_block(self.rows, task)

    def _sum(self, weights: NDArray[Any], finite: bool) -> None:
        """Σ w_i x_i: relative to the row that counts most, where weights sum to 1, so that equal rows give that."""
        used = [int(index) for index in np.flatnonzero(weights)]
        rows, dtype = self.seen.chosen(used), self.rows.dtype
        shares = weights[used].astype(dtype)
        heaviest = rows.chosen([int(np.argmax(shares))] if used and abs(float(weights.sum()) - 1.0) <= 1e-9 else [])

        def task(block: NDArray[Any], low: int) -> None:
            middle = np.zeros((max(1, heaviest.n), block.shape[1]), dtype)
            heaviest.fill(middle[: heaviest.n], low)
            with np.errstate(all="ignore"):
                rows.fill(block, low, middle[0] if heaviest.n else None)
                total = shares @ block + middle[0]
            if not np.isfinite(total).all():
                rows.fill(block, low)
                if not finite and not np.isfinite(block).all():
                    raise _NotFinite
                np.multiply(block, _DOWN, out=block)
                total = (shares @ block) / dtype.type(_DOWN)
            self.result.write(total, low)

        self._each_block(rows, task)
