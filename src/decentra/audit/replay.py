"""Self-audit: one's own log replayed with one's own seeds. Every share that was dealt or shown, every mask and every
masked slice is computed again and held against what this peer signed.

It follows the specs by itself and imports no machine. What a peer put into its vector it can't judge.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import numpy as np

from decentra import derive
from decentra.audit.findings import Finding
from decentra.audit.record import Fields, Record, Round, as_fields
from decentra.audit.secrets import DEAL, DealSeeds, Kept
from decentra.crypto.agreement import MaskKey
from decentra.crypto.field import draw_secret
from decentra.crypto.hashing import expand
from decentra.crypto.prg import Mask, apply_masks
from decentra.crypto.ring import Ring
from decentra.crypto.seal import seal
from decentra.crypto.shamir import split
from decentra.errors import LocalError
from decentra.types import PeerId, RoundId
from decentra.wire.codec import Codec
from decentra.wire.frame import PIECE_BYTES
from decentra.wire.reader import Malformed

PROTOCOL = "secagg"
SHOWN = {"unmask": (("self", "self_shares"), ("key", "key_shares")), "beacon": (("beacon", "shares"),)}
"""By message, the shares that it shows: of which secret, in which field."""

CLAUSES = {"unmask": "SA-7", "beacon": "SA-12"}
MEND = "set keep_secrets in [transcripts] of decentra.toml before a run under secagg that you want to replay"


@dataclass
class Replayed:
    """What the replay of one round came to.

    Attributes:
        peer: the name of the one that replays its round.
        shares, masks, slices: how many were computed again and are what this peer signed.
        flaws: what is not, each with its clause.
        missing: what was not kept and is needed.
    """

    session: bytes
    round: int
    peer: str = ""
    shares: int = 0
    masks: int = 0
    slices: int = 0
    flaws: list[tuple[str, str]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Dealt:
    """A deal that was computed again from its seeds, and the two secrets that masks come from."""

    body: bytes = field(repr=False)
    self_seed: bytes = field(repr=False)
    mask_secret: bytes = field(repr=False)


def deal(seeds: DealSeeds, codec: Codec) -> Dealt | None:
    """Draw three secrets, share them, and seal the shares, with the kept randomness (secagg, step 1); None where that
    was never drawn for a deal."""
    place, n = (seeds.session, seeds.round_id, seeds.view), len(seeds.roster)
    random = _again(seeds.drawn)
    try:
        self_seed, mask_secret, part = (draw_secret(random) for _ in range(3))
        kinds = {"self": self_seed, "key": mask_secret, "beacon": part}
        shares = {kind: split(secret, seeds.quorum, n, random) for kind, secret in kinds.items()}
        hashes = (
            tuple(
                derive.share_hash(*place, seeds.roster, seeds.me, receiver, kind, share)
                for receiver, share in zip(seeds.roster, shared, strict=True)
            )
            for kind, shared in shares.items()
        )
        boxes = zip(seeds.roster, seeds.sealing_keys, *shares.values(), strict=True)
        sealed = tuple(
            seal(public, b"".join(box), derive.share_hash(*place, seeds.roster, seeds.me, to, "seal", b""), random)
            for to, public, *box in boxes
        )
        whole = (derive.secret_hash(*place, seeds.me, kind, kinds[kind]) for kind in ("self", "beacon"))
        values = (seeds.view, MaskKey(mask_secret).public, *whole, *hashes, sealed)
        return Dealt(codec.encode(f"{PROTOCOL}.deal", values), self_seed, mask_secret)
    except (ValueError, LocalError):
        return None


def _again(drawn: bytes) -> Callable[[int], bytes]:
    """Randomness that was drawn before, in the same order; less than was asked for where it is at its end."""
    at = 0

    def random(count: int) -> bytes:
        nonlocal at
        at += count
        return drawn[at - count : at]

    return random


def masks(me: PeerId, dealt: Dealt, publics: Mapping[PeerId, bytes], context: bytes) -> tuple[Mask, ...]:
    """The masks of a vector under a context: one's own, and one a pair, added towards those behind in the roster's
    order of ids and taken away towards those before (secagg, step 3)."""
    key = MaskKey(dealt.mask_secret)
    own = Mask(expand(dealt.self_seed, "decentra/self-mask", context, 0), 1)
    pairs = (
        Mask(key.agree(public, context, min(me, peer), max(me, peer), 0), 1 if peer > me else -1)
        for peer, public in publics.items()
        if peer != me
    )
    return (own, *pairs)


def root(data: bytes) -> bytes:
    """What a body signs for a blob (``specs/wire``, Blobs)."""
    pieces = (data[start : start + PIECE_BYTES] for start in range(0, max(1, len(data)), PIECE_BYTES))
    listed = b"".join(sha256(piece).digest() for piece in pieces)
    return sha256(b"decentra blob root v1" + len(data).to_bytes(8, "big") + listed).digest()


class Replay:
    """Replays the rounds that an audit judges, as its ``watch``; what came of it is in ``rounds``.

    Args:
        folder: a peer's ``secrets``.

    Raises:
        LocalError: nothing was kept there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self.me = folder, _owner(folder)
        self.rounds: list[Replayed] = []

    def __call__(self, round_: Round, findings: Sequence[Finding]) -> None:
        """Replay a round, where this peer dealt in it."""
        place = (round_.ground.session, round_.number)
        dealt = [one for one in round_.records if one.author == self.me and one.kind == f"{PROTOCOL}.deal"]
        if dealt and all((one.session, one.round) != place for one in self.rounds):
            self.rounds.append(_Replay(Kept(self._folder, *place), self.me, round_).run(dealt))


