"""specs/secagg/model.py: the protocol holds in every reachable state, and each planted hole is found."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable
from itertools import combinations, pairwise, product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beside import SPECS, program

PATH = SPECS / "secagg" / "model.py"
TEXT = PATH.with_name("MODEL.md").read_text(encoding="utf-8")

model = program(PATH)
Model = model.Model
NAMES = [invariant.name for invariant in model.INVARIANTS]


def only(name: str) -> tuple[Any, ...]:
    return tuple(invariant for invariant in model.INVARIANTS if invariant.name == name)


def replay(config: Any, trace: Iterable[str]) -> Any:
    """The state at the end of a trace: every label must name a step that can be taken there."""
    state = model.initial(config)
    for label in trace:
        state = dict(model.steps(config, state))[label]
    return state


def walk(config: Any, choices: Iterable[int]) -> list[Any]:
    states = [model.initial(config)]
    for choice in choices:
        after = [state for _, state in model.steps(config, states[-1]) if isinstance(state, model.Voting)]
        if not after:
            break
        states.append(after[choice % len(after)])
    return states


CHOICES = st.lists(st.integers(0, 10_000), max_size=25)


# ---- what the explorer's shortcuts may not change --------------------------------------------------------------------


@given(CHOICES, st.permutations(range(3)), st.sampled_from([(0, 1, 2), (0, 2, 1)]))
def test_folding_never_changes_what_can_happen(choices: list[int], order: list[int], names: tuple[int, ...]) -> None:
    config = Model(4, 1, 3)
    for state in walk(config, choices):
        twin = model.Voting(tuple(model.renamed(state.records[i], names) for i in order))
        assert model.folded(config, twin) == model.folded(config, state)
        ahead = [{model.folded(config, after) for _, after in model.steps(config, s)} for s in (state, twin)]
        assert ahead[0] == ahead[1]
        for invariant in only("OneCertificate") + only("NoStuckProposer"):
            assert (invariant.broken(config, state) is None) == (invariant.broken(config, twin) is None)


@given(CHOICES, st.sampled_from(["tendermint", "none", "frozen", "stale"]), st.permutations([1, 1, 2]))
def test_a_run_over_three_values_is_a_run_over_two_when_values_are_merged(
    choices: list[int], lock: str, merge: list[int]
) -> None:
    many, few = Model(4, 1, 3, letters=3, lock=lock), Model(4, 1, 3, lock=lock)

    def merged(state: Any) -> Any:
        return model.Voting(tuple(model.renamed(record, (0, *merge)) for record in state.records))

    states = [merged(state) for state in walk(many, choices)]
    for before, after in pairwise(states):
        assert after in [state for _, state in model.steps(few, before)]


def test_without_symmetry_the_verdict_is_the_same_over_ten_times_the_states() -> None:
    plain = model.explore(Model(4, 1, 2), symmetry=False)
    assert plain == model.Exploration(9_162, 33, 50_508, None)
    assert "| 4, 1, no symmetry | 2 | 9,162 (33) | 50,508 |" in TEXT


@pytest.mark.parametrize("honest", [2, 3])
def test_computable_sums_are_exactly_those_of_the_linear_algebra(honest: int) -> None:
    """Over Z_4 and for all sets of rebuilt secrets: the coefficients in which no unknown pad is left."""
    peers = range(honest)
    subsets = [frozenset(s) for size in range(honest + 1) for s in combinations(peers, size)]
    for seeds, keys in product(subsets, repeat=2):
        bare = {
            a
            for a in product(range(4), repeat=honest)
            if all(i in seeds or a[i] == 0 for i in peers)
            and all(i in keys or j in keys or a[i] == a[j] for i, j in combinations(peers, 2))
        }
        sums = [[int(i in s) for i in peers] for s in model.computable(seeds, keys, frozenset(peers))]
        factors = product(range(4), repeat=len(sums))
        spanned = {tuple(sum(f * s[i] for f, s in zip(fs, sums, strict=True)) % 4 for i in peers) for fs in factors}
        assert bare == spanned


@pytest.mark.parametrize(("n", "c"), [(3, 1), (4, 1), (4, 2), (5, 1), (5, 2), (6, 1)])
def test_a_lying_proposer_can_justify_fail_and_every_set_of_survivors_above_the_floor(n: int, c: int) -> None:
    config = Model(n, c, 1)
    above = {
        tuple(k for k in survivors if k < n - c)
        for size in range(config.t, n + 1)
        for survivors in combinations(range(n), size)
    }
    assert set(model.outcomes(config)) == above | {model.NOTHING}
    assert all(len(survivors) >= 2 for survivors in above)  # SA-6


# ---- the protocol ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "c", "views", "states", "unmasking", "transitions"),
    [
        (3, 1, 2, 58, 4, 117),
        (3, 1, 3, 549, 4, 1_188),
        (3, 1, 4, 5_567, 4, 12_323),
        (4, 1, 2, 912, 17, 4_989),
        (4, 1, 3, 47_095, 17, 283_896),
        (4, 2, 3, 549, 4, 1_188),
        (5, 1, 2, 2_297, 26, 12_520),
        (5, 2, 2, 912, 17, 4_989),
    ],
)
def test_the_protocol_holds_in_every_reachable_state(
    n: int, c: int, views: int, states: int, unmasking: int, transitions: int
) -> None:
    found = model.explore(Model(n, c, views))
    assert found == model.Exploration(states, unmasking, transitions, None)
    assert f"| {n}, {c} | {views} | {states:,} ({unmasking}) | {transitions:,} |" in TEXT


@pytest.mark.parametrize(("n", "c"), [(3, 1), (4, 1), (4, 2), (5, 1)])
def test_a_third_value_in_play_breaks_nothing(n: int, c: int) -> None:
    assert model.explore(Model(n, c, 2, letters=3)).counterexample is None


@pytest.mark.parametrize(("n", "c", "views"), [(3, 1, 3), (4, 1, 2), (4, 2, 3), (5, 1, 2)])
@pytest.mark.parametrize("lock", ["tendermint", "none"])
def test_one_vote_a_round_is_safe_and_only_not_live(n: int, c: int, views: int, lock: str) -> None:
    safety = tuple(invariant for invariant in model.INVARIANTS if invariant.name != "NoStuckProposer")
    assert model.explore(Model(n, c, views, votes="per_round", lock=lock), invariants=safety).counterexample is None


@pytest.mark.parametrize(("n", "c"), [(3, 1), (4, 1), (4, 2), (5, 1), (5, 2), (6, 1)])
def test_a_single_view_holds(n: int, c: int) -> None:
    assert model.explore(Model(n, c, 1)).counterexample is None


@pytest.mark.parametrize(("n", "c"), [(3, 1), (4, 1), (5, 1), (6, 1), (7, 2)])
def test_at_the_full_floor_a_split_view_yields_no_lone_sum_even_without_certificates(n: int, c: int) -> None:
    found = model.explore(Model(n, c, 1, unmask="word"), invariants=only("NoLoneSum") + only("OneSecret"))
    assert found.counterexample is None
    assert found.states == found.unmasking


# ---- holes: each must be found, in a trace that can really happen ----------------------------------------------------

HOLES: dict[str, tuple[str, dict[str, Any], str]] = {
    "a quorum one too low": ("OneCertificate", {"quorum": 2}, "A and B are both certified"),
    "two votes and no lock": ("OneCertificate", {"lock": "none"}, "A and B are both certified"),
    "one vote a view and no lock": ("OneCertificate", {"votes": "single"}, "A and B are both certified"),
    "a lock that moves on older prepares": ("OneCertificate", {"lock": "stale", "views": 3}, "both certified"),
    "a commit after acting in a later view": ("OneCertificate", {"commits": "late"}, "A and B are both certified"),
    "one vote a round": ("NoStuckProposer", {"votes": "per_round"}, "offers A and {p1, p2} will prepare it"),
    "a lock that can never move": ("NoStuckProposer", {"lock": "frozen"}, "offers B and {p0, p1} will prepare it"),
    "both shares shown": ("OneSecret", {"shares": "both"}, "both secrets of {p0, p1, p2} can be rebuilt"),
    "a Shamir threshold one too low, by word": ("OneSecret", {"threshold": 2, "unmask": "word"}, "secrets of {p2}"),
    "a floor of c + 1": ("NoLoneSum", {"floor": 2}, "the sum over {p0}"),
    "a floor of c + 2 by word, at six": ("NoLoneSum", {"n": 6, "floor": 3, "unmask": "word"}, "the sum over {p0}"),
    "unmasking on a proposer's word": ("FreedStaysHidden", {"unmask": "word"}, "and fail frees {p0, p1}"),
}


@pytest.mark.parametrize("hole", HOLES)
def test_a_planted_hole_is_found(hole: str) -> None:
    name, planted, why = HOLES[hole]
    config = Model(**{"n": 4, "c": 1, "views": 2, **planted})
    # By word an update is freed and shown at once; where that isn't the hole meant, the invariant is checked alone.
    broken = model.explore(config, invariants=only(name) if "by word" in hole else model.INVARIANTS).counterexample
    assert broken is not None
    assert broken.invariant.name == name
    assert why in broken.why
    end = replay(config, broken.trace)
    assert broken.invariant.broken(config, end) == broken.why
    before = replay(config, broken.trace[:-1])
    assert broken.invariant.broken(config, before) is None


@pytest.mark.parametrize(("n", "c", "floor"), [(3, 1, 2), (4, 1, 2), (5, 1, 2), (5, 2, 3)])
def test_a_floor_of_c_plus_1_bares_one_update_under_a_certificate(n: int, c: int, floor: int) -> None:
    broken = model.explore(Model(n, c, 1, floor=floor)).counterexample
    assert broken.invariant.name == "NoLoneSum"


@pytest.mark.parametrize(("n", "c"), [(3, 1), (4, 1), (4, 2), (5, 2)])
def test_a_quorum_one_too_low_certifies_two_values(n: int, c: int) -> None:
    config = Model(n, c, 1)
    broken = model.explore(Model(n, c, 1, quorum=config.t - 1), invariants=only("OneCertificate")).counterexample
    assert broken.invariant.name == "OneCertificate"


def test_at_six_an_update_is_bare_though_no_peer_loses_both_secrets() -> None:
    config = Model(6, 1, 1, floor=3, unmask="word")
    broken = model.explore(config, invariants=only("NoLoneSum")).counterexample
    end = replay(config, broken.trace)
    (one_secret,) = only("OneSecret")
    assert one_secret.broken(config, end) is None


def test_a_trace_names_the_same_peers_throughout() -> None:
    broken = model.explore(Model(4, 1, 2, lock="frozen")).counterexample
    assert broken.trace == (
        "p0 prepares A in view 0",
        "p1 prepares A in view 0",
        "p2 commits A in view 0",
        "p0 prepares B in view 1",
        "p1 prepares B in view 1",
        "p0 commits B in view 1",
    )


# ---- the table, the program ------------------------------------------------------------------------------------------


def test_every_invariant_stands_for_clauses_and_has_a_hole_that_breaks_it() -> None:
    assert {invariant.name: invariant.clauses for invariant in model.INVARIANTS} == {
        "OneCertificate": ("SA-5",),
        "NoStuckProposer": ("SA-5",),
        "OneSecret": ("SA-3",),
        "NoLoneSum": ("SA-6", "SA-7"),
        "FreedStaysHidden": ("SA-4", "SA-7"),
    }
    assert {name for name, _, _ in HOLES.values()} == set(NAMES)
    for invariant in model.INVARIANTS:
        assert f"| {invariant.name} | {', '.join(invariant.clauses)} | {invariant.says} |" in TEXT


def test_the_model_imports_the_standard_library_alone() -> None:
    tree = ast.parse(PATH.read_text(encoding="utf-8"))
    names = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert {name.partition(".")[0] for name in names} <= set(sys.stdlib_module_names)


def test_the_program_reports_what_holds(capsys: pytest.CaptureFixture[str]) -> None:
    assert model.main(["--n", "3", "--c", "1", "--views", "2"]) == 0
    told = capsys.readouterr().out
    assert "n = 3, c = 1, t = 3, 2 views: 58 states" in told
    assert all(name in told for name in NAMES)


def test_the_program_shows_the_way_to_what_is_broken(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        model.main(["--n", "4", "--c", "1", "--views", "2", "--votes", "per_round", "--only", "NoStuckProposer"]) == 1
    )
    broken, *trace = capsys.readouterr().out.splitlines()[1:]
    assert broken.startswith("BROKEN: NoStuckProposer (SA-5): with {p0, p1, p2} live, a later proposer offers A")
    assert trace == ["   1. p0 prepares A in view 0"]


@pytest.mark.parametrize("numbers", [{"n": 3, "c": 2}, {"n": 3, "c": 0}, {"n": 4, "c": 1, "floor": 1}, {"views": 0}])
def test_numbers_that_make_no_protocol_are_refused(numbers: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"need 1 <= c|choose one above"):
        Model(**{"n": 4, "c": 1, "views": 1, **numbers})


def test_the_program_refuses_them_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        model.main(["--n", "3", "--c", "2", "--views", "1"])
    assert ended.value.code == 2
    assert "c <= n - 2" in capsys.readouterr().err
