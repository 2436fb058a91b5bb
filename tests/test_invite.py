"""Invites: a token, the request that answers it, and every way in which a stranger would want to use one."""

from __future__ import annotations

import base64
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands import done, group, refused, told
from decentra.charter import toml
from decentra.charter.invite import Invite, Kept, Request, guest_of
from decentra.cli import invites as body
from decentra.crypto.hashing import digest
from decentra.crypto.keys import Identity
from decentra.errors import LocalError
from decentra.peer.config import PeerFolder
from decentra.types import PeerId

ALICE, ERIN, MALLORY = (Identity.from_seed(bytes([number]) * 32) for number in (1, 5, 9))
NOW = 1_900_000_000
DAY = 86_400


def invite(**changes: object) -> Invite:
    given: dict[str, object] = {
        "group": "our group – Ärzte",
        "charter": b"c" * 32,
        "inviter": ALICE.id,
        "name": "alice",
        "curve": ALICE.curve_public,
        "address": "tcp://alice.example:7431",
        "secret": b"s" * 32,
        "expires": NOW + DAY,
        "newcomer": "erin",
    }
    return Invite(**{**given, **changes})  # type: ignore[arg-type]


def request(of: Invite | None = None, identity: Identity = ERIN, name: str = "erin") -> Request:
    return Request.of(of or invite(), identity, name, "tcp://erin.example:7431")


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(LocalError) as caught:
        call()
    return str(caught.value)


@pytest.fixture(autouse=True)
def _somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DECENTRA_STATE", raising=False)


# ── the token ────────────────────────────────────────────────────────────────────────────────────────────────────────

names = st.from_regex(r"[g-z][A-Za-z0-9_-]{0,31}", fullmatch=True)
hashes = st.binary(min_size=32, max_size=32)


@given(st.text("abc –Ä字", min_size=1, max_size=64), hashes, hashes, names, names | st.just(""), st.integers(0, 2**63))
def test_a_token_says_what_went_in(
    title: str, charter: bytes, secret: bytes, name: str, newcomer: str, expires: int
) -> None:
    made = invite(group=title, charter=charter, secret=secret, name=name, newcomer=newcomer, expires=expires)
    assert Invite.parse(made.token) == made
    assert Invite.parse(f"  {made.token}\n") == made
    assert len(made.token) <= 1024 and secret.hex() not in repr(made)


@given(st.data())
def test_a_token_that_is_cut_or_altered_is_refused(data: st.DataObject) -> None:
    token = invite().token
    at = data.draw(st.integers(0, len(token) - 2))  # the last character may have bits that say nothing
    other = data.draw(st.sampled_from("ABCabc019-_").filter(lambda letter: letter != token[at]))
    assert "cut or altered" in refusal(lambda: Invite.parse(token[:at] + other + token[at + 1 :]))
    cut = token[: data.draw(st.integers(1, len(token) - 2))]
    assert "cut or altered" in refusal(lambda: Invite.parse(cut))


