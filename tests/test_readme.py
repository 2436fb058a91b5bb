"""The README's code, and the examples beside the library's, run as they stand and print what they say."""

from __future__ import annotations

import doctest
import io
import os
import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from decentra.robust import catalogue

HERE = Path(__file__).resolve().parent.parent
TEXT = (HERE / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", TEXT, re.M | re.S)
SESSIONS = [block for block in BLOCKS if block.startswith(">>>")]
PLACEHOLDERS = [block for block in BLOCKS if "= ...  " in block]
"""The two lines in a loop that is the reader's own."""
PROGRAMS = [block for block in BLOCKS if block not in SESSIONS and block not in PLACEHOLDERS]
MODULES = [
    ".".join(path.relative_to(HERE / "src").with_suffix("").parts).removesuffix(".__init__")
    for path in sorted((HERE / "src").rglob("*.py"))
    if ">>> " in path.read_text("utf-8")
]


def test_there_is_a_block_of_each_kind() -> None:
    assert (len(SESSIONS), len(PLACEHOLDERS), len(PROGRAMS)) == (1, 1, 3)


@pytest.mark.parametrize("block", PROGRAMS, ids=range(len(PROGRAMS)))
def test_a_program_prints_what_stands_behind_its_prints(block: str) -> None:
    said = re.findall(r"^ *print\(.*\)  # (.+)$", block, re.M)
    assert said and run(block).splitlines() == "; ".join(said).split("; ")


def run(program: str, *beside: Path) -> str:
    """What it prints in a process of its own, with folders beside the library."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (HERE / "src", *beside)))}
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.parametrize("block", SESSIONS, ids=range(len(SESSIONS)))
def test_a_session_goes_as_shown(block: str) -> None:
    failed(doctest.DocTestParser().get_doctest(block, {}, "README.md", "README.md", 0))


@pytest.mark.parametrize("name", MODULES)
def test_examples_beside_the_code_run(name: str) -> None:
    found = [one for one in doctest.DocTestFinder(exclude_empty=True).find(import_module(name)) if one.examples]
    assert found
    for one in found:
        failed(one)


def failed(test: doctest.DocTest) -> None:
    said = io.StringIO()
    runner = doctest.DocTestRunner(verbose=False)
    assert test.examples and not runner.run(test, out=said.write).failed, said.getvalue()


def test_a_rule_of_an_installed_package_is_found_by_its_name(tmp_path: Path) -> None:
    """The README's rule and its entry point, as an installer leaves them, in a process that looks for them."""
    (block,) = (block for block in PROGRAMS if "class Midrange" in block)
    (toml,) = re.findall(r"^```toml\n(.*?)^```", TEXT, re.M | re.S)
    ((group, entries),) = tomllib.loads(toml)["project"]["entry-points"].items()
    assert group == catalogue.ENTRY_POINTS
    ((name, where),) = entries.items()
    (tmp_path / f"{where.partition(':')[0]}.py").write_text(block.partition("rule = ")[0], "utf-8")
    folder = tmp_path / "other-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(f"[{group}]\n{name} = {where}\n")
    program = (
        "import numpy as np; from decentra.robust import aggregate, rules\n"
        "updates = np.array([[1.0], [2.0], [4.0], [900.0]])\n"
        f"assert {name!r} in [told.name for told in rules()]\n"
        f"print(aggregate(updates, {name!r}, f=1).value, aggregate(updates, 'nnm+{name}', f=1).value < 5)\n"
    )
    assert run(program, tmp_path) == "[3.] [ True]\n"
