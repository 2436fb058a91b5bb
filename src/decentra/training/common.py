"""What all peers hold in common between rounds, and this peer's progress since."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, overload

import numpy as np
from numpy.typing import NDArray

from decentra.errors import LocalError
from decentra.machine.state import piece_digests
from decentra.training.fragments import Fragments, Piece
from decentra.training.outer import PLAIN
from decentra.training.received import Form, unsound

if TYPE_CHECKING:
    import logging

    from decentra.training.outer import Outer
    from decentra.training.tensors import Leaving
    from decentra.types import TensorSpec

MAGIC = b"decentra/outer/1"
HEADER = len(MAGIC) + 8 + 32
LARGEST = 1 << 62
"""Outer steps that a state may have behind it: so many never come to be, and their number stays one of 8 bytes."""


class OuterState:
    """The common parameters and the outer optimiser's arrays, and the model's way from them: what training shares.

    The exported bytes are: 16 bytes of format name; the number of outer steps, 8 bytes little-endian; the origin, the
    SHA-256 of what step 0 held, 32 bytes; the parameters and each array of the outer optimiser, float32 little-endian;
    the tensors that are common by policy, in their own dtypes.

    Args:
        choose: the outer optimiser of a tensor, by its name. Buffers take the mean itself.
        warmup: outer steps that take the mean itself before the outer optimiser begins.
        fragments: parts of the one vector, of which an outer step is about one.

    Attributes:
        rounds: outer steps applied since the origin.
        fragments: how the vector is divided; None where it is not.
        forget: called where a state of another origin is taken over.
    """

    def __init__(
        self,
        leaving: Leaving,
        choose: Callable[[str], Outer],
        log: logging.Logger,
        *,
        warmup: int = 0,
        fragments: int = 1,
    ) -> None:
        self._leaving, self._log, self._warmup = leaving, log, warmup
        self.fragments = Fragments(leaving.size, fragments) if fragments > 1 else None
        self._outers = tuple(PLAIN if name in leaving.buffers else choose(name) for name in leaving.names)
        self._parameters = np.empty(leaving.size, np.float32)
        self._slots = tuple(np.zeros(leaving.size, np.float32) for _ in range(max(o.slots for o in self._outers)))
        for index, outer in enumerate(self._outers):
            self._parameters[leaving.span(index)] = leaving.read(index).reshape(-1)
            outer.begin(self._slots_of(index, outer))
        self._fixed = leaving.read_fixed()
        self._form = Form(MAGIC, HEADER, leaving.size * (1 + len(self._slots)), self._fixed.nbytes)
        self._origin = self._digest(self._fixed)
        self._pieces: tuple[bytes, ...] | None = None
        self.rounds = 0
        self.forget: Callable[[], None] = lambda: None

    def _slots_of(self, index: int, outer: Outer) -> tuple[NDArray[np.float32], ...]:
        return tuple(slot[self._leaving.span(index)] for slot in self._slots[: outer.slots])

    @property
    def _arrays(self) -> tuple[NDArray[np.float32], ...]:
        """All that is float32, in the order of the exported bytes."""
        return (self._parameters, *self._slots)

    @property
    def specs(self) -> tuple[TensorSpec, ...]:
        """What a round averages: all tensors that leave, or one fragment of them."""
        return self._leaving.specs if self.fragments is None else self.fragments.specs

    @property
    def padded(self) -> int:
        """Coordinates of all that leaves, filled up to whole fragments."""
        return self._leaving.size if self.fragments is None else self.fragments.count * self.fragments.length

    @property
    def nbytes(self) -> int:
        """Bytes that `export` gives and `adopt` takes."""
        return self._form.nbytes

    def digest(self) -> bytes:
        """SHA-256 of the common parameters: float32, little-endian, in order. The model may be on its way from them."""
        return self._digest()

    def _digest(self, *further: NDArray[np.uint8]) -> bytes:
        digest = hashlib.sha256(self._parameters.data)
        for array in further:
            digest.update(array.data)
        return digest.digest()

    def export(self) -> list[NDArray[np.uint8]]:
        """The state's bytes: a header, and views of the arrays, valid until the round's `average` returns."""
        header = np.frombuffer(MAGIC + self.rounds.to_bytes(8, "little") + self._origin, np.uint8)
        return [header, *(array.view(np.uint8) for array in self._arrays), self._fixed]

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
        values, fixed, rounds, origin = self._read(data)
        missed = origin == self._origin
        if missed:
            self._carry_over(values)
        before = self.rounds
        self._take(values, fixed, rounds, origin)
        self._leaving.write_fixed(self._fixed)
        if not missed:
            self.forget()
            self.go_back()
        self._log.warning(
            "this peer's common parameters were not the group's: it took over %s, %d outer steps old (it had %d); %s",
            self.digest().hex()[:8],
            rounds,
            before,
            "its own progress is kept" if missed else "its own steps began from other values and are dropped",
        )

    def _read(self, data: memoryview) -> tuple[NDArray[np.float32], NDArray[np.uint8], int, bytes]:
        """What exported bytes hold: the arrays, the common tensors, the number of outer steps, and the origin."""
        header, values, fixed = self._form.read(data)
        rounds, size = int.from_bytes(header[:8], "little"), self._leaving.size
        sound = rounds <= LARGEST and self._leaving.can_hold_fixed(fixed)
        for index, outer in enumerate(self._outers):
            span = self._leaving.span(index)
            sound = sound and outer.can_hold([values[size * place :][span] for place in range(1, outer.slots + 1)])
        if not sound:
            raise unsound("what no step comes to")
        return values, fixed, rounds, header[8:]

    def _take(self, values: NDArray[np.float32], fixed: NDArray[np.uint8], rounds: int, origin: bytes) -> None:
        size, self._pieces = self._leaving.size, None
        for place, array in enumerate(self._arrays):
            array[:] = values[place * size : (place + 1) * size]
        self._fixed[:] = fixed
        self.rounds, self._origin = rounds, origin

    def _carry_over(self, values: NDArray[np.float32]) -> None:
        # A tensor at a time, so that no second copy of the model arises.
        for index in range(len(self._leaving)):
            span = self._leaving.span(index)
            moved = self._leaving.progress(index, self._parameters[span])
            np.subtract(values[span].reshape(moved.shape), moved, out=moved)
            self._leaving.write(index, moved)

    @property
    def origin(self) -> bytes:
        """The SHA-256 of what step 0 held: other parameters of another origin are of another run."""
        return self._origin

    @contextmanager
    def on(self, leaving: Leaving) -> Iterator[None]:
        """For a while the model is another: all that is read from it and set in it is read and set there."""
        model, self._leaving = self._leaving, leaving
        try:
            yield
        finally:
            self._leaving = model

    def update(self) -> Sequence[NDArray[np.float32]]:
        """This peer's pseudo-gradients, common − local parameters; float32, tensor by tensor, or one fragment of all.

        An item is a fresh array, computed from the model when it is read, and the reader owns it. Whoever encodes item
        by item never needs a float32 copy of the whole, and what is read after `adopt` counts from the adopted state.
        The model must not be stepped meanwhile.
        """
        leaving, fragments = self._leaving, self.fragments

        def progress(index: int) -> NDArray[np.float32]:
            return leaving.progress(index, self._parameters[leaving.span(index)])

        def fragment(_: int) -> NDArray[np.float32]:
            values = np.zeros(0 if fragments is None else fragments.length, np.float32)
            for piece in self._pieces_now():
                values[piece.part] = progress(piece.tensor).reshape(-1)[piece.own]
            return values

        return WhenRead(len(leaving), progress) if fragments is None else WhenRead(1, fragment)

    def residual(self, whole: NDArray[np.float32]) -> Sequence[NDArray[np.float32]]:
        """What clipping left of the update: views of the whole vector, `padded` long, of which a round changes its own
        in place."""
        leaving, fragments = self._leaving, self.fragments
        if fragments is None:
            return [whole[leaving.span(index)].reshape(spec.shape) for index, spec in enumerate(leaving.specs)]
        return WhenRead(1, lambda _: whole[fragments.span(self.rounds)])

    def refuse_nonfinite(self) -> None:
        """Check every coordinate of the update, before anything is sent.

        Raises:
            LocalError: a tensor's update holds NaN or inf.
        """
        for index, spec in enumerate(self._leaving.specs):
            values = self._leaving.progress(index, self._parameters[self._leaving.span(index)])
            mend = "lower the inner learning rate or clip the gradients, and call go_back() before going on"
            refuse_nonfinite(f"the update of {spec.name!r}", values, mend)

    def advance(self, mean: Sequence[NDArray[np.float32]], *, keep: bool = False) -> None:
        """Apply a round's mean: one outer step on the common parameters, and the model set to them.

        With ``keep`` the model keeps its own way from the common parameters, since its update is not in the mean, and
        may still be contributed.

        Raises:
            LocalError: the mean does not have the shapes of what leaves.
        """
        if [array.shape for array in mean] != [spec.shape for spec in self.specs]:
            raise LocalError("the round's mean does not have this model's shapes: give it in the order the update had")
        self._pieces = None
        if self.fragments is not None:
            self._advance_part(mean[0], keep)
            return
        for index, (array, own) in enumerate(zip(mean, self._outers, strict=True)):
            if self._leaving.rests(self._leaving.names[index]):
                continue  # whatever a peer may have sent for it
            span, outer = self._leaving.span(index), own if self.rounds >= self._warmup else PLAIN
            moved = self._leaving.progress(index, self._parameters[span]) if keep else None
            outer.step(self._parameters[span], self._slots_of(index, outer), array.reshape(-1))
            if moved is not None:
                np.subtract(self._parameters[span].reshape(moved.shape), moved, out=moved)
                self._leaving.write(index, moved)
        self.rounds += 1
        if not keep:
            self.go_back()

    def _advance_part(self, mean: NDArray[np.float32], keep: bool) -> None:
        """One outer step on a fragment; of the model nothing else changes."""
        for index, own, whole, part in self._pieces_now():
            outer = self._outers[index] if self.rounds >= self._warmup else PLAIN
            span, values = self._leaving.span(index), self._leaving.read(index).reshape(-1)
            moved = self._leaving.progress(index, self._parameters[span]).reshape(-1)[own] if keep else None
            outer.step(self._parameters[whole], tuple(slot[whole] for slot in self._slots[: outer.slots]), mean[part])
            values[own] = self._parameters[whole] if moved is None else self._parameters[whole] - moved
            self._leaving.write(index, values)
        if not keep:
            self._leaving.write_fixed(self._fixed)
        self.rounds += 1

    def _pieces_now(self) -> Iterator[Piece]:
        return iter(()) if self.fragments is None else self.fragments.pieces(self._leaving, self.rounds)

    def take_back(self) -> None:
        """Set the model to the common parameters, as far as the next outer step is about it: that part was given."""
        if self.fragments is None:
            self.go_back()
        for index, own, whole, _ in self._pieces_now():
            values = self._leaving.read(index).reshape(-1)
            values[own] = self._parameters[whole]
            self._leaving.write(index, values)

    def restore(self, data: memoryview) -> None:
        """Take over one's own state of earlier, from a checkpoint, with the model as it is.

        Raises:
            LocalError: the bytes are not a common state of this model, or hold NaN or inf.
        """
        self._take(*self._read(data))

    def go_back(self) -> None:
        """Set the model to the common parameters; the inner optimiser's state stays."""
        for index in range(len(self._leaving)):
            self._leaving.write(index, self._parameters[self._leaving.span(index)])
        self._leaving.write_fixed(self._fixed)


class WhenRead(Sequence[NDArray[np.float32]]):
    """Arrays of which each is made when it is read, and none is kept."""

    def __init__(self, count: int, read: Callable[[int], NDArray[np.float32]]) -> None:
        self._count, self._read = count, read

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> NDArray[np.float32]: ...
    @overload
    def __getitem__(self, index: slice) -> list[NDArray[np.float32]]: ...
    def __getitem__(self, index: int | slice) -> NDArray[np.float32] | list[NDArray[np.float32]]:
        places = range(self._count)[index]
        return self._read(places) if isinstance(places, int) else [self._read(place) for place in places]


def refuse_nonfinite(what: str, values: NDArray[np.float32], mend: str) -> None:
    """Raises LocalError where values hold NaN or inf, before anything is sent: it says of what, and what to do."""
    # Extremes instead of isfinite(values).all(): no array of flags, and NaN spreads through both.
    if values.size and not (np.isfinite(values.min()) and np.isfinite(values.max())):
        bad = values.size - int(np.count_nonzero(np.isfinite(values)))
        raise LocalError(f"{what} holds NaN or inf in {bad} of {values.size} coordinates, and nothing was sent: {mend}")
