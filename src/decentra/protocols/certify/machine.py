"""Certify as a part of a round's machine: propose, prepare, commit, certificate, for one topic under one context.

2t > n + c, so two quorums share an honest peer, and a peer votes once a topic: two values are never both certified
(CE-2 to CE-4; ``OneCertificate`` in ``specs/secagg/model.py``). Votes are made durable before they are sent.
"""

from __future__ import annotations

from collections.abc import Callable

from decentra.errors import RemoteError
from decentra.machine.effects import Effect, Persist, Record, Send
from decentra.protocols.certify.messages import Certificate, Commit, Prepare, Propose
from decentra.types import PeerId
from decentra.wire.message import Verified

Check = Callable[[Propose], bytes | None]
"""Gives the hash that stands for a proposed value; None while the peer can't tell yet. Raises RemoteError where what is
shown does not give the value."""


class Certify:
    """One peer's part in certifying one topic."""

    def __init__(
        self,
        topic: str,
        context: bytes,
        roster: tuple[PeerId, ...],
        quorum: int,
        proposer: PeerId,
        check: Check,
        out: list[Effect],
    ) -> None:
        self.topic, self.context = topic, context
        self._roster, self._quorum, self._proposer = frozenset(roster), quorum, proposer
        self._check, self._out = check, out
        self._proposal: Verified | None = None
        self._prepares: dict[PeerId, Prepare] = {}
        self._commits: dict[PeerId, Verified] = {}
        self._prepared: bytes | None = None
        self._committed = False
        self.certificate: tuple[Verified, ...] = ()
        self.value: bytes = b""
        self.proposal: Propose | None = None
        self.opened_by: bytes = b""

    def missing(self) -> tuple[PeerId, ...]:
        """Whom the next vote waits for."""
        if self.proposal is None:
            return (self._proposer,)
        voted: set[PeerId] = set(self._commits) if self._committed else set(self._prepares)
        return tuple(sorted(self._roster - voted))

    def propose(self, value: bytes, shown: tuple[Verified, ...], after: bytes) -> None:
        self._out.append(Send(Propose(self.context, self.topic, value, shown), after=after))

    def received(self, verified: Verified) -> None:
        """Take in one vote or proposal of this topic.

        Raises:
            RemoteError: CE-1 to CE-4.
        """
        sender = verified.sender
        if sender not in self._roster:
            raise RemoteError(sender, "ROLE", "it voted in a round whose roster it is not in")
        match verified.message:
            case Propose() as message:
                self._on_propose(verified, message)
            case Prepare() as message:
                known = self._prepares.setdefault(sender, message)
                if known != message:
                    raise RemoteError(sender, "CE-2", f"it prepared two values of {self.topic!r}")
            case Commit() as message:
                self._on_commit(verified, message)
            case Certificate() as message:
                self._on_certificate(sender, message)

    def _on_propose(self, verified: Verified, message: Propose) -> None:
        if verified.sender != self._proposer:
            raise RemoteError(verified.sender, "CE-1", f"it proposed {self.topic!r} in a view that is not its own")
        if self._proposal is not None and self._proposal.hash != verified.hash:
            raise RemoteError(verified.sender, "CE-1", f"it proposed two values of {self.topic!r}")
        self._proposal, self.proposal, self.opened_by = verified, message, verified.entry.hash

    def _on_commit(self, verified: Verified, message: Commit) -> None:
        known = self._commits.setdefault(verified.sender, verified)
        if known.hash != verified.hash:
            raise RemoteError(verified.sender, "CE-3", f"it committed to two values of {self.topic!r}")

    def _on_certificate(self, sender: PeerId, message: Certificate) -> None:
        signers: set[PeerId] = set()
        for cited in message.commits:
            commit = cited.message
            if (
                not isinstance(commit, Commit)
                or (commit.context, commit.topic, commit.value) != (self.context, self.topic, message.value)
                or cited.sender not in self._roster
            ):
                raise RemoteError(sender, "CE-4", "its certificate cites something else than commits of its value")
            signers.add(cited.sender)
        if len(signers) < self._quorum:
            raise RemoteError(sender, "CE-4", f"its certificate has {len(signers)} signers, {self._quorum} are needed")
        for cited in message.commits:
            self._commits.setdefault(cited.sender, cited)

    def advance(self) -> bool:
        """Vote as the messages so far allow; True once there is a certificate whose value this peer knows."""
        if self.certificate:
            return True
        if self.proposal is not None and self._prepared is None:
            self._prepared = self._check(self.proposal)
            if self._prepared is not None:
                self._vote("prepare", Prepare(self.context, self.topic, self._prepared))
        value = self._prepared
        if value is None:
            return False
        if not self._committed and sum(p.value == value for p in self._prepares.values()) >= self._quorum:
            self._committed = True
            self._vote("commit", Commit(self.context, self.topic, value))
        commits = [
            cited
            for _, cited in sorted(self._commits.items())
            if isinstance(cited.message, Commit) and cited.message.value == value
        ]
        if len(commits) < self._quorum:
            return False
        self.certificate, self.value = tuple(commits[: self._quorum]), value
        self._out.append(Send(Certificate(self.context, self.topic, value, self.certificate), after=self.opened_by))
        return True

    def _vote(self, act: str, message: Prepare | Commit) -> None:
        self._out.append(Persist(Record(act, self.topic, self.context + message.value)))
        self._out.append(Send(message, after=self.opened_by))
