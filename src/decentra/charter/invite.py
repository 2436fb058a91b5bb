"""Invites: one line that lets one newcomer ask to be admitted, and the request that it comes back as.

An invite carries a one-time secret. From it comes a one-time identity, the *guest*: its public keys are all that the
inviter keeps, and its signature on a request proves that who asks was invited. A request is signed by the guest and by
the newcomer's own key over the same digest, so neither can be put beside another (``specs/charter/README.md``, "An
invite").
"""

from __future__ import annotations

import base64
import re
import struct
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field

from decentra.charter import toml
from decentra.charter.charter import Id, Key, Member, Name, Signature, Title, valid_name, valid_title
from decentra.charter.toml import Section
from decentra.crypto.hashing import digest, expand
from decentra.crypto.keys import Identity, verify
from decentra.errors import LocalError
from decentra.types import PeerId

VERSION = 1
SECRET_BYTES = 32
REQUEST = "request.toml"

_HEAD = struct.Struct(">B32s32s32s32sQ")  # version, charter, inviter's id and CURVE key, secret, expiry
_LENGTH = struct.Struct(">H")
_CHECK = 8
"""Bytes of a digest at the end, so that a line that lost something is told from one that was never an invite."""

_TEXTS = 4
MOST_TOKEN = 4096
"""Characters of the longest token that is looked at; a real one has some 400."""


MOST_ADDRESS = 128
"""Characters of an address: those of 64 members travel beside their charter."""


def _where(text: str) -> str:
    if not 1 <= len(text) <= MOST_ADDRESS or not text.isprintable():
        raise ValueError(f"must be 1 to {MOST_ADDRESS} printable characters; ask for the request again")
    return text


Where = Annotated[str, AfterValidator(_where)]


def guest_of(secret: bytes) -> Identity:
    """The one-time identity of an invite's secret: HKDF under its own label, then as any identity of a seed."""
    return Identity.from_seed(expand(secret, "decentra/invite"))


def day(seconds: int) -> str:
    """A time for people: seconds since 1970 as a date and time in UTC."""
    return datetime.fromtimestamp(min(seconds, 253_402_300_799), UTC).strftime("%Y-%m-%d %H:%M UTC")


@dataclass(frozen=True)
class Invite:
    """What a token says.

    Attributes:
        group: the group's name.
        charter: the hash of the charter in force, which the newcomer begins to trust with.
        inviter: the member that admits, its name, CURVE key and address.
        secret: 32 bytes, drawn for this invite alone.
        expires: seconds since 1970.
        newcomer: the name that the newcomer must take; empty for any.
    """

    group: str
    charter: bytes
    inviter: PeerId
    name: str
    curve: bytes
    address: str
    secret: bytes = field(repr=False)
    expires: int
    newcomer: str = ""

    @property
    def token(self) -> str:
        """The invite as one line of URL-safe base64."""
        head = _HEAD.pack(VERSION, self.charter, self.inviter, self.curve, self.secret, self.expires)
        texts = [text.encode() for text in (self.group, self.name, self.address, self.newcomer)]
        body = head + b"".join(_LENGTH.pack(len(text)) + text for text in texts)
        return base64.urlsafe_b64encode(body + _check(body)).rstrip(b"=").decode()

    @classmethod
    def parse(cls, token: str) -> Self:
        """The invite of a token.

        Raises:
            LocalError: it is none, was cut or altered, or is of a later version.
        """
        line = token.strip()
        if not re.fullmatch(r"[A-Za-z0-9_-]+", line) or len(line) > MOST_TOKEN:
            raise LocalError("this is no invite; copy the whole line that `decentra invite` printed, and nothing else")
        cut = LocalError("this invite was cut or altered on its way; copy the whole line of `decentra invite` again")
        try:
            raw = base64.urlsafe_b64decode(line + "=" * (-len(line) % 4))
        except ValueError:
            raise cut from None
        body, check = raw[:-_CHECK], raw[-_CHECK:]
        if len(body) < _HEAD.size or _check(body) != check:
            raise cut
        if body[0] != VERSION:
            raise LocalError(f"the invite has version {body[0]}, this decentra reads {VERSION}; install a newer one")
        _, charter, inviter, curve, secret, expires = _HEAD.unpack_from(body)
        texts, at = [], _HEAD.size
        for _ in range(_TEXTS):
            length = _LENGTH.unpack_from(body, at)[0] if at + _LENGTH.size <= len(body) else len(body)
            at += _LENGTH.size + length
            if at > len(body):
                raise cut
            texts.append(body[at - length : at].decode(errors="replace"))
        if at != len(body):
            raise cut
        group, name, address, newcomer = texts
        try:  # all of it is printed and written to files
            valid_title(group)
            valid_name(name)
            _where(address)
            valid_name(newcomer or name)
        except ValueError:
            raise cut from None
        return cls(group, charter, PeerId(inviter), name, curve, address, secret, expires, newcomer)

    def check(self, name: str, now: float) -> None:
        """Refuse an invite that is over, or is for somebody else.

        Raises:
            LocalError: the one or the other.
        """
        if now >= self.expires:
            raise LocalError(
                f"the invite of {self.name!r} into {self.group!r} ended on {day(self.expires)}; ask {self.name} for "
                "another"
            )
        if self.newcomer and name != self.newcomer:
            raise LocalError(f"{self.name!r} invited {self.newcomer!r}, not {name!r}; use --name {self.newcomer}")


