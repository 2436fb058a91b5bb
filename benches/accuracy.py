"""Plays schedules of the simulator and audits what they leave, as it comes from others: nobody honest is accused.

    python benches/accuracy.py [--examples 1000] [--first SEED] [--protocol secagg] [-n 7] [-c 2] [--faults liars mixed]

Each example is one seed: real machines under ideal cryptography, and of what they signed a part, in any order, some
twice, some without bodies, some corrupted. The simulator's own oracle looks at the same schedule. Exit code 1 if either
names somebody honest or finds a clause broken by an honest machine; the seeds are printed.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import sys
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "src")]

from decentra.simulation.hazards import MIXES, Mix  # noqa: E402
from decentra.simulation.search import Play, stage_of, unhurried  # noqa: E402
from overhearing import Left, damaged, judged, play  # noqa: E402

EVERY = 500
"""Examples between two lines."""

SHARES = (1.0, 0.9, 0.5)
"""Of entries, what part there is, with bodies, and sound."""


def example(setting: Play, seed: int, mix: Mix) -> tuple[str, list[str]]:
    """The verdict on what one schedule leaves, and what is wrong with it."""
    stage = stage_of(setting, seed, mix)
    left = play(stage)
    rng = random.Random(seed)
    logs = damaged(left.entries, rng, rng.choice(SHARES), rng.choice(SHARES), rng.choice(SHARES))
    report = judged(Left(left.ground, tuple(logs), left.liars))
    honest = [one for one in report.violations if one.who not in left.liars]
    wrong = [f"{mix}, seed {seed}: the auditor blames {one.who}, honest, for {one.clause}" for one in honest]
    wrong += [f"{mix}, seed {seed}: {one.who} broke {one.clause}" for one in stage.oracle.violations]
    return report.verdict.value, wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--first", type=int, default=random.SystemRandom().randrange(1 << 30))
    parser.add_argument("--protocol", default="secagg")
    parser.add_argument("-n", type=int, default=7)
    parser.add_argument("-c", type=int, default=2)
    parser.add_argument("--faults", nargs="+", choices=MIXES, default=["liars", "mixed"])
    options = parser.parse_args()
    logging.getLogger("decentra").setLevel(logging.CRITICAL)
    setting = Play(options.protocol, options.n, options.c, "ideal")
    came, wrong, began = Counter[str](), list[str](), time.process_time()
    for place in range(options.examples):
        seed, mix = options.first + place, options.faults[place % len(options.faults)]
        with unhurried():
            verdict, found = example(setting, seed, mix)
        came[verdict] += 1
        wrong += found
        if (place + 1) % EVERY == 0 or place + 1 == options.examples:
            rate = (place + 1) * 60 / (time.process_time() - began)
            told = {"first": options.first, "examples": place + 1, "a_cpu_minute": round(rate), **came, "wrong": wrong}
            print(json.dumps(told), flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
