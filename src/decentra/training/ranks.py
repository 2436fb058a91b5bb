"""LoRA adapters of several ranks in one group: one layout for all, and at each peer the best that its rank can hold.

The group's adapter of a matrix has rank R: A, R × inputs, and B, outputs × R, whose product B·A is the change of that
matrix; a peer's scale (alpha/r in PEFT) is part of B, so peers may differ in it too. A peer of rank r < R holds

    a = N·A,  b = B·M,  with N·M the identity, such that b·a is the best approximation of B·A of rank r (Eckart, Young),

and what it moves counts in the group's coordinates as ΔA = M·Δa, ΔB = Δb·N: padded to R, in the basis that the group's
adapter has. Then (B + ΔB)·(A + ΔA) = b′·a′ + (B·A − b·a): what the peer learned arrives whole, and what its rank could
not hold stays. Averaging of zero-padded ranks: Cho et al. 2024 (HetLoRA, arXiv 2401.06432); a truncation by SVD: Bai et
al. 2024 (FlexLoRA, arXiv 2402.11505). The bases, so that padded coordinates of several peers mean the same, are ours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from decentra.errors import LocalError

if TYPE_CHECKING:
    from numpy.typing import NDArray

NOTHING = 1e-7
"""Of the largest singular value: what float32 can't tell from zero."""


@dataclass(frozen=True)
class Adapter:
    """The two matrices of one LoRA adapter of one layer.

    Attributes:
        names: of A and of B.
        a: rank × inputs; of a convolution with more dimensions behind.
        b: outputs × rank; of a convolution with more dimensions behind, all of length one.
        scale: what b·a is multiplied with.
    """

    names: tuple[str, str]
    a: torch.Tensor
    b: torch.Tensor
    scale: float

    @property
    def rank(self) -> int:
        return self.a.shape[0]


class Pair:
    """One adapter in the group's coordinates.

    Where the group's rank is larger, what lies beyond this peer's own begins as PEFT begins an adapter: A random, drawn
    from its name, and B zero. So no direction is dead: were both zero, no gradient would ever move them.

    Args:
        adapter: this peer's own.
        rank: R, the group's.
    """

    def __init__(self, adapter: Adapter, rank: int) -> None:
        self._adapter = adapter
        own = adapter.rank
        self._at = [*_values(adapter)]  # what the model's own tensors were set to
        a, b = self._at
        draw = np.random.default_rng([*hashlib.sha256(adapter.names[0].encode()).digest()])
        beyond = draw.uniform(-1, 1, (rank - own, a.shape[1])) / np.sqrt(a.shape[1])
        self._common = [
            np.concatenate([a, beyond]).astype(np.float32),
            np.pad(b * np.float32(adapter.scale), ((0, 0), (0, rank - own))).astype(np.float32),
        ]
        self._n = np.eye(own, rank)
        self._m = self._n.T.copy()
        self._written: dict[int, NDArray[np.float32]] = {}

    def shape(self, half: int) -> tuple[int, ...]:
        """Of A, half 0, and of B, half 1, as the group has them."""
        shape: tuple[int, ...] = self._common[half].shape
        return shape

    def read(self, half: int) -> NDArray[np.float32]:
        moved = (_values(self._adapter)[half] - self._at[half]).astype(np.float64)
        if not moved.any():
            return self._common[half].copy()  # to the bit, also −0
        padded = self._m @ moved if half == 0 else self._adapter.scale * moved @ self._n
        return (self._common[half] + padded).astype(np.float32)

    def write(self, half: int, values: NDArray[np.float32]) -> None:
        """Take one half; with the other, the model's own tensors are set."""
        self._written[half] = values.astype(np.float32)
        if len(self._written) < 2:
            return
        self._common = [self._written.pop(0), self._written.pop(1)]
        a, b = (values.astype(np.float64) for values in self._common)
        if self._adapter.rank < len(a):
            self._m, self._n = best_subspace(a, b, self._n)
        own = self._n @ a, b @ self._m / self._adapter.scale
        with torch.no_grad():
            for tensor, new in zip((self._adapter.a, self._adapter.b), own, strict=True):
                tensor.copy_(torch.from_numpy(new.astype(np.float32)).reshape(tensor.shape))
        self._at = [*_values(self._adapter)]

    def copy(self) -> Pair:
        """The same, with tensors of no model."""
        other = Pair.__new__(Pair)
        vars(other).update(vars(self))
        mine = self._adapter
        other._adapter = Adapter(mine.names, mine.a.detach().clone(), mine.b.detach().clone(), mine.scale)
        other._written = dict(self._written)
        return other


