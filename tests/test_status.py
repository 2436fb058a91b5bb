"""What a running peer tells people of its group: who is up, whom a round waits for, and that none runs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from commands import decentra
from decentra.errors import LocalError
from decentra.peer.status import STALE, MemberStatus, Status, read
from starting import Group, all_at_once, average, until

MakeGroup = Callable[..., Group]


def told(group: Group, index: int) -> Status:
    return read(group.folders[index].status)


def states(status: Status) -> dict[str, str]:
    return {member.name: member.status for member in status.members}


def test_a_peer_says_who_is_up_and_who_left(make_group: MakeGroup) -> None:
    group = make_group(4)
    peers = [group.peer(index) for index in range(4)]
    average(peers)
    until(peers[0], lambda: sorted(states(told(group, 0)).values()) == ["here", "up", "up", "up"])
    status = told(group, 0)
    assert status.running and status.pid == os.getpid()
    assert (status.completed, status.failed, status.busy, status.waiting_for) == (1, 0, False, ())
    assert all(member.connected for member in status.members if member.status != "here")
    gone = next(member.name for member in status.members if member.id == peers[2].id.hex())
    peers[2].close()
    until(peers[0], lambda: states(told(group, 0))[gone] == "left")


def test_a_round_s_status_names_whom_it_waits_for(make_group: MakeGroup) -> None:
    group = make_group(3, "allreduce", rounds__ready_deadline=6.0, protocol__c=1, protocol__floor=3)
    peer = group.peer(0)
    missing = {member.name for member in peer.charter.members if member.id != peer.id}

    def seen() -> bool:
        return group.folders[0].status.exists() and set(told(group, 0).waiting_for) == missing

    def wait() -> None:
        with pytest.raises(Exception, match="start those peers"):
            peer.average([np.zeros(3, np.float32)])

    all_at_once([wait, lambda: until(peer, seen)])


def test_the_command_shows_a_table_and_as_json_all_of_it(make_group: MakeGroup) -> None:
    group = make_group(3)
    peers = [group.peer(index) for index in range(3)]
    average(peers)
    until(peers[1], lambda: set(states(told(group, 1)).values()) == {"here", "up"})
    shown = decentra("status", "--state", str(group.folders[1].path))
    assert shown.code == 0
    for member in peers[1].charter.members:
        assert member.name in shown.out
    answer = decentra("status", "--state", str(group.folders[1].path), "--json")
    assert answer.code == 0
    found: dict[str, Any] = json.loads(answer.out)
    assert found["running"] and found["completed"] == 1 and len(found["members"]) == 3


def test_the_command_says_that_no_peer_runs_and_what_the_last_one_knew(make_group: MakeGroup) -> None:
    group = make_group(3)
    first = decentra("status", "--state", str(group.folders[0].path))
    assert first.code == 2 and "no peer has run" in first.err
    assert "2 where none has run" in " ".join(decentra("status", "--help").out.split())
    peer = group.peer(0)
    until(peer, group.folders[0].status.exists)
    old = replace(told(group, 0), written=told(group, 0).written - STALE - 1)
    group.close()
    old.write(group.folders[0].status)
    shown = decentra("status", "--state", str(group.folders[0].path))
    assert shown.code == 1 and "does not run now" in shown.out


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"version": 2}', '{"version": 1, "members": 3}', "\0"])
def test_a_file_that_is_no_status_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text(text)
    with pytest.raises(LocalError, match="no status of this release"):
        read(tmp_path / "status.json")


def test_a_group_that_has_split_is_said_to_be(make_group: MakeGroup) -> None:
    group = make_group(3)
    folder = group.folders[0]
    says = "two halves certified different outcomes of round 4, a and b; neither is a quorum"
    Status(1, 2.0, "g", 1, "bob", "tcp://h:1", 7, 6, 1, True, (), 2.0, 3, 4, (), says).write(folder.status)
    assert says in decentra("status", "--state", str(folder.path)).out
    assert json.loads(decentra("status", "--state", str(folder.path), "--json").out)["division"] == says


def test_what_was_written_is_read_and_a_folder_that_is_gone_loses_nothing(tmp_path: Path) -> None:
    member = MemberStatus("alice", "00", "suspected", 3.0, ("bob",), True, "")
    status = Status(1, 2.0, "g", 1, "bob", "tcp://h:1", 7, 6, 1, True, ("alice",), 2.0, 3, 4, (member,))
    status.write(tmp_path / "status.json")
    assert read(tmp_path / "status.json") == status
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]
    status.write(tmp_path / "gone" / "status.json")
