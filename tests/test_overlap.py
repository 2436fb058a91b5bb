"""Rounds that go on beside local steps: the model keeps its way, all peers the same common parameters."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from averaging import DEADLINE, LOG, Group, Peer, Terms, local_step, network, peer_id, same_bits, together, values_of
from decentra.errors import DecentraError, LocalError, Unavailable
from decentra.training import Leaving, OuterSGD, OuterState, attach
from decentra.training.flight import Flight

PLAIN = Terms(steps=2, outer_lr=1.0, outer_momentum=0.0, nesterov=False)


def spent(error: DecentraError, whether: bool) -> DecentraError:
    vars(error)["spent"] = whether
    return error


class Held(Peer):
    """A peer whose rounds end when the test says so."""

    def __init__(self, group: Group, index: int) -> None:
        super().__init__(group, index)
        self.go = threading.Event()

    @contextmanager
    def round(self) -> Iterator[None]:
        assert self.go.wait(DEADLINE)
        self.go.clear()
        yield


def alone(terms: Terms = PLAIN) -> tuple[Group, Held, torch.nn.Module, torch.optim.Optimizer]:
    group = Group(1, terms)
    model = network(1)
    return group, Held(group, 0), model, torch.optim.SGD(model.parameters(), 0.1)


@pytest.mark.parametrize("terms", [Terms(steps=3), Terms(steps=1), Terms(steps=2, outer="adam", outer_lr=0.01)])
def test_all_peers_end_with_equal_bits(terms: Terms) -> None:
    group, models = Group(3, terms), [network(seed) for seed in (1, 2, 3)]
    told: list[str] = []

    def program(peer: Peer) -> None:
        model = models[peer.index]
        optimizer = torch.optim.SGD(model.parameters(), 0.05)
        training = attach(peer, model, optimizer, overlap=True)
        for step in range(4 * terms.steps + (terms.steps > 1)):
            local_step(model, optimizer, peer.index, step)
        training.finish()
        told.append(training.summary().parameters)

    together(group, program)
    assert all(same_bits(values_of(models[0]), values_of(model)) for model in models)
    assert len(set(told)) == 1 and [len(digests) for digests in group.digests] == [1] * 4


def test_the_next_steps_do_not_wait_and_the_round_moves_the_model_when_it_is_over() -> None:
    """A lone peer's mean is its own update, so that with plain averaging nothing moves it."""
    _, peer, model, optimizer = alone()
    twin = network(1)
    free = torch.optim.SGD(twin.parameters(), 0.1)
    training = attach(peer, model, optimizer, overlap=True)
    for step in range(3):
        local_step(model, optimizer, 0, step)
        local_step(twin, free, 0, step)
    assert training.summary().rounds == 0 and peer.calls == 0  # under way, and nobody waited
    peer.go.set()
    training.give_up()  # waits for it
    assert training.summary().rounds == 1
    for mine, other in zip(values_of(model), values_of(twin), strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-6)
    training.go_back()
    assert training.state.digest() == Leaving(model).digest()


def test_a_delayed_outer_step_is_added_to_the_way_since_the_departure() -> None:
    """Against the same arithmetic in the open: local ← local + (common after − local at the departure)."""
    terms = Terms(steps=2, outer_lr=0.5, outer_momentum=0.0, nesterov=False)
    _, peer, model, optimizer = alone(terms)
    begun = values_of(model)
    training = attach(peer, model, optimizer, overlap=True)
    for step in range(2):
        local_step(model, optimizer, 0, step)
    departed = values_of(model)
    local_step(model, optimizer, 0, 2)
    since = values_of(model)
    peer.go.set()
    training.give_up()
    for x, sent, now, after in zip(begun, departed, since, values_of(model), strict=True):
        common = x - 0.5 * (x - sent)
        np.testing.assert_allclose(after, now + (common - sent), atol=1e-6)


