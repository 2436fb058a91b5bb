"""Self-audit: a peer's log replayed with its own seeds, and what is found where log and seeds don't agree."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from commands import decentra, refused
from decentra.audit import audit
from decentra.audit.record import Record, Round
from decentra.audit.replay import Replay, Replayed, root
from decentra.audit.secrets import DEAL, DEALS, VECTOR, DealSeeds, Kept, pack_deals, unpack_deals
from decentra.driver.session import session_name
from decentra.errors import LocalError
from decentra.peer.config import PeerFolder
from decentra.transfer import blob_root, piece_digests
from decentra.types import PeerId, RoundId
from decentra.wire.codec import Malformed
from starting import Group, all_at_once, average

SIZE = 200_001


def keeps(folder: PeerFolder, rounds: int) -> None:
    text = folder.config.read_text().replace("keep_secrets = 0 ", f"keep_secrets = {rounds} ")
    folder.config.write_text(text)


@pytest.fixture
def run(make_group: Callable[..., Group]) -> Group:
    """Three rounds of four peers, of which the first keeps the secrets of two."""
    group = make_group(4)
    keeps(group.folders[0], 2)
    peers = [group.peer(index) for index in range(4)]
    for number in range(3):
        updates = [[np.full(SIZE, 0.01 * index + 0.001 * number, np.float32)] for index in range(4)]
        all_at_once([partial(peer.average, update) for peer, update in zip(peers, updates, strict=True)])
    all_at_once([peer.close for peer in peers])
    return group


def replayed(folder: PeerFolder) -> Sequence[Replayed]:
    replay = Replay(folder.secrets)
    audit([folder.path], watch=replay)
    return replay.rounds


def test_a_peers_own_rounds_are_computed_again_share_by_share_mask_by_mask_and_slice_by_slice(run: Group) -> None:
    folder = run.folders[0]
    first, *rest = replayed(folder)
    assert [one.round for one in (first, *rest)] == [1, 2, 3]
    assert first.missing and not first.flaws  # it was to keep two
    for one in rest:
        assert (one.flaws, one.missing) == ([], [])
        # of its deal three shares a member; shown were one of each survivor's seed and one of each part of the beacon
        assert (one.shares, one.masks, one.slices) == (3 * 4 + 4 + 4, 4, 4)
    assert not run.folders[1].secrets.exists()
    assert stat.S_IMODE(folder.secrets.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.secrets.iterdir()} == {0o600}
    keeps(folder, 0)
    text = folder.config.read_text()
    folder.config.write_text(text.replace("keep_secrets = 2", "keep_secrets = 0"))
    run.peer(0).close()
    assert not list(folder.secrets.iterdir())  # who keeps none has none


def test_what_is_not_what_the_seeds_give_is_found_under_its_clause(run: Group) -> None:
    folder = run.folders[0]
    kept = Kept(folder.secrets, session_name(run.charter), 3)
    (view,) = kept.views()
    seeds, deals, vector = kept.seeds(view), kept.deals(view), kept.vector()
    assert seeds is not None and deals is not None and vector is not None

    def found() -> list[str]:
        return [clause for clause, _ in replayed(folder)[-1].flaws]

    drawn = bytes([seeds.drawn[0] ^ 1]) + seeds.drawn[1:]
    kept.path(DEAL, view).write_bytes(replace(seeds, drawn=drawn).pack())
    assert found() == ["SA-1", "SA-10"]  # other seeds give another deal, and other masks
    kept.path(DEAL, view).write_bytes(seeds.pack())
    kept.path(VECTOR).write_bytes(vector[:-1] + bytes([vector[-1] ^ 1]))
    assert found() == ["SA-10"]
    kept.path(VECTOR).write_bytes(vector)
    other = next(peer for peer in deals if peer != seeds.me)
    kept.path(DEALS, view).write_bytes(pack_deals({**deals, other: deals[seeds.me]}))
    assert found() == ["SA-2"]
    kept.path(DEALS, view).write_bytes(pack_deals(deals))
    assert found() == []
    for part in (kept.path(DEAL, view), kept.path(DEALS, view), kept.path(VECTOR)):
        whole = part.read_bytes()
        for damaged in (b"", whole[: len(whole) // 2 * 2 - 1], b"\xc1" * 100):
            part.write_bytes(damaged)
            last = replayed(folder)[-1]
            assert last.missing or last.flaws
        part.write_bytes(whole)


@pytest.mark.parametrize(
    ("said", "name", "clause"),
    [("unmask", "self_shares", "SA-7"), ("unmask", "key_shares", "SA-7"), ("beacon", "shares", "SA-12")],
)
def test_a_share_that_it_was_not_dealt_is_found(run: Group, said: str, name: str, clause: str) -> None:
    """Its log is sound by itself: only who has the deals can tell that it showed something else."""
    folder = run.folders[0]
    rounds = dict[int, Round]()
    audit([folder.path], watch=lambda round_, found: rounds.setdefault(round_.number, round_) and None)
    replay, sound = Replay(folder.secrets), rounds[3]

    def lies(record: Record) -> Record:
        if (record.author, record.kind) != (replay.me, f"secagg.{said}"):
            return record
        shown = record[name] or ((PeerId(next(one for one in sound.ground.members if one != replay.me)), bytes(33)),)
        (dealer, share), *rest = shown
        return replace(record, fields={**record.fields, name: ((dealer, share[:-1] + bytes([share[-1] ^ 1])), *rest)})

    replay(Round(sound.ground, 3, map(lies, sound.records)), ())
    (last,) = replay.rounds
    assert [found for found, _ in last.flaws] == [clause] and (last.masks, last.slices) == (4, 4)


def test_where_nothing_was_kept_it_says_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="no secrets of any round; set keep_secrets"):
        Replay(tmp_path)
    (tmp_path / f"aa-00000001-{DEAL}-0").write_bytes(b"noise")
    with pytest.raises(LocalError, match="no secrets of any round"):
        Replay(tmp_path)


@pytest.mark.parametrize("size", [0, 1, 262_143, 262_144, 262_145, 1_000_000])
def test_its_root_of_a_blob_is_the_one_that_peers_sign(size: int) -> None:
    data = np.random.default_rng(size).bytes(size)
    assert root(data) == blob_root(size, piece_digests(memoryview(data)))


def test_what_is_kept_reads_back_and_anything_else_is_malformed() -> None:
    ids = tuple(PeerId(bytes([place]) * 32) for place in range(3))
    seeds = DealSeeds(bytes(32), RoundId(1, 2), 0, ids[0], ids, 3, (bytes(32),) * 3, b"drawn")
    assert DealSeeds.unpack(seeds.pack()) == seeds
    assert unpack_deals(pack_deals({ids[1]: b"body"})) == {ids[1]: b"body"}
    for raw in (b"", b"\x90", b"\x01", pack_deals({ids[0]: b""})[:-1], seeds.pack()[:-1]):
        with pytest.raises(Malformed):
            DealSeeds.unpack(raw)
    for raw in (b"", b"\x01", b"\x91\x01", seeds.pack()):
        with pytest.raises(Malformed):
            unpack_deals(raw)


def test_the_command_tells_what_was_computed_again_and_what_was_not_kept(run: Group) -> None:
    first, second = run.folders[0].path, run.folders[1].path
    ended = decentra("audit", first, "--self", "--json")
    told = json.loads(ended.out)
    assert ended.code == 2 and told["self"]["verdict"] == "undecided"
    assert [(one["round"], one["masks"]) for one in told["self"]["rounds"]] == [(1, 0), (2, 4), (3, 4)]
    ended = decentra("audit", *(folder.path for folder in run.folders), "--self")
    assert ended.code == 2 and "verdict: clean" in ended.out  # of the transcripts; the others kept nothing to replay
    assert "peer-0, round 3: of what was computed again 20 shares, 4 masks and 4 slices are what it signed" in ended.out
    assert "has no secrets of any round; set keep_secrets" in decentra("audit", second, "--self").out
    vector = Kept(run.folders[0].secrets, session_name(run.charter), 3).path(VECTOR)
    vector.write_bytes(bytes(vector.stat().st_size))
    ended = decentra("audit", *(folder.path for folder in run.folders), "--self")
    assert ended.code == 1 and "FLAW SA-10: its slices are not its vector under the masks of its deal" in ended.out
    assert "needs a peer's whole folder" in refused("audit", second / "charter.toml", "--self", code=3)


def test_a_peer_that_kept_every_round_is_clean_beside_the_logs_of_all(make_group: Callable[..., Group]) -> None:
    group = make_group(3)
    keeps(group.folders[2], 5)
    peers = [group.peer(index) for index in range(3)]
    average(peers, 9)
    all_at_once([peer.close for peer in peers])
    ended = decentra("audit", *(folder.path for folder in group.folders), "--self")
    assert ended.code == 0 and ended.out.count("clean") == 2


def test_no_deal_and_no_seed_is_in_a_transcript(run: Group) -> None:
    logged = b"".join(path.read_bytes() for folder in run.folders for path in folder.transcripts.iterdir())
    for number in (2, 3):
        kept = Kept(run.folders[0].secrets, session_name(run.charter), number)
        for view in kept.views():
            seeds, deals = kept.seeds(view), kept.deals(view)
            assert seeds is not None and deals is not None and len(deals) == 4
            assert seeds.drawn[:32] not in logged and not any(body in logged for body in deals.values())
