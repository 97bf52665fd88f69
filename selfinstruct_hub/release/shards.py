"""The columns of every config, and the Parquet shards that hold them: one a config and round.

Rows are streamed from the pool in batches, so memory does not grow with a round. Files carry no library
metadata: `datasets` reads the features from the card, and a rebuilt shard is the same bytes.
"""

from __future__ import annotations

import hashlib
import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from selfinstruct_hub.errors import ReleaseError
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.records import (
    Completion,
    Instance,
    Request,
    Round,
    Task,
    Verdict,
    canonical_json,
    prompt_text,
)
from selfinstruct_hub.seeds import as_row

SPLIT = "train"
_BATCH = 8192

# A column is a dtype's name, a list holding one element, or a dict of fields: the same notation that the
# loading script and the card read.
_INSTANCES = [{"input": "string", "output": "string"}]
# `reason` is what was wrong with this instance; null where it was the task that was dropped.
_REJECTED_INSTANCES = [{"input": "string", "output": "string", "reason": "string"}]
# One request of those that made a row. `shown` are the ids of the demonstrations.
_STAGE = {
    "stage": "string",
    "call": "int32",
    "decoding": "string",
    "finish_reason": "string",
    "prompt_tokens": "int32",
    "generated_tokens": "int32",
    "shown": ["string"],
}
COLUMNS: dict[str, dict[str, Any]] = {
    "default": {"id": "string", "instruction": "string", "input": "string", "output": "string", "round": "int32"},
    "messages": {"id": "string", "messages": [{"role": "string", "content": "string"}]},
    "provenance": {
        "id": "string",
        "task_id": "string",
        "instance": "int32",
        "round": "int32",
        "request": "int32",
        "candidate": "int32",
        "recipe": "string",
        "is_classification": "bool",
        "model": "string",
        "endpoint_kind": "string",
        "decoding": "string",
        "finish_reason": "string",
        "prompt_tokens": "int32",
        "generated_tokens": "int32",
        "parents": ["string"],
        "stages": [_STAGE],
        "nearest": [{"id": "string", "score": "float64"}],
        "mean_similarity": "float64",
    },
    "rejected": {
        "round": "int32",
        "request": "int32",
        "candidate": "int32",
        "instruction": "string",
        "instances": _REJECTED_INSTANCES,
        "stage": "string",
        "reason": "string",
        "detail": "string",
        "task_id": "string",
        "neighbour_id": "string",
        "neighbour": "string",
        "score": "float64",
    },
    "seeds": {
        "id": "string",
        "name": "string",
        "instruction": "string",
        "instances": _INSTANCES,
        "is_classification": "bool",
    },
}

Rows = Iterator[dict[str, Any]]


def write(
    folder: Path, pool: Pool, rounds: list[Round], *, known: dict[str, tuple[Path, dict[str, Any]]]
) -> list[dict[str, Any]]:
    """Writes every shard of `rounds` below `folder`, copying those that are `known` (by path: file and its
    entry). Returns their manifest entries: path, config, round, rows, memory_bytes, bytes, sha256."""
    instructions = {task.id: task.instruction for task in pool.seeds()}
    entries: list[dict[str, Any] | None] = []
    for round_ in rounds:
        # A rejected candidate's neighbour is a seed or a task accepted before it, so up to this round.
        instructions.update((task.id, task.instruction) for task in pool.tasks(round_.number))
        sources: dict[str, Callable[[Pool, Round], Rows]] = {
            "default": _default,
            "messages": _messages,
            "provenance": _provenance,
            "rejected": lambda pool, round_: _rejected(pool, round_, instructions),
        }
        for name, rows in sources.items():
            path = f"data/{name}/{SPLIT}-round-{round_.number:04d}-00000-of-00001.parquet"
            entry = _copied(folder, path, known)
            entries.append(entry or _written(folder, path, name, round_.number, rows(pool, round_)))
    path = f"data/seeds/{SPLIT}-00000-of-00001.parquet"
    seeds = (as_row(task) for task in pool.seeds())
    entries.append(_copied(folder, path, known) or _written(folder, path, "seeds", None, seeds))
    return [entry for entry in entries if entry is not None]


def schema(name: str) -> Any:
    """The Arrow schema of a config."""
    return pa.schema([(column, _arrow(kind)) for column, kind in COLUMNS[name].items()])


