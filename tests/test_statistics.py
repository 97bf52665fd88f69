"""The figures of a release: true to the shards, flat in memory, the same every time; and its verbs and objects."""

from __future__ import annotations

import hashlib
import json
import random
import tracemalloc
from collections import Counter
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfinstruct_hub import languages
from selfinstruct_hub.errors import ReleaseError
from selfinstruct_hub.release import columns, page
from selfinstruct_hub.release.page import diversity, lengths, samples, statistics
from tests.test_card import ROUNDS, ROWS, VERBS, shard, shards_of


def test_the_figures_are_those_of_the_rows(tmp_path: Path) -> None:
    files = shards_of(tmp_path, ROWS)
    found = statistics.measured(tmp_path, files, ROUNDS)
    assert found == statistics.measured(tmp_path, files, ROUNDS)
    assert (found["rows"], found["tasks"]) == (6, 5)
    assert found["without_input"] == {"rows": 3, "share": 0.5}
    assert found["classification"] == {"known": 3, "tasks": 1, "share": 0.3333}
    tasks = [row for row in ROWS if row[1] == 0]
    assert found["instruction"]["words"]["max"] == max(languages.words(row[2]) for row in tasks)
    assert found["instruction"]["characters"]["count"] == 5
    assert found["input"]["characters"]["max"] == 63
    assert found["output"]["characters"]["count"] == 6
    assert found["tokens"] == sum(-(-len(text.encode()) // 4) for row in ROWS for text in row[2:5])
    assert found["endpoints"] == {"tgi": 4, "openai": 1}
    assert found["first_words"][0] == {"word": "name", "instructions": 2}
    assert found["different_first_words"] == 4
    # Of round 1 only what was above the threshold is known; a cosine is no ROUGE-L.
    assert found["novelty"]["accepted"]["count"] == 3
    assert found["novelty"]["accepted"]["max"] == 0.5
    assert found["novelty"]["rejected"]["count"] == 2
    assert found["novelty"]["unmeasured"] == {"accepted": 2, "rejected": 1}
    assert [one["cost"] for one in found["rounds"]] == [None, {"amount": 0.0123, "currency": "USD"}, None]
    assert [one["drops"] for one in found["rounds"]] == [one["drops"] for one in ROUNDS]


def test_without_inputs_and_without_measured_novelty_there_is_nothing_to_tell(tmp_path: Path) -> None:
    files = shards_of(tmp_path, [(1, 0, "Name a tree.", "", "Pine", None, None, None)])
    found = statistics.measured(tmp_path, files)
    assert found["input"] == {"words": None, "characters": None, "tokens": None}
    assert found["classification"] == {"known": 0, "tasks": 0, "share": None}
    assert found["novelty"]["accepted"] is None
    assert found["novelty"]["rejected"] is None
    assert found["endpoints"] == {}
    assert found["rounds"] == []


@pytest.mark.parametrize("damage", ["fewer", "other"])
def test_configs_that_do_not_fit_one_another_are_noticed(tmp_path: Path, damage: str) -> None:
    files = shards_of(tmp_path, [(1, 0, f"Name {n}.", "", "x", None, None, 0.1) for n in range(3)])
    rows = [{"id": f"{n:016x}", "instance": 0, "nearest": []} for n in range(3)]
    shard(tmp_path, "provenance", 1, rows[:2] if damage == "fewer" else rows[::-1])
    with pytest.raises(ReleaseError, match="do not have the same rows"):
        statistics.measured(tmp_path, files)


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=200))
def test_a_distribution_is_that_of_the_sorted_values(values: list[int]) -> None:
    found = statistics.distribution(Counter(values))
    assert found is not None
    ascending = sorted(values)
    for name, share in (("p5", 5), ("p25", 25), ("median", 50), ("p75", 75), ("p95", 95)):
        assert found[name] == ascending[-(-share * len(values) // 100) - 1]
    assert found["mean"] == pytest.approx(sum(values) / len(values), abs=1e-4)
    assert (found["min"], found["max"], found["count"]) == (ascending[0], ascending[-1], len(values))
    bins = found["histogram"]
    assert sum(bins["counts"]) + bins["above"] == len(values)
    for place, count in enumerate(bins["counts"]):
        low, high = place * bins["width"], (place + 1) * bins["width"]
        assert count == sum(low <= value < high for value in values)
    assert len(bins["counts"]) <= 30
    assert str(bins["width"]).rstrip("0") in ("1", "2", "5")


@given(st.lists(st.integers(0, 10_000), min_size=1))
def test_scores_are_put_where_they_belong(ten_thousandths: list[int]) -> None:
    counts = Counter(score / 10_000 for score in ten_thousandths)
    found = statistics.distribution(counts, statistics.SCORE_BIN)
    assert found is not None
    bins = found["histogram"]["counts"]
    assert len(bins) == 20
    assert found["histogram"]["above"] == 0
    for place, count in enumerate(bins):
        high = 10_001 if place == 19 else (place + 1) * 500
        assert count == sum(place * 500 <= score < high for score in ten_thousandths)


odd_texts = st.text(max_size=20) | st.text("a b\t\n\x0b\x1c\x1f\x00,.Z9", max_size=20)


@given(st.lists(odd_texts, max_size=8), st.integers(0, 2))
def test_columns_are_counted_as_their_texts(some: list[str], cut: int) -> None:
    column = pa.array(some, pa.string()).slice(min(cut, len(some)))
    texts = some[cut:]
    counted, openings = lengths.Lengths(), Counter[str]()
    counted.add(column)
    lengths.add_openings(openings, column)
    assert counted.words == Counter(map(languages.words, texts))
    assert counted.characters == Counter(map(len, texts))
    assert counted.tokens == Counter(-(-len(text.encode()) // 4) for text in texts)
    assert openings == Counter(found[0] for text in texts if (found := languages.tokens(text[:200])))


@given(st.lists(st.floats(0, 1) | st.integers(0, 20_000).map(lambda n: n / 20_000), max_size=20))
def test_scores_are_rounded_as_python_does(scores: list[float]) -> None:
    found = statistics._rounded(np.array(scores, np.float64))
    assert [value / 10_000 for value in found.tolist()] == [round(score, 4) for score in scores]


def test_what_was_seen_in_pieces_is_what_is_read(tmp_path: Path) -> None:
    files = shards_of(tmp_path, ROWS)
    seen = page.Seen("v1.0.0", 2)
    for tables in reversed(list(statistics.tables(tmp_path, files))):
        for at in range(next(iter(tables.values())).num_rows):
            seen.add({name: table.slice(at, 1) for name, table in tables.items()})
    assert seen.tally.found(ROUNDS) == statistics.measured(tmp_path, files, ROUNDS)
    assert seen.choice.found() == samples.chosen(tmp_path, files, "v1.0.0", 2)


def test_memory_is_flat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten times the rows need hardly more than what one batch of them does."""

    def peak(rows: int) -> int:
        folder = tmp_path / str(rows)
        text = "Describe the river. " * 20
        row = {"instruction": text, "input": "", "output": text, "round": 1}
        origin = {"instance": 0, "nearest": [{"id": "a", "score": 0.5}], "mean_similarity": 0.1}
        files = [
            shard(folder, "default", 1, [{"id": str(n), **row} for n in range(rows)]),
            shard(folder, "provenance", 1, [{"id": str(n), **origin} for n in range(rows)]),
        ]
        tracemalloc.start()
        try:
            assert statistics.measured(folder, files)["rows"] == rows
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    monkeypatch.setattr(statistics, "_BATCH", 128)
    assert peak(6_000) < 1.3 * peak(600)


def test_a_shard_is_never_held_whole(tmp_path: Path) -> None:
    """What pyarrow holds is not seen by Python's own count."""
    draw = random.Random(0)
    path = tmp_path / "data" / "default" / "train-00000-of-00001.parquet"
    path.parent.mkdir(parents=True)
    with pq.ParquetWriter(path, columns.schema("default")) as writer:
        for group in range(40):
            texts = [draw.randbytes(500).hex() for _ in range(200)]
            rows = [{"id": str(group), "instruction": text, "round": 1} for text in texts]
            writer.write_table(pa.Table.from_pylist(rows, schema=columns.schema("default")))
    files = [{"path": path.relative_to(tmp_path).as_posix(), "config": "default"}]
    before = pa.total_allocated_bytes()
    held = max(pa.total_allocated_bytes() for _ in statistics.batches(tmp_path, files, "default", ["instruction"]))
    assert path.stat().st_size > 4_000_000
    assert held - before < 2_500_000


def test_columns_of_several_shards_come_in_order(tmp_path: Path) -> None:
    files = shards_of(tmp_path, ROWS)
    found = statistics.batches(tmp_path, files, "default", ["id"])
    ids = [key for batch in found for key in batch["id"].to_pylist()]
    assert ids == [f"{n:016x}" for n in range(6)]
    assert list(statistics.instructions(tmp_path, files)) == [row[2] for row in ROWS if row[1] == 0]


# Verbs and objects. The parses are given, in spaCy's own documents, because no model has to be installed.

# text: heads, dependencies, parts of speech of its words
PARSES = {
    "Write a short story .": ([0, 3, 3, 0, 0], "ROOT det amod dobj punct", "VERB DET ADJ NOUN PUNCT"),
    "write letters": ([0, 0], "ROOT dobj", "VERB NOUN"),
    "Name three trees .": ([0, 2, 0, 0], "ROOT nummod obj punct", "VERB NUM NOUN PUNCT"),
    "Can you find it ?": ([2, 2, 2, 2, 2], "aux nsubj ROOT dobj punct", "AUX PRON VERB PRON PUNCT"),
    "A question to solve puzzles": ([1, 1, 3, 1, 3], "det ROOT aux relcl dobj", "DET NOUN PART VERB NOUN"),
    "Open <b>x</b>": ([0, 0], "ROOT dobj", "VERB NOUN"),
    "Go . Eat pie": ([0, 0, 2, 2], "ROOT punct ROOT dobj", "VERB PUNCT VERB NOUN"),
    "Which tree ?": ([1, 1, 1], "det ROOT punct", "DET NOUN PUNCT"),
}
EXPECTED = {
    "Write a short story .": ("write", "story"),
    "write letters": ("write", "letters"),
    "Name three trees .": ("name", "trees"),
    "Can you find it ?": ("find", None),  # a pronoun says nothing
    "A question to solve puzzles": ("solve", "puzzles"),
    "Open <b>x</b>": ("open", None),
    "Go . Eat pie": ("go", None),  # the first sentence decides
    "Which tree ?": (None, None),
}


class Parsed:
    """Parses the texts of PARSES as it is told to, and counts them."""

    def __init__(self) -> None:
        self.seen = 0

    def pipe(self, texts: Any, batch_size: int) -> Any:
        spacy = pytest.importorskip("spacy")
        vocabulary = spacy.blank("en").vocab
        for text in texts:
            self.seen += 1
            words, (heads, deps, kinds) = text.split(), PARSES[text]
            yield spacy.tokens.Doc(
                vocabulary, words=words, heads=heads, deps=deps.split(), pos=kinds.split(), lemmas=words
            )


def test_the_root_verb_and_its_first_noun_object_are_found() -> None:
    documents = Parsed().pipe(PARSES, 1)
    assert {text: diversity.verb_and_object(doc) for text, doc in zip(PARSES, documents, strict=True)} == EXPECTED


EMPTY = {"instructions": 0, "with_verb": 0, "pairs": {}}


def test_pairs_are_counted_and_summed_up() -> None:
    texts = [*PARSES, "write letters", "write letters\nto everybody"]
    found = diversity.counted(texts, Parsed(), EMPTY)
    assert found["instructions"] == 10
    assert found["with_verb"] == 9
    assert found["pairs"]["write"] == {"letters": 3, "story": 1}
    shown = diversity.summary({"pipeline": "x", "digest": "y", **found})
    assert set(shown) == set(VERBS)
    assert (shown["with_object"], shown["different"]) == (6, 4)
    first = {"verb": "write", "instructions": 4}
    objects = [{"object": "letters", "instructions": 3}, {"object": "story", "instructions": 1}]
    assert shown["verbs"][0] == {**first, "objects": objects}
    assert [one["verb"] for one in shown["verbs"]] == ["write", "name", "solve"]


def test_what_was_counted_is_not_counted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    spacy = pytest.importorskip("spacy")
    parser = Parsed()
    monkeypatch.setattr(spacy, "load", lambda name, **options: parser)
    monkeypatch.setattr(spacy.util, "get_package_version", lambda name: "1.0")
    texts = list(PARSES)
    half = diversity.measured(lambda: texts[:4], "xx_test_sm")
    assert half is not None
    whole = diversity.measured(lambda: texts, "xx_test_sm")
    assert whole is not None
    assert whole["pipeline"] == f"xx_test_sm 1.0, spaCy {spacy.__version__}"
    for known, counted in (
        ([half], 4),
        ([half, whole], 0),
        ([{**half, "digest": "other"}], 8),
        ([{**half, "pipeline": "other"}], 8),
    ):
        parser.seen = 0
        assert diversity.measured(lambda: texts, "xx_test_sm", known) == whole
        assert parser.seen == counted


def test_the_smallest_model_of_the_language_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    there = ["en_core_web_trf", "en_core_web_md", "en_core_web_sm", "zh_core_web_lg", "en_of_mine"]
    models = [EntryPoint(name, name, "spacy_models") for name in there]
    monkeypatch.setattr(diversity, "find_spec", lambda name: object())
    monkeypatch.setattr(diversity, "entry_points", lambda *, group: models if group == "spacy_models" else [])
    assert diversity.pipeline_for("en") == "en_core_web_sm"
    assert diversity.pipeline_for("zh-TW") == "zh_core_web_lg"
    assert diversity.pipeline_for("fr") is None


def test_without_spacy_nothing_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfinstruct_hub.release.page.diversity.find_spec", lambda name: None)
    assert diversity.pipeline_for("en") is None
    assert diversity.measured(lambda: ["Write a poem."], None) is None


def test_an_earlier_release_is_believed_only_as_it_was_released(tmp_path: Path) -> None:
    (tmp_path / "assets").mkdir()
    content = json.dumps({**EMPTY, "digest": "0", "pipeline": "x"}).encode()
    (tmp_path / page.VERBS).write_bytes(content)
    entry = {"path": page.VERBS, "sha256": hashlib.sha256(content).hexdigest()}
    (tmp_path / "manifest.json").write_text(json.dumps({"files": [entry]}))
    assert [one["pipeline"] for one in page._counted([tmp_path])] == ["x"]
    (tmp_path / page.VERBS).write_bytes(content + b" ")
    assert list(page._counted([tmp_path])) == []
    assert list(page._counted([tmp_path / "none"])) == []


def test_an_installed_model_parses_real_instructions() -> None:
    pipeline = diversity.pipeline_for("en")
    if pipeline is None:
        pytest.skip("no spaCy model of English is installed")
    texts = ["Write an essay about bees.", "Describe the process of baking bread.", "What is love?"] * 2
    found = diversity.measured(lambda: texts, pipeline)
    assert found is not None
    assert found["pairs"] == {"describe": {"process": 2}, "write": {"essay": 2}}


def test_every_column_that_is_read_is_there() -> None:
    assert {"instance", "nearest", "mean_similarity", "endpoint_kind"} <= set(columns.COLUMNS["provenance"])
