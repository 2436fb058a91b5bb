"""A whole peer program: a language model adapted to texts that stay where they are.

    decentra run peers/language.py --state FOLDER -- --topic tech
    decentra run peers/language.py --state FOLDER -- --texts MY_TEXTS

SmolLM2-135M-Instruct stays as it comes; LoRA adapters of its attention are trained, and their change is all that
leaves: 0.92 million numbers a round. A peer's texts are BBC articles of one topic, or the ``*.txt`` of a folder of its
own, 50 or more, of which it holds out a tenth. The group averages the two matrices of each adapter apart, which is not
quite the mean of what they add to the model (FedIT, Zhang et al. 2023, does so too). ``programs.md`` says how to start
a group, and what to install.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from time import monotonic
from typing import Any

import torch

import decentra
from decentra.demo import smollm2
from decentra.demo.arguments import rounds
from decentra.demo.figures import sure


def measured(model: torch.nn.Module, tokenizer: Any, texts: Sequence[str]) -> tuple[str, list[float]]:
    """Perplexity on the beginnings of texts, with the loss and its standard error; and the loss on each."""
    losses = list(smollm2.text_losses(model, tokenizer, texts))
    loss, error = sure(losses)
    return f"perplexity {math.exp(loss):.2f} (loss {loss:.3f} ± {error:.3f} on {len(losses)} texts)", losses


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--topic", help="of the BBC's articles")
    parser.add_argument("--texts", type=Path, metavar="FOLDER", help="your own instead, a *.txt a text")
    parser.add_argument("--rounds", type=rounds, default=4)
    parser.add_argument("--seed", type=int, default=0, help="of the adapters, and of the order of the texts")
    parser.add_argument("--alone", action="store_true", help="also train alone, for as many steps")
    options = parser.parse_args()
    if (options.topic is None) == (options.texts is None):
        parser.error("give either --topic or --texts")

    smollm2.needs(*([] if options.topic is None else [smollm2.ARTICLES]))
    texts = smollm2.load_folder(options.texts) if options.topic is None else smollm2.load_topic(options.topic)
    torch.set_num_threads(1)  # until joining sets what the folder says: peers that share a machine share its cores
    weights, tokenizer = smollm2.load_weights()
    held_out, stream = smollm2.measurable(tokenizer, texts.held_out), smollm2.as_tokens(tokenizer, texts.train)
    model = smollm2.with_lora(weights, options.seed)
    optimizer = smollm2.make_optimizer(model)

    with decentra.join(model, optimizer) as peer:
        steps = options.rounds * peer.charter.training.steps
        print(f"before: {measured(model, tokenizer, held_out)[0]}", flush=True)
        began = monotonic()
        data = smollm2.batches(stream, options.seed)
        for step, loss in enumerate(islice(smollm2.train(model, optimizer, data, 0), steps), 1):
            minutes = (monotonic() - began) / step * (steps - step) / 60
            print(f"step {step} of {steps}: loss {loss:.3f}, about {minutes:.1f} minutes to go", flush=True)
        summary = peer.close()
    said, joined = measured(model, tokenizer, held_out)
    print(f"joined, {steps} steps in {summary.rounds} rounds: {said}", flush=True)
    print(f"sent {summary.bytes_sent / 1e6:.1f} MB; parameters {summary.parameters[:16]}; log {summary.transcript}")
    if options.alone:
        alone = smollm2.with_lora(model.unload(), options.seed)  # type: ignore[operator]
        data = smollm2.batches(stream, options.seed)
        for _ in islice(smollm2.train(alone, smollm2.make_optimizer(alone), data, 0), steps):
            pass
        said, own = measured(alone, tokenizer, held_out)
        gain, error = sure([one - other for one, other in zip(own, joined, strict=True)])
        print(f"alone, {steps} steps: {said}; joined is better by {gain:+.3f} ± {error:.3f}")


if __name__ == "__main__":
    main()
