"""A review's file, written and read again: JSON Lines, or CSV that spreadsheets open and save without harm.

A spreadsheet runs a cell that begins like a formula, and turns one that looks like a number or a date into
another. Such a cell gets an apostrophe in front, which is taken away when the file comes back; see `guarded`.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from selfinstruct_hub import rows
from selfinstruct_hub.errors import ReviewError
from selfinstruct_hub.formats.target import opened
from selfinstruct_hub.review.lines import COLUMNS, NEEDED, Line, line_of

CSV, JSONL = ".csv", ".jsonl"
LONGEST_CELL = 32_767  # characters; Excel cuts what is longer
_LONGEST_FIELD = 2**26
_LONGEST_DATE = 40  # characters
_WORD = re.compile(r"[^\W\d_]+")
_SEPARATORS = (",", ";", "\t")  # as spreadsheets save a CSV in one country or another
# What begins a formula (OWASP's list, and its full-width forms, which some programs take too).
_FORMULA = "=+-@\t\r\n＝＋－＠"
# Names of months begin so, in English, German, French, Spanish, Italian and Portuguese.
_MONTHS = {
    *"jan feb mar apr may jun jul aug sep oct nov dec".split(),
    *"jän mär mrz mai okt dez fév avr jui aoû déc ene abr ago dic gen mag giu lug set ott fev out".split(),
}
# Words that stand in a time or a date, Chinese ones between digits without a blank.
_OF_DATES = {*"e am pm a p t z".split(), *"年 月 日 号 时 時 分 秒 上午 下午".split()}
_TRUTHS = {*"true false wahr falsch vrai faux verdadero falso vero".split()}


def kind_of(path: Path) -> str:
    """CSV or JSONL, by the file's ending. Raises ReviewError for another."""
    ending = path.suffix.lower()
    if ending not in (CSV, JSONL):
        raise ReviewError(f"{path}: expected a file that ends in {JSONL} or {CSV}, which says how it is written")
    return ending


def write(path: Path, lines: Iterable[Mapping[str, Any]], *, overwrite: bool = False) -> tuple[int, int]:
    """Writes lines to `path`, in the form that its ending names; returns how many, and how many have a text that
    Excel would cut.

    Raises ReviewError for an ending that is none of them and for a text that a CSV cannot hold, FormatError where
    the file exists (unless `overwrite`) or cannot be written. Then nothing is written.
    """
    kind = kind_of(path)
    with opened(path, overwrite=overwrite) as out:
        return _write_csv(path, lines, out) if kind == CSV else (_write_jsonl(lines, out), 0)


def _write_jsonl(lines: Iterable[Mapping[str, Any]], out: TextIO) -> int:
    count = 0
    for line in lines:
        out.write(json.dumps({name: line[name] for name in COLUMNS}, ensure_ascii=False) + "\n")
        count += 1
    return count


def _write_csv(path: Path, lines: Iterable[Mapping[str, Any]], out: TextIO) -> tuple[int, int]:
    out.write("\ufeff")  # without it Excel takes UTF-8 for something else
    table = csv.writer(out, lineterminator="\r\n")
    table.writerow(COLUMNS)
    count = long = 0
    for line in lines:
        cells = [line[name] for name in COLUMNS]
        texts = [cell for cell in cells if isinstance(cell, str)]
        if any("\0" in text for text in texts):
            raise ReviewError(f"{path}: {line['id']} holds a NUL character, which no CSV can; name a {JSONL} file")
        cells = [guarded(cell) if isinstance(cell, str) else cell for cell in cells]
        long += any(isinstance(cell, str) and len(cell) > LONGEST_CELL for cell in cells)
        table.writerow(cells)
        count += 1
    return count, long


def guarded(text: str) -> str:
    """`text` as a cell that a spreadsheet shows and saves as it is."""
    return f"'{text}" if _needs_guard(text) else text


def unguarded(cell: str) -> str:
    """The text of a cell that `guarded` made."""
    return cell[1:] if cell.startswith("'") and _needs_guard(cell) else cell


def _needs_guard(text: str) -> bool:
    """Whatever its number of apostrophes in front, so that one more or less is told apart."""
    bare = text.lstrip("'")
    return bool(bare) and (bare[0] in _FORMULA or _is_converted(bare))


