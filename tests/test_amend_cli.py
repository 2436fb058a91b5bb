"""Amendments as members type them: adding, removing, changing, and everything that is refused."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from commands import NAMES, decentra, done, group, made, refused, told
from decentra.charter import Charter
from decentra.errors import LocalError
from decentra.peer.config import PeerFolder


@pytest.fixture(autouse=True)
def _somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DECENTRA_STATE", raising=False)


def files() -> dict[Path, bytes]:
    """Everything in all folders."""
    return {path: path.read_bytes() for path in sorted(Path().rglob("*")) if path.is_file()}


def refused_and_nothing_written(*words: str | Path) -> str:
    before = files()
    sentence = refused(*words)
    assert files() == before
    return sentence


def erin() -> Path:
    """A newcomer with the charter in force, as a member handed it over."""
    where = ("--bind", "tcp://127.0.0.5:7431", "--charter", "alice/charter.toml")
    done("init", "--state", "erin", "--name", "erin", *where)
    return Path("erin/member.toml")


def in_force(*words: str, signers: tuple[str, ...] = ("bob", "carol")) -> Path:
    """An amendment of alice's that others sign and all four take."""
    begun = told("charter", "amend", "--state", "alice", *words)
    for name in signers:
        done("charter", "sign", "--state", name, "--charter", begun["pending"])
    copies = [f"{name}/{Path(begun['pending']).relative_to('alice')}" for name in signers]
    assert told("charter", "sign", "--state", "alice", "--merge", *copies)["in_force"] is True
    return Path("alice/charter.toml")


# ── the right way ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_member_is_added_by_a_quorum_and_itself() -> None:
    group()
    begun = told("charter", "amend", "--state", "alice", "--add", erin())
    assert (begun["epoch"], begun["added"], begun["signed"], begun["in_force"]) == (2, ["erin"], ["alice"], False)
    assert begun["missing"] == ["bob", "carol", "dave", "erin"] and begun["more"] == 3
    pending = Path(begun["pending"])
    assert pending == Path(f"alice/pending/{begun['hash'][:16]}.toml")
    copies = []
    for name in ("bob", "erin"):
        assert told("charter", "sign", "--state", name, "--charter", pending)["in_force"] is False
        copies.append(Path(name) / "pending" / pending.name)
    assert told("charter", "sign", "--state", "alice", "--merge", copies[0])["missing"] == ["carol", "dave", "erin"]
    last = done("charter", "sign", "--state", "carol", "--charter", pending, "--merge", *copies)
    assert "it is in force: carol/charter.toml is the charter of epoch 2 now, and carol/charters/1.toml" in last
    assert 'erin = "tcp://host:7431"' in last
    assert not (Path("carol/pending") / pending.name).exists()
    for name in ("alice", "bob", "dave", "erin"):
        assert told("charter", "sign", "--state", name, "--charter", "carol/charter.toml")["in_force"] is True
        folder = PeerFolder(Path(name))
        lines = "".join(f'{other} = "tcp://h:{number}"\n' for number, other in enumerate((*NAMES, "erin"), 1))
        folder.config.write_text(folder.config.read_text().partition("[peers]\n")[0] + f"[peers]\n{lines}")
        assert folder.ready()[1].group.epoch == 2
    charter = PeerFolder(Path("dave")).load_charter()
    assert {member.name for member in charter.members} == {*NAMES, "erin"}
    assert "# A charter for secagg" in Path("dave/charter.toml").read_text(), "the comments are kept"


def test_a_removed_members_address_may_stay_and_its_word_is_not_needed() -> None:
    group()
    charter = in_force("--remove", "dave")
    done("charter", "sign", "--state", "bob", "--charter", charter)
    _, now, config = PeerFolder(Path("bob")).ready()
    assert {member.name for member in now.members} == {"alice", "bob", "carol"}
    assert "dave" not in config.peers and 'dave = "tcp' in Path("bob/decentra.toml").read_text()
    sentence = refused_and_nothing_written("charter", "sign", "--state", "dave", "--charter", charter)
    assert sentence.startswith(
        "an amendment for epoch 2 is in force that removes you, signed by alice, bob, carol; a removed member's"
    )


