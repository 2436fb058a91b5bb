"""The page of an audit: it needs nothing else, escapes whatever others wrote, and says what was found to anybody."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commands import decentra, refused
from decentra import derive, spec
from decentra.audit import Report, Verdict
from decentra.audit.auditor import Auditor
from decentra.audit.ground import Ground
from decentra.audit.page import Courses, render
from decentra.audit.page.course import EDGE, MOST_BROKEN, MOST_COLUMNS, MOST_SESSIONS
from decentra.audit.page.detail import MOST_BALLOTS, STANDS, Detail, Ending, Lane, Step
from decentra.audit.page.markup import Markup, join, tag, visible
from decentra.audit.page.words import ENDINGS, GENERIC_SAYS, MEANS, PHASES
from decentra.audit.report import BEYOND, SessionReport
from decentra.audit.rules import BOOKS, GENERIC, PARTLY, UNTOLD
from decentra.protocols.certify.messages import Commit, Prepare, Propose
from decentra.protocols.rendezvous.messages import AbortRound, Absent, Ready
from decentra.protocols.secagg import challenge
from decentra.protocols.secagg.messages import Masked
from decentra.simulation.group import charter_for
from decentra.types import PeerId
from decentra.wire.codec import Signed
from decentra.wire.entry import ZERO, Chain
from test_audit import CONTEXT, Scribe, played, transcript_of

HARMLESS = {
    *("html", "head", "meta", "title", "style", "body", "header", "main", "footer", "nav", "section", "article"),
    *("h1", "h2", "h3", "h4", "p", "ul", "li", "dl", "dt", "dd", "div", "span", "strong", "code", "q", "bdi", "a"),
    *("blockquote", "details", "summary", "table", "caption", "thead", "tbody", "tr", "th", "td"),
    *("svg", "path", "rect", "text"),
}
"""The elements that the page is made of: none loads or runs anything."""
INLINE = {"span", "bdi", "strong", "code", "q", "a"}


class Read(HTMLParser):
    """A page as a browser takes it apart: its elements, in order, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.pieces: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((name, dict(attributes)))
        assert len(dict(attributes)) == len(attributes)
        self.open.append(name)
        self.pieces += [" "] * (name not in INLINE)

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name
        self.pieces += [" "] * (name not in INLINE)

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.pieces.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.pieces).split())

    def values(self, attribute: str) -> list[str]:
        return [said for _, attributes in self.elements if (said := attributes.get(attribute)) is not None]

    def classed(self, *classes: str) -> int:
        return sum({*classes} <= {*(attributes.get("class") or "").split()} for _, attributes in self.elements)


def page_of(ground: Ground, entries: Iterable[Signed]) -> tuple[Report, str]:
    auditor, courses = Auditor(grounds=[ground]), Courses()
    try:
        auditor.add(entries)
        report = auditor.judge(courses.watch)
    finally:
        auditor.close()
    return report, render(report, courses)


def page_by(scribe: Scribe) -> str:
    return page_of(scribe.ground, [one.signed for one in scribe.said])[1]


def check(page: str) -> Read:
    """The page, found to be sound: it loads and runs nothing, and every link leads to a place on it."""
    read = Read(page)
    assert {name for name, _ in read.elements} <= HARMLESS and read.open == []
    for name, attributes in read.elements:
        loads = attributes.keys() & {"src", "srcset", "action", "style", "background", "xlink:href"}
        assert not loads and not any(key.startswith("on") for key in attributes), (name, attributes)
    ids = read.values("id")
    assert len(ids) == len(set(ids))
    assert {"#" + place for place in ids} >= set(read.values("href"))
    assert "url(" not in page and "@import" not in page
    (policy,) = [own["content"] for name, own in read.elements if name == "meta" and "http-equiv" in own]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    assert ("html", {"lang": "en"}) in read.elements and "<title>Audit: " in page
    levels = [int(name[1]) for name, _ in read.elements if name in ("h1", "h2", "h3", "h4")]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    return read


# ── what it says ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_clean_run_is_told_with_who_is_in_the_sum_and_what_was_voted() -> None:
    came = played("secagg", 4, 1, 3, "none")
    report, page = page_of(came.ground, came.entries)
    read = check(page)
    assert report.verdict is Verdict.CLEAN and "verdict: clean" in read.text and MEANS[Verdict.CLEAN] in read.text
    names = [member.name for member in came.ground.charter.members]
    everyone = f"{', '.join(names[:3])} and {names[3]}"
    assert f"The group certified a sum of the updates of {everyone}." in read.text
    for topic, value in (
        ("survivors", f"in the sum: {', '.join(names)}"),
        ("outcome", "outcome [0-9a-f]{8}"),
        ("verdict", "the sums stand"),
    ):
        assert re.search(f"{topic} 0 {value} {names[0][:4]}\\S+ all 4 all 4 certified", read.text), topic
    assert read.classed("chip") > 4 * 10 and not read.classed("chip", "shows")
    assert "Nothing that is signed has a time" in read.text
    assert all(one in read.text for one in BEYOND)


