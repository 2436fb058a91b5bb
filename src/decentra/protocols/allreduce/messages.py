"""The messages of ``specs/allreduce``: those of every reduce, under its own kinds."""

from __future__ import annotations

from decentra.protocols import slices


class Endorse(slices.Endorse):
    kind = "allreduce.endorse"


class Endorsed(slices.Endorsed):
    kind = "allreduce.endorsed"


class Slices(slices.Slices):
    kind = "allreduce.slices"


class Again(slices.Again):
    kind = "allreduce.again"


class Holding(slices.Holding):
    kind = "allreduce.holding"


class SliceSum(slices.SliceSum):
    kind = "allreduce.sum"


MESSAGES = (Endorse, Endorsed, Slices, Again, Holding, SliceSum)
