"""The body of ``decentra status``: the group as a peer sees it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from decentra.cli.report import FAILED, emit
from decentra.peer.config import PeerFolder
from decentra.peer.status import MemberStatus, Status, read


def status(state: Path, as_json: bool) -> int:
    """Print what the peer of a folder said last; 1 where it does not run.

    Raises:
        LocalError: the folder is none, or no peer has run in it.
    """
    folder = PeerFolder(state)
    folder.load_config()
    told = read(folder.status)
    running = told.running
    if as_json:
        emit(True, {"running": running, **asdict(told)}, ())
    else:
        _print(told, running)
    return 0 if running else FAILED


def _print(told: Status, running: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False, highlight=False, soft_wrap=True)
    console.print(f"{told.name} in {told.group}, epoch {told.epoch}, at {told.endpoint}")
    if not running:
        console.print("it does not run now; what follows is what it said last")
    done = f"{told.completed} completed and {told.failed} failed in this process"
    console.print(f"round {told.round}: {_round(told)}; {done}")
    console.print(
        f"a round waits {told.patience:.0f} s for the slowest; sent {told.bytes_sent:,} bytes, "
        f"received {told.bytes_received:,}"
    )
    if told.division:
        console.print(told.division)
    table = Table("member", "is", "for", "way", "what is known")
    for member in told.members:
        table.add_row(member.name, member.status, _lasts(member), "open" if member.connected else "—", _known(member))
    console.print(table)


def _round(told: Status) -> str:
    if not told.busy:
        return "none is on"
    return f"waits for {', '.join(told.waiting_for)}" if told.waiting_for else "is on"


def _lasts(member: MemberStatus) -> str:
    return "" if member.status in ("here", "unknown") else f"{member.seconds:.0f} s"


def _known(member: MemberStatus) -> str:
    by = f"does not answer {', '.join(member.suspected_by)}" if member.suspected_by else ""
    return "; ".join(part for part in (by, member.reason) if part)
