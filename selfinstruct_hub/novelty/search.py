"""Fast mode: what is above the threshold, in a pool that grows.

Texts are indexed in segments that stay as they are; small ones are merged as the pool grows, and the newest texts
are compared one by one until there are enough of them for a segment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from selfinstruct_hub.novelty.encoding import Encoded, Texts, lengths
from selfinstruct_hub.novelty.index import Probe, Segment
from selfinstruct_hub.novelty.measure import f1
from selfinstruct_hub.novelty.scan import common_lengths

# The least texts that are worth a segment, how many of one size become one, and the most that one may hold, for
# the memory that building it takes.
_LEAST, _FANOUT, _LARGEST = 2048, 4, 2**18
# Queries that are looked up together.
_BATCH = 512

Above = list[tuple[int, float]]


class FastSearch:
    """Finds those of `texts` that score above `threshold`, whatever is added to them. Reports `most_similar` of
    them at most."""

    def __init__(self, texts: Texts, most_similar: int, threshold: float) -> None:
        self._texts = texts
        self._most_similar = most_similar
        self._threshold = threshold
        # The segments and how many texts they hold: one value, because another thread may look while it changes.
        self._index: tuple[Sequence[Segment], int] = ((), 0)

    def batch(self, size: int) -> int:
        """How many queries are compared at once with `size` texts."""
        return _BATCH

    def known(self, queries: Sequence[Encoded], end: int) -> list[Above]:
        """The (place, F1) of those of the first `end` texts that score above the threshold, for each of
        `queries`."""
        above: list[Above] = [[] for _ in queries]
        built, indexed = self._index
        segments = [segment for segment in built if segment.first < end]
        if segments:
            probe = Probe(queries)
            for segment in segments:
                for which, place, score in segment.above(probe):
                    if place < end:
                        above[which].append((place, score))
        if indexed < end:
            own = self._texts.lengths(indexed, end)
            for which, place, score in self.clear(queries, self._texts.between(indexed, end), own):
                above[which].append((place + indexed, score))
        return above

    def mutual(self, queries: Sequence[Encoded]) -> list[Above]:
        """The (number, F1) of those of `queries` that score above the threshold, for each of them."""
        above: list[Above] = [[] for _ in queries]
        for which, other, score in self.clear(queries, queries, lengths(queries)):
            above[which].append((other, score))
        return above

    def together(self, queries: Sequence[Encoded], end: int) -> tuple[list[Above], list[Above]]:
        """What is known of `queries`, and what of each other."""
        return self.known(queries, end), self.mutual(queries)

    def nearest(
        self, known: Above, mutual: Above, added: Mapping[int, int], size: int
    ) -> tuple[list[tuple[int, float]], float | None]:
        """The nearest texts above the threshold as (place, F1), the best first and ties in the order they were
        added: of those `known` and of those `added` since, by their numbers in `mutual`. No
        mean."""
        found = known + [(added[other], score) for other, score in mutual if other in added]
        return sorted(found, key=lambda one: (-one[1], one[0]))[: self._most_similar], None

    def settle(self) -> None:
        """Indexes what was added, where it is enough."""
        while (waiting := len(self._texts) - self._index[1]) >= _LEAST:
            self._add(min(waiting, _LARGEST))

    def _add(self, count: int) -> None:
        """Makes a segment of the next `count` texts, together with the last segments if they are of its size."""
        segments, indexed = self._index
        sizes = [*(len(segment) for segment in segments), count]
        while len(last := sizes[-_FANOUT:]) == _FANOUT and _level(last[0]) <= _level(last[-1]):
            if sum(last) > _LARGEST:
                break
            sizes[-_FANOUT:] = [sum(last)]
        indexed += count
        first = indexed - sizes[-1]
        last_one = Segment(self._texts.between(first, indexed), first, self._threshold)
        self._index = ((*segments[: len(sizes) - 1], last_one), indexed)

    def clear(
        self, queries: Sequence[Encoded], texts: Sequence[Encoded], own: Any
    ) -> list[tuple[int, int, float]]:
        """The (query, text, F1) of those that score above the threshold, all compared. `own` are the lengths of
        `texts`, in tokens."""
        common, length = common_lengths(queries, texts), lengths(queries)
        # By a plain formula and a hair below it first: F1 to the last bit takes longer, and few come near.
        near = common > ((self._threshold / 2) * (length[:, None] + own) - 1e-6).astype(np.float32)
        row, column = np.nonzero(near)
        scores = f1(common[row, column], length[row], own[column])
        above = scores > self._threshold
        return list(zip(row[above].tolist(), column[above].tolist(), scores[above].tolist(), strict=True))


def _level(size: int) -> int:
    return (size // _LEAST).bit_length()
