"""The catalogue of planted bugs: what each breaks, and which schedules look for it.

A schedule is played twice: with the planted machine at every peer, where the clause must be violated, and with the
real one, where nothing may be. ``benches/mutants.py`` searches fresh seeds; ``benches/MUTANTS.md`` keeps the seeds that
the tests play again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import planted
import planted_votes
from decentra.derive import quorum
from decentra.machine.effects import Effect, Send
from decentra.protocols.ballots import Ballots
from decentra.protocols.certify.machine import Certify
from decentra.protocols.secagg.machine import SecAgg
from decentra.protocols.setting import Contribution, Setting
from decentra.simulation.adversaries import ADVERSARIES, _second_proposal, vote_for_all
from decentra.simulation.case import Violation
from decentra.simulation.hazards import Crash, Hazards, Mix, draw, generator
from decentra.simulation.liars import Adversary, Liar
from decentra.simulation.search import applicable
from decentra.simulation.stage import Play, Stage
from decentra.transport.simulated import Faults
from decentra.types import RoundId

Maker = Callable[[Setting, Contribution, RoundId], Ballots]

MESHED = Play("mesh", n=4, c=1, size=8)
FOUR, FIVE, SEVEN = Play(n=4, c=1, size=8), Play(n=5, c=2, size=8), Play(n=7, c=2, size=8)


@dataclass(frozen=True)
class Mutant:
    """A planted bug.

    Attributes:
        name: what the bench calls it.
        clause: under which clause it must be found.
        breaks: what the machine does wrong, in a few words.
        make: gives, for one schedule, what plays every peer's rounds.
        play, mix, adversary: the schedules to look in.
        hazards: what goes wrong instead of what the mix says.
        around: what else is wrong while the schedule is played.
    """

    name: str
    clause: str
    breaks: str
    make: Callable[[], Maker]
    play: Play
    mix: Mix
    adversary: str | None
    hazards: Callable[[int, Play], Hazards] | None = None
    around: Callable[[], AbstractContextManager[None]] = field(default=nullcontext)


def storm(seed: int, play: Play, lying: int = 0) -> Hazards:
    """Every message is late, by up to several views, from some moment of a round on: peers come to know different
    things, and prepare, lock and leave views at different times."""
    rng = generator(seed, "storm")
    calm = Faults(latency=0.001)
    late = Faults(latency=0.001, jitter=rng.choice((4.0, 10.0, 25.0)), drop=rng.choice((0.0, 0.3)))
    edges = {(a, b): late for a in range(play.n) for b in range(play.n) if a != b and rng.random() < 0.7}
    liars = tuple(sorted(rng.sample(range(play.n), lying)))
    return Hazards(calm, edges, 0.005 + 0.01 * rng.random(), liars=liars, within=False)


def storm_of_liars(seed: int, play: Play) -> Hazards:
    """A storm in which c peers lie."""
    return storm(seed, play, play.c)


def too_many_crashes(seed: int, play: Play) -> Hazards:
    """So many peers stop in the middle of a round that nothing can be certified in it; they come back."""
    rng = generator(seed, "too many")
    hit = rng.sample(range(play.n), play.n - quorum(play.n, play.c) + 1)
    return Hazards(
        Faults(latency=0.001, jitter=rng.choice((0.0, 0.05))),
        crashes={peer: (Crash(effect=rng.randrange(20, 60), back=rng.choice((1.0, 20.0))),) for peer in hit},
        within=False,
    )


def grab(liar: Liar, effect: Send) -> Sequence[Effect]:
    """Say that it holds every slice, as soon as it holds its own."""
    message: Any = effect.message
    if not liar.ring.once("grab", liar.me, liar.round):
        return [effect]
    others = [position for position in range(len(liar.roster)) if position != message.slice]
    return [effect, *(replace(effect, message=replace(message, slice=position)) for position in others)]


def propose_another(liar: Liar, effect: Send) -> Sequence[Effect]:
    """Propose survivors that no honest peer would, though holdings give them: who locks on them locks alone."""
    message: Any = effect.message
    return [replace(effect, message=_second_proposal(liar, effect)) if message.topic == "survivors" else effect]


def vague(liar: Liar, effect: Send) -> Sequence[Effect]:
    """Propose the outcome without a result that gives it."""
    message: Any = effect.message
    outcome = message.topic == "outcome" and message.shown
    return [replace(effect, message=replace(message, shown=()) if outcome else message)]


def believe_a_false_sum(liar: Liar, effect: Send) -> Sequence[Effect]:
    """Publish a wrong sum, and go on as if it were right: so the lie comes to be recomputed."""
    message: Any = effect.message
    if not effect.blobs:
        return [effect]
    blob = liar.ring.blob(liar.me, next(iter(effect.blobs.values())).size, 0)
    object.__setattr__(message, "root", blob.root)  # in place, so that its own machine hears the lie as its own word
    liar.honest._totals[message.slice] = blob
    return [replace(effect, blobs=dict.fromkeys(effect.blobs, blob))]


OWN = {
    one.name: one
    for one in (
        Adversary("grabber", "SA-11", "holds every slice at once", {"holding": grab}),
        Adversary("vague-outcome", "ME-7", "proposes an outcome and shows nothing for it", {"propose": vague}),
        Adversary("loner", "CE-4", "proposes what nobody else would, and votes for everything",
                  {"propose": propose_another}, vote_for_all),
        Adversary("stubborn-sum", "SA-8", "publishes a wrong sum and stands by it", {"sum": believe_a_false_sum},
                  spoils="sums"),
    )
}
"""Adversaries that the simulator has not."""


@contextmanager
def staged(mutant: Mutant, seed: int, *, real: bool = False) -> Iterator[Stage]:
    """One of a mutant's schedules, to be played; with ``real`` machines, the same one."""
    maker = mutant.make()
    machines = {} if real else dict.fromkeys(range(mutant.play.n), maker)
    play = mutant.play
    hazards = mutant.hazards(seed, play) if mutant.hazards else draw(seed, mutant.mix, play.n, play.c)
    names = {**ADVERSARIES, **OWN}
    with nullcontext() if real else mutant.around():
        name = mutant.adversary or generator(seed, "which").choice(applicable(play.protocol))
        yield Stage(play, seed, hazards, adversary=names[name] if hazards.liars else None, machines=machines)


