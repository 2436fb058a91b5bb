"""Peers of the demo that lie: what may be asked for, what a liar sends, and what the summary says of it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from decentra.charter.policy import Policy
from decentra.demo.launch import Options, _charter, _command, _plain, main
from decentra.demo.liar import Liar, flat, set_flat, spoiling
from decentra.demo.lies import ATTACKS, Terms, terms
from decentra.demo.screen import summary_lines
from decentra.demo.task import recipe
from decentra.errors import LocalError
from decentra.robust import aggregate
from decentra.robust.attacks import Alie, Attack, Ipm, attack, attacks
from decentra.robust.catalogue import exact_rules
from decentra.simulation.group import identities

# ── what may be asked for ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, Terms("secagg", "mean")),
        ({"rule": "mean"}, Terms("secagg", "mean")),
        ({"protocol": "allreduce"}, Terms("allreduce", "mean")),
        ({"protocol": "mesh"}, Terms("mesh", "nnm+trimmed_mean")),
        ({"rule": "Trimmed-Mean"}, Terms("mesh", "trimmed_mean")),
        ({"protocol": "mesh", "rule": "mean"}, Terms("mesh", "mean")),
        ({"attack": "alie", "f": 1}, Terms("mesh", "nnm+trimmed_mean", "alie", 1)),
        ({"attack": "ipm", "f": 1, "rule": "mean"}, Terms("mesh", "mean", "ipm", 1)),
        ({"protocol": "shamir-gram"}, Terms("shamir-gram", "nnm+multi_krum")),
        ({"protocol": "shamir-gram", "rule": "mda", "attack": "alie", "f": 1}, Terms("shamir-gram", "mda", "alie", 1)),
    ],
)
def test_a_rule_and_an_attack_are_meshs_and_nothing_asked_is_secagg(asked: dict[str, Any], expected: Terms) -> None:
    assert terms(**{"protocol": None, "rule": None, "attack": None, "f": None} | asked, peers=4) == expected


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"protocol": "mehs"}, "does not run 'mehs'; choose --protocol secagg, allreduce, mesh, bucketed or shamir"),
        ({"rule": "trimed_mean"}, "there is no rule 'trimed_mean'; did you mean 'trimmed_mean'?"),
        ({"rule": "nmm+median"}, "no step before a rule 'nmm'; did you mean 'nnm'?"),
        ({"attack": "alei", "f": 1}, "there is no attack 'alei'; did you mean 'alie'?"),
        ({"attack": "label_flip", "f": 1}, "no peer of the demo plays label_flip; choose --attack alie, ipm"),
        ({"attack": "nan", "f": 1}, "no peer of the demo plays nan; choose --attack alie, ipm, sign_flip"),
        ({"attack": "foo", "f": 1}, "'foo'; choose --attack alie, ipm, sign_flip, mimic, min_max or min_sum"),
        ({"attack": "MIN-MAX", "f": 1}, "did you mean 'min_max'?"),
        ({"rule": "foo"}, "'foo'; choose --rule mean, median, trimmed_mean, meamed, krum, multi_krum, "),
        ({"rule": "nnm+"}, "there is no rule 'nnm+'; choose --rule mean"),
        ({"rule": "arc"}, "'arc' comes before a rule; add one, as in arc+trimmed_mean"),
        ({"rule": "smea"}, "smea does not promise the same bits on every machine"),
        ({"rule": "bulyan"}, "updates where f = 1 may lie, and of 4 peers as few as 3 may count in a round; choose"),
        ({"attack": "alie"}, "--attack alie needs --f, how many of the 4 peers lie, as in --f 1"),
        ({"f": 2}, "say how they do, as in --attack alie --f 1"),
        ({"attack": "alie", "f": 0}, "--f must be 1 or more, not 0"),
        ({"attack": "alie", "f": 2}, "mesh takes 6 peers at least where 2 lie; choose --peers 6 or --f 1"),
        ({"attack": "alie", "f": 2, "rule": "mean"}, "mesh takes 6 peers at least where 2 lie; choose --peers 6"),
        ({"attack": "alie", "f": 2, "rule": "bulyan"}, "where 2 lie; choose --rule nnm+trimmed_mean with --f 1"),
        ({"attack": "alie", "f": 99}, "mesh takes 297 peers at least where 99 lie; choose --f 1"),
        ({"protocol": "secagg", "rule": "median"}, "for --rule median choose --protocol mesh"),
        ({"protocol": "shamir-gram", "attack": "alie", "f": 2}, "takes 7 peers at least where 2 lie; choose --peers 7"),
        ({"protocol": "shamir-gram", "attack": "alie", "f": 9}, "at least where 9 lie; choose --f 1"),
        ({"protocol": "shamir-gram", "rule": "krum"}, "and so publish it; choose nnm+krum or nnm+multi_krum"),
        ({"protocol": "shamir-gram", "rule": "median"}, "single coordinates, which nobody sees on shares; choose nnm"),
        ({"protocol": "shamir-gram", "rule": "mean"}, "secagg gives it for less; choose secagg, or nnm+multi_krum"),
        ({"protocol": "allreduce", "attack": "alie", "f": 1}, "for --attack alie choose --protocol mesh"),
    ],
)
def test_what_does_not_go_together_is_refused_with_what_does(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(LocalError) as refused:
        terms(**{"protocol": None, "rule": None, "attack": None, "f": None} | asked, peers=4)
    assert said in str(refused.value)


@given(rule=st.sampled_from(exact_rules()), f=st.none() | st.integers(1, 4), peers=st.integers(3, 16))
def test_what_is_let_through_is_a_sound_charter_and_what_is_not_names_options_that_are(
    rule: str, f: int | None, peers: int
) -> None:
    asked: dict[str, Any] = {"protocol": "mesh", "rule": rule, "attack": f and "alie", "f": f, "peers": peers}
    try:
        charter = _charter(identities(peers, 0), terms(**asked), recipe("bytes"))
    except LocalError as error:
        for offered in str(error).partition("; choose ")[2].split(" or "):
            options = dict(re.findall(r"--(peers|f|rule) (\S+)", offered))
            assert options
            terms(**asked | {option: int(value) if value.isdecimal() else value for option, value in options.items()})
        return
    assert (charter.protocol.name, charter.protocol.rule, charter.protocol.c) == ("mesh", rule, f or 1)
    assert not Policy(charter).problems


def test_every_attack_on_offer_is_one_on_updates() -> None:
    assert set(ATTACKS) <= {known.name for known in attacks() if known.on == "updates"}


@pytest.mark.parametrize("asked", [{"model": "smollm2"}, {"kill": True}])
def test_liars_are_for_the_small_model_and_nobody_is_killed_beside_them(tmp_path: Path, asked: dict[str, Any]) -> None:
    wanted: dict[str, Any] = {"peers": 4, "rounds": 8, "protocol": None, "seed": 0, "compare": False, "as_json": True}
    with pytest.raises(LocalError, match="with --attack the model is bytes, and nobody is killed"):
        main(**wanted | asked, attack="alie", f=1, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_last_peers_lie_and_know_the_honest_ones_silos_and_seeds(tmp_path: Path) -> None:
    silos = ("a", "b", "c", "d", "e", "g")
    options = Options("bytes", silos, 3, Terms("mesh", "median", "ipm", 2), 7, True, False, tmp_path)
    commands = [_command(tmp_path, silo, index, options) for index, silo in enumerate(silos)]
    assert [("--attack" in command) for command in commands] == [False] * 4 + [True] * 2
    words = commands[5]
    assert words[words.index("--attack") :] == [
        "--attack", "ipm", "--rule", "median", "--liars", "2", "--honest", "a=7000", "b=7001", "c=7002", "d=7003"
    ]  # fmt: skip
    assert commands[2][commands[2].index("--seed") + 1] == "7002"
    plain = _plain(options)
    assert plain is not None and (plain.terms.rule, plain.out) == ("mean", tmp_path / "under-mean")
    assert _plain(plain) is None and not plain.compare


# ── what a liar sends ────────────────────────────────────────────────────────────────────────────────────────────────


class Straight:
    """A task whose every step moves all parameters by momentum towards a point of its own."""

    def __init__(self, towards: float, seed: int) -> None:
        torch.manual_seed(seed)
        self.model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 2))
        self.model[0].bias.requires_grad_(False)
        trained = [one for one in self.model.parameters() if one.requires_grad]
        self.optimizer = torch.optim.SGD(trained, lr=0.1, momentum=0.9)
        self.held_out: Mapping[str, int] = {}
        self.shared = ()
        self._towards = towards

    def steps(self, first: int, steps: int) -> Iterator[float]:
        for step in range(first, steps):
            self.optimizer.zero_grad()
            trained = [one for one in self.model.parameters() if one.requires_grad]
            loss = torch.stack([((one - self._towards - step) ** 2).sum() for one in trained]).sum()
            torch.autograd.backward(loss)
            self.optimizer.step()
            yield float(loss.item())

    def losses(self, silo: str) -> Iterator[float]:
        return iter(())


EVERY, ROUNDS = 4, 3


def group_with(made: Attack, liars: int) -> tuple[list[NDArray[Any]], list[NDArray[Any]]]:
    """What a liar sent in each round, and what its attack makes of the honest peers' real updates."""
    towards = (1.0, 2.0, 4.0)
    honest = [Straight(each, seed) for seed, each in enumerate(towards)]
    own = Straight(9.0, 9)
    common = flat(honest[0].model)
    liar = Liar(own, [Straight(each, seed) for seed, each in enumerate(towards)], made, "median", liars)
    sent: list[NDArray[Any]] = []
    expected: list[NDArray[Any]] = []
    counted = 0

    def round_of(optimizer: torch.optim.Optimizer, *_: object) -> None:
        """As a hook of `decentra.join` does: a round after every H steps, and the model is set to what it gives."""
        nonlocal counted, common
        counted += 1
        if counted % EVERY:
            return
        updates = []
        for task, steps in zip(honest, trained, strict=True):
            set_flat(task.model, common)
            for _ in range(EVERY):
                next(steps)
            updates.append(common - flat(task.model))
        rows = np.stack(updates)
        sent.append(common - flat(own.model))

        def evaluate(false: NDArray[Any]) -> NDArray[Any]:
            value: NDArray[Any] = aggregate([*rows, *false], "median", liars).value
            return value

        expected.append(made.rows(rows, liars, evaluate)[0])
        common = common - np.median([*rows, *[sent[-1]] * liars], axis=0).astype(np.float32)
        set_flat(own.model, common)

    trained = [task.steps(0, EVERY * ROUNDS) for task in honest]
    own.optimizer.register_step_post_hook(round_of)
    losses = list(liar.steps(0, EVERY, EVERY * ROUNDS, lambda: set_flat(own.model, common)))
    assert len(losses) == counted == EVERY * ROUNDS and np.isfinite(losses).all()
    return sent, expected


