"""A third party's rules: found by entry points, held to the same suite, refused where they are none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from decentra.errors import LocalError
from decentra.robust import CoordinateRule, GramRule, Invariant, aggregate, catalogue, find, rules
from decentra.robust.testing import properties


@dataclass(frozen=True)
class Midrange(CoordinateRule):
    """The middle between the lowest and the highest that trimming leaves."""

    name = "midrange"
    source = "a test"
    invariants = frozenset({Invariant.PERMUTATION, Invariant.AGREEMENT, Invariant.MAJORITY, Invariant.BOX})

    def select(self, block: NDArray[Any], f: int) -> list[NDArray[Any]]:
        block.sort(axis=0)
        return [block[f], block[len(block) - 1 - f]]


@dataclass(frozen=True)
class FirstCome(GramRule):
    """Whoever comes first: it promises what it does not keep."""

    name = "first_come"
    source = "a test"
    invariants = frozenset({Invariant.AGREEMENT, Invariant.MAJORITY})

    def weights(self, gram: NDArray[Any], f: int) -> NDArray[Any]:
        return np.eye(len(gram))[0]


@dataclass(frozen=True)
class Entry:
    value: str
    gives: Any

    def load(self) -> Any:
        return self.gives


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Entry]]:
    entries = [Entry("other:Midrange", Midrange), Entry("other:first_come", FirstCome())]
    monkeypatch.setattr(catalogue, "entry_points", lambda group: entries if group == "decentra.rules" else [])
    forget()
    yield entries
    forget()


def forget() -> None:
    catalogue._registered.cache_clear()
    catalogue._find.cache_clear()


def test_a_registered_rule_is_used_by_its_name_and_after_a_step(registered: list[Entry]) -> None:
    updates = np.array([[1.0], [2.0], [4.0], [900.0]])
    assert aggregate(updates, "midrange", 1).value == 3.0
    assert aggregate(updates, "nnm+midrange", 1).value < 5
    assert "midrange" in [told.name for told in rules()]


def test_peers_do_not_evaluate_together_what_does_not_say_that_it_is_exact(registered: list[Entry]) -> None:
    said = find("midrange").why_not_alike
    assert said is not None and "does not promise" in said
    assert "midrange" not in catalogue.exact_rules()


def test_it_is_held_to_what_it_promises(registered: list[Entry]) -> None:
    for holds in properties("midrange"):
        holds()
    broken = {one.name: one for one in properties("first_come")}["majority"]
    with pytest.raises(AssertionError):
        broken()


@pytest.mark.parametrize(
    ("gives", "says"),
    [(object(), "gives no rule"), (Midrange, "gives a second rule 'midrange'"), (len, "gives no rule")],
)
def test_what_is_no_rule_or_comes_twice_is_refused(registered: list[Entry], gives: Any, says: str) -> None:
    registered.append(Entry("bad:thing", gives))
    forget()
    with pytest.raises(LocalError, match=f"'bad:thing' {says}"):
        find("mean")
