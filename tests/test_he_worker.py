"""Workers: the same sums as in one process, in bounded memory; a worker's end is noticed, told and mended."""

from __future__ import annotations

import gc
import os
import select
import signal
import sys
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from decentra.crypto import he_worker
from decentra.crypto.he import frames, pool, process
from decentra.crypto.he.bfv import PUBLIC_BYTES
from decentra.crypto.he.ciphertexts import split
from decentra.crypto.he.frames import BLOCK, HEADER, NUMBER, SIZES, Ended, Kind
from decentra.crypto.he.keyholder import KeyHolder
from decentra.crypto.he.parameters import PARAMETERS
from decentra.crypto.he.pool import Pool
from decentra.crypto.he.process import Origin, Worker, WorkerLost
from decentra.crypto.he.slots import encode, limit, open_sum
from decentra.errors import LocalError, RemoteError
from decentra.types import PeerId

N = PARAMETERS.degree
HOLDER, ADDER = Origin(None, "KEY"), Origin(None, "ADDER")
BYTES = PARAMETERS.ciphertext_bytes
MOST_EXTRA = 64 << 20


def peer(index: int) -> Origin:
    return Origin(PeerId(bytes([index]) * 32), f"CIPHERTEXT-{index}")


@pytest.fixture(scope="module")
def holder() -> Iterator[KeyHolder]:
    with KeyHolder() as one:
        yield one


@pytest.fixture(scope="module")
def workers(holder: KeyHolder) -> Iterator[Pool]:
    """Started before any test, and for tests that cost no worker."""
    with Pool(2) as some:
        list(some.encrypt(holder.public, np.zeros(2 * BLOCK * N, dtype=np.uint32), HOLDER))
        yield some


@pytest.fixture
def own(holder: KeyHolder) -> Iterator[Pool]:
    """For tests that end workers."""
    with Pool(2) as some:
        list(some.encrypt(holder.public, np.zeros(2 * BLOCK * N, dtype=np.uint32), HOLDER))
        yield some


def gone(pid: int) -> bool:
    """Whether no such process is left, nor a zombie of it."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def pids(some: Pool) -> list[int]:
    return [worker.pid for worker in some._workers if worker is not None]


def ciphertext(some: Pool, holder: KeyHolder, values: NDArray[np.int64]) -> bytes:
    return b"".join(some.encrypt(holder.public, encode(values, 4, 28), HOLDER))


# ── what they are for ────────────────────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=8)
@given(n=st.integers(1, 6), d=st.sampled_from([1, N - 1, N, N + 1, 8 * N, 17 * N + 3]), seed=st.integers(0, 2**32 - 1))
def test_sums_through_workers_are_exact(workers: Pool, holder: KeyHolder, n: int, d: int, seed: int) -> None:
    rng, most = np.random.default_rng(seed), limit(n, 28)
    vectors = [rng.integers(-most, most + 1, d) for _ in range(n)]
    sent = [b"".join(workers.encrypt(holder.public, encode(x, n, 28), HOLDER)) for x in vectors]
    assert {len(one) for one in sent} == {PARAMETERS.batches(d) * BYTES}
    sums = workers.add(zip(*(split(one, d) for one in sent), strict=True), [peer(i) for i in range(n)])
    opened = holder.decrypt(sums, ADDER)
    total = open_sum(opened.residues, d, survivors=n, most=most, budget=opened.budget)
    assert np.array_equal(total, sum(vectors)) and opened.budget >= 15


def test_batches_come_back_in_their_order_whatever_the_pools_size(holder: KeyHolder) -> None:
    values = np.repeat(np.arange(43), N)
    for size in (1, 2, 3):
        with Pool(size) as some:
            parts = some.encrypt(holder.public, encode(values, 4, 28), HOLDER)
            assert np.array_equal(holder.decrypt(parts, ADDER).residues, values)
            assert len(pids(some)) == size


def test_a_pool_goes_from_one_key_to_the_next(workers: Pool, holder: KeyHolder) -> None:
    values = np.arange(3 * N)
    with KeyHolder() as other:
        for key in (holder, other, holder):
            opened = key.decrypt(workers.encrypt(key.public, encode(values, 4, 28), HOLDER), ADDER)
            assert np.array_equal(opened.residues, values) and opened.budget > 15
        foreign, good = (ciphertext(workers, key, np.arange(N)) for key in (other, holder))
        for parts in ([foreign, good], [good, foreign]):
            assert holder.decrypt(parts, ADDER).budget == 0, "the least of all"


def peak(pid: int) -> int:
    """The most memory that a process has had resident, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    raise AssertionError("the system tells no VmHWM")


