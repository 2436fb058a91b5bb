"""Where a peer's sessions run that it has side by side: one clock, transport and pool, and a journal for each."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from decentra.charter.charter import Charter
from decentra.crypto.suite import REAL, Suite
from decentra.driver.blobs import Keeps, Random, Witness
from decentra.driver.common import GroupState
from decentra.driver.fittings import PLAIN, Fittings
from decentra.driver.ports import Journal, Pool, Ports
from decentra.driver.session import Session
from decentra.gossip.beacon import Draw
from decentra.transport.shared import SharedTransport
from decentra.transport.virtual import Scheduler
from decentra.wire.entry import Signer


class Opened(NamedTuple):
    """A session's journal, how often its peer has started by it, and the last round that it signed anything in."""

    journal: Journal
    boot: int
    last_round: int


@dataclass(frozen=True)
class Site:
    """What one peer's sessions of an epoch have in common.

    Attributes:
        identity: the peer's keys.
        journal: opens the journal of a charter's session.
        kept: what this peer knew of the epoch's beacon when it last ran.
        keep: makes durable what it knows now, before it returns.
        keeps: gives what keeps a session's secrets for self-audit; None to keep none.
        witness: shown every encoded update before it is masked, for a leak check.
        attend: has the peer take part in a session's membership; None where nobody asks who is up.
        suite, fittings: what a simulation puts in place of the real.
    """

    identity: Signer
    clock: Scheduler
    transport: SharedTransport
    pool: Pool
    random: Random
    journal: Callable[[Charter], Opened]
    keep: Callable[[Draw], None]
    kept: Draw | None = None
    keeps: Keeps | None = None
    witness: Witness | None = None
    attend: Callable[[Session], None] | None = None
    suite: Suite = REAL
    fittings: Fittings = PLAIN
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("decentra"))

    def session(self, charter: Charter, before: int = 0, lender: GroupState | None = None) -> Session:
        """Open the session of a derived charter: its links, chain and journal, and a sealing key drawn afresh.

        Args:
            before: rounds of other sessions that its members come from.
            lender: the common state of another session, where this one only goes by it.
        """
        opened = self.journal(charter)
        made = Session(
            self.identity,
            charter,
            boot=opened.boot,
            random=self.random,
            last_round=opened.last_round,
            keeps=self.keeps,
            suite=self.suite,
            log=self.log,
            fittings=self.fittings,
            before=before,
            lender=lender,
            witness=self.witness if charter.protocol.name == "secagg" else None,
        )
        part = self.transport.part(made.session, made.driver.on_receive, made.driver.on_link)
        made.open(Ports(self.clock, part, opened.journal, self.pool))
        if self.attend is not None:
            self.attend(made)
        return made
