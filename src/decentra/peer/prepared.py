"""A round that a peer has begun ahead of its update."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from decentra.driver.session import Vector
from decentra.errors import DecentraError
from decentra.types import RoundResult

Ended = RoundResult | DecentraError


class Prepared:
    """A round under way whose update is still to come; ``Peer.prepare`` makes it.

    Its small phases go on while the caller still trains. `average` or `cancel` it before anything else is averaged.

    Args:
        vector: what is known of the update: its tensors' shapes, the model, the common state.
        run: waits for a round of a whole vector, which may be this one.
        give_up: ends this one.
    """

    def __init__(
        self,
        vector: Vector,
        run: Callable[[Vector, Prepared], RoundResult],
        give_up: Callable[[Prepared], None],
    ) -> None:
        self.vector, self._run, self._give_up = vector, run, give_up
        self.future: Future[Ended] = Future()
        """How the round ended."""

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
        return self._run(replace(self.vector, tensors=tensors, weight=weight, residual=residual), self)

    def cancel(self) -> None:
        """Give the round up; nothing has left this peer. A round that has ended already stays as it is."""
        self._give_up(self)
