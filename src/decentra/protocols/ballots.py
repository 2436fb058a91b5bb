"""Rounds whose survivors and outcome are voted on, with deadlines within which views have their time."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from decentra import derive
from decentra.errors import RemoteError, Unavailable
from decentra.machine.effects import Finish, Persist, Record, SetTimer
from decentra.protocols.certify.machine import Certify
from decentra.protocols.jobs import Assembled
from decentra.protocols.round import CONTEXT, OUTCOME, SURVIVORS
from decentra.protocols.setting import Contribution, Outcome, Setting
from decentra.protocols.survivors import FAIL
from decentra.protocols.updates import Updates
from decentra.types import PeerId, RoundId
from decentra.wire.message import Verified

LOST = b"lost"
"""The outcome that says: what it needs never came, and the round is spent."""

OVERTIME = 6
"""Phase deadlines that a vote may take before a peer gives up: views 0 to 4 are 5.75 of them."""


class Ballots(Updates):
    """A round in which two votes settle what counts: first whose updates do, the survivors; then what comes of them."""

    computing: ClassVar[str]
    """The phase between the two votes, in which the result comes about."""
    outcome_clause: ClassVar[str]
    wanted: ClassVar[str]
    """What a result that is lost lacks."""
    missed: ClassVar[str]
    """What a peer lacks that others have the result of."""
    freed: ClassVar[str] = "every update may go again"
    """What it means that the survivors are certified as failed."""

    def __init__(self, setting: Setting, mine: Contribution, round_id: RoundId) -> None:
        super().__init__(setting, mine, round_id)
        self._overtime = 0
        self._lacking = False
        """Whether something that the result needs did not come in its time."""
        self._assembled: Assembled | None = None
        self._digest = b""
        """The outcome, once this peer knows and can show it."""

    # ── what a protocol adds ─────────────────────────────────────────────────────────────────────────────────────────

    @property
    @abstractmethod
    def members(self) -> tuple[PeerId, ...]:
        """The survivors, once certified; until then the roster."""

    @property
    @abstractmethod
    def owners(self) -> tuple[PeerId, ...]:
        """Whose holdings gave the survivors, once these are certified; until then the roster."""

    @property
    def participants(self) -> tuple[PeerId, ...]:
        """Whose updates are in the result."""
        return self.members

    @abstractmethod
    def own_step(self) -> bool:
        """Try to leave a phase of the protocol's own; True if it moved."""

    @abstractmethod
    def unheard(self) -> tuple[PeerId, ...]:
        """Whose holding the survivors lack."""

    @property
    def may_vote(self) -> bool:
        """Whether the vote on the survivors is to open: a view's time is for the vote, not for what comes before it."""
        return True

    @abstractmethod
    def compare_holdings(self) -> None:
        """While the survivors are voted on: look at the holdings that came, and do what they make needed."""

    @abstractmethod
    def shown_holdings(self) -> list[Verified]:
        """The holdings that this peer would show now."""

    @abstractmethod
    def is_holding(self, verified: Verified) -> bool:
        """Whether an entry is a holding under this context."""

    @abstractmethod
    def derived(self, shown: Sequence[Verified]) -> tuple[bytes, tuple[Verified, ...]] | None:
        """The value that shown holdings give, with those of them that show it; None where they give no survivors."""

    @abstractmethod
    def take_survivors(self, value: bytes) -> None:
        """Go by the survivors that are certified."""

    @abstractmethod
    def step_computing(self) -> bool:
        """Try to leave the phase in which the result comes about, with it or for want of something."""

    @abstractmethod
    def press_on(self) -> None:
        """While the outcome is voted on: do what may still bring the result about."""

    @property
    @abstractmethod
    def shown_for_outcome(self) -> tuple[Verified, ...]:
        """What shows that the outcome is the one that this peer knows."""

    @abstractmethod
    def check_outcome(self, value: bytes, shown: tuple[Verified, ...]) -> bool:
        """The protocol's rule for an outcome: see ``certify.machine.Check``."""

    @property
    def lacks(self) -> bool:
        """Whether this peer has waited for the result in vain."""
        return self._lacking

    @property
    @abstractmethod
    def hopeless(self) -> bool:
        """Whether nobody is left who could bring what this peer lacks."""

    @abstractmethod
    def contradicted(self, value: bytes) -> RemoteError | None:
        """What is wrong with a certified outcome by what this peer has itself."""

    @abstractmethod
    def owing(self) -> tuple[PeerId, ...]:
        """Whose message the result lacks."""

    # ── common steps ─────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def patient(self) -> tuple[str, ...]:
        """The phases that a certificate ends: their deadline is `OVERTIME` long, so that views have their time."""
        return SURVIVORS, self.computing, OUTCOME

    def step(self) -> bool:
        if self.phase in (self.scattering, SURVIVORS) and self.n - len(self.gone) < self.quorum:
            what = f"round {self.round}, of which too few are left to certify anything"
            raise Unavailable(sorted(self.gone), 0.0, what, "the next round begins without them")
        if self.phase == SURVIVORS:
            return self._step_survivors()
        if self.phase == self.computing:
            return self.step_computing()
        if self.phase == OUTCOME:
            return self._step_outcome()
        return self.own_step()

    def waiting_for(self) -> tuple[PeerId, ...]:
        if self.phase == SURVIVORS:
            return self.unheard() or tuple(sorted(self.gone or self.absent)) or self.certify[SURVIVORS].missing()
        if self.phase == self.computing or (self.phase == OUTCOME and self._assembled is None):
            return self.owing()
        if self.phase in self.certify:
            return self.certify[self.phase].missing()
        if self.phase == self.scattering:
            return self.missing(self.given_kind)
        if self.phase == CONTEXT:
            return self.missing(self.endorse_type.kind)
        return self.missing(f"{self.protocol}.{self.phase}")

    def went_on(self, timer: str) -> bool:
        if timer in ("hold", "steps", "fail", "spare"):
            self.waited.add(timer)
            return True
        if timer == "endorsed":
            self.hand_endorsements()
            return True
        if timer != "phase" or self.phase not in (self.scattering, *self.patient):
            return False
        if self.phase == self.computing:
            self._lacking = True
            return True
        self.out.append(SetTimer("phase", self.setting.phase_deadline))
        if self.phase == self.scattering and (self.mine.update is None or self.in_steps()):
            return True  # local steps take the time that they take
        self._overtime += 1
        if self.phase == OUTCOME and self._overtime == 1 and self._digest and OUTCOME in self.certify:
            self.certify[OUTCOME].give_up(self._digest)
        return self._overtime < OVERTIME and self.left

    def go(self, why: str) -> None:
        self._overtime = 0
        super().go(why)

    def waited_seconds(self) -> float:
        return self.setting.phase_deadline * max(1, self._overtime)

    @property
    def order(self) -> tuple[PeerId, ...]:
        """Once there are survivors, whose holdings gave them propose first: who was dead by then costs no view's
        time."""
        order, first = super().order, self.owners
        return (*(peer for peer in order if peer in first), *(peer for peer in order if peer not in first))

    # ── the survivors ────────────────────────────────────────────────────────────────────────────────────────────────

    def _step_survivors(self) -> bool:
        if SURVIVORS not in self.certify and not self.may_vote:
            self.compare_holdings()
            return False
        vote = self.certify.get(SURVIVORS) or self.open_vote(SURVIVORS, self._check_survivors)
        self.compare_holdings()
        if vote.offers:
            self._offer_survivors(vote)
        if not vote.advance():
            return False
        if vote.value == FAIL:
            self.spent = False  # the certificate frees every update (SA-4)
            what = f"the survivors of round {self.round}"
            raise Unavailable(sorted(self.gone), 0.0, what, f"it is certified as failed, and {self.freed}")
        self.take_survivors(vote.value)
        if self.setting.me not in self.members:
            self.spent = False
        self.rendezvous.release()
        self.out.append(SetTimer("spare", 2 * self.setting.patience))
        self.go("certificate(survivors)")
        return True

    def _offer_survivors(self, vote: Certify) -> None:
        """Propose what the holdings give; or, once they had their time, to fail the round."""
        shown = self.shown_holdings()
        given = self.derived(shown)
        if given is not None:
            vote.offer(*given)
        elif "fail" in self.waited and len({verified.sender for verified in shown}) >= self.quorum:
            vote.offer(FAIL, tuple(shown))
        else:
            vote.offer(None)

    def _check_survivors(self, value: bytes, shown: tuple[Verified, ...]) -> bool:
        """CE-2: the shown holdings give this value and no other."""
        proposer = self.certify[SURVIVORS].proposer()
        if not all(map(self.is_holding, shown)):
            raise RemoteError(proposer, "CE-2", "it shows something else than holdings under this context")
        given = self.derived(shown)
        if value == FAIL:
            if given is not None or len({verified.sender for verified in shown}) < self.quorum:
                raise RemoteError(proposer, "CE-2", "it proposes to fail a round that the shown holdings don't fail")
        elif given is None or given[0] != value:
            raise RemoteError(proposer, "CE-2", "it proposes other survivors than the shown holdings give")
        return True

    # ── the outcome ──────────────────────────────────────────────────────────────────────────────────────────────────

    def outcome_value(self, total_weight: int, roots: tuple[bytes, ...]) -> bytes:
        return derive.outcome_value(self.context, self.certify[SURVIVORS].digest, total_weight, roots)

    def _in_vain(self) -> bool:
        """Whether others had long enough for the outcome that this peer knows: a phase's time."""
        return self._overtime > 0

    def _step_outcome(self) -> bool:
        vote = self.certify.get(OUTCOME) or self.open_vote(OUTCOME, self.check_outcome)
        self.press_on()
        if self._digest and not (self._in_vain() and vote.tried(self._digest)):
            vote.offer(self._digest, self.shown_for_outcome)
        else:
            vote.offer(LOST if self._digest or self.lacks else None)
        if not vote.advance():
            return False
        if vote.value == LOST:
            what = f"{self.wanted} in round {self.round}"
            raise Unavailable(self.owing(), 0.0, what, "it is certified as lost, and spent")
        if self._assembled is None and self._overtime == 0 and not self.hopeless:
            return False  # the result is certified, and what this peer lacks of it may still come
        wrong = self.contradicted(vote.value)
        if wrong is not None:
            raise wrong
        self.settled(self._assembled, vote.value)
        self.go("certificate(outcome)")
        return True

    def settled(self, sums: Assembled | None, digest: bytes) -> None:
        """The outcome is certified, whether or not this peer has the result; a protocol that puts it to the test first
        finishes later."""
        self.finish(sums, digest)

    def finish(self, sums: Assembled | None, digest: bytes) -> None:
        """Hand the result out, if it is here."""
        self.hand_over()
        if sums is None:
            mend = "the others have it, and this peer takes it over in the next round"
            what = f"{self.missed} of the certified result of round {self.round}"
            raise Unavailable(self.owing(), self.waited_seconds(), what, mend)
        self.out.append(Persist(Record("done", "outcome", self.context + digest)))
        outcome = Outcome(
            total=sums.total,
            ranges=self.ranges,
            roster=self.roster,
            survivors=self.participants,
            total_weight=sums.total_weight,
            digest=digest,
            adopted=self.rendezvous.adopted,
            clipped=self.clipped,
        )
        self.out.append(Finish(self.outcome_of(outcome)))

    def outcome_of(self, outcome: Outcome) -> Outcome:
        """The outcome with what a protocol adds to it."""
        return outcome
