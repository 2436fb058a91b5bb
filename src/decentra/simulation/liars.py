"""Liars: honest machines whose messages are twisted on their way out, and what the liars of one schedule share.

What a liar sends is changed, doubled or kept back, while the machine inside sees what it meant to send and goes on. Up
to c liars collude: they share what they hear, and tell some honest peers another story than the others.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from decentra.driver.blobs import Workbench
from decentra.driver.fittings import MachineMaker
from decentra.errors import DecentraError, RemoteError
from decentra.machine.effects import Effect, Send
from decentra.machine.events import Blob, Event, Received
from decentra.protocols.catalogue import machine
from decentra.protocols.setting import Contribution, Setting
from decentra.simulation.hazards import generator
from decentra.simulation.wires import Parcel
from decentra.types import PeerId, RoundId
from decentra.wire.codec import Signed
from decentra.wire.entry import Chain, parse
from decentra.wire.message import Message, Verified

if TYPE_CHECKING:
    from decentra.simulation.stage import Actor, Stage

Twist = Callable[["Liar", Send], Sequence[Effect]]
"""What a liar sends in place of a message. The first that is sent stands for the message to its own machine."""

Plot = Callable[["Liar", Event], Sequence[Effect]]
"""What a liar does beside, when something happens."""


@dataclass(frozen=True)
class Adversary:
    """How liars lie.

    Attributes:
        name: what the command line calls it.
        clause: the clause that it breaks; empty where it breaks none that anyone could judge.
        says: a sentence.
        twists: what it does to its own messages, by the kind's part after the dot.
        plot: what it does beside that.
        hushes: kinds that it may keep from some peers.
        spoils: what need not be what liars encoded: the ``vectors`` that they send, or the ``sums`` that they publish.
        unlike: whether some peers begin with another common state, and fetch the group's.
    """

    name: str
    clause: str
    says: str
    twists: Mapping[str, Twist] = field(default_factory=dict)
    plot: Plot | None = None
    hushes: Callable[[Coalition, PeerId, PeerId, str], bool] | None = None
    spoils: Literal["", "vectors", "sums"] = ""
    unlike: bool = False


class Coalition:
    """The liars of one schedule, and what they have in common."""

    def __init__(self, stage: Stage, adversary: Adversary, liars: frozenset[PeerId]) -> None:
        self.stage, self.adversary, self.liars = stage, adversary, liars
        self.rng: random.Random = generator(stage.seed, f"adversary/{adversary.name}")
        self._hushed: dict[PeerId, list[tuple[bytes, frozenset[PeerId]]]] = defaultdict(list)
        self.heard: dict[str, list[Verified]] = defaultdict(list)
        """What any liar was told, by kind."""
        self._known: set[bytes] = set()
        self.parcels: list[Parcel] = []
        self._forged = 1 << 20
        honest = [peer for peer in stage.cast.charter.ids if peer not in liars]
        self.victims = frozenset(self.rng.sample(honest, self.rng.randint(1, max(1, len(honest) - 1))))
        """The honest peers that are told the second story; the others are told the first."""
        self.late: dict[PeerId, Send] = {}
        """What a liar holds back until it suits it."""
        self.spent: set[object] = set()
        """What was done already, by whatever names it."""

    def maker(self, mutant: MachineMaker | None) -> MachineMaker:
        honest = mutant or machine(self.stage.play.protocol)
        return lambda setting, mine, number: Liar(self, honest, setting, mine, number)

    def actor(self, peer: PeerId) -> Actor:
        return next(actor for actor in self.stage.actors if actor.id == peer)

    def hear(self, verified: Verified) -> None:
        if verified.entry.hash not in self._known:
            self._known.add(verified.entry.hash)
            self.heard[verified.message.kind].append(verified)

    def hush(self, liar: PeerId, message: Message, victims: Iterable[PeerId]) -> None:
        """Keep this message of a liar's from these peers."""
        self._hushed[liar].append((self.stage.registry.encode(message), frozenset(victims)))

    def says(self, liar: PeerId, target: PeerId, parcel: Parcel) -> bool:
        """Whether a liar hands a parcel to a neighbour."""
        entry, body = parcel.parts
        self.parcels.append(parcel)
        if any(body == known and target in victims for known, victims in self._hushed[liar]):
            # what is sent to this peer alone is meant for it
            return bool(parse(entry).receiver)
        hushes = self.adversary.hushes
        return hushes is None or not hushes(self, liar, target, parse(entry).kind)

    def sign(self, liar: PeerId, message: Message, after: bytes) -> Verified:
        """A message signed by a liar beside its chain, to be cited."""
        actor = self.actor(liar)
        self._forged += 1
        session = actor.session
        body = self.stage.registry.encode(message)
        chain = Chain(actor.signer, session.session, actor.boot, self._forged)
        entry = chain.sign(session.round, message.kind, body, after)
        return Verified(entry, message, Signed(entry.packed, body))

    def blob(self, liar: PeerId, size: int, fill: int) -> Blob:
        """A blob of a liar's making."""
        bench = Workbench(self.actor(liar).driver.blobs, lambda count: bytes(count))
        return bench.keep(np.full(size, fill, np.uint8))

    def once(self, *name: object) -> bool:
        """True the first time that something is named."""
        if name in self.spent:
            return False
        self.spent.add(name)
        return True


