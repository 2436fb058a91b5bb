"""The parts of the demo that need no peer: silos, model, training loop, leak check."""

from __future__ import annotations

import copy
import io
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from decentra.crypto.shares.field61 import from_signed
from decentra.demo import leak, silos, smollm2, train
from decentra.demo.leak import DISTINCT, WINDOW, Sought
from decentra.demo.model import CONTEXT, ByteGPT
from decentra.demo.silos import Silo
from decentra.demo.task import recipe
from decentra.errors import LocalError

torch.set_num_threads(1)

# The leak check.


def naive_windows(vector: NDArray[np.uint16] | NDArray[np.uint32]) -> list[bytes]:
    data = b"".join(int(element).to_bytes(vector.dtype.itemsize, "little") for element in vector)
    cut = [data[at : at + WINDOW] for at in range(0, len(data) - WINDOW + 1, WINDOW)]
    return [window for window in cut if len(set(window)) >= DISTINCT]


def random_update(seed: int, elements: int, dtype: str = "uint16") -> NDArray[np.uint16]:
    bound = np.iinfo(dtype).max
    vector: NDArray[np.uint16] = np.random.default_rng(seed).integers(0, bound, elements, dtype=dtype)
    return vector


def rows_of(*rows: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(rows), np.uint8).reshape(-1, WINDOW)


@st.composite
def vectors(draw: st.DrawFn) -> NDArray[np.uint16] | NDArray[np.uint32]:
    """Vectors of few and of many different bytes, so that windows fall on both sides of the rule."""
    dtype = draw(st.sampled_from(["uint16", "uint32", ">u2"]))
    top = draw(st.sampled_from([1, 5, 300, 2**16 - 1]))
    values = draw(st.lists(st.integers(0, top), max_size=100))
    return np.array(values, dtype=dtype)


@given(vectors())
def test_windows_are_those_of_the_little_endian_bytes_with_eight_distinct(
    vector: NDArray[np.uint16] | NDArray[np.uint32],
) -> None:
    assert [row.tobytes() for row in leak.windows(vector)] == naive_windows(vector)


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_eight_distinct_bytes_are_enough_wherever_they_stand_and_seven_are_not(dtype: str) -> None:
    for place in ("first", "last", "spread"):
        for distinct, expected in ((7, 0), (8, 1)):
            order = {"first": np.arange(WINDOW), "last": -np.arange(WINDOW), "spread": np.arange(WINDOW) // 4}[place]
            data = np.clip(order, -distinct + 1, distinct - 1).astype(np.uint8)
            assert len(leak.windows(data.view(dtype))) == expected


@given(
    st.lists(st.binary(min_size=WINDOW, max_size=WINDOW), max_size=8),
    st.lists(st.one_of(st.binary(max_size=80), st.integers(0, 7)), max_size=12),
    st.booleans(),
)
def test_search_finds_what_bytes_find_would(rows: list[bytes], pieces: list[bytes | int], repeat: bool) -> None:
    if repeat:
        rows = rows * 2  # equal windows are found together
    received = b"".join(piece if isinstance(piece, bytes) else b"".join(rows[piece : piece + 1]) for piece in pieces)
    sought = Sought(rows_of(*rows))
    assert sought.find(received).tolist() == [row in received for row in rows]
    assert sought.search(memoryview(received)) == sum(row in received for row in rows)


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.integers(0, 3000), st.integers(0, 400_000), st.sampled_from(["uint16", "uint32"]))
def test_any_63_contiguous_bytes_of_an_update_are_found_at_any_offset(seed: int, cut: int, at: int, dtype: str) -> None:
    update = random_update(seed, 2000, dtype)
    leaked = update.tobytes()[cut : cut + 63]
    noise = np.random.default_rng(seed + 1).bytes(at) if at < 5000 else bytes(at)
    sought = Sought(leak.windows(update))
    assert sought.search(noise + leaked + b"the end") >= 1
    assert sought.search(noise + leaked[: WINDOW - 1] + b"the end") == 0


def test_windows_that_share_a_hash_are_each_compared() -> None:
    # Both differ in the top bits of two words, which odd multipliers cannot tell apart modulo 2^64.
    window = bytearray(range(WINDOW))
    twin = bytearray(window)
    twin[7] ^= 0x80
    twin[15] ^= 0x80
    sought = Sought(rows_of(bytes(window), bytes(twin)))
    assert sought._keys[0] == sought._keys[1], "the test's premise: equal hashes"
    assert sought.find(bytes(twin)).tolist() == [False, True]
    assert sought.find(bytes(window)).tolist() == [True, False]
    assert sought.find(bytes(window + twin)).tolist() == [True, True]


