"""A peer of several processes: each of them computes a part of every batch, and rank 0 speaks with the group.

    DECENTRA_STATE=FOLDER torchrun --nproc-per-node 2 peers/torchrun.py --seed 1 --rounds 8

Two lines are decentra's, the same as in a peer of one process; the folder is needed where rank 0 runs. `slurm.sbatch`
has how machines of one site start together.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import count

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import decentra


def network() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))


def batches(seed: int) -> Iterator[list[torch.Tensor]]:
    """This process's part of the peer's data, over and over."""
    inputs = torch.randn((1024, 8), generator=torch.Generator().manual_seed(seed))
    data = TensorDataset(inputs, inputs[:, :1] * inputs[:, 1:2])
    sampler: DistributedSampler[TensorDataset] = DistributedSampler(data, seed=seed)
    for epoch in count():
        sampler.set_epoch(epoch)
        yield from DataLoader(data, batch_size=32, sampler=sampler)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, required=True, help="of this peer's data")
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()

    dist.init_process_group("gloo")  # nccl, where each process has a GPU
    torch.manual_seed(0)
    model = DistributedDataParallel(network())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    with decentra.join(model, optimizer) as peer:
        steps = options.rounds * peer.charter.training.steps
        for _, (x, y) in zip(range(steps), batches(options.seed), strict=False):
            torch.nn.functional.mse_loss(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
        summary = peer.close()
    print(f"rank {dist.get_rank()} of {dist.get_world_size()}: {summary}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
