"""Identities, sealed boxes and mask keys."""

from __future__ import annotations

import copy
import os
import pickle
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st
from zmq.utils import z85

from decentra.crypto.agreement import MaskKey, check_public
from decentra.crypto.field import PRIME, element_bytes
from decentra.crypto.keys import Identity, peer_id, verify
from decentra.crypto.seal import MAX_PLAINTEXT, SEAL_OVERHEAD, SealError, SealingKey, seal
from decentra.errors import LocalError

SEEDS = st.binary(min_size=32, max_size=32)
SECRETS = st.integers(0, PRIME - 1).map(element_bytes)
LOW_ORDER = [
    element_bytes(0),
    element_bytes(1),
    element_bytes(-1),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
]
NOT_CANONICAL = [(PRIME + k).to_bytes(32, "little") for k in (0, 1, 9, 18)] + [b"\xff" * 32]
MALFORMED = [b"", bytes(31), bytes(33)]


def _fixed(value: bytes) -> Callable[[int], bytes]:
    return lambda size: value[:size]


# Identity


@given(SEEDS, st.binary(max_size=64))
def test_a_signature_verifies_under_its_key_and_message_only(seed: bytes, message: bytes) -> None:
    identity = Identity.from_seed(seed)
    signature = identity.sign(message)
    assert verify(identity.public, signature, message)
    assert not verify(identity.public, signature, message + b"\x00")
    assert not verify(Identity.from_seed(bytes(x ^ 1 for x in seed)).public, signature, message)


@given(SEEDS, st.integers(0, 511))
def test_a_flipped_bit_anywhere_in_a_signature_is_noticed(seed: bytes, bit: int) -> None:
    identity = Identity.from_seed(seed)
    signature = bytearray(identity.sign(b"m"))
    signature[bit // 8] ^= 1 << bit % 8
    assert not verify(identity.public, bytes(signature), b"m")


@given(st.binary(max_size=70), st.binary(max_size=70), st.binary(max_size=8))
def test_verifying_malformed_bytes_is_false_and_never_raises(public: bytes, signature: bytes, message: bytes) -> None:
    assert verify(public, signature, message) is False
    assert verify(public[:32].ljust(32, b"\x00"), signature[:64].ljust(64, b"\x00"), message) is False


@pytest.mark.parametrize("sign_bit", [0, 0x80])
@pytest.mark.parametrize(
    "y",
    [
        0,
        1,
        PRIME - 1,
        2707385501144840649318225287225658788936804267575313519463743609750303402022,
        55188659117513257062467267217118295137698188065244968500265048394206261417927,
    ],
)
def test_a_low_order_key_signs_nothing(y: int, sign_bit: int) -> None:
    """R = the key or the neutral element, S = 0 passes plain Ed25519 for a good part of all messages."""
    public = bytearray(y.to_bytes(32, "little"))
    public[31] |= sign_bit
    for point in (bytes(public), element_bytes(1)):
        assert not any(verify(bytes(public), point + bytes(32), bytes([message])) for message in range(64))


@given(SEEDS)
def test_the_curve_key_is_zeromqs_and_apart_from_the_signing_key(seed: bytes) -> None:
    identity = Identity.from_seed(seed)
    secret = z85.encode(identity.curve_secret)
    assert z85.decode(zmq.curve_public(secret)) == identity.curve_public
    assert len({seed, identity.public, identity.curve_secret, identity.curve_public, bytes(identity.id)}) == 5


def test_ids_come_from_keys_alone() -> None:
    first, second = Identity.generate(), Identity.generate()
    assert first.id == peer_id(first.public) != second.id
    for public in MALFORMED:
        with pytest.raises(ValueError, match="32 bytes"):
            peer_id(public)


def test_generating_takes_its_seed_from_the_source_given() -> None:
    assert Identity.generate(_fixed(b"\x07" * 32)).public == Identity.from_seed(b"\x07" * 32).public
    with pytest.raises(LocalError, match="random source"):
        Identity.generate(_fixed(b"\x07" * 5))
    with pytest.raises(ValueError, match="32 bytes"):
        Identity.from_seed(bytes(31))


def test_a_saved_identity_loads_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    identity, path = Identity.generate(), tmp_path / "identity.key"
    before = os.umask(0)
    try:
        identity.save(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Identity.load(path).public == identity.public
    assert Identity.load(str(path)).curve_secret == identity.curve_secret


def test_an_identity_is_never_overwritten_not_even_through_a_link(tmp_path: Path) -> None:
    identity, path, link = Identity.generate(), tmp_path / "identity.key", tmp_path / "link"
    identity.save(path)
    link.symlink_to(tmp_path / "nowhere")
    for taken in (path, link):
        with pytest.raises(LocalError, match="never overwritten"):
            Identity.generate().save(taken)
    assert Identity.load(path).public == identity.public
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o777])
def test_a_file_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "identity.key"
    Identity.generate().save(path)
    path.chmod(mode)
    with pytest.raises(LocalError, match="chmod 600"):
        Identity.load(path)


