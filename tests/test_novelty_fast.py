"""Fast mode finds what full mode finds above the threshold, and both keep what a plain rouge-score scan keeps."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from unittest import mock

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rouge_score import rouge_scorer, scoring

from selfinstruct_hub import languages
from selfinstruct_hub.novelty import (
    FULL_UP_TO,
    Mode,
    NoveltyGate,
    encoding,
    index,
    measure,
    mode_for,
    scan,
    search,
)
from selfinstruct_hub.records import Neighbour
from tests.benchmarks.corpus import instructions

MODES: tuple[Mode, ...] = ("full", "fast")
THRESHOLDS = (0.5, 0.6, 2 / 3, 0.7, 0.75, 0.8, 0.9)
# Few words, so that texts meet often and scores lie on the threshold often.
words = st.sampled_from([*"abcdefgh", "写", "诗", "关", "于"])
texts = st.lists(words, max_size=14).map(" ".join)


def scores(tokenised: Sequence[Sequence[str]], text: Sequence[str]) -> list[float]:
    return [float(rouge_scorer._score_lcs(one, text).fmeasure) for one in tokenised]


Kept = tuple[list[int], dict[int, tuple[int, float]]]


def plain_scan(candidates: Sequence[str], threshold: float) -> Kept:
    """The places kept, and the nearest (place, score) of each that is not, every pair scored by rouge-score."""
    kept: list[int] = []
    dropped = {}
    tokenised = [languages.tokens(text) for text in candidates]
    for place, tokens in enumerate(tokenised):
        found = scores([tokenised[i] for i in kept], tokens)
        highest = max(found, default=0.0)
        if highest > threshold:
            dropped[place] = (kept[found.index(highest)], highest)
        else:
            kept.append(place)
    return kept, dropped


def sifted(candidates: Sequence[str], threshold: float, mode: Mode, batch: int | None = None) -> Kept:
    """The same by the gate: `batch` candidates at a time, or one by one."""
    gate = NoveltyGate(3, mode=mode, threshold=threshold)
    kept: list[int] = []
    dropped = {}
    for first in range(0, len(candidates), batch or 1):
        some = candidates[first : first + (batch or 1)]
        comparison = gate.comparison(some)
        for row, text in enumerate(some):
            similarity = comparison[row] if batch else gate.compare(text)
            if similarity.score > threshold:
                dropped[first + row] = (int(similarity.nearest[0].id), similarity.score)
            else:
                kept.append(first + row)
                if batch:
                    comparison.accept(row, str(first + row))
                else:
                    gate.add(str(first + row), text)
    return kept, dropped


@contextmanager
def small_parts(least: int = 2, batch: int = 4) -> Iterator[None]:
    """Segments, batches and working parts so small that a few texts go through all of them."""
    with (
        mock.patch.object(search, "_LEAST", least),
        mock.patch.object(search, "_FANOUT", 2),
        mock.patch.object(search, "_LARGEST", 4 * least),
        mock.patch.object(search, "_BATCH", batch),
        mock.patch.object(scan, "_MOST_PAIRS", 8),
        mock.patch.object(index, "_ELEMENTS", 8),
        mock.patch.object(index, "_PAIRS", 3),
    ):
        yield


@settings(deadline=None)
@given(st.lists(texts, max_size=24), st.sampled_from(THRESHOLDS), st.integers(1, 4), st.integers(1, 30))
@example(["a b c d e f g h a a", "a b c d e f g b b b"], 0.7, 1, 2)  # exactly at the threshold
@example(["", "", "a", "a"], 0.7, 1, 1)
def test_every_way_keeps_what_a_plain_scan_keeps(
    candidates: list[str], threshold: float, least: int, batch: int
) -> None:
    wanted = plain_scan(candidates, threshold)
    with small_parts(least, batch):
        for mode in MODES:
            assert sifted(candidates, threshold, mode, batch) == wanted
            assert sifted(candidates, threshold, mode) == wanted


@pytest.mark.parametrize("language", ["en", "zh"])
def test_instructions_of_real_lengths_are_kept_alike(language: str) -> None:
    """With near-duplicates, and with segments and merging as they are at work."""
    candidates = instructions(200, language)
    wanted = plain_scan(candidates, 0.7)
    assert 20 < len(wanted[1]) < 100, "the corpus is no test"
    with mock.patch.object(search, "_LEAST", 16):
        assert sifted(candidates, 0.7, "fast", 100) == wanted
    assert sifted(candidates, 0.7, "full", 100) == wanted


@settings(deadline=None)
@given(
    st.lists(texts, max_size=20), st.lists(texts, min_size=1, max_size=6), st.sampled_from(THRESHOLDS), st.data()
)
def test_fast_mode_tells_of_full_modes_neighbours_those_above_the_threshold(
    pool: list[str], candidates: list[str], threshold: float, data: st.DataObject
) -> None:
    among = data.draw(st.integers(0, len(pool)))
    with small_parts():
        full, fast = (NoveltyGate(4, mode=mode, threshold=threshold) for mode in MODES)
        for gate in (full, fast):
            gate.extend((str(i), text) for i, text in enumerate(pool))
        for text in candidates:
            for first in (None, among):
                everything = full.compare(text, among=first)
                found = fast.compare(text, among=first)
                assert found.mean is None
                assert found.nearest == tuple(n for n in everything.nearest if n.score > threshold)


@pytest.mark.parametrize("mode", MODES)
def test_what_is_added_besides_counts_too(mode: Mode) -> None:
    gate = NoveltyGate(2, mode=mode)
    comparison = gate.comparison(["name a red tree", "sing it loud", "name a red tree", "sing it loud"])
    assert comparison[0].nearest == ()
    comparison.accept(0, "first")
    gate.add("other", "sing it loud")
    assert comparison[1].nearest == (Neighbour("other", 1.0),)
    assert comparison[2].nearest == (Neighbour("first", 1.0),)


def test_required_is_the_first_common_length_above_the_threshold() -> None:
    lengths = np.arange(0, 41)
    for threshold in (0.0, *THRESHOLDS, 0.99):
        needed = measure.required(lengths[:, None], lengths, threshold)
        for m in lengths[1:].tolist():
            for n in lengths[1:].tolist():
                above = [c for c in range(1, min(m, n) + 1) if scoring.fmeasure(c / m, c / n) > threshold]
                assert needed[m, n] == above[0] if above else needed[m, n] > min(m, n), (threshold, m, n)


@pytest.mark.parametrize("threshold", [0.3, 0.7, 0.9])
def test_least_shared_by_class_of_lengths_bounds_every_length_in_it(threshold: float) -> None:
    begins = index._classes(110)
    assert begins[0] == 0
    assert begins[-1] > 110
    assert (np.diff(begins) > 0).all()
    for length in (0, 1, 5, 16, 33, 90, 110):
        least = index._least(length, len(begins) - 1, threshold)
        for other in range(1, 111):
            needed = int(measure.required(length, other, threshold))
            if needed <= min(length, other):
                assert least[np.searchsorted(begins, other, side="right") - 1] <= needed
    for length in range(1, 110):
        partner = measure.shortest_partner(length, threshold)
        possible = [n for n in range(1, length + 1) if measure.required(n, length, threshold) <= n]
        assert partner == (possible[0] if possible else length + 1)


def test_texts_beyond_the_plain_characters_are_compared_all_the_same() -> None:
    candidates = instructions(400)
    wanted = sifted(candidates, 0.7, "full", 100)
    with mock.patch.object(encoding, "_LAST", 300), mock.patch.object(search, "_LEAST", 32):
        alphabet = encoding.Alphabet()
        assert {type(alphabet.encoded(text)) for text in candidates} == {str, tuple}
        for mode in MODES:
            assert sifted(candidates, 0.7, mode, 100) == wanted


def test_long_texts_are_compared_with_long_and_short_ones() -> None:
    """Longer than a byte counts to, than the lengths with a class of their own, and one word many times."""
    rng = random.Random(0)
    long = [rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(700)]
    candidates = [long, long[:300], long[:500], [*long[:250], *long[450:]], ["a"] * 300, ["a"] * 200, long[:30]]
    joined = [" ".join(tokens) for tokens in candidates]
    wanted = plain_scan(joined, 0.7)
    assert len(wanted[1]) >= 3
    with small_parts():
        for mode in MODES:
            assert sifted(joined, 0.7, mode, 4) == wanted


def test_the_mean_does_not_depend_on_the_order_of_the_pool() -> None:
    pool, (candidate,) = instructions(300), instructions(1, seed=1)
    means = set()
    for seed in range(5):
        random.Random(seed).shuffle(pool)
        gate = NoveltyGate(1)
        gate.extend((str(i), text) for i, text in enumerate(pool))
        means.add(gate.compare(candidate).mean)
    plain = np.mean(scores([languages.tokens(t) for t in pool], languages.tokens(candidate)))
    assert means == {round(float(plain), 6)}


def test_the_mode_follows_the_size_of_the_pool() -> None:
    assert mode_for(FULL_UP_TO, 0.7) == "full"
    assert mode_for(FULL_UP_TO + 1, 0.7) == "fast"
    assert mode_for(FULL_UP_TO + 1, 0.3) == "full"  # bounds rule out little there
