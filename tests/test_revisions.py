"""Revisions: rounds that change once more, the versions that they make, and every earlier version built again."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from selfinstruct_hub import config, run
from selfinstruct_hub.errors import PoolError
from selfinstruct_hub.hub.rebuild import rebuild
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.pool.revisions import Draw
from selfinstruct_hub.records import (
    REGENERATE,
    REPLAY,
    Change,
    Completion,
    Decoding,
    Drop,
    Instance,
    Lineage,
    Place,
    Request,
    task_of,
)
from selfinstruct_hub.release import read_manifest
from selfinstruct_hub.release.verify import check
from selfinstruct_hub.rounds import editions, next_revision
from selfinstruct_hub.workspace import Workspace
from tests.support.tgi import Server, running

JUDGED = {"judged": [1], "novelty": {"threshold": 0.7}}
ANSWER = Lineage("v1.1.2", REGENERATE, "", "", "org/new", "tgi", "{}", "eos", 5, 6, ("seed_1",))


def pieces(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def grow(space: Workspace, server: Server) -> None:
    asked = {"tasks": 6, "endpoint.url": server.url, "endpoint.concurrency": 1, "card.pictures": "off"}
    run.grow(space, config.with_overrides(space.settings(), asked))


def without_last(pool: Pool, number: int) -> dict[int, list[Draw]]:
    """A round's draws, its last accepted task dropped."""
    verdicts = list(pool.verdicts(number))
    last = max(place for place, verdict in enumerate(verdicts) if verdict.task)
    verdicts[last] = replace(verdicts[last], task=None, drop=Drop("too_long"))
    draws = range(pool.judged_draws(number))
    return {number: [(draw, [v for v in verdicts if v.number == draw], []) for draw in draws]}


def rewrite(pool: Pool, version: str, number: int) -> None:
    """Two places of round 2 are chosen: the first gets another output, the second stays."""
    first, second = list(pool.verdicts(2, accepted=True))[:2]
    assert first.task
    assert second.task
    places = [
        Place(item, 2, one.number, one.position, 0, (one.task.rows[0][0],))
        for item, one in enumerate((first, second))
        if one.task
    ]
    revision = next_revision(pool, REGENERATE, [2], {"part": "output"}, config.Settings())
    assert (revision.version, revision.number) == (version, number)
    pool.begin_revision(revision, places)
    asked = Request(0, 0, 0, "output", "prompt", Decoding(9), ("seed_1",))
    pool.add_revision_completions(number, [(asked, Completion("New.", "eos", 5, 6, "org/new", "tgi"))])
    assert pool.places(number, done=False) == places
    task = task_of(first.candidate, [Instance(first.task.instances[0].input, "New.")])
    new = replace(first, task=task, revised=((replace(ANSWER, version=version, replaces=places[0].before[0]),),))
    pool.revise(number, [Change(0, new, (task.rows[0][0],))])
    pool.revise(number, [Change(1, None, places[1].before, "empty_output", "nothing")])
    assert pool.places(number, done=False) == []
    pool.complete_revision(number, {"2": {"replaced": 1, "kept": {"empty_output": 1}, "same": 4}})


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running(Server()) as server:
        yield server


@pytest.fixture(scope="module")
def revised(tmp_path_factory: pytest.TempPathFactory, server: Server) -> Workspace:
    """Two rounds, a replay of the first, new outputs in the second, and a third round."""
    space = Workspace.create(tmp_path_factory.mktemp("revised") / "w", config.Settings())
    grow(space, server)
    grow(space, server)
    settings = config.with_overrides(space.settings(), {"card.pictures": "off"})
    with Pool.open(space.pool_file) as pool:
        before = [list(pool.verdicts(number)) for number in (1, 2)]
        replay = next_revision(pool, REPLAY, [1], JUDGED, settings)
        assert (replay.version, replay.after_round) == ("v1.1.1", 2)
        pool.replace_rounds(replay, without_last(pool, 1), {"1": {"lost": 1, "same": 5, "short": 1}})
        run.package_complete_rounds(space, pool, settings)
        rewrite(pool, "v1.1.2", 2)
        run.package_complete_rounds(space, pool, settings)
        with pool.as_of(0):
            assert [list(pool.verdicts(number)) for number in (1, 2)] == before
            assert pool.accepted_count(1) == 6
        assert pool.accepted_count(1) == 5
    grow(space, server)
    return space


def test_versions_follow_each_other_and_each_holds_what_was_true_then(revised: Workspace) -> None:
    with Pool.open(revised.pool_file, read_only=True) as pool:
        made = [one.version for one in editions(pool)]
    assert made == ["v1.0.0", "v1.1.0", "v1.1.1", "v1.1.2", "v1.2.0"]
    rows = {version: check(revised.releases / version).rows["default"] for version in made}
    assert rows == {"v1.0.0": 6, "v1.1.0": 12, "v1.1.1": 11, "v1.1.2": 11, "v1.2.0": 17}


