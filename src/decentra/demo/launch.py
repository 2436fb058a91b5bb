"""``decentra demo``: real processes, private texts, one model, and a check that no update was seen.

Each process is started as ``decentra run`` starts it, from a folder of its own; addresses are in ``decentra.toml``
only. The launcher reads what they tell, draws it, and judges the run at its end.
"""

from __future__ import annotations

import json
import re
import resource
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

from decentra.audit import Verdict, audit
from decentra.charter.charter import Charter
from decentra.charter.policy import MESH, ROBUST, SHARED
from decentra.crypto.keys import Identity
from decentra.demo import leak
from decentra.demo.figures import gained, held_out
from decentra.demo.lies import HIDING, Terms, terms
from decentra.demo.processes import Processes, Told
from decentra.demo.screen import Screen, summary_lines
from decentra.demo.task import Recipe, recipe
from decentra.errors import LocalError
from decentra.groups import fresh_identities, held_ports, write_folder
from decentra.simulation.group import charter_for

PHASE_DEADLINE = 10.0
"""Seconds: a peer that is killed costs its round about as many, or nearly twice where it was soon to propose. On two
cores a round in which nobody stops takes about one second."""

VICTIM = 2
"""The third peer is killed."""

LEAST_ROUNDS = 8
"""With fewer a peer that was killed in the first third may not be back before the end: it misses the round it was
killed in and one or two while it starts; one more tells it that the group trains already, and a slow machine may cost
it another."""


@dataclass(frozen=True)
class Options:
    """What was asked for, and whose texts it takes."""

    model: str
    silos: tuple[str, ...]
    rounds: int
    terms: Terms
    seed: int
    compare: bool
    kill: bool
    out: Path

    @property
    def liars(self) -> tuple[int, ...]:
        """Who lies, by number: the last ones."""
        return tuple(range(len(self.silos)))[len(self.silos) - self.terms.f :]


def main(
    *,
    peers: int,
    rounds: int | None,
    protocol: str | None,
    seed: int,
    compare: bool,
    out: Path,
    as_json: bool,
    model: str = "bytes",
    kill: bool | None = None,
    rule: str | None = None,
    attack: str | None = None,
    f: int | None = None,
) -> int:
    """Run the demo; see ``decentra demo --help``. With ``kill=None`` a peer is killed where that is possible.

    Without ``rounds`` it takes as many as the model's recipe says, half as many on shares. With an attack, the
    group trains under the mean first, in a folder within ``out``, to show what the rule is good for; nobody is killed
    then.

    Returns:
        0 if every peer came through, all hold the same parameters, the leak check says what it must, the audit finds no
        violation, and who was killed came back; 130 after Ctrl-C and 143 after SIGTERM, once every peer has ended.

    Raises:
        LocalError: an option is wrong, the folder is in use, or what the model needs is not installed.
    """
    began = time.monotonic()
    made = recipe(model)
    if rounds is None:  # shares are 62 bytes a coordinate, all of which are searched for updates in the end
        rounds = made.rounds if protocol != SHARED else max(4, made.rounds // 2)
    if rounds < 1:
        raise LocalError(f"--rounds must be 1 or more, not {rounds}")
    if attack is not None and (model != "bytes" or kill):
        wrong = "--kill" if kill else "--model"
        raise LocalError(f"with --attack the model is bytes, and nobody is killed; leave {wrong} out")
    silos = made.silos(peers)
    asked = terms(protocol, rule, attack, f, peers)
    identities = fresh_identities(len(silos))
    charter = _charter(identities, asked, made)
    dies = asked.attack is None and _may_kill(kill, charter, rounds)
    options = Options(model, silos, rounds, asked, seed, compare, dies, out)
    plain = _plain(options)
    _clear(out)
    try:
        under_mean = None
        if plain is not None:
            if not as_json:
                first = "the mean" if asked.protocol == MESH else "the mean of secagg"
                print(f"first under {first}, then under {asked.rule} in {asked.protocol}", file=sys.stderr)
            _clear(plain.out)
            told = _run(plain, identities, _charter(identities, plain.terms, made), as_json)
            under_mean = _judge(told, plain, began)
        told = _run(options, identities, charter, as_json)
        result = _judge(told, options, began) | {"under_mean": under_mean}
        result["ok"] = result["ok"] and (under_mean is None or under_mean["ok"])
    except KeyboardInterrupt as interrupt:
        if not as_json:
            print("interrupted; all peers have ended", file=sys.stderr)
        return 128 + (signal.SIGTERM if isinstance(interrupt, _Terminated) else signal.SIGINT)
    finally:
        _forget(out)
        if plain is not None:
            _forget(plain.out)
    (out / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result) if as_json else "\n".join(summary_lines(result, out)))
    return 0 if result["ok"] else 1


