"""LoRA adapters together: what is averaged when, several ranks, adapters that are stuck, and plain PEFT afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import decentra
from averaging import Group, Peer, Terms, together
from decentra.errors import DecentraError, LocalError, Unavailable
from decentra.training import Training, adapters, attach
from decentra.training.ranks import Adapter, Padded, Pair, best_subspace
from decentra.training.tensors import Leaving, Policies
from starting import Group as Folders
from starting import all_at_once

MakeGroup = Callable[..., Folders]
Floats = NDArray[np.float64]

INPUTS, OUTPUTS = 7, 5
PLAIN = Terms(steps=2, outer_lr=1.0, outer_momentum=0.0, nesterov=False)
ROLORA = replace(PLAIN, adapters="rolora")


class Lora(torch.nn.Module):
    """A frozen linear layer and its adapter, named as PEFT names them."""

    def __init__(self, rank: int, alpha: float, inputs: int, outputs: int) -> None:
        super().__init__()
        self.base_layer = torch.nn.Linear(inputs, outputs).requires_grad_(False)
        self.lora_A = torch.nn.ModuleDict({"default": torch.nn.Linear(inputs, rank, bias=False)})
        self.lora_B = torch.nn.ModuleDict({"default": torch.nn.Linear(rank, outputs, bias=False)})
        self.scaling = {"default": alpha / rank}
        torch.nn.init.zeros_(self.lora_B["default"].weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        change: torch.Tensor = self.lora_B["default"](self.lora_A["default"](x))
        return self.base_layer(x) + self.scaling["default"] * change


def adapted(seed: int, rank: int = 2, alpha: float = 3.0) -> torch.nn.Module:
    """Two layers; the frozen parts are the same whatever the seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = torch.nn.Sequential(
            Lora(rank, alpha, INPUTS, OUTPUTS), torch.nn.Tanh(), Lora(rank, alpha, OUTPUTS, OUTPUTS)
        )
        torch.manual_seed(99)
        for layer in (model[0], model[2]):
            layer.base_layer.reset_parameters()
    return model


def adam(model: torch.nn.Module, **options: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], **{"lr": 0.02, **options})


def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, peer: int, number: int) -> None:
    x = torch.randn(16, INPUTS, generator=torch.Generator().manual_seed(1000 * peer + number))
    optimizer.zero_grad()
    (model(x) - x[:, :OUTPUTS].roll(peer, 1)).square().mean().backward()
    optimizer.step()


def halves(model: torch.nn.Module) -> tuple[bytes, bytes]:
    """The bits of all A's, and of all B's."""
    bits = {"A": b"", "B": b""}
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            bits[name.split("lora_")[1][0]] += parameter.detach().numpy().tobytes()
    return bits["A"], bits["B"]


def train(
    group: Group, models: Sequence[torch.nn.Module], rounds: int, seen: Callable[[int, Training], None], **options: Any
) -> list[Training]:
    """Train all models together, and show each peer's number and training behind every round; they stay attached."""
    trainings: dict[int, Training] = {}

    def program(peer: Peer) -> None:
        model, steps = models[peer.index], group.charter.training.steps
        optimizer = adam(model, weight_decay=0.1)
        training = trainings[peer.index] = adapters.attach(peer, model, optimizer, **options)
        for number in range(rounds * steps):
            step(model, optimizer, peer.index, number)
            if (number + 1) % steps == 0:
                seen(peer.index, training)

    together(group, program)
    return [trainings[index] for index in range(len(models))]


def nothing(_index: int, _training: Training) -> None:
    pass


# Which matrix is averaged when.


