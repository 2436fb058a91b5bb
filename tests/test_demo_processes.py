"""How the demo kills a peer and starts it again: the order of things, held against programs that play peers."""

from __future__ import annotations

import io
import json
import os
import signal
import struct
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from decentra.crypto.keys import Identity
from decentra.demo import train
from decentra.demo.launch import LEAST_ROUNDS, _may_kill
from decentra.demo.processes import Processes, Told
from decentra.demo.program import Telling
from decentra.demo.screen import Screen, summary_lines
from decentra.errors import LocalError
from decentra.peer.witness import CAPTURE, RESULTS, Witness, read_capture, write_record
from decentra.simulation.group import charter_for, identities
from decentra.types import RoundId

PLAYER = """
import json, sys, threading
from pathlib import Path
# Plays a peer: says the lines of a script, one for its first process and another for the one that is started again.
# Named pipes keep the order between players: opening one waits until the other side opens it too.
folder = Path(sys.argv[1])
script = json.loads(sys.argv[2])
seen = folder / "started"
first = not seen.exists()
seen.touch()
(folder / "arguments").open("a").write(json.dumps(sys.argv[3:]) + "\\n")
for word in script["first" if first else "again"]:
    if word == "stand still":
        threading.Event().wait()
    elif isinstance(word, int):
        sys.exit(word)
    elif "meet" in word:
        (folder.parent / word["meet"]).open(word["mode"]).close()
    else:
        print(word if isinstance(word, str) else json.dumps(word), flush=True)
"""


def counts(number: int, rounds: int | None = None, **facts: object) -> dict[str, object]:
    own = number if rounds is None else rounds
    return {"event": "round", "round": number, "rounds": own, "failed": 0, "bytes": 10 * own, "seconds": 1.0} | facts


def encoded(number: int, still: bool = False) -> dict[str, object]:
    return {"event": "encoded", "number": number, "still": still}


def done(number: int, rounds: int | None = None) -> dict[str, object]:
    return counts(number, rounds, event="done", after={"a": [1.0, 2.0]})


def player(folder: Path, name: str, first: Sequence[object], again: Sequence[object] = ()) -> Told:
    own = folder / name
    own.mkdir()
    script = json.dumps({"first": list(first), "again": list(again)})
    return Told(name, name, "silo", own, [sys.executable, "-c", PLAYER, str(own), script])


