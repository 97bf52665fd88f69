"""What a chat model says around its answer, taken off, so that what is left goes on where the prompt broke off.

A base model continues a text; a chat model answers a person. It may think aloud, greet, put its answer into a code
block, and say once more what the prompt had already begun. What it says in the answer itself is left as it is.
"""

from __future__ import annotations

import re
from functools import lru_cache

_THINK, _THOUGHT = "<think>", "</think>"
_FENCE = re.compile(r"^[ \t]*```[\w+-]*[ \t]*$\n?", re.MULTILINE)
# How chat models begin when they do not simply go on.
_OPENER = re.compile(
    r"\s*(?:(?:Sure|Certainly|Of course|Absolutely|Okay|OK|Alright|Got it|Understood|Great)\b"
    r"|好的|当然|没问题|明白)"
)
_ANNOUNCEMENT = re.compile(
    r"\s*(?:Here (?:are|is)|Here's|Below (?:are|is)|Continuing|以下是|以下为|下面是|这是|继续)[^\n]*[:：!！]"
)
_HEADING = re.compile(r"[ \t]*(?:#{1,6}[ \t][^\n]*|\*\*[^\n]*\*\*|-{3,}|\*{3,})[ \t]*$")
_TASK = re.compile(r"(?:\*\*)?(?:Task|任务)[^\n:：]*[:：]")  # a line of the prompt, said once more
# A line of an answer's own, in any of the recipes.
_FIELD = re.compile(
    r"""^[ \t>*_#-]*(?:\d{1,4}[ \t]?[.)、．]
        |(?:Instruction|Input|Output|Class[ ]label|Classification|指令|输入|输出|类别|是否为分类任务)[ \t*_]*[:：]
        |(?:Example|示例)[ \t]*\d+)""",
    re.MULTILINE | re.VERBOSE | re.IGNORECASE,
)
_BLANK_LINE = re.compile(r"\n[ \t]*\n")
_LONGEST_TALK = 600  # characters; what is longer is an answer


def continuation(answer: str, beginning: str, *, unwrap: bool = True) -> str:
    """What `answer` adds to a prompt that ends with `beginning` ("4. Instruction:", "Example 1\\nInput:").

    Where the beginning is said once more, behind nothing or behind talk, what follows it counts; so does what
    follows a greeting in a paragraph of its own. A text that simply goes on is returned unchanged. `unwrap` takes
    a code block around all of it off, which is part of the answer where that may be code.
    """
    text = _without_thoughts(answer)
    text = _without_fence(text) if unwrap else text
    again = _said_again(beginning).search(text)
    if again and _is_talk(text[: again.start()]):
        return text[again.end() :]
    paragraph = _BLANK_LINE.search(text.lstrip("\n"))
    if paragraph and _is_greeting(text.lstrip("\n")[: paragraph.start()]):
        return text.lstrip("\n")[paragraph.end() :]
    return text


def _without_thoughts(text: str) -> str:
    """`text` behind what a reasoning model thinks aloud; nothing where that never came to an end. Some templates
    begin the thoughts themselves, so that the text only ends them."""
    thoughts, ended, answer = text.partition(_THOUGHT)
    if ended and _THINK not in thoughts.lstrip().removeprefix(_THINK):
        return answer.lstrip("\n")
    return "" if text.lstrip().startswith(_THINK) else text


def _without_fence(text: str) -> str:
    """`text` without a code block around all of it, and without what stands before and behind the block. Blocks
    inside the answer stay."""
    fences = list(_FENCE.finditer(text))
    if not fences:
        return text
    first, last = fences[0], fences[-1]
    closed = text.count("```") % 2 == 0
    behind = text[last.end() :]
    if _is_talk(text[: first.start()]) and not (closed and _FIELD.search(behind)):
        # There is no last one where the answer was cut off.
        return text[first.end() : last.start() if closed and last is not first else len(text)]
    if not closed and not behind.strip():
        return text[: last.start()]  # it closes a block that the model took the prompt for
    return text


def _is_talk(before: str) -> bool:
    """Whether nothing is said in `before` but that an answer follows."""
    before = before.strip()
    if not before:
        return True
    if len(before) > _LONGEST_TALK or _FIELD.search(before):
        return False
    last = before.rsplit("\n", 1)[-1]
    announces = before.endswith((":", "：", ":**", "：**")) or _HEADING.fullmatch(last) is not None
    repeats = before == last and _TASK.match(before) is not None
    return announces or repeats or _OPENER.match(before) is not None


def _is_greeting(paragraph: str) -> bool:
    line = paragraph.strip().rstrip("*_")
    if "\n" in line or len(line) > _LONGEST_TALK:
        return False
    return _OPENER.match(line) is not None or _ANNOUNCEMENT.fullmatch(line) is not None


# No two neighbouring runs of blanks may match the same text (see tasks.py).


@lru_cache(maxsize=64)
def _said_again(beginning: str) -> re.Pattern[str]:
    """The beginning as chat models write it: in bold, as a heading or a list's item, with another number; of
    several lines only the last is needed."""
    *above, last = (_line(line) for line in beginning.split("\n"))
    lines = [rf"(?:{line}[ \t]*\n(?:[ \t]*\n)?)?" for line in above]
    return re.compile("".join(lines) + last, re.MULTILINE | re.IGNORECASE)


def _line(line: str) -> str:
    """A regular expression for one line of a beginning: "9.", "4. Instruction:" or "Example 1"."""
    begins = r"^[ \t>]*(?:[-*+][ \t]+|\#+[ \t]*)?(?:\*\*|__)?"
    if number := re.fullmatch(r"(\d+)\.", line):
        return rf"{begins}{number[1]}[ \t]?[.)、．](?!\d)(?:\*\*|__)?"
    if label := re.fullmatch(r"(?:\d+\. ?)?(.+)[:：]", line):
        number_again = r"(?:\d{1,4}(?:[ \t]*[.)、．:：-])?[ \t]*)?(?:\*\*|__)?"
        return rf"{begins}{number_again}{re.escape(label[1])}[ \t]*(?:(?:\*\*|__)[ \t]*)?[:：](?:\*\*|__)?"
    name = re.escape(re.sub(r"\s*\d+$", "", line))
    return rf"{begins}{name}(?:[ \t]*\d+)?(?:[ \t]*[.:：])?(?:\*\*|__)?"
