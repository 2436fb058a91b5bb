"""allreduce's machine: the common flow of ``protocols.reduce`` with nothing hidden."""

from __future__ import annotations

from decentra.errors import LocalError
from decentra.machine.effects import Compute
from decentra.machine.events import Blob
from decentra.protocols.allreduce.messages import Again, Endorse, Endorsed, Holding, Slices, SliceSum
from decentra.protocols.allreduce.transitions import READS, SHOWS, TRANSITIONS
from decentra.protocols.jobs import Encoded
from decentra.protocols.reduce import Reduce
from decentra.protocols.round import SUM


class AllReduce(Reduce):
    """One peer's part in one round of allreduce."""

    protocol = "allreduce"
    transitions, reads, shows = TRANSITIONS, READS, SHOWS
    endorse_type, endorsed_type, slices_type, again_type = Endorse, Endorsed, Slices, Again
    holding_type, sum_type = Holding, SliceSum
    scattering = "slices"
    context_clause, slice_clause, holding_clause = "AR-1", "AR-2", "AR-3"
    sum_clause, outcome_clause = "AR-4", "AR-5"

    def entered(self, phase: str) -> None:
        if phase == "context":
            self.endorse_plainly()
        elif phase == "slices":
            self.encode()
        elif phase == SUM:
            for position, parts in self.owned():
                self.out.append(Compute(f"sum/{position}", self.sum_job(position, parts)))

    def own_step(self) -> bool:
        return self.step_context() if self.phase == "context" else self.step_scatter()

    def computed(self, name: str, value: object) -> None:
        match name, value:
            case "encode", Encoded():
                self.scatter(value)
            case str(), Blob() if name.startswith("sum/"):
                self.publish_sum(int(name.removeprefix("sum/")), value)
            case "assemble", _:
                self.assembled(value)
            case _:
                raise LocalError(f"allreduce: the job {name!r} gave {value!r}")
