"""The bodies of ``decentra charter add``, ``sign`` and ``show``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from decentra.charter import Charter, Policy, bucket_policy, grid_policy
from decentra.charter.amend import faults
from decentra.charter.bucket_policy import BUCKETED
from decentra.charter.charter import TrainingTerms
from decentra.charter.invite import Request
from decentra.charter.shares_policy import SHARED, least_to_name
from decentra.charter.toml import save_text
from decentra.cli import amendments
from decentra.cli.amendments import Change
from decentra.cli.files import open_charter
from decentra.cli.invites import check_invited
from decentra.cli.members import by_name, read_members
from decentra.cli.report import MISUSED, emit
from decentra.errors import LocalError
from decentra.gossip.group import bucket_floor
from decentra.grids import Grid
from decentra.peer.config import PeerFolder
from decentra.robust import shared


def _names(charter: Charter) -> dict[str, list[str]]:
    """Whose signatures it has, and whose not; one that does not fit counts for nothing."""
    valid = charter.without_stale_signatures().signatures
    return {
        "signed": [member.name for member in by_name(charter.members) if member.id in valid],
        "missing": [member.name for member in by_name(charter.members) if member.id not in valid],
    }


def add(files: Sequence[Path], state: Path, as_json: bool) -> None:
    """Add the members of ``files`` to the folder's charter, and remove its signatures.

    Raises:
        LocalError: a file is no ``member.toml``, a record does not verify, or somebody is a member already.
    """
    folder = PeerFolder(state)
    before = folder.load_charter()
    if before.group.previous is not None:
        raise LocalError(
            f"{folder.charter} amends another charter; add members with `decentra charter amend --add FILE`"
        )
    text, _ = open_charter(folder.charter)
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
        lines.append("(a group that trains already adds members by `decentra charter amend --add`, and few sign)")
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
    where = charter_file or folder.charter
    if charter_file is None and copies and (begun := amendments.pending(state, copies[0])) is not None:
        text, given, where = begun
    else:
        if charter_file is None:
            folder.refuse_alone(identity.id, folder.load_charter())
        text, given = open_charter(where)
    if given.group.previous is not None and not _is_invited_to(folder, given):
        amendments.sign(state, text, given, str(where), copies, as_json)
        return
    if charter_file is not None and not folder.charter.exists() and (asked := folder.load_request()) is not None:
        _keep_invited(folder, text, given, asked, str(where), as_json)
        return
    Policy(given).check(str(where))
    charter = given.without_stale_signatures()
    charter.check(signed=False, where=str(where))
    stale = len(given.signatures) - len(charter.signatures)
    _refuse_earlier(folder, charter, str(where))
    replaced = _replaced(folder, charter) if charter_file is not None else ()
    for copy in copies:
        charter = charter.merge(open_charter(copy)[1], str(copy))
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


def _is_invited_to(folder: PeerFolder, charter: Charter) -> bool:
    """Whether it is the charter that a newcomer's invite names, which may amend another one."""
    asked = None if folder.charter.exists() else folder.load_request()
    return asked is not None and asked.request.charter == charter.hash


def _keep_invited(
    folder: PeerFolder, text: str, charter: Charter, asked: Request, where: str, as_json: bool
) -> None:
    """A newcomer keeps the charter that its invite names, and signs nothing: it is no member of it."""
    check_invited(asked.request.charter, "who invited you", charter, where)
    Policy(charter).check(where)
    save_text(folder.charter, text)
    group = charter.group
    lines = [
        f"kept the charter of your invite: {group.name}, epoch {group.epoch} ({charter.hash.hex()[:8]})",
        f"next: `decentra charter sign --state {folder.path} --charter FILE` with the amendment that adds you",
    ]
    emit(as_json, {"hash": charter.hash.hex(), "epoch": charter.group.epoch, "kept": str(folder.charter)}, lines)


