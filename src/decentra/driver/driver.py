"""The driver: hands events to a machine and carries out its effects, strictly in order, through four ports.

It is synchronous and has no thread of its own. Every method and callback runs on one thread: the runtime's event loop,
or the simulator's heap. ``Persist`` suspends the list of effects until the journal says that it is durable.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Protocol

import numpy as np

from decentra.driver.blobs import BlobStore, Random, Witness, Workbench
from decentra.driver.fittings import PLAIN, Fittings, Neighbour
from decentra.driver.ports import Ports
from decentra.errors import DecentraError, LocalError, RemoteError, Unavailable
from decentra.machine.effects import Abort, Blame, Compute, Effect, Finish, Persist, Release, Send, SetTimer
from decentra.machine.events import Blob, Computed, Event, Expired, Received, Start
from decentra.transfer import Announcement, Arrived, Completed, Delivered, Rejected, Restarted
from decentra.transfer.entries import WINDOW_ENTRIES
from decentra.transport.base import Buffer, Lane
from decentra.transport.virtual import Handle
from decentra.types import PeerId, RoundId
from decentra.wire.codec import Malformed, Signed
from decentra.wire.entry import Chain, Checker
from decentra.wire.message import Message, Registry, Verified, addressed_to

AHEAD = 4
"""Messages of a later round that are kept for a peer: before a roster names this peer, nobody sends it more."""

TICK = 0.25
"""Seconds between looks at the links: their shortest stall is 2 s."""


REMEMBERED = 1024
"""Signatures that a peer remembers to have checked: those of a round of 64, at half a kibibyte each."""


class Machine(Protocol):
    """What the driver drives: one round's state machine."""

    round: RoundId

    @property
    def roster(self) -> tuple[PeerId, ...]: ...

    @property
    def awaited(self) -> tuple[PeerId, ...]:
        """Whom it waits for now."""
        ...

    def handle(self, event: Event) -> list[Effect]: ...

    def cancel(self, error: DecentraError) -> list[Effect]: ...

    def faulted(self, error: RemoteError) -> list[Effect]:
        """What one of the roster sent broke a clause before the machine saw it."""
        ...

    def slot(self, message: Message) -> str:
        """Under what a message is kept; a peer sends one of each in a round."""
        ...

    def room(self, message: Message) -> int:
        """The most bytes that the blob beside a message may have."""
        ...

    def wants(self, verified: Verified, root: bytes) -> bool:
        """Whether a blob with this root is the one that the message beside it signs, and was asked for if need be."""
        ...


@dataclass(frozen=True)
class Ended:
    """How a round ended at this peer: a result, or an error and whether the update had left."""

    result: object = None
    error: DecentraError | None = None
    spent: bool = False


@dataclass
class Tally:
    """Counters of the small phases, for benches: messages signed and messages verified."""

    signed: int = 0
    verified: int = 0


