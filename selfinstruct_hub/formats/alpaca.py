"""Rows of instruction, input and output: Alpaca's two files, and Self-Instruct's list of all instances.

Keys are those of https://github.com/tatsu-lab/stanford_alpaca and https://github.com/yizhongw/self-instruct.
The formats differ in their container and in what stands beside the three texts, in nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from selfinstruct_hub.formats.entry import Entry, Format, Rendered, completed, note, noted
from selfinstruct_hub.formats.self_instruct import similarity
from selfinstruct_hub.records import Instance
from selfinstruct_hub.rows import Fields

_TEXTS = ("instruction", "input", "output")


class AlpacaData(Format):
    """`alpaca_data.json`.

    Cannot hold: an instruction without instances (nothing is written for it), several instances as one task
    (each becomes a row), lost instances, whether the task is classification. A row without `input` reads as
    one with an empty input, and is written without it again.
    """

    name = "alpaca_data"
    description = "Alpaca's dataset: a JSON array of instruction, input and output"
    array = True

    def recognises(self, row: Mapping[str, Any], array: bool) -> bool:
        others = ("instances", "raw_instances", "most_similar_instructions")
        texts = "instruction" in row and ("output" in row or "input" in row)
        return array == self.array and texts and not any(key in row for key in others)

    def parse(self, fields: Fields) -> Entry:
        return _entry(self.name, fields, _TEXTS, {})

    def render(self, entry: Entry, seed: int) -> Iterator[Rendered]:
        for instance in entry.instances:
            yield Rendered(_row(self.name, entry, instance, {}))


class AllGeneratedInstances(AlpacaData):
    """`all_generated_instances.jsonl`: alpaca_data in JSONL, with the same limits."""

    name = "all_generated_instances"
    description = "Self-Instruct's instances after filtering: JSONL of instruction, input and output"
    array = False
    escaped = True


class Regen(Format):
    """`regen.json`: what Alpaca's script writes while it runs.

    Cannot hold what alpaca_data cannot. Similarity that nobody has measured is written as {} and null, so that
    the file stays recognisable.
    """

    name = "regen"
    description = "Alpaca's working file: alpaca_data with the most similar instructions and their average"
    array = True
    _beside = ("most_similar_instructions", "avg_similarity_score")

    def recognises(self, row: Mapping[str, Any], array: bool) -> bool:
        return "instruction" in row and "most_similar_instructions" in row

    def parse(self, fields: Fields) -> Entry:
        return _entry(self.name, fields, _TEXTS + self._beside, similarity(fields, "most_similar_instructions"))

    def render(self, entry: Entry, seed: int) -> Iterator[Rendered]:
        beside = {
            "most_similar_instructions": entry.extra.get("most_similar", {}),
            "avg_similarity_score": entry.extra.get("avg_similarity_score"),
        }
        for instance in entry.instances:
            yield Rendered(_row(self.name, entry, instance, beside))


def _entry(name: str, fields: Fields, usual: tuple[str, ...], extra: dict[str, Any]) -> Entry:
    instruction = fields.text("instruction")
    given = fields.text("input") if "input" in fields.values else ""
    instances = (Instance(input=given, output=fields.text("output")),)
    return Entry(instruction, instances, extra=extra | note(name, fields.values, usual))


def _row(name: str, entry: Entry, instance: Instance, beside: dict[str, Any]) -> dict[str, Any]:
    row = {"instruction": entry.instruction, "input": instance.input, "output": instance.output, **beside}
    guessed = [
        key for key, value in row.items() if key not in ("instruction", "output") and value in ("", {}, None)
    ]
    return completed(row, noted(entry, name), guessed)
