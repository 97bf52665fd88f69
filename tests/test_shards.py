"""Shards say row by row what the pool's records say, are cut at a limit, and are the same bytes every time."""

from __future__ import annotations

import itertools
import json
import shutil
import sqlite3
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfinstruct_hub import config, run
from selfinstruct_hub.errors import PoolError
from selfinstruct_hub.exchange import import_file
from selfinstruct_hub.pool import Pool, encoding, identities, published
from selfinstruct_hub.records import REPLAY, Instance, Revision, Round, Task, canonical_json, prompt_text
from selfinstruct_hub.release import read_manifest, rejections, rows, shards, stored
from selfinstruct_hub.release.columns import ALIGNED, COLUMNS
from selfinstruct_hub.workspace import Workspace
from tests.support.tgi import Server, running, write_steps

Rows = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with rows of every kind: two recipes, several instances a task, lost ones, imported tasks with
    instances and without, texts that look like JSON."""
    path = tmp_path_factory.mktemp("shards")
    with running(Server()) as server, running(Server(answer=write_steps)) as steps:
        space = Workspace.create(path / "w", config.Settings())
        asked = {"tasks": 9, "endpoint.url": server.url, "endpoint.concurrency": 1}
        run.grow(space, config.with_overrides(space.settings(), asked))
        several = {**asked, "recipe": "self-instruct", "tasks": 14, "endpoint.url": steps.url}
        run.grow(space, config.with_overrides(space.settings(), several))
        odd = '"],["a","b"]],"instruction":"x","is_classification":null}'
        tasks = [
            {
                "instruction": f"Tell me about {odd} here.",
                "input": odd,
                "output": '],["\u2028\\\x00\U0001f600\r\n',
            },
            {"instruction": "Sort these words by their length.", "input": "", "output": "]],"},
            {"instruction": "Do it.", "input": "", "output": "x"},
        ]
        (path / "alpaca.json").write_text(json.dumps(tasks))
        import_file(space, path / "alpaca.json")
        bare = {"instruction": "Weigh the cost of a bridge across the bay.", "most_similar": {}, "request_idx": 1}
        bare |= {"avg_similarity_score": 0.0, "instruction_metadata": {}}
        (path / "machine.jsonl").write_text(json.dumps(bare))
        import_file(space, path / "machine.jsonl", format="machine_generated_instructions")
    return space


def read(folder: Path) -> Rows:
    found: Rows = {name: [] for name in COLUMNS}
    for file in read_manifest(folder)["files"]:
        if "config" in file:
            found[file["config"]] += pq.ParquetFile(folder / file["path"]).read().to_pylist()
    return found


def expected(pool: Pool) -> Rows:
    """The rows of all rounds, one by one out of the records."""
    found: Rows = defaultdict(list)
    instructions = {task.id: task.instruction for task in pool.seeds()}
    for round_ in pool.rounds():
        instructions.update((task.id, task.instruction) for task in pool.tasks(round_.number))
        calls = {
            (request.number, request.call): (request, answer)
            for request, answer in pool.completions(round_.number)
        }
        for verdict in pool.verdicts(round_.number):
            for row in _rejected(verdict, instructions):
                found["rejected"].append(row)
            if verdict.task is None:
                continue
            made = [calls[verdict.number, call] for call in verdict.candidate.calls if calls]
            assert verdict.similarity is not None
            stages = [
                {
                    "stage": request.stage,
                    "call": request.call,
                    "decoding": canonical_json(request.decoding.as_dict()),
                    "finish_reason": answer.finish_reason,
                    "prompt_tokens": answer.prompt_tokens,
                    "generated_tokens": answer.generated_tokens,
                    "shown": list(request.demonstrations),
                }
                for request, answer in made
            ]
            first: dict[str, Any] = stages[0] if stages else defaultdict(lambda: None, shown=[])
            for place, (row_id, instance) in enumerate(verdict.task.rows):
                text = {"input": instance.input, "output": instance.output}
                asked = prompt_text(verdict.task.instruction, instance.input)
                found["default"].append(
                    {"id": row_id, "instruction": verdict.task.instruction, **text, "round": round_.number}
                )
                chat = [{"role": "user", "content": asked}, {"role": "assistant", "content": instance.output}]
                found["messages"].append({"id": row_id, "messages": chat})
                found["provenance"].append(
                    {
                        "id": row_id,
                        "task_id": verdict.task.id,
                        "instance": place,
                        "round": round_.number,
                        "request": verdict.number,
                        "candidate": verdict.position,
                        "recipe": round_.settings["recipe"],
                        "is_classification": verdict.task.is_classification,
                        "model": made[0][1].model if made else None,
                        "endpoint_kind": made[0][1].endpoint_kind if made else None,
                        **{name: first[name] for name in ("decoding", "finish_reason", "prompt_tokens")},
                        "generated_tokens": first["generated_tokens"],
                        "parents": first["shown"],
                        "stages": stages,
                        "nearest": [{"id": near.id, "score": near.score} for near in verdict.similarity.nearest],
                        "mean_similarity": verdict.similarity.mean,
                        "revisions": [],
                    }
                )
    return found


def _rejected(verdict: Any, instructions: dict[str, str]) -> Iterator[dict[str, Any]]:
    common = {
        "round": verdict.round,
        "request": verdict.number,
        "candidate": verdict.position,
        "instruction": verdict.candidate.instruction,
        "stage": verdict.candidate.stage,
    }
    lost = [(_text(one.instance, one.drop.reason), one.drop) for one in verdict.lost]
    if verdict.task:
        nothing = dict.fromkeys(("neighbour_id", "neighbour", "score"))
        for instance, drop in lost:
            said = {"reason": drop.reason, "detail": drop.detail, "task_id": verdict.task.id, **nothing}
            yield {**common, "instances": [instance], **said}
    if verdict.drop:
        gone = [one.instance for one in verdict.lost]
        others = [_text(i, None) for i in verdict.candidate.instances if i not in gone]
        near = verdict.similarity.nearest[0] if verdict.similarity and verdict.similarity.nearest else None
        yield {
            **common,
            "instances": others + [instance for instance, _ in lost],
            "reason": verdict.drop.reason,
            "detail": verdict.drop.detail,
            "task_id": None,
            "neighbour_id": near.id if near else None,
            "neighbour": instructions[near.id] if near else None,
            "score": near.score if near else None,
        }


def _text(instance: Instance, reason: str | None) -> dict[str, Any]:
    return {"input": instance.input, "output": instance.output, "reason": reason}


def test_every_row_of_every_config_is_what_the_records_say(
    grown: Workspace, monkeypatch: Any, tmp_path: Path
) -> None:
    with Pool.open(grown.pool_file, read_only=True) as pool:
        wanted, newest = expected(pool), pool.rounds()[-1].version
        # Batches that end inside of draws and of tasks with several rows.
        monkeypatch.setattr(rows, "BATCH", 3)
        shards.write(tmp_path, pool, pool.rounds(), known={}, rows_per_shard=5)
    for found in (read(grown.releases / newest), _read_all(tmp_path)):
        for name in ("default", "messages", "provenance", "rejected"):
            assert found[name] == wanted[name], name
        assert len(found["seeds"]) == 175
    kinds = {row["recipe"] for row in wanted["provenance"]}
    assert kinds == {"alpaca", "self-instruct", "import"}
    assert max(row["instance"] for row in wanted["provenance"]) > 0
    assert any(row["task_id"] for row in wanted["rejected"])
    assert any(row["neighbour"] for row in wanted["rejected"])


def _read_all(folder: Path) -> Rows:
    return {
        name: [
            row
            for file in sorted((folder / "data" / name).iterdir())
            for row in pq.ParquetFile(file).read().to_pylist()
        ]
        for name in COLUMNS
    }


def test_a_big_round_becomes_several_shards_cut_at_the_same_rows(grown: Workspace, tmp_path: Path) -> None:
    limit = 4
    with Pool.open(grown.pool_file, read_only=True) as pool:
        entries = shards.write(tmp_path, pool, pool.rounds()[:2], known={}, rows_per_shard=limit)
        again = shards.write(tmp_path / "again", pool, pool.rounds()[:2], known={}, rows_per_shard=limit)
        total = [pool.counts(number)["rows"] for number in (1, 2)]
    assert again == entries  # digests and all
    assert {str(p.relative_to(tmp_path)) for p in (tmp_path / "data").rglob("*.*")} == {e["path"] for e in entries}
    for number, name in itertools.product((1, 2), ALIGNED):
        files = [entry for entry in entries if (entry["config"], entry["round"]) == (name, number)]
        count = -(-total[number - 1] // limit)
        assert [file["path"] for file in files] == [
            f"data/{name}/train-round-{number:04d}-{place:05d}-of-{count:05d}.parquet" for place in range(count)
        ]
        assert [file["rows"] for file in files[:-1]] == [limit] * (count - 1)
        assert sum(file["rows"] for file in files) == total[number - 1]


def test_a_later_release_copies_all_shards_of_a_round(grown: Workspace, tmp_path: Path) -> None:
    with Pool.open(grown.pool_file, read_only=True) as pool:
        first = shards.write(tmp_path / "a", pool, pool.rounds()[:1], known={}, rows_per_shard=4)
        known: dict[Any, Any] = defaultdict(list)
        for entry in first:
            known[entry["config"], entry["round"]].append((tmp_path / "a" / entry["path"], entry))
        second = shards.write(tmp_path / "b", pool, pool.rounds()[:2], known=dict(known))
    of_first = [entry for entry in second if entry["round"] in (1, None)]
    assert sorted(of_first, key=lambda e: e["path"]) == sorted(first, key=lambda e: e["path"])
    for entry in of_first:
        assert (tmp_path / "b" / entry["path"]).read_bytes() == (tmp_path / "a" / entry["path"]).read_bytes()


def test_a_write_that_fails_is_told_and_leaves_nothing_open(
    grown: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Any, table: Any) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", broken)
    with Pool.open(grown.pool_file, read_only=True) as pool, pytest.raises(OSError, match="Input/output"):
        shards.write(tmp_path, pool, pool.rounds(), known={})


def test_what_is_interrupted_leaves_no_thread(grown: Workspace, tmp_path: Path, monkeypatch: Any) -> None:
    """An error in any thread, and Ctrl-C in the caller's, end all of them."""
    monkeypatch.setattr(rows, "BATCH", 2)
    before = threading.active_count()

    for place, name, error in (
        (stored, "row_ids", KeyboardInterrupt),  # in the caller's
        (stored, "tasks", ZeroDivisionError),
        (stored.Neighbours, "column", ZeroDivisionError),
        (stored, "candidates", ZeroDivisionError),
    ):

        def stopped(*_: Any, error: Any = error) -> Any:
            raise error

        with monkeypatch.context() as patch, Pool.open(grown.pool_file, read_only=True) as pool:
            patch.setattr(place, name, stopped)
            with pytest.raises(error):
                shards.write(tmp_path / name, pool, pool.rounds(), known={}, rows_per_shard=5)
        assert threading.active_count() == before


