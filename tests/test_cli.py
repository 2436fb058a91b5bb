"""The commands as a newcomer types them, right and wrong: outcome, exit code, and one sentence that helps."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from commands import NAMES, decentra, done, group, made, refused, told
from decentra.charter import Charter
from decentra.data import locate
from decentra.errors import RemoteError, Unavailable
from decentra.peer.config import PeerFolder
from decentra.simulation.group import charter_for, identities

TEMPLATES = "choose one of allreduce, bucketed, group-gossip, mesh, secagg"
SOURCE = Path(__file__).resolve().parent.parent / "src"


@pytest.fixture(autouse=True)
def _somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DECENTRA_STATE", raising=False)


# ── the right way ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_four_parties_make_a_group_that_is_ready_to_run() -> None:
    folders = group()
    charters = {folder.ready()[1].hash for folder in folders}
    assert len(charters) == 1
    charter = folders[0].load_charter()
    assert {member.name for member in charter.members} == set(NAMES) and charter.missing_signatures == ()
    assert "# A charter for secagg" in folders[3].charter.read_text(), "the template's comments are kept"


def test_a_folder_is_its_owners_alone_and_its_keys_most_of_all() -> None:
    folder = made("alice")
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    assert stat.S_IMODE(folder.identity.stat().st_mode) == 0o600


def test_keys_are_made_once_and_init_keeps_them() -> None:
    first = told("keys", "--state", "bob")
    again = told("keys", "--state", "bob")
    assert first.pop("created") is True and again.pop("created") is False
    assert first == again and first["name"] == "bob"
    assert set(first) == {"name", "id", "ed25519", "curve", "member"}
    assert told("init", "--state", "bob", "--name", "robert", "--bind", "tcp://h:1")["id"] == first["id"]
    assert told("keys", "--state", "bob")["name"] == "robert", "decentra.toml says the name from then on"
    assert told("keys", "--state", "bob", "--name", "rob")["name"] == "rob"


def test_keys_first_then_a_charter_to_sign_then_init_is_a_way_too() -> None:
    made("alice")
    for name in NAMES[1:]:
        done("keys", "--state", name)
    done("charter", "add", "--state", "alice", *(f"{name}/member.toml" for name in NAMES[1:]))
    done("charter", "sign", "--state", "bob", "--charter", "alice/charter.toml")
    before = Path("bob/charter.toml").read_text()
    assert told("init", "--state", "bob", "--name", "bob", "--bind", "tcp://h:1")["member"] is True
    assert Path("bob/charter.toml").read_text() == before
    assert "calls this peer 'carol', not 'caroline'; use --name carol" in refused(
        "init", "--state", "carol", "--name", "caroline", "--charter", "alice/charter.toml"
    )


def test_init_with_the_groups_charter_says_whether_one_is_in_it() -> None:
    made("alice")
    outcome = told("init", "--state", "bob", "--name", "bob", "--charter", "alice/charter.toml")
    assert outcome["member"] is False
    assert Path("bob/charter.toml").read_text() == Path("alice/charter.toml").read_text()


def test_every_template_begins_a_charter() -> None:
    for name, template in zip(NAMES, ("secagg", "allreduce"), strict=False):
        made(name, "--template", template)
        ended = decentra("charter", "show", f"{name}/charter.toml", "--json")
        shown = json.loads(ended.out)
        assert ended.code == 2, "a charter of one is not sound"
        assert (shown["protocol"], [member["name"] for member in shown["members"]]) == (template, [name])
        assert len(shown["problems"]) == 1 and "needs at least 3 members" in shown["problems"][0]


def test_show_tells_the_grid_that_a_charter_is_for() -> None:
    made("alice", "--template", "group-gossip")
    begun = json.loads(decentra("charter", "show", "alice/charter.toml", "--json").out)
    assert len(begun["problems"]) == 2 and "name some that others trust to run" in begun["problems"][1]
    folder = locate("specs") / "charter" / "vectors" / "v1"
    ended = decentra("charter", "show", str(folder / "grid.toml"))
    assert ended.code == 0 and "problem" not in ended.out
    assert "12 members on a grid: a mixing is 2 rounds, one after the other, in 2 groups of 6" in ended.out
    assert "at most 1 of a group corrupt: its round needs 4 of 6 to end, so 2 may stop" in ended.out
    assert "some group of an epoch holds more than 1 with a probability of up to 0.91 (stated: 1)" in ended.out
    assert "the grid is drawn by peer-11, peer-2, peer-5, peer-7, of whom 4 have to take part" in ended.out
    shown = json.loads(decentra("charter", "show", str(folder / "grid.toml"), "--json").out)["groups"]
    assert (shown["sizes"], shown["axes"], shown["groups"], shown["liars"]) == ([6, 6], 2, 2, 2)


def test_show_tells_the_buckets_that_a_charter_has() -> None:
    terms = {"protocol__c": 2, "buckets__c": 1, "buckets__risk": 0.5}
    Path("buckets.toml").write_text(charter_for(identities(16, 0), "bucketed", template=None, **terms).to_toml())
    ended = decentra("charter", "show", "buckets.toml")
    assert ended.code == 0 and "problem" not in ended.out
    assert "16 members in 5 buckets of 3 or 4, drawn anew in each epoch; all members see every bucket's" in ended.out
    assert "and 1 of a bucket: its sum starts with 3 or more of it; 5 means or more have to be there" in ended.out
    assert "some bucket of an epoch holds more than 1 of 2 corrupt members with a probability of up to" in ended.out
    assert "slices recomputed in a round: 1" in ended.out and "±536870911 steps" in ended.out
    shown = json.loads(decentra("charter", "show", "buckets.toml", "--json").out)["buckets"]
    assert (shown["sizes"], shown["count"], shown["c"], shown["risk"]) == ([3, 4], 5, 1, 0.5)


@pytest.mark.parametrize(
    "n, lies", [(4, "a lie about products fails the round"), (5, "lies are corrected, and most named")]
)
def test_show_tells_what_holds_on_shares(n: int, lies: str) -> None:
    terms = {"protocol__width": 32, "model__max_parameters": 10**6}
    charter = charter_for(identities(n, 0), "shamir-gram", template=None, **terms)
    Path("shares.toml").write_text(charter.to_toml())
    ended = decentra("charter", "show", "shares.toml")
    assert ended.code == 0 and "problem" not in ended.out
    assert f"{n} members, at most 1 of them corrupt" in ended.out and "and needs 4 updates; who stops" in ended.out
    assert f"when all take part {lies}" in ended.out
    assert "±268435 steps within a tensor's range, more where there are fewer parameters" in ended.out


def test_show_tells_members_thresholds_and_who_has_not_signed() -> None:
    for name in NAMES:
        made(name)
    done("charter", "add", "--state", "alice", *(f"{name}/member.toml" for name in NAMES[1:]))
    done("charter", "sign", "--state", "alice")
    shown = told("charter", "show", "--state", "alice")
    assert (shown["threshold"], shown["stops_survived"], shown["roster_floor"], shown["quanta"]) == (3, 1, 3, 8191)
    assert shown["signed"] == ["alice"] and sorted(shown["missing"]) == ["bob", "carol", "dave"]
    assert shown["problems"] == [] and shown["hash"] == PeerFolder(Path("alice")).load_charter().hash.hex()
    text = done("charter", "show", "alice/charter.toml")
    assert "needs 3 to end, so 1 may stop when all 4 take part" in text and "still to sign: " in text


def test_adding_a_member_says_that_all_sign_again() -> None:
    group()
    done("keys", "--state", "erin")
    outcome = told("charter", "add", "--state", "alice", "erin/member.toml")
    assert (outcome["signatures_removed"], outcome["members"], outcome["added"]) == (4, 5, ["erin"])
    assert PeerFolder(Path("alice")).load_charter().signatures == {}


def test_a_charter_edited_after_signing_is_signed_afresh_and_old_signatures_go() -> None:
    keeper = group()[0]
    keeper.charter.write_text(keeper.charter.read_text().replace("width = 16 ", "width = 32 "))
    outcome = told("charter", "sign", "--state", "alice")
    assert (outcome["stale_removed"], outcome["signed"]) == (4, ["alice"])


def test_signing_another_charter_says_what_it_replaces() -> None:
    group()
    text = Path("alice/charter.toml").read_text()
    Path("new.toml").write_text(text.replace("steps = 20 ", "steps = 40 "))
    outcome = told("charter", "sign", "--state", "bob", "--charter", "new.toml")
    assert outcome["replaced"] == ["training.steps is 40 here and 20 there"]


def test_version_and_help_need_no_heavy_imports() -> None:
    assert done("--version").startswith("decentra 0.")
    script = (
        "import sys, decentra.cli.app as cli\n"
        "from typer.testing import CliRunner\n"
        "assert CliRunner().invoke(cli.app, ['--help']).exit_code == 0\n"
        "print([name for name in ('torch', 'zmq', 'numpy', 'pydantic', 'asyncio') if name in sys.modules])"
    )
    command = [sys.executable, "-c", script]
    ended = subprocess.run(command, capture_output=True, text=True, env=_environment(), check=True)
    assert ended.stdout == "[]\n"


@pytest.mark.parametrize("module", ["decentra", "decentra.cli"])
def test_python_runs_the_package_as_the_command(module: str) -> None:
    def run(*words: str) -> tuple[int, str, str]:
        command = [sys.executable, "-m", module, *words]
        ended = subprocess.run(command, capture_output=True, text=True, env=_environment(), timeout=60, check=False)
        return ended.returncode, ended.stdout, ended.stderr

    code, out, _ = run("--version")
    assert code == 0 and out.startswith("decentra 0.")
    said = "error: no such command 'inti'. Did you mean 'init', 'invite'? See `decentra --help`\n"
    assert run("inti") == (2, "", said)


@pytest.mark.parametrize(
    "words",
    [
        *(["keys"], ["init"], ["invite"], ["enter"], ["run"], ["demo"]),
        *(["charter", "add"], ["charter", "amend"], ["charter", "sign"]),
    ],
)
def test_help_of_every_command_tells_exit_codes_and_json(words: list[str]) -> None:
    text = " ".join(done(*words, "--help").split())
    assert "Exit codes: 0 done; 1 the operation failed" in text and "--json" in text


@pytest.mark.parametrize("words", [[], ["charter"]])
def test_no_commands_summary_is_cut_at_80_columns(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = decentra(*words, "--help").out
    assert "..." not in text.replace("[ARGS]...", "") and max(map(len, text.splitlines())) <= 80


def test_show_tells_everything_that_one_signs() -> None:
    for name in NAMES:
        made(name)
    done("charter", "add", "--state", "alice", *(f"{name}/member.toml" for name in reversed(NAMES[1:])))
    charter = Path("alice/charter.toml")
    text = charter.read_text().replace("# fingerprint = \"…\" ", f'fingerprint = "{"ab" * 32}" ')
    text = text.replace("# [protocol.ranges] ", "[protocol.ranges] ").replace('# "*.bias" = 0.01', '"*.bias" = 0.01')
    charter.write_text(text)
    shown = told("charter", "show", "--state", "alice")
    assert [member["name"] for member in shown["members"]] == list(NAMES) == shown["missing"]
    assert (shown["steps"], shown["outer_lr"], shown["outer_momentum"], shown["nesterov"]) == (20, 1.0, 0.5, True)
    assert (shown["phase_deadline"], shown["ready_deadline"], shown["max_parameters"]) == (30.0, 120.0, 100_000_000)
    assert (shown["fingerprint"], shown["challenges"], shown["rule"]) == ("ab" * 32, 1, "mean")
    assert (shown["initial_range"], shown["ranges"], shown["range_bounds"]) == (0.1, {"*.bias": 0.01}, [1e-6, 100.0])
    printed = done("charter", "show", "alice/charter.toml")
    for said in (
        "ranges begin with ±0.1, *.bias ±0.01, and move within ±1e-06 and ±100",
        "rule: mean, weights up to 1; slices recomputed in a round: 1",
        "up to 120 s for members to be ready, and 30 s in each phase",
        "a round every 20 local steps; outer learning rate 1, Nesterov momentum 0.5",
        f"at most 100,000,000 parameters, of the model {'ab' * 32} only",
        "still to sign: alice, bob, carol, dave",
    ):
        assert said in printed, said
    rows = [line.split()[1] for line in printed.splitlines() if line.startswith("│")]
    assert rows == list(NAMES)


def test_show_ends_with_2_where_something_is_wrong_and_says_which_signatures_are_void() -> None:
    group()
    done("charter", "show", "--state", "alice")
    charter = Path("alice/charter.toml")
    charter.write_text(charter.read_text().replace("outer_lr = 1.0", "outer_lr = 9.0"))
    ended = decentra("charter", "show", "--state", "alice")
    assert (ended.code, ended.out.count("problem: "), ended.out.count("another text")) == (2, 1, 4)
    shown = json.loads(decentra("charter", "show", "--state", "alice", "--json").out)
    assert shown["signed"] == [] and sorted(shown["missing"]) == sorted(NAMES) and len(shown["problems"]) == 1


# ── the wrong ways ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_no_command_shows_the_help() -> None:
    ended = decentra()
    assert ended.code == 2 and "Commands:" in ended.out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["foo"], "no such command 'foo'; the commands are keys, init, invite, enter, run, "),
        (["sign"], "no such command 'sign'; it is `decentra charter sign`; see `decentra --help`"),
        (["charter", "foo"], "'foo'; the commands are add, amend, sign, show; see `decentra charter --help`"),
        (["inti"], "no such command 'inti'. Did you mean 'init', 'invite'? See `decentra --help`"),
        (["init", "--state", "a"], "missing option '--name'; see `decentra init --help`"),
        (["init", "--name", "a"], "missing option '--state' (env var: 'DECENTRA_STATE'); see `decentra init --help`"),
        (["keys", "--state", "a", "--nmae", "b"], "no such option: --nmae (Possible options: --name"),
        (["charter", "add", "--state", "a"], "missing argument 'FILE...'; see `decentra charter add --help`"),
        (["charter", "show"], "name a charter, or a peer's folder with --state; see `decentra charter show --help`"),
        (["charter", "sign", "x.toml", "--state", "a"], "name the charter to sign with --charter, or copies"),
        (["demo", "--peers", "four"], "invalid value for '--peers'"),
        (["run"], "missing argument 'PROGRAM'"),
    ],
)
def test_wrong_use_is_one_line_and_code_2(words: list[str], sentence: str) -> None:
    assert sentence in refused(*words)
    assert not Path("a").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--template", "secag"], "there is no charter template 'secag'; did you mean 'secagg'?"),
        (["--template", "fedavg"], f"there is no charter template 'fedavg'; {TEMPLATES}"),
        (["--template", "../x"], f"there is no charter template '../x'; {TEMPLATES}"),
        (["--bind", "localhost:7431"], "must look like \"tcp://host:7431\""),
        (["--advertise", "tcp://0.0.0.0:7431"], "must be where others reach this peer"),
        (["--charter", "nowhere.toml"], "there is no nowhere.toml; name the group's charter with --charter"),
        (["--charter", "x", "--template", "secagg"], "--template and --charter exclude each other"),
    ],
)
def test_a_wrong_option_of_init_makes_nothing(words: list[str], sentence: str) -> None:
    assert sentence in refused("init", "--state", "a", "--name", "alice", *words)
    assert not Path("a").exists()


def test_a_wrong_name_makes_nothing() -> None:
    assert "the name 'Alice Smith' must be 1 to 32 letters" in refused("init", "--state", "a", "--name", "Alice Smith")
    assert "choose it with --name" in refused("keys", "--state", "deadbeef")
    assert not Path("a").exists() and not Path("deadbeef").exists()


def test_a_folder_in_use_is_never_overwritten() -> None:
    before = {path: path.read_bytes() for path in made("alice").path.iterdir()}
    assert "alice holds a peer already; choose a new folder" in refused("init", "--state", "alice", "--name", "x")
    assert {path: path.read_bytes() for path in Path("alice").iterdir()} == before


def test_a_folder_of_other_things_is_left_alone() -> None:
    Path("docs").mkdir(mode=0o755)
    Path("docs/thesis.txt").touch()
    for words in (["init", "--state", "docs", "--name", "a"], ["keys", "--state", "docs"]):
        assert "docs holds other things; choose a new folder" in refused(*words)
    assert [path.name for path in Path("docs").iterdir()] == ["thesis.txt"]
    assert stat.S_IMODE(Path("docs").stat().st_mode) == 0o755


@pytest.mark.parametrize(
    "words",
    [["charter", "show"], ["charter", "sign"], ["charter", "add", "m.toml"], ["run", "program.py"]],
)
def test_a_wrong_folder_says_how_to_make_one(words: list[str]) -> None:
    Path("program.py").touch()
    sentence = refused(*words, "--state", "alcie")
    assert sentence.startswith("there is no peer folder alcie; check the path, or make the folder with `decentra init ")


def test_who_has_still_its_own_charter_is_told_to_sign_the_groups() -> None:
    for name in NAMES:
        made(name)
    Path("program.py").touch()
    for words in (["charter", "sign"], ["charter", "sign", "--merge", "alice/charter.toml"], ["run", "program.py"]):
        sentence = refused(*words, "--state", "bob")
        assert sentence.startswith(
            "bob has still its own one-member charter; sign the group's with `decentra charter sign --state bob "
            "--charter FILE`, or add the others with `decentra charter add`"
        )
    done("charter", "add", "--state", "alice", *(f"{name}/member.toml" for name in NAMES[1:]))
    signed = done("charter", "sign", "--state", "bob", "--charter", "alice/charter.toml")
    assert "it replaces" not in signed  # what only it was in was nobody's agreement


def test_a_folder_where_a_file_is_expected_is_told_which_file_was_meant() -> None:
    for name in NAMES[:2]:
        made(name)
    for words, sentence in (
        (["charter", "show", "alice"], "alice is a folder; name alice/charter.toml, or use --state alice"),
        (["charter", "sign", "--state", "bob", "--charter", "alice"], "alice is a folder; name alice/charter.toml"),
        (["charter", "add", "--state", "alice", "bob"], "bob is a folder; name bob/member.toml"),
        (["init", "--state", "c", "--name", "c", "--charter", "alice"], "alice is a folder; name alice/charter.toml"),
        (["run", "alice", "--state", "alice"], "alice is a folder; name a Python file"),
        (["charter", "show", "--state", "alice/charter.toml"], "alice/charter.toml is a file; name the peer's folder"),
    ):
        assert refused(*words).startswith(sentence)


def test_keys_alone_say_what_is_still_to_do() -> None:
    assert "next: `decentra init --state alice --name alice" in done("keys", "--state", "alice")
    done("init", "--state", "alice", "--name", "alice")
    assert "next:" not in done("keys", "--state", "alice")


def test_a_charter_typo_names_the_right_key_whichever_command_meets_it() -> None:
    folder = made("alice")
    folder.charter.write_text(folder.charter.read_text().replace("width = 16", "widht = 16"))
    for words in (["charter", "show"], ["charter", "sign"], ["charter", "add", "alice/member.toml"]):
        sentence = refused(*words, "--state", "alice")
        assert sentence == "alice/charter.toml: unknown key 'widht' in [protocol]; did you mean 'width'?"


def test_adding_twice_or_adding_what_is_no_member_changes_nothing() -> None:
    folder = made("alice")
    made("bob")
    done("charter", "add", "--state", "alice", "bob/member.toml")
    before = folder.charter.read_bytes()
    assert "'bob' (" in refused("charter", "add", "--state", "alice", "bob/member.toml")
    assert "is a charter; ask" in refused("charter", "add", "--state", "alice", "bob/charter.toml")
    assert "unknown key 'peer' at the top" in decentra("charter", "add", "--state", "alice", "bob/decentra.toml").err
    assert "there is no carol.toml; ask the new member" in refused("charter", "add", "--state", "alice", "carol.toml")
    assert "is not UTF-8 text" in refused("charter", "add", "--state", "alice", _binary())
    tampered = Path("bob/member.toml").read_text().replace('"bob"', '"eve"')
    Path("eve.toml").write_text(tampered)
    assert "its own signature does not fit the record" in refused("charter", "add", "--state", "alice", "eve.toml")
    assert folder.charter.read_bytes() == before


def _binary() -> Path:
    Path("binary").write_bytes(bytes(range(256)))
    return Path("binary")


def test_a_stranger_cannot_sign() -> None:
    keeper = group()[0]
    done("keys", "--state", "eve")
    sentence = refused("charter", "sign", "--state", "eve", "--charter", keeper.charter)
    assert "is no member of 'our-group'; add its member.toml with `decentra charter add`" in sentence
    assert not Path("eve/charter.toml").exists()


def test_an_unsound_charter_is_not_signed_and_not_run() -> None:
    keeper = group()[0]
    keeper.charter.write_text(keeper.charter.read_text().replace("c = 1 ", "c = 3 "))
    Path("program.py").touch()
    for words in (["charter", "sign"], ["run", "program.py"]):
        assert "alice/charter.toml: c = 3 is out of 1..2 for 4 members" in refused(*words, "--state", "alice")


def test_copies_of_another_charter_are_not_merged() -> None:
    group()
    text = Path("bob/charter.toml").read_text()
    Path("bob/charter.toml").write_text(text.replace("steps = 20 ", "steps = 40 "))
    sentence = refused("charter", "sign", "--state", "alice", "--merge", "bob/charter.toml")
    assert sentence.startswith("bob/charter.toml is another charter: training.steps is 20 here and 40 there;")


# ── errors of the group, and what the demo is handed ─────────────────────────────────────────────────────────────────


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A stand-in for the demo: records what it is asked for, and does as ``rounds`` says."""
    calls: list[dict[str, Any]] = []

    def main(**options: Any) -> int:
        calls.append(options)
        match options["rounds"]:
            case 1:
                raise RemoteError(None, "SA-3", "it showed both shares; leave it out")
            case 2:
                raise Unavailable((), 3.0, "readiness", "start it")
            case 3:
                raise KeyboardInterrupt
        return 0

    module = ModuleType("decentra.demo.launch")
    monkeypatch.setattr(module, "main", main, raising=False)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return calls


