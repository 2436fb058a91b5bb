"""Sharing whole vectors over 2^61 − 1, and computing on the shares: the arithmetic of shamir-gram, one idea a file.

What these files compute is fixed by ``specs/shamir-gram/arithmetic.md`` and its known-answer vectors. They know nothing
of messages or of time; randomness is handed in. Importing this package imports none of them.
"""