def _refuse_earlier(folder: PeerFolder, charter: Charter, where: str) -> None:
    """A founding charter that was amended since must not come back in the place of what amended it."""
    if not folder.charter.exists():
        return
    now = folder.load_charter().group
    if now.previous is not None and now.name == charter.group.name and charter.group.epoch <= now.epoch:
        raise LocalError(
            f"{where} is a founding charter for epoch {charter.group.epoch}, and this folder is in epoch {now.epoch}; "
            "a group that founds itself anew gives that a later epoch"
        )


def _replaced(folder: PeerFolder, charter: Charter) -> tuple[str, ...]:
    """How the charter differs from the one that it replaces in the folder, if that was a group's."""
    before = folder.load_charter() if folder.charter.exists() else None
    return () if before is None or len(before.members) < 2 else charter.differences(before)


def show(file: Path | None, state: Path | None, as_json: bool) -> int:
    """Print what a charter means, and what is wrong with it.

    Returns:
        0, or 2 where something is wrong; a missing signature is not.

    Raises:
        LocalError: there is no charter, or it cannot be read.
    """
    if file is None:
        charter = PeerFolder(state or Path()).load_charter()
    else:
        charter = open_charter(file, f", or use --state {file}")[1]
    change = None if state is None else amendments.compared(charter, state)
    begun = amendments.begun(charter, state) if file is None and state is not None else []
    policy = Policy(charter)
    problems = list(policy.problems)
    if change is None:
        # of an amendment, what does not fit counts for nothing; beside its ancestor everything is judged
        stale = charter.without_stale_signatures() if charter.group.previous is not None else charter
        problems += stale.problems
    else:
        problems = list(faults(change.old, change.new))
    if as_json:
        emit(True, _told(charter, policy, problems, change, begun), ())
    else:
        _print(charter, policy, problems, change)
        for path, one in begun:
            print("\n".join((f"begun: epoch {one.new.group.epoch}, {path}", *(f"  {line}" for line in one.lines()))))
    return MISUSED if problems else 0


def _told(
    charter: Charter,
    policy: Policy,
    problems: Sequence[str],
    change: Change | None,
    begun: Sequence[tuple[Path, Change]],
) -> dict[str, Any]:
    names = _names(charter)
    if change is not None:
        names["missing"] = change.data()["missing"]
    previous = charter.group.previous
    terms, fingerprint = charter.protocol, charter.model.fingerprint
    return {
        "group": charter.group.name,
        "epoch": charter.group.epoch,
        "previous": None if previous is None else previous.hex(),
        "admission_quorum": charter.admission_quorum,
        "invites": bool(charter.admission.invites),
        "hash": charter.hash.hex(),
        "protocol": terms.name,
        "rule": terms.rule,
        "c": terms.c,
        "threshold": policy.threshold,
        "stops_survived": policy.stops_survived,
        "roster_floor": charter.roster_floor,
        "challenges": _challenges(charter),
        "groups": _grid(charter),
        "buckets": _buckets(charter),
        "width": terms.width,
        "quanta": policy.quanta,
        "max_weight": terms.max_weight,
        "initial_range": terms.initial_range,
        "ranges": dict(terms.ranges),
        "range_bounds": list(terms.range_bounds),
        "phase_deadline": charter.rounds.phase_deadline,
        "ready_deadline": charter.rounds.ready_deadline,
        **charter.training.model_dump(exclude={"tensors"}),
        "tensors": {pattern: one.model_dump() for pattern, one in charter.training.tensors.items()},
        "max_parameters": charter.model.max_parameters,
        "fingerprint": None if fingerprint is None else fingerprint.hex(),
        "members": [
            {"name": member.name, "id": member.id.hex(), "signed": member.name in names["signed"]}
            for member in by_name(charter.members)
        ],
        **names,
        "in_force": not problems and (not names["missing"] if change is None else change.in_force),
        "change": None if change is None else change.data(),
        "begun": [{**one.data(), "pending": str(path)} for path, one in begun],
        "problems": list(problems),
    }


def _grid(charter: Charter) -> dict[str, Any] | None:
    """The terms of a grid and what they come to; None where the members are one group."""
    terms, made = charter.groups, grid_policy.drawn(charter)
    if terms is None:
        return None
    return {
        "size": terms.size,
        "liars": terms.liars,
        "risk": terms.risk,
        "drawers": list(terms.drawers),
        "axes": None if made is None else made.axes,
        "groups": None if made is None else made.lines,
        "sizes": None if made is None else list(made.sizes),
        "bound": grid_policy.bound(charter),
    }


