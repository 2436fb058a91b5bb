"""mesh's machine: whole updates to everybody, an echo, one certified set of them, and one rule evaluated by all.

Everybody who has the certified updates computes the result by itself, exactly, so nobody waits for an owner of anything
and no sum is sent. Who lacks one gets it from those who hold it; whoever still does votes for what c + 1 others signed.
"""

from __future__ import annotations

from collections.abc import Sequence

from decentra.crypto.ring import Ring
from decentra.errors import LocalError
from decentra.machine.effects import Release, Send, SetTimer
from decentra.machine.events import Blob, Received
from decentra.protocols.aggregate import Aggregated
from decentra.protocols.agreed import Agreed, Named, counted, derive_agreed
from decentra.protocols.evaluated import Evaluated
from decentra.protocols.jobs import Encoded
from decentra.protocols.mesh.holdings import holdings, read_holding
from decentra.protocols.mesh.messages import Endorse, Endorsed, Holding, Relay, Result, Update
from decentra.protocols.mesh.transitions import READS, SHOWS, TRANSITIONS
from decentra.protocols.rendezvous.messages import State
from decentra.protocols.round import CONTEXT, SURVIVORS
from decentra.protocols.setting import Contribution, Setting
from decentra.types import PeerId, RoundId
from decentra.wire.message import Message, Verified

UPDATES = "updates"


