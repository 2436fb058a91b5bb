"""The demo's model: a GPT over bytes with about 1.15 million parameters.

A pre-LayerNorm transformer decoder (Vaswani et al. 2017; Radford et al. 2019) with two choices for a model this small
that trains for minutes. It sees n-grams at once: the input at t sums the embeddings of bytes t, t−1, t−2 and t−3, so no
attention head has to learn to look one byte back. And embeddings, positions and head begin larger than a GPT's, with
standard deviation 0.1. Without either, the same steps end half a nat a byte higher.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn import functional

VOCABULARY = 256
CONTEXT = 128
WIDTH = 160
LAYERS = 3
HEADS = 5
RECENT = 4  # bytes whose embeddings are summed at each position
WIDE_STD = 0.1


class Block(nn.Module):
    """One layer: causal self-attention, then a perceptron, each added to what came in."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(WIDTH)
        self.query_key_value = nn.Linear(WIDTH, 3 * WIDTH)
        self.project = nn.Linear(WIDTH, WIDTH)
        self.norm_perceptron = nn.LayerNorm(WIDTH)
        self.widen = nn.Linear(WIDTH, 4 * WIDTH)
        self.narrow = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        parts = self.query_key_value(self.norm_attention(x)).view(batch, length, 3, HEADS, WIDTH // HEADS)
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # each (batch, head, position, width of a head)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.project(mixed.transpose(1, 2).reshape(batch, length, WIDTH))
        hidden: Tensor = self.narrow(functional.gelu(self.widen(self.norm_perceptron(x))))
        return x + hidden


class ByteGPT(nn.Module):
    """Predicts the next byte of a text.

    Args:
        seed: of the initial parameters; equal seeds give equal parameters, whatever else drew random numbers before.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.recent = nn.ModuleList(nn.Embedding(VOCABULARY, WIDTH) for _ in range(RECENT))
        self.position = nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self._initialise(torch.Generator().manual_seed(seed))

    @torch.no_grad()
    def _initialise(self, generator: torch.Generator) -> None:
        wide = {id(self.head), *(id(embedding) for embedding in self._embeddings())}
        for module in self.modules():
            if id(module) in wide and isinstance(module, nn.Embedding | nn.Linear):
                module.weight.normal_(std=WIDE_STD, generator=generator)
            elif isinstance(module, nn.Linear):
                bound = module.in_features**-0.5
                module.weight.uniform_(-bound, bound, generator=generator)
                module.bias.zero_()

    def _embeddings(self) -> Iterator[nn.Module]:
        yield from self.recent
        yield self.position

    def forward(self, tokens: Tensor) -> Tensor:
        """Scores the byte that follows each position.

        Args:
            tokens: bytes as int64, shape (batch, length) with length ≤ ``CONTEXT``.

        Returns:
            Logits, float32, shape (batch, length, 256).
        """
        length = tokens.shape[1]
        x: Tensor = self.position.weight[:length]
        for back, embedding in enumerate(islice(self.recent, length)):
            # Nothing comes before a window: its first bytes sum fewer embeddings.
            x = x + functional.pad(embedding(tokens[:, : length - back]), (0, 0, back, 0))
        logits: Tensor = self.head(self.norm(self.blocks(x)))
        return logits
