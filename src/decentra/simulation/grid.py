"""Group gossip with the real machines: every group of every round of a mixing plays a round of secagg in this process.

Groups do not speak with each other, so each has a virtual network and a clock to itself, and they are played one after
another; what a group certified is what its peers bring to the next axis.
"""

from __future__ import annotations

import logging
import math
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from decentra.charter.charter import Charter, Member
from decentra.crypto.keys import Identity
from decentra.crypto.suite import REAL, Suite
from decentra.data import locate
from decentra.driver.driver import Driver
from decentra.driver.fittings import Fittings
from decentra.driver.given import describe
from decentra.driver.ports import Ports
from decentra.driver.session import Session, Vector
from decentra.errors import DecentraError
from decentra.gossip import schedule
from decentra.gossip.group import group_charter
from decentra.gossip.schedule import Grid
from decentra.simulation.group import identities
from decentra.simulation.hazards import HOPS, generator
from decentra.simulation.ideal import IdealCrypto
from decentra.simulation.mixing import expected
from decentra.simulation.once import SharedRegistry
from decentra.simulation.ports import InlinePool, MemoryJournal, SeededRandom, SkewedClock
from decentra.simulation.stage import PATIENCE
from decentra.simulation.wires import Wires
from decentra.transport.simulated import Faults
from decentra.transport.virtual import EventHeap
from decentra.types import PeerId, RoundResult
from decentra.wire.entry import ZERO

LATENCY = 0.001
"""Virtual seconds on every edge."""

DURATION = HOPS * LATENCY
"""About how long a round lasts in which nobody stops: the instants at which peers stop fall within it."""

SIZE = 256
"""Coordinates of a vector."""

REACH = 0.09
"""Values are drawn up to this magnitude, within the charter's first range."""

_SILENT = logging.Logger("decentra.simulation", logging.CRITICAL + 1)


@dataclass(frozen=True)
class Part:
    """One peer's part in a group's round: its keys, what it brings (None: it does not come), and when it stops."""

    identity: Identity
    vector: Vector | None
    stops: float | None = None


class GroupRound:
    """One round of one group, over wires that carry whole messages.

    Args:
        charter: the group's.
        parts: one a member.
        seed: everything random follows from it and the charter.
        suite: real or ideal cryptography.
    """

    def __init__(self, charter: Charter, parts: Sequence[Part], seed: int, suite: Suite) -> None:
        self.charter, self.seed, self.suite, self.name = charter, seed, suite, charter.hash
        self.clock = EventHeap()
        self.wires = Wires(self.clock, seed, Faults(latency=LATENCY))
        self.registry = SharedRegistry(charter.protocol.name)
        self.rng = generator(seed, self.name.hex())
        self.waiting = 0
        """Peers that are there and whose round has not ended."""
        self.peers = tuple(_Peer(self, part) for part in parts if part.vector is not None)

    def play(self) -> Mapping[PeerId, RoundResult | DecentraError | None]:
        """Play it to its end: what it came to at every peer that came; None for one that stopped."""
        self.clock.run_until(lambda: not self.waiting, PATIENCE)
        for peer in self.peers:
            peer.close()
        return {peer.id: peer.ended for peer in self.peers}

    @property
    def bytes_sent(self) -> int:
        return sum(peer.end.counters.bytes_sent for peer in self.peers)


