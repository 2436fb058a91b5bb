"""The bodies of ``decentra keys``, ``init`` and ``--version``."""

from __future__ import annotations

import re
import socket
import time
import tomllib
from importlib import metadata
from pathlib import Path

from decentra.charter import Charter, Member
from decentra.charter.invite import Invite, Request
from decentra.charter.toml import read_text, save_text
from decentra.cli.files import refuse_folder
from decentra.cli.members import checked_name, read_members
from decentra.cli.report import FAILED, emit
from decentra.crypto.keys import Identity
from decentra.data import locate
from decentra.errors import LocalError, did_you_mean
from decentra.peer.config import Config, PeerFolder, write_config

_DEFAULT_TEMPLATE = "secagg"


def version() -> str:
    """The version installed, or the checkout's where nothing is."""
    try:
        return metadata.version("decentra")
    except metadata.PackageNotFoundError:
        project = tomllib.loads((locate("protocols").parent / "pyproject.toml").read_text())
        return str(project["project"]["version"])


def keys(state: Path, name: str | None, as_json: bool) -> None:
    """Make the identity where there is none, and write ``member.toml``.

    Raises:
        LocalError: the folder or a file in it cannot be used, or the name is none.
    """
    folder = PeerFolder(state)
    chosen = checked_name(name if name is not None else _name_of(folder))
    fresh = not folder.identity.exists()
    identity = _identity(folder)
    member = Member.of(identity, chosen)
    renamed = _rename_invited(folder, identity, chosen)
    save_text(folder.member, member.to_toml())
    data = {
        "name": chosen,
        "id": identity.id.hex(),
        "ed25519": identity.public.hex(),
        "curve": identity.curve_public.hex(),
        "member": str(folder.member),
        "created": fresh,
    }
    lines = [
        f"{'made new keys' if fresh else 'keys'} in {state}",
        *(f"  {key:8} {data[key]}" for key in ("name", "id", "ed25519", "curve")),
        f"{folder.member} is this peer's record: hand it to whoever keeps the charter",
        *_after_keys(folder, chosen),
        *([f"your request has the new name; next: `decentra enter --state {state}`"] if renamed else []),
    ]
    emit(as_json, data, lines)


def _rename_invited(folder: PeerFolder, identity: Identity, name: str) -> bool:
    """Give an invited peer that is not admitted yet another name in its request and decentra.toml.

    Raises:
        LocalError: the invite is over or for another name, or decentra.toml has its name in another form.
    """
    request = folder.load_request() if folder.token.exists() else None
    if request is None or request.member.name == name:
        return False
    invite = Invite.parse(read_text(folder.token, "take the invite again"))
    invite.check(name, time.time())
    text = read_text(folder.config, "take the invite again")
    config = re.sub(r'(?m)^(name\s*=\s*)"[^"\n]*"', rf'\g<1>"{name}"', text, count=1)
    if Config.parse(config, str(folder.config)).peer.name != name:
        raise LocalError(f"{folder.config} has its name in another form; set name in [peer] to {name!r} first")
    save_text(folder.request, Request.of(invite, identity, name, request.request.address).to_toml())
    save_text(folder.config, config)
    return True


def _after_keys(folder: PeerFolder, name: str) -> list[str]:
    """Keys alone make no peer."""
    if folder.config.exists():
        return []
    init = f"decentra init --state {folder.path} --name {name}"
    return [f"next: `{init} --bind ADDRESS` makes the rest of the folder, around these keys"]


def init(
    state: Path,
    name: str,
    template: str | None,
    bind: str,
    advertise: str | None,
    charter_file: Path | None,
    invite: str | None,
    as_json: bool,
) -> int:
    """Make a peer's folder. Everything is checked before anything is written; keys made and a charter signed before
    are kept.

    Returns:
        0, or 1 where the inviter refuses this peer.

    Raises:
        LocalError: the folder holds a peer or other things, or an option is wrong.
    """
    folder = PeerFolder(state)
    checked_name(name)
    _refuse_occupied(folder)
    if invite is not None:
        return _init_invited(folder, name, invite, (bind, advertise), template, charter_file, as_json)
    given = _given(folder, template, charter_file)
    config = write_config(name, bind, advertise or _guess_address(bind))
    text = _begin(template, given)
    charter = Charter.parse(text, str(given or template or _DEFAULT_TEMPLATE))
    if given is not None:
        charter.check(signed=False, where=str(given))
    identity = _identity(folder)
    if identity.id in charter.ids and charter.member(identity.id).name != name:
        called = charter.member(identity.id).name
        raise LocalError(f"{given} calls this peer {called!r}, not {name!r}; use --name {called}")
    member = Member.of(identity, name)
    if given is None:
        charter = charter.with_members([member])
        text = charter.to_toml(like=text)
    save_text(folder.member, member.to_toml())
    save_text(folder.charter, text)
    save_text(folder.config, config)
    _tell_made(folder, name, Config.parse(config).address, charter, identity, as_json)
    return 0


