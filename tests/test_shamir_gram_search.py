"""Hostile schedules of shamir-gram: nothing is violated, liars are named, and planted bugs are found."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decentra.crypto.shares.checks import DEGREE_LABEL, combinations
from decentra.crypto.shares.decoding import Undecided, decode
from decentra.crypto.shares.field61 import PRIME
from decentra.crypto.shares.gram import implausible
from decentra.crypto.shares.quanta import MAX_RADIUS
from decentra.crypto.shares.sketch import SIZE, sketch, sketch_integers
from decentra.data import locate
from decentra.errors import LocalError
from decentra.protocols.agreed import Named
from decentra.protocols.shamir_gram.held import derive_held
from decentra.protocols.shamir_gram.terms import Terms
from decentra.protocols.sharing import Table
from decentra.simulation import recount
from decentra.simulation.adversaries import ADVERSARIES
from decentra.simulation.case import Violation
from decentra.simulation.dealt import Dealt, Stands
from decentra.simulation.hazards import MIXES, Mix
from decentra.simulation.search import applicable, run_seed, search, stage_of, trace_of
from decentra.simulation.shares_adversaries import SHARES_ADVERSARIES
from decentra.simulation.stage import Play
from decentra.types import PeerId, RoundId, RoundResult
from decentra.wire.codec import pack
from mutants import violations
from planted_shares import PLANTED
from test_shamir_gram import PEERS, views
from test_simulation import UNSEEN, Blames

SOURCE = Path(__file__).resolve().parent.parent / "src"
FOUR, FIVE = Play("shamir-gram", 4, 1, size=8), Play("shamir-gram", 5, 1, size=8)
NINE, SIXTEEN = Play("shamir-gram", 9, 2, size=4), Play("shamir-gram", 16, 3, size=8)

# ── schedules ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("mix", MIXES)
def test_nothing_is_violated(mix: Mix) -> None:
    tally = search(FIVE, mix, 0, 5)
    assert not tally.violating
    assert tally.outcomes["completed"] > 0
    assert sum(tally.outcomes.values()) == 5


@pytest.mark.parametrize("mix", ["liars", "mixed"])
def test_nothing_is_violated_where_lies_are_seen_and_not_named(mix: Mix) -> None:
    tally = search(FOUR, mix, 40, 10)
    assert not tally.violating and tally.outcomes["completed"] > 0


def test_nothing_is_violated_in_larger_groups() -> None:
    assert not search(NINE, "mixed", 40, 1).violating


def test_nothing_is_violated_with_real_cryptography_over_frames() -> None:
    assert not search(replace(FIVE, crypto="real", frames=True), "mixed", 7, 2).violating


@pytest.mark.parametrize("mix", ["none", "drops", "mixed"])
def test_nothing_is_violated_where_rounds_begin_ahead_of_local_steps(mix: Mix) -> None:
    tally = search(replace(FIVE, late=100.0), mix, 7040, 4)  # 7043 of drops: a deal that came is not certified
    assert not tally.violating
    assert mix != "none" or tally.outcomes["completed"] == 4


def test_whoever_deals_last_after_its_local_steps_is_in_the_result() -> None:
    for seed in range(3):
        stage = stage_of(replace(FIVE, late=100.0), seed, "none")
        stage.run()
        assert {len(one.participants) for one in stage.rounds[0] if isinstance(one, RoundResult)} == {5}
        assert all(isinstance(one, RoundResult) for one in stage.rounds[0])


@pytest.mark.slow
@pytest.mark.parametrize(("play", "mix", "count"), [
    (FIVE, "mixed", 80), (FIVE, "liars", 80), (FOUR, "mixed", 80), (FOUR, "liars", 80), (NINE, "mixed", 6),
    (NINE, "liars", 6), (SIXTEEN, "liars", 2),
])  # fmt: skip
def test_nothing_is_violated_in_many(play: Play, mix: Mix, count: int) -> None:
    assert not search(play, mix, 30_000, count).violating


TRACES = """
import hashlib
from decentra.simulation.search import trace_of
from decentra.simulation.stage import Play
for mix in ("liars", "mixed"):
    outcome, lines = trace_of(Play("shamir-gram", 5, 1), 3, mix)
    print(mix, outcome.came, len(lines), hashlib.sha256("\\n".join(lines).encode()).hexdigest())