# ── before ───────────────────────────────────────────────────────────────────────────────────────────────────────────


_OURS = re.compile(r"held-out|weights|result\.json|under-mean|peer-[0-9]+")


def _plain(options: Options) -> Options | None:
    """The same under the mean, in a folder of its own, where liars show what that comes to."""
    if options.terms.attack is None or options.terms.rule == "mean":
        return None
    mean = replace(options.terms, rule="mean")
    if options.terms.protocol in HIDING:
        mean = replace(mean, protocol="secagg", bucket=0)
    return replace(options, terms=mean, compare=False, out=options.out / "under-mean")


def _clear(out: Path) -> None:
    """Make the folder; an earlier demo's is emptied, anything else is left alone."""
    if out.is_dir():
        found = sorted(out.iterdir())
        strange = [path.name for path in found if not _OURS.fullmatch(path.name)]
        if strange or (found and not (out / "held-out").is_dir()):
            raise LocalError(
                f"{out} holds other files than an earlier demo's ({(strange or [found[0].name])[0]}); "
                "choose another folder with --out"
            )
        for path in found:
            path.unlink() if path.is_symlink() or path.is_file() else shutil.rmtree(path)
    elif out.exists():
        raise LocalError(f"{out} is a file; choose another folder with --out")
    try:
        (out / "held-out").mkdir(parents=True)
    except OSError as error:
        raise LocalError(f"{out} can't be made ({error.strerror}); choose another folder with --out") from error


def _charter(identities: Sequence[Identity], asked: Terms, made: Recipe) -> Charter:
    changes: dict[str, object] = {"protocol__rule": asked.rule} if asked.protocol in ROBUST else {}
    if asked.bucket:
        changes["buckets__size"] = asked.bucket
    if asked.f:
        changes["protocol__c"] = asked.f
    return charter_for(
        identities,
        asked.protocol,
        template=None,
        group__name="decentra demo",
        **changes,
        protocol__width=32 if asked.protocol == SHARED else 16,
        protocol__initial_range=made.initial_range,
        rounds__ready_deadline=made.ready_deadline,
        rounds__phase_deadline=PHASE_DEADLINE,
        training__steps=made.local_steps,
    )


def _may_kill(wanted: bool | None, charter: Charter, rounds: int) -> bool:
    """Whether a peer is killed: as asked for, or else wherever the others can go on without it and it can come back."""
    peers, least = len(charter.members), charter.roster_floor
    problem = ""
    if charter.buckets is not None:
        problem = "a peer that stops takes its bucket along, of which there are just enough"
    elif charter.protocol.name == SHARED:
        problem = "a peer that stops while the weighted sum is opened takes a slice of it along, and with it the round"
    elif peers - 1 < least:
        problem = f"with {peers} peers none may be killed, since a round takes {least}; choose more --peers"
    elif rounds < LEAST_ROUNDS:
        problem = f"in {rounds} rounds a killed peer may not be back in time; choose --rounds {LEAST_ROUNDS} or more"
    if wanted and problem:
        raise LocalError(f"{problem}, or leave --kill out")
    return wanted is not False and not problem


def _prepare(options: Options, identities: Sequence[Identity], charter: Charter, ports: Sequence[int]) -> list[Told]:
    """One folder a peer, with keys, a charter that all have signed, and everybody's address."""
    recipe(options.model).publish(options.out, options.silos)
    told = []
    for index, (identity, silo) in enumerate(zip(identities, options.silos, strict=True)):
        folder = write_folder(options.out / f"peer-{index}", identity, charter, ports, index)
        command = _command(folder.path, silo, index, options)
        told.append(Told(f"peer-{index}", str(identity.id), silo, folder.path, command))
    return told


