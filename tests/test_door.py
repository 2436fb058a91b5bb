"""A peer's door: the invited come in by it, over the network, and nobody else learns or costs anything there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st
from zmq.utils import z85

from commands import decentra, done, refused, told
from decentra import LocalError, RoundResult, Unavailable
from decentra.charter import Charter, Member
from decentra.charter.amend import amended
from decentra.charter.invite import Invite, Request, guest_of
from decentra.cli.report import FAILED
from decentra.crypto.keys import Identity
from decentra.errors import RemoteError
from decentra.groups import held_ports
from decentra.peer.config import PeerFolder
from decentra.peer.doctor import Doctor
from decentra.peer.entering import Entering
from decentra.peer.porch import stand
from decentra.peer.runtime import Peer
from decentra.transport.dialler import Route
from decentra.transport.envelope import seal
from decentra.transport.knock import knock
from decentra.transport.zap import key_text
from decentra.wire.door import ANSWER_LIMIT, QUESTION_LIMIT, Answer, Question, Says
from decentra.wire.frame import Frame, FrameKind, Lane
from starting import DEADLINE, Group, average, until

MakeGroup = Callable[..., Group]

# ── what is said there ───────────────────────────────────────────────────────────────────────────────────────────────

hashes = st.binary(min_size=32, max_size=32)


@given(hashes, hashes, st.binary(min_size=64, max_size=64), st.text(max_size=500))
def test_a_question_says_what_went_in(held: bytes, signed: bytes, signature: bytes, request: str) -> None:
    made = Question(held, signed, signature, request)
    assert Question.parse(made.pack()) == made


@given(st.sampled_from(Says), st.text(max_size=500), st.text(max_size=100))
def test_an_answer_says_what_went_in(says: Says, text: str, addresses: str) -> None:
    assert Answer.parse(Answer(says, text, addresses).pack()) == Answer(says, text, addresses)


@given(st.binary(max_size=300))
def test_anything_else_is_neither(raw: bytes) -> None:
    for kind in (Question, Answer):
        with suppress(ValueError):
            assert kind.parse(raw).pack() == raw  # type: ignore[attr-defined]


def test_both_are_bounded() -> None:
    with pytest.raises(ValueError, match="a question has"):
        Question.parse(Question(request="x" * QUESTION_LIMIT).pack())
    bare = Answer(Says.CHARTER, "x" * 1000)
    assert Answer.parse(bare._replace(addresses="y" * ANSWER_LIMIT).pack()) == bare, "it goes without"
    assert "too large for the door" in Answer.parse(Answer(Says.CHARTER, "x" * ANSWER_LIMIT).pack()).text


# ── coming in ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(autouse=True)
def _somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DECENTRA_STATE", raising=False)


def token_of(group: Group, index: int = 0, name: str = "erin") -> str:
    return str(told("invite", "--state", group.folders[index].path, "--name", name)["token"])


def come(token: str, port: int, name: str = "erin") -> dict[str, Any]:
    where = ("--bind", f"tcp://127.0.0.1:{port}")
    return told("init", "--invite", token, "--state", name, "--name", name, *where)


def asks(name: str = "erin", *more: str) -> dict[str, Any]:
    """What `decentra enter` tells, whether it ends with 0 or 1."""
    ended = decentra("enter", "--state", name, *more, "--json")
    found = json.loads(ended.out)
    assert ended.code == (0 if found["member"] else FAILED), ended
    return dict(found)


def refreshed(peer: Peer) -> None:
    """As every two seconds: look at what people did to the folder."""
    peer._call(peer._epochs.look, 5.0)


def invited(group: Group, peer: Peer, port: int, index: int = 0) -> PeerFolder:
    """A newcomer whose request waits in the inviter's folder."""
    token = token_of(group, index)
    refreshed(peer)
    made = come(token, port)
    assert made["reached"] and "your request is kept" in made["says"], made
    return PeerFolder(Path("erin"))


def begun(group: Group, signers: tuple[int, ...]) -> str:
    """The inviter begins the amendment that adds who asks, and others sign it; by hand, as people do."""
    (request,) = group.folders[0].requests.iterdir()
    pending = str(told("charter", "amend", "--state", group.folders[0].path, "--add", request)["pending"])
    for index in signers:
        signed = told("charter", "sign", "--state", group.folders[index].path, "--charter", pending)
        told("charter", "sign", "--state", group.folders[0].path, "--merge", str(signed["pending"]))
    return pending


