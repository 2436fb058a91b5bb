"""What a round of millions of coordinates costs a process: memory, frames, bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from starting import Group

MIB = 1024 * 1024
N = 4


@dataclass(frozen=True)
class Bound:
    """What a round may cost: in vectors of 32 bits a coordinate.

    Attributes:
        held: at once beyond the input, and 64 MiB.
        sent: by each peer; two hundredths more are for small messages.
    """

    protocol: str
    held: float
    sent: float
    n: int = N
    coordinates: int = 10_000_000
    challenges: int = 0


BOUNDS = (
    # three slices, three times its own slice of the sum, its part of a challenged slice to c + 1 verifiers
    Bound("secagg", 3, 2 * 3 / 4 + 2 / 4, challenges=1),
    Bound("secagg", 3, 2 * 3 / 4),
    Bound("allreduce", 3, 2 * 3 / 4),
    Bound("mesh", N + 2, 3),  # all updates at once
    # three buckets of three: secagg in one, its mean to the two others of the bucket's peers, and a vector a bucket
    Bound("bucketed", 3 + 3, 2 * 2 / 3 + 2 / 3 + 2, n=9, coordinates=4_000_000, challenges=1),
    # 64 bits a coordinate: what it deals and what it was dealt, n − c each, the sum's share and slices
    Bound("shamir-gram", 2 * (2 * 4 + 6), 2 * (3 + 2 * 4 / 5), n=5, coordinates=2_000_000),
)


@pytest.mark.slow
@pytest.mark.parametrize("bound", BOUNDS, ids=lambda one: f"{one.protocol}-{one.challenges}")
def test_millions_of_coordinates_take_so_many_vectors_and_little_more(
    make_group: Callable[..., Group], bound: Bound, capsys: pytest.CaptureFixture[str]
) -> None:
    rounds, vector = 3, 4 * bound.coordinates
    group = make_group(
        bound.n,
        bound.protocol,
        protocol__width=32,
        protocol__challenges=bound.challenges,
        protocol__range_bounds=[0.1, 0.1],
        rounds__phase_deadline=120.0,
        rounds__ready_deadline=240.0,
    )
    programs = group.start("large", "{index}", str(bound.coordinates), str(rounds))
    assert [program.end(240.0) for program in programs] == [0] * bound.n
    told = [[fact for fact in program.told if fact["event"] == "round"] for program in programs]
    memory = [program.last("memory") for program in programs]
    with capsys.disabled():
        for facts, figures in zip(told, memory, strict=True):
            beyond = (figures["peak"] - figures["before"]) / MIB
            spent = ", ".join(f"{fact['seconds']:.1f} s and {fact['cpu']:.1f} CPU-s" for fact in facts)
            print(f"\n{bound.protocol}: {beyond:.0f} MiB beyond the input; {spent} a round", end="")
    for number in range(rounds):
        facts = [one[number] for one in told]
        assert len({fact["digest"] for fact in facts}) == 1
        for index, mean in enumerate(facts[0]["mean"]):
            mine = sorted(fact["mine"][index] for fact in facts)
            if bound.protocol in ("secagg", "allreduce"):
                assert mean == pytest.approx(sum(mine) / N, abs=1e-6)
            else:  # what a robust rule gives lies between them
                assert mine[0] < mean < mine[-1]
        for fact in facts:
            assert fact["bytes_sent"] <= 1.02 * bound.sent * vector
    for figures in memory:
        assert figures["frame"] <= MIB
        assert figures["peak"] - figures["before"] <= bound.held * vector + 64 * MIB
