"""The body of ``decentra simulate --protocol group-gossip``: one mixing on the real machines, and its cost a peer."""

from __future__ import annotations

import resource
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from typing import Any

from decentra.cli.report import FAILED, emit
from decentra.errors import LocalError
from decentra.gossip import schedule
from decentra.simulation.grid import Mixing, Play, Told
from decentra.simulation.stage import CRYPTO

PROTOCOL = "group-gossip"

MOST_SIMULATED = 10_000
"""About 0.15 s of a core a peer and mixing in groups of 16: half an hour."""

COMPARED = 64
"""The number of peers whose costs the others' are held against."""

EXACT = 1e-6
"""In deviations of the values: what float32 and 32 bits of fixed point leave of an exact mean, and ten times more."""


def simulate(
    n: int, group: int, c: int | None, lost: float, seed: int, crypto: str, as_json: bool
) -> int:
    """Play one mixing of n peers, and one of 64 to compare with.

    Args:
        n: peers.
        group: the size of a group to aim at.
        c: how many of a group may collude; None for a quarter of it.
        lost: the part of the peers that stop, each at a random instant.
        seed: everything random follows from it.
        crypto: ``ideal`` or ``real``.
        as_json: print one JSON object.

    Returns:
        0, or 1 where no peer holds a mean, or nobody was lost and the mean is not exact.

    Raises:
        LocalError: the numbers don't fit together.
    """
    if not 0.0 <= lost < 1.0:
        raise LocalError(f"--lost {lost:g} must be 0 up to but not 1, the part of the peers that stop; give 0.1")
    if crypto not in CRYPTO:
        raise LocalError(f"there is no cryptography {crypto!r}; choose {' or '.join(CRYPTO)}")
    if seed < 0:
        raise LocalError(f"--first {seed} is no seed; give 0 or more")
    if n > MOST_SIMULATED:
        raise LocalError(f"-n {n} is more than {MOST_SIMULATED}; benches/group_gossip.py has the schedule alone")
    play = Play(n, group, max(1, min(n, group) // 4) if c is None else c, seed, lost, crypto=crypto)
    schedule.grid(n, group, play.c)  # refuses what does not fit, before anything is played
    run = _Run(play)
    lines: Iterable[str] = run.lines()
    if as_json:
        lines = list(lines)
    emit(as_json, run.data if as_json else {}, lines)
    return 0 if run.sound else FAILED


class _Run:
    """A mixing, what it told, and the one that it is compared with."""

    def __init__(self, play: Play) -> None:
        self.play, self.mixing = play, Mixing(play)
        self.told: list[Told] = []
        self.compared: list[Told] = []

    @property
    def sound(self) -> bool:
        last = self.told[-1]
        if last.worst is None:
            return False
        return self.play.lost > 0 or (last.holders == self.play.n and last.worst <= EXACT)

    def lines(self) -> Iterator[str]:
        """Plays, and tells each round when it has ended."""
        play, grid = self.play, self.mixing.grid
        few, most = grid.sizes
        sides = " × ".join([str(grid.side)] * grid.axes)
        yield (
            f"{PROTOCOL}, n = {play.n:,} on a grid of {sides}, {_groups(grid.lines)} of {_between(few, most)}, "
            f"c = {play.c}, {play.crypto} crypto, {play.lost:.0%} of the peers stop: seed {play.seed}"
        )
        for told in self.mixing.rounds():
            self.told.append(told)
            yield _line(told)
        yield self._outcome()
        if twentieth := play.n // 20:
            yield (
                f"if {twentieth} of the {play.n:,} lied, some group of a mixing would hold more than {play.c} of them "
                f"with a probability of at most {schedule.mixing_risk(grid, twentieth, play.c):.2g}"
            )
        if play.n > COMPARED:
            self.compared = list(Mixing(replace(play, n=COMPARED)).rounds())
            yield (
                f"a peer and round: {self.bytes:,.0f} bytes and {self.cpu:.3f} s of a core, "
                f"{self.bytes / _bytes(self.compared):.2f} and {self.cpu / _cpu(self.compared):.2f} times "
                f"those at n = {COMPARED}"
            )
        yield f"{_memory() / 2**20:,.0f} MiB of memory at most"

    def _outcome(self) -> str:
        last, n = self.told[-1], self.play.n
        if last.worst is None:
            return f"no peer holds a mean, since every group of a round failed; {last.stopped:,} of {n:,} stopped"
        off = "exactly" if last.worst <= EXACT else f"at most {last.worst:.3g} deviations off"
        return f"{last.holders:,} of {n - last.stopped:,} peers hold the mean of all {n:,}, {off}"

    @property
    def bytes(self) -> float:
        return _bytes(self.told)

    @property
    def cpu(self) -> float:
        return _cpu(self.told)

    @property
    def data(self) -> dict[str, Any]:
        """What ``--json`` prints: costs are those of a peer and round, of which a mixing has ``axes``."""
        play, grid = self.play, self.mixing.grid
        return {
            "protocol": PROTOCOL,
            "n": play.n,
            "group": play.group,
            "c": play.c,
            "seed": play.seed,
            "lost": play.lost,
            "side": grid.side,
            "axes": grid.axes,
            "sizes": list(grid.sizes),
            "rounds": [asdict(told) for told in self.told],
            "bytes_per_peer": round(self.bytes),
            "cpu_per_peer": self.cpu,
            "compared": self._beside() if self.compared else None,
            "memory": _memory(),
        }

    def _beside(self) -> dict[str, Any]:
        return {"n": COMPARED, "bytes_per_peer": round(_bytes(self.compared)), "cpu_per_peer": _cpu(self.compared)}


def _between(few: int, most: int) -> str:
    return str(few) if few == most else f"{few} or {most}"


def _groups(count: int) -> str:
    return "1 group" if count == 1 else f"{count} groups"


def _line(told: Told) -> str:
    failed = f", {told.failed} of which failed" if told.failed else ""
    error = "no peer holds a mean"
    if told.error is not None and told.expected is not None:
        error = f"error of the mean {told.error:.3g} deviations, theory {told.expected:.3g}"
    return (
        f"round {told.axis + 1}: {_groups(told.groups)}{failed}; {error}; {told.bytes:,.0f} bytes and "
        f"{told.seconds:.3f} s of a core a peer"
    )


def _bytes(told: list[Told]) -> float:
    return sum(one.bytes for one in told) / len(told)


def _cpu(told: list[Told]) -> float:
    return sum(one.seconds for one in told) / len(told)


def _memory() -> int:
    """The most bytes that this process has had in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
