"""Policies of buffers and frozen tensors, and the ways in which local steps are made: all under one hook."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch

from averaging import Group, Peer, Terms, batch, network, same_bits, together, values_of
from decentra.errors import LocalError
from decentra.training import Leaving, attach

PLAIN = Terms(steps=2, outer_lr=1.0, outer_momentum=0.0, nesterov=False)
"""Plain averaging: what the peers hold after a round is the mean of what they held before it."""


# ── buffers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Normed(torch.nn.Module):
    """A batch norm, whose buffers are two float32 means and a whole number, between layers of which one is frozen."""

    def __init__(self, seed: int = 1) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.first = torch.nn.Linear(3, 4)
            self.norm = torch.nn.BatchNorm1d(4)
            self.frozen = torch.nn.Linear(4, 4).requires_grad_(False)
            self.head = torch.nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.frozen(self.norm(self.first(x))))


BUFFERS = ("norm.running_mean", "norm.running_var", "norm.num_batches_tracked")


def trained(policy: Mapping[str, str] | None, seeds: tuple[int, ...] = (1, 1, 1)) -> list[dict[str, np.ndarray]]:
    """What three peers hold after one round of two steps; peer i makes i more batches without a step."""
    group, models = Group(3, PLAIN), [Normed(seed) for seed in seeds]

    def program(peer: Peer) -> None:
        model = models[peer.index]
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.05)
        training = attach(peer, model, optimizer, policy=policy)
        for step in range(peer.index):
            model(batch(peer.index, 10 + step)[0])
        for step in range(2):
            x, y = batch(peer.index, step)
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(model(x), y).backward()
            optimizer.step()
        assert training.summary().rounds == 1

    together(group, program)
    return [{name: value.numpy().copy() for name, value in model.state_dict().items()} for model in models]


@pytest.mark.parametrize("policy", [None, {"norm.running_*": "local"}])
def test_buffers_stay_where_no_policy_names_them(policy: Mapping[str, str] | None) -> None:
    ended = trained(policy)
    assert [int(one["norm.num_batches_tracked"]) for one in ended] == [2, 3, 4]
    for name in BUFFERS[:2]:
        assert len({one[name].tobytes() for one in ended}) == 3
    assert len({one["first.weight"].tobytes() for one in ended}) == 1
    assert len({one["norm.weight"].tobytes() for one in ended}) == 1


def test_averaged_buffers_take_the_mean_and_whole_numbers_the_nearest_one() -> None:
    alone, ended = trained({"norm.running_*": "local"}), trained(dict.fromkeys(BUFFERS, "average"))
    for one in ended:
        assert one["norm.num_batches_tracked"].dtype == np.int64
        assert int(one["norm.num_batches_tracked"]) == 3  # of 2, 3 and 4
        for name in BUFFERS[:2]:
            mean = np.mean([other[name].astype(np.float64) for other in alone], axis=0)
            np.testing.assert_allclose(one[name], mean, atol=1e-6)


def test_a_buffer_takes_the_mean_itself_whatever_the_outer_optimiser_does_to_parameters() -> None:
    group, models = Group(3, Terms(steps=1, outer_lr=0.1, outer_momentum=0.9)), [Normed() for _ in range(3)]

    def program(peer: Peer) -> None:
        model = models[peer.index]
        optimizer = torch.optim.SGD(model.first.parameters(), 0.05)
        attach(peer, model, optimizer, policy={"norm.running_mean": "average", "norm.num_*": "average"})
        model.norm.running_mean.fill_(float(peer.index))
        model.norm.num_batches_tracked.fill_(10 * peer.index + 1)  # the mean is 11
        optimizer.step()

    together(group, program)
    for model in models:
        np.testing.assert_allclose(model.norm.running_mean.numpy(), 1.0, atol=1e-6)
        assert int(model.norm.num_batches_tracked) == 11


def test_common_tensors_are_the_first_proposers_and_restored_by_every_round() -> None:
    policy = {"norm.num_batches_tracked": "common", "frozen.*": "common", "norm.running_var": "common"}
    before = Normed(5)
    ended = trained(policy, seeds=(5, 6, 7))
    for one in ended:
        assert int(one["norm.num_batches_tracked"]) == 0  # what it was at the beginning, at all peers
        for name in ("frozen.weight", "frozen.bias"):
            assert one[name].tobytes() == before.state_dict()[name].numpy().tobytes()
        assert np.array_equal(one["norm.running_var"], np.ones(4, np.float32))
    assert len({one["norm.running_mean"].tobytes() for one in ended}) == 3


def test_a_trained_parameter_can_stay_or_be_held() -> None:
    ended = trained({"head.*": "local", "first.bias": "common"})
    assert len({one["head.weight"].tobytes() for one in ended}) == 3
    assert {one["first.bias"].tobytes() for one in ended} == {Normed().first.bias.detach().numpy().tobytes()}
    assert len({one["first.weight"].tobytes() for one in ended}) == 1


def test_the_longest_glob_decides_and_what_fits_nothing_or_is_no_policy_is_refused() -> None:
    leaving = Leaving(Normed(), {"norm.*": "local", "norm.running_*": "average", "norm.running_mean": "common"})
    assert leaving.names == ("first.weight", "first.bias", "head.weight", "head.bias", "norm.running_var")
    assert [spec.name for spec in leaving.fixed] == ["norm.running_mean"]
    for policy, said in (
        ({"nrm.*": "average"}, "no tensor of the model is named like 'nrm"),
        ({"norm.*": "mean"}, "the policy of 'norm.*' is 'mean'; give a name pattern"),
        ([("norm.*", "local")], "must be a mapping"),
    ):
        with pytest.raises(LocalError) as caught:
            Leaving(Normed(), policy)  # type: ignore[arg-type]
        assert said in str(caught.value)


# ── local steps ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_mixed_precision_counts_the_steps_that_a_gradient_scaler_makes() -> None:
    peer = Group(1, PLAIN).peers[0]
    model = network(1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=100)
    training = attach(peer, model, optimizer)
    for step in range(5):
        x, y = batch(0, step)
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = torch.nn.functional.mse_loss(model(x), y)
        scaler.scale(loss * (float("inf") if step == 1 else 1.0)).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)  # not made where a gradient is inf
        scaler.update()
    assert (peer.calls, training.summary().rounds) == (2, 2)
    assert scaler.get_scale() == 2.0
    assert all(np.isfinite(value).all() for row in peer.contributed for value in row)


@pytest.mark.parametrize("clip", [False, True])
def test_what_is_done_to_gradients_before_a_step_is_the_users(clip: bool) -> None:
    """Accumulation, clipping and groups with rates of their own come to what they come to without the hook."""
    peer = Group(1, PLAIN).peers[0]
    models = network(1), network(1)
    for index, model in enumerate(models):
        groups = [{"params": model[0].parameters(), "lr": 0.2}, {"params": model[2].parameters()}]
        optimizer = torch.optim.AdamW(groups, 0.01)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4)
        if index == 0:
            attach(peer, model, optimizer)
        for step in range(8):
            x, y = batch(0, step)
            torch.nn.functional.mse_loss(model(x), y).backward()
            if step % 2:
                if clip:
                    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
    assert peer.calls == 2
    for ours, free in zip(values_of(models[0]), values_of(models[1]), strict=True):
        np.testing.assert_allclose(ours, free, atol=1e-6)  # common − (common − local), rounded


def test_a_closure_is_one_step() -> None:
    peer = Group(1, PLAIN).peers[0]
    model = network(1)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3)
    attach(peer, model, optimizer)
    x, y = batch(0, 0)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(x), y)
        loss.backward()
        return loss

    for _ in range(2):
        optimizer.step(closure)
    assert peer.calls == 1


def test_a_compiled_model_trains_with_plain_ones_under_the_same_names() -> None:
    group, models = Group(3, PLAIN), [network(seed) for seed in (1, 1, 1)]
    compiled = torch.compile(models[1], backend="eager")
    names: set[tuple[str, ...]] = set()

    def program(peer: Peer) -> None:
        model = compiled if peer.index == 1 else models[peer.index]
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        training = attach(peer, model, optimizer)
        names.add(training.leaving.names)
        for step in range(4):
            x, y = batch(peer.index, step)
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(model(x), y).backward()
            optimizer.step()

    together(group, program)
    assert names == {("0.weight", "0.bias", "2.weight", "2.bias")}
    assert all(same_bits(values_of(models[0]), values_of(model)) for model in models)


class Tied(torch.nn.Module):
    """An embedding that is the head too."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(7, 4)
        self.head = torch.nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.embedding(tokens))


def test_tied_weights_leave_once_and_stay_tied() -> None:
    group, models = Group(3, PLAIN), [Tied() for _ in range(3)]

    def program(peer: Peer) -> None:
        model = models[peer.index]
        optimizer = torch.optim.AdamW(model.parameters(), 0.01)
        attach(peer, model, optimizer)
        tokens = torch.arange(7).roll(peer.index)
        for _ in range(4):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(tokens), tokens.roll(1)).backward()
            optimizer.step()

    together(group, program)
    assert {peer.names for peer in group.peers} == {("embedding.weight",)}
    for model in models:
        assert model.head.weight is model.embedding.weight
        assert torch.equal(model.head.weight, models[0].head.weight)
