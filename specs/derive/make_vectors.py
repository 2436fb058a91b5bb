"""Computes the known-answer vectors of ``vectors/v1`` from their inputs: ``python specs/derive/make_vectors.py``.

A file is one function of ``decentra.derive``, a case is a name, its inputs and its output. A case named ``other-…`` is
the file's first case with that one thing changed, and gives another output. Bytes are hexadecimal, a round is
``[epoch, number]``, a float is written as C's ``%a``. A test compares the files with what this script computes, another
recomputes them from the README's formulas alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from decentra import derive
from decentra.types import PeerId, RoundId, TensorSpec

ROOM = Path(__file__).parent / "vectors" / "v1"
Case = Mapping[str, Any]


def named(what: str) -> str:
    """Bytes that stand for something: its SHA-256."""
    return hashlib.sha256(what.encode()).hexdigest()


PEERS = sorted(named(f"peer {index}") for index in range(5))
TENSORS: list[dict[str, Any]] = [
    {"name": "wte.weight", "shape": [50, 16], "dtype": "float32"},
    {"name": "scale", "shape": [], "dtype": "float32"},
    {"name": "häufig", "shape": [0, 3], "dtype": "float32"},
]


def peers(names: Sequence[str]) -> tuple[PeerId, ...]:
    return tuple(PeerId(bytes.fromhex(name)) for name in names)


def many(values: Sequence[str]) -> tuple[bytes, ...]:
    return tuple(map(bytes.fromhex, values))


def tensors(case: Case) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(item["name"], tuple(item["shape"]), item["dtype"]) for item in case["tensors"])


def answer(function: str, case: Case) -> Any:
    """What the library gives for one case."""
    given: dict[str, Any] = {}
    for key, value in case.items():
        match key:
            case "round":
                given["round_id"] = RoundId(*value)
            case "roster" | "members" | "candidates":
                given[key] = peers(value)
            case "dealer" | "receiver":
                given[key] = PeerId(bytes.fromhex(value))
            case "tensors":
                given[key] = tensors(case)
            case "ranges":
                given[key] = tuple(map(float.fromhex, value))
            case "bounds":
                given[key] = tuple((name, float.fromhex(bound)) for name, bound in value)
            case "current" | "largest_mean" | "low" | "high":
                given[key] = float.fromhex(value)
            case "deals" | "sums" | "parts" | "pieces":
                given[key] = many(value)
            case "kind" | "topic":
                given[key] = value
            case _:
                given[key] = bytes.fromhex(value) if isinstance(value, str) else value
    return plain(getattr(derive, function)(**given))


def plain(value: Any) -> Any:
    """An output as JSON holds it."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float):
        return value.hex()
    return [plain(item) for item in value] if isinstance(value, tuple) else value


def others(honest: Case, **changes: Any) -> dict[str, Case]:
    """The honest case, and one for every change of it."""
    changed = {f"other-{key.replace('_', '-')}": {**honest, key: value} for key, value in changes.items()}
    return {"honest": honest, **changed}


def _quorum() -> dict[str, Case]:
    table = ((3, 1), (4, 1), (4, 2), (5, 1), (5, 2), (7, 2), (8, 2), (10, 3), (16, 5), (64, 1), (64, 21), (64, 62))
    return {f"{n}-peers-{c}-corrupt": {"n": n, "c": c} for n, c in table}


def _session() -> dict[str, Case]:
    honest = {"spec_source": b"[protocol]\nname = 'x'\n".hex(), "charter": named("charter"), "epoch": 0}
    return others(honest, spec_source=b"[protocol]\nname = 'y'\n".hex(), charter=named("another"), epoch=1)


def _proposer_order() -> dict[str, Case]:
    honest = {"charter": named("charter"), "round": [0, 1], "members": PEERS}
    rounds = {f"round-{number}": {**honest, "round": [0, number]} for number in (2, 3, 4, 1 << 40)}
    more = {"epoch-1": {**honest, "round": [1, 1]}, "members-in-another-order": {**honest, "members": PEERS[::-1]}}
    return {"honest": honest, **rounds, **more, "one-member": {**honest, "members": PEERS[:1]}}


