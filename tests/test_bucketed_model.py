"""specs/bucketed/model.py: only a bucket's own mean counts, in every state, and each planted hole is found."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beside import SPECS, program

PATH = SPECS / "bucketed" / "model.py"
model = program(PATH)
Model = model.Model

SIZES = [(9, 1, 3), (11, 1, 3), (16, 1, 4), (20, 2, 4), (25, 2, 5), (49, 3, 7), (64, 4, 7)]


@pytest.mark.parametrize(("n", "c", "size"), SIZES)
def test_it_holds_whoever_lies_and_whoever_lacks_the_result(n: int, c: int, size: int) -> None:
    for liars in range(c + 1):
        for lacking in range(size - liars + 1):
            assert model.explore(Model(n, c, size, liars=liars, lacking=lacking)).counterexample is None


@given(st.integers(1, 4), st.integers(0, 3), st.integers(0, 2), st.integers(1, 4))
def test_it_holds_for_fewer_corrupt_in_a_bucket_than_in_all(c: int, more: int, extra: int, corrupt: int) -> None:
    most = min(corrupt, c)
    size = most + 2 + extra
    config = Model((2 * c + 1) * size + more, c, size, corrupt=most)
    assert model.explore(config).counterexample is None


HOLES = {
    "as many statements as may lie": ({"statements": 1}, "HonestMean"),
    "as many holdings as may lie": ({"names": 1}, "HonestMean"),
    "more liars in a bucket than may be": ({"liars": 2, "corrupt": 1, "n": 16, "c": 2}, "HonestMean"),
    "a quorum that liars are half of": ({"quorum": 2}, "NoneKeptOut"),
    "a quorum without c + 1 honest peers": ({"quorum": 5, "n": 20, "c": 3, "size": 5}, "NoneKeptOut"),
}


@pytest.mark.parametrize("hole", HOLES)
def test_a_planted_hole_is_found_under_its_invariant_and_by_steps_that_can_be_taken(hole: str) -> None:
    changes, invariant = HOLES[hole]
    config = Model(**{"n": 9, "c": 1, "size": 3, **changes})
    broken = model.explore(config).counterexample
    assert broken is not None and broken.invariant.name == invariant
    state = model.initial(config)
    for label in broken.trace:
        state = dict(model.steps(config, state))[label]
    assert broken.invariant.broken(config, state) == broken.why


def test_what_makes_no_protocol_is_refused_and_the_command_line_tells_what_it_found() -> None:
    for numbers in ((2, 1, 3), (9, 0, 3), (9, 1, 2)):
        with pytest.raises(ValueError, match="need c >= 1"):
            Model(*numbers)
    with pytest.raises(ValueError, match="can't lack a result"):
        Model(9, 1, 3, lacking=3)
    command = [sys.executable, str(PATH), "--n", "9", "--c", "1", "--size", "3"]
    fine = subprocess.run(command, capture_output=True, text=True, check=False)
    assert fine.returncode == 0 and "45 states" in fine.stdout and "holds: HonestMean" in fine.stdout
    broken = subprocess.run([*command, "--names", "1"], capture_output=True, text=True, check=False)
    assert broken.returncode == 1 and "BROKEN: HonestMean" in broken.stdout
