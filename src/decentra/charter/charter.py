"""The charter: who the members are and what they agree on, canonical, hashed and signed by all of them.

Its form on disk, its canonical encoding and what is signed are described in ``specs/charter/README.md``.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, PlainValidator, field_validator, model_validator

from decentra.charter import canonical, toml
from decentra.charter.toml import Section
from decentra.crypto.hashing import digest
from decentra.crypto.keys import Identity, peer_id, verify
from decentra.derive import buckets, quorum
from decentra.errors import LocalError
from decentra.types import PeerId

FILE = "charter.toml"
VERSION = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
_LIKE_AN_ID = re.compile(r"[0-9a-fA-F]{8,64}")
DAY = 86_400.0
"""The longest deadline, in seconds."""
_COPY = "copy the whole of the member's member.toml"


def valid_name(name: str) -> str:
    """A member's name: 1 to 32 letters, digits, ``-`` and ``_``, so that it is a bare TOML key and prints as it is.

    Raises:
        ValueError: another character, or a name that could be taken for a peer's id.
    """
    if not _NAME.fullmatch(name):
        raise ValueError("must be 1 to 32 letters, digits, '-' or '_', beginning with a letter or digit")
    if _LIKE_AN_ID.fullmatch(name):
        raise ValueError("could be taken for a peer's id; choose a name that is not hexadecimal")
    return name


def valid_title(text: str) -> str:
    """A title: 1 to 64 printable characters.

    Raises:
        ValueError: another text.
    """
    if not 1 <= len(text) <= 64 or not text.isprintable():
        raise ValueError("must be 1 to 64 printable characters")
    return text


def _from_hex(length: int) -> Callable[[Any], bytes]:
    """A reader of ``length`` bytes, given as such or, as TOML has it, in lower-case hexadecimal."""

    def read(value: Any) -> bytes:
        if isinstance(value, bytes) and len(value) == length:
            return value
        if isinstance(value, str) and re.fullmatch(rf"[0-9a-f]{{{2 * length}}}", value):
            return bytes.fromhex(value)
        raise ValueError(f"must be {2 * length} lower-case hexadecimal digits in quotes; copy it again from its source")

    return read


def _frozen(table: Mapping[Any, Any]) -> Mapping[Any, Any]:
    return MappingProxyType(dict(sorted(table.items())))


def _patterns(table: Mapping[str, Any]) -> Mapping[str, Any]:
    for pattern in table:
        if not 1 <= len(pattern) <= 256 or not pattern.isprintable():
            raise ValueError("has a name pattern that is not 1 to 256 printable characters; mend it")
    return table


Name = Annotated[str, AfterValidator(valid_name)]
Title = Annotated[str, AfterValidator(valid_title)]
Key = Annotated[bytes, PlainValidator(_from_hex(32))]
Signature = Annotated[bytes, PlainValidator(_from_hex(64))]
Id = Annotated[PeerId, PlainValidator(lambda value: PeerId(_from_hex(32)(value)))]
Positive = Annotated[float, Field(gt=0)]
Deadline = Annotated[float, Field(gt=0, le=DAY)]


class GroupTerms(Section):
    """Which group this is.

    Attributes:
        name: what the group calls itself.
        epoch: counts the group's fixed memberships from 1.
        previous: the hash of the charter that this one amends; a founding charter has none.
    """

    name: Title = Field(examples=["our-group"])
    epoch: int = Field(default=1, ge=1, lt=2**63, examples=[1])
    previous: Key | None = Field(default=None)


class ProtocolTerms(Section):
    """How updates are aggregated.

    Attributes:
        name: ``secagg``, ``allreduce``, ``mesh`` or ``bucketed``.
        c: how many members may be corrupt and collude.
        floor: the fewest members of a round's roster; by default two thirds, and never too few for ``c``.
        rule: what is computed of the updates: the mean; or a robust rule against ``c`` liars, in mesh of the updates,
            in bucketed of the buckets' means.
        width: bits of an integer on the wire.
        max_weight: the largest integer weight of an update.
        initial_range: the largest magnitude that the first round keeps of any coordinate; the rest is clipped.
        ranges: overrides of ``initial_range`` by a glob over tensor names.
        range_bounds: how low and how high a range may ever move.
        backup: whether each peer's part of its own slice goes to a second peer too, so that a slice survives its owner.
        challenges: how many slices' sums c+1 peers recompute in a round; where it is absent one, in secagg.
    """

    name: Title = Field(examples=["secagg"])
    c: int = Field(default=1, ge=0, lt=2**31, examples=[1])
    floor: int | None = Field(default=None, ge=1, lt=2**31, examples=[3])
    rule: Title = Field(default="mean", examples=["mean"])
    width: Literal[16, 32] = Field(default=16, examples=[16])
    max_weight: int = Field(default=1, ge=1, lt=2**31, examples=[1])
    initial_range: Positive = Field(default=0.1, examples=[0.1])
    ranges: Annotated[Mapping[str, Positive], AfterValidator(_patterns), AfterValidator(_frozen)] = Field(
        default_factory=lambda: MappingProxyType({})
    )
    range_bounds: tuple[Positive, Positive] = Field(default=(1e-6, 100.0), examples=[(1e-6, 100.0)])
    backup: bool = False
    challenges: int | None = Field(default=None, ge=0, le=64, examples=[1])

    def range_of(self, tensor: str) -> float:
        """The first range of a tensor: of the globs in ``ranges`` that fit its name the longest decides, and of equally
        long ones the last in the alphabet; ``initial_range`` where none fits."""
        fitting = [pattern for pattern in self.ranges if fnmatch.fnmatchcase(tensor, pattern)]
        if not fitting:
            return self.initial_range
        return self.ranges[max(fitting, key=lambda pattern: (len(pattern), pattern))]


class GridTerms(Section):
    """That the members average on a grid, in groups of their own (``specs/group-gossip``); where the table is absent
    they are one group. The terms of ``[protocol]`` are then those of each group.

    Attributes:
        size: how many members a group is to have, about.
        liars: how many of all members are feared to lie together.
        risk: the most probability that any group of an epoch holds more than ``c`` of them.
        drawers: names of the members whose round draws the epoch's beacon.
    """

    size: int = Field(ge=1, lt=2**31, examples=[16])
    liars: int = Field(ge=1, lt=2**31, examples=[10])
    risk: float = Field(gt=0, le=1, examples=[1e-6])
    drawers: Annotated[tuple[Name, ...], AfterValidator(lambda names: tuple(sorted(names)))] = Field(
        examples=[("alice", "bob", "carol")]
    )


class BucketTerms(Section):
    """How members are dealt into the buckets within which bucketed sums (``specs/bucketed``); no other protocol has
    this table.

    Attributes:
        size: the fewest members of a bucket.
        c: how many of one bucket may be corrupt; where it is absent, as many as of all.
        risk: where ``c`` is below that of all, the most probability that any bucket of an epoch holds more than it.
        beacon: what the epoch's buckets were drawn with; in the charter that peers derive, and in none that is signed.
    """

    size: int = Field(ge=1, lt=2**31, examples=[4])
    c: int | None = Field(default=None, ge=0, lt=2**31, examples=[1])
    risk: float | None = Field(default=None, gt=0, le=1, examples=[1e-3])
    beacon: Key | None = Field(default=None)


class RoundTerms(Section):
    """How long a round waits, in seconds: for one phase of it, and for the members to be ready."""

    phase_deadline: Deadline = Field(default=30.0, examples=[30.0])
    ready_deadline: Deadline = Field(default=120.0, examples=[120.0])


class OuterTerms(Section):
    """The outer optimizer of some tensors, where it is not that of all."""

    outer_lr: Positive | None = Field(default=None, examples=[1.0])
    outer_momentum: float | None = Field(default=None, ge=0, lt=1, examples=[0.5])

    @model_validator(mode="after")
    def _say_something(self) -> Self:
        if self.outer_lr is None and self.outer_momentum is None:
            raise ValueError("says nothing of its tensors; give outer_lr or outer_momentum, or remove it")
        return self


class TrainingTerms(Section):
    """The training loop's part (DiLoCo, Douillard et al. 2023): H local steps a round, and the outer optimizer.

    Attributes:
        steps: H, local optimizer steps a round.
        seconds: where it is given a round begins when local steps took so long, however many these were; an update
            then weighs ``max_weight`` for H steps, and less for fewer.
        outer: ``sgd``, where it is absent, or ``adam``.
        outer_lr: the outer learning rate.
        outer_momentum: the outer momentum μ; in Adam β₁.
        nesterov: whether the momentum of SGD is Nesterov's.
        outer_beta2: β₂ of Adam.
        outer_tau: τ of Adam.
        warmup: rounds that take the mean itself before the outer optimizer begins.
        fragments: parts of the model, of which a round averages one, every ``steps`` divided by their number; where it
            is absent a round averages all.
        adapters: how the two matrices of LoRA adapters are trained (`decentra.training.adapters`): ``fedit``, where it
            is absent, ``ffa`` or ``rolora``.
        tensors: outer terms of tensors by a glob over their names; of those that fit the longest decides, as in
            ``ranges``.
    """

    steps: int = Field(default=20, ge=1, lt=2**31, examples=[20])
    seconds: Deadline | None = Field(default=None, examples=[60.0])
    outer: Literal["sgd", "adam"] | None = Field(default=None, examples=["adam"])
    outer_lr: Positive = Field(default=1.0, examples=[1.0])
    outer_momentum: float = Field(default=0.5, ge=0, lt=1, examples=[0.5])
    nesterov: bool = Field(default=True, examples=[True])
    outer_beta2: float | None = Field(default=None, ge=0, lt=1, examples=[0.99])
    outer_tau: Positive | None = Field(default=None, examples=[0.001])
    warmup: int | None = Field(default=None, ge=0, lt=2**31, examples=[2])
    fragments: int | None = Field(default=None, ge=1, lt=2**16, examples=[4])
    adapters: Literal["fedit", "ffa", "rolora"] | None = Field(default=None, examples=["ffa"])
    tensors: Annotated[Mapping[str, OuterTerms], AfterValidator(_patterns), AfterValidator(_frozen)] = Field(
        default_factory=lambda: MappingProxyType({})
    )


class ModelTerms(Section):
    """What is trained: the most coordinates that a peer allocates for, and, if agreed, the model's fingerprint."""

    max_parameters: int = Field(default=100_000_000, ge=1, lt=2**40, examples=[100_000_000])
    fingerprint: Key | None = Field(default=None)