@pytest.mark.parametrize("name", ATTACKS)
def test_a_liar_sends_what_its_attack_makes_of_the_updates_that_honest_peers_send(name: str) -> None:
    sent, expected = group_with(attack(name), 1)
    assert len(sent) == ROUNDS
    for update, row in zip(sent, expected, strict=True):
        assert np.allclose(update, row, rtol=1e-5, atol=1e-5) and np.abs(row).max() > 1e-3


@given(st.sampled_from([(9, 1), (10, 1), (12, 1), (20, 2)]), st.integers(0, 2**32), st.data())
def test_liars_in_buckets_make_each_of_their_means_what_the_attack_gives(
    size: tuple[int, int], seed: int, data: st.DataObject
) -> None:
    n, liars = size
    rng = np.random.default_rng(seed)
    places, count = rng.permutation(n).tolist(), 2 * liars + 1
    buckets = [places[first::count] for first in range(count)]
    honest = rng.normal(0, 1, (n - liars, 5))
    asked: list[int] = []

    def lies(means: Any, many: int) -> Any:
        asked.append(many)
        return -3.0 * means.mean(axis=0)

    rows = np.vstack([honest, *(spoiling(honest, buckets, place, lies) for place in range(n - liars, n))])
    clean = [bucket for bucket in buckets if max(bucket) < n - liars]
    wanted = -3.0 * np.stack([honest[bucket].mean(axis=0) for bucket in clean]).mean(axis=0)
    for bucket in buckets:
        if bucket not in clean:
            assert np.allclose(rows[bucket].mean(axis=0), wanted)
    assert set(asked) == {count - len(clean)}


