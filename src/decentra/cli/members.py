"""Reads ``member.toml``, the record that a peer hands to whoever keeps the charter."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from decentra.charter import Member
from decentra.charter.toml import Section, build, load_tables, raise_problems, read_text
from decentra.cli.files import refuse_folder
from decentra.errors import LocalError


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
