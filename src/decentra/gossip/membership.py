"""Who of the group is up: SWIM's probes and gossip, Lifeguard's care for slow peers, and c+1 signatures to exclude.

Sources: Das, Gupta and Motivala 2002, "SWIM: Scalable weakly-consistent infection-style process group membership
protocol"; Dadgar, Phillips and Currey 2018, "Lifeguard: local health awareness for more accurate failure detection".
What differs is for the sake of members that lie: statements are signed, suspicions count by their authors and only from
c+1 on (MB-5), an answer through others carries its author's signature (MB-7), and whoever hears of a suspicion sees for
itself. The machine is pure: time, randomness, signatures come from outside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from itertools import islice
from math import ceil, log

from decentra.errors import LocalError, RemoteError
from decentra.gossip import sync
from decentra.gossip.allowance import Allowance
from decentra.gossip.backlog import Backlog
from decentra.gossip.draws import Draws
from decentra.gossip.happenings import Changed, Doing, Happening, Heard, Leave, Say, Setting, Standing
from decentra.gossip.limits import (
    CALM,
    COST_BURST,
    COST_RATE,
    LATE,
    MOST_BOOTS,
    MOST_CARRIED,
    MOST_REFUTATIONS,
    MOST_RELAYED,
    MOST_SYNCED,
    NACK_SHARE,
    PATIENCE,
    PERIOD,
    PROXIES,
    SPREAD,
    SYNC_BUSY,
    SYNC_DOUBT,
    SYNC_EVERY,
    SYNC_PATIENCE,
    SYNC_PAUSE,
)
from decentra.gossip.messages import Ack, Datagram, Nack, Ping, PingReq, Sync
from decentra.gossip.probe import Health, Order, Probe
from decentra.gossip.statements import Statement, Word, incarnation, proof_bytes, signed_bytes
from decentra.gossip.view import AWAY, Member, Status, confirmations, suspicion_time
from decentra.machine.effects import Abort, SetTimer
from decentra.machine.events import Expired, Start
from decentra.types import PeerId


@lru_cache(maxsize=8)
def _places(members: tuple[PeerId, ...]) -> Mapping[PeerId, int]:
    """Every member's place; machines of one process share it."""
    return {peer: place for place, peer in enumerate(members)}


