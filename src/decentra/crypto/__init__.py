"""The crypto floor: hashing, keys, sealing, key agreement, secret sharing, masks and fixed point.

Each file is one primitive; what they compute is fixed by ``specs/crypto`` and its known-answer vectors. Importing this
package imports none of them.
"""
