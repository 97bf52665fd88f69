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
from tests.support.passing import all_pass

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
    language: languages.Language,
    shown: Sequence[Task],
    domain: str | None = None,
    only: bool = False,
    chat_total: int | None = None,
) -> str:
    return self_instruct.instructions_prompt(
        wording.of(language),
        language.name,
        shown,
        domain=domain,
        only_classification=only,
        chat_total=chat_total,
    )


def kind_of(language: languages.Language, shown: Sequence[Task], instruction: str, *, chat: bool = False) -> str:
    return self_instruct.classification_prompt(wording.of(language), shown, instruction, chat=chat)


def instances_of(
    language: languages.Language,
    shown: Sequence[Task],
    instruction: str,
    *,
    label_first: bool,
    chat: bool = False,
) -> str:
    return self_instruct.instances_prompt(
        wording.of(language), language.name, shown, instruction, label_first=label_first, chat=chat
    )


MIXED, ZH_MIXED = (*CLASSIFICATION, *OTHERS), (*ZH_CLASSIFICATION, *ZH_OTHERS)
PROMPTS: dict[str, Callable[[], str]] = {
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
    "classification_prompt": lambda: kind_of(EN, MIXED, "Sort the words by length."),
    "classification_prompt_zh": lambda: kind_of(ZH, ZH_MIXED, "把这些词按长短排序。"),
    "input_first_prompt": lambda: instances_of(EN, OTHERS, "Sort the words by length.", label_first=False),
    "input_first_prompt_zh": lambda: instances_of(ZH, ZH_OTHERS, "把这些词按长短排序。", label_first=False),
    "input_first_prompt_fr": lambda: instances_of(FR, FR_DEMONSTRATIONS, "Triez les mots.", label_first=False),
    "label_first_prompt": lambda: instances_of(EN, CLASSIFICATION, "Is it hot or cold?", label_first=True),
    "label_first_prompt_zh": lambda: instances_of(ZH, ZH_CLASSIFICATION, "是冷还是热？", label_first=True),
}
CHAT_PROMPTS: dict[str, Callable[[], str]] = {
    "alpaca_prompt": lambda: alpaca.prompt(DEMONSTRATIONS, 4, EN, chat=True),
    "alpaca_prompt_zh": lambda: alpaca.prompt(ZH_DEMONSTRATIONS, 4, ZH, chat=True),
    "alpaca_prompt_fr": lambda: alpaca.prompt(FR_DEMONSTRATIONS, 4, FR, chat=True),
    "instructions_prompt": lambda: instructions_of(EN, MIXED, chat_total=13),
    "instructions_prompt_zh": lambda: instructions_of(ZH, ZH_MIXED, chat_total=13),
    "classification_prompt": lambda: kind_of(EN, MIXED, "Sort the words by length.", chat=True),
    "classification_prompt_zh": lambda: kind_of(ZH, ZH_MIXED, "把这些词按长短排序。", chat=True),
    "input_first_prompt": lambda: instances_of(
        EN, OTHERS, "Sort the words by length.", label_first=False, chat=True
    ),
    "input_first_prompt_zh": lambda: instances_of(
        ZH, ZH_OTHERS, "把这些词按长短排序。", label_first=False, chat=True
    ),
    "label_first_prompt": lambda: instances_of(
        EN, CLASSIFICATION, "Is it hot or cold?", label_first=True, chat=True
    ),
    "label_first_prompt_zh": lambda: instances_of(
        ZH, ZH_CLASSIFICATION, "是冷还是热？", label_first=True, chat=True
    ),
}
PROMPTS |= {f"chat_{name}": prompt for name, prompt in CHAT_PROMPTS.items()}


