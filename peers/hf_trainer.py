"""A peer program with a Trainer of Hugging Face: a tiny Llama on this peer's own text file.

    decentra run peers/hf_trainer.py --state FOLDER -- my-text.txt --steps 160

One line is decentra's: the callback. `pip install 'decentra[hf]'`; nothing is downloaded.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, set_seed

import decentra

LENGTH = 32


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("text", type=Path, help="a file of at least some 10,000 bytes; tokens are bytes here")
    parser.add_argument("--steps", type=int, default=160, help="those behind the last full round are dropped")
    options = parser.parse_args(arguments)

    set_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=256, max_position_embeddings=LENGTH, **size))
    data = options.text.read_bytes()
    rows = [list(data[start : start + LENGTH]) for start in range(0, len(data) - LENGTH, LENGTH)]
    texts = [{"input_ids": row, "labels": row} for row in rows]

    with tempfile.TemporaryDirectory() as output, decentra.hf.Callback() as together:
        terms = TrainingArguments(
            output,
            max_steps=options.steps,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=2,
            learning_rate=3e-3,
            warmup_steps=2,
            use_cpu=True,
            save_strategy="no",
            report_to="none",
        )
        Trainer(model, terms, train_dataset=texts, callbacks=[together]).train()
    print(f"{model.num_parameters():,} parameters; {together.summary}")


if __name__ == "__main__":
    main()
