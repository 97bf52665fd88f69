"""Self-Instruct's four steps: instructions, classification or not, instances, elimination.

Source: Wang et al., "Self-Instruct: Aligning Language Models with Self-Generated Instructions" (2022),
https://arxiv.org/abs/2212.10560, section 2 and appendix A. The prompts are our own words.

1. `instructions`: eight demonstrations (six seeds, two tasks of earlier rounds, shuffled), the list goes on at 9.
2. `classification`: is it a classification task? Few-shot with seeds of both kinds.
3. `instances`: one to five worked examples. For a classification task the label comes first, so that labels are
   spread; an input written first draws the commonest label after it. For the rest the input comes first.
4. Elimination is `filters.py`: of instructions before step 2 is paid for, of instances after step 3.

    Task: Decide whether the review is positive or negative.       Task: Sort the words by length.
    Class label: negative                                          Example 1
    Input: The soup was cold and nobody apologised.                Input: pear, fig, banana
    Class label: positive                                          Output: fig, pear, banana
    Input: ...

Deliberate differences from the published code:
- The demonstrations of steps 2 and 3 are drawn from the seeds, anew for every draw, and are the same for all of
  a draw's tasks (a server keeps them in its prefix cache). There they are a second, fixed text.
- A list cut off by its token limit costs its last instruction, not all of them.
- Stops are whole lines ("\nTask:", "\n17."), not "16." or "16 .", which fire inside texts.
- An instruction's capitals stay as they are.
- Presence penalties (2 in step 1, 1.5 in step 3) do not exist in text-generation-inference; a frequency
  penalty (0.2 unless set) stands in for both. It counts only what was generated, not the prompt's own words.
- A chat model is asked in words to go on, above the line where a prompt breaks off. It has more tokens for its yes
  or no, which may come behind a word or two of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from selfinstruct_hub import languages
from selfinstruct_hub.errors import EndpointRefusedError, RequestFailedError
from selfinstruct_hub.languages import Language
from selfinstruct_hub.parsing import continuation, labelled_instances, numbered_instructions
from selfinstruct_hub.recipes import Complete, Passes, Plan, Recipe, asked_in_chat, wording
from selfinstruct_hub.recipes.wording import Labels, Wording
from selfinstruct_hub.records import (
    FINISH_LENGTH,
    REQUEST_FAILED,
    REQUEST_REFUSED,
    Candidate,
    Completion,
    Decoding,
    Drop,
    Instance,
    Lost,
    Task,
    estimated_tokens,
)
from selfinstruct_hub.sampling import Deck, demonstrations, fitting

INSTRUCTIONS, CLASSIFICATION, INSTANCES = "instructions", "classification", "instances"
_MOST_INSTANCES = 5
# A grammar's alternatives grow with every example; a small model that may write five writes five poor ones.
_GRAMMAR_INSTANCES = 3
_LABEL_TOKENS = 3
_CHAT_LABEL_TOKENS = 24
# The paper shows 12 classification tasks and 19 others.
_YES_SHARE = 12 / 31


def instructions_prompt(
    words: Wording,
    language: str,
    shown: Sequence[Task],
    *,
    domain: str | None,
    only_classification: bool,
    chat_total: int | None = None,
) -> str:
    """A numbered list of instructions that breaks off where the next one goes. A chat model is asked to go on up
    to number `chat_total`."""
    parts = [words.instructions.format(language=language)]
    if only_classification:
        parts.append(words.instructions_classification)
    if domain:
        parts.append(words.instructions_domain.format(domain=domain))
    parts.append("\n")
    parts += [f"{number}. {_line(task)}\n" for number, task in enumerate(shown, start=1)]
    if chat_total is not None:
        parts.append(f"\n{words.chat_instructions.format(total=chat_total)}\n")
    return "".join(parts) + f"{len(shown) + 1}."


def classification_prompt(words: Wording, shown: Sequence[Task], instruction: str, *, chat: bool = False) -> str:
    """Tasks with yes or no behind them, and one without."""
    labels = words.labels
    known = [
        f"{labels.task} {_line(task)}\n{labels.classification} "
        f"{labels.yes if task.is_classification else labels.no}\n\n"
        for task in shown
    ]
    asked = f"\n{words.chat_classification.format(yes=labels.yes, no=labels.no)}\n" if chat else ""
    return f"{words.classification}\n{''.join(known)}{labels.task} {instruction}\n{asked}{labels.classification}"


def instances_prompt(
    words: Wording,
    language: str,
    shown: Sequence[Task],
    instruction: str,
    *,
    label_first: bool,
    chat: bool = False,
) -> str:
    """Tasks with their worked examples, and one whose first example is begun."""
    labels = words.labels
    text = words.label_first if label_first else words.input_first
    frame = text.format(language=language, no_input=labels.no_input)
    known = [
        f"{labels.task} {_line(task)}\n{_examples(words, task.instances[:_MOST_INSTANCES], label_first)}\n"
        for task in shown
    ]
    asked = words.chat_label_first if label_first else words.chat_input_first
    asked = f"\n{asked.format(most=_MOST_INSTANCES)}\n" if chat else ""
    return f"{frame}\n{''.join(known)}{labels.task} {instruction}\n{asked}{beginning(words, label_first)}"


def instructions_grammar(words: Wording, first: int, tasks: int) -> str:
    """A regular expression for the list's next `tasks` lines from number `first`."""
    lines = [words.sentence, *(rf"{number}\. {words.sentence}" for number in range(first + 1, first + tasks))]
    return " " + r"\n".join(lines) + r"\n"


