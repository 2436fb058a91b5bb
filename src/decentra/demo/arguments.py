"""What programs of peers take on their command lines alike."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def part_of(most: int) -> Callable[[str], tuple[int, int]]:
    """A type for argparse: a part of the data, counted from 1, and how many parts there are, up to ``most``.

    >>> part_of(10)("2/3")
    (1, 3)
    """

    def part(text: str) -> tuple[int, int]:
        which, _, count = text.partition("/")
        if not (which.isdecimal() and count.isdecimal() and 1 <= int(which) <= int(count) <= most):
            raise argparse.ArgumentTypeError(f"{text!r} is no part such as 1/3, of {most} at most")
        return int(which) - 1, int(count)

    return part


def rounds(text: str) -> int:
    """A type for argparse: how many rounds, 1 or more."""
    if not (text.isdecimal() and text.isascii() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of rounds such as 4")
    return int(text)
