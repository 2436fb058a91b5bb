"""Why sums under CKKS are refused: what decrypts at full precision gives the key away (Li and Micciancio 2021).

Under CKKS a decryption is the message with the noise of encryption, b + a·s = m + e, and to publish it at full
precision publishes the noise. Then a·s = (m + e) − b is linear in s without any noise, and two ciphertexts solve it:
TenSEAL tells real parts only, that is M(X) = μ(X) + μ(X^−1) for μ = m + e, so one gives one equation in s and its
conjugate. All on a context of our own, with settings of NVFlare's family.
"""

from __future__ import annotations

import numpy as np
import tenseal
from numpy.typing import NDArray

from lattice import Words, back, transform

N, SCALE = 8192, 2.0**40
ROWS = 2
"""The moduli of a fresh ciphertext: 60 and 40 bits. One is enough, and the smaller is quicker."""


def smaller_rows(vector: tenseal.CKKSVector) -> NDArray[np.uint64]:
    """(polynomial, N): the values mod the 40-bit prime of what travels, and adders and contributors see."""
    (ciphertext,) = vector.ciphertext()
    words = [ciphertext[i] for i in range(2 * ROWS * N)]
    return np.array(words, dtype=np.uint64).reshape(2, ROWS, N)[:, 1]


def doubled(told: list[float], scale: float) -> list[int]:
    """2 Re of what was told, encoded back at the ciphertext's scale: M's integer coefficients.

    Slot j is the value at ζ^(3^j); the real parts are those of a polynomial with M_k = −M_(N−k), for which a transform
    in floating point is exact enough: M has about 40 bits, and float64 has 53.
    """
    spectrum, power = np.zeros(2 * N, dtype=complex), 1
    for value in told:
        spectrum[power] = spectrum[2 * N - power] = value
        power = power * 3 % (2 * N)
    coefficients = 2 * scale / N * np.fft.fft(spectrum)[:N].real
    rounded = np.rint(coefficients)
    assert np.abs(coefficients - rounded).max() < 0.25, "full precision: no doubt about any integer"
    return [int(c) for c in rounded]


def modulus_of(rows: NDArray[np.uint64], bits: int) -> int:
    """The prime that TenSEAL chooses: the largest of so many bits that is 1 mod 2N, public by convention."""
    number = 2**bits + 1
    while True:
        number -= 2 * N
        if pow(3, number - 1, number) == 1 and pow(5, number - 1, number) == 1:
            assert int(rows.max()) < number
            return number


def recovered(shown: list[tuple[NDArray[np.uint64], list[int]]], q: int) -> Words:
    """The secret from two ciphertexts mod q and what was told of them.

    X → X^−1 turns SEAL's order of values around. With ā for that of a: a s + ā s̄ = M − b − b̄.
    """
    (a1, r1), (a2, r2) = (
        (rows[1].astype(object), (transform(told, q) - rows[0].astype(object) - rows[0][::-1].astype(object)) % q)
        for rows, told in shown
    )
    b1, b2 = a1[::-1], a2[::-1]
    inverse = np.array([pow(int(det), -1, q) for det in (a1 * b2 - a2 * b1) % q], dtype=object)
    return back((r1 * b2 - r2 * b1) * inverse % q, q)


def context_of_our_own() -> tenseal.Context:
    context = tenseal.context(tenseal.SCHEME_TYPE.CKKS, N, coeff_mod_bit_sizes=[60, 40, 60], n_threads=1)
    context.global_scale = SCALE
    return context


def key_of(context: tenseal.Context, q: int) -> Words:
    """The true key, to compare with."""
    transformed = context.secret_key().data.data()
    return back([transformed[N + i] for i in range(N)], q)


def test_key_recovery_from_two_ckks_sums_published_at_full_precision() -> None:
    context, rng = context_of_our_own(), np.random.default_rng(1)
    shown, moduli = [], set()
    for _ in range(2):
        parts = [tenseal.ckks_vector(context, rng.normal(size=N // 2).tolist()) for _ in range(4)]
        total = sum(parts[1:], parts[0])
        rows, told = smaller_rows(total), total.decrypt()  # what adders see, and what a key holder would publish
        moduli.add(modulus_of(rows, 40))
        shown.append((rows, doubled(told, SCALE)))
    (q,) = moduli
    stolen = recovered(shown, q)
    assert set(stolen) == {-1, 0, 1}, "a key has no other coefficients, and no accident gives only such"
    assert np.array_equal(stolen, key_of(context, q))

    # With it everything that was ever sent under this key is open: here somebody's single update.
    secret = rng.normal(size=N // 2)
    victim = smaller_rows(tenseal.ckks_vector(context, secret.tolist())).astype(object)
    plain = back((victim[0] + victim[1] * transform(stolen, q)) % q, q).astype(float)
    twisted = np.zeros(2 * N)
    twisted[:N] = plain
    values = np.fft.ifft(twisted) * 2 * N / SCALE
    read = [values[pow(3, j, 2 * N)].real for j in range(N // 2)]
    assert np.abs(np.array(read) - secret).max() < 1e-4


def test_the_noise_of_encryption_stands_in_what_ckks_tells() -> None:
    """BFV tells integers instead, in which there is none."""
    context = context_of_our_own()
    told = tenseal.ckks_vector(context, [0.5] * (N // 2)).decrypt()
    noise = np.abs(np.array(told) - 0.5)
    assert 0 < noise.max() < 1e-5
    assert np.unique(noise).size > N // 4, "another one in each slot"
