"""Bad logs: good ones in which one peer signs one lie, a file of lies a protocol; and logs that tell nothing for
sure."""

from __future__ import annotations

from lies.certify import OF_CERTIFY
from lies.rendezvous import OF_RENDEZVOUS
from lies.shares import OF_SHAMIR_GRAM
from lies.sums import OF_ALLREDUCE, OF_SECAGG
from lies.undecided import UNDECIDED
from lies.updates import OF_BUCKETED, OF_MESH
from lies.wire import OF_ANY

__all__ = ["BESIDE", "LIES", "UNDECIDED"]

LIES = (*OF_RENDEZVOUS, *OF_CERTIFY, *OF_SECAGG, *OF_ALLREDUCE, *OF_MESH, *OF_BUCKETED, *OF_SHAMIR_GRAM, *OF_ANY)

BESIDE = {"secagg/bad-SA-6-too-few-survivors": "CE-2"}
"""A file in which the liar breaks a second clause by the same words: a set below t is never what holdings give."""
