"""Several processes that are one peer, and gradients that a communication hook averages."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import decentra
from decentra import LocalError, Unavailable
from decentra.groups import held_ports
from decentra.peer.config import STATE_VARIABLE
from decentra.training import ddp
from decentra.training.tensors import Leaving
from decentra.types import PeerId
from starting import PROGRAMS, Group, Program, all_at_once

MakeGroup = Callable[..., Group]

N, H = 3, 2
SMALL = {
    "training__steps": H,
    "protocol__initial_range": 4.0,
    "protocol__width": 32,
    "rounds__ready_deadline": 60.0,
    "rounds__phase_deadline": 30.0,
}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def network(seed: int) -> torch.nn.Sequential:
    draw = torch.Generator().manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=draw))
    return model


def batch(index: int, step: int) -> torch.Tensor:
    return torch.randn((8, 6), generator=torch.Generator().manual_seed(100 * index + step))


def backward(model: torch.nn.Module, rows: torch.Tensor) -> None:
    torch.autograd.backward((model(rows) - rows.sum(1, keepdim=True)).square().mean())


def values_of(model: torch.nn.Module) -> list[np.ndarray[Any, Any]]:
    return [parameter.detach().numpy().copy() for parameter in model.parameters()]


# ── several processes ────────────────────────────────────────────────────────────────────────────────────────────────


class Rank(Program):
    """``tests/programs/ranks.py`` as one rank, as ``torchrun`` starts it."""

    def __init__(self, group: Group, rank: int, size: int, port: int, *parts: str) -> None:
        self.folder = group.folders[0]
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": str(size)}
        errors = self.folder.path / f"stderr-{rank}.txt"
        self._begin([str(PROGRAMS / "ranks.py"), "0", str(self.folder.path), *parts], errors, place)


@pytest.fixture
def start_ranks() -> Iterator[Callable[..., list[Rank]]]:
    started: list[Rank] = []

    def start(group: Group, *parts: str) -> list[Rank]:
        with held_ports(1) as (port,):
            pair = [Rank(group, rank, 2, port, *parts) for rank in range(2)]
            started.extend(pair)
            for one in pair:
                one.wait_for("begun")
        return pair

    yield start
    for one in started:
        one.close()


def alone(group: Group, index: int, rounds: int, keep: bool = False, **options: Any) -> list[str]:
    """A peer of one process, and what it holds after joining and after each round."""
    model = network(index)
    if keep:
        options["checkpoint"] = group.folders[index].path / "kept"
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    held = []
    with decentra.join(model, optimizer, group.folders[index].path, **options) as peer:
        held.append(peer.summary().parameters)
        for step in range(rounds * H):
            optimizer.zero_grad()
            backward(model, batch(index, step))
            optimizer.step()
            if (step + 1) % H == 0:
                held.append(peer.summary().parameters)
    return held


def others(group: Group, rounds: int, **options: Any) -> list[str]:
    """The other peers' parameters after joining and each round, which are the same at both."""
    ended = all_at_once([partial(alone, group, index, rounds, **options) for index in range(1, N)])
    assert ended[0] == ended[1], ended
    return ended[0]


def told(rank: Rank, part: str, event: str) -> list[dict[str, Any]]:
    """What a rank told of one part."""
    ends = [place for place, fact in enumerate(rank.told) if fact["event"] == "end"]
    names = [rank.told[place]["part"] for place in ends]
    place = names.index(part)
    facts = rank.told[ends[place - 1] if place else 0 : ends[place]]
    return [fact for fact in facts if fact["event"] == event]


