"""Loads and checks the published specs: ``specs/<protocol>/spec.toml``.

A spec is data: messages with typed fields, phases, clauses. The wire codec, the role checks at run time and the
auditor's generic rules all come from what is loaded here, so there is one text to change and one to read.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from decentra.data import locate
from decentra.errors import LocalError

_SCALARS = {"hash": 32, "peer": 32, "key": 32, "share": 32, "statement": 137}
_FIELD = re.compile(r"(?P<name>[a-z]+)(?:\[(?P<inner>.+)\])?(?:<=(?P<cap>0|[1-9][0-9]*))?")
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_SPEC_NAME = re.compile(r"[a-z][a-z0-9_]*(-[a-z0-9_]+)*")
_CLAUSE = re.compile(r"[A-Z]{2}-[1-9][0-9]*")
_ONCE = frozenset(
    ("round", "view", "topic", "receiver", "session", "slice", "part", "list", "author", "bucket", "pair")
)

KIND_BYTES = 48
"""The longest kind that an entry can carry."""

LARGEST = (1 << 63) - 1
"""The largest number that a field or an entry can carry."""


@dataclass(frozen=True)
class FieldType:
    """One field's type: ``hash``, ``peer``, ``key``, ``share``, ``statement``, ``uint<=N``, ``bytes<=N``, ``text<=N``,
    ``entry``, ``list[T]<=N`` or ``map[peer,T]<=N``. ``cap`` is a length, a count or a largest value."""

    name: str
    cap: int
    inner: FieldType | None = None

    @property
    def cites(self) -> bool:
        """Whether a value of this type can hold entries."""
        return self.name == "entry" or (self.inner is not None and self.inner.cites)

    @classmethod
    def parse(cls, text: str) -> FieldType:
        """The type that a spec writes as ``text``. Raises LocalError where it writes none."""
        match = _FIELD.fullmatch(text.replace(" ", ""))
        if match is None:
            raise LocalError(f"spec: {text!r} is no field type")
        name, inner, cap = match["name"], match["inner"], match["cap"]
        if name in _SCALARS and inner is None and cap is None:
            return cls(name, _SCALARS[name])
        if name == "entry" and inner is None and cap is None:
            return cls(name, 0)
        if cap is not None and (len(cap) > 19 or int(cap) > LARGEST):
            raise LocalError(f"spec: {text!r} is beyond {LARGEST}, the largest number that a field can carry")
        if name in ("uint", "bytes", "text") and inner is None and cap is not None:
            return cls(name, int(cap))
        if name == "list" and inner is not None and cap is not None:
            return cls(name, int(cap), cls.parse(inner))
        if name == "map" and inner is not None and cap is not None and inner.startswith("peer,"):
            return cls(name, int(cap), cls.parse(inner.removeprefix("peer,")))
        raise LocalError(f"spec: {text!r} is no field type")


@dataclass(frozen=True)
class MessageSpec:
    """One message: its kind on the wire (``secagg.deal``), who sends it, in which phase, how often, and its fields.

    A ``datagram`` is no entry: it has no phase, is sent at any time, and no log keeps anything of it.
    """

    kind: str
    sender: str
    phase: str
    once: str
    log_body: bool
    blob: bool
    fields: tuple[tuple[str, FieldType], ...]
    datagram: bool = False


@dataclass(frozen=True)
class Clause:
    """One sentence that a peer can be held to; ``model`` names the model's invariant, else ``unmodelled`` says why."""

    id: str
    says: str
    rule: str
    model: str | None
    unmodelled: str | None


@dataclass(frozen=True)
class Spec:
    """A protocol's spec, with the messages and clauses of the specs it uses. ``source`` is the text of the files: its
    own, then of those in ``uses`` in their order, a zero byte between; a session's name hashes it."""

    name: str
    version: int
    says: str
    uses: tuple[str, ...]
    params: Mapping[str, str]
    roles: tuple[str, ...]
    phases: tuple[tuple[str, str], ...]
    messages: Mapping[str, MessageSpec]
    clauses: Mapping[str, Clause]
    source: bytes


def _table(raw: object, where: str) -> dict[str, object]:
    if not isinstance(raw, dict):
        raise LocalError(f"spec: {where} must be a table")
    return raw


def _text(table: Mapping[str, object], key: str, where: str) -> str:
    value = table.get(key)
    if not isinstance(value, str):
        raise LocalError(f"spec: {where} needs a text {key!r}")
    return value


