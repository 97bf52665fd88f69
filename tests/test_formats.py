"""Files of other projects: each format there and back, which one a file is in, and what is said of bad rows."""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfinstruct_hub import formats
from selfinstruct_hub.errors import FormatError
from selfinstruct_hub.formats import Entry, Written, gpt3
from selfinstruct_hub.records import Drop, Instance, Lost

SEED = {
    "id": "t1",
    "name": "greeting",
    "instruction": "Greet the guest.",
    "instances": [{"input": "Ada", "output": "Hello Ada"}],
    "is_classification": False,
}
SCORES = {"Greet the host.": 0.6666666666666666, "Name a river.": 0.0}
ANSWER = {"prompt": "p", "response": {"choices": [{"text": "t", "finish_reason": "stop"}]}, "created_at": "now"}
INSTRUCTION_ROW = {
    "instruction": "Greet the guest.",
    "most_similar": SCORES,
    "avg_similarity_score": 0.125,
    "metadata": ANSWER,
    "request_idx": 3,
}
INSTANCES_ROW = {
    "instruction": "Greet the guest.",
    "raw_instances": "Example 1\nInput: Ada\nOutput: Hello Ada\n\nExample 2\nInput: Bo\nOutput: Hello\nBo",
    "instance_metadata": ANSWER,
    "instruction_metadata": ANSWER,
    "most_similar": SCORES,
    "avg_similarity_score": 0.125,
}
ALPACA = {"instruction": "Greet the guest.", "input": "Ada", "output": "Héllo Ada"}
BARE_ALPACA = {"instruction": "Name a river.", "input": "", "output": "The Elbe."}
REGEN = {**ALPACA, "most_similar_instructions": SCORES, "avg_similarity_score": 0.25}
GPT3 = {"prompt": "Greet the guest.\nInput: Ada\nOutput:", "completion": " Hello Ada<|endoftext|>"}
MESSAGES = {
    "messages": [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Greet the guest."},
        {"role": "assistant", "content": "Hello", "weight": 1},
    ],
    "origin": "ours",
}
PROMPT = {"prompt": "Greet the guest.", "completion": "Hello"}
SHARED = {"id": "c1", "conversations": [{"from": "human", "value": "Greet."}, {"from": "gpt", "value": "Hello"}]}

HELLO = (Instance("Ada", "Hello Ada"),)
ADA = (Instance("Ada", "Héllo Ada"),)
SIMILAR = {"most_similar": SCORES, "avg_similarity_score": 0.125}

# A row of each format, and what it becomes.
SAMPLES: list[tuple[str, dict[str, Any], Entry]] = [
    ("seed_tasks", SEED, Entry("Greet the guest.", HELLO, False, extra={"id": "t1", "name": "greeting"})),
    (
        "machine_generated_instructions",
        INSTRUCTION_ROW,
        Entry("Greet the guest.", (), bare=True, extra={**SIMILAR, "metadata": ANSWER, "request_idx": 3}),
    ),
    (
        "machine_generated_instances",
        INSTANCES_ROW,
        Entry(
            "Greet the guest.",
            (*HELLO, Instance("Bo", "Hello\nBo")),
            False,
            extra={
                **SIMILAR,
                "metadata": ANSWER,
                "instance_metadata": ANSWER,
                "raw_instances": INSTANCES_ROW["raw_instances"],
            },
        ),
    ),
    ("all_generated_instances", ALPACA, Entry("Greet the guest.", ADA)),
    (
        "gpt3_finetuning_data",
        GPT3,
        Entry("Greet the guest.", HELLO, extra={"row": {"format": "gpt3_finetuning_data", **GPT3}}),
    ),
    (
        "regen",
        REGEN,
        Entry("Greet the guest.", ADA, extra={"most_similar": SCORES, "avg_similarity_score": 0.25}),
    ),
    ("alpaca_data", BARE_ALPACA, Entry("Name a river.", (Instance("", "The Elbe."),))),
    (
        "messages",
        MESSAGES,
        Entry(
            "Greet the guest.",
            (Instance("", "Hello"),),
            extra={
                "system": "Be kind.",
                "row": {"format": "messages", "unknown": {"origin": "ours"}, "turns": [{}, {}, {"weight": 1}]},
            },
        ),
    ),
    ("prompt_completion", PROMPT, Entry("Greet the guest.", (Instance("", "Hello"),))),
    (
        "conversations",
        SHARED,
        Entry(
            "Greet.",
            (Instance("", "Hello"),),
            extra={"row": {"format": "conversations", "unknown": {"id": "c1"}, "order": ["id", "conversations"]}},
        ),
    ),
]
ROW = {name: row for name, row, _ in SAMPLES}


