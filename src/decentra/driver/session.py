"""One peer's part in an epoch: its charter, its driver, and one round after another."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from decentra import derive, spec
from decentra.charter.charter import Charter
from decentra.charter.policy import Policy
from decentra.crypto.ring import DecodeError, Ring, decode
from decentra.crypto.suite import REAL, Suite
from decentra.driver.admission import memberships
from decentra.driver.blobs import Keeps, Random, Witness
from decentra.driver.common import BorrowedState, GroupState
from decentra.driver.division import Division, weigh
from decentra.driver.driver import Driver
from decentra.driver.fittings import PLAIN, Fittings, MachineMaker
from decentra.driver.pace import Pace
from decentra.driver.ports import Ports
from decentra.driver.running import Ended
from decentra.driver.succession import Charters
from decentra.driver.tally import BULK
from decentra.errors import Amended, Behind, DecentraError, LocalError, RemoteError, Unavailable
from decentra.gossip import happenings
from decentra.gossip.halves import Halves
from decentra.gossip.membership import Membership
from decentra.machine.effects import Tools
from decentra.machine.events import Supplied
from decentra.machine.state import SharedState
from decentra.protocols.catalogue import machine, registry
from decentra.protocols.rendezvous.messages import Leave
from decentra.protocols.setting import Contribution, Outcome, Setting
from decentra.types import EpochName, PeerId, RoundId, RoundResult, TensorSpec
from decentra.wire.entry import ZERO, Chain, Signer

MOST_LEAPS = 3
"""How often a peer follows others to a later round before its caller hears of it: who lies about rounds must not lead
it on for ever."""

Done = Callable[[RoundResult | DecentraError], None]

FEW = 20
"""One coordinate in so many may be clipped, and wait for the next round, without a word."""


@dataclass(frozen=True)
class Vector:
    """What a caller hands to a round.

    ``tensors`` are float32 and may be computed as they are read, or None for a round that begins ahead of them; the
    names in ``specs`` are unique. ``fingerprint`` names the model where that is more than the vector, in a round if it
    differs by round; ``residual`` carries what clipping cuts; ``summed`` is whose updates the vector is the mean of,
    where it is a bucket's, and ``summed_under`` the common state that they were made under.
    """

    tensors: Sequence[NDArray[np.float32]] | None = field(repr=False)
    specs: tuple[TensorSpec, ...]
    weight: int = 1
    fingerprint: bytes | Callable[[RoundId], bytes] = ZERO
    shared: SharedState | None = field(default=None, repr=False)
    residual: Sequence[NDArray[np.float32]] | None = field(default=None, repr=False)
    summed: tuple[PeerId, ...] = ()
    summed_under: bytes | None = None


@dataclass
class Part:
    """A round's caller: what it gave, when, and whom to tell how the round ends."""

    vector: Vector
    done: Done
    began: float
    sent: int
    received: int
    supplied: float
    """When its update was there."""


@dataclass(frozen=True)
class Decode:
    """Job: the certified sums as float32 means, and the largest magnitude of each tensor's mean."""

    outcome: Outcome
    specs: tuple[TensorSpec, ...]
    width: int
    max_weight: int

    def run(self, tools: Tools) -> tuple[tuple[NDArray[np.float32], ...], tuple[float, ...]]:
        ring = Ring(self.width)
        total = tools.view(self.outcome.total).view(ring.dtype)
        outcome = self.outcome
        values, _ = decode(
            total,
            outcome.ranges,
            [tensor.shape for tensor in self.specs],
            ring=ring,
            n=len(outcome.roster) if outcome.encoded_for is None else outcome.encoded_for,
            survivors=len(outcome.survivors) if outcome.summed is None else outcome.summed,
            max_weight=self.max_weight,
            overwrite=True,  # nobody else has this blob, and a second vector beside it would be the round's peak
        )
        peaks = tuple(max(float(value.max()), -float(value.min())) if value.size else 0.0 for value in values)
        return values, peaks


