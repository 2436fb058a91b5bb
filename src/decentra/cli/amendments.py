"""The bodies of ``decentra charter amend``, and of ``charter sign`` and ``show`` where an amendment is meant."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decentra.charter import Charter, Member
from decentra.charter.amend import Awaited, amended, awaited, changed_terms, faults, judge
from decentra.charter.toml import raise_problems, save_text
from decentra.cli.files import open_charter
from decentra.cli.invites import Answer, read_request
from decentra.cli.members import by_name, read_members
from decentra.cli.report import emit
from decentra.crypto.keys import Identity
from decentra.errors import LocalError, did_you_mean
from decentra.peer.config import PeerFolder
from decentra.peer.lineage import Lineage, written
from decentra.types import PeerId

SHORT_ID = 8
"""Digits of an id that stand for it."""


@dataclass(frozen=True)
class Change:
    """An amendment beside the charter that it amends, for people and for programs."""

    old: Charter
    new: Charter

    @property
    def added(self) -> list[Member]:
        return by_name(member for member in self.new.members if member.id not in self.old.ids)

    @property
    def removed(self) -> list[Member]:
        return by_name(member for member in self.old.members if member.id not in self.new.ids)

    @property
    def terms(self) -> list[str]:
        """What else changes."""
        return list(changed_terms(self.old, self.new))

    @property
    def lacks(self) -> Awaited:
        return awaited(self.old, self.new)

    @property
    def in_force(self) -> bool:
        return not judge(self.old, self.new)

    def data(self) -> dict[str, Any]:
        lacks, valid = self.lacks, self.new.without_stale_signatures().signatures
        waits = [*lacks.added, *(lacks.kept if lacks.more else ())]
        return {
            "hash": self.new.hash.hex(),
            "epoch": self.new.group.epoch,
            "added": [member.name for member in self.added],
            "removed": [member.name for member in self.removed],
            "changes": self.terms,
            "signed": [member.name for member in by_name(self.new.members) if member.id in valid],
            "missing": [member.name for member in by_name(waits)],
            "more": lacks.more + len(lacks.added),
            "in_force": self.in_force,
        }

    def lines(self) -> list[str]:
        """What it changes, and who has still to sign."""
        told = [f"it adds {member.label}" for member in self.added]
        told += [f"it removes {member.label}" for member in self.removed]
        told += self.terms or ([] if told else ["it begins a new epoch, and changes nothing else"])
        return [*told, *self.waits()]

    def waits(self) -> list[str]:
        lacks = self.lacks
        told = [f"still to sign, since it adds them: {_names(lacks.added)}"] if lacks.added else []
        if lacks.more:
            told.append(f"still to sign: {lacks.more} of {_names(lacks.kept)}")
        return told


def _names(members: Sequence[Member]) -> str:
    return ", ".join(member.name for member in by_name(members))


# ── amend ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def amend(
    state: Path, add: Sequence[Path], remove: Sequence[str], terms: Sequence[str], new_epoch: bool, as_json: bool
) -> None:
    """Begin an amendment of the charter in force, signed by this member.

    Args:
        state: the member's folder.
        add: files of who joins.
        remove: names of who leaves.
        terms: what changes, ``table.key=value``.
        new_epoch: it may change nothing but the epoch.
        as_json: print one JSON object.

    Raises:
        LocalError: the charter is not in force, the amendment changes nothing, is not sound or not possible, or this
            member signed another one. Nothing is written then.
    """
    folder = PeerFolder(state)
    identity = folder.load_identity()
    folder.refuse_alone(identity.id, folder.load_charter())
    text, old = folder.lineage.in_force(identity.id)
    old.member(identity.id)
    gone = [_found(old, name) for name in remove]
    if identity.id in gone:
        raise LocalError(
            "a member can't remove itself, since a removed member's signature counts for nothing; ask another member, "
            "and `Peer.close()` leaves at once"
        )
    members: list[Member] = []
    answers: list[Answer] = []
    for file in add:
        if (answer := read_request(folder, file)) is None:
            members.extend(read_members(file))
        else:
            answer.check_group(old)
            answers.append(answer)
    new = amended(old, add=[*members, *(one.member for one in answers)], remove=gone, terms=_terms(terms))
    raise_problems("the amendment", faults(old, new))
    if not new_epoch and new.ids == old.ids and not changed_terms(old, new):
        raise LocalError(
            "this amendment changes nothing, and its signature would bind you to it; name what changes with --add, "
            "--remove or --set, or begin a mere new epoch with --new-epoch"
        )
    folder.lineage.refuse_second(old, new)
    for answer in answers:
        answer.use()
    _settle(folder.lineage, identity, text, old, new, as_json, "made and signed")


def _found(charter: Charter, name: str) -> PeerId:
    """A member by name, or by at least eight digits of its id."""
    for member in charter.members:
        if name == member.name or (len(name) >= SHORT_ID and member.id.hex().startswith(name)):
            return member.id
    names = [member.name for member in charter.members]
    mend = did_you_mean(name, names, "see `decentra charter show` for the members")
    raise LocalError(f"{name!r} is no member of {charter.group.name!r}; {mend}")


def _terms(lines: Sequence[str]) -> dict[str, dict[str, Any]]:
    """``--set table.key=value``, the value as TOML has it or a bare word; nothing after the = leaves the key out."""
    terms: dict[str, dict[str, Any]] = {}
    for line in lines:
        path, equals, given = line.partition("=")
        table, dot, key = path.strip().partition(".")
        if not (equals and dot and key):
            raise LocalError(f"--set {line!r} names no term; write it as --set training.steps=40")
        try:
            value = tomllib.loads(f"value = {given}")["value"] if given.strip() else None
        except tomllib.TOMLDecodeError:
            value = given.strip()
        terms.setdefault(table, {})[key] = value
    return terms


# ── sign ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def sign(state: Path, text: str, given: Charter, where: str, copies: Sequence[Path], as_json: bool) -> None:
    """Sign an amendment, take the signatures of copies, and let it take the charter's place once it is in force.

    Args:
        state: the peer's folder.
        text: the amendment as it came.
        given: the same.
        where: its name, for messages.
        copies: more copies of it.
        as_json: print one JSON object.

    Raises:
        LocalError: it is not an amendment of this folder's charter, is unsound, removes this member, or this member
            signed another one. Nothing is written then.
    """
    folder = PeerFolder(state)
    identity, lineage = folder.load_identity(), folder.lineage
    if not lineage.charter.exists() or folder.load_charter().ids == (identity.id,):
        raise LocalError(
            f"{where} amends a charter that {state} does not have, so nobody here can tell who had to sign it; get "
            f"the charter in force from a member, put it at {lineage.charter}, and sign then"
        )
    if given.hash == folder.load_charter().hash:
        _agree(folder, identity, text, given, copies, as_json)
        return
    before, old = lineage.in_force(identity.id)
    raise_problems(where, faults(old, given))
    new = given.without_stale_signatures()
    if (kept := lineage.pending(new)).exists():
        new = new.merge(open_charter(kept)[1].without_stale_signatures(), str(kept))
    for copy in copies:
        new = new.merge(open_charter(copy)[1].without_stale_signatures(), str(copy))
    _settle(lineage, identity, before, old, new, as_json, "signed")


def pending(state: Path, copy: Path) -> tuple[str, Charter, Path] | None:
    """The amendment in the folder that ``copy`` is a copy of, if it is one of any.

    Raises:
        LocalError: it is an amendment, and not one that is begun here.
    """
    lineage = Lineage(state)
    _, charter = open_charter(copy)
    if charter.group.previous is None:
        return None
    if lineage.charter.exists() and open_charter(lineage.charter)[1].hash == charter.hash:
        return None
    file = lineage.pending(charter)
    if not file.exists():
        raise LocalError(f"{copy} is an amendment that you have not signed; read it, and sign it with --charter {copy}")
    return (*open_charter(file), file)


def _agree(
    folder: PeerFolder, identity: Identity, text: str, given: Charter, copies: Sequence[Path], as_json: bool
) -> None:
    """Sign the amended charter that is in force already: what it says then binds this member too."""
    new = folder.load_charter().merge(given.without_stale_signatures())
    old = folder.lineage.ancestors(new)[0]
    for copy in copies:
        new = new.merge(open_charter(copy)[1].without_stale_signatures(), str(copy))
    new = new.sign(identity)
    save_text(folder.charter, written(new, text))
    emit(as_json, {**Change(old, new).data(), "pending": None}, [f"signed {_title(new)}, which is in force"])


def _settle(
    lineage: Lineage, identity: Identity, text: str, old: Charter, new: Charter, as_json: bool, done: str
) -> None:
    """Sign an amendment if this member may, keep it, or put it in force; and say what came of it."""
    change = Change(old, new)
    if identity.id not in new.ids:
        _refuse_outsider(identity.id, change)
    elif not (change.in_force and lineage.promised(old) not in (None, new.hash)):
        # a second successor may be signed only once it is in force without this signature, and then need not be
        made = new.sign(identity)
        lineage.promise(old, made)
        change = Change(old, made)
    else:
        done = "took, without signing it,"
    data, title = change.data(), _title(change.new)
    if change.in_force:
        lineage.adopt(old, text, change.new)
        lines = [f"{done} {title}", *change.lines(), *_in_force(lineage, change)]
        emit(as_json, {**data, "pending": None}, lines)
        return
    file = lineage.keep(change.new, text)
    lines = [f"{done} {title}", *change.lines()]
    lines.append(f"next: hand {file} to them; each reads it (`decentra charter show FILE`), and signs it with")
    lines.append("  `decentra charter sign --charter FILE`; then `decentra charter sign --merge` their copies here")
    emit(as_json, {**data, "pending": str(file)}, lines)


def _refuse_outsider(me: PeerId, change: Change) -> None:
    """Who is removed signs nothing; who was no member yet may follow the group, but only once others are agreed."""
    old, new = change.old, change.new
    if me in old.ids:
        by = _names([member for member in new.members if member.id in new.signatures])
        state = "is in force" if change.in_force else "is begun"
        raise LocalError(
            f"an amendment for epoch {new.group.epoch} {state} that removes you, signed by {by or 'nobody'}; a removed "
            "member's signature counts for nothing, so talk to them"
        )
    if not change.in_force:
        raise LocalError(
            f"this amendment for epoch {new.group.epoch} does not add you, so you can't sign it; ask for one that does"
        )


def _title(charter: Charter) -> str:
    return f"the amendment of {charter.group.name} for epoch {charter.group.epoch} ({charter.hash.hex()[:8]})"


def _in_force(lineage: Lineage, change: Change) -> list[str]:
    new = change.new
    lines = [
        f"it is in force: {lineage.charter} is the charter of epoch {new.group.epoch} now, and "
        f"{lineage.ancestor(change.old.group.epoch)} the one before",
        "peers that run hand it on to each other, and to who comes back; without any, every other member takes this "
        "charter.toml with `decentra charter sign --charter FILE`",
    ]
    if change.added:
        known = PeerFolder(lineage.path).invites
        names = ", ".join(
            f'{member.name} = "{known.address_of(member.id) or "tcp://host:7431"}"' for member in change.added
        )
        lines.append(f"new members' addresses, for [peers] of your decentra.toml, from where they go with it: {names}")
    if change.terms:
        lines.append("terms change, so every program is started again; until then it is in the old epoch")
    else:
        lines.append("peers that run go over with their next round; epochs do not mix")
    return lines


# ── show ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def compared(charter: Charter, state: Path) -> Change | None:
    """The charter beside the one in a folder that it amends, or beside the one that was before it there.

    Raises:
        LocalError: the folder's charter can't be read.
    """
    lineage = Lineage(state)
    if charter.group.previous is None or not lineage.charter.exists():
        return None
    for file in (lineage.charter, lineage.ancestor(charter.group.epoch - 1)):
        if file.exists() and (old := open_charter(file)[1]).hash == charter.group.previous:
            return Change(old, charter)
    return None


def begun(charter: Charter, state: Path) -> list[tuple[Path, Change]]:
    """The amendments of a folder's charter that lack signatures, and where they are."""
    lineage = Lineage(state)
    return [(lineage.pending(new), Change(charter, new)) for new in lineage.begun(charter)]
