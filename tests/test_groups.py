"""``decentra.local_group`` as a newcomer uses it: mistakes are named before any round, nothing is cut in silence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import decentra
from decentra import LocalError
from decentra.driver.given import describe
from decentra.driver.session import Vector
from decentra.groups import LocalGroup
from decentra.simulation.group import SimulatedGroup
from decentra.training.hook import Summary
from helpers import results

TRANSPORTS = ("simulated", "zeromq")


def array(*shape: int) -> NDArray[np.float32]:
    return np.zeros(shape, np.float32)


def good(value: float = 0.01) -> list[list[NDArray[np.float32]]]:
    return [[np.full(3, value * peer, np.float32)] for peer in range(3)]


# ── the group ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("n", [0, -1, 2, 65, "4", 4.0, None])
def test_a_number_of_peers_that_cannot_be_is_named_first(n: Any) -> None:
    with pytest.raises(LocalError) as caught:
        decentra.local_group(n, protocol="no such")
    assert str(caught.value).startswith(f"n is {n!r} and must be ") and str(caught.value).endswith("3 to 64")


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_group_ends_with_its_with_and_says_so_from_then_on(transport: str) -> None:
    group = decentra.local_group(3, transport=transport)
    with group as same:
        assert same is group
        assert len(group.average(good())) == 3
    with pytest.raises(LocalError, match="this group is closed"):
        group.average(good())
    group.close()


# ── what it averages ─────────────────────────────────────────────────────────────────────────────────────────────────

MISTAKES: list[tuple[Any, str]] = [
    (None, "updates is None, not a list of arrays; give one list of arrays a peer"),
    (array(3, 4), "updates is an array, not a list of arrays; give one list of arrays a peer"),
    ([0.1, 0.2, 0.3], "updates[0] is the number 0.1, not a list of arrays; give each peer a list of arrays"),
    ([array(3)] * 3, "updates[0] is an array, not a list of arrays; give each peer a list of arrays"),
    ([torch.zeros(3)] * 3, "updates[0] is a torch tensor, not a list of arrays; give each peer a list of arrays"),
    ([{"a": array(3)}] * 3, "updates[0] is a dict, not a list of arrays; give list(it.values())"),
    ([[torch.zeros(3)]] * 3, "updates[0][0] is a torch tensor; convert it with .detach().cpu().float().numpy()"),
    ([[np.zeros(3)]] * 3, "updates[0][0] is an array of float64, not float32; convert it with .astype('float32')"),
    ([[array(3)], [array(3)], [[0.0] * 3]], "updates[2][0] is a list, not an array of float32; convert it with np"),
    ([[np.float32(1)]] * 3, "updates[0][0] is the number 1.0, not an array of float32; convert it with np.asarray"),
    ([[array(3)]] * 4, "4 updates for a group of 3; give one list of arrays a peer"),
    ([[array(3)], [array(3)], [array(4)]], "updates[2][0] has shape (4,), the others (3,)"),
    ([[array(4)], [array(3)], [array(3)]], "updates[0][0] has shape (4,), the others (3,)"),
    ([[array(3)], [array(4)], [array(5)]], "updates[1][0] has shape (4,), others (3,)"),
    ([[array(3)], [array(3), array(3)], [array(3)]], "updates[1] has 2 arrays, the others 1"),
    ([[array(3)], [array(3), array(3) + np.nan], [array(3)]], "updates[1] has 2 arrays, the others 1"),
    ([[array(3)], [array(3) + np.nan], [array(3)]], "updates[1][0] holds NaN or infinity"),
    ([[array(0), array(3)], [array(0), array(3) - np.inf], [array(0), array(3)]], "updates[1][1] holds NaN or inf"),
]


@pytest.fixture(params=TRANSPORTS, scope="module")
def group(request: pytest.FixtureRequest) -> Any:
    return decentra.local_group(3) if request.param == "simulated" else OneAtATime()


class OneAtATime:
    """A group over ZeroMQ that fails a test as soon as a peer begins a round: what is refused is refused before."""

    def __init__(self) -> None:
        class Silent:
            def average(self, *_: object, **__: object) -> None:
                raise AssertionError("a round began")

        self._closed, self.peers = False, [Silent()] * 3
        self.charter = decentra.local_group(3).charter

    def average(self, updates: Any, weights: Any = None) -> Any:
        return LocalGroup.average(self, updates, weights=weights)  # type: ignore[arg-type]


@pytest.mark.parametrize(("updates", "sentence"), MISTAKES)
def test_what_cannot_be_averaged_is_refused_by_its_place_before_any_round(
    group: Any, updates: Any, sentence: str
) -> None:
    with pytest.raises(LocalError) as caught:
        group.average(updates)
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize("weights", [[1, 1], [1, 1, 7], [1, 0, 1], [1, 1, 1.0]])
def test_a_wrong_weight_is_refused_before_any_round(group: Any, weights: Any) -> None:
    with pytest.raises(LocalError, match="weights"):
        group.average(good(), weights=weights)


def test_after_a_mistake_the_group_averages_as_before() -> None:
    with decentra.local_group(3) as group:
        for updates, _ in MISTAKES:
            with pytest.raises(LocalError):
                group.average(updates)
        with pytest.raises(LocalError):
            group.average(good(), weights=[1, 1, 9])
        (first, *_) = group.average(good())
    assert first.round.number == 1


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (array(3), "the update is an array, not a list of arrays; give a list of arrays, even of one: [array]"),
        ([torch.zeros(3)], "tensor '0' is a torch tensor; convert it with .detach().cpu().float().numpy()"),
        ([0.5], "tensor '0' is the number 0.5, not an array of float32; convert it with np.asarray(x, np.float32)"),
        ([torch.nn.Parameter(torch.zeros(3))], "tensor '0' is a torch tensor; convert it with .detach().cpu()"),
    ],
)
def test_a_single_peer_is_told_alike(given: Any, sentence: str) -> None:
    with pytest.raises(LocalError) as caught:
        describe(given, None)
    assert str(caught.value).startswith(sentence)


# ── what is cut ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("protocol", ["secagg", "allreduce", "mesh"])
def test_values_beyond_the_range_are_counted_and_each_peer_warns_once(
    protocol: str, caplog: pytest.LogCaptureFixture
) -> None:
    with decentra.local_group(3, protocol=protocol, protocol__range_bounds=[0.1, 0.1]) as group:
        assert [result.clipped for result in group.average(good())] == [0, 0, 0]
        assert caplog.records == []
        for _ in range(2):
            assert [result.clipped for result in group.average(good(0.2))] == [0, 3, 3]
    said = [record.getMessage() for record in caplog.records]
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    assert all("3 of 3 coordinates of its update exceed ±0.1, and what is cut is lost" in line for line in said)
    assert sorted(line[:8] for line in said) == [str(peer.session.me) for peer in group.peers[1:]]


def test_what_waits_in_a_residual_is_warned_of_only_if_it_is_much(caplog: pytest.LogCaptureFixture) -> None:
    def clipped(count: int) -> list[int]:
        update = np.zeros(100, np.float32)
        update[:count] = 0.2
        vectors = [Vector([update], describe([update], None), residual=[array(100)]) for _ in range(3)]
        with decentra.local_group(3) as group:
            assert isinstance(group, SimulatedGroup)
            return [result.clipped for result in results(group.run(list(vectors)))]

    assert clipped(4) == [4, 4, 4]
    assert not caplog.records
    assert clipped(50) == [50, 50, 50]
    assert len(caplog.records) == 3
    assert "50 of 100 coordinates of its update exceed ±0.1, and what is cut waits for the next round" in caplog.text


def test_ranges_that_differ_are_not_given_one_number(caplog: pytest.LogCaptureFixture) -> None:
    with decentra.local_group(3, protocol__ranges={"1": 0.05}) as group:
        results = group.average([[np.ones(2, np.float32), array(2)] for _ in range(3)])
    assert [result.clipped for result in results] == [2, 2, 2]
    assert "2 of 4 coordinates of its update exceed the ranges of their tensors" in caplog.text


# ── what is printed ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_result_prints_as_one_short_line() -> None:
    with decentra.local_group(3) as group:
        result = group.average(good(1.0))[2]
    line = str(result)
    assert "\n" not in line and len(line) < 200
    assert line.startswith("round 1.1: 3 peers averaged; sent ") and line.endswith("; 3 coordinates were clipped")
    assert result.digest.hex()[:16] in line
    assert repr(result).startswith("RoundResult(round=")


def test_a_summary_prints_as_one_short_line() -> None:
    counts = {"bytes_sent": 56_000_000, "bytes_received": 55_500_000, "seconds": 12.34}
    summary = Summary(rounds=16, failed=0, outer_steps=16, transcript=None, parameters="1c5c51abae26675d" * 4, **counts)
    told = "sent 56.000 MB, received 55.500 MB, waited 12.3 s; parameters 1c5c51abae26675d"
    assert str(summary) == f"16 rounds: {told}"
    assert repr(summary).startswith("Summary(rounds=16")



@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"width": 8}, "'width' is no argument here; write protocol__width=16"),
        ({"weight": 3}, "'weight' is no argument here; a change is written as section__key, such as protocol"),
        ({"protocol__width": 8}, "must be 16 or 32, not 8; write for example width = 16; a change is written"),
        ({"protocol__wdith": 16}, "did you mean 'width'?; a change is written as section__key"),
    ],
)
def test_a_wrong_change_is_told_as_it_would_be_written_here(change: dict[str, Any], said: str) -> None:
    with pytest.raises(LocalError) as caught:
        decentra.local_group(4, **change)
    assert said in str(caught.value)