def test_every_clause_stands_in_the_table_with_how_far_it_is_told() -> None:
    for protocol, book in BOOKS.items():
        scribe = Scribe()
        scribe.endorsed()
        ground = scribe.ground if protocol == "secagg" else Ground.of(charter_for(scribe.members, protocol))
        session = SessionReport(ground.session, ground, 0, 0, (), ())
        text = check(render(Report((session,), 0, 0, ()), Courses())).text
        for clause, about in spec.load(protocol).clauses.items():
            how = f"in part: {PARTLY[clause]}" if clause in PARTLY else f"not told: {UNTOLD.get(clause)}"
            told = "checked" if clause in book.clauses and clause not in PARTLY else how
            assert f"{clause} {about.says} {told}" in text
        for rule in GENERIC:
            assert f"{rule} {GENERIC_SAYS[rule]} checked" in text


def test_the_words_cover_all_that_there_is() -> None:
    assert GENERIC_SAYS.keys() == {*GENERIC}
    assert MEANS.keys() == {*Verdict} and ENDINGS.keys() == {*Ending}
    for protocol in BOOKS:
        assert {phase for phase, _ in spec.load(protocol).phases} <= PHASES.keys()
        own = {message.phase for message in spec.load(protocol).messages.values()}
        assert own <= PHASES.keys()
    assert STANDS == challenge.STANDS


def test_who_broke_a_clause_is_named_with_its_sentence_and_marked_in_its_lane() -> None:
    scribe = Scribe()
    liar = scribe.ids[2]
    scribe.endorsed()
    second = scribe.sign(liar, Ready(b"other" + bytes(27), b"l" * 32, ZERO, ZERO, b"s" * 32))
    page = page_by(scribe)
    read, name = check(page), scribe.ground.name(liar)
    assert f"{name} broke the rules" in read.text
    assert f"{name} broke RV-1 in round 1 The rule (clause RV-1 of the spec):" in read.text
    assert spec.load("secagg").clauses["RV-1"].says in read.text
    assert f"What it did: {name} signed two different rendezvous.ready where one is allowed." in read.text
    assert second.entry.hash.hex() in read.values("title") and second.entry.hash.hex()[:16] in read.text
    assert f"{name} ▲ RV-1" in read.text and "▲ ready (RV-1)" in read.text
    assert read.classed("chip", "shows") == 2
    assert "#s1-r1" in read.values("href") and "RV-1 " in read.text and "▲ broken 1×" in read.text
    (opened,) = [own for element, own in read.elements if element == "details" and "open" in own]
    assert opened["id"] == "s1-r1"


def test_a_fork_is_marked_in_its_round_though_chains_are_judged_last() -> None:
    scribe = Scribe()
    liar = scribe.ids[1]
    for number in range(1, 8):
        scribe.number = number
        for who in scribe.ids:
            scribe.ready(who)
        if number == 4:
            chain = scribe.chains[liar]
            seq, head = chain.seq, chain.head
            scribe.sign(liar, AbortRound("LOCAL", (), "it ended the round for some"))
            chain.seq, chain.head = seq, head
            scribe.sign(liar, AbortRound("LOCAL", (), "and said this to others"))
    read = check(page_by(scribe))
    assert [one for one in read.values("id") if one.startswith("s1-")] == [f"s1-r{one}" for one in (1, 2, 4, 6, 7)]
    assert f"{scribe.ground.name(liar)} broke FORK" in read.text and GENERIC_SAYS["FORK"] in read.text
    assert "Of 7 rounds 5 are shown in full" in read.text
    assert "The other 2 are in the strip only, and broke no rule." in read.text


def test_what_is_missing_is_asked_of_whom_it_is() -> None:
    scribe = Scribe()
    scribe.endorsed()
    author = scribe.ids[3]
    first = next(one for one in scribe.said if one.sender == author and one.entry.seq == 1)
    report, page = page_of(scribe.ground, [one.signed for one in scribe.said if one is not first])
    read = check(page)
    assert report.verdict is Verdict.UNDECIDED and MEANS[Verdict.UNDECIDED] in read.text
    name, group = scribe.ground.name(author), scribe.ground.charter.group.name
    asked = f"{name} all its transcripts of {group}, epoch 1, with what it heard entry 1 of boot 1 (round 1)"
    assert asked in read.text
    assert read.classed("s-missing") > 1


