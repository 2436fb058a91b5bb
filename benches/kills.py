"""Kills real processes of a standing group, one or two at a time and at random instants, and holds what comes of it.

    python benches/kills.py [-n 8] [-c 2] [--kills 200] [--seed 0] [--backup] [--log kills.jsonl]

After each strike every survivor must end every round (a result, certified as failed, certified as lost, or not begun
yet), all that have a result of a round must have the same one, and it must be the mean of those in it; the killed come
back from their folders and take part again. At the end the journals must show no vote, reveal or set of slices of one
round twice with different content. Every strike is a line of the log. Exit code 1 if anything was otherwise.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TextIO

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "src")]

import starting  # noqa: E402
from decentra.driver.session import session_name  # noqa: E402
from decentra.peer.journal import SqliteJournal  # noqa: E402
from decentra.protocols.catalogue import registry  # noqa: E402
from decentra.wire.entry import parse  # noqa: E402

PHASE, READY = 8.0, 10.0
STEP = 0.001
"""What a peer's number is a multiple of: a mean is told from any other set's by far more than rounding."""

ONCE = ("secagg.endorse", "secagg.masked", "secagg.unmask", "secagg.beacon", "certify.prepare", "certify.commit")
PATIENCE = 240.0

ENDS = {
    "certified as lost": "lost",
    "certified as failed": "failed",
    "of the certified result": "certified, and a slice of it is not here",
}
"""What a round came to, by what the error of one that has no result says."""

UNCERTIFIED = "spent, uncertified"

starting.PROGRAMS = Path(__file__).parent


class Bench:
    """A group of real processes, and what is known of its rounds."""

    TERMS: Mapping[str, object] = {"protocol__range_bounds": [0.1, 0.1]}
    """What its charter has beside what was asked for."""

    AT_ONCE = False

    def __init__(self, options: argparse.Namespace, home: Path) -> None:
        self.group = starting.Group(
            home,
            options.n,
            "secagg",
            protocol__c=options.c,
            protocol__backup=options.backup,
            rounds__phase_deadline=PHASE,
            rounds__ready_deadline=READY,
            **self.TERMS,
        )
        self.names = {str(identity.id): index for index, identity in enumerate(self.group.identities)}
        self.rounds: dict[int, dict[int, dict[str, Any]]] = defaultdict(dict)
        self.wrong: list[str] = []
        self.uncertified: list[str] = []
        """Ends that are wrong as well, and go on to be counted."""
        self.programs: dict[int, starting.Program] = {}
        self.told: dict[int, list[dict[str, Any]]] = defaultdict(list)
        """What each peer's process told so far."""

    def begin(self) -> None:
        """Start everybody, and wait until each has a result."""
        self.programs.update((index, self.start(index)) for index in range(len(self.names)))
        for index in self.programs:
            while self.take(index)["event"] != "round":
                pass

    def start(self, index: int) -> starting.Program:
        """A peer's process."""
        return self.group.start("kills_peer", str(STEP * (index + 1)), peers=[index])[0]

    def take(self, index: int) -> dict[str, Any]:
        """The next end of a round at a peer; AssertionError where there is none in time."""
        while True:
            fact = self._line(index)
            if fact["event"] in ("round", "failed"):
                return fact

    def _line(self, index: int) -> dict[str, Any]:
        program = self.programs[index]
        line = program._lines.get(timeout=PATIENCE)
        if not line:
            raise AssertionError(f"a peer ended: {program.errors[-2000:]}")
        fact: dict[str, Any] = json.loads(line)
        self.told[index].append(fact)
        if fact["event"] == "round":
            self.hold(index, fact)
        return fact

    def hold(self, index: int, fact: dict[str, Any]) -> None:
        """A result is the mean of those in it, and the same at all."""
        known = self.rounds[fact["number"]]
        known[index] = fact
        if len({one["digest"] for one in known.values()}) > 1:
            self.wrong.append(f"round {fact['number']} has two results")
        mean = sum(STEP * (self.names[one] + 1) for one in fact["participants"]) / len(fact["participants"])
        if max(abs(fact["low"] - mean), abs(fact["high"] - mean)) > STEP / 20:
            self.wrong.append(f"round {fact['number']}: {fact['low']}..{fact['high']} is not the mean {mean}")

    def catch_up(self) -> None:
        """Take what the peers have told already."""
        for index, program in self.programs.items():
            while not program._lines.empty():
                self._line(index)

    def revive(self, victims: Sequence[int]) -> None:
        """Start again who was killed, each in its folder."""
        for victim in victims:
            self.programs[victim].process.wait()
            self.programs[victim].close()
            self.told[victim].clear()
            self.programs[victim] = self.start(victim)

    def strike(self, rng: random.Random, most: int) -> dict[str, Any]:
        """Kill some peers, let the others end two rounds, start the killed again and wait until they are back.

        With `AT_ONCE` they are started before those rounds, as a supervisor does.
        """
        victims = sorted(rng.sample(sorted(self.programs), rng.randint(1, most)))
        time.sleep(rng.uniform(0.0, 1.5))
        self.catch_up()
        for victim in victims:
            self.programs[victim].process.kill()
        if self.AT_ONCE:
            self.revive(victims)
        began, ends = time.monotonic(), Counter[str]()
        others = [index for index in self.programs if index not in victims]
        longest, errors = 0.0, set[str]()
        for _ in range(2):
            for index in others:
                fact = self.take(index)
                longest = max(longest, fact.get("seconds", 0.0))
                ends[outcome(fact)] += 1
                if outcome(fact) == UNCERTIFIED:
                    self.uncertified.append(f"a round ended spent, and nothing of it is certified: {fact['error']}")
                if "error" in fact:
                    errors.add(fact["error"])
        survived = time.monotonic() - began
        if not self.AT_ONCE:
            self.revive(victims)
        waiting = set(victims)
        while waiting:
            for index in self.programs:
                if self.take(index)["event"] == "round":
                    waiting.discard(index)
        return {
            "killed": victims,
            "ends": dict(ends),
            "survived_seconds": round(survived, 1),
            "errors": sorted(errors),
            "longest_round": round(longest, 1),
            "back_seconds": round(time.monotonic() - began - survived, 1),
        }

    def end(self) -> None:
        """Kill everybody, and look into their journals."""
        self.wrong += self.uncertified
        for program in self.programs.values():
            program.process.kill()
            program.process.wait()
        self.wrong += self.repeated()

    def repeated(self) -> list[str]:
        """One-time acts that some journal holds twice with different content."""
        found = []
        for folder in self.group.folders:
            journal = SqliteJournal(folder.path / "journal.db", session_name(self.group.charter), print, print)
            said: dict[tuple[Any, ...], set[bytes]] = defaultdict(set)
            codec = registry("secagg").codec
            for packed, body in journal.log():
                entry = parse(packed)
                if entry.kind not in ONCE or body is None:
                    continue
                fields = codec.decode(entry.kind, body)
                place = fields[1:3] if entry.kind.startswith("certify.") else ()
                said[entry.round, entry.kind, *place].add(entry.body)
            journal.close()
            found += [f"{folder.path.name}: {key}" for key, bodies in said.items() if len(bodies) > 1]
        return found