def test_fedit_averages_a_and_b() -> None:
    models, alone = [adapted(1) for _ in range(3)], [adapted(1) for _ in range(3)]
    train(Group(3, PLAIN), models, 1, nothing)
    for peer, model in enumerate(alone):
        optimizer = adam(model, weight_decay=0.1)
        for number in range(PLAIN.steps):
            step(model, optimizer, peer, number)
    for place, joined in enumerate(models[0].parameters()):
        ends = [[*model.parameters()][place].detach().double() for model in alone]
        torch.testing.assert_close(joined.detach().double(), torch.stack(ends).mean(0), atol=1e-6, rtol=0)
    assert len({halves(model) for model in models}) == 1


def test_ffa_leaves_a_untouched_and_equal_at_all_and_trains_b() -> None:
    models = [adapted(seed) for seed in (1, 2, 3)]
    first, _ = halves(models[0])
    seen: list[tuple[bytes, bytes]] = []
    trainings = train(
        Group(3, Terms(steps=2, adapters="ffa")), models, 3, lambda index, _: seen.append(halves(models[index]))
    )
    assert {a for a, _ in seen} == {first}
    assert len({b for _, b in seen}) == 3  # one a round, and equal at all
    assert all(".lora_B." in name for name in trainings[0].leaving.names)
    assert all(spec.name in models[0].state_dict() and ".lora_A." in spec.name for spec in trainings[0].leaving.fixed)


def turns(seen: dict[int, list[tuple[bytes, bytes]]], begun: tuple[bytes, bytes], index: int) -> str:
    """Which half a peer's model changed in, round by round."""
    states = [begun, *seen[index]]
    return "".join(
        {(False, True): "B", (True, False): "A", (False, False): "-"}.get((a != c, b != d), "?")
        for (a, b), (c, d) in pairwise(states)
    )


