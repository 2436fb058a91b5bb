"""A peer that lies: it sends what an attack makes of the honest peers' updates, and breaks no clause.

The demo's liars are in one hand and know more than a liar could: the honest peers' texts and seeds. So they train what
every honest peer trains, beside it, and hold the honest updates of a round before it begins; literature calls such a
liar omniscient, and what a rule withstands of it, it withstands of one that has to guess.

No library is bent for it. An update is what the local steps changed; who sets its parameters instead of training them
sends whatever it likes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from statistics import fmean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from decentra.demo.task import Task
from decentra.robust import aggregate
from decentra.robust.attacks import Attack

Array = NDArray[Any]


class Liar:
    """What takes the place of training at a peer that lies.

    Args:
        task: its own, whose model the group moves.
        honest: a task for each honest peer, made as that peer makes it.
        attack: what to make of their updates.
        rule: the group's, against which the attack settles.
        liars: how many lie, this one among them: all come to the same rows.
        buckets: the places of the peers of every bucket, the honest ones first; none where there are no buckets.
        place: this peer's.
    """

    def __init__(
        self,
        task: Task,
        honest: Sequence[Task],
        attack: Attack,
        rule: str,
        liars: int,
        buckets: Sequence[Sequence[int]] = (),
        place: int = 0,
    ) -> None:
        self._task, self._honest = task, honest
        self._attack, self._rule, self._liars = attack, rule, liars
        self._buckets, self._place = buckets, place

    def steps(self, first: int, every: int, steps: int, go_back: Callable[[], None]) -> Iterator[float]:
        """As `Task.steps`, in phases of ``every`` steps; each yields the honest peers' mean loss.

        Args:
            first, steps: as for `Task.steps`.
            every: how many local steps a round has.
            go_back: sets the model to the common parameters, where a failed round left the lie in it.
        """
        trained = [task.steps(first, steps) for task in self._honest]
        optimizer = self._task.optimizer
        for _ in range(first, steps, every):
            go_back()
            common = flat(self._task.model)
            updates, losses = [], []
            for task, some in zip(self._honest, trained, strict=True):
                set_flat(task.model, common)
                losses.append(list(islice(some, every)))
                updates.append(common - flat(task.model))
            set_flat(self._task.model, common - self._row(np.stack(updates)))
            for step in range(every):
                optimizer.zero_grad()
                optimizer.step()  # moves nothing without gradients, but counts; the last one's hook is the round
                yield fmean(each[step] for each in losses)

    def _row(self, honest: Array) -> Array:
        if self._buckets:
            return spoiling(honest, self._buckets, self._place, self._lies)
        return self._lies(honest, self._liars)

    def _lies(self, honest: Array, liars: int) -> Array:
        def evaluate(rows: Array) -> Array:
            value: Array = aggregate([*honest, *rows], self._rule, self._liars).value
            return value

        row: Array = self._attack.rows(honest, liars, evaluate)[0]
        return row


def spoiling(
    honest: Array, buckets: Sequence[Sequence[int]], place: int, lies: Callable[[Array, int], Array]
) -> Array:
    """What a liar in a bucket sends, so that the bucket's mean is what the attack makes of the others' means.

    Args:
        honest: (h, d), the honest peers' updates, whose places are 0..h−1.
        buckets: the places of every bucket's peers.
        place: the liar's own.
        lies: what the attack makes of some honest vectors, and how many lie beside them.
    """
    clean = [bucket for bucket in buckets if all(one < len(honest) for one in bucket)]
    means = np.stack([honest[list(bucket)].mean(axis=0) for bucket in clean])
    wanted = lies(means, len(buckets) - len(clean))
    own = next(bucket for bucket in buckets if place in bucket)
    others = [one for one in own if one < len(honest)]
    rest = len(own) * wanted - honest[others].sum(axis=0)
    row: Array = rest / (len(own) - len(others))
    return row


def flat(model: torch.nn.Module) -> Array:
    """The parameters that are trained, one after the other, float32."""
    parts = [one.detach().to(torch.float32).numpy().ravel() for one in model.parameters() if one.requires_grad]
    return np.concatenate(parts)


def set_flat(model: torch.nn.Module, values: Array) -> None:
    """Set the parameters that are trained."""
    start = 0
    with torch.no_grad():
        for one in model.parameters():
            if one.requires_grad:
                part = values[start : start + one.numel()]
                one.copy_(torch.from_numpy(part.reshape(one.shape)))
                start += one.numel()
