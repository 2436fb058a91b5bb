"""Everything in flight between this peer and one other, as a machine without I/O.

A link opens with HELLO, which WELCOME answers with the number of the entry awaited next. Both carry the incarnations of
both ends, so that a frame from before a restart is told apart and dropped. From then on entries flow in their order
(`decentra.transfer.entries`), and blobs piece by piece (`decentra.transfer.blob`): the receiver's CREDIT opens a
transfer and acknowledges it every eight pieces, and a sender that hears nothing ASKs and is told the STATE.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Sequence

from decentra.errors import LocalError, RemoteError, Unavailable
from decentra.transfer.abroad import Abroad
from decentra.transfer.blob import CREDIT_EVERY, Announcement, Incoming, Outgoing, as_bytes, piece_digests
from decentra.transfer.entries import WINDOW_BYTES, Arrival, Inbox, Outbox, Posted, total
from decentra.transfer.events import (
    Arrived,
    Completed,
    Corrupt,
    Delivered,
    Event,
    Rejected,
    Restarted,
    Whispered,
)
from decentra.types import EpochName, PeerId
from decentra.wire.frame import (
    ADDRESSES_LIMIT,
    CHARTER_LIMIT,
    ENTRY_LIMIT,
    EPOCH_NAME_BYTES,
    MAX_PARTS,
    SESSIONLESS,
    Frame,
    FrameKind,
    Lane,
    parse,
)

Send = Callable[[Lane, bytes, Sequence[bytes | bytearray | memoryview]], bool]
"""How a link sends: `Transport.send` bound to one peer. False means not now."""

WINDOW_PIECES = 32
"""Pieces in flight to a peer: 8 MiB fill 100 ms at 80 MB/s, and bound what a broken connection repeats."""

STALL_FIRST = 2.0
"""Seconds without news before something is asked or sent again; a lane is TCP, so this is rare and may be slow."""

STALL_MOST = 10.0
"""Seconds between further tries at most: each one may repeat a window's worth of bytes over a slow line."""

ACK_EVERY = 8
"""Entries that are acknowledged together: a frame costs as much as an entry's signature, and the window has room."""

ACK_BYTES = WINDOW_BYTES // 8
"""Bytes of entries that are acknowledged at once, so that large ones do not fill the sender's window."""

ACK_PAUSE = 0.25
"""Seconds that an acknowledgement may wait for more entries: an eighth of what the sender waits before it repeats."""

BLOCKED_PAUSE = 0.1
"""Seconds before a full transport queue is tried again, where no acknowledgement comes first."""

MOST_CORRUPT = 3
"""Pieces with a wrong digest before a transfer is given up: one may be a flipped bit, four are a peer that lies."""

MOST_REMEMBERED = 4096
"""Transfers remembered after their end, to answer a sender that missed the last acknowledgement: 16 bytes each."""

MOST_OPEN = 256
"""Blobs under way to a peer at once; each round needs a handful."""

NOWHERE = EpochName(0, bytes(EPOCH_NAME_BYTES))
"""Of no group: links in tests and benches have no charter."""

MOST_RETIRED = 64
"""Earlier incarnations of the other end remembered, so that a late HELLO of one of them changes nothing."""


