"""Where the rooms beside the code are: ``protocols/`` (charter templates) and ``specs/``."""

from __future__ import annotations

from pathlib import Path

from decentra.errors import LocalError

_PACKAGE = Path(__file__).resolve().parent


def locate(room: str, package: Path = _PACKAGE) -> Path:
    """The folder of a room, ``"protocols"`` or ``"specs"``.

    The checkout that holds ``src/decentra`` wins over the copy in the package: an editable install keeps a copy that
    goes stale. A wheel has the copy only.

    Args:
        room: the folder's name.
        package: the folder of the package ``decentra``; another one in tests.

    Raises:
        LocalError: the installation lacks the room.
    """
    source = package.parent
    checkout = source.parent
    candidates = [package / "_data" / room]
    if source.name == "src" and (checkout / "pyproject.toml").is_file():
        candidates.insert(0, checkout / room)
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
    raise LocalError(f"this installation of decentra lacks its {room!r} folder; reinstall it with pip")
