"""The charter: its form on disk, its hash, its signatures, and the policy that refuses unsound ones."""

from __future__ import annotations

import hashlib
import json
import re
import struct
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from beside import SPECS, program
from decentra.charter import Charter, GridTerms, GroupTerms, Member, Policy, ProtocolTerms, toml
from decentra.charter.charter import BucketTerms
from decentra.charter.policy import LEAST_QUANTA, MOST_MEMBERS
from decentra.crypto.hashing import digest
from decentra.crypto.keys import Identity
from decentra.data import locate
from decentra.errors import LocalError
from decentra.types import PeerId

SPEC = SPECS / "charter"
IDENTITIES = [Identity.from_seed(number.to_bytes(2, "big") * 16) for number in range(260)]
MEMBERS = [Member.of(identity, f"peer-{number}") for number, identity in enumerate(IDENTITIES)]


def group(count: int = 4, **protocol: Any) -> Charter:
    return Charter.build(
        {
            "version": 1,
            "group": GroupTerms(name="test"),
            "protocol": ProtocolTerms(**{"name": "secagg", **protocol}),
            "members": MEMBERS[:count],
        }
    )


def signed(charter: Charter) -> Charter:
    for identity in IDENTITIES[: len(charter.members)]:
        charter = charter.sign(identity)
    return charter


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(LocalError) as caught:
        call()
    return str(caught.value)


# ── strategies ───────────────────────────────────────────────────────────────────────────────────────────────────────

positive = st.floats(min_value=1e-300, max_value=1e300) | st.integers(1, 2**53)
printable = st.text(st.characters(exclude_categories=("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs")), min_size=1)
text64 = printable.map(lambda text: text[:64])


def tables() -> st.SearchStrategy[dict[str, Any]]:
    """Charters as tomllib gives them, sound or not, with any choice of keys left out."""
    return st.fixed_dictionaries(
        {
            "version": st.just(1),
            "group": st.fixed_dictionaries(
                {"name": text64}, optional={"epoch": st.integers(1, 2**62), "previous": st.just("cd" * 32)}
            ),
            "protocol": st.fixed_dictionaries(
                {"name": st.sampled_from(["secagg", "allreduce", "mesh", "bucketed"])},
                optional={
                    "c": st.integers(0, 2**30),
                    "floor": st.integers(1, 100),
                    "rule": text64,
                    "width": st.sampled_from([16, 32]),
                    "max_weight": st.integers(1, 2**30),
                    "initial_range": positive,
                    "range_bounds": st.lists(positive, min_size=2, max_size=2),
                    "ranges": st.dictionaries(text64, positive, max_size=3),
                },
            ),
        },
        optional={
            "rounds": st.fixed_dictionaries({}, optional={"phase_deadline": st.floats(1e-3, 86_400.0)}),
            "training": st.fixed_dictionaries(
                {},
                optional={
                    "steps": st.integers(1, 2**30),
                    "outer_lr": positive,
                    "outer_momentum": st.floats(0, 0.999) | st.just(0),
                    "nesterov": st.booleans(),
                    "seconds": st.floats(0.001, 86_400.0),
                    "outer": st.sampled_from(["sgd", "adam"]),
                    "outer_beta2": st.floats(0, 0.999),
                    "outer_tau": positive,
                    "warmup": st.integers(0, 2**30),
                    "fragments": st.integers(1, 2**15),
                    "adapters": st.sampled_from(["fedit", "ffa", "rolora"]),
                    "tensors": st.dictionaries(
                        st.sampled_from(["*", "*.bias", "head.*"]),
                        st.fixed_dictionaries({"outer_lr": positive}, optional={"outer_momentum": st.just(0.1)})
                        | st.just({"outer_momentum": 0.0}),
                    ),
                },
            ),
            "admission": st.fixed_dictionaries(
                {}, optional={"quorum": st.integers(1, 100), "invites": st.booleans()}
            ),
            "model": st.fixed_dictionaries(
                {}, optional={"max_parameters": st.integers(1, 2**39), "fingerprint": st.just("ab" * 32)}
            ),
            "groups": st.fixed_dictionaries(
                {
                    "size": st.integers(1, 100),
                    "liars": st.integers(1, 100),
                    "risk": st.floats(1e-300, 1.0),
                    "drawers": st.lists(st.sampled_from(["ann", "Bob", "x-1", "m" * 32]), max_size=64),
                }
            ),
            "buckets": st.fixed_dictionaries(
                {"size": st.integers(1, 2**30)},
                optional={"c": st.integers(0, 2**30), "risk": st.floats(1e-300, 1.0)},
            ),
            "members": st.integers(0, 4).map(lambda count: tomllib.loads(_records(count)).get("members", [])),
        },
    )


