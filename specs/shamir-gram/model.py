"""An exhaustive model of what a shamir-gram round shows and opens: whose deals count, which of them stand, one matrix.

`steps(model, state)` is pure and yields (label, next state); `explore` walks all of it breadth first and checks
`INVARIANTS`, each tied to the clauses it stands for. What is abstracted, and why that is sound:

* c = 1 and one slot. One peer lies: where it stands in the roster is a parameter, as ties are broken in its order.
* Votes settle on one value, which an honest voter derived from what the proposal and others show it: that is certify,
  whose model is secagg's. What a voter has seen is any part of what there is; a proposal shows all checks but one at
  most, since fewer never suffice.
* A polynomial is a letter. Of an honest deal all honest holders tell what lies on it. A lying dealer deals each holder
  a value on A, on B, or where the two cross; with degree 1 any two other values lie on one B. A liar that tells a false
  value has it on a polynomial that as many honest values lie on as two polynomials can share.
* Sharings of zero are judged as deals are, and named with them: what a word hides is one sum of products of deals.
* Once it is known who survives, honest peers that hold and deal alike are alike, so how many there are is kept.

Run it: `python model.py --n 5 --liar 0`. The exit code is 1 if an invariant is broken. Standard library only.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import chain, combinations, product
from typing import NamedTuple, TypeVar

C = 1
DEGREE, PRODUCTS = C, 2 * C
"""Degrees of a deal, and of a product of two."""

LIAR = "L"
"""The liar, once survivors are known; the honest ones are numbers then."""

A, B, CROSS, SILENT = "A", "B", "A and B", "silent"
TRUE, FALSE, UNDECIDED = "true", "false", "undecided"

T = TypeVar("T")
Peer = int | str
Some = frozenset[Peer]


@dataclass(frozen=True)
class Model:
    """A configuration; the defaults are the protocol, every other choice plants a hole.

    n peers, of which the one at place `liar` of the roster lies; between honest ones so many ways are slow that a deal
    comes too late. Raises ValueError where the numbers make no protocol.
    """

    n: int
    liar: int = 0
    slow: int = 2
    vote: bool = True  # on what checks come to; else each holder goes by what it has seen itself
    blobs: bool = True  # prove who lied of a suspect and its dealer; else the suspect is held to have
    denied_shown: bool = False  # a dealer shows the share of who says that it lacks its deal
    silence_proves: bool = False  # a holder without a word is held to be corrupt

    def __post_init__(self) -> None:
        if not 3 * C + 1 <= self.n <= 6 or not 0 <= self.liar < self.n or not 0 <= self.slow <= 3:
            raise ValueError(f"need 4 <= n <= 6, a liar among them and at most 3 slow ways, not {self}")

    @property
    def quorum(self) -> int:
        return (self.n + C) // 2 + 1

    @property
    def fewest(self) -> int:
        """Of dealers and of holders: max(t, 2c + 2) and max(t, 3c + 1) are the same for c = 1."""
        return max(self.quorum, 3 * C + 1)

    @property
    def honest(self) -> tuple[int, ...]:
        return tuple(place for place in range(self.n) if place != self.liar)


class Value(NamedTuple):
    """What checks come to: the dealers and holders that stand, and who is proved to lie."""

    dealers: Some
    holders: Some
    proved: Some


class State(NamedTuple):
    """A round, as far as it has come; what no longer matters is left away."""

    stage: str = "holdings"
    held: tuple[frozenset[int], ...] = ()
    """Of the peers whose holding is said, in the roster's order: whose deals each has."""
    slow: int = 0
    bare: frozenset[int] = frozenset()
    """Honest dealers of whom a share was shown that was none of the liar's."""
    dealers: Some = frozenset()
    holders: Some = frozenset()
    dealt: tuple[str, ...] = ()
    """Where what the liar dealt to each honest holder lies."""
    told: tuple[tuple[Peer, int | str], ...] = ()
    """Holders that told, each with where its word on the liar's deal lies; the liar's is a number: of how many honest
    dealers it tells falsely."""
    lies: int = 0
    value: Value | None = None
    words: frozenset[Some] = frozenset()
    """Of which deals' products honest holders have told a word."""
    proved: Some = frozenset()
    """Who is held to be proved a liar by anybody honest."""
    opened: str = ""


