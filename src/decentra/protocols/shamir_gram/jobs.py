"""The heavy work of a shamir-gram round, as jobs for the pool: deal, take in, check, sketch, multiply, weigh, open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decentra import memory
from decentra.crypto.agreement import draw_secret
from decentra.crypto.prg import KEY_BYTES
from decentra.crypto.ring import Ring, encode
from decentra.crypto.seal import SealError
from decentra.crypto.shamir import split
from decentra.crypto.shares.checks import degree_values, without_blind
from decentra.crypto.shares.combine import Bounds, Judged, beyond, combined, fits_gram, judge_slices, open_slice, told
from decentra.crypto.shares.deal import deal
from decentra.crypto.shares.decoding import Undecided
from decentra.crypto.shares.field61 import CHUNK, ELEMENT_BYTES, PRIME, Elements, check_elements, to_bytes
from decentra.crypto.shares.gram import Gram, deal_zero, hidden, products, zero_values
from decentra.crypto.shares.quanta import MAX_RADIUS
from decentra.crypto.shares.sharing import BLINDS
from decentra.crypto.shares.sketch import SIZE, sketch
from decentra.crypto.shares.streams import Row
from decentra.crypto.suite import Opener
from decentra.machine.effects import Tools
from decentra.machine.events import Blob
from decentra.protocols.beacon import BEACON
from decentra.protocols.jobs import Assembled
from decentra.protocols.shamir_gram.terms import WIDTH, Terms
from decentra.protocols.sharing import SHARE_BYTES, Table
from decentra.types import PeerId

SECRET_BYTES = 32


@dataclass(frozen=True)
class Dealt:
    """What a dealer sends: each receiver's blob in roster order, and its part of the beacon; ``own`` is its own share
    of that."""

    blobs: tuple[Blob, ...]
    beacon_hash: bytes
    share_hashes: tuple[bytes, ...]
    sealed: tuple[bytes, ...]
    own: bytes = field(repr=False)
    clipped: int = 0


@dataclass(frozen=True)
class DealUpdate:
    """Job: encode this peer's update, share it and sharings of zero, and deal a part of the beacon.

    Raises LocalError for NaN or infinity.
    """

    terms: Terms
    table: Table
    me: PeerId
    update: Sequence[NDArray[np.float32]] = field(repr=False)
    residual: Sequence[NDArray[np.float32]] | None = field(repr=False)
    ranges: tuple[float, ...]
    sealing_keys: tuple[bytes, ...]

    def quanta(self, tools: Tools) -> tuple[NDArray[np.int64], int]:
        """The update as integers, and how many coordinates were clipped."""
        terms, ring = self.terms, Ring(WIDTH)
        vector = memory.zeros(terms.d + 1, ring.dtype)
        counts = encode(
            self.update,
            self.ranges,
            ring=ring,
            n=terms.encoded_for,
            max_weight=1,
            seed=tools.random(SECRET_BYTES),
            out=vector,
            residual=self.residual,
        )
        tools.witness(self.table.round_id, vector)
        return vector[:-1].view(ring.signed).astype(np.int64), counts.clipped

    def run(self, tools: Tools) -> Dealt:
        terms, table = self.terms, self.table
        quanta, clipped = self.quanta(tools)
        secret, position = tools.random(SECRET_BYTES), table.roster.index(self.me)
        shares = deal(quanta, terms.sharing, position, secret)
        zeros = deal_zero(terms.pairs, terms.sharing, secret)
        blobs = tuple(tools.keep(_blob(shares.share(receiver), zero)) for receiver, zero in enumerate(zeros))
        part = draw_secret(tools.random)
        parts = split(part, table.quorum, terms.n, tools.random)
        sealed = tuple(
            table.suite.seal(public, share, table.seal_context(self.me, to), tools.random)
            for to, public, share in zip(table.roster, self.sealing_keys, parts, strict=True)
        )
        hashes = table.share_hashes(self.me, BEACON, parts)
        whole = table.secret_hash(self.me, BEACON, part)
        return Dealt(blobs, whole, hashes, sealed, parts[position], clipped)


def _blob(share: Elements | bytes, zero: Elements) -> NDArray[np.uint8]:
    """A receiver's blob: the vector's share, or the key of the stream that it is, and the shares of zero."""
    first = np.frombuffer(share, np.uint8) if isinstance(share, bytes) else share.view(np.uint8)
    return np.concatenate((first, zero.view(np.uint8)))


@dataclass(frozen=True)
class Held:
    """What a dealer dealt a holder: both by their positions, and the blob."""

    dealer: int
    holder: int
    blob: Blob

    def row(self, terms: Terms, tools: Tools) -> Row:
        """The vector's share, its blind last, or the key of the stream that it is."""
        size = terms.share_bytes(self.dealer, self.holder)
        data = tools.view(self.blob)[:size]
        return data.tobytes() if size == KEY_BYTES and terms.is_seeded(self.dealer, self.holder) else data.view("<u8")

    def zeros(self, terms: Terms, tools: Tools) -> Elements:
        return tools.view(self.blob)[terms.share_bytes(self.dealer, self.holder) :].view("<u8")

    def is_sound(self, terms: Terms, tools: Tools) -> bool:
        """Whether it has its length, and every number in it is an element."""
        if self.blob.size != terms.blob_bytes(self.dealer, self.holder):
            return False
        try:
            row = self.row(terms, tools)
            if not isinstance(row, bytes):
                check_elements(row, "a share")
            check_elements(self.zeros(terms, tools), "shares of zero")
        except ValueError:
            return False
        return True


