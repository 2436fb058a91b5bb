"""Training LoRA adapters together: which of their two matrices is averaged when, and peers of different ranks.

    from decentra.training import adapters

    model = peft.get_peft_model(model, peft.LoraConfig(...))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    with adapters.join(model, optimizer) as peer:  # as the charter says: adapters = "rolora" in [training]
        ...  # the loop, as with decentra.join
        peer.close()
    model.save_pretrained(folder)  # plain PEFT
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np
import torch

from decentra.errors import LocalError
from decentra.peer.config import PeerFolder
from decentra.training import hook
from decentra.training.join import TrainingPeer
from decentra.training.join import join as join_group
from decentra.training.ranks import Adapter, Padded
from decentra.training.tensors import WRAPPED, Policies
from decentra.training.wrapped import plain_model, plain_optimizer

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

    from decentra.peer.witness import Witness
    from decentra.training.checkpoint import Stateful

HALF = re.compile(r"(?P<layer>.*)\.lora_(?P<kind>|embedding_)A\.(?P<adapter>[^.]+)(?P<rest>|\.weight)")


class Method(StrEnum):
    """How the matrices of a group's adapters, B·A, are trained: ``adapters`` in the charter's ``[training]``.

    ``FEDIT``: both, each averaged by itself (Zhang et al. 2024, arXiv 2305.05644); simple, but the mean of products is
    not the product of means. ``FFA``: A stays at the group's common value, and B is averaged, which is exact (Sun et
    al. 2024, arXiv 2403.12313); half the bytes. ``ROLORA``: B and A by turns, while the other stays (Chen et al. 2025,
    arXiv 2502.01755), which is exact too and learns both; the zeros of the one that rests are sent as well.
    """

    FEDIT = "fedit"
    FFA = "ffa"
    ROLORA = "rolora"


def join(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    state: str | os.PathLike[str] | None = None,
    *,
    method: str | None = None,
    rank: int | None = None,
    policy: Mapping[str, str] | None = None,
    ahead: bool = False,
    overlap: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    also: Mapping[str, Stateful] | None = None,
    witness: Witness | None = None,
) -> TrainingPeer:
    """Train a model's LoRA adapters together with a group, as ``decentra.join`` trains a model.

    Whatever else requires grad is averaged in every round. Training stops with an error where no adapter has changed
    by its first round: a group of such peers would go on for ever and learn nothing.

    Args:
        model: a PEFT model, or any with LoRA layers named as PEFT names them.
        optimizer: the one that steps the adapters.
        state: the peer's folder; by default what ``decentra run`` set in DECENTRA_STATE. Under ``torchrun`` every rank
            reads its charter.
        method: ``"fedit"``, ``"ffa"`` or ``"rolora"``, see `Method`, where the loop is made for one; another than the
            charter's is refused. With ``"ffa"`` the A's are frozen from here on. With ``"rolora"`` B is trained while
            the group's outer steps are even in number, so at the beginning, where it is zero and A has no gradient
            yet, and A while they are odd; all peers hold the same number, also those that came late or missed rounds,
            whose steps on a matrix that rests by then are dropped. The outer optimiser leaves a matrix that rests
            alone, and rounds are waited for.
        rank: the largest that a peer of the group has, where they differ (`ranks`). The same at all peers.
        policy: as for ``decentra.join``, for all other tensors.
        ahead, overlap, checkpoint, also, witness: as for ``decentra.join``.

    Raises:
        LocalError: there is no adapter that trains, or the method can't train it so; else as ``decentra.join``.
        RemoteError, Unavailable: as ``decentra.join``.
    """
    with ExitStack() as undo:
        if rank is not None and checkpoint is not None:
            raise LocalError("a checkpoint can't bring back adapters of several ranks: leave checkpoint or rank out")
        terms = PeerFolder.find(state).load()[1].training
        group = _Adapters(model, optimizer, terms, method, rank, policy, undo, overlap=overlap)
        peer = join_group(
            model,
            optimizer,
            state,
            policy=group.policies,
            ahead=ahead,
            overlap=overlap,
            checkpoint=checkpoint,
            also=also,
            witness=witness,
        )
        undo.callback(peer.close)
        group.begin(peer._training)
        undo.pop_all()
    return peer


def attach(
    averager: hook.Averager,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    method: str | None = None,
    rank: int | None = None,
    policy: Mapping[str, str] | None = None,
    ahead: bool = False,
    overlap: bool = False,
) -> hook.Training:
    """Train a model's LoRA adapters together with the averager's group; `join` says how, ``training.attach`` the rest.

    Raises:
        LocalError: there is no adapter that trains, or the method can't train it so; else as ``training.attach``.
    """
    with ExitStack() as undo:
        terms = averager.charter.training
        group = _Adapters(model, optimizer, terms, method, rank, policy, undo, overlap=overlap)
        training = hook.attach(averager, model, optimizer, policy=group.policies, ahead=ahead, overlap=overlap)
        undo.callback(training.detach)
        group.begin(training)
        undo.pop_all()
    return training


def find(model: torch.nn.Module) -> tuple[Adapter, ...]:
    """The adapters of a model of which something requires grad, in the model's order.

    Raises:
        LocalError: there is none.
    """
    tensors = {name.replace(WRAPPED, ""): tensor for name, tensor in model.named_parameters()}
    layers = {name.replace(WRAPPED, ""): layer for name, layer in model.named_modules()}
    found = []
    for name, a in tensors.items():
        part = HALF.fullmatch(name)
        if part is None:
            continue
        other = "{layer}.lora_{kind}B.{adapter}{rest}".format(**part.groupdict())
        b = tensors.get(other)
        if b is not None and (a.requires_grad or b.requires_grad):
            scaling: Mapping[str, float] = getattr(layers[part["layer"]], "scaling", {})
            found.append(Adapter((name, other), a, b, float(scaling.get(part["adapter"], 1.0))))
    if not found:
        raise LocalError(
            "the model has no LoRA adapter that requires grad: make it with peft.get_peft_model, or load it with "
            "PeftModel.from_pretrained(..., is_trainable=True)"
        )
    return tuple(found)


class _Adapters:
    """The adapters of one model in a group: its policy before it joins, and what goes on beside its steps then."""

    def __init__(
        self,
        model: object,
        optimizer: object,
        terms: hook.Terms,
        method: str | None,
        rank: int | None,
        policy: Mapping[str, str] | None,
        undo: ExitStack,
        *,
        overlap: bool,
    ) -> None:
        model, optimizer = plain_model(model), plain_optimizer(optimizer)
        if not isinstance(model, torch.nn.Module) or not isinstance(optimizer, torch.optim.Optimizer):
            raise LocalError("adapters are trained as adapters.join(model, optimizer): give a PEFT model, then its own")
        if method is not None and method not in [*Method]:
            raise LocalError(f"the method is {method!r}; choose one of {', '.join(Method)}")
        given, agreed = Policies.of(policy), Method(terms.adapters or Method.FEDIT)
        hook.refuse_other_method(terms, method or agreed)
        self._method, self._terms, self._optimizer, self._adapters = agreed, terms, optimizer, find(model)
        _refuse_unfit(agreed, rank, self._adapters, terms, overlap)
        own: dict[str, str] = {}
        if agreed is Method.FFA:
            own = {adapter.names[0]: "common" for adapter in self._adapters}
            for adapter in self._adapters:
                undo.callback(adapter.a.requires_grad_, adapter.a.requires_grad)
                adapter.a.requires_grad_(False)
                adapter.a.grad = None
        names = [name for adapter in self._adapters for name in adapter.names]
        if rank is not None and any(map(given.fits, names)):
            raise LocalError("with rank both matrices of an adapter are averaged: leave adapters out of the policy")
        views = None if rank is None else Padded(self._adapters, rank)
        self.policies = Policies({**given.globs, **own}, views, agreed)
        # Before training's own hook, which moves the model.
        self._watch = _Watch(optimizer)
        undo.callback(self._watch.end)

    def begin(self, training: object) -> None:
        """Training has been made, and no step yet."""
        half = 1
        if self._method is Method.ROLORA and isinstance(training, hook.Training):
            half = Alternation(training, self._optimizer, self._adapters).trains
        trained = [tensor for one in self._adapters if (tensor := (one.a, one.b)[half]).requires_grad]
        self._watch.begin(trained or [adapter.a for adapter in self._adapters], self._terms.steps)


def _refuse_unfit(
    method: Method, rank: int | None, adapters: Sequence[Adapter], terms: hook.Terms, overlap: bool
) -> None:
    if rank is not None and (isinstance(rank, bool) or not isinstance(rank, int) or rank < 1):
        raise LocalError(f"the group's rank is {rank!r}, and must be a whole number from 1 on")
    if method is Method.FFA and rank is not None:
        raise LocalError("with ffa all peers hold the same A, so they have one rank: leave rank out, or choose fedit")
    several = torch.distributed.is_available() and torch.distributed.is_initialized()
    if several and torch.distributed.get_world_size() > 1 and (method is Method.ROLORA or rank is not None):
        raise LocalError("rolora and several ranks are for peers of one process: run this one without torchrun")
    if (terms.fragments or 1) > 1 and (method is Method.ROLORA or rank is not None):
        raise LocalError(
            "with rolora, and with peers of several ranks, a round is about whole adapters: have the charter without "
            "training.fragments, or choose fedit or ffa with one rank"
        )
    if method is Method.ROLORA and overlap:
        raise LocalError("with rolora a round says what the next steps train, so it is waited for: set overlap=False")
    for adapter in adapters:
        name = adapter.names[0 if not adapter.a.requires_grad else 1]
        halves = (adapter.b,) if method is Method.FFA else (adapter.a, adapter.b)
        if (method is not Method.FEDIT or rank is not None) and not all(half.requires_grad for half in halves):
            raise LocalError(f"{name!r} is frozen, and {method} with these terms trains it: unfreeze it")


class Alternation:
    """RoLoRA: which half of all adapters is trained follows from the group's outer steps, B while they are even.

    The other half gets no gradient, so the optimizer leaves it alone, decay and moments too; it contributes exact
    zeros; and what clipping once cut from it waits for its turn.
    """

    def __init__(self, training: hook.Training, optimizer: torch.optim.Optimizer, adapters: Sequence[Adapter]) -> None:
        self._training, self._optimizer = training, optimizer
        self._half = {name: half for adapter in adapters for half, name in enumerate(adapter.names)}
        self._tensors = [(half, tensor) for one in adapters for half, tensor in enumerate((one.a, one.b))]
        self._waiting = [np.zeros_like(part) for part in training.residual]
        self._trained = self.trains
        training.leaving.rests = lambda name: self._half.get(name, self.trains) != self.trains
        optimizer.register_step_post_hook(self._stepped)
        for half, tensor in self._tensors:
            register: Callable[..., RemovableHandle] = tensor.register_post_accumulate_grad_hook
            register(self._dropping(half))
        self._turn()

    @property
    def trains(self) -> int:
        """0 for A, 1 for B, as the common state has it now: it may have taken over another peer's."""
        return 1 - self._training.state.rounds % 2

    def _dropping(self, half: int) -> Callable[[torch.Tensor], None]:
        def drop(tensor: torch.Tensor) -> None:
            if half != self._trained and self._training.attached:
                tensor.grad = None

        return drop

    def _stepped(self, *_: object) -> None:
        if self._trained != self.trains and self._training.attached:
            self._training.go_back()  # what it kept was of the half that rests now
            self._turn()

    def _turn(self) -> None:
        self._trained = self.trains
        for half, tensor in self._tensors:
            if half != self._trained:
                tensor.grad = None
        leaving = self._training.leaving
        for name, part, waiting in zip(leaving.names, self._training.residual, self._waiting, strict=True):
            if leaving.rests(name):
                waiting += part
                part.fill(0)
            else:
                part += waiting
                waiting.fill(0)


