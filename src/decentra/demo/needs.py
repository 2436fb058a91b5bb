"""Packages that a demo or a peer program needs and decentra does not bring."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping

from decentra.errors import LocalError


def refuse_missing(packages: Mapping[str, str]) -> None:
    """Check that packages can be imported, without importing them.

    Args:
        packages: what installs each, by its name in Python.

    Raises:
        LocalError: one or more are missing; it says which lines install them.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        lines = dict.fromkeys(packages[name] for name in missing)
        verb = "is" if len(missing) == 1 else "are"
        raise LocalError(f"{', '.join(missing)} {verb} not installed here; run: {' && '.join(lines)}")
