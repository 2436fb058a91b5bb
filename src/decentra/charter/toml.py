"""TOML in and out: frozen models from a file, with every problem told at once, and a small deterministic writer.

``read`` turns a text into a pydantic model and raises one LocalError that lists all problems, each with its mend.
``write`` is its inverse for tables of text, numbers, booleans, arrays of those, tables and arrays of tables.
"""

from __future__ import annotations

import os
import re
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from decentra.durable import sync_folder
from decentra.errors import LocalError, did_you_mean

MAX_TEXT = 1 << 22
"""Largest file read, in bytes: 4,096 members and their signatures need 3 MiB, and more is a mistake or an attack."""

PIECE = 1 << 18
"""Bytes read at a time."""

MAX_LINE = 1024
"""Characters in a line: a key of 30,000 parts in one line would take gigabytes to parse."""

MOST_TOLD = 20
"""Problems that one error lists; a file that is something else altogether has thousands."""

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


class Section(BaseModel):
    """A table of a file of ours: strict types, no unknown keys, no inf or nan, and nothing changes after reading."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)


Model = TypeVar("Model", bound=Section)


def raise_problems(where: str, problems: Sequence[str], further: int = 0) -> None:
    """Raise one LocalError for all problems of ``where``, the first 20 in words; none, and nothing happens.

    Args:
        where: the file's name.
        problems: a sentence each.
        further: how many more there are, without words.

    Raises:
        LocalError: a sentence for one problem, a list of sentences for more.
    """
    if len(problems) == 1:
        raise LocalError(f"{where}: {problems[0]}")
    if problems:
        listed = "".join(f"\n  {number}. {problem}" for number, problem in enumerate(problems[:MOST_TOLD], 1))
        count = len(problems) + further
        more = "" if count <= MOST_TOLD else "\n  and more: mend these first"
        raise LocalError(f"{where} has {count} problems:{listed}{more}")


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def read_text(path: Path, mend: str) -> str:
    """The text of a file.

    Args:
        path: the file.
        mend: what to do where there is no such file.

    Raises:
        LocalError: the file is missing, unreadable, above 4 MiB or not UTF-8.
    """
    try:
        with path.open("rb") as file:
            raw = b""
            while len(raw) <= MAX_TEXT and (piece := file.read(PIECE)):  # not at once, or a small file costs the limit
                raw += piece
    except FileNotFoundError:
        raise LocalError(f"there is no {path}; {mend}") from None
    except OSError as error:
        raise LocalError(f"cannot read {path}: {error.strerror}; check its owner and permissions") from None
    if len(raw) > MAX_TEXT:
        raise LocalError(f"{path} is larger than {MAX_TEXT} bytes, which no file of decentra's is; name the right file")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise LocalError(f"{path} is not UTF-8 text; name the right file") from None


def read(text: str, model: type[Model], where: str) -> Model:
    """The model that a TOML text describes.

    Args:
        text: TOML.
        model: what it must describe.
        where: the file's name, for messages.

    Raises:
        LocalError: the text is no TOML, or has problems; all of them are listed, each with its mend.
    """
    return build(load_tables(text, where), model, where)


def load_tables(text: str, where: str) -> dict[str, Any]:
    """The tables of a TOML text as plain dictionaries.

    Raises:
        LocalError: the text is no TOML.
    """
    if len(text) > MAX_TEXT or any(len(line) > MAX_LINE for line in text.split("\n")):
        raise LocalError(f"{where} is longer, or has a longer line, than any file of decentra's; name the right file")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise LocalError(f"{where} is not valid TOML: {error}; mend that line") from None
    except (ValueError, RecursionError):  # integers of thousands of digits, arrays nested a thousand deep
        raise _unreadable(where) from None


def _unreadable(where: str) -> LocalError:
    return LocalError(f"{where} is not readable as TOML; start again from `decentra init`")


def build(tables: Mapping[str, Any], model: type[Model], where: str) -> Model:
    """The model of already parsed tables; raises as ``read``."""
    try:
        return model.model_validate(_tuples(dict(tables)))
    except ValidationError as error:
        details = error.errors(include_url=False)
        problems = list(dict.fromkeys(_sentence(detail, model) for detail in details[: MOST_TOLD + 1]))
        raise_problems(where, problems, max(0, len(details) - MOST_TOLD - 1))
        raise  # unreachable: a ValidationError has at least one error
    except RecursionError:
        raise _unreadable(where) from None


def _tuples(value: Any) -> Any:
    """Arrays as tuples: strict models hold nothing that could change."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_tuples(item) for item in value)
    return value


