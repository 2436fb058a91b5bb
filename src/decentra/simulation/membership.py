"""Membership on a virtual network: many machines, everything that goes wrong between them, and an oracle."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from hashlib import sha256

from decentra.crypto.keys import verify
from decentra.errors import RemoteError
from decentra.gossip.happenings import Changed, Happening, Heard, Say, Setting
from decentra.gossip.limits import DATAGRAM_BYTES, SYNC_BYTES
from decentra.gossip.membership import Membership
from decentra.gossip.messages import Datagram, Sync, size
from decentra.gossip.statements import Statement, Word, incarnation, signed_bytes
from decentra.gossip.view import AWAY, Status
from decentra.machine.effects import Abort, SetTimer
from decentra.machine.events import Expired, Start
from decentra.simulation.case import Violation
from decentra.simulation.group import identities
from decentra.simulation.hazards import generator
from decentra.simulation.ideal import IdealCrypto
from decentra.simulation.membership_hazards import Hazards
from decentra.transport.virtual import EventHeap, Handle
from decentra.types import PeerId

SESSION = sha256(b"decentra/simulated membership").digest()

LOOK = 5.0
"""Seconds between looks at whether all views agree."""

LARGEST_GROUP = 64
"""Beyond it a comparison of views is longer than a datagram may be: figures on paper, as no charter has so many."""


@dataclass(frozen=True)
class Cast:
    """A group: its members, ascending, and how each signs and everyone checks."""

    members: tuple[PeerId, ...]
    sign: tuple[Callable[[bytes], bytes], ...]
    check: Callable[[PeerId, bytes, bytes], bool]


@lru_cache(maxsize=4)
def cast_for(n: int, crypto: str) -> Cast:
    """The group of every schedule of n peers, under ``ideal`` or ``real`` signatures."""
    if crypto == "real":
        group = identities(n, 0)
        keys = {one.id: one.public for one in group}
        return Cast(
            tuple(one.id for one in group),
            tuple(one.sign for one in group),
            lambda peer, signature, message: verify(keys[peer], signature, message),
        )
    ideal = IdealCrypto(0)
    members = tuple(sorted(PeerId(sha256(b"member %d" % place).digest()) for place in range(n)))
    signers = tuple(ideal.signer(peer, peer).sign for peer in members)
    return Cast(members, signers, lambda peer, signature, message: ideal.verify(peer, signature, message))


class Node:
    """One peer's process, or none while it is down. Honest, unless somebody twists what it says."""

    def __init__(self, world: World, place: int) -> None:
        self.world, self.place = world, place
        self.id = world.cast.members[place]
        self.boot = 0
        self.machine: Membership | None = None
        self.messages = self.bytes = 0
        self.asleep = False
        self._inbox: list[Happening] = []
        self._timers: dict[str, Handle] = {}
        self.twist: Callable[[Say], Sequence[Say]] | None = None
        self.hears: Callable[[PeerId, Datagram], bool] | None = None

    @property
    def running(self) -> Membership:
        """Its machine, where it has one; a defect of the caller's otherwise."""
        if self.machine is None:
            raise RuntimeError(f"peer {self.id} does not run")
        return self.machine

    def start(self, settled: bool = False) -> None:
        self.boot += 1
        world = self.world
        sign = partial(world.signs, self.place)
        setting = Setting(self.id, self.boot, SESSION, world.cast.members, world.c, sign, world.cast.check)
        seed = sha256(b"%d/%d/%d" % (world.seed, self.place, self.boot)).digest()
        self.machine = Membership(setting, seed, world.settled if settled else None)
        self._take(Start())

    def stop(self) -> None:
        self.machine = None
        self._inbox.clear()
        for handle in self._timers.values():
            handle.cancel()
        self._timers.clear()

    def sleep(self) -> None:
        """From now on nothing is handled; what comes waits, the time of timers passes."""
        self.asleep = True

    def wake(self, timers_first: bool) -> None:
        """Handle all that has waited, in its order, or what timers ran out before what others said."""
        self.asleep = False
        waited, self._inbox = self._inbox, []
        if timers_first:
            waited.sort(key=lambda one: isinstance(one, Heard))
        for happening in waited:
            self._take(happening)

    def hear(self, sender: PeerId, message: Datagram) -> None:
        if self.hears is None or self.hears(sender, message):
            self._take(Heard(sender, message))

    def _expire(self, name: str) -> None:
        self._timers.pop(name, None)
        self._take(Expired(name))

    def _take(self, happening: Happening) -> None:
        if self.machine is None:
            return
        if self.asleep:
            self._inbox.append(happening)
            return
        world = self.world
        try:
            doings = self.machine.handle(happening, world.heap.now())
        except RemoteError as fault:
            world.blamed(self, fault)
            return
        for doing in doings:
            match doing:
                case Say():
                    self.say(doing)
                case SetTimer(name, after):
                    if name in self._timers:
                        self._timers[name].cancel()
                    self._timers[name] = world.heap.call_later(after, partial(self._expire, name))
                case Changed():
                    world.changed(self, doing)
                case Abort(error):
                    if self.id not in world.liars:
                        world.violated("MB-4", self.id, str(error))
                    self.stop()
                    return

    def say(self, doing: Say) -> None:
        for one in (doing,) if self.twist is None else self.twist(doing):
            length = size(one.message)
            self.messages += 1
            self.bytes += length
            self.world.carry(self, one, length)