def outcome(fact: dict[str, Any]) -> str:
    if fact["event"] == "round":
        return "completed"
    for word, came in ENDS.items():
        if word in fact["error"]:
            return came
    return UNCERTIFIED if fact["spent"] else "not begun"


def arguments(description: str | None, kills: int, log: str) -> argparse.ArgumentParser:
    """What every bench that kills is asked."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=8)
    parser.add_argument("-c", type=int, default=2)
    parser.add_argument("--kills", type=int, default=kills)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="strike no longer than this")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backup", action="store_true", help="the charter has backups")
    parser.add_argument("--log", type=Path, default=Path(log))
    parser.add_argument("--home", type=Path, help="keep the peers' folders here")
    return parser


def home_of(options: argparse.Namespace) -> AbstractContextManager[str]:
    """Where the peers' folders are."""
    return tempfile.TemporaryDirectory() if options.home is None else nullcontext(str(options.home))


def strikes(bench: Bench, options: argparse.Namespace, log: TextIO) -> str:
    """Strike a group that runs until enough were killed; what it came to."""
    rng, killed, totals = random.Random(options.seed), 0, Counter[str]()
    end = time.monotonic() + 60 * options.minutes
    while killed < options.kills and time.monotonic() < end and not bench.wrong:
        told = bench.strike(rng, min(2, options.n - options.c - 2))
        killed += len(told["killed"])
        totals.update(told["ends"])
        log.write(json.dumps(told) + "\n")
        log.flush()
        print(f"{killed} kills, {dict(totals)}, {told}", flush=True)
    return f"{killed} kills: {dict(totals)}"


def main() -> int:
    options = arguments(__doc__, 200, "kills.jsonl").parse_args()
    with home_of(options) as home, options.log.open("w") as log:
        bench = Bench(options, Path(home))
        try:
            bench.begin()
            came = strikes(bench, options, log)
            bench.end()
        finally:
            bench.group.close()
    print("\n".join(bench.wrong) or f"{came}; nothing was wrong")
    return 1 if bench.wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
