"""One row of somebody's file as we hold it, and what a format must be able to do with it.

What a row says beyond instruction and instances travels in `Entry.extra`, under names of its own:

    id, name                        of a seed task
    most_similar                    {text: score}, regen's `most_similar_instructions` too
    avg_similarity_score
    metadata, request_idx           of the request that made the instruction
    raw_instances, instance_metadata   the completion that held the instances, and its request's answer
    system                          a chat's system message
    row                             what only one format can use: {"format": its name, "unknown": {key: value},
                                    "absent": [keys that its rows usually have],
                                    "order": [its keys, where the order is not ours],
                                    "instances": [for each instance, its keys beside input and output], ...}

Everything in it is plain JSON data. Another format than that of `row` writes nothing from `row`. No file is read
here, and no format has its rules here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from selfinstruct_hub.records import Instance, Lost
from selfinstruct_hub.rows import Fields

ROW = "row"


@dataclass(frozen=True)
class Entry:
    """One row of a file. `bare` says that its format holds no instances; `lost` are instances that the row
    holds unfinished. Texts are as the file has them: nothing is stripped."""

    instruction: str
    instances: tuple[Instance, ...]
    is_classification: bool | None = None
    lost: tuple[Lost, ...] = ()
    bare: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)
    place: str = ""  # "line 17"

    def keeping(self, places: Collection[int]) -> Entry:
        """The entry with only those of its instances that stand at `places` (from 0), each with its own keys."""
        extra = dict(self.extra)
        if beside := extra.get(ROW, {}).get("instances"):
            extra[ROW] = {**extra[ROW], "instances": [beside[place] for place in places]}
        return replace(self, instances=tuple(self.instances[place] for place in places), extra=extra)


@dataclass(frozen=True)
class Rendered:
    """A row to write; `exact` says that its texts can be told apart again by whoever reads it."""

    row: Mapping[str, Any]
    exact: bool = True


class Format(ABC):
    """A file format: its usual name, a line for --help, and the way in and out."""

    name: str
    description: str
    array = False  # written as one JSON array, else as JSONL
    escaped = False  # characters beyond ASCII are written as \\u escapes, as the script that writes it does
    distinct: tuple[str, ...] = ()  # a row that repeats another one in these keys is not written

    @abstractmethod
    def recognises(self, row: Mapping[str, Any], array: bool) -> bool:
        """Whether a row with these keys is one of this format; `array` says that it stood in a JSON array."""

    @abstractmethod
    def parse(self, fields: Fields) -> Entry:
        """The row's entry, without its place. Raises `fields.error` for a field that is missing or wrong."""

    @abstractmethod
    def render(self, entry: Entry, seed: int) -> Iterator[Rendered]:
        """The rows that hold `entry`; `seed` decides where a format has a choice."""


def note(name: str, values: Mapping[str, Any], usual: Collection[str], **parts: Any) -> dict[str, Any]:
    """What only format `name` can use of a row, as a part of an entry's extra: keys that are not among the
    `usual` ones, usual ones that are absent, their order where it is not ours, and `parts`. Empty where there is
    nothing to keep."""
    unknown = {key: value for key, value in values.items() if key not in usual}
    ours = [key for key in usual if key in values] + list(unknown)
    kept = {
        "unknown": unknown,
        "absent": [key for key in usual if key not in values],
        "order": list(values) if list(values) != ours else [],
        **parts,
    }
    kept = {key: part for key, part in kept.items() if part}
    return {ROW: {"format": name, **kept}} if kept else {}


def beside(objects: Collection[Fields], usual: Collection[str]) -> list[dict[str, Any]]:
    """The keys that objects within a row have beyond the `usual` ones; empty where none has any."""
    found = [{key: value for key, value in one.values.items() if key not in usual} for one in objects]
    return found if any(found) else []


def noted(entry: Entry, name: str) -> Mapping[str, Any]:
    """What `note` kept of a row of format `name`; empty for an entry that comes from elsewhere."""
    row: Mapping[str, Any] = entry.extra.get(ROW) or {}
    return row if row.get("format") == name else {}


def completed(row: dict[str, Any], kept: Mapping[str, Any], guessed: Collection[str] = ()) -> dict[str, Any]:
    """`row` as the file it was read from had it: with the keys unknown to us, and without those it did not
    have. Only what we fill in ourselves (`guessed`) can be left out again."""
    left_out = {key for key in kept.get("absent", ()) if key in guessed}
    whole = {key: value for key, value in row.items() if key not in left_out} | dict(kept.get("unknown", {}))
    return {key: whole[key] for key in kept.get("order", ()) if key in whole} | whole