def _records(count: int) -> str:
    return "\n".join(member.to_toml() for member in MEMBERS[:count])


@st.composite
def reordered(draw: st.DrawFn, value: Any) -> Any:
    """The same tables with their keys, and members, in another order."""
    if isinstance(value, dict):
        keys = draw(st.permutations(list(value)))
        return {key: draw(reordered(value[key])) for key in keys}
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return draw(st.permutations([draw(reordered(item)) for item in value]))
    return value


# ── the form on disk ─────────────────────────────────────────────────────────────────────────────────────────────────


@given(tables())
def test_what_is_written_reads_back_equal_and_with_the_same_hash(raw: dict[str, Any]) -> None:
    charter = Charter.build(raw)
    again = Charter.parse(charter.to_toml())
    assert again == charter
    assert again.hash == charter.hash
    assert again.to_toml() == charter.to_toml()


@given(tables())
def test_signatures_are_written_and_read_back_and_are_not_hashed(raw: dict[str, Any]) -> None:
    charter = Charter.build(raw)
    for identity in IDENTITIES[: len(charter.members)]:
        charter = charter.sign(identity)
    assert Charter.parse(charter.to_toml()) == charter
    assert Charter.build(raw).hash == charter.hash
    assert charter.problems == ()


@given(st.data(), tables())
def test_order_of_keys_and_members_white_space_and_comments_leave_the_hash_alone(
    data: st.DataObject, raw: dict[str, Any]
) -> None:
    text = toml.write(data.draw(reordered(raw)))
    spaced = re.sub(r"(?m)^(\[.*\]|version = 1)$", r"  \1   # a comment", text).replace("\n[", "\n\n\t[")
    assert Charter.parse(spaced).hash == Charter.build(raw).hash


BUCKETS = {"size": 3, "c": 1, "risk": 0.5}
GRID = {"size": 6, "liars": 1, "risk": 0.5, "drawers": ("member-1",)}

CHANGES: dict[str, dict[str, Any]] = {
    "group": {"name": "other", "epoch": 2, "previous": bytes(32)},
    "protocol": {
        "name": "allreduce",
        "c": 2,
        "floor": 4,
        "rule": "median",
        "width": 32,
        "max_weight": 2,
        "initial_range": 0.2,
        "ranges": {"*": 0.1},
        "range_bounds": (1e-6, 99.0),
        "challenges": 2,
        "backup": True,
    },
    "rounds": {"phase_deadline": 31.0, "ready_deadline": 121.0},
    "training": {
        "steps": 21,
        "seconds": 9.5,
        "outer": "adam",
        "outer_lr": 0.9,
        "outer_momentum": 0.6,
        "nesterov": False,
        "outer_beta2": 0.9,
        "outer_tau": 0.01,
        "warmup": 3,
        "fragments": 4,
        "adapters": "ffa",
        "tensors": {"*.bias": {"outer_momentum": 0.0}},
    },
    "model": {"max_parameters": 5, "fingerprint": bytes(32)},
    "admission": {"quorum": 4, "invites": True},
    "groups": {"size": 7, "liars": 2, "risk": 0.25, "drawers": ("member-0",)},
    "buckets": {"size": 4, "c": 2, "risk": 0.25, "beacon": bytes(32)},
}

OPTIONAL = {"groups": GridTerms, "buckets": BucketTerms}
"""Tables that a charter has or has not."""


@pytest.mark.parametrize(("table", "key"), [(table, key) for table, keys in CHANGES.items() for key in keys])
def test_any_changed_field_changes_the_hash_and_voids_every_signature(table: str, key: str) -> None:
    given = {"groups": GRID, "buckets": BUCKETS}.get(table)
    before = signed(group() if given is None else Charter.build({**dict(group()), table: given}))
    raw = tomllib.loads(before.to_toml())
    raw.setdefault(table, {})[key] = CHANGES[table][key]
    after = Charter.build(raw)
    assert after.hash != before.hash
    problems = refusal(after.check)
    assert "this charter was changed after it was signed by " in problems and "have all sign again" in problems
    assert all(problems.count(member.label) == 1 for member in after.members)
    assert len(before.differences(after)) >= 1
    assert f"{table}.{key}" in before.differences(after)[0]


