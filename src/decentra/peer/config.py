"""What one peer says about itself, ``decentra.toml``, and the folder that holds everything it keeps."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, model_validator

from decentra.charter import Charter, Member, toml
from decentra.charter.charter import FILE as CHARTER_FILE
from decentra.charter.charter import Name
from decentra.charter.invite import MOST_ADDRESS, REQUEST, Request
from decentra.charter.toml import Section
from decentra.crypto.keys import Identity
from decentra.errors import LocalError, did_you_mean
from decentra.peer.addresses import FILE as ADDRESSES_FILE
from decentra.peer.addresses import Addresses
from decentra.peer.invites import Invites
from decentra.peer.lineage import Lineage
from decentra.peer.transcripts import Transcripts
from decentra.types import PeerId

FILE = "decentra.toml"
STATE_VARIABLE = "DECENTRA_STATE"
DEFAULT_BIND = "tcp://0.0.0.0:7431"

_ADDRESS = re.compile(r"tcp://(?P<host>\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?\]|[A-Za-z0-9_](?:[A-Za-z0-9._-]*)):(?P<port>[0-9]{1,5})")
_EVERYWHERE = ("0.0.0.0", "[::]")
_SHORT_ID = 8


def valid_address(address: str) -> str:
    """An address, ``tcp://host:port``; IPv6 hosts stand in brackets.

    Raises:
        ValueError: another form, a port out of 1..65535, or longer than travels.
    """
    if len(address) > MOST_ADDRESS:
        raise ValueError(f"must be {MOST_ADDRESS} characters at most and has {len(address)}; name a shorter host")
    match = _ADDRESS.fullmatch(address)
    if match is None or not 1 <= int(match["port"]) <= 65_535:
        raise ValueError(f'must look like "tcp://host:7431" with a port of 1 to 65535, not {toml.shown(address)}')
    return address


def _reachable(address: str) -> str:
    match = _ADDRESS.fullmatch(valid_address(address))
    if match is not None and match["host"] in _EVERYWHERE:
        raise ValueError(f"must be where others reach this peer, and {match['host']} means everywhere; name the host")
    return address


Address = Annotated[str, AfterValidator(valid_address)]
Reachable = Annotated[str, AfterValidator(_reachable)]


def _frozen(table: Mapping[str, str]) -> Mapping[str, str]:
    return MappingProxyType(dict(sorted(table.items())))


class PeerSection(Section):
    """This peer: its name in the charter, where it listens, and where others reach it."""

    name: Name = Field(examples=["alice"])
    bind: Address = Field(default=DEFAULT_BIND, examples=[DEFAULT_BIND])
    advertise: Reachable | None = Field(default=None, examples=["tcp://host:7431"])


class RunSection(Section):
    """How it runs: torch threads."""

    threads: int = Field(default=1, ge=1, le=1024, examples=[1])


class TranscriptsSection(Section):
    """What is kept of transcripts: so many megabytes; what is oldest goes first. And of how many rounds the secrets
    are kept beside them, for self-audit."""

    keep_megabytes: int = Field(default=512, ge=16, le=1 << 20, examples=[512])
    keep_secrets: int = Field(default=0, ge=0, le=1 << 20, examples=[0])


class Config(Section):
    """``decentra.toml``. ``peers`` maps a member, by name, id or at least the id's first 8 digits, to its address."""

    peer: PeerSection
    peers: Annotated[Mapping[str, Reachable], AfterValidator(_frozen)] = Field(
        default_factory=lambda: MappingProxyType({})
    )
    run: RunSection = Field(default_factory=RunSection)
    transcripts: TranscriptsSection = Field(default_factory=TranscriptsSection)

    @model_validator(mode="after")
    def _has_an_address(self) -> Self:
        if self.peer.advertise is None and _ADDRESS.sub(r"\g<host>", self.peer.bind) in _EVERYWHERE:
            raise ValueError(
                f"[peer] binds everywhere ({self.peer.bind}) and does not say where others reach it; "
                f'add advertise = "tcp://host:7431"'
            )
        return self

    @classmethod
    def parse(cls, text: str, where: str = FILE) -> Config:
        """The configuration that a TOML text holds.

        Raises:
            LocalError: problems of form, all of them, each with its mend.
        """
        return toml.read(text, cls, where)

    @property
    def address(self) -> str:
        """Where others reach this peer."""
        return self.peer.advertise or self.peer.bind

    def addresses(self, charter: Charter, me: PeerId, where: str = FILE) -> Mapping[PeerId, str]:
        """Where this peer reaches every other member.

        Args:
            charter: says who the members are.
            me: this peer, whose own entry, if any, is left out.
            where: the file's name, for messages.

        Raises:
            LocalError: a member without an address, or an entry that is nobody's; all of them.
        """
        found: dict[PeerId, str] = {}
        problems: list[str] = []
        for key, address in self.peers.items():
            who = [member.id for member in charter.members if key == member.name or _is_id(key, member.id)]
            if len(who) != 1 or who[0] in found:
                problems.append(_nobody(key, charter, len(who)))
            else:
                found[who[0]] = address
        problems.extend(
            f'no address for member {member.label}; add {member.name} = "tcp://host:7431" to [peers]'
            for member in charter.members
            if member.id != me and member.id not in found
        )
        toml.raise_problems(where, problems)
        found.pop(me, None)
        return MappingProxyType(found)

    def address_of(self, member: Member) -> str | None:
        """The address that the file has for a member."""
        found = (at for key, at in self.peers.items() if key == member.name or _is_id(key, member.id))
        return next(found, None)

    def with_known(self, known: Mapping[PeerId, str]) -> Config:
        """The configuration with addresses that came from elsewhere, by id."""
        more = {peer.hex(): address for peer, address in known.items()}
        return self.model_copy(update={"peers": _frozen({**self.peers, **more})})

    def without(self, former: Iterable[Member], charter: Charter) -> Config:
        """The configuration without the addresses of former members, which need not be taken out by hand."""
        left = [member for member in former if member.id not in charter.ids]
        kept = {
            key: address
            for key, address in self.peers.items()
            if any(key == one.name or _is_id(key, one.id) for one in charter.members)
            or not any(key == one.name or _is_id(key, one.id) for one in left)
        }
        return self.model_copy(update={"peers": _frozen(kept)})


