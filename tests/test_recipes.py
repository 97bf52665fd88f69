"""The recipes: golden prompts byte for byte, grammars against parsers, requests driven by a script."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from selfinstruct_hub import assets, languages, recipes, sampling, seeds
from selfinstruct_hub.errors import EndpointRefusedError, EndpointUnreachableError
from selfinstruct_hub.local.grammar import Grammar, check_repetition
from selfinstruct_hub.parsing import labelled_instances, labelled_tasks, numbered_instructions
from selfinstruct_hub.recipes import alpaca, self_instruct, wording
from selfinstruct_hub.records import (
    FINISH_EOS,
    FINISH_LENGTH,
    Candidate,
    Completion,
    Decoding,
    Drop,
    Instance,
    Lost,
    Task,
    estimated_tokens,
)

GOLDEN = Path(__file__).parent / "golden"
EN, ZH, FR = languages.of("en"), languages.of("zh"), languages.of("fr")
STAGES = self_instruct.RECIPE.stages


def task(name: str, instruction: str, *pairs: tuple[str, str], yes: bool | None = False) -> Task:
    return Task(name, instruction, tuple(Instance(*pair) for pair in pairs), is_classification=yes)


DEMONSTRATIONS = (
    task("a", "Name two trees.", ("", "Oak and elm.")),
    task("b", "Add the numbers.", ("1\n2", "3"), ("2\n2", "4")),
)
OTHERS = (
    *DEMONSTRATIONS,
    task("c", "Rewrite the note\nas a list.\n\nKeep the order.", ("Buy milk, then bread.", "- milk\n- bread")),
)
CLASSIFICATION = (
    task(
        *("d", "Is the mail spam?\nAnswer spam or ham."),
        *(("Win cash now!\nClick here.", "spam"), ("See you at six.", "ham")),
        yes=True,
    ),
    task("e", "Say whether the text is a question: yes or no.", ("Where is it", "yes"), yes=True),
)
ZH_DEMONSTRATIONS = (
    task("a", "说出两种树。", ("", "橡树和榆树。")),
    task("b", "把这些数加起来。", ("1\n2", "3"), ("2\n2", "4")),
)
ZH_OTHERS = (
    *ZH_DEMONSTRATIONS,
    task("c", "把便条改写成清单，\n保持原来的顺序。", ("先买牛奶，再买面包。", "- 牛奶\n- 面包")),
)
ZH_CLASSIFICATION = (
    task(
        *("d", "这封邮件是垃圾邮件吗？\n回答“是”或“不是”。"),
        *(("恭喜中奖！\n请点击领取。", "是"), ("六点见。", "不是")),
        yes=True,
    ),
    task("e", "判断这句话是不是问句，回答“问句”或“非问句”。", ("它在哪儿", "问句"), yes=True),
)
FR_DEMONSTRATIONS = (
    task("a", "Nommez deux arbres.", ("", "Le chêne et l'orme.")),
    task("b", "Additionnez les nombres.", ("1\n2", "3")),
)


def instructions_of(
    language: languages.Language, shown: Sequence[Task], domain: str | None = None, only: bool = False
) -> str:
    return self_instruct.instructions_prompt(
        wording.of(language), language.name, shown, domain=domain, only_classification=only
    )


def instances_of(
    language: languages.Language, shown: Sequence[Task], instruction: str, *, label_first: bool
) -> str:
    return self_instruct.instances_prompt(
        wording.of(language), language.name, shown, instruction, label_first=label_first
    )


MIXED, ZH_MIXED = (*CLASSIFICATION, *OTHERS), (*ZH_CLASSIFICATION, *ZH_OTHERS)
PROMPTS = {
    "alpaca_prompt": lambda: alpaca.prompt(DEMONSTRATIONS, 4, EN),
    "alpaca_prompt_zh": lambda: alpaca.prompt(ZH_DEMONSTRATIONS, 4, ZH),
    "alpaca_prompt_fr": lambda: alpaca.prompt(FR_DEMONSTRATIONS, 4, FR),
    "alpaca_prompt_domain": lambda: alpaca.prompt(DEMONSTRATIONS, 4, EN, "gardening"),
    "alpaca_prompt_zh_domain": lambda: alpaca.prompt(ZH_DEMONSTRATIONS, 4, ZH, "园艺"),
    "instructions_prompt": lambda: instructions_of(EN, MIXED),
    "instructions_prompt_zh": lambda: instructions_of(ZH, ZH_MIXED),
    "instructions_prompt_fr": lambda: instructions_of(FR, FR_DEMONSTRATIONS),
    "instructions_prompt_domain": lambda: instructions_of(EN, MIXED, "gardening"),
    "instructions_prompt_only_classification": lambda: instructions_of(EN, CLASSIFICATION, only=True),
    "instructions_prompt_zh_domain_only_classification": lambda: instructions_of(
        ZH, ZH_CLASSIFICATION, "园艺", only=True
    ),
    "classification_prompt": lambda: self_instruct.classification_prompt(
        wording.of(EN), MIXED, "Sort the words by length."
    ),
    "classification_prompt_zh": lambda: self_instruct.classification_prompt(
        wording.of(ZH), ZH_MIXED, "把这些词按长短排序。"
    ),
    "input_first_prompt": lambda: instances_of(EN, OTHERS, "Sort the words by length.", label_first=False),
    "input_first_prompt_zh": lambda: instances_of(ZH, ZH_OTHERS, "把这些词按长短排序。", label_first=False),
    "input_first_prompt_fr": lambda: instances_of(FR, FR_DEMONSTRATIONS, "Triez les mots.", label_first=False),
    "label_first_prompt": lambda: instances_of(EN, CLASSIFICATION, "Is it hot or cold?", label_first=True),
    "label_first_prompt_zh": lambda: instances_of(ZH, ZH_CLASSIFICATION, "是冷还是热？", label_first=True),
}


@pytest.mark.parametrize("name", PROMPTS)
def test_prompts_are_golden(name: str) -> None:
    assert PROMPTS[name]() == (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")


def test_every_golden_prompt_is_compared() -> None:
    assert {path.stem for path in GOLDEN.glob("*prompt*.txt")} == set(PROMPTS)


def test_what_differs_between_draws_comes_last() -> None:
    """A server keeps what is constant in its prefix cache: the frame over all draws, demonstrations of the later
    steps over one draw's tasks."""
    one, other = OTHERS, tuple(reversed(OTHERS))
    for write in (
        lambda shown: alpaca.prompt(shown, 4, EN),
        lambda shown: instructions_of(EN, shown),
        lambda shown: self_instruct.classification_prompt(wording.of(EN), shown, "Sort."),
        lambda shown: instances_of(EN, shown, "Sort.", label_first=False),
    ):
        frame, _ = write(one).split("\n\n", 1) if "###" not in write(one) else write(one).split("###", 1)
        assert write(other).startswith(frame)
        assert len(frame) > 150
    for write_about in (
        lambda instruction: self_instruct.classification_prompt(wording.of(EN), MIXED, instruction),
        lambda instruction: instances_of(EN, OTHERS, instruction, label_first=False),
        lambda instruction: instances_of(EN, CLASSIFICATION, instruction, label_first=True),
    ):
        before, _, after = write_about("Sort.").rpartition("Sort.")
        assert write_about("Add.") == f"{before}Add.{after}"
        assert "\n" in after or after.startswith("\nClass")


