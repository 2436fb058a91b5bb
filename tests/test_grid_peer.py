"""Peers on a grid over real ZeroMQ, in one process."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import decentra
from decentra import local_group
from decentra.audit import Verdict, audit, transcript
from decentra.errors import LocalError
from decentra.groups import LocalGroup, fresh_identities, held_ports, write_folder
from decentra.peer.grid import GridPeer
from decentra.peer.opening import open_peer
from decentra.peer.runtime import Peer
from decentra.simulation.group import charter_for
from decentra.types import MixingResult
from decentra.wire.entry import parse


def values(n: int, seed: int = 0) -> list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    return list(np.random.default_rng(seed).uniform(-0.09, 0.09, (n, 50)).astype(np.float32))


def mixes(group: LocalGroup, seed: int = 0) -> None:
    n = len(group.peers)
    mine = values(n, seed)
    truth = np.mean(np.array(mine, np.float64), axis=0)
    for one in group.average([[update] for update in mine]):
        assert isinstance(one, MixingResult)
        np.testing.assert_allclose(one.values[0], truth, rtol=0, atol=1e-7)
        assert one.weight == n and one.bytes_sent > 0 and one.transcript_head != bytes(32)


def tell_each(group: LocalGroup, updates: list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]) -> list[object]:
    """What a mixing came to for every peer: its result, or why it has none."""
    with ThreadPoolExecutor(len(updates)) as threads:
        calls = [
            threads.submit(peer.average, [update]) for peer, update in zip(group.peers, updates, strict=True)
        ]
        return [call.exception() or call.result() for call in calls]


def test_six_peers_in_groups_of_three_have_the_mean_of_all_and_a_transcript_a_session() -> None:
    group = local_group(6, protocol="group-gossip", transport="zeromq", groups__size=3)
    assert isinstance(group, LocalGroup)
    with group:
        mixes(group)
        mixes(group, seed=1)
        peer = group.peers[0]
        assert isinstance(peer, GridPeer) and isinstance(peer, Peer)
        assert peer.counts.signed > 0 and peer.counts.verified > 0
        assert {one.folder.beacon.is_file() for one in group.peers} == {True}
        told = peer._call(peer._observe, 5.0)
        assert (told.group, told.round, told.completed, told.busy) == (peer.charter.group.name, 2, 2, False)
        assert [one.status for one in told.members].count("here") == 1
        assert len(told.members) == len({id for session in peer._played.sessions for id in session.charter.ids})
        closing = peer.close()
        assert (closing.rounds, closing.failed) == (2, 0)
        logs = [log for log in closing.transcript.glob("*.log") if "heard" not in log.name]
        sessions = {parse(next(iter(transcript.read(log))).entry).session for log in logs}
        drew = peer.id in [member.id for member in peer.charter.drawers]
        assert len(sessions) == len(logs) == 2 + drew
        for one in group.peers:
            one.close()
        report = audit([one.folder.path for one in group.peers])
        assert report.verdict is Verdict.CLEAN, report.as_dict()
        assert len(report.sessions) == 2 * 2 + 1  # a session a group and axis, and the drawers'
        assert all(one.ground is not None and len(one.ground.members) >= 3 for one in report.sessions)


@pytest.mark.slow
def test_eighteen_peers_in_groups_of_four_or_five_have_the_mean_of_all() -> None:
    group = local_group(18, protocol="group-gossip", transport="zeromq", groups__size=4)
    assert isinstance(group, LocalGroup)
    with group:
        mixes(group)
        mixes(group, seed=1)


@pytest.mark.slow
def test_a_lost_peer_leaves_a_mean_over_the_others_and_comes_back() -> None:
    made = local_group(
        9,
        protocol="group-gossip",
        transport="zeromq",
        groups__size=4,
        rounds__ready_deadline=6.0,
        rounds__phase_deadline=6.0,
    )
    assert isinstance(made, LocalGroup)
    with made as group:
        mixes(group)
        lost = group.peers.pop(3)
        assert isinstance(lost, GridPeer)
        lost._call(lost._shared.close, 5.0)  # as if its cable were cut
        for one in group.average([[update] for update in values(8, 1)]):
            assert isinstance(one, MixingResult) and 6 <= one.weight <= 9
        lost.close()
        group.peers.insert(3, open_peer(lost.folder.path))
        for seed in (2, 3):  # it is waited for but briefly: these may go on without it, and a later one may not
            ended = tell_each(group, values(9, seed))
            missed = [index for index, one in enumerate(ended) if not isinstance(one, MixingResult)]
            assert missed in ([], [3]), ended
        mixes(group, seed=4)


def test_a_peer_s_own_mistake_is_told_to_its_caller_and_a_leak_check_is_refused(tmp_path: Path) -> None:
    members = fresh_identities(4)
    terms: dict[str, object] = {"groups__size": 4, "groups__drawers": ["peer-0", "peer-1", "peer-2", "peer-3"]}
    charter = charter_for(members, "group-gossip", template=None, **terms)
    with held_ports(4) as ports:
        folder = write_folder(tmp_path / "one", members[0], charter, ports, 0)
        with pytest.raises(LocalError, match="average in groups on a grid"):
            Peer(folder)
        with open_peer(folder.path) as peer:
            with pytest.raises(LocalError, match="float32"):
                peer.average([np.zeros(2)])  # type: ignore[list-item]
            assert peer.transcript == folder.transcripts
        with pytest.raises(LocalError, match="closed"):
            peer.average([np.zeros(2, np.float32)])


def test_the_front_door_opens_a_plain_peer_where_there_is_no_grid(tmp_path: Path) -> None:
    members = fresh_identities(3)
    charter = charter_for(members, "secagg")
    with held_ports(3) as ports:
        folder = write_folder(tmp_path / "one", members[0], charter, ports, 0)
        with decentra.open_peer(folder.path) as peer:
            assert type(peer) is Peer


@pytest.mark.parametrize(
    ("n", "changes", "sentence"),
    [
        (9, {"groups__size": 2}, "out of 3..45"),
        (9, {"groups__size": 4, "groups__drawers": ["peer-0"]}, "4 to 64"),
        (9, {"groups__size": 4, "groups__liars": 5, "groups__risk": 1e-9}, "understated"),
        (2, {"groups__size": 4}, "must be 3 to 64"),
    ],
)
def test_a_local_group_that_is_not_sound_is_refused(n: int, changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(LocalError, match=sentence):
        local_group(n, protocol="group-gossip", **changes).average([[np.zeros(1, np.float32)]] * n)  # type: ignore[arg-type]
