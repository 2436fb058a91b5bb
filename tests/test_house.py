"""The house: an arrow points down only, importing costs nothing, and what the style forbids is not there."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pytest

import decentra

SOURCE = Path(__file__).resolve().parent.parent / "src"
PACKAGE = SOURCE / "decentra"
FILES = sorted(PACKAGE.rglob("*.py"))
LONGEST = 600

# ── the floors ───────────────────────────────────────────────────────────────────────────────────────────────────────


class Room(NamedTuple):
    """A room's floor, the floors below that it may use, and which of their rooms, where not all.

    ``beside`` are rooms of its own floor, or of those left out, that it may use all the same."""

    floor: int
    below: range
    only: frozenset[str] | None = None
    beside: frozenset[str] = frozenset()


def upto(floor: int) -> range:
    return range(floor + 1)


FLOORS = {
    "errors": Room(0, upto(0)),
    "types": Room(0, upto(0)),
    "data": Room(0, upto(0)),
    "durable": Room(0, upto(0)),
    "memory": Room(0, upto(0)),
    "crypto": Room(1, upto(0)),
    "derive": Room(1, upto(0), beside=frozenset({"crypto"})),
    "grids": Room(1, upto(0)),
    "robust": Room(1, upto(0)),
    "spec": Room(1, upto(0)),
    "wire": Room(2, upto(1)),
    "charter": Room(2, upto(1), beside=frozenset({"wire"})),
    "machine": Room(2, upto(1), beside=frozenset({"wire"})),
    "protocols": Room(3, upto(2)),
    # It must not import the machines that it judges.
    "audit": Room(3, upto(2)),
    "gossip": Room(3, upto(2)),
    "transport": Room(4, upto(2)),
    "transfer": Room(4, upto(2)),
    # The driver's ports are written in terms of the transport's interface, and it puts a transfer's link on each
    # neighbour: DESIGN.md, "The house". Neither of the two knows the driver.
    "driver": Room(4, upto(3), beside=frozenset({"transport", "transfer"})),
    "peer": Room(5, upto(4)),
    "simulation": Room(5, upto(4)),
    # It stands above both runtimes, which must not import each other: DESIGN.md, decision 11.
    "groups": Room(6, upto(5)),
    # A training loop talks to a peer, and to nothing between that and the plain floors.
    "training": Room(6, upto(2), beside=frozenset({"peer"})),
    # Its callbacks in other libraries' loops, each with a library that nothing else needs.
    "hf": Room(6, upto(2), beside=frozenset({"training"})),
    "lightning": Room(6, upto(2), beside=frozenset({"training"})),
    "demo": Room(7, upto(6)),
    "cli": Room(8, upto(7)),
    # `python -m decentra`, which is the command line.
    "__main__": Room(8, range(0), beside=frozenset({"cli"})),
}

OUTSIDE = {
    "torch": {"training", "demo"},
    "transformers": {"hf", "demo"},
    "lightning": {"lightning"},
    "zmq": {"transport"},
    "asyncio": {"transport", "peer"},
    "sqlite3": {"peer", "audit"},
    "msgpack": {"wire"},
    "cryptography": {"crypto"},
    "pydantic": {"charter", "peer", "cli"},
    "typer": {"cli"},
    "rich": {"demo", "cli"},
    "tenseal": {"crypto"},
    # TenSEAL holds the interpreter lock and reads what others sent, so it works in processes of its own.
    "subprocess": {"demo", "crypto"},
    "signal": {"demo", "cli", "crypto"},
}
"""Heavy or worldly modules, and the only rooms that may use them."""

PURE = ("derive", "grids", "spec", "wire", "machine", "protocols", "gossip")
WORLDLY = {"asyncio", "logging", "os", "random", "secrets", "socket", "sqlite3", "subprocess", "threading", "time"}
"""Clocks, randomness, threads and I/O, which machines have from outside."""


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(node: ast.AST, path: Path) -> Iterator[tuple[str, int]]:
    """Every module that a file imports anywhere, also within functions; not what only type checkers see."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for other in child.orelse:
                yield from imports(ast.Module([other], []), path)
        elif isinstance(child, ast.Import):
            yield from ((name.name, child.lineno) for name in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"{path}:{child.lineno}: imports are absolute"
            module = child.module or ""
            names = [f"{module}.{name.name}" for name in child.names] if module == "decentra" else [module]
            yield from ((name, child.lineno) for name in names)
        else:
            yield from imports(child, path)


IMPORTS = [
    (path, line, module) for path in FILES for module, line in imports(ast.parse(path.read_text("utf-8")), path)
]


def allowed(importer: str, imported: str) -> bool:
    room = FLOORS[importer]
    return importer == imported or imported in room.beside or FLOORS[imported].floor in room.below


def test_every_room_has_a_floor_and_every_floor_its_rooms() -> None:
    assert {room_of(path) for path in FILES} - {"__init__"} == set(FLOORS)


def test_the_table_itself_points_down_only() -> None:
    for name, room in FLOORS.items():
        assert all(FLOORS[other].floor <= room.floor for other in room.beside), name
        assert not room.below or max(room.below) < room.floor or room.floor == 0, name
        for other in room.beside:
            assert name not in FLOORS[other].beside, f"{name} and {other} import each other"


@pytest.mark.parametrize("importer", FLOORS)
def test_imports_point_down_only_from(importer: str) -> None:
    for path, line, module in IMPORTS:
        if room_of(path) == importer and module.split(".")[0] == "decentra":
            imported = [*module.split("."), ""][1]
            if imported in ("", "__version__") or imported in decentra.__all__:
                assert FLOORS[importer].floor > 6, f"{path}:{line}: the front door is for who stands above all rooms"
                continue
            assert allowed(importer, imported), f"{path}:{line}: {importer} imports {imported}"


def test_the_checker_sees_a_lazy_import_and_not_one_for_types() -> None:
    text = """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import torch
else:
    import zmq
def late():
    from decentra import cli
    import decentra.peer.runtime
"""
    found = [module for module, _ in imports(ast.parse(text), PACKAGE)]
    assert found == ["typing", "zmq", "decentra.cli", "decentra.peer.runtime"]
    assert not allowed("protocols", "cli")
    assert not allowed("training", "driver")
    assert not allowed("peer", "simulation")


@pytest.mark.parametrize("module", OUTSIDE)
def test_only_its_rooms_use(module: str) -> None:
    users = {room_of(path) for path, _, name in IMPORTS if name.split(".")[0] == module}
    assert users <= OUTSIDE[module]
    assert users, f"nobody uses {module}; take it off the table"


@pytest.mark.parametrize("room", PURE)
def test_no_clock_randomness_thread_or_socket_in(room: str) -> None:
    used = {(str(path), line, name) for path, line, name in IMPORTS if room_of(path) == room}
    assert not {found for found in used if found[2].split(".")[0] in WORLDLY}


def test_no_interface_is_written_down_twice() -> None:
    seen: dict[tuple[str, ...], str] = {}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef) and any(ast.unparse(base) == "Protocol" for base in node.bases):
                calls = [part for part in node.body if isinstance(part, ast.FunctionDef)]
                shape = tuple(f"{call.name} {ast.dump(call.args)} {ast.dump(call.returns or call)}" for call in calls)
                where = f"{path.relative_to(PACKAGE)}: {node.name}"
                assert shape not in seen, f"{where} is {seen[shape]} once more"
                seen[shape] = where
    assert seen


