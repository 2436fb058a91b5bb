"""What ``decentra demo`` shows: a live table with a bar on a terminal, a forecast, and a summary at the end."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from decentra.demo.figures import over_silos
from decentra.demo.lies import HIDING


class Row(Protocol):
    """What the table shows of a peer."""

    name: str
    silo: str
    progress: dict[str, Any]
    spent: float
    left: float | None
    done: bool
    exit_code: int | None
    killed_in: int | None
    started_again: bool
    back_in: int | None


class Screen:
    """A live table of the peers, and how long the rest takes.

    Args:
        rows: the peers.
        rounds: how many they train for.
        live: draw on stdout, which is a terminal.
        say: where nothing is drawn, say the first forecast once, on stderr.
    """

    def __init__(self, rows: Sequence[Row], rounds: int, *, live: bool, say: bool) -> None:
        self._rows, self._rounds = rows, rounds
        self._say = say and not live
        self._live = Live(self._drawn(), console=Console(), refresh_per_second=4) if live else None

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
            self._live.update(self._drawn())
        elif self._say and (forecast := self.forecast()):
            self._say = False
            print(forecast, file=sys.stderr, flush=True)

    def forecast(self) -> str:
        """How long training and measuring still take, by the pace of all peers so far; empty until each has one."""
        left = [row.left for row in self._rows if row.exit_code is None]
        known = [one for one in left if one is not None]
        if not left or len(known) < len(left) or max(known) <= 0:
            return ""
        minutes = max(known) / 60
        said = f"{minutes:.0f} minutes" if minutes >= 1.5 else f"{max(known):.0f} seconds"
        return f"about {said} of training and measuring are left, by the steps measured so far"

    def _drawn(self) -> Group:
        spent = sum(row.spent for row in self._rows)
        left = sum(row.left or 0.0 for row in self._rows)
        known = all(row.left is not None for row in self._rows)
        bar = ProgressBar(total=spent + left if known else None, completed=spent, width=60)
        return Group(self._table(), bar, Text(self.forecast()))

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
    if result["protocol"] in HIDING:
        verdict = "none was found" if not found["found"] else f"{found['found']:,} WERE FOUND"
        return f"leak check: {tried}: {verdict} (a planted one was)"
    return f"leak check: {tried}: {found['found']:,} were found, since {result['protocol']} hides nothing"


def _losses(result: Mapping[str, Any]) -> list[str]:
    """A line a silo: the common model before and after, and beside it each peer's own, where it was trained."""
    if not result["held_out"]:
        return ["no peer came to its end"]
    return _perplexities(result) if result["model"] == "smollm2" else _bytes(result)


def _bytes(result: Mapping[str, Any]) -> list[str]:
    held_out, gained = result["held_out"], result["gained"]
    if result["attack"] is not None:
        return _attacked(result)
    compared = all("alone" in figures for figures in held_out.values())
    head = f"{'held-out loss, nats a byte':<28}{'before':>8}{'joined':>8}"
    lines = [head + (f"{'alone':>8}   of a peer on its own silo" if compared else "")]
    for silo, figures in sorted(held_out.items()):
        line = f"  {silo:<26}{figures['before'][0]:>8.3f}{figures['joined'][0]:>8.3f}"
        if compared:
            line += f"{figures['alone'][0]:>8.3f}   {figures['gained'][0]:+.3f} by joining"
        lines.append(line)
    if compared:
        before, joined = (over_silos([one[which] for one in held_out.values()])[0] for which in ("before", "joined"))
        lines.append(f"  {'mean over all silos':<26}{before:>8.3f}{joined:>8.3f}")
        for name, (gain, _) in gained.items():
            lines.append(f"    {name} alone: {joined + gain:.3f}, joining gains {gain:+.3f}")
    return lines


def _attacked(result: Mapping[str, Any]) -> list[str]:
    """What liars left of the common model under the rule, and under the mean, by silo."""
    attack, plain = result["attack"], result["under_mean"]
    runs = {result["rule"]: result["held_out"]} | ({"mean": plain["held_out"]} if plain else {})
    columns = {"before": (8, result["held_out"], "before")}
    columns |= {rule: (max(8, len(rule) + 2), held_out, "joined") for rule, held_out in runs.items()}
    lines = [
        f"{', '.join(attack['liars'])} lied ({attack['name']}), and this is what came of training under each rule",
        f"{'held-out loss, nats a byte':<28}" + "".join(f"{name:>{width}}" for name, (width, _, _) in columns.items()),
    ]
    for silo in sorted(result["held_out"]):
        cells = (_cell(width, which, held_out.get(silo)) for width, held_out, which in columns.values())
        lines.append(f"  {silo:<26}{''.join(cells)}")
    means = (_cell(width, which, *of.values()) for width, of, which in columns.values())
    return [*lines, f"  {'mean over all silos':<26}{''.join(means)}"]


def _cell(width: int, which: str, *figures: Mapping[str, Any] | None) -> str:
    """The mean of silos' losses; a dash where nobody came through to measure them."""
    losses = [one[which] for one in figures if one is not None]
    return f"{f'{over_silos(losses)[0]:.3f}' if losses else '–':>{width}}"


def _perplexities(result: Mapping[str, Any]) -> list[str]:
    """Perplexity, and the loss that it is e to the power of, with the standard error of its mean over the articles."""
    held_out = result["held_out"]
    compared = all("alone" in figures for figures in held_out.values())
    texts = sorted({figures["texts"] for figures in held_out.values()})
    many = f"{texts[0]}" if len(texts) == 1 else f"{texts[0]} to {texts[-1]}"
    which = ["before", "joined", *(["alone"] if compared else [])]
    lines = [f"perplexity a token (loss ± its standard error) on {many} held-out articles a topic"]
    lines.append(f"  {'':<22}" + "".join(f"{one:<24}" for one in which) + "loss gained by joining" * compared)
    for silo, figures in sorted(held_out.items()):
        lines.append(f"  {silo:<22}" + _perplexity_cells([figures[one] for one in which], figures.get("gained")))
    cells = [over_silos([figures[one] for figures in held_out.values()]) for one in ("before", "joined")]
    lines.append(f"  {'all topics':<22}" + _perplexity_cells(cells, None))
    for name, (gain, error) in result["gained"].items():
        lines.append(f"    than {name} alone, the joined model is better by {gain:+.3f} ± {error:.3f} over all topics")
    return [line.rstrip() for line in lines]


def _perplexity_cells(losses: Sequence[Sequence[float]], gained: Sequence[float] | None) -> str:
    cells = (f"{math.exp(loss):.2f} ({loss:.3f} ± {error:.3f})" for loss, error in losses)
    return "".join(f"{cell:<24}" for cell in cells) + (f"{gained[0]:+.3f} ± {gained[1]:.3f}" if gained else "")