def file_of(tmp_path: Path, name: str, content: Iterable[Any]) -> Path:
    """A file as the reference scripts write theirs."""
    form = formats.FORMATS[name]
    if form.array:
        text = json.dumps(list(content), ensure_ascii=form.escaped, indent=4)
    else:
        text = "".join(json.dumps(row, ensure_ascii=form.escaped) + "\n" for row in content)
    path = tmp_path / f"{name}.file"
    path.write_text(text, encoding="utf-8")
    return path


def lines_of(tmp_path: Path, *content: Any) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in content), encoding="utf-8"
    )
    return path


def written(entries: Iterable[Entry], name: str, **options: Any) -> tuple[str, Written]:
    out = io.StringIO()
    count = formats.write(entries, name, out, **options)
    return out.getvalue(), count


def back(text: str, name: str) -> tuple[Entry, ...]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        path.write_bytes(text.encode())
        return formats.read(path, name).entries


def said(path: Path, name: str = "auto", **options: Any) -> str:
    with pytest.raises(FormatError) as error:
        formats.read(path, name, **options)
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 2
    return str(error.value).replace(str(path), "FILE")


# Every format there and back.


def test_the_samples_cover_the_formats() -> None:
    assert tuple(name for name, _, _ in SAMPLES) == formats.NAMES == tuple(formats.FORMATS)
    assert all(form.name == name and form.description for name, form in formats.FORMATS.items())


@pytest.mark.parametrize(("name", "row", "entry"), SAMPLES)
def test_a_row_becomes_an_entry_and_the_file_the_same_bytes(
    tmp_path: Path, name: str, row: dict[str, Any], entry: Entry
) -> None:
    path = file_of(tmp_path, name, [row])
    file = formats.read(path)
    place = "row 1" if formats.FORMATS[name].array else "line 1"
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert file == formats.ReadFile(name, (replace(entry, place=place),), sha256)
    assert written(file.entries, name)[0] == path.read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "row", "entry"), SAMPLES)
def test_unknown_keys_and_absent_ones_stay_as_they_were(
    tmp_path: Path, name: str, row: dict[str, Any], entry: Entry
) -> None:
    needed = {"instruction", "output", "instances", "raw_instances", "prompt", "completion"}
    needed |= {"messages", "conversations", "request_idx", "most_similar_instructions"}
    rows = [{**row, "beside": {"x": [None, 1.5]}, "row": 1}]
    rows += [{k: v for k, v in row.items() if k != key} for key in row if key not in needed]
    path = file_of(tmp_path, name, rows)
    file = formats.read(path)
    assert file.format == name
    text = written(file.entries, name)[0]
    assert text == path.read_text(encoding="utf-8")
    again = back(text, name)
    assert again == file.entries


@pytest.mark.parametrize(("name", "row"), ROW.items())
def test_keys_stay_in_their_order(tmp_path: Path, name: str, row: dict[str, Any]) -> None:
    path = file_of(tmp_path, name, [{"beside": 1, **dict(reversed(row.items()))}])
    assert written(formats.read(path).entries, name)[0] == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", formats.NAMES)
def test_what_only_one_format_can_use_reaches_no_other(tmp_path: Path, name: str) -> None:
    rows = [{**row, "beside": "mine"} for row in ROW.values()]
    for other, row in zip(ROW, rows, strict=True):
        (entry,) = formats.read(file_of(tmp_path, other, [row])).entries
        assert ("mine" in written([entry], name)[0]) == (other == name)


