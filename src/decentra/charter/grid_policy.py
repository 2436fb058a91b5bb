"""What else has to be sound where the members average on a grid: groups that fit, and a risk that is not understated.

The terms of ``[protocol]`` are each group's, so they are judged for the groups that the grid has, and not for all
members at once (``specs/group-gossip``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from decentra.charter.charter import Charter
from decentra.derive import quorum
from decentra.errors import LocalError
from decentra.grids import LEAST_GROUP, MOST_GROUP, MOST_TOGETHER, Grid, grid, heaviest, mixing_risk

MOST_ON_GRID = 4096
"""Members of one charter: everybody reads and hashes all of it, 3 MiB at most."""

LEAST_DRAWERS, MOST_DRAWERS = 4, MOST_TOGETHER
"""They draw the beacon in one round of secagg, which takes so many; fewer do not do with c = 1."""

WIDTH = 32
"""Weights of a mixing are exact integers; 16 bits hold neither them nor the precision that k rounds in a row need."""

MOST_REPORTS = 64
"""Recomputed sums of a group's round, as of any round."""


def drawn(charter: Charter) -> Grid | None:
    """The grid that a charter's members stand on; None where it has no terms for one, or none that fits."""
    if charter.groups is None:
        return None
    try:
        return grid(len(charter.members), charter.groups.size, charter.protocol.c)
    except LocalError:
        return None


def held_by_the_rest(count: int, c: int) -> bool:
    """Whether the others of so many drawers are a quorum without the c that may lie.

    Else those c see the beacon first, and withhold it until a later round gives one that they like.

    >>> [c for c in range(1, 9) if held_by_the_rest(16, c)]
    [1, 2, 3, 4, 5]
    """
    return count - c >= quorum(count, c)


