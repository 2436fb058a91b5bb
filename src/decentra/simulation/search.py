"""Searches of seeds: each is one schedule, and what it came to follows from the seed alone."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, TypedDict, Unpack

from decentra.driver.fittings import MachineMaker
from decentra.errors import LocalError
from decentra.protocols.ballots import LOST
from decentra.protocols.survivors import FAIL
from decentra.simulation.adversaries import ADVERSARIES
from decentra.simulation.bucket_adversaries import BUCKET_ADVERSARIES, spread
from decentra.simulation.case import OUTCOME, SURVIVORS, Violation
from decentra.simulation.hazards import Hazards, Mix, draw, generator
from decentra.simulation.liars import Adversary
from decentra.simulation.shares_adversaries import SHARES_ADVERSARIES
from decentra.simulation.stage import Play, Stage
from decentra.simulation.trace import Trace
from decentra.types import RoundResult

Came = Literal["completed", "failed", "lost", "abandoned"]
CAME: tuple[Came, ...] = ("completed", "failed", "lost", "abandoned")
"""What a schedule's first round came to: a result; certified as failed; certified as lost; or ended before that."""

Machines = Mapping[int, MachineMaker]


@dataclass(frozen=True)
class Outcome:
    """What one schedule came to.

    Attributes:
        seed: the schedule.
        came: how its first round ended.
        adversary: how its liars lied; empty where there were none.
        violations: what did not hold.
        seconds: virtual time that passed.
        cut: how many journals were cut at or within a commit.
    """

    seed: int
    came: Came
    adversary: str
    violations: tuple[Violation, ...]
    seconds: float
    cut: int = 0


_SECAGG, _SUMS, _MESH, _BUCKETED, _SHARED = (
    ("secagg",), ("secagg", "allreduce"), ("mesh",), ("bucketed",), ("shamir-gram",)
)  # fmt: skip
_ONLY: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("bad-deal", "two-deals", "false-share", "both-shares", "bait", "false-check"), _SECAGG),
    "false-beacon": _SECAGG + _SHARED,
    **dict.fromkeys(("two-sums", "false-sum"), _SUMS),
    "two-vectors": (*_SUMS, *_MESH),
    "false-holding": (*_SUMS, *_MESH, *_SHARED),
    "false-update": _MESH,
    **dict.fromkeys(("false-relay", "false-result"), _MESH + _BUCKETED),
    **dict.fromkeys(BUCKET_ADVERSARIES, _BUCKETED),
    **dict.fromkeys(SHARES_ADVERSARIES, _SHARED),
}
"""Adversaries that twist what only some protocols have."""


def applicable(protocol: str) -> tuple[str, ...]:
    """The adversaries that have something to twist in a protocol."""
    return tuple(name for name in ADVERSARIES if protocol in _ONLY.get(name, (protocol,)))


class Given(TypedDict, total=False):
    """What a schedule may be given in place of what follows from its seed.

    Attributes:
        adversary: how the liars lie.
        machines: what plays instead of the protocol's own machine, by position.
        hazards: what goes wrong.
        trace: where everything is written down.
    """

    adversary: str | None
    machines: Machines | None
    hazards: Hazards | None
    trace: Trace | None


def stage_of(play: Play, seed: int, mix: Mix, **given: Unpack[Given]) -> Stage:
    """The stage of a seed, set and not yet played.

    Args:
        play: what all schedules of the search have in common.
        seed: the schedule.
        mix: what may go wrong.
    """
    trace, hazards = given.get("trace"), given.get("hazards")
    chosen = spread(draw(seed, mix, play.n, play.c), play) if hazards is None else hazards
    lying: Adversary | None = None
    if chosen.liars:
        lying = ADVERSARIES[given.get("adversary") or generator(seed, "which").choice(applicable(play.protocol))]
    made = Stage(play, seed, chosen, adversary=lying, machines=given.get("machines"), trace=trace)
    if trace is not None:
        trace.letters = made.letters
    return made


def run_seed(play: Play, seed: int, mix: Mix, **given: Unpack[Given]) -> Outcome:
    """Play the schedule of one seed; arguments as for ``stage_of``."""
    with unhurried():
        return _played(stage_of(play, seed, mix, **given))


def _played(stage: Stage) -> Outcome:
    stage.run()
    name = stage.coalition.adversary.name if stage.coalition is not None else ""
    return Outcome(stage.seed, _came(stage), name, tuple(stage.oracle.violations), stage.clock.now(), stage.cut)


@contextmanager
def unhurried() -> Iterator[None]:
    """Collect garbage once, after the schedule that is played within: it is one young cycle that lives to its end, and
    to walk through it again and again took a fifth of its time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.collect(0)
        if enabled:
            gc.enable()


def _came(stage: Stage) -> Came:
    results = [
        one
        for actor, one in zip(stage.actors, stage.rounds[0], strict=True)
        if isinstance(one, RoundResult) and actor.id not in stage.oracle.liars
    ]
    if results:
        return "completed"
    first = min((key[0] for key in stage.oracle.certified), default=None)
    held = {key[2]: list(values) for key, values in stage.oracle.certified.items() if key[0] == first}
    if FAIL in held.get(SURVIVORS, ()):
        return "failed"
    if LOST in held.get(OUTCOME, ()):
        return "lost"
    return "abandoned"


@dataclass
class Tally:
    """What a search has come to so far."""

    outcomes: dict[Came, int] = field(default_factory=lambda: dict.fromkeys(CAME, 0))
    violating: list[Outcome] = field(default_factory=list)
    schedules: int = 0
    cpu: float = 0.0
    cut: int = 0
    """Journals cut at or within a commit."""

    def add(self, outcome: Outcome) -> None:
        self.schedules += 1
        self.cut += outcome.cut
        self.outcomes[outcome.came] += 1
        if outcome.violations:
            self.violating.append(outcome)

    @property
    def per_minute(self) -> float:
        """Schedules a minute of one core's time."""
        return 60.0 * self.schedules / self.cpu if self.cpu else 0.0


def search(
    play: Play,
    mix: Mix,
    first: int,
    count: int,
    *,
    each: Callable[[Outcome], None] | None = None,
    **given: Unpack[Given],
) -> Tally:
    """Play the schedules of ``count`` seeds from ``first`` on.

    Raises:
        LocalError: there is no such adversary in this protocol.
    """
    check_adversary(play, given.get("adversary"))
    tally, began = Tally(), time.process_time()
    for outcome in outcomes(play, mix, first, count, **given):
        tally.add(outcome)
        tally.cpu = time.process_time() - began
        if each is not None:
            each(outcome)
    return tally


def outcomes(play: Play, mix: Mix, first: int, count: int, **given: Unpack[Given]) -> Iterator[Outcome]:
    """The outcomes of ``count`` seeds from ``first`` on, one after another."""
    for seed in range(first, first + count):
        yield run_seed(play, seed, mix, **given)


def check_adversary(play: Play, adversary: str | None) -> None:
    """Refuse an adversary that has nothing to do in the protocol."""
    known = applicable(play.protocol)
    if adversary is not None and adversary not in known:
        raise LocalError(f"{play.protocol} has no adversary {adversary!r}; choose one of {', '.join(known)}")


def trace_of(play: Play, seed: int, mix: Mix, **given: Unpack[Given]) -> tuple[Outcome, list[str]]:
    """The schedule of one seed, and everything that happened in it, a line each."""
    trace = given["trace"] = given.get("trace") or Trace()
    return run_seed(play, seed, mix, **given), trace.lines
