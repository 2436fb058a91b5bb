"""Training together: the outer optimiser's bits, what leaves and what stays, and rounds that fail."""

from __future__ import annotations

import hashlib
import logging
import struct
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from averaging import (
    LOG,
    Group,
    Peer,
    Terms,
    batch,
    local_step,
    network,
    peer_id,
    same_bits,
    together,
    values_of,
)
from decentra.errors import DecentraError, LocalError, RemoteError, Unavailable
from decentra.machine.state import piece_digests
from decentra.training import Leaving, OuterSGD, OuterState, SharedState, Training, attach
from decentra.training.outer import CHUNK
from decentra.types import RoundResult, TensorSpec

# The outer optimiser, to the bit.

numbers = st.floats(min_value=-(2.0**60), max_value=2.0**60, width=32)


def rounded(value: float) -> float:
    """One rounding of an exact double to float32; twice 24 bits and 2 more fit into 53, so no rounding is doubled."""
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def reference_step(x: float, m: float, delta: float, lr: float, mu: float, nesterov: bool) -> tuple[float, float]:
    lr, mu = rounded(lr), rounded(mu)
    if mu == 0:
        return rounded(x - rounded(lr * delta)), m
    m = rounded(rounded(mu * m) + delta)
    ahead = rounded(delta + rounded(mu * m)) if nesterov else m
    return rounded(x - rounded(lr * ahead)), m


@given(
    rows=st.lists(st.tuples(numbers, st.lists(numbers, min_size=3, max_size=3)), min_size=1, max_size=40),
    lr=st.floats(0.01, 2.0),
    mu=st.one_of(st.just(0.0), st.floats(0.0, 0.99)),
    nesterov=st.booleans(),
)
def test_outer_steps_equal_a_scalar_reference_to_the_bit(
    rows: list[tuple[float, list[float]]], lr: float, mu: float, nesterov: bool
) -> None:
    outer = OuterSGD(lr, mu, nesterov)
    common = np.array([x for x, _ in rows], np.float32)
    slots = [np.zeros_like(common) for _ in range(outer.slots)]
    expected = [(x, 0.0) for x, _ in rows]
    for step in range(3):
        deltas = [update[step] for _, update in rows]
        outer.step(common, slots, np.array(deltas, np.float32))
        expected = [
            reference_step(x, m, delta, lr, mu, nesterov) for (x, m), delta in zip(expected, deltas, strict=True)
        ]
    assert common.tobytes() == struct.pack(f"<{len(rows)}f", *(x for x, _ in expected))
    for momentum in slots:
        assert momentum.tobytes() == struct.pack(f"<{len(rows)}f", *(m for _, m in expected))


def test_outer_steps_are_pinned() -> None:
    common, momentum = np.array([1.0, -0.1, 3e-39], np.float32), np.zeros(3, np.float32)
    for _ in range(3):
        OuterSGD(0.7, 0.9, nesterov=True).step(common, [momentum], np.array([0.3, 1e-7, -2e-39], np.float32))
    assert common.tobytes().hex() == "dab630bf18cdccbd0f5f9b00"
    assert momentum.tobytes().hex() == "c520503ff57d9134c2043b80"


@pytest.mark.parametrize("nesterov", [False, True])
def test_the_bits_do_not_depend_on_how_the_vector_is_cut(nesterov: bool) -> None:
    draw = np.random.default_rng(3)
    whole = draw.standard_normal(2 * CHUNK + 17).astype(np.float32)
    update = draw.standard_normal(whole.size).astype(np.float32)
    parts, momentum, momentum_of_parts = whole.copy(), np.ones_like(whole), np.ones_like(whole)
    outer = OuterSGD(0.7, 0.9, nesterov)
    outer.step(whole, [momentum], update)
    for start, end in [(0, 1), (1, 1000), (1000, CHUNK + 5), (CHUNK + 5, whole.size)]:
        outer.step(parts[start:end], [momentum_of_parts[start:end]], update[start:end])
    assert same_bits([whole, momentum], [parts, momentum_of_parts])


