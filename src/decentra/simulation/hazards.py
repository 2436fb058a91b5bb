"""Faults as data: everything that goes wrong in one schedule, drawn from its seed and nothing else."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from decentra import derive
from decentra.transport.simulated import Faults

Mix = Literal["none", "drops", "crashes", "journals", "liars", "mixed"]
MIXES: tuple[Mix, ...] = ("none", "drops", "crashes", "journals", "liars", "mixed")

MOST_EFFECTS = 75
"""Effects that a peer carries out in an undisturbed round of secagg at n = 7, and more: crashes fall among them."""

MOST_WRITES = 34
"""What it writes to its journal meanwhile."""

SURE_WRITES = 28
"""What it writes at least in an undisturbed round at n = 7, from readiness to the verdict."""

HOPS = 22
"""About so many messages follow one another in an undisturbed round: what a fault's time is drawn from."""

BEYOND = 8
"""One mixed schedule in so many hits more peers than a round survives: then only safety is claimed."""


@dataclass(frozen=True)
class Cut:
    """One direction between two peers, by position, breaks at a time and heals at a later one."""

    source: int
    target: int
    begins: float
    heals: float


@dataclass(frozen=True)
class Crash:
    """A peer's process stops: right before its ``effect``-th effect, or within its ``write``-th write to the journal.

    Attributes:
        reached: how much of that write's commit is on the disk then: 0 for nothing, 1 for all of it, between them for a
            commit that is torn. Who wrote it never hears that it is durable.
        back: virtual seconds until the peer is started again on its journal; None for never.
        loses: the chance, for each neighbour, that what was on the way to it is lost.
    """

    effect: int | None = None
    write: int | None = None
    reached: float = 0.0
    back: float | None = None
    loses: float = 0.5


@dataclass(frozen=True)
class Hazards:
    """Everything that goes wrong in one schedule. Peers are named by their position.

    Attributes:
        everywhere: the faults of every directed edge that ``edges`` does not name.
        edges: the faults of single edges, from ``worsens`` on.
        worsens: virtual seconds after which they begin.
        crashes: the crashes of each peer, one after another.
        rates: how fast peers' clocks run, where not at 1.
        slow: peers whose journal and jobs take time, and up to how many seconds each.
        liars: who lies.
        again: the chance that updates which came back, and restarted peers, get a second round.
        within: whether no more peers are hit than the round is to survive.
    """

    everywhere: Faults = field(default_factory=Faults)
    edges: Mapping[tuple[int, int], Faults] = field(default_factory=dict)
    worsens: float = 0.0
    cuts: tuple[Cut, ...] = ()
    crashes: Mapping[int, tuple[Crash, ...]] = field(default_factory=dict)
    rates: Mapping[int, float] = field(default_factory=dict)
    slow: Mapping[int, float] = field(default_factory=dict)
    liars: tuple[int, ...] = ()
    again: float = 0.5
    within: bool = True

    @property
    def calm(self) -> bool:
        """Whether nothing goes wrong but what liars do."""
        return not (self.edges or self.cuts or self.crashes or self.rates or self.slow)


def generator(seed: int, name: str) -> random.Random:
    """A generator of its own for each use of a seed."""
    return random.Random(hashlib.sha256(f"decentra/schedule/{name}/{seed}".encode()).digest())