@pytest.mark.parametrize("name", PROMPTS)
def test_prompts_are_golden(name: str) -> None:
    assert PROMPTS[name]() == (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")


def test_every_golden_prompt_is_compared() -> None:
    assert {path.stem for path in GOLDEN.glob("*prompt*.txt")} == set(PROMPTS)


@pytest.mark.parametrize("name", CHAT_PROMPTS)
def test_a_prompt_for_a_chat_is_the_other_with_a_paragraph_before_it_breaks_off(name: str) -> None:
    """So that an endpoint can make its last line the assistant's first words."""
    bare, chat = PROMPTS[name](), CHAT_PROMPTS[name]()
    breaks_off = (
        "Example 1\nInput:" if bare.endswith("\nInput:") else "示例 1\n输入：" if bare.endswith("\n输入：") else ""
    )
    breaks_off = breaks_off or bare.rpartition("\n")[2]
    frame = bare.removesuffix(breaks_off)
    assert chat.startswith(frame)
    assert chat.endswith(breaks_off)
    asking = chat.removeprefix(frame).removesuffix(breaks_off)
    assert re.fullmatch(r"\n[^\n]+\n\n", asking)
    assert "{" not in asking


def test_what_differs_between_draws_comes_last() -> None:
    """A server keeps what is constant in its prefix cache: the frame over all draws, demonstrations of the later
    steps over one draw's tasks."""
    one, other = OTHERS, tuple(reversed(OTHERS))
    writers: list[tuple[str, Callable[[Sequence[Task]], str]]] = [
        ("\n\n###\n1. Instruction: ", lambda shown: alpaca.prompt(shown, 4, EN)),
        ("\n\n1. ", lambda shown: instructions_of(EN, shown)),
        ("\n\nTask: ", lambda shown: self_instruct.classification_prompt(wording.of(EN), shown, "Sort.")),
        ("\n\nTask: ", lambda shown: instances_of(EN, shown, "Sort.", label_first=False)),
    ]
    for first_words, write in writers:
        frame, _, _ = write(one).partition(first_words)
        assert write(other).startswith(frame + first_words)
        assert len(frame) > 150
    about: list[Callable[[str], str]] = [
        lambda instruction: self_instruct.classification_prompt(wording.of(EN), MIXED, instruction),
        lambda instruction: instances_of(EN, OTHERS, instruction, label_first=False),
        lambda instruction: instances_of(EN, CLASSIFICATION, instruction, label_first=True),
    ]
    for write_about in about:
        before, _, after = write_about("Sort.").rpartition("Sort.")
        assert write_about("Add.") == f"{before}Add.{after}"
        assert after in ("\nClassification:", "\nExample 1\nInput:", "\nClass label:")


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
        "5. 指令： 请问1加2等于几？\n5. 输入： 1，2\n5. 输出： 3\n- 是\n不是。\n###\n",
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
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
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


@pytest.mark.parametrize("code", ["en", "zh", "fr", "de", "ru", "ja", "ar"])
def test_grammars_compile_in_time_and_everywhere(code: str) -> None:
    language = languages.of(code)
    labels = wording.of(language).labels
    many = {
        **grammars(language),
        "twenty tasks": alpaca.grammar(4, 20, language),
        "fifty instructions": instructions_grammar(language, 9, 50),
        "yes or no": f" ({labels.yes}|{labels.no})",
    }
    for name, pattern in many.items():
        assert "{" not in pattern, name  # bounded repetition is expanded until a compiler hangs
        check_repetition(Grammar.from_regex(pattern))
        assert "\\u" not in pattern, name  # the compiler of older text-generation-inference servers refuses it
        # The embedded engine's compiler takes "\s0-9" for a range that begins at a blank.
        assert not re.search(r"\\s\w-", pattern), name


# Requests driven by a script.

Answer = str | Completion | Exception


@dataclass
class Call:
    stage: str
    item: int
    prompt: str
    decoding: Decoding
    shown: tuple[Task, ...]
    ended: bool = False


@dataclass
class Script:
    """Stands for the endpoint: answers by stage and item, later where `delays` says so, and remembers."""

    answers: Callable[[str, int], Answer]
    delays: random.Random | None = None
    calls: list[Call] = field(default_factory=list)

    async def __call__(
        self, stage: str, prompt: str, decoding: Decoding, *, shown: Sequence[Task], item: int = 0
    ) -> Completion:
        call = Call(stage, item, prompt, decoding, tuple(shown))
        self.calls.append(call)
        await asyncio.sleep(self.delays.random() / 200 if self.delays else 0)
        call.ended = True
        answer = self.answers(stage, item)
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, Completion) else Completion(answer, FINISH_EOS)

    def of(self, stage: str) -> list[Call]:
        return sorted((call for call in self.calls if call.stage == stage), key=lambda call: call.item)

    def sent(self) -> set[tuple[str, int]]:
        return {(call.stage, call.item) for call in self.calls}


def scripted(**answers: Answer | dict[int, Answer]) -> Script:
    """Answers by stage, the same for every item or by item."""

    def answer(stage: str, item: int) -> Answer:
        found = answers[stage]
        return found[item] if isinstance(found, dict) else found

    return Script(answer)


