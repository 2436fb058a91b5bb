"""How members lie about who is up: each way is aimed at something that membership promises.

All liars of a schedule lie in one way, know each other's keys, and run sound machines beside, whose datagrams they
twist. They cannot forge an honest peer's signature; where they try, they are to be blamed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from decentra.gossip.happenings import Say
from decentra.gossip.messages import Ack, Datagram, Nack, Ping, PingReq, Sync
from decentra.gossip.statements import COUNT_BITS, Statement, Word, proof_bytes, signed_bytes
from decentra.simulation.hazards import generator
from decentra.simulation.membership import SESSION, Node, World
from decentra.types import PeerId

EVERY = 0.5
"""A liar says something so often, in seconds."""

KEPT = 200
"""Statements that a liar keeps to replay."""


class Liars:
    """The coalition of one schedule: twists what its members send, drops what they would hear, and adds lies."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.rng: random.Random = generator(world.seed, "membership/liars")
        self.nodes = [world.nodes[place] for place in world.hazards.liars]
        self.honest = [node for node in world.nodes if node not in self.nodes]
        self.victim = self.rng.choice(self.honest)
        self.proofs: list[Ack] = []
        self.heard: list[bytes] = []
        for node in self.nodes:
            node.twist = partial(self.twist, node)
            node.hears = partial(self.hears, node)
            world.heap.call_at(2.0 + self.rng.random(), partial(self._lie, node))

    def twist(self, liar: Node, said: Say) -> Sequence[Say]:
        return (said,)

    def hears(self, liar: Node, sender: PeerId, message: Datagram) -> bool:
        return True

    def lie(self, liar: Node) -> None:
        """What a liar adds on its own account, twice a second."""

    def _lie(self, liar: Node) -> None:
        if self.world.heap.now() < self.world.hazards.calm_from:
            if liar.machine is not None:
                self.lie(liar)
            self.world.heap.call_later(EVERY, partial(self._lie, liar))

    # ── their means ──────────────────────────────────────────────────────────────────────────────────────────────────

    def tell(self, liar: Node, to: Node, statements: Sequence[bytes]) -> None:
        """Past one's own twist: the lie itself."""
        self.send(liar, to, Ping(self.rng.getrandbits(62), liar.id, tuple(statements[:8])))

    def send(self, liar: Node, to: Node, message: Datagram) -> None:
        twist, liar.twist = liar.twist, None
        liar.say(Say(to.id, message))
        liar.twist = twist

    def word(self, author: Node, word: Word, current: int, subject: PeerId) -> bytes:
        """A statement that a liar may sign."""
        signature = self.world.signs(author.place, signed_bytes(SESSION, word, current, subject))
        return Statement(word, current, subject, author.id, signature).pack()

    def known(self, liar: Node, subject: Node) -> int:
        return liar.running.standing(subject.id).incarnation

    def to(self, but: Node | None = None) -> Node:
        return self.rng.choice([node for node in self.honest if node is not but] or self.honest)


class Frame(Liars):
    """All suspect one honest peer, tell everyone but it, and hand on nothing of what it says."""

    def lie(self, liar: Node) -> None:
        current = self.known(liar, self.victim)
        statements = [self.word(one, Word.SUSPECT, current, self.victim.id) for one in self.nodes]
        for node in self.honest:
            if node is not self.victim:
                self.tell(liar, node, statements)

    def twist(self, liar: Node, said: Say) -> Sequence[Say]:
        kept = [raw for raw in said.message.statements if Statement.read(raw).subject != self.victim.id]
        return (Say(said.to, replace(said.message, statements=tuple(kept))),)


class Stir(Liars):
    """Each suspects everyone all the time, also in incarnations that are not there yet."""

    def lie(self, liar: Node) -> None:
        for ahead in (0, 1, self.rng.getrandbits(30)):
            subjects = self.rng.sample(self.honest, min(4, len(self.honest)))
            words = [self.word(liar, Word.SUSPECT, self.known(liar, one) + ahead, one.id) for one in subjects]
            self.tell(liar, self.to(), words)


