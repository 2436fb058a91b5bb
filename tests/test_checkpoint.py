"""Checkpoints: whoever was killed goes on at the same parameters, and the model in them is a plain state dict."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import decentra
from averaging import Group, Terms, local_step, network, peer_id, same_bits, values_of
from decentra.errors import LocalError
from decentra.training import Training
from decentra.training.checkpoint import KEPT, Checkpoints, Loop
from decentra.types import RoundId
from starting import Group as Real
from starting import all_at_once

TERMS = Terms(steps=2)
OWNER, FIRST = peer_id(0), RoundId(1, 0)


def tied(seed: int) -> torch.nn.Module:
    """Shared weights, an integer buffer, and a frozen part."""
    model = network(seed)
    model.add_module("norm", torch.nn.BatchNorm1d(2))
    model.add_module("again", torch.nn.Linear(3, 5, bias=False))
    model.again.weight = model[0].weight
    model[2].bias.requires_grad_(False)
    return torch.nn.Sequential(model[0], model[1], model[2], model.norm)


class Run:
    """A lone peer's run, which a kill ends and another object of this goes on with."""

    def __init__(
        self,
        folder: Path | None,
        build: Callable[[], torch.nn.Module] = lambda: network(1),
        begun: int = 0,
        **given: Any,
    ) -> None:
        self.group = Group(1, TERMS)
        self.model = build()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 0.01)
        self.scheduler = torch.optim.lr_scheduler.LinearLR(self.optimizer, 1.0, 0.1, 20)
        self.training = Training(self.group.peers[0], self.model, self.optimizer, **given)
        self.resumed = None
        if folder is not None:
            also = {"scheduler": self.scheduler}
            place = (OWNER, RoundId(1, begun))
            self.kept = Checkpoints(folder, *place, self.training, Loop(self.model, self.optimizer, also))
            self.resumed = self.kept.resume()

    def steps(self, first: int, last: int) -> Run:
        for step in range(first, last):
            local_step(self.model, self.optimizer, 0, step)
            self.scheduler.step()
        return self

    def end(self) -> Run:
        self.training.finish()
        self.kept.close()
        return self


@pytest.mark.parametrize("build", [partial(network, 1), partial(network, 1, torch.bfloat16), partial(tied, 1)])
def test_who_was_killed_goes_on_at_the_same_parameters_to_the_bit(
    build: Callable[[], torch.nn.Module], tmp_path: Path
) -> None:
    whole = Run(None, build).steps(0, 10)
    Run(tmp_path, build).steps(0, 5)  # killed in the middle of a phase, whose steps are made again
    again = Run(tmp_path, build)
    assert again.resumed == 2 and again.training.state.rounds == 2
    again.steps(4, 10)
    assert again.training.state.pieces() == whole.training.state.pieces()
    assert same_bits(values_of(again.model), values_of(whole.model))
    for mine, other in zip(again.model.state_dict().values(), whole.model.state_dict().values(), strict=True):
        assert torch.equal(mine, other)
    assert again.scheduler.get_last_lr() == whole.scheduler.get_last_lr()


def test_what_clipping_left_and_what_was_kept_go_on_too(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.training.residual[0][...] = 0.125
    run.group.left_out.add((1, 0))
    run.group.updates[7] = [np.zeros(spec.shape) for spec in run.training.leaving.specs]
    run.steps(0, 2)
    run.kept.save()
    assert run.training.kept == 2
    again = Run(tmp_path)
    assert again.training.kept == 2 and np.unique(again.training.residual[0]).tolist() == [0.125]
    assert same_bits(values_of(again.model), values_of(run.model))
    assert again.training.state.digest() == run.training.state.digest() != again.training.leaving.digest()


def test_of_fragments_all_that_clipping_left_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("test_checkpoint.TERMS", Terms(steps=4, fragments=2))
    run = Run(tmp_path)
    run.training.clipped[:] = np.arange(32)
    run.steps(0, 3)
    again = Run(tmp_path)
    assert again.resumed == 1 and again.training.clipped.tolist() == list(range(32))
    assert same_bits(again.training.residual, [np.arange(16, 32, dtype=np.float32)])


def test_beside_a_round_that_overlaps_the_way_since_then_is_kept(tmp_path: Path) -> None:
    run = Run(tmp_path, overlap=True).steps(0, 3)
    run.training.give_up()
    again = Run(tmp_path, overlap=True)
    assert again.resumed == 1 and again.training.kept == 1
    assert same_bits(values_of(again.model), values_of(run.model))


def test_the_model_in_a_checkpoint_is_a_plain_state_dict(tmp_path: Path) -> None:
    run = Run(tmp_path, partial(tied, 1)).steps(0, 6).end()
    for path in (tmp_path, max(tmp_path.iterdir())):
        loaded = decentra.load(path)
        model = tied(2)
        model.load_state_dict(loaded)
        assert loaded.keys() == run.model.state_dict().keys()
        assert all(torch.equal(loaded[name], tensor) for name, tensor in run.model.state_dict().items())


def test_the_latest_two_are_kept_and_half_a_file_is_never_there(tmp_path: Path) -> None:
    Run(tmp_path).steps(0, 10).end()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == KEPT and names == ["checkpoint-00000004.safetensors", "checkpoint-00000005.safetensors"]
    (tmp_path / "checkpoint-00000006.part").write_bytes(b"cut")  # by a kill
    assert Run(tmp_path).resumed == 5
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} - {0o644} == {0o600}


