"""Fixed point: float32 tensors to integers mod 2^w and back, so that sums are exact and equal at every peer.

A tensor with range r becomes q ≈ x · qmax / r · weight / max_weight, stochastically rounded, |q| ≤ qmax, in two's
complement; one more coordinate carries the weight. qmax is such that no sum over the roster can wrap: the condition is
checked at encoding and refused, never warned about.

Rounding, in float64 and one IEEE operation at a time: v = 2^21 · q̂, plus an odd random integer k in (−2^20, 2^20), plus
M = 1.5 · 2^73. M's unit in the last place is 2^21, so that last sum *is* the rounding to the nearest integer, and the
low bits of its significand are q in two's complement. k is odd, so an integer q̂ stays what it is and ±qmax cannot be
left; a fraction is rounded up with probability equal to it, to 2^−21 of a quantum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from decentra.crypto.hashing import expand
from decentra.crypto.prg import CHUNK, Keystream, buffer_for
from decentra.errors import LocalError

_ROUNDING_LABEL = "decentra/rounding"
_SEED_BYTES = 32
_FRACTION_BITS = 21
"""As many as fit: v < 2^52, so a coordinate at its range is scaled beyond qmax · 2^21 by at most 1/2, and with
k ≤ 2^20 − 1 it still rounds to qmax."""
_MAGIC = 1.5 * 2.0 ** (52 + _FRACTION_BITS)

_FLOAT32_MAX = float(np.finfo(np.float32).max)
_FLOAT32_TINY = float(np.finfo(np.float32).tiny)


class DecodeError(ValueError):
    """A sum that honest peers cannot have given: its weight or a coordinate is out of bounds."""


@dataclass(frozen=True)
class Ring:
    """The integers mod 2^width; width is 16 or 32.

    Raises:
        LocalError: another width.
    """

    width: int

    def __post_init__(self) -> None:
        if self.width not in (16, 32):
            raise LocalError(f"a ring's width is 16 or 32 bits, not {self.width}; choose one in the charter")

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint16 or uint32."""
        return np.dtype(np.uint16 if self.width == 16 else np.uint32)

    @property
    def signed(self) -> np.dtype[Any]:
        """int16 or int32: the same bits, read in two's complement."""
        return np.dtype(np.int16 if self.width == 16 else np.int32)

    def limit(self, n: int) -> int:
        """qmax: the largest q with n · q < 2^(width − 1); 511 for n = 64 at width 16.

        Raises:
            LocalError: n < 1, or no q ≥ 1 is left.
        """
        limit = (2 ** (self.width - 1) - 1) // n if n >= 1 else 0
        if limit < 1:
            raise LocalError(f"{n} peers cannot be summed in {self.width} bits; check the roster or widen the ring")
        return limit


class Encoded(NamedTuple):
    """Counts that stay local: coordinates cut by clipping, and coordinates not zero after rounding."""

    clipped: int
    nonzero: int


def encode(
    tensors: Sequence[NDArray[np.float32]],
    ranges: Sequence[float],
    *,
    ring: Ring,
    n: int,
    weight: int = 1,
    max_weight: int = 1,
    seed: bytes,
    out: NDArray[Any],
    residual: Sequence[NDArray[np.float32]] | None = None,
) -> Encoded:
    """Clips, scales and rounds the tensors into ``out``, in order, each flattened in C order, then the weight.

    Args:
        tensors: float32, any shapes and layouts, d coordinates in all.
        ranges: each tensor's positive range, within float32's normal numbers.
        n: peers in the roster.
        weight: this peer's integer weight, 1..max_weight.
        seed: 32 secret bytes, for one encoding only: rounding derives its randomness from them.
        out: contiguous, ``ring.dtype``, d + 1 elements; the last becomes the weight.
        residual: shaped as the tensors; added before clipping, and overwritten by what clipping cut, rounded once to
            float32 (rounding's own error is not carried: it is unbiased).

    Extra memory: below 1 MiB. When it raises, neither ``out`` nor ``residual`` has changed.

    Raises:
        LocalError: NaN or infinity (naming the tensor), a weight outside 1..max_weight, sums that could wrap, or
            arguments whose shapes, dtypes or numbers do not fit together.
    """
    qmax = ring.limit(n)
    _check_weights(ring, n, max_weight)
    if not 1 <= weight <= max_weight:
        raise LocalError(f"this peer's weight {weight} lies outside 1..{max_weight}; set it within the charter's bound")
    if len(seed) != _SEED_BYTES:
        raise LocalError(f"the rounding seed has {_SEED_BYTES} bytes, not {len(seed)}; draw a fresh one")
    _check_ranges(ranges, len(tensors))
    _check_vector(out, ring, sum(tensor.size for tensor in tensors))
    if not out.flags.writeable:
        raise LocalError("the vector to encode into is read-only; give one that can be written")
    peaks = _peaks(tensors, residual)
    work = _Work(Keystream(expand(seed, _ROUNDING_LABEL)))
    bound = qmax * weight / max_weight * 2.0**_FRACTION_BITS  # Python rounds a quotient of integers once
    clipped = nonzero = start = 0
    for i, tensor in enumerate(tensors):
        own, carried = peaks[i]
        limit = float(ranges[i])
        cuts = own + carried > limit
        # A residual of zeros where nothing is cut stays as it is, and that is the usual case.
        rest = residual[i] if residual is not None and (cuts or carried > 0) else None
        for begin in range(0, tensor.size, CHUNK):
            end = min(begin + CHUNK, tensor.size)
            values, cut = work.load(tensor, rest, begin, end, limit if cuts else None)
            clipped += cut
            nonzero += work.round(values, bound / limit, out[start + begin : start + end])
        start += tensor.size
    out[start] = weight
    return Encoded(clipped, nonzero)


