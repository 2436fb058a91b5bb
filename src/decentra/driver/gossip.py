"""Carries the membership machine: its datagrams over the links, its timers on the driver's clock.

It lives as long as its peer's session, beside the rounds and apart from them: it decides nothing, and is read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from decentra.errors import LocalError
from decentra.gossip.happenings import Changed, Doing, Happening, Heard, Leave, Say, Standing
from decentra.gossip.membership import Membership
from decentra.gossip.messages import pack, read
from decentra.gossip.view import Status
from decentra.machine.effects import Abort, SetTimer
from decentra.machine.events import Expired, Start
from decentra.transport.virtual import Handle, Scheduler
from decentra.types import PeerId

_TOLD: dict[Status, str] = {
    "up": "peer %s is up",
    "suspected": "peer %s does not answer; the others are asked",
    "down": "peer %s is down: more members say so than may lie; rounds go on without it until it is back",
    "left": "peer %s has left",
}


class Gossip:
    """One peer's part in its group's membership.

    Args:
        machine: who is up, as this peer comes to know.
        clock: when things happen.
        whisper: sends a datagram to a member, or drops it where there is no way.
        failed: told why this peer must end, if it must.
    """

    def __init__(
        self,
        machine: Membership,
        clock: Scheduler,
        whisper: Callable[[PeerId, bytes], None],
        failed: Callable[[LocalError], None],
        log: logging.Logger,
    ) -> None:
        self._machine, self._clock, self._whisper, self._failed = machine, clock, whisper, failed
        self._log = log
        self._timers: dict[str, Handle] = {}
        self._doubted: set[PeerId] = set()
        """Of whom anything else was logged than that it is up."""
        self._handle(Start())

    @property
    def away(self) -> frozenset[PeerId]:
        """Whom a round need not wait for."""
        return self._machine.away

    def snapshot(self) -> tuple[Standing, ...]:
        """How every member stands, since when by the driver's clock."""
        return self._machine.snapshot()

    def heard(self, peer: PeerId, datagram: bytes) -> None:
        """A neighbour's datagram has come.

        Raises:
            RemoteError: it breaks a clause; it changed nothing.
        """
        self._handle(Heard(peer, read(datagram, peer)))

    def leave(self) -> None:
        """Say goodbye, and take part no more."""
        self._handle(Leave())

    def close(self) -> None:
        for handle in self._timers.values():
            handle.cancel()
        self._timers.clear()

    def _handle(self, happening: Happening) -> None:
        for doing in self._machine.handle(happening, self._clock.now()):
            self._do(doing)

    def _do(self, doing: Doing) -> None:
        match doing:
            case Say(to, message):
                self._whisper(to, pack(message))
            case SetTimer(name, after):
                earlier = self._timers.pop(name, None)
                if earlier is not None:
                    earlier.cancel()
                self._timers[name] = self._clock.call_later(after, partial(self._expired, name))
            case Changed(peer, status):
                news = status != "up" or peer in self._doubted  # that somebody came, a round says
                self._log.log(logging.INFO if news else logging.DEBUG, _TOLD.get(status, f"peer %s is {status}"), peer)
                (self._doubted.discard if status == "up" else self._doubted.add)(peer)
            case Abort(LocalError() as error):
                self.close()
                self._failed(error)

    def _expired(self, name: str) -> None:
        self._timers.pop(name, None)
        self._handle(Expired(name))