@dataclass(frozen=True)
class TakeIn:
    """Job: look at what a dealer dealt this peer, and open its share of that one's part of the beacon.

    Gives the share, or what is wrong in words.
    """

    terms: Terms
    table: Table
    me: PeerId
    dealer: PeerId
    held: Held
    box: bytes
    share_hash: bytes
    sealing: Opener = field(repr=False)

    def run(self, tools: Tools) -> bytes | str:
        if not self.held.is_sound(self.terms, tools):
            return "what it dealt this peer is no share: another length, or a number that is not below 2^61 - 1"
        try:
            share = self.sealing.open(self.box, self.table.seal_context(self.dealer, self.me))
        except SealError:
            return "the share of its part of the beacon that it sealed to this peer does not open"
        sound = len(share) == SHARE_BYTES
        if not sound or self.table.share_hash(self.dealer, self.me, BEACON, share) != self.share_hash:
            return "the share of its part of the beacon that it sealed to this peer is not the one it signed"
        return share


@dataclass(frozen=True)
class Combinations:
    """What a holder tells of what it was dealt, an element a dealer."""

    degrees: tuple[int, ...]
    zeros: tuple[int, ...]


@dataclass(frozen=True)
class Combine:
    """Job: the combinations by a beacon of what some dealers dealt; None where one of them is no share at all."""

    terms: Terms
    held: tuple[Held, ...]
    beacon: bytes

    def run(self, tools: Tools) -> Combinations | None:
        terms = self.terms
        if not all(one.is_sound(terms, tools) for one in self.held):
            return None
        rows = [one.row(terms, tools) for one in self.held]
        zeros = [one.zeros(terms, tools) for one in self.held]
        return Combinations(
            degree_values(rows, terms.length, self.beacon), zero_values(zeros, terms.pairs, self.beacon)
        )


@dataclass(frozen=True)
class Sketch:
    """Job: the sketches of what some dealers dealt, in their order."""

    terms: Terms
    held: tuple[Held, ...]
    beacon: bytes

    def run(self, tools: Tools) -> Blob:
        rows = [without_blind(one.row(self.terms, tools)) for one in self.held]
        return tools.keep(sketch(rows, self.terms.elements, self.beacon), cite=False)


@dataclass(frozen=True)
class Multiply:
    """Job: a holder's word of the inner products of the dealers that stand, hidden by the sharings of zero that do.

    Args:
        sketches: of all survivors, in roster order.
        places: where those that stand are among these; ``dealers`` are their positions in the roster.
        zeros: what the dealers of sharings of zero dealt this peer.
    """

    terms: Terms
    sketches: Blob
    places: tuple[int, ...]
    dealers: tuple[int, ...]
    zeros: tuple[Held, ...]

    def run(self, tools: Tools) -> bytes:
        terms = self.terms
        rows = tools.view(self.sketches).view(np.uint64).reshape(-1, SIZE)[list(self.places)]
        positions = self.dealers
        taken = [terms.entry(i, j) for place, i in enumerate(positions) for j in positions[place:]]
        taken += range(terms.pairs, terms.pairs + BLINDS)
        return to_bytes(hidden(products(rows), [one.zeros(terms, tools)[taken] for one in self.zeros], terms.sharing))


@dataclass(frozen=True)
class Weighted:
    """A holder's share of the weighted sum: whole, and by slice."""

    whole: Blob
    slices: tuple[Blob, ...]


@dataclass(frozen=True)
class Weigh:
    """Job: a holder's share of the weighted sum of what some dealers dealt, cut into slices."""

    terms: Terms
    held: tuple[Held, ...]
    weights: tuple[int, ...]
    bounds: Bounds

    def run(self, tools: Tools) -> Weighted:
        rows = [without_blind(one.row(self.terms, tools)) for one in self.held]
        share = combined(rows, self.weights, self.terms.elements)
        return Weighted(tools.keep(share, cite=False), tuple(tools.keep(share[low:high]) for low, high in self.bounds))


@dataclass(frozen=True)
class Recovered:
    """A slice as its owner opened it, None where it can't be told; and whose parts were false, by point."""

    values: Blob | None
    wrong: tuple[int, ...]


