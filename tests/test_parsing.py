"""The parsers, on the shapes that completions really take."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from selfinstruct_hub.parsing import (
    continuation,
    labelled_instances,
    labelled_tasks,
    normalise_input,
    numbered_instructions,
)
from selfinstruct_hub.records import Candidate, Drop, Instance, Lost

GOLDEN = Path(__file__).parent / "golden"


def item(instruction: str, given: str, output: str) -> Candidate:
    return Candidate(instruction, (Instance(given, output),))


FIRST = " Name a tree.\n4. Input: <noinput>\n4. Output: Oak.\n"
A = item("Name a tree.", "", "Oak.")
B = item("Add them.", "1, 2", "3")

CASES = {
    "as asked for": (FIRST + "###\n5. Instruction: Add them.\n5. Input: 1, 2\n5. Output: 3\n###\n", [A, B]),
    "no separators": (FIRST + "5. Instruction: Add them.\n5. Input: 1, 2\n5. Output: 3", [A, B]),
    "a skipped number": (FIRST + "###\n7. Instruction: Add them.\n7. Input: 1, 2\n7. Output: 3", [A, B]),
    "numbers that disagree": (FIRST + "###\n5. Instruction: Add them.\n6. Input: 1, 2\n7. Output: 3", [A, B]),
    "unnumbered fields": (FIRST + "###\nInstruction: Add them.\nInput: 1, 2\nOutput: 3", [A, B]),
    "full-width colons": (FIRST + "###\n5. Instruction： Add them.\n5、Input：1, 2\n5． Output： 3", [A, B]),
    "bold labels": (FIRST + "**5. Instruction:** Add them.\n**5. Input**: 1, 2\n**Output:** 3", [A, B]),
    "heading labels": (FIRST + "### 5. Instruction: Add them.\n### Input: 1, 2\n### Output: 3", [A, B]),
    "no input field": (
        FIRST + "###\n5. Instruction: Name a bird.\n5. Output: Wren.",
        [A, item("Name a bird.", "", "Wren.")],
    ),
    "text before": (
        "\nSure, here they are.\n\n4. Instruction: Name a tree.\n4. Input: None\n4. Output: Oak.",
        [A],
    ),
    "text after a separator": (FIRST + "###\nThe 7th, the 8th,\nI hope this helps!", [A]),
    "text between items": (FIRST + "###\n(next)\n5. Instruction: Add them.\n5. Input: 1, 2\n5. Output: 3", [A, B]),
    "Markdown headings in an output": (
        " Write notes.\n4. Input: <noinput>\n4. Output: ### Plan\n\n## Day 1\n### 2. Walk\nRest.\n###\n",
        [item("Write notes.", "", "### Plan\n\n## Day 1\n### 2. Walk\nRest.")],
    ),
    "labels in a code sample": (
        " Explain the call.\n4. Input: f(2)\n4. Output: It prints:\nInput: 2\nOutput: 4\nDone.\n###\n",
        [item("Explain the call.", "f(2)", "It prints:\nInput: 2\nOutput: 4\nDone.")],
    ),
    "a word that only begins like a label": (
        " Name a tree.\n4. Input: <noinput>\n4. Output: Outputs vary: oak.\nInputs: none",
        [item("Name a tree.", "", "Outputs vary: oak.\nInputs: none")],
    ),
    "several lines in every field": (
        " Sort\nthese.\n4. Input: b\na\n\nc\n4. Output: a\n\nb\nc\n###\n",
        [item("Sort\nthese.", "b\na\n\nc", "a\n\nb\nc")],
    ),
    "no output": (
        " Name a tree.\n4. Input: x\n###\n5. Instruction: Add them.\n5. Input: 1, 2\n5. Output: 3",
        [Candidate("Name a tree.", (), missing="output"), B],
    ),
    "an instruction alone": (
        " Name a tree.\n\n###\n5. Instruction: Add them.\n5. Input: 1, 2\n5. Output: 3",
        [Candidate("Name a tree.", (), missing="output"), B],
    ),
    "an instruction alone, later": (
        FIRST
        + "###\n5. Instruction: Name a bird.\n\n###\n6. Instruction: Add them.\n6. Input: 1, 2\n6. Output: 3",
        [A, Candidate("Name a bird.", (), missing="output"), B],
    ),
    "an unnumbered label inside an instruction": (
        " Rewrite this note.\nInstruction: be brief\n4. Input: a\n4. Output: b",
        [item("Rewrite this note.\nInstruction: be brief", "a", "b")],
    ),
    "an unnumbered label inside an output": (
        " Write a mail.\n4. Input: None\n4. Output: Dear all,\nInstruction: follow me.\nBye\n###\n"
        "5. Instruction: Add them.\n5. Input: 1, 2\n5. Output: 3",
        [item("Write a mail.", "", "Dear all,\nInstruction: follow me.\nBye"), B],
    ),
    "the label once more": ("\nInstruction: Name a tree.\nInput: None\nOutput: Oak.", [A]),
    "separators between the fields": (
        " Name a tree.\n###\n4. Input: None\n###\n4. Output: Oak.\n###\nThe end.",
        [A],
    ),
    "an output given twice": (
        " Name a tree.\n4. Input: x\n4. Output: Oak.\n4. Output: Elm.",
        [Candidate("Name a tree.", (Instance("x", "Oak.\n Elm."),), missing="one output, found two")],
    ),
    "no instruction": (
        "\n4. Input: x\n4. Output: Oak.",
        [Candidate(None, (Instance("x", "Oak."),), missing="instruction")],
    ),
    "nothing that was asked for": (
        " I cannot help with that.",
        [Candidate("I cannot help with that.", (), missing="output")],
    ),
    "nothing": ("", [Candidate(None, (), missing="instruction")]),
}


@pytest.mark.parametrize("name", CASES)
def test_shapes(name: str) -> None:
    text, expected = CASES[name]
    assert labelled_tasks(text, prefilled="4. Instruction:") == expected


ZH_FIRST = " 说出一种树。\n4. 输入： <无输入>\n4. 输出： 橡树。\n"
ZH_A = item("说出一种树。", "", "橡树。")
ZH_B = item("把它们加起来。", "1，2", "3")

ZH_CASES = {
    "as asked for": (ZH_FIRST + "###\n5. 指令： 把它们加起来。\n5. 输入： 1，2\n5. 输出： 3\n###\n", [ZH_A, ZH_B]),
    "no blanks": (ZH_FIRST + "###\n5.指令：把它们加起来。\n5.输入：1，2\n5.输出：3\n###\n", [ZH_A, ZH_B]),
    "numbers with 、": (ZH_FIRST + "5、指令：把它们加起来。\n5、输入：1，2\n5、输出：3", [ZH_A, ZH_B]),
    "numbers with a full-width dot": (
        ZH_FIRST + "5．指令：把它们加起来。\n5．输入：1，2\n5．输出：3",
        [ZH_A, ZH_B],
    ),
    "full-width numbers": (ZH_FIRST + "５．指令：把它们加起来。\n５．输入：1，2\n５．输出：3", [ZH_A, ZH_B]),
    "ASCII colons": (ZH_FIRST + "5. 指令: 把它们加起来。\n5. 输入: 1，2\n5. 输出: 3", [ZH_A, ZH_B]),
    "bold labels": (ZH_FIRST + "**5. 指令：** 把它们加起来。\n**5. 输入**：1，2\n**输出：** 3", [ZH_A, ZH_B]),
    "labels in both languages": (
        ZH_FIRST + "5. Instruction：把它们加起来。\n5. Input: 1，2\n5. 输出：3",
        [ZH_A, ZH_B],
    ),
    "labels that are lines of an output": (
        " 解释这个调用。\n4. 输入：f(2)\n4. 输出：它打印：\n输入：2\n输出：4\n完。\n###\n",
        [item("解释这个调用。", "f(2)", "它打印：\n输入：2\n输出：4\n完。")],
    ),
    "words that begin like a label": (
        " 说出一种树。\n4. 输入：无\n4. 输出：输出设备\n输入法：拼音",
        [item("说出一种树。", "", "输出设备\n输入法：拼音")],
    ),
    "no output": (
        " 说出一种树。\n4. 输入：无\n###\n5. 指令：把它们加起来。\n5. 输入：1，2\n5. 输出：3",
        [Candidate("说出一种树。", (), missing="output"), ZH_B],
    ),
}


@pytest.mark.parametrize("name", ZH_CASES)
def test_chinese_labels(name: str) -> None:
    text, expected = ZH_CASES[name]
    assert labelled_tasks(text, prefilled="4. 指令：") == expected


def test_without_a_prefilled_label_text_before_the_first_is_no_item() -> None:
    assert labelled_tasks("Here:\n1. Instruction: Add them.\n1. Input: 1, 2\n1. Output: 3") == [B]
    assert labelled_tasks("Nothing of the kind.") == []


@pytest.mark.parametrize(
    ("tail", "last"),
    [
        ("5. Instruction: Add th", Candidate("Add th", (), missing="output", cut_off=True)),
        (
            "5. Instruction: Add them.\n5. Input: 1, 2\n5. Outp",
            Candidate("Add them.", (), missing="output", cut_off=True),
        ),
        (
            "5. Instruction: Add them.\n5. Input: 1, 2\n5. Output: 3, beca",
            Candidate("Add them.", (Instance("1, 2", "3, beca"),), cut_off=True),
        ),
        ("5. Instruction: Add them.\n5. Input: 1, 2\n5. Output: 3\n###\n", B),  # it was finished before the limit
    ],
)
def test_only_the_last_item_of_a_cut_completion_is_cut(tail: str, last: Candidate) -> None:
    found = labelled_tasks(FIRST + "###\n" + tail, prefilled="4. Instruction:", cut_off=True)
    assert found == [A, last]


@pytest.mark.parametrize(
    "text",
    [
        *("<noinput>", "None", "none.", "N/A", "(no input)", "No input required.", "No input needed"),
        *("<no_input>", "-", "", "Not applicable", "*None*", "无", "<无输入>", "[Empty]"),
    ],
)
def test_no_input_in_many_words(text: str) -> None:
    assert normalise_input(text) == ""


@pytest.mark.parametrize("text", ["None of the above", "0", "Nothing rhymes with orange.", "a", "<b>bold</b>"])
def test_inputs_that_are_inputs(text: str) -> None:
    assert normalise_input(f" {text}\n") == text


def instruction(text: str, *, cut_off: bool = False) -> Candidate:
    return Candidate(text, cut_off=cut_off)


TREE, BIRD, FISH = instruction("Name a tree."), instruction("Name a bird."), instruction("Name a fish.")

# Behind a prompt that ends in "9.".
LISTS = {
    "as asked for": (" Name a tree.\n10. Name a bird.\n11. Name a fish.\n", [TREE, BIRD, FISH]),
    "blank lines between": (" Name a tree.\n\n10. Name a bird.\n\n11. Name a fish.", [TREE, BIRD, FISH]),
    "brackets": (" Name a tree.\n10) Name a bird.\n11 ) Name a fish.", [TREE, BIRD, FISH]),
    "、": ("说出一种树。\n10、说出一种鸟。", [instruction("说出一种树。"), instruction("说出一种鸟。")]),
    "a full-width dot": (" Name a tree.\n10．Name a bird.\n１１．Name a fish.", [TREE, BIRD, FISH]),
    "skipped numbers": (" Name a tree.\n12. Name a bird.\n15. Name a fish.", [TREE, BIRD, FISH]),
    "a number given twice": (
        " Name a tree.\n10. Name a bird.\n10. Name a fish.",
        [TREE, instruction("Name a bird. 10. Name a fish.")],
    ),
    "indented": (" Name a tree.\n  10. Name a bird.\n\t11. Name a fish.", [TREE, BIRD, FISH]),
    "headings": (" Name a tree.\n## 10. Name a bird.\n###11. Name a fish.", [TREE, BIRD, FISH]),
    "bold numbers": (" Name a tree.\n**10.** Name a bird.\n__11.__ Name a fish.", [TREE, BIRD, FISH]),
    "bold items": (" **Name a tree.**\n**10. Name a bird.**\n11. **Name a fish.**", [TREE, BIRD, FISH]),
    "bold inside an item stays": (
        " Name **two** trees.\n10. **Name** a bird.",
        [instruction("Name **two** trees."), instruction("**Name** a bird.")],
    ),
    "blanks to fill in stay": (
        " Fill in: A tree has __\n10.__ is a bird; say which.",
        [instruction("Fill in: A tree has __"), instruction("__ is a bird; say which.")],
    ),
    "a label before the text": (
        " Instruction: Name a tree.\n10. Task: Name a bird.\n11. **Task 11:** Name a fish.\n12. 指令：说出树。",
        [TREE, BIRD, FISH, instruction("说出树。")],
    ),
    "a word that only begins like a label": (" Tasks: name two.", [instruction("Tasks: name two.")]),
    "several lines in an item": (
        " Name a tree\nin one word.\n10.\nName a bird.",
        [instruction("Name a tree in one word."), BIRD],
    ),
    "chatter, then the list from its number": (
        " Sure, here they are:\n\n9. Name a tree.\n10. Name a bird.",
        [TREE, BIRD],
    ),
    "chatter without a colon, then the list from its number": (
        " Sure!\n9. Name a tree.\n10. Name a bird.",
        [TREE, BIRD],
    ),
    "the first number for the second item": (
        " Name a tree.\n9. Name a bird.\n10. Name a fish.",
        [TREE, BIRD, FISH],
    ),
    "chatter without a colon, then a list from 1": (" Sure!\n\n1. Name a tree.\n2. Name a bird.", [TREE, BIRD]),
    "the number once more": ("\n9. Name a tree.\n10. Name a bird.", [TREE, BIRD]),
    "chatter, then a list from 1": (" Here you go:\n1. Name a tree.\n2. Name a bird.", [TREE, BIRD]),
    "chatter in Chinese, then a list from 1": ("以下是任务：\n1. Name a tree.\n2. Name a bird.", [TREE, BIRD]),
    "nothing, then a list from 1": ("\n1. Name a tree.\n2. Name a bird.", [TREE, BIRD]),
    "a list from 1 that goes beyond 9": (
        "\n" + "".join(f"{n}. Name {n} trees.\n" for n in range(1, 12)),
        [instruction(f"Name {n} trees.") for n in range(1, 12)],
    ),
    "a list inside an instruction": (
        " Name a tree.\n10. Sort these words:\n1. pear\n2. fig\n11. Name a fish.",
        [TREE, instruction("Sort these words: 1. pear 2. fig"), FISH],
    ),
    "a list inside the first instruction": (
        " Sort these words:\n1. pear\n2. fig\n10. Name a bird.",
        [instruction("Sort these words: 1. pear 2. fig"), BIRD],
    ),
    "an explanation below": (" Name a tree.\n10. Name a bird.\n\nI hope this helps!\n1. Really.", [TREE, BIRD]),
    "an explanation below each": (
        " Name a tree.\n\nThis asks for a tree.\n\n10. Name a bird.\n\nThis asks for a bird.",
        [TREE, BIRD],
    ),
    "numbers inside a text": (
        " Say what 3. means, and 2016.\n10. It cost $20. Was it 10.5 or 11. 5?",
        [
            instruction("Say what 3. means, and 2016."),
            instruction("It cost $20. Was it 10.5 or 11. 5?"),
        ],
    ),
    "years where a line begins": (
        " Say what happened in\n2016. Be brief.\n10. Name a bird.\n1999) was a year.\n11. Name a fish.",
        [
            instruction("Say what happened in 2016. Be brief."),
            instruction("Name a bird. 1999) was a year."),
            FISH,
        ],
    ),
    "decimals where a line begins": (
        " Add\n10.5 and 3.\n10. Name a bird.",
        [instruction("Add 10.5 and 3."), BIRD],
    ),
    "one item": (" Name a tree.", [TREE]),
    "an item that is empty": (
        " Name a tree.\n10.\n11. Name a fish.",
        [TREE, Candidate(None, missing="instruction"), FISH],
    ),
    "a number at the end with nothing behind it": (" Name a tree.\n10. Name a bird.\n11.", [TREE, BIRD]),
    "nothing": ("", [Candidate(None, missing="instruction")]),
    "nothing but blanks": (" \n \n", [Candidate(None, missing="instruction")]),
}


@pytest.mark.parametrize("name", LISTS)
def test_lists(name: str) -> None:
    text, expected = LISTS[name]
    assert numbered_instructions(text, first=9) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" Name a tree.\n10. Name a bi", [TREE, instruction("Name a bi", cut_off=True)]),
        (" Name a tree.\n10. Name a bird.\n1", [TREE, instruction("Name a bird. 1", cut_off=True)]),
        (" Name a tree.\n10. Name a bird.\n11.", [TREE, BIRD]),  # the next number closes an item
        (" Name a tree.\n10. Name a bird.\n\nThese tas", [TREE, BIRD]),  # and so does a blank line
        (" Name a tree.\n10. Name a bird.\n \n", [TREE, BIRD]),
        (" Name a tree.\n10.\n\nName a bi", [TREE, instruction("Name a bi", cut_off=True)]),  # but not before it
        (" Name a tr", [instruction("Name a tr", cut_off=True)]),
        ("", [Candidate(None, missing="instruction", cut_off=True)]),
    ],
)
def test_a_cut_list_loses_its_last_item_at_most(text: str, expected: list[Candidate]) -> None:
    assert numbered_instructions(text, first=9, cut_off=True) == expected


def test_a_short_prompt_begins_its_list_at_1() -> None:
    assert numbered_instructions(" Name a tree.\n2. Name a bird.", first=1) == [TREE, BIRD]
    assert numbered_instructions("Sure:\n1. Name a tree.\n2. Name a bird.", first=1) == [TREE, BIRD]


def pair(given: str, output: str) -> Instance:
    return Instance(input=given, output=output)


def no_output(given: str) -> Lost:
    return Lost(Instance(given, ""), Drop("missing_field", "output"))


ONE, TWO = pair("1, 2", "3"), pair("4, 5", "9")
EXAMPLE_1, ZH_EXAMPLE_1 = "Example 1\nInput:", "示例 1\n输入："

# What the prompt says already, the completion, and its instances.
INPUT_FIRST: dict[str, tuple[str, str, list[Instance]]] = {
    "as asked for": (EXAMPLE_1, " 1, 2\nOutput: 3\nExample 2\nInput: 4, 5\nOutput: 9\n", [ONE, TWO]),
    "blank lines between": (EXAMPLE_1, " 1, 2\nOutput: 3\n\nExample 2\nInput: 4, 5\nOutput: 9\n\n", [ONE, TWO]),
    "in Chinese": (ZH_EXAMPLE_1, " 1, 2\n输出： 3\n示例 2\n输入： 4, 5\n输出： 9\n", [ONE, TWO]),
    "in Chinese, close together": (ZH_EXAMPLE_1, "1, 2\n输出：3\n示例2\n输入：4, 5\n输出：9", [ONE, TWO]),
    "in Chinese with ASCII colons": (ZH_EXAMPLE_1, " 1, 2\n输出: 3\n示例2:\n输入: 4, 5\n输出: 9", [ONE, TWO]),
    "labels in both languages": (ZH_EXAMPLE_1, " 1, 2\nOutput: 3\nExample 2\n输入：4, 5\n输出：9", [ONE, TWO]),
    "nothing said before": (
        "",
        "Example 1\nInput: 1, 2\nOutput: 3\nExample 2.\nInput: 4, 5\nOutput: 9",
        [ONE, TWO],
    ),
    "bold, colon inside": (
        EXAMPLE_1,
        " 1, 2\n**Output:** 3\n**Example 2**\n**Input:** 4, 5\n**Output:** 9",
        [ONE, TWO],
    ),
    "bold, colon outside": (
        EXAMPLE_1,
        " 1, 2\n**Output**: 3\n### Example 2:\n**Input**: 4, 5\n__Output__: 9",
        [ONE, TWO],
    ),
    "examples without numbers": (
        "",
        "Example\nInput: 1, 2\nOutput: 3\nExample\nInput: 4, 5\nOutput: 9",
        [ONE, TWO],
    ),
    "no example marks": ("", "Input: 1, 2\nOutput: 3\n\nInput: 4, 5\nOutput: 9", [ONE, TWO]),
    "a skipped number": (EXAMPLE_1, " 1, 2\nOutput: 3\nExample 4\nInput: 4, 5\nOutput: 9", [ONE, TWO]),
    "the beginning once more": (EXAMPLE_1, "\nExample 1\nInput: 1, 2\nOutput: 3", [ONE]),
    "the label once more": (EXAMPLE_1, "\nInput: 1, 2\nOutput: 3", [ONE]),
    "chatter, then the beginning once more": (
        EXAMPLE_1,
        " Sure, here they are.\n\nExample 1\nInput: 1, 2\nOutput: 3\nExample 2\nInput: 4, 5\nOutput: 9",
        [ONE, TWO],
    ),
    "chatter where nothing was said before": ("", "Here they are:\nExample 1\nInput: 1, 2\nOutput: 3", [ONE]),
    "several lines in every field": (
        EXAMPLE_1,
        " 1,\n\n2\nOutput: first\n\n- second\n3. third\n",
        [pair("1,\n\n2", "first\n\n- second\n3. third")],
    ),
    "no input": (EXAMPLE_1, " <noinput>\nOutput: 3", [pair("", "3")]),
    "no input, in other words": (EXAMPLE_1, " N/A\nOutput: 3", [pair("", "3")]),
    "no input, in Chinese": (ZH_EXAMPLE_1, " <无输入>\n输出： 3", [pair("", "3")]),
    "markers inside an output": (
        EXAMPLE_1,
        " f(2)\nOutput: It prints:\nInput: 2\nOutput: 4\nDone.\nExample 2\nInput: 4, 5\nOutput: 9",
        [pair("f(2)", "It prints:\nInput: 2\nOutput: 4\nDone."), TWO],
    ),
    "markers inside a sentence": (
        EXAMPLE_1,
        " Say Input: 2\nOutput: See Example 2\nin which Output: is 4.\nExample 2 shows it.",
        [pair("Say Input: 2", "See Example 2\nin which Output: is 4.\nExample 2 shows it.")],
    ),
    "numbers that go back": (
        EXAMPLE_1,
        " 1, 2\nOutput: 3\nExample 2\nInput: 4, 5\nOutput: As in\nExample 1\nit is nine.\nExample 3\n"
        "Input: 1, 2\nOutput: 3",
        [ONE, pair("4, 5", "As in\nExample 1\nit is nine."), ONE],
    ),
    "more than five": (  # how many a task may keep is a rule's to say
        EXAMPLE_1,
        " 1, 2\nOutput: 3\n" + "".join(f"Example {n}\nInput: {n}\nOutput: {n}\n" for n in range(2, 8)),
        [ONE, *(pair(f"{n}", f"{n}") for n in range(2, 8))],
    ),
    "text under no marker": ("", " It is nine.\nReally.", [pair("", "It is nine.\nReally.")]),
    "examples under no marker": (
        "",
        "Example 1\nThree.\nExample 2\nNine.",
        [pair("", "Three."), pair("", "Nine.")],
    ),
    "an output alone": ("", "Output: 3", [pair("", "3")]),
    "an input under no marker": ("", "1, 2\nOutput: 3", [ONE]),
    "an example begun and left": (EXAMPLE_1, " 1, 2\nOutput: 3\nExample 2\n", [ONE]),
    "nothing": ("", " \n", []),
}


@pytest.mark.parametrize("name", INPUT_FIRST)
def test_instances_with_the_input_first(name: str) -> None:
    prefilled, text, expected = INPUT_FIRST[name]
    assert labelled_instances(text, prefilled=prefilled) == (tuple(expected), ())


POSITIVE, NEGATIVE = pair("A joy.", "positive"), pair("A bore.\nNever again.", "negative")

LABEL_FIRST: dict[str, tuple[str, str, list[Instance]]] = {
    "as asked for": (
        "Class label:",
        " positive\nInput: A joy.\nClass label: negative\nInput: A bore.\nNever again.\n",
        [POSITIVE, NEGATIVE],
    ),
    "blank lines between": (
        "Class label:",
        " positive\nInput: A joy.\n\nClass label: negative\n\nInput: A bore.\nNever again.\n\n",
        [POSITIVE, NEGATIVE],
    ),
    "in Chinese": (
        "类别：",
        " 好\n输入： 真好。\n类别： 坏\n输入：不好。",
        [pair("真好。", "好"), pair("不好。", "坏")],
    ),
    "no input marker": (
        "Class label:",
        " positive\nA joy.\nClass label: negative\nA bore.\nNever again.",
        [POSITIVE, NEGATIVE],
    ),
    "bold": (
        "Class label:",
        " positive\n**Input**: A joy.\n**Class label:** negative\n**Input:** A bore.\nNever again.",
        [POSITIVE, NEGATIVE],
    ),
    "the label once more": ("Class label:", "\nClass label: positive\nInput: A joy.", [POSITIVE]),
    "examples counted": (
        "Class label:",
        "\nExample 1\nClass label: positive\nInput: A joy.\n\nExample 2\n\nClass label: negative\nInput: A bore.\n"
        "Never again.",
        [POSITIVE, NEGATIVE],
    ),
    "markers inside an input": (
        "Class label:",
        " spam\nInput: Buy!\nInput: cash\nOutput: joy\nExample 2\nNow.\nClass label: ham\nInput: Hello.",
        [pair("Buy!\nInput: cash\nOutput: joy\nExample 2\nNow.", "spam"), pair("Hello.", "ham")],
    ),
    "no input": ("Class label:", " positive\nInput: <noinput>", [pair("", "positive")]),
    "no input, in Chinese": ("类别：", " 好\n输入： <无输入>", [pair("", "好")]),
    "a label alone": ("Class label:", " positive", [pair("", "positive")]),
    "more than five": (
        "Class label:",
        " 1\nInput: a\n" + "".join(f"Class label: {n}\nInput: a\n" for n in range(2, 8)),
        [pair("a", f"{n}") for n in range(1, 8)],
    ),
}


@pytest.mark.parametrize("name", LABEL_FIRST)
def test_instances_with_the_label_first(name: str) -> None:
    prefilled, text, expected = LABEL_FIRST[name]
    assert labelled_instances(text, prefilled=prefilled) == (tuple(expected), ())


@pytest.mark.parametrize(
    ("prefilled", "text", "kept", "lost"),
    [
        (EXAMPLE_1, " 1, 2\nExample 2\nInput: 4, 5\nOutput: 9", (TWO,), (no_output("1, 2"),)),
        (EXAMPLE_1, " 1, 2\nOutput:\nExample 2\nInput: 4, 5\nOutput: 9", (TWO,), (no_output("1, 2"),)),
        (EXAMPLE_1, " 1, 2\nOutput: 3\nExample 2\nInput: 4, 5", (ONE,), (no_output("4, 5"),)),
        (EXAMPLE_1, " It is nine.", (), (no_output("It is nine."),)),
        (EXAMPLE_1, "", (), (no_output(""),)),
        (ZH_EXAMPLE_1, " 1, 2\n示例 2\n输入： 4, 5\n输出： 9", (TWO,), (no_output("1, 2"),)),
        ("Class label:", "\nInput: A joy.", (), (no_output("A joy."),)),
        ("Class label:", " positive\nInput: A joy.\nClass label:", (POSITIVE,), (no_output(""),)),
    ],
)
def test_an_instance_without_an_output_is_lost_alone(
    prefilled: str, text: str, kept: tuple[Instance, ...], lost: tuple[Lost, ...]
) -> None:
    assert labelled_instances(text, prefilled=prefilled) == (kept, lost)


@pytest.mark.parametrize(
    ("prefilled", "text", "kept", "lost"),
    [
        (EXAMPLE_1, " 1, 2\nOutput: 3\nExample 2\nInput: 4, 5\nOutput: 9", (ONE,), (TWO,)),  # whole or not
        (EXAMPLE_1, " 1, 2\nOutput: 3\nExample 2\nInput: 4,", (ONE,), (pair("4,", ""),)),
        (EXAMPLE_1, " 1, 2\nOutput: 3", (), (ONE,)),
        (EXAMPLE_1, " 1, 2\nExample 2\nInput: 4, 5\nOutput: 9", (), (no_output("1, 2"), TWO)),
        (EXAMPLE_1, " 1, 2\nOutput: 3\nExample 2\n", (ONE,), ()),  # the next mark closes an instance
        ("Class label:", " positive\nInput: A joy.\nClass label: neg", (POSITIVE,), (pair("", "neg"),)),
        ("Class label:", " positive\nInput: A joy.\nClass label:", (POSITIVE,), (pair("", ""),)),
        ("", "It is ni", (), (pair("", "It is ni"),)),
    ],
)
def test_a_cut_text_loses_its_last_instance_only(
    prefilled: str, text: str, kept: tuple[Instance, ...], lost: tuple[Instance | Lost, ...]
) -> None:
    expected = tuple(one if isinstance(one, Lost) else Lost(one, Drop("cut_off")) for one in lost)
    assert labelled_instances(text, prefilled=prefilled, cut_off=True) == (kept, expected)


# What a chat model says around its answer, behind a beginning.
INSTRUCTION_4, NUMBER_9, CLASS, KIND = "4. Instruction:", "9.", "Class label:", "Classification:"
SAID = {
    "the beginning again": (INSTRUCTION_4, "4. Instruction: Name a tree.", " Name a tree."),
    "below nothing": (INSTRUCTION_4, "\n\n4. Instruction: Name a tree.", " Name a tree."),
    "in bold": (INSTRUCTION_4, "**4. Instruction:** Name a tree.", " Name a tree."),
    "its label in bold": (INSTRUCTION_4, "4. **Instruction**: Name a tree.", " Name a tree."),
    "as a heading": (INSTRUCTION_4, "### 4. Instruction:\nName a tree.", "\nName a tree."),
    "as a list's item": (INSTRUCTION_4, "- Instruction: Name a tree.", " Name a tree."),
    "as a quotation": (INSTRUCTION_4, "> 4. Instruction: Name a tree.", " Name a tree."),
    "numbered anew": (INSTRUCTION_4, "Sure!\n\n1. Instruction: Name a tree.", " Name a tree."),
    "in small letters": (INSTRUCTION_4, "4. instruction: Name a tree.", " Name a tree."),
    "announced": (INSTRUCTION_4, "Here are 20 tasks:\n\n4. Instruction: Name a tree.", " Name a tree."),
    "announced in bold": (INSTRUCTION_4, "**More tasks:**\n\n4. Instruction: Name a tree.", " Name a tree."),
    "below a title": (INSTRUCTION_4, "# More tasks\n4. Instruction: Name a tree.", " Name a tree."),
    "below a rule": (INSTRUCTION_4, "I go on.\n---\n4. Instruction: Name a tree.", " Name a tree."),
    "greeted": (INSTRUCTION_4, "Of course.\n\nName a tree.\n4. Input: x", "Name a tree.\n4. Input: x"),
    "announced only": (INSTRUCTION_4, "Here's more:\n\nName a tree.\n4. Input: x", "Name a tree.\n4. Input: x"),
    "a code block": (INSTRUCTION_4, "```\n4. Instruction: Name a tree.\n```", " Name a tree.\n"),
    "a code block that goes on": (INSTRUCTION_4, "```text\n Name a tree.\n```\nBye!", " Name a tree.\n"),
    "a code block cut off": (INSTRUCTION_4, "Sure:\n```\n4. Instruction: Name a tr", " Name a tr"),
    "a code block with one inside": (
        INSTRUCTION_4,
        "```\n4. Instruction: Name it.\n4. Output: ```py\nx\n```\n###\n```",
        " Name it.\n4. Output: ```py\nx\n```\n###\n",
    ),
    "the end of a code block": (
        INSTRUCTION_4,
        " Name a tree.\n4. Output: Oak.\n```\n",
        " Name a tree.\n4. Output: Oak.\n",
    ),
    "thoughts": (
        INSTRUCTION_4,
        "<think>\n4. Instruction: hm\n</think>\n\n4. Instruction: Name a tree.",
        " Name a tree.",
    ),
    "the end of thoughts": (INSTRUCTION_4, "Hm.\n</think>\n Name a tree.", " Name a tree."),
    "thoughts without an end": (INSTRUCTION_4, "<think>\n4. Instruction: Name", ""),
    "a number again": (NUMBER_9, "9. Name a tree.\n10. Name a bird.", " Name a tree.\n10. Name a bird."),
    "a number in bold": (NUMBER_9, "Sure!\n\n**9.** Name a tree.", " Name a tree."),
    "both lines again": (EXAMPLE_1, "Example 1\nInput: a\nOutput: b", " a\nOutput: b"),
    "both lines in bold": (EXAMPLE_1, "**Example 1:**\n\n**Input:** a\nOutput: b", " a\nOutput: b"),
    "the last line again": (EXAMPLE_1, "Sure!\n\nInput: a\nOutput: b", " a\nOutput: b"),
    "the task again": (EXAMPLE_1, "Task: Sort.\nExample 1\nInput: a\nOutput: b", " a\nOutput: b"),
    "a label again": (CLASS, "Here are some:\n\nClass label: a\nInput: b", " a\nInput: b"),
    "the task and a label again": (CLASS, "Task: Is it hot?\nClass label: a\nInput: b", " a\nInput: b"),
    "a kind again": (KIND, "**Classification:** Yes", " Yes"),
    "Chinese": ("4. 指令：", "好的，以下是更多任务：\n\n4. 指令：说出一种树。", "说出一种树。"),
    "Chinese, both lines": ("示例 1\n输入：", "当然！\n\n示例1：\n输入：甲\n输出：乙", "甲\n输出：乙"),
    "Chinese, with an ASCII colon": ("是否为分类任务：", "是否为分类任务: 是", " 是"),
}


@pytest.mark.parametrize("name", SAID)
def test_what_a_chat_model_says_around_its_answer(name: str) -> None:
    beginning, answer, expected = SAID[name]
    assert continuation(answer, beginning) == expected


UNTOUCHED = {
    "code in an instruction": (
        INSTRUCTION_4,
        " Explain this code:\n```py\nx\n```\n4. Input: None\n4. Output: It is x.",
    ),
    "code in an output": (EXAMPLE_1, " a\nOutput:\n```py\nx\n```"),
    "code in an input": (EXAMPLE_1, " Code:\n```py\nx\n```\nOutput: y"),
    "code at once": (EXAMPLE_1, "\n```py\nx\n```\nOutput: y"),
    "a label in an instruction": (
        INSTRUCTION_4,
        " Rewrite this note.\nInstruction: be brief\n4. Input: a\n4. Output: b",
    ),
    "the number of the first item once more": (NUMBER_9, " Name a tree.\n9. Name a bird."),
    "a list of its own": (NUMBER_9, " Do these in turn.\n1. Read.\n2. Write.\n10. Name a bird."),
    "a paragraph that begins like talk": (NUMBER_9, " Here are three words. Join them.\n\n10. Name a bird."),
    "the beginning inside an output": (
        INSTRUCTION_4,
        " Write a form.\n4. Input: None\n4. Output: Form:\n4. Instruction: fill in",
    ),
    "a second example": (EXAMPLE_1, " a\nOutput: b:\nExample 2\nInput: c\nOutput: d"),
    "tags in an output": (INSTRUCTION_4, " Name a tag.\n4. Output: <think> is one.\n###\n"),
    "nothing": (INSTRUCTION_4, ""),
}


@pytest.mark.parametrize("name", UNTOUCHED)
def test_an_answer_that_goes_on_is_left_as_it_is(name: str) -> None:
    beginning, answer = UNTOUCHED[name]
    assert continuation(answer, beginning) == answer


def test_recorded_answers_that_go_on_are_left_as_they_are() -> None:
    read = 0
    for name, field in (("completions", "prefilled"), ("step_completions", "prefilled")):
        for row in map(json.loads, (GOLDEN / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()):
            beginning = row.get(field) or f"{row['first']}."
            again = row["text"].lstrip().startswith(beginning)
            assert again or continuation(row["text"], beginning) == row["text"]
            read += not again
    assert read > 12


READERS: dict[str, Callable[[str], object]] = {
    "a chat": lambda text: continuation(text, EXAMPLE_1),
    "a chat's list": lambda text: continuation(text, INSTRUCTION_4),
    "tasks": lambda text: labelled_tasks(text, prefilled="4. Instruction:"),
    "instructions": lambda text: numbered_instructions(text, first=9),
    "instances": lambda text: labelled_instances(text, prefilled=EXAMPLE_1),
}
RUNS = {
    "a chat": [
        *("{}x", "<think>{}x", "{}</think>", "```{}x", "\n{}```", "Sure{}x", "Here is{}x", "Here is x{}\n\nx"),
        *("Example{}x", "\nExample 1{}x", "Example 1\n{}x", "Example 1\n{0}\n{0}Input", "Input{}x", "- {}Input"),
        *("Input **{}x", "#{}Input", "Task{}x\nInput: x", "9{}Input", "9.{}Input", "x\n{0}\nx\n{0}Input: x"),
    ],
    "a chat's list": ["4{}x", "4.{}Instruction", "4. Instruction{}x", "\n{}4. Instruction: x", "**{}4"],
    "tasks": ["\n4{}x", "###{}x", "\nOutput{}x", "\n4. Input{}", "\n**{}", "\n4.{}Instruction"],
    "instructions": [
        "Task{}x",
        "Task 9{}x",
        "x\n10{}x",
        "x\n#{}10. x",
        "x\n* {}10. x",
        "x\n10. {}x",
        "x{}\n",
        "x\n{}\n",
    ],
    "instances": [
        *("\nExample{}x", "\nExample 2{}x", "\nExample 2.{}x", "\n{}Example", "\n#{}Example 2", "\n**{}"),
        *("\nOutput{}x", "\nOutput**{}x", "\nOutput: {}\nExample 2", "\nClass label{}x"),
    ],
}


@pytest.mark.parametrize(("reader", "run"), [(reader, run) for reader, runs in RUNS.items() for run in runs])
def test_a_model_that_writes_nothing_but_spaces_is_read_in_linear_time(reader: str, run: str) -> None:
    started = time.thread_time()
    READERS[reader](run.format(" " * 40_000))
    # Quadratic time would be ten seconds here; the bound leaves a slow machine a hundredfold.
    assert time.thread_time() - started < 1


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("text", ["x" * 40_000, "\n" * 40_000, "Input:\n" * 6_000, "Output: x\n" * 6_000])
def test_a_model_that_runs_in_circles_is_read_quickly(reader: str, text: str) -> None:
    started = time.thread_time()
    READERS[reader](text)
    assert time.thread_time() - started < 1
