"""Gradients averaged with the group in every backward pass: a communication hook of distributed data parallel.

    model = DistributedDataParallel(model)              # of one rank, or of as many as this peer has
    with decentra.training.ddp.join(model) as peer:
        for batch in batches:
            loss_of(model, batch).backward()            # a round, when the last bucket is there
            optimizer.step()                            # on the mean gradient of the group

PyTorch hands gradients over in buckets, whose order it changes as it learns; a round a bucket would cost what a round
costs a dozen times. So the buckets are gathered, and one round averages all of them in the model's own order.

This is H = 1 without an outer optimizer: for inner ones that should see the group's mean gradient, such as Adam. Each
step costs a round. ``decentra.join`` sends as little as one round in 500 steps, and lets peers hold the same bits on
unlike machines; here what the optimizers' kernels make of the same mean may differ in the last bit from one machine to
another, and a peer whose parameters differ takes the group's in the next round. Gradients change more from step to step
than what ``decentra.join`` sends, and what is beyond the range is cut and added to the next one: ``range_bounds`` with
one number twice, and ``initial_range`` with the same, hold the range at what no gradient should exceed. Scaled
gradients, as `GradScaler` makes them, have another scale at each peer, and must not be averaged: train in float32 or
bfloat16.
"""

# Not with `from __future__ import annotations`: DDP compares the hook's annotations with its own types.

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from types import TracebackType
from typing import Protocol, Self

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch.nn.parallel import DistributedDataParallel

from decentra import derive
from decentra.errors import LocalError, RemoteError, Unavailable, Underway
from decentra.machine.state import piece_digests
from decentra.peer.config import PeerFolder
from decentra.peer.runtime import Peer
from decentra.training.common import refuse_nonfinite
from decentra.training.hook import refuse_other_method
from decentra.training.processes import Ranks, raise_told
from decentra.training.received import Form
from decentra.training.tensors import Leaving
from decentra.types import TensorSpec

MAGIC = b"decentra/model/1"

Future = torch.futures.Future[torch.Tensor]


class Bucket(Protocol):
    """What is used here of ``torch.distributed.GradBucket``."""

    def buffer(self) -> torch.Tensor:
        """All of its gradients as one flat tensor."""
        ...

    def gradients(self) -> list[torch.Tensor]:
        """Views of the buffer, one a parameter."""
        ...

    def parameters(self) -> list[torch.Tensor]:
        """Whose gradients they are."""
        ...

    def is_last(self) -> bool:
        """Whether the backward pass hands over no more."""
        ...


