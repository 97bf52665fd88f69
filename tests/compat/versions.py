"""A release read by every version of `datasets` in `environments`, in every way, and by other readers.

Run by `make test-compat`, which makes the environments before; `make test` leaves this alone.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from selfinstruct_hub import config, run
from selfinstruct_hub.release import read_manifest
from selfinstruct_hub.release.columns import COLUMNS
from selfinstruct_hub.workspace import Workspace
from tests.compat import environments
from tests.support.hub import Blob, Commit, Hub, Repo
from tests.support.hub import running as hub_running
from tests.support.hub.history import is_large
from tests.support.tgi import Server, running, write_steps

HERE = Path(__file__).parent
TAGS = ("v1.0.0", "v1.1.0")
WAYS = [
    *("folder", "folder, streamed", "script", "script, streamed", "class", "class, streamed"),
    *("class of other", "class again", "script of other", "folder of other"),
    *(f"Hub {tag}{how}" for tag in TAGS for how in ("", ", streamed")),
]
# Before 2.16 the cache knows a folder by its name, version and the card's `configs` alone, so that another
# workspace's release of the same version gets the rows that were read first. Script and class are told apart.
MISTAKEN = [("2.14.7", "folder of other")]
# One worker reads with one version, once.
VERSIONS = [pytest.param(version, marks=pytest.mark.xdist_group(version)) for version in environments.PINS]


@dataclass(frozen=True)
class Published:
    """Two releases of a workspace, on disk and as tags of a dataset on the Hub, and another workspace's of the
    same version."""

    releases: Path
    other: Path
    hub: Hub


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    with running(Server(answer=write_steps)) as server:
        spaces = []
        for name, seed in (("one", 1), ("two", 2)):
            space = Workspace.create(
                tmp_path_factory.mktemp("compat") / name, config.Settings(recipe="self-instruct", seed=seed)
            )
            settings = config.with_overrides(space.settings(), {"tasks": 6, "endpoint.url": server.url})
            run.grow(space, settings, rounds=2)
            spaces.append(space)
    releases = spaces[0].releases
    first, second = (_files(releases / tag) for tag in TAGS)
    repo = Repo(files=first, tags=[TAGS[0]])
    blobs = {path: Blob(content, is_large(path, len(content))) for path, content in second.items()}
    repo.head = repo._keep(Commit(blobs, repo.head, TAGS[1]))
    repo.tags[TAGS[1]] = repo.head
    with hub_running(Hub(repos={"org/tasks": repo})) as hub:
        yield Published(releases, spaces[1].releases / TAGS[1], hub)


def _files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="session", params=VERSIONS)
def read(request: Any, published: Published, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one version of `datasets` read, in all ways."""
    version = request.param
    if not environments.is_made(version):
        pytest.fail(f"no environment with datasets {version}: `make test-compat` makes it")
    place = tmp_path_factory.mktemp("read")
    # `datasets` writes lock files and caches beside what it reads in some ways, so it reads a copy.
    folder = Path(shutil.copytree(published.releases / TAGS[1], place / TAGS[1]))
    before = _files(folder)
    asked = {
        "folder": str(folder),
        "other": str(published.other),
        "repo": "org/tasks",
        "tags": TAGS,
        "missing": "v9.9.9",
        "configs": list(COLUMNS),
        "cache": str(place / "cache"),
    }
    python = str(environments.python_of(version))
    command = [python, str(HERE / "reader.py"), json.dumps(asked), str(place / "answer.json")]
    home = published.hub.environment(place / "home", PYTHONDONTWRITEBYTECODE="1")
    done = subprocess.run(command, env=home, cwd=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads((place / "answer.json").read_text())
    assert answer["version"] == version
    assert _files(folder) == before
    return answer


def expected(release: Path, config: str) -> dict[str, Any]:
    """Rows and digest of a config, as pyarrow reads its shards."""
    files = [file["path"] for file in read_manifest(release)["files"] if file.get("config") == config]
    rows = [row for path in files for row in pq.ParquetFile(release / path).read().to_pylist()]
    content = json.dumps(rows, sort_keys=True).encode()
    return {"rows": len(rows), "digest": hashlib.sha256(content).hexdigest()}


@pytest.mark.parametrize("way", WAYS)
def test_every_row_of_every_config_is_read(way: str, read: dict[str, Any], published: Published) -> None:
    release = published.releases / (TAGS[0] if TAGS[0] in way else TAGS[1])
    if "other" in way and (read["version"], way) not in MISTAKEN:
        release = published.other
    is_gone = way.startswith("script") and int(read["version"].split(".")[0]) >= 4
    for name, found in read["ways"][way].items():
        if is_gone:
            assert "Dataset scripts are no longer supported" in found["error"]
            continue
        assert "error" not in found, found["traceback"]
        assert {key: found[key] for key in ("rows", "digest")} == expected(release, name), name
        if "streamed" not in way:
            assert found["version"] == release.name.removeprefix("v")


def test_a_tag_that_is_not_there_is_refused(read: dict[str, Any]) -> None:
    for found in read["ways"]["Hub without the tag"].values():
        # 2.16 to 4.4 take another revision out of the cache where there is one.
        assert "error" in found or read["version"] in ("2.21.0", "3.6.0", "4.4.2"), found


def test_other_readers_read_the_shards_of_a_config(published: Published, tmp_path: Path) -> None:
    version = environments.NEWEST
    if not environments.is_made(version):
        pytest.fail(f"no environment with datasets {version}: `make test-compat` makes it")
    release = published.releases / TAGS[1]
    command = [environments.python_of(version), HERE / "others.py", release / "data" / "default", tmp_path / "a"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    wanted = expected(release, "default")
    found = json.loads((tmp_path / "a").read_text())
    assert found == dict.fromkeys(("pandas", "polars", "duckdb"), wanted)
