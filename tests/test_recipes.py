"""The recipes: golden prompts byte for byte, the grammar against the parser, recorded completions."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from selfinstruct_hub import assets, recipes, sampling, seeds
from selfinstruct_hub.parsing import labelled_tasks
from selfinstruct_hub.recipes import alpaca
from selfinstruct_hub.records import FINISH_EOS, FINISH_LENGTH, Candidate, Completion, Decoding, Instance, Task

HERE = Path(__file__).parent

DEMONSTRATIONS = (
    Task("a", "Name two trees.", (Instance("", "Oak and elm."),)),
    Task("b", "Add the numbers.", (Instance("1\n2", "3"), Instance("2\n2", "4"))),
)


def test_the_alpaca_prompt_is_golden() -> None:
    assert alpaca.prompt(DEMONSTRATIONS, 4) == (HERE / "golden" / "alpaca_prompt.txt").read_text(encoding="utf-8")


def test_the_constant_part_comes_first_and_no_demonstration_reads_as_two() -> None:
    tasks = seeds.read(assets.folder("seeds") / "en.jsonl")
    prompts = []
    for number in range(40):
        shown = sampling.demonstrations(tasks, 3, seed=1, round_number=1, request_number=number)
        prompts.append(alpaca.prompt(shown, 20))
        # What we ask for in the prompt, our own parser reads back.
        listed = prompts[-1][prompts[-1].index("###\n1.") :].removesuffix("4. Instruction:")
        found = labelled_tasks(listed)
        assert [c.instruction for c in found] == [task.instruction for task in shown]
        assert [c.instances[0] for c in found] == [task.instances[0] for task in shown]
    assert len({text[: text.index("###\n1.")] for text in prompts}) == 1


@pytest.mark.parametrize(
    "text",
    [
        " Name a tree.\n4. Input: <noinput>\n4. Output: Oak.\n###\n"
        "5. Instruction: Add them.\n5. Input: 1, 2\n5. Output: 1. six\n- yes\nno\n###\n",
    ],
)
def test_what_the_grammar_allows_parses_and_what_breaks_the_form_is_not_allowed(text: str) -> None:
    pattern = re.compile(alpaca.grammar(4, 2))
    assert pattern.fullmatch(text)
    assert all(c.well_formed for c in labelled_tasks(text, prefilled="4. Instruction:"))
    for broken in (
        text.replace("5. Output", "Output"),
        text.replace("###\n5", "5"),
        text.replace("4. Input: <noinput>\n", ""),
        text.replace("Oak.", "# Oak."),
        text.replace("Oak.", "Oak.\n4. Output: Elm."),
        text.replace("Oak.", "Oak.\nOutput: Elm."),
        text.replace("Oak.", "Oak.\n**Input:** Elm."),
        text.replace("Oak.", "Oak" + 6 * "\nand so on"),
        text.replace(" Name a tree.", " "),
        "Sure! " + text,
        text[:-5],
    ):
        assert not pattern.fullmatch(broken), broken


def test_the_grammar_has_no_bounded_repetition() -> None:
    assert "{" not in alpaca.grammar(4, 20)


async def test_a_draw_asks_once_with_a_stop_that_no_answer_holds_by_chance() -> None:
    asked = []

    async def complete(stage: str, prompt: str, decoding: Decoding) -> Completion:
        asked.append((stage, prompt, decoding))
        return Completion(" Name a tree.\n3. Input: x\n3. Output: It costs $20.\nSince 2016. Oak", FINISH_LENGTH)

    plan = recipes.Plan(tasks_per_request=4, use_grammar=True, decoding=Decoding(max_new_tokens=600))
    found = await alpaca.run(DEMONSTRATIONS, complete, plan)
    assert found == [Candidate("Name a tree.", (Instance("x", "It costs $20.\nSince 2016. Oak"),), cut_off=True)]
    ((stage, prompt, decoding),) = asked
    assert stage == "tasks"
    assert prompt == alpaca.prompt(DEMONSTRATIONS, 4)
    assert decoding.stop == ("\n7. Instruction:",)
    assert decoding.grammar == ("regex", alpaca.grammar(3, 4))
    assert decoding.max_new_tokens == 600


def test_recorded_completions_parse_as_recorded() -> None:
    """Raw answers of the embedded model, with and without the grammar, truncated and malformed ones included."""
    lines = (HERE / "golden" / "completions.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) >= 8
    kinds = set()
    for line in lines:
        row = json.loads(line)
        found = labelled_tasks(
            row["text"], prefilled=row["prefilled"], cut_off=row["finish_reason"] == FINISH_LENGTH
        )
        shapes = [[c.instruction, [[i.input, i.output] for i in c.instances], c.missing, c.cut_off] for c in found]
        assert shapes == row["candidates"], row["text"]
        kinds |= {"whole" if c.well_formed else "cut" if c.cut_off else str(c.missing) for c in found}
    assert {"whole", "cut", "output"} <= kinds
    assert FINISH_EOS in {json.loads(line)["finish_reason"] for line in lines}
