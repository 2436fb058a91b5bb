"""What is asked at a peer's door by who is not of its session, and what is answered there: one message each way.

At the door stand the invited, with their invite's one-time key, and former members. Who stands there is what the
handshake proved; nothing else that it says is believed before it is checked.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

from decentra.crypto.keys import SIGNATURE_BYTES
from decentra.wire.entry import ZERO

VERSION = 1
QUESTION_MARK = 0x51
"""The first byte of a question; of a message between members it is the lane, 0 or 1."""

QUESTION_LIMIT = 4096
"""A request has some 1,200 bytes."""

ANSWER_LIMIT = 64 * 1024
"""A charter of 64 members has 40 KiB; who stands at the door costs no more than any stranger may."""

_QUESTION = struct.Struct(">BB32s32s64s")
_ANSWER = struct.Struct(">BBI")


class Question(NamedTuple):
    """What came after the charter that I hold?

    Attributes:
        held: its hash; zeros for none.
        signed: the hash of an amendment that the asker signed; zeros for none.
        signature: that signature.
        request: ``request.toml`` of an invited newcomer; empty for a former member.
    """

    held: bytes = ZERO
    signed: bytes = ZERO
    signature: bytes = bytes(SIGNATURE_BYTES)
    request: str = ""

    def pack(self) -> bytes:
        head = _QUESTION.pack(QUESTION_MARK, VERSION, self.held, self.signed, self.signature)
        return head + self.request.encode()

    @classmethod
    def parse(cls, raw: bytes) -> Question:
        """The question in a message.

        Raises:
            ValueError: there is none.
        """
        if not _QUESTION.size <= len(raw) <= QUESTION_LIMIT:
            raise ValueError(f"a question has {_QUESTION.size} to {QUESTION_LIMIT} bytes, this has {len(raw)}")
        mark, version, held, signed, signature = _QUESTION.unpack_from(raw)
        if mark != QUESTION_MARK or version != VERSION:
            raise ValueError(f"a message of kind {mark}, version {version}, is no question of version {VERSION}")
        return cls(held, signed, signature, _text(raw[_QUESTION.size :]))


class Says(IntEnum):
    """What an answer is: a sentence, a charter in force, an amendment that lacks signatures, or a refusal."""

    WORDS = 0
    CHARTER = 1
    PENDING = 2
    REFUSED = 3


class Answer(NamedTuple):
    """``text`` is a sentence, or a charter; ``addresses`` are where its members are, as TOML."""

    says: Says
    text: str
    addresses: str = ""

    def pack(self) -> bytes:
        """Its bytes; without addresses, or a sentence instead, where it is too long for the door."""
        text, addresses = self.text.encode(), self.addresses.encode()
        packed = _ANSWER.pack(VERSION, self.says, len(text)) + text + addresses
        if len(packed) > ANSWER_LIMIT and addresses:
            return self._replace(addresses="").pack()
        if len(packed) > ANSWER_LIMIT:
            return Answer(Says.WORDS, "the charter is too large for the door; ask a member for the file").pack()
        return packed

    @classmethod
    def parse(cls, raw: bytes) -> Answer:
        """The answer in a message.

        Raises:
            ValueError: there is none.
        """
        if not _ANSWER.size <= len(raw) <= ANSWER_LIMIT:
            raise ValueError(f"an answer has {_ANSWER.size} to {ANSWER_LIMIT} bytes, this has {len(raw)}")
        version, code, length = _ANSWER.unpack_from(raw)
        end = _ANSWER.size + length
        if version != VERSION or end > len(raw):
            raise ValueError("the answer is cut, or of another version")
        return cls(Says(code), _text(raw[_ANSWER.size : end]), _text(raw[end:]))


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise ValueError("what is said at a door is UTF-8, and this is not") from None