@given(st.text(max_size=100) | st.binary(max_size=400).map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
def test_any_text_is_no_invite_and_is_said_so(text: str) -> None:
    assert "invite" in refusal(lambda: Invite.parse(text))


def _token(body: bytes) -> str:
    return base64.urlsafe_b64encode(body + digest("invite", body)[:8]).rstrip(b"=").decode()


def test_a_crafted_token_writes_no_lines_of_its_own() -> None:
    """Its maker computes the check too: names and addresses are held to what they may be."""
    raw = base64.urlsafe_b64decode(invite().token + "==")[:-8]
    assert Invite.parse(_token(raw)) == invite()
    assert "version 2" in refusal(lambda: Invite.parse(_token(b"\2" + raw[1:])))
    for found, put in ((b"alice\0", b"al\nce\0"), (b"\0\4erin", b"\xff\4erin"), (b"\4erin", b"\4e in"), (b"n", b"nn")):
        hostile = _token(raw.replace(found, put))
        assert found in raw and "cut or altered" in refusal(partial(Invite.parse, hostile))
    for hostile in (_token(raw[:-1]), _token(raw + b"x"), _token(raw[:40])):
        assert "cut or altered" in refusal(partial(Invite.parse, hostile))


def test_an_invite_ends_and_is_for_whom_it_names() -> None:
    invite().check("erin", NOW)
    invite(newcomer="").check("anybody", NOW)
    assert "ended on 2030-03-18 17:46 UTC; ask alice for another" in refusal(lambda: invite().check("erin", NOW + DAY))
    assert "invited 'erin', not 'eve'; use --name erin" in refusal(lambda: invite().check("eve", NOW))


# ── the request ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_request_reads_back_and_verifies() -> None:
    made = request()
    assert Request.parse(made.to_toml()) == made
    assert made.problems == () and Kept.of(invite()).problems(made, NOW) == ()


@pytest.mark.parametrize("key", ["group", "charter", "inviter", "invite", "address", "proof", "signature"])
def test_an_altered_request_is_refused(key: str) -> None:
    tables = tomllib.loads(request().to_toml())
    value = tables["request"][key]
    tables["request"][key] = f"{value}x" if key in ("group", "address") else "00" * (len(value) // 2)
    told = refusal(lambda: Request.parse(toml.write(tables)))
    assert "did not sign this request" in told or "no proof that it was invited" in told


def test_a_request_without_the_secret_is_no_proof() -> None:
    """Mallory saw the guest's public key, in the inviter's folder or in another's request, and not the secret."""
    stolen = request()
    forged = request(invite(secret=b"m" * 32), MALLORY, "mallory")
    tables = tomllib.loads(forged.to_toml())
    tables["request"]["invite"] = stolen.request.invite.hex()
    tables["request"]["proof"] = stolen.request.proof.hex()
    assert "mallory" in refusal(lambda: Request.parse(toml.write(tables)))


def test_anothers_proof_does_not_admit_ones_own_record() -> None:
    tables, own = tomllib.loads(request().to_toml()), tomllib.loads(request(identity=MALLORY).to_toml())
    tables["members"] = own["members"]
    assert "did not sign this request" in refusal(lambda: Request.parse(toml.write(tables)))
    tables["request"]["signature"] = own["request"]["signature"]
    assert "shows no proof" in refusal(lambda: Request.parse(toml.write({**tables, "members": own["members"]})))


def test_an_invite_holds_once_until_its_end_and_for_its_name_and_group() -> None:
    kept, asked = Kept.of(invite()), request()
    other = request(identity=MALLORY)
    assert "ended on" in kept.problems(asked, NOW + DAY)[0]
    used = kept.use(asked)
    assert used.problems(asked, NOW + 2 * DAY) == (), "the same newcomer may have it made again"
    assert f"was used by {ERIN.id}, and holds once" in used.problems(other, NOW)[0]
    assert "is for 'erin'; make one for 'eve'" in kept.problems(request(name="eve"), NOW)[0]
    assert "another group" in kept.problems(request(invite(charter=b"d" * 32)), NOW)[0]
    assert Kept.of(invite(newcomer="")).problems(request(name="eve"), NOW) == ()


def test_the_inviter_keeps_no_secret() -> None:
    made = invite(secret=bytes(range(32)))
    text = Kept.of(made).to_toml()
    assert made.secret.hex() not in text and guest_of(made.secret).public.hex() in text
    assert guest_of(made.secret).curve_public != guest_of(b"x" * 32).curve_public


# ── as people type it ────────────────────────────────────────────────────────────────────────────────────────────────


def invited(name: str = "erin", token: str | None = None) -> PeerFolder:
    line = told("invite", "--state", "alice", "--name", name)["token"] if token is None else token
    where = ("--bind", "tcp://127.0.0.5:7431")
    done("init", "--invite", line, "--state", name, "--name", name, *where)
    return PeerFolder(Path(name))


def test_a_newcomer_is_invited_admitted_and_ready() -> None:
    group()
    first = done("invite", "--state", "alice").splitlines()
    assert Invite.parse(first[0]).name == "alice" and "until" in first[1]
    newcomer = invited()
    assert 'alice = "tcp://127.0.0.1:7431"' in newcomer.config.read_text()
    assert "was invited and is not admitted yet" in refusal(newcomer.ready)
    begun = told("charter", "amend", "--state", "alice", "--add", newcomer.request)
    assert (begun["added"], begun["signed"]) == (["erin"], ["alice"])
    assert "amends a charter that erin does not have" in refused(
        "charter", "sign", "--state", "erin", "--charter", begun["pending"]
    )
    assert "the charter of your invite: our-group, epoch 1" in done(
        "charter", "sign", "--state", "erin", "--charter", "alice/charter.toml"
    )
    pending = begun["pending"]
    for name in ("erin", "bob", "carol"):
        last = done("charter", "sign", "--state", name, "--charter", pending)
        pending = f"{name}/pending/{Path(pending).name}"
    assert "it is in force" in last
    done("charter", "sign", "--state", "erin", "--charter", "carol/charter.toml")
    last = done("charter", "sign", "--state", "alice", "--charter", "carol/charter.toml")
    assert 'erin = "tcp://127.0.0.5:7431"' in last, "the inviter knows where the newcomer will be reached"
    lines = "".join(f'{name} = "tcp://127.0.0.{at}:7431"\n' for at, name in enumerate(("bob", "carol", "dave"), 2))
    newcomer.config.write_text(newcomer.config.read_text().replace("[peers]\n", f"[peers]\n{lines}"))
    assert newcomer.ready()[1].group.epoch == 2


def test_an_invite_admits_one_identity_only() -> None:
    group()
    token = told("invite", "--state", "alice")["token"]
    first, second = invited("erin", token), invited("frank", token)
    done("charter", "amend", "--state", "alice", "--add", first.request)
    erin = first.load_identity().id
    sentence = refused("charter", "amend", "--state", "alice", "--add", second.request)
    assert f"was used by {erin}, and holds once" in sentence
    done("charter", "amend", "--state", "alice", "--add", first.request)


def test_a_request_is_for_its_inviter_alone() -> None:
    group()
    newcomer = invited()
    sentence = refused("charter", "amend", "--state", "bob", "--add", newcomer.request)
    alice = PeerFolder(Path("alice")).load_identity().id
    assert f"was invited by {alice}, who alone can admit it so; hand the request on" in sentence
    for file in Path("alice/invites").iterdir():
        file.unlink()
    sentence = refused("charter", "amend", "--state", "alice", "--add", newcomer.request)
    assert "does not hold; make another one" in sentence
    assert not Path("alice/pending").exists()


def test_an_invite_that_is_over_is_refused_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    group()
    token = told("invite", "--state", "alice", "--days", "1")["token"]
    newcomer = invited("erin", token)
    late = body.time.time() + 2 * DAY
    monkeypatch.setattr(body.time, "time", lambda: late)
    assert "ended on" in refused("charter", "amend", "--state", "alice", "--add", newcomer.request)
    assert "ended on" in refused("init", "--invite", token, "--state", "late", "--name", "late")
    assert not Path("late").exists()


def test_a_wrong_invite_makes_nothing() -> None:
    group()
    token = told("invite", "--state", "alice", "--name", "erin")["token"]
    for words, sentence in (
        (["--invite", token[:-9], "--name", "erin"], "cut or altered"),
        (["--invite", "hello world", "--name", "erin"], "this is no invite"),
        (["--invite", token, "--name", "eve"], "invited 'erin', not 'eve'; use --name erin"),
        (["--invite", token, "--name", "erin", "--template", "secagg"], "--template and --invite exclude each other"),
        (["--invite", token, "--name", "erin", "--bind", "nowhere"], "must look like"),
    ):
        assert sentence in refused("init", "--state", "erin", *words)
        assert not Path("erin").exists()
    assert "alice holds a peer already" in refused("init", "--state", "alice", "--name", "erin", "--invite", token)


def test_another_charter_than_the_invites_is_not_kept() -> None:
    """Who hands over the files must not be able to put a group of its own in the place of the inviter's."""
    group()
    newcomer = invited()
    text = Path("alice/charter.toml").read_text()
    Path("evil.toml").write_text(text.replace("steps = 20 ", "steps = 21 "))
    sentence = refused("charter", "sign", "--state", "erin", "--charter", "evil.toml")
    assert sentence.startswith("evil.toml is not the charter that the invite names")
    assert not newcomer.charter.exists()
    token = told("invite", "--state", "alice")["token"]
    words = ("init", "--invite", token, "--state", "frank", "--name", "frank", "--charter")
    assert "is not the charter that the invite names" in refused(*words, "evil.toml")
    done(*words, "alice/charter.toml")
    assert PeerFolder(Path("frank")).charter.read_text() == text


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--name", "bob"], "'bob' is a member's name already; choose another with --name"),
        (["--name", "a b"], "the name 'a b' must be 1 to 32 letters"),
    ],
)
def test_an_invite_for_nobody_is_not_given(words: list[str], sentence: str) -> None:
    group()
    assert sentence in refused("invite", "--state", "alice", *words)
    assert not Path("alice/invites").exists()


def test_who_is_no_member_invites_nobody() -> None:
    done("init", "--state", "alice", "--name", "alice", "--bind", "tcp://h:1")
    assert "has still its own one-member charter" in refused("invite", "--state", "alice")
    assert "was invited and is not admitted yet" not in refused("invite", "--state", "alice")


def test_an_id_of_nobody_is_no_peers_address() -> None:
    group()
    assert PeerFolder(Path("alice")).invites.address_of(PeerId(bytes(32))) is None
