"""Which machines and messages a protocol's name stands for."""

from __future__ import annotations

from functools import cache

from decentra import spec
from decentra.errors import LocalError
from decentra.protocols.allreduce import messages as allreduce
from decentra.protocols.allreduce.machine import AllReduce
from decentra.protocols.ballots import Ballots
from decentra.protocols.bucketed import messages as bucketed
from decentra.protocols.bucketed.machine import Bucketed
from decentra.protocols.certify import messages as certify
from decentra.protocols.mesh import messages as mesh
from decentra.protocols.mesh.machine import Mesh
from decentra.protocols.rendezvous import messages as rendezvous
from decentra.protocols.secagg import messages as secagg
from decentra.protocols.secagg.machine import SecAgg
from decentra.protocols.shamir_gram import messages as shamir_gram
from decentra.protocols.shamir_gram.machine import ShamirGram
from decentra.wire.message import Message, Registry

_MACHINES: dict[str, tuple[type[Ballots], tuple[type[Message], ...]]] = {
    "allreduce": (AllReduce, allreduce.MESSAGES),
    "bucketed": (Bucketed, bucketed.MESSAGES),
    "mesh": (Mesh, mesh.MESSAGES),
    "secagg": (SecAgg, secagg.MESSAGES),
    "shamir-gram": (ShamirGram, shamir_gram.MESSAGES),
}


def machine(protocol: str) -> type[Ballots]:
    """The machine of a protocol. Raises LocalError for a name that has none."""
    try:
        return _MACHINES[protocol][0]
    except KeyError:
        raise LocalError(f"there is no protocol {protocol!r}; there are {', '.join(sorted(_MACHINES))}") from None


@cache
def registry(protocol: str) -> Registry:
    """The messages of a protocol, with those of rendezvous and certify."""
    machine(protocol)
    own = _MACHINES[protocol][1]
    return Registry(spec.load(protocol).messages, (*rendezvous.MESSAGES, *certify.MESSAGES, *own))
