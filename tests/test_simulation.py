"""The simulator: the same seed plays the same schedule, every hazard bites, and every adversary is caught in vain."""

from __future__ import annotations

import ast
import inspect
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentra.crypto.agreement import check_public
from decentra.crypto.field import PRIME
from decentra.crypto.seal import SEAL_OVERHEAD, SealError
from decentra.derive import quorum
from decentra.errors import LocalError
from decentra.machine.effects import Blame, Effect, Record
from decentra.machine.events import Event
from decentra.peer import runtime
from decentra.protocols.secagg.machine import SecAgg
from decentra.simulation.adversaries import ADVERSARIES
from decentra.simulation.hazards import MIXES, Crash, Cut, Hazards, Mix, draw
from decentra.simulation.ideal import IdealCrypto
from decentra.simulation.ports import MemoryJournal, SeededRandom, SkewedClock
from decentra.simulation.search import Outcome, applicable, run_seed, search, stage_of, trace_of
from decentra.simulation.stage import Play, Stage
from decentra.simulation.trace import Trace
from decentra.simulation.wires import Wires
from decentra.transport.base import Lane
from decentra.transport.simulated import Faults
from decentra.transport.virtual import EventHeap
from decentra.types import PeerId, RoundId
from decentra.wire.codec import Signed

SOURCE = Path(__file__).resolve().parent.parent / "src"
PLAY = Play()
SMALL = Play(n=4, c=1)

# ── one seed, one schedule ───────────────────────────────────────────────────────────────────────────────────────────

TRACES = """
import hashlib
from decentra.simulation.hazards import MIXES
from decentra.simulation.search import trace_of
from decentra.simulation.stage import Play
for protocol in ("secagg", "allreduce", "mesh"):
    for mix in MIXES:
        for seed in (3,):
            outcome, lines = trace_of(Play(protocol, 5, 1), seed, mix)
            print(protocol, mix, seed, outcome.came, len(lines), hashlib.sha256("\\n".join(lines).encode()).hexdigest())
"""


def traces(hash_seed: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "PYTHONHASHSEED": hash_seed}
    command = [sys.executable, "-c", TRACES]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=True, timeout=120).stdout


def test_a_seed_gives_the_same_trace_in_every_process_whatever_its_hashes() -> None:
    first, second = traces("1"), traces("2")
    assert first == second
    assert len(set(first.splitlines())) == 3 * len(MIXES)


def test_a_seed_depends_on_no_schedule_that_was_played_before_it() -> None:
    alone = trace_of(SMALL, 9, "mixed")[1]
    search(SMALL, "mixed", 0, 3)
    assert trace_of(SMALL, 9, "mixed")[1] == alone
    assert trace_of(SMALL, 10, "mixed")[1] != alone


def test_writing_a_trace_changes_nothing() -> None:
    for seed in range(4):
        assert run_seed(SMALL, seed, "mixed") == trace_of(SMALL, seed, "mixed")[0]


@pytest.mark.parametrize("mix", MIXES)
@given(seed=st.integers(0, 2**40))
def test_hazards_keep_to_the_limits_that_they_claim(mix: Mix, seed: int) -> None:
    n, c = 7, 2
    drawn = draw(seed, mix, n, c)
    assert drawn == draw(seed, mix, n, c)
    assert len(drawn.liars) <= c
    hit = {*drawn.crashes, *drawn.liars}
    pairs = [*drawn.edges, *((cut.source, cut.target) for cut in drawn.cuts)]
    if drawn.within:
        hit_by_edges = min(
            len(hit | {peer for peer in range(n) if chosen >> peer & 1})
            for chosen in range(1 << n)
            if all(chosen >> a & 1 or chosen >> b & 1 for a, b in pairs)
        )
        assert hit_by_edges <= n - quorum(n, c)
    assert all(rate > 0 for rate in drawn.rates.values())
    found = {"drops": drawn.edges, "crashes": drawn.crashes, "liars": drawn.liars}
    for fault in found:
        if fault not in (mix, "mixed") and mix != "mixed" and (fault, mix) != ("crashes", "journals"):
            assert not found[fault]


