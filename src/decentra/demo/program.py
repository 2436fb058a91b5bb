"""What each process of ``decentra demo`` runs, started by ``decentra run``: an ordinary training loop, and two lines.

It tells what happens as JSON lines on stdout, which the launcher reads. Started again after a kill, it goes on where
the group is by then.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from threading import Event
from typing import Any

from numpy.typing import NDArray

import decentra
from decentra.demo.pace import Pace, tell
from decentra.demo.task import Task, recipe
from decentra.peer.witness import Witness
from decentra.robust.attacks import attack
from decentra.training.hook import Summary
from decentra.training.join import TrainingPeer
from decentra.types import RoundId

SPARE = 2
"""Rounds beyond those asked for, to make up for rounds that failed."""

STILL_SECONDS = 300.0
"""How long a peer that is to be killed stands still; a launcher that is gone must not hold it for ever."""


class Telling(Witness):
    """A witness that tells when an update is encoded, right before it is masked, and in one round stands still there.

    Args:
        folder: where it writes.
        stop_in: the number of that round, or of the first one after it; joining is round 1.
    """

    def __init__(self, folder: Path, stop_in: int | None) -> None:
        super().__init__(folder)
        self._stop_in = stop_in

    def update(self, round_id: RoundId, encoded: NDArray[Any]) -> None:
        super().update(round_id, encoded)
        still = self._stop_in is not None and round_id.number >= self._stop_in
        tell("encoded", number=round_id.number, still=still)
        if still:
            Event().wait(STILL_SECONDS)


def losses(task: Task, silos: Iterable[str], pace: Pace) -> dict[str, list[float]]:
    """The loss on every held-out text of some silos."""
    return {silo: [round(loss, 4) for loss in pace.laps("text", task.losses(silo))] for silo in silos}


def counts(summary: Summary) -> dict[str, object]:
    """What the launcher is told of a peer's rounds: ``round`` is the group's last, ``rounds`` those of this process."""
    return {
        "round": summary.outer_steps,
        "rounds": summary.rounds,
        "failed": summary.failed,
        "bytes": summary.bytes_sent,
        "seconds": round(summary.seconds, 3),
        "parameters": summary.parameters,
    }


def pace_of(task: Task, first: int, steps: int, compare: bool) -> Pace:
    """The work that is ahead of a peer that begins at step ``first``: steps, and texts to measure before and after."""
    shared, every = sum(task.held_out[silo] for silo in task.shared), sum(task.held_out.values())
    ahead = {"step": steps - first + steps * compare, "text": shared * (1 if first else 2) + every * compare}
    return Pace(ahead, lambda spent, left: tell("pace", spent=round(spent, 1), left=left))


def lies(
    task: Task, options: argparse.Namespace, first: int, every: int, steps: int, peer: TrainingPeer
) -> Iterator[float]:
    """What a liar does in place of training."""
    from decentra.demo.liar import Liar

    make = recipe(options.model).task
    named = (one.rsplit("=", 1) for one in options.honest)
    honest = [make(silo, options.public, int(seed)) for silo, seed in named]
    place = {member: index for index, member in enumerate(peer.charter.ids)}
    buckets = [[place[member] for member in bucket] for bucket in peer.buckets]
    liar = Liar(task, honest, attack(options.attack), options.rule, options.liars, buckets, place[peer.id])
    return liar.steps(first, every, steps, peer.go_back)


def main() -> None:
    """Train together, then, if asked, alone for as many steps."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--silo", required=True)
    parser.add_argument("--public", type=Path, required=True, help="the demo's folder, with what all may read")
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--witness", type=Path, required=True)
    parser.add_argument("--stop-in", type=int, help="stand still in the middle of this round, to be killed there")
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("--attack", help="lie: send what this attack makes of the honest peers' updates")
    parser.add_argument("--rule", help="against which it is made")
    parser.add_argument("--liars", type=int, help="how many lie")
    parser.add_argument("--honest", nargs="+", help="SILO=SEED of every honest peer")
    options = parser.parse_args()

    make = recipe(options.model).task
    task = make(options.silo, options.public, options.seed)

    with decentra.join(task.model, task.optimizer, witness=Telling(options.witness, options.stop_in)) as peer:
        every = peer.charter.training.steps
        steps = options.rounds * every
        first = peer.summary().outer_steps * every  # 0, unless the others train already
        pace = pace_of(task, first, steps, options.compare)
        before = {} if first else losses(task, task.shared, pace)
        tell("joined", **counts(peer.summary()), before=before)
        train = task.steps(first, steps) if options.attack is None else lies(task, options, first, every, steps, peer)
        for _ in range(first // every, options.rounds + SPARE):
            if peer.summary().outer_steps >= options.rounds:
                break
            phase = list(pace.laps("step", islice(train, every)))
            tell("round", **counts(peer.summary()), loss=round(phase[-1], 4))
        summary = peer.close()
    after = losses(task, task.shared, pace)
    tell("done", **counts(summary), transcript=str(summary.transcript), after=after)
    if options.compare:
        del train, task  # their memory
        alone = make(options.silo, options.public, options.seed)
        for _ in pace.laps("step", islice(alone.steps(0, steps), steps)):
            pass
        tell("alone", alone=losses(alone, alone.held_out, pace))


if __name__ == "__main__":
    main()
