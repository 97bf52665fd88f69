"""Seeds from datasets: folders of every kind and ids on a Hub of our own, by their columns; what is refused and
how it is said. The library is the real one, and the Hub is asked over real HTTP."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from selfinstruct_hub import config, seeds
from selfinstruct_hub.errors import SeedError, WorkspaceError
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.records import Completion, Decoding, Instance, Request, Round, Task
from selfinstruct_hub.workspace import Workspace
from tests.support.hub import Hub, Repo, running

Row = dict[str, Any]

ROWS: list[Row] = [
    {"instruction": "Name the colour.", "input": "a tomato", "output": "Red."},
    {"instruction": "Add the numbers.", "input": None, "output": "Seven."},
    {"instruction": " Name the colour. ", "input": "the sky", "output": "Blue."},
    {"instruction": "Name the colour.", "input": "a tomato", "output": "Red. "},
]
TASKS = [
    Task("seed_0", "Name the colour.", (Instance("a tomato", "Red."), Instance("the sky", "Blue."))),
    Task("seed_1", "Add the numbers.", (Instance("", "Seven."),)),
]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def settings(place: Path | str, language: str = "en", **mapping: Any) -> config.Settings:
    values = {"seeds": str(place), "language": language, "seed_dataset": mapping}
    return config.validate(values, source="test")


def load(place: Path | str, language: str = "en", **mapping: Any) -> list[Task]:
    return seeds.load(settings(place, language, **mapping), Path("/nowhere"))


def jsonl(path: Path, rows: list[Row]) -> Path:
    """`rows` as `path`; returns its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path.parent