def test_terms_change_by_amendment_and_a_mere_new_epoch_is_one_too() -> None:
    group()
    charter = in_force("--set", "training.steps=40", "--set", "rounds.phase_deadline=5", "--set", "admission.quorum=4")
    now = Charter.parse(charter.read_text())
    assert (now.training.steps, now.rounds.phase_deadline, now.admission_quorum) == (40, 5.0, 4)
    for name in NAMES[1:]:
        done("charter", "sign", "--state", name, "--charter", charter)
    begun = told("charter", "amend", "--state", "bob", "--new-epoch")
    assert (begun["epoch"], begun["changes"], begun["more"]) == (3, [], 3), "the quorum is the one in force, 4"
    assert told("charter", "amend", "--state", "carol", "--set", "admission.quorum=")["changes"] == [
        "admission.quorum is absent here and 4 there"
    ]


def test_ready_verifies_every_link_to_the_founding_charter() -> None:
    group()
    for number in range(2):
        charter = in_force("--set", f"training.steps={number + 1}")
        for name in NAMES[1:]:
            done("charter", "sign", "--state", name, "--charter", charter)
    folder = PeerFolder(Path("dave"))
    assert folder.ready()[1].group.epoch == 3
    first, second = (folder.path / "charters" / f"{epoch}.toml" for epoch in (1, 2))
    text = first.read_text()
    first.write_text(text.replace("steps = 20 ", "steps = 21 "))
    with pytest.raises(LocalError, match=r"charters/1.toml is not the charter that dave/charters/2.toml amends"):
        folder.ready()
    first.unlink()
    assert folder.ready()[1].group.epoch == 3, "the oldest that is kept is trusted"
    second.unlink()
    with pytest.raises(LocalError, match=r"get it from another member as dave/charters/2.toml"):
        folder.ready()


def test_show_tells_what_changes_and_who_has_still_to_sign() -> None:
    group()
    begun = told("charter", "amend", "--state", "alice", "--add", erin(), "--set", "training.steps=40")
    shown = told("charter", "show", begun["pending"], "--state", "dave")
    assert (shown["change"]["added"], shown["in_force"], shown["problems"]) == (["erin"], False, [])
    assert shown["change"]["changes"] == ["training.steps is 40 here and 20 there"]
    assert shown["missing"] == ["bob", "carol", "dave", "erin"]
    text = done("charter", "show", begun["pending"], "--state", "dave")
    for said in ("amends epoch 1:", "it adds 'erin'", "still to sign: 2 of bob, carol, dave", "it is not in force"):
        assert said in text
    mine = told("charter", "show", "--state", "alice")
    assert (mine["in_force"], [one["pending"] for one in mine["begun"]]) == (True, [begun["pending"]])
    assert f"begun: epoch 2, {begun['pending']}" in done("charter", "show", "--state", "alice")
    alone = done("charter", "show", begun["pending"])
    assert "with --state DIR it is compared with that" in alone


def test_who_did_not_sign_may_agree_to_what_is_in_force() -> None:
    group()
    charter = in_force("--set", "training.steps=40")
    done("charter", "sign", "--state", "dave", "--charter", charter)
    assert "dave" in told("charter", "show", "--state", "dave")["signed"]
    assert "dave" not in told("charter", "show", "--state", "alice")["signed"]
    done("charter", "sign", "--state", "alice", "--merge", "dave/charter.toml")
    assert "dave" in told("charter", "show", "--state", "alice")["signed"]
    assert "# how many" not in done("charter", "sign", "--state", "alice")


# ── one successor only ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_second_successor_is_not_signed_and_the_first_stays_noted() -> None:
    group()
    first = told("charter", "amend", "--state", "alice", "--set", "training.steps=40")
    other = told("charter", "amend", "--state", "bob", "--set", "training.steps=80")
    for words in (
        ["charter", "amend", "--state", "alice", "--remove", "dave"],
        ["charter", "sign", "--state", "alice", "--charter", other["pending"]],
    ):
        sentence = refused_and_nothing_written(*words)
        assert f"you have signed another amendment of this charter ({first['hash'][:16]})" in sentence
    Path(first["pending"]).unlink()
    sentence = refused_and_nothing_written("charter", "amend", "--state", "alice", "--new-epoch")
    assert first["hash"][:16] in sentence, "also without it"
    again = told("charter", "amend", "--state", "alice", "--set", "training.steps=40")
    assert again["hash"] == first["hash"]


