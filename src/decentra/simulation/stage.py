"""One schedule on its stage: real machines and drivers on virtual ports, hazards, and an oracle that watches."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decentra.charter.bucket_policy import BUCKETED
from decentra.charter.charter import Charter
from decentra.crypto.hashing import digest
from decentra.crypto.keys import Identity
from decentra.crypto.suite import REAL, Suite
from decentra.driver.driver import Driver
from decentra.driver.fittings import Fittings, LinkMaker, MachineMaker
from decentra.driver.given import describe
from decentra.driver.ports import Pool, Ports
from decentra.driver.session import Session, Vector
from decentra.errors import DecentraError
from decentra.gossip.group import combining_charter
from decentra.machine.effects import Effect, Record, Send
from decentra.machine.events import Computed, Event, Expired, Received, Start, Supplied
from decentra.machine.state import piece_digests
from decentra.simulation.group import charter_for, identities
from decentra.simulation.hazards import Crash, Hazards, generator
from decentra.simulation.ideal import IdealCrypto
from decentra.simulation.liars import Adversary, Coalition
from decentra.simulation.means import Means, drawn
from decentra.simulation.once import SharedRegistry
from decentra.simulation.oracle import Oracle
from decentra.simulation.ports import InlinePool, MemoryJournal, SeededRandom, SkewedClock, SlowPool
from decentra.simulation.trace import Trace
from decentra.simulation.wires import Parcel, Wires, WireTransport
from decentra.transfer import Announcement, Link
from decentra.transfer.link import Send as SendFrame
from decentra.transport.base import Lane, Transport
from decentra.transport.simulated import Network
from decentra.transport.virtual import EventHeap
from decentra.types import EpochName, PeerId, RoundId, RoundResult
from decentra.wire.codec import Signed
from decentra.wire.entry import Signer
from decentra.wire.message import Verified

PATIENCE = 7200.0
"""Virtual seconds within which every round must have ended for everyone, under the deadlines of the templates: two
minutes for readiness, fourteen views of rosters, four phases, and twice six deadlines of overtime; and clocks at half
speed."""

CRYPTO = ("ideal", "real")

_EVENTS = frozenset((Received, Expired, Computed, Start, Supplied))

_SILENT = logging.Logger("decentra.simulation", logging.CRITICAL + 1)


@dataclass(frozen=True)
class Play:
    """What every schedule of a search has in common.

    Attributes:
        protocol: ``secagg``, ``allreduce``, ``mesh``, ``shamir-gram`` or ``bucketed``; of the last the session that
            combines the buckets' means, since a bucket's own is one of secagg.
        n: peers.
        c: how many may lie together.
        crypto: ``ideal`` or ``real``.
        size: coordinates of a vector at most; a schedule has 1 to so many.
        frames: run real links over a network of frames, instead of wires that carry whole messages.
        again: whether the updates that came back go again in a second round, and restarted peers with them.
        late: seconds that local steps still take at most, of the peers, about half, whose rounds begin ahead of them;
            0 where everybody begins with its update.
        rebuild: in one schedule of so many, and in each that is traced, coalitions rebuild secrets and take masks off
            instead of counting their shares.
        bucket_c: how many of one bucket may lie; None for as many as of all.
    """

    protocol: str = "secagg"
    n: int = 7
    c: int = 2
    crypto: str = "ideal"
    size: int = 40
    frames: bool = False
    again: bool = True
    rebuild: int = 50
    late: float = 0.0
    bucket_c: int | None = None


@dataclass(frozen=True)
class Cast:
    """A group's charter and its members' identities; peers are named by their position among the members."""

    charter: Charter
    members: tuple[Identity, ...]


@lru_cache(maxsize=16)
def cast_for(protocol: str, n: int, c: int, bucket_c: int | None = None) -> Cast:
    """The group of every schedule of a search; what differs between schedules follows from their seeds alone.

    Buckets have the least size that hides an update: so there are as many as can be, and each breaks most easily.
    """
    members = identities(n, 0)
    if protocol != BUCKETED:
        return Cast(charter_for(members, protocol, protocol__c=c), members)
    lower = None if bucket_c == c else bucket_c
    signed = charter_for(
        members,
        protocol,
        protocol__c=c,
        buckets__size=(c if lower is None else lower) + 2,
        buckets__c=lower,
        buckets__risk=None if lower is None else 1.0,
    )
    return Cast(combining_charter(signed, signed.hash, digest("simulated beacon", signed.hash)), members)


class Held:
    """A small state of a caller's, in which peers may differ at the beginning."""

    nbytes = 96

    def __init__(self, fill: int) -> None:
        self._data = np.full(self.nbytes, fill, np.uint8)

    def pieces(self) -> tuple[bytes, ...]:
        return piece_digests([self._data])

    def export(self) -> list[NDArray[np.uint8]]:
        return [self._data]

    def adopt(self, data: memoryview) -> None:
        self._data = np.frombuffer(data, np.uint8).copy()


