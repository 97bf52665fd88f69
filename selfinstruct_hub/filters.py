"""From a candidate to the reason it is dropped, or None. One function a rule; pure.

Rules and thresholds are those of Self-Instruct (https://arxiv.org/abs/2212.10560, appendix A and published
code) and Stanford Alpaca, except where a rule says otherwise. What counts as a word, a letter or an opening is
the language's to say. A rule on an instance drops this instance; a task whose last instance goes is dropped with
that reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from selfinstruct_hub import languages
from selfinstruct_hub.records import Candidate, Drop, Instance, Lost

# A run of five Chinese characters is two or three words, and comes back in any honest text.
_WORD_RUN, _CHARACTER_RUN = 5, 10
_NO_OUTPUT = ("", "nooutput", "no output", "无", "无输出", "暂无", "無", "無輸出", "暫無")


@dataclass(frozen=True)
class Rules:
    """The thresholds in force, with the recipe's defaults filled in."""

    min_words: int
    max_words: int
    blocked_words: tuple[str, ...]
    max_instances: int
    max_repeated_share: float | None
    language: languages.Language


def missing_field(candidate: Candidate, rules: Rules) -> Drop | None:
    """The parser found no instruction or no output, or found one twice."""
    return Drop("missing_field", candidate.missing) if candidate.missing else None


def cut_off(candidate: Candidate, rules: Rules) -> Drop | None:
    """The completion ran into its token limit inside this item (Alpaca drops just this item)."""
    return Drop("cut_off") if candidate.cut_off else None


def too_short(candidate: Candidate, rules: Rules) -> Drop | None:
    """Three words or fewer do not make an instruction (both papers)."""
    words = languages.words(candidate.instruction or "")
    return Drop("too_short", f"{words} words") if words < rules.min_words else None


def too_long(candidate: Candidate, rules: Rules) -> Drop | None:
    """More than 150 words (both papers), or what is as long in the language."""
    words = languages.words(candidate.instruction or "")
    return Drop("too_long", f"{words} words") if words > rules.max_words else None


def blocked_word(candidate: Candidate, rules: Rules) -> Drop | None:
    """A word that asks for what a text model cannot do, as a whole word in any case (both papers). In a script
    without spaces, which shows no whole words, wherever its characters stand together."""
    text = _fenced(candidate.instruction or "")
    for word, needle in _needles(rules.blocked_words):
        if needle in text:
            return Drop("blocked_word", word)
    return None


def write_a_program(candidate: Candidate, rules: Rules) -> Drop | None:
    """Models that begin with this tend to describe inputs no text can hold (both papers)."""
    begins = (candidate.instruction or "").startswith(rules.language.program_openings)
    return Drop("write_a_program") if begins else None


def punctuation_start(candidate: Candidate, rules: Rules) -> Drop | None:
    """The first character is neither letter nor digit (both papers, for ASCII) nor an opening of the language."""
    first = (candidate.instruction or " ")[0]
    stands = first.isalnum() or rules.language.begins_well(first)
    return None if stands else Drop("punctuation_start", first)


def foreign_start(candidate: Candidate, rules: Rules) -> Drop | None:
    """The first letter is of a script in which no instruction of the language begins (both papers, where it has
    to be ASCII)."""
    first = (candidate.instruction or " ")[0]
    foreign = first.isalpha() and not rules.language.begins_well(first)
    return Drop("foreign_start", first) if foreign else None


def foreign_script(candidate: Candidate, rules: Rules) -> Drop | None:
    """No letter is of the language's own script, so it was written in another language (ours: models asked for
    Chinese often answer in English)."""
    text = candidate.instruction or ""
    return None if rules.language.has_own_script(text) else Drop("foreign_script", text[:80])


def empty_output(instance: Instance, instruction: str, rules: Rules) -> Drop | None:
    """Nothing was answered (Self-Instruct)."""
    bare = instance.output.strip().strip("<>＜＞《》。").casefold()
    return Drop("empty_output") if bare in _NO_OUTPUT else None


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
    same = languages.same_tokens(instance.output, instruction)
    return Drop("output_repeats_instruction") if same else None


