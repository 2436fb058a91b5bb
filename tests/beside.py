"""What stands beside the specs and is in no package: their scripts and models, and their known-answer vectors."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SPECS = Path(__file__).resolve().parent.parent / "specs"


def program(path: Path) -> Any:
    """A script or a model, loaded afresh under a name of its own; dataclasses look their module up by that name."""
    name = f"{path.parent.name}_{path.stem}"
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or found.loader is None:
        raise ImportError(path)
    module: ModuleType = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    found.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Vectors:
    """The vectors of one room of the specs: a file of cases a function, and the script that writes them."""

    folder: Path
    script: Any
    names: list[str]

    def text(self, name: str) -> str:
        return (self.folder / f"{name}.json").read_text("utf-8")

    def cases(self, name: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.text(name))["cases"]
        return found

    @property
    def parameters(self) -> list[Any]:
        """Every case with its function's name, for ``pytest.mark.parametrize``."""
        return [
            pytest.param(name, case, id=f"{name}-{case['name']}") for name in self.names for case in self.cases(name)
        ]


def vectors(room: str) -> Vectors:
    """The vectors of ``specs/<room>``."""
    folder = SPECS / room / "vectors" / "v1"
    names = sorted(path.stem for path in folder.glob("*.json"))
    return Vectors(folder, program(SPECS / room / "make_vectors.py"), names)
