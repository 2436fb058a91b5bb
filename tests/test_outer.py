"""Outer optimisers: Adam to the bit, what the charter chooses for each tensor, warming up, and rounds by time."""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from averaging import LOG, Group, Peer, Terms, local_step, network, same_bits, together, values_of
from decentra.charter.charter import OuterTerms
from decentra.errors import LocalError
from decentra.training import Leaving, OuterAdam, OuterSGD, OuterState, attach
from decentra.training.common import HEADER
from decentra.training.outer import CHUNK, chosen

numbers = st.floats(min_value=-(2.0**30), max_value=2.0**30, width=32)


def rounded(value: float) -> float:
    """One rounding of an exact double to float32: for +, −, ×, ÷ and √ a second one changes nothing."""
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def reference_step(x: float, m: float, v: float, delta: float, adam: OuterAdam) -> tuple[float, float, float]:
    lr, one, two, tau = (rounded(value) for value in (adam.lr, adam.beta1, adam.beta2, adam.tau))
    m = rounded(rounded(one * m) + rounded(rounded(1 - one) * delta))
    v = rounded(rounded(two * v) + rounded(rounded(delta * delta) * rounded(1 - two)))
    s = rounded(m / rounded(rounded(math.sqrt(v)) + tau))
    return rounded(x - rounded(s * lr)), m, v


@given(
    rows=st.lists(st.tuples(numbers, st.lists(numbers, min_size=3, max_size=3)), min_size=1, max_size=30),
    lr=st.floats(0.001, 2.0),
    betas=st.tuples(st.floats(0.0, 0.99), st.floats(0.0, 0.999)),
    tau=st.floats(1e-4, 1.0),
)
def test_adam_equals_a_scalar_reference_to_the_bit(
    rows: list[tuple[float, list[float]]], lr: float, betas: tuple[float, float], tau: float
) -> None:
    adam = OuterAdam(lr, *betas, tau)
    common = np.array([x for x, _ in rows], np.float32)
    slots = [np.empty_like(common), np.empty_like(common)]
    adam.begin(slots)
    assert not slots[0].any() and set(slots[1].tolist()) == {rounded(rounded(tau) * rounded(tau))}
    expected = [(x, 0.0, float(slots[1][0])) for x, _ in rows]
    for step in range(3):
        deltas = [update[step] for _, update in rows]
        adam.step(common, slots, np.array(deltas, np.float32))
        expected = [reference_step(*one, delta, adam) for one, delta in zip(expected, deltas, strict=True)]
    for array, column in zip((common, *slots), zip(*expected, strict=True), strict=True):
        assert array.tobytes() == struct.pack(f"<{len(rows)}f", *column)


def test_adams_bits_do_not_depend_on_how_the_vector_is_cut() -> None:
    draw = np.random.default_rng(3)
    whole, update = (draw.standard_normal(2 * CHUNK + 17).astype(np.float32) for _ in range(2))
    parts, adam = whole.copy(), OuterAdam(0.1)
    slots, cut = ([np.empty_like(whole), np.empty_like(whole)] for _ in range(2))
    adam.begin(slots)
    adam.begin(cut)
    adam.step(whole, slots, update)
    for start, end in [(0, 1), (1, CHUNK + 5), (CHUNK + 5, whole.size)]:
        adam.step(parts[start:end], [slot[start:end] for slot in cut], update[start:end])
    assert same_bits([whole, *slots], [parts, *cut])


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"lr": 0.0}, "outer_lr"),
        ({"lr": 1.0, "beta1": 1.0}, "outer_momentum"),
        ({"lr": 1.0, "beta2": 1.0}, "outer_beta2"),
        ({"lr": 1.0, "tau": 0.0}, "outer_tau"),
        ({"lr": 1.0, "tau": 1e-30}, "outer_tau"),
    ],
)
def test_numbers_that_make_no_adam_are_refused(given_: dict[str, float], message: str) -> None:
    with pytest.raises(LocalError, match=message):
        OuterAdam(**given_)


def test_an_outer_step_refuses_arrays_that_do_not_fit() -> None:
    three, four = np.zeros(3, np.float32), np.zeros(4, np.float32)
    for outer, slots, update in [
        (OuterSGD(1.0), [], four),
        (OuterSGD(1.0, 0.5), [], three),
        (OuterAdam(1.0), [three], three),
        (OuterAdam(1.0), [three, four], three),
    ]:
        with pytest.raises(LocalError, match="one length"):
            outer.step(three, slots, update)


def test_the_charter_chooses_an_outer_optimiser_for_each_tensor() -> None:
    terms = Terms(outer_lr=0.7, outer_momentum=0.9)
    still, slow = OuterTerms(outer_momentum=0.0), OuterTerms(outer_lr=0.1)
    tensors = {"*.bias": still, "2.*": slow, "2.bias": OuterTerms(outer_lr=1.0)}
    assert chosen(terms, tensors, "0.weight") == OuterSGD(0.7, 0.9, True)
    assert chosen(terms, tensors, "0.bias") == OuterSGD(0.7, 0.0, True)
    assert chosen(terms, tensors, "2.weight") == OuterSGD(0.1, 0.9, True)
    assert chosen(terms, tensors, "2.bias") == OuterSGD(1.0, 0.9, True)  # the longest pattern alone decides
    adam = Terms(outer="adam", outer_lr=0.01, outer_momentum=0.9, outer_tau=0.1)
    assert chosen(adam, {}, "x") == OuterAdam(0.01, 0.9, 0.99, 0.1)