def _slice_bounds() -> dict[str, Case]:
    table = ((7, 3), (6, 3), (2, 5), (0, 3), (1, 1), (64, 64), (1_000_001, 64), (1 << 33, 7))
    return {f"{length}-among-{count}": {"length": length, "count": count} for length, count in table}


def _layout() -> dict[str, Case]:
    changed = {
        "other-name": [{**TENSORS[0], "name": "wpe.weight"}, *TENSORS[1:]],
        "other-shape-of-equal-size": [{**TENSORS[0], "shape": [16, 50]}, *TENSORS[1:]],
        "other-dtype": [{**TENSORS[0], "dtype": "float16"}, *TENSORS[1:]],
        "other-order": TENSORS[::-1],
        "one-tensor-fewer": TENSORS[:2],
        "none": [],
    }
    return {"honest": {"tensors": TENSORS}, **{name: {"tensors": value} for name, value in changed.items()}}


def _vector_layout() -> dict[str, Case]:
    honest = {"tensors": TENSORS, "ranges": [(0.1).hex(), (2.0).hex(), (5e-324).hex()]}
    return others(honest, tensors=TENSORS[::-1], ranges=[(0.2).hex(), (2.0).hex(), (5e-324).hex()])


def _context() -> dict[str, Case]:
    honest: dict[str, Any] = {
        "session": named("session"),
        "round": [0, 7],
        "view": 1,
        "roster": PEERS,
        "fingerprint": named("fingerprint"),
        "layout": named("layout"),
        "state": named("state"),
        "width": 32,
        "max_weight": 100,
        "deals": [named(f"deal {index}") for index in range(5)],
    }
    changed = others(
        honest,
        session=named("another session"),
        round=[0, 8],
        view=2,
        roster=PEERS[:4],
        fingerprint=named("another model"),
        layout=named("another layout"),
        state=named("another state"),
        width=16,
        max_weight=101,
        deals=[named("another deal"), *honest["deals"][1:]],
    )
    return {**changed, "other-epoch": {**honest, "round": [1, 7]}, "no-deals": {**honest, "deals": []}}


def _common_state() -> dict[str, Case]:
    honest: dict[str, Any] = {
        "bounds": [["scale", (0.5).hex()], ["wte.weight", (5e-324).hex()]],
        "size": 600_000,
        "pieces": [named(f"piece {index}") for index in range(3)],
    }
    changed = others(
        honest,
        bounds=[["scale", (0.25).hex()], ["wte.weight", (5e-324).hex()]],
        size=600_001,
        pieces=[honest["pieces"][1], honest["pieces"][0], honest["pieces"][2]],
    )
    alone = {**honest, "size": 0, "pieces": []}
    return {**changed, "nothing-but-ranges": alone, "nothing": {**alone, "bounds": []}}


def _state_parts() -> dict[str, Case]:
    mib = 1 << 20
    sizes = (0, 1, mib, mib + 1, 5 * mib, 128 * mib, 128 * mib + 1, 300 * mib, 1000 * mib + 7)
    return {f"{size}-bytes": {"size": size} for size in sizes}


def _share_hash() -> dict[str, Case]:
    honest: dict[str, Any] = {
        "session": named("session"),
        "round": [0, 7],
        "view": 1,
        "roster": PEERS,
        "dealer": PEERS[0],
        "receiver": PEERS[1],
        "kind": "self",
        "value": named("share"),
    }
    return others(
        honest,
        session=named("another session"),
        round=[0, 8],
        view=2,
        roster=PEERS[:4],
        dealer=PEERS[2],
        receiver=PEERS[2],
        kind="key",
        value=named("another share"),
    )


def _secret_hash() -> dict[str, Case]:
    honest: dict[str, Any] = {
        "session": named("session"),
        "round": [0, 7],
        "view": 1,
        "dealer": PEERS[0],
        "kind": "self",
        "value": named("secret"),
    }
    return others(
        honest,
        session=named("another session"),
        round=[0, 8],
        view=2,
        dealer=PEERS[2],
        kind="key",
        value=named("another secret"),
    )


