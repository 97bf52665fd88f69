"""The builder of a release, as a class of this environment's `datasets`; tests/compat has the other versions."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pytest

from builder import loading_script
from selfinstruct_hub import assets, config, run
from selfinstruct_hub.errors import ReleaseError, WorkspaceError
from selfinstruct_hub.release import read_manifest, script
from selfinstruct_hub.release.columns import COLUMNS
from selfinstruct_hub.workspace import Workspace
from tests.support.tgi import Server, running

READ = """
import importlib.util, json, sys
folder, cache, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
spec = importlib.util.spec_from_file_location("loading_script", folder + "/loading_script.py")
module = importlib.util.module_from_spec(spec)
sys.modules["loading_script"] = module
spec.loader.exec_module(module)
found = {"release": module.RELEASE}
for name in module.FILES:
    builder = module.InstructionDataset(config_name=name, cache_dir=cache, **options)
    builder.download_and_prepare()
    rows = builder.as_dataset(split="train")
    streamed = list(builder.as_streaming_dataset(split="train"))
    found[name] = [str(builder.info.version), builder.hash, rows.to_list(), streamed]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two workspaces' releases of the same version."""
    found = []
    with running(Server()) as server:
        for seed in (1, 2):
            space = Workspace.create(tmp_path_factory.mktemp("script") / "w", config.Settings(seed=seed))
            run.grow(space, config.with_overrides(space.settings(), {"tasks": 4, "endpoint.url": server.url}))
            found.append(space.releases / "v1.0.0")
    return found


def read(release: Path, cache: Path, **options: Any) -> dict[str, Any]:
    """What the class gives, imported in a process of its own from another working directory."""
    command = [sys.executable, "-c", READ, str(release), str(cache), json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cache.parent, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_class_reads_its_own_rows_whatever_the_cache_has(
    releases: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    seen = []
    for release in (*releases, releases[0]):
        found = read(release, tmp_path / "cache")
        digest = found.pop("release")
        assert digest == read_manifest(release)["release"]
        assert set(found) == set(COLUMNS)
        for name, (version, hash_, rows, streamed) in found.items():
            wanted = datasets.load_dataset(str(release), name, split="train", cache_dir=str(tmp_path / digest))
            assert (version, hash_) == ("1.0.0", digest)
            assert rows == streamed == wanted.to_list()
        seen.append([row["id"] for row in found["default"][2]])
    assert seen[0] == seen[2] != seen[1]


def test_a_hash_that_is_given_is_kept(releases: list[Path], tmp_path: Path) -> None:
    found = read(releases[0], tmp_path / "cache", hash="mine")
    assert {found[name][1] for name in COLUMNS} == {"mine"}


def test_arguments_may_stand_in_order(tmp_path: Path) -> None:
    """As `datasets` documents them: cache_dir, dataset_name, config_name, hash, base_path."""
    built = loading_script.InstructionDataset(str(tmp_path), "name", "default", "mine", "/somewhere")
    assert (built.dataset_name, built.config.name) == ("name", "default")
    assert (built.hash, built.base_path) == ("mine", "/somewhere")
    plain = loading_script.InstructionDataset(str(tmp_path))
    assert plain.base_path == str(Path(loading_script.__file__).parent)


def test_the_builder_stands_where_it_is_developed() -> None:
    assert loading_script.InstructionDataset.VERSION == "0.0.0"
    assert loading_script.features_of({"a": "string", "b": [{"c": "int32"}], "d": ["string"]}) == {
        "a": datasets.Value("string"),
        "b": [{"c": datasets.Value("int32")}],
        "d": [datasets.Value("string")],
    }


def test_the_script_needs_nothing_but_datasets(releases: list[Path]) -> None:
    """`datasets` copies it away before it runs, and looks for whatever else it imports."""
    tree = ast.parse((releases[0] / "loading_script.py").read_text(encoding="utf-8"))
    found = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    found |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert found == {"datasets", "inspect", "os", "pyarrow", "pyarrow.parquet", "typing"}


def test_constants_are_the_releases(releases: list[Path]) -> None:
    manifest = read_manifest(releases[0])
    names: dict[str, Any] = {"__name__": "loading_script", "__file__": str(releases[0] / script.FILE_NAME)}
    exec(compile(script.render(manifest), "loading_script.py", "exec"), names)
    assert (names["VERSION"], names["RELEASE"]) == ("1.0.0", manifest["release"])
    paths = [path for splits in names["FILES"].values() for path in splits["train"]]
    assert paths == [file["path"] for file in manifest["files"] if "config" in file]
    assert names["FEATURES"] == COLUMNS


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("loading_script", True),
        ("Loading_Script", True),
        ("loading_script.py", True),
        ("loading-script", False),
        ("my_loading_script", False),
        ("v1.0.0", False),
    ],
)
def test_nothing_is_called_like_the_script(name: str, taken: bool, tmp_path: Path) -> None:
    assert assets.is_taken(name) == taken
    if taken:
        with pytest.raises(ReleaseError, match="choose another"):
            script.check_name(name)
        with pytest.raises(WorkspaceError, match=r"loading_script\.py is a file of every release.*choose another"):
            Workspace.create(tmp_path / name, config.Settings())
    else:
        script.check_name(name)
        Workspace.create(tmp_path / name, config.Settings())
