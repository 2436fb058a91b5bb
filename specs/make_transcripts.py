"""Writes the conformance suite: ``python specs/make_transcripts.py``; with ``--check`` it compares and writes nothing.

A *good* log is what real machines signed in a simulated round, with fixed identities and randomness, so that its bytes
are always the same. A *bad* one is a good one in which one peer signs one lie, under its own key and in its own chain.
The good ones are made in ``scenes.py``. ``conformance.json`` says what an auditor must find in each; it comes from what
was lied here, not from any auditor.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from decentra.types import PeerId

SPECS = Path(__file__).resolve().parent
sys.path.insert(0, str(SPECS))

from lies import BESIDE, LIES, UNDECIDED  # noqa: E402
from scenes import MASKED, SCENES, START, file_of, honest, scene  # noqa: E402

EXPECTED = SPECS / "conformance.json"


def shuffled() -> bytes:
    """The entries of a good round in an order that nobody signed, each third one twice."""
    log = honest("secagg", MASKED)
    entries = sorted(log.signed(), key=lambda one: sha256(one.entry).digest())
    return file_of(log.charter, [*entries, *entries[::3]])


def restarted() -> bytes:
    """A peer's second process leaves."""
    log = honest("secagg", START)
    log.add(log.ids[2], "rendezvous.leave", boot=2)
    return file_of(log.charter, log.signed())


def _place(path: str) -> str:
    folder, _, name = path.partition("/")
    return f"{folder}/transcripts/{name}.log"


def made() -> dict[str, bytes]:
    """Every file of the suite by its place in ``specs``; last what is expected of them, a line each."""
    files: dict[str, bytes] = {}
    expected: dict[str, dict[str, Any]] = {}

    def keep(path: str, content: bytes, verdict: str, *violations: tuple[str, PeerId]) -> None:
        files[_place(path)] = content
        pairs = sorted([clause, who.hex()] for clause, who in violations)
        expected[_place(path)] = {"verdict": verdict, "violations": pairs}

    for one in SCENES:
        keep(one.path, scene(one), "clean")
    keep("wire/good-shuffled", shuffled(), "clean")
    keep("wire/good-restart", restarted(), "clean")
    for each in LIES:
        log = honest(each.protocol, each.part, each.story)
        liar = each.twist(log).who
        clauses = [each.clause, *([BESIDE[each.path]] if each.path in BESIDE else ())]
        keep(each.path, file_of(log.charter, log.signed()), "violation", *((clause, liar) for clause in clauses))
    for path, made_by in UNDECIDED.items():
        keep(path, made_by(), "undecided")
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(expected[name])}" for name in sorted(expected))
    listed = f'{{"version": 1, "files": {{\n{lines}\n}}}}\n'
    return {**dict(sorted(files.items())), EXPECTED.name: listed.encode()}


def differing(files: Mapping[str, bytes]) -> list[str]:
    """What the folder has otherwise than these files, a few words each."""
    there = {path.relative_to(SPECS).as_posix() for path in SPECS.glob("*/transcripts/*")}
    found = [f"{name} is none of the suite" for name in sorted(there - files.keys())]
    for name, content in files.items():
        path = SPECS / name
        if not path.is_file():
            found.append(f"{name} is not there")
        elif path.read_bytes() != content:
            found.append(f"{name} has other bytes")
    return found


def main() -> int:
    """Write the suite, or compare it."""
    reader = argparse.ArgumentParser(description="Write the conformance suite of the auditor's rules.")
    reader.add_argument("--check", action="store_true", help="compare with what is there, and write nothing")
    check = reader.parse_args().check
    files = made()
    if check:
        found = differing(files)
        for one in found:
            print(one)
        say = f"{len(found)} files differ from what the specs give; run: python specs/make_transcripts.py"
        print(say if found else f"{len(files)} files are what the specs give")
        return 1 if found else 0
    for path in SPECS.glob("*/transcripts/*"):
        if path.relative_to(SPECS).as_posix() not in files:
            path.unlink()
    for name, content in files.items():
        (SPECS / name).parent.mkdir(exist_ok=True)
        (SPECS / name).write_bytes(content)
    size = sum(map(len, files.values()))
    print(f"{len(files)} files, {size / 1e6:.2f} MB; the largest has {max(map(len, files.values())) / 1e3:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