class AdmissionTerms(Section):
    """How this charter may be amended (``decentra.charter.amend``).

    Attributes:
        quorum: how many of its members have to sign an amendment; where it is absent ⌊(m+c)/2⌋+1.
        invites: whether members' running peers sign by themselves for a newcomer that another member invited; where it
            is absent they don't, and people sign.
    """

    quorum: int | None = Field(default=None, ge=1, lt=2**31, examples=[3])
    invites: bool | None = Field(default=None, examples=[False])


class Member(Section):
    """One party: its name and keys, signed by itself."""

    name: Name = Field(examples=["alice"])
    id: Id = Field(description=_COPY)
    ed25519: Key = Field(description=_COPY)
    curve: Key = Field(description=_COPY)
    signature: Signature = Field(description=_COPY)

    @classmethod
    def of(cls, identity: Identity, name: str) -> Self:
        """The record of ``identity`` under a name, signed.

        Raises:
            LocalError: the name is none.
        """
        try:
            valid_name(name)
        except ValueError as error:
            raise LocalError(f"the name {name!r} {error}") from None
        signature = identity.sign(digest("member", name, identity.public, identity.curve_public))
        return cls(
            name=name, id=identity.id, ed25519=identity.public, curve=identity.curve_public, signature=signature
        )

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong with the record: an id of other keys, a signature of other contents."""
        if self.id != peer_id(self.ed25519):
            return (f"member {self.label}: the id is not that of its ed25519 key; ask for member.toml again",)
        if not verify(self.ed25519, self.signature, digest("member", self.name, self.ed25519, self.curve)):
            return (f"member {self.label}: its own signature does not fit the record; ask for member.toml again",)
        return ()

    @property
    def label(self) -> str:
        """How people read it: the name, and the id's first eight digits."""
        return f"'{self.name}' ({self.id})"

    def to_toml(self) -> str:
        """The record as ``member.toml``, to be handed to whoever keeps the charter."""
        return toml.write({"members": [_plain(self)]})


