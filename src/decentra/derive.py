"""What anyone can derive from public data, as pure functions: machines and auditor share them, vectors pin them.

Every hash is ``decentra.crypto.hashing.digest`` under its own label (``specs/derive/README.md``).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

from decentra.crypto.hashing import digest, digest_after, encode_parts
from decentra.types import PeerId, RoundId, TensorSpec

PIECE = 1 << 18
"""Bytes of a piece of a common state, by which it is hashed: those of a transfer's pieces."""

MOST_PARTS = 128
"""Parts of a common state: each costs two signed messages, and what a silent source costs is parts."""


def quorum(n: int, c: int) -> int:
    """t = ⌊(n+c)/2⌋+1: at once the quorum, the Shamir threshold and the floor on the survivors.

    >>> [quorum(n, c) for n, c in ((3, 1), (4, 1), (5, 1), (7, 2), (8, 2), (10, 3), (16, 5), (64, 21))]
    [3, 3, 4, 5, 6, 7, 11, 43]
    """
    return (n + c) // 2 + 1


def session(spec_source: bytes, charter: bytes, epoch: int) -> bytes:
    """The name of an epoch's session: a hash of the spec's text, the charter's hash and the epoch."""
    return digest("session", spec_source, charter, epoch)


def proposer_order(charter: bytes, round_id: RoundId, members: Sequence[PeerId]) -> tuple[PeerId, ...]:
    """The order in which members propose in a round: view v is proposed by the v-th, cyclically."""
    ordered = sorted(members)
    start = int.from_bytes(digest("proposer", charter, round_id.epoch, round_id.number)[:8], "little") % len(ordered)
    return (*ordered[start:], *ordered[:start])


def slice_bounds(length: int, count: int) -> tuple[tuple[int, int], ...]:
    """Cut ``length`` coordinates into ``count`` contiguous slices whose sizes differ by at most one.

    >>> slice_bounds(7, 3)
    ((0, 3), (3, 5), (5, 7))
    """
    return _slice_bounds(length, count)


@lru_cache(maxsize=64)
def _slice_bounds(length: int, count: int) -> tuple[tuple[int, int], ...]:
    small, larger = divmod(length, count)
    starts = [index * small + min(index, larger) for index in range(count + 1)]
    return tuple(pairwise(starts))


def layout(tensors: Sequence[TensorSpec]) -> bytes:
    """The hash of names, shapes and dtypes, in order."""
    parts: list[int | str] = []
    for spec in tensors:
        parts += (spec.name, len(spec.shape), *spec.shape, spec.dtype)
    return digest("layout", len(tensors), *parts)


def vector_layout(tensors: Sequence[TensorSpec], ranges: Sequence[float]) -> bytes:
    """The hash of what a round's vector holds: its tensors and the range of each, as IEEE doubles in hexadecimal."""
    return digest("vector", layout(tensors), *(float(bound).hex() for bound in ranges))


def context(
    *,
    session: bytes,
    round_id: RoundId,
    view: int,
    roster: Sequence[PeerId],
    fingerprint: bytes,
    layout: bytes,
    state: bytes,
    width: int,
    max_weight: int,
    deals: Sequence[bytes],
) -> bytes:
    """The hash that everybody in a roster endorses before masking. The session carries charter, protocol and version,
    the vector's layout its tensors and ranges."""
    return digest(
        "context",
        session,
        round_id.epoch,
        round_id.number,
        view,
        len(roster),
        *roster,
        fingerprint,
        layout,
        state,
        width,
        max_weight,
        len(deals),
        *deals,
    )


def common_state(bounds: Sequence[tuple[str, float]], size: int, pieces: Sequence[bytes]) -> bytes:
    """The hash of what all peers hold alike: tensors' ranges by name, and what training holds, ``size`` bytes, by the
    SHA-256 of each piece of 256 KiB. Who has this list can check any piece by itself."""
    named = (part for name, bound in bounds for part in (name, float(bound).hex()))
    return digest("common", len(bounds), *named, size, len(pieces), *pieces)


