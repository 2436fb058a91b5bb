"""What decoders of the wire cost at worst.

    python benches/decoding.py

Bytes that are refused may take 5 ms of CPU a MiB. A whole valid body, with as many values as its spec has room for, may
take as much, whatever its size: a Python object a value cannot be had for less. Exit code 1 if anything takes more.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "src")]

from decentra.spec import FieldType  # noqa: E402
from decentra.types import PeerId  # noqa: E402
from decentra.wire.codec import MAX_BODY, MIN_ENTRY, Signed  # noqa: E402
from decoders import CODEC, DECODERS, LOCAL, Decoder, read  # noqa: E402

MIB = 1 << 20
MOST_REFUSED, MOST_WHOLE = 5.0, 5.0


def worst(size: int) -> Iterator[tuple[str, bytes]]:
    """Inputs that announce or hold as many values as they can."""
    for piece in map(bytes.fromhex, ("91", "dcffff", "00", "c0", "80", "ff", "a0", "c400", "92c400c400")):
        yield piece.hex(), piece * (size // len(piece))
        for count in (16, 64, 4096, 65535):
            yield f"[{count}] of {piece.hex()}", b"\xdc" + count.to_bytes(2, "big") + piece * (size // len(piece))
            yield f"[[{count}] of {piece.hex()}]", b"\x91\xdc" + count.to_bytes(2, "big") + piece * (size // len(piece))


def fullest(field: FieldType) -> object:
    """A value with as many objects for its bytes as a field can hold."""
    inner = field.inner
    match field.name:
        case "uint":
            return 0
        case "text":
            return ""
        case "bytes":
            return b""
        case "peer":
            return PeerId(bytes(32))
        case "entry":
            return Signed(bytes(MIN_ENTRY), b"")
        case "list" if inner is not None:
            return tuple(fullest(inner) for _ in range(field.cap))
        case "map" if inner is not None:
            return tuple((PeerId(number.to_bytes(32, "big")), fullest(inner)) for number in range(field.cap))
        case _:
            return bytes(field.cap)


def milliseconds(decoder: Decoder, raw: bytes) -> float:
    """Of CPU, the least of five times."""
    times = []
    for _ in range(5):
        began = time.process_time()
        read(decoder, raw, again=False)
        times.append(time.process_time() - began)
    return min(times) * 1000


def main() -> int:
    worse = False
    for name, decoder in DECODERS.items():
        if name in LOCAL:
            continue
        most, which = max((milliseconds(decoder, raw) / (len(raw) / MIB), what) for what, raw in worst(MAX_BODY - 8))
        worse |= most > MOST_REFUSED
        whole = ""
        if name in CODEC.kinds:
            full = CODEC.encode(name, tuple(fullest(field) for _, field in CODEC.spec(name).fields))
            took = milliseconds(decoder, full)
            worse |= took > MOST_WHOLE
            whole = f"; {took:.2f} ms for a whole one of {len(full):,} bytes"
        print(f"{name:20} {most:6.3f} ms a MiB at worst ({which}){whole}")
    return 1 if worse else 0


if __name__ == "__main__":
    raise SystemExit(main())
