"""decentra.toml, a peer's folder, and what must hold before a peer joins."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentra.charter import Charter, Member
from decentra.charter.invite import MOST_ADDRESS, Kept
from decentra.charter.policy import MOST_MEMBERS
from decentra.charter.toml import MAX_TEXT, save_text
from decentra.crypto.hashing import digest
from decentra.crypto.keys import Identity
from decentra.errors import LocalError, RemoteError
from decentra.peer.addresses import Addresses
from decentra.peer.charters import FolderCharters
from decentra.peer.config import Config, PeerFolder, valid_address, write_config
from decentra.wire.frame import ADDRESSES_LIMIT

NAMES = ("alice", "bob", "carol", "dave")
IDENTITIES = {name: Identity.from_seed(name.encode().ljust(32, b"\0")) for name in NAMES}


def group() -> Charter:
    members = [Member.of(IDENTITIES[name], name) for name in NAMES]
    charter = Charter.build(
        {"version": 1, "group": {"name": "test"}, "protocol": {"name": "secagg"}, "members": members}
    )
    for identity in IDENTITIES.values():
        charter = charter.sign(identity)
    return charter


def config_text(peers: dict[str, str], name: str = "alice") -> str:
    lines = "".join(f'"{who}" = "{address}"\n' for who, address in peers.items())
    return f'[peer]\nname = "{name}"\nbind = "tcp://127.0.0.1:7431"\n[peers]\n{lines}'


def addresses(names: tuple[str, ...] = NAMES) -> dict[str, str]:
    return {name: f"tcp://{name}.example.org:7431" for name in names}


def folder(path: Path, charter: Charter | None = None, config: str | None = None) -> PeerFolder:
    """A folder of alice's in which everything is right, but for what is given."""
    made = PeerFolder(path / "alice")
    made.path.mkdir(mode=0o700)
    IDENTITIES["alice"].save(made.identity)
    save_text(made.charter, (charter or group()).to_toml())
    save_text(made.config, config or config_text(addresses()))
    return made


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(LocalError) as caught:
        call()
    return str(caught.value)


hosts = st.from_regex(r"[a-z][a-z0-9-]{0,20}(\.[a-z][a-z0-9-]{0,8}){0,3}", fullmatch=True) | st.ip_addresses(v=6).map(
    lambda address: f"[{address}]"
)


@given(hosts, st.integers(-5, 70_000))
def test_an_address_is_a_host_and_a_port_that_can_be_dialled(host: str, port: int) -> None:
    address = f"tcp://{host}:{port}"
    if 1 <= port <= 65_535:
        assert valid_address(address) == address
    else:
        with pytest.raises(ValueError, match="port of 1 to 65535"):
            valid_address(address)


def test_an_address_is_no_longer_than_travels_for_all_members_of_a_group() -> None:
    longest = f"tcp://{'h' * (MOST_ADDRESS - 8)}:1"
    assert valid_address(longest) == longest
    with pytest.raises(ValueError, match="128 characters at most and has 129"):
        valid_address(f"{longest}1")
    everybody = Addresses(peers={f"{number:064x}": longest for number in range(MOST_MEMBERS)})
    assert len(everybody.to_toml().encode()) <= ADDRESSES_LIMIT
    told = Addresses(peers={f"{1:064x}": longest}).to_toml()
    assert "1 to 128 printable" in refusal(lambda: Addresses.parse(told.replace(longest, f"{longest}1")))


@given(st.text(max_size=30))
def test_any_other_text_is_no_address(text: str) -> None:
    if not text.startswith("tcp://"):
        with pytest.raises(ValueError, match="must look like"):
            valid_address(text)


@given(st.text(max_size=300))
def test_any_text_is_read_or_refused_in_words(text: str) -> None:
    assert refusal(lambda: Config.parse(text)).startswith("decentra.toml")


