"""Lightning: ``Trainer(callbacks=[decentra.lightning.Callback()])`` trains with the group."""

from __future__ import annotations

import os
from typing import Any

from decentra.errors import LocalError
from decentra.training.callback import Joining

try:
    from lightning import pytorch
except ModuleNotFoundError as missing:
    raise LocalError(f"{missing.name} is not installed: pip install 'decentra[lightning]'") from missing


class Callback(Joining, pytorch.Callback):
    """Joins when a ``lightning.pytorch.Trainer`` begins to train, and closes when it ends, by an error too.

        together = decentra.lightning.Callback()
        Trainer(max_epochs=3, callbacks=[together]).fit(module, batches)
        print(together.summary)

    Every real optimizer step counts, so gradient accumulation, clipping, schedulers and mixed precision need nothing.
    A checkpoint of Lightning's that is written in the middle of training is this peer's own way from the common
    parameters; what is written at its end is the common model.

    Args:
        state: the peer's folder; by default what ``decentra run`` set in DECENTRA_STATE.
        optimizer: which of the module's optimizers has its steps counted, where it has several. All parameters with
            ``requires_grad`` leave, whoever steps them.
        join: ``decentra.training.adapters.join`` where LoRA adapters are trained by the charter's method, or have
            several ranks.
        options: the keyword arguments of ``decentra.join``, or of that.

    Raises:
        LocalError: from ``fit()``: what joining refuses, and an optimizer that is not there.
    """

    def __init__(self, state: str | os.PathLike[str] | None = None, *, optimizer: int = 0, **options: Any) -> None:
        super().__init__(state, **options)
        self._optimizer = optimizer

    def on_train_start(self, trainer: pytorch.Trainer, pl_module: pytorch.LightningModule) -> None:
        count = len(trainer.optimizers)
        if not 0 <= self._optimizer < count:
            raise LocalError(
                f"the module has {count} optimizers, and the steps of number {self._optimizer} were to be counted: "
                "return one from configure_optimizers, or choose another"
            )
        self._begin(pl_module, trainer.optimizers[self._optimizer])

    def on_train_end(self, trainer: pytorch.Trainer, pl_module: pytorch.LightningModule) -> None:
        self.close()

    def on_exception(
        self, trainer: pytorch.Trainer, pl_module: pytorch.LightningModule, exception: BaseException
    ) -> None:
        self.__exit__(type(exception), exception, exception.__traceback__)