# ── a fixed set of seeds, in every run ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("protocol", ["secagg", "allreduce", "mesh"])
def test_nothing_is_violated(protocol: str, mix: Mix) -> None:
    tally = search(Play(protocol), mix, 0, 6)
    assert not tally.violating
    assert tally.outcomes["completed"] > 0
    assert sum(tally.outcomes.values()) == tally.schedules == 6
    assert tally.per_minute > 0


@pytest.mark.parametrize("n, c", [(3, 1), (4, 2), (5, 1), (8, 2)])
def test_nothing_is_violated_in_groups_of_other_sizes(n: int, c: int) -> None:
    assert not search(Play(n=n, c=c), "mixed", 50, 4).violating


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("protocol", ["secagg", "allreduce", "mesh"])
def test_nothing_is_violated_where_rounds_begin_ahead_of_local_steps(protocol: str, mix: Mix) -> None:
    tally = search(Play(protocol, late=100.0), mix, 1000, 6)
    assert not tally.violating
    assert tally.outcomes["completed"] > 0


@pytest.mark.parametrize("mix", ["none", "crashes"])
def test_some_peers_are_in_their_local_steps_when_their_round_begins_and_the_others_are_not(mix: Mix) -> None:
    _, lines = trace_of(Play(late=100.0), 2, mix)
    later = {line.split()[1] for line in lines if "▸ all  rendezvous.later" in line}
    assert 0 < len(later) < PLAY.n
    assert any("its local steps are done" in line for line in lines)
    assert not any("rendezvous.later" in line for line in trace_of(PLAY, 2, mix)[1])


@pytest.mark.parametrize("mix", ["none", "mixed"])
def test_nothing_is_violated_with_real_cryptography(mix: Mix) -> None:
    tally = search(Play(crypto="real"), mix, 0, 2)
    assert not tally.violating
    assert tally.outcomes["completed"] > 0


class LooksAlways(SecAgg):
    """Looks at its phase after every event, whether or not that can carry it on."""

    @property
    def _stays(self) -> bool:
        return False

    @_stays.setter
    def _stays(self, stays: bool) -> None: ...


@pytest.mark.parametrize("mix", ["drops", "crashes", "liars"])
def test_a_message_that_a_phase_does_not_read_could_not_have_carried_it_on(mix: Mix) -> None:
    for play in (PLAY, Play(late=60.0)):
        for seed in range(4):
            everyone = dict.fromkeys(range(play.n), LooksAlways)
            assert trace_of(play, seed, mix, machines=everyone) == trace_of(play, seed, mix)


def test_both_kinds_of_cryptography_come_to_the_same() -> None:
    for seed in range(3):
        ideal, real = (run_seed(Play(n=4, c=1, crypto=kind), seed, "crashes") for kind in ("ideal", "real"))
        assert ideal.came == real.came


def test_frames_and_whole_messages_complete_alike() -> None:
    assert search(Play(n=4, c=1, frames=True), "none", 0, 3).outcomes["completed"] == 3
    assert not search(Play(n=4, c=1, frames=True), "drops", 0, 4).violating


@pytest.mark.parametrize("protocol", ["secagg", "mesh"])
def test_liars_over_frames_get_nothing_violated(protocol: str) -> None:
    assert not search(Play(n=4, c=1, protocol=protocol, frames=True), "liars", 0, 4).violating


# ── each hazard bites ────────────────────────────────────────────────────────────────────────────────────────────────


def played(hazards: Hazards, play: Play = SMALL, seed: int = 1) -> tuple[Stage, list[str]]:
    trace = Trace()
    stage = stage_of(play, seed, "none", hazards=hazards, trace=trace)
    stage.run()
    assert not stage.oracle.violations
    return stage, trace.lines