TEXT = st.lists(
    st.one_of(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
        st.sampled_from(
            ["\n", "\n\n", "Input:",
             "\nInput: ", "\nOutput:", "Output:", "Task: ", "Class label:", "Example 2", " ",
             "<|endoftext|>", '"', "\\", "\u2028", "\x85", "\r\n", "é", "中文", "😀", "none", "\x00", "{", "]"]
        ),
    ),
    max_size=5,
).map("".join)  # fmt: skip
INSTANCES = st.lists(st.builds(Instance, input=TEXT, output=TEXT), min_size=1, max_size=3).map(tuple)
SCORED = st.dictionaries(TEXT, st.floats(0, 1), max_size=3)
ENTRIES = st.builds(
    Entry,
    instruction=TEXT,
    instances=INSTANCES,
    is_classification=st.sampled_from([None, False, True]),
    extra=st.one_of(
        st.just({}), st.fixed_dictionaries({"most_similar": SCORED, "avg_similarity_score": st.floats(0, 1)})
    ),
)


def rows_of(entries: Iterable[Entry]) -> list[tuple[str, Instance]]:
    return [(e.instruction, i) for e in entries for i in e.instances]


@given(st.lists(ENTRIES, max_size=3))
@settings(max_examples=100, deadline=None)
def test_seed_tasks_come_back(entries: list[Entry]) -> None:
    text, count = written(entries, "seed_tasks")
    assert count == Written(rows=len(entries))
    if entries:
        found = back(text, "seed_tasks")
        assert [(e.instruction, e.instances, e.is_classification) for e in found] == [
            (e.instruction, e.instances, bool(e.is_classification)) for e in entries
        ]
        assert written(found, "seed_tasks")[0] == text


@given(
    st.lists(ENTRIES, min_size=1, max_size=3), st.sampled_from(["alpaca_data", "all_generated_instances", "regen"])
)
@settings(max_examples=100, deadline=None)
def test_rows_of_three_texts_come_back(entries: list[Entry], name: str) -> None:
    text, count = written(entries, name)
    found = back(text, name)
    assert rows_of(found) == rows_of(entries)
    assert count == Written(rows=len(found))
    assert written(found, name)[0] == text
    if name == "regen":
        assert [e.extra["most_similar"] for e in found] == [
            e.extra.get("most_similar", {}) for e in entries for _ in e.instances
        ]
    assert isinstance(json.loads(text) if formats.FORMATS[name].array else [], list)


@given(st.lists(ENTRIES, min_size=1, max_size=3))
@settings(max_examples=100, deadline=None)
def test_instructions_come_back(entries: list[Entry]) -> None:
    text, _ = written(entries, "machine_generated_instructions")
    found = back(text, "machine_generated_instructions")
    assert [e.instruction for e in found] == [e.instruction for e in entries]
    assert all(e.bare for e in found)
    assert written(found, "machine_generated_instructions")[0] == text


@given(ENTRIES)
@settings(max_examples=100, deadline=None)
def test_marked_up_instances_come_back_or_are_counted(entry: Entry) -> None:
    text, count = written([entry], "machine_generated_instances")
    (found,) = back(text, "machine_generated_instances")
    assert (found.instances == entry.instances and not found.lost) == (count.inexact == 0)
    assert written([found], "machine_generated_instances")[0] == text
    if count.inexact == 0 and entry.instances:
        assert found.is_classification == bool(entry.is_classification)


@given(ENTRIES, st.integers(0, 5))
@settings(max_examples=100, deadline=None)
def test_finetuning_rows_come_back_or_are_counted(entry: Entry, seed: int) -> None:
    text, count = written([entry], "gpt3_finetuning_data", seed=seed)
    found = back(text, "gpt3_finetuning_data")
    assert count.rows + count.duplicates == len(entry.instances)
    if not count.duplicates:
        same = [a == b for a, b in zip(rows_of(found), rows_of([entry]), strict=True)]
        assert same.count(False) == count.inexact
    assert written(found, "gpt3_finetuning_data", seed=seed + 1)[0] == text


