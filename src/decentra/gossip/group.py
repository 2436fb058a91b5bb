"""The charters of a grid's groups, of buckets and of who draws them: all derive them alike, so nobody signs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from decentra.charter.charter import DAY, AdmissionTerms, BucketTerms, Charter
from decentra.charter.grid_policy import WIDTH, drawers_floor
from decentra.derive import quorum
from decentra.errors import LocalError
from decentra.gossip.schedule import Grid, bucket_name, combining_name, drawers_name, group_name, heaviest
from decentra.types import PeerId


def group_charter(
    parent: Charter, name: bytes, beacon: bytes, axis: int, grid: Grid, members: Sequence[PeerId]
) -> Charter:
    """The charter of a group along one axis; its hash names the group's session in an epoch.

    It has the terms of the large one, but for its members, its name, the ring's width, and ``max_weight``, which is
    what the heaviest peer can bring along this axis. It waits for readiness as long as the groups before it may have
    waited as well. ``floor`` is left to its default, a function of size and c; what the large charter says of its own
    grid and of amendments is not in it.

    Args:
        parent: the large charter, signed as it demands; c and backup in it are those of each group.
        name: its hash, which takes a while to compute for many members.
        beacon: 32 bytes, drawn after the parent's members were fixed.
        members: who is in the group.

    Raises:
        LocalError: a peer is no member of the parent, or the beacon has another length.
    """
    if len(beacon) != 32:
        raise LocalError(f"a beacon has 32 bytes and this one {len(beacon)}; give the one that the epoch drew")
    terms = {"width": WIDTH, "max_weight": heaviest(grid, axis, parent.protocol.max_weight), "floor": None}
    return _derived(_later(parent, axis), group_name(name, beacon, axis, members), members, terms)


def bucket_charter(parent: Charter, name: bytes, beacon: bytes, members: Sequence[PeerId]) -> Charter:
    """The charter of one bucket, within which its members sum by secagg; its hash names the bucket's session.

    It has the terms of the group's but for its members, its name, c, which is that of a bucket, and its floor.

    Args:
        parent: the group's charter, signed as it demands; ``name`` is its hash.
        beacon: 32 bytes, drawn after the parent's members were fixed.
        members: who is in the bucket.
    """
    terms = _SUMS | {"c": parent.bucket_corrupt, "floor": bucket_floor(len(members), parent.bucket_corrupt)}
    return _derived(parent, bucket_name(name, beacon, members), members, terms)


def bucket_floor(size: int, c: int) -> int:
    """The fewest members that a bucket's round may start with: two thirds, ⌊(s+c)/2⌋+1, and so many that no two of its
    rounds can both be certified within one of the group's.

    Whoever certified one has its result and begins no other, and of its quorum in a roster of f, t(f) − c are honest:
    so too few are left for a second roster where f + t(f) > s + c.

    >>> [bucket_floor(size, 1) for size in (3, 4, 5, 6, 9)]
    [3, 3, 4, 5, 7]
    """
    least = next(f for f in range(1, size + 1) if f + quorum(f, c) > size + c)
    return max(least, -(-2 * size // 3), quorum(size, c))


def combining_charter(parent: Charter, name: bytes, beacon: bytes) -> Charter:
    """The charter under which the members of all buckets combine the buckets' means; it holds the beacon, and so who is
    in which bucket. It waits for readiness as long as the buckets before it may have waited as well."""
    if parent.buckets is None:
        raise LocalError("this charter has no table [buckets]; there are no means to combine")
    later = _later(parent, 1)
    drawn = later.model_copy(update={"buckets": parent.buckets.model_copy(update={"beacon": beacon})})
    terms = {"challenges": None, "backup": False}
    return _derived(drawn, combining_name(name, beacon), parent.ids, terms, buckets=drawn.buckets)


def drawers_charter(parent: Charter, name: bytes) -> Charter:
    """The charter under which the drawers of a large charter draw its beacon: a round of secagg over nothing at all.

    Its floor is such that those of a round's roster who may lie can't keep the others from its beacon.

    Args:
        parent: the large charter.
        name: its hash.
    """
    terms = _SUMS | {"width": WIDTH, "max_weight": 1, "floor": drawers_floor(parent), "challenges": 0, "backup": False}
    return _derived(parent, drawers_name(name), [member.id for member in parent.drawers], terms)


_SUMS = {"name": "secagg", "rule": "mean"}
"""What is said of a session in which members sum, whatever is done with the sums."""


def _later(parent: Charter, before: int) -> Charter:
    """The charter with the readiness of a session whose members come from so many rounds of others."""
    rounds = parent.rounds
    ready = min((before + 1) * rounds.ready_deadline + before * rounds.phase_deadline, DAY)
    return parent.model_copy(update={"rounds": rounds.model_copy(update={"ready_deadline": ready})})


def _derived(
    parent: Charter,
    title: str,
    members: Sequence[PeerId],
    terms: Mapping[str, object],
    buckets: BucketTerms | None = None,
) -> Charter:
    wanted = frozenset(members)
    records = tuple(member for member in parent.members if member.id in wanted)
    if len(records) != len(wanted):
        strangers = len(wanted) - len(records)
        raise LocalError(f"{strangers} of the group are no members of {parent.group.name!r}; draw it from its members")
    return Charter.build(
        {
            **dict(parent),
            "group": parent.group.model_copy(update={"name": title}),
            "protocol": parent.protocol.model_copy(update=terms),
            "admission": AdmissionTerms(),
            "groups": None,
            "buckets": buckets,
            "members": records,
            "signatures": {},
        },
        "the charter of a group",
    )
