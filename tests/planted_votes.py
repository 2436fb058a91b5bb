"""Planted bugs of voting: Certify with one thing wrong each."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

from decentra.protocols import round
from decentra.protocols.certify.machine import Certify, Check
from decentra.protocols.certify.messages import Certificate, Commit, Propose
from decentra.protocols.certify.votes import Votes
from decentra.protocols.secagg.machine import SecAgg
from decentra.types import PeerId
from decentra.wire.message import Verified


def voting(kind: type[Certify]) -> type[SecAgg]:
    """A machine that votes by another Certify."""

    class Voting(SecAgg):
        def open_vote(self, topic: str, check: Check) -> Certify:
            with patch.object(round, "Certify", kind):
                return super().open_vote(topic, check)

    return Voting


class LowQuorum(Certify):
    """Takes t − 1 votes for a quorum."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._quorum -= 1
        self._prepares, self._commits = Votes(self._quorum), Votes(self._quorum)


class PreparesSuffice(Certify):
    """Takes t prepares for the certificate; commits are for nothing."""

    def _settle(self) -> bool:
        for view, digest in self._prepares.quorums.items():
            if digest in self._values:
                self.value, self.certificate = self._values[digest], self._prepares.of_quorum(view)
                return True
        return super()._settle()


class TakesAWord(Certify):
    """Takes a proposer's word for what is certified."""

    def _settle(self) -> bool:
        verified = self._proposal()
        if verified is not None and isinstance(verified.message, Propose) and self.view in self._prepared:
            self.value, self.certificate = verified.message.value, (verified,)
            return True
        return super()._settle()


class ForgetsLock(Certify):
    """Comes to each view without the lock of the one before."""

    def _enter(self, view: int) -> None:
        self._lock = None
        super()._enter(view)


class IgnoresLock(Certify):
    """Shows its lock, and prepares whatever follows from what is shown."""

    def _may_prepare(self, proposal: Propose) -> bool:
        held, self._lock = self._lock, None
        try:
            return super()._may_prepare(proposal)
        finally:
            self._lock = held


class PreparesTwice(Certify):
    """Prepares every value that a proposer shows it in a view."""

    def _on_propose(self, verified: Verified, message: Propose) -> None:
        if self._proposed.get(message.view, verified.body_hash) != verified.body_hash:
            del self._proposed[message.view]
            self._prepared.discard(message.view)
        super()._on_propose(verified, message)


class PreparesBelow(Certify):
    """Prepares what is proposed late in a view that it has left, whatever it did since."""

    def _on_propose(self, verified: Verified, message: Propose) -> None:
        super()._on_propose(verified, message)
        if message.view < self.view and not self.certificate:
            here, acted = self.view, self._acted
            self.view, self._acted = message.view, -1
            self._prepare()
            self.view, self._acted = here, max(acted, self._acted)


class CommitsBelow(Certify):
    """Commits to what was prepared in a view below one that it acted in."""

    def _commit(self) -> None:
        acted, self._acted = self._acted, -1
        super()._commit()
        self._acted = max(acted, self._acted)


class CommitsUnprepared(Certify):
    """Commits as soon as it prepares: one vote in two messages."""

    def _prepare(self) -> None:
        before = self._acted
        super()._prepare()
        verified = self._proposal()
        if verified is not None and isinstance(verified.message, Propose) and self._acted > before:
            self._committed.add(self.view)
            digest = self._digest(verified.message.value)
            self._vote("commit", Commit(self.context, self.topic, self.view, digest), self.opened_by)


class CountsMessages(Certify):
    """Counts the commits in a certificate, not who signed them."""

    def _on_certificate(self, sender: PeerId, message: Certificate) -> None:
        digest = self._digest(message.value)
        if len(message.commits) >= self._quorum and all(
            isinstance(cited.message, Commit) and cited.message.value == digest for cited in message.commits
        ):
            self._learn(message.value)
            if not self.certificate:
                self._certified(message.value, message.commits)
            return
        super()._on_certificate(sender, message)


class AnyCommits(Certify):
    """Looks at who signed a certificate's commits, not at what they commit to."""

    def _on_certificate(self, sender: PeerId, message: Certificate) -> None:
        if len({cited.sender for cited in message.commits}) >= self._quorum and not self.certificate:
            self._learn(message.value)
            self._certified(message.value, message.commits)


class ProposesAgain(Certify):
    """Proposes once more when what it would propose has changed."""

    _last: tuple[int, bytes] | None = None

    @property
    def offers(self) -> bool:
        return not self.certificate and self.proposer() == self._me

    def offer(self, value: bytes | None, shown: tuple[Verified, ...] = ()) -> None:
        if value is None or self._last == (self.view, value):
            return
        super().offer(value, shown)
        if self.view in self._offered:
            self._last = (self.view, value)
