"""An epoch's beacon: in force by a quorum of its drawers, told in datagrams, kept on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decentra.crypto.hashing import digest
from decentra.crypto.keys import Identity
from decentra.derive import quorum
from decentra.errors import LocalError
from decentra.gossip.beacon import NOTHING, Draw, Draws, read
from decentra.gossip.schedule import drawn
from decentra.peer import beacon as kept
from decentra.simulation.group import identities
from decentra.wire.codec import Malformed, pack

WHO = identities(8, 0)
KEYS = {one.id: one for one in WHO}
NAME, FIRST, SECOND = digest("a charter"), digest("a beacon"), digest("another")


def check(peer: bytes, signature: bytes, message: bytes) -> bool:
    """Signatures here are the signer's id and the message, hashed: a test of counting needs no curve."""
    return signature == digest("signed", peer, message) * 2


def signature(who: Identity, beacon: bytes, name: bytes = NAME) -> bytes:
    return digest("signed", who.id, drawn(name, beacon)) * 2


def draws(place: int, drawers: Sequence[Identity] = WHO[:7], c: int = 2) -> Draws:
    me = WHO[place]
    return Draws(me.id, NAME, [one.id for one in drawers], c, lambda m: digest("signed", me.id, m) * 2, check)


def freely() -> bool:
    return True


def word(who: Sequence[Identity], beacon: bytes) -> Draw:
    return Draw(beacon, {one.id: signature(one, beacon) for one in who})


# ── what is in force ─────────────────────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=60)
@given(st.integers(3, 8), st.data())
def test_two_beacons_are_never_in_force_while_honest_drawers_sign_one(m: int, data: st.DataObject) -> None:
    """Whatever c liars sign for whom: two members that each have a beacon in force have the same."""
    c = data.draw(st.integers(1, m - 2))
    liars = WHO[:c]
    choices = data.draw(st.lists(st.sampled_from([FIRST, SECOND, None]), min_size=m - c, max_size=m - c))
    honest = {
        beacon: [one for one, chosen in zip(WHO[c:m], choices, strict=True) if chosen == beacon]
        for beacon in (FIRST, SECOND)
    }
    found = set()
    for beacon, lied in ((FIRST, SECOND), (SECOND, FIRST)):
        mine = draws(7, WHO[:m], c)
        mine.take(word([*liars, *honest[beacon]], beacon), freely)
        mine.take(word([*liars, *honest[lied]], lied), freely)
        if mine.in_force is not None:
            assert len(honest[mine.in_force]) + c >= quorum(m, c)
            found.add(mine.in_force)
    assert len(found) <= 1


def test_a_beacon_is_in_force_with_a_quorum_and_no_sooner() -> None:
    mine, need = draws(7), quorum(7, 2)
    for count, one in enumerate(WHO[:need], 1):
        assert mine.take(word([one], FIRST), freely) and not mine.take(word([one], FIRST), freely)
        assert (mine.in_force == FIRST) == (count >= need)
        assert (mine.shared == FIRST) == (count > 2)


def test_what_does_not_verify_or_is_no_drawers_counts_for_nothing() -> None:
    mine = draws(6)
    assert not mine.take(word([WHO[7]], FIRST), freely), "no drawer"
    assert not mine.take(Draw(FIRST, {WHO[0].id: signature(WHO[0], SECOND)}), freely), "for another beacon"
    assert not mine.take(Draw(FIRST, {WHO[0].id: signature(WHO[0], FIRST, digest("x"))}), freely), "for another charter"
    assert not mine.take(Draw(FIRST, {WHO[0].id: signature(WHO[1], FIRST)}), freely), "another's"
    assert mine.known is None and mine.in_force is None and not mine.lacks(None)


def test_a_drawer_counts_once_with_the_first_beacon_that_it_signed() -> None:
    mine = draws(7)
    assert mine.take(word([WHO[0]], FIRST), freely) and not mine.take(word([WHO[0]], SECOND), freely)
    assert mine.known == word([WHO[0]], FIRST)


def test_a_drawer_signs_one_beacon_only() -> None:
    mine = draws(0)
    assert mine.draws
    written: list[Draw] = []
    mine.sign(FIRST, written.append)
    assert written == [word([WHO[0]], FIRST)]
    assert not mine.draws and mine.known == word([WHO[0]], FIRST)
    with pytest.raises(LocalError, match="a second beacon was to be signed"):
        mine.sign(SECOND, written.append)
    again = draws(0)
    again.restore(word([WHO[0]], FIRST))
    assert not again.draws, "what it kept of an earlier start says so"
    assert not draws(7).draws, "it is no drawer"


def test_a_word_that_can_t_be_kept_is_not_given() -> None:
    def full(_: Draw) -> None:
        raise LocalError("no space left on the device")

    mine = draws(0)
    mine.take(word([WHO[1]], FIRST), freely)
    with pytest.raises(LocalError, match="no space left"):
        mine.sign(FIRST, full)
    assert mine.draws and mine.known == word([WHO[1]], FIRST), "a later start may sign another"