def instances_grammar(words: Wording, *, label_first: bool) -> str:
    """A regular expression for one to three examples behind the beginning that the prompt gives."""
    labels = words.labels
    line = rf"{words.opening}[^\n]*"
    if label_first:
        one = rf"[^\s<][^\n]*\n{labels.input} {line}\n"
        whole = one
        for _ in range(_GRAMMAR_INSTANCES - 1):
            whole = rf"{one}({labels.class_label} {whole})?"
        return f" {whole}"
    answer = r"[^\s#][^\n]*"
    whole = ""
    for number in range(_GRAMMAR_INSTANCES, 0, -1):
        begin = "" if number == 1 else rf"{labels.example} {number}\n{labels.input}"
        more = f"({whole})?" if whole else ""
        whole = rf"{begin} {line}\n{labels.output} {answer}\n{more}"
    return rf"( {labels.no_input}\n{labels.output} {answer}\n|{whole})"


def instances_stop(words: Wording) -> tuple[str, ...]:
    """Where the instances of a task end: at another task, or at one example too many."""
    return (f"\n{words.labels.task}", f"\n{words.labels.example} {_MOST_INSTANCES + 1}")


def found_instances(
    completion: Completion, words: Wording, *, label_first: bool, chat: bool
) -> tuple[tuple[Instance, ...], tuple[Lost, ...]]:
    """What an answer to `instances_prompt` has: the instances, and those that never became whole."""
    begun = beginning(words, label_first)
    text = continuation(completion.text, begun) if chat else completion.text
    return labelled_instances(text, prefilled=begun, cut_off=completion.finish_reason == FINISH_LENGTH)


async def run(deck: Deck, complete: Complete, passes: Passes, plan: Plan) -> list[Candidate]:
    """The instructions of one completion, each taken through the later steps on its own.

    An instruction that does not pass the rules or is too near to the pool costs no further request. A request
    of a later step that the endpoint refuses or never answers costs its own task.
    """
    words = wording.of(plan.language)
    only = bool(plan.options["only_classification"])
    human = [task for task in deck.human if task.is_classification or not only]
    machine = [task for task in deck.machine if task.is_classification or not only]
    shown = demonstrations(
        human, machine, humans=plan.humans, machines=plan.machines, rng=deck.rng("demonstrations")
    )
    first = len(shown) + 1
    prompt = instructions_prompt(
        words,
        plan.language.name,
        shown,
        domain=plan.domain,
        only_classification=only,
        chat_total=len(shown) + plan.tasks_per_request if plan.chat else None,
    )
    grammar = ("regex", instructions_grammar(words, first, plan.tasks_per_request))
    decoding = replace(
        plan.decoding,
        stop=(f"\n{first + plan.tasks_per_request}.",),
        grammar=grammar if plan.use_grammar else None,
    )
    completion = await complete(INSTRUCTIONS, prompt, decoding, shown=shown)
    cut_off = completion.finish_reason == FINISH_LENGTH
    text = continuation(completion.text, f"{first}.") if plan.chat else completion.text
    found = numbered_instructions(text, first=first, cut_off=cut_off)
    found = [replace(candidate, stage=INSTRUCTIONS) for candidate in found]

    whole = [item for item, candidate in enumerate(found) if candidate.well_formed]
    passing = await passes([found[item] for item in whole])
    later = [item for item, passed in zip(whole, passing, strict=True) if passed]
    steps = _LaterSteps(complete, plan, words, _draw_shown(deck, plan))
    # Every request on its way is let finish, so that no answer is lost to another one's failure.
    ends = await asyncio.gather(*(steps.of(item, found[item]) for item in later), return_exceptions=True)
    for item, end in zip(later, ends, strict=True):
        if isinstance(end, BaseException):
            raise end
        found[item] = end
    return found