def subsets(some: Iterable[T], least: int = 0) -> Iterator[tuple[T, ...]]:
    items = tuple(some)
    return chain.from_iterable(combinations(items, count) for count in range(least, len(items) + 1))


# ---- whose deals count -----------------------------------------------------------------------------------------------


def derive_held(model: Model, held: Mapping[int, frozenset[int]]) -> tuple[frozenset[int], frozenset[int]] | None:
    """Dealers, and holders who have all of these, from shown holdings; None where there would be too few."""
    dealers = [i for i in range(model.n) if sum(i in one for one in held.values()) > C]
    holders = sorted(held)
    while len(dealers) >= model.fewest and len(holders) >= model.fewest:
        lacking = [(i, h) for i in dealers for h in holders if i not in held[h]]
        if not lacking:
            return frozenset(dealers), frozenset(holders)
        of_dealers = {i: sum(i == pair[0] for pair in lacking) for i in dealers}
        of_holders = {h: sum(h == pair[1] for pair in lacking) for h in holders}
        dealer, holder = max(dealers, key=of_dealers.__getitem__), max(holders, key=of_holders.__getitem__)
        spare_dealer, spare_holder = len(dealers) > model.fewest, len(holders) > model.fewest
        holder_out = of_holders[holder] > of_dealers[dealer]
        if spare_dealer != spare_holder:
            holder_out = spare_holder
        if holder_out:
            holders.remove(holder)
        else:
            dealers.remove(dealer)
    return None


def say_holdings(model: Model, state: State) -> Iterator[tuple[str, State]]:
    """The next peer of the roster says its holding, or, once all have, a proposal shows some."""
    place = len(state.held)
    if place == model.n:
        yield from survive(model, state)
        return
    others = frozenset(range(model.n)) - {place}
    if place == model.liar:
        for some in subsets(sorted(others)):
            held = frozenset({*some, place})
            yield f"the liar holds {sorted(held)}", state._replace(held=(*state.held, held))
        return
    for lacks in subsets(sorted(others)):
        late = frozenset(lacks) - {model.liar}
        if state.slow + len(late) > model.slow:
            continue
        held = frozenset(range(model.n)) - frozenset(lacks)
        shown = late if model.denied_shown else frozenset()
        after = state._replace(held=(*state.held, held), slow=state.slow + len(late), bare=state.bare | shown)
        yield f"{place} holds {sorted(held)}", after


def survive(model: Model, state: State) -> Iterator[tuple[str, State]]:
    for some in subsets(range(model.n), model.quorum):
        given = derive_held(model, {place: state.held[place] for place in some})
        if given is None:
            yield f"the holdings of {some} give too few", State("over", bare=state.bare)
            continue
        named = renamed(model, *given)
        yield f"by the holdings of {some} survive {sorted(given[0])}, held by {sorted(given[1])}", State(
            "deals", bare=state.bare, dealers=named[0], holders=named[1]
        )


def renamed(model: Model, dealers: frozenset[int], holders: frozenset[int]) -> tuple[Some, Some]:
    """Honest peers by what they are: first those that deal and hold, then those that hold, then those that deal."""
    order = sorted(model.honest, key=lambda one: (one not in holders, one not in dealers, one))
    names: dict[int, Peer] = {one: place for place, one in enumerate(order)} | {model.liar: LIAR}
    return frozenset(names[one] for one in dealers), frozenset(names[one] for one in holders)


# ---- which of them stand ---------------------------------------------------------------------------------------------


def honest_in(some: Some) -> list[int]:
    return sorted(one for one in some if isinstance(one, int))


