"""Which combinations of members, thresholds and numbers are sound; everything else is refused, never warned about.

All problems are collected before anything is raised, each with its mend. The bounds come from the protocols' specs
(``specs/<name>/spec.toml``, [params]) and from the ring that sums are taken in (Z modulo 2^width).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from decentra.charter import bucket_policy, grid_policy, shares_policy
from decentra.charter.bucket_policy import BUCKETED as BUCKETED
from decentra.charter.charter import FILE, Charter
from decentra.charter.shares_policy import SHARED as SHARED
from decentra.charter.toml import raise_problems
from decentra.crypto.shares.quanta import encoded_for
from decentra.derive import quorum
from decentra.errors import LocalError, did_you_mean, nearest
from decentra.grids import MOST_TOGETHER
from decentra.robust import catalogue

SHIPPED = ("secagg", "allreduce", "mesh", "bucketed", SHARED)
"""The protocols that a charter may name."""

LEAST_MEMBERS, MOST_MEMBERS = 3, MOST_TOGETHER
"""Below 3 a sum bares an update; above 64 members belong in groups on a grid."""

MOST_REPORTS = 64
"""Recomputed sums of a round: as many as there are members at most, each the work of one slice's owner."""

MESH = "mesh"
"""The protocol that evaluates robust rules on updates."""

ROBUST = (MESH, BUCKETED, SHARED)
"""The protocols that evaluate robust rules."""

LEAST_QUANTA = 127
"""The coarsest encoding offered: fewer steps than 8 bits on each side of zero would drown an update in rounding."""

MOST_WEIGHT_AT_16 = 8
"""Each factor of 2 in the weights costs a bit of 16; at 64 members and weight 8 an update keeps 6 bits."""

_LATER = {
    "bfv": "is not in this release",
    "ckks": "is refused: publishing a CKKS sum at full precision gives the secret key away (Li and Micciancio 2021)",
}
_ENCRYPTION = ("he", "fhe", "bgv", "tfhe", "paillier", "elgamal", "homomorphic", "tenseal")


@dataclass(frozen=True)
class Policy:
    """Judges a charter for its whole membership, the largest roster that a round can have; where its members stand on
    a grid, for the groups there."""

    charter: Charter

    @property
    def problems(self) -> tuple[str, ...]:
        """Everything unsound, a sentence each with its mend; empty for a sound charter."""
        rules = _RULES if self.charter.groups is None else _GRID_RULES
        return tuple(problem for rule in rules for problem in rule(self.charter))

    def check(self, where: str = FILE) -> None:
        """Refuse an unsound charter.

        Args:
            where: the file's name, for the message.

        Raises:
            LocalError: all problems at once.
        """
        raise_problems(where, self.problems)

    @property
    def threshold(self) -> int:
        """t = ⌊(n+c)/2⌋+1 with every member in the roster: quorum, Shamir threshold and floor on the survivors."""
        return quorum(self._together[0], self.charter.protocol.c)

    @property
    def stops_survived(self) -> int:
        """n − t: how many stops and silent liars a round with every member survives by its threshold."""
        return self._together[0] - self.threshold

    @property
    def quanta(self) -> int:
        """The largest magnitude of an encoded coordinate of an update: n · max|q| < 2^(width−1), n being those it is
        summed with; on shares that of the longest update that the charter has room for, since no update's length may
        wrap around."""
        if self.charter.protocol.name == SHARED:
            count, d = max(1, len(self.charter.members)), self.charter.model.max_parameters
            return ((1 << (self.charter.protocol.width - 1)) - 1) // encoded_for(count, d)
        together = bucket_policy.bucket_sizes(self.charter)[1] or self._together[1]
        return ((1 << (self.charter.protocol.width - 1)) - 1) // max(1, together)

    @property
    def _together(self) -> tuple[int, int]:
        """How many are in a round at least, and at most, with every member in it: in the smallest group and in the
        largest, where the members stand on a grid that fits them."""
        drawn, count = grid_policy.drawn(self.charter), len(self.charter.members)
        return (count, count) if drawn is None else drawn.sizes


def _protocol(charter: Charter) -> Iterator[str]:
    name = charter.protocol.name
    choice = f"choose {', '.join(SHIPPED[:-1])} or {SHIPPED[-1]}"
    if name in SHIPPED:
        return
    plain = name.lower().replace("_", "-")
    if plain in _LATER:
        yield f"the protocol {name!r} {_LATER[plain]}; {choice}"
    elif plain in _ENCRYPTION:
        yield f"homomorphic encryption ({name!r}) is not in this release; {choice}"
    else:
        yield f"there is no protocol {name!r}; {did_you_mean(plain, SHIPPED, choice)}"


