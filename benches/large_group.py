"""What one round of a large group costs a peer, beside the masks alone: n peers in one process on a virtual network.

    python benches/large_group.py [-n 64] [-c 2] [--parameters 1000000] [--protocol secagg] [--json]

Real machines, drivers, links and cryptography; only the network and the clock are virtual. The counters of each peer's
driver give its CPU; ``prg.apply_masks`` with n - 1 masks over as many coordinates gives what no peer can go below.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from statistics import mean

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src")]

from decentra.crypto.prg import Mask, apply_masks  # noqa: E402
from decentra.driver.tally import Counts  # noqa: E402
from decentra.simulation.group import SimulatedGroup, charter_for, identities  # noqa: E402

REPEATS = 3


def masks_alone(n: int, parameters: int, width: int) -> float:
    """CPU seconds of n - 1 masks over so many coordinates: the least of a few runs."""
    masks = [Mask(index.to_bytes(32, "big"), 1 if index % 2 else -1) for index in range(1, n)]
    vector, seconds = np.zeros(parameters, np.dtype(f"<u{width // 8}")), []
    for _ in range(REPEATS):
        began = time.thread_time()
        apply_masks(vector, masks)
        seconds.append(time.thread_time() - began)
    return min(seconds)


def one_round(n: int, c: int, parameters: int, protocol: str) -> tuple[list[Counts], int]:
    """What each peer counted in one round, and the width of the ring."""
    members = identities(n, 0)
    charter = charter_for(members, protocol, protocol__c=c, model__max_parameters=parameters)
    draw = np.random.default_rng(0)
    with SimulatedGroup(charter, members) as group:
        updates = [[draw.normal(0, 0.01, parameters).astype(np.float32)] for _ in members]
        before = [peer.driver.tally.read() for peer in group.peers]
        group.average(updates)
        counts = [peer.driver.tally.read() - earlier for peer, earlier in zip(group.peers, before, strict=True)]
    return counts, charter.protocol.width


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=64, help="peers")
    parser.add_argument("-c", type=int, default=2, help="how many may lie together")
    parser.add_argument("--parameters", type=int, default=1_000_000)
    parser.add_argument("--protocol", default="secagg")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    counts, width = one_round(options.n, options.c, options.parameters, options.protocol)
    masks = masks_alone(options.n, options.parameters, width)
    small, bulk = mean(one.small for one in counts), mean(one.bulk for one in counts)
    figures = {
        "small": small,
        "bulk": bulk,
        "masks": masks,
        "ratio": (small + bulk) / masks,
        "bulk_ratio": bulk / masks,
        "verified": mean(one.verified for one in counts),
    }
    setting = {"protocol": options.protocol, "n": options.n, "c": options.c, "parameters": options.parameters}
    if options.json:
        print(json.dumps({**setting, **figures}))
        return
    print(
        f"{options.protocol}, n = {options.n}, c = {options.c}, {options.parameters:,} parameters; "
        f"a peer's CPU of one round:\n"
        f"  small phases {small:7.3f} s   ({figures['verified']:.0f} messages verified)\n"
        f"  bulk work    {bulk:7.3f} s\n"
        f"  {options.n - 1} masks     {masks:7.3f} s   alone, in this run\n"
        f"  the round takes {figures['ratio']:.2f} times the masks; its bulk work {figures['bulk_ratio']:.2f} times"
    )


if __name__ == "__main__":
    main()