@given(ENTRIES, st.sampled_from(["messages", "prompt_completion", "conversations"]), TEXT)
@settings(max_examples=100, deadline=None)
def test_chats_come_back_joined(entry: Entry, name: str, system: str) -> None:
    entry = replace(entry, extra={"system": system})
    text, count = written([entry], name)
    found = back(text, name)
    assert [e.instances[0].output for e in found] == [i.output for i in entry.instances]
    assert [e.instruction for e in found] == [
        f"{entry.instruction}\n\n{i.input}" if i.input else entry.instruction for i in entry.instances
    ]
    assert count == Written(rows=len(found), inexact=sum(bool(i.input) for i in entry.instances))
    if name != "prompt_completion":
        assert all(e.extra == {"system": system} for e in found)
    assert written(found, name)[0] == text


def test_no_entries_make_an_empty_file_or_array() -> None:
    assert written([], "alpaca_data") == ("[]", Written())
    assert written([], "messages") == ("", Written())


def test_an_instruction_without_instances_is_written_where_it_can_be() -> None:
    entry = Entry("Name a river.", (), bare=True)
    for name in formats.NAMES:
        text, count = written([entry], name)
        if name in ("machine_generated_instructions", "machine_generated_instances"):
            assert count == Written(rows=1)
            assert back(text, name)[0].instances == ()
        else:
            assert count == Written(without_instances=1)


# What the reference scripts look up in a row that we made ourselves.


def test_our_own_rows_have_every_key_that_the_scripts_read() -> None:
    entry = Entry("Name a river.", (Instance("", "The Elbe."),))
    first = json.loads(written([entry], "machine_generated_instructions")[0])
    assert first == {
        "instruction": "Name a river.",
        "most_similar": {},
        "avg_similarity_score": None,
        "metadata": {},
        "request_idx": 0,
    }
    second = json.loads(written([entry], "machine_generated_instances")[0])
    assert second.pop("instance_metadata")["response"]["choices"][0]["finish_reason"] == "stop"
    assert second == {
        "instruction": "Name a river.",
        "raw_instances": "Output: The Elbe.",
        "instruction_metadata": {},
        "most_similar": {},
        "avg_similarity_score": None,
    }
    seed = json.loads(written([entry], "seed_tasks")[0])
    assert list(seed) == ["id", "name", "instruction", "instances", "is_classification"]
    assert seed["is_classification"] is False
    assert len(seed["id"]) == 16


# seed_tasks.


def test_an_instance_keeps_its_own_keys_when_another_one_goes(tmp_path: Path) -> None:
    def instance(name: str, **more: Any) -> dict[str, Any]:
        return {"input": name, "output": f"Hello {name}", **more}

    inner = [instance("Ada", a=1), instance("Bo"), instance("Cy", c={"x": [None]})]
    (entry,) = formats.read(file_of(tmp_path, "seed_tasks", [{**SEED, "instances": inner, "beside": 1}])).entries
    for places in ([0, 1, 2], [2], [0, 1], [1]):
        text, _ = written([entry.keeping(places)], "seed_tasks")
        assert json.loads(text) == {**SEED, "instances": [inner[place] for place in places], "beside": 1}


# machine_generated_instances.


def instances_row(raw: str, reason: str = "stop", **more: Any) -> dict[str, Any]:
    answer = {"response": {"choices": [{"finish_reason": reason}]}}
    return {**INSTANCES_ROW, "raw_instances": raw, "instance_metadata": answer, **more}


@pytest.mark.parametrize(
    ("row", "instances", "lost", "classification"),
    [
        (instances_row("Class label: warm\nIt glows.\nClass label: cold\nIt freezes."),
         (Instance("It glows.", "warm"), Instance("It freezes.", "cold")), (), True),
        (instances_row("**Class label:** warm\n**Input:** It glows."),
         (Instance("It glows.", "warm"),), (), True),
        (instances_row("Input: a\nOutput: b\n\nExample 2\nInput: c\nOutput: d", "length"),
         (Instance("a", "b"),), (Lost(Instance("c", "d"), Drop("cut_off")),), False),
        (instances_row("Input: a\nOutput:"),
         (), (Lost(Instance("a", ""), Drop("missing_field", "output")),), False),
        (instances_row(""), (), (), None),
        (instances_row("Output: b", instance_metadata={"response": None}), (Instance("", "b"),), (), False),
        (instances_row("Output: b", instance_metadata={"response": {"choices": []}}),
         (Instance("", "b"),), (), False),
    ],
)  # fmt: skip
def test_marked_up_texts(
    tmp_path: Path,
    row: dict[str, Any],
    instances: tuple[Instance, ...],
    lost: tuple[Lost, ...],
    classification: bool | None,
) -> None:
    path = file_of(tmp_path, "machine_generated_instances", [row])
    (entry,) = formats.read(path).entries
    assert (entry.instances, entry.lost, entry.is_classification) == (instances, lost, classification)
    assert written([entry], "machine_generated_instances")[0] == path.read_text(encoding="utf-8")


