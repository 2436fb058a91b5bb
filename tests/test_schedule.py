"""Group gossip: the schedule's vectors and properties, its model against theory, and the real machines against both."""

from __future__ import annotations

import inspect
import json
import math
import re
from dataclasses import replace
from fractions import Fraction
from itertools import combinations, product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from typer.testing import CliRunner

from beside import SPECS, vectors
from decentra import derive
from decentra.charter.policy import Policy
from decentra.cli import grid as command
from decentra.cli.app import app
from decentra.crypto.hashing import digest
from decentra.errors import LocalError
from decentra.gossip import schedule
from decentra.gossip.group import group_charter
from decentra.gossip.schedule import Grid
from decentra.simulation.grid import Mixing, Play, Told, large_charter
from decentra.simulation.group import identities
from decentra.simulation.mixing import Mixed, error, expected, mix
from decentra.types import PeerId

VECTORS = vectors("group-gossip")
SCRIPT, FILES, ALL, cases = VECTORS.script, VECTORS.names, VECTORS.parameters, VECTORS.cases


# ── vectors ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_function_has_vectors_and_a_formula() -> None:
    public = [
        name
        for name, value in inspect.getmembers(schedule, inspect.isfunction)
        if value.__module__ in ("decentra.gossip.schedule", "decentra.grids") and not name.startswith("_")
    ]
    of_buckets = {"bucket_name", "combining_name"}  # specs/bucketed has them
    assert sorted({*FILES, "lines", *of_buckets}) == public, "lines is groups in another form: a property compares them"
    assert sorted(SCRIPT.INPUTS) == sorted(FORMULAS) == FILES
    for name in FILES:
        assert len({case["name"] for case in cases(name)}) == len(cases(name)) > 1


@pytest.mark.parametrize("function", FILES)
def test_the_files_are_what_the_script_writes(function: str) -> None:
    assert VECTORS.text(function) == SCRIPT.rendered(function)


@pytest.mark.parametrize(("function", "case"), ALL)
def test_the_formula_of_the_readme_gives_the_known_answer(function: str, case: dict[str, Any]) -> None:
    inputs = {key: value for key, value in case.items() if key not in ("name", "output")}
    assert FORMULAS[function](**inputs) == case["output"]


@pytest.mark.parametrize("function", FILES)
def test_what_is_named_for_a_change_gives_another_output(function: str) -> None:
    honest, *rest = cases(function)
    assert all(case["output"] != honest["output"] for case in rest if case["name"].startswith("other-"))


# ── the README's formulas, written as it has them ────────────────────────────────────────────────────────────────────


def named_grid(n: int, group: int, c: int) -> list[int]:
    if n <= group:
        return [n, 1, 1]
    for k in range(1, n):
        fits = []
        for d in range(1, 2) if k == 1 else range(2, n + 1):
            size = Fraction(n, d ** (k - 1))
            if d**k > n:
                break
            near = size**2 <= 2 * group**2 and Fraction(group) ** 2 <= 2 * size**2
            if near and math.floor(size) >= c + 2 and math.ceil(size) <= 64:
                fits.append((abs(size - group), d))
        if fits:
            return [n, min(fits)[1], k]
    raise AssertionError("nothing fits")