def decode(
    total: NDArray[Any],
    ranges: Sequence[float],
    shapes: Sequence[tuple[int, ...]],
    *,
    ring: Ring,
    n: int,
    survivors: int,
    max_weight: int,
    overwrite: bool = False,
) -> tuple[tuple[NDArray[np.float32], ...], int]:
    """The weighted mean of each tensor, and W, the sum of the survivors' weights.

    A mean is Σq · step with step = ((range / qmax) · max_weight) / W: float64, one IEEE operation at a time, then one
    rounding to float32, so that every machine gets the same bytes. A survivor's |q| is at most ⌈qmax · w / max_weight⌉,
    so honest sums have max_weight · |Σq| ≤ qmax · W + survivors · (max_weight − 1).

    Args:
        total: the unmasked sum, ``ring.dtype``, d + 1 elements.
        survivors: how many peers' updates are in the sum.
        overwrite: let the means take the sum's memory, where the ring's elements are as wide as theirs; whatever comes
            of it, the sum is gone.

    Raises:
        DecodeError: W outside [survivors, survivors · max_weight], or a coordinate beyond the bound above.
        LocalError: arguments whose shapes, dtypes or numbers do not fit together.
    """
    qmax = ring.limit(n)
    _check_weights(ring, n, max_weight)
    _check_ranges(ranges, len(shapes))
    _check_vector(total, ring, sum(math.prod(shape) for shape in shapes))
    if not 1 <= survivors <= n:
        raise LocalError(f"{survivors} survivors cannot come from a roster of {n}; give the certified ones")
    sums = total.view(ring.signed)
    total_weight = int(sums[-1])
    if not survivors <= total_weight <= survivors * max_weight:
        raise DecodeError(
            f"the total weight {total_weight} of {survivors} survivors lies outside {survivors}.."
            f"{survivors * max_weight}: a survivor or a slice's owner lied; refuse the result"
        )
    bound = (qmax * total_weight + survivors * (max_weight - 1)) // max_weight
    means = []
    start = 0
    for i, shape in enumerate(shapes):
        step = float(ranges[i]) / qmax * max_weight / total_weight
        size = math.prod(shape)
        reuse = overwrite and total.itemsize == np.dtype(np.float32).itemsize
        mean = total[start : start + size].view(np.float32) if reuse else np.empty(size, dtype=np.float32)
        for begin in range(0, mean.size, CHUNK):
            chunk = sums[start + begin : start + min(begin + CHUNK, mean.size)]
            if max(int(chunk.max()), -int(chunk.min())) > bound:
                raise DecodeError(
                    f"the sum of tensor {i} holds a coordinate beyond {bound}, the most that {survivors} survivors can "
                    "give: a survivor or a slice's owner lied; refuse the result"
                )
            np.multiply(chunk, step, out=mean[begin : begin + CHUNK], dtype=np.float64, casting="same_kind")
        means.append(mean.reshape(shape))
        start += mean.size
    return tuple(means), total_weight


