"""The timeline of a session: a strip of all rounds with a lane a member, and the lanes of single rounds by phase.

Nothing that is signed has a time, so the axis is rounds, then phases, then the order in which each member signed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from decentra.audit.findings import Finding, Violation
from decentra.audit.page.course import Column, Course, Seen
from decentra.audit.page.detail import ANY, UNKNOWN, VOTE, Detail, Ending, Lane, Step
from decentra.audit.page.markup import Content, Markup, counted, listed, size, tag
from decentra.audit.page.words import PHASES
from decentra.audit.rules.certify import COMMIT, PREPARE
from decentra.types import PeerId

WIDEST, WIDTH, HEIGHT = 36, 900, 20
"""Pixels of a column at most, of a whole strip about, and of a lane."""
TICK = 56
"""Pixels between two round numbers on the axis, at least."""
MARK = 10
"""Pixels of the mark of a violation, at least: it must be seen in the narrowest column."""

GROUNDS = (
    "rendezvous.roster",
    "secagg.context",
    *(f"{name}.endorse" for name in ("secagg", "allreduce", "mesh", "bucketed", "shamir-gram")),
)
"""Kinds of entries by which evidence says under which roster its author acted. Votes, of whose form no clause but
certify's own speaks, say beside them what is certified."""

LEGEND: tuple[tuple[Seen, str], ...] = (
    (Seen.SUMMED, "its update is in the sum"),
    (Seen.LEFT_OUT, "it began the round, and its update is left out"),
    (Seen.SIGNED, "it signed something, and no sum with it is shown"),
    (Seen.MISSING, "something of it is missing"),
    (Seen.BROKE, "it broke a rule"),
    (Seen(0), "it signed nothing"),
)

SHAPES: Mapping[Seen, tuple[str, int, int]] = {
    Seen.BROKE: ("s-broke", 2, 16),
    Seen.MISSING: ("s-missing", 6, 12),
    Seen.LEFT_OUT: ("s-left", 10, 8),
    Seen.SUMMED: ("s-summed", 2, 16),
    Seen.SIGNED: ("s-signed", 13, 5),
    Seen(0): ("s-none", 17, 1),
}
"""A mark's class, its top and its height: who sees no colours tells them apart by height. The weightiest come first."""


@dataclass(frozen=True)
class Marks:
    """Which entries show a violation: by hash the clauses that their own author broke, and those that others cite."""

    shows: Mapping[bytes, tuple[str, ...]]
    cited: frozenset[bytes]

    @classmethod
    def of(cls, findings: Iterable[Finding]) -> Marks:
        shows, cited = dict[bytes, tuple[str, ...]](), set[bytes]()
        for one in findings:
            if not isinstance(one, Violation):
                continue
            own = [record for record in one.evidence if record.author == one.who]
            beside = GROUNDS if one.clause.startswith("CE-") else (*GROUNDS, PREPARE, COMMIT)
            acts = [record for record in own if record.kind not in beside] or own
            for record in acts:
                known = shows.get(record.entry.hash, ())
                shows[record.entry.hash] = known if one.clause in known else (*known, one.clause)
            cited |= {record.entry.hash for record in one.evidence}
        return cls(shows, frozenset(cited - shows.keys()))

    def clauses(self, step: Step) -> tuple[str, ...]:
        return tuple(dict.fromkeys(clause for hashed in step.hashes for clause in self.shows.get(hashed, ())))


# ── the strip ────────────────────────────────────────────────────────────────────────────────────────────────────────