@pytest.mark.slow
def test_ranks_are_one_peer_hold_the_groups_parameters_and_fail_together(
    make_group: MakeGroup, start_ranks: Callable[..., list[Rank]]
) -> None:
    group = make_group(N, **SMALL)
    ranks = start_ranks(group, "training", "refused", "overlapping", "leaving")
    held = others(group, 3)
    for rank in ranks:
        rank.wait_for("end", part="refused")
    others(group, 3, overlap=True)
    others(group, 1)
    first, second = ranks
    assert (first.end(), second.end()) == (0, 1), first.errors + second.errors

    # training: the values of each round are on every rank, and an error is raised after the same step on all
    for rank in ranks:
        (joined,), (closed,) = told(rank, "training", "joined"), told(rank, "training", "closed")
        assert joined["id"] == group.identities[0].id.hex() and joined["parameters"] == held[0]
        ends = told(rank, "training", "round")
        assert [fact["parameters"] for fact in ends] == [fact["told"] for fact in ends] == held[1:]
        assert closed["parameters"] == closed["told"] == held[-1]
    (failed,) = told(first, "training", "failed")
    assert "holds NaN or inf" in failed["text"]
    nan, refused = told(second, "training", "failed")
    assert "rank 0, which speaks for this peer, failed: LocalError: the update of '0.weight' holds NaN" in nan["text"]
    assert "call average() there only" in refused["text"]

    # refused: what one rank can't do, all can't
    for rank in ranks:
        no_folder, no_model, no_overlap = told(rank, "refused", "failed")
        assert "no folder" in no_folder["text"] or "nothing" in no_folder["text"]
        assert "leave overlap or checkpoint out" in no_overlap["text"]
        assert no_folder["kind"] == no_model["kind"] == no_overlap["kind"] == "LocalError"
    assert "rank 1 of this peer can't join" in told(first, "refused", "failed")[1]["text"]
    assert "requires grad" in told(second, "refused", "failed")[1]["text"]

    # overlapping: a round that lands at some step moves all ranks with that step
    steps = [[fact["parameters"] for fact in told(rank, "overlapping", "step")] for rank in ranks]
    assert steps[0] == steps[1] and len(set(steps[0])) == 3 * H
    assert told(first, "overlapping", "closed") == told(second, "overlapping", "closed")

    # leaving: who remains hears of it at once
    assert told(first, "leaving", "failed")


@pytest.mark.slow
def test_ranks_that_were_killed_go_on_from_the_checkpoint_that_rank_0_wrote(
    make_group: MakeGroup, start_ranks: Callable[..., list[Rank]]
) -> None:
    group = make_group(N, **SMALL)
    ranks = start_ranks(group, "killed")
    held = others(group, 2, keep=True)
    for rank in ranks:
        assert rank.end() == 1, rank.errors
    before = [[fact for fact in rank.told if fact["event"] == "round"] for rank in ranks]
    assert [fact["parameters"] for fact in before[0]] == [fact["parameters"] for fact in before[1]] == held[1:]
    assert before[0][-1]["random"] != before[1][-1]["random"]

    again = start_ranks(group, "keeping")
    held = others(group, 1, keep=True)
    for rank, (_, last) in zip(again, before, strict=True):
        assert rank.end() == 0, rank.errors
        (joined,) = told(rank, "keeping", "joined")
        assert joined == {**last, "event": "joined", "outer_steps": 2}
        (round_,) = told(rank, "keeping", "round")
        assert round_["parameters"] == held[-1] != joined["parameters"] == held[0]
    assert [told(rank, "keeping", "closed")[0]["kept"] for rank in again] == [True, False]


class UnderTorchrun(Program):
    """``peers/torchrun.py`` as peer 0, in two processes that torchrun starts."""

    def __init__(self, group: Group, port: int, *arguments: str) -> None:
        self.folder, self.printed = group.folders[0], ""
        command = ["-m", "torch.distributed.run", "--nnodes=1", "--nproc-per-node=2", "--master-addr=127.0.0.1"]
        command += [f"--master-port={port}", str(PROGRAMS.parent.parent / "peers" / "torchrun.py"), *arguments]
        place = {STATE_VARIABLE: str(self.folder.path)}
        self._begin(command, self.folder.path / "stderr.txt", place)

    def _read(self) -> None:
        """What it says is for people."""
        self.printed = "" if self.process.stdout is None else self.process.stdout.read()
        self._lines.put("")


