"""Attackers on raw sockets, and the process that they attack: one transport, alone, which tells what it hears.

The attacked runs by itself (``python attacking.py`` with a JSON object on stdin) so that its memory is its own.
"""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import Any

import zmq
from zmq.utils import z85

from decentra.transport.base import Lane
from decentra.transport.dialler import common_options
from decentra.transport.envelope import seal
from decentra.transport.zeromq import ZeroMQTransport
from decentra.types import PeerId
from starting import Program

GREETING = bytes.fromhex("ff00000000000000017f0301") + b"CURVE".ljust(20, b"\0") + bytes(32)
"""What opens a connection of ZMTP 3.1 under CURVE, from who connects."""

SILENT = 1500
PATIENCE = 20.0


def name(letter: str) -> PeerId:
    return PeerId(letter.encode() * 32)


def sealed(header: bytes, *parts: bytes, lane: Lane = Lane.CONTROL) -> bytes:
    """A message as a neighbour sends it, of any sizes."""
    return seal(lane, header, parts, [len(header), *map(len, parts)])


class Keys:
    """CURVE keys of a few peers, by letter."""

    def __init__(self, letters: str) -> None:
        pairs = {letter: zmq.curve_keypair() for letter in letters}
        self.public = {letter: z85.decode(public) for letter, (public, _) in pairs.items()}
        self.secret = {letter: z85.decode(secret) for letter, (_, secret) in pairs.items()}


class Attacked(Program):
    """A transport of member `a` in a process of its own, on a port of the system's choice."""

    def __init__(self, home: Path, keys: Keys, members: str = "abc") -> None:
        self._begin([__file__], home / "attacked.txt", {})
        facts = {"secret": keys.secret["a"].hex(), "members": {one: keys.public[one].hex() for one in members}}
        self.say(json.dumps(facts))
        self.endpoint = str(self.wait_for("ready")["endpoint"])
        self.port = int(self.endpoint.rpartition(":")[2])
        self.before = self.memory()

    def memory(self) -> int:
        """Bytes resident, now."""
        return self._status("VmRSS")

    def most(self) -> int:
        """Bytes resident at most since `reset`."""
        return self._status("VmHWM")

    def reset(self) -> None:
        """Count the most memory anew."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")
        self.before = self.memory()

    def poll(self) -> list[dict[str, Any]]:
        """What it has told since the last look."""
        came = []
        while not self._lines.empty():
            came.append(json.loads(self._lines.get()))
        self.told += came
        return came

    def _status(self, line: str) -> int:
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(one.split()[1]) * 1024 for one in lines if one.startswith(line))


def allow_files(wanted: int) -> int:
    """Raise this process's limit of open files; how many it may have then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def strangers(port: int, count: int, first: bytes = b"") -> list[socket.socket]:
    """Connections that say `first`, or nothing."""
    made = []
    for _ in range(count):
        one = socket.create_connection(("127.0.0.1", port), timeout=10)
        made.append(one)
        if first:
            one.sendall(first)
    return made


def ended(one: socket.socket, patience: float = PATIENCE) -> float:
    """Seconds until the other side ends a connection."""
    began = monotonic()
    one.settimeout(patience)
    try:
        while one.recv(1 << 16):
            pass
    except ConnectionError:
        pass
    return monotonic() - began


def dealer(keys: Keys, letter: str, endpoint: str, context: zmq.Context[zmq.Socket[bytes]]) -> zmq.Socket[bytes]:
    """A member's or a stranger's own socket to `a`."""
    return socket_to(endpoint, keys.public["a"], keys.public[letter], keys.secret[letter], context)


def socket_to(
    endpoint: str, server: bytes, public: bytes, secret: bytes, context: zmq.Context[zmq.Socket[bytes]]
) -> zmq.Socket[bytes]:
    """Somebody's own socket to a peer, whose messages may be as large as they like."""
    made = context.socket(zmq.DEALER)
    common_options(made)
    made.setsockopt(zmq.MAXMSGSIZE, -1)
    made.setsockopt(zmq.CURVE_SERVERKEY, server)
    made.setsockopt(zmq.CURVE_PUBLICKEY, public)
    made.setsockopt(zmq.CURVE_SECRETKEY, secret)
    made.connect(endpoint)
    return made


def served(attacked: Attacked, keys: Keys, letter: str = "b") -> float:
    """Seconds until a new connection of an honest member's is heard."""
    began = monotonic()
    word = f"hello {began}"
    with zmq.Context() as context, dealer(keys, letter, attacked.endpoint, context) as honest:
        honest.send(sealed(word.encode()))
        attacked.wait_for("heard", peer=letter, header=word)
    return monotonic() - began


def flood(attacker: zmq.Socket[bytes], message: Sequence[bytes], attacked: Attacked, letter: str) -> float:
    """Once it is connected, send as fast as it is taken until the member is cut; how many seconds that took."""
    attacker.send(sealed(b"hello flood"))
    attacked.wait_for("heard", peer=letter)
    began = looked = monotonic()
    while True:
        if attacker.poll(10, zmq.POLLOUT):
            attacker.send_multipart(message, copy=False)
        if (now := monotonic()) - looked > 0.01:
            looked = now
            if any(fact["event"] == "link" and fact["peer"] == letter for fact in attacked.poll()):
                return now - began
            assert now - began < PATIENCE, "it may flood for ever"


def main() -> None:
    """The attacked: serves until stdin ends, and tells links and small messages as JSON lines."""

    def tell(event: str, **facts: Any) -> None:
        print(json.dumps({"event": event, **facts}), flush=True)

    def letter(peer: PeerId) -> str:
        return chr(bytes(peer)[0])

    facts = json.loads(sys.stdin.readline())
    members = {name(one): bytes.fromhex(key) for one, key in facts["members"].items()}
    loop = asyncio.new_event_loop()
    transport = ZeroMQTransport(
        loop,
        name("a"),
        bytes.fromhex(facts["secret"]),
        members,
        "tcp://127.0.0.1:0",
        {},
        lambda peer, lane, header, parts: header.startswith(b"hello")
        and tell("heard", peer=letter(peer), header=header.decode()),
        lambda peer, up, reason: tell("link", peer=letter(peer), up=up, reason=reason),
    )
    tell("ready", endpoint=transport.endpoint)

    def command() -> None:
        words = sys.stdin.readline().split()
        match words:
            case ["dial", who, endpoint]:
                transport.learn(name(who), endpoint)
                transport.dial(name(who))
            case ["revoke", who]:
                transport.revoke(name(who))
                tell("revoked")
            case []:
                loop.stop()

    loop.add_reader(sys.stdin.fileno(), command)
    loop.run_forever()
    transport.close()
    loop.close()


if __name__ == "__main__":
    main()
