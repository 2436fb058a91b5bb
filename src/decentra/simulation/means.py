"""What the members of buckets bring to the combining: the mean that each bucket's sum gave, alike at all of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from decentra.charter.charter import Charter
from decentra.simulation.hazards import generator
from decentra.simulation.ports import SeededRandom
from decentra.types import PeerId

LACKING = 2
"""In one schedule of so many, of those in which something goes wrong, some bring no mean."""

PEER_LACKS, BUCKET_LACKS = 0.08, 0.05
"""How likely it is then that a peer, or a whole bucket, has no result of its bucket's round."""


def drawn(seed: int, name: bytes, size: int) -> NDArray[np.float32]:
    """A vector of a seed; each name is another one."""
    draw = np.frombuffer(SeededRandom(seed, name)(2 * size), np.int16)
    return draw.astype(np.float32) * np.float32(0.09 / 32768)


class Means:
    """The buckets' means of one schedule.

    Args:
        charter: of the combining, with the buckets; or another one, which has none.
        seed: the schedule.
        size: coordinates of a vector.
        some_lack: whether buckets' rounds may have failed, for some of their members or for all.
    """

    def __init__(self, charter: Charter, seed: int, size: int, some_lack: bool) -> None:
        self._buckets, self._least = charter.drawn_buckets, charter.bucket_corrupt + 2
        self._seed, self._size = seed, size
        self._some_lack = some_lack and generator(seed, "means").randrange(LACKING) == 0

    def of(self, peer: PeerId, name: str, boot: int) -> tuple[NDArray[np.float32], tuple[PeerId, ...]]:
        """What a peer brings to a round, and whose updates are in it; zeros and nobody where it has no mean.

        Args:
            name: the round's; the second is called as the first where its buckets' sums are told once more.
            boot: the peer's; who has started again was in its bucket's sum only if that is a later one.
        """
        (bucket,) = (bucket for bucket in self._buckets if peer in bucket)
        rng = generator(self._seed, f"means/{name}/{bucket[0].hex()}")
        summed = tuple(sorted(rng.sample(bucket, rng.randint(self._least, len(bucket)))))
        lacking = set(bucket) if rng.random() < BUCKET_LACKS else {one for one in bucket if rng.random() < PEER_LACKS}
        began_later = name.startswith("boot") or (name == "first" and boot > 1)
        if began_later or (self._some_lack and peer in lacking):
            return np.zeros(self._size, np.float32), ()
        return drawn(self._seed, bucket[0] + name.encode(), self._size), summed
