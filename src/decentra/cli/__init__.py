"""The command line: thin commands in ``app``, their bodies in the files beside it, loaded when called."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run the command that the process was started with, and exit with its code (``decentra.cli.app``)."""
    from decentra.cli.app import run_command_line

    run_command_line()
