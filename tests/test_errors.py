"""What an error suggests where a word is unknown."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from decentra.errors import did_you_mean, nearest

WORDS = st.text(alphabet="abcdefghijklmnopqrstuvwxyz", min_size=4, max_size=12).filter(
    lambda word: len(set(word)) == len(word)
)


@given(WORDS, st.data())
def test_one_slip_of_the_finger_is_understood(word: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(word) - 1))
    before, letter, after = word[:place], word[place], word[place + 1 :]
    swapped = before + after[:1] + letter + after[1:]
    for slip in (before + after, f"{before}_{after}", before + 2 * letter + after, swapped):
        assert nearest(slip, [word]) == word
        assert did_you_mean(slip, [word], "choose") == f"did you mean {word!r}?"


@given(WORDS)
def test_what_is_like_nothing_is_told_what_there_is(word: str) -> None:
    assert nearest(word.upper(), [word]) is None
    assert did_you_mean(word.upper(), [word], "choose one") == "choose one"
    assert nearest(word, []) is None