def violations(mutant: Mutant, seed: int, *, real: bool = False) -> tuple[Violation, ...]:
    """What the oracle finds in one of a mutant's schedules; with ``real`` machines, in the same one."""
    with staged(mutant, seed, real=real) as stage:
        stage.run()
    return tuple(stage.oracle.violations)


def finds(mutant: Mutant, seed: int) -> bool:
    """Whether a schedule shows the planted bug under its clause."""
    return any(one.clause == mutant.clause for one in violations(mutant, seed))


def _votes() -> Iterator[Mutant]:
    def voting(kind: type[Certify]) -> Callable[[], Maker]:
        return planted.fixed(planted_votes.voting(kind))

    p, v = planted, planted_votes
    yield Mutant("quorum-t-1", "CE-4", "t − 1 votes are a quorum", voting(v.LowQuorum), FOUR, "crashes", None)
    yield Mutant("one-vote", "CE-4", "commits on a proposal, without prepares", voting(v.CommitsUnprepared),
                 FOUR, "none", None)
    yield Mutant("prepares-suffice", "SA-7", "unmasks on t prepares", voting(v.PreparesSuffice),
                 FOUR, "none", None)
    yield Mutant("no-certificate", "SA-7", "unmasks on a proposer's word", voting(v.TakesAWord),
                 FOUR, "none", None)
    yield Mutant("thin-certificate", "SA-7", "counts a certificate's commits, not their signers",
                 voting(v.CountsMessages), FOUR, "liars", "bait")
    yield Mutant("stale-certificate", "SA-12", "takes commits of anything for a certificate", voting(v.AnyCommits),
                 FOUR, "liars", "stale-certificate")
    yield Mutant("lock-forgotten", "CE-3", "comes to a view without its lock", voting(v.ForgetsLock),
                 FOUR, "drops", "loner", storm_of_liars)
    yield Mutant("lock-ignored", "CE-3", "prepares against its lock", voting(v.IgnoresLock),
                 FOUR, "drops", "loner", storm_of_liars)
    yield Mutant("prepares-twice", "CE-2", "prepares two values in a view", voting(v.PreparesTwice),
                 SEVEN, "liars", "equivocator")
    yield Mutant("prepares-below", "CE-2", "prepares in a view that it has left", voting(v.PreparesBelow),
                 FOUR, "drops", None, storm)
    yield Mutant("commits-below", "CE-4", "commits in a view below one acted in", voting(v.CommitsBelow),
                 FOUR, "drops", None, storm)
    yield Mutant("proposes-again", "CE-1", "proposes what it thinks better now", voting(v.ProposesAgain),
                 FOUR, "drops", None, storm)
    for kind in ("prepare", "commit"):
        yield Mutant(f"{kind}-unsaved", "SA-5", f"sends a {kind} that it did not write down",
                     p.fixed(p.unsaved(kind)), FOUR, "none", None)
    yield Mutant("saved-late", "SA-5", "writes votes down after they left", p.fixed(p.SavedLate),
                 FOUR, "none", None)
    yield Mutant("view-for-good", "HANG", "no view's time is ever over, nor the phase's",
                 p.fixed(p.NeverGivesUp), FOUR, "crashes", None)