def test_a_peers_fault_and_an_unanswered_wait_are_code_1(launched: list[dict[str, Any]]) -> None:
    assert refused("demo", "--rounds", "1", code=1).startswith("an unnamed peer broke SA-3")
    assert json.loads(decentra("demo", "--rounds", "1", "--json").err)["kind"] == "remote"
    assert "waited 3.0 s for readiness" in refused("demo", "--rounds", "2", code=1)
    assert json.loads(decentra("demo", "--rounds", "2", "--json").err)["kind"] == "unavailable"
    assert decentra("demo", "--rounds", "3").code == 130


def test_the_demo_is_handed_its_options(launched: list[dict[str, Any]]) -> None:
    done("demo")
    done("demo", "--peers", "5", "--rounds", "7", "--protocol", "allreduce", "--seed", "9", "--compare", "--out", "o")
    done("demo", "--kill")
    done("demo", "--no-kill")
    done("demo", "--model", "smollm2")
    done("demo", "--rule", "median", "--attack", "alie", "--f", "1")
    base = {"model": "bytes", "peers": 4, "rounds": None, "protocol": None, "seed": 0, "compare": False}
    base |= {"out": Path("demo"), "rule": None, "attack": None, "f": None}
    more = {**base, "peers": 5, "rounds": 7, "protocol": "allreduce", "seed": 9, "compare": True, "out": Path("o")}
    kill = [{**base, "kill": kill, "as_json": False} for kill in (None, True, False)]
    lies = {**kill[0], "rule": "median", "attack": "alie", "f": 1}
    smol = {**kill[0], "model": "smollm2"}
    assert launched == [kill[0], {**more, "kill": None, "as_json": False}, *kill[1:], smol, lies]


