"""Seed files: what is refused and how it is said, and everything that a program can check of our own."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from selfinstruct_hub import assets, filters, novelty, recipes, seeds
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
        ("[" * 100_000, "line 2: not"),
        ("9" * 5000, "line 2: not a seed task"),
        (json.dumps({**GOOD, "instances": []}), "line 2, field `instances`: empty"),
        (json.dumps({**GOOD, "instances": ["x"]}), "field `instances[0]`: expected an object"),
        (json.dumps({**GOOD, "instances": [{"input": ""}]}), "field `instances[0]`: field `output` is missing"),
        (json.dumps({**GOOD, "is_classification": "no"}), "field `is_classification`: expected true or false"),
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
    with pytest.raises(SeedError, match="no such seed file"):
        seeds.locate("nowhere.jsonl", "en", tmp_path)
    with pytest.raises(SeedError, match=r"language `xx` \(there are: en\)"):
        seeds.locate(None, "xx", tmp_path)


def test_a_separator_inside_a_text_ends_no_line(tmp_path: Path) -> None:
    path = tmp_path / "seeds.jsonl"
    row = {**GOOD, "instances": [{"input": "", "output": "one\u2028two\x85three"}]}
    path.write_text("\ufeff" + json.dumps(row, ensure_ascii=False), encoding="utf-8")
    (task,) = seeds.read(path)
    assert task.instances[0].output == "one\u2028two\x85three"
    assert seeds.as_row(task) == row


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
    rules = filters.Rules(4, 150, recipes.named("alpaca").blocked_words, 5, 0.5)
    dropped = {
        task.id: drop
        for task in english
        if (drop := filters.judge(Candidate(task.instruction, task.instances), rules)[1])
    }
    assert dropped == {}


def test_ours_keep_every_instance(english: list[Task]) -> None:
    rules = filters.Rules(4, 150, (), 5, 0.5)
    for task in english:
        assert filters.judge(Candidate(task.instruction, task.instances), rules)[0] == task.instances, task.id


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
