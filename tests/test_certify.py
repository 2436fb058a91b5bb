"""Certify by itself: real machines of one topic, any order of messages, lost ones, and liars that sign anything."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decentra import derive
from decentra.errors import RemoteError, Unavailable
from decentra.machine.effects import Blame, Effect, Persist, Send, SetTimer
from decentra.protocols.catalogue import registry
from decentra.protocols.certify.machine import MOST_VIEWS, Certify
from decentra.protocols.certify.messages import Certificate, Commit, Lock, Prepare, Propose
from decentra.protocols.certify.votes import KEPT_VIEWS, Votes
from decentra.types import PeerId, RoundId
from decentra.wire.codec import Malformed, Signed
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
            peer: Certify(
                TOPIC, CONTEXT, 1, self.peers, self.quorum, c, peer, lambda value, shown: True, 1.0, self.out[peer]
            )
            for peer in self.honest
        }
        for peer in self.honest:
            self.flush(peer)

    def sign(self, peer: PeerId, message: Message, number: int = 1) -> Verified:
        body = repr(message).encode()
        entry = self.chains[peer].sign(RoundId(1, number), message.kind, body)
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
        if self.due[peer] == float("inf"):
            return  # each waits for a quorum to come to its view
        self.now = max(self.now, self.due[peer])
        machine, self.due[peer] = self.machines[peer], float("inf")
        if machine.certificate:
            machine.relay(self.peers)  # as a round does for who has not shown that it goes on
        else:
            machine.expired()
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
    machine = Certify(TOPIC, CONTEXT, 1, voters.peers, 3, 1, peer, lambda value, shown: True, 1.0, voters.out[peer])
    proposer = voters.peers[0]
    machine.received(voters.sign(proposer, Propose(CONTEXT, TOPIC, 0, b"x", (), ())))
    voters.out[peer].clear()
    machine.advance()
    kinds = [type(effect) for effect in voters.out[peer]]
    assert kinds == [Persist, Send]


def test_a_prepare_names_the_proposal_that_it_answers_also_where_a_later_one_has_come() -> None:
    voters = Voters(7, 2)
    peer = voters.honest[-1]
    first, later = (
        voters.sign(voters.peers[view], Propose(CONTEXT, TOPIC, view, bytes([view]), (), ())) for view in (0, 1)
    )
    machine = voters.machines[peer]
    machine.received(later)
    machine.received(first)
    machine.advance()
    (sent,) = [effect for effect in voters.out[peer] if isinstance(effect, Send)]
    assert isinstance(sent.message, Prepare) and sent.message.view == 0
    assert sent.after == first.entry.hash != later.entry.hash


def test_a_certificate_of_too_few_or_of_strangers_is_refused() -> None:
    voters = Voters(4, 1)
    peer, other = voters.honest[:2]
    digest = derive.vote_value(CONTEXT, TOPIC, b"x")
    commits = tuple(voters.sign(signer, Commit(CONTEXT, TOPIC, 0, digest)) for signer in voters.peers[:2])
    third = voters.peers[2]
    elsewhere = voters.sign(third, Commit(CONTEXT, TOPIC, 0, digest), number=2)
    for cited in (commits, commits + commits, (*commits, elsewhere)):
        with pytest.raises(RemoteError, match="signers") as caught:
            voters.machines[peer].received(voters.sign(other, Certificate(CONTEXT, TOPIC, b"x", cited)))
        assert caught.value.clause == "CE-5"
    voters.machines[peer].received(
        voters.sign(other, Certificate(CONTEXT, TOPIC, b"x", (*commits, voters.sign(third, elsewhere.message))))
    )
    assert voters.machines[peer].value == b"x"


def test_a_lock_of_votes_that_were_signed_in_another_round_is_none() -> None:
    voters = Voters(4, 1)
    peer, other = voters.honest[:2]
    digest = derive.vote_value(CONTEXT, TOPIC, b"x")
    for number in (2, 1):
        cited = tuple(voters.sign(one, Prepare(CONTEXT, TOPIC, 0, digest), number) for one in voters.peers[:3])
        lock = voters.sign(other, Lock(CONTEXT, TOPIC, 1, b"x", cited))
        if number == 1:
            voters.machines[peer].received(lock)
        else:
            with pytest.raises(RemoteError, match="the lock that it shows is none"):
                voters.machines[peer].received(lock)


# ── attacks on time, memory and the end ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("n", "c"), [(3, 1), (4, 1), (4, 2), (5, 2), (7, 2), (8, 2)])
def test_liars_alone_take_nobody_into_a_view_that_has_not_come(n: int, c: int) -> None:
    voters = Voters(n, c)
    peer, *others = voters.honest
    machine = voters.machines[peer]
    for liar in voters.liars:
        machine.received(voters.sign(liar, Lock(CONTEXT, TOPIC, 60, b"", ())))
    voters.step(peer)
    assert machine.view == 0
    needed = max(n - voters.quorum, c) + 1 - c
    for count, other in enumerate(others[:needed], start=1):
        machine.received(voters.sign(other, Lock(CONTEXT, TOPIC, 3, b"", ())))
        voters.step(peer)
        assert machine.view == (3 if count == needed else 0)


def test_no_message_names_a_view_beyond_the_largest_and_a_peer_that_would_have_to_gives_up() -> None:
    voters = Voters(4, 1)
    peer, *others = voters.honest
    with pytest.raises(Unavailable, match="no later view"):
        for _ in range(3 * MOST_VIEWS):
            for other in others:  # they are there too, or its views would not end
                voters.machines[peer].received(
                    voters.sign(other, Prepare(CONTEXT, TOPIC, voters.machines[peer].view, bytes(32)))
                )
            voters.machines[peer].expired()
            voters.step(peer)
    named = [one.message.view for one in voters.sent[peer] if isinstance(one.message, Lock)]
    assert max(named) == MOST_VIEWS
    codec = registry("secagg").codec
    codec.encode("certify.lock", (CONTEXT, TOPIC, MOST_VIEWS, b"", ()))
    for kind, fields in (
        ("lock", (b"", ())),
        ("prepare", (CONTEXT,)),
        ("commit", (CONTEXT,)),
        ("propose", (b"", (), ())),
    ):
        with pytest.raises(Malformed):
            codec.encode(f"certify.{kind}", (CONTEXT, TOPIC, MOST_VIEWS + 1, *fields))


class Looked(Verified):
    """A message that counts how often something looks at it."""

    looks = 0

    def __getattribute__(self, name: str) -> Any:
        if name in ("message", "body_hash", "sender", "entry"):
            Looked.looks += 1
        return super().__getattribute__(name)


def test_votes_in_every_view_cost_no_time_later() -> None:
    voters = Voters(4, 1)
    machine = voters.machines[voters.honest[0]]
    for view in range(1, MOST_VIEWS + 1):
        for vote in (Prepare, Commit):
            verified = voters.sign(voters.liars[0], vote(CONTEXT, TOPIC, view, b"x" * 32))
            machine.received(Looked(verified.entry, verified.message, verified.signed))
    before = Looked.looks
    assert before > 0
    for _ in range(10):
        assert not machine.advance()
    assert Looked.looks == before


def held(thing: object, seen: set[int]) -> Iterable[Verified]:
    """Every message that is kept somewhere in an object."""
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, Verified):
        yield thing
    elif isinstance(thing, dict):
        for value in thing.values():
            yield from held(value, seen)
    elif isinstance(thing, tuple | list | set):
        for value in thing:
            yield from held(value, seen)
    elif isinstance(thing, Certify | Votes):
        yield from held(vars(thing), seen)


def test_what_is_kept_of_a_liar_is_bounded() -> None:
    voters = Voters(4, 1)
    (liar,), peer = voters.liars, voters.honest[0]
    machine = voters.machines[peer]
    own = [view for view in range(MOST_VIEWS + 1) if machine.proposer(view) == liar]
    for view in range(MOST_VIEWS + 1):
        machine.received(voters.sign(liar, Prepare(CONTEXT, TOPIC, view, bytes([view]) * 32)))
        machine.received(voters.sign(liar, Commit(CONTEXT, TOPIC, view, bytes([view]) * 32)))
        machine.received(voters.sign(liar, Lock(CONTEXT, TOPIC, view, b"", ())))
        if view in own:
            machine.received(voters.sign(liar, Propose(CONTEXT, TOPIC, view, bytes([view]), (), ())))
        with pytest.raises(RemoteError, match="CE-6"):  # a value without the prepares that lock on it
            machine.received(voters.sign(liar, Lock(CONTEXT, TOPIC, view, b"y" * 8192, ())))
    kept = Counter(one.message.kind for one in held(machine, set()) if one.sender == liar)
    assert kept == {
        "certify.prepare": KEPT_VIEWS,
        "certify.commit": KEPT_VIEWS,
        "certify.lock": 1,
        "certify.propose": 1,
    }


def test_a_certificate_counts_though_one_of_its_signers_signed_another_commit() -> None:
    voters = Voters(4, 1)
    (liar,), (first, second, third) = voters.liars, voters.honest
    machine, digest = voters.machines[second], derive.vote_value(CONTEXT, TOPIC, b"x")
    machine.received(voters.sign(liar, Commit(CONTEXT, TOPIC, 0, b"y" * 32)))
    machine.expired()  # it is in view 1 when what was certified in view 0 comes
    voters.out[second].clear()
    commits = tuple(voters.sign(peer, Commit(CONTEXT, TOPIC, 0, digest)) for peer in (liar, first, third))
    machine.received(voters.sign(first, Certificate(CONTEXT, TOPIC, b"x", commits)))
    assert machine.advance()
    assert machine.value == b"x"
    assert {one.sender for one in machine.certificate} == {liar, first, third}
    blames = [effect.error for effect in voters.out[second] if isinstance(effect, Blame)]
    assert [(error.clause, error.peer) for error in blames] == [("CE-4", liar)]
    voters.out[second].clear()
    machine.relay(voters.peers)
    relayed = [effect.to for effect in voters.out[second] if isinstance(effect, Send)]
    assert relayed == [peer for peer in machine._order if peer not in (first, second)], "who has it gets it"
    machine.relay(voters.peers)
    assert len(voters.out[second]) == len(relayed), "it is handed to nobody twice"


def test_a_later_views_time_begins_when_a_quorum_has_come_to_it() -> None:
    """Who is early, by its clock or because it could vote before the others, waits for those whose votes it needs."""
    voters = Voters(7, 2)
    early, *others = voters.honest
    machine, out = voters.machines[early], voters.out[early]
    machine.expired()
    assert machine.view == 1
    assert not any(isinstance(effect, SetTimer) for effect in out)
    machine.expired()  # the timer of the view that it left
    assert machine.view == 1
    for peer in (*others, *voters.liars)[: voters.quorum - 2]:
        machine.received(voters.sign(peer, Lock(CONTEXT, TOPIC, 1, b"", ())))
    assert not any(isinstance(effect, SetTimer) for effect in out)
    machine.received(voters.sign(others[-1], Lock(CONTEXT, TOPIC, 1, b"", ())))
    assert [effect.name for effect in out if isinstance(effect, SetTimer)] == [machine.timer]


@given(st.data())
@settings(max_examples=200)
def test_votes_counted_as_they_come_give_the_quorums_that_a_recount_gives(data: st.DataObject) -> None:
    voters = Voters(5, 1)
    votes, recount = Votes(voters.quorum), dict[PeerId, dict[int, bytes]]()
    for _ in range(data.draw(st.integers(0, 80))):
        voter = data.draw(st.sampled_from(voters.peers))
        view, value = data.draw(st.integers(0, 2 * KEPT_VIEWS)), data.draw(st.sampled_from([b"x" * 32, b"y" * 32]))
        cast = recount.setdefault(voter, {})
        left = len(cast) == KEPT_VIEWS and view < min(cast)
        agrees = votes.add(view, value, voters.sign(voter, Prepare(CONTEXT, TOPIC, view, value)))
        assert agrees == (left or cast.get(view, value) == value)
        if not left:
            cast.setdefault(view, value)
            if len(cast) > KEPT_VIEWS:
                del cast[min(cast)]
    counted = Counter((view, value) for cast in recount.values() for view, value in cast.items())
    assert votes.quorums == {view: value for (view, value), count in counted.items() if count >= voters.quorum}
    for view, value in votes.quorums.items():
        quorum = votes.of_quorum(view)
        assert len({one.sender for one in quorum}) == voters.quorum
        assert {one.message.value for one in quorum} == {value}  # type: ignore[attr-defined]