def parquet(path: Path, rows: list[Row], schema: Any = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
    return path.parent


# Folders.


def test_jsonl_parquet_and_csv_give_the_same_tasks(tmp_path: Path) -> None:
    parquet(tmp_path / "p" / "train.parquet", ROWS)
    jsonl(tmp_path / "j" / "data.jsonl", ROWS)
    (tmp_path / "c").mkdir()
    with (tmp_path / "c" / "train.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(ROWS[0]))
        writer.writeheader()
        writer.writerows(ROWS)
    for folder in "pjc":
        assert load(tmp_path / folder) == TASKS, folder


def test_a_folder_is_found_from_the_workspace(tmp_path: Path) -> None:
    jsonl(tmp_path / "data" / "train.jsonl", ROWS)
    assert seeds.load(settings("../data"), tmp_path / "w") == TASKS


def test_folders_of_save_to_disk(tmp_path: Path) -> None:
    rows = datasets.Dataset.from_list(ROWS)
    rows.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": rows, "test": rows.select([1])}).save_to_disk(tmp_path / "dict")
    rows.with_format("numpy").save_to_disk(tmp_path / "formatted")
    assert load(tmp_path / "one") == load(tmp_path / "dict") == load(tmp_path / "formatted") == TASKS
    assert [task.instruction for task in load(tmp_path / "dict", split="test")] == ["Add the numbers."]
    for name, known in (("one", "train"), ("dict", "train, test")):
        with pytest.raises(
            SeedError,
            match=rf"no split `dev`; set `seed_dataset.split` \(init: --seed-split\) to one of: {known}$",
        ):
            load(tmp_path / name, split="dev")
    with pytest.raises(SeedError, match=r"without configs; set `seed_dataset.config` to null"):
        load(tmp_path / "one", config="a")


def release(folder: Path) -> Path:
    """A folder in the shape of our releases: several configs, one of them the default."""
    own: list[Row] = [
        {
            "id": "a",
            "name": "colour",
            "instruction": "Name the colour.",
            "instances": [{"input": "", "output": "Red."}, {"input": None, "output": "Blue."}],
            "is_classification": True,
        },
        {"id": "b", "name": "", "instruction": "Sing.", "instances": [{"input": "", "output": "La."}]},
    ]
    parquet(folder / "data" / "default" / "train-0.parquet", ROWS)
    parquet(folder / "data" / "seeds" / "train-0.parquet", own)
    (folder / "README.md").write_text(
        "---\nconfigs:\n"
        "- config_name: default\n  default: true\n  data_files:\n"
        "  - {split: train, path: data/default/train-*.parquet}\n"
        "- config_name: seeds\n  data_files:\n  - {split: train, path: data/seeds/train-*.parquet}\n---\n# Card\n"
    )
    (folder / "loading_script.py").write_text("raise SystemExit('ran')")
    return folder


def test_a_release_of_ours_gives_its_rows_or_its_seeds(tmp_path: Path) -> None:
    folder = release(tmp_path / "v1.0.0")
    assert load(folder) == TASKS
    assert load(folder, config="seeds") == [
        Task("a", "Name the colour.", (Instance("", "Red."), Instance("", "Blue.")), True, "colour"),
        Task("b", "Sing.", (Instance("", "La."),), None),
    ]
    with pytest.raises(
        SeedError,
        match=r"no config `sedes`; set `seed_dataset.config` \(init: --seed-config\) to one of: default, seeds$",
    ):
        load(folder, config="sedes")


def test_several_configs_without_a_default_and_unknown_splits(tmp_path: Path) -> None:
    folder = jsonl(tmp_path / "d" / "a.jsonl", ROWS)
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: a\n  data_files: a.jsonl\n- config_name: b\n  data_files: a.jsonl\n---\n"
    )
    with pytest.raises(
        SeedError, match=r"several configs; set `seed_dataset.config` \(init: --seed-config\) to one of: a, b$"
    ):
        load(folder)
    assert load(folder, config="b") == TASKS
    for split in ("test", "train[", "train[:x]"):
        with pytest.raises(
            SeedError, match=r"no split `.*`; set `seed_dataset.split` \(init: --seed-split\) to one of: train$"
        ):
            load(folder, config="b", split=split)
    with pytest.raises(SeedError, match="a folder has no revisions"):
        load(folder, config="b", revision="v1")


def test_the_limit_takes_from_the_top(tmp_path: Path) -> None:
    folder = jsonl(tmp_path / "d" / "a.jsonl", [{**ROWS[0], "instruction": f"Say {n}."} for n in range(1100)])
    assert [t.instruction for t in load(folder, limit=2)] == ["Say 0.", "Say 1."]
    assert len(load(folder)) == 1000
    assert len(load(folder, limit=None)) == len(load(folder, limit=5000)) == 1100
    assert len(load(folder, split="train[10:20]")) == 10


def test_a_changed_file_or_card_is_noticed(tmp_path: Path) -> None:
    folder = parquet(tmp_path / "d" / "train.parquet", [{"instruction": "Judge it.", "output": 1}])
    card = "---\ndataset_info:\n  features:\n  - {{name: instruction, dtype: string}}\n  - name: output\n"
    card += "    dtype:\n      class_label:\n        names: {{'0': bad, '1': {}}}\n---\n"
    for name in ("good", "fine"):
        (folder / "README.md").write_text(card.format(name))
        assert load(folder)[0].instances == (Instance("", name),)
    assert not (tmp_path / "cache").exists()


def broken_folders(path: Path) -> Iterator[tuple[Path, str | tuple[str, str]]]:
    """Folders, and how the line about each begins; two ways where `datasets` 4 and 5 do not fail alike."""
    (path / "empty").mkdir(parents=True)
    yield path / "empty", "cannot be read as a dataset (The directory at"
    yield jsonl(path / "rowless" / "a.jsonl", []), "cannot be read as a dataset (it seems to be empty)"
    folder = jsonl(path / "half" / "a.jsonl", ROWS)
    (folder / "a.jsonl").write_text('{"instruction": "Sing."}\n{"instr')
    yield folder, "cannot be read as a dataset (JSON parse error"
    (path / "parquet").mkdir()
    (path / "parquet" / "a.parquet").write_bytes(b"PAR1 and no more")
    yield path / "parquet", "cannot be read as a dataset (Parquet magic bytes not found"
    folder = jsonl(path / "differ" / "a.jsonl", ROWS)
    jsonl(folder / "b.jsonl", [{"question": "x"}])
    wrong = "cannot be read as a dataset ("
    yield folder, (f"{wrong}All the data files must have the same columns", f"{wrong}Couldn't cast")
    folder = jsonl(path / "script" / "a.jsonl", ROWS)
    (folder / "script.py").write_text("raise SystemExit('ran')")
    yield folder, "cannot be read as a dataset (Dataset scripts are no longer supported"
    folder = jsonl(path / "card" / "a.jsonl", ROWS)
    (folder / "README.md").write_text("---\nconfigs: [\n---\n")
    yield folder, "cannot be read as a dataset (while parsing"
    (path / "saved").mkdir()
    (path / "saved" / "state.json").write_text("{}")
    yield path / "saved", "cannot be read as a dataset (Directory"
    (path / "dict").mkdir()
    (path / "dict" / "dataset_dict.json").write_text('{"splits": []}')
    yield path / "dict", "no rows in it"
    datasets.Dataset.from_dict({"instruction": [], "output": []}).save_to_disk(path / "rows")
    yield path / "rows", ("no rows in it", "cannot be read as a dataset (it seems to be empty)")
    (path / "header").mkdir()
    (path / "header" / "a.csv").write_text("instruction,output\n")
    yield path / "header", "no rows in it"


def test_folders_that_hold_no_dataset_are_one_line_each(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folders = list(broken_folders(tmp_path))
    capfd.readouterr()  # what writing them printed
    for folder, said in folders:
        with pytest.raises(SeedError) as error:
            load(folder)
        begun = str(error.value).removeprefix(f"{folder}: ")
        assert begun != str(error.value)
        assert begun.startswith(said), error.value
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < len(str(folder)) + 360
    assert capfd.readouterr() == ("", "")


def test_nothing_is_printed_and_the_library_is_left_as_it_was(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import logging

    from huggingface_hub.utils.tqdm import are_progress_bars_disabled

    def state() -> list[Any]:
        levels = [logging.getLogger(name).level for name in ("datasets", "huggingface_hub", "fsspec")]
        return [*levels, datasets.are_progress_bars_disabled(), are_progress_bars_disabled()]

    before = state()
    load(jsonl(tmp_path / "d" / "a.jsonl", ROWS))
    with pytest.raises(SeedError):
        load(tmp_path / "d", split="x")
    assert state() == before
    datasets.disable_progress_bars()
    try:
        load(tmp_path / "d")
        assert datasets.are_progress_bars_disabled()
    finally:
        datasets.enable_progress_bars()
    assert capfd.readouterr() == ("", "")


# Columns.


@pytest.mark.parametrize(
    ("rows", "mapping", "tasks"),
    [
        (
            [{"q": "Sing.", "context": "loud", "a": "La.", "n": 7, "c": 1}],
            {"instruction": "q", "input": "context", "output": "a", "id": "n", "is_classification": "c"},
            [Task("7", "Sing.", (Instance("loud", "La."),), True)],
        ),
        ([{"instruction": "Sing.", "output": "La."}], {}, [Task("seed_0", "Sing.", (Instance("", "La."),))]),
        (
            [{"instruction": "Sing.", "input": "loud", "output": "La."}],
            {"input": None},
            [Task("seed_0", "Sing.", (Instance("", "La."),))],
        ),
        (
            # One instruction in three rows: ids of the first, one label is enough, one instance told twice.
            [
                {"instruction": "Rate.", "output": "a", "id": "x", "c": None},
                {"instruction": "Rate.", "output": "b", "id": "x", "c": False},
                {"instruction": "Rate.", "output": "a", "id": "y", "c": False},
            ],
            {"id": "id", "is_classification": "c"},
            [Task("x", "Rate.", (Instance("", "a"), Instance("", "b")), False)],
        ),
        (
            [{"instruction": "Sing.", "output": "La.", "instances": [{"input": "", "output": "no"}]}],
            {},  # an output that is there is what is read
            [Task("seed_0", "Sing.", (Instance("", "La."),))],
        ),
        (
            [{"text": "Sing.", "instances": {"input": ["", "loud"], "output": ["La.", "LA."]}, "id": "s"}],
            {"instruction": "text"},
            [Task("s", "Sing.", (Instance("", "La."), Instance("loud", "LA.")))],
        ),
    ],
)
def test_columns_become_tasks(tmp_path: Path, rows: list[Row], mapping: Row, tasks: list[Task]) -> None:
    assert load(parquet(tmp_path / "d" / "train.parquet", rows), **mapping) == tasks


@pytest.mark.parametrize(
    ("rows", "mapping", "said"),
    [
        (
            [{"q": "Sing.", "a": "La."}],
            {"instruction": "q"},
            "no column `output`; set `seed_dataset.output` (init: --seed-column output=...) to one of its "
            "columns: q, a",
        ),
        (
            [{"instruction": "Sing.", "output": "La."}],
            {"input": "ctx"},
            "no column `ctx`; set `seed_dataset.input`",
        ),
        ([{"instruction": "Sing.", "output": "La."}], {"id": "n"}, "no column `n`; set `seed_dataset.id`"),
        ([{"instruction": "", "output": "x"}], {}, "row 1, column `instruction`: empty; expected a text"),
        (
            [{"instruction": "A b", "output": "x"}, {"instruction": "B c", "output": None}],
            {},
            "row 2, column `output`: expected a text, found null",
        ),
        ([{"instruction": "Add.", "output": 4}], {}, "row 1, column `output`: expected a text, found a number"),
        (
            [{"instruction": "Add.", "output": b"4"}],
            {},
            "column `output`: expected a text, found a value of type bytes",
        ),
        (
            [{"instruction": "Add.", "input": [1], "output": "4"}],
            {},
            "row 1, column `input`: expected a text, found a list",
        ),
        (
            [{"instruction": "Add.", "output": "4", "c": "yes"}],
            {"is_classification": "c"},
            "row 1, column `c`: expected true or false, found a text",
        ),
        (
            [{"instruction": "Add.", "output": "4", "c": 2}],
            {"is_classification": "c"},
            "row 1, column `c`: expected true or false, found a number",
        ),
        (
            [{"instruction": "Add.", "output": "4", "c": 0}, {"instruction": "Add.", "output": "5", "c": 1}],
            {"is_classification": "c"},
            "row 2, column `c`: says another thing than row 1, which has the same instruction",
        ),
        (
            [{"instruction": "Add.", "output": "4", "n": "x"}, {"instruction": "Sing.", "output": "5", "n": "x"}],
            {"id": "n"},
            "row 2, column `n`: repeats row 1, which has another instruction; every seed task needs its own id",
        ),
        (
            [{"instruction": "Add.", "output": "4", "n": 1.5}],
            {"id": "n"},
            "column `n`: expected a text, found a number",
        ),
        ([{"instruction": "Add.", "instances": []}], {}, "row 1, column `instances`: "),
        *(
            (
                [{"instruction": "Add.", "instances": {"input": given, "output": output}}],
                {},
                "row 1, column `instances`: expected a list, found an object",
            )
            for given, output in (("1", "2"), ("", "2"), (["1"], ["2", "3"]), (["1"], None))
        ),
        (
            [{"instruction": "Add.", "instances": ["x"]}],
            {},
            "column `instances`: expected objects with input and output",
        ),
        (
            [{"instruction": "Add.", "instances": [{"input": "", "output": " "}]}],
            {},
            "row 1, column `instances`, field `[0].output`: empty",
        ),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, rows: list[Row], mapping: Row, said: str) -> None:
    folder = parquet(tmp_path / "d" / "train.parquet", rows)
    with pytest.raises(SeedError) as error:
        load(folder, **mapping)
    assert str(error.value).startswith(f"{folder}")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_labels_become_their_names(tmp_path: Path) -> None:
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["calm", "angry"])}
    )
    rows = {"text": ["Judge: hello.", "Judge: argh."], "label": [0, 1]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "d")
    found = load(tmp_path / "d", instruction="text", output="label")
    assert [task.instances[0].output for task in found] == ["calm", "angry"]
    kept_back = {"text": ["Judge: hello."], "label": [-1]}
    datasets.Dataset.from_dict(kept_back, features=features).save_to_disk(tmp_path / "e")
    with pytest.raises(SeedError, match="row 1, column `label`: -1 is no label; expected 0 to 1"):
        load(tmp_path / "e", instruction="text", output="label")


def test_columns_that_are_not_read_are_not_looked_at(tmp_path: Path) -> None:
    row = {"instruction": "Sing.", "output": "La.", "image": {"bytes": b"no picture", "path": ""}}
    folder = parquet(tmp_path / "d" / "train.parquet", [row])
    kinds = {"instruction": "string", "output": "string", "image": "image"}
    features = "".join(f"  - {{name: {name}, dtype: {kind}}}\n" for name, kind in kinds.items())
    (folder / "README.md").write_text(f"---\ndataset_info:\n  features:\n{features}---\n")
    assert load(folder) == [Task("seed_0", "Sing.", (Instance("", "La."),))]


# The language.


def test_seeds_in_another_script_than_the_language(tmp_path: Path) -> None:
    rows = [
        {"instruction": "写一首关于春天的诗。", "output": "春天来了。"},
        {"instruction": "Sing.", "output": "La."},
    ]
    folder = jsonl(tmp_path / "d" / "train.jsonl", rows)
    assert len(load(folder, "zh", limit=1)) == 1
    for language, row, name in (("zh", 2, "Chinese"), ("en", 1, "English")):
        with pytest.raises(SeedError) as error:
            load(folder, language)
        assert str(error.value) == (
            f"{folder}, row {row}, column `instruction`: not a character of it is in the script of {name}; set "
            f"`language` to the language of the seeds, or `seeds` to tasks written in {name}"
        )


# The Hub.

LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
CARD = b"---\nconfigs:\n- config_name: a\n  data_files: a.jsonl\n- config_name: b\n  data_files: b.jsonl\n---\n"
# Loads one settings after another; a line of JSON each, the tasks' instructions or the error.
CHILD = """
import json, sys
from pathlib import Path
from selfinstruct_hub import config, seeds
from selfinstruct_hub.errors import SeedError
for values in json.loads(sys.argv[1]):
    try:
        found = [t.instruction for t in seeds.load(config.validate(values, source="test"), Path("/nowhere"))]
    except SeedError as error:
        found = str(error)
    print(json.dumps(found))
"""


def client(hub: Hub, cwd: Path, *asked: tuple[str, Row], **variables: str) -> list[Any]:
    """What a client in `cwd`, with a cache beside it, finds for every (id, mapping)."""
    values = [{"seeds": name, "seed_dataset": mapping} for name, mapping in asked]
    cwd.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(values)],
        cwd=cwd,
        env=hub.environment(cwd.parent / "home", **variables),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_dataset_on_the_hub(tmp_path: Path) -> None:
    whole, tag = ["Name the colour.", "Add the numbers."], {"revision": "v1.0"}
    repo = Repo({"train.jsonl": LINES, "script.py": b"raise SystemExit('ran')"}, tags=("v1.0",))
    other = "0" * 40
    hub = Hub(
        {
            "org/plain": repo,
            "org/two": Repo({"README.md": CARD, "a.jsonl": LINES, "b.jsonl": LINES}),
            "org/gated": Repo({"train.jsonl": LINES}, gated=True),
            "org/empty": Repo({".gitattributes": b""}),
            "org/script": Repo({"script.py": b"raise SystemExit('ran')"}),
        }
    )
    with running(hub):
        found = client(
            hub,
            tmp_path / "online",
            ("org/plain", {}),
            ("org/plain", tag),
            ("org/plain", {"revision": repo.commit, "limit": 1}),
            ("org/two", {"config": "b"}),
            *(("org/plain", {"revision": "v2"}), ("org/plain", {"split": "test"}), ("org/two", {})),
            *(("org/two", {"config": "c"}), ("org/gated", {}), ("org/empty", {}), ("org/script", {})),
            *(("org/none", {}), ("nothing", {}), ("json", {}), ("org/plain", {"output": "answer"})),
        )
        assert found[:4] == [whole, whole, whole[:1], whole]
        unknown = (
            "there is no such file or folder, and no such dataset on the Hub that you may read; check `seeds`"
        )
        for message, said in zip(
            found[4:],
            (
                "dataset org/plain: no revision `v2`; set `seed_dataset.revision` to a branch, tag or commit",
                "dataset org/plain: no split `test`; set `seed_dataset.split` (init: --seed-split) to one of: "
                "train",
                "dataset org/two: has several configs; set `seed_dataset.config` (init: --seed-config) to one of: "
                "a, b",
                "dataset org/two: no config `c`; set `seed_dataset.config` (init: --seed-config) to one of: a, b",
                f"dataset org/gated: its authors grant access on request; ask at {hub.url}/datasets/org/gated,",
                "dataset org/empty: cannot be read as a dataset (The directory at hf://datasets/org/empty@",
                "dataset org/script: cannot be read as a dataset (Dataset scripts are no longer supported",
                f"dataset org/none: {unknown}",
                f"dataset nothing: {unknown}",
                "dataset json: that is a file format of `datasets`, not a dataset; write org/name",
                "dataset org/plain: no column `answer`; set `seed_dataset.output` (init: --seed-column "
                "output=...) to one of its columns: ",
            ),
            strict=True,
        ):
            assert message.startswith(said), message
            assert "\n" not in message

        # Offline, the cache answers as far as it can be trusted to.
        hub.asked.clear()
        offline = client(
            hub,
            tmp_path / "offline",
            ("org/plain", {}),
            ("org/plain", {"revision": repo.commit}),
            *(
                ("org/plain", tag),
                ("org/plain", {"revision": other}),
                ("org/none", {}),
                ("org/plain", {"config": "x"}),
            ),
            HF_HUB_OFFLINE="1",
        )
        assert hub.asked == []
    assert offline[:2] == [whole, whole]
    assert f"the copy in the cache is of commit {repo.commit}, not of `v1.0`, and the Hub is not" in offline[2]
    assert f"the copy in the cache is of commit {repo.commit}, not of `{other}`, and" in offline[3]
    assert offline[4].startswith("dataset org/none: not in the cache, and HF_HUB_OFFLINE is set; unset it, or set")
    assert offline[5].endswith("no config `x`; set `seed_dataset.config` (init: --seed-config) to one of: default")
    assert "\n" not in "".join(offline[2:])


