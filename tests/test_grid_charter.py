"""The terms of a charter whose members average on a grid: what is sound, what is refused, and with which mend."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decentra.charter import Charter, Member, Policy, grid_policy
from decentra.charter.amend import amended, changed_terms
from decentra.charter.grid_policy import MOST_ON_GRID
from decentra.crypto.keys import Identity
from decentra.gossip import schedule
from decentra.gossip.group import drawers_charter, group_charter

IDENTITIES = [Identity.from_seed(number.to_bytes(32, "little")) for number in range(300)]
MEMBERS = [Member.of(identity, f"peer-{number}") for number, identity in enumerate(IDENTITIES)]
DRAWERS = ("peer-0", "peer-1", "peer-2", "peer-3")
SIXTEEN = tuple(f"peer-{number}" for number in range(16))


def charter(count: int, members: Any = None, /, *, c: int = 1, **terms: Any) -> Charter:
    """A charter on a grid; terms of [groups] by name, others by ``table__key``."""
    tables: dict[str, dict[str, Any]] = {
        "group": {"name": "test"},
        "protocol": {"name": "secagg", "width": 32, "c": c},
        "groups": {"size": 6, "liars": 1, "risk": 1.0, "drawers": DRAWERS},
    }
    for key, value in terms.items():
        table, _, name = key.rpartition("__")
        tables.setdefault(table or "groups", {})[name] = value
    return Charter.build({"version": 1, **tables, "members": MEMBERS[:count] if members is None else members})


def problems(*args: Any, **terms: Any) -> tuple[str, ...]:
    return Policy(charter(*args, **terms)).problems


# ── what is sound ────────────────────────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=60, deadline=None)
@given(st.integers(4, 300), st.integers(3, 45), st.integers(1, 12), st.integers(1, 30))
def test_a_charter_is_sound_where_a_grid_fits_and_the_risk_is_not_understated(
    n: int, size: int, c: int, liars: int
) -> None:
    drawers = tuple(f"peer-{number}" for number in range(min(n, 34)))
    made = charter(n, c=c, size=size, liars=min(liars, n), drawers=drawers)
    found = Policy(made).problems
    grid = grid_policy.drawn(made)
    fitting_drawers = len(drawers) > 3 * c
    assert (not found) == (grid is not None and fitting_drawers)
    if found or grid is None:
        return
    least = schedule.mixing_risk(grid, min(liars, n), c)
    stated = charter(n, c=c, size=size, liars=min(liars, n), drawers=drawers, risk=max(least, 1e-300))
    assert Policy(stated).problems == ()
    if least > 1e-290:
        (found_less,) = problems(n, c=c, size=size, liars=min(liars, n), drawers=drawers, risk=least / 2)
        assert "is understated" in found_less


@settings(max_examples=25, deadline=None)
@given(st.integers(4, 300), st.integers(5, 30), st.integers(0, 2**31))
def test_every_charter_derived_of_a_sound_one_is_sound(n: int, size: int, seed: int) -> None:
    parent = charter(n, size=size, admission__quorum=n)
    assert Policy(parent).problems == ()
    grid = grid_policy.drawn(parent)
    assert grid is not None
    beacon = seed.to_bytes(32, "big")
    order = schedule.places(parent.hash, beacon, parent.ids)
    for axis in range(grid.axes):
        places = schedule.groups(grid, axis)[seed % grid.lines]
        derived = group_charter(parent, parent.hash, beacon, axis, grid, [order[place] for place in places])
        assert Policy(derived).problems == ()
        assert derived.groups is None and derived.admission.quorum is None
    drawing = drawers_charter(parent, parent.hash)
    assert Policy(drawing).problems == () and len(drawing.members) == 4


def test_a_thousand_members_are_sound_in_groups_of_sixteen() -> None:
    record = MEMBERS[0]
    many = [
        record.model_copy(update={"name": f"peer-{number}", "id": type(record.id)(number.to_bytes(32, "big"))})
        for number in range(1000)
    ]
    sound = charter(1000, many, c=5, size=16, liars=10, risk=1e-6, drawers=SIXTEEN)
    assert Policy(sound).problems == ()
    assert (Policy(sound).threshold, Policy(sound).stops_survived) == (11, 4)
    assert len(sound.to_toml()) < 10**6
    assert Charter.parse(sound.to_toml()).hash == sound.hash


def test_without_the_table_a_charter_is_what_it_was() -> None:
    plain = Charter.build(
        {"version": 1, "group": {"name": "test"}, "protocol": {"name": "secagg"}, "members": MEMBERS[:4]}
    )
    assert plain.groups is None and plain.drawers == () and plain.corrupt == 1
    assert b"groups." not in plain.canonical
    assert "[groups]" not in plain.to_toml()


def test_the_order_of_the_drawers_leaves_the_hash_alone() -> None:
    assert charter(9, drawers=DRAWERS[::-1]).hash == charter(9).hash
    assert [member.name for member in charter(9).drawers] == [
        member.name for member in charter(9).members if member.name in DRAWERS
    ]


def test_a_long_list_of_drawers_is_written_in_lines_that_are_read_again() -> None:
    named = [f"{number:02}-{'x' * 29}" for number in range(64)]
    long = charter(9, drawers=tuple(named))
    assert Charter.parse(long.to_toml()) == long


def held(of: int, c: int) -> bool:
    return of - c >= (of + c) // 2 + 1


@settings(max_examples=60, deadline=None)
@given(st.integers(4, 64), st.integers(1, 21))
def test_no_c_drawers_of_any_roster_that_may_start_can_keep_the_rest_from_the_beacon(count: int, c: int) -> None:
    named = tuple(f"peer-{number}" for number in range(count))
    parent = charter(200, c=c, size=45, liars=1, drawers=named)
    refused = [one for one in Policy(parent).problems if "can't draw a beacon" in one]
    assert bool(refused) == (not held(count, c))
    if not refused:
        floor = drawers_charter(parent, parent.hash).roster_floor
        assert all(held(of, c) for of in range(floor, count + 1))
        assert floor < count or count == 3 * c + 1, "one that is absent holds nobody up where that is sound"


# ── what is refused ──────────────────────────────────────────────────────────────────────────────────────────────────

REFUSED: dict[str, tuple[int, dict[str, Any], str]] = {
    "groups too small to aim at": (9, {"size": 2}, r"size = 2 in \[groups\] .* out of 3..45; choose another size"),
    "groups too large to aim at": (9, {"size": 46}, r"size = 46 in \[groups\] .* out of 3..45; choose another size"),
    "no grid fits": (5, {"size": 3}, r"no grid with groups of about 3 and none below 3; aim at groups of 4"),
    "c beyond every group": (16, {"c": 5, "size": 4, "drawers": SIXTEEN}, "lower c|aim at"),
    "mesh": (9, {"protocol__name": "mesh"}, 'mesh would show every update; set name = "secagg"'),
    "allreduce": (9, {"protocol__name": "allreduce"}, 'would show every update; set name = "secagg"'),
    "16 bits": (9, {"protocol__width": 16}, "no room for the weights of a mixing; set width to 32"),
    "a floor for all": (9, {"protocol__floor": 6}, r"each group has a floor by its own size; leave it out"),
    "weights that overflow": (27, {"protocol__max_weight": 2**30}, r"overflow width 32; set max_weight to at most \d+"),
    "too many challenges": (9, {"protocol__challenges": 7}, "set it to at most 4"),
    "two drawers": (9, {"drawers": DRAWERS[:2]}, "names 2 members, and the beacon is drawn by 4 to 64; name some"),
    "a drawer twice": (9, {"drawers": (*DRAWERS, "peer-1")}, "names peer-1 twice; name each once"),
    "a drawer who is no member": (9, {"drawers": (*DRAWERS, "peer-99")}, "names peer-99, no members; name members"),
    "drawers who could collude": (27, {"c": 2, "size": 9}, "4 drawers .* c = 2: .* name 7 .*, or lower c to 1"),
    "more liars than any drawers hold": (300, {"c": 22, "size": 45}, "c = 22: .* like it; lower c to 1 in"),
    "more liars than members": (9, {"liars": 10}, "liars = 10 in .* is more than the 9 members; lower it"),
    "a quorum that liars could split": (9, {"liars": 4, "admission__quorum": 5}, "liars could .* raise it to 7"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_wrong_terms_are_refused_with_their_mend(what: str) -> None:
    count, terms, sentence = REFUSED[what]
    found = problems(count, **terms)
    assert len(found) == 1, found
    assert re.search(sentence, found[0]), found[0]


def test_too_few_members_are_told_and_nothing_that_follows_from_it() -> None:
    few = problems(2)
    assert few == (
        "a mixing needs at least 3 members and has 2; add 1 with `decentra charter add`",
        "drawers in [groups] names peer-2, peer-3, no members; name members",
    )


def test_all_problems_are_told_at_once() -> None:
    found = problems(9, protocol__width=16, protocol__floor=5, drawers=("peer-0", "nobody"), liars=50, size=2)
    assert len(found) == 5, found


def test_more_members_than_a_charter_takes_are_refused() -> None:
    record = MEMBERS[0]
    many = [
        record.model_copy(update={"name": f"peer-{number}", "id": type(record.id)(number.to_bytes(32, "big"))})
        for number in range(MOST_ON_GRID + 1)
    ]
    (found,) = problems(0, many, size=16)
    assert found == f"a charter takes at most {MOST_ON_GRID} members and has {MOST_ON_GRID + 1}; make more than one"


def test_sixty_five_members_without_the_table_are_told_of_it() -> None:
    plain = {"version": 1, "group": {"name": "test"}, "protocol": {"name": "secagg", "width": 32}}
    (found,) = Policy(Charter.build({**plain, "members": MEMBERS[:65]})).problems
    assert "a table [groups] as in protocols/group-gossip.toml" in found
    assert problems(65, size=16) == ()


# ── an understated risk ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("n", "size", "c", "liars", "risk", "mend"),
    [
        (100, 8, 1, 10, 1e-2, "set c to 5 in [protocol], or state a higher risk"),
        (200, 6, 1, 40, 1e-3, "set size to 27 in [groups] and c to 14 in [protocol], or state a higher risk"),
        (60, 6, 1, 55, 1e-9, "fear fewer liars, or state risk = 1.0"),
    ],
)
def test_an_understated_risk_is_refused_with_what_would_hold(
    n: int, size: int, c: int, liars: int, risk: float, mend: str
) -> None:
    drawers = tuple(f"peer-{number}" for number in range(30))
    (found,) = problems(n, c=c, size=size, liars=liars, risk=risk, drawers=drawers)
    assert "is understated" in found and found.endswith(mend), found


@settings(max_examples=40, deadline=None)
@given(st.integers(20, 200), st.integers(5, 20), st.integers(1, 3), st.integers(2, 40), st.floats(1e-12, 0.5))
def test_the_mend_of_an_understated_risk_holds(n: int, size: int, c: int, liars: int, risk: float) -> None:
    drawers = tuple(f"peer-{number}" for number in range(20))
    terms = {"size": size, "liars": min(n, liars), "drawers": drawers}
    found = [one for one in problems(n, c=c, risk=risk, **terms) if "understated" in one]
    for one in found:
        mended: dict[str, Any] = {**terms, "c": c, "risk": risk}
        mended |= {key: int(value) for key, value in re.findall(r"(size|c) to (\d+)", one)}
        if stated := re.findall(r"state risk = ([0-9.e-]+)", one):
            mended["risk"] = float(stated[0])
        assert not [left for left in problems(n, **mended) if "understated" in left]


# ── amendments ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_amendment_on_a_grid_needs_a_quorum_against_the_liars_among_all() -> None:
    before = charter(60, c=1, liars=20)
    assert before.admission_quorum == (60 + 20) // 2 + 1
    after = amended(before, remove=[before.ids[-1]], terms={"groups": {"liars": 15}})
    assert after.groups is not None and after.groups.liars == 15
    assert changed_terms(before, after) == ("groups.liars is 15 here and 20 there",)


def test_an_amendment_takes_a_group_onto_a_grid_and_back() -> None:
    plain = Charter.build(
        {"version": 1, "group": {"name": "test"}, "protocol": {"name": "secagg"}, "members": MEMBERS[:9]}
    )
    terms = {"size": 6, "liars": 1, "risk": 1.0, "drawers": DRAWERS}
    onto = amended(plain, terms={"groups": terms, "protocol": {"width": 32}})
    assert Policy(onto).problems == () and onto.groups is not None
    back = amended(onto, terms={"groups": dict.fromkeys(terms)})
    assert Policy(back).problems == () and back.groups is None
