"""The bond: the specs on one side, messages, transitions, machines, model and READMEs on the other, say the same."""

from __future__ import annotations

import ast
import inspect
import re
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from beside import SPECS, program
from decentra import spec
from decentra.audit.rules import BOOKS, PARTLY, UNTOLD
from decentra.data import locate
from decentra.errors import LocalError
from decentra.gossip import messages as membership
from decentra.protocols.allreduce import messages as allreduce
from decentra.protocols.allreduce.transitions import TRANSITIONS as ALLREDUCE
from decentra.protocols.bucketed import messages as bucketed
from decentra.protocols.bucketed.transitions import TRANSITIONS as BUCKETED
from decentra.protocols.catalogue import machine, registry
from decentra.protocols.certify import messages as certify
from decentra.protocols.mesh import messages as mesh
from decentra.protocols.mesh.transitions import TRANSITIONS as MESH
from decentra.protocols.rendezvous import messages as rendezvous
from decentra.protocols.secagg import messages as secagg
from decentra.protocols.secagg.transitions import TRANSITIONS as SECAGG
from decentra.protocols.shamir_gram import messages as shamir_gram
from decentra.protocols.shamir_gram.transitions import TRANSITIONS as SHAMIR_GRAM
from decentra.spec import FieldType, MessageSpec
from decentra.wire import codec, entry
from decentra.wire import message as wire
from decentra.wire.message import Message, Registry

ROOT = Path(__file__).resolve().parent.parent
GOSSIP = ROOT / "src" / "decentra" / "gossip"

MESSAGES = {
    "rendezvous": rendezvous.MESSAGES,
    "certify": certify.MESSAGES,
    "membership": membership.MESSAGES,
    "allreduce": allreduce.MESSAGES,
    "bucketed": bucketed.MESSAGES,
    "mesh": mesh.MESSAGES,
    "secagg": secagg.MESSAGES,
    "shamir-gram": shamir_gram.MESSAGES,
}
TRANSITIONS = {
    "allreduce": ALLREDUCE,
    "bucketed": BUCKETED,
    "mesh": MESH,
    "secagg": SECAGG,
    "shamir-gram": SHAMIR_GRAM,
}

GENERIC = {"SCHEMA", "SESSION", "SIGNATURE", "ROLE", "EQUIVOCATION", "REPLAY", "CHARTER", "DIGEST"}
"""What breaks the wire rather than a protocol; specs/wire says what each means."""


TABLES = program(SPECS / "make_tables.py")
MODELS = {name: program(SPECS / name / "model.py") for name in ("secagg", "bucketed", "shamir-gram")}


def own(name: str) -> spec.Spec:
    return spec.parse((SPECS / name / "spec.toml").read_bytes())


# ── messages ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_spec_has_its_messages_and_its_readme() -> None:
    assert sorted(MESSAGES) == sorted(TABLES.PROTOCOLS)
    assert all((SPECS / name / "README.md").is_file() for name in MESSAGES)


@pytest.mark.parametrize("name", MESSAGES)
def test_a_class_for_every_message_with_the_spec_s_fields_in_its_order(name: str) -> None:
    specified = own(name).messages
    assert [cls.kind for cls in MESSAGES[name]] == list(specified)
    for cls in MESSAGES[name]:
        assert [field.name for field in fields(cls)] == [field for field, _ in specified[cls.kind].fields]


def annotation(field: FieldType) -> str:
    """How a message class says a field's type."""
    match field.name:
        case "uint":
            return "int"
        case "text":
            return "str"
        case "peer":
            return "PeerId"
        case "entry":
            return "Verified"
        case "list" if field.inner is not None:
            return f"tuple[{annotation(field.inner)}, ...]"
        case "map" if field.inner is not None:
            return f"tuple[tuple[PeerId, {annotation(field.inner)}], ...]"
        case _:
            return "bytes"


@pytest.mark.parametrize("name", MESSAGES)
def test_the_fields_of_a_class_have_the_types_that_the_codec_gives(name: str) -> None:
    for cls in MESSAGES[name]:
        meant = own(name).messages[cls.kind].fields
        assert [field.type for field in fields(cls)] == [annotation(field) for _, field in meant]


