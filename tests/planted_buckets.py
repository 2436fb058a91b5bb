"""Planted bugs of bucketed: the real machine with one thing wrong each, and which schedules look for it.

As in ``mutants.py`` a schedule is played with the planted machine at every peer, where the clause must be violated, and
with the real one, where nothing may be.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any
from unittest.mock import patch

import planted
from decentra.machine.effects import Effect, Persist, Send
from decentra.machine.events import Event, Received
from decentra.protocols import round
from decentra.protocols.aggregate import Aggregate
from decentra.protocols.agreed import derive_agreed
from decentra.protocols.ballots import LOST
from decentra.protocols.bucketed import machine
from decentra.protocols.bucketed.buckets import Buckets, stated
from decentra.protocols.bucketed.machine import Bucketed
from decentra.protocols.bucketed.messages import Holding, Mean, Relay
from decentra.protocols.certify.machine import Certify, Check
from decentra.protocols.jobs import Encode
from decentra.simulation.stage import Play
from decentra.types import PeerId
from decentra.wire.message import Verified
from mutants import Mutant
from planted_votes import TakesAWord

NINE, TWELVE = Play("bucketed", n=9, c=1, size=8), Play("bucketed", n=12, c=1, size=8)
TWENTY = Play("bucketed", n=20, c=2, size=8)

# ── means and holdings ───────────────────────────────────────────────────────────────────────────────────────────────


class Unsaved(Bucketed):
    """States a mean that it did not write down."""

    def handle(self, event: Event) -> list[Effect]:
        effects = super().handle(event)
        return [one for one in effects if not (isinstance(one, Persist) and one.record.kind == "stated")]


class StatesEarly(Bucketed):
    """States its mean as soon as a quorum has endorsed the context."""

    def endorsed_by_all(self) -> bool:
        endorsed = self.got(self.endorse_type.kind)
        return self.setting.me in endorsed and len(endorsed) >= self.quorum


class StatesWhatItSummedAlone(Bucketed):
    """States its mean though it took another common state over."""

    def _state_mean(self) -> None:
        if self.mine.summed:
            self.encode()
        else:
            super()._state_mean()


class OwnCoins(Bucketed):
    """Rounds its bucket's mean by coins of its own."""

    def encode_job(self, masks: tuple[object, ...]) -> Encode:
        return replace(super().encode_job(masks), coins=None)


def too_few(means: Any, buckets: Buckets) -> dict[PeerId, bytes]:
    """What c of a bucket state alike."""
    return stated(means, replace(buckets, c=buckets.c - 1))


class CountsTooFew(Bucketed):
    """Takes for a bucket's mean what c of its members state alike, all of whom may lie."""

    def _step_means(self) -> bool:
        with patch.object(machine, "stated", too_few):
            return super()._step_means()

    def compare_holdings(self) -> None:
        with patch.object(machine, "stated", too_few):
            super().compare_holdings()


class HoldsMore(Bucketed):
    """Says something else of what it holds."""

    @abstractmethod
    def more(self, said: Holding) -> Holding:
        """What it says in place of what it should."""

    def _step_means(self) -> bool:
        before = len(self.out)
        stepped = super()._step_means()
        for index, effect in enumerate(self.out[before:], before):
            if isinstance(effect, Send) and isinstance(effect.message, Holding):
                self.out[index] = replace(effect, message=self.more(effect.message))
        return stepped


class HoldsByHearsay(HoldsMore):
    """Names in its holding what others' holdings name."""

    def more(self, said: Holding) -> Holding:
        named = dict(said.stated)
        for received in self.got(Holding.kind).values():
            named |= dict(getattr(received.verified.message, "stated", ()))
        return replace(said, stated=tuple(sorted(named.items())))


class ClaimsAll(HoldsMore):
    """Says that it has the mean whole of every bucket that is stated."""

    def more(self, said: Holding) -> Holding:
        return replace(said, whole=tuple(name for name, _ in said.stated))


class TakesAnyMean(Bucketed):
    """Does not hold what came beside a statement against the root in it."""

    def wants(self, verified: Verified, root: bytes) -> bool:
        message = verified.message
        return super().wants(verified, message.root if isinstance(message, Mean) else root)

    def sound_blob(self, *given: Any) -> bool:
        return True