OPTIONS: dict[str, Any] = {
    "only_classification": False,
    "classification_demonstrations": 4,
    "label_first_demonstrations": 2,
    "input_first_demonstrations": 3,
    "classification_room": None,
    "instance_room": None,
    "instance_max_new_tokens": 250,
    "instance_temperature": None,
    "instance_frequency_penalty": 0.2,
}
PLAN = recipes.Plan(
    language=EN,
    domain=None,
    tasks_per_request=4,
    use_grammar=False,
    humans=6,
    machines=2,
    decoding=Decoding(max_new_tokens=600, temperature=0.7, top_p=0.5, frequency_penalty=0.2),
    options=OPTIONS,
)
HUMAN = [task(f"s{n}", f"Seed {n} asks for text.", (f"in {n}", f"out {n}"), yes=n % 3 == 0) for n in range(15)]
MACHINE = [task(f"m{n}", f"Machine {n} asks too.", ("", "x"), yes=n % 2 == 0) for n in range(8)]


def deck(number: int = 0, human: Sequence[Task] = HUMAN, machine: Sequence[Task] = MACHINE) -> sampling.Deck:
    return sampling.Deck(human, machine, partial(sampling.rng_of, 42, 1, number))


def plan(options: dict[str, Any] | None = None, **values: Any) -> recipes.Plan:
    return replace(PLAN, options={**OPTIONS, **(options or {})}, **values)


async def grown(
    script: Script,
    passes: Callable[[Candidate], bool] = lambda candidate: True,
    *,
    on: sampling.Deck | None = None,
    by: recipes.Plan = PLAN,
) -> list[Candidate]:
    async def passing(candidates: Sequence[Candidate]) -> list[bool]:
        return [passes(candidate) for candidate in candidates]

    return await self_instruct.run(on or deck(), script, passing, by)


LIST = " Name a tree.\n10. Pick a or b.\n11. Name a fish.\n12. Pick c or d."
KIND: dict[int, Answer] = {0: " No", 1: " Yes", 2: " No", 3: " Yes"}
MADE: dict[int, Answer] = {
    0: " <noinput>\nOutput: Oak.",
    1: " a\nInput: An apple.\nClass label: b\nInput: A pear.",
    2: " big\nOutput: Cod.\nExample 2\nInput: small\nOutput: Sprat.",
    3: " c\nInput: A carrot.",
}
TREE = Candidate(
    "Name a tree.", (Instance("", "Oak."),), is_classification=False, stage="instances", calls=(0, 1, 2)
)
A_OR_B = Candidate(
    *("Pick a or b.", (Instance("An apple.", "a"), Instance("A pear.", "b"))),
    is_classification=True,
    stage="instances",
    calls=(0, 4, 5),
)
FISH = Candidate(
    *("Name a fish.", (Instance("big", "Cod."), Instance("small", "Sprat."))),
    is_classification=False,
    stage="instances",
    calls=(0, 7, 8),
)
C_OR_D = Candidate(
    *("Pick c or d.", (Instance("A carrot.", "c"),)),
    is_classification=True,
    stage="instances",
    calls=(0, 10, 11),
)


def usual(**changed: Answer | dict[int, Answer]) -> Script:
    return scripted(**{"instructions": LIST, "classification": KIND, "instances": MADE, **changed})


async def test_each_instruction_passes_its_steps_by_itself() -> None:
    script = usual()
    assert await grown(script) == [TREE, A_OR_B, FISH, C_OR_D]
    assert len(script.calls) == len(script.sent()) == 9
    # Each candidate names the completions that it was made of, and no two completions have one number.
    numbers = {self_instruct.RECIPE.call(call.stage, call.item) for call in script.calls}
    assert numbers == {0, 1, 2, 4, 5, 7, 8, 10, 11}
    (first,) = script.of("instructions")
    assert first.prompt == instructions_of(EN, first.shown)
    for item, candidate in enumerate((TREE, A_OR_B, FISH, C_OR_D)):
        assert candidate.instruction is not None
        asked, made = script.of("classification")[item], script.of("instances")[item]
        assert asked.prompt == self_instruct.classification_prompt(
            wording.of(EN), asked.shown, candidate.instruction
        )
        label_first = bool(candidate.is_classification)
        assert made.prompt == instances_of(EN, made.shown, candidate.instruction, label_first=label_first)
        assert made.prompt.endswith("Class label:" if label_first else "Example 1\nInput:")
        assert {seed.is_classification for seed in made.shown} == {label_first}