def deal(model: Model, state: State) -> Iterator[tuple[str, State]]:
    """What the liar dealt shows: where each honest holder's share lies; of holders alike only how many matter."""
    count = len(honest_in(state.holders))
    for crossing, on_b in product(range(DEGREE + 1), range(count + 1)):
        if crossing + on_b <= count:
            dealt = (*(CROSS,) * crossing, *(B,) * on_b, *(A,) * (count - crossing - on_b))
            if LIAR in state.dealers or not crossing + on_b:
                yield f"what the liar dealt lies on {', '.join(dealt)}", state._replace(stage="checks", dealt=dealt)


def check(model: Model, state: State) -> Iterator[tuple[str, State]]:
    """Holders tell what they were dealt, all but one at most; the liar of some honest dealers falsely."""
    honest = dict(zip(honest_in(state.holders), state.dealt, strict=True))
    dealers = len(honest_in(state.dealers))
    says: list[tuple[str, int]] = [(SILENT, 0)]
    if LIAR in state.holders:
        says += [(letter, lies) for letter in (A, B) for lies in range(dealers + 1)]
    for late in (None, *honest):
        for letter, lies in says:
            told: dict[Peer, str] = {one: where for one, where in honest.items() if one != late}
            if letter != SILENT:
                told[LIAR] = letter
            after = state._replace(stage="vote", dealt=(), told=tuple(told.items()), lies=lies)
            yield f"{late} is late, and the liar tells {letter} and of {lies} dealers falsely", after


@cache
def decode(degree: int, liars: int, on: tuple[frozenset[Peer], ...], told: Some) -> frozenset[Peer] | None:
    """Whose values lie on what is decoded, of polynomials with these values on them; None where nothing is."""
    most = min(liars, len(told) - degree - 1 - liars)
    near = [some for some in on if most >= 0 and len(told - some) <= most]
    return max(near, key=len) if near else None


def on_honest(told: Some, false: Some, degree: int) -> tuple[frozenset[Peer], ...]:
    """Which values lie on the true polynomial, and on the one that false ones choose: it shares `degree` true ones."""
    true = told - false
    shared = frozenset(sorted(true, key=str)[:degree])
    return (true, false | shared) if false else (true,)


@cache
def judge(model: Model, told: tuple[tuple[Peer, str], ...], lies: int, dealer: Peer) -> tuple[str, Some]:
    """What values tell of a deal: "stands", with the suspects; "proved", "out"."""
    where, all_ = dict(told), frozenset(peer for peer, _ in told)
    if dealer == LIAR:
        on = tuple(frozenset(peer for peer in where if where[peer] in (letter, CROSS)) for letter in (A, B))
    else:
        false = frozenset({LIAR}) if LIAR in all_ and isinstance(dealer, int) and dealer < lies else frozenset()
        on = on_honest(all_, false, DEGREE)
    found = decode(DEGREE, C, on, all_)
    if found is not None:
        return "stands", all_ - found
    return ("proved" if len(all_) - DEGREE - 1 - C >= C else "out"), frozenset()


def derive_checked(model: Model, state: State, shown: Some, seen: frozenset[tuple[Peer, Peer]]) -> Value | None:
    """What shown checks come to for who has seen some of the blobs; None is undecided.

    A blob of the liar's deal gives what its honest holder told; one of an honest deal gives what it dealt, and the liar
    told otherwise.
    """
    told = tuple(one for one in state.told if one[0] in shown)
    proved, out, silent = set[Peer](), set[Peer](), set[Peer]()
    for dealer in state.dealers:
        verdict, suspects = judge(model, told, place_of_lies(state), dealer)
        if verdict != "stands":
            (proved if verdict == "proved" else out).add(dealer)
        for holder in suspects:
            if not model.blobs:
                proved.add(holder)
            elif (dealer, holder) in seen:
                proved.add(LIAR)
            else:
                silent.add(holder)
    dealers = state.dealers - proved - out
    holders = frozenset(peer for peer, _ in told if peer not in proved | silent)
    liars = max(0, C - len(proved))
    if len(holders) < PRODUCTS + 1 + liars or len(dealers) - liars < C + 2:
        return None
    return Value(frozenset(dealers), holders, frozenset(proved))