@given(
    st.from_regex(r"[g-zG-Z][A-Za-z0-9_-]{0,31}", fullmatch=True), hosts, st.integers(1, 65_535), st.none() | hosts
)
def test_a_new_configuration_reads_back_what_was_asked_for(name: str, host: str, port: int, other: str | None) -> None:
    bind = f"tcp://{host}:{port}"
    everywhere = host == "[::]"
    advertise = None if other is None or other == "[::]" else f"tcp://{other}:{port}"
    if everywhere and advertise is None:
        assert "does not say where others reach it" in refusal(lambda: write_config(name, bind, advertise))
        return
    config = Config.parse(write_config(name, bind, advertise))
    assert (config.peer.name, config.peer.bind, config.peer.advertise) == (name, bind, advertise)
    assert config.address == (advertise or bind)
    assert (config.run.threads, dict(config.peers)) == (1, {})


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('[peer]\nnaem = "a"', "did you mean 'name'?"),
        ('[peer]\nname = "a"\nbnid = "tcp://h:1"', "unknown key 'bnid' in [peer]; did you mean 'bind'?"),
        ('[peer]\nname = "a"\nthreads = 2', "unknown key 'threads' in [peer]; it belongs in [run]"),
        ('[peer]\nname = "a"\nbind = "h:7431"', "\"tcp://host:7431\" with a port of 1 to 65535, not 'h:7431'"),
        ('[peer]\nname = "a"', "add advertise = \"tcp://host:7431\""),
        ('[peer]\nname = "a"\nadvertise = "tcp://0.0.0.0:1"', "must be where others reach this peer"),
        ('[peer]\nname = "a b"\nbind = "tcp://h:1"', "'name' in [peer] must be 1 to 32 letters"),
        ('[peer]\nname = "a"\nbind = "tcp://h:1"\n[peers]\nbob = 7431', "'bob' in [peers] must be a text in quotes"),
        ('[peer]\nname = "a"\nbind = "tcp://h:1"\n[run]\nthreads = 0', "'threads' in [run] must be at least 1, not 0"),
        ('[peer]\nname = "a"\nbind = "tcp://h:1"\n[run]\nthreads = true', "must be a whole number, not true"),
        ('[peers]\n', "'peer' at the top is missing; add the table [peer]"),
    ],
)  # fmt: skip
def test_a_wrong_line_is_refused_with_its_mend(text: str, sentence: str) -> None:
    assert sentence in refusal(lambda: Config.parse(text))


def test_everybody_else_is_found_by_name_or_by_id() -> None:
    charter, me = group(), IDENTITIES["alice"].id
    others = {IDENTITIES[name].id: f"tcp://{name}.example.org:7431" for name in NAMES[1:]}
    whole, short = IDENTITIES["bob"].id.hex(), IDENTITIES["carol"].id.hex()[:8]
    by_name = Config.parse(config_text(addresses()))
    assert by_name.addresses(charter, me) == others, "one's own entry is left out"
    keys = {whole: others[IDENTITIES["bob"].id], short: others[IDENTITIES["carol"].id], **addresses(("dave",))}
    assert Config.parse(config_text(keys)).addresses(charter, me) == others


def test_missing_double_and_unknown_addresses_are_told_together() -> None:
    config = Config.parse(
        config_text({"bbo": "tcp://h:1", "carol": "tcp://h:2", IDENTITIES["carol"].id.hex(): "tcp://h:3"})
    )
    told = refusal(lambda: config.addresses(group(), IDENTITIES["alice"].id))
    for words in (
        "has 4 problems",
        "'bbo' in [peers] is no member; did you mean 'bob'?",
        "is a second address for one member",
        "no address for member 'bob'",
        'add dave = "tcp://host:7431" to [peers]',
    ):
        assert words in told


def test_a_folder_in_order_is_ready(tmp_path: Path) -> None:
    identity, charter, config = folder(tmp_path).ready()
    assert (identity.id, charter, config.peer.name) == (IDENTITIES["alice"].id, group(), "alice")


def test_a_wrong_folder_says_how_to_make_one(tmp_path: Path) -> None:
    nowhere = PeerFolder(tmp_path / "alcie")
    assert refusal(nowhere.load) == (
        f"there is no peer folder {nowhere.path}; check the path, or make the folder with `decentra init --state "
        f"{nowhere.path} --name NAME`"
    )
    nowhere.path.mkdir()
    assert f"{nowhere.path} has no identity.key; run `decentra init" in refusal(nowhere.load)


