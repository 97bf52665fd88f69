"""Full mode: an instruction compared with everything there is. Nearest neighbours, and the mean over all.

Scores are counted before they are sorted: texts of one length with one common length have one score, so that some
hundred cells (kind, common length) stand for a whole pool.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rapidfuzz.distance import LCSseq
from rapidfuzz.process import cdist

from selfinstruct_hub.novelty.encoding import Encoded, Texts
from selfinstruct_hub.novelty.measure import f1

# Threads cost more than they bring below so many pairs.
_WORTH_THREADS = 50_000
# Queries that are compared at once, and the pairs whose common lengths are held for it.
_BATCH, _MOST_PAIRS = 64, 4_000_000
# Scores are summed as integers of this unit: the mean then depends neither on the order of the texts nor on how
# they were compared. The sum over 2 ** 22 texts fits.
_UNIT = 2.0**40


def common_lengths(queries: Sequence[Encoded], texts: Sequence[Encoded]) -> Any:
    """Length of the longest common subsequence of each of `queries` with each of `texts`: an array of unsigned
    integers (queries, texts)."""
    longest = max(map(len, queries), default=0)
    dtype = np.uint8 if longest < 2**8 else np.uint16 if longest < 2**16 else np.uint32
    workers = (os.cpu_count() or 1) if len(queries) * len(texts) > _WORTH_THREADS else 1
    return cdist(queries, texts, scorer=LCSseq.similarity, dtype=dtype, workers=workers)


@dataclass(frozen=True)
class _Cells:
    """Every cell that a query of one length can meet: its score, the same in units, and the cells from the highest
    score to the lowest."""

    scores: Any
    units: Any
    best_first: Any


@dataclass(frozen=True)
class Tally:
    """One query against the first texts of a pool: the sum of all scores in units, and those texts that may be
    among the nearest, in order, with their scores."""

    units: int
    places: Any
    scores: Any


_EMPTY = Tally(0, np.zeros(0, np.int64), np.zeros(0))


class FullScan:
    """Compares with all of `texts`, whatever is added to them. Reports `most_similar` neighbours."""

    def __init__(self, texts: Texts, most_similar: int) -> None:
        self._texts = texts
        self._most_similar = most_similar
        self._cells: dict[int, _Cells] = {}

    def batch(self, size: int) -> int:
        """How many queries are compared at once with `size` texts."""
        return max(1, min(_BATCH, _MOST_PAIRS // max(1, size)))

    def settle(self) -> None:
        """Nothing is kept of the texts but themselves."""

    def known(self, queries: Sequence[Encoded], end: int) -> list[Tally]:
        """Each of `queries` against the first `end` texts."""
        if not end:
            return [_EMPTY] * len(queries)
        found = common_lengths(queries, self._texts.between(0, end))
        kinds = self._texts.kinds(0, end)
        return [self._tally(len(query), row, kinds) for query, row in zip(queries, found, strict=True)]

    def mutual(self, queries: Sequence[Encoded]) -> Any:
        """What `queries` have in common, a row for each."""
        return common_lengths(queries, queries)

    def nearest(
        self, query: Encoded, known: Tally, mutual: Any, added: Mapping[int, int], size: int
    ) -> tuple[list[tuple[int, float]], float | None]:
        """The nearest texts as (place, F1), the best first and ties in the order they were added, and the mean F1:
        of the `size` texts `known` and of those `added` since, by their numbers in the row `mutual` of `query`."""
        if not size and not added:
            return [], 0.0
        places, scores, units = known.places, known.scores, known.units
        count = size + len(added)
        if added:
            cells = self._cells_for(len(query))
            met = self._texts.kinds(size, count) * (len(query) + 1) + mutual[list(added)]
            units += int(cells.units[met].sum())
            scores = np.concatenate([scores, cells.scores[met]])
            places = np.concatenate([places, np.arange(size, count)])
        best = np.argsort(-scores, kind="stable")[: self._most_similar]
        nearest = [
            (place, score)
            for place, score in zip(places[best].tolist(), scores[best].tolist(), strict=True)
            if score > 0
        ]
        return nearest, round(units / _UNIT / count, 6)

    def _tally(self, length: int, common: Any, kinds: Any) -> Tally:
        cells = self._cells_for(length)
        met = kinds * np.int32(length + 1) + common
        counts = np.bincount(met, minlength=len(cells.scores))
        # From the best score down until there are enough texts; all of those with the last one's score stay.
        enough = int(np.searchsorted(np.cumsum(counts[cells.best_first]), self._most_similar))
        last = cells.scores[cells.best_first[min(enough, len(counts) - 1)]]
        among = cells.scores >= max(last, np.nextafter(0, 1))
        places = np.flatnonzero(among[met])
        return Tally(int(counts @ cells.units), places, cells.scores[met[places]])

    def _cells_for(self, length: int) -> _Cells:
        lengths = self._texts.lengths
        cells = self._cells.get(length)
        if cells is None or len(cells.scores) != len(lengths) * (length + 1):
            scores = f1(np.arange(length + 1), length, lengths[:, None]).ravel()
            units = np.rint(scores * _UNIT).astype(np.int64)
            cells = self._cells[length] = _Cells(scores, units, np.argsort(-scores, kind="stable"))
        return cells
