"""Reads the one canonical encoding of arrays, natural numbers, bytes and text, as the schema asks for them.

Plain MessagePack decoders build whatever the bytes announce: three bytes announce an array of 65,535, and a thousand of
those nest. This reader is told at every place what may stand there, so nothing is allocated that no field has room for,
and it takes the shortest form of a length or a number only, so bytes and values are one to one
(``specs/wire/README.md``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from decentra.errors import DecentraError


class Malformed(DecentraError):
    """Bytes that are not the canonical encoding of any message of the spec; the caller knows whom to blame."""


class _Form(NamedTuple):
    """How MessagePack writes one kind of value: ``room`` values from the code ``short`` on stand for themselves; the
    codes in ``wide`` are followed by a big-endian number of so many bytes, which must be at least the second value."""

    name: str
    short: int
    room: int
    wide: Mapping[int, tuple[int, int]]


_ARRAY = _Form("an array", 0x90, 16, {0xDC: (2, 16), 0xDD: (4, 1 << 16)})
_NATURAL = _Form(
    "a whole number", 0x00, 128, {0xCC: (1, 128), 0xCD: (2, 1 << 8), 0xCE: (4, 1 << 16), 0xCF: (8, 1 << 32)}
)
_BYTES = _Form("bytes", 0xC4, 0, {0xC4: (1, 0), 0xC5: (2, 1 << 8), 0xC6: (4, 1 << 16)})
_TEXT = _Form("a text", 0xA0, 32, {0xD9: (1, 32), 0xDA: (2, 1 << 8), 0xDB: (4, 1 << 16)})
_BYTES_8 = 0xC4


class Reader:
    """A cursor over bytes that somebody else made. Every method raises Malformed; ``what`` names the place.

    >>> reader = Reader(bytes.fromhex("93 00 c402beef a26f6b"), limit=64)
    >>> reader.array(3, "example"), reader.natural(9, "n"), reader.binary(2, 2, "b"), reader.text(8, "t")
    (3, 0, b'\\xbe\\xef', 'ok')
    >>> reader.end("example")
    """

    __slots__ = ("_at", "_raw")

    def __init__(self, raw: bytes, limit: int) -> None:
        if len(raw) > limit:
            raise Malformed(f"{len(raw)} bytes where {limit} are allowed")
        self._raw, self._at = raw, 0

    def array(self, most: int, what: str) -> int:
        """The number of items that follow, at most ``most``."""
        count = self._number(_ARRAY, what)
        if count > most:
            raise Malformed(f"{what}: an array of at most {most} is expected, this has {count}")
        return count

    def natural(self, most: int, what: str) -> int:
        """A whole number in 0..``most``."""
        value = self._number(_NATURAL, what)
        if value > most:
            raise Malformed(f"{what}: a whole number of at most {most} is expected")
        return value

    def binary(self, least: int, most: int, what: str) -> bytes:
        """A byte string whose length is in ``least``..``most``."""
        raw, at = self._raw, self._at
        if at + 1 < len(raw) and raw[at] == _BYTES_8:  # the short way for ids, hashes, keys, signatures
            begin, length = at + 2, raw[at + 1]
            if least <= length <= most and begin + length <= len(raw):
                self._at = begin + length
                return raw[begin : self._at]
        return self._take(self._number(_BYTES, what), least, most, what)

    def text(self, most: int, what: str) -> str:
        """A text of at most ``most`` bytes of UTF-8."""
        raw = self._take(self._number(_TEXT, what), 0, most, what)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise Malformed(f"{what}: a text is not UTF-8") from None

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return len(self._raw) - self._at

    def end(self, what: str) -> None:
        """Nothing may be left over."""
        if self.left:
            raise Malformed(f"{what}: {self.left} bytes are left over")

    def comes(self) -> str:
        """What kind of value stands next: ``array``, ``natural``, ``bytes`` or ``text``."""
        code = self._raw[self._at] if self._at < len(self._raw) else -1
        if code in _BYTES.wide:
            return "bytes"
        for form, name in ((_NATURAL, "natural"), (_TEXT, "text"), (_ARRAY, "array")):
            if form.short <= code < form.short + form.room or code in form.wide:
                return name
        raise Malformed("neither an array nor a whole number, bytes or a text")

    def _number(self, form: _Form, what: str) -> int:
        raw, at = self._raw, self._at
        if at >= len(raw):
            raise Malformed(f"{what}: the bytes end where {form.name} is expected")
        code = raw[at]
        if 0 <= code - form.short < form.room:
            self._at = at + 1
            return code - form.short
        if code not in form.wide:
            raise Malformed(f"{what}: {form.name} is expected")
        width, least = form.wide[code]
        end = at + 1 + width
        value = int.from_bytes(raw[at + 1 : end], "big")
        if end > len(raw):
            raise Malformed(f"{what}: the bytes end within {form.name}")
        if value < least:
            raise Malformed(f"{what}: the encoding is not the canonical one, a shorter form says the same")
        self._at = end
        return value

    def _take(self, length: int, least: int, most: int, what: str) -> bytes:
        end = self._at + length
        if not least <= length <= most:
            expected = f"{least} to {most}" if least != most else str(most)
            raise Malformed(f"{what}: {expected} bytes are expected, this has {length}")
        if end > len(self._raw):
            raise Malformed(f"{what}: the bytes end early")
        taken, self._at = self._raw[self._at : end], end
        return taken