class _Work:
    """The buffers and the noise of one encoding; the buffers serve every chunk again."""

    def __init__(self, stream: Keystream) -> None:
        self._stream = stream
        self._values = np.empty(CHUNK, dtype=np.float64)
        self._clipped = np.empty(CHUNK, dtype=np.float64)
        self._differ = np.empty(CHUNK, dtype=np.bool_)
        self._bytes = buffer_for(CHUNK * 4)
        self._view = self._bytes.data
        self._noise = self._bytes[: CHUNK * 4].view(np.dtype("<i4"))

    def load(
        self,
        tensor: NDArray[np.float32],
        rest: NDArray[np.float32] | None,
        begin: int,
        end: int,
        limit: float | None,
    ) -> tuple[NDArray[np.float64], int]:
        """A chunk plus its residual, clipped to ±limit (None: known to lie within), and how many were cut.

        The residual becomes what was cut.
        """
        values = self._values[: end - begin]
        values[...] = _piece(tensor, begin, end)
        if rest is not None:
            np.add(values, _piece(rest, begin, end), out=values)
        if limit is None:
            if rest is not None:
                _store(rest, begin, end, None)
            return values, 0
        clipped = self._clipped[: values.size]
        np.clip(values, -limit, limit, out=clipped)
        count = int(np.count_nonzero(np.not_equal(values, clipped, out=self._differ[: values.size])))
        if rest is not None:
            np.subtract(values, clipped, out=values)
            _store(rest, begin, end, values)
        return clipped, count

    def round(self, values: NDArray[np.float64], scale: float, target: NDArray[Any]) -> int:
        """Scales, rounds stochastically and writes two's complement; returns how many are not zero."""
        noise = self._noise[: values.size]
        self._stream.fill(self._view, values.size * 4)
        np.right_shift(noise, 32 - _FRACTION_BITS, out=noise)
        np.bitwise_or(noise, 1, out=noise)
        np.multiply(values, scale, out=values)
        np.add(values, noise, out=values)
        np.add(values, _MAGIC, out=values)
        np.copyto(target, values.view(np.uint64), casting="unsafe")
        return int(np.count_nonzero(target))


def _piece(tensor: NDArray[np.float32], begin: int, end: int) -> NDArray[np.float32]:
    """Coordinates in C order; a copy of the piece only, where the layout is another."""
    return tensor.reshape(-1)[begin:end] if tensor.flags.c_contiguous else tensor.flat[begin:end]


def _store(tensor: NDArray[np.float32], begin: int, end: int, values: NDArray[np.float64] | None) -> None:
    """Writes a piece, zeros for None, whatever the layout."""
    if tensor.flags.c_contiguous:
        tensor.reshape(-1)[begin:end] = 0.0 if values is None else values
    else:
        tensor.flat[begin:end] = 0.0 if values is None else values.astype(np.float32)


def _peaks(
    tensors: Sequence[NDArray[np.float32]], residual: Sequence[NDArray[np.float32]] | None
) -> list[tuple[float, float]]:
    """The largest magnitude in each tensor and in its residual; all is checked before anything is written."""
    if residual is not None and len(residual) != len(tensors):
        raise LocalError(f"there are {len(tensors)} tensors and {len(residual)} residuals; give one for each")
    peaks = []
    for i, tensor in enumerate(tensors):
        own, carried = _peak(tensor, f"tensor {i}"), 0.0
        if residual is not None:
            rest = residual[i]
            if rest.shape != tensor.shape or not rest.flags.writeable:
                raise LocalError(f"the residual of tensor {i} must be writeable and shaped {tensor.shape}")
            carried = _peak(rest, f"the residual of tensor {i}")
            if own + carried > _FLOAT32_MAX:
                raise LocalError(f"tensor {i} plus its residual leaves float32; start again from a common model")
        peaks.append((own, carried))
    return peaks


def _peak(tensor: NDArray[np.float32], name: str) -> float:
    """The largest magnitude in a tensor."""
    if tensor.dtype != np.float32:
        raise LocalError(f"{name} is {tensor.dtype}, updates are float32; convert it")
    peak = 0.0
    for begin in range(0, tensor.size, CHUNK):
        piece = _piece(tensor, begin, min(begin + CHUNK, tensor.size))
        high = max(float(piece.max()), -float(piece.min()))
        if not high <= _FLOAT32_MAX:
            raise LocalError(f"{name} holds NaN or infinity; lower the learning rate or skip this round")
        peak = max(peak, high)
    return peak


def _check_weights(ring: Ring, n: int, max_weight: int) -> None:
    if max_weight < 1 or n * max_weight >= 2 ** (ring.width - 1):
        raise LocalError(
            f"weights up to {max_weight} of {n} peers do not add up within {ring.width} bits; lower max_weight in the "
            "charter or widen the ring"
        )


def _check_ranges(ranges: Sequence[float], count: int) -> None:
    if len(ranges) != count:
        raise LocalError(f"there are {count} tensors and {len(ranges)} ranges; give one for each")
    for i, value in enumerate(ranges):
        if not _FLOAT32_TINY <= value <= _FLOAT32_MAX:
            raise LocalError(f"the range of tensor {i} is {value}; it must be positive, finite and normal in float32")


def _check_vector(vector: NDArray[Any], ring: Ring, d: int) -> None:
    if vector.dtype != ring.dtype or vector.shape != (d + 1,) or not vector.flags.c_contiguous:
        raise LocalError(
            f"the vector must be contiguous {ring.dtype} of {d + 1} elements, d and the weight; it is {vector.dtype} "
            f"of shape {vector.shape}"
        )