class Membership:
    """The machine: `handle` takes what happens and says what to do.

    Args:
        setting: who this peer is, and its group.
        seed: 32 random bytes; what is probed when, and the numbers of probes, follow from them.
        words: what members are known to have said of themselves, already verified.

    Raises:
        LocalError: the boot is out of range, this peer is no member, or the seed is no seed.
    """

    def __init__(self, setting: Setting, seed: bytes, words: Mapping[PeerId, Statement] | None = None) -> None:
        if not 1 <= setting.boot <= MOST_BOOTS:
            raise LocalError(f"boot {setting.boot} is out of 1..{MOST_BOOTS}; start from a sound journal")
        if setting.me not in setting.members:
            raise LocalError(f"peer {setting.me} is not in the group; compare charters")
        self._setting, self._draws = setting, Draws(seed)
        self._n = len(setting.members)
        self._places = _places(setting.members)
        self._words = [None if words is None else words.get(peer) for peer in setting.members]
        self._heads = [sync.head(word) for word in self._words]
        self._members: dict[PeerId, Member] = {}
        self._doubted: dict[PeerId, Member] = {}
        self._enough = setting.c + 1 + confirmations(self._n, setting.c)
        self._backlog = Backlog(ceil(SPREAD * log(self._n + 1)))
        self._others = [peer for peer in setting.members if peer != setting.me]
        self._order = Order(self._others, self._draws)
        self._health = Health()
        self._allowance = Allowance(COST_RATE, COST_BURST)
        self._probe: Probe | None = None
        self._relayed: dict[tuple[PeerId, PeerId, int], bool] = {}
        self._due: dict[str, float] = {}
        self._wanted: dict[PeerId, None] = {}
        self._met: dict[PeerId, float] = {}
        self._opened: set[PeerId] = set()
        self._synced = 0.0
        self._refuted = -CALM
        self._accusers: set[PeerId] = set()
        self._lacks: dict[PeerId, dict[PeerId, None]] = {}
        self._told: dict[PeerId, float] = {}
        self._now = 0.0
        self._gone = False
        self._out: list[Doing] = []
        self._incarnation = incarnation(setting.boot, 0)

    # ── what others ask ──────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def away(self) -> frozenset[PeerId]:
        """Whom a round need not wait for: excluded, or gone by their own word. Who was never heard is still awaited."""
        members = self._members.items()
        return frozenset(peer for peer, member in members if member.word is not None and member.status in AWAY)

    @property
    def health(self) -> int:
        """Lifeguard's local health multiplier, 0 for a healthy peer to 8."""
        return self._health.score

    @property
    def held(self) -> int:
        """Statements and open probes that this machine keeps: at most 2n² + 2n, whatever anyone sends."""
        suspicions = sum(member.held for member in self._members.values())
        return suspicions + self._n + len(self._backlog) + len(self._relayed)

    def snapshot(self) -> tuple[Standing, ...]:
        """How every member stands, in the members' order; this peer is up to itself."""
        return tuple(map(self.standing, self._setting.members))

    def standing(self, peer: PeerId) -> Standing:
        """How one member stands."""
        member = self._seen(peer)
        by = self._accusers if peer == self._setting.me else member.suspicions
        return Standing(peer, member.status, member.incarnation, member.since, tuple(sorted(by)))

    # ── what happens ─────────────────────────────────────────────────────────────────────────────────────────────────

    def handle(self, happening: Happening, now: float) -> list[Doing]:
        """Take one happening, at a time in seconds that never goes back; what to do, in order.

        Raises:
            RemoteError: a datagram breaks a clause; what the machine knows is as it was before.
        """
        self._out = []
        if self._gone:
            return self._out
        self._now = now
        match happening:
            case Heard(sender, message):
                self._heard(sender, message)
            case Expired(timer):
                self._expired(timer)
            case Start():
                self._start()
            case Leave():
                self._leave()
        return self._out

    def _start(self) -> None:
        self._speak(Word.ALIVE)
        self._synced = self._now - SYNC_EVERY * self._draws.part()
        self._timer("period", PERIOD * self._draws.part())

    def _leave(self) -> None:
        self._speak(Word.LEFT)
        farewell = self._seen(self._setting.me).word
        for peer in self._pick(self._n):
            if farewell is not None:
                self._out.append(Say(peer, Ping(self._draws.number(), self._setting.me, (farewell.pack(),))))
        self._gone = True

    def _expired(self, timer: str) -> None:
        due = self._due.pop(timer, None)
        if due is None:
            return
        late = self._now - due > LATE
        what, _, rest = timer.partition(" ")
        match what:
            case "period":
                self._period(late)
            case "answer":
                self._ask_others()
            case "refute":
                self._refute()
            case "relay":
                self._give_up(rest)
            case "suspicion":
                self._lapse(PeerId(bytes.fromhex(rest)), late)

    # ── probing ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _period(self, late: bool) -> None:
        """SWIM's protocol period: judge the last probe, and begin the next one."""
        if self._probe is not None:
            self._conclude(self._probe, late)
        self._compare()
        subject = self._order.next(lambda peer: self._seen(peer).status != "left", self._doubtful)
        self._probe = None
        if subject is not None:
            self._probe = Probe(subject, self._ping(subject))
            self._timer("answer", self._health.stretched(PATIENCE))
        self._timer("period", self._health.stretched(PERIOD))

    def _ping(self, to: PeerId) -> int:
        number = self._draws.number()
        self._say(to, partial(Ping, number, self._setting.me))
        return number

    def _conclude(self, probe: Probe, late: bool) -> None:
        """Lifeguard: a failed probe is also this peer's own bad sign, unless proxies said that they failed as well; and
        who was starved knows nothing, since answers may lie unread."""
        member = self._seen(probe.subject)
        if probe.answered:
            self._health.note(-1)
        elif late:
            self._health.note(+1)
        elif member.status not in AWAY:
            if member.status == "up":  # else others, too, got no answer
                self._health.note(len(probe.proxies) - len(probe.nacks) if probe.proxies else 1)
            if self._doubtful(probe.subject):
                self._suspect(probe.subject, member.incarnation)

    def _doubtful(self, peer: PeerId) -> bool:
        """Whether this peer's own suspicion of a member would tell anything."""
        member = self._seen(peer)
        if member.status in AWAY:
            return False
        return len(member.suspicions) < self._enough and self._setting.me not in member.suspicions

    def _suspect(self, peer: PeerId, current: int) -> None:
        signature = self._setting.sign(signed_bytes(self._setting.session, Word.SUSPECT, current, peer))
        self._heed(Statement(Word.SUSPECT, current, peer, self._setting.me, signature))

    def _ask_others(self) -> None:
        """SWIM's indirect probe; not of who is excluded already, whom a probe only shows the way back."""
        probe = self._probe
        if probe is None or probe.answered or self._seen(probe.subject).status in AWAY:
            return
        proxies = self._pick(PROXIES, probe.subject)
        probe.proxies = frozenset(proxies)
        for proxy in proxies:
            self._say(proxy, partial(PingReq, probe.number, probe.subject))

    def _pick(self, count: int, but: PeerId | None = None) -> list[PeerId]:
        """Random members that can be asked for something, fewer where there are fewer."""
        found = (
            peer
            for peer in self._draws.shuffled(self._others)
            if peer != but and self._seen(peer).status in ("up", "suspected")
        )
        return list(islice(found, count))

    # ── being asked ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _heard(self, sender: PeerId, message: Datagram) -> None:
        """Check everything first: what breaks a clause changes nothing."""
        if sender not in self._places or sender == self._setting.me:
            raise RemoteError(sender, "MB-9", "a datagram comes from who is no other member of this group")
        self._check(sender, message)
        news = self._read(sender, message.statements)
        before = self._seen(sender).status
        for statement in news:
            if statement.subject != self._setting.me:
                self._heed(statement)
            elif statement.word is Word.SUSPECT:
                self._accusers.add(statement.author)
                self._lacks.setdefault(sender, {})[self._setting.me] = None
                self._refute()
            else:
                self._doubled()
                return
        if before in ("unknown", *AWAY) and self._now - self._met.get(sender, -SYNC_PATIENCE) >= SYNC_PATIENCE:
            self._wanted[sender] = None  # it may know of others as little as this peer knew of it
        match message:
            case Ping():
                self._pinged(sender, message)
            case PingReq():
                self._relay(sender, message)
            case Ack():
                self._acked(sender, message)
            case Nack():
                if self._probe is not None and message.number == self._probe.number and sender in self._probe.proxies:
                    self._probe.nacks.add(sender)
            case Sync():
                self._answer(sender, message)
        due = self._now - self._told.get(sender, -CALM) >= CALM
        if due and self._setting.me in self._lacks.get(sender, ()) and not self._accusers:
            self._told[sender] = self._now
            self._ping(sender)  # who suspects this peer need not wait for its answer, nor ask for it without end

    def _check(self, sender: PeerId, message: Datagram) -> None:
        """What the message itself must be (MB-7, MB-9)."""
        me = self._setting.me
        match message:
            case Ping():
                if message.asker not in self._places or message.asker == me:
                    raise RemoteError(sender, "MB-9", "a probe is for who is no other member of this group")
            case PingReq() | Nack():
                if message.subject not in self._places or message.subject in (me, sender):
                    raise RemoteError(sender, "MB-9", "a probe through others is of who is no third member")
            case Ack():
                self._check_ack(sender, message)
            case Sync():
                sync.check(message, sender, self._places)

    def _check_ack(self, sender: PeerId, message: Ack) -> None:
        if message.asker not in self._places or message.subject not in self._places:
            raise RemoteError(sender, "MB-9", "an acknowledgement speaks of who is no member")
        direct = message.asker == self._setting.me and message.subject == sender
        if direct or not self._awaited(sender, message):
            return
        proved = proof_bytes(self._setting.session, message.asker, message.subject, message.number)
        if not self._setting.check(message.subject, message.proof, proved):
            raise RemoteError(sender, "MB-7", f"an acknowledgement lacks {message.subject}'s signature for the asker")

    def _awaited(self, sender: PeerId, message: Ack) -> bool:
        """Whether an acknowledgement through others answers anything that is open here."""
        if message.asker == self._setting.me:
            probe = self._probe
            return probe is not None and (probe.subject, probe.number) == (message.subject, message.number)
        return sender == message.subject and (message.asker, message.subject, message.number) in self._relayed

    def _pinged(self, sender: PeerId, message: Ping) -> None:
        me, proof = self._setting.me, b""
        if message.asker != sender:
            if not self._allowance.spend(sender, self._now):
                return
            proof = self._setting.sign(proof_bytes(self._setting.session, message.asker, me, message.number))
        self._say(sender, partial(Ack, message.number, message.asker, me, proof))

    def _relay(self, sender: PeerId, message: PingReq) -> None:
        key = (sender, message.subject, message.number)
        if key in self._relayed or sum(asker == sender for asker, _, _ in self._relayed) >= MOST_RELAYED:
            return
        self._relayed[key] = False
        self._say(message.subject, partial(Ping, message.number, sender))
        self._timer(f"relay {sender.hex()} {message.subject.hex()} {message.number}", PATIENCE * NACK_SHARE)

    def _give_up(self, rest: str) -> None:
        """The time of a relayed probe is over: where there was no answer, the asker hears that this peer is up."""
        asker, subject, number = rest.split(" ")
        key = (PeerId(bytes.fromhex(asker)), PeerId(bytes.fromhex(subject)), int(number))
        if not self._relayed.pop(key):
            self._say(key[0], partial(Nack, key[2], key[1]))

    def _acked(self, sender: PeerId, message: Ack) -> None:
        me, probe = self._setting.me, self._probe
        if message.asker != me:
            key = (message.asker, message.subject, message.number)
            if sender == message.subject and self._relayed.get(key) is False:
                self._relayed[key] = True
                made = partial(Ack, message.number, message.asker, message.subject, message.proof)
                self._say(message.asker, made)
        elif probe is not None and (probe.subject, probe.number) == (message.subject, message.number):
            probe.answered = True

    # ── statements ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _read(self, sender: PeerId, raws: tuple[bytes, ...]) -> list[Statement]:
        """The statements that are news, checked; who hands on what its author did not sign is to blame (MB-1)."""
        news = []
        for raw in raws:
            try:
                one = Statement.read(raw)
            except ValueError as error:
                raise RemoteError(sender, "MB-2", str(error)) from error
            if one.subject not in self._places or one.author not in self._places:
                raise RemoteError(sender, "MB-1", "a statement is by or of who is no member")
            if not self._is_news(one):
                self._correct(sender, one)
                continue
            if not self._allowance.spend(sender, self._now):
                continue
            signed = signed_bytes(self._setting.session, one.word, one.incarnation, one.subject)
            if not self._setting.check(one.author, one.signature, signed):
                raise RemoteError(sender, "MB-1", f"no valid signature of {one.author} is on a statement")
            news.append(one)
        return news

    def _correct(self, sender: PeerId, old: Statement) -> None:
        """Who hands on what a later word has voided lacks that word, and is told with the next datagram: a refutation
        that was lost would otherwise stay lost until views are compared."""
        lacks = self._lacks.setdefault(sender, {})
        if old.incarnation < self._seen(old.subject).incarnation and len(lacks) < MOST_CARRIED:
            lacks[old.subject] = None

    def _is_news(self, one: Statement) -> bool:
        """Whether a statement changes what is known; of this peer itself, whether it speaks of what it is now."""
        if one.subject == self._setting.me and one.word is Word.SUSPECT:
            return one.incarnation == self._incarnation and one.author not in self._accusers
        return self._seen(one.subject).news(one)

    def _doubled(self) -> None:
        """This peer's key has said what this peer has not (MB-4): nobody but itself can put that right."""
        told = "another process signs with this peer's key; end one, or restore the journal that counts its boots"
        self._gone = True
        self._out.append(Abort(LocalError(told), spent=False))

    def _heed(self, one: Statement) -> None:
        """Take a verified statement in, hand it on where others may lack it, and see what follows."""
        member = self._seen(one.subject)
        before, known, last = member.status, member.suspicions, member.incarnation
        if not member.heed(one):
            return
        held = member.suspicions
        fresh = [one] if one.author in held else []
        if one.word is not Word.SUSPECT:
            place = self._places[one.subject]
            self._words[place], self._heads[place] = one, sync.head(one)
            if one.incarnation > last:
                for void in known.values():
                    self._backlog.drop(void)
                known, fresh = {}, list(held.values())
            self._backlog.put(one)
        for new in fresh[: max(0, self._enough - len(known))]:
            self._backlog.put(new)
        self._weigh(one.subject, member)
        self._note(one.subject, member, before)

    def _weigh(self, subject: PeerId, member: Member) -> None:
        """What suspicions call for: that this peer sees for itself, and that their time runs."""
        held = member.suspicions
        if len(held) <= self._setting.c:
            member.enough = None  # also where a liar's later word took its suspicion back
        if not held:
            self._doubted.pop(subject, None)
            return
        self._doubted[subject] = member
        if member.confirmed < member.incarnation and self._doubtful(subject):
            member.confirmed = member.incarnation
            self._order.confirm(subject)
        if len(held) > self._setting.c and member.status not in AWAY:
            if member.enough is None:
                member.enough = self._now
            self._timer(f"suspicion {subject.hex()}", max(0.0, self._ends(member) - self._now))

    def _ends(self, member: Member) -> float:
        """When the time of a suspicion by c+1 or more is over."""
        begun = self._now if member.enough is None else member.enough
        return begun + suspicion_time(self._n, self._setting.c, len(member.suspicions) - self._setting.c - 1)

    def _lapse(self, peer: PeerId, late: bool) -> None:
        """The time of a suspicion is over (MB-5), unless this peer slept through it: a refutation may lie unread."""
        member = self._seen(peer)
        if member.enough is None or member.status in AWAY:
            return  # refuted, or taken back
        left = self._ends(member) - self._now
        if late or left > 0:
            self._timer(f"suspicion {peer.hex()}", max(PERIOD, left) if late else left)
            return
        before = member.status
        member.lapsed = True
        self._note(peer, member, before)

    def _note(self, peer: PeerId, member: Member, before: Status) -> None:
        status = member.status
        if status != before:
            member.since = self._now
            self._out.append(Changed(peer, status))

    def _refute(self) -> None:
        """Say a higher incarnation where this one is suspected (MB-6), but not too often. It is a bad sign of oneself
        (Lifeguard) where not only liars can have said so."""
        if not self._accusers:
            return
        wait = self._refuted + CALM - self._now
        if wait > 0:
            if "refute" not in self._due:
                self._timer("refute", wait)
            return
        self._refuted = self._now
        self._health.note(len(self._accusers) > self._setting.c)
        self._accusers.clear()
        self._incarnation = min(self._incarnation + 1, incarnation(self._setting.boot, MOST_REFUTATIONS))
        self._speak(Word.ALIVE)

    def _speak(self, word: Word) -> None:
        """This peer's word on itself."""
        me, current = self._setting.me, self._incarnation
        signature = self._setting.sign(signed_bytes(self._setting.session, word, current, me))
        self._heed(Statement(word, current, me, me, signature))

    # ── comparing views ──────────────────────────────────────────────────────────────────────────────────────────────

    def _compare(self) -> None:
        """Open a comparison: with who came back, with anyone when there is too much to tell, or now and then."""
        since = self._now - self._synced
        peer: PeerId | None = None
        if self._wanted and since >= PERIOD:
            peer = next(iter(self._wanted))
            del self._wanted[peer]
        elif since >= self._patience():
            up = (peer for peer in self._draws.shuffled(self._others) if self._seen(peer).status == "up")
            peer = next(up, None)
        if peer is None:
            return
        self._synced = self._met[peer] = self._now
        self._opened.add(peer)
        self._out.append(Say(peer, self._view(0, ())))

    def _patience(self) -> float:
        """How long this peer goes without comparing views."""
        if len(self._backlog) > SYNC_BUSY:
            return SYNC_PAUSE
        doubts = any(member.status == "suspected" for member in self._doubted.values())
        return SYNC_DOUBT if doubts else SYNC_EVERY

    def _view(self, step: int, statements: tuple[bytes, ...]) -> Sync:
        return Sync(step, tuple(self._heads), sync.suspected(self._doubted, self._places), statements)

    def _answer(self, sender: PeerId, message: Sync) -> None:
        if message.step == 2 or not self._allowance.spend(sender, self._now, MOST_CARRIED):
            return
        if message.step == 1:
            if sender not in self._opened:
                return
            self._opened.remove(sender)
        members, words = self._setting.members, self._words
        told = sync.lacking(message, members, self._heads, words, self._doubted, self._enough)
        if message.step == 0:
            self._out.append(Say(sender, self._view(1, told)))
        elif told:
            self._out.append(Say(sender, Sync(2, (), (), told)))
        if message.step == 1 and MOST_SYNCED in (len(told), len(message.statements)):
            self._wanted[sender] = None

    # ── little things ────────────────────────────────────────────────────────────────────────────────────────────────

    def _seen(self, peer: PeerId) -> Member:
        """What is known of a member."""
        member = self._members.get(peer)
        if member is None:
            member = self._members[peer] = Member(self._words[self._places[peer]])
        return member

    def _timer(self, name: str, after: float) -> None:
        self._due[name] = self._now + after
        self._out.append(SetTimer(name, after))

    def _say(self, to: PeerId, make: Callable[[tuple[bytes, ...]], Datagram]) -> None:
        """Send a datagram with statements on it. Who is under suspicion is told that first (Lifeguard's buddy system);
        who is not known to be up is told what brings it back, and that does not count as told."""
        member = self._seen(to)
        first = [*islice(member.suspicions.values(), 1)]
        lacks = self._lacks.pop(to, {})
        if member.status not in ("up", "suspected"):
            lacks = {self._setting.me: None, **lacks}
        words = (self._seen(subject).word for subject in lacks)
        told = [one.pack() for one in (*first, *words) if one is not None][:MOST_CARRIED]
        if member.status in ("up", "suspected"):
            told += [raw for raw in self._backlog.take(MOST_CARRIED - len(told)) if raw not in told]
        self._out.append(Say(to, make(tuple(told))))
