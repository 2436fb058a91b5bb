"""A peer of ``benches/training_kills.py``: trains a small model of bytes on its own text, and tells of every round."""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import decentra

BYTES, CONTEXT, WIDTH, HIDDEN = 256, 4, 16, 64
BATCH = 256
INNER_LR = 0.003


def tell(event: str, **facts: object) -> None:
    print(json.dumps({"event": event, "at": time.monotonic(), **facts}), flush=True)


class Warnings(logging.Handler):
    """Keeps the last warning: the hook says there how a round failed."""

    last = ""

    def emit(self, record: logging.LogRecord) -> None:
        Warnings.last = record.getMessage()


class ByteModel(nn.Module):
    """The next byte from the four before it: 25 thousand parameters, the same at every peer in the beginning."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed = nn.Embedding(BYTES, WIDTH)
        self.hidden = nn.Linear(CONTEXT * WIDTH, HIDDEN)
        self.head = nn.Linear(HIDDEN, BYTES)

    def forward(self, context: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.tanh(self.hidden(self.embed(context).flatten(1))))
        return logits


class Text:
    """Windows of a text: contexts, and the bytes that follow."""

    def __init__(self, path: Path) -> None:
        self._windows = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8).unfold(0, CONTEXT + 1, 1)

    def loss(self, model: ByteModel, places: Tensor) -> Tensor:
        """Nats a byte at these places."""
        windows = self._windows[places].long()
        return cross_entropy(model(windows[:, :-1]), windows[:, -1])

    def draw(self, generator: torch.Generator) -> Tensor:
        return torch.randint(len(self._windows), (BATCH,), generator=generator)

    @property
    def all(self) -> Tensor:
        return torch.arange(len(self._windows))


def main() -> None:
    """Arguments: its number, the seed, seconds of local steps at least, its text, and one that nobody trains on."""
    number, seed, pace = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    text, held_out = (Text(Path(name)) for name in sys.argv[4:6])
    logging.getLogger("decentra").addHandler(Warnings(logging.WARNING))
    model = ByteModel(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=INNER_LR)
    tell("imported", cpu=time.process_time())
    peer = decentra.join(model, optimizer)
    tell("joined", outer_steps=peer.summary().outer_steps)
    while True:
        before = peer.summary()
        # What it trains on next follows from where the group is, so that a restart changes no other peer's batches.
        generator = torch.Generator().manual_seed(seed + 1000 * number + 100_000 * before.outer_steps)
        time.sleep(pace)
        while (now := peer.summary()).rounds + now.failed == before.rounds + before.failed:
            optimizer.zero_grad()
            text.loss(model, text.draw(generator)).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        seconds = now.seconds - before.seconds
        if now.failed > before.failed:
            error = Warnings.last
            tell("failed", error=error, spent="its update had left" in error, seconds=seconds)
            continue
        with torch.no_grad():
            loss = float(held_out.loss(model, held_out.all))
        tell("round", number=now.outer_steps, digest=now.parameters, loss=loss, seconds=seconds)


if __name__ == "__main__":
    main()
