"""Peers in processes of their own, as ``decentra run`` starts them: stopped, killed, forked, and on a full disk."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest

from decentra.audit.transcript import read
from decentra.wire.entry import parse
from starting import Group, Program

pytestmark = pytest.mark.slow

MakeGroup = Callable[..., Group]

PATIENT = {"rounds__ready_deadline": 300.0, "rounds__phase_deadline": 300.0, "protocol__initial_range": 4.0}
"""Whoever waits for a deadline here makes the test fail."""

BRISK = {"rounds__ready_deadline": 4.0, "rounds__phase_deadline": 3.0, "protocol__initial_range": 4.0}


def go(programs: list[Program]) -> list[dict[str, Any]]:
    """Let every program do its next round, and wait for what came of it."""
    for program in programs:
        program.wait_for("waiting")
    for program in programs:
        program.say()
    return [program.wait_for("round") for program in programs]


def ready(group: Group, rounds: int, **options: Any) -> list[Program]:
    programs = group.start("averaging", "{index}", str(rounds), "step", **options)
    for program in programs:
        program.wait_for("ready")
    return programs


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_peer_that_is_told_to_stop_leaves_and_the_others_go_on_at_once(
    make_group: MakeGroup, number: signal.Signals, code: int
) -> None:
    programs = ready(make_group(4, **PATIENT), 3)
    assert [fact["mean"] for fact in go(programs)] == [pytest.approx(1.5, abs=1e-2)] * 4
    gone = programs.pop(1)
    gone.wait_for("waiting")
    gone.signal(number)
    assert gone.end() == code
    assert "Traceback" not in gone.errors
    assert [parse(signed.entry).kind for signed in read(next(gone.folder.transcripts.glob("*-????????.log")))][-1] == (
        "rendezvous.leave"
    )
    for _ in range(2):
        for fact in go(programs):
            assert fact["mean"] == pytest.approx(5 / 3, abs=1e-2)
            assert len(fact["participants"]) == 3
    assert [program.end() for program in programs] == [0, 0, 0]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_peer_that_is_stopped_while_it_waits_in_a_round_ends_it_for_nobody_else(
    make_group: MakeGroup, number: signal.Signals, code: int
) -> None:
    programs = ready(make_group(4, **PATIENT), 2)
    go(programs)
    others = programs[1:]
    for program in programs:
        program.wait_for("waiting")
    programs[0].say()  # alone, so it waits for the others' readiness
    programs[0].wait_for("begins")
    programs[0].signal(number)
    assert programs[0].end() == code
    assert "Traceback" not in programs[0].errors
    for program in others:
        program.say()
    for program in others:
        assert len(program.wait_for("round")["participants"]) == 3
    assert [program.end() for program in others] == [0, 0, 0]


def test_after_one_peer_was_killed_the_others_complete_later_rounds(make_group: MakeGroup) -> None:
    group = make_group(4, **BRISK)
    programs = group.start("averaging", "{index}", "40")
    programs[2].wait_for("round")
    programs[2].signal(signal.SIGKILL)
    assert programs[2].end() == -signal.SIGKILL
    others = [programs[0], programs[1], programs[3]]
    assert [program.end() for program in others] == [0, 0, 0]
    for program in others:
        rounds = [fact for fact in program.told if fact["event"] == "round"]
        assert len(rounds[-1]["participants"]) == 3 and rounds[-1]["mean"] == pytest.approx(4 / 3, abs=1e-2)
        for fact in program.told:
            if fact["event"] == "failed":
                assert fact["kind"] == "Unavailable" and fact["seconds"] < 30
    numbers = [{fact["number"] for fact in program.told if fact["event"] == "round"} for program in others]
    assert len(set.intersection(*numbers)) >= 20
    means = [{fact["number"]: fact["mean"] for fact in program.told if fact["event"] == "round"} for program in others]
    for number in set.intersection(*numbers):
        assert len({mean[number] for mean in means}) == 1


def test_a_killed_peer_that_starts_again_takes_part_again(make_group: MakeGroup) -> None:
    group = make_group(4, **BRISK)
    programs = ready(group, 8)
    go(programs)
    programs[3].signal(signal.SIGKILL)
    programs[3].end()
    back = group.start("averaging", "3", "30", peers=[3])[0]
    back.wait_for("ready")
    others = programs[:3]
    for program in others:
        for _ in range(7):
            program.say()
    for program in others:
        assert program.end() == 0
    assert any(len(fact["participants"]) == 4 for fact in others[0].told[3:] if fact["event"] == "round")
    back.signal(signal.SIGTERM)
    assert back.end() == 143
    journal_rounds = [parse(signed.entry) for signed in read(next(back.folder.transcripts.glob("*-????????.log")))]
    assert sorted({entry.boot for entry in journal_rounds}) == [1, 2]


def test_a_newcomer_takes_a_state_of_many_mib_from_those_that_are_left_when_a_source_is_stopped_on_the_way(
    make_group: MakeGroup,
) -> None:
    group = make_group(5, **{**BRISK, "rounds__phase_deadline": 8.0})
    never, parts = "1000000", "2"
    seeds, stops = ["7", "7", "7", "7", "8"], [never, parts, never, never, never]
    programs = [
        group.start("catching_up", seeds[index], "24", stops[index], peers=[index])[0] for index in range(5)
    ]
    for program in programs:
        program.wait_for("ready")
    holders, newcomer = programs[:4], programs[4]
    for program in holders:
        program.say()
    for program in holders:
        assert len(program.wait_for("round")["participants"]) == 4
    stopped, others = holders[1], [holders[0], *holders[2:], newcomer]
    for program in programs:
        program.say()
    assert "'ready' phase" not in newcomer.wait_for("failed")["error"]  # it had the state: the others lack who stopped
    for program in others[:-1]:
        program.wait_for("failed")
    for program in others:
        program.say()
    facts = [program.wait_for("round") for program in others]
    assert len({fact["state"] for fact in facts}) == len({fact["number"] for fact in facts}) == 1
    assert len(facts[0]["participants"]) == 4
    stopped.signal(signal.SIGKILL)
    stopped.end()
    newcomer.signal(signal.SIGTERM)
    assert newcomer.end() == 143
    log = [parse(signed.entry) for signed in read(next(newcomer.folder.transcripts.glob("*-????????.log")))]
    asked = [entry.receiver for entry in log if entry.kind == "rendezvous.want"]
    assert set(asked) == {bytes(identity.id) for identity in group.identities[:4]}
    assert 25 < len(asked) <= 27  # 24 parts and the index, and what the stopped one did not send once more


def test_on_a_full_disk_a_peer_stops_sending_and_says_so(make_group: MakeGroup) -> None:
    group = make_group(4, **BRISK)
    full = group.start("averaging", "0", "4", "step", "full", peers=[0])
    others = group.start("averaging", "{index}", "6", peers=[1, 2, 3])
    full[0].wait_for("waiting")
    full[0].say()
    full[0].wait_for("round")
    full[0].wait_for("full")
    for _ in range(3):
        full[0].say()  # every further call is refused
    failed = full[0].wait_for("failed")
    assert failed["kind"] == "LocalError"
    assert "journal.db can't be written" in failed["error"] and "nothing more is sent" in failed["error"]
    assert full[0].end() == 0  # it ends by itself, although its transcript can't be written any more
    assert len([fact for fact in full[0].told if fact["event"] == "failed"]) == 3
    assert full[0].last("closed")["rounds"] == 1
    for program in others:
        assert program.end() == 0
        assert len(program.last("round")["participants"]) == 3


def test_forked_processes_beside_a_peer_cannot_use_it_and_do_no_harm(make_group: MakeGroup) -> None:
    group = make_group(3, **PATIENT)
    programs = group.start("forking", "{index}")
    assert [program.end() for program in programs] == [0, 0, 0]
    children = [fact for fact in programs[0].told if fact["event"] == "child"]
    assert [fact["how"] for fact in children] == ["exit", "_exit", "_exit", "_exit", "_exit"]
    for fact in children:
        assert fact["code"] == 0 and len(fact["said"]) == 3
        assert all("this process was forked from the peer's own" in sentence for sentence in fact["said"])
    for program in programs:
        assert program.last("closed")["rounds"] == 4
        assert all(fact["participants"] == 3 for fact in program.told if fact["event"] == "round")
        assert "Traceback" not in program.errors
