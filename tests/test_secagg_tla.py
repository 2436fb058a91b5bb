"""specs/secagg/SecAgg.tla: TLC visits as many states as model.py, and finds each planted hole in as many steps."""

from __future__ import annotations

import ast
import importlib
import re
import sys
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

SECAGG = Path(__file__).parent.parent / "specs" / "secagg"
SPEC = (SECAGG / "SecAgg.tla").read_text(encoding="utf-8")
TEXT = (SECAGG / "MODEL.md").read_text(encoding="utf-8")
CFGS = {name: (SECAGG / f"{name}.cfg").read_text(encoding="utf-8") for name in ("SecAgg", "MCSecAgg")}


def load() -> Any:
    """The runner is a program beside the model that it imports; neither is in a package."""
    sys.path.insert(0, str(SECAGG))
    try:
        return importlib.import_module("tlc")
    finally:
        sys.path.remove(str(SECAGG))


tlc = load()
Case, Found, Model = tlc.Case, tlc.Found, tlc.Model
CHOICES = {
    name: [chosen for chosen in get_args(hint) if chosen != getattr(Model(4, 1, 1), name)]
    for name, hint in get_type_hints(Model).items()
    if name in ("lock", "votes", "commits", "unmask", "shares")
}

ENDED = """Model checking completed. No error has been found.
Progress(3) at now: 1,228 states generated (9 s/min), 615 distinct states found (9 ds/min), 88 states left on queue.
2447 states generated, 904 distinct states found, 0 states left on queue.
"""
BROKE = """Error: Invariant OneSecret is violated.
Error: The behavior up to this point is:
State 1: <Initial predicate>
State 2: <Unmask line 3>
State 3: <Unmask line 3>
12 states generated, 9 distinct states found, 4 states left on queue.
"""


# ---- what the runner asks and hears ----------------------------------------------------------------------------------


@st.composite
def models(draw: st.DrawFn) -> Any:
    n = draw(st.integers(3, 7))
    c = draw(st.integers(1, n - 2))
    number = st.none() | st.integers(c + 1, n)
    numbers = {name: draw(number) for name in ("quorum", "threshold", "floor")}
    choices = {name: draw(st.sampled_from([getattr(Model(4, 1, 1), name), *CHOICES[name]])) for name in CHOICES}
    return Model(n, c, draw(st.integers(1, 4)), draw(st.integers(1, 3)), **numbers, **choices)


@given(models(), st.sampled_from(sorted(CFGS)), st.none() | st.sampled_from(tlc.NAMES))
def test_every_constant_says_what_the_model_says(config: Any, module: str, breaks: str | None) -> None:
    case = Case(config, breaks, renaming=module == "MCSecAgg")
    text = tlc.configured(CFGS[module], case)
    given = dict(re.findall(r"^    (\w+) (?:=|<-) (.*)$", text, re.MULTILINE))
    sets = {name: set(filter(None, value.strip("{}").split(", "))) for name, value in given.items()}
    assert (len(sets["Honest"]), len(sets["Liars"])) == (config.n - config.c, config.c)
    assert (len(sets["Views"]), len(sets["Values"])) == (config.views, config.letters)
    for name in ("Quorum", "Threshold", "Floor"):
        number = getattr(config, name.lower())
        assert given[name] == ("T" if number is None else str(number))
    planted = sum(getattr(config, name) in others for name, others in CHOICES.items())
    assert len(sets["Holes"]) == planted
    assert all(hole in SPEC for hole in sets["Holes"])
    assert text.endswith("INVARIANTS\n    TypeOK\n" + "".join(f"    {name}\n" for name in case.checked))
    assert ("NEXT Vote" in text) == (module == "MCSecAgg" and breaks is None)


def test_a_constant_that_the_cfg_does_not_give_is_no_silent_default() -> None:
    with pytest.raises(ValueError, match="give Quorum a value once"):
        tlc.configured(CFGS["SecAgg"].replace("    Quorum <- T\n", ""), Case(Model(4, 1, 1)))


def test_each_choice_that_plants_a_hole_has_a_name_in_the_twin_and_the_other_way_round() -> None:
    assert {choice: sorted(names) for choice, names in tlc.HOLES.items()} == {
        choice: sorted(others) for choice, others in CHOICES.items()
    }
    named = SPEC.partition("AllHoles == {")[2].partition("}")[0]
    assert sorted(re.findall(r'"([^"]+)"', named)) == sorted(n for names in tlc.HOLES.values() for n in names.values())


