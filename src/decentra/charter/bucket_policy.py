"""What else has to be sound where updates are summed in buckets: buckets that hide, and enough to outvote liars.

The bounds are those of ``specs/bucketed``: one corrupt member taints the mean of its bucket, so c of them taint c
means at most, and a rule over m of them needs m ≥ 2c + 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from decentra.charter.charter import Charter
from decentra.charter.grid_policy import held_by_the_rest, rounded_up
from decentra.errors import LocalError
from decentra.grids import buckets_risk
from decentra.robust import catalogue

BUCKETED = "bucketed"

LEAST_IN_BUCKETS = 9
"""Three buckets of three: the fewest whose means outvote one tainted one, and that hide an update from one colluder."""


def least_size(charter: Charter) -> int:
    """c_b + 2: the fewest members of a bucket among whom two are honest."""
    return charter.bucket_corrupt + 2


def bucket_count(charter: Charter) -> int:
    """⌊n/size⌋, the number of buckets that the members are dealt into; 0 where the charter has no buckets."""
    return 0 if charter.buckets is None else len(charter.members) // charter.buckets.size


def bucket_sizes(charter: Charter) -> tuple[int, int]:
    """The fewest and the most members of a bucket; zeros where the charter has none."""
    count = bucket_count(charter)
    return (len(charter.members) // count, -(-len(charter.members) // count)) if count else (0, 0)


def bound(charter: Charter) -> float:
    """The probability that any bucket of an epoch holds more corrupt members than it may is at most this."""
    count, members = bucket_count(charter), len(charter.members)
    if not count or charter.bucket_corrupt >= charter.protocol.c:
        return 0.0
    return buckets_risk(members, count, min(charter.protocol.c, members), charter.bucket_corrupt)


def _table(charter: Charter) -> Iterator[str]:
    named = charter.protocol.name == BUCKETED
    if named and charter.buckets is None:
        yield "bucketed needs a table [buckets] with the size of a bucket, as in protocols/bucketed.toml; add it"
    elif charter.buckets is not None and not named:
        yield f'[buckets] is for bucketed, and {charter.protocol.name} has none; remove it, or set name = "bucketed"'


def _in_range(charter: Charter) -> bool:
    """Whether c is one that so many members can have at all; else that is said already."""
    return 1 <= charter.protocol.c <= len(charter.members) - 2


def _size(charter: Charter) -> Iterator[str]:
    count, c = len(charter.members), charter.protocol.c
    if charter.buckets is None or not _in_range(charter):
        return
    size, own, least, need = charter.buckets.size, charter.buckets.c, least_size(charter), 2 * c + 1
    if own is not None and not 1 <= own <= c:
        yield (
            f"c = {own} in [buckets] is out of 1..{c}, as {c} of all members may be corrupt; set it within that, or "
            "leave it out"
        )
    elif count < LEAST_IN_BUCKETS:
        yield (
            f"bucketed needs at least {LEAST_IN_BUCKETS} members, three buckets of three, and has {count}; add "
            f'{LEAST_IN_BUCKETS - count}, or take name = "mesh" where all may see all updates'
        )
    elif size < least:
        yield (
            f"size = {size} in [buckets]: with {charter.bucket_corrupt} corrupt in a bucket one below {least} bares an "
            f"update; {_mend(charter)}"
        )
    elif count // size < need:
        yield (
            f"size = {size} in [buckets] gives {count // size} buckets of {count} members, and c = {c} liars that each "
            f"taint one need {need}; {_mend(charter)}"
        )


def _mend(charter: Charter) -> str:
    """The nearest size that does; with the largest c below, where none does for this one."""
    count, c, own = len(charter.members), charter.protocol.c, charter.bucket_corrupt
    most = min(c, most_in_buckets(count, own))
    size = 0 if charter.buckets is None else charter.buckets.size
    nearest = min(max(size, min(most, own) + 2), count // (2 * most + 1))
    aims = [f"lower c to {most}"] * (most < c) + [f"set size to {nearest}"] * (nearest != size)
    if most < c and charter.buckets is not None and charter.buckets.c is not None and own >= most:
        aims.append("leave c and risk in [buckets] out")
    return f"{' and '.join(aims)}{', or add members' if most < c else ''}"


def most_in_buckets(count: int, bucket_corrupt: int | None = None) -> int:
    """The largest c that so many members can have in buckets of the least size; 1 where that is too much already.

    Args:
        bucket_corrupt: how many of one bucket may be corrupt; None for as many as of all.
    """
    least = {c: (c if bucket_corrupt is None else min(c, bucket_corrupt)) + 2 for c in range(1, count)}
    return max((c for c in least if count // (2 * c + 1) >= least[c]), default=1)


def _risk(charter: Charter) -> Iterator[str]:
    terms, c = charter.buckets, charter.protocol.c
    if terms is None or not bucket_count(charter) or not _in_range(charter) or not 1 <= charter.bucket_corrupt <= c:
        return
    if charter.bucket_corrupt >= c:
        if terms.risk is not None:
            yield "risk in [buckets] is for a c of a bucket below that of all; leave it out"
        return
    least = bound(charter)
    if least and (terms.risk is None or least > terms.risk):  # none where buckets are too small for it, said already
        said = "no risk is stated" if terms.risk is None else f"risk = {terms.risk:.2g} is understated"
        yield (
            f"{said} in [buckets]: with {c} corrupt members in {bucket_count(charter)} buckets some bucket holds more "
            f"than {charter.bucket_corrupt} of them with a probability of up to {least:.2g}; "
            f"state risk = {rounded_up(least)!r} or more, or leave c in [buckets] out"
        )


def _rule(charter: Charter) -> Iterator[str]:
    """A rule over the buckets' means, sound for every number of them that may be left."""
    c, count, rule = charter.protocol.c, bucket_count(charter), charter.protocol.rule
    if charter.protocol.name != BUCKETED or c < 1 or count < 2 * c + 1:
        return
    try:
        found = catalogue.find(rule)
    except LocalError:
        return  # said already
    if found.name == "mean":
        yield (
            'rule = "mean" over buckets is the mean of all, which one liar moves as far as it likes; set rule to '
            f'{catalogue.DEFAULT!r}, or name = "secagg", which shows no bucket\'s mean'
        )
        return
    if found.why_not_alike is not None:
        return  # said already
    problem = next((said for m in range(2 * c + 1, count + 1) if (said := catalogue.check(rule, m, c))), None)
    if problem is not None:
        yield f"{problem} (f is c of the charter, and as few as {2 * c + 1} buckets may be left)"


def _terms(charter: Charter) -> Iterator[str]:
    terms, count = charter.protocol, len(charter.members)
    if terms.name != BUCKETED:
        return
    if terms.max_weight > 1:
        yield (
            f"max_weight = {terms.max_weight}: a weight is what a peer says of itself, and under a robust rule no word "
            "may count more than another's; set max_weight to 1"
        )
    if _in_range(charter) and count >= LEAST_IN_BUCKETS and not held_by_the_rest(count, terms.c):
        yield (
            f"{count} members can't draw a beacon against c = {terms.c}: so many could withhold it until they like it; "
            f"lower c to {max(c for c in range(1, terms.c) if held_by_the_rest(count, c))}"
        )


RULES: tuple[Callable[[Charter], Iterator[str]], ...] = (_table, _size, _risk, _rule, _terms)

ON_A_GRID = (_table,)
"""Those that hold for a charter with groups, in which members are in no buckets."""
