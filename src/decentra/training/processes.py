"""Several processes that are one peer, as ``torchrun`` starts them: rank 0 speaks with the group, the others follow.

All ranks hold the same model, as distributed data parallel keeps it, and step together; so rank 0 alone needs the
common state, and trains as any peer does. After each step at which a round may run it tells the others whether the
model has changed, then the values, what came of the round, and in how many steps it tells again. Errors are told as
well, so that all ranks raise after the same step and none waits for another. A checkpoint is rank 0's as well: it asks
the others for their random numbers, and hands what it read to them before anything else.

What is told goes over a gloo group of its own, as three whole numbers and JSON; the values go over the process group
that the ranks train with, in the model's dtypes. Nothing is pickled.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from decentra import derive
from decentra.charter.charter import Charter
from decentra.errors import DecentraError, LocalError, RemoteError, Unavailable
from decentra.training.checkpoint import Loop, Told, fitting
from decentra.training.hook import Summary, Training
from decentra.training.tensors import Leaving, Policies
from decentra.types import PeerId

if TYPE_CHECKING:
    from collections.abc import Mapping

    from decentra.peer.runtime import Peer
    from decentra.training.hook import Averager
    from decentra.types import RoundResult

PATIENCE = timedelta(days=2)
"""How long a rank waits for rank 0, more than the charter's longest deadline, a day: whatever rank 0 waits for has a
deadline of its own, and the connection to a process that has ended breaks at once."""

DIGEST = 32


class Ranks:
    """The processes of this peer.

    Attributes:
        rank: this process's; 0 speaks.
    """

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self._size = dist.get_world_size()
        self._line = dist.new_group(backend="gloo", timeout=PATIENCE)
        self._hushed = False

    @classmethod
    def of_this_process(cls) -> Ranks | None:
        """None where this process is a peer by itself. All ranks call this together."""
        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return None
        return cls()

    def agree(self, model: torch.nn.Module, policy: Mapping[str, str] | Policies | None) -> Leaving:
        """What leaves, which is the same on all ranks.

        Raises:
            LocalError: on every rank, if one of them can't join, or holds another model than rank 0.
        """
        own: LocalError | None = None
        mine = bytes(DIGEST)
        try:
            _refuse_shards(model)
            leaving = Leaving(model, policy)
            mine = derive.layout(leaving.layout)
        except LocalError as error:
            own = error
        rows = [torch.empty(DIGEST, dtype=torch.uint8) for _ in range(self._size)]
        with _together():
            dist.all_gather(rows, torch.tensor(list(mine), dtype=torch.uint8), group=self._line)
        if own is not None:
            raise own
        for rank, row in enumerate(rows):
            if not row.any():
                raise LocalError(f"rank {rank} of this peer can't join, and its own error says why")
            if not row.equal(rows[0]):
                raise LocalError(f"rank {rank} of this peer holds another model than rank 0: build the same on all")
        return leaving

    def tell(self, until: int, facts: Mapping[str, Any] | None = None, values: Sequence[torch.Tensor] = ()) -> None:
        """Rank 0: tell all others, which `hear` it.

        Args:
            until: after how many more steps this is told next.
            facts: what is new, if anything is.
            values: what the model holds now.
        """
        if self._hushed:
            return
        text = b"" if facts is None else json.dumps(facts).encode()
        with _together():
            dist.broadcast(torch.tensor([until, len(text), len(values)]), 0, group=self._line)
            if text:
                dist.broadcast(torch.frombuffer(bytearray(text), dtype=torch.uint8), 0, group=self._line)
            _share(values)

    def hear(self, values: Sequence[torch.Tensor]) -> tuple[int, dict[str, Any]]:
        """All other ranks: what rank 0 tells; `values` are set to its own where it sends them."""
        head = torch.empty(3, dtype=torch.int64)
        facts: dict[str, Any] = {}
        with _together():
            dist.broadcast(head, 0, group=self._line)
            until, length, count = head.tolist()
            if length:
                text = torch.empty(length, dtype=torch.uint8)
                dist.broadcast(text, 0, group=self._line)
                facts = json.loads(text.numpy().tobytes())
            _share(values[:count])
        return until, facts

    def hand(self, text: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Rank 0: give all others a checkpoint, which they `take`."""
        forms = [(name, str(one.dtype).removeprefix("torch."), list(one.shape)) for name, one in tensors.items()]
        self.tell(1, {"checkpoint": text, "tensors": forms})
        self._share_bytes(tensors.values())

    def take(self, forms: Sequence[tuple[str, str, list[int]]]) -> dict[str, torch.Tensor]:
        """All other ranks: the tensors of the checkpoint that rank 0 hands over."""
        tensors = {name: torch.empty(shape, dtype=getattr(torch, dtype)) for name, dtype, shape in forms}
        self._share_bytes(tensors.values())
        return tensors

    def _share_bytes(self, tensors: Iterable[torch.Tensor]) -> None:
        with _together():
            for tensor in tensors:
                if tensor.numel():
                    dist.broadcast(tensor.reshape(-1).view(torch.uint8), 0, group=self._line)

    def random(self) -> list[torch.Tensor]:
        """All ranks: the states of their random numbers."""
        mine = torch.get_rng_state()
        states = [torch.empty_like(mine) for _ in range(self._size)]
        with _together():
            dist.all_gather(states, mine, group=self._line)
        return states

    @contextmanager
    def failing_together(self) -> Iterator[None]:
        """Rank 0: an error within is the others' error too."""
        try:
            yield
        except BaseException as error:
            self.tell(1, {"error": _described(error)})
            raise

    def mean(self, values: torch.Tensor) -> None:
        """All ranks: set values to their mean over the ranks."""
        with _together():
            dist.all_reduce(values)
        values.div_(self._size)

    def hush(self) -> None:
        """Tell and hear nothing any more: this rank leaves by an error that the others may not know of."""
        self._hushed = True

    @property
    def hushed(self) -> bool:
        """Whether this rank has left by an error."""
        return self._hushed