def test_a_hub_that_fails_or_is_not_there(tmp_path: Path) -> None:
    hub = Hub(broken=True)
    with running(hub):
        (failing,) = client(hub, tmp_path / "w", ("org/plain", {}))
        assert len(hub.asked) == 1  # no patience: a person waits
    assert failing.startswith("dataset org/plain: the Hub refuses (500 Server Error")
    assert failing.endswith("start again later")
    (gone,) = client(hub, tmp_path / "w", ("org/plain", {}))
    assert gone.startswith(f"dataset org/plain: {hub.url} cannot be reached (")
    assert gone.endswith("start again when it can, or set HF_HUB_OFFLINE=1 to use a copy in the cache")
    assert "\n" not in failing + gone


def test_a_folder_in_the_working_directory_is_not_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jsonl(tmp_path / "org" / "data" / "train.jsonl", ROWS)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SeedError, match="`org/data` is in the working directory too"):
        load("org/data")


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        *(("squad", True), ("org/name", True), ("org/name-2.0_x", True), ("_a/b", True)),
        *(("seeds.jsonl", False), ("org/seeds.JSONL", False), ("a/b/c", False), ("../a", False), ("/a", False)),
        *(("./a", False), ("org/", False), ("a b", False), ("a--b", False), ("", False), ("x" * 97, False)),
    ],
)
def test_what_looks_like_an_id(text: str, is_one: bool) -> None:
    assert seeds.is_hub_id(text) is is_one


