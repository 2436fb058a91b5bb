"""Group gossip beyond a test's patience: the schedule alone to 100,000 peers, and what a peer pays at 64 and 1,000.

    python benches/group_gossip.py [--machines]

The first part takes seconds: the error after each round of the vectorised model, beside what theory says, with and
without a tenth of the peers lost. With ``--machines`` the real machines play mixings of 64 and 1,000 peers in groups of
16, some five minutes of a core; it fails unless bytes and CPU a peer and round are within a tenth of each other, the
mean without losses is exact, and memory stays below 4 GB.
"""

from __future__ import annotations

import argparse
import math
import resource
import sys
import time

import numpy as np

from decentra.cli.grid import EXACT
from decentra.gossip import schedule
from decentra.simulation.grid import Mixing, Play
from decentra.simulation.mixing import error, expected, mix

SIZES = ((64, 16), (1_000, 16), (4_096, 16), (10_000, 32), (100_000, 16), (100_000, 32))
TENTH = 0.1
MEMORY = 4 << 30
CORRUPT = 4


def model(n: int, group: int, lost: float, seed: int) -> None:
    """One mixing of the model, a line."""
    grid, rng = schedule.grid(n, group), np.random.default_rng(seed)
    values = rng.normal(size=(n, 8))
    gone, when = rng.random(n) < lost, rng.integers(0, grid.axes, n)
    deviation = float(np.sqrt(values.var(axis=0, ddof=1).mean()))
    began = time.perf_counter()
    states = list(mix(grid, values, [gone & (when == axis) for axis in range(grid.axes)]))
    took = time.perf_counter() - began
    said = expected(grid, [1.0 - lost * (axis + 1) / grid.axes for axis in range(grid.axes)])
    told = "  ".join(
        f"{error(state, values.mean(axis=0)) / deviation:.2e} ({math.sqrt(one):.2e})"
        for state, one in zip(states, said, strict=True)
    )
    sides = " × ".join([str(grid.side)] * grid.axes)
    print(f"n = {n:7,}  groups of {grid.sizes[0]}–{grid.sizes[1]} on {sides}  lost {lost:.0%}  {told}  {took:.2f} s")


def machines(n: int, lost: float) -> tuple[float, float]:
    """One mixing of the real machines; bytes and seconds of a core a peer and round."""
    told = []
    for one in Mixing(Play(n, 16, CORRUPT, lost=lost)).rounds():
        told.append(one)
        error = "none holds a mean" if one.error is None else f"error {one.error:.2e} ({one.expected:.2e})"
        print(
            f"n = {n:5,}  lost {lost:.0%}  round {one.axis + 1}: {one.failed} of {one.groups} groups failed, "
            f"{error}, {one.bytes:,.0f} bytes, {one.seconds:.4f} s"
        )
    if lost == 0.0 and (told[-1].worst is None or told[-1].worst > EXACT or told[-1].holders < n):
        sys.exit("nobody was lost, and the mean is not exact")
    return sum(one.bytes for one in told) / len(told), sum(one.seconds for one in told) / len(told)


def main() -> None:
    parser = argparse.ArgumentParser(description="the model to 100,000 peers, and the real machines to 1,000")
    parser.add_argument("--machines", action="store_true")
    asked = parser.parse_args()
    print("error of the mean after each round in deviations of the values (theory)")
    for n, group in SIZES:
        for lost in (0.0, TENTH):
            model(n, group, lost, seed=1)
    if not asked.machines:
        return
    few, many = machines(64, 0.0), machines(1_000, 0.0)
    machines(1_000, TENTH)
    ratios = [after / before for before, after in zip(few, many, strict=True)]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"bytes × {ratios[0]:.3f}, CPU × {ratios[1]:.3f} from 64 to 1,000 peers; {memory / 2**20:,.0f} MiB at most")
    if any(abs(ratio - 1.0) > TENTH for ratio in ratios) or memory > MEMORY:
        sys.exit("what a peer pays is not flat, or the memory is too much")


if __name__ == "__main__":
    main()
