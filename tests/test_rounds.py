"""Rounds from end to end in simulation: exact sums, hidden updates, rosters, deaths, and acts that happen once."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from decentra import derive
from decentra.crypto import prg
from decentra.crypto.ring import Encoded as Counts
from decentra.crypto.ring import Ring, decode
from decentra.driver.session import Vector
from decentra.protocols import jobs
from decentra.protocols.allreduce.transitions import TRANSITIONS as ALLREDUCE
from decentra.protocols.jobs import Assembled, Encoded
from decentra.protocols.secagg.transitions import TRANSITIONS as SECAGG
from decentra.simulation.group import SimulatedGroup, SimulatedPeer
from decentra.transport.base import Lane
from decentra.transport.simulated import Faults
from decentra.types import PeerId, RoundId, RoundResult
from helpers import (
    at,
    errors,
    ids,
    kill,
    play,
    results,
    settle,
    simulate,
    small,
    vector,
)

PHASES = {
    "secagg": ["ready", *(phase for phase in SECAGG.values() if phase != "done")],
    "allreduce": ["ready", *(phase for phase in ALLREDUCE.values() if phase != "done")],
}
READY_DEADLINE, PHASE_DEADLINE = 120.0, 30.0  # the templates'


# ── the aggregate is the exact sum ───────────────────────────────────────────────────────────────────────────────────


class Exactly:
    """Takes down every peer's encoded update, and every peer's certified total."""

    def __init__(self) -> None:
        self.encoded: dict[PeerId, NDArray[Any]] = {}
        self.totals: list[NDArray[Any]] = []

    def witness(self, peer: PeerId, _round: RoundId, encoded: NDArray[Any]) -> None:
        self.encoded[peer] = encoded.copy()

    def watch(self, group: SimulatedGroup) -> None:
        for peer in group.peers:
            base: Any = peer.session._machine

            class Watched(base):  # type: ignore[misc]
                peer: SimulatedPeer
                totals = self.totals

                def assembled(self, value: object) -> None:
                    assert isinstance(value, Assembled)
                    self.totals.append(self.peer.driver.blobs.view(value.total).copy())
                    super().assembled(value)

            Watched.peer = peer
            peer.session._machine = Watched


def average(
    n: int, protocol: str, vectors: Sequence[Vector], **changes: object
) -> tuple[list[RoundResult], NDArray[Any]]:
    """One round; every peer's result, and the certified total, which must be Σ of what was encoded mod 2^w."""
    exactly = Exactly()
    group = simulate(n, protocol, witness=exactly.witness, **changes)
    exactly.watch(group)
    done = results(group.run(list(vectors)))
    assert done[0].participants == ids(group)
    assert done[0].dropped == ()
    dtype = Ring(group.charter.protocol.width).dtype
    total = np.zeros_like(next(iter(exactly.encoded.values())))
    for encoded in exactly.encoded.values():
        np.add(total, encoded, out=total)  # wraps mod 2^w
    assert len(exactly.encoded) == n
    assert len(exactly.totals) == n
    for certified in exactly.totals:
        assert np.array_equal(certified.view(dtype), total)
    settle(group)
    assert [peer.driver.blobs.bytes_held for peer in group.peers] == [0] * n
    return done, total


SHAPES = st.lists(
    st.one_of(st.just(()), st.lists(st.integers(0, 40), min_size=1, max_size=2).map(tuple)), min_size=0, max_size=4
)
KINDS = ("within", "extreme", "clipped", "zero")


def values(rng: np.random.Generator, shape: tuple[int, ...], kind: str, reach: float) -> NDArray[np.float32]:
    if kind == "within":
        drawn = rng.uniform(-reach, reach, shape)
    elif kind == "extreme":
        drawn = rng.choice([-reach, reach], shape)
    elif kind == "clipped":
        drawn = rng.standard_normal(shape) * rng.choice([1e3, 1e30]) * reach
    else:
        drawn = np.zeros(shape)
    return np.asarray(drawn, np.float32)