def test_a_window_across_two_chunks_of_the_search_is_found() -> None:
    rows = leak.windows(random_update(1, 16 * 40))
    sought = Sought(rows)
    for start in range(leak._CHUNK - 40, leak._CHUNK + 9):
        received = bytes(start) + rows[7].tobytes() + bytes(50)
        assert np.flatnonzero(sought.find(received)).tolist() == [7]


@pytest.mark.parametrize(
    "wrong", [np.zeros(64, np.float32), np.zeros((8, 8), np.uint16), np.zeros(64, np.int16), np.zeros(64, np.uint8)]
)
def test_what_is_not_a_ring_vector_is_refused(wrong: NDArray[np.uint16]) -> None:
    with pytest.raises(LocalError, match="uint16, uint32 or uint64"):
        leak.windows(wrong)


@given(st.lists(st.lists(st.binary(max_size=50), max_size=4), max_size=6))
def test_a_capture_gives_back_what_was_written(messages: list[list[bytes]]) -> None:
    file = io.BytesIO()
    for frames in messages:
        leak.write_record(file, [memoryview(frame) for frame in frames])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, leak.CAPTURE)
        path.write_bytes(file.getvalue())
        assert list(leak.read_capture(path)) == [b"".join(frames) for frames in messages]


def write_run(root: Path, masked: bool, rounds: int = 2, peers: int = 3) -> list[Path]:
    """A run of reduce-scatter: each peer receives its slice of each other's update, masked or in the clear."""
    folders = [root / str(peer) for peer in range(peers)]
    for folder in folders:
        folder.mkdir()
    elements = 3 * 16 * 400
    for number in range(rounds):
        updates = [random_update(peers * number + peer, elements) for peer in range(peers)]
        for to, folder in enumerate(folders):
            np.save(folder / f"update-{number}.npy", updates[to])
            own_slice = slice(to * elements // peers, (to + 1) * elements // peers)
            with (folder / leak.CAPTURE).open("ab") as file:
                for sender, update in enumerate(updates):
                    mask = random_update(1000 + 100 * number + 10 * to + sender, elements) if masked else 0
                    if sender != to:
                        leak.write_record(file, [b"entry", (update + mask)[own_slice].data])
    return folders


def test_updates_in_the_clear_are_found_by_the_check(tmp_path: Path) -> None:
    result = leak.check(write_run(tmp_path, masked=False))
    # Of each update a peer keeps a third for itself and sends two thirds.
    assert result.windows == pytest.approx(2 * 3 * 1200, abs=5)
    assert result.found == pytest.approx(result.windows * 2 / 3, abs=5)
    assert result.planted == 3


def test_masked_updates_are_not_found_but_planted_windows_are(tmp_path: Path) -> None:
    result = leak.check(write_run(tmp_path, masked=True))
    assert (result.found, result.planted) == (0, 3)


def test_one_window_of_an_earlier_round_in_another_peers_traffic_is_found(tmp_path: Path) -> None:
    folders = write_run(tmp_path, masked=True)
    window = leak.windows(np.load(folders[0] / "update-0.npy"))[5].tobytes()
    with (folders[2] / leak.CAPTURE).open("ab") as file:  # cut between two frames
        leak.write_record(file, [b"odd", window[:13]])
        leak.write_record(file, [window[13:]])
    assert leak.check(folders).found == 1


def test_an_update_sent_as_elements_of_a_field_is_found_where_it_is_sought_as_such(tmp_path: Path) -> None:
    folders = write_run(tmp_path, masked=True)
    update = np.random.default_rng(5).integers(-(2**24), 2**24, 4000).astype(np.int32)
    np.save(folders[0] / "update-0.npy", update.view(np.uint32))
    with (folders[2] / leak.CAPTURE).open("ab") as file:
        leak.write_record(file, [from_signed(update).tobytes()])
    assert leak.check(folders).found == 0
    assert leak.check(folders, shared=True).found == 1000


def test_what_a_peer_receives_of_its_own_update_is_no_leak(tmp_path: Path) -> None:
    folders = write_run(tmp_path, masked=True)
    with (folders[0] / leak.CAPTURE).open("ab") as file:
        leak.write_record(file, [np.load(folders[0] / "update-0.npy").tobytes()])
    assert leak.check(folders).found == 0


def save_zeros(path: Path) -> Path:
    np.save(path, np.zeros(99, np.uint16))
    return path


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / leak.CAPTURE).unlink(), "cannot be read"),
        (lambda folder: (folder / leak.CAPTURE).write_bytes(b""), "cannot hold a window"),
        (lambda folder: (folder / leak.CAPTURE).write_bytes(b"\x05\x00\x00\x00four"), "ends inside a record"),
        (lambda folder: (folder / leak.CAPTURE).write_bytes(b"\x05\x00"), "ends inside a record"),
        (lambda folder: [path.unlink() for path in folder.glob(leak.UPDATES)], "nothing to seek"),
        (lambda folder: (folder / "update-0.npy").write_bytes(b"no array"), "cannot be read"),
        (lambda folder: [save_zeros(path) for path in folder.glob(leak.UPDATES)], "no window"),
    ],
)
def test_a_check_that_would_prove_nothing_is_refused(
    tmp_path: Path, spoil: Callable[[Path], object], message: str
) -> None:
    folders = write_run(tmp_path, masked=True)
    assert leak.check(folders).found == 0
    spoil(folders[1])
    with pytest.raises(LocalError, match=message):
        leak.check(folders)


