"""What the means of buckets tell of single updates over rounds: redrawn, fixed, and fixed with drops.

    python benches/leaks.py [--rounds 400] [--trials 20] [--seed 0] [--write]

Every round shows the sum of each bucket over its survivors. Where updates change slowly these are linear equations in
the same unknowns. An update is *solvable* once its unit vector is in the span of the equations, exactly; what is told
is the round by which half of the honest updates are, the first one is, or how few ever are. c of the peers collude, so
their own updates are no unknowns. A bucket whose survivors are fewer than its threshold has no sum in that round.

The second table lets updates drift: each round x ← ρ·x + √(1 − ρ²)·(something new), and takes the best linear estimate
of the newest update by all sums so far. Told is its cosine with the true one, in the mean over honest peers: 1 is the
update itself, and what its bucket's last sum alone tells is 1/√(honest members). ``--write`` makes LEAKS.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

import numpy as np
from numpy.typing import NDArray

from decentra import derive
from decentra.types import PeerId

Floats = NDArray[np.float64]

SETUPS = ((9, 1, 3), (16, 1, 4), (27, 2, 5), (64, 3, 8), (64, 7, 4))
"""Peers, c, and the least size of a bucket; in the last c_b is 2, below c."""

DROPS = (0.0, 0.02, 0.1)
"""How likely a peer misses a round before its bucket's certificate."""

DRIFTS = (1.0, 0.99, 0.9, 0.5)
COORDINATES = 64
"""Coordinates of an update in the second table."""


@dataclass(frozen=True)
class Setup:
    """A group and its buckets."""

    n: int
    c: int
    size: int

    @property
    def corrupt(self) -> int:
        """c_b: as many as of all, or what the size still hides from."""
        return min(self.c, self.size - 2)

    @property
    def peers(self) -> tuple[PeerId, ...]:
        return tuple(PeerId(index.to_bytes(32, "little")) for index in range(self.n))


def equations(setup: Setup, redrawn: bool, drop: float, rng: np.random.Generator) -> Iterator[Floats]:
    """A round's equations after the other: a row a bucket that has a sum, 1 for each of its survivors."""
    place = {peer: index for index, peer in enumerate(setup.peers)}
    buckets = derive.buckets(rng.bytes(32), setup.peers, setup.size)
    while True:
        if redrawn:
            buckets = derive.buckets(rng.bytes(32), setup.peers, setup.size)
        there = rng.random(setup.n) >= drop
        rows = []
        for bucket in buckets:
            members = [place[peer] for peer in bucket if there[place[peer]]]
            if len(members) >= derive.quorum(len(bucket), setup.corrupt):
                row = np.zeros(setup.n)
                row[members] = 1.0
                rows.append(row)
        yield np.array(rows).reshape(-1, setup.n)


class Span:
    """The span of all equations so far, over the honest peers' unknowns."""

    def __init__(self, unknowns: int) -> None:
        self.basis = np.zeros((0, unknowns))

    def add(self, rows: Floats) -> None:
        for row in rows:
            rest = row - self.basis.T @ (self.basis @ row)
            rest -= self.basis.T @ (self.basis @ rest)
            length = float(np.linalg.norm(rest))
            if length > 1e-8:
                self.basis = np.vstack([self.basis, rest / length])

    @property
    def solved(self) -> int:
        """How many unknowns are known exactly: their unit vectors lie in the span."""
        return int((np.einsum("ij,ij->j", self.basis, self.basis) > 1 - 1e-9).sum())


def until(setup: Setup, redrawn: bool, drop: float, rounds: int, seed: int) -> tuple[int | None, int | None, float]:
    """The round by which the first honest update is solvable, and half of them; and the part that is in the end."""
    rng = np.random.default_rng([seed, setup.n, setup.size])
    honest = setup.n - setup.c
    span, first, half = Span(honest), None, None
    for number, rows in zip(range(1, rounds + 1), equations(setup, redrawn, drop, rng), strict=False):
        span.add(rows[:, :honest])  # colluders take their own updates out of what they see
        solved = span.solved
        first = number if first is None and solved else first
        half = number if half is None and 2 * solved >= honest else half
        if solved == honest:
            break
    return first, half, span.solved / honest