@settings(max_examples=12)
@example(n=16, width=16, max_weight=8, shapes=[(3,), ()], kinds=["extreme"], seed=1)
@example(n=3, width=16, max_weight=1, shapes=[(100_000,)], kinds=["clipped", "within"], seed=2)
@example(n=4, width=32, max_weight=3, shapes=[(317, 315), (0,)], kinds=["within", "extreme"], seed=3)
@example(n=3, width=32, max_weight=1, shapes=[], kinds=["zero"], seed=4)
@example(n=5, width=16, max_weight=1, shapes=[(0, 7)], kinds=["zero"], seed=5)
@example(n=7, width=32, max_weight=2, shapes=[()], kinds=["clipped"], seed=6)
@given(
    n=st.integers(3, 9),
    width=st.sampled_from([16, 32]),
    max_weight=st.sampled_from([1, 3, 8]),
    shapes=SHAPES,
    kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=3),
    seed=st.integers(0, 1 << 30),
)
def test_secagg_and_allreduce_give_the_exact_integer_sum(
    n: int, width: int, max_weight: int, shapes: list[tuple[int, ...]], kinds: list[str], seed: int
) -> None:
    rng, reach = np.random.default_rng(seed), 0.1
    vectors = [
        vector(
            *(values(rng, shape, kinds[(place + index) % len(kinds)], reach) for index, shape in enumerate(shapes)),
            weight=int(rng.integers(1, max_weight + 1)),
        )
        for place in range(n)
    ]
    weight = sum(one.weight for one in vectors)
    for protocol in ("secagg", "allreduce"):
        done, total = average(
            n, protocol, vectors, protocol__width=width, protocol__max_weight=max_weight, protocol__initial_range=reach
        )
        ring, ranges = Ring(width), [reach] * len(shapes)
        means, decoded_weight = decode(total, ranges, shapes, ring=ring, n=n, survivors=n, max_weight=max_weight)
        assert decoded_weight == done[0].total_weight == weight
        assert [mean.tobytes() for mean in means] == [value.tobytes() for value in done[0].values]
        assert [value.shape for value in done[0].values] == shapes
        step, start = reach / ring.limit(n) * max_weight / weight, 0
        for index, shape in enumerate(shapes):  # and what was encoded is what was given: within a quantum a peer
            given_ = sum(one.weight * np.clip(one.tensors[index].astype(np.float64), -reach, reach) for one in vectors)
            size = math.prod(shape)
            sums = total[start : start + size].view(ring.signed).reshape(shape).astype(np.float64)
            assert np.all(np.abs(sums * step - given_ / weight) <= n * step * 1.001)
            start += size


@settings(max_examples=10)
@given(data=st.data(), n=st.integers(3, 6), width=st.sampled_from([16, 32]), d=st.integers(0, 60))
def test_integers_in_the_exact_sum_of_integers_out(data: st.DataObject, n: int, width: int, d: int) -> None:
    limit = Ring(width).limit(n)
    shift = 10 if width == 16 else 26
    top = min(limit, (1 << 24) - 1)  # what float32 holds exactly
    edges = st.sampled_from([0, 1, -1, top, -top])
    whole = st.lists(st.one_of(edges, st.integers(-top, top)), min_size=d, max_size=d)
    given_ = [np.array(data.draw(whole), np.int64) for _ in range(n)]
    vectors = [vector(np.ldexp(one.astype(np.float64), -shift)) for one in given_]
    # with this range a quantum is 2^-shift exactly, so nothing is rounded
    sums = [
        average(n, protocol, vectors, protocol__width=width, protocol__initial_range=math.ldexp(limit, -shift))[1]
        for protocol in ("secagg", "allreduce")
    ]
    for total in sums:
        assert total[:-1].view(Ring(width).signed).astype(np.int64).tolist() == sum(given_).tolist()
        assert total[-1] == n


