"""Planted bugs: the real machines with one thing wrong each, as a subclass that a simulation plays instead.

``tests/mutants.py`` says of each which clause it breaks, what finds it, and in which schedule.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar
from unittest.mock import patch

from decentra import derive
from decentra.errors import RemoteError
from decentra.machine.effects import Abort, Compute, Effect, Persist, Record, Send, SetTimer, Tools
from decentra.machine.events import Computed, Event, Received, Start
from decentra.protocols import reduce
from decentra.protocols.agreed import Agreed
from decentra.protocols.ballots import Ballots
from decentra.protocols.certify.machine import Certify
from decentra.protocols.jobs import Assembled
from decentra.protocols.mesh.machine import Mesh
from decentra.protocols.mesh.messages import Holding, Relay
from decentra.protocols.rendezvous.messages import AbortRound, Leave, State
from decentra.protocols.secagg import deal, machine
from decentra.protocols.secagg.challenge import Challenge, read_verdict
from decentra.protocols.secagg.deal import DealSecrets, Dealt
from decentra.protocols.secagg.machine import SecAgg
from decentra.protocols.secagg.messages import Beacon, Unmask
from decentra.protocols.setting import Contribution, Setting
from decentra.protocols.survivors import Survivors, derive_survivors, read_holding
from decentra.simulation.ports import MemoryJournal
from decentra.types import PeerId, RoundId
from decentra.wire.codec import pack
from decentra.wire.message import Verified

# ── how a bug is planted ─────────────────────────────────────────────────────────────────────────────────────────────


class Twisted(SecAgg):
    """The real machine; a subclass changes its effects on their way out."""

    @abstractmethod
    def twist(self, effects: list[Effect]) -> list[Effect]:
        """What it does in place of what it meant to do."""

    def handle(self, event: Event) -> list[Effect]:
        return self.twist(super().handle(event))

    def faulted(self, error: RemoteError) -> list[Effect]:
        return self.twist(super().faulted(error))


def unsaved(*kinds: str) -> type[SecAgg]:
    """A machine that writes none of these one-time acts down."""

    class Unsaved(Twisted):
        def twist(self, effects: list[Effect]) -> list[Effect]:
            return [one for one in effects if not (isinstance(one, Persist) and one.record.kind in kinds)]

    return Unsaved


class SavedLate(Twisted):
    """Sends each vote and reveal first, and writes it down afterwards."""

    def twist(self, effects: list[Effect]) -> list[Effect]:
        out: list[Effect] = []
        late: list[Effect] = []
        for effect in effects:
            if isinstance(effect, Persist) and effect.record.kind in ("prepare", "commit", "reveal"):
                late.append(effect)
                continue
            out.append(effect)
            if isinstance(effect, Send):
                out += late
                late = []
        return out + late


# ── deals and contexts ───────────────────────────────────────────────────────────────────────────────────────────────


class LowThreshold(SecAgg):
    """Shares every secret among t − 1."""

    @property
    def _table(self) -> deal.Table:
        return replace(super()._table, quorum=self.quorum - 1)


@dataclass(frozen=True)
class SealToMaskKey(DealSecrets):
    """Seals every share to the dealer's mask key."""

    def run(self, tools: Tools) -> Dealt:
        first = super().run(tools)
        wrong = (first.message.mask_public,) * len(self.sealing_keys)
        return DealSecrets(self.table, self.me, wrong).run(tools)


class SealsToMaskKey(SecAgg):
    """Seals shares to a key that lives for a round, not to the epoch's."""

    def entered(self, phase: str) -> None:
        with patch.object(machine, "DealSecrets", SealToMaskKey):
            super().entered(phase)


class MasksEarly(SecAgg):
    """Masks as soon as t have endorsed the context."""

    def endorsed_by_all(self) -> bool:
        mine = self.setting.me in self.got(self.endorse_type.kind)
        return mine and len(self.got(self.endorse_type.kind)) >= self.quorum


class AnyEndorsement(SecAgg):
    """Counts endorsements of whatever context."""

    def endorsed_by_all(self) -> bool:
        return not self.missing(self.endorse_type.kind)


