"""What else has to be sound where a rule runs on secret shares: enough holders to see every lie, and a rule that looks
at inner products alone and lays no update bare.

The bounds are those of ``specs/shamir-gram``: lies about products are seen from n = 3c + 1 on, named from 4c + 1 on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from decentra.charter.charter import Charter
from decentra.derive import quorum
from decentra.errors import LocalError
from decentra.robust import catalogue, shared

SHARED = "shamir-gram"
"""The protocol that evaluates robust rules on secret shares."""

LEAST_MEMBERS = 4
"""3c + 1 for c = 1."""

MOST_MEMBERS = 48
"""A proposal shows all members' words of all inner products: of 48 members these are half a mebibyte, of 64 more than
an entry holds."""

WIDTH = 32


def least_roster(c: int) -> int:
    """3c + 1: the fewest members of a round in which every lie about a product is seen."""
    return 3 * c + 1


def least_to_name(c: int) -> int:
    """4c + 1: the fewest members of a round in which lies about products are corrected, and named."""
    return 4 * c + 1


def _size(charter: Charter) -> Iterator[str]:
    terms, count = charter.protocol, len(charter.members)
    if terms.name != SHARED or terms.c < 1:
        return
    if count > MOST_MEMBERS:
        yield (
            f'{SHARED} takes at most {MOST_MEMBERS} members and has {count}; use fewer, or name = "bucketed", which is '
            "private and robust for more"
        )
    if count < least_roster(terms.c):
        most = (count - 1) // 3
        mend = f"lower c to {most} or add {least_roster(terms.c) - count}" if most else f"add {LEAST_MEMBERS - count}"
        yield (
            f"{count} members don't see every lie of c = {terms.c} on shares, which takes 3c + 1 = "
            f"{least_roster(terms.c)}; {mend}"
        )
    elif terms.floor is not None and quorum(count, terms.c) <= terms.floor < least_roster(terms.c):
        yield (
            f"floor = {terms.floor} lets a round start in which lies of c = {terms.c} on shares go unseen; raise floor "
            f"to {least_roster(terms.c)} or leave it out"
        )


def _rule(charter: Charter) -> Iterator[str]:
    """A rule that runs on shares, sound for every number of updates that may count in a round."""
    terms, count = charter.protocol, len(charter.members)
    if terms.name != SHARED:
        return
    try:
        catalogue.find(terms.rule)
    except LocalError:
        return  # said already
    least = shared.fewest_updates(quorum(charter.roster_floor, max(1, terms.c)), terms.c)
    for n in range(min(least, count), count + 1):
        problem = shared.misfit(terms.rule, n, terms.c, terms.c)
        if problem is not None:
            if count >= least_roster(terms.c):
                yield f"{problem} (f is c of the charter)"
            elif problem == shared.misfit(terms.rule, 4 * (count + 1), 1, 1):
                yield problem  # whatever the numbers
            return


def _terms(charter: Charter) -> Iterator[str]:
    terms = charter.protocol
    if terms.name != SHARED:
        return
    if terms.width != WIDTH:
        yield f"width = {terms.width}: updates are shared in elements of 61 bits, and a result has 32; set width to 32"
    if terms.max_weight > 1:
        yield (
            f"max_weight = {terms.max_weight}: a weight is what a peer says of itself, and under a robust rule no word "
            "may count more than another's; set max_weight to 1"
        )
    if terms.challenges:
        yield f"challenges = {terms.challenges} is for sums of secagg, and here every slice is tried; leave it out"
    if terms.backup:
        yield "backup = true is for slices of masked vectors, and here everybody holds a share of all; leave it out"


RULES: tuple[Callable[[Charter], Iterator[str]], ...] = (_size, _rule, _terms)