def _members(charter: Charter) -> Iterator[str]:
    count, name = len(charter.members), charter.protocol.name
    if count < LEAST_MEMBERS:
        more = LEAST_MEMBERS - count
        yield f"{name} needs at least {LEAST_MEMBERS} members and has {count}; add {more} with `decentra charter add`"
    if count > MOST_MEMBERS:
        yield (
            f"{name} takes at most {MOST_MEMBERS} members and has {count}; have them average in groups on a grid, by a "
            f"table [groups] as in protocols/group-gossip.toml"
        )


def _collusion(charter: Charter) -> Iterator[str]:
    count, c = len(charter.members), charter.protocol.c
    if count < LEAST_MEMBERS:
        return  # said already, and nothing fits too few members
    if not 1 <= c <= count - 2:
        yield (
            f"c = {c} is out of 1..{count - 2} for {count} members, as against all but one colluding nothing hides an "
            f"update; set c in [protocol] within it"
        )
    elif quorum(count, c) > count:
        yield f"no {quorum(count, c)} of {count} members can agree with c = {c}; lower c in [protocol]"


def _floor(charter: Charter) -> Iterator[str]:
    count, c, floor = len(charter.members), charter.protocol.c, charter.protocol.floor
    if floor is None or count < LEAST_MEMBERS:
        return
    if floor > count:
        yield f"floor = {floor} is more than the {count} members, so no round could start; lower it or leave it out"
    if floor < quorum(count, c):
        yield (
            f"floor = {floor} is below ⌊(m+c)/2⌋+1 = {quorum(count, c)}, so two halves of the group could run the same "
            f"round; raise floor to {quorum(count, c)} or leave it out"
        )
    if charter.protocol.name in (MESH, BUCKETED) and quorum(count, c) <= floor < 3 * c:
        what = "updates may count" if charter.protocol.name == MESH else "holdings may settle what counts"
        yield (
            f"floor = {floor} lets a round start of which {quorum(floor, c)} {what}, and c = {c} liars need "
            f"{2 * c + 1} against them; raise floor to {3 * c} or leave it out"
        )
    if c > floor - 2:
        yield f"floor = {floor} lets a round start in which c = {c} colluders face one honest peer; raise it to {c + 2}"


_NOT_ROBUST = {
    "secagg": "secagg reveals only the sum, so the robust rule {rule!r} on it would silently be the mean",
    "allreduce": "under allreduce a peer has one slice of the updates, and the robust rule {rule!r} needs them whole",
}


def _rule(charter: Charter) -> Iterator[str]:
    rule, name = charter.protocol.rule, charter.protocol.name
    try:
        found = catalogue.find(rule)
    except LocalError as error:
        yield str(error)
        return
    if found.name != rule:  # it is hashed as it stands, and members compare hashes
        yield f"a charter has one spelling for a rule, and {rule!r} is another; did you mean {found.name!r}?"
    if found.name == "mean" or name == SHARED:
        return
    if name not in ROBUST:
        said = _NOT_ROBUST.get(name, "{rule!r} is a robust rule").format(rule=rule)
        yield (
            f'{said}; set rule = "mean", or name = "{MESH}" where all members may see all updates, or name = '
            f'"{BUCKETED}" where they may see means of a few, or name = "{SHARED}" where they may see none'
        )
    elif found.why_not_alike is not None:
        exact = [name for name in catalogue.exact_rules() if name != "mean"]
        yield f"{found.why_not_alike}; set rule to {nearest(found.name, exact) or catalogue.DEFAULT!r}"
    elif name == MESH:
        yield from _rule_fits(charter, found.name)


def _rule_fits(charter: Charter, rule: str) -> Iterator[str]:
    """Whether a rule is sound for every number of updates that may count in a round, and without those of liars that
    send none that encoding gives."""
    c, count = charter.protocol.c, len(charter.members)
    least = quorum(charter.roster_floor, c)
    if count < LEAST_MEMBERS or not 1 <= c <= count - 2 or least < 2 * c + 1:
        return  # said already
    numbers = [(least - fewer, c - fewer) for fewer in range(c + 1)] + [(n, c) for n in range(least, count + 1)]
    problem = next((said for n, f in numbers if (said := catalogue.check(rule, n, f)) is not None), None)
    if problem is not None:
        yield f"{problem} (f is c of the charter, and as few as {least} updates may count in a round)"