# The workspace.


def answered(space: Workspace, settings: config.Settings) -> str | None:
    """Opens the pool, stores one answer in it, and gives the digest of its seeds."""
    with space.locked(), space.open_pool(settings) as pool:
        if not pool.rounds():
            pool.begin_round(Round(1, "v1.0.0", 10, False, settings.model_dump()))
            request = Request(1, 0, 0, "tasks", "prompt", Decoding(max_new_tokens=9), ())
            pool.add_completion(request, Completion("text", "stop", 3, 4))
        return pool.meta("seeds")


def test_a_folders_seeds_are_compared_with_the_pools(tmp_path: Path) -> None:
    folder = jsonl(tmp_path / "d" / "train.jsonl", ROWS)
    wanted = settings("../d")
    space = Workspace.create(tmp_path / "w", wanted)
    assert answered(space, wanted) == answered(space, wanted) == seeds.fingerprint(TASKS)
    with Pool.open(space.pool_file) as pool:
        # What nobody has called classification is stored as none.
        assert pool.seeds() == [Task(t.id, t.instruction, t.instances, False) for t in TASKS]
    jsonl(folder / "train.jsonl", ROWS[:1])
    with pytest.raises(WorkspaceError, match="the seed tasks have changed since this pool was begun"):
        answered(space, wanted)
    with pytest.raises(SeedError, match="no column `answer`"):
        Workspace.create(tmp_path / "v", settings("../d", output="answer"))
    assert not (tmp_path / "v").exists()


def test_the_hub_is_not_asked_again_after_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from selfinstruct_hub.seeds import dataset

    asked: list[str] = []

    def read(source: str, mapping: config.SeedDataset, language: Any = None) -> list[Task]:
        asked.append(source)
        return TASKS[:1] if source == "org/other" else TASKS

    monkeypatch.setattr(dataset, "read", read)
    wanted = settings("org/name")
    space = Workspace.create(tmp_path / "w", wanted)
    with space.locked(), space.open_pool(wanted) as pool:
        assert [task.id for task in pool.seeds()] == ["seed_0", "seed_1"]
    assert len(asked) == 2  # at init, and while there is no answer
    assert answered(space, wanted) == seeds.fingerprint(TASKS)
    assert len(asked) == 3
    answered(space, wanted)
    assert len(asked) == 3
    answered(space, settings("org/name", limit=7))  # asked for in another way: looked at, and the same
    assert len(asked) == 4
    with pytest.raises(WorkspaceError, match="org/other: the seed tasks have changed"):
        answered(space, settings("org/other"))
