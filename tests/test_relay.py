"""Peers on a bad network: what a relay between them delays, holds, refuses, loses, repeats, swaps and alters.

TCP delivers in order or not at all, so a relay of bytes can delay and cut. Losing, repeating, swapping and altering is
what somebody on the way does to frames, which CURVE must notice; see ``relay``.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from decentra.transport.base import CUT, Lane
from decentra.transport.zeromq import ZeroMQTransport
from relay import Harm, Relay, between
from starting import Group, Program
from test_transport import Node, ZeroMQWorld, port_of

MakeGroup = Callable[..., Group]

LARGE = 1000
"""Bytes of a frame that is no heartbeat and no acknowledgement."""

BRISK = {"rounds__ready_deadline": 4.0, "rounds__phase_deadline": 4.0, "protocol__initial_range": 4.0}
PATIENT = {"rounds__ready_deadline": 300.0, "rounds__phase_deadline": 300.0, "protocol__initial_range": 4.0}
"""Whoever waits for a deadline here makes the test fail."""


# ── two transports in this process ───────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def relayed() -> Iterator[tuple[ZeroMQWorld, Relay, Node, Node]]:
    """Two neighbours, connected both ways through a relay."""
    world = ZeroMQWorld()
    relay = Relay([port_of(world.held[letter]) for letter in "ab"])
    try:
        a, b = world.node("a"), world.node("b")
        for one, other, way in ((a, b, (0, 1)), (b, a, (1, 0))):
            assert isinstance(one.transport, ZeroMQTransport)
            one.transport.learn(other.id, f"tcp://127.0.0.1:{relay.port(*way)}")
            one.transport.dial(other.id)
        world.until(lambda: a.up(b.id) and b.up(a.id))
        yield world, relay, a, b
    finally:
        world.close()
        relay.close()


@pytest.mark.parametrize("how", Harm)
def test_whatever_is_done_to_frames_on_the_way_messages_arrive_whole_or_not_at_all_and_nobody_is_blamed(
    relayed: tuple[ZeroMQWorld, Relay, Node, Node], how: Harm
) -> None:
    world, relay, a, b = relayed
    relay.harm([(0, 1)], how, 2, smallest=LARGE)
    sent = 0
    while relay.harmed([(0, 1)]) < 2 or len(b.got) < 3:
        world.until(lambda: a.up(b.id))
        before = relay.paths[0, 1].frames
        a.transport.send(b.id, Lane.BULK, b"%d" % sent, [bytes([sent]) * LARGE, bytes([sent])])
        relay.wait_for(lambda before=before: relay.paths[0, 1].frames > before)
        world.until(lambda: True)
        sent += 1
    if how is not Harm.LOSE:  # which CURVE forgives: a message is then lost, whole, and is sent again further up
        world.until(lambda: CUT in a.reasons(b.id))
    numbers = [int(header) for header in b.headers()]
    assert [parts for *_, parts in b.got] == [[bytes([number]) * LARGE, bytes([number])] for number in numbers]
    assert numbers == sorted(set(numbers))
    assert how is Harm.REPEAT or len(numbers) < sent
    assert set(a.reasons(b.id)) <= {CUT} and not b.reasons(a.id)


# ── real processes ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def make_relayed(make_group: MakeGroup) -> Iterator[Callable[..., tuple[Group, Relay]]]:
    """Makes groups whose folders name the relay's ports in place of the others' own."""
    relays = []

    def make(n: int, **changes: object) -> tuple[Group, Relay]:
        group = make_group(n, **changes)
        relays.append(Relay(group.ports))
        for index, folder in enumerate(group.folders):
            head, table, rest = folder.config.read_text().partition("[peers]\n")
            for other, port in enumerate(group.ports):
                if other != index:
                    rest = rest.replace(f":{port}\"", f":{relays[-1].port(index, other)}\"")
            folder.config.write_text(head + table + rest)
        return group, relays[-1]

    yield make
    for relay in relays:
        relay.close()


def ready(group: Group, rounds: int) -> list[Program]:
    programs = group.start("averaging", "{index}", str(rounds), "step")
    for program in programs:
        program.wait_for("waiting")
    return programs


def go(programs: list[Program]) -> list[dict[str, Any]]:
    """One more round at each of them, and how it ended there: with a result, or with an error."""
    for program in programs:
        program.say()
    ended = [program.wait_for(("round", "failed")) for program in programs]
    for program in programs:
        program.wait_for(("waiting", "closed"))
    return ended


def alike(ended: list[dict[str, Any]]) -> set[str]:
    """Every peer has the same result, the mean of those in it; who they are."""
    assert {fact["event"] for fact in ended} == {"round"}, ended
    first = ended[0]
    for fact in ended:
        assert [fact[key] for key in ("number", "mean", "participants")] == [
            first[key] for key in ("number", "mean", "participants")
        ]
    return set(first["participants"])


@pytest.mark.slow
def test_rounds_end_alike_and_right_under_delay_and_whatever_is_done_to_frames(make_relayed: Any) -> None:
    group, relay = make_relayed(4, **PATIENT)
    ways = list(relay.paths)
    programs = ready(group, 6)
    relay.delay(ways, 0.02)
    relay.delay(between(3, [0, 1, 2]), 0.1)
    ended = go(programs)
    assert len(alike(ended)) == 4 and ended[0]["mean"] == pytest.approx(1.5, abs=1e-2)
    assert min(fact["seconds"] for fact in ended) > 4 * 0.1  # it was felt: a round has more phases than that
    relay.delay(ways, 0.0)
    for done, how in enumerate(Harm, 1):
        relay.harm([(0, 1), (2, 0), (1, 3)], how, 1, smallest=LARGE // 3)
        ended = go(programs)
        assert len(alike(ended)) == 4 and ended[0]["mean"] == pytest.approx(1.5, abs=1e-2)
        relay.wait_for(lambda done=done: relay.harmed(ways) == 3 * done)
    ended = go(programs)
    assert len(alike(ended)) == 4
    assert [program.end() for program in programs] == [0] * 4
    for program in programs:
        assert "broke" not in program.errors.replace("connection broke", "")  # nobody was blamed for the network


@pytest.mark.slow
def test_a_peer_that_is_cut_off_both_ways_or_one_is_left_out_says_for_whom_it_waited_and_is_back_once_it_is_healed(
    make_relayed: Any,
) -> None:
    group, relay = make_relayed(4, **BRISK)
    names = [str(identity.id) for identity in group.identities]
    programs = ready(group, 12)
    assert len(alike(go(programs))) == 4
    for cut, named in (
        (lambda: relay.cut(between(3, [0, 1, 2])), all),
        (lambda: relay.refuse([(3, other) for other in range(3)]), any),  # it hears who left it out
    ):
        cut()
        ended = go(programs)
        assert alike(ended[:3]) == set(names[:3]) and ended[0]["mean"] == pytest.approx(1.0, abs=1e-2)
        assert ended[3]["kind"] == "Unavailable"
        assert named(name in ended[3]["error"] for name in names[:3]), ended[3]["error"]
        assert max(fact["seconds"] for fact in ended) < 30
        relay.heal()
        heal_within(3, programs, relay)
    for program in programs:
        program.signal(signal.SIGTERM)
    assert [program.end() for program in programs] == [143] * len(programs)


@pytest.mark.slow
def test_halves_without_a_quorum_say_for_whom_they_wait_train_on_locally_and_are_one_group_again_within_three_rounds(
    make_relayed: Any,
) -> None:
    group, relay = make_relayed(4, **BRISK)
    names = [str(identity.id) for identity in group.identities]
    programs = group.start("training", "{index}", "12", "step")
    for program in programs:
        program.wait_for("waiting")
    before = train(programs)
    assert len({fact["parameters"] for fact in before}) == 1
    relay.cut(between(0, [2, 3]) + between(1, [2, 3]))
    for failed in (1, 2):
        ended = train(programs)
        for fact, earlier in zip(ended, before, strict=True):
            assert fact["failed"] == earlier["failed"] + failed and fact["rounds"] == earlier["rounds"]
            assert fact["norm"] != earlier["norm"]  # its own steps, kept
    for program, others in zip(programs, [names[2:]] * 2 + [names[:2]] * 2, strict=True):
        last = next(line for line in reversed(program.errors.splitlines()) if "a round failed" in line)
        assert "training goes on" in last and any(name in last for name in others)
    relay.heal()
    for _ in range(3):
        ended = train(programs)
        relay.wait_for(lambda: relay.connected(list(relay.paths)))
        if all(fact["rounds"] > earlier["rounds"] for fact, earlier in zip(ended, before, strict=True)):
            break
    assert len({fact["parameters"] for fact in ended}) == 1 and ended[0]["parameters"] != before[0]["parameters"]
    for program in programs:
        program.signal(signal.SIGTERM)
    assert [program.end() for program in programs] == [143] * len(programs)


def train(programs: list[Program]) -> list[dict[str, Any]]:
    """The local steps of a round at each of them, and the round; what each tells after it."""
    for program in programs:
        program.say()
    ended = [program.wait_for("round") for program in programs]
    for program in programs:
        program.wait_for("waiting")
    return ended


def heal_within(rounds: int, programs: list[Program], relay: Relay) -> None:
    """All are in one round again after so many at most; the first may still fall into the time of reconnecting."""
    for _ in range(rounds):
        ended = go(programs)
        relay.wait_for(lambda: relay.connected(list(relay.paths)))
        if all(fact["event"] == "round" for fact in ended) and len(alike(ended)) == len(programs):
            return
    raise AssertionError(f"not healed after {rounds} rounds: {ended}")