def _command(folder: Path, silo: str, index: int, options: Options) -> list[str]:
    """The command line of one peer: ``decentra run`` on the demo's program. Every peer starts from its own model."""
    program = Path(__file__).with_name("program.py")
    words = ["--model", options.model, "--silo", silo, "--public", str(options.out), "--rounds", str(options.rounds)]
    words += ["--seed", str(_seed(options, index)), "--witness", str(folder / "witness")]
    words += ["--compare"] * options.compare
    if index in options.liars:
        words += ["--attack", str(options.terms.attack), "--rule", options.terms.rule, "--liars", str(options.terms.f)]
        honest = options.silos[: len(options.silos) - options.terms.f]
        words += ["--honest", *(f"{silo}={_seed(options, place)}" for place, silo in enumerate(honest))]
    return [sys.executable, "-m", "decentra.cli", "run", str(program), "--state", str(folder), "--", *words]


def _seed(options: Options, index: int) -> int:
    """Of a peer's model and batches."""
    return 1000 * options.seed + index


# ── during ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _run(options: Options, identities: Sequence[Identity], charter: Charter, as_json: bool) -> list[Told]:
    """Start everybody and follow them to their end."""
    with _terminable(), held_ports(len(identities)) as ports:
        told = _prepare(options, identities, charter, ports)
        victim = told[VICTIM] if options.kill else None
        processes = Processes(told, victim, 1 + options.rounds // 3)  # joining is round 1
        live, say = sys.stdout.isatty() and not as_json, not as_json
        with Screen(told, options.rounds, live=live, say=say) as screen, processes:
            processes.follow(screen.show)
    return told


class _Terminated(KeyboardInterrupt):
    """SIGTERM arrived."""


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM interrupts as Ctrl-C does; a second one ends this process at once."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise _Terminated

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


# ── after ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _judge(told: Sequence[Told], options: Options, began: float) -> dict[str, Any]:
    """Put the result together: losses, hashes, and the leak check over everybody who came through."""
    through = [one for one in told if one.done and one.exit_code == 0]
    hashes = {one.progress.get("parameters") for one in through}
    found, audited = _leak([one.witness for one in through], options), _audit([one.folder for one in told])
    equal = len(hashes) == 1 and len(through) == len(told)
    as_expected = found is not None and found.planted == len(through)
    if found is not None:
        as_expected = as_expected and (found.found == 0) == (options.terms.protocol in HIDING)
    completed = all(one.round == options.rounds for one in through)
    killed = next((one for one in told if one.killed_in is not None), None)
    returned = killed is not None and killed.back_in is not None
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {
        "model": options.model,
        "peers": [one.record() for one in told],
        "held_out": held_out(told),
        "gained": gained(told),
        "rounds": options.rounds,
        "protocol": options.terms.protocol,
        "rule": options.terms.rule,
        "attack": None
        if options.terms.attack is None
        else {"name": options.terms.attack, "liars": [told[index].name for index in options.liars]},
        "seed": options.seed,
        "equal_parameters": equal,
        "leak": None if found is None else asdict(found),
        "audit": audited,
        "killed": None
        if killed is None
        else {"peer": killed.name, "round": killed.killed_in, "back_in_round": killed.back_in},
        "lost": [one.name for one in told if one not in through],
        "wall_seconds": round(time.monotonic() - began, 1),
        "cpu_seconds": round(sum(one.ru_utime + one.ru_stime for one in usage), 1),
        "ok": equal and as_expected and completed and returned == options.kill and audited["verdict"] != "violation",
    }


def _leak(witnesses: Sequence[Path], options: Options) -> leak.Leak | None:
    """The leak check; None where there is nothing that it could judge: too few peers, or no update that ever left."""
    if len(witnesses) < 2:
        return None
    try:
        return leak.check(witnesses, shared=options.terms.protocol == SHARED)
    except LocalError as error:
        print(f"the leak check is not possible: {error}", file=sys.stderr)
        return None


def _audit(folders: Sequence[Path]) -> dict[str, Any]:
    """What the peers' transcripts say of the run, as anyone could tell from them."""
    try:
        report = audit(folders)
    except LocalError as error:
        print(f"the audit is not possible: {error}", file=sys.stderr)
        return {"verdict": Verdict.UNDECIDED.value, "entries": 0, "missing": 0, "violations": []}
    return {
        "verdict": report.verdict.value,
        "entries": sum(each.entries for each in report.sessions),
        "missing": len(report.missing),
        "violations": [f"{one.who} broke {one.clause}: it {one.says}" for one in report.violations],
    }


def _forget(out: Path) -> None:
    """The captured updates and traffic were for the leak check alone, and weights for the processes."""
    for folder in (*out.glob("peer-*/witness"), out / "weights"):
        shutil.rmtree(folder, ignore_errors=True)