@pytest.mark.parametrize("terms", [PLAIN, Terms(steps=2), Terms(steps=2, outer="adam", outer_lr=0.1)])
def test_rolora_trains_b_and_a_by_turns_and_what_rests_does_not_move(terms: Terms) -> None:
    models = [adapted(1) for _ in range(3)]
    group = Group(3, replace(terms, adapters="rolora"))
    begun, seen = halves(models[0]), {index: [] for index in range(3)}
    within: set[tuple[int, str]] = set()

    def program(peer: Peer) -> None:
        model = models[peer.index]
        optimizer = adam(model, weight_decay=0.1)  # decay moves all that has a gradient
        adapters.attach(peer, model, optimizer)
        for number in range(4 * PLAIN.steps):
            before = halves(model)
            step(model, optimizer, peer.index, number)
            after = halves(model)
            if (number + 1) % PLAIN.steps:
                within.add((number // PLAIN.steps, "AB"[before[1] != after[1]]))
                assert (before[0] != after[0]) != (before[1] != after[1])
            else:
                seen[peer.index].append(after)

    together(group, program)
    assert seen[0] == seen[1] == seen[2]
    assert turns(seen, begun, 0) == "BABA"
    assert within == {(0, "B"), (1, "A"), (2, "B"), (3, "A")}


@pytest.mark.parametrize("spent", [True, False])
def test_rolora_goes_by_the_groups_outer_steps_over_a_missed_round(spent: bool) -> None:
    models = [adapted(1) for _ in range(3)]
    group, begun, seen = Group(3, ROLORA), halves(models[0]), {index: [] for index in range(3)}

    def fails(index: int) -> DecentraError | None:
        error = Unavailable([], 1.0, "its deal", "check that it runs")
        error.spent = spent
        return error if index == 2 else None

    group.failures[2] = fails
    train(group, models, 5, lambda index, _: seen[index].append(halves(models[index])))
    assert turns(seen, begun, 0) == turns(seen, begun, 1) == "BABAB"
    assert seen[2][2:] == seen[0][2:]
    missed = group.peers[2].contributed[1]  # of the third round: it had trained A, as the group had before
    assert not any(part.any() for part in missed)
    assert all(any(part.any() for part in parts) for parts in group.peers[2].contributed[2:])


def test_rolora_keeps_no_progress_of_a_matrix_that_rests() -> None:
    models = [adapted(1) for _ in range(3)]
    group = Group(3, ROLORA)
    group.left_out = {(1, 2)}
    seen: dict[int, list[tuple[bytes, bytes]]] = {index: [] for index in range(3)}
    train(group, models, 2, lambda index, _: seen[index].append(halves(models[index])))
    assert seen[2] == seen[0]


def test_what_clipping_cut_waits_for_its_matrix() -> None:
    model = adapted(1)

    def program(peer: Peer) -> None:
        optimizer = adam(model)
        training = adapters.attach(peer, model, optimizer)
        held: list[list[float]] = []
        for number in range(4 * PLAIN.steps):
            if number == 1:
                for name, part in zip(training.leaving.names, training.residual, strict=True):
                    part += "lora_B" in name  # as if the first round, of B, had cut it
            step(model, optimizer, 0, number)
            if (number + 1) % PLAIN.steps == 0:
                held.append([float(part.max()) for part in training.residual])
        assert held == [[0.0] * 4, [0.0, 1.0] * 2, [0.0] * 4, [0.0, 1.0] * 2]

    together(Group(1, ROLORA), program)


def test_after_training_together_both_matrices_are_their_owners() -> None:
    model = adapted(1)
    group = Group(1, ROLORA)

    def program(peer: Peer) -> None:
        optimizer = adam(model)
        training = adapters.attach(peer, model, optimizer)
        for number in range(PLAIN.steps):
            step(model, optimizer, 0, number)
        training.finish()
        before = halves(model)
        step(model, optimizer, 0, 9)
        step(model, optimizer, 0, 10)
        assert all(now != was for now, was in zip(halves(model), before, strict=True))

    together(group, program)


@pytest.mark.parametrize(
    ("terms", "options", "said"),
    [
        (ROLORA, {"overlap": True}, "set overlap=False"),
        (Terms(adapters="ffa"), {"rank": 4}, "leave rank out"),
        (Terms(fragments=2, adapters="rolora"), {}, "without training.fragments"),
        (Terms(fragments=2), {"rank": 4}, "without training.fragments"),
        (PLAIN, {"rank": 4, "policy": {"*lora_A*": "local"}}, "leave adapters out of the policy"),
        (PLAIN, {"method": "flora"}, "choose one of fedit, ffa, rolora"),
        (PLAIN, {"rank": 1}, "has rank 2, and the group's is to be 1"),
        (PLAIN, {"rank": True}, "must be a whole number"),
        (PLAIN, {"policy": "common"}, "must be a mapping"),
    ],
)
def test_what_cannot_be_trained_so_is_refused_and_leaves_the_model_as_it_was(
    terms: Terms, options: dict[str, Any], said: str
) -> None:
    model = adapted(1)
    optimizer = adam(model)
    with pytest.raises(LocalError, match=said):
        adapters.attach(Group(1, terms).peers[0], model, optimizer, **options)
    assert all(parameter.requires_grad for name, parameter in model.named_parameters() if "lora_" in name)
    step(model, optimizer, 0, 0)  # no round, and no error


@pytest.mark.parametrize("agreed", [None, *adapters.Method])
@pytest.mark.parametrize("own", adapters.Method)
def test_who_would_train_adapters_by_another_method_than_its_group_is_refused(agreed: str | None, own: str) -> None:
    """FedIT and RoLoRA send tensors of the same names and shapes, so that nothing else would tell them apart."""
    peer, model = Group(1, replace(PLAIN, adapters=agreed)).peers[0], adapted(1)
    optimizer = adam(model)
    if own == (agreed or "fedit"):
        adapters.attach(peer, model, optimizer, method=own)
        return
    said = f"trained by {agreed or 'fedit'}, and this peer would train them by {own}:"
    with pytest.raises(LocalError, match=said):
        adapters.attach(peer, model, optimizer, method=own)
    if own == "fedit":  # which is what happens to adapters where nobody knows of them
        with pytest.raises(LocalError, match=said):
            attach(peer, model, optimizer)
    assert all(parameter.requires_grad for name, parameter in model.named_parameters() if "lora_" in name)
    step(model, optimizer, 0, 0)
    step(model, optimizer, 0, 1)
    assert peer.calls == 0


def test_a_model_without_adapters_is_refused() -> None:
    model = torch.nn.Linear(2, 2)
    with pytest.raises(LocalError, match="get_peft_model"):
        adapters.attach(Group(1, PLAIN).peers[0], model, torch.optim.SGD(model.parameters(), 0.1))


# Several ranks.


def product(model: torch.nn.Module, layer: int) -> Floats:
    """What a layer's adapter adds to its matrix."""
    lora = model[layer]
    change = lora.lora_B["default"].weight.double() @ lora.lora_A["default"].weight.double() * lora.scaling["default"]
    return change.detach().numpy()


def best(whole: Floats, rank: int) -> Floats:
    u, s, vt = np.linalg.svd(whole)
    return (u[:, :rank] * s[:rank]) @ vt[:rank]


def test_ranks_are_padded_exactly() -> None:
    models, alone = [adapted(1, rank) for rank in (2, 3)], adapted(1, 2)
    group = Group(2, PLAIN)
    train(group, models, 1, nothing, rank=4)
    begun = [p.detach().clone() for p in alone.parameters() if p.requires_grad]
    optimizer = adam(alone, weight_decay=0.1)
    for number in range(PLAIN.steps):
        step(alone, optimizer, 0, number)
    ended = [p.detach() for p in alone.parameters() if p.requires_grad]
    for half, (update, was, now) in enumerate(zip(group.peers[0].contributed[0], begun, ended, strict=True)):
        moved = (was - now).double().numpy() * (1.5 if half % 2 else 1.0)
        expected = np.pad(moved, ((0, 0), (0, 2)) if half % 2 else ((0, 2), (0, 0)))
        np.testing.assert_allclose(update, expected, atol=3e-7)
        assert not update[expected == 0].any()


def test_each_peer_holds_the_best_of_its_rank_of_the_averaged_adapter() -> None:
    ranks, alphas = (1, 2, 4), (1.0, 3.0, 2.0)
    models = [adapted(seed, rank, alpha) for seed, rank, alpha in zip((1, 2, 3), ranks, alphas, strict=True)]

    def seen(index: int, training: Training) -> None:
        for place, layer in enumerate((0, 2)):
            a, b = (training.leaving.read(2 * place + half).astype(np.float64) for half in range(2))
            np.testing.assert_allclose(product(models[index], layer), best(b @ a, ranks[index]), atol=2e-6)
        assert not any(part.any() for part in training.state.update()), "cutting down is no progress"
        assert training.leaving.digest() == training.state.digest()

    group = Group(3, PLAIN)
    trainings = train(group, models, 5, seen, rank=4)
    assert len({training.state.pieces() for training in trainings}) == 1
    assert all(len(digests) == 1 for digests in group.digests)
    spectrum = np.linalg.svd(product(models[2], 0))[1]
    assert spectrum[3] > 1e-4, "the group's adapter is of its whole rank, also where the first peer's is 1"


@given(
    seed=st.integers(0, 2**32 - 1),
    whole=st.integers(2, 6),
    data=st.data(),
)
def test_the_best_subspace_is_best_and_a_change_arrives_whole(seed: int, whole: int, data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, whole - 1))
    of_a, of_b = (data.draw(st.integers(0, whole)) for _ in range(2))
    draw = np.random.default_rng(seed)
    a = draw.standard_normal((whole, of_a)) @ draw.standard_normal((of_a, 9))
    b = draw.standard_normal((8, of_b)) @ draw.standard_normal((of_b, whole))
    m, n = best_subspace(a, b, np.eye(rank, whole))
    np.testing.assert_allclose(n @ m, np.eye(rank), atol=1e-6)
    np.testing.assert_allclose(n @ n.T, np.eye(rank), atol=1e-9)
    turned = np.linalg.qr(draw.standard_normal((rank, rank)))[0]
    np.testing.assert_allclose(best_subspace(a, b, turned @ n)[1], turned @ n, atol=1e-5)  # nearest to what was before
    size = max(1.0, float(np.abs(m).max()))
    np.testing.assert_allclose(b @ m @ n @ a, best(b @ a, rank), atol=1e-6 * size)
    da, db = draw.standard_normal((rank, 9)), draw.standard_normal((8, rank))
    arrived = (b + db @ n) @ (a + m @ da)
    np.testing.assert_allclose(arrived, (b @ m + db) @ (n @ a + da) + b @ a - b @ m @ n @ a, atol=1e-6 * size)


def test_cutting_down_keeps_an_a_to_learn_a_b_from() -> None:
    a, b = np.random.default_rng(1).standard_normal((4, 9)), np.zeros((8, 4))
    m, n = best_subspace(a, b, np.eye(2, 4))
    np.testing.assert_allclose(np.linalg.svd(n @ a)[1], np.linalg.svd(a)[1][:2])  # the largest that it can keep
    assert not (b @ m).any()


def test_what_a_peer_learned_arrives_whole_and_what_it_could_not_hold_stays() -> None:
    model = adapted(1, 2)
    (adapter, _), lora = adapters.find(model), model[0]
    pair, draw = Pair(adapter, 4), np.random.default_rng(7)
    whole = [draw.standard_normal(pair.shape(half)).astype(np.float32) for half in range(2)]
    for half in range(2):
        pair.write(half, whole[half])
    lost = whole[1] @ whole[0] - product(model, 0)
    with torch.no_grad():
        lora.lora_A["default"].weight += torch.from_numpy(draw.standard_normal((2, INPUTS)))
        lora.lora_B["default"].weight += torch.from_numpy(draw.standard_normal((OUTPUTS, 2)))
    assert np.abs(lost).max() > 0.1
    np.testing.assert_allclose(pair.read(1) @ pair.read(0), product(model, 0) + lost, atol=1e-5)


def test_a_peer_of_the_groups_rank_holds_the_groups_adapter_itself() -> None:
    model = adapted(1, 4, 4.0)
    pair = Pair(adapters.find(model)[0], 4)
    draw = np.random.default_rng(2)
    written = [draw.standard_normal(pair.shape(half)).astype(np.float32) for half in range(2)]
    for half in range(2):
        pair.write(half, written[half])
    assert model[0].lora_A["default"].weight.detach().numpy().tobytes() == written[0].tobytes()
    assert model[0].lora_B["default"].weight.detach().numpy().tobytes() == written[1].tobytes()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_written_is_read_again_to_the_bit_and_a_copy_is_apart(dtype: torch.dtype) -> None:
    model = adapted(1, 2).to(dtype)
    views = Padded(adapters.find(model), 4)
    leaving = Leaving(model, Policies(views=views))
    draw = np.random.default_rng(3)
    values = {name: draw.standard_normal(shape).astype(np.float32) for name, shape in views.shapes.items()}
    for index, name in enumerate(leaving.names):
        leaving.write(index, values[name])
    assert not any(leaving.progress(index, values[name].reshape(-1)).any() for index, name in enumerate(leaving.names))
    assert all(views.read(name).tobytes() == one.tobytes() for name, one in values.items())
    before, other = halves(model.float()), views.copy()
    for name, one in values.items():
        other.write(name, 2 * one)
    assert halves(model) == before
    assert all(views.read(name).tobytes() == one.tobytes() for name, one in values.items())


def test_a_convolutions_adapter_is_a_matrix_too() -> None:
    a, b = torch.randn(2, 3, 5, 5), torch.randn(6, 2, 1, 1)
    pair = Pair(Adapter(("a", "b"), a, b, 1.0), 3)
    assert (pair.shape(0), pair.shape(1)) == ((3, 75), (6, 3))
    whole = [pair.read(0), pair.read(1)]
    before = torch.einsum("or,rihw->oihw", b[:, :, 0, 0], a)
    for half in range(2):
        pair.write(half, whole[half])
    torch.testing.assert_close(torch.einsum("or,rihw->oihw", b[:, :, 0, 0], a), before)


def test_a_move_in_flight_is_made_in_the_groups_coordinates() -> None:
    model = adapted(1, 2)
    leaving = Leaving(model, Policies(views=Padded(adapters.find(model), 4)))
    draw = np.random.default_rng(4)
    for index in range(len(leaving)):
        leaving.write(index, draw.standard_normal(leaving.specs[index].shape).astype(np.float32))
    before, after = leaving.copy(), leaving.copy()
    landed, held = [after.read(index) + 1 for index in range(len(leaving))], halves(model)
    for index, values in enumerate(landed):
        after.write(index, values)
    assert halves(model) == held and leaving.digest() == before.digest() != after.digest()
    leaving.move(after, before)
    for index, values in enumerate(landed):
        np.testing.assert_allclose(leaving.read(index), values, atol=1e-6)


def test_ranks_train_beside_rounds_under_way() -> None:
    models = [adapted(1, rank) for rank in (1, 3)]
    trainings = train(Group(2, PLAIN), models, 4, nothing, rank=3, overlap=True)
    for training in trainings:
        training.finish()
    assert len({training.state.pieces() for training in trainings}) == 1
    assert trainings[0].leaving.digest() == trainings[1].leaving.digest()


# Adapters that are stuck.


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("not held", "the optimizer holds none of their parameters"),
        ("rate", "their learning rate is 0"),
        ("no gradient", "no gradient reached them"),
        ("both zero", "their gradients are zero"),
    ],
)
@pytest.mark.parametrize("method", ["fedit", "rolora"])
def test_training_stops_where_no_adapter_has_changed_by_the_first_round(method: str, how: str, said: str) -> None:
    model = adapted(1)
    for layer in (model[0], model[2]):
        if how == "both zero":
            torch.nn.init.zeros_(layer.lora_A["default"].weight)
        if how == "no gradient":
            layer.forward = layer.base_layer.forward
    held = [layer.lora_B["default"].weight for layer in (model[0], model[2])]
    if how == "not held":  # decay moves A, yet the product stays zero
        held = [layer.lora_A["default"].weight for layer in (model[0], model[2])]
    optimizer = torch.optim.AdamW(held, lr=0.0 if how == "rate" else 0.1)
    peer = Group(1, replace(PLAIN, adapters=method)).peers[0]
    adapters.attach(peer, model, optimizer)

    def local_step() -> None:
        optimizer.zero_grad()
        loss = model(torch.ones(1, INPUTS)).sum()
        if loss.requires_grad:
            loss.backward()
        optimizer.step()

    local_step()
    with pytest.raises(LocalError, match=f"no adapter has changed in the first 2 local steps.*{said}"):
        local_step()
    assert peer.calls == 0


