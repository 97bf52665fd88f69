"""Other projects' files into a workspace and out of it: the same gates, nothing lost that the format can hold."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import tty
from pathlib import Path
from typing import Any

import datasets
import pytest

from selfinstruct_hub import config, formats, run
from selfinstruct_hub.errors import FormatError, PoolError
from selfinstruct_hub.exchange import STDOUT, export_file, import_file
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.release import read_manifest
from selfinstruct_hub.status import status
from selfinstruct_hub.workspace import Workspace
from tests.support import tool
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
    return Workspace.create(tmp_path / "w", config.Settings(card=config.CardSettings(pictures="off")))


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


def test_an_import_that_dies_is_none_of_a_runs_rounds_either(
    space: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = Pool.add_import

    def dying(*given: Any) -> None:
        add(*given)
        raise KeyboardInterrupt

    monkeypatch.setattr(Pool, "add_import", dying)
    with running(Server()) as server:
        values = {"tasks": 6, "endpoint.url": server.url, "saturation.acceptance": 1.0, "saturation.rounds": 1}
        settings = config.with_overrides(space.settings(), values)
        run.grow(space, settings, rounds=3)  # stops after one
        with pytest.raises(KeyboardInterrupt):
            import_file(space, written(tmp_path, "alpaca_data", RAW["alpaca_data"]))
        run.grow(space, config.with_overrides(settings, {"saturation.rounds": 9}), rounds=3)
    assert [r["recipe"] for r in status(space)["rounds"]] == ["alpaca", "import", "alpaca", "alpaca"]


def test_an_import_packages_what_an_earlier_one_left(space: Workspace, tmp_path: Path) -> None:
    first = written(tmp_path, "alpaca_data", RAW["alpaca_data"][:3])
    release = import_file(space, first).release
    assert release is not None
    manifest = (release / "manifest.json").read_bytes()
    shutil.rmtree(release)
    second = written(tmp_path, "regen", RAW["regen"][3:])
    result = import_file(space, second)
    assert result.packaged == (release,)
    assert (release / "manifest.json").read_bytes() == manifest
    assert result.release is not None
    assert len(datasets.load_dataset(str(result.release), split="train")) == 5
    # Also where the file has nothing new: this is what starting the import again comes to.
    shutil.rmtree(result.release)
    again = import_file(space, second)
    assert (again.tasks, again.packaged) == (0, (result.release,))
    assert import_file(space, second).packaged == ()


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


# What comes out is what went in.


def with_text(row: Any, old: str, new: str) -> Any:
    """`row` with `new` for `old` in all its texts."""
    return json.loads(json.dumps(row, ensure_ascii=False).replace(old, new))


@pytest.mark.parametrize(
    "name", [name for name in formats.NAMES if name not in ("seed_tasks", "machine_generated_instructions")]
)
def test_a_row_keeps_what_stood_beside_it_when_another_of_its_instruction_goes(
    space: Workspace, tmp_path: Path, name: str
) -> None:
    good = RAW[name][0]
    bad = with_text(with_text(good, "68 degrees Fahrenheit", "To be told:"), "?", ":")  # ends_with_colon
    other = with_text(good, "68 degrees", "about 68 degrees")
    rows = [{**row, "beside": place} for place, row in enumerate([bad, good, bad, other])]
    if name == "machine_generated_instances":
        rows[3]["raw_instances"] = "Input: 20 degrees Celsius, please\nOutput: 68"
    elif name in ("alpaca_data", "all_generated_instances", "regen"):
        rows[3]["input"] = "20 degrees Celsius, please"
    elif name == "gpt3_finetuning_data":
        rows[3]["prompt"] = rows[3]["prompt"].replace("20 degrees Celsius", "20 degrees Celsius, please")
    result = import_file(space, written(tmp_path, name, rows))
    assert (result.rows, result.tasks) == (4, 1)
    assert result.lost_instances["ends_with_colon"] >= 2
    export_file(space, tmp_path / "out", name)
    assert rows_of(tmp_path / "out", name) == [rows[1], rows[3]]


def test_instances_and_rows_of_seed_tasks_keep_their_own(space: Workspace, tmp_path: Path) -> None:
    instruction = ROWS[0][0]

    def row(name: str, *instances: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {"id": name, "name": name, "instruction": instruction, "instances": list(instances), **more}

    rows = [
        row(
            "a",
            {"input": "0 degrees", "output": "32", "source": "book"},
            {"input": "1 degree", "output": "", "source": "nobody"},
            {"input": "5 degrees", "output": "41", "source": {"page": 7}},
            beside=1,
        ),
        row("b", {"input": "9 degrees", "output": ""}, is_classification=False),
        row("c", {"input": "10 degrees", "output": "50"}, is_classification=True, beside=[3]),
        row("d", {"input": "20 degrees", "output": "68"}, is_classification=False),
    ]
    result = import_file(space, written(tmp_path, "seed_tasks", rows))
    assert (result.tasks, result.instances, result.lost_instances) == (1, 4, {"empty_output": 2})
    with Pool.open(space.pool_file, read_only=True) as pool:
        (task,) = pool.tasks(1)
    assert task.is_classification is False  # the first that says so
    export_file(space, tmp_path / "out", "seed_tasks")
    del rows[0]["instances"][1]
    assert rows_of(tmp_path / "out", "seed_tasks") == [rows[0], rows[2], rows[3]]


def test_blanks_around_texts_are_not_judged_and_not_published(space: Workspace, tmp_path: Path) -> None:
    rows = [
        {"instruction": f"  {ROWS[1][0]}\n", "input": "", "output": " By the sun."},
        {"instruction": ROWS[1][0], "input": " \n", "output": "By the sun."},
        {"instruction": ROWS[2][0], "input": "q", "output": "1"},
        {"instruction": ROWS[2][0], "input": "q ", "output": "2"},
        {"instruction": ROWS[3][0], "input": "about \t", "output": "\u3000Lamp\n"},
        {"instruction": ROWS[3][0], "input": "", "output": " \n\t"},
    ]
    result = import_file(space, written(tmp_path, "alpaca_data", rows))
    assert (result.tasks, result.drops) == (2, {"conflicting_outputs": 1})
    assert result.lost_instances == {"duplicate_instance": 1, "empty_output": 1}
    published = datasets.load_dataset(str(result.release), split="train")
    assert [(row["instruction"], row["input"], row["output"]) for row in published] == [
        (ROWS[1][0], "", "By the sun."),
        (ROWS[3][0], "about", "Lamp"),
    ]
    export_file(space, tmp_path / "out.json", "alpaca_data")
    assert rows_of(tmp_path / "out.json", "alpaca_data") == [rows[0], rows[4]]
    # In another format, what was judged.
    export_file(space, tmp_path / "out.jsonl", "prompt_completion")
    assert rows_of(tmp_path / "out.jsonl", "prompt_completion") == [
        {"prompt": ROWS[1][0], "completion": "By the sun."},
        {"prompt": f"{ROWS[3][0]}\n\nabout", "completion": "Lamp"},
    ]


def test_instructions_and_then_their_instances(space: Workspace, tmp_path: Path) -> None:
    first, second = "machine_generated_instructions", "machine_generated_instances"
    assert import_file(space, written(tmp_path, first, RAW[first])).release is None
    result = import_file(space, written(tmp_path, second, RAW[second][:4]))
    assert (result.tasks, result.instances) == (4, 8)
    assert result.release is not None
    assert len(datasets.load_dataset(str(result.release), split="train")) == 8
    # Every instruction once, with what its own file said; no task without its instances beside itself.
    done = export_file(space, tmp_path / "instructions", first)
    assert rows_of(tmp_path / "instructions", first) == RAW[first]
    assert (done.rows, done.without_instances) == (5, 0)
    export_file(space, tmp_path / "instances", second)
    alone, *others = rows_of(tmp_path / "instances", second)
    assert (alone["instruction"], alone["raw_instances"]) == (ROWS[4][0], "")
    assert others == RAW[second][:4]
    assert export_file(space, tmp_path / "alpaca", "alpaca_data").without_instances == 1


def test_rows_of_one_instruction_are_one_instruction(space: Workspace, tmp_path: Path) -> None:
    rows = [*RAW["alpaca_data"], {**RAW["alpaca_data"][0], "input": "0 degrees", "output": "32 degrees"}]
    assert import_file(space, written(tmp_path, "alpaca_data", rows)).instances == 6
    export_file(space, tmp_path / "out", "machine_generated_instructions")
    out = rows_of(tmp_path / "out", "machine_generated_instructions")
    assert [row["instruction"] for row in out] == [row["instruction"] for row in rows[:5]]


# Where a file comes from and where it goes.


def child(*arguments: Any, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """In an interpreter of its own."""
    command = [sys.executable, "-m", "selfinstruct_hub", *map(str, arguments)]
    environment = {**os.environ, **options.pop("env", {})}
    return subprocess.run(command, env=environment, timeout=120, capture_output=True, **options)


def onto(stdout: int, *arguments: str | Path) -> tuple[int, str]:
    """Exit code and errors of the tool, with an open file for its standard output."""
    with tempfile.TemporaryFile() as errors, Path(os.devnull).open("rb") as nothing:
        code = tool.start(arguments, (nothing.fileno(), stdout, errors.fileno())).wait(120)
        errors.seek(0)
        return code, errors.read().decode()


@pytest.fixture
def filled(space: Workspace, tmp_path: Path) -> Workspace:
    """A workspace with five tasks."""
    import_file(space, written(tmp_path, "alpaca_data", RAW["alpaca_data"]))
    return space


@pytest.fixture
def whole(filled: Workspace, tmp_path: Path) -> bytes:
    """What an export of it writes."""
    export_file(filled, tmp_path / "whole.json", "alpaca_data")
    return (tmp_path / "whole.json").read_bytes()


def test_a_pipe_is_read_once(space: Workspace) -> None:
    content = "\n".join(json.dumps(row) for row in RAW["alpaca_data"]).encode()
    done = tool.run("import", space.path, "/dev/stdin", given=content)
    assert done.returncode == 0, done.stderr
    source = read_manifest(space.releases / "v1.0.0")["rounds"][0]["settings"]["source"]
    assert source["sha256"] == hashlib.sha256(content).hexdigest()
    assert (source["file"], source["rows"]) == ("stdin", 5)


def test_a_pipe_and_a_device_are_written_into(filled: Workspace, whole: bytes, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "link").symlink_to(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    for path, overwrite in ((pipe, False), (pipe, True), (tmp_path / "link", False)):
        assert export_file(filled, path, "alpaca_data", overwrite=overwrite).rows == 5
        assert os.read(reader, 1 << 16) == whole
    os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert (tmp_path / "link").is_symlink()

    ours, theirs = os.openpty()
    tty.setraw(theirs)
    terminal = Path(os.ttyname(theirs))
    export_file(filled, terminal, "alpaca_data", overwrite=True)
    found = b""
    while len(found) < len(whole):
        found += os.read(ours, 1 << 16)
    assert found == whole
    assert stat.S_ISCHR(terminal.stat().st_mode)
    os.close(ours)
    os.close(theirs)
    assert export_file(filled, Path("/dev/null"), "alpaca_data").rows == 5
    with pytest.raises(FormatError, match=r"^/dev/full: cannot be written \(No space left on device\)$"):
        export_file(filled, Path("/dev/full"), "alpaca_data")
    with pytest.raises(FormatError, match=r"cannot be written \(Is a directory\)$"):
        export_file(filled, tmp_path, "alpaca_data", overwrite=True)


def test_a_link_stays_and_its_target_is_replaced(filled: Workspace, whole: bytes, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "out.json", tmp_path / "link"
    link.symlink_to(tmp_path / "second")
    (tmp_path / "second").symlink_to("there/out.json")
    export_file(filled, link, "alpaca_data")  # leads nowhere yet
    assert target.read_bytes() == whole
    target.write_text("mine")
    with pytest.raises(FormatError, match="link: exists already"):
        export_file(filled, link, "alpaca_data")
    assert target.read_text() == "mine"
    export_file(filled, link, "alpaca_data", overwrite=True)
    assert (target.read_bytes(), link.is_symlink(), target.is_symlink()) == (whole, True, False)
    circle = tmp_path / "circle"
    circle.symlink_to(circle)
    with pytest.raises(FormatError, match=r"circle: cannot be written \(Too many levels of symbolic links\)"):
        export_file(filled, circle, "alpaca_data", overwrite=True)
    assert circle.is_symlink()
    assert [file.name for file in target.parent.iterdir()] == ["out.json"]


def test_an_open_descriptor_is_written_on(filled: Workspace, whole: bytes, tmp_path: Path) -> None:
    """What stands in a file that the shell appends to is never written over."""
    log = tmp_path / "log"
    log.write_bytes(b"before\n")
    with log.open("ab") as file:
        export_file(filled, Path(f"/dev/fd/{file.fileno()}"), "alpaca_data")
    assert log.read_bytes() == b"before\n" + whole
    with log.open("ab") as file:
        done = onto(file.fileno(), "export", filled.path, "/dev/stdout", "--format", "alpaca_data")
    assert done[0] == 0, done[1]
    assert log.read_bytes() == b"before\n" + whole + whole
    with pytest.raises(FormatError, match=r"^/dev/fd/987: cannot be written \(Bad file descriptor\)$"):
        export_file(filled, Path("/dev/fd/987"), "alpaca_data")
    reader, writer = os.pipe()
    os.close(reader)
    with pytest.raises(BrokenPipeError):
        export_file(filled, Path(f"/dev/fd/{writer}"), "alpaca_data")
    os.close(writer)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-16"])
def test_standard_output_is_utf_8(filled: Workspace, whole: bytes, encoding: str) -> None:
    assert not whole.isascii()
    arguments = ("export", filled.path, "-", "--format", "alpaca_data")
    done = tool.run(*arguments, environment={**os.environ, "PYTHONIOENCODING": encoding})
    assert (done.returncode, done.stdout.encode()) == (0, whole)
    if encoding == "ascii":
        bare = child(*arguments, env={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"})
        assert (bare.returncode, bare.stdout) == (0, whole)


def test_standard_output_in_memory(filled: Workspace, whole: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(memory, encoding="ascii", newline="\r\n"))
    print("before")
    export_file(filled, STDOUT, "alpaca_data")
    print("after", flush=True)
    assert memory.getvalue() == b"before\r\n" + whole + b"after\r\n"
    monkeypatch.setattr(sys, "stdout", characters := io.StringIO())
    export_file(filled, STDOUT, "alpaca_data")
    assert characters.getvalue().encode() == whole
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(FormatError, match="standard output is closed; name a file"):
        export_file(filled, STDOUT, "alpaca_data")


@pytest.mark.parametrize("name", ["-", "/dev/stdout"])
def test_standard_output_that_cannot_be_written(filled: Workspace, name: str) -> None:
    arguments = ("export", filled.path, name, "--format", "alpaca_data")
    with Path("/dev/full").open("wb") as full:
        done = onto(full.fileno(), *arguments)
    shown = "standard output" if name == "-" else name
    assert done == (2, f"error: {shown}: cannot be written (No space left on device)\n")
    closed = child(*arguments, preexec_fn=lambda: os.close(1))
    assert re.fullmatch("error: standard output is closed; .*\n", closed.stderr.decode())
    assert closed.returncode > 0
    reader, writer = os.pipe()
    os.close(reader)
    gone = onto(writer, *arguments)
    os.close(writer)
    assert gone == (1, "")


DYING = """
import os, signal, sys
from pathlib import Path
from selfinstruct_hub import exchange
from selfinstruct_hub.workspace import Workspace

