"""What peers that lie send in place of their updates: the attacks that a rule is measured against.

All liars are in one hand, which sees every honest update of the round and may try the rule on what it is about to
send. So an attack's rows are a function of the honest ones, of how many there are to be, and of the rule::

    rows = attack("alie").rows(honest, 2, evaluate=lambda rows: rule_of(np.concatenate([honest, rows])))

An attack *settles* before it strikes: what it leaves open (a factor, a direction, whom to copy) is chosen so that the
rule is moved farthest from the honest mean. A settled attack may be used again in the rounds after, for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from decentra.errors import LocalError, did_you_mean
from decentra.robust.attacks.common import Attack, Evaluate
from decentra.robust.attacks.data import Backdoor, LabelFlip, Poisoning
from decentra.robust.attacks.gossip import Dissensus, GossipAttack, Spectral
from decentra.robust.attacks.updates import Alie, Equivocation, Inf, Ipm, Mimic, MinMax, MinSum, Nan, SignFlip


@dataclass(frozen=True)
class Known:
    """An attack that there is.

    Attributes:
        name: as `attack` takes it.
        on: what it changes: ``updates``, ``models`` that a neighbour is told, or ``data`` that an update is made of.
        source: where it is from.
        parameters: by name, what they are where nothing else is said; ``None`` is settled against the rule.
        make: its class.
    """

    name: str
    on: str
    source: str
    parameters: Mapping[str, Any]
    make: type[Attack] | type[Poisoning]


def attacks() -> tuple[Known, ...]:
    """Every attack that there is, with its source and parameters.

    >>> [known.name for known in attacks() if known.on == "data"]
    ['label_flip', 'backdoor']
    """
    return tuple(_known(make) for make in _ALL)


def attack(name: str, **parameters: Any) -> Attack:
    """The attack on updates of that name.

    Raises:
        LocalError: there is none of that name, or it has no such parameter; says the nearest that there is.

    >>> attack("alie", z=1.5)
    Alie(z=1.5)
    """
    known = {each.name: each for each in attacks()}
    choice = f"choose {', '.join(each.name for each in known.values() if each.on != 'data')}"
    if not isinstance(name, str):
        raise LocalError(f"an attack is asked for by its name, not by {type(name).__name__}; {choice}")
    if name not in known:
        raise LocalError(f"there is no attack {name!r}; {did_you_mean(name.lower().replace('-', '_'), known, choice)}")
    make, taken = known[name].make, known[name].parameters
    if not issubclass(make, Attack):
        raise LocalError(f"the attack {name!r} is on data, not on updates; make a {make.__name__} and poison with it")
    for parameter in parameters:
        if parameter not in taken:
            mend = did_you_mean(parameter, taken, f"choose {', '.join(taken)}" if taken else "it takes none")
            raise LocalError(f"{name} has no parameter {parameter!r}; {mend}")
    return make(**parameters)


_ALL: tuple[type[Attack] | type[Poisoning], ...] = (
    Alie, Ipm, SignFlip, Mimic, MinMax, MinSum, Nan, Inf, Equivocation, Dissensus, Spectral, LabelFlip, Backdoor
)  # fmt: skip


def _known(make: type[Attack] | type[Poisoning]) -> Known:
    on = "data" if issubclass(make, Poisoning) else "models" if issubclass(make, GossipAttack) else "updates"
    return Known(make.name, on, make.source, {field.name: field.default for field in fields(make)}, make)


__all__ = [
    "Alie",
    "Attack",
    "Backdoor",
    "Dissensus",
    "Equivocation",
    "Evaluate",
    "GossipAttack",
    "Inf",
    "Ipm",
    "Known",
    "LabelFlip",
    "Mimic",
    "MinMax",
    "MinSum",
    "Nan",
    "Poisoning",
    "SignFlip",
    "Spectral",
    "attack",
    "attacks",
]
