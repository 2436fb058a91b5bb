"""Robust aggregation: rules with proved bounds over updates of which some may be false. A library of its own.

>>> from decentra.robust import aggregate, rules
>>> aggregate([[...]], rule="nnm+trimmed_mean", f=2)  # doctest: +SKIP
"""

from decentra.robust.aggregation import Aggregation, Diagnostics, aggregate
from decentra.robust.catalogue import Composition, Told, find, rules
from decentra.robust.rule import CoordinateRule, GramRule, Invariant, PreStep, Rule

__all__ = [
    "Aggregation",
    "Composition",
    "CoordinateRule",
    "Diagnostics",
    "GramRule",
    "Invariant",
    "PreStep",
    "Rule",
    "Told",
    "aggregate",
    "find",
    "rules",
]