def _vote_value() -> dict[str, Case]:
    honest: dict[str, Any] = {"context": named("context"), "topic": "survivors", "value": b"a value".hex()}
    moved = {"context": named("context"), "topic": "survivor", "value": b"sa value".hex()}
    return {
        **others(honest, context=named("another context"), topic="outcome", value=b"another value".hex()),
        "empty": {**honest, "value": ""},
        "a-letter-moved-from-topic-to-value": moved,
    }


def _outcome_value() -> dict[str, Case]:
    honest: dict[str, Any] = {
        "context": named("context"),
        "survivors": named("survivors"),
        "total_weight": 5,
        "sums": [named(f"sum {index}") for index in range(5)],
    }
    return others(
        honest,
        context=named("another context"),
        survivors=named("other survivors"),
        total_weight=6,
        sums=[named("another sum"), *honest["sums"][1:]],
    )


def _beacon() -> dict[str, Case]:
    honest: dict[str, Any] = {"context": named("context"), "parts": [named(f"part {index}") for index in range(4)]}
    bad = [named("part 0"), "00" * 32, *honest["parts"][2:]]
    return {**others(honest, context=named("another context"), parts=bad), "no-parts": {**honest, "parts": []}}


def _challenged_slices() -> dict[str, Case]:
    honest: dict[str, Any] = {"beacon": named("beacon"), "n": 8, "count": 3}
    changed = others(honest, beacon=named("another beacon"), n=4, count=2)
    return {**changed, "all": {**honest, "count": 8}, "none": {**honest, "count": 0}}


def _verifiers() -> dict[str, Case]:
    honest: dict[str, Any] = {"beacon": named("beacon"), "position": 2, "candidates": PEERS, "count": 3}
    changed = others(honest, beacon=named("another beacon"), position=3, candidates=PEERS[1:4], count=2)
    return {**changed, "candidates-in-another-order": {**honest, "candidates": PEERS[::-1]}}


def _buckets() -> dict[str, Case]:
    honest: dict[str, Any] = {"beacon": named("beacon"), "members": [named(f"peer {index}") for index in range(11)]}
    honest["size"] = 3
    changed = others(honest, beacon=named("another beacon"), members=honest["members"][:10], size=4)
    more = {"members-in-another-order": {**honest, "members": honest["members"][::-1]}}
    return {**changed, **more, "fewer-than-the-size": {**honest, "members": honest["members"][:2]}}


def _next_range() -> dict[str, Case]:
    table = {
        "follows-the-mean": (1.0, 0.2, 1e-3, 10.0),
        "halves-at-most": (1.0, 0.0, 1e-3, 10.0),
        "doubles-at-most": (1.0, 1.0, 1e-3, 10.0),
        "keeps-the-lower-bound": (1.5e-3, 0.0, 1e-3, 10.0),
        "keeps-the-upper-bound": (9.0, 9.0, 1e-3, 10.0),
        "an-infinite-mean-doubles": (1.0, float("inf"), 1e-3, 10.0),
    }
    names = ("current", "largest_mean", "low", "high")
    return {name: {key: value.hex() for key, value in zip(names, row, strict=True)} for name, row in table.items()}


INPUTS = {
    "quorum": _quorum,
    "session": _session,
    "proposer_order": _proposer_order,
    "slice_bounds": _slice_bounds,
    "layout": _layout,
    "vector_layout": _vector_layout,
    "context": _context,
    "common_state": _common_state,
    "state_parts": _state_parts,
    "share_hash": _share_hash,
    "secret_hash": _secret_hash,
    "vote_value": _vote_value,
    "outcome_value": _outcome_value,
    "beacon": _beacon,
    "challenged_slices": _challenged_slices,
    "verifiers": _verifiers,
    "buckets": _buckets,
    "next_range": _next_range,
}


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
