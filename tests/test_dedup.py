"""`dedup`: the verdicts of a plain rouge-score scan, rows that come out as they went in, and nothing half done."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from rich.console import Console
from rouge_score import rouge_scorer

from selfinstruct_hub import dedup as deduplication
from selfinstruct_hub import languages
from selfinstruct_hub.datafiles.held import Held
from selfinstruct_hub.dedup import CONTAMINATED, TOO_SIMILAR, dedup, novelty_gate
from selfinstruct_hub.dedup.dropped import Near, line
from selfinstruct_hub.errors import BadRowError, DataFileError
from selfinstruct_hub.show import DedupView, dedup_lines
from tests.support import tool

# The second is the first but for a word, the fourth the third but for a character; the last is new.
TEXTS = [
    "Name the three longest rivers of South America.",
    "Name the four longest rivers of South America.",
    "写一首关于秋天的诗，要押韵。",
    "写一首关于春天的诗，要押韵。",
    "Count the vowels in the given word.",
]
KEPT, GONE = [0, 2, 4], {1: 0, 3: 2}
ROWS = [
    {"id": n, "instruction": text, "output": f'a, "b"\n{n}', "more": {"x": [n, None]}}
    for n, text in enumerate(TEXTS)
]


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def command(
    *arguments: str | Path, into: Path | None = None, given: bytes = b""
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "120", "NO_COLOR": "1"}
    done = tool.run("dedup", *arguments, cwd=into or "/", given=given, environment=environment)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def jsonl(path: Path, rows: Iterable[Any]) -> Path:
    path.write_bytes(b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows))
    return path


def objects(path: Path) -> list[Any]:
    return [json.loads(row) for row in path.read_text(encoding="utf-8").split("\n") if row]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Each format: the same rows stay.


def as_jsonl(path: Path) -> Callable[[Path], list[Any]]:
    jsonl(path, ROWS)
    return objects


def as_json(path: Path) -> Callable[[Path], list[Any]]:
    path.write_text(json.dumps(ROWS, indent=1), encoding="utf-8")
    return lambda out: list(json.loads(out.read_text(encoding="utf-8")))


def as_csv(path: Path) -> Callable[[Path], list[Any]]:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*ROWS[0]])
        writer.writeheader()
        writer.writerows(ROWS)

    def read(out: Path) -> list[Any]:
        with out.open(newline="", encoding="utf-8") as file:
            rows: list[Any] = list(csv.DictReader(file))
        # eval: the texts of ours that Python made of numbers and objects
        return [{name: v if name in ("instruction", "output") else eval(v) for name, v in r.items()} for r in rows]

    return read


def as_parquet(path: Path) -> Callable[[Path], list[Any]]:
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    return lambda out: list(parquet.read_table(out).to_pylist())


def as_saved(path: Path) -> Callable[[Path], list[Any]]:
    datasets.Dataset.from_list(ROWS).save_to_disk(str(path))
    return lambda out: list(datasets.load_from_disk(str(out)).to_list())


def as_dict(path: Path) -> Callable[[Path], list[Any]]:
    whole = datasets.Dataset.from_list(ROWS)
    splits = {"train": whole.select(range(3)), "test": whole.select(range(3, 5))}
    datasets.DatasetDict(splits).save_to_disk(str(path))
    return lambda out: [row for split in datasets.load_from_disk(str(out)).values() for row in split.to_list()]


def as_shards(path: Path) -> Callable[[Path], list[Any]]:
    path.mkdir()
    jsonl(path / "train-0.jsonl", ROWS[:3])
    jsonl(path / "train-1.jsonl", ROWS[3:])
    return lambda out: objects(out / "train-0.jsonl") + objects(out / "train-1.jsonl")


@pytest.mark.parametrize(
    ("name", "written", "out", "neighbour"),
    [
        ("rows.jsonl", as_jsonl, "rows.kept.jsonl", ["line 1", "line 3"]),
        ("rows.v1.json", as_json, "rows.v1.kept.json", ["row 1", "row 3"]),
        ("rows.csv", as_csv, "rows.kept.csv", ["line 2", "line 6"]),
        ("rows.parquet", as_parquet, "rows.kept.parquet", ["row 1", "row 3"]),
        ("saved", as_saved, "saved.kept", ["row 1", "row 3"]),
        ("v1.0", as_dict, "v1.0.kept", ["train, row 1", "train, row 3"]),
        ("shards", as_shards, "shards.kept", ["train-0.jsonl, line 1", "train-0.jsonl, line 3"]),
    ],
)
def test_every_format_keeps_the_first(
    tmp_path: Path, name: str, written: Any, out: str, neighbour: list[str]
) -> None:
    read = written(tmp_path / name)
    result = dedup(tmp_path / name)
    assert (result.rows, result.kept, result.drops) == (5, 3, {TOO_SIMILAR: 2})
    assert result.out == tmp_path / out
    assert read(tmp_path / out) == [ROWS[n] for n in KEPT]
    dropped = objects(result.dropped)
    assert [row["neighbour"]["row"] for row in dropped] == neighbour
    for row, (number, near) in zip(dropped, GONE.items(), strict=True):
        assert (row["reason"], row["neighbour"]["file"]) == (TOO_SIMILAR, None)
        assert row["neighbour"]["instruction"] == TEXTS[near]
        assert row["score"] == reference(TEXTS[near], TEXTS[number])
        assert row["dropped"]["instruction"] == TEXTS[number]
        assert list(row["dropped"]) == [*ROWS[0]]
    # What was kept has no near-duplicates any more.
    again = dedup(tmp_path / out)
    assert (again.kept, again.drops) == (3, {})
    assert read(again.out) == [ROWS[n] for n in KEPT]


def test_bytes_of_lines_stay(tmp_path: Path) -> None:
    made = [json.dumps(row).replace(", ", " ,  ").encode() for row in ROWS]
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(made))
    result = dedup(tmp_path / "a.jsonl", out=tmp_path / "b")
    assert result.out.read_bytes() == b"\xef\xbb\xbf" + made[0] + b"\r\n" + made[2] + b"\r\n" + made[4]
    assert names(tmp_path) == ["a.jsonl", "b", "b.dropped.jsonl"]


# The verdicts.


class Ours:
    def tokenize(self, text: str) -> list[str]:
        return languages.tokens(text)


SCORER = rouge_scorer.RougeScorer(["rougeL"], tokenizer=Ours())


def reference(one: str, other: str) -> float:
    return float(SCORER.score(one, other)["rougeL"].fmeasure)


def scanned(texts: Sequence[str], others: Sequence[str], threshold: float) -> list[tuple[int, str, float]]:
    """What goes, why and with which score: every row against everything that it could be near to."""
    kept: list[str] = []
    gone = []
    for number, text in enumerate(texts):
        of_others = max((reference(other, text) for other in others), default=0.0)
        of_own = max((reference(other, text) for other in kept), default=0.0)
        if of_others > threshold:
            gone.append((number, CONTAMINATED, of_others))
        elif of_own > threshold:
            gone.append((number, TOO_SIMILAR, of_own))
        else:
            kept.append(text)
    return gone


words = st.sampled_from(
    ["write", "a", "poem", "the", "sea", "x", "诗", "写", "秋", "天", "Résumé", "2016.", "，", ""]
)
texts = st.builds(" ".join, st.lists(words, max_size=9))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(texts, max_size=12), st.lists(texts, max_size=3), st.sampled_from([0.0, 0.3, 0.5, 2 / 3, 0.7, 0.99])
)
def test_what_stays_is_what_a_plain_scan_keeps(
    tmp_path_factory: pytest.TempPathFactory, rows: list[str], others: list[str], threshold: float
) -> None:
    folder = tmp_path_factory.mktemp("scan")
    file = jsonl(folder / "a.jsonl", [{"instruction": text} for text in rows])
    other = jsonl(folder / "b.jsonl", [{"question": text} for text in others])
    result = dedup(file, against=[other], threshold=threshold)
    wanted = scanned(rows, others, threshold)
    found = [(int(row["row"].split()[1]) - 1, row["reason"], row["score"]) for row in objects(result.dropped)]
    assert found == wanted
    gone = {number for number, _, _ in wanted}
    assert objects(result.out) == [{"instruction": t} for n, t in enumerate(rows) if n not in gone]
    assert result.kept + sum(result.drops.values()) == result.rows == len(rows)


def test_batches_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = jsonl(
        tmp_path / "a.jsonl", [{"instruction": f"Tell me of number {n % 7} and of {n % 11}"} for n in range(99)]
    )
    outputs = set()
    for size in (1, 2, 5, 4096):
        monkeypatch.setattr(deduplication, "BATCH", size)
        result = dedup(file, out=tmp_path / str(size))
        outputs.add((result.out.read_bytes(), result.dropped.read_bytes()))
    assert len(outputs) == 1


def test_what_is_near_to_other_files_goes(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "a.jsonl", ROWS)
    bench = tmp_path / "bench.csv"
    bench.write_text("question\nName all six longest rivers of South America\n\n", encoding="utf-8")
    chat = jsonl(
        tmp_path / "chat.jsonl", [{"messages": [{"role": "user", "content": TEXTS[4]}]}, {"messages": None}]
    )
    result = dedup(file, against=[bench, chat])
    assert result.drops == {CONTAMINATED: 3, TOO_SIMILAR: 1}
    assert dict(result.against) == {str(bench): 1, str(chat): 1}
    near = [
        (row["row"], row["reason"], row["neighbour"]["file"], row["neighbour"]["row"])
        for row in objects(result.dropped)
    ]
    assert near == [
        ("line 1", CONTAMINATED, str(bench), "line 2"),
        ("line 2", CONTAMINATED, str(bench), "line 2"),
        ("line 4", TOO_SIMILAR, None, "line 3"),
        ("line 5", CONTAMINATED, str(chat), "line 1"),
    ]


def test_another_gate_can_be_handed_in(tmp_path: Path) -> None:
    made: list[float] = []

    def gate(threshold: float) -> deduplication.Gate:
        made.append(threshold)
        return novelty_gate(threshold)

    file = jsonl(tmp_path / "a.jsonl", ROWS)
    other = jsonl(tmp_path / "b.jsonl", ROWS[:1])
    assert dedup(file, against=[other], threshold=0.5, gate=gate).kept == 2
    assert made == [0.5, 0.5]
    assert [novelty_gate(t).mode for t in (0.4, 0.5, 0.9)] == ["full", "fast", "fast"]  # type: ignore[attr-defined]


@given(st.lists(st.tuples(st.text(), st.text(st.characters())), max_size=6))
def test_what_is_held_comes_back(pairs: list[tuple[str, str]]) -> None:
    held = Held()
    for place, text in [*pairs, ("line 1", "\ud800 诗")]:
        held.append(place, text)
    assert [held[number] for number in range(len(held))] == [*pairs, ("line 1", "\ud800 诗")]


def test_rows_without_a_letter_stay_and_are_told(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "a.jsonl", [{"text": "!"}, {"text": "!"}, {"text": ""}, {"text": "℡"}, {"text": "℡"}])
    result = dedup(file)
    assert (result.kept, result.tokenless, result.drops) == (4, 3, {TOO_SIMILAR: 1})
    assert any("3 kept rows have not one letter or digit in `text`" in line for line in dedup_lines(result))


def test_bad_rows_are_left_out_where_that_is_asked_for(tmp_path: Path) -> None:
    rows = [ROWS[0], {"instruction": None}, {"output": "x"}, {"instruction": 5}, ROWS[1]]
    file = jsonl(tmp_path / "a.jsonl", rows)
    with file.open("ab") as more:
        more.write(b"{broken\n[1]\n")
    result = dedup(file, skip_bad=True)
    assert (result.rows, result.kept, result.bad, result.drops) == (7, 1, 5, {TOO_SIMILAR: 1})
    assert list(result.bad_rows) == [
        f"{file}, line 2, field `instruction`: expected a text, found null",
        f"{file}, line 3, field `instruction`: is missing",
        f"{file}, line 4, field `instruction`: expected a text, found a number",
        f"{file}, line 6: not valid JSON (Expecting property name enclosed in double quotes at column 2); "
        "expected one object a line",
        f"{file}, line 7: expected a JSON object, found a list",
    ]
    assert "left out, bad  " in "\n".join(dedup_lines(result))
    with pytest.raises(BadRowError) as caught:
        dedup(file, out=tmp_path / "b.jsonl")
    assert str(caught.value) == (f"{result.bad_rows[0]}; mend the row, or leave out rows like it with --skip-bad")
    assert names(tmp_path) == ["a.jsonl", "a.kept.dropped.jsonl", "a.kept.jsonl"]


def test_values_that_json_has_not() -> None:
    row = {
        "b": b"\xff", "d": date(2024, 2, 1), "t": timedelta(seconds=1.5), "p": Decimal("1.10"),
        "nan": float("nan"), "inf": [float("inf"), {"x": -float("inf")}],
        "half": "\ud800", "no": None, "yes": True, "n": 2**70,
    }  # fmt: skip
    told = json.loads(line("row 1", TOO_SIMILAR, 0.75, Near(None, "row 0", "x"), row))
    assert told == {
        "row": "row 1",
        "reason": TOO_SIMILAR,
        "score": 0.75,
        "neighbour": {"file": None, "row": "row 0", "instruction": "x"},
        "dropped": {
            "b": {"base64": "/w=="}, "d": "2024-02-01", "t": 1.5, "p": "1.10", "nan": "NaN",
            "inf": ["Infinity", {"x": "-Infinity"}], "half": "\ud800", "no": None, "yes": True, "n": 2**70,
        },
    }  # fmt: skip


# At the terminal.


def test_the_summary(tmp_path: Path) -> None:
    jsonl(tmp_path / "a.jsonl", [*ROWS, {"instruction": None}])
    jsonl(tmp_path / "b.jsonl", [{"question": TEXTS[4]}])
    done = command("a.jsonl", "--against", "b.jsonl", "--skip-bad", "--language", "zh", into=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert re.fullmatch(r"\d+\.\d s, [\d,.]+ rows/(s|min)", lines.pop(6))
    assert lines == [
        "a.jsonl: JSON Lines, column `instruction`, 6 rows, threshold 0.7",
        "compared with b.jsonl (1 text)",
        "kept                   2   33.3%",
        "dropped, too_similar   2   33.3%",
        "dropped, contaminated  1   16.7%",
        "left out, bad          1   16.7%",
        "kept rows: a.kept.jsonl",
        "dropped rows, with reason, neighbour and score: a.kept.dropped.jsonl",
    ]
    assert done.stderr.splitlines() == [
        "left out: a.jsonl, line 6, field `instruction`: expected a text, found null",
        "warning: 3 of 5 instructions in `instruction` show nothing of the script of Chinese; is it the right "
        "column and language?",
    ]
    assert "\x1b" not in done.stdout + done.stderr


def test_standard_input_and_output(tmp_path: Path) -> None:
    content = b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)
    done = command("-", "--out", "-", "--json", "--language", "en", given=content, into=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [json.loads(row) for row in done.stdout.splitlines()] == [ROWS[n] for n in KEPT]
    summary = json.loads(done.stderr)
    assert summary.pop("seconds") >= 0
    assert summary.pop("rows_per_second") >= 0
    assert summary == {
        "file": "-", "kind": "JSON Lines", "column": "instruction", "threshold": 0.7, "rows": 5, "kept": 3,
        "dropped": {TOO_SIMILAR: 2}, "bad": 0, "without_tokens": 0, "against": {}, "out": "-",
        "dropped_file": "rows.dropped.jsonl",
    }  # fmt: skip
    assert names(tmp_path) == ["rows.dropped.jsonl"]


def test_a_reader_that_goes_away_is_no_mistake(tmp_path: Path) -> None:
    jsonl(
        tmp_path / "a.jsonl", [{"instruction": f"{n} {n * 7} {n * 11}", "output": "x" * 99} for n in range(9000)]
    )
    shell = f"{sys.executable} -m selfinstruct_hub dedup a.jsonl --out - 2>errors | head -1 >out"
    subprocess.run(["bash", "-c", shell], cwd=tmp_path, check=True)
    assert len(objects(tmp_path / "out")) == 1
    assert (tmp_path / "errors").read_bytes() == b""
    assert names(tmp_path) == ["a.jsonl", "errors", "out"]


def test_a_pipe_is_read_and_written(tmp_path: Path) -> None:
    jsonl(tmp_path / "a.jsonl", ROWS)
    shell = (
        f"{sys.executable} -m selfinstruct_hub dedup <(cat a.jsonl) --out "
        ">(cat > out; touch done) --json 2>errors; until [ -e done ]; do sleep 0.01; done; rm done"
    )
    subprocess.run(["bash", "-c", shell], cwd=tmp_path, check=True)
    assert objects(tmp_path / "out") == [ROWS[n] for n in KEPT]
    assert names(tmp_path) == ["a.jsonl", "errors", "out", "rows.dropped.jsonl"]


def test_progress_fits_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(written, "isatty", lambda: True)
    console = Console(file=written, force_terminal=True, width=80)
    monkeypatch.setattr("selfinstruct_hub.show.deduplication.console_of", lambda stream: console)
    clock = SimpleNamespace(monotonic=iter([0.0, 1800.0]).__next__)
    monkeypatch.setattr("selfinstruct_hub.show.deduplication.time", clock)
    with DedupView() as view:
        view.observe(deduplication.Progress(0, 0, 0, 4096, None))
        view._progress.refresh()
        view.observe(deduplication.Progress(1_000_000, 800_000, 200_000, 4096, 0.1))
        view.observe(deduplication.Progress(4_999_999, 3_800_000, 1_199_999, 4096, 0.5))
        view._progress.refresh()
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written.getvalue())
    assert "reading what to compare with: 4,096 texts" in shown
    assert "━ 4,999,999 rows, 1,199,999 dropped, 2,222 rows/s, 38 min left" in shown
    assert "…" not in shown


# Mistakes: one line, and nothing is written.


def folder_with_notes(path: Path) -> None:
    (path / "a.kept").mkdir()
    (path / "a.kept" / "notes.txt").write_text("mine", encoding="utf-8")
    (path / "a").mkdir()
    jsonl(path / "a" / "x.jsonl", ROWS)


MISTAKES: dict[str, tuple[Callable[[Path], Any], Sequence[str], int, str]] = {
    "no file": (lambda p: None, ["b.jsonl"], 2, "b.jsonl: cannot be read (No such file or directory)"),
    "no against": (
        *(lambda p: None, ["a.jsonl", "--against", "b.jsonl"], 2),
        "--against b.jsonl: there is no such file or folder",
    ),
    "against itself": (
        *(lambda p: None, ["a.jsonl", "--against", "./a.jsonl"], 2),
        "--against a.jsonl: is FILE itself, of which no row would stay; leave it out",
    ),
    "threshold": (
        *(lambda p: None, ["a.jsonl", "--threshold", "70"], 2),
        "--threshold: expected a number from 0 to below 1, such as 0.7, got '70'",
    ),
    "threshold that is no number": (
        *(lambda p: None, ["a.jsonl", "--threshold", "nan"], 2),
        "--threshold: expected a number from 0 to below 1, such as 0.7, got 'nan'",
    ),
    "no address": (
        *(lambda p: None, ["a.jsonl", "--ray", "here"], 2),
        "'here' is no address of a Ray cluster: expected local, auto, host:6379 or ray://host:10001",
    ),
    "nothing at the address": (
        *(lambda p: None, ["a.jsonl", "--workers", "2", "--ray", "127.0.0.1:1"], 1),
        "no Ray cluster answers at 127.0.0.1:1: [Errno 111] Connection refused",
    ),
    "threshold on a cluster": (
        *(lambda p: None, ["a.jsonl", "--threshold", "0.49", "--workers", "2"], 2),
        "--threshold 0.49: on a Ray cluster it must be 0.5 or more, because below that nearly everything has to "
        "be compared; raise it, or leave out --workers and --ray",
    ),
    "column": (
        *(lambda p: None, ["a.jsonl", "--column", "instuction"], 2),
        "a.jsonl: no column `instuction`; did you mean `instruction`? it has: id, instruction, output, more",
    ),
    "language": (
        *(lambda p: None, ["a.jsonl", "--language", "xx"], 2),
        f"--language: expected one of {', '.join(languages.known())}, got 'xx'; it decides only about a warning",
    ),
    "kept rows are there": (
        *(lambda p: (p / "a.kept.jsonl").touch(), ["a.jsonl"], 2),
        "a.kept.jsonl: exists already; name another place with --out, or overwrite it with --force",
    ),
    "dropped rows are there": (
        *(lambda p: (p / "b.dropped.jsonl").touch(), ["a.jsonl", "--out", "b.jsonl"], 2),
        "b.dropped.jsonl: exists already; name another place with --out, or overwrite it with --force",
    ),
    "a null": (
        *(lambda p: jsonl(p / "a.jsonl", [*ROWS, {"instruction": None}]), ["a.jsonl"], 1),
        "a.jsonl, line 6, field `instruction`: expected a text, found null; mend the row, or leave out rows like "
        "it with --skip-bad",
    ),
    "out is FILE": (
        *(lambda p: None, ["a.jsonl", "--out", "a.jsonl", "--force"], 2),
        "a.jsonl: is read, and cannot be written over; name another place with --out",
    ),
    "out is a link to FILE": (
        *(lambda p: (p / "link").hardlink_to(p / "a.jsonl"), ["a.jsonl", "--out", "link", "--force"], 2),
        "link: is read, and cannot be written over; name another place with --out",
    ),
    "out is an against file": (
        *(
            lambda p: jsonl(p / "b.jsonl", ROWS),
            ["a.jsonl", "--against", "b.jsonl", "--out", "b.jsonl", "--force"],
        ),
        *(2, "b.jsonl: is read, and cannot be written over; name another place with --out"),
    ),
    "dropped rows go to an against file": (
        lambda p: jsonl(p / "b.dropped.jsonl", ROWS),
        ["a.jsonl", "--against", "b.dropped.jsonl", "--out", "b.jsonl", "--force"],
        *(2, "b.dropped.jsonl: is read, and cannot be written over; name another place with --out"),
    ),
    "out in FILE": (
        *(lambda p: ((p / "d").mkdir(), jsonl(p / "d" / "x.jsonl", ROWS)), ["d", "--out", "d/kept"], 2),
        "d/kept: lies in what is read, or the other way round; name another place with --out",
    ),
    "out is a folder": (
        *(lambda p: (p / "d").mkdir(), ["a.jsonl", "--out", "d", "--force"], 2),
        "d: is a folder, and what is written is a file; name another with --out",
    ),
    "out without a folder": (
        *(lambda p: None, ["a.jsonl", "--out", "no/b.jsonl"], 2),
        "no/b.jsonl: cannot be written (there is no folder {p}/no)",
    ),
    "a folder of somebody": (
        *(folder_with_notes, ["a", "--force"], 2),
        "a.kept: holds notes.txt, which is no data, and --force would delete it; name another place with --out",
    ),
    "a folder through a pipe": (
        *(folder_with_notes, ["a", "--out", "-"], 2),
        "--out -: a folder cannot go through a pipe; name a place",
    ),
    "Parquet through a pipe": (
        lambda p: parquet.write_table(pyarrow.Table.from_pylist(ROWS), p / "x.parquet"),
        ["x.parquet", "--out", "-"],
        *(2, "--out -: Parquet cannot go through a pipe; name a place"),
    ),
    "another kind": (
        *(lambda p: None, ["a.jsonl", "--out", "b.csv"], 2),
        "--out b.csv: what is written is JSON Lines as FILE is; name it so",
    ),
    "gzipped by its name": (
        *(lambda p: None, ["a.jsonl", "--out", "b.jsonl.gz"], 2),
        "--out b.jsonl.gz: what is written is JSON Lines as FILE is; name it so",
    ),
    "a pipe without a place": (
        *(lambda p: None, ["-"], 2),
        "standard input: has no place beside it; name one with --out (-: standard output)",
    ),
    "disk full": (
        *(lambda p: None, ["a.jsonl", "--out", "/dev/full"], 2),
        "a.dropped.jsonl, /dev/full: cannot be written (No space left on device)",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """In this process: a start of its own for each takes long."""
    from selfinstruct_hub.cli import main

    jsonl(tmp_path / "a.jsonl", ROWS)
    made, arguments, code, message = MISTAKES[name]
    made(tmp_path)
    before = [(path, path.stat().st_mtime_ns) for path in sorted(tmp_path.rglob("*"))]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["selfinstruct-hub", "dedup", *arguments])
    monkeypatch.setattr("selfinstruct_hub.cli.output.open_output", lambda: None)
    with pytest.raises(SystemExit) as ended:
        main()
    assert capfd.readouterr().err == f"error: {message.replace('{p}', str(tmp_path))}\n"
    assert ended.value.code == code
    assert [(path, path.stat().st_mtime_ns) for path in sorted(tmp_path.rglob("*"))] == before


def test_force_replaces_files_and_folders(tmp_path: Path) -> None:
    jsonl(tmp_path / "a.jsonl", ROWS)
    as_saved(tmp_path / "d")
    for name in ("a.jsonl", "d"):
        first = dedup(tmp_path / name, threshold=0.99)
        assert first.kept == 5
        with pytest.raises(DataFileError):
            dedup(tmp_path / name)
        assert dedup(tmp_path / name, overwrite=True).kept == 3
    assert len(datasets.load_from_disk(str(tmp_path / "d.kept"))) == 3
    assert len(objects(tmp_path / "a.kept.jsonl")) == 3
    assert len(names(tmp_path)) == 6


def test_a_link_stays_one(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "a.jsonl", ROWS)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "b.jsonl").symlink_to(tmp_path / "elsewhere" / "b.jsonl")
    dedup(file, out=tmp_path / "b.jsonl")
    assert (tmp_path / "b.jsonl").is_symlink()
    assert len(objects(tmp_path / "elsewhere" / "b.jsonl")) == 3


def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    child = subprocess.Popen(
        [sys.executable, "-m", "selfinstruct_hub", "dedup", str(pipe), "--out", str(tmp_path / "out.jsonl")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    with pipe.open("wb") as feed:
        for number in range(9000):
            feed.write(json.dumps({"instruction": f"row {number} of {number * 7}"}).encode() + b"\n")
        feed.flush()
        deadline = time.monotonic() + 60
        while len(names(tmp_path)) < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert names(tmp_path) == [".out.dropped.jsonl.unfinished", ".out.jsonl.unfinished", "pipe"]
        child.send_signal(signal.SIGINT)
        output, errors = child.communicate(timeout=120)
    assert (child.returncode, output, errors) == (130, "", "interrupted; nothing was written\n")
    assert names(tmp_path) == ["pipe"]
