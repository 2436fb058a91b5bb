"""Keeps rounds' secrets for self-audit, where ``decentra.toml`` says so: ``keep_secrets = N``, of the latest N rounds.

Whoever reads this folder and has what the others received reads this peer's updates. It is there for who wants to show
that its own peer did what it signed, and by default nothing is kept.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from decentra.audit import secrets
from decentra.audit.secrets import DealSeeds, Kept
from decentra.driver.blobs import Keeps
from decentra.machine.effects import Job
from decentra.protocols.catalogue import registry
from decentra.protocols.secagg.deal import DealSecrets, OpenDeals
from decentra.types import RoundId

PROTOCOL = "secagg"
SESSIONS = 4
"""Sessions of which secrets are kept: those of a grid, or of some epochs."""


class Secrets:
    """A peer's folder of secrets.

    Args:
        folder: made, for its owner alone, when there is something to keep.
        rounds: of how many rounds of a session; with 0 what is there from earlier is erased, and nothing is kept.
    """

    def __init__(self, folder: Path, rounds: int) -> None:
        self.folder, self.rounds = folder, rounds
        self._failed = False
        if not rounds:
            self._erase(folder.glob("*") if folder.is_dir() else ())

    def keeper(self, session: bytes) -> SessionSecrets:
        """What keeps a session's secrets. Those of all but the latest sessions are erased."""
        latest: dict[str, int] = {}
        for path in self.folder.glob("*-*"):
            place = secrets.round_of(path)
            if place is not None:
                latest[place[0]] = max(latest.get(place[0], 0), path.stat().st_mtime_ns)
        for old in sorted(latest, key=lambda name: latest[name], reverse=True)[SESSIONS:]:
            self._erase(self.folder.glob(f"{old}-*"))
        return SessionSecrets(self, session)

    def write(self, path: Path, data: bytes | memoryview) -> None:
        """Write a file that only its owner reads. A disk that takes no more is said once, and rounds go on."""
        beside = path.with_name(f"{path.name}.part")
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.folder.chmod(0o700)
            mode = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
            with os.fdopen(os.open(beside, mode, 0o600), "wb") as file:
                file.write(data)
            beside.replace(path)
        except OSError as error:
            self._say(f"a round's secrets can't be kept in {self.folder} ({error.strerror})")

    def expire(self, session: bytes, number: int) -> None:
        """Erase what is of earlier rounds of a session than are to be kept."""
        own = session.hex()[:16]
        found = ((secrets.round_of(path), path) for path in self.folder.glob(f"{own}-*"))
        self._erase(path for place, path in found if place is not None and place[1] <= number - self.rounds)

    def _erase(self, paths: Iterable[Path]) -> None:
        for path in list(paths):
            try:
                path.unlink()
            except OSError as error:
                self._say(f"{path} can't be erased ({error.strerror})")

    def _say(self, what: str) -> None:
        if not self._failed:
            self._failed = True
            logging.getLogger("decentra").warning("%s; check the disk and who owns the folder (said once)", what)


class SessionSecrets:
    """See ``driver.blobs.Keeper``."""

    def __init__(self, room: Secrets, session: bytes) -> None:
        self._room, self._session = room, session
        self._dealt: set[RoundId] = set()
        """The rounds in which this peer dealt: in others no mask hides anything, and there is nothing to keep."""

    def ran(self, job: Job, drawn: bytes) -> None:
        match job:
            case DealSecrets(table=table, me=me, sealing_keys=keys):
                self._dealt = {table.round_id}
                place = (table.session, table.round_id, table.view)
                seeds = DealSeeds(*place, me, table.roster, table.quorum, keys, drawn)
                self._room.expire(self._session, table.round_id.number)
                self._room.write(self._kept(table.round_id).path(secrets.DEAL, table.view), seeds.pack())
            case OpenDeals(table=table, deals=deals):
                encode = registry(PROTOCOL).encode
                packed = secrets.pack_deals({dealer: encode(one) for dealer, one in deals.items()})
                self._room.write(self._kept(table.round_id).path(secrets.DEALS, table.view), packed)

    def encoded(self, round_id: RoundId, vector: NDArray[Any]) -> None:
        if round_id not in self._dealt:
            return
        raw = vector.astype(vector.dtype.newbyteorder("<"), copy=False)
        self._room.write(self._kept(round_id).path(secrets.VECTOR), raw.data.cast("B"))

    def _kept(self, round_id: RoundId) -> Kept:
        return Kept(self._room.folder, self._session, round_id.number)


def keeps_for(folder: Path, rounds: int) -> Keeps | None:
    """What keeps the secrets of so many rounds of each session; None, and nothing is left of earlier ones, for 0."""
    room = Secrets(folder, rounds)
    return room.keeper if rounds else None