def place_of_lies(state: State) -> int:
    """The liar tells falsely of the first so many honest dealers: which ones does not matter."""
    order = honest_in(state.dealers)
    return order[state.lies - 1] + 1 if state.lies else 0


@cache
def values(model: Model, state: State) -> frozenset[Value | None]:
    """What an honest peer may take the checks to come to, over all that it may be shown."""
    found = set[Value | None]()
    told = [peer for peer, _ in state.told]
    for some in subsets(told, max(1, len(told) - 1)):
        shown = frozenset(some)
        kept = tuple(one for one in state.told if one[0] in shown)
        pairs = [(i, h) for i in state.dealers for h in judge(model, kept, place_of_lies(state), i)[1]]
        found |= {derive_checked(model, state, shown, frozenset(seen)) for seen in subsets(pairs)}
    return frozenset(found)


def laid_bare(model: Model, state: State) -> frozenset[int]:
    """Honest dealers whose share an honest suspect would show."""
    found = set[int]()
    for some in subsets([peer for peer, _ in state.told], max(1, len(state.told) - 1)):
        kept = tuple(one for one in state.told if one[0] in some)
        for dealer in honest_in(state.dealers):
            if honest_in(judge(model, kept, place_of_lies(state), dealer)[1]):
                found.add(dealer)
    return frozenset(found)


def vote(model: Model, state: State) -> Iterator[tuple[str, State]]:
    """It is certified what checks come to, by what one honest voter has seen; or each holder goes by its own."""
    bare = state.bare | laid_bare(model, state)
    for value in sorted(values(model, state), key=str):
        if value is None:
            yield "it is certified as undecided", State("over", bare=bare)
        elif model.vote:
            yield f"certified is {said(value)}", State("words", bare=bare, value=value, proved=value.proved)
        elif honest_in(value.holders):
            words = state.words | {value.dealers}
            yield f"a holder takes it that {said(value)}", state._replace(
                bare=bare, words=words, proved=state.proved | value.proved
            )


def said(value: Value) -> str:
    dealers, holders, proved = (", ".join(sorted(map(str, some))) or "nobody" for some in value)
    return f"{dealers} stand, {holders} hold, proved: {proved}"


# ---- what is opened --------------------------------------------------------------------------------------------------


def word(model: Model, state: State) -> Iterator[tuple[str, State]]:
    """Counted holders tell words, all but two at most, the liar a true or a false one; they are opened."""
    value = state.value
    if value is None:
        return
    honest = honest_in(value.holders)
    for late in subsets(honest):
        if len(late) > 2:
            continue
        for lie in (SILENT, TRUE, FALSE) if LIAR in value.holders else (SILENT,):
            told = frozenset(honest) - frozenset(late) | (frozenset({LIAR}) if lie != SILENT else frozenset())
            words = frozenset({value.dealers}) if frozenset(honest) - frozenset(late) else frozenset()
            result = opened(model, value, told, lie == FALSE)
            after = State("over", bare=state.bare, words=words, proved=state.proved, opened=result)
            yield f"{late} are late, the liar's word is {lie}: opened is what is {result}", after


def opened(model: Model, value: Value, told: Some, lies: bool) -> str:
    gone = len(value.proved) + (len(value.holders - told) if model.silence_proves else 0)
    false = frozenset({LIAR}) if lies else frozenset()
    found = decode(PRODUCTS, max(0, C - gone), on_honest(told, false, PRODUCTS), told)
    if found is None:
        return UNDECIDED
    return FALSE if found & false else TRUE


STAGES: dict[str, Callable[[Model, State], Iterator[tuple[str, State]]]] = {
    "holdings": say_holdings,
    "deals": deal,
    "checks": check,
    "vote": vote,
    "words": word,
}