def run(terms: Terms, steps: int, n: int = 3) -> list[torch.nn.Module]:
    """A group that trains; each peer's model."""
    group, models = Group(n, terms), [network(1) for _ in range(n)]

    def program(peer: Peer) -> None:
        optimizer = torch.optim.SGD(models[peer.index].parameters(), 0.05)
        training = attach(peer, models[peer.index], optimizer)
        for step in range(steps):
            local_step(models[peer.index], optimizer, peer.index, step)
        training.finish()

    together(group, program)
    return models


@pytest.mark.parametrize(
    "terms",
    [
        Terms(steps=2, outer="adam", outer_lr=0.01),
        Terms(steps=2, tensors={"*.bias": OuterTerms(outer_momentum=0.0)}),
        Terms(steps=2, warmup=2),
    ],
)
def test_all_peers_end_with_equal_bits_under(terms: Terms) -> None:
    models = run(terms, 8)
    assert all(same_bits(values_of(models[0]), values_of(model)) for model in models)
    assert not same_bits(values_of(models[0]), values_of(run(Terms(steps=2), 8)[0]))


def test_the_first_rounds_take_the_mean_itself_where_the_charter_warms_up() -> None:
    plain = Terms(steps=2, outer_lr=1.0, outer_momentum=0.0, nesterov=False)
    warm = run(Terms(steps=2, warmup=2), 4)
    assert same_bits(values_of(warm[0]), values_of(run(plain, 4)[0]))
    assert not same_bits(values_of(run(Terms(steps=2, warmup=2), 6)[0]), values_of(run(plain, 6)[0]))


def test_a_state_with_adams_arrays_is_taken_over_whole() -> None:
    ours, theirs = network(1), network(1)

    def choose(name: str) -> OuterAdam:
        return OuterAdam(0.01)

    state, other = OuterState(Leaving(ours), choose, LOG), OuterState(Leaving(theirs), choose, LOG)
    mean = [np.full(spec.shape, 0.25, np.float32) for spec in Leaving(ours).specs]
    other.advance(mean)
    state.adopt(memoryview(b"".join(part.tobytes() for part in other.export())))
    assert state.pieces() == other.pieces()
    for one in (state, other):
        one.advance(mean)
    assert state.pieces() == other.pieces()


@pytest.mark.parametrize("how", ["steps beyond count", "Adam's v below 0", "NaN in a common tensor", "no yes or no"])
def test_a_state_that_no_step_comes_to_is_refused_and_changes_nothing(how: str) -> None:
    def build() -> torch.nn.Module:
        model = network(1)
        model.register_buffer("scale", torch.ones(3))
        model.register_buffer("mask", torch.ones(2, dtype=torch.bool))
        return model

    def state_of(model: torch.nn.Module) -> OuterState:
        return OuterState(Leaving(model, {"scale": "common", "mask": "common"}), lambda name: OuterAdam(0.01), LOG)

    model = build()
    state = state_of(model)
    good = bytearray(b"".join(part.tobytes() for part in state.export()))
    size, bad = state._leaving.size, bytearray(good)
    match how:
        case "steps beyond count":
            bad[16:24] = b"\xff" * 8
        case "Adam's v below 0":
            bad[HEADER + 8 * size : HEADER + 8 * size + 4] = struct.pack("<f", -1.0)
        case "NaN in a common tensor":
            bad[-14:-10] = struct.pack("<f", math.nan)
        case _:
            bad[-1] = 2
    before = [tensor.clone() for tensor in model.state_dict().values()]
    with pytest.raises(LocalError, match="what no step comes to"):
        state.adopt(memoryview(bad))
    assert b"".join(part.tobytes() for part in state.export()) == good
    assert all(map(torch.equal, model.state_dict().values(), before))
    state.adopt(memoryview(good))


def test_where_seconds_decide_a_round_begins_by_time_and_weighs_the_steps_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """Peers of unlike speed: so many steps fit into the same ten seconds."""
    now, weights = [0.0], [[], [], []]  # type: ignore[var-annotated]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    for place, took in enumerate((1.0, 2.5, 11.0)):
        group = Group(1, Terms(steps=10, seconds=10.0), max_weight=8)
        model = network(1)
        optimizer = torch.optim.SGD(model.parameters(), 0.05)
        training = attach(group.peers[0], model, optimizer)
        for step in range(20):
            now[0] += took
            local_step(model, optimizer, 0, step)
        weights[place] = [training.summary().rounds, *group.peers[0].weights[:2]]
    assert weights == [[2, 8, 8], [5, 3, 3], [20, 1, 1]]


def test_steps_of_a_round_that_failed_with_nothing_spent_weigh_in_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    now: Sequence[float] = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    group = Group(1, Terms(steps=8, seconds=4.0), max_weight=8)
    error = LocalError("not now")
    vars(error)["spent"] = False
    group.failures[1] = lambda _: error
    model = network(1)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    attach(group.peers[0], model, optimizer)
    for step in range(8):
        now[0] += 1.0  # type: ignore[index]
        if step == 3:
            with pytest.raises(LocalError, match="not now"):
                local_step(model, optimizer, 0, step)
        else:
            local_step(model, optimizer, 0, step)
    assert group.peers[0].weights == [4, 8]
