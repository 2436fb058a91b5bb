"""Training with rounds that begin ahead of their updates: the same parameters, over the simulated network."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from decentra.charter.charter import Charter
from decentra.driver.session import Vector
from decentra.errors import DecentraError, LocalError
from decentra.machine.state import SharedState
from decentra.simulation.group import SimulatedGroup, SimulatedPeer
from decentra.training.hook import Training, attach
from decentra.types import RoundResult, TensorSpec
from helpers import settle, simulate

DEADLINE = 60.0
H, ROUNDS, N = 3, 4, 4


class Threads:
    """A simulated group whose peers train in threads: its clock goes on while all of them wait in a round."""

    def __init__(self, group: SimulatedGroup) -> None:
        self.group, self.lock = group, threading.Lock()
        self.barrier = threading.Barrier(len(group.peers), timeout=DEADLINE)

    def together(self, begin: Callable[[], None], peer: SimulatedPeer) -> RoundResult:
        with self.lock:
            begin()
        if self.barrier.wait() == 0:
            clock = self.group.clock
            assert clock.run_until(lambda: all(one.ended is not None for one in self.group.peers), clock.now() + 600.0)
        self.barrier.wait()
        if isinstance(peer.ended, DecentraError):
            raise peer.ended
        assert peer.ended is not None
        return peer.ended


class Averager:
    """One simulated peer, as the step hook sees it."""

    def __init__(self, threads: Threads, place: int, specs: tuple[TensorSpec, ...]) -> None:
        self.threads, self.place, self.specs = threads, place, specs
        self.prepared: list[tuple[bytes, ...]] = []
        self.given: list[tuple[bytes, ...]] = []
        self.phases: list[str] = []
        """In which phase each prepared round was when its update came."""

    @property
    def peer(self) -> SimulatedPeer:
        return self.threads.group.peers[self.place]

    @property
    def charter(self) -> Charter:
        return self.threads.group.charter

    def log(self) -> logging.Logger:
        return logging.getLogger("decentra")

    def interrupt(self) -> None:
        self.peer.driver.cancel(LocalError("interrupted"))

    def vector(self, tensors: Sequence[NDArray[np.float32]] | None, state: SharedState | None) -> Vector:
        return Vector(tensors, self.specs, shared=state)

    def average(
        self,
        tensors: Sequence[NDArray[np.float32]],
        *,
        weight: int = 1,
        names: Sequence[str] | None = None,
        state: SharedState | None = None,
        residual: Sequence[NDArray[np.float32]] | None = None,
    ) -> RoundResult:
        vector = replace(self.vector(tensors, state), weight=weight, residual=residual)
        return self.threads.together(lambda: self.peer.begin(vector), self.peer)

    def prepare(self, *, names: Sequence[str] | None = None, state: SharedState | None = None) -> Ahead:
        assert state is not None
        self.prepared.append(state.pieces())
        with self.threads.lock:
            self.peer.begin(self.vector(None, state))
        return Ahead(self, state)


class Ahead:
    def __init__(self, averager: Averager, state: SharedState) -> None:
        self.averager, self.state = averager, state

    def average(
        self,
        tensors: Sequence[NDArray[np.float32]],
        *,
        weight: int = 1,
        residual: Sequence[NDArray[np.float32]] | None = None,
    ) -> RoundResult:
        averager, threads = self.averager, self.averager.threads
        peer, vector = averager.peer, replace(averager.vector(tensors, self.state), weight=weight, residual=residual)
        averager.given.append(self.state.pieces())
        if threads.barrier.wait() == 0:
            settle(threads.group, 5.0)  # of local steps, in which the small phases went on
            averager.phases = sorted({str(getattr(one.driver.machine, "phase", "")) for one in threads.group.peers})
        threads.barrier.wait()
        if peer.ended is not None:
            return threads.together(lambda: peer.begin(vector), peer)
        return threads.together(lambda: peer.supply(vector), peer)

    def cancel(self) -> None:
        with self.averager.threads.lock:
            self.averager.peer.driver.cancel(LocalError("given up"))


def learn(
    ahead: bool, act: Callable[[int, int, Training, Averager], None] = lambda place, step, training, averager: None
) -> tuple[list[list[bytes]], list[Averager]]:
    """Every peer's parameters after each round, and who averaged for it."""
    group = simulate(N, training__steps=H, protocol__initial_range=0.5)
    threads = Threads(group)
    made: dict[int, Averager] = {}

    def program(place: int) -> list[bytes]:
        draw = torch.Generator().manual_seed(place)
        weights = torch.Generator().manual_seed(99)  # all begin alike, as after joining
        model = torch.nn.Linear(4, 2)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=weights))
        specs = tuple(TensorSpec(name, tuple(one.shape), "float32") for name, one in model.named_parameters())
        averager = made[place] = Averager(threads, place, specs)
        optimizer = torch.optim.SGD(model.parameters(), 0.05)
        training = attach(averager, model, optimizer, ahead=ahead)
        training.prepare()
        seen = []
        for step in range(H * ROUNDS):
            inputs = torch.randn((8, 4), generator=draw)
            optimizer.zero_grad()
            torch.autograd.backward((model(inputs) - inputs[:, :2] * (place + 1)).square().mean())
            optimizer.step()
            act(place, step, training, averager)
            if (step + 1) % H == 0:
                seen.append(b"".join(one.detach().numpy().tobytes() for one in model.parameters()))
        threads.barrier.wait()
        training.finish()
        return seen

    with ThreadPoolExecutor(N) as pool:
        ended = [pool.submit(program, place) for place in range(N)]
        return [one.result(DEADLINE) for one in ended], [made[place] for place in range(N)]


