"""What the tests of rounds share: groups on a virtual network, peers that lie, die or listen, and what they saw."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decentra import derive
from decentra.driver.given import describe
from decentra.driver.ports import Ports
from decentra.driver.session import Vector
from decentra.errors import DecentraError, RemoteError, Unavailable
from decentra.machine.effects import Effect, Finish, Send
from decentra.machine.events import Event, Received, Start
from decentra.protocols.round import Round
from decentra.protocols.setting import Outcome
from decentra.simulation.group import Ending, SimulatedGroup, SimulatedPeer, charter_for, identities
from decentra.transport.simulated import Faults
from decentra.types import PeerId, RoundId, RoundResult
from decentra.wire.codec import Signed
from decentra.wire.entry import Chain
from decentra.wire.message import Message, Verified

Floats = NDArray[np.float32]
Twist = Callable[[Send], Sequence[Send]]

READY, PHASE = 120.0, 30.0
"""Seconds of the templates' deadlines."""


def simulate(
    n: int,
    protocol: str = "secagg",
    *,
    seed: int = 0,
    witness: Any = None,
    faults: Faults | None = None,
    **changes: object,
) -> SimulatedGroup:
    """A simulated group under the protocol's template; ``changes`` as for ``charter_for``."""
    members = identities(n, seed)
    charter = charter_for(members, protocol, **changes)
    return SimulatedGroup(charter, members, seed=seed, witness=witness, faults=faults)


def vector(*tensors: Any, **more: Any) -> Vector:
    """A round's vector of the given arrays (or lists) as float32."""
    arrays = [np.asarray(tensor, np.float32) for tensor in tensors]
    return Vector(arrays, describe(arrays, more.pop("names", None)), **more)


def small(group: SimulatedGroup, scale: float = 0.01) -> list[Vector | None]:
    """A small vector a peer, each a different one."""
    return [vector([scale * (place + 1), -scale, 0.0], [[scale * place]]) for place in range(len(group.peers))]


def without(group: SimulatedGroup, *absent: int) -> list[Vector | None]:
    """As ``small``, and these peers take no part."""
    return [None if place in absent else mine for place, mine in enumerate(small(group))]


def results(ended: Sequence[Ending]) -> list[RoundResult]:
    """All results of a round that must have completed for everyone, equal to the bit."""
    done = [one for one in ended if one is not None]
    for one in done:
        assert isinstance(one, RoundResult), repr(one)
    first = done[0]
    assert isinstance(first, RoundResult)
    for one in done:
        assert isinstance(one, RoundResult)
        assert (one.digest, one.participants) == (first.digest, first.participants)
        assert one.total_weight == first.total_weight
        assert [value.tobytes() for value in one.values] == [value.tobytes() for value in first.values]
    return [one for one in done if isinstance(one, RoundResult)]


def errors(ended: Sequence[Ending]) -> list[DecentraError]:
    """All errors of a round that must have failed for everyone who took part."""
    done = [one for one in ended if one is not None]
    assert all(isinstance(one, DecentraError) for one in done), done
    return [one for one in done if isinstance(one, DecentraError)]


def gave_up(ended: Sequence[Ending], *, spent: bool, on: Collection[PeerId] | None = None) -> list[Unavailable]:
    """All errors of a round that nobody broke: it failed for everyone, and for want of just those peers if given."""
    failed = errors(ended)
    for error in failed:
        assert isinstance(error, Unavailable), repr(error)
        assert error.spent is spent
        assert on is None or sorted(error.waited_for) == sorted(on)
    return [error for error in failed if isinstance(error, Unavailable)]


def ids(group: SimulatedGroup) -> tuple[PeerId, ...]:
    return tuple(peer.identity.id for peer in group.peers)


def proposer_of(group: SimulatedGroup, number: int, view: int = 0) -> int:
    """The position of the peer that proposes in a view of round ``number``."""
    round_id = RoundId(group.charter.group.epoch, number)
    order = derive.proposer_order(group.charter.hash, round_id, group.charter.ids)
    return group.charter.ids.index(order[view])


def settle(group: SimulatedGroup, seconds: float = 60.0) -> None:
    """Let virtual time pass, until acknowledgements and late messages have come."""
    deadline = group.clock.now() + seconds
    group.clock.run_until(lambda: group.clock.now() >= deadline - 1.0, deadline)


# ── peers that die, lie or are watched ───────────────────────────────────────────────────────────────────────────────