class SeesNoEquivocation(Bucketed):
    """Takes the first of two messages, and says nothing of the second."""

    def keep(self, event: Received) -> None:
        if self.got(self.slot(event.verified.message)).get(event.verified.sender) is None:
            super().keep(event)


class GivesUpTooSoon(Bucketed):
    """Takes for silent who has stated nothing by the time that every bucket is stated."""

    def _step_means(self) -> bool:
        stepped = super()._step_means()
        if stepped:
            self.absent.update(self.missing(Mean.kind))
        return stepped


# ── what is certified ────────────────────────────────────────────────────────────────────────────────────────────────


def too_few_buckets(vectors: Any, roster: Any, quorum: int, least: int, c: int, held: Any) -> Any:
    """The real rule, but that c + 1 buckets suffice."""
    return derive_agreed(vectors, roster, quorum, c + 1, c, held)


class FewBuckets(Bucketed):
    """Goes on with c + 1 buckets, of which c may be tainted."""

    def derived(self, *given: Any) -> Any:
        with patch.object(machine, "derive_agreed", too_few_buckets):
            return super().derived(*given)


class TakesTheProposersWord(Bucketed):
    """Signs a result on the survivors that a proposer names, before they are certified."""

    def open_vote(self, topic: str, check: Check) -> Certify:
        with patch.object(round, "Certify", TakesAWord if topic == "survivors" else Certify):
            return super().open_vote(topic, check)


# ── relays ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class TakesAnyRelay(Bucketed):
    """Takes what is relayed for what is certified, whatever it hashes to."""

    def wants(self, verified: Verified, root: bytes) -> bool:
        message = verified.message
        if isinstance(message, Relay):
            return message.bucket in self.certified and message.bucket not in self.rows
        return super().wants(verified, root)

    def _relayed_blob(self, name: PeerId) -> Any:
        return next((one.blob for one in self.got(self._relays_of(name)).values() if one.blob is not None), None)


class RelaysWhatItHas(Bucketed):
    """Relays as soon as it sees who lacks what, without a certificate."""

    def step(self) -> bool:
        if self.phase == "survivors":
            for peer, holding in self._held.items():
                for name in [one for one, _ in holding.stated if one not in holding.whole and peer != self.setting.me]:
                    blob = self._blob_of(name, dict(holding.stated)[name])
                    if blob is not None and (name, peer) not in self._relayed:
                        self._relayed.add((name, peer))
                        message = Relay(self.context, name, blob.root)
                        self.out.append(Send(message, to=peer, blobs={peer: blob}, after=self.rendezvous.opened_by))
        return super().step()


class NoneToItsMates(Bucketed):
    """Leaves a bucket's own members out when it relays its mean."""

    def _relay(self) -> None:
        before = len(self.out)
        super()._relay()
        self.out[before:] = [one for one in self.out[before:] if not self._to_a_mate(one)]

    def _to_a_mate(self, effect: Effect) -> bool:
        if not isinstance(effect, Send) or not isinstance(effect.message, Relay):
            return False
        return effect.to is not None and effect.to in self.buckets.named(effect.message.bucket)


class RefusesEarlyRelays(Bucketed):
    """Lets no relay stand on offer until it knows what is certified."""

    def defers(self, verified: Verified, root: bytes, coming: Sequence[Verified]) -> bool:
        return False


class OneRelaySuffices(Bucketed):
    """Relays only where it is the first to hold a mean: that one may lie."""

    def _holders(self, name: PeerId, receiver: PeerId) -> list[PeerId]:
        return super()._holders(name, receiver)[:1]


# ── results ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class EvaluatesWithoutOne(Bucketed):
    """Evaluates the rule though a certified mean is missing."""

    def press_on(self) -> None:
        self.gather()
        rows = self.rows
        missing = self.missing_rows()
        if not self._begun and len(missing) == 1 and len(rows) > 1:
            certified = self.survivors
            assert certified is not None
            kept = [(name, hashed) for name, hashed in certified.updates.items() if name in rows]
            self.survivors = replace(
                certified, members=tuple(name for name, _ in kept), hashes=tuple(hashed for _, hashed in kept)
            )
        super().press_on()