def test_without_hazards_a_round_completes_at_once() -> None:
    stage, lines = played(Hazards())
    assert stage.clock.now() < 0.1
    assert sum("finishes with a result" in line for line in lines) == 4


def test_what_is_dropped_is_repeated_and_costs_the_links_pauses() -> None:
    lossy = {(0, 1): Faults(drop=0.6)}
    stage, _ = played(Hazards(edges=lossy))
    assert stage.clock.now() > 2.0


def test_a_cut_holds_everything_back_until_it_heals() -> None:
    stage, _ = played(Hazards(cuts=(Cut(0, 1, 0.0, 5.0),)))
    assert 5.0 < stage.clock.now() < 6.0


def test_a_cut_in_the_middle_leaves_who_is_cut_off_out() -> None:
    """Its slices don't reach one owner, which waits half a phase's deadline and holds the others'."""
    early = next(line for line in played(Hazards())[1] if "persists intent" in line)
    begins = float(early.split()[0])
    stage, lines = played(Hazards(cuts=(Cut(0, 1, begins, 40.0),)))
    assert any("runs out" in line for line in lines)
    assert stage.clock.now() > 10.0


@pytest.mark.parametrize("effect", [0, 5, 17, 30, 44])
def test_a_peer_stops_right_before_an_effect_and_comes_back_on_its_journal(effect: int) -> None:
    stage, lines = played(Hazards(crashes={2: (Crash(effect=effect, back=1.0),)}), seed=3)
    stopped = next(index for index, line in enumerate(lines) if "✝" in line)
    assert sum(" C  " in line[:16] for line in lines[:stopped]) >= effect
    assert any("starts again" in line for line in lines[stopped:])
    assert stage.actors[2].boot == 2
    rounds = [number.number for number, _ in stage.actors[2].journal.records]
    assert rounds == sorted(rounds)


@pytest.mark.parametrize("reached", [0.0, 0.3, 0.999, 1.0])
def test_a_commit_that_is_cut_is_lost_or_kept_whole_and_what_waited_for_it_never_leaves(reached: float) -> None:
    _, lines = played(Hazards())
    persisted = [line for line in lines if "  C  persists intent" in line]
    assert persisted
    for write in range(12):
        stage, _ = played(Hazards(crashes={2: (Crash(write=write, reached=reached),)}))
        journal = stage.actors[2].journal
        assert len(journal.entries) + len(journal.records) == write + (reached == 1.0)


def test_every_journal_of_a_schedule_of_journals_is_cut_at_or_within_a_commit_and_opened_again() -> None:
    opened = 0
    for seed in range(12):
        stage = stage_of(SMALL, seed, "journals")
        stage.run()
        assert stage.cut >= len(stage.hazards.crashes) > 0
        stopped = [stage.actors[position] for position in stage.hazards.crashes]
        assert all(actor.boot > 1 or not actor.alive for actor in stopped)  # with its last write a schedule may be over
        opened += all(actor.boot > 1 for actor in stopped)
        assert not stage.oracle.violations
    assert opened >= 10


@given(
    writes=st.lists(st.tuples(st.binary(max_size=40), st.binary(max_size=40)), max_size=8),
    acts=st.lists(st.tuples(st.integers(0, 9), st.sampled_from(["intent", "prepare"]), st.binary(max_size=9))),
    reached=st.floats(0.0, 1.0),
    data=st.data(),
)
def test_a_journal_cut_at_any_byte_has_the_commits_before_it_and_no_other(
    writes: list[tuple[bytes, bytes]], acts: list[tuple[int, str, bytes]], reached: float, data: st.DataObject
) -> None:
    journal = MemoryJournal()
    for entry, body in writes:
        journal.entry(Signed(entry, body), True, lambda: None)
    for number, kind, value in acts:
        journal.record(RoundId(1, number), Record(kind, "t", value), lambda: None)
    torn = MemoryJournal(journal.image(reached))
    lost = bool(writes or acts) and reached < 1.0
    assert torn.entries + torn.records == (journal.entries + journal.records)[: -1 if lost else None]
    assert (torn.acts == journal.acts) or lost
    image = journal.image()
    anywhere = MemoryJournal(image[: data.draw(st.integers(0, len(image)))])
    assert image.startswith(anywhere.image())
    if image:
        damaged = bytearray(image)
        damaged[data.draw(st.integers(0, len(image) - 1))] ^= 1
        assert MemoryJournal(bytes(damaged)).image() != image


