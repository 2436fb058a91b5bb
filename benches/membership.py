"""Measures membership beside SWIM's theory, at n = 8, 64 and 1,000, and prints the rows of specs/membership/README.md.

    python benches/membership.py [--n 1000] [--seeds 2]

A thousand peers take half a minute of CPU for each schedule, and 0.3 GB.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

from decentra.simulation.membership_search import Play, expected_periods, search, spread_periods  # noqa: E402

GROUPS = {8: (2, 400), 64: (21, 40), 1000: (21, 2)}
"""c and how many schedules, for each n."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, choices=GROUPS, help="only this group")
    parser.add_argument("--seeds", type=int, help="so many schedules")
    given = parser.parse_args()
    for n, (c, usual) in GROUPS.items():
        if given.n in (None, n):
            seeds = given.seeds or usual
            tally = search(Play(n, c, settled=True), "none", range(seeds))
            spread, agreed = tally.mean("spread"), tally.mean("agreed")
            print(
                f"| {n:,} | {seeds} | {tally.periods:.2f} | {expected_periods(n):.2f} | {spread:.1f} s "
                f"| {spread_periods(n):.1f} s | {agreed:.1f} s | {tally.mean('messages'):.2f} "
                f"| {tally.mean('bytes'):,.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