class Link:
    """What this peer and one other have in flight.

    Args:
        peer: the other end, as the transport authenticates it.
        incarnation: 64 bits that no earlier process of this peer has used, not 0.
        send: hands a message to the transport; must not call back into the link.
        session: 32 bytes that both ends share for as long as the link lives, such as the charter's hash.
        epoch: which epoch's session that is, so that the other end can say it by name where it is in another one.
        most_entries: entries that may wait for acknowledgement before `post` is refused.
        most_bytes: bytes of entries that may wait before `post` is refused.
        stall: seconds without news before something is repeated.
    """

    def __init__(
        self,
        peer: PeerId,
        incarnation: int,
        send: Send,
        *,
        session: bytes = bytes(32),
        epoch: EpochName = NOWHERE,
        most_entries: int = 1024,
        most_bytes: int = 16 * ENTRY_LIMIT,
        stall: float = STALL_FIRST,
    ) -> None:
        if not 0 < incarnation < 1 << 64 or len(session) != 32:
            raise ValueError("a link needs an incarnation of 64 bits that is not 0, and a session of 32 bytes")
        self._peer, self._send, self._session, self._stall = peer, send, session, stall
        self._me, self._epoch = incarnation, epoch
        self._abroad = Abroad(epoch)
        self._remote: int | None = None
        self._retired: deque[int] = deque(maxlen=MOST_RETIRED)
        self._now = 0.0
        self._up = self._open = self._blocked = False
        self._owes_welcome = False
        """Whether the other end greeted while the way to it was down."""
        self._hello_since, self._hello_pause = 0.0, stall
        self._outbox = Outbox(most_entries, most_bytes)
        self._outbox_since, self._outbox_pause = 0.0, stall
        self._inbox = Inbox()
        self._unacknowledged, self._unacknowledged_bytes, self._ack_since = 0, 0, 0.0
        # Transfer numbers of two incarnations do not meet, so a late event cannot be taken for another transfer's.
        self._first_transfer = self._next_transfer = (incarnation & 0xFFFFFFFF) << 32
        self._sending: dict[int, Outgoing] = {}
        self._offered: OrderedDict[int, None] = OrderedDict()
        self._latest_offer = -1
        self._receiving: dict[int, Incoming] = {}
        self._settled: OrderedDict[int, int | None] = OrderedDict()
        self._handlers: dict[FrameKind, Callable[[Frame, Sequence[memoryview]], list[Event]]] = {
            FrameKind.ENTRY: self._on_entry,
            FrameKind.ENTRY_BLOB: self._on_entry,
            FrameKind.ACK: self._on_ack,
            FrameKind.ASK: self._on_ask,
            FrameKind.CREDIT: self._on_credit,
            FrameKind.STATE: self._on_credit,
            FrameKind.REJECT: self._on_reject,
            FrameKind.DATAGRAM: self._on_datagram,
            FrameKind.PIECE: self._on_piece,
        }

    # what the owner calls

    @property
    def idle(self) -> bool:
        """Whether nothing posted or accepted is still under way, and no acknowledgement is owed."""
        return not (self._outbox or self._sending or self._receiving or self._unacknowledged)

    @property
    def wakeup(self) -> float | None:
        """When `tick` next has something to do, in its own time; None while there is nothing to wait for."""
        if not self._up:
            return None
        if not self._open:
            return self._hello_since + self._hello_pause
        times = [out.since + out.pause for out in self._sending.values()]
        if self._outbox.in_flight:
            times.append(self._outbox_since + self._outbox_pause)
        if self._unacknowledged:
            times.append(self._ack_since + ACK_PAUSE)
        if self._blocked:
            times.append(self._now + BLOCKED_PAUSE)
        return min(times, default=None)

    def announce(self, data: memoryview, digests: tuple[bytes, ...] | None = None) -> Announcement:
        """Number a transfer of `data` to this peer and list its pieces' digests.

        Args:
            data: C-contiguous.
            digests: `piece_digests(data)`, where it was computed already: on a pool thread, or for another peer.
        """
        number = self._next_transfer
        self._next_transfer += 1
        return Announcement(number, data.nbytes, piece_digests(data) if digests is None else digests)

    def post(
        self,
        parts: Sequence[bytes],
        announcement: Announcement | None = None,
        data: memoryview | None = None,
        *,
        round_number: int = 0,
    ) -> None:
        """Queue an entry, and the blob that it announces.

        Args:
            parts: 1 to 7 parts (6 beside an announcement), together with the announcement at most 1 MiB.
            announcement: from this link's `announce`.
            data: what was announced, unchanged until `Delivered` or `Rejected`; never copied.
            round_number: the aggregation it belongs to, for the frame header.

        Raises:
            LocalError: too many or too large parts, or an announcement that is not this link's or not of this data.
            Unavailable: the queue is full; the other end has not acknowledged for long.
        """
        size = total(parts) + (0 if announcement is None else announcement.packed_size)
        most = MAX_PARTS - 1 - (announcement is not None)
        if not 1 <= len(parts) <= most or size > ENTRY_LIMIT:
            limits = f"1 to {most} parts and at most {ENTRY_LIMIT} bytes"
            raise LocalError(f"an entry has {limits}, this has {len(parts)} and {size}: send what is large as a blob")
        if self._outbox.full(size) or (announcement is not None and len(self._sending) >= MOST_OPEN):
            waited = self._now - self._outbox.oldest if self._outbox else 0.0
            mend = "check that it runs and is reachable, or wait before sending more"
            raise Unavailable([self._peer], waited, "room in the send queue", mend)
        if announcement is not None or data is not None:
            self._open_transfer(announcement, data)
        if not self._outbox.in_flight:
            self._outbox_since, self._outbox_pause = self._now, self._stall
        self._outbox.post(Posted(tuple(bytes(part) for part in parts), announcement, round_number, self._now, size))
        self._flush()

    def whisper(self, data: bytes) -> None:
        """Send a datagram of up to `DATAGRAM_LIMIT` bytes if the way is open now; nobody keeps or repeats it."""
        if self._open:
            self._emit(FrameKind.DATAGRAM, [data], size=len(data))

    def tell(self, epoch: EpochName, round_number: int, outcome: bytes) -> None:
        """Tell which charter this peer holds last, by its whole hash, and what its session certified last.

        Peers of other sessions understand it too. It goes out if there is a way now; nobody repeats it.
        """
        part = epoch.charter + outcome
        self._emit(FrameKind.HOLDS, [part], number=epoch.number, round_number=round_number, size=len(part))

    def hand(self, charter: bytes, addresses: bytes, epoch: int) -> None:
        """Hand over a charter of up to `CHARTER_LIMIT` bytes; else as `tell`.

        Raises:
            LocalError: it is larger.
        """
        size = len(charter) + len(addresses)
        if len(charter) > CHARTER_LIMIT or len(addresses) > ADDRESSES_LIMIT:
            raise LocalError(f"a charter of {size} bytes with its addresses is too large to be handed to peers")
        self._emit(FrameKind.CHARTER, [charter, addresses], number=epoch, size=size)

    def accept(self, announcement: Announcement, limit: int, into: memoryview | None = None) -> bool:
        """Allocate the buffer of an announced blob and let the other end send it.

        Call it when the entry that came with the announcement is verified and cites the announcement's root; an offer
        stands until it is answered. False means that it is no longer on offer, since the other end restarted or the
        offer was answered already.

        Args:
            limit: the most bytes that this blob may have by the charter.
            into: memory that a blob of the same root from another peer is gathered in (`gathered`); none is then taken.

        Raises:
            RemoteError: it announced more; the offer is then rejected.
            LocalError: this peer has not the memory for it, or ``into`` is of another size.
        """
        number = announcement.transfer
        if number not in self._offered:
            return False
        if announcement.size > limit:
            self.reject(number)
            raise RemoteError(self._peer, "SCHEMA", f"a blob of {announcement.size} bytes where {limit} are allowed")
        if into is not None and into.nbytes != announcement.size:
            raise LocalError(f"a blob of {announcement.size} bytes can't be gathered in {into.nbytes} bytes")
        try:
            incoming = Incoming(announcement, into)
        except MemoryError:
            self.reject(number)
            raise LocalError(f"no memory for a blob of {announcement.size} bytes: give this peer more") from None
        del self._offered[number]
        self._receiving[number] = incoming
        self._credit(FrameKind.CREDIT, incoming)
        return True

    def gathered(self, transfer: int) -> memoryview | None:
        """The memory that an accepted blob is gathered in; None where it is not under way."""
        incoming = self._receiving.get(transfer)
        return None if incoming is None else incoming.data

    def reject(self, transfer: int) -> None:
        """Take no more of a blob, free its buffer and tell the sender; nothing happens where it is not under way."""
        if transfer in self._offered or transfer in self._receiving:
            self._settle(transfer, None)
            self._emit(FrameKind.REJECT, number=transfer)

    def withdraw(self, transfer: int) -> None:
        """Send no more of a blob and let go of its memory; the other end's owner has to `reject` what it accepted."""
        self._sending.pop(transfer, None)

    def connected(self) -> None:
        """The transport's way to the peer is open: greet, and then resume."""
        self._up, self._open = True, False
        self._hello_pause = self._stall
        self._hello()
        if self._owes_welcome:
            self._owes_welcome = not self._greet(FrameKind.WELCOME)

    def disconnected(self) -> None:
        """The transport's way to the peer broke: hold everything until `connected`."""
        self._up = self._open = False

    def tick(self, now: float) -> None:
        """Tell the time, in seconds that never go back; what stalled is then repeated. `wakeup` tells when."""
        self._now = now
        if not self._up:
            return
        if not self._open:
            if now >= self._hello_since + self._hello_pause:
                self._hello_pause = min(2 * self._hello_pause, STALL_MOST)
                self._hello()
            return
        if self._unacknowledged and now >= self._ack_since + ACK_PAUSE:
            self._acknowledge()
        if self._outbox.in_flight and now >= self._outbox_since + self._outbox_pause:
            self._outbox_since, self._outbox_pause = now, min(2 * self._outbox_pause, STALL_MOST)
            self._outbox.rewind()
        for number, out in self._sending.items():
            if now >= out.since + out.pause:
                out.pause = min(2 * out.pause, STALL_MOST)
                self._ask(number, out)
        self._flush()

    def receive(self, lane: Lane, header: bytes, buffers: Sequence[memoryview]) -> list[Event]:
        """Take a message of this peer's, and say what came of it.

        Raises:
            RemoteError: the message breaks a rule of the link (SCHEMA), or it is the fourth piece of a blob with a
                wrong digest (DIGEST). The link itself stays whole; its owner chooses whether to go on with the peer.
        """
        try:
            frame = parse(lane, header, [buffer.nbytes for buffer in buffers])
            if frame.kind in SESSIONLESS:
                return [self._abroad.told(frame, buffers)]
            if frame.session != self._session:
                return [self._abroad.elsewhere(frame)]
            if frame.kind is FrameKind.HELLO:
                events = self._on_hello(frame)
            elif frame.kind is FrameKind.WELCOME:
                events = self._on_welcome(frame)
            elif frame.source != self._remote or frame.target != self._me:
                return []  # from before a restart of either end
            else:
                events = self._handlers[frame.kind](frame, buffers)
        except ValueError as error:
            raise RemoteError(self._peer, "SCHEMA", str(error)) from None
        self._flush()
        return events

    # opening

    def _hello(self) -> None:
        self._hello_since = self._now
        self._greet(FrameKind.HELLO)

    def _greet(self, kind: FrameKind) -> bool:
        """HELLO or WELCOME, with the next entry awaited and the epoch's name."""
        name = int.from_bytes(self._epoch.charter[:EPOCH_NAME_BYTES], "big")
        return self._emit(kind, number=self._inbox.awaited, offset=self._epoch.number, bitmap=name)

    def _on_hello(self, frame: Frame) -> list[Event]:
        if frame.source in self._retired:
            return []
        events: list[Event] = []
        if frame.source != self._remote:
            events = self._meet(frame.source)
            if self._open:
                self._open = False
                self._hello()
        elif frame.target == self._me and self._open:
            # Its way here is new, so what it acknowledged on the earlier one may be lost.
            self._outbox.acknowledge(frame.number)
            for number, out in self._sending.items():
                self._ask(number, out)
        self._owes_welcome = not self._greet(FrameKind.WELCOME)
        return events

    def _on_welcome(self, frame: Frame) -> list[Event]:
        if self._open or not self._up or frame.target != self._me or frame.source in self._retired:
            return []
        events = self._meet(frame.source) if frame.source != self._remote else []
        self._outbox.acknowledge(frame.number)
        self._outbox.rewind()
        self._outbox_since, self._outbox_pause = self._now, self._stall
        self._open = True
        for number, out in self._sending.items():
            out.lost, out.pause = True, self._stall
            self._ask(number, out)
        return events

    def _meet(self, source: int) -> list[Event]:
        """The other end is a process that this link has not met: start anew towards it."""
        known, self._remote = self._remote, source
        if known is None:
            return []
        self._retired.append(known)
        self._inbox = Inbox()
        for forgotten in (self._offered, self._receiving, self._settled):
            forgotten.clear()
        self._latest_offer = -1
        waiting = {entry.announcement.transfer for entry in self._outbox.restart() if entry.announcement is not None}
        lost = [number for number in self._sending if number not in waiting]
        for number in lost:
            del self._sending[number]
        for number, out in self._sending.items():
            self._sending[number] = Outgoing(out.announcement, out.data, self._now, self._stall)
        return [Restarted(), *(Rejected(number) for number in lost)]

    # entries

    def _on_entry(self, frame: Frame, buffers: Sequence[memoryview]) -> list[Event]:
        events: list[Event] = []
        if self._inbox.wants(frame.number, frame.size):
            blob = frame.kind is FrameKind.ENTRY_BLOB
            announcement = Announcement.parse(buffers[0]) if blob else None
            if announcement is not None:
                self._offer(announcement.transfer)
            arrival = Arrival(tuple(bytes(part) for part in buffers[blob:]), announcement, frame.size)
            ready = self._inbox.take(frame.number, arrival)
            events = [Arrived(entry.parts, entry.announcement) for entry in ready]
            if not self._unacknowledged:
                self._ack_since = self._now
            self._unacknowledged += max(1, len(ready))
            self._unacknowledged_bytes += sum(entry.size for entry in ready)
            if self._unacknowledged < ACK_EVERY and self._unacknowledged_bytes < ACK_BYTES:
                return events
        self._acknowledge()  # at once where it came again: the earlier acknowledgement may be lost
        return events

    def _acknowledge(self) -> None:
        if self._emit(FrameKind.ACK, number=self._inbox.awaited):
            self._unacknowledged = self._unacknowledged_bytes = 0

    def _on_ack(self, frame: Frame, _: Sequence[memoryview]) -> list[Event]:
        if self._outbox.acknowledge(frame.number):
            self._outbox_since, self._outbox_pause = self._now, self._stall
        return []

    # blobs, sending

    def _open_transfer(self, announcement: Announcement | None, data: memoryview | None) -> None:
        if announcement is None or data is None or data.nbytes != announcement.size:
            raise LocalError("an announcement and the data that it was made of are posted together")
        number = announcement.transfer
        if not self._first_transfer <= number < self._next_transfer or number in self._sending:
            raise LocalError(f"transfer {number} was not announced on this link, or is posted already")
        self._sending[number] = Outgoing(announcement, as_bytes(data), self._now, self._stall)

    def _ask(self, number: int, out: Outgoing) -> None:
        out.asked, out.since = True, self._now
        self._emit(FrameKind.ASK, number=number)

    def _mine(self, number: int) -> Outgoing | None:
        if not self._first_transfer <= number < self._next_transfer:
            raise ValueError(f"it answers transfer {number}, which was never announced to it")
        return self._sending.get(number)

    def _on_credit(self, frame: Frame, _: Sequence[memoryview]) -> list[Event]:
        out = self._mine(frame.number)
        if out is None:
            return []
        news = out.credit(frame.offset, frame.bitmap)
        if news:
            out.since, out.pause = self._now, self._stall
        if out.done:
            del self._sending[frame.number]
            return [Delivered(frame.number)]
        if frame.kind is FrameKind.STATE and out.asked:
            out.rewind(everything=out.lost or not news)
            out.asked = out.lost = False
        return []

    def _on_reject(self, frame: Frame, _: Sequence[memoryview]) -> list[Event]:
        if self._mine(frame.number) is None:
            return []
        del self._sending[frame.number]
        return [Rejected(frame.number)]

    # blobs, receiving

    def _offer(self, number: int) -> None:
        if number in self._offered or number in self._receiving or number in self._settled:
            raise ValueError(f"transfer {number} was announced twice")
        self._offered[number] = None
        self._latest_offer = max(self._latest_offer, number)
        if len(self._offered) > MOST_REMEMBERED:
            self._offered.popitem(last=False)

    def _settle(self, number: int, pieces: int | None) -> None:
        self._offered.pop(number, None)
        self._receiving.pop(number, None)
        self._settled[number] = pieces
        if len(self._settled) > MOST_REMEMBERED:
            self._settled.popitem(last=False)

    def _on_ask(self, frame: Frame, _: Sequence[memoryview]) -> list[Event]:
        incoming = self._receiving.get(frame.number)
        if incoming is not None:
            self._credit(FrameKind.STATE, incoming)
        elif frame.number in self._settled:
            pieces = self._settled[frame.number]
            if pieces is None:
                self._emit(FrameKind.REJECT, number=frame.number)
            else:
                self._emit(FrameKind.STATE, number=frame.number, offset=pieces)
        return []

    def _on_piece(self, frame: Frame, buffers: Sequence[memoryview]) -> list[Event]:
        number = frame.number
        incoming = self._receiving.get(number)
        if incoming is None:
            if number in self._offered or number > self._latest_offer:
                raise ValueError(f"it sent a piece of transfer {number}, which was not accepted")
            return []  # a late repetition of one that ended
        kept = incoming.take(frame.offset, buffers[0])
        if kept is None:
            return []
        if not kept:
            incoming.corrupt += 1
            if incoming.corrupt > MOST_CORRUPT:
                self.reject(number)
                raise RemoteError(self._peer, "DIGEST", f"pieces of transfer {number} are not what it announced")
            return [Corrupt(number, frame.offset)]
        if incoming.done:
            self._settle(number, len(incoming.announcement.digests))
            self._credit(FrameKind.CREDIT, incoming)
            return [Completed(number, incoming.data)]
        if incoming.uncredited >= CREDIT_EVERY:
            self._credit(FrameKind.CREDIT, incoming)
        return []

    def _on_datagram(self, frame: Frame, buffers: Sequence[memoryview]) -> list[Event]:
        return [Whispered(bytes(buffers[0]))]

    def _credit(self, kind: FrameKind, incoming: Incoming) -> None:
        incoming.uncredited = 0
        base, bitmap = incoming.state()
        self._emit(kind, number=incoming.announcement.transfer, offset=base, bitmap=bitmap)

    # out

    def _flush(self) -> None:
        """Send what the windows allow and the transport takes."""
        if not self._open:
            return
        self._blocked = not (self._flush_entries() and self._flush_pieces())

    def _flush_entries(self) -> bool:
        for number, entry in self._outbox.due():
            parts = list(entry.parts)
            kind = FrameKind.ENTRY
            if entry.announcement is not None:
                parts.insert(0, entry.announcement.pack())
                kind = FrameKind.ENTRY_BLOB
            if not self._emit(kind, parts, number=number, round_number=entry.round, size=entry.size):
                return False
        return True

    def _flush_pieces(self) -> bool:
        room = WINDOW_PIECES - sum(len(out.in_flight) for out in self._sending.values())
        for number, out in self._sending.items():
            while room > 0:
                piece = out.take()
                if piece is None:
                    break
                start, view = piece
                if not self._emit(FrameKind.PIECE, [view], number=number, offset=start, size=view.nbytes):
                    out.put_back(start)
                    return False
                room -= 1
        return True

    def _emit(
        self,
        kind: FrameKind,
        parts: Sequence[bytes | memoryview] = (),
        *,
        number: int = 0,
        offset: int = 0,
        bitmap: int = 0,
        round_number: int = 0,
        size: int = 0,
    ) -> bool:
        if not self._up:
            return False
        target = self._remote or 0
        frame = Frame(kind, len(parts), self._me, target, self._session, round_number, number, offset, bitmap, size)
        lane = Lane.BULK if kind is FrameKind.PIECE else Lane.CONTROL
        return self._send(lane, frame.pack(), parts)
