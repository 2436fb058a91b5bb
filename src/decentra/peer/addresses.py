"""Where other members say that members are, ``addresses.toml``: for those that ``decentra.toml`` has no address for.

An address is a hint. Nobody signs it, and nobody has to: who answers there proves its key, or is not heard.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated

from pydantic import AfterValidator, Field

from decentra.charter import toml
from decentra.charter.invite import Where
from decentra.charter.toml import Section
from decentra.types import PeerId

FILE = "addresses.toml"
_ID_DIGITS = 64


def _ids(table: Mapping[str, str]) -> Mapping[str, str]:
    for key in table:
        if len(key) != _ID_DIGITS or key.strip("0123456789abcdef"):
            raise ValueError(f"has addresses by a member's whole id, and {toml.shown(key)} is none")
    return MappingProxyType(dict(sorted(table.items())))


class Addresses(Section):
    """Addresses by id in hexadecimal."""

    peers: Annotated[Mapping[str, Where], AfterValidator(_ids)] = Field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def parse(cls, text: str, where: str = FILE) -> Addresses:
        """The addresses that a TOML text holds.

        Raises:
            LocalError: problems of form.
        """
        return toml.read(text, cls, where)

    def get(self, peer: PeerId) -> str | None:
        """A peer's address, if it is known."""
        return self.peers.get(peer.hex())

    def to_toml(self) -> str:
        return toml.write({"peers": dict(self.peers)})
