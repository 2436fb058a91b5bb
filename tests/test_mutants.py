"""Planted bugs are found: each mutant's recorded schedule shows it, and shows nothing of the real machines.

``benches/mutants.py`` searches for them from fresh seeds. Where a machine or the simulator has changed so that a
recorded seed shows nothing any more, ``python benches/mutants.py --name NAME --write`` finds and records another.
"""

from __future__ import annotations

import tomllib

import pytest

from decentra.data import locate
from decentra.simulation.hazards import MIXES, Mix
from decentra.simulation.search import search
from decentra.simulation.stage import Play
from mutants import CATALOGUE, HEADINGS, TABLE, described, recorded, rows, violations

ALL = list(CATALOGUE)
SEEDS = recorded()
PROMISES = ("ACCURACY", "HANG", "EQUIVOCATION")
"""What is no clause of one spec: nobody honest is named, every round ends, and who signs two things is named."""


@pytest.mark.parametrize("name", ALL)
def test_a_planted_bug_is_found(name: str) -> None:
    mutant = CATALOGUE[name]
    assert mutant.clause in {one.clause for one in violations(mutant, SEEDS[name])}


@pytest.mark.parametrize("name", ALL)
def test_the_real_machines_break_nothing_in_the_same_schedule(name: str) -> None:
    assert violations(CATALOGUE[name], SEEDS[name], real=True) == ()


@pytest.mark.parametrize("mix", MIXES)
def test_the_real_machines_break_nothing_in_schedules_of_every_kind(mix: Mix) -> None:
    assert not search(Play(n=5, c=1), mix, 0, 5).violating


def test_the_table_lists_every_mutant_as_the_catalogue_describes_it() -> None:
    assert [row[:4] for row in rows()] == [described(mutant) for mutant in CATALOGUE.values()]
    assert "| " + " | ".join(HEADINGS) + " |" in TABLE.read_text()


def test_there_are_enough_mutants_and_each_breaks_a_clause_of_a_spec() -> None:
    clauses: set[str] = set()
    for spec in ("certify", "mesh", "rendezvous", "secagg"):
        clauses |= set(tomllib.loads((locate("specs") / spec / "spec.toml").read_text())["clause"])
    assert len(ALL) >= 20
    assert {mutant.clause for mutant in CATALOGUE.values()} <= clauses | set(PROMISES)
