"""``decentra simulate``: what it prints, its exit codes, and one sentence for whatever was asked wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from decentra.cli import simulate as body
from decentra.cli.app import app
from decentra.simulation.membership import World
from decentra.simulation.oracle import Oracle
from decentra.simulation.search import run_seed, trace_of
from decentra.simulation.stage import Play

SMALL = ("--protocol", "allreduce", "-n", "4")


def decentra(*words: str | int) -> tuple[int, str, str]:
    line = ["simulate", *map(str, words)]
    result = CliRunner().invoke(app, line, prog_name="decentra", catch_exceptions=False)
    return result.exit_code, result.stdout, result.stderr


def told(*words: str | int, code: int = 0) -> dict[str, Any]:
    ended, out, err = decentra(*words, "--json")
    assert (ended, err) == (code, "")
    value = json.loads(out)
    assert isinstance(value, dict)
    return value


def test_it_says_how_many_schedules_a_minute_what_they_came_to_and_that_nothing_was_violated() -> None:
    code, out, err = decentra(*SMALL, "--seeds", 3, "--faults", "none")
    assert (code, err) == (0, "")
    first, second, third = out.splitlines()
    assert first.startswith("allreduce, n = 4, c = 1, ideal crypto, faults none: seeds 0 to 2, ")
    assert first.endswith(" schedules a minute of one core")
    assert second == "3 completed, 0 certified as failed, 0 certified as lost, 0 ended before they could"
    assert third == "no violations"


@pytest.mark.parametrize("crypto", ["ideal", "real"])
def test_json_has_the_same_and_each_schedule_is_counted_once(crypto: str) -> None:
    data = told(*SMALL, "--seeds", 4, "--first", 7, "--faults", "mixed", "--crypto", crypto)
    assert (data["protocol"], data["n"], data["seeds"], data["violations"]) == ("allreduce", 4, 4, [])
    assert (data["c"], data["faults"], data["late"], data["first"]) == (1, "mixed", 0.0, 7)
    assert sum(data[came] for came in ("completed", "failed", "lost", "abandoned")) == 4
    assert data["schedules_per_minute"] > 0


def test_bucketed_has_nine_peers_and_as_many_liars_as_its_buckets_outvote_where_nothing_else_is_said() -> None:
    data = told("--protocol", "bucketed", "--seeds", 2, "--faults", "liars", "--adversary", "false-mean")
    assert (data["protocol"], data["n"], data["c"], data["violations"]) == ("bucketed", 9, 1, [])
    assert told("--protocol", "bucketed", "-n", 20, "--seeds", 1, "--faults", "none")["c"] == 2


def test_shamir_gram_has_seven_peers_of_whom_two_lie_where_nothing_else_is_said() -> None:
    data = told("--protocol", "shamir-gram", "--seeds", 2, "--faults", "liars", "--adversary", "false-word")
    assert (data["protocol"], data["n"], data["c"], data["violations"]) == ("shamir-gram", 7, 2, [])
    assert told("--protocol", "shamir-gram", "-n", 4, "--seeds", 2, "--faults", "none")["completed"] == 2


def test_it_says_how_many_journals_were_cut() -> None:
    _, out, _ = decentra(*SMALL, "--seeds", 3, "--faults", "journals")
    cut = sum(run_seed(Play("allreduce", 4, 1), seed, "journals").cut for seed in range(3))
    assert f"\n{cut} journals were cut at or within a commit\n" in out and cut >= 3
    assert told(*SMALL, "--seeds", 3, "--faults", "journals")["journals_cut"] == cut


def test_what_is_not_said_is_the_largest_coalition_that_leaves_stops_to_survive() -> None:
    assert [body._most_liars(n) for n in (3, 4, 5, 6, 7, 8, 10, 16)] == [1, 1, 1, 1, 2, 2, 3, 5]


def test_a_trace_has_a_line_for_everything_that_happens() -> None:
    code, out, _ = decentra(*SMALL, "--faults", "crashes", "--trace", 5)
    lines = out.splitlines()
    assert code == 0
    assert lines[:-1] == trace_of(Play("allreduce", 4, 1), 5, "crashes")[1]
    assert lines[-1].startswith("it ")
    assert any("  A  ▸ all  rendezvous.ready" in line for line in lines)
    data = told(*SMALL, "--faults", "crashes", "--trace", 5, "--late", 2)
    assert (data["first"], data["seeds"], data["late"], data["faults"]) == (5, 1, 2.0, "crashes")
    assert told(*SMALL, "--faults", "crashes", "--trace", 5)["trace"] == lines[:-1]


@pytest.fixture
def _always_guilty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Oracle, "close", lambda self: self.violated("XX-1", None, "it is planted"))


@pytest.mark.usefixtures("_always_guilty")
def test_a_violation_is_told_with_its_seed_and_a_trace_and_exits_with_1() -> None:
    code, out, _ = decentra(*SMALL, "--seeds", 5, "--first", 2, "--faults", "none")
    assert code == 1
    assert out.count("XX-1 at ") == 5 and out.count("✗ XX-1: it is planted") == out.count("── seed") == 3
    assert "seed 2: XX-1" in out and out.splitlines()[-1] == "5 of 5 schedules broke something; --trace SEED shows one"
    data = told(*SMALL, "--seeds", 2, "--first", 2, "--faults", "none", code=1)
    assert data["violations"] == [{"clause": "XX-1", "seed": seed, "who": None} for seed in (2, 3)]
    assert decentra(*SMALL, "--faults", "none", "--trace", 2)[0] == 1


MEMBERSHIP = ("--protocol", "membership", "-n", 5)


def test_membership_says_how_soon_a_stop_is_noticed_at_what_cost_and_who_is_wronged() -> None:
    code, out, err = decentra(*MEMBERSHIP, "--seeds", 3, "--faults", "none")
    assert (code, err) == (0, "")
    first, stopped, known, excluded, wronged, load, last = out.splitlines()
    assert first.startswith("membership, n = 5, c = 1, ideal crypto, faults none: seeds 0 to 2, ")
    assert stopped.startswith("3 stopped for good: first suspected after ") and "(theory 1.4" in stopped
    assert known.startswith("all others knew ") and excluded.startswith("excluded by the first after ")
    assert wronged == "peers that ran: 0 suspicions, 0 exclusions, 0 where only datagrams were lost"
    assert "messages and" in load and last == "no violations"
    data = told(*MEMBERSHIP, "--seeds", 3, "--faults", "none")
    assert (data["protocol"], data["n"], data["c"], data["seeds"], data["detected"]) == ("membership", 5, 1, 3, 3)
    assert data["violations"] == [] and data["false_suspicions"] == 0
    assert 1.5 < data["messages_per_peer_second"] < 4.0 and data["bytes_per_peer_second"] > 100
    assert data["first_seconds"] < data["excluded_seconds"] <= data["agreed_seconds"] <= data["agreed_seconds_most"]


def test_membership_under_faults_says_when_views_agreed_and_a_trace_has_a_line_for_each_datagram() -> None:
    data = told(*MEMBERSHIP, "--seeds", 3, "--faults", "drops", "--crypto", "real")
    assert data["settled_seconds_most"] >= 5.0 and data["violations"] == []
    lines = told(*MEMBERSHIP, "--trace", 4)["trace"]
    assert any("membership.ping" in line for line in lines) and any(" is up" in line for line in lines)


def test_a_violation_of_membership_is_told_with_its_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(World, "close", lambda self: self.violated("MB-3", None, "it is planted"))
    code, out, _ = decentra(*MEMBERSHIP, "--seeds", 2, "--first", 7, "--faults", "crashes")
    assert code == 1
    assert "seed 7: MB-3 at " in out and out.splitlines()[-1].startswith("2 of 2 schedules broke something")


@pytest.mark.parametrize(
    "words, mend",
    [
        (("--protocol", "bfv"), "choose secagg, allreduce, mesh, bucketed, shamir-gram, membership or group-gossip"),
        (("--protocol", "bucketed", "-n", 8), "which has three buckets of three at least; give 9 or more"),
        (("--protocol", "bucketed", "-c", 2), "out of 1..1 for 9 peers; bucketed needs 2c + 1 buckets of c + 2"),
        (("--protocol", "bucketed", "-n", 20, "-c", 3), "out of 1..2 for 20 peers"),
        (("--protocol", "bucketed", "--late", 5), "begins no round ahead of its update; leave --late out"),
        (("--protocol", "bucketed", "--lost", 0.1), "bucketed stops peers by --faults; leave --lost out"),
        (("--protocol", "bucketed", "--adversary", "false-update", "--faults", "liars"), "has no adversary"),
        (("--protocol", "shamir-gram", "-n", 3), "which has 3c + 1 peers at least; give 4 or up"),
        (("--protocol", "shamir-gram", "-c", 3), "out of 1..2 for 7 peers; shamir-gram needs 3c + 1 of them"),
        (("--protocol", "shamir-gram", "--group", 4), "plays one group, of -n peers; leave --group out"),
        (("--protocol", "shamir-gram", "--adversary", "false-share", "--faults", "liars"), "has no adversary"),
        (("--adversary", "false-word", "--faults", "liars"), "secagg has no adversary"),
        (("--protocol", "membership", "-n", 2), "simulate a group of that size"),
        (("--protocol", "membership", "-n", 1001), "simulate a group of that size"),
        (("--protocol", "membership", "-n", 4, "-c", 3), "out of 1..2"),
        (("--protocol", "membership", "--seeds", 0), "give 1 or more"),
        (("--protocol", "membership", "--trace", -1), "give 0 or more"),
        (("--protocol", "membership", "--crypto", "none"), "choose ideal or real"),
        (("--protocol", "membership", "--adversary", "bait"), "choose one of frame"),
        (("--protocol", "membership", "--frames"), "leave --frames out"),
        (("--protocol", "membership", "--late", 5), "leave --late out"),
        (("--protocol", "membership", "--lost", 0.1), "membership stops peers by --faults; leave --lost out"),
        (("--group", 4), "secagg plays one group, of -n peers; leave --group out"),
        (("--protocol", "allreduce", "--lost", 0.1), "allreduce stops peers by --faults; leave --lost out"),
        (("--protocol", "group-gossip", "--late", 5), "leave --late out"),
        (("--protocol", "group-gossip", "--trace", 3), "leave --trace out"),
        (("--protocol", "group-gossip", "--seeds", 1000), "of seed --first; leave --seeds out"),
        (("--protocol", "group-gossip", "--faults", "mixed"), "leave --faults out"),
        (("--protocol", "group-gossip", "--adversary", "bait"), "leave --adversary out"),
        (("--protocol", "group-gossip", "--frames"), "leave --frames out"),
        (("--protocol", "group-gossip", "--lost", 1), "--lost 1 must be 0 up to but not 1"),
        (("--late", -1), "out of 0..600"),
        (("--late", "nan"), "out of 0..600"),
        (("--crypto", "none"), "choose ideal or real"),
        (("--faults", "many"), "choose one of none, drops, crashes, journals, liars, mixed"),
        (("-n", 2), "simulate a group of that size"),
        (("-n", 27), "simulate a group of that size"),
        (("-n", 4, "-c", 3), "out of 1..2"),
        (("-c", 0), "out of 1..5"),
        (("--seeds", 0), "give 1 or more"),
        (("--first", -1), "give 0 or more"),
        (("--trace", -1), "give 0 or more"),
        (("--faults", "liars", "--adversary", "nobody"), "choose one of equivocator"),
        (("--protocol", "allreduce", "--faults", "liars", "--adversary", "bad-deal"), "choose one of equivocator"),
        (("--faults", "crashes", "--adversary", "bait"), "choose liars or mixed"),
    ],
)
def test_what_is_asked_wrong_is_refused_in_a_sentence(words: tuple[str | int, ...], mend: str) -> None:
    code, out, err = decentra(*words)
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and mend in err and err.count("\n") == 1
    assert json.loads(decentra(*words, "--json")[2])["kind"] == "local"
