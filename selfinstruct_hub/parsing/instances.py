"""Worked examples of one task out of a completion (Self-Instruct's third step).

    Example 1                      Class label: positive
    Input: ...                     Input: ...
    Output: ...                    Class label: negative
    Example 2 ...                  Input: ...

The left form is input-first, the right one output-first; where a class label comes first, it is the right one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import zip_longest

from selfinstruct_hub.parsing.inputs import normalise_input
from selfinstruct_hub.records import Drop, Instance, Lost

EXAMPLE, INPUT, OUTPUT, LABEL = "example", "input", "output", "label"
# Text that stands under no marker; the reference scripts take it for the output.
_PLAIN = "plain"

# No two neighbouring runs of blanks may match the same text (see tasks.py).
_MARK = re.compile(
    r"""^[ \t]*(?:[#*_]+[ \t]*)?(?:
        (?P<example>Example|EXAMPLE|示例|例子)(?:[ \t]*(?P<number>\d+))?(?:[ \t]*[.:：])?(?:\*\*|__)?[ \t]*$
        |(?:(?P<label>Class[ ]label|Class[ ]Label|类别)
           |(?P<input>Input|INPUT|输入)
           |(?P<output>Output|OUTPUT|输出)
         )[ \t]*(?:(?:\*\*|__)[ \t]*)?[:：](?:\*\*|__)?
    )""",
    re.MULTILINE | re.VERBOSE,
)


@dataclass
class _Item:
    fields: dict[str, list[str]] = field(default_factory=dict)
    current: str = _PLAIN

    def text(self, name: str) -> str:
        return "".join(self.fields.get(name, ())).strip()


def begins_with_label(text: str) -> bool | None:
    """Whether the first field of `text` is a class label; None where no field is marked."""
    mark = next((mark for mark in _MARK.finditer(text) if not mark["example"]), None)
    return None if mark is None else bool(mark["label"])


def labelled_instances(
    text: str, *, prefilled: str = "", cut_off: bool = False
) -> tuple[tuple[Instance, ...], tuple[Lost, ...]]:
    """The instances of `text` in order, and those that never became whole.

    `prefilled` is what the prompt already said ("Example 1\\nInput:"), which the text may say once more; `cut_off`
    says that the text ended by its token limit, which costs the last instance, whole or not (Self-Instruct).
    Inside an output, a marker that cannot open a field there is a line of that output.
    """
    whole = prefilled + text
    marks = list(_MARK.finditer(whole))
    numbered = any(mark["example"] for mark in marks)
    label_first = bool(begins_with_label(whole))
    before = _Item()
    items = [before]
    end = number = 0
    for mark, following in zip_longest(marks, marks[1:]):
        kind = next(name for name in (EXAMPLE, LABEL, INPUT, OUTPUT) if mark[name])
        item = items[-1]
        blank = not whole[end : mark.start()].strip() and not item.text(item.current)
        heads = following is not None and not whole[mark.end() : following.start()].strip()
        anew = False  # the model says once more what the prompt said already
        if label_first:
            anew = kind in (EXAMPLE, LABEL) and item.current == LABEL and blank
            opens = kind == LABEL or (kind == INPUT and item.current == LABEL)
            opens = opens or (kind == EXAMPLE and heads and bool(following["label"]))
        elif kind == EXAMPLE and not mark["number"]:
            # "Example:" is a line of many a text, unless a field begins right behind it.
            opens = heads and bool(following["input"] or following["output"])
            anew = OUTPUT not in item.fields and blank
        elif kind == EXAMPLE:
            anew = OUTPUT not in item.fields and (blank or int(mark["number"]) == number)
            opens = anew or int(mark["number"]) > number
            number = int(mark["number"]) if opens else number
        elif kind == INPUT:
            opens = INPUT not in item.fields and OUTPUT not in item.fields
            opens = opens or (item.current == INPUT and blank) or (OUTPUT in item.fields and not numbered)
        else:
            opens = kind == OUTPUT and OUTPUT not in item.fields
        if not opens:
            continue
        item.fields.setdefault(item.current, []).append(whole[end : mark.start()])
        end = mark.end()
        if anew:
            items.pop()
        if kind in (EXAMPLE, LABEL) or (kind == INPUT and OUTPUT in item.fields):
            items.append(_Item())
        items[-1].current = kind if kind != EXAMPLE else _PLAIN
        items[-1].fields.setdefault(items[-1].current, [])
    items[-1].fields.setdefault(items[-1].current, []).append(whole[end:])
    if len(items) > 1 and items[0] is before and set(before.fields) == {_PLAIN}:
        del items[0]  # text before the first example

    instances: list[Instance] = []
    lost: list[Lost] = []
    for place, item in enumerate(items):
        instance = _label_first(item) if label_first else _input_first(item)
        if instance is None:
            continue
        if cut_off and place == len(items) - 1:
            lost.append(Lost(instance, Drop("cut_off")))
        elif not instance.output:
            lost.append(Lost(instance, Drop("missing_field", "output")))
        else:
            instances.append(instance)
    return tuple(instances), tuple(lost)


def _label_first(item: _Item) -> Instance | None:
    """The label is one line; what follows is the input, with or without a marker of its own."""
    if LABEL not in item.fields:
        return None
    label, _, rest = item.text(LABEL).partition("\n")
    given = "\n".join(part for part in (rest.strip(), item.text(INPUT)) if part)
    return Instance(input=normalise_input(given), output=label.strip())


def _input_first(item: _Item) -> Instance | None:
    if INPUT not in item.fields and OUTPUT not in item.fields:
        plain = item.text(_PLAIN)
        return Instance(input="", output=plain) if plain else None
    given = item.text(INPUT) if INPUT in item.fields else item.text(_PLAIN)
    return Instance(input=normalise_input(given), output=item.text(OUTPUT))
