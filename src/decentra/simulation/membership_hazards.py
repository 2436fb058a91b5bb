"""What goes wrong in one schedule of membership, drawn from its seed and nothing else."""

from __future__ import annotations

import random
from dataclasses import dataclass

from decentra.simulation.hazards import Cut, Mix, generator

TROUBLED = 40.0
"""Seconds in which things go wrong; then ways heal, liars stop lying, and everyone is awake."""

SETTLES = 75.0
"""Seconds after which all views must be equal at n ≤ 8: two laps of probes find who stopped late, a suspicion without
confirmations lasts 30 s, and a peer whose health was worst probes every 9 s at first."""

SHORT_NAP = 3.0
"""A sleep that excludes nobody: a second of probing, and the floor of a suspicion, are longer."""


@dataclass(frozen=True)
class Nap:
    """A peer gets no CPU for so long, and then handles all at once: its timers first, or in the order of coming."""

    peer: int
    begins: float
    lasts: float
    timers_first: bool


@dataclass(frozen=True)
class Stop:
    """A peer's process ends; it is started again so many seconds later, or never."""

    peer: int
    at: float
    back: float | None


@dataclass(frozen=True)
class Hazards:
    """Everything that goes wrong in one schedule. Peers are named by their position.

    Attributes:
        latency, jitter: seconds that a datagram takes, and up to how many more.
        loss: the chance that one is lost.
        cuts: directions that break and heal.
        liars: who lies, all in the way that is named.
        sheltered: honest peers that nothing ails but loss; without that none excludes another, whatever ails the rest.
        calm_from: when all this is over.
        until: when the schedule ends.
    """

    latency: float = 0.002
    jitter: float = 0.05
    loss: float = 0.0
    cuts: tuple[Cut, ...] = ()
    naps: tuple[Nap, ...] = ()
    crashes: tuple[Stop, ...] = ()
    liars: tuple[int, ...] = ()
    way: str = ""
    sheltered: frozenset[int] = frozenset()
    calm_from: float = 0.0
    until: float = TROUBLED + SETTLES


def draw(seed: int, mix: Mix, n: int, c: int, ways: tuple[str, ...], scale: float = 1.0) -> Hazards:
    """The hazards of a seed.

    Args:
        mix: ``none`` (one peer stops for good), ``drops`` (loss, cuts, partitions), ``crashes`` (stops, restarts, CPU
            starvation), ``liars``, or ``mixed``.
        n: peers.
        c: how many may lie together.
        ways: how liars can lie.
        scale: how much longer than in a group of eight everything takes.
    """
    rng = generator(seed, f"membership/{mix}")
    troubled, until = TROUBLED * scale, (TROUBLED + SETTLES) * scale
    jitter = rng.choice((0.0, 0.05, 0.15))
    order = rng.sample(range(n), n)
    spare = max(1, n - 2 * c - 1)  # c + 1 honest peers must be left to exclude who stopped
    if mix == "none":
        stop = Stop(order[0], 5.0 + rng.random() * 5.0, None)
        return Hazards(
            jitter=jitter, crashes=(stop,), sheltered=frozenset(order[1:]), calm_from=troubled, until=until
        )
    lying = mix == "liars" or (mix == "mixed" and rng.random() < 0.75)
    liars = tuple(sorted(order[: rng.choice((1, c))])) if lying else ()
    rest = order[len(liars) :]
    hit = rest[: rng.randint(1, max(1, min(spare, len(rest) - 1)))] if mix != "liars" else []
    naps, stops, cuts = _naps(rng, hit, troubled), _stops(rng, hit, troubled), _cuts(rng, n, hit, troubled)
    return Hazards(
        jitter=jitter,
        loss=0.0 if mix in ("crashes", "liars") else rng.choice((0.0, 0.02, 0.1)),
        cuts=cuts if mix in ("drops", "mixed") else (),
        naps=naps if mix in ("crashes", "mixed") else (),
        crashes=stops if mix in ("crashes", "mixed") else (),
        liars=liars,
        way=rng.choice(ways) if liars else "",
        sheltered=frozenset(rest) - frozenset(hit),
        calm_from=troubled,
        until=until,
    )


def _naps(rng: random.Random, hit: list[int], troubled: float) -> tuple[Nap, ...]:
    naps = []
    for peer in hit:
        begins = 0.0
        for _ in range(rng.randint(0, 3)):
            begins += 1.0 + rng.random() * troubled / 3
            lasts = rng.choice((0.7, SHORT_NAP, 8.0, 15.0))
            if begins + lasts < troubled:
                naps.append(Nap(peer, begins, lasts, rng.random() < 0.5))
            begins += lasts
    return tuple(naps)


def _stops(rng: random.Random, hit: list[int], troubled: float) -> tuple[Stop, ...]:
    stops = []
    for peer in hit:
        at = 2.0 + rng.random() * (troubled - 2.0)
        kind = rng.randrange(3)
        if kind:
            stops.append(Stop(peer, at, None if kind == 1 else rng.choice((0.01, 2.0, 15.0))))
    return tuple(stops)


def _cuts(rng: random.Random, n: int, hit: list[int], troubled: float) -> tuple[Cut, ...]:
    """One-way cuts of single ways, or a partition: those who are hit against all others."""
    begins = rng.random() * troubled / 2
    heals = min(troubled, begins + rng.choice((3.0, 10.0, 30.0)))
    others = [peer for peer in range(n) if peer not in hit]
    kind = rng.randrange(3)
    if kind == 0:
        pairs = [(peer, other) for peer in hit for other in others]
        return tuple(Cut(a, b, begins, heals) for pair in pairs for a, b in (pair, pair[::-1]))
    if kind == 1:
        inward = rng.random() < 0.5
        pairs = [(other, peer) if inward else (peer, other) for peer in hit for other in others]
        return tuple(Cut(a, b, begins, heals) for a, b in pairs if rng.random() < 0.8)
    edges = [(peer, other) for peer in hit for other in range(n) if other != peer]
    return tuple(
        Cut(*(edge if rng.random() < 0.5 else edge[::-1]), begins, heals) for edge in edges if rng.random() < 0.5
    )
