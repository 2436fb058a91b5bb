"""What survives a loss of power: a file's name, and not only its bytes."""

from __future__ import annotations

import os
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Makes durable which names a folder has, and for which files: what was made, renamed or removed there.

    Raises:
        OSError: the disk fails, or it is no folder that can be read.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
