"""A simulated group on a grid: n peers in this process, each with a session an axis, on one virtual network."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from types import TracebackType

from decentra.charter.charter import Charter
from decentra.crypto.keys import Identity
from decentra.crypto.suite import REAL, Suite
from decentra.driver.bucketing import Bucketer
from decentra.driver.fittings import Fittings
from decentra.driver.given import Update, check_group, describe
from decentra.driver.mixing import Mixer
from decentra.driver.session import Vector, session_name
from decentra.driver.site import Opened, Site
from decentra.errors import DecentraError, LocalError
from decentra.gossip.beacon import Draw
from decentra.simulation.group import Ending
from decentra.simulation.ideal import IdealCrypto
from decentra.simulation.once import SharedRegistry
from decentra.simulation.ports import InlinePool, MemoryJournal, SeededRandom
from decentra.transport.shared import SharedTransport
from decentra.transport.simulated import Faults, Network
from decentra.transport.virtual import EventHeap
from decentra.types import RoundResult


class GridPeer:
    """One simulated peer on a grid, and how its last mixing ended.

    Attributes:
        kept: what is on its disk of the epoch's beacon.
        journals: its journals by session.
    """

    def __init__(self, group: SimulatedGrid, identity: Identity, boot: int = 1, before: GridPeer | None = None) -> None:
        self.identity, self.boot = identity, boot
        self.ended: Ending = None
        self.kept: Draw | None = None if before is None else before.kept
        self.journals: dict[bytes, MemoryJournal] = {} if before is None else before.journals
        shared = SharedTransport()
        shared.carry(group.network.transport(identity.id, shared.on_receive, shared.on_link))
        self.transport = shared
        suite = group.suite
        site = Site(
            identity=suite.signer(identity.id, identity.public) if isinstance(suite, IdealCrypto) else identity,
            clock=group.clock,
            transport=shared,
            pool=InlinePool(),
            random=SeededRandom(group.seed, identity.id + boot.to_bytes(8, "little")),
            journal=self._journal,
            keep=self._keep,
            kept=self.kept,
            log=group.log,
            suite=suite,
            fittings=group.fittings,
        )
        self.mixer: Mixer | Bucketer = (Mixer if group.charter.buckets is None else Bucketer)(group.charter, site)
        self.mixer.open()

    def begin(self, vector: Vector) -> None:
        self.ended = None
        self.mixer.begin(vector, self._end)

    def close(self) -> None:
        """Its process is gone."""
        self.mixer.close()
        self.transport.close()

    def _journal(self, charter: Charter) -> Opened:
        journal = self.journals.setdefault(session_name(charter), MemoryJournal())
        return Opened(journal, self.boot, journal.last_round)

    def _keep(self, draw: Draw) -> None:
        self.kept = draw

    def _end(self, ended: RoundResult | DecentraError) -> None:
        self.ended = ended


class SimulatedGrid:
    """n peers on a grid, on one virtual network; the same seed gives the same run.

    Args:
        charter: signed by the members, with terms for a grid.
        members: their identities.
        seed: everything random follows from it.
        faults: what the network's edges do; none by default.
        suite: real or ideal cryptography.
    """

    def __init__(
        self,
        charter: Charter,
        members: Sequence[Identity],
        *,
        seed: int = 0,
        faults: Faults | None = None,
        suite: Suite = REAL,
        log: logging.Logger | None = None,
    ) -> None:
        self.charter, self.seed, self.suite = charter, seed, suite
        registry = SharedRegistry(charter.protocol.name) if isinstance(suite, IdealCrypto) else None
        self.fittings = Fittings(registry=registry)
        self.log = log or logging.getLogger("decentra")
        self._closed = False
        self.clock = EventHeap()
        self.network = Network(self.clock, seed, faults)
        self.peers = tuple(GridPeer(self, identity) for identity in members)

    def run(self, vectors: Sequence[Vector | None], patience: float = 7200.0) -> list[Ending]:
        """Start a mixing at every peer that has a vector, and let virtual time pass until it has ended for them.

        Args:
            vectors: one a peer; None for a peer that does not start.
            patience: virtual seconds; a mixing that has not ended by then is a defect, and LocalError.
        """
        if self._closed:
            raise LocalError("this group is closed; make another")
        started = [peer for peer, vector in zip(self.peers, vectors, strict=True) if vector is not None]
        for peer, vector in zip(self.peers, vectors, strict=True):
            if vector is not None:
                peer.begin(vector)
        deadline = self.clock.now() + patience
        if not self.clock.run_until(lambda: all(peer.ended is not None for peer in started), deadline):
            raise LocalError(f"the mixing has not ended within {patience} virtual seconds; a defect of decentra")
        return [None if vector is None else peer.ended for peer, vector in zip(self.peers, vectors, strict=True)]

    def average(self, updates: Sequence[Update], *, weights: Sequence[int] | None = None) -> list[RoundResult]:
        """One mixing over the peers' lists of float32 arrays; every peer's result, in the order of the updates.

        Raises:
            LocalError: the group is closed, or an update can't take part; said before any round.
            DecentraError: what the first peer that failed raised.
        """
        chosen = check_group(updates, weights, len(self.peers), self.charter.protocol.max_weight)
        ended = self.run(
            [
                Vector(list(tensors), describe(tensors, None), weight=weight)
                for tensors, weight in zip(updates, chosen, strict=True)
            ]
        )
        for one in ended:
            if isinstance(one, DecentraError):
                raise one
        return [one for one in ended if isinstance(one, RoundResult)]

    def restart(self, position: int) -> GridPeer:
        """Replace a peer by a new process of the same identity, on the same disk."""
        old = self.peers[position]
        old.close()
        fresh = GridPeer(self, old.identity, old.boot + 1, old)
        self.peers = (*self.peers[:position], fresh, *self.peers[position + 1 :])
        return fresh

    def close(self) -> None:
        """End all peers; a second call does nothing."""
        self._closed = True
        for peer in self.peers:
            peer.close()

    def __enter__(self) -> SimulatedGrid:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