def cosine(setup: Setup, redrawn: bool, drop: float, drift: float, rounds: int, seed: int) -> float:
    """How near the best linear estimate (Kalman 1960) of all sums so far comes to the newest updates: the mean cosine
    over honest peers."""
    rng = np.random.default_rng([seed, setup.n, setup.size, 1])
    honest = setup.n - setup.c
    updates = rng.standard_normal((honest, COORDINATES))
    guess, doubt = np.zeros_like(updates), np.eye(honest)
    for _, rows in zip(range(rounds), equations(setup, redrawn, drop, rng), strict=False):
        updates = drift * updates + np.sqrt(1 - drift**2) * rng.standard_normal(updates.shape)
        guess, doubt = drift * guess, drift**2 * doubt + (1 - drift**2) * np.eye(honest)
        seen = rows[:, :honest]  # colluders take their own updates out of what they see
        gain = doubt @ seen.T @ np.linalg.pinv(seen @ doubt @ seen.T, rcond=1e-9)
        guess = guess + gain @ (seen @ updates - seen @ guess)
        doubt = doubt - gain @ seen @ doubt
    lengths = np.linalg.norm(guess, axis=1) * np.linalg.norm(updates, axis=1)
    dots = np.einsum("ij,ij->i", guess, updates)
    return float(np.mean(np.divide(dots, lengths, out=np.zeros_like(dots), where=lengths > 1e-12)))


def told(values: Sequence[int | None], rounds: int) -> str:
    """The median over trials; where most trials end without it, that."""
    found = [value if value is not None else rounds + 1 for value in values]
    middle = median(found)
    return f"not in {rounds}" if middle > rounds else f"{middle:g}"


WAYS: tuple[tuple[str, bool, float], ...] = (
    ("redrawn each round", True, 0.0),
    *((f"fixed, {drop:.0%} drop" if drop else "fixed", False, drop) for drop in DROPS),
)


def page(rounds: int, trials: int, seed: int, say: Callable[[str], None]) -> list[str]:
    """Both tables as lines of Markdown."""
    lines = [
        "# What the means of buckets tell over rounds",
        "",
        f"Written by `python benches/leaks.py --rounds {rounds} --trials {trials} --seed {seed} --write`; medians over "
        f"{trials} trials. Updates that do not change are unknowns of linear equations, one a bucket and round. What "
        "is solvable follows from them exactly, to whoever sees all means, with c colluders' own updates known.",
        "",
        "| n, c, bucket | buckets | first solvable after rounds | half solvable after | solvable in the end |",
        "|---|---|---|---|---|",
    ]
    for n, c, size in SETUPS:
        setup = Setup(n, c, size)
        for name, redrawn, drop in WAYS:
            found = [until(setup, redrawn, drop, rounds, seed + trial) for trial in range(trials)]
            firsts, halves, parts = zip(*found, strict=True)
            cells = f"{told(firsts, rounds)} | {told(halves, rounds)} | {fmean(parts):.0%}"
            line = f"| {n}, {c}, {size} | {name} | {cells} |"
            lines.append(line)
            say(line)
    lines += [
        "",
        "Updates that drift, after 40 rounds: the mean cosine of the best linear estimate with the newest update. ρ is "
        "what stays of an update from one round to the next.",
        "",
        "| n, c, bucket | buckets |" + "".join(f" ρ = {drift:g} |" for drift in DRIFTS),
        "|---|---|" + "---|" * len(DRIFTS),
    ]
    for n, c, size in SETUPS:
        setup = Setup(n, c, size)
        for name, redrawn, drop in WAYS:
            near = [
                fmean(cosine(setup, redrawn, drop, drift, 40, seed + trial) for trial in range(trials))
                for drift in DRIFTS
            ]
            line = f"| {n}, {c}, {size} | {name} |" + "".join(f" {cell:.2f} |" for cell in near)
            lines.append(line)
            say(line)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=400, help="after which what is not solvable counts as safe")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="write LEAKS.md beside this file")
    options = parser.parse_args()
    lines = page(options.rounds, options.trials, options.seed, lambda line: print(line, flush=True))
    if options.write:
        Path(__file__).with_name("LEAKS.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