@dataclass(frozen=True)
class _Shown:
    """Seeds that a draw shows in its later steps."""

    mixed: tuple[Task, ...]
    classification: tuple[Task, ...]
    others: tuple[Task, ...]


class _LaterSteps:
    """Steps 2 and 3 for the instructions of one draw."""

    def __init__(self, complete: Complete, plan: Plan, words: Wording, shown: _Shown) -> None:
        self._complete = complete
        self._plan = plan
        self._words = words
        self._shown = shown

    async def of(self, item: int, candidate: Candidate) -> Candidate:
        """`candidate` with its kind and its instances, or with the reason why a step gave it up."""
        try:
            candidate = replace(candidate, stage=CLASSIFICATION)
            candidate = await self._classified(item, candidate)
            if candidate.failure:
                return candidate
            candidate = replace(candidate, stage=INSTANCES)
            return await self._with_instances(item, candidate)
        except EndpointRefusedError as error:
            return replace(candidate, failure=Drop(REQUEST_REFUSED, error.said[:200]))
        except RequestFailedError as error:
            return replace(candidate, failure=Drop(REQUEST_FAILED, error.said[:200]))

    async def _classified(self, item: int, candidate: Candidate) -> Candidate:
        """Step 2. Only a yes is a yes, as in the paper's code."""
        labels, chat = self._words.labels, self._plan.chat
        # A vocabulary that lacks a script's characters spells each of them in up to four tokens.
        most = _LABEL_TOKENS if labels.yes.isascii() else 4 * _LABEL_TOKENS
        decoding = Decoding(
            max_new_tokens=_CHAT_LABEL_TOKENS if chat else most,
            stop=() if chat else ("\n",),  # talk may come on a line before
            grammar=("regex", f" ({labels.yes}|{labels.no})") if self._plan.use_grammar else None,
        )
        assert candidate.instruction is not None
        prompt = classification_prompt(self._words, self._shown.mixed, candidate.instruction, chat=chat)
        completion = await self._complete(CLASSIFICATION, prompt, decoding, shown=self._shown.mixed, item=item)
        text = continuation(completion.text, labels.classification) if chat else completion.text
        answer = text.strip()
        is_classification = _says_yes(answer, labels)
        failure = None
        if self._plan.options["only_classification"] and not is_classification:
            failure = Drop("not_classification", answer[:40])
        calls = (*candidate.calls, RECIPE.call(CLASSIFICATION, item))
        return replace(candidate, is_classification=is_classification, calls=calls, failure=failure)

    async def _with_instances(self, item: int, candidate: Candidate) -> Candidate:
        """Step 3: label first for classification, input first for the rest."""
        label_first = bool(candidate.is_classification)
        shown = self._shown.classification if label_first else self._shown.others
        options = self._plan.options
        decoding = Decoding(
            max_new_tokens=options["instance_max_new_tokens"],
            temperature=options["instance_temperature"],
            frequency_penalty=options["instance_frequency_penalty"],
            stop=instances_stop(self._words),
            grammar=("regex", instances_grammar(self._words, label_first=label_first))
            if self._plan.use_grammar
            else None,
        )
        assert candidate.instruction is not None
        chat = self._plan.chat
        prompt = instances_prompt(
            self._words,
            self._plan.language.name,
            shown,
            candidate.instruction,
            label_first=label_first,
            chat=chat,
        )
        completion = await self._complete(INSTANCES, prompt, decoding, shown=shown, item=item)
        instances, lost = found_instances(completion, self._words, label_first=label_first, chat=chat)
        calls = (*candidate.calls, RECIPE.call(INSTANCES, item))
        return replace(candidate, instances=instances, lost=lost, calls=calls)


