"""The body of ``decentra audit --self``: a peer's own rounds, computed again with the secrets that it kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from decentra.audit import Verdict
from decentra.audit.findings import Finding
from decentra.audit.record import Round
from decentra.audit.replay import Replay, Replayed
from decentra.errors import LocalError

SECRETS = "secrets"
"""The folder in a peer's own in which it keeps them."""


class SelfAudit:
    """The replays of some peers' folders, beside the audit of their transcripts.

    Raises:
        LocalError: a path is no folder.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._replays: list[Replay] = []
        self._without: list[str] = []
        for path in paths:
            if not path.is_dir():
                said = f"--self needs a peer's whole folder, with its {SECRETS}, such as run/peer-0"
                raise LocalError(f"{said}, and {path} is none")
            try:
                self._replays.append(Replay(path / SECRETS))
            except LocalError as error:
                self._without.append(str(error))

    def watch(self, round_: Round, findings: Sequence[Finding]) -> None:
        """Replay a round at each peer that kept its secrets."""
        for replay in self._replays:
            replay(round_, findings)

    @property
    def _rounds(self) -> list[Replayed]:
        return [one for replay in self._replays for one in replay.rounds]

    @property
    def verdict(self) -> Verdict:
        """A violation where a peer signed something else than its secrets give; undecided where those of a round are
        missing, or nobody kept any."""
        if any(one.flaws for one in self._rounds):
            return Verdict.VIOLATION
        if not self._rounds or any(one.missing for one in self._rounds):
            return Verdict.UNDECIDED
        return Verdict.CLEAN

    def lines(self) -> Iterator[str]:
        yield f"self-audit: {self.verdict.value}"
        if not self._replays:
            yield from (f"  {why}" for why in self._without)
        for one in self._rounds:
            counts = f"{one.shares} shares, {one.masks} masks and {one.slices} slices"
            right = "are what it signed" if not one.flaws else "are what it signed, and not everything is"
            yield f"  {one.peer}, round {one.round}: of what was computed again {counts} {right}"
            yield from (f"    FLAW {clause}: {says}" for clause, says in one.flaws)
            yield from (f"    missing: {what}" for what in dict.fromkeys(one.missing))

    def as_dict(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict.value,
            "without_secrets": self._without,
            "rounds": [
                {
                    "session": one.session.hex(),
                    "round": one.round,
                    "peer": one.peer,
                    "shares": one.shares,
                    "masks": one.masks,
                    "slices": one.slices,
                    "flaws": [{"clause": clause, "says": says} for clause, says in one.flaws],
                    "missing": list(dict.fromkeys(one.missing)),
                }
                for one in self._rounds
            ],
        }