_KINDS = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "a text in quotes",
    "bool_type": "true or false",
    "tuple_type": "an array",
    "mapping_type": "a table",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
}
_BOUNDS = {
    "greater_than": ("above", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("below", "lt"),
    "less_than_equal": ("at most", "le"),
}


def _sentence(detail: ErrorDetails, model: type[Section]) -> str:
    """One problem in words: what is wrong, where, and its mend."""
    kind, location, context = detail["type"], detail["loc"], detail.get("ctx", {})
    if not location:
        return str(context.get("error", detail["msg"]))
    key, holder = str(location[-1]), _model_at(model, location[:-1])
    if kind == "extra_forbidden":
        return f"unknown key {key!r} {_place(location[:-1])}; {_right_key(key, holder, model)}"
    mend = _mend(key, holder)
    name = _named(location)
    if kind == "missing":
        return f"{name} is missing; {mend or 'add it'}"
    if kind == "value_error":
        return f"{name} {context['error']}"
    return f"{name} must be {_wanted(detail)}, not {shown(detail['input'])}{f'; {mend}' if mend else ''}"


def _wanted(detail: ErrorDetails) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind in _BOUNDS:
        word, bound = _BOUNDS[kind]
        return f"{word} {context[bound]:.15g}"
    if kind == "too_long":
        return f"an array of {context['max_length']}"
    if kind == "literal_error":
        return str(context["expected"])
    return _KINDS.get(kind, f"right ({detail['msg'].lower()})")


def _named(location: Sequence[int | str]) -> str:
    """What a problem is about, and where that stands."""
    match list(location):
        case [*path, str(table), int(index)]:
            return f"item {index + 1} of {table!r} {_place(path)}"
        case [*path, str(key), "[key]"]:
            return f"the key {key!r} {_place(path)}"
        case [*path, key]:
            return f"{str(key)!r} {_place(path)}"
        case _:
            return "the file"


def _place(location: Sequence[int | str]) -> str:
    match list(location):
        case []:
            return "at the top"
        case [str(table), int(index)]:
            return f"in [[{table}]] number {index + 1}"
        case path:
            return f"in [{'.'.join(map(str, path))}]"


def _model_at(model: type[Section], location: Sequence[int | str]) -> type[Section] | None:
    """The model of the table at ``location``; None where that table has no keys of its own, such as [peers]."""
    here: type[Section] | None = model
    for step in location:
        if isinstance(step, int):
            continue
        field = None if here is None else here.model_fields.get(step)
        here = None if field is None else _section_of(field.annotation)
    return here


def _section_of(annotation: Any) -> type[Section] | None:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _section_of(inner)) is not None), None)


def _right_key(key: str, holder: type[Section] | None, model: type[Section]) -> str:
    """Where a key that is not known here belongs: a slip of the finger, another table, or nowhere."""
    if holder is None:
        return "remove it"
    for table, field in model.model_fields.items():
        section = _section_of(field.annotation)
        if section is not None and section is not holder and key in section.model_fields:
            return f"it belongs in [{table}]"
    return did_you_mean(key, holder.model_fields, f"the keys there are {', '.join(holder.model_fields)}")


def _mend(key: str, holder: type[Section] | None) -> str | None:
    """What to write for a key: the field's own words, or its example."""
    field = None if holder is None else holder.model_fields.get(key)
    if field is None:
        return None
    if field.examples:
        return f"write for example {key} = {_value(field.examples[0])}"
    is_table = isinstance(field.annotation, type) and issubclass(field.annotation, Section)
    return f"add the table [{key}]" if is_table else field.description


def shown(value: Any) -> str:
    """A wrong value as its author wrote it, cut to a line."""
    match value:
        case bool():
            text = str(value).lower()
        case dict():
            return "a table"
        case tuple():
            return f"an array of {len(value)}"
        case int() if value.bit_length() > 128:
            return "a number of that size"
        case _:
            text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}…"


# ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def write(tables: Mapping[str, Any]) -> str:
    """TOML of ``tables``, in their order; a None is left out, and an empty table too.

    The same tables give the same text, and ``tomllib`` reads back what went in.
    """
    lines: list[str] = []
    _write_table(tables, (), lines)
    return "\n".join(lines).strip("\n") + "\n"


def _write_table(table: Mapping[str, Any], path: tuple[str, ...], lines: list[str]) -> None:
    plain = {key: value for key, value in table.items() if value is not None and not _is_table(value)}
    lines.extend(f"{_key(key)} = {_value(value)}" for key, value in plain.items())
    for key, value in table.items():
        inner = (*path, key)
        name = ".".join(map(_key, inner))
        if isinstance(value, Mapping) and any(item is not None for item in value.values()):
            lines.extend(("", f"[{name}]"))
            _write_table(value, inner, lines)
        elif _is_table(value) and not isinstance(value, Mapping):
            for item in value:
                lines.extend(("", f"[[{name}]]"))
                _write_table(item, inner, lines)


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping) or (
        isinstance(value, list | tuple) and len(value) > 0 and all(isinstance(item, Mapping) for item in value)
    )


def _key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else _text(key)


def _value(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case int() | float():
            return repr(value)
        case str():
            return _text(value)
        case bytes():
            return _text(value.hex())
        case list() | tuple():
            return _array([_value(item) for item in value])
        case _:
            raise TypeError(f"TOML has no {type(value).__name__}")


def _array(items: Sequence[str]) -> str:
    """On one line, or where that is long, an item a line."""
    line = f"[{', '.join(items)}]"
    return line if len(line) <= MAX_LINE // 8 else "[\n" + "".join(f"    {item},\n" for item in items) + "]"


def _text(text: str) -> str:
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in quoted) + '"'


def save_text(path: Path, text: str, mode: int = 0o644) -> None:
    """Replace a file at once: written beside it, made durable, renamed; a crash leaves the old one or the new one,
    and a loss of power after the return the new one.

    Raises:
        LocalError: the folder cannot be written.
    """
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                os.fchmod(handle, mode)
                file.write(text)
                file.flush()
                os.fsync(handle)
            Path(name).replace(path)
            sync_folder(path.parent)
        finally:
            Path(name).unlink(missing_ok=True)  # it has its new name by now, unless something failed
    except OSError as error:
        raise LocalError(f"cannot write {path}: {error.strerror}; check the folder and its owner") from None