@dataclass(frozen=True)
class Open:
    """Job: open a slice of the sum from holders' parts of it, by point."""

    terms: Terms
    parts: Mapping[int, Blob | None]
    elements: int
    coordinates: int
    liars: int

    def run(self, tools: Tools) -> Recovered:
        words, bad = dict[int, Elements](), list[int]()
        for point, blob in self.parts.items():
            word = np.empty(0, np.uint64) if blob is None else tools.view(blob).view("<u8")
            try:
                words[point] = check_elements(word, "a part", (self.elements,))
            except ValueError:
                bad.append(point)
        liars = max(0, self.liars - len(bad))
        try:
            opened = open_slice(words, self.elements, self.coordinates, self.terms.sharing, liars)
        except Undecided:
            return Recovered(None, tuple(bad))
        return Recovered(tools.keep(opened.values), tuple(sorted((*bad, *opened.wrong))))


@dataclass(frozen=True)
class Summed:
    """The whole sum as its owners published it, and the round's result of it.

    ``told`` is what this peer tells of its own share of it; ``unfit`` are the slices with numbers that no shares give;
    ``flaw`` is what is wrong with the whole, whoever is to blame.
    """

    total: Blob
    result: Assembled
    told: bytes
    unfit: tuple[int, ...]
    flaw: str


@dataclass(frozen=True)
class Assemble:
    """Job: put the slices together, hold the sum against the matrix, and make the result of it.

    The result is Σ w_i x_i · k / Σw, rounded half to even, of k dealers: what a sum of k equal parts would be; within
    ±k · q_max, which no mean of what encoding gives leaves. A false vector may have larger coordinates that nobody
    sees; if its weight is above 0 they are cut here, at every peer alike.
    """

    terms: Terms
    slices: tuple[Blob | None, ...]
    bounds: Bounds
    weights: tuple[int, ...]
    gram: Gram
    beacon: bytes
    key: bytes
    share: Blob | None

    def run(self, tools: Tools) -> Summed:
        terms, start = self.terms, 0
        total = memory.zeros(terms.d, np.dtype(np.int64))
        unfit = list[int]()
        for place, blob in enumerate(self.slices):
            if blob is not None:
                part = total[start : start + blob.size // ELEMENT_BYTES]
                part[:] = tools.view(blob).view("<i8")
                start += part.size
                if int(part.max()) > PRIME >> 1 or int(part.min()) < -(PRIME >> 1):
                    unfit.append(place)
        flaw = ""
        if beyond(total, self.weights, MAX_RADIUS) is not None:
            flaw = "a coordinate of the sum is beyond what vectors of the largest length give"
        elif not fits_gram(total, self.weights, self.gram, terms.sharing, self.beacon):
            flaw = "the sum is not as long as the opened products say"
        words = b""
        if self.share is not None:
            share = tools.view(self.share).view(np.uint64)
            words = elements_bytes(told(share, self.bounds, self.key))
        k = len(self.weights)
        result = rounded(total, k, sum(self.weights), k * terms.limit)
        assembled = Assembled(tools.keep(result, cite=False), k)
        return Summed(tools.keep(total, cite=False), assembled, words, tuple(unfit), flaw)


def rounded(total: NDArray[np.int64], k: int, weight: int, most: int) -> NDArray[Any]:
    """total · k / weight, rounded half to even and cut to ±most, as ring elements; behind it k, the total weight.

    |total| · k stays below 2^44 · 2^6.
    """
    out = memory.zeros(total.size + 1, Ring(WIDTH).dtype)
    body = out[:-1]
    for low in range(0, total.size, CHUNK):
        piece = np.clip(total[low : low + CHUNK], -(1 << 56), 1 << 56) * k
        quotient = piece // weight
        twice = 2 * (piece - quotient * weight)
        quotient += (twice > weight) | ((twice == weight) & (quotient & 1 == 1))
        body[low : low + CHUNK] = np.clip(quotient, -most, most).astype(np.int32).view(np.uint32)
    out[-1] = k
    return out


@dataclass(frozen=True)
class Judge:
    """Job: hold published slices against what holders told of their own shares; None where that can't be told."""

    terms: Terms
    tellings: Mapping[int, tuple[int, ...]]
    total: Blob
    bounds: Bounds
    key: bytes
    liars: int

    def run(self, tools: Tools) -> Judged | None:
        published = tools.view(self.total).view(np.int64)
        try:
            return judge_slices(self.tellings, published, self.bounds, self.terms.sharing, self.key, self.liars)
        except Undecided:
            return None


def elements_bytes(values: Sequence[int]) -> bytes:
    """Elements as they travel in a message, 8 little-endian bytes each."""
    return b"".join(value.to_bytes(ELEMENT_BYTES, "little") for value in values)