class TrustsAll(Bucketed):
    """Evaluates the rule as if nobody lied."""

    def press_on(self) -> None:
        def trusting(rows: Any, rule: str, f: int, *more: int) -> Aggregate:
            return Aggregate(rows, rule, 0, *more)

        with patch("decentra.protocols.evaluated.Aggregate", trusting):
            super().press_on()


class OneResultSuffices(Bucketed):
    """Takes any peer's result for the outcome."""

    def check_outcome(self, value: bytes, shown: tuple[Verified, ...]) -> bool:
        return value != LOST or super().check_outcome(value, shown)


class NeverGivesUp(Bucketed):
    """Waits on when a phase's time is over, and for good."""

    def went_on(self, timer: str) -> bool:
        return timer == "phase" or super().went_on(timer)


def _all() -> Iterator[Mutant]:
    fixed = planted.fixed
    lying: Any = partial(Mutant, play=NINE, mix="liars")
    yield Mutant("mean-unsaved", "BU-1", "states a mean before that is durable", fixed(Unsaved), NINE, "none", None)
    yield Mutant("states-early", "BU-1", "states a mean before all have endorsed", fixed(StatesEarly),
                 NINE, "none", None)
    yield lying("mean-of-another-state", "BU-2", "states a mean though it took another state over",
                fixed(StatesWhatItSummedAlone), adversary="wrong-part")
    yield Mutant("own-coins", "BU-2", "rounds by coins of its own", fixed(OwnCoins), NINE, "none", None)
    yield lying("c-statements", "BU-4", "takes what c state for a bucket's mean", fixed(CountsTooFew),
                adversary="false-mean")
    yield lying("c-statements-of-two", "BU-4", "takes what two liars state for a bucket's mean", fixed(CountsTooFew),
                play=TWENTY, adversary="false-mean")
    yield lying("hearsay-holding", "BU-4", "holds what others hold", fixed(HoldsByHearsay), adversary="false-whole")
    yield lying("claims-all", "BU-4", "holds what it has not", fixed(ClaimsAll), adversary="kept-mean")
    yield lying("any-mean", "BU-7", "takes any bytes for a mean", fixed(TakesAnyMean), adversary="wrong-slice")
    yield lying("two-means-unseen", "EQUIVOCATION", "says nothing of a second mean", fixed(SeesNoEquivocation),
                adversary="two-means")
    yield lying("absent-too-soon", "BU-8", "takes for silent whom it did not wait for", fixed(GivesUpTooSoon),
                adversary="equivocator")
    yield Mutant("c+1-buckets", "CE-2", "goes on with c + 1 buckets", fixed(FewBuckets), NINE, "drops", None)
    yield Mutant("no-certificate", "BU-7", "signs a result on a proposer's word", fixed(TakesTheProposersWord),
                 NINE, "none", None)
    yield lying("any-relay", "BU-7", "takes any bytes for a relayed mean", fixed(TakesAnyRelay),
                adversary="false-relay")
    yield lying("early-relay", "BU-5", "relays what is not certified", fixed(RelaysWhatItHas), adversary="kept-mean")
    yield lying("none-to-its-mates", "BU-5", "relays to no member of the bucket", fixed(NoneToItsMates),
                adversary="false-result")
    yield lying("no-early-relay", "BU-5", "refuses what is relayed before it knows the certificate",
                fixed(RefusesEarlyRelays), adversary="silence")
    yield lying("one-relay", "BU-5", "relays only as the first to hold", fixed(OneRelaySuffices),
                adversary="kept-mean")
    yield lying("without-one", "BU-7", "evaluates though a mean is missing", fixed(EvaluatesWithoutOne),
                play=TWELVE, adversary="kept-mean")
    yield Mutant("trusts-all", "BU-7", "evaluates as if nobody lied", fixed(TrustsAll), NINE, "none", None)
    yield lying("outcome-unshown", "BU-8", "votes for any outcome", fixed(OneResultSuffices),
                adversary="vague-outcome")
    yield Mutant("phase-for-good", "HANG", "no phase's time is ever over", fixed(NeverGivesUp), NINE, "crashes", None)


PLANTED: dict[str, Mutant] = {one.name: one for one in _all()}
