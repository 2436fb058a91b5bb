"""One unambiguous encoding under every hash and every derived key, so that no two uses can collide.

An item is its type's tag, its length as 8 little-endian bytes, and its bytes. Items delimit themselves, so a sequence
of items has one reading only: ``digest("a", "bc")``, ``digest("ab", "c")`` and ``digest("a", b"bc")`` all differ.
"""

from __future__ import annotations

import hashlib
import hmac
from functools import lru_cache

Part = bytes | bytearray | memoryview | int | str

_BYTES, _TEXT, _NATURAL = b"b", b"s", b"n"
_LENGTH_BYTES = 8
_HASH_BYTES = 32
_SMALL = 256
"""Bodies below so many bytes are copied together: what a protocol hashes is mostly many ids and hashes."""

_HEADS = tuple(_BYTES + length.to_bytes(_LENGTH_BYTES, "little") for length in range(_SMALL))
"""Tag and length of small byte strings."""

MAX_EXPAND = 255 * _HASH_BYTES
"""The most bytes that one HKDF-SHA256 expansion gives (RFC 5869, 2.3)."""


def _item(part: Part) -> tuple[bytes, bytes | bytearray | memoryview]:
    """Tag and length, and the body apart from them, so that a large body is hashed without being copied."""
    tag, body, length = _BYTES, b"", 0
    if isinstance(part, bytes | bytearray):
        return _BYTES + len(part).to_bytes(_LENGTH_BYTES, "little"), part
    if isinstance(part, memoryview):
        if not part.c_contiguous:
            raise ValueError("a hashed view must be contiguous; hash a contiguous copy instead")
        return _BYTES + part.nbytes.to_bytes(_LENGTH_BYTES, "little"), part.cast("B") if part.nbytes else b""
    if isinstance(part, str):
        tag, body = _TEXT, part.encode()
    elif isinstance(part, int) and not isinstance(part, bool):
        if part < 0:
            raise ValueError(f"a hashed integer is not negative, this is {part}")
        tag, body = _NATURAL, part.to_bytes((part.bit_length() + 7) // 8, "little")
    else:
        raise TypeError(f"only bytes, str and int can be hashed, not {type(part).__name__}; encode it first")
    length = len(body)
    return tag + length.to_bytes(_LENGTH_BYTES, "little"), body


@lru_cache(maxsize=1024, typed=True)
def _whole(part: str | int) -> bytes:
    """A label or a number with its head; kept, since a protocol hashes the same ones again and again."""
    head, body = _item(part)
    return head + bytes(body)


def encode_parts(label: str, *parts: Part) -> bytes:
    """The encoding that ``digest`` hashes and that ``expand`` gives HKDF as its info.

    Raises:
        TypeError: a part is not bytes, a contiguous view, text or an integer (``bool`` is none of them).
        ValueError: an integer is negative.
    """
    return b"".join(piece for part in (label, *parts) for piece in _item(part))


def digest(label: str, *parts: Part) -> bytes:
    """SHA-256 of label and parts under the encoding of this file: 32 bytes.

    Views are hashed in place, without a copy and without the interpreter lock.

    Raises:
        TypeError, ValueError: as ``encode_parts``.
    """
    return digest_after(_whole(label), *parts)


def digest_after(encoded: bytes, *parts: Part) -> bytes:
    """``digest`` of a label and parts whose first ones are given as ``encode_parts`` gives them."""
    small, state = [encoded], None
    for part in parts:
        if isinstance(part, bytes) and len(part) < _SMALL:
            small += (_HEADS[len(part)], part)
        elif isinstance(part, (str, int)):
            small.append(_whole(part))
        else:
            head, body = _item(part)
            small.append(head)
            state = state or hashlib.sha256()
            state.update(b"".join(small))
            state.update(body)
            small.clear()
    rest = b"".join(small)
    if state is None:
        return hashlib.sha256(rest).digest()
    state.update(rest)
    return state.digest()


def expand(key: bytes, label: str, *context: Part, length: int = 32) -> bytes:
    """HKDF-SHA256 of ``key`` without salt, its info the encoding of label and context (RFC 5869): ``length`` bytes.

    Raises:
        ValueError: ``length`` is not in 1..8160.
        TypeError, ValueError: as ``encode_parts``.
    """
    if not 1 <= length <= MAX_EXPAND:
        raise ValueError(f"HKDF-SHA256 gives 1 to {MAX_EXPAND} bytes, not {length}")
    info = encode_parts(label, *context)
    extracted = hmac.digest(bytes(_HASH_BYTES), key, "sha256")
    block, blocks = b"", bytearray()
    for counter in range(1, -(-length // _HASH_BYTES) + 1):
        block = hmac.digest(extracted, block + info + bytes((counter,)), "sha256")
        blocks += block
    return bytes(blocks[:length])