"""


def test_a_seed_gives_the_same_trace_in_every_process_whatever_its_hashes() -> None:
    told = set()
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONPATH": str(SOURCE), "PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-c", TRACES]
        told.add(subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout)
    assert len(told) == 1


def test_where_nothing_goes_wrong_no_view_is_left() -> None:
    for seed in range(4):
        outcome, lines = trace_of(FIVE, seed, "none")
        assert outcome.came == "completed"
        assert not [line for line in lines if "▸ all  certify.lock" in line]


# ── adversaries ──────────────────────────────────────────────────────────────────────────────────────────────────────

CLAUSES = {"SA-2": "SG-1", "SA-10": "SG-9", "SA-11": "SG-3", "SA-12": "SG-4"}
"""What the clauses of others are in shamir-gram."""

ONE_CAN_LOSE = {"false-slice", "two-slices", "kept-slice", "divider"}
"""A slice that its owner alone can publish is lost with it; for some, where it shows them another. And a peer that
lacks a certified deal can't vote on checks: of five all four honest ones are needed."""


@pytest.mark.parametrize("name", applicable("shamir-gram"))
def test_an_adversary_is_caught_under_its_clause_and_gains_nothing(name: str) -> None:
    """From 4c + 1 peers on all others have an exact result, whoever lies about shares: the oracle says that it is
    exact, and that nobody honest is named or left out."""
    clause = CLAUSES.get(ADVERSARIES[name].clause, ADVERSARIES[name].clause)
    caught = Counter[tuple[str, bool]]()
    for seed in range(20):
        stage = stage_of(FIVE, seed, "liars", adversary=name)
        blames = Blames(stage)
        stage.run()
        assert not stage.oracle.violations, (seed, stage.oracle.violations)
        if name in SHARES_ADVERSARIES and name not in ONE_CAN_LOSE:
            honest = [one for one in stage.actors if one.id not in stage.oracle.liars]
            assert all(isinstance(one.result, RoundResult) for one in honest)
        caught += blames.found
        if not clause or name in UNSEEN or caught[clause, True] or caught[clause, False]:
            return
    pytest.fail(f"{name} is never caught under {clause}: {caught}")


@pytest.mark.parametrize("name", SHARES_ADVERSARIES)
def test_at_3c_plus_1_no_lie_changes_a_result(name: str) -> None:
    assert not run_seed(FOUR, 300, "liars", adversary=name).violations


def test_adversaries_of_shares_have_nothing_to_do_elsewhere() -> None:
    with pytest.raises(LocalError, match="mesh has no adversary 'false-word'"):
        search(Play("mesh"), "liars", 0, 1, adversary="false-word")
    with pytest.raises(LocalError, match="shamir-gram has no adversary 'two-deals'"):
        search(FIVE, "liars", 0, 1, adversary="two-deals")


def test_a_suspect_that_shows_its_blob_to_those_who_pass_nothing_on_at_once_fails_no_round() -> None:
    """Who has the blob takes it for a proof, who has not leaves it out: no value has a quorum before all have it."""
    outcome, lines = trace_of(FIVE, 1, "liars", adversary="mute-suspect")
    assert outcome.came == "completed" and not outcome.violations
    relayed = [line for line in lines if "▸ all  shamir-gram.shown" in line]
    assert len({line.split()[1] for line in relayed}) > 2


def test_who_keeps_a_certified_deal_from_one_peer_ends_no_round_where_a_quorum_is_left_without_that_one() -> None:
    assert search(NINE, "liars", 0, 2, adversary="divider").outcomes["completed"] == 2


