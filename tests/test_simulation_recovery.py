"""What coalitions really compute in a schedule: secrets from shares, masks from secrets, and updates byte for byte."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

import planted
from decentra.crypto.ring import Ring, decode
from decentra.driver.fittings import MachineMaker
from decentra.simulation.hazards import MIXES, Crash, Hazards, Mix
from decentra.simulation.ports import SeededRandom
from decentra.simulation.recovery import Recovery
from decentra.simulation.search import run_seed, stage_of
from decentra.simulation.stage import Play, Stage

SMALL = Play(n=4, c=1, size=8, rebuild=1)


def played(play: Play, seed: int, mix: Mix, machine: MachineMaker | None = None, **given: Hazards) -> Stage:
    machines = {} if machine is None else dict.fromkeys(range(play.n), machine)
    stage = stage_of(play, seed, mix, machines=machines, **given)
    stage.run()
    return stage


def recovery_of(stage: Stage) -> Recovery:
    assert stage.oracle.recovery is not None
    return stage.oracle.recovery


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("n, c, crypto", [(4, 1, "ideal"), (4, 1, "real"), (5, 1, "ideal"), (7, 2, "ideal")])
def test_what_is_counted_is_what_comes_out(n: int, c: int, crypto: str, mix: Mix) -> None:
    out = 0
    for seed in range(3):
        stage = played(Play(n=n, c=c, crypto=crypto, size=8, rebuild=1), seed, mix)
        for coalition in stage.oracle.knowledge.coalitions():
            computed = recovery_of(stage).sums(coalition)
            assert sorted(map(sorted, computed)) == sorted(map(sorted, stage.oracle.knowledge.sums(coalition)))
            out += len(computed)
        assert not stage.oracle.violations
    assert out > 0


def test_of_a_sound_round_the_sum_over_the_honest_survivors_comes_out_and_nothing_else() -> None:
    stage = played(SMALL, 0, "none")
    ids = stage.cast.charter.ids
    encoded = {peer: vectors[-1] for (peer, _), vectors in stage.oracle.case.encoded.items()}
    for coalition in combinations(ids, 1):
        ((who, total),) = recovery_of(stage).sums(frozenset(coalition)).items()
        assert {peer for peer, _ in who} == set(ids).difference(coalition)
        assert np.array_equal(total, sum(encoded[peer] for peer, _ in who))


def test_a_dropped_peers_mask_key_comes_out_and_its_update_does_not() -> None:
    found = 0
    for effect in range(8, 18):
        stops = Hazards(crashes={2: (Crash(effect=effect, loses=1.0),)})
        stage = played(Play(n=5, c=1, size=8, rebuild=1), 0, "none", hazards=stops)
        first, dropped = stage.cast.members[0].id, stage.cast.members[2].id
        recovery = recovery_of(stage)
        for context, place in recovery._places.items():
            if dropped in place.masked and place.shown.get(("key", dropped)):
                assert recovery._secrets(context, "key", [dropped], frozenset({first})).keys() == {dropped}
                assert not recovery._secrets(context, "self", [dropped], frozenset({first}))
                (who,) = recovery.sums(frozenset({first}))
                assert {peer for peer, _ in who} == set(place.table.roster) - {first, dropped}
                found += 1
    assert found


def test_with_both_shares_of_everybody_the_very_updates_come_out() -> None:
    """SA-3: what the mutant costs are the peers' own numbers, rebuilt of the shares that were sent."""
    stage = played(SMALL, 0, "none", planted.BothShares)
    assert {"SA-3", "SA-6"} <= {one.clause for one in stage.oracle.violations}
    charter = stage.cast.charter
    alone = 0
    for coalition in stage.oracle.knowledge.coalitions():
        for who, total in recovery_of(stage).sums(coalition).items():
            ((peer, name),) = who
            machine = stage.actors[charter.ids.index(peer)]
            given = np.frombuffer(SeededRandom(0, peer + name.encode())(2 * stage.size), np.int16)
            (told,), weight = decode(
                total,
                (0.1,),
                [(stage.size,)],
                ring=Ring(charter.protocol.width),
                n=4,
                survivors=1,
                max_weight=charter.protocol.max_weight,
            )
            assert weight == 1 and machine.id == peer
            assert np.allclose(told, given * np.float32(0.09 / 32768), atol=1e-4)
            alone += 1
    assert alone == 4 * 3


def test_shares_that_were_not_dealt_give_nothing() -> None:
    stage = played(SMALL, 0, "none", planted.BothShares)
    recovery, coalition = recovery_of(stage), frozenset(stage.cast.charter.ids[:1])
    assert [len(who) for who in recovery.sums(coalition)] == [1, 1, 1]
    for place in recovery._places.values():
        for (kind, _), shares in place.shown.items():
            if kind == "key":
                shares.update(dict.fromkeys(shares, bytes(32)))
    assert [len(who) for who in recovery.sums(coalition)] == [3]


def test_one_schedule_in_so_many_is_attacked_in_earnest_and_comes_to_the_same() -> None:
    play = replace(SMALL, rebuild=3)
    assert [stage_of(play, seed, "none").oracle.recovery is not None for seed in range(4)] == [True, False, False, True]
    assert stage_of(replace(play, protocol="allreduce"), 0, "none").oracle.recovery is None
    for mix in MIXES:
        assert run_seed(SMALL, 4, mix) == run_seed(play, 4, mix)