async def test_the_same_in_chinese() -> None:
    script = scripted(
        instructions="说出一种树。\n10、任务：选甲或乙。",
        classification={0: "否", 1: " 是的"},
        instances={0: "<无输入>\n输出：橡树。", 1: " 甲\n输入： 苹果。\n类别： 乙\n输入： 梨。"},
    )
    found = await grown(script, by=plan(language=ZH))
    assert [(c.instruction, c.instances) for c in found] == [
        ("说出一种树。", (Instance("", "橡树。"),)),
        ("选甲或乙。", (Instance("苹果。", "甲"), Instance("梨。", "乙"))),
    ]
    assert [call.prompt.rpartition("\n")[2] for call in script.of("instances")] == ["输入：", "类别："]
    assert script.of("classification")[0].prompt.endswith("任务： 说出一种树。\n是否为分类任务：")
    assert script.of("instructions")[0].prompt == instructions_of(ZH, script.of("instructions")[0].shown)


@pytest.mark.parametrize(
    ("language", "answer", "expected"),
    [
        (EN, " Yes", True),
        (EN, "YES.", True),
        (EN, " yes, it", True),
        (EN, " No", False),
        (EN, " Not yes", False),
        (EN, " Maybe", False),  # only a yes is a yes
        (EN, "", False),
        (ZH, " 是", True),
        (ZH, "否", False),
        (ZH, "不是", False),
        (FR, " Yes", True),
    ],
)
async def test_only_a_yes_is_a_yes(language: languages.Language, answer: str, expected: bool) -> None:
    script = scripted(instructions=" Écrivez.", classification=answer, instances=" a\nInput: b\nOutput: c")
    (found,) = await grown(script, by=plan(language=language))
    assert found.is_classification is expected


async def test_tasks_of_earlier_rounds_are_shown_among_the_seeds() -> None:
    orders = set()
    for number in range(12):
        script = usual()
        await grown(script, on=deck(number))
        (first,) = script.of("instructions")
        made = [seed.id.startswith("m") for seed in first.shown]
        assert (len(set(first.shown)), sum(made)) == (8, 2)
        # The purpose is a part of the draw's name: another one would make resumed runs repeat or skip draws.
        rng = sampling.rng_of(42, 1, number, "demonstrations")
        assert first.shown == sampling.demonstrations(HUMAN, MACHINE, humans=6, machines=2, rng=rng)
        orders.add(tuple(made))
        assert first.prompt.endswith("\n9.")
        later = [call for call in script.calls if call.stage != "instructions"]
        assert not any(seed.id.startswith("m") for call in later for seed in call.shown)
    assert len(orders) > 6


async def test_seeds_take_their_places_in_the_first_round() -> None:
    script = usual()
    await grown(script, on=deck(machine=()))
    (first,) = script.of("instructions")
    assert len(set(first.shown)) == 8
    assert first.prompt.endswith("\n9.")


async def test_later_demonstrations_are_a_draws_own() -> None:
    draws, kind_orders = [], set()
    for number in range(6):
        script = usual()
        await grown(script, on=deck(number))
        for stage, kinds in (("classification", 1), ("instances", 2)):
            assert len({call.shown for call in script.of(stage)}) == kinds  # the same for all tasks of a kind
        kinds_shown = tuple(seed.is_classification for seed in script.of("classification")[0].shown)
        assert (kinds_shown.count(True), kinds_shown.count(False)) == (2, 2)
        kind_orders.add(kinds_shown)
        draws.append(tuple(call.shown for call in script.of("classification") + script.of("instances")))
        counts = [len(call.shown) for call in script.of("instances")]
        assert counts == [3, 2, 3, 2]
    for column in zip(*draws, strict=True):
        assert len(set(column)) > 3
    assert len(kind_orders) > 1


async def test_what_does_not_pass_costs_no_further_request() -> None:
    judged: list[str | None] = []

    def passes(candidate: Candidate) -> bool:
        judged.append(candidate.instruction)
        assert candidate.stage == "instructions"
        return candidate.instruction != "Pick a or b."

    script = usual()
    found = await grown(script, passes)
    assert judged == ["Name a tree.", "Pick a or b.", "Name a fish.", "Pick c or d."]
    # It is returned as it is, to be judged again; the others keep their numbers.
    assert found == [TREE, Candidate("Pick a or b.", stage="instructions"), FISH, C_OR_D]
    assert {item for _, item in script.sent() - {("instructions", 0)}} == {0, 2, 3}

    script = usual()
    assert {c.stage for c in await grown(script, lambda candidate: False)} == {"instructions"}
    assert script.sent() == {("instructions", 0)}


