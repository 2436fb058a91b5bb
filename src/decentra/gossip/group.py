"""The charters of a grid's groups, and of its drawers: all derive them alike, so nobody signs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from decentra.charter.charter import DAY, AdmissionTerms, Charter
from decentra.charter.grid_policy import WIDTH, drawers_floor
from decentra.errors import LocalError
from decentra.gossip.schedule import Grid, drawers_name, group_name, heaviest
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
    rounds = parent.rounds
    ready = min((axis + 1) * rounds.ready_deadline + axis * rounds.phase_deadline, DAY)
    parent = parent.model_copy(update={"rounds": rounds.model_copy(update={"ready_deadline": ready})})
    return _derived(parent, group_name(name, beacon, axis, members), members, terms)


def drawers_charter(parent: Charter, name: bytes) -> Charter:
    """The charter under which the drawers of a large charter draw its beacon: a round of secagg over nothing at all.

    Its floor is such that those of a round's roster who may lie can't keep the others from its beacon.

    Args:
        parent: the large charter.
        name: its hash.
    """
    terms = {"width": WIDTH, "max_weight": 1, "floor": drawers_floor(parent), "challenges": 0}
    return _derived(parent, drawers_name(name), [member.id for member in parent.drawers], terms)


def _derived(parent: Charter, title: str, members: Sequence[PeerId], terms: Mapping[str, object]) -> Charter:
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
            "members": records,
            "signatures": {},
        },
        "the charter of a group",
    )
