"""``decentra simulate --protocol membership``: how soon a stop is noticed, at what cost, and who is wronged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from decentra.charter.policy import LEAST_MEMBERS
from decentra.cli.report import FAILED, emit
from decentra.errors import LocalError
from decentra.simulation.hazards import Mix
from decentra.simulation.membership import LARGEST_GROUP
from decentra.simulation.membership_liars import WAYS
from decentra.simulation.membership_search import Play, Tally, expected_periods, run_seed, search, spread_periods

MOST_SIMULATED = 1000
"""Peers beyond a charter's 64 are figures on paper; all views of a thousand are a million, in 0.3 GB."""

MOST_LISTED = 20
"""Violations that are printed; the others are counted."""

TIMES = ("first", "spread", "excluded", "agreed")


def simulate(
    n: int, c: int, mix: Mix, seeds: range, crypto: str, way: str | None, trace: bool, as_json: bool
) -> int:
    """Play schedules of membership and print what they came to.

    Args:
        n: peers.
        c: how many suspicions do not exclude.
        mix: what goes wrong; ``none`` stops one peer, for the figures.
        seeds: which schedules.
        crypto: ``ideal`` or ``real``.
        way: how liars lie; None for another way in each schedule.
        trace: print everything that happens in the one schedule.
        as_json: print one JSON object.

    Returns:
        0, or 1 where something was violated.

    Raises:
        LocalError: there is no such way, or the numbers don't fit together.
    """
    if not LEAST_MEMBERS <= n <= MOST_SIMULATED:
        raise LocalError(f"-n {n} is out of {LEAST_MEMBERS}..{MOST_SIMULATED}; simulate a group of that size")
    if not 1 <= c <= n - 2:
        raise LocalError(f"-c {c} is out of 1..{n - 2} for {n} peers; c+1 others must be left to exclude one")
    if way is not None and way not in WAYS:
        raise LocalError(f"membership has no adversary {way!r}; choose one of {', '.join(WAYS)}")
    play = Play(n, c, crypto, settled=mix == "none" or n > LARGEST_GROUP, way=way)
    if trace:
        lines: list[str] = []
        tally = Tally(n, [run_seed(play, seeds[0], mix, trace=lines)])
        emit(as_json, {**_data(play, tally), "trace": lines}, [*lines, *_violations(tally)])
    else:
        tally = search(play, mix, seeds)
        emit(as_json, _data(play, tally), _lines(play, mix, seeds, tally))
    return FAILED if tally.violating else 0


def _data(play: Play, tally: Tally) -> dict[str, Any]:
    return {
        "protocol": "membership",
        "n": play.n,
        "c": play.c,
        "seeds": len(tally.outcomes),
        "schedules_per_minute": round(tally.per_minute),
        "detected": len(tally.values("first")),
        **{f"{name}_seconds": tally.mean(name) for name in TIMES},
        **{f"{name}_seconds_most": tally.most(name) for name in TIMES},
        "periods_to_probe": tally.periods,
        "periods_to_probe_theory": expected_periods(play.n),
        "periods_to_spread_theory": spread_periods(play.n),
        "settled_seconds_most": tally.settled,
        "false_suspicions": tally.total("false_suspicions"),
        "false_exclusions": tally.total("false_exclusions"),
        "wronged": tally.total("wronged"),
        "messages_per_peer_second": tally.mean("messages"),
        "bytes_per_peer_second": tally.mean("bytes"),
        "violations": [
            {"clause": one.clause, "seed": outcome.seed, "who": None if one.who is None else str(one.who)}
            for outcome in tally.violating
            for one in outcome.violations
        ],
    }


def _lines(play: Play, mix: Mix, seeds: range, tally: Tally) -> Iterator[str]:
    yield (
        f"membership, n = {play.n}, c = {play.c}, {play.crypto} crypto, faults {mix}: "
        f"seeds {seeds[0]} to {seeds[-1]}, {tally.per_minute:,.0f} schedules a minute of one core"
    )
    first, spread, excluded, agreed = map(tally.mean, TIMES)
    if first is not None and tally.periods is not None:
        yield (
            f"{len(tally.values('first'))} stopped for good: first suspected after {first:.1f} s, probed in period "
            f"{tally.periods:.2f} (theory {expected_periods(play.n):.2f})"
        )
    if spread is not None:
        yield f"all others knew {spread:.1f} s later (theory {spread_periods(play.n):.1f} periods)"
    if excluded is not None and agreed is not None:
        yield f"excluded by the first after {excluded:.1f} s, by all after {agreed:.1f} s"
    if tally.settled is not None:
        yield f"all views agreed within {tally.settled:.0f} s after the troubles"
    yield (
        f"peers that ran: {tally.total('false_suspicions')} suspicions, {tally.total('false_exclusions')} exclusions, "
        f"{tally.total('wronged')} where only datagrams were lost"
    )
    yield f"{tally.mean('messages') or 0:.2f} messages and {tally.mean('bytes') or 0:,.0f} bytes a second and peer"
    yield from _violations(tally) if tally.violating else ("no violations",)


def _violations(tally: Tally) -> Iterator[str]:
    found = [(outcome, one) for outcome in tally.violating for one in outcome.violations]
    for outcome, one in found[:MOST_LISTED]:
        liars = f" ({outcome.way})" if outcome.way else ""
        who = "" if one.who is None else f" by {one.who}"
        yield f"seed {outcome.seed}{liars}: {one.clause}{who} at {one.at:.4f} s: {one.said}"
    if found:
        yield f"{len(tally.violating)} of {len(tally.outcomes)} schedules broke something; --trace SEED shows one"
