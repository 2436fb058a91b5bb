"""The wire: one encoding a value, one value an encoding, and nothing that a peer sends can cost its receiver."""

from __future__ import annotations

import struct
import tracemalloc
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from hashlib import sha256
from itertools import pairwise
from typing import Any, ClassVar

import msgpack
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from decentra import spec
from decentra.crypto.keys import Identity, verify
from decentra.errors import RemoteError
from decentra.protocols.allreduce import messages as allreduce
from decentra.protocols.catalogue import registry
from decentra.protocols.certify import messages as certify
from decentra.protocols.certify.messages import Prepare, Propose
from decentra.protocols.mesh import messages as mesh
from decentra.protocols.rendezvous import messages as rendezvous
from decentra.protocols.rendezvous.messages import AbortRound, Want
from decentra.protocols.secagg import messages as secagg
from decentra.spec import LARGEST, FieldType, MessageSpec
from decentra.types import PeerId, RoundId
from decentra.wire import entry as entries
from decentra.wire.codec import MAX_BODY, MAX_DEPTH, MAX_ENTRY, MIN_ENTRY, Codec, Malformed, Signed, pack, unpack
from decentra.wire.entry import EVERYONE, ZERO, Chain, Entry, Parsed
from decentra.wire.frame import ENTRY_LIMIT
from decentra.wire.message import MAX_DEPTH as MAX_CITED
from decentra.wire.message import Message, Registry, Verified, addressed_to

MESSAGES = {
    kind: message for name in ("secagg", "allreduce", "mesh") for kind, message in spec.load(name).messages.items()
}
CODEC = Codec(MESSAGES)
KINDS = sorted(MESSAGES)
MIB = 1 << 20

hashes = st.binary(min_size=32, max_size=32)
peers = hashes.map(PeerId)
texts = st.text(st.characters(codec="utf-8"))


def of_size(least: int, most: int) -> st.SearchStrategy[bytes]:
    """Byte strings of any allowed length, the long ones made of one byte."""
    return st.integers(least, most).flatmap(lambda size: st.sampled_from((b"\0", b"\xff")).map(lambda b: b * size))


def values_of(field: FieldType) -> st.SearchStrategy[Any]:
    """Every value that a field of a spec can hold, lists and maps up to a handful."""
    match field.name:
        case "uint":
            return st.integers(0, field.cap)
        case "text":
            return texts.map(lambda text: text.encode()[: field.cap].decode(errors="ignore"))
        case "bytes":
            return of_size(0, field.cap)
        case "peer":
            return peers
        case "entry":
            return st.builds(Signed, of_size(MIN_ENTRY, MAX_ENTRY), st.binary(max_size=80))
        case "list" if field.inner is not None:
            return st.lists(values_of(field.inner), max_size=min(field.cap, 5)).map(tuple)
        case "map" if field.inner is not None:
            pairs = st.dictionaries(peers, values_of(field.inner), max_size=min(field.cap, 5))
            return pairs.map(lambda items: tuple(sorted(items.items())))
        case _:
            return hashes


def contents(kind: str) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.tuples(*(values_of(field) for _, field in MESSAGES[kind].fields))


messages = st.sampled_from(KINDS).flatmap(lambda kind: st.tuples(st.just(kind), contents(kind)))


def afresh(entry: Entry) -> Entry:
    """The entry without the bytes that it was read from: it has to encode its fields itself."""
    return replace(entry)


def naive(value: Any) -> Any:
    """What a foreign implementation would hand to its MessagePack."""
    if isinstance(value, Signed):
        return [value.entry, value.body]
    if isinstance(value, tuple):
        return [naive(item) for item in value]
    return bytes(value) if isinstance(value, bytes) else value


# ── bodies: encoding and strictness ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=25)
def test_every_message_comes_back_as_it_was_and_is_plain_messagepack(kind: str, data: st.DataObject) -> None:
    values = data.draw(contents(kind))
    body = CODEC.encode(kind, values)
    assert body == msgpack.packb(naive(values))
    assert CODEC.decode(kind, body) == values


@given(messages, st.data())
@settings(max_examples=400)
def test_a_changed_byte_is_refused_or_says_exactly_what_it_encodes(
    message: tuple[str, tuple[Any, ...]], data: st.DataObject
) -> None:
    kind, values = message
    body = bytearray(CODEC.encode(kind, values))
    body[data.draw(st.integers(0, len(body) - 1))] ^= data.draw(st.integers(1, 255))
    changed = bytes(body)
    try:
        read = CODEC.decode(kind, changed)
    except Malformed:
        return
    assert read != values
    assert msgpack.packb(naive(read)) == changed


