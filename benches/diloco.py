"""Loss against bytes: rounds every H local steps (DiLoCo) beside synchronous data-parallel training; what delays cost.

    python benches/diloco.py [--seeds 3] [--steps 320] [--out DIR]

Four peers train the demo's model, each on a silo of its own, taken in turn in one process. Their updates are averaged
by the real machines of secagg on a simulated network, whose bytes are those told, framing included. Data-parallel
training takes the mean of the four gradients every step, in float32, and is charged 2(n−1)/n · d · 4 bytes for it, the
least that a ring all-reduce takes; it is run for fewer steps too, each with a schedule of its own, so that its curve
shows what it reaches for fewer bytes. Inner learning rates are chosen for both sides alike, on a seed and on windows
that no result is taken from. Losses are means over all silos' held-out texts, in nats a byte.

``--out`` gets ``diloco.json`` and, where matplotlib is installed, ``diloco.png``.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.optim.lr_scheduler import LambdaLR

from decentra.charter.charter import TrainingTerms
from decentra.demo import silos
from decentra.demo.model import CONTEXT, ByteGPT
from decentra.demo.train import BATCH, CLIP, _loss, batches, held_out_loss, make_optimizer, rate_factor
from decentra.groups import local_group
from decentra.training import Leaving, OuterState
from decentra.training.outer import chosen

RATES = (2e-3, 4e-3, 8e-3)
TUNED_ON = 1000
"""The seed on which learning rates are chosen; results are of seeds 0, 1, 2."""
WINDOWS = 64
LOG = logging.getLogger("decentra")


@dataclass
class Run:
    """What a run came to: after each of some steps, bytes that a peer had sent and the loss."""

    name: str
    rate: float
    seed: int
    curve: list[tuple[int, float, float]] = field(default_factory=list)

    @property
    def loss(self) -> float:
        return self.curve[-1][2]


class Peer:
    """A model in training on its silo."""

    def __init__(self, text: bytes, rate: float, steps: int, seed: int) -> None:
        self.model = ByteGPT(seed)
        self.optimizer = make_optimizer(self.model)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] = rate
        self.schedule = LambdaLR(self.optimizer, partial(rate_factor, steps=steps))
        self.batches = batches(text, seed)

    def train(self, steps: int) -> None:
        for batch in islice(self.batches, steps):
            self.optimizer.zero_grad()
            torch.autograd.backward(_loss(self.model, batch))
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
            self.optimizer.step()
            self.schedule.step()


class Measure:
    """Held-out loss, on even windows for results and on odd ones for choosing rates."""

    def __init__(self, held_out: Sequence[bytes], tuning: bool) -> None:
        size = CONTEXT + 1
        self._texts = []
        for text in held_out:
            parts = [text[at : at + size] for at in range(0, len(text) - size, size)]
            self._texts.append(b"".join(parts[int(tuning) :: 2]))

    def __call__(self, model: torch.nn.Module) -> float:
        return statistics.fmean(held_out_loss(model, text, WINDOWS) for text in self._texts)


def data_parallel(texts: Sequence[bytes], rate: float, steps: int, seed: int, measure: Measure) -> Run:
    """One model, and the mean of the peers' gradients every step."""
    peer, streams = Peer(texts[0], rate, steps, seed), [batches(text, seed) for text in texts]
    size = sum(parameter.numel() for parameter in peer.model.parameters())
    a_step = 2 * (len(texts) - 1) / len(texts) * size * 4
    for _ in range(steps):
        peer.optimizer.zero_grad()
        for stream in streams:
            torch.autograd.backward(_loss(peer.model, next(stream)) / len(texts))
        torch.nn.utils.clip_grad_norm_(peer.model.parameters(), CLIP)
        peer.optimizer.step()
        peer.schedule.step()
    return Run(f"data-parallel, {steps} steps", rate, seed, [(steps, steps * a_step, measure(peer.model))])


Mean = Callable[[list[list[NDArray[np.float32]]]], tuple[Sequence[NDArray[np.float32]], int]]
"""The mean of the peers' updates, and the bytes that a peer sent for it."""


def exact(updates: list[list[NDArray[np.float32]]]) -> tuple[Sequence[NDArray[np.float32]], int]:
    """In float64, with nothing sent."""
    return [np.mean(column, axis=0, dtype=np.float64).astype(np.float32) for column in zip(*updates, strict=True)], 0


def secagg(n: int, width: int, initial_range: float) -> Mean:
    """By the machines of secagg."""
    group = local_group(n, protocol__width=width, protocol__initial_range=initial_range, protocol__challenges=0)

    def mean(updates: list[list[NDArray[np.float32]]]) -> tuple[Sequence[NDArray[np.float32]], int]:
        result = group.average(updates)[0]
        return result.values, result.bytes_sent

    return mean


