"""Stored answers judged again: the same rules change no byte, other rules win and lose rows, nothing is asked."""

from __future__ import annotations

import gc
import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.testing
from aiohttp import web

from selfinstruct_hub import cli, config
from selfinstruct_hub.cli.replaying import _round_lines
from selfinstruct_hub.config import Settings
from selfinstruct_hub.errors import PoolError, SelfInstructError, UsageError
from selfinstruct_hub.exchange import import_file
from selfinstruct_hub.parsing import numbered_instructions
from selfinstruct_hub.parsing import tasks as task_parser
from selfinstruct_hub.pool import Pool, encoding
from selfinstruct_hub.pool.again import Answer, StoredDraw
from selfinstruct_hub.pool.revisions import VERDICT
from selfinstruct_hub.recipes import alpaca, self_instruct
from selfinstruct_hub.records import NEVER_ASKED, REPLAY, Round, Verdict
from selfinstruct_hub.release import read_manifest
from selfinstruct_hub.replay import Hooks, Replayed, RoundChanges, ahead, collecting, rejudging, replay
from selfinstruct_hub.run import grow
from selfinstruct_hub.workspace import Workspace
from tests.support.tgi import Server, running, write_anything, write_tasks

# One process for all: what they begin with is made once.
pytestmark = pytest.mark.xdist_group("replay")
PLAIN = config.with_overrides(config.Settings(), {"card.pictures": "off"})
LENIENT = {"filters.blocked_words": ["violin"], "filters.min_words": 2}


def grown(
    folder: Path, *, rounds: int = 2, answer: Any = write_anything, delay: Any = None, **values: Any
) -> tuple[Workspace, Settings]:
    workspace = Workspace.create(folder, PLAIN)
    with running(Server(answer=answer)) as server:
        if delay is not None:
            server.delay = delay
        settings = config.with_overrides(workspace.settings(), {"tasks": 20, "endpoint.url": server.url, **values})
        grow(workspace, settings, rounds=rounds)
    return workspace, settings


def stored(workspace: Workspace, table: str = "verdicts") -> list[tuple[Any, ...]]:
    with Pool.open(workspace.pool_file, read_only=True) as pool:
        columns = {"verdicts": VERDICT}.get(table, "*")
        return pool._rows(f"SELECT {columns} FROM {table} ORDER BY 1, 2, 3")


def verdicts(workspace: Workspace, number: int) -> list[Verdict]:
    with Pool.open(workspace.pool_file, read_only=True) as pool:
        return list(pool.verdicts(number))