def _is_reachable(address: str) -> bool:
    try:
        _reachable(address)
    except ValueError:
        return False
    return True


def _is_id(key: str, peer: PeerId) -> bool:
    return len(key) >= _SHORT_ID and peer.hex().startswith(key)


def _nobody(key: str, charter: Charter, count: int) -> str:
    if count > 1:
        return f"{key!r} in [peers] fits {count} members; write the whole id"
    if count == 1:
        return f"{key!r} in [peers] is a second address for one member; keep one of the two"
    names = [member.name for member in charter.members]
    mend = did_you_mean(key, names, "use a name or an id from `decentra charter show`")
    return f"{key!r} in [peers] is no member; {mend}"


def write_config(name: str, bind: str, advertise: str | None, peers: Mapping[str, str] | None = None) -> str:
    """A commented ``decentra.toml`` for a new peer.

    Args:
        name: the peer's name.
        bind: where it listens.
        advertise: where others reach it, if that is elsewhere.
        peers: addresses that are known already, by name or id.

    Raises:
        LocalError: the name or an address is none.
    """
    tables: dict[str, Any] = {"peer": {"name": name, "bind": bind, "advertise": advertise}}
    head = toml.write(tables)
    known = toml.write({"peers": dict(peers)}).partition("\n")[2] if peers else ""
    Config.parse(f"{head}\n[peers]\n{known}", "the new decentra.toml")
    return f"""\
# What this peer says about itself. It is nobody's agreement: what the group shares stands in charter.toml.

{head}
# Where the other members are: a member's name, or its id, and the address that it advertises.
[peers]
{known}# bob = "tcp://bob.example.org:7431"

[run]
threads = 1   # of torch; one a peer is fastest where peers share a machine

[transcripts]
keep_megabytes = 512   # of the signed logs of all sessions; the oldest files go first
keep_secrets = 0       # rounds whose secrets are kept for `decentra audit --self`; who reads them can read your updates
"""


