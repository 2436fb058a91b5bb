"""The common state on its way from those who hold it to one who doesn't: part by part, from several holders at once.

The index comes first, from any holder. It hashes to the state that the roster names and lists what the parts hash to,
so each part is right or wrong by itself, before its bytes come, and it does not matter who sends it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from decentra.errors import LocalError, RemoteError
from decentra.machine.effects import Blame, Compute, Effect, Release, Send, SetTimer, Tools
from decentra.machine.events import Blob, Received
from decentra.protocols.rendezvous.messages import Roster, State, Want
from decentra.protocols.setting import CommonState, Part
from decentra.types import PeerId

INDEX = 0
"""The number of the part that lists the others."""

OF_A_SOURCE = 2
"""Parts that are asked of one source at once: it has the next one ready while one is on its way."""

AT_ONCE = 8
"""Parts that are asked for at once, of all sources together: they bound the memory beside the state itself."""

STATE_JOB = "state"
"""The name of every job here; their values tell them apart."""

SOURCE_TIMER = "source/"
"""How the names of the timers begin by which sources are found silent."""


# ── jobs ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Exported:
    """A part that can be sent; no blob where the state has no such part."""

    number: int
    blob: Blob | None


@dataclass(frozen=True)
class Listed:
    """The parts of a state that are missing, by a source's index; None where it was not that state's."""

    state: bytes
    source: PeerId
    parts: tuple[Part, ...] | None


@dataclass(frozen=True)
class Placed:
    """A part of a state has come to its place."""

    state: bytes
    number: int


@dataclass(frozen=True)
class Adopted:
    """A state is this peer's."""

    state: bytes


@dataclass(frozen=True)
class ExportPart:
    """Job: a part of the common state, or its index, as a blob for the peers that lack it."""

    common: CommonState
    number: int

    def run(self, tools: Tools) -> Exported:
        data = self.common.export(self.number)
        return Exported(self.number, None if data is None else tools.keep(data))


@dataclass(frozen=True)
class ReadIndex:
    """Job: what a state consists of, and what of it is missing here."""

    common: CommonState
    state: bytes
    source: PeerId
    blob: Blob

    def run(self, tools: Tools) -> Listed:
        try:
            return Listed(self.state, self.source, self.common.expect(tools.view(self.blob), self.state))
        finally:
            tools.drop(self.blob)


@dataclass(frozen=True)
class PlacePart:
    """Job: put a part that has come into its place."""

    common: CommonState
    state: bytes
    part: Part
    blob: Blob

    def run(self, tools: Tools) -> Placed:
        self.common.place(self.state, self.part, tools.view(self.blob))
        tools.drop(self.blob)
        return Placed(self.state, self.part.number)


@dataclass(frozen=True)
class AdoptState:
    """Job: take over the state that has come."""

    common: CommonState
    state: bytes

    def run(self, tools: Tools) -> Adopted:
        self.common.adopt(self.state)
        return Adopted(self.state)


# ── the holder's side ────────────────────────────────────────────────────────────────────────────────────────────────


class Offer:
    """What a peer gives of its own state, each part once to each peer that asks for it."""

    def __init__(self, common: CommonState, state: bytes, out: list[Effect]) -> None:
        self._common, self._state, self._out = common, state, out
        self._wanted: dict[int, set[PeerId]] = {}
        self._asked: set[tuple[PeerId, int]] = set()
        self._exported: dict[int, Blob] = {}
        self._exporting: set[int] = set()

    def wanted(self, peer: PeerId, want: Want) -> None:
        """A peer asks for a part; once is enough, since links repeat what is lost."""
        if want.state == self._state and (peer, want.part) not in self._asked:
            self._asked.add((peer, want.part))
            self._wanted.setdefault(want.part, set()).add(peer)

    def serve(self, roster: Roster) -> None:
        """Send what members of the roster have asked for, as soon as it is there to be sent."""
        if roster.state != self._state:
            return
        for number in sorted(self._wanted):
            blob = self._exported.get(number)
            if blob is not None:
                answer = State(roster.view, self._state, number, blob.root)
                for peer in sorted(self._wanted[number].intersection(roster.members)):
                    self._out.append(Send(answer, to=peer, blobs={peer: blob}))
                del self._wanted[number]
            elif number not in self._exporting and self._wanted[number].intersection(roster.members):
                self._exporting.add(number)
                self._out.append(Compute(STATE_JOB, ExportPart(self._common, number)))

    def exported(self, value: Exported) -> None:
        if value.blob is None:
            self._wanted.pop(value.number, None)  # no honest peer asks for what the index does not list
        else:
            self._exported[value.number] = value.blob

    def release(self) -> None:
        """Give up what was exported: the round is past the need for it."""
        self._out.extend(map(Release, self._exported.values()))
        self._exported.clear()


