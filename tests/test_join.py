"""``decentra.join``: training together over ZeroMQ, from different initial values to the same bits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch

import decentra
from averaging import batch, network
from decentra import LocalError, TrainingPeer, derive
from decentra.audit.transcript import read
from decentra.crypto.keys import verify
from decentra.peer.config import STATE_VARIABLE
from decentra.training.common import HEADER
from decentra.types import TensorSpec
from decentra.wire.codec import Malformed, pack
from decentra.wire.entry import ZERO, parse
from starting import Group, Program, all_at_once

MakeGroup = Callable[..., Group]

H = 2
SMALL = {
    "training__steps": H,
    "protocol__initial_range": 0.5,
    "rounds__ready_deadline": 20.0,  # nobody waits so long, unless another peer's test has failed
    "rounds__phase_deadline": 10.0,
}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


LINEAR = torch.nn.Linear(2, 1)
SGD = torch.optim.SGD(LINEAR.parameters(), lr=0.1)


@pytest.mark.parametrize(
    ("arguments", "ahead", "said"),
    [
        ((LINEAR, None), False, "the optimizer is None, and must be a torch.optim.Optimizer"),
        ((None, SGD), False, "the model is None, and must be a torch.nn.Module"),
        ((SGD, LINEAR), False, "model and optimizer are swapped; write decentra.join"),
        ((LINEAR, LINEAR), False, "the optimizer is of type Linear"),
        ((list(LINEAR.parameters()), SGD), False, "the model is of type list"),
        ((LINEAR, SGD), "yes", "ahead is 'yes', and must be True or False"),
    ],
)
def test_arguments_of_another_type_are_refused_before_anything_is_opened(
    tmp_path: Path, arguments: tuple[Any, Any], ahead: Any, said: str
) -> None:
    with pytest.raises(LocalError) as caught:
        decentra.join(*arguments, tmp_path / "no folder", ahead=ahead)
    assert said in str(caught.value)


@pytest.mark.parametrize("options", [{"also": {"x": SGD}}, {"also": [SGD], "checkpoint": "here"}])
def test_what_checkpoints_are_to_keep_is_refused_where_there_are_none(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(LocalError, match="give a mapping of names, and checkpoint a folder"):
        decentra.join(LINEAR, SGD, tmp_path / "no folder", **options)


class Learner:
    """A model, its optimizer and its data; another seed gives another of each."""

    def __init__(self, seed: int, inputs: int = 6) -> None:
        self._random = torch.Generator().manual_seed(seed)
        self.model = torch.nn.Sequential(torch.nn.Linear(inputs, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1))
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=self._random))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05)
        self._inputs = inputs

    def step(self) -> None:
        batch = torch.randn((8, self._inputs), generator=self._random)
        self.optimizer.zero_grad()
        torch.autograd.backward((self.model(batch) - batch.sum(1, keepdim=True)).square().mean())
        self.optimizer.step()

    def digest(self) -> str:
        flat = torch.cat([parameter.detach().reshape(-1) for parameter in self.model.parameters()])
        return hashlib.sha256(flat.numpy().tobytes()).hexdigest()


def train(group: Group, index: int, rounds: int) -> tuple[list[str], str, Any]:
    """The model's hash after joining and after each round, at the end, and what closing said."""
    learner = Learner(index)
    with decentra.join(learner.model, learner.optimizer, group.folders[index].path) as peer:
        hashes = [learner.digest()]
        assert peer.summary().parameters == hashes[0]
        for step in range(rounds * H):
            learner.step()
            if (step + 1) % H == 0:
                hashes.append(learner.digest())
                assert peer.summary().parameters == hashes[-1]
        learner.step()  # the beginning of a phase that will not be full
        summary = peer.close()
    return hashes, learner.digest(), summary


@pytest.mark.parametrize("protocol", ["secagg", "allreduce", "mesh"])
def test_peers_that_begin_apart_hold_the_same_bits_after_joining_and_after_every_round(
    make_group: MakeGroup, protocol: str
) -> None:
    group = make_group(4, protocol, **SMALL)
    ended = all_at_once([partial(train, group, index, 3) for index in range(4)])
    assert not [one for one in ended if isinstance(one, BaseException)]
    assert ended[0][0][0] in {Learner(index).digest() for index in range(4)}  # the first proposer's
    assert len(set(ended[0][0])) == 4  # every round moved the model
    for hashes, at_end, summary in ended:
        assert hashes == ended[0][0]
        assert at_end == hashes[-1] == summary.parameters
        assert (summary.rounds, summary.failed) == (3, 0)
        assert summary.bytes_sent > 0 and summary.bytes_received > 0 and summary.seconds > 0
    for identity, (_, _, summary) in zip(group.identities, ended, strict=True):
        entries = [parse(signed.entry) for signed in read(summary.transcript)]
        assert {entry.author for entry in entries} == {identity.id}
        assert {entry.round for entry in entries[:-1]} == {1, 2, 3, 4}  # joining is a round too
        assert [entry.prev for entry in entries] == [ZERO, *(entry.hash for entry in entries[:-1])]
        assert all(one.seq < other.seq for one, other in pairwise(entries))
        public = group.charter.member(identity.id).ed25519
        assert all(verify(public, entry.signature, entry.signed_bytes) for entry in entries)


