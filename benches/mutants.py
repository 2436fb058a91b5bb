"""Searches schedules for every planted bug of tests/mutants.py, from fresh seeds on, and says how long each hides.

    python benches/mutants.py [--name lock-forgotten] [--first 100000] [--seconds 60] [--write]
    python benches/mutants.py --real 2000        # the real machines in the same schedules: nothing may be found

Exit code 1 if a bug was not found, or if one was found in the real machines. ``--write`` records the seeds in
benches/MUTANTS.md, which the tests play again.
"""

from __future__ import annotations

import argparse
import logging
import random
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "src")]

from mutants import CATALOGUE, HEADINGS, TABLE, Mutant, described, rows, violations  # noqa: E402

LONGEST = 5
"""CPU seconds that one schedule may take: a planted bug may send without end."""

HEAD = """# Planted bugs, and which schedule finds which

Written by `python benches/mutants.py --write`; `tests/test_mutants.py` plays each seed again, with the planted machine
(`test_a_planted_bug_is_found[name]`) and with the real one (`test_the_real_machines_break_nothing_in_the_same_schedule
[name]`). *Tries* are the schedules played from the first fresh seed on until the bug showed under its clause, and *CPU
s* what they took.

"""


class TooLongError(Exception):
    """A schedule does not end."""


class Found(NamedTuple):
    """The outcome of a search: the seed, if there is one, and what it cost."""

    seed: int | None
    schedules: int
    seconds: float
    beside: dict[str, int]


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Stop what takes more of this process's time."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TooLongError

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def hunt(mutant: Mutant, first: int, seconds: float) -> Found:
    """Play a mutant's schedules from a seed on until it is found, or the time is over."""
    began, beside, seed = time.process_time(), dict[str, int](), first
    while time.process_time() - began < seconds:
        try:
            with limited(LONGEST):
                clauses = {one.clause for one in violations(mutant, seed)}
        except Exception as error:  # a planted bug may break the machine itself, which is another finding
            clauses = {type(error).__name__}
        seed += 1
        if mutant.clause in clauses:
            return Found(seed - 1, seed - first, time.process_time() - began, beside)
        for clause in clauses:
            beside[clause] = beside.get(clause, 0) + 1
    return Found(None, seed - first, time.process_time() - began, beside)


def real(count: int, first: int) -> int:
    """Play the real machines in the schedules of all mutants by turns; how many schedules broke a clause."""
    wrong = 0
    family = list(CATALOGUE.values())
    for seed in range(first, first + count):
        mutant = family[seed % len(family)]
        found = violations(mutant, seed, real=True)
        if found:
            wrong += 1
            print(f"{mutant.name} seed {seed}: {[(one.clause, one.said) for one in found]}", flush=True)
    print(f"{count} schedules of the real machines, {wrong} with violations")
    return wrong


def record(found: dict[str, tuple[int, int, float]]) -> None:
    """Write the table anew, keeping the rows of mutants that were not searched for."""
    kept = {row[0]: row[4:] for row in rows()} if TABLE.exists() else {}
    lines = ["| " + " | ".join(HEADINGS) + " |", "|" + "---|" * len(HEADINGS)]
    for name, mutant in CATALOGUE.items():
        cells = kept.get(name)
        if name in found:
            seed, tries, seconds = found[name]
            cells = (str(seed), str(tries), f"{seconds:.1f}")
        if cells is not None:
            lines.append("| " + " | ".join((*described(mutant), *cells)) + " |")
    TABLE.write_text(HEAD + "\n".join(lines) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description="Search for planted bugs.")
    parser.add_argument("--name", action="append", choices=list(CATALOGUE), help="only this one; may be repeated")
    parser.add_argument("--first", type=int, help="the first seed; a random one by default")
    parser.add_argument("--seconds", type=float, default=60.0, help="CPU seconds for each")
    parser.add_argument("--write", action="store_true", help="record the seeds in benches/MUTANTS.md")
    parser.add_argument("--real", type=int, metavar="COUNT", help="play the real machines instead")
    given = parser.parse_args()
    logging.disable(logging.CRITICAL)
    first = random.SystemRandom().randrange(1 << 30) if given.first is None else given.first
    if given.real is not None:
        return 1 if real(given.real, first) else 0
    found: dict[str, tuple[int, int, float]] = {}
    missed = 0
    print(f"{'mutant':24}{'clause':14}{'seed':>12}{'schedules':>11}{'CPU s':>8}")
    for name in given.name or CATALOGUE:
        mutant = CATALOGUE[name]
        result = hunt(mutant, first, given.seconds)
        seed = "not found" if result.seed is None else str(result.seed)
        beside = ", ".join(f"{clause} {count}" for clause, count in sorted(result.beside.items()))
        line = f"{name:24}{mutant.clause:14}{seed:>12}{result.schedules:>11}{result.seconds:>8.1f}"
        print(f"{line}   {beside}".rstrip(), flush=True)
        if result.seed is None:
            missed += 1
        else:
            found[name] = (result.seed, result.schedules, result.seconds)
    if given.write:
        record(found)
    print(f"{len(found)} found, {missed} not found, from seed {first} on")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