def test_tables_that_are_written_are_shown(grown: Workspace, tmp_path: Path) -> None:
    shown: dict[str, list[str]] = defaultdict(list)

    def watch(tables: Any) -> None:
        for name, table in tables.items():
            shown[name] += [str(row) for row in table.to_pylist()]

    with Pool.open(grown.pool_file, read_only=True) as pool:
        shards.write(tmp_path, pool, pool.rounds(), known={}, watch=watch)
    written = _read_all(tmp_path)
    for name in (*ALIGNED, "rejected"):
        assert shown[name] == [str(row) for row in written[name]], name


@pytest.mark.parametrize("odd", [False, True])
def test_rejected_candidates_are_read_by_arrow_as_by_python(grown: Workspace, odd: bool) -> None:
    with Pool.open(grown.pool_file, read_only=True) as pool:
        (batch,) = pool.rejected_columns(2, 1000)
    if odd:  # no candidate of which Arrow could make columns
        batch = [(*row[:3], row[3].replace('"instances":', '"instances":1,"other":'), *row[4:]) for row in batch]
        batch = [row for row in batch if row[4] is None and row[8] == "[]"]
        assert batch
        assert rejections._plain(2, batch) is None
        return
    whole, (one_by_one, _) = rejections._rejected(2, batch), rejections._one_by_one(2, batch)
    assert whole.equals(one_by_one)
    assert whole.nbytes == one_by_one.nbytes


