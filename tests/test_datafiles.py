"""Rows of any file as a stream: what was read and kept is written as it stood, in every format."""

from __future__ import annotations

import csv
import decimal
import gzip
import io
import json
from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pytest
from pyarrow import parquet

from selfinstruct_hub import datafiles
from selfinstruct_hub.datafiles.outputs import Output, whole
from selfinstruct_hub.errors import DataFileError

ROWS = [
    {"instruction": "Name the longest river of South America.", "output": "The Amazon.", "n": 1},
    {"instruction": "Say “treaty” in one sentence;\u2028use states.", "output": 'A\nB, "C"', "n": 2},
    {"instruction": "写一首关于秋天的诗。", "output": "", "n": 3},
    {"instruction": "Count the vowels, please", "output": "naïve 🙂", "n": 4},
]


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def copied(path: Path, out: Path, keep: Callable[[int], bool] = lambda number: True, size: int = 3) -> Path:
    """`path` written to `out` with the rows that `keep` says, by their number in the whole."""
    data = datafiles.open_data(path)
    output = Output(out, folder=data.folder)
    number = 0
    with whole([output]):
        for part in data.parts:
            with output.stream(part.relative) as stream, part.written(stream) as write:
                for batch in part.batches(size):
                    write(batch, [at for at in range(len(batch.places)) if keep(number + at)])
                    number += len(batch.places)
        data.finish(output.unfinished)
    return out


def placed(path: Path, *columns: str) -> list[tuple[str, str]]:
    return list(datafiles.texts(path, columns))