class Charter(Section):
    """The group's agreement. Equal charters have equal hashes; signatures are beside what is hashed.

    Attributes:
        members: sorted by id, whatever their order on disk.
        signatures: a member's id → its Ed25519 signature on ``hash``.
    """

    version: Literal[1] = Field(examples=[VERSION])
    group: GroupTerms
    protocol: ProtocolTerms
    rounds: RoundTerms = Field(default_factory=RoundTerms)
    training: TrainingTerms = Field(default_factory=TrainingTerms)
    model: ModelTerms = Field(default_factory=ModelTerms)
    admission: AdmissionTerms = Field(default_factory=AdmissionTerms)
    groups: GridTerms | None = None
    buckets: BucketTerms | None = None
    members: tuple[Member, ...] = ()
    signatures: Annotated[Mapping[Id, Signature], AfterValidator(_frozen)] = Field(
        default_factory=lambda: MappingProxyType({})
    )

    @field_validator("members")
    @classmethod
    def _by_id(cls, members: tuple[Member, ...]) -> tuple[Member, ...]:
        return tuple(sorted(members, key=lambda member: member.id))

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names: dict[str, Member] = {}
        ids: dict[PeerId, Member] = {}
        for member in self.members:
            if (seen := ids.get(member.id)) is not None:
                raise ValueError(f"members {seen.label} and {member.label} are one; remove one of the two records")
            if (seen := names.get(member.name.lower())) is not None:
                raise ValueError(
                    f"members {seen.label} and {member.label} have one name; let one of them choose another with "
                    f"`decentra keys --name`"
                )
            ids[member.id] = names[member.name.lower()] = member
        return self

    # ── from and to disk ─────────────────────────────────────────────────────────────────────────────────────────────

    @classmethod
    def parse(cls, text: str, where: str = FILE) -> Charter:
        """The charter that a TOML text holds; ``check`` judges its signatures, and ``Policy`` whether it is sound.

        Raises:
            LocalError: problems of form, all of them, each with its mend.
        """
        return cls.build(toml.load_tables(text, where), where)

    @classmethod
    def build(cls, tables: Mapping[str, Any], where: str = FILE) -> Charter:
        """The charter of tables as ``tomllib`` gives them; sections and members may also be given as such.

        Raises:
            LocalError: as ``parse``.
        """
        version = tables.get("version", VERSION)
        if isinstance(version, int) and version > VERSION:
            raise LocalError(f"{where} has version {version}, and this decentra reads {VERSION}; install a newer one")
        return toml.build(tables, cls, where)

    def to_toml(self, like: str = "") -> str:
        """The charter as TOML.

        Args:
            like: an earlier text of it; where its terms are the same, they and their comments are kept as written.
        """
        tables = _plain(self)
        tail = toml.write({key: tables[key] for key in ("members", "signatures")})
        head = re.split(r"(?m)^[ \t]*\[\[?[ \t]*(?:members|signatures)\b", like, maxsplit=1)[0].rstrip()
        kept = f"{head}\n\n{tail}"
        try:
            if head and Charter.parse(kept) == self:
                return kept
        except LocalError:
            pass  # `like` was no charter: it is written afresh below
        return toml.write(tables)

    # ── what is hashed and signed ────────────────────────────────────────────────────────────────────────────────────

    @property
    def canonical(self) -> bytes:
        """Everything but the charter's signatures, in the one encoding that is hashed (``specs/charter``)."""
        return canonical.encode(self._terms())

    @property
    def hash(self) -> bytes:
        """The charter's name everywhere: 32 bytes, computed afresh on each access."""
        return digest("charter", self.canonical)

    def __hash__(self) -> int:
        return hash(self.hash)

    def _terms(self) -> dict[str, Any]:
        fields: list[str] = [name for name in type(self).model_fields if name not in ("members", "signatures")]
        terms = {key: value for name in fields for key, value in canonical.leaves(name, getattr(self, name))}
        for member in self.members:
            terms.update(canonical.leaves(f"members.{member.id.hex()}", member))
        return terms

    def differences(self, other: Charter) -> tuple[str, ...]:
        """Where two charters disagree, a short sentence each: this one's value first."""
        mine, theirs = self._terms(), other._terms()
        only = [f"member {member.label} is only here" for member in self.members if member.id not in other.ids]
        only += [f"member {member.label} is only there" for member in other.members if member.id not in self.ids]
        lone = {f"members.{peer.hex()}" for peer in set(self.ids) ^ set(other.ids)}
        told = (
            f"{canonical.readable(key)} is {canonical.told(mine.get(key))} here and "
            f"{canonical.told(theirs.get(key))} there"
            for key in sorted(mine.keys() | theirs.keys())
            if mine.get(key) != theirs.get(key) and key.rpartition(".")[0] not in lone
        )
        return (*told, *only)

    # ── members and signatures ───────────────────────────────────────────────────────────────────────────────────────

    def member(self, peer: PeerId) -> Member:
        """The record of a member.

        Raises:
            LocalError: the charter has no such member.
        """
        for member in self.members:
            if member.id == peer:
                return member
        raise LocalError(f"{peer} is no member of {self.group.name!r}; add its member.toml with `decentra charter add`")

    @property
    def ids(self) -> tuple[PeerId, ...]:
        """The members' ids, sorted."""
        return tuple(member.id for member in self.members)

    @property
    def roster_floor(self) -> int:
        """The fewest members that a round may start with: ``floor``, or else two thirds of the members rounded up, and
        never below ⌊(m+c)/2⌋+1, nor below 3c where a robust rule is evaluated, 3c + 1 on shares."""
        count, c = len(self.members), self.protocol.c
        robust = {"mesh": 3 * c, "bucketed": 3 * c, "shamir-gram": 3 * c + 1}.get(self.protocol.name, 0)
        return self.protocol.floor or max(-(-2 * count // 3), quorum(count, c), robust)

    @property
    def corrupt(self) -> int:
        """How many of all members may be corrupt: ``c``, or on a grid, where that is of each group, ``liars``."""
        return self.protocol.c if self.groups is None else self.groups.liars

    @property
    def drawers(self) -> tuple[Member, ...]:
        """Who draws the epoch's beacon: of a grid the members that it names, of buckets all; else nobody."""
        if self.buckets is not None:
            return self.members
        named = () if self.groups is None else self.groups.drawers
        return tuple(member for member in self.members if member.name in named)

    @property
    def bucket_corrupt(self) -> int:
        """How many of one bucket may be corrupt: ``[buckets] c``, or else as many as of all."""
        return self.protocol.c if self.buckets is None or self.buckets.c is None else self.buckets.c

    @property
    def drawn_buckets(self) -> tuple[tuple[PeerId, ...], ...]:
        """The members by bucket, in a charter that a beacon is in; else none."""
        terms = self.buckets
        return () if terms is None or terms.beacon is None else buckets(terms.beacon, self.ids, terms.size)

    @property
    def admission_quorum(self) -> int:
        """How many of these members have to sign an amendment: ``[admission] quorum``, or else ⌊(m+c)/2⌋+1, where c is
        how many of all may be corrupt."""
        return self.admission.quorum or quorum(len(self.members), self.corrupt)

    @property
    def challenges(self) -> int:
        """How many slices' sums are recomputed in a round of secagg: ``challenges``, or else one."""
        return 1 if self.protocol.challenges is None else self.protocol.challenges

    @property
    def missing_signatures(self) -> tuple[Member, ...]:
        """The members that have not signed."""
        return tuple(member for member in self.members if member.id not in self.signatures)

    @property
    def problems(self) -> tuple[str, ...]:
        """Every member's record and every signature that does not verify, by name; a missing signature is none.

        Where none of the signatures fits, it is the charter that was changed, and that is one problem."""
        found = [problem for member in self.members for problem in member.problems]
        members = {member.id: member for member in self.members}
        found += [
            f"the signature of {signer} is no member's; remove it from [signatures]"
            for signer in self.signatures
            if signer not in members
        ]
        message = self.hash
        signed = [member for member in self.members if member.id in self.signatures]
        stale = sorted(one.label for one in signed if not verify(one.ed25519, self.signatures[one.id], message))
        if len(stale) < 2 or len(stale) < len(signed):
            found += [f"the signature of {label} is not for this charter; have it signed again" for label in stale]
        else:
            more = f" and {len(stale) - 8} more" if len(stale) > 8 else ""
            found.append(
                f"this charter was changed after it was signed by {', '.join(stale[:8])}{more}: put the change back, "
                "or have all sign again"
            )
        return tuple(found)

    def check(self, *, signed: bool = True, where: str = FILE) -> None:
        """Verify every member's record and every signature.

        Args:
            signed: also demand the signatures of all members.
            where: the file's name, for the message.

        Raises:
            LocalError: all that does not verify and all who have not signed, by name.
        """
        found = list(self.problems)
        if signed:
            if not self.members:
                found.append("there are no members; add them with `decentra charter add`")
            found.extend(
                f"member {member.label} has not signed; it does so with `decentra charter sign`, then merge its copy"
                for member in self.missing_signatures
            )
        toml.raise_problems(where, found)

    def with_members(self, members: Iterable[Member]) -> Charter:
        """The charter with more members and no signatures: it is another one, so everybody signs again.

        Raises:
            LocalError: a record does not verify, or is a member already.
        """
        added = tuple(members)
        for member in added:
            if member.id in self.ids:
                raise LocalError(f"{member.label} is a member already; leave it out")
        changed = self.build({**dict(self), "members": (*self.members, *added), "signatures": {}})
        changed.check(signed=False)
        return changed

    def sign(self, identity: Identity) -> Charter:
        """The charter with this member's signature on its hash, in place of an earlier one.

        Raises:
            LocalError: the identity is no member, or its record holds other keys.
        """
        member = self.member(identity.id)
        if self.buckets is not None and self.buckets.beacon is not None:
            raise LocalError("beacon in [buckets] is drawn when an epoch begins, and signed by nobody; leave it out")
        if member.curve != identity.curve_public:
            raise LocalError(f"the charter has another curve key for {member.label}; add your member.toml afresh")
        return self._with_signatures({**self.signatures, identity.id: identity.sign(self.hash)})

    def merge(self, other: Charter, where: str = "the other copy") -> Charter:
        """The charter with the signatures of another copy of it.

        Raises:
            LocalError: the other is not the same charter (the first differences are named), or a signature is wrong.
        """
        if other.hash != self.hash:
            told = self.differences(other)
            more = f", and {len(told) - 3} more" if len(told) > 3 else ""
            raise LocalError(f"{where} is another charter: {'; '.join(told[:3])}{more}; agree on one and sign that")
        toml.raise_problems(where, other.problems)
        return self._with_signatures({**self.signatures, **other.signatures})

    def without_stale_signatures(self) -> Charter:
        """The charter without signatures that are for an earlier text of it, or by nobody in it."""
        message, keys = self.hash, {member.id: member.ed25519 for member in self.members}
        kept = {who: made for who, made in self.signatures.items() if who in keys and verify(keys[who], made, message)}
        return self._with_signatures(kept)

    def _with_signatures(self, signatures: Mapping[PeerId, bytes]) -> Charter:
        return self.model_copy(update={"signatures": _frozen(signatures)})


def _plain(section: Section) -> dict[str, Any]:
    """A section as TOML writes it: bytes in hexadecimal, sections as tables."""

    def plain(value: Any) -> Any:
        match value:
            case Section():
                return _plain(value)
            case bytes():
                return value.hex()
            case tuple():
                return [plain(item) for item in value]
            case Mapping():
                return {key.hex() if isinstance(key, bytes) else key: plain(item) for key, item in value.items()}
            case _:
                return value

    return {name: plain(getattr(section, name)) for name in type(section).model_fields}