def test_every_field_of_a_charter_is_in_the_test_above() -> None:
    sections = {name: field.annotation for name, field in Charter.model_fields.items()}
    for table, keys in CHANGES.items():
        section = OPTIONAL.get(table, sections[table])
        assert isinstance(section, type) and issubclass(section, toml.Section)
        assert set(keys) == set(section.model_fields)
    assert set(sections) == {"version", "members", "signatures", *CHANGES}


@given(st.data(), st.integers(0, 3), st.sampled_from(["name", "id", "ed25519", "curve", "signature"]))
def test_a_tampered_record_is_caught_and_named(data: st.DataObject, victim: int, field: str) -> None:
    charter = signed(group())
    raw = tomllib.loads(charter.to_toml())
    record = raw["members"][victim]
    name = record["name"]
    if field == "name":
        record["name"] = name = f"not-{name}"
    else:
        position = data.draw(st.integers(0, len(record[field]) - 1))
        old = record[field][position]
        new = data.draw(st.sampled_from("0123456789abcdef").filter(lambda digit: digit != old))
        record[field] = f"{record[field][:position]}{new}{record[field][position + 1 :]}"
    problems = refusal(lambda: Charter.build(raw).check(signed=False))
    assert f"member '{name}' (" in problems
    assert Charter.build(raw).hash != charter.hash


@given(st.integers(0, 3), st.integers(0, 511))
def test_a_flipped_bit_in_a_signature_is_caught_and_named(victim: int, bit: int) -> None:
    charter = signed(group())
    member = charter.members[victim]
    raw = tomllib.loads(charter.to_toml())
    wrong = int(raw["signatures"][member.id.hex()], 16) ^ (1 << bit)
    raw["signatures"][member.id.hex()] = f"{wrong:0128x}"
    assert Charter.build(raw).problems == (
        f"the signature of {member.label} is not for this charter; have it signed again",
    )


def test_a_signature_by_a_stranger_is_caught() -> None:
    charter = signed(group())
    raw = tomllib.loads(charter.to_toml())
    stranger = IDENTITIES[20]
    raw["signatures"][stranger.id.hex()] = stranger.sign(charter.hash).hex()
    assert f"the signature of {stranger.id} is no member's" in refusal(Charter.build(raw).check)


def test_swapped_signatures_of_two_members_are_caught_and_both_named() -> None:
    charter = signed(group())
    raw = tomllib.loads(charter.to_toml())
    first, second = (member.id.hex() for member in charter.members[:2])
    raw["signatures"][first], raw["signatures"][second] = raw["signatures"][second], raw["signatures"][first]
    problems = Charter.build(raw).problems
    assert [charter.members[0].label in problems[0], charter.members[1].label in problems[1]] == [True, True]
    assert len(problems) == 2


def test_a_record_signed_for_another_key_does_not_pass_as_ones_own() -> None:
    """Mallory takes alice's name and CURVE key under an identity of its own."""
    mallory, alice = IDENTITIES[9], MEMBERS[0]
    forged = alice.model_copy(update={"id": mallory.id, "ed25519": mallory.public})
    assert len(forged.problems) == 1
    assert Member.of(mallory, "mallory").problems == ()


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda raw: raw.decode("latin-1")))
def test_any_text_is_read_or_refused_in_words(text: str) -> None:
    try:
        Charter.parse(text)
    except LocalError as error:
        assert str(error).startswith("charter.toml")


json_like = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**400), 10**400) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


@settings(max_examples=200)
@given(st.data(), tables())
def test_a_wrong_value_anywhere_is_refused_in_words_or_reads_back_equal(
    data: st.DataObject, raw: dict[str, Any]
) -> None:
    table = data.draw(st.sampled_from(sorted(raw)))
    wrong = data.draw(json_like.filter(lambda value: value is not None))
    if isinstance(raw[table], dict) and raw[table] and data.draw(st.booleans()):
        raw[table] = {**raw[table], data.draw(st.sampled_from(sorted(raw[table]))): wrong}
    else:
        raw[table] = wrong
    try:
        charter = Charter.build(raw)
    except LocalError as error:
        assert str(error).startswith("charter.toml")
    else:
        assert Charter.parse(charter.to_toml()) == charter


LONGER = "is longer, or has a longer line, than any file of decentra's; name the right file"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("x = [" + "[\n" * 5000, "charter.toml is not readable as TOML; start again from `decentra init`"),
        ("x = " + "9" * 1024, f"charter.toml {LONGER}"),
        ("x = 1\n" * 800_000, f"charter.toml {LONGER}"),
        (".".join("a" * 30_000) + " = 1", f"charter.toml {LONGER}"),  # 4 GB in tomllib, once
        ("version = 2", "charter.toml has version 2, and this decentra reads 1; install a newer one"),
    ],
)
def test_hostile_and_future_texts_are_refused(text: str, sentence: str) -> None:
    assert refusal(lambda: Charter.parse(text)) == sentence


