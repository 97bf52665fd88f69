"""Every rule by its reason: tables of (candidate, reason), ending with what is kept."""

from __future__ import annotations

import pytest

from selfinstruct_hub import filters, recipes
from selfinstruct_hub.filters import Rules
from selfinstruct_hub.records import Candidate, Instance

RULES = Rules(4, 150, recipes.named("alpaca").blocked_words, 5, 0.5)
ANSWER = (Instance("", "Fine."),)


def reason(candidate: Candidate) -> str | None:
    drop = filters.judge(candidate, RULES)[1]
    return drop.reason if drop else None


@pytest.mark.parametrize(
    ("instruction", "expected"),
    [
        ("Do this now", "too_short"),
        ("word " * 151, "too_long"),
        ("Describe the Image in detail", "blocked_word"),
        ("Now go to the shop and buy bread", "blocked_word"),
        ("Explain this flowchart to a child", "blocked_word"),
        ("Write a program that sorts names", "write_a_program"),
        ("- Name three large rivers", "punctuation_start"),
        ("été is which season of year", "foreign_start"),
        ("写一首关于 秋天 的 诗", "foreign_start"),
        ("Do this right now", None),
        (("word " * 150).strip(), None),
        ("Explain what imagery and graphite have in common", None),
        ("write a program that sorts names", None),  # the papers' rule knows the capital only
        ("3 rivers in Asia, please", None),
    ],
)
def test_instruction_rules(instruction: str, expected: str | None) -> None:
    assert reason(Candidate(instruction, ANSWER)) == expected


@pytest.mark.parametrize(
    ("given", "output", "expected"),
    [
        ("", "", "empty_output"),
        ("", "<nooutput>", "empty_output"),
        ("The sky.", "The sky.", "output_repeats_input"),
        ("", "Here it is:", "ends_with_colon"),
        ("Consider this：", "Yes.", "ends_with_colon"),
        ("", "name  the largest PLANET!", "output_repeats_instruction"),
        ("https://example.com/a?b=c", "A page.", "url_only_input"),
        ("", "so it is what it is " * 9, "looping_output"),
        ("", "It is large. " * 2 + "one two three four five six seven eight nine", None),
        ("see https://example.com for more", "A page.", None),
        ("", "Jupiter", None),
    ],
)
def test_instance_rules(given: str, output: str, expected: str | None) -> None:
    assert reason(Candidate("Name the largest planet", (Instance(given, output),))) == expected


def test_what_the_parser_could_not_complete() -> None:
    assert reason(Candidate(None, (), missing="instruction")) == "missing_field"
    assert reason(Candidate("Name the largest planet", (), missing="output")) == "missing_field"
    assert reason(Candidate("Name the largest planet", ANSWER, cut_off=True)) == "cut_off"
    assert reason(Candidate("Name the largest planet", ())) == "missing_field"


def test_a_bad_instance_goes_alone_and_conflicts_take_the_task() -> None:
    a, b, bad = Instance("x", "1"), Instance("y", "2"), Instance("z", "")
    ask = "Turn the letter into a number"
    assert filters.judge(Candidate(ask, (a, bad, b, a)), RULES) == ((a, b), None)
    kept, drop = filters.judge(Candidate(ask, (a, b, Instance("x", "3"))), RULES)
    assert kept == ()
    assert drop is not None
    assert drop.reason == "conflicting_outputs"
    # Different outputs without an input are no conflict.
    free = (Instance("", "1"), Instance("", "2"))
    assert filters.judge(Candidate(ask, free), RULES) == (free, None)
    many = tuple(Instance(str(i), str(i + 1)) for i in range(9))
    assert filters.judge(Candidate(ask, many), RULES)[0] == many[:5]


def test_the_loop_rule_can_be_off() -> None:
    rules = Rules(4, 150, (), 5, None)
    looping = Candidate("Name the largest planet", (Instance("", "so it is what it is " * 9),))
    assert filters.judge(looping, rules)[1] is None


def test_every_rule_has_a_case_above() -> None:
    import ast
    from pathlib import Path

    source = Path(filters.__file__).read_text()
    reasons = {
        str(node.args[0].value)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "Drop"
        and isinstance(node.args[0], ast.Constant)
    }
    here = Path(__file__).read_text()
    assert [r for r in reasons if f'"{r}"' not in here] == []
    assert len(reasons) >= 14