@given(messages, st.data())
def test_a_body_cut_short_or_with_bytes_behind_it_is_refused(
    message: tuple[str, tuple[Any, ...]], data: st.DataObject
) -> None:
    kind, values = message
    body = CODEC.encode(kind, values)
    cut, behind = data.draw(st.integers(0, len(body) - 1)), data.draw(st.binary(min_size=1, max_size=9))
    for changed in (body[:cut], body + behind):
        with pytest.raises(Malformed):
            CODEC.decode(kind, changed)


@given(messages, st.sampled_from(KINDS))
def test_a_body_read_as_another_kind_is_refused_or_fits_that_kind_to_the_byte(
    message: tuple[str, tuple[Any, ...]], other: str
) -> None:
    kind, values = message
    body = CODEC.encode(kind, values)
    try:
        read = CODEC.decode(other, body)
    except Malformed:
        return
    assert CODEC.encode(other, read) == body


@dataclass(frozen=True)
class Example(Message):
    """A message with a field of every shape."""

    kind: ClassVar[str] = "example.all"
    number: int
    text: str
    blob: bytes
    list: tuple[int, ...]
    map: tuple[tuple[PeerId, int], ...]
    name: PeerId


TYPES = ("uint<=300", "text<=40", "bytes<=4", "list[uint<=9]<=20", "map[peer,uint<=9]<=2", "peer")
SHAPE = tuple((field.name, FieldType.parse(text)) for field, text in zip(fields(Example), TYPES, strict=True))
EXAMPLES = Registry({Example.kind: MessageSpec(Example.kind, "peer", "any", "round", True, False, SHAPE)}, (Example,))
LOW, HIGH = b"\xc4\x20" + bytes(32), b"\xc4\x20" + b"\1" * 32
PAIRS = b"\x92\x92" + LOW + b"\x01\x92" + HIGH + b"\x02"
HONEST = (b"\x96", b"\x07", b"\xa2ok", b"\xc4\x01x", b"\x92\x01\x02", PAIRS, LOW)
NUMBER, TEXT, BLOB, LIST, MAP, NAME = range(1, 7)

