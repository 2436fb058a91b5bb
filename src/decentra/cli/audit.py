"""The body of ``decentra audit``: the verdict on transcripts, with what shows it.

Exit codes are its own: 0 clean, 1 a violation, 2 undecided, 3 nothing that could be audited.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from decentra.audit import Missing, Report, Verdict, Violation, audit, transcript
from decentra.audit.auditor import SUFFIX
from decentra.audit.findings import Finding
from decentra.audit.page import Courses, render
from decentra.audit.record import Round
from decentra.audit.report import BEYOND, NOTHING, SessionReport, visible
from decentra.audit.rules import BOOKS, GENERIC, PARTLY, UNTOLD
from decentra.charter.charter import Charter
from decentra.cli.report import emit, tell
from decentra.cli.self_audit import SelfAudit
from decentra.errors import LocalError

CODES = {Verdict.CLEAN: 0, Verdict.VIOLATION: 1, Verdict.UNDECIDED: 2}
WORST = (Verdict.VIOLATION, Verdict.UNDECIDED)
UNUSABLE = 3

DOCTYPE = b"<!doctype html>"
"""What a page begins with; nothing else is replaced by one."""

MOST_LINES = 12
"""Missing things that are listed one by one for each session; the JSON report has all."""


def run(
    paths: Sequence[Path],
    charters: Sequence[Path],
    room: Path | None,
    evidence: Path | None,
    html: Path | None,
    own: bool,
    as_json: bool,
) -> int:
    """Audit transcripts and print what came of it.

    Args:
        charters: charters beside those that the transcripts hold.
        room: the folder of the specs; the published ones by default.
        evidence: where each violation's entries are written, a transcript each.
        html: where a page for people is written.
        own: whether the paths are peers' own folders, whose rounds are computed again with the secrets that they kept.
    """
    try:
        known = [Charter.parse(_text(path), str(path)) for path in charters]
        if room is not None and not room.is_dir():
            raise LocalError(f"{room} is no folder of specs; give one that holds <protocol>/spec.toml")
        if html is not None:
            _check(html)
        if evidence is not None and evidence.exists() and not evidence.is_dir():
            raise LocalError(f"{evidence} is no folder; give --evidence one, which is made if it is not there")
        courses, replays = Courses(), SelfAudit(paths) if own else None
        watches = [*([] if html is None else [courses.watch]), *([] if replays is None else [replays.watch])]

        def watch(round_: Round, findings: Sequence[Finding]) -> None:
            for each in watches:
                each(round_, findings)

        report = audit(paths, charters=known, room=room, progress=None if as_json else _progress, watch=watch)
        if sys.stderr.isatty() and not as_json:
            print(file=sys.stderr)
        files = [] if evidence is None else _write(report, evidence)
        written = [f"evidence: {path}" for path in files]
        if evidence is not None and not files:
            written.append("evidence: none, since nobody broke a clause")
        if html is not None:
            _write_page(html, render(report, courses))
            written.append(f"page: {html}")
    except LocalError as error:
        return tell(as_json, str(error), "local", UNUSABLE)
    told, lines = report.as_dict(), [*_lines(report), *written]
    verdicts = [report.verdict]
    if replays is not None:
        told["self"] = replays.as_dict()
        lines += replays.lines()
        verdicts.append(replays.verdict)
    emit(as_json, told, map(visible, lines))
    return CODES[next((one for one in WORST if one in verdicts), Verdict.CLEAN)]


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LocalError(f"the charter {path} can't be read ({error})") from error


def _progress(read: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{read} entries read", end="", file=sys.stderr, flush=True)


def _write(report: Report, folder: Path) -> list[Path]:
    """Each violation's entries as a transcript that is audited like any other."""
    files = []
    for each in report.sessions:
        found = [one for one in each.findings if isinstance(one, Violation)]
        for place, one in enumerate(found):
            name = f"{place:03}-{one.clause}-round-{one.round}-{one.who.hex()[:8]}-{each.session.hex()[:8]}.log"
            path = folder / name
            if each.ground is not None:
                log = ((record.entry.packed, record.body) for record in one.evidence)
                transcript.write(path, each.ground.charter.to_toml(), log)
                files.append(path)
    return files