def _owner(folder: Path) -> PeerId:
    for path in sorted(folder.glob(f"*-{DEAL}-*")):
        try:
            return DealSeeds.unpack(path.read_bytes()).me
        except (Malformed, OSError):
            continue
    raise LocalError(f"{folder} has no secrets of any round; {MEND}")


class _Replay:
    """The replay of one round."""

    def __init__(self, kept: Kept, me: PeerId, round_: Round) -> None:
        self._kept, self._me, self._round = kept, me, round_
        self._came = Replayed(round_.ground.session, round_.number, round_.ground.name(me))

    def run(self, entries: Sequence[Record]) -> Replayed:
        made: dict[bytes, tuple[DealSeeds, Dealt]] = {}
        for view in self._kept.views():
            seeds = self._kept.seeds(view)
            again = None if seeds is None else deal(seeds, self._round.ground.codec)
            if seeds is not None and again is not None:
                made[sha256(again.body).digest()] = seeds, again
        for entry in entries:
            if entry.entry.body in made:
                self._came.shares += 3 * len(made[entry.entry.body][0].roster)
            elif self._view_of(entry) not in {seeds.view for seeds, _ in made.values()}:
                self._came.missing.append(f"the seeds of a deal: {MEND}")
            else:
                self._came.flaws.append(("SA-1", "its deal is not what its seeds give"))
        for endorsed in self._own("endorse"):
            self._under(endorsed, {seeds.view: again for seeds, again in made.values()})
        return self._came

    def _view_of(self, dealt: Record) -> int | None:
        """The view that a deal is of, by the roster that it names."""
        roster = self._round.find(dealt.entry.after)
        return None if roster is None else roster["view"]

    def _own(self, kind: str) -> list[Record]:
        return [one for one in self._round.of(f"{PROTOCOL}.{kind}") if one.author == self._me]

    def _under(self, endorsed: Record, made: Mapping[int, Dealt]) -> None:
        """What this peer signed under a context that it endorsed."""
        context: bytes = endorsed["context"]
        roster, listed = self._round.roster(self._me, context), self._round.find(endorsed.entry.after)
        if roster is None or listed is None or listed.body is None:
            self._came.missing.append("the roster or the deals of a context: add this peer's whole folder")
            return
        members, view = tuple(map(PeerId, roster["members"])), roster["view"]
        if self._me not in members:
            self._came.flaws.append(("SA-2", "it endorsed a context of a roster that it is not in"))
            return
        bodies = self._kept.deals(view)
        if bodies is None or view not in made:
            self._came.missing.append(f"the deals that it opened: {MEND}")
            return
        if tuple(sha256(bodies.get(peer, b"")).digest() for peer in members) != listed["deals"]:
            self._came.flaws.append(("SA-2", "it endorsed a context of other deals than it opened"))
            return
        try:
            deals = {peer: as_fields(self._round.ground, f"{PROTOCOL}.deal", bodies[peer]) for peer in members}
        except Malformed as error:
            self._came.flaws.append(("SA-1", f"it opened what is no deal: {error}"))
            return
        for said in SHOWN:
            for record in self._own(said):
                if record["context"] == context:
                    self._shares(record, said, members, view, deals)
        keys = masks(self._me, made[view], {peer: deals[peer]["mask_public"] for peer in members}, context)
        for record in self._own("masked"):
            if record["context"] == context:
                self._slices(record, keys, len(members))

    def _shares(
        self, record: Record, said: str, members: tuple[PeerId, ...], view: int, deals: Mapping[PeerId, Fields]
    ) -> None:
        """SA-7 and SA-12: what it showed of each dealer is what that one dealt it."""
        round_, position = self._round, members.index(self._me)
        place = (round_.ground.session, RoundId(round_.ground.epoch, round_.number), view, members)
        for kind, name in SHOWN[said]:
            for dealer, share in record[name]:
                listed = deals[dealer][f"{kind}_share_hashes"] if dealer in deals else ()
                hashed = derive.share_hash(*place, dealer, self._me, kind, share)
                if position < len(listed) and listed[position] == hashed:
                    self._came.shares += 1
                else:
                    dealt = f"the {kind} share of {round_.ground.name(dealer)}"
                    self._came.flaws.append((CLAUSES[said], f"{dealt} that it showed is not what it was dealt"))

    def _slices(self, record: Record, keys: Sequence[Mask], n: int) -> None:
        """SA-10: the slices that it signed are its vector under its masks."""
        raw, dtype = self._kept.vector(), Ring(self._round.ground.charter.protocol.width).dtype
        if raw is None or len(raw) % dtype.itemsize:
            self._came.missing.append(f"its encoded vector: {MEND}")
            return
        vector = np.frombuffer(raw, dtype.newbyteorder("<")).astype(dtype)
        apply_masks(vector, keys)
        given = tuple(root(vector[low:high].tobytes()) for low, high in derive.slice_bounds(vector.size, n))
        if given != record["roots"]:
            self._came.flaws.append(("SA-10", "its slices are not its vector under the masks of its deal"))
            return
        self._came.masks += len(keys)
        self._came.slices += n
        for again in self._own("again"):
            if again["context"] == record["context"] and again["root"] not in given[again["slice"] :][:1]:
                self._came.flaws.append(("SA-10", f"it repeated another slice {again['slice']} than it signed"))
