"""Certificates that some can make and others can't: those who hold them see to it that a round ends for all alike."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from decentra.machine.effects import Send
from decentra.simulation.group import SimulatedGroup
from decentra.types import RoundResult
from helpers import Watch, ids, lie, play, results, simulate, small

VOTES = ("survivors", "outcome", "verdict")


def sent_by_kind(group: SimulatedGroup) -> Counter[str]:
    """Counts what every peer sends from now on, by kind."""
    counts: Counter[str] = Counter()
    for peer in group.peers:
        post = peer.driver._post

        def counted(verified, effect, post=post):  # type: ignore[no-untyped-def]
            counts[verified.entry.kind] += 1
            post(verified, effect)

        peer.driver._post = counted  # type: ignore[method-assign]
    return counts


def commits_go(group: SimulatedGroup, who: int, topic: str, told: list[int]) -> None:
    """Have a peer show its commit in a vote to some of the others and to no more."""

    def twist(effect: Send) -> list[Send]:
        if effect.message.topic != topic:  # type: ignore[attr-defined]
            return [effect]
        return [Send(effect.message, to=ids(group)[place], after=effect.after) for place in told]

    lie(group.peers[who], "certify.commit", twist)


def test_where_everybody_makes_a_certificate_only_the_last_is_sent() -> None:
    group = simulate(7, protocol__c=2)
    sent = sent_by_kind(group)
    results(play(group, small(group)))
    assert sent["certify.certificate"] == 7
    assert sent["certify.lock"] == 0


@settings(max_examples=30)
@given(st.permutations(range(7)), st.integers(0, 4), st.sampled_from(VOTES))
def test_who_lacks_commits_that_others_have_gets_the_certificate_from_them(
    order: list[int], told: int, topic: str
) -> None:
    """Of seven one never commits, and two show their commits to some: the others have four of the five they need."""
    group = simulate(7, protocol__c=2)
    silent, first, second, *others = order
    commits_go(group, silent, topic, [])
    for half in (first, second):
        commits_go(group, half, topic, sorted(others[:told]))
    watch = Watch(group)
    ended = play(group, small(group))
    honest = [ended[place] for place in others]
    done = [one for one in honest if isinstance(one, RoundResult)]
    if told == 0:  # these three and their four commits give nothing, and nobody pretends that they do
        assert not done
        return
    assert len(done) == len(others), honest
    assert len({one.digest for one in done}) == 1
    watch.exact(1, done)
