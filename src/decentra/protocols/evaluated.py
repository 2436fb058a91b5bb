"""Rounds whose result everybody evaluates by itself on certified vectors, and shows by c + 1 equal signed results."""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from typing import ClassVar

from decentra.errors import RemoteError
from decentra.machine.effects import Compute, Send
from decentra.machine.events import Blob
from decentra.protocols import slices
from decentra.protocols.aggregate import Aggregate, Aggregated
from decentra.protocols.agreed import Agreed
from decentra.protocols.ballots import LOST, Ballots
from decentra.protocols.round import OUTCOME, SURVIVORS
from decentra.protocols.setting import Contribution, Setting
from decentra.types import PeerId, RoundId
from decentra.wire.message import Verified

AGGREGATE = "aggregate"


class Evaluated(Ballots):
    """A round whose members certify a set of vectors, and evaluate one rule on it.

    Vectors go by a peer: their author, or one that stands for those it is of.
    """

    computing = AGGREGATE
    result_type: ClassVar[type[slices.Result]]
    row_clause: ClassVar[str]
    result_clause: ClassVar[str]
    unsound_row: ClassVar[str]
    """What is said of a vector that no encoding gives."""

    def __init__(self, setting: Setting, mine: Contribution, round_id: RoundId) -> None:
        super().__init__(setting, mine, round_id)
        self.survivors: Agreed | None = None
        self.rows: dict[PeerId, Blob] = {}
        """The certified vectors that are here."""
        self.used: tuple[PeerId, ...] = ()
        """Whose vectors the rule was given."""
        self._begun = False
        """Whether the rule is being evaluated, or was."""
        self._computed = b""
        """The outcome that this peer's own result gives."""
        self._shown: tuple[Verified, ...] = ()
        """The c + 1 equal results that this peer shows."""

    # ── what a protocol adds ─────────────────────────────────────────────────────────────────────────────────────────

    @property
    @abstractmethod
    def limit(self) -> int:
        """The largest magnitude that encoding gives a coordinate of a vector."""

    @abstractmethod
    def gather(self) -> None:
        """Take in certified vectors that came, and help who lacks some."""

    @abstractmethod
    def refuse_row(self, name: PeerId) -> None:
        """A certified vector is none that encoding gives."""

    # ── the result ───────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def certified(self) -> dict[PeerId, bytes]:
        """By a vector's peer the hash that its message is certified under; none before they are."""
        return {} if self.survivors is None else self.survivors.updates

    def missing_rows(self) -> list[PeerId]:
        return [name for name in self.certified if name not in self.rows]

    def press_on(self) -> None:
        """Gather, evaluate the rule as soon as every certified vector is here, and compare results."""
        self.gather()
        if not self._begun and len(self.rows) == len(self.certified):
            self._begun = True
            setting = self.setting
            job = Aggregate(tuple(self.rows.items()), setting.rule, setting.c, setting.width, self.limit)
            self.out.append(Compute(AGGREGATE, job))
        self._read_results()

    def aggregated(self, value: Aggregated) -> None:
        """Sign what the rule gave."""
        for name in value.refused:
            self.refuse_row(name)
        if value.result is None:
            raise RemoteError(None, self.row_clause, "no vector of the round is one that encoding gives")
        self._assembled, self.used = value.result, value.used
        root, weight = value.result.total.root, value.result.total_weight
        self._computed = self.outcome_value(weight, (root,))
        survivors = self.certify[SURVIVORS]
        message = self.result_type(self.context, survivors.digest, weight, root)
        self.out.append(Send(message, after=survivors.opened_by))

    def _read_results(self) -> None:
        """Know the outcome once more peers than may lie signed the same; take down who signed another."""
        alike: dict[bytes, list[Verified]] = defaultdict(list)
        for sender, received in self.got(self.result_type.kind).items():
            given = self._given(received.verified)
            if not given or given != (self._computed or given):
                self.refuse(sender, self.result_clause, "its result is not what the rule gives on what is certified")
            else:
                alike[given].append(received.verified)
        for given, signed in alike.items():
            if not self._digest and len(signed) > self.setting.c:
                self._digest, self._shown = given, tuple(signed[: self.setting.c + 1])

    def _given(self, verified: Verified) -> bytes:
        """The outcome that a result gives; empty where it is none under the certified survivors."""
        message = verified.message
        if not isinstance(message, self.result_type) or verified.entry.round != self.round.number:
            return b""
        if (message.context, message.survivors) != (self.context, self.certify[SURVIVORS].digest):
            return b""
        return self.outcome_value(message.weight, (message.root,))

    def step_computing(self) -> bool:
        self.press_on()
        self._lacking = self._lacking or self.hopeless
        if not self._digest and not self._lacking:
            return False
        self.go(self.evaluated)
        return True

    @property
    def evaluated(self) -> str:
        """What opens the vote on the outcome."""
        return next(why for phase, why in self.transitions if phase == AGGREGATE)

    def owing(self) -> tuple[PeerId, ...]:
        return tuple(self.missing_rows()) or self.missing(self.result_type.kind)

    # ── the outcome ──────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def lacks(self) -> bool:
        return self._lacking and not self._begun

    @property
    def shown_for_outcome(self) -> tuple[Verified, ...]:
        return self._shown

    def check_outcome(self, value: bytes, shown: tuple[Verified, ...]) -> bool:
        """What c + 1 equal results give, of which one is an honest peer's; or ``lost``, where this peer too has waited
        in vain, or knows the outcome and has seen that too few others do."""
        if value == LOST:
            return (self._lacking and not self._begun and not self._digest) or self._in_vain()
        proposer, signers = self.certify[OUTCOME].proposer(), {one.sender for one in shown}
        if {self._given(one) for one in shown} != {value} or not signers <= set(self.roster):
            said = "it proposes another outcome than the results that it shows give"
            raise RemoteError(proposer, self.outcome_clause, said)
        if len(signers) <= self.setting.c:
            raise RemoteError(proposer, self.outcome_clause, f"it shows the results of {len(signers)} peers")
        return value == (self._computed or value)

    def contradicted(self, value: bytes) -> RemoteError | None:
        if not self._computed or self._computed == value:
            return None
        said = "what is certified is not what the rule gives on the vectors here: compare transcripts and releases"
        return RemoteError(None, self.outcome_clause, said)
