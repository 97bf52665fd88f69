"""Rows written anew over real HTTP: what is chosen, asked and kept, and that a stop anywhere costs nothing."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from selfinstruct_hub import config, languages, run, top_up
from selfinstruct_hub.endpoint.budget import MAX_REQUESTS
from selfinstruct_hub.errors import PoolError, UsageError
from selfinstruct_hub.exchange import import_file
from selfinstruct_hub.grow import FAILING, REFUSED
from selfinstruct_hub.hub.rebuild import rebuild
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.recipes import outputs
from selfinstruct_hub.records import (
    FINISH_EOS,
    FINISH_LENGTH,
    REGENERATE,
    Candidate,
    Completion,
    Decoding,
    Drop,
    Instance,
    Place,
    Request,
    Revision,
    Task,
    Verdict,
)
from selfinstruct_hub.regenerate import Regenerated, abandon, regenerate
from selfinstruct_hub.regenerate.asking import INPUT_FIRST, LABEL_FIRST, Prompts, parsed
from selfinstruct_hub.regenerate.choosing import Choice, Query, places
from selfinstruct_hub.regenerate.judging import Answered, changes, judged
from selfinstruct_hub.release import read_manifest
from selfinstruct_hub.release.verify import check
from selfinstruct_hub.rounds import note_seconds
from selfinstruct_hub.status import status
from selfinstruct_hub.working import Bounds
from selfinstruct_hub.workspace import Workspace
from tests.support.child import Child
from tests.support.revising import Tool, files_of, rows_of, shorten, write_all
from tests.support.tgi import Server, running

ROWS = [
    {"instruction": "Name three rivers that cross a border.", "input": "", "output": "Rhine, Danube and Meuse."},
    {"instruction": "Say which language the sentence is in.", "input": "Bonjour", "output": "French, I believe."},
    {"instruction": "Say which language the sentence is in.", "input": "Hola", "output": "Spanish."},
    {"instruction": "Say which language the sentence is in.", "input": "Ciao", "output": "Italian."},
]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running(Server(answer=write_all)) as server:
        yield server


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, server: Server) -> Path:
    """A round of Alpaca, an import with a task of three rows, and a round of Self-Instruct."""
    path = tmp_path_factory.mktemp("regenerate") / "w"
    space = Workspace.create(path, config.with_overrides(config.Settings(), {"card.pictures": "off"}))
    run.grow(space, settings_for(space, server, tasks=8))
    (path.parent / "rows.json").write_text(json.dumps(ROWS))
    import_file(space, path.parent / "rows.json")
    run.grow(space, settings_for(space, server, tasks=8, recipe="self-instruct"))
    return path


@pytest.fixture
def space(made: Path, tmp_path: Path) -> Workspace:
    return Workspace.at(shutil.copytree(made, tmp_path / "w"))


def settings_for(space: Workspace, server: Server, **values: object) -> config.Settings:
    return config.with_overrides(space.settings(), {"endpoint.url": server.url, **values})


def again(space: Workspace, server: Server, *, max_requests: int | None = None, **chosen: Any) -> Regenerated:
    where = tuple(Query.of(text) for text in chosen.pop("where", ())) or None
    choice = Choice(where=where, **chosen)
    return regenerate(space, settings_for(space, server), choice, bounds=Bounds(max_requests=max_requests))


def sent(server: Server, first: int) -> list[tuple[str, Any]]:
    return [(body["inputs"], body["parameters"].get("seed")) for body in server.requests[first:]]


@pytest.fixture
def tool(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Tool:
    return Tool("regenerate", capsys, monkeypatch)


def test_every_output_is_written_anew_and_nothing_else_is_touched(space: Workspace, server: Server) -> None:
    with Pool.open(space.pool_file) as pool:
        before = {number: rows_of(pool, number) for number in (1, 2, 3)}
        answers = {number: list(pool.completions(number)) for number in (1, 3)}
    old = {version: files_of(space.releases / version) for version in ("v1.0.0", "v1.1.0", "v2.0.0")}
    done = again(space, server)
    assert done.release == space.releases / "v2.0.1"
    check(done.release, load=False)
    assert {version: files_of(space.releases / version) for version in old} == old
    with Pool.open(space.pool_file) as pool:
        after = {number: rows_of(pool, number) for number in (1, 2, 3)}
        assert {number: list(pool.completions(number)) for number in (1, 3)} == answers
        with pool.as_of(0):
            assert {number: rows_of(pool, number) for number in (1, 2, 3)} == before
        for verdict in (verdict for number in (1, 2, 3) for verdict in pool.verdicts(number, accepted=True)):
            assert verdict.task is not None
            for lineage, (key, _) in zip(verdict.revised or (), verdict.task.rows, strict=False):
                for one in lineage:
                    assert (one.version, one.kind, one.model) == ("v2.0.1", REGENERATE, "test/scripted")
                    assert one.replaces != key
                    assert one.decoding is not None
                    assert json.loads(one.decoding)["temperature"] == 0.7
                    assert len(one.shown) == 8
    replaced = 0
    for number in before:
        assert [row[:2] for row in after[number]] == [row[:2] for row in before[number]]
        moved = sum(old != new for old, new in zip(before[number], after[number], strict=True))
        assert done.changes[str(number)].get("replaced", 0) == moved
        kept = sum(done.changes[str(number)].get("kept", {}).values())
        assert moved + kept == len(before[number])
        replaced += moved
    assert replaced > 10
    assert set(done.kept) <= {"empty_output", "cut_off"}
    assert done.kept
    (told,) = read_manifest(done.release)["revisions"]
    assert told["changes"] == done.changes
    assert told["requests"] == done.places == sum(map(len, before.values()))


def test_new_instances_take_the_place_of_old_ones_one_by_one(space: Workspace, server: Server) -> None:
    first = len(server.requests)
    with Pool.open(space.pool_file) as pool:
        before = {number: rows_of(pool, number) for number in (1, 2, 3)}
        kinds = {task.instruction: task.is_classification for task in pool.tasks(3)}
    done = again(space, server, part="instance")
    assert done.release is not None
    check(done.release, load=False)
    with Pool.open(space.pool_file) as pool:
        after = {number: rows_of(pool, number) for number in (1, 2, 3)}
    for number in before:
        assert [row[0] for row in after[number]] == [row[0] for row in before[number]]
    # One answer has one or two examples, and the imported task three rows: one at least is as it was.
    assert "fewer_instances" in done.changes["2"]["kept"] or done.changes["2"]["kept"]
    prompts = [prompt for prompt, _ in sent(server, first)]
    assert len(prompts) == 8 + 2 + 8
    for prompt in prompts:
        task = prompt.rsplit("\nTask: ", 1)[1].split("\n", 1)[0]
        assert prompt.endswith("\nClass label:" if kinds.get(task) else "\nExample 1\nInput:")
    assert any(kinds.values())


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("model=test/scripted", lambda row, number: number != 2),
        ("model!=test/scripted", lambda row, number: number == 2),
        ("model = none", lambda row, number: number == 2),
        ("recipe=import", lambda row, number: number == 2),
        ("endpoint_kind=tgi", lambda row, number: number != 2),
        ("finish_reason=length", lambda row, number: False),
        ("input_characters=0", lambda row, number: row[1] == ""),
        ("output_words<=2", lambda row, number: len(row[2].split()) <= 2),
        ("output_characters>12", lambda row, number: len(row[2]) > 12),
        ("is_classification=yes", lambda row, number: number == 3 and row[0].startswith("Decide")),
        ("similarity>1", lambda row, number: False),
        ("similarity>=0", lambda row, number: True),
    ],
)
def test_rows_are_chosen_by_what_is_known_of_them(space: Workspace, where: str, expected: Any) -> None:
    with Pool.open(space.pool_file) as pool:
        rows = [(number, row) for number in (1, 2, 3) for row in rows_of(pool, number)]
        found = places(pool, Choice(where=(Query.of(where),)), "output")
        keys = {key for place in found for key in place.before}
        every = [key for number in (1, 2, 3) for task in pool.tasks(number) for key, _ in task.rows]
    assert keys == {key for key, (number, row) in zip(every, rows, strict=True) if expected(row, number)}


def test_a_row_that_was_written_anew_is_of_the_new_model(space: Workspace, server: Server) -> None:
    info = {**server.info, "model_id": "org/new"}
    with running(Server(answer=write_all, info=info)) as other:
        done = again(space, other, where=["model=test/scripted", "output_words>2"], rounds=(1, 1))
        assert done.revision is not None
        replaced = done.total("replaced")
        assert 0 < replaced <= 8
        # What was kept is of the old one still; where none is, there is nothing to do.
        left = again(space, other, where=["model=test/scripted", "output_words>2"], rounds=(1, 1))
    assert left.places == done.places - replaced
    with Pool.open(space.pool_file) as pool:
        assert len(places(pool, Choice(where=(Query.of("model=org/new"),)), "output")) >= replaced
    assert read_manifest(space.releases / "v2.0.1")["revisions"][0]["models"] == ["org/new"]


def test_ids_from_a_file_or_standard_input(tool: Tool, space: Workspace, server: Server, tmp_path: Path) -> None:
    with Pool.open(space.pool_file) as pool:
        keys = [key for task in pool.tasks(1) for key, _ in task.rows]
        others = rows_of(pool, 2)
    done = tool(space, "--ids", "-", "--endpoint", server.url, "--json", given=f"{keys[2]}\n\n {keys[5]} \n")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["version"], found["part"], found["chosen"], found["done"]) == ("v2.0.1", "output", 2, 2)
    assert list(found["rounds"]) == ["1"]
    assert found["requests"] == 2
    with Pool.open(space.pool_file) as pool:
        now = [key for task in pool.tasks(1) for key, _ in task.rows]
        assert [at for at, key in enumerate(keys) if now[at] != key] in ([2, 5], [2], [5], [])
        assert rows_of(pool, 2) == others
    (tmp_path / "ids.txt").write_text("\n".join([keys[0], "0" * 16]))
    missing = tool(space, "--ids", str(tmp_path / "ids.txt"), "--dry-run")
    assert missing.returncode == 2
    assert f"--ids: line 2: no row of these rounds has the id '{'0' * 16}'" in missing.stderr


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--where", "colour=red"], "there is no field `colour`; fields are model, recipe,"),
        (["--where", "output_words"], "expected FIELD, a comparison (= != < <= > >=) and a value"),
        (["--where", "output_words<few"], "output_words is a number, got 'output_words<few'"),
        (["--where", "model<5"], "model is a text, which = and != compare"),
        (["--where", "is_classification=perhaps"], "is_classification is yes, no or none"),
        (["--rounds", "2-9"], "--rounds: the pool has rounds 1 to 3, got 2-9"),
        (["--rounds", "0"], "--rounds: expected A-B"),
        (["--part", "both"], "--part: expected output or instance, got 'both'"),
        (["--ids", "/nowhere/at/all"], "--ids: /nowhere/at/all: cannot be read"),
        (["--abandon", "--rounds", "1"], "--abandon puts back what was begun, as a whole"),
        (["--max-cost", "1"], "--max-cost needs to know what tokens cost"),
    ],
)
def test_mistakes(tool: Tool, made: Path, options: list[str], expected: str) -> None:
    done = tool(Workspace.at(made), *options)
    assert done.returncode == 2
    assert expected in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_where_no_row_is_chosen_nothing_is_made(tool: Tool, space: Workspace, server: Server) -> None:
    done = tool(space, "--where", "output_words>10000", "--endpoint", server.url)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "no row is chosen, so nothing was asked and nothing is made\n"
    assert not space.is_released("v2.0.1")
    nothing = tool(space, "--abandon")
    assert nothing.returncode == 1
    assert "nothing was begun that is not finished" in nothing.stderr


def test_a_dry_run_asks_nobody_and_tells_rows_and_cost(tool: Tool, space: Workspace, server: Server) -> None:
    settings = config.with_overrides(space.settings(), {"prices.prompt": 1.0, "prices.generated": 2.0})
    (space.path / config.FILE_NAME).write_text(config.render(settings))
    asked = len(server.requests)
    done = tool(space, "--dry-run", "--endpoint", server.url, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["rounds"]["1"] == {"chosen": 8}
    assert found["rounds"]["2"] == {"chosen": 4}
    assert found["requests"] == sum(one["chosen"] for one in found["rounds"].values())
    tokens = found["tokens"]
    assert tokens["generated"] < tokens["most_generated"] == 1024 * found["requests"]
    assert found["cost"]["amount"] == pytest.approx((tokens["prompt"] + 2 * tokens["generated"]) / 1e6)
    text = tool(space, "--dry-run", "--part", "instance", "--endpoint", server.url).stdout
    assert "round 2: 4 rows\n" in text
    assert "USD at most, by the prices in selfinstruct.yaml" in text
    assert len(server.requests) == asked
    with Pool.open(space.pool_file) as pool:
        assert pool.revisions() == []


@pytest.mark.parametrize("part", ["output", "instance"])
def test_in_pieces_and_at_once_are_the_same(space: Workspace, server: Server, tmp_path: Path, part: str) -> None:
    """Whatever stops it, and at whatever concurrency it goes on."""
    whole = Workspace.at(shutil.copytree(space.path, tmp_path / "whole" / "w"))
    done = again(whole, server, part=part)
    assert done.release is not None
    first = len(server.requests)
    for limit in (1, 5, 6, 11, None):
        piece = again(space, server, part=part, max_requests=limit)
        if limit is not None:
            assert (piece.limit, piece.spent.requests) == (MAX_REQUESTS, limit)
            with pytest.raises(PoolError, match=r"v2\.0\.1 was begun and is not finished"):
                run.grow(space, settings_for(space, server))
    assert len(set(sent(server, first))) == len(sent(server, first)) == done.places
    assert piece.release is not None
    assert piece.changes == done.changes
    assert files_of(piece.release) == files_of(done.release)


def test_kill_9_and_the_same_command_give_the_same_release(
    tool: Tool, space: Workspace, server: Server, tmp_path: Path
) -> None:
    whole = Workspace.at(shutil.copytree(space.path, tmp_path / "whole" / "w"))
    whole_settings = settings_for(whole, server, **{"endpoint.concurrency": 3})
    assert regenerate(whole, whole_settings, Choice()).release is not None
    stop_at = 0
    with running(Server(answer=write_all, held=lambda number: number >= stop_at - 3)) as slow:
        options = ["--endpoint", slow.url, "--concurrency", "3"]
        for stop_at in (5, 12):
            child = Child("regenerate", space.path, *options)
            child.until(lambda stop_at=stop_at: len(slow.requests) >= stop_at)  # type: ignore[misc]
            child.kill()
            assert not space.is_released("v2.0.1")
        slow.held = lambda number: False
        done = tool(space, *options)
        assert done.returncode == 0, done.stderr
        # At most what was in flight at each death is asked for again.
        assert len(slow.requests) <= len(set(sent(slow, 0))) + 2 * 3
    assert files_of(space.releases / "v2.0.1") == files_of(whole.releases / "v2.0.1")


def test_ctrl_c_finishes_what_is_in_flight(tool: Tool, space: Workspace) -> None:
    with running(Server(answer=write_all, held=lambda number: number >= 5)) as slow:
        child = Child("regenerate", space.path, "--endpoint", slow.url, "--concurrency", "2")
        child.until(lambda: len(slow.requests) >= 7)
        child.send(signal.SIGINT)
        child.says("finishing 2 in flight")
        slow.held = lambda number: False
        assert child.end() == 130, child.errors
        assert "7 of 22 rows of v2.0.1 done" in child.errors or "rows of v2.0.1 done; everything is kept" in (
            child.errors
        )
        with Pool.open(space.pool_file) as pool:
            assert pool.revision_spent(1)[0] == len(slow.requests) == 7
        assert tool(space, "--abandon").stdout == "put back: v2.0.1 is not made\n"
    with Pool.open(space.pool_file) as pool:
        assert pool.open_revision() is None


def test_other_options_while_one_is_open_are_refused(tool: Tool, space: Workspace, server: Server) -> None:
    again(space, server, where=["output_words>2"], rounds=(1, 3), max_requests=3)
    for options, expected in (
        (["--part", "instance"], "it was begun with another --part"),
        (["--where", "output_words>3"], "it was begun with another --where"),
        (["--rounds", "1", "--seed", "9"], "it was begun with another --rounds, --seed"),
    ):
        done = tool(space, *options, "--endpoint", server.url)
        assert done.returncode == 2
        assert "v2.0.1 was begun and is not finished: `selfinstruct-hub regenerate DIR` goes on" in done.stderr
        assert expected in done.stderr
    with (
        running(Server(answer=write_all, info={**server.info, "model_id": "org/new"})) as other,
        pytest.raises(UsageError, match=r"begun with test/scripted, and the endpoint serves org/new"),
    ):
        again(space, other)
    left = tool(space, "--dry-run", "--endpoint", server.url)
    assert "of v2.0.1, which is not finished" in left.stdout
    # Without options it goes on with what was chosen.
    assert again(space, server).release is not None
    with Pool.open(space.pool_file) as pool:
        assert pool.revisions()[0].settings["chosen"]["where"] == ["output_words>2"]


def test_abandoned_every_row_is_back(space: Workspace, server: Server) -> None:
    with Pool.open(space.pool_file) as pool:
        before = [list(pool.verdicts(number)) for number in (1, 2, 3)]
    again(space, server, max_requests=9)
    with Pool.open(space.pool_file) as pool:
        assert [list(pool.verdicts(number)) for number in (1, 2, 3)] != before
    assert abandon(space, settings_for(space, server)).version == "v2.0.1"
    with Pool.open(space.pool_file) as pool:
        assert [list(pool.verdicts(number)) for number in (1, 2, 3)] == before
    assert again(space, server, rounds=(1, 1)).release == space.releases / "v2.0.1"


def test_an_endpoint_that_goes_down_costs_no_row(space: Workspace, server: Server) -> None:
    """With fewer rows left than failures that stop a run: they are not taken for rows that cannot be answered."""
    # One at a time: else the last answer may come after the first failure, which is then taken for the row's own.
    settings = {"endpoint.attempts": 1, "endpoint.concurrency": 1}
    with running(Server(answer=write_all)) as dying:
        dying.fault = lambda number: web.Response(status=500) if number >= 5 else None
        done = regenerate(space, settings_for(space, dying, **settings), Choice(rounds=(1, 1)))
        assert (done.limit, done.done, done.places) == (FAILING, 5, 8)
        assert "request_failed" not in done.kept
        dying.fault = lambda number: None
        done = regenerate(space, settings_for(space, dying, **settings), Choice())
    assert done.limit is None
    assert done.done == 8
    assert done.release is not None


def test_one_request_that_is_never_answered_leaves_its_row(space: Workspace) -> None:
    with Pool.open(space.pool_file) as pool:
        poisoned = list(pool.tasks(1))[3]
    other = Server(answer=write_all)

    def never(number: int) -> web.StreamResponse | None:
        return web.Response(status=500) if poisoned.instruction in other.requests[number]["inputs"] else None

    other.fault = never
    with running(other):
        settings = settings_for(space, other, **{"endpoint.attempts": 2})
        done = regenerate(space, settings, Choice(rounds=(1, 1)))
    assert done.kept["request_failed"] == 1
    assert done.release is not None
    with Pool.open(space.pool_file) as pool:
        assert list(pool.tasks(1))[3] == poisoned


def test_refused_one_by_one_or_all_of_them(space: Workspace, server: Server) -> None:
    def too_long(number: int) -> web.StreamResponse | None:
        body = {"error": "`inputs` must have less than 8 tokens", "error_type": "validation"}
        return web.json_response(body, status=422) if number in refused else None

    with running(Server(answer=write_all, fault=too_long)) as other:
        refused = set(range(1000))
        done = again(space, other)
        assert done.limit == REFUSED
        assert "has refused 20 requests of the step `output` in a row" in done.detail
        # It was everybody's fault: they are asked for again.
        assert (done.done, done.kept) == (0, {})
        refused = {len(other.requests) + 2}
        done = again(space, other)
    assert done.kept["request_refused"] == 1
    assert done.release is not None


def test_a_pulled_workspace_is_regenerated_and_its_counts_stay_true(space: Workspace, server: Server) -> None:
    source = space.releases / "v2.0.0"
    manifest = read_manifest(source)
    pulled = Workspace.create(space.path.parent / "pulled" / "w", space.settings())
    shutil.copytree(source, pulled.releases / "v2.0.0")
    with Pool.create(pulled.pool_file) as pool:
        rebuild(pool, source, manifest, repo="org/w", commit="0" * 40)
        published = {number: pool.counts(number) for number in (1, 2, 3)}
    assert [entry["rows"] for entry in manifest["rounds"]] == [published[n]["rows"] for n in (1, 2, 3)]
    here = again(space, server)
    there = again(pulled, server)
    assert there.release is not None
    assert there.changes == here.changes
    check(there.release, load=False)
    # What was pulled and what was grown here have the same rows.
    with Pool.open(space.pool_file) as mine, Pool.open(pulled.pool_file) as theirs:
        for number in (1, 2, 3):
            assert rows_of(mine, number) == rows_of(theirs, number)
            counts = theirs.counts(number)
            assert counts == published[number]  # as many rows, and the requests that were published
    shorten(pulled, {1: 2})
    with Pool.open(pulled.pool_file) as pool:
        counts = pool.counts(1)
    said = published[1]
    assert (counts["tasks"], counts["rows"]) == (said["tasks"] - 2, said["rows"] - 2)
    assert counts["drops"] == {**said["drops"], "reviewed": 2}
    assert counts["acceptance"] == round((said["tasks"] - 2) / said["candidates"], 4)
    assert (counts["requests"], counts["tokens"]) == (said["requests"], said["tokens"])
    filled = top_up.top_up(pulled, settings_for(pulled, server))
    assert filled.won == {1: 2}
    with Pool.open(pulled.pool_file) as pool:
        counts = pool.counts(1)
    assert counts["tasks"] == said["tasks"]
    assert counts["requests"] > said["requests"]
    assert status(pulled)["tasks"] == sum(entry["tasks"] for entry in manifest["rounds"])


def test_instructions_that_were_imported_alone_get_their_instances(tmp_path: Path, server: Server) -> None:
    space = Workspace.create(tmp_path / "w", config.with_overrides(config.Settings(), {"card.pictures": "off"}))
    texts = ["Name three rivers that cross a border.", "Explain how a canal lock lifts a boat."]
    (tmp_path / "machine.jsonl").write_text("".join(json.dumps({"instruction": text}) + "\n" for text in texts))
    assert (
        import_file(space, tmp_path / "machine.jsonl", format="machine_generated_instructions").without_instances
        == 2
    )
    assert again(space, server).revision is None  # no row has an output
    done = again(space, server, part="instance")
    with Pool.open(space.pool_file) as pool:
        rows = rows_of(pool, 1)
    assert done.changes["1"].get("won", 0) == len(rows)
    assert done.changes["1"].get("won", 0) + sum(done.kept.values()) >= 2
    if rows:
        assert done.release is not None


def test_the_prompt_for_an_output_says_what_is_the_same_first() -> None:
    shown = [Task("a", "Name a colour.", (Instance("", "Blue."),)), Task("b", "Add.", (Instance("1 1", "2"),))]
    english = outputs.prompt(shown, "Sort the words.", "pear fig", languages.of("en"))
    frame, tasks = english.split("\n\n", 1)
    assert frame.startswith("Below are tasks that people give to an assistant")
    assert "English" in frame
    assert tasks == (
        "###\nTask: Name a colour.\nInput: <noinput>\nOutput: Blue.\n"
        "###\nTask: Add.\nInput: 1 1\nOutput: 2\n"
        "###\nTask: Sort the words.\nInput: pear fig\nOutput:"
    )
    chat = outputs.prompt(shown, "Sort the words.", "pear fig", languages.of("en"), chat=True)
    assert chat.endswith(
        "Input: pear fig\n\nWrite the output of the last task, complete and finished, and nothing else.\n\nOutput:"
    )
    chinese = outputs.prompt(shown, "排序。", "", languages.of("zh"), chat=True)
    assert "###\n任务： 排序。\n输入： <无输入>\n\n请写出最后这个任务的输出" in chinese
    assert chinese.endswith("\n输出：")
    assert outputs.stops(languages.of("zh")) == ("\n###\n任务：",)


def test_long_inputs_take_the_room_of_the_last_demonstrations(space: Workspace) -> None:
    with Pool.open(space.pool_file) as pool:
        seeds = pool.seeds()
    settings = {
        **OUTPUT_SETTINGS,
        "seed": 1,
        "grammar": False,
        "max_characters": None,
        "shown": {"output": 8},
        "room": 3000,
        "decoding": {"max_new_tokens": 100},
    }
    prompts = Prompts(Revision(1, "v1.0.1", REGENERATE, 1, (1,), settings), seeds)
    short, long, longest = (
        prompts.request(PLACE, Task("t", "Sum it up.", (Instance("word " * words, "."),)))
        for words in (1, 1200, 9000)
    )
    assert len(short.demonstrations) == 8
    assert 0 < len(long.demonstrations) < 8
    assert short.demonstrations[: len(long.demonstrations)] == long.demonstrations
    assert longest.demonstrations == ()
    # Sixteen places in a row show the same, then others follow.
    task = Task("t", "Sum it up.", (Instance("word", "."),))
    blocks = [prompts.request(replace(PLACE, item=item), task).demonstrations for item in (0, 15, 16)]
    assert blocks[0] == blocks[1] != blocks[2]


OUTPUT_SETTINGS: dict[str, Any] = {"part": "output", "language": "en", "language_name": None, "chat": False}
TASK = Task("t", "Sort the words.", (Instance("pear fig", "fig pear"), Instance("b a", "a b")))
PLACE = Place(0, 1, 0, 0, 0, (TASK.rows[0][0],))


def asked(stage: str) -> Request:
    return Request(0, 0, 0, stage, "...", Decoding(10), ())


@pytest.mark.parametrize(
    ("text", "finish", "chat", "expected"),
    [
        (" fig, pear\n###\nTask: Another one.\nInput: x\nOutput: y", FINISH_LENGTH, False, "fig, pear"),
        (" fig, pear\n###", FINISH_EOS, False, "fig, pear"),
        (" fig, pear\n\nTask: Another.\nInput: <noinput>\nOutput: z", FINISH_LENGTH, False, "fig, pear"),
        (
            " # Words\n\n### First\nfig\nTask: buy figs",
            FINISH_EOS,
            False,
            "# Words\n\n### First\nfig\nTask: buy figs",
        ),
        (" fig, pe", FINISH_LENGTH, False, None),
        ("Sure, here is the output:\nOutput: fig, pear", FINISH_EOS, True, "fig, pear"),
        ("<think>hm</think>\nfig, pear", FINISH_EOS, True, "fig, pear"),
        ("```python\nsorted(words)\n```", FINISH_EOS, True, "```python\nsorted(words)\n```"),
    ],
)
def test_an_output_is_read(text: str, finish: str, chat: bool, expected: str | None) -> None:
    settings = {**OUTPUT_SETTINGS, "chat": chat}
    found = parsed(asked("output"), Completion(text, finish), settings, TASK, PLACE)
    assert [i.output for i in found.instances] == ([] if expected is None else [expected])
    assert [one.drop.reason for one in found.lost] == (["cut_off"] if expected is None else [])
    assert all(i.input == "pear fig" for i in found.instances)


def test_instances_are_read_as_they_were_asked_for() -> None:
    settings = {**OUTPUT_SETTINGS, "part": "instance"}
    place = replace(PLACE, instance=None)
    found = parsed(asked(LABEL_FIRST), Completion(" good\nInput: I like it.", FINISH_EOS), settings, TASK, place)
    assert found.instances == (Instance("I like it.", "good"),)
    found = parsed(asked(INPUT_FIRST), Completion(" c b\nOutput: b c", FINISH_EOS), settings, TASK, place)
    assert found.instances == (Instance("c b", "b c"),)


@pytest.mark.parametrize(
    ("instance", "new", "expected", "reason"),
    [
        (0, [("pear fig", "fig and pear")], [("pear fig", "fig and pear"), ("b a", "a b")], None),
        (0, [("pear fig", "fig pear")], None, None),  # the same
        (0, [("pear fig", "")], None, "empty_output"),
        (0, [("pear fig", "pear fig")], None, "output_repeats_input"),
        (None, [("b a", "a b")], None, "duplicate_instance"),
        (None, [("b a", "b, a")], None, "conflicting_outputs"),
        (None, [("b a", "a b"), ("d c", "c d")], [("d c", "c d"), ("b a", "a b")], None),
        (None, [("x y", "1"), ("x y", "2")], None, "conflicting_outputs"),
    ],
)
def test_a_new_instance_stands_only_where_it_fits(
    instance: int | None, new: list[tuple[str, str]], expected: list[tuple[str, str]] | None, reason: str | None
) -> None:
    """Of a task's two rows the first is chosen."""
    settings = {
        **OUTPUT_SETTINGS,
        "filters": {
            "min_words": 4,
            "max_words": 150,
            "blocked_words": [],
            "max_instances": 5,
            "max_repeated_share": 0.5,
        },
    }
    revision = Revision(1, "v1.0.1", REGENERATE, 1, (1,), settings)
    candidate = Candidate(TASK.instruction, tuple(Instance(*texts) for texts in new), stage="output")
    stood = Verdict(1, 0, 0, Candidate(TASK.instruction, TASK.instances), task=TASK)
    place = replace(PLACE, instance=instance)
    answered = Answered(candidate, asked("output"), Completion("...", FINISH_EOS, model="m"))
    change = judged(revision, place, stood, answered)
    if expected is None:
        assert (change.verdict, change.reason, change.after) == (None, reason, place.before)
        return
    assert change.verdict is not None
    assert change.verdict.task is not None
    assert [(i.input, i.output) for i in change.verdict.task.instances] == expected
    assert change.verdict.task.id != TASK.id
    assert [len(lineage) for lineage in change.verdict.revised] == [1, 0]
    assert change.verdict.revised[0][0].replaces == place.before[0]
    assert change.after == (change.verdict.task.rows[0][0],)
    # Refused by an evaluation set, it is not taken.
    near = judged(revision, place, stood, answered, lambda candidate: Drop("contaminated", "near"))
    assert (near.verdict, near.reason) == (None, "contaminated")


