"""A peer program with a Trainer of Lightning: a classifier of this peer's own points in the plane.

    decentra run peers/lightning_loop.py --state FOLDER -- --seed 1 --epochs 4

One line is decentra's: the callback. `pip install 'decentra[lightning]'`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch.utils.data import DataLoader, TensorDataset

import decentra


class Classifier(LightningModule):
    """Tells points within a circle from those outside."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2))

    def training_step(self, batch: list[torch.Tensor], _place: int) -> torch.Tensor:
        points, inside = batch
        return torch.nn.functional.cross_entropy(self.net(points), inside)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, required=True, help="of this peer's points")
    parser.add_argument("--epochs", type=int, default=4)
    options = parser.parse_args(arguments)

    seed_everything(0)
    module = Classifier()
    points = torch.randn((512, 2), generator=torch.Generator().manual_seed(options.seed))
    inside = (points.square().sum(1) < 1).long()

    together = decentra.lightning.Callback()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_epochs=options.epochs, accelerator="cpu", callbacks=[together], **quiet)
    trainer.fit(module, DataLoader(TensorDataset(points, inside), batch_size=32, shuffle=True))
    right = (module.net(points).argmax(1) == inside).float().mean()
    print(f"right on its own points: {right:.0%}; {together.summary}")


if __name__ == "__main__":
    main()
