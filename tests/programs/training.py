"""A peer that trains a tiny model from a seed of its own, and tells the hash of its parameters every round."""

from __future__ import annotations

import json
import sys

import torch

import decentra


def tell(event: str, **facts: object) -> None:
    print(json.dumps({"event": event, **facts}), flush=True)


def main() -> None:
    """Arguments: the seed, and how many rounds; with ``step`` each waits for a line on stdin."""
    seed, rounds, options = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with decentra.join(model, optimizer) as peer:
        tell("joined", parameters=peer.summary().parameters)
        every = peer.charter.training.steps
        for step in range(rounds * every):
            if "step" in options and step % every == 0:
                tell("waiting")
                sys.stdin.readline()
            batch = torch.randn((8, 6))
            optimizer.zero_grad()
            torch.autograd.backward((model(batch) - batch.sum(1, keepdim=True)).square().mean())
            optimizer.step()
            if (step + 1) % every == 0:
                summary = peer.summary()
                local = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
                norm = float(local.norm())
                tell("round", parameters=summary.parameters, rounds=summary.rounds, failed=summary.failed, norm=norm)
    summary = peer.summary()
    tell(
        "closed",
        parameters=summary.parameters,
        rounds=summary.rounds,
        bytes=summary.bytes_sent,
        seconds=summary.seconds,
        transcript=str(summary.transcript),
    )


if __name__ == "__main__":
    main()
