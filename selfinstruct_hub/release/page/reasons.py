"""Why something was dropped, in the words of the card: one line for each reason that a room gives."""

from __future__ import annotations

EXPLAINED = {
    # What was wrong with the answer.
    "missing_field": "no instruction or no output was found, or one of them twice",
    "cut_off": "the answer ran into its token limit inside this task",
    "request_refused": "the endpoint refused the request that this task needed",
    "request_failed": "the request that this task needed was never answered",
    "never_asked": "a rule was in the way when it was grown, so what it still needs was never asked for",
    # The instruction.
    "too_short": "the instruction has too few words",
    "too_long": "the instruction has too many words",
    "blocked_word": "it asks for what a text model cannot look at, hear or draw",
    "write_a_program": 'it begins with "Write a program"',
    "punctuation_start": "it begins with punctuation",
    "foreign_start": "its first letter is of a script in which no instruction of the language begins",
    "foreign_script": "it has no letter of the language's script",
    "not_classification": "only classification tasks were asked for, and this is none",
    # Novelty.
    "too_similar": "too near, by ROUGE-L, to a seed or to a task that was accepted before",
    "contaminated": "too near to a text of an evaluation benchmark",
    "paraphrase": "the same meaning, by the similarity of embeddings, as a seed or an accepted task",
    # The instances.
    "empty_output": "nothing was answered",
    "output_repeats_input": "the output is the input",
    "output_repeats_instruction": "the output is the instruction",
    "ends_with_colon": "input or output ends in a colon: what it announces never came",
    "url_only_input": "the input is nothing but an address",
    "looping_output": "the output repeats itself",
    "duplicate_instance": "the same instance as one before it",
    "conflicting_outputs": "one input with different outputs, so that none can be trusted",
    "surplus_instance": "the task had as many instances as it may keep",
    # A person's decision.
    "rejected_by_reviewer": "somebody who reviewed the rows took it out",
    # Neither was wrong.
    "surplus": "the round was complete",
}


def explained(reason: str) -> str:
    """What `reason` means; empty for one that is not known here."""
    return EXPLAINED.get(reason, "")
