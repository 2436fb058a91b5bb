"""What each process of ``decentra demo`` runs, started by ``decentra run``: an ordinary training loop, and two lines.

It tells what happens as JSON lines on stdout, which the launcher reads. Started again after a kill, it goes on where
the group is by then.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from threading import Event
from typing import Any

from numpy.typing import NDArray

import decentra
from decentra.demo.model import ByteGPT
from decentra.demo.silos import load
from decentra.demo.train import batches, held_out_loss, make_optimizer, make_schedule, train_alone, train_step
from decentra.peer.witness import Witness
from decentra.training.hook import Summary
from decentra.types import RoundId

SPARE = 2
"""Rounds beyond those asked for, to make up for rounds that failed."""

STILL_SECONDS = 300.0
"""How long a peer that is to be killed stands still; a launcher that is gone must not hold it for ever."""


def tell(event: str, **facts: object) -> None:
    """Report to the launcher."""
    print(json.dumps({"event": event, **facts}), flush=True)


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


def losses(model: ByteGPT, silos: Mapping[str, bytes]) -> dict[str, float]:
    """Held-out loss on every silo, nats a byte."""
    return {name: round(held_out_loss(model, held_out), 4) for name, held_out in silos.items()}


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


def main() -> None:
    """Train together, then, if asked, alone for as many steps."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--silo", required=True)
    parser.add_argument("--held-out", type=Path, required=True, help="a folder with a file a silo: they are public")
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--witness", type=Path, required=True)
    parser.add_argument("--stop-in", type=int, help="stand still in the middle of this round, to be killed there")
    parser.add_argument("--compare", action="store_true")
    options = parser.parse_args()

    silo = load(options.silo)
    held_out = {path.stem: path.read_bytes() for path in sorted(options.held_out.glob("*.txt"))}
    model = ByteGPT(options.seed)
    optimizer = make_optimizer(model)

    with decentra.join(model, optimizer, witness=Telling(options.witness, options.stop_in)) as peer:
        every = peer.charter.training.steps
        steps = options.rounds * every
        first = peer.summary().outer_steps * every  # 0, unless the others train already
        schedule = make_schedule(optimizer, steps, first)
        train = islice(batches(silo.train, options.seed), first, None)
        tell("joined", **counts(peer.summary()), before={} if first else losses(model, held_out))
        for _ in range(first // every, options.rounds + SPARE):
            if peer.summary().outer_steps >= options.rounds:
                break
            loss = 0.0
            for batch in islice(train, every):
                loss = train_step(model, optimizer, schedule, batch)
            tell("round", **counts(peer.summary()), loss=round(loss, 4))
        summary = peer.close()
    tell("done", **counts(summary), transcript=str(summary.transcript), after=losses(model, held_out))
    if options.compare:
        alone = ByteGPT(options.seed)
        train_alone(alone, silo, steps, options.seed)
        tell("alone", alone=losses(alone, held_out))


if __name__ == "__main__":
    main()
