"""What is asked of the demo beside training: the protocol and its rule, and peers that lie."""

from __future__ import annotations

from dataclasses import dataclass

from decentra.errors import LocalError
from decentra.robust.attacks import attack as attack_of
from decentra.robust.catalogue import DEFAULT, check, find

PROTOCOLS = ("secagg", "allreduce", "mesh", "bucketed")
"""Those whose rounds every peer of the demo takes part in; a grid has others, and is no demo's."""

ROBUST = ("mesh", "bucketed")
"""Those that evaluate a robust rule."""

HIDING = ("secagg", "bucketed")
"""Those that no update is seen under."""

ATTACKS = ("alie", "ipm", "sign_flip", "mimic", "min_max", "min_sum")
"""Those on updates. What is no number can't be encoded, and who tells two peers two things under mesh is convicted:
`decentra simulate` plays such peers."""


@dataclass(frozen=True)
class Terms:
    """What the charter is to say.

    Attributes:
        protocol: its name.
        rule: what is computed of the updates.
        attack: how liars lie; None where all are honest.
        f: how many of the peers are liars, the last ones; and how many the charter reckons with, where there are any.
        bucket: the fewest peers of a bucket; 0 where there are no buckets.
    """

    protocol: str
    rule: str
    attack: str | None = None
    f: int = 0
    bucket: int = 0


def terms(protocol: str | None, rule: str | None, attack: str | None, f: int | None, peers: int) -> Terms:
    """What was asked for, completed: a rule or an attack is mesh's, and secagg is the protocol otherwise.

    Raises:
        LocalError: there is no such protocol, rule or attack, or they don't go together.
    """
    if protocol is not None and protocol not in PROTOCOLS:
        raise LocalError(
            f"the demo does not run {protocol!r}; choose --protocol {', '.join(PROTOCOLS[:-1])} or {PROTOCOLS[-1]}"
        )
    name = None if rule is None else find(rule).name
    if attack is not None:
        _known(attack)
    elif f is not None:
        few = max(1, min(f, peers // 3))
        raise LocalError(f"--f counts peers that lie; say how they do, as in --attack alie --f {few}")
    chosen = protocol or ("secagg" if name in (None, "mean") and attack is None else "mesh")
    if chosen not in ROBUST:
        wanted = f"--attack {attack}" if attack is not None else None if name in (None, "mean") else f"--rule {rule}"
        if wanted is not None:
            raise LocalError(
                f"{chosen} sums the updates, whatever is in them; for {wanted} choose --protocol "
                "mesh, or bucketed, which hides them in buckets"
            )
        return Terms(chosen, "mean")
    name = name or DEFAULT
    alike = find(name).why_not_alike
    if alike is not None:
        raise LocalError(f"--rule {name}: {alike}; choose --rule {DEFAULT}")
    if chosen == "bucketed":
        return _in_buckets(name, attack, f, peers)
    if attack is None:
        problem = check(name, peers, 1)
        if problem is not None:
            raise LocalError(f"--rule {name} with one of {peers} peers that may lie: {problem}")
        return Terms(chosen, name)
    if f is None:
        raise LocalError(f"--attack {attack} needs --f, how many of the {peers} peers lie, as in --f 1")
    if f < 1:
        raise LocalError(f"--f must be 1 or more, not {f}; leave --attack out where nobody lies")
    problem = check(name, peers, f)
    if problem is not None:
        raise LocalError(f"--rule {name} with --f {f}: {problem}")
    if peers < 3 * f:
        raise LocalError(
            f"mesh with {f} that lie needs {3 * f} peers at least; choose --peers {3 * f} or --f {peers // 3}"
        )
    return Terms(chosen, name, attack, f)


def _in_buckets(rule: str, attack: str | None, f: int | None, peers: int) -> Terms:
    """Buckets as large as so many peers allow against so many liars, or against one that may lie."""
    if attack is not None and (f is None or f < 1):
        raise LocalError(f"--attack {attack} needs --f, how many of the {peers} peers lie, as in --f 1")
    liars = f or 1
    need, size = 2 * liars + 1, peers // (2 * liars + 1)
    if size < liars + 2:
        raise LocalError(
            f"bucketed with {liars} that {'may lie' if f is None else 'lie'} needs {need} buckets of {liars + 2} peers "
            f"at least; choose --peers {need * (liars + 2)}, or --protocol mesh, which hides no update"
        )
    problem = check(rule, need, liars)
    if problem is not None:
        raise LocalError(f"--rule {rule} over {need} buckets with {liars} liars: {problem}")
    return Terms("bucketed", rule, attack, f or 0, size)


def _known(attack: str) -> None:
    name = attack_of(attack).name
    if name not in ATTACKS:
        raise LocalError(f"no peer of the demo plays {name}, which is for a simulation; choose of {', '.join(ATTACKS)}")
