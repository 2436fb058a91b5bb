"""Schedules of membership by seed: what each came to, and how long detection took, beside what theory says."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from decentra.gossip.limits import PERIOD
from decentra.simulation.case import Violation
from decentra.simulation.hazards import Mix
from decentra.simulation.membership import World
from decentra.simulation.membership_hazards import Hazards, draw
from decentra.simulation.membership_liars import WAYS


@dataclass(frozen=True)
class Figures:
    """What one schedule measured; times in seconds.

    Attributes:
        probed: from each stop for good to the beginning of the first probe that failed for it.
        first: to its first suspicion.
        spread: from then until all honest peers knew of a suspicion.
        excluded: from the stop until the first honest peer excluded it.
        agreed: until all had.
        false_suspicions: honest peers' suspicions of a peer that ran.
        false_exclusions: honest peers' exclusions of a peer that ran, starved or cut off as it may have been.
        wronged: those of them where nothing ailed either but the loss of datagrams.
        messages, bytes: sent by an honest peer in a second, in the mean.
    """

    probed: tuple[float, ...]
    first: tuple[float, ...]
    spread: tuple[float, ...]
    excluded: tuple[float, ...]
    agreed: tuple[float, ...]
    false_suspicions: int
    false_exclusions: int
    wronged: int
    messages: float
    bytes: float


@dataclass(frozen=True)
class Outcome:
    """What one schedule came to.

    ``settled`` is how long all honest views took to agree, once nothing went wrong any more; None where nothing did.
    """

    seed: int
    way: str
    violations: tuple[Violation, ...]
    figures: Figures
    settled: float | None = None


@dataclass(frozen=True)
class Play:
    """What every schedule of a search has in common.

    Attributes:
        n: peers.
        c: how many may lie together.
        crypto: ``ideal`` or ``real``.
        settled: whether all know each other at the beginning.
        way: how liars lie; None for another way in each schedule.
    """

    n: int = 8
    c: int = 2
    crypto: str = "ideal"
    settled: bool = False
    way: str | None = None

    def hazards(self, seed: int, mix: Mix) -> Hazards:
        """What goes wrong in a schedule; larger groups have more time, since a lap of probes takes longer."""
        ways = tuple(WAYS) if self.way is None else (self.way,)
        hazards = draw(seed, mix, self.n, self.c, ways, scale=max(1.0, self.n / 8) if mix != "none" else 1.0)
        if mix == "none" and self.settled:
            return replace(hazards, until=hazards.crashes[0].at + 10.0 + 15.0 * math.log10(self.n))
        return hazards


def world_of(
    play: Play, seed: int, mix: Mix, *, hazards: Hazards | None = None, trace: list[str] | None = None
) -> World:
    """The world of a seed, set and not yet run."""
    chosen = play.hazards(seed, mix) if hazards is None else hazards
    world = World(play.n, play.c, chosen, seed, play.crypto, play.settled, trace)
    if chosen.liars:
        WAYS[chosen.way](world)
    return world


def run_seed(
    play: Play, seed: int, mix: Mix, *, hazards: Hazards | None = None, trace: list[str] | None = None
) -> Outcome:
    """Play the schedule of one seed to its end."""
    world = world_of(play, seed, mix, hazards=hazards, trace=trace)
    settled: float | None = None
    if mix == "none":
        world.run(world.hazards.until)
    else:
        settled = world.settle()
        world.close()
    return Outcome(seed, world.hazards.way, tuple(world.violations), measure(world), settled)


def measure(world: World) -> Figures:
    """What a world that has run shows."""
    gone = {stop.peer: stop.at for stop in world.hazards.crashes if stop.back is None}
    away = {
        stop.peer: (stop.at, stop.at + stop.back) for stop in world.hazards.crashes if stop.back is not None
    }
    honest = [node for node in world.nodes if node.id not in world.liars]
    left = {node.place for node in honest} - gone.keys()

    def down(place: int, at: float) -> bool:
        begins, ends = away.get(place, (math.inf, math.inf))
        return at >= gone.get(place, math.inf) or begins <= at < ends

    probed, first, spread, excluded, agreed = [], [], [], [], []
    lying = set(world.hazards.liars)
    authored = [one for one in world.suspicions if one[1] not in lying]
    for peer, at in gone.items():
        own = [when for when, _, subject in authored if subject == peer and when > at]
        if peer in lying or not own:
            continue
        first.append(own[0] - at)
        probed.append(max(0.0, own[0] - PERIOD - at))
        known = _when(world, peer, at, left, ("suspected", "down"))
        out = _when(world, peer, at, left, ("down",))
        if len(known) == len(left):
            spread.append(max(known.values()) - own[0])
        if out:
            excluded.append(min(out.values()) - at)
        if len(out) == len(left):
            agreed.append(max(out.values()) - at)
    false = sum(not down(subject, when) for when, _, subject in authored)
    seen = [(when, subject) for when, _, subject, status in world.changes if status == "down" and subject not in lying]
    wrong = sum(not down(subject, when) for when, subject in seen)
    lasted = world.heap.now() * len(honest)
    sent, weighed = sum(node.messages for node in honest), sum(node.bytes for node in honest)
    return Figures(
        tuple(probed),
        tuple(first),
        tuple(spread),
        tuple(excluded),
        tuple(agreed),
        false,
        wrong,
        world.wronged,
        sent / lasted,
        weighed / lasted,
    )


def _when(world: World, peer: int, at: float, by: set[int], statuses: Sequence[str]) -> dict[int, float]:
    """When each of these first saw a peer in one of these statuses, after a time."""
    seen: dict[int, float] = {}
    for when, observer, subject, status in world.changes:
        if subject == peer and when >= at and observer in by and status in statuses:
            seen.setdefault(observer, when)
    return seen


# ── theory ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def expected_periods(n: int) -> float:
    """Protocol periods from a stop to the first probe of it, by whoever: Σ P(nobody within m periods).

    SWIM (section 3.1) has each of n−1 members choose anew in every period, and e/(e−1) = 1.58 as n grows. In laps of
    random order one member misses the peer in the next m periods with the mean over what is left of its lap.

    >>> [round(expected_periods(n), 2) for n in (8, 64, 1000)]
    [1.47, 1.57, 1.58]
    """
    slots = n - 1
    total, m = 0.0, 0
    while m < 2 * slots:
        missed = _missed(slots, m) ** slots
        if missed < 1e-9:
            break
        total, m = total + missed, m + 1
    return total


def _missed(slots: int, m: int) -> float:
    """The chance that one prober's next m probes, from a random place of a lap, do not have a given peer."""
    total = 0.0
    for left in range(slots):
        now, later = min(m, left), max(0, m - left)
        total += (1 - now / slots) * max(0.0, 1 - later / slots)
    return total / slots


