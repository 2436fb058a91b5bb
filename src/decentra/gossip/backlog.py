"""What is to be told: each statement a bounded number of times, what was told least first (SWIM, section 4.1)."""

from __future__ import annotations

from decentra.gossip.statements import Statement, Word
from decentra.types import PeerId

Key = tuple[PeerId, PeerId]
"""Subject and author: of both a backlog holds one statement at most, so the members bound it."""

WORDS_FIRST = 5
"""Of eight statements so many may be subjects' own words before suspicions have their turn: a refutation must not wait
behind suspicions, nor the other way round."""


class _Levels:
    """Statements by how often they were told, each level in the order of coming."""

    def __init__(self, most: int) -> None:
        self._levels: list[dict[Key, bytes]] = [{} for _ in range(most)]
        self._level: dict[Key, int] = {}

    def __len__(self) -> int:
        return len(self._level)

    def put(self, key: Key, raw: bytes) -> None:
        self.drop(key)
        self._levels[0][key] = raw
        self._level[key] = 0

    def drop(self, key: Key) -> None:
        level = self._level.pop(key, None)
        if level is not None:
            del self._levels[level][key]

    def take(self, most: int) -> list[bytes]:
        if not self._level:
            return []
        taken: list[tuple[int, Key, bytes]] = []
        for number, level in enumerate(self._levels):
            if len(taken) >= most:
                break
            for key, raw in level.items():
                if len(taken) >= most:
                    break
                taken.append((number, key, raw))
        for number, key, raw in taken:
            del self._levels[number][key]
            if number + 1 < len(self._levels):
                self._levels[number + 1][key] = raw
                self._level[key] = number + 1
            else:
                del self._level[key]
        return [raw for _, _, raw in taken]


class Backlog:
    """The statements that this peer still hands on; each ``most`` times."""

    def __init__(self, most: int) -> None:
        self._words, self._suspicions = _Levels(most), _Levels(most)

    def __len__(self) -> int:
        return len(self._words) + len(self._suspicions)

    def put(self, statement: Statement) -> None:
        """Tell a statement, in place of an older one by the same author on the same subject."""
        levels = self._suspicions if statement.word is Word.SUSPECT else self._words
        levels.put((statement.subject, statement.author), statement.pack())

    def drop(self, statement: Statement) -> None:
        """Tell a suspicion no more."""
        self._suspicions.drop((statement.subject, statement.author))

    def take(self, most: int) -> list[bytes]:
        """The next statements to tell, counted as told."""
        taken = self._words.take(max(min(most, WORDS_FIRST), most - len(self._suspicions)))
        return taken + self._suspicions.take(most - len(taken))
