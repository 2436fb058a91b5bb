"""Comparing two whole views: what each knows, told in a few bytes a member, and then only what the other lacks.

Anti-entropy by push and pull (Demers et al. 1987, "Epidemic algorithms for replicated database maintenance"), in three
datagrams: heads; heads and what the opener lacks; what the answerer lacks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from decentra.errors import RemoteError
from decentra.gossip.limits import MOST_SYNCED
from decentra.gossip.messages import Sync
from decentra.gossip.statements import Statement, Word
from decentra.gossip.view import Member
from decentra.types import PeerId


def head(word: Statement | None) -> int:
    """What a member said last of itself, as one number; 0 for nothing."""
    return 0 if word is None else word.incarnation << 1 | (word.word is Word.LEFT)


def suspected(doubted: Mapping[PeerId, Member], places: Mapping[PeerId, int]) -> tuple[tuple[PeerId, bytes], ...]:
    """Everyone under suspicion with the authors, a bit for each."""
    width = (len(places) + 7) // 8
    found = []
    for peer, member in sorted(doubted.items()):
        mask = sum(1 << places[author] for author in member.suspicions)
        found.append((peer, mask.to_bytes(width, "little")))
    return tuple(found)


def check(message: Sync, sender: PeerId, places: Mapping[PeerId, int]) -> None:
    """Hold a comparison against the group. Raises RemoteError under MB-9, the sender's fault."""
    n, width = len(places), (len(places) + 7) // 8
    if len(message.heads) != (0 if message.step == 2 else n):
        raise RemoteError(sender, "MB-9", f"a comparison has {len(message.heads)} heads in a group of {n}")
    if message.step == 2 and message.suspected:
        raise RemoteError(sender, "MB-9", "a closing compares nothing any more")
    for subject, authors in message.suspected:
        if subject not in places or len(authors) != width or int.from_bytes(authors, "little") >> n:
            raise RemoteError(sender, "MB-9", "a comparison speaks of who is no member")


def lacking(
    message: Sync,
    members: Sequence[PeerId],
    heads: Sequence[int],
    words: Sequence[Statement | None],
    doubted: Mapping[PeerId, Member],
    enough: int,
) -> tuple[bytes, ...]:
    """What the sender of heads lacks, packed: members' own words, then suspicions up to as many as are needed.

    Args:
        message: an opening or an answer, checked.
        members: everyone, ascending.
        heads: this peer's own heads, in that order.
        words: what they stand for.
        doubted: who is under suspicion here.
        enough: suspicions of one member beyond which no more are told.

    Returns:
        At most MOST_SYNCED; the rest another time.
    """
    fresh = [
        word
        for word, mine, theirs in zip(words, heads, message.heads, strict=True)
        if mine > theirs and word is not None
    ]
    has = dict(message.suspected)
    places = {peer: place for place, peer in enumerate(members)} if doubted else {}
    for peer, member in sorted(doubted.items()):
        mine, theirs = heads[places[peer]], message.heads[places[peer]]
        if mine >= theirs:
            held = int.from_bytes(has.get(peer, b""), "little") if mine == theirs else 0
            unknown = [one for author, one in sorted(member.suspicions.items()) if not held >> places[author] & 1]
            fresh += unknown[: max(0, enough - held.bit_count())]
    return tuple(one.pack() for one in fresh[:MOST_SYNCED])