class UnboundContext(SecAgg):
    """Leaves the view and the roster out of the context."""

    def derive_context(self, deals: tuple[bytes, ...]) -> bytes:
        whole = derive.context

        def loose(**given: Any) -> bytes:
            return whole(**{**given, "view": 0, "roster": ()})

        with patch.object(derive, "context", loose):
            return super().derive_context(deals)


class TakesLowOrder(SecAgg):
    """Does not look at mask keys before it endorses them."""

    def own_step(self) -> bool:
        before = len(self.out)
        stepped = super().own_step()
        for index, effect in enumerate(self.out[before:], before):
            if isinstance(effect, Compute) and isinstance(effect.job, deal.OpenDeals):
                self.out[index] = Compute(effect.name, OpenUnchecked(**vars(effect.job)))
        return stepped


class OpenUnchecked(deal.OpenDeals):
    """Opens deals without a look at their mask keys."""

    def run(self, tools: Tools) -> Any:
        with patch.object(deal, "check_public", lambda public: None):
            return super().run(tools)


class TakesAnyShare(SecAgg):
    """Takes what a peer shows for the shares that were dealt to it."""

    def _sound_shares(self, *shown: Any) -> bool:
        return True


# ── updates and slices ───────────────────────────────────────────────────────────────────────────────────────────────


class FoldsBack(Twisted):
    """Takes an update back that has left, whatever the round came to."""

    def twist(self, effects: list[Effect]) -> list[Effect]:
        return [replace(one, spent=False) if isinstance(one, Abort) else one for one in effects]


class FoldsBackUncertified(Twisted):
    """Takes an update back when a round ends before this peer has seen its survivors certified."""

    def twist(self, effects: list[Effect]) -> list[Effect]:
        early = self.survivors is None
        return [replace(one, spent=False) if isinstance(one, Abort) and early else one for one in effects]


class RepeatsOtherBytes(SecAgg):
    """Repeats another slice than the one that passes to the taker."""

    def take_over(self, silent: bool) -> None:
        whole = self.own_slices
        self.own_slices = (*whole[1:], *whole[:1])
        try:
            super().take_over(silent)
        finally:
            self.own_slices = whole


class TakesAnySlice(SecAgg):
    """Does not hold what came against the digest that its sender signed."""

    def sound_blob(self, *given: Any) -> bool:
        return True


class TakesAnyPart(SecAgg):
    """Does not hold a part of the common state against the list that hashes to it."""

    def wants(self, verified: Verified, root: bytes) -> bool:
        message = verified.message
        if not isinstance(message, State):
            return super().wants(verified, root)
        fetch = self.rendezvous._fetch
        return fetch is not None and message.part in fetch._open.get(verified.sender, ()) and root == message.root


class SumsWhatIsThere(SecAgg):
    """Sums the parts of a slice that came, as if these were all."""

    def owned(self) -> Iterator[tuple[int, tuple[Any, ...]]]:
        sent, kind = self.got(self.slices_type.kind), self.again_type.kind
        for position, owner in enumerate(self.owners):
            if owner == self.setting.me:
                parts = self.parts(position, kind, sent)
                here = [parts.get(peer) for peer in self.members]
                yield position, tuple(blob for blob in here if blob is not None and blob.size)


class HoldsByHearsay(SumsWhatIsThere):
    """Names in its holding whom others say that they hold, too."""

    def _hold(self, position: int, held: dict[PeerId, bytes]) -> None:
        for slot in [slot for slot in self.box if slot.startswith(self._holding_kind)]:
            for received in self.got(slot).values():
                held = {**dict(getattr(received.verified.message, "held", ())), **held}
        super()._hold(position, held)