@pytest.mark.parametrize("code", ["en-GB", "zh-TW", "ZH", "En"])
def test_variants_of_a_language_have_its_prompts(code: str) -> None:
    assert wording.of(languages.of(code)) == wording.of(languages.of(code[:2].lower()))


@pytest.mark.parametrize("name", ["{0}", "{domain} 100%", "a\\b"])
def test_a_domain_is_put_in_as_it_is(name: str) -> None:
    assert f"domain: {name}.\n" in alpaca.prompt(DEMONSTRATIONS, 4, EN, name)
    assert f"domain: {name}.\n" in instructions_of(EN, OTHERS, name)
    assert f"领域：{name}。\n" in instructions_of(ZH, ZH_OTHERS, name)


# What our own prompts show, our own parsers read back.


@pytest.fixture(scope="module", params=["en", "zh"])
def own(request: pytest.FixtureRequest) -> tuple[languages.Language, list[Task]]:
    language = languages.of(request.param)
    return language, seeds.read(assets.folder("seeds") / f"{request.param}.jsonl", language)


Own = tuple[languages.Language, list[Task]]


def line(text: str) -> str:
    return " ".join(text.split())


def test_every_own_seed_is_read_back_from_the_alpaca_prompt(own: Own) -> None:
    language, tasks = own
    for seed in tasks:
        text = alpaca.prompt([seed, tasks[0]], 20, language)
        listed = text[text.index("###\n1.") :].rpartition("###")[0]
        found = labelled_tasks(listed)
        assert [c.instruction for c in found] == [seed.instruction, tasks[0].instruction]
        assert [c.instances for c in found] == [seed.instances[:1], tasks[0].instances[:1]]
        assert all(c.well_formed for c in found)