def test_memory_stays_below_64_mib_beyond_input_and_output(holder: KeyHolder) -> None:
    """In this process beyond slots and one batch read at a time, and in each worker beyond its libraries."""
    d, n = 100 * N, 4
    with Pool(2) as some:
        for _ in some.encrypt(holder.public, np.zeros(2 * BLOCK * N, dtype=np.uint32), HOLDER):
            pass
        kept = some._workers[0]
        before = [peak(pid) for pid in pids(some)]
        residues = encode(np.arange(d) % 1000, n, 28)
        one = next(some.encrypt(holder.public, residues[:N], HOLDER))
        tracemalloc.start()
        try:
            for _ in some.encrypt(holder.public, residues, HOLDER):
                pass
            batches = ([one] * n for _ in range(d // N))
            for _ in some.add(batches, [peer(i) for i in range(n)]):
                pass
            here = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        grown = max(now - then for now, then in zip((peak(pid) for pid in pids(some)), before, strict=True))
        assert some._workers[0] is kept
    assert here + 2 * grown < MOST_EXTRA, (here, grown)
    assert here < 8 << 20 and grown < 16 << 20, "some blocks of 1 MiB, whatever d is"


# ── hostile bytes ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_malformed_ciphertext_names_its_contributor_and_the_pool_goes_on(own: Pool, holder: KeyHolder) -> None:
    good = ciphertext(own, holder, np.arange(N))
    origins, before = [peer(i) for i in range(4)], pids(own)
    high = np.frombuffer(good, dtype="<u8").copy()
    high[77] = PARAMETERS.moduli[0]
    for wrong, reason in (
        (high.tobytes(), "not below its modulus"),
        (bytes([255]) * BYTES, "not below its modulus"),
        (good[:-1], "131071"),
        (good + b"\0", "131073"),
        (b"", "this has 0"),
        (good * 9, str(9 * BYTES)),
    ):
        for place in (0, 2, 3):
            batch = [good] * 4
            batch[place] = wrong
            with pytest.raises(RemoteError, match=reason) as caught:
                list(own.add([[good] * 4, batch, [good] * 4], origins))
            assert (caught.value.peer, caught.value.clause) == origins[place]
            with pytest.raises(RemoteError, match=reason) as caught:
                holder.decrypt([good, wrong], ADDER)
            assert caught.value.clause == "ADDER"
    with pytest.raises(RemoteError) as caught:
        list(own.add([[good, high.tobytes(), high.tobytes(), good]], origins))
    assert caught.value.peer == origins[1].peer, "of two, the first"
    assert len(list(own.add([[good] * 4] * 3, origins))) == 3
    assert set(pids(own)) & set(before), "a refusal costs no worker by itself"


@settings(max_examples=40)
@given(cut=st.integers(0, BYTES), flips=st.lists(st.integers(0, BYTES * 8 - 1), max_size=4), more=st.binary(max_size=9))
def test_no_bytes_of_a_contributor_end_this_process(
    workers: Pool, holder: KeyHolder, cut: int, flips: list[int], more: bytes
) -> None:
    data = bytearray(BYTES)
    for bit in flips:
        data[bit // 8] ^= 1 << bit % 8
    hostile = bytes(data[:cut] + more)
    try:
        (total,) = workers.add([[hostile, bytes(BYTES)]], [peer(0), peer(1)])
    except RemoteError as fault:
        assert fault.peer == peer(0).peer
        return
    assert bytes(total) == hostile
    holder.decrypt([total], ADDER)


def test_a_malformed_public_key_names_its_holder(own: Pool, holder: KeyHolder) -> None:
    residues = np.zeros(N, dtype=np.uint32)
    foreign = bytes([holder.public[0] ^ 1]) + holder.public[1:]
    sham = holder.public[:32] + b"\x01\0\0\0\0\0\0\0" * (PARAMETERS.key_bytes // 8)
    for wrong, reason in (
        (foreign, "other parameters"),
        (holder.public[:-1], "262175"),
        (holder.public[:32] + bytes(PARAMETERS.key_bytes), "is 0"),
        (holder.public[:-8] + b"\xff" * 8, "not below its modulus"),
        (sham, "uniform"),
    ):
        with pytest.raises(RemoteError, match=reason) as caught:
            list(own.encrypt(wrong, residues, HOLDER))
        assert caught.value.clause == "KEY"
    assert len(list(own.encrypt(holder.public, residues, HOLDER))) == 1


# ── a worker's end ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_worker_that_is_killed_between_two_batches_is_replaced(own: Pool, holder: KeyHolder) -> None:
    values = np.arange(40 * N) % 1000
    parts = own.encrypt(holder.public, encode(values, 4, 28), HOLDER)
    got = [next(parts)]
    before = pids(own)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    got.extend(parts)
    assert np.array_equal(holder.decrypt(got, ADDER).residues, values)
    assert not set(before) & set(pids(own)) and all(gone(pid) for pid in before)
    good = bytes(got[0])
    for pid in pids(own):
        os.kill(pid, signal.SIGKILL)
    assert len(list(own.add([[good, good]] * 3, [peer(0), peer(1)]))) == 3


def test_work_that_ends_two_workers_is_told_with_whose_it_was_and_blames_nobody(
    own: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "NUMBER", _Lying())
    origins = [peer(0), peer(1)]
    with pytest.raises(WorkerLost, match="exit code 1") as caught:
        list(own.add([[bytes(BYTES)] * 2], origins))
    assert caught.value.origins == tuple(origins)
    assert isinstance(caught.value, LocalError) and not isinstance(caught.value, RemoteError)
    monkeypatch.undo()
    assert len(list(own.add([[bytes(BYTES)] * 2], origins))) == 1


class _Lying:
    """Announces more ciphertexts than a worker takes: it ends, as one would by a fault of the libraries."""

    def pack(self, number: int) -> bytes:
        return NUMBER.pack(number + 1000)


def test_a_worker_that_hangs_is_ended_at_its_deadline() -> None:
    with Pool(1, seconds=0.2) as some, pytest.MonkeyPatch.context() as patch:
        patch.setattr(process, "_ARGUMENTS", ("-c", "import signal; signal.pause()"))
        with pytest.raises(WorkerLost, match="did not answer in time"):
            list(some.add([[bytes(BYTES)]], [peer(0)]))


def test_a_key_goes_with_its_process() -> None:
    one = KeyHolder()
    assert len(one.public) == PUBLIC_BYTES
    worker = one._worker
    assert worker is not None
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(WorkerLost, match=r"SIGKILL.*its key is gone.*the round fails"):
        one.decrypt([bytes(BYTES)], ADDER)
    assert gone(worker.pid)
    with pytest.raises(LocalError, match="was erased"):
        one.decrypt([bytes(BYTES)], ADDER)
    with KeyHolder() as other:
        worker = other._worker
        assert worker is not None and not gone(worker.pid)
        with pytest.raises(LocalError, match="no ciphertext to open"):
            other.decrypt([], ADDER)
    assert gone(worker.pid)
    other.erase()


def test_no_two_keys_are_alike(holder: KeyHolder) -> None:
    with KeyHolder() as other:
        assert other.public != holder.public and other.public[:32] == holder.public[:32]


def test_workers_end_with_their_pool_and_when_it_is_forgotten(holder: KeyHolder) -> None:
    with Pool(2) as some:
        list(some.encrypt(holder.public, np.zeros(2 * BLOCK * N, dtype=np.uint32), HOLDER))
        started = pids(some)
        assert len(started) == 2
    assert all(gone(pid) for pid in started) and not pids(some)
    worker = Worker()
    pid = worker.pid
    del worker
    gc.collect()
    assert gone(pid)


def test_answers_that_nobody_waits_for_any_more_are_no_answers_to_the_next(holder: KeyHolder) -> None:
    with Pool(2) as some:
        parts = some.encrypt(holder.public, encode(np.arange(5 * BLOCK * N), 4, 28), HOLDER)
        next(parts)
        with pytest.raises(LocalError, match="still at work"):
            next(some.add([[bytes(BYTES)]], [peer(0)]))
        parts.close()  # type: ignore[attr-defined]
        again = np.arange(2 * BLOCK * N)[::-1].copy()
        opened = holder.decrypt(some.encrypt(holder.public, encode(again, 4, 28), HOLDER), ADDER)
        assert np.array_equal(opened.residues, again)


def test_what_this_peer_asks_wrongly_is_its_own_mistake(workers: Pool, holder: KeyHolder) -> None:
    with pytest.raises(LocalError, match="at least one worker"):
        Pool(0)
    with pytest.raises(LocalError, match="1 to 64 contributors"):
        workers.add([], [])
    with pytest.raises(LocalError, match="1 to 64 contributors"):
        workers.add([], [peer(0)] * 65)
    with pytest.raises(LocalError, match="give one of each"):
        list(workers.add([[bytes(BYTES)]], [peer(0), peer(1)]))
    with pytest.raises(LocalError, match="whole ciphertexts"):
        workers.encrypt(holder.public, np.zeros(5, dtype=np.uint32), HOLDER)


def test_without_tenseal_no_worker_starts_and_the_pip_line_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tenseal", None)
    for call in (KeyHolder, Worker, lambda: list(Pool().add([[bytes(BYTES)]], [peer(0)]))):
        with pytest.raises(LocalError, match=r"tenseal is not installed: pip install 'decentra\[he\]'"):
            call()  # type: ignore[operator]


def test_a_worker_reports_what_its_machine_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking() -> None:
        raise LocalError("nothing works here")

    monkeypatch.setattr(he_worker, "Key", lacking)
    assert he_worker.Desk(0).answer(Kind.KEY, bytearray()) == (Kind.FAILED, (b"nothing works here",))


# ── frames ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    inward, outward = os.pipe()
    yield inward, outward
    for descriptor in (inward, outward):
        try:
            os.close(descriptor)
        except OSError:
            continue


@given(st.sampled_from([kind for kind in Kind if SIZES[kind][0] < 60_000]), st.data())
def test_frames_come_out_as_they_went_in(kind: Kind, data: st.DataObject) -> None:
    inward, outward = os.pipe()
    try:
        lengths = [length for length in SIZES[kind] if length < 60_000]  # an empty pipe holds 65,536 bytes
        payload = bytes(data.draw(st.sampled_from(lengths)))
        frames.write(outward, kind, payload[:3], payload[3:], deadline=time.monotonic() + 60)
        assert frames.read(inward, deadline=time.monotonic() + 60) == (kind, payload)
        os.close(outward)
        outward = -1
        assert frames.read(inward) is None
    finally:
        for descriptor in (inward, outward):
            if descriptor >= 0:
                os.close(descriptor)


@pytest.mark.parametrize(
    "noise",
    [
        HEADER.pack(2**32 - 1, Kind.CIPHERTEXT),
        HEADER.pack(BYTES + 1, Kind.CIPHERTEXT),
        HEADER.pack(0, Kind.CIPHERTEXT),
        HEADER.pack(1, Kind.DONE),
        HEADER.pack(3, Kind.REFUSED),
        HEADER.pack(9 * BYTES, Kind.CIPHERTEXT),
        HEADER.pack(PARAMETERS.slot_bytes + 4, Kind.ENCRYPT),
        HEADER.pack(2000, Kind.FAILED),
        HEADER.pack(0, 0),
        HEADER.pack(0, 200),
        b"\x01",
        HEADER.pack(4, Kind.ADD),
        HEADER.pack(4, Kind.ADD) + b"\0\0",
    ],
)
def test_what_is_no_frame_is_refused_before_anything_is_allocated(pipe: tuple[int, int], noise: bytes) -> None:
    inward, outward = pipe
    os.write(outward, noise)
    os.close(outward)
    with pytest.raises(Ended):
        frames.read(inward)


def test_no_wait_is_longer_than_its_deadline(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float | None] = []

    class Poll:
        def register(self, descriptor: int, event: int) -> None:
            assert (descriptor, event) in ((pipe[0], select.POLLIN), (pipe[1], select.POLLOUT))

        def poll(self, milliseconds: float | None) -> list[tuple[int, int]]:
            waited.append(milliseconds)
            return []

    for descriptor in pipe:
        os.set_blocking(descriptor, False)
    monkeypatch.setattr(select, "poll", Poll)
    monkeypatch.setattr(time, "monotonic", lambda: 10.0)
    with pytest.raises(Ended, match="in time"):
        frames.read(pipe[0], deadline=10.5)
    with pytest.raises(Ended, match="in time"):
        frames.write(pipe[1], Kind.CIPHERTEXT, bytes(BYTES * 8), deadline=9.0)
    assert waited == [500.0, 0.0]


def test_a_worker_that_says_what_it_was_not_asked_is_ended(holder: KeyHolder) -> None:
    worker = Worker()
    worker.send(((Kind.ADD, NUMBER.pack(1)), (Kind.CIPHERTEXT, bytes(BYTES))))
    with pytest.raises(Ended, match="answered CIPHERTEXT instead of DONE"):
        worker.receive(Kind.DONE, 0, ())
    assert gone(worker.pid)
    worker = Worker()
    worker.send(((Kind.ADD, NUMBER.pack(1)), (Kind.CIPHERTEXT, bytes(BYTES))))
    with pytest.raises(Ended, match="or of another size"):
        worker.receive(Kind.CIPHERTEXT, 2 * BYTES, ())
    worker = Worker()
    worker.send(((Kind.ADD, NUMBER.pack(1)), (Kind.CIPHERTEXT, b"\xff" * BYTES)))
    with pytest.raises(Ended, match="what it wasn't asked for"):
        worker.receive(Kind.CIPHERTEXT, BYTES, ())
    assert gone(worker.pid)


@pytest.mark.parametrize(
    "request_",
    [
        ((Kind.ENCRYPT, bytes(PARAMETERS.slot_bytes)),),
        ((Kind.DECRYPT, bytes(BYTES)),),
        ((Kind.CIPHERTEXT, bytes(BYTES)),),
        ((Kind.ADD, NUMBER.pack(0)),),
        ((Kind.ADD, NUMBER.pack(65)),),
        ((Kind.ADD, NUMBER.pack(1)), (Kind.KEY, b"")),
    ],
)
def test_a_request_that_is_never_made_ends_a_worker(request_: process.Request) -> None:
    worker = Worker()
    worker.send(request_)
    with pytest.raises(Ended, match="exit code 1"):
        worker.receive(Kind.CIPHERTEXT, BYTES, (ADDER,))
    assert gone(worker.pid)


def test_a_worker_makes_one_key_only() -> None:
    worker = Worker()
    worker.send(((Kind.KEY, b""),))
    assert len(worker.receive(Kind.PUBLIC, PUBLIC_BYTES, ())) == PUBLIC_BYTES
    with pytest.raises(Ended):
        worker.send(((Kind.KEY, b""),))
        worker.receive(Kind.PUBLIC, PUBLIC_BYTES, ())


def test_a_worker_writes_no_files_dumps_no_core_and_has_bounded_memory() -> None:
    worker = Worker()
    worker.send(((Kind.ADD, NUMBER.pack(1)), (Kind.CIPHERTEXT, bytes(BYTES))))
    worker.receive(Kind.CIPHERTEXT, BYTES, (ADDER,))
    told = Path(f"/proc/{worker.pid}/limits").read_text().splitlines()
    limits = {line[:25].strip(): line[25:].split()[:2] for line in told[1:]}
    assert limits["Max core file size"] == limits["Max file size"] == ["0", "0"]
    assert max(map(int, limits["Max address space"])) < 4 << 30
    worker.close()


def test_a_worker_ends_when_its_pipe_does() -> None:
    worker = Worker()
    ended = os.pidfd_open(worker.pid)
    inner = worker._process
    assert inner.stdin is not None
    inner.stdin.close()
    assert select.select([ended], [], [], 60)[0], "it reads the end of its pipe, and exits"
    assert inner.wait() == 0
    os.close(ended)
