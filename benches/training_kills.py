"""Kills processes of a group that trains, one or two at a time and at random instants, and holds what comes of it.

    python benches/training_kills.py [-n 8] [-c 2] [--kills 100] [--seed 0] [--backup] [--log training_kills.jsonl]

Eight peers train one small model of bytes through `decentra.join`, each on a text of its own. Strikes are those of
``kills.py``. All that complete a round must hold the same parameters after it, nobody may be held up for longer than
the charter's deadlines add up to. The same group with the same seeds then trains undisturbed for as many rounds: the
loss on text that nobody trained on must end within 1 % of the disturbed run's. How long a killed peer takes until it
has a result is told, and how many took more than 10 s: where eight peers share a few cores, torch takes long to load.
Every strike is a line of the log, the comparison its last. Exit code 1 if anything was otherwise.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path
from typing import Any, ClassVar

from kills import PHASE, READY, Bench, arguments, home_of, strikes

import starting
from decentra.demo import silos

HELD_OUT_BYTES = 2048
"""Bytes of each silo that the loss is measured on: enough to compare two runs, and quick beside a round."""

BACK = 10.0
"""Seconds until a peer that was started again has a result: a round's transfer here takes next to nothing."""

CLOSE = 0.01
"""How far the losses may be apart at the end, as a part of the undisturbed one."""

AFTER = 25
"""Outer steps after the last strike before the losses are compared: a peer that starts again has lost its inner
optimizer's moments, and its first steps show for some rounds."""

LONGEST = READY + 7 * PHASE
"""Seconds that a round may take: members are waited for, a phase has its deadline, and a vote six."""

PACE = 1.0
"""Seconds that local steps take at least while peers are killed. Peers on machines of their own take them at the same
time; here they share a few cores, which a peer that starts again also needs to load torch."""

RUNS = {"disturbed": PACE, "undisturbed": 0.0}


class Training(Bench):
    """A group of real processes that train."""

    TERMS: ClassVar = {"training__steps": 20, "protocol__initial_range": 0.1}

    AT_ONCE = True

    def __init__(self, options: argparse.Namespace, home: Path, texts: Path, pace: float) -> None:
        self.seed, self.pace, self._texts = options.seed, pace, texts
        self.started: dict[int, float] = {}
        self.late = 0
        super().__init__(options, home)

    def start(self, index: int) -> starting.Program:
        self.started[index] = time.monotonic()
        own, held_out = self._texts / f"{index}", self._texts / "held-out"
        words = [str(index), str(self.seed), str(self.pace), str(own), str(held_out)]
        return self.group.start("training_kills_peer", *words, peers=[index])[0]

    def hold(self, index: int, fact: dict[str, Any]) -> None:
        """All that complete a round hold the same parameters after it."""
        known = self.rounds[fact["number"]]
        known[index] = fact
        if len({one["digest"] for one in known.values()}) > 1:
            self.wrong.append(f"peers hold different parameters after {fact['number']} outer steps")

    def strike(self, rng: random.Random, most: int) -> dict[str, Any]:
        told = super().strike(rng, most)
        if told["longest_round"] > LONGEST:
            self.wrong.append(f"a peer waited for {told['longest_round']} s")
        told["back"] = [self._back(victim) for victim in told["killed"]]
        self.late += sum(one["round"] > BACK for one in told["back"])
        steps = max(self.rounds)
        return {"outer_steps": steps, "loss": round(self.loss(steps), 4), **told}

    def _back(self, victim: int) -> dict[str, float]:
        """When a peer had loaded torch, joined, and had a result: seconds from its start, and CPU for the first."""
        when: dict[str, float] = {}
        for fact in self.told[victim]:
            when.setdefault(fact["event"], round(fact["at"] - self.started[victim], 1))
            when |= {"cpu": round(fact["cpu"], 1)} if "cpu" in fact else {}
        return when

    def train_until(self, steps: int) -> None:
        """Let everybody complete so many outer steps."""
        for index in self.programs:
            while self.take(index).get("number", 0) < steps:
                pass

    def loss(self, steps: int) -> float:
        """The loss after so many outer steps, or the next that somebody completed."""
        return next(fact["loss"] for fact in self.rounds[min(n for n in self.rounds if n >= steps)].values())


def write_texts(folder: Path, peers: int) -> Path:
    """A text for each peer, halves of the demo's silos, and the beginnings of what nobody trains on, as files."""
    folder.mkdir(parents=True)
    loaded = [silos.load(name) for name in silos.silo_names(peers)]
    for index, silo in enumerate(loaded):
        (folder / str(index)).write_bytes(silo.train)
    (folder / "held-out").write_bytes(b"".join(silo.held_out[:HELD_OUT_BYTES] for silo in loaded))
    return folder


def compare(disturbed: Training, undisturbed: Training) -> dict[str, Any]:
    """The losses of both runs on the way and at the end."""
    steps = max(disturbed.rounds)
    undisturbed.begin()
    undisturbed.train_until(steps)
    places = [steps // 8, steps // 4, steps // 2, steps]
    losses = [(round(disturbed.loss(place), 4), round(undisturbed.loss(place), 4)) for place in places]
    last, plain = losses[-1]
    if abs(last / plain - 1) > CLOSE:
        undisturbed.wrong.append(f"the loss ended at {last}, undisturbed at {plain}")
    return {"outer_steps": places, "loss, undisturbed": losses}


def main() -> int:
    options = arguments(__doc__, 100, "training_kills.jsonl").parse_args()
    wrong: list[str] = []
    with home_of(options) as home, options.log.open("w") as log:
        texts = write_texts(Path(home, "texts"), options.n)
        disturbed, undisturbed = (Training(options, Path(home, name), texts, pace) for name, pace in RUNS.items())
        try:
            disturbed.begin()
            came = strikes(disturbed, options, log)
            disturbed.train_until(max(disturbed.rounds) + AFTER)
            disturbed.end()
            told = compare(disturbed, undisturbed)
            log.write(json.dumps(told) + "\n")
        finally:
            for run in (disturbed, undisturbed):
                run.group.close()
                wrong += run.wrong
    print(f"{came}; {disturbed.late} were back later than {BACK:.0f} s after their start; {told}")
    print("\n".join(wrong) or "nothing was wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
