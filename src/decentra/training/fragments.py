"""Rounds of a part of the model: the one vector in fragments of equal length, of which each round averages the next.

A fragment has as many local steps between two rounds of it as without (Streaming DiLoCo, Douillard et al. 2025), and a
round as many bytes as one fragment, so that the peak of what a peer sends falls with their number. Which one a round is
about follows from the outer steps that the group has behind it; that all have one length, the last one filled up with
zeros, lets a peer learn only in the round how many these are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, overload

import numpy as np

from decentra.errors import LocalError
from decentra.types import TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from decentra.training.common import OuterState
    from decentra.training.tensors import Leaving


class Piece(NamedTuple):
    """What of a tensor is in a fragment: its coordinates in the tensor, in the whole vector, and in the fragment."""

    tensor: int
    own: slice
    whole: slice
    part: slice


@dataclass(frozen=True)
class Fragments:
    """How a vector is divided.

    Attributes:
        size: coordinates of the whole.
        count: fragments.

    Raises:
        LocalError: some of them would be empty.
    """

    size: int
    count: int

    def __post_init__(self) -> None:
        if (self.count - 1) * self.length >= self.size:
            raise LocalError(
                f"the charter divides the model in {self.count} fragments, some of which would be empty, since only "
                f"{self.size} coordinates leave: set training.fragments to {-(-self.size // self.length)} or fewer"
            )

    @property
    def length(self) -> int:
        """Coordinates of each."""
        return -(-self.size // self.count)

    @property
    def specs(self) -> tuple[TensorSpec, ...]:
        """What a round averages."""
        return (TensorSpec("fragment", (self.length,), "float32"),)

    def pieces(self, leaving: Leaving, step: int) -> Iterator[Piece]:
        """The tensors' coordinates that outer step `step`, counted from 0, is about."""
        first = step % self.count * self.length
        last = min(first + self.length, self.size)
        for index in range(len(leaving)):
            span = leaving.span(index)
            low, high = max(first, span.start), min(last, span.stop)
            if low < high:
                own, part = slice(low - span.start, high - span.start), slice(low - first, high - first)
                yield Piece(index, own, slice(low, high), part)


class FragmentUpdate(Sequence["NDArray[np.float32]"]):
    """A peer's pseudo-gradient of the fragment that the next outer step is about, computed when it is read."""

    def __init__(self, state: OuterState, leaving: Leaving, common: NDArray[np.float32], fragments: Fragments) -> None:
        self._state, self._leaving, self._common, self._fragments = state, leaving, common, fragments

    def __len__(self) -> int:
        return 1

    @overload
    def __getitem__(self, index: int) -> NDArray[np.float32]: ...
    @overload
    def __getitem__(self, index: slice) -> list[NDArray[np.float32]]: ...
    def __getitem__(self, index: int | slice) -> NDArray[np.float32] | list[NDArray[np.float32]]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(1))]
        range(1)[index]
        values = np.zeros(self._fragments.length, np.float32)
        for piece in self._fragments.pieces(self._leaving, self._state.rounds):
            moved = self._leaving.progress(piece.tensor, self._common[self._leaving.span(piece.tensor)])
            values[piece.part] = moved.reshape(-1)[piece.own]
        return values


class FragmentResidual(Sequence["NDArray[np.float32]"]):
    """What clipping left of the fragment that the next outer step is about; a view, which is changed in place."""

    def __init__(self, state: OuterState) -> None:
        if state.fragments is None:
            raise ValueError("the state has no fragments")
        self._state, self._fragments = state, state.fragments
        self.whole = np.zeros(self._fragments.count * self._fragments.length, np.float32)

    def __len__(self) -> int:
        return 1

    @overload
    def __getitem__(self, index: int) -> NDArray[np.float32]: ...
    @overload
    def __getitem__(self, index: slice) -> list[NDArray[np.float32]]: ...
    def __getitem__(self, index: int | slice) -> NDArray[np.float32] | list[NDArray[np.float32]]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(1))]
        range(1)[index]
        first = self._state.rounds % self._fragments.count * self._fragments.length
        return self.whole[first : first + self._fragments.length]
