"""`verify`: a whole release passes, and each kind of damage is named in one line."""

from __future__ import annotations

import errno
import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from selfinstruct_hub import config, run
from selfinstruct_hub.cli import app
from selfinstruct_hub.errors import ReleaseError
from selfinstruct_hub.release import read_manifest
from selfinstruct_hub.release.contents import digest_of
from selfinstruct_hub.release.verify import check
from selfinstruct_hub.workspace import Workspace
from tests.support.tgi import Server, running


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release of two rounds; tests only read it."""
    with running(Server()) as server:
        space = Workspace.create(tmp_path_factory.mktemp("verify") / "w", config.Settings())
        settings = config.with_overrides(space.settings(), {"tasks": 5, "endpoint.url": server.url})
        run.grow(space, settings, rounds=2)
    return space.releases / "v1.1.0"


@pytest.fixture
def release(whole: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(whole, tmp_path / "v1.1.0"))


def manifest_changed(release: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    manifest = read_manifest(release)
    change(manifest)
    (release / "manifest.json").write_text(json.dumps(manifest))


def written_again(release: Path, path: str, content: bytes, **more: Any) -> None:
    """Changes a file and what the manifest says of it, as somebody would who wants it to pass."""
    (release / path).write_bytes(content)

    def change(manifest: dict[str, Any]) -> None:
        (entry,) = [file for file in manifest["files"] if file["path"] == path]
        entry.update({"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(), **more})
        manifest["release"] = digest_of(manifest["files"])

    manifest_changed(release, change)
    if "config" in next(file for file in read_manifest(release)["files"] if file["path"] == path):
        script = (release / "loading_script.py").read_text()
        new = re.sub(r"^RELEASE = .*$", f"RELEASE = {read_manifest(release)['release']!r}", script, flags=re.M)
        written_again(release, "loading_script.py", new.encode())


def refused(release: Path, file: str | None, *said: str, load: bool = False) -> None:
    with pytest.raises(ReleaseError) as caught:
        check(release, load=load)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(release / file) if file else str(release)), message
    for part in said:
        assert part in message, message


def test_a_whole_release_passes_and_nothing_is_left_behind(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    found = check(whole)
    manifest = read_manifest(whole)
    there = [path for path in whole.rglob("*") if path.is_file()]
    assert (found.version, found.release) == ("v1.1.0", manifest["release"])
    assert (found.files, found.bytes) == (len(there), sum(path.stat().st_size for path in there))
    rejected = sum(sum(r["drops"].values()) + sum(r["lost_instances"].values()) for r in manifest["rounds"])
    assert found.rows == {
        **dict.fromkeys(("default", "messages", "provenance"), manifest["rows"]),
        "rejected": rejected,
        "seeds": 175,
    }
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before
    assert list(tmp_path.iterdir()) == []


def test_what_a_download_adds_is_no_damage(release: Path) -> None:
    (release / ".gitattributes").write_text("*.parquet filter=lfs")
    (release / ".cache" / "huggingface" / "download").mkdir(parents=True)
    (release / ".cache" / "huggingface" / "download" / "README.md.metadata").write_text("x")
    # Python's own, where the class of the script was imported.
    (release / "__pycache__").mkdir()
    (release / "__pycache__" / "loading_script.cpython-311.pyc").write_bytes(b"x")
    assert check(release, load=False).rows["seeds"] == 175
    (release / "__pycache__" / "other.cpython-311.pyc").write_bytes(b"x")
    refused(release, "__pycache__/other.cpython-311.pyc", "is not among the")


def test_a_flipped_bit_in_any_file_is_named(release: Path) -> None:
    for file in read_manifest(release)["files"]:
        path = release / file["path"]
        content = path.read_bytes()
        place = len(content) // 2
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        refused(release, file["path"], "is not the file that was released", "restore it from a copy")
        path.write_bytes(content[:-1])
        refused(release, file["path"], f"has {len(content) - 1:,} bytes, expected {len(content):,}")
        path.unlink()
        refused(release, file["path"], "is missing", "restore it from a copy")
        path.write_bytes(content)
    assert check(release, load=False)


def test_a_file_too_many_is_named(release: Path) -> None:
    for name in ("notes.txt", "data/default/train-round-0009-00000-of-00001.parquet", ".hidden"):
        (release / name).write_text("x")
        refused(release, name, "is not among the", "move it out of the release")
        (release / name).unlink()


def test_no_release_at_all(tmp_path: Path) -> None:
    refused(tmp_path / "v1.0.0", None, "no such folder")
    refused(tmp_path, "manifest.json", "is missing")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "torn or no JSON"),
        (b'{"version": "v1.1.0", "fil', "torn or no JSON"),
        (b"\xff\xfe", "torn or no JSON"),
        (b"[" * 100_000, "torn or no JSON"),
        (b"[]", "is no object"),
        (b'{"version": 1}', "has no `version` that is a text"),
    ],
)
def test_a_torn_manifest_is_named(release: Path, content: bytes, said: str) -> None:
    (release / "manifest.json").write_bytes(content)
    refused(release, "manifest.json", said, "built anew")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m.pop("files"), "has no `files` that is a list"),
        (lambda m: m["files"].append("x"), "is no object"),
        (lambda m: m["files"][0].pop("sha256"), "files[0] has no `sha256` that is a text"),
        (lambda m: m["files"][0].update(rows=True), "files[0] has no `rows` that is a number"),
        (lambda m: m["files"][0].update(path="../v1.0.0/README.md"), "expected each file below the release once"),
        (lambda m: m["files"].append(m["files"][0]), "expected each file below the release once"),
        (
            lambda m: m.update(rows=m["rows"] + 1),
            "says that there are 11 rows in `default`, and its files hold 10",
        ),
        (lambda m: m.update(seeds=174), "says that there are 174 rows in `seeds`"),
        (lambda m: m.update(release="0" * 64), "`release` begins with 000000000000"),
        (lambda m: m["rounds"][1].update(rows=6), "says that round 2 has 6 rows, and its files hold 5"),
        (lambda m: m["rounds"][1].pop("rows"), "rounds[1] has no `rows` that is a number"),
        (lambda m: m["rounds"].append("x"), "rounds[2] is no object"),
        (lambda m: m["files"][0].update(round=[1]), "says that round 1 has 5 rows, and its files hold 0"),
        (lambda m: m["rounds"].pop(), "files belong to the round 2, which it does not tell of"),
    ],
)
def test_a_manifest_that_says_what_is_not_so(release: Path, change: Any, said: str) -> None:
    manifest_changed(release, change)
    refused(release, "manifest.json", said)


def default_shard(release: Path) -> str:
    return str(next(file["path"] for file in read_manifest(release)["files"] if file["config"] == "default"))


def test_a_torn_parquet_file_is_named(release: Path) -> None:
    path = default_shard(release)
    written_again(release, path, (release / path).read_bytes()[:-20])
    refused(release, path, "is torn or no Parquet")


def test_rows_that_the_manifest_does_not_count_are_named(release: Path) -> None:
    path = default_shard(release)
    written_again(release, path, (release / path).read_bytes(), rows=6)
    refused(release, path, "holds 5 rows, expected 6")


def rewritten(release: Path, path: str, change: Callable[[Any], Any]) -> None:
    table = change(pq.ParquetFile(release / path).read())
    pq.write_table(table, release / path, store_schema=False)
    content = (release / path).read_bytes()
    old = next(file["bytes"] for file in read_manifest(release)["files"] if file["path"] == path)
    written_again(release, path, content)
    # The card counts the bytes of a config too.
    card = (release / "README.md").read_text()
    for size in set(re.findall(r"download_size: (\d+)", card)):
        config_of = next(file["config"] for file in read_manifest(release)["files"] if file["path"] == path)
        files = [file["bytes"] for file in read_manifest(release)["files"] if file.get("config") == config_of]
        if int(size) == sum(files) - len(content) + old:
            card = card.replace(f"download_size: {size}", f"download_size: {sum(files)}")
    written_again(release, "README.md", card.encode())


def test_rows_in_another_order_are_named(release: Path) -> None:
    rewritten(release, default_shard(release), lambda table: table.take([1, 0, 2, 3, 4]))
    refused(release, "data/messages", "row 0 has the id", "as in `default`")


def test_an_id_that_occurs_twice_is_named(release: Path) -> None:
    for name in ("default", "messages", "provenance"):
        rewritten(release, default_shard(release).replace("default", name), lambda t: t.take([0, 1, 2, 3, 3]))
    refused(release, "data/default", "an id occurs twice (1 row")


def test_a_column_that_the_card_does_not_know_is_named(release: Path) -> None:
    rewritten(release, default_shard(release), lambda table: table.rename_columns([*table.column_names[:-1], "x"]))
    refused(release, "README.md", "the features of config `default`", "see x")


@pytest.mark.parametrize(
    ("pattern", "new", "said"),
    [
        ("num_examples: 10", "num_examples: 11", "config `default` says num_examples 11, expected 10"),
        ("version: 1.1.0", "version: 1.0.0", "config `default` says version 1.0.0, expected 1.1.0"),
        ("data/seeds/train-", "data/seeds/test-", "config `seeds` says data_files that match 0, expected 1"),
        ("download_size: ", "download_size: 1", "says download_size"),
        ("config_name: rejected", "config_name: refused", "names default, messages, provenance, refused, seeds"),
        ("dtype: float64", "dtype: string", "the features of config `provenance`"),
        ("dtype: float64", "dtype: decimal", "which is no type that a release has"),
        ("  - name: instruction\n", "  - name: task\n", "the features of config `default`"),
        ("---\n", "----\n", "does not begin with YAML"),
        ("configs:\n", "configs: [\n", "no YAML"),
        ("configs:\n", "configs: 3\nothers:\n", "`configs` is no list"),
        ("num_examples: 10", "num_examples: [", "no YAML"),
        ("num_examples: 10", "num_examples: " + "[" * 5000, "no YAML"),
        ("  splits:\n", "  splits:\n  - name: test\n", "config `default` has splits"),
        ("  splits:\n", "  splits: 3\n  others:\n", "config `default` has splits 3, expected train alone"),
        ("  data_files:\n", "  data_files: x\n  others:\n", "says data_files x, expected a list"),
        ("path: data/default/", "path: /data/default/", "with paths below data/"),
        ("path: data/default/", "path: data/../data/default/", "with paths below data/"),
        ("    path: data/default/", "    place: data/default/", "with paths below data/"),
        ("  features:\n", "  features: 3\n  others:\n", "the features are 3, and no list"),
        ("  - name: instruction\n", "  - title: instruction\n", "and no list with names"),
    ],
)
def test_an_edited_card_is_named(release: Path, pattern: str, new: str, said: str) -> None:
    text = (release / "README.md").read_text()
    assert pattern in text
    (release / "README.md").write_text(text.replace(pattern, new, 1))
    refused(release, "README.md", "expected")
    written_again(release, "README.md", text.replace(pattern, new, 1).encode())
    refused(release, "README.md", said)


def test_the_script_of_another_release_is_named(release: Path) -> None:
    text = (release / "loading_script.py").read_text()
    written_again(release, "loading_script.py", text.replace("VERSION = '1.1.0'", "VERSION = '1.0.0'").encode())
    refused(release, "loading_script.py", "VERSION is not that of this release")
    written_again(release, "loading_script.py", b"def")
    refused(release, "loading_script.py", "is no script that could run")
    written_again(release, "loading_script.py", b"x = " + b"-" * 200_000 + b"1")
    refused(release, "loading_script.py", "is no script that could run")


def test_what_datasets_cannot_load_is_told_in_one_line(release: Path) -> None:
    """A folder that is fine but for what only the library sees: a script of the folder's own name."""
    script = release / f"{release.name}.py"
    script.write_text("x")
    content = script.read_bytes()
    entry = {"path": script.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest_changed(release, lambda m: m["files"].append(entry))
    refused(release, None, "`datasets` cannot load config `default`", load=True)


def test_a_folder_that_is_called_like_the_script_is_called_something_else(whole: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(whole, tmp_path / "Loading_Script"))
    refused(copy, None, "takes loading_script.py for the dataset of a folder of that name", load=True)
    assert check(copy, load=False)


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), OSError("Not enough disk space. Needed: 3 GB")],
)
def test_a_full_disk_is_no_fault_of_the_release(
    whole: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    def full(*_: Any, **__: Any) -> None:
        try:
            raise error
        except OSError as cause:
            raise datasets.exceptions.DatasetGenerationError("An error occurred") from cause

    monkeypatch.setattr(datasets, "load_dataset", full)
    refused(whole, None, "is full; free some space", load=True)


def test_the_command_says_what_there_is(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    done = CliRunner().invoke(app, ["verify", str(release)])
    assert done.exit_code == 0, done.output
    assert done.output.startswith(f"{release}: v1.1.0 is whole: ")
    assert "rows: default 10, messages 10, provenance 10, rejected" in done.output
    told = json.loads(CliRunner().invoke(app, ["verify", str(release), "--json"]).output)
    assert told == check(release, load=False).as_dict()
    assert list(told) == ["folder", "version", "release", "files", "bytes", "rows"]
    (release / "README.md").unlink()
    failed = CliRunner().invoke(app, ["verify", str(release)])
    assert isinstance(failed.exception, ReleaseError)
    assert failed.exception.exit_code == 1
