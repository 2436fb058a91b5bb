"""``decentra.local_group``: n peers in this process, for notebooks, docs and tests."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import SupportsIndex

from decentra.charter.charter import Charter
from decentra.charter.policy import LEAST_MEMBERS, MOST_MEMBERS
from decentra.crypto.keys import Identity
from decentra.driver.given import Update, check_group
from decentra.errors import LocalError
from decentra.peer.config import PeerFolder, write_config
from decentra.peer.opening import open_peer
from decentra.peer.runtime import Peer
from decentra.simulation.grid_group import SimulatedGrid
from decentra.simulation.group import SimulatedGroup, charter_for, identities
from decentra.types import RoundResult

ON_A_GRID = "group-gossip"
"""The charter template whose members average on a grid."""

INTERRUPT_AGAIN = 0.1
"""Seconds between interrupts of the peers that still wait in a round that has failed."""


class LocalGroup:
    """n real peers in this process, each with its own folder, threads and port, over ZeroMQ on loopback.

    Attributes:
        charter: the group's agreement.
        peers: in the order of their ids.
    """

    def __init__(self, charter: Charter, members: Sequence[Identity]) -> None:
        self.charter = charter
        self._closed = False
        self._home = tempfile.TemporaryDirectory(prefix="decentra-")
        self.peers: list[Peer] = []
        with ExitStack() as undo:
            undo.callback(self.close)
            with held_ports(len(members)) as ports:
                for index, identity in enumerate(members):
                    folder = write_folder(Path(self._home.name) / f"peer-{index}", identity, charter, ports, index)
                    self.peers.append(open_peer(folder.path))
            undo.pop_all()

    def average(self, updates: Sequence[Update], *, weights: Sequence[int] | None = None) -> list[RoundResult]:
        """One round over the peers' lists of float32 arrays; every peer's result, in the order of the updates.

        Raises:
            LocalError: the group is closed, or an update can't take part; said before any round.
            DecentraError: what the first peer that failed raised, once the round has ended for all.
        """
        if self._closed:
            raise LocalError("this group is closed; make another")
        chosen = check_group(updates, weights, len(self.peers), self.charter.protocol.max_weight)
        with ThreadPoolExecutor(len(self.peers)) as threads:
            calls = [
                threads.submit(peer.average, list(update), weight=weight)
                for peer, update, weight in zip(self.peers, updates, chosen, strict=True)
            ]
            with ExitStack() as undo:
                undo.callback(self._interrupt, calls)
                self._raise_own_mistakes(calls)
                undo.pop_all()
        return [call.result() for call in calls]

    @staticmethod
    def _raise_own_mistakes(calls: Sequence[Future[RoundResult]]) -> None:
        """Wait for the round. A peer that refused its own update tells why, and the others need not wait for it."""
        ended, _ = wait(calls, return_when=FIRST_EXCEPTION)
        for call in ended:
            error = call.exception()
            if isinstance(error, LocalError):
                raise error
        errors = [error for call in calls if (error := call.exception()) is not None]
        if errors:
            raise min(errors, key=lambda error: not isinstance(error, LocalError))

    def _interrupt(self, calls: Sequence[Future[RoundResult]]) -> None:
        waiting = True
        while waiting:  # again, since a peer whose round had not begun was not interrupted
            for peer, call in zip(self.peers, calls, strict=True):
                if not call.done():
                    with suppress(LocalError):  # it broke meanwhile, and its own call tells why
                        peer.interrupt()
            waiting = bool(wait(calls, INTERRUPT_AGAIN).not_done)

    def close(self) -> None:
        """End all peers and erase their folders; a second call does nothing."""
        self._closed = True
        with ExitStack() as last:
            last.callback(self._home.cleanup)
            with ThreadPoolExecutor(max(1, len(self.peers))) as threads:
                for closing in [threads.submit(peer.close) for peer in self.peers]:
                    last.callback(closing.result)

    def __enter__(self) -> LocalGroup:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def held_ports(count: int) -> Iterator[list[int]]:
    """Ports on loopback that the system gives, kept from everyone who does not ask for them by number.

    Until the ``with`` ends, no outgoing connection is given one of them; a peer can listen on it all the same, since
    both sides set SO_REUSEADDR and only one listens.
    """
    with ExitStack() as held:
        ports = []
        for _ in range(count):
            one = held.enter_context(socket.socket())
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(("127.0.0.1", 0))
            ports.append(int(one.getsockname()[1]))
        yield ports


def write_folder(path: Path, identity: Identity, charter: Charter, ports: Sequence[int], index: int) -> PeerFolder:
    """A peer's folder, as ``decentra init`` and ``charter sign`` leave it, on loopback.

    Args:
        path: not there yet.
        identity: the peer's keys.
        charter: signed by all.
        ports: every member's port, in the order of the members.
        index: which of them this peer is.
    """
    path.mkdir(mode=0o700, parents=True)
    folder = PeerFolder(path)
    identity.save(folder.identity)
    addresses = [f"tcp://127.0.0.1:{port}" for port in ports]
    text = write_config(charter.member(identity.id).name, addresses[index], None)
    lines = [
        f'{member.name} = "{address}"'
        for member, address in zip(charter.members, addresses, strict=True)
        if member.id != identity.id
    ]
    folder.config.write_text(text.replace("[peers]\n", "[peers]\n" + "\n".join(lines) + "\n", 1))
    folder.charter.write_text(charter.to_toml())
    return folder


def local_group(
    n: int,
    *,
    protocol: str = "secagg",
    rule: str | None = None,
    transport: str = "simulated",
    seed: int = 0,
    **changes: object,
) -> SimulatedGroup | SimulatedGrid | LocalGroup:
    """n peers in this process that average together, until the group's ``close`` or the end of its ``with``.

    An update travels as integers within a range that all agree on, ``protocol.initial_range`` in the first round, ±0.1.
    A coordinate beyond it is cut to it, and what is cut is lost: each peer warns once in the log, and
    ``RoundResult.clipped`` counts. After a round the range moves by up to a factor of 2 towards what the mean needs.
    Set it to what you average, such as ``protocol__initial_range=5.0``, and ``protocol__width=32`` for finer steps.

    Args:
        n: 3 to 64.
        protocol: ``secagg``, ``allreduce``, ``mesh`` or ``shamir-gram``, which needs n ≥ 3c + 1, so 4 peers; or
            ``group-gossip``, for secagg in groups on a grid, of about ``groups__size`` peers. ``average`` is then a
            mixing, with a `MixingResult` for each peer.
        rule: what is computed of the updates; a robust rule needs ``mesh`` or ``shamir-gram``. By default the
            protocol's template says.
        transport: ``simulated``, which is deterministic under ``seed``, or ``zeromq``, over loopback.
        seed: everything random of a simulated group follows from it.
        changes: replace the charter template's values by ``section__key``, such as ``protocol__width=32``.

    Raises:
        LocalError: another n, an unknown protocol or transport, or a charter that is not sound.

    >>> import numpy as np
    >>> group = local_group(4, protocol="secagg", protocol__width=32)
    >>> results = group.average([[np.full((2, 2), 0.01 * peer, np.float32)] for peer in range(4)])
    >>> results[0].values[0].round(4)
    array([[0.015, 0.015],
           [0.015, 0.015]], dtype=float32)
    """
    if not isinstance(n, SupportsIndex):
        raise LocalError(f"n is {n!r} and must be a whole number, {LEAST_MEMBERS} to {MOST_MEMBERS}")
    if not LEAST_MEMBERS <= n <= MOST_MEMBERS:
        raise LocalError(f"n is {n} and must be {LEAST_MEMBERS} to {MOST_MEMBERS}")
    if transport not in ("simulated", "zeromq"):
        raise LocalError(f"there is no transport {transport!r}; there are 'simulated' and 'zeromq'")
    changes = changes if rule is None else {**changes, "protocol__rule": rule}
    members = identities(n, seed) if transport == "simulated" else fresh_identities(n)
    if protocol == ON_A_GRID:
        changes = {"groups__drawers": _some_drawers(n, changes), **changes}
    charter = charter_for(members, protocol, template=None, **changes)
    if transport == "simulated" and charter.groups is not None:
        return SimulatedGrid(charter, members, seed=seed)
    if transport == "simulated":
        return SimulatedGroup(charter, members, seed=seed)
    return LocalGroup(charter, members)


def _some_drawers(n: int, changes: Mapping[str, object]) -> list[str]:
    """So many of n peers that one may stop while the others draw the beacon."""
    c = changes.get("protocol__c", 1)
    return [f"peer-{index}" for index in range(min(n, 2 + 3 * (c if isinstance(c, int) else 1)))]


def fresh_identities(n: int) -> tuple[Identity, ...]:
    """n new identities, in the order of their ids."""
    return tuple(sorted((Identity.generate() for _ in range(n)), key=lambda identity: identity.id))