def test_what_leaves_an_audit_undecided_besides_is_said() -> None:
    scribe, other = Scribe(), Scribe(5)
    scribe.endorsed()
    broken = scribe.said[0].signed
    entries = [Signed(broken.entry[:-1] + bytes([broken.entry[-1] ^ 1]), broken.body), Signed(b"noise", b"")]
    read = check(page_of(scribe.ground, [*(one.signed for one in scribe.said), *entries])[1])
    assert "1 garbled entry: what can't be read accuses nobody" in read.text
    assert "1 entry without the signature of the member that they name" in read.text
    read = check(page_of(other.ground, [one.signed for one in scribe.said])[1])
    assert f"Session {scribe.ground.session.hex()[:16]}, {len(scribe.said)} entries: no charter of it" in read.text


def test_the_votes_of_a_round_say_who_voted_for_what_and_how_it_came_out() -> None:
    scribe = Scribe()
    scribe.endorsed()
    order, name = scribe.ground.order(1), scribe.ground.name
    proposal = scribe.sign(order[0], Propose(CONTEXT, "survivors", 0, b"fail", (), ()))
    digest = derive.vote_value(CONTEXT, "survivors", b"fail")
    for who in order[:3]:
        scribe.sign(who, Prepare(CONTEXT, "survivors", 0, digest), proposal)
        scribe.sign(who, Commit(CONTEXT, "survivors", 0, digest), proposal)
    scribe.sign(order[3], Commit(CONTEXT, "survivors", 1, b"?" * 32), proposal)
    text = check(page_by(scribe)).text
    voters = f"{name(order[0])}, {name(order[1])} and {name(order[2])}"
    assert f"survivors 0 the round fails {name(order[0])} {voters} {voters} certified" in text
    unknown = f"value {(b'?' * 32).hex()[:8]}, whose proposal was not given"
    assert f"survivors 1 {unknown} nobody nobody {name(order[3])} not certified" in text
    assert ENDINGS[Ending.FAILED] in text and "there is no sum" in text


def test_a_flood_of_votes_hides_no_certified_value() -> None:
    scribe = Scribe()
    scribe.endorsed()
    order = scribe.ground.order(1)
    proposal = scribe.sign(order[0], Propose(CONTEXT, "outcome", 0, b"lost", (), ()))
    digest = derive.vote_value(CONTEXT, "outcome", b"lost")
    for who in order[:3]:
        scribe.sign(who, Commit(CONTEXT, "outcome", 0, digest), proposal)
    for number in range(100):
        scribe.sign(order[3], Commit(CONTEXT, "survivors", number % 64, bytes([number]) * 32), proposal)
    text = check(page_by(scribe)).text
    assert "outcome 0 the round is lost" in text and f"{101 - MOST_BALLOTS} more rows are left out here" in text


# ── others' words ────────────────────────────────────────────────────────────────────────────────────────────────────

HOSTILE = '"><script>alert(1)</script>'


def test_names_reasons_topics_and_kinds_of_others_are_escaped_wherever_they_stand() -> None:
    scribe = Scribe()
    charter = charter_for(scribe.members, "secagg", protocol__c=1, group__name=f"</title>{HOSTILE}")
    scribe.charter, scribe.ground = charter, Ground.of(charter)
    scribe.chains = {one.id: Chain(one, scribe.ground.session, 1) for one in scribe.members}
    scribe.endorsed()
    liar = scribe.ids[0]
    scribe.sign(liar, AbortRound(HOSTILE, scribe.ids[1:2], f"{HOSTILE}\u202e\0</style><img src=x onerror=alert(1)>"))
    scribe.sign(liar, Propose(CONTEXT, "<svg onload=a()>", 0, HOSTILE.encode(), (), ()))
    strange = scribe.chains[liar].sign(scribe.said[0].entry.round_id, '<a href="x" onclick="a()">', b"\x90")
    entries = [*(one.signed for one in scribe.said), Signed(strange.packed, b"\x90")]
    report, page = page_of(scribe.ground, entries)
    read = check(page)
    assert report.verdict is Verdict.VIOLATION
    for said in (HOSTILE, "<svg onload=a()>", '<a href="x" onclick="a()">', "<img src=x onerror=alert(1)>"):
        assert said in read.text
    assert "\\u202e\\u0000" in read.text and not {"\u202e", "\0"} & {*page}


