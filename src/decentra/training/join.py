"""``decentra.join``: a peer on the network and a training loop, in one call."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from decentra import derive
from decentra.charter.charter import Charter
from decentra.errors import LocalError, Underway
from decentra.machine.state import SharedState
from decentra.peer.buckets import BucketPeer
from decentra.peer.config import PeerFolder
from decentra.peer.opening import peer_of
from decentra.peer.prepared import Prepared
from decentra.peer.runtime import Peer
from decentra.peer.witness import Witness
from decentra.training.checkpoint import Checkpoints, Loop, Stateful
from decentra.training.hook import Summary, Training
from decentra.training.processes import Following, Ranks, Speaking
from decentra.training.tensors import Policies
from decentra.training.wrapped import plain_model, plain_optimizer
from decentra.types import PeerId, RoundResult, TensorSpec

if TYPE_CHECKING:
    import torch


class _Rounds:
    """The peer as the step hook sees it: it knows the model's tensors."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._specs: tuple[TensorSpec, ...] = ()
        self.fingerprint = b""

    @property
    def charter(self) -> Charter:
        return self._peer.charter

    def log(self) -> logging.Logger:
        return self._peer.log()

    def leaves(self, training: Training) -> None:
        """Take down what leaves this peer, and hold it against the charter's fingerprint."""
        self.fingerprint = derive.layout(training.leaving.layout)
        agreed = self.charter.model.fingerprint
        if agreed is not None and agreed != self.fingerprint:
            raise LocalError(
                f"your model's fingerprint is {self.fingerprint.hex()}, the charter's is {agreed.hex()}: "
                "train the model that the group agreed on, with the same names, shapes and dtypes"
            )
        self._specs = tuple(TensorSpec(spec.name, spec.shape, "float32") for spec in training.specs)

    def average(
        self,
        tensors: Sequence[NDArray[np.float32]],
        *,
        weight: int = 1,
        names: Sequence[str] | None = None,
        state: SharedState | None = None,
        residual: Sequence[NDArray[np.float32]] | None = None,
    ) -> RoundResult:
        return self._peer.average(
            tensors,
            weight=weight,
            state=state,
            specs=self._specs,
            fingerprint=self.fingerprint,
            residual=residual,
        )

    def prepare(self, *, names: Sequence[str] | None = None, state: SharedState | None = None) -> Prepared:
        return self._peer.prepare(self._specs, state=state, fingerprint=self.fingerprint)

    def interrupt(self) -> None:
        self._peer.interrupt()