def strip(course: Course, findings: Sequence[Finding], label: str) -> Markup:
    """All rounds of a session: a lane a member, then how the rounds ended and how much was signed in them."""
    columns = course.strip(findings)
    width = max(2, min(WIDEST, WIDTH // max(1, len(columns))))
    rows = [tag("tr", tag("th", "round", scope="col"), tag("td", _axis(columns, width)))]
    for place, member in enumerate(course.ground.charter.members):
        seen = [Seen(column.seen[place]) for column in columns]
        rows.append(_row(member.name, _lane(seen, width, _heard(member.name, course, place, seen))))
    rows.append(_row("result", _lane([_result(column) for column in columns], width, _results(columns))))
    rows.append(_row("bytes signed", _bars(columns, width)))
    head, *body = rows
    lanes = tag("table", tag("thead", head), tag("tbody", body), class_="lanes strip")
    return scroller(lanes, label)


def scroller(content: Markup, label: str) -> Markup:
    """What may be wider than the screen, and is moved sideways by itself, by keys as well."""
    return tag("div", content, class_="scroll", role="region", aria_label=label, tabindex=0)


def legend() -> Markup:
    """What the marks of a strip mean."""
    marks = [tag("li", _svg(14, _path(seen, [(0, 14)]), None), tag("span", said)) for seen, said in LEGEND]
    return tag("ul", marks, class_="legend")


def _row(name: str, svg: Markup) -> Markup:
    return tag("tr", tag("th", name, scope="row"), tag("td", svg))


def _svg(width: int, content: Content, label: str | None) -> Markup:
    heard = {"aria_hidden": "true"} if label is None else {"role": "img", "aria_label": label}
    return tag("svg", content, width=width, height=HEIGHT, viewBox=f"0 0 {width} {HEIGHT}", **heard)


def _axis(columns: Sequence[Column], width: int) -> Markup:
    longest = 8 * max((len(str(column.first)) for column in columns), default=1)
    apart = 1 if longest <= width else -(-max(TICK, longest) // width)
    ticks = [tag("text", columns[at].first, x=at * width, y=14) for at in range(0, len(columns), apart)]
    return _svg(len(columns) * width + longest, ticks, "the number of the first round of a column, now and then")


def _lane(seen: Sequence[Seen], width: int, label: str) -> Markup:
    runs: dict[Seen, list[tuple[int, int]]] = {}
    at = 0
    for shape, together in groupby(_weightiest(one) for one in seen):
        count = len(list(together))
        if width < 4:
            runs.setdefault(shape, []).append((at * width, count * width))
        else:
            runs.setdefault(shape, []).extend(((at + step) * width, width - 1) for step in range(count))
        at += count
    drawn = [_path(shape, runs[shape]) for shape in reversed(tuple(SHAPES)) if shape in runs]
    return _svg(max(1, len(seen) * width), drawn, label)


def _weightiest(seen: Seen) -> Seen:
    """What is drawn of all that a column tells."""
    return next(shape for shape in SHAPES if shape in seen)


def _path(shape: Seen, places: Iterable[tuple[int, int]]) -> Markup:
    class_, top, height = SHAPES[shape]
    if shape is Seen.BROKE:
        drawn = [_triangle(left + wide / 2, max(MARK, wide)) for left, wide in places]
    else:
        drawn = [f"M{left} {top}h{wide}v{height}h-{wide}z" for left, wide in places]
    return tag("path", class_=class_, d=Markup("".join(drawn)))


def _triangle(middle: float, wide: int) -> str:
    return f"M{middle - wide / 2:g} 18h{wide}l-{wide / 2:g}-16z"


def _result(column: Column) -> Seen:
    count = dict(zip(Ending, column.endings, strict=True))
    if count[Ending.LOST] or count[Ending.FAILED]:
        return Seen.LEFT_OUT
    return Seen.SIGNED if count[Ending.ENDED] or count[Ending.OPEN] else Seen.SUMMED


def _results(columns: Sequence[Column]) -> str:
    total = [sum(column.endings[place] for column in columns) for place, _ in enumerate(Ending)]
    summed, lost, failed, ended, open_ = total
    return f"{summed} rounds gave a sum, {lost + failed} ended without one by agreement, {ended + open_} show no result"


def _heard(name: str, course: Course, place: int, seen: Sequence[Seen]) -> str:
    """A lane for who hears it read."""
    tally = course.tallies[place]
    said = f"{name}: signed in {tally.rounds} of {course.rounds} rounds, in the sum of {tally.summed}"
    said += f", left out of {tally.left_out}" if tally.left_out else ""
    broke = sum(Seen.BROKE in one for one in seen)
    return said + (f", broke a rule in {counted(broke, 'column')} of this strip" if broke else "")


def _bars(columns: Sequence[Column], width: int) -> Markup:
    sizes = [sum(column.sizes) for column in columns]
    most = max(sizes, default=0) or 1
    gap = 1 if width >= 4 else 0
    drawn = [
        f"M{at * width} {HEIGHT}h{width - gap}v-{max(1, round(18 * one / most))}h-{width - gap}z"
        for at, one in enumerate(sizes)
    ]
    label = f"bytes signed in each column, at most {size(most)}"
    return _svg(max(1, len(columns) * width), tag("path", class_="s-signed", d=Markup("".join(drawn))), label)


# ── a round ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def lanes(course: Course, detail: Detail, marks: Marks, broke: Mapping[PeerId, Iterable[str]], label: str) -> Markup:
    """The lanes of one round: what each member signed, in columns by phase, and how much that is."""
    ground = course.ground
    used = {step.phase for lane in detail.lanes for step in lane.steps}
    own = [phase for phase, _ in ground.spec.phases]
    order = ["ready", *(["aligned"] if "aligned" in used else []), *own]
    order += [phase for phase in (VOTE, ANY, UNKNOWN) if phase in used]
    order += sorted(used - {*order})
    heads: list[Markup] = [tag("th", "member", scope="col")]
    for phase in order:
        head, says = PHASES.get(phase, (phase, None))
        heads.append(tag("th", head, scope="col", title=says))
    heads += [tag("th", "signed", scope="col"), tag("th", "bytes", scope="col")]
    most = max((lane.size for lane in detail.lanes), default=0) or 1
    rows = []
    for member, lane in zip(ground.charter.members, detail.lanes, strict=True):
        broken = [tag("span", f" ▲ {clause}", class_="broke") for clause in broke.get(member.id, ())]
        cells = [tag("th", member.name, broken, scope="row", title=member.name)]
        cells += [tag("td", list(_chips(lane, phase, marks))) for phase in order]
        cells.append(tag("td", counted(lane.entries, "entry", "entries"), f", {lane.more} not shown" * bool(lane.more)))
        cells.append(tag("td", _amount(lane, most)))
        rows.append(tag("tr", cells))
    drawn = tag("table", tag("thead", tag("tr", heads)), tag("tbody", rows), class_="lanes")
    return scroller(drawn, label)


def _amount(lane: Lane, most: int) -> Markup:
    wide = round(60 * lane.size / most)
    bar = tag("rect", x=0, y=6, width=wide, height=8, class_="s-signed")
    return tag("span", tag("span", size(lane.size)), _svg(60, bar, None), class_="amount")


def _chips(lane: Lane, phase: str, marks: Marks) -> Iterator[Markup]:
    for step in lane.steps:
        if step.phase != phase:
            continue
        name = f"{step.kind} {step.about}".rstrip()
        said = name + (f" ×{step.times}" if step.times > 1 else "")
        place = f"number {step.seq} of boot {step.boot}, hash {step.hashes[0].hex()[:16]}"
        if clauses := marks.clauses(step):
            shows = sum(hashed in marks.shows for hashed in step.hashes)
            said = f"▲ {said if shows == step.times else f'{name}, {shows} of {step.times}'} ({listed(clauses)})"
            yield tag("span", said, class_="chip shows", title=f"{place}; shows a violation")
        elif marks.cited.intersection(step.hashes):
            yield tag("span", said, class_="chip cited", title=f"{place}; evidence against another")
        else:
            yield tag("span", said, class_="chip", title=place)
