"""Targeted adversaries of shamir-gram: who deals, checks, multiplies, opens and tells what is not so."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decentra.crypto.shares.deal import deal
from decentra.crypto.shares.field61 import ELEMENT_BYTES, PRIME
from decentra.crypto.shares.gram import deal_zero
from decentra.crypto.shares.quanta import MAX_RADIUS
from decentra.driver.blobs import Workbench
from decentra.machine.effects import Effect, Send
from decentra.machine.events import Blob, Event, Received
from decentra.protocols.certify.messages import Propose
from decentra.protocols.shamir_gram.messages import Deal, Shown
from decentra.simulation.liars import Adversary, Liar, Twist
from decentra.types import PeerId

# ── blobs ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _kept(liar: Liar, data: NDArray[Any]) -> Blob:
    return Workbench(liar.ring.actor(liar.me).driver.blobs, lambda count: bytes(count)).keep(data)


def _words(liar: Liar, blob: Blob) -> NDArray[np.uint64]:
    """A copy of a blob, element by element."""
    return liar.ring.actor(liar.me).driver.blobs.view(blob).copy().view(np.uint64)


def _spoiled(liar: Liar, blob: Blob, places: Collection[int], by: int = 5) -> Blob:
    """A blob with other elements at some places."""
    words = _words(liar, blob)
    for place in places:
        words[place] = (int(words[place]) + by) % PRIME
    return _kept(liar, words)


def _sent(liar: Liar, effect: Send, others: Mapping[PeerId, Blob]) -> Send:
    """A deal with other blobs for some, as it signs them; its own machine goes by what it deals."""
    message: Any = effect.message
    roots = tuple(
        others[peer].root if peer in others else root for peer, root in zip(liar.roster, message.roots, strict=True)
    )
    if liar.me in others:
        liar.honest.blobs[liar.me] = others[liar.me]
    blobs = {peer: others.get(peer, blob) for peer, blob in effect.blobs.items()}
    return replace(effect, message=replace(message, roots=roots), blobs=blobs)


# ── deals ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def bad_degree(liar: Liar, effect: Send) -> Sequence[Effect]:
    """Deal shares that lie on no polynomial of the degree: to more receivers than may lie, or to all others."""
    peers = sorted(effect.blobs)
    some = liar.rng.sample(peers, liar.rng.randint(2, len(peers)))
    return [_sent(liar, effect, {peer: _spoiled(liar, effect.blobs[peer], [0], place + 1)
                                 for place, peer in enumerate(some)})]  # fmt: skip


def false_deal(liar: Liar, effect: Send) -> Sequence[Effect]:
    """Deal one receiver a share that fits no others', or a sharing of zero that doesn't."""
    peer = liar.rng.choice(sorted(effect.blobs))
    return [_sent(liar, effect, {peer: _spoiled(liar, effect.blobs[peer], [liar.rng.choice((0, 0, -1))])})]


def torn_deal(liar: Liar, effect: Send) -> Sequence[Effect]:
    """Deal some receivers other bytes than it signs, none, too few, or numbers that are no elements; or a share of z
    that does not open."""
    message: Any = effect.message
    some = liar.rng.sample(sorted(effect.blobs), liar.rng.randint(1, 2))
    how = liar.rng.randrange(5)
    if how == 0:
        at = liar.roster.index(some[0])
        sealed = (*message.sealed[:at], bytes(len(message.sealed[at])), *message.sealed[at + 1 :])
        return [replace(effect, message=replace(message, sealed=sealed))]
    if how == 1:
        return [replace(effect, blobs={peer: blob for peer, blob in effect.blobs.items() if peer not in some})]
    if how == 2:
        others = {peer: _spoiled(liar, effect.blobs[peer], [0]) for peer in some}
        return [replace(effect, blobs={**effect.blobs, **others})]
    torn: dict[PeerId, Blob] = {}
    for peer in some:
        words = _words(liar, effect.blobs[peer])
        words[-1] = PRIME
        torn[peer] = _kept(liar, words[:-1] if how == 3 else words)
    return [_sent(liar, effect, torn)]


def false_zeros(liar: Liar, effect: Send) -> Sequence[Effect]:
    """Deal a sharing of zero whose slots sum to something else, the same to all."""
    blobs = {**effect.blobs, liar.me: liar.honest.blobs[liar.me]}
    place = -1 - liar.rng.randrange(liar.honest.terms.pairs + 1)
    return [_sent(liar, effect, {peer: _spoiled(liar, blob, [place]) for peer, blob in sorted(blobs.items())})]


def two_dealings(liar: Liar, effect: Send) -> Sequence[Effect]:
    """Sign two deals, and show each to some."""
    others = {peer: _spoiled(liar, blob, [-2]) for peer, blob in sorted(effect.blobs.items())}
    second = _sent(liar, effect, others)
    return liar.split(effect, second.message, others)


def _anew(liar: Liar, effect: Send, quanta: NDArray[np.int64]) -> Send:
    """A deal of another vector, all else sound."""
    terms, secret = liar.honest.terms, liar.rng.randbytes(32)
    shares = deal(quanta, terms.sharing, liar.honest.position, secret)
    zeros = deal_zero(terms.pairs, terms.sharing, secret)
    others: dict[PeerId, Blob] = {}
    for receiver, peer in enumerate(liar.roster):
        share = shares.share(receiver)
        first = np.frombuffer(share, np.uint64) if isinstance(share, bytes) else share
        others[peer] = _kept(liar, np.concatenate((first, zeros[receiver])))
    return _sent(liar, effect, others)


def wrap_around(liar: Liar, effect: Send) -> Sequence[Effect]:
    """Deal a vector with one coordinate of 2^31, whose square is 2 mod p, or with others that wrap around."""
    quanta = np.zeros(liar.honest.terms.d, np.int64)
    quanta[liar.rng.randrange(quanta.size)] = liar.rng.choice((1 << 31, -(1 << 31), 1 << 30, 1 << 45))
    return [_anew(liar, effect, quanta)]


def long_vector(liar: Liar, effect: Send) -> Sequence[Effect]:
    """Deal the longest vector that counts, in one coordinate."""
    quanta = np.zeros(liar.honest.terms.d, np.int64)
    quanta[liar.rng.randrange(quanta.size)] = liar.rng.choice((MAX_RADIUS, -MAX_RADIUS))
    return [_anew(liar, effect, quanta)]


# ── holdings, checks and what is shown ───────────────────────────────────────────────────────────────────────────────


def denial(liar: Liar, effect: Send) -> Sequence[Effect]:
    """Deny what one, some or all others dealt it."""
    message: Any = effect.message
    others = [peer for peer, _ in message.held if peer != liar.me]
    denied = liar.rng.sample(others, liar.rng.choice((1, 1, max(1, len(others) // 2), len(others)))) if others else []
    held = tuple(one for one in message.held if one[0] not in denied)
    return [replace(effect, message=replace(message, held=held))]


def skip_one(liar: Liar, effect: Send) -> Sequence[Effect]:
    """Deal one peer nothing."""
    skipped = max(effect.blobs)
    liar.ring.hush(liar.me, effect.message, [skipped])
    return [replace(effect, blobs={peer: blob for peer, blob in effect.blobs.items() if peer != skipped})]


def deny_another(liar: Liar, effect: Send) -> Sequence[Effect]:
    """Deny what one peer dealt it, which is not the one that it skipped."""
    message: Any = effect.message
    denied = min(peer for peer in liar.roster if peer != liar.me)
    return [replace(effect, message=replace(message, held=tuple(one for one in message.held if one[0] != denied)))]


def _twisted(liar: Liar, data: bytes, places: Collection[int]) -> bytes:
    """Other elements at some places."""
    words = np.frombuffer(data, np.uint64).copy()
    for place in places:
        words[place] = (int(words[place]) + 1 + liar.rng.randrange(99)) % PRIME
    return words.tobytes()


def wrong_check(liar: Liar, effect: Send) -> Sequence[Effect]:
    """Tell something else of one survivor or of some; show what it was dealt for it, or nothing."""
    message: Any = effect.message
    count = len(message.degrees) // ELEMENT_BYTES
    places = liar.rng.sample(range(count), liar.rng.choice((1, 1, count)))
    field = liar.rng.choice(("degrees", "zeros"))
    lied = _twisted(liar, getattr(message, field), places)
    if liar.rng.random() < 0.5:
        object.__setattr__(message, field, lied)  # in place, so that its own machine defends the lie
        return [effect]
    return [replace(effect, message=replace(message, **{field: lied}))]


def stubborn_check(liar: Liar, effect: Send) -> Sequence[Effect]:
    """Tell something else of every survivor's share, so that each blob is asked for."""
    message: Any = effect.message
    count = len(message.degrees) // ELEMENT_BYTES
    object.__setattr__(message, "degrees", _twisted(liar, message.degrees, range(count)))
    return [effect]