def test_a_newcomer_comes_in_over_the_network_by_one_live_peer(make_group: MakeGroup) -> None:
    group = make_group(3, "secagg")
    peers = [group.peer(index) for index in range(3)]
    average(peers)
    with held_ports(1) as (port,):
        erin = invited(group, peers[0], port)
        assert erin.load_charter().hash == group.charter.hash, "it has the charter that its invite names"
        says = asks()["says"]
        assert says == "your request is kept; a member has still to admit you", "and nothing of the inviter's folder"
        with pytest.raises(LocalError, match="invited and not admitted yet: a member begins it with"):
            erin.ready()
        told_by_doctor = {one.said for one in Doctor(erin).findings() if not one.ok and one.about == "config"}
        assert "then `decentra enter --state erin --sign`" in next(iter(told_by_doctor))
        begun(group, (1, 2))
        found = asks()
        assert not found["member"] and found["pending"] and found["changes"] == []
        found = asks("erin", "--sign")
        assert found["member"], "its signature was the last one that lacked"
        assert erin.ready()[1].group.epoch == 2, "with everybody's address"
        assert not erin.token.exists(), "the secret is of no more use"
        until(peers[2], lambda: group.folders[2].load_charter().group.epoch == 2)
        with Peer(erin) as newcomer:
            ended = [one for _ in range(3) for one in average([*peers, newcomer])][-4:]
    assert all(isinstance(one, RoundResult) and len(one.participants) == 4 for one in ended), ended


def test_the_complete_charter_comes_from_any_member_where_the_inviter_is_gone(make_group: MakeGroup) -> None:
    group = make_group(3, "secagg")
    first, second = group.peer(0), group.peer(1)
    with held_ports(1) as (port,):
        erin = invited(group, first, port)
        pending = begun(group, (1, 2))
        asks()
        Entering(erin).sign()
        first.close()
        signed = erin.path / "pending" / Path(pending).name
        told("charter", "sign", "--state", group.folders[0].path, "--merge", signed)
        told("charter", "sign", "--state", group.folders[1].path, "--charter", group.folders[0].charter)
        refreshed(second)
        assert asks()["member"]
        assert erin.ready()[1].group.epoch == 2


def test_without_a_live_inviter_the_folder_is_made_and_files_do(make_group: MakeGroup) -> None:
    group = make_group(3)
    with held_ports(1) as (port,):
        made = come(token_of(group), port)
    assert made["reached"] is False and "nobody answers at its address" in made["says"]
    assert Path(made["request"]).exists()
    assert "nobody answers at its address" in refused("enter", "--state", "erin", code=1)


def test_who_was_not_invited_has_no_way_to_enter(make_group: MakeGroup) -> None:
    group = make_group(3)
    assert "was not invited" in refused("enter", "--state", group.folders[0].path)


def test_an_inviter_without_a_running_peer_answers_at_the_porch(make_group: MakeGroup) -> None:
    group = make_group(3)
    folder = group.folders[0]
    token = token_of(group)
    public, ready = guest_of(Invite.parse(token).secret).public, Event()

    def admitted(charter: Charter) -> bool:
        ready.set()  # it is asked once the port is open
        return folder.invites.user_of(public) in charter.ids

    def newcomer() -> dict[str, Any]:
        with held_ports(1) as (port,):
            assert "your request is kept" in come(token, port)["says"]
        begun(group, (1, 2))
        assert asks()["pending"]
        return asks("erin", "--sign")

    with pytest.raises(LocalError, match="is occupied"), Peer(folder):
        stand(folder, 0.0, admitted)
    assert not stand(folder, 0.0, admitted)
    ready.clear()
    answered: list[bool] = []
    waiting = Thread(target=lambda: answered.append(stand(folder, 60.0, admitted)))
    waiting.start()
    try:
        assert ready.wait(DEADLINE)
        assert newcomer()["member"]
    finally:
        waiting.join()
    assert answered == [True] and folder.load_charter().group.epoch == 2