class _Peer:
    """A peer in a group's round: a session of its own, with its own sealing key and chain."""

    def __init__(self, group: GroupRound, part: Part) -> None:
        self.group, self.id = group, part.identity.id
        self.ended: RoundResult | DecentraError | None = None
        self._there, self._tries = True, schedule.TRIES
        suite = group.suite
        ideal = isinstance(suite, IdealCrypto)
        self.clock = SkewedClock(group.clock)
        self.end = group.wires.transport(self.id, lambda *message: self.driver.on_receive(*message))
        self.session = Session(
            suite.signer(self.id, part.identity.public) if isinstance(suite, IdealCrypto) else part.identity,
            group.charter,
            boot=1,
            random=SeededRandom(group.seed, self.id + group.name),
            suite=suite,
            log=_SILENT,
            fittings=Fittings(self.end.link, ticks=False, registry=group.registry if ideal else None),
        )
        self.session.open(Ports(self.clock, self.end, MemoryJournal(), InlinePool()))
        self._vector = part.vector
        group.waiting += 1
        group.clock.call_later(0.0, self._begin)
        if part.stops is not None:
            group.clock.call_later(part.stops, self._stop)

    @property
    def driver(self) -> Driver:
        return self.session.driver

    def _begin(self) -> None:
        if self._there and self._vector is not None:
            self._tries -= 1
            self.session.begin(self._vector, self._done)

    def _done(self, ended: RoundResult | DecentraError) -> None:
        if not self._there:
            return
        if isinstance(ended, DecentraError) and not ended.spent and self._tries:
            self.group.clock.call_later(0.0, self._begin)
            return
        self.ended = ended
        self.group.waiting -= 1

    def _stop(self) -> None:
        """Its process is gone, as by kill -9: half of what was on its way to each neighbour with it."""
        if self.ended is None:
            self.group.waiting -= 1
        self._there, self.ended = False, None
        self.group.wires.stop(self.id, lambda _: self.group.rng.random() < 0.5)
        self.close()

    def close(self) -> None:
        self.clock.stopped = True
        self.driver.close()


# ── a mixing ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Play:
    """A mixing to simulate.

    Attributes:
        n: peers.
        group: the size of a group to aim at.
        c: how many of a group may collude.
        seed: everything random follows from it.
        lost: the part of the peers that stop for good, each at a random instant of a random round.
        size: coordinates of a vector.
        crypto: ``ideal`` or ``real``.
    """

    n: int
    group: int
    c: int
    seed: int = 0
    lost: float = 0.0
    size: int = SIZE
    crypto: str = "ideal"


@dataclass(frozen=True)
class Told:
    """What a round of a mixing came to.

    Attributes:
        axis: the round's.
        groups: how many there were, and ``failed`` how many of them gave nobody a result.
        holders: peers that hold an aggregate afterwards; ``stopped`` are gone.
        error: root of the mean squared error of their estimates against the mean of all n values, and ``worst`` the
            largest, both in standard deviations of the values; ``expected`` is what theory says of ``error``, given how
            many took part in the groups that did not fail, and how many failed. None where nobody holds an aggregate.
        bytes: sent by a peer that took part, on average, and ``seconds`` of one core that it took.
    """

    axis: int
    groups: int
    failed: int
    holders: int
    stopped: int
    error: float | None
    worst: float | None
    expected: float | None
    bytes: float
    seconds: float


@dataclass
class _Standing:
    """What a peer brings to the next round: an estimate, and what it weighs in units."""

    values: NDArray[np.float32]
    held: int


@dataclass(frozen=True)
class _Played:
    """A group's round, played: how many are in the group and in its result, who holds that, and all bytes sent."""

    size: int
    participants: int
    after: Mapping[int, _Standing]
    sent: int