def named_coordinates(grid: list[int]) -> list[list[int]]:
    n, d, k = grid
    out = []
    for place in range(n):
        z = place % d**k
        first = [z % d ** (k - 1) // d**axis % d for axis in range(k - 1)]
        out.append([*first, (z // d ** (k - 1) - sum(first)) % d])
    return out


def named_groups(grid: list[int], axis: int) -> list[list[int]]:
    found: dict[tuple[int, ...], list[int]] = {}
    for place, cell in enumerate(named_coordinates(grid)):
        found.setdefault(tuple(cell[:axis] + cell[axis + 1 :]), []).append(place)
    return [found[other] for other in sorted(found, key=lambda other: other[::-1])]


def named_unit(grid: list[int]) -> int:
    n, d, k = grid
    return math.lcm(n // d**k, -(-n // d**k))


def named_weight(grid: list[int], axis: int, place: int, held: int, most: int = 1) -> int:
    mine = named_coordinates(grid)
    return min(max(1, held // mine.count(mine[place])), named_heaviest(grid, axis, most))


def named_heaviest(grid: list[int], axis: int, most: int) -> int:
    n, d, k = grid
    if axis == 0:
        return most
    behind = min(n, d ** (axis - 1) * -(-n // d ** (k - 1)))
    return most * behind * named_unit(grid) // (n // d**k)


def named_risk(n: int, size: int, liars: int, c: int) -> Fraction:
    ways = sum(math.comb(liars, i) * math.comb(n - liars, size - i) for i in range(c + 1, size + 1))
    return Fraction(ways, math.comb(n, size))


def named_mixing_risk(grid: list[int], liars: int, c: int) -> str:
    n, _, k = grid
    sizes = [len(one) for axis in range(k) for one in named_groups(grid, axis)]
    return float(min(1, sum(named_risk(n, size, liars, c) for size in sizes))).hex()


def raw(*values: str) -> list[bytes]:
    return [bytes.fromhex(value) for value in values]


FORMULAS: dict[str, Any] = {
    "grid": named_grid,
    "places": lambda charter, beacon, peers: sorted(peers, key=lambda one: digest("place", *raw(charter, beacon, one))),
    "coordinates": named_coordinates,
    "groups": named_groups,
    "group_name": lambda charter, beacon, axis, members: digest(
        "group", *raw(charter, beacon), axis, len(members), *raw(*sorted(members))
    ).hex(),
    "drawers_name": lambda charter: digest("drawers", *raw(charter)).hex(),
    "drawn": lambda charter, beacon: digest("drawn", *raw(charter, beacon)).hex(),
    "first_round": lambda mixing: 3 * mixing + 1,
    "mixing_of": lambda number: (number - 1) // 3,
    "fingerprint": lambda model, mixing: digest("mixing", *raw(model), mixing).hex(),
    "held": lambda grid, axis, total: total * (named_unit(grid) if axis == 0 else 1),
    "weight": named_weight,
    "heaviest": named_heaviest,
    "risk": lambda **inputs: float(named_risk(**inputs)).hex(),
    "mixing_risk": named_mixing_risk,
}


# ── who meets whom ───────────────────────────────────────────────────────────────────────────────────────────────────

grids = st.builds(schedule.grid, st.integers(3, 1500), st.integers(5, 45))


@given(grids)
def test_every_peer_is_in_exactly_one_group_a_round_and_no_group_is_below_the_floor(grid: Grid) -> None:
    for axis in range(grid.axes):
        groups = schedule.groups(grid, axis)
        assert sorted(place for group in groups for place in group) == list(range(grid.n))
        assert len(groups) == grid.lines
        assert {min(map(len, groups)), max(map(len, groups))} == set(grid.sizes)
        assert grid.sizes[0] >= 3 and grid.sizes[1] - grid.sizes[0] <= 1 and grid.sizes[1] <= 64
        assert [int(schedule.lines(grid, axis)[group[0]]) for group in groups] == list(range(grid.lines))


@given(st.builds(schedule.grid, st.integers(30, 400), st.integers(5, 12)))
def test_two_groups_of_different_axes_share_one_cell_at_most(grid: Grid) -> None:
    cell = -(-grid.n // grid.cells)
    for one, other in combinations(range(grid.axes), 2):
        pairs = schedule.lines(grid, one) * grid.lines + schedule.lines(grid, other)
        assert np.bincount(pairs).max() <= cell


@given(st.integers(3, 20_000), st.integers(5, 45))
def test_a_size_from_five_on_has_a_grid_for_any_number_of_peers_within_a_factor_of_it(n: int, group: int) -> None:
    grid = schedule.grid(n, group)
    fewest, most = grid.sizes
    assert grid.cells <= n
    assert n <= group or (fewest >= math.floor(group / math.sqrt(2)) and most <= math.ceil(group * math.sqrt(2)))


@pytest.mark.parametrize(("n", "group", "c"), [(17, 3, 1), (23, 4, 1), (100, 8, 10)])
def test_where_no_grid_keeps_the_floor_it_is_refused_and_the_size_that_is_named_has_one(
    n: int, group: int, c: int
) -> None:
    with pytest.raises(LocalError, match="have no grid") as caught:
        schedule.grid(n, group, c)
    mend = re.search(r"aim at groups of (\d+)$", str(caught.value))
    assert mend is not None and schedule.grid(n, int(mend[1]), c).sizes[0] >= c + 2


@pytest.mark.parametrize(("n", "group", "c"), [(100, 2, 1), (100, 46, 1), (2, 16, 1), (100, 16, 0), (5, 16, 4)])
def test_sizes_and_thresholds_out_of_range_are_refused(n: int, group: int, c: int) -> None:
    with pytest.raises(LocalError, match=r"out of 3\.\.45|can't be grouped"):
        schedule.grid(n, group, c)


@given(st.binary(min_size=32, max_size=32), st.integers(3, 60), st.randoms())
def test_places_depend_on_the_set_of_peers_and_the_beacon_alone(beacon: bytes, n: int, random: Any) -> None:
    peers = [PeerId(digest("peer", index)) for index in range(n)]
    drawn = schedule.places(b"charter", beacon, peers)
    random.shuffle(peers)
    assert schedule.places(b"charter", beacon, peers) == drawn
    assert sorted(drawn) == sorted(peers)


def test_ids_ground_against_one_beacon_are_strangers_under_the_next() -> None:
    """Ten peers that share a group under the beacon that they knew are spread over the groups under another."""
    peers = [PeerId(digest("peer", index)) for index in range(256)]
    grid = schedule.grid(256, 16)
    first = schedule.places(b"charter", bytes(32), peers)
    together = [first[place] for place in schedule.groups(grid, 0)[0]]
    assert len(together) == 16
    later = schedule.places(b"charter", digest("beacon"), peers)
    index = schedule.lines(grid, 0)
    lines = [int(index[later.index(peer)]) for peer in together]
    assert np.bincount(lines).max() <= 5


# ── weights and means ────────────────────────────────────────────────────────────────────────────────────────────────


def played(grid: Grid, seed: int, lost: list[NDArray[np.bool_]] | None = None, **how: Any) -> tuple[list[Mixed], Any]:
    values = np.random.default_rng(seed).normal(size=(grid.n, 2))
    return list(mix(grid, values, lost or [], **how)), values


@given(grids, st.integers(0, 9))
def test_without_losses_all_hold_the_exact_mean_and_the_weights_are_conserved(grid: Grid, seed: int) -> None:
    states, values = played(grid, seed)
    together = np.array([grid.together(place) for place in range(grid.n)])
    for state in states:
        assert (state.held % together == 0).all()
        assert (state.held // together).sum() == grid.side ** (state.axis + 1) * grid.n * grid.unit
    last = states[-1]
    assert last.holds.all() and (last.held == grid.n * grid.unit).all()
    assert np.abs(last.values - values.mean(axis=0)).max() < 1e-12


@given(st.builds(schedule.grid, st.integers(3, 300), st.integers(5, 20)), st.data())
def test_a_weight_divides_without_a_remainder_and_stays_within_the_axis_s_charter(grid: Grid, data: Any) -> None:
    """Fractions of the weights 1..most, block by block, as the README has them."""
    most = data.draw(st.integers(1, 5))
    own = np.array(data.draw(st.lists(st.integers(1, most), min_size=grid.n, max_size=grid.n)))
    held = [0] * grid.n
    for axis in range(grid.axes):
        for group in schedule.groups(grid, axis):
            brought = [
                schedule.weight(grid, axis, place, held[place], most) if axis else int(own[place]) for place in group
            ]
            if axis:
                assert all(held[place] % grid.together(place) == 0 for place in group)
                assert sum(brought) == sum(Fraction(held[place], grid.together(place)) for place in group)
            assert max(brought) <= schedule.heaviest(grid, axis, most)
            assert len(group) * schedule.heaviest(grid, axis, most) < 2**31
            for place in group:
                held[place] = schedule.held(grid, axis, sum(brought))
    assert set(held) == {int(own.sum()) * grid.unit}


def test_an_overstated_weight_is_cut_where_it_is_brought_on() -> None:
    grid = schedule.grid(1000, 16)
    for axis in range(1, 3):
        most = schedule.heaviest(grid, axis)
        assert schedule.weight(grid, axis, 999, 10**9) == most
        assert schedule.weight(grid, axis, 0, 0) == 1


@given(grids, st.integers(0, 9), st.floats(0.0, 0.5), st.booleans())
def test_with_losses_every_estimate_is_a_mean_and_only_what_came_through_is_in_it(
    grid: Grid, seed: int, part: float, floor: bool
) -> None:
    """Of a value that is 1 everywhere the estimates are 1: the weights sum to 1, whoever is lost."""
    rng = np.random.default_rng(seed)
    lost = [rng.random(grid.n) < part / grid.axes for _ in range(grid.axes)]
    held = np.full(grid.n, grid.n * grid.unit)
    for state in mix(grid, np.ones((grid.n, 1)), lost, floor=floor):
        assert np.abs(state.values[state.holds] - 1.0).max(initial=0.0) < 1e-12
        assert not (state.holds & lost[state.axis]).any()
        assert (state.squares[state.holds] >= 1 / grid.n - 1e-12).all()
        assert (state.held[state.holds] <= held[state.holds]).all()


@given(grids, st.integers(0, 99))
def test_a_peer_whose_group_failed_weighs_nothing_for_the_rest_of_the_mixing(grid: Grid, pick: int) -> None:
    """All but the quorum's lack of one group are lost along the first axis: nobody of it holds anything again."""
    group = schedule.groups(grid, 0)[pick % grid.lines]
    floor = max(-(-2 * len(group) // 3), derive.quorum(len(group), 1))
    lost = np.zeros(grid.n, np.bool_)
    lost[list(group[: len(group) - floor + 1])] = True
    values = np.zeros((grid.n, 1))
    values[list(group)] = 1e6
    states = list(mix(grid, values, [lost]))
    assert states[0].failed == 1
    for state in states:
        assert not state.holds[list(group)].any()
        assert (state.values[state.holds] == 0.0).all(), "and nothing of it is in anybody's mean"


# ── theory ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def losses(grid: Grid, part: float, rng: np.random.Generator) -> tuple[list[NDArray[np.bool_]], list[float]]:
    """A part of the peers, each lost before a random axis; and what is there until each."""
    gone, when = rng.random(grid.n) < part, rng.integers(0, grid.axes, grid.n)
    return [gone & (when == axis) for axis in range(grid.axes)], [
        1.0 - part * (axis + 1) / grid.axes for axis in range(grid.axes)
    ]


@pytest.mark.parametrize(("n", "group"), [(64, 16), (1000, 16), (1000, 8), (2197, 13), (2900, 20)])
@pytest.mark.parametrize("part", [0.0, 0.1, 0.25])
def test_the_error_after_each_round_is_what_theory_says(n: int, group: int, part: float) -> None:
    grid = schedule.grid(n, group)
    rng = np.random.default_rng(n)
    squared = np.zeros(grid.axes)
    runs = 40 if n < 1000 else 12
    for _ in range(runs):
        values = rng.normal(size=(n, 24))
        lost, there = losses(grid, part, rng)
        deviation = values.var(axis=0, ddof=1).mean()
        states = mix(grid, values, lost, floor=False)
        squared += [error(state, values.mean(axis=0)) ** 2 / deviation for state in states]
    said = np.array(expected(grid, there))
    if part == 0.0:
        assert said[-1] == 0.0 and squared[-1] < 1e-24
        said, squared = said[:-1], squared[:-1]
    assert np.abs(np.sqrt(squared / runs) / np.sqrt(said) - 1.0).max() < 0.15


@pytest.mark.parametrize(("n", "group", "part"), [(1000, 16, 0.3), (1000, 20, 0.25), (4096, 16, 0.3), (900, 30, 0.3)])
def test_with_groups_that_fail_as_well_the_error_is_what_theory_says(n: int, group: int, part: float) -> None:
    grid, rng = schedule.grid(n, group), np.random.default_rng(n)
    squared, said, failed = 0.0, 0.0, 0
    for _ in range(12):
        values = rng.normal(size=(n, 24))
        lost, _ = losses(grid, part, rng)
        shares, whole, holds = list[float](), [1.0], np.ones(n, np.bool_)
        for state in mix(grid, values, lost, c=4):
            index = schedule.lines(grid, state.axis)
            sound = np.bincount(index, state.holds, minlength=grid.lines)[index] > 0
            shares.append(float((holds & ~lost[state.axis])[sound].mean()))
            whole.append(whole[-1] * (1.0 - state.failed / grid.lines))
            holds, failed = state.holds, failed + state.failed
        squared += error(state, values.mean(axis=0)) ** 2 / values.var(axis=0, ddof=1).mean()
        said += expected(grid, shares, whole)[-1]
    assert failed > 12
    assert abs(math.sqrt(squared / said) - 1.0) < 0.2


def test_the_squares_that_the_model_carries_are_those_of_the_coefficients() -> None:
    """The estimates of n unit vectors are the coefficients themselves."""
    grid = schedule.grid(90, 9)
    lost, _ = losses(grid, 0.2, np.random.default_rng(3))
    for state in mix(grid, np.eye(90), lost):
        assert np.allclose((state.values[state.holds] ** 2).sum(axis=1), state.squares[state.holds])
        assert np.allclose(state.values[state.holds].sum(axis=1), 1.0)


@given(grids, st.integers(3, 11), st.integers(2, 4))
def test_without_losses_the_rate_is_no_worse_than_moshpit_s_where_cells_hold_one_peer(
    grid: Grid, side: int, axes: int
) -> None:
    """In the first round whatever the grid; in the last one nothing is left."""
    for one in (grid, Grid(side**axes, side, axes)):
        bound = (one.lines - 1) / one.n + one.lines / one.n**2
        rates = [rate * (one.n - 1) / one.n for rate in expected(one, [1.0] * one.axes)]
        checked = rates if one.n == one.cells else rates[:1]
        assert all(rate <= bound ** (axis + 1) * 1.0001 for axis, rate in enumerate(checked))
        assert rates[-1] == 0.0


def test_a_second_mixing_in_which_nobody_is_lost_makes_all_equal_again() -> None:
    grid = schedule.grid(1000, 16)
    rng = np.random.default_rng(5)
    lost, _ = losses(grid, 0.1, rng)
    *_, first = mix(grid, rng.normal(size=(1000, 4)), lost)
    assert np.ptp(first.values[first.holds], axis=0).min() > 1e-3
    rest = schedule.grid(int(first.holds.sum()), 16)
    *_, second = mix(rest, first.values[first.holds])
    assert np.ptp(second.values, axis=0).max() < 1e-12


def test_a_hundred_thousand_peers_mix_as_theory_says() -> None:
    grid = schedule.grid(100_000, 16)
    rng = np.random.default_rng(7)
    values = rng.normal(size=(grid.n, 4))
    lost, there = losses(grid, 0.1, rng)
    for state, said in zip(mix(grid, values, lost), expected(grid, there), strict=True):
        assert state.failed <= 0.01 * grid.lines
        assert 0.7 < error(state, values.mean(axis=0)) / math.sqrt(said) < 1.4


# ── liars ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("n", "size"), [(4, 2), (7, 3), (9, 4), (10, 7)])
def test_the_risk_is_what_counting_every_group_gives(n: int, size: int) -> None:
    for liars, c in product(range(n + 1), range(size)):
        drawn = list(combinations(range(n), size))
        bad = sum(sum(peer < liars for peer in group) > c for group in drawn)
        assert schedule.risk(n, size, liars, c) == float(Fraction(bad, len(drawn)))


def test_the_bound_over_a_mixing_holds_for_draws() -> None:
    grid, rng = schedule.grid(60, 6), np.random.default_rng(11)
    index = [schedule.lines(grid, axis) for axis in range(grid.axes)]
    liars = np.arange(60) < 6
    drawn = [rng.permutation(liars) for _ in range(2000)]
    over = [max(np.bincount(line[lies], minlength=1).max() for line in index) > 2 for lies in drawn]
    bound = schedule.mixing_risk(grid, 6, 2)
    assert 0.5 * bound < np.mean(over) < bound + 0.02
    with pytest.raises(LocalError, match="can't be drawn"):
        schedule.risk(10, 11, 2, 1)


def test_the_readme_s_table_of_risks_is_the_function_s() -> None:
    rows = re.findall(
        r"^\| ([\d,]+) \| (\d+) \| (\d+) × (\d+) of (\d+) or (\d+) \| (\d+) \| (\d+) % \| (\S+) \| (\S+) \|$",
        (SPECS / "group-gossip" / "README.md").read_text("utf-8"),
        re.MULTILINE,
    )
    assert len(rows) == 6
    for n, group, axes, lines, fewest, most, c, part, one, any_ in rows:
        grid = schedule.grid(int(n.replace(",", "")), int(group), int(c))
        assert (grid.axes, grid.lines, *grid.sizes) == (int(axes), int(lines), int(fewest), int(most))
        liars = grid.n * int(part) // 100
        assert f"{schedule.risk(grid.n, grid.sizes[1], liars, int(c)):.1e}" == one
        assert f"{schedule.mixing_risk(grid, liars, int(c)):.1e}" == any_


# ── charters of groups ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_group_s_charter_is_sound_and_another_one_for_whatever_differs() -> None:
    members = identities(24, 0)
    parent, grid = large_charter(members, 1, 5), schedule.grid(24, 5)
    assert not Policy(parent).problems
    name, drawn = parent.hash, schedule.places(parent.hash, bytes(32), parent.ids)
    groups = [(axis, [drawn[place] for place in one]) for axis in range(2) for one in schedule.groups(grid, axis)]
    made = [group_charter(parent, name, bytes(32), axis, grid, one) for axis, one in groups]
    assert len({charter.hash for charter in made}) == len(made) == 2 * grid.lines
    for (axis, one), charter in zip(groups, made, strict=True):
        assert not Policy(charter).problems
        assert charter.ids == tuple(sorted(one))
        assert charter.protocol.max_weight == schedule.heaviest(grid, axis)
        assert charter.group.epoch == parent.group.epoch and not charter.signatures
        assert charter.rounds.ready_deadline == (axis + 1) * 120.0 + axis * 30.0
    axis, one = groups[0]
    assert group_charter(parent, name, bytes(32), axis, grid, one[::-1]).hash == made[0].hash
    assert group_charter(parent, name, digest("other"), axis, grid, one).hash != made[0].hash
    assert group_charter(parent, digest("other"), bytes(32), axis, grid, one).hash != made[0].hash
    stranger = identities(1, 9)[0].id
    with pytest.raises(LocalError, match="no members"):
        group_charter(parent, name, bytes(32), axis, grid, [*one, stranger])
    with pytest.raises(LocalError, match="beacon has 32 bytes"):
        group_charter(parent, name, b"short", axis, grid, one)


# ── the real machines ────────────────────────────────────────────────────────────────────────────────────────────────


def run(play: Play) -> tuple[Mixing, list[Told]]:
    mixing = Mixing(play)
    return mixing, list(mixing.rounds())


@pytest.fixture(scope="module")
def sixty_four() -> tuple[Mixing, list[Told]]:
    return run(Play(64, 4, 1, seed=2, size=64))


def test_sixty_four_real_peers_hold_the_exact_mean_after_the_last_axis(sixty_four: tuple[Mixing, list[Told]]) -> None:
    mixing, told = sixty_four
    assert (mixing.grid.axes, mixing.grid.sizes) == (3, (4, 4))
    assert [one.holders for one in told] == [64] * 3 and not any(one.failed for one in told)
    assert all(0.8 < one.error / one.expected < 1.25 for one in told[:-1])
    assert told[-1].expected == 0.0 and told[-1].worst < command.EXACT
    assert {one.held for one in mixing.standing.values()} == {64}


def test_bytes_a_peer_and_round_do_not_grow_with_the_number_of_peers(sixty_four: tuple[Mixing, list[Told]]) -> None:
    _, few = run(Play(4, 4, 1, seed=2, size=64))
    for one in sixty_four[1]:
        assert one.bytes == pytest.approx(few[0].bytes, rel=0.01)


def test_the_model_and_the_real_machines_agree_on_an_uneven_grid_with_peers_lost_and_a_group_failed() -> None:
    mixing = Mixing(Play(30, 5, 1, seed=4, size=16))
    grid = mixing.grid
    assert (grid.axes, grid.sizes, grid.unit) == (2, (6, 6), 2)
    first = schedule.groups(grid, 0)
    lost = [np.zeros(30, np.bool_) for _ in range(2)]
    lost[0][[*first[0][:3], first[1][0]]] = True  # 3 of 6 are below the floor of 4
    lost[1][first[2][0]] = True
    model = mix(grid, mixing.values.astype(np.float64), lost)
    real = mixing.rounds()
    for gone, state in zip(lost, model, strict=True):
        for place in np.flatnonzero(gone).tolist():
            mixing.standing.pop(place)
        told = next(real)
        assert sorted(mixing.standing) == np.flatnonzero(state.holds).tolist()
        assert told.failed == state.failed
        for place, one in mixing.standing.items():
            assert one.held == state.held[place]
            assert np.abs(one.values - state.values[place]).max() < 1e-7
    assert told.holders == 30 - 6 - 2


def test_peers_that_stop_at_random_instants_leave_the_others_a_mean() -> None:
    mixing, told = run(Play(36, 6, 1, seed=6, lost=0.1, size=64))
    last = told[-1]
    assert last.stopped == len(mixing.stops) == 4
    assert not set(mixing.standing) & set(mixing.stops)
    assert last.holders >= 18
    assert 0.4 < last.error / last.expected < 2.5


def test_a_seed_gives_the_same_mixing_again_and_real_cryptography_the_same_mean() -> None:
    play = Play(12, 6, 1, seed=3, lost=0.1, size=8)
    (one, first), (other, second) = run(play), run(play)
    assert [replace(told, seconds=0.0) for told in first] == [replace(told, seconds=0.0) for told in second]
    assert {at: mine.values.tobytes() for at, mine in one.standing.items()} == {
        at: mine.values.tobytes() for at, mine in other.standing.items()
    }
    mixing, told = run(replace(play, lost=0.0, crypto="real"))
    assert told[-1].worst < command.EXACT and len(mixing.standing) == 12


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────────


def decentra(*words: str | int) -> tuple[int, str, str]:
    line = ["simulate", "--protocol", "group-gossip", *map(str, words)]
    result = CliRunner().invoke(app, line, prog_name="decentra", catch_exceptions=False)
    return result.exit_code, result.stdout, result.stderr


def test_the_command_tells_error_and_cost_of_every_round() -> None:
    code, out, err = decentra("-n", 16, "--group", 4)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("group-gossip, n = 16 on a grid of 4 × 4, 4 groups of 4, c = 1, ideal crypto, 0% of")
    assert [line.partition(":")[0] for line in lines[1:3]] == ["round 1", "round 2"]
    assert lines[3] == "16 of 16 peers hold the mean of all 16, exactly"


def test_json_holds_the_costs_against_those_of_fewer_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert command.COMPARED == 64
    monkeypatch.setattr(command, "COMPARED", 9)
    code, out, _ = decentra("-n", 16, "--group", 4, "--lost", 0.1, "--json")
    data = json.loads(out)
    assert code == 0
    assert (data["protocol"], data["n"], data["lost"], data["compared"]["n"]) == ("group-gossip", 16, 0.1, 9)
    assert len(data["rounds"]) == data["axes"]
    assert data["bytes_per_peer"] > 0 and data["cpu_per_peer"] > 0 and data["memory"] < 4 << 30


def test_nobody_that_stopped_is_counted_among_those_who_hold_the_mean() -> None:
    """A stop may come after its round's end: seed 0 has one such, which held the mean and was gone."""
    for seed in range(4):
        _, told = run(Play(10, 4, 1, seed=seed, lost=0.2, size=4))
        assert all(one.stopped + one.holders <= 10 for one in told), seed
    code, out, _ = decentra("-n", 10, "--group", 4, "--lost", 0.2)
    assert code == 0 and "of 8 peers hold the mean of all 10" in out and "lied" not in out


def test_where_every_group_fails_no_peer_holds_a_mean_and_no_number_stands_for_one() -> None:
    words = ("-n", 10, "--group", 4, "--lost", 0.9)
    code, out, _ = decentra(*words)
    assert code == 1 and "nan" not in out
    assert "no peer holds a mean, since every group of a round failed; 9 of 10 stopped" in out.splitlines()
    code, out, _ = decentra(*words, "--json")
    last = json.loads(out)["rounds"][-1]
    assert code == 1 and "NaN" not in out
    assert (last["holders"], last["error"], last["worst"], last["expected"]) == (0, None, None, None)


def test_a_mean_that_is_not_exact_though_nobody_was_lost_ends_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "held", lambda grid, axis, total: total)
    monkeypatch.setattr(schedule, "weight", lambda grid, axis, place, held, most=1: 1 + place // 4 % 2)
    assert decentra("-n", 16, "--group", 4)[0] == 1


@pytest.mark.parametrize(
    ("words", "mend"),
    [
        (("--lost", 1.0), "the part of the peers that stop"),
        (("--crypto", "none"), "choose ideal or real"),
        (("--first", -1), "give 0 or more"),
        (("-n", 100_000), "benches/group_gossip.py"),
        (("-n", 2), "can't be grouped"),
        (("-n", 17, "--group", 3), "aim at groups of 4"),
        (("--group", 2), "choose another size"),
    ],
)
def test_what_is_asked_wrong_is_refused_in_a_sentence(words: tuple[str | int, ...], mend: str) -> None:
    code, out, err = decentra(*words)
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and mend in err and err.count("\n") == 1
