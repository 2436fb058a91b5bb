"""What the words shown in a shamir-gram round come to: which deals stand, and the geometry, from ``specs/shamir-gram``
alone and not from the machines' own functions.

Only the arithmetic on shares and the weights of a rule are the library's: known answers pin both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from decentra import derive
from decentra.crypto.hashing import digest
from decentra.crypto.shares.checks import judge_degree, judge_zero
from decentra.crypto.shares.decoding import Undecided, decode
from decentra.crypto.shares.field61 import ELEMENT_BYTES, PRIME, Elements, from_bytes
from decentra.crypto.shares.gram import implausible, open_gram
from decentra.crypto.shares.quanta import MAX_RADIUS
from decentra.crypto.shares.sharing import MAX_PEERS, Sharing
from decentra.errors import LocalError
from decentra.robust import shared
from decentra.types import PeerId
from decentra.wire.codec import pack, unpack
from decentra.wire.reader import Malformed

UNDECIDED = b"undecided"
"""The value of a vote that says: what is shown does not tell who lies, or leaves too few."""

MOST_VALUE = 8192
PACKED = 16
"""The fewest peers among whom an element has more than one slot."""

Peers = tuple[PeerId, ...]
Pair = tuple[PeerId, PeerId]
"""A dealer, and a holder."""

Values = tuple[tuple[int, ...], tuple[int, ...]]
"""What a check tells of each dealer in order: of its share, and of its sharing of zero."""


@dataclass(frozen=True)
class Numbers:
    """A roster's numbers.

    Args:
        order: the roster.
        rule: what the charter has computed of the updates.
    """

    order: Peers
    c: int
    rule: str
    sharing: Sharing

    @classmethod
    def of(cls, order: Peers, c: int, rule: str) -> Numbers | None:
        """None where a roster of these can share nothing."""
        n = len(order)
        slots = 1 if n < PACKED else max(1, (n - 4 * c + 1) // 2)
        if not 1 <= c <= n or n > MAX_PEERS or n < 3 * c + 2 * slots - 1 or len(set(order)) < n:
            return None
        return cls(order, c, rule, Sharing(n, c, slots))

    @property
    def least(self) -> int:
        """t."""
        return derive.quorum(len(self.order), self.c)

    @property
    def fewest(self) -> tuple[int, int]:
        """How many dealers and how many holders survive at least: max(t, 2c + 2), and max(t, 3c + 2l − 1)."""
        c, slots = self.c, self.sharing.slots
        return max(self.least, 2 * c + 2), max(self.least, 3 * c + 2 * slots - 1)

    def point(self, peer: PeerId) -> int:
        return self.order.index(peer) + 1

    def peers(self, points: Sequence[int]) -> Peers:
        return tuple(self.order[point - 1] for point in points)

    def liars(self, proved: int) -> int:
        """How many more may lie where so many are proved to."""
        return max(0, self.c - proved)

    def holds(self, *some: Peers) -> bool:
        """Whether these are peers of the roster, each once, in its order."""
        return all(one == tuple(peer for peer in self.order if peer in set(one)) for one in some)


def read_elements(data: bytes, count: int) -> tuple[int, ...] | None:
    """As many elements as there are to be; None where it is no such list."""
    words = [data[at : at + ELEMENT_BYTES] for at in range(0, len(data), ELEMENT_BYTES)]
    values = tuple(int.from_bytes(word, "little") for word in words)
    sound = len(data) == count * ELEMENT_BYTES and all(value < PRIME for value in values)
    return values if sound else None


# ── survivors ────────────────────────────────────────────────────────────────────────────────────────────────────────


def held_by_all(numbers: Numbers, held: Mapping[PeerId, Mapping[PeerId, bytes]]) -> bytes | None:
    """The value that shown holdings give: dealers, holders who have all of these, and the deals' hashes; None where
    they give none.

    Args:
        held: of each peer of the roster that shows one its holding.
    """
    often: dict[PeerId, list[bytes]] = {}
    for (peer, hashed), count in Counter(pair for one in held.values() for pair in one.items()).items():
        if count > numbers.c:
            often.setdefault(peer, []).append(hashed)
    hashes = {peer: often[peer][0] for peer in numbers.order if len(often.get(peer, ())) == 1}
    dealers, holders = list(hashes), [peer for peer in numbers.order if peer in held]
    if len(holders) < numbers.least:
        return None
    while True:
        spare = len(dealers) - numbers.fewest[0], len(holders) - numbers.fewest[1]
        lacking = [(i, h) for i in dealers for h in holders if held[h].get(i) != hashes[i]]
        if min(spare) < 0:
            return None
        if not lacking:
            return pack((tuple(dealers), tuple(holders), tuple(hashes[peer] for peer in dealers)))
        of_dealers, of_holders = Counter(i for i, _ in lacking), Counter(h for _, h in lacking)
        dealer = max(dealers, key=of_dealers.__getitem__)  # the first of them in the roster's order
        holder = max(holders, key=of_holders.__getitem__)
        out = 1 if of_holders[holder] > of_dealers[dealer] else 0
        if spare[out] == 0 < spare[1 - out]:
            out = 1 - out
        (dealers, holders)[out].remove((dealer, holder)[out])


# ── checks ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Checked:
    """What checks come to: the dealers, sharings of zero and holders that stand, and who is proved to lie."""

    dealers: Peers
    zeros: Peers
    holders: Peers
    proved: Peers

    @classmethod
    def read(cls, value: bytes | None, numbers: Numbers) -> Checked | None:
        parts = _parts(value, 4)
        peers = tuple(one for one in map(_peers, parts) if one is not None)
        return cls(*peers) if len(peers) == 4 and numbers.holds(*peers) else None


@dataclass(frozen=True)
class Geometry:
    """What words come to: the matrix' hash, the dealers left and their weights, the holders of true words, and who is
    proved to lie by then."""

    gram: bytes
    dealers: Peers
    weights: tuple[int, ...]
    holders: Peers
    proved: Peers

    @classmethod
    def read(cls, value: bytes | None, numbers: Numbers) -> Geometry | None:
        parts = _parts(value, 5)
        if not parts:
            return None
        gram, weights = parts[0], parts[2]
        peers = tuple(one for one in map(_peers, (parts[1], *parts[3:])) if one is not None)
        if not isinstance(gram, bytes) or not isinstance(weights, tuple) or len(peers) != 3:
            return None
        sound = len(weights) == len(peers[0]) and numbers.holds(*peers)
        return cls(gram, peers[0], weights, peers[1], peers[2]) if sound else None


def _parts(value: bytes | None, count: int) -> tuple[object, ...]:
    try:
        parts = unpack(value or b"", MOST_VALUE)
    except Malformed:
        return ()
    return parts if isinstance(parts, tuple) and len(parts) == count else ()


def _peers(part: object) -> Peers | None:
    if not isinstance(part, tuple) or not all(isinstance(one, bytes) and len(one) == 32 for one in part):
        return None
    return tuple(map(PeerId, part))


def proved(value: bytes) -> Peers:
    """Who is proved to lie by what checks or words come to; nobody where a value is neither."""
    return _peers((_parts(value, 4) or _parts(value, 5) or ((),))[-1]) or ()


def weighed(value: bytes) -> Peers:
    """The dealers that a geometry counts; nobody where a value is none."""
    return _peers((_parts(value, 5) or ((), ()))[1]) or ()


@dataclass(frozen=True)
class Told:
    """What checks tell by themselves, without the blobs of who is suspect.

    Attributes:
        bad: dealers whose values are none, whatever c liars said.
        out: dealers whose values can't be decoded.
        bare: dealers whose sharing of zero can't be.
        torn: of these last two, dealers of whom holders tell what does not fit together.
        suspects: of the other dealers, each with a holder whose word fits no others'.
    """

    bad: frozenset[PeerId]
    out: frozenset[PeerId]
    bare: frozenset[PeerId]
    torn: frozenset[PeerId]
    suspects: tuple[Pair, ...]


def judge(numbers: Numbers, dealers: Peers, told: Mapping[PeerId, Values]) -> Told:
    """What the checks of some holders tell.

    Args:
        dealers: those that survived, in the order in which a check tells of them.
    """
    return _judge(numbers, dealers, tuple(sorted(told.items())))


@lru_cache(maxsize=256)
def _judge(numbers: Numbers, dealers: Peers, told: tuple[tuple[PeerId, Values], ...]) -> Told:
    bad, out, bare, torn = set[PeerId](), set[PeerId](), set[PeerId](), set[PeerId]()
    suspects, sharing = list[Pair](), numbers.sharing
    for place, dealer in enumerate(dealers):
        degrees, zeros = ({numbers.point(peer): one[of][place] for peer, one in told} for of in (0, 1))
        try:
            degree = judge_degree(degrees, sharing)
        except Undecided:
            out.add(dealer)
            torn |= set() if fit(degrees, sharing.degree) else {dealer}
            continue
        wrong, unfit = degree.dealer_wrong, {*degree.suspects}
        try:
            zero = None if wrong else judge_zero(zeros, sharing)
        except Undecided:
            zero = None
            bare.add(dealer)
            torn |= set() if fit(zeros, sharing.product_degree) else {dealer}
        if zero is not None:
            wrong, unfit = zero.dealer_wrong, unfit | {*zero.suspects}
        if wrong:
            bad.add(dealer)
        else:
            suspects += [(dealer, holder) for holder in numbers.peers(sorted(unfit))]
    return Told(frozenset(bad), frozenset(out), frozenset(bare), frozenset(torn), tuple(suspects))


def fit(values: Mapping[int, int], degree: int) -> bool:
    """Whether all values lie on one polynomial of a degree; fewer than it takes always do."""
    try:
        return len(values) <= degree or bool(decode(values, degree, 0))
    except Undecided:
        return False


def may_give(
    numbers: Numbers, dealers: Peers, holders: Peers, told: Mapping[PeerId, Values], value: bytes
) -> bool:
    """Whether checks give a value, whatever the blobs of suspects show, or that nobody shows one.

    A suspect's blob proves it or the dealer; where none is shown the suspect is not counted. Blobs are in no log, so
    each pair may have come to any of the three.
    """
    found, checked = judge(numbers, dealers, told), Checked.read(value, numbers)
    if value == UNDECIDED:
        # Without suspects nothing hangs on blobs.
        return bool(found.suspects) or not _suffice(numbers, _unsuspected(numbers, dealers, holders, found, told))
    if checked is None or not found.bad <= {*checked.proved}:
        return False
    counted = tuple(peer for peer in holders if peer in told and peer not in checked.proved)
    silent = {peer for peer in counted if peer not in checked.holders}
    stand = tuple(peer for peer in dealers if peer not in found.out and peer not in checked.proved)
    given = Checked(
        stand,
        tuple(peer for peer in stand if peer not in found.bare),
        tuple(peer for peer in counted if peer not in silent),
        checked.proved,
    )
    explained = all(i in checked.proved or h not in checked.holders for i, h in found.suspects)
    shown = _each_by_one(found.suspects, {*checked.proved} - found.bad, silent)
    return given == checked and explained and shown and _suffice(numbers, given)


def _unsuspected(
    numbers: Numbers, dealers: Peers, holders: Peers, found: Told, told: Mapping[PeerId, Values]
) -> Checked:
    stand = tuple(peer for peer in dealers if peer not in found.out | found.bad)
    counted = tuple(peer for peer in holders if peer in told and peer not in found.bad)
    proved = tuple(peer for peer in numbers.order if peer in found.bad)
    return Checked(stand, tuple(peer for peer in stand if peer not in found.bare), counted, proved)


def _suffice(numbers: Numbers, checked: Checked) -> bool:
    """Whether enough dealers, sharings of zero and holders stand for what follows."""
    liars = numbers.liars(len(checked.proved))
    enough = len(checked.holders) >= numbers.sharing.product_degree + 1 + liars
    return enough and len(checked.zeros) > numbers.c and _fits(numbers, len(checked.dealers), liars)


def _fits(numbers: Numbers, count: int, liars: int) -> bool:
    try:
        return shared.misfit(numbers.rule, count, liars, numbers.c) is None
    except LocalError:
        return False  # a charter may name any rule


def _each_by_one(pairs: Sequence[Pair], proved: set[PeerId], silent: set[PeerId]) -> bool:
    """Whether every one of these is so by a pair of its own: proved as the dealer or the holder of it, silent as the
    holder. (A matching, by augmenting paths.)"""
    of: dict[Pair, PeerId] = {}

    def usable(peer: PeerId) -> Iterator[Pair]:
        yield from (pair for pair in pairs if peer == pair[1] or (peer in proved and peer == pair[0]))

    def place(peer: PeerId, tried: set[Pair]) -> bool:
        for pair in usable(peer):
            if pair not in tried:
                tried.add(pair)
                if pair not in of or place(of[pair], tried):
                    of[pair] = peer
                    return True
        return False

    return all(place(peer, set()) for peer in (*proved, *silent))


# ── words ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Opened:
    """What words give.

    Attributes:
        value: the geometry, as it is voted on; None where the rule is left too few.
        wrong: holders of false words.
        out: dealers of vectors that can be none.
        torn: whether words do not fit together, and it can't be told whose are false.
    """

    value: bytes | None = None
    wrong: Peers = ()
    out: Peers = ()
    torn: bool = False


def open_words(numbers: Numbers, checked: Checked, words: Mapping[PeerId, bytes]) -> Opened:
    """What the words of some holders give.

    Args:
        words: of holders that ``checked`` counts, each so many elements as there are pairs of its dealers.
    """
    return _open_words(numbers, checked, tuple(sorted(words.items())))


@lru_cache(maxsize=64)
def _open_words(numbers: Numbers, checked: Checked, words: tuple[tuple[PeerId, bytes], ...]) -> Opened:
    k, liars = len(checked.dealers), numbers.liars(len(checked.proved))
    by_point = {numbers.point(peer): from_bytes(word, k * (k + 1) // 2, "a word") for peer, word in words}
    try:
        opened = open_gram(by_point, k, numbers.sharing, liars)
    except Undecided:
        return Opened(torn=len(words) > numbers.sharing.product_degree and _are_torn(numbers, by_point, k))
    wrong = numbers.peers(opened.wrong)
    out = tuple(checked.dealers[i] for i in implausible(opened.gram, MAX_RADIUS, liars))
    proved = {*checked.proved, *wrong, *out}
    left = [i for i, peer in enumerate(checked.dealers) if peer not in proved]
    gram = [[opened.gram[i][j] for j in left] for i in left]
    given, f = {peer for peer, _ in words}, numbers.liars(len(proved))
    holders = tuple(peer for peer in checked.holders if peer in given and peer not in proved)
    value = None
    if _fits(numbers, len(left), f) and len(holders) >= numbers.sharing.degree + 1 + f:
        try:
            weights = shared.weigh(gram, numbers.rule, f, numbers.c)
        except LocalError:
            return Opened(None, wrong, out)  # weights that would lay an update bare
        dealers = tuple(checked.dealers[i] for i in left)
        named = tuple(peer for peer in numbers.order if peer in proved)
        value = pack((_gram_hash(gram), dealers, weights, holders, named))
    return Opened(value, wrong, out)


def _are_torn(numbers: Numbers, words: Mapping[int, Elements], k: int) -> bool:
    try:
        open_gram(words, k, numbers.sharing, 0)
    except Undecided:
        return True
    return False


def _gram_hash(gram: Sequence[Sequence[int]]) -> bytes:
    entries = (entry.to_bytes(ELEMENT_BYTES, "little", signed=True) for i, row in enumerate(gram) for entry in row[i:])
    return digest("gram", len(gram), b"".join(entries))


def false_tellings(
    numbers: Numbers, liars: int, told: Mapping[PeerId, tuple[int, ...]]
) -> tuple[frozenset[PeerId], bool]:
    """Who tells of its share of the sum what fits no others' word; and whether, of a slice, it can't be told who does.

    Args:
        liars: how many of these may lie.
        told: of each holder a value a slice.
    """
    wrong, torn = set[PeerId](), False
    for place in range(min(map(len, told.values()), default=0)):
        values = {numbers.point(peer): one[place] for peer, one in told.items()}
        try:
            wrong |= {*numbers.peers(decode(values, numbers.sharing.degree, liars).wrong)}
        except Undecided:
            torn = torn or not fit(values, numbers.sharing.degree)
    return frozenset(wrong), torn
