"""An exhaustive model of secagg's certify and unmask: every state that liars, drops and lost messages can cause.

`steps(model, state)` is pure and yields (label, next state); `explore` walks all of it breadth first and checks
`INVARIANTS`, each tied to the clauses it stands for. MODEL.md says what is abstracted and why that is sound. In short:

* A state is what the honest peers have signed. The c liars have signed everything, so t votes for (view, X) can be
  shown to anyone once t - c honest peers have cast theirs; what a peer was not shown is a step not (yet) taken.
* Falling silent is no step: a silent peer takes none, and `NoStuckProposer` asks about every set of peers still live.
* While voting X is a bare letter, as votes only compare it; a letter gets its survivors once it is certified.

Run it: `python model.py --n 4 --c 1 --views 3`. The exit code is 1 if an invariant is broken. Standard library only.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import cache
from itertools import combinations, permutations, product
from typing import Literal, NamedTuple, get_args, get_type_hints

Lock = Literal["tendermint", "none", "frozen", "stale"]
Votes = Literal["per_view", "per_round", "single"]
Commits = Literal["in_order", "late"]
Unmask = Literal["certificate", "word"]
Shares = Literal["one", "both"]
LETTERS = "ABCDEFGH"


@dataclass(frozen=True)
class Model:
    """A configuration; the defaults are the protocol, every other choice plants a hole.

    n peers of which c lie; honest peers are 0..n-c-1. Two `letters` are enough (MODEL.md, "Two letters are enough").
    Raises ValueError where the numbers make no protocol.
    """

    n: int
    c: int
    views: int
    letters: int = 2
    quorum: int | None = None  # votes that make a certificate; None: t
    threshold: int | None = None  # shares that rebuild a secret; None: t
    floor: int | None = None  # the least |U|; None: t
    lock: Lock = "tendermint"  # none: binds nobody · frozen: never moves · stale: moves on prepares of any earlier view
    votes: Votes = "per_view"  # per_round: one prepare ever · single: t prepares are the certificate, nobody commits
    commits: Commits = "in_order"  # late: also in a view below one acted in
    unmask: Unmask = "certificate"  # word: each honest peer takes a proposer's word for X, whatever is voted
    shares: Shares = "one"  # both: of the self seed and of the mask key

    def __post_init__(self) -> None:
        if not 1 <= self.c <= self.n - 2 or self.views < 1 or not 1 <= self.letters <= len(LETTERS):
            raise ValueError(f"need 1 <= c <= n - 2, views >= 1 and 1 to {len(LETTERS)} letters, not {self}")
        if self.floor is not None and self.floor <= self.c:
            raise ValueError(f"a floor of {self.floor} allows a sum over liars alone, choose one above c = {self.c}")

    @property
    def honest(self) -> int:
        return self.n - self.c

    @property
    def t(self) -> int:
        """⌊(n+c)/2⌋ + 1: two sets of t peers share an honest one, and t peers hold at least two honest ones."""
        return (self.n + self.c) // 2 + 1

    @property
    def needed(self) -> int:
        """Honest votes behind a quorum: the liars add c."""
        return (self.t if self.quorum is None else self.quorum) - self.c


# ---- states ---------------------------------------------------------------------------------------------------------

Letter = int  # 0: none, 1: "A", 2: "B", …
Record = tuple[tuple[Letter, Letter], ...]  # of one honest peer: (prepared, committed) in each view
Survivors = tuple[int, ...]  # the honest peers in U, ascending; () stands for `fail`, and for "nothing shown yet"
NOTHING: Survivors = ()


class Voting(NamedTuple):
    """Step 4: the votes of the honest peers, signed and sent, so anyone may have been shown any of them."""

    records: tuple[Record, ...]


class Unmasking(NamedTuple):
    """Step 5: what is certified (by word: what may yet be), and the U for which each honest peer has shown shares."""

    certified: tuple[Survivors, ...]
    shown: tuple[Survivors, ...]


State = Voting | Unmasking


def initial(model: Model) -> State:
    if model.unmask == "word":
        return Unmasking(outcomes(model), (NOTHING,) * model.honest)
    return Voting((((0, 0),) * model.views,) * model.honest)


@cache
def outcomes(model: Model) -> tuple[Survivors, ...]:
    """Every X a lying proposer can justify, as the honest part of its U.

    U is what all owners hold. The t peers that show holdings own all slices, each its own at least. An honest owner's
    holding has itself (its vector is spent) and whoever's slice was not lost on the way; a liar's has whom it likes.
    """
    everyone = frozenset(range(model.n))
    subsets = [frozenset(s) for size in range(model.n + 1) for s in combinations(range(model.n), size)]
    given: set[frozenset[int]] = set()
    for owners in combinations(range(model.n), model.t):
        held = {everyone}
        for owner in owners:
            held = {u & holding for u in held for holding in subsets if owner >= model.honest or owner in holding}
        given |= held
    floor = model.t if model.floor is None else model.floor
    found = {tuple(sorted(k for k in u if k < model.honest)) for u in given if len(u) >= floor}
    return tuple(sorted(found | ({NOTHING} if any(len(u) < floor for u in given) else set())))


# ---- step 4: certify ------------------------------------------------------------------------------------------------

Cast = frozenset[tuple[int, Letter]]  # the (view, X) that have a quorum of one kind of vote


@cache
def lock_of(record: Record) -> tuple[int, Letter] | None:
    """The latest commit."""
    return next(((v, record[v][1]) for v in reversed(range(len(record))) if record[v][1]), None)


@cache
def acted(record: Record) -> int:
    """The highest view voted in, -1 before any."""
    return next((v for v in reversed(range(len(record))) if record[v] != (0, 0)), -1)


def quorums(model: Model, records: tuple[Record, ...], kind: Literal[0, 1]) -> Cast:
    """(view, X) for which t prepares (kind 0) or t commits (kind 1) can be shown."""
    return frozenset(
        (v, x)
        for v in range(model.views)
        for x in range(1, model.letters + 1)
        if sum(record[v][kind] == x for record in records) >= model.needed
    )


def may_prepare(model: Model, record: Record, view: int, x: Letter, prepared: Cast) -> bool:
    """SA-5: once a view, never below a view acted in, and past its lock only on t later prepares of X.

    `prepared` is what the signer can be shown; `view` may be one past the record's end, which nobody has reached.
    """
    if view < acted(record) or (view < len(record) and record[view][0]):
        return False
    if model.votes == "per_round" and any(prepare for prepare, _ in record):
        return False
    lock = lock_of(record)
    if lock is None or lock[1] == x or model.lock == "none":
        return True
    since = -1 if model.lock == "stale" else lock[0]
    return model.lock != "frozen" and any(y == x and since < v < view for v, y in prepared)


def may_commit(model: Model, record: Record, view: int, x: Letter, prepared: Cast) -> bool:
    """SA-5: on t prepares of (view, X), once a view, and only if it acted in no later one."""
    in_time = view >= acted(record) or model.commits == "late"
    return model.votes != "single" and in_time and not record[view][1] and (view, x) in prepared


def certified(model: Model, records: tuple[Record, ...]) -> tuple[Letter, ...]:
    return tuple(sorted({x for _, x in quorums(model, records, 0 if model.votes == "single" else 1)}))


def voting_steps(model: Model, state: Voting) -> Iterator[tuple[str, State]]:
    records = state.records
    prepared = quorums(model, records, 0)
    for (i, record), v, x in product(enumerate(records), range(model.views), range(1, model.letters + 1)):
        prepare, commit = record[v]
        if may_prepare(model, record, v, x, prepared):
            voted = (*record[:v], (x, commit), *record[v + 1 :])
            yield f"p{i} prepares {name(x)} in view {v}", Voting((*records[:i], voted, *records[i + 1 :]))
        if may_commit(model, record, v, x, prepared):
            voted = (*record[:v], (prepare, x), *record[v + 1 :])
            yield f"p{i} commits {name(x)} in view {v}", Voting((*records[:i], voted, *records[i + 1 :]))
    if letters := certified(model, records):
        for bound in product(outcomes(model), repeat=len(letters)):
            what = ", ".join(f"{name(x)} is certified: {told(u)}" for x, u in zip(letters, bound, strict=True))
            yield what, Unmasking(tuple(sorted(set(bound))), (NOTHING,) * model.honest)


# ---- step 5: unmask -------------------------------------------------------------------------------------------------


def unmasking_steps(model: Model, state: Unmasking) -> Iterator[tuple[str, State]]:
    """SA-3, SA-7: under a certificate, once: the share of b_k for k in U, of s_k for the others."""
    for i, before in enumerate(state.shown):
        for u in state.certified:
            if before == NOTHING and u != NOTHING:
                label = f"p{i} shows its shares for {told(u)}"
                yield label, Unmasking(state.certified, (*state.shown[:i], u, *state.shown[i + 1 :]))


def rebuilt(model: Model, shown: tuple[Survivors, ...]) -> tuple[frozenset[int], frozenset[int]]:
    """The honest peers whose self seed b, and whose mask key s, the liars can rebuild: they hold c shares of each."""
    missing = (model.t if model.threshold is None else model.threshold) - model.c
    both = model.shares == "both"
    peers = range(model.honest)
    seeds = frozenset(k for k in peers if sum(k in u or (both and u != NOTHING) for u in shown) >= missing)
    keys = frozenset(k for k in peers if sum(u != NOTHING and (both or k not in u) for u in shown) >= missing)
    return seeds, keys


def computable(seeds: frozenset[int], keys: frozenset[int], peers: frozenset[int]) -> frozenset[frozenset[int]]:
    """The sets of honest peers whose updates' sum the liars can compute; every other sum they know adds up from these.

    They have every y_i = x_i + PRG(b_i) ± Σ_j PRG(k_ij), pads with liars removed. In Σ a_i·y_i an unknown b_i stays
    unless a_i = 0, and an unknown k_ij unless a_i = a_j. k_ij is known from either key. So `a` is constant on every
    component of the graph of unknown k_ij, and 0 on one with an unknown b_i; uniform pads hide all the rest.
    The peers whose keys were not rebuilt are one such component, and each of the others is one by itself.
    """
    components = [frozenset({k}) for k in keys] + [peers - keys]
    return frozenset(component for component in components if component and component <= seeds)


# ---- all steps, and the symmetry that leaves one state of many -------------------------------------------------------


def steps(model: Model, state: State) -> Iterator[tuple[str, State]]:
    """Everything that can happen next."""
    return voting_steps(model, state) if isinstance(state, Voting) else unmasking_steps(model, state)


@cache
def renamings(letters: int) -> tuple[tuple[Letter, ...], ...]:
    return tuple((0, *order) for order in permutations(range(1, letters + 1)))


@cache
def renamed(record: Record, names: tuple[Letter, ...]) -> Record:
    return tuple((names[prepare], names[commit]) for prepare, commit in record)


def folded(model: Model, state: State) -> State:
    """One state for all that differ in the names of voters or letters, or in who showed which shares."""
    if isinstance(state, Unmasking):
        return Unmasking(state.certified, tuple(sorted(state.shown)))
    same = (tuple(sorted(renamed(r, names) for r in state.records)) for names in renamings(model.letters))
    return Voting(min(same))


# ---- invariants -----------------------------------------------------------------------------------------------------


def one_certificate(model: Model, state: State) -> str | None:
    if isinstance(state, Unmasking) or len(letters := certified(model, state.records)) < 2:
        return None
    return " and ".join(map(name, letters)) + " are both certified"


def no_stuck_proposer(model: Model, state: State) -> str | None:
    """For every set of live honest peers that the liars could make up to t: enough of it accept the next proposal.

    The proposer of a view that nobody has reached waits for the live peers' locks and offers the highest, showing its
    prepares; t prepares there let all of them commit, as nobody acted in a later view. Where t honest peers live it
    needs no liar, with fewer it needs liars that vote for once.
    """
    if isinstance(state, Unmasking):
        return None
    quorum = model.needed + model.c
    for size in range(model.honest, max(1, model.needed) - 1, -1):
        for live in combinations(range(model.honest), size):
            locks = frozenset(lock for i in live if (lock := lock_of(state.records[i])))
            offer = max(locks, default=(-1, 1))[1]
            accept = [i for i in live if may_prepare(model, state.records[i], model.views, offer, locks)]
            if len(accept) < min(size, quorum):
                willing = told(accept) if accept else "nobody"
                return f"with {told(live)} live, a later proposer offers {name(offer)} and {willing} will prepare it"
    return None


def one_secret(model: Model, state: State) -> str | None:
    if isinstance(state, Voting):
        return None
    seeds, keys = rebuilt(model, state.shown)
    return f"both secrets of {told(seeds & keys)} can be rebuilt" if seeds & keys else None


def no_lone_sum(model: Model, state: State) -> str | None:
    if isinstance(state, Voting):
        return None
    sums = computable(*rebuilt(model, state.shown), frozenset(range(model.honest)))
    if len(sums) < 2 and all(len(peers) > 1 for peers in sums):
        return None
    return "the liars can compute " + " and ".join(f"the sum over {told(peers)}" for peers in sorted(map(sorted, sums)))


def freed_stays_hidden(model: Model, state: State) -> str | None:
    if isinstance(state, Voting):
        return None
    for peers in computable(*rebuilt(model, state.shown), frozenset(range(model.honest))):
        for u in state.certified:
            if not peers <= set(u):
                return f"the sum over {told(peers)} can be computed, and {told(u)} frees {told(peers - set(u))}"
    return None


class Invariant(NamedTuple):
    name: str
    clauses: tuple[str, ...]
    says: str
    broken: Callable[[Model, State], str | None]  # None, or what is wrong


INVARIANTS: tuple[Invariant, ...] = (
    Invariant("OneCertificate", ("SA-5",), "No two different X are certified under one ctx.", one_certificate),
    Invariant(
        "NoStuckProposer",
        ("SA-5",),
        "While t peers act, an honest proposer of a later view completes a certificate.",
        no_stuck_proposer,
    ),
    Invariant("OneSecret", ("SA-3",), "No honest peer's self seed and mask key are both rebuildable.", one_secret),
    Invariant(
        "NoLoneSum",
        ("SA-6", "SA-7"),
        "No sum over fewer than two honest peers, and no two different sums, can be computed.",
        no_lone_sum,
    ),
    Invariant(
        "FreedStaysHidden",
        ("SA-4", "SA-7"),
        "An update that a certificate frees, to be masked once more, is in no sum that can be computed.",
        freed_stays_hidden,
    ),
)


# ---- the explorer ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Counterexample:
    """The shortest way to a broken invariant, and what is wrong at its end."""

    invariant: Invariant
    trace: tuple[str, ...]
    why: str


@dataclass(frozen=True)
class Exploration:
    """States (all, and those of step 5), transitions, and the first counterexample if there is one."""

    states: int
    unmasking: int
    transitions: int
    counterexample: Counterexample | None


def explore(model: Model, *, invariants: tuple[Invariant, ...] = INVARIANTS, symmetry: bool = True) -> Exploration:
    """Visit every reachable state breadth first; stop at the first that breaks an invariant."""
    fold: Callable[[Model, State], State] = folded if symmetry else lambda _, state: state
    start = fold(model, initial(model))
    parent: dict[State, State] = {start: start}
    frontier, transitions = [start], 0

    def result(counterexample: Counterexample | None) -> Exploration:
        unmasking = sum(isinstance(state, Unmasking) for state in parent)
        return Exploration(len(parent), unmasking, transitions, counterexample)

    while frontier:
        reached = []
        for state in frontier:
            for invariant in invariants:
                if invariant.broken(model, state):
                    return result(explain(model, fold, parent, state, invariant))
            for _, after in steps(model, state):
                transitions += 1
                after = fold(model, after)
                if after not in parent:
                    parent[after] = state
                    reached.append(after)
        frontier = reached
    return result(None)


def explain(
    model: Model,
    fold: Callable[[Model, State], State],
    parent: dict[State, State],
    last: State,
    invariant: Invariant,
) -> Counterexample:
    """Walk the way to `last` again with everyone's own name: folding forgets who is who, but never what can happen."""
    way = [last]
    while parent[way[-1]] != way[-1]:
        way.append(parent[way[-1]])
    state, trace = initial(model), []
    for target in reversed(way[:-1]):
        label, state = next(step for step in steps(model, state) if fold(model, step[1]) == target)
        trace.append(label)
    return Counterexample(invariant, tuple(trace), invariant.broken(model, state) or "")