# The silos.


@pytest.fixture(scope="module")
def numpy_silo() -> Silo:
    return silos.load("numpy")


@given(st.integers(3, silos.MAX_PEERS))
def test_every_peer_has_a_silo_of_its_own(peers: int) -> None:
    names = silos.silo_names(peers)
    assert len(names) == len(set(names)) == peers
    if peers <= 5:
        assert names == ("stdlib", "torch", "numpy", "tools", "pydoc")[:peers]


@pytest.mark.parametrize("peers", [-1, 0, 2, 17])
def test_too_few_and_too_many_peers_are_refused(peers: int) -> None:
    with pytest.raises(LocalError, match=f"asked for {peers}"):
        silos.silo_names(peers)


@pytest.mark.parametrize("name", ["nunpy", "numpy-4of3", "numpy-0of3", "numpy-1of99", "numpy-1of2/..", ""])
def test_an_unknown_silo_is_refused(name: str) -> None:
    with pytest.raises(LocalError, match="there is no silo"):
        silos.load(name)


def test_about_a_tenth_of_a_silo_is_held_out(numpy_silo: Silo) -> None:
    assert len(numpy_silo.train) > 500_000
    assert 0.05 < len(numpy_silo.held_out) / len(numpy_silo.train) < 0.15
    assert b"ndarray" in numpy_silo.train


def test_parts_of_a_silo_are_disjoint_and_make_up_the_whole() -> None:
    whole, parts = silos.load("tools"), [silos.load(f"tools-{part}of3") for part in (1, 2, 3)]
    for field in ("train", "held_out"):
        paragraphs = [Counter(getattr(part, field).split(b"\n\n")) for part in parts]
        assert sum(paragraphs, Counter()) == Counter(getattr(whole, field).split(b"\n\n"))
        assert min(len(getattr(part, field)) for part in parts) > len(getattr(whole, field)) / 12


def test_texts_count_once_and_what_is_held_out_is_trained_on_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"Text {number}:\n\n" + f"    word{number} and more of it\n" * 60 for number in range(200)]
    for package, some in (("one", texts[:150]), ("two", texts[100:])):
        folder = tmp_path / package / "deep"
        (folder / "tests").mkdir(parents=True)
        (folder / "__init__.py").write_text("\n".join(repr(text) for text in some + some))
        (folder / "tests" / "test_it.py").write_text(repr("Of tests\n" * 100))
        (folder / "broken.py").write_text(repr("Of broken files\n" * 100) + ")")
        (folder / "short.py").write_text(repr("Short\n\n") + "\n" + repr("One line " * 20))
        (folder.parent / "__init__.py").write_text("raise SystemExit('a silo was imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(silos, "_SOURCES", {name: (silos._Source(name, "pip"),) for name in ("one", "two")})
    one, two = silos.load("one"), silos.load("two")
    for silo, some in ((one, texts[:150]), (two, texts[100:])):
        both = silo.train + silo.held_out
        assert [both.count(f"Text {number}:\n".encode()) for number in range(200)] == [text in some for text in texts]
        assert all(strange not in both for strange in (b"Of tests", b"Of broken", b"Short", b"One line"))
    held = [number for number in range(200) if f"Text {number}:".encode() in one.held_out + two.held_out]
    assert 5 < len(held) < 40
    assert all(f"Text {number}:\n".encode() not in one.train + two.train for number in held)


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    source = silos._Source("no_such_torch", "pip install 'decentra[torch]'")
    monkeypatch.setattr(silos, "_SOURCES", {"torch": (source,)})
    with pytest.raises(LocalError, match=r"no_such_torch, which is not installed; pip install 'decentra\[torch\]'"):
        silos.load("torch")


def test_a_package_without_documentation_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "__init__.py").write_text("x = 1")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(silos, "_SOURCES", {"bare": (silos._Source("bare", "pip install bare"),)})
    with pytest.raises(LocalError, match="only 0 bytes of text"):
        silos.load("bare")


