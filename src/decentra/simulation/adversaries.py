"""Targeted adversaries: what liars do to break a named clause, where and when it would pay; ``liars`` is how.

None of it is random misbehaviour: that found a too-low threshold in 1 of 6,000 seeds, a targeted one in 61.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from decentra import derive
from decentra.charter.bucket_policy import BUCKETED
from decentra.charter.policy import SHARED
from decentra.crypto.ring import Ring
from decentra.driver.blobs import Workbench
from decentra.machine.effects import Effect, Send
from decentra.machine.events import Event, Received
from decentra.protocols.certify.messages import Certificate, Commit, Lock, Prepare, Propose
from decentra.protocols.mesh.messages import Relay, Update
from decentra.protocols.rendezvous.messages import AbortRound
from decentra.protocols.secagg.messages import Unmask
from decentra.simulation.bucket_adversaries import BUCKET_ADVERSARIES, keep_mean, relay_falsely
from decentra.simulation.liars import Adversary, Coalition, Liar
from decentra.simulation.shares_adversaries import SHARES_ADVERSARIES, second_value, with_blobs
from decentra.types import PeerId
from decentra.wire.message import Verified

# ── votes ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _other_holding(liar: Liar) -> tuple[Verified, ...]:
    """The holdings that are out, but with one of a liar's that leaves an honest peer out where its own names it."""
    kind = f"{liar.honest.protocol}.holding"
    shown: dict[Any, Verified] = {}
    for verified in liar.ring.heard[kind]:
        if getattr(verified.message, "context", b"") == liar.honest.context:
            shown.setdefault(getattr(verified.message, "slice", verified.sender), verified)
    for position, verified in sorted(shown.items()):
        if verified.sender in liar.ring.liars:
            held = getattr(verified.message, "held", ())
            honest = [pair for pair in held if pair[0] not in liar.ring.liars]
            if honest:
                left_out = honest[liar.rng.randrange(len(honest))]
                lied: Any = verified.message
                fewer = replace(lied, held=tuple(pair for pair in held if pair != left_out))
                shown[position] = liar.ring.sign(verified.sender, fewer, verified.entry.after)
                break
    return tuple(shown[position] for position in sorted(shown))


def _second_proposal(liar: Liar, effect: Send) -> Propose:
    """Another proposal for the same view: for survivors one that its own holdings give, if they do."""
    message: Any = effect.message
    if message.topic == "survivors":
        # any quorum of holdings gives a value of its own, since it names their authors
        shown = message.shown[1:] if liar.honest.protocol in (BUCKETED, SHARED) else _other_holding(liar)
        given = liar.honest.derived(shown)
        if given is not None and given[0] != message.value:
            return Propose(message.context, message.topic, message.view, given[0], shown, ())
    if message.topic in ("checked", "geometry"):
        given = second_value(liar, message)
        if given is not None and given[0] != message.value:
            return Propose(message.context, message.topic, message.view, *given, ())
    other = b"lost" if message.topic == "outcome" else b"fail"
    return Propose(message.context, message.topic, message.view, other, (), ())


def equivocate(liar: Liar, effect: Send) -> Sequence[Effect]:
    return liar.split(effect, _second_proposal(liar, effect))


def other_vote(liar: Liar, effect: Send) -> Sequence[Effect]:
    message: Any = effect.message
    return liar.split(effect, replace(message, value=liar.rng.randbytes(32)))


def vote_for_all(liar: Liar, event: Event) -> Sequence[Effect]:
    """Prepare and commit at once to every value that anybody proposes, each to whom it was shown."""
    if not isinstance(event, Received) or not isinstance(event.verified.message, Propose):
        return ()
    proposal = event.verified.message
    out: list[Effect] = []
    for other in (liar.me, *sorted(liar.ring.liars - {liar.me})):
        out += _votes(liar, proposal) if other == liar.me else ()
    return out


def _votes(liar: Liar, proposal: Propose) -> list[Effect]:
    digest = derive.vote_value(proposal.context, proposal.topic, proposal.value)
    if proposal.context != liar.honest.context or not liar.ring.once(liar.me, digest, proposal.view):
        return []
    place = (proposal.context, proposal.topic, proposal.view, digest)
    prepare, commit = Prepare(*place), Commit(*place)
    # a vote of an honest peer's kind comes from the machine itself; this one is for those who were shown the value
    second = liar.ring.once("value", proposal.context, proposal.topic, proposal.view)
    targets = sorted(liar.honest.roster) if second else sorted(liar.victims)
    others = [peer for peer in targets if peer != liar.me]
    return [Send(replace(vote), to=peer) for vote in (prepare, commit) for peer in others]