async def test_a_list_cut_off_loses_its_last_instruction_only() -> None:
    script = usual(instructions=Completion(LIST[:-6], FINISH_LENGTH))
    found = await grown(script)
    cut = Candidate("Pick c", cut_off=True, stage="instructions")
    assert found == [TREE, A_OR_B, FISH, cut]
    assert ("classification", 3) not in script.sent()


async def test_an_empty_item_costs_no_request_and_shifts_no_number() -> None:
    script = usual(instructions=LIST.replace("Pick a or b.", ""))
    found = await grown(script)
    assert found == [TREE, Candidate(None, missing="instruction", stage="instructions"), FISH, C_OR_D]
    assert ("classification", 1) not in script.sent()


async def test_instances_cut_off_are_lost_and_the_task_is_not() -> None:
    made: dict[int, Answer] = {
        **MADE,
        0: Completion(" <noinput>\nOutput: Oa", FINISH_LENGTH),
        2: Completion(str(MADE[2]), FINISH_LENGTH),
    }
    found = await grown(usual(instances=made))
    lost = (Lost(Instance("", "Oa"), Drop("cut_off")),), (Lost(Instance("small", "Sprat."), Drop("cut_off")),)
    assert found == [
        replace(TREE, instances=(), lost=lost[0]),
        A_OR_B,
        replace(FISH, instances=FISH.instances[:1], lost=lost[1]),
        C_OR_D,
    ]


async def test_only_classification() -> None:
    script = usual()
    found = await grown(script, by=plan({"only_classification": True}, humans=4, machines=2))
    tree, fish = (
        replace(
            c, instances=(), stage="classification", calls=c.calls[:2], failure=Drop("not_classification", "No")
        )
        for c in (TREE, FISH)
    )
    assert found == [tree, A_OR_B, fish, C_OR_D]
    assert {item for stage, item in script.sent() if stage == "instances"} == {1, 3}
    (first,) = script.of("instructions")
    assert len(first.shown) == 6
    assert all(shown.is_classification for shown in first.shown)
    assert sum(shown.id.startswith("m") for shown in first.shown) == 2
    assert first.prompt == instructions_of(EN, first.shown, only=True)
    for number in range(1, 6):
        await grown(again := usual(), on=deck(number), by=plan({"only_classification": True}))
        assert all(shown.is_classification for shown in again.of("instructions")[0].shown)
    # Asked whether it is classification, a model has to see what is not.
    assert {seed.is_classification for seed in script.of("classification")[0].shown} == {False, True}


async def test_the_domain_is_asked_for_where_tasks_are_written() -> None:
    script = usual()
    await grown(script, by=plan(domain="gardening"))
    (first,) = script.of("instructions")
    assert first.prompt == instructions_of(EN, first.shown, "gardening")
    assert not any("gardening" in call.prompt for call in script.calls if call is not first)


async def test_decoding_of_each_step() -> None:
    script = usual()
    await grown(script)
    assert script.of("instructions")[0].decoding == replace(PLAN.decoding, stop=("\n13.",))
    for call in script.of("classification"):
        assert call.decoding == Decoding(max_new_tokens=3, stop=("\n",))
    for call in script.of("instances"):
        assert call.decoding == Decoding(
            max_new_tokens=250, frequency_penalty=0.2, stop=("\nTask:", "\nExample 6")
        )
    for call in script.calls:
        assert call.decoding.greedy is (call.stage != "instructions")
        assert call.decoding.seed is None  # whoever sends it sets one
        assert call.decoding.grammar is None
        assert len(call.decoding.stop) <= 4  # more are refused by text-generation-inference

    script = usual()
    await grown(script, by=plan({"instance_temperature": 0.7, "instance_max_new_tokens": 99}))
    for call in script.of("instances"):
        assert (call.decoding.temperature, call.decoding.max_new_tokens) == (0.7, 99)
    assert all(call.decoding.greedy for call in script.of("classification"))


@pytest.mark.parametrize("language", [EN, ZH], ids=lambda language: str(language.code))
async def test_decoding_for_a_chat(language: languages.Language) -> None:
    """Talk may come before a yes or no, so it has room and no line ends it; the rest is the same."""
    bare, chat = usual(), usual()
    await grown(bare, by=plan(language=language))
    await grown(chat, by=plan(language=language, chat=True))
    for stage in ("instructions", "instances"):
        assert [call.decoding for call in chat.of(stage)] == [call.decoding for call in bare.of(stage)]
    assert {call.decoding for call in chat.of("classification")} == {Decoding(max_new_tokens=24)}


