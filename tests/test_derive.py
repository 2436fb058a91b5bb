"""What anyone can derive: the vectors of ``specs/derive``, its formulas computed naively, and properties."""

from __future__ import annotations

import hashlib
import inspect
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beside import SPECS, vectors
from decentra import derive
from decentra.types import PeerId, RoundId, TensorSpec

VECTORS = vectors("derive")
SCRIPT, FILES, ALL, cases = VECTORS.script, VECTORS.names, VECTORS.parameters, VECTORS.cases


# ── vectors ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_function_has_vectors_and_a_formula() -> None:
    public = [
        name
        for name, value in inspect.getmembers(derive, inspect.isfunction)
        if value.__module__ == "decentra.derive" and not name.startswith("_")
    ]
    assert FILES == public == sorted(SCRIPT.INPUTS) == sorted(FORMULAS)
    for name in FILES:
        assert len({case["name"] for case in cases(name)}) == len(cases(name)) > 1


@pytest.mark.parametrize("function", FILES)
def test_the_files_are_what_the_script_writes(function: str) -> None:
    assert VECTORS.text(function) == SCRIPT.rendered(function)


@pytest.mark.parametrize(("function", "case"), ALL)
def test_the_library_gives_the_known_answer(function: str, case: dict[str, Any]) -> None:
    inputs = {key: value for key, value in case.items() if key not in ("name", "output")}
    assert SCRIPT.answer(function, inputs) == case["output"]


@pytest.mark.parametrize(("function", "case"), ALL)
def test_the_formula_of_the_readme_gives_the_known_answer(function: str, case: dict[str, Any]) -> None:
    assert FORMULAS[function](case) == case["output"]


@pytest.mark.parametrize("function", FILES)
def test_what_is_named_for_a_change_gives_another_output(function: str) -> None:
    honest = cases(function)[0]
    changed = [case for case in cases(function) if case["name"].startswith("other-")]
    assert all(case["output"] != honest["output"] for case in changed)
    if honest["name"] == "honest" and function not in ("proposer_order", "layout"):
        inputs = {key for key in honest if key not in ("name", "output")}
        assert {case["name"].removeprefix("other-").replace("-", "_") for case in changed} >= inputs


# ── the README's formulas, from the standard library alone ───────────────────────────────────────────────────────────


