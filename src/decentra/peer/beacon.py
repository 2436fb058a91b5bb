"""``beacon.toml``: an epoch's beacon and the drawers' signatures on it, as far as one peer knows them.

A drawer writes its own signature here before it tells anybody: whoever loses the file must not draw again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import Field

from decentra.charter import toml
from decentra.charter.charter import Id, Key, Signature
from decentra.charter.toml import Section
from decentra.gossip.beacon import Draw

FILE = "beacon.toml"
_MEND = "take that of another member; only where this peer is no drawer may you simply remove it"


class Kept(Section):
    """The file: the hash of the charter whose epoch it is, the beacon, and a drawer's id → its signature."""

    charter: Key = Field(description=_MEND)
    beacon: Key = Field(description=_MEND)
    signatures: Mapping[Id, Signature] = Field(description=_MEND)


def load(path: Path, charter: bytes) -> Draw | None:
    """What the file holds for a charter; None where there is none, or it is an earlier epoch's.

    Args:
        path: the file.
        charter: the charter's hash. Signatures are not judged here.

    Raises:
        LocalError: the file is no such file.
    """
    if not path.exists():
        return None
    kept = toml.read(toml.read_text(path, _MEND), Kept, str(path))
    return Draw(kept.beacon, dict(kept.signatures)) if kept.charter == charter else None


def save(path: Path, charter: bytes, draw: Draw) -> None:
    """Replace the file, durably.

    Raises:
        LocalError: it can't be written.
    """
    signed = {peer.hex(): made.hex() for peer, made in sorted(draw.signatures.items())}
    toml.save_text(path, toml.write({"charter": charter, "beacon": draw.beacon, "signatures": signed}))