def _check(html: Path) -> None:
    """Refuse a place for the page before the transcripts are read, which may take long."""
    if html.suffix == SUFFIX:
        raise LocalError(f"{html} would be taken for a transcript; give --html a name that does not end in {SUFFIX}")
    try:
        is_folder, has_folder = html.is_dir(), html.parent.is_dir()
    except OSError as error:
        raise LocalError(f"the page can't be {html} ({error.strerror}); give --html another place") from error
    if is_folder:
        raise LocalError(f"{html} is a folder; give --html the name of a file in it, such as {html / 'report.html'}")
    if html.is_file() and not _is_page(html):
        raise LocalError(f"{html} is there and is no page of an audit; give --html another name, or remove it")
    if not has_folder:
        raise LocalError(f"there is no folder {html.parent} for the page; make it, or give --html another place")


def _is_page(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(DOCTYPE)) == DOCTYPE
    except OSError:
        return False


def _write_page(html: Path, page: str) -> None:
    try:
        html.write_text(page, "utf-8")
    except OSError as error:
        raise LocalError(f"the page {html} can't be written ({error.strerror}); give --html another place") from error


def _lines(report: Report) -> Iterator[str]:
    for each in report.sessions:
        yield from _session(each)
        yield ""
    for unreadable in report.unreadable:
        yield f"not read to its end: {unreadable.why}"
    if report.garbled:
        yield f"{report.garbled} entries are garbled: they accuse nobody, and what they said is missing"
    if not report.read and not report.unreadable:
        yield NOTHING
    yield f"verdict: {report.verdict.value}"
    yield f"no transcript shows: {'; '.join(BEYOND)}"


def _session(each: SessionReport) -> Iterator[str]:
    ground = each.ground
    if ground is None:
        yield f"session {each.session.hex()[:16]}: {each.entries} entries, and no charter of it; give it with --charter"
        return
    book, named = BOOKS[ground.spec.name], ground.spec.clauses
    first, last = (each.rounds[0], each.rounds[-1]) if each.rounds else (0, 0)
    between = f"{first} to {last}" if last > first else f"{first}"
    rounds = f"{_counted(len(each.rounds), 'round')} ({between})" if each.rounds else "no rounds"
    yield f"group {ground.charter.group.name!r}, epoch {ground.epoch}, {ground.spec.name} version {ground.spec.version}"
    yield f"  {_counted(each.entries, 'entry', 'entries')} in {rounds}; the group has {len(ground.members)} members"
    clauses = sorted(book.clauses, key=_by_number)
    yield f"  checked: {', '.join(one for one in clauses if one not in PARTLY)}; of any spec: {', '.join(GENERIC)}"
    yield f"  checked in part: {', '.join(one for one in clauses if one in PARTLY)}"
    beyond = [f"{one}, {UNTOLD[one]}" for one in sorted(named.keys() - book.clauses, key=_by_number)]
    yield f"  not told from transcripts: {'; '.join(beyond) or 'none'}"
    for one in each.findings:
        if isinstance(one, Violation):
            yield f"  VIOLATION {one.clause}, round {one.round}: {ground.name(one.who)} {one.says}"
            if one.clause in named:
                yield f"    {named[one.clause].says}"
            yield f"    shown by {_counted(len(one.evidence), 'signed entry', 'signed entries')}"
    if each.unsigned:
        yield f"  {each.unsigned} entries carry no signature of the member that they name: they accuse nobody"
    missing = [one for one in each.findings if isinstance(one, Missing)]
    for gap in missing[:MOST_LINES]:
        whose = "" if gap.whose is None else f"; {ground.name(gap.whose)} had it"
        yield f"  missing, round {gap.round}: {gap.what}{whose}"
    if len(missing) > MOST_LINES:
        yield f"  and {len(missing) - MOST_LINES} more that are missing"
    if missing:
        yield "  whoever has all transcripts of the members named, also of what they heard, can tell"


def _counted(number: int, one: str, more: str = "") -> str:
    return f"{number} {one if number == 1 else more or f'{one}s'}"


def _by_number(clause: str) -> tuple[str, int]:
    family, _, number = clause.partition("-")
    return family, int(number)