def _check(body: bytes) -> bytes:
    return digest("invite", body)[:_CHECK]


class Asked(Section):
    """What a request says besides the newcomer's record.

    Attributes:
        invite: the guest's public key, which names the invite.
        address: where the newcomer will be reached.
        proof: the guest's signature.
        signature: the newcomer's, on the same digest.
    """

    group: Title
    charter: Key
    inviter: Id
    invite: Key
    address: Where
    proof: Signature
    signature: Signature


class Request(Section):
    """``request.toml``: a newcomer asks the member that invited it to be admitted."""

    version: Literal[1] = Field(examples=[VERSION])
    request: Asked
    members: Annotated[tuple[Member, ...], Field(min_length=1, max_length=1)]

    @classmethod
    def of(cls, invite: Invite, identity: Identity, name: str, address: str) -> Self:
        """The request of an identity under an invite.

        Raises:
            LocalError: the name is none.
        """
        member, guest = Member.of(identity, name), guest_of(invite.secret)
        asked = _digest(member, invite.group, invite.charter, invite.inviter, guest.public, address)
        terms = Asked(
            group=invite.group,
            charter=invite.charter,
            inviter=invite.inviter,
            invite=guest.public,
            address=address,
            proof=guest.sign(asked),
            signature=identity.sign(asked),
        )
        return cls(version=1, request=terms, members=(member,))

    @classmethod
    def parse(cls, text: str, where: str = REQUEST) -> Self:
        """The request that a TOML text holds, verified as far as it can be without the invite.

        Raises:
            LocalError: problems of form, or a signature that does not fit.
        """
        found = toml.read(text, cls, where)
        toml.raise_problems(where, found.problems)
        return found

    @property
    def member(self) -> Member:
        """The newcomer's record."""
        return self.members[0]

    @property
    def problems(self) -> tuple[str, ...]:
        """What does not verify."""
        asked, member = self.request, self.member
        if member.problems:
            return member.problems
        signed = _digest(member, asked.group, asked.charter, asked.inviter, asked.invite, asked.address)
        if not verify(member.ed25519, asked.signature, signed):
            return (f"{member.label} did not sign this request as it stands; ask for {REQUEST} again",)
        if not verify(asked.invite, asked.proof, signed):
            return (f"{member.label} shows no proof that it was invited; ask whom you invited for {REQUEST}",)
        return ()

    def to_toml(self) -> str:
        """The request as TOML, to be handed to the inviter."""
        asked = {name: getattr(self.request, name) for name in Asked.model_fields}
        tables = toml.load_tables(self.member.to_toml(), REQUEST)
        return toml.write({"version": self.version, "request": asked, **tables})


def _digest(member: Member, group: str, charter: bytes, inviter: PeerId, guest: bytes, address: str) -> bytes:
    record = (member.name, member.ed25519, member.curve, member.signature)
    return digest("admission request", group, charter, inviter, guest, *record, address)


class Kept(Section):
    """What the inviter keeps of an invite: no secret, only what a request is held against.

    Attributes:
        public, curve: the guest's public keys.
        newcomer: the name that was invited; absent for any.
        used: who was admitted by it; its address stands beside it.
    """

    group: Title
    charter: Key
    public: Key
    curve: Key
    expires: int = Field(ge=0, lt=2**63)
    newcomer: Name | None = Field(default=None)
    used: Id | None = Field(default=None)
    address: Where | None = Field(default=None)

    @classmethod
    def of(cls, invite: Invite) -> Self:
        """What is kept of a fresh invite."""
        guest = guest_of(invite.secret)
        return cls(
            group=invite.group,
            charter=invite.charter,
            public=guest.public,
            curve=guest.curve_public,
            expires=invite.expires,
            newcomer=invite.newcomer or None,
        )

    def problems(self, request: Request, now: float) -> tuple[str, ...]:
        """Why a verified request is not admitted by this invite, which it names."""
        asked, member = request.request, request.member
        if (asked.group, asked.charter) != (self.group, self.charter):
            return (f"{member.label} asks to join another group than it was invited to; ask for {REQUEST} again",)
        if self.used is not None and self.used != member.id:
            return (f"the invite that {member.label} shows was used by {self.used}, and holds once; make another one",)
        if self.used is None and now >= self.expires:
            return (f"the invite that {member.label} shows ended on {day(self.expires)}; make another one",)
        if self.newcomer is not None and member.name != self.newcomer:
            return (f"the invite that {member.label} shows is for {self.newcomer!r}; make one for {member.name!r}",)
        return ()

    def use(self, request: Request) -> Self:
        """The same invite, used."""
        return self.model_copy(update={"used": request.member.id, "address": request.request.address})

    def to_toml(self) -> str:
        """The invite as it is kept."""
        return toml.write({name: getattr(self, name) for name in Kept.model_fields})