def initial(model: Model) -> State:
    return State()


def steps(model: Model, state: State) -> Iterator[tuple[str, State]]:
    if state.stage in STAGES:
        yield from STAGES[state.stage](model, state)


# ---- invariants ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Invariant:
    """What holds in every state; `broken` says what does not, or None."""

    name: str
    clauses: tuple[str, ...]
    says: str
    broken: Callable[[Model, State], str | None]


def no_bare_update(model: Model, state: State) -> str | None:
    return "c colluders and a share that was shown give an honest update" if state.bare else None


def only_liars_proved(model: Model, state: State) -> str | None:
    return "an honest peer is held to be proved a liar" if state.proved - {LIAR} else None


def one_matrix(model: Model, state: State) -> str | None:
    return "words of two sums are told under the same sharings of zero" if len(state.words) > 1 else None


def nothing_false_opened(model: Model, state: State) -> str | None:
    return "what is opened is not the products of what was dealt" if state.opened == FALSE else None


INVARIANTS: tuple[Invariant, ...] = (
    Invariant("NoBareUpdate", ("SG-3",), "No honest dealer's share is shown to who did not get it.", no_bare_update),
    Invariant("OnlyLiarsProved", ("SG-6",), "Nobody honest is proved to lie.", only_liars_proved),
    Invariant("OneMatrix", ("SG-7",), "Honest words are of one sum of products.", one_matrix),
    Invariant("NothingFalseOpened", ("SG-8",), "What is opened is true, or undecided.", nothing_false_opened),
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
    """States, transitions, the first counterexample if there is one, and what words opened to in any of the states."""

    states: int
    transitions: int
    counterexample: Counterexample | None
    opened: frozenset[str] = frozenset()


def explore(model: Model, *, invariants: tuple[Invariant, ...] = INVARIANTS) -> Exploration:
    """Visit every reachable state breadth first; stop at the first that breaks an invariant."""
    start = initial(model)
    came: dict[State, tuple[State, str] | None] = {start: None}
    frontier, transitions = [start], 0
    while frontier:
        reached = []
        for state in frontier:
            for invariant in invariants:
                if why := invariant.broken(model, state):
                    return Exploration(len(came), transitions, Counterexample(invariant, way(came, state), why))
            for label, after in steps(model, state):
                transitions += 1
                if after not in came:
                    came[after] = state, label
                    reached.append(after)
        frontier = reached
    return Exploration(len(came), transitions, None, frozenset(state.opened for state in came) - {""})


def way(came: Mapping[State, tuple[State, str] | None], state: State) -> tuple[str, ...]:
    labels: list[str] = []
    while (before := came[state]) is not None:
        state, label = before
        labels.append(label)
    return tuple(reversed(labels))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Explore what a round shows and opens; the defaults are the protocol.")
    parser.add_argument("--n", type=int, required=True)
    parser.add_argument("--liar", type=int, default=0)
    parser.add_argument("--slow", type=int, default=2)
    parser.add_argument("--no-vote", dest="vote", action="store_false")
    parser.add_argument("--no-blobs", dest="blobs", action="store_false")
    for name in ("denied_shown", "silence_proves"):
        parser.add_argument(f"--{name.replace('_', '-')}", action="store_true")
    try:
        model = Model(**vars(parser.parse_args(argv)))
    except ValueError as error:
        parser.error(str(error))
    found = explore(model)
    print(f"n = {model.n}, {model.liar} lies: {found.states:,} states, {found.transitions:,} transitions")
    if found.counterexample is None:
        print("holds: " + ", ".join(f"{each.name} ({', '.join(each.clauses)})" for each in INVARIANTS))
        return 0
    wrong = found.counterexample
    print(f"BROKEN: {wrong.invariant.name} ({', '.join(wrong.invariant.clauses)}): {wrong.why}")
    print("\n".join(f"{number:4}. {label}" for number, label in enumerate(wrong.trace, 1)))
    return 1


if __name__ == "__main__":
    sys.exit(main())
