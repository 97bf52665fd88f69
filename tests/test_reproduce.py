"""A release out of its own answers: the same verdicts and the same bytes, and one clear line where not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import typer.testing

from selfinstruct_hub import cli, config
from selfinstruct_hub.config import Settings
from selfinstruct_hub.errors import ReleaseError, UsageError
from selfinstruct_hub.exchange import import_file
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.release import read_manifest
from selfinstruct_hub.replay import replay
from selfinstruct_hub.reproduce import begin_from, reproduce
from selfinstruct_hub.run import grow
from selfinstruct_hub.workspace import Workspace
from tests.support.tgi import Server, running, write_anything

# One process for all: what they begin with is made once.
pytestmark = pytest.mark.xdist_group("reproduce")
LENIENT = {"filters.blocked_words": ["violin"], "filters.min_words": 2}


def invoke(*given: str) -> Any:
    return typer.testing.CliRunner().invoke(cli.app, list(given))


@pytest.fixture(scope="module", params=["alpaca", "self-instruct"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Settings]:
    """Two rounds of a model, an import between them, and a replay of it all."""
    folder = tmp_path_factory.mktemp("made")
    # Pictures are the most of the time: with one recipe.
    pictures = {"card.pictures": "auto" if request.param == "alpaca" else "off"}
    workspace = Workspace.create(folder / "w", config.with_overrides(config.Settings(), pictures))
    file = folder / "rows.json"
    texts = ("Describe how a violin is tuned.", "Say why a canoe floats on water.", "Draw a bicycle.")
    rows = [{"instruction": text, "input": "", "output": f"Answer {n}."} for n, text in enumerate(texts)]
    file.write_text(json.dumps(rows), encoding="utf-8")
    with running(Server(answer=write_anything)) as server:
        settings = config.with_overrides(
            workspace.settings(), {"tasks": 15, "endpoint.url": server.url, "recipe": request.param}
        )
        grow(workspace, settings)
        import_file(workspace, file)
        grow(workspace, settings)
    assert replay(workspace, config.with_overrides(settings, LENIENT)).release is not None
    return workspace.path, settings


@pytest.fixture
def copy(made: tuple[Path, Settings], tmp_path: Path) -> Workspace:
    shutil.copytree(made[0], tmp_path / "w")
    return Workspace.at(tmp_path / "w")


def versions(workspace: Workspace) -> list[Path]:
    return sorted(workspace.releases.iterdir())


def test_every_version_is_what_its_answers_give(made: tuple[Path, Settings]) -> None:
    workspace = Workspace.at(made[0])
    releases = versions(workspace)
    assert [folder.name for folder in releases] == ["v1.0.0", "v1.1.0", "v1.2.0", "v1.2.1"]
    for folder in releases:
        found = reproduce(folder)
        assert (found.differs, found.note) == (None, "")
        assert all(part.checked for part in found.parts)
    names = [part.name for part in found.parts]
    assert names == ["round 1", "round 2", "round 3", "v1.2.1 (replay)", "release"]
    assert "built anew, the same bytes" in found.parts[-1].said


def test_a_moved_workspace_reproduces_too(copy: Workspace, tmp_path: Path) -> None:
    """The card's title is that of the folder's first name."""
    copy.path.rename(tmp_path / "another name")
    assert reproduce(tmp_path / "another name" / "releases" / "v1.1.0").differs is None


@pytest.mark.parametrize(
    ("statement", "version", "says"),
    [
        (
            "UPDATE completions SET text = replace(text, 'a', 'e') WHERE round = 1 AND call = 0 AND number = 1",
            "v1.0.0",
            "round 1, request 1, candidate 0: `candidate` of its verdict|round 1, request 1, candidate 0: `",
        ),
        (
            "UPDATE verdicts SET reason = 'too_long' WHERE round = 2 AND reason = 'blocked_word'",
            "v1.2.1",
            "v1.2.1 (replay), round 2, request 0, candidate 0: a replay gives `blocked_word`",
        ),
        (
            "UPDATE past_verdicts SET reason = 'too_long' WHERE round = 2 AND reason = 'too_short'",
            "v1.1.0",
            "round 2, request 0, candidate 2: `too_long` is stored, and its answer is judged `too_short`",
        ),
        (
            "UPDATE completions SET model = 'another/model' WHERE round = 1",
            "v1.0.0",
            "built anew, it is not the file that was released",
        ),
    ],
    ids=["an answer", "a verdict", "a verdict before", "a model's name"],
)
def test_the_first_thing_that_differs_is_named(copy: Workspace, statement: str, version: str, says: str) -> None:
    with Pool.open(copy.pool_file) as pool, pool._transaction() as db:
        assert db.execute(statement).rowcount > 0
    done = invoke("reproduce", str(copy.releases / version))
    assert done.exit_code == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert any(text in line for text in says.split("|")), line
    found = json.loads(invoke("reproduce", str(copy.releases / version), "--json").stdout)
    assert not found["reproduced"]
    assert f"error: {found['differs']}" == line


def test_what_cannot_be_checked_is_said(copy: Workspace) -> None:
    with Pool.open(copy.pool_file) as pool, pool._transaction() as db:
        db.execute("UPDATE completions SET prompt = '', text = '' WHERE round = 1")
    done = invoke("reproduce", str(copy.releases / "v1.1.0"))
    assert done.exit_code == 0, done.stderr
    assert "round 1: not checked: its answers were dropped to save space" in done.stdout
    assert done.stdout.strip().endswith("v1.1.0 is what its stored answers give, but for round 1")
    replayed = invoke("reproduce", str(copy.releases / "v1.2.1"))
    assert "v1.2.1 (replay): not checked: round 1: its answers were dropped" in replayed.stdout


def test_a_release_that_was_changed_is_told_first(copy: Workspace) -> None:
    card = copy.releases / "v1.0.0" / "README.md"
    card.write_text(card.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    with pytest.raises(ReleaseError, match=r"README\.md: has .* bytes, expected"):
        reproduce(copy.releases / "v1.0.0")


def test_a_folder_elsewhere_has_no_answers(copy: Workspace, tmp_path: Path) -> None:
    shutil.copytree(copy.releases / "v1.0.0", tmp_path / "v1.0.0")
    with pytest.raises(UsageError, match="expected a release of a workspace"):
        reproduce(tmp_path / "v1.0.0")
    shutil.rmtree(copy.releases / "v1.0.0")
    with pytest.raises(ReleaseError, match="is no release"):
        reproduce(copy.releases / "v1.0.0")


def test_growing_from_a_release_gives_the_same_rows(made: tuple[Path, Settings], tmp_path: Path) -> None:
    """Settings and seeds of the release, and an endpoint that answers the same: the same digest."""
    release = made[0] / "releases" / "v1.0.0"
    done = invoke("init", str(tmp_path / "again"), "--from", str(release))
    assert done.exit_code == 0, done.stderr
    assert "the release was grown with test/scripted" in done.stdout
    assert f"grow {tmp_path / 'again'} --tasks 15" in done.stdout
    workspace = Workspace.at(tmp_path / "again")
    with running(Server(answer=write_anything)) as server:
        grow(workspace, config.with_overrides(workspace.settings(), {"endpoint.url": server.url}))
    again = read_manifest(workspace.releases / "v1.0.0")
    assert again["release"] == read_manifest(release)["release"]
    assert again["rows"] > 0
    assert reproduce(workspace.releases / "v1.0.0").differs is None


def test_a_beginning_takes_everything_from_the_release(made: tuple[Path, Settings], tmp_path: Path) -> None:
    release = made[0] / "releases" / "v1.2.1"
    begun = begin_from(release, tmp_path / "again")
    # An import is no round that could be grown.
    assert len(begun.tasks) == 2
    assert begun.workspace.settings().filters.min_words == LENIENT["filters.min_words"]
    refused = invoke("init", str(tmp_path / "other"), "--from", str(release), "--language", "zh")
    assert refused.exit_code == 2 or "cannot be given too" in str(refused.exception)
    assert not (tmp_path / "other").exists()
    taken = invoke("init", str(tmp_path / "again"), "--from", str(release))
    assert "is a workspace already" in str(taken.exception)
    missing = invoke("init", str(tmp_path / "third"), "--from", str(tmp_path))
    assert "is no release" in str(missing.exception)
