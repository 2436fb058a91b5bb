"""Writes ``vectors/v1``: a signed charter, one of a grid, one with buckets that are drawn and an amended one, their
canonical texts and hashes, and tampered ones named for the tampering.

Run it as ``python specs/charter/make_vectors.py`` after a change of the form; the tests compare what it gives.
"""

from __future__ import annotations

import json
from pathlib import Path

from decentra.charter import Charter, Member
from decentra.charter.amend import amended
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


def amendments() -> tuple[dict[str, str], dict[str, object]]:
    """A charter of five, an amendment of it that is in force, and copies of that which are not."""
    names = ("alice", "bob", "carol", "dave", "erin", "frank")
    who = {name: Identity.from_seed(bytes([number]) * 32) for number, name in enumerate(names, 1)}
    members = {name: Member.of(identity, name) for name, identity in who.items()}
    terms = {"version": 1, "group": {"name": "five clinics"}, "protocol": {"name": "secagg"}}
    old = Charter.build({**terms, "members": [members[name] for name in names[:5]]})
    for name in names[:5]:
        old = old.sign(who[name])
    bare = amended(
        old,
        add=[members["frank"]],
        remove=[who["dave"].id],
        terms={"training": {"steps": 40}, "admission": {"quorum": 4, "invites": False}},
    )
    new = bare
    for name in ("alice", "bob", "carol", "erin", "frank"):
        new = new.sign(who[name])
    text, dave = new.to_toml(), who["dave"]

    def without(name: str) -> str:
        return text.replace(f'{who[name].id.hex()} = "{new.signatures[who[name].id].hex()}"\n', "")

    wrong = {
        "one-signature-too-few": without("erin"),
        "a-removed-members-signature-instead": f'{without("erin")}{dave.id.hex()} = "{dave.sign(new.hash).hex()}"\n',
        "newcomer-did-not-sign": without("frank"),
        "changed-term": text.replace("steps = 40", "steps = 41"),
        "of-another-charter": text.replace(old.hash.hex(), "5a" * 32),
        "epoch-skipped": text.replace("epoch = 2", "epoch = 3"),
    }
    made = {"amend-old.toml": old.to_toml(), "amend-new.toml": text, "amend-new.canonical": new.canonical.decode()}
    expected = {"old": old.hash.hex(), "new": new.hash.hex(), "not in force": sorted(wrong)}
    return {**made, **{f"amend-bad-{name}.toml": one for name, one in wrong.items()}}, expected


def on_a_grid() -> Charter:
    """A charter of twelve who average in groups of about five, signed by all."""
    who = {f"peer-{number}": Identity.from_seed(bytes([number]) * 32) for number in range(1, 13)}
    charter = Charter.build(
        {
            "version": 1,
            "group": {"name": "twelve clinics"},
            "protocol": {"name": "secagg", "width": 32},
            "groups": {"size": 5, "liars": 2, "risk": 1, "drawers": ["peer-7", "peer-11", "peer-2", "peer-5"]},
            "members": [Member.of(identity, name) for name, identity in who.items()],
        }
    )
    for identity in who.values():
        charter = charter.sign(identity)
    return charter


def in_buckets() -> Charter:
    """A charter of nine in buckets of about three, as it is derived once the beacon is drawn: nobody signs it."""
    who = {f"peer-{number}": Identity.from_seed(bytes([number]) * 32) for number in range(1, 10)}
    return Charter.build(
        {
            "version": 1,
            "group": {"name": "nine clinics"},
            "protocol": {"name": "bucketed", "rule": "median", "c": 1},
            "buckets": {"size": 3, "c": 1, "risk": 0.5, "beacon": "be" * 32},
            "members": [Member.of(identity, name) for name, identity in who.items()],
        }
    )


def files() -> dict[str, str]:
    """Every vector: its file name and text."""
    changed, expected = amendments()
    grid, buckets = on_a_grid(), in_buckets()
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
        **changed,
        "grid.toml": grid.to_toml(),
        "grid.canonical": grid.canonical.decode(),
        "buckets.toml": buckets.to_toml(),
        "buckets.canonical": buckets.canonical.decode(),
        "expected.json": json.dumps(
            {
                "hash": charter.hash.hex(),
                "blamed": blamed,
                "amend": expected,
                "grid": grid.hash.hex(),
                "buckets": buckets.hash.hex(),
            },
            indent=1,
        )
        + "\n",
    }


def main() -> None:
    """Write them."""
    ROOM.mkdir(parents=True, exist_ok=True)
    for name, text in files().items():
        (ROOM / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
