"""What an audit came to, as one HTML page that needs nothing else: no network, no script, no cryptography to know.

Everything on it that comes from a transcript or a charter is escaped where it is put in (``markup``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import islice

from decentra.audit.findings import Verdict, Violation
from decentra.audit.page.course import MOST_SESSIONS, Courses
from decentra.audit.page.found import Judged, found, judged_in, missing
from decentra.audit.page.markup import Content, Markup, bdi, hashed, join, listed, note, table, tag
from decentra.audit.page.session import session, title
from decentra.audit.page.style import CSS
from decentra.audit.page.words import FOOT, GENERIC_SAYS, GLOSSARY, MEANS
from decentra.audit.report import BEYOND, Report, SessionReport
from decentra.audit.rules import BOOKS, GENERIC, PARTLY, UNTOLD

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""What a browser may load for this page: nothing."""

MOST_NAMED = 8
"""Names in the headline."""


def render(report: Report, courses: Courses) -> str:
    """The page of a report.

    Args:
        courses: what was kept of the rounds while they were judged.
    """
    judged = judged_in(report)
    shown = judged[:MOST_SESSIONS]
    sections: list[tuple[str, str, Markup]] = [
        ("given", "What was given", _given(report, judged)),
        ("found", "What was found", found(judged, courses)),
        ("missing", "What is missing, and whom to ask", missing(report, judged)),
        *((one.place, title(one.ground), session(one, courses.of(one.report.session))) for one in shown),
        ("clauses", "Which rules were checked", _clauses(judged)),
        ("beyond", "What no transcript can show", _beyond()),
        ("words", "What the words mean", _words()),
    ]
    contents = tag("ul", [tag("li", tag("a", name, href=f"#{place}")) for place, name, _ in sections])
    kicker = tag("p", "decentra audit", class_="kicker")
    body = (
        tag("header", kicker, _verdict(report, judged), tag("nav", contents, aria_label="Contents")),
        tag("main", [tag("section", tag("h2", name), content, id=place) for place, name, content in sections]),
        tag("footer", tag("p", FOOT)),
    )
    head = (
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", f"Audit: {report.verdict.value}"),
        tag("style", Markup(CSS)),
    )
    return f"<!doctype html>\n{tag('html', tag('head', head), tag('body', body), lang='en')}\n"


def _verdict(report: Report, judged: Sequence[Judged]) -> Markup:
    verdict = report.verdict
    parts = [tag("p", f"verdict: {verdict.value}", class_="said")]
    match verdict:
        case Verdict.CLEAN:
            said = "No rule was broken, as far as these transcripts show"
        case Verdict.VIOLATION:
            said = f"{_accused(judged)} broke the rules"
        case Verdict.UNDECIDED:
            said = "Nobody is accused, but not everything can be told"
    parts += (tag("h1", said), tag("p", MEANS[verdict]))
    if verdict is Verdict.VIOLATION and (report.missing or report.garbled or report.unreadable):
        beside = "Beside that something is missing, so this may not be all: see "
        parts.append(tag("p", beside, tag("a", "what is missing", href="#missing"), "."))
    return tag("div", parts, class_=f"verdict {verdict.value}")


def _accused(judged: Sequence[Judged]) -> str:
    names = {
        one.ground.name(violation.who): None
        for one in judged
        for violation in one.report.findings
        if isinstance(violation, Violation)
    }
    more = len(names) - MOST_NAMED
    return listed([*list(names)[:MOST_NAMED], *([f"{more:,} more"] if more > 0 else [])])


# ── what was given ───────────────────────────────────────────────────────────────────────────────────────────────────