class HoldsAgain(SecAgg):
    """Signs its holding anew when a late slice comes."""

    def step(self) -> bool:
        if self.phase == "survivors" and self.position in self._held:
            kind = self.slices_type.kind
            whole = {peer: one for peer, one in self.got(kind).items() if self._sound_slice(peer, one)}
            held = self.got(f"{self._holding_kind}/{self.position}").get(self.setting.me)
            named = len(whole) if held is None else len(getattr(held.verified.message, "held", ()))
            if len(whole) > named and len(whole) not in self._again:
                self._again.add(len(whole))
                self._hold(self.position, {peer: one.verified.body_hash for peer, one in whole.items()})
        return super().step()

    def keep(self, event: Received) -> None:
        if event.verified.sender == self.setting.me and event.verified.message.kind == self._holding_kind:
            self.box.get(self.slot(event.verified.message), {}).pop(self.setting.me, None)
        super().keep(event)

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._again: set[int] = set()


class FloorTooLow(SecAgg):
    """Sums over c + 1 survivors."""

    def _with_floor(self, act: Callable[..., Any], *given: Any) -> Any:
        with patch.object(reduce, "derive_survivors", partial_survivors(self.setting.c + 1)):
            return act(*given)

    def _offer_survivors(self, vote: Certify) -> None:
        self._with_floor(super()._offer_survivors, vote)

    def _check_survivors(self, value: bytes, shown: tuple[Verified, ...]) -> bool:
        return bool(self._with_floor(super()._check_survivors, value, shown))


def partial_survivors(floor: int) -> Callable[..., Survivors | None]:
    """The real rule, but for a floor of its own on who survives."""

    def given(roster: Any, quorum: int, shown: Any, kind: str, context: bytes) -> Survivors | None:
        owners = {one.sender for one in shown}
        return derive_survivors(roster, floor, shown, kind, context) if len(owners) >= quorum else None

    return given


class FirstComeOwner(SumsWhatIsThere):
    """Makes whoever shows a holding of a slice first its owner; how many hold their own does not matter."""

    def _offer_survivors(self, vote: Certify) -> None:
        with patch.object(reduce, "derive_survivors", first_come):
            super()._offer_survivors(vote)

    def _check_survivors(self, value: bytes, shown: tuple[Verified, ...]) -> bool:
        with patch.object(reduce, "derive_survivors", first_come):
            return super()._check_survivors(value, shown)

    def shown_holdings(self) -> list[Verified]:
        return [one for position in range(self.n) for one in list(self.holdings(position).values())[:1]]


def first_come(roster: Any, quorum: int, shown: Any, kind: str, context: bytes) -> Survivors | None:
    """Survivors of the first holding of every slice."""
    first: dict[int, Verified] = {}
    for one in shown:
        read = read_holding(one, kind, context, len(roster))
        if read is not None:
            first.setdefault(read[0], one)
    if len(first) < len(roster):
        return None
    chosen = [first[position] for position in range(len(roster))]
    lists = [dict(getattr(one.message, "held", ())) for one in chosen]
    members = tuple(peer for peer in roster if all(held.get(peer, b"") == lists[0].get(peer) for held in lists))
    if len(members) < quorum:
        return None
    return Survivors(members, tuple(one.sender for one in chosen), tuple(one.body_hash for one in chosen))


# ── whole updates ────────────────────────────────────────────────────────────────────────────────────────────────────


class TakesAnyUpdate(Mesh):
    """Takes whatever came from an author, or in its name, for its certified update."""

    def take_survivors(self, value: bytes) -> None:
        self.survivors = Agreed.unpack(value)

    def _find_rows(self) -> None:
        for author in self.certified:
            known = [self.got("mesh.update").get(author), *self.got(self._relays_of(author)).values()]
            for blob in (received.blob for received in known if received is not None):
                self.rows.setdefault(author, blob) if blob is not None else None
        super()._find_rows()


class RelaysWhatItHas(Mesh):
    """Relays as soon as it sees who lacks what, without a certificate."""

    def step(self) -> bool:
        sent = self.got("mesh.update")
        if self.phase == "survivors":
            for peer, held in self._held.items():
                for author in [one for one in sent if one not in held and one not in (peer, self.setting.me)]:
                    blob = sent[author].blob
                    if peer != self.setting.me and blob is not None and (author, peer) not in self._relayed:
                        self._relayed.add((author, peer))
                        message = Relay(self.context, author, sent[author].verified)
                        self.out.append(Send(message, to=peer, blobs={peer: blob}, after=self.rendezvous.opened_by))
        return super().step()


