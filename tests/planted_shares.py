"""Planted bugs of shamir-gram: the real machine with one thing wrong each, and which schedules look for it.

As in ``mutants.py`` a schedule is played with the planted machine at every peer, where the clause must be violated, and
with the real one, where nothing may be.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np

import planted
from decentra.crypto.shares import checks
from decentra.crypto.shares.combine import open_slice
from decentra.machine.effects import Compute, Effect, Persist, Release, Send
from decentra.machine.events import Event, Received
from decentra.protocols import round
from decentra.protocols.agreed import Agreed, Named, counted
from decentra.protocols.ballots import LOST
from decentra.protocols.beacon import Drawn
from decentra.protocols.certify.machine import Certify, Check
from decentra.protocols.shamir_gram import checking, dealing, jobs, verdicts
from decentra.protocols.shamir_gram.checking import GEOMETRY, GRAM
from decentra.protocols.shamir_gram.jobs import Combinations, Dealt, Held, Multiply, Open, Recovered, Summed, Weigh
from decentra.protocols.shamir_gram.machine import ShamirGram
from decentra.protocols.shamir_gram.messages import Gram, Holding
from decentra.protocols.shamir_gram.verdicts import Judgement, Opened, Pair, Values
from decentra.simulation.stage import Play
from decentra.types import PeerId
from decentra.wire.message import Verified
from mutants import Mutant
from planted_votes import TakesAWord

FOUR, FIVE = Play("shamir-gram", n=4, c=1, size=8), Play("shamir-gram", n=5, c=1, size=8)

# ── deals ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def unsaved(topic: str) -> type[ShamirGram]:
    """A machine that does not write one of its one-time acts down."""

    class Unsaved(ShamirGram):
        def handle(self, event: Event) -> list[Effect]:
            effects = super().handle(event)
            return [one for one in effects if not (isinstance(one, Persist) and one.record.topic == topic)]

    return Unsaved


class DealsEarly(ShamirGram):
    """Deals as soon as a quorum has endorsed the context."""

    def endorsed_by_all(self) -> bool:
        endorsed = self.got(self.endorse_type.kind)
        return self.setting.me in endorsed and len(endorsed) >= self.quorum


class UnboundContext(ShamirGram):
    """Endorses a context that binds something else beside its roster."""

    def derive_context(self, deals: tuple[bytes, ...]) -> bytes:
        return super().derive_context((bytes(32),))


class MixesReceiversUp(ShamirGram):
    """Sends each receiver but itself the blob of the next."""

    def handle(self, event: Event) -> list[Effect]:
        return [self._mixed(one) if isinstance(one, Send) else one for one in super().handle(event)]

    def _mixed(self, effect: Send) -> Send:
        if effect.message.kind != "shamir-gram.deal":
            return effect
        peers = sorted(effect.blobs)
        others = [*peers[1:], peers[0]]
        return replace(effect, blobs={peer: effect.blobs[one] for peer, one in zip(peers, others, strict=True)})


class SharesLow(ShamirGram):
    """Deals a share of its update that is the same to all, as of degree 0."""

    def dealt(self, value: Dealt) -> None:
        last = value.blobs[-1]
        super().dealt(replace(value, blobs=(*value.blobs[:-2], last, last)))


class TakesAnyNumbers(ShamirGram):
    """Does not look at what numbers it is dealt."""

    def handle(self, event: Event) -> list[Effect]:
        return [self._blind(one) if isinstance(one, Compute) else one for one in super().handle(event)]

    @staticmethod
    def _blind(effect: Compute) -> Compute:
        if not effect.name.startswith("taken/"):
            return effect
        job: Any = effect.job
        held = AnyNumbers(job.held.dealer, job.held.holder, job.held.blob)
        return replace(effect, job=replace(job, held=held))


class AnyNumbers(Held):
    def is_sound(self, terms: Any, tools: Any) -> bool:
        return self.blob.size == terms.blob_bytes(self.dealer, self.holder)


class TakesAnyBytes(ShamirGram):
    """Does not hold what it is dealt against the root that its dealer signed."""

    def wants(self, verified: Verified, root: bytes) -> bool:
        return True

    def sound_blob(self, *given: Any) -> bool:
        return given[2] is not None


class SeesNoEquivocation(ShamirGram):
    """Takes the first of two messages, and says nothing of the second."""

    def keep(self, event: Received) -> None:
        if self.got(self.slot(event.verified.message)).get(event.verified.sender) is None:
            super().keep(event)


# ── holdings and the beacon ──────────────────────────────────────────────────────────────────────────────────────────


class Holds(ShamirGram):
    """Says something else of what it holds."""

    def more(self, held: dict[PeerId, bytes]) -> dict[PeerId, bytes]:
        return held

    def own_step(self) -> bool:
        before = len(self.out)
        stepped = super().own_step()
        for index, effect in enumerate(self.out[before:], before):
            if isinstance(effect, Send) and isinstance(effect.message, Holding):
                held = self.more(dict(effect.message.held))
                self.out[index] = replace(effect, message=replace(effect.message, held=tuple(sorted(held.items()))))
        return stepped


class HoldsByHearsay(Holds):
    """Names in its holding what others' holdings name."""

    def more(self, held: dict[PeerId, bytes]) -> dict[PeerId, bytes]:
        for received in self.got(Holding.kind).values():
            held = {**dict(getattr(received.verified.message, "held", ())), **held}
        return held


