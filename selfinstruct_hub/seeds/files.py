"""Seed files in Self-Instruct's format, JSONL or one JSON array: read whole or refused with place and field."""

from __future__ import annotations

from pathlib import Path

from selfinstruct_hub import rows
from selfinstruct_hub.errors import SeedError
from selfinstruct_hub.languages import Language
from selfinstruct_hub.records import Instance, Task
from selfinstruct_hub.seeds.script import check_script

# Text is expected; these would only be called broken text.
_NO_TEXT = {".arrow", ".csv", ".gz", ".parquet", ".tsv", ".zip"}


def read(path: Path, language: Language | None = None) -> list[Task]:
    """The seed tasks in `path`, in file order.

    Raises SeedError naming file, row and field for the first row that is broken, for repeated ids and
    instructions, and for a file without rows; with a `language` also for an instruction in another script.
    """
    if path.suffix.lower() in _NO_TEXT:
        raise SeedError(
            f"{path}: a seed file is JSONL; to read this one by its columns, put it in a folder of its own and "
            "set `seeds` to the folder"
        )
    tasks: list[Task] = []
    ids: dict[str, str] = {}  # id -> the place of its row
    instructions: dict[str, str] = {}
    for row in rows.read(path, SeedError, what="a seed task").rows:
        fields = row.fields(SeedError)
        task = _task(fields)
        for what, value, seen in (("id", task.id, ids), ("instruction", task.instruction, instructions)):
            if value in seen:
                raise SeedError(f"{fields.where}: `{what}` repeats {seen[value]}; every seed task needs its own")
            seen[value] = row.place
        check_script(task.instruction, language, f"{fields.where}, field `instruction`")
        tasks.append(task)
    if not tasks:
        raise SeedError(
            f"{path}: no seed tasks in it; expected one JSON object a line, or one JSON array of objects"
        )
    return tasks


def _task(fields: rows.Fields) -> Task:
    instruction = fields.filled("instruction")
    if "instances" not in fields.values and "output" in fields.values:
        raise SeedError(
            f"{fields.where}: field `instances` is missing, but there is `output`; to read such rows by their "
            "columns, put the file in a folder of its own and set `seeds` to the folder"
        )
    instances = fields.objects("instances", "input and output")
    if not instances:
        raise SeedError(
            f"{fields.where}, field `instances`: empty; a seed task needs at least one worked instance"
        )
    return Task(
        id=fields.filled("id"),
        name=fields.text("name") if isinstance(fields.values.get("name"), str) else "",
        instruction=instruction,
        instances=tuple(Instance(i.text("input").strip(), i.filled("output")) for i in instances),
        is_classification=fields.truth("is_classification"),
    )
