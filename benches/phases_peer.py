"""A peer of ``benches/phases.py``: averages vectors of noise, and tells what each round cost it."""

from __future__ import annotations

import json
import sys
import time

import numpy as np

from decentra.peer.config import PeerFolder
from decentra.peer.runtime import Peer


def main() -> None:
    """Arguments: its number, how many parameters, how many rounds."""
    number, parameters, rounds = map(int, sys.argv[1:])
    update = [np.random.default_rng(number).normal(0, 0.01, parameters).astype(np.float32)]
    with Peer(PeerFolder.find()) as peer:
        for _ in range(rounds):
            counts, process = peer.counts, time.process_time()
            result = peer.average(update)
            spent, process = peer.counts - counts, time.process_time() - process
            facts = {
                "round": result.round.number,
                "participants": len(result.participants),
                "seconds": result.seconds,
                "small": spent.small,
                "bulk": spent.bulk,
                "kept": spent.kept,
                "process": process,
                "signed": spent.signed,
                "verified": spent.verified,
            }
            print(json.dumps({"event": "round", **facts}), flush=True)


if __name__ == "__main__":
    main()