def _buckets(charter: Charter) -> dict[str, Any] | None:
    """The terms of buckets and what they come to; None where there are none."""
    terms = charter.buckets
    if terms is None:
        return None
    return {
        "size": terms.size,
        "c": charter.bucket_corrupt,
        "risk": terms.risk,
        "count": bucket_policy.bucket_count(charter),
        "sizes": list(bucket_policy.bucket_sizes(charter)),
        "bound": bucket_policy.bound(charter),
    }


def _challenges(charter: Charter) -> int:
    """How many slices' sums a round recomputes, in bucketed a bucket's; a protocol without a beacon has none."""
    return charter.challenges if charter.protocol.name in ("secagg", BUCKETED) else 0


def _print(charter: Charter, policy: Policy, problems: Sequence[str], change: Change | None) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False, highlight=False, soft_wrap=True)
    console.print(
        f"{charter.group.name}, epoch {charter.group.epoch}: {charter.protocol.name}, charter {charter.hash.hex()[:16]}"
    )
    if charter.members:
        table = Table("member", "id", "signed")
        signed = _names(charter)["signed"]
        for member in by_name(charter.members):
            void = "another text" if member.id in charter.signatures else "no"
            table.add_row(member.name, str(member.id), "yes" if member.name in signed else void)
        console.print(table)
    for line in _terms(charter, policy):
        console.print(line)
    if change is not None:
        for line in (f"amends epoch {change.old.group.epoch}:", *(f"  {line}" for line in change.lines())):
            console.print(line)
        console.print("it is in force" if change.in_force and not problems else "it is not in force")
    elif charter.group.previous is not None:
        console.print(f"amends charter {charter.group.previous.hex()[:16]}; with --state DIR it is compared with that")
    elif missing := sorted(member.name for member in charter.missing_signatures):
        console.print(f"still to sign: {', '.join(missing)}")
    for problem in problems:
        console.print(f"problem: {problem}")


def _terms(charter: Charter, policy: Policy) -> Iterator[str]:
    """What one agrees to by signing, a line a matter."""
    terms, training, rounds, model = charter.protocol, charter.training, charter.rounds, charter.model
    count, challenges = len(charter.members), _challenges(charter)
    if not policy.problems and (made := grid_policy.drawn(charter)) is not None:
        yield from _on_a_grid(charter, policy, made)
    elif not policy.problems and charter.buckets is not None:
        yield from _in_buckets(charter, policy)
    elif not policy.problems and terms.name == SHARED:
        yield from _on_shares(charter, policy)
    elif not policy.problems:
        yield (
            f"{count} members, at most {terms.c} of them corrupt: a round starts with {charter.roster_floor} or more "
            f"and needs {policy.threshold} to end, so {policy.stops_survived} may stop when all {count} take part"
        )
    yield f"rule: {terms.rule}, weights up to {terms.max_weight}; slices recomputed in a round: {challenges}"
    fewer = ", more where there are fewer parameters than at most" if terms.name == SHARED else ""
    yield f"numbers of {terms.width} bits, ±{policy.quanta} steps within a tensor's range{fewer}"
    low, high = terms.range_bounds
    named = "".join(f", {pattern} ±{value:g}" for pattern, value in terms.ranges.items())
    yield f"ranges begin with ±{terms.initial_range:g}{named}, and move within ±{low:g} and ±{high:g}"
    yield (
        f"a round waits up to {rounds.ready_deadline:g} s for members to be ready, and {rounds.phase_deadline:g} s in "
        "each phase"
    )
    if charter.groups is None:
        yield from _training(training)
    yield f"an amendment of it needs {charter.admission_quorum} of those who stay, and everyone whom it adds"
    if model.fingerprint is None:
        which = "any model that all members share"
    else:
        which = f"the model {model.fingerprint.hex()} only"
    yield f"at most {model.max_parameters:,} parameters, of {which}"