@given(st.text(), st.text())
@settings(max_examples=200)
def test_no_text_leaves_the_place_where_it_was_put(text: str, value: str) -> None:
    page = str(tag("p", text, title=value))
    read = Read(page)
    assert read.elements == [("p", {"title": visible(value)})]
    assert "".join(read.pieces) == f" {visible(text)} "
    assert page.encode()
    assert join(Markup("<p>"), text) == "<p>" + join(text)


# ── many rounds ──────────────────────────────────────────────────────────────────────────────────────────────────────


def long_run(scribe: Scribe, rounds: int, broken: Sequence[int]) -> tuple[Report, Courses]:
    """A session of many rounds, all alike but for those in which a member breaks a clause."""
    scribe.sign(scribe.ids[2], Ready(b"other" + bytes(27), b"l" * 32, ZERO, ZERO, b"s" * 32))
    (found,) = [one for one in scribe.report().violations if one.clause == "RV-1"]
    courses = Courses()
    course = courses.add(scribe.ground)
    phases = [phase for phase, _ in scribe.ground.spec.phases]
    steps = tuple(Step(phase, "message", "", 1, at, 1, (bytes(32),)) for at, phase in enumerate(phases * 2))
    lanes = (Lane(steps, 0, len(steps), 9000),) * len(scribe.ids)
    for number in range(1, rounds + 1):
        course.take(Detail(number, Ending.SUMMED, scribe.ids, (), lanes, (), 0, ()), number in broken)
    findings = tuple(replace(found, round=number) for number in broken)
    session = SessionReport(scribe.ground.session, scribe.ground, 1, 0, tuple(range(1, rounds + 1)), findings)
    return Report((session,), 1, 0, ()), courses


@pytest.mark.parametrize("rounds", [1_000, 20_000])
def test_a_long_run_gives_a_short_page_that_says_what_was_left_out(rounds: int) -> None:
    scribe = Scribe(8, 2)
    scribe.endorsed()
    broken = range(500, 500 + MOST_BROKEN + 8)
    report, courses = long_run(scribe, rounds, broken)
    course = courses.of(scribe.ground.session)
    assert course is not None and course.rounds == rounds
    assert len(course.strip(report.sessions[0].findings)) <= MOST_COLUMNS
    kept = [1, 2, *broken[:MOST_BROKEN], rounds - 1, rounds]
    assert [one.number for one in course.details()] == kept and len(kept) == 2 * EDGE + MOST_BROKEN
    page = render(report, courses)
    read = check(page)
    assert len(page) < 600_000
    assert f"Of {rounds:,} rounds {len(kept)} are shown in full" in read.text
    assert "8 of them have violations" in read.text
    assert f"A column stands for {course.width} rounds" in read.text
    assert f"{scribe.ground.name(scribe.ids[2])} broke RV-1 in round {broken[-1]}" in read.text


@pytest.mark.parametrize("rounds", [1, 7, MOST_COLUMNS, MOST_COLUMNS + 1, 3 * MOST_COLUMNS + 5])
def test_a_strip_holds_every_round_once_and_marks_the_column_of_each(rounds: int) -> None:
    scribe = Scribe()
    scribe.endorsed()
    report, courses = long_run(scribe, rounds, [rounds])
    course = courses.of(scribe.ground.session)
    assert course is not None
    columns = course.strip(report.sessions[0].findings)
    assert [one.first for one in columns[1:]] == [one.last + 1 for one in columns[:-1]]
    assert (columns[0].first, columns[-1].last) == (1, rounds)
    assert sum(sum(one.endings) for one in columns) == rounds
    assert sum(sum(one.sizes) for one in columns) == rounds * 9000 * len(scribe.ids)
    marked = [at for at, one in enumerate(columns) if one.seen[2] & 16]
    assert marked == [len(columns) - 1]


def test_many_sessions_and_a_flood_of_entries_are_bounded_and_counted() -> None:
    scribe = Scribe()
    scribe.endorsed()
    liar = scribe.ids[0]
    roster = next(one for one in scribe.said if one.entry.kind == "rendezvous.roster")
    for number in range(200):
        scribe.sign(liar, Masked(CONTEXT, (bytes([number]) * 32,) * 4), roster)
        scribe.sign(liar, Absent(0, (PeerId(bytes([number]) * 32),)))
    page = page_by(scribe)
    assert "not shown" in check(page).text and len(page) < 200_000
    unknown = [SessionReport(number.to_bytes(32, "big"), None, 1, 0, (), ()) for number in range(500)]
    grounds = [replace_epoch(scribe, epoch) for epoch in range(1, MOST_SESSIONS + 5)]
    known = [SessionReport(one.session, one, 1, 0, (), ()) for one in grounds]
    page = render(Report((*known, *unknown), 1, 0, ()), Courses())
    text = check(page).text
    assert "480 more sessions of which no charter is known" in text
    assert f"Of {MOST_SESSIONS + 4} sessions the first {MOST_SESSIONS} are shown in full" in text