@pytest.mark.parametrize("name", ["config", "charter"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    made = folder(tmp_path)
    file: Path = getattr(made, name)
    file.unlink()
    assert refusal(made.load).startswith(f"there is no {file}; run `decentra init")


def test_keys_that_others_may_read_are_refused(tmp_path: Path) -> None:
    made = folder(tmp_path)
    made.identity.chmod(0o644)
    assert "chmod 600" in refusal(made.ready)


def test_a_file_that_is_no_text_or_too_large_is_refused(tmp_path: Path) -> None:
    made = folder(tmp_path)
    made.charter.write_bytes(b"\xff\xfe")
    assert "is not UTF-8 text" in refusal(made.load)
    made.charter.write_bytes(b"#" * (MAX_TEXT + 1))
    assert "is larger than" in refusal(made.load)


def test_an_unsigned_charter_is_not_ready_and_the_missing_are_named(tmp_path: Path) -> None:
    charter = group()
    raw = {**dict(charter), "signatures": {IDENTITIES["alice"].id.hex(): charter.signatures[IDENTITIES["alice"].id]}}
    made = folder(tmp_path, Charter.build(raw))
    made.load()
    told = refusal(made.ready)
    assert all(f"member '{name}' (" in told for name in NAMES[1:]) and "'alice'" not in told


def test_an_unsound_charter_is_not_ready_though_signed(tmp_path: Path) -> None:
    raw = {**dict(group()), "protocol": {"name": "secagg", "c": 3}, "signatures": {}}
    charter = Charter.build(raw)
    for identity in IDENTITIES.values():
        charter = charter.sign(identity)
    charter.check()
    assert "c = 3 is out of 1..2" in refusal(folder(tmp_path, charter).ready)


def test_a_stranger_to_the_charter_is_not_ready(tmp_path: Path) -> None:
    made = folder(tmp_path)
    made.identity.unlink()
    stranger = Identity.from_seed(b"\x05" * 32)
    stranger.save(made.identity)
    assert f"{stranger.id} is no member of 'test'" in refusal(made.ready)


def test_a_peer_that_calls_itself_otherwise_than_its_charter_is_not_ready(tmp_path: Path) -> None:
    made = folder(tmp_path, config=config_text(addresses(), name="alicia"))
    assert "calls this peer 'alicia' and the charter 'alice'" in refusal(made.ready)


def test_a_peer_whose_curve_key_is_not_the_charters_is_not_ready(tmp_path: Path) -> None:
    me, other = IDENTITIES["alice"], IDENTITIES["bob"]
    own = me.sign(digest("member", "alice", me.public, other.curve_public))
    record = Member(name="alice", id=me.id, ed25519=me.public, curve=other.curve_public, signature=own)
    members = [record, *(member for member in group().members if member.name != "alice")]
    charter = Charter.build({**dict(group()), "members": members, "signatures": {}})
    signatures = {identity.id.hex(): identity.sign(charter.hash).hex() for identity in IDENTITIES.values()}
    made = folder(tmp_path, Charter.build({**dict(charter), "signatures": signatures}))
    made.load_charter().check()
    assert "has another curve key for 'alice'" in refusal(made.ready)


def test_a_member_without_an_address_is_told_before_joining(tmp_path: Path) -> None:
    made = folder(tmp_path, config=config_text(addresses(("bob", "carol"))))
    assert refusal(made.ready).startswith(f"{made.config}: no address for member 'dave'")


def test_the_folder_is_the_one_asked_for_or_the_one_that_run_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DECENTRA_STATE", str(tmp_path))
    assert PeerFolder.find().path == tmp_path
    assert PeerFolder.find(tmp_path / "other").path == tmp_path / "other"
    monkeypatch.delenv("DECENTRA_STATE")
    assert "decentra run PROGRAM --state DIR" in refusal(PeerFolder.find)


def test_a_replaced_file_has_its_name_durably_before_it_is_relied_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, synced = tmp_path / "beacon.toml", list[tuple[bool, bool]]()
    sync = os.fsync

    def told(handle: int) -> None:
        synced.append((stat.S_ISDIR(os.fstat(handle).st_mode), file.exists()))
        sync(handle)

    monkeypatch.setattr(os, "fsync", told)
    save_text(file, "a word")
    assert synced == [(False, False), (True, True)], "the bytes before the rename, the folder after it"

    def broken(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    assert "Input/output error" in refusal(lambda: save_text(file, "another"))


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "charter.toml"
    save_text(file, "first")
    with pytest.raises(UnicodeEncodeError):
        save_text(file, "\ud800")
    assert file.read_text() == "first"
    assert list(tmp_path.iterdir()) == [file]
    assert "check the folder" in refusal(lambda: save_text(tmp_path / "none" / "x", ""))


# ── addresses that others tell ───────────────────────────────────────────────────────────────────────────────────────


def said(**where: str) -> Addresses:
    return Addresses(peers={IDENTITIES[name].id.hex(): address for name, address in where.items()})


def known(made: PeerFolder) -> dict[str, str | None]:
    config = made.completed(made.load_config(), made.load_charter())
    return {member.name: config.address_of(member) for member in made.load_charter().members if member.name != "alice"}


def test_nobody_leads_a_peer_away_from_an_address_that_it_knows_but_whose_it_is(tmp_path: Path) -> None:
    made = folder(tmp_path, config=config_text({"bob": "tcp://bob:1"}))
    bob, carol, dave = (IDENTITIES[name].id for name in ("bob", "carol", "dave"))
    made.keep_addresses(bob, said(bob="tcp://bob:2", carol="tcp://carol:1"), group())
    assert known(made) == {"bob": "tcp://bob:1", "carol": "tcp://carol:1", "dave": None}, "its own lines come first"
    made.keep_addresses(dave, said(carol="tcp://liar:1", dave="tcp://dave:1"), group())
    assert known(made) == {"bob": "tcp://bob:1", "carol": "tcp://carol:1", "dave": "tcp://dave:1"}
    made.keep_addresses(carol, said(carol="tcp://carol:2", dave="tcp://liar:1"), group())
    assert known(made) == {"bob": "tcp://bob:1", "carol": "tcp://carol:2", "dave": "tcp://dave:1"}


def test_what_a_newcomer_asked_under_its_signature_comes_before_what_others_tell(tmp_path: Path) -> None:
    made, dave = folder(tmp_path, config=config_text({})), IDENTITIES["dave"]
    made.keep_addresses(IDENTITIES["bob"].id, said(dave="tcp://liar:1"), group())
    invite = Kept(
        group="test",
        charter=group().hash,
        public=dave.public,
        curve=dave.curve_public,
        expires=1,
        used=dave.id,
        address="tcp://dave:1",
    )
    made.invites.path.mkdir()
    save_text(made.invites.path / "one.toml", invite.to_toml())
    assert known(made)["dave"] == "tcp://dave:1"


def test_addresses_are_learned_beside_a_charter_that_is_held_already(tmp_path: Path) -> None:
    made, held = folder(tmp_path, config=config_text({})), group()
    log = logging.Logger("quiet", logging.CRITICAL + 1)
    charters = FolderCharters(made, IDENTITIES["alice"].id, held, lambda _: None, lambda _: None, log)
    for teller, told in (("bob", said(carol="tcp://carol:1")), ("dave", said(carol="tcp://liar:1", bob="tcp://bob:1"))):
        assert not charters.take(IDENTITIES[teller].id, held.to_toml().encode(), told.to_toml().encode())
    assert known(made) == {"bob": "tcp://bob:1", "carol": "tcp://carol:1", "dave": None}
    with pytest.raises(RemoteError, match="CHARTER"):
        charters.take(IDENTITIES["bob"].id, held.to_toml().encode(), b"[peers]\nbob = 1")