class TrainingPeer:
    """A peer that trains a model with its group; ``decentra.join`` makes it.

    Attributes:
        id: who this peer is.
    """

    def __init__(
        self,
        peer: Peer | Following,
        training: Training | Following,
        checkpoints: Checkpoints | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        self._peer, self._checkpoints, self._ranks = peer, checkpoints, ranks
        self._training = cast(Training, training)  # of which a rank that follows has what is called here
        self._closed = False
        self._joined = training.leaving.digest().hex()
        self.id: PeerId = peer.id

    @property
    def charter(self) -> Charter:
        """The group's agreement in the epoch that this peer is in."""
        return self._peer.charter

    @property
    def buckets(self) -> tuple[tuple[PeerId, ...], ...]:
        """Who is in which bucket, where the group sums in buckets; else none."""
        return self._peer.buckets if isinstance(self._peer, BucketPeer) else ()

    def average(
        self, tensors: Sequence[NDArray[np.float32]], *, weight: int = 1, names: Sequence[str] | None = None
    ) -> RoundResult:
        """The group's weighted mean of some other tensors, in a round of its own; see ``Peer.average``.

        A round of training that has begun ahead is given up for it, and begins anew with its update.
        """
        self._training.give_up()
        return self._peer.average(tensors, weight=weight, names=names)

    def summary(self) -> Summary:
        """Rounds, bytes and seconds so far, and the hash of the common parameters."""
        summary = self._training.summary(self._peer.transcript)
        if summary.rounds or self._closed:
            return summary
        return replace(summary, parameters=self._joined)  # joining itself may have changed them

    def go_back(self) -> None:
        """Set the model to the last common parameters, for example after an update that held NaN."""
        self._training.go_back()

    def close(self) -> Summary:
        """End training together and leave the group; the model is set to the common parameters.

        A second call gives the same answer and leaves the model as it is.

        Returns:
            rounds, bytes, seconds, where the transcript lies, and the hash of the parameters.
        """
        if not self._closed:
            self._closed = True
            try:
                self._training.finish()
            finally:
                with ExitStack() as last:
                    last.callback(self._peer.close)
                    if self._checkpoints is not None:
                        self._checkpoints.close()
        return self.summary()

    def __enter__(self) -> TrainingPeer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if value is not None and self._ranks is not None:
            self._ranks.hush()
        self.close()


def join(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    state: str | os.PathLike[str] | None = None,
    *,
    policy: Mapping[str, str] | Policies | None = None,
    ahead: bool = False,
    overlap: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    also: Mapping[str, Stateful] | None = None,
    witness: Witness | None = None,
) -> TrainingPeer:
    """Train a model together with a group, from the next ``optimizer.step()`` on.

    Every H optimizer steps (the charter's ``training.steps``) a round averages the peers' pseudo-gradients under the
    charter's protocol, and the outer optimizer applies the mean. Joining itself is a first round, with an empty vector:
    peers whose initial parameters differ take the first proposer's. A peer that joins while the others train already
    takes part in their next round instead, with an update of zeros: there it takes over the parameters for which more
    than c of them vouch as those of their last certified result, from all that hold them at once, with the outer
    momentum; ``summary().outer_steps`` says where they are.

    What leaves is logged under ``decentra`` at INFO before anything does, then whom a round waits for and what came of
    it. `decentra run` shows INFO; elsewhere ``logging`` decides.

    With ``ahead`` a round begins as soon as the one before is completed: who takes part, the dealing of secrets and the
    endorsements go on beside the local steps, and the H-th step gives the update. What comes of a round is the same.
    What it costs: who is in a round is settled before its local steps, so that a peer that comes back in them waits for
    the next; a peer that dies in them is waited for once more, as long as rounds of late let one expect, and is left
    out of the sum; where too few are left, what the others gave is spent. Each peer chooses for itself. Those that
    don't choose it begin a round after their local steps as ever: nothing runs ahead of the last of them, and all wait
    for one another as long as without it.

    With ``overlap`` training goes on while a round is under way, which then lasts until the next H-th step at most: its
    result moves the model when it is there, and the outer step is late by as many local steps (a delayed outer step, as
    in Streaming DiLoCo). It costs two copies of what leaves, and some of the loss that a group would come to without.

    Wrappers of `torch.compile`, distributed data parallel, accelerate, Lightning and Opacus are looked through.

    Where torch.distributed runs with more than one rank, as under ``torchrun``, all ranks together are one peer, and
    all of them call this, ``go_back`` and ``close`` alike: rank 0 runs the peer, so that its folder is needed there
    only, and the others take the model from it after each round (`processes`).

    Args:
        model: its parameters with ``requires_grad`` leave this peer; everything else stays.
        optimizer: the one that steps the model.
        state: the peer's folder; by default what ``decentra run`` set in DECENTRA_STATE.
        policy: by a glob over names of parameters and buffers, ``"average"``, ``"common"`` (the group's value, which
            nobody changes) or ``"local"``, where it is not to be as said; the longest that fits decides. The same at
            all peers, such as ``{"*.running_*": "average", "head.*": "local"}``.
        ahead: begin each round ahead of its update.
        overlap: go on with local steps while a round is under way.
        checkpoint: a folder of this peer's own. After each completed round everything that it needs is written there,
            and what is there already is where it goes on from; ``decentra.load`` reads the model out of it. Of several
            ranks rank 0 writes it, and hands it to the others, who hold the same model, optimizer and ``also``.
        also: what goes into checkpoints beside model and optimizer, by name: schedulers, gradient scalers, samplers.
        witness: keeps what a leak check needs, see ``decentra.peer.witness``; for demonstrations only.

    Raises:
        LocalError: the folder, the charter, the model or the optimizer can't be used; an argument of another type is
            refused before anything is opened.
        RemoteError, Unavailable: the group could not agree on a beginning.
    """
    import torch

    model, optimizer = _checked(model, optimizer)
    for name, value in (("ahead", ahead), ("overlap", overlap)):
        if not isinstance(value, bool):
            raise LocalError(f"{name} is {value!r}, and must be True or False")
    if also is not None and (checkpoint is None or not isinstance(also, Mapping)):
        raise LocalError("also names what goes into checkpoints: give a mapping of names, and checkpoint a folder")
    loop, ranks = Loop(model, optimizer, also or {}), Ranks.of_this_process()
    if ranks is not None:
        if checkpoint is not None and overlap:
            raise LocalError(
                "several processes note their random numbers together, while no round is under way: leave overlap or "
                "checkpoint out"
            )
        leaving = ranks.agree(model, policy)
        if ranks.rank:
            following = Following(ranks, leaving, loop)
            return TrainingPeer(following, following, ranks=ranks)
    checkpoints = None
    with nullcontext() if ranks is None else ranks.failing_together(), ExitStack() as undo:
        folder = PeerFolder.find(state)
        torch.set_num_threads(folder.load_config().run.threads)
        peer = undo.enter_context(peer_of(folder, witness=witness))
        rounds = _Rounds(peer)
        kind = Training if ranks is None else partial(Speaking, ranks, peer)
        training = kind(rounds, model, optimizer, policy=policy, ahead=ahead, overlap=overlap)
        undo.callback(training.detach)
        rounds.leaves(training)
        _tell(peer, training, rounds.fingerprint)
        if checkpoint is not None:
            checkpoints = Checkpoints(checkpoint, peer.id, peer.begun, training, loop, ranks)
            if isinstance(training, Speaking):
                training.gathered = checkpoints.note_others
            if (steps := checkpoints.resume()) is not None:
                peer.log().info("going on from the checkpoint in %s, %d outer steps old", checkpoint, steps)
        try:
            joined = peer.align(training.state, rounds.fingerprint)
        except Underway as error:
            peer.log().warning("%s", error)
            training.catch_up()
        else:
            _tell_joined(peer, training, joined)
            training.prepare()
        if isinstance(training, Speaking):
            training.announce()
        undo.pop_all()  # from here on the caller closes
    return TrainingPeer(peer, training, checkpoints, ranks)


def _checked(model: object, optimizer: object) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """The user's own model and optimizer; arguments of other types than `join` takes are refused."""
    import torch

    model, optimizer = plain_model(model), plain_optimizer(optimizer)
    mend = "write decentra.join(model, optimizer)"
    if isinstance(model, torch.optim.Optimizer) and isinstance(optimizer, torch.nn.Module):
        raise LocalError(f"model and optimizer are swapped; {mend}")
    if not isinstance(model, torch.nn.Module):
        raise LocalError(f"the model is {_a(model)}, and must be a torch.nn.Module; {mend}")
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise LocalError(f"the optimizer is {_a(optimizer)}, and must be a torch.optim.Optimizer; {mend}")
    return model, optimizer


def _a(value: object) -> str:
    return "None" if value is None else f"of type {type(value).__name__}"


def _tell(peer: Peer, training: Training, fingerprint: bytes) -> None:
    """Say what leaves before anything does."""
    charter, specs = peer.charter, training.leaving.specs
    peer.log().info(
        "joining %r as %s under %s: every %d steps the change of %d tensors leaves, %d coordinates of %d bits; "
        "the model's fingerprint is %s",
        charter.group.name,
        charter.member(peer.id).label,
        charter.protocol.name,
        charter.training.steps,
        len(specs),
        sum(spec.size for spec in specs),
        charter.protocol.width,
        fingerprint.hex(),
    )
    for line in training.leaving.told():
        peer.log().info("leaves: %s", line)


def _tell_joined(peer: Peer, training: Training, joined: RoundResult) -> None:
    """Say with whom, and from what, training begins."""
    names = ", ".join(sorted(peer.charter.member(one).name for one in joined.participants))
    parameters = training.leaving.digest().hex()[:8]
    peer.log().info("joined %r: %s begin with parameters %s", peer.charter.group.name, names, parameters)
