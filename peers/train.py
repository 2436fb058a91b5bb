"""A whole peer program: a small language model on this peer's own text file.

    decentra run peers/train.py --state FOLDER -- my-text.txt --rounds 8

Everybody in the group runs it, each on a text of its own; the text never leaves. What leaves, `decentra run` says when
it joins.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import decentra
from decentra.demo.model import ByteGPT
from decentra.demo.train import batches, held_out_loss, make_optimizer, make_schedule, train_step


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("text", type=Path, help="a file of at least some 10,000 bytes")
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()

    data = options.text.read_bytes()
    train, held_out = data[: -len(data) // 10], data[-len(data) // 10 :]
    model = ByteGPT(seed=0)
    optimizer = make_optimizer(model)

    with decentra.join(model, optimizer) as peer:
        steps = options.rounds * peer.charter.training.steps
        schedule = make_schedule(optimizer, steps)
        print(f"before: {held_out_loss(model, held_out):.3f} nats a byte", flush=True)
        for _, batch in zip(range(steps), batches(train, seed=0), strict=False):
            train_step(model, optimizer, schedule, batch)
        summary = peer.close()
    print(f"after {summary.rounds} rounds: {held_out_loss(model, held_out):.3f} nats a byte")
    print(f"sent {summary.bytes_sent / 1e6:.1f} MB; parameters {summary.parameters[:16]}; log {summary.transcript}")


if __name__ == "__main__":
    main()
