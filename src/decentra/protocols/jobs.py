"""The heavy work of rounds, as jobs for the pool: encode, mask, sum, put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from decentra import derive, memory
from decentra.crypto.prg import Mask, apply_masks
from decentra.crypto.ring import Ring, encode
from decentra.machine.effects import Tools
from decentra.machine.events import Blob
from decentra.types import RoundId


@dataclass(frozen=True)
class Encoded:
    """This peer's vector in the ring, whole or cut into one slice a member of the roster, and how many coordinates were
    clipped. The count stays local."""

    slices: tuple[Blob, ...]
    clipped: int = 0


@dataclass(frozen=True)
class Encode:
    """Job: clip, scale, round, mask, and cut, unless it travels whole. Without masks it is the update in the clear.

    Raises LocalError for NaN, infinity, or a weight out of bounds.
    """

    round_id: RoundId
    update: Sequence[NDArray[np.float32]] = field(repr=False)
    residual: Sequence[NDArray[np.float32]] | None = field(repr=False)
    ranges: tuple[float, ...]
    weight: int
    max_weight: int
    width: int
    length: int
    n: int
    masks: tuple[Mask, ...] = field(default=(), repr=False)
    whole: bool = False
    coins: bytes | None = None
    """What rounding is drawn from, where others are to round alike; else this peer's own randomness."""

    def run(self, tools: Tools) -> Encoded:
        ring = Ring(self.width)
        vector = memory.zeros(self.length, ring.dtype)
        counts = encode(
            self.update,
            self.ranges,
            ring=ring,
            n=self.n,
            weight=self.weight,
            max_weight=self.max_weight,
            seed=tools.random(32) if self.coins is None else self.coins,
            out=vector,
            residual=self.residual,
        )
        tools.witness(self.round_id, vector)
        apply_masks(vector, self.masks)
        bounds = derive.slice_bounds(self.length, 1 if self.whole else self.n)
        return Encoded(tuple(tools.keep(vector[low:high]) for low, high in bounds), counts.clipped)


@dataclass(frozen=True)
class Sum:
    """Job: one slice's sum over all vectors, less the masks still on it. Gives up each part but ``kept`` once added."""

    slices: tuple[Blob, ...]
    width: int
    low: int
    high: int
    masks: tuple[Mask, ...] = field(default=(), repr=False)
    kept: Blob | None = None

    def run(self, tools: Tools) -> Blob:
        total = memory.zeros(self.high - self.low, Ring(self.width).dtype)
        for blob in self.slices:
            np.add(total, tools.view(blob).view(total.dtype), out=total)
            if blob != self.kept:
                tools.drop(blob)
        apply_masks(total, tuple(Mask(mask.key, -mask.sign) for mask in self.masks), offset=self.low)
        return tools.keep(total)


@dataclass(frozen=True)
class Assembled:
    """The whole sum, and the total weight in its last coordinate."""

    total: Blob
    total_weight: int


@dataclass(frozen=True)
class Assemble:
    """Job: put the slices of the sum together. Gives up each slice but ``kept`` as it is copied."""

    slices: tuple[Blob, ...]
    length: int
    width: int
    kept: Blob | None = None

    def run(self, tools: Tools) -> Assembled:
        total = memory.zeros(self.length, Ring(self.width).dtype)
        start = 0
        for blob in self.slices:
            part = tools.view(blob).view(total.dtype)
            total[start : start + len(part)] = part
            start += len(part)
            if blob != self.kept:
                tools.drop(blob)
        return Assembled(tools.keep(total, cite=False), int(total[-1]))


@dataclass(frozen=True)
class Repair:
    """Job: put other sums in the place of some slices of a whole sum; each comes with where it begins."""

    total: Blob
    repairs: tuple[tuple[int, Blob], ...]
    width: int

    def run(self, tools: Tools) -> Assembled:
        total = tools.view(self.total).view(Ring(self.width).dtype)
        for start, blob in self.repairs:
            part = tools.view(blob).view(total.dtype)
            total[start : start + len(part)] = part
        return Assembled(self.total, int(total[-1]))