# ── run, in real processes ───────────────────────────────────────────────────────────────────────────────────────────


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(SOURCE)}


def _run(words: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "decentra.cli", "run", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=_environment(), timeout=60, check=False)


def test_a_program_runs_as_main_with_its_arguments_and_its_peers_folder() -> None:
    group()
    Path("sub").mkdir()
    Path("sub/helper.py").write_text("VALUE = 41\n")
    Path("sub/program.py").write_text(
        "import os, sys, helper\n"
        "print(__name__, sys.argv[1:], os.environ['DECENTRA_STATE'], helper.VALUE, os.environ['OMP_NUM_THREADS'])\n"
    )
    state = str(Path("bob").resolve())
    inner = _run(["sub/program.py", "--lr", "0.1", "x", "--state", "bob"])
    assert (inner.returncode, inner.stderr) == (0, "")
    assert inner.stdout == f"__main__ ['--lr', '0.1', 'x'] {state} 41 1\n"
    after = _run(["--state", "bob", "sub/program.py", "--", "--state", "mine", "--json"])
    assert after.stdout == f"__main__ ['--state', 'mine', '--json'] {state} 41 1\n"


@pytest.mark.parametrize(
    ("program", "code", "error"),
    [
        ("raise SystemExit(7)", 7, ""),
        ("import sys; sys.exit('no luck')", 1, "no luck\n"),
        (
            "from decentra.errors import LocalError\nraise LocalError('no GPU; use another')",
            2,
            "error: no GPU; use another\n",
        ),
        (
            "from decentra.errors import RemoteError\nraise RemoteError(None, 'SA-1', 'a bad deal')",
            1,
            "error: an unnamed peer broke SA-1: a bad deal\n",
        ),
        ("raise KeyboardInterrupt", 130, ""),
        ("import logging; logging.getLogger('decentra.peer').info('joined')", 0, "decentra: joined\n"),
        ("import logging; logging.getLogger('decentra.peer').debug('leaves')", 0, ""),
    ],
)
def test_the_programs_end_is_the_commands_end(program: str, code: int, error: str) -> None:
    group()
    Path("program.py").write_text(program)
    ended = _run(["program.py", "--state", "carol"])
    assert (ended.returncode, ended.stdout, ended.stderr) == (code, "", error)