def test_who_signed_the_one_that_lost_takes_the_one_in_force_without_signing_it() -> None:
    group()
    told("charter", "amend", "--state", "dave", "--set", "training.steps=80")
    charter = in_force("--set", "training.steps=40")
    outcome = told("charter", "sign", "--state", "dave", "--charter", charter)
    assert outcome["in_force"] is True and "dave" not in outcome["signed"]
    folder = PeerFolder(Path("dave"))
    assert folder.load_charter().training.steps == 40
    with pytest.raises(LocalError, match="terms that you have not signed"):
        folder.ready()
    done("charter", "sign", "--state", "dave")
    assert "dave" in told("charter", "show", "--state", "dave")["signed"]
    folder.ready()


# ── the wrong ways ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "this amendment changes nothing, and its signature would bind you to it; name what changes"),
        (["--set", "training.steps=20"], "this amendment changes nothing"),
        (["--remove", "alice"], "a member can't remove itself"),
        (["--remove", "bbo"], "'bbo' is no member of 'our-group'; did you mean 'bob'?"),
        (["--remove", "bob", "--remove", "dave"], "2 of 4 members would stay, and 3 of those who stay have to sign"),
        (["--add", "bob/member.toml"], "is a member already; leave it out"),
        (["--add", "nobody.toml"], "there is no nobody.toml; ask the new member for the member.toml in its folder"),
        (["--set", "steps=40"], "--set 'steps=40' names no term; write it as --set training.steps=40"),
        (["--set", "training.stesp=40"], "unknown key 'stesp' in [training]; did you mean 'steps'?"),
        (["--set", "group.name=x"], "an amendment changes nothing in [group]"),
        (["--set", "protocol.c=3"], "the amendment: c = 3 is out of 1..2 for 4 members"),
        (["--set", "admission.quorum=2"], "quorum = 2 in [admission] is below ⌊(m+c)/2⌋+1 = 3"),
        (["--set", "protocol.name=fedavg"], "there is no protocol 'fedavg'"),
    ],
)
def test_what_no_amendment_can_do_is_told_and_writes_nothing(words: list[str], sentence: str) -> None:
    group()
    ended = decentra("charter", "amend", "--state", "alice", *words)
    assert (ended.code, ended.out) == (2, "") and sentence in ended.err
    assert not Path("alice/pending").exists() and not Path("alice/charters").exists()


def test_a_charter_that_is_not_in_force_is_not_amended() -> None:
    for name in NAMES:
        made(name)
    assert "has still its own one-member charter" in refused("charter", "amend", "--state", "bob")
    done("charter", "add", "--state", "alice", *(f"{name}/member.toml" for name in NAMES[1:]))
    assert "has not signed" in decentra("charter", "amend", "--state", "alice").err
    assert not Path("alice/pending").exists()


def test_a_stale_amendment_one_of_another_group_and_an_altered_one_are_not_signed() -> None:
    group()
    shutil.copytree("dave", "late")
    stale = told("charter", "amend", "--state", "dave", "--set", "training.steps=9")["pending"]
    charter = in_force("--set", "training.steps=40")
    done("charter", "sign", "--state", "bob", "--charter", charter)
    sentence = refused_and_nothing_written("charter", "sign", "--state", "bob", "--charter", stale)
    assert "it is for epoch 2, and this group is in epoch 2; have it made again on the charter in force" in sentence
    next_one = told("charter", "amend", "--state", "bob", "--new-epoch")["pending"]
    sentence = refused_and_nothing_written("charter", "sign", "--state", "late", "--charter", next_one)
    assert "it is for epoch 3, and the charter here is for epoch 1; take the amendment to epoch 2 first" in sentence
    text = Path(next_one).read_text()
    for name, altered, words in (
        ("other.toml", text.replace('"our-group"', '"their-group"'), "is of the group 'their-group', and this one is"),
        ("fork.toml", re.sub(r'previous = "....', 'previous = "0000', text), "amends another charter of epoch 2 (0000"),
        ("epoch.toml", text.replace("epoch = 3", "epoch = 4"), "it is for epoch 4, and 3 comes after"),
    ):
        Path(name).write_text(altered)
        assert words in decentra("charter", "sign", "--state", "bob", "--charter", name).err
    Path("c.toml").write_text(text.replace("\nc = 1\n", "\nc = 3\n"))
    assert "c = 3 is out of 1..2" in refused_and_nothing_written(
        "charter", "sign", "--state", "bob", "--charter", "c.toml"
    )


