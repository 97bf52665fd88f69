"""Rows of a dataset into Tasks, by the columns that the settings name. Knows no library and opens nothing.

A row holds one instance; rows of one instruction become one Task. A dataset that has `instances` instead of an
output is in the seed format already and is taken with its own id, name and is_classification:

    {"instruction": "...", "input": "...", "output": "..."}
    {"id": "...", "instruction": "...", "instances": [{"input": "...", "output": "..."}], ...}
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from selfinstruct_hub.config import SeedDataset
from selfinstruct_hub.errors import SeedError
from selfinstruct_hub.languages import Language
from selfinstruct_hub.records import Instance, Task
from selfinstruct_hub.rows import Value, kind
from selfinstruct_hub.seeds.script import check_script

_INSTANCES = "instances"
# The column that is read where the setting stands at its default and a dataset need not have it.
_OPTIONAL_INPUT = SeedDataset().input


@dataclass(frozen=True)
class Columns:
    """The columns that are read. Either `output` or `instances` is set."""

    instruction: str
    input: str | None = None
    output: str | None = None
    instances: str | None = None
    is_classification: str | None = None
    id: str | None = None
    name: str | None = None

    @property
    def read(self) -> list[str]:
        """Their names, each once."""
        return list(dict.fromkeys(name for name in vars(self).values() if name is not None))


@dataclass
class _Draft:
    """A task while its rows come in. `row` is the first of them, `labelled` the one that told
    `is_classification`."""

    id: str
    row: int
    name: str
    instances: dict[Instance, None] = field(default_factory=dict)  # a set that keeps its order
    is_classification: bool | None = None
    labelled: int = 0


def chosen(mapping: SeedDataset, there: Sequence[str], place: str) -> Columns:
    """The columns that `mapping` names. Raises SeedError for one that is not `there`.

    `input: input` is the default, and many datasets have no inputs: that column alone may be missing.
    """

    def needed(setting: str) -> str | None:
        name: str | None = getattr(mapping, setting)
        if name is None or name in there:
            return name
        if setting == "input" and name == _OPTIONAL_INPUT:
            return None
        raise SeedError(
            f"{place}: no column `{name}`; set `seed_dataset.{setting}` (init: --seed-column {setting}=...) to "
            f"one of its columns: {', '.join(there)}"
        )

    def unless_named(setting: str) -> str | None:
        return needed(setting) or (setting if setting in there else None)

    instruction = needed("instruction")
    assert instruction is not None, "the setting takes no null"
    if mapping.output not in there and _INSTANCES in there:
        return Columns(
            instruction,
            instances=_INSTANCES,
            is_classification=unless_named("is_classification"),
            id=unless_named("id"),
            name="name" if "name" in there else None,
        )
    return Columns(
        instruction,
        input=needed("input"),
        output=needed("output"),
        is_classification=needed("is_classification"),
        id=needed("id"),
    )


def tasks(
    rows: Iterable[Mapping[str, Any]],
    columns: Columns,
    labels: Mapping[str, Sequence[str]],
    place: str,
    language: Language | None = None,
) -> list[Task]:
    """The tasks of `rows`, in the order of their first rows. `labels` holds the names of the columns whose
    values are numbers of labels.

    `is_classification` is None where no column tells it; a pool stores that as false. Raises SeedError with
    row (from 1) and column for the first value that cannot be used.
    """
    drafts: dict[str, _Draft] = {}
    owners: dict[str, tuple[str, int]] = {}  # id -> its instruction and row
    for number, row in enumerate(rows, start=1):
        here = f"{place}, row {number}"
        told = _named(row, columns.instruction, labels, here)
        instruction = told.filled()
        check_script(instruction, language, told.place)
        own = None
        if columns.id is not None:
            value = _value(row, columns.id, here)
            own = _id(value)
            owner, first = owners.setdefault(own, (instruction, number))
            if owner != instruction:
                raise SeedError(
                    f"{value.place}: repeats row {first}, which has another instruction; every seed task needs "
                    "its own id"
                )
        name = row[columns.name] if columns.name is not None else None
        draft = drafts.setdefault(
            instruction, _Draft(own or f"seed_{len(drafts)}", number, name if isinstance(name, str) else "")
        )
        draft.instances.update(dict.fromkeys(_instances(row, columns, labels, here)))
        if columns.is_classification is not None:
            _label(draft, _value(row, columns.is_classification, here), number)
    if not drafts:
        raise SeedError(no_rows(place))
    return [
        Task(draft.id, instruction, tuple(draft.instances), draft.is_classification, draft.name)
        for instruction, draft in drafts.items()
    ]


def no_rows(place: str) -> str:
    """What is said of a dataset without rows."""
    return f"{place}: no rows in it; expected one for every worked instance of a seed task"


def _instances(
    row: Mapping[str, Any], columns: Columns, labels: Mapping[str, Sequence[str]], place: str
) -> list[Instance]:
    if columns.output is not None:
        given = _given(_named(row, columns.input, labels, place)) if columns.input is not None else ""
        return [Instance(given, _named(row, columns.output, labels, place).filled())]
    assert columns.instances is not None
    column = _value(row, columns.instances, place)
    if _is_sequence(column.value):
        parts = zip(*column.value.values(), strict=True)
        column = replace(column, value=[dict(zip(column.value, part, strict=True)) for part in parts])
    if not column.of(list):
        raise SeedError(f"{column.place}: empty; a seed task needs at least one worked instance")
    found = []
    for number, instance in enumerate(column.value):
        if not isinstance(instance, dict):
            raise SeedError(f"{column.place}: expected objects with input and output, found {kind(instance)}")
        inner = {
            name: Value(instance.get(name), f"{column.place}, field `[{number}].{name}`", SeedError)
            for name in ("input", "output")
        }
        found.append(Instance(_given(inner["input"]), inner["output"].filled()))
    return found


def _is_sequence(value: Any) -> bool:
    """Whether `value` is a list of objects as `Sequence` of older `datasets` stored it: an object of lists."""
    parts = list(value.values()) if isinstance(value, dict) else []
    return all(isinstance(part, list) for part in parts) and len({len(part) for part in parts}) == 1


def _value(row: Mapping[str, Any], column: str, place: str) -> Value:
    return Value(row[column], f"{place}, column `{column}`", SeedError)


def _named(row: Mapping[str, Any], column: str, labels: Mapping[str, Sequence[str]], place: str) -> Value:
    """The value, or its name where it is the number of a label."""
    found = _value(row, column, place)
    if column not in labels or found.value is None:
        return found
    names = labels[column]
    if not 0 <= found.value < len(names):  # -1 stands for a label that was kept back
        raise SeedError(f"{found.place}: {found.value} is no label; expected 0 to {len(names) - 1}")
    return replace(found, value=names[found.value])


def _given(found: Value) -> str:
    return "" if found.value is None else found.text().strip()


def _id(found: Value) -> str:
    return str(found.value) if type(found.value) is int else found.filled()


def _label(draft: _Draft, found: Value, number: int) -> None:
    value = found.value
    if value is None:
        return
    if value not in (0, 1) or not isinstance(value, int):
        raise SeedError(f"{found.place}: expected true or false, found {kind(value)}")
    if draft.is_classification not in (None, bool(value)):
        raise SeedError(
            f"{found.place}: says another thing than row {draft.labelled}, which has the same instruction"
        )
    draft.is_classification, draft.labelled = bool(value), number