class Forge(Liars):
    """Statements that their authors did not sign: suspicions by honest peers, and words that age or end the victim."""

    def lie(self, liar: Node) -> None:
        current = self.known(liar, self.victim)
        kind = self.rng.randrange(3)
        author = self.rng.choice([one for one in self.honest if one is not self.victim] or self.honest)
        if kind == 0 and author is not self.victim:
            forged = Statement(Word.SUSPECT, current, self.victim.id, author.id, self.rng.randbytes(64))
        else:
            word, ahead = (Word.ALIVE, 1 << COUNT_BITS) if kind == 1 else (Word.LEFT, 0)
            signature = self.world.signs(liar.place, signed_bytes(SESSION, word, current + ahead, self.victim.id))
            forged = Statement(word, max(current, 1 << COUNT_BITS) + ahead, self.victim.id, self.victim.id, signature)
        self.tell(liar, self.to(self.victim), [forged.pack()])


class Replay(Liars):
    """Says again and again what was true once: old words, old suspicions, old acknowledgements."""

    def hears(self, liar: Node, sender: PeerId, message: Datagram) -> bool:
        self.heard += message.statements
        if isinstance(message, Ack):
            self.proofs.append(message)
        del self.heard[KEPT:], self.proofs[KEPT:]
        return True

    def lie(self, liar: Node) -> None:
        for node in self.honest:
            self.tell(liar, node, self.rng.sample(self.heard, min(8, len(self.heard))))
        for ack in self.rng.sample(self.proofs, min(4, len(self.proofs))):
            self.send(liar, self.to(), replace(ack, statements=()))


class Mute(Liars):
    """Answers some and not others, and hands nothing on for anybody."""

    def hears(self, liar: Node, sender: PeerId, message: Datagram) -> bool:
        half = {node.id for node in self.honest[: len(self.honest) // 2]}
        return sender not in half and not isinstance(message, PingReq)

    def twist(self, liar: Node, said: Say) -> Sequence[Say]:
        return (Say(said.to, replace(said.message, statements=())),)


class Hide(Liars):
    """Hides that a peer stopped: vouches for it with no signature, a wrong one, or one collected in advance."""

    def hears(self, liar: Node, sender: PeerId, message: Datagram) -> bool:
        if isinstance(message, Ack) and message.proof:
            self.proofs.append(message)
            del self.proofs[KEPT:]
        if isinstance(message, PingReq):
            told = [one.proof for one in self.proofs if one.subject == message.subject and one.asker == sender]
            proof = self.rng.choice([*told[:1], b"", self.rng.randbytes(64), self._own(liar, sender, message)])
            asker = self.world.nodes[self.world.place[sender]]
            self.send(liar, asker, Ack(message.number, sender, message.subject, proof, ()))
            return False
        return True

    def _own(self, liar: Node, asker: PeerId, message: PingReq) -> bytes:
        return self.world.signs(liar.place, proof_bytes(SESSION, asker, message.subject, message.number))

    def lie(self, liar: Node) -> None:
        one, other = self.to(), self.to()
        if one is not other:
            self.send(liar, one, Ping(self.rng.getrandbits(62), other.id, ()))


class Jump(Liars):
    """Its own incarnations leap, and differ from peer to peer."""

    def lie(self, liar: Node) -> None:
        for node in self.honest:
            current = (liar.boot << COUNT_BITS) + self.rng.getrandbits(20)
            self.tell(liar, node, [self.word(liar, Word.ALIVE, current, liar.id)])

    def hears(self, liar: Node, sender: PeerId, message: Datagram) -> bool:
        own = [raw for raw in message.statements if Statement.read(raw)[2:4] == (liar.id, liar.id)]
        return not own  # its own machine would take the leaps for another process


class Flood(Liars):
    """Fills what may have a bound: requests under ever new numbers, comparisons with rubbish, answers to nothing."""

    def lie(self, liar: Node) -> None:
        members = self.world.cast.members
        for node in self.honest:
            subject = self.rng.choice([peer for peer in members if peer not in (node.id, liar.id)])
            number = self.rng.getrandbits(62)
            heads = tuple(self.rng.getrandbits(40) for _ in members)
            for message in (
                PingReq(number, subject, ()),
                Sync(self.rng.randrange(2), heads, (), ()),
                Nack(number, subject, ()),
                Ack(number, node.id, liar.id, b"", ()),
            ):
                self.send(liar, node, message)


WAYS: dict[str, Callable[[World], Liars]] = {
    "frame": Frame,
    "stir": Stir,
    "forge": Forge,
    "replay": Replay,
    "mute": Mute,
    "hide": Hide,
    "jump": Jump,
    "flood": Flood,
}
"""How liars lie, by name; which one follows from a schedule's seed where it is not said."""