def lines(rows: Sequence[Any]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


# Text: byte for byte.

LINE = [line for line in lines(ROWS).split(b"\n") if line]
TABLE = b'id,instruction\n1,"Say it,\nthen ""quote"" it"\n2, plain \n3,\xe8\xaf\x97\n'


@pytest.mark.parametrize(
    ("name", "content", "rows", "second"),
    [
        ("plain.jsonl", lines(ROWS), 4, LINE[1] + b"\n"),
        ("marked.jsonl", b"\xef\xbb\xbf" + lines(ROWS), 4, b"\xef\xbb\xbf" + LINE[1] + b"\n"),
        ("crlf.jsonl", b"\r\n".join(LINE), 4, LINE[1] + b"\r\n"),
        ("unended.jsonl", b"\n".join(LINE[:2]), 2, LINE[1]),
        ("odd.ndjson", b'{"a":1, "a":1e400,"instruction" : "x\\u0041"}\n{"instruction":"y"}\n', 2, None),
        ("named_otherwise.txt", lines(ROWS), 4, LINE[1] + b"\n"),
        ("lines_called.json", lines(ROWS), 4, LINE[1] + b"\n"),
        ("empty.jsonl", b"", 0, b""),
        ("compact.json", b"[" + b",".join(LINE) + b"]", 4, b"[" + LINE[1] + b"]"),
        ("indented.json", json.dumps(ROWS, indent=4).encode() + b"\n", 4, None),
        ("marked.json", b'\xef\xbb\xbf [\n{"instruction":"x"} ]\r\n', 1, b"\xef\xbb\xbf[ ]\r\n"),
        ("empty.json", b"[ ]\n", 0, b"[ ]\n"),
        ("plain.csv", TABLE, 3, b"id,instruction\n2, plain \n"),
        ("crlf.csv", TABLE.replace(b"\n", b"\r\n"), 3, b"id,instruction\r\n2, plain \r\n"),
        ("marked.csv", b"\xef\xbb\xbf" + TABLE, 3, None),
        ("unended.csv", TABLE[:-1], 3, None),
        ("tabs.tsv", b"instruction\tx\nSay, it\t1\nNo\t2\n", 2, b"instruction\tx\nNo\t2\n"),
        ("semicolons.csv", b"id;instruction\n1;Say, it\n2;No\n", 2, b"id;instruction\n2;No\n"),
        ("header.csv", b"id,instruction", 0, b"id,instruction"),
        ("long.csv", b"instruction\n" + b"w " * 100_000 + b"\nx\n", 2, b"instruction\nx\n"),
        ("quoted.csv", b'instruction\n"say ""it"""\n"no"\n', 2, b'instruction\n"no"\n'),
    ],
)
def test_text_is_kept_byte_for_byte(
    tmp_path: Path, name: str, content: bytes, rows: int, second: bytes | None
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    whole_copy = copied(path, tmp_path / "all").read_bytes()
    # White space before the first bracket is no row's.
    assert whole_copy == content.replace(b"\xbf [", b"\xbf[")
    assert len(placed(path)) == rows
    if second is not None:
        assert copied(path, tmp_path / "second", lambda number: number == 1).read_bytes() == second
    packed = tmp_path / f"{name}.gz"
    packed.write_bytes(gzip.compress(content))
    unpacked = gzip.decompress(copied(packed, tmp_path / "packed.gz").read_bytes())
    assert unpacked == whole_copy
    assert placed(packed) == placed(path)


def test_places_are_where_an_editor_shows_them(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n" + LINE[0] + b"\n\r\n" + LINE[1] + b"\n")
    assert [place for place, _ in placed(path)] == ["line 2", "line 4"]
    path = tmp_path / "a.csv"
    path.write_bytes(TABLE)
    assert placed(path) == [("line 2", 'Say it,\nthen "quote" it'), ("line 4", " plain "), ("line 5", "诗")]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(ROWS, indent=2), encoding="utf-8")
    assert placed(path, "output", "instruction")[:3] == [
        ("row 1", "The Amazon."),
        ("row 1", "Name the longest river of South America."),
        ("row 2", 'A\nB, "C"'),
    ]


def test_an_array_is_read_in_pieces_wherever_they_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = json.dumps([{**row, "more": [1.5e3, True, None, {"a": '\\"]},{'}]} for row in ROWS], indent=1)
    content = content.replace("naïve", "na\\u00efve")
    path = tmp_path / "a.json"
    path.write_text(content + "\n", encoding="utf-8")
    for size in (1, 2, 3, 7, 64):
        monkeypatch.setattr("selfinstruct_hub.datafiles.array._CHUNK", size)
        assert copied(path, tmp_path / f"{size}").read_bytes() == path.read_bytes()


def test_a_long_file_is_not_held(tmp_path: Path) -> None:
    """The most memory that reading takes, of files of 30 MB."""
    import tracemalloc

    row = json.dumps({"instruction": "x" * 10_000})
    for name, first, joint, last in (("a.jsonl", "", "\n", "\n"), ("a.json", "[", ",\n", "]")):
        (tmp_path / name).write_text(first + joint.join([row] * 3000) + last, encoding="utf-8")
        part = datafiles.open_data(tmp_path / name).parts[0]
        tracemalloc.start()
        assert sum(len(batch.places) for batch in part.batches(50)) == 3000
        assert tracemalloc.get_traced_memory()[1] < 10e6
        tracemalloc.stop()


# Tables: types and metadata.

SCHEMA = pyarrow.schema(
    [
        pyarrow.field("instruction", pyarrow.string(), metadata={b"said": b"by us"}),
        ("when", pyarrow.timestamp("ns", tz="UTC")),
        ("picture", pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])),
        ("kind", pyarrow.dictionary(pyarrow.int32(), pyarrow.string())),
        ("price", pyarrow.decimal128(9, 2)),
        ("vector", pyarrow.list_(pyarrow.float32(), 2)),
        ("large", pyarrow.large_string()),
        ("took", pyarrow.duration("ms")),
        ("day", pyarrow.date32()),
        ("id", pyarrow.uuid()),
    ],
    metadata={b"ours": b"kept", b"huggingface": b'{"info": {}}'},
)


def table(count: int = 10) -> pyarrow.Table:
    return pyarrow.Table.from_pylist(
        [
            {
                "instruction": f"instruction {n}",
                "when": datetime(2024, 1, 1, tzinfo=timezone.utc) + timedelta(days=n),
                "picture": {"bytes": bytes([n % 256]), "path": None},
                "kind": "ab"[n % 2],
                "price": decimal.Decimal(n) / 4,
                "vector": [float("nan") if n == 3 else n / 2, 1.0],
                "large": "x" * n,
                "took": timedelta(seconds=n),
                "day": date(2024, 2, 1 + n % 28),
                "id": bytes(range(n % 200, n % 200 + 16)),
            }
            for n in range(count)
        ],
        schema=SCHEMA,
    )


