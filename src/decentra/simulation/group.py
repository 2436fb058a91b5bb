"""A simulated group: n peers with the real machines, crypto and driver, on a virtual network and clock."""

from __future__ import annotations

import logging
import tomllib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decentra.charter.charter import Charter, Member
from decentra.crypto.keys import Identity
from decentra.data import locate
from decentra.driver.driver import Driver
from decentra.driver.given import check_group, describe
from decentra.driver.ports import Ports
from decentra.driver.session import Session, Vector
from decentra.errors import DecentraError, LocalError
from decentra.simulation.ports import InlinePool, MemoryJournal, SeededRandom
from decentra.transport.simulated import Faults, Network
from decentra.transport.virtual import EventHeap
from decentra.types import PeerId, RoundId, RoundResult

Ending = RoundResult | DecentraError | None
"""How a round ended for a peer; None for one that did not take part."""

Witness = Callable[[PeerId, RoundId, NDArray[Any]], None]
"""Shown every encoded update before it is masked: whose it is, of which round, and its ring elements."""


def identities(n: int, seed: int) -> tuple[Identity, ...]:
    """n identities that follow from a seed, in the order of their ids."""
    made = [Identity.from_seed(SeededRandom(seed, b"identity %d" % index)(32)) for index in range(n)]
    return tuple(sorted(made, key=lambda identity: identity.id))


_WRITTEN = "a change is written as section__key, such as protocol__width=16"


def _changed(tables: dict[str, Any], changes: Mapping[str, object], where: str) -> Charter:
    """The charter of a template's tables with changes by ``section__key``."""
    for key, value in changes.items():
        section, apart, name = key.partition("__")
        if not apart:
            homes = [home for home, table in tables.items() if isinstance(table, dict) and key in table]
            mend = f"write {homes[0]}__{key}={tables[homes[0]][key]!r}" if homes else _WRITTEN
            raise LocalError(f"{key!r} is no argument here; {mend}")
        tables.setdefault(section, {})[name] = value
    try:
        return Charter.build(tables, where)
    except LocalError as error:
        raise LocalError(f"{error}; {_WRITTEN}" if changes else str(error)) from None


def charter_for(
    members: Sequence[Identity], protocol: str, *, template: Path | None = None, **changes: object
) -> Charter:
    """The charter template of a protocol, for these members and signed by all of them.

    Args:
        members: who is in the group.
        protocol: the template's name in ``protocols/``.
        template: another file to begin from.
        changes: replace values by ``section__key``, such as ``protocol__width=32``.

    Raises:
        LocalError: there is no such protocol, or the changed charter is unsound.
    """
    path = locate("protocols") / f"{protocol}.toml" if template is None else template
    if not path.is_file():
        known = ", ".join(sorted(found.stem for found in path.parent.glob("*.toml")))
        raise LocalError(f"there is no protocol {protocol!r}; there are {known}")
    tables = tomllib.loads(path.read_text())
    charter = _changed(tables, changes, path.name)
    charter = charter.with_members(Member.of(identity, f"peer-{index}") for index, identity in enumerate(members))
    for identity in members:
        charter = charter.sign(identity)
    return charter


class SimulatedPeer:
    """One simulated peer: its session on virtual ports, and how its last round ended."""

    def __init__(self, group: SimulatedGroup, identity: Identity, boot: int) -> None:
        self.identity, self.boot = identity, boot
        self.journal = MemoryJournal()
        self.ended: Ending = None
        random = SeededRandom(group.seed, identity.id + boot.to_bytes(8, "little"))
        witness = None if group.witness is None else partial(group.witness, identity.id)
        self.session = Session(identity, group.charter, boot=boot, random=random, witness=witness, log=group.log)
        driver = self.session.driver
        transport = group.network.transport(identity.id, driver.on_receive, driver.on_link)
        self.session.open(Ports(group.clock, transport, self.journal, InlinePool()))

    @property
    def driver(self) -> Driver:
        return self.session.driver

    def begin(self, vector: Vector) -> None:
        self.ended = None
        self.session.begin(vector, self._end)

    def supply(self, vector: Vector) -> None:
        """Hand over the update of a round that was begun ahead of it; nothing where that has ended meanwhile."""
        if self.session.awaits_update and vector.tensors is not None:
            self.session.supply(vector.tensors, weight=vector.weight, residual=vector.residual)

    def _end(self, ended: RoundResult | DecentraError) -> None:
        self.ended = ended


class SimulatedGroup:
    """n peers on one virtual network; the same seed gives the same run.

    Args:
        charter: signed by the members.
        members: their identities.
        seed: everything random follows from it.
        faults: what the network's edges do; none by default.
        witness: shown every encoded update, as a leak check needs it.
    """

    def __init__(
        self,
        charter: Charter,
        members: Sequence[Identity],
        *,
        seed: int = 0,
        faults: Faults | None = None,
        witness: Witness | None = None,
        log: logging.Logger | None = None,
    ) -> None:
        self.charter, self.seed, self.witness = charter, seed, witness
        self.log = log or logging.getLogger("decentra")
        self._closed = False
        self.clock = EventHeap()
        self.network = Network(self.clock, seed, faults)
        self.peers = tuple(SimulatedPeer(self, identity, 1) for identity in members)

    def run(self, vectors: Sequence[Vector | None], patience: float = 3600.0) -> list[Ending]:
        """Start a round at every peer that has a vector, and let virtual time pass until it has ended for them.

        Args:
            vectors: one a peer; None for a peer that does not start.
            patience: virtual seconds; a round that has not ended by then is a defect, and LocalError.
        """
        if self._closed:
            raise LocalError("this group is closed; make another")
        started = [peer for peer, vector in zip(self.peers, vectors, strict=True) if vector is not None]
        for peer, vector in zip(self.peers, vectors, strict=True):
            if vector is not None:
                peer.begin(vector)
        deadline = self.clock.now() + patience
        if not self.clock.run_until(lambda: all(peer.ended is not None for peer in started), deadline):
            raise LocalError(f"the round has not ended within {patience} virtual seconds; a defect of decentra")
        return [None if vector is None else peer.ended for peer, vector in zip(self.peers, vectors, strict=True)]

    def average(
        self, updates: Sequence[Sequence[NDArray[np.float32]]], *, weights: Sequence[int] | None = None
    ) -> list[RoundResult]:
        """One round over the peers' lists of float32 arrays; every peer's result, in the order of the updates.

        Raises:
            LocalError: the group is closed, or an update can't take part; said before any round.
            DecentraError: what the first peer that failed raised.
        """
        chosen = check_group(updates, weights, len(self.peers), self.charter.protocol.max_weight)
        vectors = [
            Vector(list(tensors), describe(tensors, None), weight=weight)
            for tensors, weight in zip(updates, chosen, strict=True)
        ]
        results: list[RoundResult] = []
        for ended in self.run(vectors):
            if isinstance(ended, DecentraError):
                raise ended
            if ended is not None:
                results.append(ended)
        return results

    def restart(self, position: int) -> SimulatedPeer:
        """Replace a peer by a new process of the same identity, which remembers nothing but that it is another boot."""
        old = self.peers[position]
        old.driver.close()
        fresh = SimulatedPeer(self, old.identity, old.boot + 1)
        self.peers = (*self.peers[:position], fresh, *self.peers[position + 1 :])
        return fresh

    def close(self) -> None:
        """End all peers; a second call does nothing."""
        self._closed = True
        for peer in self.peers:
            peer.driver.close()

    def __enter__(self) -> SimulatedGroup:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
