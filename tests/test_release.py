"""The release folder: complete or absent, loadable as it stands, true to the pool."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import datasets
import pytest

from selfinstruct_hub import config, run
from selfinstruct_hub.errors import ReleaseError
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.records import prompt_text
from selfinstruct_hub.release import freeze, read_manifest, shards
from selfinstruct_hub.release.page import statistics
from selfinstruct_hub.rounds import editions
from selfinstruct_hub.workspace import Workspace
from tests.support.tgi import Server, running

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with two rounds of twelve tasks, made once for the module; tests only read it."""
    path = tmp_path_factory.mktemp("release") / "my-tasks"
    with running(Server()) as server:
        space = Workspace.create(path, config.Settings())
        settings = config.with_overrides(space.settings(), {"tasks": 12, "endpoint.url": server.url})
        run.grow(space, settings, rounds=2)
    return space


@pytest.fixture
def newest(grown: Workspace) -> Path:
    return grown.releases / "v1.1.0"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)


def load(folder: Path, name: str, **options: Any) -> Any:
    return datasets.load_dataset(str(folder), name, split="train", **options)


def test_every_config_loads_by_folder_with_its_rows_and_version(grown: Workspace, newest: Path) -> None:
    manifest = read_manifest(newest)
    for name, columns in shards.COLUMNS.items():
        rows = load(newest, name)
        assert rows.column_names == list(columns)
        assert str(rows.version) == "1.1.0"
        assert len(rows) == sum(f["rows"] for f in manifest["files"] if f.get("config") == name)
    default = datasets.load_dataset(str(newest), split="train")
    assert len(default) == manifest["rows"] == 24
    assert [row["round"] for row in default] == [1] * 12 + [2] * 12
    assert len(load(grown.releases / "v1.0.0", "default")) == 12


def test_rows_say_the_same_in_every_config(grown: Workspace, newest: Path) -> None:
    default, messages, provenance = (load(newest, name) for name in ("default", "messages", "provenance"))
    assert default["id"] == messages["id"] == provenance["id"]
    assert len(set(default["id"])) == len(default)
    seeds = {row["id"] for row in load(newest, "seeds")}
    for row, chat, origin in zip(default, messages, provenance, strict=True):
        user, assistant = chat["messages"]
        assert user == {"role": "user", "content": prompt_text(row["instruction"], row["input"])}
        assert assistant == {"role": "assistant", "content": row["output"]}
        assert len(origin["parents"]) == 3
        assert set(origin["parents"]) <= seeds
        assert json.loads(origin["decoding"])["temperature"] == 1.0
        assert origin["model"] == "test/scripted"
        assert origin["nearest"][0]["score"] <= 0.7


def test_provenance_names_the_very_completion(grown: Workspace, newest: Path) -> None:
    origins = load(newest, "provenance")
    texts = dict(zip(load(newest, "default")["id"], load(newest, "default")["instruction"], strict=True))
    with Pool.open(grown.pool_file, read_only=True) as pool:
        for origin in origins:
            stored = pool.completion(origin["round"], origin["request"], 0)
            assert stored is not None
            assert texts[origin["id"]] in stored[1].text
            assert json.loads(origin["decoding"]) == stored[0].decoding.as_dict()


def test_what_was_counted_while_writing_is_what_the_rows_say(grown: Workspace) -> None:
    """The second release has one round copied and one written."""
    for version in ("v1.0.0", "v1.1.0"):
        folder = grown.releases / version
        manifest = read_manifest(folder)
        found = statistics.measured(folder, manifest["files"], manifest["rounds"])
        assert {**found, "verbs": None} == {**manifest["statistics"], "verbs": None}


def test_rejected_rows_carry_reason_and_neighbour(newest: Path) -> None:
    rejected = load(newest, "rejected")
    assert {"too_short", "blocked_word", "output_repeats_input"} <= set(rejected["reason"])
    for row in rejected:
        assert (row["score"] is None) == (row["neighbour"] is None)


