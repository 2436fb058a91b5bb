"""What the demo's losses come to: means over held-out texts, and how sure they are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any, Protocol

Losses = Mapping[str, Sequence[float]]
"""The loss on each held-out text of a silo, by its name."""


class Measured(Protocol):
    """A peer's losses: of the common model before and after, and of its own that was trained alone, where it was.

    They are read only, and may be empty.
    """

    @property
    def name(self) -> str: ...
    @property
    def silo(self) -> str: ...
    @property
    def before(self) -> Losses: ...
    @property
    def after(self) -> Losses: ...
    @property
    def alone(self) -> Losses: ...


def means(losses: Losses) -> dict[str, float]:
    """The mean loss on each silo."""
    return {silo: round(fmean(some), 4) for silo, some in losses.items()}


def sure(losses: Sequence[float]) -> list[float]:
    """The mean of losses on texts drawn independently, and its standard error s/√n; the error of one text is 0."""
    error = stdev(losses) / math.sqrt(len(losses)) if len(losses) > 1 else 0.0
    return [round(fmean(losses), 4), round(error, 4)]


def accuracy(right: Sequence[bool]) -> str:
    """How many of independent answers are right, and the standard error √(p·(1 − p)/n) of that, for people."""
    share = fmean(right)
    return f"{share:.1%} ± {math.sqrt(share * (1 - share) / len(right)):.1%} right"


def held_out(peers: Sequence[Measured]) -> dict[str, Any]:
    """By silo: how many texts were measured, and mean loss and standard error of the models on them.

    ``before`` and ``joined`` are of the common model, which any peer may have measured; ``alone`` is of the peer whose
    silo it is, without the others. ``gained`` is the mean of the texts' differences alone − joined: as the same texts
    are measured twice, its error is far smaller than those of the two losses.
    """
    figures: dict[str, Any] = {}
    for peer in peers:
        silo = peer.silo
        before, after = (_of(silo, [getattr(one, name) for one in peers]) for name in ("before", "after"))
        if not before or not after:
            continue
        figures[silo] = {"texts": len(after), "before": sure(before), "joined": sure(after)}
        if peer.alone:
            alone = peer.alone[silo]
            figures[silo]["alone"] = sure(alone)
            figures[silo]["gained"] = sure([own - joined for own, joined in zip(alone, after, strict=True)])
    return figures


def gained(peers: Sequence[Measured]) -> dict[str, list[float]]:
    """What joining gains each peer that was trained alone too, over all silos: mean and standard error."""
    figures: dict[str, list[float]] = {}
    for peer in peers:
        by_silo = []
        for silo, alone in peer.alone.items():
            joined = _of(silo, [one.after for one in peers])
            if joined:
                by_silo.append(sure([own - common for own, common in zip(alone, joined, strict=True)]))
        if by_silo:
            figures[peer.name] = over_silos(by_silo)
    return figures


def over_silos(figures: Sequence[Sequence[float]]) -> list[float]:
    """The mean of independent silos' means, each silo counted once, and its standard error."""
    error = math.sqrt(math.fsum(error * error for _, error in figures)) / len(figures)
    return [round(fmean(mean for mean, _ in figures), 4), round(error, 4)]


def _of(silo: str, several: Sequence[Losses]) -> Sequence[float]:
    """The first who measured it: all who did measured the same parameters."""
    return next((losses[silo] for losses in several if silo in losses), ())
