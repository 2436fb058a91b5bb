"""Computes the known-answer vectors of ``vectors/v1``: ``python specs/group-gossip/make_vectors.py``.

A file is one function of ``decentra.gossip.schedule``, a case is a name, its inputs and its output. A case named
``other-…`` is the file's first case with that one thing changed, and gives another output. Bytes are hexadecimal, a
grid is ``[n, side, axes]``, a probability is written as C's ``%a``. A test compares the files with what this script
computes, another recomputes them from the README alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from decentra.gossip import schedule
from decentra.gossip.schedule import Grid
from decentra.types import PeerId

ROOM = Path(__file__).parent / "vectors" / "v1"
Case = Mapping[str, Any]


def named(what: str) -> str:
    """Bytes that stand for something: its SHA-256."""
    return hashlib.sha256(what.encode()).hexdigest()


PEERS = sorted(named(f"peer {index}") for index in range(12))
DRAWN: dict[str, Any] = {"charter": named("charter"), "beacon": named("beacon")}
GRIDS = {"full": [8, 2, 3], "one-cell": [7, 1, 1], "uneven": [29, 3, 3], "many-to-a-cell": [23, 2, 2]}


def answer(function: str, case: Case) -> Any:
    """What the library gives for one case."""
    given: dict[str, Any] = {}
    for key, value in case.items():
        match key:
            case "grid":
                given[key] = Grid(*value)
            case "peers" | "members":
                given[key] = tuple(PeerId(bytes.fromhex(name)) for name in value)
            case _:
                given[key] = bytes.fromhex(value) if isinstance(value, str) else value
    return plain(getattr(schedule, function)(**given))


def plain(value: Any) -> Any:
    """An output as JSON holds it."""
    match value:
        case Grid():
            return [value.n, value.side, value.axes]
        case bytes() | float():
            return value.hex()
        case tuple():
            return [plain(item) for item in value]
        case int() | str():
            return value
        case _:
            return value.tolist()


def others(honest: Case, **changes: Any) -> dict[str, Case]:
    """The honest case, and one for every change of it."""
    changed = {f"other-{key.replace('_', '-')}": {**honest, key: value} for key, value in changes.items()}
    return {"honest": honest, **changed}


def _grid() -> dict[str, Case]:
    table = (
        *((3, 16, 1), (16, 16, 1), (17, 16, 1), (22, 16, 1), (23, 16, 1), (64, 16, 4), (64, 8, 2), (100, 8, 2)),
        *((300, 8, 2), (512, 16, 4), (1000, 16, 4), (4096, 16, 4), (100_000, 16, 4), (100_000, 32, 8), (6, 3, 1)),
    )
    return {f"{n}-peers-by-{group}-{c}-corrupt": {"n": n, "group": group, "c": c} for n, group, c in table}


def _places() -> dict[str, Case]:
    changed = others(
        {**DRAWN, "peers": PEERS}, charter=named("another"), beacon=named("another beacon"), peers=PEERS[:11]
    )
    return {**changed, "peers-in-another-order": {**DRAWN, "peers": PEERS[::-1]}}


def _coordinates() -> dict[str, Case]:
    return {name: {"grid": grid} for name, grid in GRIDS.items()}


def _groups() -> dict[str, Case]:
    return {
        f"{name}-axis-{axis}": {"grid": grid, "axis": axis} for name, grid in GRIDS.items() for axis in range(grid[2])
    }


def _group_name() -> dict[str, Case]:
    honest = {**DRAWN, "axis": 1, "members": PEERS[:5]}
    changed = others(
        honest, charter=named("another"), beacon=named("another beacon"), axis=0, members=PEERS[1:6]
    )
    return {**changed, "members-in-another-order": {**honest, "members": PEERS[4::-1]}}


def _drawers_name() -> dict[str, Case]:
    return others({"charter": named("charter")}, charter=named("another"))


def _drawn() -> dict[str, Case]:
    return others(DRAWN, charter=named("another"), beacon=named("another beacon"))


def _first_round() -> dict[str, Case]:
    return {f"mixing-{mixing}": {"mixing": mixing} for mixing in (0, 1, 7)}


def _mixing_of() -> dict[str, Case]:
    return {f"round-{number}": {"number": number} for number in (1, 2, 3, 4, 24)}


def _fingerprint() -> dict[str, Case]:
    return others({"model": named("model"), "mixing": 0}, model=named("another model"), mixing=1)


def _held() -> dict[str, Case]:
    table = (("full", 0, 2), ("full", 1, 4), ("uneven", 0, 4), ("uneven", 1, 18), ("many-to-a-cell", 0, 12))
    return {f"{name}-axis-{axis}": {"grid": GRIDS[name], "axis": axis, "total": total} for name, axis, total in table}


def _weight() -> dict[str, Case]:
    grid = GRIDS["uneven"]
    return {
        "alone-in-its-cell": {"grid": grid, "axis": 1, "place": 2, "held": 6},
        "two-in-a-cell": {"grid": grid, "axis": 1, "place": 1, "held": 6},
        "rounded-down": {"grid": grid, "axis": 1, "place": 1, "held": 5},
        "one-at-least": {"grid": grid, "axis": 1, "place": 1, "held": 1},
        "cut-to-the-heaviest": {"grid": grid, "axis": 1, "place": 2, "held": 900},
        "with-weights-of-their-own": {"grid": grid, "axis": 1, "place": 2, "held": 900, "most": 100},
    }


def _heaviest() -> dict[str, Case]:
    return {
        f"{name}-axis-{axis}-most-{most}": {"grid": grid, "axis": axis, "most": most}
        for name, grid in GRIDS.items()
        for axis in range(grid[2])
        for most in (1, 5)
    }


def _risk() -> dict[str, Case]:
    table = ((4, 2, 2, 1), (9, 4, 1, 1), (1000, 16, 50, 4), (1000, 16, 100, 5), (10**5, 16, 5000, 5))
    return {
        f"{liars}-liars-of-{n}-over-{c}-of-{size}": {"n": n, "size": size, "liars": liars, "c": c}
        for n, size, liars, c in table
    }


def _mixing_risk() -> dict[str, Case]:
    table = (([1000, 8, 3], 50, 5), ([1000, 8, 3], 20, 5), ([4096, 16, 3], 100, 5), ([64, 4, 2], 40, 2))
    return {
        f"{liars}-liars-of-{grid[0]}-over-{c}": {"grid": grid, "liars": liars, "c": c} for grid, liars, c in table
    }


INPUTS = {
    "grid": _grid,
    "places": _places,
    "coordinates": _coordinates,
    "groups": _groups,
    "group_name": _group_name,
    "drawers_name": _drawers_name,
    "drawn": _drawn,
    "first_round": _first_round,
    "mixing_of": _mixing_of,
    "fingerprint": _fingerprint,
    "held": _held,
    "weight": _weight,
    "heaviest": _heaviest,
    "risk": _risk,
    "mixing_risk": _mixing_risk,
}


def rendered(function: str) -> str:
    """The text of one vector file: a case a line."""
    cases = [{"name": name, **case, "output": answer(function, case)} for name, case in INPUTS[function]().items()]
    lines = ",\n  ".join(json.dumps(case) for case in cases)
    return f'{{\n "function": "{function}",\n "version": 1,\n "cases": [\n  {lines}\n ]\n}}\n'


def main() -> None:
    """Writes every file."""
    ROOM.mkdir(parents=True, exist_ok=True)
    for function in INPUTS:
        (ROOM / f"{function}.json").write_text(rendered(function), encoding="utf-8")


if __name__ == "__main__":
    main()
