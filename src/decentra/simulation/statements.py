"""The oracle's rules for buckets' means: what is stated, held, relayed and computed of them (BU).

What a holding must name, what holdings give, and what the rule makes of the certified means are computed here anew,
from what came to a peer, and from what each bucket was given to bring.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from decentra.protocols.ballots import LOST
from decentra.protocols.bucketed.messages import Holding, Mean, Relay, Result
from decentra.protocols.survivors import FAIL
from decentra.simulation.case import SURVIVORS, Case, Notes
from decentra.simulation.echoes import combined
from decentra.transfer import blob_root, piece_digests
from decentra.types import PeerId, RoundId, RoundResult
from decentra.wire.codec import Malformed, pack, unpack
from decentra.wire.message import Verified

if TYPE_CHECKING:
    from decentra.simulation.stage import Actor

Certified = Mapping[tuple[RoundId, bytes, str], Mapping[bytes, Sequence[PeerId]]]
"""What honest peers hold certificates of, by round, context and topic: see ``endings``."""


def root_of(row: NDArray[Any]) -> bytes:
    """The root of a vector's blob."""
    data = np.ascontiguousarray(row).view(np.uint8).data
    return blob_root(data.nbytes, piece_digests(data))


class Statements:
    """Judges what honest peers say of buckets' means."""

    def __init__(self, case: Case) -> None:
        self._case = case
        charter = case.stage.cast.charter
        self._buckets, self._c, self._terms = charter.drawn_buckets, charter.bucket_corrupt, charter.protocol
        self._bucket_of = {peer: bucket for bucket in self._buckets for peer in bucket}
        self._came: dict[tuple[PeerId, int], dict[PeerId, tuple[bytes, Mean]]] = defaultdict(dict)
        """What came first of each peer, by whom it came to, and the round."""
        self._said: dict[bytes, dict[PeerId, bytes]] = defaultdict(dict)
        """What honest peers stated of their buckets, by context: the hash."""
        self._sound: dict[tuple[bytes, bytes], tuple[Mean, NDArray[Any]]] = {}
        """By context and hash what honest peers stated, and the mean as it was encoded."""
        self._bodies: dict[bytes, Mean] = {}
        self._named: dict[bytes, dict[PeerId, dict[PeerId, bytes]]] = defaultdict(dict)
        """What honest peers' holdings name, by context and author."""

    # ── what peers take in ───────────────────────────────────────────────────────────────────────────────────────────

    def hear_mean(self, actor: Actor, notes: Notes, verified: Verified, message: Mean) -> None:
        number, hashed = verified.entry.round, verified.body_hash
        notes.vectors[number, verified.sender].add(hashed)
        self._came[actor.id, number].setdefault(verified.sender, (hashed, message))
        self._bodies[hashed] = message

    # ── means and holdings ───────────────────────────────────────────────────────────────────────────────────────────

    def mean(self, actor: Actor, notes: Notes, message: Mean) -> None:
        """What is stated is what this peer's bucket came to; nothing, where it came to that under another common state
        (BU-1, BU-2)."""
        case, machine, context = self._case, actor.machine, message.context
        case.acts_under(actor, notes, context)
        case.durable(actor, "stated", "mean", context + message.root, "BU-1")
        roster = case.rosters.get(context, ())
        absent = [peer for peer in roster if peer not in notes.endorsed[context]]
        if absent or not roster:
            who = "".join(map(case.letter, absent)) or "anyone"
            case.violated("BU-1", actor.id, f"it stated a mean under a context that {who} had not endorsed")
        moved = machine.mine.state != machine.rendezvous.roster.state
        given = actor.vector
        summed = () if given is None or moved else tuple(sorted(given.summed))
        if message.members != summed:
            said = "".join(map(case.letter, message.members)) or "nobody"
            case.violated("BU-2", actor.id, f"it stated a mean of {said}, and its bucket's is none of theirs")
            return
        if not summed:
            if message.root != bytes(32):
                case.violated("BU-2", actor.id, "it stated the mean of nobody")
            return
        row = case.encoded[actor.id, actor.session.round][-1]
        hashed = sha256(case.stage.registry.encode(message)).digest()
        if message.root != root_of(row) or not self._encodes(actor, row):
            case.violated("BU-2", actor.id, "it stated another mean than its bucket's")
        mates = self._said[context]
        for other in self._bucket_of[actor.id]:
            if mates.get(other, hashed) != hashed:
                said = f"it stated another mean than {case.letter(other)}, of the same bucket"
                case.violated("BU-2", actor.id, said)
        mates[actor.id] = hashed
        self._sound[context, hashed] = message, row.view(np.dtype(f"<i{self._terms.width // 8}"))
        self._bodies[hashed] = message

    def _encodes(self, actor: Actor, row: NDArray[Any]) -> bool:
        """Whether this is the mean that a peer was given, each coordinate within a step, and behind it the weight 1."""
        given = None if actor.vector is None else actor.vector.tensors
        values = np.concatenate([np.asarray(one, np.float64).reshape(-1) for one in given or ()])
        (bound,) = set(actor.machine.ranges)
        exact = np.clip(values / bound, -1.0, 1.0) * self._limit
        whole = row.view(np.dtype(f"<i{self._terms.width // 8}")).astype(np.float64)
        return bool(np.all(np.abs(whole[:-1] - exact) <= 1.0 + 1e-6 * self._limit) and whole[-1] == 1)

    @property
    def _limit(self) -> int:
        """The largest coordinate that encoding gives (BU-6)."""
        return int((2 ** (self._terms.width - 1) - 1) // len(self._buckets))

    def holding(self, actor: Actor, notes: Notes, message: Holding) -> None:
        """It names what more members of a bucket than may lie stated to this peer, and as whole what it has (BU-4)."""
        case, stated = self._case, dict(message.stated)
        roster = case.rosters.get(message.context, ())
        came = self._came[actor.id, actor.session.round.number]
        sound = {
            peer: hashed
            for peer, (hashed, mean) in came.items()
            if peer in roster and mean.context == message.context and self._of_enough(mean, self._bucket_of[peer])
        }
        alike = Counter((self._bucket_of[peer][0], hashed) for peer, hashed in sound.items())
        expected = dict(place for place, count in alike.items() if count > self._c)
        # where the journal takes its time, more may have come since this was said
        if stated.items() - expected.items() or (stated != expected and case.stage.hazards.calm):
            case.violated("BU-4", actor.id, "its holding names other means than enough members stated to it")
        for name in message.whole:
            if name not in stated or not self._has(actor, stated[name]):
                said = f"it holds the mean of {case.letter(name)}'s bucket, which is not with it"
                case.violated("BU-4", actor.id, said)
        self._named[message.context][actor.id] = stated

    def _of_enough(self, mean: Mean, bucket: Sequence[PeerId]) -> bool:
        members = set(mean.members)
        return members <= set(bucket) and len(members) == len(mean.members) >= self._c + 2

    def _has(self, actor: Actor, hashed: bytes) -> bool:
        """Whether bytes are at this peer that hash to what is stated: its own, or what came beside a statement."""
        machine, blobs = actor.machine, actor.driver.blobs
        here = [machine._mine, *(received.blob for received in machine.got(Mean.kind).values())]
        roots = {root_of(blobs.view(one)) for one in here if one is not None}
        return hashed in self._bodies and self._bodies[hashed].root in roots

    # ── what holdings give ───────────────────────────────────────────────────────────────────────────────────────────

    def gives(self, shown: Sequence[Verified], context: bytes) -> tuple[bool, bytes | None]:
        """Whether all that is shown are holdings, and which value they give; None where they give none."""
        roster, held, sound = self._case.rosters.get(context, ()), dict[PeerId, dict[PeerId, bytes]](), True
        names = [bucket[0] for bucket in self._buckets]
        for one in shown:
            message = one.message
            if not isinstance(message, Holding) or message.context != context:
                sound = False
                continue
            stated = dict(message.stated)
            if not (set(stated) <= set(names) and set(message.whole) <= set(stated)):
                sound = False
            elif one.sender in roster:
                held.setdefault(one.sender, stated)
        chosen = []
        for name in names:
            alike = Counter(stated[name] for stated in held.values() if name in stated)
            enough = [hashed for hashed, count in alike.items() if count > self._case.c]
            if len(enough) == 1:
                chosen.append((name, enough[0]))
        if len(held) < self._case.quorum(context) or len(chosen) < 2 * self._case.c + 1:
            return sound, None
        witnesses = [peer for peer in roster if peer in held]
        return sound, pack(([name for name, _ in chosen], witnesses, [hashed for _, hashed in chosen]))

    # ── what is certified ────────────────────────────────────────────────────────────────────────────────────────────

    def relay(self, actor: Actor, notes: Notes, message: Relay) -> None:
        """What is relayed is certified, under the root that is certified (BU-5)."""
        for _, means in self._certified(notes, message.context):
            hashed = means.get(message.bucket, b"")
            if hashed in self._bodies and self._bodies[hashed].root == message.root:
                return
        self._case.violated("BU-5", actor.id, "it relayed a mean that it has seen no certificate of")

    def result(self, actor: Actor, notes: Notes, message: Result) -> None:
        """A result is what the rule gives on the certified means (BU-7)."""
        means = dict(self._certified(notes, message.context)).get(message.survivors)
        if means is None:
            self._case.violated("BU-7", actor.id, "it signed a result under survivors that are not certified to it")
            return
        rows = self._rows(message.context, means)
        if rows is not None:
            total, weight = combined(rows, self._terms.rule, self._case.c, self._limit)
            if (weight, root_of(total)) != (message.weight, message.root):
                said = "its result is not what the rule gives on what is certified"
                self._case.violated("BU-7", actor.id, said)

    def _certified(self, notes: Notes, context: bytes) -> Iterator[tuple[bytes, dict[PeerId, bytes]]]:
        """Which means a peer has seen a certificate of, with the hash that votes cite."""
        for under, topic, digest in list(notes.commits):
            value = notes.values.get(digest, FAIL)
            wanted = (under, topic) == (context, SURVIVORS) and value != FAIL
            if wanted and self._case.certified_for(notes, context, topic, digest):
                yield digest, self._read(value)

    def _read(self, value: bytes) -> dict[PeerId, bytes]:
        """The hash of each certified bucket's statement."""
        try:
            match unpack(value, len(value)):
                case (tuple(names), tuple(), tuple(hashes)) if len(names) == len(hashes):
                    return dict(zip(map(PeerId, names), hashes, strict=True))
        except Malformed:
            pass
        self._case.violated("CE-2", None, "what is certified is no set of buckets' means")
        return {}

    def _rows(self, context: bytes, means: Mapping[PeerId, bytes]) -> list[NDArray[Any]] | None:
        """The certified means, each as its bucket's honest members encoded it (BU-2, BU-6); None where one is none of
        theirs."""
        rows = []
        for name, hashed in means.items():
            known = self._sound.get((context, hashed))
            if known is None or name != self._bucket_of[known[0].members[0]][0]:
                said = f"a mean of {self._case.letter(name)}'s bucket is certified that no honest member stated"
                self._case.violated("BU-2", None, said)
                return None
            rows.append(known[1])
        return rows

    # ── how rounds end ───────────────────────────────────────────────────────────────────────────────────────────────

    def finished(self, actor: Actor, outcome: Any, total: NDArray[Any]) -> None:
        """The result is what the rule gives on the means that are certified to this peer, and names whose updates are
        in them (BU-7)."""
        case, machine = self._case, actor.machine
        means = self._read(machine.certify[SURVIVORS].value)
        rows = self._rows(machine.context, means)
        if rows is None:
            return
        expected, weight = combined(rows, self._terms.rule, case.c, self._limit)
        if not np.array_equal(total, expected.view(total.dtype)) or outcome.total_weight != weight:
            case.violated("BU-7", actor.id, "its result is not what the rule gives on the certified means")
        members = {peer for hashed in means.values() for peer in self._bodies[hashed].members}
        if outcome.survivors != tuple(sorted(members)):
            case.violated("BU-7", actor.id, "its result names others than whose updates are in the certified means")

    def close(self, certified: Certified, results: Mapping[RoundId, Sequence[tuple[PeerId, RoundResult]]]) -> None:
        """No mean is left out that honest peers know, nor, where nothing is lost on the way, one that enough of its
        bucket stated (BU-4); and no peer is left without what others have."""
        for (round_id, context, topic), values in certified.items():
            for value in values:
                if topic == SURVIVORS:
                    self._complete(context, {} if value == FAIL else self._read(value), value == FAIL)
                elif self._case.stage.hazards.calm:
                    self._none_is_without(context, value, {peer for peer, _ in results.get(round_id, ())})

    def _complete(self, context: bytes, means: Mapping[PeerId, bytes], failed: bool) -> None:
        holdings = list(self._named[context].values())
        known = set(holdings[0].items()).intersection(*(one.items() for one in holdings)) if holdings else set()
        if self._case.stage.hazards.calm:
            for bucket in self._buckets:
                alike = Counter(self._said[context][peer] for peer in bucket if peer in self._said[context])
                known |= {(bucket[0], hashed) for hashed, count in alike.items() if count > self._c}
        missing = known - set(means.items())
        if missing and (not failed or len(known) > 2 * self._case.c):
            who = "".join(sorted(self._case.letter(name) for name, _ in missing))
            self._case.violated("BU-4", None, f"the means of {who}'s buckets are left out, which all honest peers know")

    def _none_is_without(self, context: bytes, value: bytes, done: set[PeerId]) -> None:
        """Where nothing is lost on the way no liars get a round lost, and who has said what it holds has the result:
        what it lacks is relayed to it (BU-5, BU-8)."""
        if value == LOST:
            self._case.violated("BU-8", None, "a round is certified as lost, though nothing was lost on the way")
            return
        for peer in self._named[context]:
            if peer not in done:
                said = "it has no result, which others have, though nothing was lost on the way"
                self._case.violated("BU-5", peer, said)
