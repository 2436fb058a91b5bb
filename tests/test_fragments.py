"""Rounds of a part of the model: each about the next fragment, all of one length, and equal bits at all peers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

import decentra
from averaging import LOG, Group, Peer, Terms, local_step, network, peer_id, same_bits, together, values_of
from decentra.errors import LocalError, Unavailable
from decentra.training import Leaving, OuterSGD, OuterState, attach
from decentra.training.fragments import Fragments
from starting import Group as Real
from starting import all_at_once


@given(st.lists(st.integers(0, 40), min_size=1, max_size=5).filter(any), st.integers(1, 9), st.integers(0, 30))
def test_fragments_of_equal_length_cover_every_coordinate_once(sizes: list[int], count: int, first: int) -> None:
    model = torch.nn.ParameterList(torch.nn.Parameter(torch.zeros(size)) for size in sizes)
    leaving = Leaving(model)
    assume((count - 1) * -(-leaving.size // count) < leaving.size)
    fragments = Fragments(leaving.size, count)
    seen = np.zeros(leaving.size, int)
    for step in range(first, first + count):
        for tensor, own, whole, part in fragments.pieces(leaving, step):
            assert own.stop - own.start == whole.stop - whole.start == part.stop - part.start > 0
            assert whole.start == leaving.span(tensor).start + own.start
            assert part.start >= 0 and part.stop <= fragments.length
            seen[whole] += 1
    assert (seen == 1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("count", "overlap"), [(1, False), (2, False), (3, True), (5, False), (32, False)])
def test_all_peers_end_with_equal_bits(count: int, overlap: bool, dtype: torch.dtype) -> None:
    terms = Terms(steps=6, fragments=count)
    group, models = Group(3, terms), [network(seed, dtype) for seed in (1, 2, 3)]
    every = max(1, 6 // count)

    def program(peer: Peer) -> None:
        model = models[peer.index]
        optimizer = torch.optim.SGD(model.parameters(), 0.05)
        training = attach(peer, model, optimizer, overlap=overlap)
        for step in range(7 * every):
            local_step(model, optimizer, peer.index, step)
        training.finish()
        assert training.summary().rounds == 7

    together(group, program)
    assert all(same_bits(values_of(models[0]), values_of(model)) for model in models)
    size = sum(value.size for value in values_of(models[0]))
    given_ = group.peers[0].contributed[0]
    assert sum(array.size for array in given_) == (size if count == 1 else -(-size // count))


@pytest.mark.parametrize(("size", "count", "fewer"), [(3, 4, 3), (32, 30, 16), (5, 4, 3)])
def test_fragments_of_nothing_are_refused(size: int, count: int, fewer: int) -> None:
    with pytest.raises(LocalError, match=f"set training.fragments to {fewer} or fewer"):
        Fragments(size, count)


def test_a_round_changes_its_fragment_and_nothing_else() -> None:
    model = network(1)
    state = OuterState(Leaving(model), lambda name: OuterSGD(1.0), LOG, fragments=3)
    common = np.concatenate([value.reshape(-1) for value in values_of(model)])
    local_step(model, torch.optim.SGD(model.parameters(), 0.1), 0, 0)
    length = Fragments(common.size, 3).length
    for step in range(3):
        local = np.concatenate([value.reshape(-1) for value in values_of(model)])
        part = slice(step * length, min((step + 1) * length, common.size))
        (update,) = state.update()
        np.testing.assert_array_equal(update[: part.stop - part.start], (common - local)[part])
        assert not update[part.stop - part.start :].any()
        state.advance([np.full(length, 0.25, np.float32)])
        after = np.concatenate([value.reshape(-1) for value in values_of(model)])
        np.testing.assert_array_equal(after[part], common[part] - np.float32(0.25))
        np.testing.assert_array_equal(np.delete(after, np.r_[part]), np.delete(local, np.r_[part]))


def test_who_is_left_out_keeps_its_way_and_a_spent_update_takes_back_its_fragment_alone() -> None:
    model = network(1)
    state = OuterState(Leaving(model), lambda name: OuterSGD(1.0), LOG, fragments=2)
    common = np.concatenate([value.reshape(-1) for value in values_of(model)])
    local_step(model, torch.optim.SGD(model.parameters(), 0.1), 0, 0)
    local = np.concatenate([value.reshape(-1) for value in values_of(model)])
    state.advance([np.full(16, 0.25, np.float32)], keep=True)
    after = np.concatenate([value.reshape(-1) for value in values_of(model)])
    np.testing.assert_allclose(after[:16], local[:16] - 0.25, atol=1e-6)
    state.take_back()
    after = np.concatenate([value.reshape(-1) for value in values_of(model)])
    np.testing.assert_array_equal(after[16:], common[16:])
    np.testing.assert_allclose(after[:16], local[:16] - 0.25, atol=1e-6)


def test_a_peer_that_missed_rounds_takes_part_in_the_fragment_that_the_group_is_at() -> None:
    group, models = Group(3, Terms(steps=3, fragments=3)), [network(1) for _ in range(3)]
    error = Unavailable([peer_id(7)], 3.0, "its deal", "check that it runs")
    vars(error)["spent"] = False
    group.failures[2] = lambda index: error if index == 2 else None

    def program(peer: Peer) -> None:
        optimizer = torch.optim.SGD(models[peer.index].parameters(), 0.05)
        training = attach(peer, models[peer.index], optimizer)
        for step in range(6):
            local_step(models[peer.index], optimizer, peer.index, step)
        training.finish()

    together(group, program)
    assert all(same_bits(values_of(models[0]), values_of(model)) for model in models)
    assert [len(digests) for digests in group.digests] == [1] * 6


def test_real_peers_average_fragments(make_group: Callable[..., Real]) -> None:
    group = make_group(3, training__steps=4, training__fragments=2, protocol__initial_range=0.5)
    models = [network(1) for _ in range(3)]

    def program(index: int) -> str:
        optimizer = torch.optim.SGD(models[index].parameters(), 0.05)
        with decentra.join(models[index], optimizer, group.folders[index].path) as peer:
            for step in range(8):
                local_step(models[index], optimizer, index, step)
            return peer.close().parameters

    assert len(set(all_at_once([partial(program, index) for index in range(3)]))) == 1
    assert same_bits(values_of(models[0]), values_of(models[1]))
    assert not same_bits(values_of(models[0]), values_of(network(1)))
