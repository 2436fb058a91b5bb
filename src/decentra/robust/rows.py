"""Updates read in columns: whatever they are handed in as, the kernels see the same (n, width) blocks.

A block is copied into memory that stays in cache, so that updates are never written to, never put end to end, and of
any of the forms that training loops have them in. The blocks of a vector are the same whether it comes in one piece or
in the tensors of a model: so are the bytes of the result.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from decentra.errors import LocalError

Matrix: TypeAlias = NDArray[Any]
"""A block of n rows, float32 or float64."""

BLOCK_BYTES = 1 << 21
MOST_COLUMNS, LEAST_COLUMNS = 1 << 14, 1 << 10
"""Columns of a block: as many as its 2 MiB hold, for a call into numpy costs as much as some hundred columns; no more
than what a core keeps close."""

_FLOATS = ("float64", "float32", "float16", "bfloat16")


@dataclass(frozen=True)
class _Piece:
    """One tensor of an update, flat; bfloat16 as its bits, which numpy has no type for."""

    flat: NDArray[Any]
    bfloat: bool

    def copy_to(self, out: NDArray[Any], low: int, less: NDArray[Any] | None) -> None:
        part = self.flat[low : low + len(out)]
        if not self.bfloat:
            if less is None:
                out[:] = part
            else:
                np.subtract(part, less, out=out)
            return
        if out.dtype == np.float32:  # bfloat16 is the upper half of a float32
            np.left_shift(part, 16, out=out.view(np.uint32), dtype=np.uint32, casting="unsafe")
        else:
            out[:] = np.left_shift(part, 16, dtype=np.uint32, casting="unsafe").view(np.float32)
        if less is not None:
            np.subtract(out, less, out=out)


@dataclass(frozen=True)
class _Tensor:
    """What one tensor of an update looks like: shape, dtype by name, and the tensor itself where it is one of torch."""

    shape: tuple[int, ...]
    dtype: str
    torch: Any

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))


class Rows:
    """n updates of d coordinates, and how to read them.

    Args:
        updates: an (n, d) array or tensor; or n arrays or tensors of one shape; or n sequences of such, the tensors of
            a model, alike over all n. numpy or torch; float64, float32, float16 or bfloat16.

    Raises:
        LocalError: no updates, or of unlike shapes or dtypes, or of another dtype.
    """

    def __init__(self, updates: Any, whose: str = "update {}") -> None:
        self.as_list = False
        """Whether an update is a list of tensors."""
        many = _rows(updates)
        if not many:
            raise LocalError("there are no updates to aggregate; hand in at least one")
        self.as_list = isinstance(many[0], Sequence)
        told = [tuple(one) if isinstance(one, Sequence) else (one,) for one in many]
        self.tensors = _described(told[0], whose.format(0))
        for number, one in enumerate(told):
            seen = _described(one, whose.format(number))
            if [(t.shape, t.dtype) for t in seen] != [(t.shape, t.dtype) for t in self.tensors]:
                raise LocalError(
                    f"update {number} is {_said(seen)} and update 0 is {_said(self.tensors)}: updates are alike in "
                    "number, shapes and dtypes of their tensors"
                )
        self.pieces = tuple(tuple(_flat(tensor) for tensor in one) for one in told)
        self.d = sum(tensor.size for tensor in self.tensors)
        wide = any(tensor.dtype == "float64" for tensor in self.tensors)
        self.dtype: np.dtype[Any] = np.dtype(np.float64 if wide else np.float32)

    @property
    def n(self) -> int:
        return len(self.pieces)

    def chosen(self, order: Sequence[int]) -> Rows:
        """The same updates in this order, or some of them."""
        other = object.__new__(Rows)
        other.__dict__.update(self.__dict__, pieces=tuple(self.pieces[index] for index in order))
        return other

    def and_origin(self) -> Rows:
        """These updates, and after them one of zeros."""
        other = self.chosen(range(self.n))
        other.pieces += ((),)
        return other

    def beside(self, reference: Rows) -> Rows:
        """These updates, and after them another. Raises LocalError where it is not like them."""
        if [(t.shape, t.dtype) for t in reference.tensors] != [(t.shape, t.dtype) for t in self.tensors]:
            like = f"{_said(reference.tensors)} and an update {_said(self.tensors)}"
            raise LocalError(f"the reference is {like}: hand in one like them")
        other = self.chosen(range(self.n))
        other.pieces += reference.pieces
        return other

    @property
    def columns(self) -> int:
        """Columns of a block."""
        held = BLOCK_BYTES // (max(1, self.n) * self.dtype.itemsize) // LEAST_COLUMNS * LEAST_COLUMNS
        return min(MOST_COLUMNS, max(LEAST_COLUMNS, held))

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Where each block begins and ends."""
        for low in range(0, self.d, self.columns):
            yield low, min(low + self.columns, self.d)

    def fill(self, out: NDArray[Any], low: int, less: NDArray[Any] | None = None) -> None:
        """Copy columns ``low`` to ``low + out.shape[1]`` of every row.

        Args:
            out: (n, width), of this object's dtype.
            less: (width,), taken off every row.
        """
        spans = self._spans(low, out.shape[1])
        for row, pieces in zip(out, self.pieces, strict=True):
            if not pieces:
                row[:] = 0 if less is None else -less
                continue
            for piece, (begins, ends, offset) in zip(pieces, spans, strict=True):
                if begins < ends:
                    piece.copy_to(row[begins:ends], offset, None if less is None else less[begins:ends])

    def _spans(self, low: int, width: int) -> list[tuple[int, int, int]]:
        """For every tensor, which columns of a block are its, and where in it these begin."""
        spans, start = [], 0
        for tensor in self.tensors:
            begins, ends = max(start, low), min(start + tensor.size, low + width)
            spans.append((begins - low, ends - low, begins - start) if begins < ends else (0, 0, 0))
            start += tensor.size
        return spans

    def result(self) -> Result:
        """Memory for an aggregate, in the form of an update."""
        return Result(self)


