"""What each process of ``decentra demo`` runs, started by ``decentra run``: an ordinary training loop, and two lines.

It tells what happens as JSON lines on stdout, which the launcher reads.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import decentra
from decentra.demo.model import ByteGPT
from decentra.demo.silos import load
from decentra.demo.train import batches, held_out_loss, make_optimizer, make_schedule, train_alone, train_step


def tell(event: str, **facts: object) -> None:
    """Report to the launcher."""
    print(json.dumps({"event": event, **facts}), flush=True)


def losses(model: ByteGPT, silos: Mapping[str, bytes]) -> dict[str, float]:
    """Held-out loss on every silo, nats a byte."""
    return {name: round(held_out_loss(model, held_out), 4) for name, held_out in silos.items()}


def main() -> None:
    """Train together, then, if asked, alone for as many steps."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--silo", required=True)
    parser.add_argument("--held-out", type=Path, required=True, help="a folder with a file a silo: they are public")
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--witness", type=Path, required=True)
    parser.add_argument("--compare", action="store_true")
    options = parser.parse_args()

    silo = load(options.silo)
    held_out = {path.stem: path.read_bytes() for path in sorted(options.held_out.glob("*.txt"))}
    model = ByteGPT(options.seed)
    optimizer = make_optimizer(model)

    with decentra.join(model, optimizer, witness=options.witness) as peer:
        every = peer.charter.training.steps
        steps = options.rounds * every
        schedule = make_schedule(optimizer, steps)
        tell("joined", parameters=peer.summary().parameters, before=losses(model, held_out))
        seen, loss = 0, 0.0
        for step, batch in zip(range(steps), batches(silo.train, options.seed), strict=False):
            loss = train_step(model, optimizer, schedule, batch)
            if (step + 1) % every == 0:
                summary = peer.summary()
                tell(
                    "round",
                    step=step + 1,
                    rounds=summary.rounds,
                    failed=summary.failed,
                    completed=summary.rounds > seen,
                    loss=round(loss, 4),
                    bytes=summary.bytes_sent,
                    seconds=round(summary.seconds, 3),
                    parameters=summary.parameters,
                )
                seen = summary.rounds
        summary = peer.close()
    tell(
        "done",
        rounds=summary.rounds,
        failed=summary.failed,
        bytes=summary.bytes_sent,
        seconds=round(summary.seconds, 3),
        parameters=summary.parameters,
        transcript=str(summary.transcript),
        after=losses(model, held_out),
    )
    if options.compare:
        alone = ByteGPT(options.seed)
        train_alone(alone, silo, steps, options.seed)
        tell("alone", alone=losses(alone, held_out))


if __name__ == "__main__":
    main()
