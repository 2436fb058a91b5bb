"""The rules by name, how they are put together with ``+``, and which fit n updates of which f may be false.

A third party's rule comes by an entry point of the group ``decentra.rules``: a ``GramRule``, ``CoordinateRule`` or
``PreStep`` object, or a class that makes one without arguments. ``decentra.robust.testing`` holds it to what it says.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import entry_points
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decentra.errors import LocalError, did_you_mean
from decentra.robust.centre import CovarianceFilter, GeometricMedian
from decentra.robust.coordinates import MeaMed, Median, SignMajority, TrimmedMean
from decentra.robust.nearest import CHOOSES, BulyanSelection, Krum, MultiKrum, NearestNeighborMixing, NearMedian
from decentra.robust.own import (
    AdaptiveClipping,
    Balance,
    CenteredClipping,
    ClippedSum,
    FLTrust,
    NearestNeighborAveraging,
)
from decentra.robust.rule import CoordinateRule, Gram, GramRule, Invariant, PreStep, Rule
from decentra.robust.subsets import MinimumDiameter, SmallestMaximumEigenvalue

ENTRY_POINTS = "decentra.rules"
DEFAULT = "nnm+trimmed_mean"


@dataclass(frozen=True)
class Mean(GramRule):
    """The mean of all updates. It is no robust rule: one false update moves it anywhere."""

    name = "mean"
    source = "McMahan et al. 2017 (FedAvg)"
    exact = True
    invariants = frozenset(CHOOSES - {Invariant.MAJORITY} | {Invariant.DIAGONAL})
    fewest_says = "n ≥ 1"
    blind = True

    def fewest(self, f: int) -> int:
        return 1

    def weights(self, gram: Gram, f: int) -> NDArray[Any]:
        return np.full(len(gram), 1.0 / len(gram))


RULES: tuple[Rule, ...] = (
    Mean(),
    Median(),
    TrimmedMean(),
    MeaMed(),
    SignMajority(),
    Krum(),
    MultiKrum(),
    GeometricMedian(),
    MinimumDiameter(),
    SmallestMaximumEigenvalue(),
    CovarianceFilter(),
    CenteredClipping(),
    FLTrust(),
    NearestNeighborAveraging(),
    ClippedSum(),
    Balance(),
)
STEPS: tuple[PreStep, ...] = (NearestNeighborMixing(), AdaptiveClipping())
BULYAN = "bulyan"


@dataclass(frozen=True)
class Composition:
    """Steps, and the rule that comes after them.

    Attributes:
        name: such as ``nnm+trimmed_mean``.
        steps: what comes first, in order.
        rule: the last.
    """

    name: str
    steps: tuple[PreStep, ...]
    rule: GramRule | CoordinateRule

    @property
    def parts(self) -> tuple[Rule, ...]:
        return (*self.steps, self.rule)

    @property
    def reference(self) -> bool:
        """Whether it needs a point of reference."""
        return any(part.reference for part in self.parts)

    @property
    def origin(self) -> bool:
        """Whether it needs inner products about zero."""
        return any(part.origin for part in self.parts)

    @property
    def why_not_alike(self) -> str | None:
        """Why peers that hold one set of updates cannot evaluate it alike, to the bit; None where they can."""
        if self.reference:
            return f"{self.name} measures against each peer's own reference, so peers would end with different results"
        if not all(part.exact for part in self.parts):
            return f"{self.name} does not promise the same bits on every machine, as nothing with eigenvalues can"
        if Invariant.SCALE not in self.rule.invariants:
            return f"{self.name} gives signs, not updates"
        if self.steps and isinstance(self.rule, GramRule) and self.rule.blind:
            return f"{self.name} bounds nothing: a mean is none that a step makes robust"
        mixing = [step for step in self.steps if isinstance(step, NearestNeighborMixing)]
        if len(self.steps) > (2 if mixing and isinstance(self.rule, CoordinateRule) else 1):
            return f"{self.name} has {len(self.steps)} steps, more than its numbers have room for in 64 bits"
        return None

    @property
    def needs_radius(self) -> bool:
        """Whether it clips to a radius that its user has to name."""
        return any(part.needs_radius for part in self.parts)

    @property
    def needs_geometry(self) -> bool:
        """Whether it asks for the Gram matrix at all."""
        return bool(self.steps) or (isinstance(self.rule, GramRule) and not self.rule.blind)

    @property
    def invariants(self) -> frozenset[Invariant]:
        """What holds of the whole."""
        kept, coordinates = self.rule.invariants, isinstance(self.rule, CoordinateRule)
        for step in reversed(self.steps):
            kept = step.keeps(kept, coordinates)
        return kept

    @property
    def needs(self) -> str:
        """How many updates it works on, in words."""
        return max((part.fewest_says for part in self.parts), key=lambda says: ("4f" in says, "2f" in says, says))

    def fewest(self, f: int) -> int:
        """The fewest updates that it works on where f may be false."""
        removed = 2 * f if self.name == BULYAN else 0
        return max(*(step.fewest(f) for step in self.steps), self.rule.fewest(f) + removed, 1)

    def limit(self, n: int, f: int) -> str | None:
        """Why n updates are too many for it; None where they are not."""
        return next((said for part in self.parts if (said := part.limit(n, f))), None)

    def kappa(self, n: int, f: int) -> float | None:
        """κ of its proved bound, of the form that ``Rule.kappa`` tells; None where there is none."""
        kappa = self.rule.kappa(n, f)
        for step in reversed(self.steps):
            kappa = None if kappa is None else step.kappa_with(n, f, kappa)
        return kappa

    def clipping(self, radius: float | None) -> Composition:
        """The same with this radius. Raises LocalError where one is missing, or is none, or is of no use."""
        if not self.needs_radius:
            if radius is not None:
                raise LocalError(f"{self.name} clips to no radius of yours; leave radius out")
            return self
        if isinstance(radius, bool) or not isinstance(radius, (int, float)) or not 0 < radius < math.inf:
            raise LocalError(f"{self.name} clips to a radius, in units of updates: hand in one above 0, not {radius!r}")
        steps = tuple(step.clipping(float(radius)) for step in self.steps)
        return replace(self, steps=steps, rule=self.rule.clipping(float(radius)))

    def misfit(self, n: int, f: int) -> str | None:
        """Why it cannot be had with n updates of which f may be false, with the nearest that can; None where it can."""
        if f < 0:
            return f"f = {f} is no number of updates; set f to 0 or more"
        if n < self.fewest(f):
            most = max((lower for lower in range(f) if self.fewest(lower) <= n), default=None)
            if most is None:
                mend = f"{self.name} needs {self.fewest(0)} updates at least"
            else:
                mend = f"lower f to {most}"
                if self.name == BULYAN and n >= 2 * f + 1:
                    mend += f", or choose {DEFAULT}"
            fewest = f"with f = {f} that is {self.fewest(f)} updates, and there are {n}"
            return f"{self.name} needs {self.needs}: {fewest}; {mend}"
        if f >= n:
            return f"f = {f} of {n} updates leaves nobody to believe; lower it"
        said = self.limit(n, f)
        return None if said is None else f"{said}; choose mda or {DEFAULT}"


@dataclass(frozen=True)
class Told:
    """What ``rules()`` tells of one: its name, what it needs, its bound, its cost, what it runs on."""

    name: str
    needs: str
    bound: str
    cost: str
    runs_on: str
    source: str


@cache
def _registered() -> dict[str, Rule]:
    """All rules and steps by name, a third party's too."""
    found: dict[str, Rule] = {rule.name: rule for rule in (*RULES, *STEPS)}
    for entry in entry_points(group=ENTRY_POINTS):
        loaded = entry.load()
        rule = loaded() if isinstance(loaded, type) else loaded
        if not isinstance(rule, (GramRule, CoordinateRule, PreStep)):
            raise LocalError(f"the entry point {entry.value!r} gives no rule of decentra.robust; uninstall or mend it")
        if rule.name in found or rule.name == BULYAN:
            raise LocalError(f"the entry point {entry.value!r} gives a second rule {rule.name!r}; rename it")
        found[rule.name] = rule
    return found


