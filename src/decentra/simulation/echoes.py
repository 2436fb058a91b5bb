"""The oracle's rules for whole updates: what is held, relayed and computed of them, and what is shown of that (ME)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from decentra.protocols.agreed import Agreed
from decentra.protocols.mesh.messages import Holding, Relay, Result, Update
from decentra.protocols.survivors import FAIL
from decentra.robust import exact
from decentra.simulation.case import SURVIVORS, Case, Notes
from decentra.transfer import blob_root, piece_digests
from decentra.types import PeerId
from decentra.wire.codec import Malformed
from decentra.wire.message import Verified

if TYPE_CHECKING:
    from decentra.simulation.stage import Actor


def combined(rows: Sequence[NDArray[Any]], rule: str, c: int, limit: int) -> tuple[NDArray[Any], int]:
    """What the rule gives on encoded updates in the order of their authors' ids, and how many are in it (ME-5)."""
    wide = [row.astype(np.int64) for row in rows]
    sound = [row for row in wide if row[-1] == 1 and np.abs(row[:-1]).max(initial=0) <= limit]
    left = [row[:-1].astype(rows[0].dtype) for row in sound]
    total = np.full(rows[0].size, len(left), rows[0].dtype)
    if left and left[0].size:
        total[:-1] = exact.aggregate(left, rule, max(0, c - len(rows) + len(left)))
    return total, len(left)


class Echoes:
    """Judges what honest peers say of others' updates."""

    def __init__(self, case: Case) -> None:
        self._case = case

    # ── what peers take in ───────────────────────────────────────────────────────────────────────────────────────────

    def hear_update(self, actor: Actor, notes: Notes, verified: Verified, message: Update) -> None:
        notes.vectors[verified.entry.round, verified.sender].add(verified.body_hash)

    def hear_relay(self, actor: Actor, notes: Notes, verified: Verified, message: Relay) -> None:
        cited = message.update
        if isinstance(cited.message, Update) and cited.sender == message.author:
            notes.vectors[cited.entry.round, cited.sender].add(cited.body_hash)

    # ── what they sign ───────────────────────────────────────────────────────────────────────────────────────────────

    def holding(self, actor: Actor, notes: Notes, message: Holding) -> None:
        """Whoever is named, signed that update to this peer."""
        number, held = actor.session.round.number, dict(message.held)
        for peer, hashed in held.items():
            if hashed not in notes.vectors[number, peer]:
                who = self._case.letter(peer)
                self._case.violated("ME-3", actor.id, f"it holds an update of {who}'s that did not come to it")
        if actor.id not in held:
            self._case.violated("ME-3", actor.id, "its holding does not name itself")

    def relay(self, actor: Actor, notes: Notes, message: Relay) -> None:
        """What is relayed is certified."""
        certified = list(self._certified(notes, message.context))
        if not any(one.updates.get(message.author) == message.update.body_hash for _, one in certified):
            self._case.violated("ME-4", actor.id, "it relayed an update that it has seen no certificate of")

    def result(self, actor: Actor, notes: Notes, message: Result) -> None:
        """A result is what the rule gives on what the certified authors signed, by a computation of the oracle's."""
        agreed = dict(self._certified(notes, message.context)).get(message.survivors)
        if agreed is None:
            self._case.violated("ME-6", actor.id, "it signed a result under survivors that are not certified to it")
            return
        rows = [self._row(actor, peer) for peer in agreed.members]
        terms, n = self._case.stage.cast.charter.protocol, len(self._case.rosters.get(message.context, ()))
        total, weight = combined(rows, terms.rule, terms.c, (2 ** (terms.width - 1) - 1) // n)
        data = np.ascontiguousarray(total).view(np.uint8).data
        if (weight, blob_root(data.nbytes, piece_digests(data))) != (message.weight, message.root):
            self._case.violated("ME-6", actor.id, "its result is not what the rule gives on what is certified")

    def _certified(self, notes: Notes, context: bytes) -> Iterator[tuple[bytes, Agreed]]:
        """Of which survivors a peer has seen a certificate, with the hash that votes cite."""
        for under, topic, digest in list(notes.commits):
            value = notes.values.get(digest, FAIL)
            if (under, topic) != (context, SURVIVORS) or value == FAIL:
                continue
            if not self._case.certified_for(notes, context, topic, digest):
                continue
            try:
                yield digest, Agreed.unpack(value)
            except Malformed:
                self._case.violated("CE-2", None, "what is certified is no set of survivors")

    def _row(self, actor: Actor, peer: PeerId) -> NDArray[Any]:
        """An honest peer's update as it was encoded; a liar's as it came, which must hash to what is certified."""
        machine, signed = actor.machine, np.dtype(f"<i{self._case.stage.cast.charter.protocol.width // 8}")
        if peer not in self._case.liars:
            return self._case.encoded[peer, machine.round][-1].view(signed)
        data = actor.driver.blobs.view(machine.rows[peer])
        root, hashed = blob_root(data.nbytes, piece_digests(data.data)), machine.survivors.updates[peer]
        body = self._case.stage.registry.encode(Update(machine.context, root))
        if sha256(body).digest() != hashed:
            self._case.violated("ME-2", actor.id, f"it took other bytes for {self._case.letter(peer)}'s update")
        return data.view(signed)