def test_changed_instances_get_a_text_of_their_own_and_no_old_answer(tmp_path: Path) -> None:
    row = instances_row("Input: a\nOutput: b\n\nExample 2\nInput: c\nOutput: d", "length")
    (entry,) = formats.read(file_of(tmp_path, "machine_generated_instances", [row])).entries
    more = replace(entry, instances=(*entry.instances, Instance("e", "f")))
    text, count = written([more], "machine_generated_instances")
    assert count == Written(rows=1)
    new = json.loads(text)
    assert new["raw_instances"] == "Example 1\nInput: a\nOutput: b\n\nExample 2\nInput: e\nOutput: f"
    assert new["instance_metadata"] == {"response": {"choices": [{"finish_reason": "stop"}]}}
    assert new["instruction_metadata"] == ANSWER
    assert back(text, "machine_generated_instances")[0].instances == more.instances


def test_a_class_label_comes_first() -> None:
    entry = Entry("Warm or cold?", (Instance("It glows.", "warm"), Instance("", "cold")), True)
    row = json.loads(written([entry], "machine_generated_instances")[0])
    assert row["raw_instances"] == "Class label: warm\nIt glows.\n\nClass label: cold\n"


# gpt3_finetuning_data.


@pytest.mark.parametrize(
    ("prompt", "completion", "instruction", "given"),
    [
        ("Greet.\nInput: Ada\nOutput:", " Hi", "Greet.", "Ada"),
        ("Greet.\n\nInput: Ada\n\nOutput:", " Hi", "Greet.", "Ada"),
        ("Task: Greet.\nInput: Ada\nOutput:", " Hi", "Greet.", "Ada"),
        ("Greet.\n\nAda\n\nOutput:", " Hi", "Greet.", "Ada"),
        ("Greet.\n\nAda\n\n", "Hi", "Greet.", "Ada"),
        ("Greet.\nAda\n\n", "Hi", "Greet.", "Ada"),
        ("Task: Greet.\n\nAda\n\n", "Hi", "Greet.", "Ada"),
        ("Greet. Output:", " Hi", "Greet.", ""),
        ("Greet.\nOutput:", " Hi", "Greet.", ""),
        ("Greet.\n\nOutput:", " Hi", "Greet.", ""),
        ("Greet.\n", "Hi", "Greet.", ""),
        ("Greet.\n\n", "Hi", "Greet.", ""),
        ("Task: Greet.\n\n", "Hi", "Greet.", ""),
        ("Greet.", "Hi", "Greet.", ""),  # in no layout
    ],
)
def test_every_layout_is_undone(
    tmp_path: Path, prompt: str, completion: str, instruction: str, given: str
) -> None:
    row = {"prompt": prompt, "completion": completion + gpt3.END}
    path = file_of(tmp_path, "gpt3_finetuning_data", [row])
    (entry,) = formats.read(path).entries
    assert (entry.instruction, entry.instances) == (instruction, (Instance(given, "Hi"),))
    assert written([entry], "gpt3_finetuning_data", seed=7)[0] == path.read_text(encoding="utf-8")


def test_the_seed_draws_among_all_layouts() -> None:
    prompts = set()
    for given_ in ("Ada", ""):
        entry = Entry("Greet.", (Instance(given_, "Hi"),))
        for seed in range(200):
            text, count = written([entry], "gpt3_finetuning_data", seed=seed)
            assert count == Written(rows=1)
            assert written([entry], "gpt3_finetuning_data", seed=seed)[0] == text
            prompts.add(json.loads(text)["prompt"])
    assert len(prompts) == 7 + 6


