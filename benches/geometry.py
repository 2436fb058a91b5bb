"""How much of updates' geometry shamir-gram reveals: norms and angles by sketches, and what sums under changing weights
tell over rounds.

    PYTHONPATH=benches OMP_NUM_THREADS=1 python benches/geometry.py [--beacons 20] [--trials 10] [--seed 0] [--write]

The first table is of n = 10 updates of four kinds, each under fresh beacons: how far norms and cosines that the opened
matrix gives are from the true ones, beside the bound on their standard deviation, 2.2 %; and how often a rule's weights
are those of the exact matrix. `training` are what ten silos of the demo's texts change a common model by in 20 steps.

The second is of rounds. Updates that do not change are unknowns of linear equations, one a round, whose coefficients
are the weights: they change, since a fresh sketch makes another error. Solvable is what these give exactly, to whoever
sees all sums, with c colluders' own updates known. Updates that drift, x ← ρ·x + √(1 − ρ²)·(something new), are
estimated by the best linear filter of all sums so far (Kalman 1960); told is its cosine with the newest, in the mean
over honest peers. What one even sum over n − c tells alone stands beside it. ``--write`` makes GEOMETRY.md.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import numpy as np
from leaks import Span, told
from numpy.typing import NDArray

from decentra.crypto.shares.field61 import from_signed, to_signed
from decentra.crypto.shares.gram import pairs, products
from decentra.crypto.shares.quanta import MAX_RADIUS
from decentra.crypto.shares.sketch import ROWS, sketch
from decentra.robust.shared import weigh

Floats = NDArray[np.float64]
Gram = list[list[int]]

BOUND = (2 / (8 * 512)) ** 0.5
"""The standard deviation of ⟨x, y⟩ over ‖x‖‖y‖, at most (specs/shamir-gram/arithmetic.md)."""

N, D = 10, 100_000
RULES = ("multi_krum", "nnm+multi_krum")
SETUPS = ((5, 1), (10, 2), (10, 3), (16, 3))
DRIFTS = (1.0, 0.99, 0.9, 0.5)
SMALL = 4_096
"""Coordinates of an update in the second table."""


# ── what is revealed of one round ────────────────────────────────────────────────────────────────────────────────────


def quanta(rows: Floats) -> NDArray[np.int64]:
    """Rows as a round encodes them, the longest as long as may be."""
    scale = (MAX_RADIUS - rows.shape[1] ** 0.5) / np.linalg.norm(rows, axis=1).max()
    return np.rint(rows * scale).astype(np.int64)


def opened(updates: NDArray[np.int64], beacon: bytes) -> Gram:
    """The matrix that is opened: 8⟨x_i, x_j⟩ nearly."""
    n, d = updates.shape
    entries = to_signed(products(sketch([from_signed(row) for row in updates], d, beacon))).tolist()
    gram = [[0] * n for _ in range(n)]
    for (i, j), entry in zip(pairs(n), entries, strict=True):
        gram[i][j] = gram[j][i] = entry
    return gram


def exact(updates: NDArray[np.int64]) -> Gram:
    """ROWS times the true inner products."""
    rows = [[int(value) for value in row] for row in updates]
    return [[ROWS * sum(map(int.__mul__, one, other)) for other in rows] for one in rows]


def gaussian(rng: np.random.Generator) -> Floats:
    """Half of each is common to all: cosines of a half."""
    return rng.standard_normal(D) + rng.standard_normal((N, D))


def sparse(rng: np.random.Generator) -> Floats:
    """One coordinate in a hundred is not 0, alike in half of the places."""
    common = rng.random(D) < 0.005
    own = rng.random((N, D)) < 0.005
    return rng.standard_normal((N, D)) * (common | own)


def heavy(rng: np.random.Generator) -> Floats:
    """Student's t of two degrees of freedom: a few coordinates are most of a norm."""
    return rng.standard_t(2, (N, D))