def _is_converted(text: str) -> bool:
    """Whether a spreadsheet would read a number, a date, a time or a truth value: "007", "3/4", "2e5", "May 1",
    "5月1日", a hundred digits of pi."""
    if not (words := _WORD.findall(text[:_LONGEST_DATE].casefold())):
        return any(c.isdecimal() for c in text) and not _WORD.search(text)
    if len(text) > _LONGEST_DATE:
        return False
    if text.strip().casefold() in _TRUTHS:
        return True
    return any(c.isdecimal() for c in text) and all(w in _OF_DATES or w[:3] in _MONTHS for w in words)


def read(path: Path) -> list[Line]:
    """The lines of a file that came back, in order. Raises ReviewError, one line with place and field, for
    whatever is wrong with it."""
    found = list(_read_csv(path) if kind_of(path) == CSV else _read_jsonl(path))
    if not found:
        raise ReviewError(f"{path}: has no line in it; expected those that `review --export` wrote")
    places: dict[str, str] = {}
    for line in found:
        if (first := places.setdefault(line.id, line.place)) != line.place:
            at = first.removeprefix(f"{path}, ")
            raise ReviewError(f"{line.place}, field `id`: {line.id} stands in {at} already; keep one of them")
    return found


def _read_jsonl(path: Path) -> Iterator[Line]:
    for row in rows.read(path, ReviewError, what="a line of a review").rows:
        fields = row.fields(ReviewError)
        missing = [name for name in NEEDED if name not in fields.values]
        if missing:
            raise ReviewError(f"{fields.where}: field `{missing[0]}` is missing; expected {', '.join(NEEDED)}")
        # What a tool writes for an empty field is an empty one.
        emptied = {name: "" if fields.values[name] is None else fields.values[name] for name in NEEDED}
        texts = rows.Fields(emptied, fields.where, ReviewError)
        yield line_of(fields.where, {name: texts.text(name) for name in NEEDED})


def _read_csv(path: Path) -> Iterator[Line]:
    text = _decoded(path)
    header = text.partition("\n")[0]
    separator = max(_SEPARATORS, key=header.count)  # a column that was added may have one in its name
    before = csv.field_size_limit(_LONGEST_FIELD)
    try:
        yield from _records(path, csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True))
    finally:
        csv.field_size_limit(before)


def _decoded(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as problem:
        raise ReviewError(f"{path}: cannot be read ({problem.strerror})") from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        at = content[: problem.start].count(b"\n") + 1
        raise ReviewError(
            f'{path}, line {at}: not UTF-8 text; save it once more as "CSV UTF-8", or with the character set UTF-8'
        ) from None
    if "\0" in text:
        at = text[: text.index("\0")].count("\n") + 1
        raise ReviewError(f"{path}, line {at}: holds a NUL character, which no CSV can; take it out")
    return text


def _records(path: Path, records: Any) -> Iterator[Line]:
    """Rows are numbered as a spreadsheet does: the names of the columns stand in row 1."""
    names: list[str] = []
    number = 0
    while True:
        number += 1
        where = f"{path}, row {number}"
        try:
            cells: list[str] = next(records)
        except StopIteration:
            return
        except csv.Error as problem:
            unclosed = "field limit" in str(problem) or "unexpected end" in str(problem)
            said = "a quotation mark is never closed" if unclosed else str(problem)
            raise ReviewError(f"{where}: not valid CSV ({said}); expected what `review --export` wrote") from None
        if not any(cells):
            continue
        if not names:
            names = [cell.strip() for cell in cells]
            _check_names(path, names)
            continue
        if len(cells) > len(names):
            raise ReviewError(
                f"{where}: {len(cells)} fields, but {len(names)} columns; put texts with separators into quotes"
            )
        # Excel leaves out empty cells at the end of a row.
        found = dict(zip(names, cells, strict=False))
        short = next((name for name in ("id", "instruction", "input", "output") if name not in found), None)
        if short is not None:
            raise ReviewError(f"{where}: ends before the column `{short}`; expected {len(names)} fields")
        values = {name: unguarded(found.get(name, "")) for name in NEEDED}
        yield line_of(where, values, any_breaks=True)


def _check_names(path: Path, names: list[str]) -> None:
    for name in NEEDED:
        if (count := names.count(name)) != 1:
            said = "is missing" if not count else "is there twice"
            raise ReviewError(f"{path}, row 1: column `{name}` {said}; expected {', '.join(NEEDED)}, each once")