# ── the side of who lacks it ─────────────────────────────────────────────────────────────────────────────────────────


class Fetch:
    """A state that this peer fetches.

    A source that sends a wrong part is named and asked no more; one that keeps what it was asked for first is left
    alone until it sends that, and its parts are asked of others. What came stays, whoever it came from.

    Args:
        common: where the state goes.
        roster: what names the state.
        sources: its members that hold the state; one at least.
        author: who answers for the state alone, where nothing was certified yet; None where c+1 members do.
        patience: seconds that a source has for a part, counted since it sent the one asked for before; then its parts
            are asked of others.

    Attributes:
        received: bytes that came, by source.
    """

    def __init__(
        self,
        common: CommonState,
        roster: Roster,
        sources: Iterable[PeerId],
        author: PeerId | None,
        patience: float,
        out: list[Effect],
    ) -> None:
        self._common, self._view, self.state = common, roster.view, roster.state
        self._author, self._patience, self._out = author, patience, out
        self._open: dict[PeerId, list[int]] = {source: [] for source in sources}
        """By source, the parts that it was asked for and has not sent, in the order of asking."""
        self._lost: set[PeerId] = set()
        self._silent: set[PeerId] = set()
        self._asked: defaultdict[int, set[PeerId]] = defaultdict(set)
        self._queue = [INDEX]
        """Parts to be asked for."""
        self._parts: Mapping[int, Part] | None = None
        """What the index lists and is missing here; None while there is no index."""
        self._came: set[int] = set()
        self._placed: set[int] = set()
        self._adopting = False
        self.received: dict[PeerId, int] = {}

    # ── asking ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def ask(self) -> None:
        """Ask sources for as many parts as may be under way."""
        for number in list(self._queue):
            source = self._source(number)
            if source is None:
                continue
            if not self._open[source]:
                self._await(source)
            self._queue.remove(number)
            self._asked[number].add(source)
            self._open[source].append(number)
            self._out.append(Send(Want(self._view, self.state, number), to=source))

    def _source(self, number: int) -> PeerId | None:
        """Whom to ask for a part: who has the least to do, and who is silent only where nobody else is left."""
        if sum(len(parts) for parts in self._awake().values()) >= AT_ONCE:
            return None
        fit = [source for source in self._open if source not in self._asked[number]]
        awake = [source for source in fit if source not in self._silent] or fit
        free = [source for source in awake if len(self._open[source]) < OF_A_SOURCE]
        return min(free, key=self._load, default=None)

    def _load(self, source: PeerId) -> tuple[int, int]:
        """What a source has to do, and what it was asked for so far."""
        return len(self._open[source]), sum(source in asked for asked in self._asked.values())

    def _awake(self) -> dict[PeerId, list[int]]:
        return {source: parts for source, parts in self._open.items() if source not in self._silent}

    def _await(self, source: PeerId) -> None:
        self._out.append(SetTimer(_timer(source), self._patience))

    def expired(self, timer: str) -> None:
        """A source kept a part for as long as it may: its parts are asked of others."""
        for source, parts in self._open.items():
            if timer == _timer(source) and parts:
                self._silent.add(source)
                self._again(parts)

    def _again(self, numbers: Iterable[int]) -> None:
        """Ask for these parts once more, but for those that have come or are under way from elsewhere."""
        under_way = set[int]().union(*self._awake().values())
        self._queue = sorted({*self._queue, *(one for one in numbers if self._lacks(one) and one not in under_way)})

    def _lacks(self, number: int) -> bool:
        if self._parts is None:
            return number == INDEX
        return number in self._parts and number not in self._came

    @property
    def awaited(self) -> tuple[PeerId, ...]:
        """Who was asked for what has not come."""
        asked = [source for source, parts in self._open.items() if any(map(self._lacks, parts))]
        return tuple(sorted(asked or self._open))

    # ── what comes ───────────────────────────────────────────────────────────────────────────────────────────────────

    def wants(self, sender: PeerId, message: State, root: bytes) -> bool:
        """Whether a blob with this root is a part that the sender was asked for, and that has not come yet."""
        number = message.part
        if number not in self._open.get(sender, ()) or not self._lacks(number):
            return False
        listed = root if self._parts is None else self._parts[number].root
        return (message.state, message.root) == (self.state, root) and root == listed

    def part_came(self, event: Received, message: State) -> None:
        """A part has come; or the message of one by itself, since its blob was not wanted."""
        sender, number, blob = event.verified.sender, message.part, event.blob
        if number not in self._open.get(sender, ()):
            return  # not asked for, or of a source that is none any more
        if blob is None and self._lacks(number):
            what = "index" if number == INDEX else f"part {number}"
            self.lost(RemoteError(sender, "RV-6", f"the {what} of the common state that it sent is not the state's"))
            return
        self._sent(sender, number)
        if blob is None:
            return
        if not self._lacks(number):  # it has come from elsewhere meanwhile
            self._out.append(Release(blob))
            return
        self.received[sender] = self.received.get(sender, 0) + blob.size
        if self._parts is None:
            self._out.append(Compute(STATE_JOB, ReadIndex(self._common, self.state, sender, blob)))
        else:
            self._came.add(number)
            self._out.append(Compute(STATE_JOB, PlacePart(self._common, self.state, self._parts[number], blob)))

    def _sent(self, source: PeerId, number: int) -> None:
        """A source has new time only with its oldest part, or it could hold that back by dripping others."""
        parts = self._open[source]
        oldest = parts[0] == number
        parts.remove(number)
        if oldest:
            self._silent.discard(source)
            if parts:
                self._await(source)

    def computed(self, value: Listed | Placed) -> None:
        """A job of this fetch is done."""
        match value:
            case Placed(_, number):
                self._placed.add(number)
            case Listed(_, source, None):
                said = "the index that it sent does not hash to the common state that the roster names"
                self.lost(RemoteError(source, "RV-6", said))
                self._again([INDEX])
            case Listed(_, _, parts) if parts is not None and self._parts is None:
                self._parts = {part.number: part for part in parts}
                self._queue = sorted(self._parts)
        if self._parts is not None and len(self._placed) == len(self._parts) and not self._adopting:
            self._adopting = True
            self._out.append(Compute(STATE_JOB, AdoptState(self._common, self.state)))

    def unusable(self, why: ValueError) -> None:
        """The state is what the roster names, and can't be this peer's."""
        if self._author is not None:
            raise RemoteError(self._author, "RV-6", f"the common state that it offers is unusable: {why}")
        raise LocalError(
            f"the common state that the group certified can't be this peer's: {why}; "
            "compare this peer's model and version of decentra with the others'"
        )

    def lost(self, error: RemoteError) -> bool:
        """A source broke a clause: take it down, and ask others for what was asked of it.

        Returns:
            False where who broke it never was a source.

        Raises:
            RemoteError: it was the last source of what is missing.
        """
        source = error.peer
        if source is None or source not in self._open:
            return source in self._lost
        parts = self._open.pop(source)
        self._lost.add(source)
        if not self._open and (self._parts is None or len(self._came) < len(self._parts)):
            raise error
        self._out.append(Blame(error))
        self._again(parts)
        return True


def _timer(source: PeerId) -> str:
    return SOURCE_TIMER + source.hex()
