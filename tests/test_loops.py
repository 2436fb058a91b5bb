"""The same training in four loops: plain PyTorch, Hugging Face, Lightning and Opacus give the same parameters.

Every group is one of real peers over ZeroMQ, each in a thread of its own, on its own data.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import decentra
from decentra import LocalError
from decentra.crypto import ring
from decentra.crypto.hashing import expand
from decentra.peer.config import PeerFolder
from decentra.training import adapters
from decentra.training.hook import Summary
from decentra.training.tensors import Leaving
from starting import Group, all_at_once

os.environ["HF_HUB_OFFLINE"] = "1"

PEERS = Path(__file__).resolve().parent.parent / "peers"

N, H, ROUNDS = 3, 2, 3
ACCUMULATED, BATCH = 2, 4
STEPS = H * ROUNDS
SMALL = {
    "training__steps": H,
    "training__outer_momentum": 0.5,
    "protocol__initial_range": 1.0,
    "protocol__width": 32,
    "rounds__ready_deadline": 30.0,
    "rounds__phase_deadline": 20.0,
}
PROTOCOLS = pytest.mark.parametrize("protocol", ["secagg", "allreduce", "mesh"])

MakeGroup = Callable[..., Group]
Parameters = list[NDArray[np.float32]]
Loop = Callable[[int, Path], tuple[torch.nn.Module, Summary]]
"""Trains peer number so and so in its folder, and gives the model and what closing said."""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


# ── a model that all can train ───────────────────────────────────────────────────────────────────────────────────────


def network() -> torch.nn.Sequential:
    draw = torch.Generator().manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=draw))
    return model


def data(index: int) -> torch.utils.data.TensorDataset:
    x = torch.randn((STEPS * ACCUMULATED * BATCH, 6), generator=torch.Generator().manual_seed(index))
    return torch.utils.data.TensorDataset(x, x.sum(1, keepdim=True) + 0.3 * index)


def batches(index: int, size: int = BATCH) -> torch.utils.data.DataLoader[Any]:
    return torch.utils.data.DataLoader(data(index), batch_size=size)


def sgd(model: torch.nn.Module) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    return optimizer, torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)


def loss_of(model: torch.nn.Module, batch: list[torch.Tensor]) -> torch.Tensor:
    x, y = batch
    return torch.nn.functional.mse_loss(model(x), y)


def plain(index: int, folder: Path) -> tuple[torch.nn.Module, Summary]:
    model = network()
    optimizer, schedule = sgd(model)
    with decentra.join(model, optimizer, folder) as peer:
        for place, batch in enumerate(batches(index)):
            torch.autograd.backward(loss_of(model, batch) / ACCUMULATED)
            if (place + 1) % ACCUMULATED == 0:
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
    return model, peer.summary()


def accelerated(index: int, folder: Path) -> tuple[torch.nn.Module, Summary]:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=ACCUMULATED)
    model = network()
    optimizer, schedule = sgd(model)
    prepared, stepper, loader, schedule = accelerator.prepare(model, optimizer, batches(index), schedule)
    with decentra.join(prepared, stepper, folder) as peer:
        for batch in loader:
            with accelerator.accumulate(prepared):
                accelerator.backward(loss_of(prepared, batch))
                stepper.step()
                schedule.step()
                stepper.zero_grad()
    return model, peer.summary()


def lightning(index: int, folder: Path, spoil: int | None = None) -> tuple[torch.nn.Module, Summary]:
    from lightning import pytorch

    import decentra.lightning

    class Module(pytorch.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def training_step(self, batch: list[torch.Tensor], place: int) -> torch.Tensor:
            if place == spoil:
                raise ZeroDivisionError
            return loss_of(self.net, batch)

        def configure_optimizers(self) -> Any:
            optimizer, schedule = sgd(self)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    module, together = Module(), decentra.lightning.Callback(folder)
    trainer = pytorch.Trainer(
        max_epochs=1,
        accumulate_grad_batches=ACCUMULATED,
        accelerator="cpu",
        callbacks=[together],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    assert together.peer is None and together.summary is None
    try:
        trainer.fit(module, batches(index))
    except ZeroDivisionError:
        assert spoil is not None
    assert together.peer is not None and together.peer._closed
    return module.net, together.summary


def opacus(index: int, folder: Path) -> tuple[torch.nn.Module, Summary]:
    from opacus import PrivacyEngine

    model = network()
    optimizer, schedule = sgd(model)
    private, stepper, loader = PrivacyEngine().make_private(
        module=model,
        optimizer=optimizer,
        data_loader=batches(index, ACCUMULATED * BATCH),
        noise_multiplier=0.0,
        max_grad_norm=1e6,
        poisson_sampling=False,
    )
    with decentra.join(private, stepper, folder) as peer:
        for batch in loader:
            torch.autograd.backward(loss_of(private, batch))
            stepper.step()
            schedule.step()
            stepper.zero_grad()
    return model, peer.summary()


# ── a language model of Hugging Face's ───────────────────────────────────────────────────────────────────────────────


def llama() -> torch.nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.1 + (parameter.dim() == 1))
    return model


def texts(index: int) -> list[dict[str, torch.Tensor]]:
    draw = torch.Generator().manual_seed(index)
    tokens = torch.randint(32, (STEPS * ACCUMULATED * BATCH, 8), generator=draw)
    return [{"input_ids": row, "labels": row} for row in tokens]


def adapted_llama() -> torch.nn.Module:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(llama(), LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_A" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=draw))
    return model


def adam(model: torch.nn.Module) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, weight_decay=0.0)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / STEPS)


def plain_llama(
    index: int, folder: Path, make: Callable[[], torch.nn.Module] = llama, join: Any = decentra.join
) -> tuple[torch.nn.Module, Summary]:
    model = make()
    optimizer, schedule = adam(model)
    with join(model, optimizer, folder) as peer:
        for place, rows in enumerate(torch.utils.data.DataLoader(texts(index), batch_size=BATCH)):
            torch.autograd.backward(model(**rows, num_items_in_batch=ACCUMULATED * BATCH * 7).loss)
            if (place + 1) % ACCUMULATED == 0:
                torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
    return model, peer.summary()


def trainer_of(index: int, folder: Path, together: Any, make: Callable[[], torch.nn.Module] = llama) -> Any:
    from transformers import Trainer, TrainingArguments

    arguments = {
        "per_device_train_batch_size": BATCH,
        "gradient_accumulation_steps": ACCUMULATED,
        "train_sampling_strategy": "sequential",
        "num_train_epochs": 1,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "linear",
        "optim": "adamw_torch",
        "max_grad_norm": 0.5,
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    chosen = TrainingArguments(str(folder / "trainer"), **arguments)
    return Trainer(make(), chosen, train_dataset=texts(index), callbacks=[together])


def hugging_face(
    index: int, folder: Path, make: Callable[[], torch.nn.Module] = llama, **options: Any
) -> tuple[torch.nn.Module, Summary]:
    import decentra.hf

    together = decentra.hf.Callback(folder, **options)
    trainer = trainer_of(index, folder, together, make)
    assert together.peer is None and together.summary is None
    trainer.train()
    assert together.peer is not None and together.peer._closed
    return trainer.model, together.summary


def lightning_llama(
    index: int, folder: Path, make: Callable[[], torch.nn.Module] = llama, **options: Any
) -> tuple[torch.nn.Module, Summary]:
    from lightning import pytorch

    import decentra.lightning

    class Module(pytorch.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = make()

        def training_step(self, rows: dict[str, torch.Tensor], place: int) -> torch.Tensor:
            return ACCUMULATED * self.net(**rows, num_items_in_batch=ACCUMULATED * BATCH * 7).loss

        def configure_optimizers(self) -> Any:
            optimizer, schedule = adam(self)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    module, together = Module(), decentra.lightning.Callback(folder, **options)
    trainer = pytorch.Trainer(
        max_epochs=1,
        accumulate_grad_batches=ACCUMULATED,
        gradient_clip_val=0.5,
        accelerator="cpu",
        callbacks=[together],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, torch.utils.data.DataLoader(texts(index), batch_size=BATCH))
    return module.net, together.summary


@pytest.fixture(autouse=True)
def _accelerators_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accelerate keeps its state once a process, and here every peer is a thread: let it be once a thread."""
    from accelerate import state

    for kind in (state.PartialState, state.AcceleratorState, state.GradientState):
        monkeypatch.setattr(kind, "_shared_state", state.ThreadLocalSharedDict())