entries = exchange._entries

def dying(*given):
    for number, entry in enumerate(entries(*given)):
        if number == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        yield entry

exchange._entries = dying
exchange.export_file(Workspace(Path(sys.argv[1])), Path(sys.argv[2]), "alpaca_data", overwrite=True)
"""


@pytest.mark.parametrize("before", [None, "mine"])
def test_a_killed_export_leaves_nothing_half_under_its_name(
    space: Workspace, tmp_path: Path, before: str | None
) -> None:
    long = " ".join(str(number) for number in range(20_000))
    rows = [{**row, "output": f"{place} {long}"} for place, row in enumerate(RAW["alpaca_data"])]
    import_file(space, written(tmp_path, "alpaca_data", rows))
    out, half = tmp_path / "out.json", tmp_path / ".out.json.unfinished"
    if before is not None:
        out.write_text(before)
    done = subprocess.run([sys.executable, "-c", DYING, str(space.path), str(out)], timeout=120)
    assert done.returncode == -9
    assert (out.read_text() if out.exists() else None) == before
    left = half.read_bytes()
    assert len(left) > len(long)
    export_file(space, out, "alpaca_data", overwrite=True)
    assert rows_of(out, "alpaca_data") == rows
    assert out.read_bytes().startswith(left)
    assert not half.exists()


def test_seeds_can_be_written_too(space: Workspace, tmp_path: Path) -> None:
    import_file(space, written(tmp_path, "alpaca_data", RAW["alpaca_data"]))
    assert export_file(space, tmp_path / "seeds.jsonl", "seed_tasks", with_seeds=True).rows == 180
    other = Workspace.create(tmp_path / "other", config.Settings(seeds="../seeds.jsonl"))
    assert other.settings().seeds == "../seeds.jsonl"  # what it writes can be the seeds of another workspace