class Session:
    """One peer's rounds under one charter. All calls and callbacks are on the driver's thread.

    Args:
        identity: this peer's keys.
        charter: signed by all; its Policy must hold.
        boot: how often this peer has started in this session; it never repeats.
        random: randomness for secrets, masks and rounding.
        last_round: the last round that this peer signed anything in; it takes part in later ones only.
        witness: shown every encoded update, for a leak check.
        keeps: gives what keeps the secrets of a session's rounds, for self-audit; None to keep none.
        suite: its cryptography; only a simulation has another one than the real.
        fittings: what a simulation puts in place of this peer's own parts.
        before: rounds of other sessions that members come from, as along a later axis of a grid.
        lender: the common state of another session, by whose ranges this one goes.
    """

    def __init__(
        self,
        identity: Signer,
        charter: Charter,
        *,
        boot: int,
        random: Random,
        last_round: int = 0,
        witness: Witness | None = None,
        keeps: Keeps | None = None,
        suite: Suite = REAL,
        log: logging.Logger | None = None,
        fittings: Fittings = PLAIN,
        before: int = 0,
        lender: GroupState | None = None,
    ) -> None:
        Policy(charter).check()
        charter.member(identity.id)
        if charter.buckets is not None and charter.buckets.beacon is None:
            raise LocalError("this charter's members sum in buckets that a beacon draws; open the peer with open_peer")
        if charter.groups is not None:
            raise LocalError(
                "this charter's members average in groups on a grid, and not in one group; open the peer with "
                "decentra.open_peer (decentra.join trains in one group only, in this release)"
            )
        self.charter, self.me, self._identity = charter, identity.id, identity
        self._check_signed = memberships({member.id: member.ed25519 for member in charter.members}, suite.verify)
        self._log = log or logging.getLogger("decentra")
        terms = charter.protocol
        self.session = session_name(charter)
        self._setting = _setting(identity.id, self.session, charter, suite, random)
        self._machine: MachineMaker = fittings.machine or machine(terms.name)
        self._outcome_clause = machine(terms.name).outcome_clause
        self.common = GroupState(terms) if lender is None else BorrowedState(terms, lender)
        self.last = ZERO
        self.halves = Halves(identity.id, charter.ids, terms.c)
        self.round = RoundId(charter.group.epoch, last_round)
        self._random, self._witness = random, witness
        self._keeper = None if keeps is None else keeps(self.session)
        self._ports: Ports | None = None
        self._leaps = 0
        self._part: Part | None = None
        self._before: tuple[Kept, ...] | None = None
        self._benched: dict[PeerId, tuple[int, int]] = {}
        self._said_clipping = self._decoding = False
        self.pace = Pace(charter.roster_floor, charter.rounds.ready_deadline, before)
        self.driver = self._driver(Chain(identity, self.session, boot), suite, fittings)

    def _driver(self, chain: Chain, suite: Suite, fittings: Fittings) -> Driver:
        charter = self.charter
        return Driver(
            me=self.me,
            chain=chain,
            epoch=EpochName(charter.group.epoch, charter.hash),
            registry=fittings.registry or registry(charter.protocol.name),
            check=self._check_signed,
            members=charter.ids,
            # a slice, or a common state of parameters and momentum, with its ranges
            limit=2 * 4 * charter.model.max_parameters + (4 << 20),
            last=self.round,
            incarnation=int.from_bytes(self._random(8), "little") or 1,
            random=self._random,
            collude=charter.protocol.c,
            witness=self._witness,
            keeper=self._keeper,
            log=self._log,
            fittings=fittings,
        )

    def open(self, ports: Ports) -> None:
        self._ports = ports
        self.driver.open(ports)

    def follow(self, before: Session) -> None:
        """Carry an earlier epoch on: its round numbers and ranges, and its last certified result, for which more than c
        members vouch to whoever comes in."""
        self.last = before.last
        self.halves.follow(before.halves)
        self.round = RoundId(self.round.epoch, max(self.round.number, before.round.number))
        self.common.carry_on(before.common)

    @property
    def busy(self) -> bool:
        """Whether a round is on, or its result is still being made."""
        return self.driver.busy or self._decoding

    @property
    def upcoming(self) -> int:
        """The number of this peer's next round: the next of its own, or the first that the group has not begun yet."""
        others = self.driver.others
        return max(self.round.number + 1, others.round, others.begun + 1)

    def begin(self, vector: Vector, done: Done, least: int = 0) -> None:
        """Start the next round; ``done`` is called once, with its result or with why it failed.

        Where the vector has no tensors yet, everything that needs none is done meanwhile, and ``supply`` brings them.

        Args:
            least: the lowest number that the round may have.

        Raises:
            LocalError: a round is on already, or the vector is not one that this charter allows.
        """
        if self.busy:
            raise LocalError("a round is on already; wait for its result before you start another")
        self._heed_division()
        self._check(vector)
        self._leaps = 0
        now, sent, received = self._marks()
        part = self._part = Part(vector, done, now, sent, received, now)
        self._remember(vector)
        self._start(part, least)

    def supply(
        self,
        tensors: Sequence[NDArray[np.float32]],
        *,
        weight: int = 1,
        residual: Sequence[NDArray[np.float32]] | None = None,
    ) -> None:
        """Hand over the update of a round that was begun ahead of it, with ``tensors`` None.

        Raises:
            LocalError: no round waits for an update, or the weight is not one that this charter allows.
        """
        part = self._part
        if part is None or not self.awaits_update:
            raise LocalError("no round waits for an update: begin one ahead of it first, or begin one with it")
        vector = replace(part.vector, tensors=tensors, weight=weight, residual=residual)
        self._check(vector)
        self._remember(vector)
        part.vector, part.supplied = vector, self._marks()[0]
        self.driver.supply(Supplied(tensors, weight, residual))

    @property
    def awaits_update(self) -> bool:
        """Whether the round that is on began ahead of its update, which is still to come."""
        return self.driver.machine is not None and self._part is not None and self._part.vector.tensors is None

    def _remember(self, vector: Vector) -> None:
        with self.driver.tally.at(BULK):
            self._before = None if vector.residual is None else tuple(map(_kept, vector.residual))

    def _start(self, part: Part, least: int = 0) -> None:
        """Start a machine in the upcoming round, or in a later one."""
        others, vector = self.driver.others, part.vector
        self.round = RoundId(self.round.epoch, max(self.upcoming, least))
        self.common.begin(vector.shared, tuple(tensor.name for tensor in vector.specs))
        with self.driver.tally.at(BULK):
            state = self.common.digest()
        mine = Contribution(
            specs=vector.specs,
            update=vector.tensors,
            weight=vector.weight,
            fingerprint=vector.fingerprint(self.round) if callable(vector.fingerprint) else vector.fingerprint,
            last=self.last,
            common=self.common,
            state=state,
            residual=vector.residual,
            left={**others.ahead, **others.left},
            benched=self._not_awaited(),
            patience=self.pace.patience if vector.summed_under is None else None,  # buckets have their own slowest
            lateness=self.pace.lateness,
            summed=vector.summed,
            summed_under=vector.summed_under,
        )
        self.driver.begin(self._machine(self._setting, mine, self.round), lambda ended: self._ended(part, ended))

    def attend(self, seed: bytes, failed: Callable[[LocalError], None]) -> None:
        """Take part in the group's membership: this peer knows from then on who is up, and waits briefly for who isn't.

        Args:
            seed: 32 random bytes.
            failed: told why this peer must end: another process signs with its key.
        """
        boot, members, c = self.driver.chain.boot, self.charter.ids, self.charter.protocol.c
        standing = happenings.Setting(self.me, boot, self.session, members, c, self._identity.sign, self._check_signed)
        self.driver.attend(Membership(standing, seed), failed)

    def succeed(self, charters: Charters) -> None:
        """Hand the group's later charters on, take them in, and compare with the others what was certified."""
        self.driver.succeed(charters, self.halves)

    @property
    def division(self) -> Division:
        """Whether the group has split, as far as this peer has heard, and which half goes on."""
        succession = self.driver.succession
        ahead = () if succession is None else succession.ahead
        return weigh(self.driver.epoch, self.charter.protocol.c, ahead, self.halves.split)

    def _heed_division(self) -> None:
        """Before a round: where this peer's half does not go on, stop, or go to the other.

        Raises:
            LocalError: the group has gone on in another epoch, or neither half can.
        """
        verdict, says = self.division
        if verdict == "neither" or (verdict == "there" and self.halves.split.verdict == "one"):
            raise LocalError(says)
        if verdict == "there":
            self._log.warning("%s", says)
            self.halves.forget()
            self.last = ZERO  # as one that comes in: the others vouch for what it goes on from (RV-6)
            if self.driver.succession is not None:
                self.driver.succession.announce()

    def leave(self) -> None:
        """Tell the others not to wait for this peer any more."""
        if self.driver.gossip is not None:
            self.driver.gossip.leave()
        self.driver.say(Leave())

    def _check(self, vector: Vector) -> None:
        terms, size = self.charter.protocol, sum(tensor.size for tensor in vector.specs)
        if len({tensor.name for tensor in vector.specs}) != len(vector.specs):
            raise LocalError("two tensors of the vector have one name; give each a name of its own")
        if not 1 <= vector.weight <= terms.max_weight:
            raise LocalError(
                f"the weight {vector.weight} is not between 1 and {terms.max_weight}, the charter's max_weight; "
                "scale the weights, or let the group raise max_weight"
            )
        if size > self.charter.model.max_parameters:
            raise LocalError(
                f"the vector has {size} coordinates, the charter allows {self.charter.model.max_parameters}; "
                "let the group raise max_parameters"
            )

    def _marks(self) -> tuple[float, int, int]:
        ports = self._need_ports()
        counters = ports.transport.counters
        return ports.clock.now(), counters.bytes_sent, counters.bytes_received

    def _ended(self, part: Part, ended: Ended) -> None:
        if ended.error is not None:
            if not ended.spent:
                self._restore(part.vector)
            if not self._goes_again(part, ended.error, ended.spent):
                ended.error.spent = ended.spent
                self._tell(part, ended.error)
            return
        outcome = ended.result
        if not isinstance(outcome, Outcome):
            raise LocalError("a round ended with neither result nor error; a defect of decentra")
        if outcome.adopted:
            came = ", ".join(f"{size} bytes from {peer}" for peer, size in sorted(outcome.adopted.items()))
            self._log.warning("this peer's common state differed from the group's, which it took over: %s", came)
        terms = self.charter.protocol
        job = Decode(outcome, part.vector.specs, terms.width, terms.max_weight)
        self._decoding = True
        self._need_ports().pool.submit(
            job, self.driver.workbench(), lambda value: self._decoded(part, outcome, value)
        )

    def _goes_again(self, part: Part, error: DecentraError, spent: bool) -> bool:
        """Follow the group to a later round, where one waits and nothing has left this peer.

        A round ahead of its update is not begun twice: the update is on its way, and a round with it is a better one.
        """
        if part.vector.tensors is None or isinstance(error, Amended):
            return False
        if self.driver.others.round > self.round.number and isinstance(error, Unavailable) and not spent:
            least = 0
        elif isinstance(error, Behind) and self._leaps < MOST_LEAPS:
            self._leaps += 1
            least = error.round
        else:
            return False
        self._log.info("%s", error)
        self._start(part, least)
        return True

    def _decoded(self, part: Part, outcome: Outcome, value: object) -> None:
        self._decoding = False
        self._tell(part, self._result(part, outcome, value))

    def _tell(self, part: Part, what: RoundResult | DecentraError) -> None:
        """Say what a round came to, and hold neither that nor its update any longer."""
        if self._part is part:
            self._part = None
        part.done(what)

    def _restore(self, vector: Vector) -> None:
        """An update that has not left, or was freed, goes back whole, and so does what the residual held (SA-4)."""
        if vector.residual is not None and self._before is not None:
            for residual, places, values in self._before:
                residual.fill(0.0)
                np.put(residual, places, values)

    def _result(self, part: Part, outcome: Outcome, value: object) -> RoundResult | DecentraError:
        vector, others = part.vector, self.driver.others
        self.driver.blobs.release(outcome.total)
        if not isinstance(value, tuple):
            error = value if isinstance(value, DecentraError) else LocalError(f"decoding failed: {value}")
            if isinstance(value, DecodeError):
                error = RemoteError(None, self._outcome_clause, f"all peers refuse the certified sum: {value}")
            error.spent = True
            return error
        values, peaks = value
        self.last = outcome.digest
        self.halves.certified(self.round.number, outcome.digest)
        contributed = self.me in outcome.survivors
        if not contributed:
            self._restore(vector)  # the certificate that leaves it out frees it (SA-4)
        self._note_clipping(vector, outcome)
        self._bench(outcome.survivors if outcome.summed is None else outcome.roster)
        self.common.moved({tensor.name: peak for tensor, peak in zip(vector.specs, peaks, strict=True)})
        now, sent, received = self._marks()
        number = self.round.number
        self.pace.note(part.began, now, others.ready(number), supplied=part.supplied, given=others.given(number))
        return RoundResult(
            round=self.round,
            values=values,
            participants=outcome.survivors,
            dropped=tuple(peer for peer in self.charter.ids if peer not in outcome.survivors),
            total_weight=outcome.total_weight,
            digest=outcome.digest,
            bytes_sent=sent - part.sent,
            bytes_received=received - part.received,
            seconds=now - part.supplied,
            transcript_head=self.driver.chain.head,
            clipped=outcome.clipped,
            contributed=contributed,
            beacon=outcome.beacon,
        )

    def _note_clipping(self, vector: Vector, outcome: Outcome) -> None:
        """Say once that updates are cut; where what is cut waits in a residual, only if that is much."""
        size, waits = sum(tensor.size for tensor in vector.specs), vector.residual is not None
        if self._said_clipping or not outcome.clipped or (waits and FEW * outcome.clipped < size):
            return
        self._said_clipping = True
        limits = set(outcome.ranges)
        beyond = f"±{limits.pop():.3g}" if len(limits) == 1 else "the ranges of their tensors"
        rest = "waits for the next round" if waits else "is lost"
        self._log.warning(
            "%s: %d of %d coordinates of its update exceed %s, and what is cut %s; the charter says where ranges begin "
            "(said once; RoundResult.clipped counts them)",
            self.me,
            outcome.clipped,
            size,
            beyond,
            rest,
        )

    def _not_awaited(self) -> frozenset[PeerId]:
        """Who is waited for but briefly: who was left out for silence lately, who is down as more members say than may
        lie, and who is cut."""
        benched = {peer for peer, (_, until) in self._benched.items() if self.round.number <= until}
        benched |= self.driver.conduct.cut
        return frozenset(benched) if self.driver.gossip is None else self.driver.gossip.away | benched

    def _bench(self, roster: tuple[PeerId, ...]) -> None:
        """Who was left out k times running is waited for but briefly in the next 2^k rounds; who is back is not."""
        for peer in self.charter.ids:
            if peer in roster:
                self._benched.pop(peer, None)
            else:
                times, until = self._benched.get(peer, (0, 0))
                if self.round.number > until:
                    self._benched[peer] = (times + 1, self.round.number + 2 ** (times + 1))

    def _need_ports(self) -> Ports:
        if self._ports is None:
            raise RuntimeError("the session was not opened")
        return self._ports