def state_parts(size: int) -> tuple[tuple[int, int], ...]:
    """Where the parts begin and end in which ``size`` bytes of a common state are sent: whole pieces of 256 KiB, at
    least four of them, and as many as give no more than 128 parts.

    >>> state_parts(5 << 19)
    ((0, 1048576), (1048576, 2097152), (2097152, 2621440))
    """
    part = PIECE * max(4, -(-size // (PIECE * MOST_PARTS)))
    return tuple((start, min(start + part, size)) for start in range(0, size, part))


def share_hash(
    session: bytes,
    round_id: RoundId,
    view: int,
    roster: Sequence[PeerId],
    dealer: PeerId,
    receiver: PeerId,
    kind: str,
    value: bytes,
) -> bytes:
    """The hash that a dealer signs for one share; it binds the share to its place, so that no other deal can use it."""
    place = _share_place(session, round_id.epoch, round_id.number, view, tuple(roster))
    return digest_after(place, dealer, receiver, kind, value)


@lru_cache(maxsize=64)
def _share_place(session: bytes, epoch: int, number: int, view: int, roster: tuple[PeerId, ...]) -> bytes:
    """What the hashes of all shares of a view begin with; kept, since a round hashes 3n² of them."""
    return encode_parts("share", session, epoch, number, view, digest("roster", *roster))


def secret_hash(session: bytes, round_id: RoundId, view: int, dealer: PeerId, kind: str, value: bytes) -> bytes:
    """The hash that a dealer signs for a whole secret."""
    return digest("secret", session, round_id.epoch, round_id.number, view, dealer, kind, value)


def vote_value(context: bytes, topic: str, value: bytes) -> bytes:
    """The hash that votes cite for a value of a topic under a context."""
    return _vote_value(context, topic, value)


@lru_cache(maxsize=32)
def _vote_value(context: bytes, topic: str, value: bytes) -> bytes:
    """Kept, since a round looks for the same few values whenever a vote comes."""
    return digest("vote", context, topic, value)


def outcome_value(context: bytes, survivors: bytes, total_weight: int, sums: Sequence[bytes]) -> bytes:
    """The hash of a result: its context, certified survivors, total weight, and the root of every slice's sum."""
    return digest("outcome", context, survivors, total_weight, len(sums), *sums)


def beacon(context: bytes, parts: Sequence[bytes]) -> bytes:
    """A round's public randomness: the hash of its context and of every survivor's part in roster order, 32 zero bytes
    where a part was badly dealt. Nobody can know it before t peers show their shares, and nobody can withhold it."""
    return digest("beacon", context, len(parts), *parts)


def challenged_slices(beacon: bytes, n: int, count: int) -> tuple[int, ...]:
    """The ``count`` slices of n whose sums the beacon puts to the test, in the order drawn."""
    drawn = sorted(range(n), key=lambda position: digest("challenged", beacon, position))
    return tuple(drawn[:count])


def verifiers(beacon: bytes, position: int, candidates: Sequence[PeerId], count: int) -> tuple[PeerId, ...]:
    """The ``count`` peers of ``candidates`` that recompute a slice's sum, in the order drawn."""
    drawn = sorted(candidates, key=lambda peer: digest("verifier", beacon, position, peer))
    return tuple(drawn[:count])


def next_range(current: float, largest_mean: float, low: float, high: float) -> float:
    """A tensor's range in the next round: eight times the largest coordinate of the last certified mean, moving by at
    most a factor of 2 a round and never out of the charter's bounds, so that one liar can't inflate or collapse it.

    >>> next_range(1.0, 0.2, 1e-3, 10.0), next_range(1.0, 0.0, 1e-3, 10.0), next_range(1.0, 1.0, 1e-3, 10.0)
    (1.6, 0.5, 2.0)
    """
    return min(max(min(max(8.0 * largest_mean, current / 2.0), current * 2.0), low), high)


# ── buckets ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def buckets(beacon: bytes, members: Sequence[PeerId], size: int) -> tuple[tuple[PeerId, ...], ...]:
    """The members dealt into ⌊n/size⌋ buckets, whose sizes differ by one at most; the ids in each ascend.

    A member's place is that of its digest with the beacon among all members', so nobody who chose an id before the
    beacon was drawn chose its bucket. There is one bucket where n < size.
    """
    order = sorted(members, key=lambda peer: digest("bucket", beacon, peer))
    count = max(1, len(order) // size)
    return tuple(tuple(sorted(order[first::count])) for first in range(count))
