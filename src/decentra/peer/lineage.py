"""The charters of a peer's folder: the one in force, those that it came from, those that are begun, what was signed.

``charter.toml`` is the one in force, ``charters/<epoch>.toml`` are those before it, ``pending/<hash16>.toml`` are
amendments that lack signatures. ``charters/signed.toml`` says which successor of a charter this member signed: it signs
one only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

from pydantic import AfterValidator, Field

from decentra.charter import Charter, Policy, toml
from decentra.charter.amend import changed_terms, judge
from decentra.charter.charter import FILE, Key
from decentra.charter.toml import Section, raise_problems, read_text, save_text
from decentra.errors import LocalError
from decentra.types import PeerId


class Promises(Section):
    """Which successor of a charter a member has signed: hash → hash, in hexadecimal."""

    successors: Annotated[Mapping[str, Key], AfterValidator(lambda table: MappingProxyType(dict(table)))] = Field(
        default_factory=lambda: MappingProxyType({})
    )


@dataclass(frozen=True)
class Lineage:
    """The charters that are kept in a peer's folder, ``path``."""

    path: Path

    @property
    def charter(self) -> Path:
        """The charter in force."""
        return self.path / FILE

    @property
    def charters(self) -> Path:
        """The folder of those before it, and of what was signed."""
        return self.path / "charters"

    def ancestor(self, epoch: int) -> Path:
        """Where the charter of an earlier epoch is kept."""
        return self.charters / f"{epoch}.toml"

    def pending(self, charter: Charter) -> Path:
        """Where an amendment that lacks signatures is kept."""
        return self.path / "pending" / f"{charter.hash.hex()[:16]}.toml"

    # ── what is in force ─────────────────────────────────────────────────────────────────────────────────────────────

    def ancestors(self, charter: Charter) -> tuple[Charter, ...]:
        """Verify that a charter is in force, link by link back to the oldest that is kept.

        Returns:
            those before it, the newest first; none for a founding charter.

        Raises:
            LocalError: it is unsound, a signature is missing or wrong, or the charter that it amends is not here.
        """
        Policy(charter).check(str(self.charter))
        found: list[Charter] = []
        where, young = self.charter, charter
        while young.group.previous is not None:
            file = self.ancestor(young.group.epoch - 1)
            if not file.exists():
                if found:
                    return tuple(found)
                raise LocalError(
                    f"{where} amends a charter that {self.charters} lacks, so nobody here can tell who had to sign it; "
                    f"get it from another member as {file}"
                )
            old = Charter.parse(read_text(file, "get it from another member"), str(file))
            if old.hash != young.group.previous:
                raise LocalError(f"{file} is not the charter that {where} amends; get it from another member")
            raise_problems(str(where), judge(old, young))
            found.append(old)
            where, young = file, old
        young.check(where=str(where))
        return tuple(found)

    def history(self, charter: Charter) -> tuple[Charter, ...]:
        """As ``ancestors``, of a charter that was verified so: hashes tie the rest to it, and signatures are not
        looked at again.

        Raises:
            LocalError: a file can't be read.
        """
        found: list[Charter] = []
        while charter.group.previous is not None:
            file = self.ancestor(charter.group.epoch - 1)
            if not file.exists():
                break
            old = Charter.parse(read_text(file, "get it from another member"), str(file))
            if old.hash != charter.group.previous:
                break
            found.append(old)
            charter = old
        return tuple(found)

    def since(self, old: Charter) -> tuple[Charter, ...]:
        """The charters that came after ``old``, up to the one in force, each verified; the oldest first.

        Raises:
            LocalError: a file can't be read, or the one in force does not come from ``old``.
        """
        newest = Charter.parse(read_text(self.charter, "get it from another member"), str(self.charter))
        chain = [newest, *self.history(newest)]
        hashes = [one.hash for one in chain]
        if old.hash not in hashes:
            raise LocalError(f"{self.charter} does not come from the charter of epoch {old.group.epoch}")
        chain = chain[: hashes.index(old.hash) + 1]
        for young, before in pairwise(chain):
            raise_problems(str(self.charter), judge(before, young))
        return tuple(reversed(chain[:-1]))

    def in_force(self, me: PeerId) -> tuple[str, Charter]:
        """The folder's charter and its text, verified.

        Who is no member yet has it from whoever invited it: then what stands before it is not here to be verified.

        Raises:
            LocalError: there is none, or it is not in force.
        """
        text = read_text(self.charter, "get the charter in force from a member of the group")
        charter = Charter.parse(text, str(self.charter))
        given = me not in charter.ids and not self.ancestor(charter.group.epoch - 1).exists()
        if charter.group.previous is not None and given:
            Policy(charter).check(str(self.charter))
            charter.check(signed=False, where=str(self.charter))
        else:
            self.ancestors(charter)
        return text, charter

    def unagreed(self, charter: Charter, ancestors: Sequence[Charter], me: PeerId) -> tuple[str, ...]:
        """The terms that others changed, and this member has not signed since (specs/charter, "An amended charter")."""
        told: list[str] = []
        for young, old in pairwise((charter, *ancestors)):
            if me in young.without_stale_signatures().signatures:
                break
            told.extend(changed_terms(old, young))
        return tuple(told)

    def begun(self, old: Charter) -> list[Charter]:
        """The amendments of ``old`` that lack signatures, in the order of their files' names."""
        files = sorted(self.path.glob("pending/*.toml"))
        read = [Charter.parse(read_text(file, "sign it again"), str(file)) for file in files]
        return [charter for charter in read if charter.group.previous == old.hash]

    # ── what changes it ──────────────────────────────────────────────────────────────────────────────────────────────

    def keep(self, new: Charter, text: str) -> Path:
        """Keep an amendment that lacks signatures.

        Args:
            new: the amendment.
            text: the charter that it amends, or an earlier copy of it, whose comments stay where terms are the same.

        Raises:
            LocalError: the folder can't be written.
        """
        file = self.pending(new)
        self._folder(file.parent)
        save_text(file, written(new, text))
        return file

    def adopt(self, old: Charter, text: str, new: Charter) -> None:
        """Put an amendment that is in force in the place of ``old``. A crash leaves one or the other in force, whole.

        Args:
            old: the charter in force until now.
            text: its text.
            new: a charter for which ``judge(old, new)`` is empty.

        Raises:
            LocalError: the folder can't be written.
        """
        self._folder(self.charters)
        save_text(self.ancestor(old.group.epoch), text)
        save_text(self.charter, written(new, text))
        self.pending(new).unlink(missing_ok=True)

    # ── one successor only ───────────────────────────────────────────────────────────────────────────────────────────

    @property
    def _signed(self) -> Path:
        return self.charters / "signed.toml"

    def promised(self, old: Charter) -> bytes | None:
        """The hash of the successor of ``old`` that this member has signed, if it has."""
        return self._promises().successors.get(old.hash.hex())

    def refuse_second(self, old: Charter, new: Charter) -> None:
        """Refuse to sign ``new`` where another successor of ``old`` was signed.

        Raises:
            LocalError: one was.
        """
        before = self.promised(old)
        if before is not None and before != new.hash:
            raise LocalError(
                f"you have signed another amendment of this charter ({before.hex()[:16]}), and a member signs one "
                "only; have that one signed by the others, or, where it can't be any more, let all sign a founding "
                "charter: a copy of charter.toml with a later epoch and without `previous`"
            )

    def promise(self, old: Charter, new: Charter) -> None:
        """Note, before a signature leaves, that it was given to ``new`` and is given to no other successor of ``old``.

        Raises:
            LocalError: it was given to another one.
        """
        self.refuse_second(old, new)
        if self.promised(old) == new.hash:
            return
        self._folder(self.charters)
        kept = {**self._promises().successors, old.hash.hex(): new.hash}
        save_text(self._signed, toml.write({"successors": kept}))

    def _promises(self) -> Promises:
        if not self._signed.exists():
            return Promises()
        return toml.read(read_text(self._signed, "restore it"), Promises, str(self._signed))

    def _folder(self, path: Path) -> None:
        try:
            path.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise LocalError(f"cannot make {path}: {error.strerror}; check the folder and its owner") from None


def written(new: Charter, text: str) -> str:
    """An amendment as TOML, with the comments of an earlier text where no term but epoch and previous has changed."""
    previous = "" if new.group.previous is None else f'\nprevious = "{new.group.previous.hex()}"'
    bare = re.sub(r"(?m)^[ \t]*previous[ \t]*=.*\n", "", text, count=1)
    like = re.sub(r"(?m)^([ \t]*epoch[ \t]*=[ \t]*)\d+(.*)$", rf"\g<1>{new.group.epoch}\2{previous}", bare, count=1)
    return new.to_toml(like=like)
