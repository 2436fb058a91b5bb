"""Rendezvous as a part of a round's machine: from readiness to a roster whose members hold one common state.

The owner feeds it events and reads ``settled``. Effects go into the list that the owner hands in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

from decentra import derive
from decentra.crypto.agreement import check_public
from decentra.errors import Behind, LocalError, RemoteError, Unavailable, Underway
from decentra.machine.effects import Effect, Send, SetTimer
from decentra.machine.events import Received
from decentra.protocols.rendezvous.messages import AbortRound, Absent, Later, Leave, Ready, Roster, State, Want
from decentra.protocols.rendezvous.state import SOURCE_TIMER, Adopted, Exported, Fetch, Listed, Offer, Placed
from decentra.protocols.setting import Contribution, Setting
from decentra.types import PeerId, RoundId
from decentra.wire.entry import ZERO
from decentra.wire.message import Verified

BRIEF = 2.0
"""Seconds that a peer waits for those who were left out for silence lately, or a tenth of the charter's deadline."""

GRACE = 0.5
"""Seconds from a round's beginning in which those who left before it may come back, and in which a peer that begins an
old round hears that the others are in a later one."""

LONGEST_VIEW = 8
"""A view's timeout doubles with the view, up to this many times the first."""

LEAP = 64
"""Rounds that a peer goes forward at once on the word of others, whoever they are."""

MOST_VIEWS = 64
"""The largest view that a message can name. Every member proposes in one of the first n."""


