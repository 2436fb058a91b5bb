"""Known-answer vectors of ``specs/shamir-gram``: the library gives them, and so do naive computations of the page."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from fractions import Fraction
from itertools import combinations, pairwise
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from beside import SPECS, vectors
from decentra.crypto.shares import checks, deal, gram, sketch, streams

VECTORS = vectors("shamir-gram")
SCRIPT, FILES, ALL, cases = VECTORS.script, VECTORS.names, VECTORS.parameters, VECTORS.cases
P = 2**61 - 1


def test_every_function_has_a_file_with_answers_and_refusals() -> None:
    assert sorted(SCRIPT.INPUTS) == FILES == sorted(SCRIPT.COMPUTE)
    for name in FILES:
        found = cases(name)
        assert len({case["name"] for case in found}) == len(found)
        assert any("output" in case for case in found)
        assert any("refused" in case for case in found)


@pytest.mark.parametrize("name", FILES)
def test_the_files_are_what_the_script_writes(name: str) -> None:
    assert VECTORS.text(name) == SCRIPT.rendered(name)


@pytest.mark.parametrize(("name", "case"), ALL)
def test_the_library_gives_the_answer(name: str, case: dict[str, Any]) -> None:
    expected = {key: case[key] for key in ("output", "refused") if key in case}
    assert SCRIPT.answer(name, case) == expected


def test_the_page_has_the_library_s_labels_and_files() -> None:
    text = (SPECS / "shamir-gram" / "arithmetic.md").read_text("utf-8")
    labels = {
        *(checks.DEGREE_LABEL, checks.ZERO_LABEL, checks.OPENED_LABEL, sketch.SKETCH_LABEL, streams.AGAIN_LABEL),
        *(deal.SEED_LABEL, deal.BLIND_LABEL, gram.ZERO_SHARE_LABEL),
    }
    assert {line.split("`")[1] for line in text.splitlines() if line.startswith("| `decentra/")} == labels
    assert all(f"`{name}.json`" in text for name in FILES)


# The page once more, with nothing of the library and as simply as can be.


def _expand(key: bytes, label: str, *context: int, length: int = 32) -> bytes:
    info = b"s" + struct.pack("<Q", len(label)) + label.encode()
    for number in context:
        body = number.to_bytes((number.bit_length() + 7) // 8, "little")
        info += b"n" + struct.pack("<Q", len(body)) + body
    return HKDF(hashes.SHA256(), length, None, info).derive(key)


def _keystream(key: bytes, start: int, size: int) -> bytes:
    block, skipped = divmod(start, 16)
    cipher = Cipher(algorithms.AES256(key), modes.CTR(block.to_bytes(16, "big"))).encryptor()
    return cipher.update(bytes(skipped + size))[skipped:]


def _stream(key: bytes, count: int, start: int = 0) -> list[int]:
    words = struct.unpack(f"<{count}Q", _keystream(key, 8 * start, 8 * count))
    return [word % 2**61 for word in words]  # none of them is p


def _elements(text: str) -> list[int]:
    return [value for (value,) in struct.iter_unpack("<Q", bytes.fromhex(text))]


def _hex(values: list[int]) -> str:
    return b"".join(value.to_bytes(8, "little") for value in values).hex()


def _interpolate(points: Mapping[int, int], at: int) -> int:
    """The value of the polynomial through (x, y), by Lagrange's formula over the rationals, taken mod p."""
    value = 0
    for x, y in points.items():
        weight = math.prod((Fraction(at - other, x - other) for other in points if other != x), start=Fraction(1))
        value += y * weight.numerator * pow(weight.denominator, -1, P)
    return value % P


def _signed(value: int) -> int:
    return value % P if value % P <= P // 2 else value % P - P


def _naive_stream(case: dict[str, Any]) -> Any:
    return _hex(_stream(bytes.fromhex(case["key"]), case["count"], case["start"]))


