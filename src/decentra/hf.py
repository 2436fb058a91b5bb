"""Hugging Face: ``Trainer(..., callbacks=[decentra.hf.Callback()])`` trains with the group."""

from __future__ import annotations

from typing import Any

from decentra.errors import LocalError
from decentra.training.callback import Joining

try:
    from transformers import TrainerCallback
    from transformers.trainer_callback import TrainerControl, TrainerState
    from transformers.training_args import TrainingArguments
except ModuleNotFoundError as missing:
    raise LocalError(f"{missing.name} is not installed: pip install 'decentra[hf]'") from missing


class Callback(Joining, TrainerCallback):
    """Joins when a ``transformers.Trainer`` begins to train, and closes when it has ended.

    Every real optimizer step counts, so gradient accumulation, clipping, schedulers and mixed precision need nothing;
    adapters of peft leave alone, as they alone require grad. A Trainer does not tell callbacks of an error or an
    interrupt: where the program goes on after one, close then, or train in a ``with``:

        with decentra.hf.Callback() as together:
            Trainer(model, arguments, train_dataset=texts, callbacks=[together]).train()
        print(together.summary)

    What a Trainer saves in the middle of training is this peer's own way from the common parameters; what is saved
    afterwards is the common model.

    Args:
        state: the peer's folder; by default what ``decentra run`` set in DECENTRA_STATE.
        join: ``decentra.training.adapters.join`` where LoRA adapters are trained by the charter's method, or have
            several ranks.
        options: the keyword arguments of ``decentra.join``, or of that.

    Raises:
        LocalError: from ``train()``: what joining refuses, and ``load_best_model_at_end``, since the best of
            this peer's own models is not the group's.
    """

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if args.load_best_model_at_end:
            raise LocalError(
                "load_best_model_at_end would put this peer's own best model in the place of the common one: turn it "
                "off, and choose among the models that all peers hold"
            )
        self._begin(kwargs["model"], kwargs["optimizer"])

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.close()