def meeting(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Two words for two players, neither of whom goes on before the other is there."""
    name = f"pipe-{len(list(folder.glob('pipe-*')))}"
    os.mkfifo(folder / name)
    return {"meet": name, "mode": "r"}, {"meet": name, "mode": "w"}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A player that waits in vain fails its test."""
    monkeypatch.setattr("decentra.demo.processes.SILENCE_SECONDS", 30.0)
    monkeypatch.setattr("decentra.demo.processes.LEAVE_SECONDS", 5.0)


def starts(one: Told) -> list[list[str]]:
    return [json.loads(line) for line in (one.folder / "arguments").read_text().splitlines()]


HELD_UP = [counts(1), encoded(3, still=True), "stand still"]


def test_a_peer_is_killed_where_it_stands_and_started_again_when_the_others_ended_the_round(tmp_path: Path) -> None:
    (killed, _), (wait, meet), (wait_too, meet_too) = (meeting(tmp_path) for _ in range(3))
    others = [
        player(tmp_path, "a", [counts(1), encoded(3), counts(2), wait, counts(3), done(3)]),
        player(tmp_path, "b", [counts(1), encoded(3), killed, counts(2), wait_too, counts(3), done(3)]),
    ]
    victim = player(tmp_path, "c", HELD_UP, [meet, meet_too, counts(3, 1), done(3, 1)])
    told = [*others, victim]
    seen: list[tuple[int | None, bool, bool]] = []

    def show() -> None:
        if victim.killed_in and not any(before for before, _, _ in seen):
            (tmp_path / killed["meet"]).open("w").close()
        seen.append((victim.killed_in, victim.started_again, all(one.round >= 2 for one in others)))

    with Processes(told, victim, 3) as processes:
        processes.follow(show)
    assert [one.exit_code for one in told] == [0, 0, 0]
    assert (victim.killed_in, victim.back_in) == (2, 3)
    assert starts(victim) == [["--stop-in", "3"], []]
    assert [starts(one) for one in others] == [[[]], [[]]]
    assert (2, False, False) in seen  # it lay there until the round was over for all others
    assert all(ended for _, again, ended in seen if again)
    record = victim.record()
    assert (record["rounds"], record["bytes_sent"], record["round_seconds"]) == (2, 20, 2.0)  # of both its processes


def test_nobody_is_killed_before_all_others_are_as_far(tmp_path: Path) -> None:
    (wait, meet), (far, further) = meeting(tmp_path), meeting(tmp_path)
    slow = player(tmp_path, "a", [counts(1), encoded(2), wait, encoded(3), counts(2), far, done(2)])
    victim = player(tmp_path, "b", [counts(1), encoded(3, still=True), meet, "stand still"], [further, done(2, 1)])
    told = [slow, victim]
    with Processes(told, victim, 3) as processes:
        processes.follow(lambda: _never(victim.killed_in is not None and slow.encoded < 3))
    assert victim.killed_in == 2


def _never(wrong: bool) -> None:
    assert not wrong


def test_who_does_not_come_back_is_lost_and_its_code_is_told(tmp_path: Path) -> None:
    wait, meet = meeting(tmp_path)
    other = player(tmp_path, "a", [encoded(3), counts(2), wait, done(2)])
    victim = player(tmp_path, "b", HELD_UP, ["Traceback", "[]", meet, 3])
    with Processes([other, victim], victim, 3) as processes:
        processes.follow(lambda: None)
    assert (victim.exit_code, victim.killed_in, victim.back_in, victim.done) == (3, 2, None, False)


def test_where_the_others_end_early_the_killed_one_stays_dead(tmp_path: Path) -> None:
    other = player(tmp_path, "a", [encoded(3), 1])
    victim = player(tmp_path, "b", HELD_UP)
    with Processes([other, victim], victim, 3) as processes:
        processes.follow(lambda: None)
    assert (other.exit_code, victim.exit_code, victim.started_again) == (1, -signal.SIGKILL, False)


def test_without_a_victim_who_dies_is_lost_and_the_others_come_to_their_end(tmp_path: Path) -> None:
    told = [player(tmp_path, "a", [counts(1), done(1)]), player(tmp_path, "b", [counts(1), 7])]
    with Processes(told) as processes:
        processes.follow(lambda: None)
    assert [(one.done, one.exit_code) for one in told] == [(True, 0), (False, 7)]


def test_an_error_in_the_launcher_leaves_no_process_behind(tmp_path: Path) -> None:
    told = [player(tmp_path, name, [counts(1), "stand still"]) for name in "ab"]

    def fail() -> None:
        raise LocalError("the screen is gone")

    with pytest.raises(LocalError, match="the screen is gone"), Processes(told) as processes:
        processes.follow(fail)
    assert all(one.process is not None and one.process.returncode is not None for one in told)


def test_a_command_that_cannot_start_ends_those_that_did(tmp_path: Path) -> None:
    told = [player(tmp_path, "a", ["stand still"]), player(tmp_path, "b", [])]
    told[1].command = [str(tmp_path / "nothing")]
    with pytest.raises(FileNotFoundError), Processes(told):
        pass
    assert told[0].process is not None and told[0].process.returncode is not None


# What the program of a peer adds.


def test_an_update_is_told_when_it_is_kept_and_only_the_named_round_stands_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    waited: list[float] = []
    monkeypatch.setattr("decentra.demo.program.Event.wait", lambda _, seconds: waited.append(seconds))
    witness = Telling(tmp_path, 3)
    for number in (1, 2, 4):  # a round whose number was skipped is made up for
        witness.update(RoundId(1, number), np.zeros(5, np.uint16))
        assert (tmp_path / f"update-{number}.npy").is_file()
        assert len(waited) == (number == 4)
    witness.close()
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert told == [encoded(1), encoded(2), encoded(4, still=True)]


@given(st.integers(0, 40), st.integers(1, 40))
def test_a_schedule_begun_later_gives_the_rates_of_those_steps(first: int, steps: int) -> None:
    optimizer = train.make_optimizer(torch.nn.Linear(1, 1))
    schedule = train.make_schedule(optimizer, 80, first)
    for step in range(first, first + steps):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(train.RATE * train.rate_factor(step, 80))
        optimizer.step()
        schedule.step()


# What a witness keeps over a kill.


@given(st.lists(st.binary(max_size=20), max_size=5), st.integers(0, 120), st.lists(st.binary(max_size=9), max_size=3))
def test_a_capture_that_was_cut_anywhere_goes_on_and_loses_no_byte(
    before: list[bytes], cut: int, after: list[bytes]
) -> None:
    file = io.BytesIO()
    for record in before:
        write_record(file, [record])
    kept = file.getvalue()[:cut]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / CAPTURE).write_bytes(kept)
        witness = Witness(folder)
        for record in after:
            write_record(witness._file, [record])
        witness.close()
        records = list(read_capture(folder / CAPTURE))
        assert (folder / RESULTS).read_bytes() == b""
    expected: list[bytes] = []
    while len(kept) >= 4:
        length = struct.unpack("<I", kept[:4])[0]
        expected.append(kept[4 : 4 + length])
        kept = kept[4 + length :]
    assert records == expected + after