def hashed(label: str, *parts: bytes | str | int) -> bytes:
    """specs/crypto, "Encoding and hashing": tag, length, body."""
    state = hashlib.sha256()
    for part in (label, *parts):
        if isinstance(part, bytes):
            tag, body = b"b", part
        elif isinstance(part, str):
            tag, body = b"s", part.encode()
        else:
            tag, body = b"n", part.to_bytes(-(-part.bit_length() // 8), "little")
        state.update(tag + len(body).to_bytes(8, "little") + body)
    return state.digest()


def raw(case: dict[str, Any], *keys: str) -> list[Any]:
    """A case's values as the formulas take them: bytes from hexadecimal, a round as two numbers, lists with lengths."""
    found: list[Any] = []
    for key in keys:
        value = case[key]
        if key == "round":
            found += value
        elif isinstance(value, list):
            found += [len(value), *map(bytes.fromhex, value)]
        elif isinstance(value, str) and key not in ("kind", "topic"):
            found.append(bytes.fromhex(value))
        else:
            found.append(value)
    return found


def naive_layout(case: dict[str, Any]) -> bytes:
    parts: list[Any] = [len(case["tensors"])]
    for tensor in case["tensors"]:
        parts += [tensor["name"], len(tensor["shape"]), *tensor["shape"], tensor["dtype"]]
    return hashed("layout", *parts)


def naive_order(case: dict[str, Any]) -> list[str]:
    ordered = sorted(case["members"])
    start = hashed("proposer", *raw(case, "charter", "round"))
    first = sum(byte << 8 * index for index, byte in enumerate(start[:8])) % len(ordered)
    return [ordered[(first + view) % len(ordered)] for view in range(len(ordered))]


def naive_slices(case: dict[str, Any]) -> list[list[int]]:
    length, count = case["length"], case["count"]
    sizes = [length // count + (index < length % count) for index in range(count)]
    return [[sum(sizes[:index]), sum(sizes[: index + 1])] for index in range(count)]


def naive_range(case: dict[str, Any]) -> str:
    current, mean, low, high = (float.fromhex(case[key]) for key in ("current", "largest_mean", "low", "high"))
    wanted = sorted((current / 2, 8 * mean, current * 2))[1]
    return sorted((low, wanted, high))[1].hex()


def naive_share(case: dict[str, Any]) -> bytes:
    roster = hashed("roster", *map(bytes.fromhex, case["roster"]))
    before, after = raw(case, "session", "round", "view"), raw(case, "dealer", "receiver", "kind", "value")
    return hashed("share", *before, roster, *after)


def naive_challenged(case: dict[str, Any]) -> list[int]:
    drawn = {hashed("challenged", bytes.fromhex(case["beacon"]), slice): slice for slice in range(case["n"])}
    return [drawn[key] for key in sorted(drawn)][: case["count"]]


def naive_verifiers(case: dict[str, Any]) -> list[str]:
    place = (bytes.fromhex(case["beacon"]), case["position"])
    drawn = {hashed("verifier", *place, bytes.fromhex(peer)): peer for peer in case["candidates"]}
    return [drawn[key] for key in sorted(drawn)][: case["count"]]


def naive_buckets(case: dict[str, Any]) -> list[list[str]]:
    beacon, size = bytes.fromhex(case["beacon"]), case["size"]
    drawn = {hashed("bucket", beacon, bytes.fromhex(peer)): peer for peer in case["members"]}
    dealt = [drawn[key] for key in sorted(drawn)]
    count = len(dealt) // size or 1
    return [sorted(peer for place, peer in enumerate(dealt) if place % count == index) for index in range(count)]


def naive_common(case: dict[str, Any]) -> bytes:
    bounds = [part for pair in case["bounds"] for part in pair]
    return hashed("common", len(case["bounds"]), *bounds, *raw(case, "size", "pieces"))


def naive_parts(case: dict[str, Any]) -> list[list[int]]:
    size, pieces = case["size"], 4
    while pieces * 2**18 * 128 < size:
        pieces += 1
    edges = [*range(0, size, pieces * 2**18), size]
    return [list(pair) for pair in pairwise(edges)]


SECRET = ("session", "round", "view", "dealer", "kind", "value")
FORMULAS: dict[str, Any] = {
    "quorum": lambda case: (case["n"] + case["c"]) // 2 + 1,
    "session": lambda case: hashed("session", *raw(case, "spec_source", "charter", "epoch")).hex(),
    "proposer_order": naive_order,
    "slice_bounds": naive_slices,
    "layout": lambda case: naive_layout(case).hex(),
    "vector_layout": lambda case: hashed("vector", naive_layout(case), *case["ranges"]).hex(),
    "context": lambda case: hashed(
        "context",
        *raw(case, "session", "round", "view", "roster", "fingerprint", "layout"),
        *raw(case, "state", "width", "max_weight", "deals"),
    ).hex(),
    "common_state": lambda case: naive_common(case).hex(),
    "state_parts": naive_parts,
    "share_hash": lambda case: naive_share(case).hex(),
    "secret_hash": lambda case: hashed("secret", *raw(case, *SECRET)).hex(),
    "vote_value": lambda case: hashed("vote", *raw(case, "context", "topic", "value")).hex(),
    "outcome_value": lambda case: hashed("outcome", *raw(case, "context", "survivors", "total_weight", "sums")).hex(),
    "next_range": naive_range,
    "beacon": lambda case: hashed("beacon", *raw(case, "context", "parts")).hex(),
    "challenged_slices": naive_challenged,
    "verifiers": naive_verifiers,
    "buckets": naive_buckets,
}


# ── properties ───────────────────────────────────────────────────────────────────────────────────────────────────────

sizes = st.integers(1, 64)
digests = st.binary(min_size=32, max_size=32)
peers = st.lists(digests.map(PeerId), min_size=1, max_size=12, unique=True)
rounds = st.builds(RoundId, st.integers(0, 1 << 40), st.integers(1, 1 << 40))


@given(st.integers(0, 1 << 40))
def test_parts_of_a_state_are_whole_pieces_one_behind_the_other_and_few(size: int) -> None:
    parts = derive.state_parts(size)
    assert [start for start, _ in parts] == [0, *(stop for _, stop in parts)][: len(parts)]
    assert len(parts) <= derive.MOST_PARTS and (parts[-1][1] if parts else 0) == size
    assert all(start % derive.PIECE == 0 for start, _ in parts)
    assert len({stop - start for start, stop in parts[:-1]}) <= 1


@pytest.mark.parametrize(
    ("n", "c", "survived"),
    [(3, 1, 0), (4, 1, 1), (5, 1, 1), (7, 2, 2), (8, 2, 2), (10, 3, 3), (16, 5, 5), (64, 21, 21)],
)
def test_the_quorum_survives_as_many_stops_as_the_table_of_the_protocol_says(n: int, c: int, survived: int) -> None:
    assert n - derive.quorum(n, c) == survived


@given(st.integers(3, 64).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n - 2))))
def test_two_quorums_share_an_honest_peer_and_any_quorum_holds_two_honest_ones(numbers: tuple[int, int]) -> None:
    n, c = numbers
    t = derive.quorum(n, c)
    assert 2 * t > n + c
    assert 2 * (t - 1) <= n + c
    assert t - c >= 2
    assert t <= n