def test_the_alpaca_frame_is_constant(own: Own) -> None:
    language, tasks = own
    draws = [
        sampling.demonstrations(
            tasks, (), humans=3, machines=0, rng=sampling.rng_of(1, 1, number, "demonstrations")
        )
        for number in range(40)
    ]
    prompts = [alpaca.prompt(shown, 20, language) for shown in draws]
    assert len({text[: text.index("###\n1.")] for text in prompts}) == 1
    assert len(set(prompts)) == 40


def test_every_own_seed_is_read_back_from_a_numbered_list(own: Own) -> None:
    language, tasks = own
    for at in range(len(tasks)):
        shown = (tasks[at:] + tasks[:at])[:8]
        listed = instructions_of(language, shown).partition("\n\n1.")[2].removesuffix("9.")
        found = numbered_instructions(listed, first=1)
        assert [c.instruction for c in found] == [line(seed.instruction) for seed in shown]
        assert all(c.well_formed for c in found)


@pytest.mark.parametrize("label_first", [False, True])
def test_every_own_seed_is_read_back_from_its_examples(own: Own, label_first: bool) -> None:
    """Label first for classification tasks only: their labels are one line."""
    language, tasks = own
    labels = wording.of(language).labels
    beginning = labels.class_label if label_first else f"{labels.example} 1\n{labels.input}"
    read = 0
    for seed in tasks:
        if label_first and not seed.is_classification:
            continue
        text = instances_of(language, [seed], "Sort.", label_first=label_first)
        assert text.endswith(f"{labels.task} Sort.\n{beginning}")
        shown = text.split(f"{labels.task} ")[1].partition("\n")[2]
        assert shown.startswith(beginning)
        found = labelled_instances(shown.removeprefix(beginning), prefilled=beginning)
        assert found == (seed.instances, ()), seed.id
        read += 1
    assert read >= 16


def test_at_most_five_examples_of_a_task_are_shown() -> None:
    seven = task("a", "Say yes.", *((f"{n}", f"{n}") for n in range(7)), yes=True)
    for label_first in (False, True):
        text = instances_of(EN, [seven], "Sort.", label_first=label_first)
        assert len(re.findall(r"Input: \d", text)) == 5


def test_a_label_without_an_input_is_shown_as_one() -> None:
    text = instances_of(EN, [task("a", "Pick one: a or b.", ("", "a"), yes=True)], "Sort.", label_first=True)
    assert "Class label: a\nInput: <noinput>\n" in text


# Grammars: what they allow parses whole.

LANGUAGES = (EN, ZH, FR)


def instructions_grammar(language: languages.Language, first: int, tasks: int) -> str:
    return self_instruct.instructions_grammar(wording.of(language), first, tasks)


def instances_grammar(language: languages.Language, *, label_first: bool) -> str:
    return self_instruct.instances_grammar(wording.of(language), label_first=label_first)


def grammars(language: languages.Language) -> dict[str, str]:
    return {
        "tasks": alpaca.grammar(4, 2, language),
        "instructions": instructions_grammar(language, 9, 3),
        "input first": instances_grammar(language, label_first=False),
        "label first": instances_grammar(language, label_first=True),
    }


def parses_whole(kind: str, language: languages.Language, text: str) -> bool:
    """Whether every item of a text that a grammar allows is there and whole."""
    labels, lines = wording.of(language).labels, text.removesuffix("\n").split("\n")
    if kind == "tasks":
        found = labelled_tasks(text, prefilled=f"4. {labels.instruction}")
        return len(found) == 2 and all(c.well_formed and c.instances[0].output for c in found)
    if kind == "instructions":
        found = numbered_instructions(text, first=9)
        return len(found) == 3 and all(c.well_formed for c in found)
    if kind == "label first":
        instances, lost = labelled_instances(text, prefilled=labels.class_label)
        return len(instances) == len(lines) / 2 and not lost
    instances, lost = labelled_instances(text, prefilled=f"{labels.example} 1\n{labels.input}")
    return len(instances) == (len(lines) + 1) / 3 and not lost


