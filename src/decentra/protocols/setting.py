"""What a machine is given when its round begins, and what it gives back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from decentra import derive
from decentra.crypto.suite import REAL, Opener, Suite
from decentra.machine.events import Blob
from decentra.types import PeerId, TensorSpec
from decentra.wire.entry import ZERO
from decentra.wire.message import Verified


@dataclass(frozen=True)
class Part:
    """A part of a common state: its number, from 1 on, where its bytes lie, and the root under which they are sent."""

    number: int
    start: int
    stop: int
    root: bytes


class CommonState(Protocol):
    """What all peers of a group hold alike between rounds: parameters, outer state, ranges.

    A peer that differs gathers the state that the roster names: its index first, which hashes to the state and lists
    what the parts hash to, then the parts, in any order. Calls come from jobs, those for different parts at once.
    """

    def digest(self) -> bytes:
        """The hash of the state; 32 bytes."""
        ...

    def ranges(self, count: int) -> tuple[float, ...]:
        """The range of each of the ``count`` tensors of the vector."""
        ...

    def room(self, number: int) -> int:
        """The most bytes that a part can have at any peer; number 0 is the index."""
        ...

    def export(self, number: int) -> NDArray[np.uint8] | None:
        """The bytes of a part, or of the index; None where there is no such part."""
        ...

    def expect(self, index: NDArray[np.uint8], state: bytes) -> tuple[Part, ...] | None:
        """Begin to gather a state, or go on where an earlier round ended: the parts that are missing.

        None where this is not the index of that state. Raises ValueError where it is, and the state can't be this
        peer's.
        """
        ...

    def place(self, state: bytes, part: Part, data: NDArray[np.uint8]) -> None:
        """Keep a part of the state that is gathered, until that is adopted or another one is gathered."""
        ...

    def adopt(self, state: bytes) -> None:
        """Replace the state by the gathered one, which is whole. Raises ValueError, with nothing changed, where that
        can't be this peer's."""
        ...


@dataclass(frozen=True)
class Setting:
    """What holds for an epoch: who this peer is, the group, and the charter's numbers.

    ``members`` are in ascending order; ``floor`` is the least size of a roster; ``rule`` is what is computed of the
    updates; ``challenges`` is how many slices a round recomputes, ``backup`` whether each peer's part of its own slice
    lies in a second place; the deadlines are in seconds. ``buckets`` are the members by bucket, of which at most
    ``bucket_c`` in each are corrupt; none where the protocol has no buckets.
    """

    me: PeerId
    session: bytes
    charter: bytes
    members: tuple[PeerId, ...]
    c: int
    floor: int
    width: int
    max_weight: int
    rule: str
    challenges: int
    backup: bool
    ready_deadline: float
    phase_deadline: float
    sealing: Opener = field(repr=False)
    suite: Suite = field(default=REAL, repr=False)
    buckets: tuple[tuple[PeerId, ...], ...] = ()
    bucket_c: int = 0

    def quorum(self, n: int) -> int:
        return derive.quorum(n, self.c)

    @property
    def patience(self) -> float:
        """Seconds that a step waits for who is silent before it goes on without it: a quarter of a phase's deadline, so
        that going on still fits into the phase."""
        return self.phase_deadline / 4


@dataclass(frozen=True)
class Contribution:
    """What this peer brings to a round.

    Attributes:
        specs: names, shapes and dtypes of the vector's tensors.
        update: the float32 tensors themselves, which may be computed as they are read; None in a round that begins
            ahead of its update, which `Supplied` then brings with its weight and residual.
        weight: this peer's integer weight.
        fingerprint: the hash of the model that the group trains.
        last: the last certified outcome, zero where there was none.
        common: the common state; ``state`` is its digest at the round's start.
        residual: what clipping cut from earlier updates, added to this one and replaced by what is cut now; or None.
        left: who left the group before this round began, each with its signed word.
        benched: who was left out for silence lately: this peer asks them as well, and waits for them but briefly.
        patience: seconds that members have to be ready once as many as the floor are; None for the charter's deadline.
        summed: whose updates the vector is the mean of, where it is that of a bucket; nobody where there is none to
            bring, and the vector is zeros.
        summed_under: the common state that these updates were made under; None for the one held at the start.
        lateness: seconds that the updates of who is still in its local steps have once as many as the floor have sent
            theirs; None for the charter's deadline of readiness.
    """

    specs: tuple[TensorSpec, ...]
    update: Sequence[NDArray[np.float32]] | None = field(repr=False)
    weight: int
    fingerprint: bytes
    last: bytes
    common: CommonState = field(repr=False)
    state: bytes = ZERO
    residual: Sequence[NDArray[np.float32]] | None = field(default=None, repr=False)
    left: Mapping[PeerId, Verified] = field(default_factory=dict)
    benched: frozenset[PeerId] = frozenset()
    patience: float | None = None
    lateness: float | None = None
    summed: tuple[PeerId, ...] = ()
    summed_under: bytes | None = None

    @property
    def length(self) -> int:
        """d + 1: the coordinates of the vector and the weight behind them."""
        return sum(spec.size for spec in self.specs) + 1


@dataclass(frozen=True)
class Outcome:
    """A certified result: the sums as a blob of ring elements, whose last one is the total weight."""

    total: Blob
    ranges: tuple[float, ...]
    roster: tuple[PeerId, ...]
    survivors: tuple[PeerId, ...]
    total_weight: int
    digest: bytes
    adopted: Mapping[PeerId, int]
    """The bytes of the common state that this peer took over at the round's start, by source; none where it held the
    same."""
    clipped: int = 0
    """Coordinates of this peer's own update that exceeded their range; nobody else is told."""
    beacon: bytes = b""
    """The round's public randomness; empty where its protocol deals none."""
    encoded_for: int | None = None
    """For how many vectors what is summed was encoded, where that is not the roster."""
    summed: int | None = None
    """How many vectors are summed, where they are not the survivors' own."""