class GradientPeer:
    """A peer that averages gradients; `join` makes it.

    Attributes:
        rounds: rounds completed.
        failed: rounds that failed: their steps were made with gradients of zeros.
    """

    def __init__(self, leaving: Leaving, peer: Peer | None, ranks: Ranks | None) -> None:
        self._leaving, self._peer, self._ranks = leaving, peer, ranks
        self._places = {id(tensor): index for index, tensor in enumerate(leaving.tensors)}
        self._parameters = Parameters(leaving)
        self._specs = tuple(TensorSpec(f"gradient of {spec.name}", spec.shape, "float32") for spec in leaving.specs)
        self._fingerprint = derive.layout(self._specs)
        self._residual = tuple(np.zeros(spec.shape, np.float32) for spec in leaving.specs)
        self._gradients: list[tuple[slice, torch.Tensor]] = []
        """Those of this backward pass so far, and where they belong."""
        self._waiting: list[tuple[torch.Tensor, Future]] = []
        self.rounds = self.failed = 0

    def align(self) -> None:
        """Begin with the group's parameters."""
        if self._peer is not None:
            with self._together():
                try:
                    self._peer.align(self._parameters, self._fingerprint)
                except Underway as error:
                    self._peer.log().warning("%s", error)
        self._share(np.zeros(1, np.float32), moved=True)

    def _together(self) -> AbstractContextManager[None]:
        return nullcontext() if self._ranks is None else self._ranks.failing_together()

    def take(self, bucket: Bucket) -> Future:
        """A bucket of gradients; its future is there after the round, which begins with the last bucket."""
        future = Future()
        self._waiting.append((bucket.buffer(), future))
        for parameter, gradient in zip(bucket.parameters(), bucket.gradients(), strict=True):
            self._gradients.append((self._leaving.span(self._places[id(parameter)]), gradient))
        if bucket.is_last():
            gradients, self._gradients = self._gradients, []
            waiting, self._waiting = self._waiting, []
            self._exchange(gradients)
            for buffer, done in waiting:
                done.set_result(buffer)
        return future

    def _exchange(self, gradients: Sequence[tuple[slice, torch.Tensor]]) -> None:
        """Set gradients to the mean over the ranks and the group; parameters without one count as zeros."""
        flat = np.zeros(self._leaving.size, np.float32)
        whole = torch.from_numpy(flat)
        for span, gradient in gradients:
            whole[span].copy_(gradient.reshape(-1))
        if self._ranks is not None:
            self._ranks.mean(whole)
        self._average(flat)
        for span, gradient in gradients:
            gradient.copy_(whole[span].reshape(gradient.shape))

    def _average(self, flat: NDArray[np.float32]) -> None:
        """Set a gradient to the group's mean, on every rank."""
        if self._peer is not None:
            with self._together():
                self._round(self._peer, flat)
        self._share(flat, moved=self._parameters.taken_over)

    def _round(self, peer: Peer, flat: NDArray[np.float32]) -> None:
        self._parameters.taken_over = False
        spans = [self._leaving.span(index) for index in range(len(self._leaving))]
        own = [flat[span].reshape(spec.shape) for span, spec in zip(spans, self._specs, strict=True)]
        for spec, values in zip(self._specs, own, strict=True):
            refuse_nonfinite(f"the gradient of {spec.name!r}", values, "lower the learning rate or clip the gradients")
        try:
            result = peer.average(
                own,
                specs=self._specs,
                state=self._parameters,
                fingerprint=self._fingerprint,
                residual=self._residual,
            )
        except (RemoteError, Unavailable) as error:
            self.failed += 1
            flat.fill(0)
            peer.log().warning("a round failed: %s; this step is made with gradients of zeros", error)
        else:
            self.rounds += 1
            for span, mean in zip(spans, result.values, strict=True):
                flat[span] = mean.reshape(-1)

    def _share(self, flat: NDArray[np.float32], *, moved: bool) -> None:
        """Rank 0's gradient, and its parameters where these have moved, on all ranks."""
        if self._ranks is None:
            return
        values = (torch.from_numpy(flat), *self._leaving.tensors)
        if self._peer is not None:
            facts = {"rounds": self.rounds, "failed": self.failed}
            self._ranks.tell(1, facts, values if moved else values[:1])
            return
        _, facts = self._ranks.hear(values)
        raise_told(facts)
        self.rounds, self.failed = facts["rounds"], facts["failed"]

    def close(self) -> None:
        """Leave the group: from here on gradients are averaged over this peer's own ranks. A second call is nothing."""
        self._fingerprint = b""
        if self._peer is not None:
            self._peer.close()

    @property
    def closed(self) -> bool:
        """Whether this peer has left the group."""
        return not self._fingerprint

    def mean_of_ranks(self, bucket: Bucket) -> Future:
        """What DDP does without a hook."""
        if self._ranks is not None:
            self._ranks.mean(bucket.buffer())
        future = Future()
        future.set_result(bucket.buffer())
        return future

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Parameters:
    """A model's parameters as the state that all peers hold alike: 16 bytes of format name, and float32 values.

    Attributes:
        taken_over: whether `adopt` has changed them.
    """

    def __init__(self, leaving: Leaving) -> None:
        self._leaving, self._form = leaving, Form(MAGIC, len(MAGIC), leaving.size)
        self.taken_over = False

    @property
    def nbytes(self) -> int:
        """Bytes that `export` gives and `adopt` takes."""
        return self._form.nbytes

    def export(self) -> list[NDArray[np.uint8]]:
        """The format's name, and a copy of each parameter's bytes."""
        values = (self._leaving.read(index).reshape(-1).view(np.uint8) for index in range(len(self._leaving)))
        return [np.frombuffer(MAGIC, np.uint8), *values]

    def pieces(self) -> tuple[bytes, ...]:
        """The SHA-256 of each 256 KiB of the exported bytes."""
        return piece_digests(self.export())

    def adopt(self, data: memoryview) -> None:
        """Set the model to another peer's parameters.

        Raises:
            LocalError: the bytes are no parameters of this model, or hold NaN or inf.
        """
        values = self._form.read(data).values
        for index in range(len(self._leaving)):
            self._leaving.write(index, values[self._leaving.span(index)].copy())
        self.taken_over = True