def shards(release: Path) -> dict[str, str]:
    found = sorted(release.rglob("*.parquet"))
    return {str(path.relative_to(release)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def changed(found: Replayed, number: int) -> dict[tuple[str, str], int]:
    return dict(found.rounds[number - 1].verdicts)


@pytest.fixture(scope="module", params=["alpaca", "self-instruct"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Settings]:
    workspace, settings = grown(tmp_path_factory.mktemp("made") / "w", recipe=request.param)
    return workspace.path, settings


@pytest.fixture
def copy(made: tuple[Path, Settings], tmp_path: Path) -> tuple[Workspace, Settings]:
    shutil.copytree(made[0], tmp_path / "w")
    return Workspace.at(tmp_path / "w"), made[1]


def test_the_same_rules_change_nothing(copy: tuple[Workspace, Settings]) -> None:
    workspace, settings = copy
    before = stored(workspace)
    found = replay(workspace, settings)
    assert (found.version, found.release, found.skipped) == (None, None, {})
    assert [one.same > 0 and not one.changed for one in found.rounds] == [True, True]
    assert stored(workspace) == before
    assert stored(workspace, "revisions") == []
    assert sorted(path.name for path in workspace.releases.iterdir()) == ["v1.0.0", "v1.1.0"]


def test_a_second_process_reads_the_same(
    copy: tuple[Workspace, Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only for pools that are large enough, here for a small one, and for one of the recipes."""
    workspace, settings = copy
    lenient, first = config.with_overrides(settings, LENIENT), range(1, 2)
    here = replay(workspace, lenient, rounds=first, dry_run=True)
    monkeypatch.setattr(rejudging, "LEAST_DRAWS", 1)
    there = replay(workspace, lenient, rounds=first, dry_run=True)
    assert [one.as_dict() for one in there.rounds] == [one.as_dict() for one in here.rounds]
    if settings.recipe == "alpaca":
        assert replay(workspace, settings, rounds=first).version is None


def test_garbage_is_looked_for_as_before_when_a_replay_is_over() -> None:
    before = gc.get_threshold()
    with collecting.rarely():
        assert gc.get_threshold() > before
    assert gc.get_threshold() == before


def test_a_second_process_that_dies_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    monkeypatch.setattr(ahead, "wait", lambda reading: [one.exception() for one in reading])
    monkeypatch.setattr(ahead, "_Reading", None)  # this process has nothing to read: there are no other batches
    draws = [StoredDraw(0, True, answers={0: Answer("tasks", "", 3, "x" * 200_000, "eos")})]
    with pytest.raises(SelfInstructError, match="has ended, and nothing was changed; start again"):
        next(ahead.read_ahead(Round(1, "v1.0.0", 1, True, {}), iter([draws] * 3)))


def test_other_rules_win_and_lose_rows_and_a_dry_run_says_the_same(copy: tuple[Workspace, Settings]) -> None:
    workspace, grown_with = copy
    settings = config.with_overrides(grown_with, LENIENT)
    before = stored(workspace)
    foretold = replay(workspace, settings, dry_run=True)
    assert stored(workspace) == before
    assert stored(workspace, "revisions") == []
    found = replay(workspace, settings)
    assert found.version == foretold.version == "v1.1.1"
    assert [one.as_dict() for one in found.rounds] == [one.as_dict() for one in foretold.rounds]
    assert found.release == workspace.releases / "v1.1.1"
    first = found.rounds[0]
    assert first.won > 0
    assert first.lost > 0
    reasons = changed(found, 1)
    assert reasons[("accepted", "blocked_word")] > 0
    after_short = {after for before_, after in reasons if before_ == "too_short"}
    assert after_short <= {"accepted", "too_similar", NEVER_ASKED}
    # Whatever was right before stays, and everything that stands keeps today's rules.
    for number in (1, 2):
        for verdict in verdicts(workspace, number):
            assert not (verdict.task and "violin" in verdict.task.instruction.lower())
    manifest = read_manifest(found.release)
    (revision,) = manifest["revisions"]
    assert revision["kind"] == REPLAY
    assert revision["changes"]["1"]["won"] == first.won
    assert revision["changes"]["1"]["verdicts"]
    # Once more: nothing is left to change.
    assert replay(workspace, settings).version is None
    # And back: everything is judged as it was. What was surplus and came in meanwhile stays.
    back = replay(workspace, grown_with)
    assert back.version == "v1.1.2"
    now = {row[:3]: row[3:7] for row in stored(workspace)}
    for row in before:
        assert now[row[:3]] == row[3:7] or (row[5], now[row[:3]][2]) == ("surplus", None)


def test_no_verdict_that_stays_is_measured_again_and_neighbours_that_are_gone_are_not_named(
    tmp_path: Path,
) -> None:
    workspace, settings = grown(tmp_path / "w", rounds=1)
    before = {row[:3]: encoding.verdict(row) for row in stored(workspace)}
    replay(
        workspace,
        config.with_overrides(settings, {"filters.blocked_words": ["river", "lantern", "budget", "canoe"]}),
    )
    ids = {verdict.task.id for verdict in verdicts(workspace, 1) if verdict.task}
    gone = {verdict.task.id for verdict in before.values() if verdict.task} - ids
    assert gone
    for row in stored(workspace):
        now, then = encoding.verdict(row), before.get(row[:3])
        names = {near.id for near in now.similarity.nearest} if now.similarity else set()
        assert not names & gone
        if then is not None and then.task and now.task and then.similarity and now.similarity:
            assert now.similarity.mean == then.similarity.mean
            kept = tuple(near for near in then.similarity.nearest if near.id not in gone)
            assert now.similarity.nearest == kept


def test_a_parser_that_reads_more_wins_what_it_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A parser's bug lost every answer's first item; mended, it is found, and its neighbours keep their rows."""
    whole = task_parser.labelled_tasks
    with monkeypatch.context() as patched:
        patched.setattr(alpaca, "labelled_tasks", lambda *a, **k: whole(*a, **k)[1:])
        workspace, settings = grown(tmp_path / "w", answer=write_tasks)
    had = {verdict.task.id for n in (1, 2) for verdict in verdicts(workspace, n) if verdict.task}
    found = replay(workspace, settings)
    assert found.version == "v1.1.1"
    assert changed(found, 1)[("not found", "accepted")] == found.rounds[0].won > 0
    # A task that comes in earlier may be too near to one that came later.
    lost = {after for n in (1, 2) for (then, after) in changed(found, n) if then == "accepted"}
    assert lost <= {"too_similar"}
    have = {verdict.task.id for n in (1, 2) for verdict in verdicts(workspace, n) if verdict.task}
    assert len(had - have) < len(have - had)
    # An example shows which, and why.
    example = next(one for one in found.rounds[0].examples if one.after == "accepted")
    assert example.before == "not found"
    assert example.instruction


def test_a_round_that_is_short_takes_answers_that_nobody_needed_and_says_what_is_missing(tmp_path: Path) -> None:
    workspace, settings = grown(tmp_path / "w", rounds=1, answer=write_tasks)
    # A larger round asks for the same and goes on: what it asked further is what a faster endpoint had answered.
    larger, _ = grown(tmp_path / "larger", rounds=1, answer=write_tasks, tasks=32)
    with Pool.open(workspace.pool_file) as pool, Pool.open(larger.pool_file, read_only=True) as other:
        judged = pool.judged_draws(1)
        further = [answer for answer in other.completions(1) if answer[0].number >= judged]
        # The very next one was in flight when the round was complete.
        pool.add_completions([answer for answer in further if pool.completion(1, answer[0].number, 0) is None])
        unjudged = pool.counts(1)["unjudged"]
    assert unjudged > 2
    # A word each of some tasks.
    blocked = [one.task.instruction.split()[2] for one in verdicts(workspace, 1)[:16] if one.task]
    found = replay(workspace, config.with_overrides(settings, {"filters.blocked_words": ["the"]}), dry_run=True)
    (round_,) = found.rounds
    assert round_.short == 20
    assert round_.completions == judged + unjudged
    less = replay(workspace, config.with_overrides(settings, {"filters.blocked_words": blocked}))
    (round_,) = less.rounds
    assert round_.lost > 0
    assert changed(less, 1)[("not judged", "accepted")] > 0
    counts = {verdict.number for verdict in verdicts(workspace, 1)}
    assert max(counts) >= judged
    accepted = sum(verdict.task is not None for verdict in verdicts(workspace, 1))
    assert accepted + round_.short == 20


def test_what_comes_anew_must_be_new_among_later_rounds(tmp_path: Path) -> None:
    """Round 1 was too strict for a task that round 2 has accepted since: replayed alone, it may not have it."""
    text = "Describe the violin and the harbour for a river lantern."

    def answer(prompt: str, parameters: dict[str, Any]) -> tuple[str, str]:
        written, end = write_tasks(prompt, parameters)
        first = written.split("\n", 1)[0]
        return written.replace(first, f" {text}", 1), end

    workspace = Workspace.create(tmp_path / "w", PLAIN)
    with running(Server(answer=answer)) as server:
        base = {"tasks": 6, "endpoint.url": server.url}
        strict = config.with_overrides(workspace.settings(), {**base, "filters.blocked_words": ["violin"]})
        lenient = config.with_overrides(workspace.settings(), {**base, "filters.blocked_words": ["picture"]})
        grow(workspace, strict)
        grow(workspace, lenient)
    assert text in [verdict.task.instruction for verdict in verdicts(workspace, 2) if verdict.task]
    found = replay(workspace, lenient, rounds=range(1, 2), dry_run=True)
    assert ("blocked_word", "too_similar") in changed(found, 1)
    assert text not in [one.instruction for one in found.rounds[0].examples if one.after == "accepted"]
    # Both replayed, the earlier one has it.
    both = replay(workspace, lenient)
    assert changed(both, 1)[("blocked_word", "accepted")] >= 1
    assert changed(both, 2)[("accepted", "too_similar")] == 1


def test_a_later_answer_that_was_never_asked_for_is_a_reason_of_its_own(tmp_path: Path) -> None:
    workspace, settings = grown(tmp_path / "w", rounds=1, recipe="self-instruct")
    found = replay(workspace, config.with_overrides(settings, {"filters.min_words": 1}))
    dropped = [
        verdict for verdict in verdicts(workspace, 1) if verdict.drop and verdict.drop.reason == NEVER_ASKED
    ]
    assert dropped
    assert changed(found, 1)[("too_short", NEVER_ASKED)] == len(dropped)
    assert {verdict.candidate.instruction for verdict in dropped} == {"Do it."}
    assert {verdict.candidate.stage for verdict in dropped} == {"classification"}


def test_later_answers_follow_their_instruction_where_a_parser_counts_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, settings = grown(tmp_path / "w", rounds=1, recipe="self-instruct")
    whole = numbered_instructions
    before = [verdict for verdict in verdicts(workspace, 1) if verdict.task and verdict.position > 0]
    monkeypatch.setattr(self_instruct, "numbered_instructions", lambda *a, **k: whole(*a, **k)[1:])
    found = replay(workspace, settings)
    after = [verdict for verdict in verdicts(workspace, 1) if verdict.task]
    assert {v.task.id for v in before if v.task} <= {v.task.id for v in after if v.task}
    by_id = {v.task.id: v for v in after if v.task}
    for verdict in before:
        assert verdict.task is not None
        now = by_id[verdict.task.id]
        assert now.position == verdict.position - 1
        assert now.candidate.calls == verdict.candidate.calls  # its answers in the pool
    assert ("accepted", "not found") in changed(found, 1)


def test_requests_that_failed_stay_failed(tmp_path: Path) -> None:
    def fault(number: int) -> web.Response | None:
        return web.Response(status=500) if number % 7 in (3, 4) else None

    workspace = Workspace.create(tmp_path / "w", PLAIN)
    with running(Server(answer=write_anything, fault=fault)) as server:
        settings = config.with_overrides(
            workspace.settings(),
            {
                "tasks": 12,
                "recipe": "self-instruct",
                "endpoint.url": server.url,
                "endpoint.attempts": 1,
                "endpoint.concurrency": 1,
                "endpoint.max_failed_share": 0.9,
            },
        )
        grow(workspace, settings)
    failures = stored(workspace, "failures")
    assert failures
    before = stored(workspace)
    assert replay(workspace, settings).version is None
    assert stored(workspace) == before
    replay(workspace, config.with_overrides(settings, LENIENT))
    assert stored(workspace, "failures") == failures


def test_imported_rounds_are_judged_again(tmp_path: Path) -> None:
    workspace = Workspace.create(tmp_path / "w", PLAIN)
    rows = [
        {"instruction": text, "input": "", "output": f"An answer, number {number}."}
        for number, text in enumerate(
            (
                "Describe how a violin is tuned.",
                "Name three tariffs of the last century.",
                "Draw a bicycle with two saddles.",
                "Say why a canoe floats on water.",
            )
        )
    ]
    file = tmp_path / "rows.json"
    file.write_text(json.dumps(rows), encoding="utf-8")
    settings = workspace.settings()
    assert import_file(workspace, file).drops == {"blocked_word": 1}
    assert replay(workspace, settings).version is None
    found = replay(workspace, config.with_overrides(settings, {"filters.blocked_words": ["canoe"]}))
    assert changed(found, 1) == {("accepted", "blocked_word"): 1, ("blocked_word", "accepted"): 1}
    assert (found.rounds[0].won, found.rounds[0].lost, found.rounds[0].short) == (1, 1, 0)


def test_rounds_without_answers_are_named(copy: tuple[Workspace, Settings]) -> None:
    workspace, settings = copy
    with Pool.open(workspace.pool_file) as pool, pool._transaction() as db:
        db.execute("UPDATE completions SET prompt = '', text = '' WHERE round = 1")
    told: list[str] = []
    lenient = config.with_overrides(settings, LENIENT)
    found = replay(workspace, lenient, hooks=Hooks(notice=told.append))
    assert list(found.skipped) == [1]
    assert told == [f"round 1 is left as it is: {found.skipped[1]}"]
    assert [one.round for one in found.rounds] == [2]
    with pytest.raises(PoolError, match=r"no stored answers to judge again \(round 1: its answers were dropped"):
        replay(workspace, settings, rounds=range(1, 2))
    with pytest.raises(UsageError, match="--rounds: there is no round 3; the pool has rounds 1-2"):
        replay(workspace, settings, rounds=range(2, 4))


def test_an_open_round_is_finished_first(tmp_path: Path) -> None:
    workspace = Workspace.create(tmp_path / "w", PLAIN)
    with running(Server()) as server:
        settings = config.with_overrides(workspace.settings(), {"tasks": 20, "endpoint.url": server.url})
        grow(workspace, settings, max_requests=3)
    with pytest.raises(PoolError, match="round 1 is open; finish it"):
        replay(workspace, settings)


def test_the_command_line(copy: tuple[Workspace, Settings]) -> None:
    workspace, settings = copy
    (workspace.path / config.FILE_NAME).write_text(
        config.render(config.with_overrides(settings, LENIENT)), encoding="utf-8"
    )

    def run(*given: str) -> Any:
        return typer.testing.CliRunner().invoke(cli.app, ["replay", str(workspace.path), *given])

    told = run("--dry-run", "--json")
    assert told.exit_code == 0, told.stderr
    found = json.loads(told.stdout)
    assert (found["changed"], found["dry_run"], found["release"]) == (True, True, None)
    assert "--rounds: expected A-B" in str(run("--rounds", "0").exception)
    done = run()
    assert done.exit_code == 0, done.stderr
    assert f"made {workspace.releases / 'v1.1.1'}" in done.stdout
    for one in found["rounds"]:
        if one["short"]:
            assert f"round {one['round']} is {one['short']} task" in done.stdout
            assert "--top-up` fills it" in done.stdout
    assert "nothing changes, so there is no new version" in run().stdout


def test_a_round_that_is_short_is_told_of_where_nothing_changes_too() -> None:
    one = RoundChanges(1, 20, same=18, short=2)
    assert _round_lines(one, Path("my tasks")) == [
        "round 1: as it was, 18 rows",
        "round 1 is 2 tasks short of 20: `selfinstruct-hub grow 'my tasks' --top-up` fills it",
    ]
