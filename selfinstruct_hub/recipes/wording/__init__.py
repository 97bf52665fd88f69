"""What the prompts say, in each language that we have prompts in; the words are our own.

A language without prompts of its own is asked for in English, with its name in the prompt.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from selfinstruct_hub.languages import Language


@dataclass(frozen=True)
class Labels:
    """Field labels, colon included, and the words that stand in a field. Parsers know all of them."""

    instruction: str
    input: str
    output: str
    task: str
    example: str
    class_label: str
    classification: str
    yes: str
    no: str
    no_input: str


@dataclass(frozen=True)
class Wording:
    """The texts of all prompts. Texts in braces are filled in: {total}, {language}, {domain}, {no_input}, {yes},
    {no}, {most}. Those that begin with `chat` ask a chat model to go on, above the line where its answer begins.

    `sentence` is a regular expression for one instruction, `opening` one for the first character of any other
    field; neither has bounded repetition, which grammar compilers expand until they hang.
    """

    labels: Labels
    sentence: str
    opening: str
    alpaca: str
    alpaca_domain: str
    instructions: str
    instructions_classification: str
    instructions_domain: str
    classification: str
    input_first: str
    label_first: str
    outputs: str
    chat_tasks: str
    chat_instructions: str
    chat_classification: str
    chat_input_first: str
    chat_label_first: str
    chat_output: str


def of(language: Language) -> Wording:
    """The texts for `language`."""
    from selfinstruct_hub.recipes.wording import en, zh

    code = language.code.partition("-")[0].lower()
    if code == "zh":
        return zh.WORDING
    if code == "en":
        return en.WORDING
    return replace(en.WORDING, alpaca=en.ALPACA_IN_ANOTHER_LANGUAGE, sentence=en.ANY_SENTENCE)
