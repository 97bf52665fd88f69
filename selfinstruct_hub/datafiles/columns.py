"""Which column holds the instruction, and the text of what stands in it. Opens nothing."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from selfinstruct_hub.datafiles.parts import Batch, Unusable
from selfinstruct_hub.errors import DataFileError
from selfinstruct_hub.rows import kind, shown

# Where no column is named, the first of these that a file has.
USUAL = (
    *("instruction", "question", "prompt", "problem", "query", "text", "input", "goal", "task"),
    *("messages", "conversations", "conversation", "turns"),
)
_MOST_NAMED = 20
_ROLES = ("role", "from")
_TEXTS = ("content", "value", "text")
_USERS = ("user", "human")


def chosen(batch: Batch, place: str, named: str | None = None, *, option: str = "--column") -> str:
    """The column to read, by the first rows of a file: `named`, or else the first of USUAL.

    Raises DataFileError, with what the rows have, where there is none; with what is wrong with the rows where
    none of them can be read.
    """
    there = batch.columns
    if not there:
        broken = next(value for value in batch.values("") if isinstance(value, Unusable))
        raise DataFileError(f"{place}, {batch.places[0]}: {broken.reason}")
    if named is not None:
        if named in there:
            return named
        close = difflib.get_close_matches(named, there, n=1)
        hint = f"did you mean `{shown(close[0])}`? " if close else ""
        raise DataFileError(f"{place}: no column `{shown(named)}`; {hint}it has: {_listed(there)}")
    for name in USUAL:
        if name in there:
            return name
    raise DataFileError(
        f"{place}: no column is called {', '.join(USUAL[:-1])} or {USUAL[-1]}; name the one with the texts with "
        f"{option}; it has: {_listed(there)}"
    )


def text_of(value: Any) -> str | Unusable:
    """A text as it stands; of a list of messages, the first one of the user's, of turns the first."""
    if isinstance(value, str | Unusable):
        return value
    if turns := turns_of(value):
        return turns[0]
    if not isinstance(value, list):
        return Unusable(f"expected a text, found {kind(value)}")
    for message in value:
        if not isinstance(message, dict):
            return Unusable(f"expected a text or messages, found a list with {kind(message)} in it")
        if any(message.get(name) in _USERS for name in _ROLES):
            return _content(message)
    return Unusable("expected a text or messages, found a list without a message of the user's")


def turns_of(value: Any) -> list[str] | None:
    """What a user says turn by turn, as MT-Bench (`["...", "..."]`) and Arena-Hard (`[{"content": "..."}]`) have
    it; None where `value` is no such list."""
    if not isinstance(value, list):
        return None
    turns = [one["content"] if isinstance(one, dict) and list(one) == ["content"] else one for one in value]
    return turns if turns and all(isinstance(one, str) for one in turns) else None


def _content(message: dict[str, Any]) -> str | Unusable:
    content = next((message[name] for name in _TEXTS if message.get(name) is not None), None)
    if isinstance(content, list):  # of parts, some of which may be pictures
        texts = [part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str)]
        content = "\n".join(texts) if texts else None
    if isinstance(content, str):
        return content
    return Unusable(f"expected a text in the first message of the user's, found {kind(content)}")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(shown(name) for name in names[:_MOST_NAMED]) + more
