"""What a round of ten million coordinates costs a process: memory, frames, bytes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from starting import Group

COORDINATES = 10_000_000
RING_VECTOR = 4 * COORDINATES
MIB = 1024 * 1024
N = 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("protocol", "challenges", "vectors"),
    [("secagg", 1, 3), ("secagg", 0, 3), ("allreduce", 0, 3), ("mesh", 0, N + 2)],  # mesh has all updates at once
)
def test_ten_million_coordinates_take_so_many_ring_vectors_and_little_more(
    make_group: Callable[..., Group], protocol: str, challenges: int, vectors: int, capsys: pytest.CaptureFixture[str]
) -> None:
    rounds = 3
    group = make_group(
        N,
        protocol,
        protocol__width=32,
        protocol__challenges=challenges,
        protocol__range_bounds=[0.1, 0.1],
        rounds__phase_deadline=120.0,
        rounds__ready_deadline=240.0,
    )
    programs = group.start("large", "{index}", str(COORDINATES), str(rounds))
    assert [program.end(240.0) for program in programs] == [0] * N
    told = [[fact for fact in program.told if fact["event"] == "round"] for program in programs]
    memory = [program.last("memory") for program in programs]
    with capsys.disabled():
        for facts, figures in zip(told, memory, strict=True):
            beyond = (figures["peak"] - figures["before"]) / MIB
            spent = ", ".join(f"{fact['seconds']:.1f} s and {fact['cpu']:.1f} CPU-s" for fact in facts)
            print(f"\n{protocol}: {beyond:.0f} MiB beyond the input; {spent} a round", end="")
    for number in range(rounds):
        facts = [one[number] for one in told]
        assert len({fact["digest"] for fact in facts}) == 1
        for index, mean in enumerate(facts[0]["mean"]):
            mine = sorted(fact["mine"][index] for fact in facts)
            if protocol == "mesh":  # what a robust rule gives lies between them
                assert mine[0] < mean < mine[-1]
            else:
                assert mean == pytest.approx(sum(mine) / N, abs=1e-6)
        # each peer sends three slices and three times its own slice of the sum, 2(n-1)/n · d · w, and its part of each
        # challenged slice to c + 1 = 2 verifiers; in mesh its update to all others
        slices = N * (N - 1) if protocol == "mesh" else 2 * (N - 1) + 2 * challenges
        for fact in facts:
            assert fact["bytes_sent"] <= 1.02 * slices / N * RING_VECTOR
    for figures in memory:
        assert figures["frame"] <= MIB
        assert figures["peak"] - figures["before"] <= vectors * RING_VECTOR + 64 * MIB
