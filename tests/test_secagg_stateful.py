"""The real machines walk through the model: each vote and reveal of theirs is a step of it, and the other way round.

Hypothesis takes steps from ``specs/secagg/model.py`` and makes them happen to real machines by whatever messages it
takes: a lying proposer's proposals in every view, votes of honest peers and of liars, locks, lost ones. What the
machines then do must be what the model does. What the model forbids is tried on them as well.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

import planted_votes
from beside import SPECS, program
from decentra import derive
from decentra.errors import RemoteError
from decentra.machine.effects import Abort, Effect, Persist, Send
from decentra.machine.events import Blob
from decentra.protocols.certify.machine import Certify
from decentra.protocols.certify.messages import Certificate, Commit, Lock, Prepare, Propose
from decentra.protocols.round import SURVIVORS
from decentra.protocols.secagg.deal import Shares
from decentra.protocols.secagg.machine import SecAgg
from decentra.protocols.secagg.messages import Unmask
from decentra.protocols.setting import Contribution
from decentra.protocols.survivors import FAIL, Survivors
from decentra.simulation.hazards import Hazards
from decentra.simulation.stage import Play, Stage
from decentra.types import PeerId, RoundId
from decentra.wire.codec import Signed
from decentra.wire.entry import ZERO, Chain
from decentra.wire.message import Message, Verified

model = program(SPECS / "secagg" / "model.py")

CONTEXT, SESSION = b"c" * 32, b"s" * 32
ROUND = RoundId(1, 1)
SETTING = Stage(Play(n=4, c=1), 0, Hazards()).actors[0].session._setting
VOTE = re.compile(r"p(\d+) (prepares|commits) ([A-H]) in view (\d+)")

Vote = tuple[int, str, int, int]
"""Who, ``prepares`` or ``commits``, in which view, for which letter."""


class Nobody:
    """A signer without keys: what is signed here is believed, as a machine believes what its driver has verified."""

    def __init__(self, peer: PeerId) -> None:
        self.id = peer

    def sign(self, message: bytes) -> bytes:
        return hashlib.sha512(self.id + message).digest()


def led_by_liars(kind: type[Certify], liar: PeerId) -> type[Certify]:
    """A voter for whom every view is a liar's, as in the model; that covers honest proposers."""
    return type(kind.__name__, (kind,), {"proposer": lambda self, view=None: liar})


