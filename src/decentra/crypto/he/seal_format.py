"""The envelopes around coefficients that TenSEAL reads and writes: taken from a context made here, never from outside.

TenSEAL gives and takes protocol buffers that hold SEAL's streams, compressed by zstd. Each process makes one throwaway
context, and cuts from what that serializes to everything that stands before the coefficients. What came from a peer is
then coefficients only, checked, behind a head of our own, uncompressed. Nothing else reaches SEAL's parsers, which
believe sizes and parameters that they are told.

The coefficients of honest ciphertexts and keys are uniform mod a 60-bit prime. That could be compressed by 1.4 %, less
than the 1/64 below which zstd keeps a block as it is: so what TenSEAL writes is read here without a decompressor.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from decentra.crypto.he.parameters import PARAMETERS, Malformed

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_SEAL_MAGIC, _SEAL_HEADER = 0xA15E, struct.Struct("<HBBBBHQ")
_RAW, _NO_COMPRESSION, _ZSTD = 0, 0, 2
_PARMS_ID = 32
_VARINT, _FIXED64, _BYTES = 0, 1, 2
_VARINT_BYTES = 10


class Compressed(Malformed):
    """Coefficients that can be compressed are not uniform: those of a ciphertext, where the key is a sham."""


# ── SEAL's streams ───────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Head:
    """What SEAL writes before coefficients: the version in its header, and the object's own fields."""

    version: tuple[int, int]
    fields: bytes

    def wrap(self, words: bytes | bytearray | memoryview) -> bytes:
        """A stream that SEAL reads, uncompressed."""
        size = _SEAL_HEADER.size + len(self.fields) + memoryview(words).nbytes
        header = _SEAL_HEADER.pack(_SEAL_MAGIC, _SEAL_HEADER.size, *self.version, _NO_COMPRESSION, 0, size)
        return b"".join((header, self.fields, words))


def unwrap(stream: memoryview, size: int) -> tuple[Head, bytearray]:
    """The head of a stream and the ``size`` bytes of coefficients behind it.

    Raises:
        Malformed: it is no stream of SEAL's, or too short.
        Compressed: it isn't stored as it is.
    """
    if stream.nbytes < _SEAL_HEADER.size:
        raise Malformed("a stream of SEAL's is longer than its header")
    magic, length, major, minor, mode, _, told = _SEAL_HEADER.unpack_from(stream)
    if magic != _SEAL_MAGIC or length != _SEAL_HEADER.size or told != stream.nbytes or mode not in (0, _ZSTD):
        raise Malformed("these bytes don't begin as a stream of SEAL's does")
    body = stream[_SEAL_HEADER.size :]
    inner = _stored(body) if mode == _ZSTD else bytearray(body)
    if len(inner) < size:
        raise Malformed(f"a stream of SEAL's holds {len(inner)} bytes, not {size} of coefficients")
    cut = len(inner) - size
    head = Head((major, minor), bytes(inner[:cut]))
    del inner[:cut]
    return head, inner


def parms_id(head: Head) -> bytes:
    """SEAL's name for the parameters of what stands behind this head."""
    return head.fields[:_PARMS_ID]


def _stored(frame: memoryview) -> bytearray:
    """The content of a zstd frame of raw blocks (RFC 8878, 3.1.1)."""
    if bytes(frame[:4]) != _ZSTD_MAGIC or frame.nbytes < 5:
        raise Malformed("a compressed stream of SEAL's is a zstd frame, and this is none")
    descriptor = frame[4]
    single = descriptor >> 5 & 1
    size_bytes = (single, 2, 4, 8)[descriptor >> 6]
    if descriptor & 0b1111:
        raise Malformed("a zstd frame of SEAL's has no dictionary, no checksum and no reserved bits")
    at = 5 + (1 - single) + size_bytes
    content, last = bytearray(), False
    while not last:
        if at + 3 > frame.nbytes:
            raise Malformed("a zstd frame ends before its last block")
        header = int.from_bytes(frame[at : at + 3], "little")
        last, kind, size = bool(header & 1), header >> 1 & 3, header >> 3
        if kind != _RAW:
            raise Compressed("zstd could compress coefficients that should be uniform")
        at += 3
        if at + size > frame.nbytes:
            raise Malformed("a zstd block is longer than its frame")
        content += frame[at : at + size]
        at += size
    if at != frame.nbytes:
        raise Malformed("a zstd frame goes on behind its last block")
    return content


# ── protocol buffers ─────────────────────────────────────────────────────────────────────────────────────────────────


def varint(number: int) -> bytes:
    """A number as protocol buffers write it."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*out, number))


def _read_varint(view: memoryview, at: int) -> tuple[int, int]:
    number = 0
    for index, byte in enumerate(view[at : at + _VARINT_BYTES]):
        number |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return number, at + index + 1
    raise Malformed("a number in a protocol buffer has no end")


@dataclass(frozen=True)
class Field:
    """A field of a protocol buffer: its number, its kind on the wire, and its content as it stands there."""

    number: int
    kind: int
    content: bytes | memoryview

    def written(self) -> bytes:
        """Its bytes."""
        size = varint(memoryview(self.content).nbytes) if self.kind == _BYTES else b""
        return b"".join((varint(self.number << 3 | self.kind), size, self.content))


def fields(view: memoryview) -> Iterator[Field]:
    """The fields of a protocol buffer, in order; contents are views.

    Raises:
        Malformed: it is none.
    """
    at = 0
    while at < view.nbytes:
        tag, at = _read_varint(view, at)
        begin = at
        if tag & 7 == _VARINT:
            _, at = _read_varint(view, at)
        elif tag & 7 == _FIXED64:
            at += 8
        elif tag & 7 == _BYTES:
            size, begin = _read_varint(view, at)
            at = begin + size
        else:
            raise Malformed("a protocol buffer of TenSEAL's has no such field")
        if at > view.nbytes:
            raise Malformed("a field is longer than its protocol buffer")
        yield Field(tag >> 3, tag & 7, view[begin:at])


def only(view: memoryview, number: int) -> memoryview:
    """The content of the one field with this number.

    Raises:
        Malformed: there is none, or there are several.
    """
    found = [field.content for field in fields(view) if field.number == number]
    if len(found) != 1:
        raise Malformed(f"a message of TenSEAL's has one field {number}, this has {len(found)}")
    return memoryview(found[0])


# ── TenSEAL's messages (tensors.proto, tensealcontext.proto) ─────────────────────────────────────────────────────────

SIZES, CIPHERTEXTS = 1, 2
PARAMETERS_FIELD, PUBLIC, PUBLIC_KEY = 1, 2, 1


def vector_message(head: Head, words: bytes | bytearray | memoryview) -> bytes:
    """A BFVVectorProto of one full ciphertext."""
    size = Field(SIZES, _BYTES, varint(PARAMETERS.degree))
    return size.written() + Field(CIPHERTEXTS, _BYTES, head.wrap(words)).written()


def context_message(template: bytes, head: Head, words: bytes | bytearray | memoryview) -> bytes:
    """A public context of ours with another public key in it."""
    written = []
    for field in fields(memoryview(template)):
        if field.number == PUBLIC:
            inner = [
                Field(PUBLIC_KEY, _BYTES, head.wrap(words)) if one.number == PUBLIC_KEY else one
                for one in fields(memoryview(field.content))
            ]
            field = Field(PUBLIC, _BYTES, b"".join(one.written() for one in inner))
        written.append(field.written())
    return b"".join(written)