def _updates() -> Iterator[Mutant]:
    p = planted
    yield Mutant("intent-unsaved", "SA-4", "masks before INTENT is durable", p.fixed(p.unsaved("intent")),
                 FOUR, "none", None)
    yield Mutant("update-folded-back", "SA-4", "takes an update back after INTENT", p.fixed(p.FoldsBack),
                 FOUR, "crashes", None)
    yield Mutant("update-freed-early", "SA-4", "takes an update back that no certificate has freed",
                 p.fixed(p.FoldsBackUncertified), FOUR, "crashes", None, too_many_crashes)
    yield Mutant("mask-reused", "SA-4", "goes on after a crash, masking a second update alike",
                 lambda: p.Snapshots(), FOUR, "crashes", None, around=p.forgotten_rounds)
    yield Mutant("round-again", "RV-1", "starts again in the round that it crashed in", p.fixed(SecAgg),
                 FOUR, "crashes", None, around=p.forgotten_rounds)
    yield Mutant("other-bytes", "SA-4", "repeats other bytes of a slice that passes on", p.fixed(p.RepeatsOtherBytes),
                 FOUR, "crashes", None)
    yield Mutant("slice-unchecked", "SA-9", "takes slices that their sender did not sign", p.fixed(p.TakesAnySlice),
                 FOUR, "liars", "wrong-slice")
    yield Mutant("part-unchecked", "RV-6", "takes any bytes for a part of the common state", p.fixed(p.TakesAnyPart),
                 FOUR, "liars", "wrong-part")
    yield Mutant("hearsay-holding", "SA-9", "holds slices that it has not", p.fixed(p.HoldsByHearsay),
                 FOUR, "liars", "silence")
    yield Mutant("holds-again", "SA-11", "signs its holding anew", p.fixed(p.HoldsAgain), FOUR, "drops", None)
    yield Mutant("floor-c+1", "SA-6", "sums over c + 1 survivors", p.fixed(p.FloorTooLow),
                 FIVE, "liars", "false-holding")
    yield Mutant("first-come-owner", "CE-2", "whoever holds a slice first owns it", p.fixed(p.FirstComeOwner),
                 FOUR, "liars", "grabber")


def _secrets() -> Iterator[Mutant]:
    p = planted
    yield Mutant("share-to-mask-key", "SA-1", "seals shares to a mask key", p.fixed(p.SealsToMaskKey),
                 FOUR, "none", None)
    yield Mutant("masks-early", "SA-2", "masks before all have endorsed", p.fixed(p.MasksEarly),
                 FOUR, "none", None)
    yield Mutant("any-endorsement", "SA-2", "counts endorsements of other contexts", p.fixed(p.AnyEndorsement),
                 FOUR, "liars", "two-contexts")
    yield Mutant("context-unbound", "SA-2", "binds neither view nor roster", p.fixed(p.UnboundContext),
                 FOUR, "none", None)
    yield Mutant("low-order-key", "SA-1", "endorses a mask key of low order", p.fixed(p.TakesLowOrder),
                 FOUR, "liars", "bad-deal")
    yield Mutant("both-shares", "SA-3", "shows both kinds of share of one peer", p.fixed(p.BothShares),
                 FOUR, "none", None)
    yield Mutant("unmasks-dropped", "SA-7", "shows self seeds of who dropped", p.fixed(p.UnmasksTheDropped),
                 FOUR, "crashes", None)
    yield Mutant("reveal-unsaved", "SA-7", "shows shares before that is durable", p.fixed(p.unsaved("reveal")),
                 FOUR, "none", None)
    yield Mutant("share-unchecked", "ACCURACY", "takes any share for the one that was dealt",
                 p.fixed(p.TakesAnyShare), FOUR, "liars", "false-share")


