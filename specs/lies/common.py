"""A lie in a log, and the ways of telling one that protocols share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from scenes import Line, Log, Story, round_of

from decentra.types import PeerId

OTHER = b"\x5a" * 32
"""A hash, a key or a share that is of nothing."""

Twist = Callable[[Log], Line]
"""Lies in a log; a line of the liar's."""


@dataclass(frozen=True)
class Lie:
    """A bad log: where it goes, up to which part of what round it is, and the lie."""

    path: str
    part: int
    twist: Twist
    story: Story = round_of

    @property
    def protocol(self) -> str:
        """What is lied in: secagg, but where the folder is another protocol's."""
        folder = self.path.partition("/")[0]
        return folder if folder in ("allreduce", "mesh", "bucketed", "shamir-gram") else "secagg"

    @property
    def clause(self) -> str:
        """The clause that is broken: it stands in the file's name."""
        words = self.path.rpartition("/")[2].split("-")[1:]
        return f"{words[0]}-{words[1]}" if words[1].isdigit() else words[0]


def second(kind: str, **changes: Any) -> Twist:
    """A peer signs another message of a kind of which it has signed one: the third peer, or who else has."""

    def twist(log: Log) -> Line:
        name = kind.replace("*", log.charter.protocol.name)
        return log.repeat(next((line for line in log.all(name) if line.who == log.ids[2]), log.find(name)), **changes)

    return twist


def instead(kind: str, change: Callable[[Log, dict[str, Any]], Mapping[str, Any]]) -> Twist:
    """A peer signs other fields than the honest ones."""

    def twist(log: Log) -> Line:
        line = log.find(kind, log.turn(0) if kind == "rendezvous.ready" else log.turn(2))
        line.fields = {**line.fields, **change(log, line.fields)}
        return line

    return twist


def says(kind: str, **given: Any) -> Twist:
    """The third peer signs one more message."""
    return lambda log: log.add(log.ids[2], kind, **given)


def votes(log: Log, kind: str, topic: str) -> tuple[Line, ...]:
    return log.all(f"certify.{kind}", topic)


def propose(log: Log, who: PeerId, view: int, topic: str, before: Line | None = None, **changes: Any) -> Line:
    """A proposal like the first one of the topic, in another view."""
    same = log.find("certify.propose", topic=topic).fields
    return log.add(who, "certify.propose", before, **{**same, "view": view, **changes})


def unbound(view: int, topic: str, **changes: Any) -> Twist:
    """Whose turn a view is proposes in it before it is bound by a commit."""

    def twist(log: Log) -> Line:
        who = log.turn(view)
        return propose(log, who, view, topic, log.find("certify.commit", who, topic), **changes)

    return twist


def body_hash(log: Log, line: Line) -> bytes:
    kind = log.codec.spec(line.kind)
    return sha256(log.codec.encode(line.kind, tuple(line.fields[name] for name, _ in kind.fields))).digest()
