"""What is certified in a round of shamir-gram, as the oracle reads it, and the weighted sum that it opens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decentra.protocols.survivors import FAIL
from decentra.simulation import recount
from decentra.simulation.case import SURVIVORS, Case, Notes
from decentra.simulation.dealt import Agreed, Dealt, Stands, Weighed
from decentra.types import PeerId
from decentra.wire.codec import Malformed, unpack

CHECKED, GEOMETRY, UNDECIDED = "checked", "geometry", b"undecided"


@dataclass(frozen=True)
class Opens:
    """The weighted sum that a round opens: the dealers' vectors as they were dealt, and the sum, by slice."""

    vectors: tuple[tuple[int, ...], ...]
    total: list[int]
    slices: list[NDArray[np.int64]]


class Settled:
    """Reads what honest peers hold certificates of."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._dealt: dict[bytes, Dealt] = {}
        """By context."""
        self._values: dict[tuple[str, bytes], Any] = {}
        """What was read of values, and what was opened."""

    def _certified(self, notes: Notes, context: bytes, topic: str) -> Iterator[tuple[bytes, bytes]]:
        """Of which values a peer has seen a certificate, with the hash that votes cite."""
        for under, of, hashed in list(notes.commits):
            if (under, of) == (context, topic) and self._case.certified_for(notes, context, topic, hashed):
                value = notes.values.get(hashed, FAIL)
                if value not in (FAIL, UNDECIDED):
                    yield hashed, value

    def _agreed(self, notes: Notes, context: bytes, hashed: bytes) -> Agreed | None:
        value = dict(self._certified(notes, context, SURVIVORS)).get(hashed)
        return None if value is None else self._read(value, Agreed)

    def _settled(self, notes: Notes, context: bytes) -> Agreed | None:
        """The survivors that are certified to a peer."""
        return next((self._read(value, Agreed) for _, value in self._certified(notes, context, SURVIVORS)), None)

    def _stands(self, notes: Notes, context: bytes, hashed: bytes) -> Stands | None:
        value = dict(self._certified(notes, context, CHECKED)).get(hashed)
        return None if value is None else self._read(value, Stands)

    def _weighed(self, notes: Notes, context: bytes, hashed: bytes) -> tuple[Agreed, Weighed] | None:
        value = dict(self._certified(notes, context, GEOMETRY)).get(hashed)
        agreed, weighed = self._settled(notes, context), None if value is None else self._read(value, Weighed)
        return None if agreed is None or weighed is None else (agreed, weighed)

    def _read(self, value: bytes, kind: type[Any]) -> Any:
        """A value that is voted on; None where it is none."""
        if (kind.__name__, value) not in self._values:
            self._values[kind.__name__, value] = _unpacked(value, kind)
        return self._values[kind.__name__, value]

    def _opens(
        self, dealt: Dealt, notes: Notes, context: bytes, agreed: Agreed, weighed: Weighed
    ) -> Opens | None:
        """What is opened, by what honest holders that count were dealt; and it is what the matrix says (SG-6, SG-8)."""
        standing = next(self._certified(notes, context, CHECKED), None)
        stands = None if standing is None else self._read(standing[1], Stands)
        if stands is None:
            self._case.violated("SG-8", None, "a geometry is certified, and nothing that stands")
            return None
        key = "opens", context + weighed.gram
        if key not in self._values:
            self._values[key] = self._summed(dealt, agreed, stands, weighed)
        found: Opens | None = self._values[key]
        return found

    def _summed(self, dealt: Dealt, agreed: Agreed, stands: Stands, weighed: Weighed) -> Opens | None:
        hashes = agreed.hashes.values()
        honest = tuple(
            peer
            for peer in stands.holders
            if peer not in self._case.liars and all(peer in dealt.rows.get(one, {}) for one in hashes)
        )
        if len(honest) <= dealt.degree:
            self._case.violated("SG-6", None, "too few honest holders count for anything to be known")
            return None
        vectors = [dealt.vector(agreed.hashes[peer], honest) for peer in weighed.dealers]
        whole = tuple(one for one in vectors if one is not None)
        if len(whole) != len(vectors):
            self._case.violated("SG-6", None, "a deal stands that is on no polynomials of its degree")
            return None
        if recount.gram_hash(dealt.gram(whole), range(len(whole))) != weighed.gram:
            self._case.violated("SG-8", None, "a matrix is certified that is not that of what was dealt")
        self._bounded(weighed, len(agreed.dealers))
        total = dealt.total(whole, weighed.weights)
        return Opens(whole, total, dealt.slices(total, weighed))

    def _bounded(self, weighed: Weighed, dealers: int) -> None:
        """No weight lays an update bare: none is above its part, and enough are above 0."""
        weights, c = weighed.weights, self._case.c
        least = len(weights) - max(0, c - len(weighed.proved))
        above = sum(weight > 0 for weight in weights)
        fair = min(weights) >= 0 and max(weights) * least <= sum(weights) <= 1 << 16
        if not fair or above < max(least, c + 2):
            self._case.violated("SG-8", None, "weights are certified under which an update can be laid bare")


def _unpacked(value: bytes, kind: type[Any]) -> Any:
    try:
        fields = unpack(value, len(value))
    except Malformed:
        return None
    match kind.__name__, fields:
        case "Agreed", (tuple(dealers), tuple(holders), tuple(hashes)) if len(dealers) == len(hashes):
            peers = _peers(dealers)
            return Agreed(peers, _peers(holders), dict(zip(peers, hashes, strict=True)))
        case "Stands", (tuple(dealers), tuple(zeros), tuple(holders), tuple(proved)):
            return Stands(*map(_peers, (dealers, zeros, holders, proved)))
        case "Weighed", (bytes(gram), tuple(dealers), tuple(weights), tuple(holders), tuple(proved)):
            return Weighed(gram, _peers(dealers), weights, _peers(holders), _peers(proved))
    return None


def _peers(some: tuple[Any, ...]) -> tuple[PeerId, ...]:
    return tuple(map(PeerId, some))
