"""Plain frozen types that every floor shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class PeerId(bytes):
    """A peer's name: the SHA-256 of its Ed25519 public key under decentra's label, 32 bytes.

    It prints as its first eight hexadecimal digits, which is what people compare by eye.
    """

    __slots__ = ()

    def __new__(cls, value: bytes) -> PeerId:
        if len(value) != 32:
            raise ValueError(f"a peer id has 32 bytes, this has {len(value)}")
        return super().__new__(cls, value)

    def __str__(self) -> str:
        return self.hex()[:8]

    def __repr__(self) -> str:
        return f"PeerId({self.hex()[:8]}…)"


class RoundId(NamedTuple):
    """One aggregation: rounds count from 1 within an epoch, and never go back."""

    epoch: int
    number: int

    def __str__(self) -> str:
        return f"{self.epoch}.{self.number}"


class EpochName(NamedTuple):
    """An epoch: its number, and the hash of its charter, or the first eight bytes of that.

    >>> str(EpochName(2, bytes(32)))
    'epoch 2 (charter 00000000)'
    """

    number: int
    charter: bytes

    def __str__(self) -> str:
        return f"epoch {self.number} (charter {self.charter.hex()[:8]})"

    def is_same(self, other: EpochName) -> bool:
        """Whether both are one epoch, as far as either name tells."""
        least = min(len(self.charter), len(other.charter))
        return self.number == other.number and self.charter[:least] == other.charter[:least]


class TensorSpec(NamedTuple):
    """What the group agrees on about one tensor: its name, shape and dtype (``"float32"``)."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """Number of coordinates; 1 for a scalar, 0 where a dimension is empty."""
        size = 1
        for extent in self.shape:
            size *= extent
        return size


@dataclass(frozen=True)
class RoundResult:
    """What a round gave.

    Attributes:
        round: which round it was.
        values: the weighted mean of the survivors' tensors, float32, in the order and shapes given to ``average``.
        participants: the survivors, in roster order.
        dropped: members of the group whose update is not in the mean.
        total_weight: Σ of the survivors' integer weights (their number where all weigh the same).
        digest: the certified hash of the result, equal at every survivor.
        bytes_sent: what this peer sent in the round, framing included.
        bytes_received: what this peer received in the round, framing included.
        seconds: wall time from the call to the result; of a round that began ahead of its update, from the update on.
        transcript_head: the hash of this peer's last signed entry of the round.
        clipped: coordinates of this peer's own update that exceeded their tensor's range, and were cut to it.
        contributed: whether this peer's own update is in the mean; one that is not may be given to another round.
        beacon: 32 bytes that nobody could foresee or choose, and all survivors hold alike; empty in allreduce.
    """

    round: RoundId
    values: tuple[NDArray[np.float32], ...]
    participants: tuple[PeerId, ...]
    dropped: tuple[PeerId, ...]
    total_weight: int
    digest: bytes
    bytes_sent: int
    bytes_received: int
    seconds: float
    transcript_head: bytes
    clipped: int = 0
    contributed: bool = True
    beacon: bytes = b""

    def __str__(self) -> str:
        without = f", without {', '.join(map(str, self.dropped))}" if self.dropped else ""
        cut = f"; {self.clipped} coordinates were clipped" if self.clipped else ""
        return (
            f"round {self.round}: {len(self.participants)} peers averaged{without}; "
            f"sent {self.bytes_sent / 1e6:.3f} MB, received {self.bytes_received / 1e6:.3f} MB, {self.seconds:.2f} s; "
            f"result {self.digest.hex()[:16]}{cut}"
        )


@dataclass(frozen=True)
class MixingResult(RoundResult):
    """What a mixing gave: a round along each axis of a grid, one after the other.

    What a `RoundResult` says of one round is said of the last one, whose group certified the mean: participants and
    dropped are of that group, ``total_weight`` is in the units of its axis. ``round`` counts mixings, from 1; bytes,
    seconds and ``clipped`` are of all rounds.

    Attributes:
        rounds: what each round gave, by axis.
        weight: the sum of the weights behind the mean; where nobody was lost on the way, that of all members.
    """

    rounds: tuple[RoundResult, ...] = ()
    weight: float = 0.0

    def __str__(self) -> str:
        rounds = "1 round" if len(self.rounds) == 1 else f"{len(self.rounds)} rounds"
        return (
            f"mixing {self.round}: a mean of weight {self.weight:g} after {rounds}; "
            f"sent {self.bytes_sent / 1e6:.3f} MB, received {self.bytes_received / 1e6:.3f} MB, {self.seconds:.2f} s; "
            f"result {self.digest.hex()[:16]}"
        )
