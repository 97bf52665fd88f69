"""From a candidate to the reason it is dropped, or None. One function a rule; pure.

Rules and thresholds are those of Self-Instruct (https://arxiv.org/abs/2212.10560, appendix A and published
code) and Stanford Alpaca, except where a rule says otherwise. A rule on an instance drops this instance; a
task whose last instance goes is dropped with that reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from selfinstruct_hub.records import Candidate, Drop, Instance

_WORD_RUN = 5


@dataclass(frozen=True)
class Rules:
    """The thresholds in force, with the recipe's defaults filled in."""

    min_words: int
    max_words: int
    blocked_words: tuple[str, ...]
    max_instances: int
    max_repeated_share: float | None


def missing_field(candidate: Candidate, rules: Rules) -> Drop | None:
    """The parser found no instruction or no output, or found one twice."""
    return Drop("missing_field", candidate.missing) if candidate.missing else None


def cut_off(candidate: Candidate, rules: Rules) -> Drop | None:
    """The completion ran into its token limit inside this item (Alpaca drops just this item)."""
    return Drop("cut_off") if candidate.cut_off else None


def too_short(candidate: Candidate, rules: Rules) -> Drop | None:
    """Three words or fewer do not make an instruction (both papers)."""
    words = len((candidate.instruction or "").split())
    return Drop("too_short", f"{words} words") if words < rules.min_words else None


def too_long(candidate: Candidate, rules: Rules) -> Drop | None:
    """More than 150 words (both papers)."""
    words = len((candidate.instruction or "").split())
    return Drop("too_long", f"{words} words") if words > rules.max_words else None


def blocked_word(candidate: Candidate, rules: Rules) -> Drop | None:
    """A word that asks for what a text model cannot do, as a whole word in any case (both papers)."""
    for word in rules.blocked_words:
        if re.search(rf"\b{re.escape(word)}\b", candidate.instruction or "", re.IGNORECASE):
            return Drop("blocked_word", word)
    return None


def write_a_program(candidate: Candidate, rules: Rules) -> Drop | None:
    """Models that begin with this tend to describe inputs no text can hold (both papers)."""
    return Drop("write_a_program") if (candidate.instruction or "").startswith("Write a program") else None


def punctuation_start(candidate: Candidate, rules: Rules) -> Drop | None:
    """The first character is ASCII punctuation (both papers)."""
    first = (candidate.instruction or " ")[0]
    return Drop("punctuation_start", first) if first.isascii() and not first.isalnum() else None


def foreign_start(candidate: Candidate, rules: Rules) -> Drop | None:
    """The first character is not ASCII (both papers; the languages we bring are written in ASCII letters)."""
    first = (candidate.instruction or " ")[0]
    return None if first.isascii() else Drop("foreign_start", first)


def empty_output(instance: Instance, instruction: str, rules: Rules) -> Drop | None:
    """Nothing was answered (Self-Instruct)."""
    bare = instance.output.strip().strip("<>").casefold()
    return Drop("empty_output") if bare in ("", "nooutput", "no output") else None


def output_repeats_input(instance: Instance, instruction: str, rules: Rules) -> Drop | None:
    """Input and output are equal (Self-Instruct)."""
    same = instance.input.strip() == instance.output.strip()
    return Drop("output_repeats_input") if same else None


def ends_with_colon(instance: Instance, instruction: str, rules: Rules) -> Drop | None:
    """Input or output ends in a colon: what it announces never came (Self-Instruct)."""
    for name, text in (("input", instance.input), ("output", instance.output)):
        if text.rstrip().endswith((":", "：")):
            return Drop("ends_with_colon", name)
    return None


def output_repeats_instruction(instance: Instance, instruction: str, rules: Rules) -> Drop | None:
    """The instruction came back as its own answer (ours: a frequent complaint about Alpaca's data)."""
    same = _plain(instance.output) == _plain(instruction)
    return Drop("output_repeats_instruction") if same else None


def url_only_input(instance: Instance, instruction: str, rules: Rules) -> Drop | None:
    """The input is nothing but an address, so the output is invented (ours: same source)."""
    return Drop("url_only_input") if re.fullmatch(r"(https?://|www\.)\S+", instance.input.strip()) else None


def looping_output(instance: Instance, instruction: str, rules: Rules) -> Drop | None:
    """The model ran in circles: too large a share of the output's words lies in 5-word runs that came
    before (ours; after the repetition filters of Rae et al., https://arxiv.org/abs/2112.11446, table A1)."""
    if rules.max_repeated_share is None:
        return None
    words = instance.output.casefold().split()
    seen: set[tuple[str, ...]] = set()
    covered: set[int] = set()
    for start in range(len(words) - _WORD_RUN + 1):
        run = tuple(words[start : start + _WORD_RUN])
        if run in seen:
            covered.update(range(start, start + _WORD_RUN))
        seen.add(run)
    share = len(covered) / len(words) if words else 0.0
    return Drop("looping_output", f"{share:.0%} repeated") if share > rules.max_repeated_share else None


CandidateRule = Callable[[Candidate, Rules], Drop | None]
InstanceRule = Callable[[Instance, str, Rules], Drop | None]

CANDIDATE_RULES: tuple[CandidateRule, ...] = (
    *(cut_off, missing_field, too_short, too_long, blocked_word, write_a_program),
    *(punctuation_start, foreign_start),
)
INSTANCE_RULES: tuple[InstanceRule, ...] = (
    *(empty_output, output_repeats_input, ends_with_colon),
    *(output_repeats_instruction, url_only_input, looping_output),
)


def judge(candidate: Candidate, rules: Rules) -> tuple[tuple[Instance, ...], Drop | None]:
    """The instances that stay and, where none may, why. The first rule that objects gives the reason."""
    for rule in CANDIDATE_RULES:
        drop = rule(candidate, rules)
        if drop:
            return (), drop
    assert candidate.instruction is not None
    kept: list[Instance] = []
    last: Drop | None = Drop("missing_field", "instance")
    for instance in candidate.instances:
        drop = next((d for rule in INSTANCE_RULES if (d := rule(instance, candidate.instruction, rules))), None)
        if drop:
            last = drop
        elif instance not in kept:  # exact duplicates go (Self-Instruct)
            kept.append(instance)
    if conflict := conflicting_outputs(kept):
        return (), conflict
    return tuple(kept[: rules.max_instances]), None if kept else last


def conflicting_outputs(instances: Sequence[Instance]) -> Drop | None:
    """The same non-empty input with different outputs: none of the task's instances can be trusted
    (Self-Instruct)."""
    answers: dict[str, str] = {}
    for instance in instances:
        if instance.input and answers.setdefault(instance.input, instance.output) != instance.output:
            return Drop("conflicting_outputs", instance.input[:80])
    return None


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))
