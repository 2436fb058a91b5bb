"""The bodies of ``decentra charter add``, ``sign`` and ``show``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from decentra.charter import Charter, Policy
from decentra.charter.toml import read_text, save_text
from decentra.cli.members import read_members
from decentra.cli.report import emit
from decentra.peer.config import PeerFolder


def _open(file: Path) -> tuple[str, Charter]:
    text = read_text(file, "name a charter.toml")
    return text, Charter.parse(text, str(file))


def _names(charter: Charter) -> dict[str, list[str]]:
    missing = charter.missing_signatures
    return {
        "signed": [member.name for member in charter.members if member not in missing],
        "missing": [member.name for member in missing],
    }


def add(files: Sequence[Path], state: Path, as_json: bool) -> None:
    """Add the members of ``files`` to the folder's charter, and remove its signatures.

    Raises:
        LocalError: a file is no ``member.toml``, a record does not verify, or somebody is a member already.
    """
    folder = PeerFolder(state)
    before = folder.load_charter()
    text, _ = _open(folder.charter)
    added = [member for file in files for member in read_members(file)]
    charter = before.with_members(added)
    save_text(folder.charter, charter.to_toml(like=text))
    problems = Policy(charter).problems
    data = {
        "added": [member.name for member in added],
        "members": len(charter.members),
        "hash": charter.hash.hex(),
        "signatures_removed": len(before.signatures),
        "problems": list(problems),
    }
    lines = [f"added {', '.join(member.label for member in added)}; the charter has {len(charter.members)} members"]
    if before.signatures:
        lines.append(f"it is another charter now: its {len(before.signatures)} signatures are removed, all sign again")
    lines.extend(f"not sound yet: {problem}" for problem in problems)
    if not problems:
        lines.append("next: `decentra charter sign`, then hand charter.toml to the members, who sign it too")
    emit(as_json, data, lines)


def sign(state: Path, charter_file: Path | None, copies: Sequence[Path], as_json: bool) -> None:
    """Sign the folder's charter, or ``charter_file`` in its place, and take the signatures of ``copies``.

    Raises:
        LocalError: the charter is not sound, this peer is no member, a record or signature is wrong, or a copy is of
            another charter. Nothing is written then.
    """
    folder = PeerFolder(state)
    identity = folder.load_identity()
    text, given = _open(folder.charter if charter_file is None else charter_file)
    Policy(given).check(str(charter_file or folder.charter))
    charter = given.without_stale_signatures()
    charter.check(signed=False, where=str(charter_file or folder.charter))
    stale = len(given.signatures) - len(charter.signatures)
    replaced = _replaced(folder, charter) if charter_file is not None else ()
    for copy in copies:
        charter = charter.merge(_open(copy)[1], str(copy))
    charter = charter.sign(identity)
    save_text(folder.charter, charter.to_toml(like=text))
    names = _names(charter)
    data = {"hash": charter.hash.hex(), **names, "stale_removed": stale, "replaced": list(replaced)}
    signed, count = len(names["signed"]), len(charter.members)
    lines = [f"signed {charter.group.name} ({charter.hash.hex()[:8]}): {signed} of {count} have"]
    if replaced:
        more = f", and {len(replaced) - 3} more" if len(replaced) > 3 else ""
        lines.append(f"it replaces the folder's charter, the new one here: {'; '.join(replaced[:3])}{more}")
    if stale:
        lines.append(f"removed {stale} of its signatures, made for an earlier text of it")
    if names["missing"]:
        lines.append(f"still to sign: {', '.join(names['missing'])}")
    else:
        lines.append("everybody has signed: hand this charter.toml to the members, then `decentra run`")
    emit(as_json, data, lines)


def _replaced(folder: PeerFolder, charter: Charter) -> tuple[str, ...]:
    """How the charter differs from the one that it replaces in the folder."""
    return charter.differences(folder.load_charter()) if folder.charter.exists() else ()


def show(file: Path | None, state: Path | None, as_json: bool) -> None:
    """Print what a charter means, and what is wrong with it.

    Raises:
        LocalError: there is no charter, or it cannot be read.
    """
    charter = PeerFolder(state or Path()).load_charter() if file is None else _open(file)[1]
    policy = Policy(charter)
    problems = [*policy.problems, *charter.problems]
    names = _names(charter)
    data: dict[str, Any] = {
        "group": charter.group.name,
        "epoch": charter.group.epoch,
        "hash": charter.hash.hex(),
        "protocol": charter.protocol.name,
        "c": charter.protocol.c,
        "threshold": policy.threshold,
        "stops_survived": policy.stops_survived,
        "roster_floor": charter.roster_floor,
        "width": charter.protocol.width,
        "quanta": policy.quanta,
        "members": [
            {"name": member.name, "id": member.id.hex(), "signed": member.id in charter.signatures}
            for member in charter.members
        ],
        **names,
        "problems": problems,
    }
    if as_json:
        emit(True, data, ())
    else:
        _print(charter, policy, problems)


def _print(charter: Charter, policy: Policy, problems: Sequence[str]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False, highlight=False, soft_wrap=True)
    terms, count = charter.protocol, len(charter.members)
    console.print(
        f"{charter.group.name}, epoch {charter.group.epoch}: {terms.name}, charter {charter.hash.hex()[:16]}"
    )
    table = Table("member", "id", "signed")
    for member in charter.members:
        table.add_row(member.name, str(member.id), "yes" if member.id in charter.signatures else "no")
    if count:
        console.print(table)
    if not policy.problems:
        console.print(
            f"{count} members, at most {terms.c} of them corrupt: a round starts with {charter.roster_floor} or more "
            f"and needs {policy.threshold} to end, so {policy.stops_survived} may stop when all {count} take part"
        )
        console.print(
            f"numbers of {terms.width} bits, ±{policy.quanta} steps within the range (first ±{terms.initial_range:g}), "
            f"weights up to {terms.max_weight}"
        )
    missing = charter.missing_signatures
    if missing:
        console.print(f"still to sign: {', '.join(member.name for member in missing)}")
    for problem in problems:
        console.print(f"problem: {problem}")
