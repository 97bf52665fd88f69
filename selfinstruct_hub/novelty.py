"""The novelty gate: ROUGE-L F1 of an instruction against the seeds and every accepted task.

The verdict equals rouge-score's (`rougeL` F-measure, no stemmer) on every pair, given the tokens of `languages`;
for plain ASCII these are rouge-score's own. rapidfuzz computes the length of the longest common subsequence, an
integer, and F1 follows from it by rouge-score's own floating-point expression, so that a tie at exactly the
threshold falls on the same side. The only gate with state.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from rapidfuzz.distance import LCSseq
from rapidfuzz.process import cdist

from selfinstruct_hub import languages
from selfinstruct_hub.records import Neighbour, Similarity

_ROOM_AT_FIRST = 1024
# Instructions that are compared at once, and the pairs that may be held for it.
_MANY, _MOST_CELLS = 32, 2_000_000
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
        return self._similarity(self._scores([tokens], 0, len(self._ids) if among is None else among)[0])

    def comparison(self, instructions: Sequence[str]) -> Comparison:
        """The same for several instructions, faster than one by one."""
        return Comparison(self, instructions)

    def _scores(self, tokenised: Sequence[Sequence[str]], first: int, end: int) -> Any:
        """F1 of each of several instructions with those added from number `first` to before `end`: an array of
        float64 (instructions, end - first)."""
        if first == end:
            return np.zeros((len(tokenised), 0))
        encoded = ["".join(self._alphabet.get(token, _UNSEEN) for token in tokens) for tokens in tokenised]
        common = cdist(encoded, self._texts[first:end], scorer=LCSseq.similarity, dtype=np.int32)
        lengths = np.array([[max(1, len(text))] for text in encoded])
        return _f1(common, lengths, self._lengths[first:end])

    def _similarity(self, scores: Any) -> Similarity:
        count = len(scores)
        if not count or not scores.any():
            return Similarity()
        # Those at or above the last score that counts, in the order they were added; then the best first. A sort
        # of all of them would take longer than comparing them.
        last = 0.0
        if count > self._most_similar:
            last = np.partition(scores, count - self._most_similar)[count - self._most_similar]
        among = np.flatnonzero(scores >= last)
        best = among[np.argsort(-scores[among], kind="stable")][: self._most_similar]
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


class Comparison:
    """Several instructions that are compared one after the other, with all that is in the gate when each has its
    turn. What is there already is compared with many at once, what is added in between with each alone; the result
    is that of `NoveltyGate.compare` to the last bit."""

    def __init__(self, gate: NoveltyGate, instructions: Sequence[str]) -> None:
        self._gate = gate
        self._tokenised = [languages.tokens(text) for text in instructions]
        self._first = self._known = 0
        self._scores: Any = None

    def __getitem__(self, place: int) -> Similarity:
        gate = self._gate
        if self._scores is None or not 0 <= place - self._first < len(self._scores):
            self._first, self._known = place, len(gate)
            many = max(1, min(_MANY, _MOST_CELLS // max(1, self._known)))
            self._scores = gate._scores(self._tokenised[place : place + many], 0, self._known)
        scores = self._scores[place - self._first]
        added = gate._scores([self._tokenised[place]], self._known, len(gate))[0]
        return gate._similarity(np.concatenate([scores, added]) if len(added) else scores)


def _f1(common: Any, length: Any, lengths: Any) -> Any:
    """rouge-score's F-measure, operation by operation, over arrays of float64. Empty texts score 0."""
    precision = common / length
    recall = common / np.maximum(lengths, 1)
    total = precision + recall
    return np.where(total > 0, 2 * precision * recall / np.where(total > 0, total, 1), 0.0)
