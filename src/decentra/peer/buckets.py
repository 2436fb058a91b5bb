"""A peer in a bucket: a session for its bucket, and one in which all combine the buckets' means."""

from __future__ import annotations

from decentra.driver.bucketing import Bucketer
from decentra.driver.site import Site
from decentra.peer.several import Rounds, SeveralSessions


class BucketPeer(SeveralSessions):
    """One peer of a group that sums in buckets; `open_peer` makes it where the charter says so."""

    what = "round in buckets"

    def _rounds_of(self, site: Site) -> Rounds:
        return Bucketer(self.charter, site)

    def _sessions(self) -> int:
        """The bucket's, that of all, and the drawers'."""
        return 3
