"""The bytes in which a state travels, and what they are held against where they come from another peer or a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from decentra.errors import LocalError

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Received(NamedTuple):
    """What bytes of a `Form` hold: what follows the name, the values, and the rest. Arrays are views of the bytes."""

    header: bytes
    values: NDArray[np.float32]
    rest: NDArray[np.uint8]


@dataclass(frozen=True)
class Form:
    """How a state is laid out: a header that begins with a name, float32 values, and bytes of other dtypes.

    Attributes:
        name: the first bytes.
        header: bytes in front of the values, the name among them.
        values: how many float32 there are.
        rest: bytes behind them.
    """

    name: bytes
    header: int
    values: int
    rest: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes in all."""
        return self.header + 4 * self.values + self.rest

    def read(self, data: memoryview) -> Received:
        """Take bytes apart.

        Raises:
            LocalError: they have another name or length, or one of the values is NaN or inf.
        """
        data = data.cast("B")
        if data.nbytes != self.nbytes or bytes(data[: len(self.name)]) != self.name:
            raise LocalError(
                f"the common state received has {data.nbytes} bytes and begins with {bytes(data[: len(self.name)])!r}, "
                f"this model's has {self.nbytes} and begins with {self.name!r}: compare the peers' models and versions "
                "of decentra"
            )
        values = np.frombuffer(data, np.float32, self.values, self.header)
        # Extremes instead of isfinite(values).all(): no array of flags, and NaN spreads through both.
        if values.size and not (np.isfinite(values.min()) and np.isfinite(values.max())):
            raise unsound("NaN or inf")
        rest = np.frombuffer(data, np.uint8, self.rest, self.header + values.nbytes)
        return Received(bytes(data[len(self.name) : self.header]), values, rest)


def unsound(what: str) -> LocalError:
    """The error of a state that holds what it must not."""
    return LocalError(f"the common state received holds {what}, and was not taken over: restart its sender")