def test_modules_are_loaded_by_name_at_the_front_door_only() -> None:
    """A name in a text would escape this test; `decentra.__getattr__` alone has some, and they are checked below."""
    named = {
        path.relative_to(PACKAGE).as_posix()
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Name | ast.Attribute) and ast.unparse(node).endswith("import_module")
    }
    assert named == {"__init__.py"}


# ── the front door ───────────────────────────────────────────────────────────────────────────────────────────────────

PUBLIC = [
    "DecentraError",
    "LocalError",
    "MixingResult",
    "Peer",
    "PeerId",
    "RemoteError",
    "RoundId",
    "RoundResult",
    "TensorSpec",
    "TrainingPeer",
    "Unavailable",
    "__version__",
    "join",
    "load",
    "local_group",
    "open_peer",
]
CALLBACKS = {"hf": ["Callback"], "lightning": ["Callback"]}
"""Public names in modules that need a library of their own; ``decentra.hf.Callback`` needs no import of its own."""
HEAVY = (
    *("torch", "transformers", "lightning", "zmq", "pydantic", "typer", "rich", "asyncio", "numpy"),
    *("cryptography", "msgpack"),
)


def test_the_public_names_are_these() -> None:
    assert decentra.__all__ == PUBLIC
    assert dir(decentra) == sorted(PUBLIC)


