"""A running peer's door: what it answers the invited, former members, and members of an epoch that it is not in yet.

Nobody at the door is heard by any round. The invited bring their request, once, and their signature on the amendment
that adds them; everybody else asks what came after the charter that they hold.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from decentra.charter import Charter, toml
from decentra.charter.amend import awaited, judge
from decentra.charter.invite import Kept, Request
from decentra.crypto.keys import verify
from decentra.errors import LocalError, RemoteError
from decentra.gossip.allowance import Allowance
from decentra.peer.charters import FolderCharters
from decentra.peer.config import PeerFolder
from decentra.transport.envelope import unseal
from decentra.transport.zap import key_text
from decentra.types import EpochName, PeerId
from decentra.wire.door import Answer, Question, Says
from decentra.wire.entry import ZERO
from decentra.wire.frame import FrameKind, Lane
from decentra.wire.frame import parse as parse_frame

ANSWERS_A_SECOND, ANSWERS_AT_ONCE = 1.0, 8.0
"""Questions of one key that are answered; one costs a few signatures and a look at the folder."""

MOST_REQUESTS = 64
"""Requests that wait in a folder: as many as a group may have members."""


class Door:
    """Answers at the door (``transport.zeromq.Reception``); on the peer's I/O thread only.

    Args:
        folder: the peer's.
        me: this peer.
        charters: what it holds.
        clock: seconds that never go back.
        adopted: told that the folder has a charter that is in force since a newcomer has signed.
        take: given whom a neighbour's answer came from, the charter in it, and addresses.
        guests_only: let nobody in but the invited.
    """

    def __init__(
        self,
        folder: PeerFolder,
        me: PeerId,
        charters: FolderCharters,
        clock: Callable[[], float],
        take: Callable[[PeerId, bytes, bytes], bool],
        adopted: Callable[[], object],
        log: logging.Logger,
        *,
        guests_only: bool = False,
    ) -> None:
        self._folder, self._me, self._charters, self._clock = folder, me, charters, clock
        self._take, self._adopted, self._log = take, adopted, log
        self._guests_only = guests_only
        self._allowance = Allowance(ANSWERS_A_SECOND, ANSWERS_AT_ONCE)
        self._known: dict[str, bytes] = {}
        self._invited: frozenset[str] = frozenset()
        self.look()

    def look(self) -> None:
        """Learn anew who may stand at the door: files change by other hands."""
        chain = () if self._guests_only else self._charters.chain
        members = {key_text(one.curve): one.curve for charter in chain for one in charter.members}
        invited = {key_text(kept.curve): kept.curve for kept in self._folder.invites.open(time.time())}
        self._known, self._invited = {**members, **invited}, frozenset(invited)

    def admits(self, key: str) -> bool:
        return key in self._known

    def asked(self, key: str, message: bytes) -> bytes | None:
        if not self._allowance.spend(PeerId(self._known[key]), self._clock()):
            return None
        answer: Answer | None
        try:
            if message[:1] != bytes((Lane.CONTROL,)):
                answer = self._answer(key, Question.parse(message))
            else:
                answer = self._greeted(message)
        except ValueError:
            return None  # no release of decentra says that here
        except LocalError as error:
            said = str(error).replace(str(self._folder.path), "the member's folder")  # where that is concerns nobody
            answer = Answer(Says.WORDS, said[:1000])
        return b"" if answer is None else answer.pack()

    def answered(self, peer: PeerId, message: bytes) -> bool:
        try:
            answer = Answer.parse(message)
        except ValueError:
            return False
        if answer.says is not Says.CHARTER:
            return False
        try:
            self._take(peer, answer.text.encode(), answer.addresses.encode())
        except RemoteError as error:
            self._log.warning("%s", error)
        return True

    # ── who asks what ────────────────────────────────────────────────────────────────────────────────────────────────

    def _greeted(self, message: bytes) -> Answer | None:
        """Who is no member any more greets as one: it hears what came after its charter, since it may not know. One
        that is not a member yet hears nothing until this peer goes over; cut, it would knock again at once."""
        lane, header, parts = unseal(memoryview(message))
        frame = parse_frame(lane, header, [part.nbytes for part in parts])
        if frame.kind is not FrameKind.HELLO:
            raise ValueError("only who is a member is heard")
        for charter, held in zip(self._charters.chain, self._charters.lineage, strict=True):
            if frame.epoch.is_same(EpochName(charter.group.epoch, held)):
                return self._next(held)
        return None

    def _next(self, held: bytes) -> Answer | None:
        found = self._charters.after(held)
        return None if found is None else Answer(Says.CHARTER, found.text.decode(), found.addresses.decode())

    def _answer(self, key: str, question: Question) -> Answer:
        if (found := self._next(question.held)) is not None:
            return found
        if key in self._invited:
            return self._invited_asks(key, question)
        if question.held == self._charters.newest.charter:
            return Answer(Says.WORDS, "you hold the charter in force")
        return Answer(Says.WORDS, "this group never had the charter that you hold; ask a member for the one in force")

    def _invited_asks(self, key: str, question: Question) -> Answer:
        """One step of an admission, whichever comes next."""
        request = Request.parse(question.request, "your request")
        if self._folder.invites.used_by_another(request):
            self._log.warning("%s comes with an invite that was used already, and is refused", request.member.label)
            return Answer(Says.REFUSED, "this invite was used already; ask for a new one")
        kept = self._folder.invites.check(self._me, request, time.time())
        if key_text(kept.curve) != key:
            raise LocalError("your request answers another invite than the one that you come with")
        if (taken := self._taken(request, kept)) is not None:
            return taken
        file = self._keep(request)
        if kept.used is None:
            self._folder.invites.use(kept, request)
            self._log.info("%s, whom you invited, asks to be admitted: %s", request.member.label, file)
        if question.held == ZERO:
            return self._charter_of(request)
        if request.member.id in self._charters.chain[-1].ids:
            return Answer(Says.WORDS, "you are a member, and hold the charter in force")
        return self._pending(request, question)

    def _taken(self, request: Request, kept: Kept) -> Answer | None:
        """The refusal of a name that another member has; the invite holds on."""
        name, me = request.member.name, request.member.id
        if all(one.id == me or one.name.lower() != name.lower() for one in self._charters.chain[-1].members):
            return None
        own = "choose another with `decentra keys --name`"
        mend = own if kept.newcomer is None else "ask for an invite for another"
        return Answer(Says.REFUSED, f"the name {name!r} is taken; {mend}")

    def _keep(self, request: Request) -> Path:
        """The request's file, written if it is not there as it is."""
        folder = self._folder.requests
        file = folder / f"{request.member.id.hex()[:16]}.toml"
        text = request.to_toml()
        if not file.exists() or toml.read_text(file, "it is written again") != text:
            if not file.exists() and folder.exists() and len(list(folder.iterdir())) >= MOST_REQUESTS:
                raise LocalError("too many requests wait here already; ask whom you know to take care of them")
            try:
                folder.mkdir(mode=0o700, exist_ok=True)
            except OSError as error:
                raise LocalError(f"your request can't be kept there ({error.strerror})") from None
            toml.save_text(file, text, 0o600)
        return file

    def _charter_of(self, request: Request) -> Answer:
        """The charter that an invite names, from which the newcomer's trust begins."""
        for charter in self._charters.chain:
            if charter.hash == request.request.charter:
                known = self._folder.addresses_known(charter)
                return Answer(Says.CHARTER, charter.to_toml(), known.to_toml())
        raise LocalError("the charter that your invite names is not kept here any more; ask for another invite")

    def _pending(self, request: Request, question: Question) -> Answer:
        """The amendment that adds the newcomer, to be signed by it; or how far that is."""
        old, me = self._charters.chain[-1], request.member
        found = [new for new in self._folder.lineage.begun(old) if me.id in new.ids]
        if not found:
            return Answer(Says.WORDS, "your request is kept; a member has still to admit you")
        new = found[0]
        if question.signed == new.hash and verify(me.ed25519, question.signature, new.hash):
            new = self._signed(old, new, me.id, question.signature)
            if not judge(old, new):
                self._adopt(old, new)
                following = self._next(old.hash)
                if following is not None:
                    return following
        lacks = awaited(old, new)
        if me.id in {one.id for one in lacks.added}:
            known = self._folder.addresses_known(new)
            return Answer(Says.PENDING, new.to_toml(), known.to_toml())
        names = ", ".join(sorted(one.name for one in (*lacks.added, *lacks.kept)))
        return Answer(Says.WORDS, f"you have signed; still to sign: {lacks.more + len(lacks.added)} of {names}")

    def _signed(self, old: Charter, new: Charter, who: PeerId, signature: bytes) -> Charter:
        """The amendment with a newcomer's signature, kept so."""
        if new.signatures.get(who) != signature:
            new = new.merge(new.model_copy(update={"signatures": {who: signature}}))
            text = toml.read_text(self._folder.lineage.pending(new), "sign it again")
            self._folder.lineage.keep(new, text)
        return new

    def _adopt(self, old: Charter, new: Charter) -> None:
        """The newcomer's signature was the last one: the amendment is in force, and travels from here."""
        text = toml.read_text(self._folder.charter, "the peer goes on with the one that it has")
        self._folder.lineage.adopt(old, text, new)
        self._adopted()
