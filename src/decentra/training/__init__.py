"""Training together: a step hook that runs a round every H local steps, and the outer optimiser behind it."""

from decentra.training.common import Common, SharedState
from decentra.training.hook import Averager, Summary, Training, attach
from decentra.training.join import TrainingPeer, join
from decentra.training.outer import OuterSGD
from decentra.training.tensors import Leaving

__all__ = [
    "Averager",
    "Common",
    "Leaving",
    "OuterSGD",
    "SharedState",
    "Summary",
    "Training",
    "TrainingPeer",
    "attach",
    "join",
]