# When a peer is killed, and what is said of it.


@pytest.mark.parametrize(("peers", "rounds", "may"), [(3, 16, False), (4, 16, True), (7, 16, True), (4, 5, False)])
def test_a_peer_is_killed_where_the_others_can_go_on_and_it_can_come_back(peers: int, rounds: int, may: bool) -> None:
    charter = charter_for(identities(peers, 1), "secagg")
    assert _may_kill(None, charter, rounds) is may
    assert _may_kill(False, charter, rounds) is False
    if may:
        assert _may_kill(True, charter, rounds)
    else:
        with pytest.raises(LocalError, match="choose more --peers" if peers == 3 else f"--rounds {LEAST_ROUNDS}"):
            _may_kill(True, charter, rounds)


def test_a_floor_that_needs_everybody_spares_everybody() -> None:
    members: Sequence[Identity] = identities(5, 1)
    assert not _may_kill(None, charter_for(members, "secagg", protocol__floor=5), 16)


def result(**changes: Any) -> dict[str, Any]:
    peer = {"exit_code": 0, "before": {"a": 2.0}, "after": {"a": 1.0}, "alone": {}, "bytes_sent": 10**6, "silo": "a"}
    return {
        "model": "bytes",
        "held_out": {"a": {"texts": 9, "before": [2.0, 0.1], "joined": [1.0, 0.1]}},
        "gained": {},
        "peers": [{**peer, "name": f"peer-{index}", "parameters": "ab" * 32} for index in range(4)],
        "rounds": 16,
        "protocol": "secagg",
        "attack": None,
        "leak": {"windows": 9, "found": 0, "planted": 4},
        "audit": {"verdict": "clean", "entries": 1234, "missing": 0, "violations": []},
        "killed": None,
        "lost": [],
        "wall_seconds": 1.0,
        "cpu_seconds": 2.0,
    } | changes


def test_the_summary_tells_of_the_kill() -> None:
    assert not any("killed" in line for line in summary_lines(result(), Path("o")))
    lines = summary_lines(result(killed={"peer": "peer-2", "round": 5, "back_in_round": 7}), Path("o"))
    (said,) = [line for line in lines if "killed" in line]
    assert said.startswith("peer-2 was killed in the middle of round 5") and said.endswith("was back in round 7")


def test_the_summary_of_a_run_that_nobody_came_through_tells_of_no_parameters() -> None:
    lost = [f"peer-{index}" for index in range(4)]
    lines = summary_lines(result(lost=lost, leak=None), Path("o"))
    assert not any("parameters" in line for line in lines)
    assert sum("ended early" in line for line in lines) == 4


def test_the_summary_tells_who_did_not_come_back() -> None:
    killed = {"peer": "peer-2", "round": 5, "back_in_round": None}
    leak = {"windows": 9, "found": 0, "planted": 3}
    lines = summary_lines(result(killed=killed, lost=["peer-2"], leak=leak), Path("o"))
    assert any("IT DID NOT COME BACK" in line for line in lines)
    assert "peer-2 ended early with code 0; see o/peer-2/stderr.txt" in lines
    assert any(line.startswith("3 peers hold the same parameters") for line in lines)
    assert any(line.startswith("leak check: 9 windows") for line in lines)


@pytest.mark.parametrize(
    ("facts", "state"),
    [
        ({}, "joining"),
        ({"progress": counts(4)}, "training"),
        ({"progress": counts(4), "killed_in": 5, "exit_code": -9}, "killed in round 5"),
        ({"progress": counts(4), "killed_in": 5, "started_again": True}, "killed in round 5, starts again"),
        (
            {"progress": counts(7), "killed_in": 5, "started_again": True, "back_in": 7},
            "training, back in round 7",
        ),
        (
            {"progress": counts(16), "done": True, "killed_in": 5, "started_again": True, "back_in": 7},
            "done, back in round 7",
        ),
        ({"progress": counts(4), "killed_in": 5, "started_again": True, "exit_code": 1}, "ended with 1"),
    ],
)
def test_the_table_tells_what_a_peer_is_at(facts: dict[str, Any], state: str) -> None:
    row = Told("peer-2", "id", "numpy", Path("o"), [])
    for name, value in facts.items():
        setattr(row, name, value)
    table = Screen([row], 16, live=False, say=False)._table()
    assert [list(column.cells) for column in table.columns][-1] == [state]