def _mesh(charter: Charter) -> Iterator[str]:
    """What one rule on one agreed set of whole updates needs: t ≥ 2c + 1, and that all weigh alike."""
    terms, count = charter.protocol, len(charter.members)
    if terms.name != MESH:
        return
    if count >= LEAST_MEMBERS and terms.c >= 1 and count < 3 * terms.c:
        yield (
            f"with c = {terms.c} an update that reached everybody may be kept out of a round of {count} members, as "
            f"{quorum(count, terms.c)} may end it; lower c to {count // 3} or add {3 * terms.c - count}"
        )
    if terms.max_weight > 1:
        yield (
            f"max_weight = {terms.max_weight}: a weight is what a peer says of itself, and under a robust rule no "
            "word may count more than another's; set max_weight to 1"
        )
    if terms.backup:
        yield "backup = true is for slices, and mesh sends whole updates to everybody; leave it out"


def _numbers(charter: Charter) -> Iterator[str]:
    terms, count = charter.protocol, max(1, len(charter.members))
    half = 1 << (terms.width - 1)
    if count * terms.max_weight >= half:
        most = (half - 1) // count
        yield (
            f"{count} members of weight {terms.max_weight} overflow width {terms.width}: their product must stay below "
            f"{half}; set max_weight to at most {most}" + (" or width to 32" if terms.width == 16 else "")
        )
    elif terms.width == 16 and terms.max_weight > MOST_WEIGHT_AT_16:
        yield (
            f"max_weight = {terms.max_weight} leaves too few of 16 bits for the update; set it to at most "
            f"{MOST_WEIGHT_AT_16}, or width to 32"
        )
    quanta = (half - 1) // count
    if quanta < LEAST_QUANTA:
        yield (
            f"width {terms.width} leaves {count} members ±{quanta} steps a coordinate, below ±{LEAST_QUANTA}; "
            f"set width to 32"
        )


def _ranges(charter: Charter) -> Iterator[str]:
    terms = charter.protocol
    low, high = terms.range_bounds
    if low > high:
        yield f"range_bounds = [{low!r}, {high!r}] has its lower bound first above its upper one; swap them"
        return
    named = {"initial_range": terms.initial_range} | {f"the range of {key!r}": at for key, at in terms.ranges.items()}
    for name, value in named.items():
        if not low <= value <= high:
            yield f"{name} = {value!r} is outside range_bounds = [{low!r}, {high!r}]; move it inside or widen them"


def _challenges(charter: Charter) -> Iterator[str]:
    wanted, c, count = charter.protocol.challenges, charter.protocol.c, len(charter.members)
    if not wanted:
        return
    if charter.protocol.name == BUCKETED:
        count = 0 if charter.buckets is None else charter.buckets.size
    elif charter.protocol.name == SHARED:
        return  # said there
    elif charter.protocol.name != "secagg":
        yield (
            f"challenges = {wanted} needs the beacon that secagg deals, and {charter.protocol.name} deals none; "
            "leave it out"
        )
        return
    if wanted > max(count, LEAST_MEMBERS):
        yield f"challenges = {wanted} is more than the {count} slices of a round; lower it"
    elif wanted * (c + 1) > MOST_REPORTS:
        yield (
            f"challenges = {wanted} with c = {c} asks for {wanted * (c + 1)} recomputed sums a round, "
            f"of {MOST_REPORTS} at most; set it to at most {MOST_REPORTS // (c + 1)}"
        )


def _admission(charter: Charter) -> Iterator[str]:
    if charter.admission.invites:
        yield "invites = true in [admission] is not in this release, people sign for a newcomer; leave it out"
    wanted, count, c = charter.admission.quorum, len(charter.members), charter.corrupt
    if wanted is None or count < LEAST_MEMBERS:
        return
    least = quorum(count, c)
    if wanted < least:
        yield (
            f"quorum = {wanted} in [admission] is below ⌊(m+c)/2⌋+1 = {least}, so liars could have two amendments "
            f"signed side by side; raise it to {least} or leave it out"
        )
    elif wanted > count:
        yield f"quorum = {wanted} in [admission] is more than the {count} members; lower it or leave it out"


_RULES: tuple[Callable[[Charter], Iterator[str]], ...] = (
    _protocol,
    _members,
    _collusion,
    _floor,
    _rule,
    _mesh,
    _numbers,
    _ranges,
    _challenges,
    _admission,
    *bucket_policy.RULES,
    *shares_policy.RULES,
)

_GRID_RULES = (_protocol, _rule, _ranges, _admission, *bucket_policy.ON_A_GRID, *grid_policy.RULES)
