"""The ground that a session stands on: its charter, its spec, and what follows from the two."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from decentra import derive, spec
from decentra.charter.charter import Charter
from decentra.crypto.keys import verify
from decentra.spec import Spec
from decentra.types import PeerId, RoundId
from decentra.wire.codec import Codec
from decentra.wire.entry import Checker

_VOTE = re.compile(r"certificate\((\w+)\)")


@dataclass(frozen=True)
class Ground:
    """A charter's session: who is in it, what may be said in it, and whose signature counts."""

    charter: Charter
    spec: Spec
    check: Checker

    @classmethod
    def of(cls, charter: Charter, room: Path | None = None) -> Ground:
        """The ground of a charter's epoch.

        Args:
            room: the folder of the specs; the published ones by default.

        Raises:
            LocalError: there is no spec of the charter's protocol.
        """
        publics = {member.id: member.ed25519 for member in charter.members}

        def check(author: PeerId, signature: bytes, message: bytes) -> bool:
            public = publics.get(author)
            return public is not None and verify(public, signature, message)

        return cls(charter, spec.load(charter.protocol.name, room), check)

    @cached_property
    def session(self) -> bytes:
        """The session's name; it carries charter, spec and epoch, so an entry of it was signed under these."""
        return derive.session(self.spec.source, self._charter_hash, self.epoch)

    @cached_property
    def _charter_hash(self) -> bytes:
        return self.charter.hash

    @cached_property
    def codec(self) -> Codec:
        return Codec(self.spec.messages)

    @property
    def epoch(self) -> int:
        return self.charter.group.epoch

    @cached_property
    def members(self) -> tuple[PeerId, ...]:
        return self.charter.ids

    @cached_property
    def topics(self) -> frozenset[str]:
        """What rounds vote on: what a certificate opens a phase with, and what the last phase ends by."""
        phases = self.spec.phases
        opening = (found for _, opens in phases for found in _VOTE.findall(opens))
        return frozenset((*opening, *(name for name, _ in phases[-1:])))

    @property
    def c(self) -> int:
        return self.charter.protocol.c

    @cached_property
    def buckets(self) -> dict[PeerId, tuple[PeerId, ...]]:
        """The members by bucket, each under its first member, in the order in which they are drawn; none where the
        protocol has no buckets."""
        return {bucket[0]: bucket for bucket in self.charter.drawn_buckets}

    def quorum(self, n: int) -> int:
        return derive.quorum(n, self.c)

    def order(self, number: int) -> tuple[PeerId, ...]:
        """In which order the members propose rosters in a round."""
        return derive.proposer_order(self._charter_hash, RoundId(self.epoch, number), self.members)

    def name(self, peer: PeerId) -> str:
        """A member's name, for people."""
        return next((member.name for member in self.charter.members if member.id == peer), str(peer))
