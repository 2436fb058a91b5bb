"""One of several ranks that are one peer: trains a tiny model in distributed data parallel, and tells what it holds."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import decentra
from decentra.training import ddp


def tell(event: str, **facts: object) -> None:
    print(json.dumps({"event": event, **facts}), flush=True)


class Learner:
    """A model in distributed data parallel, its optimizer, and this rank's data."""

    def __init__(self, seed: int, rank: int, strided: bool) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1))
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.copy_(0.5 * torch.randn(parameter.shape, generator=draw))
        if strided:  # the values go by place, not by stride; an optimizer's kernels may round them in another way
            self.model[0].weight.data = self.model[0].weight.data.t().contiguous().t()
        self.wrapped = DistributedDataParallel(self.model)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9)
        self._draw = torch.Generator().manual_seed(1000 * seed + rank)

    def step(self) -> None:
        batch = torch.randn((8, 6), generator=self._draw)
        self.optimizer.zero_grad()
        torch.autograd.backward((self.wrapped(batch) - batch.sum(1, keepdim=True)).square().mean())
        self.optimizer.step()

    def digest(self) -> str:
        flat = torch.cat([parameter.detach().flatten() for parameter in self.model.parameters()])
        return hashlib.sha256(flat.numpy().tobytes()).hexdigest()


def rounds(learner: Learner, peer: decentra.TrainingPeer, count: int) -> None:
    for _ in range(count):
        for _ in range(peer.charter.training.steps):
            learner.step()
        tell("round", parameters=learner.digest(), rounds=peer.summary().rounds, told=peer.summary().parameters)


def training(learner: Learner, folder: str) -> None:
    """Two rounds, an update with NaN that all ranks refuse, and a round behind it."""
    with decentra.join(learner.wrapped, learner.optimizer, folder) as peer:
        tell("joined", parameters=learner.digest(), id=peer.id.hex())
        rounds(learner, peer, 2)
        with torch.no_grad():
            learner.model[0].weight[0, 0] = float("nan")
        failed(lambda: rounds(learner, peer, 1))
        peer.go_back()
        learner.optimizer.state.clear()  # its momentum is NaN
        rounds(learner, peer, 1)
        if dist.get_rank():
            failed(lambda: peer.average([]))
        learner.step()
    tell("closed", parameters=learner.digest(), told=peer.summary().parameters)


def overlapping(learner: Learner, folder: str) -> None:
    with decentra.join(learner.wrapped, learner.optimizer, folder, overlap=True) as peer:
        for _ in range(3 * peer.charter.training.steps):
            learner.step()
            tell("step", parameters=learner.digest())
    tell("closed", parameters=learner.digest(), rounds=peer.summary().rounds)


def keeping(learner: Learner, folder: str, killed: bool = False) -> None:
    """Rounds with a checkpoint behind each, in which every rank draws random numbers of its own."""
    rank = dist.get_rank()
    torch.manual_seed(rank)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(learner.optimizer, 0.9)

    def state() -> dict[str, object]:
        momenta = [learner.optimizer.state.get(parameter) for parameter in learner.model.parameters()]
        flat = b"".join(one["momentum_buffer"].numpy().tobytes() for one in momenta if one)
        random = torch.get_rng_state().numpy().tobytes()
        return {
            "parameters": learner.digest(),
            "momenta": hashlib.sha256(flat).hexdigest(),
            "random": hashlib.sha256(random).hexdigest(),
            "rate": scheduler.get_last_lr(),
        }

    kept = Path(folder) / f"kept-{rank}"
    options = {"checkpoint": kept, "also": {"scheduler": scheduler}}
    with decentra.join(learner.wrapped, learner.optimizer, folder, **options) as peer:
        tell("joined", outer_steps=peer.summary().outer_steps, **state())
        for _ in range(2 if killed else 1):
            for _ in range(peer.charter.training.steps):
                torch.rand(rank + 1)
                learner.step()
                scheduler.step()
            tell("round", **state())
        if killed:
            learner.step()
            os._exit(1)
    tell("closed", kept=kept.exists())


def killed(learner: Learner, folder: str) -> None:
    keeping(learner, folder, killed=True)


def refused(learner: Learner, folder: str) -> None:
    """Errors of one rank's in joining are everybody's."""
    failed(lambda: decentra.join(learner.wrapped, learner.optimizer, str(Path(folder) / "nothing")))
    if dist.get_rank():
        learner.model.requires_grad_(False)
    failed(lambda: decentra.join(learner.model, learner.optimizer, folder))
    failed(lambda: decentra.join(learner.model, learner.optimizer, folder, checkpoint=folder, overlap=True))


def gradients(learner: Learner, folder: str) -> None:
    with ddp.join(learner.wrapped, folder) as peer:
        for _ in range(3):
            learner.step()
            tell("step", parameters=learner.digest())
    tell("closed", rounds=peer.rounds)


def leaving(learner: Learner, folder: str) -> None:
    """One rank ends in the middle, and the other must not wait for it."""

    def train() -> None:
        with decentra.join(learner.wrapped, learner.optimizer, folder) as peer:
            rounds(learner, peer, 1)
            if dist.get_rank():
                os._exit(1)
            rounds(learner, peer, 1)

    failed(train)


def failed(call: Any) -> None:
    try:
        call()
    except (decentra.DecentraError, RuntimeError) as error:
        tell("failed", kind=type(error).__name__, text=str(error))


def main() -> None:
    """Arguments: the seed, the peer's folder, and what to do one after another."""
    seed, folder, *parts = sys.argv[1:]
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    tell("begun")
    for part in parts:
        globals()[part](Learner(int(seed), dist.get_rank(), part == "training"), folder)
        tell("end", part=part)


if __name__ == "__main__":
    main()
