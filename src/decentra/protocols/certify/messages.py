"""The messages of ``specs/certify``, field by field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from decentra.wire.message import Message, Verified


@dataclass(frozen=True)
class Propose(Message):
    """The value to settle on, with the signed entries that show it to be right."""

    kind: ClassVar[str] = "certify.propose"
    context: bytes
    topic: str
    value: bytes
    shown: tuple[Verified, ...]


@dataclass(frozen=True)
class Prepare(Message):
    """I checked the proposed value, whose hash this is."""

    kind: ClassVar[str] = "certify.prepare"
    context: bytes
    topic: str
    value: bytes


@dataclass(frozen=True)
class Commit(Message):
    """I saw t peers prepare this value."""

    kind: ClassVar[str] = "certify.commit"
    context: bytes
    topic: str
    value: bytes


@dataclass(frozen=True)
class Certificate(Message):
    """t commits of one value: proof to anyone, relayed by everyone who holds it."""

    kind: ClassVar[str] = "certify.certificate"
    context: bytes
    topic: str
    value: bytes
    commits: tuple[Verified, ...]


MESSAGES = (Propose, Prepare, Commit, Certificate)