class EchoesHearsay(Mesh):
    """Names in its holding whom others say that they hold, too."""

    def _step_updates(self) -> bool:
        before = len(self.out)
        stepped = super()._step_updates()
        for index, effect in enumerate(self.out[before:], before):
            if isinstance(effect, Send) and isinstance(effect.message, Holding):
                held = dict(effect.message.held)
                for received in self.got("mesh.holding").values():
                    held = {**dict(getattr(received.verified.message, "held", ())), **held}
                self.out[index] = replace(effect, message=replace(effect.message, held=tuple(sorted(held.items()))))
        return stepped


class OneResultSuffices(Mesh):
    """Takes any peer's result for the outcome."""

    def _check_outcome(self, value: bytes, shown: tuple[Verified, ...]) -> bool:
        return value != reduce.LOST or super()._check_outcome(value, shown)


# ── unmasking, outcome, verdict ──────────────────────────────────────────────────────────────────────────────────────


class ShowsMore(SecAgg):
    """Shows more shares than it should, and needs of others' no more than the real machine."""

    @abstractmethod
    def more(self, shown: Unmask) -> Unmask:
        """What it shows in place of what it should."""

    def _show_shares(self) -> None:
        super()._show_shares()
        for index, effect in enumerate(self.out):
            if isinstance(effect, Send) and isinstance(effect.message, Unmask):
                self.out[index] = replace(effect, message=self.more(effect.message))

    def dealt(self, kind: str) -> tuple[tuple[PeerId, bytes], ...]:
        return tuple((peer, getattr((self._shares or {})[peer], f"{kind}_share")) for peer in self.roster)

    def keep(self, event: Received) -> None:
        message = event.verified.message
        if isinstance(message, Unmask) and self.survivors is not None:
            selves = tuple(pair for pair in message.self_shares if pair[0] in self.members)
            keys = tuple(pair for pair in message.key_shares if pair[0] in self._dropped)
            needed = replace(message, self_shares=selves, key_shares=keys)
            event = replace(event, verified=replace(event.verified, message=needed))
        super().keep(event)


class BothShares(ShowsMore):
    """Shows both kinds of share of everybody."""

    def more(self, shown: Unmask) -> Unmask:
        return replace(shown, key_shares=self.dealt("key"))


class UnmasksTheDropped(ShowsMore):
    """Shows the self seed's share of everybody, survivor or not, and no share of a mask key twice."""

    def more(self, shown: Unmask) -> Unmask:
        return replace(shown, self_shares=self.dealt("self"))


class BelievesTheOutcome(SecAgg):
    """Votes for the outcome that is proposed, and takes what it put together itself for what is certified."""

    def _check_outcome(self, value: bytes, shown: tuple[Verified, ...]) -> bool:
        return True

    def _step_outcome(self) -> bool:
        vote = self.certify.get("outcome")
        if vote is not None and vote.certificate and self._assembled is not None:
            self._digest = vote.value
        return super()._step_outcome()


class LosesTooSoon(SecAgg):
    """Votes for ``lost`` whenever somebody proposes it."""

    def _check_outcome(self, value: bytes, shown: tuple[Verified, ...]) -> bool:
        return value == reduce.LOST or super()._check_outcome(value, shown)


class AnyWeight(SecAgg):
    """Does not hold the total weight against what the survivors can weigh."""

    def check_weight(self, sums: Assembled) -> None:
        pass


class EarlyBeacon(SecAgg):
    """Shows its shares of the beacon as soon as it knows the outcome itself."""

    _shown_early = False

    def assembled(self, value: object) -> None:
        super().assembled(value)
        digest = self._digest
        if digest and not self._shown_early and self._shares is not None:
            self._shown_early = True
            shares = tuple((peer, self._shares[peer].beacon_share) for peer in self.members)
            self.out.append(Persist(Record("reveal", "beacon", self.context + digest)))
            self.out.append(Send(Beacon(self.context, digest, shares)))

    def _show_beacon(self) -> None:
        if not self._shown_early:
            super()._show_beacon()


