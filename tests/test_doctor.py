"""``decentra doctor`` on real folders and real sockets: what is in order, and what each thing that is not says."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from decentra.charter import Charter, Member
from decentra.charter.amend import amended
from decentra.cli.app import app
from decentra.crypto.keys import Identity
from decentra.peer import doctor as doctor_module
from decentra.peer.config import PeerFolder
from decentra.peer.doctor import Doctor
from decentra.transport import time_query
from starting import Group
from test_transport import port_of

MakeGroup = Callable[..., Group]


def examined(folder: PeerFolder, *words: str) -> tuple[int, dict[str, list[str]], list[str]]:
    """The exit code, what is to be mended by what it is about, and what all is in order."""
    result = CliRunner().invoke(app, ["doctor", "--state", str(folder.path), "--json", *words], catch_exceptions=False)
    told = json.loads(result.stdout)
    wrong: dict[str, list[str]] = {}
    for check in told["checks"]:
        if not check["ok"]:
            wrong.setdefault(check["about"], []).append(check["said"])
    assert told["ok"] == (not wrong) and result.exit_code == bool(wrong)
    return result.exit_code, wrong, [check["about"] for check in told["checks"] if check["ok"]]


def names(group: Group) -> list[str]:
    return [group.charter.member(identity.id).name for identity in group.identities]


def edit(folder: PeerFolder, old: str, new: str) -> None:
    text = folder.config.read_text()
    assert old in text
    folder.config.write_text(text.replace(old, new))


def test_a_group_that_runs_is_in_order_and_each_member_is_reached(make_group: MakeGroup) -> None:
    group = make_group(3)
    for index in range(3):
        group.peer(index)
    code, wrong, right = examined(group.folders[0])
    assert (code, wrong) == (0, {})
    general = ["versions", "curve", "files", "clock", "disk", "keys", "charter", "config", "address", "port"]
    assert right == [*general, *names(group)[1:]]
    lines = CliRunner().invoke(app, ["doctor", "--state", str(group.folders[0].path)]).stdout.splitlines()
    assert all(line.startswith("ok    ") for line in lines)
    assert "is held by this peer, which runs" in lines[9] and "lists yours" in lines[10]
    assert all("its clock agrees with yours" in line or "ahead of yours" in line for line in lines[10:])


@pytest.mark.parametrize(
    ("off", "said"),
    [(90.0, "ahead of yours: set one of them"), (-90.0, "behind yours: set one of them"), (2.0, "ahead of yours")],
)
def test_a_members_clock_is_compared_with_this_machines(
    make_group: MakeGroup, monkeypatch: pytest.MonkeyPatch, off: float, said: str
) -> None:
    group = make_group(3)
    peer = group.peer(1)
    truth = time_query.answer
    monkeypatch.setattr(time_query, "answer", lambda nonce, now: truth(nonce, now + off))
    address = peer.endpoint.removeprefix("tcp://")
    told = Doctor(group.folders[0], address).findings()
    (about,) = [finding.said for finding in told if finding.about == peer.endpoint]
    assert said in about and about.startswith(names(group)[1])
    assert abs(float(about.partition("its clock is ")[2].split()[0]) - abs(off)) < 1.0


@pytest.mark.parametrize("reply", [b"", b"\0" * 24, b"\0" * 1000])
def test_what_is_no_answer_to_the_question_for_the_time_is_not_taken_for_one(
    make_group: MakeGroup, monkeypatch: pytest.MonkeyPatch, reply: bytes
) -> None:
    group = make_group(3)
    peer = group.peer(1)
    monkeypatch.setattr(time_query, "answer", lambda nonce, now: reply)
    address = peer.endpoint.removeprefix("tcp://")
    told = Doctor(group.folders[0], address).findings()
    assert "the clocks were not compared" in next(one.said for one in told if one.about == peer.endpoint)


def test_members_that_do_not_run_are_named_and_a_free_port_is_in_order(make_group: MakeGroup) -> None:
    group = make_group(3)
    code, wrong, right = examined(group.folders[0])
    assert code == 1 and set(wrong) == set(names(group)[1:]) and "port" in right
    assert all("nobody listens there: start it, or mend its port" in said for (said,) in wrong.values())


def test_a_stopped_member_an_unknown_name_and_another_program_are_told_apart(
    make_group: MakeGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = make_group(4)
    folder, (_, silent, unknown, web) = group.folders[0], names(group)
    group.peer(3)
    edit(folder, f"127.0.0.1:{group.ports[2]}", f"no.such.invalid:{group.ports[2]}")
    monkeypatch.setattr(doctor_module, "probe", lambda route: honest(route, 0.3))
    with socket.create_server(("127.0.0.1", group.ports[1])):
        _, wrong, _ = examined(folder)
    assert "takes connections and does not answer" in wrong[silent][0]
    assert "does not resolve: mend its name" in wrong[unknown][0] and web not in wrong


honest = doctor_module.probe


def test_a_member_with_another_key_and_one_with_another_charter_are_told_apart(make_group: MakeGroup) -> None:
    group, others = make_group(3), make_group(3)
    group.peer(1)  # answers where peer 2 is looked for
    folder = group.folders[0]
    edit(folder, f"127.0.0.1:{group.ports[2]}", f"127.0.0.1:{group.ports[1]}")
    assert "not with that peer's key" in examined(folder)[1][names(group)[2]][0]
    others.peer(1)  # another group, whose charter lists nobody of this one
    said = examined(folder, "--peer", f"127.0.0.1:{others.ports[1]}")[1][f"tcp://127.0.0.1:{others.ports[1]}"]
    assert said == ["it answers with the key of no member: compare charters, or the address"]
    stranger = Member.of(others.identities[1], "elsewhere")
    mixed = group.charter.build({**dict(group.charter), "members": (*group.charter.members, stranger)})
    folder.charter.write_text(mixed.to_toml())
    table = "[peers]\n"
    edit(folder, table, f'{table}{stranger.id.hex()} = "tcp://127.0.0.1:{others.ports[1]}"\n')
    assert "does not list yours: give it the charter" in examined(folder)[1]["elsewhere"][0]


def test_whoever_is_at_an_address_is_named(make_group: MakeGroup) -> None:
    group = make_group(3)
    group.peer(0)
    group.peer(1)
    for index, who in ((0, "this peer itself"), (1, names(group)[1])):
        address = f"127.0.0.1:{group.ports[index]}"
        lines = CliRunner().invoke(app, ["doctor", "--state", str(group.folders[0].path), "--peer", address]).stdout
        assert f"tcp://{address} {who}: it answers" in lines
    refused = CliRunner().invoke(app, ["doctor", "--state", str(group.folders[0].path), "--peer", "nowhere"])
    assert refused.exit_code == 2 and "--peer 'nowhere' must look like" in refused.stderr


def test_what_is_wrong_with_the_folder_is_told_all_at_once(make_group: MakeGroup, tmp_path: Path) -> None:
    _, wrong, _ = examined(PeerFolder(tmp_path / "none"))
    assert set(wrong) == {"disk", "keys", "charter", "config"} and "there is no peer folder" in wrong["keys"][0]
    group = make_group(3)
    folder = group.folders[0]
    folder.identity.chmod(0o644)
    folder.charter.write_text(folder.charter.read_text().replace("initial_range = 0.1", "initial_range = 0.2"))
    edit(folder, "tcp://127.0.0.1", "udp://127.0.0.1")
    _, wrong, _ = examined(folder)
    assert "run chmod 600" in wrong["keys"][0]
    assert "this charter was changed after it was signed" in wrong["charter"][0]
    assert "must look like" in wrong["config"][0]
    folder.identity.unlink()
    assert "has no identity.key" in examined(folder)[1]["keys"][0]


def test_keys_that_are_not_the_charters_and_signatures_that_are_missing_are_told(make_group: MakeGroup) -> None:
    group = make_group(3)
    folder = group.folders[0]
    folder.charter.write_text(group.charter.model_copy(update={"signatures": {}}).to_toml())
    assert "still to sign: " + ", ".join(sorted(names(group))) in examined(folder)[1]["charter"][0]
    group = make_group(3)
    folder = group.folders[0]
    folder.identity.unlink()
    Identity.generate().save(folder.identity)
    assert "is no member of" in examined(folder)[1]["config"][0]


def take(group: Group, index: int, signers: int, **training: object) -> Charter:
    """The next charter in one member's folder, signed by the first few."""
    folder = group.folders[index]
    old = folder.load_charter()
    new = amended(old, terms={"training": training})
    for identity in group.identities[:signers]:
        new = new.sign(identity)
    folder.lineage.adopt(old, folder.charter.read_text(), new)
    return new


