"""Dealing: any c + l shares give the vector, any c tell nothing, and c of the n are streams."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decentra.crypto.shares import checks, combine, opening, sketch
from decentra.crypto.shares import deal as dealing
from decentra.crypto.shares.deal import deal, slot_major
from decentra.crypto.shares.field61 import PRIME, Matrix, add, multiply, to_signed
from decentra.crypto.shares.polynomials import lagrange
from decentra.crypto.shares.sharing import MAX_PEERS, Sharing
from decentra.crypto.shares.streams import uniform
from sharing import BEACON, IN_USE, SHARINGS, SMALLER, secret, vector, whole

SIZES = st.sampled_from([0, 1, 2, 5, 17, 64])


def rank(rows: list[list[int]]) -> int:
    """Of a matrix mod p."""
    rows, found = [list(row) for row in rows], 0
    for column in range(len(rows[0]) if rows else 0):
        pivot = next((index for index in range(found, len(rows)) if rows[index][column] % PRIME), None)
        if pivot is None:
            continue
        rows[found], rows[pivot] = rows[pivot], rows[found]
        inverse = pow(rows[found][column], -1, PRIME)
        for index in range(found + 1, len(rows)):
            factor = rows[index][column] * inverse
            rows[index] = [(a - factor * b) % PRIME for a, b in zip(rows[index], rows[found], strict=True)]
        found += 1
    return found


@given(SHARINGS, SIZES, st.data())
@settings(max_examples=60)
def test_any_degree_and_one_shares_give_the_vector(sharing: Sharing, d: int, data: st.DataObject) -> None:
    dealer, x = data.draw(st.integers(0, sharing.n - 1)), vector(d, d, 1 << 59)
    made = deal(x, sharing, dealer, secret(dealer))
    length = sharing.length(d)
    chosen = data.draw(st.permutations(sharing.points))[: sharing.degree + 1]
    shares = [whole(made.share(point - 1), length) for point in chosen]
    slots = Matrix(lagrange(tuple(chosen), sharing.secret_points)).apply(shares)
    assert np.array_equal(to_signed(slot_major(list(slots[:, :-1]), d)), x)
    assert slots[:, -1].tolist() == uniform(dealing.expand(secret(dealer), dealing.BLIND_LABEL), sharing.slots).tolist()
    words = {point: whole(made.share(point - 1), length) for point in sharing.points}
    assert opening.open_vectors(words, length, sharing.degree, sharing.c, (0,)).wrong == ()


@pytest.mark.parametrize("sharing", IN_USE, ids=str)
def test_any_c_shares_are_uniform_whatever_the_vector(sharing: Sharing) -> None:
    """The map from the dealer's random values, the seeded shares, to any c shares is a bijection for every secret.

    Shares are the slots' part plus that of the seeds. For a bijection the part of the seeds has rank c on any c points;
    all sets of points are tried where there are few, and else those that are one behind another.
    """
    points, c = sharing.points, sharing.c
    few = sharing.n <= 13
    for dealer in range(sharing.n if few else 1):
        seeded = tuple(position + 1 for position in sharing.seeded(dealer))
        known = (*sharing.secret_points, *seeded)
        rows = {x: row[sharing.slots :] for x, row in zip(points, lagrange(known, points), strict=True)}
        for start in range(sharing.n):
            chosen = [(start + step) % sharing.n + 1 for step in range(c)]
            assert rank([list(rows[x]) for x in chosen]) == c
        for some in combinations(points, c) if few else ():
            assert rank([list(rows[x]) for x in some]) == c
        # one share more does tell something, so the test can fail
        assert rank([list(rows[x]) for x in points[: c + 1]]) == c


@pytest.mark.parametrize("sharing", [Sharing(4, 1), Sharing(8, 1, 3), Sharing(16, 2, 4)], ids=str)
def test_a_set_of_c_shares_fits_every_other_vector(sharing: Sharing) -> None:
    """By example: for the shares of c peers there is a deal of any other vector that gives them the same."""
    made = deal(vector(1, sharing.slots), sharing, 0, secret(1))
    chosen = sharing.points[: sharing.c]
    seen = [int(whole(made.share(x - 1), 2)[0]) for x in chosen]
    other = [int(value) % PRIME for value in vector(2, sharing.slots)]
    known = (*sharing.secret_points, *chosen)
    rows = lagrange(known, sharing.points)
    fits = [sum(a * b for a, b in zip(row, [*other, *seen], strict=True)) % PRIME for row in rows]
    assert [fits[x - 1] for x in chosen] == seen
    opened = Matrix(lagrange(sharing.points[-sharing.degree - 1 :], sharing.secret_points)).apply(
        np.array(fits[-sharing.degree - 1 :], np.uint64)[:, None]
    )
    assert opened[:, 0].tolist() == other


@given(SMALLER, SIZES, st.integers(0, 2**32), st.integers(0, PRIME - 1), st.data())
def test_sums_and_multiples_of_shares_are_shares_of_them(
    sharing: Sharing, d: int, seed: int, factor: int, data: st.DataObject
) -> None:
    one, two = vector(seed, d), vector(seed + 1, d)
    deals = [deal(x, sharing, peer, secret(peer)) for peer, x in enumerate((one, two))]
    length = sharing.length(d)
    chosen = data.draw(st.permutations(sharing.points))[: sharing.degree + 1]
    summed = []
    for x in chosen:
        mine, others = (whole(one.share(x - 1), length) for one in deals)
        summed.append(add(mine, multiply(others, factor))[:-1])
    slots = Matrix(lagrange(tuple(chosen), sharing.secret_points)).apply(summed)
    expected = [(int(a) + factor * int(b)) % PRIME for a, b in zip(one, two, strict=True)]
    assert slot_major(list(slots), d).tolist() == expected


@given(SMALLER, st.integers(0, 80), st.sampled_from([1, 2, 3, 16, 1000]))
def test_a_deal_is_the_same_in_any_cut(sharing: Sharing, d: int, wide: int) -> None:
    x = vector(d, d)
    made = deal(x, sharing, 1, secret(1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dealing, "WIDE", wide)
        again = deal(x, sharing, 1, secret(1))
    assert again.seeds == made.seeds and again.vectors.keys() == made.vectors.keys()
    for position, share in made.vectors.items():
        np.testing.assert_array_equal(share, again.vectors[position])


@pytest.mark.parametrize("sharing", IN_USE, ids=str)
def test_every_peer_expands_c_seeds_and_no_dealer_its_own(sharing: Sharing) -> None:
    counts = [0] * sharing.n
    for dealer in range(sharing.n):
        seeded, explicit = sharing.seeded(dealer), sharing.explicit(dealer)
        assert len(seeded) == sharing.c and dealer in explicit
        assert sorted(seeded + explicit) == list(range(sharing.n))
        for position in seeded:
            counts[position] += 1
    assert set(counts) == {sharing.c}


def test_seeds_differ_by_receiver_and_secret() -> None:
    seeds = {dealing.seed_of(secret(peer), receiver) for peer in range(3) for receiver in range(64)}
    assert len(seeds) == 3 * 64
    a, b = (deal(vector(0, 5), Sharing(4, 1), 0, secret(0, run)) for run in range(2))
    assert a.seeds.keys() == b.seeds.keys() and a.seeds != b.seeds
    assert not any(np.array_equal(a.vectors[position], b.vectors[position]) for position in a.vectors)


def test_a_large_roster_takes_no_more_than_16_mib_beside_what_is_made() -> None:
    """Dealing, checking, sketching and adding up 64 vectors; what is made is in the count."""
    sharing, d = Sharing(64, 21), 20_000
    x, length = vector(0, d), sharing.length(d)
    made = deal(x, sharing, 0, secret(0))
    rows = [made.share(position) for position in range(64)]
    bodies = [checks.without_blind(row) for row in rows]
    steps: list[tuple[Callable[[], object], int]] = [
        (lambda: deal(x, sharing, 0, secret(0)), 43 * length * 8),
        (lambda: checks.degree_values(rows, length, BEACON), 0),
        (lambda: sketch.sketch(bodies, d, BEACON), 64 * sketch.SIZE * 8),
        (lambda: combine.combined(bodies, [1] * 64, d), d * 8),
    ]
    for step, made_bytes in steps:
        tracemalloc.start()
        kept = step()
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert most - made_bytes < 16 << 20
        del kept


@pytest.mark.parametrize(
    "sizes", [(0, 1), (3, 1), (4, 0), (4, 2), (MAX_PEERS + 1, 1), (4, 1, 0), (4, 1, 2), (15, 3, 4), (9, 3)]
)
def test_sharings_that_lies_could_break_unseen_are_refused(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"sharing is for|shows every lie"):
        Sharing(*sizes)


def test_where_liars_about_products_are_named() -> None:
    assert [Sharing(n, 3).names_liars for n in (10, 12, 13, 14)] == [False, False, True, True]
    assert [Sharing(n, 3, 2).names_liars for n in (12, 14, 15, 16)] == [False, False, True, True]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"quanta": np.zeros(3, np.int32)}, "one vector of int64"),
        ({"quanta": np.zeros((1, 3), np.int64)}, "one vector of int64"),
        ({"quanta": np.array([1 << 61], np.int64)}, "beyond"),
        ({"dealer": 4}, "no position"),
        ({"dealer": -1}, "no position"),
        ({"secret": bytes(31)}, "32 bytes"),
    ],
)
def test_what_cannot_be_dealt_is_refused(change: dict[str, Any], words: str) -> None:
    honest = {"quanta": np.zeros(3, np.int64), "sharing": Sharing(4, 1), "dealer": 0, "secret": bytes(32)}
    deal(**honest)
    with pytest.raises(ValueError, match=words):
        deal(**(honest | change))
    with pytest.raises(ValueError, match="coordinates"):
        Sharing(4, 1).elements(-1)