def test_who_is_admitted_and_not_gone_over_to_yet_is_neither_heard_nor_cut(make_group: MakeGroup) -> None:
    """Cut, it would knock ten times a second until the others' next round."""
    group = make_group(3)
    peer = group.peer(0)
    erin = Identity.generate()
    new = amended(group.charter, add=[Member.of(erin, "erin")])
    for identity in (*group.identities, erin):
        new = new.sign(identity)
    charters, door = peer._epochs._charters, peer._epochs.door
    key = key_text(erin.curve_public)

    def greets(kind: FrameKind = FrameKind.HELLO) -> bytes | None:
        name = int.from_bytes(new.hash[:8], "big")
        header = Frame(kind, 0, 1, 0, bytes(32), 0, 1, new.group.epoch, name, 0).pack()
        return peer._call(lambda: door.asked(key, seal(Lane.CONTROL, header, (), [len(header)])), 5.0)

    assert not door.admits(key)
    peer._call(lambda: charters.take(peer.id, new.to_toml().encode(), b""), 5.0)
    refreshed(peer)
    assert door.admits(key) and greets() == b""
    assert greets(FrameKind.ACK) is None


# ── who would want to use it ─────────────────────────────────────────────────────────────────────────────────────────


def at(group: Group, index: int, identity: Identity) -> Route:
    address = f"tcp://127.0.0.1:{group.ports[index]}"
    return Route(address, group.identities[index].curve_public, identity.curve_public, identity.curve_secret)


def test_a_token_that_leaked_admits_whoever_came_first_and_the_second_hears_of_it(make_group: MakeGroup) -> None:
    group = make_group(3)
    peer = group.peer(0)
    with held_ports(2) as (port, other):
        token = token_of(group)
        refreshed(peer)
        assert "your request is kept" in come(token, port)["says"]
        shutil.move("erin", "first")
        where = ("--state", "erin", "--name", "erin", "--bind", f"tcp://127.0.0.1:{other}")
        second = decentra("init", "--invite", token, *where)
        assert second.code == FAILED and "this invite was used already; ask for a new one" in second.out
        assert "decentra enter" not in second.out
        found = asks()
        assert found["refused"] and "was used already" in found["says"]
    assert len(list(group.folders[0].requests.iterdir())) == 1


def test_a_name_that_is_taken_is_refused_and_the_invite_holds_for_another(make_group: MakeGroup) -> None:
    group = make_group(3)
    peer = group.peer(0)
    taken = group.charter.members[1].name
    with held_ports(1) as (port,):
        token = str(told("invite", "--state", group.folders[0].path)["token"])
        refreshed(peer)
        where = ("--state", "erin", "--bind", f"tcp://127.0.0.1:{port}")
        ended = decentra("init", "--invite", token, "--name", taken.upper(), *where)
        said = f"the name {taken.upper()!r} is taken; choose another with `decentra keys --name`"
        assert ended.code == FAILED and said in ended.out
        assert not group.folders[0].requests.exists()
        assert group.folders[0].invites.user_of(guest_of(Invite.parse(token).secret).public) is None
        assert "next: `decentra enter" in done("keys", "--state", "erin", "--name", "frank")
        assert "your request is kept" in asks()["says"]
    assert PeerFolder(Path("erin")).load_config().peer.name == "frank"
    (request,) = group.folders[0].requests.iterdir()
    assert Request.parse(request.read_text()).member.name == "frank"


def test_what_goes_wrong_in_the_members_folder_is_told_without_where_it_is(make_group: MakeGroup) -> None:
    group = make_group(3)
    peer = group.peer(0)
    with held_ports(1) as (port,):
        invited(group, peer, port)
        (kept,) = group.folders[0].invites.path.iterdir()
        kept.unlink()  # the door still knows the key
        says = asks()["says"]
    assert "the member's folder/invites does not hold" in says and str(group.folders[0].path) not in says


def test_a_stranger_does_not_come_to_the_door(make_group: MakeGroup) -> None:
    group = make_group(3)
    peer = group.peer(0)
    with pytest.raises(Unavailable, match="handshake refused"):
        knock(peer.id, at(group, 0, Identity.generate()), Question())
    late = Invite.parse(token_of(group))
    kept = group.folders[0].invites.path
    (file,) = kept.iterdir()
    file.write_text(file.read_text().replace(f"expires = {late.expires}", "expires = 1"))
    refreshed(peer)
    with pytest.raises(Unavailable, match="handshake refused"):
        knock(peer.id, at(group, 0, guest_of(late.secret)), Question())