def test_an_outer_step_needs_little_memory_beside_its_arrays() -> None:
    common, momentum, update = (np.ones(4_000_000, np.float32) for _ in range(3))
    tracemalloc.start()
    try:
        OuterSGD(0.7, 0.9, nesterov=True).step(common, [momentum], update)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_a_thread_that_flushes_subnormals_is_refused() -> None:
    if not torch.set_flush_denormal(True):
        return  # this processor cannot, so it cannot differ either
    try:
        with pytest.raises(LocalError, match="set_flush_denormal"):
            OuterSGD(1.0).step(np.ones(1, np.float32), [], np.ones(1, np.float32))
    finally:
        torch.set_flush_denormal(False)


@pytest.mark.parametrize(
    ("lr", "mu"), [(0.0, 0.0), (-1.0, 0.0), (float("nan"), 0.0), (1e-60, 0.0), (1.0, 1.0), (1.0, -0.1)]
)
def test_numbers_that_make_no_outer_step_are_refused(lr: float, mu: float) -> None:
    with pytest.raises(LocalError, match="charter's outer_"):
        OuterSGD(lr, mu)


# What leaves.


class Tied(torch.nn.Module):
    """An embedding tied to the head, a frozen layer, and buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(7, 4)
        self.norm = torch.nn.BatchNorm1d(4)
        self.frozen = torch.nn.Linear(4, 4).requires_grad_(False)
        self.head = torch.nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight
        self.scale = torch.nn.Parameter(torch.tensor(1.5))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.frozen(self.norm(self.embedding(tokens)))) * self.scale


def test_trained_parameters_leave_once_and_nothing_else_does() -> None:
    leaving = Leaving(Tied())
    assert leaving.specs == (
        TensorSpec("scale", (), "float32"),
        TensorSpec("embedding.weight", (7, 4), "float32"),
        TensorSpec("norm.weight", (4,), "float32"),
        TensorSpec("norm.bias", (4,), "float32"),
    )
    assert leaving.size == 1 + 28 + 4 + 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_values_come_and_go_without_loss(dtype: torch.dtype) -> None:
    model = network(1, dtype)
    model[0].weight.data = model[0].weight.data.t().contiguous().t()  # row-major order whatever the strides
    leaving = Leaving(model)
    before = values_of(model)
    assert same_bits(before, [leaving.read(index) for index in range(len(leaving))])
    assert leaving.digest() == hashlib.sha256(b"".join(value.tobytes() for value in before)).digest()
    for index, value in enumerate(before):
        leaving.write(index, value * 2)
    assert same_bits([value * 2 for value in before], values_of(model))


def test_rounding_to_the_models_dtype_is_no_progress() -> None:
    model = network(1, torch.bfloat16)
    leaving = Leaving(model)
    common = np.random.default_rng(1).standard_normal(15).astype(np.float32)  # finer than bfloat16
    leaving.write(0, common)
    assert not leaving.progress(0, common).any()
    assert (leaving.read(0).reshape(-1) != common).any()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (torch.nn.Linear(2, 2).requires_grad_(False), "unfreeze"),
        (torch.nn.Linear(2, 2).double(), "'weight' is float64"),
        (torch.nn.Linear(2, 2, device="meta"), "'weight' has no dense values"),
    ],
)
def test_models_that_cannot_be_averaged_are_refused(model: torch.nn.Module, message: str) -> None:
    with pytest.raises(LocalError, match=message):
        Leaving(model)


# The common state.


def common_of(model: torch.nn.Module, mu: float = 0.9) -> OuterState:
    return OuterState(Leaving(model), lambda name: OuterSGD(1.0, mu), LOG)


def exported(state: SharedState) -> bytes:
    return b"".join(part.tobytes() for part in state.export())


@pytest.mark.parametrize("mu", [0.0, 0.9])
def test_the_digest_is_the_hash_of_what_is_exported(mu: float) -> None:
    state = common_of(network(1), mu)
    assert len(exported(state)) == state.nbytes
    assert state.pieces() == piece_digests([np.frombuffer(exported(state), np.uint8)])
    before = state.pieces()
    state.advance([np.ones(spec.shape, np.float32) for spec in Leaving(network(1)).specs])
    assert state.pieces() == piece_digests([np.frombuffer(exported(state), np.uint8)]) != before
    assert state.rounds == int.from_bytes(exported(state)[16:24], "little") == 1


@pytest.mark.parametrize("mu", [0.0, 0.9])
def test_an_update_that_a_round_went_on_without_stays_ones_own_progress(mu: float) -> None:
    ours, others = network(1), network(1)
    state, other = common_of(ours, mu), common_of(others, mu)
    mean = [np.full(spec.shape, 0.25, np.float32) for spec in Leaving(ours).specs]
    local_step(ours, torch.optim.SGD(ours.parameters(), 0.1), 0, 0)
    before = list(state.update())
    state.advance(mean, keep=True)
    other.advance(mean)
    assert state.pieces() == other.pieces(), "the common state is everybody's"
    for was, remains in zip(before, state.update(), strict=True):
        np.testing.assert_allclose(remains, was, atol=1e-6)
        assert was.any()


def test_adopting_another_origin_drops_the_steps_made_from_ones_own() -> None:
    ours, theirs = network(1), network(2)
    state, other = common_of(ours), common_of(theirs)
    other.advance([np.full(spec.shape, 0.25, np.float32) for spec in Leaving(theirs).specs])
    local_step(ours, torch.optim.SGD(ours.parameters(), 0.1), 0, 0)
    update = state.update()
    state.adopt(memoryview(exported(other)))
    assert state.pieces() == other.pieces()
    assert same_bits(values_of(ours), values_of(theirs))
    assert not any(value.any() for value in update)


def test_adopting_missed_rounds_keeps_ones_own_progress() -> None:
    ours, theirs = network(1), network(1)
    state, other = common_of(ours), common_of(theirs)
    other.advance([np.full(spec.shape, 0.25, np.float32) for spec in Leaving(theirs).specs])
    local_step(ours, torch.optim.SGD(ours.parameters(), 0.1), 0, 0)
    update = state.update()
    before = list(update)
    state.adopt(memoryview(exported(other)))
    assert state.pieces() == other.pieces()
    assert all(value.any() for value in before)
    for new, old in zip(update, before, strict=True):
        np.testing.assert_allclose(new, old, atol=1e-6)
    for mine, common, progress in zip(values_of(ours), values_of(theirs), before, strict=True):
        np.testing.assert_allclose(mine, common - progress, atol=1e-6)


def spoilt(data: bytes, how: str) -> bytes:
    return {
        "short": data[:-1],
        "long": data + b"\0",
        "empty": b"",
        "other format": b"x" + data[1:],
        "NaN": data[:-4] + struct.pack("<f", float("nan")),
        "inf": data[:-4] + struct.pack("<f", float("-inf")),
    }[how]


@pytest.mark.parametrize("how", ["short", "long", "empty", "other format", "NaN", "inf"])
def test_bytes_that_are_no_common_state_are_refused_and_change_nothing(how: str) -> None:
    model = network(1)
    state, values = common_of(model), values_of(model)
    before, good = exported(state), exported(common_of(network(2)))
    with pytest.raises(LocalError, match="the common state received"):
        state.adopt(memoryview(spoilt(good, how)))
    assert exported(state) == before
    assert same_bits(values, values_of(model))
    state.adopt(memoryview(good))
    assert exported(state) == good


def test_a_mean_of_other_shapes_is_refused() -> None:
    state = common_of(network(1))
    before = state.pieces()
    with pytest.raises(LocalError, match="shapes"):
        state.advance([np.ones((3, 5), np.float32)])
    assert piece_digests([np.frombuffer(exported(state), np.uint8)]) == before


# Rounds.


def reference_diloco(seeds: Sequence[int], terms: Terms, rounds: int, lr: float) -> list[NDArray[np.float64]]:
    """DiLoCo in float64; whoever starts from another seed than the first peer contributes nothing to round 1."""
    models = [network(seed).double() for seed in seeds]
    optimizers = [torch.optim.SGD(model.parameters(), lr) for model in models]
    own = [[p.detach().numpy().copy() for p in model.parameters()] for model in models]
    common = own[0]
    momentum = [np.zeros_like(value) for value in common]
    for number in range(rounds):
        deltas = []
        for peer, (model, optimizer) in enumerate(zip(models, optimizers, strict=True)):
            for step in range(terms.steps):
                local_step(model, optimizer, peer, number * terms.steps + step)
            stranger = number == 0 and seeds[peer] != seeds[0]
            ends = [p.detach().numpy() for p in model.parameters()]
            deltas.append([(x - end) * (not stranger) for x, end in zip(common, ends, strict=True)])
        for index, column in enumerate(zip(*deltas, strict=True)):
            delta = np.mean(column, axis=0)
            momentum[index] = terms.outer_momentum * momentum[index] + delta
            ahead = delta + terms.outer_momentum * momentum[index] if terms.nesterov else momentum[index]
            common[index] = common[index] - terms.outer_lr * ahead
        for model in models:
            with torch.no_grad():
                for parameter, value in zip(model.parameters(), common, strict=True):
                    parameter.copy_(torch.from_numpy(value))
    return common


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("seeds", [(1, 1, 1, 1), (1, 2, 3, 4)])
def test_four_peers_end_with_equal_bits_and_follow_diloco(seeds: tuple[int, ...], nesterov: bool) -> None:
    terms = Terms(nesterov=nesterov)
    group, models = Group(4, terms), [network(seed) for seed in seeds]
    trainings: dict[int, Training] = {}

    def program(peer: Peer) -> None:
        model = models[peer.index]
        optimizer = torch.optim.SGD(model.parameters(), 0.05)
        training = trainings[peer.index] = attach(peer, model, optimizer)
        for step in range(5 * terms.steps + 3):
            local_step(model, optimizer, peer.index, step)
        training.finish()

    together(group, program)
    assert all(same_bits(values_of(models[0]), values_of(model)) for model in models)
    assert [len(digests) for digests in group.digests] == [1] * 5
    for ours, exact in zip(values_of(models[0]), reference_diloco(seeds, terms, 5, 0.05), strict=True):
        np.testing.assert_allclose(ours, exact, atol=2e-5)
    summaries = [trainings[index].summary() for index in range(4)]
    assert {(s.rounds, s.failed, s.bytes_sent, s.bytes_received) for s in summaries} == {(5, 0, 500, 1000)}
    expected = hashlib.sha256(b"".join(value.tobytes() for value in values_of(models[0]))).hexdigest()
    assert {s.parameters for s in summaries} == {expected}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_end_with_equal_bits(dtype: torch.dtype) -> None:
    group, models = Group(3, Terms(steps=2)), [network(seed, dtype) for seed in (1, 2, 3)]

    def program(peer: Peer) -> None:
        optimizer = torch.optim.AdamW(models[peer.index].parameters(), 0.01)
        training = attach(peer, models[peer.index], optimizer)
        for step in range(9):
            local_step(models[peer.index], optimizer, peer.index, step)
        training.finish()

    together(group, program)
    assert all(same_bits(values_of(models[0]), values_of(model)) for model in models)
    assert all(parameter.dtype == dtype for parameter in models[0].parameters())
    assert not same_bits(values_of(models[0]), values_of(network(1, dtype)))


def test_one_step_a_round_with_plain_averaging_is_the_mean_of_the_parameters() -> None:
    group = Group(4, Terms(steps=1, outer_lr=1.0, outer_momentum=0.0, nesterov=False))
    models = [network(1) for _ in range(4)]

    def program(peer: Peer) -> None:
        model = models[peer.index]
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        attach(peer, model, optimizer)
        for step in range(3):
            local_step(model, optimizer, peer.index, step)

    together(group, program)
    alone = network(1)  # a plain mean of the four models after each step
    for step in range(3):
        ends = []
        for peer in range(4):
            model = network(1)
            model.load_state_dict(alone.state_dict())
            local_step(model, torch.optim.SGD(model.parameters(), 0.1), peer, step)
            ends.append(values_of(model))
        with torch.no_grad():
            for parameter, column in zip(alone.parameters(), zip(*ends, strict=True), strict=True):
                parameter.copy_(torch.from_numpy(np.mean(column, axis=0, dtype=np.float64).astype(np.float32)))
    for ours, mean in zip(values_of(models[0]), values_of(alone), strict=True):
        np.testing.assert_allclose(ours, mean, atol=1e-6)


# One peer is a group too: what the hook does around the round.


def alone(terms: Terms | None = None) -> tuple[Group, Peer]:
    group = Group(1, terms or Terms(steps=2, outer_lr=1.0, outer_momentum=0.0, nesterov=False))
    return group, group.peers[0]


def error_with(error: DecentraError, spent: bool) -> DecentraError:
    vars(error)["spent"] = spent
    return error


FAILURES: dict[str, Callable[[], DecentraError]] = {
    "broken clause": lambda: RemoteError(peer_id(7), "SA-3", "its slice does not match its digest; start a new round"),
    "silence": lambda: Unavailable([peer_id(7)], 3.0, "its deal", "check that it runs"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_after_a_failed_round_a_spent_update_never_leaves_again(name: str, caplog: pytest.LogCaptureFixture) -> None:
    group, peer = alone()
    group.failures[2] = lambda _: error_with(FAILURES[name](), True)
    model = network(1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    training = attach(peer, model, optimizer)
    for step in range(2):
        local_step(model, optimizer, 0, step)
    common = values_of(model)
    with caplog.at_level(logging.WARNING, "decentra"):
        for step in range(2, 4):
            local_step(model, optimizer, 0, step)
    assert same_bits(values_of(model), common)
    (record,) = caplog.records
    assert str(FAILURES[name]()) in record.getMessage()
    assert "07070707" in record.getMessage()
    assert "goes back to the last common parameters" in record.getMessage()
    for step in range(4, 6):
        local_step(model, optimizer, 0, step)
    for value, before, after in zip(peer.contributed[1], common, values_of(model), strict=True):
        np.testing.assert_allclose(value, before - after, atol=1e-6)
    assert (training.summary().rounds, training.summary().failed) == (2, 1)


@pytest.mark.parametrize("name", FAILURES)
def test_after_a_failed_round_an_update_that_did_not_leave_is_contributed_next(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    group, peer = alone()
    group.failures[1] = lambda _: error_with(FAILURES[name](), False)
    model, twin = network(1), network(1)
    optimizer, free = (torch.optim.SGD(each.parameters(), 0.1) for each in (model, twin))
    training = attach(peer, model, optimizer)
    with caplog.at_level(logging.WARNING, "decentra"):
        for step in range(3):
            local_step(model, optimizer, 0, step)
            local_step(twin, free, 0, step)
    assert same_bits(values_of(model), values_of(twin))
    assert len(caplog.records) == 1
    assert "07070707" in caplog.text
    assert "contributes its progress to the next round" in caplog.text
    assert peer.calls == 1
    local_step(model, optimizer, 0, 3)
    local_step(twin, free, 0, 3)
    for value, before, after in zip(peer.contributed[0], values_of(network(1)), values_of(twin), strict=True):
        np.testing.assert_array_equal(value, before - after)
    assert (training.summary().rounds, training.summary().failed) == (1, 1)


def test_all_tell_the_same_parameters_also_who_was_left_out_of_the_sum_and_goes_on() -> None:
    group = Group(3, Terms(steps=2))
    group.left_out.add((2, 2))
    told: list[dict[int, str]] = [{}, {}, {}]

    def program(peer: Peer) -> None:
        model = network(1)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        training = attach(peer, model, optimizer)
        for step in range(6):
            local_step(model, optimizer, peer.index, step)
            if step % 2:
                told[step // 2][peer.index] = training.summary().parameters

    together(group, program)
    assert [len(set(one.values())) for one in told] == [1, 1, 1]
    assert len({one[0] for one in told}) == 3
    assert any(values.any() for values in group.peers[2].contributed[2])


def test_a_peer_that_missed_a_round_catches_up_and_brings_its_progress(caplog: pytest.LogCaptureFixture) -> None:
    terms = Terms(steps=1)
    group, models = Group(3, terms), [network(1) for _ in range(3)]
    group.failures[2] = lambda index: error_with(FAILURES["silence"](), False) if index == 2 else None

    def program(peer: Peer) -> None:
        optimizer = torch.optim.SGD(models[peer.index].parameters(), 0.05)
        training = attach(peer, models[peer.index], optimizer)
        for step in range(4):
            local_step(models[peer.index], optimizer, peer.index, step)
        training.finish()

    with caplog.at_level(logging.WARNING, "decentra"):
        together(group, program)
    assert all(same_bits(values_of(models[0]), values_of(model)) for model in models)
    assert [len(digests) for digests in group.digests] == [1] * 4
    assert sum("its own progress is kept" in record.getMessage() for record in caplog.records) == 1


def test_a_peer_that_starts_anew_catches_up_before_its_first_step_and_contributes_nothing() -> None:
    group, models = Group(3, Terms(steps=1)), [network(1) for _ in range(3)]
    group.failures[2] = lambda index: error_with(FAILURES["silence"](), False) if index == 2 else None
    summaries: dict[int, tuple[int, int]] = {}

    def program(peer: Peer) -> None:
        model = models[peer.index]
        optimizer = torch.optim.SGD(model.parameters(), 0.05)
        training = attach(peer, model, optimizer)
        local_step(model, optimizer, peer.index, 0)
        if peer.index == 2:  # another process of it, which remembers nothing
            models[2] = network(77)
            training = attach(peer, models[2], torch.optim.SGD(models[2].parameters(), 0.05))
            training.catch_up()
        else:
            local_step(model, optimizer, peer.index, 1)
            local_step(model, optimizer, peer.index, 2)
        summaries[peer.index] = training.summary().rounds, training.summary().outer_steps

    together(group, program)
    assert summaries == {0: (3, 3), 1: (3, 3), 2: (1, 3)}  # the first try failed
    assert all(same_bits(values_of(models[0]), values_of(model)) for model in models)
    assert all(not values.any() for values in group.peers[2].contributed[1])
    assert any(values.any() for values in group.peers[0].contributed[1])


def test_errors_of_ones_own_come_out_of_the_step_and_the_next_step_tries_again() -> None:
    group, peer = alone()
    group.failures[1] = lambda _: LocalError("coordinate 3 is above the range: raise the charter's initial_range")
    model, twin = network(1), network(1)
    optimizer, free = (torch.optim.SGD(each.parameters(), 0.1) for each in (model, twin))
    training = attach(peer, model, optimizer)
    local_step(model, optimizer, 0, 0)
    with pytest.raises(LocalError, match="initial_range"):
        local_step(model, optimizer, 0, 1)
    for step in range(2):
        local_step(twin, free, 0, step)
    assert same_bits(values_of(model), values_of(twin))
    local_step(model, optimizer, 0, 2)
    assert (peer.calls, training.summary().rounds, training.summary().failed) == (2, 1, 0)


def test_after_an_interrupted_round_the_update_counts_as_spent() -> None:
    group, peer = alone()
    group.failures[1] = lambda _: KeyboardInterrupt()
    model = network(1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    attach(peer, model, optimizer)
    local_step(model, optimizer, 0, 0)
    with pytest.raises(KeyboardInterrupt):
        local_step(model, optimizer, 0, 1)
    assert same_bits(values_of(model), values_of(network(1)))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_nan_or_inf_is_named_before_anything_is_sent(bad: float) -> None:
    _, peer = alone(Terms(steps=1))
    model = network(1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    training = attach(peer, model, optimizer)
    with torch.no_grad():
        model[2].bias[1] = bad
    model.zero_grad()
    with pytest.raises(LocalError, match=r"the update of '2\.bias' holds NaN or inf in 1 of 2 coordinates"):
        optimizer.step()
    assert peer.calls == 0
    training.go_back()
    local_step(model, optimizer, 0, 0)
    assert peer.calls == 1


def test_buffers_frozen_parameters_and_the_inner_state_stay() -> None:
    _, peer = alone()
    model = Tied()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 0.01)
    frozen = model.frozen.weight.detach().clone()
    attach(peer, model, optimizer)
    for step in range(4):
        optimizer.zero_grad()
        tokens = torch.randint(7, (6,), generator=torch.Generator().manual_seed(step))
        torch.nn.functional.cross_entropy(model(tokens), tokens).backward()
        optimizer.step()
    assert peer.names == ("scale", "embedding.weight", "norm.weight", "norm.bias")
    assert torch.equal(model.frozen.weight, frozen)
    assert model.norm.num_batches_tracked == 4
    assert model.norm.running_mean.any()
    assert model.head.weight is model.embedding.weight
    assert all(state["step"] == 4 for state in optimizer.state.values())
    assert len(peer.contributed) == 2


def test_only_real_optimizer_steps_count_and_schedulers_go_on() -> None:
    _, peer = alone()
    model = network(1)
    groups = [{"params": model[0].parameters(), "lr": 0.2}, {"params": model[2].parameters()}]
    optimizer = torch.optim.SGD(groups, 0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.5**epoch)
    attach(peer, model, optimizer)
    for step in range(12):  # three batches a step
        x, y = batch(0, step)
        torch.nn.functional.mse_loss(model(x), y).backward()
        if step % 3 == 2:
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
    assert peer.calls == 2
    assert [group["lr"] for group in optimizer.param_groups] == [0.2 / 16, 0.1 / 16]


def unfreeze(model: Tied) -> None:
    model.frozen.bias.requires_grad_(True)


def freeze(model: Tied) -> None:
    model.scale.requires_grad_(False)


def replace(model: Tied) -> None:
    model.scale = torch.nn.Parameter(torch.tensor(1.5))


def cast(model: Tied) -> None:
    model.norm.bfloat16()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (unfreeze, "'frozen.bias' got requires_grad"),
        (freeze, "'scale' was frozen"),
        (replace, "'scale' was replaced"),
        (cast, "'norm.weight' was replaced, reshaped or cast"),
    ],
)
def test_a_model_changed_after_joining_is_refused(change: Callable[[Tied], None], message: str) -> None:
    _, peer = alone(Terms(steps=1))
    model = Tied()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    attach(peer, model, optimizer)
    optimizer.step()
    change(model)
    with pytest.raises(LocalError, match=message):
        optimizer.step()
    assert peer.calls == 1


def test_a_strange_optimizer_and_a_charter_without_steps_are_refused() -> None:
    model, other = network(1), network(1)
    with pytest.raises(LocalError, match="its own optimizer"):
        attach(alone()[1], model, torch.optim.SGD(other.parameters(), 0.1))
    with pytest.raises(LocalError, match=r"training\.steps"):
        attach(alone(Terms(steps=0))[1], model, torch.optim.SGD(model.parameters(), 0.1))


def test_after_detach_steps_are_plain_steps() -> None:
    _, peer = alone(Terms(steps=1))
    model = network(1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    training = attach(peer, model, optimizer)
    local_step(model, optimizer, 0, 0)
    training.detach()
    training.detach()
    before = values_of(model)
    local_step(model, optimizer, 0, 1)
    assert peer.calls == 1
    assert not same_bits(before, values_of(model))


def test_finish_drops_a_partial_phase_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    group, peer = alone()
    group.failures[2] = lambda _: error_with(FAILURES["silence"](), False)
    model = network(1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    training = attach(peer, model, optimizer)
    for step in range(2):
        local_step(model, optimizer, 0, step)
    common = values_of(model)
    for step in range(2, 5):
        local_step(model, optimizer, 0, step)
    with caplog.at_level(logging.INFO, "decentra"):
        training.finish()
    assert "the last 3 local steps made no round" in caplog.text
    assert same_bits(values_of(model), common)
    summary = training.summary(Path("transcripts/1.log"))
    assert summary.transcript == Path("transcripts/1.log")
    assert summary.parameters == hashlib.sha256(b"".join(value.tobytes() for value in common)).hexdigest()
    assert summary.seconds > 0
    for step in range(5, 7):
        local_step(model, optimizer, 0, step)
    assert peer.calls == 2


class Streaming(Peer):
    """Reads one tensor at a time, as an encoder does, and keeps none of them."""

    values: tuple[NDArray[np.float32], ...] = ()

    def exchange(self, tensors: Sequence[NDArray[np.float32]], weight: int, state: SharedState) -> RoundResult:
        for tensor, value in zip(tensors, self.values, strict=True):
            value[...] = tensor
        return self.result(self.values, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_round_needs_one_tensor_at_a_time_beside_the_common_state(dtype: torch.dtype) -> None:
    group, _ = alone(Terms(steps=1))
    peer = Streaming(group, 0)
    model = torch.nn.Sequential(*(torch.nn.Linear(1024, 1024, bias=False) for _ in range(8))).to(dtype)
    peer.values = tuple(np.zeros((1024, 1024), np.float32) for _ in range(8))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    training = attach(peer, model, optimizer)
    tracemalloc.start()
    try:
        optimizer.step()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert training.summary().rounds == 1
    assert peak < (4 << 20) * 2 + (8 << 20)  # a whole copy would be 32 MiB more