class Mixing:
    """One mixing of n simulated peers."""

    def __init__(self, play: Play) -> None:
        self.play = play
        self.grid: Grid = schedule.grid(play.n, play.group, play.c)
        self.suite: Suite = IdealCrypto(play.seed) if play.crypto == "ideal" else REAL
        members = identities(play.n, play.seed)
        self.parent = large_charter(members, play.c, play.group)
        self.name = self.parent.hash
        self.beacon = SeededRandom(play.seed, b"beacon")(32)
        by_id = {identity.id: identity for identity in members}
        drawn = schedule.places(self.name, self.beacon, self.parent.ids)
        self.members = tuple(by_id[peer] for peer in drawn)
        """The identities by place."""
        rng = np.random.default_rng(play.seed)
        self.values = rng.uniform(-REACH, REACH, (play.n, play.size)).astype(np.float32)
        victims = rng.choice(play.n, round(play.lost * play.n), replace=False).tolist()
        axes, instants = rng.integers(0, self.grid.axes, len(victims)), rng.random(len(victims)) * DURATION
        self.stops = dict(zip(victims, zip(axes.tolist(), instants.tolist(), strict=True), strict=True))
        """The round and the instant at which a place's peer stops."""
        self.standing = {place: _Standing(self.values[place], 1) for place in range(play.n)}

    def rounds(self) -> Iterator[Told]:
        """Play one round after another."""
        deviation = float(np.sqrt(self.values.var(axis=0, dtype=np.float64, ddof=1).mean()))
        shares, whole = list[float](), [1.0]
        for axis in range(self.grid.axes):
            came, began = len(self.standing), time.process_time()
            played = [self._play(axis, places) for places in schedule.groups(self.grid, axis)]
            spent = time.process_time() - began
            self.standing = {place: one for group in played for place, one in group.after.items()}
            sound = [group for group in played if group.after]
            of = sum(group.size for group in sound)
            shares.append(sum(group.participants for group in sound) / of if of else 0.0)
            theory = expected(self.grid, shares, whole)[-1]
            whole.append(whole[-1] * len(sound) / self.grid.lines)
            off = self._off() / deviation
            yield Told(
                axis=axis,
                groups=self.grid.lines,
                failed=self.grid.lines - len(sound),
                holders=len(self.standing),
                stopped=sum(when <= axis for when, _ in self.stops.values()),
                error=float(np.sqrt(np.mean(off**2))) if off.size else None,
                worst=float(np.abs(off).max()) if off.size else None,
                expected=math.sqrt(theory) if off.size else None,
                bytes=sum(group.sent for group in played) / max(1, came),
                seconds=spent / max(1, came),
            )

    def _off(self) -> NDArray[np.float64]:
        truth = self.values.mean(axis=0, dtype=np.float64)
        estimates = [one.values for one in self.standing.values()]
        off: NDArray[np.float64] = np.array(estimates, dtype=np.float64).reshape(-1, truth.size) - truth
        return off

    def _play(self, axis: int, places: Sequence[int]) -> _Played:
        members = [self.members[place].id for place in places]
        charter = group_charter(self.parent, self.name, self.beacon, axis, self.grid, members)
        parts = [Part(self.members[place], self._vector(axis, place), self._stops(axis, place)) for place in places]
        group = GroupRound(charter, parts, self.play.seed, self.suite)
        results = group.play()
        got = {place: results.get(peer) for place, peer in zip(places, members, strict=True)}
        sound = {place: one for place, one in got.items() if isinstance(one, RoundResult)}
        # one whose round ended before its instant came stops now
        after = {place: self._after(axis, one) for place, one in sound.items() if self._stops(axis, place) is None}
        participants = max((len(one.participants) for one in sound.values()), default=0)
        return _Played(len(places), participants, after, group.bytes_sent)

    def _vector(self, axis: int, place: int) -> Vector | None:
        """What a peer brings; None where it has stopped, or its group failed."""
        mine = self.standing.get(place)
        if mine is None:
            return None
        weight = schedule.weight(self.grid, axis, place, mine.held) if axis else 1
        return Vector([mine.values], describe([mine.values], None), weight, schedule.fingerprint(ZERO, 0))

    def _stops(self, axis: int, place: int) -> float | None:
        when, at = self.stops.get(place, (None, 0.0))
        return at if when == axis else None

    def _after(self, axis: int, result: RoundResult) -> _Standing:
        return _Standing(result.values[0], schedule.held(self.grid, axis, result.total_weight))


def large_charter(members: Sequence[Identity], c: int, group: int) -> Charter:
    """The charter of all peers of a mixing, as the template has it, and unsigned: its groups' are derived of it."""
    path = locate("protocols") / "group-gossip.toml"
    tables = tomllib.loads(path.read_text("utf-8"))
    tables["protocol"] |= {"c": c, "backup": True}
    records = [Member.of(identity, f"peer-{index}") for index, identity in enumerate(members)]
    tables["groups"] |= {"size": group, "drawers": [record.name for record in records[: 3 * c + 2]]}
    return Charter.build({**tables, "members": records}, path.name)
