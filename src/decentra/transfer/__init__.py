"""Everything in flight between this peer and one other: ordered entries, and blobs with credits and resume.

`Link` is sans-IO: it takes what a transport received and gives back events, sends through a function that it was given,
and knows the time only from `Link.tick`. It trusts nothing that arrives; what breaks a rule raises `RemoteError`.
"""

from decentra.transfer.blob import Announcement, blob_root, piece_digests
from decentra.transfer.events import (
    Arrived,
    Completed,
    Corrupt,
    Delivered,
    Elsewhere,
    Event,
    Handed,
    Holds,
    Rejected,
    Restarted,
    Whispered,
)
from decentra.transfer.link import Link

__all__ = [
    "Announcement",
    "Arrived",
    "Completed",
    "Corrupt",
    "Delivered",
    "Elsewhere",
    "Event",
    "Handed",
    "Holds",
    "Link",
    "Rejected",
    "Restarted",
    "Whispered",
    "blob_root",
    "piece_digests",
]
