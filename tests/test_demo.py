"""``decentra demo`` as a user starts it: real processes, and what is left when it ends, however it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from decentra.audit.transcript import read
from decentra.wire.entry import parse
from starting import DEADLINE

COMMAND = [sys.executable, "-m", "decentra.cli", "demo"]


def demo(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *words], capture_output=True, text=True, timeout=4 * DEADLINE)


def running(out: Path) -> dict[int, list[str]]:
    """The processes that work for a demo in this folder, by id, with their command lines."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if entry.name.isdigit() and any(word.startswith(f"{out}/peer-") for word in words):
            found[int(entry.name)] = words
    return found


@contextmanager
def started(out: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A demo under way; ended here, if the test does not."""
    process = subprocess.Popen(
        [*COMMAND, "--out", str(out), *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def wait_for_round(number: int, process: subprocess.Popen[str], out: Path) -> None:
    """Wait until a peer has encoded its update of a round, which its witness writes; joining is round 1."""
    end = monotonic() + DEADLINE
    while not list(out.glob(f"peer-*/witness/update-{number}.npy")):
        assert monotonic() < end
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.1)


# A wrong option costs nothing.


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--rounds", "0"], "--rounds must be 1 or more, not 0"),
        (["--peers", "2"], "2"),
        (["--peers", "99"], "99"),
        (["--protocol", "secag"], "the demo does not run 'secag'; choose --protocol secagg, allreduce, mesh, buck"),
        (["--protocol", "group-gossip"], "does not run 'group-gossip'; choose --protocol secagg, allreduce, mesh, b"),
        (["--protocol", "bucketed"], "takes 3 buckets of 3 peers where 1 may lie; choose --peers 9, or --protocol"),
        (["--protocol", "bucketed", "--peers", "9", "--rule", "mean"], "that of secagg, and shows more; choose --rule"),
        (["--protocol", "bucketed", "--peers", "9", "--kill"], "a peer that stops takes its bucket along"),
        (["--protocol", "shamir-gram", "--peers", "5", "--kill"], "takes a slice of it along, and with it the round"),
        (["--rounds", "many"], "--rounds"),
        (["--attack", "alei", "--f", "1"], "there is no attack 'alei'; did you mean 'alie'?"),
        (["--attack", "foo"], "no attack 'foo'; choose --attack alie, ipm, sign_flip, mimic, min_max or min_sum"),
        (["--rule", "bulyan", "--peers", "7"], "of 7 peers as few as 4 may count in a round; choose --peers 16 or"),
        (["--rule", "median", "--peers", "2"], "the demo runs 3 to 16 peers and was asked for 2; choose --peers"),
        (["--attack", "alie"], "--attack alie needs --f, how many of the 4 peers lie, as in --f 1"),
        (["--rule", "krumm"], "there is no rule 'krumm'; did you mean 'krum'?"),
        (["--peers", "3", "--kill"], "with 3 peers none may be killed, since a round takes 3; choose more --peers"),
        (["--rounds", "5", "--kill"], "in 5 rounds a killed peer may not be back in time; choose --rounds 8 or more"),
    ],
)
def test_a_wrong_option_is_one_sentence_and_makes_nothing(tmp_path: Path, words: Sequence[str], sentence: str) -> None:
    out = tmp_path / "out"
    ended = demo("--out", str(out), *words)
    assert ended.returncode == 2 and not ended.stdout
    assert sentence in ended.stderr and len(ended.stderr.strip().splitlines()) == 1
    assert not out.exists()


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "held-out").mkdir()
    (tmp_path / "thesis.tex").write_text("all of it")
    ended = demo("--out", str(tmp_path))
    assert ended.returncode == 2 and "thesis.tex" in ended.stderr and "choose another folder" in ended.stderr
    assert (tmp_path / "thesis.tex").read_text() == "all of it"
    file = tmp_path / "thesis.tex"
    ended = demo("--out", str(file), "--json")
    assert ended.returncode == 2 and json.loads(ended.stderr)["kind"] == "local"
    assert file.read_text() == "all of it"


# Whole runs.


@pytest.mark.slow
def test_two_rounds_of_secagg_leak_nothing_and_a_second_run_takes_the_same_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    ended = demo("--rounds", "2", "--json", "--out", str(out))
    assert ended.returncode == 0, ended.stderr
    result = json.loads(ended.stdout)  # one object, and no table where there is no terminal
    assert not ended.stderr
    assert json.loads((out / "result.json").read_text()) == result
    check(result, out, peers=4, rounds=2, protocol="secagg")
    assert result["leak"]["found"] == 0

    again = demo("--rounds", "1", "--peers", "3", "--protocol", "allreduce", "--out", str(out))
    assert again.returncode == 0, again.stderr
    assert "\x1b" not in again.stdout and "held-out loss, nats a byte" in again.stdout
    second = json.loads((out / "result.json").read_text())
    check(second, out, peers=3, rounds=1, protocol="allreduce")
    assert not (out / "peer-3").exists()
    assert second["leak"]["found"] > second["leak"]["windows"] / 2  # two of a peer's three slices go to others
    assert {peer["id"] for peer in result["peers"]}.isdisjoint(peer["id"] for peer in second["peers"])


@pytest.mark.slow
def test_a_liar_of_four_costs_a_robust_rule_less_than_the_mean(tmp_path: Path) -> None:
    out = tmp_path / "out"
    ended = demo("--attack", "ipm", "--f", "1", "--rule", "trimmed_mean", "--rounds", "1", "--json", "--out", str(out))
    assert ended.returncode == 0, ended.stderr
    result = json.loads(ended.stdout)
    assert result["ok"] and result["attack"] == {"name": "ipm", "liars": ["peer-3"]}
    assert (result["protocol"], result["rule"], result["under_mean"]["rule"]) == ("mesh", "trimmed_mean", "mean")
    for run in (result, result["under_mean"]):
        assert run["equal_parameters"] and run["lost"] == [] and not run["audit"]["violations"]
        assert run["leak"]["found"] > run["leak"]["windows"] / 2  # mesh hides nothing
    audited = [run["audit"] for run in (result, result["under_mean"])]
    assert [each["verdict"] for each in audited] == ["clean"] * 2  # a lie about one's own update breaks no clause
    assert audited[0]["entries"] < 1.5 * audited[1]["entries"]  # each run is audited by itself
    kept, lost = (run["held_out"] for run in (result, result["under_mean"]))
    assert all(kept[silo]["joined"][0] < kept[silo]["before"][0] for silo in kept)
    assert all(kept[silo]["joined"][0] < lost[silo]["joined"][0] for silo in kept)
    assert not list(out.rglob("witness")) and not running(out)


def check(result: dict[str, Any], out: Path, *, peers: int, rounds: int, protocol: str, missed: int = 0) -> None:
    """What holds of every run; who was killed, if anybody was, has ``missed`` some rounds."""
    assert result["ok"] and (result["killed"] is not None) == (missed > 0)
    assert result["equal_parameters"] and result["lost"] == []
    assert (result["rounds"], result["protocol"]) == (rounds, protocol)
    assert result["leak"]["windows"] > 100_000 and result["leak"]["planted"] == peers
    audited = result["audit"]
    assert (audited["verdict"], audited["violations"], audited["missing"]) == ("clean", [], 0)
    assert audited["entries"] > 20 * rounds
    assert result["wall_seconds"] > 0 and result["cpu_seconds"] > 0
    silos = {peer["silo"] for peer in result["peers"]}
    assert len(silos) == len(result["peers"]) == peers
    assert len({peer["parameters"] for peer in result["peers"]}) == 1
    assert len({json.dumps(peer["after"]) for peer in result["peers"]}) == 1
    assert len({json.dumps(peer["before"]) for peer in result["peers"]}) == 1  # all began from one model
    for peer in result["peers"]:
        assert set(peer["before"]) == set(peer["after"]) == silos
        assert all(peer["after"][silo] < peer["before"][silo] for silo in silos)
        assert peer["exit_code"] == 0
        if missed and peer["name"] == "peer-2":
            assert 0 < peer["rounds"] <= rounds - missed
        else:
            assert peer["rounds"] == rounds
        assert missed or peer["failed"] == 0  # where one was killed, a slow machine may lose a round, and repeats it
        assert peer["bytes_sent"] > 0 and peer["round_seconds"] > 0 and len(peer["parameters"]) == 64
        assert len({signed.entry for signed in read(Path(peer["transcript"]))}) > 5
    assert not list(out.glob("peer-*/witness"))  # updates are not left lying about
    assert not running(out)


@pytest.mark.slow
def test_a_peer_that_is_killed_in_a_round_comes_back_with_the_others_parameters(tmp_path: Path) -> None:
    ended = demo("--rounds", "8", "--json", "--out", str(tmp_path))
    assert ended.returncode == 0, ended.stderr
    result = json.loads(ended.stdout)
    killed = result["killed"]
    check(result, tmp_path, peers=4, rounds=8, protocol="secagg", missed=killed["back_in_round"] - killed["round"])
    assert killed["peer"] == "peer-2" and 1 <= killed["round"] <= 2 < killed["back_in_round"] <= 8
    assert result["leak"]["found"] == 0

    sent = {peer["name"]: [parse(one.entry) for one in read(Path(peer["transcript"]))] for peer in result["peers"]}
    assert {entry.boot for entry in sent["peer-2"]} == {1, 2}
    number = max(entry.round for entry in sent["peer-2"] if entry.boot == 1)
    assert number == 3  # joining is a round too
    said = {name: {entry.kind for entry in entries if entry.round == number} for name, entries in sent.items()}
    assert "secagg.endorse" in said["peer-2"]  # the round had begun
    assert "secagg.masked" not in said["peer-2"]  # and its update never left
    others = [peer for peer in result["peers"] if peer["name"] != "peer-2"]
    assert all("certify.certificate" in said[peer["name"]] for peer in others if not peer["failed"])


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_of_the_launcher_ends_everybody(tmp_path: Path, number: signal.Signals, code: int) -> None:
    out = tmp_path / "out"
    with started(out, "--rounds", "50", "--peers", "3") as process:
        wait_for_round(1, process, out)
        assert len(running(out)) == 3
        process.send_signal(number)
        _, said = process.communicate(timeout=DEADLINE)
        assert process.returncode == code
        *forecast, last = said.strip().splitlines()
        assert last == "interrupted; all peers have ended"
        assert all("are left, by the steps measured so far" in line for line in forecast)
    assert not running(out)
    assert not list(out.glob("peer-*/witness"))
    for index in range(3):  # each left in order, and so wrote its transcript
        logs = (out / f"peer-{index}" / "transcripts").glob("*.log")
        assert len([log for log in logs if "heard" not in log.name]) == 1