@given(st.integers(0, 1 << 40), sizes)
def test_slices_cover_every_coordinate_once_and_differ_by_one_at_most(length: int, count: int) -> None:
    bounds = derive.slice_bounds(length, count)
    assert len(bounds) == count
    assert (bounds[0][0], bounds[-1][1]) == (0, length)
    assert all(before[1] == after[0] for before, after in pairwise(bounds))
    extents = [high - low for low, high in bounds]
    assert min(extents) >= 0
    assert max(extents) - min(extents) <= 1
    assert extents == sorted(extents, reverse=True)


@given(digests, peers, st.integers(1, 20), st.randoms())
def test_buckets_hold_every_member_once_and_their_sizes_differ_by_one_at_most(
    beacon: bytes, members: list[PeerId], size: int, shuffle: Any
) -> None:
    dealt = derive.buckets(beacon, members, size)
    assert sorted(peer for bucket in dealt for peer in bucket) == sorted(members)
    assert len(dealt) == max(1, len(members) // size)
    lengths = [len(bucket) for bucket in dealt]
    assert min(lengths) >= min(size, len(members)) and max(lengths) - min(lengths) <= 1
    assert all(list(bucket) == sorted(bucket) for bucket in dealt)
    shuffle.shuffle(members)
    assert derive.buckets(beacon, members, size) == dealt


def test_every_two_members_share_a_bucket_under_about_as_many_beacons_as_chance_has_it() -> None:
    """Of nine in threes two share one in a quarter of the draws."""
    members = [PeerId(bytes((index,)) * 32) for index in range(9)]
    together = dict.fromkeys(((one, other) for one in members for other in members if one < other), 0)
    for beacon in range(400):
        for bucket in derive.buckets(beacon.to_bytes(32, "big"), members, 3):
            for pair in ((one, other) for one in bucket for other in bucket if one < other):
                together[pair] += 1
    assert all(70 <= count <= 130 for count in together.values()), together


@given(sizes, st.data())
def test_a_vector_shorter_than_the_roster_leaves_the_last_slices_empty(count: int, data: st.DataObject) -> None:
    length = data.draw(st.integers(0, count))
    bounds = derive.slice_bounds(length, count)
    assert [high - low for low, high in bounds] == [1] * length + [0] * (count - length)


@given(digests, rounds, peers, st.randoms())
def test_the_proposers_are_a_rotation_of_the_members_that_everyone_derives_alike(
    charter: bytes, round_id: RoundId, members: list[PeerId], shuffle: Any
) -> None:
    order = derive.proposer_order(charter, round_id, members)
    start = order.index(min(members))
    assert [*order[start:], *order[:start]] == sorted(members)
    shuffle.shuffle(members)
    assert derive.proposer_order(charter, round_id, members) == order


@given(digests)
def test_every_member_proposes_first_in_some_of_many_rounds(charter: bytes) -> None:
    members = [PeerId(bytes((index,)) * 32) for index in range(4)]
    first = {derive.proposer_order(charter, RoundId(0, number), members)[0] for number in range(1, 200)}
    assert first == set(members)


bounds_and_range = st.tuples(
    st.floats(1e-30, 1e30), st.floats(1e-30, 1e30), st.floats(1e-30, 1e30)
).map(lambda three: tuple(sorted(three)))


@given(bounds_and_range, st.floats(0, allow_nan=False))
def test_a_range_moves_by_at_most_a_factor_of_two_and_stays_in_its_bounds(
    numbers: tuple[float, float, float], mean: float
) -> None:
    low, current, high = numbers
    after = derive.next_range(current, mean, low, high)
    assert low <= after <= high
    assert current / 2 <= after <= current * 2
    if current / 2 <= 8 * mean <= current * 2 and low <= 8 * mean <= high:
        assert after == 8 * mean


CONTEXT: dict[str, st.SearchStrategy[Any]] = {
    "session": digests,
    "round_id": rounds,
    "view": st.integers(0, 200),
    "roster": peers.map(tuple),
    "fingerprint": digests,
    "layout": digests,
    "state": digests,
    "width": st.sampled_from((16, 32)),
    "max_weight": st.integers(1, 1 << 20),
    "deals": st.lists(digests, max_size=4).map(tuple),
}


@pytest.mark.parametrize("field", CONTEXT)
@given(data=st.data())
def test_a_context_changes_with(field: str, data: st.DataObject) -> None:
    honest = {name: data.draw(values) for name, values in CONTEXT.items()}
    other = data.draw(CONTEXT[field].filter(lambda value: value != honest[field]))
    assert derive.context(**honest) == derive.context(**honest)
    assert derive.context(**honest) != derive.context(**{**honest, field: other})


def test_a_context_has_every_field_that_is_changed_above() -> None:
    assert list(inspect.signature(derive.context).parameters) == list(CONTEXT)


@given(st.fixed_dictionaries(CONTEXT), peers, st.integers(0, 12))
def test_no_peer_of_the_roster_can_be_read_as_a_deal(
    context: dict[str, Any], members: list[PeerId], cut: int
) -> None:
    """Lists are hashed with their lengths: what stands at the end of one can't move to the beginning of the next."""
    cut %= len(members)
    deals = [bytes(peer) for peer in members]
    whole = derive.context(**{**context, "roster": members, "deals": deals})
    moved = derive.context(**{**context, "roster": members[:cut], "deals": [*members[cut:], *deals]})
    assert whole != moved


@given(st.binary(min_size=32, max_size=32), st.text(max_size=16), st.binary(max_size=64), st.integers(1, 16))
def test_a_vote_tells_where_its_topic_ends(context: bytes, topic: str, value: bytes, cut: int) -> None:
    letters = "s" * cut
    assert derive.vote_value(context, topic + letters, value) != derive.vote_value(
        context, topic, letters.encode() + value
    )


@given(st.text(max_size=8), st.text(max_size=8), st.lists(st.integers(0, 9), max_size=3))
def test_a_layout_tells_where_a_name_ends(first: str, second: str, shape: list[int]) -> None:
    apart = (TensorSpec(first, tuple(shape), "float32"), TensorSpec(second, (), "float32"))
    joined = (TensorSpec(first + second, tuple(shape), "float32"),)
    assert derive.layout(apart) != derive.layout(joined)


def test_the_readme_names_every_label_and_every_file() -> None:
    text = (SPECS / "derive" / "README.md").read_text("utf-8")
    labels = {"session", "proposer", "layout", "vector", "context", "share", "roster", "secret", "vote", "outcome"}
    labels |= {"beacon", "challenged", "verifier", "common", "bucket"}
    assert all(f"`{label}`" in text for label in labels)
    assert all(f"`{name}.json`" in text for name in FILES)
