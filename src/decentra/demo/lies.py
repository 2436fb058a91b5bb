"""What is asked of the demo beside training: the protocol and its rule, and peers that lie."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from decentra.charter.charter import Charter
from decentra.charter.policy import BUCKETED, MESH, ROBUST, SHARED, Policy
from decentra.charter.shares_policy import least_roster
from decentra.demo.silos import MAX_PEERS
from decentra.derive import quorum
from decentra.errors import LocalError, did_you_mean, nearest
from decentra.robust import shared
from decentra.robust.attacks import attacks
from decentra.robust.catalogue import DEFAULT, check, exact_rules, find, names, parts_of, step_names
from decentra.simulation.group import charter_for, identities

PROTOCOLS = ("secagg", "allreduce", MESH, BUCKETED, SHARED)
"""Those whose rounds every peer of the demo takes part in; a grid has others, and is no demo's."""

HIDING = ("secagg", BUCKETED, SHARED)
"""Those that no update is seen under."""

ATTACKS = ("alie", "ipm", "sign_flip", "mimic", "min_max", "min_sum")
"""Those on updates. What is no number can't be encoded, and who tells two peers two things under mesh is convicted:
`decentra simulate` plays such peers."""

UNASKED = 1
"""How many liars a charter reckons with where none play."""


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
    """What was asked for, completed: for a rule or an attack mesh, if no other robust one is asked for, and secagg
    otherwise.

    Raises:
        LocalError: there is no such protocol, rule or attack, or they don't go together; in terms of the command line.
    """
    if protocol is not None and protocol not in PROTOCOLS:
        raise LocalError(f"the demo does not run {protocol!r}; {_choice('--protocol', PROTOCOLS)}")
    name = None if rule is None else _rule(rule)
    if attack is not None:
        _known(attack)
    elif f is not None:
        few = max(1, min(f, peers // 3))
        raise LocalError(f"--f counts peers that lie; say how they do, as in --attack alie --f {few}")
    chosen = protocol or ("secagg" if name in (None, "mean") and attack is None else MESH)
    if chosen not in ROBUST:
        wanted = f"--attack {attack}" if attack is not None else None if name in (None, "mean") else f"--rule {rule}"
        if wanted is not None:
            raise LocalError(
                f"{chosen} sums the updates, whatever is in them; for {wanted} choose --protocol "
                f"mesh, or {BUCKETED} or {SHARED}, which hide them"
            )
        return Terms(chosen, "mean")
    name = name or (shared.DEFAULT if chosen == SHARED else DEFAULT)
    alike = find(name).why_not_alike
    if alike is not None:
        raise LocalError(f"{alike}; choose --rule {DEFAULT}")
    if attack is not None and f is None:
        raise LocalError(f"--attack {attack} needs --f, how many of the {peers} peers lie, as in --f 1")
    if f is not None and f < 1:
        raise LocalError(f"--f must be 1 or more, not {f}; leave --attack out where nobody lies")
    if chosen == BUCKETED:
        if name == "mean":
            raise LocalError(f"the mean of buckets' means is that of secagg, and shows more; choose --rule {DEFAULT}")
        return Terms(chosen, name, attack, f or 0, _bucket(name, peers, f or UNASKED, lie=f is not None))
    _fits(chosen, name, peers, f or UNASKED, lie=f is not None)
    return Terms(chosen, name, attack, f or 0)


def _bucket(rule: str, peers: int, c: int, lie: bool) -> int:
    """The size of buckets, as large as so many peers allow. Raises LocalError where none is, with what would be."""
    need, least = 2 * c + 1, c + 2
    if peers < need * least:
        why = f"bucketed takes {need} buckets of {least} peers where {c} {'lie' if lie else 'may lie'}"
        raise LocalError(f"{why}; choose --peers {need * least}, or --protocol {MESH}, which hides no update")
    problem = check(rule, need, c)
    if problem is not None:
        raise LocalError(f"over {need} buckets: {problem}")
    return peers // need


def _choice(option: str, words: tuple[str, ...]) -> str:
    return f"choose {option} {', '.join(words[:-1])} or {words[-1]}"


def _known(attack: str) -> None:
    if attack in ATTACKS:
        return
    choice = _choice("--attack", ATTACKS)
    if attack in [known.name for known in attacks()]:
        raise LocalError(f"no peer of the demo plays {attack}; {choice}")
    mend = did_you_mean(attack.lower().replace("-", "_"), ATTACKS, choice)
    raise LocalError(f"there is no attack {attack!r}; {mend}")


def _rule(rule: str) -> str:
    """The rule's name as charters have it."""
    last = parts_of(rule)[-1]
    if nearest(last, (*names(), *step_names())) is None:  # `find` would offer rules that no group of peers can have
        exact = tuple(name for name in exact_rules() if "+" not in name)
        raise LocalError(f"there is no rule {rule!r}; {_choice('--rule', exact)}, most of them also after nnm+ or arc+")
    return find(rule).name


def _charter(protocol: str, rule: str, peers: int, c: int) -> Charter:
    """What so many peers would agree on, c of which may lie."""
    return charter_for(identities(peers, 0), protocol, protocol__rule=rule, protocol__c=c)


def _sound(protocol: str, rule: str, peers: int, c: int) -> bool:
    return not Policy(_charter(protocol, rule, peers, c)).problems


def _fits(protocol: str, rule: str, peers: int, c: int, lie: bool) -> None:
    """Raises LocalError where it is no sound charter, with what would be one."""
    sound = partial(_sound, protocol)
    if sound(rule, peers, c):
        return
    need, default = (least_roster(c), shared.DEFAULT) if protocol == SHARED else (3 * c, DEFAULT)
    if peers < need:
        why = f"{protocol} takes {need} peers at least where {c} {'lie' if lie else 'may lie'}"
    elif protocol == SHARED and rule not in shared.shared_rules():
        raise LocalError(str(shared.misfit(rule, peers, c, c)))
    else:
        charter = _charter(protocol, rule, peers, c)
        least = quorum(charter.roster_floor, c)
        least = shared.fewest_updates(least, c) if protocol == SHARED else least
        needs = f"{find(rule).needs} updates where f = {c} {'lie' if lie else 'may lie'}"
        why = f"{rule} needs {needs}, and of {peers} peers as few as {least} may count in a round"
    more = next((n for n in range(max(peers, need), MAX_PEERS + 1) if n > peers and sound(rule, n, c)), None)
    fewer = next((f for f in range(min(c, peers) - 1, 0, -1) if sound(rule, peers, f)), None) if lie else None
    mends = [f"--peers {more}"] * (more is not None) + [f"--f {fewer}"] * (fewer is not None)
    mends += [f"--rule {default}"] * (rule != default and sound(default, peers, c))
    both = f"--rule {default} with --f {next((f for f in range(peers, 0, -1) if sound(default, peers, f)), 1)}"
    raise LocalError(f"{why}; choose {' or '.join(mends) or both}")