@dataclass(frozen=True)
class PeerFolder:
    """The folder of one peer, ``--state DIR``: where each thing that it keeps is."""

    path: Path

    @classmethod
    def find(cls, state: str | os.PathLike[str] | None = None) -> PeerFolder:
        """The folder that was asked for, or else the one that ``decentra run`` set.

        Raises:
            LocalError: neither is there.
        """
        named = os.environ.get(STATE_VARIABLE) if state is None else state
        if not named:
            raise LocalError("no peer folder was named; start the program with `decentra run PROGRAM --state DIR`")
        return cls(Path(named))

    @property
    def identity(self) -> Path:
        """The seed of the peer's keys, readable by its owner alone."""
        return self.path / "identity.key"

    @property
    def config(self) -> Path:
        """``decentra.toml``."""
        return self.path / FILE

    @property
    def charter(self) -> Path:
        """``charter.toml``."""
        return self.path / CHARTER_FILE

    @property
    def lineage(self) -> Lineage:
        """The charters that came before it, and those that are begun."""
        return Lineage(self.path)

    @property
    def addresses(self) -> Path:
        """``addresses.toml``: where others say that members are."""
        return self.path / ADDRESSES_FILE

    @property
    def member(self) -> Path:
        """``member.toml``: this peer's record, to be handed to whoever keeps the charter."""
        return self.path / "member.toml"

    @property
    def invites(self) -> Invites:
        """The invites that this member has given."""
        return Invites(self.path / "invites")

    @property
    def request(self) -> Path:
        """``request.toml``: an invited peer's request to be admitted, to be handed to who invited it."""
        return self.path / REQUEST

    @property
    def requests(self) -> Path:
        """Requests that came to this member's door, to be answered by ``decentra charter amend --add``."""
        return self.path / "requests"

    @property
    def token(self) -> Path:
        """``invite.txt``: the token of an invited peer, until it is admitted."""
        return self.path / "invite.txt"

    @property
    def journal(self) -> Path:
        """The journal, an SQLite database."""
        return self.path / "journal.db"

    @property
    def beacon(self) -> Path:
        """``beacon.toml``: what this peer knows of its epoch's beacon, and if it is a drawer, its one word for it."""
        return self.path / "beacon.toml"

    @property
    def status(self) -> Path:
        """What the running peer knows of its group, for ``decentra status``."""
        return self.path / "status.json"

    @property
    def transcripts(self) -> Path:
        """Signed logs of each session: what this peer said, and what it heard."""
        return self.path / "transcripts"

    @property
    def secrets(self) -> Path:
        """The secrets of the latest rounds, where the configuration keeps any."""
        return self.path / "secrets"

    def transcripts_of(self, me: PeerId, config: Config, sessions: int = 1) -> Transcripts:
        """The transcripts of this peer's sessions, of which it has so many at a time."""
        return Transcripts(self.transcripts, me, config.transcripts.keep_megabytes << 20, sessions)

    def load(self) -> tuple[Identity, Charter, Config]:
        """Read identity, charter and configuration; neither signatures nor soundness are judged (``ready``).

        Raises:
            LocalError: a file is missing, unreadable, open to others or malformed.
        """
        return self.load_identity(), self.load_charter(), self.load_config()

    def ready(self) -> tuple[Identity, Charter, Config]:
        """As ``load``, and everything that must hold before this peer joins its group.

        Raises:
            LocalError: an unsound charter, a record or signature that does not verify or is missing, also of a charter
                that it amends, a peer that is no member or has another name there, or a member without an address.
        """
        identity, charter, config = self.load()
        self.refuse_alone(identity.id, charter)
        if identity.id not in charter.ids and self.request.exists():
            raise LocalError(
                "you are invited and not admitted yet: a member begins it with `decentra charter amend --add`; then "
                f"`decentra enter --state {self.path} --sign`"
            )
        ancestors = self.lineage.ancestors(charter)
        member = charter.member(identity.id)
        if changed := self.lineage.unagreed(charter, ancestors, identity.id):
            raise LocalError(
                f"{self.charter} has terms that you have not signed ({'; '.join(changed[:3])}); read it, and agree "
                f"with `decentra charter sign --state {self.path}`, or leave the group"
            )
        if member.curve != identity.curve_public:
            raise LocalError(f"{self.charter} has another curve key for {member.label}; add your member.toml afresh")
        if member.name != config.peer.name:
            raise LocalError(
                f"{self.config} calls this peer {config.peer.name!r} and the charter {member.name!r}; "
                f"set name in [peer] to {member.name!r}"
            )
        former = (member for old in ancestors for member in old.members)
        return identity, charter, self.reachable(identity.id, charter, former, config)

    def reachable(
        self, me: PeerId, charter: Charter, former: Iterable[Member], config: Config | None = None
    ) -> Config:
        """The configuration, with an address for every other member of a charter.

        Raises:
            LocalError: an address is missing or nobody's; all of them.
        """
        known = self.completed((config or self.load_config()).without(former, charter), charter)
        known.addresses(charter, me, str(self.config))
        return known

    def completed(self, config: Config, charter: Charter) -> Config:
        """The configuration with addresses of members for whom it has none: what they asked under their own signature
        to be reached at, or else what was heard of them."""
        heard, found = self._heard(), {}
        for member in charter.members:
            address = self.invites.address_of(member.id) or heard.get(member.id)
            if config.address_of(member) is None and address is not None and member.name != config.peer.name:
                found[member.id] = address
        return config.with_known(found)

    def addresses_known(self, charter: Charter) -> Addresses:
        """Where this peer knows members to be, itself included, for others; nothing where its files can't be read."""
        try:
            config = self.completed(self.load_config(), charter)
        except LocalError:
            return Addresses()
        own = {member.id: config.address for member in charter.members if member.name == config.peer.name}
        known = ((member.id, own.get(member.id) or config.address_of(member)) for member in charter.members)
        return Addresses(peers={peer.hex(): address for peer, address in known if address is not None})

    def keep_addresses(self, teller: PeerId, told: Addresses, charter: Charter) -> None:
        """Keep what another member told of where members are, as far as it is an address at all.

        What it says of itself is first-hand, and replaces what was heard before; of others it tells only where nothing
        was known, so that nobody leads this peer away from a member that it reaches.

        Raises:
            LocalError: the folder can't be read or written.
        """
        before = self._heard().peers
        kept = dict(before)
        for member in charter.members:
            address, key = told.get(member.id), member.id.hex()
            if address is not None and _is_reachable(address) and (member.id == teller or key not in kept):
                kept[key] = address
        if kept != before:
            toml.save_text(self.addresses, Addresses(peers=kept).to_toml())

    def _heard(self) -> Addresses:
        if not self.addresses.exists():
            return Addresses()
        return Addresses.parse(toml.read_text(self.addresses, "remove it"), str(self.addresses))

    def refuse_alone(self, me: PeerId, charter: Charter) -> None:
        """Refuse the charter that ``init`` began, with this peer alone in it: there is a group's to be signed first.

        Raises:
            LocalError: it is that one.
        """
        if charter.ids == (me,):
            raise LocalError(
                f"{self.path} has still its own one-member charter; sign the group's with `decentra charter sign "
                f"--state {self.path} --charter FILE`, or add the others with `decentra charter add` if you keep it"
            )

    def load_identity(self) -> Identity:
        """The peer's keys; raises as ``load``."""
        self._exists()
        if not self.identity.exists():
            raise LocalError(self._missing("identity.key"))
        return Identity.load(self.identity)

    def load_charter(self) -> Charter:
        """The charter; raises as ``load``."""
        self._exists()
        if not self.charter.exists() and self.request.exists():
            raise LocalError(
                f"{self.path} was invited and is not admitted yet; `decentra enter --state {self.path}` asks how far "
                f"that is, or hand {self.request} to who invited you, and take the charter that you get for it with "
                f"`decentra charter sign --state {self.path} --charter FILE`"
            )
        return Charter.parse(toml.read_text(self.charter, self._first()), str(self.charter))

    def load_request(self) -> Request | None:
        """The request of an invited peer; None where this one was not invited."""
        if not self.request.exists():
            return None
        return Request.parse(toml.read_text(self.request, "take the invite again"), str(self.request))

    def load_config(self) -> Config:
        """The configuration; raises as ``load``."""
        self._exists()
        return Config.parse(toml.read_text(self.config, self._first()), str(self.config))

    def _exists(self) -> None:
        if self.path.is_file():
            raise LocalError(f"{self.path} is a file; name the peer's folder with --state {self.path.parent}")
        if not self.path.is_dir():
            raise LocalError(
                f"there is no peer folder {self.path}; check the path, or make the folder with `decentra init --state "
                f"{self.path} --name NAME`"
            )

    def _missing(self, name: str) -> str:
        return f"{self.path} has no {name}; {self._first()}"

    def _first(self) -> str:
        return f"run `decentra init --state {self.path} --name NAME` first"
