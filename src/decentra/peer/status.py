"""What a running peer knows of its group, kept in its folder for ``decentra status``.

The file is a convenience for people, written every few seconds and trusted by nobody: no peer reads it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from decentra.driver.session import Session
from decentra.errors import LocalError
from decentra.transport.zeromq import ZeroMQTransport
from decentra.types import PeerId

VERSION = 1
STALE = 10.0
"""Seconds after which a status is old: it is written every `EVERY`."""

EVERY = 2.0
"""Seconds between writes."""


@dataclass(frozen=True)
class MemberStatus:
    """One member as this peer sees it.

    Attributes:
        name, id: who it is, the id in hexadecimal.
        status: ``up``, ``suspected``, ``down``, ``left``, ``unknown`` where it was never heard, ``here`` for this peer.
        seconds: for how long.
        suspected_by: names of those who say that it does not answer.
        connected: whether the way to it is open.
        reason: what is known of why it does not answer; empty for nothing.
    """

    name: str
    id: str
    status: str
    seconds: float
    suspected_by: tuple[str, ...]
    connected: bool
    reason: str


@dataclass(frozen=True)
class Status:
    """What a peer knows of its group at one moment.

    Attributes:
        pid: its process.
        written: when this was said, in seconds since 1970.
        group, epoch, name: the charter's, and this peer's name in it.
        endpoint: where it listens.
        round: the last round that it began.
        completed, failed: rounds of this process.
        busy: whether a round is on.
        waiting_for: names of those whom that round waits for.
        patience: seconds that a round waits for the slowest once enough are ready.
        bytes_sent, bytes_received: of this process.
        members: everyone, in the charter's order.
        division: where the group has split, which half goes on and why; empty where it is one.
    """

    pid: int
    written: float
    group: str
    epoch: int
    name: str
    endpoint: str
    round: int
    completed: int
    failed: int
    busy: bool
    waiting_for: tuple[str, ...]
    patience: float
    bytes_sent: int
    bytes_received: int
    members: tuple[MemberStatus, ...]
    division: str = ""

    @property
    def running(self) -> bool:
        """Whether its process still runs and has said so lately."""
        try:
            os.kill(self.pid, 0)
        except (ProcessLookupError, OverflowError):
            return False
        except PermissionError:
            pass  # another user's process: it is there
        return time.time() - self.written < STALE

    def write(self, path: Path) -> None:
        """Replace the file at once. A full disk loses a status, and nothing else."""
        beside = path.with_name(f".{path.name}.{self.pid}")
        try:
            beside.write_text(json.dumps({"version": VERSION, **asdict(self)}, ensure_ascii=False), "utf-8")
            beside.replace(path)
        except OSError:
            beside.unlink(missing_ok=True)


def observe(
    session: Session, transport: ZeroMQTransport, up: Collection[PeerId], now: float, completed: int, failed: int
) -> Status:
    """What a peer knows now; on its I/O thread only.

    Args:
        session: its rounds, and its part in the membership.
        transport: its way to the others.
        up: to whom the way is open.
        now: by the driver's clock.
        completed, failed: rounds of this process.
    """
    driver, charter = session.driver, session.charter
    names = {member.id: member.name for member in charter.members}
    standing = () if driver.gossip is None else driver.gossip.snapshot()
    members = tuple(
        MemberStatus(
            name=names[one.peer],
            id=one.peer.hex(),
            status="here" if one.peer == session.me else one.status,
            seconds=round(now - one.since, 1),
            suspected_by=tuple(sorted(names[peer] for peer in one.suspected_by)),
            connected=one.peer in up,
            reason=driver.reasons.get(one.peer, ""),
        )
        for one in standing
    )
    return Status(
        pid=os.getpid(),
        written=time.time(),
        group=charter.group.name,
        epoch=charter.group.epoch,
        name=names[session.me],
        endpoint=transport.endpoint,
        round=session.round.number,
        completed=completed,
        failed=failed,
        busy=session.busy,
        waiting_for=tuple(sorted(names[peer] for peer in driver.awaited)),
        patience=session.pace.patience,
        bytes_sent=transport.counters.bytes_sent,
        bytes_received=transport.counters.bytes_received,
        members=members,
        division=session.division.says,
    )


def read(path: Path) -> Status:
    """The status in a folder.

    Raises:
        LocalError: there is none, or it is none that this release wrote.
    """
    try:
        fields: Any = json.loads(path.read_text("utf-8"))
        if fields.pop("version") != VERSION:
            raise ValueError("another version")
        members = tuple(
            MemberStatus(**{**one, "suspected_by": tuple(one["suspected_by"])}) for one in fields.pop("members")
        )
        return Status(**{**fields, "waiting_for": tuple(fields["waiting_for"]), "members": members})
    except FileNotFoundError:
        mend = "start it with `decentra run PROGRAM --state DIR`"
        raise LocalError(f"no peer has run in {path.parent} since it was made; {mend}") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise LocalError(f"{path} is no status of this release ({error}); start the peer again") from None
