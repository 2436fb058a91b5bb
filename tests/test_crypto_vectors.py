"""The known-answer vectors of ``specs/crypto``: the library gives them, and so do naive computations of the README."""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from beside import vectors

VECTORS = vectors("crypto")
SCRIPT, FILES, ALL, cases = VECTORS.script, VECTORS.names, VECTORS.parameters, VECTORS.cases
P = 2**255 - 19


def test_every_primitive_has_a_file_with_answers_and_refusals() -> None:
    assert sorted(SCRIPT.INPUTS) == FILES == sorted(SCRIPT.COMPUTE)
    for name in FILES:
        found = cases(name)
        assert len({case["name"] for case in found}) == len(found)
        assert any("output" in case for case in found)
        assert any("refused" in case or case.get("output") is False for case in found)


@pytest.mark.parametrize("primitive", FILES)
def test_the_files_are_what_the_script_writes(primitive: str) -> None:
    assert VECTORS.text(primitive) == SCRIPT.rendered(primitive)


@pytest.mark.parametrize(("primitive", "case"), ALL)
def test_the_library_gives_the_answer(primitive: str, case: dict[str, Any]) -> None:
    expected = {key: case[key] for key in ("output", "refused") if key in case}
    assert SCRIPT.answer(primitive, case) == expected


# The README once more, with nothing of the library and as simply as can be.


def _encoding(label: str, parts: list[dict[str, str]]) -> bytes:
    encoded = b""
    for typed in [{"text": label}, *parts]:
        ((kind, value),) = typed.items()
        if kind == "bytes":
            body = bytes.fromhex(value)
        elif kind == "text":
            body = value.encode("utf-8")
        else:
            number, body = int(value), b""
            while number:
                body += bytes([number % 256])
                number //= 256
        encoded += {"bytes": b"b", "text": b"s", "natural": b"n"}[kind] + struct.pack("<Q", len(body)) + body
    return encoded


def _hkdf(key: bytes, label: str, parts: list[dict[str, str]], length: int = 32) -> bytes:
    return HKDF(hashes.SHA256(), length, None, _encoding(label, parts)).derive(key)


def _raw(*values: bytes) -> list[dict[str, str]]:
    return [{"bytes": value.hex()} for value in values]