@pytest.mark.slow
def test_the_example_under_torchrun_trains_with_peers_of_one_process(make_group: MakeGroup) -> None:
    group = make_group(N, **SMALL)

    def plain(index: int) -> str:
        torch.manual_seed(index)
        model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        with decentra.join(model, optimizer, group.folders[index].path) as peer:
            for _ in range(3 * H):
                optimizer.zero_grad()
                torch.autograd.backward(model(torch.ones(4, 8)).square().mean())
                optimizer.step()
        return peer.summary().parameters[:16]

    with held_ports(1) as (port,):
        program = UnderTorchrun(group, port, "--seed", "0", "--rounds", "3")
        try:
            ended = all_at_once([partial(plain, index) for index in range(1, N)])
            assert program.end() == 0, program.errors
        finally:
            program.close()
    told = re.findall(r"rank (\d) of 2: 3 rounds: sent .*; parameters ([0-9a-f]{16})", program.printed)
    assert sorted(told) == [("0", ended[0]), ("1", ended[1])], (program.printed, program.errors)


# ── a communication hook ─────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def in_a_group_of_one() -> Iterator[None]:
    """Distributed data parallel wants a process group; each thread's model is alone in this one.

    It holds which model is in its forward pass once a process, and puts back what was there before. Passes of several
    threads at a time leave one of them there for good, and whoever compiles a model later is taken for a part of it.
    """
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    active = DistributedDataParallel._active_ddp_module
    try:
        yield
    finally:
        DistributedDataParallel._active_ddp_module = active
        dist.destroy_process_group()


EVERY_STEP = {**SMALL, "training__steps": 1, "protocol__initial_range": 32.0, "protocol__range_bounds": (32.0, 32.0)}
"""Gradients differ much from step to step, so the range stays where it is, and nothing is clipped."""

BUCKET = 1e-4
"""Megabytes, so that each tensor has a bucket of its own."""


def averaging(group: Group, index: int, steps: int, seed: int | None = None, lr: float = 0.05) -> tuple[Any, list[str]]:
    """A peer of one process that averages gradients; its model, and the parameters' hash after each step."""
    model = network(index if seed is None else seed)
    wrapped = DistributedDataParallel(model, bucket_cap_mb=BUCKET)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    held = []
    with ddp.join(wrapped, group.folders[index].path) as peer:
        for step in range(steps):
            optimizer.zero_grad()
            backward(wrapped, batch(index, step))
            optimizer.step()
            held.append(hashlib.sha256(b"".join(value.tobytes() for value in values_of(model))).hexdigest())
        assert (peer.rounds, peer.failed) == (steps, 0)
    before = values_of(model)
    backward(wrapped, batch(index, steps))  # alone again: no round, and no error
    optimizer.step()
    assert before[0].tobytes() != values_of(model)[0].tobytes()
    return before, held