def hook(peer: GradientPeer, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:  # type: ignore[name-defined]
    """The communication hook that `join` registers: ``model.register_comm_hook(peer, hook)``."""
    return peer.mean_of_ranks(bucket) if peer.closed else peer.take(bucket)


def _refuse_unfit(peer: Peer, leaving: Leaving) -> None:
    """Hold the model and the charter's terms against each other, and say what leaves before anything does."""
    terms, agreed, own = peer.charter.training, peer.charter.model.fingerprint, derive.layout(leaving.layout)
    if terms.steps != 1 or terms.seconds is not None or (terms.fragments or 1) > 1:
        raise LocalError(
            "gradients are averaged whole and at every step: set training.steps = 1 in the charter, without seconds "
            f"and fragments; it has steps = {terms.steps}"
        )
    refuse_other_method(terms, leaving.adapters)
    if agreed is not None and agreed != own:
        raise LocalError(
            f"your model's fingerprint is {own.hex()}, the charter's is {agreed.hex()}: train the model that the group "
            "agreed on, with the same names, shapes and dtypes"
        )
    for line in leaving.told():
        peer.log().info("its gradient leaves: %s", line)


def join(model: DistributedDataParallel, state: str | os.PathLike[str] | None = None) -> GradientPeer:
    """Average a model's gradients with a group, from the next backward pass on.

    Peers whose initial parameters differ take the first proposer's, and so does later on whoever missed a round; the
    optimizer's own state is each peer's. A round that fails gives gradients of zeros. A model takes one communication
    hook for good, so that it can't join a second time.

    Args:
        model: in distributed data parallel; all of its ranks together are one peer, and rank 0 runs it.
        state: the peer's folder; by default what ``decentra run`` set in DECENTRA_STATE.

    Raises:
        LocalError: the folder, the charter or the model can't be used; later, from ``backward()``, gradients that hold
            NaN or inf.
        RemoteError, Unavailable: the group could not agree on a beginning.
    """
    if not isinstance(model, DistributedDataParallel):
        raise LocalError(f"the model is of type {type(model).__name__}: wrap it in DistributedDataParallel first")
    ranks = Ranks.of_this_process()
    leaving = Leaving(model.module) if ranks is None else ranks.agree(model.module, None)
    peer: Peer | None = None
    with ExitStack() as undo:
        if ranks is None or ranks.rank == 0:
            with nullcontext() if ranks is None else ranks.failing_together():
                peer = undo.enter_context(Peer(PeerFolder.find(state)))
                _refuse_unfit(peer, leaving)
        joined = GradientPeer(leaving, peer, ranks)
        try:
            model.register_comm_hook(joined, hook)
        except RuntimeError as error:
            raise LocalError(f"this model has a communication hook, and takes one for good ({error})") from error
        joined.align()
        undo.pop_all()
    return joined
