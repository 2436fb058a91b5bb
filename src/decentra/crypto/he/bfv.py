"""BFV itself: a key, encryption under its public part, decryption with what noise budget was left.

Everything here calls TenSEAL, which holds the interpreter lock: a worker runs it (``pool``, ``keyholder``), and so does
whoever compares. Randomness is SEAL's own, from the operating system; nothing can be seeded, and two encryptions of one
vector differ.
"""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from decentra.crypto.he.ciphertexts import Buffer, check_words, parse
from decentra.crypto.he.parameters import PARAMETERS, Malformed
from decentra.crypto.he.seal_format import (
    CIPHERTEXTS,
    PARAMETERS_FIELD,
    PUBLIC,
    PUBLIC_KEY,
    Head,
    context_message,
    fields,
    only,
    parms_id,
    unwrap,
    vector_message,
)
from decentra.crypto.he.slots import Residues, centred, check_residues
from decentra.errors import LocalError

_MISSING = "tenseal is not installed: pip install 'decentra[he]'"
PUBLIC_BYTES = 32 + PARAMETERS.key_bytes
"""A public key as it travels: the hash of the parameters, and raw coefficients (c_0 and c_1, each mod both moduli)."""


def require() -> None:
    """Refuses to go on without TenSEAL, without loading it.

    Raises:
        LocalError: it is not installed; names the pip line.
    """
    if importlib.util.find_spec("tenseal") is None:
        raise LocalError(_MISSING)


def _tenseal() -> Any:
    try:
        import tenseal
    except ModuleNotFoundError as missing:
        raise LocalError(_MISSING) from missing
    return tenseal


# ── what every context and every ciphertext of this process looks like ───────────────────────────────────────────────


class _Template(NamedTuple):
    """A public context of ours, and the heads of the streams in it."""

    context: bytes
    key: Head
    ciphertext: Head


def _private_context() -> Any:
    ts = _tenseal()
    # One thread: with more TenSEAL starts a pool of threads for each context, and a worker encrypts one batch at once.
    return ts.context(
        ts.SCHEME_TYPE.BFV,
        poly_modulus_degree=PARAMETERS.degree,
        plain_modulus=PARAMETERS.plain_modulus,
        coeff_mod_bit_sizes=list(PARAMETERS.modulus_bits),
        n_threads=1,
    )


def _public_part(context: Any) -> bytes:
    return bytes(
        context.serialize(
            save_public_key=True, save_secret_key=False, save_galois_keys=False, save_relin_keys=False
        )
    )


@lru_cache(maxsize=1)
def _template() -> _Template:
    """Cut from a context whose key nobody will use.

    Raises:
        LocalError: this TenSEAL makes other parameters or writes another form than this file knows.
    """
    context = _private_context()
    message = _public_part(context)
    zero = memoryview(_tenseal().bfv_vector(context, [0] * PARAMETERS.degree).serialize())
    try:
        key, _ = unwrap(only(only(memoryview(message), PUBLIC), PUBLIC_KEY), PARAMETERS.key_bytes)
        ciphertext, _ = unwrap(only(zero, CIPHERTEXTS), PARAMETERS.ciphertext_bytes)
        names = (parms_id(key), parms_id(ciphertext))
        kept = {field.number for field in fields(memoryview(message))} >= {PARAMETERS_FIELD, PUBLIC}
    except Malformed as fault:
        raise LocalError(f"this TenSEAL writes a form that is not known here ({fault}): use 0.3.18") from fault
    if names != (PARAMETERS.parms_id(2), PARAMETERS.parms_id(1)) or not kept:
        raise LocalError("this TenSEAL makes other moduli than the parameters say: use 0.3.18")
    return _Template(message, key, ciphertext)


def check_public(public: Buffer) -> None:
    """Refuses what is no public key of exactly these parameters; needs no TenSEAL.

    A public key in this form has room for nothing else: no secret, relinearisation or Galois keys, no second form.

    Raises:
        Malformed: another length, parameters that are not ours, a coefficient that is not reduced, or a polynomial
            that is 0 throughout.
    """
    view = memoryview(public).cast("B")
    if view.nbytes != PUBLIC_BYTES:
        raise Malformed(f"a public key has {PUBLIC_BYTES} bytes, this has {view.nbytes}")
    if bytes(view[:32]) != PARAMETERS.digest:
        raise Malformed("this public key is of other parameters than the charter's")
    words = check_words(view[32:], (2, 2, PARAMETERS.degree), PARAMETERS.moduli, "a public key")
    if not words.any(axis=2).all():
        raise Malformed("a polynomial of this public key is 0")


# ── encrypting ───────────────────────────────────────────────────────────────────────────────────────────────────────


class Encryptor:
    """Encrypts under a public key that came from a key holder.

    Raises:
        Malformed: as ``check_public``.
        LocalError: no TenSEAL, or one that makes other parameters.
    """

    def __init__(self, public: Buffer) -> None:
        check_public(public)
        template = _template()
        message = context_message(template.context, template.key, memoryview(public).cast("B")[32:])
        self._ts = _tenseal()
        self._context = self._ts.context_from(message, n_threads=1)

    def encrypt(self, residues: Residues) -> bytearray:
        """One ciphertext of 8192 slots: 131,072 bytes, as ``ciphertexts`` says.

        Raises:
            LocalError: slots that are not so.
            Malformed: the ciphertext isn't uniform, so the public key is a sham.
        """
        check_residues(residues)
        if residues.size != PARAMETERS.degree:
            raise LocalError(f"a ciphertext has {PARAMETERS.degree} slots, not {residues.size}")
        vector = self._ts.bfv_vector(self._context, centred(residues).tolist())
        head, words = unwrap(only(memoryview(vector.serialize()), CIPHERTEXTS), PARAMETERS.ciphertext_bytes)
        if head != _template().ciphertext:
            raise LocalError("this TenSEAL writes ciphertexts of more than one form: use 0.3.18")
        return words


# ── decrypting ───────────────────────────────────────────────────────────────────────────────────────────────────────


class Opened(NamedTuple):
    """What a ciphertext held: all 8192 slots mod t, and the bits of noise budget that it had left.

    The budget is SEAL's: ⌊log2(q / 2‖v‖)⌋ for the invariant noise v. At 0 the slots mean nothing.
    """

    residues: Residues
    budget: int


class Key:
    """A fresh secret key; it is never written anywhere, and goes with the process that made it.

    Attributes:
        public: its public part, as it travels.
    """

    def __init__(self) -> None:
        template = _template()
        self._ts = _tenseal()
        self._context = _private_context()
        stream = only(only(memoryview(_public_part(self._context)), PUBLIC), PUBLIC_KEY)
        head, words = unwrap(stream, PARAMETERS.key_bytes)
        if head != template.key:
            raise LocalError("this TenSEAL writes public keys of more than one form: use 0.3.18")
        self.public = PARAMETERS.digest + bytes(words)
        check_public(self.public)

    def decrypt(self, data: Buffer) -> Opened:
        """The slots of one ciphertext. They are not to leave before ``slots.open_sum`` has passed them.

        Raises:
            Malformed: as ``ciphertexts.parse``.
        """
        parse(data)
        message = vector_message(_template().ciphertext, memoryview(data).cast("B"))
        vector = self._ts.bfv_vector_from(self._context, message)
        budget = self._context.decryptor().data.invariant_noise_budget(vector.ciphertext()[0])
        signed = np.array(vector.decrypt(), dtype=np.int64)
        residues = np.where(signed < 0, signed + PARAMETERS.plain_modulus, signed).astype(np.uint32)
        return Opened(residues, int(budget))