@pytest.mark.parametrize("size", [0, 31, 33, 5000])
def test_a_file_of_another_size_is_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "identity.key"
    path.touch(mode=0o600)
    path.write_bytes(bytes(size))
    with pytest.raises(LocalError, match="32 bytes"):
        Identity.load(path)


def test_what_is_no_file_is_refused_with_the_next_step(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo, 0o600)
    with pytest.raises(LocalError, match="decentra keys"):
        Identity.load(tmp_path / "missing")
    for path in (fifo, tmp_path):
        with pytest.raises(LocalError, match="is not a file"):
            Identity.load(path)
    with pytest.raises(LocalError, match="check the folder"):
        Identity.generate().save(tmp_path / "no" / "such" / "folder")


def test_a_save_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LocalError, match="No space left"):
        Identity.generate().save(tmp_path / "identity.key")
    assert not list(tmp_path.iterdir())


def test_no_repr_shows_a_secret_and_no_secret_is_pickled() -> None:
    secret = bytes(range(90, 122))
    identity, sealing, mask = Identity.from_seed(secret), SealingKey(secret), MaskKey(secret)
    for shown in (identity, sealing, mask):
        for text in (repr(shown), str(shown), f"{shown}"):
            for hidden in (secret, identity.curve_secret):
                assert hidden.hex()[:8] not in text
                assert repr(hidden)[2:10] not in text
        with pytest.raises(TypeError):
            pickle.dumps(shown)


# Sealing


@given(SEEDS, SEEDS, st.binary(max_size=200), st.binary(max_size=50))
def test_what_is_sealed_opens(secret: bytes, fresh: bytes, plaintext: bytes, context: bytes) -> None:
    key = SealingKey(secret)
    sealed = seal(key.public, plaintext, context, _fixed(fresh))
    assert key.open(sealed, context) == plaintext
    assert len(sealed) == len(plaintext) + SEAL_OVERHEAD


