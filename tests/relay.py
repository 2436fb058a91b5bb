"""A relay between real processes that does to their connections what a bad network, or somebody in it, can do.

Every ordered pair of peers has a port of its own here, so each path can be treated by itself. What travels is TCP:
bytes come in order or not at all, so a path can *delay* them, *hold* them (as a network that loses packets does, until
TCP gives up) or *refuse* connections. Somebody in the middle can do more, and knows ZMTP: under CURVE each message is a
frame whose length stands in the clear, so whole frames can be lost, repeated, swapped or altered. The relay's attacks
are counted in frames, not drawn: it harms exactly as many as it was told, and a test can wait until it has.

Nothing here sleeps for a test's sake: `Relay.wait_for` waits on a condition, which every frame may make true.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from threading import Condition, Thread

from decentra.wire.frame import Lane

GREETING = 64
"""Bytes that open each side of a ZMTP connection, before any frame."""

LARGEST_FRAME = 2 << 20
MESSAGE = b"\x07MESSAGE"
"""What a frame begins with that carries a part under CURVE; those of the handshake have other names."""

PATIENCE = 30.0

Way = tuple[int, int]
"""(from, to): the path along which one peer's host sends to another's."""


class Harm(Enum):
    """What somebody in the middle does to a frame."""

    LOSE = "lose"
    REPEAT = "repeat"
    SWAP = "swap"
    ALTER = "alter"


@dataclass
class Path:
    """How a path is now, and what happened on it."""

    delay: float = 0.0
    held: bool = False
    refused: bool = False
    harm: Harm | None = None
    to_harm: int = 0
    smallest: int = 0
    record: bytearray | None = None
    harmed: int = 0
    frames: int = 0


@dataclass(eq=False)
class _Stream:
    """One direction of one connection; `due` holds what is on its way and when it arrives."""

    path: Path
    writer: asyncio.StreamWriter
    due: deque[tuple[float, bytes]] = field(default_factory=deque)
    dialled: Way | None = None
    """Along which way it was opened, where this is the direction of who opened it."""
    live: bool = False
    more: asyncio.Event = field(default_factory=asyncio.Event)
    kept: bytes = b""
    """The frame that SWAP took back, until the next one is through."""


class Relay:
    """Paths between peers that listen on these ports of loopback; runs in a thread of its own until `close`."""

    def __init__(self, ports: Sequence[int]) -> None:
        self._ports = list(ports)
        self.paths: dict[Way, Path] = {
            (one, other): Path() for one in range(len(ports)) for other in range(len(ports)) if one != other
        }
        self._sockets: dict[Way, socket.socket] = {}
        for way in self.paths:
            listener = self._sockets[way] = socket.create_server(("127.0.0.1", 0))
            listener.setblocking(False)
        self._changed = Condition()
        self._loop = asyncio.new_event_loop()
        self._healed = asyncio.Event()
        self._open: dict[asyncio.Task[None], Way] = {}
        self._live: Counter[Way] = Counter()
        self._thread = Thread(target=self._run, name="relay")
        self._thread.start()

    # ── what a test calls ────────────────────────────────────────────────────────────────────────────────────────────

    def port(self, source: int, target: int) -> int:
        """Where `source` reaches `target` through this relay."""
        return int(self._sockets[source, target].getsockname()[1])

    def delay(self, ways: Sequence[Way], seconds: float) -> None:
        """Every byte takes this much longer."""
        self._do(lambda: [setattr(self.paths[way], "delay", seconds) for way in ways])

    def cut(self, ways: Sequence[Way]) -> None:
        """Nothing arrives any more along these paths, of old connections and new ones, and nobody is told."""
        self._do(lambda: [setattr(self.paths[way], "held", True) for way in ways])

    def refuse(self, ways: Sequence[Way]) -> None:
        """Connections that are opened along these paths are reset, those that are open too; as a firewall's rule."""

        def apply() -> None:
            for way in ways:
                self.paths[way].refused = True
            for task, way in self._open.items():
                if way in ways:
                    task.cancel()

        self._do(apply)

    def heal(self) -> None:
        """All paths carry again; what was held arrives."""

        def apply() -> None:
            for path in self.paths.values():
                path.held = path.refused = False
            self._healed.set()
            self._healed = asyncio.Event()

        self._do(apply)

    def harm(self, ways: Sequence[Way], how: Harm, frames: int, smallest: int = 0) -> None:
        """Do this to the next so many frames of each path that have `smallest` bytes or more."""

        def apply() -> None:
            for way in ways:
                path = self.paths[way]
                path.harm, path.to_harm, path.smallest = how, frames, smallest

        self._do(apply)

    def record(self, way: Way) -> None:
        """Keep a copy of all bytes along this path from now on."""
        self._do(lambda: setattr(self.paths[way], "record", bytearray()))

    def recorded(self, way: Way) -> bytes:
        """What was kept."""
        return bytes(self.paths[way].record or b"")

    def harmed(self, ways: Sequence[Way]) -> int:
        """Frames harmed so far along these paths."""
        return sum(self.paths[way].harmed for way in ways)

    def connected(self, ways: Sequence[Way]) -> bool:
        """Whether both lanes are open along each of these ways, their handshakes done."""
        return all(self._live[way] >= len(Lane) for way in ways)

    def wait_for(self, true: Callable[[], bool], patience: float = PATIENCE) -> None:
        """Wait until frames that pass make something true."""
        with self._changed:
            assert self._changed.wait_for(true, patience), f"it does not come about; {self.paths}"

    def close(self) -> None:
        """Break every connection and let go of the ports."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    # ── on the relay's thread ────────────────────────────────────────────────────────────────────────────────────────

    def _do(self, work: Callable[[], object]) -> None:
        async def run() -> None:
            work()

        asyncio.run_coroutine_threadsafe(run(), self._loop).result(PATIENCE)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        accepting = [self._loop.create_task(self._accept(way)) for way in self._sockets]
        self._loop.run_forever()
        for task in (*accepting, *self._open):
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*accepting, *self._open, return_exceptions=True))
        for listener in self._sockets.values():
            listener.close()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    async def _accept(self, way: Way) -> None:
        while True:
            taken, _ = await self._loop.sock_accept(self._sockets[way])
            if self.paths[way].refused:
                taken.close()
                continue
            task = self._loop.create_task(self._carry(way, taken))
            self._open[task] = way
            task.add_done_callback(self._open.pop)

    async def _carry(self, way: Way, taken: socket.socket) -> None:
        source, target = way
        near = await asyncio.open_connection(sock=taken, limit=LARGEST_FRAME)
        writers = [near[1]]
        streams = []
        try:
            while self.paths[way].held:  # as a SYN that is lost until the network is whole
                await self._healed.wait()
            with suppress(OSError):
                far = await asyncio.open_connection("127.0.0.1", self._ports[target], limit=LARGEST_FRAME)
                writers.append(far[1])
                async with asyncio.TaskGroup() as both:
                    streams = [
                        _Stream(self.paths[source, target], far[1], dialled=way),
                        _Stream(self.paths[target, source], near[1]),
                    ]
                    for reader, stream in zip((near[0], far[0]), streams, strict=True):
                        both.create_task(self._read(reader, stream))
                        both.create_task(self._write(stream))
        except* (OSError, EOFError):
            pass  # one side went; the other is told below
        finally:
            self._live[way] -= sum(stream.live for stream in streams)
            for writer in writers:
                writer.transport.abort()

    async def _read(self, reader: asyncio.StreamReader, stream: _Stream) -> None:
        greeted = 0
        while greeted < GREETING:  # each side waits for the other's first bytes before it sends the rest
            some = await reader.read(GREETING - greeted)
            if not some:
                raise EOFError
            greeted += len(some)
            self._send(stream, some)
        while True:
            head = await reader.readexactly(1)
            head += await reader.readexactly(8 if head[0] & 2 else 1)
            body = await reader.readexactly(int.from_bytes(head[1:], "big"))
            for frame in self._treat(stream, head + body, body.startswith(MESSAGE)):
                self._send(stream, frame)
            with self._changed:
                if stream.dialled is not None and not stream.live and body.startswith(MESSAGE):
                    stream.live = True
                    self._live[stream.dialled] += 1
                stream.path.frames += 1
                self._changed.notify_all()

    def _treat(self, stream: _Stream, frame: bytes, message: bool) -> list[bytes]:
        """What arrives in a frame's place."""
        path = stream.path
        if stream.kept:
            kept, stream.kept = stream.kept, b""
            return [frame, kept]
        if not (message and path.to_harm and len(frame) >= path.smallest):
            return [frame]
        path.to_harm -= 1
        path.harmed += 1
        match path.harm:
            case Harm.LOSE:
                return []
            case Harm.REPEAT:
                return [frame, frame]
            case Harm.SWAP:
                stream.kept = frame
                return []
            case _:
                return [frame[:-1] + bytes([frame[-1] ^ 1])]

    def _send(self, stream: _Stream, data: bytes) -> None:
        if stream.path.record is not None:
            stream.path.record += data
        stream.due.append((self._loop.time() + stream.path.delay, data))
        stream.more.set()

    async def _write(self, stream: _Stream) -> None:
        while True:
            while not stream.due:
                stream.more.clear()
                await stream.more.wait()
            when, data = stream.due.popleft()
            if (left := when - self._loop.time()) > 0:
                await asyncio.sleep(left)
            while stream.path.held:
                await self._healed.wait()
            stream.writer.write(data)
            await stream.writer.drain()


def between(one: int, others: Sequence[int]) -> list[Way]:
    """The paths between one peer and others, both ways."""
    return [way for other in others for way in ((one, other), (other, one))]

