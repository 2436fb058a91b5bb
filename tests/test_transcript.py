"""Transcripts as files: what was written is read, what is none is refused, and neither costs much memory."""

from __future__ import annotations

import tracemalloc
from contextlib import suppress
from pathlib import Path

import pytest

from decentra.audit.transcript import HEAD, read, write
from decentra.errors import LocalError
from decentra.wire.codec import MAX_BODY, MIN_ENTRY, pack

RECORD = pack((bytes(MIN_ENTRY), b""))
CHARTER = "version = 1\n"


def test_a_file_that_is_no_transcript_is_refused(tmp_path: Path) -> None:
    charters = (pack(("other", b"")), pack((HEAD, b"\xff")), pack((HEAD, CHARTER)))
    for content in (b"\xc1", b"\x01", b"\x92\xc4\x01", b"\x93" + RECORD[1:], b"\x92\xc4\x00\xc4\x00", *charters):
        (tmp_path / "x.log").write_bytes(content)
        with pytest.raises(LocalError, match=r"x\.log is no transcript from byte 0 on .*; ask its peer for a whole"):
            assert not list(read(tmp_path / "x.log"))
    with pytest.raises(LocalError, match=r"the transcript .* can't be read \(No such file or directory\)"):
        list(read(tmp_path / "y.log"))


@pytest.mark.parametrize("bodies", [[0, 0, 0], [0, MAX_BODY, 1, MAX_BODY, MAX_BODY], [300_000] * 12])
def test_what_was_written_is_read_and_a_cut_is_said_to_be_in_the_last_entry(bodies: list[int], tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    log = [(bytes([place]) * MIN_ENTRY, bytes([place]) * size) for place, size in enumerate(bodies)]
    write(path, CHARTER, log)
    heads: list[str] = []
    assert [(signed.entry, signed.body) for signed in read(path, heads.append)] == log
    assert heads == [CHARTER]
    begins = sum(len(pack(record)) for record in ((HEAD, CHARTER.encode()), *log[:-1]))
    for cut in (1, len(pack(log[-1])) - 1):
        path.write_bytes(path.read_bytes()[: begins + len(pack(log[-1])) - cut])
        came: list[bytes] = []
        with pytest.raises(LocalError, match=f"is no transcript from byte {begins} on"):
            came.extend(signed.entry for signed in read(path))
        assert came == [entry for entry, _ in log[:-1]]


@pytest.mark.parametrize(
    "content",
    [b"\xdc\xff\xff" * 30_000, b"\x91" * 100_000, b"\xdd\x00\x00\xff\xff" + b"\xc0" * 100_000, RECORD * 400],
    ids=["arrays in arrays", "deep", "of nothing", "whole"],
)
def test_reading_a_file_costs_at_most_four_times_its_size_whatever_it_holds(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with suppress(LocalError):
            assert len(list(read(path))) == 400
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 4 * len(content)