def _says_yes(answer: str, labels: Labels) -> bool:
    """Whether an answer begins with the word for yes: "Yesterday" and 是否 ("whether") do not."""
    yes, first = languages.tokens(labels.yes), languages.tokens(answer.replace(labels.yes + labels.no, ""))
    return first[: len(yes)] == yes


def _frame(language: Language, domain: str | None, chat: bool) -> str:
    words = wording.of(language)
    return instructions_prompt(
        words, language.name, (), domain=domain, only_classification=True, chat_total=10 if chat else None
    )


def _draw_shown(deck: Deck, plan: Plan) -> _Shown:
    """The seeds that steps 2 and 3 show: as many as the plan says, fewer where they would not fit."""
    yes = [task for task in deck.human if task.is_classification]
    no = [task for task in deck.human if not task.is_classification]
    options = plan.options
    count, room = options["classification_demonstrations"], options["classification_room"]
    most_yes = max(1, round(count * _YES_SHARE))
    mixed: list[Task] = []
    rng = deck.rng(CLASSIFICATION)
    for tasks, most in ((yes, most_yes), (no, max(1, count - most_yes))):
        share = None if room is None else room * most // count
        short, number = fitting(tasks, most, share, lambda task: estimated_tokens(task.instruction))
        mixed += rng.sample(short, number)
    rng.shuffle(mixed)
    rng = deck.rng(INSTANCES)
    room = options["instance_room"]
    drawn: list[tuple[Task, ...]] = []
    for tasks, most in ((yes, options["label_first_demonstrations"]), (no, options["input_first_demonstrations"])):
        short, number = fitting(tasks, most, room, tokens_with_instances)
        drawn.append(tuple(rng.sample(short, number)))
    return _Shown(tuple(mixed), *drawn)


def tokens_with_instances(task: Task) -> int:
    instances = (i.input + i.output for i in task.instances[:_MOST_INSTANCES])
    return estimated_tokens(task.instruction + "".join(instances))


def _examples(words: Wording, instances: Sequence[Instance], label_first: bool) -> str:
    labels = words.labels
    if label_first:
        return "".join(
            f"{labels.class_label} {i.output}\n{labels.input} {i.input or labels.no_input}\n" for i in instances
        )
    return "".join(
        f"{labels.example} {number}\n{labels.input} {i.input or labels.no_input}\n{labels.output} {i.output}\n"
        for number, i in enumerate(instances, start=1)
    )


def beginning(words: Wording, label_first: bool) -> str:
    """What the prompt already says of the first example."""
    labels = words.labels
    return labels.class_label if label_first else f"{labels.example} 1\n{labels.input}"


def _line(task: Task) -> str:
    """An instruction on one line: a line of its own that begins with a number would look like the list's."""
    return " ".join(task.instruction.split())


def _differences(settings: Mapping[str, Any]) -> str:
    penalty = settings["decoding"].get("frequency_penalty")
    instead = f"a frequency penalty of {penalty} stands in" if penalty else "nothing stands in"
    penalties = (
        "The paper's presence penalties (2 for instructions, 1.5 for instances) do not exist in "
        f"text-generation-inference; {instead} for them."
    )
    return f"{penalties} {asked_in_chat(settings)}".rstrip()


RECIPE = Recipe(
    name="self-instruct",
    paper="https://arxiv.org/abs/2212.10560",
    run=run,
    stages=(INSTRUCTIONS, CLASSIFICATION, INSTANCES),
    blocked_words=(
        *("image", "images", "graph", "graphs", "picture", "pictures", "file", "files", "map", "maps"),
        *("draw", "plot", "go to"),
    ),
    humans=6,
    machines=2,
    tasks_per_request=8,
    tokens_per_task=60,
    max_new_tokens=1024,
    temperature=0.7,
    top_p=0.5,
    # For the presence penalty of 2, which text-generation-inference does not have.
    frequency_penalty=0.2,
    frame=_frame,
    cost=lambda task: estimated_tokens(task.instruction),
    differences=_differences,
    later_steps=True,
)