def same(one: pyarrow.Table, other: pyarrow.Table) -> bool:
    """Equal, NaN to NaN."""
    return str(one.to_pylist()) == str(other.to_pylist()) and one.schema.equals(other.schema, check_metadata=True)


@pytest.mark.parametrize("compression", ["zstd", "gzip", "none", "lz4"])
def test_parquet_keeps_types_metadata_codec_and_row_groups(tmp_path: Path, compression: str) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(table(), path, compression=compression, row_group_size=4)
    out = copied(path, tmp_path / "all.parquet")
    assert same(parquet.read_table(out), parquet.read_table(path))
    assert parquet.read_table(out).schema.metadata == SCHEMA.metadata
    before, after = parquet.ParquetFile(path).metadata, parquet.ParquetFile(out).metadata
    assert after.row_group(0).column(0).compression == before.row_group(0).column(0).compression
    some = copied(path, tmp_path / "some.parquet", lambda number: number % 3 > 0)
    assert same(parquet.read_table(some), parquet.read_table(path).filter([n % 3 > 0 for n in range(10)]))
    none = copied(path, tmp_path / "none.parquet", lambda number: False)
    assert same(parquet.read_table(none), parquet.read_table(path).slice(0, 0))
    assert placed(path)[9] == ("row 10", "instruction 9")


def test_parquet_of_older_writers_keeps_its_schema(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(table(), path, use_compliant_nested_type=False)
    out = copied(path, tmp_path / "out.parquet")
    assert parquet.ParquetFile(out).schema.equals(parquet.ParquetFile(path).schema)


def test_parquet_of_pandas_is_read_by_pandas(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"instruction": ["a", "b", "c"]})
    frame.to_parquet(tmp_path / "a.parquet")
    out = copied(tmp_path / "a.parquet", tmp_path / "out.parquet", lambda number: number != 1)
    assert pandas.read_parquet(out)["instruction"].tolist() == ["a", "c"]


FEATURES = datasets.Features(
    {
        "instruction": datasets.Value("string"),
        "label": datasets.ClassLabel(names=["no", "yes"]),
        "turns": datasets.List({"role": datasets.Value("string"), "content": datasets.Value("string")}),
        "grid": datasets.Array2D((2, 2), "int32"),
    }
)


def dataset(count: int = 7, split: str | None = None) -> Any:
    return datasets.Dataset.from_list(
        [
            {
                "instruction": f"{split} {n}",
                "label": n % 2,
                "turns": [{"role": "user", "content": str(n)}],
                "grid": [[n, 1], [2, 3]],
            }
            for n in range(count)
        ],
        features=FEATURES,
        split=split,
    )


@pytest.mark.parametrize("shards", [1, 3])
def test_a_saved_dataset_stays_one(tmp_path: Path, shards: int) -> None:
    dataset(split="train").with_format("numpy", columns=["label"]).save_to_disk(tmp_path / "d", num_shards=shards)
    before = datasets.load_from_disk(str(tmp_path / "d"))
    out = copied(tmp_path / "d", tmp_path / "out", lambda number: number % 2 == 1, size=2)
    after = datasets.load_from_disk(str(out))
    assert after.features == FEATURES
    assert after.format == before.format
    assert (after.split, after.info.description) == (before.split, before.info.description)
    assert after.with_format(None).to_list() == before.with_format(None).select([1, 3, 5]).to_list()
    assert after._fingerprint != before._fingerprint
    assert placed(tmp_path / "d")[3] == ("row 4", "train 3")
    assert len(datasets.load_from_disk(str(copied(out, tmp_path / "none", lambda number: False)))) == 0


