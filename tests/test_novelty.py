"""The novelty gate gives rouge-score's verdict on every pair."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rouge_score import rouge_scorer
from rouge_score.tokenizers import DefaultTokenizer

from selfinstruct_hub import languages
from selfinstruct_hub.novelty import NoveltyGate, scan, search
from selfinstruct_hub.novelty.encoding import Alphabet
from selfinstruct_hub.novelty.index import Segment
from selfinstruct_hub.novelty.measure import f1


class OurTokenizer:
    def tokenize(self, text: str) -> list[str]:
        return languages.tokens(text)


SCORER = rouge_scorer.RougeScorer(["rougeL"], tokenizer=OurTokenizer())
THEIRS = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)

words = st.sampled_from(
    [
        *("write", "a", "poem", "about", "the", "sea", "Résumé", "re\u0301sume\u0301", "2016.", "don't", "", "x"),
        *("数学", "用Python写", "诗。", "コーヒー", "हिन्दी", "เขียน", "시를", "ＰＤＦ", "❤️"),
    ]
)
separators = st.sampled_from([" ", "", "，"])
texts = st.one_of(
    st.builds(lambda parts, by: by.join(parts), st.lists(words, max_size=14), separators), st.text(max_size=40)
)


def reference(one: str, other: str) -> float:
    return float(SCORER.score(one, other)["rougeL"].fmeasure)


@given(st.lists(texts, min_size=1, max_size=6), texts)
@example(["a b c d e f g h i j"], "a b c d e f g")  # 7 of 10 and 7 of 7
@example(["a b c d e f g x y z"], "a b c d e f g u v w")  # exactly 0.7
@example([""], "")
@example(["写一首关于秋天的诗"], "写一首关于春天的诗")
def test_scores_are_rouge_scores_to_the_last_bit(pool: list[str], candidate: str) -> None:
    gate = NoveltyGate(len(pool))
    gate.extend((str(i), text) for i, text in enumerate(pool))
    found = {n.id: n.score for n in gate.compare(candidate).nearest}
    wanted = {str(i): score for i, text in enumerate(pool) if (score := reference(text, candidate)) > 0}
    assert found == wanted


@given(st.integers(1, 40), st.integers(1, 40), st.data())
def test_ties_at_the_threshold_fall_as_rouge_score_lets_them(m: int, n: int, data: st.DataObject) -> None:
    """Every combination of lengths and common words, so every fraction that floats may get wrong."""
    common = data.draw(st.integers(0, min(m, n)))
    one = [f"c{i}" for i in range(common)] + [f"a{i}" for i in range(m - common)]
    other = [f"c{i}" for i in range(common)] + [f"b{i}" for i in range(n - common)]
    gate = NoveltyGate()
    gate.add("one", " ".join(one))
    score = gate.compare(" ".join(other)).score
    for threshold in (0.7, 0.5, 2 / 3):
        assert (score > threshold) == (reference(" ".join(one), " ".join(other)) > threshold)


@given(st.integers(0, 300), st.integers(0, 300))
def test_the_mean_counts_every_score_to_the_unit(m: int, n: int) -> None:
    """Whatever is ranked and summed by the plain formula is F1, and never ranks the higher score lower."""
    common = np.arange(min(m, n) + 1)
    units = scan._units(common[:, None], np.full(len(common), m), np.array([n]))[:, 0]
    assert units.tolist() == np.rint(f1(common, m, n) * scan._UNIT).tolist()


@given(st.text(st.characters(max_codepoint=127)))
def test_tokens_of_ascii_are_rouge_scores(text: str) -> None:
    assert languages.tokens(text) == DefaultTokenizer(use_stemmer=False).tokenize(text)


def score(one: str, other: str) -> float:
    gate = NoveltyGate()
    gate.add("one", one)
    return gate.compare(other).score


def test_identical_chinese_is_alike() -> None:
    text = "写一首关于秋天的诗"
    assert THEIRS.score(text, text)["rougeL"].fmeasure == 0.0  # what is mended here
    assert score(text, text) == 1.0
    assert score(text, "写一首关于春天的诗") == reference(text, "写一首关于春天的诗") == 8 / 9


def test_chinese_that_shares_one_latin_word_is_not_alike() -> None:
    one, other = "用Python写一个排序函数", "解释Python为什么流行"
    assert THEIRS.score(one, other)["rougeL"].fmeasure == 1.0  # what is mended here
    assert score(one, other) < 0.2


def test_accents_do_not_break_words() -> None:
    assert THEIRS.score("Résumé", "r, sum")["rougeL"].fmeasure == 1.0  # what is mended here
    assert score("Résumé", "r, sum") == 0.0
    assert score("Résumé", "re\u0301sume\u0301") == 1.0


def test_nearest_come_first_with_the_mean_over_all() -> None:
    gate = NoveltyGate(2)
    gate.extend([("x", "name a tree"), ("y", "name a red tree"), ("z", "sing it loud"), ("w", "name a tree")])
    similarity = gate.compare("name a tree")
    assert [(n.id, n.score) for n in similarity.nearest] == [("x", 1.0), ("w", 1.0)]
    assert similarity.mean == round((1 + 6 / 7 + 0 + 1) / 4, 6)
    assert NoveltyGate().compare("anything").score == 0.0


def test_a_pool_may_outgrow_its_first_room_and_the_plain_characters() -> None:
    gate = NoveltyGate(1)
    for number in range(3000):
        gate.add(str(number), " ".join(f"w{number * 20 + k}" for k in range(20)))  # 60,000 different words
    last = " ".join(f"w{2999 * 20 + k}" for k in range(20))
    assert gate.compare(last).nearest[0].id == "2999"
    assert gate.compare(last).score == 1.0


@given(st.lists(texts, max_size=6), st.lists(texts, min_size=1, max_size=8), st.integers(1, 5), st.integers(1, 4))
def test_many_at_once_are_compared_as_one_by_one(
    pool: list[str], candidates: list[str], most_similar: int, many: int
) -> None:
    """Every other candidate is added, and counts against those behind it; in both ways to the last bit."""
    gates = [NoveltyGate(most_similar), NoveltyGate(most_similar)]
    for gate in gates:
        gate.extend((f"p{i}", text) for i, text in enumerate(pool))
    ranked = mock.patch.object(scan, "_RANKED", many * len(pool))
    with ranked, mock.patch.object(scan.FullScan, "batch", return_value=2 * many):
        comparison = gates[0].comparison(candidates)
        for place, text in enumerate(candidates):
            assert comparison[place] == gates[1].compare(text)
            if place % 2:
                for gate in gates:
                    gate.add(f"c{place}", text)


@given(
    st.lists(st.sampled_from(["a b c", "a b", "a b d", "x y", "a"]), min_size=1, max_size=30), st.integers(1, 6)
)
def test_the_nearest_are_those_of_a_full_stable_sort(pool: list[str], most_similar: int) -> None:
    gate = NoveltyGate(most_similar)
    gate.extend((str(i), text) for i, text in enumerate(pool))
    scored = [(reference(text, "a b c"), i) for i, text in enumerate(pool)]
    best = sorted((item for item in scored if item[0] > 0), key=lambda item: (-item[0], item[1]))
    assert [(n.id, n.score) for n in gate.compare("a b c").nearest] == [
        (str(i), score) for score, i in best[:most_similar]
    ]


def test_many_alike_are_no_more_than_the_nearest() -> None:
    gate = NoveltyGate(3)
    gate.extend((str(i), "name a red tree" if i % 2 else "name a tree") for i in range(400))
    for similarity in (gate.compare("name a tree"), gate.comparison(["sing", "name a tree"])[1]):
        assert [(n.id, n.score) for n in similarity.nearest] == [("0", 1.0), ("2", 1.0), ("4", 1.0)]
        assert similarity.mean == round((1 + 6 / 7) / 2, 6)


def test_two_threads_agree_on_what_every_token_is_written_as() -> None:
    """While a draw is judged in a thread, instructions of the next ones are looked at."""
    texts = [f"word{n} other{n % 7} more{n * n}" for n in range(500)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(20):
            alphabet = Alphabet()
            with ThreadPoolExecutor(4) as threads:
                found = [threads.submit(lambda of: [of.encoded(text) for text in texts], alphabet) for _ in "four"]
            assert all(one.result() == found[0].result() for one in found)
            assert len(set(alphabet.values())) == len(alphabet)
    finally:
        sys.setswitchinterval(interval)


def test_fast_search_finds_everything_while_it_indexes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What another thread asks in the middle of it, a building segment asks here."""
    monkeypatch.setattr(search, "_LEAST", 8)
    gate = NoveltyGate(1, mode="fast", threshold=0.7)
    gate.extend((str(n), f"alone {n} one {n * 7} two {n * 13}") for n in range(16))
    gate.extend((str(n), f"alone {n} one {n * 7} two {n * 13}") for n in range(16, 21))  # too few to index
    asked: list[str] = []

    class Building(Segment):
        def __init__(self, *args: Any) -> None:
            for n in range(21):
                asked.append(gate.compare(f"alone {n} one {n * 7} two {n * 13}", among=21).nearest[0].id)
            super().__init__(*args)

    monkeypatch.setattr(search, "Segment", Building)
    gate.extend((str(n), f"alone {n} one {n * 7} two {n * 13}") for n in range(21, 64))
    assert asked == [str(n) for n in range(21)]
