"""The driver: hands events to a machine and carries out its effects, strictly in order, through four ports.

It is synchronous and has no thread of its own. Every method and callback runs on one thread: the runtime's event loop,
or the simulator's heap. ``Persist`` suspends the list of effects until the journal says that it is durable.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from decentra.driver.admission import Admission
from decentra.driver.blobs import BlobStore, Keeper, Random, Witness, Workbench
from decentra.driver.conduct import Conduct, worth_saying
from decentra.driver.fittings import PLAIN, Fittings, Neighbour
from decentra.driver.gossip import Gossip
from decentra.driver.others import Others
from decentra.driver.ports import Ports
from decentra.driver.running import Ended, Machine, Running
from decentra.driver.succession import Charters, Succession
from decentra.driver.tally import BULK, ELSEWHERE, SMALL, Tally, counted
from decentra.errors import DecentraError, LocalError, RemoteError, Unavailable
from decentra.gossip.halves import Halves
from decentra.gossip.membership import Membership
from decentra.machine.effects import Abort, Blame, Compute, Effect, Finish, Persist, Release, Send, SetTimer
from decentra.machine.events import Blob, Computed, Event, Expired, Received, Start, Supplied
from decentra.protocols.rendezvous.messages import Leave, Ready
from decentra.protocols.slices import Given
from decentra.transfer import (
    Announcement,
    Arrived,
    Completed,
    Delivered,
    Elsewhere,
    Handed,
    Holds,
    Rejected,
    Restarted,
    Whispered,
)
from decentra.transport.base import Buffer, Lane
from decentra.transport.virtual import Handle
from decentra.types import EpochName, PeerId, RoundId
from decentra.wire.codec import Malformed, Signed
from decentra.wire.entry import Chain, Checker
from decentra.wire.message import Message, Registry, Verified

TICK = 0.25
"""Seconds between looks at the links: their shortest stall is 2 s."""


class Driver:
    """One peer's driver.

    Args:
        ports: clock, transport, journal and pool. The transport's callbacks are ``on_receive`` and ``on_link`` of this
            object.
        chain: signs and chains this peer's entries.
        epoch: whose session this is, with the charter's whole hash.
        registry: the messages of the charter's protocol.
        check: tells whether a member's signature is valid.
        members: everybody in the charter, this peer too.
        limit: the most bytes that a blob may have by the charter.
        last: the latest round that this peer signed anything in.
        incarnation: 64 bits that no earlier process of this peer used.
        random: randomness for jobs.
        collude: how many members may lie together, the charter's c.
        witness: shown every encoded update, for a leak check; None for nobody.
        keeper: keeps the secrets of rounds for self-audit; None to keep none.
        fittings: what a simulation puts in place of the driver's own parts.
    """

    def __init__(
        self,
        *,
        me: PeerId,
        chain: Chain,
        epoch: EpochName,
        registry: Registry,
        check: Checker,
        members: Sequence[PeerId],
        limit: int,
        last: RoundId,
        incarnation: int,
        random: Random,
        collude: int,
        witness: Witness | None = None,
        keeper: Keeper | None = None,
        log: logging.Logger | None = None,
        fittings: Fittings = PLAIN,
    ) -> None:
        self._make_link, self._ticks, self._watch = fittings.link, fittings.ticks, fittings.watch
        self.me, self.chain, self.epoch, self.registry = me, chain, epoch, registry
        self.blobs = BlobStore()
        self.tally = Tally(fittings.cpu)
        self._faults: dict[PeerId, str] = {}
        """Which clause a peer broke, which its coming back does not mend."""
        self._ways: dict[PeerId, str] = {}
        """Why the way to a peer is broken, until it is open again."""
        self._abroad: dict[PeerId, EpochName] = {}
        """Who spoke for another session, and which; said once."""
        self._others = tuple(peer for peer in members if peer != me)
        self.others = Others(self._others, collude)
        self.conduct = Conduct(self._others)
        self._admission = Admission(me, self._others, registry, chain.session, check, self._keep)
        self._limit = limit
        self._incarnation, self._random, self._witness, self._keeper = incarnation, random, witness, keeper
        self._log = log or logging.getLogger("decentra")
        self._ports: Ports | None = None
        self._links: dict[PeerId, Neighbour] = {}
        self._sent: dict[tuple[PeerId, int], tuple[Blob, int]] = {}
        """The blobs that are being sent, and their rounds, by receiver and transfer."""
        self._lasting: set[int] = set()
        """Which of them others may need when their round has ended well here."""
        self.running: Running | None = None
        """The round that is on: from its start until its caller has heard how it ended."""
        self._last = last
        """The latest round that was begun."""
        self._effects: deque[Effect] = deque()
        """What is still to be done, in order: it is one sequence for all of the peer's life, as its chain is, since a
        round begins where another ends, and a peer may leave between two."""
        self._suspended = self._carrying = self._closed = False
        self._ticking: Handle | None = None
        self.gossip: Gossip | None = None
        """Who is up; None where nobody asks."""
        self.succession: Succession | None = None
        """Which charters come after this epoch's; None where nobody keeps any."""

    # ── life ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def open(self, ports: Ports) -> None:
        """Take the ports and dial everyone."""
        self._ports = ports
        for peer in self._others:
            self._links[peer] = self._new_link(peer)
            ports.transport.dial(peer)
        if self._ticks:
            self._tick()

    def attend(self, machine: Membership, failed: Callable[[LocalError], None]) -> None:
        """Take part in the group's membership, and call ``failed`` if this peer must end because of what it heard."""
        self.gossip = Gossip(machine, self._need_ports().clock, self._whisper, failed, self._log)

    def succeed(self, charters: Charters, halves: Halves) -> None:
        """Hand later charters on to the others, and take them in; compare what was certified."""
        clock, session = self._need_ports().clock, self.chain.session
        self.succession = Succession(self.epoch, session, charters, lambda: self._links, clock, halves, self._log)

    def give_way(self, error: Unavailable) -> None:
        """End the round that is on where it has no roster yet, so that nothing of it has left this peer."""
        machine = self.machine
        if machine is not None and not machine.roster:
            self.cancel(error)

    def _whisper(self, peer: PeerId, datagram: bytes) -> None:
        self._links[peer].whisper(datagram)

    @property
    def busy(self) -> bool:
        """Whether a round is on, or its last job is."""
        return self.running is not None

    @property
    def machine(self) -> Machine | None:
        """What plays the round that is on; None once it is done."""
        running = self.running
        return None if running is None or running.ended is not None else running.machine

    @property
    def awaited(self) -> tuple[PeerId, ...]:
        """Which other peers the round that is on waits for now."""
        machine = self.machine
        return () if machine is None else tuple(peer for peer in machine.awaited if peer != self.me)

    @property
    def reasons(self) -> Mapping[PeerId, str]:
        """What is known of why a peer does not answer: it left, or is cut, or broke a clause, or the way is broken."""
        cut = {peer: f"{why}; {self._ways[peer]}" for peer, why in self._faults.items() if peer in self.conduct.cut}
        return {**self._ways, **self._faults, **cut, **dict.fromkeys(self.others.left, "it has left the group")}

    @property
    def flushed(self) -> bool:
        """Whether everybody who can be reached has acknowledged everything that was sent to them."""
        posted = not self._suspended and not self._effects
        return posted and all(link.idle or link.wakeup is None for link in self._links.values())

    @counted
    def begin(self, machine: Machine, ended: Callable[[Ended], None]) -> None:
        """Start a round's machine; ``ended`` is called once."""
        self.running = Running(machine, self.workbench(self._witness), ended)
        self._last = machine.round
        self._feed(Start())
        for verified in self.others.take():
            self._hand_on(verified)  # what is of a later round still, is kept again

    @counted
    def supply(self, update: Supplied) -> None:
        """Hand its update to the round that is on, which began ahead of it."""
        self._feed(update)

    def workbench(self, witness: Witness | None = None) -> Workbench:
        """What a job works on, and is counted by."""
        return Workbench(self.blobs, self._random, witness, self.tally, self._keeper)

    @counted
    def cancel(self, error: DecentraError) -> None:
        """End the round that is on, if any, from this side."""
        machine = self.machine
        if machine is not None:
            self._enqueue(machine.cancel(error))

    @counted
    def say(self, message: Message) -> None:
        """Send a message outside a round: to leave."""
        self._enqueue([Send(message)])

    def close(self) -> None:
        self._closed = True
        if self.running is not None:
            self.running.stop()
        if self.gossip is not None:
            self.gossip.close()
        if self.succession is not None:
            self.succession.close()
        if self._ticking is not None:
            self._ticking.cancel()
        if self._ports is not None:
            self._ports.transport.close()

    # ── effects ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _feed(self, event: Event) -> None:
        running = self.running
        if running is None or running.ended is not None:
            return
        if self._watch is not None:
            self._watch(event)
        effects = running.machine.handle(event)
        if effects:  # most messages are one of many that the machine waits for
            self._enqueue(effects)
        try:  # what happened may settle whether blobs are wanted that stand on offer
            alone = running.review() if running is self.running and running.ended is None else []
        except LocalError as error:  # no memory for one
            self.cancel(error)
            return
        for verified in alone:
            self._route(verified)

    def _enqueue(self, effects: Sequence[Effect]) -> None:
        self._effects.extend(effects)
        self._run()

    def _run(self) -> None:
        if self._carrying:
            return
        self._carrying = True
        try:
            while self._effects and not self._suspended and not self._closed:
                effect = self._effects.popleft()
                if self._watch is not None:
                    self._watch(effect)
                if not self._closed:  # a simulation may have this peer stop right before an effect
                    self._carry_out(effect)
        finally:
            self._carrying = False

    def _carry_out(self, effect: Effect) -> None:
        ports, running = self._need_ports(), self.running
        match effect:
            case Send():
                self._send(effect)
            case SetTimer(name, after) if running is not None:
                running.set_timer(ports.clock, name, after, partial(self._expired, running, name))
            case Persist(record):
                self._suspended = True
                ports.journal.record(self._last, record, self._durable)
            case Compute(name, job) if running is not None:
                running.jobs += 1
                with self.tally.at(ELSEWHERE):  # a pool that runs it in place counts it as any other does
                    ports.pool.submit(job, running.bench, partial(self._computed, running, name))
            case Blame(error):
                self._note_fault(error)
            case Release(blob):
                self.blobs.release(blob)
            case Finish(result) if running is not None:
                self._finish(running, Ended(result=result))
            case Abort(error, spent) if running is not None:
                self._finish(running, Ended(error=self._explained(error), spent=spent))

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
        self._lasting.update(blob.id for blob in effect.blobs.values() if effect.lasting)
        self._suspended = True
        self._need_ports().journal.entry(verified.signed, spec.log_body, partial(self._post, verified, effect))

    @counted
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

    @counted
    def _durable(self) -> None:
        self._suspended = False
        self._run()

    @counted
    def _computed(self, running: Running, name: str, value: object) -> None:
        running.jobs -= 1
        if running is self.running:
            self._feed(Computed(name, value))
        if running is self.running and running.ended is not None and not running.jobs:
            self._end(running, running.ended)

    @counted
    def _expired(self, running: Running, name: str) -> None:
        if running is self.running:
            self._feed(Expired(name))

    def _finish(self, running: Running, ended: Ended) -> None:
        """The machine is done. Its caller hears of it once no job reads or writes the caller's arrays any more."""
        running.ended = ended
        running.stop()
        if not running.jobs:
            self._end(running, ended)

    def _end(self, running: Running, ended: Ended) -> None:
        running.end()
        # Who is in a round that ended well may still need what lasts of it; what failed, or is older, nobody needs.
        self._withdraw(running.round.number, well=ended.error is None)
        running.reject_all()
        self.running = None
        running.done(ended)

    def _withdraw(self, ended: int, well: bool) -> None:
        """Send no more blobs of a round that has ended, or of earlier ones, but for the lasting ones of a round that
        ended well: a peer that died or is slow must not hold on to the memory of the others."""
        for (peer, transfer), (blob, number) in list(self._sent.items()):
            if number < ended or (number == ended and not (well and blob.id in self._lasting)):
                self._links[peer].withdraw(transfer)
                self.blobs.give_back(self._sent.pop((peer, transfer))[0])
        self._lasting.intersection_update(blob.id for blob, _ in self._sent.values())

    def _explained(self, error: DecentraError) -> DecentraError:
        """Add to a failed wait what is known of those who were waited for."""
        if not isinstance(error, Unavailable):
            return error
        reasons = self.reasons
        known = [f"{peer}: {reasons[peer]}" for peer in error.waited_for if peer in reasons]
        return error.because("; ".join(known)) if known else error

    # ── arrivals ─────────────────────────────────────────────────────────────────────────────────────────────────────

    @counted
    def on_link(self, peer: PeerId, up: bool, reason: str) -> None:
        """The transport's way to a peer opened or broke."""
        link = self._links.get(peer)
        if link is None or self._closed:
            return
        if up:
            self._ways.pop(peer, None)
            link.connected()
            if self.succession is not None:
                self.succession.met(peer)
        else:
            self._ways[peer] = reason
            link.disconnected()

    def on_receive(self, peer: PeerId, lane: Lane, header: bytes, buffers: Sequence[memoryview]) -> None:
        """The transport has a message of an authenticated peer. The one place where blame is taken down."""
        link = self._links.get(peer)
        if link is None or self._closed:
            return
        before = self.tally.turn(SMALL if lane is Lane.CONTROL else BULK)
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
        finally:
            self.tally.turn(before)

    def _on_event(self, peer: PeerId, event: object) -> None:
        match event:
            case Completed(transfer, data) if self.running is not None:
                received = self.running.completed(peer, transfer, data)
                if received is not None:
                    self._deliver(received)
            case Delivered(transfer) | Rejected(transfer):
                lent = self._sent.pop((peer, transfer), None)
                if lent is not None:
                    self.blobs.give_back(lent[0])
            case Restarted():
                if self.running is not None:
                    self.running.lost(peer)
            case Elsewhere(epoch):
                self._meet_abroad(peer, epoch)
            case Whispered() | Holds() | Handed():
                try:
                    self._on_aside(peer, event)
                except RemoteError as error:
                    self._note_fault(error)  # it is no part of a round, so no round ends by it
                    self._charge(peer)

    def _on_aside(self, peer: PeerId, event: Whispered | Holds | Handed) -> None:
        """What peers tell each other beside rounds: who is up, and which charters there are."""
        match event:
            case Whispered(data) if self.gossip is not None:
                self.gossip.heard(peer, data)
            case Holds() if self.succession is not None:
                self.succession.holds(peer, event)
            case Handed() if self.succession is not None:
                self.succession.handed(peer, event)

    def _meet_abroad(self, peer: PeerId, epoch: EpochName) -> None:
        """A neighbour speaks for another session: say which, and take it for gone from a round that is on."""
        same = epoch.is_same(self.epoch)
        reason = f"it speaks for {epoch}, and this peer is in {self.epoch}"
        reason += ": compare its charter with yours" if epoch.number == self.epoch.number else ""
        if same:
            reason = f"it reads the spec of {epoch} otherwise than this peer does; install the same release"
        if self._abroad.get(peer) != epoch:
            self._log.warning("peer %s: %s", peer, reason)
        self._abroad[peer], self._ways[peer] = epoch, reason
        machine = self.machine
        if machine is not None and peer in machine.roster:
            self._enqueue(machine.faulted(RemoteError(peer, "SESSION", reason)))
        if self.succession is not None and not same:
            self.succession.elsewhere(peer)

    @counted
    def _deliver(self, received: Received) -> None:
        """A blob is whole, and so is its message: a small matter, though a piece of bulk brought it."""
        self._feed(received)

    def _on_entry(self, peer: PeerId, link: Neighbour, arrived: Arrived) -> None:
        verified, new = self._admission.admit(peer, arrived.parts)
        self.tally.verified += 1
        if isinstance(verified.message, Given):
            self.others.gave(verified, self._need_ports().clock.now())
        if arrived.announcement is not None:
            self._expect(verified, link, arrived.announcement)
        elif new:
            self._route(verified)

    def _keep(self, verified: Verified) -> None:
        """Nobody acts on what no transcript will hold: a liar must not fill them first and break clauses then."""
        log_body = self.registry.codec.spec(verified.message.kind).log_body
        if not self._need_ports().journal.heard(verified, log_body):
            raise RemoteError(verified.sender, "SCHEMA", "it says more in one round than anybody honest does")

    def _expect(self, verified: Verified, link: Neighbour, announcement: Announcement) -> None:
        """Take the blob beside a message, if the round that is on has use for it."""
        running, spec = self.running, self.registry.codec.spec(verified.message.kind)
        if running is None or running.ended is not None or verified.entry.round_id != running.round or not spec.blob:
            link.reject(announcement.transfer)
        elif running.expect(verified, link, announcement, self._limit):
            self._route(verified)

    def _route(self, verified: Verified) -> None:
        self.others.heard(verified, self._need_ports().clock.now())
        self._hand_on(verified)

    def _hand_on(self, verified: Verified) -> None:
        """Hand a message to the round it belongs to; keep a few of the next one, drop what is older or farther."""
        running, entry, message = self.running, verified.entry, verified.message
        if isinstance(message, Leave):
            if running is not None and entry.round <= running.round.number + 1:
                self._feed(Received(verified))  # one of a farther round counts once this peer has come to that
        elif running is not None and entry.round_id == running.round:
            self._feed(Received(verified))
        elif entry.round > self._last.number:
            self.others.keep(verified)
            self._follow()
            if isinstance(message, Ready) and entry.round > self._last.number:
                self._feed(Received(verified))

    def _follow(self) -> None:
        """Give up a round without a roster where the group has gone on to a later one: this peer goes there too."""
        machine = self.machine
        if machine is not None and not machine.roster and self.others.round > machine.round.number:
            mend = f"the group has gone on to round {self.others.round}, which is open to this peer"
            self.cancel(Unavailable((), 0.0, f"round {machine.round}", mend))

    def _note_fault(self, error: RemoteError) -> None:
        if error.peer is not None:
            self._faults[error.peer] = error.reason
        count = self.conduct.count(error.peer, error.clause)
        if worth_saying(count):
            self._log.warning("%s%s", error, "" if count == 1 else f" (it is the {count}th time)")

    def _charge(self, peer: PeerId) -> None:
        """Hold a fault against the neighbour that sent it, and cut who goes on."""
        ports = self._need_ports()
        seconds = self.conduct.exhausted(peer, ports.clock.now())
        if seconds is None:
            return
        self._ways[peer] = f"this peer cut it for {seconds:.0f} s, since it goes on breaking clauses"
        self._log.warning("peer %s is cut for %.0f s: it goes on breaking clauses", peer, seconds)
        ports.transport.close_peer(peer)
        self._links[peer].disconnected()
        ports.clock.call_later(seconds, partial(self._let_in, peer))

    def _let_in(self, peer: PeerId) -> None:
        self.conduct.cut.discard(peer)
        if not self._closed:
            self._need_ports().transport.dial(peer)

    def _blame(self, peer: PeerId, error: RemoteError) -> None:
        if self._watch is not None:
            self._watch(Blame(error))
        self._note_fault(error)
        self._charge(peer)
        machine = self.machine
        if machine is not None and peer in machine.roster:
            self._enqueue(machine.faulted(error))

    # ── links and timers ─────────────────────────────────────────────────────────────────────────────────────────────

    def _new_link(self, peer: PeerId) -> Neighbour:
        send = partial(self._transmit, peer)
        return self._make_link(peer, self._incarnation, send, session=self.chain.session, epoch=self.epoch)

    def _transmit(self, peer: PeerId, lane: Lane, header: bytes, parts: Sequence[Buffer]) -> bool:
        if lane is Lane.CONTROL:
            return self._need_ports().transport.send(peer, lane, header, parts)
        with self.tally.at(BULK):
            return self._need_ports().transport.send(peer, lane, header, parts)

    def _restart_link(self, peer: PeerId) -> None:
        """Forget what a peer never took in: it is gone, and what comes after must not wait behind it."""
        for key in [key for key in self._sent if key[0] == peer]:
            self.blobs.give_back(self._sent.pop(key)[0])
        if self.running is not None:
            self.running.lost(peer)
        self._admission.begin_anew(peer)
        transport = self._need_ports().transport
        transport.close_peer(peer)
        self._incarnation += 1
        self._links[peer] = self._new_link(peer)
        if peer not in self.conduct.cut:
            transport.dial(peer)

    @counted
    def _tick(self) -> None:
        clock = self._need_ports().clock
        for peer, link in self._links.items():
            try:
                link.tick(clock.now())
            except RemoteError as error:
                self._blame(peer, error)
        if not self._closed:
            self._ticking = clock.call_later(TICK, self._tick)

    def _need_ports(self) -> Ports:
        if self._ports is None:
            raise RuntimeError("the driver was not opened")
        return self._ports