KINDS = ("tasks", "instructions", "input first", "label first")

ALLOWED = {
    ("en", "tasks"): [
        " Name a tree.\n4. Input: <noinput>\n4. Output: Oak.\n###\n"
        "5. Instruction: Add them.\n5. Input: 1, 2\n5. Output: 1. six\n- yes\nno\n###\n",
        " Say what 3 is!\n4. Input: Output: 3\n4. Output: Input: 3\nEnd.\na\nb\nc\nd\n###\n"
        "5. Instruction: Is it?\n5. Input: ###\n5. Output: - #\n- a - b\n###\n",
    ],
    ("zh", "tasks"): [
        " 说出一种树。\n4. 输入： <无输入>\n4. 输出： 橡树。\n###\n"
        "5. 指令： 1加2等于几，用汉字回答吗？\n5. 输入： 1，2\n5. 输出： 3\n- 是\n不是。\n###\n".replace(
            "： 1加", "： 请问1加"
        ),
    ],
    ("fr", "tasks"): [
        " Nommez un arbre.\n4. Input: <noinput>\n4. Output: Le chêne.\n###\n"
        "5. Instruction: Écrivez « oui ».\n5. Input: élan\n5. Output: Non.\nÉlan.\n###\n",
    ],
    ("en", "instructions"): [
        " Name a tree.\n10. Add 1, 2) and $3!\n11. Is it 5?\n",
        " Sort these words: 1, 2 and 9) fig.\n10. Task: name a bird.\n11. I (you) do it.\n",
    ],
    ("zh", "instructions"): [" 说出一种树。\n10. 把1、2和3加起来！\n11. 任务：它是什么？\n"],
    ("fr", "instructions"): [" Écrivez un poème.\n10. « Oui », est-ce vrai ?\n11. l'été est-il chaud?\n"],
    ("en", "input first"): [
        " <noinput>\nOutput: Oak.\n",
        " 1, 2\nOutput: 3\n",
        " 1, 2\nOutput: Input: 3\nExample 2\nInput: Example 3\nOutput: 9\nExample 3\nInput: 4\nOutput: 4 <b>\n",
    ],
    ("zh", "input first"): [
        " <无输入>\n输出： 橡树。\n",
        " 1，2\n输出： 3\n示例 2\n输入： 示例 3\n输出： 输入： 9\n示例 3\n输入： 4\n输出： 4\n",
    ],
    ("fr", "input first"): [" été\nOutput: hiver\nExample 2\nInput: élan\nOutput: à\n"],
    ("en", "label first"): [
        " positive\nInput: A joy.\n",
        " 1\nInput: Input: a\nClass label: Input: 2\nInput: Class label: 3\nClass label: 3\nInput: b\n",
    ],
    ("zh", "label first"): [" 好\n输入： 真好。\n类别： 坏\n输入： 类别：坏\n类别： 中\n输入： 行\n"],
    ("fr", "label first"): [" été\nInput: Il fait chaud.\nClass label: hiver\nInput: à\n"],
}