class Actor:
    """One process of one peer."""

    def __init__(self, stage: Stage, position: int, boot: int, journal: MemoryJournal) -> None:
        self.stage, self.position, self.boot, self.journal = stage, position, boot, journal
        identity = stage.cast.members[position]
        self.id = identity.id
        self.alive, self.ended = True, False
        self.result: RoundResult | DecentraError | None = None
        self.vector: Vector | None = None
        """What it was last given to contribute."""
        self.update = ""
        """The name of that."""
        self._effects = self._writes = 0
        crashes = stage.hazards.crashes.get(position, ())
        self._crash: Crash | None = crashes[boot - 1] if boot <= len(crashes) else None
        self._slow = stage.hazards.slow.get(position)
        self.clock = SkewedClock(stage.clock, stage.hazards.rates.get(position, 1.0))
        self._sending: Send | None = None
        suite = stage.suite
        signer: Signer = identity if not isinstance(suite, IdealCrypto) else suite.signer(identity.id, identity.public)
        self.signer = signer
        transport, link = self._wire()
        self.session = Session(
            signer,
            stage.cast.charter,
            boot=boot,
            random=SeededRandom(stage.seed, identity.id + boot.to_bytes(8, "little")),
            last_round=max(journal.last_round, stage.before),
            witness=partial(stage.oracle.encoded, self),
            suite=suite,
            log=_SILENT,
            fittings=Fittings(link, stage.play.frames, self._watch, stage.registry, stage.maker(position), cpu=None),
        )
        if isinstance(transport, WireTransport):
            transport.on_receive = self.driver.on_receive
        pool: Pool = InlinePool() if self._slow is None else SlowPool(self.clock, self._takes)
        self.session.open(Ports(self.clock, transport, self, pool))

    def _wire(self) -> tuple[Transport, LinkMaker]:
        stage, mouth = self.stage, self.stage.mouth(self)
        if stage.network is None:
            end = stage.wires.transport(self.id, _nowhere, mouth)
            return end, end.link
        transport = stage.network.transport(
            self.id, lambda *message: self.driver.on_receive(*message), lambda *change: self.driver.on_link(*change)
        )
        return transport, Link if mouth is None else partial(_MutedLink, mouth)

    @property
    def driver(self) -> Driver:
        return self.session.driver

    @property
    def letter(self) -> str:
        """What people call the peer."""
        return self.stage.letter(self.id)

    @property
    def machine(self) -> Any:
        """The machine of the round that is on."""
        return self.driver.machine

    def begin(self, vector: Vector) -> None:
        self.ended, self.result = False, None
        self.session.begin(vector, self._done)

    def supply(self, vector: Vector) -> None:
        """The local steps of a round that began ahead of them are done."""
        if self.alive and self.session.awaits_update and vector.tensors is not None:
            self.session.supply(vector.tensors)

    def _done(self, result: RoundResult | DecentraError) -> None:
        if self.alive:
            self.ended, self.result = True, result
            self.stage.oracle.ended(self, result)
            self.stage.changed = True

    # ── what the driver shows ────────────────────────────────────────────────────────────────────────────────────────

    def _watch(self, seen: Event | Effect) -> None:
        if not self.alive:
            return
        if type(seen) not in _EVENTS:
            self._effects += 1
            if self._crash is not None and self._crash.effect == self._effects - 1:
                self.stop(self._crash)
                return
            if type(seen) is Send:
                self._sending = seen
        if self.stage.trace is not None:
            self.stage.trace.saw(self.stage.clock.now(), self.letter, seen)
        self.stage.oracle.saw(self, seen)

    # ── the journal, with its own mishaps ────────────────────────────────────────────────────────────────────────────

    def entry(self, signed: Signed, log_body: bool, durable: Callable[[], None]) -> None:
        """See ``driver.ports.Journal``."""
        effect = self._sending
        self._write(partial(self.journal.entry, signed, log_body), lambda: self._leaves(effect, signed, durable))

    def record(self, round_id: RoundId, record: Record, durable: Callable[[], None]) -> None:
        """See ``driver.ports.Journal``."""
        self._write(partial(self.journal.record, round_id, record), durable)

    def heard(self, verified: Verified, log_body: bool) -> bool:
        """See ``driver.ports.Journal``."""
        return self.journal.heard(verified, log_body)

    def _write(self, keep: Callable[[Callable[[], None]], None], durable: Callable[[], None]) -> None:
        crash, count = self._crash, self._writes
        self._writes += 1
        if crash is not None and crash.write == count:
            keep(lambda: None)
            self.journal = self.journal.torn(crash.reached)
            self.stage.cut += 1
            self.stop(crash)
        elif self._slow is None:
            keep(durable)
        else:
            self.clock.call_later(self._takes() / 10, lambda: keep(durable))

    def _leaves(self, effect: Send | None, signed: Signed, durable: Callable[[], None]) -> None:
        if effect is not None:
            self.stage.oracle.sent(self, effect, signed)
        durable()

    def _takes(self) -> float:
        return self.stage.rng.random() * (self._slow or 0.0)

    # ── the end of the process ───────────────────────────────────────────────────────────────────────────────────────

    def stop(self, crash: Crash) -> None:
        """The process is gone, as by kill -9."""
        stage = self.stage
        self.alive, self.clock.stopped, stage.changed = False, True, True
        self.driver.close()
        if stage.network is None:
            stage.wires.stop(self.id, lambda target: stage.rng.random() >= crash.loses)
        if stage.trace is not None:
            stage.trace.line(stage.clock.now(), self.letter, "✝ its process stops")
        if crash.back is not None:
            stage.clock.call_later(crash.back, lambda: stage.restart(self))


