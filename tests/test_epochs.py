"""Charters amended under peers that run: they go over between two rounds, and who is removed is left behind."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from decentra import LocalError, RoundResult
from decentra.audit.transcript import read
from decentra.charter import Charter, Member
from decentra.charter.amend import amended
from decentra.crypto.keys import Identity
from decentra.groups import held_ports, write_folder
from decentra.peer.runtime import Peer
from starting import Group, all_at_once, average, until

MakeGroup = Callable[..., Group]
IMPATIENT = {"rounds__ready_deadline": 5.0, "rounds__phase_deadline": 5.0}
"""For rounds that somebody is to be missed in."""


def amend(group: Group, members: Sequence[int], **changes: Any) -> Charter:
    """An amendment signed by some, put in force in the folders of those who are in it."""
    old = group.folders[members[0]].load_charter()
    new = amended(old, **changes)
    for index in members:
        new = new.sign(group.identities[index])
    for index in members:
        lineage = group.folders[index].lineage
        lineage.adopt(old, lineage.charter.read_text(), new)
    return new


def completed(ended: Sequence[Any]) -> list[RoundResult]:
    assert all(isinstance(one, RoundResult) for one in ended), ended
    return list(ended)


@pytest.mark.parametrize("protocol", ["secagg", "allreduce", "mesh"])
def test_a_removed_member_is_left_behind_and_the_others_go_on_in_the_next_round(
    make_group: MakeGroup, protocol: str
) -> None:
    group = make_group(4, protocol, **IMPATIENT)
    peers = [group.peer(index) for index in range(4)]
    before = completed(average(peers))
    transcripts = [peer.transcript for peer in peers]
    gone = peers[3].id
    amend(group, (0, 1, 2), remove=[gone])
    *ended, alone = average(peers)
    results = completed(ended)
    assert {(result.round.epoch, result.round.number) for result in results} == {(2, before[0].round.number + 1)}
    assert all(gone not in result.participants and len(result.participants) == 3 for result in results)
    assert isinstance(alone, LocalError) and "removes this peer" in str(alone)
    assert all(peer.charter.group.epoch == 2 for peer in peers[:3])
    for peer, earlier in zip(peers[:3], transcripts, strict=False):
        assert peer.transcript != earlier and len(list(read(earlier))) > 0, "the old session's transcript is whole"
    again = completed(average(peers[:3]))
    assert {result.round.number for result in again} == {before[0].round.number + 2}
    closing = peers[0].close()
    assert closing.rounds == 3 and closing.bytes_sent > sum(one[0].bytes_sent for one in (before, results))


def test_the_last_result_and_the_ranges_are_carried_on(make_group: MakeGroup) -> None:
    group = make_group(4, "allreduce")
    peers = [group.peer(index) for index in range(4)]
    before = completed(average(peers))
    ranges = dict(peers[0]._session.common._ranges)
    amend(group, (0, 1, 2, 3))
    all_at_once([peer._go_over for peer in peers])
    assert all(peer._session.last == before[0].digest for peer in peers)
    assert ranges and all(peer._session.common._ranges == ranges for peer in peers)
    assert {result.round.epoch for result in completed(average(peers))} == {2}


def test_a_newcomer_comes_in_while_the_others_run(make_group: MakeGroup, tmp_path: Path) -> None:
    group = make_group(3, "secagg")
    peers = [group.peer(index) for index in range(3)]
    completed(average(peers))
    erin = Identity.generate()
    old = group.folders[0].load_charter()
    new = amended(old, add=[Member.of(erin, "erin")])
    for identity in (*group.identities, erin):
        new = new.sign(identity)
    with held_ports(1) as (port,):
        where = {identity.id: at for identity, at in zip(group.identities, group.ports, strict=True)} | {erin.id: port}
        ports = [where[member.id] for member in new.members]
        folder = write_folder(tmp_path / "erin", erin, new, ports, new.ids.index(erin.id))
        folder.charter.write_text(old.to_toml())
        folder.lineage.adopt(old, old.to_toml(), new)
        for one in group.folders:
            text = one.config.read_text().replace("[peers]\n", f'[peers]\nerin = "tcp://127.0.0.1:{port}"\n')
            one.config.write_text(text)
            one.lineage.adopt(old, one.charter.read_text(), new)
        with Peer(folder) as newcomer:
            everybody = [*peers, newcomer]
            ended = [one for _ in range(3) for one in average(everybody)]
    last = completed(ended[-4:])
    assert all(len(result.participants) == 4 and result.round.epoch == 2 for result in last)


def test_a_peer_whose_folder_is_not_ready_for_it_stays_and_says_why(
    make_group: MakeGroup, caplog: pytest.LogCaptureFixture
) -> None:
    group = make_group(3, "allreduce")
    peers = [group.peer(index) for index in range(3)]
    with caplog.at_level(logging.WARNING, "decentra"):
        amend(group, (0, 1, 2), terms={"training": {"outer_lr": 0.5}})
        results = completed(average(peers))
        completed(average(peers))
    assert {result.round.epoch for result in results} == {1}
    said = [record.getMessage() for record in caplog.records if "stays in epoch 1" in record.getMessage()]
    assert len(said) == 3, "once a peer"
    assert all("epoch 2 has other terms (training.outer_lr is " in line for line in said)
    assert all(line.endswith("start the program again") for line in said)


def test_a_charter_that_does_not_come_from_the_one_that_runs_changes_nothing(
    make_group: MakeGroup, caplog: pytest.LogCaptureFixture
) -> None:
    group = make_group(3, "allreduce")
    peers = [group.peer(index) for index in range(3)]
    other = make_group(3, "secagg")
    for folder in group.folders:
        folder.charter.write_text(other.charter.to_toml())
    with caplog.at_level(logging.WARNING, "decentra"):
        completed(average(peers))
    assert sum("stays in epoch 1:" in record.getMessage() for record in caplog.records) == 3


def test_a_peer_that_cannot_begin_the_next_epoch_says_so_and_is_over(
    make_group: MakeGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = make_group(3, "allreduce")
    peer = group.peer(0)
    amend(group, (0, 1, 2))

    def taken(*_: object) -> None:
        raise LocalError("the port is occupied")

    monkeypatch.setattr(peer, "_listen", taken)
    with pytest.raises(LocalError, match="the port is occupied"):
        peer.average([np.zeros(1, np.float32)])
    with pytest.raises(LocalError, match=r"can't begin epoch 2 \(the port is occupied\); start it again"):
        peer.average([np.zeros(1, np.float32)])


# ── amendments that travel by themselves ─────────────────────────────────────────────────────────────────────────────


def begun(group: Group, signers: Sequence[int], **changes: Any) -> tuple[Charter, Charter]:
    """The charter in force, and an amendment of it that these have signed, in nobody's folder yet."""
    old = group.folders[0].load_charter()
    new = amended(old, **changes)
    for index in signers:
        new = new.sign(group.identities[index])
    return old, new