@given(SEEDS, SEEDS, st.binary(max_size=40), st.binary(max_size=20), st.data())
def test_a_box_opens_whole_under_its_key_and_context_only(
    secret: bytes, fresh: bytes, plaintext: bytes, context: bytes, data: st.DataObject
) -> None:
    key = SealingKey(secret)
    sealed = seal(key.public, plaintext, context, _fixed(fresh))
    bit = data.draw(st.integers(0, len(sealed) * 8 - 1))
    flipped = bytearray(sealed)
    flipped[bit // 8] ^= 1 << bit % 8
    cut = data.draw(st.integers(0, len(sealed) - 1))
    other = SealingKey(bytes([secret[0] ^ 0xF8]) + secret[1:])  # a bit that clamping keeps
    for opener, box, under in (
        (key, bytes(flipped), context),
        (key, sealed[:cut], context),
        (key, sealed + b"\x00", context),
        (key, sealed, context + b"\x00"),
        (other, sealed, context),
    ):
        with pytest.raises(SealError):
            opener.open(box, under)


def test_every_box_has_its_own_key() -> None:
    key = SealingKey.generate(os.urandom)
    boxes = {seal(key.public, b"same", b"", os.urandom) for _ in range(20)}
    assert len({box[:32] for box in boxes}) == len({box[32:] for box in boxes}) == 20


def test_an_erased_key_opens_nothing_but_is_still_named() -> None:
    key = SealingKey.generate(os.urandom)
    sealed, public = seal(key.public, b"share", b"", os.urandom), key.public
    assert key.open(sealed, b"") == b"share"
    key.erase()
    key.erase()
    with pytest.raises(LocalError, match="erased"):
        key.open(sealed, b"")
    assert key.public == public
    assert "erased" in repr(key)


@pytest.mark.parametrize("public", LOW_ORDER + NOT_CANONICAL + MALFORMED)
def test_nothing_is_sealed_to_or_opened_from_a_bad_key(public: bytes) -> None:
    with pytest.raises(ValueError, match="X25519 public key"):
        seal(public, b"share", b"", os.urandom)
    with pytest.raises(SealError):
        SealingKey.generate(os.urandom).open(public.ljust(32, b"\x00")[:32] + bytes(30), b"")


def test_a_box_is_small() -> None:
    key = SealingKey.generate(os.urandom)
    assert key.open(seal(key.public, bytes(MAX_PLAINTEXT), b"", os.urandom), b"") == bytes(MAX_PLAINTEXT)
    with pytest.raises(ValueError, match="at most"):
        seal(key.public, bytes(MAX_PLAINTEXT + 1), b"", os.urandom)
    with pytest.raises(SealError, match="not"):
        key.open(bytes(MAX_PLAINTEXT + SEAL_OVERHEAD + 1), b"")
    with pytest.raises(ValueError, match="32 secret bytes"):
        SealingKey(bytes(31))


# Mask keys


@given(SECRETS, SECRETS, st.lists(st.one_of(st.binary(max_size=8), st.integers(0, 99), st.text()), max_size=3))
def test_both_ends_agree_on_one_key_per_context(one: bytes, other: bytes, context: list[bytes | int | str]) -> None:
    left, right = MaskKey(one), MaskKey(other)
    agreed = left.agree(right.public, *context)
    assert agreed == right.agree(left.public, *context)
    assert len(agreed) == 32
    assert agreed != left.agree(right.public, *context, "more")


@given(SECRETS)
def test_rebuilding_a_secret_rebuilds_its_key_and_the_secret_is_not_the_private_key(secret: bytes) -> None:
    assert MaskKey(secret).public == MaskKey(secret).public != SealingKey(secret).public


@pytest.mark.parametrize("public", LOW_ORDER)
def test_a_low_order_key_is_refused(public: bytes) -> None:
    with pytest.raises(ValueError, match="low order"):
        check_public(public)
    with pytest.raises(ValueError, match="low order"):
        MaskKey(element_bytes(5)).agree(public)


@pytest.mark.parametrize("public", NOT_CANONICAL + MALFORMED)
def test_a_malformed_key_is_refused(public: bytes) -> None:
    with pytest.raises(ValueError, match="X25519 public key"):
        MaskKey(element_bytes(5)).agree(public)


@pytest.mark.parametrize("secret", NOT_CANONICAL + MALFORMED)
def test_a_mask_secret_that_is_not_canonical_is_refused(secret: bytes) -> None:
    with pytest.raises(ValueError, match="field element"):
        MaskKey(secret)


@given(SECRETS)
def test_honest_keys_pass_the_check(secret: bytes) -> None:
    check_public(MaskKey(secret).public)
    check_public(copy.copy(SealingKey(secret).public))