def test_a_version_of_before_a_revision_is_built_again_to_the_byte(revised: Workspace, tmp_path: Path) -> None:
    space = Workspace.at(Path(shutil.copytree(revised.path, tmp_path / "w")))
    # Without an earlier release whose shards could be copied.
    shutil.rmtree(space.releases)
    settings = config.with_overrides(space.settings(), {"card.pictures": "off"})
    with Pool.open(space.pool_file) as pool:
        run.package_complete_rounds(space, pool, settings)
    for folder in sorted(revised.releases.iterdir()):
        assert pieces(space.releases / folder.name) == pieces(folder), folder.name


def test_shards_of_rounds_that_did_not_change_are_the_same_files(revised: Workspace) -> None:
    def shards(version: str) -> dict[tuple[str, int | None], str]:
        files = read_manifest(revised.releases / version)["files"]
        return {(file["config"], file["round"]): file["sha256"] for file in files if "config" in file}

    two, replayed, rewritten = shards("v1.1.0"), shards("v1.1.1"), shards("v1.1.2")
    assert {key for key in two if two[key] != replayed.get(key)} >= {("default", 1), ("provenance", 1)}
    assert all(two[key] == replayed[key] for key in two if key[1] != 1)
    assert all(replayed[key] == rewritten[key] for key in replayed if key[1] != 2)
    assert replayed["default", 2] != rewritten["default", 2]


def test_manifest_and_card_say_what_a_revision_did(revised: Workspace) -> None:
    manifest = read_manifest(revised.releases / "v1.2.0")
    replay, rewritten = manifest["revisions"]
    assert (replay["version"], replay["kind"], replay["rounds"], replay["requests"]) == ("v1.1.1", REPLAY, [1], 0)
    assert rewritten["models"] == ["org/new"]
    assert rewritten["tokens"] == {"prompt": 5, "generated": 6}
    assert [one["revised"] for one in manifest["rounds"]] == ["v1.1.1", "v1.1.2", None]
    card = (revised.releases / "v1.2.0" / "README.md").read_text()
    assert "| v1.1.1 | stored answers judged again | 1 | 0 | 1 | 0 | - |" in card
    assert "| v1.1.2 | outputs written anew | 2 | 0 | 0 | 1 | `empty_output` 1 |" in card
    assert "v1.1.2 asked org/new: 1 request, 5 tokens read, 6 generated." in card
    assert "What changed since" not in (revised.releases / "v1.1.0" / "README.md").read_text()


def test_a_pulled_version_remembers_its_revisions(revised: Workspace, tmp_path: Path) -> None:
    folder = revised.releases / "v1.2.0"
    with Pool.create(tmp_path / "pool.sqlite3") as pool, Pool.open(revised.pool_file, read_only=True) as origin:
        rebuild(pool, folder, read_manifest(folder), repo="org/x", commit="0" * 40)
        assert [one.version for one in editions(pool)] == [one.version for one in editions(origin)]
        there = [v.revised for v in pool.verdicts(2, accepted=True)]
        assert there == [v.revised for v in origin.verdicts(2, accepted=True)]
        assert there[0][0][0].replaces
        assert next_revision(pool, REPLAY, [1], JUDGED, config.Settings()).version == "v1.2.1"


def test_an_abandoned_revision_leaves_nothing_but_its_answers(revised: Workspace, tmp_path: Path) -> None:
    space = Workspace.at(Path(shutil.copytree(revised.path, tmp_path / "w")))
    settings = space.settings()
    with Pool.open(space.pool_file) as pool:
        before = [list(pool.verdicts(number)) for number in (1, 2, 3)]
        revision = next_revision(pool, REGENERATE, [1, 2], {"part": "output"}, settings)
        one = next(pool.verdicts(2, accepted=True))
        assert one.task
        pool.begin_revision(revision, [Place(0, 2, one.number, one.position, None, (one.task.rows[0][0],))])
        with pytest.raises(
            PoolError, match=r"v1\.2\.1 was begun and is not finished: `selfinstruct-hub regenerate"
        ):
            next_revision(pool, REPLAY, [1], JUDGED, settings)
        pool.revise(revision.number, [Change(0, replace(one, task=None, drop=Drop("x")))])
        pool.abandon_revision(revision.number)
        assert [list(pool.verdicts(number)) for number in (1, 2, 3)] == before
        again = next_revision(pool, REGENERATE, [1], {"part": "output"}, settings)
        assert (again.version, again.number) == ("v1.2.1", revision.number + 1)