def test_two_words_of_a_liar_make_nobody_name_an_honest_proposer() -> None:
    outcomes = [run_seed(FOUR, seed, "liars", adversary="two-words") for seed in range(6)]
    assert {one.came for one in outcomes} == {"completed"} and not any(one.violations for one in outcomes)


# ── the oracle ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_oracle_finds_honest_peers_that_are_proved_and_dealers_that_are_left_out() -> None:
    stage = stage_of(FIVE, 5, "none")
    stage.run()
    assert not stage.oracle.violations
    (honest, *_) = stage.cast.charter.ids
    for place, values in list(stage.oracle.certified.items()):
        ((value, who),) = values.items()
        if place[2] == "checked":
            stands = stage.oracle._shares._read(value, Stands)
            dealers = tuple(peer for peer in stands.dealers if peer != honest)
            stage.oracle.certified[place] = {pack((dealers, stands.zeros, stands.holders, (honest,))): who}
        if place[2] == "geometry":
            stage.oracle.certified[place] = {b"undecided": who}
    stage.oracle.close()
    said = {(one.clause, one.said.partition(" is ")[2]) for one in stage.oracle.violations}
    assert said == {
        ("SG-6", "certified as proved to lie"),
        ("SG-6", "left out of what stands, though nothing was lost"),
        ("SG-8", "certified as undecided, though nobody lied"),
        ("SG-8", "certified, though 5 peers are enough to name liars"),
    }


def test_more_liars_than_may_be_have_an_honest_dealer_proved_a_liar_and_the_oracle_says_so() -> None:
    hazards = replace(stage_of(FIVE, 3, "none").hazards, liars=(1, 3))
    outcome = run_seed(FIVE, 3, "none", hazards=hazards, adversary="wrong-check")
    found = {one.clause for one in outcome.violations if "proved to lie" in one.said}
    assert found == {"SG-6", "SG-8"}
    outcome = run_seed(FIVE, 0, "none", hazards=hazards, adversary="false-word")
    assert {one.clause for one in outcome.violations} == {"SG-8"}


elements = st.integers(0, PRIME - 1)


@given(
    degree=st.integers(1, 3),
    count=st.integers(1, 9),
    liars=st.integers(0, 3),
    lies=st.dictionaries(st.integers(1, 9), elements, max_size=4),
    polynomial=st.lists(elements, min_size=4, max_size=4),
)
@settings(max_examples=60)
def test_the_oracle_decodes_what_machines_decode(
    degree: int, count: int, liars: int, lies: dict[int, int], polynomial: list[int]
) -> None:
    values = {x: sum(a * x**k for k, a in enumerate(polynomial[: degree + 1])) % PRIME for x in range(1, count + 1)}
    values |= {x: lie for x, lie in lies.items() if x in values}
    found = recount.decoded(values, degree, liars)
    try:
        expected = decode(values, degree, liars)
    except Undecided:
        assert found is None
        return
    assert found is not None and found.wrong == expected.wrong
    assert recount.value_at(found.values, degree, 0) == expected.at(0)


@given(st.lists(st.integers(-(1 << 40), 1 << 40), min_size=1, max_size=9), st.binary(min_size=32, max_size=32))
@settings(max_examples=20)
def test_the_oracle_sketches_and_combines_as_machines_do(row: list[int], beacon: bytes) -> None:
    integers = sketch_integers(np.array(row, np.int64), beacon)
    found = recount.sketched(row, beacon)
    assert [found.get(place, 0) for place in range(SIZE)] == list(integers)
    share = np.array([value % PRIME for value in row], np.uint64)
    shared = recount.sketched([int(value) for value in share], beacon)
    expected_sketch = [int(one) for one in sketch([share], len(row), beacon)[0]]
    assert [shared.get(place, 0) % PRIME for place in range(SIZE)] == expected_sketch
    for blinded in (False, True):
        expected = combinations([share], len(row), beacon, DEGREE_LABEL, blinded=blinded)
        assert (recount.combination([int(one) for one in share], beacon, DEGREE_LABEL, blinded=blinded),) == expected


