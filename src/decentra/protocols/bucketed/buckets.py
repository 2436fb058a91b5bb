"""The buckets of a round: who stands for each, what its members state of its mean, and who sends that to whom."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from decentra.protocols.agreed import Named
from decentra.protocols.bucketed.messages import Holding, Mean
from decentra.types import PeerId
from decentra.wire.message import Verified


@dataclass(frozen=True)
class Buckets:
    """The buckets of an epoch, each going by the first of its members.

    Attributes:
        members: of each bucket its members, ascending, in the order of ``derive.buckets``.
        c: how many of one may be corrupt.
    """

    members: tuple[tuple[PeerId, ...], ...]
    c: int

    @property
    def names(self) -> tuple[PeerId, ...]:
        """Whom the buckets go by, in their order."""
        return tuple(bucket[0] for bucket in self.members)

    def of(self, peer: PeerId) -> tuple[PeerId, ...]:
        """The bucket that a peer is in."""
        return next(bucket for bucket in self.members if peer in bucket)

    def named(self, name: PeerId) -> tuple[PeerId, ...]:
        """The bucket that goes by a peer; none where no bucket does."""
        return next((bucket for bucket in self.members if bucket[0] == name), ())

    def receivers(self, sender: PeerId) -> tuple[PeerId, ...]:
        """To whom a peer sends its bucket's mean unasked: of every other bucket as many as fall to each member.

        Receiver k of bucket r has it from member (k + r) mod size, so the members of a bucket share the work.
        """
        own = self.of(sender)
        return tuple(
            receiver
            for number, bucket in enumerate(self.members)
            if bucket != own
            for place, receiver in enumerate(bucket)
            if own[(place + number) % len(own)] == sender
        )


def sound_mean(message: Mean, bucket: Sequence[PeerId], c: int) -> bool:
    """Whether a statement is one that its bucket's sum allows: over c + 2 of its members at least; or that there is
    none."""
    if not message.members:
        return message.root == bytes(32)
    members = set(message.members)
    return len(members) == len(message.members) >= c + 2 and members <= set(bucket)


def stated(means: Mapping[PeerId, Verified], buckets: Buckets) -> dict[PeerId, bytes]:
    """Of each bucket the statement that more of its members make alike than may lie, by its hash: one of them is
    honest, and its bucket has certified that sum.

    Args:
        means: the sound statements, by author.
    """
    said: dict[PeerId, bytes] = {}
    for bucket in buckets.members:
        alike = Counter(_hashes(means[peer] for peer in bucket if peer in means))
        for hashed, count in alike.items():
            if count > buckets.c:
                said[bucket[0]] = hashed
    return said


def contradicted(means: Mapping[PeerId, Verified], buckets: Buckets, c: int) -> tuple[PeerId, ...]:
    """Who states another mean of its bucket than more of its members than may lie of all, of whom one is honest.

    Not more than may lie of the bucket: there may be more by the luck of the draw, and nobody honest is to be named.
    """
    named: list[PeerId] = []
    for bucket in buckets.members:
        said = {peer: means[peer].body_hash for peer in bucket if peer in means and _members(means[peer])}
        often = {hashed for hashed, count in Counter(said.values()).items() if count > c}
        named += [peer for peer, hashed in said.items() if often - {hashed}]
    return tuple(named)


def _members(mean: Verified) -> tuple[PeerId, ...]:
    return getattr(mean.message, "members", ())


def _hashes(means: Iterable[Verified]) -> Iterable[bytes]:
    return (one.body_hash for one in means if _members(one))


def read_holding(verified: Verified, context: bytes, buckets: Buckets) -> Named | None:
    """The buckets that a holding under this context says are stated, each with the hash; None where it is no holding of
    these buckets."""
    message = verified.message
    if not isinstance(message, Holding) or message.context != context:
        return None
    named, names = dict(message.stated), set(buckets.names)
    return named if names >= set(named) and set(named) >= set(message.whole) else None