def diloco(
    name: str,
    texts: Sequence[bytes],
    rate: float,
    steps: int,
    every: int,
    seed: int,
    measure: Measure,
    width: int | None = 16,
    momentum: float = 0.5,
    share: float | None = None,
) -> Run:
    """Rounds every so many steps.

    Args:
        width: bits on the wire; None for an exact mean.
        share: None to wait for each round; else each lands a whole phase late, and so much of the way since its
            departure is kept, 0 to 1.
    """
    peers = [Peer(text, rate, steps, seed) for text in texts]
    terms = TrainingTerms(steps=every, outer_momentum=momentum)
    bound = sum(rate * rate_factor(step, steps) for step in range(min(every, steps)))
    mean = exact if width is None else secagg(len(peers), width, bound)
    leaving = [Leaving(peer.model) for peer in peers]
    states = [OuterState(one, partial(chosen, terms, {}), LOG) for one in leaving]
    run, sent, flights = Run(name, rate, seed), 0.0, None
    for done in range(every, steps + 1, every):
        for peer in peers:
            peer.train(every)
        if share is not None:
            if flights is not None:
                for one, (before, after) in zip(leaving, flights, strict=True):
                    _land(one, before, after, share)
            befores = [one.copy() for one in leaving]
            afters = [one.copy() for one in befores]
        else:
            befores, afters = leaving, leaving
        with ExitStack() as on_copies:
            for state, copy in zip(states, afters, strict=True):
                on_copies.enter_context(state.on(copy))
            values, cost = mean([list(state.update()) for state in states])
            for state in states:
                state.advance(values)
        sent += cost
        flights = list(zip(befores, afters, strict=True))
        if done % 100 == 0 or done + every > steps:
            held = ByteGPT(seed)
            there = Leaving(held)
            for index in range(len(there)):
                there.write(index, afters[0].read(index))
            run.curve.append((done, sent, measure(held)))
    return run


def _land(model: Leaving, before: Leaving, after: Leaving, share: float) -> None:
    """local ← after + share · (local − before)"""
    for index in range(len(model)):
        way = model.read(index) - before.read(index)
        model.write(index, after.read(index) + np.float32(share) * way)


def runs(texts: Sequence[bytes], held_out: Sequence[bytes], steps: int, seeds: int) -> Iterator[Run]:
    """Everything, the choice of rates first."""
    tuning, measure = Measure(held_out, True), Measure(held_out, False)
    tuned: dict[str, float] = {}
    for side in ("data-parallel", "diloco"):
        found = {}
        for rate in RATES:
            if side == "diloco":
                run = diloco("diloco, H = 20", texts, rate, steps, 20, TUNED_ON, tuning, None)
            else:
                run = data_parallel(texts, rate, steps, TUNED_ON, tuning)
            run.name = f"tuning: {run.name}"
            found[rate] = run.loss
            yield run
        tuned[side] = min(found, key=lambda rate: found[rate])
    rate = tuned["diloco"]
    for seed in range(seeds):
        for count in (steps, steps // 2, steps // 4, steps // 8, steps // 20):
            yield data_parallel(texts, tuned["data-parallel"], count, seed, measure)
        for every in (20, 5, 50):
            yield diloco(f"H = {every}, w = 16", texts, rate, steps // every * every, every, seed, measure)
        yield diloco("H = 20, float", texts, rate, steps, 20, seed, measure, None)
        for share in (1.0, 0.5):
            name = f"H = 20, float, a phase late, keeps {share:g}"
            yield diloco(name, texts, rate, steps, 20, seed, measure, None, share=share)
        for every in (20, 5, 50):
            yield diloco(f"H = {every}, w = 32", texts, rate, steps // every * every, every, seed, measure, 32)


def summary(found: Sequence[Run]) -> list[dict[str, object]]:
    """By name: bytes a peer sent, and the mean and spread of the last loss."""
    told = []
    for name in dict.fromkeys(run.name for run in found if not run.name.startswith("tuning")):
        same = [run for run in found if run.name == name]
        losses = [run.loss for run in same]
        spread = statistics.stdev(losses) if len(losses) > 1 else 0.0
        row = {"name": name, "rate": same[0].rate, "megabytes": same[0].curve[-1][1] / 1e6}
        told.append({**row, "loss": statistics.fmean(losses), "spread": spread, "seeds": len(same)})
    return told


def plot(told: Sequence[dict[str, object]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    families = {
        "data-parallel, float32": [row for row in told if str(row["name"]).startswith("data-parallel")],
        "secagg, w = 16": [row for row in told if str(row["name"]).endswith("w = 16")],
        "secagg, w = 32": [row for row in told if str(row["name"]).endswith("w = 32")],
    }
    for marker, (name, rows) in zip("os^", families.items(), strict=True):
        rows = sorted(rows, key=lambda row: float(str(row["megabytes"])))
        x, y, error = ([float(str(row[key])) for row in rows] for key in ("megabytes", "loss", "spread"))
        axes.errorbar(x, y, error, marker=marker, capsize=3, label=name)
        for row in rows:
            label = str(row["name"]).split(",")[0 if "H" in str(row["name"]) else 1].strip()
            where = (float(str(row["megabytes"])), float(str(row["loss"])))
            axes.annotate(label, where, textcoords="offset points", xytext=(5, 5), fontsize=8)
    axes.set(xscale="log", xlabel="megabytes that a peer sends", ylabel="held-out loss, nats a byte, mean of all silos")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=320)
    parser.add_argument("--out", type=Path, default=Path())
    options = parser.parse_args()
    torch.set_num_threads(1)
    loaded = [silos.load(name) for name in ("stdlib", "torch", "numpy", "tools")]
    found: list[Run] = []
    began = time.process_time()
    for run in runs([one.train for one in loaded], [one.held_out for one in loaded], options.steps, options.seeds):
        found.append(run)
        _, sent, loss = run.curve[-1]
        spent = f"{time.process_time() - began:6.0f} CPU-s  seed {run.seed}  rate {run.rate:g}"
        print(f"{spent}  {run.name}: {loss:.4f} after {sent / 1e6:.1f} MB", flush=True)
        told = summary(found)
        (options.out / "diloco.json").write_text(
            json.dumps({"batch": BATCH, "summary": told, "runs": [vars(one) for one in found]}, indent=1)
        )
    for row in told:
        print(f"{row['name']}: {row['loss']:.4f} ± {row['spread']:.4f}, {row['megabytes']:.1f} MB")
    try:
        plot(told, options.out / "diloco.png")
    except ImportError:
        print("no plot: pip install matplotlib")


if __name__ == "__main__":
    main()
