"""A round under way while local steps go on: it runs on a copy of the model, and what it changed there is added later.

So nothing that a round does to a model is written twice: a round that is waited for runs on the model itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType

from decentra.training.common import OuterState
from decentra.training.tensors import Leaving


class Flight:
    """A round that left at a step and lands at a later one.

    The model's way since the departure is kept whole: at the landing the model is moved by as much as the round moved
    the copy. Two copies of what leaves are held meanwhile, in the model's own dtypes.

    Args:
        leaving: the model's tensors.
        state: the common state; nobody else may use it before the landing.
        run: the round, as it would be waited for.
    """

    def __init__(self, leaving: Leaving, state: OuterState, run: Callable[[], None]) -> None:
        self._leaving, self._state, self._run = leaving, state, run
        self._before, self._after = leaving.copy(), leaving
        self._ended = _Ended()
        self._origin = state.origin
        self._thread = threading.Thread(target=self._fly, name="decentra-flight", daemon=True)
        self._thread.start()

    @property
    def ended(self) -> bool:
        """Whether the round is over, so that landing waits for nothing."""
        return not self._thread.is_alive()

    def wait(self) -> None:
        """Wait until the round is over."""
        self._thread.join()

    def _fly(self) -> None:
        with self._ended:
            self._after = self._before.copy()
            with self._state.on(self._after):
                self._run()

    def land(self) -> None:
        """Move the model as the round, which is over, moved its copy.

        Raises:
            LocalError: what the round ended with, as where it is waited for.
        """
        if self._state.origin != self._origin:
            self._state.go_back()  # the steps since the departure were made on another model
        elif self._after is not self._leaving:
            self._leaving.move(self._after, self._before)
        if self._ended.by is not None:
            raise self._ended.by


class _Ended:
    """Takes down what ends a thread, so that it comes out of the user's own call."""

    by: BaseException | None = None

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self.by = value
        return True
