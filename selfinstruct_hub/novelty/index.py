"""Finds every text above the threshold without comparing with the rest.

Prefix filtering as in set-similarity joins (AllPairs, Bayardo et al. 2007; with positions as in PPJoin, Xiao et
al. 2008), for multisets of tokens and Dice's coefficient, which bounds ROUGE-L F1 from above: two texts of m and n
tokens that score above the threshold share at least `required(m, n)` tokens. With the tokens of both in one order,
the rarest first, the first shared one must leave both at least that many, itself included; so a text is found
under its rare tokens only, and only by texts of a length that can match. What is found so is compared on small
bitmaps, and what is left verified with rapidfuzz. No bound can be wrong: nothing above the threshold is missed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from rapidfuzz.distance import LCSseq
from rapidfuzz.process import cpdist

from selfinstruct_hub.novelty.encoding import Encoded, codes, lengths
from selfinstruct_hub.novelty.measure import f1, required, shortest_partner

# An element is a token and which of its occurrences in the text it is, so that multisets are sets. A key in the
# index is an element's rank, the text's class of length, and how many elements the text has left from there on.
_OCCURRENCE, _RANK, _CLASS = 40, 32, 20
_MOST_LEFT = 2**_CLASS - 1
# Lengths have classes of their own up to here, and share one with those up to 6% longer beyond.
_OWN_CLASS, _GROWTH = 32, 1.06
# Elements that are looked up, and pairs that are held, at a time.
_ELEMENTS, _PAIRS = 65_536, 2_000_000
_WORDS = 2  # of 64 bits in a bitmap
_MULTIPLIER = 0x9E3779B97F4A7C15  # Knuth's, for multiplicative hashing


class Segment:
    """Texts that stay as they are, indexed. `first` is the number of the first one in its pool."""

    def __init__(self, texts: Sequence[Encoded], first: int, threshold: float) -> None:
        self.first = first
        self._threshold = threshold
        self._texts = np.empty(len(texts), object)
        self._texts[:] = texts
        owners, elements, self._lengths = _elements(texts)
        self._bitmaps = _bitmaps(texts, self._lengths)
        self._known, ranks, counts = np.unique(elements, return_inverse=True, return_counts=True)
        rarest_first = np.argsort(counts, kind="stable")
        self._ranks = np.empty(len(self._known), np.int64)
        self._ranks[rarest_first] = np.arange(len(self._known))
        owners, ranks, left = _in_order(owners, self._ranks[ranks], self._lengths)
        own = self._lengths[owners]
        needed = np.zeros(int(self._lengths.max(initial=0)) + 1, np.int64)
        for length in np.unique(self._lengths).tolist():
            needed[length] = _least_required(length, threshold)
        kept = left >= needed[own]
        self._classes = _classes(int(self._lengths.max(initial=0)))
        class_ = np.searchsorted(self._classes, own[kept], side="right") - 1
        keys = (ranks[kept] << _RANK) | (class_ << _CLASS) | np.minimum(left[kept], _MOST_LEFT)
        order = np.argsort(keys, kind="stable")
        self._keys = keys[order]
        self._owners = owners[kept][order].astype(np.int32)

    def __len__(self) -> int:
        return len(self._texts)

    def above(self, probe: Probe) -> list[tuple[int, int, float]]:
        """What of this segment scores above the threshold with the texts of `probe`: the text's number there, the
        number in the pool, and F1. In no order."""
        queries: list[Any] = []
        texts: list[Any] = []
        for owners, elements in probe.parts():
            at = np.searchsorted(self._known, elements)
            at[at == len(self._known)] = 0
            there = self._known[at] == elements if len(self._known) else np.zeros(len(at), bool)
            # What is not in the segment is rarer than everything that is.
            ranks = np.where(there, self._ranks[at] if len(self._known) else 0, -1)
            owners, ranks, left = _in_order(owners, ranks + 1, probe.lengths)
            met = ranks > 0
            for some, others in self._meeting(owners[met], ranks[met] - 1, left[met], probe):
                queries.append(some)
                texts.append(others)
        return self._verified(np.concatenate(queries), np.concatenate(texts), probe) if queries else []

    def _meeting(self, owners: Any, ranks: Any, left: Any, probe: Probe) -> list[tuple[Any, Any]]:
        """Pairs (text of the probe, text here) whose first shared element leaves enough to both, and whose bitmaps
        do not rule them out."""
        # For each length in the probe and each class of lengths here, the least that two texts must share.
        least = np.stack([_least(length, len(self._classes) - 1, self._threshold) for length in probe.different])
        wanted = least[probe.kinds[owners]]
        element, class_ = np.nonzero(wanted <= left[:, None])
        base = (ranks[element] << _RANK) | (class_ << _CLASS)
        low = np.searchsorted(self._keys, base | np.minimum(wanted[element, class_], _MOST_LEFT))
        high = np.searchsorted(self._keys, base + (1 << _CLASS))
        counts = high - low
        some = counts > 0
        low, counts, by = low[some], counts[some], owners[element[some]]
        ends = np.cumsum(counts)
        found = []
        start = 0
        while start < len(counts):
            before = int(ends[start - 1]) if start else 0
            end = max(start + 1, int(np.searchsorted(ends, before + _PAIRS, side="right")))
            several = counts[start:end]
            shift = low[start:end] - (ends[start:end] - several - before)
            postings = np.arange(several.sum()) + np.repeat(shift, several)
            pairs = np.unique((np.repeat(by[start:end], several) << 32) | self._owners[postings])
            found.append(self._possible(pairs >> 32, pairs & 0xFFFFFFFF, probe))
            start = end
        return found

    def _possible(self, queries: Any, owners: Any, probe: Probe) -> tuple[Any, Any]:
        """Without the pairs that cannot share enough: a bit that one has and the other has not is an element that
        they do not share."""
        one, other = probe.bitmaps[queries], self._bitmaps[owners]
        only_one = np.bitwise_count(one & ~other).sum(axis=1, dtype=np.int64)
        only_other = np.bitwise_count(other & ~one).sum(axis=1, dtype=np.int64)
        lengths, own = probe.lengths[queries], self._lengths[owners]
        shared = np.minimum(lengths - only_one, own - only_other)
        # A hair below what is required: ties are settled when the pair is verified.
        kept = 2 * shared > self._threshold * (lengths + own) - 1e-6
        return queries[kept], owners[kept]

    def _verified(self, queries: Any, owners: Any, probe: Probe) -> list[tuple[int, int, float]]:
        pairs = np.unique((queries << 32) | owners)  # a pair may have met more than once
        queries, owners = pairs >> 32, pairs & 0xFFFFFFFF
        common = cpdist(
            probe.texts[queries].tolist(), self._texts[owners].tolist(), scorer=LCSseq.similarity, dtype=np.int64
        )
        lengths, own = probe.lengths[queries], self._lengths[owners]
        above = common >= required(lengths, own, self._threshold)
        scores = f1(common[above], lengths[above], own[above])
        places = owners[above] + self.first
        return list(zip(queries[above].tolist(), places.tolist(), scores.tolist(), strict=True))


class Probe:
    """Texts to look for, prepared once for all segments."""

    def __init__(self, texts: Sequence[Encoded]) -> None:
        self.texts = np.empty(len(texts), object)
        self.texts[:] = texts
        self._owners, self._elements, self.lengths = _elements(texts)
        self.bitmaps = _bitmaps(texts, self.lengths)
        different, self.kinds = np.unique(self.lengths, return_inverse=True)
        self.different: list[int] = different.tolist()

    def parts(self) -> list[tuple[Any, Any]]:
        """Owners and elements, in parts of whole texts that are small enough to work on."""
        ends = np.cumsum(self.lengths)
        cuts = np.searchsorted(ends, np.arange(_ELEMENTS, int(ends[-1]) if len(ends) else 0, _ELEMENTS)) + 1
        places = ends[np.unique(cuts) - 1]
        return list(zip(np.split(self._owners, places), np.split(self._elements, places), strict=True))


def _elements(texts: Sequence[Encoded]) -> tuple[Any, Any, Any]:
    """Of all texts: the text's number and the element, sorted by both; and the texts' lengths."""
    own = lengths(texts)
    keys = (np.repeat(np.arange(len(texts)), own) << 32) | codes(texts)
    keys.sort()
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])) if len(keys) else keys
    runs = np.diff(np.append(starts, len(keys)))
    occurrence = np.arange(len(keys)) - np.repeat(starts, runs)
    return keys >> 32, (keys & 0xFFFFFFFF) | (occurrence << _OCCURRENCE), own


def _in_order(owners: Any, ranks: Any, lengths: Any) -> tuple[Any, Any, Any]:
    """Elements by owner and rank, with how many their text has left from each on, itself included. `owners` come
    sorted and whole."""
    keys = (owners << 32) | ranks
    keys.sort()
    owners = keys >> 32
    if not len(keys):
        return owners, keys, keys
    starts = np.flatnonzero(np.concatenate([[True], owners[1:] != owners[:-1]]))
    place = np.arange(len(keys)) - np.repeat(starts, np.diff(np.append(starts, len(keys))))
    return owners, keys & 0xFFFFFFFF, lengths[owners] - place


def _bitmaps(texts: Sequence[Encoded], own: Any) -> Any:
    """A bit for each different token, by a hash: an array of uint64 (texts, _WORDS)."""
    hashed = (codes(texts).astype(np.uint64) * np.uint64(_MULTIPLIER)) >> np.uint64(64 - 6 - (_WORDS - 1))
    maps = np.zeros(len(texts) * _WORDS, np.uint64)
    place = np.repeat(np.arange(len(texts)) * _WORDS, own) + (hashed >> np.uint64(6)).astype(np.int64)
    np.bitwise_or.at(maps, place, np.uint64(1) << (hashed & np.uint64(63)))
    return maps.reshape(len(texts), _WORDS)


def _classes(longest: int) -> Any:
    """Where each class of lengths begins, and behind them where the last one ends."""
    begins = list(range(_OWN_CLASS + 1))
    while begins[-1] <= longest:
        begins.append(int(begins[-1] * _GROWTH) + 1)
    return np.array(begins, np.int64)


@lru_cache(maxsize=65_536)
def _least(length: int, classes: int, threshold: float) -> Any:
    """For each of the first `classes` classes of lengths, the least that a text of `length` must share with one of
    them to score above `threshold`; `length` + 1 where it cannot with any."""
    begins = _classes(0)
    while len(begins) <= classes:
        begins = _classes(int(begins[-1]))
    others = np.arange(begins[classes])
    needed = required(length, others, threshold)
    needed[needed > np.minimum(length, others)] = length + 1
    return np.minimum.reduceat(needed, begins[:classes])


@lru_cache(maxsize=65_536)
def _least_required(length: int, threshold: float) -> int:
    """The least that a text of `length` must share with any other."""
    partner = shortest_partner(length, threshold)
    return int(required(partner, length, threshold)) if partner <= length else length + 1
