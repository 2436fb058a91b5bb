"""Certify as a part of a round's machine: a roster settles on one value of one topic under one context.

Views with locks (Buchman, Kwon and Milosevic 2018, "The latest gossip on BFT consensus", algorithm 1, with one change:
a lock is shown to the next proposer with the prepares that made it). 2t > n + c, so two quorums share an honest peer,
and the rules of voting (CE-2 to CE-4) let no two values be certified: ``OneCertificate`` of ``specs/secagg/model.py``.
Votes are made durable before they are sent.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import TypeVar

from decentra import derive
from decentra.errors import RemoteError, Unavailable
from decentra.machine.effects import Blame, Effect, Persist, Record, Send, SetTimer
from decentra.protocols.certify.messages import Certificate, Commit, Lock, Prepare, Propose
from decentra.protocols.certify.votes import Votes
from decentra.types import PeerId
from decentra.wire.message import Message, Verified

Check = Callable[[bytes, tuple[Verified, ...]], bool]
"""Whether what is shown gives a proposed value; False while the peer can't tell yet. Raises RemoteError where it does
not give it, blaming whoever signed what is wrong."""

M = TypeVar("M", bound=Message)

LONGEST_VIEW = 8
"""A view's timeout doubles with the view, up to this many times the first."""

MOST_VIEWS = 64
"""The largest view that a message can name: a peer gives up before it signs a later one. A round's deadlines end it
some sixty views earlier."""


@dataclass(frozen=True)
class Held:
    """What a peer is locked on: a value, the view it was prepared in, and the t prepares that show it."""

    view: int
    value: bytes
    prepares: tuple[Verified, ...]


