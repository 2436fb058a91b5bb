"""What the demo trains: the same launcher and program for a small model on bytes and for a real one on articles.

A `Recipe` is what the launcher knows of a model, a `Task` what a peer's process has of it. Nothing is imported here
that a recipe needs, before it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from decentra.errors import LocalError

if TYPE_CHECKING:
    import torch


class Task(Protocol):
    """A model, its optimizer, one party's own data, and everybody's held-out texts.

    Attributes:
        held_out: how many losses each silo has, by its name.
        shared: the silos on which this process measures the model that all peers share; alone it measures all.
    """

    @property
    def model(self) -> torch.nn.Module: ...
    @property
    def optimizer(self) -> torch.optim.Optimizer: ...
    @property
    def held_out(self) -> Mapping[str, int]: ...
    @property
    def shared(self) -> Sequence[str]: ...

    def steps(self, first: int, steps: int) -> Iterator[float]:
        """Train, a step each time that the next loss is asked for: from step ``first`` on, of ``steps`` in all."""
        ...

    def losses(self, silo: str) -> Iterator[float]:
        """The loss on each held-out text of a silo, in nats a byte or token; the same texts for every model."""
        ...


@dataclass(frozen=True)
class Recipe:
    """What the launcher knows of a model.

    Attributes:
        rounds: how many, if nothing else is asked for.
        local_steps: H.
        initial_range: the sum of the learning rates of H steps at full rate, and a twentieth more: AdamW moves a
            coordinate by about one rate a step.
        ready_deadline: seconds that a round waits for local steps; peers that share cores are not equally fast.
        silos: names as many silos as there are peers, or says why it can't.
        publish: writes into the demo's folder what all processes may read, held-out texts among it.
        task: makes a process's task, of its silo, the demo's folder, and a seed.
    """

    rounds: int
    local_steps: int
    initial_range: float
    ready_deadline: float
    silos: Callable[[int], tuple[str, ...]]
    publish: Callable[[Path, Sequence[str]], None]
    task: Callable[[str, Path, int], Task]


def recipe(model: str) -> Recipe:
    """The recipe of a model, by the name that ``decentra demo --model`` gives it.

    Raises:
        LocalError: there is no such model.
    """
    if model not in _RECIPES:
        raise LocalError(f"the demo trains no model {model!r}; choose --model {' or '.join(_RECIPES)}")
    return _RECIPES[model]


def _byte_silos(peers: int) -> tuple[str, ...]:
    from decentra.demo.silos import silo_names

    return silo_names(peers)


def _byte_publish(public: Path, silos: Sequence[str]) -> None:
    from decentra.demo.silos import load

    for silo in silos:
        (public / "held-out" / f"{silo}.txt").write_bytes(load(silo).held_out)


def _byte_task(silo: str, public: Path, seed: int) -> Task:
    from decentra.demo.train import ByteTask

    return ByteTask(silo, public, seed)


def _topics(peers: int) -> tuple[str, ...]:
    from decentra.demo import smollm2

    smollm2.needs(smollm2.ARTICLES)
    topics = smollm2.topics()
    if not _FEWEST_PEERS <= peers <= len(topics):
        raise LocalError(
            f"{peers} peers were asked for, and there are {len(topics)} topics, one a peer: "
            f"choose --peers {_FEWEST_PEERS} to {len(topics)}"
        )
    return topics[:peers]


def _smol_publish(public: Path, silos: Sequence[str]) -> None:
    from decentra.demo.smollm2 import publish

    publish(public, silos)


def _smol_task(silo: str, public: Path, seed: int) -> Task:
    from decentra.demo.smollm2 import SmolTask

    return SmolTask(silo, public, seed)


_FEWEST_PEERS = 3  # secagg hides an update among at least two others

_RECIPES = {
    "bytes": Recipe(16, 20, 0.084, 60.0, _byte_silos, _byte_publish, _byte_task),
    "smollm2": Recipe(4, 5, 0.0105, 300.0, _topics, _smol_publish, _smol_task),
}
"""On two cores the first takes less than two minutes and the second a few: 20 steps a peer, two CPU-seconds each."""