@pytest.mark.parametrize("gone", [True, False])
def test_after_a_round_that_failed_only_what_was_spent_is_lost(gone: bool) -> None:
    group, peer, model, optimizer = alone()
    group.failures[1] = lambda _: spent(Unavailable([peer_id(7)], 3.0, "its deal", "check that it runs"), gone)
    begun = values_of(model)
    training = attach(peer, model, optimizer, overlap=True)
    for step in range(2):
        local_step(model, optimizer, 0, step)
    departed = values_of(model)
    local_step(model, optimizer, 0, 2)
    since = values_of(model)
    peer.go.set()
    training.give_up()
    assert training.summary().failed == 1 and training.kept == (1 if gone else 3)
    for x, sent, now, after in zip(begun, departed, since, values_of(model), strict=True):
        np.testing.assert_allclose(after, now + (x - sent) if gone else now, atol=1e-6)


def test_an_error_of_ones_own_comes_out_of_a_later_step() -> None:
    group, peer, model, optimizer = alone()
    group.failures[1] = lambda _: LocalError("raise the charter's initial_range")
    training = attach(peer, model, optimizer, overlap=True)
    for step in range(3):
        local_step(model, optimizer, 0, step)
    peer.go.set()
    with pytest.raises(LocalError, match="initial_range"):
        training.give_up()
    peer.go.set()
    for step in range(3, 5):  # and training goes on
        local_step(model, optimizer, 0, step)
    training.give_up()
    assert training.summary().rounds == 1


def test_an_interrupt_of_the_wait_ends_the_round(monkeypatch: pytest.MonkeyPatch) -> None:
    _, peer, model, optimizer = alone()
    ended: list[str] = []
    training = attach(peer, model, optimizer, overlap=True)
    for step in range(3):
        local_step(model, optimizer, 0, step)
    monkeypatch.setattr(Peer, "interrupt", lambda self: (ended.append("interrupted"), peer.go.set()))

    def interrupted(self: Flight) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Flight, "wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            local_step(model, optimizer, 0, 3)
    assert ended == ["interrupted"]
    training.finish()


def test_an_interrupt_ends_training_whole_though_its_round_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    group, peer, model, optimizer = alone()
    group.failures[1] = lambda _: LocalError("its owner interrupted it")
    training = attach(peer, model, optimizer, overlap=True)
    for step in range(3):
        local_step(model, optimizer, 0, step)
    monkeypatch.setattr(Peer, "interrupt", lambda self: peer.go.set())

    def interrupted(self: Flight) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Flight, "wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            local_step(model, optimizer, 0, 3)
    training.finish()
    assert training.state.digest() == Leaving(model).digest()


def test_an_error_of_ones_own_leaves_the_model_at_the_common_parameters_at_the_end() -> None:
    group, peer, model, optimizer = alone()
    group.failures[1] = lambda _: LocalError("raise the charter's initial_range")
    training = attach(peer, model, optimizer, overlap=True)
    for step in range(3):
        local_step(model, optimizer, 0, step)
    peer.go.set()
    with pytest.raises(LocalError, match="initial_range"):
        training.finish()
    assert training.state.digest() == Leaving(model).digest()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_state_of_another_origin_ends_what_was_made_on_the_old_one(dtype: torch.dtype) -> None:
    ours, theirs = network(1, dtype), network(2, dtype)

    def choose(name: str) -> OuterSGD:
        return OuterSGD(1.0)

    leaving = Leaving(ours)
    state, other = OuterState(leaving, choose, LOG), OuterState(Leaving(theirs), choose, LOG)
    sent = memoryview(b"".join(part.tobytes() for part in other.export()))
    flight = Flight(leaving, state, lambda: state.adopt(sent))
    flight.wait()
    assert not same_bits(values_of(ours), values_of(theirs))  # nobody writes into the model meanwhile
    flight.land()
    assert same_bits(values_of(ours), values_of(theirs)) and state.pieces() == other.pieces()


def test_beside_a_round_a_model_costs_two_copies_in_its_own_dtype() -> None:
    model = torch.nn.Linear(8, 8, bias=False, dtype=torch.bfloat16)
    leaving = Leaving(model)
    copy = leaving.copy()
    with torch.no_grad():
        model.weight.add_(1.0)
    assert not same_bits([leaving.read(0)], [copy.read(0)])
    assert leaving.digest() != copy.digest() and copy._tensors[0].dtype == torch.bfloat16