def test_of_thousands_of_problems_the_first_twenty_are_told() -> None:
    told = refusal(lambda: Charter.parse("".join(f"key{number} = 1\n" for number in range(5000))))
    assert told.startswith("charter.toml has 500") and "\n  20. " in told and "\n  21. " not in told
    assert told.endswith("and more: mend these first") and len(told) < 5000


def _with(line: str, table: str = "protocol") -> str:
    """A charter that is right but for one line."""
    bodies = {"group": 'name = "g"', "protocol": 'name = "secagg"'}
    bodies[table] = line if line.startswith("name") else f"{bodies.get(table, '')}\n{line}"
    return "version = 1\n" + "".join(f"[{name}]\n{body}\n" for name, body in bodies.items())


@pytest.mark.parametrize(
    ("line", "table", "sentence"),
    [
        ("widht = 16", "protocol", "unknown key 'widht' in [protocol]; did you mean 'width'?"),
        ("steps = 5", "rounds", "unknown key 'steps' in [rounds]; it belongs in [training]"),
        (
            "zzz = 5",
            "model",
            "unknown key 'zzz' in [model]; the keys there are max_parameters, fingerprint",
        ),
        ("c = 1.5", "protocol", "'c' in [protocol] must be a whole number, not 1.5; write for example c = 1"),
        ("c = true", "protocol", "'c' in [protocol] must be a whole number, not true; write for example c = 1"),
        ("width = 24", "protocol", "'width' in [protocol] must be 16 or 32, not 24; write for example width = 16"),
        (
            "initial_range = nan",
            "protocol",
            "'initial_range' in [protocol] must be a finite number, not nan; write for example initial_range = 0.1",
        ),
        (
            "initial_range = 0",
            "protocol",
            "'initial_range' in [protocol] must be above 0, not 0; write for example initial_range = 0.1",
        ),
        (
            "range_bounds = [1, 2, 3]",
            "protocol",
            "'range_bounds' in [protocol] must be an array of 2, not an array of 3; "
            "write for example range_bounds = [1e-06, 100.0]",
        ),
        (
            "outer_momentum = 1.0",
            "training",
            "'outer_momentum' in [training] must be below 1, not 1.0; write for example outer_momentum = 0.5",
        ),
        ("nesterov = 1", "training", "'nesterov' in [training] must be true or false, not 1; "
         "write for example nesterov = true"),
        (
            'fingerprint = "AB"',
            "model",
            "'fingerprint' in [model] must be 64 lower-case hexadecimal digits in quotes; "
            "copy it again from its source",
        ),
        ('name = ""', "group", "'name' in [group] must be 1 to 64 printable characters"),
        ('name = "\\u001b[2J"', "protocol", "'name' in [protocol] must be 1 to 64 printable characters"),
        (
            "name = 3",
            "group",
            "'name' in [group] must be a text in quotes, not 3; write for example name = \"our-group\"",
        ),
    ],
)  # fmt: skip
def test_a_wrong_key_or_type_is_one_sentence_with_its_mend(line: str, table: str, sentence: str) -> None:
    assert refusal(lambda: Charter.parse(_with(line, table))) == f"charter.toml: {sentence}"


def test_all_problems_of_form_are_told_together() -> None:
    told = refusal(lambda: Charter.parse('version = 1\n[group]\nnaem = "g"\n[protocol]\nname = 1\nwidth = 3\n[modle]'))
    assert told.startswith("charter.toml has 5 problems:\n  1. ")
    for part in ("'name' in [group] is missing", "did you mean 'name'?", "'name' in [protocol]", "'width'", "'model'?"):
        assert part in told


@pytest.mark.parametrize("name", ["", "a b", "-a", "a.b", "ä", "x" * 33, "deadbeef", "0123456789"])
def test_names_that_could_mislead_are_refused(name: str) -> None:
    assert repr(name) in refusal(lambda: Member.of(IDENTITIES[0], name))


def test_two_members_of_one_name_or_one_id_are_refused_and_named() -> None:
    twin = Member.of(IDENTITIES[5], "PEER-1")
    told = refusal(lambda: group().with_members([twin]))
    assert "'peer-1'" in told and "'PEER-1'" in told and "have one name" in told
    raw = {**dict(group()), "members": [MEMBERS[0], Member.of(IDENTITIES[0], "other")]}
    assert "are one; remove one" in refusal(lambda: Charter.build(raw))