class YesChallenge(Challenge):
    """Finds every sum that it recomputes to be what its owner published."""

    def computed(self, position: int, total: Any) -> None:
        _, published = self._host.published(position)
        super().computed(position, replace(total, root=published))


class VerifiesNothing(SecAgg):
    """As a verifier says that all is well."""

    def _open_challenge(self, drawn: deal.Drawn) -> None:
        with patch.object(machine, "Challenge", YesChallenge):
            super()._open_challenge(drawn)


class TrustingChallenge(Challenge):
    """Believes who says that a sum is wrong, and has it repaired without a sum of its own."""

    def verdict(self) -> bytes | None:
        said = {
            position: getattr(verified.message, "root", b"")
            for position in self.slices
            for _, verified in self._accusers(position)
        }
        return pack(tuple(sorted(said.items()))) if said else super().verdict()

    def check(self, proposer: PeerId, value: bytes) -> bool:
        if value == b"stands":
            return super().check(proposer, value)
        return bool(read_verdict(value))


class RepairsOnHearsay(SecAgg):
    """Votes for a repair because a verifier asks for it."""

    def _open_challenge(self, drawn: deal.Drawn) -> None:
        with patch.object(machine, "Challenge", TrustingChallenge):
            super()._open_challenge(drawn)


# ── conduct ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class SeesNoEquivocation(SecAgg):
    """Takes the first of two messages, and says nothing of the second."""

    def keep(self, event: Received) -> None:
        if self.got(self.slot(event.verified.message)).get(event.verified.sender) is None:
            super().keep(event)


class NamesByHearsay(SecAgg):
    """Names whom another names."""

    def ended(self, sender: PeerId, message: AbortRound | Leave) -> None:
        if isinstance(message, AbortRound):
            for peer in message.blamed:
                raise RemoteError(peer, message.clause, message.reason)
        super().ended(sender, message)


class NeverGivesUp(SecAgg):
    """Waits on when a phase's time is over, and for good."""

    def went_on(self, timer: str) -> bool:
        return timer == "phase" or super().went_on(timer)


# ── after a crash ────────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def forgotten_rounds() -> Iterator[None]:
    """A peer that starts again begins with the round that it crashed in."""
    with patch.object(MemoryJournal, "last_round", 0):
        yield


@dataclass
class Snapshots:
    """What each peer took in of each round, kept over its crash: the next process goes on where the last one stopped,
    with the same secrets and another update."""

    taken: dict[tuple[PeerId, RoundId], list[Event]] = field(default_factory=dict)
    settings: dict[PeerId, Setting] = field(default_factory=dict)

    def __call__(self, setting: Setting, mine: Contribution, number: RoundId) -> SecAgg:
        setting = self.settings.setdefault(setting.me, setting)
        return Resumes(self.taken, setting, mine, number)


class Resumes(SecAgg):
    """Goes on after a crash where it stopped, and masks what it is given now: a mask is used twice."""

    LAST: ClassVar[str] = "masks"

    def __init__(self, taken: dict[tuple[PeerId, RoundId], list[Event]], *given: Any) -> None:
        super().__init__(*given)
        self._taken = taken.setdefault((self.setting.me, self.round), [])

    def handle(self, event: Event) -> list[Effect]:
        if not (isinstance(event, Start) and self._taken):
            self._taken.append(event)
            return super().handle(event)
        ends = [index for index, one in enumerate(self._taken) if isinstance(one, Computed) and one.name == self.LAST]
        effects: list[Effect] = []
        again = self._taken[: ends[0] + 1] if ends else self._taken
        for earlier in again:
            effects = super().handle(earlier)
        self._taken[:] = again
        return [SetTimer("phase", self.setting.phase_deadline), *effects]



def fixed(kind: type[Ballots]) -> Callable[[], Callable[..., Ballots]]:
    """A machine's class is what makes it, in every schedule."""
    return lambda: kind