@pytest.fixture(autouse=True)
def _rounding_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Updates are rounded at random to what travels: alike in all groups here, so that their bits may be compared."""
    monkeypatch.setattr(ring, "expand", lambda seed, label: expand(bytes(32), label))


# ── the same everywhere ──────────────────────────────────────────────────────────────────────────────────────────────


def values_of(model: torch.nn.Module) -> Parameters:
    return [parameter.detach().numpy().copy() for parameter in model.parameters()]


def trained(make_group: MakeGroup, protocol: str, loop: Loop, **changes: Any) -> Parameters:
    """What a group of this loop's peers comes to, which is the same at all of them."""
    group = make_group(N, protocol, **SMALL, **changes)
    ended = all_at_once([partial(loop, index, group.folders[index].path) for index in range(N)])
    for one in ended:
        if isinstance(one, BaseException):
            raise one
    models, summaries = zip(*ended, strict=True)
    assert {(summary.rounds, summary.failed) for summary in summaries} == {(ROUNDS, 0)}
    assert len({summary.parameters for summary in summaries}) == 1
    values = [values_of(model) for model in models]
    assert all(one.tobytes() == other.tobytes() for row in values for one, other in zip(row, values[0], strict=True))
    return values[0]


EXPECTED: dict[tuple[str, Loop], Parameters] = {}
"""What the plain loops came to, once a protocol and model."""