@pytest.mark.parametrize(
    "spoil",
    [
        *("ids = ids || ids", "ids = NULL", "calls = '[77]'", "calls = '[x'", 'nearest = \'[["a","b"]]\''),
        *("nearest = '['", "task = '[]'", "task = substr(task, 2)", "revised = '{'", "revised = '[[3]]'"),
    ],
)
def test_what_was_spoilt_is_no_row(grown: Workspace, tmp_path: Path, spoil: str) -> None:
    spoilt = tmp_path / "pool.sqlite3"
    shutil.copy(grown.pool_file, spoilt)
    with Pool.open(spoilt) as pool:
        pool._rows(f"UPDATE verdicts SET {spoil} WHERE round = 2 AND task IS NOT NULL")
        with pytest.raises(PoolError, match=r"pool\.sqlite3: the pool is damaged \(.*restore it") as error:
            shards.write(tmp_path / "r", pool, pool.rounds(), known={})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("spoil", ["candidate = '[]'", "nearest = '[[]]'", "lost = '[[1]]'"])
def test_what_was_spoilt_is_not_rejected_either(grown: Workspace, tmp_path: Path, spoil: str) -> None:
    spoilt = tmp_path / "pool.sqlite3"
    shutil.copy(grown.pool_file, spoilt)
    with Pool.open(spoilt) as pool:
        pool._rows(f"UPDATE verdicts SET {spoil} WHERE round = 2 AND task IS NULL")
        with pytest.raises(PoolError, match=r"pool\.sqlite3: the pool is damaged"):
            shards.write(tmp_path / "r", pool, pool.rounds(), known={})


