"""``aggregate``: the forms that updates come in, the same bytes however they come, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from decentra.errors import LocalError
from decentra.robust import aggregate, find, rules
from decentra.robust.coordinates import nearest_to_median
from decentra.robust.network import network, sort_rows
from decentra.robust.rows import MOST_COLUMNS, Rows

NAMES = [told.name for told in rules()]


def given_to(name: str, like: Any) -> dict[str, Any]:
    """What a rule needs beside updates and f."""
    rule = find(name)
    needs: dict[str, Any] = {"reference": like} if rule.reference else {}
    return needs | ({"radius": 10.0} if rule.needs_radius else {})


def made(n: int, d: int, seed: int = 0) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d), dtype=np.float32) + rng.standard_normal(d, dtype=np.float32)


# ── the same bytes ───────────────────────────────────────────────────────────────────────────────────────────────────

LONG = 2 * MOST_COLUMNS * 16 + 4321
"""Coordinates of several blocks, and of several threads' worth of them."""


@pytest.mark.parametrize("name", NAMES)
def test_bytes_depend_on_neither_order_nor_cuts_nor_threads(name: str) -> None:
    updates = made(11, LONG)
    needs = given_to(name, updates[2])
    ids = [f"{index:02}" for index in range(11)]
    whole = aggregate(updates, name, 2, ids=ids, **needs)
    order = np.random.default_rng(3).permutation(11)
    turned = aggregate([updates[index] for index in order], name, 2, ids=[ids[index] for index in order], **needs)
    assert turned.value.tobytes() == whole.value.tobytes()
    if whole.weights is not None and turned.weights is not None:
        assert np.array_equal(turned.weights, whole.weights[order])
    threads = aggregate(updates, name, 2, threads=3, **needs)
    assert threads.value.tobytes() == whole.value.tobytes()
    cuts = [0, 5, 5, MOST_COLUMNS + 7, LONG]

    def cut(vector: NDArray[Any]) -> list[NDArray[Any]]:
        return [vector[low:high] for low, high in pairwise(cuts)]

    pieces = aggregate([cut(row) for row in updates], name, 2, **given_to(name, cut(updates[2])))
    assert b"".join(piece.tobytes() for piece in pieces.value) == whole.value.tobytes()


def test_bytes_do_not_depend_on_how_many_threads_the_linear_algebra_has() -> None:
    program = (
        "import hashlib, numpy as np\n"
        "from decentra.robust import aggregate\n"
        "x = np.random.default_rng(0).standard_normal((32, 50_000), dtype=np.float32)\n"
        "rules = ('krum', 'nnm+trimmed_mean', 'geometric_median', 'nnm+multi_krum')\n"
        "print([hashlib.sha256(aggregate(x, rule, 6).value.tobytes()).hexdigest() for rule in rules])\n"
    )

    def run(threads: str) -> str:
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads}
        command = [sys.executable, "-c", program]
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout

    assert run("1") == run("2")


# ── the forms of updates ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["trimmed_mean", "krum", "nnm+trimmed_mean", "geometric_median"])
def test_tensors_come_back_as_tensors_of_their_kind(dtype: torch.dtype, name: str) -> None:
    plain = [torch.from_numpy(row).to(dtype) for row in made(7, 10)]
    model = [[row[:6].reshape(2, 3), row[6:]] for row in plain]
    found = aggregate(model, name, 2).value
    assert [(tensor.shape, tensor.dtype) for tensor in found] == [((2, 3), dtype), ((4,), dtype)]
    wide = np.stack([np.concatenate([tensor.double().numpy().ravel() for tensor in one]) for one in model])
    expected = torch.from_numpy(aggregate(wide, name, 2).value).to(dtype).double().numpy()
    together = np.concatenate([tensor.double().numpy().ravel() for tensor in found])
    assert together == pytest.approx(expected, rel=2e-2 if dtype == torch.bfloat16 else 2e-3, abs=1e-3)


def test_one_stack_of_tensors_and_parameters_that_want_gradients() -> None:
    stacked = torch.from_numpy(made(5, 8)).requires_grad_()
    found = aggregate(stacked, "median", 1).value
    assert isinstance(found, torch.Tensor) and not found.requires_grad
    assert torch.equal(found, stacked.detach().median(dim=0).values)


