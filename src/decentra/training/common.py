"""What all peers hold in common between rounds, and this peer's progress since."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, overload

import numpy as np
from numpy.typing import NDArray

from decentra.errors import LocalError
from decentra.machine.state import piece_digests

if TYPE_CHECKING:
    import logging

    from decentra.training.outer import OuterSGD
    from decentra.training.tensors import Leaving

MAGIC = b"decentra/outer/1"
HEADER = len(MAGIC) + 8 + 32


class OuterState:
    """The common parameters and outer momentum, and the model's way from them: the `SharedState` of training.

    The exported bytes are: 16 bytes of format name; the number of outer steps, 8 bytes little-endian; the origin, the
    SHA-256 of the parameters of step 0, 32 bytes; the parameters and, where μ > 0, the momentum, float32 little-endian.

    Attributes:
        rounds: outer steps applied since the origin.
    """

    def __init__(self, leaving: Leaving, outer: OuterSGD, log: logging.Logger) -> None:
        self._leaving = leaving
        self._outer = outer
        self._log = log
        self._parameters = np.empty(leaving.size, np.float32)
        for index in range(len(leaving)):
            self._parameters[leaving.span(index)] = leaving.read(index).reshape(-1)
        self._momentum = np.zeros(leaving.size, np.float32) if outer.keeps_momentum else None
        self._origin = self.digest()
        self._pieces: tuple[bytes, ...] | None = None
        self.rounds = 0

    @property
    def nbytes(self) -> int:
        """Bytes that `export` gives and `adopt` takes."""
        return HEADER + self._parameters.nbytes * (1 if self._momentum is None else 2)

    def digest(self) -> bytes:
        """SHA-256 of the common parameters: float32, little-endian, in order. The model may be on its way from them."""
        return hashlib.sha256(self._parameters.data).digest()

    def export(self) -> list[NDArray[np.uint8]]:
        """The state's bytes: a header, and views of the arrays, valid until the round's `average` returns."""
        header = np.frombuffer(MAGIC + self.rounds.to_bytes(8, "little") + self._origin, np.uint8)
        arrays = [self._parameters] if self._momentum is None else [self._parameters, self._momentum]
        return [header, *(array.view(np.uint8) for array in arrays)]

    def pieces(self) -> tuple[bytes, ...]:
        """The SHA-256 of each 256 KiB of the exported bytes."""
        if self._pieces is None:
            self._pieces = piece_digests(self.export())
        return self._pieces

    def adopt(self, data: memoryview) -> None:
        """Take over another peer's common state, and set the model to it.

        Where both states come from the same origin, this peer has missed rounds: its own progress since its last
        common parameters is carried over and counts in the next update. Where the origins differ, its steps were made
        on another model and are dropped. Nothing is changed where the bytes are refused.

        Raises:
            LocalError: the bytes are not a common state of this model, or hold NaN or inf.
        """
        data = data.cast("B")
        if data.nbytes != self.nbytes or bytes(data[: len(MAGIC)]) != MAGIC:
            raise LocalError(
                f"the common state received has {data.nbytes} bytes, this model's has {self.nbytes}: "
                "compare the peers' models and versions of decentra"
            )
        values = np.frombuffer(data, np.float32, offset=HEADER)
        if not (np.isfinite(values.min()) and np.isfinite(values.max())):
            raise LocalError("the common state received holds NaN or inf and was not taken over: restart its sender")
        rounds = int.from_bytes(data[len(MAGIC) : len(MAGIC) + 8], "little")
        origin = bytes(data[len(MAGIC) + 8 : HEADER])
        missed = origin == self._origin
        self._pieces = None
        if missed:
            self._carry_over(values)
        self._parameters[:] = values[: self._leaving.size]
        if self._momentum is not None:
            self._momentum[:] = values[self._leaving.size :]
        before, self.rounds, self._origin = self.rounds, rounds, origin
        if not missed:
            self.go_back()
        self._log.warning(
            "this peer's common parameters were not the group's: it took over %s, %d outer steps old (it had %d); %s",
            self.digest().hex()[:8],
            rounds,
            before,
            "its own progress is kept" if missed else "its own steps began from other values and are dropped",
        )

    def _carry_over(self, values: NDArray[np.float32]) -> None:
        # A tensor at a time, so that no second copy of the model arises.
        for index in range(len(self._leaving)):
            span = self._leaving.span(index)
            moved = self._leaving.progress(index, self._parameters[span])
            np.subtract(values[span].reshape(moved.shape), moved, out=moved)
            self._leaving.write(index, moved)

    def update(self) -> Update:
        """This peer's pseudo-gradients, each computed when it is read."""
        return Update(self._leaving, self._parameters)

    def advance(self, mean: Sequence[NDArray[np.float32]], *, keep: bool = False) -> None:
        """Apply a round's mean: one outer step on the common parameters, and the model set to them.

        With ``keep`` the model keeps its own way from the common parameters, since its update is not in the mean, and
        may still be contributed.

        Raises:
            LocalError: the mean does not have the shapes of what leaves.
        """
        if [array.shape for array in mean] != [spec.shape for spec in self._leaving.specs]:
            raise LocalError("the round's mean does not have this model's shapes: give it in the order the update had")
        self._pieces = None
        for index, array in enumerate(mean):
            span = self._leaving.span(index)
            moved = self._leaving.progress(index, self._parameters[span]) if keep else None
            momentum = None if self._momentum is None else self._momentum[span]
            self._outer.step(self._parameters[span], momentum, array.reshape(-1))
            if moved is not None:
                np.subtract(self._parameters[span].reshape(moved.shape), moved, out=moved)
                self._leaving.write(index, moved)
        self.rounds += 1
        if not keep:
            self.go_back()

    def go_back(self) -> None:
        """Set the model to the common parameters; the inner optimiser's state stays."""
        for index in range(len(self._leaving)):
            self._leaving.write(index, self._parameters[self._leaving.span(index)])


class Update(Sequence[NDArray[np.float32]]):
    """A peer's pseudo-gradients, common − local parameters, tensor by tensor; float32, in the model's shapes.

    Nothing is stored: an item is a fresh array, computed from the model when it is read, and the reader owns it.
    Whoever encodes item by item never needs a float32 copy of the whole, and what is read after `OuterState.adopt`
    counts from the adopted state. The model must not be stepped meanwhile.
    """

    def __init__(self, leaving: Leaving, common: NDArray[np.float32]) -> None:
        self._leaving = leaving
        self._common = common

    def __len__(self) -> int:
        return len(self._leaving)

    @overload
    def __getitem__(self, index: int) -> NDArray[np.float32]: ...
    @overload
    def __getitem__(self, index: slice) -> list[NDArray[np.float32]]: ...
    def __getitem__(self, index: int | slice) -> NDArray[np.float32] | list[NDArray[np.float32]]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        return self._leaving.progress(index, self._common[self._leaving.span(index)])

    def refuse_nonfinite(self) -> None:
        """Check every coordinate, before anything is sent.

        Raises:
            LocalError: a tensor's update holds NaN or inf.
        """
        for spec, values in zip(self._leaving.specs, self, strict=True):
            # Extremes instead of isfinite(values).all(): no array of flags, and NaN spreads through both.
            if values.size and not (np.isfinite(values.min()) and np.isfinite(values.max())):
                bad = values.size - int(np.count_nonzero(np.isfinite(values)))
                raise LocalError(
                    f"the update of {spec.name!r} holds NaN or inf in {bad} of {values.size} coordinates, and nothing "
                    "was sent: lower the inner learning rate or clip the gradients, and call go_back() before going on"
                )