@pytest.mark.parametrize(
    ("language", "answer", "expected"),
    [
        (EN, "Yes.", True),
        (EN, "Classification: Yes", True),
        (EN, "**Classification:** Yes, one of two labels.", True),
        (EN, "Sure! Here is the answer:\n\nClassification: **Yes**", True),
        (EN, "Task: Name a tree.\nClassification: Yes", True),
        (EN, "<think>\nNo?\n</think>\n\nYes", True),
        (EN, "No. Yes would mean a fixed set.", False),
        (EN, "Classification: No", False),
        (EN, "<think>\nYes, because", False),
        (ZH, "是。", True),
        (ZH, "是否为分类任务：是", True),
        (ZH, "好的！\n\n**是否为分类任务：** 否", False),
        (ZH, "不是", False),
    ],
)
async def test_a_yes_among_a_chat_models_words(language: languages.Language, answer: str, expected: bool) -> None:
    script = usual(instructions=" Name a tree.", classification=answer, instances=" a\nInput: b\nOutput: c")
    (found,) = await grown(script, by=plan(language=language, chat=True))
    assert found.is_classification is expected


def test_a_card_says_that_a_chat_model_was_asked() -> None:
    settings: dict[str, Any] = {"decoding": {"frequency_penalty": 0.2}}
    for recipe in (alpaca.RECIPE, self_instruct.RECIPE):
        assert "chat model" not in recipe.differences({**settings, "chat": False})
        assert recipe.differences(settings) == recipe.differences({**settings, "chat": False})
        assert "went to a chat model as messages" in recipe.differences({**settings, "chat": True})


async def test_decoding_in_chinese() -> None:
    script = usual()
    await grown(script, by=plan(language=ZH))
    assert {call.decoding.stop for call in script.of("instances")} == {("\n任务：", "\n示例 6")}
    # A vocabulary without a character's own token spells it in several.
    assert {call.decoding.max_new_tokens for call in script.of("classification")} == {12}


@pytest.mark.parametrize("language", LANGUAGES, ids=lambda language: str(language.code))
async def test_grammars_are_sent_where_asked_for(language: languages.Language) -> None:
    labels = wording.of(language).labels
    script = usual(classification={n: f" {labels.yes if n % 2 else labels.no}" for n in range(4)})
    await grown(script, by=plan(language=language, use_grammar=True))
    assert script.of("instructions")[0].decoding.grammar == ("regex", instructions_grammar(language, 9, 4))
    yes_or_no = {call.decoding.grammar for call in script.of("classification")}
    assert yes_or_no == {("regex", f" ({labels.yes}|{labels.no})")}
    sent = [call.decoding.grammar for call in script.of("instances")]
    expected = [("regex", instances_grammar(language, label_first=bool(n % 2))) for n in range(4)]
    assert sent == expected


def refused(said: str = "422: the prompt is too long") -> EndpointRefusedError:
    return EndpointRefusedError(f"http://127.0.0.1: {said}", said=said)


@pytest.mark.parametrize(("stage", "calls", "kind"), [("classification", (0,), None), ("instances", (0, 4), True)])
async def test_a_refused_request_loses_its_own_task_only(
    stage: str, calls: tuple[int, ...], kind: bool | None
) -> None:
    answers = {"classification": KIND, "instances": MADE}
    script = usual(**{stage: {**answers[stage], 1: refused()}})
    gone = Candidate(
        "Pick a or b.",
        is_classification=kind,
        stage=stage,
        calls=calls,
        failure=Drop("request_refused", "422: the prompt is too long"),
    )
    assert await grown(script) == [TREE, gone, FISH, C_OR_D]
    assert (("instances", 1) in script.sent()) is (stage == "instances")


async def test_a_refusal_is_told_without_the_address_and_not_at_length() -> None:
    (found,) = await grown(
        scripted(instructions=" Name a tree.", classification=refused("422: " + "x" * 500), instances="")
    )
    # One task alone cannot tell whether it is the request or the endpoint.
    assert found.failure == Drop("request_refused", "422: " + "x" * 195)


async def test_where_all_are_refused_each_loses_its_task() -> None:
    """Whether it is the endpoint is not for one draw to say: see grow.py."""
    script = usual(classification={**KIND, 0: refused(), 1: refused()}, instances={2: refused(), 3: refused()})
    found = await grown(script)
    assert [c.failure.reason if c.failure else None for c in found] == ["request_refused"] * 4
    assert [c.stage for c in found] == ["classification", "classification", "instances", "instances"]


