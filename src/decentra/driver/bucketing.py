"""One peer's rounds in buckets: its bucket sums in a session of its own, and all combine the buckets' means in another.

The buckets are drawn once an epoch. What the bucket certified for this peer is what it brings to the combining; where
its bucket failed it takes part in that all the same, and has the result (``specs/bucketed/README.md``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from decentra.charter.charter import Charter
from decentra.driver.epoch import Epoch, Play
from decentra.driver.session import Done, Session, Vector
from decentra.driver.site import Site
from decentra.errors import Amended, DecentraError, LocalError, Unavailable, Underway
from decentra.gossip import schedule
from decentra.gossip.group import bucket_charter, combining_charter
from decentra.gossip.schedule import TRIES
from decentra.transport.virtual import Handle
from decentra.types import PeerId, RoundId, RoundResult


@dataclass
class _Play(Play):
    """A round that is on.

    Attributes:
        bucket: what the bucket's session came to, once it has.
        state: the common state that the update was made under.
        overdue: ends the wait for the bucket; ``late`` once it did.
    """

    bucket: RoundResult | DecentraError | None = None
    state: bytes = b""
    overdue: Handle | None = None
    late: bool = False


class Bucketer(Epoch[_Play]):
    """One peer in a bucket. All calls and callbacks are on the driver's thread.

    Args:
        charter: the group's, with buckets; its Policy must hold.
        site: where this peer's sessions run.

    Raises:
        LocalError: the charter is unsound or has no buckets, or this peer is no member.
    """

    played, needed = "a round", "nearly all members have to run when an epoch begins"

    def __init__(self, charter: Charter, site: Site) -> None:
        if charter.buckets is None or charter.buckets.beacon is not None:
            raise LocalError("this charter has no table [buckets] with buckets to draw; open a plain peer")
        super().__init__(charter, site)

    def check(self, vector: Vector) -> None:
        if vector.tensors is None:
            raise LocalError("a round in buckets can't begin ahead of its update; average without preparing")

    def play(self, vector: Vector, now: float, done: Done) -> _Play:
        return _Play(vector, now, now, done)

    def open_sessions(self, beacon: bytes) -> Sequence[Session]:
        combining = combining_charter(self.charter, self.name, beacon)
        (mine,) = (bucket for bucket in combining.drawn_buckets if self.me in bucket)
        all_of_them = self._site.session(combining, before=1)
        derived = bucket_charter(self.charter, self.name, beacon, mine)
        return self._site.session(derived, lender=all_of_them.common), all_of_them

    def session_of(self, play: _Play) -> Session:
        return self.sessions[0 if play.bucket is None else 1]

    # ── the bucket's sum ─────────────────────────────────────────────────────────────────────────────────────────────

    def start(self, play: _Play) -> None:
        bucket = self.sessions[0]
        away = frozenset[PeerId]() if bucket.driver.gossip is None else bucket.driver.gossip.away
        if len(bucket.charter.ids) - len(away.intersection(bucket.charter.ids)) < bucket.charter.roster_floor:
            play.number = play.number if play.tries else self.upcoming
            mend = "its bucket has a mean again once they are back"
            self._go_on(play, Unavailable(sorted(away), 0.0, "its bucket's sum, for which too few are there", mend))
            return
        if play.overdue is None:
            play.overdue = self._site.clock.call_later(self.bucket_patience, partial(self._overdue_bucket, play))
        play.number = play.number if play.tries else self.upcoming
        play.tries += 1
        play.state = self.sessions[1].common.digest_with(play.vector.shared)
        vector = replace(play.vector, fingerprint=partial(self._fingerprint, play.vector), shared=None)
        try:
            self.sessions[0].begin(vector, partial(self._summed, play), schedule.first_round(play.number))
        except LocalError as error:  # the caller's mistake, and said before anything was
            self._on = None
            play.done(error)

    def _fingerprint(self, vector: Vector, round_id: RoundId) -> bytes:
        """Who is in another round is in no roster with this one's peers, whatever either is in its own session."""
        given = vector.fingerprint
        model = given if isinstance(given, bytes) else given(self._round_id(schedule.mixing_of(round_id.number)))
        return schedule.fingerprint(model, schedule.mixing_of(round_id.number))

    @property
    def bucket_patience(self) -> float:
        """Seconds that a bucket's sum may take: less than the others wait for this peer in the combining."""
        terms = self.charter.rounds
        return terms.ready_deadline + min(terms.ready_deadline, 4 * terms.phase_deadline)

    def _overdue_bucket(self, play: _Play) -> None:
        session = self.sessions[0]
        if self._on is play and play.bucket is None and session.busy:
            play.late = True
            what, mend = f"its bucket's sum of round {play.number + 1}", "this peer goes on without one"
            session.driver.cancel(Unavailable(session.driver.awaited, self.bucket_patience, what, mend))

    def _round_id(self, number: int) -> RoundId:
        return RoundId(self.charter.group.epoch, number + 1)

    def _summed(self, play: _Play, ended: RoundResult | DecentraError) -> None:
        play.number = schedule.mixing_of(self.sessions[0].round.number)
        self._next = play.number + 1
        if isinstance(ended, DecentraError) and self._goes_again(play, ended, ended.spent):
            self._site.clock.call_later(0.0, partial(self._again, play, self.start))
            return
        if isinstance(ended, LocalError | Underway | Amended):  # nothing that the others could go on without
            self.end(play, ended)
            return
        self._go_on(play, ended)

    def _go_on(self, play: _Play, ended: RoundResult | DecentraError) -> None:
        """Combine, with the bucket's mean or without one."""
        self._next = play.number + 1
        if isinstance(ended, DecentraError):
            self._site.log.warning("this peer's bucket has no mean in this round: %s", ended)
        if play.overdue is not None:
            play.overdue.cancel()
        play.bucket, play.tries, play.since, play.late = ended, 0, self._site.clock.now(), False
        if play.cancelled is not None:
            self.end(play, play.cancelled)
        else:
            self._combine(play)

    def _goes_again(self, play: _Play, error: DecentraError, spent: bool) -> bool:
        waited = self._site.clock.now() - play.since
        final = spent or play.late or play.cancelled is not None or isinstance(error, LocalError | Underway | Amended)
        return not final and play.tries < TRIES and waited < self.charter.rounds.ready_deadline

    def _again(self, play: _Play, step: Callable[[_Play], None]) -> None:
        if self._on is play:
            step(play)

    # ── the combining ────────────────────────────────────────────────────────────────────────────────────────────────

    def _combine(self, play: _Play) -> None:
        session, mine = self.sessions[1], play.bucket
        if schedule.mixing_of(session.upcoming) > play.number:
            mend = "the others are in a later round, which this peer takes part in next"
            self.end(play, Unavailable((), 0.0, f"the means of round {play.number + 1}", mend))
            return
        specs = play.vector.specs
        if isinstance(mine, RoundResult):
            values, summed = list(mine.values), mine.participants
        else:
            zero = np.float32(0)
            values, summed = [np.broadcast_to(zero, tensor.shape) for tensor in specs], ()
        vector = Vector(
            values,
            specs,
            fingerprint=partial(self._fingerprint, play.vector),
            shared=play.vector.shared,
            summed=summed,
            summed_under=play.state,
        )
        play.tries += 1
        try:
            session.begin(vector, partial(self._combined, play), schedule.first_round(play.number))
        except LocalError as error:
            self.end(play, error)

    def _combined(self, play: _Play, ended: RoundResult | DecentraError) -> None:
        if isinstance(ended, DecentraError):
            if self._goes_again(play, ended, spent=False):  # what its bucket summed is certified, and may be told again
                self._site.clock.call_later(0.0, partial(self._again, play, self._combine))
            else:
                self.end(play, ended)
            return
        self._on = None
        mine = play.bucket if isinstance(play.bucket, RoundResult) else None
        play.done(
            replace(
                ended,
                round=self._round_id(play.number),
                dropped=tuple(peer for peer in self.charter.ids if peer not in ended.participants),
                bytes_sent=ended.bytes_sent + (0 if mine is None else mine.bytes_sent),
                bytes_received=ended.bytes_received + (0 if mine is None else mine.bytes_received),
                seconds=self._site.clock.now() - play.began,
                clipped=0 if mine is None else mine.clipped,
                contributed=self.me in ended.participants,
                beacon=b"" if mine is None else mine.beacon,
            )
        )

    def end(self, play: _Play, error: DecentraError) -> None:
        """This peer has no result; its update is spent if its bucket's sum was certified with it, or may have been."""
        self._on = None
        match play.bucket:
            case RoundResult(contributed=True):
                error.spent = True
            case DecentraError(spent=True):
                error.spent = True
            case None:
                pass
            case _:
                error.spent = False
        self._site.log.info("%s", error)
        play.done(error)
