"""What one context of shamir-gram comes to, as its specification says it: from what was dealt, told and shown under it.

Every value that is voted on, and everything that a holder tells, is computed here anew (``recount``), from the blobs
that honest holders have of each deal. Those of liars are taken as they dealt them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decentra import derive
from decentra.crypto.shares.field61 import PRIME
from decentra.crypto.shares.streams import uniform
from decentra.errors import LocalError
from decentra.protocols.sharing import Table
from decentra.robust import shared
from decentra.simulation import recount
from decentra.transfer import blob_root, piece_digests
from decentra.types import PeerId
from decentra.wire.codec import pack

KEY_BYTES, ELEMENT_BYTES = 32, 8
PACKED = 16
"""The fewest peers among whom there is more than one slot."""

Values = tuple[Sequence[int], Sequence[int]]
"""What a holder's check tells, of each survivor: of its share, and of its sharing of zero."""

Pair = tuple[PeerId, PeerId]
"""A dealer and a receiver."""


@dataclass(frozen=True)
class Row:
    """What a dealer dealt a receiver: its share, the blind last, and its shares of zero."""

    share: tuple[int, ...]
    zeros: tuple[int, ...]


@dataclass(frozen=True)
class Agreed:
    """The certified survivors: whose deals count, the holders of all of them, and the deals' hashes."""

    dealers: tuple[PeerId, ...]
    holders: tuple[PeerId, ...]
    hashes: Mapping[PeerId, bytes]


@dataclass(frozen=True)
class Stands:
    """What checks come to: the dealers, sharings of zero and holders that stand, and who is proved to lie."""

    dealers: tuple[PeerId, ...]
    zeros: tuple[PeerId, ...]
    holders: tuple[PeerId, ...]
    proved: tuple[PeerId, ...]


@dataclass(frozen=True)
class Weighed:
    """What words come to: the matrix' hash, the dealers that are left, their weights, the holders of true words, and
    who is proved to lie."""

    gram: bytes
    dealers: tuple[PeerId, ...]
    weights: tuple[int, ...]
    holders: tuple[PeerId, ...]
    proved: tuple[PeerId, ...]


def root_of(data: NDArray[Any]) -> bytes:
    """The root of a blob."""
    flat = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
    return blob_root(flat.nbytes, piece_digests(flat.data))


def elements(data: bytes) -> tuple[int, ...]:
    """8 little-endian bytes each."""
    return tuple(map(int, np.frombuffer(data, "<u8")))