def test_the_torch_silo_is_read_without_importing_torch() -> None:
    program = (
        "import sys; from decentra.demo import leak, silos; silo = silos.load('torch');"
        "assert len(silo.train) > 300_000, len(silo.train); assert 'torch' not in sys.modules"
    )
    source = str(Path(silos.__file__).parents[2])
    subprocess.run([sys.executable, "-c", program], check=True, env={"PYTHONPATH": source}, timeout=60)


# The model and its training.


def test_equal_seeds_give_equal_models_whatever_was_drawn_before() -> None:
    first = ByteGPT(7)
    torch.rand(5)
    again, other = ByteGPT(7), ByteGPT(8)
    assert all(torch.equal(x, y) for x, y in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.head.weight, other.head.weight)
    assert first.head.weight.std().item() == pytest.approx(0.1, rel=0.05)
    assert 1_100_000 < sum(parameter.numel() for parameter in first.parameters()) < 1_200_000


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, CONTEXT), st.data())
def test_the_model_does_not_look_ahead(seed: int, length: int, data: st.DataObject) -> None:
    change = data.draw(st.integers(0, length - 1))
    tokens = torch.randint(256, (2, length), generator=torch.Generator().manual_seed(seed))
    changed = tokens.clone()
    changed[:, change] = (changed[:, change] + 1) % 256
    model = ByteGPT(0)
    before, after = model(tokens), model(changed)
    assert before.shape == (2, length, 256)
    assert torch.allclose(before[:, :change], after[:, :change], atol=1e-4)
    assert not torch.allclose(before[:, change], after[:, change], atol=1e-4)


@torch.no_grad()
def test_the_input_sums_the_embeddings_of_the_last_four_bytes() -> None:
    model = ByteGPT(0)
    for name, parameter in model.named_parameters():
        if "project" in name or "narrow" in name:
            parameter.zero_()  # layers that add nothing: what a position sees is its input
    tokens = torch.randint(256, (1, 20), generator=torch.Generator().manual_seed(0))
    for change in range(20):
        changed = tokens.clone()
        changed[0, change] ^= 1
        differs = (model(tokens) != model(changed)).any(dim=2)[0]
        assert differs.nonzero().flatten().tolist() == list(range(20))[change : change + 4]


def test_batches_are_windows_of_the_text_and_follow_the_seed() -> None:
    text = np.random.default_rng(0).bytes(1000)
    first, again, other = (train.batches(text, seed) for seed in (1, 1, 2))
    for _ in range(20):
        batch = next(first)
        assert batch.shape == (train.BATCH, CONTEXT + 1)
        assert all(bytes(row.tolist()) in text for row in batch)
        assert torch.equal(batch, next(again))
        assert not torch.equal(batch, next(other))


def test_the_only_window_of_the_shortest_text_is_every_batch() -> None:
    text = bytes(range(CONTEXT + 1))
    assert next(train.batches(text, 0)).tolist() == [list(text)] * train.BATCH


def test_a_text_shorter_than_a_window_is_refused() -> None:
    with pytest.raises(LocalError, match="shorter than one window"):
        next(train.batches(bytes(CONTEXT), 0))
    with pytest.raises(LocalError, match="shorter than one window"):
        train.held_out_loss(ByteGPT(0), bytes(CONTEXT))