@pytest.mark.parametrize("protocol", TRANSITIONS)
def test_a_protocol_speaks_exactly_the_messages_of_its_specs(protocol: str) -> None:
    loaded = spec.load(protocol)
    assert set(registry(protocol).codec.kinds) == set(loaded.messages)
    assert set(loaded.messages) == {cls.kind for name in (protocol, *loaded.uses) for cls in MESSAGES[name]}
    assert all(cls.kind.startswith(f"{name}.") for name in (protocol, *loaded.uses) for cls in MESSAGES[name])


def test_a_registry_refuses_a_class_whose_fields_are_not_the_spec_s() -> None:
    sound = MessageSpec("rendezvous.want", "peer", "any", "round", True, False, (("view", FieldType("uint", 1)),))
    with pytest.raises(LocalError, match="Want has the fields"):
        Registry({"rendezvous.want": sound}, (rendezvous.Want,))
    with pytest.raises(LocalError, match="without a class"):
        Registry({}, (rendezvous.Want,))


# ── phases ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("protocol", TRANSITIONS)
def test_the_transitions_walk_through_the_spec_s_phases_in_order_and_open_each_as_it_says(protocol: str) -> None:
    """A round enters the protocol from rendezvous, and ends when the outcome is certified."""
    walked: list[tuple[str, str]] = []
    phase = "ready"
    edges = dict(TRANSITIONS[protocol])
    while phase != "done":
        ((key, after),) = [(key, after) for key, after in edges.items() if key[0] == phase]
        del edges[key]
        walked.append((after, key[1]))
        phase = after
    assert not edges
    assert tuple(walked[:-1]) == spec.load(protocol).phases
    assert walked[-1] == ("done", "certificate(verdict)" if protocol == "secagg" else "certificate(outcome)")


@pytest.mark.parametrize("protocol", TRANSITIONS)
def test_a_machine_walks_the_transitions_that_are_compared_here(protocol: str) -> None:
    cls: Any = machine(protocol)
    assert cls.protocol == protocol
    assert cls.transitions is TRANSITIONS[protocol]
    assert set(cls.reads) == {phase for phase, _ in TRANSITIONS[protocol]} - {"ready"}
    for phase, names in cls.reads.items():
        sent = {f"{protocol}.{name}" for name in names}
        assert sent <= {message.kind for message in MESSAGES[protocol]}
        own_phase = {kind for kind, message in own(protocol).messages.items() if message.phase == phase}
        assert own_phase <= sent, "a phase reads the messages that the spec has it send"
    sources = [inspect.getsource(one) for one in cls.__mro__ if one.__module__.startswith("decentra.")]
    walks = [call.args[0] for source in sources for call in calls(source, "go")]
    said = {why.value for why in walks if isinstance(why, ast.Constant)}
    said |= {getattr(cls, why.attr).fget(cls) for why in walks if isinstance(why, ast.Attribute)}
    assert {why for _, why in TRANSITIONS[protocol]} == said


def calls(source: str, name: str) -> list[ast.Call]:
    """Every call of a function or method of this name."""
    found = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [call for call in found if getattr(call.func, "id", getattr(call.func, "attr", None)) == name and call.args]


# ── clauses ──────────────────────────────────────────────────────────────────────────────────────────────────────────

CLAUSES = {clause: name for name in MESSAGES for clause in own(name).clauses}
RAISED = TABLES.clause_literals(*TABLES.MACHINES)


def test_every_clause_that_a_machine_raises_is_in_a_spec() -> None:
    assert set(RAISED) <= set(CLAUSES)


@pytest.mark.parametrize("clause", CLAUSES)
def test_every_clause_is_raised_by_a_machine_or_is_listed_with_the_reason_why_not(clause: str) -> None:
    assert (clause in RAISED) != (clause in TABLES.NOT_RAISED), f"{clause}: see NOT_RAISED in specs/make_tables.py"


def test_every_blame_names_a_clause_of_a_spec_or_of_the_wire() -> None:
    """The second argument of RemoteError is a clause's id, a clause that a class names, or one that a peer reports."""
    blamed = 0
    for path in sorted((ROOT / "src" / "decentra").rglob("*.py")):
        for call in calls(path.read_text("utf-8"), "RemoteError"):
            clause = call.args[1]
            blamed += 1
            if isinstance(clause, ast.Constant):
                assert clause.value in CLAUSES or clause.value in GENERIC, f"{path.name}:{clause.lineno}"
            else:
                named = clause.attr if isinstance(clause, ast.Attribute) else getattr(clause, "id", "")
                assert re.fullmatch(r"(.*_)?clause", named), f"{path.name}:{clause.lineno}"
    assert blamed > 30