def test_a_group_that_begins_anew_with_fewer_steps_behind_it_has_its_own_go_on(tmp_path: Path) -> None:
    Run(tmp_path).steps(0, 10).end()
    anew = Run(tmp_path)
    anew.training.state.rounds = 0  # by another's state
    anew.steps(0, 4).end()
    assert Run(tmp_path).resumed == 2


def test_what_may_have_left_in_a_later_round_never_leaves_again(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.training.residual[0][...] = 0.125
    run.group.left_out.add((1, 0))
    run.group.updates[7] = [np.zeros(spec.shape) for spec in run.training.leaving.specs]
    run.steps(0, 3)
    again = Run(tmp_path, begun=2)  # the round behind the checkpoint's had begun
    assert again.resumed == 1 and again.training.kept == 0
    assert not any(part.any() for part in (*again.training.state.update(), *again.training.residual))
    assert again.training.state.digest() == run.training.state.digest()


def test_another_peers_checkpoint_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Run(tmp_path).steps(0, 2).end()
    monkeypatch.setattr("test_checkpoint.OWNER", peer_id(1))
    with pytest.raises(LocalError, match="another peer's: give each peer a folder of its own"):
        Run(tmp_path)


def test_what_does_not_fit_is_refused_in_words(tmp_path: Path) -> None:
    Run(tmp_path).steps(0, 2).end()
    (path,) = tmp_path.iterdir()
    for build in (lambda: torch.nn.Linear(3, 2), lambda: network(1, torch.bfloat16)):
        with pytest.raises(LocalError, match="does not fit"):
            Run(tmp_path, build)
    unlike = network(2)
    unlike[2] = torch.nn.Linear(5, 3)
    before = values_of(unlike)
    with pytest.raises(LocalError, match="another shape"):
        Run(tmp_path, lambda: unlike)
    assert same_bits(values_of(unlike), before)  # nothing of it was set
    model = network(1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    training = Training(Group(1, TERMS).peers[0], model, optimizer)
    with pytest.raises(LocalError, match="keeps scheduler beside model and optimizer, and nothing was given"):
        Checkpoints(tmp_path, OWNER, FIRST, training, Loop(model, optimizer, {})).resume()
    with pytest.raises(LocalError, match="has no state_dict"):
        Loop(model, optimizer, {"epoch": 3})  # type: ignore[dict-item]
    whole = path.read_bytes()
    for damaged in (b"", whole[:100], whole[:-1], b"\xff" * 64):
        path.write_bytes(damaged)
        with pytest.raises(LocalError, match=r"can't be read.*remove it to use the one before"):
            Run(tmp_path)
        with pytest.raises(LocalError, match="can't be read"):
            decentra.load(path)
    with pytest.raises(LocalError, match="no checkpoint"):
        decentra.load(tmp_path / "nowhere")
    torch_file = tmp_path / "other" / "checkpoint-00000001.safetensors"
    torch_file.parent.mkdir()
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, torch_file)
    with pytest.raises(LocalError, match="is no checkpoint of decentra"):
        decentra.load(torch_file)
    (tmp_path / "file").write_text("")
    with pytest.raises(LocalError, match="can't be made"):
        Checkpoints(tmp_path / "file", OWNER, FIRST, training, Loop(model, optimizer, {}))


def test_a_disk_that_takes_no_more_is_told_and_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    run = Run(tmp_path).steps(0, 4)
    (tmp_path / "checkpoint-00000002.part").mkdir()
    with pytest.raises(LocalError, match=r"can't be written .*; free the disk"):
        run.steps(4, 5)
    (tmp_path / "checkpoint-00000002.part").rmdir()
    assert Run(tmp_path).resumed == 1


def train(
    group: Real, index: int, model: torch.nn.Module, folder: Path, rounds: int, leave: bool
) -> tuple[str, int]:
    """A real peer that trains up to a number of outer steps; the hash of what it holds, and where it began."""
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    peer = decentra.join(model, optimizer, group.folders[index].path, checkpoint=folder / str(index))
    began = peer.summary().outer_steps
    for step in range(2 * began, 2 * rounds):
        local_step(model, optimizer, index, step)
    if leave:
        return peer.close().parameters, began
    local_step(model, optimizer, index, 2 * rounds)  # and is killed with a step that no checkpoint has
    peer._training.detach()
    peer._peer.close()
    return peer.summary().parameters, began


def test_a_whole_group_goes_on_from_its_checkpoints(make_group: Callable[..., Real], tmp_path: Path) -> None:
    group = make_group(3, training__steps=2, protocol__width=32, protocol__initial_range=1.0)

    def all_train(folder: Path, rounds: int, leave: bool) -> list[tuple[str, int]]:
        models = [network(1) for _ in range(3)]
        return all_at_once([partial(train, group, at, models[at], folder, rounds, leave) for at in range(3)])

    all_train(tmp_path / "a", 2, False)
    ended = all_train(tmp_path / "a", 4, True)
    assert {began for _, began in ended} == {2} and len({parameters for parameters, _ in ended}) == 1
    assert {began for _, began in all_train(tmp_path / "b", 4, True)} == {0}
    same = [decentra.load(tmp_path / one / "0")["0.weight"] for one in "ab"]
    torch.testing.assert_close(*same, rtol=0, atol=1e-5)  # the sums' last bits hang on ranges, which runs before move