def test_the_longest_fitting_pattern_gives_a_tensors_range() -> None:
    ranges = {"*": 2.0, "*.bias": 3.0, "head.*": 4.0, "h*.bias": 5.0}
    terms = ProtocolTerms(name="secagg", initial_range=1.0, ranges=ranges)
    assert [terms.range_of(name) for name in ("x", "a.bias", "head.weight", "head.bias", "HEAD.w")] == [2, 3, 4, 5, 2]
    assert ProtocolTerms(name="secagg", initial_range=1.0).range_of("x") == 1.0


def test_a_rewritten_charter_keeps_its_comments_and_never_other_terms() -> None:
    text = (locate("protocols") / "secagg.toml").read_text()
    charter = Charter.parse(text).with_members(MEMBERS[:3])
    kept = charter.to_toml(like=text)
    assert Charter.parse(kept) == charter
    assert {line for line in text.splitlines() if line.startswith("#")} <= set(kept.splitlines())
    assert charter.to_toml(like=kept) == kept
    changed = Charter.build({**dict(charter), "group": GroupTerms(name="other")})
    assert Charter.parse(changed.to_toml(like=text)) == changed
    assert Charter.parse(charter.to_toml(like="not toml [")) == charter


# ── signing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_signing_by_all_is_needed_and_enough() -> None:
    charter = group()
    assert charter.missing_signatures == charter.members
    for done, identity in enumerate(IDENTITIES[:4]):
        told = refusal(charter.check)
        assert all(member.label in told for member in charter.missing_signatures)
        assert len(charter.missing_signatures) == 4 - done
        charter = charter.sign(identity)
    charter.check()
    assert charter.ids == tuple(sorted(identity.id for identity in IDENTITIES[:4]))
    assert charter.member(IDENTITIES[0].id) == MEMBERS[0]


def test_a_charter_without_members_is_not_signed() -> None:
    assert "there are no members" in refusal(group(0).check)


def test_a_stranger_cannot_sign() -> None:
    assert "is no member of 'test'" in refusal(lambda: group().sign(IDENTITIES[10]))


def test_a_member_does_not_sign_a_charter_that_has_another_curve_key_for_it() -> None:
    me, other = IDENTITIES[0], IDENTITIES[1]
    record = {"name": "peer-0", "id": me.id, "ed25519": me.public, "curve": other.curve_public}
    own = me.sign(digest("member", "peer-0", me.public, other.curve_public))
    charter = Charter.build({**dict(group()), "members": [Member(**record, signature=own), *MEMBERS[1:4]]})
    assert charter.problems == ()
    assert f"another curve key for {MEMBERS[0].label}" in refusal(lambda: charter.sign(me))


def test_copies_signed_apart_are_merged() -> None:
    copies = [group().sign(identity) for identity in IDENTITIES[:4]]
    merged = copies[0]
    for copy in copies[1:]:
        merged = merged.merge(copy)
    merged.check()
    assert merged == signed(group())


def test_another_charter_is_not_merged_and_the_difference_is_named() -> None:
    told = refusal(lambda: group().merge(signed(group(5, c=2)), "b.toml"))
    assert told.startswith("b.toml is another charter: protocol.c is 1 here and 2 there")
    assert f"member {MEMBERS[4].label} is only there" in told


def test_a_copy_with_a_forged_signature_is_not_merged() -> None:
    charter = signed(group())
    raw = tomllib.loads(charter.to_toml())
    victim = charter.members[1]
    raw["signatures"][victim.id.hex()] = "00" * 64
    assert victim.label in refusal(lambda: group().merge(Charter.build(raw)))


def test_adding_a_member_voids_the_signatures_and_adding_it_twice_is_refused() -> None:
    charter = signed(group(3)).with_members([MEMBERS[3]])
    assert charter.signatures == {}
    assert "is a member already; leave it out" in refusal(lambda: charter.with_members([MEMBERS[3]]))


def test_signatures_for_an_earlier_text_are_stale_and_no_others() -> None:
    charter = signed(group())
    later = Charter.build({**dict(charter), "group": GroupTerms(name="later")}).sign(IDENTITIES[2])
    assert list(later.without_stale_signatures().signatures) == [IDENTITIES[2].id]


# ── vectors ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _vectors() -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in (SPEC / "vectors" / "v1").iterdir()}