def whole(name: str, value: Any) -> int:
    """A count that a user gave. Raises LocalError where it is none, as a float, or a truth value, is none."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise LocalError(f"{name} is a whole number, not {value!r}")
    return operator.index(value)


def names() -> tuple[str, ...]:
    """The names of all rules that may come last."""
    return (*(name for name, rule in _registered().items() if not isinstance(rule, PreStep)), BULYAN)


def find(name: str) -> Composition:
    """The rule of this name. Raises LocalError for one that there is not, with the nearest."""
    if not isinstance(name, str):
        known = ", ".join(names())
        raise LocalError(f"a rule is asked for by its name, not by {type(name).__name__}; choose of {known}")
    return _find(name)


@cache
def _find(name: str) -> Composition:
    registered = _registered()
    *before, last = [part.strip().lower().replace("-", "_") for part in name.split("+")]
    steps = tuple(registered[part] for part in before if part in registered)
    if isinstance(registered.get(last), PreStep):
        raise LocalError(f"{last!r} comes before a rule; add one, as in {last}+trimmed_mean")
    unknown = [part for part in before if not isinstance(registered.get(part), PreStep)]
    if unknown or last not in names():
        wrong = unknown[0] if unknown else last
        known = [part for part, rule in registered.items() if isinstance(rule, PreStep)] if unknown else list(names())
        what = "step before a rule" if unknown else "rule"
        mend = did_you_mean(wrong, known, f"choose of {', '.join(known)}")
        raise LocalError(f"there is no {what} {wrong!r}; {mend}")
    mixing = tuple(step for step in steps if isinstance(step, PreStep))
    plain = "+".join((*before, last))
    if last == BULYAN:
        if before:
            raise LocalError("bulyan selects updates, which mixtures are not; use it by itself")
        return Composition(BULYAN, (BulyanSelection(),), NearMedian())
    rule = registered[last]
    if not isinstance(rule, (GramRule, CoordinateRule)):
        raise LocalError(f"{last!r} is no rule; a defect of decentra")
    if mixing and rule.reference:
        raise LocalError(f"{last!r} measures updates, not mixtures of them, against a reference; use it by itself")
    return Composition(plain, mixing, rule)


def check(name: str, n: int, f: int) -> str | None:
    """``Composition.misfit`` of the rule of this name. Raises LocalError for a name that there is not."""
    return find(name).misfit(n, f)


def exact_rules() -> tuple[str, ...]:
    """Rules that peers in the clear can evaluate alike: of one agreed set alone, to the bit on any machine."""
    steps = [name for name, step in _registered().items() if isinstance(step, PreStep)]
    last = [name for name in names() if name not in ("mean", BULYAN)]
    alone = [name for name in names() if find(name).why_not_alike is None]
    after = [
        f"{before}+{name}"
        for before in (*steps, "arc+nnm")
        for name in last
        if not find(name).reference and find(f"{before}+{name}").why_not_alike is None
    ]
    return (*alone, *after)


def rules() -> tuple[Told, ...]:
    """All rules with what they need, their bound, their cost and what they run on."""
    return tuple(_told(find(name)) for name in _all_names())


def _all_names() -> Iterator[str]:
    yield from names()
    for step, rule in _registered().items():
        if isinstance(rule, PreStep):
            yield from (f"{step}+{last}" for last in ("trimmed_mean", "multi_krum"))
    yield "arc+nnm+trimmed_mean"


def _told(rule: Composition) -> Told:
    kappa = rule.kappa(10, 2)
    last = rule.rule
    on = "coordinates" if isinstance(last, CoordinateRule) else "geometry"
    passes = int(rule.needs_geometry) + 1
    return Told(
        name=rule.name,
        needs=rule.needs + (", a reference" if rule.reference else "") + (", a radius" if rule.needs_radius else ""),
        bound="no bound of this form" if kappa is None else f"κ = {kappa:.3g} at n = 10, f = 2",
        cost=f"{passes} pass{'es' * (passes > 1)} over the updates"
        + (", exponential in f" if any(part.limit(64, 31) for part in rule.parts) else ""),
        runs_on=("geometry, then " if rule.needs_geometry and on == "coordinates" else "") + on,
        source=last.source if not rule.steps else "; ".join(part.source for part in rule.parts),
    )
