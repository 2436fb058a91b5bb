"""Weights from inner products alone, for updates that nobody sees: small integers, none of them too large.

Where only the weighted sum of shared updates is opened, a weight near the whole sum would publish one peer's update.
So a rule runs here only if it gives no update more than its part of n − f: rules that take the plain mean of n − f
updates, and any rule behind nearest-neighbour mixing, since a mixture of mixtures of n − f updates has none in it with
more. Krum, which chooses one update, and a plain geometric median, which can come to lie on one, are refused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from decentra.errors import LocalError
from decentra.robust.catalogue import exact_rules, find, whole
from decentra.robust.exact import PARTS, weigh_gram
from decentra.robust.nearest import NearestNeighborMixing
from decentra.robust.rule import GramRule

EVEN = ("multi_krum", "mda")
"""Rules that give n − f updates the same weight, and the others none."""
DEFAULT = "nnm+multi_krum"
HIDDEN = 2
"""Honest updates, at least, that any sum holds: c peers who take their own out of it are left with two together."""


def shared_rules() -> tuple[str, ...]:
    """Rules that run on shares: of inner products alone, alike on every machine, none of them lays one update bare."""
    return tuple(name for name in exact_rules() if _unfit(name) is None)


def misfit(rule: str, n: int, f: int, c: int) -> str | None:
    """Why a rule can't run on shares of n updates of which f may be false and c peers collude, with the nearest that
    can; None where it can.

    Raises:
        LocalError: there is no such rule.
    """
    unfit = _unfit(rule)
    if unfit is not None:
        return unfit
    if n - f < c + HIDDEN:
        return (
            f"{n - f} of {n} updates are summed, and of these {c} peers may know their own: fewer than {HIDDEN} honest "
            f"ones are left; f ≤ {max(0, n - c - HIDDEN)} keeps them together"
        )
    return find(rule).misfit(n, f)


def weigh(gram: Sequence[Sequence[int]], rule: str, f: int, c: int) -> tuple[int, ...]:
    """The integer weight of each update.

    Args:
        gram: (n, n) Python integers, inner products of what is left of the updates, at any one scale.
        rule: one of ``shared_rules()``.
        f: how many of these may be false.
        c: how many peers may collude.

    Returns:
        n integers of 0 or more: Σw ≤ 2^16, at least max(n − f, c + 2) above 0, none above Σw / (n − f). Exactly the
        rule's weights where they are parts of at most 2^16; else these rounded half to even, and cut where rounding
        alone carried one above its bound.

    Raises:
        LocalError: a rule that can't run here, or weights that would lay an update bare.
    """
    n, f, c = len(gram), whole("f", f), whole("c", c)
    problem = misfit(rule, n, f, c)
    if problem is not None:
        raise LocalError(problem)
    return bounded(*weigh_gram(gram, rule, f), f, c)


def bounded(parts: Sequence[int], total: int, f: int, c: int) -> tuple[int, ...]:
    """Weights parts / total as small integers within the bounds of ``weigh``.

    Raises:
        LocalError: there are no such integers near them.
    """
    n, most = len(parts), len(parts) - f
    if most < 1 or min(parts) < 0 or sum(parts) != total or total < 1:
        raise LocalError("weights are 0 or more, with a sum above 0 that is told beside them; a defect of the rule")
    if max(parts) * most > total:
        raise LocalError(f"an update would weigh more than 1/{most} of the sum; choose {DEFAULT}")
    common = math.gcd(total, *parts)
    weights = [part // common for part in parts]
    if total // common > PARTS:
        weights = [_half_even(part * (PARTS - n), total) for part in parts]  # rounding adds n/2 at most
        while max(weights) * most > sum(weights):
            cap = sum(weights) // most
            weights = [min(weight, cap) for weight in weights]
    fewest = max(most, c + HIDDEN)
    if sum(weight > 0 for weight in weights) < fewest:
        raise LocalError(f"fewer than {fewest} updates would be in the sum; choose {DEFAULT}")
    return tuple(weights)


def _half_even(above: int, below: int) -> int:
    quotient, rest = divmod(above, below)
    return quotient + (2 * rest > below or (2 * rest == below and quotient & 1))


def _unfit(rule: str) -> str | None:
    """Why a rule never runs on shares."""
    composition = find(rule)
    if composition.reference:
        return f"{rule} measures against each peer's own reference, which shares of updates have none of; {_choose()}"
    if composition.why_not_alike is not None:
        return f"{composition.why_not_alike}; {_choose()}"
    if not isinstance(composition.rule, GramRule):
        return f"{rule} looks at single coordinates, which nobody sees on shares; {_choose()}"
    if composition.rule.blind:
        return f"{rule} bounds nothing, and secagg gives it for less; choose secagg, or {DEFAULT}"
    if composition.origin:
        return f"{rule} clips, so that its weights are parts of no sum; {_choose()}"
    mixing = bool(composition.steps) and isinstance(composition.steps[-1], NearestNeighborMixing)
    if not mixing and rule not in EVEN:
        return f"{rule} can give one update nearly all the weight, and so publish it; choose nnm+{rule} or {DEFAULT}"
    return None


def _choose() -> str:
    return f"choose {DEFAULT} or multi_krum"