def test_a_rate_that_rises_from_zero_is_let_pass() -> None:
    model = adapted(1)
    optimizer = adam(model, lr=0.0)
    adapters.attach(Group(1, Terms(steps=1)).peers[0], model, optimizer)
    step(model, optimizer, 0, 0)
    optimizer.param_groups[0]["lr"] = 0.1
    for number in range(1, 4):
        step(model, optimizer, 0, number)


# Real peers, and PEFT.


def test_what_cannot_be_trained_so_is_refused_before_the_group_hears_of_it(make_group: MakeGroup) -> None:
    group, model = make_group(3), adapted(1)
    with pytest.raises(LocalError, match="leave checkpoint"):
        adapters.join(model, adam(model), group.folders[0].path, rank=4, checkpoint="here")
    assert not group.folders[0].journal.exists()


@pytest.mark.parametrize("other", ["fedit", "ffa"])
def test_peers_that_mix_methods_are_refused_with_both_names(make_group: MakeGroup, other: str) -> None:
    group = make_group(3, training__adapters="rolora")
    said = f"trained by rolora, and this peer would train them by {other}:"
    model = adapted(1)
    with pytest.raises(LocalError, match=said):
        adapters.join(model, adam(model), group.folders[0].path, method=other)
    assert not group.folders[0].journal.exists()
    if other == "fedit":
        with pytest.raises(LocalError, match=said):
            decentra.join(model, adam(model), group.folders[0].path)