def test_the_manifest_names_every_file_with_its_true_size_and_digest(newest: Path) -> None:
    listed = {file["path"]: file for file in read_manifest(newest)["files"]}
    there = {str(p.relative_to(newest)) for p in newest.rglob("*") if p.is_file()}
    assert there == set(listed) | {"manifest.json"}
    for path, file in listed.items():
        content = (newest / path).read_bytes()
        assert (file["bytes"], file["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())


def test_a_release_built_again_is_the_same_bytes(grown: Workspace, newest: Path, tmp_path: Path) -> None:
    settings = grown.settings().card
    with Pool.open(grown.pool_file, read_only=True) as pool:
        for edition in editions(pool):
            freeze(tmp_path / "again", pool, edition, settings, "my-tasks")
        # And without the first release beside it, every shard made from the pool.
        freeze(tmp_path / "alone", pool, editions(pool)[1], settings, "my-tasks")
    for folder in ("again", "alone"):
        for path in sorted(p for p in newest.rglob("*") if p.is_file()):
            other = tmp_path / folder / "v1.1.0" / path.relative_to(newest)
            assert other.read_bytes() == path.read_bytes(), other


def test_parquet_carries_no_library_metadata(newest: Path) -> None:
    import pyarrow.parquet as pq

    files = list(newest.rglob("*.parquet"))
    assert len(files) == 9
    assert all(pq.read_metadata(file).metadata is None for file in files)


def test_nothing_of_this_machine_is_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELFINSTRUCT_API_KEY", "key-planted-here")
    monkeypatch.setenv("HF_TOKEN", "hf_planted")
    seeds = tmp_path / "private-place" / "seeds.jsonl"
    seeds.parent.mkdir()
    shutil.copy(HERE.parent / "seeds" / "en.jsonl", seeds)
    with running(Server(api_key="key-planted-here")) as server:
        space = Workspace.create(tmp_path / "w", config.Settings(seeds=str(seeds)))
        run.grow(space, config.with_overrides(space.settings(), {"tasks": 3, "endpoint.url": server.url}))
    for path in (p for p in space.path.rglob("*") if p.is_file()):
        content = path.read_bytes()
        for secret in (b"key-planted-here", b"hf_planted"):
            assert secret not in content, path
        if "releases" in path.parts:
            for local in (b"private-place", server.url.encode()):
                assert local not in content, path


def test_a_folder_without_a_manifest_is_no_release(grown: Workspace, tmp_path: Path) -> None:
    (tmp_path / "v1.0.0").mkdir()
    with pytest.raises(ReleaseError, match="is no release"):
        read_manifest(tmp_path / "v1.0.0")
    with Pool.open(grown.pool_file, read_only=True) as pool, pytest.raises(ReleaseError, match="move it away"):
        freeze(tmp_path, pool, editions(pool)[0], grown.settings().card, "x")


def test_a_full_disk_leaves_no_half_release_and_the_next_try_succeeds(
    grown: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(manifest: Any) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    with Pool.open(grown.pool_file, read_only=True) as pool:
        with monkeypatch.context() as patch:
            patch.setattr("selfinstruct_hub.release.script.render", full)
            with pytest.raises(ReleaseError, match="the disk is full; the round is safe in the pool"):
                freeze(tmp_path, pool, editions(pool)[0], grown.settings().card, "x")
        assert not (tmp_path / "v1.0.0").exists()
        folder = freeze(tmp_path, pool, editions(pool)[0], grown.settings().card, "x")
    assert folder is not None
    assert read_manifest(folder)["tasks"] == 12
    assert [p.name for p in tmp_path.iterdir() if p.name != "cache"] == ["v1.0.0"]


def test_a_changed_shard_of_an_earlier_release_is_noticed(grown: Workspace, tmp_path: Path) -> None:
    with Pool.open(grown.pool_file, read_only=True) as pool:
        first = freeze(tmp_path, pool, editions(pool)[0], grown.settings().card, "x")
        assert first is not None
        shard = next((first / "data" / "default").iterdir())
        shard.write_bytes(shard.read_bytes()[:-1] + b"x")
        with pytest.raises(ReleaseError, match="has changed since it was released"):
            freeze(tmp_path, pool, editions(pool)[1], grown.settings().card, "x")


def test_a_release_of_which_nothing_was_rejected_loads(tmp_path: Path) -> None:
    def good(prompt: str, parameters: dict[str, Any]) -> tuple[str, str]:
        return " Name a tree that grows by the sea.\n4. Input: None\n4. Output: Pine.\n###\n", "eos_token"

    with running(Server(answer=good)) as server:
        space = Workspace.create(tmp_path / "w", config.Settings())
        run.grow(space, config.with_overrides(space.settings(), {"tasks": 1, "endpoint.url": server.url}))
    release = space.releases / "v1.0.0"
    assert read_manifest(release)["rounds"][0]["drops"] == {}
    for name in ("default", "messages", "provenance", "seeds"):
        assert len(load(release, name)) == (175 if name == "seeds" else 1)
    assert "`rejected`" not in (release / "README.md").read_text()
    assert "'rejected'" not in (release / "loading_script.py").read_text()


@pytest.mark.parametrize("order", [(False, True), (True, False)])
def test_every_config_loads_whichever_round_rejected_something(tmp_path: Path, order: tuple[bool, bool]) -> None:
    """`datasets` cannot load a config whose first shard is empty."""
    trees = iter("pine palm willow mangrove poplar tamarisk".split())
    turn = 0

    def answer(prompt: str, parameters: dict[str, Any]) -> tuple[str, str]:
        item = f" Say where a {next(trees)} grows best.\n4. Input: None\n4. Output: There.\n###\n"
        return item + ("5. Instruction: Do it.\n5. Output: x\n" if order[turn] else ""), "eos_token"

    with running(Server(answer=answer)) as server:
        space = Workspace.create(tmp_path / "w", config.Settings())
        values = {"tasks": 1, "endpoint.url": server.url, "endpoint.concurrency": 1, "novelty.threshold": 0.99}
        settings = config.with_overrides(space.settings(), values)
        run.grow(space, settings)
        turn = 1
        run.grow(space, settings)
    release = space.releases / "v1.1.0"
    assert sum(bool(r["drops"]) for r in read_manifest(release)["rounds"]) == 1
    for name in shards.COLUMNS:
        assert len(load(release, name)) == {"seeds": 175, "rejected": 1}.get(name, 2)
    assert not any(file.get("rows") == 0 for file in read_manifest(release)["files"])