def test_a_dataset_dict_keeps_splits_and_their_order(tmp_path: Path) -> None:
    splits = {name: dataset(3, name) for name in ("train", "test", "extra")}
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "d"))
    assert [place for place, _ in placed(tmp_path / "d", "instruction")][2:4] == ["train, row 3", "test, row 1"]
    out = datasets.load_from_disk(str(copied(tmp_path / "d", tmp_path / "out", lambda n: n not in (0, 5))))
    assert list(out) == ["train", "test", "extra"]
    assert [row["instruction"] for split in out.values() for row in split] == [
        *("train 1", "train 2", "test 0", "test 1", "extra 0", "extra 1", "extra 2")
    ]
    assert out["test"].features == FEATURES


def test_a_folder_of_shards_keeps_their_names(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    (folder / "data").mkdir(parents=True)
    (folder / ".git").mkdir()
    for name in ("test-00000", "train-00000", "train-00001"):
        parquet.write_table(table(2), folder / "data" / f"{name}-of-00002.parquet")
    (folder / "README.md").write_text("A card with counts.", encoding="utf-8")
    (folder / "manifest.json").write_text("{}", encoding="utf-8")
    (folder / ".git" / "x.jsonl").write_text("{}", encoding="utf-8")
    # Training rows come first, whatever the alphabet says.
    assert [place for place, _ in placed(folder)] == [
        f"data/{name}-of-00002.parquet, row {row}"
        for name in ("train-00000", "train-00001", "test-00000")
        for row in (1, 2)
    ]
    out = copied(folder, tmp_path / "out", lambda number: number not in (2, 3, 4))
    found = {file.relative_to(out).as_posix(): parquet.read_table(file).num_rows for file in out.rglob("*.*")}
    assert found == {
        f"data/{n}.parquet": rows
        for n, rows in (("train-00000-of-00002", 2), ("train-00001-of-00002", 0), ("test-00000-of-00002", 1))
    }


# Which column, and what of it.


@pytest.mark.parametrize(
    ("row", "columns", "expected"),
    [
        ({"text": "t", "question": "q", "id": "i"}, (), "q"),
        ({"text": "t", "question": "q"}, ("text",), "t"),
        ({"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]}, (), "u"),
        ({"conversations": [{"from": "human", "value": "h"}, {"from": "gpt", "value": "g"}]}, (), "h"),
        ({"prompt": [{"role": "user", "content": [{"type": "text", "text": "p"}, {"type": "image"}]}]}, (), "p"),
        ({"instruction": None, "input": "x"}, (), None),
        ({"instruction": " \n", "input": "x"}, (), None),
    ],
)
def test_texts_of_a_row(tmp_path: Path, row: Any, columns: tuple[str, ...], expected: str | None) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines([row]))
    assert [text for _, text in placed(path, *columns)] == ([expected] if expected else [])


def test_messages_of_a_table(tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": "u"}]}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert placed(tmp_path / "a.parquet") == [("row 1", "u")]


def test_a_field_that_some_rows_have_not_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines([{"question": "q"}, {"question": "r", "hint": "h"}]))
    assert placed(path, "question", "hint") == [("line 1", "q"), ("line 2", "r"), ("line 2", "h")]


def test_standard_input_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(lines(ROWS)))))
    assert len(placed(Path("-"))) == 4
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(gzip.compress(lines(ROWS))))))
    assert len(placed(Path("-"))) == 4


# Mistakes: one line.

EXPECTED = "expected JSON Lines, a JSON array, CSV, TSV, Parquet, or a folder of such files or of save_to_disk"
IT_HAS = "it has: "