def llama() -> torch.nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
    )
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return LlamaForCausalLM(config).eval()


def with_adapter(seed: int, rank: int) -> torch.nn.Module:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(r=rank, lora_alpha=2 * rank + 1, target_modules=["q_proj", "v_proj", "o_proj"])
    return get_peft_model(llama(), config)


SENTENCES = torch.arange(24).reshape(2, 12) % 50


@pytest.mark.parametrize(
    ("method", "rank", "ranks"), [("fedit", 4, (2, 4, 3)), ("ffa", None, (2, 2, 2)), ("rolora", None, (2, 2, 2))]
)
def test_peers_train_adapters_that_plain_peft_loads(
    make_group: MakeGroup, tmp_path: Path, method: str, rank: int | None, ranks: tuple[int, ...]
) -> None:
    from peft import PeftModel

    group = make_group(
        3,
        training__steps=2,
        training__adapters=method,
        protocol__initial_range=0.5,
        rounds__ready_deadline=20.0,
        rounds__phase_deadline=10.0,
    )

    def one(index: int, model: torch.nn.Module) -> tuple[list[tuple[bytes, bytes]], str, Path]:
        optimizer = adam(model, lr=0.05, weight_decay=0.1)
        seen = []
        with adapters.join(model, optimizer, group.folders[index].path, method=method, rank=rank) as peer:
            seen.append(halves(model))
            for number in range(6):
                tokens = torch.randint(50, (2, 12), generator=torch.Generator().manual_seed(100 * index + number))
                optimizer.zero_grad()
                model(input_ids=tokens, labels=tokens).loss.backward()
                optimizer.step()
                if number % 2:
                    seen.append(halves(model))
            summary = peer.close()
        assert (summary.rounds, summary.failed, summary.outer_steps) == (3, 0, 3)
        model.save_pretrained(tmp_path / f"adapter-{index}")
        return seen, summary.parameters, tmp_path / f"adapter-{index}"

    models = [with_adapter(index, own) for index, own in enumerate(ranks)]
    ended = all_at_once([partial(one, index, model) for index, model in enumerate(models)])
    assert not [each for each in ended if isinstance(each, BaseException)], ended
    assert len({parameters for _, parameters, _ in ended}) == 1
    if rank is None:
        assert ended[0][0] == ended[1][0] == ended[2][0]
        moved = [(now[0] != was[0], now[1] != was[1]) for was, now in pairwise(ended[0][0])]
        only_b, only_a = (False, True), (True, False)
        assert moved == ([only_b] * 3 if method == "ffa" else [only_b, only_a, only_b])
    for model, (_, _, folder) in zip(models, ended, strict=True):
        loaded = PeftModel.from_pretrained(llama(), folder)
        with torch.no_grad():
            expected, plain = model.eval()(input_ids=SENTENCES).logits, llama()(input_ids=SENTENCES).logits
            torch.testing.assert_close(loaded.eval()(input_ids=SENTENCES).logits, expected, atol=0, rtol=0)
            assert (expected - plain).abs().max() > 1e-3