def test_a_lossy_jittery_network_changes_no_bit_of_the_result() -> None:
    faults = Faults(latency=0.005, jitter=0.05, drop=0.05, duplicate=0.05, reorder=0.1, hold=0.5)
    smooth, rough = simulate(4), simulate(4, faults=faults)
    vectors = [vector(np.full(70_000, 0.01 * place, np.float32)) for place in range(4)]
    good = results(smooth.run(list(vectors)))[0]
    assert results(rough.run(list(vectors)))[0].values[0].tobytes() == good.values[0].tobytes()


def test_the_same_seed_gives_the_same_run() -> None:
    def heads(seed: int) -> list[bytes]:
        group = simulate(4, seed=seed)
        return [one.transcript_head for one in results(group.run(small(group)))]

    assert heads(3) == heads(3)
    assert heads(3) != heads(4)


# ── what others see of an update ─────────────────────────────────────────────────────────────────────────────────────

CHI_SQUARE_1E6 = 377.3
"""The value that χ² with 255 degrees of freedom exceeds with probability 1e-6 (Wilson and Hilferty 1931)."""


def chi_square(data: NDArray[np.uint8]) -> float:
    counts = np.bincount(data, minlength=256)
    expected = len(data) / 256
    return float(((counts - expected) ** 2 / expected).sum())


def slices_sent(width: int, seed: int) -> list[NDArray[np.uint8]]:
    """Every slice that leaves a peer in a round whose updates are all alike and half zero."""
    group = simulate(4, seed=seed, protocol__width=width)
    sent: list[NDArray[np.uint8]] = []
    for peer in group.peers:
        base: Any = peer.session._machine

        class Watched(base):  # type: ignore[misc]
            peer: SimulatedPeer

            def scatter(self, encoded: Encoded) -> None:
                for place, blob in enumerate(encoded.slices):
                    if place != self.position:
                        sent.append(self.peer.driver.blobs.view(blob).copy())
                super().scatter(encoded)

        Watched.peer = peer
        peer.session._machine = Watched
    update = np.zeros(40_000, np.float32)
    update[::2] = 0.05
    group.run([vector(update) for _ in group.peers])
    assert len(sent) == 12
    return sent