def training(rng: np.random.Generator) -> Floats:
    """What local steps on ten of the demo's texts make of one model."""
    from itertools import islice

    import torch

    from decentra.demo.model import ByteGPT
    from decentra.demo.silos import load, silo_names
    from decentra.demo.train import LOCAL_STEPS, STEPS, batches, make_optimizer, make_schedule, train_step

    seed, rows = int(rng.integers(1 << 30)), []
    for silo in silo_names(N):
        model = ByteGPT(seed)
        before = torch.cat([each.detach().reshape(-1).clone() for each in model.parameters()])
        optimizer = make_optimizer(model)
        schedule = make_schedule(optimizer, STEPS)
        for batch in islice(batches(load(silo).train, seed), LOCAL_STEPS):
            train_step(model, optimizer, schedule, batch)
        after = torch.cat([each.detach().reshape(-1) for each in model.parameters()])
        rows.append((after - before).double().numpy())
    return np.stack(rows)


KINDS: dict[str, Callable[[np.random.Generator], Floats]] = {
    "gaussian": gaussian, "sparse": sparse, "heavy-tailed": heavy, "training": training,
}  # fmt: skip


def errors(gram: Gram, true: Gram) -> tuple[Floats, Floats]:
    """Of norms, as parts of them, and of cosines."""
    found, known = np.array(gram, dtype=np.float64), np.array(true, dtype=np.float64)
    lengths, right = np.sqrt(np.diag(found)), np.sqrt(np.diag(known))
    upper = np.triu_indices(len(gram), 1)
    cosines = found / np.outer(lengths, lengths) - known / np.outer(right, right)
    return lengths / right - 1, cosines[upper]


def accuracy(name: str, beacons: int, rng: np.random.Generator) -> str:
    updates = quanta(KINDS[name](rng))
    true = exact(updates)
    norms, cosines, alike = [], [], []
    weights = [weigh(true, rule, 2, 2) for rule in RULES]
    for _ in range(beacons):
        gram = opened(updates, rng.bytes(32))
        norm, cosine = errors(gram, true)
        norms.append(norm)
        cosines.append(cosine)
        alike.append([weigh(gram, rule, 2, 2) == right for rule, right in zip(RULES, weights, strict=True)])
    of_norms, of_cosines = np.concatenate(norms), np.concatenate(cosines)
    parts = np.mean(alike, axis=0)
    return (
        f"| {name} | {updates.shape[1]:,} | {of_norms.std():.2%} | {np.abs(of_norms).max():.2%} | "
        f"{of_cosines.std():.4f} | {np.abs(of_cosines).max():.4f} |" + "".join(f" {part:.0%} |" for part in parts)
    )


# ── what sums tell over rounds ───────────────────────────────────────────────────────────────────────────────────────


def rounds_of(rule: str, n: int, c: int, rounds: int, rng: np.random.Generator) -> tuple[int | None, int | None]:
    """The round by which the first honest update is solvable, and half of them; of updates that do not change."""
    updates = quanta(rng.standard_normal(SMALL) + rng.standard_normal((n, SMALL)))
    honest = n - c
    span, first, half = Span(honest), None, None
    for number in range(1, rounds + 1):
        weights = weigh(opened(updates, rng.bytes(32)), rule, c, c)
        span.add(np.array([weights[:honest]], dtype=np.float64) / sum(weights))
        solved = span.solved
        first = number if first is None and solved else first
        half = number if half is None and 2 * solved >= honest else half
        if half is not None:
            break
    return first, half


