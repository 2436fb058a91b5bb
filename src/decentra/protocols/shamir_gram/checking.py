"""The middle of a shamir-gram round: deals are checked under the beacon, inner products are opened, and both are
certified."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import ClassVar, TypeVar

import numpy as np

from decentra.crypto.shares.field61 import ELEMENT_BYTES, PRIME, Elements, from_bytes
from decentra.crypto.shares.gram import Gram as Matrix
from decentra.errors import RemoteError, Unavailable
from decentra.machine.effects import Blame, Compute, Persist, Record, Send, SetTimer
from decentra.machine.events import Blob, Received
from decentra.protocols.beacon import BEACON, Drawn
from decentra.protocols.round import SURVIVORS
from decentra.protocols.setting import Contribution, Setting
from decentra.protocols.shamir_gram.dealing import Dealing
from decentra.protocols.shamir_gram.jobs import Combinations, Combine, Held, Multiply, Sketch, elements_bytes
from decentra.protocols.shamir_gram.messages import Certified, Check, Gram, Shown
from decentra.protocols.shamir_gram.verdicts import (
    UNDECIDED,
    Checked,
    Geometry,
    Judgement,
    Opened,
    Pair,
    Peers,
    Table,
    Values,
    derive_checked,
    derive_geometry,
    gram_hash,
)
from decentra.protocols.shamir_gram.verdicts import Shown as Verdict
from decentra.types import PeerId, RoundId
from decentra.wire.message import Message, Verified

CHECK, CHECKED, GRAM, GEOMETRY = "check", "checked", "gram", "geometry"
SKETCH, SHOWN = "sketch", "shown/"
"""Jobs: the sketches of all that was dealt; what a shown blob gives, named by whose it is."""

C = TypeVar("C", bound=Certified)


class Checking(Dealing):
    """One peer's part in a round of shamir-gram from its beacon to the certified geometry."""

    check_clause, shown_clause, gram_clause, geometry_clause = "SG-5", "SG-6", "SG-7", "SG-8"
    hopes: ClassVar[str] = "the next round begins afresh, and the update is spent"

    def __init__(self, setting: Setting, mine: Contribution, round_id: RoundId) -> None:
        super().__init__(setting, mine, round_id)
        self.checked: Checked | None = None
        self.geometry: Geometry | None = None
        self._matrix: Matrix | None = None
        self._sketches: Blob | None = None
        self._values: dict[PeerId, Values | None] = {}
        """What each holder's check tells, None where it is none."""
        self._verdicts: dict[Pair, Verdict] = {}
        """What shown blobs give."""
        self._showing: set[Pair] = set()
        """Of which pairs a blob is being looked at, or was."""
        self._at_hand: dict[Pair, Blob] = {}
        """The blobs that others showed."""
        self._passed_on: set[Pair] = set()
        self._defended: set[PeerId] = set()
        self._judgement: tuple[tuple[object, object], Judgement] | None = None
        """The checks and shown blobs that were judged last, and what they come to."""
        self._words: dict[PeerId, Elements | None] = {}
        self._multiplying = False
        self._opened: tuple[frozenset[tuple[PeerId, bytes]], Opened | None] = (frozenset(), None)
        """The words that were opened last, and what they gave: not whose they were, as a liar may tell two."""
        self._gave: dict[bytes, Opened] = {}
        """What words gave, by the hash of the matrix that is left."""

    # ── common steps ─────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def judges(self) -> Table:
        return Table(self.terms, self.roster, self.members, self.owners, self.setting.rule)

    @property
    def patient(self) -> tuple[str, ...]:
        return (*super().patient, BEACON, CHECK, CHECKED, GRAM, GEOMETRY)

    def went_on(self, timer: str) -> bool:
        if timer in (CHECK, CHECKED, GRAM):
            self.waited.add(timer)
            return True
        return super().went_on(timer)

    def entered(self, phase: str) -> None:
        if phase == CHECK:
            self._begin_check()
        elif phase == CHECKED:
            self.out.append(SetTimer(CHECKED, 2 * self.setting.patience))
        elif phase == GRAM:
            self.out.append(SetTimer(GRAM, 2 * self.setting.patience))
            self._multiply()
        else:
            super().entered(phase)

    def own_step(self) -> bool:
        match self.phase:
            case "check":
                return self._step_check()
            case "checked":
                return self._step_checked()
            case "gram":
                return self._step_gram()
            case "geometry":
                return self._step_geometry()
        return super().own_step()

    def waiting_for(self) -> tuple[PeerId, ...]:
        if self.phase in (CHECK, GRAM):
            came = self.got(f"{self.protocol}.{self.phase}")
            return tuple(peer for peer in self._counted() if peer not in came)
        return super().waiting_for()

    def _counted(self) -> Peers:
        """Whose words of this phase are waited for."""
        return self.owners if self.checked is None else self.checked.holders

    def _all_told(self, told: Sequence[PeerId] | set[PeerId]) -> bool:
        return all(peer in told or peer in self.gone for peer in self._counted())

    def keep(self, event: Received) -> None:
        message, sender = event.verified.message, event.verified.sender
        if isinstance(message, Shown) and not {message.dealer, message.receiver} <= {*self.setting.members}:
            self.refuse(sender, self.shown_clause, "it shows what was dealt by or to somebody who is no member")
            return
        super().keep(event)

    def slot(self, message: Message) -> str:
        """A peer shows what a dealer dealt a receiver once."""
        if isinstance(message, Shown):
            return f"{Shown.kind}/{message.dealer.hex()}/{message.receiver.hex()}"
        return super().slot(message)

    def under(self, verified: Verified, kind: type[C], digest: bytes, clause: str) -> C | None:
        """A message under this round's certificate; None, and its author named, where it is under another."""
        message = verified.message
        if not isinstance(message, kind) or (message.context, message.certificate) != (self.context, digest):
            self.refuse(verified.sender, clause, f"its {message.kind} is none of what is certified here")
            return None
        return message

    def _vote_on(
        self,
        topic: str,
        derive: Callable[[], tuple[bytes, tuple[Verified, ...]] | None],
        check: Callable[[bytes, tuple[Verified, ...]], bool],
    ) -> bytes | None:
        """Vote on what is derived; the value, once it is certified."""
        vote = self.certify.get(topic) or self.open_vote(topic, check)
        if vote.offers:
            given = derive()
            vote.offer(*(given or (None,)))
        if not vote.advance():
            return None
        if vote.value == UNDECIDED:
            what = f"words of round {self.round} that tell who lies"
            raise Unavailable(sorted(self.gone), 0.0, what, f"it is certified as undecided: {self.hopes}")
        return vote.value

    # ── checks ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def drawn(self, value: Drawn) -> None:
        """The beacon is out."""
        if self.beacon is not None:
            self.beacon.drawn(value)
            self.go("the beacon")

    @property
    def drawn_beacon(self) -> bytes:
        return b"" if self.beacon is None else self.beacon.value

    def _mine(self, dealers: Peers) -> tuple[Held, ...] | None:
        """What these dealt this peer, where it holds all of it."""
        if not set(dealers) <= set(self.blobs):
            return None
        return tuple(self.held(peer, self.setting.me, self.blobs[peer]) for peer in dealers)

    def _begin_check(self) -> None:
        mine = self._mine(self.members)
        self.out.append(SetTimer(CHECK, 2 * self.setting.patience))
        if mine is not None and self.setting.me in self.owners:
            self.out.append(Compute(CHECK, Combine(self.terms, mine, self.drawn_beacon)))
            self.out.append(Compute(SKETCH, Sketch(self.terms, mine, self.drawn_beacon)))

    def tell_check(self, value: Combinations) -> None:
        """Tell what this peer's shares give: after this, nothing more of them is told under this beacon."""
        certified = self.certify[SURVIVORS]
        self.out.append(Persist(Record("reveal", CHECK, self.context + certified.digest)))
        message = Check(
            self.context, certified.digest, elements_bytes(value.degrees), elements_bytes(value.zeros)
        )
        self.out.append(Send(message, after=certified.opened_by))

    def _read_checks(self) -> None:
        for holder, received in self.got(Check.kind).items():
            if holder in self._values:
                continue
            message = self.under(received.verified, Check, self.survives_with(), self.check_clause)
            self._values[holder] = None
            if message is None:
                continue
            values = tuple(read_elements(field, len(self.members)) for field in (message.degrees, message.zeros))
            if holder not in self.owners or values[0] is None or values[1] is None:
                self.refuse(holder, self.check_clause, "its check is no element for each survivor, of a holder")
            else:
                self._values[holder] = values[0], values[1]

    def _told(self) -> dict[PeerId, Values]:
        return {peer: values for peer in self.owners if (values := self._values.get(peer)) is not None}

    def _step_check(self) -> bool:
        self._read_checks()
        self._read_shown()
        if not self._all_told(set(self._values)) and CHECK not in self.waited and not self.proposed_early(CHECKED):
            return False
        self.go("checks told")
        return True

    # ── suspects ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def wants(self, verified: Verified, root: bytes) -> bool:
        message = verified.message
        if isinstance(message, Shown):
            pair = message.dealer, message.receiver
            return pair not in self._showing and self._shows(message) and root == message.root
        return super().wants(verified, root)

    def _shows(self, message: Shown) -> bool:
        """Whether a blob of this root is what the dealer signed for that receiver."""
        deal = self.deal_of(message.dealer)
        if deal is None or message.receiver not in self.roster or len(deal.roots) != self.n:
            return False
        return deal.roots[self.roster.index(message.receiver)] == message.root

    def _read_shown(self) -> None:
        """Look at the blobs that came in defence."""
        slots = [slot for slot in self.box if slot.startswith(f"{Shown.kind}/")] if self.drawn_beacon else []
        for slot in slots:
            for sender, received in list(self.got(slot).items()):
                message = received.verified.message
                if isinstance(message, Shown) and received.blob is not None:
                    self._look_at_shown(sender, message, received.blob)

    def _look_at_shown(self, sender: PeerId, message: Shown, blob: Blob) -> None:
        pair = message.dealer, message.receiver
        if pair in self._showing or not self._shows(message) or message.root != blob.root:
            return
        self._showing.add(pair)
        self._at_hand[pair] = blob
        held = self.held(*pair, blob)
        name = f"{SHOWN}{message.dealer.hex()}/{message.receiver.hex()}"
        self.out.append(Compute(name, Combine(self.terms, (held,), self.drawn_beacon)))
        others = [peer for peer in self.roster if peer != message.receiver]
        if sender == message.receiver and self.setting.me in others[: self.setting.c + 1]:
            self._show(*pair, blob)  # one of c + 1 is honest, so it comes to all what came to one of them

    def _pass_on(self) -> None:
        """A suspect may show its blob to others than those who pass it on at once. When its time is over everybody
        does, or honest peers would vote for two values for good; who has it by then takes nothing in."""
        for pair, blob in self._at_hand.items() if CHECKED in self.waited else ():
            if pair not in self._passed_on:
                self._show(*pair, blob)

    def _show(self, dealer: PeerId, receiver: PeerId, blob: Blob) -> None:
        self._passed_on.add((dealer, receiver))
        passed = (self.setting.me, receiver)
        blobs = {peer: blob for peer in self.roster if peer not in passed and peer not in self.gone}
        message = Shown(self.context, self.survives_with(), dealer, receiver, blob.root)
        self.out.append(Send(message, blobs=blobs, after=self.certify[SURVIVORS].opened_by))

    def shown(self, name: str, value: Combinations | None) -> None:
        """What a shown blob gives."""
        dealer, receiver = (PeerId(bytes.fromhex(part)) for part in name.removeprefix(SHOWN).split("/"))
        self._verdicts[dealer, receiver] = None if value is None else (value.degrees[0], value.zeros[0])

    def _defend(self, judged: Judgement) -> None:
        """Show what was dealt to this peer where its word fits no others'."""
        me = self.setting.me
        for dealer, holder in judged.unshown:
            if holder == me and dealer not in self._defended and dealer in self.blobs:
                self._defended.add(dealer)
                blob = self.blobs[dealer]
                self._show(dealer, me, blob)
                self._showing.add((dealer, me))
                name = f"{SHOWN}{dealer.hex()}/{me.hex()}"
                held = self.held(dealer, me, blob)
                self.out.append(Compute(name, Combine(self.terms, (held,), self.drawn_beacon)))

    # ── what checks come to ──────────────────────────────────────────────────────────────────────────────────────────

    def _judged(self, told: dict[PeerId, Values]) -> Judgement:
        """What these checks come to, with what was shown so far; remembered, as every vote asks for it."""
        key = frozenset(told.items()), frozenset(self._verdicts.items())
        if self._judgement is None or self._judgement[0] != key:
            self._judgement = key, derive_checked(self.judges, told, self._verdicts)
        return self._judgement[1]

    def _step_checked(self) -> bool:
        self._read_checks()
        self._read_shown()
        self._pass_on()
        self._defend(self._judged(self._told()))
        value = self._vote_on(CHECKED, self._derive_checked, self._check_checked)
        if value is None:
            return False
        self.checked = Checked.unpack(value)
        self._name(self.checked.proved, self.shown_clause, "what it dealt or told is none of what others hold")
        self._name_silent(self.checked)
        self.go("certificate(checked)")
        return True

    def _name_silent(self, checked: Checked) -> None:
        """Of a suspect that is not counted and its dealer one lied, and its blob may be on its way still. Who is
        suspect for more dealers than may lie is so for an honest one, and told what is not so."""
        pairs = self._judged(self._told()).unshown
        apart = [pair for pair in pairs if pair[1] not in (*checked.holders, *checked.proved)]
        times = Counter(holder for _, holder in apart)
        liars = sorted(holder for holder, count in times.items() if count > self.setting.c)
        self._name(liars, self.shown_clause, "its check fits no others' word for more dealers than may lie")
        for dealer, holder in apart:
            if holder not in liars:
                said = f"either {dealer} dealt {holder} what fits no others' shares, or {holder} told what is not so"
                self.out.append(Blame(RemoteError(None, self.shown_clause, f"{said}; compare their transcripts")))

    def _settles(self, judged: Judgement) -> bool:
        """Whether nothing more is to be shown, or it had its time."""
        return CHECKED in self.waited or all(holder in self.gone for _, holder in judged.unshown)

    def _derive_checked(self) -> tuple[bytes, tuple[Verified, ...]] | None:
        told = self._told()
        judged = self._judged(told)
        if not self._settles(judged):
            return None
        shown = tuple(self.got(Check.kind)[peer].verified for peer in told)
        if judged.value is not None:
            return judged.value.pack(), shown
        return (UNDECIDED, shown) if CHECKED in self.waited or self._all_told(set(self._values)) else None

    def _check_checked(self, value: bytes, shown: tuple[Verified, ...]) -> bool:
        """SG-6: the checks that are shown give this value, with what was shown here of who is suspect."""
        self._read_checks()
        proposer = self.certify[CHECKED].proposer()
        told: dict[PeerId, Values] = {}
        for verified in shown:
            values = self._shown_values(verified)
            if values is None or verified.sender not in self.owners:
                raise RemoteError(proposer, self.shown_clause, "it shows something else than checks of this round")
            told.setdefault(verified.sender, values)
        judged = self._judged(told)
        self._defend(judged)
        if not self._settles(judged):
            return False
        if value == UNDECIDED:
            own = self._derive_checked()
            return own is not None and own[0] == UNDECIDED
        return judged.value is not None and judged.value.pack() == value

    def _shown_values(self, verified: Verified) -> Values | None:
        message = verified.message
        if not isinstance(message, Check) or verified.entry.round != self.round.number:
            return None
        if (message.context, message.certificate) != (self.context, self.survives_with()):
            return None
        degrees, zeros = (read_elements(field, len(self.members)) for field in (message.degrees, message.zeros))
        return None if degrees is None or zeros is None else (degrees, zeros)

    def _name(self, proved: Sequence[PeerId], clause: str, said: str) -> None:
        for peer in proved:
            if peer != self.setting.me:
                self.refuse(peer, clause, said)

    # ── inner products ───────────────────────────────────────────────────────────────────────────────────────────────

    def _multiply(self) -> None:
        """Under what checks came to, and once: this peer's word of the products (SG-7)."""
        checked, me = self.checked, self.setting.me
        if checked is None or me not in checked.holders or self._sketches is None or self._multiplying:
            return
        zeros = self._mine(checked.zeros)
        if zeros is None:
            return
        self._multiplying = True
        places = tuple(self.members.index(peer) for peer in checked.dealers)
        positions = tuple(self.roster.index(peer) for peer in checked.dealers)
        self.out.append(Compute(GRAM, Multiply(self.terms, self._sketches, places, positions, zeros)))

    def sketched(self, sketches: Blob) -> None:
        """This peer's sketches are made."""
        self._sketches = sketches
        self._multiply()

    def tell_gram(self, word: bytes) -> None:
        """Tell this peer's word, durable before it is sent: the sharings of zero hide one matrix only."""
        certified = self.certify[CHECKED]
        self.out.append(Persist(Record("reveal", GRAM, self.context + certified.digest)))
        self.out.append(Send(Gram(self.context, certified.digest, word), after=certified.opened_by))

    def _word(self, verified: Verified) -> Elements | None:
        message = verified.message
        if self.checked is None or not isinstance(message, Gram) or verified.entry.round != self.round.number:
            return None
        if (message.context, message.certificate) != (self.context, self.certify[CHECKED].digest):
            return None
        count = len(self.checked.dealers)
        try:
            return from_bytes(message.word, count * (count + 1) // 2, "a word")
        except ValueError:
            return None

    def _read_words(self) -> dict[PeerId, Elements]:
        """The words that came of holders that are counted."""
        holders = () if self.checked is None else self.checked.holders
        for holder, received in self.got(Gram.kind).items():
            if holder not in self._words:
                self._words[holder] = self._word(received.verified) if holder in holders else None
                if self._words[holder] is None:
                    self.refuse(holder, self.gram_clause, "its word is none of the products that are certified")
        return {peer: word for peer in holders if (word := self._words.get(peer)) is not None}

    def _step_gram(self) -> bool:
        self._read_words()
        if not self._all_told(set(self._words)) and GRAM not in self.waited and not self.proposed_early(GEOMETRY):
            return False
        self.go("matrices told")
        return True

    def _open(self, words: dict[PeerId, Elements]) -> Opened | None:
        if self.checked is None:
            return None
        said = frozenset((peer, word.tobytes()) for peer, word in words.items())
        if self._opened[0] != said:
            opened = derive_geometry(self.judges, self.checked, words)
            self._opened = said, opened
            if opened is not None:
                self._gave[opened.value.gram] = opened
        return self._opened[1]

    def _step_geometry(self) -> bool:
        self._read_words()
        value = self._vote_on(GEOMETRY, self._derive_geometry, self._check_geometry)
        if value is None:
            return False
        self.geometry = Geometry.unpack(value)
        proved = [peer for peer in self.geometry.proved if self.checked and peer not in self.checked.proved]
        said = "what it dealt can be no short vector, or its share of the products is false"
        self._name(proved, self.geometry_clause, said)
        self.go("certificate(geometry)")
        return True

    def _derive_geometry(self) -> tuple[bytes, tuple[Verified, ...]] | None:
        words = self._read_words()
        shown = tuple(self.got(Gram.kind)[peer].verified for peer in words)
        opened = self._open(words)
        if opened is not None:
            return opened.value.pack(), shown
        return (UNDECIDED, shown) if GRAM in self.waited or self._all_told(set(self._words)) else None

    def _check_geometry(self, value: bytes, shown: tuple[Verified, ...]) -> bool:
        """SG-8: the words that are shown give this value."""
        proposer, words = self.certify[GEOMETRY].proposer(), dict[PeerId, Elements]()
        if value == UNDECIDED:
            own = self._derive_geometry()
            return own is not None and own[0] == UNDECIDED
        for verified in shown:
            word = self._word(verified)
            if word is None or verified.sender not in self._counted():
                raise RemoteError(proposer, self.geometry_clause, "it shows something else than words of this round")
            words.setdefault(verified.sender, word)
        opened = self._open(words)
        if opened is None or opened.value.pack() != value:
            raise RemoteError(proposer, self.geometry_clause, "it proposes another geometry than the words give")
        return True

    @property
    def matrix(self) -> Matrix | None:
        """The certified inner products, where this peer has opened them: of the words that came to it, or, if a liar
        told it another, of those that a proposal showed."""
        if self._matrix is None and self.geometry is not None and self.checked is not None:
            opened = self._gave.get(self.geometry.gram) or self._open(self._read_words())
            if opened is not None and set(self.geometry.dealers) <= set(self.checked.dealers):
                found = opened.among(self.checked.dealers, self.geometry.dealers)
                self._matrix = found if gram_hash(found) == self.geometry.gram else None
        return self._matrix


def read_elements(data: bytes, count: int) -> tuple[int, ...] | None:
    """As many elements as there are to be; None where it is no such list."""
    if len(data) != count * ELEMENT_BYTES:
        return None
    values = tuple(map(int, np.frombuffer(data, "<u8")))
    return values if all(value < PRIME for value in values) else None