class Certify:
    """One peer's part in certifying one topic.

    Args:
        topic: ``survivors`` or ``outcome``.
        context: what all votes cite.
        number: the round's, in which all votes are signed.
        order: the roster in the order in which its members propose; view v belongs to the v-th, cyclically.
        quorum: t.
        corrupt: how many members may lie together, c.
        me: this peer.
        check: the protocol's rule for what a value must follow from.
        timeout: seconds that the first view lasts.
        out: where effects go.
        gone: who is known to have stopped, as the owner comes to know: their views are passed over.
    """

    def __init__(
        self,
        topic: str,
        context: bytes,
        number: int,
        order: tuple[PeerId, ...],
        quorum: int,
        corrupt: int,
        me: PeerId,
        check: Check,
        timeout: float,
        out: list[Effect],
        gone: Collection[PeerId] = (),
    ) -> None:
        self.topic, self.context, self._number = topic, context, number
        self._order, self._quorum, self._me = order, quorum, me
        self._spare = max(len(order) - quorum, corrupt)
        self._check, self._timeout, self._out, self._gone = check, timeout, out, gone
        self._proposals: dict[PeerId, tuple[int, Verified]] = {}
        """Of each proposer the latest, with its view: it may have a mebibyte, and its author has left earlier views."""
        self._proposed: dict[int, bytes] = {}
        """The hash of what was proposed in each view."""
        self._tried: dict[bytes, set[int]] = {}
        """Of each value the views that it was proposed in."""
        self._backed: dict[bytes, set[int]] = {}
        """Of each value the views that this peer prepared it in."""
        self._prepares, self._commits = Votes(quorum), Votes(quorum)
        self._locks: dict[PeerId, tuple[int, Verified]] = {}
        """Of each peer the latest, with its view."""
        self._views: dict[PeerId, int] = {}
        """The latest view that each other peer said that it had come to."""
        self._values: dict[bytes, bytes] = {}
        self._lock: Held | None = None
        self._acted = -1
        self._prepared: set[int] = set()
        self._committed: set[int] = set()
        self._offered: set[int] = set()
        self._waited: set[int] = set()
        self.view = 0
        self._timed = False
        """Whether this view's time is running: a later view's begins when a quorum has come to it."""
        self._told: set[PeerId] = set()
        """To whom the certificate was handed, or who handed it to this peer."""
        self.certificate: tuple[Verified, ...] = ()
        self.value = b""
        """The certified value, once there is a certificate."""
        self._arm()

    # ── what the owner reads ─────────────────────────────────────────────────────────────────────────────────────────

    @property
    def timer(self) -> str:
        return f"certify {self.topic}"

    @property
    def digest(self) -> bytes:
        """The hash of the certified value, as votes cite it."""
        return self._digest(self.value)

    def proposer(self, view: int | None = None) -> PeerId:
        return self._order[(self.view if view is None else view) % len(self._order)]

    def missing(self) -> tuple[PeerId, ...]:
        """Whom the next step of this view waits for."""
        if self._proposal() is None:
            return (self.proposer(),)
        votes = self._commits if self.view in self._committed else self._prepares
        return tuple(sorted(peer for peer in self._order if not votes.voted(peer, self.view)))

    def tried(self, value: bytes) -> bool:
        """Whether this peer prepared this value in an earlier view, which has ended without a certificate of it. A
        proposal that nobody may prepare gives a value no chance."""
        return min(self._backed.get(value, ()), default=self.view) < self.view

    def proposers_of(self, value: bytes) -> set[PeerId]:
        """Who has proposed this value, in any view."""
        return {self.proposer(view) for view in self._tried.get(value, ())}

    def failed_with(self, value: bytes) -> set[PeerId]:
        """Whose proposals of this value, in earlier views, this peer prepared in vain."""
        return {self.proposer(view) for view in self._backed.get(value, ()) if view < self.view}

    def give_up(self, value: bytes) -> None:
        """Leave the view that is on, where it is for this value and has no certificate yet."""
        proposal = self._proposal()
        if not self.certificate and proposal is not None and _as(Propose, proposal).value == value:
            self._enter(self.view + 1)

    @property
    def offers(self) -> bool:
        """Whether this peer has still to propose in this view."""
        return not self.certificate and self.view not in self._offered and self.proposer() == self._me

    @property
    def opened_by(self) -> bytes:
        """The hash of the entry that proposed the latest value, to be cited by what follows."""
        latest = max(self._proposals.values(), key=lambda proposal: proposal[0], default=None)
        return bytes(32) if latest is None else latest[1].entry.hash

    # ── events ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def received(self, verified: Verified) -> None:
        """Take in one message of this topic and context.

        Raises:
            RemoteError: ROLE, CE-1, CE-2, CE-4, CE-5 or CE-6.
        """
        sender = verified.sender
        if sender not in self._order:
            raise RemoteError(sender, "ROLE", "it votes in a round whose roster it is not in")
        match verified.message:
            case Propose() as message:
                self._on_propose(verified, message)
            case Prepare() as message:
                self._note_view(sender, message.view)
                if not self._prepares.add(message.view, message.value, verified):
                    raise self._two_values(sender, "CE-2", "prepared", message.view)
            case Commit() as message:
                self._note_view(sender, message.view)
                if not self._commits.add(message.view, message.value, verified):
                    raise self._two_values(sender, "CE-4", "committed to", message.view)
            case Lock() as message:
                self._on_lock(verified, message)
            case Certificate() as message:
                self._on_certificate(sender, message)

    def expired(self) -> None:
        """This view's time is over, or the time to wait for locks is.

        Raises:
            Unavailable: there is no later view.
        """
        if not self._timed:
            return  # of a view that this peer left for another's
        if self._waits_for_locks:
            self._waited.add(self.view)
            self._arm()
        else:
            self._enter(self.view + 1)

    def offer(self, value: bytes | None, shown: tuple[Verified, ...] = ()) -> None:
        """Propose, where it is this peer's turn: the highest lock shown, else ``value``, which the protocol's own
        rule gives here; None where that gives nothing yet."""
        if not self.offers:
            return
        if self._waits_for_locks and not self._every_lock_is_shown():
            return
        highest = self._highest_lock()
        if highest is not None:
            self._offered.add(self.view)
            self._propose(highest.value, (), highest.prepares)
        elif value is not None:
            self._offered.add(self.view)
            self._propose(value, shown, ())

    def relay(self, to: Collection[PeerId]) -> None:
        """Hand the certificate, if it is here, to peers that may lack it, each once."""
        lacking = [peer for peer in self._order if peer in to and peer not in self._told and peer != self._me]
        if not self.certificate or not lacking:
            return
        self._told.update(lacking)
        message = Certificate(self.context, self.topic, self.value, self.certificate)
        everyone = len(lacking) == len(self._order) - 1
        for peer in [None] if everyone else lacking:
            self._out.append(Send(message, to=peer, after=self.opened_by))

    def advance(self) -> bool:
        """Vote as the messages so far allow; True once there is a certificate."""
        if self.certificate:
            return True
        self._follow()
        while self.proposer() in self._gone and self._proposal() is None:
            self._enter(self.view + 1)  # nobody will propose here: its time need not run out
        self._prepare()
        self._commit()
        return self._settle()

    # ── voting ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _prepare(self) -> None:
        if self.view in self._prepared or self.view < self._acted:
            return
        verified = self._proposal()
        if verified is None:
            return
        proposal = _as(Propose, verified)
        try:
            if not self._may_prepare(proposal):
                return
        except RemoteError as error:  # this view is its proposer's to lose; the next one has another
            self._prepared.add(self.view)
            self._out.append(Blame(error))
            return
        self._prepared.add(self.view)
        self._backed.setdefault(proposal.value, set()).add(self.view)
        self._acted = self.view
        prepare = Prepare(self.context, self.topic, self.view, self._digest(proposal.value))
        self._vote("prepare", prepare, verified.entry.hash)

    def _may_prepare(self, proposal: Propose) -> bool:
        """CE-2 and CE-3: a lock moves only on prepares from after it; without one, the protocol's rule or earlier
        prepares must give the value."""
        shown = self._prepared_view(proposal.locked, proposal.value)
        if self._lock is None:
            return (shown is not None and shown < self.view) or self._check(proposal.value, proposal.shown)
        if self._lock.value == proposal.value:
            return True
        return shown is not None and self._lock.view < shown < self.view

    def _commit(self) -> None:
        for view, digest in sorted(self._prepares.quorums.items()):
            if view in self._committed or view < self._acted or digest not in self._values:
                continue
            self._lock = Held(view, self._values[digest], self._prepares.of_quorum(view))
            self._committed.add(view)
            self._acted = view
            self._vote("commit", Commit(self.context, self.topic, view, digest), self.opened_by)

    def _settle(self) -> bool:
        for view, digest in self._commits.quorums.items():
            if digest in self._values:
                self._certified(self._values[digest], self._commits.of_quorum(view))
                return True
        return False

    def _certified(self, value: bytes, commits: tuple[Verified, ...]) -> None:
        """Here is the certificate: who has the same commits makes it too, so others are given time to."""
        self.value, self.certificate = value, commits
        self._out.append(SetTimer(self.timer, self._timeout / 2))

    def _vote(self, act: str, message: Prepare | Commit, after: bytes) -> None:
        topic = f"{self.topic}/{message.view}"
        self._out.append(Persist(Record(act, topic, self.context + message.value)))
        self._out.append(Send(message, after=after))

    # ── views ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _enter(self, view: int) -> None:
        """Come to a later view: show its proposer what binds this peer (CE-6)."""
        if view > MOST_VIEWS:
            lasted = sum(self._lasts(earlier) for earlier in range(view))
            what = f"a certificate of the {self.topic}"
            raise Unavailable(self.missing(), lasted, what, "no later view can be named; the next round begins afresh")
        self.view = view
        held = self._lock
        lock = Lock(self.context, self.topic, view, held.value if held else b"", held.prepares if held else ())
        self._out.append(Send(lock, after=self.opened_by))
        self._timed = False
        self._gather()

    def _follow(self) -> None:
        """When more than n − t others, and more than may lie, have come to a later view, then one of them is honest and
        its time was up, and too few may be left to end this view without them: go."""
        ahead = sorted((view for view in self._views.values() if view > self.view), reverse=True)
        if len(ahead) > self._spare:
            self._enter(ahead[self._spare])

    def _note_view(self, peer: PeerId, view: int) -> None:
        if peer != self._me:
            self._views[peer] = max(view, self._views.get(peer, 0))
            if not self._timed:
                self._gather()

    def _gather(self) -> None:
        """Begin this view's time once a quorum is in it or beyond: nobody runs ahead of those whose votes it needs,
        however unlike their clocks are, and however late they came to vote."""
        if 1 + sum(view >= self.view for view in self._views.values()) >= self._quorum:
            self._arm()

    @property
    def _waits_for_locks(self) -> bool:
        """Whether this peer proposes in this view and is still in its first half, which is for others' locks."""
        return self.view > 0 and self.proposer() == self._me and self.view not in self._waited

    def _arm(self) -> None:
        """A view's timeout; its proposer has two halves of it, so that others are still in the view when it offers."""
        self._timed = True
        whole = self._lasts(self.view)
        halved = self.view > 0 and self.proposer() == self._me
        self._out.append(SetTimer(self.timer, whole / 2 if halved else whole))

    def _lasts(self, view: int) -> float:
        return self._timeout * min(1 << view, LONGEST_VIEW)

    def _every_lock_is_shown(self) -> bool:
        """Whether everybody who is still there has said what it is locked on."""
        return all(self._locks.get(peer, (-1, None))[0] == self.view for peer in self._order if peer not in self._gone)

    def _shown_locks(self) -> list[Lock]:
        return [_as(Lock, verified) for _, (view, verified) in sorted(self._locks.items()) if view == self.view]

    def _highest_lock(self) -> Held | None:
        """The lock of the highest view among those shown for this view and one's own."""
        best = self._lock
        for lock in self._shown_locks():
            view = self._prepared_view(lock.prepares, lock.value)
            if view is not None and (best is None or view > best.view):
                best = Held(view, lock.value, lock.prepares)
        return best

    def _propose(self, value: bytes, shown: tuple[Verified, ...], locked: tuple[Verified, ...]) -> None:
        self._out.append(Send(Propose(self.context, self.topic, self.view, value, shown, locked), after=self.opened_by))

    # ── arrivals ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _on_propose(self, verified: Verified, message: Propose) -> None:
        sender = verified.sender
        if sender != self.proposer(message.view):
            raise RemoteError(sender, "CE-1", f"it proposed {self.topic!r} in view {message.view}, not its own")
        if self._proposed.setdefault(message.view, verified.body_hash) != verified.body_hash:
            raise RemoteError(sender, "CE-1", f"it proposed two values of {self.topic!r} in view {message.view}")
        self._learn(message.value)
        self._tried.setdefault(message.value, set()).add(message.view)
        if message.view >= self._proposals.get(sender, (0, verified))[0]:
            self._proposals[sender] = message.view, verified

    def _proposal(self) -> Verified | None:
        """What this view's proposer proposed."""
        view, verified = self._proposals.get(self.proposer(), (-1, None))
        return verified if view == self.view else None

    def _on_lock(self, verified: Verified, message: Lock) -> None:
        sender, shown = verified.sender, message.value or message.prepares
        if shown and self._prepared_view(message.prepares, message.value) is None:
            raise RemoteError(sender, "CE-6", "the lock that it shows is none: t prepares of one view make it")
        view, known = self._locks.get(sender, (-1, verified))
        if view == message.view and known.body_hash != verified.body_hash:
            raise self._two_values(sender, "CE-6", "showed locks on", view)
        self._note_view(sender, message.view)
        self.relay((sender,))
        if message.view > view:
            self._locks[sender] = message.view, verified
            if shown:
                self._learn(message.value)

    def _on_certificate(self, sender: PeerId, message: Certificate) -> None:
        digest = self._digest(message.value)
        commits = [_as(Commit, cited) for cited in message.commits if isinstance(cited.message, Commit)]
        sound = len(commits) == len(message.commits) and all(
            (commit.context, commit.topic, commit.value) == (self.context, self.topic, digest) for commit in commits
        )
        signed = {cited.sender: cited for cited in message.commits if self._may_vote(cited)}
        if not sound or len({commit.view for commit in commits}) > 1:
            raise RemoteError(sender, "CE-5", "its certificate cites more than commits of its value in one view")
        if len(signed) < self._quorum:
            raise RemoteError(sender, "CE-5", f"its certificate has {len(signed)} signers, {self._quorum} are needed")
        self._learn(message.value)
        self._told.add(sender)
        if not self.certificate:
            # Whatever its signers said besides: t commits of one view are the certificate, by themselves.
            self._certified(message.value, tuple(signed[peer] for peer in sorted(signed))[: self._quorum])
        view = commits[0].view
        for peer, cited in signed.items():
            if not self._commits.add(view, digest, cited):
                self._out.append(Blame(self._two_values(peer, "CE-4", "committed to", view)))

    def _two_values(self, peer: PeerId, clause: str, did: str, view: int) -> RemoteError:
        return RemoteError(peer, clause, f"it {did} two values of {self.topic!r} in view {view}")

    # ── values and votes ─────────────────────────────────────────────────────────────────────────────────────────────

    def _digest(self, value: bytes) -> bytes:
        return derive.vote_value(self.context, self.topic, value)

    def _learn(self, value: bytes) -> None:
        self._values.setdefault(self._digest(value), value)

    def _may_vote(self, cited: Verified) -> bool:
        """Whether a cited vote's author is in the roster, and signed it in this round."""
        return cited.sender in self._order and cited.entry.round == self._number

    def _prepared_view(self, prepares: Iterable[Verified], value: bytes) -> int | None:
        """The view in which t distinct members prepared this value, as shown; None where that is not what is shown."""
        digest, views, signers = self._digest(value), set(), set()
        for cited in prepares:
            message = cited.message
            if not isinstance(message, Prepare) or not self._may_vote(cited):
                return None
            if (message.context, message.topic, message.value) != (self.context, self.topic, digest):
                return None
            views.add(message.view)
            signers.add(cited.sender)
        return views.pop() if len(views) == 1 and len(signers) >= self._quorum else None


def _as(kind: type[M], verified: Verified) -> M:
    """The message of an entry whose kind was looked at before it was kept."""
    message = verified.message
    if not isinstance(message, kind):
        raise RemoteError(verified.sender, "SCHEMA", f"a {message.kind} stands where a {kind.kind} belongs")
    return message
