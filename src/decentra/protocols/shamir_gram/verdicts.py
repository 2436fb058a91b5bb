"""What checks and opened products come to, as every peer computes it alike from what is shown (SG-6, SG-8).

Two values are voted on. *Checked*: which deals stand, whose sharings of zero hide products, whose shares are counted,
and who is proved to lie. *Geometry*: the matrix of inner products by its hash, the weights that follow from it, and the
holders whose shares were true. Where shown words give neither, the value is ``UNDECIDED``, and the round fails.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from decentra.crypto.hashing import digest
from decentra.crypto.shares.checks import judge_degree, judge_zero
from decentra.crypto.shares.decoding import Undecided
from decentra.crypto.shares.field61 import Elements
from decentra.crypto.shares.gram import Gram, implausible, open_gram
from decentra.crypto.shares.quanta import MAX_RADIUS
from decentra.errors import LocalError
from decentra.protocols.shamir_gram.terms import Terms
from decentra.protocols.survivors import MOST_VALUE
from decentra.robust import shared
from decentra.types import PeerId
from decentra.wire.codec import Malformed, pack, unpack

UNDECIDED = b"undecided"
"""The value that says: what is shown does not tell who lies, or leaves too few. The round is spent."""

Peers = tuple[PeerId, ...]
Pair = tuple[PeerId, PeerId]
"""A dealer, and a holder whose word on it fits no others'."""

Values = tuple[tuple[int, ...], tuple[int, ...]]
"""What a holder told of each dealer in order: of its vector's share, and of its sharing of zero."""

Shown = tuple[int, int] | None
"""What the shown blob of a pair gives in place of what was told; None where it holds no elements."""


@dataclass(frozen=True)
class Checked:
    """What the checks come to."""

    dealers: Peers
    zeros: Peers
    holders: Peers
    proved: Peers

    def pack(self) -> bytes:
        return pack((self.dealers, self.zeros, self.holders, self.proved))

    @classmethod
    def unpack(cls, value: bytes) -> Checked:
        """Read a value. Raises Malformed where it is none."""
        match unpack(value, MOST_VALUE):
            case (tuple(dealers), tuple(zeros), tuple(holders), tuple(proved)):
                return cls(*(_peers(some) for some in (dealers, zeros, holders, proved)))
        raise Malformed("a value that is no result of checks")


@dataclass(frozen=True)
class Geometry:
    """What the opened matrix comes to: its hash, the dealers that the rule was given, their weights, and the holders
    whose words were shown and true; and whoever is proved to lie by now."""

    gram: bytes
    dealers: Peers
    weights: tuple[int, ...]
    holders: Peers
    proved: Peers

    def pack(self) -> bytes:
        return pack((self.gram, self.dealers, self.weights, self.holders, self.proved))

    @classmethod
    def unpack(cls, value: bytes) -> Geometry:
        """Read a value. Raises Malformed where it is none."""
        match unpack(value, MOST_VALUE):
            case (bytes(gram), tuple(dealers), tuple(weights), tuple(holders), tuple(proved)):
                if len(gram) == 32 and all(type(weight) is int for weight in weights) and len(weights) == len(dealers):
                    return cls(gram, _peers(dealers), weights, _peers(holders), _peers(proved))
        raise Malformed("a value that is no geometry")


def _peers(some: tuple[object, ...]) -> Peers:
    if not all(type(item) is bytes and len(item) == 32 for item in some):
        raise Malformed("a list of peers that is none")
    return tuple(PeerId(item) for item in some if isinstance(item, bytes))


@dataclass(frozen=True)
class Table:
    """Among whom a round's values are settled: its terms and roster, the certified dealers and holders, and the
    rule."""

    terms: Terms
    roster: Sequence[PeerId]
    dealers: Peers
    holders: Peers
    rule: str

    def point(self, peer: PeerId) -> int:
        return self.roster.index(peer) + 1

    def liars(self, proved: int) -> int:
        """How many more may lie where so many are proved to."""
        return max(0, self.terms.c - proved)


@dataclass(frozen=True)
class Judgement:
    """What checks give: the value, None where too much is missing; and the pairs of which nobody has shown anything,
    whose holders are not counted in it."""

    value: Checked | None
    unshown: tuple[Pair, ...]


