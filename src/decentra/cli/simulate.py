"""The body of ``decentra simulate``: schedules of seeds, what they came to, and a trace of whatever was violated."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from decentra import derive
from decentra.charter.bucket_policy import BUCKETED, LEAST_IN_BUCKETS, most_in_buckets
from decentra.charter.policy import LEAST_MEMBERS, MESH, MOST_MEMBERS, SHARED, SHIPPED
from decentra.cli.report import FAILED, emit
from decentra.errors import LocalError
from decentra.simulation.adversaries import ADVERSARIES
from decentra.simulation.hazards import MIXES, Mix
from decentra.simulation.search import Outcome, Tally, check_adversary, search, trace_of
from decentra.simulation.stage import CRYPTO, Play, cast_for

MEMBERSHIP = "membership"
"""No round's protocol, and simulated all the same: who is up."""

ON_A_GRID = "group-gossip"
"""One mixing on a grid is played, with options of its own."""

_ONE_GROUP = {"group": "plays one group, of -n peers", "lost": "stops peers by --faults"}
_UNFIT: Mapping[str, Mapping[str, str]] = {
    **dict.fromkeys(SHIPPED, _ONE_GROUP),
    BUCKETED: {**_ONE_GROUP, "late": "begins no round ahead of its update"},
    MEMBERSHIP: {
        **_ONE_GROUP,
        "late": "has no rounds to begin ahead of local steps",
        "frames": "speaks in datagrams, and no link repeats them",
    },
    ON_A_GRID: {
        "late": "has no local steps to begin its rounds ahead of",
        "trace": "prints no trace",
        "seeds": "plays one mixing, of seed --first",
        "faults": "has no faults but peers that stop, by --lost",
        "adversary": "has no liars",
        "frames": "carries whole messages",
    },
}
"""By protocol the options that would change nothing, and why."""

MOST_TRACED = 3
"""Violating seeds whose traces are printed; the others are listed."""

MOST_LATE = 600.0
"""Seconds of local steps: five times the templates' deadline of readiness."""

LEAST_SHARED = 4
"""Peers among whom one lies and every lie about a product is seen."""

MOST_SIMULATED = 26
"""Peers have letters in a trace."""


def peers(protocol: str, n: int | None) -> int:
    """How many peers to play, where nobody has said it: 7, and of a protocol that needs more as many as that."""
    return n if n is not None else max(7, LEAST_IN_BUCKETS if protocol == BUCKETED else 0)


def refuse_unfit(protocol: str, given: Iterable[str]) -> None:
    """Refuse an option that a protocol would ignore.

    Args:
        protocol: any name.
        given: the options on the command line, by name.

    Raises:
        LocalError: one of them is such.
    """
    unfit = _UNFIT.get(protocol, {})
    for option in given:
        if option in unfit:
            raise LocalError(f"{protocol} {unfit[option]}; leave --{option} out")


def simulate(
    protocol: str,
    n: int,
    c: int | None,
    seeds: int,
    first: int,
    faults: str,
    crypto: str,
    adversary: str | None,
    frames: bool,
    late: float,
    trace: int | None,
    as_json: bool,
) -> int:
    """Play schedules and print what they came to.

    Args:
        protocol: ``secagg``, ``allreduce``, ``mesh``, ``bucketed``, ``shamir-gram`` or ``membership``.
        n: peers.
        c: how many may lie together; None for the most that leave a peer to spare.
        seeds: how many schedules, from seed ``first`` on.
        faults: one of ``MIXES``.
        crypto: ``ideal`` or ``real``.
        adversary: how liars lie; None for another way in each schedule.
        frames: run real links over frames.
        late: seconds of local steps, at most, that about half of the peers have before them when their round begins.
        trace: print this seed's schedule, and nothing else.
        as_json: print one JSON object.

    Returns:
        0, or 1 where something was violated.

    Raises:
        LocalError: there is no such protocol, mix, crypto or adversary, or the numbers don't fit together.
    """
    if protocol == MEMBERSHIP:
        return _membership(n, c, seeds, first, _mix(faults), crypto, adversary, trace, as_json)
    play = _play(protocol, n, c, crypto, frames, late)
    mix = _mix(faults)
    if adversary is not None and mix not in ("liars", "mixed"):
        raise LocalError(f"nobody lies under --faults {mix}; choose liars or mixed for an adversary")
    check_adversary(play, adversary)
    if trace is not None:
        return _trace(play, mix, _natural(trace, "--trace"), adversary, as_json)
    if seeds < 1:
        raise LocalError(f"--seeds {seeds} plays nothing; give 1 or more")
    tally = search(play, mix, _natural(first, "--first"), seeds, adversary=adversary)
    emit(as_json, _data(play, mix, first, seeds, tally), _lines(play, mix, seeds, first, adversary, tally))
    return FAILED if tally.violating else 0