def test_an_amendment_that_a_quorum_signed_is_in_order_and_one_that_too_few_did_is_not(make_group: MakeGroup) -> None:
    group = make_group(4, protocol__c=1)
    new, few = take(group, 0, 3), take(group, 1, 2)
    assert new.hash == few.hash and new.admission_quorum == 3
    lines = CliRunner().invoke(app, ["doctor", "--state", str(group.folders[0].path)]).stdout
    assert f"{new.hash.hex()[:16]}, epoch 2, in force, signed by a quorum" in lines
    assert "charter" not in examined(group.folders[0])[1]
    assert "1 more of those who stay have to sign it" in examined(group.folders[1])[1]["charter"][0]


def test_terms_that_this_member_has_not_signed_are_told_beside_a_charter_in_force(make_group: MakeGroup) -> None:
    group = make_group(4, protocol__c=1)
    take(group, 3, 3, steps=40)
    _, wrong, _ = examined(group.folders[3])
    assert "charter" not in wrong and "has terms that you have not signed" in wrong["config"][0]


def test_a_port_that_another_program_has_and_one_that_cannot_be_had_are_told_apart(make_group: MakeGroup) -> None:
    group = make_group(3)
    folder, port = group.folders[0], group.ports[0]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        edit(folder, f'bind = "tcp://127.0.0.1:{port}"', f'bind = "tcp://127.0.0.1:{port_of(taken)}"')
        assert "another program has tcp://127.0.0.1" in examined(folder)[1]["port"][0]
    edit(folder, f'bind = "tcp://127.0.0.1:{port_of_bind(folder)}"', f'bind = "tcp://198.51.100.1:{port}"')
    assert "name an address of this machine" in examined(folder)[1]["port"][0]