class Driver:
    """One peer's driver.

    Args:
        ports: clock, transport, journal and pool. The transport's callbacks are ``on_receive`` and ``on_link`` of this
            object.
        chain: signs and chains this peer's entries.
        registry: the messages of the charter's protocol.
        check: tells whether a member's signature is valid.
        members: everybody in the charter, this peer too.
        limit: the most bytes that a blob may have by the charter.
        incarnation: 64 bits that no earlier process of this peer used.
        random: randomness for jobs.
        collude: how many members may lie together, the charter's c.
        leaves: the kind of the message by which a peer leaves; it counts for every later round.
        readies: the kind of the message by which a peer begins a round.
        gathers: how the kinds of the messages begin by which a round finds its roster; any other is of one that has it.
        witness: shown every encoded update, for a leak check; None for nobody.
        fittings: what a simulation puts in place of the driver's own parts.
    """

    def __init__(
        self,
        *,
        me: PeerId,
        chain: Chain,
        registry: Registry,
        check: Checker,
        members: Sequence[PeerId],
        limit: int,
        incarnation: int,
        random: Random,
        leaves: str,
        readies: str,
        gathers: str,
        collude: int,
        witness: Witness | None = None,
        log: logging.Logger | None = None,
        fittings: Fittings = PLAIN,
    ) -> None:
        self._make_link, self._ticks, self._watch = fittings.link, fittings.ticks, fittings.watch
        self.me, self.chain, self.registry = me, chain, registry
        self.blobs = BlobStore()
        self.tally = Tally()
        self.left: dict[PeerId, Verified] = {}
        self._faults: dict[PeerId, str] = {}
        """Which clause a peer broke, which its coming back does not mend."""
        self._ways: dict[PeerId, str] = {}
        """Why the way to a peer is broken, until it is open again."""
        self._others = tuple(peer for peer in members if peer != me)
        self._check, self._limit, self._leaves, self._readies = check, limit, leaves, readies
        self.ahead: dict[PeerId, Verified] = {}
        """Of each peer the readiness for the latest round: it takes part in no earlier one any more."""
        self._collude, self._gathers = collude, gathers
        self._incarnation, self._random, self._witness = incarnation, random, witness
        self._log = log or logging.getLogger("decentra")
        self._ports: Ports | None = None
        self._links: dict[PeerId, Neighbour] = {}
        self._sent: dict[tuple[PeerId, int], tuple[Blob, int]] = {}
        self._awaited: dict[tuple[PeerId, int], tuple[Verified, Announcement]] = {}
        self._taken: dict[tuple[PeerId, str], bytes] = {}
        """The message whose blob was let in, by sender and slot, in the round that is on: one of each."""
        self._latest = dict.fromkeys(self._others, (-1, -1))
        """Boot and number of the latest entry of each peer."""
        self._recent: dict[PeerId, deque[bytes]] = {peer: deque(maxlen=WINDOW_ENTRIES) for peer in self._others}
        """The hashes of each peer's latest entries, as many as it may have in flight without knowing that they came."""
        self._again: dict[PeerId, set[bytes]] = {}
        """Those that a peer may send once more, since this one began their link anew."""
        self._ahead: dict[PeerId, list[Verified]] = {}
        self._machine: Machine | None = None
        self._ended: Callable[[Ended], None] | None = None
        self._bench: Workbench | None = None
        self._effects: deque[Effect] = deque()
        self._timers: dict[str, Handle] = {}
        self._suspended = self._running = self._closed = False
        self._jobs = 0
        self._over: tuple[Ended, Blob | None] | None = None
        self._last = RoundId(0, 0)
        self._rounds = dict.fromkeys(self._others, 0)
        """The latest round that each peer signed something in, and that it has a roster of."""
        self._begun = dict.fromkeys(self._others, 0)

    # ── life ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def open(self, ports: Ports) -> None:
        """Take the ports and dial everyone."""
        self._ports = ports
        for peer in self._others:
            self._links[peer] = self._new_link(peer)
            ports.transport.dial(peer)
        if self._ticks:
            self._tick()

    @property
    def busy(self) -> bool:
        """Whether a round is on, or its last job is."""
        return self._machine is not None or self._over is not None

    @property
    def awaited(self) -> tuple[PeerId, ...]:
        """Which other peers the round that is on waits for now."""
        return () if self._machine is None else tuple(peer for peer in self._machine.awaited if peer != self.me)

    @property
    def reasons(self) -> Mapping[PeerId, str]:
        """What is known of why a peer does not answer: it left, or broke a clause, or the way to it is broken."""
        return {**self._ways, **self._faults, **dict.fromkeys(self.left, "it has left the group")}

    @property
    def flushed(self) -> bool:
        """Whether everybody who can be reached has acknowledged everything that was sent to them."""
        posted = not self._suspended and not self._effects
        return posted and all(link.idle or link.wakeup is None for link in self._links.values())

    def begin(self, machine: Machine, ended: Callable[[Ended], None]) -> None:
        """Start a round's machine; ``ended`` is called once."""
        self._machine, self._ended, self._last = machine, ended, machine.round
        self._bench = Workbench(self.blobs, self._random, self._witness)
        self._feed(Start())
        waiting, self._ahead = self._ahead, {}
        for verified in (verified for queue in waiting.values() for verified in queue):
            self._route(verified)  # what is of a later round still, is kept again

    @property
    def group_round(self) -> int:
        """The latest round that more than ``collude`` others have signed something in: one of them is honest."""
        return self._vouched(self._rounds)

    @property
    def group_begun(self) -> int:
        """The latest round that more than ``collude`` others take part in, so that it has a roster already."""
        return self._vouched(self._begun)

    def _vouched(self, rounds: Mapping[PeerId, int]) -> int:
        latest = sorted(rounds.values(), reverse=True)
        return latest[self._collude] if len(latest) > self._collude else 0

    def cancel(self, error: DecentraError) -> None:
        """End the round that is on, if any, from this side."""
        if self._machine is not None:
            self._enqueue(self._machine.cancel(error))

    def say(self, message: Message) -> None:
        """Send a message outside a round: to leave."""
        self._enqueue([Send(message)])

    def close(self) -> None:
        self._closed = True
        for handle in self._timers.values():
            handle.cancel()
        if self._ports is not None:
            self._ports.transport.close()

    # ── effects ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _feed(self, event: Event) -> None:
        machine = self._machine
        if machine is None:
            return
        if self._watch is not None:
            self._watch(event)
        effects = machine.handle(event)
        if effects:  # most messages are one of many that the machine waits for
            self._enqueue(effects)

    def _enqueue(self, effects: Sequence[Effect]) -> None:
        self._effects.extend(effects)
        self._run()

    def _run(self) -> None:
        if self._running:
            return
        self._running = True
        try:
            while self._effects and not self._suspended and not self._closed:
                effect = self._effects.popleft()
                if self._watch is not None:
                    self._watch(effect)
                if not self._closed:  # a simulation may have this peer stop right before an effect
                    self._carry_out(effect)
        finally:
            self._running = False

    def _carry_out(self, effect: Effect) -> None:
        ports = self._need_ports()
        match effect:
            case Send():
                self._send(effect)
            case SetTimer(name, after):
                self._cancel_timer(name)
                self._timers[name] = ports.clock.call_later(after, partial(self._expired, self._machine, name))
            case Persist(record):
                self._suspended = True
                ports.journal.record(self._last, record, self._durable)
            case Compute(name, job) if self._bench is not None:
                self._jobs += 1
                ports.pool.submit(job, self._bench, partial(self._computed, self._machine, name))
            case Blame(error):
                self._note_fault(error)
            case Release(blob):
                self.blobs.release(blob)
            case Finish(result):
                self._finish(Ended(result=result), getattr(result, "total", None))
            case Abort(error, spent):
                self._finish(Ended(error=self._explained(error), spent=spent), None)

    def _send(self, effect: Send) -> None:
        message = effect.message
        spec = self.registry.codec.spec(message.kind)
        try:
            body = self.registry.encode(message)
        except Malformed as error:  # it may cost this round, and must not end the event loop's callback
            self.cancel(LocalError(f"a {message.kind} has no encoding ({error}); a defect of decentra: report it"))
            return
        receiver = b"" if effect.to is None else bytes(effect.to)
        entry = self.chain.sign(self._last, message.kind, body, effect.after, receiver)
        self.tally.signed += 1
        verified = Verified(entry, message, Signed(entry.packed, body))
        for blob in effect.blobs.values():
            self.blobs.lend(blob)
        self._suspended = True
        self._need_ports().journal.entry(verified.signed, spec.log_body, partial(self._post, verified, effect))

    def _post(self, verified: Verified, effect: Send) -> None:
        """The entry is durable: send it, and let the machine see its own broadcast."""
        targets = self._others if effect.to is None else (effect.to,)
        for peer in targets:
            self._post_to(peer, verified, effect.blobs.get(peer))
        if effect.to is None:
            self._feed(Received(verified))
        self._durable()

    def _post_to(self, peer: PeerId, verified: Verified, blob: Blob | None) -> None:
        link, parts = self._links[peer], (verified.signed.entry, verified.signed.body)
        announcement, data = None, None
        if blob is not None:
            data = self.blobs.view(blob).data
            announcement = link.announce(data, self.blobs.digests(blob))
        try:
            link.post(parts, announcement, data, round_number=verified.entry.round)
        except Unavailable as error:
            self._log.warning("peer %s takes nothing in; its connection begins anew: %s", peer, error)
            self._restart_link(peer)
            if blob is not None:
                self.blobs.give_back(blob)
            return
        if blob is not None and announcement is not None:
            self._sent[peer, announcement.transfer] = (blob, verified.entry.round)

    def _durable(self) -> None:
        self._suspended = False
        self._run()

    def _computed(self, machine: Machine | None, name: str, value: object) -> None:
        self._jobs -= 1
        if machine is self._machine:
            self._feed(Computed(name, value))
        if self._over is not None and not self._jobs:
            over, self._over = self._over, None
            self._end(*over)

    def _expired(self, machine: Machine | None, name: str) -> None:
        if machine is self._machine:
            self._feed(Expired(name))

    def _finish(self, ended: Ended, result: Blob | None) -> None:
        """The machine is done. Its caller hears of it once no job reads or writes the caller's arrays any more."""
        for name in list(self._timers):
            if name != "tick":
                self._cancel_timer(name)
        self._machine = None
        if self._jobs:
            self._over = (ended, result)
        else:
            self._end(ended, result)

    def _end(self, ended: Ended, result: Blob | None) -> None:
        if self._bench is not None:
            self._bench.clear(keep=result)
        self._bench = None
        # Who is in a round that ended well may still need what was sent in it; what failed, or is older, nobody needs.
        self._withdraw(self._last.number if ended.error is not None else self._last.number - 1)
        for key in [key for key in self._awaited if self._awaited[key][0].entry.round <= self._last.number]:
            del self._awaited[key]
            self._links[key[0]].reject(key[1])
        self._taken.clear()
        callback, self._ended = self._ended, None
        if callback is not None:
            callback(ended)

    def _withdraw(self, latest: int) -> None:
        """Send no more blobs of rounds up to ``latest``: a peer that died must not hold on to their memory."""
        for peer, transfer in [key for key, (_, number) in self._sent.items() if number <= latest]:
            self._links[peer].withdraw(transfer)
            self.blobs.give_back(self._sent.pop((peer, transfer))[0])

    def _explained(self, error: DecentraError) -> DecentraError:
        """Add to a failed wait what is known of those who were waited for."""
        if not isinstance(error, Unavailable):
            return error
        reasons = self.reasons
        known = [f"{peer}: {reasons[peer]}" for peer in error.waited_for if peer in reasons]
        return error.because("; ".join(known)) if known else error

    # ── arrivals ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def on_link(self, peer: PeerId, up: bool, reason: str) -> None:
        """The transport's way to a peer opened or broke."""
        link = self._links.get(peer)
        if link is None or self._closed:
            return
        if up:
            self._ways.pop(peer, None)
            link.connected()
        else:
            self._ways[peer] = reason
            link.disconnected()

    def on_receive(self, peer: PeerId, lane: Lane, header: bytes, buffers: Sequence[memoryview]) -> None:
        """The transport has a message of an authenticated peer. The one place where blame is taken down."""
        link = self._links.get(peer)
        if link is None or self._closed:
            return
        try:
            for event in link.receive(lane, header, buffers):
                if isinstance(event, Arrived):
                    self._on_entry(peer, link, event)
                else:
                    self._on_event(peer, event)
        except RemoteError as error:
            self._blame(peer, error)
        except LocalError as error:  # no memory for what was announced
            self.cancel(error)

    def _on_event(self, peer: PeerId, event: object) -> None:
        match event:
            case Completed(transfer, data):
                verified, announced = self._awaited.pop((peer, transfer), (None, None))
                if verified is not None and announced is not None and self._bench is not None:
                    blob = self._bench.adopt(np.frombuffer(data, np.uint8), announced.digests)
                    self._feed(Received(verified, blob))
            case Delivered(transfer) | Rejected(transfer):
                lent = self._sent.pop((peer, transfer), None)
                if lent is not None:
                    self.blobs.give_back(lent[0])
            case Restarted():
                self._lose(peer)

    def _on_entry(self, peer: PeerId, link: Neighbour, arrived: Arrived) -> None:
        verified, new = self._admit(peer, arrived.parts)
        if arrived.announcement is not None:
            self._expect(verified, link, arrived.announcement)
        elif new:
            self._route(verified)

    def _admit(self, peer: PeerId, parts: tuple[bytes, ...]) -> tuple[Verified, bool]:
        """An entry of the peer's own, for this one, and whether it is new: later than all that the peer signed before.

        What is not is refused, but for what this peer made the other repeat by beginning their link anew.
        """
        if len(parts) != 2:
            raise RemoteError(peer, "SCHEMA", f"it sent a message of {len(parts)} parts; an entry and its body are two")
        verified = self.registry.verify(Signed(*parts), self.chain.session, self._check, peer)
        self.tally.verified += 1
        entry = verified.entry
        if entry.author != peer or not addressed_to(entry, self.me):
            raise RemoteError(peer, "ROLE", f"it delivered a {entry.kind} that is not its own or not for this peer")
        place = (entry.boot, entry.seq)
        if place > self._latest[peer]:
            self._latest[peer] = place
            self._recent[peer].append(entry.hash)
            return verified, True
        again = self._again.get(peer, set())
        if entry.hash not in again:
            raise RemoteError(peer, "REPLAY", "it is behind what it signed before: a clone, or a restored disk")
        again.remove(entry.hash)
        return verified, False

    def _expect(self, verified: Verified, link: Neighbour, announcement: Announcement) -> None:
        """Take the blob beside a message, if the round that is on has use for it; the machine gets both together."""
        machine, peer, spec = self._machine, verified.sender, self.registry.codec.spec(verified.message.kind)
        if machine is None or verified.entry.round_id != machine.round or not spec.blob:
            link.reject(announcement.transfer)
            return
        slot = machine.slot(verified.message)
        taken = self._taken.get((peer, slot))
        if taken is not None:
            link.reject(announcement.transfer)
            if taken != verified.body_hash:
                raise RemoteError(peer, "EQUIVOCATION", f"it announces a second {slot} in one round")
        elif not machine.wants(verified, announcement.root):
            link.reject(announcement.transfer)
            self._route(verified)  # the machine knows what to hold of a message whose blob does not come
        elif link.accept(announcement, min(self._limit, machine.room(verified.message))):
            self._taken[peer, slot] = verified.body_hash
            self._awaited[peer, announcement.transfer] = (verified, announcement)

    def _lose(self, peer: PeerId) -> None:
        """The blobs under way from a peer are lost with the link; they may be announced again."""
        for key in [key for key in self._awaited if key[0] == peer]:
            verified, _ = self._awaited.pop(key)
            if self._machine is not None:
                self._taken.pop((peer, self._machine.slot(verified.message)), None)

    def _route(self, verified: Verified) -> None:
        """Hand a message to the round it belongs to; keep a few of the next one, drop what is older or farther."""
        entry, peer, machine = verified.entry, verified.sender, self._machine
        kind, number = entry.kind, entry.round
        if kind == self._leaves:
            self.left[peer] = verified
            if machine is not None and number <= machine.round.number + 1:
                self._feed(Received(verified))  # one of a farther round counts once this peer has come to that
            return
        self.left.pop(peer, None)
        if number > self._rounds[peer]:
            self._rounds[peer] = number
            if kind == self._readies:
                self.ahead[peer] = verified
        if number > self._begun[peer] and not kind.startswith(self._gathers):
            self._begun[peer] = number
        if machine is not None and entry.round_id == machine.round:
            self._feed(Received(verified))
        elif number > self._last.number:
            self._keep_ahead(verified)
            if kind == self._readies and self._machine is not None and number > self._machine.round.number:
                self._feed(Received(verified))

    def _keep_ahead(self, verified: Verified) -> None:
        """Keep a few messages of the latest round that a peer has reached; this peer may have to catch up with it."""
        queue = self._ahead.setdefault(verified.sender, [])
        if queue and queue[0].entry.round < verified.entry.round:
            queue.clear()
        behind = bool(queue) and queue[0].entry.round > verified.entry.round  # an honest peer never goes back
        if len(queue) < AHEAD and not behind:
            queue.append(verified)
        machine, current = self._machine, self.group_round
        if machine is not None and not machine.roster and current > machine.round.number:
            mend = f"the group has gone on to round {current}, which is open to this peer"
            self.cancel(Unavailable((), 0.0, f"round {machine.round}", mend))

    def _note_fault(self, error: RemoteError) -> None:
        if error.peer is not None:
            self._faults[error.peer] = error.reason
        self._log.warning("%s", error)

    def _blame(self, peer: PeerId, error: RemoteError) -> None:
        if self._watch is not None:
            self._watch(Blame(error))
        self._note_fault(error)
        if self._machine is not None and peer in self._machine.roster:
            self._enqueue(self._machine.faulted(error))

    # ── links and timers ─────────────────────────────────────────────────────────────────────────────────────────────

    def _new_link(self, peer: PeerId) -> Neighbour:
        return self._make_link(peer, self._incarnation, partial(self._transmit, peer), session=self.chain.session)

    def _transmit(self, peer: PeerId, lane: Lane, header: bytes, parts: Sequence[Buffer]) -> bool:
        return self._need_ports().transport.send(peer, lane, header, parts)

    def _restart_link(self, peer: PeerId) -> None:
        """Forget what a peer never took in: it is gone, and what comes after must not wait behind it."""
        for key in [key for key in self._sent if key[0] == peer]:
            self.blobs.give_back(self._sent.pop(key)[0])
        self._lose(peer)
        self._again[peer] = set(self._recent[peer])
        transport = self._need_ports().transport
        transport.close_peer(peer)
        self._incarnation += 1
        self._links[peer] = self._new_link(peer)
        transport.dial(peer)

    def _tick(self) -> None:
        clock = self._need_ports().clock
        for peer, link in self._links.items():
            try:
                link.tick(clock.now())
            except RemoteError as error:
                self._blame(peer, error)
        if not self._closed:
            self._timers["tick"] = clock.call_later(TICK, self._tick)

    def _cancel_timer(self, name: str) -> None:
        handle = self._timers.pop(name, None)
        if handle is not None:
            handle.cancel()

    def _need_ports(self) -> Ports:
        if self._ports is None:
            raise RuntimeError("the driver was not opened")
        return self._ports


def memberships(publics: Mapping[PeerId, bytes], verify: Callable[[bytes, bytes, bytes], bool]) -> Checker:
    """A checker of signatures for a charter's members: their Ed25519 keys, and how to verify under one.

    It remembers its last answers, since a vote comes by itself and again in the certificates of all who hold it.
    """

    @lru_cache(maxsize=REMEMBERED)
    def check(author: PeerId, signature: bytes, message: bytes) -> bool:
        public = publics.get(author)
        return public is not None and verify(public, signature, message)

    return check
