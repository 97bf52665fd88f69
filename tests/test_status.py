"""What `status` says of what is not at its end: in words, for a program, and with the command that goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from selfinstruct_hub import config, run
from selfinstruct_hub.figures import spans
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.records import REGENERATE, REPLAY, TOP_UP, Place
from selfinstruct_hub.release import inventory, read_manifest
from selfinstruct_hub.rounds import next_revision
from selfinstruct_hub.show import print_status
from selfinstruct_hub.status import status
from selfinstruct_hub.workspace import Workspace
from tests.support.tgi import Server, running


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running(Server()) as server:
        yield server


def settings_of(space: Workspace, server: Server, **values: object) -> config.Settings:
    given = {"tasks": 6, "endpoint.url": server.url, "card.pictures": "off", **values}
    return config.with_overrides(space.settings(), given)


@pytest.fixture(scope="module")
def grown(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    space = Workspace.create(tmp_path_factory.mktemp("status") / "w", config.Settings())
    run.grow(space, settings_of(space, server), rounds=2)
    return space.path


@pytest.fixture
def space(grown: Path, tmp_path: Path) -> Workspace:
    return Workspace(Path(shutil.copytree(grown, tmp_path / "w")))


def said(space: Workspace) -> str:
    text = status(space)["unfinished"]
    assert isinstance(text, str)
    assert "\n" not in text
    return text


def test_nothing_is_unfinished_where_everything_is_released(space: Workspace) -> None:
    found = status(space)
    assert (found["unfinished"], found["revisions"], found["problems"]) == (None, [], [])
    assert found["versions"] == ["v1.0.0", "v1.1.0"]
    json.dumps(found)


def test_an_open_round(space: Workspace, server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    run.grow(space, settings_of(space, server, tasks=40, **{"endpoint.concurrency": 1}), rounds=2, max_requests=3)
    (round_,) = [one for one in status(space)["rounds"] if not one["complete"]]
    waiting = "1 answer waits" if round_["unjudged"] == 1 else f"{round_['unjudged']} answers wait"
    assert said(space) == (
        f"round 3 is open with {round_['tasks']} of 40 tasks, and {waiting} to be judged: "
        f"`selfinstruct-hub grow {space.path} --rounds 2 --tasks 40` with the endpoint that it had goes on"
    )
    print_status(status(space))
    assert f"unfinished: {said(space)}" in capsys.readouterr().out


def test_a_run_that_stopped_between_two_rounds(space: Workspace) -> None:
    with Pool.open(space.pool_file) as pool:
        pool.set_meta("run", json.dumps({"first": 2, "last": 4}))
    assert said(space) == (
        "2 rounds of the last run are still to be made: "
        f"`selfinstruct-hub grow {space.path} --rounds 3 --tasks 6` with the endpoint that it had goes on"
    )


def test_a_round_that_is_complete_and_not_packaged(space: Workspace) -> None:
    shutil.rmtree(space.releases / "v1.1.0")
    assert said(space) == (
        f"v1.1.0 (round 2) is complete and has no release yet: `selfinstruct-hub grow {space.path} --rounds 0` "
        "packages it, as whatever grows next does"
    )


def test_what_somebody_adds_meanwhile_is_no_trouble(space: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = Pool.counts

    def slowly(pool: Pool, number: int) -> dict[str, object]:
        if number == 2 and not beside:
            with Pool.open(space.pool_file) as writer:
                writer.begin_round(replace(writer.rounds()[-1], number=3, version="v1.2.0", complete=False))
            beside.append(number)
        return counts(pool, number)

    beside: list[int] = []
    monkeypatch.setattr(Pool, "counts", slowly)
    found = status(space)
    assert beside == [2]
    assert (len(found["rounds"]), found["unfinished"], found["problems"]) == (2, None, [])
    assert len(status(space)["rounds"]) == 3


def test_digests_are_read_where_all_releases_together_are_small(
    space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = read_manifest(space.releases / "v1.1.0")
    file = space.releases / "v1.1.0" / manifest["files"][0]["path"]
    content = bytearray(file.read_bytes())
    content[50] ^= 1
    file.write_bytes(content)
    (problem,) = status(space)["problems"]
    assert problem.startswith(f"{file}: has changed since it was released")
    # One release would be small enough, and with a hundred of them every start would take a while.
    monkeypatch.setattr(inventory, "_SMALL", sum(one["bytes"] for one in manifest["files"]))
    assert status(space)["problems"] == []


def test_revisions_and_how_far_an_open_one_is(space: Workspace) -> None:
    settings = space.settings()
    with Pool.open(space.pool_file) as pool:
        done = next_revision(pool, REPLAY, [1], {}, settings)
        pool.replace_rounds(done, {1: [(0, [], [])]}, {})
    found = status(space)
    assert found["revisions"] == [{"version": "v1.1.1", "kind": "replay", "rounds": [1], "state": "complete"}]
    assert "v1.1.1 (replay) is complete and has no release yet" in found["unfinished"]
    assert (
        f"round 1 has 0 of 6 tasks since it was changed: `selfinstruct-hub grow {space.path} --top-up` adds those "
        "that are missing"
    ) in found["unfinished"]
    with Pool.open(space.pool_file) as pool:
        opened = replace(next_revision(pool, REGENERATE, [2], {}, settings))
        pool.begin_revision(opened, [Place(item, 2, item, 0, None, ("a",)) for item in range(3)])
    found = status(space)
    assert found["revisions"][-1] == {"version": "v1.1.2", "kind": "regenerate", "rounds": [2], "state": "open"}
    assert "(regenerate: 0 of 3 places done)" in found["unfinished"]
    assert f"`selfinstruct-hub regenerate {space.path}` goes on with it" in found["unfinished"]


def test_an_open_top_up(space: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    with Pool.open(space.pool_file) as pool:
        pool.replace_rounds(next_revision(pool, REPLAY, [1], {}, space.settings()), {1: [(0, [], [])]}, {})
        pool.begin_revision(next_revision(pool, TOP_UP, [1], {}, space.settings()))
    assert "(top_up: 6 tasks still missing)" in said(space)
    assert "since it was changed" not in said(space)  # the same thing once
    print_status(status(space))
    assert "v1.1.2    top_up  1       open" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("numbers", "text"), [([], ""), ([2], "2"), ([1, 2], "1-2"), ([5, 1, 2, 3], "1-3, 5"), ([1, 3, 3], "1, 3")]
)
def test_spans(numbers: list[int], text: str) -> None:
    assert spans(numbers) == text
