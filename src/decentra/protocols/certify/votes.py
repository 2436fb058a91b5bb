"""Votes of one kind, counted as they come: looking for a quorum costs nothing, however many views a liar votes in."""

from __future__ import annotations

from decentra.types import PeerId
from decentra.wire.message import Verified

KEPT_VIEWS = 8
"""Views of which a peer's votes are kept, its latest: a round's deadlines are over before the sixth."""


class Votes:
    """The votes that came, of each voter those of its latest ``KEPT_VIEWS`` views.

    ``quorums`` holds, by view, the hash that a quorum voted for. Two quorums share a voter, and of each voter one vote
    a view counts, so a view has one at most.
    """

    def __init__(self, quorum: int) -> None:
        self.quorums: dict[int, bytes] = {}
        self._quorum = quorum
        self._cast: dict[PeerId, dict[int, tuple[bytes, Verified]]] = {}
        self._tally: dict[tuple[int, bytes], set[PeerId]] = {}

    def add(self, view: int, digest: bytes, verified: Verified) -> bool:
        """Count a vote; False where its author has cast another in this view."""
        voter = verified.sender
        cast = self._cast.setdefault(voter, {})
        known = cast.get(view)
        if known is not None:
            return known[1].body_hash == verified.body_hash
        if len(cast) == KEPT_VIEWS:
            oldest = min(cast)
            if view < oldest:
                return True  # of a view that this voter left long ago
            self._forget(voter, oldest, cast.pop(oldest)[0])
        cast[view] = digest, verified
        voters = self._tally.setdefault((view, digest), set())
        voters.add(voter)
        if len(voters) >= self._quorum:
            self.quorums[view] = digest
        return True

    def voted(self, voter: PeerId, view: int) -> bool:
        return view in self._cast.get(voter, ())

    def of_quorum(self, view: int) -> tuple[Verified, ...]:
        """A quorum of a view's votes for one hash, in the order of the voters' ids."""
        voters = sorted(self._tally[view, self.quorums[view]])
        return tuple(self._cast[voter][view][1] for voter in voters[: self._quorum])

    def _forget(self, voter: PeerId, view: int, digest: bytes) -> None:
        voters = self._tally[view, digest]
        voters.discard(voter)
        if len(voters) < self._quorum and self.quorums.get(view) == digest:
            del self.quorums[view]
        if not voters:
            del self._tally[view, digest]
