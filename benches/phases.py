"""What the small phases of a round cost beside its bulk work, by the counters of real peers' drivers.

    python benches/phases.py [-n 8] [-c 2] [--parameters 10000000] [--rounds 3] [--protocol secagg …] [--json]

Every peer is a process of its own, over ZeroMQ with CURVE on loopback, with real cryptography. Its counters tell the
CPU seconds for messages (small phases) from those for vectors (jobs, blobs sent and received); what the process spent
besides is sockets, the event loop and the journal. The first round warms up and is left out. Several protocols are
measured one after the other, with their templates' rules.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "src")]

import starting  # noqa: E402

starting.PROGRAMS = Path(__file__).parent
PATIENCE = 600.0
FACTS = ("small", "bulk", "kept", "process", "signed", "verified", "seconds")


def measure(options: argparse.Namespace, protocol: str, home: Path) -> list[dict[str, Any]]:
    """What each peer told of each round but the first."""
    group = starting.Group(
        home,
        options.n,
        protocol,
        protocol__c=options.c,
        model__max_parameters=options.parameters,
        rounds__phase_deadline=PATIENCE / 4,
        rounds__ready_deadline=PATIENCE / 4,
    )
    try:
        words = ("{index}", str(options.parameters), str(options.rounds + 1))
        environment = {"PYTHONPATH": str(ROOT / "src")}
        programs = group.start("phases_peer", *words, environment=environment)
        for program in programs:
            if program.end(PATIENCE):
                raise SystemExit(f"a peer failed: {program.errors}")
        told = [fact for program in programs for fact in program.told]
    finally:
        group.close()
    if any(fact["participants"] != options.n for fact in told):
        raise SystemExit("a round went on without somebody; run the bench on a machine with more room")
    first = min(fact["round"] for fact in told)
    return [fact for fact in told if fact["round"] > first]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=8, help="peers")
    parser.add_argument("-c", type=int, default=2, help="how many may lie together")
    parser.add_argument("--parameters", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=3, help="after one to warm up")
    parser.add_argument("--protocol", nargs="+", default=["secagg"])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    for protocol in options.protocol:
        with tempfile.TemporaryDirectory(prefix="decentra-") as home:
            report(options, protocol, measure(options, protocol, Path(home)))


def report(options: argparse.Namespace, protocol: str, told: list[dict[str, Any]]) -> None:
    figures = {fact: mean(one[fact] for one in told) for fact in FACTS}
    shares = [100 * one["small"] / (one["small"] + one["bulk"]) for one in told]
    of_process = 100 * figures["small"] / figures["process"]
    setting = {"protocol": protocol, "n": options.n, "c": options.c, "parameters": options.parameters}
    if options.json:
        shown = {"share": mean(shares), "share_most": max(shares), "share_of_process": of_process}
        print(json.dumps({**setting, "rounds": options.rounds, **figures, **shown}))
        return
    print(
        f"{protocol}, n = {options.n}, c = {options.c}, {options.parameters:,} parameters, "
        f"{options.rounds} rounds; a peer's CPU a round:\n"
        f"  small phases  {figures['small']:7.3f} s   "
        f"({figures['signed']:.0f} messages signed, {figures['verified']:.0f} verified)\n"
        f"  bulk work     {figures['bulk']:7.3f} s\n"
        f"  journal       {figures['kept']:7.3f} s   with the transcripts\n"
        f"  whole process {figures['process']:7.3f} s   in {figures['seconds']:.2f} s of wall time\n"
        f"  small phases are {mean(shares):.1f} % of both, at most {max(shares):.1f} %; "
        f"{of_process:.1f} % of the process"
    )


if __name__ == "__main__":
    main()
