"""Every decoder under arbitrary and changed bytes: it raises what it documents, nothing else, and takes little memory.

``decoders`` lists them. What the fuzzer found (``benches/fuzz.py``) is kept below as cases.
"""

from __future__ import annotations

import contextlib
import sqlite3
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decoders import DECODERS, Decoder, file_of, journal_file, read

MOST = 1 << 16

HOSTILE = st.sampled_from(
    [
        *(b"\x91", b"\xdc\xff\xff", b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\x80", b"\xc0", b"\0", b"\xff"),
        *(b"[[a]]\n", b"[", b"a=1\n", b"a.a.", b'"', b"'''", b"\n", b"9", b"\\U0010ffff", b"SQLite format 3\0"),
    ]
)
"""What announces much, nests, or begins something."""


@st.composite
def changed(draw: st.DrawFn, decoder: Decoder) -> bytes:
    """A valid input with a few bytes replaced, cut out, put in or repeated."""
    raw = bytearray(draw(st.sampled_from(decoder.examples)))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(raw)))
        end = min(len(raw), start + draw(st.integers(0, 8)))
        repeated = st.builds(lambda piece, count: piece * count, HOSTILE, st.integers(1, 200))
        raw[start:end] = draw(st.binary(max_size=8) | HOSTILE | repeated)
    return bytes(raw)


def inputs(decoder: Decoder) -> st.SearchStrategy[bytes]:
    pieces = HOSTILE | st.binary(min_size=1)
    many = st.builds(lambda piece, size: piece * (size // len(piece)), pieces, st.integers(1, MOST))
    anything = st.binary(max_size=400) | many
    return anything | changed(decoder) if decoder.examples else anything


@pytest.mark.parametrize("name", DECODERS)
@given(data=st.data())
@settings(max_examples=30)
def test_whatever_the_bytes_a_decoder_raises_what_it_documents_and_takes_little_memory(
    name: str, data: st.DataObject
) -> None:
    decoder = DECODERS[name]
    holds(decoder, data.draw(inputs(decoder)))


def holds(decoder: Decoder, raw: bytes) -> None:
    read(decoder, raw)  # what is cached at the first call is not the input's
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        read(decoder, raw, again=False)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most - before <= 4 * len(raw) + decoder.beyond


@pytest.mark.parametrize("name", [name for name, decoder in DECODERS.items() if decoder.examples])
def test_the_examples_themselves_are_read(name: str) -> None:
    decoder = DECODERS[name]
    for raw in decoder.examples:
        assert read(decoder, raw)
        holds(decoder, raw)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE entries SET round = 'many'",
        "UPDATE entries SET round = x'00'",
        "UPDATE entries SET entry = 10000000000",
        "UPDATE entries SET entry = 'text'",
        "UPDATE entries SET body = 3.5",
        "DROP TABLE entries; CREATE TABLE entries (session)",
        "DROP TABLE starts; CREATE TABLE starts (boot TEXT NOT NULL)",
    ],
)
def test_a_journal_that_holds_other_values_than_are_written_is_refused(change: str) -> None:
    with file_of(journal_file()) as path:
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.executescript(change)
        changed = path.read_bytes()
    assert not read(DECODERS["journal"], changed)