def near(rule: str, n: int, c: int, drift: float, rounds: int, rng: np.random.Generator) -> tuple[float, float]:
    """The mean cosine of the best linear estimate with the newest update, and that of the last sum alone."""
    honest = n - c
    updates = rng.standard_normal((n, SMALL))
    guess, doubt = np.zeros((honest, SMALL)), np.eye(honest)
    cosines, alone = 0.0, 0.0
    for _ in range(rounds):
        updates = drift * updates + np.sqrt(1 - drift**2) * rng.standard_normal(updates.shape)
        guess, doubt = drift * guess, drift**2 * doubt + (1 - drift**2) * np.eye(honest)
        weights = np.array(weigh(opened(quanta(updates), rng.bytes(32)), rule, c, c), dtype=np.float64)
        seen = (weights / weights.sum())[None, :honest]  # colluders take their own updates out of what they see
        told_now = seen @ updates[:honest]
        gain = doubt @ seen.T @ np.linalg.pinv(seen @ doubt @ seen.T, rcond=1e-9)
        guess = guess + gain @ (told_now - seen @ guess)
        doubt = doubt - gain @ seen @ doubt
        cosines, alone = _cosine(guess, updates[:honest]), _cosine(np.repeat(told_now, honest, 0), updates[:honest])
    return cosines, alone


def _cosine(guess: Floats, updates: Floats) -> float:
    lengths = np.linalg.norm(guess, axis=1) * np.linalg.norm(updates, axis=1)
    dots = np.einsum("ij,ij->i", guess, updates)
    return float(np.mean(np.divide(dots, lengths, out=np.zeros_like(dots), where=lengths > 1e-12)))


# ── the page ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def page(beacons: int, trials: int, rounds: int, seed: int, say: Callable[[str], None]) -> list[str]:
    """Both tables as lines of Markdown."""
    rng = np.random.default_rng(seed)
    heads = "".join(f" {rule}: weights as exact |" for rule in RULES)
    lines = [
        "# What shamir-gram reveals of updates' geometry",
        "",
        f"Written by `python benches/geometry.py --beacons {beacons} --trials {trials} --rounds {rounds} --seed {seed} "
        f"--write`. The opened matrix is of sketches under a fresh beacon; n = {N}, {beacons} beacons. A norm or "
        f"angle is known to members as well as the columns say; the bound on the standard deviation of an inner "
        f"product is {BOUND:.1%} of both norms, of a norm half of it. f = 2.",
        "",
        f"| updates | d | error of norms, deviation | most | error of cosines, deviation | most |{heads}",
        "|---|---|---|---|---|---|" + "---|" * len(RULES),
    ]
    for name in KINDS:
        line = accuracy(name, beacons, rng)
        lines.append(line)
        say(line)
    lines += [
        "",
        f"Sums over rounds, medians over {trials} trials: updates with cosines of a half that do not change are "
        "solvable once the weights of so many rounds are linearly independent.",
        "",
        "| n, c | rule | first solvable after rounds | half solvable after |",
        "|---|---|---|---|",
    ]
    for (n, c), rule in itertools.product(SETUPS, RULES):
        found = [rounds_of(rule, n, c, rounds, rng) for _ in range(trials)]
        firsts, halves = zip(*found, strict=True)
        line = f"| {n}, {c} | {rule} | {told(firsts, rounds)} | {told(halves, rounds)} |"
        lines.append(line)
        say(line)
    lines += [
        "",
        "Updates that drift, after 40 rounds: the mean cosine of the best linear estimate with the newest update, and "
        "in brackets of the last sum alone. ρ is what stays of an update from one round to the next.",
        "",
        "| n, c | rule |" + "".join(f" ρ = {drift:g} |" for drift in DRIFTS),
        "|---|---|" + "---|" * len(DRIFTS),
    ]
    for (n, c), rule in itertools.product(SETUPS, RULES):
        cells = []
        for drift in DRIFTS:
            tried = [near(rule, n, c, drift, 40, rng) for _ in range(max(1, trials // 3))]
            best, last = (fmean(each) for each in zip(*tried, strict=True))
            cells.append(f" {best:.2f} ({last:.2f}) |")
        line = f"| {n}, {c} | {rule} |" + "".join(cells)
        lines.append(line)
        say(line)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--beacons", type=int, default=20)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=100, help="after which what is not solvable counts as safe")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="write GEOMETRY.md beside this file")
    options = parser.parse_args()
    lines = page(
        options.beacons, options.trials, options.rounds, options.seed, lambda line: print(line, flush=True)
    )
    if options.write:
        Path(__file__).with_name("GEOMETRY.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
