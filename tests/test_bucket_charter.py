"""The terms of a charter whose members sum in buckets: what is sound, what is refused and whether its mend mends, and
the charters that are derived of it."""

from __future__ import annotations

import hashlib
import re
from fractions import Fraction
from math import comb
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beside import vectors
from decentra import derive
from decentra.charter import Charter, Member, Policy, bucket_policy
from decentra.charter.amend import amended, changed_terms
from decentra.crypto.keys import Identity
from decentra.errors import LocalError
from decentra.gossip.group import bucket_charter, combining_charter, drawers_charter
from decentra.grids import MOST_TOGETHER, buckets_risk
from decentra.robust import catalogue

IDENTITIES = [Identity.from_seed(number.to_bytes(32, "little")) for number in range(65)]
MEMBERS = [Member.of(identity, f"peer-{number}") for number, identity in enumerate(IDENTITIES)]
BEACON = b"\xbe" * 32


def charter(count: int, **terms: Any) -> Charter:
    """A charter in buckets; terms of [protocol] by name, others by ``table__key``; None leaves one out."""
    tables: dict[str, dict[str, Any]] = {
        "group": {"name": "test"},
        "protocol": {"name": "bucketed", "rule": "median", "c": 1},
        "buckets": {"size": 3},
    }
    for key, value in terms.items():
        table, _, name = key.rpartition("__")
        if value is not None:
            tables.setdefault(table or "protocol", {})[name] = value
    return Charter.build({"version": 1, **tables, "members": MEMBERS[:count]})


def problems(count: int, **terms: Any) -> tuple[str, ...]:
    return Policy(charter(count, **terms)).problems


# ── what is sound ────────────────────────────────────────────────────────────────────────────────────────────────────

chosen = st.fixed_dictionaries(
    {
        "count": st.integers(9, MOST_TOGETHER),
        "c": st.integers(1, 12),
        "buckets__size": st.integers(1, 24),
        "buckets__c": st.none() | st.integers(0, 12),
    }
)


def fits(count: int, c: int, size: int, own: int | None) -> bool:
    """The README's bounds: two honest members in each bucket, and buckets to outvote c tainted ones."""
    corrupt = c if own is None else own
    return 1 <= corrupt <= c and size >= corrupt + 2 and count // size >= 2 * c + 1


