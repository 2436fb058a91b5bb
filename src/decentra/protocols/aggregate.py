"""Evaluating a rule on certified vectors, as a job for the pool: look at them, and then at what they come to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from decentra import memory
from decentra.crypto.ring import Ring
from decentra.machine.effects import Tools
from decentra.machine.events import Blob
from decentra.protocols.jobs import Assembled
from decentra.robust import exact
from decentra.types import PeerId


@dataclass(frozen=True)
class Aggregated:
    """What the rule gives; whose vectors it was given, and whose are none that encoding gives.

    ``result`` is None where no vector was left.
    """

    result: Assembled | None
    used: tuple[PeerId, ...]
    refused: tuple[PeerId, ...]


@dataclass(frozen=True)
class Aggregate:
    """Job: evaluate the rule on vectors, in the order of the peers that they go by, against ``f`` lies among them.

    A row whose weight is not 1, or that has a coordinate beyond ±``limit``, is a liar's: it is left out, and f is less
    by one (ME-5, BU-6). The result is in units of a sum, its last coordinate the number of vectors in it.
    """

    rows: tuple[tuple[PeerId, Blob], ...]
    rule: str
    f: int
    width: int
    limit: int

    def run(self, tools: Tools) -> Aggregated:
        ring = Ring(self.width)
        rows = {peer: tools.view(blob).view(ring.signed) for peer, blob in sorted(self.rows)}
        used = {peer: row[:-1] for peer, row in rows.items() if self._sound(row)}
        refused = tuple(peer for peer in rows if peer not in used)
        if not used:
            return Aggregated(None, (), refused)
        size = next(iter(used.values())).size
        total = memory.zeros(size + 1, ring.dtype)
        if size:
            result = exact.aggregate(list(used.values()), self.rule, max(0, self.f - len(refused)))
            total[:-1] = result.view(ring.dtype)
        total[-1] = len(used)
        return Aggregated(Assembled(tools.keep(total), len(used)), tuple(used), refused)

    def _sound(self, row: NDArray[Any]) -> bool:
        body = row[:-1]
        return int(row[-1]) == 1 and (not body.size or max(int(body.max()), -int(body.min())) <= self.limit)
