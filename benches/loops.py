"""What training together costs the loop: the hook between rounds, a round with and without overlap, and memory.

    python benches/loops.py [--parameters 10_000_000] [--rounds 4] [-n 3] [--memory]

The hook's CPU a step, where no round is due, beside a step of the demo's model. Then n real peers in threads of one
process: the CPU that a round takes in the user's own thread inside our calls (``time.thread_time``), waiting included,
which takes none; and the wall time for which it holds the loop up. Everything is one run, side by side. With
``--memory`` instead: the peak of one peer's process beyond model, optimizer, anchor, momentum and residual, in ring
vectors, at so many parameters.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch

import decentra
from averaging import Group as Fake
from averaging import Terms
from decentra.demo.model import ByteGPT
from decentra.demo.train import batches, make_optimizer, make_schedule, train_step
from decentra.training import Training, attach
from starting import Group, all_at_once

TEXT = bytes(range(256)) * 64


def between_rounds() -> None:
    """The hook where nothing is due, and a step."""
    model = ByteGPT(0)
    optimizer = make_optimizer(model)
    schedule = make_schedule(optimizer, 100)
    stream = batches(TEXT, 0)
    train_step(model, optimizer, schedule, next(stream))
    began = time.process_time()
    for batch in islice(stream, 20):
        train_step(model, optimizer, schedule, batch)
    step = (time.process_time() - began) / 20
    training = attach(Fake(1, Terms(steps=10**9)).peers[0], model, optimizer)
    began = time.process_time()
    for _ in range(100_000):
        training._stepped(optimizer, (), {})
    hook = (time.process_time() - began) / 100_000
    print(f"between rounds: {hook * 1e6:.2f} µs of a step's {step * 1e3:.1f} ms, {hook / step:.4%}")


class Wide(torch.nn.Module):
    """A model of about so many parameters, in tensors of four million, whose step costs next to nothing."""

    def __init__(self, parameters: int) -> None:
        super().__init__()
        parts = [4_000_000] * (parameters // 4_000_000) + [parameters % 4_000_000]
        self.parts = torch.nn.ParameterList(torch.nn.Parameter(torch.zeros(size)) for size in parts if size)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        for part in self.parts:
            part.grad = torch.full_like(part, 0.01)
        optimizer.step()
        optimizer.zero_grad()


def timed(spent: list[tuple[float, float]], stepped: Callable[..., None], training: Training, *given: Any) -> None:
    """A call of the hook, and what it took of the thread's CPU and of the time."""
    cpu, wall = time.thread_time(), time.perf_counter()
    stepped(training, *given)
    spent.append((time.thread_time() - cpu, time.perf_counter() - wall))


def round_cost(n: int, parameters: int, rounds: int, overlap: bool) -> tuple[float, float]:
    """CPU of the user's thread a round, and for how long a round holds the loop up; medians over peers and rounds."""
    spent: list[list[tuple[float, float]]] = [[] for _ in range(n)]
    stepped = Training._stepped
    with tempfile.TemporaryDirectory() as home:
        group = Group(Path(home) / "group", n, "secagg", training__steps=2, model__max_parameters=parameters)

        def program(index: int) -> None:
            model = Wide(parameters)
            optimizer = torch.optim.SGD(model.parameters(), 0.1)
            with decentra.join(model, optimizer, group.folders[index].path, overlap=overlap) as peer:
                hook = partial(timed, spent[index], stepped, peer._training)
                peer._training._handle.remove()
                peer._training._handle = optimizer.register_step_post_hook(hook)
                for _ in range(rounds):
                    model.step(optimizer)
                    time.sleep(3.0 if overlap else 0.0)  # local steps, beside which the round goes on
                    model.step(optimizer)

        all_at_once([partial(program, index) for index in range(n)])
        group.close()
    per_round = [one[at : at + 2] for one in spent for at in range(2, 2 * rounds, 2)]
    cpu, wall = ([sum(pair[place] for pair in pairs) for pairs in per_round] for place in (0, 1))
    return statistics.median(cpu), statistics.median(wall)


MEMORY = """
import resource, sys, torch, decentra
sys.path[:0] = {path!r}
from loops import Wide
folder, parameters, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)
model = Wide(parameters)
optimizer = torch.optim.SGD(model.parameters(), 0.1)
for part in model.parts:
    part.grad = torch.full_like(part, 0.01)
optimizer.step()  # whatever torch keeps from its first step on
with decentra.join(model, optimizer, folder) as peer:
    base = int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
    for _ in range(rounds):
        optimizer.step()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(peer.summary().rounds, base, peak, flush=True)
"""


def memory(n: int, parameters: int, rounds: int) -> None:
    """The peak of n processes, each beyond what it held before its first round of training."""
    with tempfile.TemporaryDirectory() as home:
        group = Group(Path(home) / "group", n, "secagg", training__steps=1, model__max_parameters=parameters)
        script = MEMORY.format(path=sys.path)
        given = (str(parameters), str(rounds))
        commands = [[sys.executable, "-c", script, str(folder.path), *given] for folder in group.folders]
        running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
        told = [process.communicate()[0].split() for process in running]
    ring = 2 * parameters
    for completed, base, peak in told:
        beyond = int(peak) - int(base)
        print(
            f"{completed} rounds of {parameters:,} parameters, w = 16: {int(base) >> 20} MiB before, "
            f"{beyond >> 20} MiB beyond, {(beyond - (64 << 20)) / ring:.2f} ring vectors and 64 MiB"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=3)
    parser.add_argument("--parameters", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--memory", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.memory:
        memory(options.n, options.parameters, options.rounds)
        return
    between_rounds()
    cost = partial(round_cost, options.n, options.parameters, options.rounds)
    (cpu, wall), (less, held) = cost(False), cost(True)
    print(f"a round of {options.parameters:,}: {cpu * 1e3:.1f} ms of the user's thread, {wall:.2f} s held up")
    print(f"with overlap: {less * 1e3:.1f} ms, {less / wall:.1%} of that time; {held:.2f} s held up")
    print(f"peak of the process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB")


if __name__ == "__main__":
    main()
