"""A group in memory, whose peers average exactly in threads, and small models: what tests of training share."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from decentra.charter.charter import OuterTerms
from decentra.machine.state import SharedState, piece_digests
from decentra.types import PeerId, RoundId, RoundResult

torch.set_num_threads(1)

LOG = logging.getLogger("decentra")
DEADLINE = 20.0


@dataclass(frozen=True)
class Terms:
    steps: int = 4
    outer_lr: float = 0.7
    outer_momentum: float = 0.9
    nesterov: bool = True
    seconds: float | None = None
    outer: str | None = None
    outer_beta2: float | None = None
    outer_tau: float | None = None
    warmup: int | None = None
    fragments: int | None = None
    adapters: str | None = None
    tensors: Mapping[str, OuterTerms] = field(default_factory=dict)


@dataclass(frozen=True)
class Weights:
    max_weight: int = 1


@dataclass(frozen=True)
class Agreement:
    training: Terms
    protocol: Weights = field(default_factory=Weights)


def peer_id(index: int) -> PeerId:
    return PeerId(bytes([index]) * 32)


class Group:
    """n peers, each in its thread, that average exactly in float64; rounds fail as the test says."""

    def __init__(self, n: int, terms: Terms, max_weight: int = 1) -> None:
        self.charter = Agreement(terms, Weights(max_weight))
        self.barrier = threading.Barrier(n, timeout=DEADLINE)
        self.states: dict[int, SharedState] = {}
        self.updates: dict[int, list[NDArray[np.float64]]] = {}
        self.failures: dict[int, Callable[[int], BaseException | None]] = {}
        self.left_out: set[tuple[int, int]] = set()
        """Whose update is not in the mean: the call, and the peer's number."""
        self.digests: list[set[bytes]] = []
        self.peers = [Peer(self, index) for index in range(n)]


@dataclass
class Peer:
    group: Group
    index: int
    calls: int = 0
    contributed: list[list[NDArray[np.float64]]] = field(default_factory=list)
    weights: list[int] = field(default_factory=list)
    names: Sequence[str] = ()

    @property
    def charter(self) -> Agreement:
        return self.group.charter

    def log(self) -> logging.Logger:
        return LOG

    def interrupt(self) -> None:
        self.group.barrier.abort()

    def round(self) -> AbstractContextManager[object]:
        """What each round goes on in, for those that are held up."""
        return nullcontext()

    def average(
        self,
        tensors: Sequence[NDArray[np.float32]],
        *,
        weight: int = 1,
        names: Sequence[str] | None = None,
        state: SharedState | None = None,
        residual: Sequence[NDArray[np.float32]] | None = None,
    ) -> RoundResult:
        assert state is not None
        assert names is not None
        self.names = names
        with self.round():
            return self.exchange(tensors, weight, state)

    def exchange(self, tensors: Sequence[NDArray[np.float32]], weight: int, state: SharedState) -> RoundResult:
        group, barrier = self.group, self.group.barrier
        self.calls += 1
        group.states[self.index] = state
        barrier.wait()
        agreed = group.states[0].pieces()
        if state.pieces() != agreed:
            sent = b"".join(part.tobytes() for part in group.states[0].export())
            assert piece_digests([np.frombuffer(sent, np.uint8)]) == agreed
            state.adopt(memoryview(sent))
        if barrier.wait() == 0:
            group.digests.append({each.pieces() for each in group.states.values()})
        failure = group.failures.get(self.calls, lambda _: None)(self.index)
        mine = [tensor.astype(np.float64) for tensor in tensors]
        group.updates[self.index] = mine
        self.weights.append(weight)
        barrier.wait()
        if failure is not None:
            raise failure
        self.contributed.append(mine)
        rows = [group.updates[index] for index in sorted(group.updates) if (self.calls, index) not in group.left_out]
        values = tuple(np.mean(column, axis=0).astype(np.float32) for column in zip(*rows, strict=True))
        return self.result(values, len(rows), (self.calls, self.index) not in group.left_out)

    def result(self, values: Sequence[NDArray[np.float32]], peers: int, contributed: bool = True) -> RoundResult:
        return RoundResult(
            round=RoundId(1, self.calls),
            values=tuple(values),
            participants=tuple(peer_id(index) for index in range(peers)),
            dropped=(),
            total_weight=peers,
            digest=bytes(32),
            bytes_sent=100,
            bytes_received=200,
            seconds=0.5,
            transcript_head=bytes(32),
            contributed=contributed,
        )


def together(group: Group, program: Callable[[Peer], None]) -> None:
    """Run one program at every peer, and raise the first error that any of them raised."""
    errors: list[BaseException] = []

    def run(peer: Peer) -> None:
        try:
            program(peer)
        except BaseException as error:
            errors.append(error)
            group.barrier.abort()

    threads = [threading.Thread(target=run, args=(peer,)) for peer in group.peers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    errors.sort(key=lambda error: isinstance(error, threading.BrokenBarrierError))
    if errors:
        raise errors[0]


def network(seed: int, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2))
    return model.to(dtype)


def batch(peer: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(1000 * peer + step)
    x = torch.randn(8, 3, generator=draw)
    return x, torch.stack([x.sum(1) + 0.3 * peer, x[:, 0] * x[:, 1]], 1)


def local_step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, peer: int, step: int) -> None:
    x, y = batch(peer, step)
    dtype = next(model.parameters()).dtype
    optimizer.zero_grad()
    torch.nn.functional.mse_loss(model(x.to(dtype)), y.to(dtype)).backward()
    optimizer.step()


def values_of(model: torch.nn.Module) -> list[NDArray[np.float32]]:
    return [parameter.detach().float().numpy().copy() for parameter in model.parameters()]


def same_bits(one: Iterable[NDArray[np.float32]], other: Iterable[NDArray[np.float32]]) -> bool:
    return [a.tobytes() for a in one] == [b.tobytes() for b in other]
