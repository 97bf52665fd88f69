"""Seed files: what is refused and how it is said, and everything that a program can check of our own."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from selfinstruct_hub import assets, config, filters, languages, novelty, recipes, seeds
from selfinstruct_hub.errors import SeedError
from selfinstruct_hub.records import Candidate, Task

GOOD = {
    "id": "a",
    "name": "n",
    "instruction": "Name a colour.",
    "instances": [{"input": "", "output": "Red."}],
    "is_classification": False,
}


def without(key: str) -> dict[str, Any]:
    return {k: v for k, v in GOOD.items() if k != key}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2: not valid JSON"),
        ("[1]", "line 2: expected a JSON object, found a list"),
        (json.dumps(without("instruction")), "line 2: field `instruction` is missing"),
        (json.dumps(without("id")), "line 2: field `id` is missing"),
        (json.dumps(without("is_classification")), "field `is_classification` is missing; expected true or false"),
        (json.dumps({**GOOD, "instruction": 3}), "line 2, field `instruction`: expected a text, found a number"),
        (json.dumps({**GOOD, "instruction": " "}), "line 2, field `instruction`: empty"),
        (json.dumps({**GOOD, "instruction": "Say \ud800."}), "field `instruction`: holds half a character"),
        (json.dumps({**GOOD, "name": "\ud800"}), "line 2, field `name`: holds half a character"),
        ("[" * 100_000, "line 2: not"),
        ("9" * 5000, "line 2: not a seed task"),
        (json.dumps({**GOOD, "instances": []}), "line 2, field `instances`: empty"),
        (json.dumps({**GOOD, "instances": ["x"]}), "field `instances[0]`: expected an object"),
        (json.dumps({**GOOD, "instances": [{"input": ""}]}), "field `instances[0]`: field `output` is missing"),
        (
            json.dumps({**GOOD, "instances": [{"input": "\ud800", "output": "x"}]}),
            "line 2, field `instances[0]`, field `input`: holds half a character",
        ),
        (
            json.dumps({**GOOD, "instances": [{"input": "", "output": " "}]}),
            "line 2, field `instances[0]`, field `output`: empty; expected a text",
        ),
        (json.dumps({**GOOD, "is_classification": "no"}), "field `is_classification`: expected true or false"),
        (
            json.dumps({**without("instances"), "output": "Red."}),
            "missing, but there is `output`; to read such rows",
        ),
        (json.dumps(GOOD), "line 2: `id` repeats line 1"),
        (json.dumps({**GOOD, "id": "b"}), "line 2: `instruction` repeats line 1"),
    ],
)
def test_a_broken_row_is_named(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "seeds.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" + line + "\n")
    with pytest.raises(SeedError, match=re.escape(said)) as error:
        seeds.read(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_files_without_rows_and_missing_files(tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n\n")
    with pytest.raises(SeedError, match="no seed tasks"):
        seeds.read(empty)
    latin = tmp_path / "latin.jsonl"
    latin.write_bytes(json.dumps(GOOD).encode() + b"\n\xe9")
    with pytest.raises(SeedError, match="line 2: not UTF-8"):
        seeds.read(latin)
    table = tmp_path / "seeds.parquet"
    table.write_bytes(b"PAR1")
    with pytest.raises(SeedError, match="a seed file is JSONL; to read this one by its columns"):
        seeds.read(table)
    for name in ("nowhere.jsonl", "../no/folder", "a b", "x" * 97, "~nobody-of-that-name/seeds"):
        with pytest.raises(SeedError, match=r"no such seed file|cannot be looked at"):
            seeds.locate(name, "en", tmp_path)
    with pytest.raises(
        SeedError, match=r"language `xx` \(there are: en\b.*\); set `seeds` \(init: --seeds\) to a file of yours"
    ):
        seeds.locate(None, "xx", tmp_path)


def test_what_settings_name(tmp_path: Path) -> None:
    path = tmp_path / "seeds.jsonl"
    path.write_text(json.dumps(GOOD))
    (tmp_path / "org").mkdir()
    assert seeds.locate("../seeds.jsonl", "en", tmp_path / "w") == path
    assert seeds.locate(str(path), "en", tmp_path / "w") == path
    assert seeds.locate("org", "en", tmp_path) == tmp_path / "org"  # a folder that is there is meant
    assert seeds.locate("org/name", "en", tmp_path) == "org/name"
    assert seeds.locate(None, "en", tmp_path) == assets.folder("seeds") / "en.jsonl"
    assert seeds.load(config.Settings(seeds="seeds.jsonl"), tmp_path) == seeds.read(path)
    assert len(seeds.load(config.Settings(), tmp_path)) == 175


def test_seeds_in_another_script_than_the_language(tmp_path: Path) -> None:
    path = tmp_path / "seeds.jsonl"
    chinese = {**GOOD, "id": "b", "instruction": "写一首关于 spring 的诗。"}
    path.write_text(json.dumps(chinese) + "\n\n" + json.dumps(GOOD), encoding="utf-8")
    with pytest.raises(SeedError) as error:
        seeds.load(config.validate({"seeds": "seeds.jsonl", "language": "zh"}, source="test"), tmp_path)
    assert str(error.value) == (
        f"{path}, line 3, field `instruction`: not a character of it is in the script of Chinese; set `language` "
        "to the language of the seeds, or `seeds` to tasks written in Chinese"
    )
    assert len(seeds.read(path)) == 2
    assert len(seeds.read(path, languages.of("en"))) == 2  # half a sentence of Latin letters is enough


def test_a_separator_inside_a_text_ends_no_line(tmp_path: Path) -> None:
    path = tmp_path / "seeds.jsonl"
    row = {**GOOD, "instances": [{"input": "", "output": "one\u2028two\x85three"}]}
    path.write_text("\ufeff" + json.dumps(row, ensure_ascii=False), encoding="utf-8")
    (task,) = seeds.read(path)
    assert task.instances[0].output == "one\u2028two\x85three"
    assert seeds.as_row(task) == row


def test_a_seed_file_may_be_one_array(tmp_path: Path) -> None:
    path = tmp_path / "seeds.json"
    other = {**GOOD, "id": "b", "instruction": "Name a tree.", "name": 7}
    path.write_text("\ufeff" + json.dumps([GOOD, other], indent=4), encoding="utf-8")
    found = seeds.load(config.Settings(seeds="seeds.json"), tmp_path)
    assert [seeds.as_row(task) for task in found] == [GOOD, {**other, "name": ""}]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[]", ": no seed tasks in it; expected one JSON object a line, or one JSON array of objects"),
        (json.dumps([GOOD, 1]), ", row 2: expected a JSON object, found a number"),
        (json.dumps([GOOD, GOOD]), ", row 2: `id` repeats row 1; every seed task needs its own"),
        (
            json.dumps([GOOD, {**GOOD, "id": "\ud800"}]),
            ", row 2, field `id`: holds half a character (a lone surrogate); write the whole one",
        ),
        (
            json.dumps([GOOD])[:-1],
            ", line 1: not valid JSON (Expecting ',' delimiter at column 135); expected one array of objects",
        ),
        ("[" * 100_000, ": not an array of objects (a value in it cannot be read)"),
        (f"[{'9' * 5000}]", ": not an array of objects (a value in it cannot be read)"),
    ],
)
def test_a_broken_array_is_refused_in_one_line(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "seeds.json"
    path.write_text(content)
    with pytest.raises(SeedError) as error:
        seeds.read(path)
    assert str(error.value) == f"{path}{said}"


# Our own seeds.


@pytest.fixture(scope="module")
def english() -> list[Task]:
    return seeds.read(assets.folder("seeds") / "en.jsonl")


def test_ours_have_the_size_and_the_mix_of_the_paper(english: list[Task]) -> None:
    assert len(english) == 175
    assert 24 <= sum(bool(task.is_classification) for task in english) <= 28
    assert 46 <= sum(all(not i.input for i in task.instances) for task in english) <= 54
    assert len({task.name for task in english}) == 175


def test_ours_pass_every_rule_that_candidates_must_pass(english: list[Task]) -> None:
    rules = filters.Rules(4, 150, recipes.named("alpaca").blocked_words, 5, 0.5, languages.of("en"))
    dropped = {
        task.id: drop
        for task in english
        if (drop := filters.instruction_drop(Candidate(task.instruction, task.instances), rules))
    }
    assert dropped == {}


def test_ours_keep_every_instance(english: list[Task]) -> None:
    rules = filters.Rules(4, 150, (), 5, 0.5, languages.of("en"))
    for task in english:
        kept, lost, drop = filters.kept_instances(Candidate(task.instruction, task.instances), rules)
        assert (kept, lost, drop) == (task.instances, (), None), task.id


def test_no_two_of_ours_resemble_each_other(english: list[Task]) -> None:
    gate = novelty.NoveltyGate(1)
    nearest = []
    for task in english:
        similarity = gate.compare(task.instruction)
        nearest.append((similarity.score, task.id))
        gate.add(task.id, task.instruction)
    assert max(nearest)[0] <= 0.5, max(nearest)
    assert max(nearest)[0] > 0.2  # the comparison did compare


def test_ours_vary_in_verb_label_and_length(english: list[Task]) -> None:
    verbs = Counter(task.instruction.split()[0] for task in english)
    assert verbs.most_common(1)[0][1] <= 10
    labels = [i.output for task in english if task.is_classification for i in task.instances]
    assert len(set(labels)) >= 20
    assert all(len(label.split()) <= 6 for label in labels)
    words = sorted(len(i.output.split()) for task in english for i in task.instances)
    assert words[0] <= 3
    assert words[-1] >= 120


def test_code_and_json_in_ours_are_well_formed(english: list[Task]) -> None:
    """Every Python answer compiles, and every JSON answer parses."""
    checked = Counter[str]()
    for task, instance in itertools.chain.from_iterable([(t, i) for i in t.instances] for t in english):
        for block in re.findall(r"```python\n(.*?)```", instance.output, re.DOTALL):
            compile(block, task.id, "exec")
            checked["python"] += 1
        if re.match(r"(def|import|from|class|for) ", instance.output):
            compile(instance.output, task.id, "exec")
            checked["python"] += 1
        for text in re.findall(r"```json\n(.*?)```|\A([{\[]\s*[{\"\[].*)", instance.output, re.DOTALL):
            json.loads("".join(text))
            checked["json"] += 1
    assert checked["python"] >= 2
    assert checked["json"] >= 2