def test_batches_of_a_version_that_was_revised_since(grown: Workspace, tmp_path: Path) -> None:
    place = tmp_path / "pool.sqlite3"
    shutil.copy(grown.pool_file, place)
    with Pool.open(place) as pool:
        (now,) = pool.accepted_columns(2, 1000)
        revision = Revision(1, "v9.0.1", REPLAY, len(pool.rounds()), (2,), {}, {})
        pool.replace_rounds(revision, {2: iter(())}, {})
        assert not list(pool.accepted_columns(2, 1000))
        with pool.as_of(0):
            assert list(pool.accepted_columns(2, 1000)) == [now]
            batches = list(pool.accepted_columns(2, 3))
        assert [len(one.numbers) for one in batches[:-1]] == [3] * (len(batches) - 1)
        assert "".join(one.ids for one in batches) == now.ids


def test_seeds_that_look_the_same_to_sqlite_are_told_once(grown: Workspace, tmp_path: Path) -> None:
    place = tmp_path / "pool.sqlite3"
    shutil.copy(grown.pool_file, place)
    with Pool.open(place) as pool:
        before = [row for batch in pool.rejected_columns(1, 99) for row in batch]
        pool._rows("INSERT INTO seeds SELECT position + 1000, task FROM seeds")
        assert [row for batch in pool.rejected_columns(1, 99) for row in batch] == before


