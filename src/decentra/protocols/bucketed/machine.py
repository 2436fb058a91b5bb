"""bucketed's machine: the buckets' certified means to everybody, one agreed set of them, and one rule evaluated by all.

Each bucket has summed by secagg, in a session of its own, before this round begins; its members bring the same mean.
What more of them state alike than may lie is its mean. Who lacks one gets it from whoever says that it holds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from decentra.crypto.hashing import digest
from decentra.crypto.ring import Ring
from decentra.errors import LocalError, RemoteError
from decentra.machine.effects import Blame, Persist, Record, Release, Send, SetTimer
from decentra.machine.events import Blob, Received
from decentra.protocols.aggregate import Aggregated
from decentra.protocols.agreed import Agreed, Named, derive_agreed
from decentra.protocols.bucketed.buckets import Buckets, contradicted, read_holding, sound_mean, stated
from decentra.protocols.bucketed.messages import Endorse, Endorsed, Holding, Mean, Relay, Result
from decentra.protocols.bucketed.transitions import READS, SHOWS, TRANSITIONS
from decentra.protocols.evaluated import Evaluated
from decentra.protocols.jobs import Encode, Encoded
from decentra.protocols.rendezvous.messages import State
from decentra.protocols.round import CONTEXT, SURVIVORS
from decentra.protocols.setting import Contribution, Outcome, Setting
from decentra.types import PeerId, RoundId
from decentra.wire.entry import ZERO
from decentra.wire.message import Message, Verified

MEANS = "means"


class Bucketed(Evaluated):
    """One peer's part in one round of bucketed, from when its bucket's sum is certified, or has failed."""

    protocol = "bucketed"
    transitions, reads, shows = TRANSITIONS, READS, SHOWS
    endorse_type, endorsed_type, holding_type, result_type = Endorse, Endorsed, Holding, Result
    scattering = MEANS
    wanted, missed = "a bucket's mean", "a bucket's mean"
    freed = "its buckets' sums are known, and count for nothing"
    context_clause, mean_clause, holding_clause, relay_clause = "BU-1", "BU-2", "BU-4", "BU-5"
    blob_clause, row_clause, result_clause, outcome_clause = "BU-3", "BU-6", "BU-7", "BU-8"

    def __init__(self, setting: Setting, mine: Contribution, round_id: RoundId) -> None:
        super().__init__(setting, mine, round_id)
        self.buckets = Buckets(setting.buckets, setting.bucket_c)
        self._mine: Blob | None = None
        """This peer's bucket's mean, encoded."""
        self._sound: dict[PeerId, bool] = {}
        """Whose statement was looked at, and whether it is one."""
        self._said: Holding | None = None
        """This peer's own holding."""
        self._held: dict[PeerId, Holding] = {}
        """The holdings that were read, by author."""
        self._relayed: set[tuple[PeerId, PeerId]] = set()
        """Which bucket's mean this peer has relayed to whom."""
        self._counted: tuple[PeerId, ...] = ()

    # ── phases ───────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def given_kind(self) -> str:
        return Mean.kind

    @property
    def in_one_piece(self) -> bool:
        return True

    @property
    def limit(self) -> int:
        return Ring(self.setting.width).limit(len(self.buckets.members))

    def entered(self, phase: str) -> None:
        if phase == CONTEXT:
            self.endorse_plainly()
        elif phase == MEANS:
            self._state_mean()

    def own_step(self) -> bool:
        return self.step_context() if self.phase == CONTEXT else self._step_means()

    def computed(self, name: str, value: object) -> None:
        match name, value:
            case "encode", Encoded(slices=(blob,)):
                self._mine = blob
                receivers = [peer for peer in self.buckets.receivers(self.setting.me) if peer in self.roster]
                self._give(Mean(self.context, tuple(sorted(self.mine.summed)), blob.root), receivers)
            case "aggregate", Aggregated():
                self.aggregated(value)
                self._counted = tuple(sorted(set().union(*map(self._members_of, self.used))))
            case _:
                raise LocalError(f"bucketed: the job {name!r} gave {value!r}")

    def went_on(self, timer: str) -> bool:
        if timer == "shown":
            self.waited.add(timer)
            self.absent.update(self._awaited())
            return True
        return super().went_on(timer)

    # ── means ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _state_mean(self) -> None:
        """Encode the bucket's mean, as each of its members does; or say that there is none.

        What was summed under another common state than this round goes by counts for nothing, if it is anything.
        """
        under = self.mine.state if self.mine.summed_under is None else self.mine.summed_under
        if self.mine.summed and (under == self.rendezvous.state or not self.mine.specs):
            self.encode()
        else:
            self._give(Mean(self.context, (), ZERO), [])

    def encode_job(self, masks: tuple[object, ...]) -> Encode:
        """Members of a bucket round alike: the coins follow from the context."""
        job = super().encode_job(())
        return replace(job, n=len(self.buckets.members), coins=digest("bucket-rounding", self.context))

    def _give(self, message: Mean, receivers: Sequence[PeerId]) -> None:
        """State the mean to everybody, and send it to those who have it from this peer."""
        self.left = True
        blobs = {} if self._mine is None else dict.fromkeys(receivers, self._mine)
        self.out.append(Persist(Record("stated", "mean", self.context + message.root)))
        self.out.append(Send(message, blobs=blobs, after=self.rendezvous.opened_by, lasting=True))
        self.await_others()

    @property
    def _size(self) -> int:
        """Bytes of a mean."""
        return self.mine.length * (self.setting.width // 8)

    def slot(self, message: Message) -> str:
        """A peer relays a bucket's mean once, to whoever lacks it."""
        return self._relays_of(message.bucket) if isinstance(message, Relay) else super().slot(message)

    @staticmethod
    def _relays_of(bucket: PeerId) -> str:
        return f"{Relay.kind}/{bucket.hex()}"

    def room(self, message: Message) -> int:
        return super().room(message) if isinstance(message, State) else self._size

    def wants(self, verified: Verified, root: bytes) -> bool:
        """One copy of each bucket's mean is wanted: from who is to send it; and a relay of what is certified, where
        this peer still lacks it."""
        message = verified.message
        if isinstance(message, Relay):
            lacking = message.bucket not in self.rows and message.context == self.context
            return lacking and message.root == root == self._certified_root(message.bucket)
        if isinstance(message, Mean):
            return message.root == root and self.setting.me in self.buckets.receivers(verified.sender)
        return super().wants(verified, root)

    def defers(self, verified: Verified, root: bytes, coming: Sequence[Verified]) -> bool:
        """A relay's offer stands until this peer knows what is certified of its bucket, and while another relay of the
        same mean comes, for half a phase: then all on offer are let in, so that no silent relayer keeps it away."""
        message = verified.message
        if not isinstance(message, Relay) or message.root != root or not self.buckets.named(message.bucket):
            return False
        if self.survivors is None or (message.bucket in self.certified and not self._certified_root(message.bucket)):
            return verified.sender in self.roster
        others = any(isinstance(one.message, Relay) for one in coming)
        return others and "spare" not in self.waited and self.wants(verified, root)

    def copied(self, verified: Verified) -> bytes:
        """A bucket's mean is one blob, whoever brings it."""
        message = verified.message
        if isinstance(message, Relay):
            return message.bucket + message.root
        return self.buckets.of(verified.sender)[0] + message.root if isinstance(message, Mean) else b""

    def _means(self) -> dict[PeerId, Verified]:
        """The statements that are sound; who made one that is not is taken down."""
        known = self.got(Mean.kind)
        new = [peer for peer in known if peer not in self._sound]
        for peer in new:
            self._sound[peer] = self._is_mean(peer, known[peer])
        means = {peer: one.verified for peer, one in known.items() if self._sound.get(peer)}
        for peer in contradicted(means, self.buckets, self.setting.c) if new else ():
            said = "it states another mean than its bucket's session gave, as more of its members state than may lie"
            self.refuse(peer, self.mean_clause, said)
        return means

    def _is_mean(self, peer: PeerId, received: Received) -> bool:
        message = received.verified.message
        if not isinstance(message, Mean) or message.context != self.context:
            return self.refuse(peer, self.context_clause, "it states a mean under a context it did not endorse")
        if not sound_mean(message, self.buckets.of(peer), self.buckets.c):
            said = "it states a mean of others than enough members of its bucket"
            return self.refuse(peer, self.mean_clause, said)
        if received.blob is None or peer == self.setting.me:
            return True
        return self.sound_blob(peer, self.blob_clause, received.blob, message.root, self._size)

    def _blob_of(self, name: PeerId, hashed: bytes) -> Blob | None:
        """A bucket's mean under this hash, where it is here."""
        for peer in self.buckets.named(name):
            received = self.got(Mean.kind).get(peer)
            if received is None or received.verified.body_hash != hashed or not self._sound.get(peer):
                continue
            blob = self._mine if peer == self.setting.me else received.blob
            if blob is not None:
                return blob
        return None

    def _step_means(self) -> bool:
        """Say which buckets' means are stated, once all are that can be, or when the time is over."""
        if not self.left:
            return False
        means = self._means()
        if self.setting.me not in means:
            return False
        said = stated(means, self.buckets)
        whole = [name for name, hashed in said.items() if self._blob_of(name, hashed) is not None or self._size == 0]
        open_ = [peer for peer in self.roster if peer not in means and peer not in self.absent]
        settled = len(whole) == len(said) and not (open_ and len(said) < len(self.buckets.members))
        if not settled and "hold" not in self.waited:
            return False
        if "hold" in self.waited:  # else who has stated nothing yet was not waited for
            self.absent.update(peer for peer in open_ if peer not in self.got(Mean.kind))
        self._said = Holding(self.context, tuple(sorted(said.items())), tuple(sorted(whole)))
        self.out.append(Send(self._said, after=self.rendezvous.opened_by))
        # Whose statement is here began to wait for others' by now, for twice that patience; the third is for the way.
        self.out.append(SetTimer("shown", 3 * self.setting.patience))
        self.out.append(SetTimer("fail", 4 * self.setting.patience))
        self.go("means stated")
        return True

    # ── the survivors ────────────────────────────────────────────────────────────────────────────────────────────────

    def own_holdings(self) -> dict[PeerId, Verified]:
        return {peer: one.verified for peer, one in self.got(Holding.kind).items() if self.is_holding(one.verified)}

    def is_holding(self, verified: Verified) -> bool:
        return self._named(verified) is not None

    def _named(self, verified: Verified) -> Named | None:
        return read_holding(verified, self.context, self.buckets)

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
        """Whose holding may still come: not of who stopped, nor of who has stated nothing."""
        silent = self.gone | (self.absent - self.got(Mean.kind).keys())
        return [peer for peer in self.missing(Holding.kind) if peer not in silent]

    def derived(self, shown: Sequence[Verified]) -> tuple[bytes, tuple[Verified, ...]] | None:
        held: dict[PeerId, Named] = {}
        for verified in shown:
            named = self._named(verified)
            if named is not None and verified.sender in self.roster:
                held.setdefault(verified.sender, named)
        c = self.setting.c
        agreed = derive_agreed(self.buckets.names, self.roster, self.quorum, 2 * c + 1, c, held)
        return None if agreed is None else (agreed.pack(), tuple(shown))

    def compare_holdings(self) -> None:
        """Take down holdings that are none, and those of other statements than came here."""
        known = self.got(Holding.kind)
        if len(self._held) == len(known):
            return
        said = stated(self._means(), self.buckets)
        for author, received in known.items():
            if author in self._held:
                continue
            message, named = received.verified.message, self._named(received.verified)
            if not isinstance(message, Holding) or named is None:
                self.refuse(author, self.holding_clause, "its holding is none of buckets' means under this context")
                message = Holding(self.context, (), ())
            self._held[author] = message
            for name, hashed in message.stated:
                if said.get(name, hashed) != hashed:
                    # of its members more than may lie said otherwise: who lies shows beside other transcripts
                    self._doubt(author, name)

    def _doubt(self, author: PeerId, name: PeerId) -> None:
        said = f"peer {author} holds another mean of the bucket of {name} than its members stated here"
        self.out.append(Blame(RemoteError(None, self.holding_clause, f"{said}; compare their transcripts")))

    def take_survivors(self, value: bytes) -> None:
        self.survivors = Agreed.unpack(value)
        certified = self.certified
        for peer, received in self.got(Mean.kind).items():
            if received.blob is not None and certified.get(self.buckets.of(peer)[0]) != received.verified.body_hash:
                self.out.append(Release(received.blob))

    @property
    def members(self) -> tuple[PeerId, ...]:
        return self.roster

    @property
    def owners(self) -> tuple[PeerId, ...]:
        return self.roster if self.survivors is None else self.survivors.witnesses

    @property
    def participants(self) -> tuple[PeerId, ...]:
        return self._counted

    def outcome_of(self, outcome: Outcome) -> Outcome:
        """The sums are of buckets' means, and encoded for as many as there are."""
        return replace(outcome, encoded_for=len(self.buckets.members), summed=outcome.total_weight)

    # ── the certified means ──────────────────────────────────────────────────────────────────────────────────────────

    def _statement(self, name: PeerId) -> Mean | None:
        """What is certified of a bucket, where one that stated it is here."""
        hashed = self.certified.get(name)
        for peer in self.buckets.named(name):
            received = self.got(Mean.kind).get(peer)
            if received is not None and received.verified.body_hash == hashed:
                message = received.verified.message
                return message if isinstance(message, Mean) else None
        return None

    def _certified_root(self, name: PeerId) -> bytes | None:
        message = self._statement(name)
        return None if message is None else message.root

    def _members_of(self, name: PeerId) -> tuple[PeerId, ...]:
        message = self._statement(name)
        return () if message is None else message.members

    def gather(self) -> None:
        self.compare_holdings()
        self._means()
        for name, hashed in self.certified.items():
            if name in self.rows:
                continue
            blob = self._blob_of(name, hashed) or self._relayed_blob(name)
            if blob is not None:
                self.rows[name] = blob
        self._relay()

    def _relayed_blob(self, name: PeerId) -> Blob | None:
        root = self._certified_root(name)
        for relayer, received in self.got(self._relays_of(name)).items():
            message = received.verified.message
            if root is None or not isinstance(message, Relay):
                continue
            if message.context != self.context or message.root != root:
                self.refuse(relayer, self.relay_clause, "it relays another mean than is certified")
            elif received.blob is not None and self.sound_blob(
                relayer, self.blob_clause, received.blob, root, self._size
            ):
                return received.blob
        return None

    def _relay(self) -> None:
        """Send certified means to who said that it lacks them: of those who hold one the first c + 1 after the
        receiver's place in the roster, of whom one is honest; or, where that took too long, the next as many."""
        done, me = self.got(Result.kind), self.setting.me
        for name in self.certified:
            if name not in self.rows:
                continue
            for peer, holding in self._held.items():
                # a member of the bucket too, where its own round gave it no result
                lacks = name not in holding.whole and peer != me
                if not lacks or peer in done or peer in self.gone or (name, peer) in self._relayed:
                    continue
                first = (1 + ("spare" in self.waited)) * (self.setting.c + 1)
                if me in self._holders(name, peer)[:first]:
                    self._relayed.add((name, peer))
                    root = self._certified_root(name)
                    if root is not None:
                        message, blobs = Relay(self.context, name, root), {peer: self.rows[name]}
                        after = self.certify[SURVIVORS].opened_by
                        self.out.append(Send(message, to=peer, blobs=blobs, after=after, lasting=True))

    def _holders(self, name: PeerId, receiver: PeerId) -> list[PeerId]:
        """Who holds a bucket's certified mean, from the receiver's place in the roster on, and has not stopped."""
        place = self.roster.index(receiver)
        return [peer for peer in (*self.roster[place:], *self.roster[:place]) if peer in self._have(name)]

    def _have(self, name: PeerId) -> set[PeerId]:
        hashed, bucket = self.certified[name], self.buckets.named(name)
        means = self.got(Mean.kind)
        stated_it = {peer for peer in bucket if peer in means and means[peer].verified.body_hash == hashed}
        say_so = {peer for peer, one in self._held.items() if name in one.whole and dict(one.stated)[name] == hashed}
        return (stated_it | say_so) - self.gone

    def refuse_row(self, name: PeerId) -> None:
        said = f"the certified mean of the bucket of {name} is none that encoding gives: more of it lie than may"
        self.out.append(Blame(RemoteError(None, self.row_clause, said)))

    @property
    def hopeless(self) -> bool:
        return any(not self._have(name) for name in self.missing_rows())
