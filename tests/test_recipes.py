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
