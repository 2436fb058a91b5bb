"""The step hook: a round every H optimizer steps, and what becomes of the parameters when one fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from decentra.errors import DecentraError, LocalError, RemoteError, Unavailable
from decentra.machine.state import SharedState
from decentra.training import outer
from decentra.training.common import OuterState
from decentra.training.flight import Flight
from decentra.training.outer import refuse_flushing
from decentra.training.tensors import FEDIT, Leaving, Policies

if TYPE_CHECKING:
    import logging
    from pathlib import Path

    import torch
    from numpy.typing import NDArray

    from decentra.types import RoundId, RoundResult


CATCH_UP_ROUNDS = 3
"""A peer that comes while the others gather for a round is left out of that one; of the next hardly ever."""


class Terms(outer.Terms, Protocol):
    """What the charter says of training."""

    @property
    def steps(self) -> int:
        """H, local optimizer steps a round."""
        ...

    @property
    def seconds(self) -> float | None:
        """Seconds of local steps a round, where these decide, and not their number."""
        ...

    @property
    def fragments(self) -> int | None:
        """Parts of the model, of which a round averages one; one by default."""
        ...

    @property
    def warmup(self) -> int | None:
        """Rounds that take the mean itself before the outer optimiser begins; none by default."""
        ...

    @property
    def adapters(self) -> str | None:
        """How the two matrices of LoRA adapters are trained; both are averaged by default."""
        ...

    @property
    def tensors(self) -> Mapping[str, outer.TensorTerms]:
        """Outer terms of tensors by a glob over names, where they differ."""
        ...


class Weights(Protocol):
    """What the charter says of weights."""

    @property
    def max_weight(self) -> int:
        """The largest weight of an update."""
        ...


class Agreement(Protocol):
    """The part of a charter that training reads."""

    @property
    def training(self) -> Terms:
        """The terms of training."""
        ...

    @property
    def protocol(self) -> Weights:
        """The terms of aggregation."""
        ...


class Preparation(Protocol):
    """A round that has begun ahead of its update."""

    def average(
        self,
        tensors: Sequence[NDArray[np.float32]],
        *,
        weight: int = 1,
        residual: Sequence[NDArray[np.float32]] | None = None,
    ) -> RoundResult:
        """Give the round its update and return the group's mean, as `Averager.average` does."""
        ...

    def cancel(self) -> None:
        """Give the round up, with nothing sent; one that has ended stays as it is."""
        ...


class Averager(Protocol):
    """Whoever runs rounds: a peer, or a fake group in a test."""

    @property
    def charter(self) -> Agreement:
        """The group's agreement."""
        ...

    def average(
        self,
        tensors: Sequence[NDArray[np.float32]],
        *,
        weight: int = 1,
        names: Sequence[str] | None = None,
        state: SharedState | None = None,
        residual: Sequence[NDArray[np.float32]] | None = None,
    ) -> RoundResult:
        """Run one round and return the group's mean.

        A peer whose `state` differs from the round's agreed one adopts that before its tensors are read. The tensors
        may be computed as they are read, and each array read belongs to the reader. What clipping cuts from them goes
        to `residual`, which is added to them first.
        """
        ...

    def interrupt(self) -> None:
        """End the round that another thread waits for."""
        ...

    def prepare(self, *, names: Sequence[str] | None = None, state: SharedState | None = None) -> Preparation:
        """Begin a round ahead of its update, and return at once. `state` does not change until the update is given."""
        ...

    def log(self) -> logging.Logger:
        """The logger named ``decentra``."""
        ...


@dataclass(frozen=True)
class Summary:
    """What training together came to so far.

    Attributes:
        rounds: rounds completed.
        failed: rounds that failed.
        outer_steps: the group's outer steps that the common parameters have behind them, equal at all peers after a
            round: more than ``rounds`` at a peer that joined late or missed some. A learning-rate schedule goes by it.
        bytes_sent: what this peer sent in completed rounds, framing included.
        bytes_received: what this peer received in completed rounds, framing included.
        seconds: wall time for which rounds, failed ones too, held up the training loop.
        transcript: where this peer's transcript lies, if the caller said so.
        parameters: SHA-256, in hexadecimal, of the common parameters after the last round (before the first one: at the
            start), float32 little-endian; equal at all peers. The model holds these values where a round is about all
            of it and is waited for.
    """

    rounds: int
    failed: int
    outer_steps: int
    bytes_sent: int
    bytes_received: int
    seconds: float
    transcript: Path | None
    parameters: str

    def __str__(self) -> str:
        failed = f" ({self.failed} failed)" if self.failed else ""
        kept = "" if self.transcript is None else f"; transcript {self.transcript}"
        rounds = "1 round" if self.rounds == 1 else f"{self.rounds} rounds"
        return (
            f"{rounds}{failed}: sent {self.bytes_sent / 1e6:.3f} MB, received "
            f"{self.bytes_received / 1e6:.3f} MB, waited {self.seconds:.1f} s; "
            f"parameters {self.parameters[:16]}{kept}"
        )