def test_every_public_name_is_where_the_table_of_homes_says() -> None:
    homes = decentra._HOMES
    assert set(homes) == set(PUBLIC) - {"__version__"}
    for name, home in homes.items():
        assert getattr(decentra, name) is getattr(import_module(home), name)
        assert name in import_module(home).__dict__
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = decentra.nothing


@pytest.mark.parametrize("room", CALLBACKS)
def test_the_callbacks_public_names_are_these(room: str) -> None:
    module = getattr(decentra, room)
    assert module is import_module(f"decentra.{room}")
    own = [name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
    assert own == CALLBACKS[room]


def test_importing_decentra_loads_nothing_heavy() -> None:
    loaded = run(f"import sys, decentra; print(len(dir(decentra)), *(n for n in {HEAVY!r} if n in sys.modules))")
    assert loaded == str(len(PUBLIC))


def run(program: str) -> str:
    """What a fresh interpreter prints."""
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True, timeout=120)
    return done.stdout.strip()


def test_nothing_below_training_loads_torch() -> None:
    modules = [
        ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
        for path in FILES
        if room_of(path) in FLOORS and FLOORS[room_of(path)].floor <= 5
    ]
    loaded = run(f"import importlib, sys; [importlib.import_module(n) for n in {modules!r}]; print(*sys.modules)")
    assert set(modules) <= set(loaded.split())
    assert "torch" not in loaded.split()


# ── what is not there ────────────────────────────────────────────────────────────────────────────────────────────────

UNSAFE_MODULES = {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "code", "codeop"}
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__"}


def broad(handler: ast.ExceptHandler) -> bool:
    """Catches everything and does not pass it on: cleaning up before a bare ``raise`` is allowed."""
    named = [] if handler.type is None else [node.id for node in ast.walk(handler.type) if isinstance(node, ast.Name)]
    last = handler.body[-1]
    passed_on = isinstance(last, ast.Raise) and last.exc is None
    return "Exception" in named or ((handler.type is None or "BaseException" in named) and not passed_on)


def faults(tree: ast.Module) -> list[str]:
    """What may not stand in the library, each with its line."""
    found = []
    for node in ast.walk(tree):
        match node:
            case ast.Assert():
                found.append(f"{node.lineno}: assert, which python -O drops")
            case ast.ExceptHandler() if broad(node):
                found.append(f"{node.lineno}: an except that hides everything")
            case ast.Call(func=ast.Name(id=name)) if name in UNSAFE_CALLS:
                found.append(f"{node.lineno}: {name}")
            case ast.Call(func=ast.Attribute(value=ast.Name(id="torch"), attr="load")):
                found.append(f"{node.lineno}: torch.load, which can run code")
            case ast.Call(keywords=keywords):
                for keyword in keywords:
                    on = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
                    if (keyword.arg == "allow_pickle" and not on) or keyword.arg == "shell":
                        found.append(f"{node.lineno}: {keyword.arg}")
            case ast.Import(names=names):
                found += [f"{node.lineno}: {name.name}" for name in names if name.name.split(".")[0] in UNSAFE_MODULES]
            case ast.ImportFrom(module=str(module)) if module.split(".")[0] in UNSAFE_MODULES:
                found.append(f"{node.lineno}: {module}")
    return found


@pytest.mark.parametrize(
    "text",
    [
        "assert x",
        "try:\n    pass\nexcept:\n    pass",
        "try:\n    pass\nexcept Exception:\n    raise",
        "try:\n    pass\nexcept (ValueError, Exception) as error:\n    pass",
        "try:\n    pass\nexcept BaseException:\n    pass",
        "import pickle",
        "from marshal import loads",
        "eval('1')",
        "exec('1')",
        "torch.load(path)",
        "np.load(path, allow_pickle=True)",
        "run(line, shell=True)",
    ],
)
def test_the_checker_finds(text: str) -> None:
    assert len(faults(ast.parse(text))) == 1


def test_the_checker_lets_clean_code_pass() -> None:
    text = "try:\n    model.eval()\nexcept BaseException:\n    undo()\n    raise\nexcept ValueError:\n    pass"
    assert faults(ast.parse(text)) == []
    assert faults(ast.parse("np.load(path, allow_pickle=False)")) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_file_is_short_says_what_it_is_and_holds_nothing_unsafe(path: Path) -> None:
    text = path.read_text("utf-8")
    tree = ast.parse(text)
    assert len(text.splitlines()) <= LONGEST
    assert ast.get_docstring(tree), "every module says in a sentence what it is"
    assert faults(tree) == []