def _setting(me: PeerId, session: bytes, charter: Charter, suite: Suite, random: Random) -> Setting:
    """What holds for a charter's epoch, with a fresh sealing key."""
    terms = charter.protocol
    return Setting(
        me=me,
        session=session,
        charter=charter.hash,
        members=charter.ids,
        c=terms.c,
        floor=charter.roster_floor,
        width=terms.width,
        max_weight=terms.max_weight,
        rule=terms.rule,
        challenges=charter.challenges,
        backup=terms.backup,
        ready_deadline=charter.rounds.ready_deadline,
        phase_deadline=charter.rounds.phase_deadline,
        sealing=suite.sealing_key(random),
        suite=suite,
        buckets=charter.drawn_buckets,
        bucket_c=charter.bucket_corrupt,
    )


Kept = tuple[NDArray[np.float32], NDArray[np.intp], NDArray[np.float32]]


def _kept(residual: NDArray[np.float32]) -> Kept:
    """A residual and what it holds, by place: only what clipping cut is not zero, so it is little."""
    places = np.flatnonzero(residual)
    return residual, places, residual.reshape(-1)[places]


def session_name(charter: Charter) -> bytes:
    """The session that a charter's epoch is: 32 bytes, another one for another text of the spec."""
    return derive.session(spec.load(charter.protocol.name).source, charter.hash, charter.group.epoch)
