"""The rules by name, how they are put together with ``+``, and which fit n updates of which f may be false.

A third party's rule comes by an entry point of the group ``decentra.rules``: a ``GramRule``, ``CoordinateRule`` or
``PreStep`` object, or a class that makes one without arguments. ``decentra.robust.testing`` holds it to what it says.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Iterator
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
    chooses = False
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
    def chooses(self) -> bool:
        """Whether it chooses between updates, which decides where some are tied."""
        return any(part.chooses for part in self.parts)

    @property
    def why_alone(self) -> str | None:
        """Why no step may come before it; None where one may."""
        if self.reference:
            return f"{self.name!r} measures updates, not mixtures of them, against a reference; use it by itself"
        if any(step.removed(1) for step in self.steps):
            return f"{self.name!r} selects updates, which mixtures are not; use it by itself"
        return None

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
        removed = sum(step.removed(f) for step in self.steps)
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
                if n >= find(DEFAULT).fewest(f):
                    mend += f", or choose {DEFAULT}"
            fewest = f"with f = {f} that is {self.fewest(f)} updates, and there are {n}"
            return f"{self.name} needs {self.needs}: {fewest}; {mend}"
        if f >= n:
            return f"f = {f} of {n} updates leaves nobody to believe; lower it"
        said = self.limit(n, f)
        return None if said is None else f"{said}; choose mda or {DEFAULT}"


COMPOSED: tuple[Composition, ...] = (Composition("bulyan", (BulyanSelection(),), NearMedian()),)
"""Rules of a paper that are put together of a step and a rule which have no names of their own."""


@dataclass(frozen=True)
class Told:
    """What ``rules()`` tells of one.

    Attributes:
        name: as ``aggregate`` takes it.
        needs: how many updates of which f may be false, and what else it is to be given.
        bound: κ of its proved bound at n = 10, f = 2, as in ``Rule.kappa``; "none" where there is none of that form.
        cost: how often it goes over all updates.
        runs_on: what its weights come from: distances and angles between updates, or coordinates one by one, or both.
        source: where it was published.
    """

    name: str
    needs: str
    bound: str
    cost: str
    runs_on: str
    source: str


class Listing(tuple[Told, ...]):
    """What ``rules()`` tells of all, a `Told` each; it prints as a table, without the sources."""

    __slots__ = ()

    def __repr__(self) -> str:
        heads = ("rule", "needs", "bound at n = 10, f = 2", "runs on", "cost")
        rows = [heads, *((one.name, one.needs, one.bound, one.runs_on, one.cost) for one in self)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        )


@cache
def _registered() -> dict[str, Rule]:
    """All rules and steps by name, a third party's too."""
    found: dict[str, Rule] = {rule.name: rule for rule in (*RULES, *STEPS)}
    for entry in entry_points(group=ENTRY_POINTS):
        loaded = entry.load()
        rule = loaded() if isinstance(loaded, type) else loaded
        if not isinstance(rule, (GramRule, CoordinateRule, PreStep)):
            raise LocalError(f"the entry point {entry.value!r} gives no rule of decentra.robust; uninstall or mend it")
        if rule.name in found or rule.name in [one.name for one in COMPOSED]:
            raise LocalError(f"the entry point {entry.value!r} gives a second rule {rule.name!r}; rename it")
        found[rule.name] = rule
    return found


