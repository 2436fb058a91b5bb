"""Robust rules beside ByzFL's: CPU seconds of one call and memory beyond the updates, in turns, one core each.

    python benches/rules.py [--byzfl PYTHON] [--sizes 10x1e6 32x1e6 10x1e7 32x1e7] [--rules R ...] [--repeats 3]
        [--out DIR]

``PYTHON`` is an interpreter that has torch and ``byzfl==0.0.11``; without it decentra's rules are told alone. Each side
runs in a process of its own that makes the same updates from a seed, and both in turns, A B A B. Medians are told, and
the ratio. A fifth of the n updates may be false. What ByzFL has no rule for, or cannot run at a size, is said so, and a
rule that does not fit an n is left out. A result counts only if it is right: the first 2,000 coordinates are worked out
once more from numpy's sort, and for rules that see the geometry from a float64 Gram matrix over all. ByzFL defines
Krum by one neighbour less and takes three steps towards the geometric median: except for its median and trimmed mean
it is asked that results be within the updates' range, and Krum's one of the updates.

``--out`` gets ``rules.json`` and ``RULES.md``.
"""

from __future__ import annotations

import argparse
import importlib.machinery
import importlib.util
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from asked import command

OURS = (
    *("mean", "median", "trimmed_mean", "meamed", "sign_majority", "krum", "multi_krum", "geometric_median", "mda"),
    *("caf", "bulyan", "nnm+trimmed_mean", "nnm+multi_krum", "arc+trimmed_mean", "centered_clipping", "fltrust", "nna"),
    *("cs_plus", "balance"),
)
THEIRS = {
    "median": "Median",
    "trimmed_mean": "TrMean",
    "meamed": "Meamed",
    "krum": "Krum",
    "multi_krum": "MultiKrum",
    "geometric_median": "GeometricMedian",
    "caf": "CAF",
    "nnm+trimmed_mean": "TrMean",
}
SIZES = ("10x1e6", "32x1e6", "10x1e7", "32x1e7")
MOST_MEMORY = 16 << 30
"""Bytes of address space for one side: what asks for more fails, and the machine stays up."""
BANDWIDTH = 25e9
"""Bytes a second at which one core reads memory, about: the limit is one pass over the updates."""


def liars(n: int) -> int:
    """How many of n updates may be false."""
    return n // 5


def updates(n: int, d: int) -> Any:
    """The same for both sides: a common direction, and noise."""
    rng = np.random.default_rng(7)
    common = rng.standard_normal(d, dtype=np.float32)
    rows = rng.standard_normal((n, d), dtype=np.float32)
    rows += common
    return rows


# ── one side, in a process of its own ────────────────────────────────────────────────────────────────────────────────


def ours(rows: Any, rule: str, f: int) -> Any:
    from decentra.robust import aggregate, find

    found, needs = find(rule), {}
    if found.reference:
        needs["reference"] = rows[0]
    if found.needs_radius:
        needs["radius"] = float(np.sqrt(rows.shape[1]))
    return lambda: aggregate(rows, found, f, **needs).value


def theirs(rows: Any, rule: str, f: int) -> Any:
    import torch

    torch.set_num_threads(1)
    root = importlib.machinery.PathFinder.find_spec("byzfl")
    if root is None or root.submodule_search_locations is None:
        raise SystemExit("byzfl is not installed there")
    package = types.ModuleType("byzfl")  # its own __init__ loads benchmarks that want a torchvision to match torch
    package.__path__ = list(root.submodule_search_locations)
    sys.modules["byzfl"] = package
    aggregators = importlib.import_module("byzfl.aggregators.aggregators")
    options = {"f": f} if rule not in ("median", "geometric_median") else {}
    last = getattr(aggregators, THEIRS[rule])(**options)
    tensor = torch.from_numpy(rows)
    if rule.startswith("nnm+"):
        before = importlib.import_module("byzfl.aggregators.preaggregators").NNM(f=f)
        return lambda: last(before(tensor)).numpy()
    return lambda: last(tensor).numpy()