# ---- words and the command line -------------------------------------------------------------------------------------


def name(letter: Letter) -> str:
    return LETTERS[letter - 1]


def told(peers: tuple[int, ...] | list[int] | frozenset[int]) -> str:
    return "{" + ", ".join(f"p{k}" for k in sorted(peers)) + "}" if peers else "fail"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Explore secagg's certify and unmask; the defaults are the protocol.")
    hints = get_type_hints(Model)
    for field in fields(Model):
        choices = get_args(hints[field.name])
        if choices and isinstance(choices[0], str):
            parser.add_argument(f"--{field.name}", choices=choices, default=field.default)
        else:
            wanted = field.name in ("n", "c", "views")
            parser.add_argument(f"--{field.name}", type=int, required=wanted, default=None if wanted else field.default)
    parser.add_argument("--only", choices=[i.name for i in INVARIANTS], help="check this invariant alone")
    parser.add_argument("--no-symmetry", action="store_true", help="visit every state, for comparing counts with TLC")
    options = vars(parser.parse_args(argv))
    symmetry, only = not options.pop("no_symmetry"), options.pop("only")
    invariants = tuple(i for i in INVARIANTS if only in (None, i.name))
    try:
        model = Model(**options)
    except ValueError as error:
        parser.error(str(error))
    began = time.process_time()
    found = explore(model, invariants=invariants, symmetry=symmetry)
    took = time.process_time() - began
    print(f"n = {model.n}, c = {model.c}, t = {model.t}, {model.views} views: {found.states:,} states", end=" ")
    print(f"({found.unmasking:,} of unmask), {found.transitions:,} transitions, {took:.1f} s CPU")
    if found.counterexample is None:
        print("holds: " + ", ".join(f"{i.name} ({', '.join(i.clauses)})" for i in invariants))
        return 0
    wrong = found.counterexample
    print(f"BROKEN: {wrong.invariant.name} ({', '.join(wrong.invariant.clauses)}): {wrong.why}")
    print("\n".join(f"{number:4}. {label}" for number, label in enumerate(wrong.trace, 1)))
    return 1


if __name__ == "__main__":
    sys.exit(main())