def test_repeated_rows_are_written_once() -> None:
    entry = Entry("Greet.", (Instance("", "Hi"), Instance("", "Hi"), Instance("", "Hello")))
    text, count = written([entry, entry], "gpt3_finetuning_data")
    assert count == Written(rows=2, duplicates=4)
    assert len(text.splitlines()) == 2


def test_a_text_that_fits_no_layout_is_counted() -> None:
    entry = Entry("Task: a\n\nInput: b\nInput: c", (Instance("d\n", "e"),))
    text, count = written([entry], "gpt3_finetuning_data")
    assert count == Written(rows=1, inexact=1)
    assert json.loads(text)["completion"].strip() == "e" + gpt3.END


# Which format a file is in.


def test_a_container_and_an_end_tell_twins_apart(tmp_path: Path) -> None:
    assert formats.read(lines_of(tmp_path, ALPACA)).format == "all_generated_instances"
    assert formats.read(lines_of(tmp_path, json.dumps([ALPACA], indent=1))).format == "alpaca_data"
    assert formats.read(lines_of(tmp_path, GPT3, GPT3)).format == "gpt3_finetuning_data"
    assert formats.read(lines_of(tmp_path, GPT3, PROMPT)).format == "prompt_completion"
    broken = {"prompt": "p", "completion": None}
    assert formats.read(lines_of(tmp_path, GPT3, broken), skip_bad=True).format == "gpt3_finetuning_data"
    assert formats.read(lines_of(tmp_path, PROMPT, broken), skip_bad=True).format == "prompt_completion"
    assert formats.read(lines_of(tmp_path, SHARED)).format == "conversations"
    assert formats.read(lines_of(tmp_path, REGEN)).format == "regen"


def test_a_file_in_no_format_says_what_it_has(tmp_path: Path) -> None:
    names = ", ".join(formats.NAMES)
    path = lines_of(tmp_path, "[1]", {"question": "q", "answer\n": "a"})
    assert (
        said(path)
        == f"FILE: in none of the formats: line 2 has the keys `question`, `answer?`; the formats are {names}"
    )
    path = lines_of(tmp_path, {f"k{n}": 1 for n in range(10)})
    assert "line 1 has the keys `k0`, `k1`, `k2`, `k3`, `k4`, `k5`, `k6`, `k7` and 2 more; the" in said(path)
    assert "line 1 has no keys; the" in said(lines_of(tmp_path, {}))
    assert "line 1 has the keys `instruction`; the" in said(lines_of(tmp_path, {"instruction": "Greet."}))


def test_a_file_of_no_objects_and_an_empty_one(tmp_path: Path) -> None:
    wanted = "FILE, line 1: not valid JSON (Expecting value at column 1); expected one object a line"
    assert said(lines_of(tmp_path, "instruction,output", "a,b")) == wanted
    assert said(lines_of(tmp_path, "[1, 2]")) == "FILE, row 1: expected a JSON object, found a number"
    empty = "FILE: no rows in it; expected one JSON object a line, or one JSON array of objects"
    for content in ("", "\n \n", "[]"):
        assert said(lines_of(tmp_path, content)) == empty
        assert said(lines_of(tmp_path, content), "messages", skip_bad=True) == empty


def test_a_file_in_two_formats_names_both(tmp_path: Path) -> None:
    path = lines_of(tmp_path, ALPACA, *[ALPACA] * 55, MESSAGES, REGEN)
    assert said(path, skip_bad=True) == (
        "FILE: line 1 is all_generated_instances, line 57 is messages; a file is in one format: split it, or name "
        "the one to read with --format"
    )
    file = formats.read(path, "messages", skip_bad=True)
    assert len(file.entries) == 1
    assert len(file.bad) == 57
    assert "row 1 is alpaca_data, row 2 is regen" in said(lines_of(tmp_path, json.dumps([ALPACA, REGEN])))


def test_a_format_that_is_none(tmp_path: Path) -> None:
    names = ", ".join(formats.NAMES)
    assert said(lines_of(tmp_path, ALPACA), "csv") == f"no format `csv`; there are: {names}"
    with pytest.raises(FormatError, match="no format `auto`"):
        formats.write([], "auto", io.StringIO())