@given(chosen)
def test_a_charter_is_sound_where_its_buckets_hide_and_outvote_and_the_risk_is_not_understated(
    terms: dict[str, Any],
) -> None:
    count, c, size, own = (terms[key] for key in ("count", "c", "buckets__size", "buckets__c"))
    stated = 1.0 if own is not None and 1 <= own < c else None
    sound = not problems(**terms, buckets__risk=stated)
    assert sound == fits(count, c, size, own)
    if sound and stated is not None:
        assert own is not None
        least = buckets_risk(count, count // size, c, own)
        assert least == bucket_policy.bound(charter(**terms))
        assert not problems(**terms, buckets__risk=max(least, 1e-300))
        (unsaid,) = problems(**terms)
        assert unsaid.startswith("no risk is stated in [buckets]")
        (understated,) = problems(**terms, buckets__risk=least / 2)
        assert "is understated in [buckets]" in understated


def follow(said: str, terms: dict[str, Any]) -> dict[str, Any]:
    """A choice with what a refusal says would mend it."""
    mend = said.rpartition("; ")[2]
    after = dict(terms)
    for key, pattern in (("c", r"lower c to (\d+)"), ("buckets__size", r"set size to (\d+)")):
        if found := re.search(pattern, mend):
            after[key] = int(found[1])
    if found := re.search(r"state risk = ([0-9.e+-]+) or more", mend):
        after["buckets__risk"] = float(found[1])
    elif "leave c and risk in [buckets] out" in mend:
        after |= {"buckets__c": None, "buckets__risk": None}
    elif "risk in [buckets] is for" in said:
        after["buckets__risk"] = None
    elif "set it within that, or leave it out" in mend:
        after["buckets__c"] = None
    return after


@given(chosen, st.none() | st.floats(1e-9, 1.0))
def test_what_is_refused_is_sound_after_its_mends_one_by_one(terms: dict[str, Any], risk: float | None) -> None:
    terms = {**terms, "c": min(terms["c"], terms["count"] - 2), "buckets__risk": risk}
    for _ in range(4):
        found = problems(**terms)
        if not found:
            return
        after = follow(found[0], terms)
        assert after != terms, found[0]
        assert after["c"] <= terms["c"] and found[0] not in problems(**after)
        terms = after
    raise AssertionError(f"four mends are not enough: {found}")


@pytest.mark.parametrize(
    ("count", "terms", "words"),
    [
        (8, {}, 'needs at least 9 members, three buckets of three, and has 8; add 1, or take name = "mesh"'),
        (3, {}, 'and has 3; add 6, or take name = "mesh" where all may see all updates'),
        (65, {}, "bucketed takes at most 64 members and has 65"),
        (9, {"buckets__size": 2}, "with 1 corrupt in a bucket one below 3 bares an update; set size to 3"),
        (9, {"buckets__size": 4}, "gives 2 buckets of 9 members, and c = 1 liars that each taint one need 3; set"),
        (9, {"buckets__size": 100}, "size = 100 in [buckets] gives 0 buckets of 9 members"),
        (9, {"c": 2}, "one below 4 bares an update; lower c to 1, or add members"),
        (9, {"c": 2, "buckets__size": 4}, "need 5; lower c to 1 and set size to 3, or add members"),
        (9, {"c": 3, "buckets__c": 1, "buckets__risk": 1.0}, "lower c to 1 and leave c and risk in [buckets] out, or"),
        (9, {"c": 8}, "c = 8 is out of 1..7 for 9 members"),
        (9, {"c": 0}, "c = 0 is out of 1..7 for 9 members"),
        (9, {"c": 100, "buckets__c": 1}, "c = 100 is out of 1..7 for 9 members"),
        (20, {"c": 2, "buckets__c": 3}, "c = 3 in [buckets] is out of 1..2, as 2 of all members may be corrupt"),
        (20, {"c": 2, "buckets__c": 0, "buckets__size": 2}, "c = 0 in [buckets] is out of 1..2"),
        (20, {"c": 2, "buckets__c": 1}, "no risk is stated in [buckets]: with 2 corrupt members in 6 buckets some "
         "bucket holds more than 1 of them with a probability of up to 0.13; state risk = 0.13 or more, or leave c in"),
        (20, {"c": 2, "buckets__c": 1, "buckets__risk": 1e-3}, "risk = 0.001 is understated in [buckets]"),
        (9, {"buckets__risk": 0.1}, "risk in [buckets] is for a c of a bucket below that of all; leave it out"),
        (20, {"c": 2, "buckets__c": 2, "buckets__size": 4, "buckets__risk": 0.1}, "risk in [buckets] is for a c of a"),
        (64, {"c": 22, "buckets__c": 1, "buckets__risk": 1.0}, "64 members can't draw a beacon against c = 22"),
        (9, {"rule": "mean"}, "over buckets is the mean of all, which one liar moves as far as it likes; set rule to "
         f'{catalogue.DEFAULT!r}, or name = "secagg"'),
        (9, {"rule": "bulyan"}, "with f = 1 that is 7 updates, and there are 3; lower f to 0, or choose"),
        (9, {"rule": "smea"}, "does not promise the same bits on every machine"),
        (9, {"rule": "fltrust"}, "against each peer's own reference"),
        (9, {"rule": "medina"}, "there is no rule 'medina'; did you mean 'median'?"),
        (9, {"max_weight": 2}, "a weight is what a peer says of itself, and under a robust rule no word may"),
        (9, {"challenges": 4}, "challenges = 4 is more than the 3 slices of a round; lower it"),
        (9, {"floor": 5}, "floor = 5 is below ⌊(m+c)/2⌋+1 = 6"),
        (33, {"floor": 34}, "floor = 34 is more than the 33 members"),
        (28, {"c": 9, "floor": 24}, "c = 9 liars need 19 against them; raise floor to 27"),
        (9, {"name": "secagg", "rule": "mean"}, "[buckets] is for bucketed, and secagg has none; remove it, or"),
        (9, {"name": "mesh"}, 'and mesh has none; remove it, or set name = "bucketed"'),
    ],
)  # fmt: skip
def test_an_unsound_choice_is_refused_with_its_mend(count: int, terms: dict[str, Any], words: str) -> None:
    assert any(words in said for said in problems(count, **terms)), problems(count, **terms)


def test_without_the_table_bucketed_is_refused_and_on_a_grid_the_table_is() -> None:
    bare = Charter.build({**dict(charter(9)), "buckets": None})
    (said,) = Policy(bare).problems
    assert said.startswith("bucketed needs a table [buckets] with the size of a bucket")
    drawers = tuple(f"peer-{number}" for number in range(4))
    terms = {"size": 6, "liars": 1, "risk": 1.0, "drawers": drawers}
    grid = charter(16, name="secagg", rule="mean", width=32, **{f"groups__{key}": one for key, one in terms.items()})
    (told,) = Policy(grid).problems
    assert told == '[buckets] is for bucketed, and secagg has none; remove it, or set name = "bucketed"'


def test_all_unsound_choices_are_told_together() -> None:
    found = problems(20, c=2, buckets__c=1, buckets__size=2, rule="mean", max_weight=2, challenges=9)
    assert len(found) == 5


def test_a_robust_rule_under_a_protocol_of_sums_is_told_of_both_that_evaluate_some() -> None:
    plain = charter(9).protocol.model_copy(update={"name": "secagg"})
    (said,) = Policy(Charter.build({**dict(charter(9)), "buckets": None, "protocol": plain})).problems
    assert 'name = "mesh" where all members may see all updates' in said and 'name = "bucketed"' in said


@given(chosen)
def test_the_floor_of_a_sound_charter_leaves_2c_plus_1_to_settle_what_counts(terms: dict[str, Any]) -> None:
    made = charter(**terms)
    for roster in range(made.roster_floor, len(made.members) + 1) if not Policy(made).problems else ():
        assert 2 * made.protocol.c + 1 <= derive.quorum(roster, made.protocol.c) <= roster


@given(st.integers(9, MOST_TOGETHER), st.integers(1, 8), st.integers(3, 16), st.integers(0, 4))
def test_what_the_draw_may_give_is_the_hypergeometric_sum_over_the_buckets(
    n: int, liars: int, size: int, c: int
) -> None:
    count = max(1, n // size)
    sizes = [len(bucket) for bucket in derive.buckets(BEACON, [member.id for member in MEMBERS[:n]], size)]
    assert len(sizes) == count
    over = sum(
        Fraction(comb(liars, bad) * comb(n - liars, of - bad), comb(n, of))
        for of in sizes
        for bad in range(c + 1, min(of, liars) + 1)
    )
    assert buckets_risk(n, count, liars, c) == float(min(Fraction(1), over))


# ── what is derived ──────────────────────────────────────────────────────────────────────────────────────────────────


@given(chosen, st.booleans(), st.integers(0, 2**31), st.sampled_from([16, 32]))
def test_every_charter_derived_of_a_sound_one_is_sound_and_whose_it_is(
    terms: dict[str, Any], backup: bool, seed: int, width: int
) -> None:
    own, c = terms["buckets__c"], terms["c"]
    stated = 1.0 if own is not None and own < c else None
    parent = charter(**terms, buckets__risk=stated, backup=backup, width=width)
    if Policy(parent).problems:
        return
    beacon, name = seed.to_bytes(32, "big"), parent.hash
    combining = combining_charter(parent, name, beacon)
    assert Policy(combining).problems == ()
    assert combining.ids == parent.ids
    assert combining.drawn_buckets == derive.buckets(beacon, parent.ids, terms["buckets__size"])
    assert (combining.protocol.challenges, combining.protocol.backup) == (None, False)
    assert combining.protocol.c == c and combining.bucket_corrupt == parent.bucket_corrupt
    for members in combining.drawn_buckets:
        bucket = bucket_charter(parent, name, beacon, members)
        assert Policy(bucket).problems == ()
        assert bucket.ids == tuple(sorted(members)) and bucket.buckets is None and bucket.signatures == {}
        assert (bucket.protocol.name, bucket.protocol.rule) == ("secagg", "mean")
        assert (bucket.protocol.c, bucket.protocol.backup) == (parent.bucket_corrupt, backup)
    drawing = drawers_charter(parent, name)
    assert Policy(drawing).problems == () and drawing.ids == parent.ids and drawing.buckets is None


def test_the_combining_waits_as_long_as_a_bucket_may_have_waited_and_gives_the_epoch_s_other_terms() -> None:
    parent = charter(9, rounds__ready_deadline=50.0, rounds__phase_deadline=7.0, training__steps=3, group__epoch=4)
    combining = combining_charter(parent, parent.hash, BEACON)
    bucket = bucket_charter(parent, parent.hash, BEACON, combining.drawn_buckets[0])
    assert (combining.rounds.ready_deadline, combining.rounds.phase_deadline) == (107.0, 7.0)
    assert bucket.rounds == parent.rounds
    assert {one.training.steps for one in (combining, bucket)} == {3}
    assert {one.group.epoch for one in (combining, bucket)} == {4}


def test_names_and_so_sessions_bind_the_signed_charter_the_beacon_and_the_members() -> None:
    one, other = charter(9), charter(9, group__epoch=2)
    beacons = (BEACON, bytes(32))
    combining = [combining_charter(one, name, beacon) for name in (one.hash, other.hash) for beacon in beacons]
    first, second, *_ = combining[0].drawn_buckets
    buckets = [
        bucket_charter(one, name, beacon, members)
        for name in (one.hash, other.hash)
        for beacon in beacons
        for members in (first, second)
    ]
    made = [*combining, *buckets, drawers_charter(one, one.hash)]
    assert len({derived.group.name for derived in made}) == len({derived.hash for derived in made}) == len(made)
    assert bucket_charter(one, one.hash, BEACON, first[::-1]) == buckets[0]
    assert all(combined.hash != one.hash for combined in combining)


def test_a_charter_without_buckets_has_no_means_to_combine_and_strangers_are_in_no_bucket() -> None:
    parent = charter(9)
    with pytest.raises(LocalError, match="no table \\[buckets\\]; there are no means to combine"):
        combining_charter(Charter.build({**dict(parent), "buckets": None}), parent.hash, BEACON)
    with pytest.raises(LocalError, match="1 of the group are no members of 'test'"):
        bucket_charter(parent, parent.hash, BEACON, [*parent.ids[:2], MEMBERS[20].id])


def test_a_beacon_is_in_no_charter_that_is_signed() -> None:
    combining = combining_charter(charter(9), bytes(32), BEACON)
    with pytest.raises(LocalError, match="drawn when an epoch begins, and signed by nobody; leave it out"):
        combining.sign(IDENTITIES[0])
    assert charter(9).drawn_buckets == () and [member.id for member in charter(9).drawers] == list(charter(9).ids)


def test_buckets_are_a_term_that_an_amendment_may_change() -> None:
    old = charter(16)
    new = amended(old, terms={"buckets": {"size": 4}})
    assert new.buckets is not None and new.buckets.size == 4
    assert any("buckets.size" in said for said in changed_terms(old, new))


# ── vectors ──────────────────────────────────────────────────────────────────────────────────────────────────────────

VECTORS = vectors("bucketed")


def hashed(label: str, *parts: bytes | int) -> str:
    """specs/crypto, "Encoding and hashing": tag, length, body; in hexadecimal."""
    state = hashlib.sha256(b"s" + len(label).to_bytes(8, "little") + label.encode())
    for part in parts:
        body = part if isinstance(part, bytes) else part.to_bytes(-(-part.bit_length() // 8), "little")
        state.update((b"b" if isinstance(part, bytes) else b"n") + len(body).to_bytes(8, "little") + body)
    return state.hexdigest()


def naive_risk(n: int, count: int, liars: int, c: int) -> str:
    sizes = [n // count + (index < n % count) for index in range(count)]
    ways = [
        Fraction(comb(liars, bad) * comb(n - liars, m - bad), comb(n, m))
        for m in sizes
        for bad in range(c + 1, m + 1)
        if bad <= liars
    ]
    return float(min(1, sum(ways))).hex()


def naive_bucket(charter: str, beacon: str, members: list[str]) -> str:
    peers = [bytes.fromhex(member) for member in sorted(members)]
    return hashed("bucket-group", bytes.fromhex(charter), bytes.fromhex(beacon), len(peers), *peers)


FORMULAS: dict[str, Any] = {
    "bucket_name": naive_bucket,
    "combining_name": lambda charter, beacon: hashed("combining", bytes.fromhex(charter), bytes.fromhex(beacon)),
    "buckets_risk": naive_risk,
}


@pytest.mark.parametrize("function", FORMULAS)
def test_the_files_are_what_the_script_writes(function: str) -> None:
    assert VECTORS.names == sorted(FORMULAS) == sorted(VECTORS.script.INPUTS)
    assert VECTORS.text(function) == VECTORS.script.rendered(function)


@pytest.mark.parametrize(("function", "case"), VECTORS.parameters)
def test_the_formula_of_the_readme_gives_the_known_answer(function: str, case: dict[str, Any]) -> None:
    inputs = {key: value for key, value in case.items() if key not in ("name", "output")}
    assert FORMULAS[function](**inputs) == case["output"]


@pytest.mark.parametrize("function", FORMULAS)
def test_what_is_named_for_a_change_gives_another_output(function: str) -> None:
    honest, *rest = VECTORS.cases(function)
    changed = {case["name"]: case["output"] for case in rest if case["name"].startswith("other-")}
    assert honest["output"] not in changed.values()
    assert {f"other-{key}" for key in honest if key not in ("name", "output")} == changed.keys()