def _on_a_grid(charter: Charter, policy: Policy, made: Grid) -> Iterator[str]:
    """What holds of all members, and of each group."""
    terms, c, (few, most) = charter.groups, charter.protocol.c, made.sizes
    if terms is None:
        return
    size = _either(few, most)
    rounds = "one round" if made.axes == 1 else f"{made.axes} rounds, one after the other,"
    groups = "1 group" if made.lines == 1 else f"{made.lines} groups"
    yield f"{made.n} members on a grid: a mixing is {rounds} in {groups} of {size}"
    yield (
        f"at most {c} of a group corrupt: its round needs {policy.threshold} of {few} to end, so "
        f"{policy.stops_survived} may stop"
    )
    yield (
        f"with {terms.liars} liars among all, some group of an epoch holds more than {c} with a probability of up to "
        f"{grid_policy.bound(charter):.2g} (stated: {terms.risk:.2g})"
    )
    need = grid_policy.drawers_floor(charter)
    yield f"the grid is drawn by {', '.join(terms.drawers)}, of whom {need} have to take part"


def _in_buckets(charter: Charter, policy: Policy) -> Iterator[str]:
    """What holds of all members, and of each bucket."""
    (few, most), count, c = bucket_policy.bucket_sizes(charter), bucket_policy.bucket_count(charter), charter.protocol.c
    bad = charter.bucket_corrupt
    size, floor = _either(few, most), _either(bucket_floor(few, bad), bucket_floor(most, bad))
    yield (
        f"{len(charter.members)} members in {count} buckets of {size}, drawn anew in each epoch; all members see every "
        "bucket's mean"
    )
    yield (
        f"at most {c} of all are corrupt, and {bad} of a bucket: its sum starts with {floor} or more of it; "
        f"{2 * c + 1} means or more have to be there, and {policy.threshold} members"
    )
    if bad < c and charter.buckets is not None:
        yield (
            f"some bucket of an epoch holds more than {bad} of {c} corrupt members with a probability of up to "
            f"{bucket_policy.bound(charter):.2g} (stated: {charter.buckets.risk or 1:.2g})"
        )


def _on_shares(charter: Charter, policy: Policy) -> Iterator[str]:
    """What holds where a rule runs on secret shares."""
    count, c = len(charter.members), charter.protocol.c
    yield (
        f"{count} members, at most {c} of them corrupt: a round starts with {charter.roster_floor} or more, and needs "
        f"{shared.fewest_updates(policy.threshold, c)} updates; who stops while the sum is opened ends it"
    )
    lies = "lies are corrected, and most named" if count >= least_to_name(c) else "a lie about products fails the round"
    yield f"all members see norms of updates and angles between them; when all take part {lies}"


def _either(one: int, other: int) -> str:
    return f"{one}" if one == other else f"{one} or {other}"


def _training(terms: TrainingTerms) -> Iterator[str]:
    """When a round begins, and what becomes of its mean."""
    if terms.seconds is None:
        every = f"every {terms.steps} local steps"
    else:
        every = f"every {terms.seconds:g} s of local steps, of which {terms.steps} have the full weight"
    if terms.outer == "adam":
        name = f"Adam, β₁ {terms.outer_momentum:g}"
    else:
        name = f"{'Nesterov ' if terms.nesterov else ''}momentum {terms.outer_momentum:g}"
    yield f"a round {every}; outer learning rate {terms.outer_lr:g}, {name}"
    if terms.fragments and terms.fragments > 1:
        yield f"the model is averaged in {terms.fragments} fragments, one a round, each after as many steps as said"
    if terms.warmup:
        yield f"the first {terms.warmup} rounds take the mean itself"
    if terms.adapters:
        yield f"LoRA adapters are trained by {terms.adapters}"
    for pattern, one in terms.tensors.items():
        known = (("learning rate", one.outer_lr), ("momentum", one.outer_momentum))
        told = ", ".join(f"{name} {value:g}" for name, value in known if value is not None)
        yield f"  {pattern}: outer {told}"