def put(group: Group, index: int, old: Charter, new: Charter) -> None:
    lineage = group.folders[index].lineage
    lineage.adopt(old, lineage.charter.read_text(), new)


def test_an_amendment_that_one_folder_has_reaches_everybody_and_the_next_round_is_in_the_new_epoch(
    make_group: MakeGroup,
) -> None:
    group = make_group(4, "secagg")
    peers = [group.peer(index) for index in range(4)]
    before = completed(average(peers))
    old, new = begun(group, (0, 1, 2))
    put(group, 0, old, new)
    results = completed(average(peers))
    ((epoch, number),) = {result.round for result in results}
    assert epoch == 2 and number > before[0].round.number
    assert all(len(result.participants) == 4 for result in results)
    assert all(folder.load_charter().hash == new.hash for folder in group.folders)
    assert all(folder.ready()[1].group.epoch == 2 for folder in group.folders), "each can start again from its folder"


def test_a_peer_that_was_away_is_led_through_every_epoch_since_by_one_that_lives(make_group: MakeGroup) -> None:
    group = make_group(4, "allreduce", **IMPATIENT)
    old, second = begun(group, (0, 1, 2))
    third = amended(second)
    for index in (0, 1, 2):
        third = third.sign(group.identities[index])
        put(group, index, old, second)
    for index in (0, 1, 2):
        put(group, index, second, third)
    peers = [group.peer(index) for index in (0, 1, 2)]
    completed(average(peers))
    late = group.peer(3)
    assert late.charter.group.epoch == 1
    until(late, lambda: group.folders[3].load_charter().hash == third.hash)
    late._go_over()
    results = completed(average([*peers, late]))
    assert {result.round.epoch for result in results} == {3}
    assert late.charter.hash == third.hash and late.folder.lineage.ancestor(2).exists()


def test_who_is_removed_is_told_so_by_name_and_begins_no_round_any_more(make_group: MakeGroup) -> None:
    group = make_group(4, "secagg", rounds__ready_deadline=30.0)
    peers = [group.peer(index) for index in range(4)]
    completed(average(peers))
    old, new = begun(group, (0, 1, 2), remove=[peers[3].id])
    put(group, 0, old, new)
    *ended, alone = average(peers)
    assert all(result.round.epoch == 2 for result in completed(ended))
    assert isinstance(alone, LocalError)
    assert "epoch 2 of" in str(alone) and "removes this peer, by an amendment that peer-0, peer-1, peer-2" in str(alone)
    assert group.folders[3].load_charter().hash == old.hash, "its folder keeps what it agreed to"
    with pytest.raises(LocalError, match="removes this peer"):
        peers[3].average([np.zeros(1, np.float32)])