class World:
    """A group on a virtual clock, under the hazards of one schedule.

    Args:
        n: peers.
        c: how many suspicions do not exclude.
        hazards: what goes wrong.
        seed: everything follows from it.
        crypto: ``ideal`` or ``real``.
        settled: whether all know each other when it begins; else they start one after another and meet.
        trace: where everything that happens is written, a line each.

    Attributes:
        changes: (time, observer, subject, status), of honest observers.
        suspicions: (time, author, subject), as they were signed by honest peers.
        violations: what did not hold.
        wronged: exclusions of peers that nothing ailed but the loss of datagrams, by others of that kind.
    """

    def __init__(
        self,
        n: int,
        c: int,
        hazards: Hazards,
        seed: int,
        crypto: str = "ideal",
        settled: bool = False,
        trace: list[str] | None = None,
    ) -> None:
        self.n, self.c, self.hazards, self.seed = n, c, hazards, seed
        self.heap = EventHeap()
        self.cast = cast_for(n, crypto)
        self.trace = trace
        self.settled = _settled(n, crypto) if settled else None
        self.nodes = [Node(self, place) for place in range(n)]
        self.place = {peer: place for place, peer in enumerate(self.cast.members)}
        self.liars = frozenset(self.cast.members[place] for place in hazards.liars)
        self.changes: list[tuple[float, int, int, Status]] = []
        self.suspicions: list[tuple[float, int, int]] = []
        self.violations: list[Violation] = []
        self.wronged = 0
        self.blames: list[tuple[PeerId, RemoteError]] = []
        self._signed: set[tuple[int, bytes]] = set()
        self._cut: dict[tuple[int, int], int] = {}
        self._rng = generator(seed, "membership/network")
        self._loss = hazards.loss
        self._known: dict[tuple[int, int, PeerId], int] = {}
        begin = generator(seed, "membership/begin")
        for node in self.nodes:
            self.heap.call_at(0.0 if settled else 2.0 * begin.random(), partial(node.start, settled))
        self._plan(hazards)

    def _plan(self, hazards: Hazards) -> None:
        at = self.heap.call_at
        for cut in hazards.cuts:
            at(cut.begins, partial(self._sever, (cut.source, cut.target), 1))
            at(cut.heals, partial(self._sever, (cut.source, cut.target), -1))
        for nap in hazards.naps:
            at(nap.begins, self.nodes[nap.peer].sleep)
            at(nap.begins + nap.lasts, partial(self.nodes[nap.peer].wake, nap.timers_first))
        for crash in hazards.crashes:
            at(crash.at, self.nodes[crash.peer].stop)
            if crash.back is not None:
                at(crash.at + crash.back, self.nodes[crash.peer].start)
        at(hazards.calm_from, self._calm)

    def _sever(self, edge: tuple[int, int], by: int) -> None:
        self._cut[edge] = self._cut.get(edge, 0) + by

    def _calm(self) -> None:
        self._loss = 0.0
        for node in self.nodes:
            node.twist = node.hears = None

    # ── what happens ─────────────────────────────────────────────────────────────────────────────────────────────────

    def carry(self, source: Node, said: Say, length: int) -> None:
        """Bring a datagram to whom it is for, or lose it."""
        if length > (SYNC_BYTES if isinstance(said.message, Sync) else DATAGRAM_BYTES) and self.n <= LARGEST_GROUP:
            self.violated("MB-8", source.id, f"a {said.message.kind} of {length} bytes")
        target = self.nodes[self.place[said.to]]
        if self.trace is not None:
            self.note(source, f"▸ {target.place}  {said.message.kind}, {length} bytes")
        draw = self._rng.random
        if self._cut.get((source.place, target.place)) or (self._loss and draw() < self._loss):
            return
        delay = self.hazards.latency + self.hazards.jitter * draw()
        self.heap.call_later(delay, partial(target.hear, source.id, said.message))

    def signs(self, place: int, message: bytes) -> bytes:
        """A peer's signature, noted: what was never signed may count nowhere."""
        self._signed.add((place, message))
        if message.startswith(_SUSPECTS):
            self.suspicions.append((self.heap.now(), place, self.place[PeerId(message[-32:])]))
        return self.cast.sign[place](message)

    def changed(self, observer: Node, change: Changed) -> None:
        if self.trace is not None:
            self.note(observer, f"{self.place[change.peer]} is {change.status}")
        if observer.id in self.liars:
            return
        self.changes.append((self.heap.now(), observer.place, self.place[change.peer], change.status))
        self._hold(observer, change)

    def blamed(self, observer: Node, error: RemoteError) -> None:
        if self.trace is not None:
            self.note(observer, f"blames: {error}")
        if observer.id not in self.liars:
            self.blames.append((observer.id, error))
            if error.peer not in self.liars:
                self.violated(error.clause, error.peer, f"an honest peer is blamed by {observer.id}: {error.reason}")

    def violated(self, clause: str, who: PeerId | None, said: str) -> None:
        self.violations.append(Violation(clause, who, self.heap.now(), said))

    def note(self, node: Node, text: str) -> None:
        if self.trace is not None:
            self.trace.append(f"{self.heap.now():10.4f}  {node.place}  {text}")

    # ── what must hold ───────────────────────────────────────────────────────────────────────────────────────────────

    def _hold(self, observer: Node, change: Changed) -> None:
        """Safety, at every change of a status at an honest peer: MB-1, MB-4, MB-5."""
        subject = self.place[change.peer]
        standing = observer.running.standing(change.peer)
        key = (observer.place, observer.boot, change.peer)
        if standing.incarnation < self._known.get(key, 0):
            self.violated("MB-4", observer.id, f"the incarnation of {change.peer} went back")
        self._known[key] = standing.incarnation
        if change.peer not in self.liars and standing.incarnation:
            words = (Word.ALIVE, Word.LEFT)
            if not any(self._did(subject, subject, standing.incarnation, word) for word in words):
                self.violated("MB-1", observer.id, f"{change.peer} never signed the incarnation that is known of it")
        if change.status == "down":
            authors = [author for author in standing.suspected_by if author not in self.liars]
            if len(standing.suspected_by) <= self.c:
                self.violated("MB-5", observer.id, f"{change.peer} is excluded by {len(standing.suspected_by)}")
            for author in authors:
                if not self._did(self.place[author], subject, standing.incarnation, Word.SUSPECT):
                    self.violated("MB-1", observer.id, f"{author} never signed a suspicion that counts")
            if subject in self.hazards.sheltered and observer.place in self.hazards.sheltered:
                self.wronged += 1
                if not self.hazards.loss:
                    self.violated("MB-6", observer.id, f"{change.peer} is excluded, and nothing ailed it")

    def _did(self, author: int, subject: int, current: int, word: Word) -> bool:
        return (author, signed_bytes(SESSION, word, current, self.cast.members[subject])) in self._signed

    def run(self, until: float) -> None:
        self.heap.run_until(deadline=until)

    def settle(self) -> float | None:
        """Run on after all troubles are over until all views agree; seconds that it took, None where time ran out."""
        calm = self.hazards.calm_from
        at = calm + LOOK
        self.run(at)
        while next(self.disagreements(self.honest), None) is not None:
            at += LOOK
            if at > self.hazards.until:
                return None
            self.run(at)
        return at - calm

    @property
    def honest(self) -> list[Node]:
        """Honest peers that run."""
        return [node for node in self.nodes if node.id not in self.liars and node.machine is not None]

    def close(self) -> None:
        """At the end: all honest views are equal and true, and nobody's memory has grown (MB-3, MB-8)."""
        honest = self.honest
        for node in honest:
            if node.running.held > 2 * self.n * (self.n + 1):
                self.violated("MB-8", node.id, f"{node.running.held} statements are held")
        if len(honest) <= self.c:
            return
        for said in self.disagreements(honest):
            self.violated("MB-3", None, said)

    def disagreements(self, honest: Sequence[Node]) -> Iterator[str]:
        """In what the views of peers that run differ from each other or from the truth."""
        for subject in self.nodes:
            if subject.id in self.liars:
                continue
            expected: tuple[Status, ...] = AWAY if subject.machine is None else ("up",)
            seen = {node.place: node.running.standing(subject.id) for node in honest if node is not subject}
            wrong = [place for place, one in seen.items() if one.status not in expected]
            if wrong:
                status = seen[wrong[0]].status
                yield f"peer {subject.place} should be {expected[0]}, and is {status} to {wrong}"
            elif len({one.incarnation for one in seen.values()}) > 1:
                yield f"peers differ on the incarnation of peer {subject.place}"


_SUSPECTS = signed_bytes(SESSION, Word.SUSPECT, 0, PeerId(bytes(32)))[: -8 - 32]


@lru_cache(maxsize=4)
def _settled(n: int, crypto: str) -> dict[PeerId, Statement]:
    """Everyone's word of its first boot."""
    cast, first = cast_for(n, crypto), incarnation(1, 0)
    return {
        peer: Statement(Word.ALIVE, first, peer, peer, sign(signed_bytes(SESSION, Word.ALIVE, first, peer)))
        for peer, sign in zip(cast.members, cast.sign, strict=True)
    }
