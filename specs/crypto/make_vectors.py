"""Computes the known-answer vectors of ``vectors/v1`` from their inputs: ``python specs/crypto/make_vectors.py``.

A file is one primitive, a case is a name, its inputs and either its output or ``refused``, the error that the inputs
must raise. Bytes are hexadecimal; vectors are the hexadecimal of their little-endian elements; randomness is a tape,
read from its start. A test compares the files with what this script computes, another recomputes them naively.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from decentra.crypto import agreement, hashing, keys, prg, ring, seal, shamir
from decentra.crypto.field import PRIME
from decentra.errors import LocalError

ROOM = Path(__file__).parent / "vectors" / "v1"
Case = Mapping[str, Any]


class Tape:
    """Randomness from a hexadecimal tape."""

    def __init__(self, tape: str) -> None:
        self._rest = bytes.fromhex(tape)

    def __call__(self, size: int) -> bytes:
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken


def part(typed: Mapping[str, str]) -> bytes | str | int:
    """``{"bytes": hex}``, ``{"text": …}`` or ``{"natural": decimal}``."""
    ((kind, value),) = typed.items()
    if kind == "bytes":
        return bytes.fromhex(value)
    return int(value) if kind == "natural" else value


def _hashing(case: Case) -> Any:
    parts = [part(typed) for typed in case["parts"]]
    return {
        "encoding": hashing.encode_parts(case["label"], *parts).hex(),
        "digest": hashing.digest(case["label"], *parts).hex(),
    }


def _hkdf(case: Case) -> Any:
    context = [part(typed) for typed in case["context"]]
    return hashing.expand(bytes.fromhex(case["key"]), case["label"], *context, length=case["length"]).hex()


def _identity(case: Case) -> Any:
    identity = keys.Identity.from_seed(bytes.fromhex(case["seed"]))
    return {
        "public": identity.public.hex(),
        "id": identity.id.hex(),
        "curve_secret": identity.curve_secret.hex(),
        "curve_public": identity.curve_public.hex(),
        "signature": identity.sign(bytes.fromhex(case["message"])).hex(),
    }


def _verify(case: Case) -> Any:
    return keys.verify(*(bytes.fromhex(case[name]) for name in ("public", "signature", "message")))


def _seal(case: Case) -> Any:
    public, plaintext, context = (bytes.fromhex(case[name]) for name in ("public", "plaintext", "context"))
    return seal.seal(public, plaintext, context, Tape(case["tape"])).hex()


def _open(case: Case) -> Any:
    key = seal.SealingKey(bytes.fromhex(case["secret"]))
    return key.open(bytes.fromhex(case["sealed"]), bytes.fromhex(case["context"])).hex()


def _agree(case: Case) -> Any:
    key = agreement.MaskKey(bytes.fromhex(case["secret"]))
    agreed = key.agree(bytes.fromhex(case["other"]), *(part(typed) for typed in case["context"]))
    return {"public": key.public.hex(), "key": agreed.hex()}


def _split(case: Case) -> Any:
    shares = shamir.split(bytes.fromhex(case["secret"]), case["threshold"], case["count"], Tape(case["tape"]))
    return [share.hex() for share in shares]


def _shares(case: Case) -> dict[int, bytes]:
    return {int(x): bytes.fromhex(share) for x, share in case["shares"].items()}


def _combine(case: Case) -> Any:
    return shamir.combine(_shares(case), case["threshold"]).hex()


def _extend(case: Case) -> Any:
    return [share.hex() for share in shamir.extend(_shares(case), case["threshold"], case["count"])]


def _prg(case: Case) -> Any:
    stored = np.frombuffer(bytes.fromhex(case["vector"]), dtype="<u2" if case["width"] == 16 else "<u4")
    vector = stored.astype(ring.Ring(case["width"]).dtype)
    prg.apply_masks(vector, [prg.Mask(bytes.fromhex(key), sign) for key, sign in case["masks"]], case["offset"])
    return _little(vector)


def _floats(tensor: Mapping[str, Any]) -> np.ndarray[Any, np.dtype[np.float32]]:
    values = np.frombuffer(bytes.fromhex(tensor["values"]), dtype="<f4").astype(np.float32)
    return values.reshape(tensor["shape"])


def _little(values: np.ndarray[Any, Any]) -> str:
    return values.astype(values.dtype.newbyteorder("<")).tobytes().hex()


def _encode(case: Case) -> Any:
    zn = ring.Ring(case["width"])
    tensors = [_floats(tensor) for tensor in case["tensors"]]
    residual = [_floats(tensor) for tensor in case["residual"]] if "residual" in case else None
    out = np.zeros(sum(tensor.size for tensor in tensors) + 1, dtype=zn.dtype)
    counts = ring.encode(
        tensors,
        [float.fromhex(limit) for limit in case["ranges"]],
        ring=zn,
        n=case["n"],
        weight=case["weight"],
        max_weight=case["max_weight"],
        seed=bytes.fromhex(case["seed"]),
        out=out,
        residual=residual,
    )
    answer: dict[str, Any] = {"vector": _little(out), "clipped": counts.clipped, "nonzero": counts.nonzero}
    return answer if residual is None else answer | {"residual": [_little(tensor) for tensor in residual]}


def _decode(case: Case) -> Any:
    zn = ring.Ring(case["width"])
    means, weight = ring.decode(
        np.frombuffer(bytes.fromhex(case["total"]), dtype=zn.dtype.newbyteorder("<")).astype(zn.dtype),
        [float.fromhex(limit) for limit in case["ranges"]],
        [tuple(shape) for shape in case["shapes"]],
        ring=zn,
        n=case["n"],
        survivors=case["survivors"],
        max_weight=case["max_weight"],
    )
    return {"means": [_little(mean) for mean in means], "weight": weight}


COMPUTE: dict[str, Callable[[Case], Any]] = {
    "hashing": _hashing,
    "hkdf": _hkdf,
    "identity": _identity,
    "verify": _verify,
    "seal": _seal,
    "open": _open,
    "agree": _agree,
    "split": _split,
    "combine": _combine,
    "extend": _extend,
    "prg": _prg,
    "encode": _encode,
    "decode": _decode,
}


def answer(primitive: str, case: Case) -> dict[str, Any]:
    """``{"output": …}``, or ``{"refused": the error's name}``."""
    try:
        return {"output": COMPUTE[primitive](case)}
    except (ValueError, LocalError) as error:
        return {"refused": type(error).__name__}


# Inputs. Secrets are counting bytes: nothing here is a key of anybody's.


def _count(start: int, size: int = 32) -> bytes:
    return bytes((start + i) % 256 for i in range(size))


def _flip(value: str, index: int) -> str:
    changed = bytearray.fromhex(value)
    changed[index] ^= 1
    return changed.hex()


def _natural(value: int) -> dict[str, str]:
    return {"natural": str(value)}


def _element(value: int) -> str:
    return value.to_bytes(32, "little").hex()


LOW_ORDER = {
    "zero": _element(0),
    "one": _element(1),
    "minus-one": _element(PRIME - 1),
    "order-8": "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "order-8-other": "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "zero-not-canonical": _element(PRIME),
}


def hashing_cases() -> dict[str, Case]:
    return {
        "no-parts": {"label": "a", "parts": []},
        "empty-label": {"label": "", "parts": []},
        "one-of-each": {"label": "label", "parts": [{"bytes": "00ff"}, {"text": "Zürich"}, _natural(258)]},
        "boundary": {"label": "a", "parts": [{"text": "bc"}]},
        "boundary-moved": {"label": "ab", "parts": [{"text": "c"}]},
        "type-changed": {"label": "a", "parts": [{"bytes": "6263"}]},
        "empty-bytes": {"label": "a", "parts": [{"bytes": ""}]},
        "empty-text": {"label": "a", "parts": [{"text": ""}]},
        "natural-zero": {"label": "a", "parts": [_natural(0)]},
        "natural-large": {"label": "a", "parts": [_natural(2**64)]},
        "natural-negative": {"label": "a", "parts": [_natural(-1)]},
    }


def hkdf_cases() -> dict[str, Case]:
    def case(length: int, *context: Mapping[str, str]) -> Case:
        return {"key": _count(0).hex(), "label": "test", "context": list(context), "length": length}

    return {
        "one-block": case(32, {"text": "self"}, _natural(3)),
        "no-context": case(32),
        "short": case(1),
        "three-blocks": case(80, {"bytes": "ff"}),
        "length-zero": case(0),
        "length-too-long": case(255 * 32 + 1),
    }


def identity_cases() -> dict[str, Case]:
    return {
        "zeros": {"seed": bytes(32).hex(), "message": ""},
        "counting": {"seed": _count(1).hex(), "message": b"decentra".hex()},
        "seed-too-short": {"seed": _count(1, 31).hex(), "message": ""},
    }


def verify_cases() -> dict[str, Case]:
    identity = keys.Identity.from_seed(_count(1))
    message = b"decentra".hex()
    public, signature = identity.public.hex(), identity.sign(b"decentra").hex()
    order = 2**252 + 27742317777372353535851937790883648493
    raised = int.from_bytes(bytes.fromhex(signature)[32:], "little") + order
    honest = {"public": public, "signature": signature, "message": message}
    return {
        "honest": honest,
        "signature-flipped": honest | {"signature": _flip(signature, 5)},
        "message-changed": honest | {"message": message + "00"},
        "key-of-another": honest | {"public": keys.Identity.from_seed(_count(2)).public.hex()},
        "signature-malleated": honest | {"signature": signature[:64] + raised.to_bytes(32, "little").hex()},
        "signature-short": honest | {"signature": signature[:-2]},
        "key-short": honest | {"public": public[:-2]},
        # The neutral element as key, R = neutral, S = 0: plain verification accepts it on every message.
        "low-order-key": {"public": _element(1), "signature": _element(1) + _element(0), "message": message},
        "key-not-canonical": {"public": _element(PRIME + 1), "signature": _element(1) + _element(0), "message": ""},
    }


def seal_cases() -> dict[str, Case]:
    honest = {
        "public": seal.SealingKey(_count(64)).public.hex(),
        "plaintext": _count(7, 40).hex(),
        "context": b"round 3".hex(),
        "tape": _count(128).hex(),
    }
    low = {f"low-order-key-{name}": honest | {"public": public} for name, public in LOW_ORDER.items()}
    return {"honest": honest, "empty": honest | {"plaintext": "", "context": ""}, **low}


def open_cases() -> dict[str, Case]:
    sealed = _seal(seal_cases()["honest"])
    honest = {"secret": _count(64).hex(), "sealed": sealed, "context": b"round 3".hex()}
    return {
        "honest": honest,
        "seal-wrong-context": honest | {"context": b"round 4".hex()},
        "seal-wrong-key": honest | {"secret": _count(65).hex()},
        "seal-flipped-byte-of-key": honest | {"sealed": _flip(sealed, 3)},
        "seal-flipped-byte": honest | {"sealed": _flip(sealed, 40)},
        "seal-flipped-byte-of-tag": honest | {"sealed": _flip(sealed, -1)},
        "seal-truncated": honest | {"sealed": sealed[:-2]},
        "seal-only-a-key": honest | {"sealed": sealed[:64]},
        "low-order-key": honest | {"sealed": LOW_ORDER["order-8"] + sealed[64:]},
    }


def agree_cases() -> dict[str, Case]:
    left, right = (agreement.MaskKey(_count(start)) for start in (3, 4))
    context = [{"bytes": _count(200).hex()}, _natural(0), _natural(1), {"text": "model"}]
    honest = {"secret": _count(3).hex(), "other": right.public.hex(), "context": context}
    low = {f"low-order-key-{name}": honest | {"other": public} for name, public in LOW_ORDER.items()}
    return {
        "left": honest,
        "right": {"secret": _count(4).hex(), "other": left.public.hex(), "context": context},
        "pair-reversed": honest | {"context": [context[0], context[2], context[1], context[3]]},
        "secret-not-canonical": honest | {"secret": _element(PRIME)},
        "key-short": honest | {"other": right.public.hex()[:-2]},
        **low,
    }


def split_cases() -> dict[str, Case]:
    honest = {"secret": _count(9).hex(), "threshold": 3, "count": 5, "tape": _count(40).hex() + _count(90).hex()}
    rejected = (b"\xff" * 32).hex()
    return {
        "honest": honest,
        "all-of-two": {"secret": _element(PRIME - 1), "threshold": 2, "count": 2, "tape": _element(PRIME - 1)},
        "coefficient-rejected": honest | {"tape": _count(40).hex() + rejected + _count(90).hex()},
        "tape-stuck": honest | {"tape": rejected * 16},
        "tape-too-short": honest | {"tape": _count(40).hex()},
        "secret-not-canonical": honest | {"secret": _element(PRIME)},
        "threshold-one": honest | {"threshold": 1},
        "threshold-above-count": honest | {"threshold": 6},
    }


def combine_cases() -> dict[str, Case]:
    shares = _split(split_cases()["honest"])
    chosen = {str(x): shares[x - 1] for x in (2, 4, 5)}
    return {
        "honest": {"shares": chosen, "threshold": 3},
        "all-shares": {"shares": {str(x): share for x, share in enumerate(shares, 1)}, "threshold": 3},
        "shamir-flipped-byte": {"shares": chosen | {"4": _flip(shares[3], 0)}, "threshold": 3},
        "shamir-share-at-another-x": {"shares": {"2": shares[1], "3": shares[3], "5": shares[4]}, "threshold": 3},
        "shamir-bad-share-beyond-threshold": {"shares": chosen | {"1": shares[0], "5": _element(1)}, "threshold": 3},
        "shamir-too-few": {"shares": {"2": shares[1], "4": shares[3]}, "threshold": 3},
        "shamir-x-zero": {"shares": chosen | {"0": shares[0]}, "threshold": 3},
        "shamir-not-canonical": {"shares": chosen | {"4": _element(PRIME)}, "threshold": 3},
        "shamir-share-short": {"shares": chosen | {"4": shares[3][:-2]}, "threshold": 3},
    }


def extend_cases() -> dict[str, Case]:
    cases = {name: dict(case) | {"count": 5} for name, case in combine_cases().items()}
    return cases | {"shamir-count-below-threshold": cases["honest"] | {"count": 2}}


def prg_cases() -> dict[str, Case]:
    cases: dict[str, Case] = {}
    for width in (16, 32):
        zeros = bytes(11 * width // 8).hex()
        one = {"width": width, "vector": zeros, "masks": [[_count(11).hex(), 1]], "offset": 0}
        two = [[_count(11).hex(), 1], [_count(12).hex(), -1]]
        cases |= {
            f"keystream-{width}": one,
            f"offset-odd-{width}": one | {"offset": 5},
            f"offset-past-2^32-blocks-{width}": one | {"offset": 2**37 + 3},
            f"two-masks-wrap-around-{width}": one | {"vector": _count(240, 11 * width // 8).hex(), "masks": two},
            f"masks-cancel-{width}": one | {"masks": [[_count(11).hex(), 1], [_count(11).hex(), -1]]},
        }
    honest = cases["keystream-32"]
    return cases | {
        "key-short": dict(honest) | {"masks": [[_count(11, 31).hex(), 1]]},
        "sign-zero": dict(honest) | {"masks": [[_count(11).hex(), 0]]},
        "offset-negative": dict(honest) | {"offset": -1},
    }


def _tensor(values: list[float], *shape: int) -> dict[str, Any]:
    return {"shape": list(shape), "values": np.array(values, dtype="<f4").tobytes().hex()}


def encode_cases() -> dict[str, Case]:
    tensors = [_tensor([0.0, -0.0, 0.1, -0.1, 0.25, -0.5], 2, 3), _tensor([1.5], *()), _tensor([], 0, 4)]
    honest: dict[str, Any] = {
        "width": 16,
        "n": 64,
        "tensors": tensors,
        "ranges": [value.hex() for value in (0.5, 2.0, 1.0)],
        "weight": 1,
        "max_weight": 1,
        "seed": _count(77).hex(),
    }
    low = [0.25.hex(), 1.0.hex(), 1.0.hex()]
    rest = [_tensor([0.5, 0.0, 0.0, -0.5, 0.0, 0.0], 2, 3), _tensor([0.25], *()), _tensor([], 0, 4)]
    bad = {name: [_tensor([0.0] * 5 + [value], 2, 3), *tensors[1:]] for name, value in
           (("nan", float("nan")), ("infinity", float("-inf")))}  # fmt: skip
    return {
        "honest-16": honest,
        "honest-32": honest | {"width": 32},
        "weight-3-of-4": honest | {"weight": 3, "max_weight": 4},
        "clipped": honest | {"ranges": low},
        "clipped-with-residual": honest | {"ranges": low, "residual": rest},
        "no-tensors": honest | {"tensors": [], "ranges": []},
        "ring-nan": honest | {"tensors": bad["nan"]},
        "ring-infinity": honest | {"tensors": bad["infinity"]},
        "ring-overflow": honest | {"n": 2**15},
        "ring-weights-overflow": honest | {"max_weight": 512},
        "weight-zero": honest | {"weight": 0},
        "weight-above-maximum": honest | {"weight": 5, "max_weight": 4},
        "range-zero": honest | {"ranges": [0.0.hex(), *honest["ranges"][1:]]},
        "width-24": honest | {"width": 24},
    }


def decode_cases() -> dict[str, Case]:
    def total(*values: int, width: int = 16) -> str:
        return b"".join((value % 2**width).to_bytes(width // 8, "little") for value in values).hex()

    honest = {
        "width": 16,
        "n": 4,
        "total": total(0, 1, -1, 3 * 8191, -3 * 8191, 100, 3),
        "ranges": [0.1.hex(), 1.0.hex()],
        "shapes": [[5], []],
        "survivors": 3,
        "max_weight": 1,
    }
    weighted = honest | {"max_weight": 4, "total": total(0, 1, -1, 14336, -14336, 100, 7)}
    return {
        "honest": honest,
        "honest-32": honest | {"width": 32, "total": total(0, 1, -1, 3 * 536870911, -5, 100, 3, width=32)},
        "weighted-at-its-bound": weighted,
        "weighted-above-its-bound": weighted | {"total": total(0, 1, -1, 14337, 0, 100, 7)},
        "coordinate-above-range": honest | {"total": total(0, 1, -1, 3 * 8191 + 1, 0, 100, 3)},
        "coordinate-below-range": honest | {"total": total(0, 1, -1, 0, -3 * 8191 - 1, 100, 3)},
        "weight-too-low": honest | {"total": total(0, 1, -1, 0, 0, 100, 2)},
        "weight-too-high": honest | {"total": total(0, 1, -1, 0, 0, 100, 4)},
        "weight-negative": honest | {"total": total(0, 1, -1, 0, 0, 100, -3)},
        "more-survivors-than-peers": honest | {"survivors": 5},
        "total-too-short": honest | {"total": total(0, 3)},
    }


INPUTS: dict[str, Callable[[], dict[str, Case]]] = {
    "hashing": hashing_cases,
    "hkdf": hkdf_cases,
    "identity": identity_cases,
    "verify": verify_cases,
    "seal": seal_cases,
    "open": open_cases,
    "agree": agree_cases,
    "split": split_cases,
    "combine": combine_cases,
    "extend": extend_cases,
    "prg": prg_cases,
    "encode": encode_cases,
    "decode": decode_cases,
}


def rendered(primitive: str) -> str:
    """The text of one vector file."""
    cases = [{"name": name, **case, **answer(primitive, case)} for name, case in INPUTS[primitive]().items()]
    return json.dumps({"primitive": primitive, "version": 1, "cases": cases}, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """Writes every file."""
    ROOM.mkdir(parents=True, exist_ok=True)
    for primitive in INPUTS:
        (ROOM / f"{primitive}.json").write_text(rendered(primitive), encoding="utf-8")


if __name__ == "__main__":
    main()