def show_some(liar: Liar, effect: Send) -> Sequence[Effect]:
    """Show its blob to some only, beside other bytes for others."""
    blobs = {peer: blob for peer, blob in effect.blobs.items() if peer not in liar.victims}
    if liar.rng.random() < 0.3:
        blobs |= {peer: _spoiled(liar, blob, [0]) for peer, blob in effect.blobs.items() if peer in liar.victims}
    return [replace(effect, blobs=blobs)]


def show_unasked(liar: Liar, event: Event) -> Sequence[Effect]:
    """Show what honest peers dealt it though nobody asked, and call what it was dealt another's."""
    machine = liar.honest
    proposed = isinstance(event, Received) and isinstance(event.verified.message, Propose)
    if not proposed or machine.beacon is None or not liar.ring.once("show", liar.me, liar.round):
        return ()
    out: list[Effect] = []
    for dealer in sorted(set(machine.blobs) & set(machine.members) - {liar.me}):
        deal, blob = machine.deal_of(dealer), machine.blobs[dealer]
        if isinstance(deal, Deal):
            whose = liar.rng.choice((liar.me, liar.me, sorted(liar.victims)[0]))
            message = Shown(machine.context, machine.survives_with(), dealer, whose, blob.root)
            out.append(Send(message, blobs={peer: blob for peer in liar.roster if peer != liar.me}))
    return out


