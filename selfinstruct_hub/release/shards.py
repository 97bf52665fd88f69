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
from selfinstruct_hub.records import Round, Task, canonical_json
from selfinstruct_hub.seeds import as_row

SPLIT = "train"
_BATCH = 8192

# A column is a dtype's name, a list holding one element, or a dict of fields: the same notation that the
# loading script and the card read.
_INSTANCES = [{"input": "string", "output": "string"}]
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
        "nearest": [{"id": "string", "score": "float64"}],
        "mean_similarity": "float64",
    },
    "rejected": {
        "round": "int32",
        "request": "int32",
        "candidate": "int32",
        "instruction": "string",
        "instances": _INSTANCES,
        "reason": "string",
        "detail": "string",
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
    entries = []
    for round_ in rounds:
        # A rejected candidate's neighbour is a seed or a task accepted before it, so up to this round.
        for verdict in pool.verdicts(round_.number, accepted=True):
            assert verdict.task is not None
            instructions[verdict.task.id] = verdict.task.instruction
        sources: dict[str, Callable[[Pool, Round], Rows]] = {
            "default": _default,
            "messages": _messages,
            "provenance": _provenance,
            "rejected": lambda pool, round_: _rejected(pool, round_, instructions),
        }
        for name, rows in sources.items():
            path = f"data/{name}/{SPLIT}-round-{round_.number:04d}-00000-of-00001.parquet"
            entries.append(
                _copied(folder, path, known) or _written(folder, path, name, round_.number, rows(pool, round_))
            )
    path = f"data/seeds/{SPLIT}-00000-of-00001.parquet"
    seeds = (as_row(task) for task in pool.seeds())
    entries.append(_copied(folder, path, known) or _written(folder, path, "seeds", None, seeds))
    return entries


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


def prompt_text(instruction: str, given: str) -> str:
    """What a user would say: the instruction, and the input below it where there is one."""
    return f"{instruction}\n\n{given}" if given else instruction


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


def _written(folder: Path, path: str, name: str, round_number: int | None, rows: Rows) -> dict[str, Any]:
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


def _accepted(pool: Pool, round_: Round) -> Iterator[tuple[Any, Task]]:
    for verdict in pool.verdicts(round_.number, accepted=True):
        assert verdict.task is not None
        yield verdict, verdict.task


def _default(pool: Pool, round_: Round) -> Rows:
    for _, task in _accepted(pool, round_):
        for row_id, instance in task.rows:
            yield {
                "id": row_id,
                "instruction": task.instruction,
                "input": instance.input,
                "output": instance.output,
                "round": round_.number,
            }


def _messages(pool: Pool, round_: Round) -> Rows:
    for _, task in _accepted(pool, round_):
        for row_id, instance in task.rows:
            yield {
                "id": row_id,
                "messages": [
                    {"role": "user", "content": prompt_text(task.instruction, instance.input)},
                    {"role": "assistant", "content": instance.output},
                ],
            }


def _provenance(pool: Pool, round_: Round) -> Rows:
    completions = pool.completions(round_.number)
    request = completion = None
    for verdict, task in _accepted(pool, round_):
        # Both run in request order; the first call of a draw is the one that wrote the instruction.
        while request is None or request.number != verdict.number:
            request, completion = next(completions)
        assert completion is not None
        for number, (row_id, _) in enumerate(task.rows):
            yield {
                "id": row_id,
                "task_id": task.id,
                "instance": number,
                "round": round_.number,
                "request": verdict.number,
                "candidate": verdict.position,
                "recipe": round_.settings["recipe"],
                "is_classification": task.is_classification,
                "model": completion.model,
                "endpoint_kind": completion.endpoint_kind,
                "decoding": canonical_json(request.decoding.as_dict()),
                "finish_reason": completion.finish_reason,
                "prompt_tokens": completion.prompt_tokens,
                "generated_tokens": completion.generated_tokens,
                "parents": list(request.demonstrations),
                "nearest": [{"id": n.id, "score": n.score} for n in verdict.similarity.nearest],
                "mean_similarity": verdict.similarity.mean,
            }


def _rejected(pool: Pool, round_: Round, instructions: dict[str, str]) -> Rows:
    for verdict in pool.verdicts(round_.number, accepted=False):
        assert verdict.drop is not None
        nearest = verdict.similarity.nearest[0] if verdict.similarity.nearest else None
        yield {
            "round": round_.number,
            "request": verdict.number,
            "candidate": verdict.position,
            "instruction": verdict.candidate.instruction,
            "instances": [{"input": i.input, "output": i.output} for i in verdict.candidate.instances],
            "reason": verdict.drop.reason,
            "detail": verdict.drop.detail,
            "neighbour_id": nearest.id if nearest else None,
            "neighbour": instructions.get(nearest.id) if nearest else None,
            "score": nearest.score if nearest else None,
        }
