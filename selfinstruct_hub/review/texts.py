"""Whether a person changed a text, and what it is then. Pure.

A spreadsheet turns line breaks into its own and cuts what is longer than a cell takes; neither is a correction.
"""

from __future__ import annotations

from collections.abc import Mapping

from selfinstruct_hub.review.files import JSONL, LONGEST_CELL, guarded, unguarded
from selfinstruct_hub.review.lines import TEXTS, Line


def changed_texts(
    line: Line, standing: Mapping[str, str], *, whole: bool = False, check: bool = True
) -> dict[str, str]:
    """The texts as they are to be: the standing one where the line means the same, else the line's without the
    blanks around it. Raises ReviewError for a changed text that cannot be one, and with `whole` also for a
    standing instruction or output that is empty."""
    found = {}
    for name in TEXTS:
        new, old = line.texts[name], standing[name]
        if _same(new, old, any_breaks=line.any_breaks):
            found[name] = old
        else:
            found[name] = (_breaks(new) if line.any_breaks else new).strip()
            if check:
                _check(line, name, found[name], old)
        if whole and check and name != "input" and not found[name].strip():
            raise line.wrong(name, "empty; expected a text")
    return found


def _check(line: Line, name: str, new: str, old: str) -> None:
    if name != "input" and not new:
        raise line.wrong(name, "empty; expected a text, or `reject` in the field `verdict`")
    if "\0" in new:
        raise line.wrong(name, "holds a NUL character; take it out")
    cell = guarded(old)
    cut = unguarded(cell[:LONGEST_CELL])
    if line.any_breaks and len(cell) > LONGEST_CELL and _breaks(cut).strip().startswith(new[: LONGEST_CELL - 100]):
        raise line.wrong(
            name,
            f"was cut at {LONGEST_CELL:,} characters, which is all that a cell of Excel holds; correct this row "
            f"in a {JSONL} file",
        )


def _same(new: str, old: str, *, any_breaks: bool) -> bool:
    if new == old:
        return True
    if any_breaks:
        new, old = _breaks(new), _breaks(old)
    return new.strip() == old.strip()


def _breaks(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")
