"""The messages of ``specs/certify``, field by field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from decentra.wire.message import Message, Verified


@dataclass(frozen=True)
class Propose(Message):
    """The value to settle on, with the signed entries that show it to be right: by the protocol's rule, or by being
    prepared by t peers in an earlier view."""

    kind: ClassVar[str] = "certify.propose"
    context: bytes
    topic: str
    view: int
    value: bytes
    shown: tuple[Verified, ...]
    locked: tuple[Verified, ...]


@dataclass(frozen=True)
class Prepare(Message):
    """I checked the value proposed in this view, whose hash this is."""

    kind: ClassVar[str] = "certify.prepare"
    context: bytes
    topic: str
    view: int
    value: bytes


@dataclass(frozen=True)
class Commit(Message):
    """I saw t peers prepare this value in this view; I am locked on it."""

    kind: ClassVar[str] = "certify.commit"
    context: bytes
    topic: str
    view: int
    value: bytes


@dataclass(frozen=True)
class Lock(Message):
    """I have come to this view without a certificate; this is what I am locked on, if anything."""

    kind: ClassVar[str] = "certify.lock"
    context: bytes
    topic: str
    view: int
    value: bytes
    prepares: tuple[Verified, ...]


@dataclass(frozen=True)
class Certificate(Message):
    """t commits of one value in one view: proof to anyone, relayed by everyone who holds it."""

    kind: ClassVar[str] = "certify.certificate"
    context: bytes
    topic: str
    value: bytes
    commits: tuple[Verified, ...]


MESSAGES = (Propose, Prepare, Commit, Lock, Certificate)
