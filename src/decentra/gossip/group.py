"""The charter of one group of a grid: derived by everyone alike from the large charter, so nobody has to sign it."""

from __future__ import annotations

from collections.abc import Sequence

from decentra.charter.charter import Charter
from decentra.errors import LocalError
from decentra.gossip.schedule import Grid, group_name, heaviest
from decentra.types import PeerId

WIDTH = 32
"""Weights of a mixing are exact integers; 16 bits hold neither them nor the precision that k rounds in a row need."""


def group_charter(
    parent: Charter, name: bytes, beacon: bytes, axis: int, grid: Grid, members: Sequence[PeerId]
) -> Charter:
    """The charter of a group along one axis; its hash names the group's session in an epoch.

    It has the terms of the large one, but for its members, its name, the ring's width, and ``max_weight``, which is
    what the heaviest peer can bring along this axis. ``floor`` is left to its default, a function of size and c.

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
    wanted = frozenset(members)
    records = tuple(member for member in parent.members if member.id in wanted)
    if len(records) != len(wanted):
        strangers = len(wanted) - len(records)
        raise LocalError(f"{strangers} of the group are no members of {parent.group.name!r}; draw it from its members")
    terms = {"width": WIDTH, "max_weight": heaviest(grid, axis, parent.protocol.max_weight), "floor": None}
    group = {"name": group_name(name, beacon, axis, members)}
    return Charter.build(
        {
            **dict(parent),
            "group": parent.group.model_copy(update=group),
            "protocol": parent.protocol.model_copy(update=terms),
            "members": records,
            "signatures": {},
        },
        "the charter of a group",
    )
