"""The oracle's rules for how rounds end: who is named, and what they come to (RV-6, CE-5, SA-9, SA-13)."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from decentra.charter.policy import SHARED
from decentra.errors import RemoteError
from decentra.machine.effects import Abort, Blame
from decentra.simulation.case import SURVIVORS, Case, Notes, members_of
from decentra.simulation.echoes import combined
from decentra.simulation.shares import Shares
from decentra.simulation.statements import Statements
from decentra.types import PeerId, RoundId, RoundResult

if TYPE_CHECKING:
    from decentra.simulation.stage import Actor


class Endings:
    """Judges what rounds came to, at each honest peer and all of them together.

    Attributes:
        certified: what honest peers hold certificates of, by round, context and topic.
    """

    def __init__(self, case: Case, statements: Statements, shares: Shares) -> None:
        self._case, self._statements, self._shares = case, statements, shares
        self.certified: dict[tuple[RoundId, bytes, str], dict[bytes, list[PeerId]]] = {}
        self._totals: list[tuple[PeerId, RoundId, NDArray[Any], tuple[PeerId, ...], int]] = []
        self._results: dict[RoundId, list[tuple[PeerId, RoundResult]]] = defaultdict(list)
        self._states: dict[RoundId, dict[bytes, PeerId]] = defaultdict(dict)

    # ── as they end ──────────────────────────────────────────────────────────────────────────────────────────────────

    def blamed(self, actor: Actor, notes: Notes, effect: Blame | Abort) -> None:
        """No honest peer names an honest peer, unless it only reports what another said of it."""
        case, error = self._case, effect.error
        if isinstance(effect, Abort):
            self._note_certified(actor)
        notes.named.add((actor.session.round.number, getattr(error, "peer", None)))
        if not isinstance(error, RemoteError) or error.reason.endswith("reports)"):
            return
        if error.peer in case.notes:
            who = "itself" if error.peer == actor.id else f"honest {case.letter(error.peer)}"
            case.violated("ACCURACY", actor.id, f"it names {who} under {error.clause}: {error.reason}")

    def finished(self, actor: Actor, outcome: Any) -> None:
        """A weight that the survivors can have (SA-9), and sums that stand the challenge (SA-13)."""
        self._note_certified(actor)
        machine, count = actor.machine, len(outcome.survivors)
        width = self._case.stage.cast.charter.protocol.width // 8
        total = actor.driver.blobs.view(outcome.total).view(np.dtype(f"<u{width}")).copy()
        if machine.protocol == "bucketed":
            self._statements.finished(actor, outcome, total)
            return
        if machine.protocol == SHARED:
            self._shares.finished(actor, outcome, total)
            return
        if not count <= outcome.total_weight <= count * machine.setting.max_weight:
            said = f"its result weighs {outcome.total_weight}, which {count} survivors cannot"
            self._case.violated("SA-9", actor.id, said)
        self._totals.append((actor.id, actor.session.round, total, outcome.survivors, outcome.total_weight))
        only_sums = self._case.stage.spoils == "sums" and self._case.stage.hazards.calm
        if only_sums and getattr(machine, "_challenge", None) is not None:
            self._picked(actor, outcome.survivors, total)

    def _note_certified(self, actor: Actor) -> None:
        machine = actor.machine
        if machine is None:
            return
        for topic, vote in machine.certify.items():
            if vote.certificate:
                held = self.certified.setdefault((machine.round, machine.context, topic), {})
                held.setdefault(vote.value, []).append(actor.id)

    def _picked(self, actor: Actor, survivors: tuple[PeerId, ...], total: NDArray[Any]) -> None:
        """A sum that an honest verifier recomputed is right in the result; one that nobody could, may stand."""
        case, machine = self._case, actor.machine
        honest = [other for other in case.stage.actors if other.id in case.notes and other.machine is not None]
        challenges = [other.machine._challenge for other in honest]
        expected = case.sum_of(survivors, machine.round)
        for position in machine._challenge.slices:
            low, high = machine.bounds[position]
            recomputed = any(one is not None and position in one.sums for one in challenges)
            if recomputed and expected is not None and not np.array_equal(total[low:high], expected[low:high]):
                case.violated("SA-13", actor.id, f"a false sum of slice {position} stands")

    def result(self, actor: Actor, result: RoundResult) -> None:
        self._results[result.round].append((actor.id, result))
        held = self._states[result.round]
        held.setdefault(actor.session.common.digest(), actor.id)
        if len(held) > 1:
            self._case.violated("RV-6", actor.id, "it holds another common state after a round than those it was with")

    # ── at the end ───────────────────────────────────────────────────────────────────────────────────────────────────

    def close(self) -> None:
        """Judge the schedule as a whole."""
        self._one_value()
        self._one_result()
        self._exact_sums()
        self._write_once()
        self._two_vectors_are_named()
        if self._case.stage.play.protocol == "bucketed":
            self._statements.close(self.certified, self._results)
        self._shares.close(self.certified)

    def _one_value(self) -> None:
        contexts: dict[RoundId, set[bytes]] = defaultdict(set)
        for (round_id, context, topic), values in self.certified.items():
            if len(values) > 1:
                who = " and ".join("".join(map(self._case.letter, peers)) for peers in values.values())
                self._case.violated("CE-5", None, f"two values of {topic!r} are certified, at {who}")
            if topic == SURVIVORS:
                contexts[round_id].add(context)
        for round_id, several in contexts.items():
            if len(several) > 1:
                self._case.violated("SA-2", None, f"two contexts of round {round_id} are certified")

    def _one_result(self) -> None:
        for results in self._results.values():
            (first, expected), *others = results
            for peer, result in others:
                same = (
                    result.digest == expected.digest
                    and result.participants == expected.participants
                    and result.total_weight == expected.total_weight
                    and [one.tobytes() for one in result.values] == [one.tobytes() for one in expected.values]
                )
                if not same:
                    self._case.violated("SA-9", peer, f"its result is not {self._case.letter(first)}'s")

    def _exact_sums(self) -> None:
        case, stage = self._case, self._case.stage
        for peer, round_id, total, survivors, weight in self._totals:
            if stage.play.protocol == "secagg" and len(survivors) - case.c < 2:
                case.violated("SA-6", peer, f"a sum over {len(survivors)} is out")
            if stage.spoils and not case.liars.isdisjoint(survivors):
                continue
            idle = [one for one in survivors if not case.encoded[one, round_id]]
            expected = case.sum_of(survivors, round_id)
            if expected is not None and stage.play.protocol == "mesh":
                expected = self._combined(survivors, round_id)
            if idle or expected is None:
                who = "".join(map(case.letter, idle)) or "nobody"
                case.violated("SA-9", peer, f"its sum names {who}, which encoded nothing")
            elif not np.array_equal(total, expected) or weight != len(survivors):
                case.violated("SA-9", peer, "its sum is not that of the survivors' vectors")

    def _combined(self, used: tuple[PeerId, ...], round_id: RoundId) -> NDArray[Any]:
        """What mesh's rule gives on what these peers encoded; who else survived sent what no encoding gives."""
        case, terms = self._case, self._case.stage.cast.charter.protocol
        places = [place for place in self.certified if place[::2] == (round_id, SURVIVORS)]
        held = {place[1]: list(self.certified[place]) for place in places}
        among = max(len(members_of(value)) for values in held.values() for value in values)
        rows = [case.encoded[peer, round_id][-1].view(np.dtype(f"<i{terms.width // 8}")) for peer in used]
        limit = (2 ** (terms.width - 1) - 1) // max(len(case.rosters.get(context, ())) for context in held)
        total, _ = combined(rows, terms.rule, max(0, case.c - among + len(used)), limit)
        return total.view(case.encoded[used[0], round_id][-1].dtype)

    def _write_once(self) -> None:
        """No one-time act is in a peer's journal twice, over all its processes."""
        for actor in self._case.stage.actors:
            if actor.id not in self._case.notes:
                continue
            seen: set[tuple[RoundId, str, str]] = set()
            for round_id, record in actor.journal.records:
                key = (round_id, record.kind, record.topic)
                if key in seen:
                    self._case.violated("SA-5", actor.id, f"{record.kind} {record.topic} is in its journal twice")
                seen.add(key)

    def _two_vectors_are_named(self) -> None:
        """Who was sent two different vectors by a peer in one round names somebody for it."""
        for peer, notes in self._case.notes.items():
            for (number, sender), hashes in notes.vectors.items():
                if len(hashes) > 1 and (number, sender) not in notes.named:
                    said = f"it saw two vectors of {self._case.letter(sender)}'s in a round and named nobody"
                    self._case.violated("EQUIVOCATION", peer, said)
