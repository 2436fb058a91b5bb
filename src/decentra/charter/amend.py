"""Charters that amend charters: how one is made, and what keeps it from being in force.

A founding charter is in force with the signatures of all its members. An amendment N of a charter O that is in force
takes its place with the signatures of everyone whom it adds, and of O's admission quorum among the members that stay
(``specs/charter/README.md``, "An amended charter"). A quorum is more than (m+c)/2 of O's m members, so two amendments
of one charter share more than c signers, and one of those is honest: it signs one successor of a charter only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from decentra.charter import toml
from decentra.charter.charter import Charter, Member
from decentra.charter.policy import Policy
from decentra.errors import LocalError
from decentra.types import PeerId

TABLES = ("protocol", "groups", "buckets", "rounds", "training", "model", "admission")
"""What an amendment may change besides the members."""

MOST_NAMED = 8
"""Members named in one sentence; the others are counted."""

_MADE = "the amendment"


@dataclass(frozen=True)
class Awaited:
    """Whose signatures an amendment lacks: every one of ``added``, and ``more`` among ``kept``."""

    added: tuple[Member, ...]
    kept: tuple[Member, ...]
    more: int


def amended(
    old: Charter,
    *,
    add: Iterable[Member] = (),
    remove: Iterable[PeerId] = (),
    terms: Mapping[str, Mapping[str, Any]] | None = None,
) -> Charter:
    """An amendment of ``old`` for the next epoch, not signed by anybody.

    Args:
        old: the charter in force.
        add: the records of new members.
        remove: members that leave.
        terms: changed values by table and key, as TOML has them; None leaves a key out. Nothing at all is a mere new
            epoch.

    Raises:
        LocalError: a record does not verify or is a member's, a removed one is none, or a term is wrong.
    """
    added, gone = tuple(add), frozenset(remove)
    for member in added:
        if member.id in old.ids:
            raise LocalError(f"{member.label} is a member already; leave it out")
    toml.raise_problems(_MADE, [problem for member in added for problem in member.problems])
    for peer in gone:
        old.member(peer)
    tables = toml.load_tables(old.to_toml(), _MADE)
    for name, changes in (terms or {}).items():
        if name not in TABLES:
            raise LocalError(f"an amendment changes nothing in [{name}]; the tables are {', '.join(TABLES)}")
        changed = {**tables.get(name, {}), **changes}
        tables[name] = {key: value for key, value in changed.items() if value is not None}
        if not tables[name]:
            del tables[name]
    tables["group"] = {"name": old.group.name, "epoch": old.group.epoch + 1, "previous": old.hash}
    tables["members"] = (*(member for member in old.members if member.id not in gone), *added)
    tables["signatures"] = {}
    return Charter.build(tables, _MADE)


def judge(old: Charter, new: Charter) -> tuple[str, ...]:
    """Everything that keeps ``new`` from being in force as an amendment of ``old``, which is; a sentence each.

    Signatures that don't verify, and those of whom it removes, count for nothing, and nothing else follows from them.
    """
    return (*faults(old, new), *_unsigned(old, new))


def faults(old: Charter, new: Charter) -> tuple[str, ...]:
    """What no further signature would mend: another charter amended, an unsound one, too few who stay."""
    broken = tuple(_link(old, new))
    if broken:
        return broken
    return (*_records(old, new), *_staying(old, new), *Policy(new).problems)


def changed_terms(old: Charter, new: Charter) -> tuple[str, ...]:
    """What ``new`` changes besides members, epoch and ``previous``, a short sentence each."""
    told = new.differences(old)
    return tuple(one for one in told if not one.startswith(("member ", "group.epoch ", "group.previous ")))


def awaited(old: Charter, new: Charter) -> Awaited:
    """Who has still to sign, and how many of those who stay."""
    signed = new.without_stale_signatures().signatures
    kept = [member for member in new.members if member.id in old.ids]
    missing = tuple(member for member in kept if member.id not in signed)
    return Awaited(
        added=tuple(member for member in new.members if member.id not in old.ids and member.id not in signed),
        kept=missing,
        more=max(0, old.admission_quorum - (len(kept) - len(missing))),
    )


def _link(old: Charter, new: Charter) -> Iterator[str]:
    mine, its = old.group, new.group
    if its.name != mine.name:
        yield f"it is of the group {its.name!r}, and this one is {mine.name!r}; ask a member of your own group for it"
    elif new.hash == old.hash:
        yield "it is the charter in force itself, which amends itself no more; nothing is to be done"
    elif its.previous is None:
        yield (
            "it amends no charter, it is a founding one that all its members sign; make an amendment of the charter in "
            "force with `decentra charter amend`"
        )
    elif its.previous == old.hash:
        if its.epoch != mine.epoch + 1:
            yield (
                f"it is for epoch {its.epoch}, and {mine.epoch + 1} comes after the charter that it amends; have it "
                "made again with `decentra charter amend`"
            )
    elif its.epoch <= mine.epoch:
        yield (
            f"it is for epoch {its.epoch}, and this group is in epoch {mine.epoch}; have it made again on the charter "
            "in force with `decentra charter amend`"
        )
    elif its.epoch > mine.epoch + 1:
        yield (
            f"it is for epoch {its.epoch}, and the charter here is for epoch {mine.epoch}; take the amendment to epoch "
            f"{mine.epoch + 1} first, with `decentra charter sign --charter FILE`"
        )
    else:
        yield (
            f"it amends another charter of epoch {mine.epoch} ({its.previous.hex()[:8]}) than the one here "
            f"({old.hash.hex()[:8]}); find out with the other members, by `decentra charter show`, which is in force"
        )


def _records(old: Charter, new: Charter) -> Iterator[str]:
    for member in new.members:
        if member.id in old.ids and member != old.member(member.id):
            yield (
                f"the record of {member.label} is another one than in the charter in force; an amendment keeps the "
                "records of those who stay as they are"
            )
        else:
            yield from member.problems


def _staying(old: Charter, new: Charter) -> Iterator[str]:
    count, need = len(old.members), old.admission_quorum
    stay = sum(peer in old.ids for peer in new.ids)
    if stay < need:
        most = f"remove at most {count - need}" if need < count else "nobody can be removed from this one"
        yield f"{stay} of {count} members would stay, and {need} of those who stay have to sign an amendment; {most}"


def _unsigned(old: Charter, new: Charter) -> Iterator[str]:
    lacks = awaited(old, new)
    if not lacks.added and not lacks.more:
        return
    how = "with `decentra charter sign --charter FILE`"
    if lacks.added:
        yield f"everyone that it adds has to sign it, {how}: {_named(lacks.added)}"
    if lacks.more:
        yield f"{lacks.more} more of those who stay have to sign it, {how}: of {_named(lacks.kept)}"
    kept = new.without_stale_signatures().signatures
    if void := [member for member in new.members if member.id in new.signatures and member.id not in kept]:
        yield f"no signature for this text of it is that of {_named(void)}; have it signed again, or put the text back"


def _named(members: Sequence[Member]) -> str:
    names = sorted(member.label for member in members)
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more
