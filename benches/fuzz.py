"""Fuzzes every decoder, guided by coverage where atheris is installed (``pip install atheris``), else by hypothesis.

    python benches/fuzz.py [DECODER ...] [--seconds 60]

Each decoder gets its time in a process of its own. What raises anything but a documented error, or is not written again
as it was read, is printed and kept in ``fuzz-findings/``: it belongs into ``tests/test_fuzz.py``. Exit code 1 if
anything was found.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "src")]

FINDINGS = Path("fuzz-findings")
GUIDED = importlib.util.find_spec("atheris") is not None


def fuzz(name: str, seconds: int) -> None:
    """In a process of its own, since libFuzzer never returns."""
    import atheris

    with atheris.instrument_imports(include=["decentra"]):
        from decoders import DECODERS, read

    decoder, short = DECODERS[name], name.replace(" ", "-")
    corpus = FINDINGS / "corpus" / short
    corpus.mkdir(parents=True, exist_ok=True)
    for number, raw in enumerate(decoder.examples):
        (corpus / f"example-{number}").write_bytes(raw)

    def once(raw: bytes) -> None:
        read(decoder, raw)

    limits = [f"-max_total_time={seconds}", "-max_len=65536", "-rss_limit_mb=1024", "-timeout=20", "-verbosity=0"]
    atheris.Setup([sys.argv[0], str(corpus), *limits, f"-artifact_prefix={FINDINGS}/{short}-"], once)
    atheris.Fuzz()


def fuzz_unguided(name: str, seconds: int) -> None:
    from hypothesis import HealthCheck, Phase, given, settings

    from decoders import DECODERS, read
    from test_fuzz import inputs

    decoder, end = DECODERS[name], time.monotonic() + seconds

    @settings(max_examples=2000, database=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
    @given(inputs(decoder))
    def once(raw: bytes) -> None:
        read(decoder, raw)

    while time.monotonic() < end:
        once()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("decoders", nargs="*")
    parser.add_argument("--seconds", type=int, default=60, help="a decoder")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        (fuzz if GUIDED else fuzz_unguided)(options.decoders[0], options.seconds)
        return 0
    from decoders import DECODERS

    print(f"{options.seconds} s a decoder, {'guided by coverage' if GUIDED else 'unguided: atheris is not installed'}")
    failed = False
    for name in options.decoders or DECODERS:
        command = [sys.executable, __file__, name, "--alone", "--seconds", str(options.seconds)]
        ended = subprocess.run(command, capture_output=True, text=True)
        said = (ended.stdout + ended.stderr).strip().splitlines()
        print(f"{name:22} {'FOUND' if ended.returncode else 'nothing'}; {said[-1] if said else ''}", flush=True)
        if ended.returncode:
            failed = True
            print("\n".join(said[-30:]))
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
