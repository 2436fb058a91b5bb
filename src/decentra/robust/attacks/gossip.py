"""Attacks on gossip: what liars tell one receiver, beside what its honest neighbours tell it."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from decentra.errors import LocalError
from decentra.robust.attacks.common import Array, Attack, Evaluate, blocks, check
from decentra.robust.catalogue import whole


@dataclass(frozen=True)
class GossipAttack(Attack):
    """What liars tell one receiver that gossips with its neighbours: x_i + εa_i. Rows are the honest peers' models.

    Args:
        receiver: to whom it is told, as a row of the honest models.
        links: pairs of honest peers that are neighbours; ``None`` where everybody is everybody's.
        epsilon: the factor.
    """

    receiver: int = 0
    links: tuple[tuple[int, int], ...] | None = None
    epsilon: float = 1.0

    def settle(self, honest: Array, count: int, evaluate: Evaluate | None = None) -> Self:
        check(honest, count)
        ends = (self.receiver, *(end for link in self.links or () for end in link))
        wrong = next((end for end in ends if not 0 <= whole("an honest peer", end) < len(honest)), None)
        if wrong is not None:
            raise LocalError(f"{self.name} has no honest peer {wrong}; choose 0 to {len(honest) - 1}")
        return self

    def _row(self, honest: Array, count: int, rng: np.random.Generator) -> Array:
        weights = self.epsilon * self._weights(self._laplacian(len(honest)), count)
        weights[self.receiver] += 1.0
        row = np.empty(honest.shape[1], dtype=honest.dtype)
        for columns, block in blocks(honest):
            row[columns] = weights @ block
        return row

    def _laplacian(self, h: int) -> Array:
        """Degrees less adjacency, of the honest peers' graph."""
        linked = np.full((h, h), self.links is None)
        for one, other in self.links or ():
            linked[one, other] = linked[other, one] = True
        np.fill_diagonal(linked, False)
        laplacian: Array = np.diag(linked.sum(axis=1).astype(float)) - linked
        return laplacian

    @abstractmethod
    def _weights(self, laplacian: Array, count: int) -> Array:
        """a_i as weights of the honest peers' models."""


@dataclass(frozen=True)
class Dissensus(GossipAttack):
    """Undoes what a receiver's honest neighbours do: together the liars push it away as they pull it near."""

    name: ClassVar[str] = "dissensus"
    source: ClassVar[str] = "He et al. 2022, ClippedGossip"

    def _weights(self, laplacian: Array, count: int) -> Array:
        return np.array(laplacian[self.receiver]) / max(1, count)


@dataclass(frozen=True)
class Spectral(GossipAttack):
    """Pulls the honest graph apart where it is cut most easily: along the Fiedler vector of its Laplacian."""

    name: ClassVar[str] = "spectral"
    source: ClassVar[str] = "Gaucher et al. 2025, spectral heterogeneity"

    def _weights(self, laplacian: Array, count: int) -> Array:
        if len(laplacian) < 2:
            return np.zeros(len(laplacian))
        fiedler = np.linalg.eigh(laplacian)[1][:, 1]
        return np.array(fiedler * fiedler[self.receiver])
