"""What ``decentra demo`` shows: a live table on a terminal, and a summary at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from rich.console import Console
from rich.live import Live
from rich.table import Table


class Row(Protocol):
    """What the table shows of a peer."""

    name: str
    silo: str
    progress: dict[str, Any]
    done: bool
    exit_code: int | None
    killed_in: int | None
    started_again: bool
    back_in: int | None


class Screen:
    """A live table of the peers; shows nothing where it is to be quiet."""

    def __init__(self, rows: Sequence[Row], rounds: int, *, quiet: bool) -> None:
        self._rows, self._rounds = rows, rounds
        self._live = None if quiet else Live(self._table(), console=Console(), refresh_per_second=4)

    def __enter__(self) -> Screen:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.update(self._table())
            self._live.stop()

    def show(self) -> None:
        """Draw what is known now."""
        if self._live is not None:
            self._live.update(self._table())

    def _table(self) -> Table:
        table = Table(title="peers that train one model, each on its own text", title_justify="left")
        for heading in ("peer", "silo"):
            table.add_column(heading)
        for heading in ("round", "loss", "sent", "in rounds", "state"):
            table.add_column(heading, justify="right")
        for row in self._rows:
            told = row.progress
            table.add_row(
                row.name,
                row.silo,
                f"{told['round']} of {self._rounds}" if told else "",
                f"{told['loss']:.3f}" if "loss" in told else "",
                f"{told['bytes'] / 1e6:.1f} MB" if told else "",
                f"{told['seconds']:.1f} s" if told else "",
                _state(row),
            )
        return table


def _state(row: Row) -> str:
    state = _doing(row)
    return state if row.back_in is None else f"{state}, back in round {row.back_in}"


def _doing(row: Row) -> str:
    if row.killed_in is not None and not row.started_again:
        return f"killed in round {row.killed_in}"
    if row.started_again and row.back_in is None and row.exit_code is None:
        return f"killed in round {row.killed_in}, starts again"
    if row.exit_code not in (None, 0):
        return f"ended with {row.exit_code}"
    if row.done:
        return "done"
    if row.progress.get("failed"):
        return f"training, {row.progress['failed']} rounds failed"
    return "training" if row.progress else "joining"


def summary_lines(result: Mapping[str, Any], out: Path) -> list[str]:
    """The end of a demo in words: losses, what joining gained, hashes, the leak check, and the audit."""
    lines = [*_losses(result), ""]
    peers: Sequence[Mapping[str, Any]] = result["peers"]
    through = [peer for peer in peers if peer["name"] not in result["lost"]]
    for name in result["lost"]:
        code = next(peer["exit_code"] for peer in peers if peer["name"] == name)
        lines.append(f"{name} ended early with code {code}; see {out / name / 'stderr.txt'}")
    lines += _killed(result)
    if through:
        hashes = sorted({peer["parameters"][:16] for peer in through})
        same = "hold the same parameters" if len(hashes) == 1 else "DO NOT hold the same parameters"
        lines.append(f"{len(through)} peers {same}: {', '.join(hashes)}")
    lines += [_leak_line(result), _audit_line(result["audit"])]
    sent = max((peer["bytes_sent"] for peer in through), default=0)
    lines.append(f"each sent up to {sent / 1e6:.1f} MB in {result['rounds']} rounds; its folder holds its transcript")
    lines.append(f"{result['wall_seconds']:.0f} s, {result['cpu_seconds']:.0f} CPU-seconds; {out / 'result.json'}")
    return lines


def _killed(result: Mapping[str, Any]) -> list[str]:
    """What became of the peer that was killed, if one was."""
    killed = result["killed"]
    if killed is None:
        return []
    said = f"{killed['peer']} was killed in the middle of round {killed['round']}, which the others ended without it"
    back = killed["back_in_round"]
    if back is None:
        return [f"{said}; IT DID NOT COME BACK"]
    return [f"{said}; started again, it took over their parameters and was back in round {back}"]


def _audit_line(audited: Mapping[str, Any]) -> str:
    entries = f"{audited['entries']:,} signed entries of the peers' transcripts"
    if audited["violations"]:
        return f"audit: VIOLATION: {'; '.join(audited['violations'])}"
    if audited["verdict"] == "clean":
        return f"audit: clean: {entries} break no clause that they can tell"
    return f"audit: undecided: {entries} break no clause, and {audited['missing']} that they cite are missing"


def _leak_line(result: Mapping[str, Any]) -> str:
    found = result["leak"]
    if found is None:
        return "leak check: not possible, since too few peers came through"
    tried = f"{found['windows']:,} windows of the peers' updates were sought in what the others received"
    if found["planted"] != len(result["peers"]) - len(result["lost"]):
        return f"leak check: BROKEN, a planted window was not found ({tried})"
    if result["protocol"] == "secagg":
        verdict = "none was found" if not found["found"] else f"{found['found']:,} WERE FOUND"
        return f"leak check: {tried}: {verdict} (a planted one was)"
    return f"leak check: {tried}: {found['found']:,} were found, since {result['protocol']} hides nothing"


def _losses(result: Mapping[str, Any]) -> list[str]:
    """A line a silo: the common model before and after, and beside it each peer's own, where it was trained."""
    peers = [peer for peer in result["peers"] if peer["after"]]
    if not peers:
        return ["no peer came to its end"]
    joined = peers[0]
    compared = all(peer["alone"] for peer in peers)
    head = f"{'held-out loss, nats a byte':<28}{'before':>8}{'joined':>8}"
    lines = [head + (f"{'alone':>8}   of a peer on its own silo" if compared else "")]
    for silo in joined["after"]:
        line = f"  {silo:<26}{joined['before'][silo]:>8.3f}{joined['after'][silo]:>8.3f}"
        own = next((peer for peer in peers if peer["silo"] == silo), None)
        if compared and own is not None:
            line += f"{own['alone'][silo]:>8.3f}   {own['alone'][silo] - joined['after'][silo]:+.3f} by joining"
        lines.append(line)
    if compared:
        mean = _mean(joined["after"])
        lines.append(f"  {'mean over all silos':<26}{_mean(joined['before']):>8.3f}{mean:>8.3f}")
        lines += [
            f"    {peer['name']} alone: {_mean(peer['alone']):.3f}, joining gains {_mean(peer['alone']) - mean:+.3f}"
            for peer in peers
        ]
    return lines


def _mean(losses: Mapping[str, float]) -> float:
    return sum(losses.values()) / len(losses)
