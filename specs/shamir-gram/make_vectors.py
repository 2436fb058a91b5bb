"""Computes the known-answer vectors of ``vectors/v1``: ``python specs/shamir-gram/make_vectors.py``.

As in ``specs/crypto``: a file is one function, a case is a name, its inputs and either its output or ``refused``, the
error that they must raise. Bytes are hexadecimal, vectors of elements the hexadecimal of 8 little-endian bytes each.
Coordinates and entries are integers; sketches are told by their entries that are not 0.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from decentra.crypto.shares import checks, combine, decoding, gram, sketch
from decentra.crypto.shares.deal import deal
from decentra.crypto.shares.field61 import PRIME, from_bytes, to_bytes
from decentra.crypto.shares.sharing import Sharing
from decentra.crypto.shares.streams import uniform
from decentra.errors import LocalError
from decentra.robust import shared

ROOM = Path(__file__).parent / "vectors" / "v1"
Case = Mapping[str, Any]


def elements(text: str) -> Any:
    data = bytes.fromhex(text)
    return from_bytes(data, len(data) // 8)


def integers(values: Sequence[int]) -> Any:
    return np.array(values, dtype=np.int64)


def sharing_of(case: Case) -> Sharing:
    return Sharing(case["n"], case["c"], case["l"])


def words_of(case: Case) -> dict[int, Any]:
    return {int(x): elements(word) for x, word in case["words"].items()}


def sparse(vector: Any) -> list[list[int]]:
    return [[int(index), int(vector[index])] for index in np.flatnonzero(vector)]


def dense(entries: Sequence[Sequence[int]]) -> Any:
    out = np.zeros(sketch.SIZE, dtype=np.uint64)
    for index, value in entries:
        out[index] = value
    return out


def _stream(case: Case) -> Any:
    return to_bytes(uniform(bytes.fromhex(case["key"]), case["count"], case["start"])).hex()


def _deal(case: Case) -> Any:
    made = deal(integers(case["quanta"]), sharing_of(case), case["dealer"], bytes.fromhex(case["secret"]))
    return {
        "seeds": {str(position): seed.hex() for position, seed in sorted(made.seeds.items())},
        "vectors": {str(position): to_bytes(share).hex() for position, share in sorted(made.vectors.items())},
    }


def _decode(case: Case) -> Any:
    found = decoding.decode({int(x): value for x, value in case["values"].items()}, case["degree"], case["liars"])
    return {"polynomial": list(found.polynomial), "wrong": list(found.wrong)}


def _combination(case: Case) -> Any:
    vector = elements(case["vector"])
    beacon, label = bytes.fromhex(case["beacon"]), case["label"]
    return checks.combinations(
        [vector], vector.size, beacon, label, start=case["start"], blinded=case["blinded"]
    )[0]


def _sketch(case: Case) -> Any:
    vector = elements(case["vector"])
    return sparse(sketch.sketch([vector], vector.size, bytes.fromhex(case["beacon"]), case["start"])[0])


def _products(case: Case) -> Any:
    return to_bytes(gram.products(np.stack([dense(entries) for entries in case["sketches"]]))).hex()


def _zero(case: Case) -> Any:
    shares = gram.deal_zero(case["count"], sharing_of(case), bytes.fromhex(case["secret"]))
    return [to_bytes(row).hex() for row in shares]


def _gram(case: Case) -> Any:
    opened = gram.open_gram(words_of(case), case["count"], sharing_of(case))
    out = gram.implausible(opened.gram, case["radius"], case["f"])
    return {"gram": [list(row) for row in opened.gram], "wrong": list(opened.wrong), "out": list(out)}


def _weights(case: Case) -> Any:
    return list(shared.weigh(case["gram"], case["rule"], case["f"], case["c"]))


def _sum(case: Case) -> Any:
    """All of the last step: a whole vector in slices, what holders tell of it, its bound, and its length."""
    sharing, words, bounds = sharing_of(case), words_of(case), [tuple(pair) for pair in case["bounds"]]
    later, parts, wrong = bytes.fromhex(case["later"]), [], set()
    for low, high in bounds:
        coordinates = min(case["d"], high * sharing.slots) - min(case["d"], low * sharing.slots)
        pieces = {x: word[low:high] for x, word in words.items()}
        opened = combine.open_slice(pieces, high - low, coordinates, sharing)
        parts.append(opened.values)
        wrong.update(opened.wrong)
    total = np.concatenate(parts)
    published = integers(case["published"]) if "published" in case else total
    told = {x: combine.told(word, bounds, later) for x, word in words.items()}
    judged = combine.judge_slices(told, published, bounds, sharing, later)
    weights, matrix = case["weights"], tuple(map(tuple, case["gram"]))
    return {
        "total": total.tolist(),
        "wrong": sorted(wrong),
        "told": {str(x): list(one) for x, one in told.items()},
        "false slices": list(judged.slices),
        "beyond": combine.beyond(published, weights, case["radius"]),
        "fits": combine.fits_gram(published, weights, matrix, sharing, bytes.fromhex(case["beacon"])),
    }


COMPUTE: dict[str, Callable[[Case], Any]] = {
    "stream": _stream,
    "deal": _deal,
    "decode": _decode,
    "combination": _combination,
    "sketch": _sketch,
    "products": _products,
    "zero": _zero,
    "gram": _gram,
    "weights": _weights,
    "sum": _sum,
}


def answer(name: str, case: Case) -> dict[str, Any]:
    """``{"output": …}``, or ``{"refused": the error's name}``."""
    try:
        return {"output": COMPUTE[name](case)}
    except (ValueError, LocalError, decoding.Undecided) as error:
        return {"refused": type(error).__name__}


# Inputs. Secrets are counting bytes: nothing here is a secret of anybody's.


def _count(start: int, size: int = 32) -> str:
    return bytes((start + i) % 256 for i in range(size)).hex()


def _hex(values: Sequence[int]) -> str:
    return b"".join(value.to_bytes(8, "little") for value in values).hex()


def _changed(word: str, place: int, by: int = 1) -> str:
    values = [int(value) for value in elements(word)]
    values[place] = (values[place] + by) % PRIME
    return _hex(values)


BEACON, LATER = _count(200), _count(100)
FOUR = {"n": 4, "c": 1, "l": 1}
FIVE = {"n": 5, "c": 1, "l": 1}
PACKED = {"n": 9, "c": 1, "l": 3}


def stream_cases() -> dict[str, Case]:
    return {
        "start": {"key": _count(0), "start": 0, "count": 5},
        "elsewhere": {"key": _count(0), "start": 3, "count": 5},
        "past-2^32-blocks": {"key": _count(0), "start": 2**33 - 1, "count": 3},
        "nothing": {"key": _count(0), "start": 7, "count": 0},
        "key-short": {"key": _count(0, 31), "start": 0, "count": 1},
        "before-the-start": {"key": _count(0), "start": -1, "count": 1},
    }


def deal_cases() -> dict[str, Case]:
    honest = FOUR | {"dealer": 1, "secret": _count(1), "quanta": [0, 1, -1, 2**28 - 1, -(2**28) + 1]}
    return {
        "honest": honest,
        "nothing-but-the-blind": honest | {"quanta": []},
        "last-in-the-roster": honest | {"dealer": 3},
        "ten": honest | {"n": 10, "c": 3},
        "packed": honest | PACKED,
        "packed-whole": honest | PACKED | {"quanta": [1, 2, 3, 4, 5, 6]},
        "a-coordinate-of-2^31": honest | {"quanta": [2**31]},
        "a-coordinate-beyond-the-field": honest | {"quanta": [2**60]},
        "no-such-dealer": honest | {"dealer": 4},
        "secret-short": honest | {"secret": _count(1, 31)},
        "c-too-many": honest | {"n": 5, "c": 2},
        "slots-too-many": honest | {"l": 2},
    }


def decode_cases() -> dict[str, Case]:
    true = [7, PRIME - 1, 12345678901234567]
    values = {str(x): sum(a * x**k for k, a in enumerate(true)) % PRIME for x in range(1, 8)}
    honest = {"values": values, "degree": 2, "liars": 2}
    one, two = ({x: values[x] ^ 1 for x in some} for some in (("3",), ("3", "6")))
    few = {x: values[x] for x in ("2", "3", "4", "5", "6")}
    return {
        "honest": honest,
        "one-lies": honest | {"values": values | one},
        "two-lie": honest | {"values": values | two},
        "three-lie": honest | {"values": values | two | {"1": 0}},
        "two-are-missing": honest | {"values": few, "liars": 0},
        "two-are-missing-and-one-lies": honest | {"values": few | one, "liars": 1},
        "two-are-missing-and-two-may-lie": honest | {"values": few},
        "zero": honest | {"values": dict.fromkeys(values, 0)},
        "degree-4": honest | {"degree": 4},
        "degree-4-and-one-lies": honest | {"degree": 4, "values": values | one},
        "degree-4-of-which-one-may-lie": honest | {"degree": 4, "liars": 1, "values": values | one},
        "not-below-p": honest | {"values": values | {"1": PRIME}},
    }


def combination_cases() -> dict[str, Case]:
    honest = {
        "vector": _hex([1, PRIME - 1, 0, 2**60, 5]),
        "beacon": BEACON,
        "label": "decentra/shares/degree",
        "start": 0,
        "blinded": True,
    }
    return {
        "blinded": honest,
        "bare": honest | {"blinded": False},
        "another-label": honest | {"label": "decentra/shares/zero-check"},
        "another-beacon": honest | {"beacon": LATER},
        "slice": honest | {"label": "decentra/shares/opened", "start": 1000, "blinded": False},
        "blind-alone": honest | {"vector": _hex([42])},
        "nothing": honest | {"vector": "", "blinded": False},
        "beacon-short": honest | {"beacon": BEACON[:-2]},
        "not-below-p": honest | {"vector": _hex([PRIME])},
    }


def sketch_cases() -> dict[str, Case]:
    honest = {"vector": _hex([1, PRIME - 1, 0, 2**60, 5]), "beacon": BEACON, "start": 0}
    return {
        "honest": honest,
        "slice": honest | {"start": 1000},
        "another-beacon": honest | {"beacon": LATER},
        "nothing": honest | {"vector": ""},
        "beacon-short": honest | {"beacon": BEACON[:-2]},
        "not-below-p": honest | {"vector": _hex([2**64 - 1])},
    }


def products_cases() -> dict[str, Case]:
    sketches = [[[0, 1], [5, PRIME - 1], [4095, 2**60]], [[0, 3], [4095, 7]], []]
    return {
        "three": {"sketches": sketches},
        "one": {"sketches": sketches[:1]},
        "not-below-p": {"sketches": [[[0, PRIME]]]},
    }


def zero_cases() -> dict[str, Case]:
    honest = FOUR | {"count": 3, "secret": _count(1)}
    return {
        "honest": honest,
        "packed": honest | PACKED,
        "the-blind-alone": honest | {"count": 0},
        "secret-short": honest | {"secret": _count(1, 31)},
    }


def _round(sharing: Case, vectors: Sequence[Sequence[int]]) -> dict[str, Any]:
    """What holders tell, from the library: words of the products, and shares of a sum under weights 1, 2, …"""
    of = sharing_of(sharing)
    secrets = [bytes.fromhex(_count(10 * peer)) for peer in range(of.n)]
    d = len(vectors[0])
    deals = [deal(integers(x), of, peer, secrets[peer]) for peer, x in enumerate(vectors)]
    weights = [peer + 1 for peer in range(len(vectors))]
    entries = len(vectors) * (len(vectors) + 1) // 2
    zeros = [gram.deal_zero(entries, of, secret) for secret in secrets]
    words, shares = {}, {}
    for peer in range(of.n):
        rows = [checks.without_blind(one.share(peer)) for one in deals]
        products = gram.products(sketch.sketch(rows, of.elements(d), bytes.fromhex(BEACON)))
        words[str(peer + 1)] = to_bytes(gram.hidden(products, [zero[peer] for zero in zeros], of)).hex()
        shares[str(peer + 1)] = to_bytes(combine.combined(rows, weights, of.elements(d))).hex()
    matrix = gram.open_gram({int(x): elements(word) for x, word in words.items()}, len(vectors), of).gram
    return {"words": words, "shares": shares, "weights": weights, "gram": [list(row) for row in matrix]}


VECTORS = ([5, 3, 0, -7, 2], [4, 4, 1, -6, 2], [-9, 0, 1, 8, -1])
WRAPPING = ([5, 3, 0, -7, 2], [4, 4, 1, -6, 2], [2**31, 0, 0, 0, 0])
"""The last is as long as 2, mod p."""


def gram_cases() -> dict[str, Case]:
    def case(sharing: Case, vectors: Sequence[Sequence[int]]) -> dict[str, Any]:
        return {**sharing, "count": 3, "words": _round(sharing, vectors)["words"], "radius": 20, "f": 1}

    four, five, packed = (case(sharing, VECTORS) for sharing in (FOUR, FIVE, PACKED))
    wrapping = case(FIVE, WRAPPING)

    def lying(honest: Case, *liars: str) -> dict[str, Any]:
        return {**honest, "words": honest["words"] | {x: _changed(honest["words"][x], 1, int(x)) for x in liars}}

    return {
        "honest": four,
        "one-of-four-lies": lying(four, "2"),
        "honest-5": five,
        "one-of-five-lies": lying(five, "2"),
        "two-of-five-lie": lying(five, "2", "3"),
        "one-of-five-is-missing": {**five, "words": {x: word for x, word in five["words"].items() if x != "4"}},
        "packed": packed,
        "packed-and-one-lies": lying(packed, "9"),
        "wrapping-around": wrapping,
        "too-long": five | {"radius": 3},
        "not-below-p": four | {"words": four["words"] | {"1": _hex([PRIME] * 6)}},
        "a-strangers": four | {"words": four["words"] | {"5": four["words"]["1"]}},
        "a-word-too-short": four | {"words": four["words"] | {"1": four["words"]["1"][:-16]}},
    }


def weights_cases() -> dict[str, Case]:
    rows = np.array([[8, 1, 0], [9, 0, 1], [7, 2, 2], [11, 1, -3], [10, -2, 1], [6, 5, 0], [-60, 40, 30]], dtype=object)
    entries = [[int(entry) for entry in row] for row in 8 * (rows @ rows.T)]
    honest = {"gram": entries, "rule": "multi_krum", "f": 1, "c": 2}
    return {
        "multi-krum": honest,
        "multi-krum-f-2": honest | {"f": 2},
        "nnm-multi-krum": honest | {"rule": "nnm+multi_krum"},
        "nnm-multi-krum-f-2": honest | {"rule": "nnm+multi_krum", "f": 2},
        "nnm-krum": honest | {"rule": "nnm+krum", "f": 2},
        "mda": honest | {"rule": "mda"},
        "all-alike": honest | {"gram": [[4] * 5] * 5, "c": 1},
        "large": honest | {"gram": [[entry << 40 for entry in row] for row in entries]},
        "krum": honest | {"rule": "krum"},
        "geometric-median": honest | {"rule": "geometric_median"},
        "mean": honest | {"rule": "mean"},
        "trimmed-mean": honest | {"rule": "nnm+trimmed_mean"},
        "two-honest-ones-at-least": honest | {"f": 2, "c": 4},
        "f-too-large": honest | {"f": 4, "c": 1},
        "not-square": honest | {"gram": [*entries[:-1], entries[0][:-1]]},
    }


def sum_cases() -> dict[str, Case]:
    def case(sharing: Case, vectors: Sequence[Sequence[int]], bounds: Sequence[Sequence[int]]) -> dict[str, Any]:
        made = _round(sharing, vectors)
        return {
            **sharing,
            "d": 5,
            "words": made["shares"],
            "bounds": bounds,
            "weights": made["weights"],
            "gram": made["gram"],
            "radius": 20,
            "beacon": BEACON,
            "later": LATER,
        }

    honest = case(FOUR, VECTORS, [[0, 3], [3, 3], [3, 5]])
    words = honest["words"]
    total = [sum((peer + 1) * x[k] for peer, x in enumerate(VECTORS)) for k in range(5)]
    return {
        "honest": honest,
        "packed": case(PACKED, VECTORS, [[0, 1], [1, 2]]),
        "one-lies": honest | {"words": words | {"3": _changed(words["3"], 4)}},
        "two-lie": honest | {"words": words | {"3": _changed(words["3"], 4), "1": _changed(words["1"], 4)}},
        "a-false-slice": honest | {"published": [*total[:-1], total[-1] + 1]},
        "beyond-its-bound": honest | {"radius": 1},
        "wrapping-around": case(FOUR, WRAPPING, [[0, 5]]) | {"radius": 2**28 - 1},
        "weights-too-large": honest | {"weights": [2**16, 1, 1]},
        "slices-with-a-gap": honest | {"bounds": [[0, 3], [4, 5]]},
        "too-few": honest | {"words": {x: words[x] for x in ("1", "2")}},
    }


INPUTS: dict[str, Callable[[], dict[str, Case]]] = {
    "stream": stream_cases,
    "deal": deal_cases,
    "decode": decode_cases,
    "combination": combination_cases,
    "sketch": sketch_cases,
    "products": products_cases,
    "zero": zero_cases,
    "gram": gram_cases,
    "weights": weights_cases,
    "sum": sum_cases,
}


def rendered(name: str) -> str:
    """The text of one vector file."""
    cases = [{"name": title, **case, **answer(name, case)} for title, case in INPUTS[name]().items()]
    return json.dumps({"primitive": name, "version": 1, "cases": cases}, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """Writes every file."""
    ROOM.mkdir(parents=True, exist_ok=True)
    for name in INPUTS:
        (ROOM / f"{name}.json").write_text(rendered(name), encoding="utf-8")


if __name__ == "__main__":
    main()