def expected(make_group: MakeGroup, protocol: str, loop: Loop) -> Parameters:
    if (protocol, loop) not in EXPECTED:
        EXPECTED[protocol, loop] = trained(make_group, protocol, loop)
    return EXPECTED[protocol, loop]


@PROTOCOLS
@pytest.mark.parametrize(("loop", "reference"), [(lightning, plain), (accelerated, plain), (hugging_face, plain_llama)])
def test_a_loop_of_another_library_gives_the_bits_of_the_plain_one(
    make_group: MakeGroup, protocol: str, loop: Loop, reference: Loop
) -> None:
    ours = trained(make_group, protocol, loop)
    begun = values_of(llama() if loop is hugging_face else network())
    for value, wanted, before in zip(ours, expected(make_group, protocol, reference), begun, strict=True):
        assert value.tobytes() == wanted.tobytes() != before.tobytes()


@PROTOCOLS
def test_opacus_without_noise_and_clipping_gives_the_plain_parameters(make_group: MakeGroup, protocol: str) -> None:
    """Opacus sums the gradients of single rows, in another order: a few units in the last place of values up to 4."""
    ours = trained(make_group, protocol, opacus)
    for value, wanted in zip(ours, expected(make_group, protocol, plain), strict=True):
        np.testing.assert_allclose(value, wanted, rtol=0, atol=2e-6)


@pytest.mark.parametrize("method", ["ffa", "rolora"])
def test_a_callback_trains_adapters_by_the_charters_method_to_the_bits_of_the_plain_loop(
    make_group: MakeGroup, method: str
) -> None:
    plainly, hf, light = (
        trained(
            make_group,
            "secagg",
            partial(loop, make=adapted_llama, join=adapters.join),
            training__adapters=method,
        )
        for loop in (plain_llama, hugging_face, lightning_llama)
    )
    names = [name for name, _ in adapted_llama().named_parameters()]
    for name, before, *after in zip(names, values_of(adapted_llama()), plainly, hf, light, strict=True):
        assert len({value.tobytes() for value in after}) == 1
        moved = "lora_B" in name or ("lora_A" in name and method == "rolora")
        assert (after[0].tobytes() != before.tobytes()) == moved, name


# ── the examples ─────────────────────────────────────────────────────────────────────────────────────────────────────