class Dealt:
    """The numbers of a roster, and what was dealt under a context.

    Args:
        table: where deals are played, with the roster.
        c: how many may lie.
        d: coordinates of an update.
        rule: the charter's.
    """

    def __init__(self, table: Table, c: int, d: int, rule: str) -> None:
        self.table, self.c, self.d, self.rule = table, c, d, rule
        self.roster, self.n = table.roster, len(table.roster)
        self.slots = 1 if self.n < PACKED else max(1, (self.n - 4 * c + 1) // 2)
        self.degree, self.products = c + self.slots - 1, 2 * (c + self.slots - 1)
        self.size = -(-d // self.slots)
        self.rows: dict[bytes, dict[PeerId, Row]] = {}
        """By a deal's hash and its holder, what honest holders have of it."""
        self.beacon = b""
        self._sketches: dict[tuple[bytes, PeerId], recount.Sketched] = {}
        self._vectors: dict[tuple[bytes, tuple[PeerId, ...]], tuple[int, ...] | None] = {}

    # ── numbers ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def point(self, peer: PeerId) -> int:
        return self.roster.index(peer) + 1

    @property
    def fewest(self) -> tuple[int, int]:
        """Of dealers and of holders."""
        quorum = derive.quorum(self.n, self.c)
        return max(quorum, 2 * self.c + 2), max(quorum, 3 * self.c + 2 * self.slots - 1)

    @property
    def most(self) -> int:
        """q_max: the largest coordinate that encoding gives."""
        root = isqrt(self.d - 1) + 1 if self.d > 1 else 1
        m = self.n
        while ((1 << 31) - 1) // m * root > recount.RADIUS:
            limit = recount.RADIUS // root
            m = max(m + 1, ((1 << 31) - 1) // (limit + 1) + 1)
        return ((1 << 31) - 1) // m

    def liars(self, proved: Sequence[PeerId]) -> int:
        return max(0, self.c - len(proved))

    # ── blobs ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def read(self, dealer: PeerId, receiver: PeerId, data: bytes) -> Row | None:
        """What a blob deals; None where it has another length, or a number in it is no element."""
        seeded = 1 <= (self.point(receiver) - self.point(dealer)) % self.n <= self.c
        first = KEY_BYTES if seeded else ELEMENT_BYTES * (self.size + 1)
        if len(data) != first + ELEMENT_BYTES * (self.n * (self.n + 1) // 2 + 1):
            return None
        share = tuple(map(int, uniform(data[:first], self.size + 1))) if seeded else elements(data[:first])
        row = Row(share, elements(data[first:]))
        return row if all(value < PRIME for value in (*row.share, *row.zeros)) else None

    def lies_on_polynomials(self, hashed: bytes, holders: Iterable[PeerId]) -> bool:
        """Whether what these hold of a deal is of its degrees, and its sharing of zero one."""
        rows = {self.point(peer): self.rows[hashed][peer] for peer in holders}
        shares = zip(*(row.share for row in rows.values()), strict=True)
        zeros = zip(*(row.zeros for row in rows.values()), strict=True)
        if not all(recount.fits(dict(zip(rows, column, strict=True)), self.degree) for column in shares):
            return False
        for column in zeros:
            values = dict(zip(rows, column, strict=True))
            slots = (recount.value_at(values, self.products, at) for at in recount.slot_points(self.slots))
            if not recount.fits(values, self.products) or sum(slots) % PRIME:
                return False
        return True

    def vector(self, hashed: bytes, holders: Iterable[PeerId]) -> tuple[int, ...] | None:
        """The vector that a deal is of, by what these hold; None where it is of none."""
        key = hashed, tuple(holders)
        if key not in self._vectors:
            self._vectors[key] = self._opened({self.point(peer): self.rows[hashed][peer].share for peer in key[1]})
        return self._vectors[key]

    def _opened(self, rows: Mapping[int, Sequence[int]]) -> tuple[int, ...] | None:
        found: list[int] = []
        for column in zip(*(row[:-1] for row in rows.values()), strict=True):
            values = dict(zip(rows, column, strict=True))
            if not recount.fits(values, self.degree):
                return None
            slots = (recount.value_at(values, self.degree, at) for at in recount.slot_points(self.slots))
            found += map(recount.signed, slots)
        return tuple(found[: self.d])

    # ── the survivors (SG-3, CE-2) ───────────────────────────────────────────────────────────────────────────────────

    def survivors(self, named: Mapping[PeerId, Mapping[PeerId, bytes]]) -> bytes | None:
        """The value that shown holdings give; None where they leave too few."""
        hashes: dict[PeerId, bytes] = {}
        for peer in self.roster:
            counts = Counter(held[peer] for held in named.values() if peer in held)
            often = [hashed for hashed, count in counts.items() if count > self.c]
            if len(often) == 1:
                hashes[peer] = often[0]
        dealers, holders = list(hashes), [peer for peer in self.roster if peer in named]
        while len(dealers) >= self.fewest[0] and len(holders) >= self.fewest[1]:
            pairs = [(i, h) for i in dealers for h in holders if named[h].get(i) != hashes[i]]
            if not pairs:
                return pack((dealers, holders, [hashes[peer] for peer in dealers]))
            worst_dealer = max(dealers, key=lambda peer: sum(i == peer for i, _ in pairs))
            worst_holder = max(holders, key=lambda peer: sum(h == peer for _, h in pairs))
            lacked = sum(i == worst_dealer for i, _ in pairs)
            lacks = sum(h == worst_holder for _, h in pairs)
            spares = len(dealers) > self.fewest[0], len(holders) > self.fewest[1]
            if spares[1] and (lacks > lacked or not spares[0]):
                holders.remove(worst_holder)
            else:
                dealers.remove(worst_dealer)
        return None

    # ── checks (SG-5, SG-6) ──────────────────────────────────────────────────────────────────────────────────────────

    def tells(self, row: Row) -> tuple[int, int]:
        """What a holder tells of what one dealer dealt it."""
        return (
            recount.combination(row.share, self.beacon, recount.DEGREE, blinded=True),
            recount.combination(row.zeros, self.beacon, recount.ZERO, blinded=True),
        )

    def stands(
        self, agreed: Agreed, told: Mapping[PeerId, Values], shown: Mapping[Pair, Row | None]
    ) -> Stands | None:
        """What the checks of some holders come to, with the blobs that were shown; None where they leave too few."""
        proved, out, bare, silent = set[PeerId](), set[PeerId](), set[PeerId](), set[PeerId]()
        for place, dealer in enumerate(agreed.dealers):
            wrong = self._suspects(told, place)
            if wrong is None:
                out.add(dealer)
                continue
            suspects, hides = wrong
            if suspects is None:
                proved.add(dealer)
                continue
            if not hides:
                bare.add(dealer)
            for holder in suspects:
                if (dealer, holder) not in shown:
                    silent.add(holder)
                    continue
                row = shown[dealer, holder]
                said = told[holder][0][place], told[holder][1][place]
                proved.add(dealer if row is None or self.tells(row) == said else holder)
        dealers = tuple(peer for peer in agreed.dealers if peer not in out | proved)
        zeros = tuple(peer for peer in dealers if peer not in bare)
        holders = tuple(peer for peer in agreed.holders if peer in told and peer not in proved | silent)
        liars = self.liars(tuple(proved))
        enough = len(holders) >= self.products + 1 + liars and len(zeros) > self.c
        if not enough or shared.misfit(self.rule, len(dealers), liars, self.c) is not None:
            return None
        return Stands(dealers, zeros, holders, tuple(peer for peer in self.roster if peer in proved))

    def _suspects(
        self, told: Mapping[PeerId, Values], place: int
    ) -> tuple[tuple[PeerId, ...] | None, bool] | None:
        """Whose word of a deal fits no others', None where the deal is bad whoever lied, and whether its sharing of
        zero hides; nothing where it can't be told."""
        words = [{self.point(peer): values[kind][place] for peer, values in told.items()} for kind in (0, 1)]
        found, zero = recount.decoded(words[0], self.degree, self.c), recount.decoded(words[1], self.products, self.c)
        sure = [recount.spare(len(told), degree, self.c) == self.c for degree in (self.degree, self.products)]
        if found is None:
            return (None, False) if sure[0] else None
        if zero is None:
            return (None, False) if sure[1] else (self._at(found.wrong), False)
        slots = (recount.value_at(zero.values, self.products, at) for at in recount.slot_points(self.slots))
        if sum(slots) % PRIME:
            return None, False
        return self._at({*found.wrong, *zero.wrong}), True

    def _at(self, points: Iterable[int]) -> tuple[PeerId, ...]:
        return tuple(self.roster[x - 1] for x in sorted(points))

    # ── words (SG-7, SG-8) ───────────────────────────────────────────────────────────────────────────────────────────

    def word(self, agreed: Agreed, stands: Stands, holder: PeerId) -> list[int]:
        """A holder's word of the products."""
        hashes, places = agreed.hashes, [self.point(peer) - 1 for peer in stands.dealers]
        sketches = [self._sketch(hashes[peer], holder) for peer in stands.dealers]
        zeros = [self.rows[hashes[peer]][holder].zeros for peer in stands.zeros]
        out = []
        for one, i in enumerate(places):
            for other, j in enumerate(places[one:], one):
                entry = i * self.n - i * (i - 1) // 2 + j - i
                hidden = sum(zero[entry] for zero in zeros)
                out.append((recount.inner(sketches[one], sketches[other]) + hidden) % PRIME)
        return out

    def _sketch(self, hashed: bytes, holder: PeerId) -> recount.Sketched:
        if (hashed, holder) not in self._sketches:
            self._sketches[hashed, holder] = recount.sketched(self.rows[hashed][holder].share[:-1], self.beacon)
        return self._sketches[hashed, holder]

    def weighed(self, stands: Stands, words: Mapping[PeerId, Sequence[int]]) -> Weighed | None:
        """What the words of some holders come to; None where these don't tell, or leave too few."""
        count, liars = len(stands.dealers), self.liars(stands.proved)
        opened = recount.matrix(
            {self.point(peer): word for peer, word in words.items()}, count, self.products, self.slots, liars
        )
        if opened is None:
            return None
        gram, wrong = opened
        plausible = recount.short(gram, count, liars)
        false = {stands.dealers[i] for i in range(count) if i not in plausible}
        proved = {*stands.proved, *self._at(wrong), *false}
        left = [i for i, peer in enumerate(stands.dealers) if peer not in proved]
        f = self.liars(tuple(proved))
        holders = tuple(peer for peer in stands.holders if peer in words and peer not in proved)
        if shared.misfit(self.rule, len(left), f, self.c) is not None or len(holders) < self.degree + 1 + f:
            return None
        rows = [[gram[min(i, j), max(i, j)] for j in left] for i in left]
        try:
            weights = shared.weigh(rows, self.rule, f, self.c)
        except LocalError:
            return None
        return Weighed(
            recount.gram_hash(gram, left),
            tuple(stands.dealers[i] for i in left),
            weights,
            holders,
            tuple(peer for peer in self.roster if peer in proved),
        )

    # ── the sum (SG-9 to SG-12) ──────────────────────────────────────────────────────────────────────────────────────

    def share_of_sum(self, agreed: Agreed, weighed: Weighed, holder: PeerId) -> list[int]:
        """A holder's share of the weighted sum."""
        rows = [self.rows[agreed.hashes[peer]][holder].share for peer in weighed.dealers]
        columns = zip(*(row[:-1] for row in rows), strict=True)
        return [
            sum(w * value for w, value in zip(weighed.weights, column, strict=True)) % PRIME
            for column in columns
        ]

    def total(self, vectors: Sequence[Sequence[int]], weights: Sequence[int]) -> list[int]:
        """The weighted sum, as it can be opened."""
        columns = zip(*vectors, strict=True)
        return [
            recount.signed(sum(w * x for w, x in zip(weights, column, strict=True))) for column in columns
        ]

    def bounds(self, weighed: Weighed) -> tuple[tuple[int, int], ...]:
        """Of each owner's slice, in elements."""
        return derive.slice_bounds(self.size, len(weighed.holders))

    def slices(self, total: Sequence[int], weighed: Weighed) -> list[NDArray[np.int64]]:
        """The sum's slices as their owners publish them."""
        whole = np.array(total, np.int64)
        return [whole[low * self.slots : high * self.slots] for low, high in self.bounds(weighed)]

    def wraps(self, total: Sequence[int], vectors: Sequence[Sequence[int]], weights: Sequence[int]) -> bool:
        """Whether a coordinate of the sum is beyond what counts, or it is not as long as the matrix says."""
        if any(abs(value) > sum(weights) * recount.RADIUS for value in total):
            return True
        told = sum(
            weights[i] * weights[j] * entry * (1 if i == j else 2) for (i, j), entry in self.gram(vectors).items()
        )
        return sum(recount.inner(one, one) for one in recount.slots_sketched(total, self.beacon, self.slots)) != told

    def gram(self, vectors: Sequence[Sequence[int]]) -> recount.Gram:
        """The matrix that is opened of these vectors."""
        sketches = [recount.slots_sketched(one, self.beacon, self.slots) for one in vectors]
        count = len(sketches)
        return {(i, j): recount.product(sketches[i], sketches[j]) for i in range(count) for j in range(i, count)}

    def result(self, total: Sequence[int], weights: Sequence[int]) -> list[int]:
        """The round's result of k dealers: Σ · k / Σw, rounded half to even, cut to ±k · q_max; and behind it k."""
        k, weight, out = len(weights), sum(weights), []
        for value in total:
            quotient, rest = divmod(k * value, weight)
            quotient += 2 * rest > weight or (2 * rest == weight and quotient % 2)
            out.append(max(-k * self.most, min(k * self.most, quotient)))
        return [*out, k]