def derive_checked(table: Table, told: Mapping[PeerId, Values], shown: Mapping[Pair, Shown]) -> Judgement:
    """What the checks of some holders come to.

    A deal whose values lie on no polynomial of its degree, whatever c liars said, is proved bad; so is a sharing of
    zero that is none. Who told what fits no others' word shows its blob: if that gives what it told, the dealer is
    proved, else the holder. Who shows nothing is not counted: without it the deal stands, and nobody is proved.
    """
    proved, out, bare, silent = set[PeerId](), set[PeerId](), set[PeerId](), set[PeerId]()
    unshown: list[Pair] = []
    for place, dealer in enumerate(table.dealers):
        wrong, suspects, hides = _judge(table, told, place)
        if wrong is None:
            out.add(dealer)
            continue
        if not hides:
            bare.add(dealer)
        if wrong:
            proved.add(dealer)
        for holder in suspects if not wrong else ():
            if (dealer, holder) not in shown:
                unshown.append((dealer, holder))
                silent.add(holder)
                continue
            found = shown[dealer, holder]
            degrees, zeros = told[holder]
            proved.add(dealer if found is None or found == (degrees[place], zeros[place]) else holder)
    stand = tuple(peer for peer in table.dealers if peer not in out and peer not in proved)
    value = Checked(
        stand,
        tuple(peer for peer in stand if peer not in bare),
        tuple(peer for peer in table.holders if peer in told and peer not in proved and peer not in silent),
        tuple(peer for peer in table.roster if peer in proved),
    )
    return Judgement(value if _suffices(table, value) else None, tuple(unshown))


def _judge(
    table: Table, told: Mapping[PeerId, Values], place: int
) -> tuple[bool | None, tuple[PeerId, ...], bool]:
    """Whether a deal is proved bad, None where it can't be told; who is suspect; and whether its zeros hide."""
    sharing = table.terms.sharing
    try:
        degree = judge_degree({table.point(peer): one[0][place] for peer, one in told.items()}, sharing)
    except Undecided:
        return None, (), False
    if degree.dealer_wrong:
        return True, (), False
    try:
        zero = judge_zero({table.point(peer): one[1][place] for peer, one in told.items()}, sharing)
    except Undecided:
        return False, tuple(table.roster[x - 1] for x in degree.suspects), False
    points = sorted({*degree.suspects, *zero.suspects})
    return zero.dealer_wrong, tuple(table.roster[x - 1] for x in points), True


def _suffices(table: Table, value: Checked) -> bool:
    """Whether enough deals, sharings of zero and holders are left for what follows."""
    terms, liars = table.terms, table.liars(len(value.proved))
    if len(value.holders) < terms.needed(terms.sharing.product_degree, liars) or len(value.zeros) <= terms.c:
        return False
    return shared.misfit(table.rule, len(value.dealers), liars, terms.c) is None


@dataclass(frozen=True)
class Opened:
    """What words give: the value, and the matrix of all dealers that stood."""

    value: Geometry
    gram: Gram

    def among(self, stood: Peers, some: Peers) -> Gram:
        """The matrix of some of the dealers that stood."""
        left = [stood.index(peer) for peer in some]
        return tuple(tuple(self.gram[i][j] for j in left) for i in left)


def derive_geometry(table: Table, checked: Checked, words: Mapping[PeerId, Elements]) -> Opened | None:
    """What the words of some holders come to; None where these don't tell, or leave too few.

    Args:
        words: of holders that ``checked`` counts, each an element for each pair of its dealers.
    """
    liars, terms = table.liars(len(checked.proved)), table.terms
    by_point = {table.point(peer): word for peer, word in words.items()}
    try:
        opened = open_gram(by_point, len(checked.dealers), terms.sharing, liars)
    except Undecided:
        return None
    wrong = {table.roster[x - 1] for x in opened.wrong}
    out = tuple(checked.dealers[i] for i in implausible(opened.gram, MAX_RADIUS, liars))
    proved = {*checked.proved, *wrong, *out}
    left = [i for i, peer in enumerate(checked.dealers) if peer not in proved]
    gram = tuple(tuple(opened.gram[i][j] for j in left) for i in left)
    f = table.liars(len(proved))
    if shared.misfit(table.rule, len(left), f, terms.c) is not None:
        return None
    try:
        weights = shared.weigh(gram, table.rule, f, terms.c)
    except LocalError:  # weights that would lay an update bare
        return None
    value = Geometry(
        gram_hash(gram),
        tuple(checked.dealers[i] for i in left),
        weights,
        tuple(peer for peer in checked.holders if peer in words and peer not in proved),
        tuple(peer for peer in table.roster if peer in proved),
    )
    if len(value.holders) < terms.needed(terms.sharing.degree, f):
        return None
    return Opened(value, opened.gram)


def gram_hash(gram: Gram) -> bytes:
    """The hash of a matrix: each entry on and above the diagonal as 8 little-endian bytes in two's complement."""
    entries = (entry for i, row in enumerate(gram) for entry in row[i:])
    return digest("gram", len(gram), b"".join(entry.to_bytes(8, "little", signed=True) for entry in entries))
