"""A peer that averages a vector of ten million coordinates, and tells what memory and time it took."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from decentra.peer.opening import open_peer


def tell(event: str, **facts: object) -> None:
    print(json.dumps({"event": event, **facts}), flush=True)


def status(field: str) -> int:
    """A figure of this process's memory in bytes, from Linux."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024


def main() -> None:
    """Arguments: the peer's number, how many coordinates, and how many rounds."""
    number, coordinates, rounds = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    sizes = [coordinates // 2, coordinates // 4, coordinates - coordinates // 2 - coordinates // 4]
    generator = np.random.default_rng(number)
    update = [generator.uniform(-0.09, 0.09, size).astype(np.float32) for size in sizes]
    peer = open_peer()
    small = peer.average([np.zeros(4, np.float32)])  # what any round needs is loaded
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = status("VmRSS")
    for _ in range(rounds):
        began, used = time.monotonic(), os.times()
        result = peer.average(update)
        now = os.times()
        tell(
            "round",
            number=result.round.number,
            digest=result.digest.hex(),
            mean=[float(values[0]) for values in result.values],
            mine=[float(values[0]) for values in update],
            seconds=time.monotonic() - began,
            cpu=now.user + now.system - used.user - used.system,
            bytes_sent=result.bytes_sent,
            rss=status("VmRSS"),
        )
        del result
    frame = peer._transport.counters.largest_frame
    tell("memory", before=before, peak=status("VmHWM"), frame=frame, small=small.bytes_sent)
    peer.close()


if __name__ == "__main__":
    main()
