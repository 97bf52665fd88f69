"""Whole tasks out of a completion: numbered items with instruction, input and output (Alpaca's step).

What the walk tolerates (all seen in real completions): Markdown headings inside an output, numbers that are
skipped or missing, full-width colons, bold labels, "no input" said in words, text before the first item and
after the last, an item cut off by the token limit.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from selfinstruct_hub.parsing.inputs import normalise_input
from selfinstruct_hub.records import Candidate, Instance

INSTRUCTION, INPUT, OUTPUT = "instruction", "input", "output"

# No two neighbouring runs of blanks may match the same text: a model that writes nothing but spaces would
# make the search quadratic.
# A label stands at the start of a line: "4. Instruction:", "Input：", "**5. Output:**", "### 6. Instruction 6:",
# "4. 指令：".
_LABEL = re.compile(
    r"""^[ \t>]*(?:[-*\#]+[ \t]*)?(?:\*\*|__)?
        (?:(?P<number>\d{1,4})(?:[ \t]*[.)、．:：-])?[ \t]*)?(?:\*\*|__)?
        (?P<name>Instruction|Input|Output|INSTRUCTION|INPUT|OUTPUT|指令|输入|输出)(?:[ \t]+\d{1,4})?
        [ \t]*(?:(?:\*\*|__)[ \t]*)?[:：](?:\*\*|__)?""",
    re.MULTILINE | re.VERBOSE,
)
_CHINESE = {"指令": INSTRUCTION, "输入": INPUT, "输出": OUTPUT}
# A separator is "###" with nothing but a number after it; "### Heading" is an output's own Markdown.
_SEPARATOR = re.compile(r"^[ \t]*\#{3,}(?:[ \t]*\d{1,4}[.)]?)?[ \t]*$", re.MULTILINE)


@dataclass
class _Item:
    """One item while it is read. `number` is that of its instruction label, None where it had none."""

    number: int | None = None
    fields: dict[str, list[str]] = field(default_factory=lambda: {INSTRUCTION: []})
    current: str = INSTRUCTION
    repeated: str | None = None
    closed: bool = False

    def text(self, name: str) -> str:
        return "".join(self.fields[name]).strip()

    @property
    def named_fields(self) -> int:
        return len(self.fields) - 1


def labelled_tasks(text: str, *, prefilled: str = "", cut_off: bool = False, stage: str = "") -> list[Candidate]:
    """The items of `text` in order, each with one instance; `stage` is the one that they came from.

    `prefilled` is what the prompt already said of the first item ("4. Instruction:"); `cut_off` says that the
    text ended by its token limit, which marks the last item unless a separator had closed it. Text before the
    first label, and text between a separator and the next instruction label, belongs to no item.
    """
    whole = prefilled + text
    items: list[_Item] = []
    end = 0

    def take(until: int) -> None:
        if items and not items[-1].closed:
            items[-1].fields[items[-1].current].append(whole[end:until])

    def pending(until: int) -> str:
        """What the open field would hold if it ended here."""
        return items[-1].text(items[-1].current) + whole[end:until].strip() if items else ""

    marks = sorted(
        [(m.start(), m.end(), m) for m in _LABEL.finditer(whole)]
        + [(m.start(), m.end(), None) for m in _SEPARATOR.finditer(whole)],
        key=lambda mark: mark[0],
    )
    for start, after, label in marks:
        if start < end:  # "### 4. Instruction:" is a label, its "###" no separator
            continue
        item = items[-1] if items else None
        if label is None:
            if item is not None and not item.closed and (item.named_fields or pending(start)):
                take(start)
                item.closed = True
                end = after
            continue
        name = _CHINESE.get(label["name"], label["name"].lower())
        number = int(label["number"]) if label["number"] else None
        if not _is_structure(name, number, item, pending(start)):
            continue
        take(start)
        end = after
        if name == INSTRUCTION:
            items.append(_Item(number))
        else:
            assert item is not None
            if name in item.fields:
                item.repeated = name
            item.closed = False  # a separator stood between its fields
            item.current = name
            item.fields.setdefault(name, [])
    take(len(whole))

    if len(items) > 1 and prefilled and not items[0].named_fields:
        # The model began anew ("Sure, here are the tasks: 4. Instruction: ..."): this was no item but chatter.
        anew = items[1].number == items[0].number
        if anew or not items[0].text(INSTRUCTION):
            del items[0]
    last = items[-1] if items and not items[-1].closed else None
    return [_candidate(item, cut_off=cut_off and item is last, stage=stage) for item in items]


def _is_structure(name: str, number: int | None, item: _Item | None, pending: str) -> bool:
    """Whether a label opens a field, or is a line of the text it stands in (a code sample's "Input:").

    `pending` is the text of the field that is open. In a list whose labels are numbered, an unnumbered
    "Instruction:" is a line of that text, unless a separator stood before it.
    """
    numbered = number is not None
    if name == INSTRUCTION:
        if numbered or item is None or item.closed or (item.current == INSTRUCTION and not pending):
            return True
        return item.number is None and OUTPUT in item.fields
    if item is None or (item.closed and OUTPUT in item.fields):
        return False
    if name == INPUT:
        return item.current == INSTRUCTION or (numbered and item.current == INPUT)
    return item.current != OUTPUT or numbered


def _candidate(item: _Item, *, cut_off: bool, stage: str) -> Candidate:
    instruction = item.text(INSTRUCTION)
    missing = None
    if not instruction:
        missing = INSTRUCTION
    elif OUTPUT not in item.fields:
        missing = OUTPUT
    elif item.repeated:
        missing = f"one {item.repeated}, found two"
    instances: tuple[Instance, ...] = ()
    if OUTPUT in item.fields:
        given = normalise_input(item.text(INPUT)) if INPUT in item.fields else ""
        instances = (Instance(input=given, output=item.text(OUTPUT)),)
    return Candidate(instruction or None, instances, missing, cut_off, stage=stage)
