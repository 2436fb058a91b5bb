"""What a peer says where its group is not one: which half goes on, whose it is, and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from decentra.gossip.halves import Split, Verdict
from decentra.types import EpochName, PeerId


class Division(NamedTuple):
    """Which half goes on, from this peer's side, and that in one sentence; empty where the group is one."""

    verdict: Verdict
    says: str


ONE = Division("one", "")


def weigh(epoch: EpochName, c: int, ahead: Sequence[PeerId], split: Split) -> Division:
    """What stands between the halves of a group.

    Args:
        epoch: this peer's.
        c: how many members may lie.
        ahead: who speaks for a later epoch whose charter this peer has verified.
        split: how what was certified differs within this epoch.
    """
    if len(ahead) > c:  # one of them is honest, and has really gone over
        gone = f"the group has gone on in a later epoch ({_names(ahead)}), by its quorum"
        mend = "its half stops until what the log says is mended, and its program is started again"
        return Division("there", f"{gone}, and this peer is in {epoch}: {mend}")
    here, there = _names(split.here), _names(split.there)
    differ = f"two halves certified different outcomes of round {split.round}, {here} and {there}"
    match split.verdict:
        case "one":
            return ONE
        case "here":
            rest = "this peer's is a quorum and goes on, the other takes over its state"
        case "there":
            rest = "the other one is a quorum and goes on, this peer's stops and takes over its state"
        case "open":
            rest = "too few members were heard to say which is a quorum"
        case _:
            mend = "agree on one, and start the other's peers again, which then take over its state"
            rest = f"neither is a quorum, so more than c lied or run from a copy, and none goes on: {mend}"
    return Division(split.verdict, f"{differ}; {rest}")


def _names(peers: Sequence[PeerId]) -> str:
    return ", ".join(map(str, peers))
