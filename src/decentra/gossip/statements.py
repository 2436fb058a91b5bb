"""What members say of who is up: signed statements, and which of two counts.

A statement is the only thing in a datagram that is signed, since it is handed on: alive and left by their subject, a
suspicion by whoever probed in vain (SWIM, section 4.2). There is no word for dead: c+1 suspicions that nobody refutes
are all there is to know (MB-5), and a peer's conclusion from them would tell others nothing.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

from decentra.gossip.limits import MOST_BOOTS, MOST_REFUTATIONS
from decentra.types import PeerId

LABEL = b"decentra/statement/v1\0"
PROOF_LABEL = b"decentra/vouch/v1\0"

_PACKED = struct.Struct(">BQ32s32s64s")
_SIGNED = struct.Struct(">BQ32s")
_NUMBER = struct.Struct(">Q")

STATEMENT_BYTES = _PACKED.size
COUNT_BITS = 32
LARGEST_INCARNATION = MOST_BOOTS << COUNT_BITS | MOST_REFUTATIONS


class Word(IntEnum):
    """What is said; of one author's words of one incarnation the higher counts (MB-3)."""

    ALIVE = 0
    SUSPECT = 1
    LEFT = 2


class Statement(NamedTuple):
    """One author's signed word on one subject's incarnation."""

    word: Word
    incarnation: int
    subject: PeerId
    author: PeerId
    signature: bytes

    @property
    def rank(self) -> int:
        """Of two statements of one author on one subject the higher counts; equal ones say the same."""
        return self.incarnation << 2 | self.word

    def pack(self) -> bytes:
        """The statement's bytes: word, incarnation (big-endian), subject, author, signature; STATEMENT_BYTES long."""
        return _PACKED.pack(*self)

    @classmethod
    def read(cls, raw: bytes) -> Statement:
        """The statement that bytes hold, whose signature is not checked yet.

        Raises:
            ValueError: they hold none: a wrong length, word or incarnation, or an author who may not say this (MB-2).
        """
        if len(raw) != STATEMENT_BYTES:
            raise ValueError(f"a statement has {STATEMENT_BYTES} bytes, this has {len(raw)}")
        code, incarnation, subject, author, signature = _PACKED.unpack(raw)
        if code > Word.LEFT or incarnation > LARGEST_INCARNATION:
            raise ValueError("a statement's word or incarnation is none that exists")
        if (code == Word.SUSPECT) == (subject == author):
            raise ValueError("alive and left are said by their subject, a suspicion by another")
        if code != Word.SUSPECT and not incarnation >> COUNT_BITS:
            raise ValueError("an incarnation begins with a boot")
        return cls(Word(code), incarnation, PeerId(subject), PeerId(author), signature)


def signed_bytes(session: bytes, word: Word, incarnation: int, subject: PeerId) -> bytes:
    """What the author of a statement signs; it binds the statement to the session, 32 bytes."""
    return LABEL + session + _SIGNED.pack(word, incarnation, subject)


def proof_bytes(session: bytes, asker: PeerId, subject: PeerId, number: int) -> bytes:
    """What a subject signs for an asker whom it answers through others (MB-7); the number is the asker's, drawn at
    random, so that nobody holds an answer before the question."""
    return PROOF_LABEL + session + asker + subject + _NUMBER.pack(number)


def incarnation(boot: int, count: int) -> int:
    """The number of a boot's incarnation after so many refutations (MB-4).

    >>> hex(incarnation(3, 1))
    '0x300000001'
    """
    return boot << COUNT_BITS | count
