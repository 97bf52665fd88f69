"""Alpaca's single step: one prompt asks for several tasks, each with instruction, input and output.

Source: Taori et al., "Stanford Alpaca: An Instruction-following LLaMA model" (2023), after Wang et al.,
"Self-Instruct" (2022), https://arxiv.org/abs/2212.10560. The prompt and its requirements are our own words.

An example of what comes back, after a prompt that ends in "4. Instruction:":

     Name two uses of vinegar in the household.
    4. Input: <noinput>
    4. Output: It removes limescale from kettles and neutralises smells in the fridge.
    ###
    5. Instruction: ...

Deliberate differences from the original:
- The stop sequence is the whole next label ("\\n24. Instruction:"), not "\\n20" or "20.", which fire inside
  answers ("$20.") and cut them silently.
- The parser walks labels (parsing.py) instead of splitting at "###", so a Markdown heading in an output, a
  skipped number or a full-width colon costs nothing.
- Where asked to, the answer is held to its form by a regular expression, so that a small model's every
  answer parses. It has no bounded repetition: grammar compilers expand that until they hang.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from selfinstruct_hub.parsing import labelled_tasks
from selfinstruct_hub.recipes import Complete, Plan, Recipe
from selfinstruct_hub.records import FINISH_LENGTH, Candidate, Task

STAGE = "tasks"
NO_INPUT = "<noinput>"
_MORE_OUTPUT_LINES = 5

_PROMPT = """\
Below is a numbered list of {total} tasks for a text assistant, each with the answer that an expert would give.

What every task on the list keeps to:
1. The tasks differ as much as possible: in subject, in kind of work (writing, explaining, extracting, \
sorting, calculating, planning, translating, coding and so on) and in the verb they begin with.
2. The instruction is in English, one or two sentences long, either an order or a question.
3. An assistant that only reads and writes text can do it. It never needs to see, hear, browse or act.
4. If the instruction works on some material, the input gives that material: concrete, realistic, complete, \
under 100 words. If it needs none, the input is {no_input}.
5. The output is the finished answer to this instruction and this input: correct, complete, under 100 words.

"""


def prompt(demonstrations: Sequence[Task], tasks: int) -> str:
    """The prompt that shows `demonstrations` and asks for `tasks` more. The constant part comes first, so
    that a server can keep it in its prefix cache."""
    total = len(demonstrations) + tasks
    parts = [_PROMPT.format(total=total, no_input=NO_INPUT)]
    for number, task in enumerate(demonstrations, start=1):
        instance = task.instances[0]
        parts.append(
            f"###\n{number}. Instruction: {task.instruction}\n"
            f"{number}. Input: {instance.input or NO_INPUT}\n"
            f"{number}. Output: {instance.output}\n"
        )
    parts.append(f"###\n{len(demonstrations) + 1}. Instruction:")
    return "".join(parts)


def grammar(first: int, tasks: int) -> str:
    """A regular expression for the rest of the list: `tasks` items from number `first`, each closed by a
    separator.

    It is made for small models, which lose themselves in long fields: an instruction is one sentence, an input
    one line, an output a line and up to five more. A further line may not begin like a label or a separator,
    so every item that is finished parses.
    """
    more = r"(\n[^\n#0-9IO*>_][^\n]*)?" * _MORE_OUTPUT_LINES
    items = []
    for number in range(first, first + tasks):
        label = "" if number == first else rf"{number}\. Instruction:"
        items.append(
            rf"{label} [A-Z][^\n.?!]+[.?!]\n{number}\. Input: ({NO_INPUT}|[^<\s][^\n]*)"
            rf"\n{number}\. Output: [^\s#][^\n]*{more}\n###\n"
        )
    return "".join(items)


async def run(demonstrations: Sequence[Task], complete: Complete, plan: Plan) -> list[Candidate]:
    """One completion, parsed. Its number of items is the model's: fewer or more than asked are all kept."""
    first = len(demonstrations) + 1
    decoding = replace(
        plan.decoding,
        stop=(f"\n{first + plan.tasks_per_request}. Instruction:",),
        grammar=("regex", grammar(first, plan.tasks_per_request)) if plan.use_grammar else None,
    )
    completion = await complete(STAGE, prompt(demonstrations, plan.tasks_per_request), decoding)
    return labelled_tasks(
        completion.text,
        prefilled=f"{first}. Instruction:",
        cut_off=completion.finish_reason == FINISH_LENGTH,
    )


RECIPE = Recipe(
    name="alpaca",
    paper="https://arxiv.org/abs/2212.10560",
    run=run,
    blocked_words=(
        *("image", "images", "graph", "graphs", "picture", "pictures", "file", "files", "map", "maps"),
        *("draw", "plot", "go to", "video", "audio", "music", "flowchart", "diagram"),
    ),
    tasks_per_request=20,
    tokens_per_task=150,
    max_new_tokens=3072,
    temperature=1.0,
    top_p=None,  # 1.0, which text-generation-inference refuses when it is said
)