class Mesh(Evaluated):
    """One peer's part in one round of mesh."""

    protocol = "mesh"
    transitions, reads, shows = TRANSITIONS, READS, SHOWS
    endorse_type, endorsed_type, holding_type, result_type = Endorse, Endorsed, Holding, Result
    scattering = UPDATES
    wanted, missed = "a survivor's update", "an update"
    context_clause, update_clause, holding_clause, relay_clause = "ME-1", "ME-2", "ME-3", "ME-4"
    row_clause, result_clause, outcome_clause = "ME-5", "ME-6", "ME-7"

    def __init__(self, setting: Setting, mine: Contribution, round_id: RoundId) -> None:
        super().__init__(setting, mine, round_id)
        self._mine: Blob | None = None
        """This peer's update, encoded."""
        self._said: dict[PeerId, bytes] = {}
        """What this peer's own holding names."""
        self._held: dict[PeerId, Named] = {}
        """What the holdings that were read name, by author."""
        self._came = 0
        """How many updates had come when the holdings were last held against them."""
        self._relayed: set[tuple[PeerId, PeerId]] = set()
        """Whose updates this peer has relayed to whom."""

    # ── phases ───────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def given_kind(self) -> str:
        return Update.kind

    @property
    def in_one_piece(self) -> bool:
        return True

    @property
    def limit(self) -> int:
        return Ring(self.setting.width).limit(self.n)

    def entered(self, phase: str) -> None:
        if phase == CONTEXT:
            self.endorse_plainly()
        elif phase == UPDATES:
            self.encode()

    def own_step(self) -> bool:
        return self.step_context() if self.phase == CONTEXT else self._step_updates()

    def computed(self, name: str, value: object) -> None:
        match name, value:
            case "encode", Encoded(slices=(blob,)):
                self._mine, self.clipped = blob, value.clipped
                others = [peer for peer in self.roster if peer != self.setting.me]
                self.spend(Update(self.context, blob.root), (blob.root,), dict.fromkeys(others, blob))
                self.await_others()
            case "aggregate", Aggregated():
                self.aggregated(value)
            case _:
                raise LocalError(f"mesh: the job {name!r} gave {value!r}")

    def went_on(self, timer: str) -> bool:
        if timer == "shown":
            self.waited.add(timer)
            self.absent.update(self._awaited())
            return True
        return super().went_on(timer)

    # ── updates ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def slot(self, message: Message) -> str:
        """A peer relays an author's update once, to whoever lacks it."""
        return self._relays_of(message.author) if isinstance(message, Relay) else super().slot(message)

    @staticmethod
    def _relays_of(author: PeerId) -> str:
        """Under what relays of an author's update are kept."""
        return f"{Relay.kind}/{author.hex()}"

    def room(self, message: Message) -> int:
        return super().room(message) if isinstance(message, State) else self._size

    @property
    def _size(self) -> int:
        """Bytes of an update."""
        return self.mine.length * (self.setting.width // 8)

    def wants(self, verified: Verified, root: bytes) -> bool:
        """Of who is certified as a survivor one update is wanted, the certified one, whoever brings it; until then each
        author's own."""
        author, cited = self._brought(verified)
        if self.survivors is not None and isinstance(cited.message, Update):
            certified = self.survivors.updates.get(author) == cited.body_hash and cited.sender == author
            lacking = author not in self.rows and getattr(verified.message, "context", b"") == self.context
            return certified and lacking and super().wants(cited, root)
        return not isinstance(verified.message, Relay) and super().wants(verified, root)

    def defers(self, verified: Verified, root: bytes, coming: Sequence[Verified]) -> bool:
        """A relay's offer stands until survivors are certified, and while another relay of the same update comes, for
        half a phase: then all that are offered are let in, so that no silent relayer keeps an update away."""
        author, cited = self._brought(verified)
        if not isinstance(verified.message, Relay) or not {verified.sender, author} <= set(self.roster):
            return False
        if not isinstance(cited.message, Update) or cited.sender != author or cited.message.root != root:
            return False
        if self.survivors is None:
            return True
        others = any(isinstance(one.message, Relay) for one in coming)
        return others and "spare" not in self.waited and self.wants(verified, root)

    def copied(self, verified: Verified) -> bytes:
        """An update is one blob, whoever brings it; two peers' updates are two, though they be equal."""
        author, cited = self._brought(verified)
        return author + cited.body_hash if isinstance(cited.message, Update) else b""

    @staticmethod
    def _brought(verified: Verified) -> tuple[PeerId, Verified]:
        """Whose update a message brings, and as what it was signed."""
        message = verified.message
        return (message.author, message.update) if isinstance(message, Relay) else (verified.sender, verified)

    def keep(self, event: Received) -> None:
        message, sender = event.verified.message, event.verified.sender
        if isinstance(message, Relay):
            cited = message.update
            if not isinstance(cited.message, Update) or cited.entry.round != self.round.number:
                self.refuse(sender, self.relay_clause, "it relays what is no update of this round")
                return
            if cited.sender != message.author:
                self.refuse(sender, self.relay_clause, "it relays another peer's update than it says")
                return
        super().keep(event)
        if isinstance(message, Relay):
            self._compare(message.author, message.update)
        elif isinstance(message, Update):
            self._compare(sender, event.verified)

    def _compare(self, author: PeerId, cited: Verified) -> None:
        """Two updates that a peer signed are evidence against it, whoever brought them."""
        others = [self.got(Update.kind).get(author), *self.got(self._relays_of(author)).values()]
        for received in others:
            known = None if received is None else received.verified
            update = getattr(None if known is None else known.message, "update", known)
            if update is not None and update.body_hash != cited.body_hash:
                self.refuse(author, self.context_clause, "it signed two different updates in a round")

    def _sound(self, author: PeerId, received: Received) -> bool:
        """Whether what a peer sent is what it signed under this context; else it is gone, with its clause."""
        message = received.verified.message
        if not isinstance(message, Update) or message.context != self.context:
            return self.refuse(author, self.context_clause, "it sent an update under a context it did not endorse")
        if author == self.setting.me:
            return True
        return self.sound_blob(author, self.update_clause, received.blob, message.root, self._size)

    def _step_updates(self) -> bool:
        """Say whose update is whole here: everybody's, or, when the time is over, that of who came."""
        self.hurry()
        if not self.left:
            self.go_after()
            return False
        whole = {peer: one for peer, one in self.got(Update.kind).items() if self._sound(peer, one)}
        if self.setting.me not in whole or not self.holds_now(whole):
            return False
        self._said = {peer: received.verified.body_hash for peer, received in whole.items()}
        message = Holding(self.context, tuple(sorted(self._said.items())))
        self.out.append(Send(message, after=self.rendezvous.opened_by))
        # Whoever's update is here began to wait for others' by now, for twice that patience; the third is for the way.
        self.out.append(SetTimer("shown", 3 * self.setting.patience))
        self.out.append(SetTimer("fail", 4 * self.setting.patience))
        self.go("updates held")
        return True

    # ── the survivors ────────────────────────────────────────────────────────────────────────────────────────────────

    def own_holdings(self) -> dict[PeerId, Verified]:
        return {
            peer: one.verified for peer, one in self.got(Holding.kind).items() if self.is_holding(one.verified)
        }

    def is_holding(self, verified: Verified) -> bool:
        return read_holding(verified, self.context) is not None

    def unheard(self) -> tuple[PeerId, ...]:
        return self.missing(Holding.kind)

    @property
    def may_vote(self) -> bool:
        return bool(self.shown_holdings()) or self.proposed_early(SURVIVORS)

    def shown_holdings(self) -> list[Verified]:
        """Every holding, once everybody's is here that can be expected; those that came, when the time is over."""
        if "shown" not in self.waited and self._awaited():
            return []
        holdings = self.own_holdings()
        return [holdings[peer] for peer in self.roster if peer in holdings]

    def _awaited(self) -> list[PeerId]:
        """Whose holding may still come: not of who stopped, nor of whom nobody has an update."""
        holdings = self.own_holdings()
        named = set[PeerId]().union(*(dict(getattr(one.message, "held", ())) for one in holdings.values()))
        silent = self.gone | (self.absent - named)
        return [peer for peer in self.roster if peer not in holdings and peer not in silent]

    def derived(self, shown: Sequence[Verified]) -> tuple[bytes, tuple[Verified, ...]] | None:
        held = holdings(shown, self.roster, self.context)
        agreed = derive_agreed(self.roster, self.roster, self.quorum, self.quorum, self.setting.c, held)
        return None if agreed is None else (agreed.pack(), tuple(shown))

    def compare_holdings(self) -> None:
        """Take down holdings that are none, and those that name other updates than came here; and who is held under
        two hashes by more peers each than may lie."""
        sent, known = self.got(Update.kind), self.got(Holding.kind)
        if len(self._held) == len(known) and self._came == len(sent):
            return
        self._came = len(sent)
        for author, received in known.items():
            held = read_holding(received.verified, self.context)
            if held is None or not set(held) <= set(self.roster):
                self.refuse(author, self.holding_clause, "its holding is none of updates of this round")
            self._held[author] = held or {}
            for peer, hashed in self._held[author].items():
                if peer not in sent or sent[peer].verified.body_hash == hashed:
                    continue
                if peer == author:
                    self.refuse(author, self.holding_clause, "it holds another update of its own than it sent")
                else:
                    self.doubt(author, peer, self.holding_clause, "update", "updates")
        for peer, hashes in counted(self._held.values(), self.setting.c).items():
            if len(hashes) > 1:
                self.refuse(peer, self.context_clause, "more peers than may lie hold each of two updates of its")

    def take_survivors(self, value: bytes) -> None:
        self.survivors = Agreed.unpack(value)
        certified = self.survivors.updates
        for peer, received in self.got(Update.kind).items():
            if received.blob is not None and certified.get(peer) != received.verified.body_hash:
                self.out.append(Release(received.blob))

    @property
    def members(self) -> tuple[PeerId, ...]:
        return self.roster if self.survivors is None else self.survivors.members

    @property
    def owners(self) -> tuple[PeerId, ...]:
        return self.roster if self.survivors is None else self.survivors.witnesses

    @property
    def participants(self) -> tuple[PeerId, ...]:
        return self.used

    # ── relays ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def gather(self) -> None:
        self.compare_holdings()
        self._find_rows()
        self._relay()

    def refuse_row(self, name: PeerId) -> None:
        said = "its update has another weight than 1, or a coordinate that no encoding gives"
        self.refuse(name, self.row_clause, said)

    def _find_rows(self) -> None:
        """Take in the certified updates that are here, from their authors or from who relayed them."""
        for author, hashed in self.certified.items():
            if author in self.rows:
                continue
            direct = self.got(Update.kind).get(author)
            if direct is not None and direct.verified.body_hash == hashed and self._sound(author, direct):
                blob = self._mine if author == self.setting.me else direct.blob
                if blob is not None:
                    self.rows[author] = blob
                    continue
            for relayer, received in self.got(self._relays_of(author)).items():
                message, blob = received.verified.message, received.blob
                if not isinstance(message, Relay):
                    continue
                if message.context != self.context or message.update.body_hash != hashed:
                    self.refuse(relayer, self.relay_clause, "it relays another update than is certified")
                elif blob is not None and self.sound_blob(
                    relayer, self.update_clause, blob, getattr(message.update.message, "root", b""), self._size
                ):
                    self.rows[author] = blob
                    break

    def _cited(self, author: PeerId) -> Verified | None:
        """An author's certified update, as it signed it."""
        direct, hashed = self.got(Update.kind).get(author), self.certified.get(author)
        if direct is not None and direct.verified.body_hash == hashed:
            return direct.verified
        for received in self.got(self._relays_of(author)).values():
            message = received.verified.message
            if isinstance(message, Relay) and message.update.body_hash == hashed:
                return message.update
        return None

    def _relay(self) -> None:
        """Send what is certified to who holds it not, or another in its place.

        The first c + 1 of those that hold it do, one of whom is honest; and, where that took too long, as many as may
        lie or stop beside the author, and one more. It sends its own anyway, unless it is one of those.
        """
        done, most = self.got(Result.kind), self.setting.c + 1
        if "spare" in self.waited:
            most = max(most, self.setting.c + self.n - self.quorum)
        for author, hashed in self.certified.items():
            lacking = [
                peer
                for peer, held in self._held.items()
                if held.get(author) != hashed and peer not in done and (author, peer) not in self._relayed
            ]
            if not lacking or author not in self.rows or self.setting.me == author:
                continue
            if self.setting.me not in self._holders(author)[:most]:
                continue
            cited, blob = self._cited(author), self.rows[author]
            for peer in lacking:
                if cited is not None and peer not in (author, self.setting.me) and peer not in self.gone:
                    self._relayed.add((author, peer))
                    message, after = Relay(self.context, author, cited), self.certify[SURVIVORS].opened_by
                    self.out.append(Send(message, to=peer, blobs={peer: blob}, after=after, lasting=True))

    def _holders(self, author: PeerId) -> list[PeerId]:
        """Who said that it holds an author's certified update, besides that one, and has not stopped."""
        hashed = self.certified[author]
        return [
            peer
            for peer in self.roster
            if peer != author and peer not in self.gone and self._held.get(peer, {}).get(author) == hashed
        ]

    @property
    def hopeless(self) -> bool:
        return any(author in self.gone and not self._holders(author) for author in self.missing_rows())