class _Watch:
    """Stops training where a whole phase of local steps has left what it trains as it was."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._trained: Sequence[torch.Tensor] = ()
        self._before: list[torch.Tensor] = []
        self._most, self._unchanged = 2, 0
        self._handles = (
            optimizer.register_step_pre_hook(self._steps),
            optimizer.register_step_post_hook(self._stepped),
        )

    def begin(self, trained: Sequence[torch.Tensor], steps: int) -> None:
        """Watch these from here on; two steps at least, since a rate that rises from zero makes none with the first."""
        self._trained, self._most = trained, max(2, steps)

    def end(self) -> None:
        """Take the hooks off; not from within one."""
        for handle in self._handles:
            handle.remove()

    def _steps(self, *_: object) -> None:
        self._before = [tensor.detach().clone() for tensor in self._trained]

    def _stepped(self, *_: object) -> None:
        if not all(torch.equal(now, was) for now, was in zip(self._trained, self._before, strict=True)):
            self._trained = ()  # it learns, and that was all to see
        self._before = []
        self._unchanged += 1
        if self._trained and self._unchanged >= self._most:
            raise LocalError(
                f"no adapter has changed in the first {self._unchanged} local steps, so there is nothing to average: "
                + self._reason()
            )

    def _reason(self) -> str:
        mine = {id(tensor) for tensor in self._trained}
        rates = [group["lr"] for group in self._optimizer.param_groups if _holds(group["params"], mine)]
        if not rates:
            return "the optimizer holds none of their parameters; make it from the model's, after get_peft_model"
        if not any(float(rate) for rate in rates):
            return "their learning rate is 0; set one above 0, also where a schedule begins"
        if all(tensor.grad is None for tensor in self._trained):
            return "no gradient reached them; let them require grad, active and unmerged, and call backward() first"
        return "their gradients are zero; an adapter's A and B must not both be zero, nor the loss be without them"


def _holds(parameters: Iterator[torch.Tensor] | Sequence[torch.Tensor], mine: set[int]) -> bool:
    return any(id(parameter) in mine for parameter in parameters)