class Speaking(Training):
    """Training on rank 0: as ever, and the other ranks are told what it does to the model.

    Args:
        ranks: this peer's processes.
        peer: the peer, which this process runs.

    Attributes:
        gathered: takes the other ranks' random numbers as they are behind a round, where these are kept.
    """

    def __init__(
        self,
        ranks: Ranks,
        peer: Peer,
        averager: Averager,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        **options: Any,
    ) -> None:
        self._ranks, self._peer = ranks, peer
        self._until, self._telling, self._moved = 1, False, True
        self.gathered: Callable[[Sequence[torch.Tensor]], object] | None = None
        super().__init__(averager, model, optimizer, **options)

    @contextmanager
    def told(self) -> Iterator[None]:
        """Whatever comes of this, the other ranks are told of it."""
        if self._telling:
            yield
            return
        self._telling = True
        try:
            yield
        except BaseException as error:
            self.announce(error)
            raise
        else:
            self.announce()
        finally:
            self._telling = False

    def announce(self, error: BaseException | None = None) -> None:
        """Tell the other ranks how things are: what the model holds, if a round may have changed it, and the error."""
        at_any_step = self._overlap or self._terms.seconds is not None
        due = self._terms.steps // (self._terms.fragments or 1)
        self._until = 1 if at_any_step else max(1, due - self._steps)
        moved, self._moved = self._moved or error is not None, False
        if not moved:
            self._ranks.tell(self._until)
            return
        summary = self.summary(self._peer.transcript)
        facts = {
            "id": self._peer.id.hex(),
            "charter": self._peer.charter.to_toml(),
            "summary": asdict(replace(summary, transcript=None)),
            "transcript": str(summary.transcript),
            "error": None if error is None else _described(error),
            "random": self.gathered is not None,
        }
        self._ranks.tell(self._until, facts, self.leaving.tensors)
        if self.gathered is not None and error is None and not self._ranks.hushed:
            self.gathered(self._ranks.random()[1:])

    def _stepped(self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._until -= 1
        if self._until:
            super()._stepped(optimizer, args, kwargs)
        else:
            with self.told():
                super()._stepped(optimizer, args, kwargs)

    def _depart(self) -> None:
        self._moved = self._moved or not self._overlap
        super()._depart()

    def _land(self) -> None:
        self._moved = self._moved or self._flight is not None
        super()._land()

    def go_back(self) -> None:
        with self.told():
            self._moved = True
            super().go_back()

    def finish(self) -> None:
        with self.told():
            self._moved = True
            super().finish()


class Following:
    """Peer and training as a rank that follows has them: both are in rank 0, and what it says is taken over.

    Args:
        ranks: this peer's processes.
        leaving: the model's tensors on this rank.
        loop: what steps them, as often as on rank 0, and what a checkpoint gives back here.

    Raises:
        DecentraError: what rank 0 failed with when it joined.
    """

    id: PeerId
    charter: Charter
    transcript: Path | None = None
    _summary: Summary

    def __init__(self, ranks: Ranks, leaving: Leaving, loop: Loop) -> None:
        self._ranks, self.leaving, self._loop = ranks, leaving, loop
        self._until = 0
        self._hear()
        self._handle = loop.optimizer.register_step_post_hook(self._stepped)

    def _stepped(self, _optimizer: torch.optim.Optimizer, _args: tuple[Any, ...], _kwargs: dict[str, Any]) -> None:
        self._until -= 1
        if not self._until:
            self._hear()

    def _hear(self) -> None:
        self._until, facts = self._ranks.hear(self.leaving.tensors)
        if "checkpoint" in facts:
            tensors = self._ranks.take(facts["tensors"])
            with fitting("the checkpoint of rank 0"):
                self._loop.give_back(tensors, Told.of(facts["checkpoint"]), self._ranks.rank)
            self._until, facts = self._ranks.hear(self.leaving.tensors)
        if "summary" in facts:
            self.transcript = Path(facts["transcript"])
            self._summary = Summary(**facts["summary"])
            self.id = PeerId(bytes.fromhex(facts["id"]))
            self.charter = Charter.parse(facts["charter"])
        raise_told(facts)
        if facts.get("random"):
            self._ranks.random()

    def average(self, *_args: object, **_options: object) -> RoundResult:
        """Refused: it is rank 0's to do."""
        raise LocalError("rank 0 speaks for this peer: call average() there only, and share its result as you like")

    def give_up(self) -> None:
        """Nothing is under way on this rank."""

    def summary(self, transcript: Path | None = None) -> Summary:
        """What rank 0 told last: of the latest round, or of closing."""
        return replace(self._summary, transcript=transcript)

    def go_back(self) -> None:
        """Go back with rank 0; all ranks call this together."""
        self._hear()

    def finish(self) -> None:
        """End with rank 0, unless this rank ends by an error; all ranks call this together."""
        self._handle.remove()
        if not self._ranks.hushed:
            self._hear()

    def close(self) -> None:
        """The peer is closed by rank 0."""


def _share(values: Sequence[torch.Tensor]) -> None:
    """Set tensors to rank 0's, over the process group that the ranks train with."""
    with torch.no_grad():
        for tensor in values:
            whole = tensor.detach().contiguous()
            dist.broadcast(whole, 0)
            if whole.data_ptr() != tensor.data_ptr():
                tensor.copy_(whole)


def _refuse_shards(model: torch.nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if hasattr(parameter, "placements"):
            raise LocalError(
                f"parameter {name!r} is sharded over ranks, and each rank must hold all of it: use distributed data "
                "parallel, not fully sharded or tensor parallel"
            )


@contextmanager
def _together() -> Iterator[None]:
    """Says what it means when a collective call fails."""
    try:
        yield
    except RuntimeError as error:
        raise LocalError(
            f"another process of this peer has ended or does not answer ({error}): look into its log, and start all "
            "of them again"
        ) from error


def _described(error: BaseException) -> dict[str, Any]:
    """An error of rank 0's, for others to raise."""
    told: dict[str, Any] = {"text": f"{type(error).__name__}: {error}", "spent": getattr(error, "spent", True)}
    if isinstance(error, RemoteError):
        told |= {"peer": error.peer and error.peer.hex(), "clause": error.clause, "reason": error.reason}
    elif isinstance(error, Unavailable):
        told |= {"waited_for": [peer.hex() for peer in error.waited_for], "seconds": error.seconds}
    return told


def raise_told(facts: Mapping[str, Any]) -> None:
    """Raise the error that rank 0 told of, if it did, as one of the same kind."""
    told = facts.get("error")
    if told is None:
        return
    text = f"rank 0, which speaks for this peer, failed: {told['text']}"
    error: DecentraError = LocalError(text)
    if "clause" in told:
        clause = told["clause"]  # one that the peer named in rank 0
        error = RemoteError(told["peer"] and PeerId(bytes.fromhex(told["peer"])), clause, told["reason"])
    elif "waited_for" in told:
        waited_for = [PeerId(bytes.fromhex(peer)) for peer in told["waited_for"]]
        error = Unavailable(waited_for, told["seconds"], "its group", text)
    error.spent = told["spent"]
    raise error
