"""Encrypted sums: exact, padded with zeros, with noise budget to spare; and what is malformed is refused."""

from __future__ import annotations

import contextlib
import sys

import numpy as np
import pytest
import tenseal
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from decentra.crypto.he import bfv, seal_format
from decentra.crypto.he.bfv import PUBLIC_BYTES, Encryptor, Key, check_public
from decentra.crypto.he.ciphertexts import MAX_SUMMANDS, Sum, digest_of, parse, split
from decentra.crypto.he.parameters import PARAMETERS, Malformed, Parameters
from decentra.crypto.he.slots import WIDTHS, Unsound, centred, check_residues, encode, limit, open_sum
from decentra.errors import LocalError
from lattice import back, batch_order, transform

N, Q, T = PARAMETERS.degree, PARAMETERS.moduli[0], PARAMETERS.plain_modulus
SEEDS = st.integers(0, 2**32 - 1)
SIZES = st.integers(1, 40) | st.sampled_from([N - 1, N, N + 1])


@pytest.fixture(scope="module")
def key() -> Key:
    return Key()


@pytest.fixture(scope="module")
def encryptor(key: Key) -> Encryptor:
    return Encryptor(key.public)


def vector(seed: int, d: int, most: int) -> NDArray[np.int64]:
    """Any integers within ±most, the ends well represented."""
    rng = np.random.default_rng(seed)
    values = rng.integers(-most, most + 1, d)
    return np.where(rng.random(d) < 0.2, np.sign(values) * most, values)


def words_of(data: bytes | bytearray | memoryview) -> NDArray[np.uint64]:
    return np.frombuffer(data, dtype="<u8").reshape(2, N).copy()


# ── slots ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_parameters_are_what_they_are_said_to_be() -> None:
    def prime(number: int) -> bool:
        # Miller and Rabin with the bases that decide below 3.3e24 (Sorenson and Webster 2015).
        odd, twos = number - 1, 0
        while odd % 2 == 0:
            odd, twos = odd // 2, twos + 1
        return all(
            pow(a, odd, number) == 1 or any(pow(a, odd << k, number) == number - 1 for k in range(twos))
            for a in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41)
        )

    for modulus in (*PARAMETERS.moduli, T):
        assert prime(modulus) and modulus % (2 * N) == 1
    assert not any(prime(larger) for larger in range(T + 2 * N, 2**32, 2 * N)), "the largest below 2^32"
    assert [modulus.bit_length() for modulus in PARAMETERS.moduli] == list(PARAMETERS.modulus_bits)
    assert 2**PARAMETERS.range_bits * 2 * 16 == 2**32, "the whole range of a sum is a sixteenth of the slots' range"
    # What charters and public keys hold them by: another hash is another protocol.
    assert PARAMETERS.digest.hex() == "61102298592a3ac9bb23b6db70c232507984cbf0da312236a3b91d268d0f9469"


@given(n=st.integers(1, MAX_SUMMANDS), width=st.sampled_from(WIDTHS), seed=SEEDS, d=SIZES)
def test_integers_come_back_from_their_slots(n: int, width: int, seed: int, d: int) -> None:
    most = limit(n, width)
    values = vector(seed, d, most)
    residues = encode(values, n, width)
    assert residues.size == PARAMETERS.batches(d) * N and not residues[d:].any()
    assert np.array_equal(residues[:d], values % T)
    assert np.array_equal(centred(residues)[:d], values)
    assert np.array_equal(open_sum(residues, d, survivors=1, most=most, budget=9), values)