def replace_epoch(scribe: Scribe, epoch: int) -> Ground:
    return Ground.of(charter_for(scribe.members, "secagg", group__epoch=epoch))


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_command_writes_the_page_beside_what_it_prints(tmp_path: Path) -> None:
    scribe = Scribe()
    scribe.endorsed()
    path, page = transcript_of(scribe, tmp_path / "run.log"), tmp_path / "report.html"
    plain = decentra("audit", path)
    ended = decentra("audit", path, "--html", page)
    assert (ended.code, ended.out) == (plain.code, f"{plain.out}page: {page}\n") and plain.code == 0
    first = page.read_text("utf-8")
    assert "verdict: clean" in check(first).text
    as_json = decentra("audit", path, "--html", page, "--json")
    assert as_json.code == 0 and json.loads(as_json.out)["verdict"] == "clean"
    assert page.read_text("utf-8") == first


def test_a_place_where_no_page_can_be_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    noise = tmp_path / "noise.log"
    noise.write_bytes(b"noise")
    assert "is a folder; give --html the name of a file" in refused("audit", noise, "--html", tmp_path, code=3)
    assert "would be taken for a transcript" in refused("audit", noise, "--html", noise, code=3)
    assert noise.read_bytes() == b"noise"
    nowhere = tmp_path / "none" / "report.html"
    assert f"there is no folder {nowhere.parent}" in refused("audit", noise, "--html", nowhere, code=3)
    assert "give --html another place" in refused("audit", noise, "--html", tmp_path / ("x" * 300), code=3)
    notes = tmp_path / "notes.txt"
    notes.write_text("mine")
    assert "is no page of an audit" in refused("audit", noise, "--html", notes, code=3) and notes.read_text() == "mine"
    assert "can't be written (No space left" in refused("audit", noise, "--html", Path("/dev/full"), code=3)
    ended = decentra("audit", noise, "--html", tmp_path / "report.html")
    assert ended.code == 2 and "is no transcript from byte 0 on" in (tmp_path / "report.html").read_text("utf-8")


# ── in a browser ─────────────────────────────────────────────────────────────────────────────────────────────────────

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--enable-logging=stderr"),
)
STARTED = r'"initiator":"(?P<whose>[^"]*)".*"url":"(?P<url>[^"]*)"'
THE_BROWSERS = "not an origin"
"""Who a browser says to have begun a request that no page asked for, such as for its own updates."""
PNG = b"\x89PNG\r\n\x1a\n"


def browsed(page: Path, picture: Path, folder: Path) -> tuple[list[str], set[str]]:
    """What a browser says on its console about a page, and the addresses that it asks for meanwhile."""
    log = folder / f"{picture.stem}.json"
    own = (f"--user-data-dir={folder / picture.stem}", f"--log-net-log={log}", f"--screenshot={picture}")
    command = ["chromium", *FLAGS, *own, "--window-size=1280,900", page.as_uri()]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    said = [line for line in ended.stderr.splitlines() if "CONSOLE" in line]
    started = [one for line in log.read_text().splitlines() if (one := re.search(STARTED, line)) is not None]
    return said, {one["url"] for one in started if one["whose"] != THE_BROWSERS}


def test_a_browser_shows_it_without_a_complaint_and_without_the_network(tmp_path: Path) -> None:
    if shutil.which("chromium") is None:
        pytest.skip("there is no chromium on the PATH (Debian's package chromium)")
    planted = tmp_path / "planted.html"
    planted.write_text('<script>console.error("here")</script><img src="http://127.0.0.1:9/x">')
    said, asked = browsed(planted, tmp_path / "planted.png", tmp_path)
    assert any("here" in line for line in said) and asked == {"http://127.0.0.1:9/x"}

    came = played("secagg", 4, 1, 3, "none")
    page, picture = tmp_path / "report.html", tmp_path / "report.png"
    page.write_text(page_of(came.ground, came.entries)[1], "utf-8")
    assert browsed(page, picture, tmp_path) == ([], set())
    assert picture.read_bytes().startswith(PNG)
    assert picture.stat().st_size > 4 * (tmp_path / "planted.png").stat().st_size