def measure(path: Path) -> dict[str, Any]:
    """Size in bytes and SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def _arrow(kind: Any) -> Any:
    if isinstance(kind, dict):
        return pa.struct([(name, _arrow(inner)) for name, inner in kind.items()])
    if isinstance(kind, list):
        return pa.list_(_arrow(kind[0]))
    return {"bool": pa.bool_(), "string": pa.string(), "int32": pa.int32(), "float64": pa.float64()}[kind]


def _copied(folder: Path, path: str, known: dict[str, tuple[Path, dict[str, Any]]]) -> dict[str, Any] | None:
    if path not in known:
        return None
    source, entry = known[path]
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    if measure(target)["sha256"] != entry["sha256"]:
        raise ReleaseError(f"{source}: has changed since it was released; restore it from a copy")
    return entry


def _written(folder: Path, path: str, name: str, round_number: int | None, rows: Rows) -> dict[str, Any] | None:
    """The entry of a shard; None where there is no row, because `datasets` refuses a config whose first shard
    is empty."""
    first = next(rows, None)
    if first is None:
        return None
    rows = itertools.chain([first], rows)
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    arrow_schema = schema(name)
    count = memory = 0
    with pq.ParquetWriter(
        target, arrow_schema, compression="zstd", store_schema=False, use_content_defined_chunking=True
    ) as writer:
        while batch := list(itertools.islice(rows, _BATCH)):
            table = pa.Table.from_pylist(batch, schema=arrow_schema)
            writer.write_table(table)
            count += table.num_rows
            memory += table.nbytes
    return {
        "path": path,
        "config": name,
        "round": round_number,
        "rows": count,
        "memory_bytes": memory,
        **measure(target),
    }


def _accepted(pool: Pool, round_: Round) -> Iterator[tuple[Verdict, Task]]:
    for verdict in pool.verdicts(round_.number, accepted=True):
        assert verdict.task is not None
        yield verdict, verdict.task


def _default(pool: Pool, round_: Round) -> Rows:
    for task in pool.tasks(round_.number):
        for row_id, instance in task.rows:
            yield {
                "id": row_id,
                "instruction": task.instruction,
                "input": instance.input,
                "output": instance.output,
                "round": round_.number,
            }


def _messages(pool: Pool, round_: Round) -> Rows:
    for task in pool.tasks(round_.number):
        for row_id, instance in task.rows:
            yield {
                "id": row_id,
                "messages": [
                    {"role": "user", "content": prompt_text(task.instruction, instance.input)},
                    {"role": "assistant", "content": instance.output},
                ],
            }


def _provenance(pool: Pool, round_: Round) -> Rows:
    """What is told of the first request stands in columns of its own; it is the one that wrote the instruction. An
    imported row has none."""
    draws = itertools.groupby(pool.completions(round_.number), key=lambda answered: answered[0].number)
    number, calls = -1, dict[int, tuple[Request, Completion]]()
    for verdict, task in _accepted(pool, round_):
        # Both run in request order.
        while number < verdict.number and (following := next(draws, None)):
            number, calls = following[0], {request.call: (request, answer) for request, answer in following[1]}
        made = [calls[call] for call in verdict.candidate.calls if number == verdict.number]
        request, completion = made[0] if made else (None, None)
        similarity = verdict.similarity
        assert similarity is not None, "novelty was measured before anything was accepted"
        for place, (row_id, _) in enumerate(task.rows):
            yield {
                "id": row_id,
                "task_id": task.id,
                "instance": place,
                "round": round_.number,
                "request": verdict.number,
                "candidate": verdict.position,
                "recipe": round_.settings["recipe"],
                "is_classification": task.is_classification,
                "model": completion.model if completion else None,
                "endpoint_kind": completion.endpoint_kind if completion else None,
                "decoding": _decoding(request) if request else None,
                "finish_reason": completion.finish_reason if completion else None,
                "prompt_tokens": completion.prompt_tokens if completion else None,
                "generated_tokens": completion.generated_tokens if completion else None,
                "parents": list(request.demonstrations) if request else [],
                "stages": [_stage(*one) for one in made],
                "nearest": [{"id": n.id, "score": n.score} for n in similarity.nearest],
                "mean_similarity": similarity.mean,
            }


def _stage(request: Request, completion: Completion) -> dict[str, Any]:
    return {
        "stage": request.stage,
        "call": request.call,
        "decoding": _decoding(request),
        "finish_reason": completion.finish_reason,
        "prompt_tokens": completion.prompt_tokens,
        "generated_tokens": completion.generated_tokens,
        "shown": list(request.demonstrations),
    }


def _decoding(request: Request) -> str:
    return canonical_json(request.decoding.as_dict())


def _rejected(pool: Pool, round_: Round, instructions: dict[str, str]) -> Rows:
    """Candidates that were dropped, and instances that accepted tasks (`task_id`) go on without."""
    for verdict in pool.verdicts(round_.number):
        nearest = verdict.similarity.nearest[0] if verdict.similarity and verdict.similarity.nearest else None
        nearest = (verdict.drop and verdict.drop.near) or nearest  # what decided, if something did
        candidate = verdict.candidate
        common = {
            "round": round_.number,
            "request": verdict.number,
            "candidate": verdict.position,
            "instruction": candidate.instruction,
            "stage": candidate.stage,
        }
        for lost in verdict.lost if verdict.task else ():
            yield {
                **common,
                "instances": [_rejected_instance(lost.instance, lost.drop.reason)],
                "reason": lost.drop.reason,
                "detail": lost.drop.detail,
                "task_id": verdict.task.id if verdict.task else None,
                "neighbour_id": None,
                "neighbour": None,
                "score": None,
            }
        if verdict.drop:
            lost_instances = [_rejected_instance(lost.instance, lost.drop.reason) for lost in verdict.lost]
            gone = [lost.instance for lost in verdict.lost]
            others = [_rejected_instance(i, None) for i in candidate.instances if i not in gone]
            yield {
                **common,
                "instances": others + lost_instances,
                "reason": verdict.drop.reason,
                "detail": verdict.drop.detail,
                "task_id": None,
                "neighbour_id": nearest.id if nearest else None,
                "neighbour": instructions.get(nearest.id) if nearest else None,
                "score": nearest.score if nearest else None,
            }


def _rejected_instance(instance: Instance, reason: str | None) -> dict[str, Any]:
    return {"input": instance.input, "output": instance.output, "reason": reason}