def test_the_vectors_are_what_the_library_gives() -> None:
    assert program(SPEC / "make_vectors.py").files() == _vectors()


@pytest.mark.parametrize("vector", ["good", "amend-new", "grid", "buckets"])
def test_the_hash_is_what_the_page_says_computed_without_the_library(vector: str) -> None:
    """Only the page's words are used: the defaults, the types of numbers, the lines and their order."""
    raw = tomllib.loads(_vectors()[f"{vector}.toml"])
    raw.pop("signatures", None)
    reals = {"initial_range", "range_bounds", "phase_deadline", "ready_deadline", "outer_lr"}
    reals |= {"outer_momentum", "risk"}
    lines: list[str] = []

    def real(value: float) -> str:
        return f"f {struct.pack('>d', value).hex()}"

    for table, body in raw.items():
        if table == "version":
            lines.append(f"version i {body}")
        elif table == "members":
            for member in body:
                path = f"members.{member['id']}"
                lines += [f"{path}.{key} b {member[key]}" for key in ("id", "ed25519", "curve", "signature")]
                lines.append(f"{path}.name s {member['name'].encode().hex()}")
        else:
            for key, value in body.items():
                path = f"{table}.{key}"
                if key == "ranges":
                    lines += [f"{path}.{pattern.encode().hex()} {real(at)}" for pattern, at in value.items()]
                elif key == "range_bounds":
                    lines += [f"{path}.{index} {real(at)}" for index, at in enumerate(value)]
                elif key == "drawers":
                    names = sorted(name.encode() for name in value)
                    lines += [f"{path}.{index} s {name.hex()}" for index, name in enumerate(names)]
                elif key in reals:
                    lines.append(f"{path} {real(value)}")
                elif isinstance(value, bool):
                    lines.append(f"{path} t {'yes' if value else 'no'}")
                elif key in ("fingerprint", "previous", "beacon"):
                    lines.append(f"{path} b {value}")
                else:
                    lines.append(f"{path} i {value}" if isinstance(value, int) else f"{path} s {value.encode().hex()}")
    text = "".join(f"{line}\n" for line in sorted(lines, key=str.encode))
    assert text == _vectors()[f"{vector}.canonical"]
    items = [(b"s", b"charter"), (b"b", text.encode())]
    encoded = b"".join(tag + len(body).to_bytes(8, "little") + body for tag, body in items)
    expected = json.loads(_vectors()["expected.json"])
    hashes = {"good": expected["hash"], "amend-new": expected["amend"]["new"], "grid": expected["grid"]}
    hashes["buckets"] = expected["buckets"]
    assert hashlib.sha256(encoded).hexdigest() == hashes[vector]


@pytest.mark.parametrize("name", sorted(name for name in _vectors() if name.startswith("bad-")))
def test_a_tampered_vector_is_refused_and_names_those_concerned(name: str) -> None:
    good = Charter.parse(_vectors()["good.toml"])
    good.check()
    told = refusal(Charter.parse(_vectors()[name]).check)
    blamed = json.loads(_vectors()["expected.json"])["blamed"][name.removeprefix("bad-").removesuffix(".toml")]
    assert sorted(set(re.findall(r"'(\w+)' \(", told))) == blamed


def test_members_and_charters_are_signed_under_labels_of_their_own() -> None:
    """A record's signature must not be usable as a charter's, nor the other way round."""
    member, charter = MEMBERS[0], group()
    assert charter.hash != digest("member", charter.canonical)
    stolen = {**dict(charter), "signatures": {member.id.hex(): member.signature.hex()}}
    assert member.label in refusal(lambda: Charter.build(stolen).check(signed=False))


# ── policy ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "count"), [("secagg", 3), ("allreduce", 3), ("mesh", 3), ("group-gossip", 4), ("bucketed", 9)]
)
def test_the_templates_are_sound_for_few_members_and_commented(name: str, count: int) -> None:
    text = (locate("protocols") / f"{name}.toml").read_text()
    names = ", ".join(f'"{member.name}"' for member in MEMBERS[:count])
    charter = Charter.parse(text.replace("drawers = []", f"drawers = [{names}]")).with_members(MEMBERS[:count])
    assert Policy(charter).problems == ()
    assert charter.protocol.name == ("secagg" if name == "group-gossip" else name)
    assert (charter.groups is not None, charter.buckets is not None) == (name == "group-gossip", name == "bucketed")
    uncommented = re.findall(r"(?m)^(\w+) = (?!.*#)", text)
    assert set(uncommented) <= {"version", "name", "nesterov"}


