"""The plain training loop: nothing here knows of peers.

A program that trains alone and one that trains with others differ by the two lines that join the group::

    model = ByteGPT(seed)
    optimizer = make_optimizer(model)
    schedule = make_schedule(optimizer, STEPS)
    with decentra.join(model, optimizer) as peer:                 # this one, and what it closes
        for batch in islice(batches(silo.train, seed), STEPS):
            train_step(model, optimizer, schedule, batch)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from decentra.demo.model import CONTEXT, ByteGPT
from decentra.demo.silos import load
from decentra.errors import LocalError

BATCH = 4
LOCAL_STEPS = 20  # between two rounds: H of DiLoCo (Douillard et al. 2023)
ROUNDS = 16
STEPS = LOCAL_STEPS * ROUNDS
RATE = 4e-3
WARM_UP = 20
LAST_RATE = 0.1  # of RATE, where the cosine ends
CLIP = 1.0
HELD_OUT_WINDOWS = 64  # of 128 bytes; see held_out_loss


def rate_factor(step: int, steps: int) -> float:
    """The part of ``RATE`` that step ``step`` of ``steps`` trains with, counted from 0.

    It rises over ``WARM_UP`` steps and falls along a half cosine to ``LAST_RATE``.
    """
    if step < WARM_UP:
        return (step + 1) / WARM_UP
    progress = min(1.0, (step - WARM_UP) / max(1, steps - WARM_UP))
    return LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * progress))


def inner_rate_sum(first_step: int, local_steps: int, steps: int) -> float:
    """Σ of the learning rates of ``local_steps`` steps, beginning at ``first_step``.

    Adam moves a coordinate by about one learning rate a step at the most (Kingma and Ba 2015, §2.1), so this bounds
    the pseudo-gradient of a phase of local steps: a good range to encode it in.
    """
    return math.fsum(RATE * rate_factor(step, steps) for step in range(first_step, first_step + local_steps))


def make_optimizer(model: nn.Module) -> AdamW:
    """AdamW with a high rate and no decay, for a small model and few steps."""
    return AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.0)


def make_schedule(optimizer: Optimizer, steps: int, first: int = 0) -> LambdaLR:
    """The learning rate of each of ``steps`` steps, from step ``first`` on: see ``rate_factor``."""
    return LambdaLR(optimizer, lambda step: rate_factor(first + step, steps))


def batches(data: bytes, seed: int) -> Iterator[Tensor]:
    """Random windows of a text, without end: int64, shape (``BATCH``, ``CONTEXT`` + 1).

    Raises:
        LocalError: the text is shorter than one window.
    """
    text = _as_tokens(data)
    generator = torch.Generator().manual_seed(seed)
    offsets = torch.arange(CONTEXT + 1)
    while True:
        starts = torch.randint(len(text) - CONTEXT, (BATCH, 1), generator=generator)
        yield text[starts + offsets].long()


def train_step(model: nn.Module, optimizer: Optimizer, schedule: LambdaLR, batch: Tensor) -> float:
    """One step on one batch; returns its loss before the step, in nats a byte."""
    loss = _loss(model, batch)
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    nn.utils.clip_grad_norm_(model.parameters(), CLIP)
    optimizer.step()
    schedule.step()
    return loss.item()


def held_out_loss(model: nn.Module, data: bytes, windows: int = HELD_OUT_WINDOWS) -> float:
    """The mean of ``window_losses``, in nats a byte.

    Raises:
        LocalError: the text is shorter than one window.
    """
    return fmean(window_losses(model, data, windows))


@torch.no_grad()
def window_losses(model: nn.Module, data: bytes, windows: int = HELD_OUT_WINDOWS) -> list[float]:
    """The loss on each of some windows of a held-out text, in nats a byte: the same windows for every model.

    Windows don't overlap and are spread evenly over the text; where it holds no more than ``windows`` of them, all are
    taken. Each byte is predicted from those before it in its window, so from 64 of them on the mean.

    Raises:
        LocalError: the text is shorter than one window.
    """
    text = _as_tokens(data)
    available = (len(text) - 1) // CONTEXT
    chosen = np.linspace(0, available - 1, min(windows, available)).astype(np.int64)
    starts = torch.from_numpy(chosen * CONTEXT).unsqueeze(1)
    was_training = model.training
    model.eval()
    losses: list[float] = []
    for some in torch.split(starts, 32):  # bounds the memory, not the result
        losses += _losses(model, text[some + torch.arange(CONTEXT + 1)].long()).mean(1).tolist()
    model.train(was_training)
    return losses


class ByteTask:
    """What a process of ``decentra demo`` trains and measures; see ``decentra.demo.task``.

    Args:
        silo: its own.
        public: the demo's folder, with everybody's held-out text.
        seed: of model and batches; every peer starts from its own model.
    """

    def __init__(self, silo: str, public: Path, seed: int) -> None:
        self._train, self._seed = load(silo).train, seed
        self.model = ByteGPT(seed)
        self.optimizer: Optimizer = make_optimizer(self.model)
        self._held_out = {path.stem: path.read_bytes() for path in sorted((public / "held-out").glob("*.txt"))}
        self.held_out = {
            name: min(HELD_OUT_WINDOWS, (len(data) - 1) // CONTEXT) for name, data in self._held_out.items()
        }
        self.shared = tuple(self._held_out)

    def steps(self, first: int, steps: int) -> Iterator[float]:
        """Train, a step at a time. Who begins later takes the batches of those steps."""
        schedule = make_schedule(self.optimizer, steps, first)
        for batch in islice(batches(self._train, self._seed), first, None):
            yield train_step(self.model, self.optimizer, schedule, batch)

    def losses(self, silo: str) -> Iterator[float]:
        """The loss on each window of a silo's held-out text."""
        yield from window_losses(self.model, self._held_out[silo])


def _loss(model: nn.Module, batch: Tensor) -> Tensor:
    """Mean cross-entropy of each next byte."""
    return _losses(model, batch).mean()


def _losses(model: nn.Module, batch: Tensor) -> Tensor:
    """Cross-entropy of each next byte, in the batch's shape but for its first column."""
    logits = model(batch[:, :-1])
    return functional.cross_entropy(logits.transpose(1, 2), batch[:, 1:], reduction="none")


def _as_tokens(data: bytes) -> Tensor:
    """The text as a uint8 tensor that owns its memory."""
    if len(data) <= CONTEXT:
        raise LocalError(f"a text of {len(data)} bytes is shorter than one window of {CONTEXT + 1}; give a longer one")
    return torch.from_numpy(np.frombuffer(data, dtype=np.uint8).copy())
