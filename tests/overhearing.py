"""What a schedule of the simulator leaves for an auditor: everything that anybody signed and somebody got."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from decentra import spec
from decentra.audit import Report
from decentra.audit.auditor import Auditor
from decentra.audit.ground import Ground
from decentra.driver import admission
from decentra.simulation.stage import Stage
from decentra.types import PeerId
from decentra.wire.codec import Signed
from decentra.wire.message import Verified


@dataclass(frozen=True)
class Left:
    """The ground of a schedule's session, the entries, and who lied."""

    ground: Ground
    entries: tuple[Signed, ...]
    liars: frozenset[PeerId]


def play(stage: Stage) -> Left:
    """Play a schedule to its end, and give what it leaves."""
    with _overheard() as seen:
        stage.run()
    for actor in stage.actors:
        for signed in actor.journal.entries:
            seen.setdefault(signed.entry, signed)
    publics = {member.id: member.ed25519 for member in stage.cast.charter.members}

    def check(author: PeerId, signature: bytes, message: bytes) -> bool:
        return author in publics and stage.suite.verify(publics[author], signature, message)

    ground = Ground(stage.cast.charter, spec.load(stage.cast.charter.protocol.name), check)
    return Left(ground, tuple(seen.values()), frozenset(stage.cast.members[place].id for place in stage.hazards.liars))


@contextmanager
def _overheard() -> Iterator[dict[bytes, Signed]]:
    seen: dict[bytes, Signed] = {}
    admit = admission.Admission.admit

    def listen(self: admission.Admission, peer: PeerId, parts: tuple[bytes, ...]) -> tuple[Verified, bool]:
        verified, new = admit(self, peer, parts)
        seen[verified.signed.entry] = verified.signed
        return verified, new

    admission.Admission.admit = listen  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        admission.Admission.admit = admit  # type: ignore[method-assign]


def judged(left: Left) -> Report:
    """What an auditor says of it."""
    auditor = Auditor(grounds=[left.ground])
    try:
        auditor.add(left.entries)
        return auditor.judge()
    finally:
        auditor.close()


def damaged(entries: Sequence[Signed], rng: random.Random, kept: float, whole: float, sound: float) -> list[Signed]:
    """Logs as they come from others: shuffled, some twice, some missing, some without their bodies, some corrupted."""
    found = []
    for signed in entries:
        for _ in range(1 + (rng.random() < 0.1)):
            entry, body = signed.entry, signed.body if rng.random() < whole else b""
            if rng.random() > kept:
                continue
            if rng.random() > sound:
                at = rng.randrange(len(entry))
                entry = entry[:at] + bytes([entry[at] ^ 1 << rng.randrange(8)]) + entry[at + 1 :]
            found.append(Signed(entry, body))
    rng.shuffle(found)
    return found
