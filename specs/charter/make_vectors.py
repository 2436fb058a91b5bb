"""Writes ``vectors/v1``: a signed charter, its canonical text and hash, and tampered ones named for the tampering.

Run it as ``python specs/charter/make_vectors.py`` after a change of the form; the tests compare what it gives.
"""

from __future__ import annotations

import json
from pathlib import Path

from decentra.charter import Charter, Member
from decentra.crypto.keys import Identity

ROOM = Path(__file__).resolve().parent / "vectors" / "v1"

TERMS = {
    "version": 1,
    "group": {"name": "Four clinics – Ärzte", "epoch": 7},
    "protocol": {
        "name": "secagg",
        "c": 2,
        "floor": 4,
        "width": 32,
        "max_weight": 3,
        "initial_range": 0.25,
        "ranges": {"*.bias": 0.5, "emb?dding.*": 1e-3},
        "range_bounds": [1e-4, 8],
    },
    "training": {"outer_momentum": 0.0, "nesterov": False},
    "model": {"fingerprint": "5a" * 32},
}


def files() -> dict[str, str]:
    """Every vector: its file name and text."""
    identities = [Identity.from_seed(bytes([number]) * 32) for number in range(1, 5)]
    names = ("alice", "bob", "carol", "dave")
    members = [Member.of(identity, name) for identity, name in zip(identities, names, strict=True)]
    charter = Charter.build({**TERMS, "members": members})
    for identity in identities:
        charter = charter.sign(identity)
    good = charter.to_toml()
    alice, bob = members[0], members[1]
    made = charter.signatures[bob.id].hex()
    tampered = {
        "changed-term": (good.replace("c = 2", "c = 1"), list(names)),
        "changed-member-name": (good.replace('"bob"', '"rob"'), ["rob", "alice", "carol", "dave"]),
        "swapped-curve-key": (good.replace(alice.curve.hex(), bob.curve.hex()), list(names)),
        "id-of-another-key": (good.replace(f'id = "{alice.id.hex()}"', f'id = "{"0a" * 32}"'), list(names)),
        "flipped-signature-bit": (good.replace(made, f"{int(made[0], 16) ^ 1:x}{made[1:]}"), ["bob"]),
        "removed-signature": (good.replace(f'{bob.id.hex()} = "{made}"\n', ""), ["bob"]),
    }
    blamed = {name: sorted(who) for name, (_, who) in tampered.items()}
    return {
        "good.toml": good,
        "good.canonical": charter.canonical.decode(),
        **{f"bad-{name}.toml": text for name, (text, _) in tampered.items()},
        "expected.json": json.dumps({"hash": charter.hash.hex(), "blamed": blamed}, indent=1) + "\n",
    }


def main() -> None:
    """Write them."""
    ROOM.mkdir(parents=True, exist_ok=True)
    for name, text in files().items():
        (ROOM / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