@pytest.mark.parametrize(
    ("name", "content", "columns", "message"),
    [
        ("a.jsonl", None, (), "{p}: cannot be read (No such file or directory)"),
        ("a.xyz", b"hello", (), f"{{p}}: {EXPECTED}; a file's extension or its first bytes say which"),
        (
            *("a.jsonl", b'{"a": 1}\n{"a": \n', ("a",)),
            "{p}, line 1, field `a`: expected a text, found a number",
        ),
        (
            *("a.jsonl", b'{"a": "1"}\n{"a": \n', ("a",)),
            "{p}, line 2: not valid JSON (Expecting value at column 1); expected one object a line",
        ),
        ("a.jsonl", b'"x"\n', (), "{p}, line 1: expected a JSON object, found a text"),
        ("a.jsonl", b'{"a": "\xe9"}\n', (), "{p}, line 1: not UTF-8 text; save the file as UTF-8"),
        ("a.jsonl", '{"a": "x"}\n'.encode("utf-16"), (), "{p}, line 1: not UTF-8 text; save the file as UTF-8"),
        (
            *("a.jsonl", b'{"question": "x", "id": "1"}\n', ("qestion",)),
            "{p}: no column `qestion`; did you mean `question`? it has: question, id",
        ),
        ("a.jsonl", b'{"id": "1"}\n', ("instruction",), "{p}: no column `instruction`; it has: id"),
        (
            *("a.jsonl", b'{"id": "1", "Q": "x"}\n', ()),
            f"{{p}}: no column is called {', '.join(datafiles.USUAL[:-1])} or {datafiles.USUAL[-1]}; name the one "
            "with the texts with --column; it has: id, Q",
        ),
        (
            *("a.jsonl", b'{"messages": [{"role": "assistant", "content": "x"}]}\n', ()),
            "{p}, line 1, field `messages`: expected a text or messages, found a list without a message of the "
            "user's",
        ),
        (
            *("a.json", b'[{"a": "1"}, 5]', ("a",)),
            "{p}, row 2: expected a JSON object, found a number",
        ),
        (
            *("a.json", b'[{"a": "1"} {"a": "2"}]', ("a",)),
            "{p}, row 1: not valid JSON (expected `,`); expected one array of objects",
        ),
        (
            *("a.json", b'[{"a": "1"}, {"a": "', ("a",)),
            "{p}, row 2: not valid JSON (Unterminated string starting at); expected one array of objects",
        ),
        ("a.json", b'[{"a": "1"}', ("a",), "{p}, row 1: not valid JSON (the file ends in the middle of it); "
         "expected one array of objects"),
        ("a.json", b'[{"a": "1"}] []', ("a",), "{p}: something follows behind the array; expected one array of "
         "objects"),
        ("a.json", b'[{"a": "\xe9"}]', ("a",), "{p}: not UTF-8 text; save the file as UTF-8"),
        ("a.csv", b"", (), "{p}: empty; expected a line of column names"),
        ("a.csv", b"instruction,b\nx,y,z\n", (), "{p}, line 2: 3 fields, but 2 columns; put fields with "
         "separators into quotes"),
        ("a.csv", b'a,b\nx,"y\nz\n', ("a",), "{p}, line 2: not valid CSV (a quotation mark is never closed)"),
        ("a.csv", b'a,b\nx,"y"z\n', ("a",), "{p}, line 2: not valid CSV (',' expected after '\"')"),
        ("a.csv", b"a,b\nx,y\rz,w\n", ("a",), "{p}, line 2: not valid CSV (new-line character seen in unquoted "
         "field)"),
        ("a.csv", b"a\nx\xe9\n", ("a",), "{p}, line 2: not UTF-8 text; save the file as UTF-8"),
        ("a.csv", "a\nx\n".encode("utf-16"), ("a",), "{p}, line 1: not UTF-8 text; save the file as UTF-8"),
        ("a.csv", b"instrction,b\nx,y\n", ("instruction",), "{p}: no column `instruction`; did you mean "
         "`instrction`? it has: instrction, b"),
        # Without the time: it would be part of the case's name.
        ("a.jsonl.gz", gzip.compress(lines(ROWS), mtime=0)[:-9], (), "{p}: cannot be read (Compressed file ended "
         "before the end-of-stream marker was reached)"),
        ("a.parquet.gz", gzip.compress(b"PAR1", mtime=0), (), "{p}: Parquet must be a file on disk, not a pipe "
         "and not gzipped"),
    ],
)  # fmt: skip
def test_mistakes(
    tmp_path: Path, name: str, content: bytes | None, columns: tuple[str, ...], message: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataFileError) as caught:
        placed(path, *columns)
    assert str(caught.value) == message.replace("{p}", str(path))
    assert caught.value.exit_code == 2