def test_what_a_stopped_peer_had_on_the_way_may_be_lost() -> None:
    came = {}
    for loses in (0.0, 1.0):
        _, lines = played(Hazards(Faults(latency=1.0), crashes={2: (Crash(effect=2, loses=loses),)}))
        stopped = next(index for index, line in enumerate(lines) if "✝" in line)
        came[loses] = sum("◂ C" in line for line in lines[stopped:])
    assert came[0.0] == 3 and came[1.0] == 0


def test_clocks_that_run_fast_give_up_earlier() -> None:
    silent = Hazards(cuts=tuple(Cut(3, other, 0.0, 4000.0) for other in range(3)))
    plain, _ = played(silent)
    fast, _ = played(Hazards(cuts=silent.cuts, rates=dict.fromkeys(range(4), 2.0)))
    assert fast.clock.now() < 0.6 * plain.clock.now()


def test_slow_disks_and_jobs_take_time() -> None:
    stage, _ = played(Hazards(slow=dict.fromkeys(range(4), 0.5)))
    assert stage.clock.now() > 0.5


def test_updates_that_came_back_go_again_in_a_second_round() -> None:
    rounds = [
        len(stage.rounds)
        for seed in range(12)
        for stage in [played(Hazards(crashes={2: (Crash(effect=4, back=0.01),)}), seed=seed)[0]]
    ]
    assert {1, 2} == set(rounds)


# ── adversaries ──────────────────────────────────────────────────────────────────────────────────────────────────────

ALIASES = {
    "allreduce": {"SA-2": "AR-1", "SA-10": "AR-2", "SA-11": "AR-3", "SA-8": "AR-4", "SA-9": "AR-5"},
    "mesh": {"SA-2": "ME-1", "SA-10": "ME-2", "SA-11": "ME-3"},
    "secagg": {},
}
UNSEEN = {"yes-man": "votes for everything early, which no honest peer can tell from having seen t prepares"}
"""Adversaries that break a clause which no machine blames; the oracle shows that it gains them nothing."""


class Blames:
    """Counts whom honest peers take down, and under which clause."""

    def __init__(self, stage: Stage) -> None:
        self.found: Counter[tuple[str, bool]] = Counter()
        self._stage = stage
        self._saw = stage.oracle.saw
        stage.oracle.saw = self.saw  # type: ignore[method-assign]

    def saw(self, actor: object, seen: Event | Effect) -> None:
        liars = self._stage.oracle.liars
        if isinstance(seen, Blame) and actor.id not in liars:  # type: ignore[attr-defined]
            self.found[seen.error.clause, seen.error.peer in liars] += 1
        error = getattr(seen, "error", None)
        if error is not None and hasattr(error, "clause") and actor.id not in liars:  # type: ignore[attr-defined]
            self.found[error.clause, error.peer in liars] += 1
        self._saw(actor, seen)  # type: ignore[arg-type]