def test_the_cfg_is_the_protocol_and_checks_the_invariants_of_model_py_by_name() -> None:
    assert "Holes = {}" in CFGS["SecAgg"]
    assert CFGS["SecAgg"].partition("INVARIANTS")[2].split() == ["TypeOK", *tlc.NAMES]
    for name in tlc.NAMES:
        assert re.search(rf"^{name} ==", SPEC, re.MULTILINE)


def test_each_hole_and_each_invariant_is_among_the_quick_cases() -> None:
    holes = [case for case in tlc.QUICK if case.breaks]
    assert {case.breaks for case in holes} == set(tlc.NAMES)
    assert {(name, getattr(case.model, name)) for case in holes for name in CHOICES} >= {
        (name, chosen) for name, others in CHOICES.items() for chosen in others
    }


def test_the_table_has_a_row_for_each_case_and_no_other() -> None:
    rows = re.findall(r"^\| (\(.+) \| .+ \| (test|long) \|$", TEXT, re.MULTILINE)
    assert rows == [(tlc.told(c), kind) for cases, kind in ((tlc.QUICK, "test"), (tlc.LONG, "long")) for c in cases]


def test_what_tlc_counted_is_read_from_its_last_line() -> None:
    assert tlc.parsed(ENDED) == Found(904, 2446)
    assert tlc.parsed(ENDED, counts_steps=False) == Found(904)


def test_what_tlc_found_broken_is_read_with_the_length_of_the_way_there() -> None:
    assert tlc.parsed(BROKE) == Found(broken="OneSecret", steps=2)
    assert tlc.parsed("Error: Invariant NoLoneSum is violated by the initial state:\n") == Found(
        broken="NoLoneSum", steps=0
    )


@pytest.mark.parametrize(
    "output",
    ["", "Error: Parsing or semantic analysis failed.\n", ENDED.replace(", 0 states left", ", 7 states left")],
)
def test_a_run_that_came_to_no_end_is_no_result(output: str) -> None:
    with pytest.raises(RuntimeError, match="TLC came to no end"):
        tlc.parsed(output)


@pytest.mark.parametrize(("found", "code", "verdict"), [(Found(190, 372), 0, "equal"), (Found(190, 373), 1, "DIFFER")])
def test_the_program_ends_with_1_where_the_twins_differ(
    found: Any, code: int, verdict: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Twin:
        @classmethod
        def find(cls) -> Twin:
            return cls()

        def asked(self, case: Any) -> Any:
            return found

    monkeypatch.setattr(tlc, "Tlc", Twin)
    monkeypatch.setattr(tlc, "QUICK", (tlc.whole(3, 1, 2),))
    assert tlc.main([]) == code
    row, last = capsys.readouterr().out.splitlines()[1:]
    assert verdict in row and "(3, 1) in 2" in row and "190 states, 372 steps" in row
    assert last == f"{1 - code} of 1 are equal"


def test_without_java_the_program_says_so_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert tlc.main([]) == 2
    assert capsys.readouterr().out == (
        "model.py was not compared with its TLA+ twin, as there is no `java` on the PATH: install a Java runtime, "
        "version 8 or later.\n"
    )


@pytest.mark.parametrize("named", [False, True])
def test_without_the_jar_the_program_says_so_in_one_sentence(
    named: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "java").write_text("#!/bin/sh\n", encoding="utf-8")
    (tmp_path / "java").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    if named:
        monkeypatch.setenv("TLA2TOOLS", str(tmp_path / "no.jar"))
    else:
        monkeypatch.delenv("TLA2TOOLS", raising=False)
    assert tlc.main([]) == 2
    told = capsys.readouterr().out
    assert told.startswith("model.py was not compared with its TLA+ twin, as there is no ")
    assert told.count("\n") == 1 and "TLA2TOOLS" in told


def test_the_runner_imports_the_standard_library_and_the_model_alone() -> None:
    tree = ast.parse((SECAGG / "tlc.py").read_text(encoding="utf-8"))
    names = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert {name.partition(".")[0] for name in names} <= {*sys.stdlib_module_names, "model"}


# ---- the comparison --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("case", tlc.QUICK, ids=tlc.told)
def test_the_twins_agree(case: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Where Java or the jar is missing nothing can be compared, and what is checked is that the program says so."""
    expected = tlc.asked_model(case)
    assert f"| {tlc.told(case)} | {expected} |" in TEXT
    try:
        twin = tlc.Tlc.find()
    except tlc.CannotRun:
        assert tlc.main([]) == 2
        assert re.fullmatch(r"model\.py was not compared with its TLA\+ twin, as .+\.\n", capsys.readouterr().out)
        return
    before = sorted(SECAGG.rglob("*"))
    assert twin.asked(case) == expected
    assert sorted(SECAGG.rglob("*")) == before
