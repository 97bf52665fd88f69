"""The columns of every config, with their types. Reads and writes nothing.

A column is a dtype's name, a list holding one element, or a dict of fields: the notation that the card, the
loading script and the shards share.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

SPLIT = "train"

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
# What revisions made of a row, the earliest first: `replaces` is the id of the row that it was before, `note` what
# a person said; the rest tells of the answer that brought a regenerated row.
_REVISION = {
    "version": "string",
    "kind": "string",
    "replaces": "string",
    "note": "string",
    "model": "string",
    "endpoint_kind": "string",
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
        "revisions": [_REVISION],
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
# These three tell of the same rows, in the same order; what one round adds to them lies in files that begin and
# end with the same rows.
ALIGNED = ("default", "messages", "provenance")

_DTYPES = {"bool": pa.bool_(), "string": pa.string(), "int32": pa.int32(), "float64": pa.float64()}


def schema(name: str) -> Any:
    """The Arrow schema of a config."""
    return pa.schema([(column, arrow(kind)) for column, kind in COLUMNS[name].items()])


def arrow(kind: Any) -> Any:
    """The Arrow type of a column."""
    if isinstance(kind, dict):
        return pa.struct([(name, arrow(inner)) for name, inner in kind.items()])
    if isinstance(kind, list):
        return pa.list_(arrow(kind[0]))
    return _DTYPES[kind]