def test_a_programs_own_error_shows_its_own_frames_only() -> None:
    group()
    Path("program.py").write_text("def work():\n    return 1 / 0\n\nwork()\n")
    ended = _run(["program.py", "--state", "alice"])
    assert ended.returncode == 1 and "ZeroDivisionError" in ended.stderr
    assert 'program.py", line 2, in work' in ended.stderr and "runpy" not in ended.stderr and "cli" not in ended.stderr


def test_logs_are_json_lines_when_asked() -> None:
    group()
    Path("program.py").write_text("import logging; logging.getLogger('decentra.peer').info('joined %d', 4)")
    ended = _run(["program.py", "--state", "alice", "--json"])
    line = json.loads(ended.stderr)
    assert (line["level"], line["logger"], line["message"]) == ("info", "decentra.peer", "joined 4")


def test_sigterm_interrupts_the_program_which_cleans_up() -> None:
    group()
    Path("program.py").write_text(
        "import signal\n"
        "try:\n"
        "    print('ready', flush=True)\n"
        "    signal.pause()\n"
        "finally:\n"
        "    print('left the group', flush=True)\n"
    )
    command = [sys.executable, "-m", "decentra.cli", "run", "program.py", "--state", "dave"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=_environment()) as peer:
        assert peer.stdout is not None
        assert peer.stdout.readline() == "ready\n"
        peer.send_signal(signal.SIGTERM)
        out, err = peer.communicate(timeout=60)
    assert (peer.returncode, out, err) == (143, "left the group\n", "")