def port_of_bind(folder: PeerFolder) -> int:
    return int(folder.load_config().peer.bind.rpartition(":")[2])


def test_an_address_that_only_this_machine_can_reach_is_told_where_the_others_are_elsewhere(
    make_group: MakeGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = make_group(3)
    folder = group.folders[0]
    edit(folder, f'= "tcp://127.0.0.1:{group.ports[1]}"', f'= "tcp://far.invalid:{group.ports[1]}"')
    assert "others can't reach tcp://127.0.0.1" in examined(folder)[1]["address"][0]
    edit(folder, f'bind = "tcp://127.0.0.1:{group.ports[0]}"', 'bind = "tcp://0.0.0.0:1"\nadvertise = "tcp://me.invalid:1"')
    assert "me.invalid does not resolve here; set `advertise`" in examined(folder)[1]["address"][0]
    edit(folder, "tcp://me.invalid:1", "tcp://[2001:db8::1]:1")
    assert "is IPv6 only and `bind` takes IPv4 only" in examined(folder)[1]["address"][0]


def test_a_machine_that_is_not_fit_is_told(make_group: MakeGroup, monkeypatch: pytest.MonkeyPatch) -> None:
    group = make_group(3)
    monkeypatch.setattr(doctor_module.resource, "getrlimit", lambda _: (256, 1024))
    monkeypatch.setattr(doctor_module.time, "gmtime", Epoch)
    monkeypatch.setattr(doctor_module.shutil, "disk_usage", lambda _: Full())
    _, wrong, _ = examined(group.folders[0])
    assert "strangers can lock you out: ulimit -n 4096" in wrong["files"][0]
    assert "thinks it is 1970; set its clock" in wrong["clock"][0]
    assert "only 1 MiB are free" in wrong["disk"][0]


class Epoch:
    tm_year = 1970


class Full:
    free = 1 << 20


def test_nothing_is_left_in_the_folder(make_group: MakeGroup) -> None:
    folder = make_group(3).folders[0]
    before = {path: path.read_bytes() for path in folder.path.iterdir()}
    examined(folder)
    assert {path: path.read_bytes() for path in folder.path.iterdir()} == before
