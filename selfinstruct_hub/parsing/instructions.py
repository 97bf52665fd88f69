"""Instructions out of a numbered list (Self-Instruct's first step).

Tolerated, all seen in real completions: skipped numbers, `9)` and `9、` and `9．`, bold, a label before the text,
chatter before a list that begins anew, an explanation below the list, an item cut off by the token limit.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from selfinstruct_hub.records import Candidate

# No two neighbouring runs of blanks may match the same text (see tasks.py).
_MARK = re.compile(
    r"""^[ \t]*(?:(?:\#+|\*[ \t])[ \t]*)?(?P<bold>\*\*|__)?
        (?P<number>\d{1,4})[ \t]?[.)、．](?!\d)(?(bold)(?:\*\*|__)?)[ \t]*""",
    re.MULTILINE | re.VERBOSE,
)
_LABEL = re.compile(
    r"^(?:\*\*|__)?(?:Instruction|Task|INSTRUCTION|TASK|指令|任务)(?:[ \t]*\d+)?[ \t]*[:：](?:\*\*|__)?[ \t]*"
)
# An instruction in bold as a whole, or one whose bold began before its number.
_BOLD = re.compile(r"(?:\*\*)?([^*]+)\*\*")
_BLANK_LINE = re.compile(r"\n[ \t]*\n")
# How assistants begin when they do not simply go on.
_CHATTER = re.compile(
    r"\s*(?:Sure|Certainly|Of course|Okay|OK|Here (?:are|is)|好的|当然|以下是)\b|\s*(?:好的|当然|以下是)"
)
# A model skips a number or two; a line that begins with "2016." is text.
_LARGEST_STEP = 10


def numbered_instructions(text: str, *, first: int, cut_off: bool = False) -> list[Candidate]:
    """The instructions of `text`, which goes on where a prompt ended with the number `first` ("9.").

    A number opens an item only where it is a little above the one before: a list inside an instruction starts
    again at 1. An instruction is one paragraph, so what follows a blank line is not part of it. `cut_off` says
    that the text ended by its token limit, which marks the last item.
    """
    items: list[list[str]] = [[]]
    number, end = first, 0
    marks = list(_MARK.finditer(text))
    numbers = [int(mark["number"]) for mark in marks]
    for place, (mark, found) in enumerate(zip(marks, numbers, strict=True)):
        anew = len(items) == 1 and _begins_anew(text[: mark.start()], numbers[place:], first)
        # The first number once more: a model that repeats it after an item means the next one.
        again = len(items) == 1 and found == first and not anew
        if not (anew or again or number < found <= number + _LARGEST_STEP):
            continue
        items[-1].append(text[end : mark.start()])
        if anew:
            items.clear()
        items.append([])
        number, end = found, mark.end()
    items[-1].append(text[end:])
    last = len(items) - 1
    # A blank line after the last item closes it: what was cut off is the text below the list.
    closed = _BLANK_LINE.search("".join(items[last]).lstrip()) is not None
    return [
        Candidate(
            instruction=instruction or None,
            missing=None if instruction else "instruction",
            cut_off=cut_off and place == last and not closed,
        )
        for place, item in enumerate(items)
        if (instruction := _instruction("".join(item))) or place < last or last == 0
    ]


def _begins_anew(before: str, numbers: Sequence[int], first: int) -> bool:
    """Whether a list begins at `numbers`[0], so that `before` was no item but chatter ("Sure, here they are:").

    An instruction may end in a colon too and have a list of its own, which stops before `first`: after it the
    prompt's list goes on.
    """
    chatter = not before.strip() or before.rstrip().endswith((":", "：")) or _CHATTER.match(before) is not None
    if numbers[0] == first:
        return chatter
    if numbers[0] != 1 or not chatter:
        return False
    return first + 1 not in numbers or first in numbers[: numbers.index(first + 1)]


def _instruction(text: str) -> str:
    paragraph = _BLANK_LINE.split(text.strip(), maxsplit=1)[0]
    line = re.sub(r"\s+", " ", _LABEL.sub("", paragraph)).strip()
    bold = _BOLD.fullmatch(line)
    return bold[1].strip() if bold else line
