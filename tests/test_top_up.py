"""Short rounds filled again over real HTTP: exact numbers, later rounds counted, nothing paid twice."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from selfinstruct_hub import config, run, top_up
from selfinstruct_hub.endpoint.budget import MAX_REQUESTS
from selfinstruct_hub.errors import PoolError
from selfinstruct_hub.grow import BARREN
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.records import ABANDONED, TOP_UP
from selfinstruct_hub.release import read_manifest
from selfinstruct_hub.rounds import short
from selfinstruct_hub.status import status
from selfinstruct_hub.working import Bounds, Hooks
from selfinstruct_hub.workspace import Workspace
from tests.support.child import Child
from tests.support.revising import Tool, files_of, shorten, write_all
from tests.support.tgi import Server, running


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running(Server(answer=write_all)) as server:
        yield server


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, server: Server) -> Path:
    """A round of Alpaca and one of Self-Instruct, both of which a review has made shorter."""
    path = tmp_path_factory.mktemp("top-up") / "w"
    space = Workspace.create(path, config.with_overrides(config.Settings(), {"card.pictures": "off"}))
    for recipe in ("alpaca", "self-instruct"):
        values = {"tasks": 16, "endpoint.url": server.url, "recipe": recipe}
        run.grow(space, config.with_overrides(space.settings(), values))
    assert shorten(space, {1: 8, 2: 5}) == "v2.0.1"
    return path


@pytest.fixture
def space(made: Path, tmp_path: Path) -> Workspace:
    shutil.copytree(made, tmp_path / "w")
    return Workspace.at(tmp_path / "w")


def settings_for(space: Workspace, server: Server, **values: object) -> config.Settings:
    return config.with_overrides(space.settings(), {"endpoint.url": server.url, **values})


@pytest.fixture
def tool(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Tool:
    return Tool("grow", capsys, monkeypatch)


def test_short_rounds_are_filled_to_the_number_they_were_begun_for(space: Workspace, server: Server) -> None:
    before = len(server.requests)
    with Pool.open(space.pool_file) as pool:
        assert short(pool) == {1: 8, 2: 5}
        stood = {number: list(pool.tasks(number)) for number in (1, 2)}
        draws = {number: pool.judged_draws(number) for number in (1, 2)}
    filled = top_up.top_up(space, settings_for(space, server))
    assert filled.won == {1: 8, 2: 5}
    assert filled.short == {}
    assert filled.release == space.releases / "v2.0.2"
    manifest = read_manifest(filled.release)
    assert manifest["tasks"] == 32
    (_, told) = manifest["revisions"]
    assert (told["kind"], told["rounds"]) == (TOP_UP, [1, 2])
    with Pool.open(space.pool_file) as pool:
        assert short(pool) == {}
        for number in (1, 2):
            tasks = list(pool.tasks(number))
            # What stood is where it was; the new ones come from draws that are numbered on.
            assert tasks[: len(stood[number])] == stood[number]
            assert {v.number for v in pool.verdicts(number, accepted=True) if v.number >= draws[number]}
        instructions = [task.instruction for number in (1, 2) for task in pool.tasks(number)]
        assert len(set(instructions)) == len(instructions)
        won = {str(n): pool.counts(n)["rows"] - sum(len(t.instances) for t in stood[n]) for n in (1, 2)}
    assert told["changes"] == {number: {"won": count, "short": 0} for number, count in won.items()}
    # Answers that the rounds had and did not need cost nothing now.
    assert 0 < told["requests"] <= len(server.requests) - before
    assert (space.releases / "v2.0.1").is_dir()


def test_what_later_rounds_have_is_not_new_and_the_round_stays_short(space: Workspace) -> None:
    """A model that says for round 1 what round 2 has, and nothing else: none of it is taken."""
    with Pool.open(space.pool_file) as pool:
        known = [task.instruction for task in pool.tasks(2)][:4]

    def parrot(prompt: str, parameters: dict[str, Any]) -> tuple[str, str]:
        if not prompt.endswith("Instruction:"):
            return write_all(prompt, parameters)
        items = [
            f"{'' if n == 4 else f'{n}. Instruction:'} {text}\n{n}. Input: None\n{n}. Output: It is {n}.\n###\n"
            for n, text in enumerate(known, start=4)
        ]
        return "".join(items), "eos_token"

    with running(Server(answer=parrot)) as other:
        filled = top_up.top_up(space, settings_for(space, other, max_barren_requests=4))
    assert (filled.won, filled.short) == ({1: 0, 2: 5}, {1: 8})
    assert filled.outcome is not None
    assert filled.outcome.limit == BARREN
    assert filled.release is not None
    changes = read_manifest(filled.release)["revisions"][-1]["changes"]
    assert changes["1"] == {"won": 0, "short": 8}
    assert changes["2"]["short"] == 0
    with Pool.open(space.pool_file) as pool:
        drops = pool.counts(1)["drops"]
        assert drops["too_similar"] >= 8  # four of each answer


def test_where_nothing_new_comes_nothing_is_made(space: Workspace) -> None:
    with contextlib.closing(sqlite3.connect(space.pool_file)) as db, db:
        # What the rounds had asked for and did not need would fill them.
        db.execute("DELETE FROM completions WHERE (round, number) NOT IN (SELECT round, number FROM draws)")
    with Pool.open(space.pool_file) as pool:
        before = [list(pool.verdicts(number)) for number in (1, 2)]
    with running(Server(answer=lambda prompt, parameters: (" Do it.", "eos_token"))) as other:
        filled = top_up.top_up(space, settings_for(space, other, max_barren_requests=3))
    assert filled.won == {1: 0, 2: 0}
    assert filled.outcome is not None
    assert filled.outcome.limit == BARREN
    assert filled.release is None
    assert not space.is_released("v2.0.2")
    with Pool.open(space.pool_file) as pool:
        assert pool.open_revision() is None
        assert [list(pool.verdicts(number)) for number in (1, 2)] == before


def test_a_budget_stops_it_and_nothing_is_asked_for_twice(
    space: Workspace, server: Server, tmp_path: Path
) -> None:
    whole = Workspace.at(shutil.copytree(space.path, tmp_path / "whole" / "w"))
    filled = top_up.top_up(whole, settings_for(whole, server))
    assert filled.release is not None
    asked = len(server.requests)
    for limit in range(1, 100, 2):
        piece = top_up.top_up(space, settings_for(space, server), bounds=Bounds(max_requests=limit))
        assert piece.outcome is not None
        if piece.release is not None:
            break
        assert piece.outcome.limit == MAX_REQUESTS
        with pytest.raises(PoolError, match=r"v2\.0\.2 was begun and is not finished: .*--top-up"):
            run.grow(space, settings_for(space, server))
    sent = [(r["inputs"], r["parameters"].get("seed")) for r in server.requests[asked:]]
    assert len(set(sent)) == len(sent) > 2
    assert piece.release is not None
    assert files_of(piece.release) == files_of(filled.release)


def test_kill_9_and_the_same_command_give_the_same_release(
    tool: Tool, space: Workspace, server: Server, tmp_path: Path
) -> None:
    whole = Workspace.at(shutil.copytree(space.path, tmp_path / "whole" / "w"))
    done = tool(whole, "--endpoint", server.url, "--top-up", "--concurrency", "4")
    assert done.returncode == 0, done.stderr
    assert "round 1: 8 tasks won\n" in done.stdout
    assert "releases/v2.0.2" in done.stdout
    with running(Server(answer=write_all, held=lambda number: number >= 4)) as slow:
        child = Child("grow", space.path, "--endpoint", slow.url, "--top-up", "--concurrency", "4")
        child.until(lambda: len(slow.requests) >= 5)
        child.kill()
        slow.held = lambda number: False
        assert not space.is_released("v2.0.2")
        again = tool(space, "--endpoint", slow.url, "--top-up", "--concurrency", "4")
        assert again.returncode == 0, again.stderr
    assert files_of(space.releases / "v2.0.2") == files_of(whole.releases / "v2.0.2")


def test_abandoned_it_is_as_if_it_had_not_been_begun(tool: Tool, space: Workspace, server: Server) -> None:
    with Pool.open(space.pool_file) as pool:
        before = [list(pool.verdicts(number)) for number in (1, 2)]
    stopped = tool(space, "--endpoint", server.url, "--top-up", "--max-requests", "1")
    assert stopped.returncode == 3
    assert "start again with a higher --max-requests to go on" in stopped.stderr
    put_back = tool(space, "--endpoint", server.url, "--top-up", "--abandon")
    assert (put_back.returncode, put_back.stdout) == (0, "put back: v2.0.2 is not made\n")
    with Pool.open(space.pool_file) as pool:
        assert [list(pool.verdicts(number)) for number in (1, 2)] == before
        assert pool.revisions()[-1].state != ABANDONED  # it is told of no more
    asked = len(server.requests)
    filled = top_up.top_up(space, settings_for(space, server))
    assert filled.release is not None
    sent = [(r["inputs"], r["parameters"].get("seed")) for r in server.requests[asked - 1 :]]
    assert len(set(sent)) == len(sent)  # the answer is there still


def test_without_a_short_round_there_is_nothing_to_do(tool: Tool, space: Workspace, server: Server) -> None:
    top_up.top_up(space, settings_for(space, server))
    asked = len(server.requests)
    done = tool(space, "--endpoint", server.url, "--top-up")
    assert (done.returncode, done.stdout) == (0, "no round is short; nothing to fill\n")
    assert len(server.requests) == asked
    mistake = tool(space, "--endpoint", server.url, "--top-up", "--abandon")
    assert mistake.returncode == 1
    assert "nothing was begun that is not finished" in mistake.stderr


def test_grow_says_that_rounds_are_short_and_goes_on(space: Workspace, server: Server) -> None:
    said: list[str] = []
    settings = settings_for(space, server, tasks=4)
    (result,) = run.grow(space, settings, hooks=Hooks(notice=said.append))
    assert result.release is not None
    assert [text for text in said if "short" in text] == [
        "round 1 is 8 tasks short, round 2 is 5 tasks short: `selfinstruct-hub grow DIR --top-up` fills what is "
        "missing"
    ]
    # Afterwards too, with a round behind them.
    filled = top_up.top_up(space, settings)
    assert filled.release is not None
    assert [entry["tasks"] for entry in status(space)["rounds"]] == [16, 16, 4]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--top-up", "--tasks", "5"), "leave --rounds, --tasks, --recipe and --seed out"),
        (("--top-up", "--rounds", "2"), "leave --rounds, --tasks, --recipe and --seed out"),
        (("--abandon",), "--abandon puts back what --top-up has begun; give both"),
    ],
)
def test_options_that_do_not_go_together(
    tool: Tool, space: Workspace, server: Server, options: tuple[str, ...], expected: str
) -> None:
    done = tool(space, "--endpoint", server.url, *options)
    assert done.returncode == 2
    assert expected in done.stderr