@pytest.mark.parametrize(
    ("n", "c", "threshold", "survived"),
    [(3, 1, 3, 0), (4, 1, 3, 1), (5, 1, 4, 1), (7, 2, 5, 2), (8, 2, 6, 2), (10, 3, 7, 3), (16, 5, 11, 5),
     (64, 21, 43, 21)],
)  # fmt: skip
def test_thresholds_are_the_published_ones_and_the_comparison_page_shows_them(
    n: int, c: int, threshold: int, survived: int
) -> None:
    policy = Policy(group(n, c=c))
    assert (policy.threshold, policy.stops_survived, policy.problems) == (threshold, survived, ())
    page = (locate("protocols") / "README.md").read_text()
    lines = [line.strip("| ").split("|") for line in page.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line] for line in lines]
    column = next(row for row in rows if row[0] == "n, c").index(f"{n}, {c}")
    assert [row[column] for row in rows if row[0].startswith(("t,", "n − t"))] == [str(threshold), str(survived)]


@given(st.integers(0, 70), st.integers(0, 70))
def test_only_three_to_sixty_four_members_and_c_up_to_n_minus_two_are_sound(n: int, c: int) -> None:
    sound = not Policy(group(n, c=c)).problems
    assert sound == (3 <= n <= MOST_MEMBERS and 1 <= c <= n - 2)


