"""What the machines of all protocols share: one peer's walk through the phases of one round.

A round follows the edges in the protocol's ``transitions.py``. Messages of any phase may come at any time, since peers
move at their own speed: they are kept by kind and sender, and the walk goes on as far as they carry.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import replace
from typing import ClassVar

from decentra.errors import DecentraError, LocalError, RemoteError, Unavailable
from decentra.machine.effects import Abort, Blame, Effect, Release, Send, SetTimer
from decentra.machine.events import Computed, Event, Expired, Received, Start, Supplied
from decentra.protocols.certify.machine import Certify, Check
from decentra.protocols.certify.messages import Certificate, Commit, Lock, Prepare, Propose
from decentra.protocols.rendezvous.machine import Rendezvous
from decentra.protocols.rendezvous.messages import AbortRound, Leave, Ready, State
from decentra.protocols.rendezvous.state import SOURCE_TIMER, STATE_JOB
from decentra.protocols.setting import Contribution, Setting
from decentra.types import PeerId, RoundId
from decentra.wire.entry import ZERO
from decentra.wire.message import Message, Verified

READY, CONTEXT, SURVIVORS, SUM, OUTCOME, DONE = "ready", "context", "survivors", "sum", "outcome", "done"
EARLY = 8
"""Votes of a kind and topic that are kept for a peer before the topic opens: one a view, and views double in length."""

EARLY_WIDE = 2
"""The same of proposals, locks and certificates, each of which may have a mebibyte."""

Transitions = Mapping[tuple[str, str], str]


class Round(ABC):
    """One peer's part in one round. Pure: it takes an event and returns effects."""

    protocol: ClassVar[str]
    transitions: ClassVar[Transitions]
    reads: ClassVar[Mapping[str, Set[str]]]
    """By phase, the messages that can carry the walk on."""
    shows: ClassVar[Mapping[str, str]]
    """By topic, the message that shows that its author holds the certificate; none for a vote that ends the round."""
    context_clause: ClassVar[str]

    def __init__(self, setting: Setting, mine: Contribution, round_id: RoundId) -> None:
        self.setting, self.mine, self.round = setting, mine, round_id
        self.out: list[Effect] = []
        self.phase = READY
        self.spent = False
        self.rendezvous = Rendezvous(setting, mine, round_id, self.out)
        self.box: dict[str, dict[PeerId, Received]] = {}
        self.roster: tuple[PeerId, ...] = ()
        self.context = b""
        self.ranges: tuple[float, ...] = ()
        self.certify: dict[str, Certify] = {}
        self.gone: set[PeerId] = set()
        """Who said that it stops, or broke a clause."""
        self.absent: set[PeerId] = set()
        """These, and whose slices did not come in their time: nobody waits for them."""
        self.beyond: set[PeerId] = set()
        """Who is in a later round."""
        self._votes: list[Verified] = []
        self._early: Counter[tuple[PeerId, str, str]] = Counter()
        self._stays = False
        """Whether the event at hand can't carry the walk on."""

    # ── the machine's one door ───────────────────────────────────────────────────────────────────────────────────────

    def handle(self, event: Event) -> list[Effect]:
        """Take one event and return what to do, in order. After Finish or Abort every event is ignored."""
        return self._guarded(lambda: self._take(event))

    def _guarded(self, act: Callable[[], None]) -> list[Effect]:
        """Act, walk on as far as that carries, and turn an error into the round's end."""
        if self.phase == DONE:
            return []
        self._stays = False
        try:
            act()
            while not self._stays and self.phase != DONE and self._step():
                pass
        except DecentraError as error:
            self._abort(error)
        return self._taken_out()

    def _taken_out(self) -> list[Effect]:
        if not self.out:
            return []
        effects, self.out[:] = list(self.out), []
        return effects

    def cancel(self, error: DecentraError) -> list[Effect]:
        """End the round from this side, because its owner asks for it."""
        if self.phase != DONE:
            self._abort(error)
        return self._taken_out()

    def faulted(self, error: RemoteError) -> list[Effect]:
        """What one of the roster sent broke a clause before this machine saw it."""
        return self._guarded(lambda: self._on_fault(error))

    def _take(self, event: Event) -> None:
        match event:
            case Start():
                self.rendezvous.start()
            case Supplied():
                self._on_supplied(event)
            case Received():
                try:
                    self._on_received(event)
                except RemoteError as error:
                    self.broke(error)
            case Expired(timer):
                self._on_expired(timer)
            case Computed(name, value):
                self._on_computed(name, value)

    def _step(self) -> bool:
        if self.phase == READY:
            return self._step_ready()
        self.rendezvous.advance()
        return self.step()

    def _step_ready(self) -> bool:
        """Follow a roster once everyone in it is known and the common state is held."""
        self.rendezvous.advance()
        roster = self.rendezvous.roster
        if roster is None:
            return False
        if self.roster != roster.members:
            self.roster = roster.members
            self.out.append(SetTimer("phase", self.setting.phase_deadline))
        if not self.rendezvous.settled:
            return False
        self.rendezvous.closed = True
        self.ranges = self.mine.common.ranges(len(self.mine.specs))
        for kind, kept in self.box.items():
            self.box[kind] = {peer: received for peer, received in kept.items() if self.belongs(received.verified)}
        self._votes = [verified for verified in self._votes if self.belongs(verified)]
        self.go("roster")
        return True

    # ── what a protocol adds ─────────────────────────────────────────────────────────────────────────────────────────

    @abstractmethod
    def entered(self, phase: str) -> None:
        """The phase has just begun: start its jobs."""

    @abstractmethod
    def step(self) -> bool:
        """Try to leave the phase; True if it moved."""

    @abstractmethod
    def computed(self, name: str, value: object) -> None:
        """A job has its value."""

    @abstractmethod
    def supplied(self) -> None:
        """The update is here, in a round that began ahead of it."""

    @abstractmethod
    def went_on(self, timer: str) -> bool:
        """A timer of the protocol's has run out; False where nothing can be done but to give up."""

    @abstractmethod
    def waiting_for(self) -> tuple[PeerId, ...]:
        """Whom the current phase waits for."""

    @property
    def awaited(self) -> tuple[PeerId, ...]:
        """Whom this peer waits for now; itself too, where its own word is still on its way."""
        return self.rendezvous.waiting_for() if self.phase == READY else self.waiting_for()

    def waited_seconds(self) -> float:
        """How long the current phase has waited when it gives up."""
        return self.setting.phase_deadline

    # ── common steps ─────────────────────────────────────────────────────────────────────────────────────────────────

    def go(self, why: str) -> None:
        """Walk one edge of the protocol's transitions."""
        phase = self.transitions.get((self.phase, why))
        if phase is None:
            raise LocalError(f"{self.protocol}: no transition leaves {self.phase!r} for {why!r}; a defect of decentra")
        self.phase = phase
        if phase == DONE:
            return
        self.out.append(SetTimer("phase", self.setting.phase_deadline))
        self.entered(phase)

    @property
    def position(self) -> int:
        return self.roster.index(self.setting.me)

    @property
    def n(self) -> int:
        return len(self.roster)

    @property
    def quorum(self) -> int:
        return self.setting.quorum(self.n)

    def belongs(self, verified: Verified) -> bool:
        """Whether a message is one of the roster that this peer follows; what else came early is left aside."""
        return verified.sender in self.roster

    def got(self, kind: str) -> dict[PeerId, Received]:
        """What came of one kind so far, by sender."""
        return self.box.get(kind, {})

    def missing(self, kind: str) -> tuple[PeerId, ...]:
        return tuple(peer for peer in self.roster if peer not in self.got(kind))

    # ── votes ────────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def order(self) -> tuple[PeerId, ...]:
        """The roster in the order in which its members propose, from the roster's own proposer on."""
        members = [peer for peer in self.rendezvous.order if peer in self.roster]
        start = members.index(self.rendezvous.proposer)
        return (*members[start:], *members[:start])

    def open_vote(self, topic: str, check: Check) -> Certify:
        """Begin to vote on a topic, with the votes that came before."""
        vote = Certify(
            topic,
            self.context,
            self.round.number,
            self.order,
            self.quorum,
            self.setting.c,
            self.setting.me,
            check,
            self.setting.patience,
            self.out,
            self.absent,
        )
        self.certify[topic] = vote
        waiting, self._votes = self._votes, []
        self._early.clear()
        for verified in waiting:
            self._vote(verified)
        return vote

    def proposed_early(self, topic: str) -> bool:
        """Whether somebody has proposed a value of a topic that is not open here."""
        return any(isinstance(one.message, Propose) and one.message.topic == topic for one in self._votes)

    def _vote(self, verified: Verified) -> None:
        message = verified.message
        if not isinstance(message, Propose | Prepare | Commit | Lock | Certificate):
            raise LocalError(f"certify was handed a {message.kind}")
        if f"certificate({message.topic})" not in {why for _, why in self.transitions}:
            raise RemoteError(verified.sender, "SCHEMA", f"it votes on {message.topic!r}, which no round votes on")
        vote = self.certify.get(message.topic)
        if vote is None:
            self._keep_vote(verified, message.kind, message.topic)
        elif message.context != self.context:
            self.broke(
                RemoteError(verified.sender, self.context_clause, "it votes under a context that it did not endorse")
            )
        else:
            try:
                vote.received(verified)
            except RemoteError as error:
                self.broke(error)

    def lacking(self, topic: str) -> set[PeerId]:
        """Who has not shown that it holds the certificate of a topic, and has not stopped."""
        kind = f"{self.protocol}.{self.shows[topic]}" if topic in self.shows else ""
        shown = [known.keys() for slot, known in self.box.items() if slot.partition("/")[0] == kind]
        return set(self.roster).difference(self.gone, *shown)

    def hand_over(self) -> None:
        """What this peer holds certificates of must not end with its round: others may have too few of the commits."""
        for topic, vote in self.certify.items():
            vote.relay(self.lacking(topic))

    def _keep_vote(self, verified: Verified, kind: str, topic: str) -> None:
        most = EARLY if kind in (Prepare.kind, Commit.kind) else EARLY_WIDE
        self._early[verified.sender, kind, topic] += 1
        if self._early[verified.sender, kind, topic] <= most:
            self._votes.append(verified)

    # ── arrivals, deadlines, ends ────────────────────────────────────────────────────────────────────────────────────

    def _on_received(self, event: Received) -> None:
        verified = event.verified
        message, sender = verified.message, verified.sender
        if verified.entry.round > self.round.number and not isinstance(message, Leave):
            if self.phase == READY:
                self.rendezvous.went_ahead(verified)
            else:
                self._went_beyond(verified)
            return
        begun = self.phase != READY or self.rendezvous.fetching
        if isinstance(message, AbortRound | Leave) and begun and sender in self.roster:
            if sender != self.setting.me:
                self.ended(sender, message)
            return
        if message.kind.startswith("rendezvous."):
            if self.phase == READY or not isinstance(message, Ready):
                self.rendezvous.received(event)
            return
        if self.phase != READY and sender not in self.roster:
            # It may follow a roster of another view in good faith; but no honest peer speaks under this one's context.
            if self.context and getattr(message, "context", b"") == self.context:
                said = f"it sent a {message.kind} in round {self.round}, whose roster it is not in"
                self.out.append(Blame(RemoteError(sender, "ROLE", said)))
            return
        family, _, name = message.kind.partition(".")
        if family == "certify":
            self._stays = getattr(message, "topic", "") != self.phase
            self._vote(verified)
        else:
            self._stays = name not in self.reads.get(self.phase, ())
            self.keep(event)

    def _went_beyond(self, verified: Verified) -> None:
        """A peer speaks in a later round. What it sent in this one may still be on its way, unless it has started again
        since: then nothing more of it comes, and nobody needs to wait a deadline for it."""
        sender = verified.sender
        self.beyond.add(sender)
        began = self.rendezvous.ready.get(sender)
        if sender in self.roster and began is not None and verified.entry.boot > began.entry.boot:
            self.ended(sender, verified.message)

    def _on_supplied(self, event: Supplied) -> None:
        if self.mine.update is not None:
            raise LocalError(f"{self.protocol}: a second update in one round; a defect of decentra")
        self.mine = replace(self.mine, update=event.update, weight=event.weight, residual=event.residual)
        self.rendezvous.supplied()
        self.supplied()

    def _on_computed(self, name: str, value: object) -> None:
        if isinstance(value, DecentraError):
            raise value
        if name == STATE_JOB:
            self.rendezvous.computed(value)
        else:
            self.computed(name, value)

    def _on_fault(self, error: RemoteError) -> None:
        if self.phase != READY or not self.rendezvous.lost_source(error):
            self.broke(error)

    def keep(self, event: Received) -> None:
        """Store a message by kind and sender; a second one with other content is equivocation."""
        verified = event.verified
        if self.phase != READY and not self.belongs(verified):
            return
        slot = self.slot(verified.message)
        known = self.box.setdefault(slot, {}).setdefault(verified.sender, event)
        if known.verified.body_hash != verified.body_hash:
            self.broke(RemoteError(verified.sender, "EQUIVOCATION", f"it signed two different {slot} in a round"))

    def broke(self, error: RemoteError) -> None:
        """A peer of the roster broke a clause; what follows from that may carry the walk on."""
        raise error

    def slot(self, message: Message) -> str:
        """Under what a message is kept; a peer sends one of each in a round."""
        return f"{message.kind}/{message.part}" if isinstance(message, State) else message.kind

    def room(self, message: Message) -> int:
        """The most bytes that the blob beside a message may have: memory is taken for no more."""
        return self.mine.common.room(message.part) if isinstance(message, State) else 0

    def wants(self, verified: Verified, root: bytes) -> bool:
        """Whether a blob with this root is the one that the message beside it signs, and was asked for if need be."""
        message = verified.message
        if isinstance(message, State):
            return self.rendezvous.wants(verified.sender, message, root)
        roots: tuple[bytes, ...] = getattr(message, "roots", (getattr(message, "root", b""),))
        if len(roots) == self.n and self.setting.me in self.roster:
            return roots[self.position] == root
        return root in roots

    def defers(self, verified: Verified, root: bytes, coming: Sequence[Verified]) -> bool:
        """Whether the offer of the blob beside a message is to stand for now, since it may be wanted later; ``coming``
        are the messages whose copies of it are under way from others."""
        return False

    def copied(self, verified: Verified) -> bytes:
        """A name for the blob beside a message where several peers may bring the very same one; else nothing. Only what
        has a name is deferred."""
        return b""

    def ended(self, sender: PeerId, message: Message) -> None:
        """A peer of the roster has stopped, by its own word: it ended the round, left, or has started again."""
        raise self._ended_by(sender, message)

    def _ended_by(self, sender: PeerId, message: Message) -> DecentraError:
        if not isinstance(message, AbortRound | Leave):
            what = f"round {self.round}, since which it has started again"
            return Unavailable((sender,), 0.0, what, "the next round begins afresh")
        if isinstance(message, Leave):
            what = f"round {self.round}, which it left"
            return Unavailable((sender,), 0.0, what, "the next round goes on without it")
        if message.clause not in ("DEADLINE", "LOCAL"):
            # Its word, not this peer's: nobody is named by hearsay, and nobody signs another's accusation as its own.
            accused = ", ".join(map(str, message.blamed)) or "nobody"
            said = f"{sender} ended the round, and names {accused}: {message.reason}"
            return RemoteError(None, message.clause, said)
        what = f"round {self.round}, which {sender} ended ({message.reason})"
        return Unavailable(message.blamed or (sender,), 0.0, what, "the next round begins afresh")

    def _on_expired(self, timer: str) -> None:
        if timer in ("ready", "late", "benched", "left", "view") or timer.startswith(SOURCE_TIMER):
            if self.phase == READY:
                self.rendezvous.expired(timer)
            return
        vote = next((vote for vote in self.certify.values() if vote.timer == timer), None)
        if vote is not None:
            if vote.certificate:
                vote.relay(self.lacking(vote.topic))
            else:
                vote.expired()
            return
        if self.went_on(timer):
            return
        raise Unavailable(
            self.awaited,
            self.waited_seconds(),
            f"the {self.phase!r} phase of round {self.round}",
            "the next round begins without who stays silent",
        )

    def _abort(self, error: DecentraError) -> None:
        """End the round for everyone: say the clause and whom this peer blames (RV-7)."""
        self.out[:] = [effect for effect in self.out if isinstance(effect, Release)]
        self.hand_over()
        clause, reason = "LOCAL", str(error)
        blamed: tuple[PeerId, ...] = (self.setting.me,)
        if isinstance(error, RemoteError):
            clause, reason, blamed = error.clause, error.reason, () if error.peer is None else (error.peer,)
        elif isinstance(error, Unavailable):
            clause, blamed = "DEADLINE", tuple(peer for peer in error.waited_for if peer in self.setting.members)
        short = reason.encode(errors="replace")[:400].decode(errors="ignore")
        self.out.append(Send(AbortRound(clause, blamed, short), after=ZERO))
        self.out.append(Abort(error, self.spent))
        self.phase = DONE
