"""One task's output out of a completion that goes on behind "Output:".

The output ends where the model goes on to a further task in the prompt's form: at a separator, or at a task's
label with an input below it. A line "Task:" alone, or a Markdown heading, is a line of the output.
"""

from __future__ import annotations

import re

from selfinstruct_hub.records import Drop, Instance, Lost

# No two neighbouring runs of blanks may match the same text (see tasks.py).
_END = re.compile(
    r"""^[ \t]*\#{3,}[ \t]*(?:\Z|\n[ \t]*(?:(?:\*\*)?(?:Task|任务)[ \t]*[:：]|\Z))
        |^[ \t]*(?:\*\*)?(?:Task|任务)[ \t]*[:：][^\n]*\n(?:[ \t]*\n)?[ \t]*(?:\*\*)?(?:Input|输入)[ \t]*[:：]""",
    re.MULTILINE | re.VERBOSE,
)


def single_output(
    text: str, given: str, *, cut_off: bool = False
) -> tuple[tuple[Instance, ...], tuple[Lost, ...]]:
    """The instance that `text` makes of the input `given`, its output possibly empty, or why it is none. `cut_off`
    says that the text ended by its token limit; what ended before a further task is whole all the same."""
    end = _END.search(text)
    instance = Instance(input=given, output=(text[: end.start()] if end else text).strip())
    if cut_off and end is None:
        return (), (Lost(instance, Drop("cut_off")),)
    return (instance,), ()