ATTACKS: dict[str, tuple[int, bytes]] = {
    "a number in 8 bits that needs 7": (NUMBER, b"\xcc\x07"),
    "a number in 16 bits that needs 8": (NUMBER, b"\xcd\x00\xff"),
    "a number in 32 bits that needs 16": (NUMBER, b"\xce\x00\x00\x01\x00"),
    "a number in 64 bits that needs 32": (NUMBER, b"\xcf" + (7).to_bytes(8, "big")),
    "a signed form of a whole number": (NUMBER, b"\xd0\x07"),
    "a wide signed form of a whole number": (NUMBER, b"\xd3" + (7).to_bytes(8, "big")),
    "a negative number": (NUMBER, b"\xff"),
    "a number above its cap": (NUMBER, b"\xcd\x01\x2d"),
    "the largest number": (NUMBER, b"\xcf" + b"\xff" * 8),
    "nil": (NUMBER, b"\xc0"),
    "false": (NUMBER, b"\xc2"),
    "true": (NUMBER, b"\xc3"),
    "the code that MessagePack never uses": (NUMBER, b"\xc1"),
    "a single float": (NUMBER, b"\xca" + struct.pack(">f", 7.0)),
    "a double float": (NUMBER, b"\xcb" + struct.pack(">d", 7.0)),
    "a float that is no number": (NUMBER, b"\xcb" + struct.pack(">d", float("nan"))),
    "an extension": (NUMBER, b"\xd4\x01\x00"),
    "a long extension": (BLOB, b"\xc7\x04\x01abcd"),
    "a timestamp": (NUMBER, b"\xd6\xff\x00\x00\x00\x00"),
    "a text where bytes belong": (BLOB, b"\xa1x"),
    "bytes where a text belongs": (TEXT, b"\xc4\x02ok"),
    "an array where a number belongs": (NUMBER, b"\x91\x07"),
    "a number where an array belongs": (LIST, b"\x07"),
    "a text with a length in 8 bits that needs 5": (TEXT, b"\xd9\x02ok"),
    "a text with a length in 16 bits": (TEXT, b"\xda\x00\x28" + b"k" * 40),
    "a text that is too long": (TEXT, b"\xd9\x29" + b"k" * 41),
    "a text that is not UTF-8": (TEXT, b"\xa2\xff\xfe"),
    "a text with half a surrogate pair": (TEXT, b"\xa3\xed\xa0\x80"),
    "a text in overlong UTF-8": (TEXT, b"\xa2\xc0\x80"),
    "bytes with a length in 16 bits that needs 8": (BLOB, b"\xc5\x00\x01x"),
    "bytes with a length in 32 bits that needs 8": (BLOB, b"\xc6\x00\x00\x00\x01x"),
    "bytes that are too long": (BLOB, b"\xc4\x05abcde"),
    "bytes that announce 4 GiB": (BLOB, b"\xc6\xff\xff\xff\xff"),
    "an array with a length in 16 bits that needs 4": (LIST, b"\xdc\x00\x02\x01\x02"),
    "an array with a length in 32 bits that needs 4": (LIST, b"\xdd\x00\x00\x00\x02\x01\x02"),
    "a list that is too long": (LIST, b"\xdc\x00\x15" + b"\x01" * 21),
    "an array that announces 2^32 - 1 items": (LIST, b"\xdd\xff\xff\xff\xff"),
    "a list whose item is above its cap": (LIST, b"\x92\x01\x0a"),
    "a real map": (MAP, b"\x82" + LOW + b"\x01" + HIGH + b"\x02"),
    "an empty real map": (MAP, b"\x80"),
    "a wide real map": (MAP, b"\xde\x00\x01" + LOW + b"\x01"),
    "an unsorted map": (MAP, b"\x92\x92" + HIGH + b"\x02\x92" + LOW + b"\x01"),
    "a map that names a peer twice": (MAP, b"\x92\x92" + LOW + b"\x01\x92" + LOW + b"\x01"),
    "a map that is too long": (MAP, b"\x93" + (b"\x92" + LOW + b"\x01") * 3),
    "a pair of three": (MAP, b"\x91\x93" + LOW + b"\x01\x01"),
    "a pair of one": (MAP, b"\x91\x91" + LOW),
    "a peer of 31 bytes": (NAME, b"\xc4\x1f" + bytes(31)),
    "a peer of 33 bytes": (NAME, b"\xc4\x21" + bytes(33)),
    "a field too few": (0, b"\x95"),
    "a field too many": (0, b"\x97"),
    "a body that is a map": (0, b"\x86"),
    "a body whose length has 16 bits": (0, b"\xdc\x00\x06"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_attack_on_the_encoding(attack: str) -> None:
    def deliver(body: bytes) -> Verified:
        entry = chain(MEMBERS[1]).sign(ROUND, Example.kind, body)
        return EXAMPLES.verify(Signed(entry.packed, body), SESSION, check, MEMBERS[1].id)

    assert EXAMPLES.encode(deliver(b"".join(HONEST)).message) == b"".join(HONEST)
    place, bad = ATTACKS[attack]
    with pytest.raises(RemoteError) as caught:
        deliver(b"".join(bad if index == place else part for index, part in enumerate(HONEST)))
    assert (caught.value.peer, caught.value.clause) == (MEMBERS[1].id, "SCHEMA")
    assert "\n" not in str(caught.value)


def test_a_body_beyond_the_limit_is_refused_unread_and_one_at_the_limit_fits_a_frame_beside_its_entry() -> None:
    assert MAX_BODY + MAX_ENTRY == ENTRY_LIMIT
    with pytest.raises(Malformed, match="bytes where"):
        CODEC.decode("secagg.endorse", bytes(MAX_BODY + 1))


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("secagg.endorse", (32,)),
        ("secagg.endorse", (bytearray(32),)),
        ("secagg.endorse", (b"short",)),
        ("secagg.endorse", ()),
        ("rendezvous.want", (True, bytes(32), 0)),
        ("rendezvous.want", (-1, bytes(32), 0)),
        ("rendezvous.want", (1 << 64, bytes(32), 0)),
        ("rendezvous.want", (1.0, bytes(32), 0)),
        ("rendezvous.want", (None, bytes(32), 0)),
        ("rendezvous.abort", ("LOCAL", (), "\ud800")),
        ("rendezvous.abort", ("LOCAL", (), "x" * 401)),
        ("secagg.holding", (bytes(32), 0, ((PeerId(bytes(32)), bytes(32), 3),))),
        ("secagg.holding", (bytes(32), 0, ((PeerId(b"\1" * 32), bytes(32)), (PeerId(bytes(32)), bytes(32))))),
        ("certify.propose", (bytes(32), "survivors", 0, b"", ((b"e" * MIN_ENTRY, b""),), ())),
        ("secagg.nothing", ()),
    ],
)
def test_what_a_receiver_would_refuse_is_not_encoded(kind: str, values: tuple[object, ...]) -> None:
    """A number given for a hash, above all, is not that many zero bytes."""
    with pytest.raises(Malformed):
        CODEC.encode(kind, values)