def test_a_program_is_not_run_before_all_have_signed() -> None:
    for name in NAMES:
        made(name)
    done("charter", "add", "--state", "alice", *(f"{name}/member.toml" for name in NAMES[1:]))
    for name in NAMES[:3]:
        done("charter", "sign", "--state", name, "--charter", "alice/charter.toml")
    done("charter", "sign", "--state", "alice", "--merge", "bob/charter.toml", "carol/charter.toml")
    Path("program.py").write_text("open('ran', 'w')")
    sentence = refused("run", "program.py", "--state", "alice")
    assert sentence.startswith("alice/charter.toml: member 'dave' (") and "has not signed" in sentence
    assert refused("run", "porgram.py", "--state", "alice") == "there is no program porgram.py; name a Python file"
    assert not Path("ran").exists()


def test_a_charter_that_somebody_tampered_with_is_not_run() -> None:
    keeper = group()[0]
    charter = keeper.load_charter()
    keeper.charter.write_text(keeper.charter.read_text().replace("outer_lr = 1.0", "outer_lr = 9.0"))
    Path("program.py").write_text("open('ran', 'w')")
    ended = decentra("run", "program.py", "--state", "alice")
    assert ended.code == 2 and not Path("ran").exists()
    assert ended.err.count("\n") == 1 and "this charter was changed after it was signed by 'alice' (" in ended.err
    assert "put the change back, or have all sign again" in ended.err
    assert Charter.parse(keeper.charter.read_text()).hash != charter.hash
