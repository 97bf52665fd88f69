"""Other projects' files, in and out: `read` a file into entries, `write` entries as a file.

    self_instruct.py   seed_tasks, machine_generated_instructions, machine_generated_instances
    alpaca.py          alpaca_data, regen, all_generated_instances
    gpt3.py            gpt3_finetuning_data
    chat.py            messages, prompt_completion, conversations
    entry.py           what a row becomes
    target.py          where a file is written

A file read and written again in its format is the same JSON, keys unknown to us included, and the same bytes
where json.dumps wrote it with the format's own conventions (the keys in their usual order). Entries written and
read again are the same in all that their format can hold, which the format's docstring says. Nothing here judges
an instruction.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

from selfinstruct_hub import rows
from selfinstruct_hub.errors import FormatError
from selfinstruct_hub.formats import alpaca, chat, gpt3, self_instruct
from selfinstruct_hub.formats.entry import Entry, Format
from selfinstruct_hub.records import digest

__all__ = ["AUTO", "FORMATS", "NAMES", "Entry", "Format", "ReadFile", "Written", "read", "write"]

AUTO = "auto"

# In the order in which a row is offered to them.
FORMATS: dict[str, Format] = {
    "seed_tasks": self_instruct.SeedTasks(),
    "machine_generated_instructions": self_instruct.MachineGeneratedInstructions(),
    "machine_generated_instances": self_instruct.MachineGeneratedInstances(),
    "all_generated_instances": alpaca.AllGeneratedInstances(),
    "gpt3_finetuning_data": gpt3.Gpt3FinetuningData(),
    "regen": alpaca.Regen(),
    "alpaca_data": alpaca.AlpacaData(),
    "messages": chat.Messages(),
    "prompt_completion": chat.PromptCompletion(),
    "conversations": chat.Conversations(),
}
NAMES: tuple[str, ...] = tuple(FORMATS)

_SHOWN_PLACES = 5
_SHOWN_KEYS = 8


@dataclass(frozen=True)
class ReadFile:
    """A file's entries in order, and the SHA-256 of its bytes; `bad` says in one line each why a row was left
    out."""

    format: str
    entries: tuple[Entry, ...]
    sha256: str
    bad: tuple[str, ...] = ()


@dataclass(frozen=True)
class Written:
    """What became of the entries: rows written, rows left out because they stood there already, entries that
    had no instance for a format that needs one, and rows whose texts cannot be told apart on reading."""

    rows: int = 0
    duplicates: int = 0
    without_instances: int = 0
    inexact: int = 0


def read(path: Path, format: str = AUTO, *, skip_bad: bool = False) -> ReadFile:
    """The entries of `path`. `auto` finds the format by the keys of all rows.

    Raises FormatError where the file is in no format or in two, where rows are bad (with `skip_bad` only where
    all are), and where it cannot be read at all. The message is one line.
    """
    file = rows.read(path, FormatError)
    if not file.rows:
        raise FormatError(f"{path}: no rows in it; expected one JSON object a line, or one JSON array of objects")
    chosen = _detected(path, file) if format == AUTO else _named(format)
    entries: list[Entry] = []
    bad: list[tuple[str, str]] = []
    for row in file.rows:
        try:
            fields = row.fields(FormatError)
            entry = chosen.parse(fields)
            fields.check_writable()
        except FormatError as error:
            bad.append((row.place, str(error)))
        else:
            entries.append(replace(entry, place=row.place))
    if not entries:
        raise FormatError(f"{bad[0][1]}; {_none_fits(chosen, file)}")
    if bad and not skip_bad:
        places = _places([place for place, _ in bad])
        count = f"{len(bad):,} of {len(file.rows):,} rows {'is' if len(bad) == 1 else 'are'} bad"
        raise FormatError(f"{bad[0][1]}; {count} ({places}): --skip-bad imports the others")
    return ReadFile(chosen.name, tuple(entries), file.sha256, tuple(said for _, said in bad))


def write(entries: Iterable[Entry], format: str, out: TextIO, *, seed: int = 42) -> Written:
    """Writes `entries` to `out` row by row, in the order they come. `seed` is for formats that have a choice.

    Raises FormatError for a format that is none, and for an entry that holds what JSON cannot.
    """
    chosen = _named(format)
    count = {"rows": 0, "duplicates": 0, "without_instances": 0, "inexact": 0}
    seen: set[str] = set()
    for entry in entries:
        rendered = list(chosen.render(entry, seed))
        count["without_instances"] += not rendered
        for one in rendered:
            if chosen.distinct:
                key = digest(*(one.row[name] for name in chosen.distinct))
                if key in seen:
                    count["duplicates"] += 1
                    continue
                seen.add(key)
            text = _json(chosen, entry, one.row)
            if chosen.array:
                out.write((",\n    " if count["rows"] else "[\n    ") + text.replace("\n", "\n    "))
            else:
                out.write(text + "\n")
            count["rows"] += 1
            count["inexact"] += not one.exact
    if chosen.array:
        out.write("\n]" if count["rows"] else "[]")
    return Written(**count)


def _json(chosen: Format, entry: Entry, row: Any) -> str:
    try:
        return json.dumps(row, ensure_ascii=chosen.escaped, indent=4 if chosen.array else None)
    except RecursionError:
        raise FormatError(
            f"{entry.place or 'an entry'}: nested too deeply to be written as {chosen.name}"
        ) from None


def _named(name: str) -> Format:
    if name not in FORMATS:
        raise FormatError(f"no format `{name}`; there are: {', '.join(NAMES)}")
    return FORMATS[name]


def _recognised(file: rows.RowFile) -> dict[str, str]:
    """The formats that rows of `file` are in, each with the place of its first row."""
    found: dict[str, str] = {}
    for row in file.rows:
        if isinstance(row.value, dict):
            name = next((n for n, f in FORMATS.items() if f.recognises(row.value, file.array)), None)
            if name is not None:
                found.setdefault(name, row.place)
    if "gpt3_finetuning_data" in found and "prompt_completion" in found:
        # An end marker that only some completions have is a part of these texts; a completion that is no text
        # has no say in it.
        texts = (row.value.get("completion") for row in file.rows if isinstance(row.value, dict))
        plain = any(isinstance(text, str) and not text.endswith(gpt3.END) for text in texts)
        found.pop("gpt3_finetuning_data" if plain else "prompt_completion")
    return found


def _detected(path: Path, file: rows.RowFile) -> Format:
    found = _recognised(file)
    if len(found) > 1:
        (one, first), (other, second) = list(found.items())[:2]
        raise FormatError(
            f"{path}: {first} is {one}, {second} is {other}; a file is in one format: split it, or name the one "
            "to read with --format"
        )
    if found:
        return FORMATS[next(iter(found))]
    row = next((row for row in file.rows if isinstance(row.value, dict)), None)
    if row is None:
        file.rows[0].fields(FormatError)  # raises what is wrong with it
    assert row is not None
    keys = [f"`{rows.shown(key)}`" for key in row.value]
    more = f" and {len(keys) - _SHOWN_KEYS} more" if len(keys) > _SHOWN_KEYS else ""
    having = f"has the keys {', '.join(keys[:_SHOWN_KEYS])}{more}" if keys else "has no keys"
    raise FormatError(f"{path}: in none of the formats: {row.place} {having}; the formats are {', '.join(NAMES)}")


def _none_fits(chosen: Format, file: rows.RowFile) -> str:
    count = "its only row is bad" if len(file.rows) == 1 else f"all {len(file.rows):,} rows are bad"
    others = [name for name in _recognised(file) if name != chosen.name]
    return f"{count} as {chosen.name}" + (f"; the file looks like {' and '.join(others)}" if others else "")


def _places(places: list[str]) -> str:
    unit = places[0].split()[0]
    numbers = ", ".join(place.split()[1] for place in places[:_SHOWN_PLACES])
    more = f" and {len(places) - _SHOWN_PLACES:,} more" if len(places) > _SHOWN_PLACES else ""
    return f"{unit}{'s' if len(places) > 1 else ''} {numbers}{more}"