def test_joining_says_what_will_leave_and_who_begins_with_what(
    make_group: MakeGroup, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "decentra")
    group = make_group(3, **SMALL)
    ended = all_at_once([partial(train, group, index, 1) for index in range(3)])
    specs = [("0.weight", (5, 6)), ("0.bias", (5,)), ("2.weight", (1, 5)), ("2.bias", (1,))]
    fingerprint = derive.layout([TensorSpec(name, shape, "float32") for name, shape in specs]).hex()
    group_name, lines = group.charter.group.name, caplog.messages
    for index, member in enumerate(group.charter.members):
        assert (
            f"joining {group_name!r} as {member.label} under secagg: every 2 steps the change of 4 tensors leaves, 41 "
            f"coordinates of 16 bits; the model's fingerprint is {fingerprint}"
        ) in lines
        begun = ended[index][0][0]
        assert lines.count(f"joined {group_name!r}: peer-0, peer-1, peer-2 begin with parameters {begun[:8]}") == 3
    for told in ("*.weight: 5 × 6", "*.bias: 5", "*.weight: 1 × 5", "*.bias: 1"):
        assert lines.count(f"leaves: {told}, float32") == 3
    printed = str(ended[0][2])
    assert printed.startswith("1 round: sent 0.") and printed.endswith(f"; transcript {ended[0][2].transcript}")