def _naive_deal(case: dict[str, Any]) -> Any:
    n, c, slots, dealer, secret = (*(case[name] for name in ("n", "c", "l", "dealer")), bytes.fromhex(case["secret"]))
    size = -(-len(case["quanta"]) // slots)
    padded = case["quanta"] + [0] * (size * slots - len(case["quanta"]))
    padded += _stream(_expand(secret, "decentra/shares/blind"), slots)
    seeds = {i % n: _expand(secret, "decentra/shares/seed", i % n) for i in range(dealer + 1, dealer + c + 1)}
    seeded = {position: _stream(seed, size + 1) for position, seed in seeds.items()}
    shares: dict[int, list[int]] = {position: [] for position in range(n) if position not in seeds}
    for j in range(size + 1):
        known = {-s: padded[j * slots + s] for s in range(slots)}
        known |= {position + 1: values[j] for position, values in seeded.items()}
        for position, share in shares.items():
            share.append(_interpolate(known, position + 1))
    return {
        "seeds": {str(position): seed.hex() for position, seed in sorted(seeds.items())},
        "vectors": {str(position): _hex(share) for position, share in sorted(shares.items())},
    }


def _decoded(values: Mapping[int, int], degree: int, liars: int) -> tuple[dict[int, int], list[int]]:
    """degree + 1 values that all but at most e others fit, and who doesn't: by trying every choice."""
    most = min(liars, len(values) - degree - 1 - liars)
    assert most >= 0
    fits = []
    for chosen in combinations(sorted(values), degree + 1):
        known = {x: values[x] for x in chosen}
        wrong = [x for x in sorted(values) if _interpolate(known, x) != values[x]]
        if len(wrong) <= most:
            fits.append((known, wrong))
    assert fits and all(wrong == fits[0][1] for _, wrong in fits)
    return fits[0]


def _naive_decode(case: dict[str, Any]) -> Any:
    known, wrong = _decoded({int(x): y for x, y in case["values"].items()}, case["degree"], case["liars"])
    values = [_interpolate(known, at) for at in range(len(known))]
    # Newton's forward differences at 0, 1, …: the polynomial is Σ Δ^k (x choose k).
    polynomial = [0] * len(values)
    basis = [1]
    for k in range(len(values)):
        for power, coefficient in enumerate(basis):
            polynomial[power] += values[0] * coefficient * pow(math.factorial(k), -1, P)
        values = [(b - a) % P for a, b in pairwise(values)]
        basis = [(a - k * b) for a, b in zip([0, *basis], [*basis, 0], strict=True)]
    polynomial = [coefficient % P for coefficient in polynomial]
    while polynomial and not polynomial[-1]:
        polynomial.pop()
    return {"polynomial": polynomial, "wrong": wrong}


def _combined(vector: list[int], beacon: str, label: str, start: int, blinded: bool) -> int:
    coefficients = _stream(_expand(bytes.fromhex(beacon), label), len(vector), start)
    if blinded:
        coefficients[-1] = 1
    return sum(a * b for a, b in zip(coefficients, vector, strict=True)) % P


def _naive_combination(case: dict[str, Any]) -> Any:
    return _combined(_elements(case["vector"]), case["beacon"], case["label"], case["start"], case["blinded"])


def _sketched(vector: list[int], beacon: str, start: int = 0) -> list[int]:
    buckets = [0] * 4096
    for row in range(8):
        key = _expand(bytes.fromhex(beacon), "decentra/shares/sketch", row)
        for j, value in enumerate(vector):
            (word,) = struct.unpack("<H", _keystream(key, 2 * (start + j), 2))
            buckets[512 * row + word % 512] += -value if word // 512 % 2 else value
    return buckets


def _naive_sketch(case: dict[str, Any]) -> Any:
    buckets = _sketched(_elements(case["vector"]), case["beacon"], case["start"])
    return [[index, value % P] for index, value in enumerate(buckets) if value % P]


def _naive_products(case: dict[str, Any]) -> Any:
    rows = [dict(map(tuple, entries)) for entries in case["sketches"]]
    return _hex(
        [
            sum(value * rows[j].get(index, 0) for index, value in rows[i].items()) % P
            for i in range(len(rows))
            for j in range(i, len(rows))
        ]
    )


def _naive_zero(case: dict[str, Any]) -> Any:
    degree, slots = 2 * (case["c"] + case["l"] - 1), range(0, -case["l"], -1)
    streams = [
        _stream(_expand(bytes.fromhex(case["secret"]), "decentra/shares/zero", x), case["count"] + 1)
        for x in range(1, degree + 1)
    ]
    shares: list[list[int]] = [[] for _ in range(case["n"])]
    for free in zip(*streams, strict=True):
        known = {x + 1: value for x, value in enumerate(free)}
        without = sum(_interpolate(known | {degree + 1: 0}, at) for at in slots)
        basis = sum(_interpolate(dict.fromkeys(known, 0) | {degree + 1: 1}, at) for at in slots)
        known[degree + 1] = -without * pow(basis, -1, P) % P
        for x, share in enumerate(shares):
            share.append(_interpolate(known, x + 1))
    return [_hex(share) for share in shares]


def _naive_gram(case: dict[str, Any]) -> Any:
    words = {int(x): _elements(word) for x, word in case["words"].items()}
    count, wrong = case["count"], set()
    matrix = [[0] * count for _ in range(count)]
    entries = iter(range(count * (count + 1) // 2))
    for i in range(count):
        for j in range(i, count):
            entry = next(entries)
            told = {x: word[entry] for x, word in words.items()}
            known, lied = _decoded(told, 2 * (case["c"] + case["l"] - 1), case["c"])
            wrong.update(lied)
            matrix[i][j] = matrix[j][i] = _signed(sum(_interpolate(known, -s) for s in range(case["l"])))
    left = [i for i in range(count) if 0 <= matrix[i][i] <= 12 * case["radius"] ** 2]
    out = [i for i in range(count) if i not in left]
    for i in left:
        if len([j for j in left if matrix[i][j] ** 2 > matrix[i][i] * matrix[j][j]]) > case["f"]:
            out.append(i)
    return {"gram": matrix, "wrong": sorted(wrong), "out": sorted(out)}


def _naive_weights(case: dict[str, Any]) -> Any:
    """Exactly, in fractions; ties by index."""
    entries, f = case["gram"], case["f"]
    n = len(entries)
    kept = n - f
    mixtures = [[Fraction(int(i == j)) for j in range(n)] for i in range(n)]

    def squared(some: list[list[Fraction]]) -> list[list[Fraction]]:
        def inner(a: list[Fraction], b: list[Fraction]) -> Fraction:
            return sum((a[i] * b[j] * entries[i][j] for i in range(n) for j in range(n)), Fraction(0))

        lengths = [inner(one, one) for one in some]
        return [[lengths[i] + lengths[j] - 2 * inner(some[i], some[j]) for j in range(n)] for i in range(n)]

    if case["rule"].startswith("nnm+"):
        apart = squared(mixtures)
        near = [sorted(range(n), key=lambda j, row=row: (row[j], j))[:kept] for row in apart]
        mixtures = [[Fraction(int(j in some), kept) for j in range(n)] for some in near]
    apart = squared(mixtures)
    if case["rule"] == "mda":
        widest = {some: max(apart[i][j] for i in some for j in some) for some in combinations(range(n), kept)}
        least = min(widest.values())
        tied = [some for some, width in widest.items() if width == least]
        chosen = list(min(tied, key=lambda some: (sum(math.sqrt(apart[i][j]) for i in some for j in some), some)))
    else:
        scores = [sum(sorted(apart[i][j] for j in range(n) if j != i)[: n - f - 1]) for i in range(n)]
        ranked = sorted(range(n), key=lambda i: (scores[i], i))
        chosen = ranked[: 1 if case["rule"].endswith("+krum") else kept]
    weights = [sum(mixtures[i][j] for i in chosen) for j in range(n)]
    scale = math.lcm(*(weight.denominator for weight in weights))
    whole = [int(weight * scale) for weight in weights]
    return [weight // math.gcd(*whole) for weight in whole]


def _naive_sum(case: dict[str, Any]) -> Any:
    words = {int(x): _elements(word) for x, word in case["words"].items()}
    slots, degree, size = case["l"], case["c"] + case["l"] - 1, -(-case["d"] // case["l"])
    total, wrong = [], set()
    for j in range(size):
        known, lied = _decoded({x: word[j] for x, word in words.items()}, degree, case["c"])
        wrong.update(lied)
        total += [_signed(_interpolate(known, -s)) for s in range(slots)]
    total = total[: case["d"]]
    published = case.get("published", total)
    rows = [[*published, *[0] * slots][slot : size * slots : slots] for slot in range(slots)]
    told: dict[str, list[int]] = {str(x): [] for x in words}
    false = []
    for number, (low, high) in enumerate(case["bounds"]):

        def mine(vector: list[int], low: int = low, high: int = high) -> int:
            return _combined(vector[low:high], case["later"], "decentra/shares/opened", low, False)

        for x, word in words.items():
            told[str(x)].append(mine(word))
        known, _ = _decoded({int(x): one[number] for x, one in told.items()}, degree, case["c"])
        if any(_interpolate(known, -s) != mine(row) for s, row in enumerate(rows)):
            false.append(number)
    most = sum(case["weights"]) * case["radius"]
    squared = sum(value**2 for row in rows for value in _sketched(row, case["beacon"]))
    weighted = [
        sum(weight * entry for weight, entry in zip(case["weights"], row, strict=True)) for row in case["gram"]
    ]
    return {
        "total": total,
        "wrong": sorted(wrong),
        "told": told,
        "false slices": false,
        "beyond": next((k for k, value in enumerate(published) if abs(value) > most), None),
        "fits": squared == sum(a * b for a, b in zip(case["weights"], weighted, strict=True)),
    }


NAIVE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "stream": _naive_stream,
    "deal": _naive_deal,
    "decode": _naive_decode,
    "combination": _naive_combination,
    "sketch": _naive_sketch,
    "products": _naive_products,
    "zero": _naive_zero,
    "gram": _naive_gram,
    "weights": _naive_weights,
    "sum": _naive_sum,
}
ANSWERS = [
    pytest.param(name, case, id=f"{name}-{case['name']}") for name in FILES for case in cases(name) if "output" in case
]


@pytest.mark.parametrize(("name", "case"), ANSWERS)
def test_a_naive_computation_gives_the_answer(name: str, case: dict[str, Any]) -> None:
    assert NAIVE[name](case) == case["output"]


def test_what_a_holder_tells_opens_to_inner_products_of_vectors_that_are_known() -> None:
    """The vectors of the script, sketched naively: nothing between dealing and opening changes a number."""
    for name, given in (("honest", SCRIPT.VECTORS), ("wrapping-around", SCRIPT.WRAPPING)):
        sketches = [_sketched(list(x), SCRIPT.BEACON) for x in given]
        expected = [[_signed(sum(a * b for a, b in zip(x, y, strict=True))) for y in sketches] for x in sketches]
        (case,) = (case for case in cases("gram") if case["name"] == name)
        assert case["output"]["gram"] == expected
    assert case["output"]["out"] == [2]
    (case,) = (case for case in cases("sum") if case["name"] == "honest")
    weighted = [sum((peer + 1) * x[k] for peer, x in enumerate(SCRIPT.VECTORS)) for k in range(5)]
    assert case["output"]["total"] == weighted and case["output"]["fits"]
    (case,) = (case for case in cases("sum") if case["name"] == "wrapping-around")
    assert not case["output"]["fits"]
