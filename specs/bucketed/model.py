"""An exhaustive model of how the mean of one bucket comes to count: statements, holdings, and what shown holdings give.

`steps(model, state)` is pure and yields (label, next state); `explore` walks all of it breadth first and checks
`INVARIANTS`, each tied to the clauses it stands for. What is abstracted, and why that is sound:

* One bucket is enough: a statement counts in its own bucket only, and buckets count apart from each other.
* A mean is a letter. A is what the bucket's session certified, which its honest members with a result state; B is any
  other, which liars state: two other means are harder to bring about than one, as their statements split.
* Liars tell each peer what they like. Statements may be late for any peer, so what came to one, when it says its
  holding, is any part of them: `sayable` walks through all of it.
* A proposer shows any holdings of at least t peers; liars show any holding, another one to each.

Run it: `python model.py --n 9 --c 1 --size 3`. The exit code is 1 if an invariant is broken. Standard library only.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import NamedTuple

A, B, NONE = "A", "B", "nothing"


@dataclass(frozen=True)
class Model:
    """A configuration; the defaults are the protocol, every other choice plants a hole.

    n peers of which c lie, and of a bucket of `size` at most `corrupt`. `liars` of this one do, and `lacking` of its
    honest members have no result. Raises ValueError where the numbers make no protocol.
    """

    n: int
    c: int
    size: int
    liars: int | None = None  # of this bucket; None: as many as may
    lacking: int = 0
    corrupt: int | None = None  # c_b; None: c
    statements: int | None = None  # alike, for a peer to name a mean; None: c_b + 1
    names: int | None = None  # in shown holdings, for a mean to count; None: c + 1
    quorum: int | None = None  # holdings that are shown; None: t

    def __post_init__(self) -> None:
        if self.c < 1 or self.n < 3 * self.c or self.size < self.most + 2 or self.bad > min(self.c, self.size):
            raise ValueError(f"need c >= 1, n >= 3c, size >= c_b + 2 and no more than c liars, not {self}")
        if not 0 <= self.lacking <= self.size - self.bad:
            raise ValueError(f"{self.lacking} of {self.size - self.bad} honest members can't lack a result")

    @property
    def most(self) -> int:
        """c_b."""
        return self.c if self.corrupt is None else self.corrupt

    @property
    def bad(self) -> int:
        """Liars in this bucket."""
        return self.most if self.liars is None else self.liars

    @property
    def honest(self) -> int:
        """Honest peers of the roster, each with a holding."""
        return self.n - self.c

    @property
    def stating(self) -> int:
        """Honest members that state A."""
        return self.size - self.bad - self.lacking

    @property
    def alike(self) -> int:
        return self.most + 1 if self.statements is None else self.statements

    @property
    def named(self) -> int:
        return self.c + 1 if self.names is None else self.names

    @property
    def shown(self) -> int:
        return (self.n + self.c) // 2 + 1 if self.quorum is None else self.quorum


class Holdings(NamedTuple):
    """How many honest peers have said a holding that names A, B, or no mean of this bucket."""

    a: int
    b: int
    none: int


@cache
def sayable(model: Model) -> frozenset[str]:
    """What an honest peer's holding may say of the bucket, over all statements that may have come to it.

    `came` of the honest members' have, and of the liars some say A and some B; the rest is silent towards this peer.
    """
    said = set()
    for came, for_a in product(range(model.stating + 1), range(model.bad + 1)):
        for for_b in range(model.bad - for_a + 1):
            enough = [letter for letter, count in ((A, came + for_a), (B, for_b)) if count >= model.alike]
            said.update(enough or (NONE,))
    return frozenset(said)


def initial(model: Model) -> Holdings:
    return Holdings(0, 0, 0)


def steps(model: Model, state: Holdings) -> Iterator[tuple[str, Holdings]]:
    """One more honest peer says its holding."""
    if sum(state) == model.honest:
        return
    for said in sorted(sayable(model)):
        after = Holdings(state.a + (said == A), state.b + (said == B), state.none + (said == NONE))
        yield f"a peer's holding names {said}", after


def countable(model: Model, state: Holdings) -> frozenset[str]:
    """What a value may say of the bucket, over all holdings that may be shown: A, B, or that it does not count."""
    found = set()
    for a, b, none in product(range(state.a + 1), range(state.b + 1), range(state.none + 1)):
        for lies in range(model.c + 1):
            if a + b + none + lies < model.shown:
                continue
            for for_a in range(lies + 1):
                for for_b in range(lies - for_a + 1):
                    counts = [one for one, count in ((A, a + for_a), (B, b + for_b)) if count >= model.named]
                    found.add(counts[0] if len(counts) == 1 else NONE)
    return frozenset(found)


# ---- invariants ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Invariant:
    """What holds in every state; `broken` says what does not, or None."""

    name: str
    clauses: tuple[str, ...]
    says: str
    broken: Callable[[Model, Holdings], str | None]


def honest_mean(model: Model, state: Holdings) -> str | None:
    return "a mean that no honest member stated counts" if B in countable(model, state) else None


def none_kept_out(model: Model, state: Holdings) -> str | None:
    if state.a < model.honest or countable(model, state) == {A}:
        return None
    return "every honest peer named the bucket's mean, and some shown holdings leave it out"


INVARIANTS: tuple[Invariant, ...] = (
    Invariant("HonestMean", ("BU-2", "BU-4"), "Only what an honest member of a bucket stated counts.", honest_mean),
    Invariant("NoneKeptOut", ("BU-4",), "What every honest peer names counts, whatever is shown.", none_kept_out),
)


# ---- the explorer ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Counterexample:
    """The shortest way to a broken invariant, and what is wrong at its end."""

    invariant: Invariant
    trace: tuple[str, ...]
    why: str


@dataclass(frozen=True)
class Exploration:
    """States, transitions, and the first counterexample if there is one."""

    states: int
    transitions: int
    counterexample: Counterexample | None


def explore(model: Model, *, invariants: tuple[Invariant, ...] = INVARIANTS) -> Exploration:
    """Visit every reachable state breadth first; stop at the first that breaks an invariant."""
    start = initial(model)
    ways: dict[Holdings, tuple[str, ...]] = {start: ()}
    frontier, transitions = [start], 0
    while frontier:
        reached = []
        for state in frontier:
            for invariant in invariants:
                if why := invariant.broken(model, state):
                    return Exploration(len(ways), transitions, Counterexample(invariant, ways[state], why))
            for label, after in steps(model, state):
                transitions += 1
                if after not in ways:
                    ways[after] = (*ways[state], label)
                    reached.append(after)
        frontier = reached
    return Exploration(len(ways), transitions, None)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Explore how a bucket's mean counts; the defaults are the protocol.")
    for name in ("n", "c", "size"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--lacking", type=int, default=0)
    for name in ("liars", "corrupt", "statements", "names", "quorum"):
        parser.add_argument(f"--{name}", type=int)
    try:
        model = Model(**vars(parser.parse_args(argv)))
    except ValueError as error:
        parser.error(str(error))
    found = explore(model)
    print(f"n = {model.n}, c = {model.c}, {model.bad} of {model.size} lie: {found.states:,} states", end=" ")
    print(f"{found.transitions:,} transitions")
    if found.counterexample is None:
        print("holds: " + ", ".join(f"{each.name} ({', '.join(each.clauses)})" for each in INVARIANTS))
        return 0
    wrong = found.counterexample
    print(f"BROKEN: {wrong.invariant.name} ({', '.join(wrong.invariant.clauses)}): {wrong.why}")
    print("\n".join(f"{number:4}. {label}" for number, label in enumerate(wrong.trace, 1)))
    return 1


if __name__ == "__main__":
    sys.exit(main())
