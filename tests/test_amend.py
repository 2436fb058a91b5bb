"""Charters that amend charters: what is in force, what is not, and that no charter has two successors."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from beside import SPECS
from decentra.charter import Charter, Member, Policy
from decentra.charter.amend import amended, awaited, faults, judge
from decentra.crypto.keys import Identity
from decentra.derive import quorum
from decentra.errors import LocalError

IDENTITIES = [Identity.from_seed(number.to_bytes(2, "big") * 16) for number in range(1, 20)]
MEMBERS = [Member.of(identity, f"peer-{number}") for number, identity in enumerate(IDENTITIES)]
VECTORS = SPECS / "charter" / "vectors" / "v1"


def group(count: int = 5, c: int = 1, **admission: Any) -> Charter:
    terms = {"version": 1, "group": {"name": "test"}, "protocol": {"name": "secagg", "c": c}, "admission": admission}
    return signed(Charter.build({**terms, "members": MEMBERS[:count]}), range(count))


def signed(charter: Charter, who: Iterable[int]) -> Charter:
    for number in who:
        charter = charter.sign(IDENTITIES[number])
    return charter


def with_signature(charter: Charter, number: int, made: bytes | None = None) -> Charter:
    """The charter with a signature that ``sign`` would not make: of somebody who is no member, or on other bytes."""
    raw = tomllib.loads(charter.to_toml())
    made = IDENTITIES[number].sign(charter.hash) if made is None else made
    raw.setdefault("signatures", {})[IDENTITIES[number].id.hex()] = made.hex()
    return Charter.build(raw)


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(LocalError) as caught:
        call()
    return str(caught.value)


# ── what holds for all amendments ────────────────────────────────────────────────────────────────────────────────────


@st.composite
def groups(draw: st.DrawFn) -> tuple[Charter, int]:
    """A sound founding charter, and how many members it has."""
    count = draw(st.integers(3, 7))
    c = draw(st.integers(1, count - 2))
    assume(quorum(count, c) <= count)
    wanted = draw(st.none() | st.integers(quorum(count, c), count))
    charter = group(count, c, **({} if wanted is None else {"quorum": wanted}))
    assume(not Policy(charter).problems)
    return charter, count


@st.composite
def amendments(draw: st.DrawFn, old: Charter, count: int) -> tuple[Charter, list[int]]:
    """Any amendment of it, and the numbers of those that are members afterwards."""
    removed = draw(st.sets(st.integers(0, count - 1), max_size=2))
    added = draw(st.sets(st.integers(count, count + 2), max_size=2))
    terms = draw(st.sampled_from([{}, {"training": {"steps": 40}}, {"admission": {"invites": False}}]))
    new = amended(
        old, add=[MEMBERS[one] for one in added], remove=[MEMBERS[one].id for one in removed], terms=terms
    )
    return new, sorted(set(range(count)) - removed | added)


@given(st.data(), groups())
def test_two_amendments_in_force_have_more_than_c_signers_in_common(
    data: st.DataObject, old_and_count: tuple[Charter, int]
) -> None:
    old, count = old_and_count
    made = []
    for _ in range(2):
        bare, members = data.draw(amendments(old, count))
        away = data.draw(st.sets(st.sampled_from(members), max_size=count - old.admission_quorum + 1))
        by = set(members) - away  # about as many as a quorum, so that both are often in force
        made.append((signed(bare, by), by))
    (one, first), (other, second) = made
    assume(one.hash != other.hash)
    if not judge(old, one) and not judge(old, other):
        assert len(first & second & set(range(count))) > old.protocol.c


@given(st.data(), groups())
def test_it_is_in_force_with_all_newcomers_and_a_quorum_of_those_who_stay_and_with_no_fewer(
    data: st.DataObject, old_and_count: tuple[Charter, int]
) -> None:
    old, count = old_and_count
    bare, members = data.draw(amendments(old, count))
    assume(not faults(old, bare))
    by = data.draw(st.permutations(data.draw(st.lists(st.sampled_from(members), unique=True))))
    new = signed(bare, by)
    enough = set(members) - set(range(count)) <= set(by)
    enough = enough and len(set(by) & set(range(count))) >= old.admission_quorum
    assert (judge(old, new) == ()) is enough
    lacks = awaited(old, new)
    assert (lacks.added == () and lacks.more == 0) is enough


@given(st.data(), groups())
def test_the_order_of_signatures_and_junk_beside_them_change_nothing(
    data: st.DataObject, old_and_count: tuple[Charter, int]
) -> None:
    old, count = old_and_count
    bare, members = data.draw(amendments(old, count))
    by = data.draw(st.lists(st.sampled_from(members), unique=True))
    new = signed(bare, by)
    again = signed(bare, data.draw(st.permutations(by)))
    assert again == new and judge(old, again) == judge(old, new)
    outsiders = sorted(set(range(count + 3)) - set(members))
    assume(outsiders)
    assert judge(old, with_signature(new, data.draw(st.sampled_from(outsiders)))) == judge(old, new)


TERMS: list[tuple[str, str, object]] = [
    ("group", "name", "other"),
    ("group", "epoch", 3),
    ("group", "previous", "00" * 32),
    ("protocol", "width", 32),
    ("protocol", "c", 2),
    ("rounds", "phase_deadline", 3.0),
    ("training", "steps", 41),
    ("model", "fingerprint", "ab" * 32),
    ("admission", "quorum", 6),
    ("admission", "invites", False),
]


@pytest.mark.parametrize(("table", "key", "value"), TERMS)
def test_a_changed_term_breaks_every_signature(table: str, key: str, value: object) -> None:
    old = group()
    new = signed(amended(old, add=[MEMBERS[5]]), range(6))
    assert judge(old, new) == ()
    raw = tomllib.loads(new.to_toml())
    raw.setdefault(table, {})[key] = value
    changed = Charter.build(raw)
    assert changed.without_stale_signatures().signatures == {}
    told = " ".join(judge(old, changed))
    if table != "group":  # there the link itself is broken, and is told alone
        assert "everyone that it adds has to sign it" in told and "4 more of those who stay" in told
        assert "no signature for this text of it" in told
    assert told


# ── attacks and mistakes ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_removed_member_counts_for_nothing() -> None:
    old = group(5)
    new = signed(amended(old, remove=[MEMBERS[4].id]), (0, 1, 2))
    with_its_word = with_signature(new, 4)
    assert len(judge(old, with_its_word)) == 1 and "1 more of those who stay" in judge(old, with_its_word)[0]
    assert judge(old, signed(new, [3])) == ()


def test_sybils_cannot_outvote_the_members() -> None:
    """A member adds accounts of its own: their signatures are no part of the quorum."""
    old = group(4)
    new = signed(amended(old, add=MEMBERS[4:14]), (0, *range(4, 14)))
    assert judge(old, new) == (
        "2 more of those who stay have to sign it, with `decentra charter sign --charter FILE`: of "
        + ", ".join(sorted(member.label for member in MEMBERS[1:4])),
    )


def test_nobody_is_made_a_member_without_its_word() -> None:
    old = group(4)
    new = signed(amended(old, add=[MEMBERS[4]]), range(4))
    assert judge(old, new) == (
        "everyone that it adds has to sign it, with `decentra charter sign --charter FILE`: " + MEMBERS[4].label,
    )


def test_an_amendment_of_another_charter_of_the_same_epoch_is_refused() -> None:
    mine, fork = group(5), group(5, c=2)
    told = judge(mine, signed(amended(fork), range(5)))
    assert len(told) == 1 and "it amends another charter of epoch 1" in told[0]


def test_old_amendments_and_skipped_ones_say_which_epoch_they_are_of() -> None:
    first = group()
    second = signed(amended(first), range(5))
    third = signed(amended(second), range(5))
    assert "it is for epoch 2, and this group is in epoch 3" in judge(third, second)[0]
    assert "take the amendment to epoch 2 first" in judge(first, third)[0]
    assert "it amends no charter" in judge(second, first)[0]
    assert "it is the charter in force itself" in judge(second, second)[0]
    raw = tomllib.loads(second.to_toml())
    raw["group"]["epoch"] = 9
    assert "it is for epoch 9, and 2 comes after" in judge(first, Charter.build(raw))[0]


def test_another_groups_amendment_is_refused() -> None:
    other = Charter.build({**dict(group()), "group": {"name": "others"}, "signatures": {}})
    assert "it is of the group 'others', and this one is 'test'" in judge(group(), amended(other))[0]


def test_the_record_of_who_stays_may_not_change() -> None:
    """Else a quorum could give a member another CURVE key or name under its own old signature."""
    old = group()
    renamed = Member.of(IDENTITIES[0], "somebody")
    raw = {**dict(amended(old)), "members": [renamed, *MEMBERS[1:5]]}
    told = judge(old, signed(Charter.build(raw), range(5)))
    assert told == (
        f"the record of {renamed.label} is another one than in the charter in force; an amendment keeps the records of "
        "those who stay as they are",
    )


def test_removing_more_than_can_agree_is_told_at_once() -> None:
    old = group(6)
    new = amended(old, remove=[member.id for member in MEMBERS[3:6]])
    assert faults(old, new) == (
        "3 of 6 members would stay, and 4 of those who stay have to sign an amendment; remove at most 2",
    )
    everybody = group(5, quorum=5)
    assert "nobody can be removed from this one" in faults(everybody, amended(everybody, remove=[MEMBERS[0].id]))[0]


def test_an_unsound_amendment_is_never_in_force() -> None:
    old = group(4)
    assert "needs at least 3 members" in " ".join(judge(old, amended(old, remove=[m.id for m in MEMBERS[:2]])))
    new = signed(amended(old, terms={"protocol": {"c": 3}}), range(4))
    assert "c = 3 is out of 1..2" in judge(old, new)[0]


def test_peers_that_would_sign_by_themselves_are_not_in_this_release() -> None:
    (told,) = Policy(group(5, invites=True)).problems
    assert told.startswith("invites = true in [admission] is not in this release")


@pytest.mark.parametrize(("wanted", "words"), [(2, "raise it to 4"), (6, "more than the 5 members; lower it")])
def test_a_quorum_of_admission_is_within_what_is_sound(wanted: int, words: str) -> None:
    (told,) = Policy(group(5, quorum=wanted)).problems
    assert f"quorum = {wanted} in [admission]" in told and words in told


def test_what_an_amendment_cannot_do_is_refused_before_it_is_made() -> None:
    old = group(4)
    assert "is a member already; leave it out" in refusal(lambda: amended(old, add=[MEMBERS[0]]))
    assert "is no member of 'test'" in refusal(lambda: amended(old, remove=[MEMBERS[9].id]))
    assert "changes nothing in [group]" in refusal(lambda: amended(old, terms={"group": {"name": "x"}}))
    assert "did you mean 'steps'?" in refusal(lambda: amended(old, terms={"training": {"stesp": 3}}))
    forged = MEMBERS[4].model_copy(update={"name": "eve"})
    assert "its own signature does not fit" in refusal(lambda: amended(old, add=[forged]))
    twin = Member.of(IDENTITIES[9], "PEER-0")
    assert "have one name" in refusal(lambda: amended(old, add=[twin]))


def test_a_term_is_changed_added_and_left_out_and_the_rest_stays() -> None:
    old = group(5, quorum=4)
    new = amended(old, terms={"training": {"steps": 7}, "admission": {"quorum": None}, "protocol": {"floor": 4}})
    assert (new.training.steps, new.admission.quorum, new.protocol.floor) == (7, None, 4)
    assert (new.group.epoch, new.group.previous, new.signatures) == (2, old.hash, {})
    assert set(new.differences(old)) == {
        "group.epoch is 2 here and 1 there",
        f"group.previous is {old.hash.hex()[:8]}… here and absent there",
        "training.steps is 7 here and 20 there",
        "admission.quorum is absent here and 4 there",
        "protocol.floor is 4 here and absent there",
    }


# ── vectors ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _vector(name: str) -> Charter:
    return Charter.parse((VECTORS / name).read_text(encoding="utf-8"))


def test_the_amended_vector_is_in_force_and_its_tampered_copies_are_not() -> None:
    expected = json.loads((VECTORS / "expected.json").read_text())["amend"]
    old, new = _vector("amend-old.toml"), _vector("amend-new.toml")
    old.check()
    assert (old.hash.hex(), new.hash.hex()) == (expected["old"], expected["new"])
    assert judge(old, new) == ()
    for name in expected["not in force"]:
        assert judge(old, _vector(f"amend-bad-{name}.toml")), name


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("one-signature-too-few", "1 more of those who stay have to sign it"),
        ("a-removed-members-signature-instead", "1 more of those who stay have to sign it"),
        ("newcomer-did-not-sign", "everyone that it adds has to sign it"),
        ("changed-term", "no signature for this text of it"),
        ("of-another-charter", "it amends another charter of epoch 1 \\(5a5a5a5a\\)"),
        ("epoch-skipped", "it is for epoch 3, and 2 comes after"),
    ],
)
def test_a_tampered_amendment_is_told_what_it_lacks(name: str, words: str) -> None:
    told: Sequence[str] = judge(_vector("amend-old.toml"), _vector(f"amend-bad-{name}.toml"))
    assert any(re.search(words, one) for one in told), told
