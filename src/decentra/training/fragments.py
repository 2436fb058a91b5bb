"""Rounds of a part of the model: the one vector in fragments of equal length, of which each round averages the next.

A fragment has as many local steps between two rounds of it as without (Streaming DiLoCo, Douillard et al. 2025), and a
round as many bytes as one fragment, so that the peak of what a peer sends falls with their number. Which one a round is
about follows from the outer steps that the group has behind it; that all have one length, the last one filled up with
zeros, lets a peer learn only in the round how many these are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from decentra.errors import LocalError
from decentra.types import TensorSpec

if TYPE_CHECKING:
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

    def span(self, step: int) -> slice:
        """What outer step `step`, counted from 0, is about, in the whole vector filled up with zeros."""
        first = step % self.count * self.length
        return slice(first, first + self.length)

    def pieces(self, leaving: Leaving, step: int) -> Iterator[Piece]:
        """The tensors' coordinates that outer step `step` is about."""
        first, last = self.span(step).start, min(self.span(step).stop, self.size)
        for index in range(len(leaving)):
            span = leaving.span(index)
            low, high = max(first, span.start), min(last, span.stop)
            if low < high:
                own, part = slice(low - span.start, high - span.start), slice(low - first, high - first)
                yield Piece(index, own, slice(low, high), part)