def silent_votes(liar: Liar, effect: Send) -> Sequence[Effect]:
    """Its own votes go to nobody: ``vote_for_all`` has said everything."""
    liar.ring.hush(liar.me, effect.message, liar.ring.stage.cast.charter.ids)
    return [effect]


def baited(liar: Liar, effect: Send) -> Sequence[Effect]:
    """Propose two sets of survivors, and let the others hear the second one as well."""
    second = _second_proposal(liar, effect)
    out = liar.split(effect, second)
    digest = derive.vote_value(second.context, second.topic, second.value)
    place = (second.context, second.topic, second.view, digest)
    for peer in sorted(liar.victims):
        for vote in (Prepare(*place), Commit(*place)):
            out.append(Send(vote, to=peer))
    return out


def bait(liar: Liar, event: Event) -> Sequence[Effect]:
    """Vote for everything, hand out certificates of too few commits, and show shares under none to lead the way."""
    out = list(vote_for_all(liar, event))
    if isinstance(event, Received) and isinstance(event.verified.message, Commit):
        commit = event.verified.message
        if commit.context == liar.honest.context and liar.ring.once("thin", liar.me, commit.topic, commit.value):
            out += _thin_certificate(liar, commit)
            if commit.topic == "survivors":
                out.append(Send(Unmask(commit.context, liar.rng.randbytes(32), (), ())))
    return out


def _thin_certificate(liar: Liar, commit: Commit) -> list[Effect]:
    """A certificate of whatever commits liars have heard for a value, too few or not."""
    known = [
        verified
        for verified in liar.ring.heard[Commit.kind]
        if isinstance(verified.message, Commit) and verified.message.value == commit.value
    ]
    values = [
        verified.message.value
        for verified in liar.ring.heard[Propose.kind]
        if isinstance(verified.message, Propose)
        and derive.vote_value(commit.context, commit.topic, verified.message.value) == commit.value
    ]
    if not values:
        return []
    quorum = liar.honest.quorum
    padded = (known * quorum)[:quorum]  # one signer many times
    return [Send(Certificate(commit.context, commit.topic, values[0], tuple(padded)), to=None)]


def stale_certificate(liar: Liar, event: Event) -> Sequence[Effect]:
    """Relay certificates of commits of other views, topics or rounds."""
    if not isinstance(event, Received) or not isinstance(event.verified.message, Propose):
        return ()
    proposal = event.verified.message
    if not liar.ring.once("stale", liar.me, proposal.topic, proposal.view):
        return ()
    commits = [verified for verified in liar.ring.heard[Commit.kind] if isinstance(verified.message, Commit)]
    cited = commits[-liar.honest.quorum :] if commits else []
    return [Send(Certificate(proposal.context, proposal.topic, proposal.value, tuple(cited)))]


def false_lock(liar: Liar, event: Event) -> Sequence[Effect]:
    """Show a lock on a value that nobody prepared, and call everybody into the next view."""
    if not isinstance(event, Received) or not isinstance(event.verified.message, Propose):
        return ()
    proposal = event.verified.message
    if not liar.ring.once("lock", liar.me, proposal.topic, proposal.view):
        return ()
    digest = derive.vote_value(proposal.context, proposal.topic, b"fail")
    prepare = Prepare(proposal.context, proposal.topic, proposal.view, digest)
    cited = tuple(liar.ring.sign(one, prepare, event.verified.entry.hash) for one in sorted(liar.ring.liars))
    return [Send(Lock(proposal.context, proposal.topic, proposal.view + 1, b"fail", cited))]


# ── deals, contexts, slices, shares ──────────────────────────────────────────────────────────────────────────────────


def bad_deal(liar: Liar, effect: Send) -> Sequence[Effect]:
    """One receiver's share does not open, hashes to something else, or the mask key is of low order."""
    message: Any = effect.message
    position = liar.rng.randrange(len(message.sealed))
    match liar.rng.randrange(3):
        case 0:
            changed = replace(message, sealed=_but(message.sealed, position, bytes(len(message.sealed[position]))))
        case 1:
            hashes = _but(message.self_share_hashes, position, liar.rng.randbytes(32))
            changed = replace(message, self_share_hashes=hashes)
        case _:
            changed = replace(message, mask_public=bytes(32))
    return [replace(effect, message=changed)]


def two_deals(liar: Liar, effect: Send) -> Sequence[Effect]:
    message: Any = effect.message
    return liar.split(effect, replace(message, self_hash=liar.rng.randbytes(32)))