# A text that the English grammar allows, and pieces of it that break its form.
BROKEN: dict[str, tuple[str, list[tuple[str, str]]]] = {
    "tasks": (
        ALLOWED["en", "tasks"][0],
        [
            ("5. Output", "Output"),
            ("###\n5", "5"),
            ("5. Instruction", "6. Instruction"),
            ("4. Input: <noinput>\n", ""),
            ("<noinput>", "<none>"),
            ("Oak.", "# Oak."),
            ("Oak.", "\nOak."),
            ("Oak.", "Oak.\n4. Output: Elm."),
            ("Oak.", "Oak.\n 4. Output: Elm."),
            ("Oak.", "Oak.\n- 4. Output: Elm."),
            ("Oak.", "Oak.\n- - 4. Output: Elm."),
            ("Oak.", "Oak.\n４. Output: Elm."),
            ("Oak.", "Oak.\nOutput: Elm."),
            ("Oak.", "Oak.\n**Input:** Elm."),
            ("Oak.", "Oak.\n ###\nElm."),
            ("Oak.", "Oak.\n--- ###\nElm."),
            ("Oak.", "Oak" + 6 * "\nand so on"),
            (" Name a tree.", " "),
            (" Name a tree.", " name a tree."),
            (" Name", "Sure! Name"),
            ("no\n###\n", "no\n"),
        ],
    ),
    "instructions": (
        ALLOWED["en", "instructions"][0],
        [
            ("10. ", "12. "),
            ("10. ", "10) "),
            ("10. ", ""),
            ("10. Add", "10. add"),
            ("10. Add", "10. 1. Add"),
            ("Add 1", "Add\n1"),
            ("10. Add", "\n10. Add"),
            (" Name a tree.\n", " Name a tree\n"),
            (" Name a tree.\n", " \n"),
            (" Name a tree.", " Sure:\n9. Name a tree."),
            ("5?\n", "5?"),
            ("5?\n", "5?\n12. It is.\n"),
        ],
    ),
    "input first": (
        ALLOWED["en", "input first"][2],
        [
            ("Output: Input: 3\n", ""),
            ("Output: Input: 3\n", "Output:\n"),
            ("Output: Input: 3\n", "Output: #3\n"),
            ("Output: Input: 3\n", "Output: 3\nso\n"),
            ("Example 2\n", ""),
            ("Example 2\n", "Example 3\n"),
            (" 1, 2\n", " \n"),
            (" 1, 2\n", " <noinput>\n"),  # a task without input has one example
            ("Example 3\nInput: 4", "Example 3\nInput: <noinput>"),
            ("<b>\n", "<b>\nExample 4\nInput: 4\nOutput: 5\n"),
            ("<b>\n", "<b>"),
        ],
    ),
    "label first": (
        ALLOWED["en", "label first"][1],
        [
            (" 1\n", " \n"),
            (" 1\n", " <b>\n"),
            ("Input: b\n", ""),
            ("Input: b\n", "Input: b\nc\n"),
            ("Input: b\n", "Input: <noinput>\n"),
            ("Input: b\n", "Output: b\n"),
            ("Input: b\n", "Input: b\nClass label: 4\nInput: c\n"),
            ("Class label: 3\n", "\nClass label: 3\n"),
        ],
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("language", LANGUAGES, ids=lambda language: str(language.code))
def test_texts_that_a_grammar_allows_parse_whole(language: languages.Language, kind: str) -> None:
    pattern = re.compile(grammars(language)[kind])
    for text in ALLOWED[language.code, kind]:
        assert pattern.fullmatch(text), text
        assert parses_whole(kind, language, text), text


@pytest.mark.parametrize("kind", KINDS)
def test_what_breaks_the_form_is_not_allowed(kind: str) -> None:
    pattern = re.compile(grammars(EN)[kind])
    text, pieces = BROKEN[kind]
    assert pattern.fullmatch(text)
    for piece, instead in pieces:
        assert piece in text
        broken = text.replace(piece, instead, 1)
        assert not pattern.fullmatch(broken), broken
    assert not pattern.fullmatch("Sure! " + text)
    assert not pattern.fullmatch(text + "Bye.\n")


def test_a_chinese_grammar_asks_for_chinese() -> None:
    pattern = re.compile(instructions_grammar(ZH, 9, 1))
    assert pattern.fullmatch(" 说出一种树。\n")
    assert not pattern.fullmatch(" Name a tree.\n")
    assert not pattern.fullmatch(" Name a tree。\n")
    assert not pattern.fullmatch(" 说出一种树.\n")
    assert not pattern.fullmatch(" 。树。\n")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("language", LANGUAGES, ids=lambda language: str(language.code))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_text_that_a_grammar_allows_parses_whole(
    language: languages.Language, kind: str, data: st.DataObject
) -> None:
    labels = wording.of(language).labels
    alphabet = st.sampled_from(
        [*"abAIO \t\n.:0123456789#*_-<>?!,", *"一。：？３é", *labels.input, *labels.output, *labels.instruction]
    )
    regex = grammars(language)[kind].replace("一-龥", "一树")  # a wide range takes seconds to draw from
    text = data.draw(st.from_regex(regex, fullmatch=True, alphabet=alphabet))
    assert parses_whole(kind, language, text)