def _init_invited(
    folder: PeerFolder,
    name: str,
    token: str,
    where: tuple[str, str | None],
    template: str | None,
    charter_file: Path | None,
    as_json: bool,
) -> int:
    """The folder of a member-to-be: keys, addresses, and the request that answers an invite."""
    from decentra.cli.entering import first_visit
    from decentra.cli.invites import accept

    if template is not None:
        raise LocalError("--template and --invite exclude each other; an invite is into a group that has its charter")
    if folder.charter.exists():
        raise LocalError(f"{folder.path} has a charter already; choose a new folder with --state")
    found, text = accept(token, name, charter_file)
    config = write_config(name, where[0], where[1] or _guess_address(where[0]), {found.name: found.address})
    identity = _identity(folder)
    address = Config.parse(config).address
    request = Request.of(found, identity, name, address)
    save_text(folder.member, request.member.to_toml())
    save_text(folder.request, request.to_toml())
    save_text(folder.token, f"{found.token}\n", 0o600)
    if text is not None:
        save_text(folder.charter, text)
    save_text(folder.config, config)
    visited, told = first_visit(folder)
    data = {
        "state": str(folder.path),
        "name": name,
        "id": identity.id.hex(),
        "address": address,
        "group": found.group,
        "inviter": found.name,
        "hash": found.charter.hex(),
        "request": str(folder.request),
        "member": False,
        **visited,
    }
    lines = [f"made {folder.path}: {name} ({identity.id}), invited into {found.group} by {found.name}", *told]
    if not visited["reached"]:
        lines += [
            f"next: `decentra enter --state {folder.path}` once {found.name}'s peer runs; or, by hand: give "
            f"{folder.request} to {found.name},",
            "get back the charter in force and the amendment that adds you, and take one after the other with",
            f"  `decentra charter sign --state {folder.path} --charter FILE`",
        ]
    emit(as_json, data, lines)
    return FAILED if visited["refused"] else 0


def _tell_made(
    folder: PeerFolder, name: str, address: str, charter: Charter, identity: Identity, as_json: bool
) -> None:
    data = {
        "state": str(folder.path),
        "name": name,
        "id": identity.id.hex(),
        "address": address,
        "protocol": charter.protocol.name,
        "hash": charter.hash.hex(),
        "member": identity.id in charter.ids,
    }
    emit(as_json, data, _next_steps(folder, name, address, charter, identity))


def _next_steps(folder: PeerFolder, name: str, address: str, charter: Charter, identity: Identity) -> list[str]:
    lines = [f"made {folder.path}: {name} ({identity.id}), {charter.protocol.name}"]
    if identity.id in charter.ids:
        lines.append("next: the others make their folders and hand you member.toml, for `decentra charter add`")
    else:
        lines.append(f"next: hand {folder.member} to whoever keeps the charter; you are not in it yet")
    lines.append(f'others reach you by this line in [peers] of their decentra.toml: {name} = "{address}"')
    return lines


def _name_of(folder: PeerFolder) -> str:
    """The name that the peer has already, in decentra.toml or in member.toml; the folder's own for a new one."""
    if folder.config.exists():
        return folder.load_config().peer.name
    if folder.member.exists():
        return read_members(folder.member)[0].name
    return folder.path.resolve().name


def _identity(folder: PeerFolder) -> Identity:
    """The folder's keys, made if need be; the folder is its owner's alone from then on."""
    try:
        folder.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not folder.identity.exists():
            if not folder.config.exists() and any(folder.path.iterdir()):
                raise LocalError(f"{folder.path} holds other things; choose a new folder with --state")
            folder.path.chmod(0o700)
            Identity.generate().save(folder.identity)
    except OSError as error:
        raise LocalError(f"cannot make {folder.path}: {error.strerror}; choose another folder with --state") from None
    return Identity.load(folder.identity)


def _refuse_occupied(folder: PeerFolder) -> None:
    if folder.config.exists():
        raise LocalError(f"{folder.path} holds a peer already; choose a new folder with --state")


def _guess_address(bind: str) -> str | None:
    """Under a bind to everywhere, this host's name and the same port; others may need another name for it."""
    host, colon, port = bind.removeprefix("tcp://").rpartition(":")
    if colon and host in ("0.0.0.0", "[::]"):
        return f"tcp://{socket.gethostname()}:{port}"
    return None


def _given(folder: PeerFolder, template: str | None, charter_file: Path | None) -> Path | None:
    """The charter that is there already: the one that was named, or the folder's own; None where a template begins."""
    if template is not None and charter_file is not None:
        raise LocalError("--template and --charter exclude each other; name the one that the charter begins with")
    if template is None and charter_file is None and folder.charter.exists():
        return folder.charter
    return charter_file


def _begin(template: str | None, charter_file: Path | None) -> str:
    """The text of the charter to begin with."""
    if charter_file is not None:
        refuse_folder(charter_file, "charter.toml")
        return read_text(charter_file, "name the group's charter with --charter")
    name = _DEFAULT_TEMPLATE if template is None else template
    room = locate("protocols")
    known = sorted(path.stem for path in room.glob("*.toml"))
    if name not in known:
        mend = did_you_mean(name, known, f"choose one of {', '.join(known)}")
        raise LocalError(f"there is no charter template {name!r}; {mend}")
    return read_text(room / f"{name}.toml", "reinstall decentra")