def at(peer: SimulatedPeer, phase: str, act: Callable[[Round], None]) -> None:
    """Do something right when the peer's machine enters a phase, before it does anything there itself."""
    base: Any = peer.session._machine

    class Watched(base):  # type: ignore[misc]
        def handle(self, event: Event) -> list[Effect]:
            if phase == "ready" and isinstance(event, Start):
                act(self)
            return super().handle(event)

        def entered(self, entered: str) -> None:
            if entered == phase:
                act(self)
            super().entered(entered)

    peer.session._machine = Watched


def lie(peer: SimulatedPeer, kind: str, twist: Twist) -> None:
    """Have a peer send something else where its machine sends a message of ``kind``.

    ``twist`` gives what is sent instead. The machine itself sees the first message as the one that it meant, and none
    of the others, so it goes on as if it had told the truth.
    """
    base: Any = peer.session._machine

    class Liar(base):  # type: ignore[misc]
        def handle(self, event: Event) -> list[Effect]:
            meant = self.__dict__.setdefault("meant", {})
            if isinstance(event, Received) and id(event.verified.message) in meant:
                _, truth = meant[id(event.verified.message)]
                if truth is None:
                    return []
                event = replace(event, verified=replace(event.verified, message=truth))
            sent: list[Effect] = []
            for effect in super().handle(event):
                if not isinstance(effect, Send) or effect.message.kind != kind:
                    sent.append(effect)
                    continue
                for place, other in enumerate(twist(effect)):
                    meant[id(other.message)] = (other.message, effect.message if place == 0 else None)
                    sent.append(other)
            return sent

    peer.session._machine = Liar


def change(**fields: object) -> Twist:
    """A twist that changes fields of the message."""
    return lambda effect: [replace(effect, message=replace(effect.message, **fields))]


def also(other: Callable[[Any], Message]) -> Twist:
    """A twist that sends a second message, made of the first, after it."""
    return lambda effect: [effect, Send(other(effect.message), after=effect.after, blobs=effect.blobs)]


def two_faced(
    peer: SimulatedPeer, kind: str, victims: Collection[PeerId], other: Callable[[Any], Message], at_most: int = 1
) -> None:
    """Have a peer sign a second message and show it to some peers in place of the first."""
    driver, made = peer.driver, {}
    honest = driver._post_to

    def post(target: PeerId, verified: Verified, blob: Any) -> None:
        if verified.entry.kind == kind and target in victims:
            if verified.body_hash not in made and len(made) < at_most:
                made[verified.body_hash] = sign(peer, other(verified.message), verified.entry.after)
            verified = made.get(verified.body_hash, verified)
        honest(target, verified, blob)

    driver._post_to = post  # type: ignore[method-assign]


def sign(peer: SimulatedPeer, message: Message, after: bytes, chain: Chain | None = None) -> Verified:
    """A message signed by a peer outside its machine."""
    driver = peer.driver
    body = driver.registry.encode(message)
    entry = (chain or driver.chain).sign(peer.session.round, message.kind, body, after)
    return Verified(entry, message, Signed(entry.packed, body))


def post_raw(peer: SimulatedPeer, *parts: bytes) -> None:
    """Send an entry's parts, whatever they are, to everybody else."""
    for link in peer.driver._links.values():
        link.post(parts)


def kill(peer: SimulatedPeer) -> None:
    """A peer's process is gone."""
    peer.driver.close()


def cut_off(group: SimulatedGroup, position: int) -> None:
    """Nothing goes to or comes from a peer any more; what was in flight is lost."""
    me = ids(group)[position]
    for other in ids(group):
        if other != me:
            group.network.cut(me, other)
            group.network.cut(other, me)


def mend(group: SimulatedGroup, position: int) -> None:
    me = ids(group)[position]
    for other in ids(group):
        if other != me:
            group.network.heal(me, other)
            group.network.heal(other, me)


def with_ports(peer: SimulatedPeer, **ports: Any) -> None:
    """Replace some of a peer's ports."""
    held = peer.driver._ports
    assert isinstance(held, Ports)
    peer.driver._ports = replace(held, **ports)


def blamed(error: DecentraError) -> tuple[str, PeerId | None]:
    """The clause and the peer that an error names."""
    assert isinstance(error, RemoteError), repr(error)
    return error.clause, error.peer