# Bad rows.


def turns(*roles: str) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": "x"} for role in roles]}


CHAT_WANTED = "FILE, line 2, field `messages`: expected one user and one assistant turn, found"


@pytest.mark.parametrize(
    ("good", "bad", "message"),
    [
        (SEED, {**SEED, "instances": []},
         "FILE, line 2, field `instances`: empty; a seed task needs at least one worked instance"),
        (SEED, {**SEED, "instances": [{"input": ""}]},
         "FILE, line 2, field `instances[0]`: field `output` is missing; expected a text"),
        (SEED, {**SEED, "instances": ["x"]},
         "FILE, line 2, field `instances[0]`: expected an object with input and output, found a text"),
        (SEED, {**SEED, "is_classification": None},
         "FILE, line 2, field `is_classification`: expected true or false, found null"),
        (INSTRUCTION_ROW, {**INSTRUCTION_ROW, "most_similar": []},
         "FILE, line 2, field `most_similar`: expected an object, found a list"),
        (INSTRUCTION_ROW, {**INSTRUCTION_ROW, "request_idx": "3"},
         "FILE, line 2, field `request_idx`: expected a number, found a text"),
        (INSTANCES_ROW, {**INSTANCES_ROW, "raw_instances": None},
         "FILE, line 2, field `raw_instances`: expected a text, found null"),
        (ALPACA, {**ALPACA, "output": None}, "FILE, line 2, field `output`: expected a text, found null"),
        (ALPACA, {"instruction": "Greet.", "input": ""},
         "FILE, line 2: field `output` is missing; expected a text"),
        (ALPACA, {"foo": 1}, "FILE, line 2: field `instruction` is missing; expected a text"),
        (ALPACA, {**ALPACA, "input": {}}, "FILE, line 2, field `input`: expected a text, found an object"),
        (ALPACA, [ALPACA], "FILE, line 2: expected a JSON object, found a list"),
        (ALPACA, '{"instruction": ',
         "FILE, line 2: not valid JSON (Expecting value at column 17); expected one object a line"),
        (ALPACA, {**ALPACA, "input": "\ud800"},
         "FILE, line 2, field `input`: holds half a character (a lone surrogate); write the whole one"),
        (ALPACA, {**ALPACA, "beside": ["\ud800"]},
         "FILE, line 2, field `beside`: holds half a character (a lone surrogate); write the whole one"),
        (ALPACA, {**ALPACA, "beside": float("nan")},
         "FILE, line 2: holds NaN or Infinity, which are no JSON numbers"),
        (GPT3, {"prompt": "p", "completion": 1},
         "FILE, line 2, field `completion`: expected a text, found a number"),
        (REGEN, {**REGEN, "avg_similarity_score": "high"},
         "FILE, line 2, field `avg_similarity_score`: expected a number, found a text"),
        (turns("user", "assistant"), turns("user", "assistant", "user", "assistant"), f"{CHAT_WANTED} 4 turns"),
        (turns("user", "assistant"), turns("user"), f"{CHAT_WANTED} 1 turn"),
        (turns("user", "assistant"), turns(), f"{CHAT_WANTED} 0 turns"),
        (turns("user", "assistant"), turns("system", "assistant", "user"),
         f"{CHAT_WANTED} `assistant` and `user`"),
        (turns("user", "assistant"), turns("user", "tool"),
         "FILE, line 2, field `messages[1]`, field `role`: expected one of `system`, `user`, `assistant`, "
         "found `tool`"),
        (turns("user", "assistant"), {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
         "FILE, line 2, field `messages[0]`, field `content`: expected a text, found a list"),
        (SHARED, {"conversations": "x"}, "FILE, line 2, field `conversations`: expected a list, found a text"),
        (SHARED, {"conversations": [{"from": "human", "value": "a"}]},
         "FILE, line 2, field `conversations`: expected one human and one gpt turn, found 1 turn"),
        (PROMPT, {"prompt": [], "completion": ""}, "FILE, line 2, field `prompt`: expected a text, found a list"),
    ],
)  # fmt: skip
def test_a_bad_row_is_named_and_can_be_skipped(tmp_path: Path, good: Any, bad: Any, message: str) -> None:
    path = lines_of(tmp_path, good, bad, good)
    assert said(path) == f"{message}; 1 of 3 rows is bad (line 2): --skip-bad imports the others"
    file = formats.read(path, skip_bad=True)
    assert [entry.place for entry in file.entries] == ["line 1", "line 3"]
    assert [line.replace(str(path), "FILE") for line in file.bad] == [message]


def test_many_bad_rows_are_counted(tmp_path: Path) -> None:
    null = {**ALPACA, "output": None}
    rows = [null if n in (17, 204, 9000) else ALPACA for n in range(1, 52_003)]
    assert said(lines_of(tmp_path, *rows)) == (
        "FILE, line 17, field `output`: expected a text, found null; 3 of 52,002 rows are bad "
        "(lines 17, 204, 9000): --skip-bad imports the others"
    )
    path = lines_of(tmp_path, json.dumps([ALPACA] + [null] * 7))
    assert said(path).endswith(
        "; 7 of 8 rows are bad (rows 2, 3, 4, 5, 6 and 2 more): --skip-bad imports the others"
    )
    file = formats.read(path, skip_bad=True)
    assert len(file.bad) == 7
    assert file.bad[0] == f"{path}, row 2, field `output`: expected a text, found null"


def test_nothing_but_bad_rows_is_no_import(tmp_path: Path) -> None:
    null = {**ALPACA, "output": None}
    for skip_bad in (False, True):
        assert said(lines_of(tmp_path, null), skip_bad=skip_bad) == (
            "FILE, line 1, field `output`: expected a text, found null; its only row is bad as "
            "all_generated_instances"
        )
        assert said(lines_of(tmp_path, null, "{", null), skip_bad=skip_bad).endswith(
            "found null; all 3 rows are bad as all_generated_instances"
        )


def test_a_given_format_overrides_and_a_file_that_does_not_fit_it_says_so(tmp_path: Path) -> None:
    regen = lines_of(tmp_path, json.dumps([REGEN]))
    (entry,) = formats.read(regen, "alpaca_data").entries
    assert entry.extra["row"]["unknown"]["most_similar_instructions"] == SCORES
    (entry,) = formats.read(
        lines_of(tmp_path, {"instruction": "Greet."}), "machine_generated_instructions"
    ).entries
    assert entry.bare
    (entry,) = formats.read(lines_of(tmp_path, GPT3), "prompt_completion").entries
    assert entry.instances[0].output == " Hello Ada<|endoftext|>"
    assert said(lines_of(tmp_path, ALPACA, ALPACA), "messages") == (
        "FILE, line 1: field `messages` is missing; expected a list; all 2 rows are bad as messages; the file "
        "looks like all_generated_instances"
    )
    assert said(lines_of(tmp_path, PROMPT), "gpt3_finetuning_data") == (
        "FILE, line 1, field `completion`: expected a text that ends in <|endoftext|>; its only row is bad as "
        "gpt3_finetuning_data; the file looks like prompt_completion"
    )


def test_what_is_nested_too_deeply_ends_in_a_line(tmp_path: Path) -> None:
    deep: Any = []
    for _ in range(20_000):
        deep = [deep]
    entry = Entry(
        "Greet.", (Instance("", "Hi"),), extra={"row": {"format": "alpaca_data", "unknown": {"x": deep}}}
    )
    with pytest.raises(FormatError, match="nested too deeply to be written as alpaca_data"):
        formats.write([entry], "alpaca_data", io.StringIO())


def test_a_file_of_alpacas_size(tmp_path: Path) -> None:
    rows = [{**ALPACA, "input": f"guest {n}", "output": "Hello. " * 40} for n in range(52_000)]
    path = file_of(tmp_path, "alpaca_data", rows)
    file = formats.read(path)
    assert len(file.entries) == 52_000
    assert file.entries[-1].place == "row 52000"
    text, count = written(file.entries, "alpaca_data")
    assert count == Written(rows=52_000)
    assert text == path.read_text(encoding="utf-8")
