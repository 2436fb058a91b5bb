"""Certify by itself: real machines of one topic, any order of messages, lost ones, and liars that sign anything."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from hypothesis import given, settings
from hypothesis import strategies as st

from decentra import derive
from decentra.machine.effects import Effect, Persist, Send, SetTimer
from decentra.protocols.certify.machine import Certify
from decentra.protocols.certify.messages import Certificate, Commit, Lock, Prepare, Propose
from decentra.types import PeerId, RoundId
from decentra.wire.codec import Signed
from decentra.wire.entry import Chain
from decentra.wire.message import Message, Verified

CONTEXT, TOPIC = b"c" * 32, "survivors"
SESSION = b"s" * 32


class Nobody:
    """A signer without keys: what is signed here is believed, as the driver believes what it has verified."""

    def __init__(self, peer: PeerId) -> None:
        self.id = peer

    def sign(self, message: bytes) -> bytes:
        return hashlib.sha512(self.id + message).digest()


class Voters:
    """n − c honest machines and c liars around one pool of messages."""

    def __init__(self, n: int, c: int) -> None:
        self.peers = tuple(sorted(PeerId(hashlib.sha256(bytes([i])).digest()) for i in range(n)))
        self.honest, self.liars = self.peers[c:], self.peers[:c]
        self.quorum = derive.quorum(n, c)
        self.chains = {peer: Chain(Nobody(peer), SESSION, 1) for peer in self.peers}
        self.out: dict[PeerId, list[Effect]] = {peer: [] for peer in self.honest}
        self.now, self.due = 0.0, dict.fromkeys(self.honest, 1.0)
        self.pool: list[tuple[PeerId, Verified]] = []
        self.sent: dict[PeerId, list[Verified]] = {peer: [] for peer in self.peers}
        # Every honest peer's own rule gives a value of its own; it accepts any: the worst that holdings could do.
        self.machines = {
            peer: Certify(TOPIC, CONTEXT, self.peers, self.quorum, peer, lambda value, shown: True, 1.0, self.out[peer])
            for peer in self.honest
        }
        for peer in self.honest:
            self.flush(peer)

    def sign(self, peer: PeerId, message: Message) -> Verified:
        body = repr(message).encode()
        entry = self.chains[peer].sign(RoundId(1, 1), message.kind, body)
        verified = Verified(entry, message, Signed(entry.packed, body))
        self.sent[peer].append(verified)
        return verified

    def flush(self, peer: PeerId) -> None:
        """Put what a machine sends into the pool, for everybody; its own comes back to it at once."""
        while self.out[peer]:
            effects, self.out[peer][:] = list(self.out[peer]), []
            for effect in effects:
                if isinstance(effect, SetTimer):
                    self.due[peer] = self.now + effect.after
                elif isinstance(effect, Send):
                    verified = self.sign(peer, effect.message)
                    self.pool += [(other, verified) for other in self.honest if other != peer]
                    self.machines[peer].received(verified)
            self.machines[peer].advance()

    def deliver(self, index: int) -> None:
        receiver, verified = self.pool.pop(index % len(self.pool))
        self.machines[receiver].received(verified)
        self.step(receiver)

    def step(self, peer: PeerId) -> None:
        machine = self.machines[peer]
        machine.offer(b"value of " + peer[:4], ())
        machine.advance()
        self.flush(peer)

    def pass_time(self, among: Iterable[PeerId]) -> None:
        """Let time pass until the next timer of one of these peers runs out."""
        peer = min(among, key=lambda peer: (self.due[peer], peer))
        self.now = max(self.now, self.due[peer])
        self.machines[peer].expired()
        self.step(peer)

    def certified(self) -> set[bytes]:
        return {machine.value for machine in self.machines.values() if machine.certificate}

    def all_prepares(self, view: int, value: bytes) -> tuple[Verified, ...]:
        digest = derive.vote_value(CONTEXT, TOPIC, value)
        found = {
            verified.sender: verified
            for sent in self.sent.values()
            for verified in sent
            if isinstance(verified.message, Prepare)
            and (verified.message.view, verified.message.value) == (view, digest)
        }
        return tuple(found[peer] for peer in sorted(found))


def lies(voters: Voters, liar: PeerId, view: int, value: bytes) -> Iterable[Message]:
    """Everything that a liar can say of a value in a view, with whatever prepares exist to cite."""
    digest = derive.vote_value(CONTEXT, TOPIC, value)
    yield Prepare(CONTEXT, TOPIC, view, digest)
    yield Commit(CONTEXT, TOPIC, view, digest)
    for earlier in range(view):
        prepares = voters.all_prepares(earlier, value)
        if len(prepares) >= voters.quorum:
            yield Lock(CONTEXT, TOPIC, view, value, prepares[: voters.quorum])
    if voters.peers[view % len(voters.peers)] == liar:
        yield Propose(CONTEXT, TOPIC, view, value, (), ())
        for earlier in range(view):
            prepares = voters.all_prepares(earlier, value)
            if len(prepares) >= voters.quorum:
                yield Propose(CONTEXT, TOPIC, view, value, (), prepares[: voters.quorum])


@given(st.data())
@settings(max_examples=150)
def test_two_values_are_never_certified_whatever_is_lost_late_or_signed_by_liars(data: st.DataObject) -> None:
    n, c = data.draw(st.sampled_from([(3, 1), (4, 1), (4, 2), (5, 1), (5, 2), (7, 2)]), label="n, c")
    voters = Voters(n, c)
    for peer in voters.honest:
        voters.step(peer)
    values: list[bytes] = []
    for _ in range(data.draw(st.integers(10, 120), label="steps")):
        act = data.draw(st.sampled_from(["deliver", "deliver", "deliver", "lose", "expire", "lie"]))
        if act in ("deliver", "lose") and voters.pool:
            index = data.draw(st.integers(0, len(voters.pool) - 1))
            if act == "lose":
                voters.pool.pop(index)
            else:
                voters.deliver(index)
        elif act == "expire":
            peer = data.draw(st.sampled_from(voters.honest))
            voters.machines[peer].expired()
            voters.step(peer)
        elif act == "lie":
            liar, receiver = data.draw(st.sampled_from(voters.liars)), data.draw(st.sampled_from(voters.honest))
            values = sorted({value for m in voters.machines.values() for value in m._values.values()} | {b"a lie"})
            view = data.draw(st.integers(0, 4))
            chosen = list(lies(voters, liar, view, data.draw(st.sampled_from(values))))
            verified = voters.sign(liar, data.draw(st.sampled_from(chosen)))
            try:
                voters.machines[receiver].received(verified)
            except Exception as error:  # a liar that contradicts itself to one receiver is named by it
                assert getattr(error, "peer", None) == liar
            voters.step(receiver)
        assert len(voters.certified()) <= 1


@given(st.data())
@settings(max_examples=60)
def test_with_t_honest_peers_alive_an_honest_proposer_brings_a_certificate(data: st.DataObject) -> None:
    n, c = data.draw(st.sampled_from([(4, 1), (5, 1), (7, 2), (8, 2)]), label="n, c")
    voters = Voters(n, c)
    spare = len(voters.honest) - voters.quorum
    dead = set(data.draw(st.permutations(voters.honest))[: max(0, spare)])
    alive = [peer for peer in voters.honest if peer not in dead]
    for _ in range(data.draw(st.integers(0, 60), label="chaos")):
        if voters.pool and data.draw(st.booleans()):
            voters.deliver(data.draw(st.integers(0, len(voters.pool) - 1)))
        else:
            voters.pass_time(alive)
    for _ in range(20 * n):  # from here on every message arrives before time passes
        while any(receiver in alive for receiver, _ in voters.pool):
            voters.deliver(next(i for i, (receiver, _) in enumerate(voters.pool) if receiver in alive))
        if all(voters.machines[peer].certificate for peer in alive):
            break
        voters.pass_time(alive)
    assert all(voters.machines[peer].certificate for peer in alive)
    assert len(voters.certified()) == 1


def test_votes_are_durable_before_they_are_sent() -> None:
    voters = Voters(4, 1)
    peer = voters.honest[0]
    machine = Certify(TOPIC, CONTEXT, voters.peers, 3, peer, lambda value, shown: True, 1.0, voters.out[peer])
    proposer = voters.peers[0]
    machine.received(voters.sign(proposer, Propose(CONTEXT, TOPIC, 0, b"x", (), ())))
    voters.out[peer].clear()
    machine.advance()
    kinds = [type(effect) for effect in voters.out[peer]]
    assert kinds == [Persist, Send]


def test_a_certificate_of_too_few_or_of_strangers_is_refused() -> None:
    voters = Voters(4, 1)
    peer, other = voters.honest[:2]
    digest = derive.vote_value(CONTEXT, TOPIC, b"x")
    commits = tuple(voters.sign(signer, Commit(CONTEXT, TOPIC, 0, digest)) for signer in voters.peers[:2])
    for cited in (commits, commits + commits):
        try:
            voters.machines[peer].received(voters.sign(other, Certificate(CONTEXT, TOPIC, b"x", cited)))
        except Exception as error:
            assert getattr(error, "clause", None) == "CE-5"
        else:
            raise AssertionError("a certificate without t signers was taken")
