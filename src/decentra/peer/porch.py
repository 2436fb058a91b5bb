"""A member's door while no peer of its runs: the invited are answered, and nobody else."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from decentra.charter import Charter
from decentra.peer.charters import FolderCharters
from decentra.peer.config import PeerFolder
from decentra.peer.door import Door
from decentra.transport.zeromq import ZeroMQTransport

LOOK = 1.0
"""Seconds between looks at the folder, which people work on meanwhile."""


def stand(folder: PeerFolder, seconds: float, done: Callable[[Charter], bool]) -> bool:
    """Answer the invited at the address that the peer has, until something is done or the time is over.

    Args:
        folder: a member's, whose charter is in force.
        seconds: how long at most.
        done: told the charter in force, every second.

    Returns:
        Whether it was done.

    Raises:
        LocalError: the folder is not in order, or its peer runs and has the port.
    """
    return asyncio.run(_stand(folder, time.monotonic() + seconds, done))


async def _stand(folder: PeerFolder, end: float, done: Callable[[Charter], bool]) -> bool:
    identity, charter, config = folder.load()
    folder.lineage.in_force(identity.id)
    log = logging.getLogger("decentra")
    charters = FolderCharters(folder, identity.id, charter, _nothing, _nothing, log)
    door = Door(folder, identity.id, charters, time.monotonic, charters.take, charters.look, log, guests_only=True)
    loop, secret = asyncio.get_running_loop(), identity.curve_secret
    transport = ZeroMQTransport(loop, identity.id, secret, {}, config.peer.bind, {}, _nothing, _nothing, door)
    try:
        while not (found := done(charters.chain[-1])) and time.monotonic() < end:
            await asyncio.sleep(LOOK)
            charters.look()
            door.look()
        return found
    finally:
        transport.close()


def _nothing(*_: object) -> None:
    """Nobody who would be heard is let in here."""
