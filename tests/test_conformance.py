"""The conformance suite: a transcript for every clause that is told, made anew to the byte, which our auditor passes
and one that looks at nothing does not; and the pages beside it say what the code does."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from beside import SPECS, program
from commands import decentra
from decentra.audit import Report, Verdict, audit
from decentra.audit.auditor import Auditor
from decentra.audit.generic import DISTINCT
from decentra.audit.ground import Ground
from decentra.audit.rules import BOOKS, GENERIC, PARTLY, UNTOLD
from decentra.audit.rules.rendezvous import CODES
from decentra.audit.transcript import read
from decentra.charter.charter import Charter
from decentra.charter.policy import Policy
from decentra.wire.codec import Signed
from decentra.wire.entry import parse

SUITE = program(SPECS / "make_transcripts.py")
SCENES = sys.modules["scenes"]
RUNNER = program(SPECS / "conformance.py")

FILES: dict[str, dict[str, Any]] = json.loads((SPECS / "conformance.json").read_text("utf-8"))["files"]
BAD = [name for name in FILES if "/bad-" in name]
TOLD = {clause for book in BOOKS.values() for clause in book.clauses}

CLEAN = """
import json, sys
print(json.dumps({"verdict": "clean", "sessions": []}))
"""
"""An auditor that looks at nothing."""


@cache
def made() -> dict[str, bytes]:
    files: dict[str, bytes] = SUITE.made()
    return files


@cache
def report_of(name: str) -> Report:
    return audit([SPECS / name])


def clause_of(name: str) -> str:
    found = re.fullmatch(r"[a-z-]+/transcripts/bad-([A-Z]{2}-[0-9]+|[A-Z]+)-[a-z0-9-]+\.log", name)
    assert found is not None, name
    return found[1]


# ── the files ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_clause_that_is_told_and_every_rule_of_any_spec_has_its_bad_transcript() -> None:
    assert {clause_of(name) for name in BAD} == TOLD | {*GENERIC}
    assert not {clause_of(name) for name in BAD} & UNTOLD.keys()
    assert PARTLY.keys() <= TOLD


def test_every_room_has_good_ones_and_each_lies_where_its_clause_is() -> None:
    rooms = {"AR": "allreduce", "BU": "bucketed", "CE": "certify", "ME": "mesh", "RV": "rendezvous", "SA": "secagg"}
    rooms |= {"SG": "shamir-gram"}
    for room in (*rooms.values(), "wire"):
        assert any(name.startswith(f"{room}/transcripts/good-") for name in FILES), room
    for name in BAD:
        family, apart, _ = clause_of(name).partition("-")
        assert name.startswith(f"{rooms[family] if apart else 'wire'}/"), name


def test_the_suite_is_made_anew_to_the_byte() -> None:
    assert SUITE.differing(made()) == [], "run: python specs/make_transcripts.py"
    assert sum(map(len, made().values())) < 4_200_000
    assert max(map(len, made().values())) < 90_000


def test_a_file_that_differs_lacks_or_is_too_many_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SUITE, "SPECS", tmp_path)
    (tmp_path / "wire" / "transcripts").mkdir(parents=True)
    (tmp_path / "wire" / "transcripts" / "a.log").write_bytes(b"other")
    (tmp_path / "wire" / "transcripts" / "c.log").write_bytes(b"")
    files = {"wire/transcripts/a.log": b"a", "wire/transcripts/b.log": b"b"}
    assert SUITE.differing(files) == [
        "wire/transcripts/c.log is none of the suite",
        "wire/transcripts/a.log has other bytes",
        "wire/transcripts/b.log is not there",
    ]


def test_the_command_writes_compares_and_removes_what_is_none_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "wire" / "transcripts").mkdir(parents=True)
    stray = tmp_path / "wire" / "transcripts" / "stray.log"
    stray.write_bytes(b"")
    monkeypatch.setattr(SUITE, "SPECS", tmp_path)
    monkeypatch.setattr(SUITE, "made", lambda: {"wire/transcripts/a.log": b"a", "conformance.json": b"{}"})
    monkeypatch.setattr(sys, "argv", ["make_transcripts.py", "--check"])
    assert SUITE.main() == 1
    assert "3 files differ from what the specs give; run: python specs/make_transcripts.py" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["make_transcripts.py"])
    assert SUITE.main() == 0 and not stray.exists()
    monkeypatch.setattr(sys, "argv", ["make_transcripts.py", "--check"])
    assert SUITE.main() == 0
    assert capsys.readouterr().out.endswith("2 files are what the specs give\n")


@pytest.mark.parametrize("protocol", BOOKS)
def test_an_honest_round_that_is_signed_again_is_what_its_machines_signed(protocol: str) -> None:
    journals = SCENES.played(protocol, SCENES.round_of)
    assert {one for journal in journals for one in journal} == set(SUITE.honest(protocol).signed())


@pytest.mark.parametrize("protocol", BOOKS)
def test_the_suite_s_charter_is_one_that_peers_would_run_under(protocol: str) -> None:
    charter, members = SCENES.cast(protocol)
    Policy(charter).check()
    assert Charter.parse(charter.to_toml()) == charter
    derived = charter.buckets is not None  # from a charter that is signed, and a beacon
    assert set(charter.signatures) == (set() if derived else {one.id for one in members})


# ── what our auditor says of them ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", FILES)
def test_ours_says_what_is_expected_and_nothing_else_of(name: str) -> None:
    report, expected = report_of(name), FILES[name]
    assert sorted({(one.clause, one.who.hex()) for one in report.violations}) == sorted(
        (clause, who) for clause, who in expected["violations"]
    )
    assert report.verdict.value == expected["verdict"]
    assert report.verdict is Verdict.UNDECIDED or not (report.missing or report.garbled or report.unreadable)


@pytest.mark.parametrize("name", BAD)
def test_one_liar_breaks_one_clause_in(name: str) -> None:
    broken = {clause for clause, _ in FILES[name]["violations"]}
    beside = {f"{path.replace('/', '/transcripts/')}.log": {clause} for path, clause in SUITE.BESIDE.items()}
    assert broken == {clause_of(name)} | beside.get(name, set())
    assert len({who for _, who in FILES[name]["violations"]}) == 1


@pytest.mark.parametrize("name", BAD)
def test_the_evidence_convinces_alone_of(name: str) -> None:
    report = report_of(name)
    (session,) = report.sessions
    assert session.ground is not None
    for one in report.violations:
        entries = [Signed(record.entry.packed, record.body or b"") for record in one.evidence]
        assert len(entries) <= (17 if name.startswith("shamir-gram/") else 12)
        assert (one.clause, one.who) in {(other.clause, other.who) for other in judged(session.ground, entries)}


def judged(ground: Ground, entries: list[Signed]) -> Iterator[Any]:
    auditor = Auditor(grounds=[ground])
    try:
        auditor.add(entries)
        yield from auditor.judge().violations
    finally:
        auditor.close()


@pytest.mark.parametrize("name", BAD)
def test_without_what_the_liar_signed_nobody_is_accused_in(name: str) -> None:
    """Everything but the lie is in order: what is left may lack something, and accuses nobody."""
    (liar,) = {who for _, who in FILES[name]["violations"]}
    (session,) = report_of(name).sessions
    assert session.ground is not None
    entries = [one for one in read(SPECS / name) if parse(one.entry).author.hex() != liar]
    assert {one.who.hex() for one in judged(session.ground, entries)} <= {liar}  # whom others' entries may still cite


# ── the runner ───────────────────────────────────────────────────────────────────────────────────────────────────────


def run(*words: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, str(SPECS / "conformance.py"), *words]
    return subprocess.run(line, capture_output=True, text=True, timeout=300)


def scripted(tmp_path: Path, text: str) -> str:
    """The command of an auditor that a program is."""
    (tmp_path / "auditor.py").write_text(text)
    return shlex.join([sys.executable, "-I", "-S", str(tmp_path / "auditor.py")])


def test_ours_passes_the_whole_suite(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def ask(command: Any, case: Any, timeout: float) -> Any:
        ended = decentra("audit", "--json", SPECS / case.name)
        return RUNNER.Answer(ended.code, ended.out, ended.err)

    monkeypatch.setattr(RUNNER, "ask", ask)
    monkeypatch.setattr(sys, "argv", ["conformance.py"])
    assert RUNNER.main() == 0
    assert capsys.readouterr().out == f"{len(FILES) + 1} cases, all as expected\n"


def test_the_command_asks_ours_where_no_other_is_named() -> None:
    ran = run("--only", "*RV-1*")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "1 cases, all as expected\n", "")


def test_an_auditor_that_says_clean_to_everything_fails_on_every_file_that_is_not(tmp_path: Path) -> None:
    ran = run("--auditor", scripted(tmp_path, CLEAN))
    wrong = [name for name in FILES if FILES[name]["verdict"] != "clean"]
    assert ran.returncode == 1
    assert all(f"{name} " in ran.stdout for name in wrong)
    assert not any(name in ran.stdout for name in FILES if name not in wrong)
    assert f"{len(FILES) + 1} cases, {len(wrong) + 1} not as expected" in ran.stdout
    assert "verdict clean, expected violation" in ran.stdout and "does not find SA-3 by" in ran.stdout


def whole(**changes: Any) -> dict[str, Any]:
    """A report in its form, with some keys of its only violation or of itself changed."""
    one = {"clause": "RV-1", "who": "a" * 64, "round": 1, "evidence": ["b" * 64]}
    gap = {"what": "a body", "whose": None, "round": 1}
    one |= {key: changes.pop(key) for key in one.keys() & changes.keys()}
    session = {"session": "c" * 64, "rounds": [1], "violations": [one], "missing": [gap]}
    session |= {key: changes.pop(key) for key in session.keys() & changes.keys()}
    return {"verdict": "violation", "sessions": [session], "more": None} | changes


CASE = RUNNER.Case("x.log", "violation", frozenset({("RV-1", "a" * 64)}))


def words(report: object, code: int = 1) -> list[str]:
    return list(RUNNER.differs(CASE, RUNNER.Answer(code, json.dumps(report), "")))


def test_a_report_of_the_documented_form_is_compared_by_verdict_code_and_pairs() -> None:
    assert words(whole()) == []
    assert words(whole(), 0) == ["exit code 0 with the verdict violation"]
    assert words(whole(verdict="clean"), 0) == ["verdict clean, expected violation"]
    assert words(whole(clause="RV-2")) == ["does not find RV-1 by aaaaaaaa", "accuses aaaaaaaa of RV-2"]


@pytest.mark.parametrize(
    "report",
    [
        None,
        [],
        {"verdict": "clean"},
        {"verdict": "guilty", "sessions": []},
        {"verdict": ["clean"], "sessions": []},
        {"verdict": "clean", "sessions": [1]},
        {"verdict": "clean", "sessions": {}},
        whole(who="A" * 64),
        whole(who=3),
        whole(clause=""),
        whole(round=True),
        whole(evidence=[]),
        whole(evidence=["b"]),
        whole(missing=[{"what": "x"}]),
        whole(violations=[[]]),
        whole(violations=None),
        whole(session="c"),
        whole(rounds=[-1]),
    ],
)
def test_a_report_of_another_form_is_told_in_one_sentence(report: object) -> None:
    (said,) = words(report)
    assert said and "\n" not in said


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "it wrote nothing"),
        ("print('all is well')", "it wrote 'all is well'"),
        ("raise SystemExit('broken')", "on stderr 'broken'"),
        ("print('[' * 200000)", "its output is no JSON"),
        ("import sys; sys.stdout.buffer.write(bytes(range(256)))", "its output is no JSON"),
        ("print('{}'); raise SystemExit(7)", "no JSON object with a verdict"),
    ],
)
def test_an_auditor_that_writes_something_else_is_told_so(tmp_path: Path, text: str, says: str) -> None:
    ran = run("--only", "*RV-1*", "--auditor", scripted(tmp_path, text))
    assert ran.returncode == 1 and says in ran.stdout and not ran.stderr
    assert ran.stdout.endswith("1 cases, 1 not as expected\n") and len(ran.stdout.splitlines()) == 2


def test_who_never_answers_is_given_up(tmp_path: Path) -> None:
    sleeper = scripted(tmp_path, "import threading; threading.Event().wait()")
    ran = run("--only", "*/bad-RV-*", "--timeout", "0.1", "--auditor", sleeper)
    assert ran.returncode == 1 and ran.stdout.count("no answer within 0.1 s") == 3
    assert "3 cases, 3 not as expected; 7 not tried" in ran.stdout


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--auditor", "no-such-auditor-is-there"], "can't be run (No such file or directory)"),
        (["--auditor", str(SPECS)], "can't be run (Permission denied)"),
        (["--auditor", "a 'b"], "can't be split into words"),
        (["--auditor", ""], "--auditor is empty"),
        (["--only", "nothing"], "no file of the suite fits 'nothing'"),
        (["--timeout", "nan"], "invalid seconds value"),
        (["--timeout", "0"], "invalid seconds value"),
    ],
)
def test_who_can_t_be_asked_is_told_in_a_sentence(given: list[str], says: str) -> None:
    ran = run(*given)
    assert (ran.returncode, ran.stdout) == (2, "") and says in ran.stderr and "Traceback" not in ran.stderr


def test_a_suite_that_is_not_whole_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for content in (None, "{", "[]", '{"files": {"x.log": {"verdict": "clean", "violations": []}}}'):
        if content is not None:
            (tmp_path / "conformance.json").write_text(content)
        monkeypatch.setattr(RUNNER, "EXPECTED", tmp_path / "conformance.json")
        monkeypatch.setattr(RUNNER, "SPECS", tmp_path)
        with pytest.raises(RUNNER.Unasked, match="take a whole copy"):
            RUNNER.cases("*")


# ── the pages ────────────────────────────────────────────────────────────────────────────────────────────────────────

RULES = (SPECS / "audit" / "README.md").read_text("utf-8")


def rows(text: str) -> list[list[str]]:
    lines = [line.strip() for line in text.splitlines() if line.strip().startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_rules_say_of_every_told_clause_what_accuses() -> None:
    ids = {one for row in rows(RULES) for one in re.findall(r"[A-Z]{2}-[0-9]+", row[0])}
    assert ids == TOLD
    assert {row[0].strip("`") for row in rows(RULES)} >= {*GENERIC}


def test_the_rules_say_what_may_open_each_phase() -> None:
    written: dict[str, set[str]] = {}
    for kinds, allowed, *_ in (row for row in rows(RULES) if len(row) == 2):
        for kind in re.findall(r"`([a-z-]+\.[a-z]+)`", kinds):
            written[kind] = {*re.findall(r"`([a-z-]+\.[a-z]+)`", allowed), *(("",) if "nothing" in allowed else ())}
    assert written == {kind: set(allowed) for book in BOOKS.values() for kind, allowed in book.opens.items()}


def test_the_rules_say_what_must_be_equal_and_which_clause_allows_one() -> None:
    named = {row[0].strip("`"): row[1] for row in rows(RULES)}
    table = {once: re.findall(r"`([a-z]+)`", named[once]) for once in DISTINCT if once in named}
    assert {once: tuple(names) for once, names in table.items()} == dict(DISTINCT)
    said = re.sub(r"\s+", " ", RULES[RULES.index("The clause that is named:") : RULES.index("Of any other kind it is")])
    names = ("secagg", "allreduce", "mesh", "bucketed", "shamir-gram")
    for protocol, part in zip(names, re.split("in (?:allreduce|mesh|bucketed|shamir-gram) ", said), strict=True):
        told = dict[str, str]()
        for clause, kinds in re.findall(r"([A-Z]{2}-[0-9]+) ((?:`[a-z]+`(?: and )?)+)", part.replace(" for ", " ")):
            told |= dict.fromkeys(re.findall(r"`([a-z]+)`", kinds), clause)
        once = ((kind.split("."), clause) for kind, clause in BOOKS[protocol].once.items())
        assert told == {name: clause for (room, name), clause in once if protocol in ("secagg", room)}


def test_the_rules_name_what_an_abort_may_name() -> None:
    (row,) = [row for row in rows(RULES) if row[0] == "RV-7"]
    assert set(re.findall(r"`([A-Z]+)`", row[2])) == CODES


def commands(page: Path) -> list[tuple[str, list[str]]]:
    """The commands of a page that begin with a dollar sign, each with the lines that it is said to print."""
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"(?:^    .*\n)+", page.read_text("utf-8"), re.MULTILINE):
        for line in block.splitlines():
            if line.startswith("    $ "):
                found.append((line.removeprefix("    $ "), []))
            elif found and block.startswith("    $ "):
                found[-1][1].append(line.removeprefix("    "))
    return found


def test_the_commands_of_the_steps_print_what_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = SPECS / "audit" / "STEPS.md"
    monkeypatch.chdir(tmp_path)
    for folder in SPECS.glob("*/transcripts"):
        (tmp_path / folder.parent.name).mkdir()
        (tmp_path / folder.parent.name / "transcripts").symlink_to(folder)
    ran = 0
    for line, shown in commands(page):
        program_, *given = shlex.split(line)
        assert program_ == "decentra", line
        out = decentra(*given).out.splitlines()
        for expected in shown:
            pattern = ".*".join(map(re.escape, expected.split("…")))
            assert any(re.fullmatch(pattern, one) for one in out), expected
        ran += 1
    assert ran >= 6