class Walk(RuleBasedStateMachine):
    """Certify machines of the honest peers, and the model's state beside them."""

    kind: type[Certify] = Certify
    bold = False
    """Whether liars show their votes also where these make no quorum; a peer counts one of each in a view."""

    @initialize(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        n, c, views = data.draw(st.sampled_from([(4, 1, 3), (4, 1, 2), (3, 1, 3), (5, 2, 2)]), label="n, c, views")
        protocol = model.Model(n=n, c=c, views=views)
        bound = data.draw(st.lists(st.sampled_from(model.outcomes(protocol)), min_size=2, max_size=2), label="U")
        if bound == [model.NOTHING] * 2:
            bound[1] = model.outcomes(protocol)[-1]
        self.set_up(protocol, bound)

    def set_up(self, protocol: Any, bound: Sequence[tuple[int, ...]]) -> None:
        """Machines for a configuration of the model, and for each letter the honest peers that it names."""
        self.model, n, c = protocol, protocol.n, protocol.c
        self.state = model.initial(self.model)
        peers = sorted(PeerId(hashlib.sha256(bytes([index])).digest()) for index in range(n))
        self.peers, self.honest, self.liars = tuple(peers), peers[: n - c], peers[n - c :]
        self.chains = {peer: Chain(Nobody(peer), SESSION, 1) for peer in peers}
        self.out: list[list[Effect]] = [[] for _ in self.honest]
        self.bound = dict(enumerate(bound, 1))
        self.values = {letter: self._value(letter, u) for letter, u in self.bound.items()}
        self.digests = {letter: derive.vote_value(CONTEXT, SURVIVORS, value) for letter, value in self.values.items()}
        self.cast: dict[tuple[str, int, int], dict[PeerId, Verified]] = {}
        """Votes by kind, view and letter; a liar casts one when it is needed."""
        self.told: set[tuple[int, int]] = set()
        """To whom a proposal of a view was shown: an honest peer looks at one."""
        self.locks = 10
        self.settled: dict[int, int] = {}
        self.shown: dict[int, tuple[int, ...]] = {}
        voter = led_by_liars(self.kind, self.liars[0])
        self.voters = [
            voter(SURVIVORS, CONTEXT, 1, self.peers, self.model.t, c, peer, lambda *_: True, 1.0, out)
            for peer, out in zip(self.honest, self.out, strict=True)
        ]
        for out in self.out:
            out.clear()

    def _value(self, letter: int, u: tuple[int, ...]) -> bytes:
        """A value of its own for each letter, that names these honest peers; liars fill up to the floor."""
        if u == model.NOTHING:
            return FAIL
        chosen = [self.honest[k] for k in u]
        chosen += self.liars[: max(0, self.model.t - len(chosen))]
        return Survivors(tuple(sorted(chosen)), self.peers, (bytes([letter]) * 32,) * self.model.n).pack()

    # ── messages ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def sign(self, peer: PeerId, message: Message) -> Verified:
        body = repr(message).encode()
        entry = self.chains[peer].sign(ROUND, message.kind, body)
        return Verified(entry, message, Signed(entry.packed, body))

    def votes(self, act: str, view: int, letter: int) -> list[Verified]:
        """The votes that can be shown: of honest peers what they cast, of liars everything."""
        cast = self.cast.setdefault((act, view, letter), {})
        kind = Prepare if act == "prepares" else Commit
        for liar in self.liars:
            if liar not in cast:
                cast[liar] = self.sign(liar, kind(CONTEXT, SURVIVORS, view, self.digests[letter]))
        return [cast[peer] for peer in sorted(cast)]

    def quorum(self, act: str, view: int, letter: int) -> tuple[Verified, ...]:
        return tuple(self.votes(act, view, letter)[: self.model.t])

    def teach(self, who: int, view: int, letter: int) -> None:
        """Let a peer know a value that t peers prepared, by a liar's lock."""
        self.locks += 1
        prepares = self.quorum("prepares", view, letter)
        lock = Lock(CONTEXT, SURVIVORS, self.locks, self.values[letter], prepares)
        self.voters[who].received(self.sign(self.liars[0], lock))

    def run(self, who: int) -> list[Vote]:
        """Let a machine act; what it signs is a step of the model, durable before it is sent."""
        signed: list[Vote] = []
        saved: set[tuple[str, str, bytes]] = set()
        while True:
            self.voters[who].advance()
            effects, self.out[who][:] = list(self.out[who]), []
            for effect in effects:
                if isinstance(effect, Persist):
                    saved.add((effect.record.kind, effect.record.topic, effect.record.value))
                elif isinstance(effect, Send):
                    signed += self._signs(who, effect.message, saved)
            if not effects:
                return signed

    def _signs(self, who: int, message: Message, saved: set[tuple[str, str, bytes]]) -> list[Vote]:
        verified = self.sign(self.honest[who], message)
        self.voters[who].received(verified)
        if not isinstance(message, Prepare | Commit):
            return []
        act = "prepares" if isinstance(message, Prepare) else "commits"
        assert (act[:-1], f"{SURVIVORS}/{message.view}", CONTEXT + message.value) in saved
        letter = next(letter for letter, digest in self.digests.items() if digest == message.value)
        self.cast.setdefault((act, message.view, letter), {})[self.honest[who]] = verified
        label = f"p{who} {act} {model.name(letter)} in view {message.view}"
        steps = dict(model.steps(self.model, self.state))
        assert label in steps, f"the machine does what the model forbids: {label} in {self.state}"
        self.state = steps[label]
        return [(who, act, message.view, letter)]

    # ── voting ───────────────────────────────────────────────────────────────────────────────────────────────────────

    @rule(data=st.data())
    def the_model_steps(self, data: st.DataObject) -> None:
        """A step of the model's happens to the machine, by the messages that show what it needs."""
        labels = [label for label, _ in model.steps(self.model, self.state) if VOTE.fullmatch(label)]
        if not labels:
            return
        label = data.draw(st.sampled_from(labels), label="step")
        match = VOTE.fullmatch(label)
        assert match is not None
        who, act, view, letter = int(match[1]), match[2], int(match[4]), model.LETTERS.index(match[3]) + 1
        if who in self.settled:
            return
        if act == "commits" or ((who, view) not in self.told and self.voters[who].view <= view):
            assert (who, act, view, letter) in self.tries(label)

    @rule(who=st.integers(0, 9), view=st.integers(0, 2), letter=st.integers(1, 2))
    def a_liar_proposes(self, who: int, view: int, letter: int) -> None:
        """Whatever a liar proposes, however late, a machine prepares only what the model lets it."""
        who %= len(self.honest)
        if who not in self.settled and (who, view) not in self.told and view < self.model.views:
            self.proposes(who, view, letter)

    @rule(who=st.integers(0, 9), view=st.integers(0, 2), letter=st.integers(1, 2))
    def all_prepares_come(self, who: int, view: int, letter: int) -> None:
        """Whatever prepares come, however late, a machine commits only to what the model lets it."""
        who %= len(self.honest)
        if who not in self.settled and view < self.model.views:
            self.shows_prepares(who, view, letter)

    def proposes(self, who: int, view: int, letter: int) -> list[Vote]:
        """The liar proposes a letter to one peer in a view, with the latest prepares of it that can be shown."""
        voter = self.voters[who]
        signed: list[Vote] = []
        while voter.view < view:
            voter._timed = True  # a quorum has come to its view, and its time is over
            voter.expired()
            signed += self.run(who)
        prepared = model.quorums(self.model, self.state.records, 0)
        earlier = [y for y, x in prepared if x == letter and y < view]
        locked = self.quorum("prepares", max(earlier), letter) if earlier else ()
        self.told.add((who, view))
        proposal = Propose(CONTEXT, SURVIVORS, view, self.values[letter], (), locked)
        voter.received(self.sign(self.liars[0], proposal))
        return signed + self.run(who)

    def shows_prepares(self, who: int, view: int, letter: int) -> list[Vote]:
        """All prepares of a letter in a view come to one peer; a liar's with its value, if they are t together."""
        if (view, letter) in model.quorums(self.model, self.state.records, 0):
            self.teach(who, view, letter)
            prepares = self.votes("prepares", view, letter)
        else:
            if self.bold:
                self.voters[who]._learn(self.values[letter])  # as from a proposal that it did not follow
            signers = (*self.honest, *self.liars) if self.bold else self.honest
            prepares = [one for one in self.votes("prepares", view, letter) if one.sender in signers]
        for verified in prepares:
            if verified.sender != self.honest[who]:
                with suppress(RemoteError) if self.bold else nullcontext():
                    self.voters[who].received(verified)
        return self.run(who)

    def tries(self, label: str) -> list[Vote]:
        """Make a step happen, or what would be one if a hole were in the protocol."""
        match = VOTE.fullmatch(label)
        if match is None:
            return []
        who, view, letter = int(match[1]), int(match[4]), model.LETTERS.index(match[3]) + 1
        if match[2] == "commits":
            return self.shows_prepares(who, view, letter)
        return [] if (who, view) in self.told else self.proposes(who, view, letter)

    # ── certificates and reveals ─────────────────────────────────────────────────────────────────────────────────────

    @rule(who=st.integers(0, 9), letter=st.integers(1, 2), whole=st.booleans())
    def a_certificate_comes(self, who: int, letter: int, whole: bool) -> None:
        """A certificate counts if and only if the model has this letter certified."""
        who %= len(self.honest)
        if who in self.settled:
            return
        views = [v for v, x in model.quorums(self.model, self.state.records, 1) if x == letter]
        view = views[0] if views else 0
        commits = self.votes("commits", view, letter)
        cited = tuple(commits[: self.model.t]) if whole or not views else tuple(commits[: self.model.t - 1])
        message = self.sign(self.liars[-1], Certificate(CONTEXT, SURVIVORS, self.values[letter], cited))
        if len(cited) >= self.model.t:
            assert letter in model.certified(self.model, self.state.records)
            self.voters[who].received(message)
            self.run(who)
            assert self.voters[who].value == self.values[letter]
            self.settled[who] = letter
        else:
            with pytest.raises(RemoteError, match="CE-5"):
                self.voters[who].received(message)
            assert not self.voters[who].certificate

    @rule()
    def a_settled_peer_unmasks(self) -> None:
        """Under the certificate it shows what the model's reveal shows: of U the self seeds, of the others the keys."""
        if self.settled.keys() <= self.shown.keys():
            return
        who = min(self.settled.keys() - self.shown.keys())
        letter = self.settled[who]
        effects = unmasking(self.peers, self.honest[who], self.model.c, self.voters[who])
        shown = [one.message for one in effects if isinstance(one, Send) and isinstance(one.message, Unmask)]
        certified = tuple(sorted({self.bound[settled] for settled in self.settled.values()}))
        before = model.Unmasking(certified, tuple(self.shown.get(k, model.NOTHING) for k in range(len(self.honest))))
        labels = {label for label, _ in model.steps(self.model, before)}
        if self.values[letter] == FAIL:
            assert not shown and any(isinstance(one, Abort) for one in effects)
            self.shown[who] = model.NOTHING
            return
        (message,) = shown
        selves, keys = [{peer for peer, _ in shares} for shares in (message.self_shares, message.key_shares)]
        assert selves.isdisjoint(keys) and selves | keys == set(self.peers)
        u = tuple(k for k, peer in enumerate(self.honest) if peer in selves)
        assert f"p{who} shows its shares for {model.told(u)}" in labels
        saved = [one.record for one in effects if isinstance(one, Persist) and one.record.kind == "reveal"]
        assert [one.value for one in saved] == [CONTEXT + self.digests[letter]]
        self.shown[who] = u

    # ── what is the same all the time ────────────────────────────────────────────────────────────────────────────────

    @invariant()
    def the_machines_are_in_the_models_state(self) -> None:
        if not hasattr(self, "voters"):
            return
        letters = {value: letter for letter, value in self.values.items()}
        for who, (voter, record) in enumerate(zip(self.voters, self.state.records, strict=True)):
            assert voter._acted == model.acted(record)
            assert voter._prepared == {view for view, (prepare, _) in enumerate(record) if prepare}
            assert voter._committed == {view for view, (_, commit) in enumerate(record) if commit}
            held = None if voter._lock is None else (voter._lock.view, letters[voter._lock.value])
            assert held == model.lock_of(record)
            assert bool(voter.certificate) == (who in self.settled)
        assert len(set(self.settled.values())) <= 1
        for promise in model.INVARIANTS:
            assert promise.broken(self.model, self.state) is None


def unmasking(peers: tuple[PeerId, ...], me: PeerId, c: int, vote: Certify) -> list[Effect]:
    """What the real machine of a round does when it waits for survivors and this vote on them is over."""
    setting = replace(SETTING, me=me, members=peers, c=c, floor=len(peers))
    common: Any = None
    mine = Contribution((), [np.zeros(0, np.float32)], 1, ZERO, ZERO, common)
    machine = SecAgg(setting, mine, ROUND)
    machine.roster, machine.context, machine.phase = peers, CONTEXT, SURVIVORS
    machine.own_slices = tuple(Blob(index, 0, ZERO) for index in range(len(peers)))
    machine.left = machine.spent = True
    machine._shares = {peer: Shares(b"b", b"s", b"z") for peer in peers}
    machine.certify[SURVIVORS] = vote
    return machine._guarded(lambda: None)


TestTheMachinesWalkThroughTheModel = Walk.TestCase
TestTheMachinesWalkThroughTheModel.settings = settings(max_examples=200, stateful_step_count=40)

ASTRAY = (
    planted_votes.LowQuorum,
    planted_votes.PreparesSuffice,
    planted_votes.TakesAWord,
    planted_votes.CommitsUnprepared,
    planted_votes.ForgetsLock,
    planted_votes.AnyCommits,
)


@pytest.mark.parametrize("kind", ASTRAY, ids=lambda kind: kind.__name__)
def test_a_machine_that_votes_otherwise_leaves_the_model(kind: type[Certify]) -> None:
    astray = type("Astray", (Walk,), {"kind": kind})
    once = settings(max_examples=500, stateful_step_count=40, phases=[Phase.generate], derandomize=True, database=None)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        run_state_machine_as_test(astray, settings=once)


# ── the shortest ways into the holes that the model plants ───────────────────────────────────────────────────────────


class StaleLock(Certify):
    """Moves its lock on prepares from before it."""

    def _may_prepare(self, proposal: Propose) -> bool:
        shown = self._prepared_view(proposal.locked, proposal.value)
        return (shown is not None and shown < self.view) or super()._may_prepare(proposal)


class FrozenLock(Certify):
    """Never moves its lock."""

    def _may_prepare(self, proposal: Propose) -> bool:
        return (self._lock is None or self._lock.value == proposal.value) and super()._may_prepare(proposal)


HOLES: dict[str, tuple[dict[str, Any], type[Certify]]] = {
    "a quorum one too low": ({"n": 4, "c": 1, "views": 1, "quorum": 2}, planted_votes.LowQuorum),
    "one vote a view": ({"n": 4, "c": 1, "views": 2, "votes": "single"}, planted_votes.CommitsUnprepared),
    "no lock": ({"n": 4, "c": 1, "views": 2, "lock": "none"}, planted_votes.IgnoresLock),
    "a lock that moves on earlier prepares": ({"n": 3, "c": 1, "views": 3, "lock": "stale"}, StaleLock),
    "commits below a view acted in": ({"n": 4, "c": 1, "views": 2, "commits": "late"}, planted_votes.CommitsBelow),
    "a lock that never moves": ({"n": 4, "c": 1, "views": 2, "lock": "frozen"}, FrozenLock),
}


def walked_into(hole: str, kind: type[Certify]) -> None:
    """Take real machines the way into a hole; then a proposer of the next view offers the highest lock to everybody."""
    options, _ = HOLES[hole]
    found = model.explore(model.Model(**options)).counterexample
    numbers = {name: options[name] for name in ("n", "c", "views")}
    protocol = model.Model(**{**numbers, "views": numbers["views"] + 1})
    walk = type("Into", (Walk,), {"kind": kind, "bold": True})()
    walk.set_up(protocol, [model.outcomes(protocol)[-1]] * 2)
    for label in found.trace:
        walk.tries(label)
        walk.the_machines_are_in_the_models_state()
    locks = [lock for record in walk.state.records if (lock := model.lock_of(record))]
    view, letter = numbers["views"], max(locks, default=(-1, 1))[1]
    for who in range(len(walk.honest)):
        assert (who, "prepares", view, letter) in walk.proposes(who, view, letter)


@pytest.mark.parametrize("hole", HOLES)
def test_the_way_into_a_hole_is_closed_to_the_real_machines(hole: str) -> None:
    walked_into(hole, Certify)


@pytest.mark.parametrize("hole", HOLES)
def test_the_way_into_a_hole_is_open_to_a_machine_that_has_it(hole: str) -> None:
    with pytest.raises(AssertionError):
        walked_into(hole, HOLES[hole][1])