def draw(seed: int, mix: Mix, n: int, c: int) -> Hazards:
    """The hazards of a seed.

    Args:
        mix: what may go wrong; see ``MIXES``.
        n: peers.
        c: how many may lie together.
    """
    rng = generator(seed, f"hazards/{mix}")
    spare = n - derive.quorum(n, c)
    calm = Faults(latency=0.001, jitter=rng.choice((0.0, 0.05, 1.0)))
    if mix == "none":
        return Hazards(everywhere=calm)
    length = HOPS * (calm.latency + calm.jitter)
    if mix == "drops":
        hit = rng.sample(range(n), rng.randint(1, max(1, spare)))
        bad, begins = _bad_edges(rng, n, hit), rng.random() * length
        return Hazards(calm, bad, begins, _cuts(rng, n, hit, length), within=len(hit) <= spare)
    if mix == "crashes":
        hit = rng.sample(range(n), rng.randint(1, max(1, spare)))
        return Hazards(
            calm, crashes=_crashes(rng, hit), rates=_rates(rng, n), slow=_slow(rng, n), within=len(hit) <= spare
        )
    if mix == "journals":
        hit = rng.sample(range(n), rng.randint(1, max(1, spare)))
        cuts = {peer: tuple(_cut_commit(rng) for _ in range(rng.choice((1, 2)))) for peer in hit}
        rates, slow = _rates(rng, n), _slow(rng, n)
        return Hazards(calm, crashes=cuts, rates=rates, slow=slow, again=1.0, within=len(hit) <= spare)
    if mix == "liars":
        return Hazards(calm, liars=tuple(sorted(rng.sample(range(n), rng.choice((1, c))))))
    count = rng.randint(1, n) if rng.randrange(BEYOND) == 0 else rng.randint(1, max(1, spare))
    hit = rng.sample(range(n), count)
    lying = tuple(sorted(hit[: min(c, rng.randint(0, count))]))
    others = [peer for peer in hit if peer not in lying]
    half = len(others) // 2
    return Hazards(
        calm,
        _bad_edges(rng, n, others[:half]),
        rng.random() * length,
        _cuts(rng, n, others[:half], length),
        _crashes(rng, others[half:]),
        _rates(rng, n),
        _slow(rng, n),
        lying,
        within=count <= spare,
    )


def _bad_edges(rng: random.Random, n: int, hit: list[int]) -> dict[tuple[int, int], Faults]:
    """Edges from or to those who are hit; each is bad with even chance, so that ways may be bad in one direction."""
    return {
        edge: Faults(
            latency=0.001,
            jitter=rng.choice((0.01, 1.0, 8.0)),
            drop=rng.choice((0.0, 0.1, 0.3, 0.8)),
            reorder=rng.choice((0.0, 0.3)),
            duplicate=0.1,
            hold=8.0,
        )
        for peer in hit
        for other in range(n)
        if other != peer
        for edge in ((peer, other), (other, peer))
        if rng.random() < 0.5
    }


def _cuts(rng: random.Random, n: int, hit: list[int], length: float) -> tuple[Cut, ...]:
    """Directions that break while the round is on; most heal, some after it has ended."""
    cuts = []
    for peer in hit:
        for other in rng.sample(range(n), rng.randint(0, n - 1)):
            if other != peer:
                source, target = (peer, other) if rng.random() < 0.5 else (other, peer)
                begins = rng.random() * length
                cuts.append(Cut(source, target, begins, begins + rng.choice((1.0, 9.0, 40.0, 4000.0))))
    return tuple(cuts)


def _crashes(rng: random.Random, hit: list[int]) -> dict[int, tuple[Crash, ...]]:
    return {peer: tuple(_crash(rng) for _ in range(rng.choice((1, 1, 1, 2)))) for peer in hit}


def _crash(rng: random.Random) -> Crash:
    back = rng.choice((None, 0.01, 1.0, 20.0))
    loses = rng.choice((0.0, 0.5, 1.0))
    if rng.random() < 0.6:
        return Crash(effect=rng.randrange(MOST_EFFECTS), back=back, loses=loses)
    return Crash(write=rng.randrange(MOST_WRITES), reached=_reached(rng), back=back, loses=loses)


def _cut_commit(rng: random.Random) -> Crash:
    """A crash within a commit, while the others are still in the round."""
    back, loses = rng.choice((0.001, 0.1, 2.0)), rng.choice((0.0, 0.5, 1.0))
    return Crash(write=rng.randrange(SURE_WRITES), reached=_reached(rng), back=back, loses=loses)


def _reached(rng: random.Random) -> float:
    """All of a commit every other time; else some part of it, or nothing."""
    drawn = rng.random()
    return 1.0 if drawn < 0.5 else max(0.0, 2.5 * drawn - 1.5)


def _rates(rng: random.Random, n: int) -> dict[int, float]:
    if rng.random() < 0.5:
        return {}
    return {peer: rng.choice((0.5, 0.9, 1.0, 1.1, 2.0)) for peer in range(n)}


def _slow(rng: random.Random, n: int) -> dict[int, float]:
    if rng.random() < 0.5:
        return {}
    return {peer: rng.choice((0.005, 0.5)) for peer in rng.sample(range(n), rng.randint(1, n))}