def example(name: str) -> Any:
    """A program of ``peers/``, as a module."""
    spec = importlib.util.spec_from_file_location(name, PEERS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_example(group: Group, monkeypatch: pytest.MonkeyPatch, name: str, *arguments: str) -> None:
    """Run it at every peer, each in its folder; ``{index}`` in an argument is the peer's number."""
    module, here = example(name), threading.local()
    monkeypatch.setattr(PeerFolder, "find", lambda state: group.folders[here.index])

    def run(index: int) -> None:
        here.index = index
        module.main([argument.format(index=index) for argument in arguments])

    assert all_at_once([partial(run, index) for index in range(N)]) == [None] * N


def ended_alike(printed: str, rounds: int) -> bool:
    """Whether all peers said that they made so many rounds and hold the same parameters."""
    said = re.findall(r"(\d+) rounds: sent .*; parameters ([0-9a-f]{16})", printed)
    return len(said) == N and len(set(said)) == 1 and said[0][0] == str(rounds)


def test_the_example_with_a_trainer_of_hugging_face(
    make_group: MakeGroup, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for index in range(N):
        (tmp_path / f"{index}.txt").write_text(f"Peer {index} has a text of its own, and says it again. " * 40)
    words = [str(tmp_path / "{index}.txt"), "--steps", str(ROUNDS * H + 1)]
    run_example(make_group(N, **SMALL), monkeypatch, "hf_trainer", *words)
    assert ended_alike(capsys.readouterr().out, ROUNDS)


def test_the_example_with_a_trainer_of_lightning(
    make_group: MakeGroup, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_example(make_group(N, **SMALL), monkeypatch, "lightning_loop", "--seed", "{index}", "--epochs", "1")
    assert ended_alike(capsys.readouterr().out, 512 // 32 // H)


# ── what becomes of a training that does not end well ────────────────────────────────────────────────────────────────


class Broken(list[Any]):
    """Data whose last rows can't be read."""

    def __getitem__(self, place: Any) -> Any:
        if place >= len(self) - BATCH:
            raise ZeroDivisionError
        return super().__getitem__(place)


def common_at_the_end(together: Any, model: torch.nn.Module) -> bool:
    """Whether the peer is closed and the model at the parameters of the last round, which both of these say."""
    leaving = together.peer._training.leaving
    assert {id(parameter) for parameter in model.parameters()} == {id(tensor) for tensor in leaving._tensors}
    return bool(together.peer._closed and leaving.digest().hex() == together.summary.parameters)


def test_after_an_error_in_lightning_the_peer_is_closed_and_the_model_common(make_group: MakeGroup) -> None:
    group = make_group(N, **SMALL)
    spoilt = 2 * H * ACCUMULATED + 1
    calls = [partial(lightning, index, group.folders[index].path, spoilt) for index in range(N)]
    ended = all_at_once(calls)
    assert not [one for one in ended if isinstance(one, BaseException)], ended
    assert [summary.rounds for _, summary in ended] == [2] * N
    for model, summary in ended:
        assert Leaving(model).digest().hex() == summary.parameters


def test_after_an_error_in_a_trainer_a_with_closes_and_so_does_training_again(make_group: MakeGroup) -> None:
    import decentra.hf

    group = make_group(N, **SMALL)

    def twice(index: int) -> list[int]:
        folder = group.folders[index].path
        with decentra.hf.Callback(folder) as together:
            trainer = trainer_of(index, folder, together)
            trainer.train_dataset = Broken(trainer.train_dataset)
            with pytest.raises(ZeroDivisionError):
                trainer.train()
            first = together.peer
            assert first is not None and not first._closed
            with pytest.raises(ZeroDivisionError):
                trainer.train()
            assert first._closed and together.peer is not first
        assert common_at_the_end(together, trainer.model)
        return [first.summary().rounds, together.summary.rounds]

    assert all_at_once([partial(twice, index) for index in range(N)]) == [[ROUNDS - 1] * 2] * N


def test_what_a_callback_can_not_do_is_said_before_anything_is_opened(tmp_path: Path) -> None:
    import decentra.hf
    import decentra.lightning

    for kind in (decentra.hf.Callback, decentra.lightning.Callback):
        for how in (decentra.join, adapters.join):
            with pytest.raises(TypeError, match="'overlapping'"):
                kind(tmp_path, join=how, overlapping=True)
        with pytest.raises(TypeError, match="'rank'"):
            kind(tmp_path, rank=4)
    together = decentra.hf.Callback(tmp_path / "no folder")
    with pytest.raises(LocalError, match="load_best_model_at_end would put"):
        together.on_train_begin(SimpleNamespace(load_best_model_at_end=True), None, None)  # type: ignore[arg-type]
    one = SimpleNamespace(optimizers=[object()])
    with pytest.raises(LocalError, match="the module has 1 optimizers, and the steps of number 1"):
        decentra.lightning.Callback(optimizer=1).on_train_start(one, network())  # type: ignore[arg-type]


@pytest.mark.parametrize(("room", "library"), [("hf", "transformers"), ("lightning", "lightning")])
def test_a_library_that_is_not_there_is_named_with_what_installs_it(
    monkeypatch: pytest.MonkeyPatch, room: str, library: str
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, f"decentra.{room}", raising=False)
    monkeypatch.delattr(decentra, room, raising=False)
    with pytest.raises(LocalError, match=rf"{library} is not installed: pip install 'decentra\[{room}\]'"):
        getattr(decentra, room)
