"""From a completion's text to the fields it names. Walks labels; never filters, never repairs.

tasks.py          numbered items with instruction, input and output
instructions.py   a numbered list of instructions
instances.py      worked examples of one task, input first or label first
outputs.py        one task's output
inputs.py         the many ways to say that there is no input
chat.py           what a chat model says around its answer
"""

from __future__ import annotations

from selfinstruct_hub.parsing.chat import continuation
from selfinstruct_hub.parsing.inputs import normalise_input
from selfinstruct_hub.parsing.instances import begins_with_label, labelled_instances
from selfinstruct_hub.parsing.instructions import numbered_instructions
from selfinstruct_hub.parsing.outputs import single_output
from selfinstruct_hub.parsing.tasks import labelled_tasks

__all__ = [
    "begins_with_label",
    "continuation",
    "labelled_instances",
    "labelled_tasks",
    "normalise_input",
    "numbered_instructions",
    "single_output",
]