def test_a_field_that_takes_in_the_rest_of_the_file_is_found(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("selfinstruct_hub.datafiles.separated._LONGEST_FIELD", 1000)
    before = csv.field_size_limit()
    (tmp_path / "a.csv").write_text('a,b\nx,"y\n' + "z,z\n" * 1000, encoding="utf-8")
    with pytest.raises(DataFileError, match="line 2: not valid CSV \\(a quotation mark is never closed\\)"):
        placed(tmp_path / "a.csv", "a")
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda p: (p / "d").mkdir(), f"{{p}}/d: holds no data files; {EXPECTED}"),
        (lambda p: mixed(p / "d"), "{p}/d: holds CSV and JSON Lines files; name one of them"),
        (lambda p: broken_parquet(p / "d"), "{p}/d/a.parquet: cannot be read (Parquet"),
        (
            lambda p: saved_with(p / "d", _indices_data_files=[{"filename": "x"}]),
            "{p}/d: saved by a version of `datasets` before 2.0; load and save it again",
        ),
        (
            lambda p: saved_with(p / "d", _data_files=[{"filename": "../x"}]),
            "{p}/d/state.json, field `_data_files`: expected names; save the dataset again with `datasets`",
        ),
        (
            lambda p: saved_with(p / "d", _data_files=[{"filename": "gone.arrow"}]),
            "{p}/d/gone.arrow: cannot be read (",
        ),
        (lambda p: unlike(p / "d"), "{p}/d/b.jsonl: no column `instruction`; it has: other"),
    ],
)
def test_folders_that_cannot_be_read(tmp_path: Path, made: Callable[[Path], Any], message: str) -> None:
    made(tmp_path)
    with pytest.raises(DataFileError) as caught:
        placed(tmp_path / "d", "instruction")
    assert str(caught.value).startswith(message.replace("{p}", str(tmp_path)))
    assert "\n" not in str(caught.value)


def mixed(folder: Path) -> None:
    folder.mkdir()
    (folder / "a.csv").write_text("a\n", encoding="utf-8")
    (folder / "b.jsonl").write_text("{}\n", encoding="utf-8")


def broken_parquet(folder: Path) -> None:
    folder.mkdir()
    (folder / "a.parquet").write_bytes(b"PAR1 and nothing more PAR1")


def saved_with(folder: Path, **state: Any) -> None:
    dataset().save_to_disk(str(folder))
    found = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    (folder / "state.json").write_text(json.dumps({**found, **state}), encoding="utf-8")


def unlike(folder: Path) -> None:
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(lines(ROWS))
    (folder / "b.jsonl").write_bytes(lines([{"other": "x"}]))


# Outputs appear together or not at all.


@pytest.fixture
def two(tmp_path: Path) -> list[Output]:
    return [Output(tmp_path / "file"), Output(tmp_path / "folder", folder=True)]


def test_outputs_appear_together(tmp_path: Path, two: list[Output]) -> None:
    with whole(two):
        with two[0].stream() as out:
            out.write(b"x")
        with two[1].stream("a/b") as out:
            out.write(b"y")
        assert not (tmp_path / "file").exists()
    assert ((tmp_path / "file").read_bytes(), (tmp_path / "folder/a/b").read_bytes()) == (b"x", b"y")
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device"), ValueError])
def test_what_was_there_stays_where_it_comes_to_nothing(tmp_path: Path, two: list[Output], error: Any) -> None:
    (tmp_path / "file").write_bytes(b"before")
    (tmp_path / "folder").mkdir()

    def write() -> None:
        with whole(two):
            with two[1].stream("a") as out:
                out.write(b"y")
            raise error

    with pytest.raises(DataFileError if isinstance(error, OSError) else error) as caught:
        write()
    if isinstance(error, OSError):
        said = "cannot be written (No space left on device)"
        assert str(caught.value) == f"{tmp_path}/file, {tmp_path}/folder: {said}"
    assert (tmp_path / "file").read_bytes() == b"before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