class Training:
    """One model in training with its group; `attach` makes it.

    Local steps stay plain PyTorch. After every H of them, or with the first behind every so many seconds, the hook
    computes the pseudo-gradients, waits for the round, takes the outer step on the common parameters and sets the model
    to them; the inner optimizer's state is kept, and what the policy keeps local is not touched. Where seconds decide,
    the update's weight is the charter's ``max_weight`` for H steps, and less for fewer.

    A round that fails ends in a line of the log, and training goes on: where this peer's update had been masked and
    sent, the model goes back to the last common parameters (an update leaves once); where nothing had left, its
    progress is kept and contributed to the next round. An error of this peer's own, a LocalError, comes out of
    ``optimizer.step()``; the next step tries the round again. After any other exception, such as KeyboardInterrupt, the
    update may have left, so the model goes back as well.

    With ``ahead`` the next round begins as soon as one is completed, and the H-th step gives it its update. Nothing of
    the common state changes in between: the outer step comes before, and what another peer holds is taken over at the
    H-th step only. A round that follows a failed one begins with its update, as without ``ahead``.

    Where the charter divides the model in fragments, a round is about the next one of them, every H divided by their
    number steps, and nothing else of the model changes with it.

    With ``overlap`` the H-th step does not wait either: the round goes on beside the next local steps, at most H of
    them, and the model is moved by what the round changed with the first step behind its end (`flight`).

    Attributes:
        last: the last round that was completed.
        attached: whether steps of the optimizer still count.
        specs: the tensors of a round: those that leave, or one fragment of all.
        clipped: what clipping left of all that leaves, float32, one dimension; it counts in later updates.
        residual: what of it the next round is about, in the shapes of ``specs``.
        completed: called, in the user's thread, once the model holds what a completed round gave.
    """

    def __init__(
        self,
        averager: Averager,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        policy: Mapping[str, str] | Policies | None = None,
        ahead: bool = False,
        overlap: bool = False,
    ) -> None:
        terms = averager.charter.training
        if terms.steps < 1:
            raise LocalError(f"the charter asks for {terms.steps} local steps a round: set training.steps to 1 or more")
        self._averager, self._ahead, self._overlap = averager, ahead, overlap
        self.completed: Callable[[], object] = lambda: None
        self._prepared: Preparation | None = None
        self._flight: Flight | None = None
        self._log = averager.log()
        self._terms, self._most = terms, averager.charter.protocol.max_weight
        self.leaving = Leaving(model, policy)
        refuse_other_method(terms, self.leaving.adapters)
        if not self.leaving.holds_any_of(p for group in optimizer.param_groups for p in group["params"]):
            raise LocalError("the optimizer steps no parameter of this model: pass a model and its own optimizer")
        choose = partial(outer.chosen, terms, terms.tensors)
        self._common = OuterState(
            self.leaving, choose, self._log, warmup=terms.warmup or 0, fragments=terms.fragments or 1
        )
        self.specs = self._common.specs
        self.clipped = np.zeros(self._common.padded, np.float32)
        self.residual = self._common.residual(self.clipped)
        self._common.forget = self._forget
        self._steps = 0  # since the last round that completed or failed
        self._given = 0  # those of the round that is on
        self._again = 0  # those of one that is to be tried again with the next step
        self._interrupted = False
        self._kept = 0  # steps before those, kept through failed rounds
        self._rounds = self._failed = self._sent = self._received = 0
        self._told = 0  # of how many of them `completed` was told
        self._seconds, self._began = 0.0, time.perf_counter()
        self._parameters = self._common.digest()
        self._handle = optimizer.register_step_post_hook(self._stepped)
        self.attached = True
        self.last: RoundId | None = None

    @property
    def overlaps(self) -> bool:
        """Whether local steps go on while a round is under way."""
        return self._overlap

    @property
    def state(self) -> OuterState:
        """The state that all peers must hold equal before a round; to be compared at joining already."""
        return self._common

    def _stepped(self, _optimizer: torch.optim.Optimizer, _args: tuple[Any, ...], _kwargs: dict[str, Any]) -> None:
        self._steps += 1
        if self._flight is not None and self._flight.ended:
            self._land()
        if self._is_due():
            self._land()
            self._depart()

    def _is_due(self) -> bool:
        if self._terms.seconds is not None:
            return time.perf_counter() - self._began >= self._terms.seconds
        return self._steps >= max(1, self._terms.steps // (self._terms.fragments or 1))

    def _depart(self) -> None:
        """Begin a round with what the model has come to; without ``overlap``, wait for it."""
        began = time.perf_counter()
        self.leaving.refuse_changes()
        refuse_flushing()
        self._given, self._steps, self._began = self._steps, 0, began
        try:
            if self._overlap:
                self._flight = Flight(self.leaving, self._common, self._round)
                return
            try:
                self._round()
            finally:
                self._arrive()
                self._began = time.perf_counter()
            self._tell()
        finally:
            self._seconds += time.perf_counter() - began

    def _land(self) -> None:
        """Wait for the round that is under way, if there is one, and move the model by what it changed."""
        if self._flight is None:
            return
        began = time.perf_counter()
        try:
            self._flight.wait()
        except KeyboardInterrupt:
            self._interrupted = True
            self._averager.interrupt()
            raise
        flight, self._flight = self._flight, None
        try:
            flight.land()
        except LocalError:
            if not self._interrupted:
                raise
        finally:
            self._arrive()
            self._seconds += time.perf_counter() - began
        self._tell()

    def _arrive(self) -> None:
        """Count the steps of a round that failed with nothing spent, and is to be tried again, once more."""
        self._steps += self._again
        self._again = 0

    def _forget(self) -> None:
        """The common state is of another origin: what clipping left was of steps on another model."""
        self.clipped.fill(0)

    def _tell(self) -> None:
        if self._rounds > self._told:
            self._told = self._rounds
            self.completed()

    @property
    def kept(self) -> int:
        """Local steps that the model has behind the common parameters, and that no completed round has."""
        return self._kept + self._steps

    @kept.setter
    def kept(self, steps: int) -> None:
        self._kept, self._steps = steps, 0

    def _round(self) -> None:
        """A round, waited for, on the model that the common state is on."""
        update = self._common.update()
        back = False
        try:
            self._common.refuse_nonfinite()
            back = True  # unless we know better: an update that may have left must not leave again (secagg, step 3)
            result = self._average(update)
        except LocalError as error:
            back = back and _spent(error)
            self._again = 0 if back else self._given
            raise
        except (RemoteError, Unavailable) as error:
            back = _spent(error)
            self._fail(error, back)
        else:
            self._complete(result)
            back = False
        finally:
            if back:
                self._common.take_back()
                self._kept = 0

    def _average(self, update: Sequence[NDArray[np.float32]]) -> RoundResult:
        prepared, self._prepared = self._prepared, None
        weight = self._weight()
        if prepared is not None:
            return prepared.average(update, weight=weight, residual=self.residual)
        names = self._names
        return self._averager.average(update, weight=weight, names=names, state=self._common, residual=self.residual)

    @property
    def _names(self) -> tuple[str, ...]:
        return tuple(spec.name for spec in self.specs)

    def _weight(self) -> int:
        """An update's weight: where seconds decide, by the steps that it holds."""
        if self._terms.seconds is None:
            return 1
        return min(self._most, max(1, round(self._most * (self._kept + self._given) / self._terms.steps)))

    def prepare(self) -> None:
        """Begin the next round ahead of its update, if that was asked for."""
        if self._ahead:
            self._prepared = self._averager.prepare(names=self._names, state=self._common)

    def give_up(self) -> None:
        """End a round that was begun ahead of its update, and begins anew with it. One that has it is waited for."""
        self._land()
        prepared, self._prepared = self._prepared, None
        if prepared is not None:
            prepared.cancel()

    def _complete(self, result: RoundResult) -> None:
        self._common.advance(result.values, keep=not result.contributed)
        self._kept = 0 if result.contributed else self._kept + self._given
        if not result.contributed:
            self._log.warning("the round went on without this peer's update, which is contributed to the next one")
        self.last = result.round
        self._rounds += 1
        self._sent += result.bytes_sent
        self._received += result.bytes_received
        self._parameters = self._common.digest()
        self._log.info(
            "round %s averaged %d peers in %.2f s; parameters %s",
            result.round,
            len(result.participants),
            result.seconds,
            self._parameters.hex()[:8],
        )
        self.prepare()

    def _fail(self, error: DecentraError, spent: bool) -> None:
        self._failed += 1
        if spent:
            what = "its update had left this peer, which goes back to the last common parameters"
        else:
            self._kept += self._given
            what = "nothing had left this peer, which contributes its progress to the next round"
        self._log.warning("a round failed: %s; %s; training goes on", error, what)

    def catch_up(self) -> None:
        """Take part in the group's next round with what there is, at the beginning nothing.

        So a peer that joins while the others train holds their parameters before its own first step, instead of making
        a phase of steps on others. Where the round fails, because they began it too early, say, the next one may do; if
        none of a few does, the first round of training makes up for it.
        """
        before = self._rounds
        for _ in range(CATCH_UP_ROUNDS):
            self._given, self._steps = self._steps, 0
            self._round()
            if self._rounds > before:
                break

    def go_back(self) -> None:
        """Set the model to the last common parameters and begin the phase anew: the steps since then are lost."""
        self._land()
        self._common.go_back()
        self._steps = self._kept = 0

    def detach(self) -> None:
        """Take the hook off the optimizer; the model stays as it is. A second call does nothing."""
        self._handle.remove()
        self.attached = False
        self.give_up()

    def finish(self) -> None:
        """End training together: detach, and set the model to the last common parameters.

        Nothing is sent for a phase that is not full, and its steps are dropped: so all peers that completed the same
        last round end with the same bits. To keep every step, end after a multiple of H.
        """
        try:
            self.detach()
        finally:
            if dropped := self.kept:
                said = "the last %d local steps made no round: the model is back at the common parameters"
                self._log.info(said, dropped)
            self.go_back()
            self._parameters = self._common.digest()

    def summary(self, transcript: Path | None = None) -> Summary:
        """The counts so far; costs nothing, so it may be asked for after every step."""
        return Summary(
            rounds=self._rounds,
            failed=self._failed,
            outer_steps=self._common.rounds,
            bytes_sent=self._sent,
            bytes_received=self._received,
            seconds=self._seconds,
            transcript=transcript,
            parameters=self._parameters.hex(),
        )


def refuse_other_method(terms: Terms, own: str) -> None:
    """Check that a peer trains adapters as its group does.

    Raises:
        LocalError: the charter says another method than ``own``.
    """
    agreed = terms.adapters or FEDIT
    if agreed != own:
        raise LocalError(
            f"the charter has LoRA adapters trained by {agreed}, and this peer would train them by {own}: join with "
            "decentra.training.adapters.join(model, optimizer), which goes by the charter, or agree on "
            f'adapters = "{own}" in its [training]'
        )


def _spent(error: DecentraError) -> bool:
    # The runtime says so. Where it doesn't, an error of our own came before anything was sent; after any other, the
    # update may have left.
    return bool(getattr(error, "spent", not isinstance(error, LocalError)))


def attach(
    averager: Averager,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    policy: Mapping[str, str] | Policies | None = None,
    ahead: bool = False,
    overlap: bool = False,
) -> Training:
    """Train `model` together with the averager's group, from the next ``optimizer.step()`` on.

    Every call of ``optimizer.step()`` counts, so schedulers and gradient accumulation need nothing. All of the model's
    parameters with ``requires_grad`` leave (float32, bfloat16 or float16), also those that another optimizer steps;
    `policy` says otherwise, see `Leaving`.
    Memory: float32 copies of them for the common parameters, for what clipping left, and for each array of the outer
    optimiser; beyond these, one tensor at a time. ``ahead`` begins each round ahead of its update, and ``overlap`` goes
    on with local steps beside it, at the cost of two more copies; see `Training`.

    Raises:
        LocalError: a model, optimizer, policy or charter that cannot train together.
    """
    return Training(averager, model, optimizer, policy=policy, ahead=ahead, overlap=overlap)
