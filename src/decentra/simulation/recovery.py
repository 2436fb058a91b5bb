"""What a coalition of c really computes: secrets rebuilt of the shares it has, masks taken off, and sums that come out.

``knowledge`` counts shares; here they are combined. A coalition has what its members' machines have, their mask keys
and the shares that were sealed to them, and all that honest peers showed; it is given every masked vector whole. A sum
is counted only if its bytes are those that the honest peers had encoded.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from decentra.crypto.prg import Mask, apply_masks
from decentra.crypto.seal import SealError
from decentra.crypto.shamir import combine
from decentra.crypto.suite import Agreement, Opener
from decentra.machine.effects import Send
from decentra.protocols.rendezvous.messages import Ready
from decentra.protocols.secagg.deal import GROUP, KEY, SELF, Dealt, self_key, share_hashes
from decentra.protocols.secagg.messages import Deal, Masked, Unmask
from decentra.protocols.sharing import SHARE_BYTES, Table
from decentra.simulation.knowledge import Member
from decentra.types import PeerId

if TYPE_CHECKING:
    from decentra.simulation.stage import Actor


@dataclass
class _Place:
    """One context: its deals, what was masked under it, and what the owners of that had encoded."""

    table: Table
    number: int
    deals: Mapping[PeerId, Deal]
    masked: dict[PeerId, NDArray[Any]] = field(default_factory=dict)
    encoded: dict[PeerId, NDArray[Any]] = field(default_factory=dict)
    updates: dict[PeerId, str] = field(default_factory=dict)
    shown: dict[tuple[str, PeerId], dict[PeerId, bytes]] = field(default_factory=lambda: defaultdict(dict))


class Recovery:
    """Takes down what leaves peers, and attacks it.

    Args:
        liars: whose shares count only as their own.
        width: bits of a ring element.
    """

    def __init__(self, liars: frozenset[PeerId], width: int) -> None:
        self._liars, self._dtype = liars, np.dtype(f"<u{width // 8}")
        self._places: dict[bytes, _Place] = {}
        self._openers: dict[tuple[int, PeerId], list[Opener]] = defaultdict(list)
        self._dealt: dict[tuple[int, int, PeerId], Dealt] = {}
        self._held: dict[tuple[bytes, PeerId], dict[tuple[str, PeerId], bytes]] = {}

    # ── what leaves ──────────────────────────────────────────────────────────────────────────────────────────────────

    def sent(self, actor: Actor, effect: Send, update: str, encoded: NDArray[Any] | None) -> None:
        """A message leaves a peer that was last given this update, and encoded it so."""
        message, machine, number = effect.message, actor.machine, actor.session.round.number
        match message:
            case Ready():
                self._openers[number, actor.id].append(machine.setting.sealing)
            case Deal():
                self._dealt[number, message.view, actor.id] = machine._dealt
            case Masked() if actor.id not in self._liars and encoded is not None:
                self._masks(actor, message.context, update, encoded)
            case Unmask() if actor.id not in self._liars and message.context in self._places:
                shown = self._places[message.context].shown
                for kind, shares in ((SELF, message.self_shares), (KEY, message.key_shares)):
                    for dealer, share in shares:
                        shown[kind, dealer].setdefault(actor.id, share)

    def _masks(self, actor: Actor, context: bytes, update: str, encoded: NDArray[Any]) -> None:
        machine = actor.machine
        place = self._places.get(context)
        if place is None:
            deals = {peer: machine._deal(peer) for peer in machine.roster}
            place = self._places[context] = _Place(machine._table, actor.session.round.number, deals)
        slices = [actor.driver.blobs.view(blob).view(self._dtype) for blob in machine.own_slices]
        if place.masked.setdefault(actor.id, whole := np.concatenate(slices)) is whole:
            place.encoded[actor.id], place.updates[actor.id] = encoded, update

    # ── what comes out ───────────────────────────────────────────────────────────────────────────────────────────────

    def sums(self, coalition: frozenset[PeerId]) -> dict[frozenset[Member], NDArray[Any]]:
        """The sets of honest updates whose sums a coalition computes, context by context, and the sums."""
        found: dict[frozenset[Member], NDArray[Any]] = {}
        for context, place in self._places.items():
            honest = [peer for peer in place.table.roster if peer not in coalition]
            seeds = self._secrets(context, SELF, honest, coalition)
            if not seeds:
                continue
            secrets = self._secrets(context, KEY, honest, coalition)
            keys = {peer: place.table.suite.mask_key(secret) for peer, secret in secrets.items()}
            hidden = frozenset(honest).difference(keys)  # their pairs hide each other
            for part in (*(frozenset({peer}) for peer in keys), *([hidden] if hidden else [])):
                known = {**keys, **self._own_keys(place, coalition)}
                agreed = part <= keys.keys() or known.keys() >= set(place.table.roster) - part
                if agreed and part <= seeds.keys() and part <= place.masked.keys():
                    total = self._bared(context, part, seeds, known)
                    if np.array_equal(total, _sum(place.encoded[peer] for peer in part)):
                        found[frozenset((peer, place.updates[peer]) for peer in part)] = total
        return found

    def _bared(
        self, context: bytes, part: frozenset[PeerId], seeds: Mapping[PeerId, bytes], keys: Mapping[PeerId, Agreement]
    ) -> NDArray[Any]:
        """The sum of a part's masked vectors without its masks; those between two of the part cancel."""
        place, off = self._places[context], list[Mask]()
        for peer in part:
            off.append(Mask(self_key(seeds[peer], context), -1))
            for other in place.table.roster:
                if other not in part:
                    ours, theirs = (other, peer) if other in keys else (peer, other)
                    low, high = min(peer, other), max(peer, other)
                    pair = keys[ours].agree(place.deals[theirs].mask_public, context, low, high, GROUP)
                    off.append(Mask(pair, -1 if other > peer else 1))
        total = _sum(place.masked[peer] for peer in part)
        apply_masks(total, off)
        return total

    def _own_keys(self, place: _Place, coalition: frozenset[PeerId]) -> dict[PeerId, Agreement]:
        view, suite = place.table.view, place.table.suite
        dealt = {peer: self._dealt.get((place.number, view, peer)) for peer in coalition}
        return {peer: suite.mask_key(one.mask_secret) for peer, one in dealt.items() if one is not None}

    def _secrets(
        self, context: bytes, kind: str, dealers: Iterable[PeerId], coalition: frozenset[PeerId]
    ) -> dict[PeerId, bytes]:
        """What t sound shares of each dealer's give, where it is what the dealer signed."""
        place, found = self._places[context], dict[PeerId, bytes]()
        table, roster = place.table, place.table.roster
        own = {member: self._shares_of(context, member) for member in coalition.intersection(roster)}
        for dealer in dealers:
            signed = share_hashes(place.deals[dealer])[kind]
            given = dict(place.shown.get((kind, dealer), {}))
            given.update({member: held[kind, dealer] for member, held in own.items() if (kind, dealer) in held})
            if len(given) < table.quorum:
                continue
            shares = {
                roster.index(by) + 1: share
                for by, share in given.items()
                if table.share_hash(dealer, by, kind, share) == signed[roster.index(by)]
            }
            if len(shares) >= table.quorum:
                secret = combine(shares, table.quorum)
                if self._dealt_by(place, kind, dealer, secret):
                    found[dealer] = secret
        return found

    @staticmethod
    def _dealt_by(place: _Place, kind: str, dealer: PeerId, secret: bytes) -> bool:
        deal = place.deals[dealer]
        if kind == SELF:
            return place.table.secret_hash(dealer, SELF, secret) == deal.self_hash
        return place.table.suite.mask_key(secret).public == deal.mask_public

    def _shares_of(self, context: bytes, member: PeerId) -> dict[tuple[str, PeerId], bytes]:
        """The shares that honest dealers sealed to a member of a coalition."""
        held = self._held.get((context, member))
        if held is None:
            place = self._places[context]
            position, openers = place.table.roster.index(member), self._openers[place.number, member]
            held = self._held[context, member] = {}
            for dealer, deal in place.deals.items():
                box = _opened(openers, deal.sealed[position], place.table.seal_context(dealer, member))
                if box and dealer not in self._liars:
                    held[SELF, dealer], held[KEY, dealer] = box[:SHARE_BYTES], box[SHARE_BYTES : 2 * SHARE_BYTES]
        return held


def _opened(openers: Iterable[Opener], box: bytes, context: bytes) -> bytes:
    """What is in a box, by whichever key of its receiver's processes opens it."""
    for opener in openers:
        with suppress(SealError):
            return opener.open(box, context)
    return b""


def _sum(vectors: Iterable[NDArray[Any]]) -> NDArray[Any]:
    first, *others = vectors
    return sum(others, first.copy())
