"""Members as a command is given them: a name, or ``member.toml``, which a peer hands to whoever keeps the charter."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from pydantic import Field

from decentra.charter import Member
from decentra.charter.charter import valid_name
from decentra.charter.toml import Section, build, load_tables, raise_problems, read_text
from decentra.cli.files import refuse_folder
from decentra.errors import LocalError


def checked_name(name: str) -> str:
    """A name that a member may have; raises LocalError for any other."""
    try:
        return valid_name(name)
    except ValueError as error:
        raise LocalError(f"the name {name!r} {error}; choose it with --name") from None


def by_name(members: Iterable[Member]) -> list[Member]:
    """Members in the order in which people look for them."""
    return sorted(members, key=lambda member: member.name.lower())


class _Members(Section):
    members: Annotated[tuple[Member, ...], Field(min_length=1, description="name the member.toml in its folder")]


def read_members(file: Path) -> tuple[Member, ...]:
    """The records in a file, each verified.

    Raises:
        LocalError: the file is missing or no ``member.toml``, or a record's signature is wrong.
    """
    where = str(file)
    refuse_folder(file, "member.toml")
    tables = load_tables(read_text(file, "ask the new member for the member.toml in its folder"), where)
    if "group" in tables:
        raise LocalError(f"{where} is a charter; ask the new member for its member.toml")
    members = build(tables, _Members, where).members
    raise_problems(where, [problem for member in members for problem in member.problems])
    return members
