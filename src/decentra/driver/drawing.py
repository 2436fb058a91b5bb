"""Draws an epoch's beacon: the drawers' round, the word that each signs for it, and the telling of it to all members.

A peer that is no drawer asks two of them in turn; a drawer tells all others what it has, until a quorum has signed.
Datagrams may be lost, so both go on once a second; after that a peer only answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from decentra.charter.charter import Charter
from decentra.crypto.hashing import digest
from decentra.driver.admission import memberships
from decentra.driver.session import Session, Vector
from decentra.driver.site import Site
from decentra.errors import DecentraError, LocalError
from decentra.gossip.allowance import Allowance
from decentra.gossip.beacon import NOTHING, Draws, read
from decentra.gossip.group import drawers_charter
from decentra.transport.base import Lane
from decentra.transport.virtual import Handle
from decentra.types import PeerId, RoundResult
from decentra.wire.codec import Malformed
from decentra.wire.frame import Frame, FrameKind

AGAIN = 1.0
"""Seconds between tellings; also before a drawers' round that failed is begun again."""

ASKED = 2
"""Drawers that a member asks at once: the first may be gone, and a thousand members share few drawers."""


TOLD_A_SECOND, TOLD_AT_ONCE = 4.0, 160.0
"""What a neighbour may cost: 1 a datagram, and 1 a signature to be verified. All 64 are in the first burst twice over;
later it tells once a second, and answers."""


class Drawing:
    """One peer's part in the drawing.

    Args:
        charter: the large one; ``name`` is its hash.
        site: where this peer's sessions run.
        settled: called once, with the beacon in force.
        failed: called once, with why this peer can't go on: what it says can't be kept. It is silent after that.
    """

    def __init__(
        self,
        charter: Charter,
        name: bytes,
        site: Site,
        settled: Callable[[bytes], None],
        failed: Callable[[LocalError], None],
    ) -> None:
        self._charter, self._name, self._site, self._settled, self._failed = charter, name, site, settled, failed
        self._log = site.log
        me, self._drawers = site.identity.id, tuple(member.id for member in charter.drawers)
        check = memberships({member.id: member.ed25519 for member in charter.drawers}, site.suite.verify)
        self.draws = Draws(me, name, self._drawers, charter.protocol.c, site.identity.sign, check)
        self._others = tuple(peer for peer in self._drawers if peer != me)
        self._allowance = Allowance(TOLD_A_SECOND, TOLD_AT_ONCE)
        self._source = int.from_bytes(site.random(8), "little") or 1
        self._asked = int.from_bytes(me[:4], "little")
        self._telling: Handle | None = None
        self._retrying: Handle | None = None
        self._session: Session | None = None
        self._done, self._silent = False, False
        self._part = site.transport.part(digest("drawing", name), self._heard, lambda peer, up, reason: None)

    def open(self) -> None:
        """Begin with what this peer kept of an earlier start."""
        if self._site.kept is not None:
            self.draws.restore(self._site.kept)
        if self.draws.draws and self.draws.in_force is None:
            self._session = self._site.session(drawers_charter(self._charter, self._name))
            self._draw()
        self._look()
        if not self._done:
            self._tell()

    @property
    def awaited(self) -> tuple[PeerId, ...]:
        """Which drawers this peer waits for."""
        if self._done:
            return ()
        known = self.draws.known
        signed = frozenset[PeerId]() if known is None else frozenset(known.signatures)
        return tuple(peer for peer in self._others if peer not in signed)

    def close(self) -> None:
        """Draw and tell no more."""
        self._rest()
        self._part.close()

    def _rest(self) -> None:
        for timer in (self._telling, self._retrying):
            if timer is not None:
                timer.cancel()
        self._end_round()

    # ── the drawers' round ───────────────────────────────────────────────────────────────────────────────────────────

    def _draw(self) -> None:
        if self._session is not None and not self._session.busy:
            self._session.begin(Vector([], (), fingerprint=self._name), self._drew)

    def _drew(self, ended: RoundResult | DecentraError) -> None:
        if self._session is None or self._silent or not self.draws.draws:
            return
        if isinstance(ended, RoundResult):
            self._sign(ended.beacon)
        else:  # nothing is spent in a round over nothing, so it is simply begun again
            self._log.info("the drawers' round failed and begins again: %s", ended)
            self._retrying = self._site.clock.call_later(AGAIN, self._draw)

    def _sign(self, beacon: bytes) -> None:
        """Durable before it is counted or told: a drawer signs one beacon only."""
        try:
            self.draws.sign(beacon, self._site.keep)
        except LocalError as error:
            self._fall_silent(error)
            return
        self._tell_each(self._others)
        self._look()

    def _end_round(self) -> None:
        if self._session is not None:
            session, self._session = self._session, None
            session.driver.close()

    # ── telling ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _tell(self) -> None:
        if self._done or self._silent:
            return
        if self._site.identity.id in self._drawers:
            self._tell_each(self._others)
        else:
            turn = [self._drawers[(self._asked + step) % len(self._drawers)] for step in range(ASKED)]
            self._asked += ASKED
            self._tell_each(turn)
        self._telling = self._site.clock.call_later(AGAIN, self._tell)

    def _tell_each(self, peers: Sequence[PeerId]) -> None:
        known = self.draws.known
        datagram = NOTHING if known is None else known.pack()
        header = Frame(FrameKind.DATAGRAM, 1, self._source, 0, self._part.session, 0, 0, 0, 0, len(datagram)).pack()
        for peer in peers:
            self._part.dial(peer)
            self._part.send(peer, Lane.CONTROL, header, [datagram])

    def _heard(self, peer: PeerId, lane: Lane, header: bytes, buffers: Sequence[memoryview]) -> None:
        affords = partial(self._allowance.spend, peer, self._site.clock.now())
        if self._silent or not affords():
            return
        try:
            told = read(bytes(buffers[0])) if len(buffers) == 1 else None
        except Malformed as error:
            self._log.debug("what peer %s tells of the beacon is not read: %s", peer, error)
            return
        if told is not None and self.draws.take(told, affords):
            if self.draws.draws and self.draws.shared is not None:
                self._sign(self.draws.shared)
            else:
                self._keep()
                self._look()
        if not self._silent and self.draws.lacks(told):
            self._tell_each([peer])

    def _keep(self) -> None:
        known = self.draws.to_keep
        try:
            if known is not None:
                self._site.keep(known)
        except LocalError as error:
            self._fall_silent(error)

    def _fall_silent(self, error: LocalError) -> None:
        if not self._silent:
            self._silent = True
            self._log.error("the drawing of the beacon stops here: %s", error)
            self._site.clock.call_later(0.0, partial(self._stop, error))

    def _stop(self, error: LocalError) -> None:
        """Apart from the callback that brought it, as `_finish`."""
        self.close()
        self._failed(error)

    def _look(self) -> None:
        beacon = self.draws.in_force
        if beacon is not None and not self._done and not self._silent:
            self._done = True
            self._site.clock.call_later(0.0, partial(self._finish, beacon))

    def _finish(self, beacon: bytes) -> None:
        """Apart from the callback that brought it, which may be the drawers' own round's."""
        self._rest()
        self._settled(beacon)
