"""Hostile schedules of the session that combines buckets' means: nothing is violated, and planted bugs are found."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentra.data import locate
from decentra.errors import LocalError
from decentra.simulation.adversaries import ADVERSARIES
from decentra.simulation.bucket_adversaries import spread
from decentra.simulation.hazards import MIXES, Crash, Hazards, Mix, draw
from decentra.simulation.means import Means
from decentra.simulation.search import applicable, run_seed, search, stage_of, trace_of
from decentra.simulation.stage import Play, Stage, cast_for
from decentra.types import RoundResult
from mutants import violations
from planted_buckets import PLANTED
from test_simulation import UNSEEN, Blames

SOURCE = Path(__file__).resolve().parent.parent / "src"
NINE, TWELVE, TWENTY = Play("bucketed", 9, 1), Play("bucketed", 12, 1), Play("bucketed", 20, 2)
FEW_IN_ONE = Play("bucketed", 20, 2, bucket_c=1)

# ── schedules ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("mix", MIXES)
def test_nothing_is_violated(mix: Mix) -> None:
    tally = search(NINE, mix, 0, 8)
    assert not tally.violating
    assert tally.outcomes["completed"] > 0
    assert sum(tally.outcomes.values()) == 8


@pytest.mark.parametrize("play", [TWELVE, TWENTY, FEW_IN_ONE], ids=["12", "20", "20, of a bucket 1"])
@pytest.mark.parametrize("mix", ["liars", "mixed"])
def test_nothing_is_violated_in_larger_groups(play: Play, mix: Mix) -> None:
    assert not search(play, mix, 40, 3).violating


def test_nothing_is_violated_with_real_cryptography_over_frames() -> None:
    assert not search(replace(NINE, crypto="real", frames=True), "mixed", 7, 2).violating


@pytest.mark.slow
@pytest.mark.parametrize(("play", "mix", "count"), [
    (NINE, "mixed", 300), (NINE, "liars", 300), (NINE, "crashes", 100), (NINE, "drops", 100), (NINE, "journals", 100),
    (TWELVE, "mixed", 200), (TWENTY, "mixed", 60), (FEW_IN_ONE, "liars", 60),
])  # fmt: skip
def test_nothing_is_violated_in_many(play: Play, mix: Mix, count: int) -> None:
    assert not search(play, mix, 30_000, count).violating


TRACES = """
import hashlib
from decentra.simulation.search import trace_of
from decentra.simulation.stage import Play
for mix in ("liars", "mixed"):
    outcome, lines = trace_of(Play("bucketed", 9, 1), 3, mix)
    print(mix, outcome.came, len(lines), hashlib.sha256("\\n".join(lines).encode()).hexdigest())
