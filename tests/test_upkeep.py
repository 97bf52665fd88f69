"""`gc`: texts of answers go, and nothing else does: releases that are built later are the same to the byte."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from selfinstruct_hub import config, review, run, upkeep
from selfinstruct_hub.cli import app
from selfinstruct_hub.errors import PoolError, UsageError
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.records import REGENERATE
from selfinstruct_hub.rounds import next_revision
from selfinstruct_hub.status import status
from selfinstruct_hub.top_up import top_up
from selfinstruct_hub.workspace import Workspace
from tests.support.tgi import Server, running
from tests.survival.scenarios import releases


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running(Server()) as server:
        yield server


def settings_of(space: Workspace, server: Server, **values: Any) -> config.Settings:
    return config.with_overrides(
        space.settings(), {"tasks": 8, "endpoint.url": server.url, "card.pictures": "off", **values}
    )


@pytest.fixture(scope="module")
def grown(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    space = Workspace.create(tmp_path_factory.mktemp("upkeep") / "w", config.Settings())
    run.grow(space, settings_of(space, server), rounds=2)
    return space.path


@pytest.fixture
def space(grown: Path, tmp_path: Path) -> Workspace:
    return Workspace(Path(shutil.copytree(grown, tmp_path / "w")))


def digests(space: Workspace) -> dict[str, str]:
    unused: Any = None
    return releases(unused, space.path)


def told(space: Workspace) -> Any:
    """Everything that `status` says, and what rounds cost."""
    with Pool.open(space.pool_file, read_only=True) as pool:
        return status(space), [pool.cost(number) for number in (1, 2)], [pool.models(number) for number in (1, 2)]


def test_releases_that_are_built_later_are_the_same(space: Workspace, server: Server) -> None:
    before, released = told(space), digests(space)
    found = upkeep.collect(space)
    assert (found.rounds, found.answers > 3, found.size > 1000) == ((1, 2), True, True)
    assert found.won > 0.5 * found.size
    assert found.not_shrunk is None
    assert told(space) == before
    shutil.rmtree(space.releases)
    with space.locked(), Pool.open(space.pool_file) as pool:
        run.package_complete_rounds(space, pool, settings_of(space, server))
        assert pool.dropped_texts(1) > 0
    assert digests(space) == released


def test_rounds_grow_the_same_after_it(grown: Path, tmp_path: Path, server: Server) -> None:
    found = []
    for name in ("dropped", "kept"):
        space = Workspace(Path(shutil.copytree(grown, tmp_path / name / "w")))
        if name == "dropped":
            upkeep.collect(space)
        run.grow(space, settings_of(space, server))
        found.append(digests(space))
    assert found[0] == found[1]


def test_answers_that_were_never_needed_still_fill_a_round(space: Workspace, server: Server) -> None:
    """Without its text, such an answer would be judged as one that held nothing."""
    with Pool.open(space.pool_file) as pool:
        stored, number = pool.completion(1, 0, 0), pool.judged_draws(1)
        assert stored is not None
        text = "Name the river of Vienna.\nInput: \nOutput: It is the Danube, of course."
        spare = (replace(stored[0], number=number), replace(stored[1], text=text))
        pool.add_completion(*spare)
    upkeep.collect(space)
    with Pool.open(space.pool_file, read_only=True) as pool:
        assert pool.completion(1, number, 0) == spare
        assert pool.dropped_texts(1) == number
    file = space.path.parent / "rows.jsonl"
    review.export_file(space, file, rounds=(1, 1), sample=2)
    rows = [{**json.loads(line), "verdict": "reject"} for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert review.apply_file(space, file).short == {1: 2}
    assert top_up(space, settings_of(space, server)).won == {1: 2}
    found = status(space)["rounds"][0]
    assert (found["tasks"], "missing_field" in found["drops"]) == (8, False)


def test_while_somebody_reads_the_file_stays_as_it_is(space: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = upkeep._opened

    def impatient(workspace: Workspace) -> Pool:
        pool = opened(workspace)
        pool._rows("PRAGMA busy_timeout = 50")
        return pool

    monkeypatch.setattr(upkeep, "_opened", impatient)
    before = space.pool_file.stat().st_size
    with Pool.open(space.pool_file, read_only=True) as reader, reader.snapshot():
        reader.rounds()
        found = upkeep.collect(space)
        assert "another program reads the pool; run gc again when it has ended" in (found.not_shrunk or "")
        assert (found.won, found.rounds) == (0, (1, 2))
    again = upkeep.collect(space)
    assert (again.rounds, again.not_shrunk) == ((), None)
    assert space.pool_file.stat().st_size < before - 0.5 * found.size


def test_only_the_rounds_that_are_named(space: Workspace) -> None:
    upkeep.collect(space, rounds=[2])
    with Pool.open(space.pool_file, read_only=True) as pool:
        assert (pool.dropped_texts(1), pool.texts_of(1)[0] > 0) == (0, True)
        assert (pool.dropped_texts(2) > 0, pool.texts_of(2)) == (True, (0, 0))
    again = upkeep.collect(space, rounds=[2])
    assert (again.rounds, again.answers) == ((), 0)


def test_a_dry_run_changes_nothing(space: Workspace) -> None:
    before = space.pool_file.read_bytes()
    found = upkeep.collect(space, dry_run=True)
    assert (found.rounds, found.after, found.won) == ((1, 2), None, 0)
    assert space.pool_file.read_bytes() == before
    done = upkeep.collect(space)
    assert (done.answers, done.size) == (found.answers, found.size)


def test_rounds_that_are_not_frozen_are_kept(space: Workspace, server: Server) -> None:
    run.grow(space, settings_of(space, server, tasks=40), max_requests=3)
    assert upkeep.collect(space, dry_run=True).kept == (3,)
    with pytest.raises(UsageError, match=r"round 3 is not frozen yet.*frozen are 1-2"):
        upkeep.collect(space, rounds=[2, 3])
    with pytest.raises(UsageError, match="has no round 9; its rounds are 1-3"):
        upkeep.collect(space, rounds=[9])
    shutil.rmtree(space.releases / "v1.1.0")
    assert upkeep.collect(space, dry_run=True).kept == (2, 3)


def test_an_open_revision_still_needs_its_answers(space: Workspace) -> None:
    with Pool.open(space.pool_file) as pool:
        pool.begin_revision(next_revision(pool, REGENERATE, [1], {}, space.settings()))
    with pytest.raises(PoolError, match="goes on with it"):
        upkeep.collect(space)


def test_what_packaging_has_left(space: Workspace) -> None:
    half, whole = (space.releases / f".building-v1.{minor}.0" for minor in (7, 8))
    for folder in (half, whole):
        (folder / "data").mkdir(parents=True)
    (whole / "manifest.json").write_text("{}")
    copy = space.path / "pool.sqlite3.format-5"
    copy.write_bytes(b"old")
    found = upkeep.collect(space, dry_run=True)
    assert (found.removed, found.left, half.exists()) == ((half,), (whole,), True)
    upkeep.collect(space)
    assert (half.exists(), whole.exists(), copy.exists()) == (False, True, True)


def test_a_disk_without_room_to_write_the_pool_anew(space: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(space.path)
    monkeypatch.setattr("selfinstruct_hub.upkeep.shutil.disk_usage", lambda place: usage._replace(free=1000))
    found = upkeep.collect(space)
    assert "0 MB free" in (found.not_shrunk or "")
    assert "make room and run gc again" in (found.not_shrunk or "")
    monkeypatch.undo()
    again = upkeep.collect(space)  # nothing is left to drop, and the space inside is given back
    assert (again.rounds, again.not_shrunk) == ((), None)
    assert again.won > 0.5 * found.size
    assert upkeep.collect(space).won == 0


def test_what_no_endpoint_has_counted_is_estimated_as_before(tmp_path: Path) -> None:
    """Costs and budgets go by estimates from texts that are gone then."""

    def uncounted(space: Workspace) -> None:
        with Pool.open(space.pool_file) as pool:
            pool._rows("UPDATE completions SET prompt_tokens = NULL, generated_tokens = NULL")

    with running(Server()) as server:
        space = Workspace.create(tmp_path / "w", config.Settings())
        run.grow(space, settings_of(space, server))
    uncounted(space)
    with Pool.open(space.pool_file, read_only=True) as pool:
        before = pool.cost(1)
        columns = list(pool.answer_columns(1, 100))
    upkeep.collect(space)
    with Pool.open(space.pool_file, read_only=True) as pool:
        assert pool.cost(1) == before
        assert list(pool.answer_columns(1, 100)) == columns


def test_the_command(space: Workspace) -> None:
    from typer.testing import CliRunner

    runner = CliRunner()
    done = runner.invoke(app, ["gc", str(space.path), "--rounds", "1", "--dry-run"])
    assert done.exit_code == 0
    assert "would drop prompts and texts of" in done.stdout
    assert "lost by it: replay and reproduction of these rounds" in done.stdout
    done = runner.invoke(app, ["gc", str(space.path), "--json"])
    found = json.loads(done.stdout)
    assert (found["rounds"], found["dry_run"], found["won_bytes"] > 0) == ([1, 2], False, True)
    for bad in ("0", "3-1", "x", "1-", ""):
        refused = runner.invoke(app, ["gc", str(space.path), "--rounds", bad])
        assert isinstance(refused.exception, UsageError)
        assert "expected A-B with 1 or more for A" in str(refused.exception)


def test_replay_names_the_rounds_that_were_dropped(space: Workspace) -> None:
    from selfinstruct_hub.replay import replay

    upkeep.collect(space, rounds=[1])
    found = replay(space, config.with_overrides(space.settings(), {"novelty.threshold": 0.4}))
    assert list(found.skipped) == [1]
    assert "dropped to save space (`gc`)" in found.skipped[1]
    upkeep.collect(space, rounds=[2])
    with pytest.raises(PoolError, match="there are no stored answers to judge again"):
        replay(space, space.settings())