class LeavesOneOut(Holds):
    """Names all but one of those whose deal it has."""

    def more(self, held: dict[PeerId, bytes]) -> dict[PeerId, bytes]:
        return {peer: held[peer] for peer in sorted(held)[:-1]} | {self.setting.me: held[self.setting.me]}


def lacking_held(roster: Any, c: int, fewest: tuple[int, int], held: Mapping[PeerId, Named]) -> Agreed | None:
    """All that are named often enough, whatever their holders lack."""
    named = counted(held.values(), c)
    hashes = {peer: named[peer][0] for peer in roster if len(named.get(peer, ())) == 1}
    holders = tuple(peer for peer in roster if peer in held)
    return Agreed(tuple(hashes), holders, tuple(hashes.values())) if len(hashes) >= fewest[0] else None


class KeepsWhoLacks(ShamirGram):
    """Counts as holders those who lack a deal."""

    def derived(self, shown: Sequence[Verified]) -> tuple[bytes, tuple[Verified, ...]] | None:
        with patch.object(dealing, "derive_held", lacking_held):
            return super().derived(shown)


def on_a_word(topic: str) -> type[ShamirGram]:
    """A machine that takes a proposer's word for a certificate."""

    class OnAWord(ShamirGram):
        def open_vote(self, of: str, check: Check) -> Certify:
            with patch.object(round, "Certify", TakesAWord if of == topic else Certify):
                return super().open_vote(of, check)

    return OnAWord


class KnownBeacon(ShamirGram):
    """Goes by a beacon that anybody could have known."""

    def drawn(self, value: Drawn) -> None:
        super().drawn(replace(value, parts=tuple(bytes(32) for _ in value.parts)))


# ── checks and what is shown ─────────────────────────────────────────────────────────────────────────────────────────


def bare_values(rows: Any, length: int, beacon: bytes) -> tuple[int, ...]:
    """Combinations without the blinds."""
    return checks.combinations([checks.without_blind(row) for row in rows], length - 1, beacon, checks.DEGREE_LABEL)


class TellsUnblinded(ShamirGram):
    """Leaves the blind out of what it tells."""

    def handle(self, event: Event) -> list[Effect]:
        return [replace(one, job=Bare(one.job)) if isinstance(one, Compute) and one.name == "check" else one
                for one in super().handle(event)]  # fmt: skip


class Bare:
    """A job of checks, without blinds."""

    def __init__(self, job: Any) -> None:
        self._job = job

    def run(self, tools: Any) -> Combinations | None:
        with patch.object(jobs, "degree_values", bare_values):
            found: Combinations | None = self._job.run(tools)
        return found


class DefendsEverything(ShamirGram):
    """Where its word of one dealer fits no others', it shows what all dealers dealt it."""

    def _defend(self, judged: Judgement) -> None:
        me = self.setting.me
        if any(holder == me for _, holder in judged.unshown):
            judged = replace(judged, unshown=tuple((dealer, me) for dealer in self.members))
        super()._defend(judged)


class ShowsTheDenied(ShamirGram):
    """Shows everybody what it dealt who denies it, as if that settled who lies."""

    def dealt(self, value: Dealt) -> None:
        super().dealt(value)
        self.mine_dealt = value.blobs
        self.out[:] = [one for one in self.out if not isinstance(one, Release)]

    def take_survivors(self, value: bytes) -> None:
        super().take_survivors(value)
        for holder, held in self._held.items():
            if self.setting.me not in held and self.setting.me in self.members:
                self._show(self.setting.me, holder, self.mine_dealt[self.roster.index(holder)])