@pytest.mark.parametrize("name", NAMES)
def test_a_column_of_a_transposed_array_is_an_update_too(name: str) -> None:
    updates = made(11, 50)
    columns = np.asfortranarray(updates)
    needs = given_to(name, updates[0])
    assert aggregate(columns, name, 2, **needs).value.tobytes() == aggregate(updates, name, 2, **needs).value.tobytes()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", [1, 3])
def test_no_coordinates_and_no_liars_and_one_update(name: str, n: int) -> None:
    if find(name).fewest(0) > n:
        with pytest.raises(LocalError, match="updates at least"):
            aggregate(made(n, 4), name, 0, **given_to(name, made(1, 4)[0]))
        return
    assert aggregate(made(n, 0), name, 0, **given_to(name, made(1, 0)[0])).value.shape == (0,)
    one = np.tile(made(1, 4), (n, 1))
    expected = np.sign(one[0]) if name == "sign_majority" else one[0]
    assert aggregate(one, name, 0, **given_to(name, one[0])).value == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("power", [-1, 1])
def test_huge_and_tiny_numbers(dtype: type, name: str, power: int) -> None:
    """Scaled by a power of two to the ends of the type, updates give the same, scaled."""
    info = np.finfo(dtype)
    factor = 2.0 ** ((info.maxexp - 6) if power > 0 else (info.minexp + 40))
    updates = made(11, 40).astype(dtype)
    updates[9:] += 3
    needs, scaled = given_to(name, updates[0]), given_to(name, (updates[0].astype(np.float64) * factor).astype(dtype))
    if "radius" in needs:
        scaled["radius"] = 10.0 * factor
    found = aggregate((updates.astype(np.float64) * factor).astype(dtype), name, 2, **scaled).value
    expected = aggregate(updates, name, 2, **needs).value.astype(np.float64)
    assert np.isfinite(found).all()
    found = found.astype(np.float64)
    if name != "sign_majority":
        found /= factor
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-4 * float(np.abs(expected).max()))


# ── nobody hides behind rounding ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("far", [0, 3, 8])
@pytest.mark.parametrize("size", [1e3, 1e8, 1e18])
@pytest.mark.parametrize("name", ["krum", "multi_krum", "mda", "geometric_median", "nnm+trimmed_mean", "nnm+krum"])
def test_a_far_update_does_not_hide_who_is_near_to_whom(name: str, size: float, far: int) -> None:
    """In float32, about anything that one liar moves, the distances between the others are lost."""
    rng = np.random.default_rng(5)
    updates = (rng.standard_normal(2000) + rng.standard_normal((9, 2000)) * 1e-3).astype(np.float32)
    updates[far] = size
    updates[(far + 1) % 9] += np.float32(0.004)  # a second, near, that should be left out
    expected = aggregate(np.delete(updates, far, axis=0).astype(np.float64), name, 1)
    found = aggregate(updates, name, 2)
    if name in ("multi_krum", "mda"):
        assert found.weights is not None and found.weights[far] == 0 == found.weights[(far + 1) % 9]
    honest = np.delete(updates, [far, (far + 1) % 9], axis=0).astype(np.float64)
    spread = np.linalg.norm(honest - honest.mean(axis=0), axis=1).max()
    assert np.linalg.norm(found.value - honest.mean(axis=0)) <= 1.1 * spread
    assert np.linalg.norm(found.value - expected.value) <= 2 * spread


def test_models_that_lie_near_one_another_are_told_apart() -> None:
    """Where ``torch.cdist`` in float32 is wrong: more than 25 models, differing in the fourth digit."""
    rng = np.random.default_rng(2)
    models = (rng.standard_normal(5000) * 10 + rng.standard_normal((32, 5000)) * 1e-3).astype(np.float32)
    found = aggregate(models, "krum", 6).diagnostics.distances
    exact = models.astype(np.float64)
    expected = np.linalg.norm(exact[:, None] - exact[None], axis=2)
    assert found is not None and found == pytest.approx(expected, rel=1e-3)


# ── kernels against plain forms ──────────────────────────────────────────────────────────────────────────────────────


@given(st.integers(1, 40), st.data())
def test_a_network_puts_the_wanted_places_in_order(n: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, n - 1))
    last = data.draw(st.integers(first, n - 1))
    # A network that sorts all columns of zeros and ones sorts everything (Knuth's 0-1 principle).
    columns = np.random.default_rng(n).integers(0, 2, (n, 500)).astype(np.float32)
    steps = np.tri(n, n, -1, dtype=np.float32)[:, np.random.default_rng(n + 1).permutation(n)]
    block = np.concatenate([columns, steps], axis=1)
    rows = list(block.copy())
    sort_rows(rows, np.empty_like(rows[0]), first, last)
    assert np.array_equal(np.stack(rows)[first : last + 1], np.sort(block, axis=0)[first : last + 1])