def guest(group: Group, peer: Peer) -> tuple[zmq.Context[Any], zmq.Socket[Any]]:
    """A raw socket under an invite's key, at the door of the first peer."""
    route = at(group, 0, guest_of(Invite.parse(token_of(group)).secret))
    refreshed(peer)
    context: zmq.Context[Any] = zmq.Context()
    made = context.socket(zmq.DEALER)
    made.setsockopt(zmq.LINGER, 0)
    made.setsockopt(zmq.RECONNECT_IVL, -1)
    for option, key in (
        (zmq.CURVE_SERVERKEY, route.server_key),
        (zmq.CURVE_PUBLICKEY, route.public),
        (zmq.CURVE_SECRETKEY, route.secret),
    ):
        made.setsockopt(option, z85.encode(key))
    made.connect(route.endpoint)
    return context, made


@pytest.mark.parametrize(
    "messages",
    [
        [b"\x00\x01" + bytes(200)],
        [b"\x00" * 5],
        [os.urandom(QUESTION_LIMIT + 1)],
        [Question(request="[request]").pack()] * 12,
        [b"Q" + bytes(129)] * 12,
    ],
    ids=["a member's frame", "nothing", "too long", "too often", "garbage too often"],
)
def test_a_guest_that_does_anything_but_ask_is_cut_and_nobody_hears_it(
    make_group: MakeGroup, messages: list[bytes]
) -> None:
    group = make_group(3, "allreduce")
    peers = [group.peer(index) for index in range(3)]
    average(peers)
    heard: list[bytes] = []
    driver, cut = peers[0]._session.driver, list[int]()
    taken, guard = peers[0]._transport._on_receive, peers[0]._transport._guard

    def watched(peer: Any, lane: Any, header: bytes, buffers: Any) -> None:
        if peer not in driver._others:
            heard.append(header)
        taken(peer, lane, header, buffers)

    cutting = guard.cut

    def counted(fd: int) -> None:
        cut.append(fd)
        cutting(fd)

    peers[0]._transport._on_receive = watched
    guard.cut = counted  # type: ignore[method-assign]
    context, raw = guest(group, peers[0])
    for message in messages:
        raw.send(message)
    until(peers[0], lambda: bool(cut))
    context.destroy(0)
    assert not heard
    assert all(isinstance(one, RoundResult) for one in average(peers))


def test_a_guest_that_stays_and_says_nothing_is_cut_as_any_stranger(make_group: MakeGroup) -> None:
    group = make_group(3, "allreduce")
    peer = group.peer(0)
    guard = peer._transport._guard
    context, raw = guest(group, peer)
    raw.send(b"")  # it greets as a member would
    until(peer, lambda: any(one.read for one in guard._connections.values()))
    assert all(one.peer is None for one in guard._connections.values()), "it has no member's room"
    until(peer, lambda: not guard._connections)
    context.destroy(0)


def test_a_door_that_hands_over_another_group_is_not_believed(
    make_group: MakeGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has the inviter's key may show anything: the invite names the charter, and charters name what comes next."""
    group, other = make_group(3), make_group(3)
    peer = group.peer(0)
    with held_ports(1) as (port,):
        erin = invited(group, peer, port)
    entering, inviter = Entering(erin), peer.id

    def hand(says: Says, charter: Charter) -> Callable[..., Answer]:
        return lambda *_: Answer(says, charter.to_toml())

    unsigned = amended(group.charter, remove=[group.identities[1].id], terms={"protocol": {"c": 1}})
    elsewhere = amended(group.charter).sign(group.identities[0])
    for says, charter, sentence in (
        (Says.CHARTER, other.charter, "amends no charter, it is a founding one"),
        (Says.CHARTER, unsigned, "would stay"),
        (Says.PENDING, elsewhere, "does not add this peer"),
        (Says.PENDING, other.charter, "amends no charter"),
    ):
        monkeypatch.setattr("decentra.peer.entering.knock", hand(says, charter))
        with pytest.raises(RemoteError, match=sentence) as caught:
            entering.visit()
        assert caught.value.peer == inviter and caught.value.clause == "CHARTER"
    erin.charter.unlink()
    monkeypatch.setattr("decentra.peer.entering.knock", hand(Says.CHARTER, other.charter))
    with pytest.raises(RemoteError, match="not the charter that your invite names"):
        entering.visit()
    assert not erin.charter.exists()
    with pytest.raises(LocalError, match="no amendment to be signed yet"):
        entering.sign()
