"""The property suite that every rule passes: decentra's own, and any third party's.

A rule says what it promises: invariants, a bound, how few updates it works on. For each promise there is a property
here, searched by hypothesis (the extra ``test``)::

    from decentra.robust import Composition
    from decentra.robust.testing import properties

    @pytest.mark.parametrize("holds", properties(Composition("mine", (), Mine())), ids=str)
    def test_what_my_rule_promises(holds):
        holds()

A property that fails raises AssertionError with the smallest updates that break it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings, target
from hypothesis import strategies as st
from numpy.typing import NDArray

from decentra.robust.aggregation import Aggregation, aggregate
from decentra.robust.catalogue import Composition, find
from decentra.robust.rule import Invariant

MOST = 10
"""The most updates of an example: of 10 there are 252 subsets of 5."""
RADIUS = 1.5
CLOSE = 1e-9


@dataclass(frozen=True)
class Case:
    """Updates of which f may be false, and a reference, which is one of them."""

    rule: Composition
    updates: NDArray[Any]
    f: int
    reference: NDArray[Any]
    radius: float = RADIUS

    def run(self, updates: Any = None, **changed: Any) -> Aggregation:
        """The rule on these updates, or on others."""
        given: dict[str, Any] = {"f": self.f}
        if self.rule.reference:
            given["reference"] = self.reference
        if self.rule.needs_radius:
            given["radius"] = self.radius
        return aggregate(self.updates if updates is None else updates, self.rule, **(given | changed))

    def like(self, value: NDArray[Any], expected: NDArray[Any], extent: float = 0.0) -> None:
        """Hold two aggregates to be equal but for rounding."""
        size = max(extent, float(np.abs(self.updates).max(initial=0.0)))
        _hold(np.abs(value - expected).max(initial=0.0) <= CLOSE * max(size, 1e-300), (self, value, expected))

    def changed(self, change: Callable[[NDArray[Any]], NDArray[Any]], scale: float = 1.0) -> NDArray[Any]:
        """The aggregate of changed updates, the reference and the radius changed as well."""
        return np.asarray(
            self.run(change(self.updates), **self._kept(change(self.reference[None, :])[0], self.radius * scale)).value
        )

    def _kept(self, reference: NDArray[Any], radius: float) -> dict[str, Any]:
        kept: dict[str, Any] = {"reference": reference} if self.rule.reference else {}
        return kept | ({"radius": radius} if self.rule.needs_radius else {})


@dataclass(frozen=True)
class Property:
    """One promise of one rule; call it to search for updates that break it."""

    rule: Composition
    name: str
    holds: Callable[[Case], None]
    ties: bool
    """Whether examples may have numbers that repeat."""
    examples: int | None = None

    def __str__(self) -> str:
        return f"{self.rule.name}: {self.name}"

    def __call__(self) -> None:
        run = given(cases(self.rule, self.ties))(self.holds)
        slow = [HealthCheck.too_slow, HealthCheck.filter_too_much]
        settings(deadline=None, suppress_health_check=slow, **_count(self.examples))(run)()


def _hold(kept: bool | np.bool_, *shown: object) -> None:
    """What ``assert`` does, also under ``python -O``."""
    if not kept:
        raise AssertionError(shown)


def _count(examples: int | None) -> dict[str, Any]:
    return {} if examples is None else {"max_examples": examples}


@st.composite
def cases(draw: st.DrawFn, rule: Composition, ties: bool) -> Case:
    """Some updates that a rule works on: small whole numbers, which repeat, or points of no special position."""
    f = draw(st.sampled_from([f for f in range(4) if rule.fewest(f) <= MOST]))
    n = draw(st.integers(max(rule.fewest(f), f + 1, 3 if rule.rule.off_a_line else 1), MOST))
    d = draw(st.integers(2 if rule.rule.off_a_line else 1, 5))
    if ties:
        numbers = draw(st.lists(st.integers(-4, 4), min_size=n * d, max_size=n * d))
        updates = np.array(numbers, np.float64).reshape(n, d)
    else:
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        updates = rng.standard_normal((n, d)) * rng.choice([0.1, 1.0, 10.0], (n, 1)) + rng.standard_normal(d)
    return Case(rule, updates, f, updates[draw(st.integers(0, n - 1))].copy())


def properties(rule: Composition | str) -> list[Property]:
    """All that a rule promises. Raises LocalError for a name that there is not."""
    rule = find(rule) if isinstance(rule, str) else rule
    found = [
        Property(rule, "the same updates give the same bytes", _determinism, ties=True),
        Property(rule, "updates are not written to", _untouched, ties=True),
        Property(rule, "an update with NaN or infinity is left out", _rejected, ties=False),
    ]
    kept = [told for told in _INVARIANTS if told in rule.invariants]
    found += [Property(rule, told.name.lower(), _INVARIANTS[told], ties=not rule.chooses) for told in kept]
    if rule.kappa(MOST, 1) is not None:
        found += [
            Property(rule, "its bound, numbers repeating", _bound, ties=True),
            Property(rule, "its bound, points in general", _bound, ties=False),
        ]
    return found


def _determinism(case: Case) -> None:
    _hold(case.run().value.tobytes() == case.run(threads=2).value.tobytes())
    ids = [f"peer {index}" for index in range(len(case.updates))]
    turned = case.run(case.updates[::-1].copy(), ids=ids[::-1])
    _hold(turned.value.tobytes() == case.run(ids=ids).value.tobytes())
    pieces = case.run([[row[:1], row[1:]] for row in case.updates], **_split(case)).value
    _hold(b"".join(piece.tobytes() for piece in pieces) == case.run().value.tobytes())


def _split(case: Case) -> dict[str, Any]:
    return {"reference": [case.reference[:1], case.reference[1:]]} if case.rule.reference else {}


def _untouched(case: Case) -> None:
    before, reference = case.updates.copy(), case.reference.copy()
    case.run()
    _hold(np.array_equal(case.updates, before) and np.array_equal(case.reference, reference))


def _rejected(case: Case) -> None:
    if not case.f or len(case.updates) - 1 < case.rule.fewest(case.f - 1):
        return
    spoiled = case.updates.copy()
    spoiled[1, 0], spoiled[1, -1] = np.nan, np.inf
    found = case.run(spoiled, ids=[*"abcdefghij"[: len(spoiled)]])
    _hold(found.diagnostics.rejected == ("b",) and np.isfinite(found.value).all())
    without = case.run(np.delete(spoiled, 1, axis=0), f=case.f - 1)
    _hold(found.value.tobytes() == without.value.tobytes())


def _permutation(case: Case) -> None:
    turned = np.random.default_rng(0).permutation(len(case.updates))
    ids = {"ids": [int(index) for index in turned]} if case.rule.chooses else {}
    case.like(case.run(case.updates[turned], **ids).value, case.run().value)


def _translation(case: Case) -> None:
    moved = np.linspace(-3, 7, case.updates.shape[1])
    case.like(case.changed(lambda updates: updates + moved), case.run().value + moved, 10.0)


def _scale(case: Case) -> None:
    case.like(case.changed(lambda updates: updates * 0.37, 0.37), case.run().value * 0.37, 1e-9)
    case.like(case.changed(lambda updates: updates * 4, 4.0), case.run().value * 4, 1e-9)


def _negation(case: Case) -> None:
    case.like(case.changed(lambda updates: -updates), -case.run().value)


def _orthogonal(case: Case) -> None:
    size = case.updates.shape[1]
    turned = np.linalg.qr(np.random.default_rng(1).standard_normal((size, size)))[0]
    case.like(case.changed(lambda updates: updates @ turned), case.run().value @ turned)


def _diagonal(case: Case) -> None:
    by = np.linspace(-2, 3, case.updates.shape[1]) + 0.123
    case.like(case.changed(lambda updates: updates * by), case.run().value * by, 1e-9)


def _agreement(case: Case) -> None:
    equal = np.tile(case.reference, (len(case.updates), 1))
    found = case.run(equal).value
    if case.rule.origin:  # lengths are taken and given back
        case.like(found, case.reference)
    else:
        _hold(np.array_equal(found, case.reference), (case, found))


def _majority(case: Case) -> None:
    for factor in (1.0, 1e6):
        mostly = case.updates * factor
        mostly[case.f :] = case.reference
        found = case.run(mostly).value
        if case.rule.origin:
            case.like(found, case.reference)
        else:
            _hold(np.array_equal(found, case.reference), (case, mostly, found))


def _hull(case: Case) -> None:
    found = case.run()
    if found.weights is None:
        raise AssertionError(f"{case.rule.name} gives no weights, which would show its hull")
    rest = 1.0 - float(found.weights.sum())
    _hold(found.weights.min() >= -CLOSE and (abs(rest) <= CLOSE or (case.rule.reference and rest > 0)))
    case.like(found.weights @ case.updates + rest * case.reference, found.value)


def _box(case: Case) -> None:
    ordered = np.sort(case.updates, axis=0)
    value = case.run().value
    _hold((ordered[case.f] <= value).all() and (value <= ordered[-1 - case.f]).all(), (case, value))


def _norm(case: Case) -> None:
    longest = np.sort(np.linalg.norm(case.updates, axis=1))[-1 - case.f]
    _hold(np.linalg.norm(case.run().value) <= longest * (1 + CLOSE) + 1e-300, case)


def _bound(case: Case) -> None:
    kappa = case.rule.kappa(len(case.updates), case.f)
    if kappa is None:
        raise AssertionError(f"{case.rule.name} has no bound for {len(case.updates)} updates and f = {case.f}")
    value = case.run().value
    worst = 0.0
    for honest in subsets(case.updates, case.f):
        middle = honest.mean(axis=0)
        allowed = kappa * float(((honest - middle) ** 2).sum(axis=1).mean())
        off = float(((value - middle) ** 2).sum())
        _hold(off <= allowed * (1 + 1e-6) + 1e-18 * (1 + float(np.abs(case.updates).max()) ** 2), (case, off, allowed))
        worst = max(worst, off / allowed if allowed else 0.0)
    target(worst, label="share of the bound")


def subsets(updates: NDArray[Any], f: int) -> Iterator[NDArray[Any]]:
    """All sets of n − f updates."""
    for kept in combinations(range(len(updates)), len(updates) - f):
        yield updates[list(kept)]


_INVARIANTS: dict[Invariant, Callable[[Case], None]] = {
    Invariant.PERMUTATION: _permutation,
    Invariant.TRANSLATION: _translation,
    Invariant.SCALE: _scale,
    Invariant.NEGATION: _negation,
    Invariant.ORTHOGONAL: _orthogonal,
    Invariant.DIAGONAL: _diagonal,
    Invariant.AGREEMENT: _agreement,
    Invariant.MAJORITY: _majority,
    Invariant.HULL: _hull,
    Invariant.BOX: _box,
    Invariant.NORM: _norm,
}


def breaks(case: Case, told: Invariant) -> bool:
    """Whether updates show that an invariant does not hold."""
    try:
        _INVARIANTS[told](case)
    except AssertionError:
        return True
    return False