@given(st.data())
@settings(max_examples=300)
def test_a_sound_charter_leaves_two_honest_peers_in_every_roster_and_one_quorum_in_every_round(
    data: st.DataObject,
) -> None:
    n = data.draw(st.integers(3, MOST_MEMBERS), label="n")
    c = data.draw(st.integers(1, n - 2), label="c")
    floor = data.draw(st.none() | st.integers((n + c) // 2 - 1, n + 1), label="floor")
    charter = group(n, c=c, floor=floor)
    assert bool(Policy(charter).problems) == (floor is not None and not (n + c) // 2 + 1 <= floor <= n)
    assume(not Policy(charter).problems)
    for roster in range(charter.roster_floor, n + 1):
        threshold = (roster + c) // 2 + 1
        assert threshold <= roster and 2 * threshold > roster + c and roster - c >= 2
    assert 2 * charter.roster_floor > n + c and charter.roster_floor <= n


@given(st.integers(3, 64), st.integers(1, 62))
def test_every_c_that_fits_is_accepted_with_the_default_floor(n: int, c: int) -> None:
    assume(c <= n - 2)
    charter = group(n, c=c)
    assert Policy(charter).problems == ()
    assert charter.roster_floor == max(-(-2 * n // 3), (n + c) // 2 + 1)


@given(st.integers(3, 64), st.sampled_from([16, 32]), st.integers(1, 2**31 - 1))
def test_a_sound_charter_never_overflows_its_ring(n: int, width: int, max_weight: int) -> None:
    policy = Policy(group(n, width=width, max_weight=max_weight))
    sound = not policy.problems
    half = 2 ** (width - 1)
    assert sound == (n * max_weight < half and (width == 32 or max_weight <= 8))
    if sound:
        assert n * policy.quanta < half and policy.quanta >= LEAST_QUANTA


@pytest.mark.parametrize(
    ("count", "terms", "words"),
    [
        (2, {}, "secagg needs at least 3 members and has 2; add 1"),
        (2, {"name": "allreduce"}, "allreduce needs at least 3 members and has 2; add 1"),
        (260, {}, "width 16 leaves 260 members ±126 steps a coordinate, below ±127; set width to 32"),
        (65, {}, "at most 64 members and has 65"),
        (4, {"c": 0}, "c = 0 is out of 1..2 for 4 members"),
        (4, {"c": 3}, "c = 3 is out of 1..2 for 4 members"),
        (4, {"floor": 5}, "floor = 5 is more than the 4 members"),
        (4, {"floor": 2}, "floor = 2 is below ⌊(m+c)/2⌋+1 = 3"),
        (9, {"floor": 4, "c": 3}, "lets a round start in which c = 3 colluders face one honest peer; raise it to 5"),
        (4, {"max_weight": 8192}, "4 members of weight 8192 overflow width 16"),
        (4, {"max_weight": 9}, "max_weight = 9 leaves too few of 16 bits"),
        (4, {"initial_range": 101.0}, "initial_range = 101.0 is outside range_bounds"),
        (4, {"ranges": {"*.bias": 1e-9}}, "the range of '*.bias' = 1e-09 is outside range_bounds"),
        (4, {"range_bounds": (2.0, 1.0)}, "range_bounds = [2.0, 1.0] has its lower bound first above its upper one"),
        (4, {"rule": "krum"}, "only the sum, so the robust rule 'krum' on it would silently be the mean"),
        (4, {"rule": "Trimmed_Mean"}, "secagg reveals only the sum"),
        (4, {"rule": "median", "name": "allreduce"}, "under allreduce a peer has one slice of the updates"),
        (4, {"rule": "median"}, 'or name = "mesh" where all members may see all updates'),
        (4, {"rule": "medina", "name": "mesh"}, "there is no rule 'medina'; did you mean 'median'?"),
        (4, {"rule": "smea", "name": "mesh"}, "does not promise the same bits on every machine"),
        (4, {"rule": "fltrust", "name": "mesh"}, "against each peer's own reference"),
        (4, {"rule": "bulyan", "name": "mesh"}, "with f = 1 that is 7 updates, and there are 3; lower f to 0"),
        (9, {"rule": "bulyan", "name": "mesh"}, "f is c of the charter, and as few as 4 updates may count in a round"),
        (5, {"name": "mesh", "c": 2}, "a round of 5 members, as 4 may end it; lower c to 1 or add 1"),
        (7, {"name": "mesh", "c": 2, "floor": 5}, "may count, and c = 2 liars need 5 against them; raise floor to 6"),
        (4, {"name": "mesh", "max_weight": 2}, "a weight is what a peer says of itself"),
        (4, {"name": "mesh", "backup": True}, "backup = true is for slices"),
        (4, {"name": "mesh", "challenges": 1}, "needs the beacon that secagg deals, and mesh deals none"),
        (4, {"rule": "Krum", "name": "mesh"}, "'Krum' is another; did you mean 'krum'?"),
        (4, {"rule": "nnm + trimmed-mean", "name": "mesh"}, "did you mean 'nnm+trimmed_mean'?"),
        (4, {"rule": "Mean"}, "a charter has one spelling for a rule, and 'Mean' is another; did you mean 'mean'?"),
        (4, {"rule": "maen"}, "there is no rule 'maen'; did you mean 'mean'?"),
        (4, {"name": "ckks"}, "publishing a CKKS sum at full precision gives the secret key away"),
        (4, {"name": "CKKS"}, "choose secagg, allreduce, mesh, bucketed or shamir-gram"),
        (4, {"name": "paillier"}, "homomorphic encryption ('paillier') is not in this release; choose secagg"),
        (4, {"name": "shamir_gram"}, "there is no protocol 'shamir_gram'; did you mean 'shamir-gram'?"),
        (4, {"name": "segagg"}, "there is no protocol 'segagg'; did you mean 'secagg'?"),
        (4, {"name": "all-reduce"}, "did you mean 'allreduce'?"),
        (4, {"name": "fedavg"}, "no protocol 'fedavg'; choose secagg, allreduce, mesh, bucketed or shamir-gram"),
    ],
)  # fmt: skip
def test_an_unsound_choice_is_refused_with_its_mend(count: int, terms: dict[str, Any], words: str) -> None:
    told = refusal(Policy(group(count, **terms)).check)
    assert words in told
    assert told.startswith("charter.toml")


def test_all_unsound_choices_are_told_together() -> None:
    charter = group(4, name="secag", c=3, floor=9, rule="krum", max_weight=99_999, initial_range=1e9)
    assert len(Policy(charter).problems) == 6
    assert refusal(Policy(charter).check).startswith("charter.toml has 6 problems:\n  1. ")


# ── the rooms ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_checkouts_room_wins_over_a_stale_copy_and_the_copy_serves_alone(tmp_path: Path) -> None:
    package = tmp_path / "src" / "decentra"
    (package / "_data" / "specs").mkdir(parents=True)
    assert locate("specs", package) == package / "_data" / "specs"
    (tmp_path / "specs").mkdir()
    assert locate("specs", package) == package / "_data" / "specs", "a folder that happens to be there is no checkout"
    (tmp_path / "pyproject.toml").touch()
    assert locate("specs", package) == tmp_path / "specs"


def test_a_room_that_is_not_there_is_said() -> None:
    assert "lacks its 'kitchen' folder" in refusal(lambda: locate("kitchen"))


def test_an_id_is_the_first_thing_people_compare() -> None:
    assert MEMBERS[0].label == f"'peer-0' ({IDENTITIES[0].id})"
    assert str(PeerId(bytes(32))) == "00000000"
