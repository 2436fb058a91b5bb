"""Opening a peer of whichever kind its charter asks for."""

from __future__ import annotations

import os

from decentra.peer.buckets import BucketPeer
from decentra.peer.config import PeerFolder
from decentra.peer.grid import GridPeer
from decentra.peer.runtime import Peer
from decentra.peer.witness import Witness


def open_peer(state: str | os.PathLike[str] | None = None) -> Peer:
    """A peer on the network, whose ``average`` gives what its group makes of everybody's: the mean, or what the
    charter's rule gives; on a grid the mean of all groups.

    Args:
        state: the peer's folder; by default what ``decentra run`` set in DECENTRA_STATE.

    Raises:
        LocalError: the folder, charter or configuration can't be used, or the port is taken.
    """
    return peer_of(PeerFolder.find(state))


def peer_of(folder: PeerFolder, *, witness: Witness | None = None) -> Peer:
    """The peer that a folder's charter asks for.

    Args:
        witness: for a leak check, see `Peer`.

    Raises:
        LocalError: as ``open_peer``; or a witness where there is no one group to look at.
    """
    charter = folder.load_charter()
    kind = Peer if charter.groups is None and charter.buckets is None else BucketPeer
    return (kind if charter.groups is None else GridPeer)(folder, witness=witness)