def test_the_schedule_warms_up_and_falls_to_a_tenth() -> None:
    model = torch.nn.Linear(1, 1)
    optimizer = train.make_optimizer(model)
    schedule = train.make_schedule(optimizer, train.STEPS)
    rates = []
    for _ in range(train.STEPS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[0] == pytest.approx(train.RATE / train.WARM_UP)
    assert rates[train.WARM_UP - 1] == rates[train.WARM_UP] == max(rates) == train.RATE
    assert rates[train.WARM_UP :] == sorted(rates[train.WARM_UP :], reverse=True)
    assert rates[-1] == pytest.approx(train.RATE / 10, rel=0.01)
    assert train.inner_rate_sum(40, 20, train.STEPS) == pytest.approx(sum(rates[40:60]))


class Certain(torch.nn.Module):
    """Expects each byte to be one more than the last, with a known probability."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return torch.log(torch.nn.functional.one_hot((tokens + 1) % 256, 256) * 0.5 + 0.5 / 256)


@given(st.integers(CONTEXT + 1, 6 * CONTEXT), st.integers(1, 10))
@settings(max_examples=25)
def test_held_out_loss_is_the_mean_over_the_windows(length: int, windows: int) -> None:
    text = bytes(i % 256 for i in range(length))
    certain = -np.log(0.5 + 0.5 / 256)
    assert train.held_out_loss(Certain(), text, windows) == pytest.approx(certain, rel=1e-5)
    # All of the second half is a surprise: only the windows there pay for it.
    count = (length - 1) // CONTEXT
    half = count // 2
    strange = text[: half * CONTEXT + 1] + bytes(length - half * CONTEXT - 1)
    surprise = -np.log(0.5 / 256)
    per_window = [train.held_out_loss(Certain(), strange[at * CONTEXT :][: CONTEXT + 1]) for at in range(count)]
    assert per_window[:half] == pytest.approx([certain] * half, rel=1e-5)
    assert per_window[half + 1 :] == pytest.approx([surprise] * (count - half - 1), rel=1e-5)
    assert train.held_out_loss(Certain(), strange, count) == pytest.approx(np.mean(per_window), rel=1e-5)


def test_measuring_changes_neither_the_model_nor_its_mode() -> None:
    model = ByteGPT(0)
    before = copy.deepcopy(model.state_dict())
    text = bytes(range(256)) * 4
    assert train.held_out_loss(model, text, windows=2) == train.held_out_loss(model, text, windows=2)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_gradient_is_clipped_before_the_step() -> None:
    model = ByteGPT(0)
    optimizer = train.make_optimizer(model)
    norms: list[float] = []
    optimizer.register_step_pre_hook(
        lambda *_: norms.append(
            torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm().item()
        )
    )
    batch = next(train.batches(bytes(range(256)) * 2, 0))
    train.train_step(model, optimizer, train.make_schedule(optimizer, 10), batch)
    assert norms == [pytest.approx(train.CLIP, rel=1e-3)]


def test_a_few_steps_alone_lower_the_held_out_loss_and_repeat_to_the_bit(tmp_path: Path, numpy_silo: Silo) -> None:
    (tmp_path / "held-out").mkdir()
    (tmp_path / "held-out" / "numpy.txt").write_bytes(numpy_silo.held_out[: 8 * CONTEXT + 1])
    tasks = [train.ByteTask("numpy", tmp_path, 3) for _ in range(2)]
    assert [(dict(task.held_out), task.shared) for task in tasks] == [({"numpy": 8}, ("numpy",))] * 2
    before = list(tasks[0].losses("numpy"))
    steps = [list(islice(task.steps(0, 12), 12)) for task in tasks]
    after = [list(task.losses("numpy")) for task in tasks]
    assert (steps[0], after[0]) == (steps[1], after[1])
    assert len(before) == len(after[0]) == 8 and np.mean(before) > 5.5
    assert np.mean(after[0]) < np.mean(before) - 1.5


def test_a_task_begun_later_takes_the_batches_of_those_steps(tmp_path: Path) -> None:
    (tmp_path / "held-out").mkdir()
    task, late = (train.ByteTask("tools", tmp_path, 3) for _ in range(2))
    whole = task.steps(0, 12)
    for _ in islice(whole, 4):
        pass
    late.model.load_state_dict(task.model.state_dict())
    assert next(late.steps(4, 12)) == next(whole)


def test_a_recipes_range_holds_what_adam_may_move_in_its_steps() -> None:
    assert recipe("bytes").initial_range == pytest.approx(1.05 * train.RATE * recipe("bytes").local_steps)
    assert recipe("smollm2").initial_range == pytest.approx(1.05 * smollm2.RATE * recipe("smollm2").local_steps)
    assert (recipe("bytes").rounds, recipe("bytes").local_steps) == (train.ROUNDS, train.LOCAL_STEPS)
    with pytest.raises(LocalError, match="no model 'gpt'; choose --model bytes or smollm2"):
        recipe("gpt")
