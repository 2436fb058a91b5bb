"""Networks that part and are whole again: whoever was cut off is back within three rounds, and no quorum, no rounds."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

from hypothesis import given, settings
from hypothesis import strategies as st

from decentra.errors import DecentraError, Unavailable
from decentra.simulation.group import SimulatedPeer
from decentra.types import PeerId, RoundResult
from helpers import ids, settle, simulate, vector
from test_gossip import attend

STEPS = 8.0
"""Virtual seconds of local steps between two rounds."""

HEALED = 3
"""Rounds after which all are in one again."""

READY, PHASE = 20.0, 5.0
CALM = 60.0
"""Virtual seconds of a few rounds in which nothing happens."""


class Life:
    """A group in training: every peer takes its local steps and then a round, over and over."""

    def __init__(self, n: int, seed: int = 0) -> None:
        self.group = simulate(n, seed=seed, rounds__ready_deadline=READY, rounds__phase_deadline=PHASE)
        self.ended: dict[PeerId, list[tuple[float, RoundResult | DecentraError]]] = {}
        for place, peer in enumerate(self.group.peers):
            self.ended[peer.identity.id] = []
            attend(peer)
            self._train(peer, STEPS * (1 + place / 50))

    def _train(self, peer: SimulatedPeer, seconds: float) -> None:
        mine = vector([0.001, -0.001])
        again = partial(self._round_ended, peer, seconds)
        self.group.clock.call_later(seconds, lambda: peer.session.begin(mine, again))

    def _round_ended(self, peer: SimulatedPeer, seconds: float, ended: RoundResult | DecentraError) -> None:
        self.ended[peer.identity.id].append((self.group.clock.now(), ended))
        self._train(peer, seconds)

    def part(self, one: Collection[int], both_ways: bool = True) -> None:
        """Nothing goes from these peers to the others any more; nor from the others to them, if both ways."""
        names = ids(self.group)
        for here in one:
            for there in set(range(len(names))) - set(one):
                self.group.network.cut(names[here], names[there])
                if both_ways:
                    self.group.network.cut(names[there], names[here])

    def heal(self) -> float:
        """All ways carry again; when that is."""
        for one in ids(self.group):
            for other in ids(self.group):
                if one != other:
                    self.group.network.heal(one, other)
        return self.group.clock.now()

    def results(self, since: float) -> dict[int, RoundResult]:
        """The results of the rounds that somebody completed since then, by number; all have the same."""
        found: dict[int, RoundResult] = {}
        for ended in self.ended.values():
            for when, result in ended:
                if when >= since and isinstance(result, RoundResult):
                    assert found.setdefault(result.round.number, result).digest == result.digest
        return found

    def errors(self, place: int, since: float = 0.0) -> list[DecentraError]:
        ended = self.ended[ids(self.group)[place]]
        return [one for when, one in ended if when >= since and isinstance(one, DecentraError)]

    def rounds_until_whole(self, healed: float) -> int:
        """How many rounds were completed, from the first that began after the healing, until all are in one."""
        done = [result for _, result in sorted(self.results(healed + STEPS).items())]
        whole = [len(result.participants) == len(self.group.peers) for result in done]
        assert any(whole), "nobody came back"
        return whole.index(True) + 1


@settings(max_examples=5)
@given(st.integers(0, 1000), st.integers(0, 3), st.booleans(), st.floats(1.0, 120.0))
def test_a_peer_that_was_cut_off_is_in_a_certified_result_within_three_rounds(
    seed: int, place: int, both_ways: bool, lasts: float
) -> None:
    life = Life(4, seed)
    settle(life.group, CALM)
    life.part([place], both_ways)
    settle(life.group, lasts)
    missed = life.results(CALM)
    assert len(missed) >= (lasts - STEPS) // (STEPS + READY + PHASE)  # the others went on meanwhile
    healed = life.heal()
    settle(life.group, CALM)
    assert life.rounds_until_whole(healed) <= HEALED
    for error in life.errors(place):
        assert isinstance(error, Unavailable) and set(error.waited_for) <= set(ids(life.group))


@settings(max_examples=3)
@given(st.integers(0, 1000), st.sampled_from([(4, 2), (5, 2)]), st.floats(100.0, 150.0))
def test_halves_without_a_quorum_complete_no_round_say_for_whom_they_wait_and_are_one_group_again_within_three(
    seed: int, halves: tuple[int, int], lasts: float
) -> None:
    (n, part), life = halves, Life(halves[0], seed)
    settle(life.group, CALM)
    began, names = life.group.clock.now(), ids(life.group)
    life.part(range(part))
    settle(life.group, lasts)
    quorum = n - part >= (n + 1) // 2 + 1  # c is 1
    assert bool(life.results(began + PHASE + STEPS)) is quorum
    for place in range(part if quorum else n):
        apart = set(names[part:] if place < part else names[:part])
        last = life.errors(place, began)[-1]  # the first may be of a round that was under way
        assert isinstance(last, Unavailable) and set(last.waited_for) & apart
        assert all(str(name) in str(last) for name in last.waited_for)
        assert last.seconds <= 2 * (READY + PHASE)  # its views may take as long again as waiting for the others
    healed = life.heal()
    settle(life.group, CALM)
    assert life.rounds_until_whole(healed) <= HEALED