def _given(report: Report, judged: Sequence[Judged]) -> Markup:
    facts = (
        ("entries read", report.read),
        ("sessions", len(report.sessions)),
        ("rounds judged", sum(len(one.report.rounds) for one in judged)),
        ("violations", len(report.violations)),
        ("things missing", len(report.missing)),
    )
    told = [tag("div", tag("dt", name), tag("dd", f"{number:,}")) for name, number in facts]
    parts = [tag("dl", told, class_="facts")]
    rows = [_row(one, at < MOST_SESSIONS) for at, one in enumerate(islice(judged, 4 * MOST_SESSIONS))]
    if rows:
        heads = ("group", "epoch", "protocol", "members", "rounds", "entries", "session")
        parts.append(table("The sessions that were judged, each entry counted once.", heads, rows))
    if len(judged) > MOST_SESSIONS:
        said = f"Of {len(judged):,} sessions the first {MOST_SESSIONS} are shown in full; --json tells of all."
        parts.append(note(said))
    return join(parts)


def _row(one: Judged, linked: bool) -> tuple[Content, ...]:
    ground = one.ground
    name = bdi(ground.charter.group.name)
    return (
        tag("a", name, href=f"#{one.place}") if linked else name,
        ground.epoch,
        f"{ground.spec.name} version {ground.spec.version}",
        listed([member.name for member in ground.charter.members]),
        _rounds(one.report),
        f"{one.report.entries:,}",
        hashed(one.report.session),
    )


def _rounds(each: SessionReport) -> str:
    if len(each.rounds) < 2:
        return f"1 (number {each.rounds[0]})" if each.rounds else "none"
    return f"{len(each.rounds):,} ({each.rounds[0]} to {each.rounds[-1]})"


# ── what was checked, and what can't be ──────────────────────────────────────────────────────────────────────────────


def _clauses(judged: Sequence[Judged]) -> Markup:
    """A table a protocol: every clause of its spec, and how far transcripts tell it."""
    by_spec: dict[bytes, list[Judged]] = {}
    for one in judged:
        by_spec.setdefault(one.ground.spec.source, []).append(one)
    parts: list[Content] = []
    for same in islice(by_spec.values(), MOST_SESSIONS):
        spec, held = same[0].ground.spec, BOOKS[same[0].ground.spec.name].clauses
        broken = Counter(
            violation.clause for one in same for violation in one.report.findings if isinstance(violation, Violation)
        )
        says = {clause: spec.clauses[clause].says for clause in sorted(spec.clauses, key=_by_number)}
        says |= {rule: GENERIC_SAYS[rule] for rule in GENERIC}
        rows = [(clause, said, _told(clause, broken[clause], clause in held)) for clause, said in says.items()]
        caption = "Every clause of the spec and of those it builds on, then the rules that hold for any spec."
        parts += (
            tag("h3", f"{spec.name} version {spec.version}"),
            tag("p", "What it is for: ", bdi(spec.says)),
            table(caption, ("rule", "says", "told"), rows),
        )
    return join(parts) if parts else tag("p", "None: no session whose charter is known was given.")


def _told(clause: str, broken: int, held: bool) -> Markup:
    """How far transcripts tell a clause, and how often it was broken."""
    if clause in UNTOLD or not (held or clause in GENERIC):
        said, class_, more = "not told", "no", UNTOLD.get(clause, "no rule looks at it")
    elif clause in PARTLY:
        said, class_, more = "in part", "part", PARTLY[clause]
    else:
        said, class_, more = "checked", "yes", ""
    told = tag("span", said, class_=f"told {class_}")
    found = tag("span", f" ▲ broken {broken:,}×", class_="broke") if broken else None
    return join(told, f": {more}" if more else None, found)


def _by_number(clause: str) -> tuple[str, int]:
    family, _, number = clause.partition("-")
    return family, int(number)


def _beyond() -> Markup:
    said = tag("p", "Whoever reads them, and however many there are, transcripts don't show:")
    return join(said, tag("ul", [tag("li", one) for one in BEYOND]))


def _words() -> Markup:
    return tag("dl", [join(tag("dt", word), tag("dd", says)) for word, says in GLOSSARY], class_="words")