def test_a_transcript_shows_where_a_byte_was_changed(make_group: MakeGroup) -> None:
    group = make_group(3, **SMALL)
    ended = all_at_once([partial(train, group, index, 1) for index in range(3)])
    path, public = ended[0][2].transcript, group.charter.members[0].ed25519
    whole, log = path.read_bytes(), list(read(path))
    assert broken_at(path, public) is None
    for place in (0, 1, len(log) // 2, len(log) - 1):
        begins = sum(len(pack((signed.entry, signed.body))) for signed in log[:place])
        for part in filter(None, (log[place].entry, log[place].body)):
            begins = whole.index(part, begins)
            for at in range(begins, begins + len(part), 1 + len(part) // 8):
                path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
                assert broken_at(path, public) == place


def broken_at(path: Path, public: bytes) -> int | None:
    """The place of the first entry that is not its author's, not with its body or not behind the one before it."""
    before = ZERO
    for place, signed in enumerate(read(path)):
        try:
            entry = parse(signed.entry)
        except Malformed:
            return place
        signs = entry.prev == before and verify(public, entry.signature, entry.signed_bytes)
        if not signs or (signed.body and hashlib.sha256(signed.body).digest() != entry.body):
            return place
        before = entry.hash
    return None


def test_after_closing_the_model_is_its_owners_again(make_group: MakeGroup) -> None:
    group = make_group(3, **SMALL)

    def alone_afterwards(index: int) -> tuple[Any, Any, str, str]:
        learner = Learner(index)
        with decentra.join(learner.model, learner.optimizer, group.folders[index].path) as peer:
            first = peer.close()
            for _ in range(2 * H):
                learner.step()
            digest = learner.digest()
        return first, peer.close(), digest, learner.digest()

    for first, second, within, afterwards in all_at_once([partial(alone_afterwards, index) for index in range(3)]):
        assert first == second
        assert within == afterwards != first.parameters


def test_a_program_that_was_not_started_by_decentra_run_is_told_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(STATE_VARIABLE, raising=False)
    learner = Learner(0)
    with pytest.raises(LocalError, match=r"start the program with `decentra run PROGRAM --state DIR`"):
        decentra.join(learner.model, learner.optimizer)


def test_the_folder_that_decentra_run_set_is_taken(make_group: MakeGroup, monkeypatch: pytest.MonkeyPatch) -> None:
    group = make_group(3, rounds__ready_deadline=1.0, rounds__phase_deadline=1.0)
    monkeypatch.setenv(STATE_VARIABLE, str(group.folders[1].path))
    learner = Learner(0)
    with pytest.raises(decentra.Unavailable) as caught:
        decentra.join(learner.model, learner.optimizer)
    assert set(caught.value.waited_for) == {group.identities[0].id, group.identities[2].id}


def test_a_join_that_failed_leaves_the_optimizer_as_it_was(make_group: MakeGroup) -> None:
    group = make_group(3, rounds__ready_deadline=1.0, rounds__phase_deadline=1.0, training__steps=1)
    learner = Learner(0)
    before = learner.digest()
    with pytest.raises(decentra.Unavailable):
        decentra.join(learner.model, learner.optimizer, group.folders[0].path)
    assert learner.digest() == before
    learner.step()  # no round, and no error
    assert learner.digest() != before


def test_a_model_that_the_charter_does_not_name_is_refused_with_both_fingerprints(make_group: MakeGroup) -> None:
    group = make_group(3, model__fingerprint="ab" * 32)
    learner = Learner(0)
    with pytest.raises(LocalError, match=r"your model's fingerprint is [0-9a-f]{64}, the charter's is (ab){32}"):
        decentra.join(learner.model, learner.optimizer, group.folders[0].path)


def test_a_model_of_another_shape_cannot_join_and_the_others_train_on(make_group: MakeGroup) -> None:
    group = make_group(4, **SMALL)
    odd = Learner(3, inputs=7)
    calls: list[Callable[[], Any]] = [partial(train, group, index, 1) for index in range(3)]
    ended = all_at_once([*calls, partial(decentra.join, odd.model, odd.optimizer, group.folders[3].path)])
    assert isinstance(ended[3], LocalError)
    assert "your model's tensor names, shapes or dtypes are not those of" in str(ended[3])
    assert {one[2].rounds for one in ended[:3]} == {1}
    assert len({one[1] for one in ended[:3]}) == 1


def test_nan_stays_here_and_after_going_back_the_peer_takes_part_again(make_group: MakeGroup) -> None:
    group = make_group(3, **SMALL)

    def spoiled(index: int) -> tuple[str, int]:
        learner = Learner(index)
        with decentra.join(learner.model, learner.optimizer, group.folders[index].path) as peer:
            if index == 1:
                for parameter in learner.model.parameters():
                    parameter.data[0] = float("nan")
                learner.step()
                with pytest.raises(LocalError, match=r"the update of '0.weight' holds NaN or inf"):
                    learner.step()
                peer.go_back()
            for _ in range(H):
                learner.step()
            return learner.digest(), peer.summary().rounds

    ended = all_at_once([partial(spoiled, index) for index in range(3)])
    assert len({digest for digest, _ in ended}) == 1
    assert [rounds for _, rounds in ended] == [1, 1, 1]


def test_a_joined_peer_averages_other_tensors_too(make_group: MakeGroup) -> None:
    group = make_group(3, **SMALL)

    def both(index: int) -> float:
        learner = Learner(index)
        with decentra.join(learner.model, learner.optimizer, group.folders[index].path) as peer:
            assert isinstance(peer, TrainingPeer)
            result = peer.average([torch.full((2,), 0.1 * index).numpy()], names=["accuracy"])
            return float(result.values[0][0])

    assert all_at_once([partial(both, index) for index in range(3)]) == [pytest.approx(0.1, abs=1e-3)] * 3


def test_who_joins_late_takes_over_parameters_momentum_outer_steps_and_the_round(
    make_group: MakeGroup, caplog: pytest.LogCaptureFixture
) -> None:
    momentum = {"training__outer_momentum": 0.9, "training__nesterov": True}
    group = make_group(4, **{**SMALL, **momentum, "rounds__ready_deadline": 3.0})
    under_way, caught_up = Event(), Event()

    def held(peer: TrainingPeer) -> tuple[int, bytes]:
        """The round that this peer is in, and all of its outer state."""
        state = b"".join(part.tobytes() for part in peer._training.state.export())
        return peer._peer._session.round.number, state

    def phases(index: int, enough: Callable[[int], bool]) -> dict[int, tuple[int, bytes]]:
        learner, seen, before = Learner(index), {}, 0
        with decentra.join(learner.model, learner.optimizer, group.folders[index].path) as peer:
            while not enough(len(seen)):
                for _ in range(H):
                    learner.step()
                summary = peer.summary()
                if summary.rounds > before:
                    seen[summary.outer_steps], before = held(peer), summary.rounds
                if summary.outer_steps >= 3:
                    under_way.set()
        return seen

    def late() -> dict[int, tuple[int, bytes]]:
        assert under_way.wait(60.0)
        try:
            return phases(3, lambda rounds: rounds >= 3)
        finally:
            caught_up.set()

    early = [partial(phases, index, lambda rounds: caught_up.is_set() or rounds >= 200) for index in range(3)]
    *others, newcomer = all_at_once([*early, late])
    assert isinstance(newcomer, dict), newcomer
    assert min(newcomer) > 3  # outer steps that it did not make
    for steps, (number, state) in newcomer.items():
        assert {(number, state)} == {seen[steps] for seen in others if steps in seen}
        assert number > steps
        size = (len(state) - HEADER) // 2
        assert any(state[HEADER + size :])  # momentum
    assert any("which it took over" in line and line.count(" bytes from ") >= 1 for line in caplog.messages)


@pytest.fixture
def programs(make_group: MakeGroup) -> Iterator[list[Program]]:
    yield make_group(3, **SMALL).start("training", "{index}", "3")


@pytest.mark.slow
def test_processes_that_decentra_run_started_hold_the_same_bits_every_round(programs: list[Program]) -> None:
    assert [program.end() for program in programs] == [0, 0, 0]
    told = [[fact["parameters"] for fact in program.told if "parameters" in fact] for program in programs]
    assert told[0] == told[1] == told[2]
    assert len(told[0]) == 5 and len(set(told[0])) == 4  # joined, three rounds, closed
    for program in programs:
        closed = program.last("closed")
        assert closed["rounds"] == 3 and closed["bytes"] > 0 and closed["seconds"] > 0
        assert closed["transcript"].startswith(str(program.folder.transcripts))


def test_with_one_step_a_round_plain_sgd_and_plain_sums_it_is_training_on_the_union(make_group: MakeGroup) -> None:
    """H = 1 under allreduce with 32 bits, against one process that takes the mean of the peers' gradients."""
    terms = {"training__steps": 1, "training__outer_momentum": 0.0, "training__nesterov": False}
    numbers = {"protocol__width": 32, "protocol__initial_range": 0.5}
    group = make_group(3, "allreduce", **terms, **numbers)
    models = [network(4) for _ in range(4)]
    streams = [[batch(peer, step) for step in range(8)] for peer in range(3)]

    def program(index: int) -> None:
        optimizer = torch.optim.SGD(models[index].parameters(), 0.1)
        with decentra.join(models[index], optimizer, group.folders[index].path):
            for x, y in streams[index]:
                optimizer.zero_grad()
                torch.nn.functional.mse_loss(models[index](x), y).backward()
                optimizer.step()

    all_at_once([partial(program, index) for index in range(3)])
    alone, optimizer = models[3], torch.optim.SGD(models[3].parameters(), 0.1)
    for of_a_step in zip(*streams, strict=True):
        optimizer.zero_grad()
        x, y = (torch.cat(parts) for parts in zip(*of_a_step, strict=True))
        torch.nn.functional.mse_loss(alone(x), y).backward()
        optimizer.step()
    for ours, single in zip(models[0].parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(ours, single, rtol=0, atol=1e-6)


def test_what_is_clipped_comes_with_later_rounds(make_group: MakeGroup) -> None:
    """Error feedback: a local step of 0.05 under a range that stays at 0.01 takes five rounds, and nothing is lost."""
    terms = {"training__steps": 1, "training__outer_momentum": 0.0, "training__nesterov": False}
    numbers = {"protocol__width": 32, "protocol__initial_range": 0.01, "protocol__range_bounds": (0.01, 0.01)}
    group = make_group(3, **terms, **numbers)
    models = [torch.nn.Linear(3, 2) for _ in range(3)]
    for model in models:
        torch.nn.init.zeros_(model.weight)
        torch.nn.init.zeros_(model.bias)

    def program(index: int) -> list[float]:
        model, seen = models[index], []
        optimizer = torch.optim.SGD(model.parameters(), 1.0)
        with decentra.join(model, optimizer, group.folders[index].path):
            for step in range(6):
                for parameter in model.parameters():
                    parameter.grad = torch.full_like(parameter, -0.05 if step == 0 else 0.0)
                optimizer.step()
                seen.append(model.weight[0, 0].item())
        return seen

    for seen in all_at_once([partial(program, index) for index in range(3)]):
        assert seen == pytest.approx([0.01, 0.02, 0.03, 0.04, 0.05, 0.05], abs=1e-6)
