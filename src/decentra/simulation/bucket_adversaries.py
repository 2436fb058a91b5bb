"""Targeted adversaries of bucketed: members of a bucket that say of its mean what is not so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from decentra.driver.blobs import Workbench
from decentra.machine.effects import Effect, Send
from decentra.machine.events import Blob
from decentra.protocols.bucketed.messages import Mean, Relay
from decentra.simulation.hazards import Hazards
from decentra.simulation.liars import Adversary, Liar
from decentra.simulation.stage import Play, cast_for
from decentra.types import PeerId


def spread(hazards: Hazards, play: Play) -> Hazards:
    """The hazards with no more liars in a bucket than may be in one; other protocols' as they are."""
    charter = cast_for(play.protocol, play.n, play.c, play.bucket_c).charter
    lying: list[int] = []
    for bucket in charter.drawn_buckets:
        lying += [place for place in hazards.liars if charter.ids[place] in bucket][: charter.bucket_corrupt]
    return replace(hazards, liars=tuple(sorted(lying))) if charter.drawn_buckets else hazards


def _another(liar: Liar, value: int = 1) -> Blob:
    """A mean that encoding could give, and that no bucket has: to all liars of a bucket the same."""
    machine = liar.honest
    place = machine.buckets.names.index(machine.buckets.of(liar.me)[0])
    row = np.full(machine.mine.length, (place + 1) * (1000 * value), f"<i{machine.setting.width // 8}")
    row[-1] = 1
    return Workbench(liar.ring.actor(liar.me).driver.blobs, lambda count: bytes(count)).keep(row)


def _receivers(liar: Liar) -> list[PeerId]:
    return [peer for peer in liar.honest.buckets.receivers(liar.me) if peer in liar.roster]


def _told(liar: Liar, effect: Send, other: Mean, blob: Blob | None) -> Sequence[Effect]:
    """Another statement, to all or to some, and its bytes to whom this peer is to send its bucket's mean."""
    blobs = {} if blob is None else dict.fromkeys(_receivers(liar), blob)
    if liar.rng.random() < 0.5:
        return [replace(effect, message=other, blobs=blobs)]
    return liar.split(effect, other, blobs)


def false_mean(liar: Liar, effect: Send) -> Sequence[Effect]:
    """State another mean than its bucket's; or the bucket's as that of others, or of too few to hide an update."""
    message: Any = effect.message
    bucket, c = liar.honest.buckets.of(liar.me), liar.honest.buckets.c
    match liar.rng.randrange(4):
        case 0:
            others = (*bucket[1:], liar.rng.choice(liar.honest.buckets.names))
            few = bucket[: c + 1] if liar.rng.random() < 0.5 else others
            blob = _another(liar)
            return _told(liar, effect, Mean(message.context, tuple(sorted(few)), blob.root), blob)
        case 1:
            return _told(liar, effect, Mean(message.context, (), bytes(32)), None)
        case _:
            blob = _another(liar)
            return _told(liar, effect, Mean(message.context, bucket, blob.root), blob)


def two_means(liar: Liar, effect: Send) -> Sequence[Effect]:
    """State its bucket's mean to some, and another to others."""
    message: Any = effect.message
    blob = _another(liar, 2)
    other = Mean(message.context, liar.honest.buckets.of(liar.me), blob.root)
    return liar.split(effect, other, dict.fromkeys(_receivers(liar), blob))


def short_mean(liar: Liar, effect: Send) -> Sequence[Effect]:
    """State a mean of another length than the vector has; its bytes hash to what it states."""
    message: Any = effect.message
    blob = liar.ring.blob(liar.me, liar.honest.setting.width // 8, 5)
    bucket = liar.honest.buckets.of(liar.me)
    blobs = dict.fromkeys(_receivers(liar), blob)
    return [replace(effect, message=Mean(message.context, bucket, blob.root), blobs=blobs)]


def keep_mean(liar: Liar, effect: Send) -> Sequence[Effect]:
    """State its bucket's mean to all, and send the bytes to nobody who counts on it; or not to some."""
    some = {peer: blob for peer, blob in effect.blobs.items() if peer not in liar.victims}
    return [replace(effect, blobs=some if liar.rng.random() < 0.3 else {})]


def no_relay(liar: Liar, effect: Send) -> Sequence[Effect]:
    """Leave others without what it holds."""
    return []


def false_whole(liar: Liar, effect: Send) -> Sequence[Effect]:
    """Claim to have every mean, or none; name another statement, or a bucket that is none; to all or to some."""
    message: Any = effect.message
    stated = list(message.stated)
    names = tuple(name for name, _ in stated)
    place = liar.rng.randrange(len(stated)) if stated else 0
    match liar.rng.randrange(5):
        case 0:
            other = replace(message, whole=names)
        case 1:
            other = replace(message, whole=())
        case 2 if stated:
            stated[place] = (names[place], liar.rng.randbytes(32))
            other = replace(message, stated=tuple(stated))
        case 3 if stated:
            left = stated[:place] + stated[place + 1 :]
            other = replace(message, stated=tuple(left), whole=tuple(sorted(dict(left).keys() & set(message.whole))))
        case _:
            stranger = PeerId(bytes(32))
            other = replace(message, whole=(stranger, *message.whole))
    return liar.split(effect, other) if liar.rng.random() < 0.5 else [replace(effect, message=other)]


def relay_falsely(liar: Liar) -> Sequence[Effect]:
    """Once means are certified, relay other bytes for them, or under another root or name; a few times, as the others
    come to know what is certified."""
    machine = liar.honest
    if machine.survivors is None or not liar.ring.once("relay", liar.me, liar.round):
        return ()
    out: list[Effect] = []
    for peer in sorted(liar.victims):
        name = liar.rng.choice(machine.buckets.names)
        blob = _another(liar, 4)
        said = machine._certified_root(name) if liar.rng.random() < 0.5 else None
        out.append(Send(Relay(machine.context, name, said or blob.root), to=peer, blobs={peer: blob}))
    return out


BUCKET_ADVERSARIES: Mapping[str, Adversary] = {
    one.name: one
    for one in (
        Adversary("false-mean", "BU-2", "states another mean than its bucket's", {"mean": false_mean}),
        Adversary("short-mean", "BU-3", "states a mean of another length", {"mean": short_mean}),
        Adversary("two-means", "EQUIVOCATION", "states two means of its bucket", {"mean": two_means}),
        Adversary("false-whole", "BU-4", "holds what it has not, or hides what it has", {"holding": false_whole}),
        Adversary("kept-mean", "", "sends its bucket's mean to nobody, and relays none",
                  {"mean": keep_mean, "relay": no_relay}),
    )
}
"""The adversaries by name."""
