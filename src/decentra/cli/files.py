"""The files that a command is given by name: a charter, or a folder named in its place."""

from __future__ import annotations

from pathlib import Path

from decentra.charter import Charter
from decentra.charter.toml import read_text
from decentra.errors import LocalError


def refuse_folder(file: Path, inner: str, instead: str = "") -> None:
    """Where a folder is named in place of a file, say which file in it was meant.

    Raises:
        LocalError: it is a folder.
    """
    if file.is_dir():
        raise LocalError(f"{file} is a folder; name {file / inner}{instead}")


def open_charter(file: Path, instead: str = "") -> tuple[str, Charter]:
    """A charter and its text; raises LocalError where the file holds none."""
    refuse_folder(file, "charter.toml", instead)
    text = read_text(file, "name a charter.toml")
    return text, Charter.parse(text, str(file))
