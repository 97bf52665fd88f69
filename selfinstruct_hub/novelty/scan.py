"""Full mode: an instruction compared with everything there is. Nearest neighbours, and the mean over all.

All pairs are ranked by F1 in whole units, which costs little; rouge-score's own floating-point value is computed
for the few that may be among the nearest.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rapidfuzz.distance import LCSseq
from rapidfuzz.process import cdist

from selfinstruct_hub.novelty.encoding import Encoded, Texts, lengths
from selfinstruct_hub.novelty.measure import f1

# Threads cost more than they bring below so many pairs.
_WORTH_THREADS = 50_000
# Queries that are compared at once: rapidfuzz is the faster the more there are, but they are compared with one
# another too. And the pairs whose common lengths are held for it, a byte each.
_BATCH, _MOST_PAIRS = 128, 8_000_000
# Pairs that are ranked at once: what numpy holds for them stays in a core's cache.
_RANKED = 24_576
# Scores are summed as integers of this unit: the mean then depends neither on the order of the texts nor on how
# they were compared. The sum over 2 ** 22 texts fits.
_UNIT = 2.0**40

# A text's place in the pool, and its F1.
Scored = tuple[int, float]


def common_lengths(queries: Sequence[Encoded], texts: Sequence[Encoded]) -> Any:
    """Length of the longest common subsequence of each of `queries` with each of `texts`: an array of unsigned
    integers (queries, texts)."""
    longest = max(map(len, queries), default=0)
    dtype = np.uint8 if longest < 2**8 else np.uint16 if longest < 2**16 else np.uint32
    workers = (os.cpu_count() or 1) if len(queries) * len(texts) > _WORTH_THREADS else 1
    return cdist(queries, texts, scorer=LCSseq.similarity, dtype=dtype, workers=workers)


@dataclass(frozen=True)
class Known:
    """One query against the first texts of a pool: the nearest, the best first and ties in order, and the sum of
    all scores in units."""

    nearest: list[Scored]
    units: int


@dataclass(frozen=True)
class Mutual:
    """One query against those it came with: the (number, F1) of those near enough to be among its nearest, in
    order, and all scores in units."""

    nearer: list[Scored]
    units: Any


class FullScan:
    """Compares with all of `texts`, whatever is added to them. Reports `most_similar` neighbours."""

    def __init__(self, texts: Texts, most_similar: int) -> None:
        self._texts = texts
        self._most_similar = most_similar

    def batch(self, size: int) -> int:
        """How many queries are compared at once with `size` texts."""
        return max(1, min(_BATCH, _MOST_PAIRS // max(1, size)))

    def settle(self) -> None:
        """Nothing is kept of the texts but themselves."""

    def known(self, queries: Sequence[Encoded], end: int) -> list[Known]:
        """Each of `queries` against the first `end` texts."""
        if not end:
            return [Known([], 0) for _ in queries]
        common, length = common_lengths(queries, self._texts.between(0, end)), lengths(queries)
        own = self._texts.lengths(0, end)
        step = max(1, _RANKED // end)
        return [
            known
            for first in range(0, len(queries), step)
            for known in self._ranked(common[first : first + step], length[first : first + step], own)
        ]

    def known_each(self, queries: Sequence[Encoded], ends: Sequence[int]) -> list[Known]:
        """Each of `queries` against as many of the first texts as `ends` says for it."""
        found: list[Known] = []
        while len(found) < len(queries):
            first = len(found)
            # Those that follow each other have about the same end: what is too much of some is little.
            count = self.batch(max(ends[first : first + _BATCH]))
            some, until = queries[first : first + count], ends[first : first + count]
            common, length = common_lengths(some, self._texts.between(0, max(until))), lengths(some)
            for at, end in enumerate(until):
                if end:
                    row, own = slice(at, at + 1), self._texts.lengths(0, end)
                    found += self._ranked(common[row, :end], length[row], own)
                else:
                    found.append(Known([], 0))
        return found

    def together(self, queries: Sequence[Encoded], end: int) -> tuple[list[Known], list[Mutual]]:
        """The same, and each of `queries` against all of them."""
        known = self.known(queries, end)
        common, length = common_lengths(queries, queries), lengths(queries)
        # Of two equally near the earlier one counts: what comes later must be nearer than the last one known.
        full = [one.nearest[-1][1] if len(one.nearest) == self._most_similar else 0.0 for one in known]
        scores = f1(common, length[:, None], length)
        row, other = np.nonzero(scores > np.array(full)[:, None])
        nearer = _by_row(len(queries), row, other, scores[row, other])
        units = _units(common, length, length).astype(np.int64)
        return known, [Mutual(*both) for both in zip(nearer, units, strict=True)]

    def nearest(
        self, known: Known, mutual: Mutual, added: Mapping[int, int], size: int
    ) -> tuple[list[Scored], float | None]:
        """The nearest texts as (place, F1), the best first and ties in the order they were added, and the mean F1:
        of the `size` texts `known` and of those `added` since, by their numbers in `mutual`."""
        if not size and not added:
            return [], 0.0
        nearest, units = known.nearest, known.units
        if added:
            if nearer := [(added[other], score) for other, score in mutual.nearer if other in added]:
                nearest = sorted(nearest + nearer, key=lambda one: (-one[1], one[0]))[: self._most_similar]
            of = mutual.units.tolist()
            units += sum([of[other] for other in added])
        return nearest, round(units / _UNIT / (size + len(added)), 6)

    def _ranked(self, common: Any, length: Any, own: Any) -> list[Known]:
        """Queries of so many tokens against texts of `own` tokens, given what is common to them."""
        units = _units(common, length, own)
        # Whoever has as many units as the last of the nearest may be one of them, and nobody else: scores that are
        # the same number have the same units, and of two others the higher one has no fewer.
        last = max(0, len(own) - self._most_similar)
        least = np.maximum(np.partition(units, last, axis=1)[:, last], 1)
        row, place = np.divmod(np.flatnonzero(units >= least[:, None]), len(own))
        scores = f1(common[row, place], length[row], own[place])
        order = np.lexsort((-scores, row))
        nearest = _by_row(len(common), row[order], place[order], scores[order])
        sums = units.astype(np.int64).sum(axis=1).tolist()
        return [Known(some[: self._most_similar], sum_) for some, sum_ in zip(nearest, sums, strict=True)]


def _units(common: Any, length: Any, own: Any) -> Any:
    """F1 of texts of `length` tokens with those of `own`, given their common lengths, in units: whole numbers, an
    array of float64. By the plain formula, a third of the work of `f1`: for texts of some hundred tokens no
    rounding of either reaches the unit, and for longer ones it is one unit off at most."""
    units = common * (2 * _UNIT)
    units /= np.maximum(length, 1.0)[:, None] + own.astype(np.float64)
    return np.rint(units, out=units)


def _by_row(rows: int, row: Any, place: Any, scores: Any) -> list[list[Scored]]:
    """(place, score) of each row, given sorted by rows."""
    found = list(zip(place.tolist(), scores.tolist(), strict=True))
    ends = np.cumsum(np.bincount(row, minlength=rows)).tolist()
    return [found[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
