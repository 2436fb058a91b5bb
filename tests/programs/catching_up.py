"""A peer that holds a common state of some MiB, and tells after every round what it holds; one may stop on the way."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decentra.errors import DecentraError
from decentra.machine.state import piece_digests
from decentra.peer.config import PeerFolder
from decentra.peer.runtime import Peer


def tell(event: str, **facts: object) -> None:
    print(json.dumps({"event": event, **facts}), flush=True)


def status(field: str) -> int:
    """A figure of this process's memory in bytes, from Linux."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024


class Held:
    """Numbers that every round moves."""

    def __init__(self, seed: int, mib: int) -> None:
        self.values = np.random.default_rng(seed).standard_normal(mib << 18, np.float32)

    def pieces(self) -> tuple[bytes, ...]:
        return piece_digests(self.export())

    def export(self) -> list[NDArray[np.uint8]]:
        return [self.values.view(np.uint8)]

    def adopt(self, data: memoryview) -> None:
        self.values[:] = np.frombuffer(data, np.float32)

    @property
    def nbytes(self) -> int:
        return int(self.values.nbytes)


def stop_after(peer: Peer, parts: int) -> None:
    """Stop this process as ``kill -STOP`` does, right before it sends one part more than these."""
    driver: Any = peer._session.driver
    post, given = driver._post_to, 0

    def counted(target: object, verified: Any, blob: object) -> None:
        nonlocal given
        given += verified.entry.kind == "rendezvous.state"
        if given > parts:
            os.kill(os.getpid(), signal.SIGSTOP)
        post(target, verified, blob)

    driver._post_to = counted


def main() -> None:
    """Arguments: a seed, MiB, and after how many parts it stops; a round begins with each line on stdin."""
    seed, mib, parts = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    state = Held(seed, mib)
    with Peer(PeerFolder.find()) as peer:
        stop_after(peer, parts)
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        tell("ready", id=str(peer.id), rss=status("VmRSS"))
        for _ in sys.stdin:
            began = time.monotonic()
            try:
                result = peer.average([np.full(3, 0.01, np.float32)], state=state)
            except DecentraError as error:
                tell("failed", kind=type(error).__name__, error=str(error))
            else:
                state.values += result.values[0][0]
                tell(
                    "round",
                    number=result.round.number,
                    participants=[str(one) for one in result.participants],
                    state=hashlib.sha256(state.values.data).hexdigest(),
                    seconds=time.monotonic() - began,
                    peak=status("VmHWM"),
                )


if __name__ == "__main__":
    main()
