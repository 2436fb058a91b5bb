"""A peer of ``benches/kills.py``: averages its own number for ever, and tells what came of every round."""

from __future__ import annotations

import json
import sys

import numpy as np

from decentra.errors import DecentraError
from decentra.peer.config import PeerFolder
from decentra.peer.runtime import Peer

LENGTH = 2000


def tell(event: str, **facts: object) -> None:
    print(json.dumps({"event": event, **facts}), flush=True)


def main() -> None:
    """Argument: its number."""
    number = float(sys.argv[1])
    peer = Peer(PeerFolder.find())
    tell("ready", id=str(peer.id))
    while True:
        try:
            result = peer.average([np.full(LENGTH, number, np.float32)])
        except DecentraError as error:
            tell("failed", kind=type(error).__name__, error=str(error), spent=error.spent)
        else:
            tell(
                "round",
                number=result.round.number,
                digest=result.digest.hex(),
                low=float(result.values[0].min()),
                high=float(result.values[0].max()),
                participants=[str(one) for one in result.participants],
                seconds=result.seconds,
            )


if __name__ == "__main__":
    main()