def drawers_floor(charter: Charter) -> int:
    """The fewest drawers that their round may start with: of any so many the rest holds, and two thirds as in any."""
    count, c = len(charter.drawers), charter.protocol.c
    least = next((of for of in range(1, count) if held_by_the_rest(of, c)), count)
    return max(least, -(-2 * count // 3), quorum(count, c))


def bound(charter: Charter) -> float | None:
    """The probability that some group of an epoch holds more than c of the feared liars is at most this; None where
    there is no grid, or more liars than members."""
    made = drawn(charter)
    if made is None or charter.groups is None or charter.groups.liars > made.n:
        return None
    return mixing_risk(made, charter.groups.liars, charter.protocol.c)


def _members(charter: Charter) -> Iterator[str]:
    count = len(charter.members)
    if count > MOST_ON_GRID:
        yield f"a charter takes at most {MOST_ON_GRID} members and has {count}; make more than one"
    if count < LEAST_GROUP:
        yield (
            f"a mixing needs at least {LEAST_GROUP} members and has {count}; add {LEAST_GROUP - count} with "
            "`decentra charter add`"
        )


def _groups(charter: Charter) -> Iterator[str]:
    if charter.groups is None or len(charter.members) < LEAST_GROUP:
        return  # said already, and nothing fits too few members
    try:
        grid(len(charter.members), charter.groups.size, charter.protocol.c)
    except LocalError as error:
        yield f"size = {charter.groups.size} in [groups] with c = {charter.protocol.c}: {error}"


def _protocol(charter: Charter) -> Iterator[str]:
    terms = charter.protocol
    if terms.name in ("allreduce", "mesh", "bucketed", "shamir-gram"):
        yield f'groups on a grid average by secagg, and {terms.name} would show every update; set name = "secagg"'
    if terms.width != WIDTH:
        yield f"width = {terms.width} has no room for the weights of a mixing; set width to {WIDTH}"
    if terms.floor is not None:
        yield f"floor = {terms.floor} in [protocol]: each group has a floor by its own size; leave it out"


def _weights(charter: Charter) -> Iterator[str]:
    made, most = drawn(charter), charter.protocol.max_weight
    if made is None:
        return
    room = (1 << (WIDTH - 1)) - 1
    if _heaviest_sum(made, most) > room:
        fits = room // _heaviest_sum(made, 1)
        mend = f"set max_weight to at most {fits}" if fits else "aim at other groups, with fewer members in a cell"
        yield f"max_weight = {most} lets the weights of {made.n} members overflow width {WIDTH}; {mend}"


def _heaviest_sum(made: Grid, most: int) -> int:
    """The most that a group's weights come to along any axis."""
    return made.sizes[1] * max(heaviest(made, axis, most) for axis in range(made.axes))


def _challenges(charter: Charter) -> Iterator[str]:
    made, wanted, c = drawn(charter), charter.protocol.challenges, charter.protocol.c
    if made is None or not wanted:
        return
    most = min(made.sizes[0], MOST_REPORTS // (c + 1))
    if wanted > most:
        yield (
            f"challenges = {wanted} is more than a round of {made.sizes[0]} peers with c = {c} can recompute; set it "
            f"to at most {most}"
        )


def _drawers(charter: Charter) -> Iterator[str]:
    if charter.groups is None:
        return
    named, c = charter.groups.drawers, charter.protocol.c
    known = {member.name for member in charter.members}
    count = len(set(named))
    if not LEAST_DRAWERS <= count <= MOST_DRAWERS:
        yield (
            f"drawers in [groups] names {count} members, and the beacon is drawn by {LEAST_DRAWERS} to {MOST_DRAWERS}; "
            "name some that others trust to run, and not to collude"
        )
    elif c >= 1 and not held_by_the_rest(count, c):
        yield (
            f"{count} drawers can't draw a beacon against c = {c}: so many could withhold it until they like it; "
            f"{_more_drawers(count, c)}"
        )
    if count < len(named):
        twice = sorted({name for name in named if named.count(name) > 1})
        yield f"drawers in [groups] names {', '.join(twice)} twice; name each once"
    if strangers := sorted(set(named) - known):
        more = f" and {len(strangers) - 8} more" if len(strangers) > 8 else ""
        yield f"drawers in [groups] names {', '.join(strangers[:8])}{more}, no members; name members"


def _more_drawers(count: int, c: int) -> str:
    need = next((of for of in range(count, MOST_DRAWERS + 1) if held_by_the_rest(of, c)), None)
    most = max(less for less in range(1, c + 1) if held_by_the_rest(count, less))
    lower = f"lower c to {most} in [protocol]"
    return lower if need is None else f"name {need} or more in [groups], or {lower}"


def _risk(charter: Charter) -> Iterator[str]:
    terms, made = charter.groups, drawn(charter)
    if terms is None or made is None:
        return
    if terms.liars > made.n:
        yield f"liars = {terms.liars} in [groups] is more than the {made.n} members; lower it"
        return
    least = mixing_risk(made, terms.liars, charter.protocol.c)
    if least > terms.risk:
        yield (
            f"risk = {terms.risk:.2g} in [groups] is understated: with {terms.liars} liars among {made.n} members some "
            f"group of {made.sizes[1]} holds more than c = {charter.protocol.c} of them with a probability of up to "
            f"{least:.2g}; {_mend(charter, made)}"
        )


def _mend(charter: Charter, made: Grid) -> str:
    """The least c that holds at this size; or else the next size at which one does; or else what can be stated."""
    terms = charter.groups
    if terms is None:
        return ""
    for size in range(terms.size, MOST_GROUP + 1):
        c = _least_c(made.n, size, terms.liars, terms.risk, charter.protocol.c)
        if c is not None:
            aim = f"set size to {size} in [groups] and c to {c}" if size > terms.size else f"set c to {c}"
            return f"{aim} in [protocol], or state a higher risk"
    return f"fear fewer liars, or state risk = {rounded_up(mixing_risk(made, terms.liars, charter.protocol.c))!r}"


def _least_c(n: int, size: int, liars: int, risk: float, above: int) -> int | None:
    """The least c at which groups of about a size keep the risk, and no more than half of a group are feared."""
    for c in range(above, size):
        try:
            made = grid(n, size, c)
        except LocalError:
            return None
        if c > max(above, made.sizes[0] // 2):
            return None
        if mixing_risk(made, liars, c) <= risk:
            return c
    return None


def rounded_up(probability: float) -> float:
    """A probability in two digits, and none below it."""
    unit = 10.0 ** (math.floor(math.log10(probability)) - 1)
    return min(1.0, float(f"{math.ceil(probability / unit) * unit:.1e}"))


RULES: tuple[Callable[[Charter], Iterator[str]], ...] = (
    _members,
    _groups,
    _protocol,
    _weights,
    _challenges,
    _drawers,
    _risk,
)
