"""The novelty gate: ROUGE-L F1 of an instruction against the seeds and every accepted task.

The verdict equals rouge-score's (`rougeL` F-measure, no stemmer) on every pair, given the tokens of `languages`;
for plain ASCII these are rouge-score's own. rapidfuzz computes the length of the longest common subsequence, an
integer, and F1 follows from it by rouge-score's own floating-point expression, so that a tie at exactly the
threshold falls on the same side. The only gate with state.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from rapidfuzz.distance import LCSseq
from rapidfuzz.process import cdist

from selfinstruct_hub import languages
from selfinstruct_hub.records import Neighbour, Similarity

_ROOM_AT_FIRST = 1024
# Tokens are mapped to characters, because rapidfuzz compares texts faster than lists. Surrogates are no
# characters; chr(0) stands for every token that the pool has never seen.
_UNSEEN = "\0"
_FIRST_SURROGATE, _AFTER_SURROGATES, _LAST = 0xD800, 0xE000, 0x10FFFF


class NoveltyGate:
    """Instructions that a candidate is compared with. `most_similar` neighbours are reported."""

    def __init__(self, most_similar: int = 10) -> None:
        self._most_similar = most_similar
        self._alphabet: dict[str, str] = {}
        self._ids: list[str] = []
        self._texts: list[str] = []
        self._lengths: Any = np.zeros(_ROOM_AT_FIRST)

    def __len__(self) -> int:
        return len(self._ids)

    def extend(self, instructions: Iterable[tuple[str, str]]) -> None:
        """Adds (id, instruction) pairs to what is compared with."""
        for key, text in instructions:
            self.add(key, text)

    def add(self, key: str, instruction: str) -> None:
        """Adds one instruction under the id `key`."""
        encoded = "".join(self._character(token) for token in languages.tokens(instruction))
        if len(self._ids) == len(self._lengths):
            self._lengths = np.concatenate([self._lengths, np.zeros(len(self._lengths))])
        self._lengths[len(self._ids)] = len(encoded)
        self._ids.append(key)
        self._texts.append(encoded)

    def compare(self, instruction: str, *, among: int | None = None) -> Similarity:
        """The nearest instructions with their scores, ties in the order they were added, and the mean; all of
        them, or the first `among` that were added."""
        tokens = languages.tokens(instruction)
        count = len(self._ids) if among is None else among
        if not count or not tokens:
            return Similarity()
        encoded = "".join(self._alphabet.get(token, _UNSEEN) for token in tokens)
        common = cdist([encoded], self._texts[:count], scorer=LCSseq.similarity, dtype=np.int32)[0]
        scores = _f1(common, len(encoded), self._lengths[:count])
        best = np.argsort(-scores, kind="stable")[: self._most_similar]
        nearest = tuple(Neighbour(self._ids[i], float(scores[i])) for i in best if scores[i] > 0)
        return Similarity(nearest=nearest, mean=round(float(scores.mean()), 6))

    def _character(self, token: str) -> str:
        known = self._alphabet.get(token)
        if known is None:
            code = len(self._alphabet) + 1
            if code >= _FIRST_SURROGATE:
                code += _AFTER_SURROGATES - _FIRST_SURROGATE
            if code > _LAST:
                raise OverflowError("the pool has more than 1,112,063 different words")
            known = self._alphabet[token] = chr(code)
        return known


def _f1(common: Any, length: int, lengths: Any) -> Any:
    """rouge-score's F-measure, operation by operation, over arrays of float64. Empty texts score 0."""
    precision = common / length
    recall = common / np.maximum(lengths, 1)
    total = precision + recall
    return np.where(total > 0, 2 * precision * recall / np.where(total > 0, total, 1), 0.0)