@given(st.lists(st.lists(st.sampled_from([-1, 0, 5, 9, 12 * MAX_RADIUS**2 + 1]), min_size=4, max_size=4), min_size=4,
                max_size=4), st.integers(0, 2))  # fmt: skip
@settings(max_examples=40)
def test_the_oracle_finds_the_same_vectors_implausible(rows: list[list[int]], f: int) -> None:
    gram = tuple(tuple(rows[min(i, j)][max(i, j)] for j in range(4)) for i in range(4))
    entries = {(i, j): gram[i][j] for i in range(4) for j in range(i, 4)}
    assert set(recount.short(entries, 4, f)) == set(range(4)) - set(implausible(gram, MAX_RADIUS, f))


def dealt(n: int, c: int, d: int) -> Dealt:
    return Dealt(Table(bytes(32), RoundId(1, 1), 0, PEERS[:n], 1), c, d, "multi_krum")


@given(n=st.integers(4, 13), data=st.data(), d=st.integers(0, 1 << 34))
def test_the_oracle_has_the_numbers_that_machines_have(n: int, data: st.DataObject, d: int) -> None:
    c = data.draw(st.integers(1, (n - 1) // 3))
    ours, theirs = dealt(n, c, d), Terms(n, c, d)
    assert (ours.slots, ours.degree, ours.size) == (theirs.sharing.slots, theirs.sharing.degree, theirs.elements)
    assert ours.fewest == (theirs.fewest_dealers, theirs.fewest_holders) and ours.most == theirs.limit


@given(views())
@settings(max_examples=60)
def test_the_oracle_derives_the_survivors_that_machines_do(
    view: tuple[int, int, Mapping[PeerId, Named], set[PeerId]],
) -> None:
    n, c, held, _ = view
    ours = dealt(n, c, 1)
    expected = derive_held(PEERS[:n], c, ours.fewest, held)
    found = ours.survivors(held)
    assert found == (None if expected is None else expected.pack())


# ── planted bugs ─────────────────────────────────────────────────────────────────────────────────────────────────────

SEEDS = {
    "any-numbers": 2,
    "any-bytes": 9,
    "two-words-unseen": 4,
    "hearsay-holding": 1,
    "shows-the-denied": 2,
    "silence-is-guilt": 1,
    "any-checked": 7,
    "passes-nothing-on": 1,
    "any-geometry": 7,
    "first-parts": 1,
    "tries-nothing": 1,
    "lost-too-soon": 12,
    "any-outcome": 7,
    "phase-for-good": 24,
}
"""The first seed that shows each bug, where that is not 0."""


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_found(name: str) -> None:
    mutant = PLANTED[name]
    assert mutant.clause in {one.clause for one in violations(mutant, SEEDS.get(name, 0))}


@cache
def broken_by_the_real_machine(play: Play, mix: Mix, adversary: str | None, seed: int) -> tuple[Violation, ...]:
    """Many bugs show in the same schedule."""
    (mutant, *_) = [
        one for one in PLANTED.values() if (one.play, one.mix, one.adversary) == (play, mix, adversary)
    ]
    return violations(mutant, seed, real=True)


@pytest.mark.parametrize("name", PLANTED)
def test_the_real_machine_breaks_nothing_in_the_same_schedule(name: str) -> None:
    mutant = PLANTED[name]
    assert broken_by_the_real_machine(mutant.play, mutant.mix, mutant.adversary, SEEDS.get(name, 0)) == ()


def test_every_clause_has_a_planted_bug() -> None:
    clauses = set(tomllib.loads((locate("specs") / "shamir-gram" / "spec.toml").read_text())["clause"])
    assert clauses <= {mutant.clause for mutant in PLANTED.values()}
    assert set(SEEDS) <= set(PLANTED)