@pytest.mark.parametrize("made", [Alie(z=1.0), Ipm(epsilon=2.0)], ids=lambda made: made.name)
def test_what_rests_stays_as_it_is_at_a_liar(made: Attack) -> None:
    torch.manual_seed(9)
    before = torch.nn.Linear(3, 2).bias.detach().clone()
    task = Straight(9.0, 9)
    honest = [Straight(1.0, 1), Straight(2.0, 2)]
    list(Liar(task, honest, made, "mean", 1).steps(0, EVERY, EVERY, lambda: None))
    assert torch.equal(task.model[0].bias, before) and flat(task.model).size == 3 * 2 + 2 * 2 + 2


# ── what the summary says ────────────────────────────────────────────────────────────────────────────────────────────


def outcome(rule: str, under_mean: dict[str, Any] | None) -> dict[str, Any]:
    peer = {"exit_code": 0, "bytes_sent": 10**6, "parameters": "ab" * 32}
    held_out = {
        "a": {"texts": 9, "before": [6.0, 0.1], "joined": [2.0, 0.1]},
        "b": {"texts": 9, "before": [6.0, 0.1], "joined": [3.0, 0.1]},
    }
    return {
        "model": "bytes", "held_out": held_out, "gained": {}, "rounds": 4, "protocol": "mesh", "rule": rule,
        "attack": {"name": "alie", "liars": ["peer-3"]}, "under_mean": under_mean,
        "peers": [{**peer, "name": f"peer-{index}"} for index in range(4)],
        "leak": {"windows": 9, "found": 9, "planted": 4}, "killed": None, "lost": [],
        "audit": {"verdict": "clean", "entries": 1, "missing": 0, "violations": []},
        "wall_seconds": 1.0, "cpu_seconds": 2.0,
    }  # fmt: skip


def test_the_table_shows_what_the_rule_kept_beside_what_the_mean_lost() -> None:
    mean = {"held_out": {silo: {"texts": 9, "before": [6.0, 0.1], "joined": [5.0, 0.1]} for silo in ("a", "b")}}
    said, heads, a, b, means, *_ = summary_lines(outcome("nnm+trimmed_mean", mean), Path("o"))
    assert said.startswith("peer-3 lied (alie)")
    assert heads.split()[-3:] == ["before", "nnm+trimmed_mean", "mean"]
    assert (a.split(), b.split()) == (["a", "6.000", "2.000", "5.000"], ["b", "6.000", "3.000", "5.000"])
    assert means.split()[-3:] == ["6.000", "2.500", "5.000"]
    assert len({len(line) for line in (heads, a, b, means)}) == 1


def test_where_the_mean_left_nobody_the_table_says_so_and_the_mean_alone_has_no_second_column() -> None:
    *_, means = summary_lines(outcome("median", {"held_out": {}}), Path("o"))[:5]
    assert means.split()[-2:] == ["2.500", "–"]
    heads = summary_lines(outcome("mean", None), Path("o"))[1]
    assert heads.split()[-2:] == ["before", "mean"]
