"""Whose deal counts, and who holds all that count: what shown holdings give, as every peer computes it alike (SG-3).

A holding names dealers, each with the hash of its deal. Where h does not name a dealer i whom more than c others do, i
dealt h nothing, or h says so: one of the two is corrupt, or the way between them slow. Nobody shows h's share to settle
it, as that would lay i's update bare to c colluders where only the way was slow. So one of the two is left out: of the
dealers, or of the holders, on whose shares everything later runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from decentra.protocols.agreed import Agreed, Named, counted
from decentra.types import PeerId


def derive_held(
    roster: Sequence[PeerId], c: int, fewest: tuple[int, int], held: Mapping[PeerId, Named]
) -> Agreed | None:
    """The dealers, each under the one hash that more than c holdings name, and as witnesses the holders, each of whom
    names all of these; None where there would be too few.

    Who lacks, or is lacking at, the most is left out first, dealers before holders where that is alike and enough
    dealers are left, then by the roster's order.

    Args:
        fewest: dealers and holders.
        held: of each peer of the roster that shows one its holding.
    """
    named = counted(held.values(), c)
    hashes = {peer: named[peer][0] for peer in roster if len(named.get(peer, ())) == 1}
    dealers, holders = list(hashes), [peer for peer in roster if peer in held]
    while True:
        lacking = [(i, h) for i in dealers for h in holders if held[h].get(i) != hashes[i]]
        if len(dealers) < fewest[0] or len(holders) < fewest[1]:
            return None
        if not lacking:
            return Agreed(tuple(dealers), tuple(holders), tuple(hashes[peer] for peer in dealers))
        of_dealers, of_holders = Counter(i for i, _ in lacking), Counter(h for _, h in lacking)
        dealer = max(dealers, key=lambda peer: (of_dealers[peer], -roster.index(peer)))
        holder = max(holders, key=lambda peer: (of_holders[peer], -roster.index(peer)))
        if of_holders[holder] > of_dealers[dealer] and len(holders) > fewest[1]:
            holders.remove(holder)
        elif len(dealers) > fewest[0] or len(holders) == fewest[1]:
            dealers.remove(dealer)
        else:
            holders.remove(holder)
