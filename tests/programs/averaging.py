"""A peer that averages its own number, round after round, and tells what came of each."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import numpy as np

from decentra.errors import DecentraError
from decentra.peer.config import PeerFolder
from decentra.peer.runtime import Peer


def tell(event: str, **facts: object) -> None:
    print(json.dumps({"event": event, **facts}), flush=True)


def fill_disk(folder: Path) -> None:
    """Files stay as large as they are, which SQLite is told as it is of a full disk."""
    largest = max(path.stat().st_size for path in folder.glob("journal.db*"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    tell("full")


def main() -> None:
    """Arguments: its number, and how many rounds.

    With ``step`` each round waits for a line on stdin; with ``full`` no file grows any more once the first is through.
    """
    number, rounds, options = float(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    stepping = "step" in options
    peer = Peer(PeerFolder.find())
    tell("ready", id=str(peer.id))
    for _ in range(rounds):
        if stepping:
            tell("waiting")
            sys.stdin.readline()
            tell("begins")
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
            if "full" in options:
                fill_disk(peer.folder.path)
    closing = peer.close()
    tell("closed", rounds=closing.rounds, failed=closing.failed, transcript=str(closing.transcript))


if __name__ == "__main__":
    main()
