"""The demo's private texts: multi-line string literals of packages that are installed anyway.

A silo is one package's documentation (or a family's), so the silos differ as real parties' data do: each has its own
subject and its own habits of writing. Sources are read with ``ast`` and never imported. Sizes move with the installed
versions, and nothing here depends on them.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import os
import re
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from inspect import cleandoc
from pathlib import Path

from decentra.errors import LocalError

MAX_PEERS = 16
"""With more peers than silos the silos are shared out in parts, and parts below 300 kB teach a model little."""

_MIN_PEERS = 3  # secagg hides an update among at least two others
_MIN_CHARACTERS = 80  # shorter literals are names, formats and error messages, not prose
_MIN_NEWLINES = 2
_HELD_OUT_BELOW = 26  # first byte of a text's SHA-256: 26 of 256, about a tenth, is never trained on
_MIN_BYTES = 65_536  # a smaller silo was installed without its documentation
_SEPARATOR = b"\n\n"
_SKIPPED = frozenset(
    {"test", "tests", "testing", "idle_test", "_vendor", "_vendored", "_bundled", "site-packages", "dist-packages"}
)
"""Directories with tests and vendored code, and those that hold other packages."""


@dataclass(frozen=True)
class Silo:
    """One party's text.

    Attributes:
        name: such as ``"numpy"``, or ``"numpy-2of3"`` for a part.
        train: what the party trains on, UTF-8; it never leaves the party's process.
        held_out: texts that nobody trains on, UTF-8; public in the demo, to measure every model on every silo.
    """

    name: str
    train: bytes
    held_out: bytes


@dataclass(frozen=True)
class _Source:
    """Where a silo's texts come from: Python files, and what brings them where they are missing."""

    package: str | None  # None: the standard library
    mend: str
    inside: tuple[str, ...] = ("",)  # files and directories below the package's own directory
    without: frozenset[str] = frozenset()


_STANDARD = "install the whole standard library (on Debian: apt install libpython3-stdlib)"
_DECENTRA = "pip install decentra"
_SOURCES: dict[str, tuple[_Source, ...]] = {
    "stdlib": (
        _Source(
            None,
            _STANDARD,
            # The topics are a silo of their own; the others hold tables and programs, and little prose for the time.
            without=frozenset(
                {"pydoc_data", "encodings", "idlelib", "lib2to3", "distutils", "turtledemo", "ensurepip"}
            ),
        ),
    ),
    "torch": (
        _Source(
            "torch",
            "pip install 'decentra[torch]'",
            inside=("_torch_docs.py", "_tensor_docs.py", "nn", "optim", "distributions", "utils/data"),
        ),
    ),
    "numpy": (_Source("numpy", _DECENTRA),),
    "tools": tuple(
        _Source(package, _DECENTRA) for package in ("cryptography", "zmq", "msgpack", "pydantic", "typer", "rich")
    ),
    "pydoc": (_Source(None, _STANDARD, inside=("pydoc_data",)),),
}
_SPLIT = ("numpy", "torch", "stdlib", "tools")  # the larger silos give further parts, in turn
_PART = re.compile(r"(?P<silo>[a-z]+)-(?P<part>\d+)of(?P<parts>\d+)")


def silo_names(peers: int) -> tuple[str, ...]:
    """Names one silo for each peer.

    Three to five peers hold a whole silo each. Beyond that the larger silos are split by hash into disjoint parts.

    Raises:
        LocalError: there is not text for so many peers, or so few cannot hide an update.
    """
    if not _MIN_PEERS <= peers <= MAX_PEERS:
        raise LocalError(f"the demo runs {_MIN_PEERS} to {MAX_PEERS} peers and was asked for {peers}; choose --peers")
    whole = tuple(_SOURCES)
    parts = dict.fromkeys(whole[:peers], 1)
    for extra in range(peers - len(whole)):
        parts[_SPLIT[extra % len(_SPLIT)]] += 1
    return tuple(
        silo if count == 1 else f"{silo}-{part}of{count}"
        for silo, count in parts.items()
        for part in range(1, count + 1)
    )


def load(name: str) -> Silo:
    """Reads one silo, by a name that ``silo_names`` gave; takes a second or two of CPU for the largest.

    Equal texts count once. A text belongs to the held-out part by its own hash, so what one silo holds out no other
    silo trains on, even where packages quote each other.

    Raises:
        LocalError: no such silo, or its package is missing or has no documentation.
    """
    silo, part, parts = _parse(name)
    train: list[bytes] = []
    held_out: list[bytes] = []
    for digest, text in _distinct(_literals(path) for source in _SOURCES[silo] for path in _files(source)):
        if digest[1] % parts == part - 1:
            (held_out if digest[0] < _HELD_OUT_BELOW else train).append(text)
    found = Silo(name, _SEPARATOR.join(train), _SEPARATOR.join(held_out))
    if len(found.train) < _MIN_BYTES:
        raise LocalError(
            f"silo {name} has only {len(found.train)} bytes of text, so its package was installed without its sources"
            f" or docstrings; {_SOURCES[silo][0].mend}"
        )
    return found


def _parse(name: str) -> tuple[str, int, int]:
    """``"numpy-2of3"`` → (numpy, 2, 3); ``"numpy"`` → (numpy, 1, 1)."""
    match = _PART.fullmatch(name)
    silo, part, parts = (match["silo"], int(match["part"]), int(match["parts"])) if match else (name, 1, 1)
    if silo not in _SOURCES or not 1 <= part <= parts <= MAX_PEERS:
        raise LocalError(f"there is no silo {name!r}; choose from {', '.join(_SOURCES)}")
    return silo, part, parts


def _directory(source: _Source) -> Path:
    """A package's directory, found without importing it (a submodule's spec would import its parents)."""
    if source.package is None:
        return Path(sysconfig.get_path("stdlib"))
    spec = importlib.util.find_spec(source.package)
    if spec is None or not spec.submodule_search_locations:
        raise LocalError(f"the demo reads the texts of {source.package}, which is not installed; {source.mend}")
    return Path(spec.submodule_search_locations[0])


def _files(source: _Source) -> Iterator[Path]:
    """The source's Python files in sorted order, the same on every machine with the same versions."""
    directory = _directory(source)
    skipped = _SKIPPED | source.without
    for inside in source.inside:
        if inside.endswith(".py"):
            if (directory / inside).is_file():
                yield directory / inside
            continue
        for parent, children, names in os.walk(directory / inside):
            children[:] = sorted(child for child in children if child not in skipped)
            yield from (Path(parent, name) for name in sorted(names) if name.endswith(".py"))


def _literals(path: Path) -> Iterator[str]:
    """A file's multi-line string literals, dedented."""
    source = path.read_bytes()
    if b'"""' not in source and b"'''" not in source and rb"\n" not in source:
        return  # no literal of several lines: parsing is what costs
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other people's escape sequences
            tree = ast.parse(source)
    except SyntaxError:  # templates and samples of other languages are not ours to judge
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
            if len(text) >= _MIN_CHARACTERS and text.count("\n") >= _MIN_NEWLINES:
                yield cleandoc(text)


def _distinct(files: Iterable[Iterable[str]]) -> Iterator[tuple[bytes, bytes]]:
    """(SHA-256, UTF-8 text) of every text, the first time that it comes."""
    seen: set[bytes] = set()
    for texts in files:
        for text in texts:
            data = text.encode(errors="ignore")  # a literal may hold lone surrogates
            digest = hashlib.sha256(data).digest()
            if digest not in seen:
                seen.add(digest)
                yield digest, data