def url_only_input(instance: Instance, instruction: str, rules: Rules) -> Drop | None:
    """The input is nothing but an address, so the output is invented (ours: same source)."""
    return Drop("url_only_input") if re.fullmatch(r"(https?://|www\.)\S+", instance.input.strip()) else None


def looping_output(instance: Instance, instruction: str, rules: Rules) -> Drop | None:
    """The model ran in circles: too large a share of the output's words lies in 5-word runs that came
    before (ours; after the repetition filters of Rae et al., https://arxiv.org/abs/2112.11446, table A1). In a
    script without spaces, 10-character runs."""
    if rules.max_repeated_share is None:
        return None
    text = instance.output.casefold()
    words = languages.chunks(text)
    length = _CHARACTER_RUN if 2 * languages.unspaced(text) > len(words) else _WORD_RUN
    runs = list(zip(*(words[first:] for first in range(length)), strict=False))
    seen: set[tuple[str, ...]] = set()
    covered: set[int] = set()
    if len(set(runs)) == len(runs):
        return None  # which is how most of them end
    for start, run in enumerate(runs):
        if run in seen:
            covered.update(range(start, start + length))
        seen.add(run)
    share = len(covered) / len(words) if words else 0.0
    return Drop("looping_output", f"{share:.0%} repeated") if share > rules.max_repeated_share else None


CandidateRule = Callable[[Candidate, Rules], Drop | None]
InstanceRule = Callable[[Instance, str, Rules], Drop | None]

CANDIDATE_RULES: tuple[CandidateRule, ...] = (
    *(cut_off, missing_field, too_short, too_long, blocked_word, write_a_program),
    *(punctuation_start, foreign_start, foreign_script),
)
INSTANCE_RULES: tuple[InstanceRule, ...] = (
    *(empty_output, output_repeats_input, ends_with_colon),
    *(output_repeats_instruction, url_only_input, looping_output),
)


def instruction_drop(candidate: Candidate, rules: Rules) -> Drop | None:
    """Why the instruction may not stay: the reason of the first rule that objects."""
    return next((drop for rule in CANDIDATE_RULES if (drop := rule(candidate, rules))), None)


def kept_instances(
    candidate: Candidate, rules: Rules
) -> tuple[tuple[Instance, ...], tuple[Lost, ...], Drop | None]:
    """The instances that stay, those that go with their reasons, and why the task goes where none stays.

    Only for a candidate whose instruction may stay. An instruction that came without instances on purpose loses
    nothing by having none.
    """
    assert candidate.instruction is not None
    kept: list[Instance] = []
    lost = list(candidate.lost)
    for instance in candidate.instances:
        drop = next((d for rule in INSTANCE_RULES if (d := rule(instance, candidate.instruction, rules))), None)
        if drop is None and instance in kept:
            drop = Drop("duplicate_instance")  # Self-Instruct: exact duplicates go
        if drop:
            lost.append(Lost(instance, drop))
        else:
            kept.append(instance)
    if conflict := conflicting_outputs(kept):
        return (), (*lost, *(Lost(instance, conflict) for instance in kept)), conflict
    lost += [Lost(instance, Drop("surplus_instance")) for instance in kept[rules.max_instances :]]
    kept = kept[: rules.max_instances]
    if kept or (candidate.bare and not lost):
        return tuple(kept), tuple(lost), None
    return (), tuple(lost), lost[-1].drop if lost else Drop("missing_field", "instance")


def conflicting_outputs(instances: Sequence[Instance]) -> Drop | None:
    """The same non-empty input with different outputs: none of the task's instances can be trusted
    (Self-Instruct)."""
    answers: dict[str, str] = {}
    for instance in instances:
        if instance.input and answers.setdefault(instance.input, instance.output) != instance.output:
            return Drop("conflicting_outputs", instance.input[:80])
    return None


@lru_cache(maxsize=8)
def _needles(blocked: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Each blocked word with what to look for. A word of punctuation alone has no tokens and blocks nothing."""
    return tuple((word, _fenced(word)) for word in blocked if languages.tokens(word))


def _fenced(text: str) -> str:
    """The text's tokens with a space on both sides of each, so that one is found as a whole only."""
    return f" {' '.join(languages.tokens(text))} "
