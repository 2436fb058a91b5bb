"""The bodies of ``decentra invite`` and of ``decentra init --invite``, and what a request comes to."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from decentra.charter import Charter, Member
from decentra.charter.invite import REQUEST, SECRET_BYTES, Invite, Kept, Request, day, guest_of
from decentra.charter.toml import load_tables, read_text
from decentra.cli.files import open_charter, refuse_folder
from decentra.cli.members import checked_name
from decentra.cli.report import FAILED, emit
from decentra.errors import LocalError
from decentra.peer.config import PeerFolder
from decentra.peer.invites import Invites

DAY = 86_400


def invite(state: Path, name: str | None, days: int, wait: float, as_json: bool) -> int:
    """Make a single-use invite and print its token; then answer whoever comes with it, where that is asked for.

    Returns:
        0, or 1 where the newcomer was waited for in vain.

    Raises:
        LocalError: the charter is not in force, this peer is no member, or the name is none or a member's.
    """
    folder = PeerFolder(state)
    identity, config = folder.load_identity(), folder.load_config()
    folder.refuse_alone(identity.id, folder.load_charter())
    _, charter = folder.lineage.in_force(identity.id)
    me = charter.member(identity.id)
    if name is not None:
        _free(charter, name)
    made = Invite(
        group=charter.group.name,
        charter=charter.hash,
        inviter=me.id,
        name=me.name,
        curve=me.curve,
        address=config.address,
        secret=os.urandom(SECRET_BYTES),
        expires=int(time.time()) + days * DAY,
        newcomer=name or "",
    )
    kept = folder.invites.keep(made)
    who = name or "one newcomer"
    lines = [
        made.token,
        f"it admits {who} to {made.group} once, until {day(made.expires)}; hand it over where nobody else reads",
        f"the newcomer types: decentra init --invite TOKEN --state DIR --name {name or 'NAME'}; its {REQUEST} comes to",
        f"  {folder.requests} while your peer runs, else by hand, for `decentra charter amend --add`",
    ]
    data = {"token": made.token, "group": made.group, "expires": made.expires, "name": name, "kept": str(kept)}
    emit(as_json, data, lines)
    return 0 if not wait or _answer(folder, made, wait) else FAILED


def _answer(folder: PeerFolder, made: Invite, seconds: float) -> bool:
    """Stand at the door until the newcomer is in the charter in force; whether it is."""
    from decentra.peer.porch import stand

    sys.stdout.flush()  # the token is wanted now
    public = guest_of(made.secret).public

    def admitted(charter: Charter) -> bool:
        return folder.invites.user_of(public) in charter.ids

    return stand(folder, seconds, admitted)


def _free(charter: Charter, name: str) -> None:
    checked_name(name)
    if name.lower() in (member.name.lower() for member in charter.members):
        raise LocalError(f"{name!r} is a member's name already; choose another with --name")


@dataclass(frozen=True)
class Answer:
    """A request that answers an invite of this folder's."""

    invites: Invites
    kept: Kept
    request: Request

    @property
    def member(self) -> Member:
        return self.request.member

    def check_group(self, charter: Charter) -> None:
        """Refuse an invite that was given into another group, which this folder was in then.

        Raises:
            LocalError: it was.
        """
        if self.kept.group != charter.group.name:
            raise LocalError(
                f"the invite that {self.member.label} shows is into {self.kept.group!r}, and this folder is in "
                f"{charter.group.name!r} now; make another one"
            )

    def use(self) -> None:
        self.invites.use(self.kept, self.request)


def read_request(folder: PeerFolder, file: Path) -> Answer | None:
    """The request in a file, held against the invite that it answers; None where the file is none.

    Raises:
        LocalError: it can't be read, does not verify, or is not admitted.
    """
    refuse_folder(file, "member.toml")
    where = str(file)
    text = read_text(file, "ask the new member for the member.toml in its folder")
    if "request" not in load_tables(text, where):
        return None
    request = Request.parse(text, where)
    kept = folder.invites.check(folder.load_identity().id, request, time.time())
    return Answer(folder.invites, kept, request)


def accept(token: str, name: str, charter_file: Path | None) -> tuple[Invite, str | None]:
    """The invite that a newcomer was given, and the text of the charter that it names, if that came along.

    Raises:
        LocalError: it is no invite, is over, is for another name, or the charter is another one.
    """
    found = Invite.parse(token)
    found.check(name, time.time())
    if charter_file is None:
        return found, None
    text, charter = open_charter(charter_file)
    check_invited(found.charter, found.name, charter, str(charter_file))
    return found, text


def check_invited(wanted: bytes, inviter: str, charter: Charter, where: str) -> None:
    """Hold a charter against the hash in an invite, from where a newcomer's trust begins.

    Raises:
        LocalError: it is another one, or not what its members signed.
    """
    if charter.hash != wanted:
        raise LocalError(
            f"{where} is not the charter that the invite names ({wanted.hex()[:8]}); ask {inviter} for that one, and "
            "for each amendment since"
        )
    charter.check(signed=charter.group.previous is None, where=where)
