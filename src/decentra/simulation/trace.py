"""What happened in a schedule, a line each: virtual time, the peer's letter, and what it saw or did."""

from __future__ import annotations

from collections.abc import Mapping

from decentra.errors import DecentraError
from decentra.machine.effects import Abort, Blame, Compute, Effect, Finish, Persist, Send, SetTimer
from decentra.machine.events import Computed, Event, Expired, Received, Start, Supplied
from decentra.types import PeerId
from decentra.wire.message import Message, Verified

_LISTS = ("held", "members", "peers", "stated")
"""Fields that name peers, or what goes by one."""


class Trace:
    """Collects the lines of one schedule."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.letters: Mapping[PeerId, str] = {}

    def line(self, now: float, letter: str, text: str) -> None:
        self.lines.append(f"{now:10.4f}  {letter}  {text}")

    def saw(self, now: float, letter: str, seen: Event | Effect) -> None:
        """An event that a machine takes, or an effect that its driver is about to carry out."""
        text = self._told(seen)
        if text:
            self.line(now, letter, text)

    def violation(self, now: float, letter: str, clause: str, said: str) -> None:
        self.line(now, letter, f"✗ {clause}: {said}")

    def _told(self, seen: Event | Effect) -> str:
        match seen:
            case Start():
                return "start"
            case Supplied():
                return "its local steps are done: its update is there"
            case Received(Verified() as verified):
                return f"◂ {self._letter(verified.sender)}  {self._message(verified.message)}"
            case Expired(timer):
                return f"timer {timer!r} runs out"
            case Computed(name, value):
                failed = f": {value}" if isinstance(value, DecentraError | ValueError) else ""
                return f"computed {name}{failed}"
            case Send(message, to):
                whom = "all" if to is None else self._letter(to)
                return f"▸ {whom}  {self._message(message)}"
            case Persist(record):
                return f"persists {record.kind} {record.topic} {record.value[-4:].hex()}"
            case Compute(name, _):
                return f"computes {name}"
            case SetTimer(name, after):
                return f"sets timer {name!r} to {after:g} s"
            case Blame(error):
                return f"takes down {error.clause} by {self._who(error.peer)}: {self._plain(error.reason)}"
            case Finish():
                return "finishes with a result"
            case Abort(error, spent):
                return f"ends the round{', spent' if spent else ''}: {self._plain(str(error))}"
            case _:
                return ""

    def _message(self, message: Message) -> str:
        """A message's kind, and what tells it from another of its kind: where it belongs and what it names."""
        parts = [message.kind]
        for name in ("topic", "view", "slice"):
            value = getattr(message, name, None)
            if value is not None:
                parts.append(f"{name} {value}")
        value = getattr(message, "value", None)
        if isinstance(value, bytes):
            parts.append(value.decode() if value in (b"fail", b"lost") else f"value {value[-4:].hex()}")
        held = next((getattr(message, name) for name in _LISTS if hasattr(message, name)), None)
        if isinstance(held, tuple):
            parts.append("of " + "".join(self._letter(one[0] if isinstance(one, tuple) else one) for one in held))
        for name, sign in (("self_shares", "self"), ("key_shares", "keys")):
            shares = getattr(message, name, None)
            if isinstance(shares, tuple):
                parts.append(f"{sign} {''.join(self._letter(peer) for peer, _ in shares) or 'none'}")
        clause = getattr(message, "clause", None)
        if clause is not None:
            parts.append(f"{clause}: {self._plain(getattr(message, 'reason', ''))}")
        return " ".join(parts)

    def _letter(self, peer: object) -> str:
        return self.letters.get(peer, "?") if isinstance(peer, PeerId) else "?"

    def _who(self, peer: PeerId | None) -> str:
        return "nobody" if peer is None else self._letter(peer)

    def _plain(self, text: str) -> str:
        """The text with letters in place of ids."""
        for peer, letter in self.letters.items():
            text = text.replace(str(peer), letter)
        return text
