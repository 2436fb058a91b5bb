"""The group's signed agreement, and the policy that refuses unsound ones.

- ``toml``: reads TOML into a frozen model with every problem told at once, and writes it back.
- ``canonical``: the one encoding that is hashed.
- ``charter``: the charter, its hash and its signatures.
- ``amend``: charters that amend charters, and when one is in force.
- ``policy``: which combinations of members, thresholds and numbers are sound; ``grid_policy`` where they are a grid.
"""

from decentra.charter.charter import (
    AdmissionTerms,
    Charter,
    GridTerms,
    GroupTerms,
    Member,
    ModelTerms,
    ProtocolTerms,
    RoundTerms,
    TrainingTerms,
)
from decentra.charter.policy import Policy

__all__ = [
    "AdmissionTerms",
    "Charter",
    "GridTerms",
    "GroupTerms",
    "Member",
    "ModelTerms",
    "Policy",
    "ProtocolTerms",
    "RoundTerms",
    "TrainingTerms",
]
