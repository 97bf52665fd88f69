"""Reads seed files into Tasks: one JSON object a line in Self-Instruct's seed format.

    {"id": "seed_task_0", "name": "...", "instruction": "...",
     "instances": [{"input": "...", "output": "..."}], "is_classification": false}

A file is read whole or refused, with file, line and field; nothing is repaired or skipped in silence.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from selfinstruct_hub import assets
from selfinstruct_hub.errors import SeedError
from selfinstruct_hub.records import Instance, Task, digest


def locate(seeds: str | None, language: str, beside: Path) -> Path:
    """The seed file that the settings name: `seeds` relative to the folder `beside`, or ours for `language`.

    Raises SeedError where there is none.
    """
    if seeds is not None:
        path = (beside / Path(seeds).expanduser()).resolve()
        if not path.is_file():
            raise SeedError(f"{path}: no such seed file; set `seeds` to a JSONL of seed tasks")
        return path
    path = assets.folder("seeds") / f"{language}.jsonl"
    if not path.is_file():
        known = ", ".join(assets.seed_languages())
        raise SeedError(
            f"no seed tasks of ours for language `{language}` (there are: {known}); set `seeds` to a file of yours"
        )
    return path


def read(path: Path) -> list[Task]:
    """The seed tasks in `path`, in file order.

    Raises SeedError naming file, line and field for the first row that is broken, for repeated ids and
    instructions, and for a file without rows.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        broken = path.read_bytes()[: error.start].count(b"\n") + 1
        raise SeedError(f"{path}, line {broken}: not UTF-8 text; save the file as UTF-8") from None
    except OSError as error:
        raise SeedError(f"{path}: cannot be read ({error.strerror})") from None
    tasks: list[Task] = []
    ids: dict[str, int] = {}
    instructions: dict[str, int] = {}
    # Only "\n" ends a JSONL line; str.splitlines would also break at U+2028 inside a text.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise SeedError(
                f"{place}: not valid JSON ({error.msg} at column {error.colno}); expected one object a line"
            ) from None
        except (ValueError, RecursionError):  # a number of thousands of digits, nesting without end
            raise SeedError(f"{place}: not a seed task (a value in it cannot be read)") from None
        task = _task(row, place)
        for what, value, seen in (("id", task.id, ids), ("instruction", task.instruction, instructions)):
            if value in seen:
                raise SeedError(f"{place}: `{what}` repeats line {seen[value]}; every seed task needs its own")
            seen[value] = number
        tasks.append(task)
    if not tasks:
        raise SeedError(f"{path}: no seed tasks in it; expected one JSON object a line")
    return tasks


def fingerprint(tasks: list[Task]) -> str:
    """A digest of seed tasks and their order, to notice that a seed file has changed."""
    return digest(*(as_row(task) for task in tasks))


def as_row(task: Task) -> dict[str, Any]:
    """`task` in the seed format."""
    return {
        "id": task.id,
        "name": task.name,
        "instruction": task.instruction,
        "instances": [{"input": i.input, "output": i.output} for i in task.instances],
        "is_classification": bool(task.is_classification),
    }


def _task(row: Any, place: str) -> Task:
    if not isinstance(row, dict):
        raise SeedError(f"{place}: expected a JSON object, found {_kind(row)}")
    instruction = _text(row, "instruction", place)
    instances = _field(row, "instances", list, place)
    if not instances:
        raise SeedError(f"{place}, field `instances`: empty; a seed task needs at least one worked instance")
    parsed = []
    for number, instance in enumerate(instances):
        inner = f"{place}, field `instances[{number}]`"
        if not isinstance(instance, dict):
            raise SeedError(f"{inner}: expected an object with input and output, found {_kind(instance)}")
        given = _field(instance, "input", str, inner)
        parsed.append(Instance(input=given.strip(), output=_text(instance, "output", inner)))
    return Task(
        id=_text(row, "id", place),
        name=row["name"] if isinstance(row.get("name"), str) else "",
        instruction=instruction,
        instances=tuple(parsed),
        is_classification=_field(row, "is_classification", bool, place),
    )


def _field(row: dict[str, Any], name: str, kind: type, place: str) -> Any:
    wanted = {str: "a text", list: "a list", bool: "true or false"}[kind]
    if name not in row:
        raise SeedError(f"{place}: field `{name}` is missing; expected {wanted}")
    if not isinstance(row[name], kind):
        raise SeedError(f"{place}, field `{name}`: expected {wanted}, found {_kind(row[name])}")
    if kind is str and not row[name].isascii() and any("\ud800" <= c <= "\udfff" for c in row[name]):
        raise SeedError(f"{place}, field `{name}`: holds half a character (a lone surrogate); write the whole one")
    return row[name]


def _text(row: dict[str, Any], name: str, place: str) -> str:
    value: str = _field(row, name, str, place)
    if not value.strip():
        raise SeedError(f"{place}, field `{name}`: empty; expected a text")
    return value.strip()


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
