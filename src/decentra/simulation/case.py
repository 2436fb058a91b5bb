"""What is known of one schedule: what each honest peer signed and took in, over all its processes, and what was broken.

The oracle's rules write it down here and judge by it: ``votes``, ``masks``, ``echoes`` and ``endings`` hold them.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from decentra import derive
from decentra.protocols.certify.messages import Propose
from decentra.protocols.rendezvous.messages import Roster
from decentra.protocols.secagg.messages import Context, Deal
from decentra.types import PeerId, RoundId
from decentra.wire.codec import Malformed, unpack

if TYPE_CHECKING:
    from decentra.simulation.stage import Actor, Stage

SURVIVORS, OUTCOME, VERDICT = "survivors", "outcome", "verdict"


@dataclass(frozen=True)
class Violation:
    """A clause that did not hold: at whom, when, and what was seen."""

    clause: str
    who: PeerId | None
    at: float
    said: str


Topic = tuple[bytes, str]
"""A context, and a topic that is voted on under it."""

Ballot = tuple[bytes, str, int]
"""A topic, and a view in which it is voted on."""


@dataclass
class Notes:
    """What one honest peer has signed and seen, over all its processes."""

    prepared: dict[Ballot, bytes] = field(default_factory=dict)
    committed: dict[Ballot, bytes] = field(default_factory=dict)
    acted: dict[Topic, int] = field(default_factory=dict)
    locks: dict[Topic, tuple[int, bytes]] = field(default_factory=dict)
    contexts: dict[int, set[bytes]] = field(default_factory=lambda: defaultdict(set))
    """Contexts voted or masked under, by round."""
    slots: dict[tuple[int, str], bytes] = field(default_factory=dict)
    prepares: dict[tuple[bytes, str, int, bytes], set[PeerId]] = field(default_factory=lambda: defaultdict(set))
    commits: dict[tuple[bytes, str, bytes], dict[int, set[PeerId]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(set))
    )
    endorsed: dict[bytes, set[PeerId]] = field(default_factory=lambda: defaultdict(set))
    proposals: dict[Ballot, list[Propose]] = field(default_factory=lambda: defaultdict(list))
    values: dict[bytes, bytes] = field(default_factory=dict)
    """Values that it has seen, by the hash that votes cite."""
    refutes: set[Ballot] = field(default_factory=set)
    """Proposals of ``lost`` that came when it had every sum."""
    rosters: list[Roster] = field(default_factory=list)
    listed: list[Context] = field(default_factory=list)
    """The lists of deals that it was shown."""
    deals: dict[bytes, Deal] = field(default_factory=dict)
    vectors: dict[tuple[int, PeerId], set[bytes]] = field(default_factory=lambda: defaultdict(set))
    """The messages that updates were sent with to it, by round and author."""
    named: set[tuple[int, PeerId | None]] = field(default_factory=set)
    """Whom it named, by round."""
    masked: dict[str, list[bytes]] = field(default_factory=lambda: defaultdict(list))
    """The contexts that each of its updates was masked under."""
    roots: dict[bytes, tuple[bytes, ...]] = field(default_factory=dict)
    kinds: dict[tuple[bytes, PeerId], str] = field(default_factory=dict)
    """Which kind of share it showed, by context and dealer."""
    update: str = ""


class Case:
    """One schedule's.

    Attributes:
        violations: what did not hold, in the order found.
        notes: each honest peer's.
        rosters: who was in a context.
        encoded: what each peer encoded in each round, before it was masked.
    """

    def __init__(self, stage: Stage, liars: frozenset[PeerId]) -> None:
        self.stage, self.liars, self.c = stage, liars, stage.play.c
        self.violations: list[Violation] = []
        self.notes: dict[PeerId, Notes] = {peer: Notes() for peer in stage.cast.charter.ids if peer not in liars}
        self.rosters: dict[bytes, tuple[PeerId, ...]] = {}
        self.encoded: dict[tuple[PeerId, RoundId], list[NDArray[Any]]] = defaultdict(list)

    def violated(self, clause: str, who: PeerId | None, said: str) -> None:
        """Take a violation down, once."""
        now, trace = self.stage.clock.now(), self.stage.trace
        if not any((known.clause, known.who, known.said) == (clause, who, said) for known in self.violations):
            self.violations.append(Violation(clause, who, now, said))
            if trace is not None:
                trace.violation(now, "-" if who is None else self.letter(who), clause, said)

    def letter(self, peer: PeerId) -> str:
        """What people call a peer."""
        return self.stage.letter(peer)

    def quorum(self, context: bytes) -> int:
        """How many votes decide in a context."""
        return derive.quorum(len(self.rosters.get(context, ())) or self.stage.play.n, self.c)

    def durable(self, actor: Actor, kind: str, topic: str, value: bytes, clause: str) -> None:
        """What leaves was written down before, as it is."""
        written = actor.journal.acts.get((actor.session.round.number, kind, topic))
        if written is None:
            self.violated(clause, actor.id, f"its {kind} {topic} left before it was durable")
        elif written != value:
            self.violated(clause, actor.id, f"its {kind} {topic} is not the one that it wrote down")

    def acts_under(self, actor: Actor, notes: Notes, context: bytes) -> None:
        """A peer votes or masks under one context a round (SA-2)."""
        contexts = notes.contexts[actor.session.round.number]
        contexts.add(context)
        if len(contexts) > 1:
            self.violated("SA-2", actor.id, "it voted or masked under two contexts of one round")

    def certified_for(self, notes: Notes, context: bytes, topic: str, value: bytes) -> bool:
        """Whether a peer has seen t commits of a value, given by the hash that votes cite, in one view."""
        views = notes.commits[context, topic, value]
        return any(len(who) >= self.quorum(context) for who in views.values())

    def sum_of(self, members: tuple[PeerId, ...], round_id: RoundId) -> NDArray[Any] | None:
        """The sum of what these peers encoded last; None if one of them encoded nothing."""
        vectors = [self.encoded[peer, round_id][-1:] for peer in members]
        if not members or not all(vectors):
            return None
        total: NDArray[Any] = sum((one for (one,) in vectors[1:]), vectors[0][0].copy())
        return total


def members_of(value: bytes) -> tuple[PeerId, ...]:
    """The survivors that a certified value names; none where it names none."""
    try:
        fields = unpack(value, len(value))
    except Malformed:
        return ()
    match fields:
        case (tuple(members), *_):
            return members
        case _:
            return ()
