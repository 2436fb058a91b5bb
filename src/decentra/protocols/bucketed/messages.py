"""The messages of ``specs/bucketed``, field by field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from decentra.protocols import slices
from decentra.types import PeerId


class Endorse(slices.Endorse):
    kind: ClassVar[str] = "bucketed.endorse"


class Endorsed(slices.Endorsed):
    kind: ClassVar[str] = "bucketed.endorsed"


@dataclass(frozen=True)
class Mean(slices.Given):
    """My bucket's sum of these members' updates is certified, and its mean hashes to this; to some it is the blob
    beside this. Nobody, and zeros, where I have none."""

    kind: ClassVar[str] = "bucketed.mean"
    members: tuple[PeerId, ...]
    root: bytes


@dataclass(frozen=True)
class Holding(slices.InContext):
    """Of these buckets more members than may lie in one stated the mean alike, under this hash; of those I have the
    mean whole. A bucket goes by the first of its members."""

    kind: ClassVar[str] = "bucketed.holding"
    stated: tuple[tuple[PeerId, bytes], ...]
    whole: tuple[PeerId, ...]


@dataclass(frozen=True)
class Relay(slices.InContext):
    """You lack this bucket's certified mean: it is the blob beside this."""

    kind: ClassVar[str] = "bucketed.relay"
    bucket: PeerId
    root: bytes


class Result(slices.Result):
    kind: ClassVar[str] = "bucketed.result"


MESSAGES = (Endorse, Endorsed, Mean, Holding, Relay, Result)
