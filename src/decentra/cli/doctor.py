"""The body of ``decentra doctor``: a line a finding, as soon as it is known."""

from __future__ import annotations

import json
from pathlib import Path

from decentra.cli.report import FAILED
from decentra.peer.config import PeerFolder
from decentra.peer.doctor import Doctor


def doctor(state: Path, peer: str | None, as_json: bool) -> int:
    """Examine a peer's folder, this machine and the way to the others.

    Returns:
        0, or 1 where something can't work as it is.

    Raises:
        LocalError: ``peer`` is no address.
    """
    found = []
    for finding in Doctor(PeerFolder(state), peer).findings():
        found.append(finding)
        if not as_json:
            print(f"{'ok' if finding.ok else 'MEND':4}  {finding.about:9} {finding.said}", flush=True)
    ok = all(finding.ok for finding in found)
    if as_json:
        checks = [{"about": one.about, "ok": one.ok, "said": one.said} for one in found]
        print(json.dumps({"ok": ok, "checks": checks}, ensure_ascii=False))
    return 0 if ok else FAILED