@given(st.lists(st.integers(0, T - 1), min_size=1, max_size=20))
@example([0, 1, T // 2 - 1, T // 2, T // 2 + 1, T - 1])
def test_slots_read_as_the_integers_nearest_to_zero(residues: list[int]) -> None:
    expected = [r if r <= T // 2 else r - T for r in residues]
    assert centred(np.array(residues, dtype=np.uint32)).tolist() == expected


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.int64])
def test_every_width_of_integers_is_encoded_alike(dtype: type) -> None:
    values = np.array([-511, 0, 511, -1], dtype=dtype)
    assert encode(values, 64, 16)[:4].tolist() == [T - 511, 0, 511, T - 1]


@given(st.integers(1, MAX_SUMMANDS), st.sampled_from(WIDTHS), st.sampled_from([1, -1]), st.integers(1, 9))
def test_a_sum_that_could_overflow_is_refused_at_encode(n: int, width: int, sign: int, d: int) -> None:
    most = limit(n, width)
    assert n * most < 2 ** (width - 1) <= n * (most + 1)
    values = np.zeros(d, dtype=np.int64)
    values[-1] = sign * most
    encode(values, n, width)
    values[-1] = sign * (most + 1)
    with pytest.raises(LocalError, match=f"does not fit a sum of {width} bits"):
        encode(values, n, width)


def test_the_ends_of_what_can_be_encoded() -> None:
    assert (limit(64, 16), limit(64, 28), limit(4, 28)) == (511, 2_097_151, 33_554_431)
    for n, width, reason in ((0, 16, "0 peers"), (2**15, 16, "cannot be summed"), (4, 32, "have 16 or 28 bits")):
        with pytest.raises(LocalError, match=reason):
            limit(n, width)
    low = np.array([np.iinfo(np.int64).min])
    with pytest.raises(LocalError, match="9223372036854775808"):
        encode(low, 4, 28)
    for wrong in (np.zeros(0, dtype=np.int64), np.zeros((2, 2), dtype=np.int64), np.zeros(2), np.zeros(2, np.uint32)):
        with pytest.raises(LocalError, match="a vector of signed integers"):
            encode(wrong, 4, 16)


def test_what_are_no_slots_is_refused() -> None:
    good = np.zeros(N, dtype=np.uint32)
    check_residues(good)
    with pytest.raises(LocalError, match="whole ciphertexts"):
        check_residues(good[:-1])
    with pytest.raises(LocalError, match="contiguous vector of uint32"):
        check_residues(good.astype(np.int64))  # type: ignore[arg-type]
    good[7] = T
    with pytest.raises(LocalError, match="not below the plain modulus"):
        check_residues(good)


# ── the check of a sum ───────────────────────────────────────────────────────────────────────────────────────────────


@given(d=st.integers(1, 2 * N - 1), survivors=st.integers(1, 64), data=st.data())
def test_a_sum_is_told_only_if_padding_and_range_are_honest(d: int, survivors: int, data: st.DataObject) -> None:
    most = limit(survivors, 16)
    bound = survivors * most
    residues = np.zeros(PARAMETERS.batches(d) * N, dtype=np.uint32)
    place = data.draw(st.integers(0, d - 1))
    for value in (bound, -bound):
        residues[place] = value % T
        assert open_sum(residues, d, survivors=survivors, most=most, budget=9)[place] == value
    for value in (bound + 1, -bound - 1, T // 2, T // 2 + 1):
        residues[place] = value % T
        with pytest.raises(Unsound, match="beyond"):
            open_sum(residues, d, survivors=survivors, most=most, budget=9)
    residues[place] = 1
    with pytest.raises(Unsound, match="8 bits of noise budget"):
        open_sum(residues, d, survivors=survivors, most=most, budget=8)
    if d < residues.size:
        residues[data.draw(st.integers(d, residues.size - 1))] = data.draw(st.integers(1, T - 1))
        with pytest.raises(Unsound, match="padding"):
            open_sum(residues, d, survivors=survivors, most=most, budget=9)


def test_a_sum_of_another_size_or_range_is_this_peers_own_mistake() -> None:
    residues = np.zeros(N, dtype=np.uint32)
    for d, survivors, most in ((N + 1, 1, 1), (5, 0, 1), (5, 1, 0), (5, 64, 2**21)):
        with pytest.raises(LocalError):
            open_sum(residues, d, survivors=survivors, most=most, budget=9)


# ── encrypted sums ───────────────────────────────────────────────────────────────────────────────────────────────────


def add_up(encryptor: Encryptor, vectors: list[NDArray[np.int64]], n: int, width: int) -> list[bytes]:
    """The sums of the vectors' ciphertexts, batch by batch."""
    batches = PARAMETERS.batches(vectors[0].size)
    sums = [Sum() for _ in range(batches)]
    for values in vectors:
        for total, part in zip(sums, encode(values, n, width).reshape(batches, N), strict=True):
            total.add(encryptor.encrypt(part))
    return [bytes(total.ciphertext()) for total in sums]


@settings(max_examples=12)
@given(n=st.integers(4, 64), width=st.sampled_from(WIDTHS), seed=SEEDS, d=SIZES, extreme=st.booleans())
def test_sums_are_exact_with_noise_budget_to_spare(
    key: Key, encryptor: Encryptor, n: int, width: int, seed: int, d: int, extreme: bool
) -> None:
    most = limit(n, width)
    # All at one end is the largest sum that there is, and the padding has to stay 0 under all of it.
    vectors = [np.full(d, most) if extreme else vector(seed + i, d, most) for i in range(n)]
    opened = [key.decrypt(data) for data in add_up(encryptor, vectors, n, width)]
    residues, budget = np.concatenate([one.residues for one in opened]), min(one.budget for one in opened)
    assert not residues[d:].any()
    assert budget >= 15, "where 9 are asked for"
    assert np.array_equal(open_sum(residues, d, survivors=n, most=most, budget=budget), sum(vectors))


def test_masks_anywhere_mod_t_go_through_a_sum(key: Key, encryptor: Encryptor) -> None:
    rng = np.random.default_rng(3)
    rows = rng.integers(0, T, (64, N)).astype(np.uint32)
    total = Sum()
    for row in rows:
        total.add(encryptor.encrypt(row))
    opened = key.decrypt(total.ciphertext())
    assert np.array_equal(opened.residues, rows.astype(np.uint64).sum(axis=0) % T)
    assert opened.budget >= 15, "a sum that wraps around t costs no budget"


def test_the_noise_budget_is_that_of_the_noise(key: Key, encryptor: Encryptor) -> None:
    """Computed here from the key and the raw coefficients, in exact integers."""
    data = encryptor.encrypt(np.zeros(N, dtype=np.uint32))
    c0, c1 = (transform(row, Q) for row in words_of(data))
    noise = back((c0 + c1 * secret_of(key)) % Q, Q)  # of an encryption of 0, it is all that there is
    largest = max(abs(int(value)) for value in noise)
    # The bits of q, less those of t · ‖v‖ and the one by which it has to stay below q/2.
    budget = key.decrypt(data).budget
    assert budget == Q.bit_length() - (T * largest).bit_length() - 1
    assert 18 <= budget <= 22


def secret_of(key: Key) -> NDArray[np.object_]:
    """The secret key's transform mod q: what tests know and attackers want."""
    message = key._context.serialize(
        save_public_key=False, save_secret_key=True, save_galois_keys=False, save_relin_keys=False
    )
    stream = seal_format.only(seal_format.only(memoryview(message), 3), 1)
    _, words = seal_format.unwrap(stream, 2 * N * 8)
    return np.frombuffer(words, dtype="<u8")[:N].astype(object)


def test_adding_is_what_tenseal_adds(key: Key, encryptor: Encryptor) -> None:
    one, other = (encryptor.encrypt(encode(vector(seed, N, 511), 64, 16)) for seed in (1, 2))
    total = Sum()
    total.add(one)
    total.add(other)
    head = bfv._template().ciphertext
    theirs = [tenseal.bfv_vector_from(key._context, seal_format.vector_message(head, data)) for data in (one, other)]
    added = (theirs[0] + theirs[1]).serialize()
    _, words = seal_format.unwrap(seal_format.only(memoryview(added), 2), PARAMETERS.ciphertext_bytes)
    assert bytes(words) == bytes(total.ciphertext())


def test_a_ciphertext_is_one_that_tenseal_reads(key: Key, encryptor: Encryptor) -> None:
    values = vector(5, N, limit(4, 28))
    data = encryptor.encrypt(encode(values, 4, 28))
    assert len(data) == PARAMETERS.ciphertext_bytes == 16 * N
    message = seal_format.vector_message(bfv._template().ciphertext, data)
    assert tenseal.bfv_vector_from(key._context, message).decrypt() == values.tolist()


def test_two_encryptions_of_one_vector_share_nothing(encryptor: Encryptor) -> None:
    residues = np.zeros(N, dtype=np.uint32)
    one, other = encryptor.encrypt(residues), encryptor.encrypt(residues)
    assert digest_of([one]) != digest_of([other])
    assert int((words_of(one) == words_of(other)).sum()) == 0


def test_no_more_ciphertexts_are_added_than_the_budget_was_measured_for(encryptor: Encryptor) -> None:
    total, one = Sum(), encryptor.encrypt(np.zeros(N, dtype=np.uint32))
    for _ in range(MAX_SUMMANDS):
        total.add(one)
    with pytest.raises(LocalError, match="no more than 64"):
        total.add(one)


@given(count=st.integers(1, 3), data=st.data())
def test_the_hash_is_over_all_coefficients_and_their_order(count: int, data: st.DataObject) -> None:
    parts = [bytearray(PARAMETERS.ciphertext_bytes) for _ in range(count)]
    before = digest_of(parts)
    assert before == digest_of([bytes(part) for part in parts]) == digest_of([memoryview(part) for part in parts])
    part, byte = data.draw(st.integers(0, count - 1)), data.draw(st.integers(0, PARAMETERS.ciphertext_bytes - 1))
    parts[part][byte] ^= 1 << data.draw(st.integers(0, 7))
    assert digest_of(parts) != before
    assert digest_of([b"".join(parts)]) != digest_of(parts) or count == 1


# ── what is malformed ────────────────────────────────────────────────────────────────────────────────────────────────


def test_truncated_and_oversized_ciphertexts_are_refused(encryptor: Encryptor) -> None:
    good = bytes(encryptor.encrypt(np.zeros(N, dtype=np.uint32)))
    parse(good)
    for wrong in (b"", good[:-1], good[:-8], good + b"\0", good * 2, good[: len(good) // 2]):
        with pytest.raises(Malformed, match=f"has 131072 bytes, this has {len(wrong)}"):
            parse(wrong)
        total = Sum()
        with pytest.raises(Malformed):
            total.add(wrong)
        assert total.count == 0


@settings(max_examples=60)
@given(byte=st.integers(0, 16 * N - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_is_refused_or_garbage_that_the_check_refuses(
    key: Key, encryptor: Encryptor, byte: int, bit: int
) -> None:
    data = encryptor.encrypt(encode(np.ones(N, dtype=np.int64), 4, 16))
    data[byte] ^= 1 << bit
    try:
        parse(data)
    except Malformed:
        assert int(words_of(data).max()) >= Q
        return
    opened = key.decrypt(data)
    # A change of one coefficient of c_0 below the noise that there is room for changes nothing, and that is no fault.
    if not np.array_equal(centred(opened.residues), np.ones(N)):
        with pytest.raises(Unsound):
            open_sum(opened.residues, N, survivors=4, most=limit(4, 16), budget=opened.budget)


@given(place=st.integers(0, 2 * N - 1), value=st.integers(Q, 2**64 - 1))
def test_a_coefficient_that_is_not_reduced_is_refused(place: int, value: int) -> None:
    words = np.zeros(2 * N, dtype="<u8")
    words[place] = Q - 1
    parse(words.tobytes())
    words[place] = value
    with pytest.raises(Malformed, match="not below its modulus"):
        parse(words.tobytes())


@given(d=st.integers(1, 3 * N), extra=st.integers(-2, 2).filter(bool))
def test_a_vector_has_exactly_the_ciphertexts_that_its_coordinates_take(d: int, extra: int) -> None:
    size = PARAMETERS.batches(d) * PARAMETERS.ciphertext_bytes
    assert b"".join(split(bytes(size), d)) == bytes(size)
    with pytest.raises(Malformed, match="coordinates take"):
        split(bytes(max(0, size + extra)), d)


def test_a_ciphertext_of_another_key_opens_to_what_the_check_refuses(key: Key) -> None:
    foreign = Encryptor(Key().public).encrypt(np.zeros(N, dtype=np.uint32))
    opened = key.decrypt(foreign)
    assert opened.budget == 0
    for budget in (opened.budget, 20):
        with pytest.raises(Unsound):
            open_sum(opened.residues, 100, survivors=64, most=limit(64, 28), budget=budget)
    values = centred(opened.residues)
    assert np.count_nonzero(np.abs(values) < 2**27) < N / 8, "1/16 of what is uniform"


def test_public_keys_of_other_parameters_lengths_or_forms_are_refused(key: Key) -> None:
    good = key.public
    assert len(good) == PUBLIC_BYTES
    check_public(good)
    for wrong in (b"", good[:-1], good + b"\0", good[32:]):
        with pytest.raises(Malformed, match="a public key has 262176 bytes"):
            check_public(wrong)
    with pytest.raises(Malformed, match="other parameters"):
        check_public(bytes([good[0] ^ 1]) + good[1:])
    for row, modulus in enumerate(PARAMETERS.moduli * 2):
        words = np.frombuffer(good[32:], dtype="<u8").reshape(4, N).copy()
        words[row, 17] = modulus - 1
        check_public(good[:32] + words.tobytes())
        words[row, 17] = modulus
        with pytest.raises(Malformed, match="not below its modulus"):
            check_public(good[:32] + words.tobytes())
        words[row] = 0
        with pytest.raises(Malformed, match="is 0"):
            check_public(good[:32] + words.tobytes())


def test_a_private_context_of_tenseals_is_no_public_key(key: Key) -> None:
    whole = key._context.serialize(
        save_public_key=True, save_secret_key=True, save_galois_keys=False, save_relin_keys=False
    )
    with pytest.raises(Malformed):
        check_public(whole)
    with pytest.raises(Malformed):
        Encryptor(whole)


def test_a_sham_key_whose_ciphertexts_are_not_uniform_is_refused() -> None:
    words = np.zeros((2, 2, N), dtype="<u8")
    words[:] = 1
    sham = Encryptor(PARAMETERS.digest + words.tobytes())
    with pytest.raises(seal_format.Compressed, match="should be uniform"):
        sham.encrypt(np.zeros(N, dtype=np.uint32))


@given(st.binary(max_size=64))
def test_no_bytes_make_the_reader_of_tenseals_messages_fail_otherwise(noise: bytes) -> None:
    for stream in (noise, b"\x5e\xa1\x10\x04\x03\x02\0\0" + (16 + len(noise)).to_bytes(8, "little") + noise):
        with contextlib.suppress(Malformed):
            seal_format.unwrap(memoryview(stream), 8)
        with contextlib.suppress(Malformed):
            seal_format.only(memoryview(stream), 2)


# ── without TenSEAL, or with another ─────────────────────────────────────────────────────────────────────────────────


def test_without_tenseal_the_pip_line_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    bfv.require()
    monkeypatch.setitem(sys.modules, "tenseal", None)
    for call in (bfv.require, Key):
        bfv._template.cache_clear()
        with pytest.raises(LocalError, match=r"tenseal is not installed: pip install 'decentra\[he\]'"):
            call()
    bfv._template.cache_clear()


def test_a_tenseal_that_makes_other_parameters_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for changed in (Parameters(modulus_bits=(60, 59)), Parameters(moduli=PARAMETERS.moduli[::-1])):
        monkeypatch.setattr(bfv, "PARAMETERS", changed)
        bfv._template.cache_clear()
        with pytest.raises(LocalError, match="makes other moduli"):
            Key()
    monkeypatch.undo()
    bfv._template.cache_clear()
    Key()


# ── the attack that the check of a sum is for ────────────────────────────────────────────────────────────────────────


def raw(c0: NDArray[np.object_], c1: NDArray[np.object_]) -> bytes:
    return np.concatenate([c0 % Q, c1 % Q]).astype("<u8").tobytes()


def poly(values: dict[int, int]) -> NDArray[np.object_]:
    out = np.zeros(N, dtype=object)
    for place, value in values.items():
        out[place] = value
    return out


def test_key_reading_by_zero_and_delta_works_on_what_is_not_checked_and_fails_with_the_check(
    key: Key, encryptor: Encryptor
) -> None:
    """A contributor that is an adder too puts (0, Δ) in the place of the sum, and reads the key from what is told."""
    honest = key.decrypt(encryptor.encrypt(encode(vector(1, N, 511), 64, 16)))
    open_sum(honest.residues, N, survivors=64, most=511, budget=honest.budget)

    attack = raw(poly({}), poly({0: Q // T}))
    opened = key.decrypt(attack)
    # Slots in SEAL's order of batching, back to coefficients mod t: the key, whole.
    values = np.empty(N, dtype=object)
    values[batch_order(N)] = opened.residues.astype(object)
    stolen = back(values, T)
    assert set(stolen) == {-1, 0, 1}
    assert np.array_equal(transform(stolen, Q), secret_of(key)), "nothing of the key is missing"

    assert opened.budget >= PARAMETERS.min_budget, "the noise budget does not see it"
    most = limit(64, 28)
    for d in (N, N - 1):
        with pytest.raises(Unsound, match="beyond" if d == N else "padding"):
            open_sum(opened.residues, d, survivors=64, most=most, budget=opened.budget)
    within = np.count_nonzero(np.abs(centred(opened.residues)) <= 64 * most)
    assert N / 32 < within < N / 8, "1/16 of the slots look honest, and all would have to"


def test_key_reading_hidden_in_an_honest_sum_fails_as_well(key: Key, encryptor: Encryptor) -> None:
    vectors = [vector(seed, N, 511) for seed in range(4)]
    total = Sum()
    for values in vectors:
        total.add(encryptor.encrypt(encode(values, 64, 16)))
    total.add(raw(poly({}), poly({0: Q // T})))
    opened = key.decrypt(total.ciphertext())
    leaked = np.mod(opened.residues.astype(np.int64) - sum(vectors), T)
    values = np.empty(N, dtype=object)
    values[batch_order(N)] = leaked.astype(object)
    assert np.array_equal(transform(back(values, T), Q), secret_of(key)), "who knows the honest sum reads the key"
    with pytest.raises(Unsound):
        open_sum(opened.residues, N, survivors=5, most=511, budget=opened.budget)


def test_reading_a_few_slots_of_the_key_fails_but_by_luck(key: Key) -> None:
    """(0, q/t · f) with f nonzero in eight slots only tells eight linear combinations of the key, and nothing more."""
    chosen = batch_order(N)[:8]
    f = back(poly({int(place): 1 for place in chosen}), T)
    opened = key.decrypt(raw(poly({}), np.array([(2 * Q * int(c) + T) // (2 * T) for c in f], dtype=object)))
    assert opened.budget >= PARAMETERS.min_budget
    assert not opened.residues[8:].any(), "all other slots are honest"
    with pytest.raises(Unsound):  # but for one key in 2^128
        open_sum(opened.residues, N, survivors=64, most=limit(64, 16), budget=opened.budget)
