"""A whole peer program: hospitals tell benign from malignant tumours together, by logistic regression.

    decentra run peers/tabular.py --state FOLDER -- --hospital 1/3

Each hospital has a part of the Wisconsin breast cancer table (569 patients, 30 measures of cells; it comes with
scikit-learn), and their patients differ: the first has those with the smallest tumours, the last those with the
largest, so that alone a hospital has seen little of what the others see every day. A third of all patients are public:
they set the scale of the measures, and everybody measures on them. ``programs.md`` says how to start a group.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn import functional

import decentra
from decentra.demo.arguments import part_of, rounds
from decentra.demo.figures import accuracy
from decentra.demo.needs import refuse_missing
from decentra.errors import LocalError

RATE, BATCH = 5e-3, 32  # 20 steps of Adam at this rate stay within the range of ±0.1 that a charter begins with


def load(part: int, parts: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Measures and labels of one hospital's patients, and those of the public ones; float32."""
    refuse_missing({"sklearn": "pip install -c constraints.txt scikit-learn"})
    from sklearn.datasets import load_breast_cancer

    table = load_breast_cancer()
    values = torch.from_numpy(table.data).log1p().float()  # sizes spread over orders of magnitude
    labels = torch.from_numpy(table.target).float()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    public, private = order[: len(order) // 3], order[len(order) // 3 :]
    values = (values - values[public].mean(0)) / values[public].std(0)
    by_radius = private[values[private, 0].argsort()]
    own = by_radius[len(by_radius) * part // parts : len(by_radius) * (part + 1) // parts]
    if len(own) < BATCH:
        raise LocalError(f"of {parts} hospitals each would have {len(own)} patients; choose fewer than so many")
    return values[own], labels[own], values[public], labels[public]


def training(model: nn.Module, optimizer: torch.optim.Optimizer, values: Tensor, labels: Tensor) -> Iterator[float]:
    """Make a step for each loss that is asked for, on patients drawn at random."""
    generator = torch.Generator().manual_seed(1)
    while True:
        some = torch.randint(len(labels), (BATCH,), generator=generator)
        loss = functional.binary_cross_entropy_with_logits(model(values[some]).squeeze(1), labels[some])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        yield loss.item()


@torch.no_grad()
def measured(model: nn.Module, values: Tensor, labels: Tensor) -> str:
    """Accuracy with its standard error, and the mean loss."""
    logits = model(values).squeeze(1)
    loss = functional.binary_cross_entropy_with_logits(logits, labels).item()
    return f"{accuracy(((logits > 0) == (labels > 0)).tolist())}, loss {loss:.3f}"


def model_and_optimizer() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = nn.Linear(30, 1)
    return model, torch.optim.Adam(model.parameters(), lr=RATE)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--hospital", type=part_of(16), required=True, help="which part of the patients, such as 1/3")
    parser.add_argument("--rounds", type=rounds, default=15)
    options = parser.parse_args()

    own_values, own_labels, values, labels = load(*options.hospital)
    benign = int(own_labels.sum())
    print(f"{len(own_labels)} patients here, {benign} benign; measured on {len(labels)} public ones", flush=True)

    model, optimizer = model_and_optimizer()
    with decentra.join(model, optimizer) as peer:
        steps = options.rounds * peer.charter.training.steps
        print(f"before: {measured(model, values, labels)}", flush=True)
        for _ in islice(training(model, optimizer, own_values, own_labels), steps):
            pass
        summary = peer.close()
    alone, optimizer = model_and_optimizer()
    for _ in islice(training(alone, optimizer, own_values, own_labels), steps):
        pass
    print(f"joined, {steps} steps in {summary.rounds} rounds: {measured(model, values, labels)}")
    print(f"alone, {steps} steps: {measured(alone, values, labels)}")
    print(f"sent {summary.bytes_sent / 1e6:.3f} MB; parameters {summary.parameters[:16]}; log {summary.transcript}")


if __name__ == "__main__":
    main()
