"""A peer on a grid: a session an axis, and a mixing in place of a round."""

from __future__ import annotations

from decentra.charter.charter import Charter
from decentra.driver.mixing import Mixer
from decentra.driver.site import Site
from decentra.errors import LocalError
from decentra.grids import grid
from decentra.peer.config import PeerFolder
from decentra.peer.several import Rounds, SeveralSessions
from decentra.peer.witness import Witness


class GridPeer(SeveralSessions):
    """One peer of a group that averages on a grid; `open_peer` makes it where the charter says so.

    ``average`` runs a mixing and gives a `MixingResult`: the mean of all members, and what it weighs. A peer whose
    group failed raises, with what that means, and takes part again in the next mixing.
    """

    what = "mixing"

    def __init__(self, folder: PeerFolder, *, witness: Witness | None = None) -> None:
        if witness is not None:
            raise LocalError("a leak check looks at one group's rounds; run it on a charter without a grid")
        super().__init__(folder)

    def _rounds_of(self, site: Site) -> Rounds:
        return Mixer(self.charter, site)

    def _sessions(self) -> int:
        """One an axis, and the drawers'."""
        return 1 + _axes(self.charter)


def _axes(charter: Charter) -> int:
    groups = charter.groups
    return 0 if groups is None else grid(len(charter.members), groups.size, charter.protocol.c).axes
