"""specs/shamir-gram/model.py: one matrix, nothing false and no honest update is opened, in every state, and each
planted hole is found."""

from __future__ import annotations

import subprocess
import sys

import pytest

from beside import SPECS, program

PATH = SPECS / "shamir-gram" / "model.py"
model = program(PATH)
Model = model.Model


@pytest.mark.parametrize("liar", range(4))
def test_it_holds_of_four_whoever_lies(liar: int) -> None:
    found = model.explore(Model(4, liar))
    assert found.counterexample is None
    assert found.opened == {model.TRUE, model.UNDECIDED}


@pytest.mark.parametrize(("liar", "slow"), [(0, 1), (2, 1), (4, 2)])
def test_it_holds_of_five_whoever_lies(liar: int, slow: int) -> None:
    found = model.explore(Model(5, liar, slow))
    assert found.counterexample is None
    assert found.opened == {model.TRUE, model.UNDECIDED}


def test_of_five_no_single_liar_keeps_a_matrix_from_those_who_are_not_late() -> None:
    """Its words are corrected where all others' are there; of four they are seen, and fail the round."""
    everybody = frozenset({0, 1, 2, 3, model.LIAR})
    value = model.Value(everybody, everybody, frozenset())
    assert model.opened(Model(5), value, everybody, True) == model.TRUE
    assert model.opened(Model(5), value, everybody - {0}, True) == model.UNDECIDED
    four = everybody - {3}
    assert model.opened(Model(4), model.Value(four, four, frozenset()), four, True) == model.UNDECIDED


HOLES = {
    "no vote on what checks come to": (5, {"vote": False}, "OneMatrix"),
    "a share is shown to who denies it": (4, {"denied_shown": True}, "NoBareUpdate"),
    "a suspect is held to have lied": (4, {"blobs": False}, "OnlyLiarsProved"),
    "a suspect of five is held to have lied": (5, {"blobs": False}, "OnlyLiarsProved"),
    "silence proves": (4, {"silence_proves": True}, "NothingFalseOpened"),
    "silence of five proves": (5, {"silence_proves": True}, "NothingFalseOpened"),
}


@pytest.mark.parametrize("hole", HOLES)
def test_a_planted_hole_is_found_under_its_invariant_and_by_steps_that_can_be_taken(hole: str) -> None:
    n, changes, invariant = HOLES[hole]
    config = Model(n, slow=1, **changes)
    broken = model.explore(config).counterexample
    assert broken is not None and broken.invariant.name == invariant
    state = model.initial(config)
    for label in broken.trace:
        state = dict(model.steps(config, state))[label]
    assert broken.invariant.broken(config, state) == broken.why


def test_what_makes_no_protocol_is_refused_and_the_command_line_tells_what_it_found() -> None:
    for numbers in ((3, 0), (7, 0), (4, 4), (4, 0, 4)):
        with pytest.raises(ValueError, match="need 4 <= n <= 6"):
            Model(*numbers)
    command = [sys.executable, str(PATH), "--n", "4"]
    fine = subprocess.run(command, capture_output=True, text=True, check=False)
    assert fine.returncode == 0 and "states" in fine.stdout and "holds: NoBareUpdate" in fine.stdout
    broken = subprocess.run([*command, "--no-blobs"], capture_output=True, text=True, check=False)
    assert broken.returncode == 1 and "BROKEN: OnlyLiarsProved" in broken.stdout
