"""Computes the known-answer vectors of ``vectors/v1``: ``python specs/bucketed/make_vectors.py``.

A file is one function of ``decentra.gossip.schedule`` or ``decentra.grids``, a case is a name, its inputs and its
output. A case named ``other-…`` is the file's first case with that one thing changed, and gives another output. Bytes
are hexadecimal, a probability is written as C's ``%a``. A test compares the files with what this script computes,
another recomputes them from the README alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from decentra import grids
from decentra.gossip import schedule
from decentra.types import PeerId

ROOM = Path(__file__).parent / "vectors" / "v1"
Case = Mapping[str, Any]


def named(what: str) -> str:
    """Bytes that stand for something: its SHA-256."""
    return hashlib.sha256(what.encode()).hexdigest()


PEERS = sorted(named(f"peer {index}") for index in range(6))
DRAWN: dict[str, Any] = {"charter": named("charter"), "beacon": named("beacon")}


def answer(function: str, case: Case) -> Any:
    """What the library gives for one case."""
    given: dict[str, Any] = {}
    for key, value in case.items():
        if key == "members":
            given[key] = tuple(PeerId(bytes.fromhex(name)) for name in value)
        else:
            given[key] = bytes.fromhex(value) if isinstance(value, str) else value
    made = getattr(grids if function == "buckets_risk" else schedule, function)(**given)
    return made.hex() if isinstance(made, float) else made


def others(honest: Case, **changes: Any) -> dict[str, Case]:
    """The honest case, and one for every change of it."""
    return {"honest": honest, **{f"other-{key}": {**honest, key: value} for key, value in changes.items()}}


def _bucket_name() -> dict[str, Case]:
    honest = {**DRAWN, "members": PEERS[:4]}
    changed = others(honest, charter=named("another"), beacon=named("another beacon"), members=PEERS[1:5])
    return {**changed, "members-in-another-order": {**honest, "members": PEERS[3::-1]}}


def _combining_name() -> dict[str, Case]:
    return others(DRAWN, charter=named("another"), beacon=named("another beacon"))


def _buckets_risk() -> dict[str, Case]:
    changed = others({"n": 24, "count": 7, "liars": 3, "c": 1}, n=25, count=8, liars=4, c=2)
    all_equal, certain = {"n": 64, "count": 16, "liars": 6, "c": 2}, {"n": 9, "count": 3, "liars": 8, "c": 1}
    return {**changed, "all-equal": all_equal, "certain": certain}


INPUTS = {"bucket_name": _bucket_name, "combining_name": _combining_name, "buckets_risk": _buckets_risk}


def rendered(function: str) -> str:
    """The text of one vector file."""
    cases = [{"name": name, **case, "output": answer(function, case)} for name, case in INPUTS[function]().items()]
    return json.dumps({"function": function, "version": 1, "cases": cases}, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """Writes every file."""
    ROOM.mkdir(parents=True, exist_ok=True)
    for function in INPUTS:
        (ROOM / f"{function}.json").write_text(rendered(function), encoding="utf-8")


if __name__ == "__main__":
    main()
