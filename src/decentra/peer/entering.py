"""A newcomer's way into a group: it asks at the inviter's door, or at any member's, and takes what comes next.

What is handed to it is held against what it trusts already: the first charter against the hash in its invite, each
later one against the one before. It signs nothing by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from decentra.charter import Charter, Policy, toml
from decentra.charter.amend import changed_terms, faults, judge
from decentra.charter.invite import Invite, guest_of
from decentra.errors import DecentraError, LocalError, RemoteError, Unavailable
from decentra.peer.addresses import Addresses
from decentra.peer.config import PeerFolder
from decentra.transport.dialler import Route
from decentra.transport.knock import knock
from decentra.types import PeerId
from decentra.wire.door import Answer, Question, Says
from decentra.wire.entry import ZERO

MOST_STEPS = 64
"""Charters taken in one visit; a door that hands over more leads nowhere."""


@dataclass(frozen=True)
class Standing:
    """How far an admission is.

    Attributes:
        member: whether the charter in the folder has this peer as its member, in force.
        to_sign: an amendment that adds this peer and lacks its signature; None for none.
        changes: the terms that it changes besides, a short sentence each.
        says: what was answered last.
        refused: whether that was a refusal, so that to ask again is in vain.
    """

    member: bool
    to_sign: Path | None
    changes: tuple[str, ...]
    says: str
    refused: bool = False


class Entering:
    """One newcomer's folder, on its way in.

    Raises:
        LocalError: the folder is no invited peer's.
    """

    def __init__(self, folder: PeerFolder) -> None:
        self._folder, self._me = folder, folder.load_identity()
        request = folder.load_request()
        if request is None:
            raise LocalError(f"{folder.path} was not invited; make a folder with `decentra init --invite TOKEN`")
        self._request = request

    def visit(self) -> Standing:
        """Ask, and take what is handed over, until there is nothing more to take.

        Raises:
            Unavailable: nobody answers, or those who do don't know this peer.
            RemoteError: what was handed over is not what comes next.
            LocalError: the folder can't be written.
        """
        for _ in range(MOST_STEPS):
            peer, answer = self._ask()
            match answer.says:
                case Says.CHARTER:
                    self._take(peer, answer)
                case Says.PENDING:
                    self._begin(peer, answer)
                    return self.standing(f"{peer} handed over an amendment that adds you")
                case Says.REFUSED:
                    return Standing(False, None, (), answer.text, refused=True)
                case Says.WORDS:
                    return self.standing(answer.text)
        raise Unavailable([], 0.0, "this visit", f"{MOST_STEPS} charters were handed over, and there are still more")

    def standing(self, says: str = "") -> Standing:
        """How far it is, by what the folder has."""
        charter = self._charter()
        if charter is None:
            return Standing(False, None, (), says)
        if self._me.id in charter.ids:
            self._folder.token.unlink(missing_ok=True)
            return Standing(True, None, (), says)
        for new in self._begun(charter):
            if self._me.id not in new.without_stale_signatures().signatures:
                return Standing(False, self._folder.lineage.pending(new), changed_terms(charter, new), says)
        return Standing(False, None, (), says)

    def sign(self) -> None:
        """Sign the amendment that adds this peer: it agrees to its terms.

        Raises:
            LocalError: there is none, or another one was signed.
        """
        charter, path = self._charter(), self.standing().to_sign
        if charter is None or path is None:
            raise LocalError("there is no amendment to be signed yet; ask again with `decentra enter`")
        text = toml.read_text(path, "ask for it again")
        new = Charter.parse(text, str(path))
        toml.raise_problems(str(path), faults(charter, new))
        self._folder.lineage.promise(charter, new)
        self._folder.lineage.keep(new.sign(self._me), text)

    # ── asking ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _ask(self) -> tuple[PeerId, Answer]:
        """The first answer: of the inviter, else of any member that this peer knows an address of."""
        failed: list[DecentraError] = []
        question = self._question()
        for peer, route in self._doors():
            try:
                return peer, knock(peer, route, question)
            except Unavailable as error:
                failed.append(error)
        if not failed:
            raise LocalError(f"{self._folder.path} knows no address to ask at; put one into [peers] of decentra.toml")
        raise failed[0]

    def _question(self) -> Question:
        charter = self._charter()
        held, signed, signature = (ZERO if charter is None else charter.hash), ZERO, bytes(64)
        for new in () if charter is None else self._begun(charter):
            if (mine := new.without_stale_signatures().signatures.get(self._me.id)) is not None:
                signed, signature = new.hash, mine
        return Question(held, signed, signature, self._request.to_toml())

    def _doors(self) -> Iterator[tuple[PeerId, Route]]:
        if self._folder.token.exists():
            invite = Invite.parse(toml.read_text(self._folder.token, "take the invite again"))
            guest = guest_of(invite.secret)
            yield invite.inviter, Route(invite.address, invite.curve, guest.curve_public, guest.curve_secret)
        charter = self._charter()
        known = Addresses() if charter is None else self._folder.addresses_known(charter)
        for member in () if charter is None else charter.members:
            address = known.get(member.id)
            if address is not None and member.id != self._me.id:
                yield member.id, Route(address, member.curve, self._me.curve_public, self._me.curve_secret)

    # ── taking ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _take(self, peer: PeerId, answer: Answer) -> None:
        """A charter in force: the invite's own, or the next one."""
        old = self._charter()
        where = "the charter that it handed over"
        try:
            new = Charter.parse(answer.text, where).without_stale_signatures()
            known = Addresses.parse(answer.addresses, where)
            if old is None:
                self._check_first(new)
            else:
                toml.raise_problems(where, judge(old, new))
        except LocalError as error:
            raise RemoteError(peer, "CHARTER", str(error)) from error
        self._folder.keep_addresses(peer, known, new)
        if old is None:
            toml.save_text(self._folder.charter, answer.text)
        else:
            text = toml.read_text(self._folder.charter, "ask again")
            self._folder.lineage.adopt(old, text, new)

    def _check_first(self, new: Charter) -> None:
        if new.hash != self._request.request.charter:
            raise LocalError("it is not the charter that your invite names")
        Policy(new).check()
        new.check(signed=new.group.previous is None)

    def _begin(self, peer: PeerId, answer: Answer) -> None:
        """An amendment that is begun, and adds this peer: kept, to be read and signed."""
        old = self._charter()
        where = "the amendment that it handed over"
        try:
            if old is None:
                raise LocalError("it amends a charter that this peer does not have")
            new = Charter.parse(answer.text, where).without_stale_signatures()
            known = Addresses.parse(answer.addresses, where)
            toml.raise_problems(where, faults(old, new))
            if self._me.id not in new.ids:
                raise LocalError("it does not add this peer")
        except LocalError as error:
            raise RemoteError(peer, "CHARTER", str(error)) from error
        self._folder.keep_addresses(peer, known, new)
        kept = self._folder.lineage.pending(new)
        if kept.exists():
            new = new.merge(Charter.parse(toml.read_text(kept, "ask again"), str(kept)).without_stale_signatures())
        self._folder.lineage.keep(new, toml.read_text(self._folder.charter, "ask again"))

    def _charter(self) -> Charter | None:
        return self._folder.load_charter() if self._folder.charter.exists() else None

    def _begun(self, charter: Charter) -> list[Charter]:
        return [new for new in self._folder.lineage.begun(charter) if self._me.id in new.ids]
