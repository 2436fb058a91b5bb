"""Memory for blobs, which goes back to the system the moment that nobody holds it any more."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

LEAST = 1 << 20
"""Bytes from which on an array gets pages of its own; a smaller one is the allocator's, which is quicker."""

_PRIVATE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_ANONYMOUS") else {}


def zeros(count: int, dtype: DTypeLike) -> NDArray[Any]:
    """A flat array of `count` zeros, writable.

    An allocator keeps what is freed for whoever asks next, in whatever sizes it had: a round whose vectors and slices
    come and go held half as much again as it used, by chance of who came when.

    Raises:
        MemoryError: there is no room for so much.
    """
    kind = np.dtype(dtype)
    size = count * kind.itemsize
    if size < LEAST:
        return np.zeros(count, kind)
    try:
        return np.frombuffer(mmap.mmap(-1, size, **_PRIVATE), kind)
    except OSError as error:
        raise MemoryError(f"no memory for {size} bytes") from error