"""


def test_a_seed_gives_the_same_trace_in_every_process_whatever_its_hashes() -> None:
    told = set()
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONPATH": str(SOURCE), "PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-c", TRACES]
        told.add(subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout)
    assert len(told) == 1


def test_where_nothing_goes_wrong_no_view_is_left_whoever_states_last() -> None:
    for seed in range(8):  # in some of these all means come to a peer before the last statement does
        outcome, lines = trace_of(NINE, seed, "none")
        assert outcome.came == "completed"
        assert not [line for line in lines if "▸ all  certify.lock" in line]


# ── who lies, and what is brought ────────────────────────────────────────────────────────────────────────────────────


@given(seed=st.integers(0, 2**40), play=st.sampled_from([NINE, TWENTY, FEW_IN_ONE]), mix=st.sampled_from(MIXES))
def test_no_more_lie_than_may_in_all_and_in_each_bucket(seed: int, play: Play, mix: Mix) -> None:
    drawn = draw(seed, mix, play.n, play.c)
    spreads, charter = spread(drawn, play), cast_for(play.protocol, play.n, play.c, play.bucket_c).charter
    liars = {charter.ids[place] for place in spreads.liars}
    assert len(liars) == len(spreads.liars) <= play.c and set(spreads.liars) <= set(drawn.liars)
    assert all(len(liars & set(bucket)) <= charter.bucket_corrupt for bucket in charter.drawn_buckets)
    assert replace(spreads, liars=drawn.liars) == drawn
    assert bool(spreads.liars) == bool(drawn.liars)


@given(seed=st.integers(0, 2**40), name=st.sampled_from(["first", "second"]), some=st.booleans())
def test_members_of_a_bucket_bring_one_mean_or_none(seed: int, name: str, some: bool) -> None:
    charter = cast_for("bucketed", 20, 2, 1).charter
    means = Means(charter, seed, 5, some)
    seen, bringing = set(), 0
    for bucket in charter.drawn_buckets:
        brought = [means.of(peer, name, 1) for peer in bucket]
        some_have = {(vector.tobytes(), summed) for vector, summed in brought if summed}
        assert len(some_have) <= 1
        bringing += len(some_have)
        assert all(not vector.any() for vector, summed in brought if not summed)
        assert some or all(summed for _, summed in brought)
        for raw, summed in some_have:
            seen.add(raw)
            assert set(summed) <= set(bucket) and len(summed) >= charter.bucket_corrupt + 2
            assert summed == tuple(sorted(summed))
    assert len(seen) == bringing
    assert means.of(charter.ids[0], "first", 2)[1] == means.of(charter.ids[0], "boot 2", 2)[1] == ()


def played(stage: Stage) -> Stage:
    stage.run()
    return stage


def without(stage: Stage, *positions: int) -> Stage:
    """The stage with peers that have no result of their bucket's round."""
    whole, bare = stage.means.of, {stage.cast.charter.ids[place] for place in positions}

    def of(peer: Any, name: str, boot: int) -> Any:
        vector, summed = whole(peer, name, boot)
        return (np.zeros_like(vector), ()) if peer in bare else (vector, summed)

    stage.means.of = of  # type: ignore[method-assign]
    return stage


@pytest.mark.parametrize("place", range(9))
def test_a_member_without_its_bucket_s_result_is_sent_the_mean_and_has_what_the_others_have(place: int) -> None:
    stage = played(without(stage_of(NINE, place, "none"), place))
    assert not stage.oracle.violations and len(stage.rounds) == 1
    results = [one for one in stage.rounds[0] if isinstance(one, RoundResult)]
    assert len(results) == 9
    assert len({one.values[0].tobytes() for one in results}) == 1 and results[0].total_weight == 3
    assert stage.clock.now() < 30.0  # within the phase


@pytest.mark.parametrize(("play", "came"), [(NINE, "failed"), (TWELVE, "completed")], ids=["9", "12"])
def test_a_bucket_that_brings_none_is_left_out_where_enough_others_are(play: Play, came: str) -> None:
    stage = stage_of(play, 3, "none")
    ids = stage.cast.charter.ids
    bucket = stage.cast.charter.drawn_buckets[1]
    stage = played(without(stage, *(ids.index(peer) for peer in bucket)))
    assert not stage.oracle.violations
    results = [one for one in stage.rounds[0] if isinstance(one, RoundResult)]
    if came == "completed":
        assert {one.total_weight for one in results} == {3} and len(results) == play.n
        assert not set(bucket) & set(results[0].participants)
    else:
        assert not results and len(stage.rounds[0]) == play.n


def test_a_sum_that_failed_to_combine_is_told_again_in_the_next_round_and_a_new_one_after_a_result() -> None:
    names = {}
    for came in ("completed", "failed"):
        stopping = {2: (Crash(effect=16, back=0.001),)}
        stage = stage_of(NINE, 11, "none", hazards=Hazards(crashes=stopping, again=1.0))
        if came == "failed":
            bucket = next(one for one in stage.cast.charter.drawn_buckets if stage.cast.charter.ids[2] not in one)
            stage = without(stage, *(stage.cast.charter.ids.index(peer) for peer in bucket))
        played(stage)
        assert not stage.oracle.violations and len(stage.rounds) == 2
        assert any(isinstance(one, RoundResult) for one in stage.rounds[0]) == (came == "completed")
        names[came] = {actor.update for actor in stage.actors if actor.position != 2}
        assert (stage.actors[2].boot, stage.actors[2].vector is not None) == (2, True)
    assert names == {"completed": {"second"}, "failed": {"first"}}


# ── adversaries ──────────────────────────────────────────────────────────────────────────────────────────────────────

CLAUSES = {"SA-2": "BU-1", "SA-10": "BU-3", "ME-4": "BU-5", "ME-6": "BU-7"}
"""What the clauses of others are in bucketed."""

