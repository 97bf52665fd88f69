"""Self-Instruct's fine-tuning file: instruction, input and output in one of thirteen layouts.

The layouts are those of `prepare_for_finetuning.py` in https://github.com/yizhongw/self-instruct, seven with an
input and six without. Reading has to guess which one it was; the writer takes only layouts that guess right.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any

from selfinstruct_hub.formats.entry import Entry, Format, Rendered, completed, note, noted
from selfinstruct_hub.records import Instance, digest
from selfinstruct_hub.rows import Fields

END = "<|endoftext|>"

# What stands before the instruction, between it and the input, and at the end of the prompt.
_WITH_INPUT = (
    ("", "\nInput: ", "\nOutput:"),
    ("", "\n\nInput: ", "\n\nOutput:"),
    ("Task: ", "\nInput: ", "\nOutput:"),
    ("", "\n\n", "\n\nOutput:"),
    ("", "\n\n", "\n\n"),
    ("", "\n", "\n\n"),
    ("Task: ", "\n\n", "\n\n"),
)
_WITHOUT_INPUT = (
    ("", " Output:"),
    ("", "\nOutput:"),
    ("", "\n\nOutput:"),
    ("", "\n"),
    ("", "\n\n"),
    ("Task: ", "\n\n"),
)


class Gpt3FinetuningData(Format):
    """`gpt3_finetuning_data_N.jsonl`.

    Reading takes the layout apart at its end ("Output:" or blank lines), then at the first "Input: " line, else
    at the first blank line, else (where the prompt ends in a blank line) at the first line break. So it reads
    wrongly what others wrote without an input where the instruction has several lines, and with an input after
    an instruction that has them, and an instruction that itself begins with "Task: ". A prompt in no layout is
    an instruction without input.

    An entry read from such a file is written as it stood there while its texts are the same. Otherwise the
    layout is drawn by `seed` and the texts among those that read back; where none does, any is taken and
    counted as not exact. Unlike the paper's script, nothing is stripped and no input is changed. Rows that
    repeat a prompt with its completion are left out, as in the paper.

    Cannot hold: an instruction without instances (nothing is written for it), several instances as one task,
    lost instances, whether the task is classification.
    """

    name = "gpt3_finetuning_data"
    description = f"Self-Instruct's fine-tuning rows: JSONL of prompt and completion, which ends in {END}"
    escaped = True
    distinct = ("prompt", "completion")

    def recognises(self, row: Mapping[str, Any], array: bool) -> bool:
        completion = row.get("completion")
        return "prompt" in row and isinstance(completion, str) and completion.endswith(END)

    def parse(self, fields: Fields) -> Entry:
        prompt, completion = fields.text("prompt"), fields.text("completion")
        if not completion.endswith(END):
            raise fields.error(f"{fields.where}, field `completion`: expected a text that ends in {END}")
        instruction, instance = _read(prompt, completion)
        kept = {"prompt": prompt, "completion": completion}
        extra = note(self.name, fields.values, tuple(kept), **kept)
        return Entry(instruction, (instance,), extra=extra)

    def render(self, entry: Entry, seed: int) -> Iterator[Rendered]:
        kept = noted(entry, self.name)
        for instance in entry.instances:
            prompt, completion = kept.get("prompt", ""), kept.get("completion", "")
            exact = True
            if not completion or _read(prompt, completion) != (entry.instruction, instance):
                prompt, completion, exact = _written(entry.instruction, instance, seed)
            yield Rendered(completed({"prompt": prompt, "completion": completion}, kept), exact)


def _written(instruction: str, instance: Instance, seed: int) -> tuple[str, str, bool]:
    """A prompt and its completion, and whether they read back to the same texts."""
    if instance.input:
        prompts = [f"{a}{instruction}{b}{instance.input}{c}" for a, b, c in _WITH_INPUT]
    else:
        prompts = [f"{a}{instruction}{c}" for a, c in _WITHOUT_INPUT]
    draw = random.Random(f"{seed}/{digest(instruction, instance.input, instance.output)}")
    draw.shuffle(prompts)
    forms = [(p, (" " if p.endswith("Output:") else "") + instance.output + END) for p in prompts]
    for prompt, completion in forms:
        if _read(prompt, completion) == (instruction, instance):
            return prompt, completion, True
    return *forms[0], False


def _read(prompt: str, completion: str) -> tuple[str, Instance]:
    """Instruction and instance of a row, by the layout that its text points at."""
    output = completion.removesuffix(END)
    if prompt.endswith("Output:"):
        output = output.removeprefix(" ")
    instruction, given = _parts(prompt)
    return instruction, Instance(input=given, output=output)


def _parts(prompt: str) -> tuple[str, str]:
    """Instruction and input. The longer ends come first, because each ends in the next."""
    if prompt.endswith("\n\nOutput:"):
        body = prompt.removesuffix("\n\nOutput:")
        return _split(body, "\n\nInput: ") or _split(body, "\n\n") or (body, "")
    if prompt.endswith("\nOutput:"):
        body = prompt.removesuffix("\nOutput:")
        instruction, given = _split(body, "\nInput: ") or (body, "")
        return (instruction.removeprefix("Task: "), given) if given else (body, "")
    if prompt.endswith(" Output:"):
        return prompt.removesuffix(" Output:"), ""
    if prompt.endswith("\n\n"):
        body = prompt.removesuffix("\n\n")
        if body.startswith("Task: "):
            body = body.removeprefix("Task: ")
            return _split(body, "\n\n") or (body, "")
        return _split(body, "\n\n") or _split(body, "\n") or (body, "")
    return prompt.removesuffix("\n"), ""


def _split(body: str, mark: str) -> tuple[str, str] | None:
    before, found, after = body.partition(mark)
    return (before, after) if found else None