def test_rows_are_counted_by_what_became_of_them() -> None:
    def one(before: list[str], after: list[str], reason: str | None = None, **marks: int) -> dict[str, Any]:
        return {"round": 1, "before": before, "after": after, "reason": reason, "marks": marks or None}

    found = changes(
        [1, 2],
        [
            one(["a"], ["b"]),
            one(["c"], ["c"]),
            one(["d"], ["d"], "cut_off"),
            one(["e", "f", "g"], ["E", "f", "g"], "fewer_instances", same=1),
            one([], ["h", "i"]),
            one([], [], "request_failed"),
        ],
    )
    kept = {"cut_off": 1, "fewer_instances": 1, "request_failed": 1}
    assert found == {"1": {"won": 2, "replaced": 2, "same": 2, "kept": kept}, "2": {}}


def test_a_neighbour_that_was_written_anew_is_still_told(space: Workspace, server: Server) -> None:
    """A rejected candidate's neighbour has another id now; its instruction is published all the same."""
    assert again(space, server, rounds=(1, 1)).release is not None
    with Pool.open(space.pool_file) as pool:
        now = {task.id for task in pool.tasks(1)}
        with pool.as_of(0):
            gone = next(task for task in pool.tasks(1) if task.id not in now)
    with contextlib.closing(sqlite3.connect(space.pool_file)) as db, db:
        db.execute(
            "UPDATE verdicts SET nearest = ?, score = 0.9, mean = 0.1, near = NULL WHERE rowid ="
            " (SELECT min(rowid) FROM verdicts WHERE task IS NULL AND round = 3)",
            (json.dumps([[gone.id, 0.9]]),),
        )
    with Pool.open(space.pool_file) as pool:
        told = [row for batch in pool.rejected_columns(3, 100) for row in batch if f'[["{gone.id}"' in row[7]]
    assert {row[9] for row in told} == {gone.instruction}


def test_a_choice_is_carried_out_again_where_others_have_worked_since(space: Workspace, server: Server) -> None:
    """A command that died behind its last answer is over, but not for ever."""
    first = again(space, server, rounds=(1, 1))
    assert first.revision is not None
    with Pool.open(space.pool_file) as pool:
        note_seconds(pool, first.revision.number, 1.0)
    over = again(space, server, rounds=(1, 1))
    assert over.revision is not None
    assert (over.revision.number, over.release) == (first.revision.number, first.release)
    with Pool.open(space.pool_file) as pool:
        note_seconds(pool, first.revision.number, 1.0)
    run.grow(space, settings_for(space, server, tasks=2, recipe="self-instruct"))
    second = again(space, server, rounds=(1, 1))
    assert second.revision is not None
    assert second.revision.number == first.revision.number + 1


def test_without_a_round_there_is_nothing_to_choose(tmp_path: Path, server: Server) -> None:
    empty = Workspace.create(tmp_path / "w", config.Settings())
    with pytest.raises(PoolError, match="has no round yet; `selfinstruct-hub grow` makes one"):
        again(empty, server, rounds=(9, 9))
