"""Other projects' files into a workspace and out of it: the same gates, nothing lost that the format can hold."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import datasets
import pytest

from selfinstruct_hub import config, formats, run
from selfinstruct_hub.errors import FormatError, PoolError
from selfinstruct_hub.exchange import export_file, import_file
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.release import read_manifest
from selfinstruct_hub.status import status
from selfinstruct_hub.workspace import Workspace
from tests.support.tgi import Server, running

ROWS = [
    ("Turn the temperature into degrees Fahrenheit.", "20 degrees Celsius", "68 degrees Fahrenheit"),
    ("Name the longest river of South America.", "", "The Amazon."),
    ("Count the vowels in the given word.", "harbour", "3"),
    ("Suggest a title for a story about a lighthouse keeper who collects clocks.", "", "Hours of the Lamp"),
    ('Say in one sentence what a treaty is: use "states".', "", "A written agreement between states\u2028."),
]
RAW: dict[str, list[Any]] = {
    "seed_tasks": [
        {
            "id": f"mine_{n}",
            "name": f"name {n}",
            "instruction": instruction,
            "instances": [{"input": given, "output": output}, {"input": f"{given}!", "output": f"{output}!"}],
            "is_classification": n == 2,
        }
        for n, (instruction, given, output) in enumerate(ROWS)
    ],
    "machine_generated_instructions": [
        {
            "instruction": instruction,
            "most_similar": {"Some other text.": 0.25},
            "avg_similarity_score": 0.1,
            "metadata": {"response": None},
            "request_idx": n,
        }
        for n, (instruction, _, _) in enumerate(ROWS)
    ],
    "machine_generated_instances": [
        {
            "instruction": instruction,
            "raw_instances": f"Example 1\nInput: {given or 'None'}\nOutput: {output}\n\nExample 2\n"
            f"Input: {given}?\nOutput: {output}?",
            "instance_metadata": {"response": {"choices": [{"finish_reason": "stop"}]}},
            "instruction_metadata": {"response": 1},
            "most_similar": {},
            "avg_similarity_score": 0.2,
        }
        for instruction, given, output in ROWS
    ],
    "all_generated_instances": [
        {"instruction": instruction, "input": given, "output": output} for instruction, given, output in ROWS
    ],
    "gpt3_finetuning_data": [
        {"prompt": f"Task: {i}\nInput: {g}\nOutput:" if g else f"{i}\nOutput:", "completion": f" {o}<|endoftext|>"}
        for i, g, o in ROWS
    ],
    "regen": [
        {
            "instruction": instruction,
            "input": given,
            "output": output,
            "most_similar_instructions": {"Another text.": 0.5},
            "avg_similarity_score": 0.05,
        }
        for instruction, given, output in ROWS
    ],
    "alpaca_data": [
        {"instruction": instruction, "input": given, "output": output} for instruction, given, output in ROWS
    ],
    "messages": [
        {"messages": [{"role": "user", "content": i}, {"role": "assistant", "content": o}], "kept": [1]}
        for i, _, o in ROWS
    ],
    "prompt_completion": [{"prompt": i, "completion": o} for i, _, o in ROWS],
    "conversations": [
        {"id": str(n), "conversations": [{"from": "human", "value": i}, {"from": "gpt", "value": o}]}
        for n, (i, _, o) in enumerate(ROWS)
    ],
}
ARRAYS = {"regen", "alpaca_data", "conversations"}


@pytest.fixture
def space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    return Workspace.create(tmp_path / "w", config.Settings())


def written(path: Path, name: str, rows: list[Any]) -> Path:
    file = path / f"{name}.json{'' if name in ARRAYS else 'l'}"
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    file.write_text(f"[{','.join(lines)}]" if name in ARRAYS else "\n".join(lines) + "\n", encoding="utf-8")
    return file


def rows_of(file: Path, name: str) -> list[Any]:
    text = file.read_text(encoding="utf-8")
    return list(json.loads(text)) if name in ARRAYS else [json.loads(line) for line in text.split("\n") if line]


def test_every_format_has_a_round_trip_here() -> None:
    assert set(RAW) == set(formats.NAMES)


@pytest.mark.parametrize("name", formats.NAMES)
def test_a_file_comes_out_as_it_went_in(space: Workspace, tmp_path: Path, name: str) -> None:
    file = written(tmp_path, name, RAW[name])
    result = import_file(space, file)
    assert result.format == name
    assert (result.rows, result.candidates, result.tasks) == (5, 5, 5)
    export_file(space, tmp_path / "out", name)
    assert rows_of(tmp_path / "out", name) == RAW[name]
    bare = name == "machine_generated_instructions"
    assert result.without_instances == (5 if bare else 0)
    assert (result.release is None) == bare
    if result.release:
        rows = datasets.load_dataset(str(result.release), split="train")
        assert len(rows) == result.instances == status(space)["rows"]
        assert rows["instruction"][0] == ROWS[0][0]


@pytest.mark.parametrize("name", formats.NAMES)
def test_what_was_grown_can_be_written_and_read_in_every_format(
    space: Workspace, tmp_path: Path, name: str
) -> None:
    with running(Server()) as server:
        settings = config.with_overrides(space.settings(), {"tasks": 15, "endpoint.url": server.url})
        run.grow(space, settings)
    done = export_file(space, tmp_path / "out", name)
    assert done.rows == 15
    read = formats.read(tmp_path / "out")
    assert read.format == name
    with Pool.open(space.pool_file, read_only=True) as pool:
        tasks = list(pool.tasks(1))
    if name in ("messages", "prompt_completion", "conversations"):
        assert [e.instruction.split("\n\n")[0] for e in read.entries] == [task.instruction for task in tasks]
        assert done.inexact == sum(bool(task.instances[0].input) for task in tasks) > 0
    else:
        assert [entry.instruction for entry in read.entries] == [task.instruction for task in tasks]
        bare = name == "machine_generated_instructions"
        assert [entry.instances for entry in read.entries] == [() if bare else task.instances for task in tasks]
    if name in ("regen", "machine_generated_instructions"):
        similar = read.entries[-1].extra["most_similar"]
        assert len(similar) == 10
        assert set(similar) & {task.instruction for task in tasks}


def test_rows_pass_the_gates_and_every_verdict_is_told(space: Workspace, tmp_path: Path) -> None:
    with Pool.create(tmp_path / "unused.sqlite3"):
        pass
    near = "Turn the temperature into degrees of Fahrenheit."
    seed = (
        "Put together a packing checklist for a one-day winter hike in the hills, grouped under three headings: "
    )
    rows = [
        *RAW["alpaca_data"],
        {"instruction": near, "input": "", "output": "x"},
        {"instruction": seed + "clothing, safety and food.", "input": "", "output": "x"},
        {"instruction": "Do it.", "input": "", "output": "x"},
        {"instruction": "Describe the picture in two words.", "input": "", "output": "x"},
        {"instruction": ROWS[0][0], "input": "0 degrees Celsius", "output": "32 degrees Fahrenheit"},
        {"instruction": ROWS[0][0], "input": "5 degrees Celsius", "output": ""},
        {"instruction": ROWS[1][0], "input": "", "output": "The Amazon."},
    ]
    result = import_file(space, written(tmp_path, "alpaca_data", rows))
    assert (result.rows, result.candidates, result.tasks, result.instances) == (12, 9, 5, 6)
    assert result.drops == {"too_similar": 2, "too_short": 1, "blocked_word": 1}
    assert result.lost_instances == {"empty_output": 1, "duplicate_instance": 1}
    assert result.release is not None
    manifest = read_manifest(result.release)
    assert manifest["rounds"][0]["settings"]["source"]["rows"] == 12
    assert manifest["recipe"] == "import"
    card = (result.release / "README.md").read_text()
    assert "Round 1 was imported from alpaca\\_data.json (format `alpaca_data`, 12 rows)" in card
    assert "written by a language model" not in card
    rejected = datasets.load_dataset(str(result.release), "rejected", split="train")
    assert sorted(rejected["reason"]) == sorted(
        [*["too_similar"] * 2, "too_short", "blocked_word", "empty_output", "duplicate_instance"]
    )
    # What came through is written again, several rows of one instruction included.
    export_file(space, tmp_path / "out.json", "alpaca_data")
    assert rows_of(tmp_path / "out.json", "alpaca_data") == [rows[0], rows[9], *rows[1:5]]


def test_an_import_is_a_round_among_others(space: Workspace, tmp_path: Path) -> None:
    values = {"tasks": 6, "demonstrations.machine": 3}
    with running(Server()) as server:
        settings = config.with_overrides(space.settings(), {**values, "endpoint.url": server.url})
        run.grow(space, settings)
        result = import_file(space, written(tmp_path, "alpaca_data", RAW["alpaca_data"]))
        assert result.round == 2
        run.grow(space, settings)
    told = status(space)
    assert told["versions"] == ["v1.0.0", "v1.1.0", "v1.2.0"]
    assert [round_["recipe"] for round_ in told["rounds"]] == ["alpaca", "import", "alpaca"]
    assert told["tasks"] == 17
    assert told["rounds"][1]["stages"]["import"]["candidates"] == 5
    assert told["rounds"][1]["requests"] == 0
    with Pool.open(space.pool_file, read_only=True) as pool:
        imported = {task.id for task in pool.tasks(2)}
        shown = {key for request, _ in pool.completions(3) for key in request.demonstrations}
        assert imported & shown  # machine demonstrations come from it too
    release = space.releases / "v1.2.0"
    origins = datasets.load_dataset(str(release), "provenance", split="train")
    assert {row["model"] for row in origins if row["recipe"] == "import"} == {None}
    assert len(datasets.load_dataset(str(release), split="train")) == 17
    # The same file again: nothing of it is new, and nothing is stored.
    again = import_file(space, tmp_path / "alpaca_data.json")
    assert (again.tasks, again.drops, again.round) == (0, {"too_similar": 5}, None)
    assert len(status(space)["rounds"]) == 3


def test_an_import_between_two_halves_of_a_run_is_none_of_its_rounds(space: Workspace, tmp_path: Path) -> None:
    with running(Server()) as server:
        values = {"tasks": 6, "endpoint.url": server.url, "saturation.acceptance": 1.0, "saturation.rounds": 1}
        settings = config.with_overrides(space.settings(), values)
        run.grow(space, settings, rounds=3)  # stops after one
        import_file(space, written(tmp_path, "alpaca_data", RAW["alpaca_data"]))
        run.grow(space, config.with_overrides(settings, {"saturation.rounds": 9}), rounds=3)
    assert [r["recipe"] for r in status(space)["rounds"]] == ["alpaca", "import", "alpaca", "alpaca"]


def test_a_round_that_is_open_comes_first(space: Workspace, tmp_path: Path) -> None:
    file = written(tmp_path, "alpaca_data", RAW["alpaca_data"])
    with running(Server()) as server:
        settings = config.with_overrides(space.settings(), {"tasks": 50, "endpoint.url": server.url})
        run.grow(space, settings, max_requests=3)
        with pytest.raises(PoolError, match=r"round 1 is open; finish it with .* or release what it has with"):
            import_file(space, file)


def test_a_round_without_an_answer_gives_way(space: Workspace, tmp_path: Path) -> None:
    from aiohttp import web

    from selfinstruct_hub.errors import EndpointRefusedError

    with running(Server(fault=lambda n: web.Response(status=404))) as server:
        settings = config.with_overrides(space.settings(), {"endpoint.url": server.url})
        with pytest.raises(EndpointRefusedError):
            run.grow(space, settings)
    import_file(space, written(tmp_path, "alpaca_data", RAW["alpaca_data"]))
    assert [r["recipe"] for r in status(space)["rounds"]] == ["import"]


def test_bad_rows_are_counted_and_skipped_on_request(space: Workspace, tmp_path: Path) -> None:
    rows = [*RAW["alpaca_data"], {"instruction": "Name three old bridges.", "input": "", "output": None}]
    file = written(tmp_path, "alpaca_data", rows)
    with pytest.raises(
        FormatError, match=re.escape(f"{file}, row 6, field `output`: expected a text, found null")
    ):
        import_file(space, file)
    assert status(space)["rounds"] == []
    result = import_file(space, file, skip_bad=True)
    assert (result.tasks, len(result.bad)) == (5, 1)


def test_an_export_never_overwrites_and_never_leaves_a_half(space: Workspace, tmp_path: Path) -> None:
    with pytest.raises(PoolError, match="there is no pool yet"):
        export_file(space, tmp_path / "out.json", "alpaca_data")
    import_file(space, written(tmp_path, "alpaca_data", RAW["alpaca_data"]))
    (tmp_path / "out.json").write_text("mine")
    with pytest.raises(FormatError, match=r"exists already; .* overwrite it with --force"):
        export_file(space, tmp_path / "out.json", "alpaca_data")
    assert (tmp_path / "out.json").read_text() == "mine"
    export_file(space, tmp_path / "out.json", "alpaca_data", overwrite=True)
    assert rows_of(tmp_path / "out.json", "alpaca_data") == RAW["alpaca_data"]
    with pytest.raises(FormatError, match="cannot be written"):
        export_file(space, tmp_path / "nowhere" / "out.json", "alpaca_data")
    assert [p.name for p in tmp_path.iterdir() if "unfinished" in p.name] == []


def test_seeds_can_be_written_too(space: Workspace, tmp_path: Path) -> None:
    import_file(space, written(tmp_path, "alpaca_data", RAW["alpaca_data"]))
    assert export_file(space, tmp_path / "seeds.jsonl", "seed_tasks", with_seeds=True).rows == 180
    other = Workspace.create(tmp_path / "other", config.Settings(seeds="../seeds.jsonl"))
    assert other.settings().seeds == "../seeds.jsonl"  # what it writes can be the seeds of another workspace