@pytest.mark.parametrize(
    "spoil", [None, "mean = 1e-200", "nearest = '[]'", "mean = NULL", "nearest = '[[\"[\",1]]'"]
)
def test_texts_are_put_together_by_sqlite_as_by_python(
    grown: Workspace, tmp_path: Path, spoil: str | None
) -> None:
    place = tmp_path / "pool.sqlite3"
    shutil.copy(grown.pool_file, place)
    with Pool.open(place) as pool:
        if spoil:
            pool._rows(f"UPDATE verdicts SET {spoil} WHERE number % 2 AND task IS NOT NULL")
        everything = {"number": -1, "position": -1, "last_number": 99, "last_position": 0}
        for round_ in pool.rounds():
            values = {"round": round_.number, **everything}
            together, one_by_one = (
                published._together(pool._rows, values),
                published._one_by_one(pool._rows, values),
            )
            inexact = spoil == "mean = 1e-200" and any(number % 2 for number in one_by_one.numbers)
            assert (together is None) == inexact
            for name, column in vars(one_by_one).items():
                found = vars(together or one_by_one)[name]
                assert list(found) == list(column), name
            numbers = list(one_by_one.numbers)
            batches = [list(one.numbers) for one in pool.accepted_columns(round_.number, 3)]
            assert batches == [numbers[at : at + 3] for at in range(0, len(numbers), 3)]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="sqlite3 has no limits")
def test_more_texts_than_sqlite_puts_together(grown: Workspace, tmp_path: Path) -> None:
    with Pool.open(grown.pool_file, read_only=True) as pool:
        usual = shards.write(tmp_path / "usual", pool, pool.rounds(), known={})
        longest = max(len(task.instances[0].output) for task in pool.tasks(1)) + 2000
        getattr(pool._db, "setlimit")(getattr(sqlite3, "SQLITE_LIMIT_LENGTH"), longest)  # noqa: B009 - from 3.11 on
        values = {"round": 1, "number": -1, "position": -1, "last_number": 99, "last_position": 0}
        assert published._together(pool._rows, values) is None
        assert shards.write(tmp_path / "long", pool, pool.rounds(), known={}) == usual


def test_imported_instructions_without_instances_are_no_rows(grown: Workspace) -> None:
    with Pool.open(grown.pool_file, read_only=True) as pool:
        last: Round = pool.rounds()[-1]
        assert [len(task.instances) for task in pool.tasks(last.number)] == [0]
        assert not list(rows.accepted(pool, last))


texts = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(
    [
        '"],["',
        "],[",
        '","',
        "]],",
        '"',
        "\\",
        '\\"',
        ']],"instruction":',
        ',"is_classification":',
        '"instances":[[',
    ]
)
tasks = st.builds(
    lambda key, instruction, pairs, kind: Task(key, instruction, tuple(Instance(*p) for p in pairs), kind),
    st.just("0" * 16) | texts,
    texts,
    st.lists(st.tuples(texts, texts), max_size=3),
    st.sampled_from([None, True, False]),
)


@given(st.lists(tasks, min_size=1, max_size=4))
def test_ids_and_texts_are_those_of_the_records(some: list[Task]) -> None:
    texts = [canonical_json(encoding.task_values(task)) for task in some]
    joined = "".join(identities.row_ids(text) for text in texts)
    assert identities.separate(joined) == stored.row_ids(joined).to_pylist()
    assert stored.row_ids(joined).to_pylist() == [row_id for task in some for row_id, _ in task.rows]
    assert [identities.task_id(text) for text in texts] == [task.id for task in some]
    read = stored.tasks("\n".join(texts).encode())
    assert read["instruction"].to_pylist() == [task.instruction for task in some]
    assert read["instances"].to_pylist() == [[[i.input, i.output] for i in task.instances] for task in some]
    assert read["is_classification"].to_pylist() == [task.is_classification for task in some]


@given(st.lists(st.lists(st.tuples(texts, st.floats(0, 1)), max_size=3), min_size=1, max_size=4))
def test_neighbours_are_read_exactly(some: list[list[tuple[str, float]]]) -> None:
    column = stored.Neighbours.of([canonical_json(near) for near in some]).column()
    assert column.to_pylist() == [[{"id": key, "score": score} for key, score in near] for near in some]