def _values(adapter: Adapter) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Copies of both matrices, flat where they belong to a convolution."""
    a, b = (tensor.detach().to("cpu", torch.float32, copy=True).numpy() for tensor in (adapter.a, adapter.b))
    return a.reshape(len(a), -1), b.reshape(len(b), -1)


def best_subspace(
    a: NDArray[np.float64], b: NDArray[np.float64], near: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """M and N that cut an adapter down to the best of a smaller rank.

    With P = b·a = U·S·Vᵀ, its r largest singular values are what M = a·V·S^(−½) and N = S^(−½)·Uᵀ·b keep, and N·M is
    the identity. Where P has fewer than r, directions follow in which a is largest and the product nothing, since a
    local step needs an a to learn a b. Of all bases of these directions, rows of N are the orthonormal ones nearest to
    those before: so a is of the group's size, and the moments of the peer's optimizer keep their meaning.

    Args:
        a: A, R × inputs.
        b: B, outputs × R.
        near: N before, r × R.

    Returns:
        M, R × r, and N, r × R.
    """
    rank, whole = near.shape
    _, ra = np.linalg.qr(a.T)
    _, rb = np.linalg.qr(b)
    u, s, vt = np.linalg.svd(rb @ ra.T)
    kept = min(rank, int(np.count_nonzero(s > NOTHING * s[0])))
    root = np.sqrt(s[:kept])
    m, n = ra.T @ vt[:kept].T / root, u[:, :kept].T @ rb / root[:, None]
    if kept < rank:
        outside = np.eye(whole) - m @ n
        within = np.linalg.svd(outside)[0][:, : whole - kept]
        more = within @ np.linalg.svd(within.T @ outside @ ra.T)[0][:, : rank - kept]
        m, n = np.hstack([m, more]), np.vstack([n, more.T @ outside])
    basis = np.linalg.qr(n.T)[0].T
    u, _, vt = np.linalg.svd(near @ basis.T)
    turned = u @ vt @ basis
    return m @ (n @ turned.T), turned


class Padded:
    """All adapters of a model as the group has them: views, for `Leaving`.

    Args:
        adapters: this peer's own.
        rank: R, the group's.

    Raises:
        LocalError: an adapter has a larger rank, or a scale of zero.
    """

    def __init__(self, adapters: tuple[Adapter, ...], rank: int) -> None:
        for adapter in adapters:
            if adapter.rank > rank:
                raise LocalError(
                    f"{adapter.names[0]!r} has rank {adapter.rank}, and the group's is to be {rank}: give the largest "
                    "rank that a peer of the group has"
                )
            if not adapter.scale:
                raise LocalError(f"{adapter.names[0]!r} has scale 0, so it changes nothing: set lora_alpha above 0")
        self._halves: dict[str, tuple[Pair, int]] = {}
        for adapter in adapters:
            pair = Pair(adapter, rank)
            self._halves.update({name: (pair, half) for half, name in enumerate(adapter.names)})

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {name: pair.shape(half) for name, (pair, half) in self._halves.items()}

    def read(self, name: str) -> NDArray[np.float32]:
        pair, half = self._halves[name]
        return pair.read(half)

    def write(self, name: str, values: NDArray[np.float32]) -> None:
        pair, half = self._halves[name]
        pair.write(half, values)

    def copy(self) -> Padded:
        other = Padded((), 0)
        pairs = {id(pair): pair.copy() for pair, _ in self._halves.values()}
        other._halves = {name: (pairs[id(pair)], half) for name, (pair, half) in self._halves.items()}
        return other
