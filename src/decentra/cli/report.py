"""How a command ends: its exit code, and what it prints for people or, with ``--json``, for programs.

Exit codes: 0 done; 1 the operation failed, by a peer's fault or by waiting; 2 wrong use or a wrong file here. An error
is one sentence on stderr; with ``--json`` one object, ``{"error": sentence, "kind": kind}``, where kind is ``local``,
``remote``, ``unavailable`` or ``usage``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from typing import Any, cast

import typer
from typer.core import TyperGroup

from decentra.errors import DecentraError, LocalError, RemoteError, Unavailable

FAILED, MISUSED = 1, 2

# typer carries its own copy of click; the parent of all its usage errors has no public name, and this is its shape
_UsageError = cast(type[typer.BadParameter], typer.BadParameter.__bases__[0])


class Commands(TyperGroup):
    """The group of all commands, and the one place where an error becomes a sentence and an exit code."""

    def main(self, *arguments: Any, **options: Any) -> Any:
        """Run a command line and leave the process with its code; arguments are as ``click.Command.main``'s."""
        given = [*arguments[:1], options.get("args")][0]
        line = list(sys.argv[1:] if given is None else given)
        own = line[: line.index("--")] if "--" in line else line
        as_json = "--json" in own
        try:
            code = super().main(*arguments, **{**options, "standalone_mode": False})
        except DecentraError as error:
            code = tell(as_json, str(error), _kind(error))
        except _UsageError as error:
            said = error.format_message().rstrip(".")
            told = said[:1].lower() + said[1:] + (" See" if said.endswith("?") else "; see")
            command = "decentra" if error.ctx is None else error.ctx.command_path
            code = tell(as_json, f"{told} `{command} --help`", "usage")
        sys.exit(code if isinstance(code, int) else 0)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """As click's, with more help for a command that is not there."""
        name = args[0]
        try:
            return super().resolve_command(ctx, args)
        except _UsageError as error:
            if "Did you mean" not in error.message:
                error.message = f"no such command {name!r}; {self._instead(ctx, name)}"
            raise

    def _instead(self, ctx: Any, name: str) -> str:
        for group, command in self.commands.items():
            if isinstance(command, TyperGroup) and name in command.commands:
                return f"it is `{ctx.command_path} {group} {name}`"
        return f"the commands are {', '.join(self.list_commands(ctx))}"


def _kind(error: DecentraError) -> str:
    match error:
        case LocalError():
            return "local"
        case Unavailable():
            return "unavailable"
        case RemoteError():
            return "remote"
        case _:
            return "failed"


def tell(as_json: bool, sentence: str, kind: str, code: int | None = None) -> int:
    """Print an error on stderr; the exit code, which is that of its kind unless the command has its own."""
    text = json.dumps({"error": sentence, "kind": kind}, ensure_ascii=False) if as_json else f"error: {sentence}"
    print(text, file=sys.stderr)
    if code is not None:
        return code
    return MISUSED if kind in ("local", "usage") else FAILED


def emit(as_json: bool, data: Mapping[str, Any], lines: Iterable[str]) -> None:
    """Print a command's outcome on stdout: ``data`` as one JSON object, or ``lines`` for people."""
    if as_json:
        print(json.dumps(data, ensure_ascii=False))
    else:
        for line in lines:
            print(line)