class Rendezvous:
    """One peer's part in settling one round's roster.

    ``roster`` is the offer this peer follows; it may be replaced by one of a later view until the owner sets ``closed``
    (when it has endorsed a context). ``settled`` says that everyone in it is known and the common state is held.
    """

    def __init__(self, setting: Setting, mine: Contribution, round_id: RoundId, out: list[Effect]) -> None:
        self._setting, self._mine, self._round, self._out = setting, mine, round_id, out
        self.order = derive.proposer_order(setting.charter, round_id, setting.members)
        self._layout = derive.layout(mine.specs)
        self._asked = self._hurried = False
        self._left_out_by: PeerId | None = None
        self._unlike = False
        """Whether who left this peer out names another model."""
        self._viewed = 0.0
        """Seconds of views since the ready deadline."""
        self._offered: set[int] = set()
        self._absent: dict[PeerId, dict[PeerId, Verified]] = {}
        self._gone: dict[PeerId, Verified] = {
            peer: word for peer, word in mine.left.items() if counts(word, round_id)
        }
        self._graced = False
        """Whether those who left have had their time to come back."""
        self._given = Offer(mine.common, mine.state, out)
        self._fetch: Fetch | None = None
        self.ready: dict[PeerId, Verified] = {}
        self.view = 0
        self.roster: Roster | None = None
        self.opened_by: bytes = ZERO
        self.state = mine.state
        self.adopted: Mapping[PeerId, int] = {}
        self.closed = False
        self.training = mine.update is None
        """Whether this peer's own update is still to come: until then it waits for nobody's readiness against time."""
        self.later: set[PeerId] = set()
        """Who has said that its update comes after its local steps."""
        self._said: dict[PeerId, Ready] = {}
        """What each said when it was ready for this round, also if it has ended it since."""

    # ── what the owner reads ─────────────────────────────────────────────────────────────────────────────────────────

    @property
    def settled(self) -> bool:
        roster = self.roster
        return roster is not None and self.state == roster.state and not self._unheard(roster)

    @property
    def fetching(self) -> bool:
        """Whether this peer lacks the common state, and has begun to fetch it."""
        return self._fetch is not None and self.state != self._fetch.state

    @property
    def proposer(self) -> PeerId:
        """Who proposes in the roster's view."""
        return self.proposer_of(self.view if self.roster is None else self.roster.view)

    def proposer_of(self, view: int) -> PeerId:
        return self.order[view % len(self.order)]

    def wants(self, sender: PeerId, message: State, root: bytes) -> bool:
        """Whether a blob with this root is a part of the common state that this peer has asked the sender for."""
        return self._fetch is not None and self._fetch.wants(sender, message, root)

    def sealing_key(self, peer: PeerId) -> bytes:
        return self._readiness(peer).seal

    def waiting_for(self) -> tuple[PeerId, ...]:
        """Whom this part still waits for."""
        if self.roster is None:
            silent = [peer for peer in self._setting.members if peer not in self.ready and peer not in self._gone]
            return tuple(silent) or (self.proposer,)
        return self._unheard(self.roster) or (() if self._fetch is None else self._fetch.awaited)

    # ── events ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        mine, setting = self._mine, self._setting
        if self.training:
            self._out.append(Send(Later()))  # before it is ready, so that whoever counts it in knows it
        self._out.append(
            Send(Ready(mine.fingerprint, self._layout, mine.last, mine.state, setting.sealing.public))
        )
        if not self.training:
            self._out.append(SetTimer("ready", setting.ready_deadline))
        if mine.benched:
            self._out.append(SetTimer("benched", min(BRIEF, setting.ready_deadline / 10)))
        self._out.append(SetTimer("left", min(GRACE, setting.ready_deadline / 10)))

    def supplied(self) -> None:
        """This peer's own local steps are done: from now on the others have the time that they have in any round."""
        self.training = False
        if self.roster is None:
            self._out.append(SetTimer("ready", self._setting.ready_deadline))
            self._hurry()

    def received(self, event: Received) -> None:
        verified = event.verified
        match verified.message:
            case Ready() as message:
                self._on_ready(verified, message)
            case Later():
                if not self.closed:  # once others have masked it would stretch their wait for this one's slices
                    self.later.add(verified.sender)
            case Absent() as message:
                for peer in set(message.peers) & set(self._setting.members):
                    self._absent.setdefault(peer, {})[verified.sender] = verified
            case Leave() if not counts(verified, self._round):
                pass  # it leaves a later round
            case AbortRound() | Leave():
                self._gone[verified.sender] = verified
                self.ready.pop(verified.sender, None)
            case Roster() as message:
                self._on_roster(verified, message)
            case Want() as message:
                self._given.wanted(verified.sender, message)
            case State() as message:
                if self._fetch is not None:
                    self._fetch.part_came(event, message)
            case _:
                raise LocalError(f"rendezvous was handed a {verified.message.kind}")

    def went_ahead(self, verified: Verified) -> None:
        """A peer said something in a later round: it takes no part in this one any more."""
        if isinstance(verified.message, Ready):
            self._gone[verified.sender] = verified
            self.ready.pop(verified.sender, None)

    def expired(self, timer: str) -> None:
        if timer == "left":
            self._graced = True
            if self._left_out_by is not None and not self._unlike and self.roster is None:
                raise self._left_out()
            return
        if timer.startswith(SOURCE_TIMER):
            if self._fetch is not None:
                self._fetch.expired(timer)
            return
        if self.roster is not None:
            return
        if self._left_out_by is not None:
            raise self._left_out()
        if timer == "benched":
            self._say_absent(self._mine.benched)
            return
        if timer in ("ready", "late"):
            if self._asked:
                return
            self._asked = True
            self._say_absent(frozenset(self._setting.members))
        elif len(self.ready) < self._setting.floor and self._viewed >= self._setting.ready_deadline:
            self._give_up()
        else:
            self._next_view()
        after = self._setting.phase_deadline / 4 * min(2**self.view, LONGEST_VIEW)
        self._viewed += after
        self._out.append(SetTimer("view", after))

    def computed(self, value: object) -> None:
        """A job over the common state is done.

        Raises:
            RemoteError: whoever answers for it offers a state that is none.
            LocalError: the group's is none for this peer.
        """
        fetch = self._fetch
        match value:
            case Exported():
                self._given.exported(value)
            case Listed(state) | Placed(state) if fetch is not None and state == fetch.state:
                fetch.computed(value)
            case Adopted(state) if fetch is not None:
                self.state, self.adopted = state, fetch.received
            case ValueError() if fetch is not None:
                fetch.unusable(value)

    def lost_source(self, error: RemoteError) -> bool:
        """Whether who broke a clause is one of several sources of the common state, so that the others go on alone."""
        return self._fetch is not None and self._fetch.lost(error)

    def advance(self) -> None:
        """Do what the events so far allow: skip a proposer that is known to be gone, offer, ask, serve.

        Raises:
            Unavailable: so many are gone that no roster can reach the floor.
        """
        if self.closed:
            self._serve()
            return
        self._check_floor()
        while self.roster is None and self.view < len(self.order) and self._passes_over(self.proposer_of(self.view)):
            self._next_view()
        self._offer()
        self._ask()
        self._serve()

    def release(self) -> None:
        """Give up the exported state: the round is past the need for it."""
        self._given.release()

    # ── readiness and views ──────────────────────────────────────────────────────────────────────────────────────────

    def _readiness(self, peer: PeerId) -> Ready:
        message = self.ready[peer].message
        if not isinstance(message, Ready):
            raise LocalError("a readiness of another type")
        return message

    def _on_ready(self, verified: Verified, message: Ready) -> None:
        sender, known = verified.sender, self.ready.get(verified.sender)
        try:
            check_public(message.seal)
        except ValueError as error:
            raise RemoteError(sender, "SCHEMA", f"the sealing key in its readiness is unusable: {error}") from error
        if known is not None and known.body_hash != verified.body_hash:
            raise RemoteError(sender, "RV-1", "it signed two readinesses for one round; leave it out and ask its owner")
        self._gone.pop(sender, None)
        self.ready[sender] = verified
        self._said[sender] = message
        self._hurry()
        if sender != self._setting.me and not self._same_model(message):
            self._refuse_to_differ(message)

    def _hurry(self) -> None:
        """As many are ready as a round needs: the rest have as long as rounds of late let one expect."""
        patience = self._mine.patience
        if patience is None or self.training or self._hurried or self._asked or len(self.ready) < self._setting.floor:
            return
        self._hurried = True
        if patience < self._setting.ready_deadline:
            self._out.append(SetTimer("late", patience))

    def _same_model(self, message: Ready) -> bool:
        return message.fingerprint == self._mine.fingerprint and message.layout == self._layout

    def _refuse_to_differ(self, other: Ready) -> None:
        """c+1 peers that agree on another model hold at least one honest peer: then it is this peer that is wrong."""
        agree = [
            peer
            for peer in self.ready
            if (self._readiness(peer).fingerprint, self._readiness(peer).layout) == (other.fingerprint, other.layout)
        ]
        if len(agree) > self._setting.c:
            names = ", ".join(map(str, sorted(agree)))
            if not self._mine.specs and other.fingerprint == self._mine.fingerprint:
                mend = "this peer takes the common state over in the next round that it trains for"
                what = f"a common beginning in round {self._round}, for which others train already"
                raise Underway(sorted(agree), 0.0, what, mend)
            raise LocalError(
                f"your model's tensor names, shapes or dtypes are not those of {names}; "
                "compare what decentra.join prints on both sides"
            )

    def _shown_absent(self, peer: PeerId) -> bool:
        return peer in self._gone or (len(self._absent.get(peer, ())) > self._setting.c and peer not in self.ready)

    def _left_before(self, peer: PeerId) -> bool:
        """Whether a peer's word from before the round is what shows that it is gone."""
        return peer in self._gone and self._gone[peer] is self._mine.left.get(peer)

    def _passes_over(self, proposer: PeerId) -> bool:
        """Whether this peer waits for a proposer no longer."""
        return self._shown_absent(proposer) and (self._graced or not self._left_before(proposer))

    def _say_absent(self, asked: frozenset[PeerId]) -> None:
        missing = tuple(sorted(peer for peer in asked if peer not in self.ready and peer not in self._gone))
        if missing:
            self._out.append(Send(Absent(self.view, missing)))

    def _check_floor(self) -> None:
        """Who is gone from this round won't come back into it: too many of them, and there is nothing to wait for.

        Nor is there where this round lacks those who are in a later one, and with them there would be enough, or may
        yet be: whoever is still to come will find them there.
        """
        floor, ready = self._setting.floor, len(self.ready)
        ahead = {
            peer: word.entry.round
            for peer, word in self._gone.items()
            if isinstance(word.message, Ready) and word.entry.round <= self._round.number + LEAP
        }
        members = len(self._setting.members)
        short = members - len(self._gone) < floor
        hopeful = short and ahead and members - len(self._gone) + len(ahead) >= floor
        if self._graced and self.roster is None and (hopeful or ready < floor <= ready + len(ahead)):
            raise Behind.of(sorted(ahead), f"a roster of {floor} or more for round {self._round}", max(ahead.values()))
        if self._graced and short and self.roster is None:
            self._check_underway()
            what = f"a roster of {self._setting.floor} or more for round {self._round}"
            mend = "start those peers again, or let the group amend its charter"
            raise Unavailable(self._cause() or self.waiting_for(), 0.0, what, mend)

    def _check_underway(self) -> None:
        """Where this peer only looks for a common beginning, whoever ends the round was in it with a model, or before
        this peer came: they train already, and there is none to join."""
        words = ((peer, word.message, self._said.get(peer)) for peer, word in self._gone.items())
        training = [
            peer
            for peer, word, said in words
            if isinstance(word, AbortRound) and (said is None or not self._same_model(said))
        ]
        if training and not self._mine.specs:
            what = f"a common beginning in round {self._round}, which others had begun and have ended"
            raise Underway(sorted(training), 0.0, what, "this peer takes part in the next round that they begin")

    def _cause(self) -> list[PeerId]:
        """Who is gone of its own accord, and not because it waited for others in vain as this peer does."""
        words = ((peer, word.message) for peer, word in self._gone.items())
        return sorted(peer for peer, said in words if not (isinstance(said, AbortRound) and said.clause == "DEADLINE"))

    def _next_view(self) -> None:
        if self.view >= min(2 * len(self.order), MOST_VIEWS):
            self._give_up()
        self.view += 1

    def _give_up(self) -> NoReturn:
        raise Unavailable(
            self.waiting_for(),
            self._setting.ready_deadline + self._viewed,
            f"a roster of {self._setting.floor} or more for round {self._round}",
            "start those peers, or let the group amend its charter; training goes on locally",
        )

    # ── offering a roster ────────────────────────────────────────────────────────────────────────────────────────────

    def _offer(self) -> None:
        me, members = self._setting.me, self._setting.members
        if self.roster is not None or self.proposer != me or self.view in self._offered or me not in self.ready:
            return
        fit = tuple(peer for peer in members if peer in self.ready and self._same_model(self._readiness(peer)))
        left_out = [peer for peer in members if peer not in fit]
        if len(fit) < self._setting.floor or (left_out and not self._asked and not all(map(self._shown, left_out))):
            return
        if not self._graced and any(map(self._left_before, left_out)):
            return
        citations: dict[bytes, Verified] = {}  # a statement of absence names many, and is cited once
        for peer in left_out:
            if not self._shown(peer):
                return
            citations.update((cited.entry.hash, cited) for cited in self._citations(peer))
        last, state = self._common(fit)
        self._offered.add(self.view)
        self._out.append(
            Send(Roster(self.view, fit, self._mine.fingerprint, self._layout, last, state, tuple(citations.values())))
        )

    def _shown(self, peer: PeerId) -> bool:
        return peer in self.ready or self._shown_absent(peer)

    def _citations(self, peer: PeerId) -> list[Verified]:
        if peer in self._gone:
            return [self._gone[peer]]
        if peer in self.ready:
            return [self.ready[peer]]
        return [self._absent[peer][author] for author in sorted(self._absent[peer])][: self._setting.c + 1]

    def _common(self, fit: tuple[PeerId, ...]) -> tuple[bytes, bytes]:
        """The outcome and state to go on from: one's own, unless c+1 others hold a certified one together (RV-6)."""
        own = (self._mine.last, self._mine.state)
        held: dict[tuple[bytes, bytes], int] = {}
        for peer in fit:
            ready = self._readiness(peer)
            if ready.last != ZERO:
                held[ready.last, ready.state] = held.get((ready.last, ready.state), 0) + 1
        vouched = [pair for pair, count in held.items() if count > self._setting.c]
        if not vouched or own in vouched:
            return own
        return max(vouched, key=lambda pair: (held[pair], pair))

    # ── following a roster ───────────────────────────────────────────────────────────────────────────────────────────

    def _on_roster(self, verified: Verified, offer: Roster) -> None:
        if self.closed or offer.view < self.view or (self.roster is not None and offer.view <= self.roster.view):
            self._second_offer(verified, offer)
            return
        proposer, me = verified.sender, self._setting.me
        if proposer != self.proposer_of(offer.view):
            raise RemoteError(proposer, "RV-3", f"it offered a roster in view {offer.view}, which is not its own")
        if not self._check_members(proposer, offer):
            if offer.view == self.view:
                self._next_view()
            return
        if me not in offer.members:
            self._left_out_by = proposer
            self._unlike = (offer.fingerprint, offer.layout) != (self._mine.fingerprint, self._layout)
            if self._graced and not self._unlike:
                raise self._left_out()
            return  # what is on its way may tell of a later round; or, by c+1 readinesses, that this peer is wrong
        if (offer.fingerprint, offer.layout) != (self._mine.fingerprint, self._layout):
            raise RemoteError(proposer, "RV-2", "its roster names another model than this peer said it trains")
        self.view, self.roster, self.opened_by = offer.view, offer, verified.entry.hash

    def _left_out(self) -> Unavailable:
        by = () if self._left_out_by is None else (self._left_out_by,)
        mend = "it left this peer out, which it must have cited; the next round is open to this peer again"
        kind = Unavailable if self._mine.specs else Underway  # the others have begun without this peer
        return kind(by, 0.0, f"a place in round {self._round}", mend)

    def _second_offer(self, verified: Verified, offer: Roster) -> None:
        mine = self.roster
        if mine is not None and offer.view == mine.view and offer != mine and verified.sender == self.proposer:
            raise RemoteError(verified.sender, "RV-3", f"it offered two rosters in view {offer.view}")

    def _check_members(self, proposer: PeerId, offer: Roster) -> bool:
        """Hold a roster against RV-4 and RV-5; False where it leaves out a peer whose leaving it cites and which, as
        this peer knows, is back. Its proposer may not know, so it is not blamed, and the next view has another."""
        members, chosen = self._setting.members, offer.members
        if list(chosen) != sorted(set(chosen)) or not set(chosen) <= set(members):
            raise RemoteError(proposer, "RV-5", "its roster is not an ascending list of members, each once")
        if proposer not in chosen:
            raise RemoteError(proposer, "ROLE", "it offers a roster that it is not in itself")
        if len(chosen) < self._setting.floor:
            short = f"its roster has {len(chosen)} members, the floor is {self._setting.floor}"
            raise RemoteError(proposer, "RV-5", short)
        back = False
        for peer in members:
            if peer in chosen or self._is_cited(peer, offer):
                continue
            left = [one for one in offer.citations if one.sender == peer and counts(one, self._round)]
            if any(not self._is_back(one) for one in left):
                continue
            if not left:
                raise RemoteError(proposer, "RV-4", f"its roster leaves out {peer} and cites nothing that shows why")
            back = True
        return not back

    def _is_back(self, leave: Verified) -> bool:
        """Whether its author has said after it that it is ready for this round."""
        ready = self.ready.get(leave.sender)
        return ready is not None and (ready.entry.boot, ready.entry.seq) > (leave.entry.boot, leave.entry.seq)

    def _is_cited(self, peer: PeerId, offer: Roster) -> bool:
        """Whether something of this round shows why a peer is left out."""
        witnesses: set[PeerId] = set()
        for cited in offer.citations:
            message = cited.message
            if cited.entry.round_id != self._round:
                continue
            if isinstance(message, AbortRound) and cited.sender == peer:
                return True
            if isinstance(message, Ready) and cited.sender == peer:
                return (message.fingerprint, message.layout) != (offer.fingerprint, offer.layout)
            if isinstance(message, Absent) and peer in message.peers:
                witnesses.add(cited.sender)
        return len(witnesses) > self._setting.c

    def _unheard(self, roster: Roster) -> tuple[PeerId, ...]:
        return tuple(peer for peer in roster.members if peer not in self.ready)

    # ── one common state ─────────────────────────────────────────────────────────────────────────────────────────────

    def _ask(self) -> None:
        roster = self.roster
        if roster is None or self._unheard(roster) or self.state == roster.state:
            return
        if self._fetch is None or self._fetch.state != roster.state:
            fetch = self._vouched(roster)
            if self.training:  # a state that is taken over replaces parameters, on which the caller's steps are at work
                what = f"round {self._round} ahead of this peer's local steps: it does not hold the common state"
                raise Unavailable((), 0.0, what, "it takes part in a round after them, and takes the state over there")
            self._fetch = fetch
        self._fetch.ask()

    def _vouched(self, roster: Roster) -> Fetch:
        """The fetch of a state that enough members answer for (RV-6), from all that said they hold it."""
        proposer = self.proposer_of(roster.view)
        said = {peer: self._readiness(peer) for peer in roster.members}
        fresh = roster.last == ZERO and all(ready.last == ZERO for ready in said.values())
        holders = [peer for peer, ready in said.items() if ready.state == roster.state]
        vouching = sum(said[peer].last == roster.last for peer in holders)
        if not (fresh and proposer in holders) and vouching <= self._setting.c:
            raise RemoteError(proposer, "RV-6", "its roster names a common state that too few members hold")
        author = proposer if fresh else None
        return Fetch(self._mine.common, roster, holders, author, self._setting.patience, self._out)

    def _serve(self) -> None:
        if self.roster is not None and self._fetch is None:
            self._given.serve(self.roster)


def counts(word: Verified, round_id: RoundId) -> bool:
    """Whether a peer's own word shows that it is out of a round: it left, in this round or before; or it is ready for a
    later one."""
    if isinstance(word.message, Leave):
        return word.entry.round <= round_id.number
    return isinstance(word.message, Ready) and word.entry.round > round_id.number
