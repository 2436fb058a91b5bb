"""The commands for tests, run in this process: what they print, how they end, and folders made by them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from decentra.cli.app import app
from decentra.peer.config import PeerFolder

NAMES = ("alice", "bob", "carol", "dave")


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


def decentra(*words: str | Path) -> Ended:
    result = CliRunner().invoke(app, [str(word) for word in words], prog_name="decentra", catch_exceptions=False)
    return Ended(result.exit_code, result.stdout, result.stderr)


def done(*words: str | Path) -> str:
    ended = decentra(*words)
    assert (ended.code, ended.err) == (0, ""), ended
    return ended.out


def told(*words: str | Path) -> dict[str, Any]:
    """The JSON object of a command that succeeds, alone on stdout."""
    value = json.loads(done(*words, "--json"))
    assert isinstance(value, dict)
    return value


def refused(*words: str | Path, code: int = 2) -> str:
    """The one line that a wrong command prints; with --json it says the same and its kind."""
    ended = decentra(*words)
    assert (ended.code, ended.out) == (code, ""), ended
    assert ended.err.startswith("error: ") and ended.err.endswith("\n")
    as_json = decentra(words[0], "--json", *words[1:]) if words[0] != "charter" else decentra(*words, "--json")
    told = json.loads(as_json.err)
    assert (as_json.code, as_json.out) == (code, "") and set(told) == {"error", "kind"}
    sentence = ended.err.removeprefix("error: ").rstrip("\n")
    assert told["error"] == sentence
    assert "\n" not in sentence and "Traceback" not in sentence
    return sentence


def made(name: str, *more: str | Path) -> PeerFolder:
    number = NAMES.index(name) + 1
    done("init", "--state", name, "--name", name, "--bind", f"tcp://127.0.0.{number}:7431", *more)
    return PeerFolder(Path(name))


def group() -> list[PeerFolder]:
    """Four folders with a charter that all have signed, made as the README says."""
    folders = [made(name) for name in NAMES]
    keeper = folders[0]
    done("charter", "add", "--state", "alice", *(folder.member for folder in folders[1:]))
    for folder in folders:
        done("charter", "sign", "--state", folder.path, "--charter", keeper.charter)
    done("charter", "sign", "--state", "alice", "--merge", *(folder.charter for folder in folders[1:]))
    table = "".join(f'{name} = "tcp://127.0.0.{number}:7431"\n' for number, name in enumerate(NAMES, 1))
    for folder in folders:
        done("charter", "sign", "--state", folder.path, "--charter", keeper.charter)
        folder.config.write_text(folder.config.read_text().replace("[peers]\n", f"[peers]\n{table}"))
    return folders