def _message(name: str, short: str, raw: object, roles: frozenset[str], phases: frozenset[str]) -> MessageSpec:
    where = f"[message.{short}] of {name}"
    table = _table(raw, where)
    sender = _text(table, "from", where)
    if _NAME.fullmatch(short) is None or len(f"{name}.{short}") > KIND_BYTES:
        raise LocalError(f"spec: {where} needs a name of small letters, with the spec's at most {KIND_BYTES} bytes")
    fields = _table(table.get("fields"), f"{where}: fields")
    parsed = tuple((key, FieldType.parse(_text(fields, key, where))) for key in fields)
    if "carried" in table:
        if sender not in roles or table["carried"] != "datagram" or table.keys() & {"phase", "once", "log", "blob"}:
            raise LocalError(f"spec: {where} is carried as a 'datagram', of a role, with no phase, once, log or blob")
        return MessageSpec(f"{name}.{short}", sender, "any", "any", False, False, parsed, datagram=True)
    phase, log = _text(table, "phase", where), _text(table, "log", where)
    if sender not in roles or (phase != "any" and phase not in phases) or log not in ("body", "hash"):
        raise LocalError(f"spec: {where} names a role, a phase or a log that the spec lacks")
    once = _text(table, "once", where)
    if once not in _ONCE:
        raise LocalError(f"spec: {where} is sent once a {once!r}, which is none of {', '.join(sorted(_ONCE))}")
    return MessageSpec(f"{name}.{short}", sender, phase, once, log == "body", table.get("blob") is True, parsed)


def _clause(clause_id: str, raw: object) -> Clause:
    where = f"[clause.{clause_id}]"
    table = _table(raw, where)
    if _CLAUSE.fullmatch(clause_id) is None:
        raise LocalError(f"spec: {where} needs an id of two capitals and a number, such as SA-3")
    model, unmodelled = table.get("model"), table.get("unmodelled")
    if (model is None) == (unmodelled is None):
        raise LocalError(f"spec: {where} needs a model's invariant, or a reason in 'unmodelled', and not both")
    return Clause(
        clause_id,
        _text(table, "says", where),
        _text(table, "rule", where),
        None if model is None else _text(table, "model", where),
        None if unmodelled is None else _text(table, "unmodelled", where),
    )


def parse(source: bytes) -> Spec:
    """Read one ``spec.toml`` by itself, without the specs that it uses.

    Raises:
        LocalError: the file is not TOML, or breaks the form of a spec; the sentence names the place.
    """
    try:
        raw = tomllib.loads(source.decode())
    except (ValueError, RecursionError) as error:
        raise LocalError(f"spec: not readable as TOML: {error}") from error
    head = _table(raw.get("protocol"), "[protocol]")
    name, version = _text(head, "name", "[protocol]"), head.get("version")
    uses = head.get("uses", [])
    if type(version) is not int or not isinstance(uses, list) or not all(isinstance(used, str) for used in uses):
        raise LocalError("spec: [protocol] needs a whole number 'version', and 'uses' must be a list of names")
    if _SPEC_NAME.fullmatch(name) is None:
        raise LocalError(f"spec: [protocol] needs a name of small letters, not {name!r}")
    phases = raw.get("phase", [])
    if not isinstance(phases, list):
        raise LocalError("spec: [[phase]] must be a list")
    named = tuple(
        (_text(_table(phase, "[[phase]]"), "name", "[[phase]]"), _text(phase, "opens", "[[phase]]")) for phase in phases
    )
    roles = _table(raw.get("roles", {}), "[roles]")
    names = frozenset(phase for phase, _ in named)
    if len(names) != len(named):
        raise LocalError(f"spec: two phases of {name} have one name")
    messages = {
        f"{name}.{short}": _message(name, short, message, frozenset(roles), names)
        for short, message in _table(raw.get("message", {}), "[message]").items()
    }
    clauses = {key: _clause(key, clause) for key, clause in _table(raw.get("clause", {}), "[clause]").items()}
    params = {key: str(value) for key, value in _table(raw.get("params", {}), "[params]").items()}
    says = _text(head, "says", "[protocol]")
    return Spec(name, version, says, tuple(uses), params, tuple(roles), named, messages, clauses, source)


@cache
def load(name: str, room: Path | None = None) -> Spec:
    """The spec of a protocol with every message and clause of the specs that it uses.

    Args:
        name: the protocol's name, such as ``secagg``.
        room: the folder that holds one folder a spec; the published ones by default.

    Raises:
        LocalError: there is no such spec, or it breaks the form.
    """
    return _load(name, locate("specs") if room is None else room, ())


def _load(name: str, folder: Path, above: tuple[str, ...]) -> Spec:
    if name in above:
        raise LocalError(f"spec: {' uses '.join((*above, name))}: a spec can't use itself")
    path = folder / name / "spec.toml"
    if not path.is_file():
        known = sorted(entry.parent.name for entry in folder.glob("*/spec.toml"))
        raise LocalError(f"there is no spec named {name!r}; there are {', '.join(known)}")
    spec = parse(path.read_bytes())
    if spec.name != name:
        raise LocalError(f"spec: the folder {name!r} holds the spec of {spec.name!r}")
    messages, clauses, source = dict(spec.messages), dict(spec.clauses), spec.source
    for used in spec.uses:
        other = _load(used, folder, (*above, name))
        if twice := [key for key in other.clauses if clauses.get(key, other.clauses[key]) != other.clauses[key]]:
            raise LocalError(f"spec: {name} and {used} both define the clause {twice[0]}; give one of them another id")
        messages |= other.messages
        clauses |= other.clauses
        source += b"\0" + other.source
    return Spec(
        name, spec.version, spec.says, spec.uses, spec.params, spec.roles, spec.phases, messages, clauses, source
    )