def _membership(
    n: int,
    c: int | None,
    seeds: int,
    first: int,
    mix: Mix,
    crypto: str,
    adversary: str | None,
    trace: int | None,
    as_json: bool,
) -> int:
    from decentra.cli import simulate_membership as body

    if seeds < 1:
        raise LocalError(f"--seeds {seeds} plays nothing; give 1 or more")
    begins = _natural(first, "--first") if trace is None else _natural(trace, "--trace")
    chosen = _most_liars(max(LEAST_MEMBERS, min(n, MOST_MEMBERS))) if c is None else c
    played = range(begins, begins + (seeds if trace is None else 1))
    return body.simulate(n, chosen, mix, played, _crypto(crypto), adversary, trace is not None, as_json)


def _crypto(crypto: str) -> str:
    if crypto not in CRYPTO:
        raise LocalError(f"there is no cryptography {crypto!r}; choose {' or '.join(CRYPTO)}")
    return crypto


def _play(protocol: str, n: int, c: int | None, crypto: str, frames: bool, late: float) -> Play:
    if protocol not in SHIPPED:
        others = ", ".join((*SHIPPED, MEMBERSHIP))
        raise LocalError(f"there is no protocol {protocol!r}; choose {others} or {ON_A_GRID}")
    if not LEAST_MEMBERS <= n <= min(MOST_SIMULATED, MOST_MEMBERS):
        raise LocalError(f"-n {n} is out of {LEAST_MEMBERS}..{MOST_SIMULATED}; simulate a group of that size")
    if protocol == BUCKETED and n < LEAST_IN_BUCKETS:
        raise LocalError(f"-n {n} is too few for {BUCKETED}, which has three buckets of three at least; give 9 or more")
    if protocol == SHARED and n < LEAST_SHARED:
        raise LocalError(f"-n {n} is too few for {SHARED}, which has 3c + 1 peers at least; give {LEAST_SHARED} or up")
    most = {MESH: n // 3, BUCKETED: most_in_buckets(n), SHARED: (n - 1) // 3}.get(protocol, n - 2)
    chosen = min(most, _most_liars(n)) if c is None else c
    if protocol == MESH and not 1 <= chosen <= most:
        raise LocalError(f"-c {chosen} is out of 1..{most} for {n} peers; {MESH} needs 2c + 1 updates that count, of t")
    if protocol == BUCKETED and not 1 <= chosen <= most:
        said = "needs 2c + 1 buckets of c + 2 members at least"
        raise LocalError(f"-c {chosen} is out of 1..{most} for {n} peers; {BUCKETED} {said}")
    if protocol == SHARED and not 1 <= chosen <= most:
        raise LocalError(f"-c {chosen} is out of 1..{most} for {n} peers; {SHARED} needs 3c + 1 of them to see lies")
    if not 1 <= chosen <= n - 2:
        raise LocalError(f"-c {chosen} is out of 1..{n - 2} for {n} peers; against all but one nothing hides an update")
    if not 0.0 <= late <= MOST_LATE:
        raise LocalError(f"--late {late:g} is out of 0..{MOST_LATE:g} seconds; give local steps that end")
    play = Play(protocol, n, chosen, _crypto(crypto), frames=frames, late=late)
    cast_for(protocol, n, chosen)  # the charter's own policy refuses what else is unsound
    return play


def _most_liars(n: int) -> int:
    """The largest c whose quorum still leaves a stop to survive, and 1 at least: 2 of 7, 1 of 4."""
    fitting = [c for c in range(1, n - 1) if n - derive.quorum(n, c) >= c]
    return max(fitting, default=1)


def _mix(faults: str) -> Mix:
    for mix in MIXES:
        if mix == faults:
            return mix
    raise LocalError(f"there are no faults {faults!r}; choose one of {', '.join(MIXES)}")


def _natural(value: int, option: str) -> int:
    if value < 0:
        raise LocalError(f"{option} {value} is no seed; give 0 or more")
    return value


def _data(play: Play, mix: Mix, first: int, seeds: int, tally: Tally) -> dict[str, Any]:
    return {
        "protocol": play.protocol,
        "n": play.n,
        "c": play.c,
        "faults": mix,
        "late": play.late,
        "first": first,
        "seeds": seeds,
        "schedules_per_minute": round(tally.per_minute),
        "completed": tally.outcomes["completed"],
        "failed": tally.outcomes["failed"],
        "lost": tally.outcomes["lost"],
        "abandoned": tally.outcomes["abandoned"],
        "journals_cut": tally.cut,
        "violations": [
            {"clause": one.clause, "seed": outcome.seed, "who": None if one.who is None else str(one.who)}
            for outcome in tally.violating
            for one in outcome.violations
        ],
    }


def _lines(play: Play, mix: Mix, seeds: int, first: int, adversary: str | None, tally: Tally) -> Iterator[str]:
    came = tally.outcomes
    yield (
        f"{play.protocol}, n = {play.n}, c = {play.c}, {play.crypto} crypto, faults {mix}: "
        f"seeds {first} to {first + seeds - 1}, {tally.per_minute:,.0f} schedules a minute of one core"
    )
    yield (
        f"{came['completed']} completed, {came['failed']} certified as failed, {came['lost']} certified as lost, "
        f"{came['abandoned']} ended before they could"
    )
    if tally.cut:
        yield f"{tally.cut:,} journals were cut at or within a commit"
    if not tally.violating:
        yield "no violations"
        return
    for outcome in tally.violating:
        yield from _violations(outcome)
    for outcome in tally.violating[:MOST_TRACED]:
        yield f"── seed {outcome.seed} "
        yield from trace_of(play, outcome.seed, mix, adversary=adversary)[1]
    yield f"{len(tally.violating)} of {seeds} schedules broke something; --trace SEED shows one"


def _violations(outcome: Outcome) -> Iterator[str]:
    liars = f" ({ADVERSARIES[outcome.adversary].name})" if outcome.adversary else ""
    for one in outcome.violations:
        who = "" if one.who is None else f" by {one.who}"
        yield f"seed {outcome.seed}{liars}: {one.clause}{who} at {one.at:.4f} s: {one.said}"


def _trace(play: Play, mix: Mix, seed: int, adversary: str | None, as_json: bool) -> int:
    outcome, lines = trace_of(play, seed, mix, adversary=adversary)
    tally = Tally()
    tally.add(outcome)
    data = {**_data(play, mix, seed, 1, tally), "trace": lines}
    emit(as_json, data, [*lines, *_violations(outcome), f"it {_came(outcome)}"])
    return FAILED if outcome.violations else 0


def _came(outcome: Outcome) -> str:
    match outcome.came:
        case "completed":
            return "completed"
        case "abandoned":
            return "ended before anything could be certified"
        case certified:
            return f"was certified as {certified}"
