"""Training together: a step hook that runs a round every H local steps, and the outer optimiser behind it."""

from decentra.machine.state import SharedState
from decentra.training.common import OuterState
from decentra.training.hook import Averager, Summary, Training, attach
from decentra.training.join import TrainingPeer, join
from decentra.training.outer import Outer, OuterAdam, OuterSGD
from decentra.training.tensors import Leaving

__all__ = [
    "Averager",
    "Leaving",
    "Outer",
    "OuterAdam",
    "OuterSGD",
    "OuterState",
    "SharedState",
    "Summary",
    "Training",
    "TrainingPeer",
    "attach",
    "join",
]