def _nowhere(peer: PeerId, lane: Lane, header: bytes, buffers: Sequence[memoryview]) -> None:
    """Where messages go while there is no driver: nothing comes before the clock goes on."""


class _MutedLink(Link):
    """A real link whose owner keeps some of its entries to itself."""

    def __init__(
        self,
        mouth: Callable[[PeerId, Parcel], bool],
        peer: PeerId,
        incarnation: int,
        send: SendFrame,
        *,
        session: bytes,
        epoch: EpochName,
    ) -> None:
        super().__init__(peer, incarnation, send, session=session, epoch=epoch)
        self._mouth, self._to = mouth, peer

    def post(
        self,
        parts: Sequence[bytes],
        announcement: Announcement | None = None,
        data: memoryview | None = None,
        *,
        round_number: int = 0,
    ) -> None:
        if self._mouth(self._to, Parcel(tuple(parts), announcement, data)):
            super().post(parts, announcement, data, round_number=round_number)


class Stage:
    """One schedule.

    Args:
        play: what all schedules of the search have in common.
        seed: whatever else is random follows from it.
        hazards: what goes wrong.
        adversary: how the liars lie; needed where there are any.
        machines: what plays a round in place of the protocol's own machine, by position: mutants.
        trace: where everything that happens is written down.
        journal: makes the journal of a peer, by position; one that its processes share.
    """

    def __init__(
        self,
        play: Play,
        seed: int,
        hazards: Hazards,
        *,
        adversary: Adversary | None = None,
        machines: Mapping[int, MachineMaker] | None = None,
        trace: Trace | None = None,
        journal: Callable[[int], MemoryJournal] = lambda position: MemoryJournal(),
    ) -> None:
        self.play, self.seed, self.hazards, self.trace = play, seed, hazards, trace
        self.cast = cast_for(play.protocol, play.n, play.c, play.bucket_c)
        self.rng, self._steps = generator(seed, "stage"), generator(seed, "local steps")
        self.before = self.rng.randrange(1 << 20)
        """The round before the first one: it decides who proposes."""
        self.suite: Suite = IdealCrypto(seed) if play.crypto == "ideal" else REAL
        self.registry = SharedRegistry(play.protocol)
        self.clock = EventHeap()
        self.wires = Wires(self.clock, seed, hazards.everywhere)
        self.network = Network(self.clock, seed, hazards.everywhere) if play.frames else None
        self._machines = dict(machines or {})
        liars = frozenset(self.cast.members[position].id for position in hazards.liars)
        self.letters = {peer: chr(ord("A") + place) for place, peer in enumerate(self.cast.charter.ids)}
        self.rebuilds = play.protocol == "secagg" and (trace is not None or seed % play.rebuild == 0)
        self.oracle = Oracle(self, liars)
        self.coalition = Coalition(self, adversary, liars) if adversary is not None and liars else None
        self.spoils = "" if adversary is None else adversary.spoils
        """What need not be what liars encoded."""
        self.size = self.rng.randint(1, play.size)
        self.means = Means(self.cast.charter, seed, self.size, some_lack=not hazards.calm or bool(hazards.liars))
        unlike = 1 if play.protocol == BUCKETED else play.n // 2  # who takes a state over has no mean to bring
        lacking = generator(seed, "unlike").sample(range(play.n), unlike) if adversary and adversary.unlike else []
        self.states = {position: Held(int(position in lacking)) for position in range(play.n) if lacking}
        """What training would hold alike, by position; nothing where no adversary lies about it."""
        self.actors: list[Actor] = []
        self.actors = [Actor(self, position, 1, journal(position)) for position in range(play.n)]
        self._spoil_edges()
        self.changed = True
        """Whether a peer has ended or stopped since it was last asked whether the round is over."""
        self.cut = 0
        """How many journals were cut at or within a commit."""
        self.rounds: list[list[RoundResult | DecentraError | None]] = []

    def letter(self, peer: PeerId) -> str:
        return self.letters.get(peer, "?")

    def maker(self, position: int) -> MachineMaker | None:
        """What plays this peer's rounds; None for the protocol's own machine."""
        mutant = self._machines.get(position)
        if self.coalition is not None and self.cast.members[position].id in self.coalition.liars:
            return self.coalition.maker(mutant)
        return mutant

    def mouth(self, actor: Actor) -> Callable[[PeerId, Parcel], bool] | None:
        if self.coalition is None or actor.id not in self.coalition.liars:
            return None
        return partial(self.coalition.says, actor.id)

    def _spoil_edges(self) -> None:
        ids = self.cast.charter.ids
        hub = self.wires if self.network is None else self.network
        for (from_, to), faults in self.hazards.edges.items():
            edge = vars(hub.faults(ids[from_], ids[to]))
            self.clock.call_at(self.hazards.worsens, partial(edge.update, vars(faults)))
        for cut in self.hazards.cuts:
            source, target = ids[cut.source], ids[cut.target]
            self.clock.call_later(cut.begins, partial(hub.cut, source, target))
            self.clock.call_later(cut.heals, partial(hub.heal, source, target))

    def restart(self, old: Actor) -> None:
        """The peer starts again on its journal, and wants to take part with another update."""
        fresh = Actor(self, old.position, old.boot + 1, old.journal)
        self.actors[old.position] = fresh
        if self.trace is not None:
            self.trace.line(self.clock.now(), fresh.letter, "starts again on its journal")
        fresh.begin(self.vector(fresh, f"boot {fresh.boot}"))

    def vector(self, actor: Actor, name: str) -> Vector:
        """An update of a peer's; each name is another one."""
        shared, summed = self.states.get(actor.position), tuple[PeerId, ...]()
        if self.play.protocol == BUCKETED:
            tensor, summed = self.means.of(actor.id, name, actor.boot)
        else:
            tensor = drawn(self.seed, actor.id + name.encode(), self.size)
        actor.update, actor.vector = name, Vector([tensor], describe([tensor], None), shared=shared, summed=summed)
        self.oracle.given(actor, name)
        return actor.vector

    # ── rounds ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def run(self) -> None:
        """Play the schedule to its end, and have the oracle judge it."""
        self._round({actor.position: "first" for actor in self.actors})
        freed = [
            actor.position
            for actor in self.actors
            if actor.alive and isinstance(actor.result, DecentraError) and not actor.result.spent
        ]
        restarted = [actor.position for actor in self.actors if actor.alive and actor.boot > 1]
        if self.play.again and not self.oracle.hung and (freed or restarted) and self.rng.random() < self.hazards.again:
            names = {actor.position: actor.update if actor.position in freed else "second" for actor in self.actors}
            if self.play.protocol == BUCKETED:  # a bucket sums once for all of its members
                completed = any(isinstance(one, RoundResult) for one in self.rounds[0])
                names = dict.fromkeys(names, "second" if completed else "first")
            self._round(names)
        for actor in self.actors:
            if actor.alive:
                actor.clock.stopped = True
                actor.driver.close()
        self.oracle.close()

    def _round(self, names: Mapping[int, str]) -> None:
        """A round of everyone who is there: with the named update, unless it is waiting in one already."""
        for actor in self.actors:
            if actor.alive and not actor.session.busy:
                start = partial(self._begin, actor, names[actor.position])
                actor.ended = False
                self.clock.call_later(self.rng.random() * 0.01, start)
        self.changed = True
        deadline = self.clock.now() + PATIENCE
        if not self.clock.run_until(self._over, deadline):
            late = [actor for actor in self.actors if self._awaited(actor)]
            self.oracle.hangs(late, PATIENCE)
        self.rounds.append([actor.result if actor.ended else None for actor in self.actors])

    def _begin(self, actor: Actor, name: str) -> None:
        if not actor.alive or actor.session.busy:
            return
        vector = self.vector(actor, name)
        if not self.play.late or self._steps.random() < 0.5:
            actor.begin(vector)
            return
        actor.begin(replace(vector, tensors=None))
        actor.clock.call_later(self._steps.random() * self.play.late, partial(actor.supply, vector))

    def _awaited(self, actor: Actor) -> bool:
        return actor.alive and not actor.ended and (actor.boot == 1 or bool(self.rounds)) and not self._lies(actor)

    def _lies(self, actor: Actor) -> bool:
        return actor.id in self.oracle.liars

    def _over(self) -> bool:
        if not self.changed:
            return False
        self.changed = False
        return not any(self._awaited(actor) for actor in self.actors)
