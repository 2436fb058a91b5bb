"""Robust aggregation: rules with proved bounds over updates of which some may be false. A library of its own.

>>> import numpy as np
>>> from decentra.robust import aggregate
>>> aggregate(np.array([[1.0], [2.0], [3.0], [900.0]]), rule="nnm+trimmed_mean", f=1).value
array([2.])

``rules()`` lists the rules, ``attacks`` has what liars send, ``testing`` holds a rule of yours to what it promises, and
``exact`` evaluates rules on integers, for peers that have to agree to the bit.
"""

from decentra.robust.aggregation import Aggregation, Diagnostics, aggregate
from decentra.robust.catalogue import Composition, Listing, Told, find, rules
from decentra.robust.rule import CoordinateRule, GramRule, Invariant, PreStep, Rule

__all__ = [
    "Aggregation",
    "Composition",
    "CoordinateRule",
    "Diagnostics",
    "GramRule",
    "Invariant",
    "Listing",
    "PreStep",
    "Rule",
    "Told",
    "aggregate",
    "find",
    "rules",
]
