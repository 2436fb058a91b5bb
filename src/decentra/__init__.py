"""decentra: peers that share no server train one model together, and no one sees an update.

    peer = decentra.join(model, optimizer)      # in a training loop, started by `decentra run`
    peer = decentra.open_peer()                 # in a program that averages by itself; on a grid too
    group = decentra.local_group(4)             # n peers in this process, for notebooks and tests
    decentra.hf.Callback()                      # for a Trainer of transformers; decentra.lightning.Callback() too

Everything here is loaded when it is first used, so that importing decentra costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from decentra.errors import DecentraError, LocalError, RemoteError, Unavailable
    from decentra.groups import local_group
    from decentra.peer.opening import open_peer
    from decentra.peer.runtime import Peer
    from decentra.training.checkpoint import load
    from decentra.training.join import TrainingPeer, join
    from decentra.types import MixingResult, PeerId, RoundId, RoundResult, TensorSpec

__version__ = "0.1.0"

_HOMES = {
    "DecentraError": "decentra.errors",
    "LocalError": "decentra.errors",
    "MixingResult": "decentra.types",
    "Peer": "decentra.peer.runtime",
    "PeerId": "decentra.types",
    "RemoteError": "decentra.errors",
    "RoundId": "decentra.types",
    "RoundResult": "decentra.types",
    "TensorSpec": "decentra.types",
    "TrainingPeer": "decentra.training.join",
    "Unavailable": "decentra.errors",
    "join": "decentra.training.join",
    "load": "decentra.training.checkpoint",
    "local_group": "decentra.groups",
    "open_peer": "decentra.peer.opening",
}

__all__ = [
    "DecentraError",
    "LocalError",
    "MixingResult",
    "Peer",
    "PeerId",
    "RemoteError",
    "RoundId",
    "RoundResult",
    "TensorSpec",
    "TrainingPeer",
    "Unavailable",
    "__version__",
    "join",
    "load",
    "local_group",
    "open_peer",
]


_CALLBACKS = ("hf", "lightning")
"""Modules that need a library of their own, so that they are loaded when somebody asks for them."""


def __getattr__(name: str) -> Any:
    if name in _CALLBACKS:
        return import_module(f"decentra.{name}")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'decentra' has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
