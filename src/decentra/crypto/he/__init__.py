"""Homomorphic encryption: BFV through TenSEAL, in processes of its own, one idea a file.

What a protocol uses: ``slots`` (integers to slots and back, and the check of a sum before anything of it is
published), ``ciphertexts`` (the one form in which a ciphertext travels; adding; the hash that adders compare), ``pool``
(workers that encrypt and add) and ``keyholder`` (a worker that holds a key, and takes it along when it ends). ``bfv``
is what they run, ``seal_format`` what keeps hostile bytes from SEAL's own parsers. Importing this package imports none.
"""
