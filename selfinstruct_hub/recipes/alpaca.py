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
- The stop sequence is the whole next label ("\n24. Instruction:"), not "\n20" or "20.", which fire inside
  answers ("$20.") and cut them silently.
- The parser walks labels (parsing/tasks.py) instead of splitting at "###", so a Markdown heading in an output,
  a skipped number or a full-width colon costs nothing.
- Where asked to, the answer is held to its form by a regular expression, so that a small model's every
  answer parses. It has no bounded repetition: grammar compilers expand that until they hang.
- Demonstrations may include tasks of earlier rounds (`demonstrations.machine`), as the Chinese variants do.
- A chat model is asked in words to go on with the list, above the line where it breaks off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from selfinstruct_hub.languages import Language
from selfinstruct_hub.parsing import continuation, labelled_tasks
from selfinstruct_hub.recipes import Complete, Passes, Plan, Recipe, asked_in_chat, wording
from selfinstruct_hub.records import FINISH_LENGTH, Candidate, Task
from selfinstruct_hub.sampling import Deck, demonstrations, tokens

TASKS = "tasks"
_MORE_OUTPUT_LINES = 5


def prompt(
    shown: Sequence[Task], tasks: int, language: Language, domain: str | None = None, *, chat: bool = False
) -> str:
    """The prompt that shows tasks and asks for `tasks` more. The constant part comes first, so that a server
    can keep it in its prefix cache."""
    words = wording.of(language)
    labels = words.labels
    total = len(shown) + tasks
    parts = [words.alpaca.format(total=total, language=language.name, no_input=labels.no_input)]
    if domain:
        parts.append(words.alpaca_domain.format(domain=domain))
    parts.append("\n")
    for number, task in enumerate(shown, start=1):
        instance = task.instances[0]
        parts.append(
            f"###\n{number}. {labels.instruction} {task.instruction}\n"
            f"{number}. {labels.input} {instance.input or labels.no_input}\n"
            f"{number}. {labels.output} {instance.output}\n"
        )
    parts.append("###\n")
    if chat:
        parts.append(f"\n{words.chat_tasks.format(total=total)}\n")
    return "".join(parts) + f"{len(shown) + 1}. {labels.instruction}"


def grammar(first: int, tasks: int, language: Language) -> str:
    """A regular expression for the rest of the list: `tasks` items from number `first`, each closed by a
    separator.

    It is made for small models, which lose themselves in long fields: an instruction is one sentence, an input
    one line, an output a line and up to five more. A further line may not begin like a label or a separator,
    so every item that is finished parses.
    """
    words = wording.of(language)
    labels = words.labels
    first_letters = "".join(sorted({labels.instruction[0], labels.input[0], labels.output[0]}))
    more = rf"(\n(- )?[^\s#0-9０-９{first_letters}*>_-][^\n]*)?" * _MORE_OUTPUT_LINES
    items = []
    for number in range(first, first + tasks):
        label = "" if number == first else rf"{number}\. {labels.instruction}"
        items.append(
            rf"{label} {words.sentence}\n{number}\. {labels.input} ({labels.no_input}|{words.opening}[^\n]*)"
            rf"\n{number}\. {labels.output} [^\s#][^\n]*{more}\n###\n"
        )
    return "".join(items)


async def run(deck: Deck, complete: Complete, passes: Passes, plan: Plan) -> list[Candidate]:
    """One completion, parsed. Its number of items is the model's: fewer or more than asked are all kept."""
    machine = [task for task in deck.machine if task.instances]
    shown = demonstrations(
        deck.human, machine, humans=plan.humans, machines=plan.machines, rng=deck.rng("demonstrations")
    )
    first = len(shown) + 1
    label = wording.of(plan.language).labels.instruction
    beginning = f"{first}. {label}"
    decoding = replace(
        plan.decoding,
        stop=(f"\n{first + plan.tasks_per_request}. {label}",),
        grammar=("regex", grammar(first, plan.tasks_per_request, plan.language)) if plan.use_grammar else None,
    )
    asked = prompt(shown, plan.tasks_per_request, plan.language, plan.domain, chat=plan.chat)
    completion = await complete(TASKS, asked, decoding, shown=shown)
    text = continuation(completion.text, beginning) if plan.chat else completion.text
    cut_off = completion.finish_reason == FINISH_LENGTH
    return labelled_tasks(text, prefilled=beginning, cut_off=cut_off, stage=TASKS)


RECIPE = Recipe(
    name="alpaca",
    paper="https://arxiv.org/abs/2212.10560",
    run=run,
    stages=(TASKS,),
    blocked_words=(
        *("image", "images", "graph", "graphs", "picture", "pictures", "file", "files", "map", "maps"),
        *("draw", "plot", "go to", "video", "audio", "music", "flowchart", "diagram"),
    ),
    humans=3,
    machines=0,
    tasks_per_request=20,
    tokens_per_task=150,
    max_new_tokens=3072,
    temperature=1.0,
    top_p=None,  # 1.0, which text-generation-inference refuses when it is said
    frame=lambda language, domain, chat: prompt((), 1, language, domain, chat=chat),
    cost=tokens,
    differences=asked_in_chat,
)
