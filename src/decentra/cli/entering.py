"""The body of ``decentra enter``, and of the visit that ``decentra init --invite`` makes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from decentra.cli.report import FAILED, emit
from decentra.errors import RemoteError, Unavailable
from decentra.peer.config import PeerFolder
from decentra.peer.entering import Entering, Standing

PAUSE = 2.0
"""Seconds between visits, where the command waits: an admission takes as long as people take to sign."""


def enter(state: Path, sign: bool, wait: float, as_json: bool) -> int:
    """Ask at the door of the inviter, or of any member, how far the admission is, and take what comes next.

    Args:
        state: the folder of an invited peer.
        sign: sign the amendment that adds this peer, unread.
        wait: seconds to ask again in, until this peer is a member.

    Returns:
        0 for a member, 1 where something is still awaited.

    Raises:
        LocalError: the folder is no invited peer's.
        Unavailable: nobody answers until the time is over.
        RemoteError: what was handed over is not what comes next.
    """
    folder = PeerFolder(state)
    entering, end = Entering(folder), time.monotonic() + wait
    while True:
        last = time.monotonic() + PAUSE > end
        try:
            found = _visit(entering, sign)
        except Unavailable:
            if last:
                raise
        else:
            if found.member or found.refused or last or (found.to_sign is not None and not sign):
                break
        time.sleep(PAUSE)
    emit(as_json, data(folder, found), lines(folder, found))
    return 0 if found.member else FAILED


def _visit(entering: Entering, sign: bool) -> Standing:
    if (found := entering.standing()).member:
        return found
    found = entering.visit()
    if sign and found.to_sign is not None:
        entering.sign()
        found = entering.visit()
    return found


def first_visit(folder: PeerFolder) -> tuple[dict[str, Any], list[str]]:
    """What a fresh folder's first visit came to; that nobody answered is no failure, a refusal is one."""
    try:
        found = Entering(folder).visit()
    except (Unavailable, RemoteError) as error:
        return {"reached": False, "refused": False, "says": str(error)}, [f"nobody let you in yet: {error}"]
    head = "the inviter refuses you:" if found.refused else "the inviter was asked:"
    return {"reached": True, **data(folder, found)}, [head, *lines(folder, found)]


def data(folder: PeerFolder, found: Standing) -> dict[str, Any]:
    pending = None if found.to_sign is None else str(found.to_sign)
    told = {"member": found.member, "pending": pending, "changes": list(found.changes)}
    return {**told, "says": found.says, "refused": found.refused}


def lines(folder: PeerFolder, found: Standing) -> list[str]:
    """What it says, and what to do next."""
    if found.member:
        group = folder.load_charter().group
        return [
            f"you are a member of {group.name}, epoch {group.epoch}",
            f"next: `decentra run PROGRAM --state {folder.path}`",
        ]
    if found.to_sign is not None:
        state = f"--state {folder.path}"
        told = [f"an amendment adds you, and lacks your signature: {found.to_sign}", *found.changes]
        told.append(f"next: read it (`decentra charter show {found.to_sign} {state}`); `decentra enter --sign {state}`")
        return [*told, "  signs it, and asks how far the others are"]
    if found.refused:
        return [found.says]
    return [found.says, f"next: `decentra enter --state {folder.path}` asks again"]