def test_a_drawer_keeps_its_own_word_however_many_say_another() -> None:
    mine = draws(0)
    mine.sign(FIRST, lambda _: None)
    mine.take(word(WHO[1:4], SECOND), freely)
    assert mine.known == word(WHO[1:4], SECOND)
    again = draws(0)
    assert mine.to_keep is not None
    again.restore(mine.to_keep)
    assert not again.draws


def test_who_lacks_something_is_answered_and_who_has_all_is_not() -> None:
    mine = draws(7)
    mine.take(word(WHO[:3], FIRST), freely)
    for lacking in (None, word(WHO[:2], FIRST), word(WHO[:5], SECOND)):
        assert mine.lacks(lacking)
    for complete in (word(WHO[:3], FIRST), word(WHO[:5], FIRST)):
        assert not mine.lacks(complete)


class Counted:
    """A checker, and an allowance of so many signatures, that count what they are asked."""

    def __init__(self, allowed: int) -> None:
        self.left, self.checked = allowed, 0

    def check(self, peer: bytes, signature: bytes, message: bytes) -> bool:
        self.checked += 1
        return check(peer, signature, message)

    def affords(self) -> bool:
        self.left -= 1
        return self.left >= 0

    def draws(self) -> Draws:
        return Draws(WHO[7].id, NAME, [one.id for one in WHO[:7]], 2, lambda _: bytes(64), self.check)


@given(st.lists(st.booleans(), min_size=7, max_size=7), st.integers(0, 8))
def test_who_tells_a_false_signature_is_checked_no_further_and_nobody_beyond_its_allowance(
    true: list[bool], allowed: int
) -> None:
    counted = Counted(allowed)
    mine = counted.draws()
    told = {one.id: signature(one, FIRST if right else SECOND) for one, right in zip(WHO[:7], true, strict=True)}
    sound = true.index(False) if False in true else 7
    assert mine.take(Draw(FIRST, told), counted.affords) == (min(sound, allowed) > 0)
    assert counted.checked == min(sound + 1, 7, allowed)
    assert len(mine.known.signatures if mine.known else ()) == min(sound, allowed)


def test_once_a_beacon_is_in_force_nothing_is_verified_and_who_has_a_quorum_is_not_answered() -> None:
    counted = Counted(100)
    mine = counted.draws()
    assert mine.take(word(WHO[:5], FIRST), counted.affords) and mine.in_force == FIRST
    spent = counted.checked
    assert not mine.take(word(WHO[:7], FIRST), counted.affords) and counted.checked == spent
    assert not mine.lacks(word(WHO[2:7], FIRST)), "else two that hold different quorums answer each other for ever"
    assert mine.lacks(word(WHO[3:7], FIRST)) and mine.lacks(None) and mine.lacks(word(WHO[:7], SECOND))


def test_what_was_kept_is_counted_signature_by_signature() -> None:
    kept = Draw(FIRST, {WHO[1].id: bytes(64), WHO[0].id: signature(WHO[0], FIRST)})
    again = draws(0)
    again.restore(kept)
    assert not again.draws, "a spoilt line of another's does not have it sign twice"


# ── datagrams ────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.binary(max_size=300))
def test_any_datagram_is_read_or_refused(raw: bytes) -> None:
    try:
        told = read(raw)
    except Malformed:
        return
    assert (NOTHING if told is None else told.pack()) == raw


@given(st.binary(min_size=32, max_size=32), st.sets(st.sampled_from(WHO), min_size=1))
def test_what_is_told_is_read(beacon: bytes, who: set[Identity]) -> None:
    said = word(sorted(who, key=lambda one: one.id), beacon)
    assert read(said.pack()) == said
    assert read(NOTHING) is None


@pytest.mark.parametrize(
    "wrong",
    [
        (FIRST,),
        (FIRST, ()),
        (FIRST[:31], ((bytes(32), bytes(64)),)),
        (FIRST, ((bytes(31), bytes(64)),)),
        (FIRST, ((bytes(32), bytes(63)),)),
        (FIRST, (bytes(32),)),
        (FIRST, 7),
        "text",
    ],
)
def test_a_datagram_of_another_shape_is_refused(wrong: object) -> None:
    with pytest.raises(Malformed):
        read(pack(wrong))


def test_the_largest_draw_fits_into_a_datagram() -> None:
    from decentra.wire.frame import DATAGRAM_LIMIT

    many = Draw(FIRST, {one.id: bytes(64) for one in identities(64, 1)})
    assert len(many.pack()) <= DATAGRAM_LIMIT


# ── on disk ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_kept_is_read_back_for_its_own_charter_only(tmp_path: Path) -> None:
    path = tmp_path / kept.FILE
    assert kept.load(path, NAME) is None
    kept.save(path, NAME, word(WHO[:3], FIRST))
    assert kept.load(path, NAME) == word(WHO[:3], FIRST)
    assert kept.load(path, SECOND) is None, "an earlier epoch's"


@pytest.mark.parametrize("text", ["", "beacon = 7", "charter = 'x'\nbeacon = 'y'\nsignatures = 3", "[", "x = 1"])
def test_a_damaged_file_is_refused_with_what_to_do(tmp_path: Path, text: str) -> None:
    path = tmp_path / kept.FILE
    path.write_text(text)
    with pytest.raises(LocalError, match=r"beacon\.toml"):
        kept.load(path, NAME)
