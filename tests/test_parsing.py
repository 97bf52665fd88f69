"""The label walk, on the shapes that completions really take."""

from __future__ import annotations

import pytest

from selfinstruct_hub.parsing import labelled_tasks, normalise_input
from selfinstruct_hub.records import Candidate, Instance


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


@pytest.mark.parametrize("run", ["\n4{}x", "###{}x", "\nOutput{}x", "\n4. Input{}", "\n**{}", "\n4.{}Instruction"])
def test_a_model_that_writes_nothing_but_spaces_is_read_in_linear_time(run: str) -> None:
    import time

    seconds = []
    for length in (20_000, 80_000):
        started = time.perf_counter()
        labelled_tasks(run.format(" " * length), prefilled="4. Instruction:")
        seconds.append(time.perf_counter() - started)
    # Quadratic time would be tens of seconds here; the bound leaves a slow machine a hundredfold.
    assert seconds[1] < 2