@pytest.mark.parametrize(
    ("language", "answer", "expected"),
    [
        ("en", " Yes", True),
        ("en", "yes, it is", True),
        ("en", " Yesterday", False),
        ("en", " No", False),
        ("en", " Maybe", False),
        ("en", "", False),
        ("zh", " 是", True),
        ("zh", "是。", True),
        ("zh", "是否为分类任务：否", False),
        ("zh", " 否", False),
    ],
)
def test_a_word_that_begins_like_yes_is_none(language: str, answer: str, expected: bool) -> None:
    labels = wording.of(languages.of(language)).labels
    assert self_instruct._says_yes(answer.strip(), labels) is expected


async def test_a_refused_list_is_an_error() -> None:
    script = usual(instructions=refused())
    with pytest.raises(EndpointRefusedError):
        await grown(script)
    assert script.sent() == {("instructions", 0)}


async def test_another_error_is_raised_when_the_others_have_finished() -> None:
    lost = EndpointUnreachableError("nothing answers")
    script = usual(classification={**KIND, 0: lost}, instances={**MADE, 3: refused()})
    script.delays = random.Random(3)
    with pytest.raises(EndpointUnreachableError, match="nothing answers"):
        await grown(script)
    # No answer is lost to it: the others went through both steps.
    assert {("instances", 1), ("instances", 2), ("instances", 3)} <= script.sent()
    assert all(call.ended for call in script.calls)


async def test_candidates_do_not_depend_on_the_order_of_answers() -> None:
    orders = set()
    for number in range(8):
        script = usual(instances={**MADE, 3: refused()})
        script.delays = random.Random(number)
        gone = replace(C_OR_D, instances=(), calls=(0, 10), failure=Drop("request_refused", refused().said))
        assert await grown(script) == [TREE, A_OR_B, FISH, gone]
        orders.add(tuple((call.stage, call.item) for call in script.calls))
        reference = usual(instances={**MADE, 3: refused()})
        await grown(reference)
        asked = [sorted(map(what, one.calls), key=repr) for one in (script, reference)]
        assert asked[0] == asked[1]
    assert len(orders) > 1


def what(call: Call) -> tuple[str, int, str, Decoding, tuple[Task, ...]]:
    return call.stage, call.item, call.prompt, call.decoding, call.shown


def tokens_shown(tasks: Iterable[Task], *, whole: bool) -> int:
    return sum(
        estimated_tokens(t.instruction + ("".join(i.input + i.output for i in t.instances) if whole else ""))
        for t in tasks
    )


@pytest.mark.parametrize(
    ("room", "mixed", "label_first", "input_first"),
    [(None, 4, 2, 3), (1000, 4, 2, 3), (26, 2, 2, 2), (12, 2, 1, 1), (0, 2, 1, 1)],
)
async def test_small_rooms_take_fewer_demonstrations(
    room: int | None, mixed: int, label_first: int, input_first: int
) -> None:
    script = usual()
    await grown(script, by=plan({"classification_room": room, "instance_room": room}))
    assert {len(call.shown) for call in script.of("classification")} == {mixed}
    assert [len(call.shown) for call in script.of("instances")] == 2 * [input_first, label_first]
    for call in script.calls:
        if room and call.stage != "instructions" and len(call.shown) > 2:
            assert tokens_shown(call.shown, whole=call.stage == "instances") <= room


async def test_a_long_seed_gives_way_to_short_ones() -> None:
    long = [replace(seed, instances=(Instance("x" * 900, "y"),)) for seed in HUMAN[:9]]
    script = usual()
    await grown(script, on=deck(human=[*long, *HUMAN[9:]]), by=plan({"instance_room": 60}))
    for call in script.of("instances"):
        assert len(call.shown) > 1
        assert {seed.id for seed in call.shown} <= {seed.id for seed in HUMAN[9:]}
        assert tokens_shown(call.shown, whole=True) <= 60


# Alpaca's single step.