# ── totality and memory ──────────────────────────────────────────────────────────────────────────────────────────────


@given(st.binary(max_size=400), st.sampled_from(KINDS))
@settings(max_examples=300)
def test_arbitrary_bytes_are_malformed_or_canonical_and_never_anything_else(raw: bytes, kind: str) -> None:
    with suppress(Malformed):
        assert CODEC.encode(kind, CODEC.decode(kind, raw)) == raw
    with suppress(Malformed):
        assert afresh(entries.parse(raw)).packed == raw
    with suppress(Malformed):
        assert pack(unpack(raw, 400)) == raw
    with pytest.raises(RemoteError) as caught:
        REGISTRY.verify(Signed(raw, raw), SESSION, check, MEMBERS[0].id)
    assert (caught.value.peer, caught.value.clause) == (MEMBERS[0].id, "SCHEMA")


def peak_of(kind: str, body: bytes) -> tuple[int, bool]:
    """The most bytes that decoding had allocated at once, and whether the body was accepted."""
    tracemalloc.start()
    try:
        CODEC.decode(kind, body)
        return tracemalloc.get_traced_memory()[1], True
    except Malformed:
        return tracemalloc.get_traced_memory()[1], False
    finally:
        tracemalloc.stop()


def filled(pattern: bytes, head: bytes = b"") -> bytes:
    """A body of the largest size that begins with ``head`` and repeats a pattern."""
    return head + (pattern * (MAX_BODY // len(pattern) + 1))[: MAX_BODY - len(head)]


HOSTILE = {
    "nested arrays of one": b"\x91",
    "nested arrays that announce 15": b"\x9f",
    "nested arrays that announce 65,535": b"\xdc\xff\xff",
    "nested arrays that announce 2^32 - 1": b"\xdd\xff\xff\xff\xff",
    "nested arrays within the caps of the specs": b"\xdc\x05\x78",
    "empty arrays": b"\x90",
    "small numbers": b"\x01",
    "large numbers": b"\xcf\x7f" + b"\xff" * 7,
    "empty bytes": b"\xc4\x00",
    "empty texts": b"\xa0",
    "maps within maps": b"\x81",
    "nils": b"\xc0",
}


@pytest.mark.parametrize("attack", HOSTILE)
def test_a_mebibyte_of(attack: str) -> None:
    for kind in KINDS:
        honest = bytes((0x90 + len(MESSAGES[kind].fields),))
        for head in (b"", honest, honest + b"\x01", honest + b"\xc4\x20" + bytes(32)):
            peak, accepted = peak_of(kind, filled(HOSTILE[attack], head))
            assert not accepted
            assert peak <= 4 * MAX_BODY // 100, (kind, head)


@given(st.binary(min_size=1, max_size=8), messages)
@settings(max_examples=60)
@example(b"\x91", ("certify.propose", (bytes(32), "survivors", 0, b"", (), ())))
def test_decoding_takes_at_most_four_times_the_memory_of_its_input(
    pattern: bytes, message: tuple[str, tuple[Any, ...]]
) -> None:
    kind, values = message
    honest = CODEC.encode(kind, values)
    for keep in range(0, len(honest), max(1, len(honest) // 8)):
        body = filled(pattern, honest[:keep])[: MIB // 4]
        assert peak_of(kind, body)[0] <= 4 * len(body)


def test_the_largest_honest_bodies_take_at_most_four_times_their_size() -> None:
    names = tuple(PeerId(bytes((index,)) * 32) for index in range(64))
    citations = tuple(Signed(b"e" * MIN_ENTRY, b"b" * 490) for _ in range(1400))
    offer = (0, names, bytes(32), bytes(32), bytes(32), bytes(32), citations)
    shown = tuple(Signed(b"e" * MAX_ENTRY, b"b" * 15_700) for _ in range(64))
    held = tuple((name, bytes(name)) for name in names)
    for kind, values in (
        ("rendezvous.roster", offer),
        ("certify.propose", (bytes(32), "survivors", 0, b"v" * 8192, shown, ())),
        ("secagg.unmask", (bytes(32), bytes(32), held, held)),
    ):
        body = CODEC.encode(kind, values)
        peak, accepted = peak_of(kind, body)
        assert accepted
        assert peak <= 4 * len(body), kind


@pytest.mark.parametrize("attack", HOSTILE)
def test_an_entry_made_of(attack: str) -> None:
    for head in (b"", b"\x9d", b"\x9d\x01"):
        hostile = filled(HOSTILE[attack], head)[:MAX_ENTRY]
        tracemalloc.start()
        try:
            with pytest.raises(Malformed):
                entries.parse(hostile)
            assert tracemalloc.get_traced_memory()[1] <= 8 * MAX_ENTRY
        finally:
            tracemalloc.stop()


def test_values_without_a_schema_nest_to_a_limit() -> None:
    flat: Any = 1
    for _ in range(MAX_DEPTH):
        flat = (flat,)
    assert unpack(pack(flat), 64) == flat
    with pytest.raises(Malformed, match="nest deeper"):
        unpack(pack((flat,)), 64)
    for bad in (b"\xc0", b"\x80", b"\xcb" + bytes(8), b"\xc3", b"\x01\x01", b"\xcc\x01", b"", b"\xff"):
        with pytest.raises(Malformed):
            unpack(bad, 64)


# ── entries ──────────────────────────────────────────────────────────────────────────────────────────────────────────

MEMBERS = [Identity.from_seed(bytes((index,)) * 32) for index in range(1, 5)]
STRANGER = Identity.from_seed(b"\x63" * 32)
PUBLICS = {member.id: member.public for member in MEMBERS}
SESSION = sha256(b"a session").digest()
ROUND = RoundId(0, 1)
REGISTRY = registry("secagg")
CLASSES = (*rendezvous.MESSAGES, *certify.MESSAGES, *secagg.MESSAGES, *allreduce.MESSAGES, *mesh.MESSAGES)


def check(author: PeerId, signature: bytes, message: bytes) -> bool:
    return author in PUBLICS and verify(PUBLICS[author], signature, message)


def chain(identity: Identity, session: bytes = SESSION, boot: int = 1) -> Chain:
    return Chain(identity, session, boot)


def signed(identity: Identity, message: Any, session: bytes = SESSION, **links: Any) -> Signed:
    body = REGISTRY.encode(message)
    return Signed(chain(identity, session).sign(ROUND, message.kind, body, **links).packed, body)


def opened(item: Signed, by: PeerId | None = None) -> Verified:
    return REGISTRY.verify(item, SESSION, check, by)


def refused(item: Signed, by: PeerId | None) -> tuple[PeerId | None, str, str]:
    with pytest.raises(RemoteError) as caught:
        opened(item, by)
    assert "\n" not in str(caught.value)
    return caught.value.peer, caught.value.clause, caught.value.reason


@given(st.lists(messages, min_size=1, max_size=4))
@settings(max_examples=25)
def test_a_chain_numbers_its_entries_from_one_and_each_names_the_one_before(
    sent: list[tuple[str, tuple[Any, ...]]],
) -> None:
    author = chain(MEMBERS[0], boot=3)
    made = [author.sign(ROUND, kind, CODEC.encode(kind, values)) for kind, values in sent]
    assert [entry.seq for entry in made] == list(range(1, len(made) + 1))
    assert made[0].prev == ZERO
    assert all(later.prev == sha256(earlier.packed).digest() for earlier, later in pairwise(made))
    assert {(entry.session, entry.author, entry.boot) for entry in made} == {(SESSION, MEMBERS[0].id, 3)}
    assert author.head == made[-1].hash == sha256(made[-1].packed).digest()
    assert all(entries.parse(entry.packed) == entry for entry in made)


@given(st.binary(max_size=40), st.integers(0, LARGEST), st.sampled_from((b"", bytes(32))))
def test_a_parsed_entry_has_the_bytes_that_its_fields_encode_to(body: bytes, number: int, receiver: bytes) -> None:
    made = Chain(MEMBERS[0], SESSION, boot=1, seq=number - 1).sign(RoundId(1, number), "test", body, receiver=receiver)
    read = entries.parse(made.packed)
    assert read == made
    assert (read.packed, read.signed_bytes) == (afresh(made).packed, afresh(made).signed_bytes)
    assert verify(MEMBERS[0].public, read.signature, read.signed_bytes)


def test_the_signature_is_over_the_label_and_every_field_and_travels_behind_them() -> None:
    """The bytes of specs/wire, written out by hand."""
    receiver = MEMBERS[1].id
    entry = chain(MEMBERS[0], boot=7).sign(ROUND, "rendezvous.leave", b"\x90", after=b"\5" * 32, receiver=receiver)
    named = [1, SESSION, 0, 1, bytes(MEMBERS[0].id), 7, 1, bytes(32), "rendezvous.leave", b"\5" * 32, bytes(receiver)]
    listed = [*named, sha256(b"\x90").digest()]
    assert entry.signed_bytes == b"decentra/entry/v1\0" + msgpack.packb(listed)
    assert verify(MEMBERS[0].public, entry.signature, entry.signed_bytes)
    assert entry.packed == msgpack.packb([*listed, entry.signature])


CHANGES: dict[str, Any] = {
    "session": sha256(b"another session").digest(),
    "epoch": 1,
    "round": 2,
    "author": MEMBERS[1].id,
    "boot": 2,
    "seq": 2,
    "prev": b"\1" * 32,
    "kind": "secagg.endorse",
    "after": b"\1" * 32,
    "receiver": bytes(MEMBERS[1].id),
    "body": sha256(b"\x91\x00").digest(),
    "signature": bytes(64),
}


def test_every_field_of_an_entry_has_a_change_below() -> None:
    assert list(CHANGES) == [field.name for field in fields(Entry)]


@pytest.mark.parametrize("field", CHANGES)
def test_changing_breaks_the_signature(field: str) -> None:
    honest = signed(MEMBERS[0], Want(0, bytes(32), 0))
    entry = opened(honest).entry
    changed = replace(entry, **{field: CHANGES[field]})
    assert changed != entry
    assert not verify(MEMBERS[0].public, changed.signature, changed.signed_bytes)
    peer, clause, _ = refused(Signed(changed.packed, honest.body), MEMBERS[2].id)
    assert peer == MEMBERS[2].id
    assert clause == {"session": "SESSION", "body": "SCHEMA", "kind": "SCHEMA"}.get(field, "SIGNATURE")


@given(st.data())
@settings(max_examples=300)
def test_a_changed_byte_of_an_entry_is_refused_or_breaks_the_signature(data: st.DataObject) -> None:
    honest = signed(MEMBERS[0], Want(0, bytes(32), 0), receiver=bytes(MEMBERS[1].id))
    raw = bytearray(honest.entry)
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    with suppress(Malformed):
        assert afresh(entries.parse(bytes(raw))).packed == bytes(raw)
    peer, clause, _ = refused(Signed(bytes(raw), honest.body), MEMBERS[2].id)
    assert peer == MEMBERS[2].id
    assert clause in ("SCHEMA", "SESSION", "SIGNATURE")


@given(st.data())
def test_a_changed_body_is_not_the_one_that_was_signed(data: st.DataObject) -> None:
    honest = signed(MEMBERS[0], Want(0, bytes(32), 0))
    body = bytearray(honest.body)
    body[data.draw(st.integers(0, len(body) - 1))] ^= data.draw(st.integers(1, 255))
    peer, clause, reason = refused(Signed(honest.entry, bytes(body)), MEMBERS[2].id)
    assert (peer, clause) == (MEMBERS[2].id, "SCHEMA")
    assert "the body is not the one that the entry names" in reason


def fields_of(entry: Entry) -> list[Any]:
    return list(msgpack.unpackb(entry.packed))


BAD_ENTRIES: dict[str, tuple[int, Any]] = {
    "a version that is a truth": (0, True),
    "a version that is a float": (0, 1.0),
    "a session of 31 bytes": (1, bytes(31)),
    "an epoch above 2^63 - 1": (2, 1 << 63),
    "a negative round": (3, -1),
    "an author of 33 bytes": (4, bytes(33)),
    "a boot that is text": (5, "1"),
    "a seq that is nil": (6, None),
    "an empty prev": (7, b""),
    "a kind that is bytes": (8, b"rendezvous.leave"),
    "a kind of 49 bytes": (8, "k" * 49),
    "an after that is an array": (9, [0] * 4),
    "a receiver of 16 bytes": (10, bytes(16)),
    "a body of 64 bytes": (11, bytes(64)),
    "a signature of 63 bytes": (12, bytes(63)),
}


@pytest.mark.parametrize("attack", BAD_ENTRIES)
def test_an_entry_is_refused_that_has(attack: str) -> None:
    honest = fields_of(chain(MEMBERS[0]).sign(ROUND, "rendezvous.leave", b"\x90"))
    assert entries.parse(msgpack.packb(honest)).kind == "rendezvous.leave"
    place, bad = BAD_ENTRIES[attack]
    honest[place] = bad
    with pytest.raises(Malformed):
        entries.parse(msgpack.packb(honest))


@pytest.mark.parametrize("extra", [0, 3])
def test_an_entry_of_another_version_is_told_in_a_clear_sentence(extra: int) -> None:
    """A later version may have more fields, and is still named by its number."""
    later = [2, *fields_of(chain(MEMBERS[0]).sign(ROUND, "rendezvous.leave", b"\x90"))[1:], *([0] * extra)]
    peer, clause, reason = refused(Signed(msgpack.packb(later), b"\x90"), MEMBERS[2].id)
    assert (peer, clause) == (MEMBERS[2].id, "SCHEMA")
    assert reason == "entry version 2, this peer speaks version 1; the older side must upgrade"


def test_an_entry_with_too_few_too_many_or_left_over_fields_is_refused() -> None:
    honest = fields_of(chain(MEMBERS[0]).sign(ROUND, "rendezvous.leave", b"\x90"))
    for bad in (msgpack.packb(honest[:-1]), msgpack.packb([*honest, 0]), msgpack.packb(honest) + b"\0"):
        with pytest.raises(Malformed):
            entries.parse(bad)


def test_the_longest_and_the_shortest_entry_keep_within_the_limits() -> None:
    most = (1 << 63) - 1
    low = Entry(ZERO, 0, 0, PeerId(ZERO), 0, 0, ZERO, "", ZERO, b"", ZERO, bytes(64))
    high = replace(low, epoch=most, round=most, boot=most, seq=most, kind="k" * 48, receiver=bytes(32))
    assert len(low.packed) == MIN_ENTRY
    assert len(high.packed) <= MAX_ENTRY
    assert entries.parse(low.packed) == low
    assert entries.parse(high.packed) == high
    assert max(map(len, KINDS)) <= 48


# ── verification and blame ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_stranger_signs_for_nobody_and_the_deliverer_is_blamed() -> None:
    message = Want(0, bytes(32), 0)
    assert opened(signed(MEMBERS[0], message)).sender == MEMBERS[0].id
    for by in (MEMBERS[1].id, None):
        peer, clause, reason = refused(signed(STRANGER, message), by)
        assert (peer, clause) == (by, "SIGNATURE")
        assert str(STRANGER.id) in reason


def test_an_entry_of_another_session_is_refused_before_its_signature_is_looked_at() -> None:
    peer, clause, reason = refused(signed(MEMBERS[0], Want(0, bytes(32), 0), session=ZERO), MEMBERS[0].id)
    assert (peer, clause) == (MEMBERS[0].id, "SESSION")
    assert "compare charters" in reason


def test_a_kind_that_no_spec_names_is_refused() -> None:
    entry = chain(MEMBERS[0]).sign(ROUND, "secagg.gossip", b"\x90")
    assert refused(Signed(entry.packed, b"\x90"), MEMBERS[0].id)[:2] == (MEMBERS[0].id, "SCHEMA")


def test_an_entry_is_for_its_receiver_or_for_everyone() -> None:
    to_one = opened(signed(MEMBERS[0], Want(0, bytes(32), 0), receiver=bytes(MEMBERS[1].id))).entry
    to_all = opened(signed(MEMBERS[0], Want(0, bytes(32), 0))).entry
    assert to_all.receiver == EVERYONE
    assert [addressed_to(to_one, member.id) for member in MEMBERS] == [False, True, False, False]
    assert all(addressed_to(to_all, member.id) for member in MEMBERS)


def prepared(identity: Identity, value: bytes = bytes(32)) -> Verified:
    return opened(signed(identity, Prepare(bytes(32), "survivors", 0, value)))


def proposal(*shown: Verified) -> Propose:
    return Propose(bytes(32), "survivors", 0, b"value", shown, ())


def test_what_a_message_cites_is_verified_with_it() -> None:
    cited = prepared(MEMBERS[1]), prepared(MEMBERS[2], b"\1" * 32)
    message = opened(signed(MEMBERS[0], proposal(*cited))).message
    assert isinstance(message, Propose)
    assert message.shown == cited
    assert [item.sender for item in message.shown] == [MEMBERS[1].id, MEMBERS[2].id]


def with_cited(identity: Identity, *cited: Signed) -> Signed:
    """A proposal that cites entries as they are, sound or not."""
    body = REGISTRY.codec.encode("certify.propose", (bytes(32), "survivors", 0, b"value", cited, ()))
    return Signed(chain(identity).sign(ROUND, "certify.propose", body).packed, body)


def test_who_cites_a_forged_entry_is_blamed_and_not_the_one_it_names() -> None:
    sound = prepared(MEMBERS[1])
    forged = replace(sound.entry, signature=bytes(64))
    other = Prepare(bytes(32), "survivors", 0, b"\2" * 32)
    for bad, clause in (
        (Signed(forged.packed, sound.signed.body), "SIGNATURE"),
        (Signed(sound.signed.entry, REGISTRY.encode(other)), "SCHEMA"),
        (signed(STRANGER, other), "SIGNATURE"),
        (signed(MEMBERS[1], other, session=ZERO), "SESSION"),
        (Signed(bytes(MIN_ENTRY), b""), "SCHEMA"),
    ):
        assert opened(with_cited(MEMBERS[0], sound.signed)).sender == MEMBERS[0].id
        assert refused(with_cited(MEMBERS[0], sound.signed, bad), MEMBERS[0].id)[:2] == (MEMBERS[0].id, clause)


def test_entries_cite_entries_to_a_depth_and_no_deeper() -> None:
    item = signed(MEMBERS[0], proposal())
    for _ in range(MAX_CITED - 1):
        assert opened(item).sender == MEMBERS[0].id
        item = with_cited(MEMBERS[0], item)
    assert opened(item).sender == MEMBERS[0].id
    peer, clause, reason = refused(with_cited(MEMBERS[0], item), MEMBERS[0].id)
    assert (peer, clause) == (MEMBERS[0].id, "SCHEMA")
    assert reason == f"entries nest deeper than {MAX_CITED}"


def test_entries_are_verified_wherever_a_field_can_hold_them() -> None:
    """Also as the values of a map and in lists of lists, which no spec has today."""

    @dataclass(frozen=True)
    class Deep(Message):
        kind: ClassVar[str] = "example.deep"
        named: tuple[tuple[PeerId, Verified], ...]
        listed: tuple[tuple[Verified, ...], ...]

    shape = (("named", FieldType.parse("map[peer,entry]<=2")), ("listed", FieldType.parse("list[list[entry]<=2]<=2")))
    specs = {Deep.kind: MessageSpec(Deep.kind, "peer", "any", "round", True, False, shape)} | MESSAGES
    deep = Registry(specs, (Deep, *CLASSES))
    cited, strange = prepared(MEMBERS[1]), signed(STRANGER, Prepare(bytes(32), "survivors", 0, bytes(32)))
    for named, listed, sound in (
        (cited.signed, cited.signed, True),
        (strange, cited.signed, False),
        (cited.signed, strange, False),
    ):
        body = deep.codec.encode(Deep.kind, (((MEMBERS[1].id, named),), ((), (listed,))))
        item = Signed(chain(MEMBERS[0]).sign(ROUND, Deep.kind, body).packed, body)
        if sound:
            assert deep.verify(item, SESSION, check).message == Deep(((MEMBERS[1].id, cited),), ((), (cited,)))
            continue
        with pytest.raises(RemoteError) as caught:
            deep.verify(item, SESSION, check, MEMBERS[3].id)
        assert (caught.value.peer, caught.value.clause) == (MEMBERS[3].id, "SIGNATURE")


def test_a_parsed_entry_is_no_verified_one() -> None:
    item = signed(STRANGER, AbortRound("LOCAL", (), "no reason"))
    parsed = Parsed.read(item)
    assert parsed.entry.author == STRANGER.id
    assert not isinstance(parsed, Verified)