def _meshes() -> Iterator[Mutant]:
    p = planted
    yield Mutant("any-update", "ME-2", "takes any update for the certified one", p.fixed(p.TakesAnyUpdate),
                 MESHED, "liars", "two-vectors")
    yield Mutant("early-relay", "ME-4", "relays what is not certified", p.fixed(p.RelaysWhatItHas),
                 MESHED, "liars", "silence")
    yield Mutant("hearsay-echo", "ME-3", "names what it has not in its echo", p.fixed(p.EchoesHearsay),
                 MESHED, "liars", "silence")
    yield Mutant("outcome-unshown", "ME-7", "votes for any outcome", p.fixed(p.OneResultSuffices),
                 MESHED, "liars", "vague-outcome")


def _ends() -> Iterator[Mutant]:
    p = planted
    yield Mutant("outcome-unchecked", "SA-9", "votes for any outcome", p.fixed(p.BelievesTheOutcome),
                 SEVEN, "liars", "two-sums")
    yield Mutant("lost-too-soon", "SA-9", "votes for `lost` though every sum came", p.fixed(p.LosesTooSoon),
                 FOUR, "liars", "equivocator")
    yield Mutant("weight-unchecked", "SA-9", "takes any total weight", p.fixed(p.AnyWeight),
                 FOUR, "liars", "false-sum")
    yield Mutant("early-beacon", "SA-12", "shows the beacon before the outcome is certified", p.fixed(p.EarlyBeacon),
                 FOUR, "none", None)
    yield Mutant("yes-verifier", "SA-13", "a verifier always says that a sum is right", p.fixed(p.VerifiesNothing),
                 FOUR, "liars", "stubborn-sum")
    yield Mutant("hearsay-repair", "SA-13", "votes for a repair without recomputing", p.fixed(p.RepairsOnHearsay),
                 FOUR, "liars", "false-check")
    yield Mutant("two-vectors-unseen", "EQUIVOCATION", "says nothing of a second message in a slot",
                 p.fixed(p.SeesNoEquivocation), FOUR, "liars", "two-vectors")
    yield Mutant("hearsay-blame", "ACCURACY", "names whom another names", p.fixed(p.NamesByHearsay),
                 FOUR, "liars", "framer")


CATALOGUE: dict[str, Mutant] = {
    one.name: one for family in (_votes, _updates, _secrets, _meshes, _ends) for one in family()
}


# ── the table of recorded seeds ──────────────────────────────────────────────────────────────────────────────────────

TABLE = Path(__file__).resolve().parent.parent / "benches" / "MUTANTS.md"
HEADINGS = ("mutant", "what it does", "clause", "schedules", "seed", "tries", "CPU s")


def described(mutant: Mutant) -> tuple[str, str, str, str]:
    """What the table says of a mutant besides the seed."""
    where = mutant.hazards.__name__.replace("_", " ") if mutant.hazards else mutant.mix
    lying = "" if mutant.adversary is None else f", {mutant.adversary}"
    around = "" if mutant.around is nullcontext else f", {mutant.around.__name__.replace('_', ' ')}"
    schedules = f"n {mutant.play.n}, c {mutant.play.c}: {where}{lying}{around}"
    return mutant.name, mutant.breaks, mutant.clause, schedules


def rows() -> list[tuple[str, ...]]:
    """The rows of the recorded table."""
    lines = [line for line in TABLE.read_text().splitlines() if line.startswith("| ")]
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines[1:]]


def recorded() -> dict[str, int]:
    """The seed in which each mutant was found."""
    return {row[0]: int(row[4]) for row in rows()}
