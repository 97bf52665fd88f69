"""Rows of a file: what a row is, where it stands, and how a broken one is said."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from pathlib import Path
from typing import Any

import pytest

from selfinstruct_hub import rows
from selfinstruct_hub.errors import FormatError, SeedError, SelfInstructError


def written(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "file"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("content", "array", "values", "places"),
    [
        ('{"a": 1}\n{"a": 2}\n', False, [{"a": 1}, {"a": 2}], ["line 1", "line 2"]),
        ('\n{"a": 1}\r\n \r\n{"a": 2}', False, [{"a": 1}, {"a": 2}], ["line 2", "line 4"]),
        ('\ufeff{"a": "é"}', False, [{"a": "é"}], ["line 1"]),
        ('{"a": "x\u2028y\x85z"}\n{"a": 2}', False, [{"a": "x\u2028y\x85z"}, {"a": 2}], ["line 1", "line 2"]),
        ('[{"a": 1}, {"a": 2}]', True, [{"a": 1}, {"a": 2}], ["row 1", "row 2"]),
        ('\ufeff \n [\n{"a": 1}\n]\n', True, [{"a": 1}], ["row 1"]),
        ("[]", True, [], []),
        ("[1]\n[2]", False, [[1], [2]], ["line 1", "line 2"]),
        ("", False, [], []),
        ("\ufeff\n \n", False, [], []),
        ("{}", False, [{}], ["line 1"]),
    ],
)
def test_rows_and_their_places(
    tmp_path: Path, content: str, array: bool, values: list[Any], places: list[str]
) -> None:
    file = rows.read(written(tmp_path, content), FormatError)
    assert file.array == array
    assert [row.value for row in file.rows] == values
    assert [row.place for row in file.rows] == places


@pytest.mark.parametrize("content", [b"", b'{"a": 1}\n', b'\xef\xbb\xbf[{"a": 1}]'])
def test_the_digest_is_that_of_the_bytes_that_were_read(tmp_path: Path, content: bytes) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(content,))
    writer.start()
    file = rows.read(pipe, FormatError)
    writer.join()
    assert file.sha256 == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("error", [FormatError, SeedError])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"a": 1}\n\xe9', ", line 2: not UTF-8 text; save the file as UTF-8"),
        (b"\xef\xbb\xbf\n\n\xe9", ", line 3: not UTF-8 text; save the file as UTF-8"),
        (
            '[{"a": 1},\n {"a": ]',
            ", line 2: not valid JSON (Expecting value at column 8); expected one array of objects",
        ),
        ("[" * 100_000, ": not an array of objects (a value in it cannot be read)"),
        ("[" + "9" * 5000 + "]", ": not an array of objects (a value in it cannot be read)"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(
    tmp_path: Path, content: str | bytes, said: str, error: type[SelfInstructError]
) -> None:
    path = written(tmp_path, content)
    with pytest.raises(error) as raised:
        rows.read(path, error)
    assert str(raised.value) == f"{path}{said}"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", ": not valid JSON (Expecting property name enclosed in double quotes at column 2); "
              "expected one object a line"),
        ("a,b", ": not valid JSON (Expecting value at column 1); expected one object a line"),
        ("9" * 5000, ": not a seed task (a value in it cannot be read)"),
        ('{"a": ' + "[" * 100_000, ": not a seed task (a value in it cannot be read)"),
        ("[1]", ": expected a JSON object, found a list"),
        ("null", ": expected a JSON object, found null"),
        ('"{}"', ": expected a JSON object, found a text"),
        ("1.5", ": expected a JSON object, found a number"),
        ("true", ": expected a JSON object, found true or false"),
    ],
)  # fmt: skip
def test_a_broken_line_is_a_broken_row(tmp_path: Path, line: str, said: str) -> None:
    path = written(tmp_path, f"{{}}\n{line}\n{{}}")
    good, bad, last = rows.read(path, SeedError, what="a seed task").rows
    assert good.fields(SeedError).values == last.fields(SeedError).values == {}
    with pytest.raises(SeedError) as raised:
        bad.fields(SeedError)
    assert str(raised.value) == f"{path}, line 2{said}"


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"nowhere: cannot be read \(No such file or directory\)"):
        rows.read(tmp_path / "nowhere", FormatError)
    with pytest.raises(FormatError, match=r"cannot be read \(Is a directory\)"):
        rows.read(tmp_path, FormatError)


FIELDS = rows.Fields(
    {"t": " x ", "n": 1.5, "l": ["y", {}], "o": {"k": 1}, "b": True, "z": None, "e": " ", "h": "a\ud800"},
    "f, line 3",
    FormatError,
)


def test_typed_fields() -> None:
    assert FIELDS.text("t") == " x "
    assert FIELDS.filled("t") == "x"
    assert FIELDS.text("e") == " "
    assert FIELDS.number("n") == 1.5
    assert FIELDS.listed("l") == ["y", {}]
    assert FIELDS.mapping("o") == {"k": 1}
    assert FIELDS.truth("b") is True


@pytest.mark.parametrize(
    ("method", "name", "said"),
    [
        ("text", "q", "f, line 3: field `q` is missing; expected a text"),
        ("text", "z", "f, line 3, field `z`: expected a text, found null"),
        ("text", "h", "f, line 3, field `h`: holds half a character (a lone surrogate); write the whole one"),
        ("filled", "e", "f, line 3, field `e`: empty; expected a text"),
        ("listed", "t", "f, line 3, field `t`: expected a list, found a text"),
        ("mapping", "l", "f, line 3, field `l`: expected an object, found a list"),
        ("number", "b", "f, line 3, field `b`: expected a number, found true or false"),
        ("number", "q", "f, line 3: field `q` is missing; expected a number"),
        ("truth", "n", "f, line 3, field `b`: expected true or false, found a number".replace("`b`", "`n`")),
        ("truth", "o", "f, line 3, field `o`: expected true or false, found an object"),
    ],
)
def test_a_wrong_field_is_named(method: str, name: str, said: str) -> None:
    with pytest.raises(FormatError) as raised:
        getattr(FIELDS, method)(name)
    assert str(raised.value) == said


def test_a_value_from_elsewhere() -> None:
    def value(of: Any) -> rows.Value:
        return rows.Value(of, "d, row 2, column `c`", SeedError)

    assert value(" x ").text() == " x "
    assert value(" x ").filled() == "x"
    assert value([]).of(list) == []
    assert [value(number).of(float) for number in (1, 1.5)] == [1, 1.5]
    for of, said in (
        (b"x", "expected a text, found a value of type bytes"),
        (None, "expected a text, found null"),
        (" ", "empty; expected a text"),
        ("\udfff", "holds half a character (a lone surrogate); write the whole one"),
    ):
        with pytest.raises(SeedError) as raised:
            value(of).filled()
        assert str(raised.value) == f"d, row 2, column `c`: {said}"


def test_fields_within_a_list(tmp_path: Path) -> None:
    with pytest.raises(
        FormatError, match=re.escape("field `l[0]`: expected an object with this and that, found a t")
    ):
        FIELDS.objects("l", "this and that")
    (inner,) = rows.Fields({"l": [{"a": 1}]}, "f, line 3", FormatError).objects("l", "a")
    with pytest.raises(FormatError, match=re.escape("f, line 3, field `l[0]`, field `a`: expected a text")):
        inner.text("a")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            r'{"a": {"b": ["\ud800"]}}',
            "f, field `a`: holds half a character (a lone surrogate); write the whole one",
        ),
        (r'{"\udc00\n": 1}', "f, field `??`: holds half a character (a lone surrogate); write the whole one"),
        ('{"a": [NaN]}', "f: holds NaN or Infinity, which are no JSON numbers"),
        ('{"a": 1e999}', "f: holds NaN or Infinity, which are no JSON numbers"),
    ],
)
def test_what_no_file_can_hold_is_refused(text: str, said: str) -> None:
    with pytest.raises(FormatError) as raised:
        rows.Fields(json.loads(text), "f", FormatError).check_writable()
    assert str(raised.value) == said


def test_a_whole_pair_of_surrogates_is_a_character() -> None:
    fields = rows.Fields(json.loads(r'{"a": "\ud83d\ude00"}'), "f", FormatError)
    fields.check_writable()
    assert fields.text("a") == "😀"
