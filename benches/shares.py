"""What shamir-gram's arithmetic costs a peer: CPU seconds of each step, bytes sent, extra memory.

    OMP_NUM_THREADS=1 PYTHONPATH=src python benches/shares.py [--repeats 5] [--sizes 10,3,1,1e6 16,3,2,1e6 32,10,1,1e6]

A size is n, c, slots, coordinates. Every step runs on what the steps before gave, and counts only if it is right: the
opened matrix is the sketch's to the integer, the opened sum is Σ w_i x_i. Medians over repeats of one peer's part are
told. What a peer does once for each of n slices or holders is measured as often. Bytes are of 8 an element, 32 a seed:
no signatures and no sealing. Exit code 1 where n = 10, c = 3 takes more than 3 CPU-s or 70 bytes a coordinate.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np

from decentra.crypto.shares import checks, combine, deal, gram, sketch
from decentra.crypto.shares.field61 import ELEMENT_BYTES
from decentra.crypto.shares.quanta import MAX_RADIUS, check_norm, clip
from decentra.crypto.shares.sharing import Sharing
from decentra.crypto.shares.streams import Stream
from decentra.robust import shared

MOST_SECONDS, MOST_BYTES = 3.0, 70.0
BEACON, LATER = b"\x01" * 32, b"\x02" * 32
SEED_BYTES = 32


class Bench:
    """CPU seconds of steps, the median of repeats, and the most memory that a step took beside what it gave."""

    def __init__(self, repeats: int) -> None:
        self.repeats = repeats
        self.seconds: dict[str, float] = {}
        self.memory: dict[str, float] = {}

    def step(self, name: str, call: Callable[[], Any], times: int = 1) -> Any:
        spent = []
        for _ in range(self.repeats):
            began = time.process_time()
            value = call()
            spent.append(time.process_time() - began)
        self.seconds[name] = statistics.median(spent) * times
        return value

    def extra(self, name: str, call: Callable[[], Any], given: int) -> None:
        tracemalloc.start()
        value = call()
        self.memory[name] = (tracemalloc.get_traced_memory()[1] - given) / (1 << 20)
        tracemalloc.stop()
        del value


def expand(rows: list[Any], length: int) -> None:
    """Every stream that a peer holds, made once: what receiving seeds instead of vectors costs."""
    room = np.empty(min(length, 1 << 14), dtype=np.uint64)
    for row in rows:
        if isinstance(row, bytes):
            stream = Stream(row)
            for low in range(0, length, room.size):
                stream.fill(room[: length - low])


def run(n: int, c: int, slots: int, d: int, repeats: int) -> tuple[float, float]:
    sharing, bench = Sharing(n, c, slots), Bench(repeats)
    rng = np.random.default_rng(1)
    common = rng.normal(size=d)
    radius = MAX_RADIUS
    vectors = [
        clip(np.rint((common + rng.normal(size=d)) * radius / np.sqrt(2 * d) / 2).astype(np.int64), radius)
        for _ in range(n)
    ]
    liars = list(range(c))
    for liar in liars:
        vectors[liar] = -vectors[liar]
    bench.step("norm", lambda: check_norm(vectors[0], radius))
    secrets = [bytes([peer]) * SEED_BYTES for peer in range(n)]
    deals = [deal.deal(x, sharing, peer, secrets[peer]) for peer, x in enumerate(vectors)]
    held = [[one.share(peer) for one in deals] for peer in range(n)]
    length, elements, entries = sharing.length(d), sharing.elements(d), n * (n + 1) // 2
    given = (n - c) * length * ELEMENT_BYTES
    bench.step("deal", lambda: deal.deal(vectors[0], sharing, 0, secrets[0]))
    bench.extra("deal", lambda: deal.deal(vectors[0], sharing, 0, secrets[0]), given)
    bench.step("expand", lambda: expand(held[0], length))

    bench.step("degree values", lambda: checks.degree_values(held[0], length, BEACON))
    bench.extra("degree values", lambda: checks.degree_values(held[0], length, BEACON), 0)
    values = [checks.degree_values(rows, length, BEACON) for rows in held]
    verdicts = bench.step(
        "degree verdicts",
        lambda: [
            checks.judge_degree({peer + 1: told[dealer] for peer, told in enumerate(values)}, sharing)
            for dealer in range(n)
        ],
    )
    expect(verdicts == [checks.Verdict(False, ())] * n, "an honest deal fails")

    bodies = [[checks.without_blind(row) for row in rows] for rows in held]
    bench.step("sketch", lambda: sketch.sketch(bodies[0], elements, BEACON))
    bench.extra("sketch", lambda: sketch.sketch(bodies[0], elements, BEACON), n * sketch.SIZE * ELEMENT_BYTES)
    zeros = [gram.deal_zero(entries, sharing, secret) for secret in secrets]
    bench.step("zero deal", lambda: gram.deal_zero(entries, sharing, secrets[0]))
    told = [gram.zero_values([zero[peer] for zero in zeros], entries, BEACON) for peer in range(n)]
    bench.step("zero check", lambda: gram.zero_values([zero[0] for zero in zeros], entries, BEACON))
    good = [
        checks.judge_zero({peer + 1: one[dealer] for peer, one in enumerate(told)}, sharing) for dealer in range(n)
    ]
    expect(good == [checks.Verdict(False, ())] * n, "an honest sharing of zero fails")
    sketches = [sketch.sketch(rows, elements, BEACON) for rows in bodies]
    bench.step("products", lambda: gram.products(sketches[0]))
    words = {
        peer + 1: gram.hidden(gram.products(one), [zero[peer] for zero in zeros], sharing)
        for peer, one in enumerate(sketches)
    }
    opened = bench.step("open gram", lambda: gram.open_gram(words, n, sharing))
    ends = (vectors[0], vectors[-1])
    whole = [[sketch.sketch_integers(row, BEACON) for row in combine.slot_rows(x, sharing)] for x in ends]
    product = sum(int(a) * int(b) for x, y in zip(*whole, strict=True) for a, b in zip(x, y, strict=True))
    expect(opened.gram[0][n - 1] == product and opened.wrong == (), "the opened matrix is not the sketch's")
    expect(gram.implausible(opened.gram, radius, c) == (), "an honest matrix is implausible")
    weights = bench.step("weights", lambda: shared.weigh(opened.gram, shared.DEFAULT, c, c))
    expect(all((weight == 0) == (peer in liars) for peer, weight in enumerate(weights)), "the rule took a liar")

    bench.step("combine", lambda: combine.combined(bodies[0], weights, elements))
    bench.extra("combine", lambda: combine.combined(bodies[0], weights, elements), elements * ELEMENT_BYTES)
    shares = [combine.combined(rows, weights, elements) for rows in bodies]
    bounds = [(elements * index // n, elements * (index + 1) // n) for index in range(n)]
    parts = []
    for low, high in bounds:
        pieces = {peer + 1: share[low:high] for peer, share in enumerate(shares)}
        coordinates = min(d, high * slots) - min(d, low * slots)
        some = combine.open_slice(pieces, high - low, coordinates, sharing)
        expect(some.wrong == (), "an honest share of a slice is wrong")
        parts.append(some.values)
    low, high = bounds[0]
    pieces = {peer + 1: share[low:high] for peer, share in enumerate(shares)}
    bench.step("open slice", lambda: combine.open_slice(pieces, high - low, (high - low) * slots, sharing))
    total = np.concatenate(parts)
    expect(np.array_equal(total, sum(w * x for w, x in zip(weights, vectors, strict=True))), "the sum is not exact")
    bench.step("slice values", lambda: combine.told(shares[0], bounds, LATER))
    tellings = {peer + 1: combine.told(share, bounds, LATER) for peer, share in enumerate(shares)}
    judged = bench.step(
        "slice verdicts", lambda: combine.judge_slices(tellings, total, bounds, sharing, LATER)
    )
    expect(judged == combine.Judged((), ()), "an honest slice is false")
    bench.step("bound", lambda: combine.beyond(total, weights, radius))
    fits = bench.step("fits gram", lambda: combine.fits_gram(total, weights, opened.gram, sharing, BEACON))
    expect(fits, "an honest sum doesn't fit the matrix")

    sent = {
        "deal": (n - c - 1) * length * ELEMENT_BYTES + c * SEED_BYTES,
        "zero deal": (n - 1) * (entries + 1) * ELEMENT_BYTES,
        "gram": (n - 1) * (entries + 2 * n) * ELEMENT_BYTES,
        "shares of slices": (n - 1) / n * elements * ELEMENT_BYTES,
        "slice to all": (n - 1) / n * d * ELEMENT_BYTES,
    }
    seconds, size = sum(bench.seconds.values()), sum(sent.values()) / d
    what = f"n = {n}, c = {c}, {slots} slot{'s' * (slots > 1)}, d = {d:,}"
    print(f"\n{what}: {seconds:.3f} CPU-s, {size:.1f} B a coordinate")
    print("  CPU-s:  " + ", ".join(f"{name} {spent:.3f}" for name, spent in bench.seconds.items()))
    print("  B a coordinate:  " + ", ".join(f"{name} {spent / d:.2f}" for name, spent in sent.items()))
    print("  extra MiB:  " + ", ".join(f"{name} {spent:.1f}" for name, spent in bench.memory.items()))
    return seconds, size


def expect(holds: bool, what: str) -> None:
    if not holds:
        raise SystemExit(f"wrong: {what}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sizes", nargs="+", default=["10,3,1,1e6", "16,3,2,1e6", "16,2,4,1e6", "32,10,1,1e6"])
    options = parser.parse_args()
    worse = False
    for size in options.sizes:
        n, c, slots, d = (int(float(number)) for number in size.split(","))
        seconds, sent = run(n, c, slots, d, options.repeats)
        if (n, c, slots) == (10, 3, 1) and d >= 1e6:
            worse |= seconds > MOST_SECONDS * d / 1e6 or sent > MOST_BYTES
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