UNBLAMED = {**UNSEEN, "wrong-slice": "bytes that are not what was stated are not taken in, and come from others"}


@pytest.mark.parametrize("name", applicable("bucketed"))
def test_an_adversary_is_caught_under_its_clause_and_gains_nothing(name: str) -> None:
    clause = CLAUSES.get(ADVERSARIES[name].clause, ADVERSARIES[name].clause)
    caught = Counter[tuple[str, bool]]()
    for seed in range(40):
        stage = stage_of(NINE, seed, "liars", adversary=name)
        blames = Blames(stage)
        stage.run()
        assert not stage.oracle.violations, (seed, stage.oracle.violations)
        caught += blames.found
        if seed >= 1 and (not clause or name in UNBLAMED or caught[clause, True] or caught[clause, False]):
            return
    pytest.fail(f"{name} is never caught under {clause}: {caught}")


def test_adversaries_of_buckets_have_nothing_to_do_elsewhere() -> None:
    with pytest.raises(LocalError, match="mesh has no adversary 'false-mean'"):
        search(Play("mesh"), "liars", 0, 1, adversary="false-mean")
    with pytest.raises(LocalError, match="bucketed has no adversary 'false-update'"):
        search(NINE, "liars", 0, 1, adversary="false-update")


@pytest.mark.parametrize("name", ["false-mean", "short-mean", "two-means", "false-whole", "kept-mean", "false-result"])
def test_liars_can_neither_stop_a_round_nor_have_it_lost(name: str) -> None:
    tally = search(NINE, "liars", 100, 6, adversary=name)
    assert tally.outcomes["lost"] == tally.outcomes["abandoned"] == 0
    assert tally.outcomes["completed"] >= 5  # one may fail for want of a bucket that brought none


def test_more_liars_in_a_bucket_than_may_be_have_their_mean_certified_and_the_oracle_says_so() -> None:
    charter = cast_for("bucketed", 9, 1).charter
    bucket = charter.drawn_buckets[0]
    liars = tuple(charter.ids.index(peer) for peer in bucket[:2])
    found: set[str] = set()
    for seed in range(12):
        outcome = run_seed(NINE, seed, "none", hazards=Hazards(liars=liars), adversary="false-mean")
        found |= {one.clause for one in outcome.violations if "no honest member stated" in one.said}
    assert found == {"BU-2"}


def test_the_oracle_finds_a_mean_that_is_left_out() -> None:
    stage = played(stage_of(TWELVE, 5, "none"))
    assert not stage.oracle.violations
    ((place, values),) = [one for one in stage.oracle.certified.items() if one[0][2] == "survivors"]
    ((value, who),) = values.items()
    stage.oracle.certified[place] = {b"fail": who}
    stage.oracle.close()
    assert {one.clause for one in stage.oracle.violations} == {"BU-4"}
    assert value != b"fail"


# ── planted bugs ─────────────────────────────────────────────────────────────────────────────────────────────────────

SEEDS = {
    "c-statements": 2,
    "hearsay-holding": 11,
    "any-mean": 1,
    "absent-too-soon": 133,
    "c+1-buckets": 8,
    "any-relay": 53,
    "none-to-its-mates": 2,
    "no-early-relay": 52,
    "outcome-unshown": 7,
    "phase-for-good": 3,
}
"""The first seed that shows each bug, where that is not 0."""


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_found(name: str) -> None:
    mutant = PLANTED[name]
    assert mutant.clause in {one.clause for one in violations(mutant, SEEDS.get(name, 0))}


@pytest.mark.parametrize("name", PLANTED)
def test_the_real_machine_breaks_nothing_in_the_same_schedule(name: str) -> None:
    assert violations(PLANTED[name], SEEDS.get(name, 0), real=True) == ()


def test_every_clause_that_a_lone_peer_can_break_has_a_planted_bug() -> None:
    clauses = set(tomllib.loads((locate("specs") / "bucketed" / "spec.toml").read_text())["clause"])
    planted = {mutant.clause for mutant in PLANTED.values()}
    # who takes bytes in that were not stated shows in what it computes: any-mean, any-relay
    assert clauses - planted == {"BU-3", "BU-6"}
    assert set(SEEDS) <= set(PLANTED)
