"""Of an audit's page: one session, with its strip of all rounds, its members, and the rounds that are shown in full."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from decentra.audit.findings import Finding, Violation
from decentra.audit.ground import Ground
from decentra.audit.page.course import EDGE, MOST_BROKEN, Course
from decentra.audit.page.detail import Detail, Ending
from decentra.audit.page.found import Judged
from decentra.audit.page.markup import Content, Markup, bdi, counted, hashed, join, listed, note, size, table, tag
from decentra.audit.page.timeline import Marks, lanes, legend, strip
from decentra.audit.page.words import AXIS, BYTES, ENDINGS, MARKED, PHASES
from decentra.types import PeerId


def title(ground: Ground) -> Markup:
    """A session's heading."""
    return join("Timeline of ", bdi(ground.charter.group.name), f", epoch {ground.epoch}")


def session(of: Judged, course: Course | None) -> Markup:
    """All that the page shows of a session."""
    if course is None or not course.rounds:
        return tag("p", "None of its rounds could be judged.")
    findings, details = of.report.findings, course.details()
    parts: list[Content] = [
        tag("p", AXIS),
        tag("h3", "All rounds"),
        strip(course, findings, "All rounds, a lane a member"),
        legend(),
    ]
    if course.width > 1:
        said = f"A column stands for {course.width} rounds, and shows the weightiest that any of them tells."
        parts.append(note(f"There are {course.rounds:,} rounds. {said}"))
    marks = Marks.of(findings)
    parts += (
        tag("h3", "Members"),
        _members(course, findings),
        tag("h3", "Rounds in full"),
        _shown(course, details, findings),
        _phases(course.ground),
        [_round(of.place, course, detail, marks, findings, detail is details[-1]) for detail in details],
    )
    return join(parts)


def _members(course: Course, findings: Sequence[Finding]) -> Markup:
    broke = Counter(one.who for one in findings if isinstance(one, Violation))
    gaps = Counter(one.whose for one in findings if not isinstance(one, Violation))
    rows = [
        (
            member.name,
            hashed(member.id, 8),
            f"{tally.entries:,}",
            size(tally.size),
            f"{tally.rounds:,}",
            f"{tally.summed:,}",
            f"{tally.left_out:,}",
            tag("span", f"▲ {broke[member.id]:,}", class_="broke") if broke[member.id] else 0,
            f"{gaps[member.id]:,}",
        )
        for member, tally in zip(course.ground.charter.members, course.tallies, strict=True)
    ]
    heads = ("member", "id", "entries", "bytes", "rounds", "in the sum", "left out", "violations", "missing")
    caption = f"What each signed, and in how many rounds its update is in the sum or left out of it. {BYTES}"
    return table(caption, heads, rows, "stacks numbers")


def _shown(course: Course, details: Sequence[Detail], findings: Sequence[Finding]) -> Markup:
    """Which rounds are shown, and what was left out."""
    if course.rounds == len(details):
        return note("All rounds of the session are shown.")
    broken = {one.round for one in findings if isinstance(one, Violation)} - {detail.number for detail in details}
    which = f"the first {EDGE}, the last {EDGE}, and up to {MOST_BROKEN} with violations"
    others = f"The other {course.rounds - len(details):,} are in the strip only"
    left = f"; {counted(len(broken), 'of them has', 'of them have')} violations" if broken else ", and broke no rule"
    return note(f"Of {course.rounds:,} rounds {len(details)} are shown in full: {which}. {others}{left}.")


def _phases(ground: Ground) -> Markup:
    told = [PHASES[name] for name in ("ready", *(phase for phase, _ in ground.spec.phases)) if name in PHASES]
    words = tag("dl", [join(tag("dt", head), tag("dd", says)) for head, says in told], class_="words")
    return tag("details", tag("summary", "What happens in each phase"), words)


# ── a round ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _round(
    place: str, course: Course, detail: Detail, marks: Marks, findings: Sequence[Finding], unfolded: bool
) -> Markup:
    """A round in full; it is unfolded as well where somebody broke a clause in it."""
    ground = course.ground
    broke: dict[PeerId, dict[str, None]] = {}
    for one in findings:
        if isinstance(one, Violation) and one.round == detail.number:
            broke.setdefault(one.who, {})[one.clause] = None
    accused = "; ".join(f"{ground.name(who)} broke {listed(clauses)}" for who, clauses in broke.items())
    head = (
        tag("h4", f"Round {detail.number}"),
        f" {ENDINGS[detail.ending]}",
        tag("span", f" ▲ {accused}", class_="broke") if broke else None,
    )
    parts = (
        tag("summary", head),
        tag("p", _result(ground, detail)),
        _ended(ground, detail),
        lanes(course, detail, marks, broke, f"Round {detail.number}, a lane a member"),
        note(MARKED) if broke else None,
        _votes(ground, detail),
    )
    return tag("details", parts, id=f"{place}-r{detail.number}", open="" if broke or unfolded else None)


def _result(ground: Ground, detail: Detail) -> str:
    summed, left_out = (listed(map(ground.name, peers)) for peers in (detail.summed, detail.left_out))
    apart = f" Left out: {left_out}." if detail.left_out else ""
    match detail.ending:
        case Ending.SUMMED:
            return f"The group certified a sum of the updates of {summed}.{apart}"
        case Ending.LOST:
            return f"The group certified that the sum of the updates of {summed} is lost: nobody gets it.{apart}"
        case Ending.FAILED:
            return "The group certified that too few updates arrived whole: the round fails, and there is no sum."
    if detail.summed:
        return f"It is certified that the sum is of {summed}; that it came out does not show in what was given.{apart}"
    return "That anything was certified does not show in what was given."


def _ended(ground: Ground, detail: Detail) -> Markup | None:
    said = []
    for one in detail.ended:
        blamed = f", blaming {listed(map(ground.name, one.blamed))}" if one.blamed else ""
        said.append(tag("li", ground.name(one.who), " by ", bdi(one.clause), blamed, ": ", tag("q", bdi(one.reason))))
    if not said:
        return None
    return join(tag("p", "Who ended the round, and why; these are their words, and need not be true:"), tag("ul", said))


def _votes(ground: Ground, detail: Detail) -> Markup:
    if not detail.ballots:
        return note("What was given holds no votes of this round.")

    def named(peers: Sequence[PeerId]) -> str:
        everyone = len(peers) == len(ground.members)
        return f"all {len(peers)}" if everyone else listed(map(ground.name, peers))

    rows = [
        (
            bdi(one.topic),
            one.view,
            bdi(one.value),
            named(one.proposed),
            named(one.prepared),
            named(one.committed),
            tag("span", "certified", class_="told yes") if one.certified else "not certified",
        )
        for one in detail.ballots
    ]
    heads = ("vote on", "view", "for", "proposed by", "prepared by", "committed by", "came to")
    caption = "Votes. A value that enough members committed to in one view is certified."
    more = note(f"{detail.more_ballots:,} more rows are left out here.") if detail.more_ballots else None
    return join(table(caption, heads, rows), more)