def play(
    group: SimulatedGroup, vectors: Sequence[Vector | None], but: Collection[int] = (), patience: float = 600.0
) -> list[Ending]:
    """One round, until it has ended for all who take part in it ``but`` for these positions, which die on the way.

    It must end within ``patience`` virtual seconds: no test of a failure may hang.
    """
    for peer, mine in zip(group.peers, vectors, strict=True):
        peer.ended = None
        if mine is not None:
            peer.begin(mine)
    awaited = [
        peer
        for place, (peer, mine) in enumerate(zip(group.peers, vectors, strict=True))
        if mine is not None and place not in but
    ]
    ended = group.clock.run_until(lambda: all(p.ended is not None for p in awaited), group.clock.now() + patience)
    assert ended, f"the round has not ended within {patience} virtual seconds"
    return [None if place in but else peer.ended for place, peer in enumerate(group.peers)]


# ── attacks ──────────────────────────────────────────────────────────────────────────────────────────────────────────

OTHER = bytes(range(32))


class Watch:
    """What went on at a group's peers: what each encoded, summed and blamed others for, by round."""

    def __init__(self, group: SimulatedGroup) -> None:
        self.group = group
        self.encoded: dict[tuple[PeerId, int], NDArray[Any]] = {}
        self.totals: dict[tuple[PeerId, int], NDArray[Any]] = {}
        self.blames: defaultdict[PeerId, list[tuple[str, PeerId | None]]] = defaultdict(list)
        for name, peer in zip(ids(group), group.peers, strict=True):
            driver = peer.driver
            driver._witness = partial(self._saw, name)
            driver._carry_out = partial(self._carried, name, peer, driver._carry_out)  # type: ignore[method-assign]
            driver._note_fault = partial(self._noted_fault, name, driver._note_fault)  # type: ignore[method-assign]

    def _saw(self, name: PeerId, round_id: RoundId, encoded: NDArray[Any]) -> None:
        self.encoded[name, round_id.number] = encoded.copy()

    def _carried(self, name: PeerId, peer: SimulatedPeer, then: Callable[[Effect], None], effect: Effect) -> None:
        if isinstance(effect, Finish) and isinstance(effect.result, Outcome):
            width = np.dtype(f"<u{peer.session.charter.protocol.width // 8}")
            self.totals[name, peer.driver._last.number] = peer.driver.blobs.view(effect.result.total).view(width).copy()
        then(effect)

    def _noted_fault(self, name: PeerId, then: Callable[[RemoteError], None], error: RemoteError) -> None:
        self.blames[name].append((error.clause, error.peer))
        then(error)

    def exact(self, number: int, done: Sequence[RoundResult]) -> None:
        """Every certified sum of a round is, to the bit, that of the vectors of those who are in it."""
        expected = sum(self.encoded[peer, number].astype(np.uint64) for peer in done[0].participants)
        totals = [total for (_, of), total in self.totals.items() if of == number]
        assert len(totals) >= len(done)
        for total in totals:
            np.testing.assert_array_equal(total, np.asarray(expected).astype(total.dtype))
        assert done[0].total_weight == int(totals[0][-1])


