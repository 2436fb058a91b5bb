"""Of an audit's page: what was found, with what shows it, and what is missing, with whom to ask for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from decentra.audit.findings import Missing, Violation
from decentra.audit.ground import Ground
from decentra.audit.page.course import Courses
from decentra.audit.page.markup import Content, Markup, bdi, counted, hashed, join, note, table, tag
from decentra.audit.page.words import GAPS, GARBLED, GENERIC_SAYS, UNKNOWN_SESSION, UNSIGNED
from decentra.audit.report import NOTHING, Report, SessionReport
from decentra.types import PeerId

MOST_VIOLATIONS = 60
"""Violations that are explained, in the order in which they were found; the JSON report has all."""
MOST_EVIDENCE = 24
"""Entries of a violation's evidence that are listed; what convinces has a dozen."""
MOST_GAPS, MOST_THINGS = 40, 5
"""Members of whom something is missing, and things that are named of each."""
MOST_UNKNOWN = 20
"""Sessions without a charter, and unreadable files, that are listed one by one."""


class Judged(NamedTuple):
    """A session that was judged, and the name of its place on the page."""

    place: str
    report: SessionReport
    ground: Ground


def judged_in(report: Report) -> list[Judged]:
    """The sessions of a report whose charters are known."""
    known = (each for each in report.sessions if each.ground is not None)
    return [Judged(f"s{at}", each, each.ground) for at, each in enumerate(known, 1) if each.ground is not None]


# ── what was found ───────────────────────────────────────────────────────────────────────────────────────────────────


def found(judged: Sequence[Judged], courses: Courses) -> Markup:
    """Every violation: whose, the clause's sentence, what was done, and the entries that show it."""
    all_ = [
        (one, violation)
        for one in judged
        for violation in one.report.findings
        if isinstance(violation, Violation)
    ]
    if not all_:
        return tag("p", "No member broke a rule that these transcripts can show.")
    parts = [_violation(one, violation, _linked(one, violation, courses)) for one, violation in all_[:MOST_VIOLATIONS]]
    if len(all_) > MOST_VIOLATIONS:
        parts.append(note(f"{len(all_) - MOST_VIOLATIONS:,} more violations are left out here; --json lists all."))
    command = tag("code", "decentra audit PATH... --evidence DIR")
    parts.append(note(command, " writes each violation's entries as a file that convinces whoever has nothing else."))
    return join(parts)


def _linked(one: Judged, violation: Violation, courses: Courses) -> str | None:
    """The place of a violation's round on the page, where it is shown in full."""
    course = courses.of(one.report.session)
    kept = course is not None and violation.round in {detail.number for detail in course.details()}
    return f"#{one.place}-r{violation.round}" if kept else None


def _violation(of: Judged, one: Violation, link: str | None) -> Markup:
    ground, name = of.ground, of.ground.name(one.who)
    clause = ground.spec.clauses.get(one.clause)
    rule = GENERIC_SAYS.get(one.clause, "") if clause is None else clause.says
    whence = f"{one.clause}, which holds for any spec" if clause is None else f"clause {one.clause} of the spec"
    where = f"round {one.round}"
    rows = [
        (
            record.kind,
            ground.name(record.author),
            record.entry.round,
            f"{record.entry.seq} of boot {record.entry.boot}",
            hashed(record.entry.hash),
        )
        for record in one.evidence[:MOST_EVIDENCE]
    ]
    more = len(one.evidence) - len(rows)
    caption = f"Shown by {counted(len(one.evidence), 'signed entry', 'signed entries')}"
    caption += f", of which {more} are left out here" if more else ""
    return tag(
        "article",
        tag("h3", tag("span", "▲ ", class_="broke", aria_hidden="true"), f"{name} broke {one.clause} in {where}"),
        tag("p", f"The rule ({whence}):"),
        tag("blockquote", tag("p", rule)),
        tag("p", "What it did: ", tag("strong", name), " ", bdi(one.says), "."),
        tag("p", "Where: ", bdi(ground.charter.group.name), f", epoch {ground.epoch}, ", _anchor(where, link), "."),
        table(caption, ("entry", "signed by", "round", "number", "hash"), rows),
    )


def _anchor(said: str, link: str | None) -> Markup:
    return tag("span", said) if link is None else tag("a", said, href=link)


# ── what is missing ──────────────────────────────────────────────────────────────────────────────────────────────────


def missing(report: Report, judged: Sequence[Judged]) -> Markup:
    """What leaves an audit undecided, and who can mend that."""
    rows = list(_gaps(judged))
    parts: list[Markup] = []
    if rows:
        heads = ("ask", "for", "what is missing")
        parts += (tag("p", GAPS), table("What is missing, by whom to ask.", heads, rows[:MOST_GAPS]))
    if len(rows) > MOST_GAPS:
        parts.append(note(f"{len(rows) - MOST_GAPS:,} more rows are left out here; --json lists all."))
    if items := [tag("li", one) for one in _doubts(report, judged)]:
        parts.append(tag("ul", items))
    return join(parts) if parts else tag("p", "Nothing: all that the given entries refer to is there.")


def _gaps(judged: Sequence[Judged]) -> Iterator[tuple[Content, ...]]:
    """Whom to ask, for which transcript, and what is in it."""
    for _, each, ground in judged:
        by_member: dict[PeerId | None, list[Missing]] = {}
        for one in each.findings:
            if isinstance(one, Missing):
                by_member.setdefault(one.whose, []).append(one)
        for whose, gaps in by_member.items():
            things = "; ".join(f"{one.what} (round {one.round})" for one in gaps[:MOST_THINGS])
            more = f"; and {len(gaps) - MOST_THINGS:,} more" if len(gaps) > MOST_THINGS else ""
            name = "all other members" if whose is None else ground.name(whose)
            group = bdi(ground.charter.group.name)
            which = join("all its transcripts of ", group, f", epoch {ground.epoch}, with what it heard")
            yield name, which, bdi(things + more)


def _doubts(report: Report, judged: Sequence[Judged]) -> Iterator[Content]:
    if not report.read and not report.unreadable:
        yield f"{NOTHING[0].upper()}{NOTHING[1:]}."
    unknown = [each for each in report.sessions if each.ground is None]
    for each in unknown[:MOST_UNKNOWN]:
        said = f", {counted(each.entries, 'entry', 'entries')}: {UNKNOWN_SESSION}"
        yield join("Session ", hashed(each.session), said)
    if len(unknown) > MOST_UNKNOWN:
        yield f"{len(unknown) - MOST_UNKNOWN:,} more sessions of which no charter is known."
    for one in report.unreadable[:MOST_UNKNOWN]:
        yield join("Not read to its end: ", bdi(one.why), ".")
    if len(report.unreadable) > MOST_UNKNOWN:
        yield f"{len(report.unreadable) - MOST_UNKNOWN:,} more files were not read to their end."
    if report.garbled:
        yield f"{counted(report.garbled, 'garbled entry', 'garbled entries')}: {GARBLED}"
    for _, each, ground in judged:
        if each.unsigned:
            where = (bdi(ground.charter.group.name), f", epoch {ground.epoch}: ")
            yield join("In ", where, counted(each.unsigned, "entry", "entries"), f" {UNSIGNED}")
