"""A round that a peer has begun ahead of its update, as its caller holds it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from decentra.driver.session import Vector
from decentra.errors import DecentraError
from decentra.types import RoundResult


class Prepared:
    """A round that has begun ahead of its update; ``Peer.prepare`` makes it.

    Its small phases go on while the caller still trains. `average` or `cancel` it before anything else is averaged.

    Attributes:
        future: how the round ended.
    """

    def __init__(
        self,
        vector: Vector,
        run: Callable[[Vector, Prepared], RoundResult],
        give_up: Callable[[Prepared], None],
    ) -> None:
        self._vector, self._run, self._give_up = vector, run, give_up
        self.future: Future[RoundResult | DecentraError] = Future()

    def average(
        self,
        tensors: Sequence[NDArray[np.float32]],
        *,
        weight: int = 1,
        residual: Sequence[NDArray[np.float32]] | None = None,
    ) -> RoundResult:
        """The group's weighted mean, as ``Peer.average`` gives it, for these tensors of the shapes that were prepared.

        Where the preparation failed meanwhile, or the group went on without this peer, nothing had left it, and a
        round begins anew with the update at hand.
        """
        return self._run(replace(self._vector, tensors=tensors, weight=weight, residual=residual), self)

    def cancel(self) -> None:
        """Give the round up; nothing has left this peer. A round that has ended already stays as it is."""
        self._give_up(self)
