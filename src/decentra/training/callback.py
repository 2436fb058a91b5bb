"""Joining when somebody else's loop begins and closing when it ends: what the callbacks of all trainers share."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from decentra.training.join import TrainingPeer, join

if TYPE_CHECKING:
    from decentra.training.hook import Summary


class Joining:
    """Holds how a group is to be joined, and the peer that this gave.

    As a context manager it closes, however the ``with`` ends.

    Args:
        state: the peer's folder; by default what ``decentra run`` set in DECENTRA_STATE.
        join: ``decentra.join``, or ``decentra.training.adapters.join`` for LoRA adapters by the charter's method.
        options: its keyword arguments.

    Attributes:
        peer: this process's peer since training began, also once it is closed; None before.

    Raises:
        TypeError: ``join`` has no such argument; said before anything begins.
    """

    def __init__(
        self, state: str | os.PathLike[str] | None = None, *, join: Callable[..., TrainingPeer] = join, **options: Any
    ) -> None:
        inspect.signature(join).bind(None, None, state, **options)
        self._state, self._join, self._options = state, join, options
        self.peer: TrainingPeer | None = None

    @property
    def summary(self) -> Summary | None:
        """Rounds, bytes and seconds so far, or those of the whole training once it is closed; None before it began."""
        return None if self.peer is None else self.peer.summary()

    def close(self) -> None:
        """End training together: the model is set to the common parameters. A second call does nothing."""
        if self.peer is not None:
            self.peer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.peer is not None:
            self.peer.__exit__(kind, value, trace)

    def _begin(self, model: Any, optimizer: Any) -> None:
        self.close()  # the peer of a training that was interrupted and begins again
        self.peer = self._join(model, optimizer, self._state, **self._options)
