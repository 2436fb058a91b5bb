"""Runs an auditor over the conformance suite: ``python specs/conformance.py --auditor "my-auditor --json"``.

It needs nothing but Python and this folder. What an auditor must answer, and what is compared, says ``conformance.md``.
Exit codes: 0 it says what is expected of every file; 1 it does not; 2 it could not be asked.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

SPECS = Path(__file__).resolve().parent
EXPECTED = SPECS / "conformance.json"

CODES = {"clean": 0, "violation": 1, "undecided": 2}
UNUSABLE = 3
NOWHERE = "a path where nothing is"
"""A case beside the files, which shows the last exit code."""

MOST_TIMEOUTS = 3
"""So many files in a row without an answer, and the others are not tried."""

SHOWN = 60
"""Characters of somebody's output in a sentence of ours."""


class Unasked(Exception):
    """The auditor could not be asked at all."""


@dataclass(frozen=True)
class Case:
    """A file, and what must be said of it.

    Attributes:
        violations: pairs of a clause and the hexadecimal id of who broke it.
    """

    name: str
    verdict: str
    violations: frozenset[tuple[str, str]]


@dataclass(frozen=True)
class Answer:
    """What an auditor said of a file."""

    code: int
    output: str
    errors: str


def cases(pattern: str) -> list[Case]:
    """Those of the suite whose names fit, in order. Raises Unasked where there are none."""
    try:
        files: dict[str, Any] = json.loads(EXPECTED.read_text("utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Unasked(f"the suite {EXPECTED} can't be read ({error}); take a whole copy of the folder") from error
    found = [
        Case(name, each["verdict"], frozenset((clause, who) for clause, who in each["violations"]))
        for name, each in files.items()
        if fnmatch(name, pattern)
    ]
    lost = [case.name for case in found if not (SPECS / case.name).is_file()]
    if lost:
        raise Unasked(f"{len(lost)} files of the suite are not there, {lost[0]} first; take a whole copy of the folder")
    if fnmatch(NOWHERE, pattern):
        found.append(Case(NOWHERE, "", frozenset()))
    if not found:
        raise Unasked(f"no file of the suite fits {pattern!r}; a pattern that does is '*/bad-SA-3*'")
    return found


def ask(command: Sequence[str], case: Case, timeout: float) -> Answer | None:
    """What an auditor says of a file; None where it says nothing in time. Raises Unasked where it can't be run."""
    line, pipe = [*command, str(SPECS / case.name)], subprocess.PIPE
    try:
        asked = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, start_new_session=True)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise Unasked(f"the auditor {command[0]!r} can't be run ({why}); give its whole command line") from error
    with asked:
        try:
            output, errors = asked.communicate(timeout=timeout)
        except BaseException as error:
            with suppress(ProcessLookupError):
                os.killpg(asked.pid, signal.SIGKILL)  # with whatever it started, which would hold the pipes open
            if isinstance(error, subprocess.TimeoutExpired):
                return None
            raise
    return Answer(asked.returncode, output.decode("utf-8", "replace"), errors.decode("utf-8", "replace"))


# ── the answer ───────────────────────────────────────────────────────────────────────────────────────────────────────


def is_hash(value: object) -> bool:
    return isinstance(value, str) and len(value) == 64 and not set(value) - set("0123456789abcdef")


def is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


Form = Mapping[str, Callable[[Any], bool]]
"""What a value must be, by its key; other keys are passed over."""

SESSION: Form = {
    "session": is_hash,
    "rounds": lambda value: isinstance(value, list) and all(map(is_number, value)),
    "violations": lambda value: isinstance(value, list),
    "missing": lambda value: isinstance(value, list),
}
VIOLATION: Form = {
    "clause": lambda value: isinstance(value, str) and bool(value),
    "who": is_hash,
    "round": is_number,
    "evidence": lambda value: isinstance(value, list) and bool(value) and all(map(is_hash, value)),
}
MISSING: Form = {
    "what": lambda value: isinstance(value, str),
    "whose": lambda value: value is None or is_hash(value),
    "round": is_number,
}


def wrong_form(report: Any) -> str:
    """What a report lacks of the documented form; empty where it has it."""
    if not isinstance(report, dict) or report.get("verdict") not in list(CODES):
        return f"its output is no JSON object with a verdict out of {', '.join(CODES)}"
    sessions = report.get("sessions")
    if not isinstance(sessions, list):
        return "its report has no list of sessions"
    for session in sessions:
        for what, items, form in (
            ("a session", [session], SESSION),
            ("a violation", session.get("violations") if isinstance(session, dict) else [], VIOLATION),
            ("what is missing", session.get("missing") if isinstance(session, dict) else [], MISSING),
        ):
            for item in items if isinstance(items, list) else []:
                for key, fits in form.items():
                    if not isinstance(item, dict) or not fits(item.get(key)):
                        return f"{what} in its report has no {key!r} of the documented form"
    return ""


def said(report: Any) -> frozenset[tuple[str, str]]:
    """The pairs of clause and peer in a report that has its form."""
    return frozenset((one["clause"], one["who"]) for each in report["sessions"] for one in each["violations"])


def briefly(text: str) -> str:
    line = " ".join(text.split())
    return repr(line if len(line) <= SHOWN else line[: SHOWN - 1] + "…")


def differs(case: Case, answer: Answer) -> Iterator[str]:
    """What an answer has otherwise than is expected, a few words each."""
    if case.name == NOWHERE:
        if answer.code != UNUSABLE:
            yield f"exit code {answer.code}, expected {UNUSABLE}: nothing can be audited there"
        return
    try:
        report = json.loads(answer.output)
    except (ValueError, RecursionError):
        wrote = f"wrote {briefly(answer.output)}" if answer.output.strip() else "wrote nothing"
        errors = f", and on stderr {briefly(answer.errors)}" if answer.errors.strip() else ""
        yield f"its output is no JSON: exit code {answer.code}, it {wrote}{errors}"
        return
    if flaw := wrong_form(report):
        yield flaw
        return
    if report["verdict"] != case.verdict:
        yield f"verdict {report['verdict']}, expected {case.verdict}"
    if answer.code != CODES[report["verdict"]]:
        yield f"exit code {answer.code} with the verdict {report['verdict']}"
    found = said(report)
    for clause, who in sorted(case.violations - found):
        yield f"does not find {clause} by {who[:8]}"
    for clause, who in sorted(found - case.violations):
        yield f"accuses {who[:8]} of {briefly(clause)[1:-1]}"


# ── the run ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def run(command: Sequence[str], chosen: Sequence[Case], timeout: float) -> tuple[list[tuple[str, str]], int]:
    """Ask about the files; what was not as expected, as pairs of a file and a few words, and how many were tried."""
    failures: list[tuple[str, str]] = []
    place = silent = 0
    for place, case in enumerate(chosen, 1):
        if sys.stderr.isatty():
            print(f"\r{place} of {len(chosen)}", end="", file=sys.stderr, flush=True)
        answer = ask(command, case, timeout)
        silent = silent + 1 if answer is None else 0
        if answer is None:
            failures.append((case.name, f"no answer within {timeout:g} s"))
        else:
            failures += [(case.name, words) for words in differs(case, answer)]
        if silent == MOST_TIMEOUTS:
            break
    if sys.stderr.isatty():
        print("\r", end="", file=sys.stderr)
    return failures, place


def own() -> list[str]:
    """Our own auditor, if it is installed here."""
    if importlib.util.find_spec("decentra") is None:
        raise Unasked("decentra is not installed here; name another auditor with --auditor")
    return [sys.executable, "-m", "decentra.cli", "audit", "--json"]


def chosen_command(line: str | None) -> list[str]:
    """The auditor's command, in words."""
    if line is None:
        return own()
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise Unasked(f"--auditor {line!r} can't be split into words ({error})") from error
    if not words:
        raise Unasked("--auditor is empty; give the command that a path is added to")
    return words


def seconds(text: str) -> float:
    """A time that is one."""
    value = float(text)
    if not math.isfinite(value) or value <= 0:
        raise ValueError(text)
    return value


def main() -> int:
    """Run the suite and print what is not as expected."""
    reader = argparse.ArgumentParser(description="Hold an auditor against the conformance suite (conformance.md).")
    reader.add_argument("--auditor", metavar="CMD", help="its command line, to which a path is added; ours by default")
    reader.add_argument("--only", metavar="GLOB", default="*", help="files to try, such as '*/bad-SA-*'")
    reader.add_argument("--timeout", metavar="SECONDS", type=seconds, default=60.0, help="for each file (60)")
    given = reader.parse_args()
    try:
        chosen = cases(given.only)
        failures, tried = run(chosen_command(given.auditor), chosen, given.timeout)
    except Unasked as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    width = max((len(name) for name, _ in failures), default=0)
    for name, words in failures:
        print(f"{name:{width}}  {words}")
    bad = len({name for name, _ in failures})
    left = f"; {len(chosen) - tried} not tried, since {MOST_TIMEOUTS} in a row had no answer"
    print(f"{tried} cases, {f'{bad} not' if bad else 'all'} as expected{left if tried < len(chosen) else ''}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