def test_a_network_for_few_places_is_smaller() -> None:
    assert len(network(32, 15, 16)) < len(network(32, 0, 31)) == 191


@given(st.integers(1, 12), st.data())
def test_the_values_nearest_to_the_median(n: int, data: st.DataObject) -> None:
    kept = data.draw(st.integers(1, n))
    block = np.random.default_rng(n * 100 + kept).standard_normal((n, 50))
    picked, middle = np.stack(nearest_to_median(block.copy(), kept)), np.median(block, axis=0)
    assert all(np.isin(picked[:, column], block[:, column]).all() for column in range(50))
    assert all(len(set(picked[:, column])) == kept for column in range(50))
    nearest = np.sort(np.abs(block - middle), axis=0)[:kept]
    assert np.allclose(np.sort(np.abs(picked - middle), axis=0), nearest)


@given(st.integers(0, 2**32 - 1), st.booleans())
def test_minimum_diameter_is_that_of_every_subset_tried(seed: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(3, 9))
    f = int(rng.integers(0, (n - 1) // 2 + 1))
    updates = rng.integers(0, 3, (n, 2)).astype(float) if ties else rng.standard_normal((n, 2))
    apart = np.linalg.norm(updates[:, None] - updates[None], axis=2)

    def told(kept: tuple[int, ...]) -> tuple[float, float]:
        inside = apart[np.ix_(kept, kept)]
        return round(float(inside.max()), 9), round(float(inside.sum()), 9)

    best = min(told(kept) for kept in combinations(range(n), n - f))
    weights = aggregate(updates, "mda", f).weights
    assert weights is not None
    assert told(tuple(int(index) for index in np.flatnonzero(weights))) == best


@given(st.integers(0, 2**32 - 1))
def test_nothing_near_the_geometric_median_has_a_smaller_sum(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(3, 11))
    updates = rng.standard_normal((n, 3)) * rng.choice([0.1, 1, 10], (n, 1))
    value = aggregate(updates, "geometric_median", 0).value

    def total(point: NDArray[np.float64]) -> float:
        return float(np.linalg.norm(updates - point, axis=1).sum())

    least = total(value)
    for step in (1e-5, 1e-3, 0.1, 1.0):
        for way in rng.standard_normal((20, 3)):
            assert least <= total(value + step * way) * (1 + 1e-12)


# ── memory ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", NAMES)
def test_memory_is_the_result_and_16_mb_at_most(name: str) -> None:
    n, d = 32 if name != "smea" else 12, 400_000
    pieces = [[row[: d // 2].reshape(400, -1), row[d // 2 :]] for row in made(n, d)]
    needs = given_to(name, pieces[0])
    tracemalloc.start()
    aggregate(pieces, name, 6 if name != "smea" else 2, **needs)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak <= 4 * d + 16_000_000


# ── what is refused ──────────────────────────────────────────────────────────────────────────────────────────────────

GOOD = made(5, 4)


@pytest.mark.parametrize(
    ("updates", "options", "says"),
    [
        (GOOD, {"rule": "trimed_mean"}, "did you mean 'trimmed_mean'"),
        (GOOD, {"rule": "nmn+krum"}, "no step before a rule 'nmn'; did you mean 'nnm'"),
        (GOOD, {"rule": "nnm"}, "comes before a rule; add one"),
        (GOOD, {"rule": "nnm+bulyan"}, "use it by itself"),
        (GOOD, {"rule": "nnm+fltrust"}, "use it by itself"),
        (GOOD, {"f": 3}, r"n ≥ 2f \+ 1: with f = 3 that is 7 updates, and there are 5; lower f to 2"),
        (GOOD, {"f": -1}, "set f to 0 or more"),
        (GOOD, {"rule": "bulyan", "f": 1}, "4f .* lower f to 0, or choose nnm"),
        (GOOD, {"rule": "mean", "f": 5}, "leaves nobody to believe"),
        (GOOD, {"rule": "centered_clipping", "reference": GOOD[0]}, "clips to a radius"),
        (GOOD, {"rule": "centered_clipping", "reference": GOOD[0], "radius": -1.0}, "above 0, not -1.0"),
        (GOOD, {"radius": 1.0}, "leave radius out"),
        (GOOD, {"rule": "fltrust"}, "hand one in"),
        (GOOD, {"reference": GOOD[0]}, "measures against no reference"),
        (GOOD, {"rule": "fltrust", "reference": GOOD[0, :2]}, "the reference is float32"),
        (GOOD, {"rule": "fltrust", "reference": np.full(4, np.nan, np.float32)}, "the reference has NaN"),
        (GOOD, {"ids": [1, 2]}, "2 ids for 5 updates"),
        (GOOD, {"ids": [1, 2, 3, 4, 4]}, "distinct"),
        (GOOD, {"ids": [1, 2, 3, 4, "a"]}, "cannot be sorted"),
        (GOOD, {"threads": 0}, "0 threads do no work"),
        (GOOD[0], {}, "two dimensions"),
        (GOOD.astype(np.int32), {}, "update 0 is of int32; rules work on"),
        ([], {}, "no updates"),
        ("updates", {}, "not str"),
        ([GOOD[0], GOOD[1, :3], GOOD[2]], {}, "update 1 is float32"),
        ([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]], {}, "tensor 0 of update 0 is a float; hand in arrays"),
        ([{"weight": GOOD[0]}] * 3, {}, r"update 0 is a dict; .* list\(model.parameters\(\)\)"),
        ([[GOOD[0], np.arange(3)]] * 3, {}, "tensor 1 of update 0 is of int64; .* leave counters out"),
        ([torch.ones(3, 3).to_sparse()] * 3, {}, "update 0 is sparse"),
        ([torch.ones(3, device="meta")] * 3, {}, "update 0 is sparse or has no data"),
        (GOOD, {"f": None}, "Hand in f"),
        (GOOD, {"f": 1.0}, "f is a whole number, not 1.0"),
        (GOOD, {"f": True}, "f is a whole number, not True"),
        (GOOD, {"threads": "2"}, "threads is a whole number"),
        (GOOD, {"rule": None}, "by its name, not by NoneType"),
        (GOOD, {"rule": 2}, "by its name, not by int"),
        (GOOD, {"rule": "balance", "reference": GOOD[0], "radius": "1"}, "above 0, not '1'"),
        (GOOD, {"rule": "fltrust", "reference": [1, 2]}, "tensor 0 of the reference is a int"),
        (GOOD, {"ids": 5}, "ids are a list"),
        (GOOD, {"ids": [{}] * 5}, "cannot be sorted"),
        (np.where(np.eye(5, 4) > 0, np.nan, GOOD).astype("f4"), {"ids": list("abcde")}, "4 of 5 .* f = 1: a, b, c, d"),
    ],
)
def test_what_cannot_be_is_refused_with_its_mend(updates: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(LocalError, match=says):
        aggregate(updates, **({"rule": "trimmed_mean", "f": 1} | options))


def test_smea_says_its_limit_and_the_nearest() -> None:
    with pytest.raises(LocalError, match=r"906,192 subsets .* stops at 50,000; choose mda"):
        aggregate(made(32, 4), "smea", 6)


def test_rules_tell_what_they_need() -> None:
    told = {one.name: one for one in rules()}
    assert told["nnm+trimmed_mean"].runs_on == "geometry, then coordinates"
    assert told["centered_clipping"].needs == "n ≥ 2f + 1, a reference, a radius"
    assert (told["mean"].runs_on, told["mean"].cost, told["krum"].cost) == ("fixed weights", "1 pass", "2 passes")
    assert told["smea"].cost == "2 passes, exponential in f"
    assert told["bulyan"].source == "El Mhamdi et al. 2018"
    assert all(one.source and one.cost and one.bound for one in told.values())


COLUMNS = ("rule", "needs", "bound at n = 10, f = 2", "runs on", "cost")


def test_rules_print_as_a_table_and_are_a_sequence() -> None:
    told = rules()
    heads, *lines = str(told).splitlines()
    assert str(told) == repr(told) and len(lines) == len(told) == len({line[: heads.index("needs")] for line in lines})
    assert max(map(len, lines)) <= 140
    for one, line in zip(told, lines, strict=True):
        cells = [line[begins:ends].strip() for begins, ends in pairwise([*map(heads.index, COLUMNS), len(line)])]
        assert cells == [one.name, one.needs, one.bound, one.runs_on, one.cost]


def test_blocks_cover_every_column_once() -> None:
    rows = Rows(made(3, 5 * MOST_COLUMNS + 3))
    assert [low for low, _ in rows.blocks()][1:] == [high for _, high in rows.blocks()][:-1]