def guilty(table: Any, told: Mapping[PeerId, Values], shown: Mapping[Pair, Any]) -> Judgement:
    """Who shows nothing is proved to lie."""
    judged = verdicts.derive_checked(table, told, shown)
    silent = {holder for _, holder in judged.unshown}
    if judged.value is None or not silent:
        return judged
    return replace(judged, value=replace(judged.value, proved=tuple(sorted({*judged.value.proved, *silent}))))


class SilenceIsGuilt(ShamirGram):
    """Takes who shows nothing for proved to lie."""

    def _judged(self, told: dict[PeerId, Values]) -> Judgement:
        with patch.object(checking, "derive_checked", guilty):
            return super()._judged(told)


def corrected(table: Any, told: Mapping[PeerId, Values], shown: Mapping[Pair, Any]) -> Judgement:
    """What decodes, stands."""
    judged = verdicts.derive_checked(table, told, {})
    if judged.value is None:
        return judged
    return Judgement(replace(judged.value, holders=tuple(peer for peer in table.holders if peer in told)), ())


class CorrectsAndGoesOn(ShamirGram):
    """Takes a deal for good whose values can be corrected."""

    def _judged(self, told: dict[PeerId, Values]) -> Judgement:
        with patch.object(checking, "derive_checked", corrected):
            return super()._judged(told)


class PassesNothingOn(ShamirGram):
    """Passes nothing on of what was shown to it when the time for that is over."""

    def _pass_on(self) -> None:
        pass


class TakesAnyChecked(ShamirGram):
    """Votes for whatever is said to come of the checks."""

    def _check_checked(self, value: bytes, shown: tuple[Verified, ...]) -> bool:
        return True


# ── words ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class OneZero(ShamirGram):
    """Hides its word by its own sharing of zero alone, and others' of as many as may lie."""

    def handle(self, event: Event) -> list[Effect]:
        return [replace(one, job=self._bared(one.job)) if isinstance(one, Compute) and one.name == GRAM else one
                for one in super().handle(event)]  # fmt: skip

    def _bared(self, job: Any) -> Multiply:
        fewer: Multiply = replace(job, zeros=job.zeros[: self.setting.c + 1])
        return fewer


class TwoWords(ShamirGram):
    """Tells a word under all sharings of zero, and another under all but one."""

    def tell_gram(self, word: bytes) -> None:
        first = GRAM not in self.waited
        super().tell_gram(word)
        if first:
            certified = self.certify["checked"]
            other = (np.frombuffer(word, np.uint64) ^ np.uint64(1)).tobytes()
            self.out.append(Send(Gram(self.context, certified.digest, other), after=certified.opened_by))


class TrustsAll(ShamirGram):
    """Weighs as if nobody lied."""

    def _open(self, words: Any) -> Opened | None:
        weigh = verdicts.shared.weigh
        with patch.object(verdicts.shared, "weigh", lambda rows, rule, f, c: weigh(rows, rule, 0, c)):
            return super()._open(words)


class TakesLongVectors(ShamirGram):
    """Does not look at what products say of a vector."""

    def _open(self, words: Any) -> Opened | None:
        with patch.object(verdicts, "implausible", lambda *given: ()):
            return super()._open(words)


class TakesAnyGeometry(ShamirGram):
    """Votes for whatever geometry is proposed."""

    def _check_geometry(self, value: bytes, shown: tuple[Verified, ...]) -> bool:
        return True


class KnowsWordsByTheirAuthors(ShamirGram):
    """Takes what words gave for what other words of the same holders give."""

    def _open(self, words: Any) -> Opened | None:
        known = self.__dict__.setdefault("known", {})
        if frozenset(words) not in known:
            known[frozenset(words)] = super()._open(words)
        opened: Opened | None = known[frozenset(words)]
        return opened


# ── the sum ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class WeighsAlike(ShamirGram):
    """Sends its share of the plain sum."""

    def handle(self, event: Event) -> list[Effect]:
        return [replace(one, job=self._alike(one.job)) if isinstance(one, Compute) and isinstance(one.job, Weigh)
                else one for one in super().handle(event)]  # fmt: skip

    @staticmethod
    def _alike(job: Weigh) -> Weigh:
        return replace(job, weights=(1,) * len(job.weights))


