"""What a caller hands to a round, looked at before anything is sent: lists of float32 arrays, and nothing like them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import SupportsIndex, TypeVar

import numpy as np
from numpy.typing import NDArray

from decentra.errors import LocalError
from decentra.types import TensorSpec

T = TypeVar("T")

Update = Sequence[NDArray[np.float32]]


def describe(tensors: Update, names: Sequence[str] | None) -> tuple[TensorSpec, ...]:
    """Names and shapes of a plain list of arrays; unnamed ones are called by their place.

    Raises:
        LocalError: it is no list, an array is not float32, or the names don't match the arrays.
    """
    _refuse_no_list(tensors, "the update", "give a list of arrays, even of one: [array]")
    chosen = [str(index) for index in range(len(tensors))] if names is None else list(names)
    if len(chosen) != len(tensors):
        raise LocalError(f"{len(tensors)} tensors and {len(chosen)} names were given; give one name a tensor")
    for name, tensor in zip(chosen, tensors, strict=True):
        _refuse_no_float32(tensor, f"tensor {name!r}")
    return tuple(TensorSpec(name, tensor.shape, "float32") for name, tensor in zip(chosen, tensors, strict=True))


def check_group(
    updates: Sequence[Update], weights: Sequence[int] | None, count: int, max_weight: int
) -> list[int]:
    """Look at what a whole group's owner hands in, so that no peer waits for one that refuses its update.

    Args:
        updates: one list of float32 arrays a peer, of the same shapes for all.
        weights: one a peer; None for 1 each.
        count: how many peers there are.
        max_weight: the charter's.

    Returns:
        The peers' weights.

    Raises:
        LocalError: what is wrong, by its place: ``updates[peer][array]``.
    """
    _refuse_no_list(updates, "updates", "give one list of arrays a peer")
    if len(updates) != count:
        raise LocalError(f"{len(updates)} updates for a group of {count}; give one list of arrays a peer")
    chosen = [1] * count if weights is None else list(weights)
    if len(chosen) != count:
        raise LocalError(f"{len(chosen)} weights for a group of {count}; give one a peer")
    for peer, weight in enumerate(chosen):
        if not isinstance(weight, SupportsIndex) or not 1 <= weight <= max_weight:
            raise LocalError(
                f"weights[{peer}] is {weight!r} and must be a whole number, 1 to {max_weight}, the charter's max_weight"
            )
    for peer, update in enumerate(updates):
        _refuse_no_list(update, f"updates[{peer}]", "give each peer a list of arrays, even of one: [array]")
        for place, tensor in enumerate(update):
            _refuse_no_float32(tensor, f"updates[{peer}][{place}]")
    _refuse_unlike(updates)
    for peer, update in enumerate(updates):
        for place, tensor in enumerate(update):
            if tensor.size and not (np.isfinite(tensor.min()) and np.isfinite(tensor.max())):
                raise LocalError(f"updates[{peer}][{place}] holds NaN or infinity; give finite numbers")
    return chosen


def _refuse_no_list(value: object, label: str, mend: str) -> None:
    if isinstance(value, Mapping):
        raise LocalError(f"{label} is a {type(value).__name__}, not a list of arrays; give list(it.values())")
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise LocalError(f"{label} is {_what(value)}, not a list of arrays; {mend}")


def _refuse_no_float32(value: object, label: str) -> None:
    if isinstance(value, np.ndarray):
        if value.dtype != np.float32:
            raise LocalError(f"{label} is an array of {value.dtype}, not float32; convert it with .astype('float32')")
    elif hasattr(value, "detach") and hasattr(value, "numpy"):  # without importing torch
        raise LocalError(f"{label} is {_what(value)}; convert it with .detach().cpu().float().numpy()")
    else:
        mend = "convert it with np.asarray(x, np.float32)"
        raise LocalError(f"{label} is {_what(value)}, not an array of float32; {mend}")


def _refuse_unlike(updates: Sequence[Update]) -> None:
    """All peers give the same shapes; of two that differ, the one is named that fewer peers have."""
    if (found := _odd([len(update) for update in updates])) is not None:
        peer, own, others = found
        raise LocalError(f"updates[{peer}] has {own} arrays, {others}; give every peer's in the same shapes")
    for place in range(len(updates[0]) if updates else 0):
        if (unlike := _odd([update[place].shape for update in updates])) is not None:
            peer, shape, others = unlike
            raise LocalError(
                f"updates[{peer}][{place}] has shape {shape}, {others}; give every peer's in the same shapes"
            )


def _odd(values: Sequence[T]) -> tuple[int, T, str] | None:
    """Where the first value stands that is not the usual one, that value, and what the others are."""
    counts = Counter(values)
    if len(counts) < 2:
        return None
    usual, times = counts.most_common(1)[0]
    index = next(index for index, value in enumerate(values) if value != usual)
    return index, values[index], f"{'the others' if times == len(values) - 1 else 'others'} {usual}"


def _what(value: object) -> str:
    """What a value is, in a word or two."""
    if value is None:
        return "None"
    if isinstance(value, np.ndarray):
        return "an array"
    if isinstance(value, bool | int | float | np.generic):
        return f"the number {value}"
    if hasattr(value, "detach") and hasattr(value, "numpy"):
        return "a torch tensor"
    return f"a {type(value).__name__}"
