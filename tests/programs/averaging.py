"""A peer that averages its own number, round after round, and tells what came of each."""

from __future__ import annotations

import json
import logging
import sys
import time

import numpy as np

from decentra.errors import DecentraError
from decentra.peer.config import PeerFolder
from decentra.peer.runtime import Peer


def tell(event: str, **facts: object) -> None:
    print(json.dumps({"event": event, **facts}), flush=True)


def main() -> None:
    """Arguments: its number, how many rounds, and ``step`` where each round is to wait for a line on stdin."""
    number, rounds, stepping = float(sys.argv[1]), int(sys.argv[2]), "step" in sys.argv[3:]
    logging.getLogger("decentra").setLevel(logging.WARNING)
    peer = Peer(PeerFolder.find())
    tell("ready", id=str(peer.id))
    for _ in range(rounds):
        if stepping:
            tell("waiting")
            sys.stdin.readline()
        began = time.monotonic()
        try:
            result = peer.average([np.full(5, number, np.float32)])
        except DecentraError as error:
            tell("failed", kind=type(error).__name__, error=str(error), seconds=time.monotonic() - began)
        else:
            tell(
                "round",
                number=result.round.number,
                mean=float(result.values[0][0]),
                participants=[str(one) for one in result.participants],
                seconds=time.monotonic() - began,
            )
    closing = peer.close()
    tell("closed", rounds=closing.rounds, failed=closing.failed, transcript=str(closing.transcript))


if __name__ == "__main__":
    main()