def whole(name: str, value: Any) -> int:
    """A count that a user gave. Raises LocalError where it is none, as a float, or a truth value, is none."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise LocalError(f"{name} is a whole number, not {value!r}")
    return operator.index(value)


def _last() -> dict[str, Composition]:
    """All rules that may come last, by name, each by itself."""
    plain = [
        Composition(name, (), rule)
        for name, rule in _registered().items()
        if isinstance(rule, (GramRule, CoordinateRule))
    ]
    return {one.name: one for one in (*plain, *COMPOSED)}


def _steps() -> dict[str, PreStep]:
    """All steps that may come before a rule, by name."""
    return {name: step for name, step in _registered().items() if isinstance(step, PreStep)}


def names() -> tuple[str, ...]:
    """The names of all rules that may come last."""
    return tuple(_last())


def step_names() -> tuple[str, ...]:
    """The names of all steps that may come before one."""
    return tuple(_steps())


def find(name: str) -> Composition:
    """The rule of this name. Raises LocalError for one that there is not, with the nearest."""
    if not isinstance(name, str):
        known = ", ".join(names())
        raise LocalError(f"a rule is asked for by its name, not by {type(name).__name__}; choose of {known}")
    return _find(name)


def parts_of(name: str) -> tuple[str, ...]:
    """The names of the steps and of the rule that a name is put together of, spelled as they are here."""
    return tuple(part.strip().lower().replace("-", "_") for part in name.split("+"))


@cache
def _find(name: str) -> Composition:
    steps, rules = _steps(), _last()
    *before, last = parts_of(name)
    if last in steps:
        raise LocalError(f"{last!r} comes before a rule; add one, as in {last}+trimmed_mean")
    unknown = next((part for part in before if part not in steps), None)
    if unknown is not None:
        raise _no_such("step before a rule", unknown, steps)
    if last not in rules:
        raise _no_such("rule", last, rules)
    found = rules[last]
    if not before:
        return found
    if found.why_alone is not None:
        raise LocalError(found.why_alone)
    return Composition("+".join((*before, last)), tuple(steps[part] for part in before), found.rule)


def _no_such(what: str, word: str, known: Iterable[str]) -> LocalError:
    mend = did_you_mean(word, known, f"choose of {', '.join(known)}")
    return LocalError(f"there is no {what} {word!r}; {mend}")


def check(name: str, n: int, f: int) -> str | None:
    """``Composition.misfit`` of the rule of this name. Raises LocalError for a name that there is not."""
    return find(name).misfit(n, f)


def exact_rules() -> tuple[str, ...]:
    """Rules that peers in the clear can evaluate alike: of one agreed set alone, to the bit on any machine."""
    alone = [name for name in names() if find(name).why_not_alike is None]
    after = [
        f"{before}+{name}"
        for before in (*_steps(), "arc+nnm")
        for name in alone
        if find(name).why_alone is None and find(f"{before}+{name}").why_not_alike is None
    ]
    return (*alone, *after)


def rules() -> Listing:
    """All rules with what they need, their bound, their cost and what they run on.

    >>> rules()  # doctest: +ELLIPSIS, +NORMALIZE_WHITESPACE
    rule    needs       bound at n = 10, f = 2  runs on  cost
    mean    n ≥ 1       none           fixed weights  1 pass
    median  n ≥ 2f + 1  κ = 1          coordinates    1 pass
    ...
    >>> [told.name for told in rules() if told.runs_on == "coordinates"]
    ['median', 'trimmed_mean', 'meamed', 'sign_majority']
    """
    return Listing(_told(find(name)) for name in _all_names())


def _all_names() -> Iterator[str]:
    yield from names()
    for step in _steps():
        yield from (f"{step}+{last}" for last in ("trimmed_mean", "multi_krum"))
    yield "arc+nnm+trimmed_mean"


def _told(rule: Composition) -> Told:
    kappa = rule.kappa(10, 2)
    on = ["geometry"] * rule.needs_geometry + ["coordinates"] * isinstance(rule.rule, CoordinateRule)
    passes = int(rule.needs_geometry) + 1
    return Told(
        name=rule.name,
        needs=rule.needs + (", a reference" if rule.reference else "") + (", a radius" if rule.needs_radius else ""),
        bound="none" if kappa is None else f"κ = {kappa:.3g}",
        cost=f"{passes} pass{'es' * (passes > 1)}"
        + (", exponential in f" if any(part.limit(64, 31) for part in rule.parts) else ""),
        runs_on=", then ".join(on) or "fixed weights",
        source="; ".join(dict.fromkeys(part.source for part in rule.parts)),
    )