def two_contexts(liar: Liar, effect: Send) -> Sequence[Effect]:
    """The proposer lists a deal that nobody signed to some; an endorser endorses another context."""
    message: Any = effect.message
    if hasattr(message, "deals"):
        position = liar.rng.randrange(len(message.deals))
        return liar.split(effect, replace(message, deals=_but(message.deals, position, liar.rng.randbytes(32))))
    return liar.split(effect, replace(message, context=liar.rng.randbytes(32)))


def two_rosters(liar: Liar, effect: Send) -> Sequence[Effect]:
    message: Any = effect.message
    return liar.split(effect, replace(message, state=liar.rng.randbytes(32)))


def wrong_slice(liar: Liar, effect: Send) -> Sequence[Effect]:
    """The bytes of some slices are not those that it signed."""
    victims = [peer for peer in sorted(effect.blobs) if liar.rng.random() < 0.5]
    others = {peer: liar.ring.blob(liar.me, effect.blobs[peer].size, 1) for peer in victims}
    return [replace(effect, blobs={**effect.blobs, **others})]


def two_vectors(liar: Liar, effect: Send) -> Sequence[Effect]:
    """Sign two lists of slices and show each to some."""
    message: Any = effect.message
    others = {peer: liar.ring.blob(liar.me, blob.size, 2) for peer, blob in sorted(effect.blobs.items())}
    if isinstance(message, Update):  # one blob to everybody
        one = next(iter(others.values()))
        return liar.split(effect, replace(message, root=one.root), dict.fromkeys(others, one))
    roots = tuple(
        others[peer].root if peer in others else root
        for peer, root in zip(liar.roster, message.roots, strict=True)
    )
    return liar.split(effect, replace(message, roots=roots), others)


def late_vector(liar: Liar, effect: Send) -> Sequence[Effect]:
    """Keep the vector from some owners until the survivors are voted on."""
    liar.ring.hush(liar.me, effect.message, liar.victims)
    liar.ring.late[liar.me] = effect
    return [effect]


def late_arrival(liar: Liar, event: Event) -> Sequence[Effect]:
    if not isinstance(event, Received) or not isinstance(event.verified.message, Propose | Commit):
        return ()
    effect = liar.ring.late.get(liar.me)
    if effect is None or not liar.ring.once("come", liar.me, liar.round):
        return ()
    return [
        Send(effect.message, to=peer, blobs={peer: effect.blobs[peer]} if peer in effect.blobs else {})
        for peer in sorted(liar.victims)
    ]


def false_holding(liar: Liar, effect: Send) -> Sequence[Effect]:
    """Leave an honest peer out of a holding, or name another list of slices than it sent; to all or to some."""
    message: Any = effect.message
    held = list(message.held)
    place = liar.rng.randrange(len(held))
    if liar.rng.random() < 0.5 and held[place][0] != liar.me:
        held.pop(place)
    else:
        held[place] = (held[place][0], liar.rng.randbytes(32))
    other = replace(message, held=tuple(held))
    return liar.split(effect, other) if liar.rng.random() < 0.5 else [replace(effect, message=other)]


def false_share(liar: Liar, effect: Send) -> Sequence[Effect]:
    message: Any = effect.message
    return [replace(effect, message=replace(message, self_shares=_false(liar, message.self_shares)))]


def false_beacon(liar: Liar, effect: Send) -> Sequence[Effect]:
    """Show shares of the beacon's parts that were never dealt."""
    message: Any = effect.message
    return [replace(effect, message=replace(message, shares=_false(liar, message.shares)))]


def false_check(liar: Liar, effect: Send) -> Sequence[Effect]:
    """Say that an honest owner's sum is wrong, or that a colluder's is right."""
    message: Any = effect.message
    return [replace(effect, message=replace(message, root=liar.rng.randbytes(32), lacking=()))]


def _false(liar: Liar, shares: Iterable[tuple[PeerId, bytes]]) -> tuple[tuple[PeerId, bytes], ...]:
    return tuple((peer, liar.rng.randbytes(31) + b"\0") for peer, _ in shares)


def both_shares(liar: Liar, effect: Send) -> Sequence[Effect]:
    """Show a share of a survivor's mask key as well."""
    message: Any = effect.message
    (peer, share), *_ = message.self_shares
    keys = tuple(sorted({**dict(message.key_shares), peer: share}.items()))
    return [replace(effect, message=replace(message, key_shares=keys))]