def keep_back(liar: Liar, effect: Send) -> Sequence[Effect]:
    """Say nothing; or not to some."""
    if liar.rng.random() < 0.5:
        return []
    liar.ring.hush(liar.me, effect.message, liar.victims)
    return [replace(effect, blobs={peer: blob for peer, blob in effect.blobs.items() if peer not in liar.victims})]


# ── words ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def false_word(liar: Liar, effect: Send) -> Sequence[Effect]:
    """Tell another word of the products, in one entry or in all."""
    message: Any = effect.message
    count = len(message.word) // ELEMENT_BYTES
    places = liar.rng.sample(range(count), liar.rng.choice((1, count)))
    return [replace(effect, message=replace(message, word=_twisted(liar, message.word, places)))]


def two_words(liar: Liar, effect: Send) -> Sequence[Effect]:
    """Tell some another word than the others."""
    message: Any = effect.message
    return liar.split(effect, replace(message, word=_twisted(liar, message.word, [0])))


# ── the sum ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def false_part(liar: Liar, effect: Send) -> Sequence[Effect]:
    """Send owners another share of the sum, under its signature; or bytes off their root."""
    message: Any = effect.message
    others = {peer: _spoiled(liar, blob, [0]) for peer, blob in sorted(effect.blobs.items())
              if liar.rng.random() < 0.7}  # fmt: skip
    if liar.rng.random() < 0.3:
        return [replace(effect, blobs={**effect.blobs, **others})]
    owners = liar.honest.slicers
    roots = tuple(others[peer].root if peer in others else root
                  for peer, root in zip(owners, message.roots, strict=True))  # fmt: skip
    return [replace(effect, message=replace(message, roots=roots), blobs={**effect.blobs, **others})]


def _another_slice(liar: Liar, effect: Send, by: int) -> tuple[Any, Blob] | None:
    message: Any = effect.message
    if not effect.blobs:
        return None
    words = _words(liar, next(iter(effect.blobs.values()))).view(np.int64)
    words[liar.rng.randrange(words.size)] += by
    blob = _kept(liar, words)
    return replace(message, root=blob.root), blob


def false_slice(liar: Liar, effect: Send) -> Sequence[Effect]:
    """Publish another slice than the parts give, the same to all."""
    other = _another_slice(liar, effect, liar.rng.choice((1, -1, PRIME, 1 << 62)))
    if other is None:
        return [effect]
    return [replace(effect, message=other[0], blobs=dict.fromkeys(effect.blobs, other[1]))]


def two_slices(liar: Liar, effect: Send) -> Sequence[Effect]:
    """Publish two slices, and show each to some."""
    other = _another_slice(liar, effect, 1)
    return [effect] if other is None else liar.split(effect, other[0], dict.fromkeys(effect.blobs, other[1]))