def test_an_altered_copy_carries_no_signature_over() -> None:
    group()
    begun = Path(told("charter", "amend", "--state", "alice", "--set", "training.steps=40")["pending"])
    Path("evil.toml").write_text(begun.read_text().replace("steps = 40", "steps = 41"))
    outcome = told("charter", "sign", "--state", "bob", "--charter", "evil.toml")
    assert outcome["signed"] == ["bob"], "alice's is for another text"
    sentence = refused_and_nothing_written("charter", "sign", "--state", "alice", "--merge", "evil.toml")
    assert "is an amendment that you have not signed; read it, and sign it with --charter evil.toml" in sentence


def test_an_amendment_needs_the_charter_that_it_amends() -> None:
    group()
    done("init", "--state", "erin", "--name", "erin", "--bind", "tcp://127.0.0.5:7431")
    begun = told("charter", "amend", "--state", "alice", "--add", "erin/member.toml")
    sentence = refused_and_nothing_written("charter", "sign", "--state", "erin", "--charter", begun["pending"])
    assert "amends a charter that erin does not have" in sentence and "put it at erin/charter.toml" in sentence
    shutil.copy("alice/charter.toml", "erin/charter.toml")
    assert told("charter", "sign", "--state", "erin", "--charter", begun["pending"])["signed"] == ["alice", "erin"]


def test_who_is_not_added_signs_nothing_but_may_follow_the_group() -> None:
    group()
    erin()
    begun = told("charter", "amend", "--state", "alice", "--set", "training.steps=40")
    sentence = refused_and_nothing_written("charter", "sign", "--state", "erin", "--charter", begun["pending"])
    assert "does not add you, so you can't sign it; ask for one that does" in sentence
    charter = in_force("--set", "training.steps=40")
    assert told("charter", "sign", "--state", "erin", "--charter", charter)["in_force"] is True
    begun = told("charter", "amend", "--state", "alice", "--add", "erin/member.toml")
    assert "erin" in told("charter", "sign", "--state", "erin", "--charter", begun["pending"])["signed"]


def test_a_founding_charter_does_not_come_back_in_the_place_of_what_amended_it() -> None:
    group()
    shutil.copy("alice/charter.toml", "founding.toml")
    in_force("--set", "training.steps=40")
    sentence = refused_and_nothing_written("charter", "sign", "--state", "alice", "--charter", "founding.toml")
    assert "is a founding charter for epoch 1, and this folder is in epoch 2" in sentence
    sentence = refused_and_nothing_written("charter", "add", "--state", "alice", erin())
    assert "amends another charter; add members with `decentra charter amend --add FILE`" in sentence


def test_an_amendment_with_a_forged_signature_lacks_it() -> None:
    group()
    begun = Path(told("charter", "amend", "--state", "alice", "--new-epoch")["pending"])
    charter = Charter.parse(begun.read_text())
    bob = next(member.id for member in charter.members if member.name == "bob")
    begun.write_text(f'{begun.read_text()}{bob.hex()} = "{"ab" * 64}"\n')
    shown = json.loads(decentra("charter", "show", begun, "--state", "dave", "--json").out)
    assert (shown["signed"], shown["in_force"]) == (["alice"], False)
    assert told("charter", "sign", "--state", "carol", "--charter", begun)["signed"] == ["alice", "carol"]