async def test_a_draw_asks_once_with_a_stop_that_no_answer_holds_by_chance() -> None:
    text = " Name a tree.\n3. Input: x\n3. Output: It costs $20.\nSince 2016. Oak"
    script = scripted(tasks=Completion(text, FINISH_LENGTH))
    by = plan(use_grammar=True, humans=2, machines=0, decoding=Decoding(max_new_tokens=600))
    found = await alpaca.run(deck(human=DEMONSTRATIONS), script, all_pass, by)
    expected = Candidate(
        *("Name a tree.", (Instance("x", "It costs $20.\nSince 2016. Oak"),)), cut_off=True, stage="tasks"
    )
    assert found == [expected]
    (call,) = script.calls
    assert (call.stage, call.item) == ("tasks", 0)
    rng = sampling.rng_of(42, 1, 0, "demonstrations")
    assert call.shown == sampling.demonstrations(DEMONSTRATIONS, (), humans=2, machines=0, rng=rng)
    assert call.prompt == alpaca.prompt(call.shown, 4, EN)
    assert call.decoding == Decoding(
        max_new_tokens=600, stop=("\n7. Instruction:",), grammar=("regex", alpaca.grammar(3, 4, EN))
    )


async def test_alpaca_in_chinese_with_a_domain_and_tasks_of_earlier_rounds() -> None:
    bare = Task("bare", "说出一种鸟。", ())  # an imported instruction has nothing to show
    made = task("m", "说出一种鱼。", ("", "鲤鱼。"))
    script = scripted(tasks="说出一种花。\n4、输入：无\n4、输出：菊花。\n###\n")
    by = plan(language=ZH, domain="园艺", humans=2, machines=2)
    (found,) = await alpaca.run(deck(human=ZH_DEMONSTRATIONS, machine=[bare, made]), script, all_pass, by)
    assert (found.instruction, found.instances) == ("说出一种花。", (Instance("", "菊花。"),))
    (call,) = script.calls
    assert set(call.shown) == {*ZH_DEMONSTRATIONS, made}
    assert call.prompt == alpaca.prompt(call.shown, 4, ZH, "园艺")
    assert call.decoding.stop == ("\n8. 指令：",)


def test_call_numbers_are_unique_within_a_draw() -> None:
    recipe = self_instruct.RECIPE
    assert [recipe.call(stage, 0) for stage in STAGES] == [0, 1, 2]
    assert len({recipe.call(stage, item) for stage in STAGES for item in range(50)}) == 150
    assert alpaca.RECIPE.call("tasks", 0) == 0


def test_recipes_are_found_by_name() -> None:
    for recipe in (alpaca.RECIPE, self_instruct.RECIPE):
        assert recipes.named(recipe.name) is recipe
        for language in LANGUAGES:
            # What a prompt costs without demonstrations, its most spacious form taken.
            bare, domain = recipe.frame(language, None, False), recipe.frame(language, "gardening", False)
            assert len(domain) > len(bare) > 100
            assert len(recipe.frame(language, None, True)) > len(bare)


def test_recorded_steps_parse_as_recorded() -> None:
    """The embedded model's raw answers to each step, both languages, with and without the grammar."""
    kinds = set()
    for row in map(json.loads, (GOLDEN / "step_completions.jsonl").read_text(encoding="utf-8").splitlines()):
        cut_off = row["finish_reason"] == FINISH_LENGTH
        if row["stage"] == self_instruct.INSTRUCTIONS:
            listed = numbered_instructions(row["text"], first=row["first"], cut_off=cut_off)
            assert [[c.instruction, c.cut_off] for c in listed] == row["found"], row["text"]
            kinds |= {f"instruction {c.cut_off}" for c in listed}
        else:
            whole, lost = labelled_instances(row["text"], prefilled=row["prefilled"], cut_off=cut_off)
            found = [[i.input, i.output, None] for i in whole]
            found += [[one.instance.input, one.instance.output, one.drop.reason] for one in lost]
            assert found == row["found"], row["text"]
            kinds |= {str(reason) for *_, reason in found}
    assert kinds >= {"instruction True", "instruction False", "None", "cut_off", "missing_field"}


def test_recorded_completions_parse_as_recorded() -> None:
    """Raw answers of the embedded model, with and without the grammar, truncated and malformed ones included."""
    lines = (GOLDEN / "completions.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) >= 8
    kinds = set()
    for row in map(json.loads, lines):
        cut_off = row["finish_reason"] == FINISH_LENGTH
        found = labelled_tasks(row["text"], prefilled=row["prefilled"], cut_off=cut_off)
        shapes = [[c.instruction, [[i.input, i.output] for i in c.instances], c.missing, c.cut_off] for c in found]
        assert shapes == row["candidates"], row["text"]
        kinds |= {"whole" if c.well_formed else "cut" if c.cut_off else str(c.missing) for c in found}
    assert {"whole", "cut", "output"} <= kinds
    assert FINISH_EOS in {json.loads(line)["finish_reason"] for line in lines}
