"""Self-Instruct's own files: its seed tasks, its instructions, and the instances as the model wrote them.

Keys and what the scripts read of them are those of https://github.com/yizhongw/self-instruct. Where an entry
does not know a value, the row still carries its key with a neutral value, because the scripts index every key:
similarity {} and null, metadata {}, request 0, and an answer that ended by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from selfinstruct_hub.formats.entry import Entry, Format, Rendered, beside, completed, note, noted
from selfinstruct_hub.parsing import begins_with_label, labelled_instances
from selfinstruct_hub.records import FINISH_LENGTH, Instance, Lost, digest
from selfinstruct_hub.rows import Fields

# What the scripts look up in the answer to a request: response["choices"][0]["finish_reason"].
_ENDED = {"response": {"choices": [{"finish_reason": "stop"}]}}


def similarity(fields: Fields, name: str) -> dict[str, Any]:
    """The extra of an entry whose row gives its nearest instructions under `name`, and their average."""
    extra: dict[str, Any] = {}
    if name in fields.values:
        extra["most_similar"] = fields.mapping(name)
    if "avg_similarity_score" in fields.values:
        score = fields.values["avg_similarity_score"]
        extra["avg_similarity_score"] = None if score is None else fields.number("avg_similarity_score")
    return extra


class SeedTasks(Format):
    """`seed_tasks.jsonl`, the same in Self-Instruct and Alpaca.

    Cannot hold: an instruction without instances (nothing is written for it), lost instances, "nobody has
    said whether it is classification" (false is written).
    """

    name = "seed_tasks"
    description = "Self-Instruct's and Alpaca's seed tasks: JSONL with the instances of a task in one row"
    _keys = ("id", "name", "instruction", "instances", "is_classification")

    def recognises(self, row: Mapping[str, Any], array: bool) -> bool:
        return "instruction" in row and "instances" in row

    def parse(self, fields: Fields) -> Entry:
        instruction = fields.text("instruction")
        inner = fields.objects("instances", "input and output")
        if not inner:
            raise fields.error(
                f"{fields.where}, field `instances`: empty; a seed task needs at least one worked instance"
            )
        instances = tuple(Instance(input=i.text("input"), output=i.text("output")) for i in inner)
        classification = fields.truth("is_classification") if "is_classification" in fields.values else None
        extra: dict[str, Any] = {"id": fields.text("id")} if "id" in fields.values else {}
        if "name" in fields.values:
            extra["name"] = fields.values["name"]
        extra |= note(self.name, fields.values, self._keys, instances=beside(inner, ("input", "output")))
        return Entry(instruction, instances, classification, extra=extra)

    def render(self, entry: Entry, seed: int) -> Iterator[Rendered]:
        if not entry.instances:
            return
        kept = noted(entry, self.name)
        more = kept.get("instances") or [{}] * len(entry.instances)
        content = [[i.input, i.output] for i in entry.instances]
        row = {
            "id": entry.extra.get("id", digest(entry.instruction, content)),
            "name": entry.extra.get("name", ""),
            "instruction": entry.instruction,
            "instances": [
                {"input": i.input, "output": i.output, **rest}
                for i, rest in zip(entry.instances, more, strict=True)
            ],
            "is_classification": bool(entry.is_classification),
        }
        guessed = [key for key in ("id", "name") if key not in entry.extra]
        if entry.is_classification is None:
            guessed.append("is_classification")
        yield Rendered(completed(row, kept, guessed))


class MachineGeneratedInstructions(Format):
    """`machine_generated_instructions.jsonl`, the first step's file.

    Cannot hold: instances, and whether the task is classification. Both are left out by intent: the file is
    for instructions.
    """

    name = "machine_generated_instructions"
    description = "Self-Instruct's instructions without instances: JSONL with similarity and metadata"
    escaped = True
    _optional = ("most_similar", "avg_similarity_score", "metadata", "request_idx")

    def recognises(self, row: Mapping[str, Any], array: bool) -> bool:
        others = ("output", "instances", "raw_instances", "most_similar_instructions")
        first = "most_similar" in row or "request_idx" in row
        return "instruction" in row and first and not any(key in row for key in others)

    def parse(self, fields: Fields) -> Entry:
        instruction = fields.text("instruction")
        extra = similarity(fields, "most_similar")
        if "metadata" in fields.values:
            extra["metadata"] = fields.values["metadata"]
        if "request_idx" in fields.values:
            extra["request_idx"] = fields.number("request_idx")
        extra |= note(self.name, fields.values, ("instruction", *self._optional))
        return Entry(instruction, (), bare=True, extra=extra)

    def render(self, entry: Entry, seed: int) -> Iterator[Rendered]:
        row = {
            "instruction": entry.instruction,
            "most_similar": entry.extra.get("most_similar", {}),
            "avg_similarity_score": entry.extra.get("avg_similarity_score"),
            "metadata": entry.extra.get("metadata", {}),
            "request_idx": entry.extra.get("request_idx", 0),
        }
        guessed = [key for key in self._optional if key not in entry.extra]
        yield Rendered(completed(row, noted(entry, self.name), guessed))


class MachineGeneratedInstances(Format):
    """`machine_generated_instances.jsonl`: the instances of a task as one text with markers.

    An entry whose instances are what its raw text reads to keeps this text and its answer's metadata. Others
    are written afresh: "Class label:" and then the input for classification, else "Input:" and "Output:", under
    "Example N" where there are several. A class label's input has no marker of its own, because the paper's
    script would take the marker for a part of it.

    Cannot hold, in a text written afresh: lost instances; blanks around texts; inputs that say "none"; lines
    that look like markers; classification that nobody has decided (reads back as false), and any without
    instances (reads back as None). Texts that do not read back are counted as not exact.
    """

    name = "machine_generated_instances"
    description = "Self-Instruct's instances as the model wrote them: JSONL with one marked-up text per task"
    # The row's keys that may be absent, and what an entry's extra calls them.
    _optional: ClassVar = {
        "instance_metadata": "instance_metadata",
        "instruction_metadata": "metadata",
        "most_similar": "most_similar",
        "avg_similarity_score": "avg_similarity_score",
    }

    def recognises(self, row: Mapping[str, Any], array: bool) -> bool:
        return "instruction" in row and "raw_instances" in row

    def parse(self, fields: Fields) -> Entry:
        instruction = fields.text("instruction")
        raw = fields.text("raw_instances")
        extra: dict[str, Any] = {"raw_instances": raw}
        for key in ("instance_metadata", "instruction_metadata"):
            if key in fields.values:
                extra[self._optional[key]] = fields.values[key]
        extra |= similarity(fields, "most_similar")
        extra |= note(self.name, fields.values, ("instruction", "raw_instances", *self._optional))
        instances, lost, classification = _read(raw, extra.get("instance_metadata"))
        return Entry(instruction, instances, classification, lost, extra=extra)

    def render(self, entry: Entry, seed: int) -> Iterator[Rendered]:
        raw, answer, exact = entry.extra.get("raw_instances"), entry.extra.get("instance_metadata", _ENDED), True
        if raw is None or _read(raw, answer)[0] != entry.instances:
            raw, exact = _written(entry)
            answer = _ENDED  # the old answer's token limit would cost the last instance
        row = {
            "instruction": entry.instruction,
            "raw_instances": raw,
            "instance_metadata": answer,
            "instruction_metadata": entry.extra.get("metadata", {}),
            "most_similar": entry.extra.get("most_similar", {}),
            "avg_similarity_score": entry.extra.get("avg_similarity_score"),
        }
        guessed = [key for key, ours in self._optional.items() if ours not in entry.extra]
        yield Rendered(completed(row, noted(entry, self.name), guessed), exact)


def _read(raw: str, answer: Any) -> tuple[tuple[Instance, ...], tuple[Lost, ...], bool | None]:
    """The instances of `raw`, those cut off, and whether it is classification: the paper asks for the label
    first only there."""
    instances, lost = labelled_instances(raw, cut_off=_cut_off(answer))
    return instances, lost, begins_with_label(raw) if instances or lost else None


def _cut_off(answer: Any) -> bool:
    """Whether a request's answer ended by its token limit, by what the scripts keep of it."""
    for key, wanted in (("response", dict), ("choices", list)):
        answer = answer.get(key) if isinstance(answer, dict) else None
        if not isinstance(answer, wanted):
            return False
    return bool(answer) and isinstance(answer[0], dict) and answer[0].get("finish_reason") == FINISH_LENGTH


def _written(entry: Entry) -> tuple[str, bool]:
    """The instances of `entry` as a text with markers, and whether it reads back to them."""
    if entry.is_classification:
        marks = ("", "Input: ")
        forms = ["\n\n".join(f"Class label: {i.output}\n{m}{i.input}" for i in entry.instances) for m in marks]
    else:
        parts = [
            f"Input: {i.input}\nOutput: {i.output}" if i.input else f"Output: {i.output}" for i in entry.instances
        ]
        numbered = [f"Example {number}\n{part}" for number, part in enumerate(parts, start=1)]
        forms = ["\n\n".join(numbered if len(parts) > 1 else parts), "\n\n".join(numbered)]
    for form in forms:
        if _read(form, None)[:2] == (entry.instances, ()):
            return form, True
    return forms[0], False
