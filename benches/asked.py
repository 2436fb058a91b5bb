"""The command line that a page was made with, as the page tells it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping


def command(parser: argparse.ArgumentParser, options: argparse.Namespace, shown: Mapping[str, str | None]) -> str:
    """The command with every option that differs from its default.

    Args:
        parser: what read the options.
        options: what it read.
        shown: what stands for an option's value, such as ``{"log": "FILE.jsonl"}``; None leaves the option out.
    """
    words = ["python", f"benches/{parser.prog}"]
    for name, value in vars(options).items():
        if value == parser.get_default(name) or shown.get(name, "") is None:
            continue
        words.append(f"--{name}")
        if name in shown:
            words.append(str(shown[name]))
        elif value is not True:
            words += map(str, value if isinstance(value, list) else [value])
    return " ".join(words)