def spread_periods(n: int) -> float:
    """Protocol periods in which a statement reaches all by ping and answer: 2·ln(n)/2 in the epidemic's mean (SWIM,
    section 4.1, whose infected grow as n/(1+(n−1)e^(−2t)) with a ping and an acknowledgement from each in a period).

    >>> [round(spread_periods(n), 1) for n in (8, 64, 1000)]
    [2.1, 4.2, 6.9]
    """
    return math.log(n)


# ── many schedules ───────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Tally:
    """What a search has come to."""

    n: int
    outcomes: list[Outcome] = field(default_factory=list)
    cpu: float = 0.0

    @property
    def violating(self) -> list[Outcome]:
        return [one for one in self.outcomes if one.violations]

    @property
    def per_minute(self) -> float:
        """Schedules a minute of one core's time."""
        return 60.0 * len(self.outcomes) / self.cpu if self.cpu else 0.0

    def values(self, name: str) -> list[float]:
        """One of the figures, of all schedules."""
        found: list[float] = []
        for one in self.outcomes:
            value = getattr(one.figures, name)
            found += value if isinstance(value, tuple) else (float(value),)
        return found

    def mean(self, name: str) -> float | None:
        """The mean of a figure; None where nothing was measured."""
        values = self.values(name)
        return statistics.fmean(values) if values else None

    def most(self, name: str) -> float | None:
        """The largest of a figure; None where nothing was measured."""
        return max(self.values(name), default=None)

    def total(self, name: str) -> int:
        """The sum of a count."""
        return round(sum(self.values(name)))

    @property
    def settled(self) -> float | None:
        """The longest that views took to agree once nothing went wrong any more; None where that was not asked."""
        return max((one.settled for one in self.outcomes if one.settled is not None), default=None)

    @property
    def periods(self) -> float | None:
        """Protocol periods to the first probe that failed, in the mean, counted as SWIM does: whole ones."""
        values = [max(1, math.ceil(at / PERIOD)) for one in self.outcomes for at in one.figures.probed]
        return statistics.fmean(values) if values else None


def search(play: Play, mix: Mix, seeds: Iterable[int]) -> Tally:
    """Play the schedules of these seeds."""
    tally, began = Tally(play.n), time.process_time()
    for seed in seeds:
        tally.outcomes.append(run_seed(play, seed, mix))
    tally.cpu = time.process_time() - began
    return tally