def first_parts(words: Any, length: int, coordinates: int, sharing: Any, liars: int | None = None) -> Any:
    """The slice that just enough of the parts give."""
    few = {x: words[x] for x in sorted(words)[: sharing.degree + 1]}
    return open_slice(few, length, coordinates, sharing, 0)


class OpensByTheFirst(ShamirGram):
    """Opens its slice of the first parts, without a look at the others."""

    def handle(self, event: Event) -> list[Effect]:
        return [replace(one, job=ByTheFirst(one.job)) if isinstance(one, Compute) and isinstance(one.job, Open) else one
                for one in super().handle(event)]  # fmt: skip


class ByTheFirst:
    def __init__(self, job: Open) -> None:
        self._job = job

    def run(self, tools: Any) -> Recovered:
        with patch.object(jobs, "open_slice", first_parts):
            return self._job.run(tools)


class KnownKey(ShamirGram):
    """Tells by coefficients that its own slice's owner could have known."""

    def _roots(self) -> tuple[bytes, ...]:
        return tuple(bytes(32) for _ in super()._roots()) if self._sum is None else super()._roots()


class TellsNothing(ShamirGram):
    """Tells zeros in place of what its share gives."""

    def _tell(self, value: Summed) -> None:
        super()._tell(replace(value, told=bytes(len(value.told))))


class TriesNothing(ShamirGram):
    """Takes the slices for right that their owners publish."""

    def _judge(self) -> None:
        if self._sum is not None and not self._digest and not self._sum.unfit:
            self._assembled = self._sum.result
            self._digest = self.outcome_value(self._assembled.total_weight, self._roots())


class MissesWraps(TakesLongVectors):
    """Does not look at the length of vectors, nor at that of the sum."""

    def _tell(self, value: Summed) -> None:
        super()._tell(replace(value, flaw=""))