@pytest.mark.parametrize("protocol", ["secagg", "allreduce", "mesh"])
@pytest.mark.parametrize("name", ADVERSARIES)
def test_an_adversary_is_caught_under_its_clause_and_gains_nothing(name: str, protocol: str) -> None:
    if name not in applicable(protocol):
        with pytest.raises(LocalError, match="has no adversary"):
            search(Play(protocol), "liars", 0, 1, adversary=name)
        return
    clause = ADVERSARIES[name].clause
    clause = ALIASES[protocol].get(clause, clause)
    caught = Counter[tuple[str, bool]]()
    for seed in range(20):
        stage = stage_of(Play(protocol), seed, "liars", adversary=name)
        blames = Blames(stage)
        stage.run()
        assert not stage.oracle.violations, (seed, stage.oracle.violations)
        caught += blames.found
        if seed >= 1 and (not clause or name in UNSEEN or caught[clause, True] or caught[clause, False]):
            break
    if clause and name not in UNSEEN:
        assert caught[clause, True] or caught[clause, False], caught


@pytest.mark.parametrize("name", ["equivocator", "bait", "yes-man", "double-committer", "both-shares"])
def test_liars_who_hurt_no_deal_cannot_stop_a_round(name: str) -> None:
    tally = search(PLAY, "liars", 100, 3, adversary=name)
    assert tally.outcomes["completed"] == 3
    assert not tally.violating


# ── ideal cryptography ───────────────────────────────────────────────────────────────────────────────────────────────

SUITE = IdealCrypto(7)
OTHER = IdealCrypto(8)
elements = st.integers(0, PRIME - 1).map(lambda number: number.to_bytes(32, "little"))
keys = st.binary(min_size=32, max_size=32)


@given(keys, keys, st.binary(max_size=99))
def test_a_signature_holds_for_its_key_and_message_alone(public: bytes, other: bytes, message: bytes) -> None:
    signature = SUITE.signer(PeerId(bytes(32)), public).sign(message)
    assert len(signature) == 64
    assert SUITE.verify(public, signature, message)
    assert not SUITE.verify(public, signature, message + b"x")
    assert not SUITE.verify(public, signature[:-1], message)
    assert not OTHER.verify(public, signature, message)
    if other != public:
        assert not SUITE.verify(other, signature, message)


@given(st.binary(max_size=300), st.binary(max_size=40), st.integers(0, 2**30))
def test_a_box_opens_for_its_key_and_context_alone(plain: bytes, context: bytes, seed: int) -> None:
    random = SeededRandom(seed, b"")
    mine, other = SUITE.sealing_key(random), SUITE.sealing_key(random)
    check_public(mine.public)
    box = SUITE.seal(mine.public, plain, context, random)
    assert len(box) == len(plain) + SEAL_OVERHEAD
    assert mine.open(box, context) == plain
    for opener, sealed, bound in (
        (other, box, context),
        (mine, box, context + b"x"),
        (mine, box[:-1] + bytes((box[-1] ^ 1,)), context),
        (mine, box[:40], context),
    ):
        with pytest.raises(SealError):
            opener.open(sealed, bound)
    mine.erase()
    with pytest.raises(LocalError):
        mine.open(box, context)


@given(elements, elements, elements, st.binary(max_size=9))
def test_two_mask_keys_agree_and_a_third_does_not(a: bytes, b: bytes, third: bytes, context: bytes) -> None:
    one, two, three = map(SUITE.mask_key, (a, b, third))
    check_public(one.public)
    assert one.agree(two.public, context) == two.agree(one.public, context)
    assert one.agree(two.public, context) != one.agree(two.public, context, "more")
    if third not in (a, b) and a != b:
        other = (one.agree(three.public, context), two.agree(three.public, context))
        assert one.agree(two.public, context) not in other
    with pytest.raises(ValueError):
        one.agree(bytes(32), context)
    with pytest.raises(ValueError):
        SUITE.mask_key(PRIME.to_bytes(32, "little"))


def test_the_network_runtime_can_be_given_no_other_cryptography() -> None:
    """The runtime names no suite anywhere, and its room may not import the simulator's (the house's own test)."""
    for path in sorted(Path(runtime.__file__).parent.glob("*.py")):
        names = {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
        words = {node.arg for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.keyword)}
        assert not {"suite", "fittings", "Suite", "Fittings"} & (names | words), path
    assert not {"suite", "fittings"} & set(inspect.signature(runtime.Peer).parameters)