@pytest.mark.parametrize("protocol", TRANSITIONS)
def test_the_clauses_that_a_machine_s_class_names_are_its_own_spec_s(protocol: str) -> None:
    named = {name: value for name, value in vars(machine(protocol)).items() if name.endswith("_clause")}
    assert named
    assert set(named.values()) <= set(own(protocol).clauses)


def test_a_clause_id_belongs_to_one_spec() -> None:
    assert len(CLAUSES) == sum(len(own(name).clauses) for name in MESSAGES)
    assert all(list(own(name).clauses) == sorted(own(name).clauses, key=lambda one: int(one[3:])) for name in MESSAGES)


# ── the model ────────────────────────────────────────────────────────────────────────────────────────────────────────

INVARIANTS = {one.name: (name, one.clauses) for name, model in MODELS.items() for one in model.INVARIANTS}
MODELLED = [(clause, name) for clause, name in CLAUSES.items() if own(name).clauses[clause].model is not None]


@pytest.mark.parametrize(("clause", "name"), MODELLED)
def test_a_modelled_clause_names_an_invariant_of_the_model(clause: str, name: str) -> None:
    invariant = own(name).clauses[clause].model
    assert invariant in INVARIANTS
    if name in MODELS:
        assert INVARIANTS[invariant][0] == name and clause in INVARIANTS[invariant][1]


@pytest.mark.parametrize("invariant", INVARIANTS)
def test_an_invariant_stands_for_clauses_that_the_spec_says_are_modelled(invariant: str) -> None:
    name, stood_for = INVARIANTS[invariant]
    clauses = own(name).clauses
    assert stood_for
    assert all(clauses[clause].model is not None for clause in stood_for)


def test_every_invariant_is_named_by_a_clause() -> None:
    named = {own(name).clauses[clause].model for clause, name in MODELLED}
    assert set(INVARIANTS) == named


# ── READMEs ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", TABLES.readmes(), ids=lambda path: path.parent.name)
def test_the_readme_s_tables_are_those_of_the_spec(path: Path) -> None:
    assert path.read_text("utf-8") == TABLES.rendered(path), "run: python specs/make_tables.py"