def false_telling(liar: Liar, effect: Send) -> Sequence[Effect]:
    """Tell something else of its share of the sum, of one slice or of all."""
    message: Any = effect.message
    count = len(message.values) // ELEMENT_BYTES
    places = liar.rng.sample(range(count), liar.rng.choice((1, count)))
    return [replace(effect, message=replace(message, values=_twisted(liar, message.values, places)))]


# ── votes ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def second_value(liar: Liar, message: Any) -> tuple[bytes, tuple[Any, ...]] | None:
    """Another value that all but one of the shown checks or words give, where they give one."""
    machine, shown = liar.honest, message.shown[1:]
    if message.topic == "checked":
        told = {one.sender: machine._shown_values(one) for one in shown}
        value = machine._judged({peer: values for peer, values in told.items() if values is not None}).value
    else:
        words = {one.sender: machine._word(one) for one in shown}
        opened = machine._open({peer: word for peer, word in words.items() if word is not None})
        value = None if opened is None else opened.value
    return None if value is None else (value.pack(), shown)


def give_up(liar: Liar, effect: Send) -> Sequence[Effect]:
    """Propose that nothing is decided, or what shows nothing, where it is decided."""
    message: Any = effect.message
    if message.topic not in ("checked", "geometry"):
        return [effect]
    shown = message.shown if liar.rng.random() < 0.5 else ()
    value = liar.rng.choice((b"undecided", b"undecided", message.value))
    return [replace(effect, message=replace(message, value=value, shown=shown))]


def with_blobs(twist: Twist) -> Twist:
    """The twist, where there is something beside a message: a deal of secagg has nothing."""
    return lambda liar, effect: twist(liar, effect) if effect.blobs else [effect]


def _adversary(name: str, clause: str, says: str, **twists: Callable[[Liar, Send], Sequence[Effect]]) -> Adversary:
    return Adversary(name, clause, says, twists)


SHARES_ADVERSARIES: Mapping[str, Adversary] = {
    one.name: one
    for one in (
        _adversary("bad-degree", "SG-6", "deals shares that lie on no polynomial", deal=bad_degree),
        _adversary("false-deal", "SG-6", "deals one receiver what fits no others' shares", deal=false_deal),
        _adversary("torn-deal", "SG-2", "deals some receivers no shares that it signed", deal=torn_deal),
        _adversary("false-zeros", "SG-6", "deals a sharing of zero that is none", deal=false_zeros),
        _adversary("two-dealings", "EQUIVOCATION", "signs two deals of an update", deal=two_dealings),
        _adversary("wrap-around", "SG-8", "deals a vector whose square wraps around", deal=wrap_around),
        _adversary("long-vector", "", "deals the longest vector that counts", deal=long_vector),
        _adversary("denial", "SG-3", "denies what others dealt it", holding=denial),
        _adversary("kept-z", "", "shows its shares of the beacon to nobody, or not to some", beacon=keep_back),
        _adversary("wrong-check", "SG-6", "tells of its shares what they don't give", check=wrong_check),
        _adversary("mute-suspect", "SG-6", "tells what is not so, and shows its blobs to some only",
                   check=stubborn_check, shown=show_some),
        _adversary("divider", "", "deals one peer nothing, denies another, and keeps its shares of the beacon back",
                   deal=skip_one, holding=deny_another, beacon=keep_back),
        Adversary("unasked", "", "shows what it was dealt though nobody asks", {}, show_unasked),
        _adversary("false-word", "SG-8", "tells a false word of the products", gram=false_word),
        _adversary("two-words", "EQUIVOCATION", "tells two words of the products", gram=two_words),
        _adversary("kept-word", "", "tells its word to nobody, or not to some", gram=keep_back),
        _adversary("false-part", "SG-9", "sends owners false parts of the sum", part=false_part),
        _adversary("false-slice", "SG-10", "publishes a false slice of the sum", slice=false_slice),
        _adversary("two-slices", "SG-10", "publishes two slices of the sum", slice=two_slices),
        _adversary("kept-slice", "", "publishes its slice to nobody, or not to some", slice=keep_back),
        _adversary("false-telling", "SG-11", "tells of its share of the sum what it does not give",
                   told=false_telling),
        _adversary("giver-up", "", "proposes that nothing is decided", propose=give_up),
    )
}
"""The adversaries by name."""