def child(side: str, rule: str, n: int, d: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    rows, f = updates(n, d), liars(n)
    call = (ours if side == "ours" else theirs)(rows, rule, f)
    call_small = (ours if side == "ours" else theirs)(rows[:, :1000], rule, f)
    call_small()  # what is loaded or compiled on the first use
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    value = call()
    spent = time.process_time() - began
    beyond = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(json.dumps({"cpu": spent, "beyond": beyond * 1024 - 4 * d, "right": right(side, rows, value, rule, f)}))


def right(side: str, rows: Any, value: Any, rule: str, f: int) -> bool:
    """Whether a result is what the rule says."""
    value, some = value[:2000], rows[:, :2000].astype(np.float64)
    if rule in ("median", "trimmed_mean"):
        return bool(np.allclose(value, of_coordinates(some, rule, f), atol=1e-4))
    if side == "byzfl" and rule == "krum":
        return any(bool(np.array_equal(value, row[:2000])) for row in rows)
    if side == "byzfl":
        return bool(((some.min(axis=0) - 1e-4 <= value) & (value <= some.max(axis=0) + 1e-4)).all())
    if rule == "sign_majority":
        return bool(np.array_equal(value, of_coordinates(some, rule, f)))
    close = 1e-4 if rule in ("mean", "meamed", "bulyan") else 1e-3  # others weigh by float32 distances
    return bool(np.allclose(value, again(rows, some, rule, f), atol=close))


def of_coordinates(rows: Any, rule: str, f: int) -> Any:
    """The coordinate rules, from numpy alone."""
    n, ordered = len(rows), np.sort(rows, axis=0)
    if rule == "trimmed_mean":
        return ordered[f : n - f].mean(axis=0)
    if rule == "median":
        return np.median(rows, axis=0)
    if rule == "meamed":
        return near_median(rows, n - f)
    if rule == "sign_majority":
        return np.sign((rows > 0).sum(axis=0) - (rows < 0).sum(axis=0))
    raise SystemExit(f"the bench has nothing to hold {rule} against; leave it out of --rules")


def near_median(rows: Any, kept: int) -> Any:
    """The mean of so many values nearest to the median."""
    nearest = np.argsort(np.abs(rows - np.median(rows, axis=0)), axis=0, kind="stable")[:kept]
    return np.take_along_axis(rows, nearest, axis=0).mean(axis=0)


def gram_of(rows: Any, origin: bool) -> Any:
    """Inner products over all coordinates, in float64 about the mean, or about zero."""
    gram = np.zeros((len(rows), len(rows)))
    for low in range(0, rows.shape[1], 1 << 16):
        block = rows[:, low : low + (1 << 16)].astype(np.float64)
        block = block if origin else block - block.mean(axis=0)
        gram += block @ block.T
    return gram


def of_bulyan(rows: Any, some: Any, f: int) -> Any:
    """Bulyan, from numpy alone: the best by Krum among those left, n − 2f times; then the values near the median."""
    gram = gram_of(rows, origin=False)
    squared = np.diagonal(gram)[:, None] + np.diagonal(gram)[None, :] - 2 * gram
    left: list[int] = list(range(len(rows)))
    chosen: list[int] = []
    for _ in range(len(rows) - 2 * f):
        others = [np.sort(np.delete(squared[one, left], place)) for place, one in enumerate(left)]
        chosen.append(left.pop(int(np.argmin([near[: len(left) - f - 1].sum() for near in others]))))
    return near_median(some[sorted(chosen)], len(chosen) - 2 * f)


def again(rows: Any, some: Any, rule: str, f: int) -> Any:
    """The first coordinates, from numpy; for rules that weigh updates, with their weights for a Gram matrix of ours."""
    from decentra.robust import CoordinateRule, find
    from decentra.robust.geometry import gram_of_mixtures

    if rule == "mean":
        return some.mean(axis=0)
    if rule == "bulyan":
        return of_bulyan(rows, some, f)
    found = find(rule)
    seen, last = (np.vstack([rows, rows[:1]]), np.vstack([some, some[:1]])) if found.reference else (rows, some)
    gram = gram_of(seen, found.origin) if found.needs_geometry else None
    for step in found.steps:
        made = step.mixtures(gram, f)
        gram, last = gram_of_mixtures(gram, made), made @ last
    if isinstance(found.rule, CoordinateRule):
        if found.rule.name == "sign_majority":
            raise SystemExit(f"{rule} turns on the signs of sums that rounding may turn; leave it out of --rules")
        return of_coordinates(last, found.rule.name, f)
    radius = float(np.sqrt(rows.shape[1])) if found.needs_radius else None
    weights: Any = found.clipping(radius).rule.weights(gram, f)  # type: ignore[union-attr]
    return weights @ last


# ── both, in turns ───────────────────────────────────────────────────────────────────────────────────────────────────


def run(python: str, side: str, rule: str, n: int, d: int) -> dict[str, Any]:
    command = [python, __file__, "--child", side, rule, str(n), str(d)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        return {"error": said[-1][:160] if said else f"ended by signal {-done.returncode}"}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if not found["right"]:
        raise SystemExit(f"{side} {rule} ({n}, {d}): the result is wrong, so its time means nothing")
    return found


def compare(rule: str, n: int, d: int, byzfl: str | None, repeats: int) -> dict[str, Any]:
    sides: dict[str, list[dict[str, Any]]] = {"ours": [], "byzfl": []}
    for _ in range(repeats):
        sides["ours"].append(run(sys.executable, "ours", rule, n, d))
        if byzfl and rule in THEIRS and not any("error" in one for one in sides["byzfl"]):
            sides["byzfl"].append(run(byzfl, "byzfl", rule, n, d))
    row: dict[str, Any] = {"rule": rule, "n": n, "d": d}
    for side, runs in sides.items():
        failed = [one["error"] for one in runs if "error" in one]
        if failed:
            row[side] = failed[0]
        elif runs:
            spent = [one["cpu"] for one in runs]
            row |= {side: statistics.median(spent), f"{side} spread": max(spent) - min(spent)}
            row[f"{side} beyond"] = max(one["beyond"] for one in runs)
    return row


def shortly(error: str) -> str:
    """The last line of a traceback in a few words."""
    asked = re.search(r"allocate ([0-9.]+) ?(bytes|[KMGT]iB)", error)
    if asked:
        units = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
        return f"it asks for {float(asked[1]) * units[asked[2]] / 1e9:.0f} GB"
    return error if len(error) <= 60 else f"{error[:59]}…"


def table(rows: list[dict[str, Any]], written_by: str) -> str:
    """The page."""
    sizes = sorted({(row["n"], row["d"]) for row in rows}, key=lambda size: (size[1], size[0]))
    lines = [
        "# Robust rules beside ByzFL 0.0.11",
        "",
        "CPU seconds of one call, medians; in brackets how many times as many ByzFL takes in the same run. Written by "
        f"`{written_by}`.",
        "",
        "| rule | " + " | ".join(f"({n}, {d:.0e})" for n, d in sizes) + " | most MB beyond updates and result |",
        "|---|" + "---|" * (len(sizes) + 1),
    ]
    for rule in dict.fromkeys(row["rule"] for row in rows):
        cells, beyond = [], 0.0
        for size in sizes:
            row = next((one for one in rows if one["rule"] == rule and (one["n"], one["d"]) == size), {})
            mine, other = row.get("ours"), row.get("byzfl")
            cell = "–" if mine is None else shortly(mine) if isinstance(mine, str) else f"{mine:.4g}"
            if isinstance(mine, float) and other is not None:
                cell += f" ({other / mine:.0f} ×)" if isinstance(other, float) else f" (ByzFL fails: {shortly(other)})"
            cells.append(cell)
            beyond = max(beyond, row.get("ours beyond", 0.0))
        lines.append(f"| {rule} | " + " | ".join(cells) + f" | {beyond / 1e6:.1f} |")
    limits = ", ".join(f"{4 * n * d / BANDWIDTH:.2g}" for n, d in sizes)
    lines += ["", f"One pass over the updates at 25 GB/s takes {limits} s."]
    return "\n".join(lines) + "\n"


class Size(NamedTuple):
    """How many updates, of how many coordinates."""

    n: int
    d: int

    def __str__(self) -> str:
        short = f"{self.d:g}".replace("e+0", "e")
        return f"{self.n}x{short if float(short) == self.d else self.d}"


def size(text: str) -> Size:
    """A type for argparse."""
    count, _, length = text.partition("x")
    try:
        found = Size(int(count), int(float(length)))
    except (ValueError, OverflowError):
        found = Size(0, 0)
    if min(found) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 32x1e6: n updates of d coordinates")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--byzfl", metavar="PYTHON")
    parser.add_argument("--sizes", nargs="+", type=size, default=[*map(size, SIZES)])
    parser.add_argument("--rules", nargs="+", default=list(OURS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        side, rule, n, d = options.child
        child(side, rule, int(n), int(d))
        return
    from decentra.errors import LocalError
    from decentra.robust.catalogue import check

    try:
        misfits = {(n, rule): check(rule, n, liars(n)) for n, _ in options.sizes for rule in options.rules}
    except LocalError as error:
        parser.error(str(error))
    written_by = command(parser, options, {"byzfl": "PYTHON", "out": None})
    options.out.mkdir(parents=True, exist_ok=True)
    found = []
    for n, d in options.sizes:
        for rule in options.rules:
            if misfits[n, rule] is not None:
                print(f"left out: {misfits[n, rule]}", file=sys.stderr)
                continue
            row = compare(rule, n, d, options.byzfl, options.repeats)
            found.append(row)
            print(json.dumps(row), flush=True)
            (options.out / "rules.json").write_text(json.dumps(found, indent=1))
            (options.out / "RULES.md").write_text(table(found, written_by))


if __name__ == "__main__":
    main()