class Liar:
    """A machine that lies: an honest one, whose messages are twisted on their way out."""

    def __init__(
        self, ring: Coalition, honest: MachineMaker, setting: Setting, mine: Contribution, number: RoundId
    ) -> None:
        self.ring, self.me, self.round = ring, setting.me, number
        self.honest: Any = honest(setting, mine, number)
        self._meant: dict[int, tuple[Message, Message | None]] = {}

    @property
    def roster(self) -> tuple[PeerId, ...]:
        return tuple(self.honest.roster)

    @property
    def victims(self) -> frozenset[PeerId]:
        return self.ring.victims

    @property
    def rng(self) -> random.Random:
        return self.ring.rng

    def __getattr__(self, name: str) -> Any:
        return getattr(self.honest, name)

    def handle(self, event: Event) -> list[Effect]:
        if isinstance(event, Received):
            self.ring.hear(event.verified)
            known = self._meant.get(id(event.verified.message))
            if known is not None:
                if known[1] is None:
                    return []
                event = replace(event, verified=replace(event.verified, message=known[1]))
        effects = self._twisted(self.honest.handle(event))
        if self.ring.adversary.plot is not None:
            effects.extend(self._beside(self.ring.adversary.plot(self, event)))
        return effects

    def cancel(self, error: DecentraError) -> list[Effect]:
        return list(self.honest.cancel(error))

    def faulted(self, error: RemoteError) -> list[Effect]:
        return self._twisted(self.honest.faulted(error))

    def slot(self, message: Message) -> str:
        return str(self.honest.slot(message))

    def room(self, message: Message) -> int:
        return int(self.honest.room(message))

    def wants(self, verified: Verified, root: bytes) -> bool:
        return bool(self.honest.wants(verified, root))

    def defers(self, verified: Verified, root: bytes, coming: Sequence[Verified]) -> bool:
        return bool(self.honest.defers(verified, root, coming))

    def copied(self, verified: Verified) -> bytes:
        return bytes(self.honest.copied(verified))

    def _twisted(self, effects: Iterable[Effect]) -> list[Effect]:
        out: list[Effect] = []
        for effect in effects:
            twist = None
            if isinstance(effect, Send):
                twist = self.ring.adversary.twists.get(effect.message.kind.partition(".")[2])
            if twist is None or not isinstance(effect, Send):
                out.append(effect)
                continue
            truth: Message | None = effect.message
            for other in twist(self, effect):
                if isinstance(other, Send) and other.message is not effect.message:
                    self._meant[id(other.message)] = (other.message, truth)
                if isinstance(other, Send):
                    truth = None
                out.append(other)
        return out

    def _beside(self, effects: Iterable[Effect]) -> list[Effect]:
        """What is said beside the truth; the machine inside never hears of it."""
        out = list(effects)
        for effect in out:
            if isinstance(effect, Send):
                self._meant[id(effect.message)] = (effect.message, None)
        return out

    def split(self, effect: Send, other: Message, blobs: Mapping[PeerId, Blob] | None = None) -> list[Effect]:
        """Tell the victims something else than the others; one of them hears both, every other time."""
        told_both = sorted(self.victims)[:1] if self.rng.random() < 0.5 else []
        self.ring.hush(self.me, effect.message, self.victims.difference(told_both))
        told: list[Effect] = [effect]
        for peer in sorted(self.victims):
            beside = {peer: blobs[peer]} if blobs and peer in blobs else {}
            told.append(Send(replace(other), to=peer, blobs=beside, after=effect.after))
        return told