@pytest.mark.parametrize("path", sorted(SPECS.rglob("*.md")), ids=lambda path: path.relative_to(SPECS).as_posix())
def test_links_lead_to_something_and_tables_are_whole(path: Path) -> None:
    text = path.read_text("utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (path.parent / target).exists(), target
    width = 0
    for line in text.splitlines():
        bars = line.replace("\\|", "").count("|") if line.startswith("|") else 0
        assert bars == width or not (bars and width), line
        width = bars


def test_the_page_about_the_wire_has_the_library_s_numbers_and_ids() -> None:
    text = (SPECS / "wire" / "README.md").read_text("utf-8")
    assert f"| a packed entry | {codec.MAX_ENTRY} bytes | the longest has 358; the shortest {codec.MIN_ENTRY} |" in text
    assert f"| a body | {codec.MAX_BODY:,} bytes |" in text
    assert f"| entries within entries | {wire.MAX_DEPTH} |" in text
    assert f"an array of {entry.FIELDS}" in text.lower()
    assert f"at most {spec.KIND_BYTES} bytes" in text
    assert entry.LABEL == b"decentra/entry/v1\0" and "`decentra/entry/v1`" in text
    assert set(re.findall(r"^\| `([A-Z]+)` \|", text, re.MULTILINE)) == GENERIC
    for place, field in enumerate(field.name for field in fields(entry.Entry)):
        assert f"| {place + 1} | {field} |" in text


# ── the loader ───────────────────────────────────────────────────────────────────────────────────────────────────────

SOUND = """
[protocol]
name = "tiny"
version = 1
says = "Nothing."
[roles.peer]
[[phase]]
name = "only"
opens = "start"
[message.hello]
from = "peer"
phase = "only"
once = "round"
log = "body"
fields = { at = "uint<=9" }
[clause.TI-1]
says = "A peer says hello."
rule = "once"
unmodelled = "too small"
"""

BROKEN = {
    "not TOML": ("[protocol]", "[protocol"),
    "a number that no machine has": ("version = 1", "version = " + "9" * 5000),
    "no head": ("[protocol]", "[other]"),
    "no name": ('name = "tiny"\n', ""),
    "a name with a slash": ('"tiny"', '"../tiny"'),
    "a version in words": ("version = 1", 'version = "one"'),
    "a version that is a truth": ("version = 1", "version = true"),
    "uses that are no list": ("version = 1", 'version = 1\nuses = "certify"'),
    "uses that are no names": ("version = 1", "version = 1\nuses = [1]"),
    "nothing that members learn": ('says = "Nothing."\n', ""),
    "a phase that is no list": ("[[phase]]", "[phase]"),
    "a phase that nothing opens": ('opens = "start"\n', ""),
    "two phases of one name": ("[message.hello]", '[[phase]]\nname = "only"\nopens = "x"\n[message.hello]'),
    "a role that the spec lacks": ('from = "peer"', 'from = "server"'),
    "a phase that the spec lacks": ('phase = "only"', 'phase = "other"'),
    "a log of something else": ('log = "body"', 'log = "all"'),
    "once a moon": ('once = "round"', 'once = "moon"'),
    "a message without fields": ('fields = { at = "uint<=9" }\n', ""),
    "fields that are a list": ('{ at = "uint<=9" }', '["uint<=9"]'),
    "a field type that is a number": ('"uint<=9"', "9"),
    "a field type that is unknown": ('"uint<=9"', '"float"'),
    "a number without a cap": ('"uint<=9"', '"uint"'),
    "a cap beyond what an entry carries": ('"uint<=9"', f'"uint<={1 << 63}"'),
    "a hash with a cap": ('"uint<=9"', '"hash<=9"'),
    "a list of nothing": ('"uint<=9"', '"list[]<=9"'),
    "a list without a cap": ('"uint<=9"', '"list[hash]"'),
    "a map by something else": ('"uint<=9"', '"map[hash,hash]<=9"'),
    "a message in capitals": ("[message.hello]", "[message.Hello]"),
    "a kind that is too long": ("[message.hello]", f"[message.{'h' * 60}]"),
    "a clause without a rule": ('rule = "once"\n', ""),
    "a clause neither modelled nor not": ('unmodelled = "too small"\n', ""),
    "a clause both modelled and not": ('unmodelled = "too small"', 'unmodelled = "too small"\nmodel = "One"'),
    "a clause of another form": ("[clause.TI-1]", "[clause.first]"),
}


def test_the_sound_example_is_read() -> None:
    read = spec.parse(SOUND.encode())
    hello = MessageSpec("tiny.hello", "peer", "only", "round", True, False, (("at", FieldType("uint", 9)),))
    assert read.messages == {"tiny.hello": hello}
    assert read.phases == (("only", "start"),)
    assert list(read.clauses) == ["TI-1"]


@pytest.mark.parametrize("what", BROKEN)
def test_a_spec_is_refused_in_one_sentence_that_has(what: str) -> None:
    old, new = BROKEN[what]
    assert SOUND.count(old) == 1
    with pytest.raises(LocalError, match=r"^spec: ") as caught:
        spec.parse(SOUND.replace(old, new).encode())
    assert "\n" not in str(caught.value)


DATAGRAM = SOUND.replace('phase = "only"\nonce = "round"\nlog = "body"\n', 'carried = "datagram"\n')


def test_a_datagram_is_no_entry() -> None:
    (hello,) = spec.parse(DATAGRAM.encode()).messages.values()
    assert hello.datagram and not hello.log_body and not hello.blob
    assert not any(message.datagram for message in spec.parse(SOUND.encode()).messages.values())
    for twisted in ('"packet"', '"datagram"\nlog = "body"', '"datagram"\nonce = "round"', '"datagram"\nblob = true'):
        with pytest.raises(LocalError, match="is carried as a 'datagram'"):
            spec.parse(DATAGRAM.replace('"datagram"', twisted).encode())


def test_rounds_and_membership_share_no_messages() -> None:
    assert all(message.datagram for message in own("membership").messages.values())
    for protocol in TRANSITIONS:
        assert not any(message.datagram for message in spec.load(protocol).messages.values())


def test_a_spec_that_is_no_text_is_refused() -> None:
    with pytest.raises(LocalError, match="not readable as TOML"):
        spec.parse(b"\xff\xfe")


@given(st.text(max_size=20), st.sampled_from(("{}", "list[{}]<=3", "map[peer,{}]<=3")))
@example("uint<=5\n", "{}")
@example("uint<=٣", "{}")
@example("uint<=007", "{}")
@example("uint<=" + "9" * 5000, "{}")
def test_a_field_type_is_read_or_refused_and_reads_back_as_itself(text: str, around: str) -> None:
    written = around.format(text)
    try:
        read = FieldType.parse(written)
    except LocalError:
        return
    assert type_text(read) == written.replace(" ", "")


def type_text(field: FieldType) -> str:
    match field.name:
        case "list" if field.inner is not None:
            return f"list[{type_text(field.inner)}]<={field.cap}"
        case "map" if field.inner is not None:
            return f"map[peer,{type_text(field.inner)}]<={field.cap}"
        case "uint" | "bytes" | "text":
            return f"{field.name}<={field.cap}"
        case _:
            return field.name


def room(folder: Path, **texts: str) -> Path:
    for name, text in texts.items():
        (folder / name).mkdir()
        (folder / name / "spec.toml").write_text(text, encoding="utf-8")
    return folder


def named(name: str, *uses: str, clause: str = "TI-1", says: str = "A peer says hello.") -> str:
    text = SOUND.replace('"tiny"', f'"{name}"').replace("version = 1", f"version = 1\nuses = {list(uses)}")
    return text.replace("TI-1", clause).replace("A peer says hello.", says)


def test_a_spec_has_the_messages_clauses_and_text_of_those_it_uses(tmp_path: Path) -> None:
    folder = room(tmp_path, low=named("low", clause="LO-1"), high=named("high", "low", clause="HI-1"))
    loaded = spec.load("high", folder)
    assert set(loaded.messages) == {"high.hello", "low.hello"}
    assert set(loaded.clauses) == {"HI-1", "LO-1"}
    texts = [(folder / name / "spec.toml").read_bytes() for name in ("high", "low")]
    assert loaded.source == b"\0".join(texts)


@pytest.mark.parametrize(
    ("name", "texts", "says"),
    [
        ("none", {"tiny": SOUND}, "there is no spec named 'none'; there are tiny"),
        ("other", {"other": SOUND}, "the folder 'other' holds the spec of 'tiny'"),
        ("self", {"self": named("self", "self")}, "self uses self: a spec can't use itself"),
        ("a", {"a": named("a", "b", clause="AA-1"), "b": named("b", "a")}, "a uses b uses a"),
        ("a", {"a": named("a", "b"), "b": named("b", says="Another.")}, "a and b both define the clause TI-1"),
        ("a", {"a": named("a", "missing")}, "there is no spec named 'missing'"),
    ],
)
def test_a_folder_of_specs_is_refused_in_one_sentence(
    tmp_path: Path, name: str, texts: dict[str, str], says: str
) -> None:
    with pytest.raises(LocalError) as caught:
        spec.load(name, room(tmp_path, **texts))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_specs_are_found_where_the_checkout_has_them() -> None:
    assert locate("specs") == SPECS
    with pytest.raises(LocalError, match="there is no spec named 'nothing'"):
        spec.load("nothing")


@pytest.mark.parametrize("cls", [cls for messages in MESSAGES.values() for cls in messages], ids=lambda cls: cls.kind)
def test_every_message_is_frozen(cls: type[Message]) -> None:
    made = object.__new__(cls)
    for name in [field.name for field in fields(cls)] or ["another"]:
        with pytest.raises(FrozenInstanceError):
            setattr(made, name, 1)


@pytest.mark.parametrize("clause", CLAUSES)
def test_every_clause_is_told_from_transcripts_or_it_is_said_why_not(clause: str) -> None:
    told = {one for book in BOOKS.values() for one in book.clauses}
    assert (clause in told) != (clause in UNTOLD), f"{clause}: see UNTOLD in decentra.audit.rules"
    assert clause in told or clause not in PARTLY


def test_nothing_is_said_of_clauses_that_there_are_not() -> None:
    assert set(CLAUSES) >= {*UNTOLD, *PARTLY, *(one for book in BOOKS.values() for one in book.clauses)}