@pytest.mark.parametrize(("width", "seed"), [(16, 0), (16, 1), (32, 2)])
def test_masked_slices_are_uniform_bytes(width: int, seed: int) -> None:
    for data in slices_sent(width, seed):
        words = data.reshape(-1, width // 8)
        assert chi_square(data) < CHI_SQUARE_1E6
        for place in range(width // 8):
            assert chi_square(words[:, place]) < CHI_SQUARE_1E6


@pytest.mark.parametrize("width", [16, 32])
def test_without_the_masks_the_same_test_fails(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def zeros(_self: prg.Keystream, buffer: memoryview, size: int) -> None:
        np.frombuffer(buffer, np.uint8)[:size] = 0

    def in_the_clear(vector: NDArray[Any], masks: Sequence[prg.Mask], offset: int = 0) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(prg.Keystream, "fill", zeros)
            prg.apply_masks(vector, masks, offset)

    monkeypatch.setattr(jobs, "apply_masks", in_the_clear)
    for data in slices_sent(width, 0):
        assert chi_square(data) > 10 * CHI_SQUARE_1E6


def test_each_layer_of_masks_alone_is_uniform_and_pads_are_shared_by_two_peers_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The self mask hides until the certificate; once the self seeds are out, the pairs' pads must do it alone."""
    group = simulate(4)
    layers: list[tuple[prg.Mask, ...]] = []

    def apply(vector: NDArray[Any], masks: Sequence[prg.Mask], offset: int = 0) -> None:
        if not offset and len(vector) == 40_001:
            layers.append(tuple(masks))
            for part in (masks[:1], masks[1:], masks[1:2]):
                masked = vector.copy()
                prg.apply_masks(masked, part)
                assert chi_square(masked.view(np.uint8)) < CHI_SQUARE_1E6
        prg.apply_masks(vector, masks, offset)

    monkeypatch.setattr(jobs, "apply_masks", apply)
    results(group.run([vector(np.zeros(40_000)) for _ in group.peers]))
    keys = Counter(mask.key for masks in layers for mask in masks)
    signs = {key: sum(mask.sign for masks in layers for mask in masks if mask.key == key) for key in keys}
    assert sorted(keys.values()) == [1] * 4 + [2] * 6  # a self mask a peer, and a pad a pair
    assert all(signs[key] == (1 if count == 1 else 0) for key, count in keys.items())


class Views:
    """Everything that each peer receives, byte for byte, in order."""

    def __init__(self, group: SimulatedGroup) -> None:
        self.seen: dict[PeerId, list[tuple[PeerId, Lane, bytes, tuple[bytes, ...]]]] = defaultdict(list)
        for me, transport in group.network._transports.items():
            transport._on_receive = partial(self._take, me, transport._on_receive)

    def _take(self, me: PeerId, then: Any, sender: PeerId, lane: Lane, header: bytes, parts: Sequence[Any]) -> None:
        self.seen[me].append((sender, lane, bytes(header), tuple(bytes(part) for part in parts)))
        then(sender, lane, header, parts)


def view_of_the_third(
    monkeypatch: pytest.MonkeyPatch, delta: NDArray[np.int64], pad: bytes
) -> tuple[list[Any], list[NDArray[Any]], list[set[bytes]], bytes]:
    """What peers 2 and 3 receive where peer 0 adds δ to its integers, peer 1 takes δ away, and so does their ``pad``.

    Also what each peer encoded, the keys of its masks, and the outcome's digest.
    """
    rng = np.random.default_rng(7)
    integers = [rng.integers(-900, 900, 500) for _ in range(4)]
    integers[0] = integers[0] + delta
    integers[1] = integers[1] - delta
    shown: dict[PeerId, NDArray[Any]] = {}
    group = simulate(4, seed=5, witness=lambda peer, _round, encoded: shown.update({peer: encoded.copy()}))
    tensors = [one.astype(np.float32) for one in integers]
    keys: list[set[bytes]] = [set() for _ in tensors]
    masking: list[int] = []

    def encode(update: Sequence[NDArray[np.float32]], *_args: object, out: NDArray[Any], **_more: object) -> Counts:
        out[:-1] = update[0].astype(np.int64).astype(out.dtype)
        out[-1] = 1
        masking.append(next(place for place, tensor in enumerate(tensors) if update[0] is tensor))
        return Counts(0, len(update[0]))

    def apply(vector: NDArray[Any], masks: Sequence[prg.Mask], offset: int = 0) -> None:
        prg.apply_masks(vector, masks, offset)
        if masking:  # otherwise an owner takes the self masks off a sum
            keys[masking.pop()].update(mask.key for mask in masks)
            for mask in masks:
                if mask.key == pad:  # its stream is less by δ, at both ends
                    vector[:-1] -= (mask.sign * delta).astype(vector.dtype)

    with monkeypatch.context() as patch:
        patch.setattr(jobs, "encode", encode)
        patch.setattr(jobs, "apply_masks", apply)
        views = Views(group)
        done = results(group.run([Vector([tensor], vector(tensor).specs) for tensor in tensors]))
    settle(group)
    return [views.seen[peer] for peer in ids(group)[2:]], [shown[peer] for peer in ids(group)], keys, done[0].digest


def test_a_third_peer_sees_the_same_bytes_whichever_way_two_others_split_their_sum(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    delta = np.random.default_rng(1).integers(-300, 300, 500)
    seen, shown, keys, digest = view_of_the_third(monkeypatch, np.zeros_like(delta), b"")
    (pad,) = keys[0] & keys[1]  # one pad is the pair's, and no third peer's
    assert pad not in keys[2] | keys[3]
    moved, moved_shown, moved_keys, moved_digest = view_of_the_third(monkeypatch, delta, pad)
    assert moved_keys == keys
    for place in (0, 1):
        assert not np.array_equal(shown[place], moved_shown[place])
    assert sum(len(messages) for messages in seen) > 50
    assert moved == seen
    assert moved_digest == digest
    bare, _, _, bare_digest = view_of_the_third(monkeypatch, delta, b"")
    assert bare != seen  # the capture does see a changed slice
    assert bare_digest != digest  # the sum is the same, and the outcome is bound to the slices it was made of


# ── error feedback and ranges ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("protocol", ["secagg", "allreduce", "mesh"])
def test_what_clipping_cuts_comes_with_the_next_update(protocol: str) -> None:
    group = simulate(3, protocol, protocol__width=32)
    residuals = [[np.zeros(3, np.float32)] for _ in group.peers]
    update = np.array([0.25, -0.25, 0.05], np.float32)
    vectors = [vector(update, residual=residual) for residual in residuals]
    first = results(group.run(list(vectors)))[0].values[0]
    assert np.allclose(first, [0.1, -0.1, 0.05], atol=1e-6)  # the charter's initial range
    assert all(np.allclose(residual[0], [0.15, -0.15, 0.0], atol=1e-6) for residual in residuals)
    silent = [vector(np.zeros(3), residual=residual) for residual in residuals]
    second = results(group.run(list(silent)))[0].values[0]  # the range has doubled: all of the rest fits
    assert np.allclose(second, [0.15, -0.15, 0.0], atol=1e-6)
    assert all(not residual[0].any() for residual in residuals)


def test_a_round_that_fails_before_masking_leaves_the_residual_alone() -> None:
    group = simulate(3)
    residuals = [[np.full(2, 0.5, np.float32)] for _ in group.peers]
    at(group.peers[1], "context", lambda _machine: kill(group.peers[1]))
    ended = play(group, [vector([9.0, 9.0], residual=residual) for residual in residuals], but=[1])
    assert [error.spent for error in errors(ended)] == [False, False]
    assert residuals[0][0].tolist() == residuals[2][0].tolist() == [0.5, 0.5]


@settings(max_examples=8)
@given(
    magnitudes=st.lists(st.sampled_from([0.0, 1e-5, 0.003, 0.02, 0.1, 7.0, 1e4]), min_size=2, max_size=6),
    seed=st.integers(0, 99),
)
def test_ranges_follow_the_last_certified_result_and_move_by_two_at_most(magnitudes: list[float], seed: int) -> None:
    group = simulate(3, seed=seed, protocol__width=32, protocol__range_bounds=[1e-3, 1.0])
    ranges, rng = (0.1, 0.1), np.random.default_rng(seed)
    for magnitude in magnitudes:
        vectors = [vector(rng.uniform(-1, 1, 5) * magnitude, np.zeros((0, 2))) for _ in group.peers]
        done = results(group.run(list(vectors)))
        peaks = [float(np.abs(value).max()) if value.size else 0.0 for value in done[0].values]
        expected = tuple(
            derive.next_range(current, peak, 1e-3, 1.0) for current, peak in zip(ranges, peaks, strict=True)
        )
        for peer in group.peers:
            assert peer.session.common.ranges(2) == expected
        assert all(0.5 <= now / before <= 2.0 for now, before in zip(expected, ranges, strict=True))
        assert all(1e-3 <= now <= 1.0 for now in expected)
        ranges = expected


@pytest.mark.parametrize("phase", ["context", "sum"])
def test_a_failed_round_changes_no_range(phase: str) -> None:
    group = simulate(4)
    results(play(group, small(group)))
    before = [peer.session.common.ranges(2) for peer in group.peers]
    last = [peer.session.last for peer in group.peers]
    at(group.peers[2], phase, lambda _machine: kill(group.peers[2]))
    assert len(errors(play(group, small(group), but=[2]))) == 3
    assert [peer.session.common.ranges(2) for peer in group.peers] == before
    assert [peer.session.last for peer in group.peers] == last
