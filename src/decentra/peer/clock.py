"""The event loop as a clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from decentra.transport.virtual import Handle


class LoopClock:
    """The driver's clock (``driver.ports.Clock``) on an asyncio loop, for the loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def now(self) -> float:
        return self._loop.time()

    def call_later(self, delay: float, callback: Callable[[], None]) -> Handle:
        return self._loop.call_later(max(0.0, delay), callback)