def cut_down(total: Any, k: int, weight: int, most: int) -> Any:
    """The result, rounded down."""
    out = jobs_rounded(total, k, weight, most)
    body = out[:-1].view(np.int32)
    body[:] = np.clip(total * k // weight, -most, most)
    return out


jobs_rounded = jobs.rounded


class RoundsDown(ShamirGram):
    """Rounds its result down."""

    def handle(self, event: Event) -> list[Effect]:
        return [replace(one, job=Down(one.job)) if isinstance(one, Compute) and one.name == "assemble" else one
                for one in super().handle(event)]  # fmt: skip


class Down:
    def __init__(self, job: Any) -> None:
        self._job = job

    def run(self, tools: Any) -> Any:
        with patch.object(jobs, "rounded", cut_down):
            return self._job.run(tools)


class LosesTooSoon(ShamirGram):
    """Votes that a round is lost though it has its sum."""

    def check_outcome(self, value: bytes, shown: tuple[Verified, ...]) -> bool:
        return value == LOST or super().check_outcome(value, shown)


class TakesAnyOutcome(ShamirGram):
    """Votes for any outcome."""

    def check_outcome(self, value: bytes, shown: tuple[Verified, ...]) -> bool:
        return value != LOST or super().check_outcome(value, shown)


class NeverGivesUp(ShamirGram):
    """Waits on when a phase's time is over, and for good."""

    def went_on(self, timer: str) -> bool:
        return timer == "phase" or super().went_on(timer)


def _all() -> Iterator[Mutant]:
    fixed: Any = planted.fixed
    alone: Any = partial(Mutant, play=FIVE, mix="none", adversary=None)
    lying: Any = partial(Mutant, play=FIVE, mix="liars")
    yield alone("deal-unsaved", "SG-1", "deals before INTENT is durable", fixed(unsaved("update")))
    yield alone("deals-early", "SG-1", "deals before all have endorsed", fixed(DealsEarly))
    yield alone("context-unbound", "SG-1", "binds something else beside its roster", fixed(UnboundContext))
    yield alone("receivers-mixed-up", "SG-2", "sends receivers others' blobs", fixed(MixesReceiversUp))
    yield alone("false-degree", "SG-6", "deals shares of no polynomial", fixed(SharesLow))
    yield lying("any-numbers", "SG-3", "takes numbers for elements that are none", fixed(TakesAnyNumbers),
                adversary="torn-deal")
    yield lying("any-bytes", "SG-3", "takes other bytes than were signed", fixed(TakesAnyBytes), adversary="torn-deal")
    yield lying("two-words-unseen", "EQUIVOCATION", "says nothing of a second word", fixed(SeesNoEquivocation),
                adversary="two-words")
    yield lying("hearsay-holding", "SG-3", "holds what others hold", fixed(HoldsByHearsay), adversary="torn-deal")
    yield alone("leaves-one-out", "SG-3", "denies what it was dealt", fixed(LeavesOneOut))
    yield lying("who-lacks-holds", "CE-2", "counts who lacks a deal among the holders", fixed(KeepsWhoLacks),
                adversary="denial")
    yield alone("beacon-unsaved", "SG-4", "shows z before that is durable", fixed(unsaved("beacon")))
    yield alone("beacon-on-a-word", "SG-4", "shows z on a proposer's word", fixed(on_a_word("survivors")))
    yield alone("known-beacon", "SG-4", "goes by a beacon that is known before", fixed(KnownBeacon))
    yield alone("check-unsaved", "SG-5", "tells a check before that is durable", fixed(unsaved("check")))
    yield alone("unblinded", "SG-5", "leaves the blind out of its check", fixed(TellsUnblinded))
    yield lying("defends-everything", "SG-6", "shows shares of honest updates", fixed(DefendsEverything),
                adversary="false-deal")
    yield lying("shows-the-denied", "SG-6", "shows what it dealt who denies it", fixed(ShowsTheDenied),
                adversary="denial")
    yield lying("silence-is-guilt", "SG-6", "proves who shows nothing a liar", fixed(SilenceIsGuilt),
                adversary="wrong-check")
    yield lying("corrects-and-goes-on", "SG-6", "lets a deal stand that can be corrected", fixed(CorrectsAndGoesOn),
                adversary="false-deal")
    yield lying("any-checked", "SG-6", "votes for whatever comes of checks", fixed(TakesAnyChecked),
                adversary="giver-up")
    yield lying("passes-nothing-on", "SG-6", "keeps to itself what a suspect showed it", fixed(PassesNothingOn),
                adversary="mute-suspect")
    yield alone("word-unsaved", "SG-7", "tells a word before that is durable", fixed(unsaved("gram")))
    yield alone("word-on-a-word", "SG-7", "tells a word on a proposer's word", fixed(on_a_word("checked")))
    yield alone("few-zeros", "SG-7", "hides its word by some sharings of zero", fixed(OneZero))
    yield alone("two-words", "SG-7", "tells two words", fixed(TwoWords))
    yield alone("trusts-all", "SG-8", "weighs as if nobody lied", fixed(TrustsAll))
    yield lying("long-vectors", "SG-8", "lets a vector stand that wraps around", fixed(TakesLongVectors),
                adversary="wrap-around")
    yield lying("any-geometry", "SG-8", "votes for any geometry", fixed(TakesAnyGeometry), adversary="giver-up")
    yield lying("words-by-authors", "ACCURACY", "tells words apart by whose they are", fixed(KnowsWordsByTheirAuthors),
                play=FOUR, adversary="two-words")
    yield alone("part-unsaved", "SG-9", "sends parts before that is durable", fixed(unsaved("part")))
    yield alone("part-on-a-word", "SG-9", "sends parts on a proposer's word", fixed(on_a_word(GEOMETRY)))
    yield alone("weighs-alike", "SG-9", "sends its share of the plain sum", fixed(WeighsAlike))
    yield lying("first-parts", "SG-10", "opens its slice without correcting", fixed(OpensByTheFirst),
                adversary="false-part")
    yield alone("known-key", "SG-11", "tells by coefficients that were known before", fixed(KnownKey))
    yield alone("tells-nothing", "SG-11", "tells zeros of its share", fixed(TellsNothing))
    yield lying("tries-nothing", "SG-12", "takes any slices for right", fixed(TriesNothing), adversary="false-slice")
    yield lying("misses-wraps", "SG-12", "takes a sum that wrapped around", fixed(MissesWraps),
                adversary="wrap-around")
    yield alone("rounds-down", "SG-12", "rounds its result down", fixed(RoundsDown))
    yield lying("lost-too-soon", "SG-12", "votes for `lost` though it has the sum", fixed(LosesTooSoon),
                adversary="equivocator")
    yield lying("any-outcome", "SG-12", "votes for any outcome", fixed(TakesAnyOutcome), adversary="vague-outcome")
    yield Mutant("phase-for-good", "HANG", "no phase's time is ever over", fixed(NeverGivesUp), FIVE, "crashes", None)


PLANTED: dict[str, Mutant] = {one.name: one for one in _all()}