@pytest.mark.parametrize("protocol", ["secagg", "allreduce", "mesh"])
def test_a_hook_gives_every_peer_the_mean_gradient_in_one_round_a_step(make_group: MakeGroup, protocol: str) -> None:
    steps = 4
    group = make_group(N, protocol, protocol__rule="mean", **EVERY_STEP)
    with in_a_group_of_one():
        ended = all_at_once([partial(averaging, group, index, steps, seed=1) for index in range(N)])
    for one in ended:
        if isinstance(one, BaseException):
            raise one
    assert ended[0][1] == ended[1][1] == ended[2][1] and len(set(ended[0][1])) == steps
    model = network(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for step in range(steps):
        optimizer.zero_grad()
        for index in range(N):
            backward(model, batch(index, step))
        for parameter in model.parameters():
            parameter.grad /= N
        optimizer.step()
    for value, wanted, before in zip(ended[0][0], values_of(model), values_of(network(1)), strict=True):
        # In 32 bits a range of ±32 is rounded at 1e-7; float32 summed in another order is off by as much.
        np.testing.assert_allclose(value, wanted, rtol=0, atol=2e-6)
        assert np.abs(wanted - before).max() > 1e-2


def test_peers_that_begin_apart_begin_a_hook_with_the_first_proposers_parameters(make_group: MakeGroup) -> None:
    group = make_group(N, **EVERY_STEP)
    with in_a_group_of_one():
        ended = all_at_once([partial(averaging, group, index, 2) for index in range(N)])
    assert not [one for one in ended if isinstance(one, BaseException)], ended
    assert ended[0][1] == ended[1][1] == ended[2][1]


def test_a_round_that_failed_gives_zeros_and_nan_comes_out_of_backward(make_group: MakeGroup) -> None:
    group = make_group(N, **EVERY_STEP)

    def spoilt(index: int) -> list[float]:
        model = network(1)
        wrapped = DistributedDataParallel(model, bucket_cap_mb=BUCKET)
        norms = []
        with ddp.join(wrapped, group.folders[index].path) as peer:
            silent = Unavailable([PeerId(bytes(32))], 3.0, "its deal", "check that it runs")
            real = peer._peer.average
            peer._peer.average = partial(fail, silent)
            backward(wrapped, batch(index, 0))
            norms.append(float(sum(parameter.grad.abs().sum() for parameter in model.parameters())))
            assert (peer.rounds, peer.failed) == (0, 1)
            peer._peer.average = real
            with pytest.raises(LocalError, match=r"NaN|finite"):
                backward(wrapped, batch(index, 0) * float("nan"))
        return norms

    with in_a_group_of_one():
        assert all_at_once([partial(spoilt, index) for index in range(N)]) == [[0.0]] * N


def fail(error: BaseException, *_args: object, **_options: object) -> None:
    raise error


def test_what_the_hook_can_not_do_is_said(make_group: MakeGroup) -> None:
    group = make_group(N, **SMALL)
    with pytest.raises(LocalError, match="wrap it in DistributedDataParallel first"):
        ddp.join(network(1), group.folders[0].path)  # type: ignore[arg-type]
    with in_a_group_of_one(), pytest.raises(LocalError, match=r"set training\.steps = 1 .* it has steps = 2"):
        ddp.join(DistributedDataParallel(network(1)), group.folders[0].path)
    rolora = make_group(N, training__steps=1, training__adapters="rolora")
    with in_a_group_of_one(), pytest.raises(LocalError, match="by rolora, and this peer would train them by fedit"):
        ddp.join(DistributedDataParallel(network(1)), rolora.folders[0].path)


def test_parameters_that_are_not_this_models_are_refused() -> None:
    state, other = ddp.Parameters(Leaving(network(1))), ddp.Parameters(Leaving(network(2)))
    good = b"".join(part.tobytes() for part in other.export())
    assert len(good) == state.nbytes
    for bad in (good[:-1], b"x" + good[1:], good[:-4] + np.float32("nan").tobytes()):
        with pytest.raises(LocalError, match="the common state received"):
            state.adopt(memoryview(bad))
    assert not state.taken_over
    state.adopt(memoryview(good))
    assert state.taken_over and state.pieces() == other.pieces()


@pytest.mark.slow
def test_gradients_are_averaged_over_ranks_and_peers(
    make_group: MakeGroup, start_ranks: Callable[..., list[Rank]]
) -> None:
    group = make_group(N, **EVERY_STEP)
    ranks = start_ranks(group, "gradients")
    with in_a_group_of_one():
        ended = all_at_once([partial(averaging, group, index, 3) for index in range(1, N)])
    for rank in ranks:
        assert rank.end() == 0, rank.errors
    steps = [[fact["parameters"] for fact in told(rank, "gradients", "step")] for rank in ranks]
    assert steps[0] == steps[1]
    assert ended[0][1] == ended[1][1] == steps[0]
    assert told(ranks[1], "gradients", "closed")[0]["rounds"] == 3
