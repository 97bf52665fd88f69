"""New outputs to instructions and inputs that are there already: what `regenerate --part output` asks for.

Few-shot, as Self-Instruct's third step (https://arxiv.org/abs/2212.10560), but for the output alone. The words are
our own. What is the same for every request comes first, so that a server can keep it in its prefix cache.

    ###
    Task: Sort the words by length.
    Input: pear, fig, banana
    Output: fig, pear, banana
    ###
    Task: ...
    Input: <noinput>
    Output:

The stop sequence is the separator with the next label below it, which no output contains by accident: "\\nTask:"
alone fires inside an output that has such a line, and cuts it silently.
"""

from __future__ import annotations

from collections.abc import Sequence

from selfinstruct_hub.languages import Language
from selfinstruct_hub.recipes import wording
from selfinstruct_hub.records import Task, estimated_tokens

_MORE_OUTPUT_LINES = 5
_FRAME_TOKENS = 15  # separator and labels of one task


def prompt(shown: Sequence[Task], instruction: str, given: str, language: Language, *, chat: bool = False) -> str:
    """Tasks with their first instance, and one that breaks off behind "Output:". A chat model is asked for it."""
    words = wording.of(language)
    labels = words.labels

    def said(instruction: str, given: str) -> str:
        return f"###\n{labels.task} {instruction}\n{labels.input} {given or labels.no_input}\n"

    parts = [words.outputs.format(language=language.name, no_input=labels.no_input), "\n"]
    for task in shown:
        instance = task.instances[0]
        parts.append(f"{said(task.instruction, instance.input)}{labels.output} {instance.output}\n")
    parts.append(said(instruction, given))
    if chat:
        parts.append(f"\n{words.chat_output}\n")
    return "".join(parts) + labels.output


def stops(language: Language) -> tuple[str, ...]:
    """Where an output ends: at a further task, in whole lines."""
    return (f"\n###\n{wording.of(language).labels.task}",)


def grammar() -> str:
    """A regular expression for an output of a line and up to five more, as for a small model (see alpaca.py)."""
    more = r"(\n(- )?[^\s#][^\n]*)?" * _MORE_OUTPUT_LINES
    return rf" [^\s#][^\n]*{more}\n###\n"


def cost(task: Task) -> int:
    """Estimated tokens that showing `task` costs."""
    instance = task.instances[0]
    return own_cost(task.instruction, instance.input + instance.output)


def own_cost(instruction: str, given: str) -> int:
    """Estimated tokens of the task that is asked about."""
    return estimated_tokens(instruction + given) + _FRAME_TOKENS


def frame(language: Language, chat: bool) -> int:
    """Estimated tokens of a prompt that shows nothing and asks nothing."""
    return estimated_tokens(prompt((), "", "", language, chat=chat))