# ── virtual ports and wires ──────────────────────────────────────────────────────────────────────────────────────────

A, B = PeerId(b"a" * 32), PeerId(b"b" * 32)


class End:
    """A wire's end that writes down what arrives, and when."""

    def __init__(self, wires: Wires, me: PeerId, other: PeerId) -> None:
        self.got: list[tuple[float, bytes]] = []
        self._clock = wires.clock
        self.transport = wires.transport(me, self.receive)
        self.link = self.transport.link(other, 1, lambda *_: False, session=bytes(32))

    def receive(self, peer: PeerId, lane: Lane, header: bytes, buffers: object) -> None:
        for event in self.link.receive(lane, header, ()):
            self.got.append((self._clock.now(), event.parts[0]))  # type: ignore[union-attr]

    @property
    def texts(self) -> list[bytes]:
        return [text for _, text in self.got]


@given(st.integers(0, 2**32), st.integers(1, 30))
def test_wires_bring_everything_once_and_in_order_however_bad_they_are(seed: int, count: int) -> None:
    clock = EventHeap()
    wires = Wires(clock, seed, Faults(jitter=1.0, drop=0.5, reorder=0.5, duplicate=0.5))
    here, there = End(wires, A, B), End(wires, B, A)
    sent = [b"%d" % index for index in range(count)]
    for text in sent:
        here.link.post((text, b""))
    clock.run_until()
    assert there.texts == sent
    assert not here.got


def test_what_is_sent_to_a_stopped_peer_waits_for_its_next_process() -> None:
    clock = EventHeap()
    wires = Wires(clock, 0)
    here, there = End(wires, A, B), End(wires, B, A)
    here.link.post((b"flying", b""))
    wires.stop(B, lambda _: True)
    there.transport.close()
    here.link.post((b"later", b""))
    clock.run_until()
    again = End(wires, B, A)
    clock.run_until()
    assert again.texts == [b"later"] and not there.got


def test_a_mouth_that_is_shut_says_nothing() -> None:
    clock = EventHeap()
    wires = Wires(clock, 0)
    transport = wires.transport(A, lambda *_: None, lambda target, parcel: False)
    there = End(wires, B, A)
    transport.link(B, 1, lambda *_: False, session=bytes(32)).post((b"x", b""))
    clock.run_until()
    assert not there.got


def test_a_skewed_clock_shows_its_own_time_and_stops_with_its_process() -> None:
    heap = EventHeap()
    clock = SkewedClock(heap, 2.0)
    rang: list[float] = []
    clock.call_later(10.0, lambda: rang.append(heap.now()))
    heap.run_until()
    assert rang == [5.0] and clock.now() == 10.0
    clock.call_later(1.0, lambda: rang.append(heap.now()))
    clock.stopped = True
    heap.run_until()
    assert rang == [5.0]


def test_equal_times_keep_their_order() -> None:
    heap, seen = EventHeap(), list[int]()
    for index in range(50):
        heap.call_at(0.3, lambda index=index: seen.append(index))  # type: ignore[misc]
    heap.run_until()
    assert seen == list(range(50)) and heap.now() == 0.3


def test_an_outcome_is_what_the_seed_says() -> None:
    outcome = run_seed(SMALL, 2, "liars", adversary="bad-deal")
    assert isinstance(outcome, Outcome)
    assert (outcome.seed, outcome.adversary, outcome.came) == (2, "bad-deal", "abandoned")


def test_a_restarted_peer_never_gives_what_its_earlier_process_gave() -> None:
    """Its update may have left then; only what this process was given, and got back, goes again."""
    for seed in (2288, 2297):
        stage = stage_of(PLAY, seed, "crashes")
        stage.run()
        assert not stage.oracle.violations
        assert all(actor.boot == 1 or actor.update != "first" for actor in stage.actors)
