"""What the demo trains of a real model, held against a tiny one of the same make: adapters, batches, losses."""

from __future__ import annotations

from itertools import islice
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from decentra.demo import smollm2
from decentra.errors import LocalError

torch.set_num_threads(1)
END = 255


class Bytes:
    """A tokenizer whose tokens are bytes."""

    eos_token_id = END

    def __call__(self, text: str, truncation: bool = False, max_length: int | None = None) -> Any:
        return SimpleNamespace(input_ids=list(text.encode())[: max_length if truncation else None])


def tiny() -> LlamaForCausalLM:
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=256, max_position_embeddings=256, **size)).to(torch.bfloat16)


def test_adapters_change_nothing_at_first_follow_their_seed_and_are_all_that_is_trained() -> None:
    tokens = torch.randint(256, (2, 20), generator=torch.Generator().manual_seed(0))
    plain = smollm2.token_losses(tiny(), tokens)
    one, same, other = (smollm2.with_lora(tiny(), seed) for seed in (1, 1, 2))
    assert torch.equal(smollm2.token_losses(one, tokens), plain)
    trained = {name: value for name, value in one.named_parameters() if value.requires_grad}
    assert len(trained) == 2 * 4 * 2 and all("lora_" in name for name in trained)
    assert {value.dtype for value in trained.values()} == {torch.float32}
    names = sorted(trained)
    first, again, different = (
        [dict(model.named_parameters())[name].detach() for name in names] for model in (one, same, other)
    )
    assert all(map(torch.equal, first, again)) and not all(map(torch.equal, first, different))


def test_training_lowers_the_loss_warms_up_and_repeats_to_the_bit() -> None:
    stream = smollm2.as_tokens(Bytes(), ["one and another and one more. " * 20] * 3)
    assert (stream == END).sum() == 3
    runs = []
    for _ in range(2):
        model = smollm2.with_lora(tiny(), 0)
        optimizer = smollm2.make_optimizer(model)
        rates, losses = [], []
        for loss in islice(smollm2.train(model, optimizer, smollm2.batches(stream, 0), 0), 12):
            losses.append(loss)
            rates.append(optimizer.param_groups[0]["lr"])
        runs.append(losses)
    assert runs[0] == runs[1] and runs[0][-1] < runs[0][0] - 0.1
    warm = smollm2.WARM_UP
    assert rates[:warm] == [pytest.approx(smollm2.RATE * step / warm) for step in range(1, warm + 1)]
    assert rates[warm:] == [smollm2.RATE] * (12 - warm)


def test_batches_are_windows_of_the_texts() -> None:
    stream = torch.arange(500)
    batch = next(smollm2.batches(stream, 1))
    assert batch.shape == (smollm2.BATCH, smollm2.SEQUENCE + 1)
    assert torch.equal(batch, batch[:, :1] + torch.arange(smollm2.SEQUENCE + 1))
    with pytest.raises(LocalError, match=r"come to 4 tokens, less than a sequence of 129; give more"):
        smollm2.as_tokens(Bytes(), ["abc"])


def test_a_text_is_measured_on_its_beginning_and_short_ones_are_not() -> None:
    long = ["x" * 200, "y" * 129, "z" * 5000]
    texts = smollm2.measurable(Bytes(), ["short", long[0], "w" * 128, *long[1:]])
    assert texts == long
    model = tiny()
    losses = list(smollm2.text_losses(model, Bytes(), texts))
    assert len(losses) == 3
    assert losses[1] == smollm2.token_losses(model, torch.tensor([list(b"y" * 129)])).mean().item()
    assert len(smollm2.measurable(Bytes(), long * 40)) == smollm2.HELD_OUT_TEXTS
    with pytest.raises(LocalError, match="of 3 held-out texts 1 are longer than 128 tokens"):
        smollm2.measurable(Bytes(), ["short", *long[:1], "w" * 128])
