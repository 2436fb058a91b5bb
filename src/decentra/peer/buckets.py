"""A peer in a bucket: a session for its bucket, and one in which all combine the buckets' means."""

from __future__ import annotations

from decentra.driver.bucketing import Bucketer
from decentra.driver.site import Site
from decentra.peer.several import Rounds, SeveralSessions
from decentra.types import PeerId


class BucketPeer(SeveralSessions):
    """One peer of a group that sums in buckets; `open_peer` makes it where the charter says so."""

    what = "round in buckets"

    def _rounds_of(self, site: Site) -> Rounds:
        return Bucketer(self.charter, site)

    @property
    def buckets(self) -> tuple[tuple[PeerId, ...], ...]:
        """Who is in which bucket; none before they are drawn."""
        return self._played.sessions[1].charter.drawn_buckets if self._played.sessions else ()

    def _sessions(self) -> int:
        """The bucket's, that of all, and the drawers'."""
        return 3