@dataclass
class Scene:
    """A group after an honest round, and one of its peers, which is going to attack the second."""

    group: SimulatedGroup
    place: int
    watch: Watch = field(init=False)

    def __post_init__(self) -> None:
        self.watch = Watch(self.group)

    @property
    def liar(self) -> SimulatedPeer:
        return self.group.peers[self.place]

    @property
    def name(self) -> PeerId:
        return ids(self.group)[self.place]

    @property
    def others(self) -> tuple[PeerId, ...]:
        return tuple(peer for peer in ids(self.group) if peer != self.name)

    def attacked(self, vectors: Sequence[Vector | None] | None = None) -> list[DecentraError]:
        """The round of the attack, which it ends for all: the error of every honest peer."""
        ended = play(self.group, small(self.group) if vectors is None else vectors, but=[self.place])
        return errors(ended)

    def survived(
        self,
        *clauses: str,
        dropped: bool | None = None,
        vectors: Sequence[Vector | None] | None = None,
        witnesses: Collection[PeerId] | None = None,
    ) -> list[RoundResult]:
        """The round of the attack, which completes at every honest peer with one exact sum, of all honest peers.

        The ``witnesses``, which are all honest peers if not said otherwise, name the liar under one of the clauses;
        nobody names an honest peer. ``dropped`` says whether the liar's update is in the sum.
        """
        given = small(self.group) if vectors is None else vectors
        done = results(play(self.group, given, but=[self.place]))
        honest = [peer for peer, mine in zip(ids(self.group), given, strict=True) if mine and peer != self.name]
        assert len(done) == len(honest)
        assert set(honest) <= set(done[0].participants) <= {*honest, self.name}
        if dropped is not None:
            assert (self.name not in done[0].participants) is dropped
        self.watch.exact(2, done)
        self.accused(*clauses, witnesses=honest if witnesses is None else witnesses)
        settle(self.group)
        assert [p.driver.blobs.bytes_held for p in self.group.peers if p is not self.liar] == [0] * len(self.others)
        return done

    def lost(self, *clauses: str, witnesses: Collection[PeerId] | None = None) -> list[Unavailable]:
        """The round of the attack, which is certified as lost for want of the liar's sum, at every honest peer."""
        return self._ended_without(clauses, witnesses, "certified as lost", spent=True)

    def failed(self, *clauses: str, witnesses: Collection[PeerId] | None = None) -> list[Unavailable]:
        """The round of the attack, which is certified as failed, so that every update is free again."""
        return self._ended_without(clauses, witnesses, "certified as failed", spent=False)

    def _ended_without(
        self, clauses: Sequence[str], witnesses: Collection[PeerId] | None, words: str, spent: bool
    ) -> list[Unavailable]:
        failed = [error for error in self.attacked() if isinstance(error, Unavailable)]
        assert len(failed) == len(self.others)
        for error in failed:
            assert words in str(error)
            assert error.spent is spent
            assert set(error.waited_for) <= {self.name}
            assert error.waited_for or not spent
        self.accused(*clauses, witnesses=self.others if witnesses is None else witnesses)
        settle(self.group)
        assert [p.driver.blobs.bytes_held for p in self.group.peers if p is not self.liar] == [0] * len(self.others)
        return failed

    def accused(self, *clauses: str, witnesses: Collection[PeerId]) -> None:
        """These peers named the liar, each under one of the clauses and no other; no honest peer was named by any."""
        for name in self.others:
            assert set(self.watch.blames[name]) <= {(clause, self.name) for clause in clauses}, self.watch.blames[name]
            assert self.watch.blames[name] or name not in witnesses, f"{name} took nothing down"


def scene(n: int = 4, protocol: str = "secagg", *, proposes: bool = False, **changes: object) -> Scene:
    group = simulate(n, protocol, **changes)
    results(play(group, small(group)))
    first = proposer_of(group, 2)
    return Scene(group, first if proposes else (first + 1) % n)


def refused(failed: Sequence[DecentraError], clause: str, peer: PeerId | None, *words: str) -> None:
    """Every honest peer tells the clause and the peer; who was only told of the breach does not blame by hearsay."""
    assert any(blamed(error) == (clause, peer) for error in failed)
    for error in failed:
        assert blamed(error) in ((clause, peer), (clause, None)), str(error)
        assert peer is None or str(peer) in str(error)
        for word in words:
            assert word in str(error), str(error)
        assert "\n" not in str(error)


def nothing_left(attack: Scene) -> None:
    """No honest peer's update has left, and none was spent."""
    for peer in attack.group.peers:
        if peer is not attack.liar and isinstance(peer.ended, DecentraError):
            assert not peer.ended.spent
            assert not any(r.kind == "intent" and i.number == 2 for i, r in peer.journal.records)


def running(peer: SimulatedPeer) -> Any:
    machine: Any = peer.driver.machine
    assert machine is not None
    return machine


def on_topic(topic: str, twist: Twist) -> Twist:
    return lambda effect: twist(effect) if effect.message.topic == topic else [effect]  # type: ignore[attr-defined]


def most_held(attack: Scene, victim: PeerId) -> list[int]:
    """The bytes in a peer's blobs and in the buffers of those under way, as they come to be."""
    driver, seen = attack.group.peers[ids(attack.group).index(victim)].driver, [0]

    def looking(act: Callable[..., None]) -> Callable[..., None]:
        def look(*given: Any) -> None:
            act(*given)
            under_way = 0 if driver.running is None else driver.running.under_way
            seen.append(driver.blobs.bytes_held + under_way)

        return look

    for name in ("_on_entry", "_on_event", "_computed"):
        setattr(driver, name, looking(getattr(driver, name)))
    return seen