class Result:
    """An aggregate that is written block by block, of the form, dtypes and devices of an update."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self.tensors = [_empty(tensor) for tensor in rows.tensors]
        self._flat = [_flat_output(tensor) for tensor in self.tensors]

    def write(self, block: NDArray[Any], low: int) -> None:
        """Take these columns in."""
        for flat, (begins, ends, offset) in zip(self._flat, self._rows._spans(low, len(block)), strict=True):
            if begins < ends:
                target, part = flat[offset : offset + ends - begins], block[begins:ends]
                if isinstance(target, np.ndarray):
                    target[:] = part
                else:
                    target.copy_(sys.modules["torch"].from_numpy(part))

    @property
    def value(self) -> Any:
        """The whole: an array or tensor, or a list of them where updates are lists."""
        done = [
            tensor if like.torch is None or isinstance(tensor, np.ndarray) else tensor.to(like.torch.device)
            for tensor, like in zip(self.tensors, self._rows.tensors, strict=True)
        ]
        return done if self._rows.as_list else done[0]


def _is_tensor(value: Any) -> bool:
    """Whether it is a tensor of torch; a process without torch has none."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _rows(updates: Any) -> list[Any]:
    if isinstance(updates, np.ndarray) or _is_tensor(updates):
        if updates.ndim != 2:
            raise LocalError(f"an array of updates has two dimensions, n and d; this one has {updates.ndim}")
        return list(updates)
    if not isinstance(updates, Sequence) or isinstance(updates, (str, bytes)):
        raise LocalError(f"updates are an (n, d) array or a list of n, not {type(updates).__name__}")
    return [list(one) if isinstance(one, (list, tuple)) else one for one in updates]


def _described(tensors: Sequence[Any], whose: str) -> tuple[_Tensor, ...]:
    place = "" if len(tensors) == 1 else "tensor {} of "
    return tuple(_one(tensor, place.format(number) + whose) for number, tensor in enumerate(tensors))


def _one(tensor: Any, whose: str) -> _Tensor:
    torch = _is_tensor(tensor)
    if not torch and not isinstance(tensor, np.ndarray):
        raise LocalError(
            f"{whose} is a {type(tensor).__name__}; hand in arrays of numpy or torch, as of list(model.parameters())"
        )
    if torch and (tensor.layout != sys.modules["torch"].strided or tensor.is_meta):
        raise LocalError(f"{whose} is sparse or has no data; hand in dense tensors")
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in _FLOATS or (not torch and not tensor.dtype.isnative):
        known = ", ".join(_FLOATS)
        raise LocalError(f"{whose} is of {dtype}; rules work on {known}: convert it, or leave counters out")
    return _Tensor(tuple(tensor.shape), dtype, tensor if torch else None)


def _flat(tensor: Any) -> _Piece:
    if isinstance(tensor, np.ndarray):
        return _Piece(tensor if tensor.ndim == 1 else tensor.reshape(-1), bfloat=False)
    flat, torch = tensor.detach().reshape(-1).cpu(), sys.modules["torch"]
    bfloat = flat.dtype == torch.bfloat16
    return _Piece((flat.view(torch.uint16) if bfloat else flat).numpy(), bfloat)


def _empty(like: _Tensor) -> Any:
    if like.torch is None:
        return np.empty(like.shape, like.dtype)
    return sys.modules["torch"].empty(like.shape, dtype=like.torch.dtype)


def _flat_output(tensor: Any) -> Any:
    if isinstance(tensor, np.ndarray):
        return tensor.reshape(-1)
    flat = tensor.reshape(-1)
    return flat if str(flat.dtype) == "torch.bfloat16" else flat.numpy()


def _said(tensors: Sequence[_Tensor]) -> str:
    shapes = [f"{tensor.dtype}{list(tensor.shape)}" for tensor in tensors]
    return ", ".join(shapes[:3]) + (f" and {len(shapes) - 3} more" if len(shapes) > 3 else "")
