"""What an audit costs: CPU beside bare Ed25519 verification of the same entries, and memory as the log grows.

    python benches/audit.py [-n 8] [--rounds 50] [--protocol secagg]

Simulated peers under real keys play rounds over small vectors, and their own entries are written as transcripts, a file
a peer. Bare verification takes the same distinct entries, in the same process. Timings are CPU seconds of one run, side
by side; memory is the peak of a process that does nothing but audit.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from decentra.audit import audit
from decentra.audit.transcript import read, write
from decentra.crypto.keys import verify
from decentra.driver.given import describe
from decentra.driver.session import Vector
from decentra.errors import DecentraError
from decentra.simulation.group import SimulatedGroup, charter_for, identities
from decentra.wire.entry import parse

PEAK = """
import resource, sys
from pathlib import Path
from decentra.audit import audit
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(audit([Path(sys.argv[1])]).verdict.value, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def play(n: int, rounds: int, protocol: str, folder: Path) -> None:
    """Rounds of real machines under real keys, and their transcripts."""
    members = identities(n, 1)
    charter = charter_for(members, protocol)
    group = SimulatedGroup(charter, members, seed=1)
    for number in range(rounds):
        tensors = [[np.full(8, 0.001 * (place + number % 7), np.float32)] for place in range(n)]
        ended = group.run([Vector(list(update), describe(update, None)) for update in tensors])
        assert not any(isinstance(one, DecentraError) for one in ended), ended
    for peer in group.peers:
        write(
            folder / f"{peer.identity.id.hex()[:8]}.log",
            charter.to_toml(),
            [(signed.entry, signed.body or None) for signed in peer.journal.entries],
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--protocol", default="secagg")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        play(options.n, options.rounds, options.protocol, folder)
        size = sum(path.stat().st_size for path in folder.iterdir())
        distinct = {signed.entry for path in folder.iterdir() for signed in read(path)}
        publics = {member.id: member.public for member in identities(options.n, 1)}
        entries = [parse(entry) for entry in distinct]
        began = time.process_time()
        assert all(verify(publics[entry.author], entry.signature, entry.signed_bytes) for entry in entries)
        bare = time.process_time() - began
        began = time.process_time()
        report = audit([folder])
        spent = time.process_time() - began
        peak = subprocess.run([sys.executable, "-c", PEAK, name], capture_output=True, text=True, check=True).stdout
    told = f"{options.rounds} rounds of {options.n} peers, {len(entries)} entries, {size / 1e6:.1f} MB"
    print(f"{told}: {report.verdict.value}")
    rates = f"bare verification {len(entries) / bare:.0f} entries a CPU-s, audit {len(entries) / spent:.0f}"
    print(f"{rates}: {bare / spent:.2f}")
    print(f"verdict and MiB beyond what the process had before: {peak.strip()}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