def test_rounds_ahead_give_the_parameters_that_rounds_after_the_steps_give() -> None:
    plain, _ = learn(False)
    ahead, averagers = learn(True)
    assert ahead == plain
    assert all(seen == ahead[0] for seen in ahead)
    assert len(set(ahead[0])) == ROUNDS  # every round moved them
    for averager in averagers:
        assert averager.prepared[:-1] == averager.given  # the common state stood still under the local steps
        assert len(averager.given) == ROUNDS
    assert {phase for averager in averagers for phase in averager.phases} == {"masked"}


def test_what_was_prepared_is_given_up_for_another_average_and_at_the_end() -> None:
    def act(place: int, step: int, training: Training, averager: Averager) -> None:
        if step == H:  # in the second round's local steps
            training.give_up()
            averager.threads.barrier.wait()
            assert isinstance(averager.peer.ended, DecentraError)
            assert not averager.peer.ended.spent
            averager.threads.barrier.wait()

    ahead, averagers = learn(True, act)
    assert all(seen == ahead[0] for seen in ahead)
    assert len(set(ahead[0])) == ROUNDS
    for averager in averagers:
        assert len(averager.given) == ROUNDS - 1  # the second round began with its update
        assert not averager.peer.session.busy


def test_after_a_round_that_failed_the_next_begins_with_its_update() -> None:
    calls: list[str] = []

    class Failing:
        """A group of one whose first prepared round fails with nothing spent."""

        charter: Any = simulate(3, training__steps=1).charter

        def log(self) -> logging.Logger:
            return logging.getLogger("decentra")

        def prepare(self, *, names: Sequence[str] | None = None, state: SharedState | None = None) -> Failing:
            calls.append("prepare")
            return self

        def cancel(self) -> None:
            calls.append("cancel")

        def average(self, tensors: Sequence[NDArray[np.float32]], **given: Any) -> RoundResult:
            calls.append("with all" if "names" in given else "ahead")
            error = DecentraError if "names" in given else LocalError
            raise error("it fails")

    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    training = attach(Failing(), model, optimizer, ahead=True)
    training.prepare()
    for error in (LocalError, DecentraError):
        with pytest.raises(error):
            optimizer.step()
    training.finish()
    assert calls == ["prepare", "ahead", "with all"]
