"""What a round of ten million coordinates costs a process: memory, frames, bytes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from starting import Group

COORDINATES = 10_000_000
RING_VECTOR = 4 * COORDINATES
MIB = 1024 * 1024


@pytest.mark.slow
@pytest.mark.parametrize(("protocol", "challenges"), [("secagg", 1), ("secagg", 0), ("allreduce", 0)])
def test_ten_million_coordinates_take_three_ring_vectors_and_little_more(
    make_group: Callable[..., Group], protocol: str, challenges: int, capsys: pytest.CaptureFixture[str]
) -> None:
    rounds = 3
    group = make_group(
        4,
        protocol,
        protocol__width=32,
        protocol__challenges=challenges,
        protocol__range_bounds=[0.1, 0.1],
        rounds__phase_deadline=120.0,
        rounds__ready_deadline=240.0,
    )
    programs = group.start("large", "{index}", str(COORDINATES), str(rounds))
    assert [program.end(240.0) for program in programs] == [0, 0, 0, 0]
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
            assert mean == pytest.approx(sum(fact["mine"][index] for fact in facts) / 4, abs=1e-6)
        # each peer sends three slices and three times its own slice of the sum, 2(n-1)/n · d · w, and its part of each
        # challenged slice to c + 1 = 2 verifiers
        for fact in facts:
            assert fact["bytes_sent"] <= 1.02 * (2 * 3 + 2 * challenges) / 4 * RING_VECTOR
    for figures in memory:
        assert figures["frame"] <= MIB
        assert figures["peak"] - figures["before"] <= 3 * RING_VECTOR + 64 * MIB