def _base(secret: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def _x25519(secret: bytes, public: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(secret).exchange(X25519PublicKey.from_public_bytes(public))


def _keystream(key: bytes, first: int, size: int) -> bytes:
    """Bytes first..first+size of the stream, block by block in ECB."""
    cipher = Cipher(algorithms.AES256(key), modes.ECB()).encryptor()
    blocks = range(first // 16, (first + size) // 16 + 1)
    stream = b"".join(cipher.update(block.to_bytes(16, "big")) for block in blocks)
    return stream[first % 16 :][:size]


def _naive_hashing(case: dict[str, Any]) -> Any:
    encoding = _encoding(case["label"], case["parts"])
    return {"encoding": encoding.hex(), "digest": hashlib.sha256(encoding).hexdigest()}


def _naive_hkdf(case: dict[str, Any]) -> Any:
    return _hkdf(bytes.fromhex(case["key"]), case["label"], case["context"], case["length"]).hex()


def _naive_identity(case: dict[str, Any]) -> Any:
    seed = bytes.fromhex(case["seed"])
    private = Ed25519PrivateKey.from_private_bytes(seed)
    public = private.public_key().public_bytes_raw()
    secret = _hkdf(seed, "decentra/curve-key", [])
    return {
        "public": public.hex(),
        "id": hashlib.sha256(_encoding("decentra/peer-id", _raw(public))).hexdigest(),
        "curve_secret": secret.hex(),
        "curve_public": _base(secret).hex(),
        "signature": private.sign(bytes.fromhex(case["message"])).hex(),
    }


def _naive_seal(case: dict[str, Any]) -> Any:
    public, context = bytes.fromhex(case["public"]), bytes.fromhex(case["context"])
    ephemeral = _base(bytes.fromhex(case["tape"]))
    shared = _x25519(bytes.fromhex(case["tape"]), public)
    key = _hkdf(shared, "decentra/seal", _raw(ephemeral, public, context))
    return (ephemeral + ChaCha20Poly1305(key).encrypt(bytes(12), bytes.fromhex(case["plaintext"]), context)).hex()


def _naive_open(case: dict[str, Any]) -> Any:
    secret, sealed, context = (bytes.fromhex(case[name]) for name in ("secret", "sealed", "context"))
    key = _hkdf(_x25519(secret, sealed[:32]), "decentra/seal", _raw(sealed[:32], _base(secret), context))
    return ChaCha20Poly1305(key).decrypt(bytes(12), sealed[32:], context).hex()


def _naive_agree(case: dict[str, Any]) -> Any:
    private = _hkdf(bytes.fromhex(case["secret"]), "decentra/mask-key", [])
    shared = _x25519(private, bytes.fromhex(case["other"]))
    return {"public": _base(private).hex(), "key": _hkdf(shared, "decentra/mask-agree", case["context"]).hex()}


def _naive_split(case: dict[str, Any]) -> Any:
    tape = bytes.fromhex(case["tape"])
    draws = [int.from_bytes(tape[i : i + 32], "little") % 2**255 for i in range(0, len(tape), 32)]
    highest_first = [draw for draw in draws if draw < P][: case["threshold"] - 1]
    powers = [int.from_bytes(bytes.fromhex(case["secret"]), "little"), *reversed(highest_first)]
    shares = [sum(a * x**k for k, a in enumerate(powers)) % P for x in range(1, case["count"] + 1)]
    return [share.to_bytes(32, "little").hex() for share in shares]


def _interpolate(case: dict[str, Any], at: int) -> str:
    points = sorted((int(x), int.from_bytes(bytes.fromhex(y), "little")) for x, y in case["shares"].items())
    points = points[: case["threshold"]]
    value = Fraction(0)
    for x, y in points:
        value += y * math.prod(Fraction(at - other, x - other) for other, _ in points if other != x)
    return (value.numerator * pow(value.denominator, -1, P) % P).to_bytes(32, "little").hex()


def _naive_combine(case: dict[str, Any]) -> Any:
    return _interpolate(case, 0)


def _naive_extend(case: dict[str, Any]) -> Any:
    return [_interpolate(case, x) for x in range(1, case["count"] + 1)]


def _naive_prg(case: dict[str, Any]) -> Any:
    size, vector = case["width"] // 8, bytes.fromhex(case["vector"])
    words = [int.from_bytes(vector[i : i + size], "little") for i in range(0, len(vector), size)]
    for key, sign in case["masks"]:
        stream = _keystream(bytes.fromhex(key), case["offset"] * size, len(vector))
        for j in range(len(words)):
            words[j] += sign * int.from_bytes(stream[j * size : (j + 1) * size], "little")
    return b"".join((word % 2 ** case["width"]).to_bytes(size, "little") for word in words).hex()


def _floats(values: str) -> list[float]:
    return [value for (value,) in struct.iter_unpack("<f", bytes.fromhex(values))]


def _naive_encode(case: dict[str, Any]) -> Any:
    qmax = (2 ** (case["width"] - 1) - 1) // case["n"]
    noise = _hkdf(bytes.fromhex(case["seed"]), "decentra/rounding", [])
    whole: list[int] = []
    rests: list[str] = []
    clipped = 0
    for i, (tensor, limit) in enumerate(zip(case["tensors"], map(float.fromhex, case["ranges"]), strict=True)):
        scale = qmax * case["weight"] / case["max_weight"] * 2.0**21 / limit
        values = _floats(tensor["values"])
        if "residual" in case:
            values = [x + r for x, r in zip(values, _floats(case["residual"][i]["values"]), strict=True)]
        cut = [min(max(x, -limit), limit) for x in values]
        clipped += sum(x != c for x, c in zip(values, cut, strict=True))
        rests.append(b"".join(struct.pack("<f", x - c) for x, c in zip(values, cut, strict=True)).hex())
        for c in cut:
            (word,) = struct.unpack("<i", _keystream(noise, 4 * len(whole), 4))
            whole.append(round(Fraction(c * scale + ((word >> 11) | 1)) / 2**21))  # round() is half to even
    nonzero = sum(q != 0 for q in whole)
    vector = b"".join((q % 2 ** case["width"]).to_bytes(case["width"] // 8, "little") for q in [*whole, case["weight"]])
    answer = {"vector": vector.hex(), "clipped": clipped, "nonzero": nonzero}
    return answer | {"residual": rests} if "residual" in case else answer


def _naive_decode(case: dict[str, Any]) -> Any:
    size, qmax = case["width"] // 8, (2 ** (case["width"] - 1) - 1) // case["n"]
    total = bytes.fromhex(case["total"])
    sums = [int.from_bytes(total[i : i + size], "little", signed=True) for i in range(0, len(total), size)]
    weight, means, start = sums[-1], [], 0
    for shape, limit in zip(case["shapes"], map(float.fromhex, case["ranges"]), strict=True):
        step = limit / qmax * case["max_weight"] / weight
        count = math.prod(shape)
        means.append(b"".join(struct.pack("<f", float(q) * step) for q in sums[start : start + count]).hex())
        start += count
    return {"means": means, "weight": weight}


NAIVE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "hashing": _naive_hashing,
    "hkdf": _naive_hkdf,
    "identity": _naive_identity,
    "seal": _naive_seal,
    "open": _naive_open,
    "agree": _naive_agree,
    "split": _naive_split,
    "combine": _naive_combine,
    "extend": _naive_extend,
    "prg": _naive_prg,
    "encode": _naive_encode,
    "decode": _naive_decode,
}
ANSWERS = [
    pytest.param(name, case, id=f"{name}-{case['name']}")
    for name in FILES
    if name != "verify"  # its answers are yes or no, and its one yes is a signature of identity's
    for case in cases(name)
    if "output" in case
]


@pytest.mark.parametrize(("primitive", "case"), ANSWERS)
def test_a_naive_computation_gives_the_answer(primitive: str, case: dict[str, Any]) -> None:
    assert NAIVE[primitive](case) == case["output"]