def test_a_newcomers_address_travels_with_the_charter_that_adds_it(make_group: MakeGroup, tmp_path: Path) -> None:
    group = make_group(3, "secagg")
    peers = [group.peer(index) for index in range(3)]
    completed(average(peers))
    erin = Identity.generate()
    old = group.folders[0].load_charter()
    new = amended(old, add=[Member.of(erin, "erin")])
    for identity in (*group.identities, erin):
        new = new.sign(identity)
    with held_ports(1) as (port,):
        where = {identity.id: at for identity, at in zip(group.identities, group.ports, strict=True)} | {erin.id: port}
        ports = [where[member.id] for member in new.members]
        folder = write_folder(tmp_path / "erin", erin, new, ports, new.ids.index(erin.id))
        folder.charter.write_text(old.to_toml())
        folder.lineage.adopt(old, old.to_toml(), new)
        text = group.folders[0].config.read_text().replace("[peers]\n", f'[peers]\nerin = "tcp://127.0.0.1:{port}"\n')
        group.folders[0].config.write_text(text)
        put(group, 0, old, new)
        with Peer(folder) as newcomer:
            everybody = [*peers, newcomer]
            ended = [one for _ in range(3) for one in average(everybody)]
    assert all(len(result.participants) == 4 and result.round.epoch == 2 for result in completed(ended[-4:]))
    assert "erin" not in group.folders[1].config.read_text(), "a person's file is nobody else's to write"


def test_changed_terms_travel_and_bind_nobody_who_has_not_signed_them(
    make_group: MakeGroup, caplog: pytest.LogCaptureFixture
) -> None:
    group = make_group(4, "allreduce", **IMPATIENT)
    peers = [group.peer(index) for index in range(4)]
    completed(average(peers))
    old, new = begun(group, (0, 1, 2), terms={"training": {"outer_lr": 0.5}})
    with caplog.at_level(logging.WARNING, "decentra"):
        put(group, 0, old, new)
        until(peers[3], lambda: group.folders[3].load_charter().hash == new.hash)
        results = completed(average(peers))
    assert {result.round.epoch for result in results} == {1}
    peers[3].close()
    with pytest.raises(LocalError, match="has terms that you have not signed"):
        group.folders[3].ready()


def test_a_charter_that_no_quorum_signed_is_not_taken_and_its_giver_is_named(
    make_group: MakeGroup, caplog: pytest.LogCaptureFixture
) -> None:
    group = make_group(4, "secagg", **IMPATIENT)
    peers = [group.peer(index) for index in range(4)]
    completed(average(peers))
    _, forged = begun(group, (0,), remove=[peers[3].id])
    link = peers[0]._session.driver._links[peers[1].id]
    with caplog.at_level(logging.WARNING, "decentra"):
        peers[0]._call(lambda: link.hand(forged.to_toml().encode(), b"", 2), 5.0)
        completed(average(peers))
    (said,) = [record.getMessage() for record in caplog.records if "broke CHARTER" in record.getMessage()]
    assert str(peers[0].id) in said and "more of those who stay have to sign it" in said
    assert peers[1].charter.group.epoch == 1 and peers[1]._epochs.removed is None


def test_a_peer_of_another_epoch_is_refused_by_name(make_group: MakeGroup) -> None:
    group = make_group(4, "allreduce", **IMPATIENT)
    old, new = begun(group, (0, 1, 2), terms={"training": {"outer_lr": 0.5}})
    for index in (0, 1, 2):
        put(group, index, old, new)
    group.peer(0)
    late = group.peer(3)
    mine = f"epoch 1 (charter {old.hash.hex()[:8]})"
    theirs = f"epoch 2 (charter {new.hash.hex()[:8]})"
    said = f"it speaks for {theirs}, and this peer is in {mine}"
    until(late, lambda: said in late._session.driver.reasons.values())


def test_a_removed_member_that_was_away_is_told_at_the_door_when_it_comes_back(make_group: MakeGroup) -> None:
    group = make_group(4, "secagg", **IMPATIENT)
    old, new = begun(group, (0, 1, 2), remove=[group.identities[3].id])
    for index in (0, 1, 2):
        put(group, index, old, new)
    peers = [group.peer(index) for index in (0, 1, 2)]
    completed(average(peers))
    gone = group.peer(3)
    until(gone, lambda: gone._epochs.removed is not None)
    with pytest.raises(LocalError, match=r"epoch 2 of .* removes this peer, by an amendment that"):
        gone.average([np.zeros(1, np.float32)])
    assert {len(result.participants) for result in completed(average(peers))} == {3}


def test_a_charter_that_came_by_hand_meanwhile_is_not_written_again(make_group: MakeGroup) -> None:
    group = make_group(4, "allreduce", **IMPATIENT)
    peer = group.peer(1)
    old, new = begun(group, (0, 1, 2))
    charters = peer._epochs._charters

    def both() -> bool:
        put(group, 1, old, new)
        return charters.take(group.identities[0].id, new.to_toml().encode(), b"")

    assert peer._call(both, 5.0)
    assert charters.newest.charter == group.folders[1].load_charter().hash == new.hash
    assert not charters.look(), "there is nothing more to see"
    group.folders[1].charter.write_text(make_group(3, "secagg").charter.to_toml())
    third = amended(new)
    for index in (0, 1, 2):
        third = third.sign(group.identities[index])
    text = group.folders[1].charter.read_text()
    assert not peer._call(lambda: charters.take(group.identities[0].id, third.to_toml().encode(), b""), 5.0)
    assert group.folders[1].charter.read_text() == text, "what its owner put there is not replaced"
