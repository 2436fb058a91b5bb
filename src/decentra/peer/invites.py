"""The invites that a member has given, ``invites/<id16>.toml`` in its folder; none of them holds a secret."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from decentra.charter import toml
from decentra.charter.invite import Invite, Kept, Request
from decentra.charter.toml import read_text, save_text
from decentra.crypto.keys import peer_id
from decentra.errors import LocalError
from decentra.types import PeerId


@dataclass(frozen=True)
class Invites:
    """The invites in a peer's folder."""

    path: Path

    def _file(self, public: bytes) -> Path:
        return self.path / f"{peer_id(public).hex()[:16]}.toml"

    def keep(self, invite: Invite) -> Path:
        """Keep a fresh invite, before its token is shown.

        Raises:
            LocalError: the folder can't be written.
        """
        kept = Kept.of(invite)
        self._save(kept)
        return self._file(kept.public)

    def check(self, me: PeerId, request: Request, now: float) -> Kept:
        """The invite that a request answers, if it still holds.

        Args:
            me: this peer.
            request: verified.
            now: seconds since 1970.

        Raises:
            LocalError: it answers somebody else's invite, or one that is unknown, over, used or for another.
        """
        label, asked = request.member.label, request.request
        if asked.inviter != me:
            raise LocalError(f"{label} was invited by {asked.inviter}, who alone can admit it so; hand the request on")
        file = self._file(asked.invite)
        if not file.exists():
            raise LocalError(f"{label} shows an invite that {self.path} does not hold; make another one for it")
        kept = self._read(file)
        if kept.public != asked.invite:
            raise LocalError(f"{file} is not the invite that {label} shows; make another one for it")
        toml.raise_problems("the request", kept.problems(request, now))
        return kept

    def used_by_another(self, request: Request) -> bool:
        """Whether the invite that a request answers, if it is here at all, admitted somebody else."""
        file = self._file(request.request.invite)
        return file.exists() and self._read(file).used not in (None, request.member.id)

    def use(self, kept: Kept, request: Request) -> None:
        """Note that an invite was used, before anything follows from it.

        Raises:
            LocalError: the folder can't be written.
        """
        self._save(kept.use(request))

    def open(self, now: float) -> list[Kept]:
        """The invites that are not over, used or not; what can't be read admits nobody.

        Args:
            now: seconds since 1970.
        """
        found = []
        for file in sorted(self.path.glob("*.toml")):
            with suppress(LocalError):
                kept = self._read(file)
                if now < kept.expires:
                    found.append(kept)
        return found

    def user_of(self, public: bytes) -> PeerId | None:
        """Who used an invite, named by its guest's public key."""
        return self._read(self._file(public)).used

    def address_of(self, peer: PeerId) -> str | None:
        """Where a newcomer said that it would be reached, if it was invited from here."""
        known = (self._read(file) for file in sorted(self.path.glob("*.toml")))
        return next((kept.address for kept in known if kept.used == peer), None)

    def _read(self, file: Path) -> Kept:
        return toml.read(read_text(file, "make another invite"), Kept, str(file))

    def _save(self, kept: Kept) -> None:
        try:
            self.path.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise LocalError(f"cannot make {self.path}: {error.strerror}; check the folder and its owner") from None
        save_text(self._file(kept.public), kept.to_toml(), 0o600)