def two_sums(liar: Liar, effect: Send) -> Sequence[Effect]:
    message: Any = effect.message
    if not effect.blobs:
        return [effect]
    size = next(iter(effect.blobs.values())).size
    blob = liar.ring.blob(liar.me, size, 3)
    return liar.split(effect, replace(message, root=blob.root), dict.fromkeys(effect.blobs, blob))


def false_update(liar: Liar, effect: Send) -> Sequence[Effect]:
    """An update that no encoding gives, or one far from the others' that encoding could give; the same to all."""
    ring = liar.ring
    machine, size = liar.honest, next(iter(effect.blobs.values())).size
    row = np.full(size // (machine.setting.width // 8), 0, f"<i{machine.setting.width // 8}")
    limit = Ring(machine.setting.width).limit(machine.n)
    row[:-1], row[-1] = (limit + 1, 1) if ring.rng.random() < 0.3 else (limit, ring.rng.choice((1, 1, 2)))
    bench = Workbench(ring.actor(liar.me).driver.blobs, lambda count: bytes(count))
    blob = bench.keep(row)
    machine._mine = blob  # its own machine goes by what it sends
    object.__setattr__(effect.message, "root", blob.root)
    return [replace(effect, blobs=dict.fromkeys(effect.blobs, blob))]


def false_result(liar: Liar, effect: Send) -> Sequence[Effect]:
    """Another result than the rule's; to all, or to some."""
    message: Any = effect.message
    other = replace(message, root=liar.rng.randbytes(32))
    return liar.split(effect, other) if liar.rng.random() < 0.5 else [replace(effect, message=other)]


def false_relay(liar: Liar, event: Event) -> Sequence[Effect]:
    """Relay updates that nobody lacks, with other bytes, or under another's name."""
    if liar.honest.protocol == BUCKETED:
        return relay_falsely(liar)
    if not isinstance(event, Received) or not isinstance(event.verified.message, Propose):
        return ()
    known = [one for one in liar.ring.heard["mesh.update"] if one.entry.round == liar.round.number]
    if not known or not liar.ring.once("relay", liar.me, liar.round):
        return ()
    out: list[Effect] = []
    for peer in sorted(liar.victims):
        cited = liar.rng.choice(known)
        author = cited.sender if liar.rng.random() < 0.8 else peer
        blob = liar.ring.blob(liar.me, liar.honest._size, 4)
        out.append(Send(Relay(liar.honest.context, author, cited), to=peer, blobs={peer: blob}))
    return out


def false_sum(liar: Liar, effect: Send) -> Sequence[Effect]:
    """One wrong sum of its slice, the same to all."""
    message: Any = effect.message
    if not effect.blobs:
        return [effect]
    blob = liar.ring.blob(liar.me, next(iter(effect.blobs.values())).size, 1)
    return [replace(effect, message=replace(message, root=blob.root), blobs=dict.fromkeys(effect.blobs, blob))]


def wrong_part(liar: Liar, effect: Send) -> Sequence[Effect]:
    """A part of the common state that is another than it signs, or than was asked for; or none."""
    message: Any = effect.message
    if message.part == 0 and liar.rng.random() < 0.5:
        return [effect]  # or it would be asked for nothing but the index
    ((to, blob),) = effect.blobs.items()
    match liar.rng.randrange(3):
        case 0:
            return [replace(effect, message=replace(message, root=liar.rng.randbytes(32)))]
        case 1:
            other = liar.ring.blob(liar.me, blob.size, 7)
            return [replace(effect, message=replace(message, root=other.root), blobs={to: other})]
        case _:
            return []


# ── conduct ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def replay(liar: Liar, event: Event) -> Sequence[Effect]:
    """Deliver old entries again: its own, and others' as if they were its own."""
    ring = liar.ring
    if not isinstance(event, Received) or ring.rng.random() > 0.05:
        return ()
    others = [one.signed for kind in sorted(ring.heard) for one in ring.heard[kind]]
    old = [(one.entry, one.body) for one in others] + [(p.parts[0], p.parts[1]) for p in ring.parcels]
    links = ring.actor(liar.me).driver._links
    links[ring.rng.choice(sorted(links))].post(ring.rng.choice(old))
    return ()


def frame(liar: Liar, event: Event) -> Sequence[Effect]:
    """End the round and name an honest peer."""
    if not isinstance(event, Received) or liar.rng.random() > 0.02 or not liar.ring.once("frame", liar.me, liar.round):
        return ()
    blamed = (sorted(liar.victims)[0],)
    return [Send(AbortRound("SA-1", blamed, "the share that it sealed to this peer does not open"))]


BEFORE = ("rendezvous.", "secagg.deal", "secagg.context", "secagg.endorse", "allreduce.endorse", "mesh.endorse",
          "bucketed.endorse", "shamir-gram.endorse")
"""Kinds before the masking: who keeps one of them back ends the round, so a liar that wants more seldom does."""


def to_some(ring: Coalition, liar: PeerId, target: PeerId, kind: str) -> bool:
    """Whether a liar keeps a kind from a peer: it chooses once for each."""
    choice = ("silent", liar, target, kind)
    if ("chosen", *choice) not in ring.spent:
        ring.spent.add(("chosen", *choice))
        if ring.rng.random() < (0.01 if kind.startswith(BEFORE) else 0.5):
            ring.spent.add(choice)
    return choice in ring.spent


def _but(values: Sequence[bytes], place: int, other: bytes) -> tuple[bytes, ...]:
    return (*values[:place], other, *values[place + 1 :])


ADVERSARIES: Mapping[str, Adversary] = {
    one.name: one
    for one in (
        Adversary("equivocator", "CE-1", "proposes two values in its view, and votes for both",
                  {"propose": equivocate}, vote_for_all),
        Adversary("double-voter", "CE-2", "prepares two values in one view", {"prepare": other_vote}),
        Adversary("double-committer", "CE-4", "commits to two values in one view", {"commit": other_vote}),
        Adversary("yes-man", "CE-4", "votes for everything at once, whatever it shows and whatever it is locked on",
                  {"prepare": silent_votes, "commit": silent_votes}, vote_for_all),
        Adversary("false-lock", "CE-6", "shows locks that are none", {}, false_lock),
        Adversary("stale-certificate", "CE-5", "relays certificates of something else", {}, stale_certificate),
        Adversary("bait", "SA-7", "tries to have both kinds of share of one peer shown",
                  {"propose": baited}, bait),
        Adversary("silence", "", "keeps some of its messages from some peers", hushes=to_some),
        Adversary("late", "", "lets its vector come late to some",
                  {**dict.fromkeys(("masked", "slices", "update", "mean"), late_vector),
                   "deal": with_blobs(late_vector)}, late_arrival),
        Adversary("bad-deal", "SA-1", "deals a share that does not check", {"deal": bad_deal}),
        Adversary("two-deals", "SA-1", "signs two deals", {"deal": two_deals}),
        Adversary("two-contexts", "SA-2", "opens or endorses two contexts",
                  {"context": two_contexts, "endorse": two_contexts}),
        Adversary("two-rosters", "RV-3", "offers two rosters in a view", {"roster": two_rosters}),
        Adversary("wrong-part", "RV-6", "gives other parts of the common state than it was asked for, or none",
                  {"state": wrong_part}, unlike=True),
        Adversary("wrong-slice", "SA-10", "sends slices that are not those it signed",
                  dict.fromkeys(("masked", "slices", "update", "mean", "part", "slice"), wrong_slice)),
        Adversary("two-vectors", "EQUIVOCATION", "signs two lists of slices",
                  {"masked": two_vectors, "slices": two_vectors, "update": two_vectors}, spoils="vectors"),
        Adversary("false-holding", "SA-11", "signs a holding that is not what it holds", {"holding": false_holding}),
        Adversary("false-share", "SA-7", "shows shares that were never dealt", {"unmask": false_share}),
        Adversary("both-shares", "SA-3", "shows a survivor's mask key too", {"unmask": both_shares}),
        Adversary("two-sums", "SA-8", "signs two sums for its slice", {"sum": two_sums}, spoils="sums"),
        Adversary("false-sum", "SA-9", "publishes a wrong sum, the same to all", {"sum": false_sum}, spoils="sums"),
        Adversary("false-update", "ME-5", "sends an update that no honest peer would", {"update": false_update},
                  spoils="vectors"),
        Adversary("false-relay", "ME-4", "relays what is not certified, or other bytes",
                  {"mean": keep_mean}, false_relay),
        Adversary("false-result", "ME-6", "signs another result than the rule's", {"result": false_result}),
        Adversary("false-beacon", "SA-12", "shows shares of the beacon that were never dealt",
                  {"beacon": false_beacon}),
        Adversary("false-check", "SA-13", "reports a right sum as wrong", {"checked": false_check}),
        Adversary("replayer", "REPLAY", "delivers old entries, and others'", {}, replay),
        Adversary("framer", "", "ends rounds in an honest peer's name", {}, frame),
        *BUCKET_ADVERSARIES.values(),
        *SHARES_ADVERSARIES.values(),
    )
}
"""The adversaries by name."""
